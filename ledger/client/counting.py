"""Count the steps of a run: a part at a time, and never beyond what is approved or written down."""

from __future__ import annotations

import operator
import time
from collections.abc import Mapping
from typing import Any, Final

from ledger.client.mechanisms import declared, planned_steps

BLOCK_MAX: Final = 4_096
"""How many steps are written down ahead of their execution, at most."""
UNLIMITED: Final = 1 << 62


class Part:
    """The steps of a run, or of one part of a composed one.

    most: how many may be executed; None if there is no limit. before: those of earlier processes. granted: how many
    this process may have executed, as it is written down; room: how many of them it has not.
    """

    __slots__ = ("before", "granted", "most", "name", "room")

    def __init__(self, name: str, most: int | None, before: int = 0) -> None:
        self.name, self.most, self.before = name, most, before
        self.granted = self.room = 0

    @property
    def here(self) -> int:
        """Return how many steps this process executed."""
        return self.granted - self.room

    @property
    def done(self) -> int:
        """Return how many steps were executed, those of earlier processes included."""
        return self.before + self.granted - self.room

    def left(self) -> int:
        """Return how many more steps may be executed."""
        return UNLIMITED if self.most is None else self.most - self.done


class Blocks:
    """How many steps to write down ahead: about those of a second, so that a process that is killed loses little, and
    one that runs writes little."""

    def __init__(self) -> None:
        self._size, self._last = 1, time.monotonic()

    def next_size(self) -> int:
        """Return how many steps to write down now."""
        now = time.monotonic()
        elapsed, self._last = now - self._last, now
        if elapsed < 0.5:
            self._size = min(2 * self._size, BLOCK_MAX)
        elif elapsed > 2:
            self._size = max(self._size // 2, 1)
        return self._size


def whole(n: Any) -> int:
    """Return a number of steps. Raises ValueError."""
    try:
        number = operator.index(n)
    except TypeError:
        raise ValueError(f"n: {n!r} is no whole number. Count whole steps.") from None
    if number < 1:
        raise ValueError(f"n: {n} is less than 1. Count at least one step.")
    return number


def parts_of(mechanism: Any, names: tuple[str, ...] | None = None) -> dict[str, int]:
    """Return the planned steps of each part of a composed mechanism that has steps, by name, in their order.

    names: of all its parts; default `part 1`, `part 2`… Raises ValueError if these are not one different name for each
    part. Return nothing for other mechanisms.
    """
    facts = declared(mechanism)
    if facts.get("type") != "composed":
        if names is not None:
            raise ValueError("phases: only the parts of a composed mechanism have names.")
        return {}
    parts = facts.get("parts")
    parts = list(parts) if isinstance(parts, list | tuple) else []
    if names is None:
        names = tuple(f"part {number}" for number in range(1, len(parts) + 1))
    if len(names) != len(parts) or len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"phases: give {len(parts)} different names, one for each part in order.")
    planned = {name: _planned(part) for name, part in zip(names, parts, strict=True)}
    return {name: steps for name, steps in planned.items() if steps is not None}


def _planned(part: Any) -> int | None:
    steps = planned_steps(part) if isinstance(part, Mapping) or hasattr(part, "to_json") else None
    return None if steps is None else steps[1]


def goes_on_alike(mechanism: Any) -> bool:
    """Return whether a restarted job may go on as if it had not stopped: each step is like every other one, and draws
    its own batch. What repeats an order, a schedule or correlated noise must state its restarts."""
    facts = declared(mechanism)
    if facts.get("type") == "composed":
        return all(goes_on_alike(part) for part in facts.get("parts", ()))
    if facts.get("type") == "dpsgd":
        return facts.get("sampling") in (None, "poisson", "fixed_size")
    return facts.get("type") not in ("dpsgd_schedule", "matrix_factorization")
