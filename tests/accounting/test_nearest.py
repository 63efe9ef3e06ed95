"""What a refused recipe is told to declare in its place: that it is told, and that the direction is right."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import mpmath as mp
import pytest

from ledger.accounting import closed_forms, costs, mechanisms
from ledger.accounting.mechanisms.nearest import CORRELATED, FIELDS, SAMPLINGS, STRATEGIES, TYPES
from ledger.accounting.terms import Terms
from ledger.errors import InvalidMechanism

TERMS = Terms(bound="certified", adjacency="zero_out")
DPSGD: dict[str, Any] = {
    "type": "dpsgd",
    "noise_multiplier": 1,
    "sampling": "poisson",
    "sample_rate": Decimal("0.1"),
    "steps": 8,
}
CORRELATED_NOISE: dict[str, Any] = {
    "type": "matrix_factorization",
    "noise_multiplier": 1,
    "strategy": "identity",
    "steps": 8,
    "participations": 8,
    "separation": 1,
}


def refusal(declared: dict[str, Any]) -> str:
    """What is said of a declaration; empty if nothing is wrong with it."""
    try:
        mechanisms.parse(declared)
    except InvalidMechanism as error:
        return error.detail
    return ""


def test_every_name_is_told_what_comes_nearest() -> None:
    """Goal: no advice is dead, and each is given where its name is refused, in other spellings too. Method: each name
    in a declaration that is otherwise right."""
    for name, text in TYPES.items():
        declared = {"type": name.replace("_", "-").upper()}
        alone, part = refusal(declared), refusal({"type": "composed", "parts": [declared]})
        assert f"What comes nearest: {text}." in (part if name == "composed" else alone)
    for name, text in FIELDS.items():
        assert f"mechanism.{name}: " in refusal({**DPSGD, name: 1})
        assert f"What comes nearest: {text}." in refusal({**DPSGD, name: 1})
    for table, declared, field in (
        (SAMPLINGS, DPSGD, "sampling"),
        (CORRELATED, CORRELATED_NOISE, "sampling"),
        (STRATEGIES, CORRELATED_NOISE, "strategy"),
    ):
        for name, text in table.items():
            assert f"What comes nearest: {text}." in refusal({**declared, field: name})


def test_every_text_has_a_direction() -> None:
    """Goal: nobody is told to declare something without knowing on which side it errs. Method: the words."""
    directions = ("too much", "too little", "costs the same", "cost is the same")
    for table in (TYPES, SAMPLINGS, CORRELATED, STRATEGIES, FIELDS):
        for name, text in table.items():
            assert any(words in text for words in directions), name
            assert not text.endswith("."), name


def test_what_is_no_name_gets_no_advice() -> None:
    """Goal: any value at all is answered. Method: values of other kinds, and long ones."""
    values: tuple[Any, ...] = (None, 1, True, [], {}, ["poisson"], "poisson" * 1000, "magic")
    for value in values:
        said = refusal({**DPSGD, "sampling": value})
        assert said.startswith("mechanism.sampling: ")
        assert "nearest" not in said


# --- the derivations of the module -----------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
def test_geometric_noise_costs_as_pure_dp(epsilon: float) -> None:
    """Goal: geometric noise has the profile of randomized response, which is more than that of Laplace noise. Method:
    its distribution on integers summed in mpmath, at several epsilons; the mu that covers each."""
    ratio, reach = mp.exp(-mp.mpf(epsilon)), round(30 / epsilon)
    weight = (1 - ratio) / (1 + ratio)
    pairs = [(weight * ratio ** abs(k), weight * ratio ** abs(k - 1)) for k in range(-reach, reach + 1)]
    own = mp.exp(epsilon) / (1 + mp.exp(epsilon))
    for at in (0.0, 0.3 * epsilon, 0.9 * epsilon):
        profile = sum(max(p - mp.exp(at) * q, 0) for p, q in pairs)
        assert abs(profile - (own - mp.exp(at) * (1 - own))) < 1e-12
    pure = costs.cost(mechanisms.parse({"type": "pure_dp", "epsilon": Decimal(str(epsilon))}), TERMS)
    assert float(closed_forms.mu_laplace(theta=epsilon)) < pure.mu


def test_the_exponential_mechanism_is_zcdp_of_an_eighth() -> None:
    """Goal: rho = epsilon²/8 is enough for every range epsilon, and not for each epsilon-DP mechanism. Method: Rényi
    divergences of the worst pairs, whose loss is t or t - epsilon; and of randomized response."""
    for epsilon in (0.2, 1.0, 4.0):
        for share in (0.01, 0.2, 0.5, 0.8, 0.99):
            high, low = share * epsilon, (share - 1) * epsilon
            mass = (1 - math.exp(-low)) / (math.exp(-high) - math.exp(-low))
            for order in (1.01, 1.5, 2, 5, 20):
                assert divergence({high: mass, low: 1 - mass}, order) <= order * epsilon**2 / 8 * (1 + 1e-9)
        own = 1 / (1 + math.exp(-epsilon))
        assert divergence({epsilon: own, -epsilon: 1 - own}, 1.01) > 1.01 * epsilon**2 / 8


def test_many_parts_are_a_schedule() -> None:
    """Goal: whoever has a level for each step learns of schedules, and parts that are costed one by one are few.
    Method: more parts than are allowed, of DP-SGD and of others."""
    step = {"type": "dpsgd", "sampling": "poisson", "noise_multiplier": 3, "sample_rate": Decimal("0.1"), "steps": 1}
    with pytest.raises(InvalidMechanism, match=r"at most 1000 items.*dpsgd_schedule") as raised:
        mechanisms.parse({"type": "composed", "parts": [step] * 1001})
    assert raised.value.facts["field"] == "mechanism.parts"
    capped = {**step, "truncated_batch_size": 20, "dataset_size": 100}
    for part in ({"type": "gaussian", "noise_multiplier": 3}, capped):
        mechanisms.parse({"type": "composed", "parts": [part] * 100 + [step] * 900})
        with pytest.raises(InvalidMechanism, match="has 101 parts other than dpsgd with plain batches, and at most"):
            mechanisms.parse({"type": "composed", "parts": [part] * 101})


def divergence(losses: dict[float, float], order: float) -> float:
    """The Rényi divergence of a distribution of privacy losses."""
    total = sum(mass * math.exp((order - 1) * loss) for loss, mass in losses.items())
    return math.log(total) / (order - 1)


@pytest.mark.parametrize("sigma", [0.6, 1.0, 3.0])
def test_discrete_gaussian_noise_is_zcdp(sigma: float) -> None:
    """Goal: rho = (sensitivity/sigma)²/2. Method: sums over integers, for sensitivities 1 and 3 and several orders."""
    reach = range(-40, 41)
    weights = {k: mp.exp(-(mp.mpf(k) ** 2) / (2 * sigma**2)) for k in reach}
    total = sum(weights.values())
    for sensitivity in (1, 3):
        for order in (mp.mpf("1.1"), mp.mpf(2), mp.mpf(4)):
            terms = (
                (weights[k] / total) ** order * (weights[k - sensitivity] / total) ** (1 - order)
                for k in reach
                if k - sensitivity in weights
            )
            assert mp.log(mp.fsum(terms)) / (order - 1) <= order * mp.mpf(sensitivity) ** 2 / (2 * sigma**2) * (
                1 + 1e-9
            )


def test_a_clip_norm_that_adapts_is_one_release() -> None:
    """Goal: gradients under noise z and a count under noise b are one Gaussian release. Method: the distance of both
    centres in deviations of the noise."""
    for z, b in ((1.0, 3.0), (0.7, 0.5), (2.0, 10.0)):
        assert math.isclose(math.hypot(1 / z, 0.5 / b), (z**-2 + (2 * b) ** -2) ** 0.5)
        assert math.isclose(math.hypot(1 / z, 1 / b), (z**-2 + b**-2) ** 0.5)
