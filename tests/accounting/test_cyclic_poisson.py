"""Cyclic Poisson sampling of a banded matrix factorization: its theorem by quadrature, its cost against dp-accounting.

The oracles share no code with `ledger.accounting`: column norms are NumPy's, and curves dp-accounting's or integrals.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import special

from ledger.accounting import costs, mechanisms, plan, residual, settling
from ledger.accounting.cost import Cost, Precision
from ledger.accounting.mechanisms import MatrixFactorization
from ledger.accounting.pld import Subsampled
from ledger.accounting.restarts import Restart
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency
from ledger.errors import InvalidMechanism
from tests.accounting import oracle_runs
from tests.accounting.oracle_curves import Step, optimistic
from tests.kit.trials import trials

FloatArray = NDArray[np.float64]
SEED: Final = 8153
PROOF_LOG_STEPS: Final = trials(4, 6)
DELTA: Final = Fraction(1, 10**8)
CYCLIC: Final[dict[str, Any]] = {
    "type": "matrix_factorization",
    "noise_multiplier": 1,
    "steps": 200,
    "sampling": "cyclic_poisson",
    "sample_rate": Decimal("0.1"),
}
SQRT: Final = CYCLIC | {"strategy": "sqrt", "bandwidth": 4}
IDENTITY: Final = CYCLIC | {"strategy": "identity"}
BAND: Final = CYCLIC | {"strategy": "toeplitz", "coefficients": [Decimal(1), Decimal("0.75")]}
"""Its column norm is 1.25."""
POISSON: Final = {"type": "dpsgd", "sampling": "poisson", "noise_multiplier": 1, "sample_rate": Decimal("0.1")}


def cost(declared: dict[str, Any], adjacency: Adjacency = "add_or_remove_one", **changes: Any) -> Cost:
    """What it costs in certified terms, by default at a delta of 1e-8."""
    terms = Terms(bound="certified", adjacency=adjacency, delta=DELTA)
    return costs.cost(mechanisms.parse(declared), replace(terms, **changes))


# --- the theorem -----------------------------------------------------------------------------------------------------

Gradient = Callable[[list[FloatArray]], FloatArray | float]
"""What a unit has at a step, of what was released before."""


def densities(
    column: list[float], *, steps: int, group: int, groups: int, rate: float, s: float, unit: Gradient, others: Gradient
) -> tuple[FloatArray, FloatArray, float]:
    """The density of all rows with the unit and without it, on a grid over all of them, and a cell's size.

    others: the sum of the other gradients at a step, which reaches later rows as C says.
    """
    points = np.linspace(-5.5, 7.0, {2: 400, 4: 28}[steps]) * s
    axes = [points.reshape([-1 if axis == row else 1 for axis in range(steps)]) for row in range(steps)]
    known = [others(axes[:row]) for row in range(steps)]
    present = [step for step in range(steps) if step % groups == group]
    own = {step: unit(axes[:step]) for step in present}
    p, q = np.zeros([points.size] * steps), np.zeros([points.size] * steps)
    for drawn in itertools.product((0, 1), repeat=len(present)):
        exponent = np.zeros([points.size] * steps)
        for row in range(steps):
            mean: Any = sum(column[row - j] * known[j] for j in range(max(0, row - len(column) + 1), row + 1))
            mean = mean + sum(
                is_in * column[row - step] * own[step]
                for step, is_in in zip(present, drawn, strict=True)
                if 0 <= row - step < len(column)
            )
            exponent = exponent - ((axes[row] - mean) / s) ** 2 / 2
        density = np.exp(exponent) / (s * math.sqrt(2 * math.pi)) ** steps
        p += math.prod(rate if is_in else 1 - rate for is_in in drawn) * density
        q = density if not any(drawn) else q
    return p, q, float(points[1] - points[0]) ** steps


def divergences(p: FloatArray, q: FloatArray, cell: float) -> list[float]:
    """The hockey-stick divergences at some epsilons, in both orders."""
    return [
        float(np.maximum(one - math.exp(epsilon) * other, 0).sum()) * cell
        for one, other in ((p, q), (q, p))
        for epsilon in (0.0, 0.3, 1.0, 2.0)
    ]


def of_rounds(norms: list[float], *, rate: float, s: float) -> list[float]:
    """The same of Poisson steps by themselves, of these sensitivities."""
    points = np.linspace(-9, 9, 1500)
    p, q = np.ones(()), np.ones(())
    for norm in norms:
        without = np.exp(-(points**2) / 2) / math.sqrt(2 * math.pi)
        with_it = np.exp(-((points - norm / s) ** 2) / 2) / math.sqrt(2 * math.pi)
        p, q = np.multiply.outer(p, (1 - rate) * without + rate * with_it), np.multiply.outer(q, without)
    return divergences(p, q, float(points[1] - points[0]) ** len(norms))


CURVED: Final[dict[str, tuple[Gradient, Gradient]]] = {
    "constant": (lambda _: 1.0, lambda _: 0.0),
    "adaptive": (
        lambda before: np.cos(2 * before[-1] + before[0]) if before else 1.0,
        lambda before: np.sin(3 * before[-1]) + 0.5 * before[0] if before else 0.3,
    ),
    "signed": (lambda before: np.sign(before[0] - 0.4) if before else -1.0, lambda before: 1.0 + len(before)),
}


@pytest.mark.parametrize("kind", CURVED)
def test_two_groups_cost_what_their_rounds_do(kind: str) -> None:
    """Goal: four steps in two groups leak no more than two Poisson steps at the column norm, whatever gradients are
    chosen by earlier rows, and nothing less if they are constant; and the certificate covers both.

    Method: the density of all four rows over a grid, for a unit of either group, as the mixture over its batches.
    """
    column, rate, s = [0.8, -0.5], 0.35, 0.9
    norm = math.hypot(*column)
    unit, others = CURVED[kind]
    promised = of_rounds([norm, norm], rate=rate, s=s)
    declared = CYCLIC | {"strategy": "toeplitz", "coefficients": [Decimal("0.8"), Decimal("-0.5")]}
    declared |= {"noise_multiplier": Decimal("0.9"), "sample_rate": Decimal("0.35"), "steps": 4}
    certified = cost(declared, delta=Fraction(1, 10**6))
    for group in (0, 1):
        leaked = divergences(
            *densities(column, steps=4, group=group, groups=2, rate=rate, s=s, unit=unit, others=others)
        )
        for one, promise in zip(leaked, promised, strict=True):
            assert one <= promise * 1.01 + 1e-5, (kind, group)
        # The last column is cut, so that only the first group has two whole ones.
        if kind == "constant" and group == 0:
            assert leaked == pytest.approx(promised, rel=0.01, abs=1e-5)
        for one, epsilon in zip(leaked, 2 * (0.0, 0.3, 1.0, 2.0), strict=True):
            mu = certified.mu
            least = special.ndtr(mu / 2 - epsilon / mu) - math.exp(epsilon) * special.ndtr(-mu / 2 - epsilon / mu)
            assert one <= 1e-6 + least * 1.002


def test_fewer_groups_than_bands_would_cost_more() -> None:
    """Goal: the number of groups is no formality. Method: two steps of one group and two bands, by quadrature, leak
    more than two Poisson steps at the column norm; such a declaration is refused."""
    leaked = divergences(
        *densities([0.8, 0.6], steps=2, group=0, groups=1, rate=0.8, s=1.0, unit=lambda _: 1.0, others=lambda _: 0.0)
    )
    promised = of_rounds([1.0, 1.0], rate=0.8, s=1.0)
    assert leaked[2] > 1.05 * promised[2]
    with pytest.raises(InvalidMechanism, match="separation, the number of groups, must be at least the 2 bands"):
        mechanisms.parse(BAND | {"separation": 1})


# --- its cost --------------------------------------------------------------------------------------------------------


def drawn(rng: random.Random) -> tuple[dict[str, Any], float]:
    """A sampled factorization, and its largest column norm."""
    coefficients = [Decimal(f"{rng.uniform(-1, 1):.3f}") for _ in range(rng.randint(1, 6))]
    coefficients[0] = Decimal("0.9")
    bandwidth = rng.randint(1, 40)
    steps = round(math.exp(rng.uniform(0, PROOF_LOG_STEPS)))
    shapes: list[tuple[dict[str, Any], list[float]]] = [
        ({"strategy": "identity"}, [1.0]),
        ({"strategy": "sqrt", "bandwidth": bandwidth}, oracle_runs.square_roots(bandwidth)),
        ({"strategy": "toeplitz", "coefficients": coefficients}, [float(value) for value in coefficients]),
    ]
    strategy, column = rng.choice(shapes)
    declared = CYCLIC | strategy | {"steps": steps}
    declared |= {"noise_multiplier": Decimal(f"{math.exp(rng.uniform(math.log(0.6), math.log(8))):.3g}")}
    declared |= {"sample_rate": Decimal(f"{math.exp(rng.uniform(math.log(3e-3), math.log(0.6))):.3g}")}
    declared |= {"separation": len(column) + rng.randint(0, 5)} if rng.random() < 0.3 else {}
    return declared, float(np.linalg.norm(column[:steps]))


@pytest.mark.parametrize("quarter", range(4))
def test_no_cost_is_below_dp_accounting_s(quarter: int, tries: Callable[[int, int], int]) -> None:
    """Goal: no sampled factorization is charged less than its rounds of Poisson DP-SGD leak. Method: dp-accounting's
    curves from below, of ceil(T / B) steps at the noise over NumPy's column norm; how close some come."""
    rng = random.Random(SEED + quarter)
    shares = list[float]()
    for _ in range(tries(2, 80)):
        declared, norm = drawn(rng)
        adjacency: Adjacency = rng.choice(["add_or_remove_one", "replace_one"])
        delta = Fraction(1, 10 ** rng.randint(4, 8))
        found = cost(declared, adjacency, delta=delta)
        groups = declared.get("separation") or declared.get("bandwidth") or len(declared.get("coefficients", [1]))
        rounds = -(-declared["steps"] // groups)
        kind: Any = "antipodal" if adjacency == "replace_one" else "removal"
        step = Step(kind, norm / float(declared["noise_multiplier"]), float(declared["sample_rate"]))
        epsilons = np.linspace(0.0, found.mu**2 / 2 + 6 * found.mu, 60)
        curves = optimistic(step, steps=rounds, epsilons=epsilons)
        parts = [oracle_runs.Part(step, rounds, is_reversed=order) for order in (False, True)]
        curves = curves or [oracle_runs.leaks([part], epsilons) for part in parts]
        asked = max(oracle_runs.asked(curve, delta=found.delta, epsilons=epsilons) for curve in curves)
        assert asked <= found.mu * (1 + 1e-9), (declared, adjacency, delta)
        shares.append(asked / found.mu)
    print(f"worst margin {1 - max(shares):.2e}, median ratio {1 / sorted(shares)[len(shares) // 2]:.5f}")
    assert sorted(shares)[len(shares) // 2] > 0.97


def test_one_band_is_dp_sgd() -> None:
    """Goal: without correlation, and in one group, it is Poisson DP-SGD, with any noise; in more groups as many fewer
    steps of it. Method: the same declared as such."""
    for noise in ("0.7", "1.0000000000000000000000000001"):
        changed = {"noise_multiplier": Decimal(noise)}
        for groups in (None, 7):
            steps = 200 if groups is None else 29
            plain = cost(POISSON | changed | {"steps": steps})
            cyclic = cost(IDENTITY | changed | ({"separation": groups} if groups else {}))
            assert (cyclic.mu_sq, cyclic.nats) == (plain.mu_sq, plain.nats)
            assert (cyclic.method, plain.method) == ("pld-cyclic-poisson", "pld-poisson")


def test_the_noise_is_that_of_the_strategy_as_declared() -> None:
    """Goal: one convention: coefficients and noise that are both doubled cost the same, coefficients alone more.
    Method: the cost of each; a column norm of 1.25 is Poisson sampling at 4/5 of the noise."""
    doubled = BAND | {"coefficients": [Decimal(2), Decimal("1.5")]}
    assert cost(doubled | {"noise_multiplier": 2}) == cost(BAND)
    assert cost(doubled).mu > 1.9 * cost(BAND).mu
    plain = cost(POISSON | {"noise_multiplier": Decimal("0.8"), "steps": 100})
    assert cost(BAND).mu_sq == plain.mu_sq
    assert any("C as it is declared" in text for text in cost(BAND).assumptions)


def test_what_sampling_hides_nothing_of_is_charged_in_full() -> None:
    """Goal: whole groups, little noise, the bound clt and no share of delta charge every step of a group, exactly.
    Method: 100 rounds at 1.25 by hand; what the assumptions say."""
    full = 100 * Fraction(25, 16)
    factors: dict[Adjacency, int] = {"add_or_remove_one": 1, "replace_one": 4}
    for adjacency, factor in factors.items():
        whole = cost(BAND | {"sample_rate": 1}, adjacency)
        assert (whole.method, whole.mu_sq, whole.nats) == ("fallback", factor * full, Fraction(0))
        assert cost(BAND, adjacency, delta=Fraction(0)).mu_sq == factor * full
        little = cost(BAND | {"noise_multiplier": Decimal("0.1")}, adjacency)
        assert little.mu_sq == 100 * factor * full
        estimate = cost(BAND, adjacency, bound="clt")
        assert (estimate.mu_sq, estimate.nats) == (factor * full, Fraction(0))
        assert any("no estimate is known" in text for text in estimate.assumptions)
        assert any("no amplification" in text for text in whole.assumptions)
    mechanism = mechanisms.parse(BAND)
    assert mechanism.needs_certificate("certified")
    assert not mechanism.needs_certificate("clt")
    assert mechanisms.parse(SQRT).needs_certificate("clt")
    assert mechanism.precision("fallback") is Precision.EXACT
    assert mechanisms.parse(SQRT).precision("fallback") is Precision.CERTIFICATE


def test_the_ends_of_what_can_be_declared() -> None:
    """Goal: the largest and the smallest numbers have a cost, and more steps do not need a longer computation. Method:
    coefficients of every size, 10^12 steps, more bands than steps."""
    for size in (Decimal("1e-30"), Decimal("1e12")):
        declared = CYCLIC | {"strategy": "toeplitz", "coefficients": [size, -size]}
        for noise in (Decimal("1e-12"), Decimal("1e12")):
            found = cost(declared | {"noise_multiplier": noise})
            assert found.mu_sq + found.nats > 0
    assert cost(SQRT | {"steps": 10**12, "sample_rate": 1, "noise_multiplier": 10**6}).mu_sq > 0
    wide = CYCLIC | {"strategy": "sqrt", "bandwidth": 10**6, "steps": 3}
    norm_sq = 1 + Fraction(1, 4) + Fraction(9, 64)
    assert float(cost(wide | {"sample_rate": 1}).mu_sq) == pytest.approx(float(norm_sq), rel=1e-12)
    with pytest.raises(InvalidMechanism, match="must be 0, or between 1e-30 and 1e12 in size"):
        mechanisms.parse(CYCLIC | {"strategy": "toeplitz", "coefficients": [1, Decimal("1e-31")]})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "tree", "completion": "none"}, "strategy tree: its nodes are sums over the steps of all groups"),
        ({"strategy": "banded_inverse_sqrt", "bandwidth": 4}, "only the inverse is"),
        (
            {"strategy": "blt", "scales": [Decimal("0.5")], "decays": [Decimal("0.9")]},
            "every step reaches all later rows",
        ),
        ({"strategy": "sqrt"}, "give sqrt its bandwidth"),
        ({"strategy": "identity", "sample_rate": None}, "needs sample_rate"),
        ({"strategy": "identity", "participations": 3}, "leave out participations"),
        ({"strategy": "sqrt", "bandwidth": 4, "separation": 3}, "must be at least the 4 bands"),
        ({"steps": None, "sensitivity": 1, "evidence": "x"}, "a stated sensitivity does not show how C is banded"),
        ({"strategy": "identity", "sampling": None, "participations": 1}, "sample_rate belongs to the sampling"),
    ],
)
def test_what_is_not_proved_is_refused(changes: dict[str, Any], message: str) -> None:
    """Goal: amplification of what has no finite band, of a part of the declaration, or of fewer groups is refused, with
    the reason. Method: one of each."""
    declared = {name: value for name, value in (CYCLIC | changes).items() if value is not None}
    with pytest.raises(InvalidMechanism, match=message):
        mechanisms.parse(declared)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "banded_inverse_sqrt"}, "needs bandwidth"),
        ({"strategy": "toeplitz"}, "needs coefficients"),
        ({"strategy": "toeplitz", "coefficients": []}, "must not be empty"),
        ({"strategy": "toeplitz", "coefficients": [1] * 1025}, "at most 1024 items"),
        ({"strategy": "toeplitz", "coefficients": [0, 1]}, "must not be 0"),
        ({"strategy": "toeplitz", "coefficients": ["1"]}, "must be a number"),
        ({"strategy": "sqrt", "coefficients": [1]}, "the strategy toeplitz, and no other"),
        ({"strategy": "identity", "bandwidth": 2}, "bandwidth belongs to the strategies"),
        ({"strategy": "blt", "scales": [1]}, "needs scales and decays"),
        ({"strategy": "blt", "scales": [1], "decays": [Decimal("0.5")] * 2}, "of the same length"),
        ({"strategy": "blt", "scales": [1], "decays": [Decimal("1.01")]}, "at most 1"),
        ({"strategy": "blt", "scales": [-1], "decays": [1]}, "greater than 0"),
        ({"strategy": "blt", "scales": [1] * 33, "decays": [1] * 33}, "at most 32 items"),
        ({"strategy": "identity", "scales": [1], "decays": [1]}, "the strategy blt, and no other"),
    ],
)
def test_a_strategy_has_its_own_fields(changes: dict[str, Any], message: str) -> None:
    """Goal: parameters of the wrong strategy, too many, too few or out of range are refused by name. Method: each."""
    declared = {"type": "matrix_factorization", "noise_multiplier": 1, "steps": 8, "participations": 1}
    with pytest.raises(InvalidMechanism, match=message):
        mechanisms.parse(declared | changes)


def test_records_of_it_are_read_as_they_stand() -> None:
    """Goal: a record gets no participations that it does not have. Method: alone, and as a part."""
    assert mechanisms.recorded(SQRT) == mechanisms.parse(SQRT)
    composed = {"type": "composed", "parts": [BAND, IDENTITY]}
    assert mechanisms.recorded(composed) == mechanisms.parse(composed)


# --- with others -----------------------------------------------------------------------------------------------------


def test_parts_are_certified_with_dp_sgd() -> None:
    """Goal: a sampled factorization is one certificate with the other sampled parts, and its exact parts are pairs.
    Method: the same as DP-SGD parts; equal parts as one with more steps; the sum with a Gaussian."""
    other = POISSON | {"noise_multiplier": 2, "steps": 50}
    gaussian = {"type": "gaussian", "noise_multiplier": 5}
    together = cost({"type": "composed", "parts": [BAND, other, gaussian]})
    same = POISSON | {"noise_multiplier": Decimal("0.8"), "steps": 100}
    assert together.mu_sq == cost({"type": "composed", "parts": [same, other, gaussian]}).mu_sq
    assert together.nats == cost(BAND).nats
    assert any("group t mod 2" in text for text in together.assumptions)
    assert cost({"type": "composed", "parts": [BAND, BAND]}).mu_sq == cost(BAND | {"steps": 400}).mu_sq
    terms = Terms(bound="certified", adjacency="add_or_remove_one", delta=DELTA)
    parts = mechanisms.parse({"type": "composed", "parts": [BAND, other]}).exact_parts(terms)
    assert parts.sources == Counter({Subsampled("removal", 1 / 0.8, 0.1): 100, Subsampled("removal", 0.5, 0.1): 50})
    assert parts.mu_sq == 0
    assert not parts.envelopes
    frontier = costs.frontier(mechanisms.parse(BAND), bound="certified", adjacency="replace_one")
    assert frontier == costs.frontier(mechanisms.parse(same), bound="certified", adjacency="replace_one")
    assert mechanisms.parse({"type": "composed", "parts": [BAND]}).precision(together.method) is Precision.CERTIFICATE


def test_beside_what_is_left_it_costs_what_its_rounds_do() -> None:
    """Goal: its table of costs beside what is left is that of the DP-SGD that dominates it, and falls."""
    same = POISSON | {"noise_multiplier": Decimal("0.8"), "steps": 100}
    terms = Terms(bound="certified", adjacency="add_or_remove_one", delta=DELTA)
    at = (0, 10**11, 10**12)
    table = residual.residual_costs(mechanisms.parse(BAND), terms, at)
    assert table == residual.residual_costs(mechanisms.parse(same), terms, at)
    assert table[0] > table[2] > 0


@pytest.mark.parametrize("parameter", ["steps", "sample_rate"])
def test_it_is_solved_for(parameter: str) -> None:
    """Goal: a plan finds the last value of each parameter that fits. Method: it fits, and the next does not."""
    mechanism = mechanisms.parse(SQRT)
    terms = Terms(bound="certified", adjacency="add_or_remove_one", delta=DELTA)
    found = plan.solve(mechanism, terms, solve_for=parameter, remaining=Amount(10**12, 10**12))
    assert found is not None
    assert not found.amount.exceeds(Amount(10**12, 10**12))
    axis = mechanism.axis(parameter, segments=1)
    following = axis.value_of(axis.number_of(found.value) + (4 if parameter == "steps" else 1))
    assert cost(SQRT | {parameter: following}).amount.exceeds(Amount(10**12, 10**12))


def test_a_refusal_names_more_noise_and_fewer_steps() -> None:
    """Goal: what does not fit is told what would, and no other sample rate, which is another training."""
    terms = Terms(bound="clt", adjacency="add_or_remove_one")
    fits = plan.fits(mechanisms.parse(IDENTITY | {"separation": 20}), terms, remaining=Amount(4 * 10**12, 10**12))
    assert fits == {"noise_multiplier": Decimal("1.58114"), "steps": 80}


# --- settling --------------------------------------------------------------------------------------------------------


def settled(steps: int, stop: Any = "planned", restarts: Any = (), segments: int = 1) -> settling.Charge:
    """The charge of the band's run of 200 steps."""
    terms = Terms(bound="certified", adjacency="add_or_remove_one", delta=DELTA, segments=segments)
    mechanism = mechanisms.parse(BAND)
    approved = costs.cost(mechanism, terms)
    return settling.charge(
        mechanism, terms, approved=approved.amount, method=approved.method, steps=steps, stop=stop, restarts=restarts
    )


def test_it_settles_like_the_rounds_it_is() -> None:
    """Goal: fewer steps are charged as a run of as many only if nothing secret decided that; more of them by their own
    certificate then, and otherwise as the whole plan again. Method: costs of as many steps."""
    whole = cost(BAND).amount
    assert settled(200).charged == whole
    assert settled(51, "data_dependent").charged == whole
    assert settled(51, "data_independent").charged == cost(BAND | {"steps": 51}).amount
    assert settled(51, "data_independent").charged == cost(BAND | {"steps": 52}).amount
    longer = settled(251, "data_independent").excess
    assert longer is not None
    assert longer.amount == cost(BAND | {"steps": 51}).amount
    again = settled(251, "data_dependent").excess
    assert again is not None
    assert again.amount == whole
    once = cost(BAND | {"steps": 50}, delta=DELTA / 4)
    segments = settled(101, "data_dependent", segments=4).charged
    assert segments.mu_sq_pico == pytest.approx(3 * once.amount.mu_sq_pico, abs=3)


@pytest.mark.parametrize(
    ("first", "last", "releases"),
    [(10, 10, 1), (10, 11, 2), (11, 12, 2), (10, 15, 4), (1, 200, 101), (200, 200, 1), (10, 9, 0)],
)
def test_a_stretch_that_was_run_again_is_charged_unsampled(first: int, last: int, releases: int) -> None:
    """Goal: each release that has rows in a stretch counts once more without sampling, with old batches and new ones.
    Method: ceil((L + b - 1) / B) by hand, with b = B = 2, at 25/16 each."""
    for new_batches in (False, True):
        restarts = (Restart(first, last, new_batches),)
        excess = settled(200 + last - first + 1, "data_dependent", restarts).excess
        charged = 0 if excess is None else excess.amount.mu_sq_pico
        assert charged == releases * 25 * 10**12 // 16


def test_a_stretch_over_a_segment_s_end_counts_in_both() -> None:
    """Goal: a segment begins releases of its own. Method: steps 50 and 51 of segments of 50 are in two releases, and
    so are the steps before the end with what is behind it; unlisted repeats count one release for each step."""
    excess = settled(202, "data_dependent", (Restart(50, 51, False),), segments=4).excess
    assert excess is not None
    assert excess.amount.mu_sq_pico == 2 * 25 * 10**12 // 16
    excess = settled(206, "data_dependent", (Restart(48, 53, False),), segments=4).excess
    assert excess is not None
    assert excess.amount.mu_sq_pico == 4 * 25 * 10**12 // 16
    mechanism = mechanisms.parse(BAND)
    assert isinstance(mechanism, MatrixFactorization)
    assert mechanism.worst_repeats(7, "replace_one").mu_sq == 7 * 4 * Fraction(25, 16)
