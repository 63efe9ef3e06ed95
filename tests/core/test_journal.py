"""Canonical bytes, the chain, and replay."""

from __future__ import annotations

import hashlib
import json
import random
import tracemalloc
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.api import body as api_body
from ledger.canonical import parse_canonical
from ledger.core.amounts import INT64_MAX, Amount
from ledger.core.commands import SetBudget
from ledger.core.datasets import AccountKey
from ledger.core.journal import chain
from ledger.errors import JournalBroken
from tests.kit.books import ALONE, CONFIRMED, settle, start, void
from tests.kit.journals import (
    ADMIN,
    ONE,
    TWO,
    Book,
    become_approval,
    journal_of_a_whole,
    journals_of_parts,
    kind_at,
    less,
    registered,
    reseal,
)

texts = st.text(st.characters(exclude_categories=["Cs"]))
numbers = st.integers() | st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(values)
def test_canonical_text_is_json_of_the_same_value(value: Any) -> None:
    """Goal: canonical form loses nothing. Method: Python's own parser reads it back, and writing that is the same."""
    text = chain.canonical(value)
    assert chain.parse(text) == value
    assert chain.canonical(chain.parse(text)) == text


@given(st.dictionaries(texts, st.integers() | texts, max_size=6))
def test_canonical_objects_are_what_the_standard_library_sorts(value: dict[str, Any]) -> None:
    """Goal: the form is the usual one. Method: json.dumps with sorted keys and no white space, on what it can write."""
    assert chain.canonical(value) == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("1.10", "1.1"),
        ("1", "1"),
        ("1.000", "1"),
        ("1E+2", "100"),
        ("1e-8", "0.00000001"),
        ("-0.0", "0"),
        ("-2.50", "-2.5"),
        ("0.1000000000000000000000000000000000000001", "0.1000000000000000000000000000000000000001"),
    ],
)
def test_equal_numbers_have_equal_bytes(number: str, text: str) -> None:
    """Goal: 1.10 and 1.1 are the same request, and no digit that was written is lost."""
    assert chain.canonical(Decimal(number)) == text


@pytest.mark.parametrize("value", [1.5, Decimal("NaN"), Decimal("Infinity"), {1, 2}, object()])
def test_what_has_no_exact_form_is_refused(value: Any) -> None:
    """Goal: a double or an infinity cannot slip into a record."""
    with pytest.raises(TypeError):
        chain.canonical(value)


@pytest.fixture
def book() -> Book:
    """A journal of a dataset that is counted as a whole."""
    return journal_of_a_whole()


@pytest.fixture
def parts() -> Book:
    """Journals of datasets with parts."""
    return journals_of_parts()


def test_the_chain_can_be_checked_with_a_json_parser_and_sha256(book: Book) -> None:
    """Goal: nobody needs this code to check the chain. Method: json and hashlib alone."""
    prev = "0" * 64
    for seq, (body, stated) in enumerate(book.entries, start=1):
        entry = json.loads(body)
        assert hashlib.sha256(body.encode()).digest() == stated
        assert (entry["seq"], entry["prev"], entry["v"]) == (seq, prev, 5)
        prev = stated.hex()


def test_an_entry_that_was_made_anew_is_found_by_the_next_one(book: Book) -> None:
    """Goal: replay follows the chain. Method: change what no arithmetic rests on, and make the hash of that entry
    right, but not those after it."""
    whole = list(book.entries)
    for at in range(len(whole) - 1):
        entry = chain.parse(whole[at][0])
        entry["actor"]["name"] = "somebody else"
        body = chain.canonical(entry)
        book.entries = [*whole[:at], (body, chain.digest(body)), *whole[at + 1 :]]
        with pytest.raises(JournalBroken, match="does not follow") as broken:
            book.replay()
        assert broken.value.seq == at + 2


@pytest.mark.parametrize("which", ["book", "parts"])
def test_replay_adds_up_to_the_books(which: str, request: pytest.FixtureRequest) -> None:
    """Goal: replay, which shares no arithmetic with decide, gives the same balances, limits, states and heads."""
    made: Book = request.getfixturevalue(which)
    for dataset_id, entries in made.journals.items():
        replayed = made.replay(dataset_id)
        dataset = made.books.datasets[dataset_id]
        mine = {key: account for key, account in made.books.accounts.items() if key.dataset_id == dataset_id}
        assert replayed.accounts == mine
        assert (replayed.seq, replayed.head) == (len(entries), entries[-1][1])
        assert (replayed.state, replayed.limit) == (dataset.state, dataset.limit)
        states = {run.id: run.state for run in made.books.runs.values()}
        assert {run: state for run, (state, _) in replayed.runs.items()} == {
            run.id: states[run.id]
            for run in made.books.runs.values()
            if any(place.dataset_id == dataset_id for place in run.places)
        }


def test_the_journals_have_what_they_are_to_show(book: Book, parts: Book) -> None:
    """Goal: the fixtures are not empty. Method: the kinds of entries, balances and groups that stand in them."""
    entries = [chain.parse(body) for made in (book, parts) for mine in made.journals.values() for body, _ in mine]
    assert {entry["kind"] for entry in entries} == {
        *("dataset-registered", "dataset-changed", "budget-set", "partitions-added", "project-set", "fair-use-set"),
        *("run-approved", "run-refused", "run-started", "run-reported", "run-settled", "run-voided"),
    }
    said = {(tuple(entry.get("binding", "-")), tuple(entry.get("binding_elsewhere", "-"))) for entry in entries}
    assert {(("mu",), ()), ((), ("data-1",)), (("-",), ("-",))} <= said
    fits = [entry["overrun"]["fits"] for entry in entries if "overrun" in entry]
    assert sorted(set(fits)) == [False, True]
    assert [dataset.state for dataset in parts.books.datasets.values()] == ["frozen", "frozen", "active"]
    holders = {(key.project is not None, key.principal_id is not None) for key in parts.books.accounts}
    assert holders == {(False, False), (True, False), (False, True)}
    assert parts.books.accounts[AccountKey(TWO, "a")].overdrawn != Amount(0, 0)


def test_the_highest_limit_is_found_in_each_quantity(book: Book) -> None:
    """Goal: a reader learns the most that was ever allowed. Method: a limit that rises in one and falls elsewhere."""
    assert book.replay().limit_highest == Amount(2000, 1000)
    book.do(
        SetBudget(ADMIN, ONE, {"mu": 2}, Amount(2500, 900), "r", ALONE),
        SetBudget(ADMIN, ONE, {}, Amount(2000, 950), "r", ALONE),
    )
    found = book.replay()
    assert (found.limit, found.limit_highest) == (Amount(2000, 950), Amount(2500, 1000))


def test_an_overdraft_that_shrinks_replays() -> None:
    """Goal: what is given back eases an account that is overdrawn, whether a run is voided or settles for less. Method:
    an overrun beside two runs that hold; after each end the reader's balance is the books'."""
    made = Book(registered(1, Amount(100, 0)))
    runs = [made.ask(1, cost=Amount(30, 0)) for _ in range(3)]
    for run in runs:
        made.move(start, run)
    overdrawn = []
    ends: list[tuple[Callable[..., Any], dict[str, Any]]] = [
        (settle, {"excess": Amount(60, 0)}),
        (settle, {"charged": Amount(10, 0)}),
        (void, {}),
    ]
    for run, (do, more) in zip(runs, ends, strict=True):
        made.move(do, run, **more)
        account = made.replay().accounts[AccountKey(ONE)]
        assert account == made.books.accounts[AccountKey(ONE)]
        overdrawn.append(account.overdrawn.mu_sq_pico)
    assert overdrawn == [50, 30, 0]


def test_a_saturated_balance_replays() -> None:
    """Goal: a journal stays readable whatever was executed. Method: an overrun past 64 bits, confirmed, and another."""
    made = Book(registered(1, Amount(100, 100)))
    runs = [made.ask(1, cost=Amount(50, 0)) for _ in range(2)]
    for run in runs:
        made.move(start, run)
    for run in runs:
        for ruling in (None, CONFIRMED):
            made.move(settle, run, excess=Amount(10**40, 1), ruling=ruling)
    found = made.replay().accounts[AccountKey(ONE)]
    assert (found.spent, found.overdrawn) == (Amount(INT64_MAX, 2), Amount(INT64_MAX - 100, 0))


FORGERIES: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("run-approved", less("cost")),
    ("run-settled", less("charged")),
    ("budget-set", less("limit")),
    ("run-approved", lambda entry: entry["balance"].update(held={"mu_sq_pico": "0", "delta_atto": "0"})),
    ("run-refused", lambda entry: entry.update(kind="dataset-changed")),
    ("run-refused", lambda entry: entry["cost"].update(mu_sq_pico="1")),
    ("run-voided", lambda entry: entry.update(run=str(uuid4()))),
    ("run-started", lambda entry: entry.update(kind="run-settled", charged=entry["balance"]["spent"])),
    ("run-approved", lambda entry: entry.update(dataset_id=str(uuid4()))),
    ("run-approved", lambda entry: entry.update(tenant=str(uuid4()))),
    ("run-approved", lambda entry: entry.update(seq=99)),
    ("run-approved", lambda entry: entry.update(v=6)),
    ("run-approved", lambda entry: entry.update(kind="gift")),
    ("run-approved", lambda entry: entry.pop("balance")),
]


@pytest.mark.parametrize(("kind", "change"), FORGERIES, ids=map(str, range(len(FORGERIES))))
def test_a_forgery_with_right_hashes_is_found_by_its_arithmetic(
    book: Book, kind: str, change: Callable[[dict[str, Any]], object]
) -> None:
    """Goal: numbers are checked, not only hashes. Method: forge one entry and re-hash everything after it."""
    index = kind_at(book.entries, kind)
    reseal(book.entries, index, change)
    with pytest.raises(JournalBroken) as caught:
        book.replay()
    assert caught.value.seq >= index + 1


def test_an_approval_beyond_the_limit_is_found(book: Book) -> None:
    """Goal: replay holds approvals to the limit. Method: a forged journal, consistent but for one approval too many."""
    index = kind_at(book.entries, "run-refused")

    reseal(book.entries, index, become_approval)
    with pytest.raises(JournalBroken, match="more spent and held than the limit") as caught:
        book.replay()
    assert caught.value.seq == index + 1


def test_every_tampering_with_the_bytes_is_found_at_its_entry(book: Book, tries: Callable[[int, int], int]) -> None:
    """Goal: a changed byte, a swap, a removal or a doubling is named by its first wrong seq. Method: seeded tries."""
    rng = random.Random(20)
    whole = list(book.entries)
    for _ in range(tries(300, 10_000)):
        book.entries = list(whole)
        at = rng.randrange(len(whole) - 1)
        match rng.choice(("byte", "swap", "remove", "double")):
            case "byte":
                body = bytearray(whole[at][0].encode())
                place = rng.randrange(len(body))
                body[place] ^= 1 << rng.randrange(7)
                book.entries[at] = (body.decode(errors="replace"), whole[at][1])
            case "swap":
                book.entries[at], book.entries[at + 1] = whole[at + 1], whole[at]
            case "remove":
                del book.entries[at]
            case "double":
                book.entries.insert(at + 1, whole[at])
                at += 1
        with pytest.raises(JournalBroken) as caught:
            book.replay()
        assert caught.value.seq == at + 1


@pytest.mark.parametrize("text", ["1e401", "1e-401", "0e-401", "1e999999999", "-1E+999999999", "9" * 1000, "NaN"])
def test_numbers_beyond_all_use_are_refused(text: str) -> None:
    """Goal: a few characters never fill the memory. Method: numbers past what the server takes, with what is allocated
    while they are read."""
    tracemalloc.start()
    try:
        for read in (chain.parse, parse_canonical):
            with pytest.raises(ValueError):  # noqa: PT011 (JSON's own errors among them)
                read(f'{{"x":{text}}}')
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_what_the_server_takes_is_read_again() -> None:
    """Goal: no entry is too long for its reader. Method: the smallest and the largest number with the most digits that
    a request can have, written canonically and read again."""
    for text in ("1e400", "-1e-400", "-0." + "3" * 396, "9" * 400, f"-{'1' * 393}e-400"):
        body = chain.canonical(chain.parse(text))
        assert chain.canonical(parse_canonical(body)) == body
        api_body.parse(text.encode())
