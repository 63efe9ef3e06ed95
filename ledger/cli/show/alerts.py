"""Print alerts in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ledger.cli.show import notes, rows
from ledger.cli.show.console import err, new_grid, out, percent, remaining_text, up

if TYPE_CHECKING:
    from ledger.service.shapes.alerts import AccountForecast, AlertingShown, AlertShown, ForecastShown


_NUMBERS: Final = ("% spent", "% left", "mu spent", "mu left")
"""The columns of what is spent and left of a budget."""


def alerts(items: Sequence[AlertShown]) -> None:
    """Print alerts, one per line, newest first."""
    if not items:
        err.print("No alerts.")
        return
    cells = []
    for item in items:
        event, delivery = item["event"], item["delivery"]
        state: str = "not sent" if delivery["state"] == "none" else delivery["state"]
        if delivery["failure"] is not None and delivery["state"] != "delivered":
            state = f"{state} ({delivery['failure']})"
        dataset = event.get("dataset", {}).get("name", "")
        cells.append((item["at"][:19].replace("T", " "), item["kind"], dataset, _event_text(event), state))
    columns = ("at", "kind", "dataset", "what", "delivery")
    rows.show(rows.Rows(columns, cells, texts=("what", "dataset", "delivery"), drop=("delivery", "kind")))


def _event_text(event: Mapping[str, Any]) -> str:
    """Describe an alert in a few words."""
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
            because = {"run-settled": "after an overrun", "run-corrected": "after a correction that did not fit"}
            because |= {"run-entered": "after a past run that did not fit"}
            why = because.get(event["because"])
            return f"frozen: {event.get('reason')}" if why is None else f"frozen {why}"
        case "overdue":
            what = "started" if event["state"] == "held" else "settled"
            return f"run {event['run']} should have been {what} by {event['due'][:19].replace('T', ' ')}"
        case "proposal":
            by = event["by"]["name"]
            return f"{by} proposes a change ({event['what']}): {event['proposal'][:8]}, approve by {_minute(event)}"
        case "lapsing":
            return f"proposal {event['proposal'][:8]} ({event['what']}) lapses at {_minute(event)}"
        case "mismatch":
            return f"entry {event['seq']}: {event['reason']}"
        case "head":
            return f"entry {event['seq']} has the hash {event['hash'][:16]}…"
        case "forecast":
            return f"about {event['days_left']} days of the budget{where} left"
        case _:
            return "a test"


def _minute(event: Mapping[str, Any]) -> str:
    return str(event["approve_by"])[:16].replace("T", " ")


def alerting(answer: AlertingShown) -> None:
    """Print which alerts a tenant raises, and where they are sent."""
    refusals, days, webhook = answer["refusals_in_a_row"], answer["forecast_days"], answer["webhook"]
    grid = new_grid()
    grid.add_row("thresholds", ", ".join(f"{percent} %" for percent in answer["thresholds"]) or "none")
    grid.add_row("refusals in a row", "never" if refusals is None else str(refusals))
    grid.add_row("budget lasts less than", "never" if days is None else f"{days} days")
    heads = ", with heads" if answer["heads"] else ""
    grid.add_row("webhook", "none" if webhook is None else f"{webhook['host']}{heads}")
    out.print(grid)


def tested(item: AlertShown) -> None:
    """Print what happened to a test alert."""
    if item["delivery"]["state"] == "none":
        out.print("Raised. No webhook is set, so it is only listed: privacy-ledger alerts")
    else:
        out.print("Raised, and being sent. To see whether it arrived: privacy-ledger alerts --kind test")


def forecasts(items: Sequence[ForecastShown]) -> None:
    """Print how long each budget lasts, the first to run out first."""
    if not items:
        err.print("No datasets.")
        return
    out.print(f"At the rate of the last {items[0]['window_days']} days. An estimate; it decides nothing.")
    listed = [(item["dataset"], account) for item in items for account in item["accounts"]]
    ranked = sorted(listed, key=lambda pair: (pair[1]["lasts_until"] is None, pair[1]["lasts_until"] or "", pair[0]))
    cells = [
        (
            dataset,
            ", ".join(filter(None, (account["partition"], account["project"]))),
            f"{account['runs']:,}",
            *_numbers(account),
            *_lasting(account),
        )
        for dataset, account in ranked
    ]
    columns = ("dataset", "account", "runs", *_NUMBERS, "lasts until", "days")
    numbers = ("runs", *_NUMBERS, "days")
    drop = ("mu spent", "mu left", "runs", "account")
    rows.show(rows.Rows(columns, cells, right=numbers, texts=("dataset", "account"), drop=drop))
    for item in items:
        notes.warnings(item)


def _numbers(account: AccountForecast) -> tuple[str, ...]:
    """Return what was spent and is left, by _NUMBERS."""
    parts = (account.get("percent_spent"), account.get("percent_left"))
    return (
        *(percent(part).removesuffix(" %") for part in parts),
        up(account["spent"]["mu"]),
        remaining_text(account["remaining"]),
    )


def _lasting(account: AccountForecast) -> tuple[str, str]:
    """Return until when a budget lasts, and for how many days."""
    if account["lasts_until"] is None:
        return "over a hundred years" if account["is_enough"] else "too few runs", ""
    return account["lasts_until"][:10], str(account["days_left"])


def forecast(answer: ForecastShown) -> None:
    """Print how long a budget lasts, at the rate of the last weeks."""
    out.print(f"At the rate of the last {answer['window_days']} days. An estimate; it decides nothing.")
    cells = []
    for item in answer["accounts"]:
        account = ", ".join(filter(None, (item["partition"], item["project"]))) or "the dataset"
        until, days = _lasting(item)
        cells.append((account, str(item["runs"]), *_numbers(item), until, days))
    if not cells:
        out.print("No run was charged to it recently, and it has no budget of its own.")
        return
    columns = ("account", "runs", *_NUMBERS, "lasts until", "days")
    right, drop = ("runs", *_NUMBERS), ("mu spent", "mu left", "runs")
    rows.show(rows.Rows(columns, cells, right=right, texts=("account",), drop=drop))
    notes.warnings(answer)
