"""Options and arguments that commands share, and how they are parsed."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final
from uuid import uuid4

import typer

from ledger.cli import completion
from ledger.errors import InvalidRequest


def _exact(text: str) -> Decimal:
    """Return a number with every digit that was typed."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if not number.is_finite():
        raise typer.BadParameter(f"{text!r} is not a finite number")
    return number


def number_option(help_: str, *names: str) -> Any:
    """Return an option that takes a number exactly as it was typed."""
    return typer.Option(*names, parser=_exact, metavar="NUMBER", help=help_)


def _exact_list(text: str) -> list[Decimal]:
    """Return the numbers of a list with commas between them."""
    return [_exact(number) for number in text.split(",")]


def numbers_option(help_: str, *names: str) -> Any:
    """Return an option that takes a list of numbers, with commas between them, exactly as they were typed."""
    return typer.Option(*names, parser=_exact_list, metavar="NUMBER,…", help=help_)


Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]


def _asked_reason() -> str:
    """Ask for the reason, if a person can answer."""
    if not sys.stdin.isatty():
        raise typer.BadParameter("it is missing. State why you do it; the journal keeps it.", param_hint="--reason")
    answer: str = typer.prompt("Why? The journal keeps your answer", err=True)
    return answer


Reason = Annotated[
    str,
    typer.Option(
        default_factory=_asked_reason,
        show_default=False,
        help="Why you do it; the journal keeps it. You are asked if you leave it out.",
    ),
]
Epsilon = Annotated[Decimal | None, number_option("The epsilon of the budget, at --at-delta.")]
AtDelta = Annotated[Decimal | None, number_option("The delta that --epsilon refers to.")]
Slack = Annotated[Decimal | None, number_option("The part of --at-delta that is reserved for the deltas of runs.")]
Mu = Annotated[Decimal | None, number_option("The mu of the budget, instead of --epsilon.")]
Delta = Annotated[Decimal | None, number_option("The delta of the budget, with --mu.")]
AcceptWeak = Annotated[
    bool,
    typer.Option(
        "--accept-weak-protection",
        help="State that weak protection is acceptable: for a budget of more than epsilon 20. The journal keeps it.",
    ),
]
Share = Annotated[
    Decimal | None, number_option("The part of the delta budget that the run may use, for a certificate.", "--delta")
]
CeilingEpsilon = Annotated[Decimal | None, number_option("A limit that no later budget may exceed. Permanent.")]
CeilingAtDelta = Annotated[Decimal | None, number_option("The delta that --ceiling-epsilon refers to.")]
CeilingMu = Annotated[Decimal | None, number_option("The mu of the ceiling, instead of --ceiling-epsilon.")]
CeilingDelta = Annotated[Decimal | None, number_option("The delta of the ceiling, with --ceiling-mu.")]
Uses = Annotated[
    list[str],
    typer.Argument(
        metavar="DATASET…",
        help="One or more datasets: NAME, or NAME:PARTITION,PARTITION to use only these partitions.",
        autocompletion=completion.dataset,
    ),
]
ProjectName = Annotated[str | None, typer.Option(help="Charge the run to this project's share too.")]
SizeDiffers = Annotated[
    str | None,
    typer.Option(
        metavar="REASON",
        help="Why the mechanism states another number of units than the dataset is registered with, by more than 5 %.",
    ),
]
Segments = Annotated[
    int | None,
    typer.Option(help="Split the run into this many segments. It may stop after each, and pays only for those."),
]
DatasetName = Annotated[str, typer.Argument(help="The dataset's name.", autocompletion=completion.dataset)]
_ENOUGH: Final = "Its first 8 characters are enough."
Models = Annotated[
    list[Path] | None,
    typer.Option(
        help="A file that the run produced, or a folder of such files. The journal keeps its name, size and SHA-256."
        " Can be repeated."
    ),
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help=f"The run's id. {_ENOUGH}", autocompletion=completion.run)]
KeyId = Annotated[str, typer.Argument(metavar="ID", help=f"The key's id. {_ENOUGH} Or its name, if that is unique.")]
ProposalId = Annotated[str, typer.Argument(metavar="ID", help=f"The proposal's id, from `proposal list`. {_ENOUGH}")]


def given_fields(**fields: Any) -> dict[str, Any]:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def budget_or_none(
    epsilon: Decimal | None,
    at_delta: Decimal | None,
    slack: Decimal | None,
    mu: Decimal | None,
    delta: Decimal | None,
    *,
    field: str = "budget",
) -> dict[str, Any] | None:
    """Return the budget that options declare; None if they declare none. Raises InvalidRequest."""
    by_epsilon, by_mu = given_fields(epsilon=epsilon, at_delta=at_delta, slack=slack), given_fields(mu=mu, delta=delta)
    if by_epsilon and by_mu:
        raise InvalidRequest(f"{field}: epsilon and mu exclude each other. Give one of them.", field=field)
    return by_epsilon or by_mu or None


def optional_object(text: str | None, name: str) -> dict[str, Any] | None:
    """Parse a JSON object from the command line, or from a file as @FILE. Raises InvalidRequest."""
    return None if text is None else parsed_object(text_of(text, name), name)


def text_of(text: str, name: str) -> str:
    """Return a text from the command line, or from a file as @FILE. Raises InvalidRequest that names `name`."""
    try:
        return Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{name}: {error}", field=name) from None


def parsed(text: str, name: str) -> Any:
    """Parse JSON; numbers keep every digit that was typed. Raises InvalidRequest that names `name`."""
    try:
        return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name}: {error}", field=name) from None


def parsed_object(text: str, name: str) -> dict[str, Any]:
    """Parse a JSON object. Raises InvalidRequest that names `name`."""
    value = parsed(text, name)
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name}: must be a JSON object", field=name)
    return value


def uses_of(datasets: list[str]) -> list[str | dict[str, Any]]:
    """Parse the datasets of a run: NAME, or NAME:PARTITION,PARTITION. Raises InvalidRequest."""
    uses: list[str | dict[str, Any]] = []
    for typed in datasets:
        name, colon, partitions = typed.partition(":")
        names = partitions.split(",")
        if colon and not all(names):
            raise InvalidRequest(
                f"datasets: {typed!r} has an empty partition name. Write NAME:PARTITION,PARTITION", field="datasets"
            )
        uses.append({"name": name, "partitions": names} if colon else name)
    return uses


def parse_labels(given: list[str] | None) -> dict[str, str] | None:
    """Parse labels of the form NAME=VALUE. Raises InvalidRequest."""
    labels = {}
    for label in given or ():
        name, equals, value = label.partition("=")
        if not equals:
            raise InvalidRequest(f"label: {label!r} has no equals sign. Write NAME=VALUE", field="labels")
        labels[name] = value
    return labels or None


def parse_percent(text: str | None, name: str) -> Decimal | None:
    """Parse a part such as 10%; the sign must be there, so that nobody takes 0.1 for it. Raises InvalidRequest."""
    if text is None:
        return None
    try:
        percent = Decimal(text.removesuffix("%").strip()) if text.endswith("%") else None
    except InvalidOperation:
        percent = None
    if percent is None or not 0 < percent <= 100:
        raise InvalidRequest(f"{name}: {text!r} is not a part of up to 100%. Write it as 10%", field=name)
    return percent


_STRETCH: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})(:new)?")


def parse_restarts(given: list[str] | None) -> list[Any] | None:
    """Parse restarts: FROM-TO, FROM-TO:new, or JSON of one restart or a list. Raises InvalidRequest."""
    if not given:
        return None
    restarts: list[Any] = []
    for typed in given:
        stretch = _STRETCH.fullmatch(typed)
        if stretch is not None:
            first, last, new = stretch.groups()
            restarts.append({"from_step": int(first), "to_step": int(last), "new_batches": new is not None})
        elif typed.lstrip()[:1] in ("[", "{"):
            value = parsed(typed, "restarts")
            restarts += value if isinstance(value, list) else [value]
        else:
            raise InvalidRequest(f"restarts: {typed!r} is not FROM-TO, FROM-TO:new or JSON", field="restarts")
    return restarts


def written(output: Path, force: bool, write: Callable[[BinaryIO], object]) -> int:
    """Write a file, and return its size in bytes. Raises InvalidRequest if it exists and `force` is not set."""
    if output.exists() and not force:
        raise InvalidRequest(
            f"{output} exists already. Overwrite it with --force, or give another --output.", field="output"
        )
    # Write under another name until it is complete: nobody must take half a file for all of it.
    partial = output.with_name(f".{output.name}.{uuid4().hex[:8]}.part")
    try:
        with partial.open("xb") as file:
            write(file)
        partial.replace(output)
    except OSError as error:
        raise InvalidRequest(f"{output}: {error.strerror}", field="output") from error
    finally:
        partial.unlink(missing_ok=True)
    return output.stat().st_size
