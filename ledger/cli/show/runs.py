"""Print runs in a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ledger.cli.show import notes, rows
from ledger.cli.show.console import (
    ACCOUNTS_SHOWN_MAX,
    ADD_UP,
    down,
    epsilons,
    err,
    in_one_line,
    new_grid,
    new_table,
    number,
    out,
    percent,
    remaining_text,
    up,
)
from ledger.errors import BudgetExceeded, Overrun
from ledger.limits_in_words import account_name, comes_back

if TYPE_CHECKING:
    from ledger.service.shapes.accountant import Certified, Evaluated, Planned, PlannedBinding
    from ledger.service.shapes.common import AmountShown
    from ledger.service.shapes.runs import (
        Binding,
        ModelShown,
        Overdrawn,
        OverrunShown,
        RestartShown,
        RunApproved,
        RunCorrected,
        RunInFull,
        RunMoved,
        RunOnDataset,
        RunShown,
        RunStarted,
        SegmentsShown,
    )


def approved(answer: RunApproved, declared: Mapping[str, Any] | None = None) -> None:
    """Print an approval, and what to type next. declared: the run's mechanism."""
    out.print(Text.assemble(("approved", "bold green"), f"  run {answer['id']}"))
    grid = new_grid()
    cost(grid, answer)
    add_segments(grid, answer.get("segments"))
    _remaining(grid, answer["datasets"])
    runs_left(grid, answer)
    if "project" in answer:
        grid.add_row("project", answer["project"])
    grid.add_row("method", f"{answer['method']}{', an estimate' if answer['bound'] == 'clt' else ''}")
    notes.expected_batch(grid, answer)
    grid.add_row("start by", answer["start_by"])
    out.print(grid)
    notes.notes(answer, declared)
    out.print(f"{ADD_UP} Before it uses the data: privacy-ledger start {answer['id']}")


def cost(grid: Table, answer: RunApproved | Planned | RunShown) -> None:
    """Add what a run takes of its budget, the epsilon that it has by itself, and its cost; and what it would take by
    itself, if it is costed beside what is left."""
    part = of_budget(answer.get("percent"), answer.get("percent_of_delta"), "the budget")
    shares = answer.get("shares")
    if shares is not None and shares["alone"] > shares["cost"]:
        part = f"{part}; by itself this run would be {100 * shares['alone']:.4g} %"
    alone = epsilons(answer.get("epsilon", ()))
    rows_of = [part, f"{alone}, of this run by itself" if alone else "", _amount(answer["cost"])]
    for index, text in enumerate(filter(None, rows_of)):
        grid.add_row("" if index else "cost", text)


def of_budget(part: float | None, of_delta: float | None, name: str) -> str:
    """Return a part of a budget in percent; that of delta too, if it is the larger one."""
    if part is None:
        return ""
    delta = f", and {percent(of_delta)} of its delta" if of_delta is not None and of_delta > part else ""
    return f"{percent(part)} of {name}{delta}"


def _amount(amount: AmountShown) -> str:
    return f"mu {up(amount['mu'])}, delta {up(amount['delta'])}"


def add_segments(grid: Table, segments: SegmentsShown | None) -> None:
    """Add what a run in segments pays for being allowed to stop after each."""
    if segments is not None:
        each, whole = up(segments["cost"]["mu"]), up(segments["unsegmented"]["mu"])
        pieces = f"{segments['count']:,} of {segments['steps']:,} steps, mu {each} each"
        grid.add_row("segments", f"{pieces}; without segments it would be mu {whole}")


def _remaining(grid: Table, datasets: Sequence[RunOnDataset]) -> None:
    """Add what is left of each dataset that a run charges."""
    for index, dataset in enumerate(datasets):
        label = "" if index else "left"
        if dataset["remaining"] is None:
            grid.add_row(label, f"{dataset['name']} has no budget of its own; what it is derived from is charged")
            continue
        part = left_of(dataset.get("percent_left"), dataset.get("percent_of_delta_left"))
        grid.add_row(
            label, f"{part}mu {remaining_text(dataset['remaining'])} of {dataset.get('account') or dataset['name']}"
        )


def left_of(part: float | None, of_delta: float | None) -> str:
    """Return what is left in percent, to be followed by other units; that of delta too, if it is the smaller one."""
    if part is None:
        return ""
    delta = f" ({percent(of_delta)} of its delta)" if of_delta is not None and of_delta < part else ""
    return f"{percent(part)}{delta}, "


def runs_left(grid: Table, answer: RunApproved | Planned | RunInFull) -> None:
    """Add how many more runs like this one fit."""
    if (count := answer.get("runs_left")) is not None:
        grid.add_row("runs like this left", f"{count:,}")


def refused(error: BudgetExceeded, *, suggest: Callable[[str, Any], str]) -> None:
    """Print a refusal: which limits do not fit, and the smallest changes that would, as commands to paste."""
    facts = in_one_line(error.facts)
    err.print(Text.assemble(("refused", "bold red"), f"  run {facts.get('run')}"))
    binding = facts.get("datasets", ())
    alone = epsilons(facts.get("epsilon", ()))
    if alone:
        err.print(f"This run by itself: {alone}. {ADD_UP}")
    rows.show(bindings_of(binding), console=err)
    if len(binding) > ACCOUNTS_SHOWN_MAX:
        err.print(f"and {len(binding) - ACCOUNTS_SHOWN_MAX:,} more; --json has all of them")
    for name in dict.fromkeys(account_name(item) for item in binding[:ACCOUNTS_SHOWN_MAX]):
        err.print(f"It does not fit in {name}.")
    err.print(comes_back(binding))
    fitting(err, facts.get("fits", {}), suggest)
    for text in facts.get("warnings", ()):
        err.print(Text.assemble(("warning", "bold yellow"), f": {text}"))
    one = facts.get("as_one")
    if one is not None:
        before = of_budget(one.get("percent_charged"), None, "the budget")
        parts = [of_budget(one.get("percent"), None, "the budget"), epsilons(one.get("epsilon", ()))]
        whole = ", ".join(filter(None, [*parts, f"mu {number(one['cost']['mu'])}"]))
        err.print(
            f"{one['runs'] - 1} equal runs before it were charged {f'{before}, ' if before else ''}mu"
            f" {number(one['charged']['mu'])}. With it, as one run with {one['solve_for']} {one['value']}: {whole} by"
            " itself."
        )


def bindings_of(items: Sequence[Binding | PlannedBinding]) -> rows.Rows:
    """Return a table of the limits that do not fit, one account and quantity per line."""
    numbers = {
        "asks for %": [plain_percent(item.get("percent_requested")) for item in items],
        "left %": [plain_percent(item.get("percent_remaining")) for item in items],
        "asks for": [up(item["requested"]) for item in items],
        "left": [_known(item["remaining"]) for item in items],
        "limit": [_known(item["limit"]) for item in items],
    }
    return _accounts_named(items, numbers)


def plain_percent(value: float | None) -> str:
    """Return a percent for a column that states the unit."""
    return percent(value).removesuffix(" %")


def _known(value: float | None) -> str:
    """Return what is left, or a limit; - for what the caller may not see."""
    return "-" if value is None else down(value)


def _accounts_named(items: Sequence[Mapping[str, object]], numbers: Mapping[str, Sequence[str]]) -> rows.Rows:
    """Return a table of accounts with their numbers, up to ACCOUNTS_SHOWN_MAX. A part of the name that no account has
    gets no column.

    numbers: one list per column, in the order of the accounts.
    """
    named = [name for name in ("partition", "project", "principal") if any(name in item for item in items)]
    cells = [
        (
            *(str(item.get(name, "")) for name in ("name", *named, "quantity")),
            *(column[index] for column in numbers.values()),
        )
        for index, item in enumerate(items[:ACCOUNTS_SHOWN_MAX])
    ]
    return rows.Rows(
        ("dataset", *named, "quantity", *numbers),
        cells,
        right=tuple(numbers),
        ids=[name for name in named if name == "principal"],
        texts=("dataset", "partition", "project"),
    )


def corrected(answer: RunCorrected) -> None:
    """Print what a corrected run is charged now, and what a steward must do if that does not fit."""
    before, now = number(answer["before"]["mu"]), up(answer["charged"]["mu"])
    style = "bold green" if answer["fits"] else "bold red"
    out.print(Text.assemble(("corrected", style), f"  run {answer['id']}: mu {now} charged in place of {before}"))
    if not answer["replaces"]:
        out.print("An output may have decided what ran: the declared and the true mechanism are both charged.")
    if answer["fits"]:
        return
    names = answer["frozen"]
    err.print(f"It does not fit in {', '.join(names)}, which {'is' if len(names) == 1 else 'are'} frozen.")
    for name in names:
        err.print(f"    privacy-ledger dataset thaw {shlex.quote(name)} --reason …")


def overran(error: Overrun) -> None:
    """Print an overrun that did not fit: what is overdrawn, and what a steward must do."""
    facts = in_one_line(error.facts)
    is_reported = facts.get("state") == "started"
    outcome = "waits for a steward" if is_reported else "is settled"
    err.print(Text.assemble(("overrun", "bold red"), f"  run {facts.get('run')} {outcome}"))
    err.print(in_one_line(error.detail))
    if is_reported:
        err.print(f"    privacy-ledger confirm {facts.get('run')} --reason …")
        err.print(f"    privacy-ledger correct {facts.get('run')} --steps … --reason …")
        return
    items: Sequence[Overdrawn] = facts.get("datasets", ())
    numbers = {
        "limit": [down(item["limit"]) for item in items],
        "spent": [up(item["spent"]) for item in items],
        "held": [up(item["held"]) for item in items],
        "overdrawn": [up(item["overdrawn"]) for item in items],
    }
    rows.show(_accounts_named(items, numbers), console=err)
    for name in facts.get("frozen", ()):
        err.print(f"    privacy-ledger dataset thaw {shlex.quote(name)} --reason …")


def fitting(console: Console, fits: Mapping[str, Any], suggest: Callable[[str, Any], str]) -> None:
    """Print what would fit, as commands to paste."""
    if not fits:
        console.print("No change of a single parameter would make it fit.")
        return
    console.print("Each of these would fit:")
    for name, value in fits.items():
        console.print(f"    {suggest(name, value)}")


def started(answer: RunStarted) -> None:
    """Print the result of `start`, and until when a job may begin with its receipt."""
    moved(answer)
    if "begin_by" in answer:  # an older server sends none
        out.print(
            f"A job may begin until {answer['begin_by']}. Its receipt: privacy-ledger receipt show {answer['id']}"
        )


def _is_ended(answer: RunMoved) -> bool:
    return answer["state"] in ("settled", "voided")


def moved(answer: RunMoved) -> None:
    """Print the result of `start`, `settle` and `void`."""
    grid = new_grid()
    grid.add_row("run", answer["id"])
    if (part := of_budget(answer.get("percent"), answer.get("percent_of_delta"), "the budget")) and _is_ended(answer):
        grid.add_row("charged", part)
    for name, amount in (("" if part else "charged", answer.get("charged")), ("returned", answer.get("returned"))):
        if amount is not None:
            grid.add_row(name, _amount(amount))
    kept = answer.get("kept")
    if kept is not None:
        names = ", ".join(answer.get("kept_for", ()))
        grid.add_row("kept", f"{_amount(kept)}: later runs of {names} rest on it. If a crash or another cause that")
        grid.add_row("", "neither the data nor an output decided ended the run, state it: void … --data-independent")
    overrun = answer.get("overrun")
    if overrun is not None:
        mu = number(overrun["cost"]["mu"])
        grid.add_row("overrun", f"{overrun_text(overrun)}, mu {mu} of that")
    for index, restart in enumerate(answer.get("restarts", ())):
        grid.add_row("" if index else "repeated", _restart(restart))
    for index, model in enumerate(answer.get("models", ())):
        grid.add_row("" if index else "produced", model_text(model))
    _remaining(grid, answer["datasets"])
    for index, text in enumerate(answer.get("assumptions", ())):
        grid.add_row("" if index else "assumes", text)
    if "settle_by" in answer:
        grid.add_row("settle by", answer["settle_by"])
    out.print(Text(answer["state"], style="bold"))
    out.print(grid)


def model_text(model: ModelShown) -> str:
    """Describe a file that a run produced."""
    return f"{model['name']}, {model['size']:,} bytes, SHA-256 {model['sha256']}"


def overrun_text(overrun: OverrunShown) -> str:
    """Describe what was executed beyond the plan."""
    again = overrun["repeated"]
    if again is None:
        return f"{overrun['steps']:,} steps beyond the plan, new or repeated"
    beyond = f"{overrun['steps'] - again:,} steps beyond the plan"
    return f"{beyond}, {again:,} repeated" if again else beyond


def _restart(restart: RestartShown) -> str:
    batches = "with new batches" if restart["new_batches"] else "with the same batches"
    if restart["to_step"] < restart["from_step"]:
        return f"no step, from {restart['from_step']:,} on {batches}"
    return f"steps {restart['from_step']:,} to {restart['to_step']:,}, {batches}"


def runs(items: Sequence[RunShown]) -> None:
    """Print runs, one per line, newest first."""
    if not items:
        err.print("No runs.")
        return
    named = [name for name in ("project", "purpose") if any(_noted(item, name) for item in items)]
    numbers = ("%", "charged %", "epsilon", "mu")
    columns = ("run", "state", "dataset", *named, "mechanism", *numbers, "asked", "by")
    cells = [
        (
            item["id"],
            _state(item),
            ", ".join(map(use_text, item["request"]["datasets"])),
            *(_noted(item, name) for name in named),
            str(item["request"]["mechanism"].get("type")),
            plain_percent(item.get("percent")),
            _charged_percent(item),
            _first_epsilon(item),
            up(item["cost"]["mu"]),
            item["created_at"][:19].replace("T", " "),
            str(item["asked_by"]["name"]),
        )
        for item in items
    ]
    rows.show(
        rows.Rows(
            columns,
            cells,
            right=numbers,
            ids=("run",),
            texts=("purpose", "dataset", "by"),
            drop=("mu", "purpose", "mechanism", "by", "asked", "project", "epsilon", "dataset"),
        )
    )


def _state(item: RunShown) -> str:
    """Return the state of a run; if it is overdue, also how far its job had come when it reported last."""
    if not item["is_overdue"]:
        return item["state"]
    progress = item.get("progress")
    reported = "" if progress is None else f", {progress['steps']:,} steps reported"
    return f"{item['state']}, overdue{reported}"


def _charged_percent(item: RunShown) -> str:
    """Return what a run was charged in percent, with what was beyond the plan; nothing before it has ended."""
    return "" if item.get("percent_charged") is None else f"{plain_percent(item.get('percent_charged'))}{beyond(item)}"


def _first_epsilon(item: RunShown) -> str:
    """Return the epsilon of a run by itself, at the first delta."""
    shown = item.get("epsilon", ())
    return up(shown[0]["value"]) if shown else "-"


def _noted(item: RunShown, name: str) -> str:
    """Return the project or the purpose of a run."""
    return str((item["project"] if name == "project" else item["request"].get(name)) or "")


def charged_text(item: RunShown) -> str:
    """Return the mu that a run was charged when it ended, with what part of it was beyond the plan; nothing before."""
    settled = item.get("settled")
    if settled is None:
        return "0" if item.get("voided") is not None else ""
    charged = settled.get("charged")
    if made := item.get("corrections", ()):
        return f"{up(made[-1]['charged']['mu'])} corrected"
    return f"{'' if charged is None else up(charged['mu'])}{beyond(item)}"


def beyond(item: RunShown) -> str:
    """Return what to add to the charge of a run that executed more than was planned."""
    settled = item.get("settled")
    overrun = None if settled is None else settled.get("overrun")
    return "" if overrun is None else " overrun" if overrun["fits"] else " overdrawn"


def use_text(use: str | Mapping[str, Any]) -> str:
    """Return a dataset of a run as it would be typed."""
    if isinstance(use, str):
        return use
    partitions = ",".join(use.get("partitions") or ())
    return f"{use['name']}:{partitions}" if partitions else str(use["name"])


def evaluated(answer: Evaluated, declared: Mapping[str, Any] | None = None) -> None:
    """Print the cost of a mechanism. declared: the mechanism."""
    grid = new_grid()
    for epsilon in answer["epsilon"]:
        value = f"none: {epsilon['why']}" if "why" in epsilon else up(epsilon["value"])
        grid.add_row(f"epsilon at {number(epsilon['delta'])}", value)
    grid.add_row("mu", str(answer["cost"]["mu"]))
    grid.add_row("delta", str(answer["cost"]["delta"]))
    grid.add_row("bound", "clt: an estimate, not a guarantee" if answer["is_estimate"] else "certified")
    grid.add_row("method", answer["method"])
    for index, text in enumerate(answer["assumptions"]):
        grid.add_row("assumes" if index == 0 else "", text)
    notes.expected_batch(grid, answer)
    out.print(grid)
    notes.notes(answer, declared)
    frontier = answer.get("frontier")
    if frontier:
        _frontier(frontier)


def _frontier(points: Sequence[Certified]) -> None:
    """Print the mu for other shares of the delta budget."""
    table = new_table("with delta", "mu is", right=("with delta", "mu is"))
    for point in points:
        table.add_row(number(point["delta"]), number(point["mu"]))
    out.print(table)
