"""The table of files and functions that `make check` prints, and when it fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

STRUCTURE = Path(__file__).parent.parent / ".ci" / "structure"
MODULE = '''"""A module."""
from ledger import errors
from ledger.store import tables

def short():
    """What it does
    takes no line."""
    return 1

async def longer(a):
    b = a
    return b
'''


def structure(root: Path) -> subprocess.CompletedProcess[str]:
    """What the script prints for a tree of files, and how it ends."""
    return subprocess.run([sys.executable, STRUCTURE, root], capture_output=True, text=True, check=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two packages and a module, and a test."""
    for name in ("ledger/__init__", "ledger/errors", "ledger/store/__init__", "ledger/store/tables", "ledger/api/app"):
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MODULE if name == "ledger/api/app" else "")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_app.py").write_text(MODULE)
    return tmp_path


def test_the_table(root: Path) -> None:
    """Goal: the figures are right. Method: a small tree, counted by hand: functions of 2 and of 3 lines."""
    printed = structure(root)
    assert (printed.returncode, printed.stderr) == (0, "")
    heads, product, packages, tests = (line.split() for line in printed.stdout.splitlines())
    assert heads == ["files", "lines", "longest", "functions", "median", "p90"]
    assert product[:5] == ["ledger", "5", "12", "12", "2"]
    assert packages == ["3", "packages", "and", "modules,", "2", "import", "arrows", "between", "them"]
    assert tests[:5] == ["tests", "1", "12", "12", "2"]


@pytest.mark.parametrize(("name", "lines_max"), [("ledger/api/app.py", 500), ("tests/test_app.py", 800)])
def test_a_file_above_its_limit_fails(root: Path, name: str, lines_max: int) -> None:
    """Goal: no file grows beyond its limit. Method: a file at the limit, and one line more."""
    path = root / name
    path.write_text(MODULE + "\n" * (lines_max - len(MODULE.splitlines())))
    assert structure(root).returncode == 0
    path.write_text(path.read_text() + "\n")
    failed = structure(root)
    assert failed.returncode == 1
    assert failed.stderr == f"{name}: {lines_max + 1} lines, {lines_max} are allowed: split it by noun\n"
