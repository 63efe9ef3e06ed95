"""Recomputation: what an export says is worked out again, what differs is found, and what would be over."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest

from ledger import recompute as recomputing
from ledger.accounting import ACCOUNTANT, amounts, costs, mechanisms
from ledger.accounting.cost import Cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency
from ledger.core.journal import chain
from ledger.errors import InvalidRequest, JournalBroken
from ledger.recompute import Recomputed, opinion
from ledger.recompute.costing import CERTIFICATE, CLOSED_FORM, Accountant, Declaration, Ended, compare, tolerance_of
from tests.kit.driver import Ledger, Terminal
from tests.kit.scene import ok
from tests.service.test_certified_runs import counted_on

CORRELATED = {"type": "matrix_factorization", "noise_multiplier": 1, "steps": 8, "participations": 1}
ONE_DATABASE = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
"""What an export says does not depend on which database wrote it."""

POISSON: dict[str, Any] = {
    "type": "dpsgd",
    "noise_multiplier": 1.3,
    "sampling": "poisson",
    "sample_rate": 0.05,
    "steps": 60,
}
GAUSSIAN: dict[str, Any] = {"type": "gaussian", "noise_multiplier": 5, "count": 4}
LAPLACE: dict[str, Any] = {"type": "laplace", "noise_multiplier": 8, "count": 3}
ROWS: dict[str, Any] = {"type": "matrix_factorization", "noise_multiplier": 4, "strategy": "sqrt"}
ROWS |= {"participations": 1, "separation": 1}
CYCLIC: dict[str, Any] = {"type": "matrix_factorization", "noise_multiplier": 2, "strategy": "sqrt", "bandwidth": 4}
CYCLIC |= {"steps": 80, "sampling": "cyclic_poisson", "sample_rate": 0.1}
CERTIFIED: dict[str, Any] = {"bound": "certified", "costing": "standalone", "budget": {"epsilon": 6, "at_delta": 1e-5}}


def faulty(by: str) -> Callable[..., Cost]:
    """A faulty accountant: what the right one says, times a factor of mu²."""
    factor = Fraction(by)

    def scaled(mechanism: AnyMechanism, terms: Terms) -> Cost:
        right = costs.cost(mechanism, terms)
        return replace(right, mu=right.mu * float(factor) ** 0.5, mu_sq=right.mu_sq * factor)

    return scaled


def settled(ledger: Ledger, mechanism: dict[str, Any], body: dict[str, Any] | None = None, **more: Any) -> str:
    """A run that is approved, started and settled; its id."""
    run: str = ok(ledger.ask(mechanism, **more))["id"]
    ok(ledger.post(f"/v1/runs/{run}/start"))
    ok(ledger.post(f"/v1/runs/{run}/settle", body or {}))
    return run


def exported(ledger: Ledger, name: str = "mnist") -> list[str]:
    """The lines of an export."""
    answer = ledger.get(f"/v1/datasets/{name}/export")
    assert answer.status_code == 200
    return [f"{line}\n" for line in answer.text.split("\n")[:-1]]


def quickly(lines: list[str]) -> Recomputed:
    """Without the parts that are for information."""
    return recomputing.recompute(lines, with_exact=False, with_opinion=False)


def busy(ledger: Ledger) -> list[str]:
    """An export with runs of most kinds, ended in most ways."""
    ledger.register(**{**CERTIFIED, "budget": {"mu": 3, "delta": 1e-5}})
    settled(ledger, POISSON)
    settled(ledger, GAUSSIAN, {"steps": 2})
    settled(ledger, LAPLACE, {"steps": 5})  # an overrun that fits
    settled(ledger, {**POISSON, "steps": 40}, {"steps": 14, "stop": "data_dependent"}, segments=4)
    settled(ledger, {**POISSON, "steps": 30}, {"steps": 12, "stop": "data_independent"})
    settled(ledger, {**POISSON, "sampling": "shuffle", "sample_rate": 0.1, "steps": 30}, {"steps": 11})
    settled(ledger, {"type": "zcdp", "rho": 0.01})
    settled(ledger, {"type": "composed", "parts": [GAUSSIAN, {"type": "pure_dp", "epsilon": 0.1}]})
    settled(ledger, {"type": "approximate_dp", "epsilon": 0.1, "delta": 1e-8, "count": 3})
    settled(
        ledger,
        {**CORRELATED, "noise_multiplier": 9, "strategy": "sqrt", "steps": 20} | {"participations": 1},
    )
    buffers = {"strategy": "blt", "scales": [0.3, 0.1], "decays": [0.5, 0.9]}
    settled(ledger, {**CORRELATED, "noise_multiplier": 9} | buffers)
    banded = {**CYCLIC, "strategy": "toeplitz", "coefficients": [1, -0.5, 0.25]}
    del banded["bandwidth"]
    settled(ledger, banded, {"steps": 31, "stop": "data_independent"})
    settled(ledger, {"type": "gdp", "mu": 0.1, "delta": 1e-9, "evidence": "a paper"})
    voided = ok(ledger.ask(GAUSSIAN))["id"]
    ok(ledger.post(f"/v1/runs/{voided}/void", {"reason": "not needed"}))
    ok(ledger.ask(POISSON))  # stays held
    assert ledger.ask({"type": "gaussian", "noise_multiplier": 0.1}).status_code == 409
    return exported(ledger)


def test_what_the_right_accountant_recorded_comes_out_to_the_last_digit(ledger: Ledger) -> None:
    """Goal: no false alarm. Method: every kind of mechanism and of ending, through the API, and its balances again."""
    lines = busy(ledger)
    found = quickly(lines)
    assert found.is_as_recorded
    # 15 approvals, a refusal, 13 settlings, and the overrun within one of these.
    assert dict(found.counts) == {
        "exact": 30,
        "within": 0,
        "undercharged": 0,
        "overcharged": 0,
        "dearer": 0,
        "unknown": 0,
    }
    assert (found.tenant, found.dataset, found.over, found.differences) == ("acme", "mnist", (), ())
    (account,) = found.accounts
    shown = ledger.balance()
    for part, ours, theirs in (
        ("spent", account.spent, account.recorded_spent),
        ("held", account.held, account.recorded_held),
    ):
        assert (ours.mu_sq_pico, ours.delta_atto) == shown[part]
        assert ours == theirs
    assert account.held != Amount(0, 0)


@ONE_DATABASE
@pytest.mark.parametrize("by", ["7/10", "1"])
def test_an_accounting_bug_is_found_and_what_it_means(ledger: Ledger, by: str) -> None:
    """Goal: after a bug, an organisation learns which budgets are passed, by how much, and since when.

    Method: a server whose accountant says seven tenths of mu² (or, the control, all of it) approves releases of 1/25
    each in a limit of 1: 35 of them in place of 25. By the right costs the limit is passed with the 26th approval: its
    seq, and the excess, are counted by hand. The journal itself holds.
    """
    factor = Fraction(by)
    runs = 25 if factor == 1 else 35
    ledger.register(bound="certified", costing="standalone", budget={"mu": 1, "delta": 1e-6})
    with counted_on(ledger, faulty(by)):
        for number in range(runs):
            run = ok(ledger.ask())["id"]
            if number % 2:
                ok(ledger.post(f"/v1/runs/{run}/start"))
                ok(ledger.post(f"/v1/runs/{run}/settle"))
        refusals = int(ledger.ask().status_code == 409)
    lines = exported(ledger)
    found = quickly(lines)
    (account,) = found.accounts
    assert account.spent + account.held == Amount(runs * 40_000_000_000, 0)
    if factor == 1:
        assert found.is_as_recorded
        assert (found.over, refusals) == ((), 1)
        return
    assert not found.is_as_recorded
    ends = runs // 2
    assert dict(found.counts) == {"exact": 0, "within": 0, "undercharged": runs + refusals + ends} | {
        "overcharged": 0,
        "dearer": 0,
        "unknown": 0,
    }
    assert all(each.direction == "undercharged" for each in found.differences)
    first = found.differences[0]
    assert (first.recorded, first.recomputed) == (Amount(28_000_000_000, 0), Amount(40_000_000_000, 0))
    assert (first.what, first.seq, first.accountant) == ("cost", 2, ACCOUNTANT)
    assert found.over == (account,)
    assert account.over_by == account.most_over == Amount(10 * 40_000_000_000, 0)
    assert account.recorded_over is None
    approvals = [json.loads(line)["seq"] for line in lines if '"kind":"run-approved"' in line]
    assert account.first_over == approvals[25]


RESTARTED = [{"from_step": 41, "to_step": 60, "new_batches": False}]


@ONE_DATABASE
def test_restarts_are_charged_again_as_they_were(ledger: Ledger) -> None:
    """Goal: what was settled with restarts, or without a word of them, comes out alike, and counts in the exact
    composition with all that was repeated. Method: every way to say it, within the plan and beyond."""
    ledger.register(bound="certified", costing="standalone", budget={"mu": 1000, "delta": 1e-2})
    shuffled = {**POISSON, "sampling": "shuffle"}
    bodies: list[dict[str, Any]] = [
        {"restarts": []},
        {"restarts": RESTARTED},
        {"steps": 130, "restarts": RESTARTED, "stop": "data_independent"},
        {"steps": 110},
    ]
    for mechanism in (POISSON, shuffled, ROWS, CYCLIC):
        for body in bodies:
            settled(ledger, {**mechanism, "steps": 100}, body)
    found = recomputing.recompute(exported(ledger), with_opinion=False)
    assert found.is_as_recorded, found.differences
    assert found.compositions is not None
    for added, exact in zip(found.compositions[0].settled.gdp, found.compositions[0].settled.exact, strict=True):
        assert exact is None or 0 < exact <= added


def test_a_settling_of_before_is_worked_out_by_its_own_rule() -> None:
    """Goal: an entry that names no accountant was charged by the rules of then, an overrun as a run of so many steps
    whatever decided their number; one that does, by those of now. Method: the same settling, both ways."""
    terms = Terms(bound="certified", adjacency="add_or_remove_one", delta=Decimal("1e-8"))
    declaration, anew = (
        Declaration(chain.canonical(chain.parse(json.dumps({**POISSON, "steps": steps}))), terms) for steps in (100, 50)
    )
    entry: dict[str, Any] = {"steps": 150, "stop": "planned", "charged": {}, "overrun": {}}
    accountant = Accountant()
    charges = []
    for written in (entry, entry | {"accountant": "gdp-3", "restarts": []}, entry | {"accountant": "gdp-3"}):
        charge = accountant.charge(declaration, Ended.of(written))
        assert not isinstance(charge, str)
        assert charge.excess is not None
        charges.append(charge.excess)
    costs_of = [accountant.cost(asked) for asked in (anew, declaration)]
    alone, whole = (cost.amount for cost in costs_of if not isinstance(cost, str))
    once = 10**12 / Fraction(str(POISSON["noise_multiplier"])) ** 2
    assert charges == [alone, whole, Amount(math.ceil(149 * once), whole.delta_atto)]
    assert Ended.of({"steps": 40, "stop": "data_dependent"}) == Ended(40, "data_dependent", ())


@ONE_DATABASE
def test_charging_too_much_is_found_as_well(ledger: Ledger) -> None:
    """Goal: the other direction, of a certificate too, listed after what was undercharged; a run that was refused at a
    wrong cost counts, and charges nothing."""
    ledger.register(**CERTIFIED)
    with counted_on(ledger, faulty("3/2")):
        settled(ledger, POISSON)
        assert ledger.ask({"type": "gaussian", "noise_multiplier": 0.5}).status_code == 409
    with counted_on(ledger, faulty("9/10")):
        settled(ledger, GAUSSIAN)
    found = quickly(exported(ledger))
    assert [(each.what, each.direction, each.is_refusal) for each in found.differences] == [
        ("cost", "undercharged", False),
        ("charged", "undercharged", False),
        ("cost", "overcharged", False),
        ("charged", "overcharged", False),
        ("cost", "overcharged", True),
    ]
    assert found.over == ()
    (account,) = found.accounts
    assert account.spent.mu_sq_pico < account.recorded_spent.mu_sq_pico


@ONE_DATABASE
def test_partitions_and_projects_are_accounts_of_their_own(ledger: Ledger) -> None:
    """Goal: the answer names the partition and the project that would be over, and no other. Method: a share of half a
    limit, filled through a faulty accountant on one partition of two."""
    ledger.register(bound="certified", costing="standalone", budget={"mu": 1, "delta": 1e-6}, partitions=["a", "b"])
    ok(ledger.put("/v1/datasets/mnist/projects/p", {"budget": {"mu": 0.5, "delta": 5e-7}}))
    of: dict[str, Any] = {"datasets": [{"name": "mnist", "partitions": ["a"]}], "project": "p"}
    with counted_on(ledger, faulty("1/2")):
        for _ in range(12):
            ok(ledger.ask(**of))
    ok(ledger.ask(datasets=[{"name": "mnist", "partitions": ["b"]}]))
    found = quickly(exported(ledger))
    assert [(each.key.partition, each.key.project) for each in found.over] == [("a", "p")]
    (over,) = found.over
    assert over.is_over == ["mu"]
    assert over.over_by == Amount(12 * 40_000_000_000 - 250_000_000_000, 0)
    names = [(each.key.partition, each.key.project) for each in found.accounts]
    assert names == [("a", None), ("b", None), ("a", "p")]


@ONE_DATABASE
def test_a_limit_that_was_lowered_counts_from_then_on(ledger: Ledger) -> None:
    """Goal: `from entry` is where the limit was first passed, which can be the entry that lowered it."""
    ledger.register(bound="certified", costing="standalone", budget={"mu": 1, "delta": 1e-6})
    with counted_on(ledger, faulty("1/2")):
        for _ in range(10):
            ok(ledger.ask())
    ok(ledger.put("/v1/datasets/mnist/budget", {"budget": {"mu": 0.5, "delta": 1e-6}, "reason": "less"}))
    (over,) = quickly(exported(ledger)).over
    assert over.first_over == 12
    assert over.over_by == Amount(400_000_000_000 - 250_000_000_000, 0)


@ONE_DATABASE
def test_an_export_that_does_not_hold_is_not_worked_out(ledger: Ledger) -> None:
    """Goal: nothing is computed from a forged file, from one that changes in between, or where nothing has a cost."""
    lines = busy(ledger)
    broken = [line.replace('"count":4', '"count":5') for line in lines]
    with pytest.raises(JournalBroken, match="hash"):
        quickly(broken)
    assert quickly(iter(lines)).is_as_recorded  # type: ignore[arg-type]

    class Changing:
        """The first time the right lines, then others."""

        times = 0

        def __iter__(self) -> Any:
            self.times += 1
            return iter(lines if self.times == 1 else [lines[0], *lines[2:]])

    with pytest.raises(JournalBroken, match="changed"):
        quickly(Changing())  # type: ignore[arg-type]
    tenants = [f"{line}\n" for line in ledger.get("/v1/export").text.split("\n")[:-1]]
    with pytest.raises(InvalidRequest, match="tenant"):
        quickly(tenants)


@ONE_DATABASE
def test_a_mechanism_that_this_version_does_not_know(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what cannot be worked out is said, counted and left as it is. Method: one that the accountant forgot."""
    ledger.register(**CERTIFIED)
    settled(ledger, LAPLACE)
    settled(ledger, GAUSSIAN)
    lines = exported(ledger)
    known = mechanisms.parse

    def parse(declared: Any) -> Any:
        if declared["type"] == "laplace":
            raise mechanisms.unsupported("is not known", field="mechanism.type")
        return known(declared)

    monkeypatch.setattr(mechanisms, "parse", parse)
    found = recomputing.recompute(lines)
    assert (found.counts["unknown"], found.counts["exact"]) == (2, 2)
    assert "is not known" in found.unknown[0].reason
    (account,) = found.accounts
    assert account.spent == account.recorded_spent
    assert found.compositions is not None
    assert found.compositions[0].settled.exact == (None,)
    assert not found.is_as_recorded


# --- tolerances ------------------------------------------------------------------------------------------------------


def test_what_counts_as_the_same() -> None:
    """Goal: the boundaries of each class, in each direction and quantity."""
    right = Amount(10**12, 10**10)
    for recorded, tolerance, status in (
        (right, None, "exact"),
        (Amount(10**12 - 1, 10**10), None, "undercharged"),
        (Amount(10**12 + 1, 10**10), None, "overcharged"),
        (Amount(10**12 - 2, 10**10), CLOSED_FORM, "within"),
        (Amount(10**12 - 3, 10**10), CLOSED_FORM, "undercharged"),
        (Amount(10**12 + 3, 10**10), CLOSED_FORM, "overcharged"),
        (Amount(10**12 - 10**7 - 1, 10**10), CERTIFICATE, "within"),
        (Amount(10**12 - 10**7 - 2, 10**10), CERTIFICATE, "undercharged"),
        (Amount(10**12, 10**10 - 1), CERTIFICATE, "undercharged"),
        (Amount(10**12, 10**10 + 1), CERTIFICATE, "overcharged"),
        (Amount(2 * 10**12, 10**10 - 1), CERTIFICATE, "undercharged"),
    ):
        assert compare(recorded=recorded, recomputed=right, tolerance=tolerance) == status, (recorded, tolerance)


@ONE_DATABASE
def test_what_is_within_the_tolerance_counts_as_it_was_recorded(ledger: Ledger) -> None:
    """Goal: another machine's last digits are no difference, and put no budget over its limit. Method: a certificate
    that is a millionth off, in a budget that it fills exactly."""
    cost = costs.cost(
        mechanisms.parse(POISSON), Terms(bound="certified", adjacency="add_or_remove_one", delta=Decimal("1e-8"))
    )
    off = replace(cost, mu_sq=cost.mu_sq * Fraction(999_999, 1_000_000)).amount
    mu = Decimal(off.mu_sq_pico).sqrt() / 10**6
    ledger.register(
        bound="certified", costing="standalone", budget={"mu": float(round(mu + Decimal("1e-9"), 9)), "delta": 1e-6}
    )
    with counted_on(ledger, faulty("999999/1000000")):
        settled(ledger, POISSON)
    found = quickly(exported(ledger))
    assert (found.counts["within"], found.counts["exact"], found.is_as_recorded) == (2, 0, True)
    (account,) = found.accounts
    assert account.spent == account.recorded_spent == off
    assert account.limit.mu_sq_pico < cost.amount.mu_sq_pico


def test_which_costs_have_to_be_exact() -> None:
    """Goal: every method falls into the class that the documentation names."""
    for declared, tolerance in (
        (GAUSSIAN, None),
        (LAPLACE, CLOSED_FORM),
        (POISSON, CERTIFICATE),
        ({**POISSON, "noise_multiplier": 0.05}, None),
        ({**POISSON, "sampling": "shuffle"}, None),
        ({"type": "zcdp", "rho": 0.1}, CERTIFICATE),
        ({**CORRELATED, "strategy": "tree", "completion": "none"}, None),
        ({**CORRELATED, "strategy": "sqrt"}, CERTIFICATE),
        ({**CORRELATED, "strategy": "toeplitz", "coefficients": [1, Decimal("0.5")]}, None),
        (CYCLIC, CERTIFICATE),
        ({**CYCLIC, "strategy": "identity", "bandwidth": None, "sample_rate": 1}, None),
        ({"type": "composed", "parts": [GAUSSIAN, LAPLACE]}, CLOSED_FORM),
        ({"type": "composed", "parts": [GAUSSIAN, POISSON, LAPLACE]}, CERTIFICATE),
    ):
        mechanism = mechanisms.parse(declared)
        found = costs.cost(mechanism, Terms(bound="certified", adjacency="add_or_remove_one", delta=Decimal("1e-8")))
        assert tolerance_of(mechanism, found.method) == tolerance, declared
    estimate = costs.cost(mechanisms.parse(POISSON), Terms(bound="clt", adjacency="add_or_remove_one"))
    assert tolerance_of(mechanisms.parse(POISSON), estimate.method) == CLOSED_FORM


def test_a_certificate_moves_by_less_than_the_tolerance_when_a_last_digit_does() -> None:
    """Goal: two machines, whose exp and FFT differ in last digits, agree within CERTIFICATE, with room to spare.

    Method: the same certificate with its noise changed in the sixteenth digit, which puts other last digits into every
    step of the computation, and its plan; the change itself moves mu² by some 1e-15 of it.
    """
    worst = 0.0
    for noise, rate, steps in ((1.1, 0.0042, 2000), (0.7, 0.02, 500), (2.0, 0.1, 300)):
        found = []
        for last in range(3):
            exact = Decimal(noise) + Decimal(last) * Decimal("1e-15")
            declared = {**POISSON, "noise_multiplier": round(exact, 17), "sample_rate": rate, "steps": steps}
            cost = costs.cost(
                mechanisms.parse(declared),
                Terms(bound="certified", adjacency="add_or_remove_one", delta=Decimal("1e-8")),
            )
            found.append(float(cost.mu_sq))
        worst = max(worst, (max(found) - min(found)) / min(found))
    assert 0 < worst < float(CERTIFICATE) / 10


# --- for information -------------------------------------------------------------------------------------------------


@ONE_DATABASE
def test_exact_composition_of_an_account_is_below_what_the_ledger_adds_up(ledger: Ledger) -> None:
    """Goal: epsilon beside epsilon, spent and with what is held, and which runs count as charged. Method: all kinds of
    runs; Gaussian ones alone, for which both are the same; a composition is never more than the sum of the charges."""
    found = recomputing.recompute(busy(ledger), with_opinion=False)
    assert found.compositions is not None
    (composition,) = found.compositions
    assert composition.envelopes == ("gdp", "zcdp")
    assert composition.is_bound
    for epsilons in (composition.settled, composition.with_held):
        for added, exact in zip(epsilons.gdp, epsilons.exact, strict=True):
            assert exact is not None
            assert 0.5 * added < exact < added
    assert composition.settled.gdp < composition.with_held.gdp
    ledger.register(name="other", bound="certified", costing="standalone", budget={"mu": 3, "delta": 1e-5})
    settled(ledger, GAUSSIAN, datasets=["other"])
    alone = recomputing.recompute(exported(ledger, "other"), with_opinion=False).compositions
    assert alone is not None
    for added, exact in zip(alone[0].settled.gdp, alone[0].settled.exact, strict=True):
        assert exact == pytest.approx(added, rel=1e-12)


@ONE_DATABASE
def test_partitions_that_were_charged_alike_are_composed_once(ledger: Ledger) -> None:
    """Goal: a thousand months cost one composition. Method: three partitions, two of them used by the same runs."""
    ledger.register(
        bound="certified", costing="standalone", budget={"mu": 1, "delta": 1e-6}, partitions=["a", "b", "c"]
    )
    settled(ledger, GAUSSIAN, datasets=[{"name": "mnist", "partitions": ["a", "b"]}])
    settled(ledger, LAPLACE, datasets=[{"name": "mnist", "partitions": ["c"]}])
    compositions = recomputing.recompute(exported(ledger), with_opinion=False).compositions
    assert compositions is not None
    assert sorted([key.partition for key in each.keys] for each in compositions) == [["a", "b"], ["c"]]


def test_the_second_opinion_of_a_unit_without_data_is_that_of_one_fewer() -> None:
    """Goal: dp-accounting is asked about the adjacency of the dataset. Method: epsilon of Poisson sampling under each:
    zero_out as add_or_remove_one, and replace_one more."""
    mechanism = mechanisms.parse({**POISSON, "steps": 4})
    found: dict[str, float] = {}
    for adjacency in get_args(Adjacency):
        pieces = opinion.pieces_of(mechanism, adjacency)
        assert pieces is not None
        found[adjacency] = opinion.their_epsilon(pieces, 1e-5, interval=1e-2, is_upper=True)
    assert found["zero_out"] == found["add_or_remove_one"] < found["replace_one"]


@ONE_DATABASE
def test_the_second_opinion_is_below_ours_and_above_a_faulty_one(ledger: Ledger) -> None:
    """Goal: dp-accounting's lower number never passes a right certificate, and passes one that claims far too little.

    Method: a right accountant and a faulty one, over the mechanisms that it has distributions for, both adjacencies of
    Poisson sampling and cyclic sampling included; others are counted as left out.
    """
    for name, adjacency, accountant in (
        ("right", "add_or_remove_one", faulty("1")),
        ("replaced", "replace_one", faulty("1")),
        ("wrong", "add_or_remove_one", faulty("1/10")),
    ):
        ledger.register(name=name, adjacency=adjacency, **{**CERTIFIED, "budget": {"epsilon": 12, "at_delta": 1e-5}})
        # A certificate is kept by what it is of, so that each accountant needs one of its own.
        asked = [
            {**POISSON, "steps": 50 + ord(name[0]) % 7},
            GAUSSIAN,
            LAPLACE,
            {"type": "pure_dp", "epsilon": 0.2, "count": 3},
            CYCLIC | {"steps": 80 + 4 * (ord(name[0]) % 7)},
        ]
        asked.append({"type": "composed", "parts": [GAUSSIAN, LAPLACE]})
        with counted_on(ledger, accountant):
            for mechanism in asked:
                ok(ledger.ask(mechanism, datasets=[name]))
            ok(ledger.ask({"type": "zcdp", "rho": 0.001}, datasets=[name]))
        found = recomputing.recompute(exported(ledger, name), with_exact=False)
        assert found.opinions is not None
        assert (len(found.opinions), found.opinions_left_out) == (len(asked), 1)
        for each in found.opinions:
            assert each.lower <= each.upper * (1 + 1e-6)
            assert each.holds == (name != "wrong"), each
            if name != "wrong" and each.mechanism.startswith('{"count":4'):
                assert each.ratio == pytest.approx(1, rel=1e-3), "Gaussian noise is what the ledger counts in"
        assert len(found.too_little) == (len(asked) if name == "wrong" else 0)


@ONE_DATABASE
def test_an_estimate_below_the_second_opinion_is_said_and_no_mistake(ledger: Ledger) -> None:
    """Goal: the central-limit bound may be too low, as it says itself; it is shown, and changes no exit status."""
    ledger.register()
    ok(ledger.ask({**POISSON, "noise_multiplier": 0.6, "steps": 20}))
    found = recomputing.recompute(exported(ledger), with_exact=False)
    assert found.opinions is not None
    (opinion_,) = found.opinions
    assert (opinion_.is_estimate, opinion_.holds) == (True, False)
    assert found.too_little == ()
    assert found.is_as_recorded


@ONE_DATABASE
def test_without_dp_accounting_it_says_so(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the second opinion is optional when it runs. Method: an import that fails."""
    ledger.register()
    ok(ledger.ask())
    lines = exported(ledger)
    monkeypatch.setitem(sys.modules, "dp_accounting.pld.privacy_loss_distribution", None)
    assert not opinion.is_installed()
    found = recomputing.recompute(lines)
    assert (found.opinions, found.is_opinion_missing, found.is_as_recorded) == (None, True, True)
    monkeypatch.undo()
    assert import_module("dp_accounting") is not None


@ONE_DATABASE
def test_each_distinct_mechanism_is_worked_out_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a million runs of ten kinds cost ten certificates. Method: count the computations."""
    ledger.register(**{**CERTIFIED, "budget": {"mu": 30, "delta": 1e-5}})
    for _ in range(4):
        settled(ledger, POISSON)
        ok(ledger.ask({**POISSON, "steps": 61}))
    lines = exported(ledger)
    real, made = costs.cost, list[Any]()

    def counting(mechanism: Any, terms: Terms) -> Cost:
        made.append(mechanism)
        return real(mechanism, terms)

    monkeypatch.setattr(costs, "cost", counting)
    assert quickly(lines).is_as_recorded
    assert len(made) == 2


def test_a_declaration_is_what_a_cost_depends_on() -> None:
    """Goal: no two runs that cost different share a cost. Method: change one thing after the other."""
    decision: dict[str, Any] = {
        "request": {"mechanism": POISSON | {"noise_multiplier": Decimal("1.3"), "sample_rate": Decimal("0.01")}},
        "bound": "certified",
        "adjacency": "add_or_remove_one",
        "delta": Decimal("1e-8"),
    }
    changes: list[dict[str, Any]] = [
        {},
        {"adjacency": "replace_one"},
        {"delta": Decimal("1e-7")},
        {"segments": {"count": 3}},
        {"bound": "clt"},
        {"request": {"mechanism": decision["request"]["mechanism"] | {"steps": 61}}},
    ]
    accountant = Accountant()
    found = [accountant.cost(Declaration.of({**decision, **change})) for change in changes]
    assert len({each.amount for each in found if not isinstance(each, str)}) == len(changes)


# --- the command -----------------------------------------------------------------------------------------------------


def filed(ledger: Ledger, folder: Path, name: str = "mnist") -> Path:
    """An export in a file."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(exported(ledger, name)), encoding="utf-8", newline="\n")
    return file


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Terminal:
    """A terminal with no server anywhere."""
    return Terminal(monkeypatch, capfd)


@ONE_DATABASE
def test_the_command_says_what_it_found(ledger: Ledger, tmp_path: Path, typed: Terminal) -> None:
    """Goal: exit status 0, 1 and 2; JSON with everything; a person reads the verdict, the numbers and what to do."""
    ledger.register(**CERTIFIED)
    settled(ledger, POISSON)
    ok(ledger.ask(LAPLACE))
    good = filed(ledger, tmp_path)
    said = typed(f"recompute {good}")
    assert said.status == 0, said.err
    for words in ("as recorded", "to the last digit", "no limit is exceeded", "decides nothing", "dp-accounting"):
        assert words in said.out
    ledger.register(name="bad", bound="certified", costing="standalone", budget={"mu": 1, "delta": 1e-6})
    with counted_on(ledger, faulty("1/2")):
        for _ in range(30):
            ok(ledger.ask(datasets=["bad"]))
    bad = filed(ledger, tmp_path, "bad")
    said = typed(f"recompute {good} {bad}")
    assert said.status == 1
    for words in ("not as recorded", "undercharged", "exceed their limit", "and 10 more"):
        assert words in said.out
    answer = typed(f"recompute --json {good} {bad}")
    assert answer.status == 1
    first, second = answer.json["exports"]
    assert (first["as_recorded"], second["as_recorded"]) == (True, False)
    assert second["accounts"][0]["over_by"]["mu_sq_pico"] == str(30 * 40_000_000_000 - 10**12)
    assert second["differences"][0]["recorded"]["mu_sq_pico"] == "20000000000"
    assert first["exact"][0]["spent"][0]["exact"] < first["exact"][0]["spent"][0]["gdp"]
    assert {each["holds"] for each in first["second_opinion"]} == {True}
    bad.write_text(bad.read_text().replace('"count":1', '"count":2').replace("20000000000", "30000000000"))
    said = typed(f"recompute {bad} --no-exact --no-opinion")
    assert (said.status, "entry 2" in said.err) == (2, True)
    assert typed(f"recompute {tmp_path / 'none.jsonl'}").status == 2


def test_amounts_are_compared_as_a_balance_can_say_them() -> None:
    """Goal: an overrun beyond 64 bits is recorded as far as a balance goes, and is no difference."""
    enormous = Amount(2**70, 0)
    assert compare(recorded=enormous.saturated, recomputed=enormous, tolerance=None) == "exact"
    assert amounts.mu_of(enormous.saturated) < amounts.mu_of(enormous)


@ONE_DATABASE
def test_what_an_earlier_accountant_charged_more_stays(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a newer accountant that charges less finds nothing wrong with what was charged before; one that charges
    more does. Method: runs at wrong costs under this accountant's name, read by a later one of the series."""
    ledger.register(**CERTIFIED)
    with counted_on(ledger, faulty("3/2")):
        settled(ledger, GAUSSIAN)
    lines = exported(ledger)
    assert not quickly(lines).is_as_recorded
    series, _, number = ACCOUNTANT.rpartition("-")
    monkeypatch.setattr("ledger.recompute.costing.ACCOUNTANT", f"{series}-{int(number) + 1}")
    found = quickly(lines)
    assert (found.is_as_recorded, found.differences) == (True, ())
    assert found.counts["dearer"] == 2  # its approval, and its settling
    with counted_on(ledger, faulty("9/10")):
        settled(ledger, GAUSSIAN)
    assert not quickly(exported(ledger)).is_as_recorded
