"""Checking an export with no database and no network: bytes, chain, arithmetic, limits and states.

An export is JSON Lines. The first line is a header, the last one the head; between them stands the journal:

    {"format":"privacy-ledger-export","version":1,"tenant":{"id":…,"name":…},"dataset":{"id":…,"name":…}}
    {"seq":1,"hash":"<64 hex digits>","entry":{…}}
    …
    {"head":{"seq":N,"hash":"<64 hex digits>"}}

The text of `entry` is the entry's canonical form, byte for byte, and `hash` the SHA-256 of it. `docs/export.md` says
all that someone needs who writes a verifier of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from ledger import journal
from ledger.errors import JournalBroken
from ledger.journal import Replayed, ReplayedTenant

FORMAT: Final = "privacy-ledger-export"
VERSION: Final = 1
LINE_LENGTH_MAX: Final = 4 * 1024 * 1024
_ENTRY: Final = re.compile(r'\{"seq":([1-9][0-9]{0,18}),"hash":"([0-9a-f]{64})","entry":(\{.*\})\}', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Verified:
    """What an export that holds says."""

    tenant: str
    dataset: str
    journal: Replayed


@dataclass(frozen=True, slots=True)
class VerifiedTenant:
    """What an export of a tenant's own journal says that holds."""

    tenant: str
    journal: ReplayedTenant


def header(*, tenant_id: UUID, tenant: str, dataset_id: UUID | None = None, dataset: str = "") -> str:
    """An export's first line: of a dataset's journal, or of the tenant's own."""
    about: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "tenant": {"id": str(tenant_id), "name": tenant},
    }
    if dataset_id is not None:
        about["dataset"] = {"id": str(dataset_id), "name": dataset}
    return json.dumps(about, ensure_ascii=False, separators=(",", ":"))


def entry_line(*, seq: int, hash_: bytes, body: str) -> str:
    """One entry's line."""
    return f'{{"seq":{seq},"hash":"{hash_.hex()}","entry":{body}}}'


def head_line(*, seq: int, hash_: bytes) -> str:
    """An export's last line."""
    return f'{{"head":{{"seq":{seq},"hash":"{hash_.hex()}"}}}}'


def verify(lines: Iterable[str]) -> Verified | VerifiedTenant:
    """Checks an export, line by line; what is kept in memory is each run's state and cost.

    Raises JournalBroken, with the first `seq` that is wrong or missing; 0 stands for the header.
    """
    source = _Lines(iter(lines))
    about = source.header()
    tenant_id, tenant = UUID(about["tenant"]["id"]), about["tenant"]["name"]
    if "dataset" not in about:
        of_tenant = journal.replay_tenant(source.entries(), tenant_id=tenant_id)
        source.demand_head(of_tenant)
        return VerifiedTenant(tenant, of_tenant)
    found = journal.replay(source.entries(), tenant_id=tenant_id, dataset_id=UUID(about["dataset"]["id"]))
    source.demand_head(found)
    if found.seq == 0:
        raise JournalBroken("is missing: the journal has no entries", seq=1)
    return Verified(tenant, about["dataset"]["name"], found)


@dataclass(frozen=True, slots=True)
class _Line:
    """An entry as it stands in an export."""

    seq: int
    body: str
    hash: bytes

    @property
    def is_intact(self) -> bool:
        return journal.digest(self.body) == self.hash

    def follows(self, before: _Line) -> bool:
        try:
            return bool(json.loads(self.body)["prev"] == before.hash.hex())
        except (ValueError, TypeError, KeyError, RecursionError):
            return False


class _Lines:
    """Reads an export two lines ahead, so that an entry can be held against those after it."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._head: dict[str, Any] | None = None
        self._read = 0
        self._broken: JournalBroken | None = None

    def header(self) -> dict[str, Any]:
        try:
            about = json.loads(next(self._lines))
            known = (about["format"], about["version"]) == (FORMAT, VERSION)
            for part in ("tenant", "dataset") if "dataset" in about else ("tenant",):
                UUID(about[part]["id"]), str(about[part]["name"])
        except (StopIteration, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise JournalBroken("the header is missing or cannot be read", seq=0) from None
        if not known:
            raise JournalBroken(f"the format {about['format']!r} version {about['version']!r} is not known", seq=0)
        found: dict[str, Any] = about
        return found

    def entries(self) -> Iterator[tuple[str, bytes]]:
        """The entries as `replay` wants them, except that an entry which someone changed, and gave a new hash, is found
        here: its own hash is right, and the next one, which is intact itself and followed by its own next, does not
        follow it. Where the next one is not followed either, that is the one that was changed, and `replay` says so."""
        line, after = self._next(), self._next()
        while line is not None:
            beyond = self._next() if after is not None else None
            if after is not None and line.is_intact and after.is_intact and not after.follows(line):
                is_followed = beyond.follows(after) if beyond is not None else self._is_head(after)
                if is_followed:
                    raise JournalBroken("is not the one that the entry after it follows", seq=line.seq)
            yield line.body, line.hash
            line, after = after, beyond
        if self._broken is not None:
            raise self._broken

    def _is_head(self, line: _Line) -> bool:
        return self._head is not None and self._head["hash"] == line.hash.hex()

    def _next(self) -> _Line | None:
        """The next entry; None at the head, and where reading fails: what comes before is judged first."""
        if self._head is not None or self._broken is not None:
            return None
        try:
            return self._parsed()
        except JournalBroken as error:
            self._broken = error
            return None

    def _parsed(self) -> _Line | None:
        seq = self._read + 1
        text = next(self._lines, None)
        if text is None:
            raise JournalBroken("is missing, or the head that ends an export is", seq=seq)
        text = text.rstrip("\r\n")
        if text.startswith('{"head":'):
            self._head = _parsed_head(text, seq)
            return None
        found = _ENTRY.fullmatch(text) if len(text) <= LINE_LENGTH_MAX else None
        if found is None:
            raise JournalBroken("cannot be read", seq=seq)
        if int(found[1]) != seq:
            raise JournalBroken(f"is missing: number {found[1]} stands in its place", seq=seq)
        self._read = seq
        return _Line(seq, found[3], bytes.fromhex(found[2]))

    def demand_head(self, found: Replayed | ReplayedTenant) -> None:
        head = self._head
        if head is None:
            raise JournalBroken("is missing, or the head that ends an export is", seq=found.seq + 1)
        if head["seq"] > found.seq:
            raise JournalBroken(f"is missing: the head says that there are {head['seq']}", seq=found.seq + 1)
        if head["seq"] < found.seq:
            raise JournalBroken(f"is one too many: the head says that there are {head['seq']}", seq=head["seq"] + 1)
        if head["hash"] != found.head.hex():
            raise JournalBroken("is not the one that the head names", seq=found.seq)
        if next(self._lines, "").strip():
            raise JournalBroken("stands after the head", seq=found.seq + 1)


def _parsed_head(line: str, seq: int) -> dict[str, Any]:
    found = re.fullmatch(r'\{"head":\{"seq":([0-9]{1,19}),"hash":"([0-9a-f]{64})"\}\}', line)
    if found is None:
        raise JournalBroken("the head, which ends an export, cannot be read", seq=seq)
    return {"seq": int(found[1]), "hash": found[2]}
