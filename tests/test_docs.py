"""The documentation is true: its examples print what it says, and its links and figures are right.

After a change of what is printed, `WRITE_EXAMPLES=1` with these tests writes it into the pages.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from guide import budgets, pages
from ledger.cli import app as command_line
from ledger.cli.server_call import after_command
from tests.accounting import figures
from tests.kit import walk
from tests.kit.driver import Terminal

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TUTORIAL = [DOCS / "tutorial" / f"{name}.md" for name in ("first-budget", "first-training-run", "first-audit")]
WITH_OPACUS = DOCS / "how-to" / "opacus.md"
APART = [*TUTORIAL, WITH_OPACUS]
WITH_EXAMPLES = [
    *TUTORIAL,
    *(page for page in sorted(DOCS.glob("**/*.md")) if page not in APART and walk.examples(page.read_text())),
]
"""The pages whose examples are executed: the tutorial in its order, then the others, on one ledger."""
NOT_TYPED = ("export ", "source ")
README_LINES_MAX = 120


class Reader:
    """Somebody who types the examples of a page, and compares."""

    def __init__(self, terminal: Terminal, capfd: pytest.CaptureFixture[str]) -> None:
        self._terminal, self._capfd = terminal, capfd
        self._run = ""

    def follow(self, page: Path) -> int:
        """Do all that a page shows, and return how many examples were compared."""
        found = [one for one in walk.examples(page.read_text()) if not one.code.startswith(NOT_TYPED)]
        names: dict[str, Any] = {}
        try:
            for example in found:
                self._compare(example, page, self._printed(example, page, names))
        finally:
            if "ledger" in names:
                names["ledger"].close()
        return len(found)

    def _compare(self, example: walk.Example, page: Path, printed: str) -> None:
        if not walk.holds(example.printed, printed) and os.environ.get("WRITE_EXAMPLES"):
            page.write_text(walk.with_printed(page.read_text(), example, printed))
        else:
            assert walk.holds(example.printed, printed), f"{page}: {example.code}\nprinted\n{printed}"

    def _printed(self, example: walk.Example, page: Path, names: dict[str, Any]) -> str:
        if example.is_python:
            self._capfd.readouterr()
            exec(compile(example.code, page, "exec"), names)  # noqa: S102 (our own snippet)
            return self._capfd.readouterr().out
        if example.code.startswith("privacy-ledger"):
            # The id of the run that was printed last differs each time.
            printed = self._terminal(example.code.replace("…", self._run[:8]))
            text = printed.out + printed.err
            self._run = (re.findall(r"\brun ([0-9a-f]{8}-[0-9a-f-]{27})\b", text) or [self._run])[-1]
            return text
        return subprocess.run(["sh", "-c", example.code], capture_output=True, text=True, check=True).stdout


@pytest.fixture
def reader(
    terminal: Terminal, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Reader:
    """Somebody in an empty folder, with a terminal that leads to a new ledger."""
    monkeypatch.chdir(tmp_path)
    return Reader(terminal, capfd)


def test_the_readme_prints_what_it_shows(reader: Reader) -> None:
    """Goal: a stranger who types the README sees the README. Method: every example in order, on a real server."""
    assert reader.follow(ROOT / "README.md") == 4


def test_the_pages_print_what_they_show(reader: Reader) -> None:
    """Goal: what the documentation shows is what happens. Method: every example of every page, on one real server."""
    compared = {page.relative_to(DOCS).as_posix(): reader.follow(page) for page in WITH_EXAMPLES}
    assert all(compared.values())
    assert sum(compared.values()) > 50


@pytest.mark.timeout(60)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_the_quickstart_with_opacus_prints_what_it_shows(reader: Reader) -> None:
    """Goal: whoever trains with Opacus gets from a plain script to a refusal as written. Method: every example of the
    page, with real training, on a real server of its own, in less than a minute."""
    for name in ("torch", "opacus", "sklearn"):
        pytest.importorskip(name, reason=f"{name} is not installed: see `make test` about requirements-training.lock")
    assert reader.follow(WITH_OPACUS) == 5


def test_three_lines_are_added_to_a_plain_opacus_script() -> None:
    """Goal: asking takes three lines. Method: the quickstart's script without them names nothing of the ledger."""
    (script,) = [one.code for one in walk.examples(WITH_OPACUS.read_text()) if "# 1" in one.code]
    added = [line for line in script.splitlines() if re.search(r"  # \d$", line)]
    plain = [line for line in script.splitlines() if line not in added]
    assert [line[-1] for line in added] == ["1", "2", "3"]
    assert not any(re.search(r"\b(ledger|attach|training)\b", line) for line in plain)
    compile("\n".join(plain), "plain", "exec")


def commands_of(page: Path) -> list[str]:
    """The commands of ours that a page shows without what they print."""
    blocks = re.findall(r"^ *```sh\n(.*?)```", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("privacy-ledger ")]


@pytest.mark.parametrize(
    "page", [page.relative_to(ROOT).as_posix() for page in sorted(DOCS.glob("**/*.md")) if commands_of(page)]
)
def test_commands_that_are_only_shown_can_be_typed(page: str) -> None:
    """Goal: a command that needs more than a new ledger, and is not executed here, has no wrong option. Method: the
    command line reads each, and does nothing."""
    for line in commands_of(ROOT / page):
        command: Any = typer.main.get_command(command_line)
        words = shlex.split(line, comments=True)[1:]
        words = words[len(after_command(words)[0]) :]  # without the options of all commands
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        command.make_context(line, words)


def test_the_readme_is_short() -> None:
    """Goal: nobody scrolls past a reference to find the beginning. Method: its lines, and that it has no table."""
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= README_LINES_MAX
    assert not [line for line in lines if line.startswith("|")]


NOT_PLAIN = {
    "say it again": "write: can be repeated",
    "if you say nothing": "write: default",
    "for ever": "write: always, or: never changes",
    "is told": "write: gets, sees or learns",
    "anew": "write: again, or: new",
    "besides": "write: in addition",
    "as it stands": "leave it out",
    "no job may": "the subject first: a job must not",
    "if nothing is said": "write: default",
    "as many as there are": "write: no limit",
    "what is given back": "write: returned",
    "no telling": "write: does not show",
    "nor has": "write: has no … either",
    "settling has": "the noun is settlement",
}
"""Phrases that a reader in a hurry reads twice, and what to write."""


def test_plain_words() -> None:
    """Goal: one pass through the text is enough. Method: phrases that were in it and had to be read twice."""
    for page in [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "vectors/README.md")),
        *DOCS.glob("**/*.md"),
    ]:
        text = " ".join(page.read_text().lower().split())
        for phrase, reason in NOT_PLAIN.items():
            assert not re.search(rf"\b{phrase}\b", text), f"{page}: {phrase!r}: {reason}"


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
    """Goal: certificates and budgets in the docs are what the accountant says. Method: the tables, made again."""
    assert figures.table() in (DOCS / "explanation" / "accounting.md").read_text()
    table = budgets.table()
    assert table in (DOCS / "how-to" / "choose-a-budget.md").read_text()
    of_epsilon = {cells[1].strip(): cells[2].strip() for line in table.splitlines() if (cells := line.split("|"))}
    heads, _, row, *_ = (line for line in (DOCS / "explanation" / "mu.md").read_text().splitlines() if line[:1] == "|")
    for epsilon, mu in zip(heads.split("|")[2:-1], row.split("|")[2:-1], strict=True):
        assert of_epsilon[epsilon.strip()] == mu.strip()


@pytest.mark.parametrize(
    "page", [page.relative_to(ROOT).as_posix() for page in sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")})]
)
def test_links_lead_somewhere(page: str) -> None:
    """Goal: every link to a file of the project leads to one, or to a page that is made from the code."""
    made = {(DOCS / path).resolve() for path in pages.generated()}
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
        path = (ROOT / page).parent.joinpath(target).resolve()
        assert path.exists() or path in made, target


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
