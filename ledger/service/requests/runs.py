"""Requests to ask for a run, to settle it, to void it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    StringConstraints,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from ledger.accounting.mechanisms import Mechanism
from ledger.accounting.numbers import COUNT_MAX, Probability
from ledger.service.requests.fields import (
    NAME_PATTERN,
    NOTES_BYTES_MAX,
    DatasetName,
    Duration,
    LongText,
    PartitionName,
    ProjectName,
    ShortText,
    Strict,
    demand_short,
    distinct,
)

DATASETS_MAX: Final = 100
SEGMENTS_MAX: Final = 1000
RESTARTS_MAX: Final = 1000


class DatasetUse(Strict):
    """A dataset that a run uses, whole or some of its partitions."""

    name: DatasetName
    partitions: (
        Annotated[
            list[PartitionName],
            Field(min_length=1, max_length=4096, json_schema_extra={"uniqueItems": True}),
            AfterValidator(distinct),
        ]
        | None
    ) = None


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class _OrName:
    """Tells the document that a name alone stands for the whole dataset."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "pattern": NAME_PATTERN}, handler(schema)]}


Datasets = Annotated[
    list[Annotated[DatasetUse, BeforeValidator(_named), _OrName()]], Field(min_length=1, max_length=DATASETS_MAX)
]
"""The datasets that a run uses: names, or names with partitions."""


class Code(Strict):
    """Where the training code is to be found."""

    repository: ShortText
    commit: ShortText


class RunRequest(Strict):
    """A training run, or any other release, as it is declared before it touches data."""

    datasets: Datasets
    mechanism: Mechanism
    delta: Annotated[
        Probability | None,
        Field(
            description="The run's share of the delta budget, for a certificate; a hundredth of the least limit among "
            "the accounts charged when left out. Where the cost needs no certificate it makes no difference."
        ),
    ] = None
    segments: Annotated[
        int | None,
        Field(
            ge=1,
            le=SEGMENTS_MAX,
            description="Reserve the run as so many pieces, each restarted with fresh randomness, after any of which "
            "it may stop and be charged for those that were begun.",
        ),
    ] = None
    project: ProjectName | None = None
    purpose: LongText | None = None
    labels: Annotated[
        dict[Annotated[str, StringConstraints(max_length=63)], ShortText] | None,
        Field(
            max_length=64,
            description=f"`purpose`, `labels` and `code` have at most {NOTES_BYTES_MAX} bytes of JSON together.",
        ),
    ] = None
    code: Code | None = None
    valid_for: Duration = timedelta(days=1)

    @model_validator(mode="after")
    def _is_short(self) -> RunRequest:
        code = None if self.code is None else self.code.model_dump()
        demand_short({"purpose": self.purpose, "labels": self.labels, "code": code})
        return self


class NewBatch(Strict):
    runs: Annotated[
        list[dict[str, Any]],
        Field(
            min_length=1,
            max_length=1000,
            description="Each as for `POST /v1/runs`, with its `idempotency_key` beside the other fields.",
        ),
    ]
    atomic: Annotated[bool, Field(description="All of them or none.")] = False


class RestartStated(Strict):
    """A restart, after which the steps from `from_step` to `to_step`, counted from 1, were run again."""

    from_step: Annotated[int, Field(ge=1, le=COUNT_MAX)]
    to_step: Annotated[int, Field(ge=0, le=COUNT_MAX, description="`from_step` less 1 where no step was run again.")]
    new_batches: Annotated[
        bool, Field(description="Batches were drawn anew from `from_step` on, or the units were put in a new order.")
    ]

    @model_validator(mode="after")
    def _in_order(self) -> RestartStated:
        if self.to_step < self.from_step - 1:
            raise PydanticCustomError("restart", "to_step must be at least from_step - 1, where no step was run again")
        return self


class SettleRequest(Strict):
    """What was executed."""

    steps: Annotated[
        int | None, Field(ge=0, le=COUNT_MAX, description="Every step executed, repeated ones included.")
    ] = None
    restarts: Annotated[
        list[RestartStated] | None,
        Field(
            max_length=RESTARTS_MAX,
            description="Every restart from an earlier step, in the order in which they happened; an empty list says "
            "that no step was run again. Left out, steps beyond the plan are charged for the worst that they can have "
            "been, and within the plan it is assumed, and recorded, that none was.",
        ),
    ] = None
    stop: Annotated[
        Literal["planned", "data_independent", "data_dependent"] | None,
        Field(
            description="Why no more was executed: `data_independent` where neither the data nor any output, also of "
            "a later run, had a say in it; otherwise `data_dependent`, which is what fewer steps mean by themselves."
        ),
    ] = None
    evidence: Annotated[
        dict[str, Any] | None,
        Field(description=f"Anything that says what was executed, within {NOTES_BYTES_MAX} bytes of JSON."),
    ] = None

    @model_validator(mode="after")
    def _is_short(self) -> Self:
        demand_short({"evidence": self.evidence})
        return self


class ConfirmRequest(Strict):
    """Why a reported number is right."""

    reason: LongText


class CorrectRequest(SettleRequest):
    """What was executed, in place of what was reported, and how that is known."""

    reason: LongText

    @model_validator(mode="after")
    def _is_short(self) -> Self:
        demand_short({"evidence": self.evidence, "reason": self.reason})
        return self


class VoidRequest(Strict):
    """Why no output was ever seen."""

    reason: LongText
