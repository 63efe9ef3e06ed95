"""All tenants at once: where there is something to look at; and which of several processes looks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from uuid import UUID

from sqlalchemy import Row, TextualSelect, bindparam, delete, text, update
from sqlalchemy.dialects import postgresql, sqlite

from ledger.store import watching
from ledger.store.columns import NOBODY, Uid
from ledger.store.tables import leases
from ledger.store.transactions import Snapshot

PROBES: Final = 8
PROBE_CHARACTERS: Final = 8000
BEGINNING: Final = (NOBODY, NOBODY)
"""Before the first journal."""
_UIDS: Final = frozenset({"tenant_id", "run_id", "proposal_id", "id"})


class LateRun(NamedTuple):
    """A run that is due, and its tenant."""

    tenant_id: UUID
    run_id: UUID
    due_us: int


class OpenProposal(NamedTuple):
    """A proposal that nobody answered, and its tenant."""

    tenant_id: UUID
    proposal_id: UUID
    expires_us: int


class JournalRow(NamedTuple):
    """Where a journal ends, according to its row. dataset_id: None is the tenant's own."""

    tenant_id: UUID
    dataset_id: UUID | None
    seq: int
    head: bytes


class Waiting(NamedTuple):
    """How many alerts of a tenant wait for delivery, and when the first of them is due."""

    tenant_id: UUID
    alerts: int
    next_us: int


class Ends(NamedTuple):
    """The tenants of journals whose end is not consistent, and the last journal that was looked at."""

    broken: frozenset[UUID]
    last: tuple[UUID, UUID]


class Overview(Snapshot):
    """All tenants in one snapshot: ids, numbers, hashes and times, and nothing that a tenant wrote."""

    def late_runs(self, *, after: tuple[int, UUID], until_us: int, limit: int) -> list[LateRun]:
        """Return runs that were due after `after` and before the time, the first due first."""
        given = {"after_us": after[0], "after_id": after[1], "until_us": until_us, "rows_max": limit}
        return [LateRun(row.tenant_id, row.run_id, row.due_us) for row in self._ask("watched_late", **given)]

    def proposals(self, *, after: tuple[int, UUID], until_us: int, limit: int) -> list[OpenProposal]:
        """Return open proposals that lapse after `after` and before the time, the first to lapse first."""
        given = {"after_us": after[0], "after_id": after[1], "until_us": until_us, "rows_max": limit}
        return [
            OpenProposal(row.tenant_id, row.proposal_id, row.expires_us)
            for row in self._ask("watched_proposals", **given)
        ]

    def ends(self, *, after: tuple[UUID, UUID], limit: int) -> Ends:
        """Look at this many journals. Return the tenants of those whose newest entry is not where the row has it, or
        not what was hashed. `last` is where to go on: the beginning again, once all were looked at."""
        given = {"after_tenant": after[0], "after_id": after[1], "rows_max": limit}
        rows = self._ask("watched_ends", **given)
        broken = frozenset(row.tenant_id for row in rows if row.is_broken)
        is_whole = not rows or rows[-1].looked < limit
        return Ends(broken, BEGINNING if is_whole else (rows[-1].tenant_id, rows[-1].id))

    def journals(self, *, after: tuple[UUID, UUID], limit: int) -> list[JournalRow]:
        """Return where journals end, by tenant and dataset; for each tenant first its own."""
        given = {"after_tenant": after[0], "after_id": after[1], "rows_max": limit}
        return [
            JournalRow(row.tenant_id, None if row.id == NOBODY else row.id, row.seq, bytes(row.head))
            for row in self._ask("watched_journals", **given)
        ]

    def waiting(self) -> list[Waiting]:
        """Return the tenants that have alerts waiting for delivery."""
        return [Waiting(row.tenant_id, row.waiting, row.next_us) for row in self._ask("watched_alerts")]

    def positions(self) -> dict[UUID, int]:
        """Return how far each tenant's journals have come, together: a number that every entry increases."""
        return {row.tenant_id: row.position for row in self._ask("watched_positions")}

    def _ask(self, name: str, **given: Any) -> Sequence[Row[Any]]:
        return self.connection.execute(_statement(name, self.connection.dialect.name), given).all()


def _statement(name: str, dialect: str) -> TextualSelect:
    template, takes, returns = watching.FUNCTIONS[name]
    names = [parameter.split()[0] for parameter in takes.split(", ") if parameter]
    if dialect == "sqlite":
        statement = text(watching.on_sqlite(template))
    else:
        statement = text(f"SELECT * FROM public.{name}({', '.join(f':{each}' for each in names)})")  # noqa: S608
    uids = [bindparam(each, type_=Uid()) for each in names if each in ("after_id", "after_tenant")]
    columns = [column.split()[0] for column in returns.split(", ")]
    return statement.bindparams(*uids).columns(**{each: Uid() for each in columns if each in _UIDS})


class Leases(Snapshot):
    """Which of several processes does a task that only one may do. The database's time counts, so clocks may differ."""

    def hold(self, name: str, holder: UUID, *, now_us: int, until_us: int) -> bool:
        """Take or renew a lease, unless another process has it now. Return whether it is held."""
        row = {"name": name, "holder": holder, "until_us": until_us}
        insert = postgresql.insert if self.connection.dialect.name == "postgresql" else sqlite.insert
        statement = insert(leases).values(row)
        statement = statement.on_conflict_do_update(
            index_elements=["name"],
            set_={"holder": statement.excluded.holder, "until_us": statement.excluded.until_us},
            where=(leases.c.holder == statement.excluded.holder) | (leases.c.until_us <= now_us),
        )
        return self.connection.execute(statement.returning(leases.c.holder)).scalar() is not None

    def probe(self) -> None:
        """Write about as much as a decision does, so that the commit of this transaction shows whether one can happen.

        The rows belong to no task. On SQLite they go again, so that each probe needs new pages; on PostgreSQL each
        leaves new versions of the same rows.
        """
        is_sqlite = self.connection.dialect.name == "sqlite"
        for number in range(PROBES):
            filler = f"{'0' * PROBE_CHARACTERS}{number}" if is_sqlite else f"probe-{number}"
            self.hold(filler, NOBODY, now_us=1, until_us=0)
        if is_sqlite:
            self.connection.execute(delete(leases).where(leases.c.holder == NOBODY))

    def release(self, name: str, holder: UUID) -> None:
        """End a lease, if this holder has it."""
        mine = (leases.c.name == name, leases.c.holder == holder)
        self.connection.execute(update(leases).where(*mine), {"until_us": 0})
