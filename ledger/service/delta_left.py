"""Warnings that the delta of a dataset runs out, long before it does. They decide nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, Final

from ledger.core.amounts import Amount
from ledger.core.datasets import AccountKey
from ledger.core.entries import Record

WARN_PERCENT: Final = 50
"""A warning begins when this part of a limit's delta is spent or held, if that is a larger part than of mu²."""
WARNINGS_MAX: Final = 4
_REMEDY: Final = (
    "Name a smaller `delta` with each run, which costs a little more mu, or ask a steward for a budget with more delta"
    " (`slack`)."
)
_NO_LIMIT: Final = (
    "The budget of {} has less than 1e-18 of delta for certificates, which is what the ledger counts in. So no run is"
    " credited with amplification by sampling. If runs sample, ask for a budget with a larger at_delta or slack."
)
_NONE: Final = (
    "No amplification by sampling is claimed, because the delta of this run is 0: the budget has next to no delta for"
    " certificates (the ledger counts units of 1e-18). With more delta, a larger at_delta or slack, the run costs less."
)


def of_decisions(decisions: Sequence[Record]) -> list[str]:
    """Return the warnings of a decided run, from the balances that its entries state."""
    cost = decisions[0]["cost"]
    if cost["delta_atto"] == "0":
        return [_NONE] if _is_without_delta(decisions[0]) else []
    texts = (
        text
        for entry in decisions
        for facts in _stated(entry)
        for text in _of_digits(entry["dataset"], facts, int(cost["delta_atto"]))
    )
    return list(dict.fromkeys(texts))[:WARNINGS_MAX]


def _is_without_delta(decision: Record) -> bool:
    return "delta" in decision and Decimal(decision["delta"]) == 0 and "fallback" in decision["method"]


def _stated(entry: Record) -> Iterator[Mapping[str, Any]]:
    """Return the balances of the accounts that are not a principal's, as an entry states them."""
    if "balance" in entry:
        yield entry["balance"]
    for group in entry.get("accounts", ()):
        if "principal" not in group:
            yield group


def _of_digits(name: str, facts: Mapping[str, Any], asked: int) -> Iterator[str]:
    # Straight from the digits, because every approval needs it.
    limit, spent, held = (int(facts[part]["delta_atto"]) for part in ("limit", "spent", "held"))
    if limit <= 0 or 100 * (spent + held) < WARN_PERCENT * limit:
        return
    whole = {part: Amount.from_facts(facts[part]) for part in ("limit", "spent", "held")}
    partition = next(iter(facts.get("partitions", ())), None)
    used = whole["spent"] + whole["held"]
    text = warning(_account(name, partition, facts.get("project")), whole["limit"], used, asked=asked)
    if text is not None:
        yield text


def _account(name: str, partition: str | None, project: str | None) -> str:
    parts = [name, *([f"partition {partition}"] if partition else []), *([f"project {project}"] if project else [])]
    return ", ".join(parts)


def warning(name: str, limit: Amount, used: Amount, *, asked: int | None = None) -> str | None:
    """Return the warning about one account; None if there is none. name: of the account, in words. used: what is spent
    or held. asked: what a run takes of delta, in units of 1e-18."""
    if limit.delta_atto <= 0 or 100 * used.delta_atto < WARN_PERCENT * limit.delta_atto:
        return None
    if used.delta_atto * limit.mu_sq_pico <= used.mu_sq_pico * limit.delta_atto:
        return None
    left = max(limit.delta_atto - used.delta_atto, 0)
    of_mu = 100 * used.mu_sq_pico // limit.mu_sq_pico if limit.mu_sq_pico else 0
    fit = f" More runs with the delta of this one that fit: {left // asked}." if asked else ""
    return (
        f"The delta of {name} runs out before mu: {100 * used.delta_atto // limit.delta_atto} % of delta is spent or"
        f" held, and {of_mu} % of mu².{fit} {_REMEDY}"
    )


def of_limit(name: str, limit: Amount, *, is_certified: bool, slack: Any) -> list[str]:
    """Return the warning that a certified budget rounds down to no delta at all. slack: as it was declared; with 0 that
    is what was asked for."""
    is_asked_for = slack is not None and Decimal(str(slack)) == 0
    return [_NO_LIMIT.format(name)] if is_certified and limit.delta_atto == 0 and not is_asked_for else []


def of_accounts(name: str, accounts: Iterable[tuple[AccountKey, Amount, Amount]]) -> list[str]:
    """Return the warnings about accounts of a dataset, a few at most: of each its limit, and what is spent or held. A
    principal's account limits what is held, and never runs out."""
    texts = (
        warning(_account(name, key.partition, key.project), limit, used)
        for key, limit, used in accounts
        if key.principal_id is None
    )
    return list(islice((text for text in texts if text is not None), WARNINGS_MAX))
