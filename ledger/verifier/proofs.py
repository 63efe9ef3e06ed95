"""Proofs without a whole export: that an entry is in a journal, and that a journal continues an earlier one. This
module makes them for the API, and verifies them without a server.

A proof relies on signed heads. Next to its hashes it has the newest signed head. With a head that somebody kept, or a
receipt, that is enough:

    a receipt, and an inclusion proof     the journal of the newest head has the entry that the receipt names
    a kept head, and a consistency proof  the journal of the newest head begins with that of the kept head

A proof has about as many hashes as the journal's length has binary digits: twenty for a million entries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Protocol

from ledger.errors import InvalidRequest, JournalBroken
from ledger.verifier import heads, merkle
from ledger.verifier.statements import (
    hash_of,
    kid_of,
    number_of,
)
from ledger.verifier.witness import HeldHead, HeldReceipt, Witnesses

if TYPE_CHECKING:
    from ledger.verifier.jws import PublicKeys

TEXT_LENGTH_MAX: Final = 1024 * 1024
"""The longest proof that is read, in characters; one in the longest journal has about ten thousand."""


class JournalTree(Protocol):
    """A journal's Merkle tree: how many entries it has, their hashes, and the roots of its subtrees."""

    @property
    def size(self) -> int: ...

    def hash_of(self, seq: int) -> bytes: ...

    def root(self, size: int) -> bytes: ...

    def root_between(self, start: int, end: int) -> bytes: ...


# --- making proofs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Inclusion:
    """A proof that entry `seq`, of this hash, is among the first `size` entries, whose root this is."""

    seq: int
    hash: str
    size: int
    root: str
    path: list[str]


@dataclass(frozen=True, slots=True)
class Consistency:
    """A proof that the first `size` entries begin with the first `old_size`."""

    old_size: int
    old_root: str
    size: int
    root: str
    path: list[str]


def inclusion(tree: JournalTree, *, seq: int, size: int | None) -> Inclusion:
    """Prove that entry `seq` is among the first `size` entries (default: all). Raises InvalidRequest."""
    size = tree.size if size is None else size
    _demand(1 <= size <= tree.size, "size", f"is not between 1 and {tree.size}, the number of entries")
    _demand(1 <= seq <= size, "seq", f"is not between 1 and {size}, so it is not among these entries")
    path = merkle.proof(merkle.inclusion_ranges(seq - 1, size), tree.root_between)
    hash_, root = tree.hash_of(seq).hex(), tree.root(size).hex()
    return Inclusion(seq, hash_, size, root, [step.hex() for step in path])


def consistency(tree: JournalTree, *, from_: int, to: int | None) -> Consistency:
    """Prove that the first `to` entries (default: all) begin with the first `from_`. Raises InvalidRequest."""
    size = tree.size if to is None else to
    _demand(1 <= size <= tree.size, "to", f"is not between 1 and {tree.size}, the number of entries")
    _demand(1 <= from_ <= size, "from", f"is not between 1 and {size}, so these entries do not begin with it")
    path = merkle.proof(merkle.consistency_ranges(from_, size), tree.root_between)
    old_root, root = tree.root(from_).hex(), tree.root(size).hex()
    return Consistency(from_, old_root, size, root, [step.hex() for step in path])


def _demand(holds: bool, field: str, what: str) -> None:
    if not holds:
        raise InvalidRequest(f"{field}: {what}", field=field)


# --- verifying proofs ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proved:
    """A verified proof. seq: the included entry, or the size that is continued. size: how many entries the journal had.
    kid: of the key that signed the newest head. receipts: how many receipts name the included entry."""

    kind: Literal["inclusion", "consistency"]
    tenant: str
    dataset: str | None
    seq: int
    hash: str | None
    size: int
    root: str
    kid: str
    receipts: int


def verify(text: str, *, keys: PublicKeys, witnesses: Witnesses) -> Proved:
    """Verify a proof, and return what it proves. keys: one of them must have signed its head. witnesses: the kept
    heads, and the receipts of its entry.

    Raises SignatureInvalid; JournalBroken if the proof is wrong; and InvalidRequest if it cannot be read, or is not
    about the given receipts and heads, or if no head is given for a size that is not the newest.
    """
    proof = _read(text)
    newest = heads.read(proof.token, keys=keys, source="file")
    roots = {newest.seq: newest.root}
    witnesses.demand_only(newest.journal_id)
    for held in witnesses.held.get(newest.journal_id, ()):
        if isinstance(held, HeldHead) and roots.setdefault(held.seq, held.root) != held.root:
            raise JournalBroken(f"has another history in {held.source} than in the proof's head", seq=held.seq)
    root = _signed_root(roots, proof.size, proof.root)
    receipts = [held for held in witnesses.held.get(newest.journal_id, ()) if isinstance(held, HeldReceipt)]
    if proof.kind == "inclusion":
        _demand_included(proof, root, receipts)
    else:
        if receipts:
            raise InvalidRequest(
                "receipt: a consistency proof is not about an entry. Use an inclusion proof", field="receipt"
            )
        _demand_continued(proof, _signed_root(roots, proof.seq, proof.from_root), root)
    used = {proof.size, newest.seq} | ({proof.seq} if proof.kind == "consistency" else set())
    if unused := sorted(roots.keys() - used):
        raise InvalidRequest(f"head: this proof is not about a head of {unused[0]} entries", field="head")
    entry = proof.hash if proof.kind == "inclusion" else None
    return Proved(proof.kind, *newest.names, proof.seq, entry, proof.size, root, kid_of(proof.token), len(receipts))


def _signed_root(roots: Mapping[int, str], size: int, stated: str) -> str:
    """Return the root of a size from a signed head. Raises InvalidRequest if there is none."""
    if size not in roots:
        raise InvalidRequest(
            f"head: the proof is about the first {size} entries. Give the head of that size with --head", field="head"
        )
    if roots[size] != stated:
        raise JournalBroken("has another history in the proof than in the signed head", seq=size)
    return roots[size]


def _demand_included(proof: _Proof, root: str, receipts: Sequence[HeldReceipt]) -> None:
    for receipt in receipts:
        if receipt.seq != proof.seq:
            raise InvalidRequest(
                f"receipt: is of entry {receipt.seq}, but the proof is of entry {proof.seq}", field="receipt"
            )
        if receipt.hash != proof.hash:
            raise JournalBroken(f"is not the one that {receipt.source} names", seq=proof.seq)
    holds = merkle.includes(
        bytes.fromhex(proof.hash),
        index=proof.seq - 1,
        size=proof.size,
        path=proof.path,
        root=bytes.fromhex(root),
    )
    if not holds:
        raise JournalBroken(f"is not shown to be among the first {proof.size}: the proof is wrong", seq=proof.seq)


def _demand_continued(proof: _Proof, old_root: str, root: str) -> None:
    holds = merkle.continues(
        old=proof.seq,
        new=proof.size,
        path=proof.path,
        old_root=bytes.fromhex(old_root),
        new_root=bytes.fromhex(root),
    )
    if not holds:
        raise JournalBroken(
            f"and those before it are not shown to begin the first {proof.size}: the proof is wrong", seq=proof.seq
        )


@dataclass(frozen=True, slots=True)
class _Proof:
    kind: Literal["inclusion", "consistency"]
    seq: int
    hash: str
    from_root: str
    size: int
    root: str
    path: list[bytes]
    token: str


def _read(text: str) -> _Proof:
    """Parse a proof, as the API returns it. Raises InvalidRequest."""
    try:
        if len(text) > TEXT_LENGTH_MAX:
            raise ValueError("too long")
        answer = json.loads(text)
        is_inclusion = {"inclusion": True, "consistency": False}[answer["kind"]]
        return _Proof(
            kind="inclusion" if is_inclusion else "consistency",
            seq=number_of(answer["seq" if is_inclusion else "from"]),
            hash=hash_of(answer["hash"]) if is_inclusion else "",
            from_root="" if is_inclusion else hash_of(answer["from_root"]),
            size=number_of(answer["size" if is_inclusion else "to"]),
            root=hash_of(answer["root"]),
            path=[bytes.fromhex(hash_of(step)) for step in answer["path"]],
            token=str(answer["head"]["signature"]),
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InvalidRequest(
            "file: is not a proof. `proof inclusion` and `proof consistency` write proofs", field="file"
        ) from None
