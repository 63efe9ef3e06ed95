"""Residual costs: what a run costs beside an amount of the limit that stays unspent after it.

A table has the cost c(r) of one run at each level r of a fixed grid. The filter approves a run at r if r + c(r) is at
most what is left, and then what is left falls by c(r) only. The theorem and its proof are in
docs/explanation/residual.md, with the two rules that keep it: the *slack* of an account, by which a charge recorded
after its run's place may exceed nothing that was approved behind it, and giving back.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NamedTuple

from ledger.core.amounts import ZERO, Amount

Costing = Literal["standalone", "residual"]
"""How a dataset's runs are costed: each by itself, or beside what is left of the limit."""

LEVELS: Final = (0, 2, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 60, 62)
"""The grid of r: sixty-fourths of a table's base, which is the least limit among the accounts of the run."""
PARTS: Final = 64
RESERVE: Final = 50
"""A run at r > 0 leaves a fiftieth of the base unspent, so that an ordinary overrun fits later."""
ITEMS_MAX: Final = 16
"""The most items of a trail."""


@dataclass(frozen=True, slots=True)
class Residual:
    """A table of costs: of mu², in units of 1e-12.

    base: the amount that the levels are parts of. costs: one for each level, none larger than the one before.
    """

    base: int
    costs: tuple[int, ...]

    def level(self, index: int) -> int:
        """Return r at this position, rounded up."""
        return -(-self.base * LEVELS[index] // PARTS)

    @property
    def reserve(self) -> int:
        """Return what a run at r > 0 leaves unspent."""
        return self.base // RESERVE

    def needed(self, index: int) -> int:
        """Return how much must be left for a new run to be charged at this position."""
        return self.costs[0] if index == 0 else self.level(index) + self.costs[index] + self.reserve

    @property
    def least_needed(self) -> int:
        """Return how much must be left for a new run at any position."""
        return min(map(self.needed, range(len(self.costs))))

    def best(self, left: int) -> int | None:
        """Return the position with the least cost for which enough is left, and the first of equal ones; None if there
        is none."""
        fitting = [index for index in range(len(self.costs)) if self.needed(index) <= left]
        return self.costs.index(self.costs[fitting[-1]]) if fitting else None

    def late(self, left: int, slack: int) -> int | None:
        """Return the position for a charge that is recorded after its place: it leaves r of what is left there, and is
        at most the slack. None if there is none."""
        fitting = [index for index, cost in enumerate(self.costs) if cost <= slack and self.level(index) + cost <= left]
        return self.costs.index(self.costs[fitting[-1]]) if fitting else None

    def facts(self) -> dict[str, str]:
        """Return the form in a record: the costs as one text, which is short."""
        return {"base": str(self.base), "costs": " ".join(map(str, self.costs))}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Residual:
        """Return the inverse of `facts`. Raises ValueError for what `facts` never writes."""
        table = cls(int(facts["base"]), tuple(map(int, str(facts["costs"]).split(" "))))
        is_table = 1 <= len(table.costs) <= len(LEVELS) and table.base > 0 and min(table.costs) > 0
        is_falling = all(one >= other for one, other in itertools.pairwise(table.costs))
        if not (is_table and is_falling and table.facts().items() <= dict(facts).items()):
            raise ValueError("has a table of costs that no ledger writes")
        return table


def equal_runs(cost: Amount, table: Residual | None, *, left: int, remaining: Amount, most: int) -> tuple[int, Amount]:
    """Return how many equal runs would be approved one after another, none of which ends, and their charge together.

    cost: of one run; its mu² is that of the table, if there is one. left: the least mu² in accounts that carry a
    guarantee, in units of 1e-12. remaining: the least in any account. most: how many are counted at most.
    """
    mu, delta, each = remaining.mu_sq_pico, remaining.delta_atto, cost.delta_atto
    if mu < 0 or delta < 0:
        return 0, ZERO
    most = min(most, delta // each) if each else most
    if table is None:
        count = min(most, mu // cost.mu_sq_pico) if cost.mu_sq_pico else most
        return count, Amount(count * cost.mu_sq_pico, count * each)
    count, charged, base, reserve = 0, 0, table.base, table.reserve
    # As long as the same level fits they cost the same; a level that no longer fits never fits again.
    for index in range(len(table.costs) - 1, -1, -1):
        price = table.costs[index]
        needed = price if index == 0 else -(-base * LEVELS[index] // PARTS) + price + reserve
        if needed <= left:
            more = min(most - count, (mu - charged) // price, (left - needed) // price + 1)
            count, charged, left = count + more, charged + more * price, left - more * price
    return count, Amount(charged, count * each)


def levels(base: int) -> tuple[int, ...]:
    """Return the grid of r of a base."""
    return tuple(Residual(base, ()).level(index) for index in range(len(LEVELS)))


class Item(NamedTuple):
    """An entry that a later charge of an earlier run must leave valid. room: what was left after it, less its r."""

    seq: int
    room: int


@dataclass(frozen=True, slots=True)
class Trail:
    """What limits the charges that are recorded after their place: for each place, the least room behind it.

    items: in order, each with less room than all behind it; where there would be more than ITEMS_MAX, two neighbours
    became one with the lesser room. highest: the highest limit since the first item. raised_seq, raised_left,
    raised_atto: the last raise of the limit, and the least of mu² and of delta that was left just before any raise.
    """

    items: tuple[Item, ...] = ()
    highest: int = 0
    raised_seq: int = 0
    raised_left: int = 0
    raised_atto: int = 0

    @property
    def least(self) -> int | None:
        """Return the least room of all; None without items."""
        return self.items[0].room if self.items else None

    def slack(self, place: int, left: int) -> int:
        """Return how much a charge at a place may be, with `left` left now."""
        return min([self.left_at(place, left), *(item.room for item in self.items if item.seq > place)])

    def left_at(self, place: int, left: int) -> int:
        """Return what is left for a charge at a place: the least of now and of just before each later raise."""
        return min(left, self.raised_left) if self.raised_seq > place else left

    def delta_at(self, place: int, left: int) -> int:
        """Return how much delta is left for a charge at a place, in units of 1e-18."""
        return min(left, self.raised_atto) if self.raised_seq > place else left

    def noted(self, seq: int, room: int, limit: int) -> Trail:
        """Return the trail with one entry more."""
        items = [item for item in self.items if item.room < room]
        highest = max(self.highest, limit) if self.items else limit
        return replace(self, items=_bounded([*items, Item(seq, room)]), highest=highest)

    def charged(self, place: int, cost: Amount, r: int) -> Trail:
        """Return the trail after a charge at a place: everything behind it had that much less left, and what was left
        at a raise of the limit has the charge and its r less, which that limit must cover too."""
        items: list[Item] = []
        for item in reversed(self.items):
            room = item.room - cost.mu_sq_pico if item.seq > place else item.room
            if not items or room < items[-1].room:
                items.append(Item(item.seq, room))
        charged = replace(self, items=tuple(reversed(items)))
        if self.raised_seq <= place:
            return charged
        left, atto = self.raised_left - cost.mu_sq_pico - r, self.raised_atto - cost.delta_atto
        return replace(charged, raised_left=left, raised_atto=atto)

    def raised(self, seq: int, left: Amount) -> Trail:
        """Return the trail after a raise of the limit, before which `left` was left."""
        least = left if not self.raised_seq else left.least(Amount(self.raised_left, self.raised_atto))
        return replace(self, raised_seq=seq, raised_left=least.mu_sq_pico, raised_atto=least.delta_atto)

    def text(self) -> str:
        """Return the form in a database; empty for no trail."""
        if self == NO_TRAIL:
            return ""
        items = [f"{item.seq}:{item.room}" for item in self.items]
        return " ".join([f"{self.highest}", f"{self.raised_seq}:{self.raised_left}:{self.raised_atto}", *items])

    @classmethod
    def from_text(cls, text: str) -> Trail:
        """Return the inverse of `text`."""
        if not text:
            return NO_TRAIL
        highest, raised, *stated = text.split(" ")
        items = tuple(Item(*map(int, item.split(":"))) for item in stated)
        return cls(items, int(highest), *map(int, raised.split(":")))


def _bounded(items: list[Item]) -> tuple[Item, ...]:
    """Return at most ITEMS_MAX items: the two neighbours that differ least become one, with the lesser room for
    both."""
    while len(items) > ITEMS_MAX:
        gaps = [later.room - earlier.room for earlier, later in itertools.pairwise(items)]
        first = gaps.index(min(gaps))
        items = [*items[:first], Item(items[first + 1].seq, items[first].room), *items[first + 2 :]]
    return tuple(items)


NO_TRAIL: Final = Trail()
