"""Receipts: a decision as a signed statement, which a training cluster checks with no server.

What a receipt says is a function of the journal entries that it is about, so that the same receipt can be made again at
any time, and an auditor finds each of its facts in the journal. It names the entry in each dataset's journal by its
number and its hash: whoever holds a receipt can show that a journal no longer contains what it once said.

The entry of an approval makes a receipt in state `held`, the entry of a start one in state `started`. An approval can
still be voided by whoever asked for it, so that only `started` lets a job train.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from ledger.canonical import canonical, digest
from ledger.core.entries import Entry
from ledger.core.journal import chain
from ledger.signer.keyfile import Signer
from ledger.verifier.jws import RECEIPT

Facts = Mapping[str, Any]
"""What an entry says, parsed."""

VERSION: Final = 1
TENANTS_KNOWN_MAX: Final = 10_000
_STATES: Final = {"run-approved": ("held", "start_by"), "run-started": ("started", "settle_by")}


class ParsedEntry(dict[str, Any]):
    """An entry as it is parsed, with the hash that it was sealed by beside it, since making that anew takes as long as
    signing does."""

    __slots__ = ("hash",)
    hash: str

    @classmethod
    def of(cls, entry: Entry) -> ParsedEntry:
        sealed = cls(chain.parse(entry.body))
        sealed.hash = entry.hash.hex()
        return sealed


def payload(decisions: Sequence[Facts], entries: Sequence[Facts], *, tenant: str) -> dict[str, Any]:
    """What the receipt of a run says.

    decisions: the entries that approved it, one of each dataset's journal; entries: those, or the ones that started it,
    in the order in which datasets are to be named. tenant: its name. Raises ValueError for entries of another kind.
    """
    decision, first = decisions[0], entries[0]
    if first["kind"] not in _STATES or decision["kind"] != "run-approved":
        raise ValueError(f"no receipt is made of {first['kind']}")
    state, until = _STATES[first["kind"]]
    mechanism = decision["request"]["mechanism"]
    by_dataset = {entry["dataset"]: entry for entry in decisions}
    return {
        "v": VERSION,
        "type": "receipt",
        "tenant": {"id": first["tenant"], "name": tenant},
        "run": first["run"],
        "state": state,
        "decision": "approved",
        "at": first["at"],
        "valid_until": first[until],
        **({"project": decision["project"]} if "project" in decision else {}),
        "mechanism": {"type": mechanism["type"], "digest": digest(canonical(mechanism)).hex()},
        "cost": decision["cost"],
        "datasets": [_dataset_entry(by_dataset[entry["dataset"]], entry) for entry in entries],
    }


def _dataset_entry(decision: Facts, entry: Facts) -> dict[str, Any]:
    """Where in a dataset's journal the entry stands. Its bytes are canonical, so that its hash can be had again."""
    partitions = _partitions(decision)
    return {
        "name": entry["dataset"],
        "id": entry["dataset_id"],
        **({} if partitions is None else {"partitions": partitions}),
        "seq": entry["seq"],
        "hash": entry.hash if isinstance(entry, ParsedEntry) else digest(canonical(entry)).hex(),
    }


def _partitions(decision: Facts) -> list[str] | None:
    """The partitions that a run is limited to in this dataset; None where it has all of it."""
    named = {
        use if isinstance(use, str) else use["name"]: None if isinstance(use, str) else use.get("partitions")
        for use in decision["request"]["datasets"]
    }
    stated = [named[name] for name in decision.get("via", [decision["dataset"]])]
    is_in_parts = any(key.partition is not None for key in chain.accounts_of(decision))
    if not (is_in_parts or decision["dataset"] in named):
        return None
    partitions: set[str] = set()
    for names in stated:
        if names is None:
            return None
        partitions.update(names)
    return sorted(partitions)


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

    def sign(self, decisions: Sequence[Facts], entries: Sequence[Facts], *, tenant_id: UUID) -> str:
        """The receipt, as a compact JWS. Signing takes microseconds; it is never done in a transaction."""
        statement = payload(decisions, entries, tenant=self._name(tenant_id))
        return self._signer.sign(canonical(statement), RECEIPT)

    def _name(self, tenant_id: UUID) -> str:
        name = self._names.get(tenant_id)
        if name is None:
            name = self._name_of(tenant_id)
            with self._lock:
                if len(self._names) >= TENANTS_KNOWN_MAX:
                    self._names.clear()
                self._names[tenant_id] = name
        return name
