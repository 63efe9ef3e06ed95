"""Canonical bytes, the chain, and replay."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger import journal
from ledger.decide import decide
from ledger.errors import JournalBroken
from ledger.model import (
    NO_HASH,
    Actor,
    Amount,
    Ask,
    Books,
    Change,
    Claim,
    Dataset,
    Definition,
    Draft,
    Register,
    SetBudget,
    Settle,
    Start,
    Void,
)

TENANT = UUID(int=7)
DATASET = UUID(int=8)
ADMIN = Actor(TENANT, UUID(int=1), UUID(int=2), "an admin", "admin")

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
    text = journal.canonical(value)
    assert journal.parse(text) == value
    assert journal.canonical(journal.parse(text)) == text


@given(st.dictionaries(texts, st.integers() | texts, max_size=6))
def test_canonical_objects_are_what_the_standard_library_sorts(value: dict[str, Any]) -> None:
    """Goal: the form is the usual one. Method: json.dumps with sorted keys and no white space, on what it can write."""
    assert journal.canonical(value) == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


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
    assert journal.canonical(Decimal(number)) == text


@pytest.mark.parametrize("value", [1.5, Decimal("NaN"), Decimal("Infinity"), {1, 2}, object()])
def test_what_has_no_exact_form_is_refused(value: Any) -> None:
    """Goal: a double or an infinity cannot slip into a record."""
    with pytest.raises(TypeError):
        journal.canonical(value)


class Book:
    """A journal in memory, made by the real `decide` and `seal`."""

    def __init__(self) -> None:
        definition = Definition(DATASET, "mnist", "record", "add_or_remove_one", "clt", 60_000)
        self.books = Books({DATASET: Dataset(definition, "", "", {"mu": 1}, "active", 0, NO_HASH)})
        self.entries: list[tuple[str, bytes]] = []
        self.do(Register(ADMIN, definition, uuid4(), "", "", {"mu": 1}, Amount(1000, 1000)))

    def do(self, *commands: Any) -> list[Any]:
        self.books, outcomes = decide(self.books, commands, now_us=1_700_000_000_000_000 + len(self.entries))
        for outcome in outcomes:
            if isinstance(outcome, Draft):
                prev = self.entries[-1][1] if self.entries else NO_HASH
                entry = journal.seal(outcome, tenant_id=TENANT, prev=prev, at_us=1_700_000_000_000_000)
                self.entries.append((entry.body, entry.hash))
        return outcomes

    def ask(self, mu_sq_pico: int, delta_atto: int = 0) -> UUID:
        run = uuid4()
        claim = Claim(f"key-{run}", bytes(32))
        self.do(Ask(ADMIN, DATASET, run, claim, Amount(mu_sq_pico, delta_atto), {"x": 1}, {}, valid_for_us=10**9))
        return run

    def replay(self) -> journal.Replayed:
        return journal.replay(self.entries, tenant_id=TENANT, dataset_id=DATASET)


@pytest.fixture
def book() -> Book:
    """A journal with an entry of every kind."""
    made = Book()
    settled, voided, voided_late = made.ask(300), made.ask(100, 7), made.ask(50)
    made.ask(900)  # refused
    made.do(Start(ADMIN, DATASET, settled), Start(ADMIN, DATASET, voided_late))
    made.do(
        Settle(ADMIN, DATASET, settled, body={}, steps=3, stop="planned"),
        Void(ADMIN, DATASET, voided, body={"reason": "r"}),
    )
    made.do(SetBudget(ADMIN, DATASET, {"mu": 2}, Amount(2000, 1000), "more people"))
    made.do(Change(ADMIN, DATASET, "frozen", None, None, "a look"))
    made.do(Void(ADMIN, DATASET, voided_late, body={"reason": "no output was seen"}))
    made.do(Change(ADMIN, DATASET, "active", "New title", None, "looked"))
    made.ask(1700)
    return made


def test_the_chain_can_be_checked_with_a_json_parser_and_sha256(book: Book) -> None:
    """Goal: nobody needs this code to check the chain. Method: json and hashlib alone."""
    prev = "0" * 64
    for seq, (body, stated) in enumerate(book.entries, start=1):
        entry = json.loads(body)
        assert hashlib.sha256(body.encode()).digest() == stated
        assert (entry["seq"], entry["prev"], entry["v"]) == (seq, prev, 1)
        prev = stated.hex()


def test_replay_adds_up_to_the_books(book: Book) -> None:
    """Goal: replay, which shares no arithmetic with decide, gives the same balance, states and head."""
    replayed = book.replay()
    assert replayed.account == book.books.accounts[DATASET]
    assert (replayed.seq, replayed.head) == (len(book.entries), book.entries[-1][1])
    assert replayed.state == book.books.datasets[DATASET].state
    assert {run: state for run, (state, _) in replayed.runs.items()} == {
        run.id: run.state for run in book.books.runs.values()
    }


def _reseal(entries: list[tuple[str, bytes]], index: int, change: Callable[[dict[str, Any]], object]) -> None:
    """What a forger who knows the format does: change an entry, then make every hash after it right again."""
    entry = journal.parse(entries[index][0])
    change(entry)
    for at in range(index, len(entries)):
        if at > index:
            entry = journal.parse(entries[at][0])
            entry["prev"] = entries[at - 1][1].hex()
        body = journal.canonical(entry)
        entries[at] = (body, journal.digest(body))


def _kind(entries: Sequence[tuple[str, bytes]], kind: str) -> int:
    return next(index for index, (body, _) in enumerate(entries) if journal.parse(body)["kind"] == kind)


def _less(part: str) -> Callable[[dict[str, Any]], object]:
    def change(entry: dict[str, Any]) -> None:
        entry[part]["mu_sq_pico"] = str(int(entry[part]["mu_sq_pico"]) - 1)

    return change


FORGERIES: list[tuple[str, Callable[[dict[str, Any]], object]]] = [
    ("run-approved", _less("cost")),
    ("run-settled", _less("charged")),
    ("budget-set", _less("limit")),
    ("run-approved", lambda entry: entry["balance"].update(held={"mu_sq_pico": "0", "delta_atto": "0"})),
    ("run-refused", lambda entry: entry.update(kind="dataset-changed")),
    ("run-refused", lambda entry: entry["cost"].update(mu_sq_pico="1")),
    ("run-voided", lambda entry: entry.update(run=str(uuid4()))),
    ("run-started", lambda entry: entry.update(kind="run-settled", charged=entry["balance"]["spent"])),
    ("run-approved", lambda entry: entry.update(dataset_id=str(uuid4()))),
    ("run-approved", lambda entry: entry.update(tenant=str(uuid4()))),
    ("run-approved", lambda entry: entry.update(seq=99)),
    ("run-approved", lambda entry: entry.update(v=2)),
    ("run-approved", lambda entry: entry.update(kind="gift")),
    ("run-approved", lambda entry: entry.pop("balance")),
]


@pytest.mark.parametrize(("kind", "change"), FORGERIES, ids=map(str, range(len(FORGERIES))))
def test_a_forgery_with_right_hashes_is_found_by_its_arithmetic(
    book: Book, kind: str, change: Callable[[dict[str, Any]], object]
) -> None:
    """Goal: numbers are checked, not only hashes. Method: forge one entry and re-hash everything after it."""
    index = _kind(book.entries, kind)
    _reseal(book.entries, index, change)
    with pytest.raises(JournalBroken) as caught:
        book.replay()
    assert caught.value.seq >= index + 1


def test_an_approval_beyond_the_limit_is_found(book: Book) -> None:
    """Goal: replay holds approvals to the limit. Method: a forged journal, consistent but for one approval too many."""
    index = _kind(book.entries, "run-refused")

    def approve(entry: dict[str, Any]) -> None:
        entry["kind"] = "run-approved"
        entry["balance"]["held"]["mu_sq_pico"] = str(int(entry["balance"]["held"]["mu_sq_pico"]) + 900)

    _reseal(book.entries, index, approve)
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
