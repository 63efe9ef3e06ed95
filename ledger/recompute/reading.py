"""Read an export twice: once to verify it, once for its entries. Nothing is computed from one that does not verify."""

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
    """A verified export of a dataset. lines: can be iterated over repeatedly, with the same result."""

    verified: Verified
    lines: Iterable[str]

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield the entries, oldest first. Raises JournalBroken if the file changed since it was verified."""
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
    """Verify an export of a dataset. Lines that can be read only once are kept in memory.

    Raises JournalBroken if it does not verify, and InvalidRequest if it is a tenant's own journal, which has no costs.
    """
    kept = list(lines) if isinstance(lines, Iterator) else lines
    verified = verify.verify(kept)
    if not isinstance(verified, Verified):
        raise InvalidRequest(
            "export: is a tenant's own journal, which has no costs. Give the export of a dataset", field="export"
        )
    if verified.journal.withheld:
        names = ", ".join(sorted(verified.journal.withheld))
        what = f"export: has no copy of requests that are in the journal of {names}, so their mechanisms are missing."
        again = f"privacy-ledger export {verified.dataset} --output FILE"
        raise InvalidRequest(f"{what} Export it again, which adds them: {again}", field="export")
    return Export(verified, kept)
