"""From what remains to what would fit, for plans and refusals. A process that computes imports this module: it knows no
store and no HTTP."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from typing_extensions import TypedDict

from ledger.accounting import plan
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.plan import Left, Solution
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.errors import TooLarge
from ledger.service import as_one

SECONDS_MAX: Final = 20.0
"""The time limit of the computation of one plan. A client waits 30 seconds by default."""
FITS_COSTS_MAX: Final = 40
"""The number of certificates computed to find what would have fitted: fixed, so that the result is repeatable."""


@dataclass(frozen=True, slots=True)
class Question:
    """Everything that the inverse of a cost depends on. is_dear: whether costs are certificates. left: if runs are
    costed beside what is left."""

    mechanism: AnyMechanism
    terms: Terms
    remaining: Amount
    solve_for: str | None
    is_fit: bool
    is_dear: bool
    left: Left | None = None

    def facts(self) -> dict[str, Any]:
        """Return what identifies this question."""
        return {
            "plan": self.mechanism.model_dump(exclude_none=True),
            "terms": self.terms.facts(),
            "remaining": self.remaining.facts(),
            "left": None if self.left is None else [self.left.base, self.left.mu_sq_pico, *self.left.shares],
            "solve_for": self.solve_for,
        }


@dataclass(frozen=True, slots=True)
class AsOneRun:
    """The most equal runs that fit as one, of all their steps; its mechanism and charge."""

    runs: int
    mechanism: AnyMechanism
    amount: Amount


@dataclass(frozen=True, slots=True)
class Inverse:
    """What would fit, and the result of `solve_for`. as_one: for `runs` that cost less as one."""

    would_fit: dict[str, Solution]
    solution: Solution | None
    as_one: AsOneRun | None = None


class _Room(TypedDict):
    remaining: Amount
    left: Left | None


def invert(question: Question, clock_seconds: Callable[[], float]) -> Inverse:
    """Return the answer to a question. Raises TooLarge if it takes longer than `SECONDS_MAX`."""
    until = clock_seconds() + SECONDS_MAX
    tried = itertools.count(1)

    def is_late() -> bool:
        return clock_seconds() >= until

    def is_late_for_a_refusal() -> bool:
        if is_late():
            raise TooLarge(
                f"mechanism: planning it takes longer than {SECONDS_MAX:g} seconds; ask about a smaller mechanism",
                field="mechanism",
                seconds_max=SECONDS_MAX,
            )
        # As many as a refusal computes, so that both name the same values.
        return question.is_dear and next(tried) > FITS_COSTS_MAX

    mechanism, terms = question.mechanism, question.terms
    room: _Room = {"remaining": question.remaining, "left": question.left}
    would_fit = {}
    if not question.is_fit:
        would_fit = plan.nearest(mechanism, terms, **room, is_late=is_late_for_a_refusal)
    solution = None
    if question.solve_for is not None:
        # A value that does not fit counts as too much, so what would fit is also the most that fits.
        solution = would_fit.get(question.solve_for) or plan.solve(
            mechanism, terms, solve_for=question.solve_for, **room, is_late=is_late
        )
    together = None
    if question.solve_for == "runs" and question.left is not None and question.is_fit and terms.segments == 1:
        together = _as_one(question, is_late)
    return Inverse(would_fit, solution, together)


def _as_one(question: Question, is_late: Callable[[], bool]) -> AsOneRun | None:
    """Return the most runs that fit as one; None if a run has no length, or it takes too long to find."""
    mechanism, name = question.mechanism, as_one.length_of(question.mechanism)
    if name is None:
        return None
    declared = mechanism.model_dump(exclude_none=True)[name]
    room: _Room = {"remaining": question.remaining, "left": question.left}
    try:
        most = plan.solve(mechanism, question.terms, solve_for=name, **room, is_late=is_late)
        runs = 0 if most is None else int(most.value // declared)
        longer = as_one.longer(mechanism, runs) if runs else None
        charged = None if longer is None else plan.charged(longer, question.terms, **room)
    except TooLarge:
        return None
    return None if longer is None or charged is None else AsOneRun(runs, longer, charged)


def fits(
    mechanism: AnyMechanism, terms: Terms, remaining: Amount, *, is_dear: bool, left: Left | None = None
) -> dict[str, Any]:
    """Return what would have fitted in what remained, in place of a refused run. is_dear, left: as in Question."""
    if not is_dear:
        return plan.fits(mechanism, terms, remaining=remaining)
    tried = itertools.count(1)
    return plan.fits(mechanism, terms, remaining=remaining, left=left, is_late=lambda: next(tried) > FITS_COSTS_MAX)
