"""A journal with an entry of every kind, and what somebody makes of it who has the ledger's key: one change, every hash
after it made anew, and a head that is signed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from ledger.core.amounts import Amount, microseconds, timestamp
from ledger.core.commands import AddPartitions, Change, Ruling, SetBudget, SetFairUse, SetProject
from ledger.core.datasets import FairUse, Parent
from ledger.core.journal import chain
from ledger.core.people import Actor, Consent
from tests.kit.books import ALONE, DAY_US, actor, ask, settle, start, use, void
from tests.kit.exports import exported
from tests.kit.journals import STEWARD, TWO, Book, registered

CENT: Final = Amount(10**10, 0)
"""What one release with a noise multiplier of 10 costs."""
SECOND: Final = actor("steward", 4)
WHO: Final = actor("requester", 1)
STRANGER: Final = actor("requester", 2)
ANOTHER: Final = str(UUID(int=99))

Entries = list[dict[str, Any]]
Change_ = Callable[[Entries], object]


class Story(Book):
    """A book in which time passes, and of which the same is made each time."""

    def do(self, *commands: Any) -> list[Any]:
        self.now_us += 60_000_000
        return super().do(*commands)

    def run(self, number: int, *uses: Any, count: int = 1, **more: Any) -> Any:
        """A run of so many releases is asked for."""
        cost = Amount(count * CENT.mu_sq_pico, 0)
        command = ask(*uses, cost=cost, run=UUID(int=1000 + number), who=WHO, **more)
        mechanism = {"type": "gaussian", "noise_multiplier": 10, "count": count}
        command = replace(command, request={**command.request, "mechanism": mechanism})
        self.do(command)
        return command


def second(proposal: int) -> Consent:
    """The second person's word on a proposal."""
    return Consent(UUID(int=proposal), is_second=True)


def story() -> Story:
    """What happened to clicks (`data-2`, in partitions) and to what is derived from it (`data-1`)."""
    made = Story(
        registered(2, Amount(10 * CENT.mu_sq_pico, 0), partitions=["a"], ceiling=Amount(10**12, 0)),
        registered(1, None, derived_from=(Parent(TWO, "data-2"),)),
    )
    made.do(SetProject(STEWARD, TWO, "p", {"mu": 1}, Amount(8 * CENT.mu_sq_pico, 0), "a share", ALONE))
    made.do(AddPartitions(STEWARD, TWO, ("b",), ALONE))
    made.do(SetFairUse(STEWARD, TWO, FairUse({"mu": 1}, Amount(9 * CENT.mu_sq_pico, 0), 100), "for all", ALONE))
    whole = made.run(1, use(2, None), count=2, project="p")
    made.run(2, use(2, ["b"]), count=9)  # refused
    made.move(start, whole, WHO)
    made.move(settle, whole, WHO, charged=CENT)
    derived = made.run(3, use(1, ["a"]), use(2, ["a"], via=1))
    made.move(start, derived, WHO)
    made.books = replace(made.books, takes_two=True)
    raised = SetBudget(STEWARD, TWO, {"mu": 2}, Amount(20 * CENT.mu_sq_pico, 0), "more", Consent(UUID(int=501)))
    made.do(raised)
    made.do(replace(raised, actor=SECOND, consent=second(501)))
    made.do(replace(raised, limit=Amount(30 * CENT.mu_sq_pico, 0), consent=Consent(UUID(int=502))))
    made.books = replace(made.books, takes_two=False)
    made.move(settle, derived, WHO, excess=Amount(20 * CENT.mu_sq_pico, 0))  # does not fit
    made.do(Change(STEWARD, TWO, "active", None, None, "looked at", ALONE))
    held = made.run(4, use(2, ["b"]))
    made.move(void, held, WHO)
    late = made.run(5, use(2, ["b"]))
    made.move(start, late, WHO, token_sha256="ab" * 32)
    made.move(void, late, STEWARD)
    huge = made.run(6, use(2, ["b"]))
    made.move(start, huge, WHO)
    made.move(settle, huge, WHO, excess=Amount(1000 * CENT.mu_sq_pico, 0))  # reported
    made.move(settle, huge, STEWARD, ruling=Ruling("corrected", "a slip", ALONE))
    made.do(Change(STEWARD, TWO, "active", None, None, "corrected", ALONE))
    made.do(Change(STEWARD, TWO, "retired", None, None, "enough", ALONE))
    return made


def sealed(entries: Entries) -> list[tuple[str, bytes]]:
    """The entries with the chain made anew."""
    made: list[tuple[str, bytes]] = []
    for seq, entry in enumerate(entries, start=1):
        body = chain.canonical(entry | {"seq": seq, "prev": made[-1][1].hex() if made else "0" * 64})
        made.append((body, chain.digest(body)))
    return made


def parsed(dataset_id: UUID = TWO) -> Entries:
    """The story's entries, to be changed."""
    return [chain.parse(body) for body, _ in story().journals[dataset_id]]


def forge(change: Change_, entries: Entries) -> list[str]:
    """The export of the journal after a change."""
    changed = copy.deepcopy(entries)
    change(changed)
    return exported(TWO, sealed(changed), requests=story().requests)


def at(kind: str, number: int = 0) -> Callable[[Entries], dict[str, Any]]:
    """The entry of a kind, the first or a later one."""
    return lambda entries: [entry for entry in entries if entry["kind"] == kind][number]


Place = Callable[[Entries], dict[str, Any]]


def put(place: Place, **members: Any) -> Change_:
    """Members of an entry are others."""
    return lambda entries: place(entries).update(members)


def put_in(place: Place, *path: str | int, value: Any) -> Change_:
    """What stands at a path in an entry is something else."""

    def change(entries: Entries) -> None:
        holder: Any = place(entries)
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = value

    return change


def drop(place: Place, name: str) -> Change_:
    """A member of an entry is missing."""
    return lambda entries: place(entries).pop(name)


def by(place: Place, who: Actor) -> Change_:
    """Somebody else did it."""
    return put(place, actor=who.facts())


def more(**members: Any) -> Change_:
    """An entry is added: what a steward did last, with these members in the place of its own."""
    return lambda entries: entries.append(entries[-1] | members)


def together(*changes: Change_) -> Change_:
    """Several changes."""

    def change(entries: Entries) -> None:
        for one in changes:
            one(entries)

    return change


def own(place: Place) -> Change_:
    """The request that an entry names by its digest stands in the entry itself."""

    def change(entries: Entries) -> None:
        entry = place(entries)
        entry["request"] = chain.parse(story().requests[entry.pop("request_sha256")])
        del entry["request_in"]

    return change


def only(place: Place, *names: str) -> Change_:
    """The entry charges these partitions alone."""

    def change(entries: Entries) -> None:
        for group in place(entries)["accounts"]:
            group["partitions"] = list(names)

    return change


def move(place: Place, by_us: int) -> Change_:
    """The entry is of another time, with the deadline that follows from it."""

    def change(entries: Entries) -> None:
        entry = place(entries)
        entry["at"] = _moved(entry["at"], by_us)
        for name in {"start_by", "settle_by", "begin_by", "approve_by"} & entry.keys():
            entry[name] = _moved(entry[name], by_us)

    return change


def _moved(text: str, by_us: int) -> str:
    return timestamp(microseconds(datetime.fromisoformat(text)) + by_us)


WHOLE: Final = at("run-approved")
DERIVED: Final = at("run-approved", 1)
START: Final = at("run-started")
SETTLED: Final = at("run-settled")
OVERRUN: Final = at("run-settled", 1)
RAISED: Final = at("budget-set")
LAST: Final = at("dataset-changed", 1)
COST: Final = ("cost", "mu_sq_pico")

PROPOSED: Final = at("change-proposed")
PROJECT: Final = at("project-set")
REFUSED: Final = at("run-refused")
VOIDED: Final = at("run-voided")
VOIDED_LATE: Final = at("run-voided", 1)
ADDED: Final = None
"""Where it is wrong: behind the last entry that there was."""
AMOUNTS: Final = {
    "an underscore": "2_0000000000",
    "a zero and an underscore": "0_20000000000",
    "Arabic digits": "\u0662" + "\u0660" * 10,
    "a point": "20000000000.0",
    "a plus sign": "+20000000000",
    "a space": " 20000000000",
    "a leading zero": "020000000000",
    "an exponent": "2e10",
    "a minus sign before zero": "-0",
    "a number": 20_000_000_000,
    "nothing": "",
}
"""Other ways to write the cost of the first run, or nearly."""


def decided_late(entries: Entries) -> None:
    """One more run is approved, on a dataset that was retired."""
    at_the_end = {"at": entries[-1]["at"], "start_by": _moved(entries[-1]["at"], DAY_US)}
    entries.append(WHOLE(entries) | at_the_end | {"run": ANOTHER})


def _name_the_first_request(entries: Entries) -> None:
    request = chain.canonical(WHOLE(entries)["request"])
    DERIVED(entries)["request_sha256"] = chain.digest(request).hex()


FORGED: Final[dict[str, tuple[Place | None, Change_, str]]] = {
    # what it charges
    "a run on all, charged in one partition": (
        WHOLE,
        only(WHOLE, "a"),
        "has balances that are not the sum of the entries",
    ),
    "a run charged in a partition more": (
        DERIVED,
        only(DERIVED, "a", "b"),
        "has balances that are not the sum of the entries",
    ),
    "a run that asked for another partition": (
        *(DERIVED, together(own(DERIVED), put_in(DERIVED, "request", "datasets", 0, "partitions", value=["b"]))),
        "has balances that are not the sum of the entries",
    ),
    "a run that asked for one partition twice": (
        *(DERIVED, together(own(DERIVED), put_in(DERIVED, "request", "datasets", 0, "partitions", value=["a", "a"]))),
        "one twice",
    ),
    "a run reached by what it does not name": (
        DERIVED,
        put(DERIVED, via=["data-3"]),
        "is charged through a dataset that the request does not name",
    ),
    "a run reached by nothing": (
        DERIVED,
        put(DERIVED, via=[]),
        "is charged through a dataset that the request does not name",
    ),
    "a run without its project": (WHOLE, drop(WHOLE, "project"), "has a project other than requested"),
    "a run costed by other terms": (WHOLE, put(WHOLE, bound="certified"), "another dataset"),
    "a run on a dataset that was retired": (ADDED, decided_late, "not active"),
    # members
    "a state where there is none": (PROJECT, put(PROJECT, state="active"), "other members"),
    "a state that there is not": (LAST, put(LAST, state="gone"), "no ledger writes"),
    "a member too many": (START, put(START, note="x"), "other members"),
    "a member too few": (SETTLED, drop(SETTLED, "stop"), "other members"),
    "a member too many of a balance": (
        *(START, put_in(START, "accounts", 0, "left", value={})),
        "members",
    ),
    "a member too many of an actor": (START, put_in(START, "actor", "as", value="x"), "members"),
    "an account that stands twice": (
        *(START, lambda entries: START(entries)["accounts"].append(START(entries)["accounts"][0])),
        "names the balance of",
    ),
    "an unknown version": (START, put(START, v=6), "unknown format version"),
    "an older version than before": (START, put(START, v=2), "after an entry of version"),
    "another name of the dataset": (START, put(START, dataset="data-9"), "names the dataset"),
    "an id in another form": (START, put(START, run=f"{{{UUID(int=1001)}}}"), "no ledger writes"),
    "a settlement that freezes and fits": (SETTLED, put(SETTLED, state="frozen"), "nothing was overdrawn"),
    "a settlement that retires": (OVERRUN, put(OVERRUN, state="retired"), "not frozen"),
    "a settlement with files that nobody stated": (
        *(SETTLED, put(SETTLED, models=[{"name": "m", "sha256": "0" * 64, "size": 1}])),
        "settles with models other than",
    ),
    "a settlement without the stated files": (
        *(SETTLED, put(SETTLED, request={"models": [{"name": "m", "sha256": "0" * 64, "size": 1}]})),
        "settles with models other than",
    ),
    "a settlement with a digest in another form": (
        *(SETTLED, put(SETTLED, models=[{"name": "m", "sha256": "0" * 63, "size": 1}])),
        "no ledger writes",
    ),
    "a settlement of other steps": (SETTLED, put(SETTLED, request={"steps": 3}), "records steps other than"),
    # amounts
    **{
        f"an amount with {what}": (
            WHOLE,
            put_in(WHOLE, *COST, value=value),
            "an amount must be an integer written in ASCII digits, not",
        )
        for what, value in AMOUNTS.items()
    },
    "an amount of a third quantity": (WHOLE, put_in(WHOLE, "cost", "epsilon", value="1"), "exactly"),
    "a budget from another limit": (
        *(RAISED, put_in(RAISED, "limit_before", "mu_sq_pico", value="1")),
        "has a wrong limit_before",
    ),
    "a share from another limit": (
        *(PROJECT, put(PROJECT, limit_before=CENT.facts())),
        "has a wrong limit_before",
    ),
    "a void that returns less": (VOIDED, put(VOIDED, returned=Amount(1, 0).facts()), "something other than"),
    "a refusal with a reason twice": (
        REFUSED,
        put(REFUSED, binding=["mu", "mu"]),
        "does not name every quantity in which the run does not fit",
    ),
    "a refusal because of itself": (
        REFUSED,
        put(REFUSED, binding_elsewhere=["data-2"]),
        "has a wrong binding_elsewhere",
    ),
    # a request that stands elsewhere
    "a request that stands here": (
        *(DERIVED, put_in(DERIVED, "request_in", "id", value=str(TWO))),
        "refers to its own journal as another one",
    ),
    "a request that stands nowhere": (DERIVED, drop(DERIVED, "request_in"), "other members"),
    "a request without its digest": (DERIVED, drop(DERIVED, "request_sha256"), "other members"),
    "a request that stands at no number": (DERIVED, put_in(DERIVED, "request_in", "seq", value=0), "'request_in'"),
    "a request that has no digest": (DERIVED, put(DERIVED, request_sha256="0" * 63), "'request_sha256'"),
    "a request here and elsewhere": (DERIVED, put(DERIVED, request={}), "names another journal that has it"),
    "the request of another run": (DERIVED, _name_the_first_request, "has a project other than requested"),
    "weak protection that was not accepted": (
        at("dataset-registered"),
        put(at("dataset-registered"), accepts_weak_protection=False),
        "'accepts_weak_protection'",
    ),
    "weak protection accepted where no budget is set": (
        PROJECT,
        put(PROJECT, accepts_weak_protection=True),
        "other members",
    ),
    # who
    "registered by a requester": (at("dataset-registered"), by(at("dataset-registered"), WHO), "whose role"),
    "a share by a requester": (PROJECT, by(PROJECT, WHO), "whose role"),
    "asked for by an auditor": (WHOLE, by(WHOLE, actor("auditor", 1)), "whose role"),
    "started by a steward": (START, by(START, actor("steward", 1)), "whose role"),
    "started by another": (
        START,
        by(START, STRANGER),
        "was made by a principal other than the one that asked for the run",
    ),
    "settled by another": (
        SETTLED,
        by(SETTLED, STRANGER),
        "was made by a principal other than the one that asked for the run",
    ),
    "voided by another": (VOIDED, by(VOIDED, STRANGER), "voids a run that this actor may not void"),
    "voided by its own, once started": (VOIDED_LATE, by(VOIDED_LATE, WHO), "voids a run that this actor may not void"),
    # two people
    "approved by who proposed it": (RAISED, by(RAISED, STEWARD), "the same person"),
    "approved, and something else": (RAISED, put(RAISED, reason="other"), "other than the one proposed"),
    "approved, and proposed by another": (
        *(RAISED, put_in(RAISED, "proposal", "by", "name", value="other")),
        "names another person as its proposer",
    ),
    "approved, and proposed at another time": (
        *(RAISED, put_in(RAISED, "proposal", "at", value="2027-01-01T00:00:00.000000Z")),
        "names another time of its proposal",
    ),
    "approved too late": (RAISED, move(RAISED, 2 * DAY_US), "had expired"),
    "proposed, and no more than before": (
        *(PROPOSED, put_in(PROPOSED, "proposes", "limit", value=CENT.facts())),
        "not more than before",
    ),
    "proposed for longer": (
        PROPOSED,
        put(PROPOSED, approve_by="2030-01-01T00:00:00.000000Z"),
        "gives the approval a time other than one day",
    ),
    # when
    "started too late": (START, move(START, 2 * DAY_US), "starts a run after its time to start"),
    "times that go back": (SETTLED, move(SETTLED, -600_000_000), "older than the entry before"),
    "a time of no day": (START, put(START, at="2027-02-30T00:00:00.000000Z"), "no ledger writes"),
    "a time in another form": (START, put(START, at="2027-01-15T08:00:00Z"), "no ledger writes"),
    "longer to start than was asked for": (
        *(WHOLE, put(WHOLE, start_by="2030-01-01T00:00:00.000000Z")),
        "gives a time to start other than the one asked for",
    ),
    "longer to settle": (START, put(START, settle_by="2030-01-01T00:00:00.000000Z"), "has a wrong settle_by"),
    # by which process
    "a token that is no digest": (START, put(START, token_sha256="AB" * 32), "a value in 'token_sha256' that no"),
    "a token that is nothing": (START, put(START, token_sha256=None), "a value in 'token_sha256' that no"),
    # states
    "out of retirement": (ADDED, more(state="active"), "a retired dataset"),
    "started twice": (ADDED, lambda entries: entries.append(START(entries) | {"at": entries[-1]["at"]}), "not active"),
}
"""By what is wrong: where, how it came about, and what the verifier says of it."""


# --- what no JSON shows ----------------------------------------------------------------------------------------------

Lines = list[str]


def _rewritten(kind: str, old: str, new: str) -> Callable[[], Lines]:
    """The first entry of a kind with another text, which has its hash."""

    def rewrite() -> Lines:
        bodies = [body for body, _ in story().journals[TWO]]
        made: list[tuple[str, bytes]] = []
        changed = next(index for index, body in enumerate(bodies) if f'"kind":"{kind}"' in body)
        for index, body in enumerate(bodies):
            text = body.replace(old, new, 1) if index == changed else body
            if made:
                text = text.replace(chain.parse(body)["prev"], made[-1][1].hex())
            made.append((text, chain.digest(text)))
        return exported(TWO, made, requests=story().requests)

    return rewrite


def _with_line(change: Callable[[Lines], Lines]) -> Callable[[], Lines]:
    return lambda: change(exported(TWO, story().journals[TWO], requests=story().requests))


def _in_header(old: str, new: str) -> Callable[[], Lines]:
    return _with_line(lambda lines: [lines[0].replace(old, new, 1), *lines[1:]])


WRITTEN: Final[dict[str, tuple[str | None, Callable[[], Lines], str]]] = {
    "a number with a huge exponent": (
        *("run-settled", _rewritten("run-settled", '"request":{', '"request":{"x":1e999999999')),
        "exponent",
    ),
    "a number with a small exponent": (
        *("run-settled", _rewritten("run-settled", '"request":{', '"request":{"x":1e2')),
        "exponent",
    ),
    "a number with a trailing zero": (
        *("run-settled", _rewritten("run-settled", '"request":{', '"request":{"x":1.50')),
        "canonical",
    ),
    "a number of a thousand digits": (
        *("run-settled", _rewritten("run-settled", '"request":{', '"request":{"x":' + "9" * 1000)),
        "characters",
    ),
    "a member twice": (
        "run-settled",
        _rewritten("run-settled", '"request":{', '"request":{},"request":{'),
        "canonical",
    ),
    "white space": ("run-settled", _rewritten("run-settled", '"request":{', '"request": {'), "canonical"),
    "a line after the head": ("+", _with_line(lambda lines: [*lines, "{}"]), "after the head"),
    "an empty line after the head": ("+", _with_line(lambda lines: [*lines, ""]), "after the head"),
    "a member twice in the header": (None, _in_header('"tenant":', '"tenant":{},"tenant":'), "cannot be read"),
    "a format twice in the header": (None, _in_header("{", '{"format":"x",'), "cannot be read"),
    "a member too many in the header": (None, _in_header("{", '{"note":"x",'), "cannot be read"),
    "a version that is no number": (None, _in_header('"version":3', '"version":true'), "not known"),
    "another name in the header": ("dataset-registered", _in_header('"data-2"', '"data-1"'), "names the dataset"),
}
"""The same, of an export's text: in the first entry of a kind, behind the last one (`+`), or in the header."""


def exports() -> dict[str, tuple[int, Lines, str]]:
    """Every forged export: the number of the first entry that is wrong, its lines, and what the verifier says."""
    entries = parsed()
    made: dict[str, tuple[int, Lines, str]] = {}
    for name, (place, change, message) in FORGED.items():
        seq = len(entries) + 1 if place is None else entries.index(place(entries)) + 1
        made[name] = seq, forge(change, entries), message
    kinds = [entry["kind"] for entry in entries]
    for name, (kind, write, message) in WRITTEN.items():
        seq = 0 if kind is None else len(entries) + 1 if kind == "+" else kinds.index(kind) + 1
        made[name] = seq, write(), message
    return made
