"""Correct a run: a number that it reported or, once it is settled, the mechanism that it was declared as."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ledger.cli import show
from ledger.cli.options import Json, Models, Reason, RunId, given_fields, optional_object
from ledger.cli.server_call import print_answer, server, unless_proposed
from ledger.errors import InvalidRequest


def correct(
    run: RunId,
    reason: Reason,
    steps: Annotated[int | None, typer.Option(help="How many steps were executed. Default: all.")] = None,
    stop: Annotated[str | None, typer.Option(help="As for `settle`.")] = None,
    model: Models = None,
    mechanism: Annotated[
        str | None,
        typer.Option(help="Of a settled run: all that it really did, as a mechanism, a JSON object or @FILE."),
    ] = None,
    decided_by_output: Annotated[
        bool | None,
        typer.Option(
            "--decided-by-output/--not-decided-by-output",
            help="With --mechanism: whether an output of any run may have decided which mechanism ran.",
        ),
    ] = None,
    on_word_of: Annotated[
        str | None, typer.Option(help="With --mechanism: on whose word what was charged too much is given back.")
    ] = None,
    advisory: Annotated[str | None, typer.Option(help="With --mechanism: the advisory that this follows from.")] = None,
    evidence: Annotated[str | None, typer.Option(help="A JSON object that the journal keeps, or @FILE.")] = None,
    as_json: Json = False,
) -> None:
    """Settle a run for what it executed, instead of what it reported; or charge a settled run for what it was.

    Either may need a second steward. Giving back what a settled run was charged too much always does.
    """
    executed = given_fields(steps=steps, stop=stop, models=model or None)
    amended = given_fields(on_word_of=on_word_of, advisory=advisory)
    stated = given_fields(evidence=optional_object(evidence, "evidence"))
    if mechanism is None:
        if amended or decided_by_output is not None:
            name = next(iter(amended), "decided_by_output")
            raise InvalidRequest(f"{name}: is of a settled run. State what it really was: --mechanism", field=name)
        with server() as ledger:
            answer = ledger.correct(run, reason=reason, **executed, **stated)
        print_answer(answer, as_json, unless_proposed(show.runs.moved))
        return
    if executed:
        name = next(iter(executed))
        raise InvalidRequest(f"{name}: is of a reported number. With --mechanism, state it there", field=name)
    if decided_by_output is None:
        raise InvalidRequest(
            "decided_by_output: is missing. State --not-decided-by-output if neither an output of this run nor of"
            " another one decided which mechanism ran; otherwise --decided-by-output",
            field="decided_by_output",
        )
    about: dict[str, Any] = {"mechanism": optional_object(mechanism, "mechanism"), **amended, **stated}
    with server() as ledger:
        answer = ledger.correction(run, reason=reason, decided_by_output=decided_by_output, **about)
    print_answer(answer, as_json, unless_proposed(show.runs.corrected))
