"""How runs look in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from ledger.cli.show.console import ACCOUNTS_SHOWN_MAX, err, new_grid, new_table, number, out, remaining_text
from ledger.errors import BudgetExceeded, Overrun


def approved(answer: Mapping[str, Any]) -> None:
    """An approval, and what to type next."""
    out.print(Text.assemble(("approved", "bold green"), f"  run {answer['id']}"))
    grid = new_grid()
    grid.add_row("cost", f"mu {number(answer['cost']['mu'])}, delta {number(answer['cost']['delta'])}")
    _segments(grid, answer)
    _where(grid, answer["datasets"])
    if "project" in answer:
        grid.add_row("project", answer["project"])
    grid.add_row("method", f"{answer['method']}{', an estimate' if answer['bound'] == 'clt' else ''}")
    grid.add_row("start by", answer["start_by"])
    out.print(grid)
    out.print(f"Before it touches the data: privacy-ledger start {answer['id']}")


def _segments(grid: Table, answer: Mapping[str, Any]) -> None:
    """What a run in segments pays for being allowed to stop after any of them."""
    if "segments" in answer:
        segments = answer["segments"]
        text = f"{segments['count']:,} of {segments['steps']:,} steps, mu {number(segments['cost']['mu'])} each"
        grid.add_row("segments", f"{text}; in one piece it would be mu {number(segments['unsegmented']['mu'])}")


def _where(grid: Table, datasets: Sequence[Mapping[str, Any]]) -> None:
    """What is left of each dataset that a run charges."""
    for index, where in enumerate(datasets):
        label = "" if index else "left"
        if where["remaining"] is None:
            grid.add_row(label, f"as much of {where['name']} as of what it is derived from")
        else:
            grid.add_row(label, f"mu {remaining_text(where['remaining'])} of {where['name']}")


def planned(answer: Mapping[str, Any], *, solve_for: str | None, suggest: Callable[[str, Any], str]) -> None:
    """Whether a run would fit, and how much of it would, as a command to paste."""
    datasets = answer["datasets"]
    stopped = [f", {where['name']} is {where['state']}" for where in datasets if where["state"] != "active"]
    verdict = Text("fits", style="bold green") if answer["fits"] else Text("does not fit", style="bold red")
    out.print(Text.assemble(verdict, f"  {', '.join(where['name'] for where in datasets)}{''.join(stopped)}"))
    grid = new_grid()
    grid.add_row("cost", f"mu {number(answer['cost']['mu'])}, delta {number(answer['cost']['delta'])}")
    _segments(grid, answer)
    for label, part in (("left", "remaining"), ("after", "after")):
        counted = [where for where in datasets if where[part] is not None]
        for index, where in enumerate(counted):
            name = f" of {where['name']}" if len(datasets) > 1 else ""
            left = f"mu {remaining_text(where[part])}, delta {number(where[part]['delta'])}{name}"
            grid.add_row("" if index else label, left)
    grid.add_row("method", f"{answer['method']}{', an estimate' if answer['is_estimate'] else ''}")
    out.print(grid)
    if answer["binding"] and len(datasets) + len(answer["binding"]) > 2:
        out.print(_bindings(answer["binding"]))
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
    binding = error.facts.get("datasets", ())
    err.print(_bindings(binding))
    if len(binding) > ACCOUNTS_SHOWN_MAX:
        err.print(f"and {len(binding) - ACCOUNTS_SHOWN_MAX:,} more; --json has all of them")
    _fitting(err, error.facts.get("fits", {}), suggest)


def _bindings(items: Sequence[Mapping[str, Any]]) -> Table:
    """What binds, an account and quantity a line."""
    numbers = {"asks for": "requested", "left": "remaining", "limit": "limit"}
    return _accounts_named(items, numbers)


def _accounts_named(items: Sequence[Mapping[str, Any]], numbers: Mapping[str, str]) -> Table:
    """Accounts with their numbers, as many as a person reads; what tells none of them from another has no column."""
    named = [name for name in ("partition", "project", "principal") if any(name in item for item in items)]
    table = new_table("dataset", *named, "quantity", *numbers, right=tuple(numbers))
    for item in items[:ACCOUNTS_SHOWN_MAX]:
        which = (str(item.get(name, "")) for name in named)
        table.add_row(item["name"], *which, item["quantity"], *(number(item[field]) for field in numbers.values()))
    return table


def overran(error: Overrun) -> None:
    """An overrun that did not fit: what is overdrawn, and what waits for a steward."""
    facts = error.facts
    err.print(Text.assemble(("overrun", "bold red"), f"  run {facts.get('run')} is settled"))
    err.print(escape(error.detail))
    parts = {"limit": "limit", "spent": "spent", "held": "held", "overdrawn": "overdrawn"}
    err.print(_accounts_named(facts.get("datasets", ()), parts))
    for name in facts.get("frozen", ()):
        err.print(f"    privacy-ledger dataset thaw {name} --reason …", markup=False)


def batch(asked: Sequence[Mapping[str, Any]], results: Sequence[Mapping[str, Any]], *, is_refused: bool) -> None:
    """What came of each run of a batch, a line each, in order."""
    table = new_table("", "datasets", "", "run", "mu", right=("", "mu"))
    for position, (run, result) in enumerate(zip(asked, results, strict=True), start=1):
        uses = run.get("datasets", ())
        names = ", ".join(str(use.get("name") if isinstance(use, dict) else use) for use in uses)
        run_answer, problem = result.get("run"), result.get("problem", {})
        verdict = Text("approved", style="green") if run_answer else Text(str(problem.get("code")), style="bold red")
        cost = number(run_answer["cost"]["mu"]) if run_answer else ""
        table.add_row(
            str(position), escape(names), verdict, str(run_answer["id"] if run_answer else problem.get("run", "")), cost
        )
    console = err if is_refused else out
    console.print(table)
    if is_refused:
        console.print("Not every run can be approved, so nothing was recorded.")


def _fitting(console: Console, fits: Mapping[str, Any], suggest: Callable[[str, Any], str]) -> None:
    if not fits:
        console.print("No change of a single parameter would make it fit.")
        return
    console.print("Each of these would fit:")
    for name, value in fits.items():
        console.print(f"    {suggest(name, value)}", markup=False)


def moved(answer: Mapping[str, Any]) -> None:
    """What start, settle and void did."""
    grid = new_grid()
    grid.add_row("run", answer["id"])
    for name in ("charged", "returned"):
        if name in answer:
            grid.add_row(name, f"mu {number(answer[name]['mu'])}, delta {number(answer[name]['delta'])}")
    if "overrun" in answer:
        beyond = answer["overrun"]
        grid.add_row("overrun", f"{beyond['steps']:,} steps beyond the plan, mu {number(beyond['cost']['mu'])} of that")
    _where(grid, answer["datasets"])
    if "settle_by" in answer:
        grid.add_row("settle by", answer["settle_by"])
    out.print(Text(answer["state"], style="bold"))
    out.print(grid)


def runs(items: Sequence[Mapping[str, Any]]) -> None:
    """Runs, a line each, newest first."""
    if not items:
        err.print("No runs.")
        return
    projects = ["project"] if any(item["project"] for item in items) else []
    table = new_table("run", "state", "dataset", *projects, "mechanism", "mu", "asked", "by", right=("mu",))
    for item in items:
        state = f"{item['state']}{', overdue' if item['is_overdue'] else ''}"
        table.add_row(
            item["id"],
            state,
            ", ".join(map(_use, item["request"]["datasets"])),
            *(item["project"] or "" for _ in projects),
            str(item["request"]["mechanism"].get("type")),
            number(item["cost"]["mu"]),
            item["created_at"][:19].replace("T", " "),
            escape(str(item["asked_by"]["name"])),
        )
    out.print(table)


def _use(use: str | Mapping[str, Any]) -> str:
    """A dataset of a run as it would be typed."""
    if isinstance(use, str):
        return use
    partitions = ",".join(use.get("partitions") or ())
    return f"{use['name']}:{partitions}" if partitions else str(use["name"])


def evaluated(answer: Mapping[str, Any]) -> None:
    """What a mechanism costs."""
    grid = new_grid()
    grid.add_row("mu", str(answer["cost"]["mu"]))
    grid.add_row("delta", str(answer["cost"]["delta"]))
    for epsilon in answer["epsilon"]:
        grid.add_row(f"epsilon at {number(epsilon['delta'])}", number(epsilon["value"]))
    grid.add_row("bound", "clt, an estimate and no guarantee" if answer["is_estimate"] else "certified")
    grid.add_row("method", answer["method"])
    for index, text in enumerate(answer["assumptions"]):
        grid.add_row("assumes" if index == 0 else "", escape(text))
    out.print(grid)
    if answer.get("frontier"):
        _frontier(answer["frontier"])


def _frontier(points: Sequence[Mapping[str, Any]]) -> None:
    """What another share of the delta budget would make of mu."""
    table = new_table("with delta", "mu is", right=("with delta", "mu is"))
    for point in points:
        table.add_row(number(point["delta"]), number(point["mu"]))
    out.print(table)
