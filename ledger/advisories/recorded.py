"""What a run records about the software that executed it.

The convention is in its evidence, by which it was settled: `{"libraries": {"opacus": "1.6.0"}, "options": {…}}`. Other

and `{"opacus_version": "1.6.0"}`; and labels `library.opacus=1.6.0`, which a run has from the time it is asked for. A
purpose is a text for people, and is not read. Any number or text in the evidence is an option by its name. An
integration that checked what an advisory is about, and found it not to be so, lists its id: `{"rules_out": [ID, …]}`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

MEMBERS_MAX: Final = 500
"""How many members of a run's evidence are read. What is beyond is not known, as if it were not recorded."""
DEPTH_MAX: Final = 4
TEXT_MAX: Final = 200
_LABEL: Final = "library."
_EVENTS: Final = ("settled", "reported")
_SEPARATORS: Final = re.compile(r"[-_.\s]+")
_VERSION: Final = "version"
_RULED_OUT: Final = "rules-out"
_MAPS: Final = ("libraries", "versions")
"""Objects that have libraries as names and versions as values."""


@dataclass(slots=True)
class Recorded:
    """libraries: by name, the versions that were recorded; an empty set if it was named without one. options: by name,
    the values. mechanisms: the types of the declared mechanism and its parts. samplings: theirs. ruled_out: the ids of
    advisories that the run states do not apply.
    """

    libraries: dict[str, set[str]] = field(default_factory=dict)
    options: dict[str, set[str]] = field(default_factory=dict)
    mechanisms: set[str] = field(default_factory=set)
    samplings: set[str] = field(default_factory=set)
    ruled_out: set[str] = field(default_factory=set)
    adjacency: str | None = None


def plain_name(name: str) -> str:
    """Return the name of a library or an option in one spelling: `dp_accounting` and `DP-Accounting` are the same."""
    return _SEPARATORS.sub("-", name.strip().lower())


def plain_value(value: Any) -> str:
    """Return an option's value in one spelling: True, "true" and "TRUE" are the same, and so are 2 and 2.0."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip().lower()


def recorded(run: Mapping[str, Any], *, known: Iterable[str]) -> Recorded:
    """Return what a run records. run: as answers show it. known: the libraries that advisories are about."""
    found = Recorded(adjacency=run.get("adjacency"))
    request = run.get("request") or {}
    _add_mechanism(found, request.get("mechanism"))
    for name, value in (request.get("labels") or {}).items():
        if str(name).lower().startswith(_LABEL):
            _add_library(found, str(name)[len(_LABEL) :], value)
    names = frozenset(map(plain_name, known))
    for event in _EVENTS:
        evidence = (run.get(event) or {}).get("evidence")
        if isinstance(evidence, Mapping):
            _add_evidence(found, evidence, names)
    return found


def _add_mechanism(found: Recorded, mechanism: Any) -> None:
    waiting = [mechanism]
    while waiting:
        declared = waiting.pop()
        if not isinstance(declared, Mapping):
            continue
        found.mechanisms.add(str(declared.get("type")))
        if declared.get("sampling") is not None:
            found.samplings.add(str(declared["sampling"]))
        waiting += declared.get("parts") or ()


def _add_evidence(found: Recorded, evidence: Mapping[str, Any], known: frozenset[str]) -> None:
    for parent, name, value in _members(evidence):
        if parent == _RULED_OUT:
            found.ruled_out.add(str(value))
        elif parent in _MAPS:
            _add_library(found, name, value.get(_VERSION) if isinstance(value, Mapping) else value)
        elif isinstance(value, Mapping):
            if plain_name(name) in known and not isinstance(value.get("library"), str):
                _add_library(found, name, value.get(_VERSION))
            if isinstance(value.get("library"), str):
                _add_library(found, value["library"], value.get(_VERSION))
        elif plain_name(name) in known:
            _add_library(found, name, value)
        elif plain_name(name).removesuffix("-version") in known:
            _add_library(found, plain_name(name).removesuffix("-version"), value)
        else:
            found.options.setdefault(plain_name(name), set()).add(plain_value(value)[:TEXT_MAX])


def _members(evidence: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the members of an object and of what is in it: the name of the object they are in, theirs, and the value.

    The evidence itself is a member too, and so is each object of a list: they have an empty name.
    """
    waiting: list[tuple[str, str, Any, int]] = [("", "", evidence, 0)]
    for count, (parent, name, value, depth) in enumerate(waiting):
        if count > MEMBERS_MAX:
            return
        yield parent, name, value
        within: Iterable[tuple[str, Any]] = ()
        if depth < DEPTH_MAX and isinstance(value, Mapping):
            within = ((str(inner), item) for inner, item in value.items())
        elif depth < DEPTH_MAX and isinstance(value, list):
            within = (("", item) for item in value)
        room = max(MEMBERS_MAX + 1 - len(waiting), 0)
        waiting += [(plain_name(name), inner, item, depth + 1) for inner, item in islice(within, room)]


def _add_library(found: Recorded, name: str, version: Any) -> None:
    versions = found.libraries.setdefault(plain_name(name), set())
    if isinstance(version, str | int | float) and not isinstance(version, bool) and str(version).strip():
        versions.add(str(version).strip()[:TEXT_MAX])
