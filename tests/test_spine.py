"""The way of a run over HTTP, from registering the dataset to the journal."""

from __future__ import annotations

from tests.driver import Ledger


def test_twenty_five_releases_fill_a_budget_of_one(ledger: Ledger) -> None:
    """Goal: 25 Gaussians of noise multiplier 5 fill a budget of mu 1 exactly, and a 26th is refused."""
    ledger.register()
    for _ in range(25):
        assert ledger.ask().status_code == 201
    refused = ledger.ask()
    assert refused.status_code == 409
    assert refused.json()["code"] == "budget-exceeded"
    assert ledger.balance()["remaining"] == (0, 0)
