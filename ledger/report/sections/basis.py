"""The sections of changes, assumptions, heads and recomputation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ledger.encoding import JsonObject
from ledger.report.blocks import Block, Column, Facts, Heading, Line, Paragraph, Table, line
from ledger.report.phrases import brief, budget, names, short, who
from ledger.report.sections.runs import listed, position
from ledger.report.view import View


def changes(view: View) -> Iterator[Block]:
    """Yield the changes that stewards made."""
    rows = (
        (
            position(item),
            tuple(_changed(item)),
            who(item["by"]),
            who(item["proposed_by"]),
            line(short(item["reason"] or (item["details"].get("proposes") or {}).get("reason"))),
        )
        for item in view.document["changes"]
    )
    titles = (
        Column("Entry", 1.6),
        Column("What", 2.5),
        Column("By", 2.1),
        Column("Proposed by", 2.1),
        Column("Why", 1.8),
    )
    none = "No budget, policy or state was changed in the period."
    yield from listed(view, "changes", "Changes of budgets and other settings", none, titles, rows)


def _changed(item: JsonObject) -> Iterator[Line]:
    details = item["details"]
    yield Line(item["kind"].replace("-", " "), "strong")
    if "what" in details:
        yield Line(f"{details['what']}, under {item['proposal']}", "dim")
    if "about_run" in details:
        yield Line(f"run {details['about_run']}", "mono")
    if "proposes" in details and "budget" in details["proposes"]:
        yield Line(f"would set {budget(details['proposes']['budget'])}")
    if "project" in details:
        yield Line(f"project {details['project']}")
    if "budget" in details:
        yield Line(f"budget {budget(details['budget'])}")
    before, after = details.get("limit_before"), details.get("limit")
    if after is not None:
        yield Line(f"limit {brief(after, False)}" + ("" if before is None else f", before {brief(before, False)}"))
    if "names" in details:
        yield Line(f"partitions {names(details['names'])}, affirmed as disjoint")
    if "fair_use" in details and details["fair_use"]["held"] is not None:
        yield Line(f"one principal may hold {budget(details['fair_use']['held'])}")
    if "state" in details and item["kind"] == "dataset-changed":
        yield Line(f"now {details['state']}")
    if item["kind"] == "dataset-changed" and {"title", "description"} & set(details):
        yield Line("new title or description")


def assumptions(document: JsonObject) -> Iterator[Block]:
    """Yield the assumptions of the costs."""
    yield Heading(1, "Assumptions", "assumptions")
    items = document["assumptions"]
    shared = [item for item in items if item["about"] in _SHARED]
    for about in _SHARED:
        sentence = next((item["sentence"] for item in shared if item["about"] == about), None)
        if sentence is not None:
            yield Paragraph(f"{about.capitalize()}. {sentence}")
    titles = (Column("Dataset", 1.2), Column("About", 1.2), Column("Assumed", 6))
    rows = tuple(
        (line(item["dataset"], "strong"), line(item["about"]), line(item["sentence"]))
        for item in items
        if item["about"] not in _SHARED
    )
    if rows:
        yield Table("Assumptions of each dataset", titles, rows)


_SHARED: Final = ("composition", "declarations")


def heads(document: JsonObject) -> Iterator[Block]:
    """Yield the signed heads of the journals."""
    yield Heading(1, "Heads of the journals", "heads")
    yield Paragraph(
        "The head (number and hash of the newest entry) identifies the whole journal before it. Compare it with a head "
        "from another source: if any earlier entry is changed or removed, the heads differ."
    )
    for head in document["heads"]:
        yield Heading(2, head["dataset"] or "the tenant's own journal", f"head-{head['dataset'] or ''}")
        yield Facts(
            (
                ("Entries", line(f"{head['seq']:,}, of which this report counts {head['counted_seq']:,}")),
                ("Hash", line(head["hash"], "mono")),
                ("Root", line(head["root"] or "none", "mono")),
                ("Signature", line(head["signature"] or "not signed", "mono")),
                ("Counted to", line(head["counted_hash"] or "–", "mono")),
            )
        )


def recompute(document: JsonObject) -> Iterator[Block]:
    """Yield the instructions to recompute the report."""
    instructions = document["recompute"]
    yield Heading(1, "How to recompute this report", "recompute")
    yield Paragraph(instructions["totals"])
    rows = tuple(
        (line(item["quantity"], "strong"), line(item["formula"]), line(item["source"]))
        for item in instructions["formulas"]
    )
    yield Table("Formulas", (Column("Quantity", 1.6), Column("Formula", 3), Column("Source", 2.6)), rows)
    yield Facts(
        tuple((f"{index}.", line(command, "mono")) for index, command in enumerate(instructions["commands"], start=1))
    )
    yield Paragraph(f"These documents explain the formats and the formulas: {', '.join(instructions['documents'])}.")
