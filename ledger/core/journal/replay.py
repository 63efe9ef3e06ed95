"""Replay: from a dataset's entries to its state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import Account, AccountKey
from ledger.core.entries import Sealed
from ledger.core.journal import beside_left, requested
from ledger.core.journal.chain import Demand, accounts_of, check_all, read_entries
from ledger.core.journal.past import PastReplay
from ledger.core.journal.policy import Loosening
from ledger.core.journal.rights import demand_role
from ledger.core.journal.shapes import demand_dataset_entry
from ledger.core.least import Charges

Entered = Sealed | tuple[str, bytes]
"""An entry as it is read: (canonical JSON, hash), or with a request that another journal has."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """The state of a journal: its newest number and hash, every account, and every run's state and cost. alone: changes
    by one person that may need two.

    limit, limit_highest: the dataset's limit now, and the most that it ever was in each quantity, possibly at different
    times; None if it never had one. loosenings: proposals and changes by one person that a tenant's policy decides
    about. withheld: for each dataset whose journal has requests that this one names by digest and that were not
    available, their number. charges: what a least limit is computed from. backwards: the first entry, of a version that
    allows that, whose time is before that of the entry before it.
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
    charges: Charges = field(default_factory=Charges, compare=False)
    backwards: int | None = None

    @property
    def least_limit(self) -> Amount | None:
        """Return the least limit under which the same entries would have been approved, an indication: see
        `ledger.core.least`. None if costs are not residual."""
        return self.charges.least_limit() if self.charges.is_residual and self.limit is not None else None


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


class _DatasetReplay(PastReplay):
    """An independent calculation over one journal."""

    def __init__(self, tenant_id: UUID, dataset_id: UUID, name: str = "") -> None:
        super().__init__(tenant_id, dataset_id, name)
        self.is_registered = False
        self.limit_highest: Amount | None = None
        self.ceiling: Amount | None = None
        self.runs_per_hour: int | None = None
        self.withheld: Counter[str] = Counter()
        self.charges = Charges()
        self._by_kind: Mapping[str, Callable[[dict[str, Any], Demand], Iterable[Account]]] = {
            "dataset-registered": self._registered,
            "dataset-changed": self._changed,
            "budget-set": self._budget_set,
            "partitions-added": self._partitions_added,
            "project-set": self._project_set,
            "fair-use-set": self._fair_use_set,
            "run-approved": self.read_approved,
            "run-refused": self.read_refused,
            "run-started": self.read_started,
            "run-reported": self.read_reported,
            "run-settled": self.read_settled,
            "run-voided": self.read_voided,
            "run-corrected": self.read_corrected,
            "run-entered": self.read_entered,
            "change-proposed": self._proposed,
            "proposal-refused": self._refused_proposal,
        }

    def result(self) -> Replayed:
        runs = {run: (charged.state, charged.cost) for run, charged in self.runs.items()}
        limits = self.limit, self.limit_highest
        loosenings, withheld = tuple(self.proposals.loosenings), dict(self.withheld)
        result = Replayed(self.seq, self.head, self.state, *limits, self.accounts, runs, loosenings, withheld)
        return replace(result, charges=self.charges, backwards=self.backwards)

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
        self.together.demand_goes_on(entry, demand)
        demand(self.name in ("", entry["dataset"]), "names the dataset differently from the entries before")
        touched = {account.key: account for account in self._after(entry, demand)}
        own = self.accounts.get(AccountKey(self.dataset_id))
        if own is not None:
            touched.setdefault(own.key, own)
        balances = {key: beside_left.stated(account) for key, account in touched.items()}
        demand(accounts_of(entry) == balances, "has balances that are not the sum of the entries")
        for account in touched.values():
            within = not (account.spent + account.held).exceeds(account.limit + account.overdrawn)
            demand(within, "leaves more spent and held than the limit allows")
        self.accounts.update(touched)
        self.name, self.state = entry["dataset"], entry.get("state", self.state)
        self.charges.read(entry)
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
                is_loosening = "lost" in proposes or self._is_raise(proposes)
                demand(is_loosening, "proposes a budget that is not more than before")
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
            case "run":
                self.read_waiting(entry, demand)
            case "correction" if "number" in proposes:
                run = self.runs.get(UUID(entry["about_run"]))
                demand(run is not None and run.state == "settled", "proposes to correct a run that is not settled")
                is_next = run is not None and proposes["number"] == run.corrections + 1
                demand(is_next, "proposes another correction than the next one of its run")
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
        percent, percent_before = stated.get("waits_above_percent"), self.waits_above_percent
        more_held = self.held_limit is not None and (held is None or bool(held.exceeds(self.held_limit)))
        more_alone = percent_before is not None and (percent is None or percent > percent_before)
        return more_held or more_alone or (before is not None and (rate is None or rate > before))

    def _is_raise(self, entry: Mapping[str, Any]) -> bool:
        return self.limit is not None and bool(Amount.from_facts(entry["limit"]).exceeds(self.limit))

    def _is_thaw(self) -> bool:
        return self.state != "active" and any(account.overdrawn != ZERO for account in self.accounts.values())

    # --- the dataset

    def _registered(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        self.is_registered = True
        self.is_partitioned = entry.get("is_partitioned", False)
        self.bound, self.adjacency = entry["bound"], entry["adjacency"]
        self.costing = entry.get("costing", "standalone")
        demand(self.costing == "standalone" or self.bound == "certified", "has residual costs without certificates")
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
        if "costing" in entry:
            can_switch = self.costing == "standalone" and self.bound == "certified"
            demand(can_switch and entry["costing"] == "residual", "changes the costing to one that it cannot have")
            is_idle = all(account.held == ZERO for account in self.accounts.values())
            is_counted = self.limit is not None or bool(self.projects)
            demand(is_counted, "changes the costing of a dataset without a budget and without shares")
            demand(is_idle, "changes the costing while runs are held")
            self.costing = entry["costing"]
        self.proposals.note_done(entry, "thaw", takes_two=state == "active" and self._is_thaw(), demand=demand)
        return ()

    def _budget_set(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        demand(self.limit is not None, "sets the budget of a dataset that has none of its own")
        is_loosening = "lost" in entry or self._is_raise(entry)
        self.proposals.note_done(entry, "budget", takes_two=is_loosening, demand=demand)
        demand(_facts_of(self.limit) == entry["limit_before"], "has a wrong limit_before")
        self._demand_accounted(entry, demand)
        limit = self._new_limit(entry, demand)
        return self._limited([account for key, account in self.accounts.items() if self._is_base(key)], limit, demand)

    def _demand_accounted(self, entry: Mapping[str, Any], demand: Demand) -> None:
        """Check that a limit accounts for the runs in entries that the journal lost, and that the dataset waits."""
        lost = entry.get("lost")
        if lost is None or self.limit is None:
            demand("state" not in entry, "changes the state along with the budget")
            return
        demand(lost["first"] <= entry["seq"] <= lost["seq"] + 1, "accounts for entries that are not lost")
        costs = [Amount.from_facts(run["cost"]) for run in lost["runs"]]
        demand(not any(ZERO.exceeds(cost) for cost in costs), "has a lost run with a negative cost")
        is_enough = not (Amount.from_facts(entry["limit"]) + sum(costs, ZERO)).exceeds(self.limit)
        demand(is_enough, "does not lower the limit by the cost of the lost runs")
        demand(entry.get("state") == ("retired" if self.state == "retired" else "frozen"), "lost entries, and is open")

    def _limited(self, accounts: Iterable[Account], limit: Amount, demand: Demand) -> Iterable[Account]:
        after = [beside_left.eased(self._with_limit(account, limit)) for account in accounts]
        over = [
            account for account in after if account.overdrawn != ZERO and (account.spent + account.held).exceeds(limit)
        ]
        demand(not over, "sets a limit below what is spent and held")
        return after

    def _with_limit(self, account: Account, limit: Amount) -> Account:
        is_raise = bool(limit.exceeds(account.limit)) and account.spent + account.held != ZERO
        if self.costing == "residual" and is_raise:
            account = replace(account, trail=account.trail.raised(self.seq, account.remaining))
        return replace(account, limit=limit)

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
        percent = stated.get("waits_above_percent")
        is_percent = type(percent) is int and 0 <= percent < 100
        demand("waits_above_percent" not in stated or is_percent, "lets runs wait above no part of a limit")
        self.proposals.note_done(entry, "fair-use", takes_two=self._is_more_use(stated), demand=demand)
        self.held_limit = None if stated["limit"] is None else Amount.from_facts(stated["limit"])
        self.runs_per_hour, self.waits_above_percent = rate, percent
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


def _facts_of(amount: Amount | None) -> dict[str, str] | None:
    return None if amount is None else amount.facts()


def _is_origin(origin: Mapping[str, Any]) -> bool:
    """Return whether a dataset's entry names an origin in the form that a ledger writes."""
    return origin.keys() == {"id", "name", "unit_preserving"} and origin["unit_preserving"] is True
