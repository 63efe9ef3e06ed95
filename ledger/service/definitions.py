"""The definition of a new dataset: its privacy unit, adjacency, bound and origin, which never change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import uuid4

from ledger.accounting.budgets import Budget, limit_of
from ledger.core.amounts import Amount
from ledger.core.datasets import Bound, Definition, Parent
from ledger.core.people import Actor
from ledger.errors import InvalidRequest, NotFound, UnitMismatch
from ledger.service.catalogue import Catalogue, demand_one_unit, demand_sight
from ledger.service.requests.datasets import NewDataset

ANCESTORS_MAX: Final = 100
"""For one dataset: a run on it locks and charges all of them."""


async def define(catalogue: Catalogue, actor: Actor, body: NewDataset) -> Definition:
    """Return the definition of a new dataset. A derived one has the unit, adjacency and bound of its roots.

    Raises UnitMismatch and InvalidRequest.
    """
    unit, adjacency, bound = body.privacy_unit, body.adjacency, body.bound or "certified"
    parents: list[Definition] = []
    if body.derived_from:
        parents = await _parents(catalogue, actor, [parent.name for parent in body.derived_from])
        bound, _ = demand_one_unit(parents)
        _demand_alike(body, parents[0])
        unit, adjacency = parents[0].privacy_unit, parents[0].adjacency
    ancestors = {id_ for parent in parents for id_ in (parent.id, *parent.ancestors)}
    if len(ancestors) > ANCESTORS_MAX:
        raise InvalidRequest(
            f"derived_from: leads to {len(ancestors)} datasets, and at most {ANCESTORS_MAX} are allowed",
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


def _demand_alike(body: NewDataset, parent: Definition) -> None:
    """Raise UnitMismatch if a derived dataset declares something other than its parents have."""
    for field in ("privacy_unit", "adjacency", "bound"):
        declared, inherited = getattr(body, field), getattr(parent, field)
        if declared is not None and declared != inherited:
            raise UnitMismatch(
                (
                    f"{field} is {declared}, and must be {inherited} as in {parent.name}, from which this dataset"
                    f" is derived. Leave {field} out."
                ),
                what=field,
                datasets=[{"name": body.name, field: declared}, {"name": parent.name, field: inherited}],
            )


async def _parents(catalogue: Catalogue, actor: Actor, names: Sequence[str]) -> list[Definition]:
    try:
        for name in names:
            demand_sight(actor, name)
        return await catalogue.named(actor, names)
    except NotFound as error:
        raise InvalidRequest(f"derived_from: {error.detail}", field="derived_from", **error.facts) from None


def _ceiling(ceiling: Budget, bound: Bound) -> Amount:
    try:
        return limit_of(ceiling, bound=bound)
    except InvalidRequest as error:
        field = str(error.field).replace("budget", "ceiling", 1)
        raise InvalidRequest(error.detail.replace("budget", "ceiling", 1), field=field) from None
