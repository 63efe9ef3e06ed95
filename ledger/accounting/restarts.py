"""Steps that were repeated after a restart: how they are reported, and what they cost.

A step that is run again with the same batch meets the same units with fresh noise. Given everything released before, it
is a mixture of Gaussians whose centres lie at most as far apart as one unit can move a sum of clipped gradients. So it
costs at most one release without sampling (joint convexity). Each mechanism's module has the charge.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Restart:
    """A restart, after which the steps `from_step` to `to_step`, counted from 1, were repeated.

    If to_step is from_step - 1, no step was repeated: the job went on. new_batches: from there on batches were drawn,
    or the units ordered, again; otherwise they were the same as before.
    """

    from_step: int
    to_step: int
    new_batches: bool

    @property
    def steps(self) -> int:
        """Return how many steps were repeated."""
        return self.to_step - self.from_step + 1

    def facts(self) -> dict[str, int | bool]:
        """Return it in the form of an entry."""
        return {"from_step": self.from_step, "to_step": self.to_step, "new_batches": self.new_batches}


def repeated(restarts: Iterable[Restart]) -> int:
    """Return how many steps were repeated, over all restarts."""
    return sum(restart.steps for restart in restarts)


@dataclass(frozen=True, slots=True)
class Division:
    """How the steps of a run are divided: into `segments` of `steps` each. Steps beyond the plan are divided too."""

    segments: int
    steps: int

    def touched(self, restart: Restart) -> int:
        """Return how many segments the repeated steps touch, as if more followed the last one; at least one."""
        return _touched(restart.from_step, restart.to_step, self.steps)

    def stretches(self, restart: Restart) -> list[tuple[int, int, int]]:
        """Return the repeated steps, counted from the start of their segment: (first, last, number of equal segments).

        Steps beyond the end of the last segment belong to it.
        """
        first, last = restart.from_step - 1, restart.to_step - 1
        begin, end = (min(step // self.steps, self.segments - 1) for step in (first, last))
        offset, reach = first - begin * self.steps + 1, last - end * self.steps + 1
        if begin >= end:
            return [(offset, last - begin * self.steps + 1, 1)]
        return [(offset, self.steps, 1), (1, self.steps, end - begin - 1), (1, reach, 1)]


def _touched(first: int, last: int, length: int) -> int:
    return max(1, (last - 1) // length - (first - 1) // length + 1)


def epochs_touched(first: int, last: int, length: int) -> int:
    """Return how many epochs of `length` steps the steps from `first` to `last` are in; 0 if there are no steps."""
    return 0 if last < first else _touched(first, last, length)


@dataclass(frozen=True, slots=True)
class Repeats:
    """The cost of repeated steps.

    steps: the number of them that count as further steps, like steps that were not repeated. mu_sq: the charge of the
    others. segments: the number of further segments, each as approved, that others are charged as.
    """

    steps: int = 0
    mu_sq: Fraction = Fraction(0)
    segments: int = 0
