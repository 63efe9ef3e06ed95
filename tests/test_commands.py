"""The commands that ask a server, as somebody types them, against a real server on every database."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from pathlib import Path

import pytest
from sqlalchemy import text

from ledger.settings import Settings
from ledger.store import engine_for
from tests.driver import Terminal
from tests.test_acceptance import PICO, RUNS, exact_cost


def test_the_published_runs_by_command_line_until_verify(terminal: Terminal, tmp_path: Path) -> None:
    """Goal: from registering to verifying, by commands alone, every decision is that of exact fractions, and what a
    refusal suggests is approved when it is pasted."""
    made = terminal("dataset create mnist --mu 3 --bound clt --size 60000 --json")
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
    verified = terminal(f"verify {file} --json")
    assert (verified.status, verified.json["balance"]["held"]["mu_sq_pico"]) == (0, str(held))
    assert "holds" in terminal(f"verify {file}").out
    lines = file.read_text().split("\n")
    at = next(place for place, line in enumerate(lines) if '"epochs":60' in line)
    lines[at] = lines[at].replace('"epochs":60', '"epochs":61')
    file.write_text("\n".join(lines))
    broken = terminal(f"verify {file}")
    assert (broken.status, "does not hold" in broken.err, f"entry {at}:" in broken.err) == (1, True, True)
    assert terminal("check --json").json == {
        "datasets": [
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
    assert [item["id"] for item in terminal("runs --state settled --json").json] == [run]
    assert len(terminal("runs --limit 1 --json").json) == 1
    assert "% spent" in terminal("dataset show counts").out
    assert "Counts [2026]" in terminal("dataset show counts").out
    assert "counts" in terminal("dataset list").out
    raised = terminal("dataset budget counts --mu 2 --delta 1e-6 --reason 'more people' --json").json
    assert raised["balance"]["limit"]["mu"] == 2
    assert terminal("dataset freeze counts --reason look --json").json["state"] == "frozen"
    frozen = terminal("request counts --type gaussian --noise-multiplier 5")
    assert (frozen.status, "frozen" in frozen.err) == (1, True)
    assert terminal("dataset thaw counts --reason looked --json").json["state"] == "active"
    assert terminal("dataset retire counts --reason done --json").json["state"] == "retired"
    holds = terminal("check")
    assert (holds.status, "holds" in holds.out) == (0, True)


def test_keys_and_tenants(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, database: Settings) -> None:
    """Goal: a key is made, works within its limits, is listed without its secret, and is revoked."""
    terminal("dataset create a --mu 1 --bound clt")
    terminal("dataset create b --mu 1 --bound clt")
    made = terminal("key create ci --role requester --dataset a --json").json
    assert "shown this once" in terminal("key create other --role auditor").out
    listed = terminal("key list --json")
    assert made["secret"] not in listed.out
    assert made["id"] in terminal("key list").out
    with monkeypatch.context() as limited:
        limited.setenv("LEDGER_KEY", made["secret"])
        assert [item["name"] for item in terminal("dataset list --json").json] == ["a"]
        denied = terminal("tenant create new")
        assert (denied.status, "operator" in denied.err) == (2, True)
    assert terminal(f"key revoke {made['id']} --json").json == {"id": made["id"], "revoked": True}
    with monkeypatch.context() as revoked:
        revoked.setenv("LEDGER_KEY", made["secret"])
        assert terminal("dataset list").status == 2


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


@pytest.mark.parametrize(
    ("line", "status", "names"),
    [
        ("request nothere --type gaussian --noise-multiplier 5", 2, "nothere"),
        ("request a --type gaussian --noise-multiplier=-5", 2, "mechanism.noise_multiplier"),
        ("request a --type gaussian --noise-multiplier five", 2, "'five' is not a number"),
        ("request a --type gaussian --noise-multiplier nan", 2, "finite"),
        ("request a --noise-multiplier 1.1", 2, "sample_rate and steps"),
        ("request a --type gaussian --noise-multiplier 5 --label team", 2, "NAME=VALUE"),
        ("request a --mechanism '{'", 2, "mechanism"),
        ("request a --mechanism '[]'", 2, "must be a JSON object"),
        ("request a --mechanism @nofile", 2, "nofile"),
        ("""request a --mechanism '{"type": "gdp"}' --steps 5""", 2, "not both"),
        ("dataset create c", 2, "--epsilon"),
        ("dataset create c --epsilon 1", 2, "at_delta"),
        ("dataset create a --mu 1 --bound clt", 1, "taken"),
        ("dataset create 'A B' --mu 1 --bound clt", 2, "name"),
        ("dataset create c --mu 1", 2, "budget.delta"),
        ("dataset budget a --mu 1", 2, "--reason"),
        ("start 00000000-0000-4000-8000-000000000000", 2, "no such run"),
        ("key create k --role king", 2, "role"),
        ("settle nonsense", 2, "id"),
        ("export a", 2, "--output"),
        ("export a --output /no/where/at.all", 2, "/no/where"),
        ("export nothere --output nothere.jsonl", 2, "nothere"),
        ("verify nofile", 2, "No such file"),
        ("nonsense", 2, "nonsense"),
    ],
    ids=str,
)
def test_a_mistake_is_named(terminal: Terminal, line: str, status: int, names: str) -> None:
    """Goal: whatever is typed wrongly is told in a line that says which part, without a traceback."""
    terminal("dataset create a --mu 1 --bound clt")
    said = terminal(line)
    assert said.status == status, said
    assert names in re.sub(r"[\s│]+", " ", said.err), said.err
    assert "Traceback" not in said.err
    assert not Path("nothere.jsonl").exists()


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
    """Goal: exit status 3 where nobody answers, 2 where the settings are wrong; the message names which."""
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    answer = terminal("runs")
    assert answer.status == (3 if said == {"LEDGER_URL": "http://127.0.0.1:1"} else 2)
    assert next(iter(said)) in answer.err or said.get("LEDGER_URL", "?") in answer.err
    assert "Traceback" not in answer.err


def test_check_finds_a_balance_that_was_changed(terminal: Terminal, database: Settings) -> None:
    """Goal: `check` holds rows against journals, and says which does not hold. Method: a row is changed behind it."""
    terminal("dataset create a --mu 1 --bound clt")
    terminal("dataset create b --mu 1 --bound clt")
    terminal("request a --type gaussian --noise-multiplier 5")
    owner = engine_for(database.owner_url)
    with owner.execution_options(writing=True).begin() as connection:
        connection.execute(text("UPDATE accounts SET held_mu_sq_pico = 0"))
    owner.dispose()
    found = terminal("check --json")
    assert (found.status, found.json["holds"]) == (1, False)
    errors = {item["dataset"]: item["error"] for item in found.json["datasets"]}
    assert errors["b"] is None
    assert "another balance" in errors["a"]
    assert "another balance" in terminal("check").out
