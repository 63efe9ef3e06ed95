"""Receipts: a decision as a signed statement, which a training cluster verifies without a server.

The contents of a receipt are a function of journal entries. So the same receipt can be made again at any time, and an
auditor finds each of its facts in the journal. It names the entry in each dataset's journal by number and hash: who
has a receipt can prove that the journal no longer contains that entry. Only a renewed receipt has a later `begin_by`
than the entry.

The entry of an approval makes a receipt in state `held`, the entry of a start one in state `started`. The requester can
still void an approval, so only `started` allows a job to train.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from ledger.canonical import canonical, canonical_plain, digest
from ledger.core.amounts import microseconds, timestamp
from ledger.core.entries import Entry, Record
from ledger.core.journal import chain
from ledger.core.runs import BEGIN_WITHIN_US
from ledger.signer.keyfile import Signer
from ledger.verifier.jws import RECEIPT

VERSION: Final = 2
TENANTS_KNOWN_MAX: Final = 10_000
RANGE_LEAST: Final = 3
"""At least this many consecutive names are written as a range."""
_STATES: Final = {"run-approved": ("held", "start_by"), "run-started": ("started", "settle_by")}
_NUMBERED: Final = re.compile(r"(.*?)([0-9]{1,9})")


class ParsedEntry(dict[str, Any]):
    """A parsed entry with its hash, because computing the hash again takes as long as signing."""

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
    """Return the payload of a run's receipt.

    decisions: the entries that approved it, one from each dataset's journal. entries: those, or the ones that started
    it, in the order of the datasets in the receipt. tenant: its name. until: the latest time at which a job may begin,
    if the receipt is renewed. An approval without a recorded `begin_by` keeps a receipt of version 1, which permits no
    job to begin. Raises ValueError for entries of another kind.
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
    """Return the latest time at which a job may begin, as the entry recorded it. Older entries do not record it."""
    if "begin_by" in entry:
        return str(entry["begin_by"])
    at_us = microseconds(datetime.fromisoformat(entry["at"]))
    return renewed(entry, timestamp(at_us + BEGIN_WITHIN_US))


def renewed(entry: Record, until: str) -> str:
    """Return the same for a renewed receipt, which is never valid for longer than the approval or the start."""
    # The order of these times as text is their order in time.
    return min(until, str(entry[_STATES[entry["kind"]][1]]))


def _position(entry: Record, partitions: Sequence[Any] | None) -> dict[str, Any]:
    """Return the number and hash of the entry."""
    return {
        "name": entry["dataset"],
        "id": entry["dataset_id"],
        **({} if partitions is None else {"partitions": partitions}),
        "seq": entry["seq"],
        "hash": chain.hash_of(entry),
    }


def _requested(decision: Record) -> list[str] | None:
    """Return what version 1 lists: the requested partitions, and none if the whole dataset was requested."""
    requested = {
        use if isinstance(use, str) else use["name"]: None if isinstance(use, str) else use.get("partitions")
        for use in decision["request"]["datasets"]
    }
    if not (_charged(decision) or decision["dataset"] in requested):
        return None
    names = [requested[name] for name in _via(decision)]
    return None if None in names else sorted({partition for listed in names for partition in listed or ()})


def _partitions(decision: Record, decisions: Iterable[Record]) -> list[str | list[str]] | None:
    """Return the charged partitions of a dataset: its own or, if it has none, those that were charged in every dataset
    that it is derived from. None if none of these has partitions."""
    if own := _charged(decision):
        return compact(own)
    via = _via(decision)
    origins = [charged for other in decisions if via & _via(other) and (charged := _charged(other))]
    return compact(set.intersection(*origins)) if origins else None


def _charged(decision: Record) -> set[str]:
    """Return the partitions whose accounts an approval charged in one dataset."""
    return {partition for group in decision.get("accounts", ()) for partition in group.get("partitions", ())}


def _via(decision: Record) -> set[str]:
    return set(decision.get("via", [decision["dataset"]]))


def compact(names: Iterable[str]) -> list[str | list[str]]:
    """Return names in order; three or more consecutive ones as a range: `["2026-01", "2026-12"]`.

    A range is a prefix with all numbers of the same width from the first to the last. So a reader need not know which
    partitions exist.
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
    """Return the name with the next number of the same width."""
    numbered = _NUMBERED.fullmatch(name)
    if numbered is None:
        return None
    prefix, digits = numbered.groups()
    number = str(int(digits) + 1).zfill(len(digits))
    return prefix + number if len(number) == len(digits) else None


class Receipts:
    """Sign the decisions about runs.

    name_of: returns a tenant's name. It is called once for each tenant, because names never change.
    """

    def __init__(self, signer: Signer, name_of: Callable[[UUID], str]) -> None:
        self._signer, self._name_of = signer, name_of
        self._names: dict[UUID, str] = {}
        self._lock = threading.Lock()

    def knows(self, tenant_id: UUID) -> bool:
        """Return whether signing for this tenant needs no query."""
        return tenant_id in self._names

    def sign(
        self, decisions: Sequence[Record], entries: Sequence[Record], *, tenant_id: UUID, until: str | None = None
    ) -> str:
        """Return the receipt as a compact JWS. Signing takes microseconds; it is never done in a transaction."""
        claims = payload(decisions, entries, tenant=self._name(tenant_id), until=until)
        # All of it was in entries, and so was canonical before; no number in it has a fraction.
        return self._signer.sign(canonical_plain(claims), RECEIPT)

    def _name(self, tenant_id: UUID) -> str:
        name = self._names.get(tenant_id)
        if name is None:
            name = self._name_of(tenant_id)
            with self._lock:
                if len(self._names) >= TENANTS_KNOWN_MAX:
                    self._names.clear()
                self._names[tenant_id] = name
        return name
