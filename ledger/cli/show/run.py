"""Print one run in a terminal: what was declared, decided and charged, by whom, when and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table
from rich.text import Text

from ledger.cli.show import notes, rows
from ledger.cli.show.console import ACCOUNTS_SHOWN_MAX, ADD_UP, down, new_grid, number, out, percent, up
from ledger.cli.show.runs import charged_text, cost, model_text, overrun_text, plain_percent, runs_left, use_text

if TYPE_CHECKING:
    from ledger.service.shapes.runs import RefusedBy, RunEvent, RunInFull

_WHAT: Final = {"started": "started", "reported": "reported more than fits", "settled": "settled", "voided": "voided"}


def shown(item: RunInFull) -> None:
    """Print a run, and what to type next."""
    state = f"{item['state']}{', overdue' if item['is_overdue'] else ''}"
    out.print(Text.assemble((state, "bold"), f"  run {item['id']}"))
    grid = new_grid()
    _declared(grid, item)
    _decided(grid, item)
    out.print(grid)
    if item.get("refused_by"):
        _refusal(item["refused_by"] or (), item.get("refused_by_count") or 0)
    _timeline(item)
    _next(item)


def _declared(grid: Table, item: RunInFull) -> None:
    request = item["request"]
    grid.add_row("datasets", ", ".join(map(use_text, request["datasets"])))
    mechanism = request["mechanism"]
    fields = ", ".join(f"{name} {_value(value)}" for name, value in mechanism.items() if name != "type")
    grid.add_row("mechanism", f"{mechanism.get('type')}: {fields}")
    labels = ", ".join(f"{name}={value}" for name, value in (request.get("labels") or {}).items())
    code = request.get("code")
    for name, value in (
        ("purpose", request.get("purpose")),
        ("project", item["project"]),
        ("labels", labels),
        ("code", None if code is None else f"{code['repository']} at {code['commit']}"),
        ("segments", request.get("segments")),
        ("size differs", request.get("size_differs")),
        ("key", item["idempotency_key"]),
    ):
        if value:
            grid.add_row(name, str(value))


def _value(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def _decided(grid: Table, item: RunInFull) -> None:
    cost(grid, item)
    progress = item.get("progress")
    if progress is not None:
        at = progress["at"][:19].replace("T", " ")
        grid.add_row("progress", f"{progress['steps']:,} steps, reported at {at} UTC")
    charged = charged_text(item)
    if charged:
        part = item.get("percent_charged")
        grid.add_row("charged", f"{'' if part is None else f'{percent(part)} of the budget, '}mu {charged}")
    runs_left(grid, item)
    ended = item.get("settled") or item.get("reported")
    overrun = None if ended is None else ended.get("overrun")
    if overrun is not None:
        grid.add_row("overrun", f"{overrun_text(overrun)}, mu {up(overrun['cost']['mu'])}")
    for index, model in enumerate(() if ended is None else ended.get("models", ())):
        grid.add_row("" if index else "produced", model_text(model))
    estimate = ", an estimate" if item["bound"] == "clt" else ""
    grid.add_row("method", f"{item['method']}{estimate}, {item['adjacency']}, accountant {item['accountant']}")
    for index, text in enumerate(item["assumptions"]):
        grid.add_row("" if index else "assumes", text)
    notes.expected_batch(grid, item)
    for index, text in enumerate(item.get("warnings", ())):
        grid.add_row("" if index else "warned", text)
    for index, place in enumerate(item["datasets"]):
        grid.add_row("" if index else "entry", f"{place['seq']:,} of {place['name']}, hash {place.get('hash', '')}")


# --- why it was refused ----------------------------------------------------------------------------------------------


def _refusal(items: Sequence[RefusedBy], count: int) -> None:
    """Print each account in which the run did not fit: the amounts, and the parts of the limit that they are."""
    named = [name for name in ("partition", "project", "principal") if any(item.get(name) for item in items)]
    numbers = ("asks for %", "left %", "asks for", "left", "limit")
    cells = [
        (
            item["name"],
            *(str(item.get(name) or "") for name in named),
            item["quantity"],
            plain_percent(item.get("percent_requested")),
            plain_percent(item.get("percent_remaining")),
            up(item["requested"]),
            *("-" if item[name] is None else down(item[name]) for name in ("remaining", "limit")),
        )
        for item in items[:ACCOUNTS_SHOWN_MAX]
    ]
    out.print(Text("Refused by:", style="bold red"))
    columns = ("dataset", *named, "quantity", *numbers)
    rows.show(rows.Rows(columns, cells, right=numbers, ids=[name for name in named if name == "principal"]))
    if count > len(cells):
        out.print(f"and {count - len(cells):,} more")
    for epsilon in items[0]["epsilon"]:
        asked, left, limit = up(epsilon["requested"]), down(epsilon["remaining"]), number(epsilon["limit"])
        out.print(
            f"epsilon at delta {number(epsilon['delta'])}: asked for {asked}, left {left}, limit {limit}. {ADD_UP}"
        )


# --- what happened ---------------------------------------------------------------------------------------------------


def _timeline(item: RunInFull) -> None:
    """Print who did what when, and why, oldest first."""
    events = sorted(_events(item), key=lambda event: str(event[0]))
    cells = [(at[:19].replace("T", " "), what, by, reason) for at, what, by, reason in events]
    rows.show(
        rows.Rows(("when (UTC)", "what", "by", "reason"), cells, texts=("reason", "what", "by"), drop=("reason",))
    )


def _events(item: RunInFull) -> Iterator[tuple[str, str, str, str]]:
    waited = item.get("proposal")
    if waited is None:
        is_past = item["decision"] == "entered"
        what = "entered, declared and not observed" if is_past else f"asked, and {item['decision']}"
        yield item["created_at"], what, _who(item["asked_by"]), (item["request"].get("past") or {}).get("reason", "")
    else:
        yield waited["at"], "asked, and waited for a steward", _who(waited["by"]), ""
        what = "approved by a steward" if item["decision"] == "approved" else "approved by a steward, and refused"
        yield item["created_at"], what, _who(waited["approved_by"]), waited.get("reason") or ""
    for name, what in _WHAT.items():
        event: RunEvent | None = item.get(name)  # type: ignore[assignment]
        if event is not None:
            how = {"confirmed": ", the report confirmed", "corrected": ", the report corrected"}
            proposal = event.get("proposal")
            seconded = "" if proposal is None else f", as {proposal['by']['name']} proposed"
            yield (
                event["at"],
                f"{what}{how.get(event.get('report') or '', '')}{seconded}",
                _who(event["by"]),
                str(event.get("reason") or ""),
            )
    for made in item.get("corrections", ()):
        proposer = made.get("proposal")
        seconded = "" if proposer is None else f", as {proposer['by']['name']} proposed"
        what = f"corrected to {made['mechanism']['type']}, mu {up(made['charged']['mu'])} charged{seconded}"
        yield made["at"], what, _who(made["by"]), made["reason"]
    for proposed in item["proposals"]:
        state = "" if proposed["state"] == "approved" else f", {proposed['state']}"
        yield proposed["at"], f"{proposed['what']} proposed{state}", _who(proposed["by"]), proposed["id"]


def _who(actor: Mapping[str, Any]) -> str:
    return f"{actor['name']} ({actor['role']})"


def _next(item: RunInFull) -> None:
    """Print what can be done next."""
    waiting = [proposal for proposal in item["proposals"] if proposal["state"] == "open"]
    for proposal in waiting:
        out.print(f"Waits for a second steward until {proposal['approve_by']}:")
        out.print(f"    privacy-ledger proposal approve {proposal['id']} --reason …")
    if item["state"] == "held":
        out.print(f"Start it by {item['start_by']}: privacy-ledger start {item['id']}")
    elif item["state"] == "started":
        started = item.get("started")
        settle_by = "" if started is None else f"Settle it by {started.get('settle_by')}. "
        out.print(f"{settle_by}Its receipt: privacy-ledger receipt show {item['id']}")
