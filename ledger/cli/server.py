"""Commands that open the database: serve, init, migrate, check. The server's packages are imported when one runs."""

from __future__ import annotations

import logging.config
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from ledger import __version__
from ledger.addresses import is_loopback
from ledger.cli import held, secrets, show
from ledger.cli.show import console
from ledger.errors import InvalidRequest

if TYPE_CHECKING:
    from ledger.operate.deploy import FirstKeys
    from ledger.settings import Settings
    from ledger.verifier.jws import PublicKeys

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command, example in (
        (serve, "serve --port 8080"),
        (init, "init --tenant acme"),
        (migrate, "migrate"),
        (check, "check --heads-dir heads"),
        (version, "version"),
    ):
        app.command(rich_help_panel="The server and its database", epilog=f"Example: privacy-ledger {example}")(command)


def _settings(host: str | None = None, port: int | None = None, workers: int | None = None) -> Settings:
    """Return the environment's settings, overridden by the command line."""
    from ledger.settings import load

    given = {"LEDGER_HOST": host, "LEDGER_PORT": port, "LEDGER_WORKERS": workers}
    os.environ.update({name: str(value) for name, value in given.items() if value is not None})
    return load()


def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on. Default: LEDGER_HOST.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on. Default: LEDGER_PORT.")] = None,
    workers: Annotated[
        int | None, typer.Option(help="How many server processes to run. Default: LEDGER_WORKERS.")
    ] = None,
) -> None:
    """Serve the ledger. Without LEDGER_DATABASE_URL it uses an SQLite file here, which it creates and migrates."""
    import uvicorn

    from ledger import logs
    from ledger.access.oidc import Issuers
    from ledger.api.protocol import Patient
    from ledger.operate import deploy, openness
    from ledger.signer import keyfile

    secrets.keep_private()
    settings = _settings(host, port, workers)
    if settings.oidc_file is not None:
        Issuers.load(settings.oidc_file)  # fail here: a worker that cannot start would be restarted again and again
    logging.config.dictConfig(logs.configuration(settings.log_format))
    if settings.is_sqlite:
        deploy.bring_up_to_date(settings)
        _set_up(settings)
    else:
        deploy.demand_servable(settings)
    keyfile.signer_for(settings)  # fail here, as above
    openness.warn(settings)
    _show_pages(settings)
    uvicorn.run(
        "ledger.api.app:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        log_config=logs.configuration(settings.log_format),
        access_log=False,  # the application writes a line for each request, without its query
        server_header=False,
        forwarded_allow_ips=settings.trusted_proxies,
        http=Patient,
        ws="none",
        timeout_graceful_shutdown=20,
    )


def migrate(as_json: Json = False) -> None:
    """Bring the database's schema to this version, and grant the server's role its rights."""
    from ledger.operate import deploy

    secrets.keep_private()
    revision = deploy.migrate(_settings())
    if as_json:
        console.print_json({"revision": revision})
    else:
        console.plain(f"The schema is at revision {revision}.")


def init(
    tenant: Annotated[str, typer.Option(help="The name of the first tenant.")] = "default",
    reset_admin: Annotated[
        str | None, typer.Option("--reset-admin", metavar="TENANT", help="Only create a new admin key for this tenant.")
    ] = None,
    output: secrets.Output = None,
    as_json: Json = False,
) -> None:
    """Set up a new ledger: create the operator's key, the first tenant and its admin key, and show them once."""
    from ledger.operate import deploy
    from ledger.signer import keyfile

    secrets.keep_private()
    settings = _settings()
    if settings.is_sqlite:
        deploy.migrate(settings)
    keyfile.ensure(settings)
    with secrets.destination(output, as_json=as_json, name=_keys_file(settings)) as file:
        if reset_admin is not None:
            facts = {"tenant": reset_admin, "admin_key": deploy.reset_admin(settings, tenant=reset_admin)}
            what = f"A new admin key for {reset_admin}."
        else:
            first = deploy.initialise(settings, tenant=tenant)
            if first is None:
                raise InvalidRequest(
                    "This ledger is set up already. For a new admin key: privacy-ledger init --reset-admin TENANT\n"
                    "For another tenant, with the operator's key: privacy-ledger tenant create NAME"
                )
            facts = {"operator_key": first.operator_key, "tenant": first.tenant, "admin_key": first.admin_key}
            what = _FIRST_KEYS
        if file is not None:
            file.write(_variables(facts))
    if as_json:
        shown = {"tenant": facts["tenant"], "file": str(file.path)} if file is not None else facts
        console.print_json(shown)
    elif file is not None:
        file.announce(what)
    elif reset_admin is not None:
        console.plain(f"{what} It is shown only once:\n\n    {facts['admin_key']}\n")
    else:
        _print_first_keys(facts)


def _set_up(settings: Settings) -> None:
    """Set up a new ledger for `serve`. A terminal shows the keys; otherwise they go to a file, because the output of a
    service is a log."""
    from ledger.operate import deploy

    kept: list[secrets.PrivateFile] = []

    def keep(first: FirstKeys) -> None:
        if not secrets.is_printed(None, as_json=False):
            kept.append(secrets.PrivateFile.beside(_keys_file(settings)))
            kept[0].write(_variables(asdict(first)))

    first = deploy.initialise(settings, tenant="default", keep=keep)
    if kept:
        kept[0].announce(_FIRST_KEYS)
    elif first is not None:
        _print_first_keys(asdict(first), url=address(settings.host, settings.port))


def _show_pages(settings: Settings) -> None:
    """Print where the pages are: on this machine's own terminal as a link that signs in. The person who starts
    the server has its database, and so can make any key. The output of a service is a log, which gets no link."""
    from ledger.operate import deploy

    url = address(settings.host, settings.port)
    is_terminal = secrets.is_printed(None, as_json=False)
    link = None
    if is_terminal and settings.is_sqlite and is_loopback(settings.host):
        link = deploy.sign_in_link(settings)
    if link is not None:
        console.plain(
            f"Open the dashboard. This link signs in once, within 15 minutes:\n\n    {url}/ui/sign-in/once/{link}\n"
        )
    elif is_terminal:
        console.plain(f"The dashboard is at {url}/ui. Sign in with a key.\n")


_FIRST_KEYS: Final = "The first keys of a new ledger: the operator's and an admin's."


def _keys_file(settings: Settings) -> Path:
    """Return the default file for new keys: next to an SQLite database, else in the working directory."""
    database = settings.sqlite_file
    return Path("privacy-ledger-keys.env") if database is None else database.with_name(f"{database.name}-keys.env")


def _variables(facts: Mapping[str, str]) -> dict[str, str]:
    """Return new keys as environment variables. The client and the command line read LEDGER_KEY."""
    names = {"LEDGER_OPERATOR_KEY": "operator_key", "LEDGER_KEY": "admin_key"}
    return {name: facts[fact] for name, fact in names.items() if fact in facts}


def address(host: str, port: int) -> str:
    """Return the URL at which a server that listens on this host is reached from the same machine."""
    here = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (compared, not bound)
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def _indented(lines: Iterable[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


def _program() -> str:
    """Return how this program is called from another terminal in the same folder."""
    name = "privacy-ledger"
    if shutil.which(name) is not None:
        return name
    called = Path(sys.argv[0])
    return shlex.quote(str(called)) if called.name == name else f"{shlex.quote(sys.executable)} -m ledger"


def _print_first_keys(facts: Mapping[str, str], *, url: str | None = None) -> None:
    """Print new keys, and what to paste into another terminal. url: where the server is about to listen."""
    program, here = _program(), [] if url is None else [f"export LEDGER_URL={url}"]
    exports = _indented([*here, f"export LEDGER_KEY={facts['admin_key']}"])
    if url is None:
        first, commands = "Start the server", ["serve"]
    else:
        commands = ["whoami", "dataset create mnist --epsilon 3 --at-delta 1e-5 --size 60000"]
        first = "Show who you are, and register a dataset"
    typed = _indented([f"{program} {command}" for command in commands])
    console.plain(
        f"""A new ledger. These keys are shown only once. Keep them like passwords.

    operator   {facts["operator_key"]}
               creates tenants, and cannot read their data
    admin      {facts["admin_key"]}
               may do everything in the tenant {facts["tenant"]!r}

In another terminal, paste:

{exports}

{first}:

{typed}
"""
    )


def check(
    jwks: held.Jwks = None,
    receipt: held.Receipts = None,
    head: held.Heads = None,
    heads_dir: Annotated[
        Path | None, typer.Option("--heads-dir", help="The folder of published heads, as LEDGER_HEADS_DIR names it.")
    ] = None,
    recount: Annotated[
        bool, typer.Option("--recount", help="First count the days again that lists and charts are made of.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify every journal in the database, and compare it with the tables. Exit status 1 if one does not verify.

    With --receipt, --head or --heads-dir: also check that the journals contain these receipts and heads.
    """
    from ledger.operate.check import check_journals

    secrets.keep_private()
    settings = _settings()
    heads = [*(head or ()), *held.published_in(heads_dir)]
    kept = None
    if receipt or heads:
        kept = held.witnesses(_own_keys(settings) if jwks is None else held.keys_of(jwks), receipt, heads)
    results: list[dict[str, Any]] = []
    if recount:
        from ledger.operate.recount import recount as counted_again

        with console.progress("Counting days", quiet=as_json) as advance:
            for _ in counted_again(settings):
                advance()
    with console.progress("Checking journals", quiet=as_json) as advance:
        for result in check_journals(settings, kept):
            results.append(result)
            advance()
    bad = [result for result in results if result["error"] is not None]
    if as_json:
        console.print_json({"datasets": results, "holds": not bad})
    else:
        show.evidence.checked(results)
    if bad:
        sys.exit(1)


def _own_keys(settings: Settings) -> PublicKeys:
    """Return the public keys of this ledger, current and retired. Raises Misconfigured."""
    from ledger.signer.keyfile import signer_for

    return signer_for(settings).public_keys()


def version(as_json: Json = False) -> None:
    """Print the version."""
    if as_json:
        console.print_json({"version": __version__})
    else:
        console.plain(__version__)
