"""Print keys, policies and proposals in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from ledger.cli.show import rows
from ledger.cli.show.console import BUDGET, err, new_grid, new_table, number, out

if TYPE_CHECKING:
    from ledger.service.shapes.tenants import KeyShown, Me, NewTenantShown, PolicyShown, ProposalShown, SecretShown


def keys(items: Sequence[KeyShown]) -> None:
    """Print keys, one per line."""
    projects = ["projects"] if any(item["projects"] is not None for item in items) else []
    columns = ("id", "name", "role", "datasets", *projects, "created", "last used", "until")
    cells = []
    for item in items:
        until = "revoked" if item["revoked_at"] else (item["expires_at"] or "")[:19].replace("T", " ")
        limits = [_limited(item["datasets"]), *([_limited(item["projects"])] if projects else [])]
        created = item["created_at"][:19].replace("T", " ")
        used = (item["last_used_at"] or "")[:16].replace("T", " ")
        cells.append((item["id"], item["name"], item["role"], *limits, created, used, until))
    drop = ("created", "last used", "projects", "datasets", "until")
    rows.show(rows.Rows(columns, cells, ids=("id",), texts=("name", "datasets", "projects"), drop=drop))


def _limited(names: Sequence[str] | None) -> str:
    """Return what a key is limited to."""
    return "all" if names is None else ", ".join(names)


def me(answer: Me) -> None:
    """Print who the caller is to the ledger."""
    tenant = answer.get("tenant")
    if tenant is None:
        out.print("The operator. It creates tenants and cannot read their data.")
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
    """Print what needs two people."""
    who = "a second steward within a day" if answer["second_steward"] else "one steward"
    out.print(
        "Raising a budget, a project's share or a principal's limits, adding partitions, thawing an overdrawn dataset,"
        f" voiding a started run and correcting a reported run: each needs {who}."
    )


def proposed(item: ProposalShown) -> None:
    """Print what a command only proposed, and what must happen next."""
    out.print(Text("proposed", style="bold yellow"))
    out.print(_proposal(item))
    out.print("Nothing is changed yet. A second steward must run one of these:")
    out.print(f"    privacy-ledger proposal approve {item['id']} --reason …")
    out.print(f"    privacy-ledger proposal refuse {item['id']} --reason …")


def proposal(item: ProposalShown) -> None:
    """Print a proposal and its state."""
    out.print(Text(item["state"], style="bold"))
    out.print(_proposal(item))


def _proposal(item: ProposalShown) -> Table:
    request = item["proposes"].get("request", item["proposes"])
    reason = request.get("purpose") if item["what"] == "run" else request.get("reason")
    grid = new_grid()
    grid.add_row("proposal", item["id"])
    grid.add_row("what", _change(item))
    grid.add_row("by", str(item["proposed_by"]["name"]))
    grid.add_row("purpose" if item["what"] == "run" else "reason", reason or "-")
    grid.add_row("approve by", item["approve_by"])
    who, when = _answered(item)
    if who:
        grid.add_row("answered by", f"{who}, {when}")
    if item.get("answered_reason"):
        grid.add_row("because", str(item["answered_reason"]))
    return grid


def _change(item: ProposalShown) -> str:
    """Describe a proposed change in a few words."""
    match item["what"]:
        case "budget":
            budget = item["proposes"]["budget"]
            parts = ", ".join(f"{name} {number(budget[name])}" for name in BUDGET if name in budget)
            weak = ", with weak protection accepted" if item["proposes"].get("accepts_weak_protection") else ""
            return f"set the budget of {item['dataset']} to {parts}{weak}"
        case "thaw":
            return f"thaw {item['dataset']}"
        case "partitions":
            names = item["proposes"]["names"]
            return f"add {len(names):,} partitions to {item['dataset']}: {', '.join(names[:5])}"
        case "project":
            return f"set the share of {item['proposes']['project']} in {item['dataset']}"
        case "fair-use":
            return f"set the limits of one principal on {item['dataset']}"
        case "correction" if "number" in item["proposes"]:
            does = "give back" if item["proposes"].get("lowers") else "charge more"
            kind = item["proposes"]["request"]["mechanism"]["type"]
            return f"{does}: run {item['run']} was {kind}"
        case "correction":
            steps = item["proposes"]["request"].get("steps")
            return f"correct run {item['run']} to {'all' if steps is None else format(steps, ',')} steps"
        case "run":
            cost = int(item["proposes"]["cost"]["mu_sq_pico"]) ** 0.5 / 1e6
            return f"a run on {item['dataset']} of mu {cost:.3g}"
        case _:
            return f"void run {item['run']}"


def proposals(items: Sequence[ProposalShown]) -> None:
    """Print proposals, one per line, newest first."""
    if not items:
        err.print("No proposals.")
        return
    is_answered = any(item.get("answered_by") is not None for item in items)
    cells = [
        (
            item["id"],
            item["state"],
            _change(item),
            str(item["proposed_by"]["name"]),
            item["approve_by"][:19].replace("T", " "),
            *(_answered(item) if is_answered else ()),
        )
        for item in items
    ]
    columns = ("id", "state", "what", "by", "approve by", *(("answered by", "answered") if is_answered else ()))
    drop = ("answered", "by", "answered by", "approve by")
    rows.show(rows.Rows(columns, cells, ids=("id",), texts=("what", "by", "answered by"), drop=drop))


def _answered(item: ProposalShown) -> tuple[str, str]:
    """Return who approved or refused a proposal, and when."""
    by, at = item.get("answered_by"), item.get("answered_at")
    return "" if by is None else str(by["name"]), (at or "")[:19].replace("T", " ")


def secret(made: SecretShown, *, what: str) -> None:
    """Print a new key with its secret, which is shown only once."""
    out.print(f"{what} The secret is shown only once:\n")
    out.print(f"    {made['secret']}\n")


def made_key(made: SecretShown) -> None:
    """Print what a new key is: its id, with which it is rotated and revoked, and its limits."""
    grid = new_grid()
    grid.add_row("id", made["id"])
    grid.add_row("datasets", _limited(made.get("datasets")))
    grid.add_row("projects", _limited(made.get("projects")))
    grid.add_row("until", made.get("expires_at") or "revoked")
    out.print(grid)


def made_tenant(made: NewTenantShown) -> None:
    """Print the ids of a new tenant and its key."""
    grid = new_grid()
    grid.add_row("tenant", made["tenant"]["id"])
    grid.add_row("key", made["key"]["id"])
    out.print(grid)
    out.print("Rules for tokens of an issuer name the tenant by its id.")


def signing_keys(keys: Sequence[Mapping[str, Any]]) -> None:
    """Print the signing keys, the current one first."""
    table = new_table("key", "public", "")
    for index, key in enumerate(keys):
        table.add_row(key["kid"], key["x"], "retired" if index else "signs now")
    out.print(table)
