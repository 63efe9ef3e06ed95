"""What the shapes of answers share."""

from __future__ import annotations

from typing import Annotated, Final, NotRequired
from uuid import UUID

from pydantic import AfterValidator, Field, WithJsonSchema
from typing_extensions import TypedDict

from ledger.accounting.display import AmountShown

__all__ = ["AmountShown", "EpsilonShown", "Id", "PercentOfBudget", "PercentOfRun", "PercentTaken", "PercentsShown"]


NO_EPSILON: Final = "null: no epsilon holds, because the delta of the amount is not below this delta."


def _checked_id(value: str) -> str:
    UUID(value)
    return value


Id = Annotated[str, AfterValidator(_checked_id), WithJsonSchema({"type": "string", "format": "uuid"})]
"""A UUID in JSON."""


class EpsilonShown(TypedDict):
    delta: float
    value: Annotated[float | None, Field(description=NO_EPSILON)]
    why: NotRequired[Annotated[str, Field(description="Why no epsilon holds, if `value` is null.")]]


Percent = Annotated[float | None, Field(description="Of mu², which adds up; rounded up. null if nothing is charged.")]
PercentOfDelta = Annotated[float | None, Field(description="The same of delta; null also if the budget has none.")]
EpsilonAlone = Annotated[
    list[EpsilonShown],
    Field(description="Of the run by itself, rounded up, at the delta of the budget. Epsilons do not add up."),
]
RunsLeft = Annotated[
    int | None,
    Field(
        description="For how many more runs like this one the budgets have room, one after another, if none of them"
        " ends. Fair use is not counted. null if that is not known."
    ),
]


class PercentTaken(TypedDict):
    percent: Percent
    percent_of_delta: PercentOfDelta


class PercentOfRun(PercentTaken):
    percent_charged: NotRequired[
        Annotated[float | None, Field(description="What it was charged or keeps, in percent, once it has ended.")]
    ]


class PercentOfBudget(TypedDict):
    percent: NotRequired[Percent]
    percent_of_delta: NotRequired[PercentOfDelta]
    percent_left: NotRequired[
        Annotated[float | None, Field(description="Of mu², rounded down; below zero if it is overdrawn.")]
    ]
    percent_of_delta_left: NotRequired[float | None]


class PercentsShown(TypedDict):
    """The parts of a balance, in percent of its limit: of mu², which adds up, and of delta."""

    spent: Annotated[float | None, Field(description="Rounded up, as is `held`.")]
    held: float | None
    remaining: Annotated[float | None, Field(description="Rounded down.")]
    spent_of_delta: float | None
    held_of_delta: float | None
    remaining_of_delta: float | None
