"""`ledger.accounting.plan`: what is named does fit, the next value does not, and nothing that would fit is left out."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import replace
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction
from typing import Any, get_args

import pytest

from ledger.accounting import axes, costs, mechanisms, plan
from ledger.accounting.cost import Cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency, Bound
from ledger.errors import InvalidMechanism, InvalidRequest, TooLarge
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
EVALUATIONS_MAX = 40 + plan.SLACK + 1
"""For one field: log2 of 10^12 integers is 39.9, of 24 powers of ten with 900,000 decimals each 24.4; one for what was
asked."""
EVALUATIONS_TYPICAL = 12
SOLVABLE = {**RESIZABLE, "dpsgd": RESIZABLE["dpsgd"] | {"sample_rate"}}


def amount(declared: dict[str, Any], bound: Bound, adjacency: Adjacency) -> Amount | None:
    """What a declaration is charged; None where it has no cost."""
    try:
        return costs.cost(mechanisms.parse(declared), Terms(bound=bound, adjacency=adjacency)).amount
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


def hardest(field: str) -> int | Decimal:
    """The value that may be declared for a field and costs most."""
    match field:
        case "steps" | "count":
            return 10**12
        case "noise_multiplier":
            return LEAST
        case "sample_rate":
            return Decimal(1)
        case _:
            return MOST


def dearer(field: str, value: int | Decimal) -> int | Decimal:
    """The next value of a field that may be named, on the side that costs more."""
    if isinstance(value, int):
        return value + 1
    return preceding(value) if field == "noise_multiplier" else following(value)


class Counted:
    """Stands before the real accountant, or another, and counts the costs that are worked out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, real: Callable[..., Cost] = costs.cost) -> None:
        self.calls = 0
        self._real = real
        monkeypatch.setattr(plan, "cost", self)

    def __call__(self, mechanism: AnyMechanism, terms: Terms) -> Cost:
        self.calls += 1
        return self._real(mechanism, terms)


def check(declared: dict[str, Any], bound: Bound, adjacency: Adjacency, remaining: Amount) -> dict[str, Any]:
    """`fits` names for each field of the request the last value that fits; what it leaves out has none."""
    mechanism = mechanisms.parse(declared)
    found = plan.fits(mechanism, Terms(bound=bound, adjacency=adjacency), remaining=remaining)
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
    # Three epochs are charged as three, whether they have three steps each or four.
    by_epochs = {**shuffled, "dataset_size": 1000, "batch_size": 256, "epochs": 10}
    assert check(by_epochs, "certified", "add_or_remove_one", Amount(3 * 10**12, 0)) == {
        "noise_multiplier": Decimal("1.82575"),  # sqrt(10/3) = 1.825741…
        "epochs": Decimal(3),
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


@pytest.mark.parametrize("bound", ["certified", "clt"])
def test_what_is_named_has_as_many_segments(bound: Bound) -> None:
    """Goal: with segments, what is named fits by the cost of so many, and the next value does not; nothing with fewer
    steps than segments is named. Method: the cost at the value and at the next, under half of what was asked, and under
    what is just enough for a step a segment."""
    trained = {"type": "dpsgd", "noise_multiplier": 2, "sampling": "poisson", "sample_rate": Decimal("0.02")}
    by_epochs = {"type": "dpsgd", "noise_multiplier": 2, "sampling": "shuffle", "dataset_size": 100, "batch_size": 30}
    cases: list[dict[str, Any]] = [
        {"type": "gaussian", "noise_multiplier": 5, "count": 30},
        {**trained, "steps": 200},
        {**by_epochs, "epochs": 20},
        {**by_epochs, "sampling": "poisson", "epochs": 20},
    ]
    under: dict[str, Any] = {"bound": bound, "adjacency": "add_or_remove_one", "delta": Fraction(1, 10**7)}
    for declared in cases:
        for segments in (2, 7):
            under["segments"] = segments
            mechanism = mechanisms.parse(declared)

            def charged(field: str, value: int | Decimal, declared: dict[str, Any] = declared) -> Amount:
                return costs.cost(mechanisms.parse({**declared, field: value}), Terms(**under)).amount

            whole = costs.cost(mechanism, Terms(**under)).amount
            remaining = Amount(whole.mu_sq_pico // 2, whole.delta_atto)
            found = plan.nearest(mechanism, Terms(**under), remaining=remaining)
            assert set(found) == {
                field for field in declared if field in ("noise_multiplier", "count", "steps", "epochs")
            }
            for field, solution in found.items():
                assert charged(field, solution.value) == solution.amount
                assert not solution.amount.exceeds(remaining)
                following_value = dearer(field, solution.value)
                assert charged(field, following_value).exceeds(remaining)
            size = "count" if "count" in declared else "steps" if "steps" in declared else "epochs"
            least = segments if size != "epochs" else Decimal(segments * 3) / 10
            enough = charged(size, least)
            assert plan.fits(mechanism, Terms(**under), remaining=enough)[size] >= least
            short = Amount(enough.mu_sq_pico - 1, enough.delta_atto)
            assert size not in plan.fits(mechanism, Terms(**under), remaining=short)


def test_a_composition_has_no_single_parameter() -> None:
    """Goal: nothing is named for a composition. Method: one whose parts could each be resized."""
    part = {"type": "gaussian", "noise_multiplier": 1, "count": 2}
    mechanism = mechanisms.parse({"type": "composed", "parts": [part, part]})
    assert plan.fits(mechanism, Terms(bound="clt", adjacency="replace_one"), remaining=Amount(10**12, 0)) == {}


def test_numbers_of_many_digits_are_never_exceeded() -> None:
    """Goal: nothing larger than what was asked is named, though 28 digits would round that up. Method: an epsilon with
    forty nines, in a unit less than it costs, and in exactly that."""
    asked = {"type": "pure_dp", "epsilon": Decimal("1.23456" + "9" * 40)}
    charged = amount(asked, "certified", "add_or_remove_one")
    assert charged is not None
    assert check(asked, "certified", "add_or_remove_one", charged - Amount(1, 0)) == {"epsilon": Decimal("1.23456")}
    mechanism = mechanisms.parse(asked)
    kept = plan.fits(mechanism, Terms(bound="certified", adjacency="add_or_remove_one"), remaining=charged)
    assert kept["epsilon"] == Decimal("1.23456")


def test_the_number_of_costs_is_bounded(monkeypatch: pytest.MonkeyPatch, tries: Callable[[int, int], int]) -> None:
    """Goal: a search takes at most twelve costs more than a bisection of its range, whatever costs look like, and
    seldom more than twelve where they are smooth. Method: count the calls that reach the real accountant, for random
    mechanisms and the widest ranges."""
    rng = random.Random(42)
    counted = Counted(monkeypatch)
    widest = [
        {"type": "gaussian", "noise_multiplier": LEAST, "count": 10**12},
        {"type": "pure_dp", "epsilon": MOST, "count": 10**12},
        {"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": LEAST, "sample_rate": 1, "steps": 10**12},
    ]
    smooth: list[int] = []
    for declared in widest + [random_declaration(rng) for _ in range(tries(300, 3_000))]:
        mechanism = mechanisms.parse(declared)
        remaining = Amount(rng.randrange(10 ** rng.randint(1, 13)), 10**17)
        for field in sorted(SOLVABLE[declared["type"]] & declared.keys()):
            counted.calls = 0
            plan.solve(mechanism, Terms(bound="clt", adjacency="replace_one"), solve_for=field, remaining=remaining)
            assert counted.calls <= EVALUATIONS_MAX
            if declared.get("sampling") != "shuffle" or field == "noise_multiplier":
                smooth.append(counted.calls)
        counted.calls = 0
        plan.fits(mechanism, Terms(bound="clt", adjacency="replace_one"), remaining=remaining)
        assert counted.calls <= len(RESIZABLE[declared["type"]] & declared.keys()) * EVALUATIONS_MAX
    assert len(smooth) > 300
    assert sum(calls > EVALUATIONS_TYPICAL for calls in smooth) <= len(smooth) / 100
    assert sum(smooth) / len(smooth) < EVALUATIONS_TYPICAL / 2
    assert max(smooth) > 2  # else nothing was counted


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
        charged: list[Fraction] = []
        for value in pair:
            try:
                found = costs.cost(
                    mechanisms.parse({**declared, field: value}), Terms(bound="clt", adjacency=adjacency)
                )
            except InvalidMechanism:
                continue
            charged.append(found.mu_sq)
        if len(charged) == 2:
            checked += 1
            assert charged[0] <= charged[1], (field, pair, declared)
            if declared.get("sampling") != "shuffle":
                assert charged[0] < charged[1], (field, pair, declared)
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
        charged: list[Fraction] = []
        for _ in range(length):
            mechanism = mechanisms.parse({**declared, field: value})
            charged.append(costs.cost(mechanism, Terms(bound="clt", adjacency=adjacency)).mu_sq)
            value = following(value)
        assert len(set(charged)) == length
        assert charged == sorted(charged, reverse=field == "noise_multiplier")


def test_decimals_of_six_digits_are_numbered_in_order() -> None:
    """Goal: numbers and six-digit decimals are one to one and in order, so that a bisection over the one is over the
    other. Method: across powers of ten, at both ends, and there and back at random."""
    rng = random.Random(44)
    for number in [*range(-3, 4), 899_999, 900_000, -900_000, -900_001, 12 * 900_000, -12 * 900_000]:
        value = axes._decimal(number)
        assert axes._number(value) == number
        assert axes._decimal(number + 1) == following(value)
        assert axes._decimal(number - 1) == preceding(value)
    assert [axes._decimal(n) for n in (0, 1, -1)] == [Decimal(1), Decimal("1.00001"), Decimal("0.999999")]
    assert [axes._decimal(n * 900_000) for n in (12, -12)] == [MOST, LEAST]
    for _ in range(1_000):
        value = decimal(rng, "1e-12", "1e12")
        below = axes._decimal(axes._number(value))
        assert below <= value < following(below)
    assert math.isclose(axes._decimal(axes._number(Decimal("3.14159265"))), 3.14159)


# --- solving ---------------------------------------------------------------------------------------------------------


def test_what_is_solved_for_fits_and_the_next_value_does_not(tries: Callable[[int, int], int]) -> None:
    """Goal: the solution is the last value of all that may be declared, above what was asked or below it, its cost is
    what would be charged, and there is none only where the easiest value does not fit. Method: random mechanisms of
    every type and remainders, decided again by their costs."""
    rng = random.Random(45)
    seen: dict[str, set[str]] = {}
    for _ in range(tries(700, 20_000)):
        declared = random_declaration(rng)
        adjacency = rng.choice(ADJACENCIES)
        bound: Bound = "clt" if declared.get("sampling") in ("poisson", "fixed_size") else rng.choice(BOUNDS)
        remaining = random_remainder(rng, amount(declared, bound, adjacency))
        field = rng.choice(sorted(SOLVABLE[declared["type"]] & declared.keys()))
        terms = Terms(bound=bound, adjacency=adjacency)
        found = plan.solve(mechanisms.parse(declared), terms, solve_for=field, remaining=remaining)
        if found is None:
            assert not does_fit({**declared, field: easiest(declared, field)}, bound, adjacency, remaining), declared
            seen.setdefault(field, set()).add("none")
            continue
        changed = {**declared, field: found.value}
        assert (found.solve_for, found.amount) == (field, amount(changed, bound, adjacency))
        assert does_fit(changed, bound, adjacency, remaining), (field, found, declared)
        if found.value != hardest(field):
            assert not does_fit({**changed, field: dearer(field, found.value)}, bound, adjacency, remaining), changed
        if not does_fit(declared, bound, adjacency, remaining):
            named = plan.fits(mechanisms.parse(declared), terms, remaining=remaining)
            assert field == "sample_rate" or named[field] == found.value
        is_more = found.amount.mu_sq_pico > (amount(declared, bound, adjacency) or found.amount).mu_sq_pico
        seen.setdefault(field, set()).add("more" if is_more else "less")
    fields = ("noise_multiplier", "steps", "epochs", "sample_rate", "count", "epsilon", "mu")
    assert seen == {field: {"none", "more", "less"} for field in fields}


def test_runs_in_a_row_are_counted_exactly(tries: Callable[[int, int], int]) -> None:
    """Goal: that many runs fit, one more does not, and there are none where not even one does. Method: random costs and
    remainders against repeated addition of exact amounts, compositions too."""
    rng = random.Random(46)
    counts = []
    for _ in range(tries(300, 10_000)):
        declared = random_declaration(rng)
        if rng.random() < 0.2:
            declared = {"type": "composed", "parts": [declared, {"type": "gaussian", "noise_multiplier": 3}]}
        charged = amount(declared, "clt", "add_or_remove_one")
        if charged is None:
            continue
        left = charged.mu_sq_pico * rng.randint(0, 20) + rng.randrange(charged.mu_sq_pico)
        deltas = rng.choice([10**18, charged.delta_atto * 7, -1])
        remaining = Amount(left, deltas)
        found = plan.solve(
            mechanisms.parse(declared),
            Terms(bound="clt", adjacency="add_or_remove_one"),
            solve_for="runs",
            remaining=remaining,
        )
        count = 0 if found is None else int(found.value)
        together = Amount(charged.mu_sq_pico * count, charged.delta_atto * count)
        assert count == 0 or not together.exceeds(remaining)
        assert (together + charged).exceeds(remaining)
        assert found is None or (found.solve_for, found.amount) == ("runs", together)
        counts.append(count)
    assert {0, 1, 2, 7} <= set(counts)
    tiny = mechanisms.parse({"type": "gaussian", "noise_multiplier": MOST})
    found = plan.solve(
        tiny, Terms(bound="clt", adjacency="replace_one"), solve_for="runs", remaining=Amount(2**62, 2**62)
    )
    assert found == plan.Solution("runs", 10**12, Amount(10**12, 0))


def test_solutions_worked_out_by_hand() -> None:
    """Goal: the numbers that a user is told, at the ends of what may be declared too. Method: mechanisms whose cost is
    a simple fraction, asked for too much and for too little."""

    def solved(declared: dict[str, Any], solve_for: str, remaining: Amount) -> Any:
        mechanism = mechanisms.parse(declared)
        found = plan.solve(
            mechanism, Terms(bound="certified", adjacency="add_or_remove_one"), solve_for=solve_for, remaining=remaining
        )
        return None if found is None else (found.solve_for, found.value, found.amount.mu_sq_pico)

    for count in (1, 25, 26, 30, 10**12):
        gaussian = {"type": "gaussian", "noise_multiplier": 5, "count": count}
        assert solved(gaussian, "count", Amount(10**12, 0)) == ("count", 25, 10**12)
    once = {"type": "gaussian", "noise_multiplier": 5}
    assert solved(once, "noise_multiplier", Amount(10**12, 0)) == ("noise_multiplier", 1, 10**12)
    assert solved(once, "noise_multiplier", Amount(10**36, 0)) == ("noise_multiplier", LEAST, 10**36)
    assert solved(once, "count", Amount(10**36, 0)) == ("count", 10**12, 4 * 10**22)
    assert solved(once, "count", Amount(39_999_999_999, 0)) is None
    shuffled = {
        "type": "dpsgd",
        "sampling": "shuffle",
        "noise_multiplier": 1,
        "sample_rate": Decimal("0.1"),
        "steps": 40,
    }
    # Two epochs may be touched: of 40 steps, each must have 20, so the rate is 1/20 at most.
    assert solved(shuffled, "sample_rate", Amount(2 * 10**12, 0)) == ("sample_rate", Decimal("0.05"), 2 * 10**12)
    assert solved(shuffled, "steps", Amount(2 * 10**12, 0)) == ("steps", 20, 2 * 10**12)
    by_epochs = {"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": 1}
    by_epochs |= {"dataset_size": 1000, "batch_size": 100, "epochs": 1}
    assert solved(by_epochs, "steps", Amount(2 * 10**12, 0)) == ("epochs", 2, 2 * 10**12)
    assert solved(by_epochs, "epochs", Amount(2 * 10**12, 0)) == ("epochs", 2, 2 * 10**12)


def test_only_what_was_declared_can_be_solved_for() -> None:
    """Goal: whoever solves for what the mechanism does not have is told so. Method: every type, every wrong name."""
    for declared, wrong in [
        ({"type": "gaussian", "noise_multiplier": 5}, ("steps", "epochs", "sample_rate", "epsilon", "mu", "type")),
        ({"type": "gdp", "mu": 1, "evidence": "x"}, ("noise_multiplier", "delta", "evidence", "count")),
        ({"type": "dpsgd", "sampling": "shuffle", "noise_multiplier": 1, "sample_rate": 1, "steps": 1}, ("epochs",)),
        ({"type": "composed", "parts": [{"type": "gaussian", "noise_multiplier": 5}]}, ("count", "parts")),
    ]:
        for name in wrong:
            with pytest.raises(InvalidRequest, match=name) as caught:
                plan.parameter(mechanisms.parse(declared), name)
            assert caught.value.field == "solve_for"
        assert plan.parameter(mechanisms.parse(declared), "runs") == "runs"


# --- costs that are dear, noisy, or not to be had --------------------------------------------------------------------


def noisy(relative: float, *, steps_max: int = 10**12) -> Callable[..., Cost]:
    """The published estimate, moved up and down by as much as `relative` from one value to the next, as a certificate
    is by its grid; and none beyond `steps_max` steps."""

    def cost(mechanism: AnyMechanism, terms: Terms) -> Cost:
        assert isinstance(mechanism, mechanisms.DpSgd)
        if mechanism.exact_steps > steps_max:
            raise TooLarge
        found = costs.cost(mechanism, Terms(bound="clt", adjacency=terms.adjacency))
        chance = random.Random(repr([mechanism.exact_steps, mechanism.rate, mechanism.noise_multiplier.normalize()]))
        return replace(found, mu_sq=found.mu_sq * (1 + Fraction(chance.uniform(-relative, relative))))

    return cost


@pytest.mark.parametrize("relative", [0, 1e-9, 1e-6, 1e-5, 1e-3])
def test_noise_in_costs_is_borne(relative: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: where costs are monotone only up to noise, the value named fits, the next does not, by the very costs that
    are charged, and it does not take many more of them. Method: the published estimate with noise on it."""
    rng = random.Random(47)
    charged, terms = noisy(relative), Terms(bound="clt", adjacency="replace_one")
    counted = Counted(monkeypatch, charged)
    calls: list[int] = []
    for _ in range(150):
        declared = {"type": "dpsgd", "sampling": "poisson", "noise_multiplier": decimal(rng, "0.3", "20")}
        declared |= {"sample_rate": decimal(rng, "1e-4", "1"), "steps": rng.randint(1, 10 ** rng.randint(0, 7))}
        remaining = Amount(rng.randrange(1, 10 ** rng.randint(9, 14)), 0)
        field = rng.choice(["noise_multiplier", "steps", "sample_rate"])
        counted.calls = 0
        found = plan.solve(
            mechanisms.parse(declared),
            terms,
            solve_for=field,
            remaining=remaining,
        )
        calls.append(counted.calls)
        for value, wanted in () if found is None else ((found.value, True), (dearer(field, found.value), False)):
            if value != dearer(field, hardest(field)):
                resized = mechanisms.parse({**declared, field: value})
                assert (not charged(resized, terms).amount.exceeds(remaining)) is wanted
    assert max(calls) <= EVALUATIONS_MAX
    # Steps are 1e-5 apart at most, for values of six digits. Noise far above that can send a search to bisection.
    assert relative > 1e-5 or sorted(calls)[len(calls) * 9 // 10] <= EVALUATIONS_TYPICAL


def test_certificates_are_inverted(monkeypatch: pytest.MonkeyPatch, tries: Callable[[int, int], int]) -> None:
    """Goal: the same of the certificates themselves, where the delta of a run is charged, cannot be, or is not since
    the fallback is less. Method: random Poisson DP-SGD of moderate size, decided again by the costs at both values, and
    how many certificates that took."""
    rng = random.Random(49)
    counted = Counted(monkeypatch)
    calls: list[int] = []
    for _ in range(tries(12, 1_000)):
        declared = {"type": "dpsgd", "sampling": "poisson", "noise_multiplier": decimal(rng, "0.6", "8")}
        declared |= {"sample_rate": decimal(rng, "0.002", "0.2"), "steps": rng.randint(1, 10 ** rng.randint(1, 4))}
        mechanism = mechanisms.parse(declared)
        field = rng.choice(["noise_multiplier", "steps", "sample_rate"])
        remaining = Amount(int(10 ** rng.uniform(10.5, 12)), rng.choice([10**13, 10**13, 10**13, 0]))
        under: dict[str, Any] = {"bound": "certified", "adjacency": rng.choice(ADJACENCIES), "delta": Decimal("1e-8")}
        counted.calls = 0
        found = plan.solve(mechanism, Terms(**under), solve_for=field, remaining=remaining)
        if remaining.delta_atto:
            calls.append(counted.calls)
        assert counted.calls <= EVALUATIONS_MAX

        def fit(value: int | Decimal, declared: dict[str, Any] = declared, field: str = field, **more: Any) -> bool:
            charged = costs.cost(mechanisms.parse({**declared, field: value}), Terms(**more)).amount
            return not charged.exceeds(remaining)  # noqa: B023 (called before the next trial)

        if found is None:
            assert not fit(easiest(declared, field), **under)
            continue
        assert fit(found.value, **under)
        assert found.value == hardest(field) or not fit(dearer(field, found.value), **under)
    assert sum(calls) / len(calls) <= EVALUATIONS_TYPICAL
    assert sorted(calls)[len(calls) * 9 // 10] <= EVALUATIONS_TYPICAL


def test_a_cost_that_cannot_be_had_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: where costs end, so does what is named, wherever the search begins. Method: an accountant that refuses more
    than 123,456 steps, asked for less and for far more."""
    counted = Counted(monkeypatch, noisy(0, steps_max=123_456))
    for steps in (1, 123_456, 123_457, 10**12):
        declared = {"type": "dpsgd", "sampling": "poisson", "noise_multiplier": 10, "sample_rate": Decimal("1e-6")}
        mechanism = mechanisms.parse({**declared, "steps": steps})
        counted.calls = 0
        found = plan.solve(
            mechanism, Terms(bound="clt", adjacency="replace_one"), solve_for="steps", remaining=Amount(10**12, 0)
        )
        assert found is not None
        assert found.value == 123_456
        assert counted.calls <= EVALUATIONS_MAX
        if steps > 123_456:
            named = plan.fits(mechanism, Terms(bound="clt", adjacency="replace_one"), remaining=Amount(10**12, 0))
            assert named == {"steps": 123_456}


def test_time_is_bounded() -> None:
    """Goal: whoever sets a limit gets what was found by then, or is told that it was not. Method: a limit that is
    reached after so many costs as it is asked for."""
    mechanism = mechanisms.parse({"type": "gaussian", "noise_multiplier": 5, "count": 30})
    terms, remaining = Terms(bound="clt", adjacency="replace_one"), Amount(10**12, 0)

    def after(costs: int) -> Callable[[], bool]:
        left = itertools.count(costs, -1)
        return lambda: next(left) <= 0

    whole = plan.fits(mechanism, terms, remaining=remaining)
    named = [plan.fits(mechanism, terms, remaining=remaining, is_late=after(costs)) for costs in range(12)]
    assert [set(found) for found in named] == sorted((set(found) for found in named), key=len)
    assert named[0] == {}
    assert {"noise_multiplier": whole["noise_multiplier"]} in named
    assert named[-1] == whole
    with pytest.raises(TooLarge) as caught:
        plan.solve(mechanism, terms, solve_for="count", remaining=remaining, is_late=after(2))
    assert caught.value.facts == {"field": "solve_for", "solve_for": "count"}
    found = plan.solve(mechanism, terms, solve_for="count", remaining=remaining, is_late=after(12))
    assert found is not None
    assert found.value == 25


def test_an_account_without_room_takes_few_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: where nothing can fit, that is found at once. Method: count, for accounts that are used up or overdrawn."""
    counted = Counted(monkeypatch)
    mechanism = mechanisms.parse({"type": "gaussian", "noise_multiplier": 5})
    for remaining, costs_max in ((Amount(-5, 10**18), 0), (Amount(10**12, -1), 0), (Amount(0, 10**18), 3)):
        counted.calls = 0
        assert plan.fits(mechanism, Terms(bound="clt", adjacency="replace_one"), remaining=remaining) == {}
        assert counted.calls <= costs_max
