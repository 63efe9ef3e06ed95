"""What the command line shows and sends of jobs that died, or that ended while the ledger was gone."""

from __future__ import annotations

import os
from pathlib import Path

from ledger.cli.show import runs
from ledger.client import Gaussian
from ledger.client import Ledger as Client
from ledger.client import pending as kept
from ledger.client.calls import settle
from ledger.client.files import Files
from tests.kit.driver import Terminal


def test_a_lost_run_shows_how_far_it_had_come(terminal: Terminal) -> None:
    """Goal: whoever voids or settles a run whose job died sees what it reported; in the list, where it is overdue."""
    terminal("dataset create counts --mu 1 --delta 1e-6 --privacy-unit user")
    run = terminal("request counts --type gaussian --noise-multiplier 5 --count 9 --json").json["id"]
    terminal(f"start {run}")
    assert "progress" not in terminal(f"run show {run}").out
    with Client() as client:
        client.report_progress(run, steps=1234)
        assert client.report_progress(run[:8], steps=5)["steps"] == 1234
        item = next(client.runs())
    assert "1,234 steps, reported at 20" in terminal(f"run show {run}").out
    assert runs._state({**item, "is_overdue": True}) == "started, overdue, 1,234 steps reported"  # type: ignore[typeddict-item]
    assert runs._state(item) == "started"  # type: ignore[arg-type]


def test_settlements_that_wait_are_sent(terminal: Terminal) -> None:
    """Goal: `settle --pending` sends what a job could not, says what came of it, and fails while something waits; it
    sends nothing that belongs to another ledger. Method: a run, its settlement on disk, one that no server takes, and
    one of another URL."""
    terminal("dataset create counts --mu 1 --delta 1e-6 --privacy-unit user")
    assert "No settlement waits" in terminal("settle --pending").err
    with Client() as client:
        asked = client.ask(datasets=["counts"], mechanism=Gaussian(noise_multiplier=5, count=4))
        client.start(asked["id"])
        url = os.environ["LEDGER_URL"]
    files = Files(Path(os.environ["LEDGER_STATE_DIR"]))
    nobody = "018f3c6e-0000-7000-8000-000000000000"
    assert kept.keep(files, url, asked["id"], settle(asked["id"], steps=1))
    assert kept.keep(files, url, nobody, settle(nobody, steps=1))
    assert kept.keep(files, "http://127.0.0.1:1", "elsewhere", settle("elsewhere", steps=1))
    sent = terminal("settle --pending")
    assert (
        sent.status,
        f"{asked['id']}  settled, charged mu 0.2" in sent.out,
        f"{nobody}  still waits" in sent.out,
    ) == (
        1,
        True,
        True,
    )
    files.remove(f"pending/{nobody}.json")
    assert terminal("settle --pending --json").json == {"sent": [], "waiting": []}
    assert kept.is_kept(files, "elsewhere")
    for wrong in ("settle", f"settle {asked['id']} --pending", "settle --pending --steps 3"):
        assert "Name one run; or give --pending" in terminal(wrong).err
