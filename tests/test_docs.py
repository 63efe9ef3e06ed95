"""The documentation is true: its walk prints what it says, and nothing that a user meets is missing from it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from typer.main import get_command

from ledger.api.app import create_app
from ledger.api.problems import STATUS
from ledger.cli import app as command_line
from ledger.settings import Settings
from tests.accounting import figures
from tests.kit.driver import Terminal

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def walk(page: str) -> list[tuple[str, str]]:
    """A page's examples: every command with what is printed under it, and every Python snippet with what the block of
    text after it says, in order."""
    found: list[tuple[str, str]] = []
    for kind, block in re.findall(r"```(console|python|text)\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        if kind == "python":
            found.append((block, ""))
            continue
        if kind == "text":
            found[-1] = (found[-1][0], block)
            continue
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], ""))
            else:
                command, answer = found[-1]
                found[-1] = (command, f"{answer}{line}\n")
    return found


def curl(command: str) -> str:
    """Does what curl would: the few options that the README uses."""
    headers, body, url = {}, None, ""
    words = iter(shlex.split(os.path.expandvars(command))[1:])
    for word in words:
        match word:
            case "-s":
                continue
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "--json":
                body = next(words)
                headers["Content-Type"] = "application/json"
            case _:
                url = word
    return httpx.request("POST" if body else "GET", url, headers=headers, content=body).text


def squeezed(text: str) -> str:
    """Without the spaces that lay a table out."""
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


@pytest.mark.parametrize(("page", "examples"), [("README.md", 11), ("docs/modelling.md", 31)])
def test_the_walk_prints_what_the_page_says(
    page: str, examples: int, terminal: Terminal, capfd: pytest.CaptureFixture[str]
) -> None:
    """Goal: a stranger who types a page's walk sees the walk. Method: every command and snippet in order, on a real
    server, against what the page prints, in which … stands for what differs each time."""
    compared = 0
    names: dict[str, Any] = {}
    for command, wanted in walk(page):
        if command.startswith(("export ", "source ")):
            continue
        if command.startswith("privacy-ledger"):
            said = terminal(command)
            printed = said.out + said.err
        elif command.startswith("curl"):
            printed = curl(command)
        elif command.startswith("echo"):
            printed = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
        else:
            capfd.readouterr()
            exec(compile(command, page, "exec"), names)  # noqa: S102 (our own snippet)
            printed = capfd.readouterr().out
        pattern = ".*?".join(re.escape(part) for part in squeezed(wanted).split("…"))
        assert re.fullmatch(pattern, squeezed(printed), re.DOTALL), f"{command}\nprinted\n{printed}"
        compared += 1
    names["ledger"].close()
    assert compared == examples


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
    for name, command in get_command(command_line).commands.items():  # type: ignore[attr-defined]
        assert f"`privacy-ledger {name}" in README or f"`{name}`" in README
        for part in getattr(command, "commands", ()):
            assert f"`privacy-ledger {name} {part}`" in README or f"`{part}`" in README


def test_what_is_said_of_security_is_shown() -> None:
    """Goal: every test that the threat model rests on is there. Method: the names in it, each in the file it is said
    to be in, which is the one named last where none is."""
    file, named = "", 0
    for path, name in re.findall(r"`(?:(tests/[\w/]+\.py)(?:::)?)?(test_\w+)?`", (ROOT / "SECURITY.md").read_text()):
        file = path or file
        if name:
            assert f"def {name}(" in (ROOT / file).read_text(), f"{file}::{name}"
        named += bool(path or name)
    assert named > 20


def test_figures_are_those_of_the_accountant() -> None:
    """Goal: certificates in the docs are what the accountant says. Method: the table, made again."""
    assert figures.table() in (ROOT / "docs" / "accounting.md").read_text()


@pytest.mark.parametrize(
    "page", [page.relative_to(ROOT).as_posix() for page in sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")})]
)
def test_links_lead_somewhere(page: str) -> None:
    """Goal: every link to a file of the project leads to one."""
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text()):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def needed(extra: str) -> set[str]:
    """The names of all packages that this one needs with an extra, and those need, as they are installed here."""
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = {("privacy-ledger", frozenset({extra}))}
    while waiting:
        seen |= waiting
        asked: set[tuple[str, frozenset[str]]] = set()
        for name, extras in waiting:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # one of another system
                for one in map(Requirement, importlib.metadata.requires(name) or ()):
                    if one.marker is None or any(one.marker.evaluate({"extra": each}) for each in extras | {""}):
                        asked.add((canonicalize_name(one.name), frozenset(one.extras)))
        waiting = asked - seen
    return {name for name, _ in seen}


def test_the_image_keeps_what_it_needs() -> None:
    """Goal: what leaves the image after the build is not what the server runs on. Method: the packages that the
    Dockerfile removes against those that the installed ones ask for."""
    (line,) = re.findall(r"pip uninstall --yes (.*?) \\\n", (ROOT / "Dockerfile").read_text())
    server = needed("server")
    assert {"matplotlib", "packaging", "starlette", "cryptography"} <= server
    assert not set(line.split()) & server
