"""The section of balances, and what they mean."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ledger.encoding import JsonObject
from ledger.report.blocks import (
    Block,
    Cell,
    Column,
    Facts,
    Figure,
    FigureKind,
    Heading,
    Line,
    Paragraph,
    Table,
    line,
)
from ledger.report.phrases import (
    ADJACENCY,
    account_name,
    amount,
    brief,
    budget,
    digits,
    epsilon,
    names,
    percent,
    short,
    significant,
)
from ledger.report.view import FIGURES_MAX, View


def datasets(view: View) -> Iterator[Block]:
    """Yield the balance of each dataset, with figures."""
    document = view.document
    yield Heading(1, "Spent, held and remaining budget", "spent")
    yield Paragraph(
        "The ledger counts exact integers: mu² in units of 1e-12 (pico), and -log(1 - delta) in units of 1e-18 (atto). "
        "mu and delta are shown rounded. Epsilon and an attacker's rates are rounded up."
    )
    if view.is_cut("datasets"):
        count, total = len(document["datasets"]), view.totals["datasets"]
        yield Paragraph(f"This shows the first {count:,} of {total:,} datasets. The JSON has all of them.", "note")
    drawn = 0
    for item in document["datasets"]:
        yield Heading(2, item["name"], f"dataset-{item['name']}")
        yield Facts(tuple(_about(item)))
        if item["balance"] is None:
            yield Paragraph(_no_balance(document, item))
        else:
            yield _balance(item)
            yield from _plainly(item)
        if item["balance"] is not None and drawn < FIGURES_MAX:
            drawn += 1
            yield from _figures(item, document["about"]["as_of"])
        elif item["balance"] is not None:
            yield Paragraph(
                f"Only the first {FIGURES_MAX} datasets have figures. The JSON has the numbers of all.", "note"
            )


def _no_balance(document: JsonObject, item: JsonObject) -> str:
    if document["about"]["scope"] == "project":
        return "The project has no share of this dataset. Its runs are charged only to the budget of the dataset."
    if item["derived_from"]:
        return f"It has no budget of its own. Its runs are charged to {names(item['derived_from'])}."
    return "It has no account yet."


def _about(item: JsonObject) -> Iterator[tuple[str, Cell]]:
    if item["title"]:
        yield "Title", line(short(item["title"]))
    if item["description"]:
        yield "Description", line(short(item["description"]))
    yield "Privacy unit", line(item["privacy_unit"] or "–")
    yield "Adjacency", line(ADJACENCY.get(item["adjacency"], "–"))
    bound = "clt: estimates, not a guarantee" if item["is_estimate"] else f"{item['bound'] or '–'}: guaranteed"
    yield "Bound", line(bound)
    yield "Size", line("not stated" if item["size"] is None else f"{item['size']:,} records")
    yield "State", line(item["state"] or "–")
    counted = ", of each partition" if item["is_partitioned"] else ""
    yield "Budget", line(f"{budget(item['budget'])}{counted}")
    yield "Ceiling", line("none" if item["ceiling"] is None else brief(item["ceiling"], item["is_estimate"]))
    if item["derived_from"]:
        yield "Derived from", line(names(item["derived_from"]))
    if item["fair_use"] is not None:
        rate = item["fair_use"]["runs_per_hour"]
        held = "any amount" if item["fair_use"]["held"] is None else budget(item["fair_use"]["held"])
        yield (
            "Fair use",
            line(f"one principal may hold {held}" + ("" if rate is None else f", and ask for {rate} runs per hour")),
        )
    totals = item["totals"]
    yield (
        "Runs in the period",
        line(
            f"{totals['approved']:,} approved, {totals['refused']:,} refused, {totals['settled']:,} settled, "
            f"{totals['voided']:,} voided, {totals['overruns']:,} with an overrun, "
            f"{totals['corrections']:,} corrections; {totals['open']:,} open at the end"
            + (f"; {past:,} past runs entered, declared and not observed" if (past := totals["entered"]) else "")
        ),
    )


def _balance(item: JsonObject) -> Table:
    about = "≈ " if item["is_estimate"] else ""
    rows = []
    for name in ("limit", "spent", "held", "left"):
        amounts = item["balance"][name]
        rows.append(
            (
                line(name, "strong"),
                line(f"{about}{significant(amounts['mu'])}"),
                line(digits(amounts["mu_sq_pico"])),
                line(significant(amounts["delta"])),
                line(digits(amounts["delta_atto"])),
            )
        )
    titles = (
        Column("", 1),
        Column("mu", 1.2, True),
        Column("mu² × 1e-12, exact", 2.2, True),
        Column("delta", 1.4, True),
        Column("-log(1 - delta) × 1e-18, exact", 2.6, True),
    )
    counted = "Balance of the fullest partition" if item["is_partitioned"] else "Balance"
    return Table(counted, titles, tuple(rows))


def _plainly(item: JsonObject) -> Iterator[Block]:
    """Explain the balance: epsilon, and the success of an attacker."""
    unit = item["privacy_unit"]
    is_residual = item["costing"] == "residual"
    rate = item["attack"]["limit" if is_residual else "spent"]["true_positive_rates"][0]
    released = (
        "everything that this limit allows to be released" if is_residual else "everything that was released so far"
    )
    estimate = " These rates are estimates." if item["is_estimate"] else ""
    yield Paragraph(
        f"Suppose that an attacker has {released}, knows all other data, and guesses whether "
        f"one {unit} is in the data. If the attacker is wrong about {percent(rate['false_positive_rate'])} of those "
        f"that are not in it, the guess is right for at most {percent(rate['true_positive_rate'])} of those that are."
        f"{estimate}"
    )
    if is_residual:
        yield Paragraph(f"{SHARE} {_least(item['least_limit'])}".rstrip())
    about = "≈ " if item["is_estimate"] else ""
    rows = [
        (
            line(f"epsilon at delta {significant(at_delta['delta'])}", "strong"),
            *(line(f"{about}{epsilon(at_delta[name])}") for name in _WHICH),
        )
        for at_delta in item["epsilon"]
    ]
    for index, rate in enumerate(item["attack"]["spent"]["true_positive_rates"]):
        rows.append(
            (
                line(f"highest true-positive rate at {percent(rate['false_positive_rate'])} false positives", "strong"),
                *(
                    line(f"{about}{percent(item['attack'][name]['true_positive_rates'][index]['true_positive_rate'])}")
                    for name in _WHICH
                ),
            )
        )
    rows.append(
        (
            line("highest advantage (true minus false positives)", "strong"),
            *(line(f"{about}{percent(item['attack'][name]['advantage'])}") for name in _WHICH),
        )
    )
    titles = (
        Column("", 3.4),
        Column("spent", 1.3, True),
        Column("spent and held", 1.3, True),
        Column("at the limit", 1.3, True),
    )
    yield Table(f"What this means for one {unit} in the data", titles, tuple(rows))


_WHICH: Final = ("spent", "committed", "limit")
SHARE: Final = (
    "Costs are residual: each run was costed beside what was left of the budget. What is spent is a share of the "
    "budget, and no longer by itself a bound on what was released. The guarantee is the limit that was fixed in "
    "advance."
)


def _least(least: JsonObject | None) -> str:
    if least is None:
        return ""
    shown = ", ".join(f"{epsilon(at['epsilon'])} at delta {significant(at['delta'])}" for at in least["epsilon"])
    return (
        f"The least limit under which the same entries would have been approved has mu "
        f"{significant(least['amount']['mu'], up=True)} and epsilon {shown}. It bounds what was released only if the "
        "runs were fixed in advance; otherwise it is an indication."
    )


def _figures(item: JsonObject, as_of: str | None) -> Iterator[Block]:
    figures, is_estimate, name = item["figures"], item["is_estimate"], item["name"]
    counted = " in the fullest partition" if item["is_partitioned"] else ""
    estimate = " Estimates (bound clt)." if is_estimate else ""

    def drawn(kind: FigureKind, caption: str, data: Any, is_half: bool = False) -> Figure:
        return Figure(kind, f"{name}: {caption}{estimate}", data, is_estimate, as_of, is_half)

    if figures["burn_down"]:
        yield drawn("burn_down", f"spent and held{counted}, and the limit, over time.", figures["burn_down"])
    if item["projects"]:
        yield drawn("projects", "spent and held by the runs of each project.", item["projects"])
    if figures["trade_off"] is not None:
        caption = "the least errors of a test whether one unit is in the data."
        yield drawn("trade_off", caption, figures["trade_off"], True)
        yield drawn("epsilon", "epsilon at each delta.", figures["epsilon"], True)


def accounts(view: View) -> Iterator[Block]:
    """Yield the accounts of partitions, projects and principals."""
    items = [item for item in view.document["accounts"] if item["kind"] != "dataset"]
    if not items:
        return
    yield Heading(2, "Partitions, projects and principals", "accounts")
    if view.is_cut("accounts"):
        count, total = len(view.document["accounts"]), view.totals["accounts"]
        yield Paragraph(f"This shows the first {count:,} of {total:,} accounts. The JSON has all of them.", "note")
    residual = {item["name"] for item in view.document["datasets"] if item["costing"] == "residual"}
    if any(item["dataset"] in residual for item in items):
        yield Paragraph(SHARE, "note")
    rows = []
    for item in items:
        about = item["is_estimate"]
        rows.append(
            (
                (Line(item["dataset"], "strong"), Line(account_name(item["account"]))),
                *(amount(item[name], about) for name in ("limit", "spent", "held", "left")),
                _disclosed(item),
            )
        )
    titles = (
        Column("Account", 1.6),
        *(Column(name, 2) for name in ("Limit", "Spent", "Held", "Left")),
        Column("Meaning of spent", 1.6),
    )
    yield Table("All other accounts", titles, tuple(rows))


def _disclosed(item: JsonObject) -> Cell:
    if item["attack"] is None:
        return (Line("limits only what is held at once; it guarantees nothing about the data", "dim"),)
    about = "≈ " if item["is_estimate"] else ""
    lines = [Line(f"epsilon {about}{epsilon(row['spent'])}") for row in item["epsilon"]]
    rates = item["attack"]["spent"]["true_positive_rates"]
    lines += [
        Line(f"{about}{percent(row['true_positive_rate'])} at {percent(row['false_positive_rate'])}", "dim")
        for row in rates
    ]
    return (*lines, Line(f"advantage {about}{percent(item['attack']['spent']['advantage'])}", "dim"))
