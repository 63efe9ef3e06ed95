"""The client that most of these tests take."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger.client import Ledger as Client
from tests.conftest import Templates
from tests.kit.clients import connect
from tests.kit.driver import Ledger


@pytest.fixture
def client(ledger: Ledger) -> Iterator[Client]:
    """A client with the admin's key; the dataset `mnist` is registered."""
    ledger.register(size=100)
    with connect(ledger) as opened:
        yield opened


@pytest.fixture(scope="session")
def opacus_client(templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of one ledger for all trainings: `digits` protects its number of records, in `public` that is public,
    `users` has a unit with several records, and `tiny` has no budget for any training."""
    with (
        templates.clone("sqlite", tmp_path_factory.mktemp("opacus"), is_begun=True) as settings,
        Ledger.open(settings) as opened,
        connect(opened) as client,
    ):
        large = {"bound": "certified", "budget": {"mu": 30, "delta": 1e-3}}
        opened.register(name="digits", size=None, **large)
        opened.register(name="public", size=None, adjacency="zero_out", **large)
        opened.register(name="users", size=None, adjacency="zero_out", privacy_unit="user", **large)
        opened.register(name="tiny", size=None, budget={"mu": 1e-3})
        yield client
