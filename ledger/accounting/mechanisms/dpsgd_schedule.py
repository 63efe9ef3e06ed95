"""DP-SGD with a schedule: noise and sample rate differ from step to step."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from ledger.accounting import amounts, axes, certificate, certify
from ledger.accounting.axes import Axis
from ledger.accounting.cost import SGD, Cost, Precision, rational, root, rounded_up, summed
from ledger.accounting.levels import Level
from ledger.accounting.mechanisms.base import BaseMechanism, Drawn, unsupported
from ledger.accounting.mechanisms.batches import Batches
from ledger.accounting.mechanisms.dpsgd import DpSgd
from ledger.accounting.numbers import COUNT_MAX, Count, Positive, Rate
from ledger.accounting.pairs import Parts
from ledger.accounting.pld import Pair
from ledger.accounting.restarts import Division, Repeats, Restart
from ledger.accounting.terms import Terms
from ledger.core.datasets import Adjacency, Bound
from ledger.errors import InvalidMechanism, InvalidRequest, TooLarge

PHASES_MAX: Final = 10_000
_WEIGHT: Final = 300
_PHASES_OF_WEIGHT: Final = 20
_GROUPS: Final = "-groups"
_FIXED: Final = (
    "the noise multiplier and the sample rate of every step were fixed before the first one; a schedule that follows "
    "losses, gradients or other outputs is not this mechanism"
)
_PLAIN: Final = (
    "no amplification by sampling is claimed for steps with a sample rate of 1 or a noise multiplier below 0.1: each "
    "counts as one release without sampling"
)
_FALLBACK: Final = "no amplification by sampling is claimed: each step counts as one release without sampling"
_BEYOND: Final = (
    "steps beyond the plan have at least the least noise of the schedule, and at most its largest sample rate"
)


class Phase(BaseModel):
    """`steps` steps with the same noise multiplier and sample rate."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    noise_multiplier: Positive
    sample_rate: Rate
    steps: Count


class _Batches(Batches):
    """The batches of a schedule's steps."""

    __slots__ = ()

    def assumption(self, adjacency: Adjacency) -> str:
        return f"{super().assumption(adjacency)}; {_FIXED}"


class _Run(DpSgd):
    """All steps with one noise multiplier and sample rate, exact numbers, as DP-SGD of their own."""

    def pair(self, adjacency: Adjacency, *, path: str) -> Pair | None:
        if self.sampling == "fixed_size" and adjacency == "add_or_remove_one":
            raise unsupported(
                "a certified cost of fixed_size sampling under add_or_remove_one needs dataset_size_min, which a "
                "schedule does not take; declare each phase as a dpsgd part of a composed mechanism, with that field",
                field=f"{path}.sampling",
            )
        pair = super().pair(adjacency, path=path)
        return None if pair is None else Level.of(pair)

    @property
    def batches(self) -> Batches:
        return _Batches(self)

    def once(self, adjacency: Adjacency) -> Fraction:
        """Return the mu² of a step without sampling."""
        return self.batches.release_sq(adjacency) / Fraction(self.noise_multiplier) ** 2


@dataclass(frozen=True, slots=True)
class _Sampled:
    """What is composed, and the mu² of what is not: releases without sampling."""

    steps: tuple[certify.Steps, ...]
    plain: Fraction


class DpSgdSchedule(BaseMechanism):
    """DP-SGD in phases, in the order of execution, each with its own noise multiplier and sample rate.

    noise_scale: a factor on the noise multipliers of all phases.
    """

    methods: ClassVar = {
        "fallback": Precision.EXACT,
        "clt-poisson": Precision.CLOSED_FORM,
        "clt-fixed-size": Precision.CLOSED_FORM,
        **{
            f"pld-{sampled}{groups}": Precision.CERTIFICATE
            for sampled in ("poisson", "fixed-size")
            for groups in ("", _GROUPS)
        },
    }
    solvable: ClassVar = ("noise_scale",)
    is_training: ClassVar = True

    type: Literal["dpsgd_schedule"]
    sampling: Literal["poisson", "fixed_size"]
    phases: Annotated[tuple[Phase, ...], Field(strict=False, min_length=1, max_length=PHASES_MAX)]
    noise_scale: Positive = Decimal(1)

    @model_validator(mode="after")
    def _countable(self) -> DpSgdSchedule:
        if self.steps > COUNT_MAX:
            raise PydanticCustomError(
                "form", "the phases have {steps} steps together; at most 10^12 are allowed", {"steps": self.steps}
            )
        return self

    def resting_on_size(self, path: str) -> list[str]:
        return [] if self.sampling == "poisson" else [f"{path}.sampling"]

    def drawn(self, path: str) -> list[Drawn]:
        if self.sampling != "poisson":
            return []
        rates = [Fraction(phase.sample_rate) for phase in self.phases]
        return [Drawn(f"{path}.phases", min(rates), max(rates))]

    # --- steps

    @property
    def steps(self) -> int:
        """Return the steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def declared_steps(self) -> tuple[int, int] | None:
        return self.steps, self.steps

    def resized(self, steps: int) -> Self:
        """Return the first of its steps. Raises ValueError if it has fewer."""
        kept: list[Phase] = []
        left = steps
        for phase in self.phases:
            if left > 0:
                kept.append(phase.model_copy(update={"steps": min(phase.steps, left)}))
                left -= phase.steps
        if left > 0:
            raise ValueError(f"a schedule of {self.steps} steps has no first {steps} steps")
        return self.model_copy(update={"phases": tuple(kept)})

    def segment(self, segments: int) -> Self:
        raise InvalidRequest(
            "segments: the steps of a schedule differ, so that it has no equal segments; leave segments out, or "
            "request a run for each part of the schedule",
            field="segments",
        )

    @property
    def _any_run(self) -> _Run:
        return _Run(type="dpsgd", noise_multiplier=Decimal(1), sampling=self.sampling, sample_rate=Decimal(1), steps=1)

    def _runs(self) -> list[_Run]:
        """Return its steps by noise multiplier and sample rate, in one order for every order of the phases."""
        scale = Fraction(self.noise_scale)
        counts: Counter[tuple[Decimal, Decimal]] = Counter()
        for phase in self.phases:
            counts[phase.noise_multiplier, phase.sample_rate] += phase.steps
        return [
            self._any_run.model_copy(
                update={"noise_multiplier": Fraction(noise) * scale, "sample_rate": rate, "steps": steps}
            )
            for (noise, rate), steps in sorted(counts.items())
        ]

    def _beyond(self, steps: int, plans: int) -> _Plans:
        """Return plans of this many steps with the least noise and the largest sample rate of any phase."""
        noise = min(phase.noise_multiplier for phase in self.phases)
        rate = max(phase.sample_rate for phase in self.phases)
        phase = Phase.model_construct(noise_multiplier=noise, sample_rate=rate, steps=steps)
        return _Plans.model_construct(**{**dict(self), "phases": (phase,), "plans": plans})

    # --- cost

    def cost(self, terms: Terms, *, path: str) -> Cost:
        if terms.bound == "certified":
            return self._certified(terms, path)
        costs = [run.cost(terms, path=f"{path}.phases") for run in self._runs()]
        mu_sq = summed([cost.mu_sq for cost in costs])
        mu = root(mu_sq)
        if not math.isfinite(mu):
            raise InvalidMechanism(
                f"{path}.phases: the cost of its phases together is too large to be represented; use more noise",
                field=f"{path}.phases",
            )
        return Cost(mu, mu_sq, Fraction(0), costs[0].method, costs[0].assumptions)

    def needs_certificate(self, bound: Bound) -> bool:
        return bound == "certified"

    def weight(self, bound: Bound) -> int:
        return (_WEIGHT if self.needs_certificate(bound) else 1) + len(self.phases) // _PHASES_OF_WEIGHT

    def certified_as(self, bound: Bound, path: str) -> tuple[DpSgd, ...]:
        return tuple(self._runs()) if self.needs_certificate(bound) else ()

    def _certified(self, terms: Terms, path: str) -> Cost:
        runs = self._runs()
        sampled, delta = _sampled(runs, terms.adjacency, path), Fraction(terms.delta)
        plain, share = _fallback(runs, terms.adjacency), certify.at_most(delta)
        if not sampled.steps or share < certify.DELTA_MIN:
            return plain
        ((mu, groups),) = certificate.certified(sampled.steps, [share], is_alone=terms.is_composed_alone)
        # G_mu of the steps that are sampled, and that of the others, compose to G of the root of the sum of squares.
        mu_sq = Fraction(mu) ** 2 + sampled.plain if math.isfinite(mu) else plain.mu_sq
        if mu_sq >= plain.mu_sq:
            return plain
        method = f"pld-{self.sampling.replace('_', '-')}{_GROUPS if groups > 1 else ''}"
        assumptions = (*_assumptions(runs, terms.adjacency), *((_PLAIN,) if sampled.plain else ()))
        return Cost(root(mu_sq), mu_sq, amounts.nats(delta, towards="up"), method, assumptions)

    def frontier(self, terms: Terms, deltas: Sequence[Fraction]) -> list[tuple[float, float]]:
        runs = self._runs()
        sampled, plain = _sampled(runs, terms.adjacency, "mechanism"), _fallback(runs, terms.adjacency).mu
        if not sampled.steps:
            return super().frontier(terms, deltas)
        found = certificate.certified(sampled.steps, [certify.at_most(delta) for delta in deltas])
        mus = [min(math.hypot(mu, root(sampled.plain)), plain) for mu, _ in found]
        return [(float(delta), mu) for delta, mu in zip(deltas, mus, strict=True)]

    def exact_parts(self, terms: Terms) -> Parts:
        try:
            sampled = _sampled(self._runs(), terms.adjacency, "mechanism")
        except InvalidMechanism:
            if terms.bound == "certified":
                raise
            # No pair is known, only an estimate.
            estimate = self.cost(terms, path="mechanism")
            return Parts(estimate.mu_sq, envelopes=frozenset({self.type}), is_bound=False)
        return Parts(sampled.plain, sources=Counter({part.pair: part.count for part in sampled.steps}))

    # --- settling

    def is_additive(self, method: str) -> bool:
        # By joint convexity a step is at most one Gaussian release.
        return method == "fallback"

    def additive_cost(self, terms: Terms) -> Cost:
        return _fallback(self._runs(), terms.adjacency)

    def overrun(self, planned: int, steps: int, *, method: str, is_fixed: bool) -> DpSgdSchedule | None:
        # It is not known how the schedule went on, so that each step beyond it is one of the worst. A certificate is
        # for a number of steps fixed before the first one: else only whole plans are mechanisms.
        is_any_number = is_fixed or method == "fallback"
        return self._beyond(steps, 1) if is_any_number else self._beyond(planned, -(-steps // planned))

    def has_releases(self, method: str) -> bool:
        # A step run again is no further step: its noise is that of its place in the schedule.
        return False

    def repeats(self, restarts: Sequence[Restart], adjacency: Adjacency, division: Division) -> Repeats:
        # A step that is run again, with the same batch or a new one, costs no more than one release without sampling.
        once = [rounded_up(self._again(phase, adjacency)) for phase in self.phases]
        ends = [0, *accumulate(phase.steps for phase in self.phases)]
        sums = [Fraction(0), *accumulate(each * phase.steps for each, phase in zip(once, self.phases, strict=True))]
        # Beyond the plan each step counts as the worst of it.
        once.append(max(once))

        def until(step: int) -> Fraction:
            index = bisect_right(ends, step) - 1
            return sums[index] + once[index] * (step - ends[index])

        mu_sq = sum((until(restart.to_step) - until(restart.from_step - 1) for restart in restarts), Fraction(0))
        return Repeats(mu_sq=mu_sq)

    def worst_repeats(self, steps: int, adjacency: Adjacency) -> Repeats:
        return Repeats(mu_sq=steps * max(self._again(phase, adjacency) for phase in self.phases))

    def _again(self, phase: Phase, adjacency: Adjacency) -> Fraction:
        """Return the mu² of a step of a phase that is run again."""
        noise = Fraction(phase.noise_multiplier) * Fraction(self.noise_scale)
        return self._any_run.batches.again_sq(adjacency) / noise**2

    # --- solving

    def axis(self, parameter: str, *, segments: int) -> Axis:
        return axes.scale_of_noise(float(min(phase.noise_multiplier for phase in self.phases)))


class _Plans(DpSgdSchedule):
    """Whole plans one after another, each of which outputs of those before it may have decided on: their costs add up.

    It is charged for steps beyond the plan when a run is settled, and is never declared.
    """

    plans: int

    @property
    def declared_steps(self) -> tuple[int, int] | None:
        return self.plans * self.steps, self.plans * self.steps

    def cost(self, terms: Terms, *, path: str) -> Cost:
        try:
            return self._together(super().cost(terms, path=path))
        except (InvalidMechanism, TooLarge, ArithmeticError):
            # Steps that were executed always have a cost: that of as many releases.
            return self.additive_cost(terms)

    def additive_cost(self, terms: Terms) -> Cost:
        return self._together(super().additive_cost(terms))

    def exact_parts(self, terms: Terms) -> Parts:
        if self.plans == 1:
            return super().exact_parts(terms)
        cost = self.cost(terms, path="mechanism")
        return Parts(cost.mu_sq, cost.nats, envelopes=frozenset({self.type}))

    def _together(self, one: Cost) -> Cost:
        mu_sq = self.plans * one.mu_sq
        return Cost(root(mu_sq), mu_sq, self.plans * one.nats, one.method, (*one.assumptions, _BEYOND))


def _sampled(runs: Sequence[_Run], adjacency: Adjacency, path: str) -> _Sampled:
    """Return the steps of runs to compose, equal ones together. Raises as `DpSgd.pair`."""
    counts: Counter[Pair] = Counter()
    plain: list[Fraction] = []
    for run in runs:
        pair = run.pair(adjacency, path=path)
        if pair is None:
            plain.append(run.once(adjacency) * run.whole_steps)
        else:
            counts[pair] += run.whole_steps
    return _Sampled(tuple(certify.Steps(pair, count) for pair, count in counts.items()), summed(plain))


def _fallback(runs: Sequence[_Run], adjacency: Adjacency) -> Cost:
    # Without sampling a step is one Gaussian release, by joint convexity.
    mu_sq = summed([run.once(adjacency) * run.whole_steps for run in runs])
    return rational(mu_sq, "fallback", (*_assumptions(runs, adjacency), _FALLBACK))


def _assumptions(runs: Sequence[_Run], adjacency: Adjacency) -> tuple[str, ...]:
    return (*SGD, runs[0].batches.assumption(adjacency))
