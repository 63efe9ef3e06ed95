"""Steps that are run again after a restart: what they are charged is never less than what they can let out.

The oracle knows nothing of the accountant: it runs small trainings step by step, tries every place that a unit can have
in them, and adds up how far it moves what is released; for sampled batches it integrates the densities themselves, or
asks dp-accounting from below.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any, get_args

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.privacy_accountant import NeighboringRelation

from ledger.accounting import amounts, costs, gdp, mechanisms, settling
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.restarts import Restart
from ledger.accounting.settling import Charge, Restarts, Stop
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency
from tests.accounting.samples import decimal, gaussian

FloatArray = Any
DELTA = Fraction(1, 10**8)
EPSILONS = np.linspace(0.0, 8.0, 60)
POISSON = {"type": "dpsgd", "noise_multiplier": 1, "sampling": "poisson", "sample_rate": Decimal("0.01"), "steps": 1000}
SHUFFLED = POISSON | {"sampling": "shuffle"}
SQRT = {"type": "matrix_factorization", "noise_multiplier": 1, "strategy": "sqrt", "steps": 1000}
SQRT |= {"participations": 1, "separation": 1}
TREE = SQRT | {"strategy": "tree", "completion": "none"}


@dataclass(frozen=True)
class Approved:
    """A run that was approved, and can be settled."""

    mechanism: AnyMechanism
    terms: Terms
    amount: Amount
    method: str

    def settle(self, steps: int, restarts: Restarts, stop: Stop = "data_dependent") -> Charge:
        return settling.charge(
            self.mechanism,
            self.terms,
            approved=self.amount,
            method=self.method,
            steps=steps,
            stop=stop,
            restarts=restarts,
        )

    def total(self, steps: int, restarts: Restarts, stop: Stop = "data_dependent") -> Amount:
        """All that is charged."""
        found = self.settle(steps, restarts, stop)
        return found.charged if found.excess is None else found.charged + found.excess.amount


def approve(
    declared: dict[str, Any],
    *,
    adjacency: Adjacency = "add_or_remove_one",
    segments: int = 1,
    delta: Fraction = DELTA,
) -> Approved:
    """The run, costed as an approval does."""
    mechanism = mechanisms.parse(declared)
    terms = Terms(bound="certified", adjacency=adjacency, delta=delta, segments=segments)
    cost = costs.cost(mechanism, terms)
    return Approved(mechanism, terms, cost.amount, cost.method)


def times(count: int, first: int, last: int, *, new: bool = False) -> tuple[Restart, ...]:
    """So many restarts alike."""
    return (Restart(first, last, new),) * count


# --- the table of the review -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "steps", "restarts", "true_mu_sq"),
    [
        (SHUFFLED | {"steps": 100}, 150, times(50, 7, 7), 51),
        (SHUFFLED, 1000, times(900, 100, 100), 901),
        (SQRT, 1800, times(8, 401, 500), 23.35),
        (POISSON, 1100, times(100, 17, 17), 9.07**2),
    ],
    ids=["one step of an epoch", "one step after an epoch", "rows of correlated noise", "one restored batch"],
)
def test_what_was_charged_too_little(
    declared: dict[str, Any], steps: int, restarts: tuple[Restart, ...], true_mu_sq: float
) -> None:
    """Goal: the four runs in which repeated steps were charged as further ones are charged what they let out, listed or
    not. Method: their true mu² by the review."""
    run = approve(declared)
    assert run.total(steps, restarts).mu_sq_pico >= true_mu_sq * 1e12 * (1 - 1e-4)
    assert run.total(steps, restarts).mu_sq_pico <= 1.3 * true_mu_sq * 1e12
    if steps != 1000:
        assert run.total(steps, None).mu_sq_pico >= true_mu_sq * 1e12


# --- trainings, step by step -----------------------------------------------------------------------------------------


@dataclass
class Training:
    """A training that is run, restarted and run on. orders: which one each step of the surviving history was run under,
    by step from 1. executed: every step that was run, with its order and the history that it had."""

    segment_steps: int
    order: int = 0
    lineage: dict[int, int] = field(default_factory=dict)
    executed: list[tuple[int, int, dict[int, int]]] = field(default_factory=list)
    restarts: list[Restart] = field(default_factory=list)
    furthest: int = 0

    def within(self, segment: int) -> Training:
        """What was run of one segment, its steps counted from 1."""
        before, last = segment * self.segment_steps, (segment + 1) * self.segment_steps
        executed = [
            (step - before, order, {past - before: of for past, of in history.items() if before < past <= last})
            for step, order, history in self.executed
            if before < step <= last
        ]
        return Training(self.segment_steps, order=self.order, executed=executed)

    @property
    def at(self) -> int:
        return max(self.lineage, default=0)

    def run(self, steps: int) -> None:
        for _ in range(steps):
            step = self.at + 1
            self.lineage = {**self.lineage, step: self.order}
            self.executed.append((step, self.order, self.lineage))

    def restart(self, first: int, steps: int, *, new: bool) -> None:
        """Goes back to just before `first`, and runs so many steps from there, of which those that were run before by
        anybody are run again."""
        self.furthest = max(self.furthest, self.at)
        self.lineage = {step: order for step, order in self.lineage.items() if step < first}
        self.order += new
        self.run(steps)
        self.restarts.append(Restart(first, min(self.at, self.furthest), new))
        self.furthest = max(self.furthest, self.at)


def random_training(rng: random.Random, *, plan: int, segment_steps: int, restarts_max: int, most: int) -> Training:
    """A training with restarts from anywhere, that comes short of the plan or goes beyond it."""
    training = Training(segment_steps)
    training.run(rng.randint(1, plan))
    for _ in range(rng.randint(0, restarts_max)):
        first = rng.randint(1, training.at + 1)
        room = most - first + 1
        training.restart(first, rng.randint(0 if first == training.at + 1 else 1, max(room, 1)), new=rng.random() < 0.5)
    return training


def test_a_training_says_how_far_it_came() -> None:
    """Goal: the oracle's own words are right. Method: by hand."""
    training = Training(100)
    training.run(10)
    training.restart(6, 3, new=False)
    training.restart(4, 9, new=True)
    training.restart(13, 0, new=True)
    assert training.restarts == [Restart(6, 8, False), Restart(4, 10, True), Restart(13, 12, True)]
    assert len(training.executed) - sum(restart.steps for restart in training.restarts) == 12


def worst_of_shuffle(training: Training, *, epoch: int, plan: int) -> int:
    """In how many batches a unit is at most, if it has the worst place in each order of each epoch; the steps after a
    new order are in that order, whichever epoch they are in."""
    places: Counter[tuple[int, int, int, int]] = Counter()
    for step, order, _ in training.executed:
        segment = min((step - 1) // training.segment_steps, max(plan // training.segment_steps - 1, 0))
        within = step - 1 - segment * training.segment_steps
        places[segment, within // epoch, order, within % epoch] += 1
    best: Counter[tuple[int, int, int]] = Counter()
    for (segment, number, order, _), count in places.items():
        best[segment, number, order] = max(best[segment, number, order], count)
    return sum(best.values())


def test_no_unit_is_in_more_batches_than_shuffled_restarts_are_charged(tries: Callable[[int, int], int]) -> None:
    """Goal: whichever steps are repeated, in the same order or another, in segments or not, short of the plan or beyond
    it, every release of a unit is charged; and in one piece not one more than one in each epoch is uncertain by.
    Method: simulated trainings, a unit at its worst place in each order, whether or not the last batch is dropped."""
    rng = random.Random(151)
    tight = 0
    for _ in range(tries(300, 20_000)):
        segments = rng.choice([1, 1, 2, 3])
        rate = Decimal(rng.choice(["1", "0.5", "0.25", "0.2", "0.125", "0.1", "0.7", "0.4", "0.3", "0.15"]))
        declared = {"type": "dpsgd", "noise_multiplier": 1, "sampling": "shuffle"}
        declared |= {"sample_rate": rate, "steps": rng.randint(segments, 30)}
        run = approve(declared, segments=segments)
        length = mechanisms.segment_steps(run.mechanism, segments)
        plan = (mechanisms.planned_steps(run.mechanism, segments) or (0, 0))[1]
        training = random_training(rng, plan=plan, segment_steps=length, restarts_max=4, most=plan + 5)
        if segments == 1:
            training.segment_steps = 10**6
        for epoch in {math.floor(1 / rate), math.ceil(1 / rate)}:
            seen = worst_of_shuffle(training, epoch=epoch, plan=plan if segments > 1 else 0)
            charged = run.total(len(training.executed), tuple(training.restarts))
            assert seen * 10**12 <= charged.mu_sq_pico, training
            tight += 1 % rate == 0 and seen * 10**12 == charged.mu_sq_pico
    assert tight > 50


def matrix(strategy: str, steps: int) -> FloatArray:
    """C of the strategy, whole."""
    if strategy == "identity":
        return np.eye(steps)
    if strategy == "sqrt":
        column = [math.comb(2 * index, index) / 4**index for index in range(steps)]
        return np.array([[column[row - col] if row >= col else 0.0 for col in range(steps)] for row in range(steps)])
    # Nodes that would reach beyond the last step are never released.
    widths = [2**level for level in range(steps.bit_length())]
    return np.array(
        [
            [float(first <= col < first + width) for col in range(steps)]
            for width in widths
            for first in range(0, steps - width + 1, width)
        ]
    )


def patterns(steps: int, participations: int, separation: int) -> list[tuple[int, ...]]:
    """The steps in which a unit can take part."""
    return [
        pattern
        for count in range(1, participations + 1)
        for pattern in itertools.combinations(range(1, steps + 1), count)
        if all(later - earlier >= separation for earlier, later in itertools.pairwise(pattern))
    ]


def worst_of_rows(training: Training, strategy: str, steps: int, choices: list[tuple[int, ...]]) -> float:
    """The most that a unit moves the rows that were released, squared, whichever steps it takes part in under each
    order: each row by what the history that it was released with has of the unit."""
    coefficients = matrix(strategy, steps)
    ends = [int(np.flatnonzero(row)[-1]) + 1 for row in coefficients]
    released = [
        (row, history)
        for step, _, history in training.executed
        for row, end in zip(coefficients, ends, strict=True)
        if end == step
    ]
    orders = range(training.order + 1)
    # How far each order's steps move each row: what one unit does is the sum over the orders.
    moves = np.zeros((len(orders), len(choices), len(released)))
    for number, (row, history) in enumerate(released):
        for order in orders:
            for choice, pattern in enumerate(choices):
                moves[order, choice, number] = sum(row[step - 1] for step in pattern if history.get(step) == order)
    most = 0.0
    for chosen in itertools.product(range(len(choices)), repeat=len(orders)):
        together = sum(moves[order, choice] for order, choice in enumerate(chosen))
        most = max(most, float(np.sum(np.asarray(together) ** 2)))
    return most


def test_correlated_noise_is_charged_what_its_rows_let_out(tries: Callable[[int, int], int]) -> None:
    """Goal: every stretch that was given up, and what goes on after new orders, is covered by multiples of the approved
    strategy. Method: the rows of small trainings by the strategy's matrix, and every pattern under each order; a unit
    may take part anew under each."""
    rng = random.Random(152)
    closest = 0.0
    for _ in range(tries(75, 3_000)):
        steps, strategy = rng.randint(2, 6), rng.choice(["identity", "tree", "sqrt"])
        segments = rng.choice([1, 1, 2])
        participations, separation = rng.randint(1, 3), rng.randint(1, 3)
        declared = (TREE if strategy == "tree" else SQRT) | {"strategy": strategy, "steps": steps}
        declared |= {"participations": participations, "separation": separation, "steps": steps * segments}
        run = approve(declared, segments=segments)
        plan = steps * segments
        training = random_training(rng, plan=plan, segment_steps=steps, restarts_max=3, most=plan)
        if training.order > 2:
            continue
        choices = patterns(steps, participations, separation)
        most = sum(worst_of_rows(training.within(number), strategy, steps, choices) for number in range(segments))
        charged = run.total(len(training.executed), tuple(training.restarts)).mu_sq_pico
        assert most * 1e12 <= charged * (1 + 1e-9), (declared, training.restarts)
        closest = max(closest, most * 1e12 / charged)
    assert closest > 0.8


def test_a_stretch_given_up_after_new_orders_has_the_units_of_them_all() -> None:
    """Goal: new orders add up also in what is given up later: the approved strategy once for each stretch is too
    little. Method: two new orders, then the last step ten times; by the rows, and by hand."""
    training = Training(4)
    training.run(1)
    training.restart(2, 1, new=True)
    training.restart(3, 2, new=True)
    for _ in range(10):
        training.restart(4, 1, new=False)
    run = approve(TREE | {"steps": 4})
    charged = run.total(len(training.executed), tuple(training.restarts)).mu_sq_pico
    assert charged == (9 + 10 * 9) * run.amount.mu_sq_pico
    most = worst_of_rows(training, "tree", 4, patterns(4, 1, 1)) * 1e12
    assert (9 + 10) * run.amount.mu_sq_pico < most <= charged


# --- sampled batches -------------------------------------------------------------------------------------------------


def allowed(charged: Amount) -> FloatArray:
    """The (eps, delta) curve that a charge promises."""
    delta = amounts.delta_of(charged)
    return delta + (1 - delta) * gdp.delta(mu=amounts.mu_of(charged), epsilon=EPSILONS)


def lost(noise: float, rate: float, adjacency: Adjacency, counts: Counter[int]) -> FloatArray:
    """What steps leak at least of which so many, by how often they were run again, met the same batch each time.

    Given membership the k + 1 releases of a step are as one with 1/sqrt(k + 1) of the noise. By dp-accounting, with
    losses rounded down, in the worse order.
    """
    composed: Any = None
    relation = NeighboringRelation.REPLACE_ONE if adjacency == "replace_one" else NeighboringRelation.ADD_OR_REMOVE_ONE
    for again, count in counts.items():
        one = privacy_loss_distribution.from_gaussian_mechanism(
            noise / math.sqrt(again + 1),
            sampling_prob=rate,
            pessimistic_estimate=False,
            use_connect_dots=False,
            value_discretization_interval=1e-3,
            neighboring_relation=relation,
        )
        several = one.self_compose(count)
        composed = several if composed is None else composed.compose(several)
    return np.asarray(composed.get_delta_for_epsilon(list(EPSILONS))) - 1e-12


@pytest.mark.parametrize("adjacency", get_args(Adjacency))
def test_restored_batches_are_charged_what_they_let_out(adjacency: Adjacency, tries: Callable[[int, int], int]) -> None:
    """Goal: a batch that is met again is a release without sampling besides: no less than it lets out, given that
    membership is the same each time. Method: dp-accounting from below, for a step met many times, and for stretches
    met several times."""
    rng = random.Random(153)
    for _ in range(tries(3, 30)):
        noise, steps = decimal(rng, "0.8", "3"), rng.randint(5, 60)
        rate = decimal(rng, "0.01", "0.3")
        run = approve(POISSON | {"noise_multiplier": noise, "sample_rate": rate, "steps": steps}, adjacency=adjacency)
        again: Counter[int] = Counter()
        restarts: list[Restart] = []
        for _ in range(rng.randint(1, 6)):
            first = rng.randint(1, steps)
            last = rng.randint(first, min(steps, first + 5))
            restarts.append(Restart(first, last, False))
            again.update(range(first, last + 1))
        counts = Counter(again[step] for step in range(1, steps + 1))
        charged = run.total(steps + again.total(), tuple(restarts))
        assert np.all(lost(float(noise), float(rate), adjacency, counts) <= allowed(charged) * (1 + 1e-9))


def _normal(x: FloatArray, centre: float) -> FloatArray:
    return np.exp(-((x - centre) ** 2) / 2) / math.sqrt(2 * math.pi)


def _curve(p: FloatArray, q: FloatArray, cell: float) -> FloatArray:
    """The larger of both orders of the (eps, delta) curve of two densities on a grid."""
    factors = np.exp(EPSILONS[::6])
    orders = [
        [float(np.maximum(one - factor * other, 0).sum()) * cell for factor in factors]
        for one, other in ((p, q), (q, p))
    ]
    return np.max(orders, axis=0)


@pytest.mark.parametrize("adjacency", get_args(Adjacency))
def test_which_batch_is_met_again_may_depend_on_what_was_seen(adjacency: Adjacency) -> None:
    """Goal: that outputs decide which step is run again makes it no dearer than a release without sampling. Method: two
    steps, of which the one that looks most like the unit is run again once; the densities themselves, on a grid of
    three dimensions, against two steps and such a release."""
    axis = np.linspace(-7.0, 8.0, 72)
    cell = float(axis[1] - axis[0]) ** 3
    x, z, y = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    for unit, rate in ((1.0, 0.1), (1.5, 0.4), (2.0, 0.02)):
        other = -unit if adjacency == "replace_one" else 0.0
        for chooses in (x > z, np.abs(x) > np.abs(z)):
            seen = [_replayed(x, z, y, chooses, centre, rate) for centre in (unit, other)]
            apart = [_step(x, centre, rate) * _step(z, centre, rate) * _normal(y, centre) for centre in (unit, other)]
            assert np.all(_curve(seen[0], seen[1], cell) <= _curve(apart[0], apart[1], cell) + 1e-6)


def _step(x: FloatArray, centre: float, rate: float) -> FloatArray:
    return (1 - rate) * _normal(x, 0.0) + rate * _normal(x, centre)


def _replayed(x: FloatArray, z: FloatArray, y: FloatArray, chooses: FloatArray, centre: float, rate: float) -> Any:
    """The density of two steps, x and z, and of the chosen one again, y, with its membership."""

    def pair(first: FloatArray) -> FloatArray:
        return (1 - rate) * _normal(first, 0.0) * _normal(y, 0.0) + rate * _normal(first, centre) * _normal(y, centre)

    return np.where(chooses, pair(x) * _step(z, centre, rate), pair(z) * _step(x, centre, rate))


def test_batches_drawn_anew_are_further_steps() -> None:
    """Goal: a repeated step with a new batch is one more step: within the plan nothing, beyond it whole plans, or a
    certificate where nothing secret decided their number. Method: by the approved cost, and one asked for directly."""
    run = approve(POISSON | {"steps": 600})
    anew = (Restart(401, 500, True),)
    assert run.settle(600, anew) == run.settle(600, ())
    assert run.total(700, anew) == run.amount + run.amount
    hundred = approve(POISSON | {"steps": 100}).amount
    assert run.total(700, anew, "data_independent") == run.amount + hundred
    mixed = run.settle(750, (*anew, Restart(1, 50, False)), "planned")
    assert mixed.excess is not None
    assert mixed.excess.amount == run.amount + Amount(50 * 10**12, 0)
    assert (mixed.excess_steps, mixed.repeated) == (150, 50)


# --- what nobody said ------------------------------------------------------------------------------------------------

KINDS: dict[str, dict[str, Any]] = {
    "gaussian": gaussian(2, 12),
    "fallback": POISSON | {"noise_multiplier": 8, "steps": 12},
    "poisson": POISSON | {"noise_multiplier": 2, "steps": 12, "sample_rate": Decimal("0.2")},
    "quiet poisson": POISSON | {"noise_multiplier": 60, "steps": 12, "sample_rate": Decimal("0.7")},
    "shuffle": SHUFFLED | {"steps": 12, "sample_rate": Decimal("0.2")},
    "tree": TREE | {"steps": 12},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("adjacency", get_args(Adjacency))
def test_what_nobody_said_is_charged_for_the_worst(
    kind: str, adjacency: Adjacency, tries: Callable[[int, int], int]
) -> None:
    """Goal: whoever leaves restarts out, and executed more than the plan can give, is charged no less than any account
    of restarts that could have been true, each of which repeats a step, also by a run that came less far than planned;
    in both quantities. Method: random trainings."""
    rng = random.Random(154)
    beyond = 0
    for _ in range(tries(60, 400)):
        segments = rng.choice([1, 1, 3])
        delta = Fraction(0) if kind == "fallback" else DELTA
        run = approve(KINDS[kind], adjacency=adjacency, segments=segments, delta=delta)
        plan = (mechanisms.planned_steps(run.mechanism, segments) or (0, 0))[1]
        training = random_training(rng, plan=plan, segment_steps=plan, restarts_max=5, most=plan + 6)
        steps, restarts = len(training.executed), tuple(training.restarts)
        if steps <= plan or any(restart.steps == 0 for restart in restarts):
            continue
        beyond += 1
        for stop in get_args(Stop):
            unlisted, listed = run.total(steps, None, stop), run.total(steps, restarts, stop)
            assert unlisted.delta_atto >= listed.delta_atto
            # Whole segments are rounded up once, and certificates of fewer steps vary by their last digits.
            assert unlisted.mu_sq_pico * (1 + 1e-6) + 2 >= listed.mu_sq_pico, (stop, steps, restarts)
    assert beyond > 10


def test_what_is_assumed_is_said() -> None:
    """Goal: within the plan nothing changes where nobody speaks of restarts, and the charge says what is assumed; where
    every release counts there is nothing to assume, nor where it is said that none was repeated. Method: both."""
    for kind, declared in KINDS.items():
        run = approve(declared, delta=Fraction(0) if kind == "fallback" else DELTA)
        for steps in (0, 5, 12):
            for stop in get_args(Stop):
                silent, said = run.settle(steps, None, stop), run.settle(steps, (), stop)
                assert (silent.charged, silent.excess) == (said.charged, said.excess)
                assert said.assumptions == ()
                is_assumed = kind not in ("gaussian", "fallback")
                assert silent.assumptions == ((settling.NONE_REPEATED,) if is_assumed else ())


def test_releases_count_whatever_was_repeated() -> None:
    """Goal: a release that is made again is one more: restarts change nothing. Method: with and without any."""
    for kind in ("gaussian", "fallback"):
        run = approve(KINDS[kind], delta=Fraction(0))
        for steps in (5, 12, 20):
            expected = run.settle(steps, ())
            for restarts in (None, (Restart(2, 4, False),), (Restart(2, 4, True), Restart(5, 4, True))):
                assert run.settle(steps, restarts) == expected


def test_a_restart_that_repeats_nothing() -> None:
    """Goal: a job that only went on costs nothing, but with a new order a unit can come once more, and under correlated
    noise in a pattern more. Method: by hand."""
    for declared, new_costs in ((POISSON, 0), (SHUFFLED, 1), (SQRT, 3)):
        run = approve(declared)
        once = run.amount if declared is SQRT else Amount(10**12, 0)
        assert run.settle(1000, (Restart(501, 500, False),)) == run.settle(1000, ())
        found = run.settle(1000, (Restart(501, 500, True),))
        assert (found.excess is None) == (new_costs == 0)
        total = run.total(1000, (Restart(501, 500, True),))
        assert total == Amount(run.amount.mu_sq_pico + new_costs * once.mu_sq_pico, run.amount.delta_atto)
        assert (found.excess_steps, found.repeated) == (0, 0)
