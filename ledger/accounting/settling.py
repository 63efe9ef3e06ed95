"""What a run is charged when it has ended, by how far it came, what it repeated, and by what made it stop.

A run was approved as a whole. Less than that can be charged only where a theorem says that what was done is itself a
mechanism of that cost, also given that it stopped there:

- nothing that is secret had a say in the number of steps (`data_independent`): what was done is a run of so many steps;
- each release is a complete mechanism, and the run a sequence of them that the filter may end after any: the Gaussian
  and Laplace mechanisms, pure and approximate DP, epochs of shuffled batches, DP-SGD charged without amplification;
- each segment is.

A certificate of amplified DP-SGD, and correlated noise, are for all their steps together: whoever stops because of what
was seen is charged all of them, and whoever goes on because of it is charged the whole plan again. What steps come to
that were run again after a restart, the mechanism's module says; it is charged besides. `_bill` decides which of these
it is and computes nothing, so that `is_dear` can tell beforehand what `charge` is going to do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final, Literal, assert_never

from ledger.accounting import costs
from ledger.accounting.amounts import ATTO, PICO
from ledger.accounting.cost import Cost, root
from ledger.accounting.mechanisms import AnyMechanism, planned_steps, segment, segment_steps
from ledger.accounting.restarts import Division, Repeats, Restart, repeated
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency
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
    """What a run is charged.

    charged: for the steps within the plan; at most what was approved, in both quantities.
    excess, excess_steps: what was done besides, beyond the plan or again, as a run of its own; None and 0 where nothing
    was. Its amount can be past 64 bits. repeated: how many of these steps were run again; None where nobody said.
    assumptions: of the settling itself.
    """

    charged: Amount
    excess: Cost | None = None
    excess_steps: int = 0
    repeated: int | None = 0
    assumptions: tuple[str, ...] = ()


Restarts = tuple[Restart, ...] | None
"""In the order in which they happened; None where nothing was said of them."""


def charge(
    mechanism: AnyMechanism,
    terms: Terms,
    *,
    approved: Amount,
    method: str,
    steps: int | None,
    stop: Stop,
    restarts: Restarts = None,
) -> Charge:
    """What a run that was approved is charged after `steps` steps, repeated ones included.

    terms: what it was costed under. approved, method: what it cost, and by which path. steps: None where they are not
    known, and what was approved is charged. Whether `stop` and `restarts` are what the run says they were is not for a
    computation to know.
    """
    bill = _bill(mechanism, terms, method=method, steps=steps, stop=stop, restarts=restarts)
    charged = _charged(bill, terms, approved)
    if not bill.excesses:
        return Charge(charged, assumptions=bill.assumptions)
    excess = _worst([_excess(excess, terms, approved, method) for excess in bill.excesses])
    return Charge(charged, excess, bill.excess_steps, bill.repeated, bill.assumptions)


def is_dear(
    mechanism: AnyMechanism, terms: Terms, *, method: str, steps: int | None, stop: Stop, restarts: Restarts = None
) -> bool:
    """Whether `charge` has to compute a certificate."""
    bill = _bill(mechanism, terms, method=method, steps=steps, stop=stop, restarts=restarts)
    computed = [] if bill.is_additive or bill.part is None else [bill.part]
    computed += [excess.part for excess in bill.excesses if excess.part is not None and not excess.is_additive]
    return any(part.needs_certificate(terms.bound) for part in computed)


def executed(
    mechanism: AnyMechanism, terms: Terms, *, method: str, steps: int | None, stop: Stop, restarts: Restarts = None
) -> tuple[list[tuple[AnyMechanism, int]], Fraction]:
    """The mechanisms that a run is charged for, and how often each; and a mu² besides, of repeated steps.

    That is what it comes to if all was fixed beforehand. Arguments as for `charge`. A run that stopped early because of
    what it saw counts with all that is charged for it, and one of which nobody said what was repeated with all that may
    have been.
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


# --- what is to be charged -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Excess:
    """What is to be charged beside the plan.

    part: a mechanism that was run beyond it, and the segments that stand in where its cost cannot be had. is_additive:
    it is charged as the sum of its releases. segments: so many as were approved. mu_sq: of repeated steps.
    """

    part: AnyMechanism | None = None
    stand_in: int = 0
    is_additive: bool = False
    segments: int = 0
    mu_sq: Fraction = Fraction(0)
    assumption: str = ""

    @property
    def is_any(self) -> bool:
        """Whether there is anything to be charged."""
        return self.part is not None or self.segments > 0 or self.mu_sq > 0


@dataclass(frozen=True, slots=True)
class _Bill:
    """What is to be charged.

    approved: the part of the approved cost that is charged as it stands.
    part: a mechanism that is charged besides, if it costs no more than the part `part_max` of the approved cost; else
    that. is_additive: it is charged as the sum of its releases.
    excesses: what may have been done besides, of which the worst is charged, in either quantity. excess_steps,
    repeated: as of a Charge.
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
    """A run that has ended. fewest, most: the steps that count as all that was planned."""

    mechanism: AnyMechanism
    adjacency: Adjacency
    method: str
    stop: Stop
    fewest: int
    most: int
    division: Division

    def settled(self, steps: int, repeats: Repeats = _NONE) -> _Bill:
        """It came so far, and what it repeated comes to this besides."""
        bill = self._short(max(steps, 1)) if steps < self.fewest else _AS_APPROVED
        excess = self._excess(steps - self.most, repeats)
        return replace(bill, excesses=(excess,) if excess.is_any else (), excess_steps=max(steps - self.most, 0))

    def listed(self, steps: int, restarts: tuple[Restart, ...]) -> _Bill:
        """Its restarts are known."""
        repeats = self.mechanism.repeats(restarts, self.adjacency, self.division)
        again = repeated(restarts) - repeats.steps
        bill = self.settled(steps - again, repeats)
        return replace(bill, excess_steps=bill.excess_steps + again, repeated=again)

    def unlisted(self, steps: int) -> _Bill:
        """Nothing was said of restarts: within the plan it is assumed that there were none; where there were more steps
        than that, each is charged for the worst that it can have been.

        It may have come no further than one step, and all others repeated that; or to the end of the plan and beyond it
        by some new steps, and the rest were repeated. What new steps come to grows by segments, and what repeated ones
        come to evenly, so that it is most where the new ones have just begun a segment, the first or the last, or where
        there are only new ones. One that was certified by itself costs no more than a repeated one.
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
        """Steps beyond the plan, and repeated ones.

        Going on because of what was seen is a new mechanism, not a longer one: never the difference of two
        certificates. Nor the lesser of two ways to charge so many steps: which one that is depends on their number.
        """
        excess = _Excess()
        if beyond > 0:
            is_fixed = self.stop == "data_independent"
            # Steps beyond the plan are the first ones of so many whole segments.
            segments = -(-beyond // self.division.steps)
            part = self.mechanism.overrun(self.most, beyond, method=self.method, is_fixed=is_fixed)
            is_additive = self.mechanism.is_additive(self.method) and not is_fixed
            excess = _Excess(segments=segments) if part is None else _Excess(part, segments, is_additive)
        if not (repeats.mu_sq or repeats.segments):
            return excess
        segments = excess.segments + repeats.segments
        return replace(excess, segments=segments, mu_sq=repeats.mu_sq, assumption=assumption)

    def _short(self, steps: int) -> _Bill:
        """It came less far than planned. One that was started and says it did nothing may have done part of a step."""
        # Each release is a complete mechanism, and whether there is another one may depend on all that were seen: the
        # filter "sum the squares" is valid for fully adaptive sequences (Smith & Thakurta 2022; Koskela, Tobaben &
        # Honkela 2023), and so is the sum of -log(1 - delta), by the argument in accounting.md.
        match self.stop:
            case "planned":
                return _AS_APPROVED
            case "data_dependent" | "data_independent" if self.mechanism.is_additive(self.method):
                return _Bill(Fraction(0), self.mechanism.resized(steps), Fraction(1), is_additive=True)
            case "data_dependent":
                # Each segment is a complete mechanism in the same filter, and one that was started counts as finished:
                # what it has not released is post-processed away. Without segments that is all of the run.
                begun = -(-steps // self.division.steps)
                return _Bill(Fraction(begun, self.division.segments))
            case "data_independent":
                # A number of steps T' that neither the data nor any output had a say in makes it a mixture of runs of
                # T' steps over public randomness, and given T' it is one. The first T' steps of matrix factorization
                # are that of T' steps, since its strategies are lower triangular: the leading block of one is the
                # shorter one.
                whole, rest = divmod(steps, self.division.steps)
                part = self.mechanism.resized(rest) if rest else None
                return _Bill(Fraction(whole, self.division.segments), part, Fraction(1, self.division.segments))
            case _:
                assert_never(self.stop)


# --- what that costs -------------------------------------------------------------------------------------------------


def _charged(bill: _Bill, terms: Terms, approved: Amount) -> Amount:
    """Rounded up once. Never more than approved: neither is any part more than its part of it, nor the integers."""
    pico, atto = (bill.approved * value for value in (approved.mu_sq_pico, approved.delta_atto))
    if bill.part is not None:
        more = _part(bill.part, bill, terms, approved)
        pico, atto = pico + more[0], atto + more[1]
    return Amount(math.ceil(pico), math.ceil(atto))


def _part(part: AnyMechanism, bill: _Bill, terms: Terms, approved: Amount) -> tuple[Fraction, Fraction]:
    """What a part costs, in units of amounts, or its part of what was approved, which also covers it.

    One or the other, for both quantities: the lesser mu with the lesser delta could be less than either proves.
    """
    most = (bill.part_max * approved.mu_sq_pico, bill.part_max * approved.delta_atto)
    once = replace(terms, delta=Fraction(terms.delta) / terms.segments, segments=1)
    try:
        cost = part.additive_cost(once) if bill.is_additive else costs.cost(part, once)
    except (InvalidMechanism, TooLarge, ArithmeticError):
        return most
    exact = (cost.mu_sq * PICO, cost.nats * ATTO)
    return exact if all(one <= other for one, other in zip(exact, most, strict=True)) else most


def _excess(excess: _Excess, terms: Terms, approved: Amount, method: str) -> Cost:
    """What was done beside the plan, at the run's delta. It always has a cost, since it has been done."""
    part, segments = None, excess.segments
    if excess.part is not None:
        try:
            once = replace(terms, segments=1)
            part = excess.part.additive_cost(once) if excess.is_additive else costs.cost(excess.part, once)
        except (InvalidMechanism, TooLarge, ArithmeticError):
            segments += excess.stand_in  # beyond all numbers of the accountant's
    # Each segment again costs what one was approved for, and the last of them does no less than what was done of it.
    # An amount was rounded up, so that its parts are not below the cost's.
    count = Fraction(segments, terms.segments)
    mu_sq = count * Fraction(approved.mu_sq_pico, PICO) + excess.mu_sq
    nats = count * Fraction(approved.delta_atto, ATTO)
    assumptions = [text for text in (_AGAIN if segments else "", excess.assumption) if text]
    if part is None:
        return Cost(root(mu_sq), mu_sq, nats, method, tuple(assumptions))
    mu_sq, nats = mu_sq + part.mu_sq, nats + part.nats
    return Cost(root(mu_sq), mu_sq, nats, part.method, (*part.assumptions, *assumptions))


def _worst(excesses: list[Cost]) -> Cost:
    """The most of either quantity."""
    most = max(excesses, key=lambda cost: cost.mu_sq)
    return replace(most, nats=max(cost.nats for cost in excesses))
