"""The first page and the verdict: is every budget kept?"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from ledger.encoding import JsonObject
from ledger.report.blocks import Block, Cell, Column, Facts, Heading, Line, Paragraph, Table, Tone, line
from ledger.report.phrases import (
    account_name,
    amount,
    epsilon,
    moment,
    names,
    percent,
    short,
    significant,
    times,
    who,
)
from ledger.report.sections.plain import made
from ledger.report.view import View


def title(document: JsonObject) -> str:
    """Return the title of the report."""
    return f"Privacy budget report: {subject(document)}"


def subject(document: JsonObject) -> str:
    """Return what the report is about."""
    about = document["about"]
    if about["scope"] == "tenant":
        return f"all datasets of {about['tenant']['name']}"
    return f"{about['scope']} {about[about['scope']]}"


def period(document: JsonObject) -> str:
    """Return the period in words."""
    about = document["about"]
    if about["from"] is None and about["to"] is None:
        return "from the beginning to the newest entry"
    since = "the beginning" if about["from"] is None else moment(about["from"])
    return f"from {since} to {'the newest entry' if about['to'] is None else moment(about['to'])}"


def tone(document: JsonObject) -> Tone:
    """Return the tone in which the verdict is shown."""
    verdict = document["verdict"]
    if not verdict["kept"]:
        return "bad"
    return "note" if verdict["is_estimate"] else "good"


def cover(view: View) -> Facts:
    """Return the facts on the first page."""
    about = view.document["about"]
    rows = [
        ("About", line(subject(view.document))),
        ("Tenant", (Line(about["tenant"]["name"]), Line(about["tenant"]["id"], "dim"))),
        ("Period", line(period(view.document))),
        ("As of", line(moment(about["as_of"]))),
        ("Datasets", line(names(about["datasets"]))),
        ("Runs", line(f"{view.totals['runs']:,}")),
    ]
    if weak := [item for item in view.document["verdict"]["datasets"] if item["weak_protection"] is not None]:
        more = [Line(f"and {len(weak) - SUMMARY_MAX:,} more datasets")] if len(weak) > SUMMARY_MAX else []
        rows.append(("Weak protection", (*(Line(_weak(item), "strong") for item in weak[:SUMMARY_MAX]), *more)))
    if about["restricted_to"] is not None:
        rows.append(
            ("Restricted to", line(f"the datasets that the requester's key may read: {names(about['restricted_to'])}"))
        )
    return Facts((*rows, *made(view.document)))


def _weak(item: JsonObject) -> str:
    """Return what the weak budget of a dataset lets an attacker learn, and who accepted that."""
    weak = item["weak_protection"]
    accepted = weak["accepted"]
    who_did = (
        "No steward was asked to accept this."
        if accepted is None
        else f"Accepted by {short(accepted['by']['name'])} in entry {accepted['seq']}."
    )
    return (
        f"{item['dataset']}: epsilon {epsilon(weak['epsilon'])} at delta {significant(weak['at_delta'])}. An attacker"
        f" who is wrong about {percent(weak['false_positive_rate'])} of the persons who are not in the data can find up"
        f" to {percent(weak['true_positive_rate'])} of those who are. {who_did}"
    )


def summary(view: View) -> Table | None:
    """Return a table of the first datasets, for the first page; None if none has a balance."""
    rows = []
    for item in view.document["datasets"][:SUMMARY_MAX]:
        if item["balance"] is None:
            continue
        about, at_delta = "≈ " if item["is_estimate"] else "", item["epsilon"][0]
        rows.append(
            (
                line(item["name"], "strong"),
                line(f"{about}{epsilon(at_delta['spent'])}"),
                line(f"{about}{epsilon(at_delta['committed'])}"),
                line(f"{about}{epsilon(at_delta['limit'])}"),
                line(significant(at_delta["delta"])),
                line(_used(item["balance"])),
            )
        )
    titles = (
        Column("Dataset", 2.4),
        Column("epsilon spent", 1.3, True),
        Column("spent and held", 1.3, True),
        Column("limit", 1.3, True),
        Column("at delta", 1, True),
        Column("mu² used", 1.2, True),
    )
    more = "" if len(view.document["datasets"]) <= SUMMARY_MAX else f" (the first {SUMMARY_MAX})"
    return Table(f"Summary{more}", titles, tuple(rows)) if rows else None


SUMMARY_MAX: Final = 12


def _used(balance: JsonObject) -> str:
    spent, held, limit = (int(balance[name]["mu_sq_pico"]) for name in ("spent", "held", "limit"))
    return percent(Decimal(spent + held) / limit) if limit else "–"


def verdict_blocks(document: JsonObject) -> Iterator[Block]:
    """Yield the verdict."""
    verdict = document["verdict"]
    yield Heading(1, "Is every budget kept?", "verdict")
    yield Paragraph(verdict["sentence"], tone(document))
    if verdict["is_estimate"]:
        yield Paragraph(
            "≈ marks an estimate (bound clt), which is not a guarantee: the true number may be higher.", "note"
        )
    rows = [
        (
            line(item["dataset"], "strong"),
            line("verified") if item["holds"] else _broken(item["broken"]),
            line("kept" if item["kept"] else "not kept", "strong"),
            amount(item["limit_highest"], item["is_estimate"]),
            line(times(item["limit_raised"])),
        )
        for item in verdict["datasets"]
    ]
    titles = (
        Column("Dataset", 2),
        Column("Journal", 2),
        Column("Budget", 1.2),
        Column("Highest limit ever", 2.6),
        Column("Raised", 1.2),
    )
    yield Table("Verdict for each dataset", titles, tuple(rows))
    yield from _exceeded(verdict)
    if document["tenant_journal"] is not None:
        yield from _tenant(document["tenant_journal"])


def _broken(broken: JsonObject) -> Cell:
    return (Line(f"does not verify from entry {broken['seq']} on", "strong"), Line(short(broken["detail"])))


def _exceeded(verdict: JsonObject) -> Iterator[Block]:
    rows = [
        (
            line(item["dataset"], "strong"),
            line(account_name(account["account"])),
            (Line(f"entry {account['first_seq']}"), Line(moment(account["first_at"]), "dim")),
            amount(account["most"], item["is_estimate"]),
            amount(account["now"], item["is_estimate"]),
        )
        for item in verdict["datasets"]
        for account in item["exceeded"]
    ]
    if rows:
        titles = (
            Column("Dataset", 1.5),
            Column("Account", 1.7),
            Column("First at", 1.8),
            Column("Most beyond the limit", 2.3),
            Column("Now", 2.3),
        )
        yield Table("Exceeded limits", titles, tuple(rows))


def _tenant(journal: JsonObject) -> Iterator[Block]:
    yield Heading(2, "Keys and policy", "tenant")
    policy = "a second steward" if journal["second_steward"] else "one steward"
    kept = (
        ("Its own journal", line("verified") if journal["holds"] else _broken(journal["broken"])),
        ("Loosening a budget needs", line(policy)),
        (
            "Keys within the period",
            line(f"{journal['keys_made']} made, {journal['keys_rotated']} rotated, {journal['keys_revoked']} revoked"),
        ),
    )
    yield Facts(kept)
    rows = [
        (
            line(str(item["seq"])),
            line(moment(item["at"])),
            line("needs a second steward" if item["second_steward"] else "needs one steward"),
            who(item["by"]),
            line(short(item["reason"])),
        )
        for item in journal["policies"]
    ]
    if rows:
        titles = (
            Column("Entry", 0.7),
            Column("When", 1.6),
            Column("Policy", 1.6),
            Column("By", 2.2),
            Column("Why", 2.4),
        )
        yield Table("Changes of the policy", titles, tuple(rows))
