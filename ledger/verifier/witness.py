"""Compare a journal with what an auditor kept: receipts, signed heads, and an earlier export.

Each of them names an entry by its number and its hash, and the hash chain ties that to everything before it. If the
entry differs or is missing, the journal has another history than the signed one; if it is the same, the history is the
same up to there. If a history was rewritten from some entry on, that entry is after the last kept item that still
agrees (`after` of JournalBroken) and not after the first that does not (its `seq`). An earlier export has every hash,
and shows the exact entry.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from ledger.core.entries import Sealed
from ledger.core.journal import chain, requested
from ledger.errors import InvalidRequest, JournalBroken
from ledger.verifier import heads
from ledger.verifier.merkle import CompactTree
from ledger.verifier.statements import JournalId, hash_of, journal_of, number_of, shaped

if TYPE_CHECKING:
    from ledger.verifier.jws import PublicKeys

TEXT_LENGTH_MAX: Final = 256 * 1024 * 1024
"""The longest file of receipts or heads, in characters."""
HELD_MAX: Final = 1_000_000
"""How many receipts and heads can be compared at once."""
_RUN: Final = re.compile(r'"run":"([0-9a-f-]{36})"')
_STATES: Final = {"held": "run-approved", "started": "run-started"}


@dataclass(frozen=True, slots=True)
class HeldHead:
    """A signed head: the newest entry, and the root over all entries. source: where it was read."""

    journal_id: JournalId
    seq: int
    hash: str
    root: str
    source: str


@dataclass(frozen=True, slots=True)
class HeldReceipt:
    """The part of a receipt about one dataset. decided: state, cost and mechanism digest of the run."""

    journal_id: JournalId
    seq: int
    hash: str
    run: str
    decided: tuple[str, Mapping[str, str], str]
    source: str


Held = HeldHead | HeldReceipt


@dataclass(slots=True)
class Witnesses:
    """All kept receipts and heads, by journal. names: the names of datasets and tenants in them."""

    held: dict[JournalId, list[Held]] = field(default_factory=dict)
    names: dict[JournalId, tuple[str, str | None]] = field(default_factory=dict)
    count: int = 0

    def add_heads(self, text: str, *, keys: PublicKeys, source: str) -> None:
        """Add signed heads: the JSON that the API returns, or one token per line. Raises SignatureInvalid if none of
        the keys signed one, and InvalidRequest if it cannot be read. source: its name in errors."""
        for token in tokens(text, "signature", source):
            head = heads.read(token, keys=keys, source=source)
            self._add(HeldHead(head.journal_id, head.seq, head.hash, head.root, source), head.names)

    def add_receipts(self, text: str, *, keys: PublicKeys, source: str) -> None:
        """Add receipts, in the same two forms. Raises as `add_heads` does."""
        from ledger.verifier import jws

        for token in tokens(text, "receipt", source):
            receipt = jws.read(token, keys=keys, typ=jws.RECEIPT)
            with shaped(source):
                decided = (str(receipt["state"]), dict(receipt["cost"]), str(receipt["mechanism"]["digest"]))
                for dataset in receipt["datasets"]:
                    journal_id, names = journal_of(receipt["tenant"], dataset)
                    seq, hash_ = number_of(dataset["seq"]), hash_of(dataset["hash"])
                    self._add(HeldReceipt(journal_id, seq, hash_, str(UUID(receipt["run"])), decided, source), names)

    def _add(self, held: Held, names: tuple[str, str | None]) -> None:
        if held.seq == 0:  # a journal without entries, with which every journal agrees
            return
        self.count += 1
        if self.count > HELD_MAX:
            raise InvalidRequest(f"there are more than {HELD_MAX} receipts and heads. Give fewer", field=held.source)
        self.names.setdefault(held.journal_id, names)
        self.held.setdefault(held.journal_id, []).append(held)

    def compare(self, journal_id: JournalId, *, earlier: Iterable[tuple[int, str]] = ()) -> Comparison:
        """Return what is kept about one journal. earlier: all numbers and hashes of an earlier export."""
        return Comparison(self.held.get(journal_id, ()), iter(earlier))

    def demand_only(self, journal_id: JournalId) -> None:
        """Raise InvalidRequest if a receipt or head is about another journal."""
        speaking = {held.source for held in self.held.get(journal_id, ())}
        for other in self.held.values():
            for held in other:
                if held.source not in speaking:
                    raise InvalidRequest(f"{held.source}: is of another journal", field=held.source)


class Comparison:
    """Compare a journal's entries, in order, with what is kept."""

    def __init__(self, held: Iterable[Held], earlier: Iterator[tuple[int, str]]) -> None:
        self._held: dict[int, list[Held]] = {}
        for statement in held:
            self._held.setdefault(statement.seq, []).append(statement)
        receipts = [held for ones in self._held.values() for held in ones if isinstance(held, HeldReceipt)]
        self._approvals: dict[str, tuple[Any, str | None] | None] = {receipt.run: None for receipt in receipts}
        self._earlier = earlier
        self._tree = CompactTree()
        self._agreed = 0
        self.heads = self.receipts = self.earlier = 0
        """Return how many of each were found in the journal; of an earlier export, how many entries."""

    def over(self, entries: Iterable[Sealed]) -> Iterator[Sealed]:
        """Yield the same entries. Each is compared after `replay` has checked it. Raises JournalBroken."""
        for sealed in entries:
            yield sealed
            self._tree.append(sealed.hash)
            self._see(self._tree.size, sealed)

    @property
    def root(self) -> bytes:
        """Return the Merkle root over the entries so far."""
        return self._tree.root()

    def _see(self, seq: int, sealed: Sealed) -> None:
        hash_ = sealed.hash.hex()
        self._compare(seq, hash_)
        if self._approvals:
            self._note_approval(sealed)
        for held in self._held.pop(seq, ()):
            if held.hash != hash_:
                raise JournalBroken(
                    f"is not the one that {held.source} names: the two histories part after entry {self._agreed}, and"
                    f" not after entry {seq}",
                    seq=seq,
                    after=self._agreed,
                )
            if isinstance(held, HeldReceipt):
                self._demand_run(held, sealed.body)
                self.receipts += 1
            elif held.root != self.root.hex():
                raise JournalBroken(f"ends a journal with another Merkle root than {held.source} has", seq=seq)
            else:
                self.heads += 1
            self._agreed = seq

    def finish(self) -> None:
        """Note the end of the journal. Raises JournalBroken if it once had more entries."""
        seq = self._tree.size
        gone = [held for ones in self._held.values() for held in ones]
        if gone:
            last = max(gone, key=lambda held: held.seq)
            missing = "" if last.seq == seq + 1 else f", so entries {seq + 1} to {last.seq} are missing"
            what = f"is missing: {last.source} names entry {last.seq}{missing}"
            raise JournalBroken(what, seq=seq + 1, after=self._agreed)
        if (left := next(self._earlier, None)) is not None:
            raise JournalBroken("is missing: the earlier export has it", seq=left[0], after=seq)

    def _compare(self, seq: int, hash_: str) -> None:
        before = next(self._earlier, None)
        if before is None:
            return
        if before != (seq, hash_):
            raise JournalBroken("is another one in the earlier export, the first that is", seq=seq, after=seq - 1)
        self.earlier += 1
        self._agreed = seq

    def _note_approval(self, sealed: Sealed) -> None:
        # A request may have a member of that name too, so look at the entry itself.
        if not any(run in self._approvals for run in _RUN.findall(sealed.body)):
            return
        entry = requested.parsed(sealed)
        if entry["kind"] == "run-approved" and entry["run"] in self._approvals:
            # Without the request there is no mechanism to compare; `Replayed.withheld` counts that.
            is_at_hand = "request" in entry
            digest = chain.digest(chain.canonical(entry["request"]["mechanism"])).hex() if is_at_hand else None
            self._approvals[entry["run"]] = entry["cost"], digest

    def _demand_run(self, held: HeldReceipt, body: str) -> None:
        """Check that the receipt agrees with the journal about the run. Raises JournalBroken."""
        entry = chain.parse(body)
        state, cost, digest = held.decided
        if (entry.get("run"), entry["kind"]) != (held.run, _STATES.get(state)):
            raise JournalBroken(f"differs from {held.source}, which names it", seq=held.seq)
        if self._approvals[held.run] not in ((cost, digest), (cost, None)):
            raise JournalBroken(f"has another cost or mechanism than {held.source}", seq=held.seq)


# --- reading files ---------------------------------------------------------------------------------------------------


def tokens(text: str, member: str, source: str) -> Iterator[str]:
    """Return the tokens of a text: `member` of a JSON object, or each line that is not empty."""
    if text.lstrip()[:1] != "{":
        yield from filter(None, map(str.strip, text.split("\n")))
        return
    try:
        token = json.loads(text)[member]
    except (ValueError, KeyError, RecursionError):
        token = None
    if not isinstance(token, str):
        raise InvalidRequest(f"{source}: is not a token, and has no token in a member {member!r}", field=source)
    yield token
