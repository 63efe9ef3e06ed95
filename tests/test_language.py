"""The words of the product: phrases that need a second reading are in no message, docstring or comment.

What `--help` prints, the details of problems and the OpenAPI document are strings of the product, so reading its
strings, docstrings and comments finds them all.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent

PHRASES: Final = {
    "say it again": 'of an option, write "can be repeated"',
    "if you say nothing": 'write "default: …"',
    "nothing is said": 'write "default: …" or "if it is left out"',
    "when left out": 'write "default: …"',
    "for ever": 'write "always", "never" or "permanently"',
    "says what": 'programs do not say: write "names", "shows" or "has"',
    "says that": 'write "states", "shows" or "has"',
    "says how": 'write "describes" or "has"',
    "says so": 'write "reports it"',
    "says nothing": 'write "prints nothing" or "has nothing about"',
    "does not say": 'write "does not name" or "does not state"',
    "is good": 'of a key, a proof or a number, write "is valid" or "is right"',
    "is told": 'programs do not tell: write "gets", "is called with" or "reads"',
    "are told": 'write "get" or "read"',
    "be told": 'write "get", "learn" or "read"',
    "told of": 'write "gets alerts about"',
    "anew": 'write "again" or "new"',
    "besides": 'write "also" or "in addition"',
    "as it stands": 'write "unchanged" or "as it is stored"',
    "as it were": "leave it out",
    "no job may": 'name who must not do what: "do not begin a job with it"',
    "lets a job": 'write "a job may begin with it"',
    "may begin by": 'write "may begin with"; "by" is for a time',
    "as many as there are": 'write "all"',
    "so many": 'write "this many", or the number',
    "what came of": 'write "the outcome of"',
    "came to nothing": 'write "failed" or "left no entry"',
    "comes to nothing": 'write "fails" or "leaves no entry"',
    "stands twice": 'write "appears twice"',
    "stands there": 'write "is there"',
    "stands in": 'write "is in"',
    "stands elsewhere": 'write "is in another …"',
    "at hand": 'write "available"',
    "beforehand": 'write "in advance" or "before"',
    "once more": 'write "again"',
    "each for itself": 'write "each on its own"',
    "in each quantity for itself": 'write "in each quantity by itself"',
    "your word": 'write "you state"',
    "steward's word": 'write "the steward states"',
    "has to": 'write "must"',
    "have to": 'write "must"',
    "whoever": 'name the actor: "the caller", "anyone who"',
    "such that": 'write "so that"',
    "is none that": 'write "does not exist" or "is not valid"',
    "that there is not": 'write "that does not exist"',
    "that there are not": 'write "that do not exist"',
    "there is no such": 'name it: "no run has this id"',
    "where none": 'a condition begins with "if" or "when"',
    "where nothing": 'a condition begins with "if" or "when"',
    "where that is": 'a condition begins with "if" or "when"',
    "where there is no": 'a condition begins with "if" or "when"',
    "where it is not": 'a condition begins with "if" or "when"',
}
"""What is not written, and what to write in its place."""

RECORDED: Final = (
    "batches of a fixed size are drawn uniformly without replacement, anew at each step;",
    "noise_multiplier is used as it stands, the published convention for add_or_remove_one",
    "apart, in an order fixed beforehand (batches reshuffled between epochs have a separation of 1)",
    "one with equal probability, drawn anew",
)
"""Assumptions that journals carry. Their text is hashed into entries, so these keep their words."""
ROOMS: Final = (
    *("access", "accounting", "alerting", "api", "cli", "client", "core", "operate", "recompute", "report"),
    *("service", "signer", "store", "verifier"),
)
GROUPS: Final = {
    **{f"ledger/{room}": [f"ledger/{room}"] for room in ROOMS},
    "ledger/*.py": ["ledger/*.py"],
    "migrations": ["migrations"],
    "guide": ["guide"],
    "docs": ["docs"],
    "vectors": ["vectors"],
    "read first": ["README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md"],
}
"""What is read: files, and folders with all their Python and Markdown; a pattern may name several."""


def files(pattern: str) -> list[Path]:
    """Return the files of a group's entry. Raises AssertionError if there are none."""
    paths = sorted(
        file
        for path in ROOT.glob(pattern)
        for file in ([path] if path.is_file() else [*path.rglob("*.py"), *path.rglob("*.md")])
    )
    assert paths, pattern
    return paths


def texts(source: str, suffix: str) -> list[str]:
    """Return what a person reads of a file: of Python its strings, docstrings and runs of comments, else everything."""
    if suffix != ".py":
        return [source]
    strings = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    comments = [
        token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    return [*strings, " ".join(comments)]


def phrases_in(source: str, suffix: str) -> list[str]:
    """Return the phrases of the list that a file has outside of `RECORDED`, in any case and across line breaks."""
    read = [" ".join(text.split()) for text in texts(source, suffix)]
    for recorded in RECORDED:
        read = [text.replace(recorded, "") for text in read]
    return [
        phrase
        for phrase in PHRASES
        if any(re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE) for text in read)
    ]


def test_recorded_texts_are_in_use() -> None:
    """Goal: no exception outlives its text. Method: each is in a string of a mechanism."""
    strings = [text for path in files("ledger/accounting/mechanisms") for text in texts(path.read_text(), ".py")]
    assert [recorded for recorded in RECORDED if not any(recorded in text for text in strings)] == []


@pytest.mark.parametrize("group", GROUPS)
def test_no_phrase_needs_a_second_reading(group: str) -> None:
    """Goal: what a person reads is plain. Method: each phrase of the list is looked for in every text of the files."""
    wrong = [
        f"{path.relative_to(ROOT)}: {phrase!r}: {PHRASES[phrase]}"
        for pattern in GROUPS[group]
        for path in files(pattern)
        for phrase in phrases_in(path.read_text(), path.suffix)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "suffix", "expected"),
    [
        ('raise ValueError("Say it again.")', ".py", ["say it again"]),
        ('f"{1} is told {2}"', ".py", ["is told"]),
        ('"A part " "is " "told"', ".py", ["is told"]),
        ('"""A docstring that is\n    told."""', ".py", ["is told"]),
        ("a = 1  # for ever", ".py", ["for ever"]),
        ("# kept for\n# ever", ".py", ["for ever"]),
        ("besides = anew = 1", ".py", []),
        ("It is\ntold, besides.", ".md", ["is told", "besides"]),
        ("The renewed head; this told, it has told.", ".md", []),
        (f'a = "{RECORDED[3]}, and told anew"', ".py", ["anew"]),
    ],
)
def test_a_phrase_is_found_wherever_it_is_read(source: str, suffix: str, expected: list[str]) -> None:
    """Goal: the search sees every text and nothing else. Method: phrases in each kind of text, and names like them."""
    assert phrases_in(source, suffix) == expected


# --- docstrings ------------------------------------------------------------------------------------------------------

NO_VERB: Final = re.compile(
    "A|All|An|As|At|By|Each|Every|For|From|How|If|In|Its|No|None|Of|On|Once|One|So|The|These|This|Values|What|When|"
    "Where|Whether|Which|Who|With"
)
"""Words with which no imperative begins."""


def first_word_is_imperative(docstring: str) -> bool:
    """Return whether a docstring begins as "Return …" does: no article, question word, formula or third person."""
    word = docstring.split()[0].rstrip(",.:")
    is_third_person = word.endswith("s") and not word.endswith("ss")
    return bool(re.fullmatch("[A-Z][a-z]+", word)) and not NO_VERB.fullmatch(word) and not is_third_person


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    """Goal: the first line of a docstring is what the function does. Method: its first word, in the whole product.

    The docstring of `__init__` lists arguments: the class has the summary.
    """
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {docstring.splitlines()[0]}"
        for path in files("ledger")
        if path.suffix == ".py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "__init__"
        if (docstring := ast.get_docstring(node)) and not first_word_is_imperative(docstring)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        ("Return mu.", True),
        ("Look, then leap.", True),
        ("Press a key.", True),
        ("The mu.", False),
        ("Whether it is.", False),
        ("Raises ValueError.", False),
        ("log(1 + x)", False),
    ],
)
def test_what_begins_with_a_verb(docstring: str, *, expected: bool) -> None:
    """Goal: the check sees nouns and third persons. Method: sentences of each kind."""
    assert first_word_is_imperative(docstring) is expected
