"""The wheel and the image carry the built site, though Git ignores it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]


def test_the_wheel_carries_the_site(tmp_path: Path) -> None:
    """Goal: whoever installs the wheel has the documentation. Method: what the build backend takes from a folder with
    this project's configuration, in which the site is one page."""
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore", "ledger/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("ledger/site/index.html", "ledger/site/assets/a.js", "migrations/env.py", "ledger/ledger.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    taken = {file.distribution_path for file in WheelBuilder(str(tmp_path)).recurse_included_files()}
    assert {"ledger/__init__.py", "ledger/site/index.html", "ledger/site/assets/a.js"} <= taken
    assert "ledger/ledger.db" not in taken


def test_the_image_is_given_what_it_copies() -> None:
    """Goal: the image can be built. Method: what the Dockerfile copies from the project against .dockerignore, which
    lets in what it names, and not a site that was built before."""
    named = (ROOT / ".dockerignore").read_text().splitlines()
    lines = re.findall(r"^COPY (?!--from)(.*) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    copied = {source for line in lines for source in line.split()}
    assert {"docs", "guide", "mkdocs.yml", "requirements-docs.lock"} <= copied
    assert copied <= {line[1:] for line in named if line.startswith("!")}
    assert all((ROOT / source).exists() for source in copied)
    assert "ledger/site" in named
