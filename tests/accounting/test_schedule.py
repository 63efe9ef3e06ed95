"""`dpsgd_schedule`: no cost is too low, none is far above the composition, and how it is settled."""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, get_args

import mpmath as mp
import pytest
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.privacy_accountant import NeighboringRelation

from ledger.accounting import (
    blending,
    certify,
    composition,
    costs,
    exact,
    gdp,
    levels,
    mechanisms,
    residual,
    settling,
)
from ledger.accounting.amounts import PICO
from ledger.accounting.cost import Cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.mechanisms.dpsgd_schedule import PHASES_MAX
from ledger.accounting.restarts import Restart
from ledger.accounting.settling import Charge, Restarts, Stop
from ledger.accounting.terms import Terms
from ledger.core.datasets import Adjacency
from ledger.errors import InvalidMechanism, InvalidRequest
from tests.accounting.oracle_curves import Step
from tests.accounting.oracle_residual import Run, Sampled, least_costs
from tests.accounting.samples import PHASES

DELTA = Decimal("1e-8")
Phase = dict[str, Any]


def phase(noise: Any, rate: Any, steps: int = 1) -> Phase:
    """A phase, as a user declares it."""
    return {"noise_multiplier": Decimal(str(noise)), "sample_rate": Decimal(str(rate)), "steps": steps}


def schedule(phases: list[Phase], sampling: str = "poisson", **more: Any) -> dict[str, Any]:
    """A schedule of these phases."""
    return {"type": "dpsgd_schedule", "sampling": sampling, "phases": phases, **more}


def decay(first: float, last: float, count: int, *, rate: float = 0.004, steps: int = 20) -> list[Phase]:
    """Noise that falls by the same factor from phase to phase."""
    return [phase(f"{first * (last / first) ** (k / (count - 1)):.6f}", rate, steps) for k in range(count)]


def terms(adjacency: Adjacency = "add_or_remove_one", **more: Any) -> Terms:
    """The terms of a certified run."""
    return Terms(**{"bound": "certified", "adjacency": adjacency, "delta": DELTA, **more})


def cost(declared: dict[str, Any], adjacency: Adjacency = "add_or_remove_one", **more: Any) -> Cost:
    """What it is charged."""
    return costs.cost(mechanisms.parse(declared), terms(adjacency, **more))


# --- no cost is too low ----------------------------------------------------------------------------------------------


def _drawn(rng: random.Random) -> list[Phase]:
    """A random schedule with more levels than are composed as they are: both decay or grow, one of them, or neither."""
    count = rng.randint(levels.DISTINCT_MAX + 1, 60)
    noises, rates = (
        sorted(math.exp(rng.uniform(*map(math.log, ends))) for _ in range(2)) for ends in ((0.5, 6), (1e-3, 0.3))
    )
    drawn = []
    shape = rng.choice(["noise", "rate", "both", "cloud"])
    for k in range(count):
        along = [k / (count - 1)] * 2 if shape != "cloud" else [rng.random(), rng.random()]
        noise = noises[0] if shape == "rate" else noises[1] * (noises[0] / noises[1]) ** along[0]
        rate = rates[0] if shape == "noise" else rates[0] + (rates[1] - rates[0]) * along[1]
        drawn.append(phase(f"{noise:.5g}", f"{rate:.5g}", rng.choice([1, rng.randint(1, 30)])))
    rng.shuffle(drawn)
    return drawn


def _run(phases: list[Phase], adjacency: Adjacency, sampling: str) -> Run:
    """The same for the oracle."""
    kind: Any = {"add_or_remove_one": "removal"}.get(adjacency, "antipodal" if sampling == "poisson" else "symmetrised")
    total = sum(each["steps"] for each in phases)
    share = 1e-3 * float(DELTA) / total
    reach = 2 if kind == "symmetrised" else 1
    return Run(
        tuple(
            (
                Sampled(Step(kind, reach / float(each["noise_multiplier"]), float(each["sample_rate"])), share),
                each["steps"],
            )
            for each in phases
        )
    )


PAIRS: tuple[tuple[Adjacency, str], ...] = (
    ("add_or_remove_one", "poisson"),
    ("replace_one", "poisson"),
    ("replace_one", "fixed_size"),
)


def test_no_cost_is_too_low(tries: Callable[[int, int], int]) -> None:
    """Goal: mu² of a random schedule, and its cost beside what is left, are enough. Method: a test that tells P from Q,
    with every level as it is, under all three pairs; some costs are so close that ten percent would be seen."""
    rng = random.Random(41)
    ratios: list[tuple[float, list[Phase]]] = []
    for number in range(tries(3, 400)):
        phases, (adjacency, sampling) = _drawn(rng), PAIRS[number % 3]
        mechanism = mechanisms.parse(schedule(phases, sampling))
        level = math.exp(rng.uniform(math.log(0.02), math.log(5)))
        certificate = costs.cost(mechanism, terms(adjacency))
        if certificate.method == "fallback" or certificate.mu > 12:
            continue
        table = residual.residual_costs(mechanism, terms(adjacency), (0, round(level * PICO)))
        found = least_costs(_run(phases, adjacency, sampling), (0.0, level), float(DELTA))
        charged = (float(certificate.mu_sq), table[1] / PICO)
        ratios += [(c / least, phases) for c, least in zip(charged, found, strict=True) if least > 0]
    worst, phases = min(ratios, key=lambda entry: entry[0])
    middle = statistics.median(ratio for ratio, _ in ratios)
    print(
        f"{len(ratios)} costs of schedules: the closest {worst - 1:.1e} above the oracle, the median {middle - 1:.1e}"
    )
    assert worst >= 1, phases
    assert worst < 1.1


def _theirs(phases: list[Phase], adjacency: Adjacency, at_delta: float, *, is_upper: bool) -> float:
    """Epsilon by dp-accounting's composition of the phases, from above by connecting the dots, or from below."""
    relation = NeighboringRelation.REPLACE_ONE if adjacency == "replace_one" else NeighboringRelation.ADD_OR_REMOVE_ONE
    total = sum(each["steps"] for each in phases)
    composed = None
    for each in phases:
        one = privacy_loss_distribution.from_gaussian_mechanism(
            float(each["noise_multiplier"]),
            sampling_prob=float(each["sample_rate"]),
            neighboring_relation=relation,
            pessimistic_estimate=is_upper,
            use_connect_dots=is_upper,
            value_discretization_interval=2e-3 if is_upper else 0.05 / total,
        )
        several = one.self_compose(each["steps"]) if each["steps"] > 1 else one
        composed = several if composed is None else composed.compose(several)
    assert composed is not None
    return float(composed.get_epsilon_for_delta(at_delta + (0 if is_upper else 4e-15 + 2e-15 * total)))


def test_the_composition_of_a_schedule(tries: Callable[[int, int], int]) -> None:
    """Goal: epsilon of a schedule is not below that of its phases, and not far above, exactly composed or charged.
    Method: random schedules beside dp-accounting, from below and from above."""
    rng = random.Random(43)
    above, charged = [], []
    for _ in range(tries(1, 300)):
        phases = [{**each, "steps": min(each["steps"], 3)} for each in _drawn(rng)[:20]]
        adjacency: Adjacency = rng.choice(get_args(Adjacency))
        mechanism = mechanisms.parse(schedule(phases))
        (found,) = exact.epsilons(mechanism.exact_parts(terms(adjacency)), [1e-5]).epsilons
        lower, upper = (_theirs(phases, adjacency, 1e-5, is_upper=side) for side in (False, True))
        once = costs.cost(mechanism, terms(adjacency))
        ours = gdp.epsilon_upper(mu=once.mu, delta=once.delta, at_delta=1e-5)
        assert found is not None
        assert lower * (1 - 1e-9) <= min(found, ours), phases
        above.append(found / upper)
        charged.append(float(ours) / upper)
    print(f"exact at most {max(above):.4f} times dp-accounting's, median {statistics.median(above):.4f};")
    print(f"charged at least {min(charged):.4f} times, median {statistics.median(charged):.4f}")
    assert max(above) < 1.1
    assert statistics.median(above) < 1.03


def test_a_level_is_below_a_mixture(tries: Callable[[int, int], int]) -> None:
    """Goal: the divergence of a pair is convex in its rate, and in the total variation without sampling. Method: random
    points between two others, at random alpha, by the definition of the divergence in mpmath."""
    rng = random.Random(47)
    with mp.workdps(200):
        for number in range(tries(30, 2_000)):
            alpha = mp.exp(rng.choice([-1, 1]) * 10 ** rng.uniform(-3, 1))
            low, rate = 10 ** rng.uniform(-2, 0.5), 10 ** rng.uniform(-4, 0)
            high, share = low * 10 ** rng.uniform(0.01, 0.5), rng.uniform(0.05, 0.95)
            divergence, reach = ((_removal, 1), (_antipodal, 2))[number % 2]
            middle = low + (high - low) * share
            ends = [mp.erfc(reach * mp.mpf(d) / mp.sqrt(8)) for d in (low, middle, high)]
            weight = (ends[0] - ends[1]) / (ends[0] - ends[2])
            mixed = (1 - weight) * divergence(alpha, rate, low) + weight * divergence(alpha, rate, high)
            assert divergence(alpha, rate, middle) <= mixed + mp.mpf(10) ** -150
            rates = rate, rate + (1 - rate) * share, 1.0
            mixed = (1 - mp.mpf(share)) * divergence(alpha, rates[0], low) + mp.mpf(share) * divergence(alpha, 1.0, low)
            assert divergence(alpha, rates[1], low) <= mixed + mp.mpf(10) ** -12


def _removal(alpha: Any, rate: Any, d: Any) -> Any:
    rate, d = mp.mpf(rate), mp.mpf(d)
    level = 1 + (alpha - 1) / rate
    if level <= 0:
        return 1 - alpha
    z = mp.log(level) / d + d / 2
    return rate * (mp.ncdf(d - z) - level * mp.ncdf(-z))


def _antipodal(alpha: Any, rate: Any, d: Any) -> Any:
    rate, d = mp.mpf(rate), mp.mpf(d)
    # Where p = alpha q, a quadratic equation in e^(d z).
    edge, rest = rate * mp.exp(-d * d / 2), (1 - rate) * (1 - alpha)
    z = mp.log((mp.sqrt(rest * rest + 4 * edge * edge * alpha) - rest) / (2 * edge)) / d
    return rest * mp.ncdf(-z) + rate * mp.ncdf(d - z) - alpha * rate * mp.ncdf(-z - d)


def test_weights_and_counts_of_a_blend() -> None:
    """Goal: every level is between its corners, as worked out in fractions, and no step is lost. Method: a schedule of
    both; weights times corners, in rate and in total variation, are not below the level, and less than a cell above."""
    steps = [(levels.Level("removal", 0.3 + k / 100, 0.001 + 0.0001 * (k % 7)), k + 1) for k in range(100)]
    blended = levels.blend(steps)
    assert blended.mixing is not None
    assert len(blended.nodes) <= levels.NODES_MAX
    counts, weights = blended.mixing.counts, blended.mixing.weights
    assert counts.sum() == sum(count for _, count in steps)
    assert weights.sum(axis=1).tolist() == [1.0] * counts.size
    rates = [node.rate for node, _ in blended.nodes]
    averages = (weights * [[rates[at] for at in row] for row in blended.mixing.corners]).sum(axis=1)
    true = sum(level.rate * count for level, count in steps) / counts.sum()
    assert true <= float(averages @ counts) / counts.sum() <= true * 1.01
    assert sum(count for _, count in blended.nodes) >= counts.sum()


def test_a_bound_for_negligible_frequencies_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what is taken for 0 in the transform is in the error. Method: with a threshold at which much is left out,
    a certificate costs more, or there is none."""
    declared = schedule(decay(1.5, 1.2, 20))
    usual = cost(declared)
    monkeypatch.setattr(blending, "_NEGLIGIBLE_LOG", -8.0)
    assert cost(declared).mu_sq > usual.mu_sq


# --- how much it costs, and what it takes ----------------------------------------------------------------------------


def counted_curves(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of different pairs in each composition from here on."""
    curves: list[int] = []
    curve = certify.curve

    def counted(steps: Any, **rest: Any) -> Any:
        curves.append(len(steps))
        return curve(steps, **rest)

    monkeypatch.setattr(certify, "curve", counted)
    return curves


def test_few_transforms_serve_many_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a schedule of thousands of levels takes no more transforms than one of some dozens, and what is shown
    along delta takes none more. Method: count them."""
    made: list[int] = []
    transform = composition.characteristic

    def counted(*given: Any, **named: Any) -> Any:
        made.append(named["length"])
        return transform(*given, **named)

    monkeypatch.setattr(composition, "characteristic", counted)
    mechanism = mechanisms.parse(schedule(decay(1.5, 1, 1_000, steps=1)))
    curves = counted_curves(monkeypatch)
    costs.cost(mechanism, terms())
    assert 0 < len(made) <= 2 * levels.NODES_MAX
    costs.frontier(mechanism, bound="certified", adjacency="add_or_remove_one")
    assert len(curves) == 2


def test_a_noise_that_changes_each_epoch() -> None:
    """Goal: 101 epochs of decaying noise cost little more than their composition. Method: mu 0.735 is that of their
    privacy loss distributions at delta 1e-8, and epsilon 3.07 at 1e-5."""
    declared = schedule([phase(f"{1.5 * 0.995**k:.6f}", 256 / 60_000, 235) for k in range(101)])
    found = cost(declared)
    assert 0.735 <= found.mu <= 1.03 * 0.735
    assert 3.07 <= gdp.epsilon_upper(mu=found.mu, delta=1e-8, at_delta=1e-5) <= 1.03 * 3.07


def test_very_many_parts_are_levels_of_a_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an epoch a part costs what the schedule of its epochs costs, in as few compositions, also beside a part
    that has no levels. Method: the 101 epochs declared as parts, the last of them twice."""
    phases = [phase(f"{1.5 * 0.995**k:.6f}", 256 / 60_000, 235) for k in range(101)]
    parts = [{**each, "type": "dpsgd", "sampling": "poisson"} for each in [*phases, phases[-1]]]
    curves = counted_curves(monkeypatch)
    found = cost({"type": "composed", "parts": parts})
    assert curves == [101]
    assert 0.735 <= found.mu == cost(schedule([*phases, phases[-1]])).mu
    # A level of a schedule among the parts is one more of the same.
    assert cost({"type": "composed", "parts": [*parts[:-1], schedule([phases[-1]])]}).mu == found.mu
    beside = cost({"type": "composed", "parts": [*parts, {"type": "gaussian", "noise_multiplier": 1}]})
    assert beside.mu == pytest.approx(math.hypot(found.mu, 1), rel=1e-12)
    mechanism = mechanisms.parse({"type": "composed", "parts": parts})
    (epsilon,) = exact.epsilons(mechanism.exact_parts(terms()), [1e-5]).epsilons
    assert epsilon is not None
    assert 3 < epsilon < gdp.epsilon_upper(mu=found.mu, delta=1e-8, at_delta=1e-5)


def test_few_levels_are_composed_as_they_are() -> None:
    """Goal: a schedule of few levels costs what its parts cost composed, and one level what DP-SGD costs. Method: both
    declared."""
    phases = decay(1.5, 1, levels.DISTINCT_MAX)
    parts = [{**each, "type": "dpsgd", "sampling": "poisson"} for each in phases]
    assert cost(schedule(phases)).mu == pytest.approx(cost({"type": "composed", "parts": parts}).mu, rel=1e-9)
    assert cost(schedule(phases[:1])).mu == cost(parts[0]).mu


def test_a_schedule_is_a_part_like_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: in a composition its steps are certified with those of the others, at one share of delta. Method: count
    compositions, and compare with one schedule of all steps."""
    curves = counted_curves(monkeypatch)
    phases, more = decay(1.5, 1, 20), phase(2, 0.01, 50)
    whole = cost(schedule([*phases, more]))
    both = cost({"type": "composed", "parts": [schedule(phases), {**more, "type": "dpsgd", "sampling": "poisson"}]})
    assert curves == [21, 21]
    assert both.mu == pytest.approx(whole.mu, rel=0.01)
    assert both.nats == whole.nats


@pytest.mark.parametrize("sampling", ["poisson", "fixed_size"])
def test_the_division_into_phases_changes_nothing(sampling: str) -> None:
    """Goal: phases cut in two, or in another order, cost the same to the last bit. Method: both declared."""
    phases = decay(1.5, 1, 20)
    cut = [{**each, "steps": steps} for each in phases for steps in (3, each["steps"] - 3)]
    whole = cost(schedule(phases, sampling), "replace_one")
    assert cost(schedule(cut, sampling), "replace_one") == whole
    assert cost(schedule(phases[::-1], sampling), "replace_one") == whole
    assert cost(schedule(phases, sampling), "replace_one", bound="clt") == cost(
        schedule(cut, sampling), "replace_one", bound="clt"
    )


def test_more_noise_costs_less_and_more_steps_cost_more() -> None:
    """Goal: a cost grows with the steps, and falls with the factor on the noise, which is one on each phase. Method:
    prefixes of one schedule, and factors."""
    phases = decay(1.5, 1, 20)
    prefixes = [cost(schedule(phases[:count])).mu for count in (10, 17, 20)]
    assert prefixes == sorted(prefixes)
    scaled = [cost(schedule(phases, noise_scale=Decimal(scale))).mu for scale in ("1.1", "1", "0.9")]
    assert scaled == sorted(scaled)
    by_hand = [{**each, "noise_multiplier": each["noise_multiplier"] * Decimal("1.1")} for each in phases]
    assert cost(schedule(by_hand)).mu == scaled[0]


def test_what_is_not_sampled_is_added_in_squares() -> None:
    """Goal: phases of whole batches, or with next to no noise, are Gaussian releases beside the certificate of the
    others. Method: exact fractions."""
    phases, full = decay(1.5, 1, 20), phase(30, 1, 7)
    alone, both = cost(schedule(phases)), cost(schedule([full, *phases]))
    assert both.mu_sq == alone.mu_sq + Fraction(7, 900)
    assert both.nats == alone.nats
    assert any("sample rate of 1" in text for text in both.assumptions)
    for declared, delta in ((schedule([full, full]), DELTA), (schedule([full, phase(2, "0.1", 8)]), Decimal(0))):
        found = cost(declared, delta=delta)
        assert found.method == "fallback"
        assert found.nats == 0
        released = sum(Fraction(each["steps"]) / Fraction(each["noise_multiplier"]) ** 2 for each in declared["phases"])
        assert found.mu_sq == released


def test_the_estimate_is_the_sum_of_its_phases() -> None:
    """Goal: under clt a schedule costs what its phases cost composed, in each sampling. Method: both declared."""
    phases = decay(1.5, 1, 20)
    for sampling in ("poisson", "fixed_size"):
        parts = [{**each, "type": "dpsgd", "sampling": sampling} for each in phases]
        together = cost({"type": "composed", "parts": parts}, bound="clt")
        assert cost(schedule(phases, sampling), bound="clt").mu_sq == together.mu_sq


def test_fixed_size_needs_replacement() -> None:
    """Goal: without a known pair there is no certificate, and the estimate is no bound. Method: fixed size under
    add_or_remove_one."""
    declared = schedule(decay(1.5, 1, 20), "fixed_size")
    with pytest.raises(InvalidMechanism, match=r"mechanism\.sampling"):
        cost(declared)
    parts = mechanisms.parse(declared).exact_parts(terms(bound="clt"))
    assert not parts.is_bound


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"phases": []}, "mechanism.phases"),
        ({"phases": [PHASES[0]] * (PHASES_MAX + 1)}, "mechanism.phases"),
        ({"phases": [{**PHASES[0], "steps": 10**12}, PHASES[1]]}, "mechanism"),
        ({"phases": [{**PHASES[0], "sample_rate": 2}]}, "mechanism.phases.0.sample_rate"),
        ({"phases": [{**PHASES[0], "batch_size": 2}]}, "mechanism.phases.0.batch_size"),
        ({"sampling": "shuffle"}, "mechanism.sampling"),
        ({"noise_scale": 0}, "mechanism.noise_scale"),
    ],
)
def test_what_is_declared_wrongly(changed: dict[str, Any], field: str) -> None:
    """Goal: each wrong field is named. Method: one at a time."""
    with pytest.raises(InvalidMechanism) as raised:
        mechanisms.parse({**schedule(PHASES), **changed})
    assert raised.value.field == field


# --- settling --------------------------------------------------------------------------------------------------------


def settled(
    mechanism: AnyMechanism, steps: int, stop: Stop, restarts: Restarts = (), **more: Any
) -> tuple[Cost, Charge]:
    """What a run of it was approved for, and what it is charged."""
    under = terms(**more)
    approved = costs.cost(mechanism, under)
    return approved, settling.charge(
        mechanism, under, approved=approved.amount, method=approved.method, steps=steps, stop=stop, restarts=restarts
    )


def test_a_shorter_run_is_the_beginning_of_the_schedule() -> None:
    """Goal: a run that nothing secret stopped is charged its first steps, never more than the whole; any other all of
    it. Method: the phases up to there, declared."""
    phases = decay(1.0, 1.6, 20)
    mechanism = mechanisms.parse(schedule(phases))
    for steps in (1, 210):
        approved, charge = settled(mechanism, steps, "data_independent")
        until = phases[: steps // 20] + ([{**phases[steps // 20], "steps": steps % 20}] if steps % 20 else [])
        assert (
            charge.charged.mu_sq_pico
            == min(cost(schedule(until)).amount, approved.amount, key=lambda a: a.mu_sq_pico).mu_sq_pico
        )
        assert settled(mechanism, steps, "data_dependent")[1].charged == approved.amount
        assert charge.excess is None


def test_beyond_the_plan_each_step_is_one_of_the_worst() -> None:
    """Goal: however a schedule went on, its excess is covered: by that many steps with the least noise and the largest
    rate if nothing secret decided how many, by whole plans of such if outputs did, each with its delta. Method: those
    declared, as DP-SGD."""
    phases = [phase(1.5, "0.001", 30), phase(2, "0.01", 20), phase(1.2, "0.004", 50)]
    mechanism = mechanisms.parse(schedule(phases))
    worst = {"type": "dpsgd", "sampling": "poisson", "noise_multiplier": Decimal("1.2"), "sample_rate": Decimal("0.01")}
    approved, fixed = settled(mechanism, 170, "data_independent")
    assert fixed.charged == approved.amount
    assert fixed.excess is not None
    assert fixed.excess.mu_sq == cost({**worst, "steps": 70}).mu_sq
    _, decided = settled(mechanism, 270, "data_dependent")
    assert decided.excess is not None
    plan = cost({**worst, "steps": 100})
    assert decided.excess.mu_sq == 2 * plan.mu_sq
    assert decided.excess.nats == 2 * plan.nats
    assert any("beyond the plan" in text for text in decided.excess.assumptions)


def test_steps_run_again_cost_what_their_place_has() -> None:
    """Goal: a repeated step is one release without sampling, with the noise of its place, beyond the plan the least; a
    run without reported restarts is charged the worst. Method: exact fractions."""
    phases = [phase(4, "0.01", 10), phase(2, "0.01", 10), phase(8, "0.01", 10)]
    mechanism = mechanisms.parse(schedule(phases))
    for is_new in (False, True):
        restarts = (Restart(9, 12, is_new), Restart(29, 31, is_new))
        _, charge = settled(mechanism, 31 + 4 + 3, "data_independent", restarts)
        beyond = cost(schedule([phase(2, "0.01", 1)])).mu_sq
        assert charge.excess is not None
        repeated = Fraction(2, 16) + Fraction(2, 4) + Fraction(2, 64) + Fraction(1, 4)
        assert charge.excess.mu_sq == beyond + repeated
        assert charge.repeated == 7
    _, worst = settled(mechanism, 60, "data_dependent", None)
    assert worst.excess is not None
    assert worst.excess.mu_sq >= Fraction(59, 4)


def test_without_amplification_a_stopped_run_pays_its_releases() -> None:
    """Goal: charged as releases, a run pays those that it made, whatever stopped it, and its excess by release; a
    repeated early step with less noise is not taken for a later one with more. Method: exact fractions."""
    mechanism = mechanisms.parse(schedule([phase(1, 1, 4), phase(10, 1, 96)]))
    _, short = settled(mechanism, 10, "data_dependent")
    assert Fraction(short.charged.mu_sq_pico, PICO) == 4 + Fraction(6, 100)
    _, beyond = settled(mechanism, 102, "data_dependent")
    assert beyond.excess is not None
    assert beyond.excess.mu_sq == 2
    _, again = settled(mechanism, 10, "data_dependent", (Restart(1, 4, False),))
    assert Fraction(again.charged.mu_sq_pico, PICO) == 4 + Fraction(2, 100)
    assert again.excess is not None
    assert again.excess.mu_sq == 4


def test_segments_are_refused_with_the_reason() -> None:
    """Goal: no segments, because they would differ. Method: a cost in two."""
    with pytest.raises(InvalidRequest, match="no equal segments"):
        cost(schedule(PHASES), segments=2)
