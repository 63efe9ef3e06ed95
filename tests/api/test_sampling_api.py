"""Capped batches, users with several records, and a fixed size with a least size, over HTTP."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.kit.driver import Ledger

CAPPED: Final[dict[str, Any]] = {
    "type": "dpsgd",
    "sampling": "poisson",
    "noise_multiplier": 1,
    "sample_rate": 128 / 59_904,
    "steps": 2_340,
    "dataset_size": 59_904,
}
USERS: Final[dict[str, Any]] = {"type": "dpsgd", "sampling": "poisson", "noise_multiplier": 2, "sample_rate": 0.01}


@pytest.mark.parametrize(
    ("mechanism", "published"),
    [
        (CAPPED | {"truncated_batch_size": 160}, 1.924),
        (CAPPED | {"truncated_batch_size": 128}, 4.934),
        (USERS | {"steps": 1_000, "max_examples_per_user": 5}, 3.733),
    ],
)
@pytest.mark.parametrize("report_deltas", [None, [1e-5]])
def test_evaluate_gives_the_published_epsilon(
    ledger: Ledger, mechanism: dict[str, Any], published: float, report_deltas: Any
) -> None:
    """Goal: epsilon at 1e-5 is not below dp-accounting's, and at most 15 % above it, with the default share of delta.
    Method: its values, as they were published, with the usual deltas and with this one alone."""
    body = {"mechanism": mechanism, **({"report_deltas": report_deltas} if report_deltas else {})}
    answer = ledger.post("/v1/evaluate", body).json()
    shown = {point["delta"]: point["value"] for point in answer["epsilon"]}
    assert published <= shown[1e-5] <= 1.15 * published
    assert [point["delta"] for point in answer["frontier"]] == [float(f"1e-{power}") for power in range(4, 16)]


def test_a_share_that_is_named_is_the_one_that_counts(ledger: Ledger) -> None:
    """Goal: whoever names a share of delta reads epsilon off that share alone. Method: a cap that is often reached."""
    body = {"mechanism": CAPPED | {"truncated_batch_size": 160}, "delta": 1e-8, "report_deltas": [1e-5]}
    ((point,),) = [ledger.post("/v1/evaluate", body).json()["epsilon"]]
    assert 3.4 < point["value"] < 3.8


@pytest.mark.parametrize(
    ("mechanism", "adjacency", "bound", "field"),
    [
        (USERS | {"steps": 10, "max_examples_per_user": 5}, "replace_one", "certified", "max_examples_per_user"),
        (USERS | {"steps": 10, "sampling": "fixed_size"}, "add_or_remove_one", "certified", "dataset_size_min"),
        (CAPPED | {"truncated_batch_size": 160}, "add_or_remove_one", "clt", "truncated_batch_size"),
    ],
)
def test_what_is_not_proved_is_refused(
    ledger: Ledger, mechanism: dict[str, Any], adjacency: str, bound: str, field: str
) -> None:
    """Goal: the problem names the field. Method: one of each."""
    body = {"mechanism": mechanism, "adjacency": adjacency, "bound": bound}
    answer = ledger.post("/v1/evaluate", body)
    assert (answer.status_code, answer.json()["field"]) == (422, f"mechanism.{field}")
