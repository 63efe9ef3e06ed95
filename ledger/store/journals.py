"""Journals: the entries of datasets and of the tenant."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Row, Table, and_, func, insert, or_, select, update

from ledger.core.commands import Lost
from ledger.core.entries import Entry, TenantEntry
from ledger.core.journal import chain
from ledger.errors import NotFound
from ledger.store.repository import Repository, pairs_among
from ledger.store.rows import entry_of
from ledger.store.sizes import PAGE_BYTES_MAX, byte_length, fitting
from ledger.store.tables import (
    accounts,
    datasets,
    entries,
    lineage,
    places,
    projects,
    proposals,
    tenant_entries,
    tenants,
)
from ledger.store.tenants import TenantWriter

TAIL_MAX: Final = 200
"""How far back in a journal refusals in a row are counted, in entries."""
ANSWERS_MAX: Final = 100
"""How many changes of a budget are looked at for one that accounts for lost entries, newest first."""
LOOKED_AT_MAX: Final = 20_000
"""How many entries one page of a dataset's history looks at."""
_FREEZING: Final = ("run-settled", "run-reported")
"""Kinds of entries of runs that change a dataset only if they freeze it."""
_CHANGING: Final = ("run-corrected", "run-entered")
"""Kinds of entries of runs that always do: what a steward stated about the past."""
_ANSWERING: Final = (
    *("dataset-changed", "budget-set", "partitions-added", "project-set", "fair-use-set", "proposal-refused"),
)
_DECISIONS: Final = ("run-approved", "run-refused", "run-entered")
_ANSWERING_OF_RUNS: Final = ("run-settled", "run-voided", "run-corrected", *_DECISIONS)
_NOWHERE: Final = UUID(int=0), 0


class JournalReader(Repository):
    """Reads entries."""

    def page(self, dataset_id: UUID, *, after: int, limit: int, bytes_max: int = PAGE_BYTES_MAX) -> list[Entry]:
        """Return entries of a dataset's journal, oldest first: at most `limit`, and as many as fit in a page; one at
        least, unless the journal has ended. An entry that names a request of another journal comes with it."""
        mine = (entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id)
        last = self._last(entries, *mine, entries.c.seq > after, limit=limit, bytes_max=bytes_max)
        query = select(entries).where(*mine, entries.c.seq > after, entries.c.seq <= last).order_by(entries.c.seq)
        return self._with_requests([entry_of(row) for row in self.connection.execute(query)], bytes_max)

    def plain(self, dataset_id: UUID, *, after: int, until: int, limit: int) -> list[Entry]:
        """Return entries of a dataset's journal, oldest first, without requests of other journals: as many as fit in a
        page, and none after `until`."""
        mine = (entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id)
        where = (*mine, entries.c.seq > after, entries.c.seq <= until)
        last = self._last(entries, *where, limit=limit, bytes_max=PAGE_BYTES_MAX)
        query = select(entries).where(*where, entries.c.seq <= last).order_by(entries.c.seq)
        return [entry_of(row) for row in self.connection.execute(query)]

    def kinds(self, dataset_id: UUID, *, after: int, until: int, limit: int) -> list[tuple[int, str, int]]:
        """Return number, kind and time of entries, oldest first, none after `until`. Bodies are not sent."""
        query = (
            select(entries.c.seq, entries.c.kind, entries.c.at_us)
            .where(entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id)
            .where(entries.c.seq > after, entries.c.seq <= until)
            .order_by(entries.c.seq)
            .limit(limit)
        )
        return [(row.seq, row.kind, row.at_us) for row in self.connection.execute(query)]

    def of_kinds(self, dataset_id: UUID, kinds: Sequence[str], *, after: int, until: int, limit: int) -> list[Entry]:
        """Return entries of these kinds, oldest first, without requests of other journals: as many as fit in a page,
        and none after `until`."""
        mine = (entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id, entries.c.kind.in_(kinds))
        where = (*mine, entries.c.seq > after, entries.c.seq <= until)
        last = self._last(entries, *where, limit=limit, bytes_max=PAGE_BYTES_MAX)
        query = select(entries).where(*where, entries.c.seq <= last).order_by(entries.c.seq)
        return [entry_of(row) for row in self.connection.execute(query)]

    def changes(
        self, dataset_id: UUID, *, before: int, limit: int, looked_at_max: int = LOOKED_AT_MAX
    ) -> tuple[list[Entry], int]:
        """Return what changed a dataset, newest first, as many as fit in a page: entries that are not of runs,
        those of runs that left it frozen, corrections and past runs. Also return the number of the oldest entry that
        was looked at."""
        first = max(1, before - looked_at_max)
        is_change = or_(
            entries.c.kind.not_like("run-%"),
            entries.c.kind.in_(_CHANGING),
            and_(entries.c.kind.in_(_FREEZING), entries.c.body.contains('"state":"frozen"', autoescape=True)),
        )
        mine = (entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id)
        where = (*mine, entries.c.seq >= first, entries.c.seq < before, is_change)
        sizes = select(entries.c.seq, byte_length(self.connection, entries.c.body).label("size")).where(*where)
        newest = self.connection.execute(sizes.order_by(entries.c.seq.desc()).limit(limit)).all()
        kept = list(fitting(((row.seq, row.size) for row in newest), PAGE_BYTES_MAX))
        query = select(entries).where(*mine, entries.c.seq.in_(kept)).order_by(entries.c.seq.desc())
        found = [entry_of(row) for row in self.connection.execute(query)] if kept else []
        is_all = len(kept) == len(newest) < limit
        return found, first if is_all else kept[-1]

    def before(self, dataset_id: UUID, *, before: int, limit: int) -> list[Entry]:
        """Return the entries before a number, newest first: at most `limit`, and as many as fit in a page."""
        query = select(entries).where(*self._page_before(dataset_id, before=before, limit=limit))
        return [entry_of(row) for row in self.connection.execute(query.order_by(entries.c.seq.desc()))]

    def texts_before(self, dataset_id: UUID, *, before: int, limit: int) -> list[tuple[int, str]]:
        """Return the number and the text of each of the same entries. That takes a third of the time."""
        query = select(entries.c.seq, entries.c.body).where(*self._page_before(dataset_id, before=before, limit=limit))
        return [(seq, body) for seq, body in self.connection.execute(query.order_by(entries.c.seq.desc()))]

    def _page_before(self, dataset_id: UUID, *, before: int, limit: int) -> list[Any]:
        mine = [entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id, entries.c.seq < before]
        sizes = select(entries.c.seq, byte_length(self.connection, entries.c.body).label("size")).where(*mine)
        newest = sizes.order_by(entries.c.seq.desc()).limit(limit)
        page = newest.subquery()
        first, whole = self.connection.execute(select(func.min(page.c.seq), func.sum(page.c.size))).one()
        if first is None or whole > PAGE_BYTES_MAX:
            rows = self.connection.execute(newest)
            first = min(fitting(((row.seq, row.size) for row in rows), PAGE_BYTES_MAX), default=before)
        return [*mine, entries.c.seq >= first]

    def answering(
        self, dataset_ids: Collection[UUID], run_ids: Collection[UUID], *, since_us: int, until_us: int
    ) -> list[Entry]:
        """Return the entries that approved or refused proposals on these datasets within a time, or about these runs.
        Those that are not of runs are few, and read along the index of runs."""
        mine = (entries.c.tenant_id == self.tenant_id, entries.c.dataset_id.in_(dataset_ids))
        names_one = entries.c.body.contains('"proposal":', autoescape=True)
        of_datasets = select(entries).where(
            *mine,
            entries.c.run_id.is_(None),
            entries.c.kind.in_(_ANSWERING),
            entries.c.at_us.between(since_us, until_us),
            names_one,
        )
        of_runs = select(entries).where(
            *mine, entries.c.run_id.in_(run_ids), entries.c.kind.in_(_ANSWERING_OF_RUNS), names_one
        )
        rows = [*self.connection.execute(of_datasets), *(self.connection.execute(of_runs) if run_ids else ())]
        return [entry_of(row) for row in rows]

    def seqs_of_kinds(self, dataset_id: UUID, kinds: Sequence[str]) -> list[int]:
        """Return the numbers of the entries of these kinds, which are not of runs. They are few, and read along the
        index of runs."""
        query = select(entries.c.seq).where(
            entries.c.tenant_id == self.tenant_id,
            entries.c.run_id.is_(None),
            entries.c.kind.in_(kinds),
            entries.c.dataset_id == dataset_id,
        )
        return sorted(self.connection.execute(query).scalars())

    def seq_at(self, dataset_id: UUID, at_us: int, *, newest: int) -> int:
        """Return the number of the newest entry that is not later than a time; 0 if all are. Times of a journal never
        go back, so a few are looked at."""
        mine = (entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id)
        first, last = 0, newest
        while first < last:
            middle = (first + last + 1) // 2
            found = self.connection.execute(select(entries.c.at_us).where(*mine, entries.c.seq == middle)).scalar()
            if found is not None and found <= at_us:
                first = middle
            else:
                last = middle - 1
        return first

    def tenant_page(self, *, after: int, limit: int, bytes_max: int = PAGE_BYTES_MAX) -> list[TenantEntry]:
        """Return entries of the tenant's own journal, in the same way."""
        table, mine = tenant_entries, tenant_entries.c.tenant_id == self.tenant_id
        last = self._last(table, mine, table.c.seq > after, limit=limit, bytes_max=bytes_max)
        query = select(table).where(mine, table.c.seq > after, table.c.seq <= last).order_by(table.c.seq)
        return [_tenant_entry_of(row) for row in self.connection.execute(query)]

    def _last(self, table: Table, *where: ColumnElement[bool], limit: int, bytes_max: int) -> int:
        """Return the number of the last entry that fits, by their sizes only; 0 if there is none."""
        sizes = (
            select(table.c.seq, byte_length(self.connection, table.c.body).label("size"))
            .where(*where)
            .order_by(table.c.seq)
        )
        found = self.connection.execute(sizes.limit(limit))
        return max(fitting(((row.seq, row.size) for row in found), bytes_max), default=0)

    def at(self, dataset_id: UUID, seq: int) -> Entry | None:
        """Return one entry, as it is stored."""
        mine = (entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id, entries.c.seq == seq)
        row = self.connection.execute(select(entries).where(*mine)).one_or_none()
        return None if row is None else entry_of(row)

    def _with_requests(self, page: Sequence[Entry], bytes_max: int) -> list[Entry]:
        """Return the entries, with the requests that they name by their digests; as many as fit."""
        places = {entry.seq: place for entry in page if (place := _request_in(entry.body)) is not None}
        if not places:
            return list(page)
        sizes = self._sizes(places.values())
        sized = ((entry, len(entry.body.encode()) + sizes.get(places.get(entry.seq, _NOWHERE), 0)) for entry in page)
        kept = list(fitting(sized, bytes_max))
        requests = self._requests([places[entry.seq] for entry in kept if entry.seq in places])
        return [replace(entry, request=requests.get(places.get(entry.seq, _NOWHERE))) for entry in kept]

    def _sizes(self, places: Iterable[tuple[UUID, int]]) -> dict[tuple[UUID, int], int]:
        query = select(entries.c.dataset_id, entries.c.seq, byte_length(self.connection, entries.c.body).label("size"))
        rows = self.connection.execute(query.where(self._is_at(places)))
        return {(row.dataset_id, row.seq): row.size for row in rows}

    def _requests(self, places: Iterable[tuple[UUID, int]]) -> dict[tuple[UUID, int], str]:
        """Return the requests of the entries in these places, as they are hashed."""
        query = select(entries.c.dataset_id, entries.c.seq, entries.c.body).where(self._is_at(places))
        return {
            (row.dataset_id, row.seq): chain.canonical(chain.parse(row.body).get("request"))
            for row in self.connection.execute(query)
        }

    def _is_at(self, places: Iterable[tuple[UUID, int]]) -> ColumnElement[bool]:
        is_one = pairs_among(self.connection, (entries.c.dataset_id, entries.c.seq), places)
        return and_(entries.c.tenant_id == self.tenant_id, is_one)

    def hashes(self, dataset_id: UUID | None, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return numbers and hashes of a dataset's journal, or of the tenant's own if there is no id, oldest first."""
        table = tenant_entries if dataset_id is None else entries
        query = select(table.c.seq, table.c.hash).where(table.c.tenant_id == self.tenant_id, table.c.seq > after)
        if dataset_id is not None:
            query = query.where(entries.c.dataset_id == dataset_id)
        rows = self.connection.execute(query.order_by(table.c.seq).limit(limit))
        return [(row.seq, bytes(row.hash)) for row in rows]

    def accounts_for(self, dataset_id: UUID, seq: int, hash_: bytes) -> bool:
        """Return whether an entry of the journal states that this one was lost, and accounts for it."""
        mine = (entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id, entries.c.seq <= seq)
        query = select(entries.c.body).where(*mine, entries.c.kind == "budget-set")
        bodies = self.connection.execute(query.order_by(entries.c.seq.desc()).limit(ANSWERS_MAX)).scalars()
        stated = (chain.parse(body).get("lost") for body in bodies if '"lost":' in body)
        return any(Lost.from_facts(lost).covers(seq, hash_) for lost in stated if lost is not None)

    def newest(self, dataset_ids: Sequence[UUID]) -> dict[UUID, Entry]:
        """Return the newest entry of each of these journals, whatever head the dataset's row has."""
        newest_seq = (
            select(func.max(entries.c.seq))
            .where(entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == datasets.c.id)
            .correlate(datasets)
            .scalar_subquery()
        )
        query = (
            select(entries)
            .join(datasets, and_(datasets.c.tenant_id == entries.c.tenant_id, datasets.c.id == entries.c.dataset_id))
            .where(datasets.c.tenant_id == self.tenant_id, datasets.c.id.in_(dataset_ids), entries.c.seq == newest_seq)
        )
        return {row.dataset_id: entry_of(row) for row in self.connection.execute(query)}

    def newest_of_tenant(self) -> TenantEntry | None:
        """Return the newest entry of the tenant's own journal."""
        mine = select(tenant_entries).where(tenant_entries.c.tenant_id == self.tenant_id)
        row = self.connection.execute(mine.order_by(tenant_entries.c.seq.desc()).limit(1)).one_or_none()
        return None if row is None else _tenant_entry_of(row)

    def run_entries(self, run_ids: Sequence[UUID]) -> dict[UUID, list[Entry]]:
        """Return every entry of these runs, oldest first, as it is stored."""
        query = select(entries).where(entries.c.tenant_id == self.tenant_id, entries.c.run_id.in_(run_ids))
        # Sorted here: asked for this order, a database would rather walk along the journals than seek the runs.
        rows = self.connection.execute(query).all() if run_ids else []
        return _by_run(run_ids, map(entry_of, sorted(rows, key=lambda row: (str(row.dataset_id), row.seq))))

    def moves(self, run_ids: Sequence[UUID], dataset_id: UUID) -> dict[UUID, list[Entry]]:
        """Return what happened to these runs after their decision: their entries in one journal, oldest first."""
        query = (
            select(entries)
            .where(entries.c.tenant_id == self.tenant_id, entries.c.run_id.in_(run_ids))
            .where(entries.c.dataset_id == dataset_id, entries.c.kind.not_in(_DECISIONS))
            .order_by(entries.c.seq)
        )
        moved = [entry_of(row) for row in self.connection.execute(query)]
        requests = self._requests(filter(None, (_request_in(entry.body) for entry in moved)))
        return _by_run(run_ids, (_with_request(entry, requests) for entry in moved))

    def first_entries(self, run_ids: Sequence[UUID], *, bytes_max: int = PAGE_BYTES_MAX) -> dict[UUID, list[Entry]]:
        """Return, for as many of these runs as fit and one at least, the entries of the dataset that each names first:
        they have the request, and what happened to the run."""
        is_first = and_(
            places.c.tenant_id == entries.c.tenant_id,
            places.c.run_id == entries.c.run_id,
            places.c.dataset_id == entries.c.dataset_id,
            places.c.position == 0,
        )
        mine = (entries.c.tenant_id == self.tenant_id, entries.c.run_id.in_(run_ids))
        size = func.sum(byte_length(self.connection, entries.c.body)).label("size")
        rows = self.connection.execute(
            select(entries.c.run_id, size).join(places, is_first).where(*mine).group_by(entries.c.run_id)
        )
        sizes = {row.run_id: int(row.size) for row in rows}
        kept = list(fitting(((run_id, sizes.get(run_id, 0)) for run_id in run_ids), bytes_max))
        query = select(entries).join(places, is_first).where(mine[0], entries.c.run_id.in_(kept))
        return _by_run(kept, map(entry_of, self.connection.execute(query.order_by(entries.c.seq))))

    def settlements(self, runs: Sequence[tuple[UUID, UUID]]) -> dict[tuple[UUID, UUID], Entry]:
        """Return the entries that settled these runs, each a dataset and a run, in the journals of these datasets."""
        query = select(entries).where(
            entries.c.tenant_id == self.tenant_id,
            entries.c.run_id.in_([run_id for _, run_id in runs]),
            entries.c.kind == "run-settled",
            entries.c.dataset_id.in_({dataset_id for dataset_id, _ in runs}),
        )
        return {(row.dataset_id, row.run_id): entry_of(row) for row in self.connection.execute(query)}

    def has(self, entry: Entry) -> bool:
        """Return whether exactly this entry is in the journal. This detects a commit whose answer was lost."""
        query = select(entries.c.hash).where(
            entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == entry.dataset_id, entries.c.seq == entry.seq
        )
        return self.connection.execute(query).scalar() == entry.hash

    def refusals_in_a_row(self, dataset_id: UUID, *, before: int, limit: int) -> int:
        """Return how many runs were refused on a dataset since its last approval, before this entry: counted up to
        `limit`, and at most `TAIL_MAX` entries back."""
        newest = (
            select(entries.c.kind)
            .where(entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id)
            .where(entries.c.seq < before, entries.c.seq >= before - TAIL_MAX)
            .where(entries.c.kind.in_(_DECISIONS))
            .order_by(entries.c.seq.desc())
            .limit(limit)
        )
        kinds = self.connection.execute(newest).scalars().all()
        return next((count for count, kind in enumerate(kinds) if kind != "run-refused"), len(kinds))

    def dataset_ids(self) -> set[UUID]:
        """Return the datasets that have entries, or rows that decisions use, whether or not they are listed."""
        ids: set[UUID] = set()
        for table in (entries, accounts, places, projects, proposals, lineage):
            query = select(table.c.dataset_id).distinct().where(table.c.tenant_id == self.tenant_id)
            ids.update(self.connection.execute(query).scalars())
        return ids


class JournalWriter(JournalReader):
    """Appends entries."""

    def append(self, sealed: Sequence[Entry]) -> None:
        """Append entries to the journals of their datasets."""
        rows = [
            {
                "dataset_id": entry.dataset_id,
                "seq": entry.seq,
                "kind": entry.kind,
                "at_us": entry.at_us,
                "run_id": entry.run_id,
                "body": entry.body,
                "hash": entry.hash,
            }
            for entry in sealed
        ]
        self._add_rows(entries, rows)

    def note(self, kind: str, actor: Mapping[str, Any], facts: Mapping[str, Any], *, now_us: int) -> TenantEntry:
        """Append an entry to the tenant's own journal, whose lock is the last that a transaction takes.

        Raises NotFound if the tenant does not exist any more.
        """
        tenant = TenantWriter(self.connection, self.tenant_id).lock()
        if tenant is None:
            raise NotFound("This tenant does not exist any more.")
        newest = self.newest_of_tenant()
        # A journal's times never go back, even if the clock does, and even for a transaction that waited longer for the
        # lock.
        at_us = now_us if newest is None else max(now_us, newest.at_us)
        entry = chain.seal_of_tenant(
            kind, actor, facts, tenant_id=self.tenant_id, seq=tenant.seq + 1, prev=tenant.head, at_us=at_us
        )
        row = {"seq": entry.seq, "kind": kind, "at_us": at_us, "body": entry.body, "hash": entry.hash}
        self.connection.execute(insert(tenant_entries), {"tenant_id": self.tenant_id, **row})
        self.connection.execute(
            update(tenants).where(tenants.c.tenant_id == self.tenant_id), {"seq": entry.seq, "head": entry.hash}
        )
        return entry


def _by_run(run_ids: Iterable[UUID], found: Iterable[Entry]) -> dict[UUID, list[Entry]]:
    by_run: dict[UUID, list[Entry]] = {run_id: [] for run_id in run_ids}
    for entry in found:
        if entry.run_id is not None:
            by_run[entry.run_id].append(entry)
    return by_run


def _request_in(body: str) -> tuple[UUID, int] | None:
    """Return where the request of an entry is, if that is another entry."""
    # In a JSON text a quotation mark would have a backslash before it; an object of a caller's may have that member.
    if '"request_in":' not in body:
        return None
    place = chain.parse(body).get("request_in")
    return None if place is None else (UUID(place["id"]), place["seq"])


def _with_request(entry: Entry, requests: Mapping[tuple[UUID, int], str]) -> Entry:
    place = _request_in(entry.body)
    return entry if place is None else replace(entry, request=requests.get(place))


def _tenant_entry_of(row: Row[Any]) -> TenantEntry:
    return TenantEntry(row.seq, row.kind, row.at_us, row.body, row.hash)
