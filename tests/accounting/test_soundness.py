"""No charge below what was executed: a sweep over random runs, each held against what it leaks at least.

The oracles share no code with `ledger.accounting`. `oracle_runs` executes a run step by step, with every restart, and
composes what was done; dp-accounting's optimistic curves confirm some of it. `LEDGER_PROVE=1` tries 5,000 runs.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import numpy as np

from ledger.accounting import costs, mechanisms, settling
from ledger.accounting.restarts import Restart
from ledger.accounting.settling import Stop
from ledger.accounting.terms import Terms
from ledger.core.datasets import Adjacency
from tests.accounting import oracle_runs
from tests.accounting.oracle_curves import FloatArray, Kind, Step, optimistic
from tests.accounting.oracle_runs import History, Part
from tests.kit.trials import trials

SEED: Final = 15
FAMILIES: Final = ("poisson", "poisson", "fixed_size", "shuffle", "matrix_factorization", "cyclic_poisson")
ENOUGH: Final = 1 + 1e-9
"""By how much a mu may seem to be too low, for what rounds in the comparison itself."""
CLOSE: Final = 0.97
"""How close some run of each method comes to what it was charged."""


@dataclass(frozen=True)
class Case:
    """A run that was approved, and what was executed of it."""

    declared: dict[str, Any]
    adjacency: Adjacency
    delta: Fraction
    segments: int
    history: History
    stop: Stop
    """What is said if it did not end as planned."""
    is_listed: bool
    """Whether it says what was repeated."""

    @property
    def factor(self) -> int:
        return 4 if self.adjacency == "replace_one" else 1


# --- drawing ---------------------------------------------------------------------------------------------------------


def _digits(value: float) -> Decimal:
    return Decimal(f"{value:.3g}")


def _declared(rng: random.Random, family: str) -> dict[str, Any]:
    noise = _digits(math.exp(rng.uniform(math.log(0.35), math.log(6))))
    match family:
        case "matrix_factorization":
            strategy = rng.choice(["identity", "tree", "sqrt"])
            declared = {"strategy": strategy, "steps": rng.randint(1, 9)}
            declared |= {"participations": rng.randint(1, 3), "separation": rng.randint(1, 4)}
            declared |= {"completion": rng.choice(["none", "power_of_two"])} if strategy == "tree" else {}
            declared |= {"bandwidth": rng.randint(1, 5)} if strategy == "sqrt" and rng.random() < 0.5 else {}
        case "cyclic_poisson":
            declared = rng.choice(
                [
                    {"strategy": "identity"},
                    {"strategy": "sqrt", "bandwidth": rng.randint(1, 6)},
                    {"strategy": "toeplitz", "coefficients": [_digits(rng.uniform(-1, 1)) for _ in range(5)]},
                ]
            )
            rate = _digits(1 if rng.random() < 0.06 else math.exp(rng.uniform(math.log(2e-2), math.log(0.7))))
            declared |= {"steps": rng.randint(1, 60), "sampling": family, "sample_rate": rate}
            declared |= {"separation": rng.randint(6, 9)} if rng.random() < 0.3 else {}
        case "shuffle":
            rate = _digits(rng.choice([0.1, 0.3, 0.25, rng.uniform(0.05, 1)]))
            batch, epochs = rng.randint(1, 8), Decimal(rng.choice(["1", "2", "3", "4", "1.5", "2.3"]))
            sizes = {"dataset_size": rng.randint(batch, 40), "batch_size": batch, "epochs": epochs}
            by_steps = {"sample_rate": rate, "steps": rng.randint(1, 60)}
            declared = {"sampling": "shuffle", **rng.choice([sizes, by_steps])}
        case _:
            rate = _digits(1 if rng.random() < 0.06 else math.exp(rng.uniform(math.log(2e-3), math.log(0.7))))
            declared = {"sampling": family, "sample_rate": rate, "steps": round(math.exp(rng.uniform(0, 5.5)))}
    kind = "matrix_factorization" if family in ("matrix_factorization", "cyclic_poisson") else "dpsgd"
    return {"type": kind, "noise_multiplier": noise, **declared}


def draw(rng: random.Random, family: str) -> Case:
    """A run, and how it went: as planned, stopped early or too late, with restarts or without."""
    declared = _declared(rng, family)
    adjacency: Adjacency = "replace_one" if family == "fixed_size" else rng.choice(["add_or_remove_one", "replace_one"])
    fewest, most = mechanisms.planned_steps(mechanisms.parse(declared)) or (1, 1)
    segments = rng.choice([1, 1, 1, rng.randint(1, min(4, fewest))])
    if segments > 1:
        most = segments * mechanisms.segment_steps(mechanisms.parse(declared), segments)
    progress = rng.choice([most, most, rng.randint(1, most), most + rng.randint(1, most + 3)])
    history = oracle_runs.interrupted(rng, progress, rng.choice([0, 0, 1, 1, 2, 3]))
    delta = Fraction(1, 10 ** rng.randint(4, 7))
    stop: Stop = rng.choice(["data_independent", "data_dependent"])
    # Where nothing is said, it is assumed that no step within the plan was repeated, and that who went on with new
    # batches had repeated one.
    is_assumed = history.steps > most and all(first <= last for first, last, _ in history.restarts)
    is_listed = rng.random() < 0.6 or not (is_assumed or len(history.attempts) == 1)
    return Case(declared, adjacency, delta, segments, history, stop, is_listed)


# --- what is charged -------------------------------------------------------------------------------------------------


def charged(case: Case) -> tuple[str, tuple[float, float]]:
    """By which method, and mu² and -log(1 - delta) of all that the run is charged."""
    mechanism = mechanisms.parse(case.declared)
    terms = Terms(bound="certified", adjacency=case.adjacency, delta=case.delta, segments=case.segments)
    cost = costs.cost(mechanism, terms)
    charge = settling.charge(
        mechanism,
        terms,
        approved=cost.amount,
        method=cost.method,
        steps=case.history.steps,
        stop=case.stop,
        restarts=tuple(Restart(*stretch) for stretch in case.history.restarts) if case.is_listed else None,
    )
    amounts = [charge.charged, *([charge.excess.amount] if charge.excess else [])]
    pico, atto = sum(amount.mu_sq_pico for amount in amounts), sum(amount.delta_atto for amount in amounts)
    return cost.method, (pico / 1e12, atto / 1e18)


# --- what was executed -----------------------------------------------------------------------------------------------


def _sampled(case: Case) -> Iterator[list[Part]]:
    """The pairs that an adversary can reach, one family of them after another."""
    s, q = float(case.declared["noise_multiplier"]), float(case.declared["sample_rate"])
    if case.declared["sampling"] == "cyclic_poisson":
        yield from _cyclic(case, s, q)
        return
    used = oracle_runs.batches(case.history)
    is_poisson = case.declared["sampling"] == "poisson"
    kind: Kind = "antipodal" if is_poisson and case.factor == 4 else "removal"
    # Of fixed size: the unit against one that moves the sum by 2C, in whose place an ordinary one may be.
    distance = 1 / s if is_poisson else 2 / s
    steps = [(Step(kind, distance * math.sqrt(times), q), count) for times, count in sorted(used.items())]
    yield [Part(step, count) for step, count in steps]
    if kind == "removal":
        yield [Part(step, count, is_reversed=True) for step, count in steps]
    if not is_poisson:
        # Which of the two data sets has the ordinary unit is the adversary's choice at each step.
        halves = [(Part(step, count - count // 2), Part(step, count // 2, is_reversed=True)) for step, count in steps]
        yield [part for part in itertools.chain(*halves) if part.count]


def _cyclic(case: Case, s: float, q: float) -> Iterator[list[Part]]:
    """The pairs of units in the first group, which has the most steps, and in the last one."""
    declared = case.declared
    column = [float(value) for value in declared.get("coefficients", ())]
    column = column or oracle_runs.square_roots(declared.get("bandwidth", 1))
    groups = declared.get("separation", len(column))
    length = mechanisms.segment_steps(mechanisms.parse(declared), case.segments)
    firsts = range(1, case.history.progress + 1, length)
    parts = (
        [case.history.within(first, first + length - 1) for first in firsts] if case.segments > 1 else [case.history]
    )
    for group in {0, groups - 1}:
        sizes = Counter(size for part in parts for size in oracle_runs.cycled(part, column, groups=groups, group=group))
        kind: Kind = "antipodal" if case.factor == 4 else "removal"
        steps = [(Step(kind, size / s, q), count) for size, count in sorted(sizes.items()) if size]
        yield [Part(step, count) for step, count in steps]
        if kind == "removal":
            yield [Part(step, count, is_reversed=True) for step, count in steps]


def _optimistic(case: Case, epsilons: FloatArray) -> list[FloatArray]:
    """The same by dp-accounting, where each batch was used once, and it does not take too long."""
    used = oracle_runs.batches(case.history)
    if case.declared["sampling"] != "poisson" or [*used] != [1]:
        return []
    s, q = float(case.declared["noise_multiplier"]), float(case.declared["sample_rate"])
    step = Step("antipodal" if case.factor == 4 else "removal", 1 / s, q)
    with np.errstate(over="ignore"):
        return optimistic(step, steps=used[1], epsilons=epsilons) or []


def _releases(case: Case, rng: random.Random) -> float:
    """How many unsampled releases of the unit, at the squared noise multiplier, the run was at least."""
    history, declared = case.history, case.declared
    length = mechanisms.segment_steps(mechanisms.parse(declared), case.segments)
    if "sampling" in declared:
        return max(oracle_runs.shuffled(history, epoch=epoch, segment=part) for epoch, part in _epochs(case, length))
    shape = {name: declared[name] for name in ("participations", "separation")}
    allowed = [*oracle_runs.patterns(length, **shape)]
    is_completed = declared.get("completion") == "power_of_two"
    rows = oracle_runs.strategy_rows(
        declared["strategy"], length, bandwidth=declared.get("bandwidth"), is_completed=is_completed
    )
    firsts = range(1, history.progress + 1, length)
    parts = [history.within(first, first + length - 1) for first in firsts]
    return sum(oracle_runs.factorized(part, rows, allowed=allowed, rng=rng) for part in parts)


def _epochs(case: Case, length: int) -> Iterator[tuple[int, int]]:
    """The steps that an epoch and a segment can have had. Epochs that were declared are no more than that many, unless
    the run went on beyond them."""
    declared, progress = case.declared, case.history.progress
    if "sample_rate" in declared:
        rate = Fraction(declared["sample_rate"])
    else:
        rate = Fraction(declared["batch_size"], declared["dataset_size"])
    for epoch in {math.floor(1 / rate), math.ceil(1 / rate)}:
        if "sample_rate" in declared:
            yield epoch, length if case.segments > 1 else progress
            continue
        epochs = math.ceil(Fraction(math.ceil(declared["epochs"]), case.segments))
        part = epochs * epoch if case.segments > 1 else progress
        if progress > case.segments * epochs * math.ceil(1 / rate) or progress <= case.segments * epochs * epoch:
            yield epoch, part


def reached(case: Case, rng: random.Random, charge: tuple[float, float], *, is_confirmed: bool) -> float:
    """The least mu that the run asks for at its delta, over the mu that it was charged: above 1 that was too little."""
    mu, delta = math.sqrt(charge[0]), -math.expm1(-charge[1])
    if case.declared.get("sampling") not in ("poisson", "fixed_size", "cyclic_poisson"):
        return math.sqrt(case.factor * _releases(case, rng)) / float(case.declared["noise_multiplier"]) / mu
    epsilons = np.linspace(0.0, mu * mu / 2 + 6 * mu, 80)
    curves = [oracle_runs.leaks(parts, epsilons) for parts in _sampled(case) if parts]
    asked = [oracle_runs.asked(curve, delta=delta, epsilons=epsilons) for curve in curves]
    few = epsilons[(epsilons < 50) & (np.arange(epsilons.size) % 8 == 0)]
    if is_confirmed:
        asked += [oracle_runs.asked(curve, delta=delta, epsilons=few) for curve in _optimistic(case, few)]
    return max(asked) / mu


def test_no_charge_is_too_low() -> None:
    """Goal: nothing that a run did leaks more than it was charged for, whatever it was and however it went.

    Method: random runs against lower bounds of what they leak; of each method, how close a run came to its charge.
    """
    worst: defaultdict[str, float] = defaultdict(float)
    for number in range(trials(150, 5_000)):
        rng = random.Random(SEED * 10**6 + number)
        case = draw(rng, FAMILIES[number % len(FAMILIES)])
        method, charge = charged(case)
        share = reached(case, rng, charge, is_confirmed=number % 40 == 0)
        if share > ENOUGH:
            print(number, case, share)
        worst[method] = max(worst[method], share)
    for method, share in sorted(worst.items()):
        print(f"{method}: at worst a mu of {share:.9f} of the one charged")
    # An oracle that shows nothing would not be missed.
    tight = ("pld-poisson", "pld-fixed-size", "pld-cyclic-poisson", "fallback", "shuffle", "matrix-factorization")
    assert min(worst[method] for method in tight) > CLOSE
