"""Format numbers, names and times for a report."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import ROUND_CEILING, ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Final

from ledger.core.amounts import percent_of
from ledger.encoding import JsonObject
from ledger.report.blocks import Cell, Line, line

DIGITS: Final = 5
TEXT_SHOWN_MAX: Final = 600
"""The longest free text that is shown; the JSON has all of it."""
NAMES_SHOWN_MAX: Final = 24


def significant(value: Any, *, up: bool = False, digits: int = DIGITS) -> str:
    """Return a number with a few digits. up: round up, for what an attacker gains."""
    context = Context(prec=digits, rounding=ROUND_CEILING if up else ROUND_HALF_EVEN)
    rounded = context.create_decimal(Decimal(str(value)))
    if not rounded:
        return "0"
    if -4 <= rounded.adjusted() < 9:
        text = f"{rounded:f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, exponent = f"{rounded.normalize(context):e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def percent(rate: Any) -> str:
    """Return a rate in percent, rounded up."""
    return f"{significant(Decimal(str(rate)) * 100, up=True, digits=3)} %"


def digits(text: str) -> str:
    """Return an exact integer with separators of thousands."""
    return f"{int(text):,}"


def moment(text: str | None) -> str:
    """Return a time, to the second."""
    return "–" if text is None else f"{text[:10]} {text[11:19]} UTC"


def epsilon(value: Any) -> str:
    """Return an epsilon, rounded up; in words if none holds."""
    return "none: its delta is not smaller" if value is None else significant(value, up=True)


def short(text: str | None, *, at_most: int = TEXT_SHOWN_MAX) -> str:
    """Return a free text, cut with a note if it is long."""
    if not text:
        return "–"
    flat = " ".join(text.split())
    return flat if len(flat) <= at_most else f"{flat[:at_most]}… (cut; the JSON has all of it)"


def names(listed: Sequence[str] | None) -> str:
    """Return the first names, and how many more there are."""
    if not listed:
        return "–"
    first = ", ".join(listed[:NAMES_SHOWN_MAX])
    return first if len(listed) <= NAMES_SHOWN_MAX else f"{first} and {len(listed) - NAMES_SHOWN_MAX} more"


def who(actor: JsonObject | None) -> Cell:
    """Return who acted, with role and principal."""
    if actor is None:
        return line("–", "dim")
    lines = [Line(f"{short(actor['name'])} ({actor['role']})")]
    if "principal" in actor:
        lines.append(Line(f"principal {actor['principal']}", "dim"))
    return tuple(lines)


def limits_of(datasets: Iterable[JsonObject]) -> dict[str, JsonObject]:
    """Return the limits of those datasets of a report that have one, by name: what amounts are shown in percent of."""
    return {item["name"]: item["balance"]["limit"] for item in datasets if item["balance"] is not None}


def deltas_of(datasets: Iterable[JsonObject]) -> dict[str, float]:
    """Return the first delta at which a report states epsilons of these datasets, by name."""
    return {item["name"]: float(item["epsilon"][0]["delta"]) for item in datasets if item["epsilon"]}


def part_of(amounts: JsonObject, limit: JsonObject | None, *, up: bool = True) -> str:
    """Return which percent of a limit an amount of mu² is, which adds up; empty if there is no limit. up: rounded up,
    for what is taken; else down, for what is left."""
    if limit is None:
        return ""
    part = percent_of(int(amounts["mu_sq_pico"]), int(limit["mu_sq_pico"]), up=up)
    return "" if part is None else f"{part:g} % of the limit"


def amount(amounts: JsonObject | None, is_estimate: bool, limit: JsonObject | None = None) -> Cell:
    """Return an amount: in percent of a limit if one is given, then mu and delta rounded, each with the exact integer
    under it. ≈ marks an estimate."""
    if amounts is None:
        return line("–", "dim")
    about = "≈ " if is_estimate else ""
    part = part_of(amounts, limit)
    lines = [Line(f"{about}{part}", "strong")] if part else []
    lines += [Line(f"mu {about}{significant(amounts['mu'])}"), Line(f"{digits(amounts['mu_sq_pico'])} pico", "dim")]
    if amounts["delta_atto"] != "0":
        lines += [Line(f"delta {significant(amounts['delta'])}"), Line(f"{digits(amounts['delta_atto'])} atto", "dim")]
    return tuple(lines)


def brief(
    amounts: JsonObject | None, is_estimate: bool, limit: JsonObject | None = None, *, is_left: bool = False
) -> str:
    """Return an amount in one line, without its integers. is_left: rounded down, because it is what is left."""
    if amounts is None:
        return "–"
    about = "≈ " if is_estimate else ""
    part = part_of(amounts, limit, up=not is_left)
    rest = "" if amounts["delta_atto"] == "0" else f", delta {significant(amounts['delta'])}"
    return f"{about}{part}{', ' if part else ''}mu {about}{significant(amounts['mu'])}{rest}"


def budget(given: JsonObject | None) -> str:
    """Return a budget as it was declared."""
    if given is None:
        return "none of its own"
    if "epsilon" in given:
        slack = f", slack {given['slack']}" if "slack" in given else ""
        return f"epsilon {given['epsilon']} at delta {significant(given['at_delta'])}{slack}"
    return f"mu {given['mu']}" + (f", delta {significant(given['delta'])}" if "delta" in given else "")


def account_name(key: JsonObject) -> str:
    """Return the name of an account of a dataset."""
    return ", ".join(f"{name} {value}" for name, value in key.items()) or "the dataset's own"


ADJACENCY: Final = {"add_or_remove_one": "add or remove one", "replace_one": "replace one", "zero_out": "zero out"}


def times(count: int) -> str:
    """Return how often, in words."""
    return {0: "never", 1: "once"}.get(count, f"{count} times")
