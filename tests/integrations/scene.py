"""A run as a tracker sees it, and what it must have logged."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ledger.client import BudgetExceeded, Gaussian, Ledger, Run, receipt_digest

RELEASES = Gaussian(noise_multiplier=10, count=4)
Log = Callable[[Run], object]


def trained(ledger: Ledger, dataset: str, log: Log, *, steps: int = 4) -> Run:
    """A run that is logged at its start, and that executes so many of its four releases."""
    with ledger.run(datasets=[dataset], mechanism=RELEASES) as run:
        log(run)
        for _ in range(steps):
            run.step()
    return run


def demand_texts(found: Mapping[str, Any], run: Run, *, state: str) -> None:
    """The texts that every tracker has."""
    own = {name: value for name, value in found.items() if name.startswith("privacy_ledger/")}
    assert own["privacy_ledger/run"] == run.id
    assert own["privacy_ledger/decision"] == "approved"
    assert own["privacy_ledger/state"] == state
    assert own["privacy_ledger/datasets"] == ", ".join(run.remaining)
    assert own["privacy_ledger/receipt_sha256"] == receipt_digest(str(run.receipt))


def demand_numbers(found: Mapping[str, Any], *, steps: int | None) -> None:
    """The numbers that every tracker has: of four releases, and of those executed once it is settled."""
    own = {name: value for name, value in found.items() if name.startswith("privacy_ledger/")}
    assert all(math.isfinite(value) for value in own.values() if isinstance(value, float))
    assert own["privacy_ledger/cost_mu"] == pytest.approx(0.2)
    assert own["privacy_ledger/planned_steps"] == 4
    assert 0 < own["privacy_ledger/cost_percent"] < 100
    assert 0 < own["privacy_ledger/planned_epsilon_at_delta_1e-05"] < 3
    if steps is None:
        assert "privacy_ledger/charged_mu" not in own
        assert "privacy_ledger/epsilon_at_delta_1e-05" not in own
        return
    assert own["privacy_ledger/steps"] == steps
    assert own["privacy_ledger/charged_mu"] == pytest.approx(0.1 * math.sqrt(steps))
    assert 0 < own["privacy_ledger/epsilon_at_delta_1e-05"] <= own["privacy_ledger/planned_epsilon_at_delta_1e-05"]


def demand_refused(ledger: Ledger, dataset: str, log: Log) -> None:
    """A run that does not fit logs nothing, because it never begins."""
    with pytest.raises(BudgetExceeded), ledger.run(datasets=[dataset], mechanism=Gaussian(noise_multiplier=0.1)) as run:
        log(run)
