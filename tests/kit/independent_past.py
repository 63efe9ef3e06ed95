"""Past runs that a steward entered, for independent_verifier.py."""

from typing import Any

from independent_levels import Table  # type: ignore[import-not-found]
from independent_reading import amount, left  # type: ignore[import-not-found]


def entered(journal: Any, entry: dict[str, Any]) -> Any:
    """The accounts after a past run, whose place is before all entries. journal: the journal until then."""
    cost, run, place = amount(entry["cost"]), entry["run"], 0
    journal.demand(run not in journal.runs and min(cost) >= 0, "entered before, or a negative cost")
    journal.demand("request" not in entry or isinstance(entry["request"]["past"], dict), "not declared past")
    journal.demand((entry["bound"], entry["adjacency"]) == journal.terms, "other terms than the dataset's")
    scopes = journal.scopes(entry) if journal.limit is not None else []
    touched = {(scope, None, None): dict(journal.accounts[scope, None, None]) for scope in scopes}
    table, facts = Table(cost, entry.get("residual")), entry.get("residual", {})
    journal.demand("residual" not in entry or not touched or journal.costing == "residual", "beside what is left")
    journal.demand(entry["frozen"] == sorted(set(entry["frozen"])), "not in order")
    journal.demand(entry["fits"] is (not entry["frozen"]), "whether it fits is not said")
    journal.demand("residual" not in entry or "level" in facts or bool(entry["frozen"]), "at no level, and fits")
    is_beyond = False
    for key, account in touched.items():
        if "level" in facts:
            is_enough = table.r + cost[0] <= journal.rooms_of(key).rest_at(place, left(account)[0])
            is_enough = is_enough and journal.fits_late(key, account, place, cost[0])
            journal.demand(is_enough, "at a level that does not fit")
        is_beyond |= journal.late_in(entry, key, account, cost, table.r, place)
    froze = ("retired" if journal.state == "retired" else "frozen") if is_beyond else None
    named = (entry["dataset"] in entry["frozen"]) == is_beyond
    journal.demand(entry.get("state") == froze and named, "frozen for nothing, or not frozen")
    facts = {"state": "settled", "cost": cost, "charged": cost, "keys": [*touched], "r": table.r, "seq": place}
    who = {"who": entry["actor"]["principal"], "by": None, "project": None}
    journal.runs[run] = facts | who | {"corrections": 0}
    return touched
