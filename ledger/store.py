"""All SQL, for PostgreSQL and SQLite.

A `Reading` sees one tenant in one consistent snapshot; a `Writing` changes it. Only `ledger.writer` and `ledger.deploy`
open a writing transaction, and `ledger.certificates` for its cache, which is no record and locks nothing else. Rows are
locked in one order everywhere: idempotency keys (sorted), dataset names (sorted), datasets (by id); what hangs under a
dataset (accounts, projects, runs, entries) is protected by its dataset's lock; the tenant's own journal comes last.

On PostgreSQL each transaction says first whose it is, for row-level security (see `ledger.tables`). The predicates on
`tenant_id` in every statement do not rely on that: SQLite has none.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    Table,
    and_,
    bindparam,
    create_engine,
    delete,
    event,
    func,
    insert,
    make_url,
    not_,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from ledger import journal
from ledger.alerts import event as event_of
from ledger.alerts import id_of
from ledger.errors import NameTaken, NotFound
from ledger.model import (
    NO_FAIR_USE,
    NO_HASH,
    Account,
    AccountKey,
    Actor,
    Alert,
    Alerting,
    AlertKind,
    Amount,
    Balance,
    Books,
    Claim,
    Dataset,
    Definition,
    DeliveryState,
    Entry,
    KeptAlert,
    Parent,
    Project,
    Proposal,
    Register,
    Role,
    Run,
    Tenant,
    TenantEntry,
    Wanted,
)
from ledger.rows import (
    account_of,
    alert_of,
    alerting_of,
    amount_row,
    amounts_row,
    dataset_of,
    definition_of,
    entry_of,
    key_row,
    project_of,
    proposal_of,
    run_of,
    run_row,
    tenant_of,
)
from ledger.tables import (
    NOBODY,
    TENANT_SETTING,
    Uid,
    accounts,
    alerts,
    certificates,
    claims,
    datasets,
    entries,
    keys,
    lineage,
    operator_keys,
    places,
    projects,
    proposals,
    runs,
    tenant_entries,
    tenants,
)

SQLITE_BUSY_SECONDS: Final = 10
WAL_TRIES_MAX: Final = 20
POSTGRESQL_OPTIONS: Final = (
    "-c lock_timeout=10s -c statement_timeout=30s -c idle_in_transaction_session_timeout=60s -c timezone=UTC"
)
TAIL_MAX: Final = 200
"""How far back in a journal refusals in a row are counted, in entries."""
NAMES_MAX: Final = 500
"""How many partitions are asked for by name; where a group names more, all are read."""
RETRYABLE: Final = frozenset({"40001", "40P01"})  # serialization_failure, deadlock_detected


@dataclass(frozen=True, slots=True)
class Key:
    """A key as it is kept: everything but its secret."""

    id: UUID
    principal_id: UUID
    name: str
    role: Role
    datasets: tuple[str, ...] | None
    created_us: int
    expires_us: int | None
    revoked_us: int | None
    projects: tuple[str, ...] | None = None
    last_used_us: int | None = None

    def is_live(self, now_us: int) -> bool:
        return self.revoked_us is None and (self.expires_us is None or self.expires_us > now_us)


@dataclass(frozen=True, slots=True)
class Claimed:
    """What an idempotency key already stands for."""

    principal_id: UUID
    digest: bytes
    run_id: UUID


def engine_for(url: str, *, pool_size: int = 20) -> Engine:
    """An engine for a database URL: `sqlite:///file` or `postgresql://…` (always through psycopg 3)."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "postgresql":
        return create_engine(
            parsed.set(drivername="postgresql+psycopg"),
            pool_size=pool_size,
            max_overflow=0,
            pool_pre_ping=True,
            pool_timeout=10,
            connect_args={"options": POSTGRESQL_OPTIONS, "connect_timeout": 5, "application_name": "privacy-ledger"},
        )
    engine = create_engine(
        parsed, pool_size=pool_size, max_overflow=0, pool_timeout=10, connect_args={"timeout": SQLITE_BUSY_SECONDS}
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # BEGIN is ours to say, below
    _use_wal(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _use_wal(connection: sqlite3.Connection) -> None:
    """Write-ahead logging, which a file keeps. Changing to it fails at once where another process does the same,
    whatever the busy timeout; a transaction waits for that one, and then nothing is left to change."""
    for is_last in [False] * (WAL_TRIES_MAX - 1) + [True]:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if is_last or getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY:
                raise
        connection.execute("BEGIN IMMEDIATE").close()
        connection.execute("COMMIT").close()


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that turns into a writing one fails at once when another writes, whatever the busy timeout.
    writing = connection.get_execution_options().get("writing", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")


def failure_kind(error: Exception) -> Literal["retry", "unavailable", "other"]:
    """What a database error means for the one who asked: try the same again, come back later, or neither."""
    if isinstance(error, PoolTimeout):
        return "unavailable"
    if not isinstance(error, DBAPIError):
        return "other"
    if error.connection_invalidated:
        return "unavailable"
    if isinstance(error.orig, sqlite3.OperationalError):
        primary = (getattr(error.orig, "sqlite_errorcode", 0) or 0) & 0xFF
        busy = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
        return "unavailable" if primary in (*busy, sqlite3.SQLITE_CANTOPEN) else "other"
    state = getattr(error.orig, "sqlstate", None)
    if state in RETRYABLE:
        return "retry"
    # No state: the connection was never made. 08 connection, 53 resources, 57 shutdown or timeout, 55P03 lock timeout.
    if getattr(error.orig, "sqlstate", "") is None or str(state)[:2] in ("08", "53", "57") or state == "55P03":
        return "unavailable"
    return "other"


class Store:
    """The database. `reading` and `writing` open a transaction for one tenant."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._readers: Engine
        self._writers: Engine
        if engine.dialect.name == "postgresql":
            self._readers = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            self._writers = engine.execution_options(isolation_level="READ COMMITTED")
        else:
            self._readers = engine
            self._writers = engine.execution_options(writing=True)

    @contextmanager
    def reading(self, tenant_id: UUID) -> Iterator[Reading]:
        with self._readers.begin() as connection:
            self._say_tenant(connection, tenant_id)
            yield Reading(connection, tenant_id)

    @contextmanager
    def writing(self, tenant_id: UUID) -> Iterator[Writing]:
        """Commits when the block ends, rolls back when it raises."""
        with self._writers.begin() as connection:
            self._say_tenant(connection, tenant_id)
            yield Writing(connection, tenant_id)

    @staticmethod
    def _say_tenant(connection: Connection, tenant_id: UUID) -> None:
        """For this transaction alone: SET LOCAL ends with it, however it ends."""
        if not isinstance(tenant_id, UUID):
            raise TypeError("a tenant's id is a UUID")
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(f"SET LOCAL {TENANT_SETTING} = '{tenant_id}'")

    def operator_key(self, digest: bytes) -> UUID | None:
        """The id of the operator's key with this digest, if it is live."""
        wanted = select(operator_keys.c.id).where(
            operator_keys.c.digest == digest, operator_keys.c.revoked_us.is_(None)
        )
        with self._readers.begin() as connection:
            return connection.execute(wanted).scalar()

    def tenants(self) -> list[tuple[UUID, str]]:
        """Every tenant's id and name, for whoever has the database itself."""
        with self._readers.begin() as connection:
            rows = connection.execute(select(tenants.c.tenant_id, tenants.c.name).order_by(tenants.c.name))
            return [(row.tenant_id, row.name) for row in rows]

    def webhook_tenants(self) -> list[UUID]:
        """The tenants that have a webhook. On PostgreSQL by a function of the owner's, which tells of them alone."""
        if self.engine.dialect.name == "postgresql":
            wanted = select(func.public.webhook_tenants(type_=Uid()))
        else:
            wanted = select(tenants.c.tenant_id).where(func.json_extract(tenants.c.alerting, "$.webhook").is_not(None))
        with self._readers.begin() as connection:
            return list(connection.execute(wanted).scalars())

    def revision(self) -> str | None:
        """The schema's version in the database. Raises what the driver raises when it cannot be reached."""
        with self._readers.begin() as connection:
            return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()

    def close(self) -> None:
        self.engine.dispose()


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
        return None if row is None else _key(row)

    def keys(self, *, after: UUID | None, limit: int) -> list[Key]:
        wanted = self._keys().order_by(keys.c.id).limit(limit)
        if after is not None:
            wanted = wanted.where(keys.c.id > after)
        return [_key(row) for row in self.connection.execute(wanted)]

    def keys_by_id(self, ids: Sequence[UUID]) -> dict[UUID, Key]:
        rows = self.connection.execute(self._keys().where(keys.c.id.in_(ids)))
        return {row.id: _key(row) for row in rows}

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
        wanted = select(accounts).where(self._of([dataset_id]), _is_base(), accounts.c.partition > (after or ""))
        return [account_of(row) for row in self.connection.execute(wanted.order_by(accounts.c.partition).limit(limit))]

    def partition_counts(self, dataset_ids: Collection[UUID]) -> dict[UUID, int]:
        """How many partitions each of these datasets has."""
        wanted = (
            select(accounts.c.dataset_id, func.count())
            .where(self._of(dataset_ids), _is_base(), accounts.c.partition != "")
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

    def books(self, wanted: Mapping[UUID, Wanted], *, run_ids: Sequence[UUID] = ()) -> Books:
        """What these datasets are decided on, as it is now. Their definitions here know nothing of lineage, which was
        resolved before."""
        return self._books(self.connection.execute(self._decided_on(wanted)).all(), wanted, run_ids)

    def _decided_on(self, wanted: Mapping[UUID, Wanted]) -> Select[Any]:
        """The datasets, and beside each what the tenant wants to be told of, so that this takes no question more."""
        told = select(tenants.c.alerting).where(tenants.c.tenant_id == self.tenant_id).scalar_subquery()
        of_these = select(datasets, told.label("alerting"))
        mine = (datasets.c.tenant_id == self.tenant_id, datasets.c.id.in_(list(wanted)))
        return of_these.where(*mine).order_by(datasets.c.id)

    def _books(self, rows: Sequence[Row[Any]], wanted: Mapping[UUID, Wanted], run_ids: Sequence[UUID]) -> Books:
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
        self, found: Sequence[Dataset], wanted: Mapping[UUID, Wanted]
    ) -> Iterator[ColumnElement[bool]]:
        """One for all datasets that are counted as a whole, and one for each that has partitions."""
        whole = [dataset.id for dataset in found if not dataset.definition.is_partitioned]
        if whole:
            yield and_(
                accounts.c.dataset_id.in_(whole), accounts.c.partition == "", _held_by(wanted[id_] for id_ in whole)
            )
        for dataset in found:
            asked = wanted[dataset.id]
            if not dataset.definition.is_partitioned or asked.partitions == set():
                continue
            of_it = [accounts.c.dataset_id == dataset.id, _held_by([asked])]
            if asked.partitions is not None and len(asked.partitions) <= NAMES_MAX:
                of_it.append(accounts.c.partition.in_(sorted(asked.partitions)))
            yield and_(*of_it)

    def _projects_for(self, wanted: Mapping[UUID, Wanted]) -> dict[tuple[UUID, str], Project]:
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


class Writing(Reading):
    """Changes one tenant's rows, in one transaction that its opener commits. told: the kinds of alerts it raised."""

    def __init__(self, connection: Connection, tenant_id: UUID) -> None:
        super().__init__(connection, tenant_id)
        self.told: list[AlertKind] = []

    # --- what a group does first: claims and locks

    def claim(self, asked: Mapping[UUID, tuple[Actor, Claim]]) -> dict[str, Claimed]:
        """Claims the keys of new runs (by run id), in sorted order, and returns what the taken ones stand for.

        The insert waits for another process that is claiming the same key, so the look-up after it, a statement of its
        own with a newer snapshot, sees that process's commit.
        """
        rows = [
            {
                "tenant_id": self.tenant_id,
                "key": claim.key,
                "principal_id": actor.principal_id,
                "digest": claim.digest,
                "run_id": run_id,
            }
            for run_id, (actor, claim) in asked.items()
        ]
        rows.sort(key=lambda row: str(row["key"]))
        if not rows:
            return {}
        won = set(self.connection.execute(self._insert_new(claims).returning(claims.c.key), rows).scalars())
        lost = [row["key"] for row in rows if row["key"] not in won]
        if not lost:
            return {}
        taken = select(claims).where(claims.c.tenant_id == self.tenant_id, claims.c.key.in_(lost))
        return {row.key: Claimed(row.principal_id, row.digest, row.run_id) for row in self.connection.execute(taken)}

    def unclaim(self, unbound: Sequence[str]) -> None:
        """Lets go of keys claimed in this transaction whose requests bind nothing."""
        if unbound:
            self.connection.execute(
                delete(claims).where(claims.c.tenant_id == self.tenant_id, claims.c.key.in_(unbound))
            )

    def claim_names(self, registered: Sequence[Register]) -> set[UUID]:
        """Puts in the rows of new datasets and returns the ids of those whose name was free."""
        won: set[UUID] = set()
        for command in sorted(registered, key=lambda command: command.definition.name):
            definition = command.definition
            row = {
                "tenant_id": self.tenant_id,
                "id": definition.id,
                "name": definition.name,
                "title": command.title,
                "description": command.description,
                "privacy_unit": definition.privacy_unit,
                "adjacency": definition.adjacency,
                "bound": definition.bound,
                "size": definition.size,
                "is_partitioned": int(definition.is_partitioned),
                **amount_row("ceiling", definition.ceiling),
                "budget": None if command.budget is None else journal.canonical(command.budget),
                **amount_row("limit", command.limit),
                "state": "active",
                "seq": 0,
                "head": NO_HASH,
                "created_us": 0,
            }
            new = self.connection.execute(self._insert_new(datasets).returning(datasets.c.id), [row]).scalars().all()
            if new:
                self._add_lineage(definition)
            won.update(new)
        return won

    def _add_lineage(self, definition: Definition) -> None:
        positions = {parent.id: position for position, parent in enumerate(definition.derived_from)}
        rows = [
            {
                "tenant_id": self.tenant_id,
                "dataset_id": definition.id,
                "ancestor_id": ancestor_id,
                "position": positions.get(ancestor_id),
            }
            for ancestor_id in definition.ancestors
        ]
        if rows:
            self.connection.execute(insert(lineage), rows)

    def lock(self, wanted: Mapping[UUID, Wanted], run_ids: Sequence[UUID]) -> Books:
        """Locks these datasets, in the order of their ids, and reads what hangs under them.

        Accounts and runs are read by statements that begin after the locks are had: a join in the locking statement
        itself would show them as they were before the wait. The lock leaves the rows' keys alone, so that a dataset
        that is being derived from one of them need not wait.
        """
        if not wanted:
            return Books()
        locking = self._decided_on(wanted).with_for_update(key_share=True)
        return self._books(self.connection.execute(locking).all(), wanted, run_ids)

    # --- and last: what was decided

    def append(self, sealed: Sequence[Entry]) -> None:
        rows = [
            {
                "tenant_id": self.tenant_id,
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
        if rows:
            self.connection.execute(insert(entries), rows)

    def save(self, before: Books, after: Books, heads: Mapping[UUID, bytes]) -> None:
        """Writes the rows that changed; `heads` are the journals' new hashes. Entries are appended before."""
        self._save_datasets([row for id_, row in after.datasets.items() if row != before.datasets.get(id_)], heads)
        self._save_projects([row for key, row in after.projects.items() if row != before.projects.get(key)])
        self._save_accounts(before, after)
        self._save_runs(before, after)
        self._save_proposals(before, after)

    def _save_datasets(self, changed: Sequence[Dataset], heads: Mapping[UUID, bytes]) -> None:
        rows = [
            {
                "dataset": dataset.id,
                "title": dataset.title,
                "description": dataset.description,
                "budget": None if dataset.budget is None else journal.canonical(dataset.budget),
                **amount_row("limit", dataset.limit),
                "fair_use": None if dataset.fair_use == NO_FAIR_USE else journal.canonical(dataset.fair_use.facts()),
                "state": dataset.state,
                "seq": dataset.seq,
                "head": heads[dataset.id],
                "created_us": dataset.created_us,
            }
            for dataset in changed
        ]
        if rows:
            mine = (datasets.c.tenant_id == self.tenant_id, datasets.c.id == bindparam("dataset"))
            self.connection.execute(update(datasets).where(*mine), rows)

    def _save_projects(self, changed: Sequence[Project]) -> None:
        for project in changed:
            row = {"budget": journal.canonical(project.budget), **amount_row("limit", project.limit)}
            key = {"tenant_id": self.tenant_id, "dataset_id": project.dataset_id, "name": project.name}
            statement = self._insert(projects).on_conflict_do_update(
                index_elements=["tenant_id", "dataset_id", "name"], set_=row
            )
            self.connection.execute(statement, [{**key, **row}])

    def _save_proposals(self, before: Books, after: Books) -> None:
        old = before.proposals
        new = [
            {
                "tenant_id": self.tenant_id,
                "id": proposal.id,
                "kind": proposal.kind,
                "dataset_id": proposal.dataset_id,
                "run_id": proposal.run_id,
                "principal_id": proposal.principal_id,
                "body": journal.canonical(proposal.body),
                "state": proposal.state,
                "created_us": proposal.created_us,
                "expires_us": proposal.expires_us,
            }
            for id_, proposal in after.proposals.items()
            if id_ not in old
        ]
        if new:
            self.connection.execute(insert(proposals), new)
        for id_, proposal in after.proposals.items():
            if id_ in old and proposal != old[id_]:
                mine = (proposals.c.tenant_id == self.tenant_id, proposals.c.id == id_)
                self.connection.execute(update(proposals).where(*mine), {"state": proposal.state})

    def _save_accounts(self, before: Books, after: Books) -> None:
        old = before.accounts
        new = [account for key, account in after.accounts.items() if key not in old]
        if new:
            rows = [{"tenant_id": self.tenant_id, **key_row(each.key), **amounts_row(each)} for each in new]
            self.connection.execute(insert(accounts), rows)
        changed = [account for key, account in after.accounts.items() if key in old and account != old[key]]
        if changed:
            parts = key_row(changed[0].key)
            mine = [
                accounts.c.tenant_id == self.tenant_id,
                *(accounts.c[name] == bindparam(f"of_{name}") for name in parts),
            ]
            rows = [
                {**{f"of_{name}": value for name, value in key_row(each.key).items()}, **amounts_row(each)}
                for each in changed
            ]
            self.connection.execute(update(accounts).where(*mine), rows)

    def _save_runs(self, before: Books, after: Books) -> None:
        new = [run_row(self.tenant_id, run) for key, run in after.runs.items() if key not in before.runs]
        if new:
            self.connection.execute(insert(runs), new)
            self.connection.execute(
                insert(places),
                [
                    {
                        "tenant_id": self.tenant_id,
                        "run_id": run.id,
                        "dataset_id": place.dataset_id,
                        "seq": place.seq,
                        "principal_id": run.principal_id,
                        "created_us": run.created_us,
                    }
                    for key, run in after.runs.items()
                    if key not in before.runs
                    for place in run.places
                ],
            )
        moved = [run for key, run in after.runs.items() if key in before.runs and run != before.runs[key]]
        if moved:
            statement = update(runs).where(runs.c.tenant_id == self.tenant_id, runs.c.id == bindparam("run"))
            rows = [
                {
                    "run": run.id,
                    "state": run.state,
                    "started_us": run.started_us,
                    "ended_us": run.ended_us,
                    "due_us": run.due_us,
                }
                for run in moved
            ]
            self.connection.execute(statement, rows)

    # --- the cache of certificates

    def keep_certificate(self, digest: bytes, body: str, *, now_us: int, rows_max: int) -> None:
        """Puts a row in the cache, in place of one of that digest, and the tenant's oldest out beyond `rows_max`."""
        mine = certificates.c.tenant_id == self.tenant_id
        self.connection.execute(delete(certificates).where(mine, certificates.c.digest == digest))
        row = {"tenant_id": self.tenant_id, "digest": digest, "body": body, "created_us": now_us}
        self.connection.execute(self._insert_new(certificates), [row])
        # A walk along the index: a millisecond at 10,000 rows, beside a computation of ten to a thousand.
        newest_first = (certificates.c.created_us.desc(), certificates.c.digest.desc())
        too_old = select(certificates.c.digest).where(mine).order_by(*newest_first).offset(rows_max)
        self.connection.execute(delete(certificates).where(mine, certificates.c.digest.in_(too_old)))

    # --- the outbox

    def tell(self, found: Sequence[Alert], *, now_us: int) -> list[UUID]:
        """Tells the tenant of these, except where it was told before: to be sent, if it has a webhook, or to be listed
        alone. The ids, in order."""
        tenant = self.tenant()
        if tenant is None:
            raise NotFound("There is no such tenant.")
        events = {id_of(tenant.id, alert): event_of(alert, tenant, at_us=now_us) for alert in found}
        new = self._add_alerts(list(events.values()), now_us=now_us, is_sent=tenant.alerting.webhook is not None)
        self.told += [events[id_]["kind"] for id_ in new]
        return list(events)

    def _add_alerts(self, events: Sequence[Mapping[str, Any]], *, now_us: int, is_sent: bool) -> list[UUID]:
        """The ids of those that were not there yet."""
        rows = [
            {
                "tenant_id": self.tenant_id,
                "id": UUID(event["id"]),
                "kind": event["kind"],
                "dataset_id": UUID(event["dataset"]["id"]) if "dataset" in event else None,
                "run_id": UUID(event["run"]) if "run" in event else None,
                "seq": event.get("seq"),
                "at_us": now_us,
                "body": journal.canonical(event),
                "state": "pending" if is_sent else "none",
                "attempts": 0,
                "next_us": now_us if is_sent else None,
            }
            for event in events
        ]
        rows.sort(key=lambda row: row["id"])
        if not rows:
            return []
        return list(self.connection.execute(self._insert_new(alerts).returning(alerts.c.id), rows).scalars())

    def lease_alerts(self, *, now_us: int, until_us: int, limit: int) -> list[KeptAlert]:
        """Takes alerts that are due, the first due first, for whoever tries to deliver them now. Until that time nobody
        else is given them; if they are not `told` of by then, they are due again. Each counts as tried."""
        mine = alerts.c.tenant_id == self.tenant_id
        due = (
            select(alerts)
            .where(mine, alerts.c.state == "pending", alerts.c.next_us <= now_us)
            .order_by(alerts.c.next_us, alerts.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        found = [alert_of(row) for row in self.connection.execute(due)]
        if found:
            taken = {"next_us": until_us, "attempts": alerts.c.attempts + 1}
            self.connection.execute(
                update(alerts).where(mine, alerts.c.id.in_([each.id for each in found])).values(taken)
            )
        return [replace(each, attempts=each.attempts + 1, next_us=until_us) for each in found]

    def tell_alert(
        self,
        leased: KeptAlert,
        *,
        state: DeliveryState,
        attempts: int,
        next_us: int | None = None,
        delivered_us: int | None = None,
        failure: str | None = None,
    ) -> bool:
        """What came of a leased alert; nothing where somebody else has leased it since, which is False."""
        mine = (alerts.c.tenant_id == self.tenant_id, alerts.c.id == leased.id, alerts.c.state == "pending")
        row = {
            "state": state,
            "attempts": attempts,
            "next_us": next_us,
            "delivered_us": delivered_us,
            "failure": failure,
        }
        told = update(alerts).where(*mine, alerts.c.attempts == leased.attempts).values(row)
        return self.connection.execute(told).rowcount == 1

    def set_alerting(self, alerting: Alerting) -> None:
        """What the tenant wants to be told of. Without a webhook, what waits to be sent is not sent any more."""
        row = {"alerting": journal.canonical(alerting.facts())}
        self.connection.execute(update(tenants).where(tenants.c.tenant_id == self.tenant_id), row)
        if alerting.webhook is None:
            waiting = (alerts.c.tenant_id == self.tenant_id, alerts.c.state == "pending")
            self.connection.execute(update(alerts).where(*waiting), {"state": "none", "next_us": None})

    def prune_alerts(self, *, rows_max: int) -> int:
        """Removes the tenant's oldest alerts beyond so many, and says how many those were."""
        mine = alerts.c.tenant_id == self.tenant_id
        newest_first = (alerts.c.at_us.desc(), alerts.c.id.desc())
        too_old = select(alerts.c.id).where(mine).order_by(*newest_first).offset(rows_max).limit(rows_max)
        return self.connection.execute(delete(alerts).where(mine, alerts.c.id.in_(too_old))).rowcount

    # --- tenants and keys

    def add_tenant(self, name: str, *, now_us: int) -> None:
        row = {
            "tenant_id": self.tenant_id,
            "name": name,
            "second_steward": 0,
            "seq": 0,
            "head": NO_HASH,
            "created_us": now_us,
        }
        if not self.connection.execute(self._insert_new(tenants).returning(tenants.c.tenant_id), [row]).all():
            raise NameTaken(name=name)

    def is_live(self, actor: Actor, *, now_us: int) -> bool:
        """Whether the key that an actor came with is still good: it may have been revoked while a request waited."""
        if actor.expires_us is not None:
            return actor.expires_us > now_us
        key = self.keys_by_id([actor.key_id]).get(actor.key_id)
        return key is not None and key.is_live(now_us)

    # --- the tenant's own journal

    def note(self, kind: str, actor: Mapping[str, Any], facts: Mapping[str, Any], *, now_us: int) -> TenantEntry:
        """Adds an entry to the tenant's own journal, whose lock is the last that a transaction takes."""
        tenant = self._tenant(select(tenants).with_for_update(key_share=True))
        if tenant is None:
            raise NotFound("There is no such tenant.")
        entry = journal.seal_of_tenant(
            kind, actor, facts, tenant_id=self.tenant_id, seq=tenant.seq + 1, prev=tenant.head, at_us=now_us
        )
        row = {"seq": entry.seq, "kind": kind, "at_us": now_us, "body": entry.body, "hash": entry.hash}
        self.connection.execute(insert(tenant_entries), {"tenant_id": self.tenant_id, **row})
        self.connection.execute(
            update(tenants).where(tenants.c.tenant_id == self.tenant_id), {"seq": entry.seq, "head": entry.hash}
        )
        return entry

    def set_policy(self, *, second_steward: bool) -> None:
        row = {"second_steward": int(second_steward)}
        self.connection.execute(update(tenants).where(tenants.c.tenant_id == self.tenant_id), row)

    def add_key(self, key: Key, digest: bytes) -> None:
        names = None if key.datasets is None else json.dumps(key.datasets)
        self.connection.execute(
            insert(keys),
            {
                "tenant_id": self.tenant_id,
                "id": key.id,
                "principal_id": key.principal_id,
                "name": key.name,
                "role": key.role,
                "digest": digest,
                "datasets": names,
                "projects": None if key.projects is None else json.dumps(key.projects),
                "created_us": key.created_us,
                "expires_us": key.expires_us,
            },
        )

    def end_key(self, key_id: UUID, *, at_us: int) -> None:
        """Lets a key expire at this time, unless it does so earlier."""
        earlier = or_(keys.c.expires_us.is_(None), keys.c.expires_us > at_us)
        mine = (keys.c.tenant_id == self.tenant_id, keys.c.id == key_id)
        self.connection.execute(update(keys).where(*mine, earlier), {"expires_us": at_us})

    def note_use(self, used: Mapping[UUID, int]) -> None:
        """When keys were used last, by id; a time before the one that is known changes nothing."""
        statement = update(keys).where(
            keys.c.tenant_id == self.tenant_id,
            keys.c.id == bindparam("key"),
            or_(keys.c.last_used_us.is_(None), keys.c.last_used_us < bindparam("at")),
        )
        rows = [{"key": id_, "at": at_us, "last_used_us": at_us} for id_, at_us in sorted(used.items())]
        if rows:
            self.connection.execute(statement, rows)

    def revoke_key(self, key_id: UUID, *, now_us: int) -> bool:
        """Revokes a key, once; says whether there is such a key."""
        mine = (keys.c.tenant_id == self.tenant_id, keys.c.id == key_id)
        self.connection.execute(update(keys).where(*mine, keys.c.revoked_us.is_(None)), {"revoked_us": now_us})
        return self.connection.execute(select(keys.c.id).where(*mine)).scalar() is not None

    def add_operator_key(self, key_id: UUID, digest: bytes, *, now_us: int) -> None:
        self.connection.execute(insert(operator_keys), {"id": key_id, "digest": digest, "created_us": now_us})

    def _insert_new(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """INSERT … ON CONFLICT DO NOTHING."""
        return self._insert(table).on_conflict_do_nothing()

    def _insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """INSERT … ON CONFLICT, which both databases have and SQLAlchemy keeps apart."""
        return postgresql.insert(table) if self._postgresql else sqlite.insert(table)


def _is_base() -> ColumnElement[bool]:
    return and_(accounts.c.project == "", accounts.c.principal_id == NOBODY)


def _held_by(wanted: Iterable[Wanted]) -> ColumnElement[bool]:
    """Of nobody, of these projects, of these principals."""
    names, ids = {""}, {NOBODY}
    for asked in wanted:
        names |= asked.projects
        ids |= asked.principals
    # At most one of the two names somebody.
    return and_(accounts.c.project.in_(sorted(names)), accounts.c.principal_id.in_(sorted(ids)))


def _key(row: Row[Any]) -> Key:
    return Key(
        row.id,
        row.principal_id,
        row.name,
        row.role,
        None if row.datasets is None else tuple(json.loads(row.datasets)),
        row.created_us,
        row.expires_us,
        row.revoked_us,
        None if row.projects is None else tuple(json.loads(row.projects)),
        row.last_used_us,
    )
