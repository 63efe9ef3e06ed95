"""What asks a server, found by LEDGER_URL and LEDGER_KEY: tenants, keys, what takes two people, datasets, runs, the
accountant, exports, reports."""

from __future__ import annotations

import typer

from ledger.cli.audit import export, report
from ledger.cli.datasets import dataset_app
from ledger.cli.people import key_app, policy_app, proposal_app, tenant_app, whoami
from ledger.cli.runs import batch, evaluate, plan, request, runs, settle, start, void


def add_to(app: typer.Typer) -> None:
    """Adds these commands to the command line."""
    for command in (request, batch, plan, start, settle, void, runs, evaluate, whoami):
        app.command(rich_help_panel="Runs")(command)
    groups = {
        "dataset": dataset_app,
        "proposal": proposal_app,
        "key": key_app,
        "policy": policy_app,
        "tenant": tenant_app,
    }
    for name, group in groups.items():
        app.add_typer(group, name=name, rich_help_panel="Stewards and admins")
    app.command(rich_help_panel="Audit")(export)
    app.command(rich_help_panel="Audit")(report)
