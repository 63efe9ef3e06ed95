"""What a running job reported last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Text, func, literal, select

from ledger.store.columns import Big, Uid
from ledger.store.repository import Repository
from ledger.store.tables import progress, runs


class Progress(NamedTuple):
    """How many steps a job had executed, at least, when it reported that, and from where."""

    steps: int
    at_us: int
    reporter: str | None


class ProgressReader(Repository):
    """Reads what jobs reported."""

    def of_runs(self, run_ids: Sequence[UUID]) -> dict[UUID, Progress]:
        """Return the newest report of each of these runs that has one."""
        if not run_ids:
            return {}
        mine = select(progress).where(progress.c.tenant_id == self.tenant_id, progress.c.run_id.in_(run_ids))
        return {row.run_id: Progress(row.steps, row.at_us, row.reporter) for row in self.connection.execute(mine)}


class ProgressWriter(ProgressReader):
    """Keeps what jobs report."""

    def note(self, run_id: UUID, steps: int, *, now_us: int, reporter: str | None) -> int | None:
        """Keep a report in place of the one before, and return the steps now known: a number never falls, since a late
        request of an earlier process may come last. Return None, and keep nothing, unless the run is started."""
        started = select(
            runs.c.tenant_id,
            runs.c.id,
            literal(steps, Big).label("steps"),
            literal(now_us, Big).label("at_us"),
            literal(reporter, Text).label("reporter"),
        ).where(runs.c.tenant_id == self.tenant_id, runs.c.id == literal(run_id, Uid), runs.c.state == "started")
        new = self._insert(progress).from_select(["tenant_id", "run_id", "steps", "at_us", "reporter"], started)
        is_postgresql = self.connection.dialect.name == "postgresql"
        more = (func.greatest if is_postgresql else func.max)(progress.c.steps, new.excluded.steps)
        kept = new.on_conflict_do_update(
            index_elements=["tenant_id", "run_id"],
            set_={"steps": more, "at_us": new.excluded.at_us, "reporter": new.excluded.reporter},
        ).returning(progress.c.steps)
        return self.connection.execute(kept).scalar()
