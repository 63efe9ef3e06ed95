"""The hash chain of a journal.

A dataset's journal is a list of entries numbered 1, 2, 3, … without gaps. An entry is one JSON object in canonical form
(`ledger.canonical`); its hash is the SHA-256 of those bytes, and it names the hash of the entry before it in `prev` (64
zeros in the first). Anyone who has the bytes can check all of this with a JSON parser and SHA-256.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from ledger.canonical import canonical as canonical
from ledger.canonical import canonical_with, parse_canonical
from ledger.canonical import digest as digest
from ledger.canonical import parse as parse
from ledger.core.amounts import Amount, integer, microseconds, timestamp
from ledger.core.datasets import Account, AccountKey
from ledger.core.entries import (
    NO_HASH,
    Draft,
    Entry,
    Sealed,
    TenantEntry,
)
from ledger.core.residual import NO_TRAIL, Item, Trail
from ledger.errors import JournalBroken

VERSION: Final = 5
"""The version of an entry. Version 1 had one account for each dataset; since version 3 the times of a journal never go
back; since version 4 only one of a run's journals has its request; since version 5 a run may be costed beside what is
left. Older entries keep their meaning."""
VERSIONS: Final = frozenset({1, 2, 3, 4, VERSION})
MONOTONE_SINCE: Final = 3
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z")


# --- the chain -------------------------------------------------------------------------------------------------------


def seal(draft: Draft, *, tenant_id: UUID, prev: bytes, at_us: int) -> Entry:
    """Tie a draft to the entry whose hash is `prev`."""
    record = {
        **draft.facts,
        "v": VERSION,
        "tenant": str(tenant_id),
        "dataset": draft.dataset,
        "dataset_id": str(draft.dataset_id),
        "seq": draft.seq,
        "at": timestamp(at_us),
        "prev": prev.hex(),
        "kind": draft.kind,
        "actor": draft.actor,
    }
    if draft.run_id is not None:
        record["run"] = str(draft.run_id)
    body = canonical_with(record, draft.texts)
    return Entry(draft.dataset_id, draft.seq, draft.kind, at_us, draft.run_id, body, digest(body), record=record)


def seal_of_tenant(
    kind: str,
    actor: Mapping[str, Any],
    facts: Mapping[str, Any],
    *,
    tenant_id: UUID,
    seq: int,
    prev: bytes,
    at_us: int,
) -> TenantEntry:
    """Tie an entry of a tenant's own journal to the one whose hash is `prev`."""
    about = {"v": VERSION, "tenant": str(tenant_id), "seq": seq, "at": timestamp(at_us), "prev": prev.hex()}
    body = canonical({**facts, **about, "kind": kind, "actor": actor})
    return TenantEntry(seq, kind, at_us, body, digest(body))


# --- balances in entries ---------------------------------------------------------------------------------------------


def hash_of(entry: Mapping[str, Any]) -> str:
    """Return the hash of a parsed entry, in hexadecimal: the known one, or computed again from its canonical bytes."""
    known = getattr(entry, "hash", None)
    return known if isinstance(known, str) else digest(canonical(entry)).hex()


def accounts_of(entry: Mapping[str, Any]) -> dict[AccountKey, Account]:
    """Return the accounts whose balances an entry states: the dataset's own, and the others that it touches.

    Raises ValueError if it has an account twice.
    """
    dataset_id = UUID(entry["dataset_id"])
    accounts: dict[AccountKey, Account] = {}
    if "balance" in entry:
        accounts[AccountKey(dataset_id)] = _account(AccountKey(dataset_id), entry["balance"])
    for group in entry.get("accounts", ()):
        principal = UUID(group["principal"]) if "principal" in group else None
        for partition in group.get("partitions", (None,)):
            key = AccountKey(dataset_id, partition, group.get("project"), principal)
            if key in accounts:
                raise ValueError(f"names the balance of {key.facts()} twice")
            accounts[key] = _account(key, group)
    return accounts


def _account(key: AccountKey, facts: Mapping[str, Any]) -> Account:
    limit, spent, held, overdrawn = (Amount.from_facts(facts[part]) for part in ("limit", "spent", "held", "overdrawn"))
    trail = Trail((Item(0, integer(facts["slack"])),)) if "slack" in facts else NO_TRAIL
    return Account(key, limit, spent, held, overdrawn, trail)


# --- replay ----------------------------------------------------------------------------------------------------------

Demand = Callable[[bool, str], None]
Read = Callable[[int, Sealed], dict[str, Any]]
"""Checks an entry by its number, and returns it."""


def check_all(read: Read, entries: Iterable[Sealed | tuple[str, bytes]]) -> None:
    """Read all entries for their checks alone. Raises JournalBroken."""
    for _ in read_entries(read, entries):
        pass


def read_entries(read: Read, entries: Iterable[Sealed | tuple[str, bytes]]) -> Iterator[dict[str, Any]]:
    """Yield each entry once `read` has checked it. Raises JournalBroken with the first wrong `seq`."""
    for seq, sealed in enumerate(entries, start=1):
        try:
            entry = read(seq, Sealed(*sealed))
        except JournalBroken:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise JournalBroken(f"cannot be read: {error!r}", seq=seq) from error
        yield entry


class Chain:
    """What every journal must satisfy: bytes, form, numbers, each entry tied to the one before."""

    def __init__(self, tenant_id: UUID) -> None:
        self.tenant_id = tenant_id
        self.seq, self.head = 0, NO_HASH
        self.version, self.at = min(VERSIONS), ""
        self.backwards: int | None = None

    def follow(self, seq: int, sealed: Sealed) -> tuple[dict[str, Any], Demand]:
        """Return the parsed entry, and the check for the rest of it. Raises JournalBroken."""

        def demand(holds: bool, what: str) -> None:
            if not holds:
                raise JournalBroken(what, seq=seq)

        demand(digest(sealed.body) == sealed.hash, "its bytes do not match its hash")
        entry: dict[str, Any] = parse_canonical(sealed.body)
        version = entry["v"]
        demand(type(version) is int and version in VERSIONS, f"has an unknown format version, {version}")
        demand(version >= self.version, f"has format version {version}, after an entry of version {self.version}")
        demand(type(entry["seq"]) is int and entry["seq"] == seq, f"has the number {entry['seq']}")
        demand(entry["prev"] == self.head.hex(), "does not follow the entry before it")
        demand(entry["tenant"] == str(self.tenant_id), "belongs to another tenant")
        demand(is_time(entry["at"]), "has a time in a form that no ledger writes")
        # Times are written so that text order is time order.
        demand(version < MONOTONE_SINCE or entry["at"] >= self.at, "is older than the entry before it")
        if self.backwards is None and entry["at"] < self.at:
            self.backwards = seq
        self.seq, self.head, self.version, self.at = seq, sealed.hash, version, entry["at"]
        return entry, demand


def is_time(text: object) -> bool:
    """Return whether that is a time as `timestamp` writes it, on a day that exists."""
    if not isinstance(text, str) or _TIME.fullmatch(text) is None:
        return False
    try:
        return timestamp(microseconds(datetime.fromisoformat(text))) == text
    except ValueError:
        return False
