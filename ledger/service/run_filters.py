"""What a list of runs is filtered by."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from ledger.core.entries import Entry
from ledger.core.runs import RunStateShown
from ledger.errors import InvalidRequest

LABELS_MAX: Final = 8
_DECISIONS: Final = ("run-approved", "run-refused", "run-entered")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Each part that is given must hold.

    labels: each a name with its value, or with None for any value. purpose: a part of the text, in any case. person: a
    principal's id, or the name that it had when it asked. until_us: that moment is no longer in it. key: the
    caller's own idempotency key, without other filters.
    """

    dataset: str | None = None
    state: RunStateShown | None = None
    project: str | None = None
    is_overdue: bool | None = None
    labels: tuple[tuple[str, str | None], ...] = ()
    purpose: str | None = None
    person: str | None = None
    mechanism: str | None = None
    since_us: int | None = None
    until_us: int | None = None
    key: str | None = None

    @property
    def principal(self) -> UUID | None:
        """Return the principal, if the person is named by its id."""
        try:
            return None if self.person is None else UUID(self.person)
        except ValueError:
            return None

    @property
    def reads_texts(self) -> bool:
        """Return whether requests must be read to decide."""
        by_name = self.person is not None and self.principal is None
        return by_name or bool(self.labels) or self.purpose is not None or self.mechanism is not None

    def holds(self, entries: Sequence[Entry]) -> bool:
        """Return whether the entries of a run satisfy what rows do not decide."""
        if not self.reads_texts:
            return True
        # Texts are all that is read here, so numbers need not be exact: that takes a tenth of the time.
        decision = json.loads(next(entry.body for entry in entries if entry.kind in _DECISIONS))
        return self.holds_request(decision["actor"]["name"], decision["request"])

    def holds_request(self, name: str, request: Mapping[str, Any]) -> bool:
        """Return whether a request satisfies what rows do not decide. name: of the person who asked."""
        labels, purpose = request.get("labels") or {}, request.get("purpose") or ""
        return (
            (self.person is None or self.principal is not None or name == self.person)
            and (self.purpose is None or self.purpose.casefold() in purpose.casefold())
            and (self.mechanism is None or request["mechanism"].get("type") == self.mechanism)
            and all(name in labels and value in (None, labels[name]) for name, value in self.labels)
        )


def labels_of(stated: Sequence[str]) -> tuple[tuple[str, str | None], ...]:
    """Parse labels: NAME=VALUE, or NAME for any value. Raises InvalidRequest."""
    labels = []
    for text in stated:
        name, equals, value = text.partition("=")
        if not name:
            raise InvalidRequest(f"label: {text!r} has no name. Write NAME=VALUE, or NAME.", field="label")
        labels.append((name, value if equals else None))
    return tuple(labels)
