"""One run of DP-SGD straight to its certificate, without the mechanism and the cost that the product has around it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ledger.accounting import certificate, certify
from ledger.accounting.gdp import UNIT_ROUNDOFF
from ledger.core.datasets import Adjacency


@dataclass(frozen=True, slots=True)
class Certificate:
    """(mu, delta) that is proved, and whether by the `pld` or by the `fallback`, whose delta is 0."""

    mu: float
    delta: float
    method: Literal["pld", "fallback"]


def subsampled_gaussian(
    *,
    noise_multiplier: float,
    sample_rate: float,
    steps: int,
    delta: float,
    adjacency: Adjacency = "add_or_remove_one",
    sampling: certify.Sampling = "poisson",
) -> Certificate:
    """The certificate of DP-SGD: mu for this delta, or the fallback where that is no worse.

    noise_multiplier: standard deviation of the noise on the sum over the clip norm, above 0. sample_rate: in (0, 1].
    steps: 1 or more. delta: in [0, 1); at 0 only the fallback exists. ValueError outside, and where no pair is known.
    """
    if not (noise_multiplier > 0 and 0 < sample_rate <= 1 and steps >= 1 and 0 <= delta < 1):
        raise ValueError("noise_multiplier must be above 0, sample_rate in (0, 1], steps at least 1, delta in [0, 1)")
    pair = certify.pair_for(
        noise_multiplier=noise_multiplier, sample_rate=sample_rate, adjacency=adjacency, sampling=sampling
    )
    plain = pair.mu * math.sqrt(steps) * (1 + 4 * UNIT_ROUNDOFF)
    if sample_rate < 1 and delta >= certify.DELTA_MIN and noise_multiplier >= certify.NOISE_MULTIPLIER_MIN:
        ((mu, _),) = certificate.certified([certify.Steps(pair, steps)], [delta])
        if mu < plain:
            return Certificate(mu, delta, "pld")
    return Certificate(plain, 0.0, "fallback")
