"""Datasets: registering, showing and changing them, and what their budgets mean."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import mpmath
import pytest

from ledger.core.datasets import Bound
from tests.conftest import Templates
from tests.kit.driver import MNIST, RELEASE, WEAK, Ledger

PICO, ATTO = 10**12, 10**18
TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


@pytest.fixture
def here(templates: Templates, tmp_path: Path) -> Iterator[Ledger]:
    """A ledger on SQLite alone, for arithmetic that does not depend on the database."""
    with templates.clone("sqlite", tmp_path) as settings, Ledger.open(settings) as opened:
        yield opened


def entries(ledger: Ledger, name: str = "mnist") -> list[dict[str, Any]]:
    """A dataset's journal."""
    return [item["entry"] for item in ledger.get(f"/v1/datasets/{name}/entries").json()["items"]]


def amount(*, mu: float, delta: float, mu_sq_pico: int, delta_atto: int) -> dict[str, Any]:
    """An amount as an answer shows it."""
    return {"mu": mu, "delta": delta, "mu_sq_pico": str(mu_sq_pico), "delta_atto": str(delta_atto)}


NOTHING = amount(mu=0, delta=0, mu_sq_pico=0, delta_atto=0)


# --- register, show, list --------------------------------------------------------------------------------------------


def test_everything_that_was_said_is_shown(ledger: Ledger) -> None:
    """Goal: what was registered comes back, at once, on its own and in the list. Method: every field of it."""
    said: dict[str, Any] = {
        "name": "0.a_dataset-of.the-longest-name-that-there-can-be-here-01234567",
        "title": "Zürich, Ätna & 東京 \U0001f5fb",
        "description": 'Two\nlines, a \\ and a " in it.',
        "privacy_unit": "user",
        "adjacency": "replace_one",
        "size": 10**12,
        "bound": "clt",
        "budget": {"epsilon": 3.0, "at_delta": 1e-5, "slack": 0.25},
        "derived_from": [],
        "partitions": None,
        "ceiling": None,
    }
    assert len(said["name"]) == 63
    registered = ledger.post("/v1/datasets", said)
    assert registered.status_code == 201
    shown = registered.json()
    del said["ceiling"]  # which no dataset of this version has
    assert {name: shown[name] for name in said} == said
    assert (shown["state"], shown["seq"], shown["is_estimate"]) == ("active", 1, True)
    assert TIME.fullmatch(shown["created_at"])
    assert shown["balance"]["spent"] == shown["balance"]["held"] == NOTHING
    assert shown["balance"]["remaining"] == shown["balance"]["limit"]
    assert ledger.get(f"/v1/datasets/{said['name']}").json() == shown
    assert ledger.get("/v1/datasets").json() == {"items": [shown], "next": None}


def test_defaults(ledger: Ledger) -> None:
    """Goal: what is left out is what the contract says. Method: register by the least that is needed."""
    least = {"privacy_unit": "record", "adjacency": "add_or_remove_one", "budget": {"epsilon": 3, "at_delta": 1e-5}}
    shown = ledger.post("/v1/datasets", {"name": "a", **least}).json()
    assert (shown["bound"], shown["is_estimate"]) == ("certified", False)
    assert (shown["title"], shown["description"], shown["size"]) == ("", "", None)
    assert (shown["derived_from"], shown["partitions"]) == ([], None)
    assert shown["balance"]["limit"]["delta"] == pytest.approx(1e-6, rel=1e-9)  # slack 0.1
    shown = ledger.post("/v1/datasets", {"name": "b", **least, "bound": "clt"}).json()
    assert shown["balance"]["limit"]["delta_atto"] == "0"  # slack 0
    shown = ledger.post("/v1/datasets", {"name": "c", **least, "bound": "clt", "budget": {"mu": 1}}).json()
    assert shown["balance"]["limit"] == amount(mu=1, delta=0, mu_sq_pico=PICO, delta_atto=0)
    assert [item["delta"] for item in shown["epsilon"]] == [1e-5, 1e-6]


def test_names(here: Ledger) -> None:
    """Goal: a name fits a path and a file everywhere, and belongs to one dataset. Method: good, bad, taken ones."""
    for name in ("a", "0", "a.b_c-d", "a" * 63, "9-"):
        here.register(name=name)
        taken = here.post("/v1/datasets", {**MNIST, "name": name, "budget": {"mu": 2}})
        assert (taken.status_code, taken.json()["code"], taken.json()["name"]) == (409, "name-taken", name)
        assert here.get(f"/v1/datasets/{name}").json()["budget"] == MNIST["budget"]
    for name in ("", "A", ".a", "-a", "_a", "a b", "a/b", "ä", "a" * 64, "a\n", "a\u200b"):
        wrong = here.post("/v1/datasets", {**MNIST, "name": name})
        assert (wrong.status_code, wrong.json()["field"]) == (422, "name"), name
    assert len(here.get("/v1/datasets").json()["items"]) == 5


# --- budgets ---------------------------------------------------------------------------------------------------------


def exact_mu_sq(*, epsilon: str, target: Fraction) -> mpmath.mpf:
    """mu² of the largest mu with delta_mu(epsilon) <= target, by bisection at 50 digits and from the definition."""

    def delta(mu: mpmath.mpf) -> mpmath.mpf:
        eps = mpmath.mpf(epsilon)
        return mpmath.ncdf(-eps / mu + mu / 2) - mpmath.exp(eps) * mpmath.ncdf(-eps / mu - mu / 2)

    with mpmath.workdps(80):
        wanted = mpmath.mpf(target.numerator) / target.denominator
        low, high = mpmath.mpf(10) ** -20, mpmath.mpf(10) ** 4
        while high - low > low * mpmath.mpf(10) ** -50:
            middle = mpmath.sqrt(low * high) if high > 2 * low else (low + high) / 2
            low, high = (middle, high) if delta(middle) <= wanted else (low, middle)
        return low**2


def exact_nats(delta: Fraction) -> mpmath.mpf:
    """-log(1 - delta) at 50 digits."""
    with mpmath.workdps(80):
        return -mpmath.log(mpmath.mpf((1 - delta).numerator) / (1 - delta).denominator)


EPSILON_BUDGETS = [
    ("3.0", "1e-5", None),
    ("1", "1e-6", "0.5"),
    ("0.1", "1e-9", "0"),
    ("8", "0.00001", "0.1"),
    ("0.001", "1e-3", "0.999"),
    ("50", "1e-5", "0.1"),
    ("1000", "1e-12", "0.01"),
    ("1e-6", "0.2", "0.3"),
    ("2.197", "1e-300", "0.1"),
    ("700", "0.1", "0.9"),
]


@pytest.mark.parametrize("bound", ["certified", "clt"])
@pytest.mark.parametrize(("epsilon", "at_delta", "slack"), EPSILON_BUDGETS)
def test_limits_of_epsilon_budgets(here: Ledger, bound: Bound, epsilon: str, at_delta: str, slack: str | None) -> None:
    """Goal: the limit is the largest that the (epsilon, delta) budget allows, and never above it.

    Method: the definition, solved by bisection with mpmath at 80 digits; the floor may be a few units lower, no higher.
    """
    said = f'"epsilon": {epsilon}, "at_delta": {at_delta}' + ("" if slack is None else f', "slack": {slack}')
    body = json.dumps({**MNIST, **WEAK, "bound": bound, "budget": 0}).replace('"budget": 0', f'"budget": {{{said}}}')
    answer = here.request("POST", "/v1/datasets", content=body.encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 201, answer.text
    limit = answer.json()["balance"]["limit"]
    share = Fraction(slack) if slack is not None else Fraction("0.1") if bound == "certified" else Fraction(0)
    delta = share * Fraction(at_delta)
    with mpmath.workdps(60):
        mu_sq = exact_mu_sq(epsilon=epsilon, target=(Fraction(at_delta) - delta) / (1 - delta)) * PICO
        nats = exact_nats(delta) * ATTO
        assert int(limit["mu_sq_pico"]) <= mu_sq
        assert int(limit["mu_sq_pico"]) >= mpmath.floor(mu_sq * (1 - mpmath.mpf(2) ** -44)) - 1
        assert int(limit["delta_atto"]) == mpmath.floor(nats)
        assert limit["mu"] == pytest.approx(float(mpmath.sqrt(mu_sq / PICO)), rel=1e-9, abs=1e-6)
    (shown,) = answer.json()["epsilon"]
    assert (shown["delta"], shown["spent"]) == (float(at_delta), 0)
    assert float(epsilon) * (1 - 1e-3) < shown["limit"] <= float(epsilon)


MU_BUDGETS = [
    *(("1", "0"), ("0.1", "1e-6"), ("1000", "0.1"), ("0.000001", "1e-18"), ("3e-1", "0.05")),
    ("1.23456789012345678901", "1e-300"),
]


@pytest.mark.parametrize(("mu", "delta"), MU_BUDGETS)
def test_limits_of_mu_budgets(here: Ledger, mu: str, delta: str) -> None:
    """Goal: a budget in mu and delta is the floor of exactly these. Method: Fraction, and mpmath for the log."""
    body = json.dumps({**MNIST, **WEAK, "budget": 0}).replace(
        '"budget": 0', f'"budget": {{"mu": {mu}, "delta": {delta}}}'
    )
    answer = here.request("POST", "/v1/datasets", content=body.encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 201, answer.text
    with mpmath.workdps(60):
        expected = math.floor(Fraction(mu) ** 2 * PICO), int(mpmath.floor(exact_nats(Fraction(delta)) * ATTO))
    assert here.balance()["limit"] == expected
    assert here.balance()["remaining"] == expected


WRONG_BUDGETS: list[tuple[Bound, Any, str]] = [
    ("certified", {"mu": 1}, "budget.delta"),
    ("clt", {}, "budget.epsilon"),
    ("clt", {"epsilon": 1}, "budget.at_delta"),
    ("clt", {"at_delta": 1e-5}, "budget.epsilon"),
    ("clt", {"delta": 1e-5}, "budget.delta"),
    ("clt", {"mu": 1, "epsilon": 1, "at_delta": 1e-5}, "budget.epsilon"),
    ("clt", {"mu": 1, "slack": 0.1}, "budget.slack"),
    ("clt", {"epsilon": 1, "at_delta": 1e-5, "slack": 1}, "budget.slack"),
    ("clt", {"epsilon": 1, "at_delta": 1e-5, "slack": -0.1}, "budget.slack"),
    ("clt", {"epsilon": 1, "at_delta": 0}, "budget.at_delta"),
    ("clt", {"epsilon": 1, "at_delta": 1}, "budget.at_delta"),
    ("clt", {"epsilon": 0, "at_delta": 1e-5}, "budget.epsilon"),
    ("clt", {"epsilon": -1, "at_delta": 1e-5}, "budget.epsilon"),
    ("clt", {"mu": 0}, "budget.mu"),
    ("clt", {"mu": 1e-7}, "budget.mu"),
    ("clt", {"mu": 1000.001}, "budget.mu"),
    ("clt", {"mu": 1, "delta": 0.1001}, "budget.delta"),
    ("clt", {"mu": 1, "delta": -1e-9}, "budget.delta"),
    ("clt", {"epsilon": 1e9, "at_delta": 1e-5}, "budget.epsilon"),
    ("clt", 1, "budget"),
    ("clt", [{"mu": 1}], "budget"),
]


def test_budgets_that_are_none(here: Ledger) -> None:
    """Goal: a budget that says too little or too much is refused by its field. Method: register and set such ones."""
    here.register(name="clt")
    here.register(name="certified", bound="certified", budget={"mu": 1, "delta": 1e-6})
    for bound, budget, field in WRONG_BUDGETS:
        for answer in (
            here.post("/v1/datasets", {**MNIST, "bound": bound, "budget": budget}),
            here.put(f"/v1/datasets/{bound}/budget", {"budget": budget, "reason": "r"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request"), budget
            assert answer.json()["field"] == field, budget
    assert [item["seq"] for item in here.get("/v1/datasets").json()["items"]] == [1, 1]


def test_a_new_budget(ledger: Ledger) -> None:
    """Goal: a limit moves to what is spent and held, and no further. Method: lower it to there and below, raise it."""
    ledger.register()
    runs = [ledger.ask().json()["id"] for _ in range(4)]
    ledger.post(f"/v1/runs/{runs[0]}/start")
    ledger.post(f"/v1/runs/{runs[0]}/settle")
    below = ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 0.3999999}, "reason": "less"})
    assert (below.status_code, below.json()["code"]) == (409, "budget-below-spent")
    facts = below.json()
    assert facts["dataset"] == "mnist"
    assert facts["quantities"] == ["mu"]
    assert facts["limit"]["mu_sq_pico"] == str(math.floor(Fraction("0.3999999") ** 2 * PICO))
    assert facts["spent"]["mu_sq_pico"] == str(PICO // 25)
    assert facts["held"]["mu_sq_pico"] == str(3 * PICO // 25)
    assert ledger.balance()["limit"] == (PICO, 0)
    exact = ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 0.4}, "reason": "exactly"})
    assert exact.status_code == 200
    assert ledger.balance() == {
        "limit": (4 * PICO // 25, 0),
        "spent": (PICO // 25, 0),
        "held": (3 * PICO // 25, 0),
        "remaining": (0, 0),
    }
    assert ledger.ask().json()["code"] == "budget-exceeded"
    more = ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2, "delta": 1e-6}, "reason": "more"})
    assert more.json() == ledger.get("/v1/datasets/mnist").json()
    assert more.json()["budget"] == {"mu": 2, "delta": 1e-6}
    assert ledger.ask().status_code == 201
    spending = ledger.ask({"type": "approximate_dp", "epsilon": 0.1, "delta": 1e-7}).json()
    assert int(spending["cost"]["delta_atto"]) > 0
    below = ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2}, "reason": "no delta"})
    assert (below.status_code, below.json()["quantities"]) == (409, ["delta"])
    below = ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 0.1}, "reason": "neither"})
    assert (below.status_code, below.json()["quantities"]) == (409, ["mu", "delta"])


# --- changes ---------------------------------------------------------------------------------------------------------


def test_a_frozen_dataset(ledger: Ledger) -> None:
    """Goal: freezing stops what would touch the data, and not what ends it; thawing undoes it.

    Method: with a held and two started runs: ask, start, settle and void, frozen, and then again thawed.
    """
    ledger.register()
    held, started, another = (ledger.ask().json()["id"] for _ in range(3))
    for run in (started, another):
        ledger.post(f"/v1/runs/{run}/start")
    assert ledger.patch("/v1/datasets/mnist", {"state": "frozen", "reason": "review"}).json()["state"] == "frozen"
    for answer in (ledger.ask(key="asked"), ledger.post(f"/v1/runs/{held}/start")):
        assert (answer.status_code, answer.json()["code"]) == (409, "dataset-frozen")
        assert (answer.json()["dataset"], answer.json()["state"]) == ("mnist", "frozen")
    assert ledger.post(f"/v1/runs/{started}/settle").status_code == 200
    assert ledger.post(f"/v1/runs/{another}/void", {"reason": "crashed before the first batch"}).status_code == 200
    assert ledger.post(f"/v1/runs/{started}/start").json()["code"] == "run-state"
    assert ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2}, "reason": "more"}).status_code == 200
    assert ledger.patch("/v1/datasets/mnist", {"state": "active", "reason": "done"}).json()["state"] == "active"
    assert ledger.ask(key="asked").status_code == 201  # a frozen dataset did not bind the key
    assert ledger.post(f"/v1/runs/{held}/start").status_code == 200


def test_a_retired_dataset(ledger: Ledger) -> None:
    """Goal: retiring is for ever. Method: try to thaw it; end what is open, correct words."""
    ledger.register()
    held, started = (ledger.ask().json()["id"] for _ in range(2))
    ledger.post(f"/v1/runs/{started}/start")
    assert ledger.patch("/v1/datasets/mnist", {"state": "retired", "reason": "deleted"}).json()["state"] == "retired"
    for state in ("active", "frozen"):
        answer = ledger.patch("/v1/datasets/mnist", {"state": state, "reason": "changed our minds"})
        assert (answer.status_code, answer.json()["code"], answer.json()["state"]) == (409, "dataset-frozen", "retired")
    assert ledger.ask().json()["code"] == "dataset-frozen"
    assert ledger.post(f"/v1/runs/{held}/void", {"reason": "retired"}).status_code == 200
    assert ledger.post(f"/v1/runs/{started}/settle").status_code == 200
    assert ledger.patch("/v1/datasets/mnist", {"title": "Deleted in May"}).json()["state"] == "retired"
    assert ledger.post("/v1/datasets", MNIST).json()["code"] == "name-taken"


def test_what_a_change_has_to_say(here: Ledger) -> None:
    """Goal: a change of state or budget has its reason on record. Method: leave it out or empty, change nothing."""
    here.register()
    for body, field in (
        ({}, "body"),
        ({"reason": "nothing"}, "body"),
        ({"state": "frozen"}, "reason"),
        ({"state": "frozen", "reason": ""}, "reason"),
        ({"state": "thawed", "reason": "r"}, "state"),
        ({"name": "other"}, "name"),
        ({"bound": "certified", "reason": "r"}, "bound"),
        ({"adjacency": "replace_one", "reason": "r"}, "adjacency"),
        ({"privacy_unit": "user", "reason": "r"}, "privacy_unit"),
    ):
        answer = here.patch("/v1/datasets/mnist", body)
        assert (answer.status_code, answer.json()["field"]) == (422, field), body
    for budget, field in (({"budget": {"mu": 2}}, "reason"), ({"budget": {"mu": 2}, "reason": ""}, "reason")):
        answer = here.put("/v1/datasets/mnist/budget", budget)
        assert (answer.status_code, answer.json()["field"]) == (422, field), budget
    assert here.patch("/v1/datasets/mnist", {"description": "words need none"}).status_code == 200


def test_every_change_is_in_the_journal(ledger: Ledger) -> None:
    """Goal: who changed what, when and why stands on record. Method: two people change all; read it."""
    made = [ledger.post("/v1/keys", {"name": name, "role": "steward"}).json() for name in ("Ada", "Bo")]
    steward, other = (ledger.with_key(key["secret"]) for key in made)
    steward.register(title="first", budget={"mu": 1, "delta": 1e-9})
    other.patch("/v1/datasets/mnist", {"state": "frozen", "reason": "review"})
    steward.patch("/v1/datasets/mnist", {"title": "second", "description": "words"})
    other.put("/v1/datasets/mnist/budget", {"budget": {"mu": 2.5}, "reason": "agreed"})
    steward.patch("/v1/datasets/mnist", {"state": "active", "title": "third", "reason": "done"})
    written = entries(ledger)
    assert [entry["kind"] for entry in written] == [
        "dataset-registered",
        "dataset-changed",
        "dataset-changed",
        "budget-set",
        "dataset-changed",
    ]
    for number, entry in enumerate(written):
        key = made[number % 2]
        actor = {name: entry["actor"][name] for name in ("key", "name", "role")}
        assert actor == {"key": key["id"], "name": key["name"], "role": "steward"}
        assert TIME.fullmatch(entry["at"])
        assert entry["dataset"] == "mnist"
    assert [entry["seq"] for entry in written] == [1, 2, 3, 4, 5]
    assert [entry["at"] for entry in written] == sorted(entry["at"] for entry in written)
    first, frozen, worded, budget, thawed = written
    assert {name: first[name] for name in ("title", "privacy_unit", "adjacency", "bound", "size", "state")} == {
        "title": "first",
        "privacy_unit": "record",
        "adjacency": "add_or_remove_one",
        "bound": "clt",
        "size": 60_000,
        "state": "active",
    }
    assert (frozen["state"], frozen["reason"], "title" in frozen) == ("frozen", "review", False)
    assert (worded["title"], worded["description"]) == ("second", "words")
    assert not {"reason", "state"} & set(worded)
    assert (budget["reason"], budget["budget"]) == ("agreed", {"mu": 2.5})
    assert budget["limit"]["mu_sq_pico"] == "6250000000000"
    assert budget["limit_before"] == first["limit"]
    assert (thawed["state"], thawed["title"], thawed["reason"]) == ("active", "third", "done")
    assert ledger.get("/v1/datasets/mnist").json()["seq"] == 5
    assert ledger.get("/v1/datasets/mnist/head").json()["seq"] == 5


def test_balance_follows_runs(ledger: Ledger) -> None:
    """Goal: what is held, spent and left is exact at every step. Method: ask, settle and void; add Fractions."""
    ledger.register(budget={"mu": 1})
    cost = Fraction(1, 25) * PICO
    spent = held = Fraction(0)
    for number in range(6):
        run = ledger.ask(RELEASE["mechanism"]).json()["id"]
        held += cost
        if number % 3:
            ledger.post(f"/v1/runs/{run}/start")
            ledger.post(f"/v1/runs/{run}/settle")
            spent, held = spent + cost, held - cost
        elif number:
            ledger.post(f"/v1/runs/{run}/void", {"reason": "not needed"})
            held -= cost
        assert ledger.balance() == {
            "limit": (PICO, 0),
            "spent": (spent, 0),
            "held": (held, 0),
            "remaining": (PICO - spent - held, 0),
        }
