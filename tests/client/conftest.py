"""The client that most of these tests take."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ledger.client import Ledger as Client
from tests.kit.clients import connect
from tests.kit.driver import Ledger


@pytest.fixture
def client(ledger: Ledger) -> Iterator[Client]:
    """A client with the admin's key; the dataset `mnist` is registered."""
    ledger.register(size=100)
    with connect(ledger) as opened:
        yield opened
