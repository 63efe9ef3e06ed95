"""Transactions: one tenant's rows, by noun."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, and_, bindparam, func, literal_column, select

from ledger.core.people import Key
from ledger.store.accounts import AccountReader
from ledger.store.books import BookReader, BookWriter
from ledger.store.certificates import CertificateReader, CertificateWriter
from ledger.store.claims import ClaimWriter
from ledger.store.datasets import DatasetReader, DatasetWriter
from ledger.store.days import DayReader, DayWriter
from ledger.store.journals import JournalReader, JournalWriter
from ledger.store.keys import KeyReader, KeyWriter
from ledger.store.outbox import OutboxReader, OutboxWriter
from ledger.store.progress import ProgressReader, ProgressWriter
from ledger.store.proposals import ProposalReader
from ledger.store.repository import among
from ledger.store.rows import key_of
from ledger.store.runs import RunReader
from ledger.store.sessions import SessionReader, SessionWriter
from ledger.store.tables import datasets, entries, keys
from ledger.store.tenants import TenantReader, TenantWriter

_CLOCKS: Final[Mapping[str, ColumnElement[int]]] = {
    "postgresql": literal_column("(extract(epoch FROM clock_timestamp()) * 1000000)::bigint"),
    "sqlite": literal_column(
        "(SELECT CAST(strftime('%s', t) AS INTEGER) * 1000000 + CAST(substr(strftime('%f', t), 4) AS INTEGER) * 1000"
        " FROM (SELECT strftime('%Y-%m-%d %H:%M:%f', 'now') AS t))"
    ),
}
_LAST_ENTRY: Final = (
    select(entries.c.at_us)
    .where(entries.c.tenant_id == datasets.c.tenant_id)
    .where(entries.c.dataset_id == datasets.c.id, entries.c.seq == datasets.c.seq)
    .correlate(datasets)
    .scalar_subquery()
)
# A join here is no look-up by the whole key to a planner that has not counted rows yet: it may read whole journals.
_NEWEST: Final = {
    is_one: select(func.max(_LAST_ENTRY))
    .select_from(datasets)
    .where(datasets.c.tenant_id == bindparam("tenant"), among(datasets.c.id, "ids", is_one=is_one))
    .scalar_subquery()
    for is_one in (False, True)
}
_CLOCK: Final = {dialect: select(clock) for dialect, clock in _CLOCKS.items()}
_ONE_ROW: Final = select(literal_column("1").label("one")).subquery()
_TIMES_AND_KEYS: Final = {
    (dialect, is_one): select(clock.label("clock_us"), _NEWEST[is_one].label("newest_us"), keys).select_from(
        _ONE_ROW.outerjoin(keys, and_(keys.c.tenant_id == bindparam("tenant"), among(keys.c.id, "keys", is_one=is_one)))
    )
    for dialect, clock in _CLOCKS.items()
    for is_one in (False, True)
}
"""One row, or one for each key that there is; for many datasets and keys, and for one of each."""


class Snapshot:
    """A transaction, and the time."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def now_us(self) -> int:
        """Return the database's clock. On PostgreSQL clock_timestamp(): now() would be the time before the locks were
        granted."""
        return int(self.connection.execute(_CLOCK[self.connection.dialect.name]).scalar_one())


class Reading(Snapshot):
    """One tenant's rows in one snapshot."""

    tenants: TenantReader
    keys: KeyReader
    datasets: DatasetReader
    books: BookReader
    journals: JournalReader
    outbox: OutboxReader
    certificates: CertificateReader
    progress: ProgressReader
    days: DayReader
    sessions: SessionReader

    def __init__(self, connection: Connection, tenant_id: UUID) -> None:
        super().__init__(connection)
        self.tenant_id = tenant_id
        self.tenants = TenantReader(connection, tenant_id)
        self.keys = KeyReader(connection, tenant_id)
        self.datasets = DatasetReader(connection, tenant_id)
        self.accounts = AccountReader(connection, tenant_id)
        self.runs = RunReader(connection, tenant_id)
        self.proposals = ProposalReader(connection, tenant_id)
        self.books = BookReader(connection, tenant_id)
        self.journals = JournalReader(connection, tenant_id)
        self.outbox = OutboxReader(connection, tenant_id)
        self.certificates = CertificateReader(connection, tenant_id)
        self.progress = ProgressReader(connection, tenant_id)
        self.days = DayReader(connection, tenant_id)
        self.sessions = SessionReader(connection, tenant_id)


class Writing(Reading):
    """Changes one tenant's rows, in one transaction that its opener commits.

    Accounts, runs and proposals change only with the books.
    """

    tenants: TenantWriter
    keys: KeyWriter
    datasets: DatasetWriter
    books: BookWriter
    journals: JournalWriter
    outbox: OutboxWriter
    certificates: CertificateWriter
    progress: ProgressWriter
    days: DayWriter
    sessions: SessionWriter

    def __init__(self, connection: Connection, tenant_id: UUID) -> None:
        super().__init__(connection, tenant_id)
        self.claims = ClaimWriter(connection, tenant_id)
        self.tenants = TenantWriter(connection, tenant_id)
        self.keys = KeyWriter(connection, tenant_id)
        self.datasets = DatasetWriter(connection, tenant_id)
        self.books = BookWriter(connection, tenant_id)
        self.journals = JournalWriter(connection, tenant_id)
        self.outbox = OutboxWriter(connection, tenant_id)
        self.certificates = CertificateWriter(connection, tenant_id)
        self.progress = ProgressWriter(connection, tenant_id)
        self.days = DayWriter(connection, tenant_id)
        self.sessions = SessionWriter(connection, tenant_id)

    def times_and_keys(self, dataset_ids: Iterable[UUID], key_ids: Iterable[UUID]) -> tuple[int, int, dict[UUID, Key]]:
        """Return the database's clock, the latest time in the journals of these locked datasets, and these keys.

        Times are in microseconds; the latest is 0 if the journals are empty. The keys are as they are now.
        """
        ids, keys_of = list(dataset_ids), list(key_ids)
        is_one = len(ids) == len(keys_of) == 1
        values: dict[str, Any] = {"tenant": self.tenant_id, "ids": ids, "keys": keys_of}
        if is_one:
            values |= {"ids": ids[0], "keys": keys_of[0]}
        rows = self.connection.execute(_TIMES_AND_KEYS[self.connection.dialect.name, is_one], values).all()
        known = {row.id: key_of(row) for row in rows if row.id is not None}
        return int(rows[0].clock_us), rows[0].newest_us or 0, known
