"""What the caller of a training says, and the objects do not show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Any, Final

DIGITS: Final = 12
"""The significant digits of a noise multiplier that is divided."""
SLACK: Final = Decimal("1e-9")
"""The share by which a scheduled noise multiplier is rounded down: schedulers multiply floats, step by step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the caller says, and the objects do not show.

    steps_of: for trainers that have limits of their own: how many steps they will make, from the batches of a pass.
    """

    epochs: int | None = None
    steps: int | None = None
    nominal_size: int | None = None
    max_examples_per_user: int | None = None
    draws_per_step: int = 1
    rows_per_record: int = 1
    noise_schedule: tuple[tuple[float, int], ...] | None = None
    steps_of: Callable[[int], int] | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("epochs", "steps", "noise_schedule") if getattr(self, name) is not None]
        if len(given) != (self.steps_of is None):
            raise ValueError(f"give one of epochs, steps and noise_schedule, not {' and '.join(given) or 'none'}")
        for name in ("epochs", "steps", "nominal_size", "max_examples_per_user", "draws_per_step", "rows_per_record"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name}: {value!r} is not a whole number of at least 1")
        if self.noise_schedule is not None and self.records_per_step > 1:
            raise ValueError(
                "noise_schedule: a schedule with max_examples_per_user or draws_per_step has no known cost"
            )
        if not all(noise > 0 and steps >= 1 for noise, steps in self.noise_schedule or ()):
            raise ValueError("noise_schedule: give pairs of a noise multiplier above 0 and its number of steps")

    @property
    def records_per_step(self) -> int:
        """Return in how many draws of one step a unit can be: each draw of each of its records is by itself."""
        return (self.max_examples_per_user or 1) * self.draws_per_step

    def steps_in(self, batches: int) -> int | None:
        """Return how many steps there will be, if a pass has this many batches; None for a schedule."""
        if self.steps_of is not None:
            return self.steps_of(batches)
        return self.steps if self.epochs is None else self.epochs * -(-batches // self.draws_per_step)

    def noise_of(self, noise: float) -> Decimal | float:
        """Return the noise in terms of what a record moves, all of whose rows are in one step: rounded down."""
        if self.rows_per_record == 1:
            return noise
        return Context(prec=DIGITS, rounding=ROUND_FLOOR).divide(
            Decimal(float.__repr__(noise)), Decimal(self.rows_per_record)
        )

    def phases_at(self, rate: Decimal) -> list[dict[str, Any]]:
        """Return the phases of the schedule, as they are asked for, at this sample rate."""
        return [
            {"noise_multiplier": self.noise_of(float(noise)), "sample_rate": rate, "steps": steps}
            for noise, steps in self.rounded_schedule
        ]

    @property
    def rounded_schedule(self) -> list[tuple[Decimal, int]]:
        """Return the schedule with each noise multiplier rounded down by a little."""
        return [
            ((Decimal(float.__repr__(float(noise))) * (1 - SLACK)).normalize(), steps)
            for noise, steps in self.noise_schedule or ()
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """What a checkpoint knows of the training before it. run: its run's id. steps: how many steps it had made."""

    run: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """The library that makes the loop: what is recorded of it, and what it advises.

    libraries: name and version. rules_out: the advisories about it whose fault is refused. checked, assumed: in words.
    if_shorter: the way out that is logged if the run stopped early and is charged in full.
    """

    libraries: Mapping[str, str] = field(default_factory=dict)
    rules_out: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    if_shorter: str = (
        "If a training may stop early, attach one for each part of it, with its own PrivacyEngine and epochs or steps:"
        " what was not asked for is not charged."
    )
