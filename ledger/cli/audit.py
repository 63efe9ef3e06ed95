"""Commands for auditors: export, report."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, get_args

import typer

from ledger.cli.options import Json, written
from ledger.cli.server_call import print_answer, server
from ledger.cli.show import console
from ledger.errors import InvalidRequest


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command, example in (
        (export, "export mnist --output mnist.jsonl"),
        (report, "report mnist --output mnist.pdf"),
    ):
        app.command(rich_help_panel="Audit", epilog=f"Example: privacy-ledger {example}")(command)


def export(
    output: Annotated[Path, typer.Option(help="The file to write; - for standard output.")],
    dataset: Annotated[str | None, typer.Argument(help="The dataset's name.")] = None,
    tenant: Annotated[
        bool, typer.Option("--tenant", help="Export the tenant's own journal: keys, roles and the policy.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write the whole journal of a dataset, or the tenant's own, to a file that `verify` checks."""
    if tenant == (dataset is not None):
        raise InvalidRequest("Name one dataset, or give --tenant for the tenant's own journal.", field="dataset")
    if str(output) == "-":
        _export(dataset, _is_shown(as_json), sys.stdout.buffer)
        return
    size = written(output, force, functools.partial(_export, dataset, as_json))
    message = f"{output}: {size:,} bytes. Check it: privacy-ledger verify {shlex.quote(str(output))} --jwks jwks.json"
    facts = {"dataset": dataset, "file": str(output), "bytes": size}
    print_answer(facts, as_json, lambda _: console.err.print(message))


def _is_shown(as_json: bool) -> bool:
    """Return whether progress would be printed into an answer on standard output, or a script reads it."""
    return as_json or sys.stdout.isatty()


def _export(dataset: str | None, quiet: bool, file: BinaryIO) -> None:
    with server() as ledger, console.receiving("Exporting", file, quiet=quiet) as received:
        if dataset is None:
            ledger.export_tenant(received)
        else:
            ledger.export(dataset, received)


ReportFormat = Literal["json", "html", "pdf", "csv"]


def report(
    dataset: Annotated[str | None, typer.Argument(help="The dataset's name.")] = None,
    project: Annotated[str | None, typer.Option(help="Report a project, over all datasets that it uses.")] = None,
    tenant: Annotated[bool, typer.Option("--tenant", help="Report all datasets and the tenant's own journal.")] = False,
    output: Annotated[Path, typer.Option(help="The file to write; - for standard output.")] = Path("-"),
    form: Annotated[
        ReportFormat | None, typer.Option("--format", help="Default: the ending of the file's name, else json.")
    ] = None,
    since: Annotated[str | None, typer.Option("--from", metavar="TIME", help="The beginning of the period.")] = None,
    until: Annotated[
        str | None, typer.Option("--to", metavar="TIME", help="The end of the period; that moment is no longer in it.")
    ] = None,
    made_on: Annotated[
        str | None, typer.Option(metavar="DATE", help="The date that the report states as the day it was made on.")
    ] = None,
    contact: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Whom to ask about the report, as the report states it.")
    ] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of a report, without a server.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write the audit report of a dataset, a project or the tenant, as JSON, HTML or PDF."""
    if schema:
        console.plain(resources.files("ledger").joinpath("report/schema.json").read_text(encoding="utf-8"), end="")
        return
    if [dataset is not None, project is not None, tenant].count(True) != 1:
        raise InvalidRequest("Name what to report: a dataset, --project NAME or --tenant.", field="dataset")
    chosen = form or _format_of(output)
    quiet = _is_shown(as_json) if str(output) == "-" else as_json
    asked = {"dataset": dataset, "project": project, "since": since, "until": until}
    write = functools.partial(_report, {**asked, "made_on": made_on, "contact": contact}, chosen, quiet)
    if str(output) == "-":
        if chosen == "pdf" and sys.stdout.isatty():
            raise InvalidRequest("A terminal cannot show a PDF. Write it to a file: --output FILE", field="output")
        write(sys.stdout.buffer)
        return
    size = written(output, force, write)
    facts = {"dataset": dataset, "project": project, "format": chosen, "file": str(output), "bytes": size}
    print_answer(facts, as_json, lambda _: console.err.print(f"{output}: {size:,} bytes."))


def _format_of(output: Path) -> ReportFormat:
    named = output.suffix.lower().removeprefix(".")
    formats: tuple[ReportFormat, ...] = get_args(ReportFormat)
    return next((form for form in formats if form == named), "json")


def _report(asked: Mapping[str, str | None], form: str, quiet: bool, file: BinaryIO) -> None:
    with server() as ledger, console.receiving("Making the report", file, quiet=quiet) as received:
        ledger.report(received, format=form, **asked)
