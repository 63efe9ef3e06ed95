"""Datasets: register, change, show."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID, uuid4

from ledger.accounting import amounts
from ledger.accounting.budgets import Budget, limit_of, report_deltas
from ledger.accounting.display import show_amount, show_epsilon
from ledger.core.amounts import Amount, timestamp
from ledger.core.datasets import Account, Balance, Bound, Dataset, Definition, FairUse, Parent
from ledger.core.people import Actor, Tenant
from ledger.errors import InvalidRequest, NotFound, UnitMismatch
from ledger.service.catalogue import demand_one_unit, demand_sight, no_dataset
from ledger.service.requests import NewDataset
from ledger.service.use_cases import UseCases
from ledger.store import Reading

ANCESTORS_MAX: Final = 100
"""Of one dataset: a run on it locks and charges all of them."""
PARTITIONS_SHOWN_MAX: Final = 1000


async def defined(served: UseCases, caller: Actor, body: NewDataset) -> Definition:
    """What is to be registered. What is derived is of its roots' unit, adjacency and bound. Raises UnitMismatch."""
    unit, adjacency, bound = body.privacy_unit, body.adjacency, body.bound or "certified"
    parents: list[Definition] = []
    if body.derived_from:
        parents = await _parents(served, caller, [parent.name for parent in body.derived_from])
        bound, _ = demand_one_unit(parents)
        for what in ("privacy_unit", "adjacency", "bound"):
            said, theirs = getattr(body, what), getattr(parents[0], what)
            if said is not None and said != theirs:
                raise UnitMismatch(
                    f"{what} is {theirs} where it is derived from, and never another.",
                    what=what,
                    datasets=[{"name": body.name, what: said}, {"name": parents[0].name, what: theirs}],
                )
        unit, adjacency = parents[0].privacy_unit, parents[0].adjacency
    ancestors = {id_ for parent in parents for id_ in (parent.id, *parent.ancestors)}
    if len(ancestors) > ANCESTORS_MAX:
        raise InvalidRequest(
            f"derived_from: comes from {len(ancestors)} datasets, and {ANCESTORS_MAX} are the most",
            field="derived_from",
        )
    if unit is None or adjacency is None:
        raise InvalidRequest("privacy_unit: is required", field="privacy_unit")
    return Definition(
        uuid4(),
        body.name,
        unit,
        adjacency,
        bound,
        body.size,
        is_partitioned=body.partitions is not None,
        ceiling=None if body.ceiling is None else _ceiling(body.ceiling, bound),
        derived_from=tuple(Parent(parent.id, parent.name) for parent in parents),
        ancestors=tuple(sorted(ancestors)),
    )


async def _parents(served: UseCases, caller: Actor, names: Sequence[str]) -> list[Definition]:
    try:
        for name in names:
            demand_sight(caller, name)
        return await served.catalogue.named(caller, names)
    except NotFound as error:
        raise InvalidRequest(f"derived_from: {error.detail}", field="derived_from", **error.facts) from None


def _ceiling(ceiling: Budget, bound: Bound) -> Amount:
    try:
        return limit_of(ceiling, bound=bound)
    except InvalidRequest as error:
        field = str(error.field).replace("budget", "ceiling", 1)
        raise InvalidRequest(error.detail.replace("budget", "ceiling", 1), field=field) from None


def declared_budget(budget: Budget | None) -> dict[str, Any] | None:
    """A budget as it was declared."""
    return None if budget is None else budget.model_dump(exclude_none=True)


@contextmanager
def read(served: UseCases, caller: Actor, name: str) -> Iterator[tuple[Reading, Tenant, Dataset]]:
    """A dataset and its tenant, in one snapshot with what is read of its journal."""
    demand_sight(caller, name)
    with served.store.reading(caller.tenant_id) as reading:
        tenant = reading.tenants.current()
        dataset = reading.datasets.by_name(name) if "\x00" not in name else None
        if tenant is None or dataset is None:
            raise no_dataset(name)
        yield reading, tenant, dataset


def find_dataset(served: UseCases, caller: Actor, name: str) -> Dataset:
    """The dataset of this name that the caller sees. Raises NotFound."""
    demand_sight(caller, name)
    with served.store.reading(caller.tenant_id) as reading:
        found = reading.datasets.by_name(name) if "\x00" not in name else None
    if found is None:
        raise no_dataset(name)
    return found


def dataset_shape(served: UseCases, caller: Actor, name: str) -> dict[str, Any]:
    """One dataset as GET shows it, with its partitions."""
    demand_sight(caller, name)
    with served.store.reading(caller.tenant_id) as reading:
        dataset = reading.datasets.by_name(name) if "\x00" not in name else None
        if dataset is None:
            raise no_dataset(name)
        balanced = Balanced(reading, [dataset])
        partitions: list[Account] = []
        if dataset.definition.is_partitioned:
            partitions = reading.accounts.partition_page(dataset.id, after=None, limit=PARTITIONS_SHOWN_MAX)
    return balanced.shown(dataset, partitions)


class Balanced:
    """All that is read to show several datasets, in as many statements as for one."""

    def __init__(self, reading: Reading, datasets: Collection[Dataset]) -> None:
        ids = [dataset.id for dataset in datasets]
        self._balances: Mapping[tuple[UUID, str | None], Balance] = reading.accounts.balances(ids)
        self._counts = reading.accounts.partition_counts(ids)
        self._projects = reading.datasets.projects(ids)
        ancestors = {id_ for dataset in datasets for id_ in dataset.definition.ancestors}
        self._origins = {each.id: each for each in reading.datasets.definitions(ids=ancestors)} if ancestors else {}

    def shown(self, dataset: Dataset, partitions: Sequence[Account] = ()) -> dict[str, Any]:
        definition = dataset.definition
        is_partitioned = definition.is_partitioned
        balance = self._balances.get((dataset.id, None))
        if balance is None and dataset.limit is not None:  # no partition yet
            balance = _untouched(dataset.limit)
        return {
            "name": definition.name,
            "title": dataset.title,
            "description": dataset.description,
            "privacy_unit": definition.privacy_unit,
            "adjacency": definition.adjacency,
            "size": definition.size,
            "bound": definition.bound,
            "is_estimate": definition.bound == "clt",
            "budget": dataset.budget,
            "ceiling": None if definition.ceiling is None else show_amount(definition.ceiling),
            "derived_from": [{"name": parent.name, "unit_preserving": True} for parent in definition.derived_from],
            "roots": self._roots(definition),
            "state": dataset.state,
            "balance": None if balance is None else _balance(balance),
            "epsilon": [] if balance is None else _epsilons(dataset.budget, balance),
            "partitions": [partition(dataset, account) for account in partitions] if is_partitioned else None,
            "partition_count": self._counts.get(dataset.id, 0) if is_partitioned else None,
            "projects": [
                {
                    "name": project.name,
                    "budget": project.budget,
                    **_counted(
                        project.budget,
                        self._balances.get((dataset.id, project.name)) or _untouched(project.limit),
                    ),
                }
                for project in self._projects
                if project.dataset_id == dataset.id
            ],
            "fair_use": _fair_use(dataset.fair_use),
            "seq": dataset.seq,
            "created_at": timestamp(dataset.created_us),
        }

    def _roots(self, definition: Definition) -> list[str]:
        if not definition.ancestors:
            return [definition.name]
        origins = (self._origins[id_] for id_ in definition.ancestors)
        return sorted(origin.name for origin in origins if not origin.ancestors)


def _untouched(limit: Amount) -> Balance:
    return Balance(limit, Amount(0, 0), Amount(0, 0), limit)


def _fair_use(fair_use: FairUse) -> dict[str, Any] | None:
    if fair_use.held is None and fair_use.runs_per_hour is None:
        return None
    return {"held": fair_use.budget, "runs_per_hour": fair_use.runs_per_hour}


def partition(dataset: Dataset, account: Account) -> dict[str, Any]:
    """A partition as it is answered."""
    balance = Balance(account.limit, account.spent, account.held, account.remaining)
    return {"name": account.key.partition, **_counted(dataset.budget, balance)}


def _counted(budget: Mapping[str, Any] | None, balance: Balance) -> dict[str, Any]:
    return {"balance": _balance(balance), "epsilon": _epsilons(budget, balance)}


def _balance(balance: Balance) -> dict[str, Any]:
    parts = {"limit": balance.limit, "spent": balance.spent, "held": balance.held, "remaining": balance.remaining}
    return {name: show_amount(amount) for name, amount in parts.items()}


def _epsilons(budget: Mapping[str, Any] | None, balance: Balance) -> list[dict[str, Any]]:
    declared = dict(budget or {})
    return [_epsilon(declared, balance, at_delta) for at_delta in report_deltas(declared)]


def _epsilon(budget: Mapping[str, Any], balance: Balance, at_delta: float) -> dict[str, Any]:
    spent, limit = (
        show_epsilon(mu=amounts.mu_of(amount), delta=amounts.delta_of(amount), at_delta=at_delta)
        for amount in (balance.spent, balance.limit)
    )
    declared = budget.get("epsilon")
    if declared is not None and limit is not None:
        # The limit was rounded down from this very epsilon, so it is no more, whatever display rounds up.
        limit = min(limit, float(declared))
    return {"delta": at_delta, "spent": spent, "limit": limit}
