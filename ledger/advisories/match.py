"""Whether an advisory touches a run. A run that does not record something is not cleared by that."""

from __future__ import annotations

from dataclasses import dataclass

from ledger.advisories.catalogue import Advisory
from ledger.advisories.recorded import Recorded, plain_name, plain_value
from ledger.advisories.versions import release, satisfies


@dataclass(frozen=True, slots=True)
class Touched:
    """unrecorded: what the run does not record, and the advisory depends on; empty if it touches the run for sure."""

    unrecorded: tuple[str, ...]

    @property
    def is_certain(self) -> bool:
        """Return whether everything that the advisory depends on is recorded."""
        return not self.unrecorded


def touched(advisory: Advisory, run: Recorded) -> Touched | None:
    """Return how an advisory touches a run; None if something that the run records rules that out, or if the run does
    not name the library."""
    versions = run.libraries.get(plain_name(advisory.library))
    when = advisory.when
    if versions is None or advisory.id in run.ruled_out or _rules_out(when.mechanisms, run.mechanisms):
        return None
    if _rules_out(when.samplings, run.samplings) or _rules_out(when.adjacencies, {run.adjacency or ""}):
        return None
    unrecorded = []
    is_affected = _is_affected(versions, advisory.versions)
    if is_affected is None:
        unrecorded.append("version")
    for name, wanted in when.options.items():
        stated = run.options.get(plain_name(name))
        if stated is None:
            unrecorded.append(name)
        elif not _is_among(stated, wanted):
            return None
    return None if is_affected is False else Touched(tuple(unrecorded))


def _rules_out(wanted: tuple[str, ...], stated: set[str]) -> bool:
    return bool(wanted) and not stated & set(wanted)


def _is_affected(versions: set[str], specifier: str) -> bool | None:
    """Return whether one of the recorded versions is affected; None if that is not known."""
    if specifier == "*":
        return True
    releases = [release(version) for version in versions]
    if any(known is not None and satisfies(known, specifier) for known in releases):
        return True
    return None if not releases or None in releases else False


def _is_among(stated: set[str], wanted: tuple[object, ...] | float) -> bool:
    if isinstance(wanted, tuple):
        return bool(stated & {plain_value(value) for value in wanted})
    # What is no number, such as `nan`, clears no run.
    return not all(_is_at_most(value, wanted) for value in stated)


def _is_at_most(text: str, most: float) -> bool:
    try:
        return float(text) <= most
    except ValueError:
        return False
