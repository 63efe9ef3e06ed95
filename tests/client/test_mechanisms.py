"""What a run declares: mechanisms, the steps that they plan, and numbers as they are sent."""

from __future__ import annotations

import random
from datetime import timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from ledger import errors
from ledger.accounting import mechanisms as server_mechanisms
from ledger.client import (
    DPSGD,
    GDP,
    ApproximateDP,
    Composed,
    DPSGDSchedule,
    Gaussian,
    Laplace,
    MatrixFactorization,
    PureDP,
    ZCdp,
)
from ledger.client import Ledger as Client
from ledger.client.mechanisms import planned_steps
from ledger.client.wire import encode
from tests.kit.clients import RELEASE, answering, problem
from tests.kit.driver import Ledger

DECLARED: list[tuple[Any, dict[str, Any]]] = [
    (
        DPSGDSchedule.from_steps(noise_multipliers=np.array([2.0, 2.0, 1.5], dtype=np.float32), sample_rates=0.01),
        {
            "type": "dpsgd_schedule",
            "phases": [
                {"noise_multiplier": 2.0, "sample_rate": 0.01, "steps": 2},
                {"noise_multiplier": 1.5, "sample_rate": 0.01, "steps": 1},
            ],
            "sampling": "poisson",
            "noise_scale": 1,
        },
    ),
    (
        DPSGD(noise_multiplier=1.1, sample_rate=256 / 60_000, steps=14_062),
        {
            "type": "dpsgd",
            "noise_multiplier": 1.1,
            "sample_rate": 256 / 60_000,
            "steps": 14_062,
            "sampling": "poisson",
        },
    ),
    (
        DPSGD(noise_multiplier=1.1, dataset_size=60_000, batch_size=256, epochs=60, sampling="shuffle"),
        {
            "type": "dpsgd",
            "noise_multiplier": 1.1,
            "dataset_size": 60_000,
            "batch_size": 256,
            "epochs": 60,
            "sampling": "shuffle",
        },
    ),
    (Gaussian(noise_multiplier=5), {"type": "gaussian", "noise_multiplier": 5, "count": 1}),
    (Laplace(noise_multiplier=5, count=2), {"type": "laplace", "noise_multiplier": 5, "count": 2}),
    (PureDP(epsilon=0.5), {"type": "pure_dp", "epsilon": 0.5, "count": 1}),
    (ApproximateDP(epsilon=0.5, delta=1e-9), {"type": "approximate_dp", "epsilon": 0.5, "delta": 1e-9, "count": 1}),
    (ZCdp(rho=0.05), {"type": "zcdp", "rho": 0.05}),
    (GDP(mu=0.5, evidence="Theorem 3"), {"type": "gdp", "mu": 0.5, "delta": 0, "evidence": "Theorem 3"}),
    (
        MatrixFactorization(
            noise_multiplier=8,
            strategy="tree",
            steps=2_000,
            participations=20,
            separation=100,
            completion="power_of_two",
        ),
        {
            "type": "matrix_factorization",
            "noise_multiplier": 8,
            "strategy": "tree",
            "steps": 2_000,
            "participations": 20,
            "separation": 100,
            "completion": "power_of_two",
        },
    ),
    (
        MatrixFactorization(noise_multiplier=8, strategy="sqrt", steps=1_000, participations=1, bandwidth=100),
        {
            "type": "matrix_factorization",
            "noise_multiplier": 8,
            "strategy": "sqrt",
            "steps": 1_000,
            "participations": 1,
            "bandwidth": 100,
        },
    ),
    (
        MatrixFactorization(noise_multiplier=8, sensitivity=2.5, evidence="Table 3"),
        {"type": "matrix_factorization", "noise_multiplier": 8, "sensitivity": 2.5, "evidence": "Table 3"},
    ),
    (
        Composed(parts=[Gaussian(noise_multiplier=5), {"type": "pure_dp", "epsilon": 0.1}]),
        {
            "type": "composed",
            "parts": [
                {"type": "gaussian", "noise_multiplier": 5, "count": 1},
                {"type": "pure_dp", "epsilon": 0.1},
            ],
        },
    ),
]


def test_mechanisms_are_the_contract_s(client: Client) -> None:
    """Goal: every mechanism is written as the contract has it, can be read by the ledger, and given as a dict costs
    the same."""
    for mechanism, wanted in DECLARED:
        assert mechanism.to_json() == wanted
        shown = client.evaluate(mechanism=mechanism, bound="clt", report_deltas=[1e-5])
        assert shown == client.evaluate(mechanism=wanted, bound="clt", report_deltas=[Decimal("0.00001")])


def test_planned_steps_are_the_server_s() -> None:
    """Goal: the client's idea of "all that was planned" is the server's. Method: 2,000 random declarations, and those
    that no server accepts, which have none."""
    chance = random.Random(7)
    for _ in range(2_000):
        size = chance.randint(1, 10**6)
        epochs: Any = chance.choice(
            [chance.randint(1, 100), chance.uniform(0.01, 50), Decimal(chance.randint(1, 999)) / 7]
        )
        by_epochs = {"dataset_size": size, "batch_size": chance.randint(1, max(1, size // 100)), "epochs": epochs}
        form = chance.choice([by_epochs, {"sample_rate": 0.01, "steps": chance.randint(1, 10**9)}])
        exact = {name: Decimal(repr(value)) if isinstance(value, float) else value for name, value in form.items()}
        sampling: Any = chance.choice(["poisson", "shuffle"])
        mechanism = DPSGD(noise_multiplier=1, sampling=sampling, **form)
        parsed = server_mechanisms.parse({**mechanism.to_json(), **exact, "noise_multiplier": 1})
        planned = server_mechanisms.planned_steps(parsed)
        assert planned_steps(mechanism) == planned
        segments = chance.randint(1, 9)
        if planned is not None and planned[0] >= segments:
            assert planned_steps(mechanism, segments) == server_mechanisms.planned_steps(parsed, segments)
    for mechanism, _ in DECLARED[2:]:
        exact = {n: Decimal(repr(v)) if isinstance(v, float) else v for n, v in mechanism.to_json().items()}
        if mechanism.type != "composed":
            assert planned_steps(mechanism) == server_mechanisms.planned_steps(server_mechanisms.parse(exact))
    odd: Any
    for odd in [{}, {"type": "dpsgd"}, {"type": "gaussian", "count": "x"}, {"type": "gaussian", "count": float("nan")}]:
        assert planned_steps(odd) is None
    assert planned_steps({"type": "dpsgd", "dataset_size": 1, "batch_size": 0, "epochs": 1}) is None
    assert planned_steps({"type": "gaussian"}, "x") is None  # type: ignore[arg-type]
    assert planned_steps(RELEASE, -3) == (1, 1), "whatever is wrong with segments, the ledger says it"


def test_numbers_are_sent_as_the_decimals_that_were_meant(ledger: Ledger, client: Client) -> None:
    """Goal: a float is its shortest decimal, a Decimal all its digits, to the last of them in the journal."""
    digits = "20.000000000000000000000000000000000000001"
    client.ask(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=Decimal(digits)))
    assert f'"noise_multiplier":{digits}' in ledger.get("/v1/datasets/mnist/entries").text
    assert encode(
        [
            0.1,
            1e-9,
            Decimal("1E-8"),
            5,
            True,
            None,
            np.float64(0.1),
            np.int64(3),
            (1, "ü"),
            timedelta(seconds=1.5),
            {"a": RELEASE},
        ]
    ) == (
        '[0.1,1e-09,1E-8,5,true,null,0.1,3,[1,"\\u00fc"],"PT1.500000S",{"a":{"type":"gaussian","noise_multiplier":5,"count":1}}]'
    )


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), Decimal("NaN"), Fraction(1, 3), np.longdouble(1) / 3, np.float32("nan"), object()],
)
def test_what_is_no_number_is_refused_by_name(value: Any) -> None:
    """Goal: what has no exact decimal never leaves the client, and the error names its place as the server would."""
    with answering(lambda _: problem("internal", 500)) as opened:
        with pytest.raises(errors.InvalidMechanism) as caught:
            opened.ask(datasets=["mnist"], mechanism=Gaussian(noise_multiplier=value))
        assert caught.value.field == "mechanism.noise_multiplier"
        with pytest.raises(errors.InvalidRequest) as also:
            opened.settle("a", evidence={"loss": [1, value]})
        assert also.value.field == "evidence.loss.1"
        with pytest.raises(errors.InvalidRequest, match="name of a member"):
            opened.settle("a", evidence={1: 2})  # type: ignore[dict-item]


def test_a_schedule_of_lists_of_different_lengths() -> None:
    """Goal: values that do not belong together are refused before they are sent. Method: three with two, and none."""
    for noises, rates in (([2, 2, 1], [0.1, 0.2]), ([], 0.1), ([2, 1], [])):
        with pytest.raises(ValueError, match="noise_multipliers has"):
            DPSGDSchedule.from_steps(noise_multipliers=noises, sample_rates=rates)
