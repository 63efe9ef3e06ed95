"""Commands that store a server and its key for later commands: login, logout."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from ledger import profiles
from ledger.cli.options import Json
from ledger.cli.server_call import print_answer
from ledger.cli.show import console
from ledger.errors import InvalidRequest
from ledger.profiles import DEFAULT, KEY_FILE_BYTES_MAX, TYPED, Profile, normal

Name = Annotated[
    str | None, typer.Option("--profile", help="The profile's name. Default: LEDGER_PROFILE, else `default`.")
]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command, example in ((login, "login --url https://ledger.example --profile work"), (logout, "logout")):
        app.command(rich_help_panel="Getting in", epilog=f"Example: privacy-ledger {example}")(command)


def login(
    url: Annotated[
        str | None, typer.Option(help="The server. Default: LEDGER_URL, else http://127.0.0.1:8000.")
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(help="The file with the key: alone, or as LEDGER_KEY=… Default: ask for it, or read a line."),
    ] = None,
    profile: Name = None,
    no_keyring: Annotated[
        bool, typer.Option("--no-keyring", help="Store the key in the file, even if a keyring is installed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check a key with its server, and store both for later commands, in a file that only you can read; the key in your
    system's keyring if the package keyring is installed.

    The environment variables LEDGER_URL and LEDGER_KEY win over a stored profile. The key is never printed.
    """
    from ledger.client import Ledger

    name, typed = _name(profile), TYPED.get()
    server = normal(url or typed.url or os.environ.get("LEDGER_URL", "") or profiles.URL)
    file = key_file or typed.key_file
    key = _asked_for() if file is None else profiles.key_in(file)
    with Ledger(server, key, retries=2) as ledger:
        who = ledger.me()
    kept, in_keyring = profiles.keep(name, Profile(server, key), in_keyring=not no_keyring)
    answer = {"profile": name, "url": server, "file": str(kept), "in_keyring": in_keyring, "me": who}
    where = f"{kept}, its key in the keyring" if in_keyring else str(kept)
    print_answer(answer, as_json, lambda _: _show(name, server, who, where))


def logout(profile: Name = None, as_json: Json = False) -> None:
    """Remove a stored profile with its key. The key stays valid: `key revoke` ends it."""
    name = _name(profile)
    profiles.remove(name)
    print_answer(
        {"profile": name, "removed": True}, as_json, lambda _: console.out.print(f"The profile {name} is removed.")
    )


def _name(typed: str | None) -> str:
    return typed or TYPED.get().profile or os.environ.get("LEDGER_PROFILE", "").strip() or DEFAULT


def _asked_for() -> str:
    """Return the key from a prompt that shows nothing, or the first line of standard input. Raises InvalidRequest."""
    if sys.stdin.isatty():
        text: str = typer.prompt("Key", hide_input=True, err=True)
    else:
        text = sys.stdin.readline(KEY_FILE_BYTES_MAX)
    if not text.strip():
        raise InvalidRequest(
            "key: is missing. Type it at the prompt, write it to standard input, or name its file: --key-file FILE",
            field="key",
        )
    return text.strip()


def _show(name: str, url: str, who: dict[str, object], where: str) -> None:
    tenant = who.get("tenant")
    of = f" of {tenant['name']}" if isinstance(tenant, dict) else ""
    console.out.print(console.in_one_line(f"Logged in to {url}: {who['role']}{of}. Profile {name}, in {where}"))
    if os.environ.get("LEDGER_KEY", "").strip():
        console.err.print("LEDGER_KEY is set and wins over this profile. To use the profile: unset LEDGER_KEY")
