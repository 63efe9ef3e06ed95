"""Corrections of settled runs, for independent_verifier.py."""

from typing import Any

from independent_levels import Table  # type: ignore[import-not-found]
from independent_reading import INT64_MAX, add, amount, left  # type: ignore[import-not-found]


def corrected(journal: Any, entry: dict[str, Any]) -> Any:
    """The accounts after a correction of a settled run. journal: the journal until then."""
    run, touched = journal.moved(entry, "settled")
    journal.demand(entry["number"] == run["corrections"] + 1, "not the next correction")
    journal.demand(entry.get("project") == run["project"], "of another project")
    before, cost, place = amount(entry["before"]), amount(entry["cost"]), run["seq"]
    journal.demand(before == run["charged"] and min(cost) >= 0, "another charge before, or a negative one")
    old = before if entry["replaces"] else [0, 0]
    late = [max(0, value) for value in add(cost, old, -1)]
    back = [max(0, value) for value in add(old, cost, -1)] if late == [0, 0] else [0, 0]
    charged = add(add(before, late), back, -1)
    stated = [amount(entry[part]) for part in ("late", "returned", "charged")]
    journal.demand(stated == [late, back, charged], "another charge than its parts")
    if "request" in entry:
        journal.demand(entry["request"]["decided_by_output"] is (not entry["replaces"]), "not what was stated")
        journal.demand(back == [0, 0] or bool(entry["request"].get("on_word_of")), "given back on nobody's word")
    journal.demand(back == [0, 0] or "proposal" in entry, "given back by one person")
    journal.done(entry, "correction", True)
    table, own = Table(cost, entry.get("residual")), [key for key in touched if key[2] is None]
    journal.demand("residual" not in entry or not own or journal.costing == "residual", "beside what is left")
    journal.demand(entry["frozen"] == sorted(set(entry["frozen"])), "not in order")
    journal.demand(entry["fits"] is (not entry["frozen"]), "whether it fits is not said")
    is_beyond, difference = False, add(cost, old, -1)[0]
    for key in own:
        account, rooms, rest = touched[key], journal.rooms_of(key), left(touched[key])
        if "level" in entry.get("residual", {}):
            is_enough = table.r + difference <= rooms.rest_at(place, rest[0])
            is_enough = is_enough and journal.fits_late(key, account, place, difference)
            journal.demand(is_enough, "at a level that does not fit")
        if late == [0, 0]:
            journal.demand(back == [0, 0] or run["r"] == 0 or rest[0] >= run["r"], "given back, and others rest on it")
            journal.demand(back == [0, 0] or INT64_MAX not in account["spent"], "given back of what is not known")
            journal.note({key: account}, entry["seq"], run["r"] if back != [0, 0] else 0, {key: rest})
            account["spent"] = add(account["spent"], back, -1)
            journal.ease(key, account)
            journal.note({key: account}, entry["seq"], table.r, {key: left(account)})
        else:
            is_beyond |= journal.late_in(entry, key, account, late, table.r, place)
    froze = ("retired" if journal.state == "retired" else "frozen") if is_beyond else None
    named = late == [0, 0] or (entry["dataset"] in entry["frozen"]) == is_beyond
    journal.demand(entry.get("state") == froze and named, "frozen for nothing, or not frozen")
    journal.demand(late != [0, 0] or entry["frozen"] == [], "less than before, and frozen")
    known = {"charged": charged, "corrections": entry["number"], "r": max(run["r"], table.r)}
    journal.runs[entry["run"]] |= {"state": "settled", **known}
    return touched
