"""The Merkle tree, against its definition in RFC 9162 written out naively, and proofs that nobody can bend."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ledger.verifier import merkle
from tests.kit import trees

EXHAUSTIVE = 70
"""Every size up to this, with every leaf and every earlier size."""


def sha(data: bytes) -> bytes:
    """HASH of RFC 9162, for this log."""
    return hashlib.sha256(data).digest()


def k_of(n: int) -> int:
    """The largest power of two smaller than n (i.e., k < n <= 2k)."""
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def mth(d: Sequence[bytes]) -> bytes:
    """Merkle Tree Hash, section 2.1.1."""
    n = len(d)
    if n == 0:
        return sha(b"")
    if n == 1:
        return sha(b"\x00" + d[0])
    k = k_of(n)
    return sha(b"\x01" + mth(d[:k]) + mth(d[k:]))


def path(m: int, d: Sequence[bytes]) -> list[bytes]:
    """Inclusion path, section 2.1.3.1."""
    n = len(d)
    if n == 1:
        return []
    k = k_of(n)
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def proof(m: int, d: Sequence[bytes]) -> list[bytes]:
    """Consistency proof, section 2.1.4.1."""
    return subproof(m, d, True)


def subproof(m: int, d: Sequence[bytes], b: bool) -> list[bytes]:
    """SUBPROOF(m, D_n, b), section 2.1.4.1."""
    n = len(d)
    if m == n:
        return [] if b else [mth(d)]
    k = k_of(n)
    if m <= k:
        return [*subproof(m, d[:k], b), mth(d[k:])]
    return [*subproof(m - k, d[k:], False), mth(d[:k])]


def some(count: int, seed: int = 1) -> list[bytes]:
    """Leaves as a journal has them: 32 bytes each."""
    rng = random.Random(seed)
    return [rng.randbytes(32) for _ in range(count)]


def test_roots_are_those_of_the_definition() -> None:
    """Goal: the root after each leaf is the definition's. Method: one tree that grows, and one made at once."""
    leaves = some(300)
    tree = merkle.CompactTree()
    assert tree.root() == mth([]) == trees.root_of([])
    for size, leaf in enumerate(leaves, start=1):
        tree.append(leaf)
        assert (tree.size, tree.root()) == (size, mth(leaves[:size]))
    assert trees.root_of(leaves) == mth(leaves)


def test_roots_and_proofs_that_certificate_transparency_knows() -> None:
    """Goal: the tree is the one that everybody means. Method: the eight leaves, their roots and proofs that
    implementations of certificate transparency have published since 2012."""
    texts = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    leaves = [bytes.fromhex(text) for text in texts]
    roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ]
    assert [trees.root_of(leaves[:size]).hex() for size in range(1, 9)] == roots
    assert trees.root_of([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    in_eight = [step.hex() for step in trees.inclusion_proof(leaves, 5)]
    assert in_eight == [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    of_six = [step.hex() for step in trees.consistency_proof(leaves, 6)]
    assert of_six == [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]


def test_every_small_proof_is_the_definitions_and_verifies() -> None:
    """Goal: every inclusion and consistency proof is the RFC's, and is believed; and of every size, index and root
    none other is. Method: all of them up to a size."""
    leaves = some(EXHAUSTIVE)
    roots = [mth(leaves[:size]) for size in range(EXHAUSTIVE + 1)]
    for size in range(1, EXHAUSTIVE + 1):
        d = leaves[:size]
        for index in range(size):
            found = trees.inclusion_proof(d, index)
            assert found == path(index, d)
            assert merkle.includes(d[index], index=index, size=size, path=found, root=roots[size])
            assert not merkle.includes(d[index - 1], index=index, size=size, path=found, root=roots[size]) or size == 1
        for old in range(1, size + 1):
            found = trees.consistency_proof(d, old)
            assert found == proof(old, d)
            said: dict[str, Any] = {
                "old": old,
                "new": size,
                "path": found,
                "old_root": roots[old],
                "new_root": roots[size],
            }
            assert merkle.continues(**said)
            assert not merkle.continues(**said | {"old_root": roots[old - 1]})
            assert not merkle.continues(**said | {"new_root": roots[size - 1]})


def test_large_proofs(tries: Callable[[int, int], int]) -> None:
    """Goal: the same in large trees. Method: seeded sizes, among them those around powers of two."""
    rng = random.Random(7)
    leaves = some(5000, seed=2)
    for trial in range(tries(12, 200)):
        size = rng.choice((1023, 1024, 1025, 4095, 4096, 4097)) if trial % 2 else rng.randint(2, 5000)
        d, index, old = leaves[:size], rng.randrange(size), rng.randint(1, size)
        root = mth(d)
        included, continued = trees.inclusion_proof(d, index), trees.consistency_proof(d, old)
        assert (included, continued) == (path(index, d), proof(old, d))
        assert len(included) <= (size - 1).bit_length()
        assert len(continued) <= (size - 1).bit_length() + 1
        assert merkle.includes(d[index], index=index, size=size, path=included, root=root)
        assert merkle.continues(old=old, new=size, path=continued, old_root=mth(d[:old]), new_root=root)


def bent(steps: list[bytes]) -> list[list[bytes]]:
    """The proof with each bit of each of its hashes turned, and with one hash more, less, doubled, cut or swapped."""
    found = []
    for at, step in enumerate(steps):
        for bit in range(256):
            changed = (int.from_bytes(step) ^ (1 << bit)).to_bytes(32)
            found.append([*steps[:at], changed, *steps[at + 1 :]])
        found.append([*steps[:at], *steps[at + 1 :]])
        found.append([*steps[:at], step, *steps[at:]])
        found.append([*steps[:at], step[:-1], *steps[at + 1 :]])
        found.append([*steps[:at], step + b"\x00", *steps[at + 1 :]])
        if at:
            found.append([*steps[: at - 1], step, steps[at - 1], *steps[at + 1 :]])
    return [*found, [*steps, bytes(32)], [bytes(32), *steps], steps * 200 or [bytes(32)] * 200]


def test_no_bent_proof_is_believed() -> None:
    """Goal: a proof of which anything is changed is refused. Method: every single bit and every single hash of proofs
    in trees of every shape up to a size, and the index, size and roots beside them."""
    leaves = some(14)
    for size in range(1, len(leaves) + 1):
        d = leaves[:size]
        root = mth(d)
        for number in range(size):
            right = trees.inclusion_proof(d, number)
            for wrong in bent(right):
                assert not merkle.includes(d[number], index=number, size=size, path=wrong, root=root)
            for index in {*range(-1, size + 2)} - {number}:
                assert not merkle.includes(d[number], index=index, size=size, path=right, root=root)
            old, old_root = number + 1, mth(d[: number + 1])
            steps = trees.consistency_proof(d, old)
            for wrong in bent(steps):
                assert not merkle.continues(old=old, new=size, path=wrong, old_root=old_root, new_root=root)
            for at in range(256):
                turned = (int.from_bytes(old_root) ^ (1 << at)).to_bytes(32)
                assert not merkle.continues(old=old, new=size, path=steps, old_root=turned, new_root=root)


def test_what_there_is_no_proof_of() -> None:
    """Goal: places and sizes that do not exist are refused, by who makes a proof and by who reads one."""
    leaves = some(3)
    for index, size in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(ValueError, match="no leaf"):
            merkle.inclusion_ranges(index, size)
        assert not merkle.includes(leaves[0], index=index, size=size, path=[], root=trees.root_of(leaves))
    for old, new in ((0, 3), (4, 3), (-1, 3)):
        with pytest.raises(ValueError, match="does not begin"):
            merkle.consistency_ranges(old, new)
        assert not merkle.continues(old=old, new=new, path=[], old_root=bytes(32), new_root=trees.root_of(leaves))


def test_subtrees_are_added_whole_where_they_fit() -> None:
    """Goal: a tree made of its complete subtrees is the one made of its leaves. Method: every way to begin with blocks
    of eight; a block where none can stand is refused."""
    leaves = some(45)
    tree = closed = rest = merkle.CompactTree()
    for blocks in range(6):
        tree, closed, rest = (merkle.CompactTree() for _ in range(3))
        for block in range(blocks):
            tree.append_subtree(mth(leaves[8 * block : 8 * block + 8]), level=3)
            closed.append_subtree(mth(leaves[8 * block : 8 * block + 8]), level=3)
        for leaf in leaves[8 * blocks :]:
            tree.append(leaf)
            rest.append(leaf)
        assert (tree.size, tree.root()) == (45, mth(leaves))
    assert (rest.size, closed.root_with(rest)) == (5, mth(leaves))
    tree.append(leaves[0])
    with pytest.raises(ValueError, match="cannot begin"):
        tree.append_subtree(leaves[0], level=3)
