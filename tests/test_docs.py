"""The documentation is true: its walk prints what it says, and nothing that a user meets is missing from it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from ledger.api.app import create_app
from ledger.api.problems import STATUS
from ledger.cli import app as command_line
from ledger.settings import Settings
from tests.driver import Ledger

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks() -> list[tuple[str, str]]:
    """Every command of the README's walk with the answer printed under it."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], ""))
            else:
                command, answer = found[-1]
                found[-1] = (command, answer + line)
    return found


def curl(ledger: Ledger, command: str, known: dict[str, str]) -> Any:
    """Does what curl would: the few options that the README uses."""
    for name, value in known.items():
        command = command.replace(f"${name}", value)
    method, headers, body, url = None, {}, None, ""
    words = iter(shlex.split(command)[1:])
    for word in words:
        match word:
            case "-s":
                continue
            case "-X":
                method = next(words)
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "--json":
                body = next(words)
                headers["Content-Type"] = "application/json"
            case _:
                assert word.startswith(known["LEDGER_URL"]), f"an option that no reader was told of: {word}"
                url = word.removeprefix(known["LEDGER_URL"])
    return ledger.client.request(method or ("POST" if body else "GET"), url, headers=headers, content=body)


def test_the_walk_prints_what_the_readme_says(ledger: Ledger) -> None:
    """Goal: a stranger who types the walk sees the walk. Method: every command in order, against the answers in the
    README, in which … stands for what differs each time."""
    known = {"LEDGER_URL": "http://testserver", "LEDGER_KEY": ledger.key}
    compared = 0
    for command, wanted in blocks():
        if command.startswith("export"):
            continue
        answer = curl(ledger, command, known)
        if answer.status_code == 201 and "/runs" in command:
            known["RUN"] = answer.json()["id"]
        pattern = ".*?".join(re.escape(part) for part in wanted.split("…"))
        assert re.fullmatch(pattern, answer.text, re.DOTALL), f"{command}\nprinted\n{answer.text}"
        compared += 1
    assert compared == 6


def test_every_call_is_in_the_readme(database: Settings) -> None:
    """Goal: no call without a line. Method: the OpenAPI document against the table of calls."""
    for path, methods in create_app(database).openapi()["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in README


def test_every_error_code_is_in_the_readme() -> None:
    """Goal: whoever meets a code finds it, with its status."""
    for code, status in STATUS.items():
        assert f"| `{code}` | {status} |" in README


def test_every_setting_is_in_the_readme() -> None:
    """Goal: no setting that only the code knows, and the default that is written is the one that counts."""
    for name, field in Settings.model_fields.items():
        assert f"`LEDGER_{name.upper()}`" in README
        if isinstance(field.default, int):
            row = next(line for line in README.splitlines() if f"`LEDGER_{name.upper()}`" in line and line[0] == "|")
            assert str(field.default) in row


def test_every_command_is_in_the_readme() -> None:
    """Goal: no command that only --help knows."""
    for name in get_command(command_line).commands:  # type: ignore[attr-defined]
        assert f"`privacy-ledger {name}" in README or f"`{name}`" in README


@pytest.mark.parametrize("page", ["README.md", "docs/accounting.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Goal: every link to a file of the project leads to one."""
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists(), target
