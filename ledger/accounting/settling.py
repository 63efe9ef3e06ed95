"""What a run is charged when it has ended, by how far it came and by what made it stop.

A run was approved as a whole. Less than that can be charged only where a theorem says that what was done is itself a
mechanism of that cost, also given that it stopped there:

- nothing that is secret had a say in the number of steps (`data_independent`): what was done is a run of so many steps;
- each release is a complete mechanism, and the run a sequence of them that the filter may end after any: the Gaussian
  and Laplace mechanisms, pure and approximate DP, epochs of shuffled batches, DP-SGD charged without amplification;
- each segment is.

A certificate of amplified DP-SGD, and correlated noise, are for all their steps together: whoever stops because of what
was seen is charged all of them. `_bill` decides which of these it is and computes nothing, so that `is_dear` can tell
beforehand what `charge` is going to do.
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
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.errors import InvalidMechanism, TooLarge

Stop = Literal["planned", "data_independent", "data_dependent"]

_AGAIN: Final = "the steps beyond the plan count as whole runs or segments as approved, each with fresh randomness"


@dataclass(frozen=True, slots=True)
class Charge:
    """What a run is charged.

    charged: for the steps within the plan; at most what was approved, in both quantities.
    excess, excess_steps: what was done beyond the plan, as a run of its own; None and 0 where nothing was. Its amount
    can be past 64 bits.
    """

    charged: Amount
    excess: Cost | None = None
    excess_steps: int = 0


def charge(
    mechanism: AnyMechanism, terms: Terms, *, approved: Amount, method: str, steps: int | None, stop: Stop
) -> Charge:
    """What a run that was approved is charged after `steps` steps, repeated ones included.

    terms: what it was costed under. approved, method: what it cost, and by which path. steps: None where they are not
    known, and what was approved is charged. Whether `stop` is what the run says it was is not for a computation to
    know.
    """
    bill = _bill(mechanism, segments=terms.segments, method=method, steps=steps, stop=stop)
    charged = _charged(bill, terms, approved)
    if bill.excess_steps == 0:
        return Charge(charged)
    return Charge(charged, _excess(bill, terms, approved, method), bill.excess_steps)


def is_dear(mechanism: AnyMechanism, terms: Terms, *, method: str, steps: int | None, stop: Stop) -> bool:
    """Whether `charge` has to compute a certificate."""
    bill = _bill(mechanism, segments=terms.segments, method=method, steps=steps, stop=stop)
    computed = [] if bill.is_additive or bill.part is None else [bill.part]
    computed += [] if bill.excess is None else [bill.excess]
    return any(part.needs_certificate(terms.bound) for part in computed)


def executed(
    mechanism: AnyMechanism, *, segments: int, method: str, steps: int | None, stop: Stop
) -> list[tuple[AnyMechanism, int]]:
    """The mechanisms that a run is charged for, and how often each: what it comes to if that was fixed beforehand.

    Arguments as for `charge`. A run that stopped early because of what it saw counts with all that is charged for it.
    """
    bill = _bill(mechanism, segments=segments, method=method, steps=steps, stop=stop)
    one = segment(mechanism, segments) if segments > 1 else mechanism
    again = bill.excess_segments if bill.excess is None else 0
    counts = [(one, int(bill.approved * segments) + again)]
    counts += [(part, 1) for part in (bill.part, bill.excess) if part is not None]
    return [(part, count) for part, count in counts if count]


# --- what is to be charged -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Bill:
    """What is to be charged.

    approved: the part of the approved cost that is charged as it stands.
    part: a mechanism that is charged besides, if it costs no more than the part `part_max` of the approved cost; else
    that. is_additive: it is charged as the sum of its releases.
    excess: a mechanism that was run beyond the plan; None where it counts as so many segments as were approved,
    `excess_segments`, which also stand in where its cost cannot be had.
    """

    approved: Fraction
    part: AnyMechanism | None = None
    part_max: Fraction = Fraction(0)
    is_additive: bool = False
    excess: AnyMechanism | None = None
    excess_steps: int = 0
    excess_segments: int = 0


_AS_APPROVED: Final = _Bill(Fraction(1))


def _bill(mechanism: AnyMechanism, *, segments: int, method: str, steps: int | None, stop: Stop) -> _Bill:
    planned = planned_steps(mechanism, segments)
    if planned is None or steps is None:
        return _AS_APPROVED
    fewest, most = planned
    if steps > most:
        return _overrun(mechanism, most, segments=segments, steps=steps - most)
    if steps >= fewest or stop == "planned":
        return _AS_APPROVED
    # A run that was started and says none may have done part of one.
    return _short(mechanism, segments=segments, method=method, steps=max(steps, 1), stop=stop)


def _short(
    mechanism: AnyMechanism,
    *,
    segments: int,
    method: str,
    steps: int,
    stop: Literal["data_independent", "data_dependent"],
) -> _Bill:
    # Each release is a complete mechanism, and whether there is another one may depend on all that were seen: the
    # filter "sum the squares" is valid for fully adaptive sequences (Smith & Thakurta 2022; Koskela, Tobaben & Honkela
    # 2023), and so is the sum of -log(1 - delta), by the argument in accounting.md.
    if mechanism.is_additive(method):
        return _Bill(Fraction(0), mechanism.resized(steps), Fraction(1), is_additive=True)
    whole, rest = divmod(steps, segment_steps(mechanism, segments))
    match stop:
        case "data_dependent":
            # Each segment is a complete mechanism in the same filter, and one that was started counts as finished:
            # what it has not released is post-processed away. Without segments that is all of the run.
            return _Bill(Fraction(whole + (rest > 0), segments))
        case "data_independent":
            # A number of steps T' that neither the data nor any output had a say in makes it a mixture of runs of T'
            # steps over public randomness, and given T' it is one. The first T' steps of matrix factorization are that
            # of T' steps, since its strategies are lower triangular: the leading block of one is the shorter one.
            part = mechanism.resized(rest) if rest else None
            return _Bill(Fraction(whole, segments), part, Fraction(1, segments))
        case _:
            assert_never(stop)


def _overrun(mechanism: AnyMechanism, most: int, *, segments: int, steps: int) -> _Bill:
    """What was approved, and a run of its own for the steps beyond it.

    Never the difference of two certificates: going on because of what was seen is a new mechanism, not a longer one.
    """
    # Steps beyond the plan are the first ones of so many whole segments.
    again = -(-steps // segment_steps(mechanism, segments))
    return _Bill(Fraction(1), excess=mechanism.overrun(most, steps), excess_steps=steps, excess_segments=again)


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


def _excess(bill: _Bill, terms: Terms, approved: Amount, method: str) -> Cost:
    """What was done beyond the plan, at the run's delta. It always has a cost, since it has been done."""
    if bill.excess is not None:
        try:
            return costs.cost(bill.excess, replace(terms, segments=1))
        except (InvalidMechanism, TooLarge, ArithmeticError):
            pass  # beyond all numbers of the accountant's
    # Each segment again costs what one was approved for, and the last of them does no less than what was done of it.
    # An amount was rounded up, so that its parts are not below the cost's.
    count = Fraction(bill.excess_segments, terms.segments)
    mu_sq = count * Fraction(approved.mu_sq_pico, PICO)
    nats = count * Fraction(approved.delta_atto, ATTO)
    return Cost(root(mu_sq), mu_sq, nats, method, (_AGAIN,))
