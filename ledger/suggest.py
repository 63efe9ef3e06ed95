"""Find the name that was probably meant: a field, a kind of mechanism, a dataset, an option.

Other libraries have other names for the same things (`sigma`, `q`, `lot_size`); `SYNONYMS` lists them. For slips of the
keyboard, `difflib` compares letters.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Final

NAME_LENGTH_MAX: Final = 64
CANDIDATES_MAX: Final = 1000
LISTED_MAX: Final = 20
"""How many names a message lists at most."""
_LIKENESS: Final = 0.7
_NOTHING_BUT_LETTERS: Final = re.compile(r"[^a-z0-9]+")

_TO: Final[Mapping[str, str]] = {
    # parameters of mechanisms
    "noise_multiplier": "sigma noise noise_scale noise_mult multiplier std stddev noise_std noise_level z scale",
    "sample_rate": "q p sampling_rate sampling_probability sample_probability subsampling_rate sampling_ratio rate",
    "dataset_size": "n num_examples num_samples n_samples number_of_examples population train_size",
    "batch_size": "b bs batch lot_size lot expected_batch_size",
    "epochs": "e num_epochs n_epochs epoch",
    "steps": "t num_steps n_steps iterations num_iterations iters max_steps rounds",
    "count": "k releases num_releases queries num_queries repetitions compositions",
    "sampling": "sampler sampling_method batch_selection",
    "epsilon": "eps target_epsilon",
    "delta": "target_delta share",
    "mechanism": "mechanisms event dp_event",
    "type": "kind mechanism_type",
    "sensitivity": "l2_sensitivity",
    "separation": "min_separation min_sep",
    "participations": "max_participations",
    "evidence": "proof reference citation",
    "parts": "mechanisms components",
    # datasets, runs and keys
    "at_delta": "delta target_delta",
    "size": "n num_examples num_records rows dataset_size",
    "datasets": "dataset data",
    "dataset": "datasets data",
    "partitions": "partition parts splits",
    "names": "partitions partition name",
    "labels": "label tags metadata tag",
    "purpose": "note comment message",
    "reason": "why comment note message",
    "privacy_unit": "unit privacy_units protected_unit",
    "adjacency": "neighbouring neighboring neighbouring_relation neighboring_relation relation",
    "expires_at": "expires expiry ttl",
    "valid_for": "ttl expires_in",
    "stop": "stop_reason",
    "limit": "page_size per_page count",
    "cursor": "page page_token next offset after",
    "state": "status",
    # kinds of mechanisms
    "dpsgd": "sgd dp_adam dpadam private_sgd noisy_sgd sampled_gaussian subsampled_gaussian",
    "gaussian": "gauss normal gaussian_mechanism",
    "laplace": "laplacian laplace_mechanism",
    "pure_dp": "pure epsilon_dp exponential",
    "approximate_dp": "approx_dp approximate epsilon_delta_dp",
    "randomized_response": "rr krr randomised_response",
    "zcdp": "cdp concentrated_dp rho_zcdp",
    "matrix_factorization": "dp_ftrl ftrl mf dp_mf banded_mf matrix_factorisation matrix_mechanism correlated_noise",
    "composed": "composition compose composite",
    # values
    "add_or_remove_one": "add_remove unbounded add_or_remove zero_out",
    "replace_one": "replace bounded substitution swap change_one",
    "fixed_size": "without_replacement",
    "shuffle": "shuffled permutation",
    "settled": "done finished completed",
    "started": "running active in_progress",
    "held": "pending approved reserved",
    "voided": "cancelled canceled void",
    "refused": "rejected denied declined",
    "active": "thawed open enabled",
    "requester": "trainer user member",
    "auditor": "reader viewer readonly",
    "certified": "proved upper_bound",
}


def _letters(name: str) -> str:
    return _NOTHING_BUT_LETTERS.sub("", name.lower())


SYNONYMS: Final[Mapping[str, tuple[str, ...]]] = {
    synonym: tuple(meant for meant, others in _TO.items() if synonym in map(_letters, others.split()))
    for synonym in {_letters(one) for others in _TO.values() for one in others.split()}
}
"""What may be meant by a name of another library, by the letters and digits of that name."""


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate that was probably meant by a name; None if no candidate is like it.

    Looks at the first `CANDIDATES_MAX` candidates, and at no name of more than `NAME_LENGTH_MAX` characters.
    """
    if not 0 < len(name) <= NAME_LENGTH_MAX:
        return None
    by_letters: dict[str, str] = {}
    for candidate, _ in zip(candidates, range(CANDIDATES_MAX), strict=False):
        by_letters.setdefault(_letters(candidate), candidate)
    letters = _letters(name)
    for meant in (letters, *map(_letters, SYNONYMS.get(letters, ()))):
        if meant in by_letters:
            return by_letters[meant]
    close = difflib.get_close_matches(letters, by_letters, n=1, cutoff=_LIKENESS)
    return by_letters[close[0]] if close else None


def listed(names: Iterable[str]) -> str:
    """Return names as a message lists them, cut off after `LISTED_MAX`."""
    every = list(names)
    more = len(every) - LISTED_MAX
    return ", ".join(every[:LISTED_MAX]) + (f" and {more} more" if more > 0 else "")


def or_list(name: object, candidates: Iterable[str]) -> str:
    """Return the end of a message about a name that does not exist: the one that was meant, or those that exist."""
    every = list(candidates)
    meant = nearest(name, every) if isinstance(name, str) else None
    if meant is not None and meant != name:
        return f"did you mean {meant}?"
    return f"possible: {listed(every)}" if every else ""
