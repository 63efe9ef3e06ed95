"""Values at the edge of what is allowed, and texts with rules of their own."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from ledger.core.datasets import Adjacency, Bound
from tests.kit.driver import MNIST, WEAK
from tests.kit.hostile import MECHANISMS, SEED, Call, Target, problem_of

NINES = "0." + "9" * 60
EXTREMES: dict[str, dict[str, tuple[str, ...]]] = {
    "dpsgd": {
        "noise_multiplier": ("1e-12", "0.03", "1.1", "1e12", "1." + "0" * 58 + "1"),
        "sampling": ('"poisson"', '"fixed_size"', '"shuffle"'),
        "sample_rate": ("1e-12", "0.3", "1", NINES),
        "steps": ("1", "1000000000000"),
    },
    "gaussian": {"noise_multiplier": ("1e-12", "1e12", "1000000000000.0"), "count": ("1", "1000000000000")},
    "laplace": {"noise_multiplier": ("1e-12", "1", "1e12"), "count": ("1", "1000000000000")},
    "pure_dp": {"epsilon": ("1e-12", "1", "1e12"), "count": ("1", "1000000000000")},
    "approximate_dp": {"epsilon": ("1e-12", "1e12"), "delta": ("1e-300", NINES), "count": ("1", "1000000000000")},
    "gdp": {"mu": ("1e-12", "1e12"), "delta": ("0", "0.0", "1e-300", NINES), "evidence": ('"x"',)},
}
EPOCHS: dict[str, tuple[str, ...]] = {
    "noise_multiplier": ("0.03", "1.1", "1e12"),
    "sampling": ('"poisson"', '"fixed_size"', '"shuffle"'),
    "dataset_size": ("1", "1000000000000"),
    "batch_size": ("1", "1000000000000"),
    "epochs": ("1e-12", "0.3", "1e12"),
}


def extremes() -> Iterator[str]:
    """The JSON of mechanisms at the ends of every range, in every combination."""
    forms = [*EXTREMES.items(), ("dpsgd", EPOCHS)]
    for kind, form in forms:
        for values in itertools.product(*form.values()):
            members = "".join(f', "{name}": {value}' for name, value in zip(form, values, strict=True))
            yield f'{{"type": "{kind}"{members}}}'
    part = f'{{"type": "approximate_dp", "epsilon": 1e12, "delta": {NINES}, "count": 1000000000000}}'
    yield f'{{"type": "composed", "parts": [{", ".join([part] * 100)}]}}'


@pytest.mark.parametrize("adjacency", ["add_or_remove_one", "replace_one"])
@pytest.mark.parametrize("bound", ["certified", "clt"])
def test_valid_extremes(
    target: Target,
    bound: Bound,
    adjacency: Adjacency,
    tries: Callable[[int, int], int],
    request: pytest.FixtureRequest,
) -> None:
    """Goal: at the edge of what is allowed nothing fails inside, and what was approved can be settled.

    Method: evaluate mechanisms at the ends of every range (a sample, or all), ask for them, start and settle them.
    """
    target.ledger.register(name="edge", size=None, bound=bound, adjacency=adjacency, budget={"mu": 1000, "delta": 0.1})
    every = list(extremes())
    chosen = random.Random(f"{SEED} {request.node.name}").sample(every, tries(6, len(every)))
    for number, mechanism in enumerate(chosen):
        said = f'"mechanism": {mechanism}, "bound": "{bound}", "adjacency": "{adjacency}"'
        evaluated = target.answered(
            Call("POST", "/v1/evaluate", {}), f'{{{said}, "report_deltas": [1e-300, {NINES}]}}'.encode()
        )
        assert evaluated.status_code == 200 or problem_of(evaluated)["code"] == "invalid-mechanism", mechanism
        asked = target.answered(
            Call("POST", "/v1/runs", {}),
            f'{{"datasets": ["edge"], "mechanism": {mechanism}}}'.encode(),
            **{"Idempotency-Key": f"edge-{number}"},
        )
        assert asked.status_code in (201, 409, 422), (mechanism, asked.text)
        if evaluated.status_code == 422:
            assert asked.status_code == 422, mechanism
        elif asked.status_code == 422:
            assert "at least one step" in problem_of(asked)["detail"], mechanism
        if asked.status_code == 201:
            for verb in ("start", "settle"):
                moved = target.ledger.post(f"/v1/runs/{asked.json()['id']}/{verb}")
                assert moved.status_code == 200, (mechanism, moved.text)
    assert target.ledger.get("/v1/runs", dataset="edge").status_code == 200


BUDGETS: tuple[dict[str, tuple[str, ...]], ...] = (
    {"mu": ("1e-12", "1e-6", "1000", "1000.0000000001"), "delta": ("0", "0.0", "1e-300", "0.1", NINES)},
    {
        "epsilon": ("1e-12", "1", "500000", "1e6", "1e12"),
        "at_delta": ("1e-300", "1e-5", "0.5", NINES),
        "slack": ("0", "1e-300", NINES),
    },
)


@pytest.mark.parametrize("bound", ["certified", "clt"])
def test_extreme_budgets(target: Target, bound: Bound) -> None:
    """Goal: a budget at the edge is either set, and then shown, or refused by its field. Method: every combination."""
    number = 0
    for form in BUDGETS:
        for values in itertools.product(*form.values()):
            budget = ", ".join(f'"{name}": {value}' for name, value in zip(form, values, strict=True))
            number += 1
            body = json.dumps({**MNIST, **WEAK, "name": f"edge-{number}", "bound": bound, "budget": 0})
            body = body.replace('"budget": 0', f'"budget": {{{budget}}}')
            answer = target.send(Call("POST", "/v1/datasets", {}), body.encode())
            if answer.status_code == 201:
                assert target.ledger.get(f"/v1/datasets/edge-{number}").json() == answer.json()
            else:
                assert problem_of(answer)["field"].startswith("budget."), budget


def test_part_of_a_step_costs_a_step(reader: Target) -> None:
    """Goal: nobody pays for a millionth of a step and takes a whole one. Method: ask for epochs shorter than a step."""
    a_step = MECHANISMS["rate"] | {"sample_rate": 256 / 60_000, "steps": 1, "sampling": "fixed_size"}
    least = reader.ledger.post("/v1/evaluate", {"mechanism": a_step, "bound": "clt"}).json()["cost"]["mu_sq_pico"]
    for epochs in (1e-12, 0.004):
        asked = reader.ledger.ask(MECHANISMS["epochs"] | {"epochs": epochs})
        if asked.status_code == 201:
            assert int(asked.json()["cost"]["mu_sq_pico"]) >= int(least)
        else:
            problem = problem_of(asked)
            assert problem["code"] == "invalid-mechanism"
            assert "epochs" in problem["detail"]


# --- texts with rules of their own -----------------------------------------------------------------------------------


DURATIONS: tuple[Any, ...] = (
    *(
        "P0D",
        "-P1D",
        "+P1D",
        "P-1D",
        "P1000D",
        "P366DT1S",
        "P",
        "PT",
        "P1DT",
        "P1D1D",
        "PT1H1D",
        "p1d",
        " P1D",
        "P1D ",
        "",
    ),
    *(
        "P1Y",
        "P1M",
        "PT0.0000001S",
        "P1.D",
        "P1,5D",
        "1 day",
        "86400",
        "1",
        "P1D\n",
        "P\uff11D",
        "P" + "9" * 30 + "D",
        "P1H",
        "1:00",
    ),
    *(1, 86400, 1.5, True, [], {}, ["P1D"]),
)


TIMES: tuple[Any, ...] = (
    *("9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "2020-01-01T00:00:00Z", "2100-01-01T00:00:00", "now"),
    *("2100-01-01", "2100-13-01T00:00:00Z", "2100-02-30T00:00:00Z", "10000-01-01T00:00:00Z", "4102444800", "", "T"),
    *(4102444800, 4102444800.5, True, [], {}),
)


def test_odd_durations(reader: Target) -> None:
    """Goal: how long an approval lasts is never guessed. Method: durations that are none, or of no certain length."""
    wrong = []
    for valid_for in DURATIONS:
        answer = reader.ledger.ask(valid_for=valid_for)
        if answer.status_code == 201 or problem_of(answer).get("field") != "valid_for":
            wrong.append((valid_for, answer.text))
    assert not wrong
    assert reader.is_untouched()


def test_durations_that_last(reader: Target) -> None:
    """Goal: an approval lasts exactly as long as asked. Method: `start_by` against `created_at`."""
    for valid_for, length in (
        *(("P1D", timedelta(days=1)), ("P2W", timedelta(weeks=2)), ("P366D", timedelta(days=366))),
        *(("PT1H30M", timedelta(minutes=90)), ("P1DT12H", timedelta(hours=36)), ("PT86400S", timedelta(days=1))),
        *(("PT90.500000S", timedelta(seconds=90.5)), ("PT0.000001S", timedelta(microseconds=1))),
    ):
        asked = reader.ledger.ask({"type": "gaussian", "noise_multiplier": 500}, valid_for=valid_for)
        run = reader.ledger.get(f"/v1/runs/{asked.json()['id']}").json()
        lasts = datetime.fromisoformat(run["start_by"]) - datetime.fromisoformat(run["created_at"])
        assert lasts == length, valid_for


def test_odd_times(reader: Target) -> None:
    """Goal: a key's end is a moment that will come, and can be shown. Method: times that are none, or too far."""
    for expires_at in TIMES:
        answer = reader.ledger.post("/v1/keys", {"name": "k", "role": "auditor", "expires_at": expires_at})
        problem = problem_of(answer)
        assert (problem["code"], problem["field"]) == ("invalid-request", "expires_at"), expires_at
    assert reader.is_untouched()


def test_labels(reader: Target) -> None:
    """Goal: labels are few and short. Method: one more than allowed, one longer, and the largest that are taken."""
    for labels, place in (
        ({str(number): "x" for number in range(65)}, "labels"),
        ({"k": "v" * 256}, "labels.k"),
        ({"k": ""}, "labels.k"),
        ({"k" * 64: "v"}, "labels." + "k" * 64),
    ):
        problem = problem_of(reader.ledger.ask(labels=labels))
        assert problem["code"] == "invalid-request"
        assert problem["field"].startswith(place)
    assert reader.is_untouched()
    most = {f"{number:02}": "v" * 55 for number in range(64)}
    run = reader.ledger.ask(labels=most).json()["id"]
    assert reader.ledger.get(f"/v1/runs/{run}").json()["request"]["labels"] == most
