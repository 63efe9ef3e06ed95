"""Least limits in the background: up to date after a tick, bounded, and free where nothing changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from uuid import UUID, uuid4

import pytest

from ledger.alerting import least as least_module
from ledger.alerting.lookout import HOURLY_US
from ledger.core.amounts import ZERO, Amount
from ledger.core.commands import Register, Void
from ledger.core.datasets import AccountKey, Definition, Least
from ledger.core.journal import chain
from ledger.core.least import Charges
from ledger.core.people import Consent
from ledger.core.residual import LEVELS, Residual
from ledger.settings import Settings
from ledger.store import Writing
from tests.alerting.test_courier import SECONDS, Post
from tests.alerting.test_lookout import QUERIES_MAX, counted, lookout
from tests.service.test_writer import kind

TABLE = Residual(1000, tuple(100 - 6 * index for index in range(len(LEVELS))))
OF_LEAST = "least_seq IS NULL OR"
"""Is in the statement that reads what is not up to date."""


@pytest.fixture
def post(database: Settings) -> Iterator[Post]:
    """Without a webhook."""
    made = Post(database, None)
    yield made
    made.desk.close()


def registered(post: Post, name: str) -> UUID:
    """A dataset of limit 1000 with residual costs."""
    definition = Definition(uuid4(), name, "record", "add_or_remove_one", "certified", None)
    command = Register(post.desk.actor, definition, "", "", {"mu": 1}, Amount(1000, 1000), costing="residual")
    post.desk.writer.submit(post.tenant_id, command).result(SECONDS)
    return definition.id


def spend(post: Post, dataset: UUID, runs: int) -> None:
    """Have runs approved."""
    for _ in range(runs):
        command = replace(post.desk.command(TABLE.costs[0], dataset=dataset), residual=TABLE)
        assert kind(post.desk.writer.submit(post.tenant_id, command)) == "run-approved"


def keep(dataset: UUID, least: Least, writing: Writing) -> None:
    """Store a least limit."""
    writing.datasets.keep_least(dataset, least)


def kept(post: Post, dataset: UUID) -> Least | None:
    """The least limit in the dataset's row."""
    with post.desk.store.reading(post.tenant_id) as reading:
        return next(row.least for row in reading.datasets.page(after=None, limit=100, only=None) if row.id == dataset)


def computed(post: Post, dataset: UUID) -> Least:
    """The least limit by all entries of the journal."""
    with post.desk.store.reading(post.tenant_id) as reading:
        entries = reading.journals.page(dataset, after=0, limit=1000)
    charges = Charges()
    for entry in entries:
        charges.read(chain.parse(entry.body))
    return Least(len(entries), charges.least_limit())


def test_a_tick_keeps_the_least_limit_of_what_moved(post: Post) -> None:
    """Goal: the least limit of a journal is in the row, with its number, soon after it grew; and a tick that finds
    nothing runs no statement for it. Method: runs, ticks an hour apart, and the statements of each; a dataset that
    costs each run by itself has none."""
    dataset = registered(post, "beside")
    post.desk.ask().result(SECONDS)
    spend(post, dataset, 3)
    eye = lookout(post)
    with counted(post, only=OF_LEAST) as first:
        eye.tick()
    before = computed(post, dataset)
    assert kept(post, dataset) == before
    assert before.amount is not None
    assert 0 < before.amount.mu_sq_pico < 1000
    with counted(post) as quiet:
        eye.tick()
    post.pass_time(HOURLY_US)
    with counted(post, only=OF_LEAST) as hourly:
        eye.tick()
    assert (len(first), len(quiet), len(hourly)) == (1, QUERIES_MAX, 0)
    spend(post, dataset, 4)
    eye.tick()
    assert kept(post, dataset) == before, "the hour is not over"
    post.pass_time(HOURLY_US)
    eye.tick()
    assert kept(post, dataset) == computed(post, dataset) != before
    assert kept(post, post.desk.dataset) is None


def test_a_tick_computes_a_bounded_number(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: many datasets and long journals are spread over ticks, and one that is too long is left out. Method: five
    datasets, and bounds of three entries at once, two datasets a statement, and five entries a journal."""
    ids = [registered(post, f"beside-{number}") for number in range(5)]
    for number, dataset in enumerate(ids):
        spend(post, dataset, number + 1)
    monkeypatch.setattr(least_module, "ENTRIES_AT_ONCE", 3)
    monkeypatch.setattr(least_module, "DATASETS_AT_ONCE", 2)
    monkeypatch.setattr(least_module, "ENTRIES_MAX", 5)
    eye = lookout(post)
    done = []
    for _ in range(5):
        eye.tick()
        done.append([kept(post, dataset) is not None for dataset in ids].count(True))
    assert done == [2, 3, 4, 4, 4]
    assert kept(post, ids[-1]) is None
    assert [kept(post, dataset) for dataset in ids[:4]] == [computed(post, dataset) for dataset in ids[:4]]


def test_a_journal_that_cannot_be_read_stops_no_other(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a journal that no ledger writes leaves its own dataset without a least limit, once, and no other. Method:
    two datasets, and a look that reads no approvals, so that in the first one an unknown run is voided."""
    broken, sound = registered(post, "a-broken"), registered(post, "sound")
    spend(post, sound, 1)
    asked = replace(post.desk.command(TABLE.costs[0], dataset=broken), residual=TABLE)
    post.desk.writer.submit(post.tenant_id, asked).result(SECONDS)
    keys = {broken: (AccountKey(broken),)}
    void = Void(post.desk.actor, asked.run_id, keys, {"reason": "r"}, Consent(uuid4()), is_independent=False)
    post.desk.writer.submit(post.tenant_id, void).result(SECONDS)
    monkeypatch.setattr(least_module, "KINDS", ("run-voided",))
    eye = lookout(post)
    eye.tick()
    assert kept(post, broken) == Least(3, None)
    assert kept(post, sound) == Least(2, ZERO)
    with counted(post, only=OF_LEAST) as again:
        eye.tick()
    assert again == []


def test_an_older_least_limit_replaces_no_newer_one(post: Post) -> None:
    """Goal: of two processes, the one that is late changes nothing. Method: keep one of entry 9, then one of entry
    4."""
    dataset = registered(post, "beside")
    for least in (Least(9, Amount(9, 0)), Least(4, Amount(4, 0))):
        work = partial(keep, dataset, least)
        post.desk.writer.run(post.tenant_id, work).result(SECONDS)
    assert kept(post, dataset) == Least(9, Amount(9, 0))
