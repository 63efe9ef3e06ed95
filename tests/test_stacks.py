"""`make test-integrations`: which Python the environment of a stack is made with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.integrations import __main__ as stacks


def test_a_stack_names_its_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Goal: a stack without a `python-version`, or with this one, has this Python; one that is not here has none, and
    that is reported; one of pyenv is found, and asked for its version rather than believed."""
    monkeypatch.setattr(stacks, "__file__", str(tmp_path / "__main__.py"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    for name in ("plain", "same", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "same" / "python-version").write_text(f"{sys.version_info.major}.{sys.version_info.minor}\n")
    (tmp_path / "other" / "python-version").write_text("9.9\n")
    assert stacks.base_python("plain") == stacks.base_python("same") == sys.executable
    assert stacks.base_python("other") is None
    assert "other: it needs Python 9.9, which is not here" in capsys.readouterr().err
    for patch, version in ((2, "9.8"), (10, "9.9")):
        python = tmp_path / "pyenv" / "versions" / f"9.9.{patch}" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\necho {version}\n")
        python.chmod(0o755)
        found = stacks.base_python("other")
        assert found == (str(python) if version == "9.9" else None)
