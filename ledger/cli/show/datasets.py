"""Print datasets in a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from ledger.cli.show import rows
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

if TYPE_CHECKING:
    from ledger.service.shapes.common import AmountShown
    from ledger.service.shapes.datasets import (
        BalanceAt,
        BalanceShown,
        ChangeShown,
        DatasetShown,
        FairUseShown,
        PartitionShown,
        ProjectOfDataset,
        ProjectShown,
        SpendingPart,
        SpendingShown,
    )


def dataset(item: DatasetShown) -> None:
    """Print a dataset with its balance."""
    out.print(Text.assemble((item["name"], "bold"), f"  {item['title']}"))
    grid = new_grid()
    grid.add_row("state", item["state"])
    grid.add_row("privacy unit", f"{item['privacy_unit']}, {item['adjacency']}")
    grid.add_row("bound", "clt: an estimate, not a guarantee" if item["is_estimate"] else "certified")
    if item.get("costing") == "residual":
        grid.add_row("costing", "residual: certified runs are costed beside what is left")
    if item["derived_from"]:
        grid.add_row("derived from", ", ".join(parent["name"] for parent in item["derived_from"]))
        grid.add_row("its runs charge", ", ".join(item["roots"]))
    if item["ceiling"] is not None:
        grid.add_row("ceiling", f"mu {number(item['ceiling']['mu'])}, delta {number(item['ceiling']['delta'])}")
    if item["fair_use"] is not None:
        grid.add_row("fair use", _fair_use(item["fair_use"]))
    if item["balance"] is not None:
        grid.add_row("budget", bar(item["balance"]))
    if item["partition_count"] is not None:
        counted = f"{item['partition_count']:,}" + (", of which the fullest is shown" if item["partitions"] else "")
        grid.add_row("partitions", counted)
    out.print(grid)
    if item["balance"] is not None:
        _balance(item, item["balance"])
    if item["partitions"]:
        _parts("partition", item["partitions"], count=item["partition_count"])
    if item["projects"]:
        _parts("project", item["projects"])


def balance_at(answer: BalanceAt) -> None:
    """Print a balance as it was."""
    out.print(Text.assemble((answer["dataset"], "bold"), f"  after entry {answer['seq']:,} of {answer['at'][:19]}Z"))
    balance = answer["balance"]
    if balance is None:
        out.print("It has no budget of its own.")
        return
    if answer["partition_count"] is not None:
        out.print(f"{answer['partition_count']:,} partitions, of which the fullest is shown")
    _amounts(balance)
    for epsilon in answer["epsilon"]:
        spent, limit = number(epsilon["spent"]), number(epsilon["limit"])
        out.print(f"epsilon at delta {number(epsilon['delta'])}: spent {spent}, limit {limit}")


def spending(answer: SpendingShown) -> None:
    """Print what each group took of a budget, the largest first; the rows add up to the last."""
    what = answer["label"] or answer["by"]
    without = f"(no {what})"
    listed: list[tuple[str, SpendingPart]] = [(group["name"] or without, group) for group in answer["groups"]]
    if answer["rest"] is not None:
        listed.append((f"{answer['rest_count']:,} others", answer["rest"]))
    if answer["earlier"] is not None:
        listed.append(("before", answer["earlier"]))
    listed.append(("together", answer["total"]))
    is_delta = any(part["percent_of_delta"] for _, part in listed)
    cells = [
        (
            name,
            f"{part['runs']:,}",
            _percent(part["percent"]),
            *((_percent(part["percent_of_delta"]),) if is_delta else ()),
        )
        for name, part in listed
    ]
    numbers = ("runs", "% of budget", *(("% of delta",) if is_delta else ()))
    rows.show(rows.Rows((what, *numbers), cells, right=numbers, texts=(what,)))


def _percent(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.2f}"


def history(items: Sequence[ChangeShown]) -> None:
    """Print what changed a dataset, newest first."""
    cells = [
        (
            f"{item['seq']:,}",
            item["at"][:19].replace("T", " "),
            item["what"],
            _by(item),
            item["reason"] or "",
        )
        for item in items
    ]
    columns = ("entry", "when (UTC)", "what", "by", "reason")
    rows.show(rows.Rows(columns, cells, right=("entry",), texts=("what", "reason", "by"), drop=("reason", "by")))


def _by(item: ChangeShown) -> str:
    """Return who changed it, and who proposed that."""
    by, proposed_by = item["by"], item["proposed_by"]
    who = "another's run" if by is None else f"{by['name']} ({by['role']})"
    return who if proposed_by is None else f"{who}, proposed by {proposed_by['name']}"


def _fair_use(fair_use: FairUseShown) -> str:
    limits = []
    if fair_use["held"] is not None:
        named = ", ".join(f"{name} {number(fair_use['held'][name])}" for name in BUDGET if name in fair_use["held"])
        limits.append(f"{named} held at once")
    if fair_use["runs_per_hour"] is not None:
        limits.append(f"{fair_use['runs_per_hour']:,} runs an hour")
    if fair_use["waits_above_percent"] is not None:
        limits.append(f"a steward for runs above {fair_use['waits_above_percent']} % of a limit")
    return f"{' and '.join(limits)}, for each principal"


def _balance(item: DatasetShown, balance: BalanceShown) -> None:
    _amounts(balance)
    _epsilons(item)


def _amounts(balance: BalanceShown) -> None:
    table = new_table("", "mu", "delta", "mu² (1e-12)", right=("mu", "delta", "mu² (1e-12)"))
    for part in ("limit", "spent", "held", "remaining"):
        amount = balance[part]
        table.add_row(part, remaining_text(amount), number(amount["delta"]), f"{_mu_sq_pico(amount):,}")
    out.print(table)


def _epsilons(item: DatasetShown) -> None:
    for epsilon in item["epsilon"]:
        estimate = " (estimate)" if item["is_estimate"] else ""
        spent, limit = number(epsilon["spent"]), number(epsilon["limit"])
        out.print(f"epsilon at delta {number(epsilon['delta'])}: spent {spent}, limit {limit}{estimate}")
    if (least := item.get("least_limit")) is not None:
        shown = ", ".join(f"{number(at['epsilon'])} at delta {number(at['delta'])}" for at in least["epsilon"])
        counted = f"up to entry {least['seq']:,} of {item['seq']:,}"
        out.print(f"least limit: epsilon {shown}, {counted}; an indication, the limit is guaranteed")


def _mu_sq_pico(amount: AmountShown) -> int:
    return int(amount["mu_sq_pico"] or 0)  # a balance always has its digits


def _parts(what: str, items: Sequence[PartitionShown | ProjectOfDataset], *, count: int | None = None) -> None:
    """Print partitions or projects, one per line, the fullest first, up to ACCOUNTS_SHOWN_MAX."""
    fullest = sorted(items, key=lambda item: _mu_sq_pico(item["balance"]["remaining"]))
    cells = [
        (
            item["name"],
            remaining_text(item["balance"]["remaining"]),
            number(item["balance"]["limit"]["mu"]),
            bar(item["balance"], width=BAR_WIDTH // 4),
        )
        for item in fullest[:ACCOUNTS_SHOWN_MAX]
    ]
    columns = (what, "mu left", "of", "budget")
    rows.show(rows.Rows(columns, cells, right=("mu left", "of"), texts=(what,), drop=("budget",)))
    more = (len(items) if count is None else count) - len(fullest[:ACCOUNTS_SHOWN_MAX])
    if more > 0:
        out.print(f"and {more:,} more; --json has them")


def partitions(items: Sequence[PartitionShown]) -> None:
    """Print partitions, one per line."""
    if items:
        _parts("partition", items)
    else:
        err.print(
            "No partitions. Add some: privacy-ledger dataset add-partitions NAME PARTITION… --disjoint --reason …"
        )


def project(item: ProjectShown) -> None:
    """Print a project's share of a dataset."""
    out.print(Text.assemble((item["name"], "bold"), f"  a project of {item['dataset']}"))
    _parts("project", [item])


def datasets(items: Sequence[DatasetShown]) -> None:
    """Print datasets, one per line."""
    if not items:
        err.print("No datasets yet. Register one: privacy-ledger dataset create NAME --epsilon 3 --at-delta 1e-5")
        return
    cells: list[tuple[rows.Cell, ...]] = []
    for item in items:
        balance = item["balance"]
        if balance is None:
            cells.append((item["name"], item["state"], item["bound"], "-", "-", f"that of {', '.join(item['roots'])}"))
            continue
        left, limit = remaining_text(balance["remaining"]), number(balance["limit"]["mu"])
        cells.append((item["name"], item["state"], item["bound"], left, limit, bar(balance, width=BAR_WIDTH // 4)))
    columns = ("name", "state", "bound", "mu left", "of", "budget")
    drop = ("budget", "bound", "state")
    rows.show(rows.Rows(columns, cells, right=("mu left", "of"), texts=("name",), drop=drop))
