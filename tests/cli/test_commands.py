"""The commands that ask a server, as somebody types them, against a real server on every database."""

from __future__ import annotations

import io
import json
import math
import re
import shlex
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import typer.main
from sqlalchemy import text

from ledger import cli
from ledger.settings import Settings
from ledger.verifier.jws import SigningKey
from tests.api.test_acceptance import PICO, RUNS, exact_cost
from tests.kit.driver import Terminal, past_the_ledger


def test_the_published_runs_by_command_line_until_verify(terminal: Terminal, tmp_path: Path) -> None:
    """Goal: from registering to verifying, by commands alone, every decision is that of exact fractions, and what a
    refusal suggests is approved when it is pasted."""
    made = terminal("dataset create mnist --mu 3 --bound clt --accept-weak-protection --json")
    assert made.status == 0, made.err
    limit = math.floor(Fraction(9) * PICO)
    held = refusals = 0
    for run in RUNS:
        m = run["mechanism"]
        line = (
            f"request mnist --noise-multiplier {m['noise_multiplier']} --sampling {m['sampling']} --dataset-size"
            f" {m['dataset_size']} --batch-size {m['batch_size']} --epochs {m['epochs']} --key {run['id']}"
        )
        answer = terminal(f"{line} --json")
        cost = exact_cost(run)
        if held + cost <= limit:
            held += cost
            assert (answer.status, answer.json["cost"]["mu_sq_pico"]) == (0, str(cost)), run["id"]
            continue
        refusals += 1
        assert (answer.status, answer.json["code"]) == (1, "budget-exceeded"), run["id"]
        if refusals > 2:
            continue
        told = terminal(line)
        assert told.status == 1
        assert "refused" in told.err
        suggested = [found.strip() for found in told.err.splitlines() if found.startswith("    privacy-ledger request")]
        assert len(suggested) == len(answer.json["fits"]) >= 1
        pasted = terminal(f"{suggested[0]} --json")
        assert pasted.status == 0, pasted.err
        held += int(pasted.json["cost"]["mu_sq_pico"])
    assert refusals > 2
    shown = terminal("dataset show mnist --json").json
    assert shown["balance"]["held"]["mu_sq_pico"] == str(held)

    file = tmp_path / "mnist.jsonl"
    assert terminal(f"export mnist --output {file}").status == 0
    keys = tmp_path / "jwks.json"
    assert terminal(f"jwks --output {keys}").status == 0
    verified = terminal(f"verify {file} --jwks {keys} --json")
    (account,) = verified.json["accounts"]
    assert (verified.status, account["held"]["mu_sq_pico"]) == (0, str(held))
    assert terminal(f"verify {file} --jwks {keys}").out.startswith("holds")
    lines = file.read_text().split("\n")
    at = next(place for place, line in enumerate(lines) if '"epochs":60' in line)
    lines[at] = lines[at].replace('"epochs":60', '"epochs":61')
    file.write_text("\n".join(lines))
    broken = terminal(f"verify {file} --jwks {keys}")
    assert (broken.status, "does not hold" in broken.err, f"entry {at}:" in broken.err) == (1, True, True)
    assert terminal("check --json").json == {
        "datasets": [
            {"tenant": "acme", "dataset": None, "entries": 2, "seq": None, "error": None},
            {"tenant": "acme", "dataset": "mnist", "entries": shown["seq"], "seq": None, "error": None},
        ],
        "holds": True,
    }


def test_a_run_and_its_dataset_from_beginning_to_end(terminal: Terminal) -> None:
    """Goal: every command does what it says, for people and with --json. Method: one dataset's life."""
    assert "dataset create" in terminal("dataset list").err, "an empty ledger says what to type"
    terminal("dataset create counts --mu 1 --delta 1e-6 --privacy-unit user --title 'Counts [2026]'")
    asked = terminal(
        "request counts --type gaussian --noise-multiplier 5 --purpose 'a count' --label team=a --json"
    ).json
    assert (asked["decision"], asked["bound"]) == ("approved", "certified")
    run = asked["id"]
    person = terminal("request counts --type laplace --noise-multiplier 10")
    assert "approved" in person.out
    assert "privacy-ledger start" in person.out
    assert "started" in terminal(f"start {run}").out
    assert terminal(f'settle {run} --evidence \'{{"log": "x", "loss": 0.10}}\' --json').json["state"] == "settled"
    other = re.findall(r"run ([0-9a-f-]{36})", person.out)[0]
    assert "voided" in terminal(f"void {other} --reason 'not needed'").out
    listed = terminal("runs").out
    assert run in listed
    assert other in listed
    assert [item["id"] for item in terminal("runs --state settled --json").json["items"]] == [run]
    assert terminal("runs --limit 1 --json").json["more"] is True
    assert "% spent" in terminal("dataset show counts").out
    assert "Counts [2026]" in terminal("dataset show counts").out
    assert "counts" in terminal("dataset list").out
    raised = terminal("dataset budget counts --mu 2 --delta 1e-6 --reason 'more people' --json").json
    assert raised["balance"]["limit"]["mu"] == 2
    assert terminal("dataset freeze counts --reason look --json").json["state"] == "frozen"
    frozen = terminal("request counts --type gaussian --noise-multiplier 5")
    assert (frozen.status, "frozen" in frozen.err) == (6, True)
    assert terminal("dataset thaw counts --reason looked --json").json["state"] == "active"
    assert terminal("dataset retire counts --reason done --json").json["state"] == "retired"
    holds = terminal("check")
    assert (holds.status, "holds" in holds.out) == (0, True)


def test_there_is_no_way_back_to_costs_that_add_up(terminal: Terminal) -> None:
    """Goal: whoever types that learns in words why not, and what to do."""
    terminal("dataset create rounds --epsilon 8 --at-delta 1e-5")
    refused = terminal("dataset costing rounds standalone --reason 'as it was'")
    assert refused.status != 0
    said = " ".join(refused.err.split())
    assert "can be changed to residual only" in said
    assert "Register a new dataset with costing standalone" in said


def test_partitions_origins_and_projects_as_they_are_typed(terminal: Terminal, tmp_path: Path) -> None:
    """Goal: what is typed of partitions, origins, projects and a ceiling is charged, for people and with --json,
    and the export of it verifies. Method: one dataset in parts, one derived from it, one beside it."""
    made = terminal(
        "dataset create clicks --mu 1 --bound clt --privacy-unit user-month --partition 2026-09 --partition 2026-10"
        " --ceiling-mu 2 --json"
    ).json
    assert (made["partition_count"], made["ceiling"]["mu"], made["privacy_unit"]) == (2, 2.0, "user-month")
    assert "2026-11" in terminal("dataset add-partitions clicks 2026-11 2026-12 --disjoint --reason more").out
    listed = terminal("dataset partitions clicks --json").json["items"]
    assert [part["name"] for part in listed] == ["2026-09", "2026-10", "2026-11", "2026-12"]
    derived = terminal("dataset create no-bots --derived-from clicks --unit-preserving")
    assert re.search(r"its runs charge\s+clicks", derived.out)
    terminal("dataset create sales --mu 1 --bound clt --privacy-unit user-month")
    share = terminal("dataset project clicks ranking --mu 0.3 --reason agreed")
    assert ("ranking" in share.out, "a project of clicks" in share.out) == (True, True)

    release = "--type gaussian --noise-multiplier 5"
    asked = terminal(f"request no-bots:2026-09,2026-10 sales {release} --project ranking --json")
    assert (asked.status, asked.json["code"]) == (5, "not-found"), "every dataset that is named has the project"
    asked = terminal(f"request no-bots:2026-09,2026-10 {release} --project ranking")
    assert asked.status == 0, asked.err
    assert re.search(r"project\s+ranking", asked.out)
    assert "what it is derived from is charged" in asked.out
    run = re.findall(r"run ([0-9a-f-]{36})", asked.out)[0]
    spent = {
        part["name"]: part["balance"]["held"]["mu"]
        for part in terminal("dataset partitions clicks --json").json["items"]
    }
    assert spent == {"2026-09": 0.2, "2026-10": 0.2, "2026-11": 0.0, "2026-12": 0.0}
    moved = terminal(f"start {run}")
    assert ("no-bots" in moved.out, " in clicks, partition 20" in moved.out) == (True, True)
    assert terminal(f"settle {run}").status == 0

    refused = terminal("request no-bots:2026-09 --type gaussian --noise-multiplier 4 --project ranking")
    assert refused.status == 1
    assert re.search(r"dataset\s+partition\s+project\s+quantity", refused.err)
    pasted = terminal(next(line.strip() for line in refused.err.splitlines() if line.startswith("    privacy-ledger")))
    assert pasted.status == 0, pasted.err
    both = terminal(f"plan no-bots sales {release}")
    assert ("fits  no-bots, sales, clicks" in both.out, "of sales" in both.out) == (True, True)
    tight = terminal("plan clicks sales --type gaussian --noise-multiplier 0.5")
    assert (tight.status, len(re.findall(r"clicks\s+2026-\d\d\s+mu", tight.out))) == (1, 4)
    runs = terminal("runs --project ranking")
    assert "no-bots:2026-09,2026-10" in runs.out
    assert re.search(r"dataset\s+project\s+mechanism", runs.out)
    assert "project" not in terminal("runs --dataset sales").out

    shown = terminal("dataset show clicks").out
    assert re.search(r"partitions\s+4", shown)
    assert re.search(r"ceiling\s+mu 2", shown)
    assert re.search(r"project\s+% left", shown)
    everything = terminal("dataset list").out
    assert "that of clicks" in everything
    above = terminal("dataset budget clicks --mu 3 --reason more")
    assert (above.status, "ceiling" in above.err) == (2, True)
    terminal("dataset create empty --mu 1 --bound clt --partitioned")
    assert "add-partitions" in terminal("dataset partitions empty").err
    for name in ("clicks", "no-bots"):
        file = tmp_path / name
        assert terminal(f"export {name} --output {file}").status == 0
        assert terminal(f"verify {file} --unsigned").out.startswith("holds")
    assert terminal("check --json").json["holds"]


def test_stopping_early_and_going_too_far(terminal: Terminal) -> None:
    """Goal: what settle charges by what is said, what segments cost, and what an overrun leaves: it is charged, shown,
    and ends with status 1 where it does not fit."""
    terminal("dataset create mnist --mu 1 --delta 1e-6")
    counts = "request mnist --type gaussian --noise-multiplier 10 --count 4 --json"
    for said, charged in (("--steps 1", 0.1), ("--steps 2 --stop data_independent", math.sqrt(0.02)), ("", 0.2)):
        run = terminal(counts).json["id"]
        terminal(f"start {run}")
        assert terminal(f"settle {run} {said} --json").json["charged"]["mu"] == pytest.approx(charged)

    sgd = "--noise-multiplier 2 --sample-rate 0.01 --steps 100"
    planned = terminal(f"plan mnist {sgd} --segments 3").out
    assert re.search(r"segments\s+3 of 34 steps, mu \S+ each; without segments it would be mu \S+", planned)
    asked = terminal(f"request mnist {sgd} --segments 3")
    assert "without segments" in asked.out
    run = re.findall(r"run ([0-9a-f-]{36})", asked.out)[0]
    terminal(f"start {run}")
    settled = terminal(f"settle {run} --steps 30 --json").json
    assert int(settled["charged"]["mu_sq_pico"]) * 3 <= int(settled["cost"]["mu_sq_pico"]) + 3

    run = terminal(counts).json["id"]
    terminal(f"start {run}")
    beyond = terminal(f"settle {run} --steps 6")
    assert (beyond.status, "2 steps beyond the plan" in beyond.out) == (0, True)
    run = terminal(counts).json["id"]
    terminal(f"start {run}")
    overrun = terminal(f"settle {run} --steps 104")
    assert overrun.status == 1
    assert "100 steps more than planned" in overrun.err
    assert re.search(r"dataset\s+quantity\s+limit\s+spent\s+held\s+overdrawn", overrun.err)
    assert "privacy-ledger dataset thaw mnist" in overrun.err
    again = terminal(f"settle {run} --steps 104 --json")
    assert (again.status, again.json["code"], again.json["frozen"]) == (1, "overrun", ["mnist"])

    terminal("dataset create other --mu 1 --delta 1e-6")
    for said, steps in (("correct {} --steps 4 --reason 'a slip'", "settled"), ("confirm {} --reason seen", "overrun")):
        run = terminal(counts.replace("mnist", "other")).json["id"]
        terminal(f"start {run}")
        reported = terminal(f"settle {run} --steps 1000")
        assert (reported.status, "waits for a steward" in reported.err) == (1, True)
        assert f"privacy-ledger correct {run}" in reported.err
        assert steps in terminal(said.format(run)).out
        terminal("dataset thaw other --reason 'looked at'")
    shown = terminal("dataset show mnist").out
    assert re.search(r"remaining\s+-\d", shown)
    assert "frozen" in shown
    assert re.search(r"mnist\s+frozen\s+certified\s+-\d+\.\d+", terminal("dataset list").out)
    assert "mnist is frozen" in terminal("plan mnist --type gaussian --noise-multiplier 5").out


def test_restarts_as_they_are_typed(terminal: Terminal) -> None:
    """Goal: stretches as FROM-TO, with :new, or as JSON, in their order; an empty list says that none was; what was run
    again is shown, and what is assumed where nothing is said; what is none of these is named."""
    terminal("dataset create mnist --mu 20 --delta 1e-6 --accept-weak-protection")
    asked = "request mnist --noise-multiplier 2 --sampling shuffle --sample-rate 0.1 --steps 100 --json"
    runs = [terminal(asked).json["id"] for _ in range(4)]
    for run in runs:
        terminal(f"start {run}")
    typed = "--restarts 5-14 --restarts 96-95:new"
    settled = terminal(f"settle {runs[0]} {typed} --json").json
    assert settled["restarts"] == [
        {"from_step": 5, "to_step": 14, "new_batches": False},
        {"from_step": 96, "to_step": 95, "new_batches": True},
    ]
    assert settled["charged"]["mu_sq_pico"] == str(13 * 10**12 // 4)
    as_json = '--restarts \'[{"from_step": 5, "to_step": 14, "new_batches": false}]\' --restarts 96-95:new'
    shown = terminal(f"settle {runs[1]} {as_json}").out
    assert re.search(r"repeated\s+steps 5 to 14, with the same batches\s+no step, from 96 on with new batches", shown)
    assert "0 steps beyond the plan, 10 repeated" in shown
    assert "assumed" in terminal(f"settle {runs[2]}").out
    assert terminal(f"settle {runs[3]} --restarts [] --json").json["restarts"] == []
    wrong = terminal(f"settle {runs[3]} --restarts 5:14")
    assert (wrong.status, "restarts: '5:14' is not FROM-TO" in wrong.err) == (2, True)


def test_fair_use_is_set_and_binds(terminal: Terminal) -> None:
    """Goal: what one principal may hold and how often it may ask, set, shown, met and removed."""
    terminal("dataset create mnist --mu 1 --bound clt")
    told = terminal("dataset fair-use mnist --mu 0.2 --runs-per-hour 2 --reason 'one sweep'").out
    assert re.search(r"fair use\s+mu 0\.2 held at once and 2 runs an hour, for each principal", told)
    release = "request mnist --type gaussian --noise-multiplier 5"
    assert terminal(release).status == 0
    refused = terminal(release)
    assert refused.status == 1
    assert re.search(r"dataset\s+principal\s+quantity", refused.err)
    often = terminal(f"{release} --json")
    assert (often.status, often.json["code"], often.json["runs_per_hour"]) == (3, "rate-limited", 2)
    changed = terminal("dataset fair-use mnist --unlimited --reason over --json").json
    assert changed["fair_use"] is None
    assert terminal(release).status == 0


def test_a_batch_from_a_file(terminal: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: an array, lines and standard input are the same batch; each for itself or all or none; status 1 where one
    is not approved."""
    terminal("dataset create mnist --mu 1 --bound clt")
    runs: list[dict[str, Any]] = [
        {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": noise}, "idempotency_key": key}
        for key, noise in (("a", 5), ("b", 0.1), ("c", -1))
    ]
    array, lines = tmp_path / "array.json", tmp_path / "lines.jsonl"
    array.write_text(json.dumps(runs, indent=1))
    lines.write_text("".join(f"{json.dumps(run)}\n" for run in runs[:2]))
    refused = terminal(f"batch {lines} --atomic")
    assert (refused.status, "Nothing was recorded" in refused.err) == (1, True)
    assert re.search(r"1\s+mnist\s+batch-refused", refused.err)
    assert terminal("runs --json").json["items"] == []
    assert terminal(f"batch {lines} --atomic --json").json["code"] == "batch-refused"

    told = terminal(f"batch {array}")
    assert told.status == 1
    for place, verdict in enumerate(("approved", "budget-exceeded", "invalid-mechanism"), start=1):
        assert re.search(rf"{place}\s+mnist\s+{verdict}", told.out)
    for source in ("-", "@-"):
        monkeypatch.setattr("sys.stdin", io.StringIO(lines.read_text()))
        results = terminal(f"batch {source} --json").json["results"]
        assert [(result["status"], result["replayed"]) for result in results] == [(201, True), (409, True)]
    digits = "5.000000000000000000000000000001"
    array.write_text(json.dumps(runs[:1]).replace(": 5}", f": {digits}}}").replace('"a"', '"d"'))
    assert terminal(f"batch @{array} --atomic").status == 0
    assert terminal("export mnist --output -").out.count(digits) == 1


def test_keys_and_tenants(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, database: Settings) -> None:
    """Goal: a key is made, works within its limits, is listed without its secret, and is revoked."""
    terminal("dataset create a --mu 1 --bound clt")
    terminal("dataset create b --mu 1 --bound clt")
    made = terminal("key create ci --role requester --dataset a --json").json
    assert "shown only once" in terminal("key create other --role auditor --output -").out
    listed = terminal("key list --json")
    assert made["secret"] not in listed.out
    assert made["id"] in terminal("key list").out
    with monkeypatch.context() as limited:
        limited.setenv("LEDGER_KEY", made["secret"])
        assert [item["name"] for item in terminal("dataset list --json").json["items"]] == ["a"]
        denied = terminal("tenant create new")
        assert (denied.status, "operator" in denied.err) == (4, True)
    assert terminal("key revoke ci --json").json == {"id": made["id"], "revoked": True}
    with monkeypatch.context() as revoked:
        revoked.setenv("LEDGER_KEY", made["secret"])
        ended = terminal("dataset list")
        assert (ended.status, f"Its id is {made['id']}." in ended.err) == (4, True)


def test_keys_by_name_and_those_that_nobody_uses(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a key is found by its name if that is unique among valid keys, and keys that nobody uses are listed.

    Method: one key, two of one name, a name that nobody has; the clock of the command line is moved on."""
    made = terminal("key create ci --role auditor --output -")
    assert re.search(r"id\s+[0-9a-f-]{36}\n\s*datasets\s+all", made.out)
    limited = terminal("key create team --role requester --dataset a --json")
    assert (limited.status, "'a'" in limited.json["detail"]) == (2, True)
    rotated = terminal("key rotate ci --overlap PT0S --json").json
    assert rotated["name"] == "ci"
    assert terminal("key rotate ci --overlap PT1H --json").json["principal"] == rotated["principal"]
    several = terminal("key revoke ci --json")
    assert (several.status, len(several.json["ids"])) == (2, 2)
    nobody = terminal("key revoke nobody")
    assert (nobody.status, "privacy-ledger key list" in nobody.err) == (5, True)
    assert terminal("key list --unused 1d --json").json["items"] == []
    assert terminal("key list --unused soon").status == 2

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(days=2)

    monkeypatch.setattr("ledger.cli.people.datetime", Later)
    monkeypatch.setattr("ledger.client.dates.datetime", Later)
    unused = terminal("key list --unused 1d --json").json["items"]
    # The key that expired at once, and the one that expires within an hour, are not valid two days later.
    assert sorted(key["name"] for key in unused) == ["admin", "ci"]
    assert terminal("key list --unused 3d --json").json["items"] == []


def test_a_key_is_rotated(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: who a key is, what it is limited to and what comes after it, by commands, for people and with --json."""
    terminal("dataset create a --mu 1 --bound clt")
    terminal("dataset project a ranking --mu 1 --reason r")
    made = terminal("key create ci --role requester --dataset a --project ranking --json").json
    rotated = terminal(f"key rotate {made['id']} --overlap PT0S --json").json
    assert (rotated["principal"], rotated["projects"]) == (made["principal"], ["ranking"])
    again = terminal(f"key rotate {rotated['id']} --output -")
    assert ("shown only once" in again.out, "P1D" in again.out) == (True, True)
    assert re.search(r"datasets\s+projects", terminal("key list").out)
    assert re.search(r"admin of acme\n.*datasets\s+all", terminal("whoami").out, re.DOTALL)
    with monkeypatch.context() as old:
        old.setenv("LEDGER_KEY", made["secret"])
        assert terminal("whoami").status == 4
    with monkeypatch.context() as new:
        new.setenv("LEDGER_KEY", rotated["secret"])
        assert terminal("whoami --json").json["projects"] == ["ranking"]
        release = "request a --type gaussian --noise-multiplier 5"
        assert terminal(release).status == 4
        assert terminal(f"{release} --project ranking").status == 0


def test_what_takes_two_people(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Goal: a steward who is one of two is told what the other one has to type, and that does it; the policy and both
    people's keys stand in the tenant's own journal, which verifies. Method: a raise, a thaw and a void."""
    terminal("dataset create mnist --mu 1 --bound clt")
    assert "each needs one steward" in terminal("policy show").out
    assert "second steward" in terminal("policy set --second-steward --reason agreed").out
    assert "No proposals" in terminal("proposal list").err
    second = terminal("key create two --role steward --json").json["secret"]

    def by_another(line: str) -> Any:
        with monkeypatch.context() as other:
            other.setenv("LEDGER_KEY", second)
            return terminal(line)

    def approve(told: str) -> Any:
        assert "Nothing is changed yet" in told
        return by_another(next(line.strip() for line in told.splitlines() if "proposal approve" in line))

    raised = terminal("dataset budget mnist --mu 2 --reason 'the board agreed'")
    assert (raised.status, "set the budget of mnist to mu 2" in raised.out) == (0, True)
    assert terminal("dataset show mnist --json").json["balance"]["limit"]["mu"] == 1
    proposal = re.findall(r"approve ([0-9a-f-]{36})", raised.out)[0]
    own = terminal(f"proposal approve {proposal} --reason r")
    assert (own.status, "second person" in own.err) == (4, True)
    assert re.search(r"open\n.*reason\s+the board agreed", terminal(f"proposal show {proposal}").out, re.DOTALL)
    assert "% spent" in approve(raised.out).out
    assert by_another(f"proposal approve {proposal} --reason r --json").json["code"] == "proposal-state"
    assert by_another(f"proposal refuse {proposal} --reason late").status == 1

    counts = "request mnist --type gaussian --noise-multiplier 5 --json"
    run = terminal(counts).json["id"]
    terminal(f"start {run}")
    voided = terminal(f"void {run} --reason 'nobody looked'")
    assert f"void run {run}" in voided.out
    listed = terminal("proposal list")
    assert (f"void run {run}" in listed.out, "approved" in listed.out) == (True, True)
    assert "voided" in approve(voided.out).out
    refused = terminal("dataset budget mnist --mu 3 --reason more --json").json["proposal"]["id"]
    assert by_another(f"proposal refuse {refused} --reason no --json").json["state"] == "refused"
    assert [item["id"] for item in terminal("proposal list --state refused --json").json["items"]] == [refused]

    run = terminal(counts).json["id"]
    terminal(f"start {run}")
    assert terminal(f"settle {run} --steps 101").status == 1
    assert "active" in approve(terminal("dataset thaw mnist --reason looked").out).out

    file = tmp_path / "acme.jsonl"
    assert "verify" in terminal(f"export --tenant --output {file}").err
    held = terminal(f"verify {file} --unsigned").out
    assert ("the tenant acme" in held, bool(re.search(r"second steward\s+yes", held))) == (True, True)
    found = terminal(f"verify {file} --unsigned --json").json
    assert (found["second_steward"], sorted(key["role"] for key in found["keys"].values())) == (
        True,
        ["admin", "steward"],
    )
    assert terminal("export --tenant --output -").out == file.read_text()
    assert terminal("check --json").json["holds"]


def test_evaluate_records_nothing(terminal: Terminal) -> None:
    """Goal: the accountant alone, with the numbers exactly as they were typed."""
    line = "evaluate --bound clt --noise-multiplier 1.1 --dataset-size 60000 --batch-size 256 --epochs 60"
    answer = terminal(f"{line} --at-delta 1e-5 --at-delta 1e-6 --json").json
    assert [item["delta"] for item in answer["epsilon"]] == [1e-5, 1e-6]
    assert answer["epsilon"][0]["value"] == pytest.approx(2.324315268435514, rel=1e-12)
    assert "estimate" in terminal(line).out
    digits = "5.000000000000000000000000000001"
    exact = terminal(f"evaluate --type gaussian --noise-multiplier {digits} --json").json
    assert int(exact["cost"]["mu_sq_pico"]) == math.ceil(PICO / Fraction(digits) ** 2)
    whole = terminal("""evaluate --mechanism '{"type": "pure_dp", "epsilon": 1.0}' --json""").json
    assert whole["cost"]["mu"] == pytest.approx(1.2320353853449010, rel=1e-12)


MISTAKES = [
    ("request nothere --type gaussian --noise-multiplier 5", 5, "nothere"),
    ("request a --type gaussian --noise-multiplier=-5", 2, "mechanism.noise_multiplier"),
    ("request a --type gaussian --noise-multiplier five", 2, "'five' is not a number"),
    ("request a --type gaussian --noise-multiplier nan", 2, "finite"),
    ("request a --noise-multiplier 1.1", 2, "sample_rate and steps"),
    ("request a --type gaussian --noise-multiplier 5 --label team", 2, "NAME=VALUE"),
    ("request a --mechanism '{'", 2, "mechanism"),
    ("request a --mechanism '[]'", 2, "must be a JSON object"),
    ("request a --mechanism @nofile", 2, "nofile"),
    ("""request a --mechanism '{"type": "gdp"}' --steps 5""", 2, "exclude each other"),
    ("dataset create c", 2, "--epsilon"),
    ("dataset create c --epsilon 1", 2, "at_delta"),
    ("dataset create a --mu 1 --bound clt", 1, "already in use"),
    ("dataset create 'A B' --mu 1 --bound clt", 2, "name"),
    ("dataset create c --mu 1", 2, "budget.delta"),
    ("dataset budget a --mu 1", 2, "--reason"),
    ("start 00000000-0000-4000-8000-000000000000", 5, "No run has this id"),
    ("key create k --role king", 2, "role"),
    ("settle nonsense", 2, "id"),
    ("export a", 2, "--output"),
    ("export --output x.jsonl", 2, "--tenant"),
    ("export a --tenant --output x.jsonl", 2, "--tenant"),
    ("key create k --role auditor --project p", 2, "projects"),
    ("key rotate 00000000-0000-4000-8000-000000000000", 5, "No key has this id"),
    ("policy set --reason r", 2, "--second-steward"),
    ("proposal list --state maybe", 2, "state"),
    ("proposal approve 00000000-0000-4000-8000-000000000000 --reason r", 5, "No proposal has this id"),
    ("export a --output /no/where/at.all", 2, "/no/where"),
    ("export nothere --output nothere.jsonl", 5, "nothere"),
    ("verify nofile", 2, "No such file"),
    ("nonsense", 2, "nonsense"),
]
ABOUT_ACCOUNTS = [
    ("dataset create c --epsilon 1 --mu 1", 2, "exclude each other"),
    ("dataset create c --mu 1 --bound clt --ceiling-mu 1 --ceiling-epsilon 1", 2, "ceiling"),
    ("dataset create c --mu 2 --bound clt --ceiling-mu 1", 2, "above the ceiling"),
    ("dataset create c --derived-from a", 2, "--unit-preserving"),
    ("dataset create c --derived-from nothere --unit-preserving", 2, "nothere"),
    ("dataset create c --derived-from a --unit-preserving --privacy-unit user", 1, "privacy_unit"),
    ("dataset create c --derived-from a --unit-preserving --partition x", 2, "partitions"),
    ("dataset add-partitions a x --reason r", 2, "--disjoint"),
    ("dataset add-partitions a x --disjoint --reason r", 1, "without partitions"),
    ("dataset add-partitions a --disjoint --reason r", 2, "PARTITION"),
    ("dataset freeze a", 2, "--reason"),
    ("dataset project a p --reason r", 2, "--epsilon"),
    ("dataset project a 'P P' --mu 1 --reason r", 2, "project"),
    ("dataset fair-use a --reason x", 2, "--unlimited"),
    ("dataset fair-use a --reason x --unlimited --runs-per-hour 5", 2, "--unlimited"),
    ("request a: --type gaussian --noise-multiplier 5", 2, "NAME:PARTITION"),
    ("request a:x --type gaussian --noise-multiplier 5", 2, "no partitions"),
    ("request a a --type gaussian --noise-multiplier 5", 2, "twice"),
    ("request --type gaussian --noise-multiplier 5", 2, "DATASET"),
    ("request a --type gaussian --noise-multiplier 5 --project p", 5, "no project"),
    ("request a --type gaussian --noise-multiplier 5 --segments 2", 2, "segments"),
    ("batch nofile", 2, "nofile"),
    ("batch @nofile", 2, "nofile"),
]
NO_BATCHES = [("[1]", "every run"), ("{}\n{", "line 2"), ("5", "line 1"), ("[", "file"), ("", "runs"), ("[]", "runs")]


def test_a_mistake_is_named(terminal: Terminal, tmp_path: Path) -> None:
    """Goal: whatever is typed wrongly is told in a line that says which part, without a traceback.

    Method: one server for all of the mistakes, since they change nothing.
    """
    terminal("dataset create a --mu 1 --bound clt")
    for line, status, names in MISTAKES + ABOUT_ACCOUNTS:
        said = terminal(line)
        assert said.status == status, (line, said)
        assert names in re.sub(r"[\s│]+", " ", said.err), (line, said.err)
        assert "Traceback" not in said.err
    assert not Path("nothere.jsonl").exists()
    file = tmp_path / "runs"
    for text_, names in NO_BATCHES:
        file.write_text(text_)
        said = terminal(f"batch {file}")
        assert (said.status, names in said.err) == (2, True), (text_, said)


def test_an_export_is_not_written_over_a_file(terminal: Terminal, tmp_path: Path) -> None:
    """Goal: no file is lost, half an export is never taken for a whole, and - is standard output."""
    terminal("dataset create a --mu 1 --bound clt")
    file = tmp_path / "kept"
    file.write_text("mine")
    refused = terminal(f"export a --output {file}")
    assert (refused.status, "--force" in refused.err, file.read_text()) == (2, True, "mine")
    told = terminal(f"export a --output {file} --force --json")
    assert told.json == {"dataset": "a", "file": str(file), "bytes": file.stat().st_size}
    assert terminal("export a --output -").out == file.read_text()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


@pytest.mark.parametrize("said", [{"LEDGER_URL": "http://127.0.0.1:1"}, {"LEDGER_URL": "nonsense"}, {"LEDGER_KEY": ""}])
def test_a_server_that_is_not_there(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, said: dict[str, str]) -> None:
    """Goal: exit status 3 if nobody answers, 2 if the settings are wrong, 4 without a key; the message names which."""
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    answer = terminal("runs")
    assert answer.status == (4 if "LEDGER_KEY" in said else 3 if said == {"LEDGER_URL": "http://127.0.0.1:1"} else 2)
    assert next(iter(said)) in answer.err or said.get("LEDGER_URL", "?") in answer.err
    assert "Traceback" not in answer.err


def test_check_finds_a_balance_that_was_changed(terminal: Terminal, database: Settings) -> None:
    """Goal: `check` holds rows against journals, and says which does not hold. Method: a row is changed behind it."""
    terminal("dataset create a --mu 1 --bound clt")
    terminal("dataset create b --mu 1 --bound clt")
    terminal("request a --type gaussian --noise-multiplier 5")
    owner = past_the_ledger(database)
    with owner.execution_options(writing=True).begin() as connection:
        connection.execute(text("UPDATE accounts SET held_mu_sq_pico = 0"))
    owner.dispose()
    found = terminal("check --json")
    assert (found.status, found.json["holds"]) == (1, False)
    errors = {item["dataset"]: item["error"] for item in found.json["datasets"]}
    assert errors["b"] is None
    assert "another balance" in errors["a"]
    assert "another balance" in terminal("check").out


def test_verify_asks_for_keys(terminal: Terminal, tmp_path: Path) -> None:
    """Goal: a script that looks at the exit status alone believes nobody. Method: an export of the ledger, with its
    keys, with another's, with none, and with none by intent; in words and in JSON."""
    terminal("dataset create mnist --mu 1 --bound clt --size 60000")
    export, keys, others = (tmp_path / name for name in ("mnist.jsonl", "jwks.json", "others.json"))
    terminal(f"export mnist --output {export}")
    terminal(f"jwks --output {keys}")
    others.write_text(json.dumps({"keys": [SigningKey.generate().public_jwk()]}))
    for options, status, holds in (
        (f"--jwks {keys}", 0, True),
        ("--unsigned", 0, True),
        ("", 1, False),
        (f"--jwks {others}", 1, False),
    ):
        told = terminal(f"verify {export} {options}")
        assert (told.status, told.out.startswith("holds")) == (status, holds), options
        told = terminal(f"verify {export} {options} --json")
        assert (told.status, told.json["holds"]) == (status, holds), options
    told = terminal(f"verify {export}")
    assert ("--jwks" in told.err, "--unsigned" in told.err, "no trusted key" in told.out) == (True, True, True)
    assert terminal(f"verify {export} --unsigned --jwks {keys}").status == 2


def test_every_example_of_help_is_a_command_that_can_be_typed() -> None:
    """Goal: every command has an example under its help, which is this command, with arguments and options that it has.
    Method: each is parsed as the command line parses it, and not run."""
    examples = 0
    groups = [typer.main.get_command(cli.app)]
    while groups:
        for command in groups.pop().commands.values():  # type: ignore[attr-defined]
            if hasattr(command, "commands"):
                groups.append(command)
            else:
                assert command.epilog is not None, f"{command.name} has no example"
                words = shlex.split(command.epilog.removeprefix("Example: privacy-ledger "))
                named = typer.main.get_command(cli.app)
                while hasattr(named, "commands"):
                    named = named.commands[words.pop(0)]
                assert (named.name, named.help) == (command.name, command.help)
                assert named.make_context(named.name, words).params
                examples += 1
    assert examples >= 60
