"""A document whose lists are cut to the size of a page, with their full lengths."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from ledger.encoding import decode, encode

RUNS_OF_DATASET_MAX: Final = 200
RUNS_MAX: Final = 1000
"""How many of the newest runs, and items of each other list, are shown for each dataset and in all."""
RUNS_OF_DATASET_MIN: Final = 10
ACCOUNTS_MAX: Final = 500
DATASETS_MAX: Final = 200
FIGURES_MAX: Final = 12
"""How many datasets are shown with figures."""
_FIRST: Final = {"accounts": ACCOUNTS_MAX, "datasets": DATASETS_MAX}
_NEWEST: Final = ("runs", "refusals", "overruns", "corrections", "overdue", "voids", "changes")


@dataclass(frozen=True, slots=True)
class View:
    """document: the JSON document with its lists cut. totals: the full length of each list."""

    document: Mapping[str, Any]
    totals: Mapping[str, int]

    def is_cut(self, name: str) -> bool:
        return self.totals[name] > len(self.document[name])


def view_of(members: Iterable[tuple[str, Any]]) -> View:
    """Read the members of a document to the end, and keep as much of each list as a page can hold. They may come from
    `document.parts`, or be the items of a parsed document."""
    document: dict[str, Any] = {}
    totals: dict[str, int] = {}
    for name, value in members:
        if name in _FIRST or name in _NEWEST:
            datasets = len(document["about"]["datasets"])
            document[name], totals[name] = _cut(name, iter(value), datasets)
        else:
            document[name] = decode(encode(value))
    return View(document, totals)


def _cut(name: str, items: Iterator[Any], datasets: int) -> tuple[list[Any], int]:
    total = 0
    if name in _FIRST:
        kept: list[Any] = []
        for total, item in enumerate(items, start=1):  # noqa: B007 (the number of the last one is how many there are)
            if len(kept) < _FIRST[name]:
                kept.append(decode(encode(item)))
        return kept, total
    share = max(RUNS_OF_DATASET_MIN, min(RUNS_OF_DATASET_MAX, RUNS_MAX // max(datasets, 1)))
    newest: defaultdict[str, deque[str]] = defaultdict(lambda: deque(maxlen=share))
    counted: Counter[str] = Counter()
    for item in items:
        text = encode(item)
        dataset = decode(text)["dataset"] if isinstance(item, str) else item["dataset"]
        newest[dataset].append(text)
        counted[dataset] += 1
    return [decode(text) for texts in newest.values() for text in texts], counted.total()
