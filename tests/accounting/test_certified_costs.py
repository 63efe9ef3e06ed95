"""`costs.cost` under `certified`: which path gives a cost, what it is charged in, and how parts come together."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution

from ledger.accounting import amounts, certificate, certify, costs, gdp, mechanisms, strategies, zcdp
from ledger.accounting.cost import Cost
from ledger.accounting.terms import Terms
from ledger.core.datasets import Adjacency
from ledger.errors import InvalidMechanism, TooLarge
from tests.accounting.oracle_curves import Step, optimistic
from tests.kit import certified

DELTA = Fraction(1, 10**8)


def dpsgd(noise: Any, rate: Any, steps: int, sampling: str = "poisson") -> dict[str, Any]:
    """DP-SGD as a user declares it."""
    return {
        "type": "dpsgd",
        "noise_multiplier": Decimal(str(noise)),
        "sampling": sampling,
        "sample_rate": Decimal(str(rate)),
        "steps": steps,
    }


def composed(*parts: dict[str, Any]) -> dict[str, Any]:
    """Several of them."""
    return {"type": "composed", "parts": list(parts)}


def cost(declared: dict[str, Any], adjacency: Adjacency = "add_or_remove_one", delta: Fraction = DELTA) -> Cost:
    """What it is charged."""
    return costs.cost(mechanisms.parse(declared), Terms(bound="certified", adjacency=adjacency, delta=delta))


def test_a_certificate_charges_its_share_of_delta() -> None:
    """Goal: a certified run is charged the mu of its certificate and all of its delta, rounded up. Method: the
    certificate itself, and the delta in exact fractions."""
    found = cost(dpsgd("1.1", "0.004", 14_000))
    straight = certified.subsampled_gaussian(noise_multiplier=1.1, sample_rate=0.004, steps=14_000, delta=1e-8)
    assert found.method == "pld-poisson"
    assert found.mu == pytest.approx(straight.mu, rel=1e-6)
    assert found.mu_sq == Fraction(found.mu) ** 2
    assert found.nats == amounts.nats(DELTA, towards="up")
    # -log(1 - 1e-8) = 1e-8 + 0.5e-16 + …
    assert found.amount.delta_atto == 10**10 + 51
    assert any("independently with probability sample_rate" in said for said in found.assumptions)


@pytest.mark.parametrize(("adjacency", "factor"), [("add_or_remove_one", 1), ("replace_one", 4)])
def test_the_fallback_is_exact_and_says_so(adjacency: Adjacency, factor: int) -> None:
    """Goal: where sampling is not resolved, mu² is rational and stays exact, delta is not charged, and the answer says
    what happened. Method: no delta, full batches, next to no noise, and a cost beyond any certificate."""
    for declared, delta in (
        (dpsgd(5, "0.1", 25), Fraction(0)),
        (dpsgd(5, 1, 25), DELTA),
        (dpsgd("0.05", "0.5", 25), DELTA),
        (dpsgd("0.3", "0.9", 10**6), DELTA),
    ):
        found = cost(declared, adjacency, delta)
        assert found.mu_sq == factor * declared["steps"] / Fraction(declared["noise_multiplier"]) ** 2
        assert found.nats == 0
        assert found.method == "fallback"
        assert any("no amplification by sampling" in said for said in found.assumptions)


def test_all_deltas_have_one_composition(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what is shown along delta takes as many compositions as a cost: one of all parts, those alike as one.

    Method: count them, alone and composed, with parts that are alike; and each point is what a run at it would cost.
    """
    curves: list[int] = []
    curve = certify.curve

    def counted(steps: Any, **rest: Any) -> Any:
        curves.append(len(steps))
        return curve(steps, **rest)

    monkeypatch.setattr(certify, "curve", counted)
    one, two = dpsgd("1.5", "0.004", 235), dpsgd("1.2", "0.004", 235)
    gaussian = {"type": "gaussian", "noise_multiplier": 40}
    for parts, expected in (([one], 1), ([one, two, gaussian], 1), ([one, two, one, one], 1), ([one] * 4, 1)):
        declared = {"type": "composed", "parts": parts}
        found = cost(declared, "add_or_remove_one", DELTA)
        assert len(curves) == expected
        curves.clear()
        pairs = costs.frontier(mechanisms.parse(declared), bound="certified", adjacency="add_or_remove_one")
        assert len(curves) == expected
        curves.clear()
        assert dict(pairs)[float(DELTA)] == pytest.approx(found.mu, rel=1e-12)
        assert sorted(mu for _, mu in pairs) == [mu for _, mu in pairs]


def test_a_kept_curve_serves_every_delta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: naming another delta composes nothing, and costs what it costs where nothing was kept.

    Method: count compositions for twelve deltas, of one run, in segments too, and of a composed one; then without.
    """
    curves: list[int] = []
    curve = certify.curve

    def counted(steps: Any, **rest: Any) -> Any:
        curves.append(len(steps))
        return curve(steps, **rest)

    monkeypatch.setattr(certify, "curve", counted)
    deltas = [Fraction(power, 10**exponent) for power in (1, 3) for exponent in range(5, 11)]
    one, two = dpsgd("1.5", "0.004", 235), dpsgd("1.2", "0.004", 235)
    for declared, segments in ((one, 1), (one, 5), (composed(*[one] * 40), 1), (composed(one, two, two), 1)):
        mechanism = mechanisms.parse(declared)
        terms = [Terms(bound="certified", adjacency="replace_one", delta=each, segments=segments) for each in deltas]
        curves.clear()
        with certificate.keeping(Kept()):
            kept = [costs.cost(mechanism, each) for each in terms]
        assert len(curves) == 1
        assert kept == [costs.cost(mechanism, each) for each in terms]
        assert len(curves) == 1 + len(deltas)


def test_earlier_costs_are_worked_out_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what an earlier accountant recorded is composed for its delta alone, parts apart and together.

    Method: the least share that is composed for, of entries by each accountant; and the tight bound on points is none.
    """
    shares: list[float] = []
    curve = certify.curve

    def seen(steps: Any, *, delta_min: float, **rest: Any) -> Any:
        shares.append(delta_min)
        return curve(steps, delta_min=delta_min, **rest)

    monkeypatch.setattr(certify, "curve", seen)
    monkeypatch.setattr(certificate, "POINTS_MAX", 10**6)
    one, two = dpsgd("1.5", "0.004", 235), dpsgd("1.2", "0.004", 235)
    for accountant, expected in (("gdp-3", [1e-8, 5e-9, 5e-9]), ("gdp-4", [certificate.RUNGS[0]])):
        entry = {"bound": "certified", "adjacency": "replace_one", "delta": Decimal("1e-8"), "accountant": accountant}
        shares.clear()
        costs.cost(mechanisms.parse(composed(one, two)), Terms.of(entry))
        assert shares == [pytest.approx(share) for share in expected]


def test_the_work_of_a_certificate_is_bounded_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what would transform too many points is refused before it does, with the number. Method: a small bound,
    parts enough to pass it, and no transform begun."""
    monkeypatch.setattr(certificate, "POINTS_MAX", 10**6)
    begun: list[object] = []
    monkeypatch.setattr(certify, "vertices", lambda *given: begun.append(given))
    many = composed(*(dpsgd(f"1.{number:03}", "0.004", 10**5) for number in range(50)))
    with pytest.raises(TooLarge, match=r"^mechanism: .* predicted to transform \d+ points") as refused:
        cost(many, "add_or_remove_one", DELTA)
    assert refused.value.facts["field"] == "mechanism"
    assert refused.value.facts["predicted"] > refused.value.facts["limit"] == 10**6
    assert begun == []


class Kept:
    """Keeps everything."""

    def __init__(self) -> None:
        self._kept: dict[certificate.Key, certificate.Certificate] = {}
        self.get = self._kept.get
        self.put = self._kept.__setitem__


def test_the_same_part_twice_is_one_run_of_twice_the_steps() -> None:
    """Goal: parts that are alike are composed as what they are. Method: halves of a run beside the whole."""
    whole = cost(dpsgd(1, "0.01", 2_000))
    halves = cost(composed(dpsgd(1, "0.01", 1_000), dpsgd(1, "0.01", 1_000)))
    assert halves.mu_sq == whole.mu_sq
    assert halves.nats == whole.nats


def test_parts_are_convolved_where_that_is_tighter() -> None:
    """Goal: different DP-SGD parts cost less together than apart, and no less than they leak. Method: the sum of their
    own certificates at half the delta each; and dp-accounting's optimistic composition of both."""
    one, other = dpsgd("0.8", "0.01", 300), dpsgd("1.5", "0.05", 400)
    together = cost(composed(one, other))
    apart = [cost(part, delta=DELTA / 2) for part in (one, other)]
    assert together.mu_sq < sum(part.mu_sq for part in apart)
    assert together.nats <= amounts.nats(DELTA, towards="up")
    pieces = [
        privacy_loss_distribution.from_gaussian_mechanism(
            float(part["noise_multiplier"]),
            pessimistic_estimate=False,
            # Fine enough to refuse 0.97 of the mu, below.
            value_discretization_interval=1e-4,
            use_connect_dots=False,
            sampling_prob=float(part["sample_rate"]),
        ).self_compose(part["steps"])
        for part in (one, other)
    ]
    exact = pieces[0].compose(pieces[1])
    epsilons = np.linspace(0.0, 12.0, 60)
    allowed = together.delta + (1 - together.delta) * gdp.delta(mu=together.mu, epsilon=epsilons)
    leaked = np.array(exact.get_delta_for_epsilon(list(epsilons)))
    assert np.all(leaked <= allowed * (1 + 1e-9))
    assert not np.all(
        leaked <= together.delta + (1 - together.delta) * gdp.delta(mu=0.97 * together.mu, epsilon=epsilons)
    )


def test_parts_of_all_kinds_add_up() -> None:
    """Goal: certificates stand beside closed forms. Method: a composed mechanism, and the sum of its parts' costs."""
    gaussian = {"type": "gaussian", "noise_multiplier": 4}
    noisy = {"type": "zcdp", "rho": Decimal("0.02")}
    sampled = dpsgd(2, "0.02", 500)
    found = cost(composed(gaussian, sampled, noisy))
    parts = [cost(part) for part in (gaussian, sampled, noisy)]
    assert found.mu_sq == sum(part.mu_sq for part in parts)
    assert found.nats == sum(part.nats for part in parts)
    assert found.method == "composed: gaussian, pld-poisson, zcdp-renyi"


@pytest.mark.parametrize("segments", [2, 3, 10, 299])
def test_segments_have_a_certificate_each(segments: int) -> None:
    """Goal: each segment has its own certificate at its part of delta; together they cover all steps, spend no more
    delta than the run has, and cost more than the run without segments. Method: the certificate of one, asked for
    directly; dp-accounting's optimistic composition of all steps."""
    declared = dpsgd(1, "0.01", 600)
    mechanism = mechanisms.parse(declared)
    found = costs.cost(
        mechanism, Terms(bound="certified", adjacency="add_or_remove_one", delta=DELTA, segments=segments)
    )
    each = -(-600 // segments)
    one = cost(dpsgd(1, "0.01", each), delta=DELTA / segments)
    assert one.method == found.method == "pld-poisson"
    assert one.mu == pytest.approx(
        certified.subsampled_gaussian(
            noise_multiplier=1.0, sample_rate=0.01, steps=each, delta=float(DELTA / segments)
        ).mu,
        rel=1e-6,
    )
    assert (found.mu_sq, found.nats) == (segments * one.mu_sq, segments * one.nats)
    whole = cost(declared)
    assert found.nats <= whole.nats
    assert found.amount.delta_atto <= whole.amount.delta_atto
    assert found.mu_sq > whole.mu_sq
    epsilons = np.linspace(0.0, 6.0, 60)
    orders = optimistic(Step("removal", 1.0, 0.01), steps=segments * each, epsilons=epsilons)
    assert orders is not None
    allowed = found.delta + (1 - found.delta) * gdp.delta(mu=found.mu, epsilon=epsilons)
    assert all(np.all(leaked <= allowed * (1 + 1e-9)) for leaked in orders)


def test_one_segment_is_the_run() -> None:
    """Goal: segments that are not asked for change nothing. Method: with one, and without."""
    for declared in (dpsgd(1, "0.01", 600), {"type": "zcdp", "rho": 1}, composed(dpsgd(1, "0.01", 60))):
        mechanism = mechanisms.parse(declared)
        found = costs.cost(mechanism, Terms(bound="certified", adjacency="replace_one", delta=DELTA, segments=1))
        assert found == cost(declared, "replace_one")


def test_zcdp_and_matrix_factorization() -> None:
    """Goal: each is charged by its own theorem. Method: their modules; replacing one doubles the sensitivity."""
    found = cost({"type": "zcdp", "rho": Decimal("0.5")})
    assert found.mu == zcdp.mu_zcdp(rho=0.5, delta=0.0)
    assert found.nats == 0
    stated = {"type": "matrix_factorization", "noise_multiplier": 4, "sensitivity": 2, "evidence": "a paper"}
    assert cost(stated).mu_sq == Fraction(1, 4)
    assert cost(stated, "replace_one").mu_sq == 1
    named = {"type": "matrix_factorization", "noise_multiplier": 2, "steps": 1000, "participations": 1}
    tree = named | {"strategy": "tree", "completion": "none"}
    assert cost(tree).mu_sq == strategies.sensitivity_sq(strategies.Shape(strategy="tree"), steps=1000) / 4
    with pytest.raises(TooLarge) as raised:
        cost({**named, "strategy": "sqrt", "steps": 10**6 + 1})
    assert raised.value.facts["field"] == "mechanism.steps"


@pytest.mark.parametrize(
    "declared",
    [
        {},
        {"sensitivity": 1},
        {"evidence": "a paper"},
        {"sensitivity": 1, "evidence": "a paper", "strategy": "tree", "steps": 8},
        {"strategy": "tree"},
        {"steps": 8},
        {"sensitivity": 1, "evidence": "a paper", "participations": 2},
        {"strategy": "tree", "steps": 8, "participations": 1, "completion": "none", "bandwidth": 2},
        # What a default would charge too little for has none.
        {"strategy": "identity", "steps": 8},
        {"strategy": "sqrt", "steps": 8, "separation": 2},
        {"strategy": "sqrt", "steps": 8, "participations": 2},
        {"strategy": "sqrt", "steps": 8, "participations": 1, "completion": "none"},
        {"strategy": "tree", "steps": 8, "participations": 1},
        {"strategy": "tree", "steps": 8, "completion": "power_of_two"},
        {"sensitivity": 1, "evidence": "a paper", "completion": "none"},
    ],
)
def test_a_matrix_factorization_has_one_form(declared: dict[str, Any]) -> None:
    """Goal: half a declaration, or two at once, is refused."""
    with pytest.raises(InvalidMechanism):
        mechanisms.parse({"type": "matrix_factorization", "noise_multiplier": 1, **declared})


@pytest.mark.parametrize(
    "declared",
    [{"strategy": "tree"}, {"strategy": "sqrt", "participations": 3}, {"strategy": "identity", "participations": 2}],
    ids=["tree", "sqrt", "identity"],
)
def test_what_was_recorded_means_what_it_meant(declared: dict[str, Any]) -> None:
    """Goal: a declaration from before, which did not have to say how often a unit takes part, costs what it did, alone
    and as a part, though it may no longer be declared so. Method: the sensitivity with what it meant."""
    before = {"type": "matrix_factorization", "noise_multiplier": 1, "steps": 11, **declared}
    shape = strategies.Shape(strategy=declared["strategy"])
    squared = strategies.sensitivity_sq(shape, steps=11, participations=declared.get("participations", 1))
    for recorded in (before, {"type": "composed", "parts": [before]}):
        assert (
            costs.cost(mechanisms.recorded(recorded), Terms(bound="clt", adjacency="replace_one")).mu_sq == 4 * squared
        )
        with pytest.raises(InvalidMechanism):
            mechanisms.parse(recorded)


def test_a_record_is_read_as_it_stands() -> None:
    """Goal: what says all that it has to is read as it is, and what is no mechanism is none. Method: some of each."""
    tree = {"type": "matrix_factorization", "noise_multiplier": 1, "steps": 11, "strategy": "tree"}
    tree |= {"participations": 2, "separation": 3, "completion": "power_of_two"}
    for kept in ({"type": "gaussian", "noise_multiplier": 1}, tree):
        assert mechanisms.recorded(kept) == mechanisms.parse(kept)
    wrong: list[Any] = [None, [], {"type": "composed", "parts": 7}, {"type": "composed", "parts": [None]}]
    for broken in wrong:
        with pytest.raises(InvalidMechanism):
            mechanisms.recorded(broken)


def test_a_published_tree_is_charged_no_less_than_it_costs() -> None:
    """Goal: the published training of DP-FTRL, noise 46.3, 100 epochs of 100 batches in a fixed order, restarted every
    20 epochs, with the four trees before a restart completed, is charged its mu of 1.3878, or little more.

    Method: that mu from every node of the trees, for the worst place of a unit in the order; declared in five segments,
    which are all completed, and as what it is, four trees that are completed and one that is not.
    """

    def squared(released: int) -> int:
        levels = range(released.bit_length())
        orders = [[place + 100 * epoch for epoch in range(20)] for place in range(100)]
        nodes = [Counter((level, step >> level) for step in order for level in levels) for order in orders]
        sums = [
            sum(int(count) ** 2 for (level, index), count in counts.items() if (index + 1) << level <= released)
            for counts in nodes
        ]
        return max(sums)

    published = math.sqrt(4 * squared(2048) + squared(2000)) / 46.3
    assert published == pytest.approx(1.3878, abs=5e-5)
    tree = {"type": "matrix_factorization", "noise_multiplier": Decimal("46.3"), "strategy": "tree", "steps": 10_000}
    tree |= {"participations": 20, "separation": 100, "completion": "power_of_two"}
    terms = Terms(bound="certified", adjacency="add_or_remove_one")
    in_segments = costs.cost(mechanisms.parse(tree), replace(terms, segments=5))
    one = tree | {"steps": 2000}
    parts = {"type": "composed", "parts": [one] * 4 + [one | {"completion": "none"}]}
    assert published <= costs.cost(mechanisms.parse(parts), terms).mu <= 1.02 * published
    assert published <= in_segments.mu <= 1.08 * published
    assert any("completed to the next power of two" in text for text in in_segments.assumptions)


def test_the_frontier_is_what_each_share_would_cost() -> None:
    """Goal: along delta mu only grows as delta falls, and each point is the cost at that share. Method: the cost of
    each; closed forms and estimates have none."""
    mechanism = mechanisms.parse(dpsgd(1, "0.01", 1_000))
    points = costs.frontier(mechanism, bound="certified", adjacency="add_or_remove_one")
    assert [delta for delta, _ in points] == [float(f"1e-{exponent}") for exponent in range(4, 16)]
    assert [mu for _, mu in points] == sorted(mu for _, mu in points)
    for delta, mu in points:
        assert mu == pytest.approx(cost(dpsgd(1, "0.01", 1_000), delta=Fraction(delta)).mu, rel=2e-3)
    gaussian = mechanisms.parse({"type": "gaussian", "noise_multiplier": 1})
    assert costs.frontier(gaussian, bound="certified", adjacency="add_or_remove_one") == []
    assert costs.frontier(mechanism, bound="clt", adjacency="add_or_remove_one") == []


@pytest.mark.parametrize("written", ["0.1", "1.1", "0.3", "1e-7", "0.333333333333333333333", "7"])
def test_decimals_are_read_to_the_dearer_side(written: str) -> None:
    """Goal: a double never stands for less cost than the decimal that was written. Method: exact fractions."""
    value = Fraction(Decimal(written))
    below, above = certify.at_most(value), certify.at_least(value)
    assert Fraction(below) <= value <= Fraction(above)
    assert above <= math.nextafter(below, math.inf)
