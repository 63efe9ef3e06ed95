"""How keys, policies and proposals look in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ledger.cli.show.console import BUDGET, err, new_grid, new_table, number, out

if TYPE_CHECKING:
    from ledger.service.shapes.tenants import KeyShown, Me, PolicyShown, ProposalShown, SecretShown


def keys(items: Sequence[KeyShown]) -> None:
    """Keys, a line each."""
    projects = ["projects"] if any(item["projects"] is not None for item in items) else []
    table = new_table("id", "name", "role", "datasets", *projects, "created", "last used", "until")
    for item in items:
        until = "revoked" if item["revoked_at"] else (item["expires_at"] or "")[:19].replace("T", " ")
        limits = [_limited(item["datasets"]), *([_limited(item["projects"])] if projects else [])]
        created = item["created_at"][:19].replace("T", " ")
        used = (item["last_used_at"] or "")[:16].replace("T", " ")
        table.add_row(item["id"], item["name"], item["role"], *limits, created, used, until)
    out.print(table)


def _limited(names: Sequence[str] | None) -> str:
    """What a key is limited to."""
    return "all" if names is None else ", ".join(names)


def me(answer: Me) -> None:
    """Whom the ledger takes the caller for."""
    tenant = answer.get("tenant")
    if tenant is None:
        out.print("The operator, who makes tenants and reads nothing of theirs.")
        return
    out.print(Text.assemble((answer["name"] or "", "bold"), f"  {answer['role']} of {tenant['name']}"))
    grid = new_grid()
    grid.add_row("tenant", tenant["id"])
    grid.add_row("principal", answer["principal"])
    for name in ("datasets", "projects"):
        grid.add_row(name, _limited(answer[name]))
    grid.add_row("until", answer["expires_at"] or "revoked")
    out.print(grid)


def policy(answer: PolicyShown) -> None:
    """What takes two people."""
    who = "a second steward within a day" if answer["second_steward"] else "one steward"
    out.print(
        "Raising a budget, a project's share or what one may have, adding partitions, thawing an overdrawn dataset,"
        f" voiding a started run and correcting what one reported: each takes {who}."
    )


def proposed(item: ProposalShown) -> None:
    """What a command only proposed, and who has to do what now."""
    out.print(Text("proposed", style="bold yellow"))
    out.print(_proposal(item))
    out.print("Nothing is changed yet. A second steward has to say one of these:")
    out.print(f"    privacy-ledger proposal approve {item['id']}")
    out.print(f"    privacy-ledger proposal refuse {item['id']} --reason …")


def proposal(item: ProposalShown) -> None:
    """A proposal, and what became of it."""
    out.print(Text(item["state"], style="bold"))
    out.print(_proposal(item))


def _proposal(item: ProposalShown) -> Table:
    request = item["proposes"].get("request", item["proposes"])
    grid = new_grid()
    grid.add_row("proposal", item["id"])
    grid.add_row("what", _change(item))
    grid.add_row("by", str(item["proposed_by"]["name"]))
    grid.add_row("reason", str(request.get("reason")))
    grid.add_row("approve by", item["approve_by"])
    return grid


def _change(item: ProposalShown) -> str:
    """What is proposed, in a few words."""
    match item["what"]:
        case "budget":
            budget = item["proposes"]["budget"]
            parts = ", ".join(f"{name} {number(budget[name])}" for name in BUDGET if name in budget)
            return f"set the budget of {item['dataset']} to {parts}"
        case "thaw":
            return f"thaw {item['dataset']}"
        case "partitions":
            names = item["proposes"]["names"]
            return f"add {len(names):,} partitions to {item['dataset']}: {', '.join(names[:5])}"
        case "project":
            return f"set the share of {item['proposes']['project']} in {item['dataset']}"
        case "fair-use":
            return f"set what one principal may have of {item['dataset']}"
        case "correction":
            steps = item["proposes"]["request"].get("steps")
            return f"correct what run {item['run']} reported to {'all' if steps is None else format(steps, ',')} steps"
        case _:
            return f"void run {item['run']}"


def proposals(items: Sequence[ProposalShown]) -> None:
    """Proposals, a line each, newest first."""
    if not items:
        err.print("No proposals.")
        return
    table = new_table("id", "state", "what", "by", "approve by")
    for item in items:
        by, until = str(item["proposed_by"]["name"]), item["approve_by"][:19].replace("T", " ")
        table.add_row(item["id"], item["state"], _change(item), by, until)
    out.print(table)


def secret(made: SecretShown, *, what: str) -> None:
    """A new key, whose secret is shown this once."""
    out.print(f"{what} The secret is shown this once:\n")
    out.print(f"    {made['secret']}\n")


def signing_keys(keys: Sequence[Mapping[str, Any]]) -> None:
    """The keys that are or were signed with, the current one first."""
    table = new_table("key", "public", "")
    for index, key in enumerate(keys):
        table.add_row(key["kid"], key["x"], "retired" if index else "signs now")
    out.print(table)
