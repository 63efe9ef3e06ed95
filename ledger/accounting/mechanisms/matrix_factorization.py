"""Training with correlated noise."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar, Final, Literal, Self

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from ledger.accounting import strategies
from ledger.accounting.cost import SGD, Cost, Precision, rational
from ledger.accounting.mechanisms.base import BaseMechanism, Evidence
from ledger.accounting.numbers import Count, Positive
from ledger.accounting.pairs import Parts
from ledger.accounting.restarts import Division, Repeats, Restart
from ledger.accounting.terms import Terms
from ledger.core.datasets import Adjacency, Bound
from ledger.errors import TooLarge

_STEPS_OF_WEIGHT: Final = 5000


class MatrixFactorization(BaseMechanism):
    """Training with correlated noise: the matrix mechanism, of which DP-FTRL is one.

    Its sensitivity, in clip norms, is that of a strategy by name, or stated with the evidence for it.
    """

    methods: ClassVar = {"matrix-factorization": Precision.EXACT}
    solvable: ClassVar = ("noise_multiplier", "steps")
    is_training: ClassVar = True

    type: Literal["matrix_factorization"]
    noise_multiplier: Positive
    sensitivity: Positive | None = None
    evidence: Evidence | None = None
    strategy: Literal["identity", "tree", "sqrt"] | None = None
    steps: Count | None = None
    participations: Count | None = None
    separation: Count | None = None
    completion: Literal["none", "power_of_two"] | None = None
    bandwidth: Count | None = None

    @model_validator(mode="after")
    def _one_form(self) -> MatrixFactorization:
        named = (self.strategy, self.steps)
        if all(named) == (self.sensitivity is not None) or (any(named) and not all(named)):
            raise PydanticCustomError("form", "give either sensitivity and evidence, or strategy and steps")
        if (self.sensitivity is None) != (self.evidence is None):
            raise PydanticCustomError("form", "a stated sensitivity needs evidence that says where it was proved")
        if self.strategy is None:
            if (self.participations or 1, self.separation or 1) != (1, 1):
                raise PydanticCustomError("form", "participations and separation belong to a strategy")
        elif self.participations is None:
            raise PydanticCustomError(
                "form", "a strategy needs participations: in how many steps, of each segment, a unit takes part"
            )
        elif self.participations > 1 and self.separation is None:
            raise PydanticCustomError(
                "form",
                "more than one of participations needs separation: how many steps apart any two of them are at least;"
                " 1 where batches are reshuffled between epochs",
            )
        if (self.completion is not None) != (self.strategy == "tree"):
            raise PydanticCustomError(
                "form",
                "the strategy tree, and no other, needs completion: none where only steps of the training release"
                " nodes, power_of_two where the tree is completed to the next power of two at its end, and before each"
                " restart",
            )
        if self.bandwidth is not None and self.strategy != "sqrt":
            raise PydanticCustomError("form", "bandwidth belongs to the strategy sqrt")
        return self

    def cost(self, terms: Terms, *, path: str) -> Cost:
        # The noise is Gaussian and the strategy lower triangular, so that choosing gradients by earlier outputs costs
        # nothing more (Denisov et al. 2022, Thm. 2.1; Choquette-Choo et al. 2023 for several participations).
        factor = 4 if terms.adjacency == "replace_one" else 1
        squared, assumption = self._stated() if self.sensitivity is not None else self._of_strategy(path)
        mu_sq = factor * squared / Fraction(self.noise_multiplier) ** 2
        return rational(mu_sq, "matrix-factorization", (*SGD, assumption))

    def _stated(self) -> tuple[Fraction, str]:
        """Return the square of the sensitivity, and the assumption for it."""
        return Fraction(self.sensitivity or 1) ** 2, "the stated sensitivity was proved elsewhere, as the evidence says"

    def _of_strategy(self, path: str) -> tuple[Fraction, str]:
        try:
            squared = strategies.sensitivity_sq(
                strategy=self.strategy or "identity",
                steps=self.steps or 1,
                participations=self.participations or 1,
                separation=self.separation or 1,
                bandwidth=self.bandwidth,
                is_completed=self.completion == "power_of_two",
            )
        except ValueError as error:
            raise TooLarge(f"{path}: {error}", field=f"{path}.steps") from error
        tree = {
            None: "",
            "none": "; the tree is not completed: no node is released that ends after the last step",
            "power_of_two": "; the tree is completed to the next power of two, by steps without data",
        }[self.completion]
        return squared, (
            f"a unit takes part in at most {self.participations} steps, any two at least {self.separation or 1} "
            f"apart, in an order fixed beforehand (batches reshuffled between epochs have a separation of 1){tree}"
        )

    def needs_certificate(self, bound: Bound) -> bool:
        return self.strategy == "sqrt"

    def weight(self, bound: Bound) -> int:
        return 1 + (self.steps or 0) // _STEPS_OF_WEIGHT if self.strategy == "sqrt" else 1

    def frontier(self, terms: Terms, deltas: Sequence[Fraction]) -> list[tuple[float, float]]:
        return []  # slow to compute, but without delta

    def exact_parts(self, terms: Terms) -> Parts:
        return Parts(self.cost(terms, path="mechanism").mu_sq)

    def precision(self, method: str) -> Precision:
        return Precision.CERTIFICATE if self.strategy == "sqrt" else super().precision(method)

    @property
    def declared_steps(self) -> tuple[int, int] | None:
        return None if self.steps is None else (self.steps, self.steps)

    def resized(self, steps: int) -> Self:
        return super().resized(steps) if self.steps is None else self.model_copy(update={"steps": steps})

    # --- settling

    def overrun(self, planned: int, steps: int, *, method: str, is_fixed: bool) -> Self | None:
        return None

    def has_releases(self, method: str) -> bool:
        return False

    def repeats(self, restarts: Sequence[Restart], adjacency: Adjacency, division: Division) -> Repeats:
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
        # Each step by itself, with new batches: 2² + 3² + ... + (steps + 1)².
        return Repeats(segments=(steps + 1) * (steps + 2) * (2 * steps + 3) // 6 - 1)
