"""`ledger.accounting.plan`: what is named does fit, the next value does not, and nothing that would fit is left out."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import Any, get_args

import pytest

from ledger.accounting import mechanisms, plan
from ledger.accounting.mechanisms import AnyMechanism
from ledger.errors import InvalidMechanism
from ledger.model import Adjacency, Amount, Bound
from tests.accounting.samples import decimal, one_step

ADJACENCIES: tuple[Adjacency, ...] = get_args(Adjacency)
BOUNDS: tuple[Bound, ...] = get_args(Bound)
RESIZABLE = {
    "dpsgd": {"noise_multiplier", "steps", "epochs"},
    "gaussian": {"noise_multiplier", "count"},
    "laplace": {"noise_multiplier", "count"},
    "pure_dp": {"epsilon", "count"},
    "approximate_dp": {"epsilon", "count"},
    "gdp": {"mu"},
}
INTEGERS = {"steps", "count"}
LEAST, MOST = Decimal("1e-12"), Decimal("1e12")
EVALUATIONS_MAX = 42
"""For one field: log2 of 10^12 integers is 39.9, of 24 powers of ten with 900,000 decimals each 24.4; two for ends."""


def amount(declared: dict[str, Any], bound: Bound, adjacency: Adjacency) -> Amount | None:
    """What a declaration is charged; None where it has no cost."""
    try:
        return mechanisms.cost(mechanisms.parse(declared), bound=bound, adjacency=adjacency).amount
    except InvalidMechanism:
        return None


def does_fit(declared: dict[str, Any], bound: Bound, adjacency: Adjacency, remaining: Amount) -> bool:
    """Whether an approval would go through."""
    charged = amount(declared, bound, adjacency)
    return charged is not None and not charged.exceeds(remaining)


def following(value: Decimal) -> Decimal:
    """The next larger decimal of six digits."""
    return value + Decimal(1).scaleb(value.adjusted() - 5)


def preceding(value: Decimal) -> Decimal:
    """The next smaller decimal of six digits: below a power of ten they are ten times as dense."""
    place = Decimal(1).scaleb(value.adjusted() - 5)
    return value - (place / 10 if value == Decimal(1).scaleb(value.adjusted()) else place)


def random_declaration(rng: random.Random) -> dict[str, Any]:
    """A mechanism of any type that can be resized, mostly of moderate size, sometimes of any."""
    wide = rng.random() < 0.25

    def number(low: str, high: str) -> Decimal:
        return decimal(rng, "1e-12", "1e12") if wide else decimal(rng, low, high)

    count = rng.randint(1, 10 ** rng.randint(0, 12 if wide else 4))
    match rng.choice(["dpsgd", "dpsgd", "dpsgd", "gaussian", "laplace", "pure_dp", "approximate_dp", "gdp"]):
        case "dpsgd":
            sampling = rng.choice(["poisson", "fixed_size", "shuffle"])
            declared = {"type": "dpsgd", "sampling": sampling, "noise_multiplier": number("0.2", "20")}
            if rng.random() < 0.5:
                return {**declared, "sample_rate": decimal(rng, "1e-12" if wide else "1e-5", "1"), "steps": count}
            size = rng.randint(1, 10 ** rng.randint(1, 12 if wide else 7))
            sizes = {"dataset_size": size, "batch_size": rng.randint(1, size)}
            return {**declared, **sizes, "epochs": max(number("0.1", "100"), one_step(**sizes))}
        case "gaussian" | "laplace" as kind:
            return {"type": kind, "noise_multiplier": number("0.1", "100"), "count": count}
        case "pure_dp" as kind:
            return {"type": kind, "epsilon": number("0.001", "10"), "count": count}
        case "approximate_dp" as kind:
            delta = decimal(rng, rng.choice(["1e-300", "1e-18", "1e-9"]), "0.1")
            return {"type": kind, "epsilon": number("0.001", "10"), "count": count, "delta": delta}
        case kind:
            return {"type": kind, "mu": number("0.001", "10"), "delta": decimal(rng, "1e-18", "0.1"), "evidence": "x"}


def random_remainder(rng: random.Random, charged: Amount | None) -> Amount:
    """What is left of a budget: mostly a share of what the run costs, now and then nothing, next to it, or anything."""
    mu_sq = charged.mu_sq_pico if charged else 10**12
    atto = charged.delta_atto if charged else 0
    left = [0, 1, mu_sq - 1, rng.randrange(mu_sq), mu_sq // 10 ** rng.randint(1, 12), rng.randrange(10**15)]
    deltas = [0, atto, max(atto - 1, 0), rng.randint(0, atto), 10**17, 10**17, 10**17]
    return Amount(rng.choice(left), rng.choice(deltas))


def easiest(declared: dict[str, Any], field: str) -> int | Decimal:
    """The value that may be declared for a field and costs least."""
    match field:
        case "steps" | "count":
            return 1
        case "noise_multiplier":
            return MOST
        case "epochs":
            return Context(prec=6, rounding=ROUND_CEILING).create_decimal(
                one_step(declared["batch_size"], declared["dataset_size"])
            )
        case _:
            return LEAST


def check(declared: dict[str, Any], bound: Bound, adjacency: Adjacency, remaining: Amount) -> dict[str, Any]:
    """`fits` names for each field of the request the last value that fits; what it leaves out has none."""
    mechanism = mechanisms.parse(declared)
    found = plan.fits(mechanism, bound=bound, adjacency=adjacency, remaining=remaining)
    fields = RESIZABLE[declared["type"]] & declared.keys()
    assert found.keys() <= fields

    def fit(field: str, value: int | Decimal) -> bool:
        return does_fit({**declared, field: value}, bound, adjacency, remaining)

    for field in fields - found.keys():
        assert not fit(field, easiest(declared, field)), (field, declared)
    for field, value in found.items():
        assert fit(field, value), (field, value, declared)
        if isinstance(value, int):
            assert field in INTEGERS
            assert 1 <= value < declared[field]
            assert not fit(field, value + 1), (field, value, declared)
            continue
        assert field not in INTEGERS
        assert LEAST <= value <= MOST
        assert len(value.normalize().as_tuple().digits) <= 6
        if field == "noise_multiplier":
            assert value > declared[field]
            nearer = preceding(value)
            assert nearer < LEAST or not fit(field, nearer), (field, value, declared)
        else:
            assert value < declared[field]
            assert value >= easiest(declared, field)
            nearer = following(value)
            assert nearer > MOST or not fit(field, nearer), (field, value, declared)
    return found


def test_what_is_named_fits_and_the_next_value_does_not(tries: Callable[[int, int], int]) -> None:
    """Goal: for every refusal, each value named would be approved, the next integer or six-digit decimal would not, and
    a field is left out only where its easiest value would not do either. Method: random mechanisms of every type and
    remainders, decided again by their costs."""
    rng = random.Random(40)
    named: dict[str, int] = {}
    left_out = 0
    for _ in range(tries(700, 20_000)):
        declared = random_declaration(rng)
        bound, adjacency = rng.choice(BOUNDS), rng.choice(ADJACENCIES)
        if declared.get("sampling") in ("poisson", "fixed_size"):
            bound = "clt"
        charged = amount(declared, bound, adjacency)
        remaining = random_remainder(rng, charged)
        if charged is not None and not charged.exceeds(remaining):
            continue
        found = check(declared, bound, adjacency, remaining)
        left_out += not found
        for field in found:
            named[field] = named.get(field, 0) + 1
    assert set(named) == {"noise_multiplier", "steps", "epochs", "count", "epsilon", "mu"}
    assert min(named.values()) >= 10
    assert left_out >= 10


def test_nothing_smaller_is_overlooked(tries: Callable[[int, int], int]) -> None:
    """Goal: the value named is the best of all, not of those a bisection met. Method: small counts and steps, tried one
    by one; all six-digit decimals in a stretch around the value named."""
    rng = random.Random(41)
    for _ in range(tries(40, 1_000)):
        declared = random_declaration(rng)
        for field in INTEGERS & declared.keys():
            declared[field] = rng.randint(2, 60)
        charged = amount(declared, "clt", "replace_one")
        if charged is None or charged.mu_sq_pico < 100:
            continue
        remaining = Amount(rng.randrange(charged.mu_sq_pico), charged.delta_atto)
        found = check(declared, "clt", "replace_one", remaining)
        for field, value in found.items():
            if isinstance(value, int):
                values = range(1, declared[field] + 1)
                fitting = [n for n in values if does_fit({**declared, field: n}, "clt", "replace_one", remaining)]
                assert fitting == list(range(1, value + 1))
                continue
            step = following if field == "noise_multiplier" else preceding
            back = preceding if field == "noise_multiplier" else following
            least = LEAST if field == "noise_multiplier" else easiest(declared, field)
            inside = outside = value
            for _ in range(20):
                assert not least <= inside <= MOST or does_fit(
                    {**declared, field: inside}, "clt", "replace_one", remaining
                )
                inside, outside = step(inside), back(outside)
                assert not LEAST <= outside <= MOST or not does_fit(
                    {**declared, field: outside}, "clt", "replace_one", remaining
                )


def test_examples_worked_out_by_hand() -> None:
    """Goal: the numbers that a user is told. Method: mechanisms whose cost is a simple fraction."""
    gaussian = {"type": "gaussian", "noise_multiplier": 5, "count": 30}
    assert check(gaussian, "certified", "add_or_remove_one", Amount(10**12, 0)) == {
        "noise_multiplier": Decimal("5.47723"),  # sqrt(30) = 5.477225…
        "count": 25,
    }
    stated = {"type": "gdp", "mu": 2, "evidence": "x"}
    # sqrt(2) = 1.414213…
    assert check(stated, "certified", "add_or_remove_one", Amount(2 * 10**12, 0)) == {"mu": Decimal("1.41421")}
    shuffled = {"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": 1}
    by_rate = {**shuffled, "sample_rate": Decimal("0.25"), "steps": 100}
    assert check(by_rate, "certified", "add_or_remove_one", Amount(4 * 10**12, 0)) == {
        "noise_multiplier": Decimal("2.5"),
        "steps": 16,
    }
    assert check(by_rate, "certified", "replace_one", Amount(4 * 10**12, 0)) == {
        "noise_multiplier": Decimal(5),
        "steps": 4,
    }
    # An epoch has three whole steps; 9 of them are 2.304 epochs.
    by_epochs = {**shuffled, "dataset_size": 1000, "batch_size": 256, "epochs": 10}
    assert check(by_epochs, "certified", "add_or_remove_one", Amount(3 * 10**12, 0)) == {
        "noise_multiplier": Decimal("2.16025"),  # 40 steps touch 14 epochs; sqrt(14/3) = 2.160246…
        "epochs": Decimal("2.304"),
    }
    # One step is 0.333333… epochs, and the least of six digits that may be declared.
    thirds = {**shuffled, "dataset_size": 3, "batch_size": 1, "epochs": 2}
    assert check(thirds, "certified", "add_or_remove_one", Amount(10**12, 0))["epochs"] == 1
    estimate = {**thirds, "sampling": "poisson"}
    one = amount({**estimate, "epochs": Decimal("0.333334")}, "clt", "add_or_remove_one")
    assert one is not None
    assert check(estimate, "clt", "add_or_remove_one", one)["epochs"] == Decimal("0.333334")
    assert "epochs" not in check(estimate, "clt", "add_or_remove_one", one - Amount(1, 0))


@pytest.mark.parametrize(
    ("remaining", "named"),
    [
        (Amount(10**15, 10**14), {"count"}),  # delta alone binds: neither epsilon nor noise can mend that
        (Amount(10**9, 10**18), {"count", "epsilon"}),  # mu alone binds
        (Amount(10**9, 10**14), {"count"}),  # both do, and only fewer releases mend both
        (Amount(10**15, 10**13), set()),  # not even one release fits
        (Amount(0, 10**18), set()),
        (Amount(0, 0), set()),
        (Amount(-1, -1), set()),  # overdrawn
    ],
)
def test_a_parameter_that_cannot_help_is_left_out(remaining: Amount, named: set[str]) -> None:
    """Goal: nothing is named that would be refused again. Method: (epsilon, delta)-DP releases against remainders in
    which mu, delta or both bind."""
    declared = {"type": "approximate_dp", "epsilon": Decimal("0.01"), "delta": Decimal("1e-5"), "count": 100}
    assert check(declared, "certified", "add_or_remove_one", remaining).keys() == named
    stated = {"type": "gdp", "mu": 1, "delta": Decimal("1e-3"), "evidence": "x"}
    assert check(stated, "certified", "add_or_remove_one", Amount(10, 10**14)) == {}


def test_a_composition_has_no_single_parameter() -> None:
    """Goal: nothing is named for a composition. Method: one whose parts could each be resized."""
    part = {"type": "gaussian", "noise_multiplier": 1, "count": 2}
    mechanism = mechanisms.parse({"type": "composed", "parts": [part, part]})
    assert plan.fits(mechanism, bound="clt", adjacency="replace_one", remaining=Amount(10**12, 0)) == {}


def test_numbers_of_many_digits_are_never_exceeded() -> None:
    """Goal: nothing larger than what was asked is named, though 28 digits would round that up. Method: an epsilon with
    forty nines, in a unit less than it costs, and in exactly that."""
    asked = {"type": "pure_dp", "epsilon": Decimal("1.23456" + "9" * 40)}
    charged = amount(asked, "certified", "add_or_remove_one")
    assert charged is not None
    assert check(asked, "certified", "add_or_remove_one", charged - Amount(1, 0)) == {"epsilon": Decimal("1.23456")}
    mechanism = mechanisms.parse(asked)
    kept = plan.fits(mechanism, bound="certified", adjacency="add_or_remove_one", remaining=charged)
    assert kept["epsilon"] == Decimal("1.23456")


def test_the_number_of_costs_is_bounded(monkeypatch: pytest.MonkeyPatch, tries: Callable[[int, int], int]) -> None:
    """Goal: an answer to a refusal takes at most 42 costs for each field. Method: count the calls that reach the real
    accountant, for random mechanisms and the widest ranges."""
    rng = random.Random(42)
    calls = 0

    def counted(mechanism: AnyMechanism, *, bound: Bound, adjacency: Adjacency) -> mechanisms.Cost:
        nonlocal calls
        calls += 1
        return mechanisms.cost(mechanism, bound=bound, adjacency=adjacency)

    monkeypatch.setattr(plan, "cost", counted)
    widest = [
        {"type": "gaussian", "noise_multiplier": LEAST, "count": 10**12},
        {"type": "pure_dp", "epsilon": MOST, "count": 10**12},
        {"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": LEAST, "sample_rate": 1, "steps": 10**12},
    ]
    worst = 0
    for declared in widest + [random_declaration(rng) for _ in range(tries(100, 2_000))]:
        calls = 0
        mechanism = mechanisms.parse(declared)
        plan.fits(mechanism, bound="clt", adjacency="replace_one", remaining=Amount(rng.randrange(10**12), 10**17))
        fields = len(RESIZABLE[declared["type"]] & declared.keys())
        assert calls <= fields * EVALUATIONS_MAX
        worst = max(worst, calls)
    assert worst > EVALUATIONS_MAX  # else nothing was counted


def test_costs_are_monotone_where_the_bisection_relies_on_it(tries: Callable[[int, int], int]) -> None:
    """Goal: from one value that may be named to the next, the cost never moves the wrong way: a step is at least 5e-13
    of mu, rounding a few 1e-15. Method: neighbouring six-digit decimals and integers, where a step is least, and random
    pairs further apart; mu² as the fraction before it is rounded."""
    rng = random.Random(43)
    checked = 0
    for _ in range(tries(1_500, 50_000)):
        declared = random_declaration(rng)
        adjacency = rng.choice(ADJACENCIES)
        field = rng.choice(sorted(RESIZABLE[declared["type"]] & declared.keys()))
        pair: list[Any]
        if field in INTEGERS:
            first = rng.choice([rng.randint(1, 1_000), rng.randint(1, 10**12 - 1), 10**12 - 1])
            pair = [first, rng.choice([first + 1, rng.randint(first + 1, 10**12)])]
        else:
            first_decimal = Decimal(f"{decimal(rng, '1e-11', '1e11'):.5e}")
            pair = [first_decimal, rng.choice([following(first_decimal), first_decimal * 10])]
        if field == "noise_multiplier":
            pair.reverse()
        costs: list[Fraction] = []
        for value in pair:
            try:
                found = mechanisms.cost(mechanisms.parse({**declared, field: value}), bound="clt", adjacency=adjacency)
            except InvalidMechanism:
                continue
            costs.append(found.mu_sq)
        if len(costs) == 2:
            checked += 1
            assert costs[0] <= costs[1], (field, pair, declared)
            if declared.get("sampling") != "shuffle":
                assert costs[0] < costs[1], (field, pair, declared)
    assert checked > 1_000


ONE_STEP: dict[str, Any] = {"type": "dpsgd", "sample_rate": 1, "steps": 1}


@pytest.mark.parametrize(
    ("declared", "field", "seam"),
    [
        # s^-2 = 64, and for fixed size 1.125 s^-2 = 1; under replace_one that is at s/2
        *(({**ONE_STEP, "sampling": "poisson"}, "noise_multiplier", seam) for seam in ("0.125", "0.25")),
        *(
            ({**ONE_STEP, "sampling": "fixed_size"}, "noise_multiplier", seam)
            for seam in ("0.125", "0.25", "1.06066", "2.12132")
        ),
        # where the total variation is 1/2: theta = 2 log 2, epsilon = 2 artanh(1/2)
        ({"type": "laplace"}, "noise_multiplier", "0.721348"),
        ({"type": "pure_dp"}, "epsilon", "1.09861"),
    ],
    ids=str,
)
def test_costs_are_monotone_across_the_seams_of_their_formulas(
    declared: dict[str, Any], field: str, seam: str, tries: Callable[[int, int], int]
) -> None:
    """Goal: where a formula is evaluated in another form, neighbours of six digits stay in order. Method: a run of them
    across each seam, under both adjacencies."""
    length = tries(40, 2_000)
    for adjacency in ADJACENCIES:
        value = Decimal(seam)
        for _ in range(length // 2):
            value = preceding(value)
        costs: list[Fraction] = []
        for _ in range(length):
            mechanism = mechanisms.parse({**declared, field: value})
            costs.append(mechanisms.cost(mechanism, bound="clt", adjacency=adjacency).mu_sq)
            value = following(value)
        assert len(set(costs)) == length
        assert costs == sorted(costs, reverse=field == "noise_multiplier")


def test_decimals_of_six_digits_are_numbered_in_order() -> None:
    """Goal: numbers and six-digit decimals are one to one and in order, so that a bisection over the one is over the
    other. Method: across powers of ten, at both ends, and there and back at random."""
    rng = random.Random(44)
    for number in [*range(-3, 4), 899_999, 900_000, -900_000, -900_001, 12 * 900_000, -12 * 900_000]:
        value = plan._decimal(number)
        assert plan._number(value) == number
        assert plan._decimal(number + 1) == following(value)
        assert plan._decimal(number - 1) == preceding(value)
    assert [plan._decimal(n) for n in (0, 1, -1)] == [Decimal(1), Decimal("1.00001"), Decimal("0.999999")]
    assert [plan._decimal(n * 900_000) for n in (12, -12)] == [MOST, LEAST]
    for _ in range(1_000):
        value = decimal(rng, "1e-12", "1e12")
        below = plan._decimal(plan._number(value))
        assert below <= value < following(below)
    assert math.isclose(plan._decimal(plan._number(Decimal("3.14159265"))), 3.14159)
