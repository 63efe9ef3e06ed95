"""The published runs of "Deep Learning with Gaussian Differential Privacy" and its tutorials, asked for over HTTP.

The reference values were worked out at 60 digits; every amount is checked against exact fractions of them.
"""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from ledger.core.amounts import Amount
from ledger.core.datasets import AccountKey
from ledger.core.journal import chain, replay
from tests.kit.driver import Ledger

CASES = json.loads((Path(__file__).parents[1] / "cases" / "gdp_reference.json").read_text())["cases"]
PICO = 10**12


def published() -> list[dict[str, Any]]:
    """The runs of the paper (G) and of the tutorials (A), in the order of their names, as the contract has them."""
    runs = []
    for case in CASES:
        if case["id"][0] not in "GA" or case["kind"] not in ("clt_poisson", "clt_uniform"):
            continue
        given = case["params"]
        mechanism = {
            "type": "dpsgd",
            "noise_multiplier": float(given["noise_multiplier"]),
            "sampling": "poisson" if case["kind"] == "clt_poisson" else "fixed_size",
            "dataset_size": given["N"],
            "batch_size": given["batch_size"],
            "epochs": given["epochs"],
        }
        runs.append({"id": case["id"], "mechanism": mechanism, "mu": Fraction(case["mu"])})
    return sorted(runs, key=lambda run: str(run["id"]))


RUNS = published()


def test_the_published_runs_are_all_there() -> None:
    """Goal: the acceptance is of the whole of the paper's table and the tutorials', both samplings."""
    ids = [run["id"] for run in RUNS]
    assert {"G01", "G02", "G03", "G04", "G05", "G06", "G07", "G08", "G11", "G12"} <= set(ids)
    assert {f"A{number:02}{sampling}" for number in range(1, 9) for sampling in "PU"} <= set(ids)


def exact_cost(run: dict[str, Any]) -> int:
    """mu² rounded up to units of 1e-12. The reference has 25 digits, and no case lies within 1e-10 of an integer."""
    square: Fraction = run["mu"] ** 2 * PICO
    assert min(square % 1, 1 - square % 1) > Fraction(1, 10**10)
    return math.ceil(square)


@pytest.mark.parametrize("mu", [0.1, 1, 3, 5, 7])
def test_published_runs_are_approved_until_the_first_that_does_not_fit(ledger: Ledger, mu: float) -> None:
    """Goal: each decision and every remaining amount is that of exact fractions, `fits` is true and tight, and the
    journal replays. Method: all published runs one after another on one dataset of this budget."""
    shown = ledger.register(budget={"mu": mu}, size=None)
    limit = math.floor(Fraction(str(mu)) ** 2 * PICO)
    assert int(shown["balance"]["limit"]["mu_sq_pico"]) == limit
    spent = refusals = 0
    for run in RUNS:
        cost = exact_cost(run)
        answer = ledger.ask(run["mechanism"], key=run["id"], purpose=f"repeats {run['id']}")
        body = answer.json()
        if spent + cost <= limit:
            assert answer.status_code == 201, run["id"]
            spent += cost
            assert int(body["cost"]["mu_sq_pico"]) == cost
            assert body["cost"]["mu"] == pytest.approx(math.sqrt(cost) / 1e6, rel=1e-12)
            assert int(body["datasets"][0]["remaining"]["mu_sq_pico"]) == limit - spent
            assert any("estimate" in assumption for assumption in body["assumptions"])
            continue
        refusals += 1
        assert answer.status_code == 409, run["id"]
        (binding,) = body["datasets"]
        assert (binding["name"], binding["quantity"]) == ("mnist", "mu")
        assert binding["requested"] == pytest.approx(math.sqrt(cost) / 1e6, rel=1e-12)
        assert binding["remaining"] == pytest.approx(math.sqrt(limit - spent) / 1e6, rel=1e-12)
        if refusals <= 3:
            spent = check_fits(ledger, run, body["fits"], limit=limit, spent=spent)
    assert ledger.balance()["held"] == (spent, 0)
    assert ledger.balance()["remaining"] == (limit - spent, 0)
    assert refusals, "a budget that refuses nothing shows nothing"
    check_journal(ledger, held=spent)


def check_fits(ledger: Ledger, run: dict[str, Any], fits: dict[str, float], *, limit: int, spent: int) -> int:
    """Each value of `fits` fits and the next one does not; the run resized by one of them is approved."""
    if limit == spent:
        assert set(fits) <= {"noise_multiplier"}
    for name, value in fits.items():
        unit = Fraction(10) ** (math.floor(math.log10(value)) - 5)
        beyond = Fraction(str(value)) + (-unit if name == "noise_multiplier" else unit)
        assert evaluated(ledger, run, **{name: value}) <= limit - spent
        assert evaluated(ledger, run, **{name: float(beyond)}) > limit - spent
    if "noise_multiplier" not in fits:
        return spent
    resized = {**run["mechanism"], "noise_multiplier": fits["noise_multiplier"]}
    answer = ledger.ask(resized, key=f"{run['id']}-resized")
    assert answer.status_code == 201
    return spent + int(answer.json()["cost"]["mu_sq_pico"])


def evaluated(ledger: Ledger, run: dict[str, Any], **changes: float) -> int:
    """What the accountant says that the run would cost with these changes."""
    answer = ledger.post("/v1/evaluate", {"bound": "clt", "mechanism": {**run["mechanism"], **changes}})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["cost"]["mu_sq_pico"])


def check_journal(ledger: Ledger, *, held: int) -> None:
    """The journal, read over HTTP, adds up to the balance."""
    items = ledger.get("/v1/datasets/mnist/entries", limit=1000).json()["items"]
    first = items[0]["entry"]
    # Answers carry the entries' own bytes; the parsed ones, written canonically again, are the same.
    text = ledger.get("/v1/datasets/mnist/entries", limit=1000).text
    entries = []
    for raw, item in zip(chain.parse(text)["items"], items, strict=True):
        body = chain.canonical(raw["entry"])
        assert body in text
        entries.append((body, bytes.fromhex(item["hash"])))
    replayed = replay.replay(entries, tenant_id=UUID(first["tenant"]), dataset_id=UUID(first["dataset_id"]))
    assert {key: account.held for key, account in replayed.accounts.items()} == {
        AccountKey(UUID(first["dataset_id"])): Amount(held, 0)
    }
    head = ledger.get("/v1/datasets/mnist/head").json()
    assert (head["seq"], head["hash"]) == (len(items), items[-1]["hash"])


def test_evaluate_gives_the_published_epsilon(ledger: Ledger) -> None:
    """Goal: mu and epsilon of every published run, over HTTP, to a relative 1e-12 of the reference."""
    reference = {case["id"]: case for case in CASES}
    for run in RUNS:
        case = reference[run["id"]]
        deltas = [float(delta) for delta in case["eps_at_delta"]]
        body = {"bound": "clt", "mechanism": run["mechanism"], "report_deltas": deltas}
        answer = ledger.post("/v1/evaluate", body).json()
        assert answer["cost"]["mu"] == pytest.approx(float(case["mu"]), rel=1e-12)
        for shown, value in zip(answer["epsilon"], case["eps_at_delta"].values(), strict=True):
            assert shown["value"] == pytest.approx(float(value), rel=1e-12)
            assert Fraction(shown["value"]) >= Fraction(value), "displayed epsilon is rounded up"


def test_twenty_five_releases_fill_a_budget_of_one(ledger: Ledger) -> None:
    """Goal: 25 Gaussians of noise multiplier 5 fill a budget of mu 1 exactly, and a 26th is refused."""
    ledger.register()
    for _ in range(25):
        assert ledger.ask().status_code == 201
    refused = ledger.ask()
    assert (refused.status_code, refused.json()["code"], refused.json()["fits"]) == (409, "budget-exceeded", {})
    assert ledger.balance()["remaining"] == (0, 0)
