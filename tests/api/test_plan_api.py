"""Plans: what is said to fit is approved, what is said not to is refused, and nothing is recorded by asking."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import mpmath
import pytest

from ledger.service.inverting import SECONDS_MAX
from ledger.service.planner import NEW, Planner
from tests.accounting.test_plan import dearer, hardest
from tests.kit.driver import RELEASE, WEAK, Ledger, Terminal
from tests.kit.scene import ok
from tests.kit.trials import trials

SGD: dict[str, Any] = {"type": "dpsgd", "noise_multiplier": 1.1, "sampling": "poisson"}
PUBLISHED: dict[str, Any] = {**SGD, "dataset_size": 60_000, "batch_size": 256, "epochs": 60}
MECHANISMS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({**SGD, "sample_rate": 0.004, "steps": 9_000}, ("noise_multiplier", "steps", "sample_rate", "runs")),
    (PUBLISHED, ("noise_multiplier", "steps", "epochs", "runs")),
    ({**PUBLISHED, "sampling": "fixed_size"}, ("noise_multiplier", "epochs")),
    ({**SGD, "sampling": "shuffle", "sample_rate": 0.01, "steps": 250}, ("noise_multiplier", "steps", "sample_rate")),
    ({"type": "gaussian", "noise_multiplier": 7, "count": 9}, ("noise_multiplier", "count", "runs")),
    ({"type": "laplace", "noise_multiplier": 7, "count": 9}, ("noise_multiplier", "count", "runs")),
    ({"type": "pure_dp", "epsilon": 0.3, "count": 2}, ("epsilon", "count", "runs")),
    ({"type": "approximate_dp", "epsilon": 0.3, "delta": 1e-8, "count": 2}, ("epsilon", "count", "runs")),
    ({"type": "gdp", "mu": 0.3, "delta": 1e-7, "evidence": "Theorem 3"}, ("mu", "runs")),
    ({"type": "zcdp", "rho": 0.05}, ("rho", "runs")),
    (
        {"type": "matrix_factorization", "noise_multiplier": 3, "strategy": "tree", "steps": 100}
        | {"participations": 1, "completion": "none"},
        ("noise_multiplier", "steps", "runs"),
    ),
    ({"type": "composed", "parts": [{"type": "gaussian", "noise_multiplier": 7}]}, ("runs",)),
]
"""What is asked for, and what can be solved for."""


def plan(by: Ledger, mechanism: dict[str, Any], **more: Any) -> Any:
    """Plans a run on the dataset of the tests."""
    return by.post("/v1/plan", {"datasets": ["mnist"], "mechanism": mechanism, **more})


def planned(by: Ledger, mechanism: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The answer to a plan."""
    answer = plan(by, mechanism, **more)
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


def ask_and_void(ledger: Ledger, mechanism: dict[str, Any]) -> Any:
    """Asks for a run, and gives back what it held."""
    asked = ledger.ask(mechanism)
    if asked.status_code == 201:
        voided = ledger.post(f"/v1/runs/{asked.json()['id']}/void", {"reason": "a test"})
        assert voided.status_code == 200
    return asked


def next_value(field: str, value: float) -> float:
    """The next value that costs more, of those that may be named."""
    exact = Decimal(repr(value))
    if field in ("steps", "count"):
        return int(value) + 1
    return float(dearer(field, exact))


# --- plans and decisions ---------------------------------------------------------------------------------------------


def test_a_plan_is_what_asking_comes_to(ledger: Ledger) -> None:
    """Goal: a plan says before what asking says after: cost, method, what is left, what binds, what would fit.

    Method: every mechanism, planned and then asked for, until most are refused.
    """
    ledger.register(budget={"mu": 1.5, "delta": 1e-6})
    verdicts = []
    for mechanism, _ in MECHANISMS * 3:
        said = planned(ledger, mechanism)
        asked = ledger.ask(mechanism)
        shown = asked.json()
        (where,) = said["datasets"]
        verdicts.append(said["fits"])
        assert said["solution"] is None
        assert (where["name"], where["state"]) == ("mnist", "active")
        if said["fits"]:
            assert asked.status_code == 201
            assert (said["binding"], said["would_fit"]) == ([], {})
            for name in ("cost", "bound", "method", "assumptions", "accountant"):
                assert said[name] == shown[name]
            assert where["after"] == shown["datasets"][0]["remaining"]
        else:
            assert (asked.status_code, shown["code"]) == (409, "budget-exceeded")
            assert (said["binding"], said["would_fit"]) == (shown["datasets"], shown["fits"])
            assert where["after"] is None
            assert said["cost"] == ledger.get(f"/v1/runs/{shown['run']}").json()["cost"]
        balance = ledger.get("/v1/datasets/mnist").json()["balance"]
        assert where["limit"] == balance["limit"]
        assert (where["after"] or where["remaining"]) == balance["remaining"]
    assert 4 <= sum(verdicts) <= len(verdicts) - 10


def test_what_is_solved_for_is_approved_and_one_more_is_refused(ledger: Ledger) -> None:
    """Goal: the solution fits, at its cost, and the next value does not. Method: every mechanism and every parameter
    that it has, on what a few budgets leave; ask for the next value, and then for the solution."""
    ledger.register(budget={"mu": 1.5, "delta": 1e-6})
    ledger.ask({"type": "gaussian", "noise_multiplier": 1.3})
    solved = 0
    for budget in ({"mu": 0.9, "delta": 1e-6}, {"mu": 1.5, "delta": 1.5e-8}, {"mu": 30, "delta": 1e-3}):
        set_to = ledger.put("/v1/datasets/mnist/budget", {"budget": budget, "reason": "a test", **WEAK})
        assert set_to.status_code == 200
        for mechanism, fields in MECHANISMS:
            for solve_for in fields:
                solution = planned(ledger, mechanism, solve_for=solve_for)["solution"]
                if solution is None:
                    assert ask_and_void(ledger, mechanism).status_code == 409
                    continue
                solved += 1
                field, value = solution["solve_for"], solution["value"]
                if field == "runs":
                    continue
                assert field == ("epochs" if "epochs" in mechanism and solve_for == "steps" else solve_for)
                if Decimal(repr(value)) != hardest(field):
                    beyond = ask_and_void(ledger, {**mechanism, field: next_value(field, value)})
                    # No cost is known of a larger rho than 25.
                    assert beyond.status_code == (422 if (field, value) == ("rho", 25) else 409)
                approved = ask_and_void(ledger, {**mechanism, field: value})
                assert approved.status_code == 201, (mechanism, solution)
                assert approved.json()["cost"] == solution["cost"]
    assert solved >= 50


def test_a_certified_plan_is_what_asking_comes_to(ledger: Ledger) -> None:
    """Goal: where costs are certificates, a plan takes the same share of delta as a run does, and says which; its
    solution is approved, and the next value refused with the same words. Method: DP-SGD with Poisson sampling on a
    certified dataset, with the share said and left out; for each of them another parameter, or both to prove it."""
    ledger.register(bound="certified", costing="standalone", budget={"epsilon": 3, "at_delta": 1e-5})
    limit = float(ledger.get("/v1/datasets/mnist").json()["balance"]["limit"]["delta"])
    for index, share in enumerate((None, 1e-9)):
        more: dict[str, Any] = {} if share is None else {"delta": share}
        said = planned(ledger, PUBLISHED, solve_for="noise_multiplier", **more)
        assert said["delta"] == (share or pytest.approx(limit / 100, rel=1e-5))
        assert (said["bound"], said["is_estimate"], said["fits"]) == ("certified", False, True)
        solved = (("noise_multiplier", 0.9), ("epochs", 5))
        for solve_for, is_more in solved if trials(1, 2) == 2 else solved[index : index + 1]:
            much = {**PUBLISHED, solve_for: PUBLISHED[solve_for] * is_more}
            solution = planned(ledger, much, solve_for=solve_for, **more)["solution"]
            beyond = {**PUBLISHED, solve_for: next_value(solve_for, solution["value"])}
            refused = ledger.ask(beyond, **more)
            again = planned(ledger, beyond, **more)
            assert refused.status_code == 409
            assert (again["binding"], again["would_fit"]) == (refused.json()["datasets"], refused.json()["fits"])
            assert again["would_fit"][solve_for] == solution["value"]
            approved = ledger.ask({**PUBLISHED, solve_for: solution["value"]}, **more)
            assert approved.status_code == 201
            assert (approved.json()["cost"], approved.json()["delta"]) == (solution["cost"], again["delta"])
            ledger.post(f"/v1/runs/{approved.json()['id']}/void", {"reason": "a test"})


def test_runs_are_as_many_as_are_approved(ledger: Ledger) -> None:
    """Goal: `runs` is how often the very same run is approved in a row. Method: ask until it is refused."""
    for name, mechanism in (
        ("mu", {"type": "gaussian", "noise_multiplier": 7}),
        ("delta", {"type": "approximate_dp", "epsilon": 0.001, "delta": 1.5e-7}),
    ):
        ledger.register(name=name, budget={"mu": 0.5, "delta": 1e-6})
        body = {"datasets": [name], "mechanism": mechanism, "solve_for": "runs"}
        solution = ledger.post("/v1/plan", body).json()["solution"]
        approved = 0
        while ledger.ask(mechanism, datasets=[name]).status_code == 201:
            approved += 1
        assert (solution["solve_for"], solution["value"]) == ("runs", approved)
        held = ledger.get(f"/v1/datasets/{name}").json()["balance"]["held"]
        assert solution["cost"] == held
        after = ledger.post("/v1/plan", body).json()
        assert (after["fits"], after["solution"]) == (False, None)


def test_random_plans_agree_with_decisions(ledger: Ledger, tries: Callable[[int, int], int]) -> None:
    """Goal: no balance on which plans and decisions part. Method: random runs that are planned, asked for, and change
    the balance, with now and then the most that fits, which leaves next to nothing."""
    rng = random.Random(48)
    ledger.register(budget={"mu": 40, "delta": 1e-5})
    for _ in range(tries(40, 1_000)):
        mechanism, fields = rng.choice(MECHANISMS)
        if "noise_multiplier" in mechanism:
            mechanism = {**mechanism, "noise_multiplier": round(rng.uniform(0.5, 4), rng.randint(0, 9)) or 1}
        said = planned(ledger, mechanism, solve_for=rng.choice(fields))
        assert (ledger.ask(mechanism).status_code == 201) is said["fits"]
        again = planned(ledger, mechanism, solve_for=fields[0])["solution"]
        if again is not None and rng.random() < 0.1 and again["solve_for"] != "runs":
            assert ledger.ask({**mechanism, again["solve_for"]: again["value"]}).status_code == 201


def test_nothing_is_recorded(ledger: Ledger) -> None:
    """Goal: planning leaves no trace. Method: all that the tenant can read, before and after."""
    ledger.register()
    ledger.ask()
    paths = ("/v1/datasets", "/v1/datasets/mnist/entries", "/v1/runs")
    before = [ledger.get(path).json() for path in paths]
    for solve_for in ("noise_multiplier", "count", "runs"):
        for noise_multiplier in (0.1, 5):
            mechanism = {"type": "gaussian", "noise_multiplier": noise_multiplier}
            first = planned(ledger, mechanism, solve_for=solve_for)
            assert planned(ledger, mechanism, solve_for=solve_for) == first
    assert [ledger.get(path).json() for path in paths] == before


def test_the_state_is_said(ledger: Ledger) -> None:
    """Goal: what fits in a frozen or retired dataset's budget can be asked, and the answer says what it is."""
    ledger.register()
    for state in ("frozen", "active", "retired"):
        ledger.patch("/v1/datasets/mnist", {"state": state, "reason": "a test"})
        said = planned(ledger, RELEASE["mechanism"], solve_for="runs")
        assert (said["fits"], said["datasets"][0]["state"], said["solution"]["value"]) == (True, state, 25)


# --- a budget without a dataset, and a part of what is left ----------------------------------------------------------

TWO: dict[str, Any] = {"epsilon": 2, "at_delta": 1e-5}


def test_a_plan_on_a_budget_is_one_on_a_new_dataset(ledger: Ledger) -> None:
    """Goal: a budget that no dataset has is planned as if one were just registered with it, under the same terms, and
    by any key. Method: both plans, of mechanisms with and without certificates, under each bound; compare all but the
    name."""
    solved = 0
    ledger.register()
    limited = ledger.as_("requester", datasets=["mnist"])
    for number, terms in enumerate(({}, {"bound": "clt"}, {"adjacency": "replace_one"})):
        name = f"new-{number}"
        ledger.register(name=name, **{"bound": "certified", "size": None, **terms}, budget=TWO)
        asked: list[tuple[dict[str, Any], str | None]] = [
            ({"type": "gaussian", "noise_multiplier": 0.1}, "noise_multiplier"),
            ({"type": "gaussian", "noise_multiplier": 5}, "runs"),
            ({**SGD, "sample_rate": 0.01, "steps": 100}, "noise_multiplier" if terms else None),
        ]
        for mechanism, solve_for in asked:
            body = {"mechanism": mechanism, "solve_for": solve_for}
            wanted = ok(ledger.post("/v1/plan", {"datasets": [name], **body}))
            planned_so = ok(limited.post("/v1/plan", {"budget": TWO, **terms, **body}))
            told = json.dumps(planned_so).replace(NEW, name)
            assert json.loads(told) == wanted
            solved += wanted["solution"] is not None
    assert solved == 8


def test_a_run_takes_at_most_a_part_of_what_is_left(ledger: Ledger) -> None:
    """Goal: what is solved for takes at most this part of what is left, of mu² and of delta, and the next value more.
    Method: a tenth, after a run was approved, by runs costed by themselves and beside what is left."""
    for costing in ("standalone", "residual"):
        name = f"mnist-{costing}"
        ledger.register(name=name, bound="certified", costing=costing, budget={"mu": 1, "delta": 1e-6})
        ok(ledger.post("/v1/runs", {**RELEASE, "datasets": [name]}, Idempotency_Key=name))
        left = ok(ledger.get(f"/v1/datasets/{name}"))["balance"]["remaining"]
        tenth = {digits: int(left[digits]) // 10 for digits in ("mu_sq_pico", "delta_atto")}

        def tried(value: float, name: str = name, **more: Any) -> dict[str, Any]:
            mechanism = {"type": "gaussian", "noise_multiplier": value}
            body = {"datasets": [name], "mechanism": mechanism, "at_most_percent": 10, **more}
            answer: dict[str, Any] = ok(ledger.post("/v1/plan", body))
            return answer

        solved = tried(1.5, solve_for="noise_multiplier")
        assert solved["at_most"]["percent"] == 10
        assert {digits: int(solved["at_most"]["amount"][digits]) for digits in tenth} == tenth
        assert (solved["fits"], solved["binding"]) == (False, [])
        least = solved["solution"]["value"]
        assert int(solved["solution"]["cost"]["mu_sq_pico"]) <= tenth["mu_sq_pico"]
        assert tried(least)["fits"]
        assert not tried(next_value("noise_multiplier", least))["fits"]
        assert ok(ledger.post("/v1/plan", {"datasets": [name], "mechanism": RELEASE["mechanism"]}))["fits"]
        runs = tried(100, solve_for="runs")["solution"]
        assert int(runs["cost"]["mu_sq_pico"]) <= tenth["mu_sq_pico"]
        assert runs["value"] > 1


def test_a_certified_run_takes_at_most_a_part(ledger: Ledger) -> None:
    """Goal: the share of delta of a certificate fits in the part as well. Method: a tenth of a new budget; then the
    same of a part that has no room for any share."""
    mechanism = {**SGD, "noise_multiplier": 4, "sample_rate": 0.01, "steps": 100}
    body = {"budget": TWO, "mechanism": mechanism, "at_most_percent": 10}
    fits = ok(ledger.post("/v1/plan", body))
    assert (fits["fits"], fits["delta"] <= 1e-7) == (True, True)
    assert not ok(ledger.post("/v1/plan", {**body, "delta": 2e-7}))["fits"]


# --- who may, and what is refused ------------------------------------------------------------------------------------


def test_who_may_plan(ledger: Ledger) -> None:
    """Goal: every role of the tenant plans, and gets the same answer; a key limited to datasets does on those alone;
    another tenant's dataset does not exist."""
    ledger.register()
    ledger.register(name="adult")
    wanted = planned(ledger, RELEASE["mechanism"], solve_for="runs")
    for role in ("admin", "steward", "requester", "auditor"):
        assert planned(ledger.as_(role), RELEASE["mechanism"], solve_for="runs") == wanted
        limited = ledger.as_(role, datasets=["mnist"])
        assert planned(limited, RELEASE["mechanism"], solve_for="runs") == wanted
        hidden = limited.post("/v1/plan", {**RELEASE, "datasets": ["adult"]})
        nothing = limited.post("/v1/plan", {**RELEASE, "datasets": ["nothing"]})
        assert (hidden.status_code, hidden.text.replace("adult", "nothing")) == (404, nothing.text)
    operator = ledger.with_key(ledger.operator_key)
    assert plan(operator, RELEASE["mechanism"]).status_code == 403
    other = ledger.with_key(operator.post("/v1/tenants", {"name": "globex"}).json()["key"]["secret"])
    assert plan(other, RELEASE["mechanism"]).json()["code"] == "not-found"
    assert ledger.client.post("/v1/plan", json=RELEASE).status_code == 401


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "nothing": ({"solve_for": "happiness"}, "invalid-request", "solve_for"),
    "a list": ({"solve_for": ["runs"]}, "invalid-request", "solve_for"),
    "what it does not have": ({"solve_for": "steps"}, "invalid-request", "solve_for"),
    "what is no field of a plan": ({"purpose": "x"}, "invalid-request", "purpose"),
    "a delta above one": ({"delta": 2}, "invalid-request", "delta"),
    "no dataset": ({"datasets": []}, "invalid-request", "datasets"),
    "one dataset twice": ({"datasets": ["mnist", "mnist"]}, "invalid-request", "datasets"),
    "partitions of what has none": (
        {"datasets": [{"name": "mnist", "partitions": ["a"]}]},
        "invalid-request",
        "datasets",
    ),
    "no name": ({"datasets": ["Mnist"]}, "invalid-request", "datasets.0.name"),
    "no segment": ({"segments": 0}, "invalid-request", "segments"),
    "datasets and a budget": ({"budget": TWO}, "invalid-request", "datasets"),
    "neither": ({"datasets": None}, "invalid-request", "datasets"),
    "a project of no dataset": ({"datasets": None, "budget": TWO, "project": "x"}, "invalid-request", "project"),
    "a bound of a dataset": ({"bound": "clt"}, "invalid-request", "bound"),
    "too small a budget": (
        {"datasets": None, "budget": {"mu": 1e-9, "delta": 0}},
        "invalid-request",
        "budget.mu",
    ),
    "more than all": ({"at_most_percent": 101}, "invalid-request", "at_most_percent"),
    "no part": ({"at_most_percent": 0}, "invalid-request", "at_most_percent"),
    "no size": (
        {"datasets": None, "budget": TWO, "mechanism": {**SGD, "batch_size": 9, "epochs": 1}},
        "invalid-mechanism",
        "mechanism.dataset_size",
    ),
    "magic": ({"mechanism": {"type": "magic"}}, "invalid-mechanism", "mechanism.type"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_refused(ledger: Ledger, what: str) -> None:
    """Goal: a plan that cannot be made is refused by the name of the field. Method: one request for each."""
    ledger.register()
    changes, code, field = WRONG[what]
    answer = ledger.post("/v1/plan", {**RELEASE, **changes})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (422, code, field)


def test_a_plan_takes_no_longer_than_it_may(ledger: Ledger) -> None:
    """Goal: what would take too long is refused, not cut short. Method: a clock on which every look takes a second."""
    ledger.register()
    served = ledger.client.app.state.services
    seconds = itertools.count(0.0, SECONDS_MAX / 2)
    slow = Planner(
        served.store, served.catalogue, served.costing, known=served.known, clock_seconds=lambda: next(seconds)
    )
    ledger.client.app.state.services = replace(served, planner=slow)
    for count, changes, field in ((20, {"solve_for": "count"}, "solve_for"), (30, {}, "mechanism")):
        answer = plan(ledger, {"type": "gaussian", "noise_multiplier": 5, "count": count}, **changes)
        assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (413, "too-large", field)
    assert planned(ledger, RELEASE["mechanism"], solve_for="runs")["solution"]["value"] == 25
    assert planned(ledger, RELEASE["mechanism"])["fits"]


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command(terminal: Terminal) -> None:
    """Goal: `plan` tells a person what to paste and a script what the server said, and its exit status is 1 where the
    run does not fit. Method: what it suggests is pasted, and is approved."""
    terminal("dataset create mnist --epsilon 3 --at-delta 1e-5 --bound clt")
    terminal("request mnist --noise-multiplier 1.1 --dataset-size 60000 --batch-size 256 --epochs 60")
    line = "plan mnist --noise-multiplier 1.1 --dataset-size 60000 --batch-size 256 --epochs 60"
    told = terminal(line)
    assert (told.status, told.err) == (1, "")
    assert "does not fit" in told.out
    answer = terminal(f"{line} --json")
    assert (answer.status, answer.json["fits"]) == (1, False)
    suggested = [said.strip() for said in told.out.splitlines() if said.startswith("    privacy-ledger")]
    assert suggested == [
        "privacy-ledger request mnist --dataset-size 60000 --batch-size 256 --epochs 60 --noise-multiplier 1.34727",
        "privacy-ledger request mnist --noise-multiplier 1.1 --dataset-size 60000 --batch-size 256 --epochs 34.3074",
    ]
    assert answer.json["would_fit"] == {"noise_multiplier": 1.34727, "epochs": 34.3074}
    for said in ("--solve-for steps", "--solve-for=epochs"):
        solved = terminal(f"{line} {said}")
        assert (solved.status, "epochs: at most 34.3074" in solved.out) == (1, True)
        assert solved.out.splitlines()[-1].strip() == suggested[1]
    fits = terminal(f"{line.replace('1.1', '2')} --solve-for noise-multiplier")
    assert (fits.status, fits.out.splitlines()[0].split()) == (0, ["fits", "mnist"])
    assert "noise_multiplier: at least 1.34727" in fits.out
    assert fits.out.splitlines()[-1].strip() == suggested[0]
    assert "runs: at most 1 exactly like this one" in terminal(f"{line.replace('1.1', '1.4')} --solve-for runs").out
    assert "runs: no value fits" in terminal(f"{line} --solve-for runs").out
    assert terminal(f"{line} --solve-for sample-rate").status == 2
    assert terminal(f"{suggested[0]} --json").status == 0
    used_up = terminal("plan mnist --type gaussian --noise-multiplier 1")
    assert "Each of these would fit" in used_up.out
    terminal("dataset freeze mnist --reason look")
    assert "mnist is frozen" in terminal(line).out


def test_the_command_without_a_dataset_and_for_a_part(terminal: Terminal) -> None:
    """Goal: `plan` takes a budget in place of a dataset, and a part of what is left. Method: both, as typed; what is
    suggested for a part is pasted; what cannot be meant is rejected."""
    line = "plan --solve-for noise-multiplier --epsilon 2 --at-delta 1e-5 --type gaussian --noise-multiplier 1"
    told = terminal(line)
    assert told.status == 1
    assert told.out.splitlines()[0].split("  ") == ["does not fit", "a new dataset"]
    value = terminal(f"{line} --json").json["solution"]["value"]
    assert told.out.splitlines()[-1].strip() == f"--noise-multiplier {value}"
    terminal("dataset create mnist --epsilon 3 --at-delta 1e-5")
    part = "plan mnist --type gaussian --noise-multiplier 2 --at-most 10% --solve-for noise-multiplier"
    told = terminal(part)
    assert "10 % of what is left: mu 0.2" in told.out
    assert told.status == 1
    pasted = told.out.splitlines()[-1].strip()
    assert "--at-most" not in pasted
    assert terminal(pasted).status == 0
    for wrong in ("plan --type gaussian --noise-multiplier 1", part.replace("10%", "0.1"), f"{line} --mu 1"):
        assert terminal(wrong).status == 2


@pytest.mark.parametrize("noise", [0.3, 1, 5, 40])
@pytest.mark.parametrize("costing", ["standalone", "residual"])
def test_a_plan_states_what_an_attacker_finds(ledger: Ledger, noise: float, costing: str) -> None:
    """Goal: the best attack on the run by itself, never less than it finds, also where the run is charged less beside
    what is left. Method: the Gaussian trade-off at 30 digits, Phi(Phi^-1(0.01) + mu), by mpmath."""
    ledger.register(bound="certified", costing=costing, budget={"mu": 5, "delta": 1e-6})
    plan = ok(
        ledger.post("/v1/plan", {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": noise}})
    )
    with mpmath.workdps(30):
        wrong = mpmath.mpf("0.01")
        quantile = mpmath.sqrt(2) * mpmath.erfinv(2 * wrong - 1)
        best = 100 * mpmath.ncdf(quantile + 1 / mpmath.mpf(noise))
    assert plan["attack"]["wrong_percent"] == 1
    assert best <= plan["attack"]["found_percent"] <= best * (1 + mpmath.mpf("1e-6")) + mpmath.mpf("1e-6")
