"""A cost from what an entry records of it, and how it compares with the cost that the entry says.

How closely they have to agree depends on how a cost came about:

- a delta, and a mu² that is rational in what was declared (Gaussian, stated, shuffled, correlated noise, no
  amplification), exactly: both are worked out in fractions or in decimals, which no machine rounds otherwise;
- a closed form in doubles (Laplace, pure and approximate DP, the central-limit formulas) within `CLOSED_FORM`: exp, log
  and erf differ by units in the last place between libraries of mathematics;
- a certificate, zCDP, and the strategy sqrt within `CERTIFICATE`. A certificate's plan lets e^-13 = 2.3e-6 of the least
  tail that it serves wrap around, and where a tilt or a window is chosen a last digit can tip the choice: either moves
  a tail by that much, and mu² by about as much relatively. Ten times less than the least digit that anybody reads of
  epsilon.

An integer was rounded up, so that one unit more is always within, except where all is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, Literal

from ledger.accounting import ACCOUNTANT, costs, mechanisms, settling
from ledger.accounting.cost import Precision
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.restarts import Restart
from ledger.accounting.settling import Restarts, Stop
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.journal import chain
from ledger.errors import LedgerError

CLOSED_FORM: Final = Fraction(1, 10**12)
CERTIFICATE: Final = Fraction(1, 10**5)
_TOLERANCES: Final = {Precision.EXACT: None, Precision.CLOSED_FORM: CLOSED_FORM, Precision.CERTIFICATE: CERTIFICATE}
CHARGES_KEPT: Final = 4096

Status = Literal["exact", "within", "undercharged", "overcharged", "dearer"]


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a run was costed by. mechanism: its request, in canonical JSON, so that equal ones are one."""

    mechanism: str
    terms: Terms

    @classmethod
    def of(cls, decision: Mapping[str, Any]) -> Declaration:
        """The declaration that an approval or a refusal records."""
        return cls(chain.canonical(decision["request"]["mechanism"]), Terms.of(decision))

    def parsed(self) -> AnyMechanism:
        """The mechanism. Raises InvalidMechanism where it is none that this version knows."""
        return mechanisms.recorded(chain.parse(self.mechanism))


@dataclass(frozen=True, slots=True)
class Worked:
    """A cost that was worked out again. tolerance: how far off mu² may be, relatively; None where not at all."""

    mechanism: AnyMechanism
    amount: Amount
    method: str
    tolerance: Fraction | None


@dataclass(frozen=True, slots=True)
class Charged:
    """What a settled run is charged, worked out again. excess: the part of it that was beyond the plan. tolerance: as
    of a cost; steps other than the approved ones can be a certificate where the run was none."""

    total: Amount
    excess: Amount | None
    tolerance: Fraction | None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended, as its settling is charged: all of it, where nothing else is said."""

    steps: int | None = None
    stop: Stop = "planned"
    restarts: Restarts = None

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Ended:
        """What a settling records.

        Before it said by which accountant it was worked out (version 2 of the rules), what was beyond the plan counted
        as a run of so many steps whatever had decided their number, and nobody asked for restarts.
        """
        if "accountant" not in entry:
            return cls(entry["steps"], "data_independent" if "overrun" in entry else entry["stop"], ())
        stated = entry.get("restarts")
        restarts = None if stated is None else tuple(_restart(restart) for restart in stated)
        return cls(entry["steps"], entry["stop"], restarts)


AS_PLANNED: Final = Ended()


def _restart(stated: Mapping[str, Any]) -> Restart:
    return Restart(int(stated["from_step"]), int(stated["to_step"]), bool(stated["new_batches"]))


@dataclass(frozen=True, slots=True)
class Difference:
    """An amount that an entry records and that comes out otherwise. what: of a `cost`, of what was `charged`, or of the
    `overrun` within that. is_refusal: the run was refused at that cost. accountant: the rules that the entry names."""

    seq: int
    run: str
    what: Literal["cost", "charged", "overrun"]
    is_refusal: bool
    recorded: Amount
    recomputed: Amount
    direction: Literal["undercharged", "overcharged"]
    accountant: str


class Accountant:
    """Works costs out with the installed accountant, each distinct one once."""

    def __init__(self) -> None:
        self._costs: dict[Declaration, Worked | str] = {}
        self.charge = lru_cache(CHARGES_KEPT)(self._charge)

    def cost(self, declaration: Declaration) -> Worked | str:
        """The cost of a run that was declared so, or why there is none."""
        if declaration not in self._costs:
            try:
                self._costs[declaration] = _worked(declaration)
            except (LedgerError, ArithmeticError, ValueError) as error:
                self._costs[declaration] = str(error)
        return self._costs[declaration]

    def _charge(self, declaration: Declaration, ended: Ended) -> Charged | str:
        """What a run that was declared so is charged when it ended so, or why that is not known."""
        worked, terms = self.cost(declaration), declaration.terms
        if isinstance(worked, str):
            return worked
        try:
            charge = settling.charge(
                worked.mechanism,
                terms,
                approved=worked.amount,
                method=worked.method,
                steps=ended.steps,
                stop=ended.stop,
                restarts=ended.restarts,
            )
        except (LedgerError, ArithmeticError, ValueError) as error:
            return str(error)
        excess = None if charge.excess is None else charge.excess.amount
        is_dear = costs.needs_certificate(worked.mechanism, bound=terms.bound)
        total = charge.charged if excess is None else charge.charged + excess
        return Charged(total, excess, CERTIFICATE if is_dear else worked.tolerance)


def _worked(declaration: Declaration) -> Worked:
    mechanism = declaration.parsed()
    cost = costs.cost(mechanism, declaration.terms)
    return Worked(mechanism, cost.amount, cost.method, tolerance_of(mechanism, cost.method))


def tolerance_of(mechanism: AnyMechanism, method: str) -> Fraction | None:
    """How far off mu² may be, relatively, for a cost of this method; None where it has to be exact."""
    return _TOLERANCES[mechanism.precision(method)]


def is_earlier(accountant: str) -> bool:
    """Whether an accountant is an earlier version of the installed one."""
    series, _, number = accountant.rpartition("-")
    installed, _, latest = ACCOUNTANT.rpartition("-")
    return series == installed and number.isdecimal() and int(number) < int(latest)


def compare(*, recorded: Amount, recomputed: Amount, tolerance: Fraction | None) -> Status:
    """How a recorded amount compares with the one worked out again: below it in either quantity, it is undercharged.

    Never `dearer`, which an overcharge by an earlier accountant is.
    """
    recorded, recomputed = recorded.saturated, recomputed.saturated
    if recorded == recomputed:
        return "exact"
    off = recorded - recomputed
    allowed = 0 if tolerance is None else math.ceil(tolerance * recomputed.mu_sq_pico) + 1
    if off.mu_sq_pico < -allowed or off.delta_atto < 0:
        return "undercharged"
    return "overcharged" if off.mu_sq_pico > allowed or off.delta_atto > 0 else "within"
