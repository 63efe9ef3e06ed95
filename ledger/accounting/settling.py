"""The charge of a run that has ended, by how far it came, what it repeated, and why it stopped.

A run was approved as a whole. Less can be charged only if a theorem shows that the executed part is itself a mechanism
of that cost, also given that it stopped there:

- nothing secret influenced the number of steps (`data_independent`): the executed part is a run of that many steps;
- each release is a complete mechanism, and the run a sequence of them that the filter may end after any: the Gaussian
  and Laplace mechanisms, pure and approximate DP, epochs of shuffled batches, DP-SGD charged without amplification;
- each segment is.

A certificate of amplified DP-SGD, and correlated noise, are for all their steps together. A run that stops because of
an output is charged all of them, and a run that goes on because of an output is charged the whole plan again. Repeated
steps after a restart are charged too; the mechanism's module has their cost. `_bill` chooses the case and computes
nothing, so that `is_dear` knows in advance what `charge` will do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import accumulate
from typing import Final, Literal, assert_never

from ledger.accounting import costs, residual
from ledger.accounting.amounts import ATTO, PICO
from ledger.accounting.cost import Cost, root
from ledger.accounting.mechanisms import AnyMechanism, planned_steps, segment, segment_steps
from ledger.accounting.restarts import Division, Repeats, Restart, repeated
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency
from ledger.core.residual import Residual, levels
from ledger.errors import InvalidMechanism, TooLarge

Stop = Literal["planned", "data_independent", "data_dependent"]

_AGAIN: Final = "the steps beyond the plan count as whole runs or segments as approved, each with fresh randomness"
_REPEATED: Final = "steps that were run again had fresh noise, and met the units as the restarts say"
_WORST: Final = (
    "nothing was said of restarts, and the plan gives fewer steps: they count as the worst they can have been"
)
NONE_REPEATED: Final = (
    "nothing was said of restarts: it is assumed that no step was run again after one, and that batches went on as "
    "before"
)


@dataclass(frozen=True, slots=True)
class Charge:
    """The charge of a run.

    charged: for the steps within the plan; at most what was approved, in both quantities. excess, excess_steps: the
    steps beyond the plan or repeated, as a run of their own; None and 0 if there were none. Its amount can exceed 64
    bits. repeated: how many of these steps were repeated; None if not reported. assumptions: of the settlement itself.
    excess_table: the mu² of the excess beside what is left, if the run was costed so.
    """

    charged: Amount
    excess: Cost | None = None
    excess_steps: int = 0
    repeated: int | None = 0
    assumptions: tuple[str, ...] = ()
    excess_table: Residual | None = None


Restarts = tuple[Restart, ...] | None
"""In the order in which they happened; None if they were not reported."""


def charge(
    mechanism: AnyMechanism,
    terms: Terms,
    *,
    approved: Amount,
    method: str,
    steps: int | None,
    stop: Stop,
    restarts: Restarts = None,
    beside: Beside | None = None,
) -> Charge:
    """Return the charge of an approved run after `steps` steps, including repeated ones.

    terms: those of its approval. approved, method: the approved cost, and how it was computed. steps: None if they are
    not known; then the approved cost is charged. beside: the table that the run was costed by, if it was. `stop` and
    `restarts` are taken as reported: no computation can check them.
    """
    bill = _bill(mechanism, terms, method=method, steps=steps, stop=stop, restarts=restarts)
    charged = _charged(bill, terms, approved, r=0 if beside is None else beside.r)
    if not bill.excesses:
        return Charge(charged, assumptions=bill.assumptions)
    alone = approved if beside is None else Amount(beside.table.costs[0], approved.delta_atto)
    excess = _worst([_excess(excess, terms, alone, method) for excess in bill.excesses])
    table = None if beside is None else _excess_table(bill.excesses, terms, beside.table)
    return Charge(charged, excess, bill.excess_steps, bill.repeated, bill.assumptions, table)


@dataclass(frozen=True, slots=True)
class Beside:
    """The table that a run was costed by, and its r: mu², in units of 1e-12."""

    table: Residual
    r: int


def is_dear(
    mechanism: AnyMechanism, terms: Terms, *, method: str, steps: int | None, stop: Stop, restarts: Restarts = None
) -> bool:
    """Return whether `charge` must compute a certificate."""
    bill = _bill(mechanism, terms, method=method, steps=steps, stop=stop, restarts=restarts)
    computed = [] if bill.is_additive or bill.part is None else [bill.part]
    computed += [excess.part for excess in bill.excesses if excess.part is not None and not excess.is_additive]
    return any(part.needs_certificate(terms.bound) for part in computed)


def executed(
    mechanism: AnyMechanism, terms: Terms, *, method: str, steps: int | None, stop: Stop, restarts: Restarts = None
) -> tuple[list[tuple[AnyMechanism, int]], Fraction]:
    """Return the mechanisms that a run is charged for, with their counts, and the mu² of repeated steps.

    That is its cost if everything was fixed in advance. Arguments as for `charge`. A run that stopped early because of
    an output counts with its whole charge, and a run without reported restarts with the worst possible ones.
    """
    bill = _bill(mechanism, terms, method=method, steps=steps, stop=stop, restarts=restarts)
    segments = terms.segments
    one = segment(mechanism, segments) if segments > 1 else mechanism
    again = max((excess.segments for excess in bill.excesses), default=0)
    parts = [excess.part for excess in bill.excesses if excess.part is not None]
    longest = max(parts, key=lambda part: part.declared_steps or (0, 0), default=None)
    counts = [(one, int(bill.approved * segments) + again)]
    counts += [(part, 1) for part in (bill.part, longest) if part is not None]
    mu_sq = max((excess.mu_sq for excess in bill.excesses), default=Fraction(0))
    return [(part, count) for part, count in counts if count], mu_sq


# --- what to charge --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Excess:
    """The charge beyond the plan.

    part: the mechanism that was run beyond it; stand_in: the segments that replace it if its cost is not known.
    is_additive: it is charged as the sum of its releases. segments: as many as approved. mu_sq: of repeated steps.
    """

    part: AnyMechanism | None = None
    stand_in: int = 0
    is_additive: bool = False
    segments: int = 0
    mu_sq: Fraction = Fraction(0)
    assumption: str = ""

    @property
    def is_any(self) -> bool:
        """Return whether there is anything to charge."""
        return self.part is not None or self.segments > 0 or self.mu_sq > 0


@dataclass(frozen=True, slots=True)
class _Bill:
    """The parts of a charge.

    approved: the part of the approved cost that is charged unchanged. part: a mechanism that is charged too, but at
    most the part `part_max` of the approved cost. is_additive: it is charged as the sum of its releases. excesses: what
    may have been done beyond the plan; the worst is charged, in each quantity. excess_steps, repeated: as in a Charge.
    """

    approved: Fraction
    part: AnyMechanism | None = None
    part_max: Fraction = Fraction(0)
    is_additive: bool = False
    excesses: tuple[_Excess, ...] = ()
    excess_steps: int = 0
    repeated: int | None = 0
    assumptions: tuple[str, ...] = ()


_AS_APPROVED: Final = _Bill(Fraction(1))
_NONE: Final = Repeats()


def _bill(
    mechanism: AnyMechanism, terms: Terms, *, method: str, steps: int | None, stop: Stop, restarts: Restarts
) -> _Bill:
    planned = planned_steps(mechanism, terms.segments)
    if planned is None or steps is None:
        return _AS_APPROVED
    division = Division(terms.segments, segment_steps(mechanism, terms.segments))
    run = _Run(mechanism, terms.adjacency, method, stop, *planned, division)
    if mechanism.has_releases(method):
        return run.settled(steps)
    return run.unlisted(steps) if restarts is None else run.listed(steps, restarts)


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that has ended. fewest, most: the range of steps that counts as the whole plan."""

    mechanism: AnyMechanism
    adjacency: Adjacency
    method: str
    stop: Stop
    fewest: int
    most: int
    division: Division

    def settled(self, steps: int, repeats: Repeats = _NONE) -> _Bill:
        """Return the bill of a run after this many steps, with the cost of its repeated steps."""
        bill = self._short(max(steps, 1)) if steps < self.fewest else _AS_APPROVED
        excess = self._excess(steps - self.most, repeats)
        return replace(bill, excesses=(excess,) if excess.is_any else (), excess_steps=max(steps - self.most, 0))

    def listed(self, steps: int, restarts: tuple[Restart, ...]) -> _Bill:
        """Return the bill of a run whose restarts are known."""
        repeats = self.mechanism.repeats(restarts, self.adjacency, self.division)
        again = repeated(restarts) - repeats.steps
        bill = self.settled(steps - again, repeats)
        return replace(bill, excess_steps=bill.excess_steps + again, repeated=again)

    def unlisted(self, steps: int) -> _Bill:
        """Return the bill of a run without reported restarts: within the plan none are assumed; beyond it, the worst
        case is charged.

        It may have executed only one step and repeated it; or the whole plan and some new steps beyond it, and repeated
        the rest. The cost of new steps grows by segments, and that of repeated ones evenly. So the worst case is that
        the new ones have just begun a segment, the first or the last, or that all are new. A new step that is certified
        by itself costs no more than a repeated one.
        """
        beyond = steps - self.most
        if beyond <= 0:
            return replace(self.settled(steps), assumptions=(NONE_REPEATED,))
        news = {beyond}
        if self.stop != "data_independent" or self.mechanism.is_additive(self.method):
            news |= {1, (beyond - 1) // self.division.steps * self.division.steps + 1}
        readings = [(0, steps - 1), *((new, beyond - new) for new in sorted(news))]
        excesses = tuple(
            self._excess(new, self.mechanism.worst_repeats(again, self.adjacency), _WORST) for new, again in readings
        )
        return _Bill(Fraction(1), excesses=excesses, excess_steps=beyond, repeated=None, assumptions=(_WORST,))

    def _excess(self, beyond: int, repeats: Repeats, assumption: str = _REPEATED) -> _Excess:
        """Return the charge of steps beyond the plan, and of repeated ones.

        Going on because of an output is a new mechanism, not a longer one, so the charge is never the difference of two
        certificates. Nor is it the lesser of two charges for this number of steps: which one is less depends on the
        number, and so on the output.
        """
        excess = _Excess()
        if beyond > 0:
            is_fixed = self.stop == "data_independent"
            # Steps beyond the plan are the first ones of this many whole segments.
            segments = -(-beyond // self.division.steps)
            part = self.mechanism.overrun(self.most, beyond, method=self.method, is_fixed=is_fixed)
            is_additive = self.mechanism.is_additive(self.method) and not is_fixed
            excess = _Excess(segments=segments) if part is None else _Excess(part, segments, is_additive)
        if not (repeats.mu_sq or repeats.segments):
            return excess
        segments = excess.segments + repeats.segments
        return replace(excess, segments=segments, mu_sq=repeats.mu_sq, assumption=assumption)

    def _short(self, steps: int) -> _Bill:
        """Return the bill of a run with fewer steps. A started run that reports none may have done part of a step."""
        # Each release is a complete mechanism, and whether another one follows may depend on all outputs so far: the
        # filter "sum the squares" is valid for fully adaptive sequences (Smith & Thakurta 2022; Koskela, Tobaben &
        # Honkela 2023), and so is the sum of -log(1 - delta), by the argument in accounting.md.
        match self.stop:
            case "planned":
                return _AS_APPROVED
            case "data_dependent" | "data_independent" if self.mechanism.is_additive(self.method):
                return _Bill(Fraction(0), self.mechanism.resized(steps), Fraction(1), is_additive=True)
            case "data_dependent":
                # Each segment is a complete mechanism in the same filter, and one that was started counts as finished:
                # its missing releases are post-processed away. Without segments that is the whole run.
                begun = -(-steps // self.division.steps)
                return _Bill(Fraction(begun, self.division.segments))
            case "data_independent":
                # A number of steps T' that neither the data nor any output influenced makes it a mixture of runs of
                # T' steps over public randomness, and given T' it is one. The first T' steps of matrix factorization
                # are that of T' steps, since its strategies are lower triangular: the leading block of one is the
                # shorter one.
                whole, rest = divmod(steps, self.division.steps)
                part = self.mechanism.resized(rest) if rest else None
                return _Bill(Fraction(whole, self.division.segments), part, Fraction(1, self.division.segments))
            case _:
                assert_never(self.stop)


# --- its cost --------------------------------------------------------------------------------------------------------


def _charged(bill: _Bill, terms: Terms, approved: Amount, *, r: int) -> Amount:
    """Return the charge, rounded up once. No part costs more than its approved part, so it is at most `approved`."""
    pico, atto = (bill.approved * value for value in (approved.mu_sq_pico, approved.delta_atto))
    if bill.part is not None:
        more = _part(bill.part, bill, terms, approved, r)
        pico, atto = pico + more[0], atto + more[1]
    return Amount(math.ceil(pico), math.ceil(atto))


def _part(part: AnyMechanism, bill: _Bill, terms: Terms, approved: Amount, r: int) -> tuple[Fraction, Fraction]:
    """Return the cost of a part at r, in units of amounts, or its part of the approved cost, which also covers it.

    It is one or the other for both quantities: the lesser mu with the lesser delta could be less than either proves.
    """
    most = (bill.part_max * approved.mu_sq_pico, bill.part_max * approved.delta_atto)
    once = replace(terms, delta=Fraction(terms.delta) / terms.segments, segments=1)
    try:
        cost = part.additive_cost(once) if bill.is_additive else costs.cost(part, once)
    except (InvalidMechanism, TooLarge, ArithmeticError):
        return most
    mu_sq = cost.mu_sq * PICO if r == 0 else Fraction(residual.residual_costs(part, once, (0, r))[-1])
    exact = (mu_sq, cost.nats * ATTO)
    return exact if all(one <= other for one, other in zip(exact, most, strict=True)) else most


def _excess(excess: _Excess, terms: Terms, approved: Amount, method: str) -> Cost:
    """Return the cost of what was done beyond the plan, at the run's delta. It always has one: it was executed."""
    part, segments = None, excess.segments
    if excess.part is not None:
        try:
            once = replace(terms, segments=1)
            part = excess.part.additive_cost(once) if excess.is_additive else costs.cost(excess.part, once)
        except (InvalidMechanism, TooLarge, ArithmeticError):
            segments += excess.stand_in  # too large for the accountant's numbers
    # Each further segment costs what one was approved for, and the last one, if cut short, at most that.
    # An amount was rounded up, so that its parts are not below the cost's.
    count = Fraction(segments, terms.segments)
    mu_sq = count * Fraction(approved.mu_sq_pico, PICO) + excess.mu_sq
    nats = count * Fraction(approved.delta_atto, ATTO)
    assumptions = [text for text in (_AGAIN if segments else "", excess.assumption) if text]
    if part is None:
        return Cost(root(mu_sq), mu_sq, nats, method, tuple(assumptions))
    mu_sq, nats = mu_sq + part.mu_sq, nats + part.nats
    return Cost(root(mu_sq), mu_sq, nats, part.method, (*part.assumptions, *assumptions))


def _excess_table(excesses: Sequence[_Excess], terms: Terms, table: Residual) -> Residual:
    """Return what was done beside the plan costs at each level of the run's table: the largest of each, if it is not
    known which was done."""
    columns = [_excess_costs(excess, terms, table) for excess in excesses]
    costs_at = list(accumulate(map(max, zip(*columns, strict=True)), min))
    return Residual(table.base, tuple(costs_at))


def _excess_costs(excess: _Excess, terms: Terms, table: Residual) -> list[int]:
    part, segments = [0] * len(table.costs), excess.segments
    if excess.part is not None:
        once = replace(terms, segments=1)
        try:
            if excess.is_additive:
                part = [excess.part.additive_cost(once).amount.mu_sq_pico] * len(table.costs)
            else:
                part = list(residual.residual_costs(excess.part, once, levels(table.base)[: len(table.costs)]))
        except (InvalidMechanism, TooLarge, ArithmeticError):
            segments += excess.stand_in
    return [
        max(1, math.ceil(Fraction(segments, terms.segments) * whole + excess.mu_sq * PICO) + one)
        for whole, one in zip(table.costs, part, strict=True)
    ]


def _worst(excesses: list[Cost]) -> Cost:
    """Return the largest of each quantity."""
    most = max(excesses, key=lambda cost: cost.mu_sq)
    return replace(most, nats=max(cost.nats for cost in excesses))
