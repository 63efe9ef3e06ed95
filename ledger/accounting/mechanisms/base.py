"""The interface of a mechanism: its cost, its steps, how it settles, and what can be solved for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field

from ledger.accounting import axes
from ledger.accounting.axes import Axis
from ledger.accounting.cost import Cost, Precision
from ledger.accounting.pairs import Parts
from ledger.accounting.restarts import Division, Repeats, Restart, repeated
from ledger.accounting.terms import Terms
from ledger.core.datasets import Adjacency, Bound
from ledger.errors import InvalidMechanism

if TYPE_CHECKING:
    from ledger.accounting.mechanisms.dpsgd import DpSgd

Evidence = Annotated[str, Field(min_length=1, max_length=2000)]


@dataclass(frozen=True, slots=True)
class StatedSize:
    """A number of units that a mechanism states.

    field: that states it. each: 1, or the most records of a unit if records are counted. is_least: whether it is a
    lower bound of the number.
    """

    field: str
    value: int
    each: int = 1
    is_least: bool = False


@dataclass(frozen=True, slots=True)
class Drawn:
    """Poisson batches that a mechanism draws. least, most: the probability of a unit to be in a batch, over its steps.

    units: how many units it states that there are; None if it states none. each: the most records of a unit that are
    drawn apart.
    """

    field: str
    least: Fraction
    most: Fraction
    units: int | None = None
    each: int = 1


class BaseMechanism(BaseModel):
    """A mechanism in a request. A subclass declares its fields and its cost, and overrides what else it supports.

    methods: the names that its cost's method can have, and how closely each is computed. solvable: the parameters that
    can be solved for, in the order in which they are named; unsuggested: those of them that a refusal does not name.
    is_training: whether its product is a model; otherwise it is statistics.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    methods: ClassVar[Mapping[str, Precision]] = {}
    solvable: ClassVar[tuple[str, ...]] = ()
    unsuggested: ClassVar[frozenset[str]] = frozenset()
    is_training: ClassVar[bool] = False

    type: str

    # --- cost

    @abstractmethod
    def cost(self, terms: Terms, *, path: str) -> Cost:
        """Return its cost, under terms of one segment.

        A `clt` run charges no delta of its own, so that a certificate under `clt` uses none. path: of the mechanism
        within the request, for errors. Raises as `costs.cost`, which callers use instead.
        """

    def needs_certificate(self, bound: Bound) -> bool:
        """Return whether its cost is a certificate: slow to compute, and usually dependent on the run's delta."""
        return False

    def weight(self, bound: Bound) -> int:
        """Return how much work its cost is, predicted from the declaration, in closed forms of one release."""
        return 1

    def frontier(self, terms: Terms, deltas: Sequence[Fraction]) -> list[tuple[float, float]]:
        """Return (delta, mu) at each of these shares of delta, if its cost is a certificate."""
        return [
            (
                float(delta),
                self.cost(replace(terms, delta=delta), path="mechanism").mu,
            )
            for delta in deltas
        ]

    @property
    def is_heavy_tailed(self) -> bool:
        """Return whether rare losses are so large that a small share of delta costs far more than a larger one."""
        return False

    def exact_parts(self, terms: Terms) -> Parts:
        """Return its parts, for exact composition. Numbers are rounded to doubles that cost no less.

        terms: the bound only matters if no pair is known, which `certified` refuses and `clt` estimates; delta and
        segments do not matter. By default it is its envelope: its charge. Raises as `cost`.
        """
        cost = self.cost(Terms(bound="certified", adjacency=terms.adjacency), path="mechanism")
        return Parts(cost.mu_sq, cost.nats, envelopes=frozenset({self.type}))

    def certified_as(self, bound: Bound, path: str) -> tuple[DpSgd, ...]:
        """Return the DP-SGD runs whose certificate is its cost; empty if its cost is no certificate of such runs.

        As parts of `composed` they are certified with those of the other parts at once. path: of the mechanism. Raises
        as `cost`.
        """
        return ()

    def precision(self, method: str) -> Precision:
        """Return how closely machines agree on a cost of this method."""
        return self.methods.get(method, Precision.CLOSED_FORM)

    def resting_on_size(self, path: str) -> list[str]:
        """Return the fields that assume a public and fixed number of units. path: of the mechanism."""
        return []

    # --- the number of units

    @property
    def lacks_size(self) -> bool:
        """Return whether it needs a number of units that it does not state: that of its dataset."""
        return False

    def stated_sizes(self, path: str) -> Sequence[StatedSize]:
        """Return the numbers of units that it states. path: of the mechanism."""
        return ()

    def drawn(self, path: str) -> Sequence[Drawn]:
        """Return its Poisson batches. path: of the mechanism."""
        return ()

    # --- steps

    @property
    def declared_steps(self) -> tuple[int, int] | None:
        """Return floor and ceiling of its number of steps or releases; None if it has none."""
        return None

    def resized(self, steps: int) -> Self:
        """Return the same mechanism with exactly this many steps or releases, at the same rate.

        Of epochs it makes sizes with steps, which no request can declare, because batch_size/dataset_size is rarely a
        decimal. Raises ValueError if the mechanism has no steps.
        """
        raise ValueError(f"{self.type} has no steps here")

    def restartable(self, steps: int) -> int:
        """Return the least number of steps, at least this one, that a segment can have."""
        return steps

    def segment(self, segments: int) -> Self:
        """Return one of `segments` equal segments, two or more: its part of the steps, made `restartable`.

        Raises ValueError if the mechanism has no steps.
        """
        _, most = self.declared_steps or (0, 0)
        return self.resized(self.restartable(-(-most // segments)))

    # --- settling

    def is_additive(self, method: str) -> bool:
        """Return whether it is charged as a sum of releases that are complete mechanisms. method: of its cost."""
        return False

    def additive_cost(self, terms: Terms) -> Cost:
        """Return its cost as that sum, if `is_additive`."""
        return self.cost(terms, path="mechanism")

    def overrun(self, planned: int, steps: int, *, method: str, is_fixed: bool) -> Self | None:
        """Return the mechanism of `steps` steps beyond the planned ones; None if only whole segments are mechanisms.

        method: its cost's. is_fixed: neither the data nor any output influenced how many steps these are.
        """
        return self.resized(steps)

    def has_releases(self, method: str) -> bool:
        """Return whether a repeated step counts as one more step, because each is a release. method: of its cost."""
        return True

    def repeats(self, restarts: Sequence[Restart], adjacency: Adjacency, division: Division) -> Repeats:
        """Return the cost of these repeated steps, in the order in which they happened, unless it `has_releases`."""
        return Repeats(steps=repeated(restarts))

    def worst_repeats(self, steps: int, adjacency: Adjacency) -> Repeats:
        """Return the most that `steps` unknown repeated steps can cost, unless it `has_releases`."""
        return Repeats(steps=steps)

    # --- solving

    def axis(self, parameter: str, *, segments: int) -> Axis:
        """Return the values of a solvable parameter, in the order of their costs."""
        return axes.axis_of(parameter, least_count=segments)


class Releases(BaseMechanism):
    """A mechanism of `count` releases, each of which is a complete mechanism."""

    if TYPE_CHECKING:
        count: int

    @property
    def declared_steps(self) -> tuple[int, int] | None:
        return self.count, self.count

    def resized(self, steps: int) -> Self:
        return self.model_copy(update={"count": steps})

    def is_additive(self, method: str) -> bool:
        return True


def unsupported(detail: str, *, field: str) -> InvalidMechanism:
    """Return the error for what the API allows and this version does not support."""
    return InvalidMechanism(f"{field}: {detail}", field=field)
