"""The state that a dataset's entries replay to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from uuid import UUID

from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import Account, AccountKey
from ledger.core.journal.chain import Chain, Demand, accounts_of, check_all, read_entries
from ledger.core.journal.policy import Loosening
from ledger.errors import JournalBroken


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a journal adds up to: its newest number and hash, every account, and every run's state and cost.

    limit, limit_highest: the dataset's limit now, and the most that it ever was in each quantity; None where it never
    had one. It may have been higher in one at one time and in the other at another. loosenings: what a tenant's policy
    has a say in, proposed or done by one person.
    """

    seq: int
    head: bytes
    state: str
    limit: Amount | None
    limit_highest: Amount | None
    accounts: Mapping[AccountKey, Account]
    runs: Mapping[UUID, tuple[str, Amount]]
    loosenings: tuple[Loosening, ...] = ()


def replay(entries: Iterable[tuple[str, bytes]], *, tenant_id: UUID, dataset_id: UUID) -> Replayed:
    """Recomputes a dataset's balances from its entries, given oldest first as (canonical JSON, hash).

    Checks the bytes, the numbering, the chain, which accounts each run charges, every approval against their limits,
    every refusal (it must really not have fitted, here or where it says), every transition of a run, and that each
    balance is the one before plus what the entry says. Shares no arithmetic with `ledger.core.decision`. Raises
    JournalBroken with the first `seq` that is wrong.
    """
    dataset_replay = _DatasetReplay(tenant_id, dataset_id)
    check_all(dataset_replay.read, entries)
    return dataset_replay.result()


def walk(entries: Iterable[tuple[str, bytes]], *, tenant_id: UUID, dataset_id: UUID) -> Iterator[dict[str, Any]]:
    """The entries of a dataset's journal as they are read, each once it was checked as `replay` checks it."""
    return read_entries(_DatasetReplay(tenant_id, dataset_id).read, entries)


@dataclass(slots=True)
class _Charged:
    """A run as a journal knows it. is_reported: its number was reported, and a steward has to confirm or correct it.
    reported_restarts: as they were stated with it."""

    state: str
    cost: Amount
    keys: tuple[AccountKey, ...]
    is_reported: bool = False
    reported_restarts: Any = None


class _DatasetReplay(Chain):
    """A reader's own arithmetic over one journal."""

    def __init__(self, tenant_id: UUID, dataset_id: UUID) -> None:
        super().__init__(tenant_id)
        self.dataset_id = dataset_id
        self.state = ""
        self.is_registered = self.is_partitioned = False
        self.limit: Amount | None = None
        self.limit_highest: Amount | None = None
        self.ceiling: Amount | None = None
        self.projects: dict[str, Amount] = {}
        self.held_limit: Amount | None = None
        self.runs_per_hour: int | None = None
        self.accounts: dict[AccountKey, Account] = {}
        self.runs: dict[UUID, _Charged] = {}
        self.proposals: dict[str, dict[str, Any] | None] = {}
        self.loosenings: list[Loosening] = []

    def result(self) -> Replayed:
        runs = {run: (charged.state, charged.cost) for run, charged in self.runs.items()}
        limits = (self.limit, self.limit_highest)
        return Replayed(self.seq, self.head, self.state, *limits, self.accounts, runs, tuple(self.loosenings))

    def read(self, seq: int, body: str, stated: bytes) -> dict[str, Any]:
        entry, demand = self.follow(seq, body, stated)
        demand(entry["dataset_id"] == str(self.dataset_id), "belongs to another dataset")
        demand(("run" in entry) == entry["kind"].startswith("run-"), "is not of the kind that it says")
        touched = {account.key: account for account in self._after(entry, demand)}
        own = self.accounts.get(AccountKey(self.dataset_id))
        if own is not None:
            touched.setdefault(own.key, own)
        demand(accounts_of(entry) == touched, "its balances are not what the entries add up to")
        for account in touched.values():
            within = not (account.spent + account.held).exceeds(account.limit + account.overdrawn)
            demand(within, "leaves more spent and held than the limit allows")
        self.accounts.update(touched)
        self.state = entry.get("state", self.state)
        return entry

    def _after(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        """The accounts that an entry touches, as they are after it."""
        kind = entry["kind"]
        demand(self.is_registered != (kind == "dataset-registered"), "registers the dataset not once, and first")
        match kind:
            case "dataset-registered":
                return self._registered(entry, demand)
            case "dataset-changed" | "change-proposed" | "proposal-refused":
                self._note_proposal(entry, demand)
                self._note_thaw(entry)
                return ()
            case "budget-set":
                self._note_proposal(entry, demand)
                return self._budget_set(entry, demand)
            case "partitions-added":
                self._note_proposal(entry, demand)
                self._note_loosening(entry, "partitions", is_loosening=True)
                return self._partitions_added(entry, demand)
            case "project-set":
                self._note_proposal(entry, demand)
                self._note_share(entry)
                self.projects[entry["project"]] = limit = Amount.from_facts(entry["limit"])
                its = [account for key, account in self.accounts.items() if key.project == entry["project"]]
                return self._limited(its, limit, demand)
            case "fair-use-set":
                self._note_proposal(entry, demand)
                self._fair_use_set(entry)
                return ()
            case _:
                return self._of_run(entry, demand)

    def _of_run(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        match entry["kind"]:
            case "run-approved":
                return self._approved(entry, demand)
            case "run-refused":
                return self._refused(entry, demand)
            case "run-started":
                demand(self.state == "active", "starts a run on a dataset that is not active")
                return self._move_run(entry, ("held",), "started", demand)[1]
            case "run-reported":
                return self._reported(entry, demand)
            case "run-settled":
                self._note_proposal(entry, demand)
                self._note_loosening(entry, "correction", is_loosening=entry.get("report") == "corrected")
                return self._settled(entry, demand)
            case "run-voided":
                self._note_proposal(entry, demand)
                run = self.runs.get(UUID(entry["run"]))
                self._note_loosening(entry, "void", is_loosening=run is not None and run.state == "started")
                cost, accounts = self._move_run(entry, ("held", "started"), "voided", demand)
                return [_eased(replace(account, held=account.held - cost)) for account in accounts]
            case _:
                raise JournalBroken(f"is of the unknown kind {entry['kind']!r}", seq=entry["seq"])

    def _note_proposal(self, entry: dict[str, Any], demand: Demand) -> None:
        """What takes two people was proposed by one before the other one said yes or no to just that, once, in time."""
        stated = entry.get("proposal")
        if stated is None:
            return
        if entry["kind"] == "change-proposed":
            demand(stated not in self.proposals, "proposes a second time")
            self.proposals[stated] = entry
            self.loosenings.append(Loosening(entry["seq"], entry["at"], entry["what"], is_proposal=True))
            return
        is_refusal = entry["kind"] == "proposal-refused"
        proposal = stated if is_refusal else stated["id"]
        proposed = self.proposals.get(proposal)
        if proposed is None:
            raise JournalBroken("answers what was not proposed, or was answered before", seq=entry["seq"])
        proposer = proposed["actor"]["principal"]
        demand(proposer != entry["actor"]["principal"], "is proposed and answered by the same person")
        # Times are written so that their order as text is their order in time.
        demand(entry["at"] < proposed["approve_by"], "answers a proposal that had expired")
        if not is_refusal:
            demand(stated["by"]["principal"] == proposer, "was proposed by somebody else")
            demand(_does(proposed, entry), "does something else than was proposed")
        self.proposals[proposal] = None

    def _note_loosening(self, entry: dict[str, Any], what: str, *, is_loosening: bool) -> None:
        """Note what loosens a budget and was done by one person. What two did was proposed."""
        if is_loosening and "proposal" not in entry:
            self.loosenings.append(Loosening(entry["seq"], entry["at"], what, is_proposal=False))

    def _note_thaw(self, entry: dict[str, Any]) -> None:
        is_thaw = entry.get("state") == "active" and self.state != "active"
        is_overdrawn = is_thaw and any(account.overdrawn != ZERO for account in self.accounts.values())
        self._note_loosening(entry, "thaw", is_loosening=is_overdrawn)
        waits = is_thaw and any(run.is_reported and run.state == "started" for run in self.runs.values())
        if waits:
            raise JournalBroken("opens the dataset while a reported number waits for a steward", seq=entry["seq"])

    def _note_share(self, entry: dict[str, Any]) -> None:
        """The first share of a project lets somebody else spend."""
        before = self.projects.get(entry["project"])
        is_more = before is None or bool(Amount.from_facts(entry["limit"]).exceeds(before))
        self._note_loosening(entry, "project", is_loosening=is_more)

    def _fair_use_set(self, entry: dict[str, Any]) -> None:
        stated = entry["fair_use"]
        held = None if stated["limit"] is None else Amount.from_facts(stated["limit"])
        rate, before = stated["runs_per_hour"], self.runs_per_hour
        more_held = self.held_limit is not None and (held is None or bool(held.exceeds(self.held_limit)))
        more_runs = before is not None and (rate is None or rate > before)
        self._note_loosening(entry, "fair-use", is_loosening=more_held or more_runs)
        self.held_limit, self.runs_per_hour = held, rate

    # --- the dataset

    def _registered(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        self.is_registered = True
        self.is_partitioned = entry.get("is_partitioned", False)
        if "ceiling_limit" in entry:
            self.ceiling = Amount.from_facts(entry["ceiling_limit"])
        if entry["limit"] is None:
            demand(bool(entry["derived_from"]), "has neither a budget nor anything that it is derived from")
            return ()
        limit = self._new_limit(entry, demand)
        stated = accounts_of(entry) if self.is_partitioned else [AccountKey(self.dataset_id)]
        demand(all(self._is_base(key) for key in stated), "registers accounts that belong to somebody")
        return [Account(key, limit) for key in stated]

    def _is_base(self, key: AccountKey) -> bool:
        return key.is_base and (key.partition is not None) == self.is_partitioned

    def _new_limit(self, entry: dict[str, Any], demand: Demand) -> Amount:
        self.limit = limit = Amount.from_facts(entry["limit"])
        demand(self.ceiling is None or not limit.exceeds(self.ceiling), "sets a limit above the ceiling")
        self.limit_highest = limit if self.limit_highest is None else self.limit_highest.most(limit)
        return limit

    def _budget_set(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        before = self.limit
        demand(before is not None, "sets the budget of a dataset that has none")
        limit = self._new_limit(entry, demand)
        self._note_loosening(entry, "budget", is_loosening=before is not None and bool(limit.exceeds(before)))
        return self._limited([account for key, account in self.accounts.items() if self._is_base(key)], limit, demand)

    @staticmethod
    def _limited(accounts: Iterable[Account], limit: Amount, demand: Demand) -> Iterable[Account]:
        after = [_eased(replace(account, limit=limit)) for account in accounts]
        demand(not any(account.overdrawn != ZERO for account in after), "sets a limit below what is spent and held")
        return after

    def _partitions_added(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        demand(self.is_partitioned and entry["disjoint"] is True, "adds partitions that are not said to be disjoint")
        limit = Amount.from_facts(entry["limit"])
        demand(limit == self.limit, "gives partitions another limit than the dataset's")
        keys = [AccountKey(self.dataset_id, name) for name in entry["names"]]
        demand(not any(key in self.accounts for key in keys), "adds a partition a second time")
        return [Account(key, limit) for key in keys]

    # --- runs

    def _approved(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        demand(self.state == "active", "approves a run on a dataset that is not active")
        charged = self._charged(entry, demand)
        cost = self._new_run(entry, "held", charged, demand)
        return [replace(account, held=account.held + cost) for account in charged]

    def _refused(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        charged = self._charged(entry, demand)
        cost = self._new_run(entry, "refused", charged, demand)
        exceeded = {quantity for account in charged for quantity in cost.exceeds(account.remaining)}
        demand(exceeded == set(entry["binding"]), "does not say what of the run does not fit")
        demand(bool(exceeded or entry.get("binding_elsewhere")), "refuses a run that fits")
        return charged

    def _charged(self, entry: dict[str, Any], demand: Demand) -> list[Account]:
        """The accounts that a run has to be charged to, as they are before: which partitions it used, the entry says,
        and everything else follows. One that was never charged before begins with nothing in it."""
        stated = accounts_of(entry)
        scopes: list[str | None] = [None]
        if self.is_partitioned:
            scopes = [*sorted({key.partition for key in stated if key.partition is not None})]
            demand(bool(scopes), "charges a partitioned dataset in none of its partitions")
        keys: list[tuple[AccountKey, Amount]] = []
        project = entry.get("project")
        for scope in scopes:
            if self.limit is not None:
                key = AccountKey(self.dataset_id, scope)
                demand(key in self.accounts, "charges a partition that there is not")
                keys.append((key, self.accounts[key].limit))
            if project in self.projects:
                keys.append((AccountKey(self.dataset_id, scope, project), self.projects[project]))
            if self.held_limit is not None:
                key = AccountKey(self.dataset_id, scope, None, UUID(entry["actor"]["principal"]))
                held = self.accounts[key].held if key in self.accounts else ZERO
                keys.append((key, self.held_limit.most(held)))
        return [replace(self.accounts.get(key, Account(key, limit)), limit=limit) for key, limit in keys]

    def _reported(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        """A number that no budget could cover: nothing moves but the dataset's state."""
        _, accounts = self._move_run(entry, ("started",), "started", demand)
        run, overrun = self.runs[UUID(entry["run"])], entry["overrun"]
        demand(not run.is_reported, "reports a run a second time")
        run.is_reported, run.reported_restarts = True, entry["request"].get("restarts")
        demand(entry.get("state") == ("retired" if self.state == "retired" else "frozen"), "is reported and not frozen")
        excess = Amount.from_facts(overrun["cost"])
        lasting = [account for account in accounts if account.key.principal_id is None]
        passes = any(excess.exceeds(account.limit) for account in lasting)
        demand((entry["dataset"] in overrun["beyond_limits"]) == passes, "does not say whose whole limit it passes")
        demand(bool(overrun["beyond_limits"]), "reports what a budget could cover")
        return accounts

    def _settled(self, entry: dict[str, Any], demand: Demand) -> Iterable[Account]:
        run = self.runs.get(UUID(entry["run"]))
        is_reported = run is not None and run.is_reported
        demand(entry.get("report") in (("confirmed", "corrected") if is_reported else (None,)), "answers no report")
        cost, accounts = self._move_run(entry, ("started",), "settled", demand)
        charged, returned = Amount.from_facts(entry["charged"]), Amount.from_facts(entry["returned"])
        stated = entry["request"].get("restarts")
        if run is not None and entry.get("report") == "confirmed":
            stated = run.reported_restarts
        demand(entry.get("restarts") == stated, "settles for other restarts than were stated")
        overrun = entry.get("overrun")
        planned = charged if overrun is None else charged - Amount.from_facts(overrun["cost"])
        demand(planned + returned == cost, "charges and returns something else than was approved")
        demand(not ZERO.exceeds(planned) and not ZERO.exceeds(returned), "charges more than was approved")
        after: list[Account] = []
        for account in accounts:
            ended = replace(account, held=account.held - cost)
            if account.key.principal_id is None:
                ended = replace(ended, spent=(ended.spent + charged).saturated)
            # Only what was executed beyond the plan may draw an account further down.
            after.append(_eased(ended) if overrun is None else replace(ended, overdrawn=_over(ended)))
        froze = entry.get("state") in ("frozen", "retired")
        if overrun is None:
            demand(not froze, "is frozen, and nothing was overdrawn")
        else:
            # As for a new run: it fits, or not, in what is left once the run itself is settled.
            excess, spent = Amount.from_facts(overrun["cost"]), charged - Amount.from_facts(overrun["cost"])
            left = [
                replace(account, held=account.held - cost, spent=(account.spent + spent).saturated).remaining
                for account in accounts
                if account.key.principal_id is None
            ]
            is_beyond = any(excess.exceeds(amount) for amount in left)
            demand(froze == is_beyond, "is overdrawn and not frozen, or frozen and not overdrawn")
            demand((entry["dataset"] in overrun["frozen"]) == is_beyond, "does not say what was overdrawn")
            demand(overrun["fits"] == (not overrun["frozen"]), "does not say whether the overrun fits")
        return after

    def _new_run(self, entry: dict[str, Any], state: str, charged: list[Account], demand: Demand) -> Amount:
        run, cost = UUID(entry["run"]), Amount.from_facts(entry["cost"])
        demand(run not in self.runs, "decides a run that was decided before")
        demand(not ZERO.exceeds(cost), "has a negative cost")
        self.runs[run] = _Charged(state, cost, tuple(account.key for account in charged))
        return cost

    def _move_run(
        self, entry: dict[str, Any], came_from: tuple[str, ...], to: str, demand: Demand
    ) -> tuple[Amount, list[Account]]:
        run = self.runs.get(UUID(entry["run"]))
        if run is None:
            raise JournalBroken("names a run that was never approved", seq=entry["seq"])
        demand(run.state in came_from, f"moves a run that is {run.state} to {to}")
        run.state = to
        return run.cost, [self.accounts[key] for key in run.keys]


_DONE_BY: Final = {
    "budget": "budget-set",
    "thaw": "dataset-changed",
    "void": "run-voided",
    "correction": "run-settled",
    "partitions": "partitions-added",
    "project": "project-set",
    "fair-use": "fair-use-set",
}
"""The kind of entry that does what was proposed."""
_AS_OF_THEN: Final = frozenset({"limit_before"})
"""What a proposal says of how things were."""


def _does(proposed: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether an entry does what was proposed. The limit before may be another by now."""
    kind = _DONE_BY[proposed["what"]]
    facts = {name: value for name, value in proposed["proposes"].items() if name not in _AS_OF_THEN}
    same_run = entry.get("run") == proposed.get("about_run")
    return entry["kind"] == kind and same_run and all(entry.get(name) == value for name, value in facts.items())


def _over(account: Account) -> Amount:
    """By how much an account's limit is passed, in each quantity."""
    return (account.spent + account.held - account.limit).most(ZERO)


def _eased(account: Account) -> Account:
    """The account with no more overdrawn than before, and no more than it needs."""
    return replace(account, overdrawn=account.overdrawn.least(_over(account)))
