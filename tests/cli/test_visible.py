"""What others chose reaches a terminal as text alone: it moves no cursor, changes no colour and hides nothing."""

from __future__ import annotations

import ast
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from rich.text import Text

from ledger import cli
from ledger.cli.show import console
from ledger.client import Ledger
from ledger.errors import LedgerError, RunState
from tests.kit.clients import KEY, URL
from tests.kit.driver import Terminal

HOSTILE = (
    "a\x1b[31mred\x1b]0;title\x07 \x9b2J\x7f \u202eevil\u2066 \u200b\ufeff \r\x08\nprivacy-ledger: forged [bold]:smile:"
)
BAD = set("\x1b\x07\x9b\x7f\u202e\u2066\u200b\ufeff\r\x08\U000e0041")
COMMANDS = (
    "whoami", "dataset list", "dataset show mnist", "dataset partitions mnist", "key list", "runs", "run show x",
    "proposal list", "alerts", "alerting show", "policy show", "forecast mnist", "receipt show x", "jwks",
    "proof inclusion mnist 1",
)  # fmt: skip


def test_what_is_invisible_is_shown() -> None:
    """Goal: each character that a terminal obeys or hides is shown as JSON writes it; all others stay."""
    for character in BAD:
        shown = console.visible(f"<{character}>")
        assert json.loads(f'"{shown}"') == f"<{character}>"
        assert BAD.isdisjoint(shown)
    for text in ("", "plain", "zwölf µ² ∞ ░▒█ 数据 🙂", "two\nlines\tand a tab", "[bold]:smile:"):
        assert console.visible(text) == text
    assert console.in_one_line({"a\n": ["b\tc", 1, None, {"d": "\x1b"}]}) == {
        "a\\n": ["b\\tc", 1, None, {"d": "\\u001b"}]
    }


def test_every_console_prints_text_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: no way to print lets anything through. Method: strings, texts, tables and grids, with a hostile name."""
    table = console.new_table("dataset", HOSTILE)
    table.add_row(HOSTILE, Text(HOSTILE, style="bold"))
    for printed in (HOSTILE, Text(HOSTILE), Text.assemble((HOSTILE, "red"), HOSTILE), table):
        console.out.print(printed)
        out = capsys.readouterr().out
        assert BAD.isdisjoint(out)
        assert ("[bold]:smile:" in out, "\\u001b[31mred" in out) == (True, True)
    console.plain(HOSTILE)
    console.print_json({"name": HOSTILE})
    plain, _, printed_json = capsys.readouterr().out.partition('{"name"')
    assert BAD.isdisjoint(plain)
    assert BAD.isdisjoint(printed_json)
    assert json.loads(f'{{"name"{printed_json}') == {"name": HOSTILE}


def test_nothing_else_prints() -> None:
    """Goal: a new command cannot forget it. Method: the source has `print` and `typer.echo` nowhere but there."""
    folder = Path(cli.__file__).parent
    for path in folder.rglob("*.py"):
        if path.name != "console.py":
            called = {node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
            assert not [name for name in called if isinstance(name, ast.Name) and name.id == "print"], path
            assert not [
                name for name in called if isinstance(name, ast.Attribute) and name.attr in ("echo", "secho")
            ], path


def hostile(value: Any) -> Any:
    """The same answer, whose every text that is shown as it came was chosen by somebody hostile."""
    names = (
        "name",
        "title",
        "description",
        "reason",
        "purpose",
        "privacy_unit",
        "dataset",
        "detail",
        "message",
        "host",
    )
    if isinstance(value, Mapping):
        return {
            key: HOSTILE if key in names and isinstance(item, str) else hostile(item) for key, item in value.items()
        }
    return [hostile(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def lying(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal whose server answers as the real one does, with hostile names."""
    with httpx.Client(base_url=os.environ["LEDGER_URL"]) as real:

        def answer(request: httpx.Request) -> httpx.Response:
            got = real.request(
                request.method, request.url.raw_path.decode(), headers=request.headers, content=request.read()
            )
            return httpx.Response(got.status_code, json=hostile(got.json()))

        class Lied(Ledger):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options, transport=httpx.MockTransport(answer))

        monkeypatch.setattr("ledger.client.Ledger", Lied)
        yield terminal


def test_answers_and_problems_of_a_server(lying: Terminal) -> None:
    """Goal: for people and with --json, on both outputs, nothing of a hostile name is obeyed, and it begins no line.

    Method: a real server's answers to commands that list and show, with every name changed on the way; some are errors.
    """
    lying("dataset create mnist --mu 1 --bound clt --size 100")
    lying("key create ci --role auditor --output -")
    lying("request mnist --noise-multiplier 20 --type gaussian --idempotency-key a")
    statuses = set()
    for line in (*COMMANDS, "request mnist --noise-multiplier 0.1 --type gaussian", "plan mnist --noise-multiplier 9"):
        for command in (line, f"{line} --json"):
            ended = lying(command)
            statuses.add(ended.status)
            for printed in (ended.out, ended.err):
                assert BAD.isdisjoint(printed), (command, printed)
            if not command.endswith("--json"):
                assert not [line for line in ended.out.splitlines() if line.startswith("privacy-ledger: forged")], (
                    command
                )
    assert statuses >= {0, 1, 2}


def test_an_error_of_two_lines_is_one_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: a detail with a line break does not make a second message."""
    answer = httpx.Response(409, json={"code": "conflict", "detail": HOSTILE, "errors": [{"field": HOSTILE}] * 2})
    with Ledger(URL, KEY, transport=httpx.MockTransport(lambda _: answer)) as ledger:
        try:
            ledger.dataset("mnist")
        except LedgerError as error:
            error.facts["errors"] = [{"field": HOSTILE, "message": HOSTILE}] * 2
            console.error(error)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert [line.startswith("privacy-ledger: ") for line in lines] == [True, False, False, False]
    assert all(line.startswith("    ") for line in lines[1:])


# --- progress --------------------------------------------------------------------------------------------------------


def test_progress_is_for_terminals_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: a person at a terminal sees how much arrived, and no script gets a byte of that. Method: the same bytes
    written with a terminal, without one, and quietly; they arrive unchanged."""
    shown = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=shown, force_terminal=True, width=80))
    for is_terminal, quiet in ((True, False), (False, False), (True, True)):
        monkeypatch.setattr("sys.stderr.isatty", lambda is_terminal=is_terminal: is_terminal, raising=False)
        target = io.BytesIO()
        with console.receiving("Exporting", target, quiet=quiet) as received:
            assert received.write(b"x" * 2000) == 2000
        assert target.getvalue() == b"x" * 2000
        text, _ = shown.getvalue(), shown.truncate(0)
        shown.seek(0)
        assert ("Exporting" in text, "2.0 kB" in text) == ((is_terminal and not quiet,) * 2)


def test_the_next_commands_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Goal: an error about a run's state ends with the commands that the run allows. Method: one with two."""
    error = RunState("Run 1 is held.", run="1", state="held", next=["start", "void"])
    console.error(error)
    assert capsys.readouterr().err.splitlines()[1:] == ["    privacy-ledger start 1", "    privacy-ledger void 1"]
