"""Create, rotate and show the signing key in its file. No database is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ledger.cli import secrets, show
from ledger.cli.show import console
from ledger.errors import Misconfigured

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]

signing_app = typer.Typer(no_args_is_help=True, help="The key that signs receipts. Opens no database.")


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.add_typer(signing_app, name="signing-key", rich_help_panel="The server and its database")


@signing_app.command("create", epilog="Example: privacy-ledger signing-key create")
def signing_key_create(
    output: Annotated[
        Path | None,
        typer.Option(
            help="The file to create. Default: the one in the settings. - prints the key, for a secret store."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a signing key, in the file that the settings name. An existing file is never overwritten."""
    from ledger.settings import load
    from ledger.signer import keyfile
    from ledger.verifier.jws import SigningKey

    if output is not None and str(output) == "-":
        console.plain(SigningKey.generate().pem(), end="")
        return
    file = output or keyfile.places_of(load()).file
    if file is None:
        raise Misconfigured(
            "The signing key is in LEDGER_SIGNING_KEY, so there is no file to write. Print a new key to put there:"
            " privacy-ledger signing-key create --output -"
        )
    secrets.keep_private()
    made = keyfile.create(file)
    message = f"{file}: the signing key {made.kid}. Keep it like a password, and apart from the database."
    _print({"file": str(file), "kid": made.kid}, message, as_json)


@signing_app.command("rotate", epilog="Example: privacy-ledger signing-key rotate")
def signing_key_rotate(as_json: Json = False) -> None:
    """Replace the signing key by a new one. The old key still verifies what it signed."""
    from ledger.settings import load
    from ledger.signer import keyfile

    secrets.keep_private()
    settings = load()
    old, new = keyfile.rotate(settings)
    message = (
        f"The signing key is {new.kid}. {old.kid} is retired; it still verifies what it signed.\n"
        "Restart the servers: they sign with the new key from then on. Then distribute the public keys again:"
        " privacy-ledger jwks"
    )
    _print({"kid": new.kid, "retired": old.kid}, message, as_json)


@signing_app.command("show", epilog="Example: privacy-ledger signing-key show")
def signing_key_show(as_json: Json = False) -> None:
    """Show the public keys that a server with these settings publishes. With --json: a JWK set."""
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
