"""What the client returns and logs about sizes and batches."""

from __future__ import annotations

import logging

import pytest

from ledger.client import DPSGD, DPSGDSchedule, Gaussian
from ledger.client import Ledger as Client
from ledger.client.mechanisms import Composed, declared
from ledger.client.sampling import is_poisson
from ledger.errors import InvalidRequest
from tests.kit.driver import Ledger


def test_the_client_returns_and_logs_what_a_run_assumes(
    ledger: Ledger, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Goal: a run has its assumptions, expected batch and warnings, shows Poisson batches in its repr, and logs them
    once; without a size its plan is that of the registered one. Method: runs in this process."""
    ledger.register(name="reviews", size=900, budget={"mu": 3})
    caplog.set_level(logging.INFO, logger="ledger.client")
    mechanism = DPSGD(noise_multiplier=30, batch_size=300, epochs=2)
    with client.run(datasets=["reviews"], mechanism=mechanism) as run:
        assert run.planned_steps == 6
        assert run.expected_batch == {"size": 300, "units": 900}
        assert "Poisson" in repr(run)
        assert any("independently" in text for text in run.assumptions)
        assert any("33.3333 %" in text for text in run.warnings)
        for _ in run.batches(range(10)):
            pass
    assert run.steps == 6
    logged = [record.levelname for record in caplog.records if run.id in record.getMessage()]
    assert logged == ["INFO", "WARNING"]
    with client.run(datasets=["reviews"], mechanism=Gaussian(noise_multiplier=30)) as other:
        assert "Poisson" not in repr(other)
    assert not [record for record in caplog.records if other.id in record.getMessage()]
    stated = DPSGD(noise_multiplier=30, dataset_size=90, batch_size=30, epochs=1)
    with pytest.raises(InvalidRequest) as refused:
        client.ask(datasets=["reviews"], mechanism=stated)
    assert refused.value.facts["registered"] == 900
    assert client.ask(datasets=["reviews"], mechanism=stated, size_differs="a part")["decision"] == "approved"
    assert client.plan(datasets=["reviews"], mechanism=stated, size_differs="a part")["fits"]


def test_parts_of_a_mechanism_declare_poisson_batches_too() -> None:
    """Goal: the assumption is found wherever it is made. Method: one of each kind."""
    phases = [{"noise_multiplier": 1, "sample_rate": 0.1, "steps": 5}]
    schedule = DPSGDSchedule(phases=phases)
    assert is_poisson(declared(schedule))
    assert is_poisson(declared(Composed(parts=[Gaussian(noise_multiplier=3), schedule])))
    assert not is_poisson(declared(DPSGDSchedule(phases=phases, sampling="fixed_size")))
    assert not is_poisson(declared(Composed(parts=[Gaussian(noise_multiplier=3)])))
