"""The scripts of the pages about stacks: executed here, where their libraries are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent.parent / "docs" / "how-to"


def script_of(page: str, *, lines: int) -> str:
    """The script of a page. If so many lines of it are marked by their numbers, it names nothing of the ledger without
    them: that is how many a plain script needs."""
    (script,) = re.findall(r"^```py\n(.*?)```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)
    if not lines:
        return str(script)
    added = [line for line in script.splitlines() if re.search(r"  # \d$", line)]
    plain = [line for line in script.splitlines() if line not in added]
    assert [line[-1] for line in added] == [str(number) for number in range(1, lines + 1)]
    assert not any(re.search(r"\b(ledger|attach|training)\b", line) for line in plain)
    compile("\n".join(plain), page, "exec")
    return str(script)


def executed(
    page: str, *, dataset: str, name: str = "digits", lines: int = 0, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The names that the script of a page leaves, with this dataset in the place of the page's. given: names that the
    page leaves to its reader."""
    script = script_of(page, lines=lines)
    assert f'dataset="{name}"' in script
    names: dict[str, Any] = {"__name__": "__main__", **(given or {})}
    exec(compile(script.replace(f'dataset="{name}"', f'dataset="{dataset}"'), page, "exec"), names)  # noqa: S102
    return names
