"""`receipt verify`: what a receipt costs, in epsilon beside mu."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.accounting import oracle
from tests.kit.driver import Terminal


def test_a_receipt_is_shown_in_epsilon_too(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: whoever checks a receipt reads its cost in epsilon, rounded up, at two deltas, and where it is more.
    Method: one release with noise 5, of mu 0.2, against mpmath; as text and as JSON."""
    monkeypatch.chdir(tmp_path)
    terminal("dataset create mnist --mu 1 --delta 1e-6")
    assert terminal("request mnist --type gaussian --noise-multiplier 5 --start --receipt run.jwt").status == 0
    terminal("jwks --output jwks.json")
    checked = terminal("receipt verify run.jwt --jwks jwks.json --json").json
    assert [item["delta"] for item in checked["epsilon"]] == [1e-5, 1e-6]
    shown = terminal("receipt verify run.jwt --jwks jwks.json").out
    mu = math.sqrt(checked["mu_sq_pico"]) / 1e6
    for item in checked["epsilon"]:
        exact = float(oracle.epsilon(mu, 0, item["delta"]))
        assert exact <= item["value"] < exact * (1 + 1e-6)
        assert f"epsilon {item['value']:.5g} at delta {item['delta']:.5g}" in shown
    assert "does not add up" in shown
