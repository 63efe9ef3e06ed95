"""The public semantics, by an independent model and random operations over HTTP."""

from __future__ import annotations

import ast
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from ledger.operate.check import check_journals
from ledger.settings import Settings
from tests.kit.days import count_some
from tests.kit.driver import Ledger
from tests.model.compare import left
from tests.model.draws import derived, gaussian
from tests.model.model import OWN, Answer, Model, Person, Refused, Run
from tests.model.prices import NOTHING, Amount, Json, Plan, limit_of
from tests.model.walk import Walk

SEED: Final = 20
STEPS_OF_TENANT: Final = 250
LINES_MAX: Final = 831
"""Of the modules of the model together."""
RULES: Final = ("prices", "model")
"""The modules with the rules; the others drive, show and compare."""
LEAST: Final = {
    "ask: 201": 40,
    "ask: 409 budget-exceeded": 20,
    "ask: 409 dataset-frozen": 3,
    "ask: 422": 5,
    "ask again: 422 idempotency-key-reused": 1,
    "the first answer again": 10,
    "batch, atomic: 200": 4,
    "batch, atomic: 409 batch-refused": 3,
    "batch, most: 200": 4,
    "receipt: started": 20,
    "starts beside partitions that were not charged": 4,
    "partitions added beside held runs": 2,
    "settle: 200": 15,
    "settled with restarts": 5,
    "confirm: 200": 1,
    "correct: 20": 4,
    "overrun: 200": 3,
    "overrun: 409 overrun": 2,
    "frozen: 200": 5,
    "active: 202": 1,
    "budget: 202": 2,
    "void: 202": 3,
    "amend: 200": 4,
    "amend: 202": 8,
    "amend: 4": 2,
    "approve: 200": 6,
    "approve: 403 forbidden": 5,
    "refuse: 200": 1,
    "keys made, revoked and rotated": 1,
    "capped: 200": 4,
    "capped: 422 invalid-request": 4,
    "lowered: 201": 8,
    "lowered: 409 budget-exceeded": 8,
    "stopped: 200": 8,
    "half shared: 404 not-found": 8,
    "half shared: 201": 8,
    "reordered: ": 8,
    "beyond a share: 409 overrun": 4,
}
"""What has to occur in the everyday run, on each database."""


def test_the_ledger_follows_the_model(ledger: Ledger, database: Settings, tries: Callable[[int, int], int]) -> None:
    """Goal: whatever is done, in whatever order, is answered, charged, written and signed as the documentation has it.

    Method: random operations on one tenant after another, each compared with the model, and in between every balance,
    run, proposal, entry and receipt.
    """
    counts: Counter[str] = Counter()
    operator = ledger.with_key(ledger.operator_key)
    rng = random.Random(SEED)
    seed = SEED if database.is_sqlite else SEED + 10_000
    for number in range(tries(1_000, 25_000) // STEPS_OF_TENANT):
        made = operator.post("/v1/tenants", {"name": f"tenant-{number}"})
        walk = Walk(ledger.with_key(made.json()["key"]["secret"]), f"tenant-{number}", seed + number, counts)
        for _ in range(2):
            walk.run_steps(STEPS_OF_TENANT // 2)
            count_some(database, rng, passes=2, entries_max=200)
        walk.ask_all_again()
        counts["receipts that permit what nobody charged"] += walk.receipts.permit_more
    assert [result for result in check_journals(database) if result["error"] is not None] == []
    print(*(f"{count:7} {kind}" for kind, count in sorted(counts.items())), sep="\n")
    reached = {kind: sum(count for name, count in counts.items() if name.startswith(kind)) for kind in LEAST}
    assert {kind: count for kind, count in reached.items() if count < LEAST[kind]} == {}
    assert counts["receipts that permit what nobody charged"] == 0


def test_the_model_stands_alone() -> None:
    """Goal: the model is independent of the ledger, and short enough to be read. Method: its imports, and its lines."""
    sources = {path.stem: path.read_text() for path in Path(__file__).parent.glob("*.py")}
    for name in (*RULES, "evidence", "draws", "compare"):
        tree = ast.parse(sources[name])
        imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        assert not {module for module in imported if module.split(".")[0] == "ledger" or module.startswith("tests.kit")}
    assert sum(len(sources[name].splitlines()) for name in RULES) <= LINES_MAX


# --- the model by hand ------------------------------------------------------------------------------------------------

SHUFFLED: Final[Json] = {"type": "dpsgd", "noise_multiplier": 5, "sampling": "shuffle"}
BY_EPOCHS: Final[Json] = {**SHUFFLED, "dataset_size": 100, "batch_size": 30, "epochs": 2}
IDENTITY: Final[Json] = {"type": "matrix_factorization", "noise_multiplier": 5, "strategy": "identity"} | {
    "steps": 10,
    "participations": 1,
    "separation": 1,
}
GAUSSIAN: Final[Json] = {"type": "gaussian", "noise_multiplier": 5, "count": 3}


@pytest.mark.parametrize(
    ("mechanism", "adjacency", "mu", "delta"),
    [
        (GAUSSIAN, "replace_one", 120_000_000_000, 0),
        ({**GAUSSIAN, "noise_multiplier": 3, "count": 1}, "add_or_remove_one", 111_111_111_112, 0),
        ({"type": "gdp", "mu": 0.3, "delta": 1e-6}, "replace_one", 90_000_000_000, 1_000_000_500_001),
        ({**SHUFFLED, "sample_rate": 0.25, "steps": 9}, "add_or_remove_one", 120_000_000_000, 0),
        (BY_EPOCHS, "replace_one", 320_000_000_000, 0),  # two epochs, as declared
        ({**IDENTITY, "participations": 3, "separation": 4}, "add_or_remove_one", 120_000_000_000, 0),
        # mu is -2 Phi^-1(1/(1+e^0.1)) = 0.125309012…, by bisection; delta 1e-7 + 5e-15 + …, twice.
        (
            {"type": "approximate_dp", "epsilon": 0.1, "delta": 1e-7, "count": 2},
            "add_or_remove_one",
            31_404_697_083,
            200_000_010_001,
        ),
        ({"type": "composed", "parts": [GAUSSIAN, {**GAUSSIAN, "noise_multiplier": 2}]}, "", 870_000_000_000, 0),
    ],
)
def test_prices(mechanism: Json, adjacency: str, mu: int, delta: int) -> None:
    """Goal: costs are those of the documentation, rounded up, and limits are rounded down. Method: by hand."""
    assert Plan(mechanism, adjacency).cost == Amount(mu, delta)
    assert limit_of({"mu": 0.3, "delta": 1e-6}) == Amount(90_000_000_000, 1_000_000_500_000)


def restart(first: int, last: int, is_new: bool = False) -> Json:
    """After which these steps were run again."""
    return {"from_step": first, "to_step": last, "new_batches": is_new}


NINE: Final = {**SHUFFLED, "sample_rate": 0.25, "steps": 9}
TWICE: Final = {**IDENTITY, "participations": 2}


@pytest.mark.parametrize(
    ("mechanism", "segments", "steps", "stop", "restarts", "hundredths"),
    [
        ({**GAUSSIAN, "count": 5}, 1, 2, "data_dependent", None, 8),
        ({**GAUSSIAN, "count": 5}, 1, 0, "data_dependent", None, 4),
        ({**GAUSSIAN, "count": 5}, 1, 7, "planned", [restart(1, 2)], 28),
        (NINE, 1, 5, "data_dependent", None, 8),
        (NINE, 1, 10, "planned", [], 12 + 8),
        (NINE, 1, 13, "planned", [restart(3, 6)], 12 + 8),  # a stretch in two epochs
        (NINE, 1, 9, "planned", [restart(4, 3, True)], 12 + 4),  # a new order within an epoch
        (NINE, 1, 10, "planned", None, 12 + 36),  # one step, and the same nine times more
        (TWICE, 1, 1, "data_dependent", None, 8),
        (TWICE, 1, 1, "data_independent", None, 4),
        (TWICE, 1, 12, "planned", [restart(1, 2)], 8 + 8),
        (TWICE, 1, 12, "planned", [restart(1, 2, True), restart(1, 0, True)], 8 + 8 + 24 + 40),  # 1 + 3 + 5 more
        (TWICE, 1, 11, "planned", None, 8 * 506),  # 1² + 2² + … + 11²
        (IDENTITY, 4, 4, "data_dependent", None, 8),
        (IDENTITY, 4, 13, "planned", [], 16 + 4),
        (IDENTITY, 4, 13, "planned", [restart(3, 4)], 16 + 8),  # of 3 steps each, and in two of them
    ],
)
def test_settling(
    mechanism: Json, segments: int, steps: int, stop: str, restarts: list[Json] | None, hundredths: int
) -> None:
    """Goal: early stops, overruns and restarts are charged as the documentation has it. Method: by hand."""
    charged, overrun = Plan(mechanism, "", segments).settled(steps, stop, restarts)
    assert charged + (overrun["cost"] if overrun else NOTHING) == Amount(hundredths * 10**10)


def test_a_charge_is_rounded_once() -> None:
    """Goal: whole segments and a part of one are rounded up together. Method: by hand, (1/3 of 9 + 2) / 36 of mu²."""
    mechanism = {**IDENTITY, "noise_multiplier": 12, "steps": 9, "participations": 3}
    charged, overrun = Plan(mechanism, "replace_one", 3).settled(5, "data_independent", None)
    assert (charged, overrun) == (Amount(138_888_888_889), None)


BOSS: Final = Person("boss", "admin", "boss")


def modelled(**datasets: Json) -> Model:
    """A model with these datasets, and with a budget of mu 1 unless they say otherwise."""
    model = Model([])
    terms = {"privacy_unit": "record", "adjacency": "add_or_remove_one", "bound": "clt"}
    for name, body in datasets.items():
        budget = {} if "derived_from" in body else {"budget": {"mu": 1}}
        model.register(BOSS, {"name": name, **terms, **budget, **body})
    return model


def test_every_account_or_none() -> None:
    """Goal: the model has the rules of lineage, partitions and projects. Method: runs through all of them, by hand."""
    model = modelled(
        root={"partitions": ["a", "b"]},
        other={},
        join={"derived_from": derived("root", "other"), "budget": {"mu": 0.5}},
        copy={"derived_from": derived("join")},
    )
    model.perform(BOSS, "project", "root", {"project": "x", "budget": {"mu": 0.3}})
    once = gaussian(5)
    body: Json = {"datasets": [{"name": "copy", "partitions": ["b"]}], "mechanism": once, "project": "x"}
    first = model.ask(BOSS, "1", body)
    assert isinstance(first.on, Run)
    assert first.on.charges == {
        "copy": [],
        "join": [OWN],
        "other": [OWN],
        "root": [("b", None, None), ("b", "x", None)],
    }
    remaining = {on["name"]: on["remaining"] for on in left(first.on, first)}
    hundredths = {name: on and on.mu // 10**10 for name, on in remaining.items()}
    assert hundredths == {"copy": None, "join": 21, "other": 96, "root": 5}
    second = model.ask(BOSS, "2", {**body, "datasets": ["copy"], "mechanism": gaussian(4)})
    assert {*second.over} == {("root", ("b", "x", None), "mu")}
    for key, wrong, problems in (
        ("2", body, {(422, "idempotency-key-reused")}),
        ("3", {**body, "datasets": ["join", "root"]}, {(422, "invalid-request")}),
        ("3", {**body, "project": "y"}, {(404, "not-found")}),
    ):
        with pytest.raises(Refused) as refused:
            model.ask(BOSS, key, wrong)
        assert refused.value.problems == problems


def test_batches() -> None:
    """Goal: all or none, or each for itself. Method: four releases of which three fit."""
    model = modelled(root={"budget": {"mu": 0.36}})
    items = [{"datasets": ["root"], "mechanism": gaussian(5), "idempotency_key": key} for key in "abcd"]
    assert model.batch(BOSS, items, "atomic").status == 409
    assert (model.keys, model.runs, len(model.datasets["root"].journal)) == ({}, [], 1)
    apart = model.batch(BOSS, items, "each")
    assert [result.status for result in apart.results if isinstance(result, Answer)] == [201, 201, 201, 409]
    assert (len(model.keys), len(model.datasets["root"].journal)) == (4, 5)
