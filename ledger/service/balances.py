"""Datasets and their parts in answers: what remains of their budgets, and the epsilon of that."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from ledger.accounting.budgets import report_deltas
from ledger.accounting.display import Point, show_amount, show_epsilons
from ledger.core.amounts import ZERO, Amount, timestamp
from ledger.core.datasets import NO_FAIR_USE, Account, AccountKey, Balance, Dataset, Definition, FairUse, Project
from ledger.service import delta_left
from ledger.service.portions import of_balance
from ledger.service.shapes.datasets import (
    BalanceShown,
    DatasetShown,
    EpsilonAt,
    EpsilonOfBudget,
    FairUseShown,
    LeastLimitShown,
    ParentShown,
    PartitionShown,
    ProjectOfDataset,
)
from ledger.store import Reading


class Balanced:
    """Everything that is read to answer with several datasets, in as many statements as for one."""

    def __init__(self, reading: Reading, datasets: Collection[Dataset]) -> None:
        ids = [dataset.id for dataset in datasets]
        self._balances: Mapping[tuple[UUID, str | None], Balance] = reading.accounts.balances(ids)
        self._counts = reading.accounts.partition_counts(ids)
        self._projects = reading.datasets.projects(ids)
        ancestors = {id_ for dataset in datasets for id_ in dataset.definition.ancestors}
        origins = reading.datasets.definitions(ids=ancestors) if ancestors else []
        self._origins = {origin.id: origin for origin in origins}
        self._epsilons = show_epsilons(self._points(datasets))

    def _points(self, datasets: Iterable[Dataset]) -> Iterator[Point]:
        """Return every amount whose epsilon is shown."""
        for dataset in datasets:
            if (balance := self._balance(dataset)) is not None:
                yield from _points(dataset.budget, balance)
            if (least := _least(dataset)) is not None:
                yield from ((least[1], at_delta) for at_delta in report_deltas(dict(dataset.budget or {})))
        for project in self._projects:
            yield from _points(project.budget, self._balance_of(project))

    def dataset(self, dataset: Dataset, partitions: Sequence[Account] = ()) -> DatasetShown:
        """Return one of the datasets, with some of its partitions."""
        definition = dataset.definition
        is_partitioned = definition.is_partitioned
        balance = self._balance(dataset)
        shown = DatasetShown(
            name=definition.name,
            title=dataset.title,
            description=dataset.description,
            privacy_unit=definition.privacy_unit,
            adjacency=definition.adjacency,
            size=definition.size,
            bound=definition.bound,
            costing=dataset.costing,
            is_estimate=definition.bound == "clt",
            budget=dataset.budget,
            ceiling=None if definition.ceiling is None else show_amount(definition.ceiling),
            derived_from=[ParentShown(name=parent.name, unit_preserving=True) for parent in definition.derived_from],
            roots=self._roots(definition),
            state=dataset.state,
            balance=None if balance is None else balance_shown(balance),
            percent=None if balance is None else of_balance(balance),
            epsilon=[] if balance is None else _shown(dataset.budget, balance, self._epsilons),
            least_limit=self._least_limit(dataset),
            partitions=partitions_shown(dataset, partitions) if is_partitioned else None,
            partition_count=self._counts.get(dataset.id, 0) if is_partitioned else None,
            projects=[self._project(project) for project in self._projects if project.dataset_id == dataset.id],
            fair_use=_fair_use_shown(dataset.fair_use),
            seq=dataset.seq,
            created_at=timestamp(dataset.created_us),
        )
        if warnings := self._warnings(dataset, balance):
            shown["warnings"] = warnings
        return shown

    def _warnings(self, dataset: Dataset, balance: Balance | None) -> list[str]:
        """Return which delta runs out before mu does: of the dataset, or of a project's share."""
        own = [] if balance is None else [(AccountKey(dataset.id), balance.limit, balance.spent + balance.held)]
        shares = [
            (AccountKey(dataset.id, None, project.name), of.limit, of.spent + of.held)
            for project in self._projects
            if project.dataset_id == dataset.id
            for of in (self._balance_of(project),)
        ]
        name, budget = dataset.definition.name, dataset.budget or {}
        without = []
        if dataset.limit is not None:
            slack = budget.get("slack") if "at_delta" in budget else budget.get("delta")
            is_certified = dataset.definition.bound == "certified"
            without = delta_left.of_limit(name, dataset.limit, is_certified=is_certified, slack=slack)
        return [*without, *delta_left.of_accounts(name, [*own, *shares])]

    def _balance(self, dataset: Dataset) -> Balance | None:
        balance = self._balances.get((dataset.id, None))
        if balance is None and dataset.limit is not None:  # no partition yet
            return _untouched(dataset.limit)
        return balance

    def _least_limit(self, dataset: Dataset) -> LeastLimitShown | None:
        least = _least(dataset)
        if least is None:
            return None
        seq, amount = least
        epsilons = [
            EpsilonAt(delta=at_delta, epsilon=self._epsilons[amount, at_delta])
            for at_delta in report_deltas(dict(dataset.budget or {}))
        ]
        return LeastLimitShown(seq=seq, amount=show_amount(amount), epsilon=epsilons)

    def _project(self, project: Project) -> ProjectOfDataset:
        balance = self._balance_of(project)
        return ProjectOfDataset(
            name=project.name,
            budget=project.budget,
            balance=balance_shown(balance),
            percent=of_balance(balance),
            epsilon=_shown(project.budget, balance, self._epsilons),
        )

    def _balance_of(self, project: Project) -> Balance:
        return self._balances.get((project.dataset_id, project.name)) or _untouched(project.limit)

    def _roots(self, definition: Definition) -> list[str]:
        if not definition.ancestors:
            return [definition.name]
        origins = (self._origins[id_] for id_ in definition.ancestors)
        return sorted(origin.name for origin in origins if not origin.ancestors)


def _least(dataset: Dataset) -> tuple[int, Amount] | None:
    """Return the least limit with the number of its entry, if it is known."""
    least = dataset.least
    return None if least is None or least.amount is None else (least.seq, least.amount)


def partitions_shown(dataset: Dataset, accounts: Sequence[Account]) -> list[PartitionShown]:
    """Return partitions as answers show them."""
    balances = {
        account.key.partition: Balance(account.limit, account.spent, account.held, account.remaining)
        for account in accounts
    }
    epsilons = show_epsilons(point for balance in balances.values() for point in _points(dataset.budget, balance))
    return [
        PartitionShown(
            name=name,
            balance=balance_shown(balance),
            percent=of_balance(balance),
            epsilon=_shown(dataset.budget, balance, epsilons),
        )
        for name, balance in balances.items()
        if name is not None
    ]


def _untouched(limit: Amount) -> Balance:
    return Balance(limit, ZERO, ZERO, limit)


def _fair_use_shown(fair_use: FairUse) -> FairUseShown | None:
    if fair_use == NO_FAIR_USE:
        return None
    return FairUseShown(
        held=fair_use.budget,
        runs_per_hour=fair_use.runs_per_hour,
        waits_above_percent=fair_use.waits_above_percent,
    )


def balance_shown(balance: Balance) -> BalanceShown:
    """Return a balance as answers show it."""
    return BalanceShown(
        limit=show_amount(balance.limit),
        spent=show_amount(balance.spent),
        held=show_amount(balance.held),
        remaining=show_amount(balance.remaining),
    )


def _points(budget: Mapping[str, Any] | None, balance: Balance) -> Iterator[Point]:
    """Return the amounts of `_shown` whose epsilons are needed."""
    for at_delta in report_deltas(dict(budget or {})):
        for amount in (balance.spent, balance.limit, balance.held, balance.remaining.most(ZERO)):
            yield amount, at_delta


def _shown(
    budget: Mapping[str, Any] | None, balance: Balance, epsilons: Mapping[Point, float | None]
) -> list[EpsilonOfBudget]:
    declared = (budget or {}).get("epsilon")
    shown: list[EpsilonOfBudget] = []
    for at_delta in report_deltas(dict(budget or {})):
        limit, left = epsilons[balance.limit, at_delta], epsilons[balance.remaining.most(ZERO), at_delta]
        if declared is not None and limit is not None:
            # The limit was rounded down from this very epsilon, so its true epsilon is no more, even if the display
            # rounds up.
            limit = min(limit, float(declared))
            left = None if left is None else min(left, limit)
        shown.append(
            EpsilonOfBudget(
                delta=at_delta,
                spent=epsilons[balance.spent, at_delta],
                limit=limit,
                held=epsilons[balance.held, at_delta],
                remaining=left,
            )
        )
    return shown


def epsilons_shown(budget: Mapping[str, Any] | None, balance: Balance) -> list[EpsilonOfBudget]:
    """Return the epsilon of one balance, at the deltas of its budget."""
    return _shown(budget, balance, show_epsilons(_points(budget, balance)))
