"""Print datasets in a terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from ledger.cli.show import notes, rows
from ledger.cli.show.console import (
    ACCOUNTS_SHOWN_MAX,
    ADD_UP,
    BAR_WIDTH,
    BUDGET,
    bar,
    down,
    epsilons,
    err,
    new_grid,
    number,
    out,
    percent,
    remaining_text,
    up,
)

if TYPE_CHECKING:
    from ledger.service.shapes.common import AmountShown, PercentsShown
    from ledger.service.shapes.datasets import (
        BalanceAt,
        BalanceShown,
        BurndownShown,
        ChangeShown,
        DatasetShown,
        EpsilonOfBudget,
        FairUseShown,
        PartitionShown,
        ProjectOfDataset,
        ProjectShown,
        SpendingPart,
        SpendingShown,
    )
    from ledger.service.shapes.overview import OverviewShown


LEFT: Final = ("% left", "of epsilon", "mu left", "of mu")
"""The columns of what is left of a budget."""


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
        grid.add_row("ceiling", f"mu {down(item['ceiling']['mu'])}, delta {down(item['ceiling']['delta'])}")
    if item["fair_use"] is not None:
        grid.add_row("fair use", _fair_use(item["fair_use"]))
    if item["balance"] is not None:
        grid.add_row("budget", f"{_of_limit(item['epsilon'])}, mu {down(item['balance']['limit']['mu'])}")
        grid.add_row("", bar(item["balance"]))
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
    notes.warnings(item)


def balance_at(answer: BalanceAt) -> None:
    """Print a balance as it was."""
    out.print(Text.assemble((answer["dataset"], "bold"), f"  after entry {answer['seq']:,} of {answer['at'][:19]}Z"))
    balance = answer["balance"]
    if balance is None:
        out.print("It has no budget of its own.")
        return
    if answer["partition_count"] is not None:
        out.print(f"{answer['partition_count']:,} partitions, of which the fullest is shown")
    is_residual = answer.get("costing") == "residual"
    _amounts(balance, answer.get("percent"), answer["epsilon"], is_residual=is_residual)
    out.print(ADD_UP)


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


def burndown(answer: BurndownShown) -> None:
    """Print a budget over time, oldest first."""
    cells = [
        (
            point["start"],
            *(("-",) * 3 if point["percent"] is None else _parts_of(point["percent"])),
            *("-" if count is None else f"{count:,}" for count in (point["approvals"], point["refusals"])),
        )
        for point in answer["points"]
    ]
    numbers = ("% spent", "% held", "% left", "approved", "refused")
    rows.show(rows.Rows((answer["by"], *numbers), cells, right=numbers, texts=()))
    if answer["behind"]:
        out.print(f"The newest {answer['behind']:,} entries are not counted yet. Repeat this in a few minutes.")


def overview(answer: OverviewShown) -> None:
    """Print datasets, the fullest first, and what waits."""
    cells = [
        (
            item["name"],
            item["state"],
            *(("-",) * 2 if item["percent"] is None else _used_and_left(item["percent"])),
            "-" if item["lasts_until"] is None else item["lasts_until"][:10],
            *(f"{item[count]:,}" for count in ("refusals", "overdue", "proposals")),
        )
        for item in answer["items"]
    ]
    numbers = ("% used", "% left", "refused", "overdue", "proposals")
    columns = ("dataset", "state", "% used", "% left", "lasts until", "refused", "overdue", "proposals")
    rows.show(rows.Rows(columns, cells, right=numbers, texts=("dataset",), drop=("lasts until", "state")))
    waiting = [(answer["overdue"], "overdue runs"), (answer["proposals"], "proposals"), (answer["alerts"], "alerts")]
    counted = ", ".join(f"{part['count']:,}{'+' if part['has_more'] else ''} {what}" for part, what in waiting)
    out.print(f"{counted}; refusals and alerts of the last {answer['days']} days.")
    if made := [item["forecast_at"] for item in answer["items"] if item["forecast_at"] is not None]:
        out.print(f"How long budgets last was estimated since {min(made)[:16].replace('T', ' ')} UTC.")
    if answer["next"] is not None:
        out.print(f"There are more datasets: --cursor {answer['next']}")


def _parts_of(percent: PercentsShown) -> tuple[str, ...]:
    return _percent(percent["spent"]), _percent(percent["held"]), _percent_left(percent["remaining"])


def _used_and_left(percent: PercentsShown) -> tuple[str, ...]:
    spent, held = percent["spent"], percent["held"]
    used = None if spent is None or held is None else spent + held
    return _percent(used), _percent_left(percent["remaining"])


def _percent_left(share: float | None) -> str:
    return "-" if share is None else f"{math.floor(100 * share) / 100:.2f}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{math.ceil(100 * share) / 100:.2f}"


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
    """Print a balance. With residual costs what is spent is a share, whose own epsilon would be no bound: the least
    limit is shown instead."""
    is_residual = item.get("costing") == "residual"
    _amounts(balance, item.get("percent"), item["epsilon"], is_residual=is_residual, is_estimate=item["is_estimate"])
    if (least := item.get("least_limit")) is not None:
        counted = f"up to entry {least['seq']:,} of {item['seq']:,}"
        shown = epsilons(least["epsilon"], "epsilon")
        out.print(f"spent, as the least limit: {shown}, {counted}; an indication, the limit is guaranteed")
    elif is_residual and _mu_sq_pico(balance["spent"]):
        out.print("spent: its epsilon is the least limit, which is computed in the background")
    out.print(ADD_UP)


def _amounts(
    balance: BalanceShown,
    parts: PercentsShown | None,
    shown: Sequence[EpsilonOfBudget],
    *,
    is_residual: bool = False,
    is_estimate: bool = False,
) -> None:
    """Print a balance: each part in percent, as epsilon by itself, and as mu."""
    at = shown[:1]
    about = "≈ " if is_estimate else ""
    columns = ("%", *(f"{about}epsilon at {number(epsilon['delta'])}" for epsilon in at), "mu", "delta", "mu² (1e-12)")
    percents: Mapping[str, float | None] = {"limit": 100, **(parts or {})}  # type: ignore[dict-item]
    cells: list[tuple[rows.Cell, ...]] = []
    for part in ("limit", "spent", "held", "remaining"):
        amount, rounded = balance[part], down if part in ("limit", "remaining") else up
        hides = is_residual and part in ("spent", "held") and _mu_sq_pico(amount)
        shows = number if part == "limit" else rounded  # as it is shown above
        alone = ["-" if hides else _epsilon(epsilon, part, shows) for epsilon in at]
        mu = remaining_text(amount) if part == "remaining" else rounded(amount["mu"])
        part_text = percent(percents.get(part)).removesuffix(" %")
        cells.append((part, part_text, *alone, mu, rounded(amount["delta"]), f"{_mu_sq_pico(amount):,}"))
    rows.show(rows.Rows(("", *columns), cells, right=columns, drop=("mu² (1e-12)", "delta")))


def _epsilon(epsilon: EpsilonOfBudget, part: str, rounded: Callable[[float | None], str]) -> str:
    """Return the epsilon of a part of a budget; - if the server does not state it."""
    values: Mapping[str, Any] = epsilon
    return ("∞" if values[part] is None else rounded(values[part])) if part in values else "-"


def _of_limit(shown: Sequence[EpsilonOfBudget]) -> str:
    """Return the epsilon of a limit at each delta."""
    return epsilons(shown, "limit", rounded=number)


def _mu_sq_pico(amount: AmountShown) -> int:
    return int(amount["mu_sq_pico"] or 0)  # a balance always has its digits


def _parts(what: str, items: Sequence[PartitionShown | ProjectOfDataset], *, count: int | None = None) -> None:
    """Print partitions or projects, one per line, the fullest first, up to ACCOUNTS_SHOWN_MAX."""
    fullest = sorted(items, key=lambda item: _mu_sq_pico(item["balance"]["remaining"]))
    cells: list[tuple[rows.Cell, ...]] = [
        (
            item["name"],
            *_left(item),
            bar(item["balance"], width=BAR_WIDTH // 4),
        )
        for item in fullest[:ACCOUNTS_SHOWN_MAX]
    ]
    columns = (what, *LEFT, "budget")
    rows.show(rows.Rows(columns, cells, right=LEFT, texts=(what,), drop=("budget", "mu left", "of mu")))
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
            none = ("-",) * len(LEFT)
            cells.append((item["name"], item["state"], item["bound"], *none, f"that of {', '.join(item['roots'])}"))
            continue
        left = _left({**item, "balance": balance})
        cells.append((item["name"], item["state"], item["bound"], *left, bar(balance, width=BAR_WIDTH // 4)))
    columns = ("name", "state", "bound", *LEFT, "budget")
    drop = ("budget", "bound", "state", "mu left", "of mu")
    rows.show(rows.Rows(columns, cells, right=LEFT, texts=("name",), drop=drop))


def _left(item: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what is left of a budget, by LEFT: in percent, and of which epsilon and mu."""
    balance, shown = item["balance"], item["epsilon"]
    epsilon = f"{number(shown[0]['limit'])} at {number(shown[0]['delta'])}" if shown else "-"
    left = percent((item.get("percent") or {}).get("remaining")).removesuffix(" %")
    return left, epsilon, remaining_text(balance["remaining"]), down(balance["limit"]["mu"])
