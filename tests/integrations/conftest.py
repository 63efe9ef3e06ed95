"""What the tests of every stack take: a client of the server that runs beside them, and a dataset of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from ledger.client import Ledger


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries write into the folder they are in."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    """A client with an admin's key: LEDGER_URL and LEDGER_KEY, which the runner sets."""
    with Ledger() as client:
        yield client


@pytest.fixture
def dataset(ledger: Ledger) -> str:
    """The name of a new dataset with a budget of epsilon 3 at delta 1e-5."""
    name = f"data-{uuid4().hex}"
    budget = {"epsilon": 3, "at_delta": 1e-5}
    ledger.register(name=name, privacy_unit="user", adjacency="add_or_remove_one", bound="certified", budget=budget)
    return name


@pytest.fixture
def records(ledger: Ledger) -> str:
    """The name of a new dataset whose unit is a record and whose size is protected, with room for a few trainings."""
    return registered(ledger, adjacency="add_or_remove_one")


@pytest.fixture
def public(ledger: Ledger) -> str:
    """The name of a new dataset whose size is public, with room for a few trainings."""
    return registered(ledger, adjacency="zero_out")


def registered(ledger: Ledger, *, adjacency: str) -> str:
    """Register a dataset of records, and return its name."""
    name = f"data-{uuid4().hex}"
    budget = {"epsilon": 15, "at_delta": 1e-5}
    ledger.register(name=name, privacy_unit="record", adjacency=adjacency, bound="certified", budget=budget)
    return name
