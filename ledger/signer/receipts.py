"""Receipts: a decision as a signed statement, which a training cluster checks with no server.

What a receipt says is a function of the journal entries that it is about, so that the same receipt can be made again at
any time, and an auditor finds each of its facts in the journal. It names the entry in each dataset's journal by its
number and its hash: whoever holds a receipt can show that a journal no longer contains what it once said. Only the
receipt that is renewed has a later `begin_by` than the entry.

The entry of an approval makes a receipt in state `held`, the entry of a start one in state `started`. An approval can
still be voided by whoever asked for it, so that only `started` lets a job train.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from ledger.canonical import canonical, digest
from ledger.core.amounts import microseconds, timestamp
from ledger.core.entries import Entry, Record
from ledger.core.journal import chain
from ledger.core.runs import BEGIN_WITHIN_US
from ledger.signer.keyfile import Signer
from ledger.verifier.jws import RECEIPT

VERSION: Final = 2
TENANTS_KNOWN_MAX: Final = 10_000
RANGE_LEAST: Final = 3
"""As many consecutive names as this are given as a range."""
_STATES: Final = {"run-approved": ("held", "start_by"), "run-started": ("started", "settle_by")}
_NUMBERED: Final = re.compile(r"(.*?)([0-9]{1,9})")


class ParsedEntry(dict[str, Any]):
    """An entry as it is parsed, with the hash that it was sealed by beside it, since making that anew takes as long as
    signing does."""

    __slots__ = ("hash",)
    hash: str

    @classmethod
    def parse(cls, entry: Entry) -> ParsedEntry:
        parsed = cls(chain.parse(entry.body) if entry.record is None else entry.record)
        parsed.hash = entry.hash.hex()
        return parsed


def payload(
    decisions: Sequence[Record], entries: Sequence[Record], *, tenant: str, until: str | None = None
) -> dict[str, Any]:
    """What the receipt of a run says.

    decisions: the entries that approved it, one of each dataset's journal; entries: those, or the ones that started it,
    in the order in which datasets are to be named. tenant: its name. until: when a job may begin at the latest, if that
    was renewed. An approval that records no `begin_by` keeps the receipt of version 1 that it was answered with, which
    lets nothing begin. Raises ValueError for entries of another kind.
    """
    decision, first = decisions[0], entries[0]
    if first["kind"] not in _STATES or decision["kind"] != "run-approved":
        raise ValueError(f"no receipt is made of {first['kind']}")
    state, due = _STATES[first["kind"]]
    is_first_version = state == "held" and until is None and "begin_by" not in first
    mechanism = decision["request"]["mechanism"]
    by_dataset = {entry["dataset"]: entry for entry in decisions}
    return {
        "v": 1 if is_first_version else VERSION,
        "type": "receipt",
        "tenant": {"id": first["tenant"], "name": tenant},
        "run": first["run"],
        "state": state,
        "decision": "approved",
        "at": first["at"],
        **(
            {"valid_until": first[due]} if is_first_version else {"begin_by": until or begin_by(first), due: first[due]}
        ),
        **({"project": decision["project"]} if "project" in decision else {}),
        "mechanism": {"type": mechanism["type"], "digest": digest(canonical(mechanism)).hex()},
        "cost": decision["cost"],
        "datasets": [
            _position(entry, _requested(decision) if is_first_version else _partitions(decision, decisions))
            for entry in entries
            for decision in [by_dataset[entry["dataset"]]]
        ],
    }


def begin_by(entry: Record) -> str:
    """When a job may begin at the latest, as an approval or a start recorded it. Older entries do not record it."""
    if "begin_by" in entry:
        return str(entry["begin_by"])
    at_us = microseconds(datetime.fromisoformat(entry["at"]))
    return renewed(entry, timestamp(at_us + BEGIN_WITHIN_US))


def renewed(entry: Record, until: str) -> str:
    """The same of a receipt that is given anew, which is never good for longer than the approval or the start."""
    # Times are written so that their order as text is their order in time.
    return min(until, str(entry[_STATES[entry["kind"]][1]]))


def _position(entry: Record, partitions: Sequence[Any] | None) -> dict[str, Any]:
    """Where in a dataset's journal the entry stands. Its bytes are canonical, so that its hash can be had again."""
    return {
        "name": entry["dataset"],
        "id": entry["dataset_id"],
        **({} if partitions is None else {"partitions": partitions}),
        "seq": entry["seq"],
        "hash": entry.hash if isinstance(entry, ParsedEntry) else digest(canonical(entry)).hex(),
    }


def _requested(decision: Record) -> list[str] | None:
    """What version 1 lists: the partitions that were requested, and none if all of the dataset was."""
    requested = {
        use if isinstance(use, str) else use["name"]: None if isinstance(use, str) else use.get("partitions")
        for use in decision["request"]["datasets"]
    }
    if not (_charged(decision) or decision["dataset"] in requested):
        return None
    names = [requested[name] for name in _via(decision)]
    return None if None in names else sorted({partition for listed in names for partition in listed or ()})


def _partitions(decision: Record, decisions: Iterable[Record]) -> list[str | list[str]] | None:
    """The partitions of a dataset that were charged: its own or, if it has none, those that were charged in every
    dataset that it comes from. None if nothing of that has partitions."""
    if own := _charged(decision):
        return compact(own)
    via = _via(decision)
    origins = [charged for other in decisions if via & _via(other) and (charged := _charged(other))]
    return compact(set.intersection(*origins)) if origins else None


def _charged(decision: Record) -> set[str]:
    """The partitions whose accounts an approval charged in one dataset."""
    return {partition for group in decision.get("accounts", ()) for partition in group.get("partitions", ())}


def _via(decision: Record) -> set[str]:
    return set(decision.get("via", [decision["dataset"]]))


def compact(names: Iterable[str]) -> list[str | list[str]]:
    """Names in order, three or more that only count up as their first and last: `["2026-01", "2026-12"]`.

    A range is one prefix and all numbers of so many digits from the first to the last, so that it means the same to
    whoever does not know which partitions there are.
    """
    runs: list[list[str]] = []
    for name in sorted(names):
        if runs and name == _next(runs[-1][-1]):
            runs[-1].append(name)
        else:
            runs.append([name])
    items: list[str | list[str]] = []
    for run in runs:
        items.extend([[run[0], run[-1]]] if len(run) >= RANGE_LEAST else run)
    return items


def _next(name: str) -> str | None:
    """The name with the next number of as many digits."""
    numbered = _NUMBERED.fullmatch(name)
    if numbered is None:
        return None
    prefix, digits = numbered.groups()
    number = str(int(digits) + 1).zfill(len(digits))
    return prefix + number if len(number) == len(digits) else None


class Receipts:
    """Signs what became of runs.

    name_of: a tenant's name, looked up once for each tenant, since it never changes.
    """

    def __init__(self, signer: Signer, name_of: Callable[[UUID], str]) -> None:
        self._signer, self._name_of = signer, name_of
        self._names: dict[UUID, str] = {}
        self._lock = threading.Lock()

    def knows(self, tenant_id: UUID) -> bool:
        """Whether signing for this tenant takes no look into the database."""
        return tenant_id in self._names

    def sign(
        self, decisions: Sequence[Record], entries: Sequence[Record], *, tenant_id: UUID, until: str | None = None
    ) -> str:
        """The receipt, as a compact JWS. Signing takes microseconds; it is never done in a transaction."""
        claims = payload(decisions, entries, tenant=self._name(tenant_id), until=until)
        return self._signer.sign(canonical(claims), RECEIPT)

    def _name(self, tenant_id: UUID) -> str:
        name = self._names.get(tenant_id)
        if name is None:
            name = self._name_of(tenant_id)
            with self._lock:
                if len(self._names) >= TENANTS_KNOWN_MAX:
                    self._names.clear()
                self._names[tenant_id] = name
        return name
