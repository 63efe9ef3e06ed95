"""Commands about people: whoami, tenant, key, policy, proposal."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from ledger.cli import secrets, show
from ledger.cli.options import Json, KeyId, ProposalId, Reason, given_fields
from ledger.cli.server_call import first, print_answer, server
from ledger.cli.show import console
from ledger.client.dates import moment
from ledger.errors import InvalidRequest, NotFound
from ledger.suggest import listed

if TYPE_CHECKING:
    from ledger.client import Ledger

tenant_app = typer.Typer(no_args_is_help=True, help="Tenants. Needs the operator's key.")
key_app = typer.Typer(no_args_is_help=True, help="The keys of your tenant.")
policy_app = typer.Typer(no_args_is_help=True, help="Whether changes that loosen a budget need a second steward.")
proposal_app = typer.Typer(
    no_args_is_help=True, help="Changes that one steward proposed and a second steward approves or refuses."
)


_KEY_FILE: Final = Path("privacy-ledger-key.env")
"""The default file for a new key, in the working directory."""


def add_to(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(rich_help_panel="Runs", epilog="Example: privacy-ledger whoami")(whoami)
    groups = {"proposal": proposal_app, "key": key_app, "policy": policy_app, "tenant": tenant_app}
    for name, group in groups.items():
        app.add_typer(group, name=name, rich_help_panel="Stewards and admins")


def whoami(as_json: Json = False) -> None:
    """Show who you are to the ledger: tenant, role, limits, and when your key or token expires."""
    with server() as ledger:
        print_answer(ledger.me(), as_json, show.people.me)


@tenant_app.command("create", epilog="Example: privacy-ledger tenant create acme")
def tenant_create(
    name: Annotated[str, typer.Argument(help="The tenant's name.")],
    output: secrets.Output = None,
    as_json: Json = False,
) -> None:
    """Create a tenant and its first admin key."""
    with secrets.destination(output, as_json=as_json, name=_KEY_FILE) as file, server() as ledger:
        made = ledger.make_tenant(name=name)
        made = {**made, "key": _kept(made["key"], file)}
    what = f"The tenant {name} and its first admin key."

    def shown(made: Any) -> None:
        _show_secret(made["key"], file, what)
        show.people.made_tenant(made)

    print_answer(made, as_json, shown)


@key_app.command("create", epilog="Example: privacy-ledger key create sweep --role requester --dataset mnist")
def key_create(
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    role: Annotated[str, typer.Option(help="admin, steward, requester or auditor.")],
    dataset: Annotated[list[str] | None, typer.Option(help="Limit the key to this dataset. Can be repeated.")] = None,
    project: Annotated[
        list[str] | None,
        typer.Option(help="For a requester: every run must name one of these projects. Can be repeated."),
    ] = None,
    expires_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When the key expires: 2030-01-01 or a time. Default: never."),
    ] = None,
    output: secrets.Output = None,
    as_json: Json = False,
) -> None:
    """Create a key."""
    with secrets.destination(output, as_json=as_json, name=_KEY_FILE) as file, server() as ledger:
        limits = given_fields(
            datasets=dataset or None, projects=project or None, expires_at=moment(expires_at, field="expires-at")
        )
        made = _kept(ledger.make_key(name=name, role=role, **limits), file)

    def shown(made: Any) -> None:
        _show_secret(made, file, f"A key for the role {role}.")
        show.people.made_key(made)

    print_answer(made, as_json, shown)


@key_app.command("list", epilog="Example: privacy-ledger key list --unused 90d")
def key_list(
    unused: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Only valid keys that were not used since: 90d, 2026-10-01 or a time."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the keys, without their secrets."""
    before = None if unused is None else _long_ago(unused)
    with server() as ledger:
        every = ledger.keys()
        items = [key for key in every if before is None or (_is_live(key) and _last_used(key) < before)]
    print_answer(items, as_json, show.people.keys)


def _long_ago(text: str) -> datetime:
    """Return the time since which a key was not used, given as 90d, P90D, a date or a time. Raises InvalidRequest."""
    since = moment(text.strip().removeprefix("P"), field="unused")
    return datetime.fromisoformat(str(since))


def _last_used(key: Mapping[str, Any]) -> datetime:
    """Return when a key was used last, or else created."""
    return datetime.fromisoformat(key["last_used_at"] or key["created_at"])


def _is_live(key: Mapping[str, Any]) -> bool:
    ends = key["expires_at"]
    return key["revoked_at"] is None and (ends is None or datetime.fromisoformat(ends) > datetime.now(UTC))


def _id_of(ledger: Ledger, typed: str) -> str:
    """Return the id of a key that is given by its id, or by its name if that is unique among valid keys.

    Raises NotFound if no key has this name, and InvalidRequest if several have it.
    """
    with suppress(ValueError):
        return str(UUID(typed))
    every = ledger.keys()
    ids = [str(key["id"]) for key in every if key["name"] == typed and _is_live(key)]
    if not ids:
        raise NotFound(f"No valid key has the id or the name {typed!r}. List them: privacy-ledger key list", key=typed)
    if len(ids) > 1:
        raise InvalidRequest(
            f"id: {len(ids)} keys are named {typed!r}. Give the id of one of them: {listed(ids)}", field="id", ids=ids
        )
    return ids[0]


@key_app.command("rotate", epilog="Example: privacy-ledger key rotate training-ci --overlap PT1H")
def key_rotate(
    key_id: KeyId,
    overlap: Annotated[
        str | None, typer.Option(help="How long the old key still works, such as PT1H. Default: P1D, a day.")
    ] = None,
    output: secrets.Output = None,
    as_json: Json = False,
) -> None:
    """Replace a key by a new one for the same principal, role and limits. The old key expires after --overlap."""
    with secrets.destination(output, as_json=as_json, name=_KEY_FILE) as file, server() as ledger:
        made = _kept(ledger.rotate_key(_id_of(ledger, key_id), overlap=overlap), file)
    what = f"A new key for the role {made['role']}. The old one works for another {overlap or 'P1D'}."
    print_answer(made, as_json, lambda made: _show_secret(made, file, what))


def _kept(made: dict[str, Any], file: secrets.PrivateFile | None) -> dict[str, Any]:
    """Write the secret of a new key to the file, if there is one, and return the key."""
    if file is None:
        return made
    file.write({"LEDGER_KEY": made["secret"]})
    return secrets.without(made, "secret", file)


def _show_secret(made: Any, file: secrets.PrivateFile | None, what: str) -> None:
    if file is None:
        show.people.secret(made, what=what)
    else:
        file.announce(what)


@key_app.command("revoke", epilog="Example: privacy-ledger key revoke training-ci")
def key_revoke(key_id: KeyId, as_json: Json = False) -> None:
    """Revoke a key."""
    with server() as ledger:
        key_id = _id_of(ledger, key_id)
        ledger.revoke_key(key_id)
    print_answer({"id": key_id, "revoked": True}, as_json, lambda _: console.out.print(f"The key {key_id} is revoked."))


@policy_app.command("show", epilog="Example: privacy-ledger policy show")
def policy_show(as_json: Json = False) -> None:
    """Show the tenant's policy."""
    with server() as ledger:
        print_answer(ledger.policy(), as_json, show.people.policy)


@policy_app.command("set", epilog='Example: privacy-ledger policy set --second-steward --reason "audit of May"')
def policy_set(
    second_steward: Annotated[
        bool,
        typer.Option(
            "--second-steward/--no-second-steward",
            help="Whether raising a budget, thawing an overdrawn dataset and voiding a started run need two people.",
        ),
    ],
    reason: Reason,
    as_json: Json = False,
) -> None:
    """Set the tenant's policy."""
    with server() as ledger:
        print_answer(ledger.set_policy(second_steward=second_steward, reason=reason), as_json, show.people.policy)


@proposal_app.command("list", epilog="Example: privacy-ledger proposal list --state open")
def proposal_list(
    state: Annotated[str | None, typer.Option(help="Only in this state: open, approved, refused or expired.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, newest first.")] = 50,
    as_json: Json = False,
) -> None:
    """List proposals and their states."""
    with server() as ledger:
        newest = first(ledger.proposals(state=state), limit)
    print_answer(newest, as_json, show.people.proposals)


@proposal_app.command("show", epilog="Example: privacy-ledger proposal show 018f3c6e-7d2a-7c41-9b0e-2f5d8a1c4e77")
def proposal_show(proposal_id: ProposalId, as_json: Json = False) -> None:
    """Show a proposal: the change, who proposed it, and until when it can be approved."""
    with server() as ledger:
        print_answer(ledger.proposal(proposal_id), as_json, show.people.proposal)


@proposal_app.command(
    "approve",
    epilog='Example: privacy-ledger proposal approve 018f3c6e --reason "agreed in the board"',
)
def proposal_approve(proposal_id: ProposalId, reason: Reason, as_json: Json = False) -> None:
    """Approve what another person proposed, and do it. A run that waits is decided against what is left now.

    Exit status 1 if it can no longer be done, or if the run is refused.
    """
    with server() as ledger:
        done = ledger.approve(proposal_id, reason=reason)
    print_answer(done, as_json, _show_approved)
    if done.get("decision") == "refused":
        sys.exit(1)


def _show_approved(done: Any) -> None:
    if "privacy_unit" in done:
        show.datasets.dataset(done)
    elif "decision" in done:
        show.run.shown(done)
    else:
        show.runs.moved(done)


@proposal_app.command(
    "refuse",
    epilog='Example: privacy-ledger proposal refuse 018f3c6e-7d2a-7c41-9b0e-2f5d8a1c4e77 --reason "not agreed"',
)
def proposal_refuse(proposal_id: ProposalId, reason: Reason, as_json: Json = False) -> None:
    """Refuse what another steward proposed. This cannot be undone."""
    with server() as ledger:
        print_answer(ledger.refuse(proposal_id, reason=reason), as_json, show.people.proposal)
