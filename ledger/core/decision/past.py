"""Past runs: what was spent before there was a ledger, entered by a steward.

A past run was executed before everything that a journal records, and what was recorded may have been chosen by its
outputs. So it is charged as everything is that is recorded late, at the place before the first entry: the charge
leaves every entry valid, or the account is overdrawn. It is never refused, and nothing is given back.
docs/explanation/residual.md has the proof.
"""

from __future__ import annotations

from typing import Any, Final

from ledger.core.books import Books
from ledger.core.commands import Ask
from ledger.core.datasets import Account
from ledger.core.decision.filter import (
    Priced,
    by_dataset,
    charged_late,
    guaranteed,
    is_late_fit,
    price_late,
    table_facts,
)
from ledger.core.decision.posting import Drafts, Posting, frozen, write
from ledger.core.decision.runs import charged_accounts
from ledger.core.runs import Place, Run, Use
from ledger.errors import InvalidRequest

PLACE: Final = 0
"""The place of a past run: before the first entry of each of its datasets."""


def enter(books: Books, command: Ask, now_us: int) -> Drafts:
    """Charge a past run, in whatever state its datasets are. Those in which it does not fit are frozen."""
    if command.project is not None:
        raise InvalidRequest("project: a past run is charged to its datasets, not to a project", field="project")
    before = [Posting(books.datasets[use.dataset_id], _accounts(books, command, use)) for use in command.uses]
    places = dict.fromkeys(command.dataset_ids, PLACE)
    priced = price_late(books, by_dataset(before), command.cost, command.residual, places)
    after = [_after(posting, priced, use) for posting, use in zip(before, command.uses, strict=True)]
    names = sorted(posting.dataset.definition.name for posting in after if "state" in posting.own)
    facts: dict[str, Any] = {
        "request": command.request,
        "cost": priced.cost.facts(),
        "idempotency_key": command.claim.key,
        "fits": not names,
        "frozen": names,
        **command.costing,
        **table_facts(priced, None),
    }
    return write(books, after, command.actor, "run-entered", facts, _run(books, command, priced, now_us), command.texts)


def _accounts(books: Books, command: Ask, use: Use) -> list[Account]:
    accounts = charged_accounts(books, use, project=None, principal_id=command.actor.principal_id)
    return guaranteed(accounts)


def _after(posting: Posting, priced: Priced, use: Use) -> Posting:
    seq = posting.dataset.seq + 1
    accounts = [charged_late(account, priced, place=PLACE, seq=seq) for account in posting.accounts]
    after = Posting(posting.dataset, accounts, {"via": list(use.via)})
    return after if all(is_late_fit(account, priced, PLACE) for account in posting.accounts) else frozen(after)


def _run(books: Books, command: Ask, priced: Priced, now_us: int) -> Run:
    return Run(
        id=command.run_id,
        principal_id=command.actor.principal_id,
        state="settled",
        cost=priced.cost,
        created_us=now_us,
        ended_us=now_us,
        places=tuple([Place(use.dataset_id, books.datasets[use.dataset_id].seq + 1) for use in command.uses]),
        r=priced.r,
    )
