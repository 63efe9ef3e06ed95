"""What replay checks of the runs of a batch that were approved at one position of their tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ledger.core.amounts import Amount
from ledger.core.datasets import Account, AccountKey
from ledger.core.journal.beside_left import Beside
from ledger.core.journal.chain import Demand
from ledger.core.residual import LEVELS, PARTS, RESERVE


@dataclass(frozen=True, slots=True)
class _Member:
    """A run of the batch. is_by_another: it states that another dataset decides its position; None without a table."""

    cost: int
    base: int
    costs: tuple[int, ...]
    level: int
    is_by_another: bool | None

    def at(self, position: int) -> int:
        """Return the level at a position of the batch: the lowest with the same cost."""
        return self.costs.index(self.costs[min(position, len(self.costs) - 1)])

    def kept(self, level: int) -> int:
        """Return what stays unspent behind the run at a level."""
        return -(-self.base * LEVELS[level] // PARTS) + self.base // RESERVE if level else 0


@dataclass(slots=True)
class Together:
    """The batch that a journal is in the middle of, if it is."""

    stated: Mapping[str, int] | None = None
    members: list[_Member] = field(default_factory=list)
    left: dict[AccountKey, int] = field(default_factory=dict)
    of: dict[AccountKey, list[int]] = field(default_factory=dict)

    def demand_goes_on(self, entry: Mapping[str, Any], demand: Demand) -> None:
        """Check that the entries of a batch follow one another, and that the first one states its own number."""
        stated = entry.get("together")
        if self.stated is None:
            demand(stated is None or stated["first"] == entry["seq"], "is of a batch that begins elsewhere")
            return
        demand(stated == self.stated, "comes between the runs of a batch")

    def read(self, entry: Mapping[str, Any], after: Iterable[Account], beside: Beside, demand: Demand) -> None:
        """Read an approval. after: the accounts that it charges, once it does. Checks with the last run of a batch that
        all of them are at the highest position at which they fit together here, or that another dataset decides."""
        if "together" not in entry:
            return
        cost, table = Amount.from_facts(entry["cost"]).mu_sq_pico, beside.table
        base, costs = (1, (cost,)) if table is None else (table.base, table.costs)
        is_by_another = None if table is None else "by" in entry["residual"]
        number = len(self.members)
        self.stated = entry["together"]
        self.members.append(_Member(cost, base, costs, beside.level or 0, is_by_another))
        for account in after:
            self.left[account.key] = account.remaining.mu_sq_pico
            self.of.setdefault(account.key, []).append(number)
        if len(self.members) == entry["together"]["runs"]:
            self._demand_level(demand)
            self.stated, self.members, self.left, self.of = None, [], {}, {}

    def _demand_level(self, demand: Demand) -> None:
        least: dict[tuple[tuple[int, ...], bool], int] = {}
        for key, numbers in self.of.items():
            left = self.left[key] + sum(self.members[number].cost for number in numbers)
            group = tuple(numbers), key.principal_id is None
            least[group] = min(left, least.get(group, left))
        levels = [member.level for member in self.members]
        at = [[member.at(position) for member in self.members] for position in range(len(LEVELS))]
        fitting = [one for one in at if self._fits(one, least)]
        demand(levels in fitting, "is of a batch that is not at one level, or does not fit so")
        right = (None, levels != fitting[-1])
        is_stated = all(member.is_by_another in right for member in self.members)
        demand(is_stated, "is of a batch that is not at the highest level at which it fits")

    def _fits(self, levels: Sequence[int], least: Mapping[tuple[tuple[int, ...], bool], int]) -> bool:
        """Return whether what is left after all runs at these levels is at least what is kept behind each."""
        for (numbers, is_guarantee), left in least.items():
            charged = sum(self.members[number].costs[levels[number]] for number in numbers)
            kept = max(self.members[number].kept(levels[number]) for number in numbers) if is_guarantee else 0
            if charged + kept > left:
                return False
        return True
