"""Entries and balances that a decision writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final
from uuid import UUID

from ledger.canonical import canonical, canonical_plain, digest
from ledger.core.amounts import ZERO, Amount
from ledger.core.books import Books
from ledger.core.datasets import Account, AccountKey, Dataset
from ledger.core.entries import Draft
from ledger.core.people import Actor, Proposal
from ledger.core.residual import NO_TRAIL, Item, Trail
from ledger.core.runs import Run

NO_TEXTS: Final[Mapping[str, str]] = {}
HOUR_US: Final = 3_600 * 1_000_000
Drafts = tuple[Draft, ...]
"""The entries that a command leaves: one in the journal of each dataset that it touches."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """The command was carried out before; the answer is the entries of this kind that the run already has.

    proposal: the command was proposed before, and this is the answer; no entry is looked up.
    """

    run_id: UUID
    kind: str
    body: Mapping[str, Any]
    proposal: Proposal | None = None


@dataclass(frozen=True, slots=True)
class Posting:
    """The new dataset, the accounts that a command changes there, and the facts of its entry only."""

    dataset: Dataset
    accounts: Sequence[Account] = ()
    own: Mapping[str, Any] = field(default_factory=dict)


def write(
    books: Books,
    postings: Sequence[Posting],
    actor: Actor,
    kind: str,
    facts: Mapping[str, Any],
    run: Run | None = None,
    texts: Mapping[str, str] = NO_TEXTS,
) -> Drafts:
    """Put the new rows into the books and draft their entries. The one place where `seq` moves.

    The first of the entries has the `request` among the facts; the others have its place and its digest. texts: the
    canonical JSON of some of the facts, if that was made before.
    """
    changed = [[_checked(account) for account in posting.accounts] for posting in postings]
    drafts: list[Draft] = []
    elsewhere = _elsewhere(postings, facts, texts) if len(postings) > 1 and "request" in facts else facts
    actor_facts = actor.facts()
    for posting, accounts in zip(postings, changed, strict=True):
        dataset = posting.dataset.advanced()
        books.datasets[dataset.id] = dataset
        for account in accounts:
            books.accounts[account.key] = account
        balances = _balances(books, dataset, accounts)
        draft = Draft(
            dataset_id=dataset.id,
            dataset=dataset.definition.name,
            seq=dataset.seq,
            kind=kind,
            actor=actor_facts,
            facts={**(elsewhere if drafts else facts), **posting.own, **balances},
            run_id=None if run is None else run.id,
            texts={**texts, **{name: canonical_plain(balance) for name, balance in balances.items()}},
        )
        drafts.append(draft)
    if run is not None:
        books.runs[run.id] = run
    return tuple(drafts)


def frozen(posting: Posting) -> Posting:
    """Freeze the dataset for a steward: what is recorded late did not fit, or entries were lost."""
    state = posting.dataset.state if posting.dataset.state == "retired" else "frozen"
    return Posting(replace(posting.dataset, state=state), posting.accounts, {**posting.own, "state": state})


def _elsewhere(postings: Sequence[Posting], facts: Mapping[str, Any], texts: Mapping[str, str]) -> dict[str, Any]:
    """Return what replaces the request in the entries that do not have it."""
    first = postings[0].dataset
    place = {"id": str(first.id), "dataset": first.definition.name, "seq": first.seq + 1}
    rest = {name: value for name, value in facts.items() if name != "request"}
    request = texts.get("request") or canonical(facts["request"])
    return {**rest, "request_in": place, "request_sha256": digest(request).hex()}


def _balances(books: Books, dataset: Dataset, accounts: Sequence[Account]) -> dict[str, Any]:
    """Return the balances in an entry: `balance`, of the dataset's own account, and `accounts`, of the others that it
    touches, grouped if equal, so that a thousand partitions with one balance are a list of names."""
    others = [account for account in accounts if not account.key.is_whole]
    own = books.accounts.get(AccountKey(dataset.id))
    facts: dict[str, Any] = {} if own is None else {"balance": own.facts()}
    groups: dict[Account, list[str]] = {}
    for account in others:
        trail = Trail((Item(0, account.slack),)) if account.slack is not None else NO_TRAIL
        alike = replace(account, key=account.key._replace(partition=None), trail=trail)
        groups.setdefault(alike, []).extend([account.key.partition] if account.key.partition is not None else [])
    if groups:
        facts["accounts"] = [
            {
                **({"partitions": sorted(names)} if names else {}),
                **alike.key.facts(),
                **alike.facts(),
            }
            for alike, names in groups.items()
        ]
    return facts


def beyond(account: Account) -> Amount:
    """Return how much more is spent and held than the limit, or how much mu² is missing behind an entry that was
    costed beside what was left."""
    sums = (account.spent + account.held - account.limit).most(ZERO)
    least = account.trail.least
    if least is None:
        return sums
    missing = account.trail.highest - account.limit.mu_sq_pico - least
    return Amount(max(sums.mu_sq_pico, min(missing, account.spent.mu_sq_pico)), sums.delta_atto)


def eased(account: Account) -> Account:
    """Return an account that counts as overdrawn only by as much as it still is."""
    if account.overdrawn == ZERO:
        return account
    return replace(account, overdrawn=account.overdrawn.least(beyond(account)))


def _checked(account: Account) -> Account:
    """Check the invariant before anything is written; the database has it as a constraint too."""
    account = eased(account)
    parts = (account.limit, account.spent, account.held, account.overdrawn)
    if not all(part.fits_int64 for part in parts):
        raise ArithmeticError(f"an amount is negative or past 2^63 - 1: {account}")
    if not (account.spent + account.held).is_within(account.limit + account.overdrawn):
        raise ArithmeticError(f"more spent and held than the limit allows: {account}")
    return account
