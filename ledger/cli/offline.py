"""The command that needs no server and no database: verify."""

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
    """Add these commands to the command line."""
    app.command(rich_help_panel="Audit", epilog="Example: privacy-ledger verify mnist.jsonl --jwks jwks.json")(verify)


def verify(
    file: Annotated[Path, typer.Argument(help="An export, as `export` writes it; - for standard input.")],
    jwks: held.Jwks = None,
    receipt: held.Receipts = None,
    head: held.Heads = None,
    earlier: Annotated[
        Path | None, typer.Option("--earlier", help="An earlier export, with whose entries this one must begin.")
    ] = None,
    tenant: Annotated[
        Path | None,
        typer.Option("--tenant", help="An export of the tenant's own journal, to check approvals by two people."),
    ] = None,
    unsigned: Annotated[
        bool,
        typer.Option("--unsigned", help="Check the journal alone, without the signature: anybody may have made it."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check an export, without a database and without a network.

    Exit status 1 if it does not verify, or if no key in --jwks signed it. With --unsigned the signature is ignored.
    """
    if unsigned and jwks is not None:
        raise InvalidRequest("unsigned: --unsigned and --jwks exclude each other. Give one of them.", field="unsigned")
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
    """Return the first line, and all lines."""
    first = next(lines, "")
    return first, chain([first] if first else [], lines)


def _keys_in(header: str) -> Any:
    """Return the keys in an export's header; None if it has none or cannot be read."""
    try:
        return json.loads(header)["keys"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _lines(file: Path, advance: console.Advance) -> Iterator[str]:
    try:
        # Lines end at \n alone: str.splitlines would also split at characters that a text may contain.
        source = sys.stdin if str(file) == "-" else file.open(encoding="utf-8", errors="surrogateescape", newline="\n")
    except OSError as error:
        raise InvalidRequest(f"{file}: {error.strerror}", field="file") from error
    with source:
        while line := source.readline(export.LINE_LENGTH_MAX + 1):
            advance()
            yield line
