"""Commands that answer what happened to runs, and tables that fit a terminal."""

from __future__ import annotations

import io
import itertools
import re

import pytest
import typer
from rich.console import Console

from ledger.cli.show import rows
from ledger.client import Ledger
from tests.kit.driver import Terminal

RELEASE = "--type gaussian --noise-multiplier 5"


def test_one_run_as_it_is_shown(terminal: Terminal) -> None:
    """Goal: `run show` prints what was declared, charged and done, by whom and why, by any beginning of the id.
    Method: a run from request to settling, a voided one, and one that is refused."""
    terminal("dataset create counts --mu 1 --delta 1e-6")
    asked = terminal(f"request counts {RELEASE} --purpose 'a count' --label sweep=7 --label team=a --json").json["id"]
    held = terminal(f"run show {asked[:8]}")
    assert held.status == 0, held.err
    for line in (r"held +run " + asked, r"purpose +a count", r"labels +sweep=7, team=a", r"datasets +counts"):
        assert re.search(line, held.out), line
    assert "noise_multiplier 5" in held.out
    assert f"privacy-ledger start {asked}" in held.out
    assert terminal(f"start {asked[:13]}").status == 0
    assert f"privacy-ledger receipt show {asked}" in terminal(f"run show {asked}").out
    received = terminal(f"receipt show {asked}")
    assert re.search(
        r"cost +4 % of the budget *\n +epsilon 0\.7\d+ at delta 1e-05, of this run by itself *\n +mu 0\.2", received.err
    )
    assert received.out.count("\n") == 1
    assert terminal(f"settle {asked[:9]} --evidence '{{}}'").status == 0
    settled = terminal(f"run show {asked[:8]}").out
    assert re.search(r"charged +4 % of the budget, mu 0\.2", settled)
    assert re.search(r"hash [0-9a-f]{64}", settled)
    timeline = settled.partition("when (UTC)")[2]
    order = [timeline.index(word) for word in ("asked, and approved", "started  ", "settled  ")]
    assert order == sorted(order)
    voided = terminal(f"request counts {RELEASE} --json").json["id"]
    terminal(f"void {voided[:8]} --reason 'the node was lost'")
    assert "the node was lost" in terminal(f"run show {voided}").out
    refused = terminal("request counts --type gaussian --noise-multiplier 0.5 --json").json["run"]
    why = terminal(f"run show {refused[:8]}")
    assert re.search(r"counts +mu +400 +96 +2 +0\.97979 +1", why.out), why.out
    assert re.search(r"epsilon at delta 1e-05: asked for \S+, left \S+, limit \S+", why.out)
    assert terminal(f"run show {refused} --json").json["refused_by"][0]["share_requested"] == pytest.approx(4, rel=1e-6)
    missing = terminal("run show 00000000")
    assert (missing.status, "No run has this id" in missing.err) == (5, True)


def test_a_run_that_waited_shows_who_approved_it(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: whoever looks at a run that waited for a steward reads who asked for it, who approved it, and why."""
    terminal("dataset create counts --mu 1 --delta 1e-6")
    assert terminal("dataset fair-use counts --waits-above 3 --reason 'large ones wait'").status == 0
    waiting = terminal(f"request counts {RELEASE} --json").json["run"]
    with monkeypatch.context() as other:
        other.setenv("LEDGER_KEY", terminal("key create sue --role steward --json").json["secret"])
        assert terminal(f"proposal approve {waiting[:8]} --reason 'looks right'").status == 0
    shown = terminal(f"run show {waiting}").out.partition("when (UTC)")[2]
    order = ("asked, and waited for a steward +admin", r".*\n.*approved by a steward +sue", ".*looks right")
    assert re.search("".join(order), shown), shown


def test_runs_that_are_sought(terminal: Terminal) -> None:
    """Goal: every filter reaches the server, and a table has what was charged. Method: two runs that differ."""
    terminal("dataset create counts --mu 1 --delta 1e-6")
    one = terminal(f"request counts {RELEASE} --purpose 'first sweep' --label sweep=7 --json").json["id"]
    other = terminal("request counts --type laplace --noise-multiplier 9 --purpose 'a check' --json").json["id"]
    terminal(f"start {one}")
    terminal(f"settle {one}")
    for filters, found in (
        ("--label sweep=7", [one]),
        ("--label sweep", [one]),
        ("--label sweep=8", []),
        ("--purpose SWEEP", [one]),
        ("--mechanism laplace", [other]),
        ("--person admin --since yesterday", [other, one]),
        ("--person nobody", []),
        ("--until yesterday", []),
        ("--since 30d --until 2100-01-01", [other, one]),
    ):
        assert [run["id"] for run in terminal(f"runs {filters} --json").json["items"]] == found, filters
    table = terminal("runs").out
    assert re.search(rf"{one} +settled +counts +first sweep +gaussian +4 +4 +0\.72553 +0\.2 ", table), table
    wrong = terminal("runs --since soon")
    assert (wrong.status, "since: 'soon' is no time" in wrong.err) == (2, True)


def test_a_sweep_is_voided(terminal: Terminal) -> None:
    """Goal: `void` with options shows what it would void and asks, and voids only what matches. Method: a sweep of
    three runs, one of them started, beside another; without a terminal, with --yes, and again."""
    terminal("dataset create counts --mu 1 --delta 1e-6")
    runs = [terminal(f"request counts {RELEASE} --label sweep=7 --json").json["id"] for _ in range(3)]
    other = terminal(f"request counts {RELEASE} --label sweep=8 --json").json["id"]
    terminal(f"start {runs[0]}")
    asked = terminal("void --label sweep=7 --reason 'a wrong rate'")
    assert (asked.status, "2 runs would be voided. Add --yes" in asked.err) == (2, True)
    assert [run["state"] for run in terminal("runs --json").json["items"]] == ["held", "held", "held", "started"]
    done = terminal("void --label sweep=7 --reason 'a wrong rate' --yes --json")
    assert done.status == 0, done.err
    assert {result["run"]: result["state"] for result in done.json["results"]} == dict.fromkeys(runs[1:], "voided")
    assert terminal(f"run show {runs[1]} --json").json["voided"]["reason"] == "a wrong rate"
    assert [run["id"] for run in terminal("runs --state held --json").json["items"]] == [other]
    nothing = terminal("void --label sweep=7 --reason again --yes")
    assert (nothing.status, "No runs match" in nothing.err) == (0, True)
    started = terminal("void --label sweep --state started --reason 'a wrong rate' --yes")
    assert started.status == 0
    assert re.search(rf"{runs[0]} +voided +0\.2", started.out), started.out
    for wrong in (
        "void --reason x",
        f"void {other} --label sweep --reason x",
        "void --label a --state settled --reason x",
    ):
        assert terminal(wrong).status == 2


def test_a_voided_sweep_that_moved_on(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: what became of each run is printed, also of one that moved on meanwhile; exit status 1 then. Method: the
    answer to the question starts one of two runs."""
    terminal("dataset create counts --mu 1 --delta 1e-6")
    runs = [terminal(f"request counts {RELEASE} --label sweep=7 --json").json["id"] for _ in range(2)]

    def agree(_question: str, *, err: bool) -> bool:
        with Ledger(retries=0) as client:
            client.start(runs[0])
            client.settle(runs[0])
        return err

    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(typer, "confirm", agree)
    done = terminal("void --dataset counts --reason 'a wrong rate'")
    assert done.status == 1
    assert re.search(rf"{runs[0]} +not voided", done.out), done.out
    assert re.search(rf"{runs[1]} +voided", done.out), done.out


def test_what_a_dataset_was_and_how_long_it_lasts(terminal: Terminal) -> None:
    """Goal: history, the balance as it was, spending and all forecasts are one command each. Method: one dataset with
    a run, frozen; the numbers are those of the run."""
    terminal("dataset create counts --mu 1 --delta 1e-6")
    terminal("dataset create empty --mu 1 --delta 1e-6")
    run = terminal(f"request counts {RELEASE} --label sweep=7 --json").json["id"]
    terminal(f"start {run}")
    terminal(f"settle {run}")
    terminal("dataset freeze counts --reason 'records came twice'")
    shown = terminal("dataset history counts").out
    assert re.search(r"5 +\S+ \S+ +frozen +admin \(admin\) +records came twice", shown), shown
    assert re.search(r"1 +\S+ \S+ +registered with mu 1", shown)
    assert len(terminal("dataset history counts --limit 1 --json").json["items"]) == 1
    refused = terminal(f"request counts {RELEASE}")
    assert "The dataset counts is frozen since" in refused.err
    assert "records came twice" in refused.err
    assert re.search(r"spent +0 ", terminal("dataset show counts --at-seq 1").out)
    assert re.search(r"held +4 +- +0\.2 ", terminal("dataset show counts --at-seq 2").out)
    assert re.search(r"spent +4 +\S+ +0\.2 ", terminal("dataset show counts --at now").out)
    assert terminal("dataset show counts --at yesterday").status == 2
    for by, name in (
        ("person", "admin"),
        ("label=sweep", "7"),
        ("project", r"\(no project\)"),
        ("month", r"\d{4}-\d\d"),
    ):
        table = terminal(f"dataset spending counts --by {by}").out
        assert re.search(rf"{name} +1 +4\.00", table), table
        assert re.search(r"together +1 +4\.00", table)
    burndown = terminal("dataset burndown counts").out
    assert re.search(r"\d{4}-\d\d-\d\d +4\.00 +0\.00 +96\.00 +1 +0\n", burndown), burndown
    monthly = terminal("dataset burndown counts --by month --json").json
    assert [(point["approvals"], point["refusals"]) for point in monthly["points"]] == [(1, 0)]
    assert "partition:" in terminal("dataset burndown counts --partition a").err
    overview = terminal("overview").out
    assert re.search(r"counts +frozen +4\.00 +96\.00", overview), overview
    assert "empty" in overview
    assert "0 overdue runs, 0 proposals" in overview
    assert [item["name"] for item in terminal("overview --json --limit 1").json["items"]] == ["counts"]
    everything = terminal("forecast --all")
    assert re.search(r"counts .*too few runs", everything.out), everything.err
    assert "empty" in everything.out
    assert (terminal("forecast").status, terminal("forecast counts --all").status) == (2, 2)


# --- tables ----------------------------------------------------------------------------------------------------------

ID = "018f3c6e-7d2a-7c41-9b0e-2f5d8a1c4e77"
TABLE = rows.Rows(
    ("run", "state", "mu", "purpose", "by"),
    [(ID, "settled, overdue", "0.12345", "a purpose of many words, " * 4, "somebody"), (ID, "held", "12.5", "", "b")],
    right=("mu",),
    ids=("run",),
    texts=("purpose",),
    drop=("purpose", "by", "state"),
)


def _printed(table: rows.Rows, width: int, *, is_terminal: bool) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=is_terminal, color_system=None)
    rows.show(table, console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_tables_never_cut_a_number() -> None:
    """Goal: at any width that has room for id and number, both are whole or a whole beginning, and no line is longer
    than the width; columns go in the stated order, and a line names them. Method: all widths."""
    gone: list[frozenset[str]] = []
    for width in range(200, 19, -1):
        printed = _printed(TABLE, width, is_terminal=True)
        lines = printed.splitlines()
        header = lines[0].split()
        assert max(len(line.rstrip()) for line in lines[:3]) <= width
        for line, number in zip(lines[1:3], ("0.12345", "12.5"), strict=True):
            assert number in line.split(), (width, line)
            assert line.split()[0] in (ID, ID[: rows.ID_LENGTH])
        left_out = frozenset(TABLE.columns) - frozenset(header)
        assert all(name in printed.partition("not shown here: ")[2] for name in left_out)
        gone.append(left_out)
    assert list(dict.fromkeys(gone)) == [frozenset(TABLE.drop[:count]) for count in range(4)]
    for fewer, more in itertools.pairwise(gone):
        assert fewer <= more
    whole = _printed(TABLE, 70, is_terminal=False)
    assert ID in whole, "what a program reads keeps its ids"
    assert "12.5" in whole


def test_a_plan_prints_that_a_run_would_wait(terminal: Terminal) -> None:
    """Goal: `plan` says "waits", not "fits", of a run that a steward must approve; of what would fit and of a solution
    too."""
    terminal("dataset create counts --mu 1 --delta 1e-6")
    assert terminal("dataset fair-use counts --waits-above 3 --reason 'large ones wait'").status == 0
    planned = terminal(f"plan counts {RELEASE}")
    assert planned.status == 0
    assert re.match(r"waits for a steward +counts\nIt fits, but asks for more of counts than one run may", planned.out)
    assert terminal("plan counts --type gaussian --noise-multiplier 6").out.startswith("fits  counts")
    solved = terminal(f"plan counts {RELEASE} --solve-for noise-multiplier").out
    assert re.search(r"noise_multiplier: at least [0-9.]+, which waits for a steward", solved)
    refused = terminal("plan counts --type gaussian --noise-multiplier 0.5")
    assert "With the change of noise multiplier it would still wait for a steward." in refused.out


@pytest.mark.parametrize(
    ("declared", "solve_for"),
    [
        ("--type gaussian", "--noise-multiplier"),
        ("--type laplace --count 2", "--noise-multiplier"),
        ("--type zcdp", "--rho"),
        ("--type pure_dp", "--mechanism-epsilon"),
        ("--type gdp --evidence 'Theorem 3'", "--mechanism-mu"),
        ("--sample-rate 0.01 --steps 100", "--noise-multiplier"),
        ("--noise-multiplier 1 --dataset-size 60000 --batch-size 600", "--epochs"),
        ("--noise-multiplier 1 --steps 100", "--sample-rate"),
    ],
)
def test_what_is_solved_for_can_be_left_out(terminal: Terminal, declared: str, solve_for: str) -> None:
    """Goal: no first guess is needed, and the plan is that of the value found, which an approval then accepts.
    Method: a parameter of each kind; the same search with a guess; a request with the value."""
    terminal("dataset create counts --mu 1 --delta 1e-6 --bound clt --size 60000")
    name = solve_for.removeprefix("--")
    found = terminal(f"plan counts {declared} --solve-for {name} --json").json
    value = found["solution"]["value"]
    assert found["fits"]
    assert found["cost"] == found["solution"]["cost"]
    guess = {"--epochs": 2, "--sample-rate": 0.02}.get(solve_for, 0.5)
    guessed = terminal(f"plan counts {declared} {solve_for} {guess} --solve-for {name} --json").json
    assert guessed["solution"] == found["solution"], guessed
    shown = terminal(f"plan counts {declared} --solve-for {name}")
    assert (shown.status, shown.out.startswith("fits  counts")) == (0, True)
    assert f"{solve_for} {value}" in shown.out.replace("  ", " ")
    assert terminal(f"request counts {declared} {solve_for} {value} --json").json["cost"] == found["cost"]


def test_nothing_fits_in_nothing(terminal: Terminal) -> None:
    """Goal: if no value fits, `plan` says so of the parameter that was left out, and shows no cost of its own guess."""
    terminal("dataset create counts --mu 1 --delta 1e-6")
    assert terminal("request counts --type gaussian --noise-multiplier 1").status == 0
    planned = terminal("plan counts --type zcdp --solve-for rho")
    assert (planned.status, planned.out) == (1, "does not fit  counts: no value of rho fits in what is left\n")
