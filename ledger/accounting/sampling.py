"""The dominating pair of one step of DP-SGD, by how batches are drawn and which datasets are neighbours.

s is the noise multiplier, q the rate at which a unit is sampled. Under `zero_out` a unit's data is replaced by nothing,
while the number of units stays: it is a special case of replacing it.

    Poisson       add_or_remove_one, zero_out: removal at 1/s; replace_one: antipodal at 1/s
    fixed size    replace_one, zero_out: symmetrised at 2/s; add_or_remove_one: removal at 2/s
    records       add_or_remove_one, zero_out: see `mixtures`
    truncated     a mixture of pairs, below

*Poisson, removal*: Zhu, Dong & Wang 2022 (AISTATS), Thm. 11; adding a unit is the same pair in the other order. Under
composition each order dominates its own direction, and since the target f_{0,delta} (x) G_mu is its own inverse, one
pair seen from both ends covers both. A unit without data leaves the batch's sum as it is, like one that is not there.

*Poisson, antipodal* is our own proof. Given the other units of the batch, the two datasets' outputs are
(1-q) N(0,I) + q N(u,I) and (1-q) N(0,I) + q N(v,I) with |u|, |v| <= d, and a mixture over batches is covered by joint
convexity. For alpha >= 1 and c = (alpha-1)(1-q)/q the hockey-stick divergence is

    H_alpha = q * integral of [phi_u - c phi_0 - alpha phi_v]_+ = q E[(1 - X - Y)_+],
    X = c exp(a.W - |a|^2/2),  Y = alpha exp(b.W - |b|^2/2),  W ~ N(0,I),  a = -u,  b = v - u.

(1 - x - y)_+ is convex in the sum, hence supermodular in (x, y), so that for given |a|, |b| its expectation grows with
the covariance a.b of the two Gaussian exponents (Mueller & Scarsini 2000; Slepian) and is largest when a and b point
the same way. Then X and Y are comonotone; each grows in convex order with |a|, |b| at a fixed mean, and sums of
comonotone variables keep that order (Dhaene et al. 2002, Thm. 7). So it is largest at |a| = d, |b| = 2d in the same
direction: u = -v, of length d, the antipodal pair. For alpha < 1 swap P and Q. The tests check it by quadrature.

*Fixed size, symmetrised*: Dong, Roth & Su 2022, Thm. 4.2: with q = B/N, batches of B drawn without replacement make of
an f-DP mechanism a C_q(f)-DP one, C_q(f) = min(f_q, f_q^-1)** with f_q = q f + (1-q) Id. Replacing a unit moves the sum
of clipped gradients by 2C, so f = G_{2/s}. f_q is the trade-off function of the removal pair with d = 2/s.

*Fixed size, removal*: with one unit more a batch has that unit with probability B/N, in the place of a random other
one, and is otherwise drawn as without it. So given the others the sum moves by up to 2C with probability at most
q = B/N_min, where N_min is a public lower bound of the number of units (joint convexity; Lebeda et al. 2024,
arXiv 2405.20769, and Birrell et al. 2024, arXiv 2408.10456, treat it too).

*Truncated Poisson* is our own derivation. A Poisson sample of more than B units is cut to a uniformly random B of them.
Let S be the sample of the n other units. Whether |S| >= B does not depend on the unit, so the event may be revealed.
Where |S| < B, nothing is cut with the unit or without: a Poisson step. Where |S| >= B the batch without the unit is,
given |S|, a uniform B-subset of the others. With it, it has the unit with probability q B/(|S|+1), in the place of a
random one of such a subset. What else is in the batch is the same for every |S|, so that the unit has the probability

    qbar = q E[B/(|S|+1) | |S| >= B] = B/(n+1) Pr[Bin(n+1, q) >= B+1] / Pr[Bin(n, q) >= B]

and moves the sum by up to 2C: the removal pair at 2/s. Replacing u by v in the place of w moves it by u - w or v - w,
of length 2 at most, and these are 2 apart at most: in the proof above |a|, |b| <= 2, so that u - w = 2, v - w = 0 is
the worst, in either order: the symmetrised pair at 2/s. (Ganesh 2025, arXiv 2508.15089, has a similar bound.)

Charged for a truncated step is the antipodal pair at 2/s and rate qbar, which dominates both, |a|, |b| being at most 2
and 4 there. It is what dp-accounting uses, so that no cost is below the published accountant's; epsilon is up to 4 %
more if half of all batches are cut, and next to nothing if few are.

Under add_or_remove_one the neighbours of N units have one more, or one fewer: n is N or N - 1. qbar falls with n, since
|S| given |S| >= B grows in likelihood ratio. So this covers both, with bounds t- <= Pr[Bin(N-1, q) >= B] and
t+ >= Pr[Bin(N, q) >= B]: Poisson with probability 1 - t+, truncated at qbar of n = N - 1 with t-, and truncated at q,
which dominates either, with t+ - t-. With a public size n is N - 1 in both bounds, and the last part is their error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ledger.accounting import binomial
from ledger.accounting.mixtures import RECORDS_MAX, Records, Revealed
from ledger.accounting.pld import Pair, Subsampled
from ledger.core.datasets import Adjacency

Sampling = Literal["poisson", "fixed_size"]

RECORDS_REACH_MAX: Final = 40.0
"""How far all records of a user in a batch may move the sum, in deviations of the noise: beyond, grids are too long."""
_USUAL_SHARE: Final = 1e-30


@dataclass(frozen=True, slots=True)
class Cap:
    """A batch of at most `batch_size` of `dataset_size` units: a larger sample is cut to a random part of itself."""

    batch_size: int
    dataset_size: int


def pair_for(
    *,
    noise_multiplier: float,
    sample_rate: float,
    adjacency: Adjacency,
    sampling: Sampling,
    records: int | None = None,
    cap: Cap | None = None,
    is_least_size_public: bool = False,
) -> Pair:
    """Return the dominating pair of one step.

    records: the most that a unit has, if each is sampled by itself. cap: of the batch. is_least_size_public: the rate
    is the batch size over a public lower bound of the number of units. sample_rate: in (0, 1); 1 only with a cap.
    Raises ValueError if none is known.
    """
    match sampling, adjacency:
        case "poisson", "replace_one" if records is not None:
            pass
        case "poisson", _ if records is not None and cap is None and records <= RECORDS_MAX:
            return Records(1 / noise_multiplier, sample_rate, records)
        case "poisson", _ if cap is not None and records is None:
            return _truncated(noise_multiplier, sample_rate, adjacency, cap)
        case "poisson", _ if records is None:
            return _poisson(noise_multiplier, sample_rate, adjacency)
        case "fixed_size", "replace_one" | "zero_out" if records is None and cap is None:
            return Subsampled("symmetrised", 2 / noise_multiplier, sample_rate)
        case "fixed_size", _ if is_least_size_public and records is None and cap is None:
            return Subsampled("removal", 2 / noise_multiplier, sample_rate)
    raise ValueError(f"no dominating pair is known for such {sampling} sampling under {adjacency}")


def is_within_reach(*, noise_multiplier: float, sample_rate: float, records: int) -> bool:
    """Return whether the records of a user are few enough, or the noise large enough, for a certificate."""
    reach = Records(1 / noise_multiplier, sample_rate, records).line(_USUAL_SHARE).reach
    return reach <= RECORDS_REACH_MAX


def _poisson(noise_multiplier: float, sample_rate: float, adjacency: Adjacency) -> Subsampled:
    kind: Literal["removal", "antipodal"] = "antipodal" if adjacency == "replace_one" else "removal"
    return Subsampled(kind, 1 / noise_multiplier, sample_rate)


def _truncated(noise_multiplier: float, sample_rate: float, adjacency: Adjacency, cap: Cap) -> Pair:
    plain = _poisson(noise_multiplier, sample_rate, adjacency)
    others = cap.dataset_size - 1
    least, _ = binomial.tail(cap.batch_size, others, sample_rate)
    _, most = binomial.tail(cap.batch_size, others + (adjacency == "add_or_remove_one"), sample_rate)
    _, beyond = binomial.tail(cap.batch_size + 1, cap.dataset_size, sample_rate)
    rate = sample_rate
    if least > 0:
        rate = min(rate, cap.batch_size / cap.dataset_size * beyond / least * (1 + 2**-40))
    parts = (
        (1 - most, plain),
        (least, Subsampled("antipodal", 2 / noise_multiplier, rate)),
        (max(most - least, 0.0), Subsampled("antipodal", 2 / noise_multiplier, sample_rate)),
    )
    kept = tuple((weight, pair) for weight, pair in parts if weight > 0)
    return kept[0][1] if len(kept) == 1 else Revealed(kept)
