"""How datasets look in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.text import Text

from ledger.cli.show.console import (
    ACCOUNTS_SHOWN_MAX,
    BAR_WIDTH,
    BUDGET,
    bar,
    err,
    new_grid,
    new_table,
    number,
    out,
    remaining_text,
)


def dataset(answer: Mapping[str, Any]) -> None:
    """A dataset with its balance."""
    out.print(Text.assemble((answer["name"], "bold"), f"  {answer['title']}"))
    grid = new_grid()
    grid.add_row("state", answer["state"])
    grid.add_row("privacy unit", f"{escape(answer['privacy_unit'])}, {answer['adjacency']}")
    grid.add_row("bound", "clt, an estimate and no guarantee" if answer["is_estimate"] else "certified")
    if answer["derived_from"]:
        grid.add_row("derived from", ", ".join(parent["name"] for parent in answer["derived_from"]))
        grid.add_row("its runs charge", ", ".join(answer["roots"]))
    if answer["ceiling"] is not None:
        grid.add_row("ceiling", f"mu {number(answer['ceiling']['mu'])}, delta {number(answer['ceiling']['delta'])}")
    if answer["fair_use"] is not None:
        grid.add_row("fair use", _fair_use(answer["fair_use"]))
    if answer["balance"] is not None:
        grid.add_row("budget", bar(answer["balance"]))
    if answer["partition_count"] is not None:
        counted = f"{answer['partition_count']:,}" + (", the fullest of which is shown" if answer["partitions"] else "")
        grid.add_row("partitions", counted)
    out.print(grid)
    if answer["balance"] is not None:
        _balance(answer, answer["balance"])
    for kind in ("partition", "project"):
        if answer[f"{kind}s"]:
            _parts(kind, answer[f"{kind}s"], count=answer["partition_count"] if kind == "partition" else None)


def _fair_use(fair_use: Mapping[str, Any]) -> str:
    limits = []
    if fair_use["held"] is not None:
        named = ", ".join(f"{name} {number(fair_use['held'][name])}" for name in BUDGET if name in fair_use["held"])
        limits.append(f"{named} held at once")
    if fair_use["runs_per_hour"] is not None:
        limits.append(f"{fair_use['runs_per_hour']:,} runs an hour")
    return f"{' and '.join(limits)}, for each principal"


def _balance(answer: Mapping[str, Any], balance: Mapping[str, Any]) -> None:
    table = new_table("", "mu", "delta", "mu² (1e-12)", right=("mu", "delta", "mu² (1e-12)"))
    for part in ("limit", "spent", "held", "remaining"):
        amount = balance[part]
        table.add_row(part, remaining_text(amount), number(amount["delta"]), f"{int(amount['mu_sq_pico']):,}")
    out.print(table)
    for epsilon in answer["epsilon"]:
        estimate = " (estimate)" if answer["is_estimate"] else ""
        spent, limit = number(epsilon["spent"]), number(epsilon["limit"])
        out.print(f"epsilon at delta {number(epsilon['delta'])}: spent {spent}, limit {limit}{estimate}")


def _parts(what: str, items: Sequence[Mapping[str, Any]], *, count: int | None = None) -> None:
    """Partitions or projects, a line each, the fullest first, as many as a person reads."""
    table = new_table(what, "mu left", "of", "budget", right=("mu left", "of"))
    fullest = sorted(items, key=lambda item: int(item["balance"]["remaining"]["mu_sq_pico"]))
    for item in fullest[:ACCOUNTS_SHOWN_MAX]:
        left, limit = (remaining_text(item["balance"]["remaining"]), number(item["balance"]["limit"]["mu"]))
        table.add_row(item["name"], left, limit, bar(item["balance"], width=BAR_WIDTH // 4))
    out.print(table)
    more = (len(items) if count is None else count) - len(fullest[:ACCOUNTS_SHOWN_MAX])
    if more > 0:
        out.print(f"and {more:,} more; --json has them")


def partitions(items: Sequence[Mapping[str, Any]]) -> None:
    """Partitions, a line each."""
    if items:
        _parts("partition", items)
    else:
        err.print("No partitions. Add some: privacy-ledger dataset add-partitions NAME PARTITION… --disjoint")


def project(answer: Mapping[str, Any]) -> None:
    """A project's share of a dataset."""
    out.print(Text.assemble((answer["name"], "bold"), f"  a project of {answer['dataset']}"))
    _parts("project", [answer])


def datasets(items: Sequence[Mapping[str, Any]]) -> None:
    """Datasets, a line each."""
    if not items:
        err.print("No datasets yet. Register one: privacy-ledger dataset create NAME --epsilon 3 --at-delta 1e-5")
    table = new_table("name", "state", "bound", "mu left", "of", "budget", right=("mu left", "of"))
    for item in items:
        balance = item["balance"]
        if balance is None:
            table.add_row(item["name"], item["state"], item["bound"], "-", "-", f"that of {', '.join(item['roots'])}")
            continue
        left, limit = remaining_text(balance["remaining"]), number(balance["limit"]["mu"])
        table.add_row(item["name"], item["state"], item["bound"], left, limit, bar(balance, width=BAR_WIDTH // 4))
    if items:
        out.print(table)
