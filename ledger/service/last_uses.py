"""When each key was used last: written now and then, not at every request."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Final
from uuid import UUID

from ledger.access.keys import Keyring
from ledger.background import Background
from ledger.errors import Overloaded
from ledger.service.writer import Writer
from ledger.store import Writing

EVERY_SECONDS: Final = 60.0


class LastUses:
    """Writes the last uses that a keyring knows."""

    def __init__(self, keyring: Keyring, writer: Writer, *, every_seconds: float = EVERY_SECONDS) -> None:
        self._keyring, self._writer = keyring, writer
        self._background = Background("last-uses", lambda _is_due: self.write(), every_seconds=every_seconds)

    def start(self) -> None:
        self._background.start()

    def close(self) -> None:
        """End the thread, and write what is known by now. Call it before the writer is closed."""
        self._background.close()
        self.write()

    def write(self) -> None:
        """Write what was not written before."""
        for tenant_id, uses in self._keyring.uses().items():
            try:
                self._writer.run(tenant_id, partial(_write, uses))
            except Overloaded:
                continue  # decisions come first; it is noted at the next use


def _write(uses: Mapping[UUID, int], writing: Writing) -> None:
    writing.keys.note_use(uses)
