"""Second opinions on capped batches, and a fixed size with a least size."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from ledger.accounting import exact, mechanisms
from ledger.accounting.terms import Terms
from ledger.core.datasets import Adjacency
from ledger.recompute.opinion import pieces_of, their_epsilon

RUN: dict[str, Any] = {"type": "dpsgd", "noise_multiplier": 2, "sample_rate": Decimal("0.01"), "steps": 100}
POISSON = RUN | {"sampling": "poisson"}


@pytest.mark.parametrize("adjacency", ["add_or_remove_one", "replace_one", "zero_out"])
@pytest.mark.parametrize(
    "declared",
    [
        POISSON | {"dataset_size": 2_000, "truncated_batch_size": 25},
        POISSON | {"dataset_size": 2_000, "truncated_batch_size": 1_900},
        RUN | {"sampling": "fixed_size", "dataset_size_min": 1_000},
    ],
)
def test_both_opinions_agree(declared: dict[str, Any], adjacency: Adjacency) -> None:
    """Goal: dp-accounting's bounds enclose the exact composition of ours, where both have a distribution. Method:
    epsilon at 1e-5 of a hundred steps."""
    mechanism = mechanisms.parse(declared)
    if adjacency != "add_or_remove_one" and "dataset_size_min" in declared:
        return
    pieces = pieces_of(mechanism, adjacency)
    assert pieces is not None
    parts = mechanism.exact_parts(Terms(bound="certified", adjacency=adjacency))
    assert Counter(parts.sources).total() == 100
    (ours,) = exact.epsilons(parts, [1e-5]).epsilons
    assert ours is not None
    lower = their_epsilon(pieces, 1e-5 * (1 + 1e-9) + 1e-12, interval=2e-4, is_upper=False)
    upper = their_epsilon(pieces, 1e-5, interval=1e-3, is_upper=True)
    assert lower <= ours <= upper * 1.01


def test_there_is_no_opinion_on_fixed_sizes_that_are_public() -> None:
    """Goal: where dp-accounting has no distribution there is no opinion. Method: fixed size under replace_one."""
    assert pieces_of(mechanisms.parse(RUN | {"sampling": "fixed_size"}), "replace_one") is None
    assert pieces_of(mechanisms.parse(POISSON | {"max_examples_per_user": 4}), "zero_out") is None
