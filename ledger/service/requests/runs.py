"""Requests to ask for a run, to settle it, to void it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
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
from ledger.core.journal import chain
from ledger.mistakes import NAME_PATTERN, SHA256_PATTERN, VISIBLE_PATTERN
from ledger.service.requests.fields import (
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
    field_error,
)

DATASETS_MAX: Final = 100
SEGMENTS_MAX: Final = 1000
RESTARTS_MAX: Final = 1000
MODELS_MAX: Final = 100


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
    """Adds to the document that a name alone means the whole dataset."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "pattern": NAME_PATTERN}, handler(schema)]}


Datasets = Annotated[
    list[Annotated[DatasetUse, BeforeValidator(_named), _OrName()]], Field(min_length=1, max_length=DATASETS_MAX)
]
"""The datasets that a run uses: names, or names with partitions."""


def _label_text(value: Any) -> Any:
    """Return a number or a boolean as the text that is kept: as JSON writes it, and a number in full."""
    if isinstance(value, str):
        return value
    if not isinstance(value, bool | int | float | Decimal):
        raise PydanticCustomError("label", "must be a text, a number, true or false")
    return chain.canonical(Decimal(repr(value)) if isinstance(value, float) else value)


class _OrScalar:
    """Adds to the document that a number or a boolean becomes a text."""

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [handler(schema), {"type": "number"}, {"type": "boolean"}]}


SizeDiffers = Annotated[
    LongText | None,
    Field(
        description=(
            "Why the mechanism states another number of units than the datasets are registered with, by more than 5 %."
            " Recorded with the run."
        )
    ),
]
Label = Annotated[ShortText, BeforeValidator(_label_text), _OrScalar()]


class Code(Strict):
    """Where the training code can be found."""

    repository: ShortText
    commit: ShortText


class RunRequest(Strict):
    """A training run, or any other release, as it is declared before it touches data."""

    datasets: Datasets
    mechanism: Mechanism
    delta: Annotated[
        Probability | None,
        Field(
            description=(
                "The share of the delta budget that the run's certificate may use; default: a hundredth of the"
                " least limit among the accounts charged. Has no effect if the cost needs no certificate."
            )
        ),
    ] = None
    segments: Annotated[
        int | None,
        Field(
            ge=1,
            le=SEGMENTS_MAX,
            description=(
                "Reserve the run as this many pieces, each of which starts with fresh randomness. The run may"
                " stop after any piece, and is charged for the pieces that were begun."
            ),
        ),
    ] = None
    project: ProjectName | None = None
    purpose: LongText | None = None
    labels: Annotated[
        dict[Annotated[str, StringConstraints(max_length=63)], Label] | None,
        Field(
            max_length=64,
            description=(
                f"`purpose`, `labels` and `code` have at most {NOTES_BYTES_MAX} bytes of JSON together. A number or a"
                " boolean is kept as a text, such as `0.1` or `true`."
            ),
        ),
    ] = None
    code: Code | None = None
    size_differs: SizeDiffers = None
    valid_for: Duration = timedelta(days=1)

    @model_validator(mode="after")
    def _is_short(self) -> RunRequest:
        code = None if self.code is None else self.code.model_dump()
        demand_short({"purpose": self.purpose, "labels": self.labels, "code": code})
        return self


def as_kept(sent: dict[str, Any], request: RunRequest) -> dict[str, Any]:
    """Return what was sent as the journal keeps it: every label is a text."""
    labels = sent.get("labels")
    if not isinstance(labels, dict) or all(isinstance(label, str) for label in labels.values()):
        return sent
    return {**sent, "labels": request.labels}


class NewBatch(Strict):
    runs: Annotated[
        list[dict[str, Any]],
        Field(
            min_length=1,
            max_length=1000,
            description="Each as for `POST /v1/runs`, with its `idempotency_key` as one more field.",
        ),
    ]
    atomic: Annotated[bool, Field(description="Approve all of them or none.")] = False
    as_many_as_fit: Annotated[
        bool,
        Field(
            description="Approve as many as fit together, in this order, at one level of their costs, so that they give"
            " back in any order. The others are not recorded."
        ),
    ] = False

    @model_validator(mode="after")
    def _has_one_mode(self) -> NewBatch:
        if self.atomic and self.as_many_as_fit:
            raise field_error("as_many_as_fit", "must be left out with atomic: a batch is approved in one way")
        return self


class RestartStated(Strict):
    """A restart, after which the steps from `from_step` to `to_step`, counted from 1, were repeated."""

    from_step: Annotated[int, Field(ge=1, le=COUNT_MAX)]
    to_step: Annotated[int, Field(ge=0, le=COUNT_MAX, description="`from_step` less 1 if no step was repeated.")]
    new_batches: Annotated[
        bool,
        Field(description="Whether new batches were drawn from `from_step` on, or the units were put in a new order."),
    ]

    @model_validator(mode="after")
    def _in_order(self) -> RestartStated:
        if self.to_step < self.from_step - 1:
            raise PydanticCustomError(
                "restart", "to_step must be at least from_step - 1 (equal if no step was repeated)"
            )
        return self


class ModelStated(Strict):
    """A file that the run produced, such as the weights of a model."""

    name: Annotated[ShortText, Field(description="Its name, such as `model.safetensors`, or a path within a folder.")]
    sha256: Annotated[str, StringConstraints(pattern=SHA256_PATTERN), Field(description="The digest of its bytes.")]
    size: Annotated[int, Field(ge=0, le=COUNT_MAX, description="In bytes.")]


def _named_once(models: list[ModelStated] | None) -> list[ModelStated] | None:
    distinct([model.name for model in models or ()])
    return models


class SettleRequest(Strict):
    """What was executed."""

    steps: Annotated[
        int | None, Field(ge=0, le=COUNT_MAX, description="Every executed step, repeated ones included.")
    ] = None
    restarts: Annotated[
        list[RestartStated] | None,
        Field(
            max_length=RESTARTS_MAX,
            description=(
                "Every restart from an earlier step, in the order in which they happened; an empty list states"
                " that no step was repeated. If left out, steps beyond the plan are charged for the worst that"
                " they can have been; within the plan the ledger assumes, and records, that no step was repeated."
            ),
        ),
    ] = None
    stop: Annotated[
        Literal["planned", "data_independent", "data_dependent"] | None,
        Field(
            description=(
                "Why the run executed no more: `data_independent` if neither the data nor any output, also of a"
                " later run, influenced it; otherwise `data_dependent`, which is the default when fewer steps"
                " were executed."
            )
        ),
    ] = None
    models: Annotated[
        list[ModelStated] | None,
        Field(
            min_length=1,
            max_length=MODELS_MAX,
            description="The files that the run produced, each name once. `GET /v1/runs/{id}/attestation` signs them.",
        ),
        AfterValidator(_named_once),
    ] = None
    evidence: Annotated[
        dict[str, Any] | None,
        Field(description=f"Anything that describes what was executed, at most {NOTES_BYTES_MAX} bytes of JSON."),
    ] = None

    @model_validator(mode="after")
    def _is_short(self) -> Self:
        demand_short({"evidence": self.evidence})
        return self


class StartRequest(Strict):
    """Which process starts a run."""

    token: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=VISIBLE_PATTERN)] | None,
        Field(
            description="A text that only this process has, such as a random UUID. The same one gets the same answer,"
            " as after an answer that was lost. With another one, or without one, the run counts as started by another"
            " process: `run-state`. The journal keeps its SHA-256. If the first start has no token, any start without"
            " one gets the same answer, so that two processes can begin: always send one."
        ),
    ] = None


class ProgressRequest(Strict):
    """How far a running job has come."""

    steps: Annotated[
        int, Field(ge=0, le=COUNT_MAX, description="Every executed step, those of earlier processes included.")
    ]
    reporter: Annotated[
        Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=VISIBLE_PATTERN)] | None,
        Field(
            description="Which place reports it: visible ASCII characters that no other place uses. A later process of"
            " the job knows by it whether its own notes of what was executed are the newest."
        ),
    ] = None


class ConfirmRequest(Strict):
    """Why a reported number is right."""

    reason: LongText


class CorrectRequest(SettleRequest):
    """What was really executed, in place of the reported number, and how you know it."""

    reason: LongText

    @model_validator(mode="after")
    def _is_short(self) -> Self:
        demand_short({"evidence": self.evidence, "reason": self.reason})
        return self


class CorrectionRequest(Strict):
    """What a settled run really was, and how you know it. It is charged for that; history is not changed."""

    mechanism: Annotated[Mechanism, Field(description="Everything that the run really did, as one mechanism.")]
    reason: LongText
    decided_by_output: Annotated[
        bool,
        Field(
            description=(
                "Whether an output of any run may have decided which mechanism ran. If it is `false`, you state that it"
                " did not: then the true mechanism takes the place of the declared one. If it is `true`, the true"
                " mechanism is charged in addition to what was charged before."
            )
        ),
    ]
    on_word_of: Annotated[
        LongText | None,
        Field(description="On whose word something is given back. Needed if the run was charged too much."),
    ] = None
    advisory: Annotated[ShortText | None, Field(description="The id of the advisory that this follows from.")] = None
    evidence: Annotated[
        dict[str, Any] | None,
        Field(description=f"Anything that shows what was run, at most {NOTES_BYTES_MAX} bytes of JSON."),
    ] = None

    @model_validator(mode="after")
    def _is_short(self) -> Self:
        demand_short({"evidence": self.evidence, "reason": self.reason, "on_word_of": self.on_word_of})
        return self


class VoidRequest(Strict):
    """Why nobody saw any output."""

    reason: LongText
    data_independent: Annotated[
        bool | None,
        Field(
            description=(
                "Your statement that neither the data nor any output, of this or of another run, decided the void, nor"
                " when the run began, and that it will not be resumed. A crash alone does not state that. With it, all"
                " of the cost is given back, however little is left."
            )
        ),
    ] = None
