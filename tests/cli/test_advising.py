"""The commands about known faults of libraries, and about events of dp-accounting, as somebody types them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import dp_accounting
import pytest

from ledger.client.dp_events import to_json
from tests.kit.driver import Terminal

RECIPE = "--noise-multiplier 40 --sample-rate 0.01 --steps 10"
SHUFFLED = {"libraries": {"opacus": "1.6.0"}, "options": {"poisson_sampling": False}}


def test_the_recorded_runs_that_a_fault_touches(terminal: Terminal) -> None:
    """Goal: from what runs recorded, `advisories` lists each run that a fault touches, with what was charged and what
    to do, and counts those that record nothing. Method: runs on two datasets, one of each kind, on a real server."""
    for name in ("counts", "others"):
        terminal(f"dataset create {name} --mu 3 --delta 1e-5 --bound clt --accept-weak-protection")

    def settled(dataset: str, evidence: object = None, label: str = "") -> str:
        run = str(terminal(f"request {dataset} {RECIPE} {label} --json").json["id"])
        terminal(f"start {run}")
        with_evidence = "" if evidence is None else f"--evidence '{json.dumps(evidence)}'"
        ended = terminal(f"settle {run} {with_evidence}")
        assert ended.status == 0, ended.err
        return run

    shuffled = settled("counts", SHUFFLED)
    sampled = settled("counts", {"libraries": {"opacus": "1.6.0"}, "options": {"poisson_sampling": True}})
    unstated = settled("others", {"libraries": {"opacus": "1.6.0"}})
    settled("counts")
    labelled = terminal(f"request counts {RECIPE} --label library.trl=1.16.0 --json").json["id"]
    too_much = "--type gaussian --noise-multiplier 0.1"
    refused = terminal(f"request counts {too_much} --label library.opacus=1.6.0 --json").json
    assert refused["code"] == "budget-exceeded"

    answer = terminal("advisories counts --json").json
    assert (answer["read"], answer["not_recorded"]) == (4, 1)
    by_id = {item["id"]: item for item in answer["items"]}
    found = by_id["opacus-shuffled-as-poisson"]
    assert [run["run"] for run in found["runs"]] == [shuffled]
    assert (found["certain"], found["possible"], found["more"]) == (1, 0, False)
    assert found["runs"][0]["charged"]["mu"] > 0
    assert found["runs"][0]["unrecorded"] == []
    assert found["follows"] == {"sampling": {"set": "shuffle"}}
    of_sampled = {item["id"] for item in answer["items"] if sampled in [run["run"] for run in item["runs"]]}
    assert "opacus-shuffled-as-poisson" not in of_sampled
    assert [run["run"] for run in by_id["trl-packing"]["runs"]] == [labelled]
    assert "dp-transformers-shuffled-as-poisson" not in by_id

    one = terminal("advisories --id opacus-shuffled-as-poisson")
    assert one.status == 0, one.err
    assert re.search(rf"{shuffled} +settled +counts +1\.6\.0 +\d\S+ +yes", one.out), one.out
    assert re.search(rf"{unstated} .*possibly: poisson_sampling not recorded", one.out), one.out
    for text in (r"do +Settle and ask as shuffle", r"https://arxiv\.org/abs/2403\.17673", r"not recorded +1 state no"):
        assert re.search(text, one.out), text
    limited = terminal("advisories --id opacus-private-divisor --limit 1")
    assert "These are 1 of 3. List more of them: --limit 2" in limited.err
    assert [
        run["run"] for item in terminal(f"advisories --run {unstated[:8]} --json").json["items"] for run in item["runs"]
    ]
    nothing = terminal("advisories --since 2100-01-01 --json").json
    assert (nothing["items"], nothing["read"]) == ([], 0)
    for wrong in (f"advisories counts --run {shuffled}", "advisories --id opacus", "advisories counts --known"):
        assert terminal(wrong).status == 2, wrong


def test_what_needs_no_server(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Goal: the advisories themselves, and events of dp-accounting, can be read with no server and no key, and an event
    that cannot be costed is refused by name. Method: the commands without a key."""
    monkeypatch.delenv("LEDGER_KEY")
    assert len(terminal("advisories --known --json").json["items"]) >= 30
    assert "Read one with its sources" in terminal("advisories --known").err
    assert "issues/819" in terminal("advisories --known --id opacus-private-divisor").out
    gaussian = terminal("dp-event write --type gaussian --noise-multiplier 5 --adjacency replace_one")
    assert gaussian.json == {"class_name": "GaussianDpEvent", "noise_multiplier": 10.0}
    (tmp_path / "event.json").write_text(gaussian.out)
    read = terminal(f"dp-event read {tmp_path}/event.json --adjacency replace_one")
    assert read.json == {"type": "gaussian", "noise_multiplier": 5.0, "count": 1}
    drawn = dp_accounting.SampledWithReplacementDpEvent(100, 10, dp_accounting.GaussianDpEvent(1.0))
    (tmp_path / "event.json").write_text(json.dumps(to_json(drawn)))
    refused = terminal(f"dp-event read {tmp_path}/event.json --adjacency zero_out")
    assert (refused.status, "SampledWithReplacementDpEvent: draws with replacement" in refused.err) == (2, True)
