"""Journals of datasets with parts, forged by somebody who knows the format: every rule of a decision is held again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

import pytest

from ledger.core.amounts import Amount
from ledger.core.commands import Change, SetBudget, SetProject
from ledger.core.journal import chain
from ledger.errors import JournalBroken
from tests.kit.books import ALONE, settle, start, use
from tests.kit.journals import (
    ADMIN,
    ONE,
    STEWARD,
    TWO,
    Book,
    become,
    become_approval,
    become_refusal,
    journals_of_parts,
    less,
    registered,
    reseal,
)

Change_ = Callable[[dict[str, Any]], object]
Which = Callable[[dict[str, Any]], bool]
THREE = UUID(int=3)
NOTHING = {"mu_sq_pico": "0", "delta_atto": "0"}


def amount(mu_sq_pico: int, delta_atto: int = 0) -> dict[str, str]:
    """As it stands in an entry."""
    return Amount(mu_sq_pico, delta_atto).facts()


def of_kind(kind: str, **members: Any) -> Which:
    """Whether an entry is of this kind and has these members; the first that is, is forged."""
    return lambda entry: entry["kind"] == kind and all(entry.get(name) == value for name, value in members.items())


def forge(made: Book, dataset_id: UUID, which: Which, change: Change_) -> int:
    """Changes one entry, and makes every hash after it anew; its number."""
    entries = made.journals[dataset_id]
    at = next(place for place, (body, _) in enumerate(entries) if which(chain.parse(body)))
    reseal(entries, at, change)
    return at + 1


def group(entry: dict[str, Any], **of: Any) -> dict[str, Any]:
    """The group of an entry's accounts that is of this project, of a principal (`principal=True`), or of nobody."""

    def is_it(each: dict[str, Any]) -> bool:
        return each.get("project") == of.get("project") and ("principal" in each) == of.get("principal", False)

    found: dict[str, Any] = next(each for each in entry["accounts"] if is_it(each))
    return found


def without(**of: Any) -> Change_:
    """An entry that leaves out all groups of somebody."""

    def change(entry: dict[str, Any]) -> None:
        while True:
            try:
                entry["accounts"].remove(group(entry, **of))
            except StopIteration:
                return

    return change


def move_limit(entry: dict[str, Any], limit: dict[str, str]) -> None:
    """Says another limit, in the balances too."""
    entry["limit"] = limit
    for each in entry.get("accounts", ()):
        each["limit"] = limit


def leave_out_a_partition(entry: dict[str, Any]) -> None:
    """One partition fewer is charged, in every group."""
    for each in entry["accounts"]:
        each["partitions"] = [name for name in each["partitions"] if name != "a"]
    entry["accounts"] = [each for each in entry["accounts"] if each["partitions"]]


def rename_a_partition(entry: dict[str, Any]) -> None:
    """Another one is asked for and charged than there is."""
    entry["request"]["datasets"][0]["partitions"] = ["z", "c"]
    for each in entry["accounts"]:
        each["partitions"] = ["z" if name == "a" else name for name in each["partitions"]]


def name_twice(entry: dict[str, Any]) -> None:
    """One account has two balances."""
    entry["accounts"].append(dict(entry["accounts"][0]))


def open_again(entry: dict[str, Any]) -> None:
    """The entry that settles a run becomes one that opens its dataset."""
    become(entry, "dataset-changed", state="active")


def rename_to_a(entry: dict[str, Any]) -> None:
    """The second new partition is called `a`, in the balances too."""
    entry["names"] = ["d", "a"]
    for each in entry["accounts"]:
        each["partitions"] = ["a" if name == "c" else name for name in each["partitions"]]


def partitions_of_a_whole(entry: dict[str, Any]) -> None:
    """The entry of a run becomes one that adds partitions."""
    limit = entry["balance"]["limit"]
    more = {"limit": limit, "spent": NOTHING, "held": NOTHING, "overdrawn": NOTHING}
    become(entry, "partitions-added", names=["a"], disjoint=True, limit=limit, accounts=[{"partitions": ["a"], **more}])
    entry["actor"]["role"] = "steward"
    entry["balance"]["held"] = NOTHING


def budget_of_nothing(entry: dict[str, Any]) -> None:
    """The entry of a run becomes one that gives a derived dataset a budget."""
    limit = amount(10**6, 10**6)
    balance = {"limit": limit, "spent": NOTHING, "held": NOTHING, "overdrawn": NOTHING}
    become(entry, "budget-set", budget={}, limit=limit, limit_before=None, reason="r", balance=balance)
    entry["actor"]["role"] = "steward"


def charge_a_part(entry: dict[str, Any]) -> None:
    """An account beside those that the dataset has."""
    held = {"limit": amount(10**6), "spent": NOTHING, "held": entry["cost"], "overdrawn": NOTHING}
    entry["accounts"] = [{"partitions": ["a"], **held}]


def register_again(entry: dict[str, Any]) -> None:
    """The entry of a run becomes one that registers the dataset."""
    texts = dict.fromkeys(("title", "description", "privacy_unit"), "x")
    origin = {"id": str(ONE), "name": "x", "unit_preserving": True}
    terms = {"adjacency": "add_or_remove_one", "bound": "clt", "size": None, "budget": None, "limit": None}
    more = {"is_partitioned": False, "derived_from": [origin], "state": "active", "costing": "standalone"}
    become(entry, "dataset-registered", **texts, **terms, **more)
    entry["actor"]["role"] = "steward"


early = of_kind("run-settled", charged=amount(100, 3))
fitting = of_kind("run-settled", charged=amount(3, 1))
in_project = of_kind("run-approved", project="p")
all_three = of_kind("run-approved", cost=amount(200))
LATER = "found where the balances no longer add up"
FORGERIES: dict[str, tuple[UUID, Which, Change_, str]] = {
    # registering
    "a limit above the ceiling": (
        *(TWO, of_kind("dataset-registered"), lambda entry: move_limit(entry, amount(4001, 0))),
        "above the ceiling",
    ),
    "a ceiling below the limit": (
        *(TWO, of_kind("dataset-registered"), lambda entry: entry.update(ceiling_limit=amount(999, 4000))),
        "above the ceiling",
    ),
    "a balance that begins with something": (
        *(TWO, of_kind("dataset-registered"), lambda entry: entry["accounts"][0].update(spent=amount(1))),
        "has balances that are not the sum of the entries",
    ),
    "a project that is registered": (
        *(TWO, of_kind("dataset-registered"), lambda entry: entry["accounts"][0].update(project="p")),
        "registers accounts that belong to a project or a principal",
    ),
    "no budget and no origin": (
        *(THREE, of_kind("dataset-registered"), lambda entry: entry.update(derived_from=[])),
        "neither a budget nor",
    ),
    "registered twice": (
        *(THREE, of_kind("run-approved"), register_again),
        "registers the dataset again, or not first",
    ),
    # partitions
    "partitions that are not disjoint": (
        *(TWO, of_kind("partitions-added"), lambda entry: entry.update(disjoint=False)),
        "adds partitions that are not stated disjoint",
    ),
    "partitions that are hardly disjoint": (
        *(TWO, of_kind("partitions-added"), lambda entry: entry.update(disjoint=1)),
        "adds partitions that are not stated disjoint",
    ),
    "partitions with a limit of their own": (
        *(TWO, of_kind("partitions-added"), lambda entry: move_limit(entry, amount(1001, 1000))),
        "gives partitions a limit other than the dataset's",
    ),
    "a partition added again": (
        *(TWO, of_kind("partitions-added"), rename_to_a),
        "adds a partition that exists",
    ),
    "a partition that is not named": (
        *(TWO, of_kind("partitions-added"), lambda entry: entry.update(names=["d"])),
        "has balances that are not the sum of the entries",
    ),
    "partitions of a whole": (
        *(ONE, of_kind("run-approved"), partitions_of_a_whole),
        "adds partitions that are not stated disjoint",
    ),
    # budgets, projects, fair use
    "a budget above the ceiling": (
        *(TWO, of_kind("budget-set"), lambda entry: move_limit(entry, amount(1100, 4001))),
        "above the ceiling",
    ),
    "a budget of not all partitions": (
        TWO,
        of_kind("budget-set"),
        leave_out_a_partition,
        "has balances that are not the sum of the entries",
    ),
    "a budget of what has none": (
        *(THREE, of_kind("run-approved"), budget_of_nothing),
        "has none",
    ),
    "a share below what is used": (
        *(TWO, of_kind("project-set", limit=amount(450, 400)), lambda entry: move_limit(entry, amount(99, 400))),
        "more spent and held",
    ),
    "a share that its balances do not have": (
        *(TWO, of_kind("project-set", limit=amount(450, 400)), less("limit")),
        "has balances that are not the sum of the entries",
    ),
    "fair use that is less than was held": (
        *(TWO, of_kind("fair-use-set"), lambda entry: entry["fair_use"].update(limit=amount(10, 10))),
        LATER,
    ),
    "fair use that is taken away": (
        *(TWO, of_kind("fair-use-set"), lambda entry: entry["fair_use"].update(held=None, limit=None)),
        LATER,
    ),
    # which accounts a run charges
    "a run that leaves out its project": (
        TWO,
        in_project,
        without(project="p"),
        "has balances that are not the sum of the entries",
    ),
    "a run that leaves out its principal": (
        TWO,
        all_three,
        without(principal=True),
        "has balances that are not the sum of the entries",
    ),
    "a run that leaves out its partitions": (
        TWO,
        in_project,
        without(),
        "has balances that are not the sum of the entries",
    ),
    "a run that charges nothing": (
        *(TWO, in_project, lambda entry: entry.pop("accounts")),
        "has balances that are not the sum of the entries",
    ),
    "a run that leaves out one of its partitions": (
        TWO,
        in_project,
        leave_out_a_partition,
        "has balances that are not the sum of the entries",
    ),
    "a run on a partition that there is not": (
        TWO,
        in_project,
        rename_a_partition,
        "charges a partition that does not exist",
    ),
    "a run with two balances of one account": (TWO, in_project, name_twice, "names the balance of"),
    "a run of another project": (
        *(TWO, in_project, lambda entry: (entry.update(project="q"), entry["request"].update(project="q"))),
        "has balances that are not the sum of the entries",
    ),
    "a run of another project than was asked for": (
        *(TWO, in_project, lambda entry: entry.update(project="q")),
        "has a project other than requested",
    ),
    "a run of another's principal": (
        *(TWO, all_three, lambda entry: entry["actor"].update(principal=str(uuid4()))),
        "has balances that are not the sum of the entries",
    ),
    "a run that charges a whole in a part": (
        *(ONE, of_kind("run-approved"), charge_a_part),
        "has balances that are not the sum of the entries",
    ),
    "a run that charges what has no account": (
        *(THREE, of_kind("run-approved"), charge_a_part),
        "has balances that are not the sum of the entries",
    ),
    "a run that is held in some of its accounts": (
        *(TWO, in_project, lambda entry: group(entry).update(held=NOTHING)),
        "has balances that are not the sum of the entries",
    ),
    # decisions
    "a refusal of what fits": (TWO, in_project, become_refusal, "refuses a run that fits"),
    "an approval of what does not fit": (
        *(TWO, of_kind("run-refused", project="p"), become_approval),
        "more spent and held",
    ),
    "an approval of what does not fit in a whole": (
        *(ONE, of_kind("run-refused"), become_approval),
        "more spent and held",
    ),
    "a refusal that says another reason": (
        *(TWO, of_kind("run-refused", project="p"), lambda entry: entry.update(binding=["delta"])),
        "every quantity in which",
    ),
    "a refusal that hides its reason": (
        *(TWO, of_kind("run-refused", project="p"), lambda entry: entry.update(binding=[], binding_elsewhere=["x"])),
        "every quantity in which",
    ),
    "a refusal because of another that says none": (
        *(TWO, of_kind("run-refused", binding=[]), lambda entry: entry.update(binding_elsewhere=[])),
        "refuses a run that fits",
    ),
    "a refusal that claims its own reason": (
        *(TWO, of_kind("run-refused", binding=[]), lambda entry: entry.update(binding=["mu"])),
        "every quantity in which",
    ),
    # what became of runs
    "less charged than was": (TWO, early, less("charged"), "other than what was approved"),
    "more charged and less returned": (
        *(TWO, early, lambda entry: entry.update(charged=amount(301, 3), returned=amount(-1))),
        "more than was approved",
    ),
    "less returned in one account": (
        *(TWO, early, lambda entry: group(entry, project="p").update(spent=amount(99, 3))),
        "has balances that are not the sum of the entries",
    ),
    "fair use that is spent": (
        *(ONE, of_kind("run-settled"), lambda entry: entry["overrun"].update(cost=amount(1))),
        "other than what was approved",
    ),
    "an overrun that is said to fit": (
        *(ONE, of_kind("run-settled"), lambda entry: entry["overrun"].update(fits=True)),
        "whether the overrun fits",
    ),
    "an overrun that is said not to fit": (TWO, fitting, lambda entry: entry["overrun"].update(fits=False), "whether"),
    "an overrun that freezes nothing": (
        *(ONE, of_kind("run-settled"), lambda entry: entry.pop("state")),
        "is overdrawn but not frozen, or frozen but not overdrawn",
    ),
    "an overrun that leaves all active": (
        *(ONE, of_kind("run-settled"), lambda entry: entry.update(state="active")),
        "is overdrawn but not frozen, or frozen but not overdrawn",
    ),
    "an overrun that hides what it froze": (
        *(ONE, of_kind("run-settled"), lambda entry: entry["overrun"].update(frozen=[], fits=True)),
        "does not name what was overdrawn",
    ),
    "an overrun that freezes for nothing": (TWO, fitting, lambda entry: entry.update(state="frozen"), "not overdrawn"),
    "restarts that nobody stated": (
        *(TWO, early, lambda entry: entry.update(restarts=[])),
        "settles with restarts other than those stated",
    ),
    "files that nobody stated": (
        *(TWO, early, lambda entry: entry.update(models=[{"name": "m", "sha256": "0" * 64, "size": 1}])),
        "settles with models other than those stated",
    ),
    "a file without its size": (
        *(TWO, early, lambda entry: entry.update(models=[{"name": "m", "sha256": "0" * 64}])),
        "has a value in 'models' that no ledger writes",
    ),
    "an overdraft without an overrun": (
        *(ONE, of_kind("run-settled"), lambda entry: entry.pop("overrun")),
        "other than what was approved",
    ),
    "an overdraft that is larger": (
        *(ONE, of_kind("run-settled"), lambda entry: entry["balance"].update(overdrawn=amount(51, 1))),
        "has balances that are not the sum of the entries",
    ),
    # numbers that no budget could cover
    "a report that freezes nothing": (
        *(TWO, of_kind("run-reported"), lambda entry: entry.update(state="active")),
        "not frozen",
    ),
    "a report of what a budget could cover": (
        *(TWO, of_kind("run-reported"), lambda entry: entry["overrun"].update(cost=amount(1100))),
        "does not name every limit that it passes",
    ),
    "a report that names no limit": (
        *(TWO, of_kind("run-reported"), lambda entry: entry["overrun"].update(beyond_limits=[])),
        "does not name every limit that it passes",
    ),
    "a report for nothing": (
        TWO,
        of_kind("run-reported"),
        lambda entry: entry["overrun"].update(cost=amount(1), beyond_limits=[]),
        "reports a number that a budget could cover",
    ),
    "a report that was never answered": (
        *(TWO, of_kind("run-settled", report="confirmed"), lambda entry: entry.pop("report")),
        "answers no report",
    ),
    "an answer to no report": (
        *(ONE, of_kind("run-settled"), lambda entry: entry.update(report="confirmed")),
        "answers no report",
    ),
    "a dataset that is opened while a number waits": (
        *(TWO, of_kind("run-settled", report="confirmed"), open_again),
        "while a reported number waits",
    ),
    "an unknown version": (THREE, of_kind("run-approved"), lambda entry: entry.update(v=6), "unknown format version"),
    "a run that is not a run": (
        *(THREE, of_kind("run-approved"), lambda entry: entry.pop("run")),
        "other members than",
    ),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forgery_with_right_hashes_is_found(what: str) -> None:
    """Goal: whoever has an export can tell that each run was charged wherever it must be, and each limit kept. Method:
    one forged entry, all hashes after it made anew, and what the reader says of it."""
    dataset_id, which, change, told = FORGERIES[what]
    made = journals_of_parts()
    seq = forge(made, dataset_id, which, change)
    with pytest.raises(
        JournalBroken, match="has balances that are not the sum of the entries" if told == LATER else told
    ) as caught:
        made.replay(dataset_id)
    assert (caught.value.seq > seq) if told == LATER else (caught.value.seq == seq)


def test_the_forgeries_are_each_of_something(parts: Book) -> None:
    """Goal: nothing in the table passes for another reason. Method: every journal as it is, made anew, replays."""
    for dataset_id, entries in parts.journals.items():
        reseal(entries, 0, lambda entry: entry)
        assert parts.replay(dataset_id).seq == len(entries)


@pytest.fixture
def parts() -> Book:
    """Journals of datasets with parts."""
    return journals_of_parts()


# --- what a database alone cannot show -------------------------------------------------------------------------------


def test_an_overdraft_that_comes_back_is_found() -> None:
    """Goal: an account that was overdrawn and eased is held to its limit again. Method: after an overrun, a budget that
    covers it, and an approval beyond that budget, forged into a journal that is otherwise in order."""
    made = Book(registered(1, Amount(100, 0)))
    run = made.ask(use(1), cost=Amount(50, 0))
    made.move(start, run)
    made.move(settle, run, excess=Amount(100, 0))
    made.do(
        SetBudget(STEWARD, ONE, {}, Amount(150, 0), "r", ALONE), Change(ADMIN, ONE, "active", None, None, "r", ALONE)
    )
    made.ask(use(1), cost=Amount(1, 0))
    seq = forge(made, ONE, of_kind("run-refused"), become_approval)
    with pytest.raises(JournalBroken, match="more spent and held") as caught:
        made.replay(ONE)
    assert caught.value.seq == seq


def test_a_budget_that_leaves_an_overdraft_is_found() -> None:
    """Goal: an overdraft is eased by a budget that covers all of it, or by none. Method: a budget between what was the
    limit and what is spent, forged with balances as they would be."""
    made = Book(registered(1, Amount(100, 0)))
    run = made.ask(use(1), cost=Amount(50, 0))
    made.move(start, run)
    made.move(settle, run, excess=Amount(100, 0))
    made.do(SetBudget(STEWARD, ONE, {}, Amount(150, 0), "r", ALONE))

    def less_than_spent(entry: dict[str, Any]) -> None:
        entry["limit"] = entry["balance"]["limit"] = amount(120)
        entry["balance"]["overdrawn"] = amount(30)

    seq = forge(made, ONE, of_kind("budget-set"), less_than_spent)
    with pytest.raises(JournalBroken, match="below what is spent and held") as caught:
        made.replay(ONE)
    assert caught.value.seq == seq


def test_a_share_that_was_never_set_is_found() -> None:
    """Goal: which projects have a share, the journal says. Method: a run of a project whose share is taken out."""
    made = Book(registered(1, Amount(100, 0)))
    made.do(SetProject(STEWARD, ONE, "p", {}, Amount(10, 0), None, ALONE))
    made.ask(use(1), cost=Amount(5, 0), project="p")
    made.replay()
    forge(made, ONE, of_kind("project-set"), lambda entry: entry.update(project="q"))
    with pytest.raises(JournalBroken, match="has balances that are not the sum of the entries") as caught:
        made.replay()
    assert caught.value.seq == 3
