"""The key that the ledger signs with: made, changed and shown in its file. No database is opened for that."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ledger.cli import secrets, show
from ledger.cli.show import console
from ledger.errors import Misconfigured

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]

signing_app = typer.Typer(no_args_is_help=True, help="The key that receipts are signed with. Opens no database.")


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    app.add_typer(signing_app, name="signing-key", rich_help_panel="The server and its database")


@signing_app.command("create")
def signing_key_create(
    output: Annotated[
        Path | None,
        typer.Option(help="The file to make, where the settings say another; - prints the key, for a secret store."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a signing key, in the file that the settings name. It never goes over one that is there."""
    from ledger.settings import load
    from ledger.signer import keyfile
    from ledger.verifier.jws import SigningKey

    if output is not None and str(output) == "-":
        console.plain(SigningKey.generate().pem(), end="")
        return
    file = output or keyfile.places_of(load()).file
    if file is None:
        raise Misconfigured("The signing key is in LEDGER_SIGNING_KEY; say --output - for another to put there.")
    secrets.keep_private()
    made = keyfile.create(file)
    message = f"{file}: the signing key {made.kid}. Keep it as you keep passwords, and apart from the database."
    _print({"file": str(file), "kid": made.kid}, message, as_json)


@signing_app.command("rotate")
def signing_key_rotate(as_json: Json = False) -> None:
    """Put a new signing key in the place of the old one, which goes on to verify what it signed."""
    from ledger.settings import load
    from ledger.signer import keyfile

    secrets.keep_private()
    settings = load()
    old, new = keyfile.rotate(settings)
    message = (
        f"The signing key is {new.kid}; {old.kid} is retired, and goes on to verify what it signed.\n"
        "Servers sign with the new one from their next start on. Hand out the keys anew after that: privacy-ledger jwks"
    )
    _print({"kid": new.kid, "retired": old.kid}, message, as_json)


@signing_app.command("show")
def signing_key_show(as_json: Json = False) -> None:
    """Show the public keys, as a server with these settings publishes them. With --json it is a JWK set."""
    from ledger.settings import load
    from ledger.signer import keyfile

    jwks = keyfile.published(load())
    if as_json:
        console.print_json(jwks)
    else:
        show.people.signing_keys(jwks["keys"])


def _print(facts: dict[str, Any], message: str, as_json: bool) -> None:
    if as_json:
        console.print_json(facts)
    else:
        console.plain(message)
