"""What is read: one tenant's rows in one snapshot."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    func,
    not_,
    or_,
    select,
    tuple_,
)

from ledger.core.alerting import KeptAlert
from ledger.core.amounts import Amount
from ledger.core.books import Books, ReadSet
from ledger.core.datasets import (
    Account,
    AccountKey,
    Balance,
    Dataset,
    Definition,
    Parent,
    Project,
)
from ledger.core.entries import Entry, TenantEntry
from ledger.core.people import Key, Proposal, Tenant
from ledger.core.runs import Run
from ledger.store.books import NAMES_MAX, held_by
from ledger.store.datasets import is_base
from ledger.store.journals import TAIL_MAX
from ledger.store.rows import (
    account_of,
    alert_of,
    alerting_of,
    dataset_of,
    definition_of,
    entry_of,
    key_of,
    project_of,
    proposal_of,
    run_of,
    tenant_of,
)
from ledger.store.tables import (
    NOBODY,
    accounts,
    alerts,
    certificates,
    datasets,
    entries,
    keys,
    lineage,
    places,
    projects,
    proposals,
    runs,
    tenant_entries,
    tenants,
)


class Reading:
    """One tenant's rows in one snapshot."""

    def __init__(self, connection: Connection, tenant_id: UUID) -> None:
        self.connection = connection
        self.tenant_id = tenant_id
        self._postgresql = connection.dialect.name == "postgresql"

    def now_us(self) -> int:
        """The database's clock. On PostgreSQL clock_timestamp(): now() would be the time before the locks were had."""
        if self._postgresql:
            sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        else:
            sql = (
                "SELECT CAST(strftime('%s', t) AS INTEGER) * 1000000"
                " + CAST(substr(strftime('%f', t), 4) AS INTEGER) * 1000"
                " FROM (SELECT strftime('%Y-%m-%d %H:%M:%f', 'now') AS t)"
            )
        return int(self.connection.exec_driver_sql(sql).scalar_one())

    # --- the tenant

    def tenant(self) -> Tenant | None:
        return self._tenant(select(tenants))

    def _tenant(self, wanted: Select[Any]) -> Tenant | None:
        row = self.connection.execute(wanted.where(tenants.c.tenant_id == self.tenant_id)).one_or_none()
        return None if row is None else tenant_of(row)

    def tenant_entry_page(self, *, after: int, limit: int) -> list[TenantEntry]:
        """The tenant's own journal, oldest first."""
        wanted = (
            select(tenant_entries)
            .where(tenant_entries.c.tenant_id == self.tenant_id, tenant_entries.c.seq > after)
            .order_by(tenant_entries.c.seq)
            .limit(limit)
        )
        return [
            TenantEntry(row.seq, row.kind, row.at_us, row.body, row.hash) for row in self.connection.execute(wanted)
        ]

    def entry_hashes(self, dataset_id: UUID | None, *, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Numbers and hashes of a dataset's journal, or of the tenant's own where there is no id, oldest first."""
        table = tenant_entries if dataset_id is None else entries
        wanted = select(table.c.seq, table.c.hash).where(table.c.tenant_id == self.tenant_id, table.c.seq > after)
        if dataset_id is not None:
            wanted = wanted.where(entries.c.dataset_id == dataset_id)
        rows = self.connection.execute(wanted.order_by(table.c.seq).limit(limit))
        return [(row.seq, bytes(row.hash)) for row in rows]

    # --- keys

    def key_by_digest(self, digest: bytes) -> Key | None:
        row = self.connection.execute(self._keys().where(keys.c.digest == digest)).one_or_none()
        return None if row is None else key_of(row)

    def keys(self, *, after: UUID | None, limit: int) -> list[Key]:
        wanted = self._keys().order_by(keys.c.id).limit(limit)
        if after is not None:
            wanted = wanted.where(keys.c.id > after)
        return [key_of(row) for row in self.connection.execute(wanted)]

    def keys_by_id(self, ids: Sequence[UUID]) -> dict[UUID, Key]:
        rows = self.connection.execute(self._keys().where(keys.c.id.in_(ids)))
        return {row.id: key_of(row) for row in rows}

    def _keys(self) -> Select[Any]:
        return select(keys).where(keys.c.tenant_id == self.tenant_id)

    # --- datasets

    def definitions(
        self, *, names: Collection[str] = (), ids: Collection[UUID] = (), with_ancestors: bool = False
    ) -> list[Definition]:
        """The datasets of these names and ids, and where asked all that they are derived from."""
        asked = or_(datasets.c.name.in_(names), datasets.c.id.in_(ids))
        rows = self.connection.execute(select(datasets).where(self._registered(), asked)).all()
        lines = self._lineage([row.id for row in rows])
        found = [definition_of(row, lines.get(row.id, ())) for row in rows]
        if with_ancestors and lines:
            missing = {id_ for definition in found for id_ in definition.ancestors} - {row.id for row in rows}
            found += self.definitions(ids=missing) if missing else []
        return found

    def _registered(self) -> ColumnElement[bool]:
        # A dataset that is being registered has seq 0 until its transaction ends; none is ever seen so from outside.
        return and_(datasets.c.tenant_id == self.tenant_id, datasets.c.seq > 0)

    def _lineage(self, dataset_ids: Sequence[UUID]) -> dict[UUID, list[Row[Any, Any, Any, Any]]]:
        wanted = (
            select(lineage.c.dataset_id, lineage.c.ancestor_id, lineage.c.position, datasets.c.name)
            .join(datasets, and_(datasets.c.tenant_id == lineage.c.tenant_id, datasets.c.id == lineage.c.ancestor_id))
            .where(lineage.c.tenant_id == self.tenant_id, lineage.c.dataset_id.in_(dataset_ids))
        )
        found: dict[UUID, list[Row[Any, Any, Any, Any]]] = {}
        for row in self.connection.execute(wanted) if dataset_ids else ():
            found.setdefault(row.dataset_id, []).append(row)
        return found

    def dataset(self, name: str) -> Dataset | None:
        found = self._datasets(select(datasets).where(datasets.c.name == name))
        return found[0] if found else None

    def dataset_page(self, *, after: str | None, limit: int, only: frozenset[str] | None) -> list[Dataset]:
        """Datasets by name, the first after `after`; `only` those names, where given."""
        wanted = select(datasets).order_by(datasets.c.name).limit(limit)
        if after is not None:
            wanted = wanted.where(datasets.c.name > after)
        if only is not None:
            wanted = wanted.where(datasets.c.name.in_(sorted(only)))
        return self._datasets(wanted)

    def dataset_names(self, names: Sequence[str]) -> set[str]:
        """Which of these names exist."""
        wanted = select(datasets.c.name).where(datasets.c.tenant_id == self.tenant_id, datasets.c.name.in_(names))
        return set(self.connection.execute(wanted).scalars())

    def _datasets(self, wanted: Select[Any]) -> list[Dataset]:
        rows = self.connection.execute(wanted.where(self._registered())).all()
        lines = self._lineage([row.id for row in rows])
        return [dataset_of(row, lines.get(row.id, ())) for row in rows]

    # --- accounts

    def balances(self, dataset_ids: Collection[UUID]) -> dict[tuple[UUID, str | None], Balance]:
        """What each of these datasets comes to over its partitions, and each of its projects, as (dataset, project)."""
        parts = ("mu_sq_pico", "delta_atto")
        columns = {
            f"{part}_{quantity}": aggregate
            for quantity in parts
            for part, aggregate in (
                ("limit", func.max(accounts.c[f"limit_{quantity}"])),
                ("spent", func.max(accounts.c[f"spent_{quantity}"])),
                ("held", func.max(accounts.c[f"held_{quantity}"])),
                # In this order, in which no 64-bit integer overflows: held is never above the limit.
                (
                    "left",
                    func.min(
                        accounts.c[f"limit_{quantity}"]
                        - accounts.c[f"held_{quantity}"]
                        - accounts.c[f"spent_{quantity}"]
                    ),
                ),
            )
        }
        wanted = (
            select(accounts.c.dataset_id, accounts.c.project, *(column.label(name) for name, column in columns.items()))
            .where(self._of(dataset_ids), accounts.c.principal_id == NOBODY)
            .group_by(accounts.c.dataset_id, accounts.c.project)
        )
        return {
            (row.dataset_id, row.project or None): Balance(
                *(
                    Amount(*(getattr(row, f"{part}_{quantity}") for quantity in parts))
                    for part in ("limit", "spent", "held", "left")
                )
            )
            for row in self.connection.execute(wanted)
        }

    def partition_page(self, dataset_id: UUID, *, after: str | None, limit: int) -> list[Account]:
        """A dataset's partitions by name, as their accounts."""
        wanted = select(accounts).where(self._of([dataset_id]), is_base(), accounts.c.partition > (after or ""))
        return [account_of(row) for row in self.connection.execute(wanted.order_by(accounts.c.partition).limit(limit))]

    def partition_counts(self, dataset_ids: Collection[UUID]) -> dict[UUID, int]:
        """How many partitions each of these datasets has."""
        wanted = (
            select(accounts.c.dataset_id, func.count())
            .where(self._of(dataset_ids), is_base(), accounts.c.partition != "")
            .group_by(accounts.c.dataset_id)
        )
        return {row[0]: row[1] for row in self.connection.execute(wanted)}

    def projects_of(self, dataset_ids: Collection[UUID], names: Collection[str] | None = None) -> list[Project]:
        """The projects that have a share of these datasets, by name; `names` those alone."""
        wanted = select(projects).where(projects.c.tenant_id == self.tenant_id, projects.c.dataset_id.in_(dataset_ids))
        if names is not None:
            wanted = wanted.where(projects.c.name.in_(names))
        return [project_of(row) for row in self.connection.execute(wanted.order_by(projects.c.name))]

    def datasets_of_project(self, name: str) -> frozenset[str]:
        """The names of the datasets in which a project has a share or runs."""
        with_share = select(projects.c.dataset_id).where(
            projects.c.tenant_id == self.tenant_id, projects.c.name == name
        )
        with_runs = (
            select(places.c.dataset_id)
            .join(runs, and_(runs.c.tenant_id == places.c.tenant_id, runs.c.id == places.c.run_id))
            .where(places.c.tenant_id == self.tenant_id, runs.c.tenant_id == self.tenant_id, runs.c.project == name)
        )
        of_these = or_(datasets.c.id.in_(with_share), datasets.c.id.in_(with_runs))
        wanted = select(datasets.c.name).where(self._registered(), of_these)
        return frozenset(self.connection.execute(wanted).scalars())

    def account_page(self, dataset_id: UUID, *, after: AccountKey | None, limit: int) -> list[Account]:
        """All accounts of a dataset, in the order of their keys."""
        parts = (accounts.c.project, accounts.c.principal_id, accounts.c.partition)
        wanted = select(accounts).where(self._of([dataset_id]))
        if after is not None:
            place = tuple_(
                after.project or "", after.principal_id or NOBODY, after.partition or "", types=[p.type for p in parts]
            )
            wanted = wanted.where(tuple_(*parts) > place)
        return [account_of(row) for row in self.connection.execute(wanted.order_by(*parts).limit(limit))]

    def _of(self, dataset_ids: Collection[UUID]) -> ColumnElement[bool]:
        return and_(accounts.c.tenant_id == self.tenant_id, accounts.c.dataset_id.in_(dataset_ids))

    # --- what a decision sees

    def books(self, wanted: Mapping[UUID, ReadSet], *, run_ids: Sequence[UUID] = ()) -> Books:
        """What these datasets are decided on, as it is now. Their definitions here know nothing of lineage, which was
        resolved before."""
        return self._books(self.connection.execute(self._decided_on(wanted)).all(), wanted, run_ids)

    def _decided_on(self, wanted: Mapping[UUID, ReadSet]) -> Select[Any]:
        """The datasets, and beside each what the tenant wants to be told of, so that this takes no question more."""
        told = select(tenants.c.alerting).where(tenants.c.tenant_id == self.tenant_id).scalar_subquery()
        of_these = select(datasets, told.label("alerting"))
        mine = (datasets.c.tenant_id == self.tenant_id, datasets.c.id.in_(list(wanted)))
        return of_these.where(*mine).order_by(datasets.c.id)

    def _books(self, rows: Sequence[Row[Any]], wanted: Mapping[UUID, ReadSet], run_ids: Sequence[UUID]) -> Books:
        found = [dataset_of(row, ()) for row in rows]
        books = Books(
            datasets={dataset.id: dataset for dataset in found},
            alerting=alerting_of(rows[0].alerting if rows else None),
        )
        for asked in self._account_queries(found, wanted):
            of_them = self.connection.execute(select(accounts).where(accounts.c.tenant_id == self.tenant_id, asked))
            books.accounts.update((account.key, account) for account in map(account_of, of_them))
        for key in books.accounts:
            if key.is_base and key.partition is not None:
                books.partitions[key.dataset_id] = (*books.partitions.get(key.dataset_id, ()), key.partition)
        for dataset in found:
            if dataset.definition.is_partitioned:
                books.partitions.setdefault(dataset.id, ())
        books.projects.update(self._projects_for(wanted))
        if run_ids:
            books.runs.update(self.runs_by_id(run_ids))
        guarded = [id_ for id_, asked in wanted.items() if asked.is_guarded]
        if guarded:
            tenant = self.tenant()
            books = replace(
                books,
                takes_two=tenant is not None and tenant.second_steward,
                overdrawn=self._overdrawn(guarded),
                proposals={proposal.id: proposal for proposal in self._open_proposals(guarded)},
            )
        for dataset in found:
            if dataset.fair_use.runs_per_hour is not None:
                for principal_id in wanted[dataset.id].principals:
                    newest = self._newest_runs(dataset.id, principal_id, limit=dataset.fair_use.runs_per_hour)
                    books.recent[dataset.id, principal_id] = newest
        return books

    def _account_queries(
        self, found: Sequence[Dataset], wanted: Mapping[UUID, ReadSet]
    ) -> Iterator[ColumnElement[bool]]:
        """One for all datasets that are counted as a whole, and one for each that has partitions."""
        whole = [dataset.id for dataset in found if not dataset.definition.is_partitioned]
        if whole:
            yield and_(
                accounts.c.dataset_id.in_(whole), accounts.c.partition == "", held_by(wanted[id_] for id_ in whole)
            )
        for dataset in found:
            asked = wanted[dataset.id]
            if not dataset.definition.is_partitioned or asked.partitions == set():
                continue
            of_it = [accounts.c.dataset_id == dataset.id, held_by([asked])]
            if asked.partitions is not None and len(asked.partitions) <= NAMES_MAX:
                of_it.append(accounts.c.partition.in_(sorted(asked.partitions)))
            yield and_(*of_it)

    def _projects_for(self, wanted: Mapping[UUID, ReadSet]) -> dict[tuple[UUID, str], Project]:
        ids = [id_ for id_, asked in wanted.items() if asked.projects]
        if not ids:
            return {}
        is_every = any(wanted[id_].is_every_project for id_ in ids)
        names = None if is_every else {name for id_ in ids for name in wanted[id_].projects}
        return {(project.dataset_id, project.name): project for project in self.projects_of(ids, names)}

    def _overdrawn(self, dataset_ids: Collection[UUID]) -> frozenset[UUID]:
        """Which of these datasets have an account that is overdrawn."""
        is_overdrawn = or_(accounts.c.overdrawn_mu_sq_pico > 0, accounts.c.overdrawn_delta_atto > 0)
        wanted = select(accounts.c.dataset_id).distinct().where(self._of(dataset_ids), is_overdrawn)
        return frozenset(self.connection.execute(wanted).scalars())

    def _open_proposals(self, dataset_ids: Collection[UUID]) -> list[Proposal]:
        wanted = select(proposals).where(
            proposals.c.tenant_id == self.tenant_id,
            proposals.c.dataset_id.in_(dataset_ids),
            proposals.c.state == "open",
        )
        return [proposal_of(row) for row in self.connection.execute(wanted)]

    def proposal(self, proposal_id: UUID) -> Proposal | None:
        wanted = select(proposals).where(proposals.c.tenant_id == self.tenant_id, proposals.c.id == proposal_id)
        row = self.connection.execute(wanted).one_or_none()
        return None if row is None else proposal_of(row)

    def proposal_page(
        self, *, after: tuple[int, UUID] | None, limit: int, state: str | None, now_us: int
    ) -> list[Proposal]:
        """Proposals, newest first; `expired` is an open one whose time is up."""
        wanted = select(proposals).where(proposals.c.tenant_id == self.tenant_id)
        if after is not None:
            types = [proposals.c.created_us.type, proposals.c.id.type]
            wanted = wanted.where(tuple_(proposals.c.created_us, proposals.c.id) < tuple_(*after, types=types))
        if state is not None:
            wanted = wanted.where(proposals.c.state == ("open" if state == "expired" else state))
        if state in ("open", "expired"):
            is_late = proposals.c.expires_us <= now_us
            wanted = wanted.where(is_late if state == "expired" else not_(is_late))
        newest_first = wanted.order_by(proposals.c.created_us.desc(), proposals.c.id.desc()).limit(limit)
        return [proposal_of(row) for row in self.connection.execute(newest_first)]

    def _newest_runs(self, dataset_id: UUID, principal_id: UUID, *, limit: int) -> tuple[int, ...]:
        """When a principal's newest runs on a dataset were decided, oldest first."""
        newest = (
            select(places.c.created_us)
            .where(places.c.tenant_id == self.tenant_id, places.c.dataset_id == dataset_id)
            .where(places.c.principal_id == principal_id)
            .order_by(places.c.created_us.desc())
            .limit(limit)
        )
        return tuple(reversed(self.connection.execute(newest).scalars().all()))

    # --- runs

    def runs_by_id(self, ids: Sequence[UUID]) -> dict[UUID, Run]:
        wanted = select(runs).where(runs.c.tenant_id == self.tenant_id, runs.c.id.in_(ids))
        return {row.id: run_of(row) for row in self.connection.execute(wanted)}

    def run_page(
        self,
        *,
        after: tuple[int, UUID] | None,
        limit: int,
        dataset_id: UUID | None = None,
        state: str | None = None,
        project: str | None = None,
        due_before_us: int | None = None,
        not_due_before_us: int | None = None,
        principal_id: UUID | None = None,
        within: frozenset[str] | None = None,
    ) -> list[Run]:
        """Runs, newest first, that satisfy every filter given; `within` limits them to datasets of those names."""
        wanted = select(runs).where(runs.c.tenant_id == self.tenant_id)
        created_us, run_id = runs.c.created_us, runs.c.id
        if dataset_id is not None:
            # In the order of that dataset's places, so that a page is a walk along its index.
            wanted = wanted.join(places, and_(places.c.tenant_id == runs.c.tenant_id, places.c.run_id == runs.c.id))
            wanted = wanted.where(places.c.tenant_id == self.tenant_id, places.c.dataset_id == dataset_id)
            created_us, run_id = places.c.created_us, places.c.run_id
        if after is not None:
            wanted = wanted.where(tuple_(created_us, run_id) < tuple_(*after, types=[created_us.type, run_id.type]))
        if state is not None:
            wanted = wanted.where(runs.c.state == state)
        if project is not None:
            wanted = wanted.where(runs.c.project == project)
        if due_before_us is not None:
            wanted = wanted.where(runs.c.due_us < due_before_us)
        if not_due_before_us is not None:
            wanted = wanted.where(or_(runs.c.due_us.is_(None), runs.c.due_us >= not_due_before_us))
        if principal_id is not None:
            wanted = wanted.where(runs.c.principal_id == principal_id)
        if within is not None:
            of_names = (
                select(places.c.run_id)
                .join(datasets, and_(datasets.c.tenant_id == places.c.tenant_id, datasets.c.id == places.c.dataset_id))
                .where(places.c.tenant_id == self.tenant_id, datasets.c.name.in_(sorted(within)))
            )
            wanted = wanted.where(runs.c.id.in_(of_names))
        newest_first = wanted.order_by(created_us.desc(), run_id.desc()).limit(limit)
        return [run_of(row) for row in self.connection.execute(newest_first)]

    def place_page(
        self, dataset_id: UUID, *, after: tuple[int, UUID] | None, limit: int
    ) -> list[tuple[UUID, int, UUID, int]]:
        """Where runs were decided in a dataset, oldest first: run, seq, principal, and when. after: when, and which."""
        parts = (places.c.created_us, places.c.run_id)
        wanted = select(places.c.run_id, places.c.seq, places.c.principal_id, places.c.created_us).where(
            places.c.tenant_id == self.tenant_id, places.c.dataset_id == dataset_id
        )
        if after is not None:
            wanted = wanted.where(tuple_(*parts) > tuple_(*after, types=[part.type for part in parts]))
        rows = self.connection.execute(wanted.order_by(*parts).limit(limit))
        return [(row.run_id, row.seq, row.principal_id, row.created_us) for row in rows]

    def run_nowhere(self) -> UUID | None:
        """A run that has a row and was decided in no dataset, of which there is to be none."""
        placed = select(places.c.run_id).where(places.c.tenant_id == self.tenant_id, places.c.run_id == runs.c.id)
        wanted = select(runs.c.id).where(runs.c.tenant_id == self.tenant_id, not_(placed.exists())).limit(1)
        found: UUID | None = self.connection.execute(wanted).scalar()
        return found

    def proposal_ids(self, dataset_id: UUID) -> set[UUID]:
        """The proposals whose rows are this dataset's."""
        wanted = select(proposals.c.id).where(
            proposals.c.tenant_id == self.tenant_id, proposals.c.dataset_id == dataset_id
        )
        return set(self.connection.execute(wanted).scalars())

    def named(self, *, after: str | None, limit: int) -> list[tuple[str, UUID]]:
        """Names and ids of datasets by name, whatever else their rows say."""
        wanted = select(datasets.c.name, datasets.c.id).where(
            datasets.c.tenant_id == self.tenant_id, datasets.c.name > (after or "")
        )
        return [(row.name, row.id) for row in self.connection.execute(wanted.order_by(datasets.c.name).limit(limit))]

    def journal_ids(self) -> set[UUID]:
        """The datasets that have entries, or rows that decisions are made on, whether or not they are listed."""
        found: set[UUID] = set()
        for table in (entries, accounts, places, projects, proposals, lineage):
            wanted = select(table.c.dataset_id).distinct().where(table.c.tenant_id == self.tenant_id)
            found.update(self.connection.execute(wanted).scalars())
        return found

    # --- the cache of certificates

    def certificate(self, digest: bytes) -> str | None:
        wanted = select(certificates.c.body).where(
            certificates.c.tenant_id == self.tenant_id, certificates.c.digest == digest
        )
        return self.connection.execute(wanted).scalar()

    # --- alerts

    def alert_page(
        self,
        *,
        after: tuple[int, UUID] | None,
        limit: int,
        kind: str | None = None,
        dataset_id: UUID | None = None,
        state: str | None = None,
        within: frozenset[str] | None = None,
    ) -> list[KeptAlert]:
        """Alerts, newest first, that satisfy every filter given; `within` limits them to datasets of those names."""
        wanted = select(alerts).where(alerts.c.tenant_id == self.tenant_id)
        if after is not None:
            types = [alerts.c.at_us.type, alerts.c.id.type]
            wanted = wanted.where(tuple_(alerts.c.at_us, alerts.c.id) < tuple_(*after, types=types))
        for column, value in ((alerts.c.kind, kind), (alerts.c.dataset_id, dataset_id), (alerts.c.state, state)):
            if value is not None:
                wanted = wanted.where(column == value)
        if within is not None:
            named = select(datasets.c.id).where(
                datasets.c.tenant_id == self.tenant_id, datasets.c.name.in_(sorted(within))
            )
            wanted = wanted.where(alerts.c.dataset_id.in_(named))
        newest_first = wanted.order_by(alerts.c.at_us.desc(), alerts.c.id.desc()).limit(limit)
        return [alert_of(row) for row in self.connection.execute(newest_first)]

    def alert(self, alert_id: UUID) -> KeptAlert | None:
        wanted = select(alerts).where(alerts.c.tenant_id == self.tenant_id, alerts.c.id == alert_id)
        row = self.connection.execute(wanted).one_or_none()
        return None if row is None else alert_of(row)

    def pending_alerts(self) -> int:
        """How many alerts wait to be delivered."""
        wanted = select(func.count()).where(alerts.c.tenant_id == self.tenant_id, alerts.c.state == "pending")
        return int(self.connection.execute(wanted).scalar_one())

    def has_due_alerts(self, now_us: int) -> bool:
        """Whether one is due now."""
        wanted = select(alerts.c.id).where(
            alerts.c.tenant_id == self.tenant_id, alerts.c.state == "pending", alerts.c.next_us <= now_us
        )
        return self.connection.execute(wanted.limit(1)).scalar() is not None

    def alerts_beyond(self, most: int) -> bool:
        """Whether there are more than so many."""
        wanted = select(alerts.c.id).where(alerts.c.tenant_id == self.tenant_id)
        newest_first = wanted.order_by(alerts.c.at_us.desc(), alerts.c.id.desc())
        return self.connection.execute(newest_first.offset(most).limit(1)).scalar() is not None

    def known_alerts(self, ids: Collection[UUID]) -> set[UUID]:
        """Which of these alerts are there already."""
        wanted = select(alerts.c.id).where(alerts.c.tenant_id == self.tenant_id, alerts.c.id.in_(ids))
        return set(self.connection.execute(wanted).scalars())

    def due_runs(self, *, after: tuple[int, UUID], until_us: int, limit: int) -> list[tuple[Run, Parent, int]]:
        """Runs that were due after the one and before the other time, the first due first; each once for every dataset
        that it touches, which comes with it, as does the number of the entry there that decided it. At most `limit`
        runs, the last of which is whole."""
        place = tuple_(*after, types=[runs.c.due_us.type, runs.c.id.type])
        first = (
            select(runs)
            .where(runs.c.tenant_id == self.tenant_id, runs.c.due_us < until_us)
            .where(tuple_(runs.c.due_us, runs.c.id) > place)
            .order_by(runs.c.due_us, runs.c.id)
            .limit(limit)
        )
        due = {row.id: run_of(row) for row in self.connection.execute(first)}
        wanted = (
            select(places.c.run_id, places.c.dataset_id, places.c.seq, datasets.c.name)
            .join(datasets, and_(datasets.c.tenant_id == places.c.tenant_id, datasets.c.id == places.c.dataset_id))
            .where(places.c.tenant_id == self.tenant_id, places.c.run_id.in_(due))
        )
        of_run: dict[UUID, list[tuple[Run, Parent, int]]] = {}
        for row in self.connection.execute(wanted) if due else ():
            of_run.setdefault(row.run_id, []).append((due[row.run_id], Parent(row.dataset_id, row.name), row.seq))
        return [each for run_id in due for each in of_run.get(run_id, ())]

    def newest_entries(self, dataset_ids: Sequence[UUID]) -> dict[UUID, Entry]:
        """The newest entry of each of these journals, whatever the dataset's row says of it."""
        newest = (
            select(func.max(entries.c.seq))
            .where(entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == datasets.c.id)
            .correlate(datasets)
            .scalar_subquery()
        )
        wanted = (
            select(entries)
            .join(datasets, and_(datasets.c.tenant_id == entries.c.tenant_id, datasets.c.id == entries.c.dataset_id))
            .where(datasets.c.tenant_id == self.tenant_id, datasets.c.id.in_(dataset_ids), entries.c.seq == newest)
        )
        return {row.dataset_id: entry_of(row) for row in self.connection.execute(wanted)}

    def newest_tenant_entry(self) -> TenantEntry | None:
        """The newest entry of the tenant's own journal."""
        mine = select(tenant_entries).where(tenant_entries.c.tenant_id == self.tenant_id)
        row = self.connection.execute(mine.order_by(tenant_entries.c.seq.desc()).limit(1)).one_or_none()
        return None if row is None else TenantEntry(row.seq, row.kind, row.at_us, row.body, row.hash)

    def refusals_in_a_row(self, dataset_id: UUID, *, before: int, limit: int) -> int:
        """How many runs were refused on a dataset since it approved one, before this entry: counted up to `limit`, and
        no further back than `TAIL_MAX` entries."""
        newest = (
            select(entries.c.kind)
            .where(entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id)
            .where(entries.c.seq < before, entries.c.seq >= before - TAIL_MAX)
            .where(entries.c.kind.in_(("run-approved", "run-refused")))
            .order_by(entries.c.seq.desc())
            .limit(limit)
        )
        kinds = self.connection.execute(newest).scalars().all()
        return next((count for count, kind in enumerate(kinds) if kind != "run-refused"), len(kinds))

    def approvals_since(self, dataset_id: UUID, *, since_us: int, limit: int) -> list[tuple[Run, Entry]]:
        """The runs that a dataset approved since then, newest first, each with the entry there that says so."""
        wanted = (
            select(runs, entries.c.seq, entries.c.kind, entries.c.at_us, entries.c.body, entries.c.hash)
            .select_from(places)
            .join(runs, and_(runs.c.tenant_id == places.c.tenant_id, runs.c.id == places.c.run_id))
            .join(
                entries,
                and_(
                    entries.c.tenant_id == places.c.tenant_id,
                    entries.c.dataset_id == places.c.dataset_id,
                    entries.c.seq == places.c.seq,
                ),
            )
            .where(places.c.tenant_id == self.tenant_id, places.c.dataset_id == dataset_id)
            .where(places.c.created_us >= since_us, runs.c.state != "refused")
            .order_by(places.c.created_us.desc(), places.c.run_id.desc())
            .limit(limit)
        )
        return [
            (run_of(row), Entry(dataset_id, row.seq, row.kind, row.at_us, row.id, row.body, row.hash))
            for row in self.connection.execute(wanted)
        ]

    def settlements(self, dataset_id: UUID, run_ids: Sequence[UUID]) -> dict[UUID, Entry]:
        """How these runs were settled, as the dataset's journal has it."""
        wanted = select(entries).where(
            entries.c.tenant_id == self.tenant_id,
            entries.c.run_id.in_(run_ids),
            entries.c.kind == "run-settled",
            entries.c.dataset_id == dataset_id,
        )
        return {row.run_id: entry_of(row) for row in self.connection.execute(wanted)}

    # --- the journal

    def entry_page(self, dataset_id: UUID, *, after: int, limit: int) -> list[Entry]:
        wanted = (
            select(entries)
            .where(entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == dataset_id, entries.c.seq > after)
            .order_by(entries.c.seq)
            .limit(limit)
        )
        return [entry_of(row) for row in self.connection.execute(wanted)]

    def entries_of_runs(self, run_ids: Sequence[UUID], *, dataset_id: UUID | None = None) -> dict[UUID, list[Entry]]:
        """Every entry of these runs, oldest first; those of one dataset's journal alone, where it is given."""
        wanted = (
            select(entries)
            .where(entries.c.tenant_id == self.tenant_id, entries.c.run_id.in_(run_ids))
            .order_by(entries.c.dataset_id, entries.c.seq)
        )
        if dataset_id is not None:
            wanted = wanted.where(entries.c.dataset_id == dataset_id)
        found: dict[UUID, list[Entry]] = {run_id: [] for run_id in run_ids}
        for row in self.connection.execute(wanted):
            found[row.run_id].append(entry_of(row))
        return found

    def has_entry(self, entry: Entry) -> bool:
        """Whether exactly this entry is in the journal: how a commit is recognised whose answer was lost."""
        wanted = select(entries.c.hash).where(
            entries.c.tenant_id == self.tenant_id, entries.c.dataset_id == entry.dataset_id, entries.c.seq == entry.seq
        )
        return self.connection.execute(wanted).scalar() == entry.hash
