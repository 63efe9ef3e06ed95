"""The command line: `privacy-ledger`. Exit status 0 is done, 2 bad usage or input, 3 cannot reach the database."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ledger import __version__
from ledger.errors import LedgerError, Misconfigured

if TYPE_CHECKING:
    from ledger.deploy import FirstKeys
    from ledger.settings import Settings

app = typer.Typer(
    name="privacy-ledger",
    help="The system of record for differential-privacy budgets.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for scripts.")]


def main() -> None:
    """The command line's entry point."""
    try:
        app()
    except Misconfigured as error:
        _fail(error, status=3)
    except LedgerError as error:
        _fail(error, status=2)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "ledger":
            raise
        print(f"{error.name} is missing: install the server with pip install 'privacy-ledger[server]'", file=sys.stderr)
        sys.exit(2)


def _fail(error: LedgerError, *, status: int) -> NoReturn:
    print(f"privacy-ledger: {error.detail}", file=sys.stderr)
    sys.exit(status)


def _settings(host: str | None = None, port: int | None = None, workers: int | None = None) -> Settings:
    """The environment's settings, with what the command line says instead."""
    from ledger.settings import load

    said = {"LEDGER_HOST": host, "LEDGER_PORT": port, "LEDGER_WORKERS": workers}
    os.environ.update({name: str(value) for name, value in said.items() if value is not None})
    return load()


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on.")] = None,
    workers: Annotated[int | None, typer.Option(help="How many server processes to run.")] = None,
) -> None:
    """Serve the ledger. With no LEDGER_DATABASE_URL: an SQLite file here, migrated, and set up if it is new."""
    import uvicorn

    from ledger import deploy

    settings = _settings(host, port, workers)
    if settings.is_sqlite:
        deploy.migrate(settings)
        if (first := deploy.initialise(settings, tenant="default")) is not None:
            _print_first_keys(first)
    else:
        deploy.demand_migrated(settings)
    uvicorn.run(
        "ledger.api.app:create_app",
        factory=True,
        host=settings.host,
        port=settings.port,
        workers=settings.workers,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=20,
    )


@app.command()
def migrate(as_json: Json = False) -> None:
    """Bring the database's schema to this version, and let the server's role in."""
    from ledger import deploy

    revision = deploy.migrate(_settings())
    print(json.dumps({"revision": revision}) if as_json else f"The schema is at {revision}.")


@app.command()
def init(
    tenant: Annotated[str, typer.Option(help="The first tenant's name.")] = "default",
    reset_admin: Annotated[
        str | None, typer.Option("--reset-admin", metavar="TENANT", help="Make a new admin key for this tenant.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make the operator's key, the first tenant and its admin key, and print them once."""
    from ledger import deploy

    settings = _settings()
    if settings.is_sqlite:
        deploy.migrate(settings)
    if reset_admin is not None:
        secret = deploy.reset_admin(settings, tenant=reset_admin)
        shown = {"tenant": reset_admin, "admin_key": secret}
        print(
            json.dumps(shown) if as_json else f"A new admin key for {reset_admin}, shown this once:\n\n    {secret}\n"
        )
        return
    first = deploy.initialise(settings, tenant=tenant)
    if first is None:
        raise LedgerError(
            "This ledger was set up before. To get back in: privacy-ledger init --reset-admin TENANT; "
            "for another tenant, the operator asks POST /v1/tenants."
        )
    if as_json:
        print(json.dumps({"operator_key": first.operator_key, "tenant": first.tenant, "admin_key": first.admin_key}))
    else:
        _print_first_keys(first)


def _print_first_keys(first: FirstKeys) -> None:
    print(
        f"""A new ledger. These keys are shown this once; keep them as you keep passwords.

    operator   {first.operator_key}
               makes tenants, and reads nothing of theirs
    admin      {first.admin_key}
               may do everything in the tenant {first.tenant!r}

    export LEDGER_KEY={first.admin_key}
""",
        flush=True,
    )


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)
