"""An export read twice: once to verify it, once for what it says. Nothing is worked out from what does not hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from ledger.core.entries import NO_HASH, Sealed
from ledger.core.journal import chain, requested
from ledger.errors import InvalidRequest, JournalBroken
from ledger.verifier import verify
from ledger.verifier.export import request_of
from ledger.verifier.verify import Verified

_ENTRY: Final = '"entry":'


@dataclass(frozen=True, slots=True)
class Export:
    """A dataset's export that holds. lines: can be iterated over again, and are then the same."""

    verified: Verified
    lines: Iterable[str]

    def entries(self) -> Iterator[dict[str, Any]]:
        """The entries, oldest first. Raises JournalBroken where the file is not the one that was verified any more."""
        head, seq = NO_HASH, 0
        request: str | None = None
        for line in self.lines:
            if (stated := request_of(line)) is not None:
                request = stated
            if not line.startswith('{"seq":'):
                continue
            seq += 1
            body = line.rstrip("\r\n").partition(_ENTRY)[2][:-1]
            sealed = Sealed(body, chain.digest(body), request)
            entry, request = requested.parsed(sealed), None
            if entry["prev"] != head.hex():
                raise _changed(seq)
            if sealed.request is not None and entry.get("request_sha256") != chain.digest(sealed.request).hex():
                raise _changed(seq)
            head = sealed.hash
            yield entry
        if head != self.verified.journal.head:
            raise _changed(seq)


def _changed(seq: int) -> JournalBroken:
    return JournalBroken("is not what was verified: the file changed while it was read", seq=seq)


def opened(lines: Iterable[str]) -> Export:
    """Verifies an export of a dataset. Lines that can be read only once are kept in memory.

    Raises JournalBroken where it does not hold, InvalidRequest where it is a tenant's own journal, which has no costs.
    """
    kept = list(lines) if isinstance(lines, Iterator) else lines
    verified = verify.verify(kept)
    if not isinstance(verified, Verified):
        raise InvalidRequest("export: is a tenant's own journal, in which nothing costs anything", field="export")
    if verified.journal.withheld:
        names = ", ".join(sorted(verified.journal.withheld))
        what = f"export: leaves out requests that stand in the journal of {names}, and with them what was to be run."
        raise InvalidRequest(f"{what} Export {verified.dataset} anew: an export has them.", field="export")
    return Export(verified, kept)
