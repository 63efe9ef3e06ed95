"""Compare costs with dp-accounting, if it is installed: a second opinion, in one direction.

For every distinct run that it has distributions for (DP-SGD with Poisson sampling, cyclic or not, with a cap, or of a
fixed size under add_or_remove_one; Gaussian and Laplace noise, pure and approximate DP, and compositions of these),
its privacy loss distributions give two numbers at the same delta: a lower bound of epsilon, with losses rounded down,
and an upper bound, by connecting the dots. Ours is the epsilon of the recorded cost. If it is below their lower
bound, the recorded cost is too small. It is usually above their upper bound, because the ledger charges the Gaussian
curve that covers the run's, so that runs add up.

The lower bound depends on its grid: each step's loss is rounded down by half a cell on average. The grid is chosen so
that this is some hundredths of epsilon, if some hundred thousand points are enough. For tens of thousands of steps the
error is larger, and the check is weaker.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from importlib import import_module
from operator import mul
from typing import Any, Final

from ledger.accounting.mechanisms import (
    AnyMechanism,
    ApproximateDp,
    Composed,
    DpSgd,
    DpSgdSchedule,
    Gaussian,
    Laplace,
    MatrixFactorization,
    PureDp,
    RandomizedResponse,
    segment_steps,
)
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency
from ledger.recompute.composed import gdp_epsilon
from ledger.recompute.costing import Accountant, Declaration

OPINIONS_MAX: Final = 50
"""How many distinct runs are compared, those with the largest cost first: each takes up to some seconds."""
PIECES_MAX: Final = 100
"""The most different steps of one schedule, or parts of a composed mechanism, that are compared."""
_POINTS_MAX: Final = 400_000
"""About how many points a grid has at most; each takes about 25 microseconds."""
_INTERVALS: Final = (1e-6, 1e-3)
_SHARE: Final = 0.03
_SHARE_UPPER: Final = 0.02
_NEGLIGIBLE: Final = 1e-30
"""Events of a step with less probability are left out of their distributions."""
_REACH: Final = 12.0
"""The approximate range of one step's losses, in standard deviations of the noise."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """The results of two accountants for one run.

    seq: the first entry that decided such a run. runs: how many entries did. ours: the epsilon, at the delta, of their
    least recorded cost; infinity if it has none. lower, upper: the bounds of dp-accounting. is_estimate: ours is an
    estimate (`clt`), and may be too low without a mistake. holds: ours is not below their lower bound.
    """

    seq: int
    runs: int
    mechanism: str
    at_delta: float
    ours: float
    lower: float
    upper: float
    is_estimate: bool
    holds: bool

    @property
    def ratio(self) -> float:
        """Return ours divided by theirs."""
        return self.ours / self.upper if self.upper > 0 else math.inf


@dataclass(slots=True)
class Asked:
    """The decisions about one kind of run: the first entry, their number, and the least charge."""

    seq: int
    runs: int
    least: Amount


def is_installed() -> bool:
    """Return whether dp-accounting is installed."""
    try:
        import_module("dp_accounting.pld.privacy_loss_distribution")
    except ImportError:
        return False
    return True


def opinions(
    asked: Mapping[Declaration, Asked], accountant: Accountant, *, at_delta: float
) -> tuple[tuple[Opinion, ...], int]:
    """Return second opinions on these runs, and for how many there is none: without a distribution, or too many."""
    most_first = sorted(asked.items(), key=lambda item: -item[1].least.mu_sq_pico)
    given: list[Opinion] = []
    for declaration, runs in most_first:
        pieces = None if len(given) >= OPINIONS_MAX else _known_pieces(declaration, accountant)
        opinion = None if pieces is None else _opinion(declaration, runs, pieces, at_delta)
        if opinion is not None:
            given.append(opinion)
    return tuple(sorted(given, key=lambda opinion: (opinion.holds, opinion.seq))), len(asked) - len(given)


def _known_pieces(declaration: Declaration, accountant: Accountant) -> list[Piece] | None:
    worked, terms = accountant.cost(declaration), declaration.terms
    if isinstance(worked, str):
        return None
    return pieces_of(_whole(worked.mechanism, terms.segments), terms.adjacency)


def _opinion(declaration: Declaration, asked: Asked, pieces: list[Piece], at_delta: float) -> Opinion | None:
    ours = gdp_epsilon(asked.least, at_delta)
    shown = -math.expm1(sum(piece.count * math.log1p(-piece.delta) for piece in pieces))
    target = (at_delta - shown) / (1 - shown)
    if target <= 0:
        return None
    count = sum(piece.count for piece in pieces)
    scale = ours if math.isfinite(ours) else 1.0
    fine = max(_SHARE * scale / count, (4 * scale + _REACH) / _POINTS_MAX)
    # Each of their distributions counts 1e-15 as lost, in both estimates; and their transforms round.
    slack = 4e-15 + 2e-15 * count
    lower = their_epsilon(pieces, target * (1 + 1e-9) + slack, interval=min(fine, _INTERVALS[1]), is_upper=False)
    dots = min(max(_SHARE_UPPER * scale / math.sqrt(count), _INTERVALS[0]), _INTERVALS[1])
    upper = their_epsilon(pieces, target, interval=dots, is_upper=True)
    return Opinion(
        asked.seq,
        asked.runs,
        declaration.mechanism,
        at_delta,
        ours,
        lower,
        upper,
        declaration.terms.bound == "clt",
        ours >= lower * (1 - 1e-9),
    )


# --- distributions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Piece:
    """A number of equal distributions: the function of dp-accounting that makes one, its arguments, and a delta.

    instead: another distribution that a step has with this probability, by a public event.
    """

    make: str
    arguments: dict[str, Any]
    count: int
    delta: float = 0.0
    instead: tuple[float, Piece] | None = None


def _whole(mechanism: AnyMechanism, segments: int) -> AnyMechanism:
    """Return a run in segments with all the steps that it may execute."""
    return mechanism if segments == 1 else mechanism.resized(segments * segment_steps(mechanism, segments))


def pieces_of(mechanism: AnyMechanism, adjacency: Adjacency) -> list[Piece] | None:
    """Return the distributions of a mechanism; None if dp-accounting has none for it."""
    return PIECES[mechanism.type](mechanism, adjacency)


RELATIONS: Final[Mapping[Adjacency, str]] = {
    "add_or_remove_one": "ADD_OR_REMOVE_ONE",
    "replace_one": "REPLACE_ONE",
    "zero_out": "REPLACE_SPECIAL",
}


def _dpsgd(mechanism: DpSgd, adjacency: Adjacency) -> list[Piece] | None:
    deviation, rate, count = float(mechanism.noise_multiplier), float(mechanism.rate), mechanism.whole_steps
    if mechanism.max_examples_per_user is not None:
        return None  # its mixtures of Gaussians, with losses rounded down, are no lower bound
    if mechanism.sampling == "poisson":
        piece = _sampled(deviation, rate, RELATIONS[adjacency], count)
        return [piece if mechanism.truncated_batch_size is None else _truncated(mechanism, piece)]
    if mechanism.sampling == "fixed_size" and adjacency == "add_or_remove_one":
        if mechanism.dataset_size_min is not None and mechanism.batch_size is not None:
            rate = mechanism.batch_size / mechanism.dataset_size_min
        # The unit takes the place of another one, which moves the sum twice as far.
        return [_sampled(deviation / 2, rate, "ADD_OR_REMOVE_ONE", count)]
    return None


def _sampled(deviation: float, rate: float, relation: str, count: int) -> Piece:
    arguments = {"standard_deviation": deviation, "sampling_prob": rate, "neighboring_relation": relation}
    return Piece("from_gaussian_mechanism", arguments, count)


def _truncated(mechanism: DpSgd, plain: Piece) -> Piece:
    """Return the distribution of a step whose batch is cut: what dp-accounting has for dataset_size units."""
    size, cap, rate = mechanism.dataset_size or 1, mechanism.truncated_batch_size or 1, float(mechanism.rate)
    binomial = import_module("scipy.stats").binom
    cut = float(binomial.sf(cap - 1, size - 1, rate))
    if cut < _NEGLIGIBLE:
        return plain
    within = min(float(binomial.sf(cap, size, rate)) * cap / size / cut, 1.0)
    truncated = _sampled(float(mechanism.noise_multiplier) / 2, within, "REPLACE_ONE", plain.count)
    return replace(plain, instead=(cut, truncated))


def _dpsgd_schedule(mechanism: DpSgdSchedule, adjacency: Adjacency) -> list[Piece] | None:
    counts: Counter[tuple[Decimal, Decimal]] = Counter()
    for phase in mechanism.phases:
        counts[phase.noise_multiplier, phase.sample_rate] += phase.steps
    if mechanism.sampling != "poisson" or len(counts) > PIECES_MAX:
        return None
    scale = Fraction(mechanism.noise_scale)
    return [
        _sampled(float(Fraction(noise) * scale), float(rate), RELATIONS[adjacency], steps)
        for (noise, rate), steps in counts.items()
    ]


def _gaussian(mechanism: Gaussian, _: Adjacency) -> list[Piece]:
    # n releases at s are one at s/sqrt(n), exactly.
    deviation = float(mechanism.noise_multiplier) / math.sqrt(mechanism.count)
    return [Piece("from_gaussian_mechanism", {"standard_deviation": deviation}, 1)]


def _laplace(mechanism: Laplace, _: Adjacency) -> list[Piece]:
    return [Piece("from_laplace_mechanism", {"parameter": float(mechanism.noise_multiplier)}, mechanism.count)]


def _pure_dp(mechanism: PureDp, _: Adjacency) -> list[Piece]:
    return [_response(mechanism.epsilon, mechanism.count)]


def _approximate_dp(mechanism: ApproximateDp, _: Adjacency) -> list[Piece]:
    return [_response(mechanism.epsilon, mechanism.count, delta=float(mechanism.delta))]


def _randomized_response(mechanism: RandomizedResponse, _: Adjacency) -> list[Piece]:
    return [_response(mechanism.epsilon, mechanism.count, categories=mechanism.categories)]


def _composed(mechanism: Composed, adjacency: Adjacency) -> list[Piece] | None:
    pieces: list[Piece] = []
    for part in mechanism.parts:
        of_part = pieces_of(part, adjacency)
        if of_part is None:
            return None
        pieces += of_part
    return pieces if len(pieces) <= PIECES_MAX else None


def _matrix_factorization(mechanism: MatrixFactorization, adjacency: Adjacency) -> list[Piece] | None:
    if mechanism.sampling is None:
        return None
    # Cyclic Poisson sampling: a Poisson step for each step of a group, at the noise over the norm of C's first column.
    steps, bandwidth = mechanism.steps or 1, mechanism.bandwidth or 1
    roots = itertools.accumulate(((2 * j - 1) / (2 * j) for j in range(1, min(steps, bandwidth))), mul, initial=1.0)
    column = [float(value) for value in mechanism.coefficients or roots][:steps]
    groups = mechanism.separation or len(mechanism.coefficients or ()) or bandwidth
    rounds = DpSgd(
        type="dpsgd",
        sampling="poisson",
        noise_multiplier=Decimal(repr(float(mechanism.noise_multiplier) / math.hypot(*column))),
        sample_rate=mechanism.sample_rate,
        steps=-(-steps // groups),
    )
    return _dpsgd(rounds, adjacency)


def _none(_mechanism: AnyMechanism, _adjacency: Adjacency) -> None:
    """Return None: dp-accounting has no distribution for this mechanism."""


PIECES: Final[Mapping[str, Callable[[Any, Adjacency], list[Piece] | None]]] = {
    "dpsgd": _dpsgd,
    "dpsgd_schedule": _dpsgd_schedule,
    "gaussian": _gaussian,
    "laplace": _laplace,
    "pure_dp": _pure_dp,
    "approximate_dp": _approximate_dp,
    "randomized_response": _randomized_response,
    "zcdp": _none,
    "gdp": _none,
    "matrix_factorization": _matrix_factorization,
    "composed": _composed,
}
"""The functions by a mechanism's `type`. They are not part of the mechanism, so that both opinions are independent."""


def _response(epsilon: Any, count: int, *, delta: float = 0.0, categories: int = 2) -> Piece:
    """Return the distribution of randomized response, which answers at random with this probability."""
    noise = categories / (categories - 1 + math.exp(min(float(Fraction(epsilon)), 700.0)))
    return Piece("from_randomized_response", {"noise_parameter": noise, "num_buckets": categories}, count, delta)


def their_epsilon(pieces: list[Piece], target: float, *, interval: float, is_upper: bool) -> float:
    """Return a bound of epsilon at a delta by dp-accounting's privacy loss distributions, from above or below."""
    composed = None
    for piece in pieces:
        one = _distribution(piece, interval, is_upper=is_upper)
        several = one if piece.count == 1 else one.self_compose(piece.count)
        composed = several if composed is None else composed.compose(several)
    epsilon = math.inf if composed is None else float(composed.get_epsilon_for_delta(target))
    return max(epsilon, 0.0)


def _distribution(piece: Piece, interval: float, *, is_upper: bool) -> Any:
    library = import_module("dp_accounting.pld.privacy_loss_distribution")
    arguments = dict(piece.arguments)
    if "neighboring_relation" in arguments:
        relations = import_module("dp_accounting.privacy_accountant").NeighboringRelation
        arguments["neighboring_relation"] = relations[arguments["neighboring_relation"]]
    if piece.make != "from_randomized_response":
        arguments["use_connect_dots"] = is_upper
    one = getattr(library, piece.make)(
        **arguments, pessimistic_estimate=is_upper, value_discretization_interval=interval
    )
    if piece.instead is None:
        return one
    probability, other = piece.instead
    return _distribution(other, interval, is_upper=is_upper).compute_mixture(one, probability)
