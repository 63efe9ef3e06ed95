"""What `pip install privacy-ledger` brings beside a training job: the client and the command line, and no more."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
BASE = {
    "annotated-doc", "anyio", "certifi", "filelock", "h11", "httpcore", "httpx", "idna", "markdown-it-py", "mdurl",
    "colorama", "platformdirs", "pygments", "rich", "shellingham", "typer", "typing-extensions",
}  # fmt: skip
"""33 MB with bytecode, 17 MB without, together with this package; colorama on Windows only. Each more is
installed beside every training job."""


def brought(lock: str, declared: set[str]) -> set[str]:
    """The packages that a lock file has because of these, by what it states of each: who needs it."""
    needed_by: dict[str, set[str]] = {}
    name = ""
    for line in lock.splitlines():
        if pinned := re.match(r"([a-z0-9._-]+)(\[[^]]*\])?==", line):
            name = canonicalize_name(pinned[1])
            needed_by[name] = set()
        elif why := re.match(r" +# +(?:via )?([a-z0-9._-]+)$", line):
            needed_by[name].add(canonicalize_name(why[1]))
    found = set(declared)
    while more := {one for one, by in needed_by.items() if by & found} - found:
        found |= more
    return found & set(needed_by)


@pytest.mark.parametrize("file", ["requirements.lock", "requirements-test.lock"])
def test_the_base_install_is_small(file: str) -> None:
    """Goal: no dependency comes in unnoticed, of our own or of another package. Method: what the base dependencies
    bring in a lock file; the measured size is that of a fresh environment with these."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    names: set[str] = {canonicalize_name(Requirement(one).name) for one in declared}
    assert brought((ROOT / file).read_text(), names) == BASE


def test_a_package_that_comes_in_is_found() -> None:
    """Goal: the test above fails when it should. Method: a lock in which one of the base packages needs another."""
    lock = (
        "rich==1 \\\n    --hash=sha256:00\n    # via typer\nnew-one==2 \\\n    # via\n    #   rich\n    #   x\nx==1\n"
    )
    assert brought(f"typer==1\n{lock}", {"typer"}) == {"typer", "rich", "new-one"}
