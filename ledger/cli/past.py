"""Enter what was spent before there was a ledger."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from ledger.cli import held, show
from ledger.cli.options import DatasetName, Json, Reason, given_fields, number_option, parsed
from ledger.cli.server_call import print_answer, server
from ledger.client import past
from ledger.errors import InvalidMechanism, InvalidRequest

_FIELD = re.compile(r"runs\.([0-9]+)(?:\.(?:mechanism\.)?([a-z_0-9.]+))?")


def add_to(dataset_app: typer.Typer) -> None:
    """Add the command to those of datasets."""
    example = 'privacy-ledger dataset past-runs mnist --csv runs.csv --reason "our notes"'
    dataset_app.command("past-runs", epilog=f"Example: {example}")(past_runs)


def past_runs(
    name: DatasetName,
    reason: Reason,
    csv: Annotated[Path | None, typer.Option(help="A CSV file, with a line for each run.")] = None,
    opacus: Annotated[
        list[Path] | None, typer.Option(help="A checkpoint of Opacus, or its accountant's state as JSON. Repeatable.")
    ] = None,
    opacus_version: Annotated[str | None, typer.Option(help="The oldest Opacus that trained any part of it.")] = None,
    sampling: Annotated[
        str | None, typer.Option(help="With --opacus: how batches were drawn: poisson, shuffle or fixed_size.")
    ] = None,
    adaptive_clipping: Annotated[
        bool | None,
        typer.Option("--adaptive-clipping/--no-adaptive-clipping", help="With --opacus before 1.6: whether it was."),
    ] = None,
    unclipped_num_std: Annotated[
        Decimal | None, number_option("With --adaptive-clipping: the noise of the optimizer's count.")
    ] = None,
    dp_event: Annotated[Path | None, typer.Option(help="A DpEvent of dp-accounting, as JSON.")] = None,
    epsilon: Annotated[Decimal | None, number_option("A run of which only epsilon, and --delta, is known.")] = None,
    delta: Annotated[Decimal | None, number_option("With --epsilon. Default: 0.")] = None,
    purpose: Annotated[str | None, typer.Option(help="What it was for. A CSV file has its own column.")] = None,
    ran_at: Annotated[str | None, typer.Option(help="When it ran. A CSV file has its own column.")] = None,
    enter: Annotated[bool, typer.Option("--enter", help="Enter them. Without it they are only previewed.")] = False,
    as_json: Json = False,
) -> None:
    """Preview what was spent before there was a ledger, and with --enter charge it. All runs are entered, or none.

    They are declared, not observed. What does not fit is charged all the same, and freezes the dataset.
    """
    sources = given_fields(csv=csv, opacus=opacus or None, dp_event=dp_event, epsilon=epsilon)
    if len(sources) != 1:
        raise InvalidRequest("source: give one of --csv, --opacus, --dp-event and --epsilon", field="source")
    about = given_fields(purpose=purpose, ran_at=ran_at)
    lines: list[int] = []
    with server() as ledger:
        if csv is not None:
            rows = past.from_csv(held.text_of(csv, "csv", length_max=past.BYTES_MAX))
            lines, runs = [line for line, _ in rows], [run for _, run in rows]
        elif opacus:
            options = given_fields(adaptive_clipping=adaptive_clipping, unclipped_num_std=unclipped_num_std)
            runs = [_checkpoint(file, opacus_version, sampling, options) for file in opacus]
        elif dp_event is not None:
            event = parsed(held.text_of(dp_event, "event", length_max=past.BYTES_MAX), "event")
            runs = [past.from_event(event, adjacency=ledger.dataset(name)["adjacency"])]
        else:
            runs = [past.from_statement(epsilon=epsilon or Decimal(0), delta=delta)]
        runs = [{**run, **about} for run in runs]
        answer = _in_lines(lines, lambda: ledger.past_runs(name, runs, reason=reason, preview=not enter))
    print_answer(answer, as_json, show.past.runs)


def _checkpoint(file: Path, version: str | None, sampling: str | None, options: dict[str, Any]) -> dict[str, Any]:
    if version is None or sampling is None:
        name = "opacus_version" if version is None else "sampling"
        option = name.replace("_", "-")
        raise InvalidRequest(f"{name}: is missing, and no checkpoint has it. State it with --{option}", field=name)
    return past.from_opacus(past.history_in(file), version=version, sampling=sampling, **options)


def _in_lines(lines: Sequence[int], send: Callable[[], Any]) -> Any:
    """Return an answer. A mistake in a run is named by the line and the column of the file that it came from."""
    try:
        return send()
    except (InvalidRequest, InvalidMechanism) as error:
        if not lines:
            raise
        detail = _FIELD.sub(lambda match: _place(lines, match), error.detail)
        raise type(error)(f"{detail}. Nothing was entered", **error.facts) from None


def _place(lines: Sequence[int], match: re.Match[str]) -> str:
    line = lines[int(match[1])] if int(match[1]) < len(lines) else "?"
    return f"line {line}" if match[2] is None else f"line {line}, column {match[2]}"
