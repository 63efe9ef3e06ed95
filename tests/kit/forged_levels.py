"""What somebody makes of a journal with runs costed beside what is left who has the ledger's key: `beside_left.story`,
with one entry changed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Final

from ledger.core.amounts import Amount
from ledger.core.journal import chain
from ledger.core.residual import LEVELS
from tests.kit.beside_left import BASE, batches, story
from tests.kit.exports import exported
from tests.kit.forgeries import Entries, sealed
from tests.kit.journals import ONE

Entry = dict[str, Any]
FIRST, KEPT, STOPPED, FITTING, GIVEN, FREE, BOTH = 2, 11, 12, 16, 21, 25, 27
"""Numbers of entries: the first approval; what a void and a stop keep; a late charge that fits; what a void gives back,
by rule and because nothing decided it; and a run on both datasets."""


def _put(*path: str, value: Any) -> Callable[[Entry], object]:
    def change(entry: Entry) -> None:
        holder = entry
        for name in path[:-1]:
            holder = holder[name]
        holder[path[-1]] = value

    return change


def _drop(*path: str) -> Callable[[Entry], object]:
    def change(entry: Entry) -> None:
        holder = entry
        for name in path[:-1]:
            holder = holder[name]
        del holder[path[-1]]

    return change


def _at_level(level: int, cost: int) -> Callable[[Entry], object]:
    """The run is charged at another level of its table, with balances as they would be."""

    def change(entry: Entry) -> None:
        saved = int(entry["cost"]["mu_sq_pico"]) - cost
        entry["residual"]["level"] = level
        entry["cost"]["mu_sq_pico"] = str(cost)
        held = entry["balance"]["held"]
        held["mu_sq_pico"] = str(int(held["mu_sq_pico"]) - saved)

    return change


def _late_at(level: int | None, cost: int) -> Callable[[Entry], object]:
    """The same for a late charge."""

    def change(entry: Entry) -> None:
        overrun = entry["overrun"]
        saved = int(overrun["cost"]["mu_sq_pico"]) - cost
        if level is None:
            del overrun["residual"]["level"]
        else:
            overrun["residual"]["level"] = level
        for of in (overrun["cost"], entry["charged"], entry["balance"]["spent"]):
            of["mu_sq_pico"] = str(int(of["mu_sq_pico"]) - saved)

    return change


def _give_back(entry: Entry) -> None:
    """What was kept is returned."""
    kept = Amount.from_facts(entry.pop("kept"))
    del entry["kept_for"]
    entry["returned"] = (Amount.from_facts(entry["returned"]) + kept).facts()
    if "charged" in entry:
        entry["charged"] = (Amount.from_facts(entry["charged"]) - kept).facts()
    entry["balance"]["spent"] = (Amount.from_facts(entry["balance"]["spent"]) - kept).facts()


def _keep(entry: Entry) -> None:
    """What is returned is kept."""
    kept = entry["returned"]
    entry |= {"kept": kept, "kept_for": ["data-1"], "returned": Amount(0, 0).facts()}
    spent = Amount.from_facts(entry["balance"]["spent"]) + Amount.from_facts(kept)
    entry["balance"]["spent"] = spent.facts()


def _keep_a_part(entry: Entry) -> None:
    entry["kept"]["mu_sq_pico"], entry["returned"]["mu_sq_pico"] = "109", "1"


def _costs(change: Callable[[list[str]], object]) -> Callable[[Entry], object]:
    """The table has other costs."""

    def changed(entry: Entry) -> None:
        costs = entry["residual"]["costs"].split(" ")
        change(costs)
        entry["residual"]["costs"] = " ".join(costs)

    return changed


def _registered_standalone(entry: Entry) -> None:
    entry["costing"] = "standalone"


NOT_BEST: Final = "is not charged at the best level that fits"
NO_TABLE: Final = "has a table of costs that no ledger writes"
OUTSIDE: Final = "has a level outside of its table"
FORGED: Final[dict[str, tuple[int, Callable[[Entry], object], str]]] = {
    # which level
    "a level for which too little is left": (FIRST, _at_level(15, 100), "is charged beside more than is left"),
    "a level that costs more than it must": (FIRST, _at_level(13, 120), NOT_BEST),
    "a level that says another's cost": (FIRST, _put("residual", "level", value=15), "other than its table"),
    "a cost by itself at a level": (FIRST, _put("cost", "mu_sq_pico", value="1000"), "other than its table"),
    "a level above the table": (FIRST, _put("residual", "level", value=16), OUTSIDE),
    "a level below the table": (FIRST, _put("residual", "level", value=-1), OUTSIDE),
    "a level that is no number": (FIRST, _put("residual", "level", value=True), OUTSIDE),
    "a level that is nothing": (FIRST, _put("residual", "level", value=None), OUTSIDE),
    "an approval at no level": (FIRST, _drop("residual", "level"), "other than its table"),
    "an approval without its table": (FIRST, _drop("residual"), "has balances that are not the sum"),
    "a table of a dataset that has none": (1, _registered_standalone, "which the dataset does not"),
    "a level that another dataset decides, and does not": (FIRST, _put("residual", "by", value="data-2"), NOT_BEST),
    "a level that another dataset decides, unnamed": (BOTH, _drop("residual", "by"), NOT_BEST),
    "a level that the dataset itself decides": (BOTH, _put("residual", "by", value="data-1"), "names its own dataset"),
    # the table
    "a base that is zero": (FIRST, _put("residual", "base", value="0"), NO_TABLE),
    "a base with a zero before": (FIRST, _put("residual", "base", value="06400"), NO_TABLE),
    "a base that is larger": (FIRST, _put("residual", "base", value="12800"), "is charged beside more than is left"),
    "a table that rises": (FIRST, _costs(lambda costs: costs.reverse()), NO_TABLE),
    "a table that is too long": (FIRST, _costs(lambda costs: costs.append("1")), NO_TABLE),
    "a table with two spaces": (FIRST, _costs(lambda costs: costs.insert(3, "")), "cannot be read"),
    "a table with a cost of nothing": (FIRST, _costs(lambda costs: costs.__setitem__(15, "0")), NO_TABLE),
    "a table with other digits": (FIRST, _costs(lambda costs: costs.__setitem__(15, "\u0661")), NO_TABLE),
    "a member too many of a table": (FIRST, _put("residual", "r", value="0"), "has members in 'residual'"),
    # slack
    "a slack that is larger": (FIRST, _put("balance", "slack", value="291"), "has balances that are not the sum"),
    "a slack that is left out": (FIRST, _drop("balance", "slack"), "has balances that are not the sum"),
    "a slack in another form": (FIRST, _put("balance", "slack", value="+290"), "an amount must be an integer"),
    # giving back
    "a void that gives back what others rest on": (KEPT, _give_back, "gives back what a later approval rests on"),
    "a stop that gives back what others rest on": (STOPPED, _give_back, "gives back what a later approval rests on"),
    "a void that keeps what it need not": (GIVEN, _keep, "does not name every dataset with too little left"),
    "a void that keeps a part": (KEPT, _keep_a_part, "keeps a part of a run that was voided"),
    "a void that keeps for another dataset": (KEPT, _put("kept_for", value=["data-2"]), "does not name every dataset"),
    "a void that keeps for none": (KEPT, _put("kept_for", value=[]), "has a value in 'kept_for'"),
    "a void that keeps and does not name for what": (KEPT, _drop("kept_for"), "has only one of kept and kept_for"),
    "a void that names what it keeps for nothing": (KEPT, _drop("kept"), "has only one of kept and kept_for"),
    "a void that nothing decided, unstated": (KEPT, _put("independent", value=True), "states who decided it wrongly"),
    "a void that was stated, and is not": (FREE, _drop("independent"), "states who decided it wrongly"),
    "a void that states no": (FREE, _put("independent", value=False), "has a value in 'independent'"),
    "a planned stop that keeps": (STOPPED, _put("stop", value="planned"), "keeps what must be given back"),
    # late charges
    "a late charge at a level that does not fit": (FITTING, _late_at(11, 190), "at a level that does not fit"),
    "a late charge at no level that fits": (FITTING, _late_at(None, 300), "is charged at no level, and fits"),
    "a late charge of another level": (FITTING, _put("overrun", "residual", "level", value=9), "other than its table"),
    "a late charge that another dataset decides": (
        *(FITTING, _put("overrun", "residual", "by", value="data-2")),
        "has members in an overrun's table",
    ),
}


def entries() -> Entries:
    """The story's entries of `data-1`, to be changed."""
    return [chain.parse(body) for body, _ in story().journals[ONE]]


def forged(name: str, of: Entries | None = None) -> list[str]:
    """The export of the journal after a change, up to a little behind it."""
    seq, change, _ = FORGED[name]
    changed = copy.deepcopy(entries() if of is None else of)
    change(changed[seq - 1])
    return exported(ONE, sealed(changed))


def wrong_at(name: str) -> int:
    """The first entry that does not hold: of a costing, the first that rests on it."""
    seq, _, _ = FORGED[name]
    return FIRST if seq == 1 else seq


# --- batches ---------------------------------------------------------------------------------------------------------


def _in(seq: int, change: Callable[[Entry], object]) -> Callable[[Entries], object]:
    return lambda of: change(of[seq - 1])


def _all_at(level: int, cost: int) -> Callable[[Entries], object]:
    """The first batch is at another level, with balances as they would be. The slack is what the last one leaves."""

    def change(of: Entries) -> None:
        for number, entry in enumerate(of[1:4], start=1):
            entry["residual"]["level"], entry["cost"]["mu_sq_pico"] = level, str(cost)
            entry["balance"]["held"]["mu_sq_pico"] = str(number * cost)
            entry["balance"]["slack"] = str(BASE - number * cost - BASE * LEVELS[level] // 64)

    return change


def _last_at(level: int, cost: int) -> Callable[[Entries], object]:
    """Only its last run is."""

    def change(of: Entries) -> None:
        entry = of[3]
        _at_level(level, cost)(entry)
        left = BASE - int(entry["balance"]["held"]["mu_sq_pico"])
        slack = min(int(of[2]["balance"]["slack"]), left - BASE * LEVELS[level] // 64)
        entry["balance"]["slack"] = str(slack)

    return change


ANOTHER: Final = "is of a batch that is not at the highest level at which it fits"
NO_LEVEL: Final = "is of a batch that is not at one level, or does not fit so"
BETWEEN: Final = "comes between the runs of a batch"
FORGED_BATCHES: Final[dict[str, tuple[int, Callable[[Entries], object], str]]] = {
    "a batch at a lower level": (4, _all_at(12, 150), ANOTHER),
    "a batch at a higher level": (4, _all_at(14, 110), "is charged beside more than is left"),
    "a batch at two levels": (4, _last_at(12, 150), NO_LEVEL),
    "a run of a batch at another level": (2, _in(2, _at_level(14, 110)), "has balances that are not the sum"),
    "a batch that another dataset decides, and does not": (4, _in(3, _put("residual", "by", value="data-2")), ANOTHER),
    "a batch that another dataset decides, unnamed": (8, _in(8, _drop("residual", "by")), ANOTHER),
    "a batch that begins elsewhere": (2, _in(2, _put("together", "first", value=1)), "begins elsewhere"),
    "a batch that is shorter": (3, _in(2, _put("together", "runs", value=2)), BETWEEN),
    "a run in the middle of a batch": (3, _in(3, _drop("together")), BETWEEN),
    "a run of no batch": (10, _in(10, _put("together", value={"first": 2, "runs": 3})), "begins elsewhere"),
    "a batch of none": (2, _in(2, _put("together", "runs", value=0)), "has a value in 'together'"),
    "a batch of more members": (2, _in(2, _put("together", "at", value=1)), "has members in 'together'"),
}


def forged_batch(name: str) -> list[str]:
    """The export of the journal of `batches` after a change."""
    changed = [chain.parse(body) for body, _ in batches().journals[ONE]]
    FORGED_BATCHES[name][1](changed)
    return exported(ONE, sealed(changed), requests=batches().requests)
