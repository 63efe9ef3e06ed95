"""Nothing is lost, doubled, changed, phantom, overspent, disordered or broken, whatever fails and whenever.

A seed that fails is in the message. It replays exactly: `SIMULATION_SEED=N .venv/bin/python -m pytest
tests/simulation`."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from ledger.access import keys
from ledger.core.amounts import Amount
from ledger.core.commands import Register
from ledger.core.datasets import Definition
from ledger.core.people import Actor
from ledger.service import writer as writers
from ledger.service.writer import Writer
from ledger.store import Store, engine_for
from ledger.store.claims import ClaimWriter
from tests.conftest import Templates
from tests.kit.databases import file_of
from tests.kit.driver import KNOWN
from tests.simulation.world import LIMIT, World

Simulate = Callable[..., Counter[str]]


@pytest.fixture(scope="module")
def simulate(templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulate]:
    """Runs the simulation of a seed on a fresh copy of a ledger with one dataset."""
    folder = tmp_path_factory.mktemp("simulation")
    with templates.clone("sqlite", folder, is_begun=True) as settings:
        first = KNOWN.pop(settings.database_url.get_secret_value())
        store = Store(engine_for(settings.database_url.get_secret_value()))
        actor = keys.Keyring(store).recognise(first.admin_key)
        assert isinstance(actor, Actor)
        writer = Writer(store, threads=1, queue_max=10, group_max=1)
        writer.start()
        definition = Definition(uuid4(), "data", "record", "add_or_remove_one", "clt", None)
        command = Register(actor, definition, "", "", {"mu": 1}, Amount(LIMIT, LIMIT))
        writer.submit(actor.tenant_id, command).result(60)
        writer.close()
        with store.engine.connect() as connection:
            connection.exec_driver_sql("ROLLBACK")
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.exec_driver_sql("BEGIN")
        store.close()
        template = folder / "template"
        shutil.copyfile(file_of(settings), template)

        def run(seed: int, **rest: Any) -> Counter[str]:
            return +World(seed, folder, actor, definition.id, template).run(**rest)

        yield run


def seeds(count: int) -> list[int]:
    """Return the seeds to run: one, if the environment names it."""
    named = os.environ.get("SIMULATION_SEED")
    return list(range(count)) if named is None else [int(named)]


def test_nothing_goes_wrong(simulate: Simulate, tries: Callable[[int, int], int]) -> None:
    """Goal: as in the module's text. Method: many seeds."""
    for seed in seeds(tries(100, 5000)):
        assert simulate(seed) == Counter(), f"SIMULATION_SEED={seed}"


def test_a_seed_replays_exactly(simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: the same seed takes the same steps. Method: every command that is sent, twice."""
    sent: list[list[Any]] = []
    plain = Writer.submit

    def noted(writer: Writer, tenant_id: Any, command: Any) -> Any:
        sent[-1].append((command.run_id, command.claim.key, command.cost))
        return plain(writer, tenant_id, command)

    monkeypatch.setattr(Writer, "submit", noted)
    for _ in range(2):
        sent.append([])
        simulate(7)
    assert sent[0] == sent[1] != []


def is_caught(simulate: Simulate, name: str, **rest: Any) -> bool:
    """Return whether the simulation of some seed counts this."""
    return any(simulate(seed, **rest)[name] for seed in range(200))


def test_an_answer_before_the_commit_is_caught(simulate: Simulate) -> None:
    """Goal: a writer that answers although its commit failed loses decisions. Method: planted, and found by name."""

    def careless(writer: Writer) -> None:
        writer._was_committed = lambda _tenant_id, answers: bool(answers)  # type: ignore[method-assign,assignment]

    assert is_caught(simulate, "lost", patch=careless)


def test_a_clock_that_is_believed_is_caught(simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a journal whose times go back is broken. Method: a writer that does not look at the newest entry."""
    monkeypatch.setattr(writers, "max", lambda clock_us, _newest_us: clock_us, raising=False)
    assert is_caught(simulate, "broken")


def test_a_key_that_is_not_claimed_is_caught(simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: without the claim one key has two outcomes. Method: a store that finds every key new."""
    monkeypatch.setattr(ClaimWriter, "claim", lambda _claims, _requests: {})
    assert is_caught(simulate, "doubled")


def test_a_retry_after_an_ambiguous_commit_is_caught(simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a writer that decides again after a lost answer, and trusts no claim, decides twice. Method: both."""
    monkeypatch.setattr(writers, "failure_kind", lambda _error: "retry")
    monkeypatch.setattr(writers, "RETRY_WAIT_SECONDS", 0)
    monkeypatch.setattr(ClaimWriter, "claim", lambda _claims, _requests: {})
    assert is_caught(simulate, "doubled")
