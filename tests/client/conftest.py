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
    """A client of one ledger for all trainings: `digits` protects its number of records, in `public` that is public, and
    `users` has a unit with several records."""
    with templates.clone("sqlite", tmp_path_factory.mktemp("opacus"), is_begun=True) as settings:
        with Ledger.open(settings) as opened:
            for name, unit, adjacency in (
                ("digits", "record", "add_or_remove_one"),
                ("public", "record", "zero_out"),
                ("users", "user", "zero_out"),
            ):
                opened.register(
                    name=name, privacy_unit=unit, adjacency=adjacency, size=None, bound="certified", budget={"mu": 30, "delta": 1e-3}
                )
            with connect(opened) as client:
                yield client
