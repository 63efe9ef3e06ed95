"""Compute a cost from an entry's declaration, and compare it with the recorded cost.

How closely they must agree depends on the method:

- a delta, and a mu² that is rational in what was declared (Gaussian, stated, shuffled, correlated noise, no
  amplification), exactly: both are computed in fractions or decimals, which are the same on every machine;
- a closed form in doubles (Laplace, pure and approximate DP, the central-limit formulas) within `CLOSED_FORM`: exp, log
  and erf differ in the last place between mathematical libraries;
- a certificate, zCDP, and the strategy sqrt within `CERTIFICATE`. A certificate's plan lets e^-13 = 2.3e-6 of the least
  tail that it serves wrap around, and a last digit can decide the choice of a tilt or a window: either moves a tail by
  that much, and mu² by about as much relatively. That is ten times less than the last digit of epsilon that is shown.

The integer was rounded up, so one unit more is always within the tolerance, unless everything is exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final, Literal

from ledger.accounting import ACCOUNTANT, beside, costs, mechanisms, settling
from ledger.accounting.cost import Precision
from ledger.accounting.mechanisms import AnyMechanism
from ledger.accounting.restarts import Restart
from ledger.accounting.settling import Beside, Restarts, Stop
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount
from ledger.core.journal import chain
from ledger.core.residual import Residual
from ledger.errors import LedgerError

CLOSED_FORM: Final = Fraction(1, 10**12)
CERTIFICATE: Final = Fraction(1, 10**5)
_TOLERANCES: Final = {Precision.EXACT: None, Precision.CLOSED_FORM: CLOSED_FORM, Precision.CERTIFICATE: CERTIFICATE}
CHARGES_KEPT: Final = 4096

Status = Literal["exact", "within", "undercharged", "overcharged", "dearer"]


@dataclass(frozen=True, slots=True)
class Declaration:
    """The declaration of a run. mechanism: as requested, in canonical JSON, so that equal ones compare equal. base: of
    the levels of its table; None if it was costed by itself. index: its position there."""

    mechanism: str
    terms: Terms
    base: int | None = None
    index: int = 0

    @classmethod
    def of(cls, decision: Mapping[str, Any]) -> Declaration:
        """Return the declaration in the entry of an approval or a refusal."""
        mechanism, terms = chain.canonical(decision["request"]["mechanism"]), Terms.of(decision)
        if "residual" not in decision:
            return cls(mechanism, terms)
        facts = decision["residual"]
        return cls(mechanism, terms, Residual.from_facts(facts).base, facts.get("level", 0))

    @property
    def alone(self) -> Declaration:
        """Return the declaration of the same run by itself."""
        return replace(self, base=None, index=0)

    def parsed(self) -> AnyMechanism:
        """Return the mechanism. Raises InvalidMechanism if this version does not know it."""
        return mechanisms.recorded(chain.parse(self.mechanism))


@dataclass(frozen=True, slots=True)
class Worked:
    """A recomputed cost. tolerance: the relative tolerance of mu²; None if it must be exact. table: its costs beside
    what is left, if it was costed so."""

    mechanism: AnyMechanism
    amount: Amount
    method: str
    tolerance: Fraction | None
    table: Residual | None = None


@dataclass(frozen=True, slots=True)
class Charged:
    """The recomputed charge of a settled run. excess: the part beyond the plan. tolerance: as of a cost; other steps
    than the approved ones can need a certificate even if the run did not."""

    total: Amount
    excess: Amount | None
    tolerance: Fraction | None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended, for its charge. Default: all of it was executed. late: the position of an overrun in its table;
    None if it is charged by itself. is_kept: nothing was given back."""

    steps: int | None = None
    stop: Stop = "planned"
    restarts: Restarts = None
    late: int | None = None
    is_kept: bool = False

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Ended:
        """Return the end that the entry of a settlement records.

        Entries without an accountant (before version 2 of the rules) counted steps beyond the plan as a run of those
        steps, whatever had decided their number, and had no restarts.
        """
        if "accountant" not in entry:
            return cls(entry["steps"], "data_independent" if "overrun" in entry else entry["stop"], ())
        stated = entry.get("restarts")
        restarts = None if stated is None else tuple(_restart(restart) for restart in stated)
        late = entry.get("overrun", {}).get("residual", {}).get("level")
        return cls(entry["steps"], entry["stop"], restarts, late, "kept" in entry)

    @property
    def executed(self) -> Ended:
        """Return what was executed alone."""
        return replace(self, late=None, is_kept=False)


AS_PLANNED: Final = Ended()


def _restart(stated: Mapping[str, Any]) -> Restart:
    return Restart(int(stated["from_step"]), int(stated["to_step"]), bool(stated["new_batches"]))


@dataclass(frozen=True, slots=True)
class Difference:
    """A recorded amount that differs from the recomputed one. what: `cost`, a value of its `table`, `charged`, or the
    `overrun` within that. is_refusal: the run was refused at that cost. accountant: the rules that the entry names."""

    seq: int
    run: str
    what: Literal["cost", "table", "charged", "overrun"]
    is_refusal: bool
    recorded: Amount
    recomputed: Amount
    direction: Literal["undercharged", "overcharged"]
    accountant: str


class Accountant:
    """Compute costs with the installed accountant, each distinct one once."""

    def __init__(self) -> None:
        self._costs: dict[Declaration, Worked | str] = {}
        self.charge = lru_cache(CHARGES_KEPT)(self._charge)

    def cost(self, declaration: Declaration) -> Worked | str:
        """Return the cost of a run with this declaration, or why there is none."""
        if declaration not in self._costs:
            try:
                self._costs[declaration] = _worked(declaration)
            except (LedgerError, ArithmeticError, ValueError) as error:
                self._costs[declaration] = str(error)
        return self._costs[declaration]

    def _charge(self, declaration: Declaration, ended: Ended) -> Charged | str:
        """Return the charge of a run with this declaration and end, or why it is not known."""
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
                beside=None if worked.table is None else Beside(worked.table, worked.table.level(declaration.index)),
            )
        except (LedgerError, ArithmeticError, ValueError) as error:
            return str(error)
        excess = None if charge.excess is None else charge.excess.amount
        if excess is not None and charge.excess_table is not None and ended.late is not None:
            excess = Amount(charge.excess_table.costs[ended.late], excess.delta_atto)
        is_dear = costs.needs_certificate(worked.mechanism, bound=terms.bound)
        planned = worked.amount if ended.is_kept else charge.charged
        total = planned if excess is None else planned + excess
        return Charged(total, excess, CERTIFICATE if is_dear else worked.tolerance)


def _worked(declaration: Declaration) -> Worked:
    mechanism = declaration.parsed()
    cost = costs.cost(mechanism, declaration.terms)
    tolerance = tolerance_of(mechanism, cost.method)
    if declaration.base is None:
        return Worked(mechanism, cost.amount, cost.method, tolerance)
    table = beside.table(mechanism, declaration.terms, declaration.base, cost)
    amount = Amount(table.costs[declaration.index], cost.amount.delta_atto)
    return Worked(mechanism, amount, cost.method, tolerance, table)


def tolerance_of(mechanism: AnyMechanism, method: str) -> Fraction | None:
    """Return the relative tolerance of mu² for a method; None if it must be exact."""
    return _TOLERANCES[mechanism.precision(method)]


def is_earlier(accountant: str) -> bool:
    """Return whether an accountant is an earlier version of the installed one."""
    series, _, number = accountant.rpartition("-")
    installed, _, latest = ACCOUNTANT.rpartition("-")
    return series == installed and number.isdecimal() and int(number) < int(latest)


def compare(*, recorded: Amount, recomputed: Amount, tolerance: Fraction | None) -> Status:
    """Compare a recorded amount with the recomputed one. If either quantity is below it, it is undercharged.

    Never returns `dearer`, which is an overcharge by an earlier accountant.
    """
    recorded, recomputed = recorded.saturated, recomputed.saturated
    if recorded == recomputed:
        return "exact"
    off = recorded - recomputed
    allowed = 0 if tolerance is None else math.ceil(tolerance * recomputed.mu_sq_pico) + 1
    if off.mu_sq_pico < -allowed or off.delta_atto < 0:
        return "undercharged"
    return "overcharged" if off.mu_sq_pico > allowed or off.delta_atto > 0 else "within"
