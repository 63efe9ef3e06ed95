"""Replay: from a dataset's entries to its state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import Account, AccountKey
from ledger.core.entries import Sealed
from ledger.core.journal import requested
from ledger.core.journal.chain import Chain, Demand, accounts_of, check_all, is_time, read_entries
from ledger.core.journal.policy import Loosening
from ledger.core.journal.proposals import Proposals
from ledger.core.journal.requested import WITHHELD, request_of
from ledger.core.journal.rights import demand_owner, demand_role, is_owner, is_steward
from ledger.core.journal.shapes import demand_dataset_entry
from ledger.errors import JournalBroken

SETTLE_WITHIN: Final = timedelta(days=30)
Entered = Sealed | tuple[str, bytes]
"""An entry as it is read: (canonical JSON, hash), or with a request that another journal has."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The state of a journal: its newest number and hash, every account, and every run's state and cost. alone: changes
    by one person that may need two.

    limit, limit_highest: the dataset's limit now, and the most that it ever was in each quantity, possibly at different
    times; None if it never had one. loosenings: proposals and changes by one person that a tenant's policy decides
    about. withheld: for each dataset whose journal has requests that this one names by digest and that were not
    available, their number.
    """

    seq: int
    head: bytes
    state: str
    limit: Amount | None
    limit_highest: Amount | None
    accounts: Mapping[AccountKey, Account]
    runs: Mapping[UUID, tuple[str, Amount]]
    loosenings: tuple[Loosening, ...] = ()
    withheld: Mapping[str, int] = field(default_factory=dict)


def replay(entries: Iterable[Entered], *, tenant_id: UUID, dataset_id: UUID, name: str = "") -> Replayed:
    """Recompute a dataset's balances from its entries, given oldest first.

    Checks the bytes, the numbering, the chain, the members of each entry, who may do it and when, which accounts each
    run charges by its request, every approval against their limits, every refusal (it must really not have fitted, here
    or in the dataset that it names), every transition of a run and of the dataset, and that each balance is the one
    before plus what the entry states. If a request is in another journal and not available, the balances show which
    accounts were charged, and what else it decides is not checked: see `withheld`. name: the dataset's name, if known.
    Shares no arithmetic with `ledger.core.decision`. Raises JournalBroken with the first `seq` that is wrong.
    """
    dataset_replay = _DatasetReplay(tenant_id, dataset_id, name)
    check_all(dataset_replay.read, entries)
    return dataset_replay.result()


def walk(entries: Iterable[Entered], *, tenant_id: UUID, dataset_id: UUID) -> Iterator[dict[str, Any]]:
    """Yield the entries of a dataset's journal, each after `replay`'s checks."""
    return read_entries(_DatasetReplay(tenant_id, dataset_id).read, entries)


@dataclass(slots=True)
class _Charged:
    """A run as a journal shows it. principal: who asked for it; start_by: None if it was refused; reported: the request
    that reported a number, which a steward must confirm or correct."""

    state: str
    cost: Amount
    keys: tuple[AccountKey, ...]
    principal: str
    start_by: str | None
    reported: Mapping[str, Any] | None = None


class _DatasetReplay(Chain):
    """An independent calculation over one journal."""

    def __init__(self, tenant_id: UUID, dataset_id: UUID, name: str = "") -> None:
        super().__init__(tenant_id)
        self.dataset_id = dataset_id
        self.name, self.state, self.bound, self.adjacency = name, "", "", ""
        self.is_derived = False
        self.is_registered = self.is_partitioned = False
        self.limit: Amount | None = None
        self.limit_highest: Amount | None = None
        self.ceiling: Amount | None = None
        self.projects: dict[str, Amount] = {}
        self.held_limit: Amount | None = None
        self.runs_per_hour: int | None = None
        self.accounts: dict[AccountKey, Account] = {}
        self.runs: dict[UUID, _Charged] = {}
        self.proposals = Proposals()
        self.partitions: set[str] = set()
        self.withheld: Counter[str] = Counter()
        self._by_kind: Mapping[str, Callable[[dict[str, Any], Demand], Iterable[Account]]] = {
            "dataset-registered": self._registered,
            "dataset-changed": self._changed,
            "budget-set": self._budget_set,
            "partitions-added": self._partitions_added,
            "project-set": self._project_set,
            "fair-use-set": self._fair_use_set,
            "run-approved": self._approved,
            "run-refused": self._refused,
            "run-started": self._started,
            "run-reported": self._reported,
            "run-settled": self._settled,
            "run-voided": self._voided,
            "change-proposed": self._proposed,
            "proposal-refused": self._refused_proposal,
        }

    def result(self) -> Replayed:
        runs = {run: (charged.state, charged.cost) for run, charged in self.runs.items()}
        limits = self.limit, self.limit_highest
        loosenings, withheld = tuple(self.proposals.loosenings), dict(self.withheld)
        return Replayed(self.seq, self.head, self.state, *limits, self.accounts, runs, loosenings, withheld)

    def read(self, seq: int, sealed: Sealed) -> dict[str, Any]:
        entry, demand = self.follow(seq, sealed)
        demand(entry["dataset_id"] == str(self.dataset_id), "belongs to another dataset")
        demand_dataset_entry(entry, demand)
        requested.attach(entry, sealed.request, demand)
        if "request_in" in entry:
            demand(entry["request_in"]["id"] != entry["dataset_id"], "refers to its own journal as another one")
            if sealed.request is None:
                self.withheld[entry["request_in"]["dataset"]] += 1
        demand_role(entry, demand)
        demand(self.name in ("", entry["dataset"]), "names the dataset differently from the entries before")
        touched = {account.key: account for account in self._after(entry, demand)}
        own = self.accounts.get(AccountKey(self.dataset_id))
        if own is not None:
            touched.setdefault(own.key, own)
        demand(accounts_of(entry) == touched, "has balances that are not the sum of the entries")
        for account in touched.values():
            within = not (account.spent + account.held).exceeds(account.limit + account.overdrawn)
            demand(within, "leaves more spent and held than the limit allows")
        self.accounts.update(touched)
        self.name, self.state = entry["dataset"], entry.get("state", self.state)
        return entry

    def _after(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        """Return the accounts that an entry touches, as they are after it."""
        kind = entry["kind"]
        demand(self.is_registered != (kind == "dataset-registered"), "registers the dataset again, or not first")
        return self._by_kind[kind](entry, demand)

    def _refused_proposal(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        self.proposals.answer(entry, entry["proposal"], demand)
        return ()

    # --- two people

    def _proposed(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        """Check that a proposal is about a change that needs two people."""
        self.proposals.propose(entry, demand)
        proposes = entry["proposes"]
        match entry["what"]:
            case "budget":
                demand(_facts_of(self.limit) == proposes["limit_before"], "is based on a limit that is not current")
                demand(self._is_raise(proposes), "proposes a budget that is not more than before")
            case "thaw":
                demand(proposes["state"] == "active" and self._is_thaw(), "proposes to thaw what is not overdrawn")
            case "partitions":
                demand(self.is_partitioned and proposes["disjoint"] is True, "proposes partitions that cannot be added")
            case "project":
                before = self.projects.get(proposes["project"])
                demand(_facts_of(before) == proposes["limit_before"], "is based on a limit that is not current")
                demand(self._is_more_of_project(proposes), "proposes a share that is not more than before")
            case "fair-use":
                demand(self._is_more_use(proposes["fair_use"]), "proposes a fair use that is not more than before")
            case what:
                run = self.runs.get(UUID(entry["about_run"]))
                demand(run is not None and run.state == "started", f"proposes the {what} of a run that was not started")
                waits = what != "correction" or (run is not None and run.reported is not None)
                demand(waits, "proposes to correct a run that reported no number")
        return ()

    def _is_more_of_project(self, entry: Mapping[str, Any]) -> bool:
        """Return whether a share lets anyone spend more: the first share lets new people spend, a larger one more."""
        before = self.projects.get(entry["project"])
        return before is None or bool(Amount.from_facts(entry["limit"]).exceeds(before))

    def _is_more_use(self, stated: Mapping[str, Any]) -> bool:
        """Return whether one principal may hold or ask for more than before."""
        held = None if stated["limit"] is None else Amount.from_facts(stated["limit"])
        rate, before = stated["runs_per_hour"], self.runs_per_hour
        more_held = self.held_limit is not None and (held is None or bool(held.exceeds(self.held_limit)))
        return more_held or (before is not None and (rate is None or rate > before))

    def _is_raise(self, entry: Mapping[str, Any]) -> bool:
        return self.limit is not None and bool(Amount.from_facts(entry["limit"]).exceeds(self.limit))

    def _is_thaw(self) -> bool:
        return self.state != "active" and any(account.overdrawn != ZERO for account in self.accounts.values())

    # --- the dataset

    def _registered(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        self.is_registered = True
        self.is_partitioned = entry.get("is_partitioned", False)
        self.bound, self.adjacency = entry["bound"], entry["adjacency"]
        origins = entry.get("derived_from", ())
        self.is_derived = bool(origins)
        demand(entry["state"] == "active", "registers a dataset that is not active")
        demand(all(_is_origin(origin) for origin in origins), "has a derived_from in a form that no ledger writes")
        demand(("ceiling" in entry) == ("ceiling_limit" in entry), "has only one half of a ceiling")
        demand((entry["budget"] is None) == (entry["limit"] is None), "has only one of budget and limit")
        if "ceiling_limit" in entry:
            self.ceiling = Amount.from_facts(entry["ceiling_limit"])
        if entry["limit"] is None:
            demand(self.is_derived, "has neither a budget nor a dataset that it is derived from")
            return ()
        limit = self._new_limit(entry, demand)
        stated = accounts_of(entry) if self.is_partitioned else [AccountKey(self.dataset_id)]
        demand(all(self._is_base(key) for key in stated), "registers accounts that belong to a project or a principal")
        self.partitions.update(key.partition for key in stated if key.partition is not None)
        return [Account(key, limit) for key in stated]

    def _is_base(self, key: AccountKey) -> bool:
        return key.is_base and (key.partition is not None) == self.is_partitioned

    def _new_limit(self, entry: dict[str, Any], demand: Demand) -> Amount:
        self.limit = limit = Amount.from_facts(entry["limit"])
        demand(limit.fits_int64, "sets a limit that no account can have")
        demand(self.ceiling is None or not limit.exceeds(self.ceiling), "sets a limit above the ceiling")
        self.limit_highest = limit if self.limit_highest is None else self.limit_highest.most(limit)
        return limit

    def _changed(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        state = entry.get("state", self.state)
        demand(state == "retired" or self.state != "retired", "reopens a retired dataset")
        waits = any(run.reported is not None and run.state == "started" for run in self.runs.values())
        is_opened = state == "active" and self.state != "active"
        demand(not (is_opened and waits), "opens the dataset while a reported number waits for a steward")
        self.proposals.note_done(entry, "thaw", takes_two=state == "active" and self._is_thaw(), demand=demand)
        return ()

    def _budget_set(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        demand(self.limit is not None, "sets the budget of a dataset that has none of its own")
        self.proposals.note_done(entry, "budget", takes_two=self._is_raise(entry), demand=demand)
        demand(_facts_of(self.limit) == entry["limit_before"], "has a wrong limit_before")
        limit = self._new_limit(entry, demand)
        return self._limited([account for key, account in self.accounts.items() if self._is_base(key)], limit, demand)

    @staticmethod
    def _limited(accounts: Iterable[Account], limit: Amount, demand: Demand) -> Iterable[Account]:
        after = [_eased(replace(account, limit=limit)) for account in accounts]
        demand(not any(account.overdrawn != ZERO for account in after), "sets a limit below what is spent and held")
        return after

    def _project_set(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        project, limit = entry["project"], Amount.from_facts(entry["limit"])
        demand(limit.fits_int64, "sets a limit that no account can have")
        demand(_facts_of(self.projects.get(project)) == entry["limit_before"], "has a wrong limit_before")
        self.proposals.note_done(entry, "project", takes_two=self._is_more_of_project(entry), demand=demand)
        self.projects[project] = limit
        return self._limited(
            [account for key, account in self.accounts.items() if key.project == project], limit, demand
        )

    def _fair_use_set(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        stated = entry["fair_use"]
        demand((stated["held"] is None) == (stated["limit"] is None), "declares one limit and sets another")
        rate = stated["runs_per_hour"]
        demand(rate is None or (type(rate) is int and rate > 0), "allows no runs an hour")
        self.proposals.note_done(entry, "fair-use", takes_two=self._is_more_use(stated), demand=demand)
        self.held_limit = None if stated["limit"] is None else Amount.from_facts(stated["limit"])
        self.runs_per_hour = rate
        demand(self.held_limit is None or self.held_limit.fits_int64, "sets a limit that no account can have")
        return ()

    def _partitions_added(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        demand(self.state != "retired", "adds partitions to a retired dataset")
        demand(self.is_partitioned and entry["disjoint"] is True, "adds partitions that are not stated disjoint")
        self.proposals.note_done(entry, "partitions", takes_two=True, demand=demand)
        limit = Amount.from_facts(entry["limit"])
        demand(limit == self.limit, "gives partitions a limit other than the dataset's")
        keys = [AccountKey(self.dataset_id, name) for name in entry["names"]]
        demand(bool(keys) and len(set(keys)) == len(keys), "adds no partition, or the same one twice")
        demand(not any(key in self.accounts for key in keys), "adds a partition that exists")
        self.partitions.update(entry["names"])
        return [Account(key, limit) for key in keys]

    # --- runs

    def _approved(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        if request_of(entry) is not WITHHELD:
            demand(entry["start_by"] == requested.start_by(entry), "gives a time to start other than the one asked for")
        _demand_begin(entry, "start_by", demand)
        charged = self._charged(entry, demand)
        cost = self._new_run(entry, "held", charged, demand)
        return [replace(account, held=account.held + cost) for account in charged]

    def _refused(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        charged = self._charged(entry, demand)
        cost = self._new_run(entry, "refused", charged, demand)
        exceeded = {quantity for account in charged for quantity in cost.exceeds(account.remaining)}
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

    def _started(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        demand(self.state == "active", "starts a run on a dataset that is not active")
        run, accounts = self._move_run(entry, ("held",), "started", demand)
        demand_owner(entry["actor"], run.principal, demand)
        demand(run.start_by is not None and entry["at"] <= run.start_by, "starts a run after its time to start")
        demand(entry["settle_by"] == requested.after(entry["at"], SETTLE_WITHIN), "has a wrong settle_by")
        _demand_begin(entry, "settle_by", demand)
        return accounts

    def _voided(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        actor = entry["actor"]
        before = self.runs.get(UUID(entry["run"]))
        was_started = before is not None and before.state == "started"
        run, accounts = self._move_run(entry, ("held", "started"), "voided", demand)
        may = is_steward(actor) or (not was_started and is_owner(actor, run.principal))
        demand(may, "voids a run that this actor may not void")
        demand(Amount.from_facts(entry["returned"]) == run.cost, "returns something other than what was approved")
        self.proposals.note_done(entry, "void", takes_two=was_started, demand=demand)
        return [_eased(replace(account, held=account.held - run.cost)) for account in accounts]

    def _reported(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        """Check a report of a number that no budget could cover: only the dataset's state changes."""
        run, accounts = self._move_run(entry, ("started",), "started", demand)
        demand_owner(entry["actor"], run.principal, demand)
        demand(run.reported is None, "reports a run a second time")
        demand(entry.get("state") == ("retired" if self.state == "retired" else "frozen"), "is reported but not frozen")
        overrun = entry["overrun"]
        passes = _passes_a_limit(accounts, overrun)
        demand((entry["dataset"] in overrun["beyond_limits"]) == passes, "does not name every limit that it passes")
        demand(bool(overrun["beyond_limits"]), "reports a number that a budget could cover")
        run.reported = request_of(entry)
        return accounts

    def _demand_stated(self, entry: dict[str, Any], run: _Charged, demand: Demand) -> None:
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
        demand(entry.get("restarts") == stated.get("restarts"), "settles with restarts other than those stated")

    def _settled(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        run, accounts = self._move_run(entry, ("started",), "settled", demand)
        self._demand_stated(entry, run, demand)
        cost = run.cost
        charged, returned = Amount.from_facts(entry["charged"]), Amount.from_facts(entry["returned"])
        overrun = entry.get("overrun")
        is_huge = entry["v"] > 2 and overrun is not None and _passes_a_limit(accounts, overrun)
        demand(run.reported is not None or not is_huge, "settles without a report what no budget could cover")
        planned = charged if overrun is None else charged - Amount.from_facts(overrun["cost"])
        demand(planned + returned == cost, "charges and returns something other than what was approved")
        demand(not ZERO.exceeds(planned) and not ZERO.exceeds(returned), "charges more than was approved")
        after: list[Account] = []
        for account in accounts:
            ended = replace(account, held=account.held - cost)
            if account.key.principal_id is None:
                ended = replace(ended, spent=(ended.spent + charged).saturated)
            # Only what was executed beyond the plan may overdraw an account further.
            after.append(_eased(ended) if overrun is None else replace(ended, overdrawn=_over(ended)))
        froze = "state" in entry
        state = "retired" if self.state == "retired" else "frozen"
        demand(entry.get("state", state) == state, "is overdrawn but not frozen, or frozen but not overdrawn")
        if overrun is None:
            demand(not froze, "is frozen, though nothing was overdrawn")
        else:
            # As for a new run: it fits, or not, in what remains once the run itself is settled.
            excess, spent = Amount.from_facts(overrun["cost"]), charged - Amount.from_facts(overrun["cost"])
            left = [
                replace(account, held=account.held - cost, spent=(account.spent + spent).saturated).remaining
                for account in accounts
                if account.key.principal_id is None
            ]
            is_beyond = any(excess.exceeds(amount) for amount in left)
            demand(froze == is_beyond, "is overdrawn but not frozen, or frozen but not overdrawn")
            demand((entry["dataset"] in overrun["frozen"]) == is_beyond, "does not name what was overdrawn")
            demand(overrun["fits"] == (not overrun["frozen"]), "does not state whether the overrun fits")
        return after

    def _new_run(self, entry: dict[str, Any], state: str, charged: list[Account], demand: Demand) -> Amount:
        run, cost = UUID(entry["run"]), Amount.from_facts(entry["cost"])
        demand(run not in self.runs, "decides a run that was decided before")
        demand(not ZERO.exceeds(cost), "has a negative cost")
        keys = tuple(account.key for account in charged)
        self.runs[run] = _Charged(state, cost, keys, entry["actor"]["principal"], entry.get("start_by"))
        return cost

    def _move_run(
        self, entry: dict[str, Any], came_from: tuple[str, ...], to: str, demand: Demand
    ) -> tuple[_Charged, list[Account]]:
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


def _facts_of(amount: Amount | None) -> dict[str, str] | None:
    return None if amount is None else amount.facts()


def _is_origin(origin: Mapping[str, Any]) -> bool:
    """Return whether a dataset's entry names an origin in the form that a ledger writes."""
    return origin.keys() == {"id", "name", "unit_preserving"} and origin["unit_preserving"] is True


def _over(account: Account) -> Amount:
    """Return by how much an account's limit is exceeded, in each quantity."""
    return (account.spent + account.held - account.limit).most(ZERO)


def _eased(account: Account) -> Account:
    """Return the account with no more overdrawn than before, and no more than it needs."""
    return replace(account, overdrawn=account.overdrawn.least(_over(account)))
