"""dp-accounting's numbers beside ours, where it is installed: a second opinion, in one direction.

For every distinct run that it has distributions for (DP-SGD with Poisson sampling, Gaussian and Laplace noise, pure and
approximate DP, and compositions of these) two numbers of its own come from its privacy loss distributions at the same
delta: epsilon from below, with losses rounded down, and from above, by connecting the dots. Ours is what the recorded
cost amounts to, as the ledger shows it. A recorded cost that claims less than the lower one claims too little. More
than the upper one is what is to be expected: the ledger charges the Gaussian curve that covers a run's, so that runs
add up.

The lower number is only as good as its grid: each step's loss is rounded down by half a cell on average. The grid is
chosen such that this comes to some hundredths of epsilon, where that takes no more than some hundred thousand points;
for tens of thousands of steps it comes to more, and the check is weaker.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from typing import Any, Final

from ledger.accounting.mechanisms import (
    AnyMechanism,
    ApproximateDp,
    Composed,
    DpSgd,
    Gaussian,
    Laplace,
    PureDp,
    resized,
    segment_steps,
)
from ledger.core.amounts import Amount
from ledger.core.datasets import Adjacency
from ledger.recompute.composed import gdp_epsilon
from ledger.recompute.costing import Accountant, Terms

OPINIONS_MAX: Final = 50
"""Distinct runs that are looked at, those that cost most first: each takes up to some seconds."""
_POINTS_MAX: Final = 400_000
"""About how many points a grid has at most; theirs takes some 25 microseconds for each."""
_INTERVALS: Final = (1e-6, 1e-3)
_SHARE: Final = 0.03
_SHARE_UPPER: Final = 0.02
_REACH: Final = 12.0
"""About how far one step's losses go, in standard deviations of the noise."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """Two accountants on one run.

    seq: the first entry that decided such a run; runs: how many did. ours: epsilon of the least cost that was recorded
    of them, at the delta; infinity where it has none. lower, upper: theirs. is_estimate: ours is one (`clt`), and may
    be too low without any mistake. holds: ours is not below their lower number.
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
        """Ours over theirs."""
        return self.ours / self.upper if self.upper > 0 else math.inf


@dataclass(slots=True)
class Asked:
    """What was decided of one kind of run: the first entry, how many there were, and the least that one was charged."""

    seq: int
    runs: int
    least: Amount


def is_installed() -> bool:
    """Whether there is a second opinion to be had."""
    try:
        import_module("dp_accounting.pld.privacy_loss_distribution")
    except ImportError:
        return False
    return True


def opinions(
    asked: Mapping[Terms, Asked], accountant: Accountant, *, at_delta: float
) -> tuple[tuple[Opinion, ...], int]:
    """Second opinions on these runs, and of how many there is none: no distribution is known, or they are too many."""
    most_first = sorted(asked.items(), key=lambda item: -item[1].least.mu_sq_pico)
    found: list[Opinion] = []
    for terms, each in most_first:
        worked = accountant.cost(terms)
        pieces = None if isinstance(worked, str) else _pieces(_whole(worked.mechanism, terms.segments), terms.adjacency)
        opinion = None
        if pieces is not None and len(found) < OPINIONS_MAX:
            opinion = _opinion(terms, each, pieces, at_delta)
        if opinion is not None:
            found.append(opinion)
    return tuple(sorted(found, key=lambda opinion: (opinion.holds, opinion.seq))), len(asked) - len(found)


def _opinion(terms: Terms, asked: Asked, pieces: list[_Piece], at_delta: float) -> Opinion | None:
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
    lower = _theirs(pieces, target * (1 + 1e-9) + slack, interval=min(fine, _INTERVALS[1]), is_upper=False)
    dots = min(max(_SHARE_UPPER * scale / math.sqrt(count), _INTERVALS[0]), _INTERVALS[1])
    upper = _theirs(pieces, target, interval=dots, is_upper=True)
    return Opinion(
        asked.seq,
        asked.runs,
        terms.mechanism,
        at_delta,
        ours,
        lower,
        upper,
        terms.bound == "clt",
        ours >= lower * (1 - 1e-9),
    )


# --- their distributions ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Piece:
    """So many of one distribution: the function of theirs that makes it, and its arguments; and a delta apart."""

    make: str
    arguments: dict[str, Any]
    count: int
    delta: float = 0.0


def _whole(mechanism: AnyMechanism, segments: int) -> AnyMechanism:
    """A run in segments with all the steps that it may execute."""
    return mechanism if segments == 1 else resized(mechanism, segments * segment_steps(mechanism, segments))


def _pieces(mechanism: AnyMechanism, adjacency: Adjacency) -> list[_Piece] | None:
    """The distributions that a mechanism is made of; None where they have none for it."""
    match mechanism:
        case DpSgd(sampling="poisson"):
            relation = "REPLACE_ONE" if adjacency == "replace_one" else "ADD_OR_REMOVE_ONE"
            arguments = {
                "standard_deviation": float(mechanism.noise_multiplier),
                "sampling_prob": float(mechanism.rate),
                "neighboring_relation": relation,
            }
            return [_Piece("from_gaussian_mechanism", arguments, math.ceil(mechanism.exact_steps))]
        case Gaussian():
            # n releases at s are one at s/sqrt(n), exactly.
            deviation = float(mechanism.noise_multiplier) / math.sqrt(mechanism.count)
            return [_Piece("from_gaussian_mechanism", {"standard_deviation": deviation}, 1)]
        case Laplace():
            arguments = {"parameter": float(mechanism.noise_multiplier)}
            return [_Piece("from_laplace_mechanism", arguments, mechanism.count)]
        case PureDp():
            return [_response(mechanism.epsilon, mechanism.count)]
        case ApproximateDp():
            return [_response(mechanism.epsilon, mechanism.count, delta=float(mechanism.delta))]
        case Composed():
            parts = [_pieces(part, adjacency) for part in mechanism.parts]
            return None if None in parts else [piece for part in parts if part is not None for piece in part]
        case _:
            return None


def _response(epsilon: Any, count: int, *, delta: float = 0.0) -> _Piece:
    """Randomised response on one bit, which says something random with this probability."""
    noise = 2 / (1 + math.exp(min(float(Fraction(epsilon)), 700.0)))
    return _Piece("from_randomized_response", {"noise_parameter": noise, "num_buckets": 2}, count, delta)


def _theirs(pieces: list[_Piece], target: float, *, interval: float, is_upper: bool) -> float:
    """Epsilon at a delta by their privacy loss distributions, from above or from below."""
    composed = None
    for piece in pieces:
        one = _distribution(piece, interval, is_upper=is_upper)
        several = one if piece.count == 1 else one.self_compose(piece.count)
        composed = several if composed is None else composed.compose(several)
    found = math.inf if composed is None else float(composed.get_epsilon_for_delta(target))
    return max(found, 0.0)


def _distribution(piece: _Piece, interval: float, *, is_upper: bool) -> Any:
    library = import_module("dp_accounting.pld.privacy_loss_distribution")
    arguments = dict(piece.arguments)
    if "neighboring_relation" in arguments:
        relations = import_module("dp_accounting.privacy_accountant").NeighboringRelation
        arguments["neighboring_relation"] = relations[arguments["neighboring_relation"]]
    if piece.make != "from_randomized_response":
        arguments["use_connect_dots"] = is_upper
    return getattr(library, piece.make)(
        **arguments, pessimistic_estimate=is_upper, value_discretization_interval=interval
    )
