"""Verify an export, without database and network: bytes, chain, arithmetic, limits, states, and the signed head.

An export is JSON Lines. The first line is a header, the last one the head, and between them is the journal:

    {"format":"privacy-ledger-export","version":3,"tenant":{"id":…,"name":…},"dataset":{"id":…,"name":…},"keys":{…}}
    {"seq":1,"hash":"<64 hex digits>","entry":{…}}
    …
    {"head":{"seq":N,"hash":"<64 hex digits>","root":"<64 hex digits>","signature":"<a compact JWS>"}}

The text of `entry` is the entry's canonical form, byte for byte, and `hash` is its SHA-256. `root` is the Merkle root
over the hashes, and `signature` is all of that, signed by one of `keys`. If an entry names its request by its digest,
because the request is in another dataset's journal, then `{"request":{…}}` is in the line before it. Without that line,
everything is checked except what the request decides. Version 2 had no such lines; version 1 had no keys, root and
signature. `docs/reference/export.md` has all that is needed to write another verifier.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from ledger.core.entries import Sealed
from ledger.core.journal import replay
from ledger.core.journal.chain import digest
from ledger.core.journal.policy import demand_policy
from ledger.core.journal.replay import Replayed
from ledger.core.journal.tenant import ReplayedTenant, replay_tenant
from ledger.errors import InvalidRequest, JournalBroken
from ledger.verifier.export import ENTRY, LINE_LENGTH_MAX, VERSION, Line, parsed_head, parsed_header, request_of
from ledger.verifier.heads import Head
from ledger.verifier.statements import JournalId, kid_of
from ledger.verifier.witness import Witnesses

if TYPE_CHECKING:
    from ledger.verifier.jws import PublicKeys

_HALVES: Final = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Vouched:
    """The evidence for an export beyond its own arithmetic. kid: of the key that signed its head; None in version 1,
    which has no signature. is_trusted: the key is not from the export itself. heads, receipts, earlier: how many heads,
    receipts and entries of an earlier export it contains."""

    root: bytes
    kid: str | None
    is_trusted: bool
    heads: int
    receipts: int
    earlier: int


@dataclass(frozen=True, slots=True)
class Verified:
    """A verified export of a dataset's journal."""

    tenant: str
    dataset: str
    journal: Replayed
    vouched: Vouched


@dataclass(frozen=True, slots=True)
class VerifiedTenant:
    """A verified export of a tenant's own journal."""

    tenant_id: UUID
    tenant: str
    journal: ReplayedTenant
    vouched: Vouched


# --- verification ----------------------------------------------------------------------------------------------------


def verify(
    lines: Iterable[str],
    *,
    keys: PublicKeys | None = None,
    witnesses: Witnesses | None = None,
    earlier: Iterable[str] | None = None,
    tenant: Iterable[str] | None = None,
) -> Verified | VerifiedTenant:
    """Verify an export, line by line. Only the state and costs of each run are kept in memory.

    keys: one of them must have signed the head. Without keys, those in the export are used: that proves that it is not
    damaged, but not who made it. witnesses: receipts and heads that it must contain. earlier: the lines of an earlier
    export with whose entries it must begin. tenant: the lines of an export of the tenant's own journal, whose policy
    says when two people were needed.

    Raises JournalBroken with the first `seq` that is wrong or missing (0 for the header), and InvalidRequest if one of
    the others is about another journal, or is invalid itself.
    """
    policy = None if tenant is None else _policy(tenant, keys)
    source = _Lines(iter(lines))
    about = source.header()
    journal_id: JournalId = UUID(about["tenant"]["id"]), UUID(about["dataset"]["id"]) if "dataset" in about else None
    held = witnesses or Witnesses()
    held.demand_only(journal_id)
    comparison = held.compare(journal_id, earlier=() if earlier is None else _hashes_of(earlier, journal_id))
    entries = comparison.over(source.entries())
    replayed: Replayed | ReplayedTenant
    if journal_id[1] is None:
        replayed = replay_tenant(entries, tenant_id=journal_id[0])
    else:
        name = about["dataset"]["name"]
        replayed = replay.replay(entries, tenant_id=journal_id[0], dataset_id=journal_id[1], name=name)
    source.demand_head(replayed)
    comparison.finish()
    kid = source.demand_signature(about, comparison.root, keys)
    vouched = Vouched(comparison.root, kid, keys is not None, comparison.heads, comparison.receipts, comparison.earlier)
    if isinstance(replayed, ReplayedTenant):
        if policy is not None:
            raise InvalidRequest("tenant: applies only to an export of a dataset's journal", field="tenant")
        return VerifiedTenant(journal_id[0], about["tenant"]["name"], replayed, vouched)
    if replayed.seq == 0:
        raise JournalBroken("is missing: the journal has no entries", seq=1)
    if policy is not None:
        policy.demand_two(journal_id, replayed)
    return Verified(about["tenant"]["name"], about["dataset"]["name"], replayed, vouched)


def lines_of(lines: Iterable[str]) -> tuple[tuple[UUID, UUID], list[Line]]:
    """Return the tenant's and the dataset's id, and the entries, of an export of a dataset that was verified."""
    source = iter(lines)
    about = parsed_header(next(source))
    read: list[Line] = []
    request: str | None = None
    for text in source:
        line = text.removesuffix("\n")
        if (of_next := request_of(line)) is not None:
            request = of_next
        elif (match := ENTRY.fullmatch(line)) is not None:
            read.append(Line(int(match[1]), match[3], bytes.fromhex(match[2]), request))
            request = None
    return (UUID(about["tenant"]["id"]), UUID(about["dataset"]["id"])), read


@dataclass(frozen=True, slots=True)
class _Policy:
    """The policies in a tenant's own journal."""

    tenant_id: UUID
    journal: ReplayedTenant

    def demand_two(self, journal_id: JournalId, replayed: Replayed) -> None:
        """Check that two people did what needed two at the time. Raises JournalBroken, and InvalidRequest for another
        tenant's journal."""
        if journal_id[0] != self.tenant_id:
            raise InvalidRequest("tenant: is an export of another tenant's own journal", field="tenant")
        demand_policy(self.journal.policies, replayed.loosenings)


def _policy(lines: Iterable[str], keys: PublicKeys | None) -> _Policy:
    try:
        verified = verify(lines, keys=keys)
    except JournalBroken as error:
        raise InvalidRequest(f"tenant: does not verify itself: {error.detail}", field="tenant") from None
    if not isinstance(verified, VerifiedTenant):
        raise InvalidRequest("tenant: is not an export of the tenant's own journal", field="tenant")
    return _Policy(verified.tenant_id, verified.journal)


def _hashes_of(lines: Iterable[str], journal_id: JournalId) -> Iterator[tuple[int, str]]:
    """Yield the numbers and hashes of an earlier export. Raises InvalidRequest if it is of another journal, or if an
    entry does not have its hash."""
    source = iter(lines)
    try:
        about = _Lines(source).header()
    except JournalBroken as error:
        raise InvalidRequest(f"earlier: is not an export: {error.detail}", field="earlier") from None
    if journal_id != (UUID(about["tenant"]["id"]), UUID(about["dataset"]["id"]) if "dataset" in about else None):
        raise InvalidRequest("earlier: is an export of another journal", field="earlier")
    for seq, line in enumerate((line for line in chain(source, [""]) if request_of(line) is None), start=1):
        if line.startswith('{"head":'):
            return
        match = ENTRY.fullmatch(line.removesuffix("\n"))
        if match is None or int(match[1]) != seq or digest(match[3]).hex() != match[2]:
            raise InvalidRequest(
                f"earlier: does not verify itself at entry {seq}. Verify it first: privacy-ledger verify FILE",
                field="earlier",
            )
        yield seq, match[2]


class _Lines:
    """Read an export two lines ahead, to compare an entry with those after it."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._head: dict[str, Any] | None = None
        self._newest, self._version = "", VERSION
        self._read = 0
        self._broken: JournalBroken | None = None

    def header(self) -> dict[str, Any]:
        try:
            about = parsed_header(next(self._lines))
        except (StopIteration, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise JournalBroken("the header is missing or cannot be read", seq=0) from None
        self._version = about["version"]
        return about

    def entries(self) -> Iterator[Sealed]:
        """Yield the entries for `replay`, and find here an entry that was changed and given a new hash.

        Such an entry has the right hash, but the next one, which is intact and followed by its own next, does not
        follow it. If the next one is not followed either, then that one was changed, and `replay` finds it.
        Raises JournalBroken.
        """
        line, after = self._next(), self._next()
        while line is not None:
            beyond = self._next() if after is not None else None
            if after is not None and line.is_intact and after.is_intact and not after.follows(line):
                is_followed = beyond.follows(after) if beyond is not None else self._is_head(after)
                if is_followed:
                    raise JournalBroken("is not the one that the entry after it follows", seq=line.seq)
            self._newest = line.body
            yield line.sealed
            line, after = after, beyond
        if self._broken is not None:
            raise self._broken

    def _is_head(self, line: Line) -> bool:
        return self._head is not None and self._head["hash"] == line.hash.hex()

    def _next(self) -> Line | None:
        """Return the next entry; None at the head, or if it cannot be read: the entries before it are checked first."""
        if self._head is not None or self._broken is not None:
            return None
        try:
            return self._parsed()
        except JournalBroken as error:
            self._broken = error
            return None

    def _parsed(self) -> Line | None:
        seq = self._read + 1
        text = next(self._lines, None)
        if text is None:
            raise JournalBroken("is missing, or the head that ends an export is", seq=seq)
        text = text.removesuffix("\n")
        request = request_of(text) if self._version > 2 else None
        if request is not None:
            text = next(self._lines, "").removesuffix("\n")
        if text.startswith('{"head":') and request is None:
            self._head = parsed_head(text, self._version, seq)
            return None
        # Half a surrogate pair represents bytes that were not UTF-8, and cannot be encoded.
        is_text = all(len(part) <= LINE_LENGTH_MAX and _HALVES.search(part) is None for part in (text, request or ""))
        match = ENTRY.fullmatch(text) if is_text else None
        if match is None:
            raise JournalBroken("cannot be read", seq=seq)
        if int(match[1]) != seq:
            raise JournalBroken(f"is missing: number {match[1]} is in its place", seq=seq)
        self._read = seq
        return Line(seq, match[3], bytes.fromhex(match[2]), request)

    def demand_head(self, replayed: Replayed | ReplayedTenant) -> None:
        head = self._head
        if head is None:
            raise JournalBroken("is missing, or the head that ends an export is", seq=replayed.seq + 1)
        if head["seq"] > replayed.seq:
            raise JournalBroken(f"is missing: the head has {head['seq']} entries", seq=replayed.seq + 1)
        if head["seq"] < replayed.seq:
            raise JournalBroken(f"is one too many: the head has {head['seq']} entries", seq=head["seq"] + 1)
        if head["hash"] != replayed.head.hex():
            raise JournalBroken("is not the one that the head names", seq=replayed.seq)
        if next(self._lines, None) is not None:
            raise JournalBroken("comes after the head", seq=replayed.seq + 1)

    def demand_signature(self, about: Mapping[str, Any], root: bytes, keys: PublicKeys | None) -> str | None:
        """Return the kid of the key that signed the head, after comparing the head. Raises JournalBroken."""
        head = self._head or {}
        seq = head["seq"]
        if about["version"] == 1:
            if keys is not None:
                raise JournalBroken("ends an export of version 1, whose head is not signed", seq=seq)
            return None
        if head["root"] != root.hex():
            raise JournalBroken("ends a journal with another Merkle root than the head has", seq=seq)
        if head["signature"] is None:
            raise JournalBroken("is the last one, and the ledger did not sign this head", seq=seq)
        stated, kid = _signed(head["signature"], about, keys, seq)
        tenant = UUID(about["tenant"]["id"]), about["tenant"]["name"]
        dataset = (UUID(about["dataset"]["id"]), about["dataset"]["name"]) if "dataset" in about else None
        at = json.loads(self._newest)["at"] if seq else None
        hash_ = bytes.fromhex(head["hash"])
        expected = Head.of(tenant, dataset, seq=seq, hash_=hash_, root=root, at=at).payload()
        if any(stated.get(part) != expected.get(part) for part in ("tenant", "dataset")):
            raise JournalBroken("the header names another journal than the head's signature does", seq=0)
        if stated != expected:
            raise JournalBroken("is the last one, and the head's signature is that of another head", seq=seq)
        return kid


def _signed(token: str, about: Mapping[str, Any], keys: PublicKeys | None, seq: int) -> tuple[dict[str, Any], str]:
    """Return the signed head and the kid of its key. Raises JournalBroken."""
    from ledger.verifier import jws

    try:
        known = jws.PublicKeys.of(about.get("keys"))
    except jws.SignatureInvalid as error:
        raise JournalBroken(f"the header has no keys to verify with: {error.detail}", seq=0) from None
    try:
        return jws.read(token, keys=keys or known, typ=jws.HEAD), kid_of(token)
    except jws.SignatureInvalid as error:
        raise JournalBroken(
            f"is the last one, and its head's signature does not verify: {error.detail}", seq=seq
        ) from None
