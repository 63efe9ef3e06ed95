"""Ledgers that hostile input is sent to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Templates
from tests.kit.driver import Ledger
from tests.kit.hostile import Target


@pytest.fixture
def target(ledger: Ledger) -> Target:
    """A target on every kind of database."""
    return Target(ledger)


@pytest.fixture
def reader(templates: Templates, tmp_path: Path) -> Iterator[Target]:
    """A target on SQLite alone, for what is refused before any database is asked."""
    with templates.clone("sqlite", tmp_path, is_begun=True) as settings, Ledger.open(settings) as opened:
        yield Target(opened)
