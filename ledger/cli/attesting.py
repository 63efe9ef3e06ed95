"""Attest which files a settled run produced: a signed statement, and a model card."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from ledger.cli import show
from ledger.cli.options import Json, RunId, written
from ledger.cli.server_call import server
from ledger.cli.show import console


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    example = "attest 018f3c6e-7d2a-7c41-9b0e-2f5d8a1c4e77 --output attestation.json --card README.md"
    app.command(rich_help_panel="Audit", epilog=f"Example: privacy-ledger {example}")(attest)


def attest(
    run: RunId,
    output: Annotated[
        Path | None, typer.Option(help="Write the signed statement to this file. - for standard output.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="Write a model card to this file, such as README.md, for the Hugging Face Hub.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")] = False,
    as_json: Json = False,
) -> None:
    """Get a signed statement about the files that a settled run produced, with its cost and its guarantee.

    It is an in-toto statement in a DSSE envelope. State the files when you settle the run: settle RUN --model FILE.
    """
    from ledger.client import model_card, verify_attestation

    with server() as ledger:
        envelope = ledger.attestation(run)
        verified = verify_attestation(envelope, jwks=ledger.jwks())
    text = json.dumps(envelope, indent=2) + "\n"
    is_printed = str(output) == "-"
    files = [] if output is None or is_printed else [(output, text)]
    files += [] if card is None else [(card, model_card(verified))]
    for path, content in files:
        written(path, force, partial(_write, content))
    if is_printed:
        console.plain(text.rstrip())
    elif as_json:
        console.print_json({"files": [str(path) for path, _ in files]} if files else envelope)
    else:
        show.evidence.attestation(verified)
        for path, _ in files:
            console.err.print(f"{path} is written.")
        if output is not None:
            console.err.print(f"Check it: privacy-ledger receipt verify {output} --jwks FILE --model FILE")


def _write(content: str, file: BinaryIO) -> None:
    file.write(content.encode())
