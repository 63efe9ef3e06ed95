"""The first page in plain words: what was promised, was it kept, what can an attacker learn, what must you know?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ledger.encoding import JsonObject
from ledger.report.blocks import Block, Column, Facts, Heading, Line, Table, line
from ledger.report.phrases import ADJACENCY, epsilon, names, percent, significant, times
from ledger.report.view import View

PROMISES_MAX: Final = 6
"""How many datasets the first page states the promise of."""


def plain(view: View) -> Facts:
    """Return the answers to the first four questions of the person who answers for the data."""
    document = view.document
    return Facts(
        (
            ("What was promised", tuple(_promised(document))),
            ("Was it kept", (Line(document["verdict"]["sentence"], "strong"),)),
            ("What can an attacker learn", tuple(_learnt(document))),
            ("What you must know", tuple(_known(view))),
        )
    )


def _with_balance(document: JsonObject) -> list[JsonObject]:
    return [item for item in document["datasets"] if item["balance"] is not None and item["epsilon"]]


def _promised(document: JsonObject) -> Iterator[Line]:
    items = _with_balance(document)
    if not items:
        yield Line("No dataset of this report has a budget of its own.")
        return
    yield Line(
        "All outputs together may depend only little on any one person's data. Epsilon and delta say how little: the"
        " smaller, the better."
    )
    for item in items[:PROMISES_MAX]:
        first, unit = item["epsilon"][0], item["privacy_unit"]
        yield Line(
            f"{item['name']}: at most epsilon {epsilon(first['limit'])} at delta {significant(first['delta'])} for each"
            f" {unit} ({ADJACENCY.get(item['adjacency'], item['adjacency'])}){_as_estimate(item)}."
        )
    if len(items) > PROMISES_MAX:
        yield Line(f"{len(items) - PROMISES_MAX:,} more datasets: see the summary and the section of each.")


def _as_estimate(item: JsonObject) -> str:
    return ", by an estimate and not by a proof" if item["is_estimate"] else ""


def _learnt(document: JsonObject) -> Iterator[Line]:
    """Yield what the strongest attacker gets: on the dataset that gives most away, now and at its whole budget."""
    items = [item for item in _with_balance(document) if item["attack"] is not None]
    if not items:
        yield Line("Nothing was spent or promised that an attacker could use.")
        return
    # If costs are counted beside what is left, what is spent is no bound by itself: only the limit is.
    worst = max(items, key=lambda item: (item["attack"][_bounding(item)]["advantage"], item["name"]))
    unit, attack, limit = worst["privacy_unit"], worst["attack"][_bounding(worst)], worst["attack"]["limit"]
    which = f"On {worst['name']}, which gives most away" if len(items) > 1 else f"On {worst['name']}"
    if attack is limit:
        yield Line(f"{which}, whatever is done with the whole budget:")
    else:
        yield Line(f"{which}, from all that is spent and held (in brackets: if the whole budget is used):")

    def both(value: Any, at_limit: Any) -> str:
        return percent(value) if attack is limit else f"{percent(value)} ({percent(at_limit)})"

    rate, most = attack["true_positive_rates"][1], limit["true_positive_rates"][1]
    yield Line(
        f"Is a {unit} in the data? An attacker who wrongly suspects {percent(rate['false_positive_rate'])} of those"
        f" outside finds at most {both(rate['true_positive_rate'], most['true_positive_rate'])} of those inside."
        " Guessing finds as many as it wrongly suspects."
    )
    for guess, at_most in zip(attack.get("guesses", ()), limit.get("guesses", ()), strict=True):
        yield Line(
            f"A property of a {unit} that is guessed right in {percent(guess['base_rate'])} of all cases without any"
            f" output: in at most {both(guess['success'], at_most['success'])}."
        )
    yield Line(
        f"From 0 % (nothing) to 100 % (everything): at most {both(attack['advantage'], limit['advantage'])}, the"
        " membership advantage: the share found less the share wrongly suspected.",
        "strong",
    )


def _bounding(item: JsonObject) -> str:
    """Return which amount bounds what was released."""
    return "limit" if item["costing"] == "residual" else "committed"


def _known(view: View) -> Iterator[Line]:
    """Yield what happened that changes how the rest is read; one sentence if nothing did."""
    document = view.document
    verdict = document["verdict"]
    sentences = [*_of_verdict(verdict), *_of_lists(view)]
    frozen = [item["name"] for item in document["datasets"] if item["state"] == "frozen"]
    if frozen:
        sentences.append(f"Frozen, so that nothing more is approved: {names(frozen)}.")
    if document["about"]["restricted_to"] is not None:
        sentences.append("The report has only the datasets that the requester's key may read.")
    for sentence in sentences:
        yield Line(sentence, "strong")
    if not sentences:
        yield Line("Nothing happened that changes what was promised.")


def _of_verdict(verdict: JsonObject) -> Iterator[str]:
    broken = [item["dataset"] for item in verdict["datasets"] if not item["holds"]]
    if broken:
        yield f"The journal of {names(broken)} does not verify."
    over = [item["dataset"] for item in verdict["datasets"] if item["exceeded"]]
    if over:
        yield f"A limit was exceeded on {names(over)}."
    for item in verdict["datasets"][:PROMISES_MAX]:
        if item["limit_raised"]:
            yield f"The budget of {item['dataset']} was raised {times(item['limit_raised'])}."
    if verdict["is_estimate"]:
        yield "Some costs are estimates (bound clt): the true number may be higher."
    weak = [item["dataset"] for item in verdict["datasets"] if item["weak_protection"] is not None]
    if weak:
        yield f"The budget of {names(weak)} is beyond what protects well: see Weak protection."


_LISTS: Final = {
    "overruns": "{} executed more than was approved.",
    "corrections": "{} corrected after settling.",
    "overdue": "{} overdue: not started or settled in time.",
}


def _of_lists(view: View) -> Iterator[str]:
    for name, sentence in _LISTS.items():
        if count := view.totals[name]:
            verb = "" if name == "overruns" else (" was" if count == 1 else " were")
            verb = (" is" if count == 1 else " are") if name == "overdue" else verb
            yield sentence.format(f"{count:,} run{'' if count == 1 else 's'}{verb}")


def made(document: JsonObject) -> list[tuple[str, Any]]:
    """Return who made the report, and when, for the first page."""
    stated = document["about"].get("made")
    if stated is None:
        return []
    on = "" if stated["on"] is None else f"on {stated['on']} "
    rows = [("Made", line(f"{on}by {stated['software']}; times are {stated['time_zone']}"))]
    return rows if stated["contact"] is None else [*rows, ("Contact", line(stated["contact"]))]


def sign_off() -> Iterator[Block]:
    """Yield the place for signatures."""
    yield Heading(1, "Sign-off", "sign-off")
    blank = line("")
    rows = tuple((line(role), blank, blank, blank) for role in ("Prepared by", "Checked by", "Data protection officer"))
    titles = (Column("Role", 1.5), Column("Name", 2), Column("Date", 1.2), Column("Signature", 2.5))
    yield Table("I have read this report.", titles, rows)
