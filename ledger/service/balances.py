"""How datasets and their parts are answered: what is left of their budgets, and what that is as epsilon."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

from ledger.accounting import amounts
from ledger.accounting.budgets import report_deltas
from ledger.accounting.display import show_amount, show_epsilon
from ledger.core.amounts import ZERO, Amount, timestamp
from ledger.core.datasets import Account, Balance, Dataset, Definition, FairUse, Project
from ledger.service.shapes.datasets import (
    BalanceShown,
    DatasetShown,
    EpsilonOfBudget,
    FairUseShown,
    ParentShown,
    PartitionShown,
    ProjectOfDataset,
)
from ledger.store import Reading


class Balanced:
    """All that is read to answer with several datasets, in as many statements as for one."""

    def __init__(self, reading: Reading, datasets: Collection[Dataset]) -> None:
        ids = [dataset.id for dataset in datasets]
        self._balances: Mapping[tuple[UUID, str | None], Balance] = reading.balances(ids)
        self._counts = reading.partition_counts(ids)
        self._projects = reading.projects_of(ids)
        ancestors = {id_ for dataset in datasets for id_ in dataset.definition.ancestors}
        origins = reading.definitions(ids=ancestors) if ancestors else []
        self._origins = {origin.id: origin for origin in origins}

    def dataset(self, dataset: Dataset, partitions: Sequence[Account] = ()) -> DatasetShown:
        """One of the datasets, with some of its partitions."""
        definition = dataset.definition
        is_partitioned = definition.is_partitioned
        balance = self._balance(dataset)
        return DatasetShown(
            name=definition.name,
            title=dataset.title,
            description=dataset.description,
            privacy_unit=definition.privacy_unit,
            adjacency=definition.adjacency,
            size=definition.size,
            bound=definition.bound,
            is_estimate=definition.bound == "clt",
            budget=dataset.budget,
            ceiling=None if definition.ceiling is None else show_amount(definition.ceiling),
            derived_from=[ParentShown(name=parent.name, unit_preserving=True) for parent in definition.derived_from],
            roots=self._roots(definition),
            state=dataset.state,
            balance=None if balance is None else _balance_shown(balance),
            epsilon=[] if balance is None else _epsilons(dataset.budget, balance),
            partitions=[partition_shown(dataset, account) for account in partitions] if is_partitioned else None,
            partition_count=self._counts.get(dataset.id, 0) if is_partitioned else None,
            projects=[self._project(project) for project in self._projects if project.dataset_id == dataset.id],
            fair_use=_fair_use_shown(dataset.fair_use),
            seq=dataset.seq,
            created_at=timestamp(dataset.created_us),
        )

    def _balance(self, dataset: Dataset) -> Balance | None:
        balance = self._balances.get((dataset.id, None))
        if balance is None and dataset.limit is not None:  # no partition yet
            return _untouched(dataset.limit)
        return balance

    def _project(self, project: Project) -> ProjectOfDataset:
        balance = self._balances.get((project.dataset_id, project.name)) or _untouched(project.limit)
        return ProjectOfDataset(
            name=project.name,
            budget=project.budget,
            balance=_balance_shown(balance),
            epsilon=_epsilons(project.budget, balance),
        )

    def _roots(self, definition: Definition) -> list[str]:
        if not definition.ancestors:
            return [definition.name]
        origins = (self._origins[id_] for id_ in definition.ancestors)
        return sorted(origin.name for origin in origins if not origin.ancestors)


def partition_shown(dataset: Dataset, account: Account) -> PartitionShown:
    """A partition as it is answered."""
    if account.key.partition is None:
        raise TypeError("the account is not a partition's")
    balance = Balance(account.limit, account.spent, account.held, account.remaining)
    return PartitionShown(
        name=account.key.partition, balance=_balance_shown(balance), epsilon=_epsilons(dataset.budget, balance)
    )


def _untouched(limit: Amount) -> Balance:
    return Balance(limit, ZERO, ZERO, limit)


def _fair_use_shown(fair_use: FairUse) -> FairUseShown | None:
    if fair_use.held is None and fair_use.runs_per_hour is None:
        return None
    return FairUseShown(held=fair_use.budget, runs_per_hour=fair_use.runs_per_hour)


def _balance_shown(balance: Balance) -> BalanceShown:
    return BalanceShown(
        limit=show_amount(balance.limit),
        spent=show_amount(balance.spent),
        held=show_amount(balance.held),
        remaining=show_amount(balance.remaining),
    )


def _epsilons(budget: Mapping[str, Any] | None, balance: Balance) -> list[EpsilonOfBudget]:
    declared = dict(budget or {})
    return [_epsilon(declared, balance, at_delta) for at_delta in report_deltas(declared)]


def _epsilon(budget: Mapping[str, Any], balance: Balance, at_delta: float) -> EpsilonOfBudget:
    spent, limit = (
        show_epsilon(mu=amounts.mu_of(amount), delta=amounts.delta_of(amount), at_delta=at_delta)
        for amount in (balance.spent, balance.limit)
    )
    declared = budget.get("epsilon")
    if declared is not None and limit is not None:
        # The limit was rounded down from this very epsilon, so it is no more, whatever display rounds up.
        limit = min(limit, float(declared))
    return EpsilonOfBudget(delta=at_delta, spent=spent, limit=limit)
