"""`ledger.accounting.settling`: a run pays for what it did, and less than was approved only where that is proved.

What is rational is compared in exact fractions; amplified DP-SGD with dp-accounting's curves from below and with
certificates asked for directly; epochs with simulated loaders.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ledger.accounting import amounts, certify, costs, gdp, mechanisms, settling, strategies
from ledger.accounting.cost import MU_MAX, Cost
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.settling import Charge, Stop
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency, Bound
from ledger.errors import InvalidMechanism, TooLarge
from tests.accounting.oracle_curves import FloatArray, Step, optimistic
from tests.accounting.samples import EXAMPLES, appearances, composed, decimal, gaussian
from tests.kit import certified
from tests.kit.trials import trials

DELTA = Fraction(1, 10**8)
STOPS: tuple[Stop, ...] = get_args(Stop)
EARLY: tuple[Stop, ...] = ("data_independent", "data_dependent")
POISSON = {"type": "dpsgd", "noise_multiplier": 1, "sampling": "poisson", "sample_rate": Decimal("0.01"), "steps": 600}
SCHEDULE = EXAMPLES["dpsgd_schedule"]
SHUFFLED = POISSON | {"sampling": "shuffle", "sample_rate": Decimal("0.25"), "steps": 40}
SQRT = {"type": "matrix_factorization", "noise_multiplier": 2, "strategy": "sqrt", "steps": 100, "participations": 3}
SQRT |= {"separation": 1}
TREE = SQRT | {"strategy": "tree", "completion": "none"}
CORRELATED = {"tree": TREE, "sqrt": SQRT, "identity": SQRT | {"strategy": "identity"}}
ADDITIVE: list[dict[str, Any]] = [
    gaussian(5, 30),
    {"type": "laplace", "noise_multiplier": 3, "count": 30},
    {"type": "pure_dp", "epsilon": Decimal("0.1"), "count": 30},
    {"type": "approximate_dp", "epsilon": Decimal("0.1"), "delta": Decimal("1e-7"), "count": 30},
]


@dataclass(frozen=True)
class Approved:
    """A run that was approved, and can be settled."""

    mechanism: AnyMechanism
    bound: Bound
    adjacency: Adjacency
    delta: Fraction
    segments: int
    cost: Cost

    @property
    def amount(self) -> Amount:
        return self.cost.amount

    @property
    def terms(self) -> Terms:
        return Terms(bound=self.bound, adjacency=self.adjacency, delta=self.delta, segments=self.segments)

    def settle(
        self,
        steps: int | None,
        stop: Stop,
        *,
        approved: Amount | None = None,
        restarts: settling.Restarts = (),
    ) -> Charge:
        return settling.charge(
            self.mechanism,
            self.terms,
            approved=approved or self.amount,
            method=self.cost.method,
            steps=steps,
            stop=stop,
            restarts=restarts,
        )

    def is_dear(self, steps: int | None, stop: Stop, *, restarts: settling.Restarts = ()) -> bool:
        return settling.is_dear(
            self.mechanism,
            self.terms,
            method=self.cost.method,
            steps=steps,
            stop=stop,
            restarts=restarts,
        )

    def cost_of(self, steps: int, *, delta: Fraction | None = None) -> Cost:
        """What a run of so many steps would be approved for."""
        resized = self.mechanism.resized(steps)
        share = self.delta if delta is None else delta
        return costs.cost(resized, Terms(bound=self.bound, adjacency=self.adjacency, delta=share))


def approve(
    declared: dict[str, Any],
    *,
    bound: Bound = "certified",
    adjacency: Adjacency = "add_or_remove_one",
    delta: Fraction = DELTA,
    segments: int = 1,
) -> Approved:
    """The run, costed as an approval does."""
    mechanism = mechanisms.parse(declared)
    found = costs.cost(mechanism, Terms(bound=bound, adjacency=adjacency, delta=delta, segments=segments))
    return Approved(mechanism, bound, adjacency, delta, segments, found)


def allowed(charged: Amount, epsilons: FloatArray) -> FloatArray:
    """The (eps, delta) curve that a charge promises."""
    delta = amounts.delta_of(charged)
    return delta + (1 - delta) * gdp.delta(mu=amounts.mu_of(charged), epsilon=epsilons)


def leaked(declared: dict[str, Any], steps: int, epsilons: FloatArray) -> FloatArray:
    """What so many steps of Poisson DP-SGD leak at least, by dp-accounting's optimistic composition."""
    step = Step("removal", 1 / float(declared["noise_multiplier"]), float(declared["sample_rate"]))
    orders = optimistic(step, steps=steps, epsilons=epsilons)
    assert orders is not None
    return np.asarray(np.max(orders, axis=0))


EPSILONS = np.linspace(0.0, 6.0, 80)


# --- as approved -----------------------------------------------------------------------------------------------------


def test_what_was_planned_costs_what_was_approved() -> None:
    """Goal: from the floor to the ceiling of the planned steps, whatever made a run stop, and where no number is known
    or the run says that all of it was meant to be. Method: both ends, with and without segments."""
    by_epochs = {"type": "dpsgd", "noise_multiplier": 1, "sampling": "poisson"}
    by_epochs |= {"dataset_size": 1000, "batch_size": 7, "epochs": Decimal("1.5")}
    for declared in (*ADDITIVE, POISSON, SHUFFLED, TREE, by_epochs):
        for segments in (1, 4):
            run = approve(declared, segments=segments)
            planned = mechanisms.planned_steps(run.mechanism, segments)
            assert planned is not None
            for stop in STOPS:
                for steps in (*planned, None):
                    assert run.settle(steps, stop) == Charge(run.amount)
            assert run.settle(1, "planned") == Charge(run.amount)


@pytest.mark.parametrize(
    "declared",
    [
        {"type": "gdp", "mu": 1, "evidence": "x"},
        {"type": "zcdp", "rho": 1},
        {"type": "matrix_factorization", "noise_multiplier": 1, "sensitivity": 1, "evidence": "x"},
        composed([gaussian(1), gaussian(2)]),
    ],
    ids=lambda declared: str(declared["type"]),
)
def test_what_has_no_steps_is_charged_whole(declared: dict[str, Any]) -> None:
    """Goal: no number of steps lowers or raises it. Method: any number."""
    run = approve(declared)
    for stop in STOPS:
        for steps in (None, 0, 1, 10**6):
            assert run.settle(steps, stop) == Charge(run.amount)
            assert not run.is_dear(steps, stop)


# --- fewer steps -----------------------------------------------------------------------------------------------------


@given(data=st.data())
@settings(max_examples=trials(50, 150), deadline=None)
def test_releases_that_add_up_are_paid_one_by_one(data: st.DataObject) -> None:
    """Goal: each release made is charged, and no other, whatever made the run stop, in segments or not; rounded up
    once. Method: Gaussian mechanisms and DP-SGD's fallback in fractions, the rest as a run of so many."""
    adjacency: Adjacency = data.draw(st.sampled_from(get_args(Adjacency)))
    factor = 4 if adjacency == "replace_one" else 1
    rng = random.Random(data.draw(st.integers(0, 2**32)))
    noise, count = decimal(rng, "0.3", "100"), data.draw(st.integers(2, 10**6))
    steps, segments = data.draw(st.integers(0, count - 1)), data.draw(st.integers(1, min(count, 50)))
    made = max(steps, 1)
    stop = data.draw(st.sampled_from(EARLY))
    run = approve(gaussian(noise, count), adjacency=adjacency, segments=segments)
    assert run.settle(steps, stop) == Charge(Amount(math.ceil(made / Fraction(noise) ** 2 * 10**12), 0))
    trained = POISSON | {"noise_multiplier": noise, "steps": count}
    run = approve(trained, adjacency=adjacency, segments=segments, delta=Fraction(0))
    assert run.cost.method == "fallback"
    assert run.settle(steps, stop) == Charge(Amount(math.ceil(factor * made / Fraction(noise) ** 2 * 10**12), 0))
    run = approve(data.draw(st.sampled_from(ADDITIVE)), adjacency=adjacency, segments=segments % 30 + 1)
    made = made % 29 + 1
    assert run.settle(made, stop) == Charge(run.cost_of(made).amount)


def test_the_fallback_does_not_become_a_certificate() -> None:
    """Goal: a run that was approved by the fallback is refunded by it; a certificate of fewer steps is for all of them
    together, and has a delta that was not approved. Method: one for which a certificate would cost less."""
    run = approve(POISSON, delta=Fraction(0))
    certified = approve(POISSON | {"steps": 300})
    assert certified.amount.mu_sq_pico < 300 * 10**12
    for stop in EARLY:
        found = settling.charge(
            run.mechanism,
            Terms(bound="certified", adjacency="add_or_remove_one", delta=DELTA, segments=1),
            approved=run.amount,
            method="fallback",
            steps=300,
            stop=stop,
        )
        assert found.charged == Amount(300 * 10**12, 0)


def test_no_unit_is_in_more_epochs_than_a_stopped_run_is_charged(tries: Callable[[int, int], int]) -> None:
    """Goal: whole epochs of shuffle, by those touched, also with segments that restart, and beyond the plan, where the
    excess may begin within an epoch. Method: simulated loaders, in the order worst for one unit."""
    rng = random.Random(31)
    for _ in range(tries(200, 20_000)):
        size = rng.randint(1, 20)
        batch, steps = rng.randint(1, size), rng.randint(2, 60)
        epochs = Decimal(-(-steps * batch * 10**20 // size)).scaleb(-20)
        declared = {"type": "dpsgd", "noise_multiplier": 1, "sampling": "shuffle"}
        declared |= {"dataset_size": size, "batch_size": batch, "epochs": epochs}
        planned = mechanisms.planned_steps(mechanisms.parse(declared))
        assert planned is not None
        run = approve(declared, segments=rng.randint(1, min(6, planned[0])))
        done = rng.randint(1, 100)
        found = run.settle(done, rng.choice(EARLY))
        most = (mechanisms.planned_steps(run.mechanism, run.segments) or (0, 0))[1]
        for drop_last in (True, False):
            epoch = size // batch if drop_last else -(-size // batch)
            if run.segments == 1:  # one training, that goes on beyond its plan without a restart
                ends, pieces = math.ceil(Fraction(epochs) * epoch), [done]
            else:  # the last segment goes on
                segment = -(-math.ceil(epochs) // run.segments) * epoch
                whole = min((done - 1) // segment, run.segments - 1)
                ends, pieces = run.segments * segment, [segment] * whole + [done - whole * segment]
            if ends < done <= most:  # it has begun more epochs than were declared
                continue
            seen = sum(appearances(rng, size=size, batch=batch, steps=piece, drop_last=drop_last) for piece in pieces)
            excess = 0 if found.excess is None else found.excess.amount.mu_sq_pico
            assert seen * 10**12 <= found.charged.mu_sq_pico + excess


@pytest.mark.parametrize("bound", get_args(Bound))
def test_a_run_that_stopped_because_of_what_it_saw_is_charged_whole(bound: Bound) -> None:
    """Goal: no refund of amplified DP-SGD, nor of correlated noise, without segments: the stop depends on the outputs,
    and what was certified was all steps together. Method: every way to stop early."""
    for declared in (POISSON, TREE, SQRT):
        run = approve(declared, bound=bound)
        assert run.cost.method != "fallback"
        for steps in (0, 1, 50, 99):
            assert run.settle(steps, "data_dependent") == Charge(run.amount)
            assert not run.is_dear(steps, "data_dependent")


@given(segments=st.integers(2, 40), steps=st.integers(0, 99), declared=st.sampled_from([POISSON, TREE]))
@settings(max_examples=trials(20, 60), deadline=None)
def test_segments_that_were_started_are_paid_in_full(segments: int, steps: int, declared: dict[str, Any]) -> None:
    """Goal: as many as were begun, one at least, and at most a unit of rounding more. Method: the segment's own cost in
    fractions; they are counted one by one."""
    run = approve(declared | {"steps": 100}, segments=segments)
    each = -(-100 // segments)
    once = run.cost_of(each, delta=DELTA / segments)
    begun = sum(1 for first in range(0, segments * each, each) if first < max(steps, 1))
    charged = run.settle(steps, "data_dependent").charged
    assert 0 <= charged.mu_sq_pico - begun * once.mu_sq * 10**12 < 2
    assert 0 <= charged.delta_atto - begun * once.nats * 10**18 < 2
    assert not charged.exceeds(run.amount)


@pytest.mark.parametrize("steps", [1, 60, 299, 599])
def test_a_stop_that_nothing_secret_caused_is_a_shorter_run(steps: int) -> None:
    """Goal: the charge of a data-independent stop covers what its steps leak, and is theirs alone. Method: the
    certificate of so many steps, asked for directly; dp-accounting from below, within 5 % of the charge in mu."""
    run = approve(POISSON)
    charged = run.settle(steps, "data_independent").charged
    direct = certified.subsampled_gaussian(noise_multiplier=1.0, sample_rate=0.01, steps=steps, delta=1e-8)
    assert amounts.mu_of(charged) == pytest.approx(direct.mu, rel=1e-6)
    assert charged.mu_sq_pico < run.amount.mu_sq_pico
    assert charged.delta_atto == run.amount.delta_atto
    lost = leaked(POISSON, steps, EPSILONS)
    assert np.all(lost <= allowed(charged, EPSILONS) * (1 + 1e-9))
    if steps > 100:
        less = Amount(int(charged.mu_sq_pico * Fraction(95, 100) ** 2), charged.delta_atto)
        assert not np.all(lost <= allowed(less, EPSILONS))


@pytest.mark.parametrize("steps", [1, 100, 149, 150, 151, 449, 599])
def test_segments_and_a_part_of_one(steps: int) -> None:
    """Goal: a data-independent stop pays for full segments and for the steps of the last one, at most for the segments
    begun, and covers what was done. Method: certificates asked for directly at a quarter of delta, added up in
    fractions; dp-accounting's composition of all steps from below."""
    run = approve(POISSON, segments=4)
    whole, rest = divmod(steps, 150)
    share = DELTA / 4
    once, part = run.cost_of(150, delta=share), run.cost_of(max(rest, 1), delta=share)
    exact = whole * once.mu_sq + (part.mu_sq if rest else 0)
    charged = run.settle(steps, "data_independent").charged
    assert 0 <= charged.mu_sq_pico - exact * 10**12 < 2
    assert not charged.exceeds(run.settle(steps, "data_dependent").charged)
    assert charged.delta_atto <= run.amount.delta_atto
    assert np.all(leaked(POISSON, steps, EPSILONS) <= allowed(charged, EPSILONS) * (1 + 1e-9))


def test_a_part_of_correlated_noise_is_the_shorter_strategy() -> None:
    """Goal: stopped by nothing secret, matrix factorization costs what so many steps of its strategy do. Method: the
    sensitivity from the first rows and columns of the strategy's matrix, in NumPy."""
    for strategy in ("identity", "tree", "sqrt"):
        run = approve(CORRELATED[strategy] | {"separation": 10, "steps": 64})
        for steps in (1, 13, 40, 63):
            charged = run.settle(steps, "data_independent").charged
            leading = _matrix(strategy, 64)[:, :steps]
            # Rows that only later steps complete are not released.
            leading = leading[[row for row in range(leading.shape[0]) if not _matrix(strategy, 64)[row, steps:].any()]]
            pattern = [step for step in (0, 10, 20) if step < steps]
            least = float(np.sum(leading[:, pattern].sum(axis=1) ** 2)) / 4
            assert charged.mu_sq_pico >= least * 1e12 * (1 - 1e-12)
            assert charged.mu_sq_pico <= run.amount.mu_sq_pico
            if strategy != "tree":
                assert charged.mu_sq_pico == pytest.approx(least * 1e12, rel=1e-9)


def _matrix(strategy: str, steps: int) -> FloatArray:
    """C of the strategy, whole."""
    if strategy == "identity":
        return np.eye(steps)
    if strategy == "sqrt":
        column = [math.comb(2 * index, index) / 4**index for index in range(steps)]
        return np.array([[column[row - col] if row >= col else 0.0 for col in range(steps)] for row in range(steps)])
    width, rows = 1, []
    while width <= steps:
        rows += [[float(first <= col < first + width) for col in range(steps)] for first in range(0, steps, width)]
        width *= 2
    return np.array(rows)


def test_a_refund_never_mixes_two_costs() -> None:
    """Goal: the charge is at most what was approved, in both quantities, and one pair that is proved, never the lesser
    mu of one with the lesser delta of another. Method: amounts approved that are less than the part's own cost in mu
    or in delta, by a unit."""
    run = approve(POISSON)
    part = run.cost_of(300).amount
    for approved in (
        Amount(part.mu_sq_pico - 1, part.delta_atto + 1000),
        Amount(part.mu_sq_pico + 1000, part.delta_atto - 1),
    ):
        assert run.settle(300, "data_independent", approved=approved).charged == approved
    assert run.settle(300, "data_independent", approved=part).charged == part


@pytest.mark.parametrize("error", [TooLarge("no"), InvalidMechanism("no", field="mechanism"), OverflowError()])
def test_what_cannot_be_costed_is_charged_as_approved(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: settling never fails for want of a certificate. Method: an accountant that has none."""
    run, apart = approve(POISSON), approve(POISSON, segments=4)

    def fail(*_: Any, **__: Any) -> Cost:
        raise error

    monkeypatch.setattr(costs, "cost", fail)
    assert run.settle(300, "data_independent") == Charge(run.amount)
    begun = run_share(apart.amount, 2, 4)
    assert apart.settle(160, "data_independent") == Charge(begun)
    found = run.settle(1500, "data_dependent")  # 900 steps too many, which are two more runs
    assert (found.charged, found.excess_steps) == (run.amount, 900)
    assert found.excess is not None
    assert found.excess.amount == Amount(2 * run.amount.mu_sq_pico, 2 * run.amount.delta_atto)
    excess = apart.settle(900, "data_dependent").excess  # 300 too many, which are two more segments
    assert excess is not None
    assert excess.amount == begun


def run_share(amount: Amount, part: int, whole: int) -> Amount:
    """That part of an amount, rounded up."""
    return Amount(-(-amount.mu_sq_pico * part // whole), -(-amount.delta_atto * part // whole))


@given(data=st.data())
@settings(max_examples=trials(50, 150), deadline=None)
def test_charges_grow_with_the_steps_and_stay_within_what_was_approved(data: st.DataObject) -> None:
    """Goal: more steps never cost less, but for what certificates vary by; no charge is above what was approved, none
    is nothing; none at all is as one; and a data-dependent stop never costs less than a data-independent one. Method:
    random runs of every kind."""
    declared = data.draw(st.sampled_from([*ADDITIVE, POISSON, SHUFFLED, TREE, SQRT]))
    if "count" not in declared:
        declared = declared | {"steps": 30}
    bound, segments = data.draw(st.sampled_from(get_args(Bound))), data.draw(st.integers(1, 7))
    run = approve(declared, bound=bound, segments=segments)
    fewer, more = sorted(data.draw(st.tuples(st.integers(0, 40), st.integers(0, 40))))
    assume(more <= segments * mechanisms.segment_steps(run.mechanism, segments))
    for stop in EARLY:
        less, greater = run.settle(fewer, stop).charged, run.settle(more, stop).charged
        slack = 10**-6 if run.cost.method.startswith("pld") else 0
        assert 0 < less.mu_sq_pico <= greater.mu_sq_pico * (1 + slack)
        assert less.delta_atto <= greater.delta_atto
        assert not greater.exceeds(run.amount)
        assert run.settle(0, stop) == run.settle(1, stop)
    assert not run.settle(more, "data_independent").charged.exceeds(run.settle(more, "data_dependent").charged)


# --- more steps ------------------------------------------------------------------------------------------------------


def test_an_overrun_that_nothing_secret_caused_is_a_run_of_its_own() -> None:
    """Goal: the excess has its own certificate and its own delta, and costs far more than the difference of two
    certificates. Method: a run of so many steps, asked for anew; and of all of them together."""
    anew, together = approve(POISSON | {"steps": 300}), approve(POISSON | {"steps": 900})
    for segments in (1, 4):
        run = approve(POISSON, segments=segments)
        found = run.settle(900, "data_independent")
        assert (found.charged, found.excess, found.excess_steps) == (run.amount, anew.cost, 300)
    assert anew.amount.delta_atto == 10**10 + 51
    assert anew.cost.mu_sq > Fraction(11, 10) * (together.cost.mu_sq - approve(POISSON).cost.mu_sq)


@pytest.mark.parametrize("stop", ["planned", "data_dependent"])
@pytest.mark.parametrize("bound", get_args(Bound))
def test_an_overrun_that_outputs_may_have_caused_is_whole_plans(stop: Stop, bound: Bound) -> None:
    """Goal: outputs may have decided how many more steps there were, so that their own certificate proves nothing: as
    many whole plans, or segments, as they begin, in mu and in delta. Method: in fractions."""
    for adjacency in get_args(Adjacency):
        whole = approve(POISSON, bound=bound, adjacency=adjacency)
        parted = approve(POISSON, bound=bound, adjacency=adjacency, segments=4)
        for steps, plans, segments in ((601, 1, 1), (750, 1, 1), (751, 1, 2), (1200, 1, 4), (1201, 2, 5)):
            for run, count, parts in ((whole, plans, 1), (parted, segments, 4)):
                found = run.settle(steps, stop)
                assert found.excess is not None
                assert found.excess.amount == run_share(run.amount, count, parts)
                assert (found.charged, found.excess_steps) == (run.amount, steps - 600)
                assert not run.is_dear(steps, stop)


def test_an_overrun_without_amplification_is_paid_by_step() -> None:
    """Goal: each step that was charged as a release is one beyond the plan too, and never becomes a certificate, whose
    length outputs may have decided. Method: a run approved without a delta, settled under terms that have one."""
    run = approve(POISSON, delta=Fraction(0))
    assert run.cost.method == "fallback"
    terms = Terms(bound="certified", adjacency="add_or_remove_one", delta=DELTA)
    found = settling.charge(
        run.mechanism, terms, approved=run.amount, method="fallback", steps=700, stop="data_dependent", restarts=()
    )
    assert found.excess is not None
    assert found.excess.amount == Amount(100 * 10**12, 0)


def test_overruns_worked_out_by_hand() -> None:
    """Goal: each kind's excess is what it does beyond the plan. Method: small numbers."""
    cases: list[tuple[dict[str, Any], int, int, Fraction]] = [
        (gaussian(5, 10), 1, 13, Fraction(3, 25)),
        (gaussian(5, 10), 4, 13, Fraction(1, 25)),  # four segments of three are twelve
        # 40 steps are ten epochs of four: the 41st begins one.
        (SHUFFLED, 1, 41, Fraction(1)),
        (SHUFFLED, 1, 45, Fraction(2)),
        # 42 steps end within the eleventh, which may have the unit once more.
        (SHUFFLED | {"steps": 42}, 1, 43, Fraction(2)),
        (SHUFFLED | {"steps": 42}, 1, 47, Fraction(3)),
        (SHUFFLED | {"steps": 42}, 3, 49, Fraction(1)),  # three segments of four epochs each
    ]
    for declared, segments, steps, expected in cases:
        found = approve(declared, segments=segments).settle(steps, "planned")
        assert found.excess is not None
        assert found.excess.mu_sq == expected, (declared, segments, steps)
        assert found.charged == approve(declared, segments=segments).amount


def test_correlated_noise_begins_again_beyond_its_plan() -> None:
    """Goal: so many whole restarts of the strategy, or of a segment's, as the excess touches. Method: in fractions, and
    nothing dear about it."""
    for strategy in ("tree", "sqrt"):
        run = approve(CORRELATED[strategy])
        for steps, restarts in ((101, 1), (200, 1), (201, 2), (1000, 9)):
            excess = run.settle(steps, "data_dependent").excess
            assert excess is not None
            assert excess.amount == Amount(restarts * run.amount.mu_sq_pico, 0)
            assert not run.is_dear(steps, "data_dependent")
        run = approve(CORRELATED[strategy], segments=3)
        shape = strategies.Shape(strategy="tree" if strategy == "tree" else "sqrt")
        each = strategies.sensitivity_sq(shape, steps=34, participations=3)
        excess = run.settle(102 + 35, "data_dependent").excess
        assert excess is not None
        assert 0 <= excess.amount.mu_sq_pico - 2 * each / 4 * 10**12 < 2


@pytest.mark.parametrize("bound", get_args(Bound))
@pytest.mark.parametrize("exponent", [12, 18, 40, 310, 700])
def test_no_excess_is_beyond_all_numbers(exponent: int, bound: Bound) -> None:
    """Goal: however many steps were done, they are charged in integers, and never below the approved cost of what fits
    into them of additive runs. Method: more steps than a double can hold."""
    for declared in (*ADDITIVE, POISSON, SCHEDULE, SHUFFLED, TREE, POISSON | {"noise_multiplier": Decimal("0.1")}):
        run = approve(declared, bound=bound)
        found = run.settle(10**exponent, "data_dependent")
        assert found.charged == run.amount
        assert found.excess is not None
        assert found.excess.amount.mu_sq_pico > 10**6 * run.amount.mu_sq_pico
        assert found.excess.amount.delta_atto >= 0
        assert 0 <= found.excess.delta <= 1
        assert found.excess.is_holdable == (found.excess.mu_sq <= MU_MAX**2 and found.excess.nats * 10**18 < 2**63)


# --- how long it takes -----------------------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was computed that is dear."""
    calls: list[str] = []

    def counted(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **under: Any) -> Any:
            calls.append(name)
            return real(*args, **under)

        return call

    monkeypatch.setattr(certify, "curve", counted("certificate", certify.curve))
    monkeypatch.setattr(strategies, "_sqrt", counted("sqrt", strategies._sqrt))
    return calls


def test_what_is_dear_is_known_beforehand(computed: list[str]) -> None:
    """Goal: whoever serves others meanwhile knows whether settling computes a certificate. Method: every kind of run
    and stop, and whether one was computed."""
    seen = set()
    for declared in (*ADDITIVE, POISSON | {"steps": 60}, SHUFFLED, TREE, SQRT):
        for bound in get_args(Bound):
            for segments, delta in ((1, DELTA), (4, DELTA), (1, Fraction(0))):
                run = approve(declared, bound=bound, segments=segments, delta=delta)
                for steps in (None, 0, 1, 15, 29, 45, 60, 500):
                    for stop, restarts in itertools.product(STOPS, ((), None)):
                        computed.clear()
                        run.settle(steps, stop, restarts=restarts)
                        is_dear = run.is_dear(steps, stop, restarts=restarts)
                        # Where no delta is to be spent there is nothing to compute, which only `cost` knows.
                        assert is_dear >= bool(computed), (declared, bound, segments, steps, stop)
                        assert is_dear == bool(computed) or delta == 0
                        seen.add((is_dear, stop))
    # Only a number of steps that nothing secret decided has a certificate of its own.
    assert seen == {(False, stop) for stop in STOPS} | {(True, "data_independent")}
