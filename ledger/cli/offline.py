"""What needs neither a server nor a database: verify."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ledger import verify as verifier
from ledger.cli import show
from ledger.errors import InvalidRequest, JournalBroken

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    app.command(rich_help_panel="Audit")(verify)


def verify(
    file: Annotated[Path, typer.Argument(help="An export, as `export` writes it; - for standard input.")],
    as_json: Json = False,
) -> None:
    """Check an export with no database and no network. Exit status 1 where it does not hold."""
    try:
        with show.progress("Checking entries", quiet=as_json) as advance:
            found = verifier.verify(_lines(file, advance))
    except JournalBroken as error:
        if as_json:
            print(json.dumps({"holds": False, "seq": error.seq, "detail": error.detail}))
        else:
            show.broken(error, file)
        sys.exit(1)
    if as_json:
        print(json.dumps(show.verified_facts(found), ensure_ascii=False))
    elif isinstance(found, verifier.VerifiedTenant):
        show.verified_tenant(found)
    else:
        show.verified(found)


def _lines(file: Path, advance: show.Advance) -> Iterator[str]:
    try:
        # Lines end at \n alone: str.splitlines would also cut at characters that may stand in a text.
        source = sys.stdin if str(file) == "-" else file.open(encoding="utf-8", errors="surrogateescape", newline="\n")
    except OSError as error:
        raise InvalidRequest(f"{file}: {error.strerror}", field="file") from error
    with source:
        while line := source.readline(verifier.LINE_LENGTH_MAX + 1):
            advance()
            yield line
