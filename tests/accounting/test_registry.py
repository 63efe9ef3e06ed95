"""What is derived from the registry of mechanisms, and the tables elsewhere that have to be as long as it."""

from __future__ import annotations

from decimal import Decimal
from typing import get_args

import pytest

from ledger.accounting import costs, mechanisms
from ledger.accounting.mechanisms import BY_TYPE, SOLVABLE
from ledger.accounting.terms import Terms
from ledger.core.datasets import Adjacency, Bound
from ledger.errors import InvalidMechanism
from ledger.recompute.opinion import PIECES
from ledger.service.planner import PlanRequest
from tests.accounting.samples import EXAMPLES

TERMS = [
    Terms(bound=bound, adjacency=adjacency, delta=Decimal("1e-8"))
    for bound in get_args(Bound)
    for adjacency in get_args(Adjacency)
]


def test_every_table_of_types_is_complete() -> None:
    """Goal: a mechanism that is added cannot be forgotten elsewhere. Method: the tables by type, and the examples."""
    assert PIECES.keys() == BY_TYPE.keys()
    assert {declared["type"] for declared in EXAMPLES.values()} == BY_TYPE.keys()
    assert all(mechanism.model_fields["type"].annotation is not str for mechanism in BY_TYPE.values())


def test_whatever_can_be_solved_for_can_be_asked_for() -> None:
    """Goal: the contract's `solve_for` has every parameter of every mechanism, and a mechanism those that it has."""
    (choices, _) = PlanRequest.model_json_schema()["properties"]["solve_for"]["anyOf"]
    assert choices["enum"] == [*SOLVABLE, "runs"]
    for mechanism in BY_TYPE.values():
        assert set(mechanism.solvable) <= mechanism.model_fields.keys()
        assert mechanism.unsuggested <= set(mechanism.solvable)


@pytest.mark.parametrize("terms", TERMS, ids=lambda terms: f"{terms.bound}-{terms.adjacency}")
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_cost_names_a_method_that_its_mechanism_has(name: str, terms: Terms) -> None:
    """Goal: recomputation knows how closely every cost has to agree. Method: every form of every mechanism, under every
    bound and adjacency; the method of a composition is made of its parts'."""
    declared = EXAMPLES[name]
    mechanism = mechanisms.parse(declared)
    unknown = {"truncated_batch_size", "max_examples_per_user"} if terms.bound == "clt" else {"dataset_size_min"}
    if declared["type"] == "dpsgd_schedule" and terms.bound == "certified":
        unknown = {"sampling"}
    unknown |= {"max_examples_per_user"} if terms.adjacency == "replace_one" else set()
    cost, field = None, None
    try:
        cost = costs.cost(mechanism, terms)
    except InvalidMechanism as error:
        field = error.field
    if cost is None:
        assert (field or "").removeprefix("mechanism.") in unknown
        return
    known = {method for kind in BY_TYPE.values() for method in kind.methods}
    assert set(cost.method.removeprefix("composed: ").split(", ")) <= (mechanism.methods.keys() or known)
