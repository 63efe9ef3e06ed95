"""Markdown as the generated pages write it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are Markdown of one line."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|") or " "


def code(text: object) -> str:
    """The text as code; nothing for nothing."""
    return f"`{text}`" if str(text) else ""


def codes(texts: Iterable[object]) -> str:
    """Several texts as code, with commas between."""
    return ", ".join(code(text) for text in texts)


def sentence(text: str) -> str:
    """The text on one line, as a sentence."""
    line = " ".join(text.split())
    return line if not line or line.endswith((".", ":", "?", "!")) else f"{line}."


def anchor(heading: str) -> str:
    """The anchor of a heading, as Python-Markdown's default makes it."""
    kept = "".join(letter for letter in heading.lower() if letter.isalnum() or letter in "_- ")
    return "-".join(kept.split())
