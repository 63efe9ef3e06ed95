"""That `make torture` does what it prints: some seconds of it, counted and not timed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from ledger.settings import Settings
from tests.torture.hostile import Hostile
from tests.torture.quiet import PHASES, phases, show
from tests.torture.site import open_site
from tests.torture.wire import CUT

ATTACKS = (
    "composed evaluations",
    "invalid bodies of 1 MB",
    "one-byte strangers",
    "bodies of 7 MB",
    "slow megabytes with a key",
    "wrong keys",
)


ANSWERED = {
    "composed evaluations": {200, 413, 503},
    "invalid bodies of 1 MB": {400, 422},
    "bodies of 7 MB": {413},
    "wrong keys": {401, 429},
}
"""What is answered soon, and how; on a busy machine a cost may take too long. Strangers of one byte hold their
connections, and slow megabytes take minutes."""


def test_some_seconds_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: beside hostile clients every approval is given, and every hostile request gets the answer that is meant
    for it. Method: some of the attacks for a few seconds, on SQLite, and longer if clients got no answers until then;
    statuses, and the table."""
    settings = Settings(database_url=SecretStr(f"sqlite:///{tmp_path}/torture.db"))
    with open_site(settings, tmp_path, seconds=3, runs=10, attacks=ATTACKS, awaited=tuple(ANSWERED)) as site:
        seen, came = asyncio.run(phases(site, 1))
        assert {attack.name for attack in Hostile(site.plan).attacks} > set(ATTACKS)
    assert len(seen) == len(PHASES)
    for phase in seen:
        for times in (phase.approvals, phase.health, phase.newcomers):
            assert set(times.statuses) <= {200, 201}
            assert times.ms
    assert set(came) == set(ATTACKS)
    for name, statuses in ANSWERED.items():
        answered = set(came[name]) - {CUT}
        assert answered, name
        assert answered <= statuses, name
    assert set(came["one-byte strangers"]) <= {401, CUT}
    assert not [status for counts in came.values() for status in counts if status == 500]
    show("SQLite", seen, came)
    printed = capsys.readouterr().out
    assert printed.count("met") + printed.count("MISSED") == 5
