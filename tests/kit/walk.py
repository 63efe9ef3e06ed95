"""The examples of a page of documentation: what is typed or run, and what the page prints under it."""

from __future__ import annotations

import re
from typing import NamedTuple

_BLOCK = re.compile(r"```(console|python|text)\n(.*?)```", re.DOTALL)
_LAST_DIGITS = re.compile(r"(\d\.\d{9})\d+")
_DIFFERS_EACH_TIME = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # ids
    r"|\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?: ?(?:Z|UTC))?"  # times
    r"|\b[0-9a-f]{64}\b"  # hashes
    r"|(?<=signed by  )[\w-]{43}"  # keys
    r"|[\d,]+(?= bytes)"
)


class Example(NamedTuple):
    """A command of a shell, or a snippet of Python, with what the page prints under it."""

    is_python: bool
    code: str
    printed: str


def examples(text: str) -> list[Example]:
    """A page's examples, in order."""
    found: list[Example] = []
    for kind, block in _BLOCK.findall(text):
        if kind == "python":
            found.append(Example(True, block, ""))
        elif kind == "text":
            found[-1] = found[-1]._replace(printed=block)
        else:
            found += [_typed(part) for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return found


def _typed(part: str) -> Example:
    command, _, printed = part.partition("\n")
    return Example(False, command, printed)


def holds(wanted: str, printed: str) -> bool:
    """Whether a page prints what was printed; … in the page stands for what differs each time."""
    pattern = ".*?".join(re.escape(part) for part in _squeezed(wanted).split("…"))
    return re.fullmatch(pattern, _squeezed(printed), re.DOTALL) is not None


def _squeezed(text: str) -> str:
    """Without the spaces that lay a table out, and without the last digits of a long fraction: they differ between
    processors, whose vector instructions add in another order."""
    return _LAST_DIGITS.sub(r"\1", "\n".join(" ".join(line.split()) for line in text.strip().splitlines()))


def with_printed(text: str, example: Example, printed: str) -> str:
    """The page with what was printed under an example, in place of what was there."""
    masked = _DIFFERS_EACH_TIME.sub("…", printed).strip("\n")
    lines = "".join(f"{line.rstrip()}\n" for line in masked.splitlines())
    before, after = f"$ {example.code}\n", ""
    if example.is_python:
        before, after = f"```python\n{example.code}```\n```text\n", "```"
    return text.replace(f"{before}{example.printed}{after}", f"{before}{lines}{after}", 1)
