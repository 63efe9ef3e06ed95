"""Requests to the accountant alone."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from ledger.accounting.mechanisms import Mechanism
from ledger.accounting.numbers import Probability
from ledger.core.datasets import Adjacency, Bound
from ledger.service.requests.fields import ABOUT_ADJACENCY, Strict


class Evaluation(Strict):
    mechanism: Mechanism
    bound: Bound = "certified"
    adjacency: Annotated[Adjacency, Field(description=ABOUT_ADJACENCY)] = "add_or_remove_one"
    delta: Annotated[
        Probability | None,
        Field(
            description=(
                "The share of a delta budget that a certificate may use; default: 1e-8, or a hundredth of the"
                " least of report_deltas if that is less. Without it, epsilon of capped batches (truncated_batch_size)"
                " is also read off the certificate of three tenths of each of report_deltas."
            )
        ),
    ] = None
    report_deltas: Annotated[list[Probability], Field(min_length=1, max_length=20)] | None = None

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        json_schema_extra={
            "example": {
                "bound": "certified",
                "mechanism": {
                    "type": "dpsgd",
                    "noise_multiplier": 1.1,
                    "sampling": "poisson",
                    "dataset_size": 60000,
                    "batch_size": 256,
                    "epochs": 60,
                },
            }
        },
    )
