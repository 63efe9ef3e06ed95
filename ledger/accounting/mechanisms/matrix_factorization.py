"""Training with correlated noise.

*Cyclic Poisson sampling.* Units are divided in B groups by a rule that looks at no unit's data, and step t takes each
unit of group t mod B by itself with probability q. If C is lower triangular with b <= B bands (C_ij = 0 for
i - j >= b), T steps cost at most what ceil(T / B) steps of Poisson DP-SGD cost, at the rate q and the noise multiplier
s / (largest column norm of C). Choquette-Choo et al. 2023 (arXiv 2306.08153), Thms. 4 and 5, have it for B = b, for
gradients that depend on earlier outputs. Our derivation, for any of the adjacencies: let a unit be in group g, and
grant the adversary the batches of all other units. The unit's gradient u of a step j = g mod B is in the rows j to
j + b - 1 of C G only, as c_j u with c_j the column, and no two of its steps share a row. The other parts of these rows
are known from earlier rows, so that they are one Gaussian release with sensitivity |c_j| |u|, in which the unit is with
probability q, given all earlier rows: one step of Poisson DP-SGD, whose gradient may depend on what was released
before. There are ceil((T - g) / B) of them, drawn independently. Under replace_one u becomes v in the same steps, if
the unit that takes another's place takes its group too.

*Repeated steps.* A stretch of L steps that is run again has rows of at most ceil((L + b - 1) / B) of these releases
again. Given all that was released before, each is a mixture of Gaussians whose centres lie at most |c| clip norms
apart, two times that under replace_one, with whatever probability the unit is in the batch by now, and also if batches
were drawn again: a Gaussian release, by joint convexity. First executions keep their certificate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from ledger.accounting import axes, strategies
from ledger.accounting.axes import Axis
from ledger.accounting.cost import NOISE, RUN, SGD, Cost, Precision, rational
from ledger.accounting.mechanisms.base import BaseMechanism, Drawn, Evidence
from ledger.accounting.mechanisms.batches import Batches
from ledger.accounting.mechanisms.dpsgd import DpSgd, fallback
from ledger.accounting.numbers import COUNT_MAX, MODERATE, Coefficient, Count, Positive, Rate
from ledger.accounting.pairs import Parts
from ledger.accounting.restarts import Division, Repeats, Restart
from ledger.accounting.terms import Terms
from ledger.core.datasets import Adjacency, Bound
from ledger.errors import TooLarge

COEFFICIENTS_MAX: Final = 1024
BUFFERS_MAX: Final = 32

_STEPS_OF_WEIGHT: Final = 5000
_WEIGHT: Final = 300
_NOISE_DIGITS: Final = 64
"""More than a noise multiplier can have, so that a column norm of 1 leaves it as it is."""
_COMPUTED: Final = ("sqrt", "banded_inverse_sqrt", "blt")
"""Strategies whose sensitivity is computed in doubles."""
_UNBOUNDED: Final = {
    "tree": "its nodes are sums over the steps of all groups",
    "banded_inverse_sqrt": "its C is not banded, only the inverse is",
    "blt": "its C is not banded: every step reaches all later rows",
}
_AS_STATED: Final = (
    "noise_multiplier is the standard deviation of the noise that is added to C times the clipped gradients, over the "
    "clip norm, with C as it is declared: a library that scales C to columns of norm 1 has another noise multiplier"
)
_UNAMPLIFIED: Final = "no amplification by sampling is claimed: a unit counts as if it were in each step of its group"
_WITHOUT_ESTIMATE: Final = "no estimate is known of cyclic Poisson sampling, so that the bound clt charges it in full"
_NO_CAP: Final = "no cap on the batch size"


def _as_tuple(value: Any) -> Any:
    """Return a JSON array as a tuple: equal mechanisms are counted, so that they are hashed."""
    return tuple(value) if isinstance(value, list) else value


Coefficients = Annotated[
    tuple[Coefficient, ...], Field(min_length=1, max_length=COEFFICIENTS_MAX), BeforeValidator(_as_tuple)
]
Scales = Annotated[tuple[Positive, ...], Field(min_length=1, max_length=BUFFERS_MAX), BeforeValidator(_as_tuple)]
Decays = Annotated[tuple[Rate, ...], Field(min_length=1, max_length=BUFFERS_MAX), BeforeValidator(_as_tuple)]


class MatrixFactorization(BaseMechanism):
    """Training with correlated noise: the matrix mechanism, of which DP-FTRL is one.

    Its sensitivity, in clip norms, is that of a strategy by name, or stated with the evidence for it. With a `sampling`
    it is amplified, as the module describes it; then `separation` is the number of groups, by default that of bands.
    """

    methods: ClassVar = {
        "matrix-factorization": Precision.EXACT,
        "fallback": Precision.EXACT,
        **{
            f"pld-{sampled}{groups}": Precision.CERTIFICATE
            # Composed with others it is one of their Poisson steps.
            for sampled in ("cyclic-poisson", "poisson")
            for groups in ("", "-groups")
        },
    }
    solvable: ClassVar = ("noise_multiplier", "steps", "sample_rate")
    unsuggested: ClassVar = frozenset({"sample_rate"})
    is_training: ClassVar = True

    type: Literal["matrix_factorization"]
    noise_multiplier: Positive
    sensitivity: Positive | None = None
    evidence: Evidence | None = None
    strategy: Literal["identity", "tree", "sqrt", "banded_inverse_sqrt", "blt", "toeplitz"] | None = None
    steps: Count | None = None
    participations: Count | None = None
    separation: Count | None = None
    completion: Literal["none", "power_of_two"] | None = None
    bandwidth: Count | None = None
    coefficients: Coefficients | None = None
    scales: Scales | None = None
    decays: Decays | None = None
    sampling: Literal["cyclic_poisson"] | None = None
    sample_rate: Rate | None = None

    @model_validator(mode="after")
    def _one_form(self) -> MatrixFactorization:
        named = (self.strategy, self.steps)
        if all(named) == (self.sensitivity is not None) or (any(named) and not all(named)):
            raise PydanticCustomError("form", "give either sensitivity and evidence, or strategy and steps")
        if (self.sensitivity is None) != (self.evidence is None):
            raise PydanticCustomError("form", "a stated sensitivity needs evidence that says where it was proved")
        wrong = self._wrong_strategy() or (self._wrong_pattern() if self.sampling is None else self._wrong_sampling())
        if wrong:
            raise PydanticCustomError("form", "{wrong}", {"wrong": wrong})
        return self

    def _wrong_strategy(self) -> str:
        """Return what is wrong with the fields that belong to one strategy, or nothing."""
        if (self.completion is not None) != (self.strategy == "tree"):
            return (
                "the strategy tree, and no other, needs completion: none where only steps of the training release"
                " nodes, power_of_two where the tree is completed to the next power of two at its end, and before each"
                " restart"
            )
        if self.bandwidth is not None and self.strategy not in ("sqrt", "banded_inverse_sqrt"):
            return "bandwidth belongs to the strategies sqrt and banded_inverse_sqrt"
        if self.strategy == "banded_inverse_sqrt" and self.bandwidth is None:
            return "the strategy banded_inverse_sqrt needs bandwidth: how many coefficients of C's inverse are not 0"
        if (self.coefficients is not None) != (self.strategy == "toeplitz"):
            return (
                "the strategy toeplitz, and no other, needs coefficients: the first column of C, from the diagonal down"
            )
        if self.coefficients is not None and not self.coefficients[0]:
            return "the first of coefficients must not be 0: C would have no inverse"
        if (self.scales is not None, self.decays is not None) != (self.strategy == "blt",) * 2:
            return "the strategy blt, and no other, needs scales and decays, one of each for every buffer"
        if len(self.scales or ()) != len(self.decays or ()):
            return "scales and decays must be of the same length: one of each for every buffer"
        return ""

    def _wrong_pattern(self) -> str:
        """Return what is wrong with the steps of a unit that are fixed in advance, or nothing."""
        if self.sample_rate is not None:
            return "sample_rate belongs to the sampling cyclic_poisson"
        if self.strategy is None:
            is_stated = (self.participations or 1, self.separation or 1) != (1, 1)
            return "participations and separation belong to a strategy" if is_stated else ""
        if self.participations is None:
            return "a strategy needs participations: in how many steps, of each segment, a unit takes part"
        if self.participations > 1 and self.separation is None:
            return (
                "more than one of participations needs separation: how many steps apart any two of them are at least;"
                " 1 where batches are reshuffled between epochs"
            )
        return ""

    def _wrong_sampling(self) -> str:
        """Return what is wrong with cyclic Poisson sampling, or nothing."""
        if self.strategy is None:
            return "the sampling cyclic_poisson needs a strategy: a stated sensitivity does not show how C is banded"
        if self.sample_rate is None:
            return "the sampling cyclic_poisson needs sample_rate: the share of its group that a step takes"
        if self.participations is not None:
            return "leave out participations: with the sampling cyclic_poisson they are drawn"
        if self.strategy in _UNBOUNDED:
            return (
                f"no amplification by cyclic_poisson is proved of the strategy {self.strategy}:"
                f" {_UNBOUNDED[self.strategy]}; leave out sampling and sample_rate, and declare as participations"
                " how many steps a group has, and as separation the number of groups, which charges more"
            )
        bands = self._shape.bands
        if bands is None:
            return "the sampling cyclic_poisson needs a banded strategy: give sqrt its bandwidth"
        if (self.separation or bands) < bands:
            return (
                f"separation, the number of groups, must be at least the {bands} bands of C: else two steps of a unit"
                " share rows of C, and no amplification is proved"
            )
        return ""

    @property
    def _shape(self) -> strategies.Shape:
        return strategies.Shape(
            strategy=self.strategy or "identity",
            bandwidth=self.bandwidth,
            is_completed=self.completion == "power_of_two",
            coefficients=self.coefficients or (),
            scales=self.scales or (),
            decays=self.decays or (),
        )

    # --- cost

    def cost(self, terms: Terms, *, path: str) -> Cost:
        if self.sampling is not None:
            return self._amplified(terms, path)
        # The noise is Gaussian and the strategy lower triangular, so that choosing gradients by earlier outputs costs
        # nothing more (Denisov et al. 2022, Thm. 2.1; Choquette-Choo et al. 2023 for several participations).
        squared, assumption = self._stated() if self.sensitivity is not None else self._of_strategy(path)
        mu_sq = _factor(terms.adjacency) * squared / Fraction(self.noise_multiplier) ** 2
        return rational(mu_sq, "matrix-factorization", (*self._shared, assumption))

    @property
    def _shared(self) -> tuple[str, ...]:
        """Return the assumptions that do not depend on the steps of a unit."""
        if self.sampling is None and self.strategy in (None, "identity", "tree", "sqrt"):
            return SGD
        return (*RUN, _AS_STATED, SGD[2], *NOISE)

    def _stated(self) -> tuple[Fraction, str]:
        """Return the square of the sensitivity, and the assumption for it."""
        return Fraction(self.sensitivity or 1) ** 2, "the stated sensitivity was proved elsewhere, as the evidence says"

    def _of_strategy(self, path: str) -> tuple[Fraction, str]:
        squared = self._sensitivity_sq(
            path, steps=self.steps or 1, participations=self.participations or 1, separation=self.separation or 1
        )
        tree = {
            None: "",
            "none": "; the tree is not completed: no node is released that ends after the last step",
            "power_of_two": "; the tree is completed to the next power of two, by steps without data",
        }[self.completion]
        return squared, (
            f"a unit takes part in at most {self.participations} steps, any two at least {self.separation or 1} "
            f"apart, in an order fixed beforehand (batches reshuffled between epochs have a separation of 1){tree}"
        )

    def _column_sq(self, path: str) -> Fraction:
        """Return the largest squared column norm of a banded C: that of its first columns, whatever its steps."""
        return self._sensitivity_sq(path, steps=min(self.steps or 1, self._shape.bands or 1))

    def _sensitivity_sq(self, path: str, *, steps: int, participations: int = 1, separation: int = 1) -> Fraction:
        try:
            return strategies.sensitivity_sq(
                self._shape, steps=steps, participations=participations, separation=separation
            )
        except ValueError as error:
            field = str(error).partition(" ")[0]
            raise TooLarge(f"{path}: {error}", field=f"{path}.{field}") from error

    def needs_certificate(self, bound: Bound) -> bool:
        return self.strategy in _COMPUTED or (self.sampling is not None and bound == "certified")

    def weight(self, bound: Bound) -> int:
        length = self.bandwidth if self.sampling else self.steps
        computed = (length or 0) // _STEPS_OF_WEIGHT if self.strategy in _COMPUTED else 0
        return computed + (_WEIGHT if self.sampling is not None and bound == "certified" else 1)

    def frontier(self, terms: Terms, deltas: Sequence[Fraction]) -> list[tuple[float, float]]:
        if self.sampling is None:
            return []  # slow to compute, but without delta
        return self.dominating("mechanism").frontier(terms, deltas)

    def exact_parts(self, terms: Terms) -> Parts:
        if self.sampling is None:
            return Parts(self.cost(terms, path="mechanism").mu_sq)
        return self.dominating("mechanism").exact_parts(terms)

    def precision(self, method: str) -> Precision:
        return Precision.CERTIFICATE if self.strategy in _COMPUTED else super().precision(method)

    # --- amplification

    @property
    def groups(self) -> int:
        """Return the number of groups of cyclic Poisson sampling."""
        return self.separation or self._shape.bands or 1

    def dominating(self, path: str) -> DpSgd:
        """Return the Poisson DP-SGD that costs at least as much, if it is sampled. Raises TooLarge as `cost`."""
        return _Rounds.model_construct(
            type="dpsgd",
            sampling="poisson",
            noise_multiplier=_quotient(self.noise_multiplier, self._column_sq(path)),
            sample_rate=self.sample_rate,
            steps=-(-(self.steps or 1) // self.groups),
            groups=self.groups,
        )

    def certified_as(self, bound: Bound, path: str) -> tuple[DpSgd, ...]:
        return (self.dominating(path),) if self.sampling is not None and bound == "certified" else ()

    def _amplified(self, terms: Terms, path: str) -> Cost:
        rounds = self.dominating(path)
        assumptions = (*self._shared, *_sampled(self.groups, terms.adjacency))
        if terms.bound == "clt":
            cost = fallback([rounds], terms.adjacency)
            return replace(cost, assumptions=(*assumptions, _UNAMPLIFIED, _WITHOUT_ESTIMATE))
        cost = rounds.cost(terms, path=path)
        unamplified = (_UNAMPLIFIED,) if cost.method == "fallback" else ()
        method = cost.method.replace("poisson", "cyclic-poisson")
        return replace(cost, method=method, assumptions=(*assumptions, *unamplified))

    def drawn(self, path: str) -> list[Drawn]:
        if self.sample_rate is None:
            return []
        rate = Fraction(self.sample_rate) / self.groups
        return [Drawn(f"{path}.sample_rate", rate, rate)]

    # --- steps

    @property
    def declared_steps(self) -> tuple[int, int] | None:
        return None if self.steps is None else (self.steps, self.steps)

    def resized(self, steps: int) -> Self:
        return super().resized(steps) if self.steps is None else self.model_copy(update={"steps": steps})

    # --- settling

    def overrun(self, planned: int, steps: int, *, method: str, is_fixed: bool) -> Self | None:
        # ceil((T + T'') / B) is at most ceil(T / B) + ceil(T'' / B).
        return self.resized(steps) if self.sampling is not None and is_fixed else None

    def has_releases(self, method: str) -> bool:
        return False

    def repeats(self, restarts: Sequence[Restart], adjacency: Adjacency, division: Division) -> Repeats:
        if self.sampling is not None:
            again = sum(self._rounds_again(restart, division) for restart in restarts)
            return Repeats(mu_sq=again * self._unsampled(adjacency))
        # The steps after a restart continue those before it. A stretch of steps that was run and then discarded is a
        # part of the rows of a training of its own, and all steps that were kept are one training. After n restarts
        # with new batches a unit takes part in n + 1 orders, and by the triangle inequality moves the rows at most
        # n + 1 times as far: a stretch is charged (n + 1)² times, and so are the steps that were kept.
        segments, orders = 0, 1
        for restart in restarts:
            touched = division.touched(restart)
            if restart.steps:
                segments += touched * orders**2
            if restart.new_batches:
                segments += touched * ((orders + 1) ** 2 - orders**2)
                orders += 1
        return Repeats(segments=segments)

    def worst_repeats(self, steps: int, adjacency: Adjacency) -> Repeats:
        if self.sampling is not None:
            # Each step by itself, which has rows of one release.
            return Repeats(mu_sq=steps * self._unsampled(adjacency))
        # Each step by itself, with new batches: 2² + 3² + ... + (steps + 1)².
        return Repeats(segments=(steps + 1) * (steps + 2) * (2 * steps + 3) // 6 - 1)

    def _unsampled(self, adjacency: Adjacency) -> Fraction:
        """Return the mu² of one release of the sampled ones, as if the unit were in it."""
        return _factor(adjacency) * self._column_sq("mechanism") / Fraction(self.noise_multiplier) ** 2

    def _rounds_again(self, restart: Restart, division: Division) -> int:
        """Return how many releases of a unit have rows in a stretch that was run again."""
        bands = min(self._shape.bands or 1, self.groups)
        # Beyond the plan the last segment goes on, or more segments follow.
        return max(
            sum(
                count * -(-(last - first + bands) // self.groups)
                for first, last, count in reading.stretches(restart)
                if last >= first
            )
            for reading in (division, replace(division, segments=COUNT_MAX))
        )

    # --- solving

    def axis(self, parameter: str, *, segments: int) -> Axis:
        if parameter == "noise_multiplier" and self.sampling is not None:
            return axes.SUBSAMPLED_NOISE
        return super().axis(parameter, segments=segments)


class _Rounds(DpSgd):
    """The DP-SGD that dominates cyclic Poisson sampling: each step is a release of the rows of one step of a unit."""

    groups: int = 1

    @property
    def batches(self) -> Batches:
        return _Groups(self, self.groups)


@dataclass(frozen=True, slots=True)
class _Groups(Batches):
    """The batches of groups that take turns."""

    groups: int

    def assumption(self, adjacency: Adjacency) -> str:
        return "; ".join((_AS_STATED, *_sampled(self.groups, adjacency)))


def _sampled(groups: int, adjacency: Adjacency) -> tuple[str, ...]:
    """Return the assumptions about the batches of cyclic Poisson sampling."""
    if groups == 1:
        return (f"each unit is in a batch independently with probability sample_rate; {_NO_CAP}",)
    rule = {
        "add_or_remove_one": "; a split in equal parts is no such rule, as one unit less moves others to other groups",
        "replace_one": "; a unit that takes the place of another is in its group",
    }.get(adjacency, "")
    return (
        f"step t takes each unit of group t mod {groups} independently with probability sample_rate, and no other unit "
        f"(Poisson batches of all units are not cyclic, nor are shuffled ones); {_NO_CAP}",
        f"units are in {groups} groups by a rule that looks at no unit's data and at no other unit (drawn for each, or "
        f"by a fixed number), and stay in them for the whole run, restarts included{rule}",
    )


def _factor(adjacency: Adjacency) -> int:
    # Replacing a unit moves its clipped gradient by up to 2C, twice what adding or removing one does.
    return 4 if adjacency == "replace_one" else 1


def _quotient(noise_multiplier: Decimal, norm_sq: Fraction) -> Decimal:
    """Return a noise multiplier over a norm, rounded down to 64 digits, and at most the largest that a run can declare.

    norm_sq: the squared norm.
    """
    square = Fraction(noise_multiplier) ** 2 / norm_sq
    digits = int((square.numerator.bit_length() - square.denominator.bit_length()) * math.log10(2) / 2)
    places = _NOISE_DIGITS - digits
    scaled = square * Fraction(10) ** (2 * places)
    root = math.isqrt(scaled.numerator // scaled.denominator)
    return min(Decimal((0, tuple(map(int, str(root))), -places)), MODERATE[1])
