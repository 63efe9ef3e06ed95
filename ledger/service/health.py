"""Whether commits can happen, and whether the clock can be believed: what /readyz asks, kept by the writer."""

from __future__ import annotations

import logging
import time
from typing import Final

from ledger.core.amounts import timestamp

JUMP_US: Final = 5_000_000
"""By how much the database's clock may differ from the time that has passed, before that counts as a jump."""
AHEAD_US: Final = 5_000_000
"""By how much a journal may be ahead of the clock; each decision takes some time."""
REMARK_SECONDS: Final = 3600.0
"""How long a jump is shown."""

log = logging.getLogger(__name__)


class Health:
    """What the writer has met. Its methods take a few arithmetic operations; any thread may call them."""

    def __init__(self) -> None:
        self.is_damaged = False
        self.is_failing = False
        self._offset_us: int | None = None
        self._remark, self._remarked_at = "", 0.0

    def committed(self) -> None:
        """Note a commit."""
        self.is_failing = False

    def failed(self, kind: str) -> None:
        """Note that a transaction failed. kind: as `ledger.store.failure_kind` returns it."""
        if kind == "damaged":
            self.is_damaged = True
        elif kind == "unavailable":
            self.is_failing = True

    def saw(self, clock_us: int, newest_us: int) -> None:
        """Compare the database's clock with the time that has passed since it was read before, and with the newest
        entry of the journals that are locked."""
        offset_us = clock_us - time.monotonic_ns() // 1000
        if self._offset_us is not None and abs(offset_us - self._offset_us) > JUMP_US:
            seconds = (offset_us - self._offset_us) / 1e6
            self._note(f"the database's clock jumped by {seconds:+.0f} seconds, to {timestamp(clock_us)[:19]}Z")
        self._offset_us = offset_us
        if newest_us > clock_us + AHEAD_US:
            ahead = (newest_us - clock_us) // 1_000_000
            self._note(
                f"a journal's newest entry is {ahead} seconds ahead of the database's clock; its next entries have that"
                " time until the clock is there",
                is_quiet=self.remark is not None,
            )

    @property
    def remark(self) -> str | None:
        """Return what was found about the clock in the last hour; None if nothing was."""
        return self._remark if self._remark and time.monotonic() - self._remarked_at < REMARK_SECONDS else None

    def _note(self, remark: str, *, is_quiet: bool = False) -> None:
        if not is_quiet:
            log.warning("%s. Times in journals never go back; check the machine's time service", remark)
            self._remark = remark
        self._remarked_at = time.monotonic()
