"""Roots and Merkle proofs made from all leaves, beside those that a server makes from what it keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ledger.verifier import merkle


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The root of the tree with these leaves, given by their data."""
    tree = merkle.CompactTree()
    for data in leaves:
        tree.append(data)
    return tree.root()


def inclusion_proof(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The proof that leaf `index` is among these, given by their data."""
    return merkle.proof(merkle.inclusion_ranges(index, len(leaves)), lambda start, end: root_of(leaves[start:end]))


def consistency_proof(leaves: Sequence[bytes], old: int) -> list[bytes]:
    """The proof that the tree of these leaves, given by their data, begins with that of the first `old`."""
    return merkle.proof(merkle.consistency_ranges(old, len(leaves)), lambda start, end: root_of(leaves[start:end]))
