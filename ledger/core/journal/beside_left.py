"""What replay checks of costs beside what is left: the position in a table, the slack, and giving back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import Account
from ledger.core.journal.chain import Demand
from ledger.core.residual import LEVELS, NO_TRAIL, PARTS, RESERVE, Item, Residual, Trail


def guaranteed(accounts: Iterable[Account]) -> list[Account]:
    """Return the accounts whose limit is a guarantee: all but principals'."""
    return [account for account in accounts if account.key.principal_id is None]


def stated(account: Account) -> Account:
    """Return the account as an entry states it, with the slack alone."""
    if account.slack is not None:
        return replace(account, trail=Trail((Item(0, account.slack),)))
    return replace(account, trail=NO_TRAIL) if account.trail != NO_TRAIL else account


class Beside:
    """The table of an entry. `r` is what stays unspent behind the charge; 0 without a table, or if nothing fits."""

    def __init__(self, facts: Mapping[str, Any] | None, demand: Demand) -> None:
        self._demand, self._facts = demand, facts
        self.table = None if facts is None else Residual.from_facts(facts)
        self.level = None if facts is None else facts.get("level")
        if self.table is not None and facts is not None and "level" in facts:
            is_position = type(self.level) is int and 0 <= self.level < len(self.table.costs)
            demand(is_position, "has a level outside of its table")
        self.r = 0 if self.table is None or not self.level else -(-self.table.base * LEVELS[self.level] // PARTS)

    def demand_cost(self, cost: Amount) -> None:
        """Check that the cost is the one at the level; by itself if none fits."""
        if self.table is not None:
            self._demand(cost.mu_sq_pico == self.table.costs[self.level or 0], "has a cost other than its table")

    def demand_level(self, accounts: Sequence[Account], costing: str, name: str, *, is_of_batch: bool = False) -> None:
        """Check that a new run is charged at the level with the least cost for which enough is left here, or that the
        entry names the dataset that has less left. is_of_batch: which level is checked with the batch."""
        own = guaranteed(accounts)
        if self.table is None or self._facts is None:
            return
        self._demand(not own or costing == "residual", "costs a run beside what is left, which the dataset does not")
        if self.level is None:
            self._demand("by" not in self._facts, "names a dataset that decides a level, and has none")
            return
        fitting = [] if not own else self._fitting(own)
        best = min(((self.table.costs[at], at) for at in fitting), default=(0, None))[1]
        self._demand(not own or self.level in fitting, "is charged beside more than is left")
        is_by_another = not own or best != self.level
        is_best = is_of_batch or ("by" in self._facts) == is_by_another
        self._demand(is_best, "is not charged at the best level that fits")
        self._demand(self._facts.get("by") != name, "names its own dataset as another one with less left")

    def exceeds(self, account: Account, cost: Amount) -> list[str]:
        """Return the quantities in which a new run does not fit in an account."""
        exceeded: list[str] = list(cost.exceeds(account.remaining))
        if self.table is None or account.key.principal_id is not None:
            return exceeded
        fits = self.level is not None or bool(self._fitting([account]))
        return [name for name in exceeded if name != "mu"] if fits else sorted({*exceeded, "mu"})

    def _fitting(self, accounts: Sequence[Account]) -> list[int]:
        """Return the levels for which enough is left in each of these accounts."""
        if self.table is None:
            return []
        left = min(account.remaining.mu_sq_pico for account in accounts)
        base, costs = self.table.base, self.table.costs
        beside = zip(LEVELS[1:], costs[1:], strict=False)
        needed = [costs[0], *(-(-base * part // PARTS) + cost + base // RESERVE for part, cost in beside)]
        return [at for at, need in enumerate(needed) if need <= left]


def is_late_fit(account: Account, cost: Amount, place: int) -> bool:
    """Return whether a charge that is recorded after its place fits in an account that is not a principal's."""
    trail, left = account.trail, account.remaining
    delta = min(left.delta_atto, trail.raised_atto) if trail.raised_seq > place else left.delta_atto
    return cost.mu_sq_pico <= _slack(account, place) and cost.delta_atto <= delta


def leaves_enough(account: Account, beside: Beside, cost: Amount, place: int) -> bool:
    """Return whether such a charge leaves every entry behind its place valid, and its r unspent behind it, now and at
    each raise of the limit since its place."""
    trail, left = account.trail, account.remaining.mu_sq_pico
    then = min(left, trail.raised_left) if trail.raised_seq > place else left
    return beside.r + cost.mu_sq_pico <= then and cost.mu_sq_pico <= _slack(account, place)


def _slack(account: Account, place: int) -> int:
    """Return how much a charge at an earlier place may be; an account that is overdrawn has no slack."""
    return -1 if account.overdrawn != ZERO else account.trail.slack(place, account.remaining.mu_sq_pico)


def charged_late(account: Account, beside: Beside, cost: Amount, *, place: int, seq: int, fits: bool) -> Account:
    """Return the account after such a charge."""
    trail = account.trail.charged(place, cost, beside.r)
    after = replace(account, spent=(account.spent + cost).saturated, trail=trail)
    if beside.r:
        after = noted(after, seq, after.remaining.mu_sq_pico - beside.r)
    return after if fits else replace(after, overdrawn=after.overdrawn.most(over(after)))


def noted(account: Account, seq: int, room: int) -> Account:
    """Return the account with an entry that later charges of earlier runs must leave valid."""
    return replace(account, trail=account.trail.noted(seq, room, account.limit.mu_sq_pico))


def kept(entry: Mapping[str, Any], accounts: Sequence[Account], r: int, *, is_free: bool, demand: Demand) -> Amount:
    """Return what a run does not give back: the rest of its cost, if too little is left in a dataset that the entry
    names. is_free: giving back does not depend on what is left."""
    names = entry.get("kept_for")
    demand(("kept" in entry) == (names is not None), "has only one of kept and kept_for")
    is_short = r > 0 and not is_free and any(account.remaining.mu_sq_pico < r for account in guaranteed(accounts))
    if names is None:
        demand(not is_short, "gives back what a later approval rests on")
        return ZERO
    demand(not is_free and r > 0 and names == sorted(set(names)), "keeps what must be given back")
    demand((entry["dataset"] in names) == is_short, "does not name every dataset with too little left")
    amount = Amount.from_facts(entry["kept"])
    demand(not ZERO.exceeds(amount) and amount != ZERO, "keeps nothing, or less")
    return amount


def over(account: Account) -> Amount:
    """Return by how much an account's limit is exceeded, in each quantity, or what is missing behind an entry that was
    costed beside what was left."""
    beyond = (account.spent + account.held - account.limit).most(ZERO)
    least = account.trail.least
    if least is None:
        return beyond
    missing = min(account.trail.highest - account.limit.mu_sq_pico - least, account.spent.mu_sq_pico)
    return Amount(max(beyond.mu_sq_pico, missing), beyond.delta_atto)


def eased(account: Account) -> Account:
    """Return the account with no more overdrawn than before, and no more than it needs."""
    return account if account.overdrawn == ZERO else replace(account, overdrawn=account.overdrawn.least(over(account)))
