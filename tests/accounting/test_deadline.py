"""`ledger.accounting.deadline`: whatever is computed ends when it has to, and nothing makes another cost of it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from time import monotonic
from typing import Any, Final

import pytest

from ledger.accounting import costs, deadline, exact, mechanisms, plan, settling
from ledger.accounting.terms import Terms
from ledger.core.amounts import Amount

TERMS: Final = Terms(bound="certified", adjacency="replace_one", delta=Decimal("1e-8"))
POISSON: Final = {"type": "dpsgd", "noise_multiplier": 1, "sampling": "poisson", "sample_rate": 0.01, "steps": 1000}
SQRT: Final = {"type": "matrix_factorization", "noise_multiplier": 1, "strategy": "sqrt", "steps": 64}
DECLARED: Final[dict[str, dict[str, Any]]] = {
    "steps": POISSON,
    "one step": POISSON | {"steps": 1},
    "few steps": POISSON | {"steps": 3, "noise_multiplier": 0.2},
    "fixed size": POISSON | {"sampling": "fixed_size"},
    "groups": POISSON | {"noise_multiplier": 0.157, "sample_rate": 0.02, "steps": 1500},
    "composed": {"type": "composed", "parts": [POISSON, POISSON | {"steps": 7}, {"type": "zcdp", "rho": 1}]},
    "zcdp": {"type": "zcdp", "rho": 1},
    "correlated": SQRT | {"participations": 3, "separation": 5},
}
HUGE: Final = Amount(10**18, 10**18)


def charge(declared: dict[str, Any], steps: int, stop: settling.Stop) -> None:
    """Settle a run of it, under its own cost."""
    mechanism = mechanisms.parse(declared)
    settling.charge(mechanism, TERMS, approved=HUGE, method="pld-poisson", steps=steps, stop=stop)


COMPUTED: Final[dict[str, Callable[[], Any]]] = {
    **{
        name: lambda declared=declared: costs.cost(mechanisms.parse(declared), TERMS)  # type: ignore[misc]
        for name, declared in DECLARED.items()
    },
    "frontier": lambda: costs.frontier(mechanisms.parse(POISSON), bound="certified", adjacency="replace_one"),
    "settled early": lambda: charge(POISSON, 400, "data_independent"),
    "overrun": lambda: charge(POISSON, 1400, "data_independent"),
    "fits": lambda: plan.fits(mechanisms.parse(POISSON), TERMS, remaining=Amount(10**9, 10**11)),
    "exact": lambda: exact.epsilons(mechanisms.parse(POISSON).exact_parts(TERMS), [1e-5]),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_whatever_is_computed_can_be_ended(name: str) -> None:
    """Goal: each computation looks at its deadline, and an end by it is no cost. Method: an end that has come."""
    with deadline.until(monotonic() - 1, threading.Event()), pytest.raises(deadline.Expired):
        COMPUTED[name]()
    stop = threading.Event()
    stop.set()
    with deadline.until(monotonic() + 3600, stop), pytest.raises(deadline.Stopped):
        COMPUTED[name]()


@pytest.mark.parametrize("name", ["groups", "settled early", "overrun", "fits"])
def test_an_end_half_way_is_no_cost(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: wherever a computation is ended, no other cost takes its place.

    Method: count its looks at the deadline, and let the end come at one in the middle, and at the last.
    """
    looks, end = 0, 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == end:
            raise deadline.Expired

    monkeypatch.setattr(deadline, "check", look)
    COMPUTED[name]()
    for at in (looks // 2, looks):
        looks, end = 0, at
        with pytest.raises(deadline.Expired):
            COMPUTED[name]()
