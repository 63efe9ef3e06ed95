"""Signed heads: the number and hash of a journal's newest entry, and the Merkle root over all its entries.

A head is signed with the ledger's key. Who keeps one can prove later that the journal was changed, and nobody can
forge one. It is a function of the journal: the same head has the same text.

The tree of a journal is read from the database once, hash by hash; later only new entries are read. Little of it is
kept: the frontier, and the roots of complete subtrees of `BLOCK` leaves (32 bytes each). Any root and any proof is made
from these with a few hundred hashes from the database. The process remembers what it has seen: if the database differs
later, it gets no signature.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Annotated, Final
from uuid import UUID

from cachetools import LRUCache
from pydantic import Field
from typing_extensions import TypedDict

from ledger.core.datasets import Dataset
from ledger.core.entries import NO_HASH, Entry, TenantEntry
from ledger.core.journal import chain
from ledger.core.people import Tenant
from ledger.errors import JournalBroken, NotFound
from ledger.signer.keyfile import Signer
from ledger.store import Reading, Store
from ledger.verifier import jws
from ledger.verifier.heads import Head
from ledger.verifier.merkle import HASH_BYTES, CompactTree

BLOCK_LEVEL: Final = 10
BLOCK: Final = 1 << BLOCK_LEVEL
"""The number of leaves of a subtree whose root is kept."""
PAGE: Final = 10_000
JOURNALS_MAX: Final = 1000
"""For how many journals a tree is kept; the least recently used is dropped first."""
DATASETS_PAGE: Final = 500

Read = Callable[[int, int], list[tuple[int, bytes]]]
"""Reads numbers and hashes of a journal, after a number, up to a limit."""

log = logging.getLogger(__name__)


class SignedHead(TypedDict):  # noqa: D101 (a docstring would stand in the OpenAPI document)
    seq: int
    hash: str
    root: Annotated[str, Field(description="The Merkle root over the hashes of all entries, RFC 9162.")]
    signature: Annotated[str, Field(description="All of that as a compact JWS, by a key of /.well-known/jwks.json.")]


class Tree:
    """The kept part of one journal's tree. It is thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._size, self._newest = 0, NO_HASH
        self._closed, self._open = CompactTree(), CompactTree()  # complete blocks, and the leaves after them
        self._blocks = bytearray()  # the roots of complete blocks, one after another

    def grow(self, read: Read, *, size: int) -> None:
        """Read the new entries up to `size`. Raises JournalBroken if the database has another history than before, or a
        shorter one."""
        with self._lock:
            while self._size < size:
                known = self._size
                before = max(0, known - 1)  # read the newest known entry again: it must be unchanged
                page = read(before, min(PAGE, size - before))
                for expected, (seq, hash_) in enumerate(page, start=before + 1):
                    if seq != expected:
                        raise JournalBroken("is missing", seq=expected)
                    if seq > known:
                        self._append(hash_)
                    elif hash_ != self._newest:
                        raise JournalBroken("is not the one that stood there before", seq=seq)
                if self._size == known:
                    raise JournalBroken("is missing", seq=before + len(page) + 1)

    def demand_newest(self, hash_: bytes, *, size: int) -> None:
        """Raise JournalBroken if entry `size` is the newest known one and has another hash."""
        with self._lock:
            if size == self._size and hash_ != self._newest:
                raise JournalBroken("is not the one that stood there before", seq=size)

    def _append(self, hash_: bytes) -> None:
        self._open.append(hash_)
        self._size, self._newest = self._size + 1, hash_
        if self._open.size == BLOCK:
            self._blocks += (root := self._open.root())
            self._closed.append_subtree(root, level=BLOCK_LEVEL)
            self._open = CompactTree()

    def root(self, read: Read, *, size: int) -> bytes:
        """Return the root over the first `size` entries. Raises JournalBroken as `grow` does."""
        self.grow(read, size=size)
        with self._lock:
            if size == self._size:
                return self._closed.root_with(self._open)
        return self.root_between(read, start=0, end=size)

    def root_between(self, read: Read, *, start: int, end: int) -> bytes:
        """Return the root over the entries `start + 1` to `end`, a subtree of those read. Raises JournalBroken."""
        tree = CompactTree()
        at = start
        if start % BLOCK == 0:
            with self._lock:
                blocks = bytes(self._blocks[start // BLOCK * HASH_BYTES : end // BLOCK * HASH_BYTES])
            for offset in range(0, len(blocks), HASH_BYTES):
                tree.append_subtree(blocks[offset : offset + HASH_BYTES], level=BLOCK_LEVEL)
            at += tree.size
        for seq, hash_ in read(at, end - at) if at < end else ():
            at += 1
            if seq != at:
                raise JournalBroken("is missing", seq=at)
            tree.append(hash_)
        if at < end:
            raise JournalBroken("is missing", seq=at + 1)
        return tree.root()


class TreeView:
    """A journal's tree in one snapshot: its size, and the roots of its subtrees."""

    def __init__(self, tree: Tree, reading: Reading, dataset_id: UUID | None, size: int) -> None:
        self.size = size
        self._tree, self._reading, self._dataset_id = tree, reading, dataset_id
        self._blocks: dict[int, list[tuple[int, bytes]]] = {}

    def hash_of(self, seq: int) -> bytes:
        """Return the hash of an entry. Raises JournalBroken."""
        page = self._read(seq - 1, 1)
        if not page or page[0][0] != seq:
            raise JournalBroken("is missing", seq=seq)
        return page[0][1]

    def root(self, size: int) -> bytes:
        """Return the root over the first `size` entries. Raises JournalBroken."""
        return self._tree.root(self._read, size=size)

    def root_between(self, start: int, end: int) -> bytes:
        """Return the root over the entries `start + 1` to `end`, as proofs need it. Raises JournalBroken."""
        return self._tree.root_between(self._read, start=start, end=end)

    def _read(self, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Read the hashes from the database; a proof needs parts of the same block several times, so it is read
        once."""
        number, start = divmod(after, BLOCK)
        if start + limit > BLOCK:
            return self._reading.journals.hashes(self._dataset_id, after=after, limit=limit)
        if number not in self._blocks:
            self._blocks[number] = self._reading.journals.hashes(self._dataset_id, after=after - start, limit=BLOCK)
        return [(seq, hash_) for seq, hash_ in self._blocks[number] if after < seq][:limit]


class Heads:
    """Sign the heads of all journals."""

    def __init__(
        self,
        store: Store,
        signer: Signer,
        *,
        unsignable: Callable[[UUID, UUID | None], str | None] = lambda _tenant_id, _dataset_id: None,
    ) -> None:
        """unsignable: returns why no head of a journal may be signed; None if one may."""
        self._store, self._signer, self._unsignable = store, signer, unsignable
        self._lock = threading.Lock()
        self._trees = LRUCache[tuple[UUID, UUID | None], Tree](JOURNALS_MAX)

    def view(self, reading: Reading, dataset: Dataset | None, *, tenant: Tenant | None = None) -> TreeView:
        """Return the tree of a dataset's journal, or of the tenant's own, up to the end that the dataset's or tenant's
        row has. Raises JournalBroken if the entries differ from those seen before, or end elsewhere."""
        if dataset is None:
            tenant = tenant or _tenant(reading)
            return self._view(reading, None, tenant.seq, tenant.head)
        return self._view(reading, dataset.id, dataset.seq, dataset.head)

    def _view(self, reading: Reading, dataset_id: UUID | None, size: int, newest: bytes) -> TreeView:
        if (reason := self._unsignable(reading.tenant_id, dataset_id)) is not None:
            raise JournalBroken(reason, seq=size + 1)
        tree = self._tree(reading.tenant_id, dataset_id)
        view = TreeView(tree, reading, dataset_id, size)
        try:
            tree.grow(lambda after, limit: reading.journals.hashes(dataset_id, after=after, limit=limit), size=size)
            tree.demand_newest(newest, size=size)
            if size and view.hash_of(size) != newest:
                raise JournalBroken("is not the one that the head names", seq=size)
        except JournalBroken as error:
            log.error("a journal gets no signature: %s", error.detail)
            raise
        return view

    def _tree(self, tenant_id: UUID, dataset_id: UUID | None) -> Tree:
        with self._lock:
            return self._trees.setdefault((tenant_id, dataset_id), Tree())

    def head(self, reading: Reading, dataset: Dataset | None, *, tenant: Tenant | None = None) -> Head:
        """Return the unsigned head of a dataset as read, or of the tenant's own journal. Raises JournalBroken."""
        tenant = tenant or _tenant(reading)
        view = self.view(reading, dataset, tenant=tenant)
        seq, hash_ = (tenant.seq, tenant.head) if dataset is None else (dataset.seq, dataset.head)
        named = None if dataset is None else (dataset.id, dataset.definition.name)
        at = _at(reading, dataset, seq=seq, hash_=hash_)
        return Head.of((tenant.id, tenant.name), named, seq=seq, hash_=hash_, root=view.root(seq), at=at)

    def signed(self, reading: Reading, dataset: Dataset | None, *, tenant: Tenant | None = None) -> SignedHead:
        """Return the head with its signature. Raises JournalBroken."""
        head = self.head(reading, dataset, tenant=tenant)
        signature = self._signer.sign(chain.canonical(head.payload()), jws.HEAD)
        return SignedHead(seq=head.seq, hash=head.hash, root=head.root, signature=signature)

    def of_tenant(self, tenant_id: UUID) -> Iterator[tuple[Dataset | None, SignedHead]]:
        """Return the signed heads of a tenant's own journal and of its datasets, by name. Raises JournalBroken."""
        with self._store.reading(tenant_id) as reading:
            yield None, self.signed(reading, None)
        after: str | None = None
        while page := self._page(tenant_id, after):
            for dataset in page:
                with self._store.reading(tenant_id) as reading:
                    yield dataset, self.signed(reading, dataset)
            after = page[-1].definition.name

    def _page(self, tenant_id: UUID, after: str | None) -> list[Dataset]:
        with self._store.reading(tenant_id) as reading:
            return reading.datasets.page(after=after, limit=DATASETS_PAGE, only=None)


def _tenant(reading: Reading) -> Tenant:
    tenant = reading.tenants.current()
    if tenant is None:
        raise NotFound("The tenant does not exist.")
    return tenant


def _at(reading: Reading, dataset: Dataset | None, *, seq: int, hash_: bytes) -> str | None:
    """Return the time in the newest entry. Raises JournalBroken if it is another entry."""
    if seq == 0:
        return None
    entry: Entry | TenantEntry | None
    if dataset is None:
        entry = next(iter(reading.journals.tenant_page(after=seq - 1, limit=1)), None)
    else:
        entry = reading.journals.at(dataset.id, seq)
    if entry is None or chain.digest(entry.body) != hash_:
        raise JournalBroken("is not the one that the head names", seq=seq)
    return str(chain.parse(entry.body)["at"])
