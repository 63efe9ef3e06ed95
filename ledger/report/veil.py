"""Hide from a key that is limited to datasets what a request of several datasets contained.

The report still shows what such a run did to a dataset that the key may read: mechanism, cost, balances, steps, times.
It hides the rest of the request (purpose, code, idempotency key, evidence, names of the files that it produced), which
concerns the other datasets too. The same holds while a run waits for a steward, and if nobody approves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

_KEPT: Final = (
    "mechanism",
    "segments",
    "delta",
    "project",
    "valid_for",
    "steps",
    "stop",
    "restarts",
    "decided_by_output",
)
_NAMES: Final = ("via", "binding_elsewhere", "frozen")
_NAMES_OF_OVERRUN: Final = ("frozen", "beyond_limits")


class Veil:
    """Hide parts of the entries of one journal, oldest first. seen: the datasets that the key may read; None: all."""

    def __init__(self, seen: Sequence[str] | None) -> None:
        self._seen = None if seen is None else frozenset(seen)
        self._covered: set[str] = set()
        """The runs whose requests are hidden, and proposals about them."""

    def over(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return the entry as the key may see it."""
        if self._seen is None:
            return entry
        run = str(entry.get("run", entry.get("about_run")))
        asked = _asked(entry)
        if asked is not None and not self._names_seen(asked, self._seen):
            self._covered.add(run)
        # An entry that refuses a proposal has only its id.
        answered = entry["proposal"] if entry["kind"] == "proposal-refused" else None
        if run not in self._covered and answered not in self._covered:
            return entry
        if entry["kind"] == "change-proposed":
            self._covered.add(entry["proposal"])
        return _cover(entry, self._seen)

    @staticmethod
    def _names_seen(asked: Mapping[str, Any], seen: frozenset[str]) -> bool:
        uses = asked.get("request", {}).get("datasets")
        return uses is not None and seen.issuperset(use if isinstance(use, str) else use["name"] for use in uses)


def _asked(entry: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what has a run's request: the entry that decides the run, or what an entry proposes if the run waits for a
    steward; None for any other entry."""
    if entry["kind"] == "change-proposed" and entry["what"] == "run":
        return entry["proposes"]  # type: ignore[no-any-return]
    return entry if entry["kind"] in ("run-approved", "run-refused", "run-entered") else None


def _cover(entry: dict[str, Any], seen: frozenset[str]) -> dict[str, Any]:
    covered = {name: value for name, value in entry.items() if name != "request_in"}
    if "request" in covered:
        covered["request"] = _kept(covered["request"])
    if "proposes" in covered:
        covered["proposes"] = {name: _kept(value) for name, value in covered["proposes"].items() if name == "request"}
    if "models" in covered:
        covered["models"] = [{**model, "name": ""} for model in covered["models"]]
    covered |= {name: "" for name in ("reason", "idempotency_key") if name in covered}
    covered |= {name: [one for one in covered[name] if one in seen] for name in _NAMES if name in covered}
    if isinstance(covered.get("proposal"), Mapping):
        covered["proposal"] = {**covered["proposal"], "reason": ""}
    if "overrun" in covered:
        overrun = covered["overrun"]
        names = {name: [one for one in overrun[name] if one in seen] for name in _NAMES_OF_OVERRUN if name in overrun}
        covered["overrun"] = {**overrun, **names}
    return covered


def _kept(request: Mapping[str, Any]) -> dict[str, Any]:
    return {name: request[name] for name in _KEPT if name in request}
