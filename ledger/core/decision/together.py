"""One level for the runs of a batch that is approved as a whole.

Runs that are approved one after another rest on less and less: a void of the first one gives nothing back once the
others have used what it was costed beside. A batch is therefore approved at one position of the tables at which all of
its runs fit together: what is left after the last of them is at least the r of each. Each gives back in any order.

It is a matter of charges alone. At a common position each run is one that would be approved behind those before it, as
a run in segments is (docs/explanation/residual.md, step 2), and costs no less than at its own best position. So a batch
that fits together also fits one run after another. If only the latter holds, that is what is done.

As many as fit are the runs that are taken in the order of the request, at the position at which most are: a run is left
out if it does not fit beside those taken before it. They are approved as a batch of their own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from ledger.core.amounts import Amount
from ledger.core.books import Books
from ledger.core.commands import Ask
from ledger.core.datasets import AccountKey
from ledger.core.decision.filter import ByDataset, Priced, price
from ledger.core.residual import LEVELS


@dataclass(frozen=True, slots=True)
class Place:
    """What the decision of one run of a batch needs. index: the position in its table; None if it is costed by itself.

    stated: what its entries state of the batch, by dataset: the number of the batch's first entry there, and how many
    of its runs there are. by: another dataset in which too little is left for a higher position, of the datasets in
    which there is enough.
    """

    index: int | None
    stated: Mapping[UUID, Mapping[str, int]]
    by: Mapping[UUID, str]


@dataclass(slots=True)
class _Accounts:
    """The accounts of one dataset that a batch charges. least: the least that remains in those that are charged by the
    same runs of the batch, by these runs and whether the limit is a guarantee."""

    runs: list[int] = field(default_factory=list)
    least: dict[tuple[tuple[int, ...], bool], Amount] = field(default_factory=dict)


def places(books: Books, asks: Sequence[Ask], charged: Sequence[ByDataset]) -> list[Place] | None:
    """Return the place of each run, if a position of their tables fits all of them together and one of them has a
    table; else None. charged: the accounts of each."""
    prices = [price(books, accounts, ask.cost, ask.residual) for ask, accounts in zip(asks, charged, strict=True)]
    if all(priced.table is None for priced in prices):
        return None
    at = [[_charge(priced, position) for priced in prices] for position in range(len(LEVELS))]
    by_dataset = _by_dataset(charged)
    common = _highest(by_dataset.values(), at)
    if common is None:
        return None
    costed = {number for number, priced in enumerate(prices) if priced.table is not None}
    stated = {
        dataset_id: {"first": books.datasets[dataset_id].seq + 1, "runs": len(accounts.runs)}
        for dataset_id, accounts in by_dataset.items()
        if costed.intersection(accounts.runs)
    }
    by = _by(books, by_dataset, at, common)
    return [Place(charge.index, stated, by) for charge in at[common]]


@dataclass(frozen=True, slots=True)
class _Charge:
    """What a run is charged at a position: the lowest in its own table with that cost; what it leaves unspent there, r
    and the reserve."""

    index: int | None
    mu_sq_pico: int
    delta_atto: int
    beside: int


def _charge(priced: Priced, position: int) -> _Charge:
    table, cost = priced.table, priced.cost
    if table is None:
        return _Charge(None, cost.mu_sq_pico, cost.delta_atto, 0)
    index = table.costs.index(table.costs[min(position, len(table.costs) - 1)])
    mu_sq_pico = table.costs[index]
    return _Charge(index, mu_sq_pico, cost.delta_atto, table.needed(index) - mu_sq_pico)


def most(books: Books, asks: Sequence[Ask], charged: Sequence[ByDataset]) -> list[int]:
    """Return the numbers of as many runs as fit together at one position, in order. charged: as for `places`.

    At the highest position at which these fit, no other run fits beside them.
    """
    prices = [price(books, accounts, ask.cost, ask.residual) for ask, accounts in zip(asks, charged, strict=True)]
    count = len(LEVELS) if any(priced.table is not None for priced in prices) else 1
    at = [[_charge(priced, position) for priced in prices] for position in range(count)]
    by_dataset = _by_dataset(charged)
    taking = _Taking(len(asks), by_dataset.values())
    taken: list[int] = []
    for charges in reversed(at):
        found = taking.taken(charges)
        taken = found if len(found) > len(taken) else taken
    while True:
        # These may fit at a higher position, where others cost less and may fit too.
        kept = set(taken)
        only = _by_dataset([accounts if number in kept else {} for number, accounts in enumerate(charged)])
        highest = _highest(only.values(), at)
        found = taken if highest is None else taking.taken(at[highest], taken)
        if len(found) == len(taken):
            return taken
        taken = found


class _Taking:
    """Takes runs in order as long as they fit. Accounts that are charged by the same runs are one."""

    def __init__(self, count: int, datasets: Iterable[_Accounts]) -> None:
        self._count = count
        self._left: list[tuple[Amount, bool]] = []
        self._accounts: list[list[int]] = [[] for _ in range(count)]
        for accounts in datasets:
            for (numbers, is_guarantee), left in accounts.least.items():
                for number in numbers:
                    self._accounts[number].append(len(self._left))
                self._left.append((left, is_guarantee))

    def taken(self, charges: Sequence[_Charge], first: Sequence[int] = ()) -> list[int]:
        """Return the runs taken with these charges. first: runs that are taken before all others, and fit."""
        charged = [(0, 0, 0)] * len(self._left)
        taken = set[int]()
        for number in (*first, *range(self._count)):
            after = [self._after(charged[at], charges[number], at) for at in self._accounts[number]]
            if number not in taken and all(one is not None for one in after):
                taken.add(number)
                for at, one in zip(self._accounts[number], after, strict=True):
                    charged[at] = one or charged[at]
        return sorted(taken)

    def _after(self, before: tuple[int, int, int], charge: _Charge, at: int) -> tuple[int, int, int] | None:
        """Return mu², delta and what stays unspent in an account with one run more; None if it does not fit."""
        left, is_guarantee = self._left[at]
        mu_sq_pico, delta_atto = before[0] + charge.mu_sq_pico, before[1] + charge.delta_atto
        beside = max(before[2], charge.beside) if is_guarantee else 0
        fits = mu_sq_pico + beside <= left.mu_sq_pico and delta_atto <= left.delta_atto
        return (mu_sq_pico, delta_atto, beside) if fits else None


def _by_dataset(charged: Sequence[ByDataset]) -> dict[UUID, _Accounts]:
    runs: dict[AccountKey, list[int]] = defaultdict(list)
    remaining: dict[AccountKey, Amount] = {}
    by_dataset: dict[UUID, _Accounts] = defaultdict(_Accounts)
    for number, accounts in enumerate(charged):
        for dataset_id, of_dataset in accounts.items():
            by_dataset[dataset_id].runs.append(number)
            for account in of_dataset:
                runs[account.key].append(number)
                remaining[account.key] = account.remaining
    for key, numbers in runs.items():
        least = by_dataset[key.dataset_id].least
        group = tuple(numbers), key.principal_id is None
        least[group] = remaining[key].least(least.get(group, remaining[key]))
    return by_dataset


def _highest(datasets: Collection[_Accounts], at: Sequence[Sequence[_Charge]]) -> int | None:
    """Return the highest position at which all runs fit together in these datasets; None if there is none."""
    positions = reversed(range(len(at)))
    return next((one for one in positions if all(_fits(accounts, at[one]) for accounts in datasets)), None)


def _fits(accounts: _Accounts, charges: Sequence[_Charge]) -> bool:
    """Return whether what is left after all of these runs is at least the r of each and the reserve."""
    for (numbers, is_guarantee), left in accounts.least.items():
        of_account = [charges[number] for number in numbers]
        beside = max(charge.beside for charge in of_account) if is_guarantee else 0
        needed = sum(charge.mu_sq_pico for charge in of_account) + beside
        if needed > left.mu_sq_pico or sum(charge.delta_atto for charge in of_account) > left.delta_atto:
            return False
    return True


def _by(
    books: Books, by_dataset: Mapping[UUID, _Accounts], at: Sequence[Sequence[_Charge]], common: int
) -> dict[UUID, str]:
    """Return for each dataset in which the batch fits at a higher position one in which it does not."""
    by: dict[UUID, str] = {}
    for dataset_id, accounts in by_dataset.items():
        own = _highest([accounts], at)
        if own is not None and any(at[own][number].index != at[common][number].index for number in accounts.runs):
            names = [
                books.datasets[other].definition.name
                for other, its_accounts in by_dataset.items()
                if not _fits(its_accounts, at[own])
            ]
            by[dataset_id] = min(names)
    return by
