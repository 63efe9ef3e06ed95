"""Replay of a dataset's runs: decided, started, settled, voided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import Account, AccountKey
from ledger.core.journal import beside_left, requested
from ledger.core.journal.beside_left import Beside
from ledger.core.journal.chain import Chain, Demand, accounts_of, is_time
from ledger.core.journal.proposals import Proposals
from ledger.core.journal.requested import WITHHELD, request_of
from ledger.core.journal.rights import demand_owner, is_owner, is_steward
from ledger.core.journal.together import Together
from ledger.errors import JournalBroken

SETTLE_WITHIN: Final = timedelta(days=30)
_NOTHING: Final = ZERO.facts()


@dataclass(slots=True)
class Charged:
    """A run as a journal shows it. principal: who asked for it; start_by: None if it was refused; reported: the request
    that reported a number, which a steward must confirm or correct; r: the most mu² that one of its charges left
    unspent; seq: its number; charged: all that it was charged once it was settled; corrections: how many came since."""

    state: str
    cost: Amount
    keys: tuple[AccountKey, ...]
    principal: str
    start_by: str | None
    reported: Mapping[str, Any] | None = None
    r: int = 0
    seq: int = 0
    charged: Amount = ZERO
    corrections: int = 0
    project: str | None = None


class RunReplay(Chain):
    """The part of a calculation over one journal that is about runs, with all that they rest on."""

    def __init__(self, tenant_id: UUID, dataset_id: UUID, name: str = "") -> None:
        super().__init__(tenant_id)
        self.dataset_id = dataset_id
        self.name, self.state, self.bound, self.adjacency = name, "", "", ""
        self.is_derived, self.costing = False, "standalone"
        self.is_partitioned = False
        self.limit: Amount | None = None
        self.projects: dict[str, Amount] = {}
        self.held_limit: Amount | None = None
        self.waits_above_percent: int | None = None
        self.accounts: dict[AccountKey, Account] = {}
        self.runs: dict[UUID, Charged] = {}
        self.proposals = Proposals()
        self.partitions: set[str] = set()
        self.together = Together()

    def read_approved(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        if request_of(entry) is not WITHHELD:
            demand(entry["start_by"] == requested.start_by(entry), "gives a time to start other than the one asked for")
        _demand_begin(entry, "start_by", demand)
        charged = self._charged(entry, demand)
        beside = self._beside(entry, charged, demand)
        if "proposal" in entry:
            self.proposals.note_run(entry, entry["proposal"], demand)
        else:
            demand(not self._waits(charged, entry), "was approved without the steward whom it needs")
        cost = self._new_run(entry, "held", charged, beside, demand)
        demand(beside.table is None or beside.level is not None, "approves what fits at no level")
        fits = not any(beside.exceeds(account, cost) for account in beside_left.guaranteed(charged))
        demand(fits, "leaves more spent and held than the limit allows")
        held = [replace(account, held=account.held + cost) for account in charged]
        self.together.read(entry, held, beside, demand)
        return [self._noted(account, account.remaining.mu_sq_pico, beside.r) for account in held]

    def _waits(self, charged: Iterable[Account], facts: Mapping[str, Any]) -> bool:
        """Return whether a run asks for more of a limit than one may have without a steward."""
        cost, percent = Amount.from_facts(facts["cost"]), self.waits_above_percent
        return percent is not None and any(
            100 * cost.mu_sq_pico > percent * account.limit.mu_sq_pico
            or 100 * cost.delta_atto > percent * account.limit.delta_atto
            for account in charged
            if account.key.principal_id is None
        )

    def read_waiting(self, entry: dict[str, Any], demand: Demand) -> None:
        """Check that a run waits for a steward by the policies that it names, of this dataset at least."""
        run, proposes = UUID(entry["about_run"]), entry["proposes"]
        names, name = proposes["waits_for"], self.name or entry["dataset"]
        demand(entry["proposal"] == entry["about_run"], "waits under an id other than the run's")
        demand(run not in self.runs, "proposes a run that was decided before")
        demand(self.state == "active", "decides a run on a dataset that is not active")
        demand(proposes["request"].get("project") == proposes.get("project"), "has a project other than requested")
        demand(bool(names) and names == sorted(set(names)), "waits for no policy")
        if name in names:
            limits = (self.limit, self.projects.get(proposes.get("project", "")))
            accounts = [Account(AccountKey(self.dataset_id), limit) for limit in limits if limit is not None]
            demand(self._waits(accounts, proposes), "waits for a policy that lets it pass")

    def _beside(self, entry: dict[str, Any], charged: list[Account], demand: Demand) -> Beside:
        beside = Beside(entry.get("residual"), demand)
        beside.demand_cost(Amount.from_facts(entry["cost"]))
        name, is_of_batch = self.name or entry["dataset"], "together" in entry
        beside.demand_level(charged, self.costing, name, is_of_batch=is_of_batch)
        return beside

    def _noted(self, account: Account, left: int, r: int) -> Account:
        """Return the account with this entry among those that rest on what was left, if it does."""
        return beside_left.noted(account, self.seq, left - r) if r and account.key.principal_id is None else account

    def read_refused(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        charged = self._charged(entry, demand)
        beside = self._beside(entry, charged, demand)
        if "proposal" in entry:
            self.proposals.note_run(entry, entry["proposal"], demand)
        cost = self._new_run(entry, "refused", charged, beside, demand)
        exceeded = {quantity for account in charged for quantity in beside.exceeds(account, cost)}
        in_order = [quantity for quantity in ("mu", "delta") if quantity in exceeded]
        elsewhere = entry.get("binding_elsewhere", [])
        demand(in_order == entry["binding"], "does not name every quantity in which the run does not fit")
        demand(elsewhere == sorted(set(elsewhere) - {self.name}), "has a wrong binding_elsewhere")
        demand(bool(exceeded or elsewhere), "refuses a run that fits")
        return charged

    def _charged(self, entry: dict[str, Any], demand: Demand) -> list[Account]:
        """Return the accounts that a run must charge, as they are before: its request decides which. An account that
        was never charged before is empty."""
        demand(self.state == "active", "decides a run on a dataset that is not active")
        demand((entry["bound"], entry["adjacency"]) == (self.bound, self.adjacency), "has a cost for another dataset")
        scopes = self._scopes(entry, demand)
        keys: list[tuple[AccountKey, Amount]] = []
        project = entry.get("project")
        for scope in scopes:
            if self.limit is not None:
                key = AccountKey(self.dataset_id, scope)
                keys.append((key, self.accounts[key].limit))
            if project in self.projects:
                keys.append((AccountKey(self.dataset_id, scope, project), self.projects[project]))
            if self.held_limit is not None:
                key = AccountKey(self.dataset_id, scope, None, UUID(entry["actor"]["principal"]))
                held = self.accounts[key].held if key in self.accounts else ZERO
                keys.append((key, self.held_limit.most(held)))
        return [replace(self.accounts.get(key, Account(key, limit)), limit=limit) for key, limit in keys]

    def _scopes(self, entry: dict[str, Any], demand: Demand) -> Sequence[str | None]:
        """Return the partitions that a run uses; one that is None if the dataset is counted as a whole."""
        if request_of(entry) is WITHHELD:
            return self._stated_scopes(entry, demand)
        demand(entry.get("project") == entry["request"].get("project"), "has a project other than requested")
        named = requested.partitions(entry, demand) if entry["v"] > 1 else None
        if not self.is_partitioned:
            is_named = entry["v"] > 1 and entry["via"] == [entry["dataset"]]
            # A derived dataset has those of the datasets that it is derived from.
            demand(named is None or self.is_derived or not is_named, "names partitions of a dataset that has none")
            return (None,)
        scopes = self.partitions if named is None else set(named)
        demand(bool(scopes), "charges no partition of a partitioned dataset")
        demand(scopes <= self.partitions, "charges a partition that does not exist")
        return sorted(scopes)

    def _stated_scopes(self, entry: dict[str, Any], demand: Demand) -> Sequence[str | None]:
        """Return the same from the balances that the entry states, if its request is not available."""
        if not self.is_partitioned:
            return (None,)
        scopes = {key.partition for key in accounts_of(entry) if key.partition is not None}
        demand(bool(scopes) or self.limit is None, "charges no partition of a partitioned dataset")
        demand(scopes <= self.partitions, "charges a partition that does not exist")
        return sorted(scopes)

    def read_started(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        demand(self.state == "active", "starts a run on a dataset that is not active")
        run, accounts = self._move_run(entry, ("held",), "started", demand)
        demand_owner(entry["actor"], run.principal, demand)
        demand(run.start_by is not None and entry["at"] <= run.start_by, "starts a run after its time to start")
        demand(entry["settle_by"] == requested.after(entry["at"], SETTLE_WITHIN), "has a wrong settle_by")
        _demand_begin(entry, "settle_by", demand)
        return accounts

    def read_voided(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        actor = entry["actor"]
        before = self.runs.get(UUID(entry["run"]))
        was_started = before is not None and before.state == "started"
        run, accounts = self._move_run(entry, ("held", "started"), "voided", demand)
        may = is_steward(actor) or (not was_started and is_owner(actor, run.principal))
        demand(may, "voids a run that this actor may not void")
        is_free = entry.get("independent", False)
        request = request_of(entry)
        says = request.get("data_independent", False)
        demand(is_free in (True, False) and (request is WITHHELD or is_free == says), "states who decided it wrongly")
        kept = beside_left.kept(entry, accounts, run.r, is_free=is_free, demand=demand)
        returned = Amount.from_facts(entry["returned"])
        demand(returned + kept == run.cost, "returns something other than what was approved")
        demand(kept in (ZERO, run.cost), "keeps a part of a run that was voided")
        self.proposals.note_done(entry, "void", takes_two=was_started, demand=demand)
        return self._given_back(accounts, run, kept, is_free=is_free or kept != ZERO)

    def _given_back(self, accounts: list[Account], run: Charged, charged: Amount, *, is_free: bool) -> list[Account]:
        """Return the accounts after a run was charged this much of its cost. is_free: whatever is left, and not as if
        it were the last run."""
        ended = [
            self._noted(
                replace(account, held=account.held - run.cost), account.remaining.mu_sq_pico, 0 if is_free else run.r
            )
            for account in accounts
        ]
        return [
            beside_left.eased(
                account
                if account.key.principal_id is not None
                else replace(account, spent=(account.spent + charged).saturated)
            )
            for account in ended
        ]

    def read_reported(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        """Check a report of a number that no budget could cover: only the dataset's state changes."""
        run, accounts = self._move_run(entry, ("started",), "started", demand)
        demand_owner(entry["actor"], run.principal, demand)
        demand(run.reported is None, "reports a run a second time")
        demand(entry.get("state") == ("retired" if self.state == "retired" else "frozen"), "is reported but not frozen")
        overrun = entry["overrun"]
        Beside(overrun.get("residual"), demand).demand_cost(Amount.from_facts(overrun["cost"]))
        passes = _passes_a_limit(accounts, overrun)
        demand((entry["dataset"] in overrun["beyond_limits"]) == passes, "does not name every limit that it passes")
        demand(bool(overrun["beyond_limits"]), "reports a number that a budget could cover")
        run.reported = request_of(entry)
        return accounts

    def _demand_stated(self, entry: dict[str, Any], run: Charged, demand: Demand) -> None:
        """Check who settles it, and for what. A steward confirms a reported number; correcting it needs two people."""
        report, stated = entry.get("report"), request_of(entry)
        demand(report in ((None,) if run.reported is None else ("confirmed", "corrected")), "answers no report")
        if run.reported is None:
            demand_owner(entry["actor"], run.principal, demand)
        else:
            demand(is_steward(entry["actor"]), "rules on a number, and is not a steward's")
            stated = run.reported if report == "confirmed" else stated
        self.proposals.note_done(entry, "correction", takes_two=report == "corrected", demand=demand)
        if stated is WITHHELD:
            return
        for name in ("steps", "stop"):
            demand(stated.get(name) in (None, entry[name]), f"records {name} other than those sent")
        for name in ("restarts", "models"):
            demand(entry.get(name) == stated.get(name), f"settles with {name} other than those stated")

    def read_settled(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        run, accounts = self._move_run(entry, ("started",), "settled", demand)
        self._demand_stated(entry, run, demand)
        charged, returned = Amount.from_facts(entry["charged"]), Amount.from_facts(entry["returned"])
        overrun = entry.get("overrun")
        is_huge = entry["v"] > 2 and overrun is not None and _passes_a_limit(accounts, overrun)
        demand(run.reported is not None or not is_huge, "settles without a report what no budget could cover")
        is_free = entry["stop"] != "data_dependent" or returned + Amount.from_facts(entry.get("kept", _NOTHING)) == ZERO
        kept = beside_left.kept(entry, accounts, run.r, is_free=is_free, demand=demand)
        demand(kept == ZERO or returned == ZERO, "keeps only a part of what was not executed")
        within = charged if overrun is None else charged - Amount.from_facts(overrun["cost"])
        demand(within + returned == run.cost, "charges and returns something other than what was approved")
        demand(not kept.exceeds(within) and not ZERO.exceeds(returned), "charges more than was approved")
        after = self._given_back(accounts, run, within, is_free=is_free or kept != ZERO)
        run.charged = charged
        if overrun is None:
            demand("state" not in entry, "is frozen, though nothing was overdrawn")
            return after
        return self._overrun(entry, overrun, run, after, demand)

    def _overrun(
        self, entry: dict[str, Any], overrun: Mapping[str, Any], run: Charged, after: list[Account], demand: Demand
    ) -> list[Account]:
        """Check what an overrun is charged behind its run's place, and whether it fits in what remains once the run
        itself is settled."""
        cost, beside = Amount.from_facts(overrun["cost"]), Beside(overrun.get("residual"), demand)
        beside.demand_cost(cost)
        own = beside_left.guaranteed(after)
        fitting = {account.key: beside_left.is_late_fit(account, cost, run.seq) for account in own}
        if beside.table is not None:
            demand(not own or self.costing == "residual", "costs beside what is left, which the dataset does not")
            demand(beside.level is not None or bool(overrun["frozen"]), "is charged at no level, and fits")
            if beside.level is not None:
                is_overdrawn = any(account.overdrawn != ZERO for account in own)
                demand(not is_overdrawn, "is charged beside what an overdrawn account has")
                enough = all(beside_left.leaves_enough(account, beside, cost, run.seq) for account in own)
                demand(enough, "is charged at a level that does not fit")
        run.r = max(run.r, beside.r)
        is_beyond = not all(fitting.values())
        state = "retired" if self.state == "retired" else "frozen"
        demand(
            entry.get("state") == (state if is_beyond else None),
            "is overdrawn but not frozen, or frozen but not overdrawn",
        )
        demand((entry["dataset"] in overrun["frozen"]) == is_beyond, "does not name what was overdrawn")
        demand(overrun["fits"] == (not overrun["frozen"]), "does not state whether the overrun fits")
        return [
            beside_left.charged_late(account, beside, cost, place=run.seq, seq=self.seq, fits=fitting[account.key])
            if account.key in fitting
            else account
            for account in after
        ]

    def _new_run(
        self, entry: dict[str, Any], state: str, charged: list[Account], beside: Beside, demand: Demand
    ) -> Amount:
        run, cost = UUID(entry["run"]), Amount.from_facts(entry["cost"])
        demand(run not in self.runs, "decides a run that was decided before")
        demand(not ZERO.exceeds(cost), "has a negative cost")
        keys = tuple(account.key for account in charged)
        place = {"r": beside.r, "seq": entry["seq"], "project": entry.get("project")}
        self.runs[run] = Charged(state, cost, keys, entry["actor"]["principal"], entry.get("start_by"), **place)
        return cost

    def _move_run(
        self, entry: dict[str, Any], came_from: tuple[str, ...], to: str, demand: Demand
    ) -> tuple[Charged, list[Account]]:
        run = self.runs.get(UUID(entry["run"]))
        if run is None:
            raise JournalBroken("names a run that was never approved", seq=entry["seq"])
        demand(run.state in came_from, f"moves a run that is {run.state} to {to}")
        run.state = to
        return run, [self.accounts[key] for key in run.keys]


def _demand_begin(entry: Mapping[str, Any], due: str, demand: Demand) -> None:
    """Check until when a job may begin; approvals and starts state it since version 3."""
    if entry["v"] > 2:
        demand(is_time(entry["begin_by"]), "has a begin_by that is not a time")
        demand(entry["at"] <= entry["begin_by"] <= entry[due], "has a begin_by outside of decision and due time")


def _passes_a_limit(accounts: Iterable[Account], overrun: Mapping[str, Any]) -> bool:
    """Return whether an overrun is more than the whole limit of an account that is not a principal's."""
    excess = Amount.from_facts(overrun["cost"])
    return any(excess.exceeds(account.limit) for account in accounts if account.key.principal_id is None)
