"""Options and arguments that commands share, and how they are parsed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final
from uuid import uuid4

import typer

from ledger.errors import InvalidRequest


def _exact(text: str) -> Decimal:
    """A number as it was typed: every digit of it is sent."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise typer.BadParameter(f"{text!r} is not a number") from None
    if not number.is_finite():
        raise typer.BadParameter(f"{text!r} is not a finite number")
    return number


def number_option(help_: str, *names: str) -> Any:
    """An option that takes a number exactly as it was typed."""
    return typer.Option(*names, parser=_exact, metavar="NUMBER", help=help_)


Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the journal.")]
Epsilon = Annotated[Decimal | None, number_option("The budget's epsilon, at --at-delta.")]
AtDelta = Annotated[Decimal | None, number_option("The delta at which epsilon is meant.")]
Slack = Annotated[Decimal | None, number_option("The share of at-delta that is set aside for the deltas of runs.")]
Mu = Annotated[Decimal | None, number_option("The budget in mu, instead of epsilon.")]
Delta = Annotated[Decimal | None, number_option("The budget's delta, beside --mu.")]
Share = Annotated[Decimal | None, number_option("The run's share of the delta budget, for a certificate.", "--delta")]
CeilingEpsilon = Annotated[
    Decimal | None, number_option("A limit that no later budget may pass, as the budget is given.")
]
CeilingAtDelta = Annotated[Decimal | None, number_option("The delta at which --ceiling-epsilon is meant.")]
CeilingMu = Annotated[Decimal | None, number_option("The ceiling in mu, instead of --ceiling-epsilon.")]
CeilingDelta = Annotated[Decimal | None, number_option("The ceiling's delta, beside --ceiling-mu.")]
Uses = Annotated[
    list[str],
    typer.Argument(metavar="DATASET…", help="One or more: NAME, or NAME:PARTITION,PARTITION for some of its parts."),
]
ProjectName = Annotated[str | None, typer.Option(help="Charge this project's share too.")]
Segments = Annotated[
    int | None, typer.Option(help="In so many pieces, each restarted, so that it may stop after any and pay for those.")
]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's id.")]
KeyId = Annotated[str, typer.Argument(metavar="ID", help="As `key list` shows it.")]
ProposalId = Annotated[str, typer.Argument(metavar="ID", help="As `proposal list` shows it.")]


def given_fields(**fields: Any) -> dict[str, Any]:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}


def optional_object(text: str | None, name: str) -> dict[str, Any] | None:
    """A JSON object from the command line, or from a file as @FILE."""
    if text is None:
        return None
    try:
        source = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{name}: {error}", field=name) from None
    return parsed_object(source, name)


def parsed(text: str, name: str) -> Any:
    """JSON whose numbers keep every digit that was typed."""
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
    """The datasets of a run as they are typed: NAME, or NAME:PARTITION,PARTITION."""
    uses: list[str | dict[str, Any]] = []
    for typed in datasets:
        name, colon, partitions = typed.partition(":")
        names = partitions.split(",")
        if colon and not all(names):
            raise InvalidRequest(f"datasets: {typed!r} is not NAME:PARTITION,PARTITION", field="datasets")
        uses.append({"name": name, "partitions": names} if colon else name)
    return uses


def parse_labels(given: list[str] | None) -> dict[str, str] | None:
    """Parse labels of the form NAME=VALUE. Raises InvalidRequest."""
    labels = {}
    for label in given or ():
        name, equals, value = label.partition("=")
        if not equals:
            raise InvalidRequest(f"label: {label!r} is not NAME=VALUE", field="labels")
        labels[name] = value
    return labels or None


_STRETCH: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})(:new)?")


def parse_restarts(given: list[str] | None) -> list[Any] | None:
    """Parse restarts as they are typed: FROM-TO, FROM-TO:new, or JSON of one or of a list. Raises InvalidRequest."""
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
            raise InvalidRequest(f"restarts: {typed!r} is not FROM-TO or FROM-TO:new, nor JSON", field="restarts")
    return restarts


def written(output: Path, force: bool, write: Callable[[BinaryIO], object]) -> int:
    """Writes a file and returns its size. Raises InvalidRequest."""
    if output.exists() and not force:
        raise InvalidRequest(f"{output} is there already; --force writes over it.", field="output")
    # Under another name until it is whole: half of it must not be taken for all.
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
