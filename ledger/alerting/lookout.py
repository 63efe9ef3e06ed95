"""The lookout: find alerts that no decision raises, for all tenants and processes.

One process looks at a time, by a lease in the database with the database's time. When it ends, another process takes
the lease within about a minute. If two processes look at once, no alert is raised twice: its id is made from its key.

A tick runs a few queries over all tenants (`ledger.store.overview`), and then looks only at the tenants in the results.
Overdue runs and proposals that lapse soon are found by time. Changes since the last tick are found by numbers and not
by times: a tenant's position is the sum of the lengths of its journals, read in one snapshot. So an entry counts from
its commit on, however late it was committed and whichever process made it. For these tenants least limits are computed
too (`ledger.alerting.least`). Days are counted each minute (`ledger.alerting.tallies`).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID, uuid4

from ledger.alerting import watch
from ledger.alerting.least import LeastLimits
from ledger.alerting.tallies import Tallies
from ledger.core.alerting import Alert, Alerting
from ledger.core.alerts import id_of
from ledger.service.writer import Writer
from ledger.store import Overview, Reading, Snapshot, Store
from ledger.store.overview import BEGINNING, LateRun, OpenProposal

LEASE: Final = "lookout"
LEASE_SECONDS_MIN: Final = 60
LEASE_TICKS: Final = 3
"""How long the lease of an ended process lasts: this number of ticks, and at least a minute."""
HOURLY_US: Final = 3_600 * 1_000_000
"""How often forecasts are made and heads are sent."""
LATE_AT_ONCE: Final = 500
LATE_PAGES_MAX: Final = 20
"""How many pages of overdue runs a tick reads, and of proposals that lapse soon."""
LAPSE_US: Final = 4 * HOURLY_US
"""How long before a proposal lapses an alert is raised."""
COMMIT_US_MAX: Final = 600 * 1_000_000
"""How late a due run may be committed: longer than the database allows a transaction to take. Runs that became due in
this time are queried again."""
JOURNALS_AT_ONCE: Final = 5_000
"""How many ends of journals a tick checks."""
TENANTS_AT_ONCE: Final = 100
"""How many changed tenants a tick looks at; the others follow in the next ticks."""
REMEMBERED_MAX: Final = 10_000
"""For how many tenants the last position is remembered; the others are looked at once an hour."""
WRITE_SECONDS_MAX: Final = 60.0

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Looked:
    """What was last seen of a tenant: its position, the heads that were sent, and its forecasts."""

    position: int = -1
    alerting: Alerting | None = None
    heads: dict[UUID | None, int] = field(default_factory=dict)
    forecasts: watch.Forecasts = field(default_factory=dict)

    def is_due(self, position: int, now_us: int) -> bool:
        """Return whether the tenant changed, or a forecast may have changed with time."""
        return position != self.position or any(again_us <= now_us for _, again_us in self.forecasts.values())


@dataclass(slots=True)
class _Reasons:
    """Why a tenant is looked at."""

    late: list[UUID] = field(default_factory=list)
    lapsing: list[UUID] = field(default_factory=list)
    is_suspect: bool = False
    position: int | None = None


class Lookout:
    """Look at all tenants, tick by tick, while it has the lease."""

    def __init__(
        self,
        store: Store,
        writer: Writer,
        *,
        every_seconds: float,
        signed_head: watch.SignedHead,
        clock: Callable[[Snapshot], int],
    ) -> None:
        self._store, self._writer, self._signed_head, self._clock = store, writer, signed_head, clock
        self._lease_us = int(max(LEASE_SECONDS_MIN, LEASE_TICKS * every_seconds) * 1_000_000)
        self._holder = uuid4()
        self._least = LeastLimits(store, writer)
        self._tallies = Tallies(store, writer)
        self._forget()

    def _forget(self) -> None:
        self.pending = 0
        """The number of undelivered alerts when this process last looked."""
        self._late_after = self._lapsing_after = watch.NOTHING_DUE
        self._ends_after = BEGINNING
        self._hourly_us: int | None = None
        self._looked = OrderedDict[UUID, _Looked]()
        self._moved: dict[UUID, int] = {}
        self._suspects: set[UUID] = set()
        self._least.forget()
        self._tallies.forget()

    def tick(self, *, is_closing: Callable[[], bool] = lambda: False) -> set[UUID]:
        """Look, and raise alerts. Return the tenants that have alerts to deliver now; none if another process looks."""
        now_us = self._held()
        if now_us is None:
            self._forget()
            return set()
        with self._store.overview() as overview:
            late = self._late(overview, now_us)
            lapsing = self._lapsing(overview, now_us)
            self._find_suspects(overview)
            self._find_moved(overview, now_us)
            waiting = overview.waiting()
        self.pending = sum(row.alerts for row in waiting)
        due = {row.tenant_id for row in waiting if row.next_us <= now_us}
        for tenant_id, reasons in self._reasons(late, lapsing).items():
            if is_closing():
                break
            try:
                due |= self._look(tenant_id, reasons, now_us)
            except Exception as error:  # an error of one tenant must not stop the others
                log.error("tenant %s could not be looked at", tenant_id, exc_info=error)
                self._look_again(reasons, late, lapsing, tenant_id)
        self._tallies.tick(now_us=now_us, is_closing=is_closing)
        self._least.tick(is_closing=is_closing)
        return due

    def close(self) -> None:
        """Release the lease."""
        with self._store.leases() as leases:
            leases.release(LEASE, self._holder)

    def _held(self) -> int | None:
        """Return the time if this process has the lease, else None."""
        with self._store.leases() as leases:
            now_us = self._clock(leases)
            is_held = leases.hold(LEASE, self._holder, now_us=now_us, until_us=now_us + self._lease_us)
        return now_us if is_held else None

    # --- which tenants

    def _late(self, overview: Overview, now_us: int) -> list[LateRun]:
        """Return the runs that became due since the last tick."""
        late: list[LateRun] = []
        for _ in range(LATE_PAGES_MAX):
            page = overview.late_runs(after=self._late_after, until_us=now_us, limit=LATE_AT_ONCE)
            late += page
            if page:
                self._late_after = (page[-1].due_us, page[-1].run_id)
            if len(page) < LATE_AT_ONCE:
                self._late_after = min(self._late_after, (now_us - COMMIT_US_MAX, BEGINNING[1]))
                break
        return late

    def _lapsing(self, overview: Overview, now_us: int) -> list[OpenProposal]:
        """Return the open proposals that came within `LAPSE_US` of their end since the last tick."""
        lapsing: list[OpenProposal] = []
        # What is over already gets no alert.
        self._lapsing_after = max(self._lapsing_after, (now_us, BEGINNING[1]))
        for _ in range(LATE_PAGES_MAX):
            after = self._lapsing_after
            page = overview.proposals(after=after, until_us=now_us + LAPSE_US, limit=LATE_AT_ONCE)
            lapsing += page
            if page:
                self._lapsing_after = (page[-1].expires_us, page[-1].proposal_id)
            if len(page) < LATE_AT_ONCE:
                break
        return lapsing

    def _find_suspects(self, overview: Overview) -> None:
        ends = overview.ends(after=self._ends_after, limit=JOURNALS_AT_ONCE)
        self._ends_after = ends.last
        self._suspects |= ends.broken

    def _find_moved(self, overview: Overview, now_us: int) -> None:
        """Find the tenants that changed: once an hour those whose forecast may be due, too; each minute those whose
        journals are to be counted."""
        is_hourly = self._hourly_us is None or now_us - self._hourly_us >= HOURLY_US
        if not is_hourly and not self._tallies.is_due(now_us):
            return
        positions = overview.positions()
        self._tallies.want(positions, now_us=now_us)
        if not is_hourly:
            return
        self._hourly_us = now_us
        never = _Looked()
        for tenant_id, position in positions.items():
            if self._looked.get(tenant_id, never).is_due(position, now_us):
                self._moved[tenant_id] = position

    def _reasons(self, late: Sequence[LateRun], lapsing: Sequence[OpenProposal]) -> dict[UUID, _Reasons]:
        reasons: dict[UUID, _Reasons] = {}
        for run in late:
            reasons.setdefault(run.tenant_id, _Reasons()).late.append(run.run_id)
        for proposal in lapsing:
            reasons.setdefault(proposal.tenant_id, _Reasons()).lapsing.append(proposal.proposal_id)
        for tenant_id in self._suspects:
            reasons.setdefault(tenant_id, _Reasons()).is_suspect = True
        for tenant_id in list(self._moved)[:TENANTS_AT_ONCE]:
            reasons.setdefault(tenant_id, _Reasons()).position = self._moved.pop(tenant_id)
        self._suspects = set()
        return reasons

    def _look_again(
        self, reasons: _Reasons, late: Sequence[LateRun], lapsing: Sequence[OpenProposal], tenant_id: UUID
    ) -> None:
        """Let the next tick look again at a tenant that failed."""
        ends = [proposal.expires_us for proposal in lapsing if proposal.tenant_id == tenant_id]
        self._lapsing_after = min([self._lapsing_after, *((expires_us - 1, BEGINNING[1]) for expires_us in ends)])
        due = [run.due_us for run in late if run.tenant_id == tenant_id]
        self._late_after = min([self._late_after, *((due_us - 1, BEGINNING[1]) for due_us in due)])
        if reasons.is_suspect:
            self._suspects.add(tenant_id)
        if reasons.position is not None:
            self._moved[tenant_id] = reasons.position

    # --- looking

    def _look(self, tenant_id: UUID, reasons: _Reasons, now_us: int) -> set[UUID]:
        """Look at a tenant. Return it if a new alert was raised."""
        looked = self._looked.get(tenant_id, _Looked())
        with self._store.reading(tenant_id) as reading:
            tenant = reading.tenants.current()
            if tenant is None:
                return set()
            alerts = list(watch.late_runs(reading, reasons.late, now_us=now_us))
            alerts += watch.lapsing_proposals(reading, reasons.lapsing)
            if reasons.is_suspect:
                alerts += watch.broken_journals(reading)
            heads: list[Alert] = []
            forecasts = looked.forecasts if looked.alerting == tenant.alerting else {}
            if reasons.position is not None:
                short, forecasts = watch.short_budgets(reading, tenant.alerting, forecasts, now_us=now_us)
                alerts += short
                if tenant.alerting.heads and tenant.alerting.webhook is not None:
                    heads = list(watch.moved_heads(reading, looked.heads, self._signed_head))
                    alerts += heads
            new = _not_in(reading, alerts)
        if new:
            self._writer.tell(tenant_id, new).result(WRITE_SECONDS_MAX)
        if reasons.position is not None:
            looked.position, looked.alerting, looked.forecasts = reasons.position, tenant.alerting, forecasts
            looked.heads |= _sent(heads)
            self._remember(tenant_id, looked)
            self._least.want(tenant_id)
        return {tenant_id} if new else set()

    def _remember(self, tenant_id: UUID, looked: _Looked) -> None:
        self._looked[tenant_id] = looked
        self._looked.move_to_end(tenant_id)
        if len(self._looked) > REMEMBERED_MAX:
            self._looked.popitem(last=False)


def _sent(heads: Iterable[Alert]) -> dict[UUID | None, int]:
    """Return the number of the last sent head of each journal."""
    return {
        None if alert.dataset is None else alert.dataset.id: alert.seq or 0 for alert in heads if alert.kind == "head"
    }


def _not_in(reading: Reading, alerts: Sequence[Alert]) -> list[Alert]:
    """Return the alerts that were not raised before."""
    ids = {id_of(reading.tenant_id, alert): alert for alert in alerts}
    known = reading.outbox.known_ids(list(ids)) if ids else set()
    return [alert for id_, alert in ids.items() if id_ not in known]
