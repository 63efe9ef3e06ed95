"""Steps that were repeated after a restart: how they are reported, and what they cost.

A step that is run again with the same batch meets the same units with fresh noise. Given all that was released before,
it is a mixture of Gaussians whose centres lie at most as far apart as one unit can move a sum of clipped gradients, and
so no more than one release without sampling (joint convexity). Which mechanism that is charged as, its module says.
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
        """As an entry has it."""
        return {"from_step": self.from_step, "to_step": self.to_step, "new_batches": self.new_batches}


def repeated(restarts: Iterable[Restart]) -> int:
    """Return how many steps were repeated, over all restarts."""
    return sum(restart.steps for restart in restarts)


@dataclass(frozen=True, slots=True)
class Division:
    """How the steps of a run are divided: into `segments` of `steps` each, whatever goes beyond included."""

    segments: int
    steps: int

    def touched(self, restart: Restart) -> int:
        """How many segments it repeats steps of, going beyond the last one as if there were more; at least one."""
        return _touched(restart.from_step, restart.to_step, self.steps)

    def stretches(self, restart: Restart) -> list[tuple[int, int, int]]:
        """The repeated steps, counted from the start of their segment: (first, last, in how many segments alike).

        The last segment goes on beyond its end.
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
    """How many epochs of so many steps the steps from `first` to `last` are in; none, if there are none."""
    return 0 if last < first else _touched(first, last, length)


@dataclass(frozen=True, slots=True)
class Repeats:
    """The cost of repeated steps.

    steps: so many of them are further steps, no different from those that were not repeated. mu_sq: the others are
    charged this. segments: or as so many segments more, each as approved.
    """

    steps: int = 0
    mu_sq: Fraction = Fraction(0)
    segments: int = 0
