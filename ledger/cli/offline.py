"""What needs neither a server nor a database: verify."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from ledger.cli import held, show
from ledger.cli.show import console
from ledger.errors import InvalidRequest, JournalBroken
from ledger.verifier import export
from ledger.verifier import verify as verifier

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    app.command(rich_help_panel="Audit")(verify)


def verify(
    file: Annotated[Path, typer.Argument(help="An export, as `export` writes it; - for standard input.")],
    jwks: held.Jwks = None,
    receipt: held.Receipts = None,
    head: held.Heads = None,
    earlier: Annotated[
        Path | None, typer.Option("--earlier", help="An export made earlier, which this one has to begin with.")
    ] = None,
    tenant: Annotated[
        Path | None,
        typer.Option("--tenant", help="An export of the tenant's own journal: what took two people was done by two."),
    ] = None,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Be content with a journal that holds in itself, whoever made it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check an export with no database and no network.

    Exit status 1 if it does not hold, or if it is not signed by one of the keys in --jwks; with --unsigned the
    signature decides nothing.
    """
    if unsigned and jwks is not None:
        raise InvalidRequest("unsigned: give the keys, or do without; not both", field="unsigned")
    keys = None if jwks is None else held.keys_of(jwks)
    try:
        with console.progress("Checking entries", quiet=as_json) as advance:
            first, lines = _begun(_lines(file, advance))
            its_own = keys
            if keys is None and (receipt or head) and (key_set := _keys_in(first)) is not None:
                its_own = held.keys_in(key_set)
            verified = verifier.verify(
                lines,
                keys=keys,
                witnesses=held.witnesses(its_own, receipt, head),
                earlier=None if earlier is None else _lines(earlier, lambda: None),
                tenant=None if tenant is None else _lines(tenant, lambda: None),
            )
    except JournalBroken as error:
        if as_json:
            console.print_json({"holds": False, "detail": error.detail, **error.facts})
        else:
            show.evidence.broken(error, file)
        sys.exit(1)
    is_vouched = unsigned or verified.vouched.is_trusted
    if as_json:
        console.print_json(show.evidence.verified_facts(verified, is_vouched))
    elif isinstance(verified, verifier.VerifiedTenant):
        show.evidence.verified_tenant(verified, is_vouched)
    else:
        show.evidence.verified(verified, is_vouched)
    if not is_vouched:
        sys.exit(1)


def _begun(lines: Iterator[str]) -> tuple[str, Iterator[str]]:
    """The first line, and all of them."""
    first = next(lines, "")
    return first, chain([first] if first else [], lines)


def _keys_in(header: str) -> Any:
    """The keys that an export brings along; None where it has none, or no header that can be read."""
    try:
        return json.loads(header)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _lines(file: Path, advance: console.Advance) -> Iterator[str]:
    try:
        # Lines end at \n alone: str.splitlines would also cut at characters that may stand in a text.
        source = sys.stdin if str(file) == "-" else file.open(encoding="utf-8", errors="surrogateescape", newline="\n")
    except OSError as error:
        raise InvalidRequest(f"{file}: {error.strerror}", field="file") from error
    with source:
        while line := source.readline(export.LINE_LENGTH_MAX + 1):
            advance()
            yield line
