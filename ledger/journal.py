"""The journal: canonical bytes, the hash chain, and replay.

A dataset's journal is a list of entries numbered 1, 2, 3, … without gaps. An entry is one JSON object in canonical form
(below); its hash is the SHA-256 of those bytes, and it names the hash of the entry before it in `prev` (64 zeros in the
first). Whoever has the bytes can check all of it with a JSON parser and SHA-256.

Canonical form, version 1: UTF-8; object members sorted by name in code point order, no member twice, no white space;
strings escaped only where JSON demands it (`"`, `\\`, and control characters: \\b \\t \\n \\f \\r, others as \\u00xx);
numbers as their exact decimal value in positional notation, without an exponent, a plus sign, leading or trailing
zeros. The same value therefore always gives the same bytes, and a number keeps every digit that was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from ledger.errors import JournalBroken
from ledger.model import NO_HASH, ZERO, Account, Amount, Draft, Entry, timestamp

VERSION: Final = 1
_quote: Final[Callable[[str], str]] = json.encoder.encode_basestring


# --- canonical bytes -------------------------------------------------------------------------------------------------


def canonical(value: Any) -> str:
    """The canonical JSON text of `value`, made of None, bool, int, Decimal, str, lists (or tuples) and mappings.

    Raises TypeError on anything else: a float has no place in a record, since its digits are not what was written.
    """
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return _quote(value)
        case int():
            return str(value)
        case Decimal():
            return _positional(value)
        case list() | tuple():
            return "[" + ",".join(map(canonical, value)) + "]"
        case Mapping():
            return "{" + ",".join(f"{_quote(key)}:{canonical(value[key])}" for key in sorted(value)) + "}"
        case _:
            raise TypeError(f"{type(value).__name__} has no canonical form")


def _positional(number: Decimal) -> str:
    if not number.is_finite():
        raise TypeError("only finite numbers have a canonical form")
    text = f"{number:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def parse(text: str) -> Any:
    """What `canonical` wrote, with every number that is not an integer as an exact Decimal."""
    return json.loads(text, parse_float=Decimal)


def digest(text: str) -> bytes:
    """SHA-256 of the text's UTF-8 bytes: 32 bytes."""
    return hashlib.sha256(text.encode()).digest()


# --- the chain -------------------------------------------------------------------------------------------------------


def seal(draft: Draft, *, tenant_id: UUID, prev: bytes, at_us: int) -> Entry:
    """Ties a draft to the entry whose hash is `prev`."""
    body = canonical(
        {
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
            **({"run": str(draft.run_id)} if draft.run_id is not None else {}),
        }
    )
    return Entry(draft.dataset_id, draft.seq, draft.kind, at_us, draft.run_id, body, digest(body))


# --- replay ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a journal adds up to: its newest number and hash, the balance, and every run's state and cost."""

    seq: int
    head: bytes
    account: Account | None
    state: str
    runs: Mapping[UUID, tuple[str, Amount]]


def replay(entries: Iterable[tuple[str, bytes]], *, tenant_id: UUID, dataset_id: UUID) -> Replayed:
    """Recomputes a dataset's balances from its entries, given oldest first as (canonical JSON, hash).

    Checks the bytes, the numbering, the chain, every approval against the limit, every refusal (it must really not have
    fitted), every transition of a run, and that each balance is the one before plus what the entry says. Shares no
    arithmetic with `ledger.decide`. Raises JournalBroken with the first `seq` that is wrong.
    """
    book = _Book(tenant_id, dataset_id)
    for seq, (body, stated) in enumerate(entries, start=1):
        try:
            book.read(seq, body, stated)
        except JournalBroken:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise JournalBroken(f"cannot be read: {error!r}", seq=seq) from error
    return Replayed(book.seq, book.head, book.account, book.state, book.runs)


class _Book:
    """A reader's own arithmetic over one journal."""

    def __init__(self, tenant_id: UUID, dataset_id: UUID) -> None:
        self.tenant_id, self.dataset_id = tenant_id, dataset_id
        self.seq, self.head, self.state = 0, NO_HASH, ""
        self.account: Account | None = None
        self.runs: dict[UUID, tuple[str, Amount]] = {}

    def read(self, seq: int, body: str, stated: bytes) -> None:
        def demand(holds: bool, what: str) -> None:
            if not holds:
                raise JournalBroken(what, seq=seq)

        demand(digest(body) == stated, "its bytes do not have its hash")
        entry = parse(body)
        demand(canonical(entry) == body, "its bytes are not in canonical form")
        demand(entry["v"] == VERSION, f"format version {entry['v']} is not known")
        demand(entry["seq"] == seq, f"is numbered {entry['seq']}")
        demand(entry["prev"] == self.head.hex(), "does not follow the entry before it")
        demand(entry["tenant"] == str(self.tenant_id), "belongs to another tenant")
        demand(entry["dataset_id"] == str(self.dataset_id), "belongs to another dataset")
        self.account = self._after(entry, demand)
        demand(entry["balance"] == self.account.facts(), "its balance is not what the entries add up to")
        if "state" in entry:
            self.state = entry["state"]
        self.seq, self.head = seq, stated

    def _after(self, entry: dict[str, Any], demand: Callable[[bool, str], None]) -> Account:
        kind = entry["kind"]
        demand(("run" in entry) == kind.startswith("run-"), "is not of the kind that it says")
        if kind == "dataset-registered":
            demand(self.account is None, "registers the dataset a second time")
            return Account(UUID(entry["account"]), self.dataset_id, limit=Amount.of(entry["limit"]))
        account = self.account
        if account is None:
            raise JournalBroken("comes before the dataset is registered", seq=entry["seq"])
        match kind:
            case "dataset-changed":
                return account
            case "budget-set":
                account = replace(account, limit=Amount.of(entry["limit"]))
            case "run-approved":
                demand(self.state == "active", "approves a run on a dataset that is not active")
                account = replace(account, held=account.held + self._new_run(entry, "held", demand))
            case "run-refused":
                cost = self._new_run(entry, "refused", demand)
                demand(bool(cost.exceeds(account.remaining)), "refuses a run that fits")
                return account
            case "run-started":
                demand(self.state == "active", "starts a run on a dataset that is not active")
                self._move_run(entry, ("held",), "started", demand)
                return account
            case "run-settled":
                cost = self._move_run(entry, ("started",), "settled", demand)
                charged = Amount.of(entry["charged"])
                demand(not charged.exceeds(cost) and not ZERO.exceeds(charged), "charges more than was approved")
                account = replace(account, held=account.held - cost, spent=account.spent + charged)
            case "run-voided":
                cost = self._move_run(entry, ("held", "started"), "voided", demand)
                account = replace(account, held=account.held - cost)
            case _:
                raise JournalBroken(f"is of the unknown kind {kind!r}", seq=entry["seq"])
        within = not (account.spent + account.held).exceeds(account.limit + account.overdrawn)
        demand(within, "leaves more spent and held than the limit allows")
        return account

    def _new_run(self, entry: dict[str, Any], state: str, demand: Callable[[bool, str], None]) -> Amount:
        run, cost = UUID(entry["run"]), Amount.of(entry["cost"])
        demand(run not in self.runs, "decides a run that was decided before")
        demand(not ZERO.exceeds(cost), "has a negative cost")
        self.runs[run] = (state, cost)
        return cost

    def _move_run(
        self, entry: dict[str, Any], came_from: tuple[str, ...], to: str, demand: Callable[[bool, str], None]
    ) -> Amount:
        run = UUID(entry["run"])
        demand(run in self.runs, "names a run that was never approved")
        state, cost = self.runs[run]
        demand(state in came_from, f"moves a run that is {state} to {to}")
        self.runs[run] = (to, cost)
        return cost
