"""Read the advisories. They are a part of the package: TOML, which the standard library reads."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Final, Literal

from ledger.errors import InvalidRequest
from ledger.suggest import nearest

FOLDER: Final = resources.files("ledger.advisories").joinpath("known")
FORMAT: Final = 1
_EXAMPLES: Final = ("touches", "leaves")
"""A run that an advisory finds, and one that it leaves alone: the tests hold the advisory to them."""
Direction = Literal["too_little", "too_much", "no_guarantee", "unknown_spend"]
DIRECTIONS: Final[Mapping[Direction, str]] = {
    "too_little": "charged too little",
    "too_much": "charged too much",
    "no_guarantee": "no guarantee",
    "unknown_spend": "unknown spend",
}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a fault can be read: a public page, or the library's own file and line at a version, with its address."""

    text: str
    url: str


@dataclass(frozen=True, slots=True)
class When:
    """What must be so in a run; an empty member holds for all.

    mechanisms: types of mechanisms. samplings, adjacencies: their values. options: by name, the values that the run may
    have stated in its evidence, or the number that it must exceed.
    """

    mechanisms: tuple[str, ...] = ()
    samplings: tuple[str, ...] = ()
    adjacencies: tuple[str, ...] = ()
    options: Mapping[str, tuple[Any, ...] | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Advisory:
    """One fault.

    versions: a specifier of the versions that have it, `*` if no version without it is known. seen_in: versions in
    which it was seen. direction: of the error in the charge. factor: right divided by charged, as far as one case is
    known; `seen` states the case. follows: by field of the declared mechanism, how the mechanism that was really
    executed follows from it: `{"times": 0.5}` or `{"set": "shuffle"}`; empty if it does not follow from that alone.
    """

    id: str
    library: str
    versions: str
    seen_in: tuple[str, ...]
    title: str
    what: str
    affected: str
    direction: Direction
    do: str
    sources: tuple[Source, ...]
    when: When
    factor: float | None = None
    seen: str | None = None
    follows: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return what a reader of the advisory needs, as a JSON object."""
        return {
            "id": self.id,
            "library": self.library,
            "versions": self.versions,
            "seen_in": list(self.seen_in),
            "title": self.title,
            "what": self.what,
            "affected": self.affected,
            "direction": self.direction,
            "factor": self.factor,
            "seen": self.seen,
            "do": self.do,
            "follows": {name: dict(change) for name, change in self.follows.items()},
            "sources": [{"text": source.text, "url": source.url} for source in self.sources],
        }


@functools.cache
def advisories() -> tuple[Advisory, ...]:
    """Return all advisories, sorted by library and id."""
    files = sorted((file for file in FOLDER.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    read = [advisory for file in files for advisory in _read(file.read_text(encoding="utf-8"))]
    return tuple(sorted(read, key=lambda one: (one.library, one.id)))


def advisory(id_: str) -> Advisory:
    """Return the advisory with this id. Raises InvalidRequest that names the nearest id."""
    known = {one.id: one for one in advisories()}
    if id_ not in known:
        meant = nearest(id_, list(known))
        hint = f"Did you mean {meant}?" if meant else "List them: privacy-ledger advisories --known"
        raise InvalidRequest(f"id: no advisory is named {id_!r}. {hint}", field="id")
    return known[id_]


def _read(text: str) -> list[Advisory]:
    written = tomllib.loads(text)
    if written["format"] != FORMAT:
        raise ValueError(f"the advisories have format {written['format']}, not {FORMAT}")
    return [_parsed(entry) for entry in written["advisory"]]


def _parsed(entry: Mapping[str, Any]) -> Advisory:
    when = dict(entry.get("when", {}))
    options = {name: _wanted(value) for name, value in when.pop("options", {}).items()}
    return Advisory(
        **{
            **{name: value for name, value in entry.items() if name not in _EXAMPLES},
            "seen_in": tuple(entry["seen_in"]),
            "sources": tuple(Source(**source) for source in entry["sources"]),
            "when": When(**{name: tuple(values) for name, values in when.items()}, options=options),
        }
    )


def _wanted(value: Any) -> tuple[Any, ...] | float:
    return float(value["more_than"]) if isinstance(value, Mapping) else tuple(value)
