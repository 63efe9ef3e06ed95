"""How things look to a person: tables, units, a bar of the budget. Scripts say --json and never see any of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from ledger.core.amounts import Account, AccountKey, Amount
from ledger.errors import BudgetExceeded, InvalidRequest, JournalBroken, LedgerError, Overrun
from ledger.verifier.proofs import Proved
from ledger.verifier.verify import Verified, VerifiedTenant, Vouched

if TYPE_CHECKING:
    from ledger.client.receipts import Receipt

BAR_WIDTH: Final = 40
ACCOUNTS_SHOWN_MAX: Final = 20
_BUDGET: Final = ("epsilon", "at_delta", "slack", "mu", "delta")
"""The members of a budget, as they are read out."""
_COMPARE: Final = (
    "Compare the head with one that you got from elsewhere: an export alone cannot show that it is the newest."
)
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
    filled = min(width, round(width * int(spent["mu_sq_pico"]) / whole))
    taken = min(width, round(width * (int(spent["mu_sq_pico"]) + int(held["mu_sq_pico"])) / whole))
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
    out.print(Text.assemble((shown["name"], "bold"), f"  {shown['title']}"))
    grid = _grid()
    grid.add_row("state", shown["state"])
    grid.add_row("privacy unit", f"{escape(shown['privacy_unit'])}, {shown['adjacency']}")
    grid.add_row("bound", "clt, an estimate and no guarantee" if shown["is_estimate"] else "certified")
    if shown["derived_from"]:
        grid.add_row("derived from", ", ".join(parent["name"] for parent in shown["derived_from"]))
        grid.add_row("its runs charge", ", ".join(shown["roots"]))
    if shown["ceiling"] is not None:
        grid.add_row("ceiling", f"mu {number(shown['ceiling']['mu'])}, delta {number(shown['ceiling']['delta'])}")
    if shown["fair_use"] is not None:
        grid.add_row("fair use", _fair_use(shown["fair_use"]))
    if shown["balance"] is not None:
        grid.add_row("budget", bar(shown["balance"]))
    if shown["partition_count"] is not None:
        counted = f"{shown['partition_count']:,}" + (", the fullest of which is shown" if shown["partitions"] else "")
        grid.add_row("partitions", counted)
    out.print(grid)
    if shown["balance"] is not None:
        _balance(shown, shown["balance"])
    for kind in ("partition", "project"):
        if shown[f"{kind}s"]:
            _parts(kind, shown[f"{kind}s"], count=shown["partition_count"] if kind == "partition" else None)


def _fair_use(said: Mapping[str, Any]) -> str:
    limits = []
    if said["held"] is not None:
        named = ", ".join(f"{name} {number(said['held'][name])}" for name in _BUDGET if name in said["held"])
        limits.append(f"{named} held at once")
    if said["runs_per_hour"] is not None:
        limits.append(f"{said['runs_per_hour']:,} runs an hour")
    return f"{' and '.join(limits)}, for each principal"


def _balance(shown: Mapping[str, Any], balance: Mapping[str, Any]) -> None:
    table = _table("", "mu", "delta", "mu² (1e-12)", right=("mu", "delta", "mu² (1e-12)"))
    for part in ("limit", "spent", "held", "remaining"):
        amount = balance[part]
        table.add_row(part, _left(amount), number(amount["delta"]), f"{int(amount['mu_sq_pico']):,}")
    out.print(table)
    for epsilon in shown["epsilon"]:
        estimate = " (estimate)" if shown["is_estimate"] else ""
        spent, limit = number(epsilon["spent"]), number(epsilon["limit"])
        out.print(f"epsilon at delta {number(epsilon['delta'])}: spent {spent}, limit {limit}{estimate}")


def _parts(what: str, items: Sequence[Mapping[str, Any]], *, count: int | None = None) -> None:
    """Partitions or projects, a line each, the fullest first, as many as a person reads."""
    table = _table(what, "mu left", "of", "budget", right=("mu left", "of"))
    fullest = sorted(items, key=lambda item: int(item["balance"]["remaining"]["mu_sq_pico"]))
    for item in fullest[:ACCOUNTS_SHOWN_MAX]:
        left, limit = (_left(item["balance"]["remaining"]), number(item["balance"]["limit"]["mu"]))
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


def project(shown: Mapping[str, Any]) -> None:
    """A project's share of a dataset."""
    out.print(Text.assemble((shown["name"], "bold"), f"  a project of {shown['dataset']}"))
    _parts("project", [shown])


def _left(remaining: Mapping[str, Any] | None) -> str:
    """What is left, as mu; overdrawn it is below zero, where only the digits say by how much."""
    if remaining is None:
        return "-"
    below = int(remaining["mu_sq_pico"])
    return f"-{number(math.sqrt(-below) / 1e6)}" if below < 0 else number(remaining["mu"])


def datasets(items: Sequence[Mapping[str, Any]]) -> None:
    """Datasets, a line each."""
    if not items:
        err.print("No datasets yet. Register one: privacy-ledger dataset create NAME --epsilon 3 --at-delta 1e-5")
    table = _table("name", "state", "bound", "mu left", "of", "budget", right=("mu left", "of"))
    for item in items:
        balance = item["balance"]
        if balance is None:
            table.add_row(item["name"], item["state"], item["bound"], "-", "-", f"that of {', '.join(item['roots'])}")
            continue
        left, limit = _left(balance["remaining"]), number(balance["limit"]["mu"])
        table.add_row(item["name"], item["state"], item["bound"], left, limit, bar(balance, width=BAR_WIDTH // 4))
    if items:
        out.print(table)


def approved(answer: Mapping[str, Any]) -> None:
    """An approval, and what to type next."""
    out.print(Text.assemble(("approved", "bold green"), f"  run {answer['id']}"))
    grid = _grid()
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
        said = answer["segments"]
        each = f"{said['count']:,} of {said['steps']:,} steps, mu {number(said['cost']['mu'])} each"
        grid.add_row("segments", f"{each}; in one piece it would be mu {number(said['unsegmented']['mu'])}")


def _where(grid: Table, found: Sequence[Mapping[str, Any]]) -> None:
    """What is left of each dataset that a run charges."""
    for place, where in enumerate(found):
        label = "" if place else "left"
        if where["remaining"] is None:
            grid.add_row(label, f"as much of {where['name']} as of what it is derived from")
        else:
            grid.add_row(label, f"mu {_left(where['remaining'])} of {where['name']}")


def planned(answer: Mapping[str, Any], *, solve_for: str | None, suggest: Callable[[str, Any], str]) -> None:
    """Whether a run would fit, and how much of it would, as a command to paste."""
    found = answer["datasets"]
    stopped = [f", {where['name']} is {where['state']}" for where in found if where["state"] != "active"]
    verdict = Text("fits", style="bold green") if answer["fits"] else Text("does not fit", style="bold red")
    out.print(Text.assemble(verdict, f"  {', '.join(where['name'] for where in found)}{''.join(stopped)}"))
    grid = _grid()
    grid.add_row("cost", f"mu {number(answer['cost']['mu'])}, delta {number(answer['cost']['delta'])}")
    _segments(grid, answer)
    for label, part in (("left", "remaining"), ("after", "after")):
        counted = [where for where in found if where[part] is not None]
        for place, where in enumerate(counted):
            name = f" of {where['name']}" if len(found) > 1 else ""
            left = f"mu {_left(where[part])}, delta {number(where[part]['delta'])}{name}"
            grid.add_row("" if place else label, left)
    grid.add_row("method", f"{answer['method']}{', an estimate' if answer['is_estimate'] else ''}")
    out.print(grid)
    if answer["binding"] and len(found) + len(answer["binding"]) > 2:
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
    table = _table("dataset", *named, "quantity", *numbers, right=tuple(numbers))
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
    table = _table("", "datasets", "", "run", "mu", right=("", "mu"))
    for place, (run, result) in enumerate(zip(asked, results, strict=True), start=1):
        uses = run.get("datasets", ())
        names = ", ".join(str(use.get("name") if isinstance(use, dict) else use) for use in uses)
        found, problem = result.get("run"), result.get("problem", {})
        verdict = Text("approved", style="green") if found else Text(str(problem.get("code")), style="bold red")
        cost = number(found["cost"]["mu"]) if found else ""
        table.add_row(str(place), escape(names), verdict, str(found["id"] if found else problem.get("run", "")), cost)
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
    grid = _grid()
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
    table = _table("run", "state", "dataset", *projects, "mechanism", "mu", "asked", "by", right=("mu",))
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


def _use(said: str | Mapping[str, Any]) -> str:
    """A dataset of a run as it would be typed."""
    if isinstance(said, str):
        return said
    partitions = ",".join(said.get("partitions") or ())
    return f"{said['name']}:{partitions}" if partitions else str(said["name"])


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
    projects = ["projects"] if any(item["projects"] is not None for item in items) else []
    table = _table("id", "name", "role", "datasets", *projects, "created", "last used", "until")
    for item in items:
        until = "revoked" if item["revoked_at"] else (item["expires_at"] or "")[:19].replace("T", " ")
        limits = [_limited(item[name]) for name in ("datasets", *projects)]
        created = item["created_at"][:19].replace("T", " ")
        used = (item["last_used_at"] or "")[:16].replace("T", " ")
        table.add_row(item["id"], escape(item["name"]), item["role"], *limits, created, used, until)
    out.print(table)


def _limited(names: Sequence[str] | None) -> str:
    """What a key is limited to."""
    return "all" if names is None else ", ".join(names)


def me(answer: Mapping[str, Any]) -> None:
    """Whom the ledger takes the caller for."""
    if answer["role"] == "operator":
        out.print("The operator, who makes tenants and reads nothing of theirs.")
        return
    out.print(Text.assemble((answer["name"], "bold"), f"  {answer['role']} of {answer['tenant']['name']}"))
    grid = _grid()
    grid.add_row("tenant", answer["tenant"]["id"])
    grid.add_row("principal", answer["principal"])
    for name in ("datasets", "projects"):
        grid.add_row(name, _limited(answer[name]))
    grid.add_row("until", answer["expires_at"] or "revoked")
    out.print(grid)


def policy(answer: Mapping[str, Any]) -> None:
    """What takes two people."""
    who = "take a second steward within a day" if answer["second_steward"] else "take one steward"
    out.print(f"Raising a budget, thawing an overdrawn dataset and voiding a started run {who}.")


def proposed(item: Mapping[str, Any]) -> None:
    """What a command only proposed, and who has to do what now."""
    out.print(Text("proposed", style="bold yellow"))
    out.print(_proposal(item))
    out.print("Nothing is changed yet. A second steward has to say one of these:")
    out.print(f"    privacy-ledger proposal approve {item['id']}", markup=False)
    out.print(f"    privacy-ledger proposal refuse {item['id']} --reason …", markup=False)


def proposal(item: Mapping[str, Any]) -> None:
    """A proposal, and what became of it."""
    out.print(Text(item["state"], style="bold"))
    out.print(_proposal(item))


def _proposal(item: Mapping[str, Any]) -> Table:
    said = item["proposes"].get("request", item["proposes"])
    grid = _grid()
    grid.add_row("proposal", item["id"])
    grid.add_row("what", _what(item))
    grid.add_row("by", escape(str(item["proposed_by"]["name"])))
    grid.add_row("reason", escape(str(said.get("reason"))))
    grid.add_row("approve by", item["approve_by"])
    return grid


def _what(item: Mapping[str, Any]) -> str:
    """What is proposed, in a few words."""
    match item["what"]:
        case "budget":
            budget = item["proposes"]["budget"]
            said = ", ".join(f"{name} {number(budget[name])}" for name in _BUDGET if name in budget)
            return f"set the budget of {item['dataset']} to {said}"
        case "thaw":
            return f"thaw {item['dataset']}"
        case _:
            return f"void run {item['run']}"


def proposals(items: Sequence[Mapping[str, Any]]) -> None:
    """Proposals, a line each, newest first."""
    if not items:
        err.print("No proposals.")
        return
    table = _table("id", "state", "what", "by", "approve by")
    for item in items:
        by, until = escape(str(item["proposed_by"]["name"])), item["approve_by"][:19].replace("T", " ")
        table.add_row(item["id"], item["state"], _what(item), by, until)
    out.print(table)


def alerts(items: Sequence[Mapping[str, Any]]) -> None:
    """Alerts, a line each, newest first."""
    if not items:
        err.print("No alerts.")
        return
    table = _table("at", "kind", "dataset", "what", "delivery")
    for item in items:
        event, delivery = item["event"], item["delivery"]
        state = "not sent" if delivery["state"] == "none" else delivery["state"]
        if delivery["failure"] is not None and delivery["state"] != "delivered":
            state = f"{state} ({delivery['failure']})"
        dataset = escape(event.get("dataset", {}).get("name", ""))
        table.add_row(item["at"][:19].replace("T", " "), item["kind"], dataset, escape(_told(event)), escape(state))
    out.print(table)


def _told(event: Mapping[str, Any]) -> str:
    """An alert in a few words."""
    account = ", ".join(event.get("account", {}).values())
    where = f" of {account}" if account else ""
    match event["kind"]:
        case "threshold":
            return f"{event['percent']} % of the budget{where} spent and held"
        case "refusals":
            return f"{event['in_a_row']} refusals in a row"
        case "overrun":
            return f"run {event['run']} executed {event['overrun']['steps']} steps more than planned"
        case "frozen":
            return "frozen by an overrun" if event["because"] == "run-settled" else f"frozen: {event.get('reason')}"
        case "overdue":
            what = "started" if event["state"] == "held" else "settled"
            return f"run {event['run']} was to be {what} by {event['due'][:19].replace('T', ' ')}"
        case "mismatch":
            return f"entry {event['seq']}: {event['reason']}"
        case "head":
            return f"entry {event['seq']} has the hash {event['hash'][:16]}…"
        case "forecast":
            return f"about {event['days_left']} days of the budget{where} left"
        case _:
            return "a test"


def alerting(answer: Mapping[str, Any]) -> None:
    """What a tenant is told of."""
    refusals, days, webhook = answer["refusals_in_a_row"], answer["forecast_days"], answer["webhook"]
    grid = _grid()
    grid.add_row("thresholds", ", ".join(f"{percent} %" for percent in answer["thresholds"]) or "none")
    grid.add_row("refusals in a row", "never" if refusals is None else str(refusals))
    grid.add_row("budget lasts less than", "never" if days is None else f"{days} days")
    heads = ", with heads" if answer["heads"] else ""
    grid.add_row("webhook", "none" if webhook is None else f"{escape(webhook['host'])}{heads}")
    out.print(grid)


def tested(item: Mapping[str, Any]) -> None:
    """What came of a test alert."""
    if item["delivery"]["state"] == "none":
        out.print("Raised. There is no webhook, so it is only listed: privacy-ledger alerts")
    else:
        out.print("Raised, and on its way. What comes of it: privacy-ledger alerts --kind test")


def forecast(answer: Mapping[str, Any]) -> None:
    """How long a budget lasts, by the rate of the last weeks."""
    out.print(f"At the rate of the last {answer['window_days']} days. An estimate; it decides nothing.")
    table = _table(
        "account", "runs", "mu spent", "mu left", "lasts until", "days", right=("runs", "mu spent", "mu left")
    )
    for item in answer["accounts"]:
        account = ", ".join(filter(None, (item["partition"], item["project"]))) or "the dataset"
        until, days = (item["lasts_until"] or "")[:10], str(item["days_left"] if item["lasts_until"] else "")
        if item["lasts_until"] is None:
            until = "a hundred years" if item["is_enough"] else "too few runs to say"
        spent, left = number(item["spent"]["mu"]), number(item["remaining"]["mu"])
        table.add_row(escape(account), str(item["runs"]), spent, left, until, days)
    out.print(table if answer["accounts"] else "No run was charged to it lately, and it has no budget of its own.")


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
            verdict = Text(result["error"], style="bold red")
        table.add_row(escape(result["tenant"]), result["dataset"] or "", f"{result['entries']:,}", verdict)
    out.print(table if found else "There are no tenants yet.")


def receipt(found: Receipt) -> None:
    """That a receipt is good, and of what."""
    out.print(Text.assemble(("good", "bold green"), f"  the receipt of run {found.run}, {found.state}"))
    grid = _grid()
    grid.add_row("tenant", escape(f"{found.tenant} ({found.tenant_id})"))
    for place, each in enumerate(found.datasets):
        parts = "" if each.partitions is None else f" ({', '.join(each.partitions)})"
        grid.add_row("" if place else "datasets", f"{each.name}{parts}, entry {each.seq:,}")
    if found.project is not None:
        grid.add_row("project", found.project)
    grid.add_row("mechanism", f"{found.mechanism_type}, {found.mechanism_digest}")
    grid.add_row("cost", _mu(Amount(found.mu_sq_pico, found.delta_atto)))
    grid.add_row("valid until", found.valid_until.isoformat())
    out.print(grid)
    if found.state == "held":
        out.print("It is an approval, which can still be voided: no job may begin by it.")


def rejected(error: LedgerError) -> None:
    """Why a receipt lets nothing begin."""
    err.print(Text.assemble(("not good", "bold red"), f"  {error.detail}"))


def received(answer: Mapping[str, Any]) -> None:
    """A receipt as the server gives it."""
    err.print(Text.assemble((answer["state"], "bold"), f"  run {answer['run']}"))
    if answer["state"] == "held":
        err.print("No job may begin by it: privacy-ledger start, and the receipt after that.")
    out.print(answer["receipt"], markup=False)


def signing_keys(keys: Sequence[Mapping[str, Any]]) -> None:
    """The keys that are or were signed with, the current one first."""
    table = _table("key", "public", "")
    for place, key in enumerate(keys):
        table.add_row(key["kid"], key["x"], "retired" if place else "signs now")
    out.print(table)


def verified_facts(found: Verified | VerifiedTenant) -> dict[str, Any]:
    """What an export that holds says, for --json."""
    if isinstance(found, VerifiedTenant):
        return {
            "holds": True,
            "tenant": found.tenant,
            "seq": found.journal.seq,
            "hash": found.journal.head.hex(),
            **_vouched_facts(found.vouched),
            "second_steward": found.journal.second_steward,
            "keys": {
                str(id_): {"name": key.name, "role": key.role, "is_revoked": key.is_revoked}
                for id_, key in found.journal.keys.items()
            },
        }
    return {
        "holds": True,
        "tenant": found.tenant,
        "dataset": found.dataset,
        "seq": found.journal.seq,
        "hash": found.journal.head.hex(),
        **_vouched_facts(found.vouched),
        "state": found.journal.state,
        "limit": _facts(found.journal.limit),
        "limit_highest": _facts(found.journal.limit_highest),
        "accounts": [
            {**account.key.facts(), **account.facts()}
            for account in sorted(found.journal.accounts.values(), key=lambda account: _name(account.key))
        ],
        "runs": {str(run): state for run, (state, _) in found.journal.runs.items()},
    }


def save(output: Path, text: str) -> None:
    """Writes a text to a file. Raises InvalidRequest, naming `output`."""
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{output}: {error.strerror}", field="output") from None


def counted(count: int, one: str, many: str | None = None) -> str:
    """So many of something, in words."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _vouched_facts(vouched: Vouched) -> dict[str, Any]:
    found = {"heads": vouched.heads, "receipts": vouched.receipts, "earlier": vouched.earlier}
    return {
        "root": vouched.root.hex(),
        "signed_by": vouched.kid,
        "is_trusted": vouched.is_trusted and vouched.kid is not None,
        "contains": found,
    }


def _vouched(vouched: Vouched, grid: Table) -> None:
    """What speaks for an export, and what does not."""
    if vouched.kid is None:
        grid.add_row("signed by", Text("nobody: version 1 had no signature", style="yellow"))
    elif vouched.is_trusted:
        grid.add_row("signed by", f"{vouched.kid}, one of the keys you gave")
    else:
        told = f"{vouched.kid}, which came with the export itself: anybody could have made it. Say --jwks"
        grid.add_row("signed by", Text(told, style="yellow"))
    held = (
        (vouched.receipts, "receipt", "receipts"),
        (vouched.heads, "earlier head", "earlier heads"),
        (vouched.earlier, "entry of the earlier export", "entries of the earlier export"),
    )
    if any(count for count, *_ in held):
        grid.add_row("contains", ", ".join(counted(*each) for each in held if each[0]))


def proved_facts(found: Proved) -> dict[str, Any]:
    """What a proof that holds shows, for --json."""
    return {
        "holds": True,
        "kind": found.kind,
        "tenant": found.tenant,
        "dataset": found.dataset,
        **({"seq": found.seq, "hash": found.hash} if found.kind == "inclusion" else {"from": found.seq}),
        "size": found.size,
        "root": found.root,
        "signed_by": found.kid,
        "receipts": found.receipts,
    }


def proved(found: Proved) -> None:
    """That a proof holds, and what it shows."""
    where = f"the tenant {found.tenant}" if found.dataset is None else f"{found.dataset} of {found.tenant}"
    out.print(Text.assemble(("holds", "bold green"), f"  {where}"))
    grid = _grid()
    if found.kind == "inclusion":
        grid.add_row("entry", f"{found.seq:,} is among the first {found.size:,}")
        grid.add_row("its hash", str(found.hash))
        grid.add_row("named by", f"{counted(found.receipts, 'receipt')} of it" if found.receipts else "none given")
    else:
        grid.add_row("history", f"of {found.size:,} entries begins with that of {found.seq:,}, as it was signed")
    grid.add_row("root", found.root)
    grid.add_row("signed by", found.kid)
    out.print(grid)


def _facts(amount: Amount | None) -> dict[str, str] | None:
    return None if amount is None else amount.facts()


def _name(key: AccountKey) -> tuple[str, ...]:
    """What an account is called, such that those of the dataset itself come first."""
    return (key.project or "", str(key.principal_id or ""), key.partition or "")


def verified(found: Verified) -> None:
    """That an export holds, and what it says."""
    out.print(Text.assemble(("holds", "bold green"), f"  {found.dataset} of {found.tenant}"))
    grid = _grid()
    grid.add_row("entries", f"{found.journal.seq:,}")
    grid.add_row("head", found.journal.head.hex())
    _vouched(found.vouched, grid)
    if found.journal.limit is not None and found.journal.limit_highest is not None:
        grid.add_row("limit", _mu(found.journal.limit))
        if found.journal.limit_highest != found.journal.limit:
            grid.add_row("it was up to", _mu(found.journal.limit_highest))
    accounts = sorted(found.journal.accounts.values(), key=lambda account: _name(account.key))
    if len(accounts) == 1 and not accounts[0].key.facts():
        for part in ("spent", "held", "overdrawn"):
            grid.add_row(part, _mu(getattr(accounts[0], part)))
    states = [state for state, _ in found.journal.runs.values()]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    grid.add_row("runs", counted or "none")
    out.print(grid)
    if len(accounts) > 1:
        _accounts(accounts)
    out.print(_COMPARE)


def verified_tenant(found: VerifiedTenant) -> None:
    """That an export of a tenant's own journal holds, and what it says."""
    out.print(Text.assemble(("holds", "bold green"), f"  the tenant {found.tenant}"))
    grid = _grid()
    grid.add_row("entries", f"{found.journal.seq:,}")
    grid.add_row("head", found.journal.head.hex())
    _vouched(found.vouched, grid)
    revoked = sum(key.is_revoked for key in found.journal.keys.values())
    grid.add_row("keys", f"{len(found.journal.keys)} made, {revoked} of them revoked")
    grid.add_row("takes two", "yes" if found.journal.second_steward else "no")
    out.print(grid)
    out.print(_COMPARE)


def _mu(amount: Amount) -> str:
    pico = amount.mu_sq_pico
    return f"mu {number(math.sqrt(pico) / 1e6)} ({pico:,} × 1e-12 of mu²)"


def _accounts(accounts: Sequence[Account]) -> None:
    """What is spent and held where, the fullest first, as many as a person reads."""
    table = _table("account", "limit", "spent", "held", right=("limit", "spent", "held"))
    fullest = sorted(accounts, key=lambda account: account.remaining.mu_sq_pico)
    for account in fullest[:ACCOUNTS_SHOWN_MAX]:
        amounts = (account.limit, account.spent, account.held)
        where = ", ".join(f"{name} {value}" for name, value in account.key.facts().items()) or "the dataset"
        table.add_row(where, *(number(math.sqrt(amount.mu_sq_pico) / 1e6) for amount in amounts))
    out.print(table)
    if len(fullest) > ACCOUNTS_SHOWN_MAX:
        out.print(f"and {len(fullest) - ACCOUNTS_SHOWN_MAX:,} more; --json has all of them")


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
