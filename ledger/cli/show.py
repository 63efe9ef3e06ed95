"""How things look to a person: tables, units, a bar of the budget. Scripts say --json and never see any of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ledger.errors import BudgetExceeded, JournalBroken, LedgerError
from ledger.verify import Verified

BAR_WIDTH: Final = 40
Advance = Callable[[], None]

WIDE: Final = 160
"""How wide a table may be where there is no terminal whose width counts."""

out: Final = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDE)
err: Final = Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else WIDE)


def number(value: float | None) -> str:
    """Four digits after the first, as a person reads them; infinity where there is no number."""
    if value is None:
        return "∞"
    if value == 0:
        return "0"
    return f"{value:.5g}"


def bar(balance: Mapping[str, Any], *, width: int = BAR_WIDTH) -> Text:
    """The budget as a bar. What adds up is mu², so the bar is divided by mu²."""
    limit, spent, held = balance["limit"], balance["spent"], balance["held"]
    whole = int(limit["mu_sq_pico"]) or 1
    filled = round(width * int(spent["mu_sq_pico"]) / whole)
    taken = round(width * (int(spent["mu_sq_pico"]) + int(held["mu_sq_pico"])) / whole)
    text = Text("█" * filled, style="red")
    text.append("▒" * (taken - filled), style="yellow")
    text.append("░" * (width - taken), style="green")
    text.append(f" {100 * int(spent['mu_sq_pico']) / whole:.1f} % spent")
    if int(held["mu_sq_pico"]):
        text.append(f", {100 * int(held['mu_sq_pico']) / whole:.1f} % held")
    return text


def _grid() -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", justify="right")
    grid.add_column()
    return grid


def _table(*columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        # What is to be copied must stand whole, in one line.
        whole = column in ("run", "id")
        table.add_column(column, justify="right" if column in right else "left", no_wrap=whole, min_width=36 * whole)
    return table


def dataset(shown: Mapping[str, Any]) -> None:
    """A dataset with its balance."""
    balance = shown["balance"]
    out.print(Text.assemble((shown["name"], "bold"), f"  {shown['title']}"))
    grid = _grid()
    grid.add_row("state", shown["state"])
    grid.add_row("privacy unit", f"{escape(shown['privacy_unit'])}, {shown['adjacency']}")
    grid.add_row("bound", "clt, an estimate and no guarantee" if shown["is_estimate"] else "certified")
    grid.add_row("budget", bar(balance))
    out.print(grid)
    table = _table("", "mu", "delta", "mu² (1e-12)", right=("mu", "delta", "mu² (1e-12)"))
    for part in ("limit", "spent", "held", "remaining"):
        amount = balance[part]
        table.add_row(part, number(amount["mu"]), number(amount["delta"]), f"{int(amount['mu_sq_pico']):,}")
    out.print(table)
    for epsilon in shown["epsilon"]:
        estimate = " (estimate)" if shown["is_estimate"] else ""
        spent, limit = number(epsilon["spent"]), number(epsilon["limit"])
        out.print(f"epsilon at delta {number(epsilon['delta'])}: spent {spent}, limit {limit}{estimate}")


def datasets(items: Sequence[Mapping[str, Any]]) -> None:
    """Datasets, a line each."""
    if not items:
        err.print("No datasets yet. Register one: privacy-ledger dataset create NAME --epsilon 3 --at-delta 1e-5")
    table = _table("name", "state", "bound", "mu left", "of", "budget", right=("mu left", "of"))
    for item in items:
        balance = item["balance"]
        left, limit = number(balance["remaining"]["mu"]), number(balance["limit"]["mu"])
        table.add_row(item["name"], item["state"], item["bound"], left, limit, bar(balance, width=BAR_WIDTH // 4))
    if items:
        out.print(table)


def approved(answer: Mapping[str, Any]) -> None:
    """An approval, and what to type next."""
    (where,) = answer["datasets"]
    out.print(Text.assemble(("approved", "bold green"), f"  run {answer['id']}"))
    grid = _grid()
    grid.add_row("cost", f"mu {number(answer['cost']['mu'])}, delta {number(answer['cost']['delta'])}")
    grid.add_row("left", f"mu {number(where['remaining']['mu'])} of {where['name']}")
    grid.add_row("method", f"{answer['method']}{', an estimate' if answer['bound'] == 'clt' else ''}")
    grid.add_row("start by", answer["start_by"])
    out.print(grid)
    out.print(f"Before it touches the data: privacy-ledger start {answer['id']}")


def planned(answer: Mapping[str, Any], *, solve_for: str | None, suggest: Callable[[str, Any], str]) -> None:
    """Whether a run would fit, and how much of it would, as a command to paste."""
    (where,) = answer["datasets"]
    state = "" if where["state"] == "active" else f", which is {where['state']}"
    verdict = Text("fits", style="bold green") if answer["fits"] else Text("does not fit", style="bold red")
    out.print(Text.assemble(verdict, f"  {where['name']}{state}"))
    grid = _grid()
    grid.add_row("cost", f"mu {number(answer['cost']['mu'])}, delta {number(answer['cost']['delta'])}")
    grid.add_row("left", f"mu {number(where['remaining']['mu'])}, delta {number(where['remaining']['delta'])}")
    if where["after"] is not None:
        grid.add_row("after", f"mu {number(where['after']['mu'])}, delta {number(where['after']['delta'])}")
    grid.add_row("method", f"{answer['method']}{', an estimate' if answer['is_estimate'] else ''}")
    out.print(grid)
    if solve_for is not None:
        _solved(answer["solution"], solve_for, suggest)
    elif not answer["fits"]:
        _fitting(out, answer["would_fit"], suggest)


def _solved(solution: Mapping[str, Any] | None, solve_for: str, suggest: Callable[[str, Any], str]) -> None:
    if solution is None:
        out.print(f"{solve_for}: none fits", markup=False)
    elif solution["solve_for"] == "runs":
        out.print(f"runs: at most {solution['value']:,} of exactly this one")
    else:
        name = solution["solve_for"]
        out.print(f"{name}: at {'least' if name == 'noise_multiplier' else 'most'} {solution['value']}")
        out.print(f"    {suggest(name, solution['value'])}", markup=False)


def refused(error: BudgetExceeded, *, suggest: Callable[[str, Any], str]) -> None:
    """A refusal: what binds, and the smallest change that would fit as a command to paste."""
    err.print(Text.assemble(("refused", "bold red"), f"  run {error.facts.get('run')}"))
    table = _table("dataset", "quantity", "asks for", "left", "limit", right=("asks for", "left", "limit"))
    for binding in error.facts.get("datasets", ()):
        numbers = (number(binding[name]) for name in ("requested", "remaining", "limit"))
        table.add_row(binding["name"], binding["quantity"], *numbers)
    err.print(table)
    _fitting(err, error.facts.get("fits", {}), suggest)


def _fitting(console: Console, fits: Mapping[str, Any], suggest: Callable[[str, Any], str]) -> None:
    if not fits:
        console.print("No change of a single parameter would make it fit.")
        return
    console.print("Each of these would fit:")
    for name, value in fits.items():
        console.print(f"    {suggest(name, value)}", markup=False)


def moved(answer: Mapping[str, Any]) -> None:
    """What start, settle and void did."""
    (where,) = answer["datasets"]
    grid = _grid()
    grid.add_row("run", answer["id"])
    for name in ("charged", "returned"):
        if name in answer:
            grid.add_row(name, f"mu {number(answer[name]['mu'])}, delta {number(answer[name]['delta'])}")
    grid.add_row("left", f"mu {number(where['remaining']['mu'])} of {where['name']}")
    if "settle_by" in answer:
        grid.add_row("settle by", answer["settle_by"])
    out.print(Text(answer["state"], style="bold"))
    out.print(grid)


def runs(items: Sequence[Mapping[str, Any]]) -> None:
    """Runs, a line each, newest first."""
    if not items:
        err.print("No runs.")
        return
    table = _table("run", "state", "dataset", "mechanism", "mu", "asked", "by", right=("mu",))
    for item in items:
        state = f"{item['state']}{', overdue' if item['is_overdue'] else ''}"
        table.add_row(
            item["id"],
            state,
            item["datasets"][0]["name"],
            str(item["request"]["mechanism"].get("type")),
            number(item["cost"]["mu"]),
            item["created_at"][:19].replace("T", " "),
            escape(str(item["asked_by"]["name"])),
        )
    out.print(table)


def evaluated(answer: Mapping[str, Any]) -> None:
    """What a mechanism costs."""
    grid = _grid()
    grid.add_row("mu", str(answer["cost"]["mu"]))
    grid.add_row("delta", str(answer["cost"]["delta"]))
    for epsilon in answer["epsilon"]:
        grid.add_row(f"epsilon at {number(epsilon['delta'])}", number(epsilon["value"]))
    grid.add_row("bound", "clt, an estimate and no guarantee" if answer["is_estimate"] else "certified")
    grid.add_row("method", answer["method"])
    for place, text in enumerate(answer["assumptions"]):
        grid.add_row("assumes" if place == 0 else "", escape(text))
    out.print(grid)
    if answer.get("frontier"):
        _frontier(answer["frontier"])


def _frontier(points: Sequence[Mapping[str, Any]]) -> None:
    """What another share of the delta budget would make of mu."""
    table = _table("with delta", "mu is", right=("with delta", "mu is"))
    for point in points:
        table.add_row(number(point["delta"]), number(point["mu"]))
    out.print(table)


def keys(items: Sequence[Mapping[str, Any]]) -> None:
    """Keys, a line each."""
    table = _table("id", "name", "role", "datasets", "created", "until")
    for item in items:
        until = "revoked" if item["revoked_at"] else (item["expires_at"] or "")[:19].replace("T", " ")
        limited = ", ".join(item["datasets"]) if item["datasets"] is not None else "all"
        created = item["created_at"][:19].replace("T", " ")
        table.add_row(item["id"], escape(item["name"]), item["role"], limited, created, until)
    out.print(table)


def secret(made: Mapping[str, Any], *, what: str) -> None:
    """A new key, whose secret is shown this once."""
    out.print(f"{what} The secret is shown this once:\n")
    out.print(f"    {made['secret']}\n")


def checked(found: Sequence[Mapping[str, Any]]) -> None:
    """What `check` found."""
    table = _table("tenant", "dataset", "entries", "", right=("entries",))
    for result in found:
        verdict = Text("holds", style="green")
        if result["error"] is not None:
            verdict = Text(f"entry {result['seq']}: {result['error']}", style="bold red")
        table.add_row(escape(result["tenant"]), result["dataset"], f"{result['entries']:,}", verdict)
    out.print(table if found else "There are no datasets yet.")


def verified_facts(found: Verified) -> dict[str, Any]:
    """What an export that holds says, for --json."""
    account = found.journal.account
    return {
        "holds": True,
        "tenant": found.tenant,
        "dataset": found.dataset,
        "seq": found.journal.seq,
        "hash": found.journal.head.hex(),
        "state": found.journal.state,
        "balance": None if account is None else account.facts(),
        "runs": {str(run): state for run, (state, _) in found.journal.runs.items()},
    }


def verified(found: Verified) -> None:
    """That an export holds, and what it says."""
    facts = verified_facts(found)
    out.print(Text.assemble(("holds", "bold green"), f"  {found.dataset} of {found.tenant}"))
    grid = _grid()
    grid.add_row("entries", f"{found.journal.seq:,}")
    grid.add_row("head", found.journal.head.hex())
    for part, amount in facts["balance"].items():
        mu = math.sqrt(int(amount["mu_sq_pico"])) / 1e6
        grid.add_row(part, f"mu {number(mu)} ({int(amount['mu_sq_pico']):,} × 1e-12 of mu²)")
    states = [state for state, _ in found.journal.runs.values()]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    grid.add_row("runs", counted or "none")
    out.print(grid)
    out.print(
        "Compare the head with one that you got from elsewhere: an export alone cannot show that it is the newest."
    )


def broken(error: JournalBroken, file: Path) -> None:
    """Where an export does not hold."""
    err.print(Text.assemble(("does not hold", "bold red"), f"  {file}"))
    err.print(escape(error.detail))


def error(found: LedgerError) -> None:
    """An error in one line, its fields under it."""
    err.print(Text.assemble(("privacy-ledger: ", "red"), found.detail))
    problems = found.facts.get("errors", ())
    for problem in problems if isinstance(problems, list) and len(problems) > 1 else ():
        err.print(f"    {problem['field']}: {problem['message']}", markup=False)


@contextmanager
def progress(what: str, *, quiet: bool) -> Iterator[Advance]:
    """Shows that long work goes on, on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda: shown.advance(task)
