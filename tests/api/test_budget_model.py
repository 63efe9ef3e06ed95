"""The model that the ledger is held to, by hand: its prices, and the rules of accounts, settlement and batches."""

from __future__ import annotations

import pytest

from tests.kit import budget_model
from tests.kit.budget_costs import Amount, Json, charge, price
from tests.kit.budget_model import Account, Expected, Model, derived, gaussian
from tests.kit.drawn import BY_EPOCHS, EVIDENCE, IDENTITY, PRINCIPALS, SHUFFLED

PRICED: list[tuple[Json, str, int, int]] = [
    (gaussian(5, 3), "replace_one", 120_000_000_000, 0),
    (gaussian(3), "add_or_remove_one", 111_111_111_112, 0),
    ({"type": "gdp", "mu": 0.3, "delta": 1e-6, "evidence": EVIDENCE}, "replace_one", 90_000_000_000, 1_000_000_500_001),
    ({**SHUFFLED, "sample_rate": 0.25, "steps": 9}, "add_or_remove_one", 120_000_000_000, 0),
    ({**SHUFFLED, "sample_rate": 0.25, "steps": 8}, "replace_one", 320_000_000_000, 0),
    (BY_EPOCHS, "add_or_remove_one", 80_000_000_000, 0),  # two epochs, as declared
    ({**SHUFFLED, "sampling": "poisson", "sample_rate": 1, "steps": 2}, "replace_one", 320_000_000_000, 0),
    ({**IDENTITY, "steps": 10, "participations": 3, "separation": 4}, "add_or_remove_one", 120_000_000_000, 0),
    ({**IDENTITY, "steps": 8, "participations": 3, "separation": 4}, "add_or_remove_one", 80_000_000_000, 0),
    # mu is -2 Phi^-1(1/(1+e^0.1)) = 0.125309012…, by bisection; delta 1e-7 + 5e-15 + …, twice.
    (
        {"type": "approximate_dp", "epsilon": 0.1, "delta": 1e-7, "count": 2},
        "add_or_remove_one",
        31_404_697_083,
        200_000_010_001,
    ),
    ({"type": "composed", "parts": [gaussian(5), gaussian(2)]}, "add_or_remove_one", 290_000_000_000, 0),
]


@pytest.mark.parametrize(("mechanism", "adjacency", "mu", "delta"), PRICED)
def test_prices_of_the_model(mechanism: Json, adjacency: str, mu: int, delta: int) -> None:
    """Goal: the model's costs are those of the contract. Method: worked out by hand."""
    assert charge(price(mechanism, adjacency)) == (mu, delta)


def modelled(**datasets: Json) -> Model:
    """A model with these datasets, under clt and with a budget of mu 1 unless they say otherwise."""
    model = Model(PRINCIPALS)
    terms = {"privacy_unit": "record", "adjacency": "add_or_remove_one", "bound": "clt"}
    for name, body in datasets.items():
        is_root = "derived_from" not in body
        made = model.register("steward", {"name": name, **terms, **({"budget": {"mu": 1}} if is_root else {}), **body})
        assert made.is_fine
    return model


def codes(answer: Expected) -> set[str]:
    """The codes of the errors that may be answered."""
    return {problem.code for problem in answer.problems}


def test_the_model_charges_every_account_or_none() -> None:
    """Goal: the rules of lineage, partitions and projects. Method: one run through all of them, followed by hand."""
    model = modelled(
        root={"partitions": ["a", "b"]},
        other={},
        join={"derived_from": derived("root", "other"), "budget": {"mu": 0.5}},
        copy={"derived_from": derived("join")},
    )
    model.set_project("steward", "root", "x", {"mu": 0.3})
    body: Json = {"datasets": [{"name": "copy", "partitions": ["b"]}], "mechanism": gaussian(), "project": "x"}
    first = model.ask("ada", "1", body)
    assert first.run is not None
    assert first.run.datasets == ("copy", "join", "other", "root")
    assert set(first.run.accounts) == {
        Account("root", "b"),
        Account("root", "b", "x"),
        Account("other"),
        Account("join"),
    }
    left = {one.name: one.remaining for one in first.datasets}
    assert left == {"copy": None, "join": (21 * 10**10, 0), "other": (96 * 10**10, 0), "root": (5 * 10**10, 0)}
    second = model.ask("bo", "2", {**body, "datasets": ["copy"], "mechanism": gaussian(4)})
    assert second.binding is not None
    assert {(b.account.partition, b.account.project, b.quantity) for b in second.binding} == {("b", "x", "mu")}
    assert model.ask("bo", "2", body).problems == {budget_model.REUSED}
    assert model.shown("root")["balance"]["held"] == (4 * 10**10, 0)
    assert model.shown("root")["partitions"]["a"]["remaining"] == (10**12, 0)
    assert model.shown("root")["projects"]["x"]["remaining"] == (5 * 10**10, 0)
    assert codes(model.ask("bo", "3", {**body, "datasets": ["join", "root"]})) == {"invalid-request"}
    assert codes(model.ask("bo", "3", {**body, "project": "y"})) == {"not-found"}
    assert codes(model.set_budget("steward", "join", {"mu": 0.1})) == {"budget-below-spent"}


def test_the_model_settles() -> None:
    """Goal: what an early stop and an overrun are charged. Method: by hand."""
    model = modelled(root={}, copy={"derived_from": derived("root"), "budget": {"mu": 0.5}})
    cases: list[tuple[Json, int, Json, int]] = [
        (gaussian(10, 5), 1, {"steps": 2}, 2),
        (gaussian(10, 5), 1, {"steps": 0}, 1),
        (gaussian(10, 5), 1, {}, 5),
        ({**SHUFFLED, "noise_multiplier": 10, "sample_rate": 0.25, "steps": 9}, 1, {"steps": 5}, 2),
        ({**IDENTITY, "noise_multiplier": 10, "steps": 10, "participations": 2}, 1, {"steps": 1}, 2),
        (
            {**IDENTITY, "noise_multiplier": 10, "steps": 10, "participations": 2},
            1,
            {"steps": 1, "stop": "data_independent"},
            1,
        ),
        ({**IDENTITY, "noise_multiplier": 10, "steps": 10}, 4, {"steps": 4}, 2),  # of 3 steps each
        ({**IDENTITY, "noise_multiplier": 10, "steps": 10}, 4, {"steps": 12}, 4),
        (gaussian(10, 5), 1, {"steps": 7}, 7),
    ]
    total = 0
    for number, (mechanism, segments, said, hundredths) in enumerate(cases):
        asked = model.ask("ada", str(number), {"datasets": ["root"], "mechanism": mechanism, "segments": segments})
        assert asked.run is not None, mechanism
        model.start("ada", asked.run)
        assert model.settle("ada", asked.run, said).status == 200
        total += hundredths
        assert model.spent(Account("root")) == (total * 10**10, 0), mechanism
    asked = model.ask("ada", "over", {"datasets": ["copy"], "mechanism": gaussian(5)})
    assert asked.run is not None
    model.start("ada", asked.run)
    over = model.settle("ada", asked.run, {"steps": 7})
    assert (over.status, over.overrun, over.frozen) == (409, (6, Amount(24 * 10**10, 0)), frozenset({"copy"}))
    assert model.datasets["copy"].state == "frozen"
    assert model.shown("copy")["balance"]["remaining"] == (-3 * 10**10, 0)
    assert model.settle("ada", asked.run, {"steps": 7}).replay_of == "settle"


def test_the_models_batches() -> None:
    """Goal: all or none, or each for itself. Method: four releases of which three fit."""
    model = modelled(root={"budget": {"mu": 0.36}})
    items = [{"datasets": ["root"], "mechanism": gaussian(), "idempotency_key": key, "purpose": key} for key in "abcd"]
    refused = model.batch("ada", items, is_atomic=True)
    assert (refused.status, model.keys, model.runs, model.datasets["root"].seq) == (409, {}, [], 1)
    assert [item.status for item in refused.items or []] == [201, 201, 201, 409]
    apart = model.batch("ada", items, is_atomic=False)
    assert [item.status for item in apart.items or []] == [201, 201, 201, 409]
    assert (len(model.keys), model.datasets["root"].seq) == (4, 5)
    again = model.batch("ada", items[:3], is_atomic=True)
    assert [item.replay_of for item in again.items or []] == ["a", "b", "c"]
    assert codes(model.batch("ada", items, is_atomic=True)) == {"batch-refused"}
