"""At 80 columns numbers are whole, whatever an answer holds: none is cut, and none is broken over lines."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import httpx
import pytest
from rich.console import Console

from ledger.cli.show import console, rows
from ledger.client import Ledger
from tests.kit.driver import Terminal

WIDTH: Final = 80
LONG: Final = "a-rather-long-name-of-letters-alone-that-fills-sixty-three-columns"
"""Without a digit, so that a digit beside "…" is of a number that was cut."""
NAMES: Final = ("name", "title", "description", "reason", "purpose", "privacy_unit", "dataset", "detail", "project")
KEPT: Final = ("seq", "status", "from", "to", "size", "retry_after_seconds")
LISTS: Final = (
    *("dataset list", "dataset show mnist", "dataset show parts", "dataset partitions parts", "dataset history mnist"),
    *("dataset spending mnist --by person", "dataset spending mnist --by label=sweep", "dataset show mnist --at-seq 1"),
    *("runs", "runs --state refused", "run show RUN", "run show REFUSED", "key list", "proposal list", "alerts"),
    *("forecast --all", "forecast mnist", "forecast parts", "plan --runs planned.jsonl", "batch batch.jsonl", "whoami"),
    "evaluate --noise-multiplier 1.1 --sample-rate 0.01 --steps 100",
    "plan parts --type gaussian --noise-multiplier 0.01",
    "request parts --type gaussian --noise-multiplier 0.01",
    "void --label sweep=x --reason over --yes",
    "advisories",
    *("overview", "dataset burndown mnist", "dataset burndown parts --by month"),
)
CHANGING: Final = ("batch", "request", "void")
NUMBER: Final = re.compile(r"(?<![0-9a-f-])[0-9][0-9.,]{4,}(?:e[-+]?[0-9]+)?")
"""A number of five characters or more; not in an id."""
CUT: Final = re.compile(r"[0-9.,]…|…[0-9]")


def longer(value: Any, name: str = "") -> Any:
    """The same answer with long names, and with numbers of many digits."""
    if isinstance(value, Mapping):
        return {key: longer(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [longer(item, name) for item in value]
    if name == "hash":
        return "abcdefab" * 8
    if isinstance(value, str):
        return LONG if name in NAMES else f"{value}987654321" if value.isdecimal() else value
    if isinstance(value, bool) or value is None or name in KEPT:
        return value
    return value + 1_987_654_321 if isinstance(value, int) else value * 98_765.4321


@pytest.fixture
def narrow(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal of 80 columns whose server answers with long values, once `lengthen` is in the environment."""
    with httpx.Client(base_url=os.environ["LEDGER_URL"]) as real:

        def answer(request: httpx.Request) -> httpx.Response:
            path, content = request.url.raw_path.decode(), request.read()
            got = real.request(request.method, path, headers=request.headers, content=content)
            is_long = "lengthen" in os.environ and got.headers["content-type"].startswith("application/")
            return httpx.Response(got.status_code, json=longer(got.json()) if is_long else got.json())

        class Longer(Ledger):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options, transport=httpx.MockTransport(answer))

        monkeypatch.setattr("ledger.client.Ledger", Longer)
        yield terminal


def test_no_list_cuts_a_number(narrow: Terminal, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Goal: no command that lists cuts a number at 80 columns, whatever is long. Method: each, on a real server's
    answers, whose names and numbers are made longer on the way; "…" is never beside a digit, and each number is also in
    what a wide terminal shows."""
    monkeypatch.chdir(tmp_path)
    narrow("dataset create mnist --mu 1 --delta 1e-6")
    narrow("dataset create parts --mu 1 --delta 1e-6 --partition a --partition b")
    run = narrow("request mnist --type gaussian --noise-multiplier 9 --label sweep=x --purpose why --json").json["id"]
    refused = narrow("request mnist --type gaussian --noise-multiplier 0.1 --json")
    narrow("policy set --second-steward --reason two")
    narrow("dataset budget mnist --mu 2 --delta 1e-6 --reason more")
    planned = {"datasets": ["mnist"], "mechanism": {"type": "gaussian", "noise_multiplier": 9}}
    for name in ("planned", "batch"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(planned))
    monkeypatch.setenv("lengthen", "yes")
    numbers = 0
    for line in LISTS:
        typed = line.replace("RUN", run).replace("REFUSED", refused.json["run"])
        plain = shown(narrow, monkeypatch, typed, width=WIDTH)
        assert not CUT.search(plain), (line, plain)
        if not line.startswith(CHANGING):
            wide = shown(narrow, monkeypatch, typed, width=1000)
            assert set(NUMBER.findall(plain)) <= set(NUMBER.findall(wide)), (line, plain, wide)
        numbers += len(NUMBER.findall(plain))
    assert numbers > 100


def shown(narrow: Terminal, monkeypatch: pytest.MonkeyPatch, line: str, *, width: int) -> str:
    """What a command prints on terminals of this width, without colours."""
    for out in (console.out, console.err):
        monkeypatch.setattr(out, "width", width)
        monkeypatch.setattr(out, "_force_terminal", True)
    told = narrow(line)
    assert told.status in (0, 1), (line, told.err)
    return re.sub("\x1b[^m]*m", "", told.out + told.err)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_table_that_cannot_fit_is_printed_wider(is_terminal: bool) -> None:
    """Goal: if even the columns that must stay are too wide, each number is whole, on one line. Method: ten columns of
    twenty digits at 80 columns."""
    number = "12345678901234567890"
    printed = Console(file=io.StringIO(), width=WIDTH, force_terminal=is_terminal, color_system=None)
    columns = [f"column {index}" for index in range(10)]
    rows.show(rows.Rows(columns, [[number] * 10], right=columns), console=printed)
    text = printed.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert text.splitlines()[1].split() == [number] * 10


def test_columns_of_numbers_stay_whole_beside_long_texts() -> None:
    """Goal: a table that wraps its texts wraps no number. Method: a long text beside three numbers."""
    printed = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    numbers = ("123456789.123456", "0.000000123456789", "98765432109876543210")
    table = console.new_table("text", "a", "b", "c", right=("a", "b", "c"))
    table.add_row("many words " * 12, *numbers)
    printed.print(table)
    assert all(number in printed.file.getvalue() for number in numbers)  # type: ignore[attr-defined]
