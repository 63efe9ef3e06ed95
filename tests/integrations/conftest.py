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
