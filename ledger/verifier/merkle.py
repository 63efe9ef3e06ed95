"""The Merkle tree over a journal, and its proofs: RFC 9162, section 2.1, with SHA-256.

The leaves are the entries' hashes, 32 bytes each, in the order of `seq`: entry `seq` is the leaf with index `seq - 1`.
A leaf is hashed with a prefix 0x00 and an inner node with 0x01, so that neither passes for the other. The tree of a
size depends only on the first `size` entries, and its root identifies all of them.

Two kinds of proofs have a few dozen hashes, however long the journal is:

    inclusion    the entry is at its place in the tree of a root
    consistency  the tree of a later root begins with all entries of an earlier one

To verify a proof one needs only the proof and the roots. This is our own code because it is small: the Python packages
for such proofs include a client or server of a log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()
"""The root of the tree without leaves. RFC 9162, 2.1.1: MTH({}) = HASH()."""
PATH_MAX: Final = 128
"""More hashes than any proof has in a tree with a 64-bit size."""

Range = tuple[int, int]
"""Leaves from the first index up to the second, exclusive."""


def leaf_hash(data: bytes) -> bytes:
    """Return MTH({d[0]}) = HASH(0x00 || d[0]). Source: RFC 9162, 2.1.1."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return HASH(0x01 || MTH(D[0:k]) || MTH(D[k:n])). Source: RFC 9162, 2.1.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class CompactTree:
    """A tree that keeps only the roots of its largest complete subtrees, at most one for each bit of its size.

    That is enough to add leaves, each in O(log n) time at worst and O(1) on average, and to compute the root.
    """

    __slots__ = ("_peaks", "size")

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []  # from left to right: from the largest to the smallest

    def append(self, data: bytes) -> None:
        """Add a leaf by its data."""
        self.append_subtree(leaf_hash(data), level=0)

    def append_subtree(self, root: bytes, *, level: int) -> None:
        """Add a complete subtree of `2 ** level` leaves by its root. The size must be a multiple of that.

        Raises ValueError if it is not.
        """
        if self.size & ((1 << level) - 1):
            raise ValueError(f"a subtree of level {level} cannot begin at {self.size}")
        height = self.size >> level
        while height & 1:  # there is one of the same height on the left
            root = node_hash(self._peaks.pop(), root)
            height >>= 1
        self._peaks.append(root)
        self.size += 1 << level

    def root_with(self, right: CompactTree) -> bytes:
        """Return the root of a tree with these leaves and, after them, those of another tree. The size must be a
        multiple of the largest complete subtree of that."""
        both = CompactTree()
        both.size, both._peaks = self.size, list(self._peaks)
        levels = [level for level in range(right.size.bit_length()) if right.size >> level & 1]
        for peak, level in zip(right._peaks, reversed(levels), strict=True):
            both.append_subtree(peak, level=level)
        return both.root()

    def root(self) -> bytes:
        """Return the root of the tree."""
        if not self._peaks:
            return EMPTY_ROOT
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = node_hash(peak, root)
        return root


# --- proofs ----------------------------------------------------------------------------------------------------------


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """Return the subtrees whose roots prove that leaf `index` is in the tree of `size`: PATH of RFC 9162, 2.1.3.1, in
    its order. Raises ValueError unless 0 <= index < size."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    ranges: list[Range] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(old: int, new: int) -> list[Range]:
    """Return the subtrees whose roots prove that the tree of size `new` begins with that of size `old`: PROOF of RFC
    9162, 2.1.4.1, in its order. Raises ValueError unless 0 < old <= new."""
    if not 0 < old <= new:
        raise ValueError(f"a tree of {new} does not begin with one of {old}")
    ranges: list[Range] = []
    start, end = 0, new
    is_whole = True  # whether what is proved is all of the old tree, whose root the verifier has: SUBPROOF's b
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, is_whole = middle, False
    if not is_whole:
        ranges.append((start, end))
    return ranges[::-1]


def _split(size: int) -> int:
    """Return the largest power of two that is smaller than `size`, which is at least 2."""
    return 1 << ((size - 1).bit_length() - 1)


def proof(ranges: Iterable[Range], root_of_range: Callable[[int, int], bytes]) -> list[bytes]:
    """Return a proof: the roots of its subtrees."""
    return [root_of_range(start, end) for start, end in ranges]


# --- verification ----------------------------------------------------------------------------------------------------


def includes(data: bytes, *, index: int, size: int, path: Sequence[bytes], root: bytes) -> bool:
    """Return whether `path` proves that leaf `index` of the tree of this root and size is `data`: RFC 9162, 2.1.3.2."""
    if not 0 <= index < size or not _is_path(path):
        return False
    fn, sn = index, size - 1
    node = leaf_hash(data)
    for step in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            node = node_hash(step, node)
            while not fn & 1 and fn:  # there is nothing to the right of it on these levels
                fn, sn = fn >> 1, sn >> 1
        else:
            node = node_hash(node, step)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and node == root


def continues(*, old: int, new: int, path: Sequence[bytes], old_root: bytes, new_root: bytes) -> bool:
    """Return whether `path` proves that the tree of size `new` begins with that of size `old`: RFC 9162, 2.1.4.2."""
    if not 0 < old <= new or not _is_path(path):
        return False
    if old == new:
        return not path and old_root == new_root
    if old & (old - 1) == 0:
        path = [old_root, *path]  # of a power of two: the old tree is a subtree of the new one
    if not path:
        return False
    fn, sn = old - 1, new - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    of_old = of_new = path[0]
    for step in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            of_old, of_new = node_hash(step, of_old), node_hash(step, of_new)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            of_new = node_hash(of_new, step)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and of_old == old_root and of_new == new_root


def _is_path(path: Sequence[bytes]) -> bool:
    return len(path) <= PATH_MAX and all(len(step) == HASH_BYTES for step in path)
