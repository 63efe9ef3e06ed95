"""The examples of pages about libraries that the documentation's own tests do not have: executed, and compared."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ledger.client import Ledger

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def demand_true(page: str, dataset: str, ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    """Register the dataset as the page does, execute its first example, and compare the end of what is printed."""
    text = (DOCS / page).read_text(encoding="utf-8")
    assert f"privacy-ledger dataset create {dataset} --epsilon 3 --at-delta 1e-5" in text
    budget = {"epsilon": 3, "at_delta": 1e-5}
    ledger.register(
        name=dataset, privacy_unit="record", adjacency="add_or_remove_one", bound="certified", budget=budget
    )
    found = re.search(r"```py\n(.*?)```\n```txt\n(.*?)```", text, re.DOTALL)
    assert found is not None
    code, expected = found.groups()
    capsys.readouterr()
    exec(compile(code, page, "exec"), {"__name__": page})  # noqa: S102 (our own page)
    assert capsys.readouterr().out.splitlines()[-2:] == expected.splitlines()
