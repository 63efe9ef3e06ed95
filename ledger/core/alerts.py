"""Alerts: raised from the books and the journals only. No I/O.

Most alerts come from the entries that a group of decisions leaves (`raised`), in the order of the entries and from the
balances that each states, so that they do not depend on how commands were grouped. The others are found by looking
(`ledger.alerting.watch`): overdue runs, a journal that is not consistent, a budget that will not last.

An alert has a key, and is raised once under each. The key decides when the same alert may be repeated: a threshold's
contains the account's limit, so that a new budget raises it again. Nothing here decides about runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid5

from ledger.core.alerting import Alert, Alerting
from ledger.core.amounts import Amount, Quantity, timestamp
from ledger.core.books import Books
from ledger.core.datasets import AccountKey, DatasetState, Parent
from ledger.core.entries import Draft
from ledger.core.forecast import DAY_US, Forecast, forecast_facts
from ledger.core.people import Proposal, Tenant

VERSION: Final = 1
"""The version of an event."""
NAMED_MAX: Final = 20
"""When more partitions than this pass a threshold at once, they share one alert."""
REMIND_US: Final = 7 * DAY_US
"""How often a forecast that stays bad is repeated."""
_ADDING: Final = frozenset({"run-approved", "run-settled", "run-corrected", "run-entered", "budget-set", "project-set"})
"""The kinds of entries after which an account can use a larger part of its limit than before."""


def id_of(tenant_id: UUID, alert: Alert) -> UUID:
    """Return the alert's id, which depends on its key only: raising it again gives the same id."""
    return uuid5(tenant_id, json.dumps([alert.kind, *alert.key]))


def event(alert: Alert, tenant: Tenant, *, at_us: int) -> dict[str, Any]:
    """Return what is stored, listed, signed and sent: the same at every attempt."""
    facts: dict[str, Any] = {
        "v": VERSION,
        "type": "alert",
        "id": str(id_of(tenant.id, alert)),
        "tenant": {"id": str(tenant.id), "name": tenant.name},
        "kind": alert.kind,
        "at": timestamp(at_us),
        **alert.facts,
    }
    if alert.dataset is not None:
        facts["dataset"] = {"id": str(alert.dataset.id), "name": alert.dataset.name}
    if alert.run_id is not None:
        facts["run"] = str(alert.run_id)
    if alert.seq is not None:
        facts["seq"] = alert.seq
    return facts


# --- alerts from entries --------------------------------------------------------------------------------------------


def level(used: Amount, limit: Amount) -> int:
    """Return how much of a limit is used, in whole percent, rounded down: the larger of mu² and delta. A quantity with
    a limit of zero does not count."""
    return max(
        (
            100 * mine // most
            for mine, most in ((used.mu_sq_pico, limit.mu_sq_pico), (used.delta_atto, limit.delta_atto))
            if most > 0
        ),
        default=0,
    )


def _passed(used: Amount, limit: Amount, percent: int) -> list[Quantity]:
    """Return the quantities in which this much of a limit is used."""
    pairs: tuple[tuple[Quantity, int, int], ...] = (
        ("mu", used.mu_sq_pico, limit.mu_sq_pico),
        ("delta", used.delta_atto, limit.delta_atto),
    )
    return [name for name, mine, most in pairs if most > 0 and 100 * mine >= percent * most]


def refused_datasets(alerting: Alerting, drafts: Iterable[Draft]) -> list[UUID]:
    """Return the datasets for which `raised` needs the number of refusals in a row before."""
    if alerting.refusals_in_a_row is None:
        return []
    return list(dict.fromkeys(draft.dataset_id for draft in drafts if draft.kind == "run-refused"))


def raised(before: Books, drafts: Sequence[Draft], refused_before: Mapping[UUID, int]) -> list[Alert]:
    """Return the alerts of a group's entries, in their order.

    before: the books that they were decided on. refused_before: for `refused_datasets`, the number of refusals in a
    row, counted at least up to what the tenant set.
    """
    reader = _DraftReader(before, dict(refused_before))
    return [alert for draft in drafts for alert in reader.read(draft)]


@dataclass(slots=True)
class _DraftReader:
    """The books as a reader of the entries sees them change."""

    before: Books
    in_a_row: dict[UUID, int]
    levels: dict[AccountKey, int] = field(default_factory=dict)
    states: dict[UUID, DatasetState] = field(default_factory=dict)
    proposed: set[str] = field(default_factory=set)

    def read(self, draft: Draft) -> Iterator[Alert]:
        if self.before.alerting.thresholds and draft.kind in _ADDING:
            yield from self._thresholds(draft)
        if draft.kind in ("run-approved", "run-refused"):
            yield from self._refusals(draft)
        if "overrun" in draft.facts:
            overrun = draft.facts["overrun"]
            facts = {name: overrun[name] for name in ("steps", "cost", "fits")}
            yield _of_entry("overrun", draft, {"overrun": facts})
        if draft.kind == "change-proposed":
            yield from self._proposed(draft)
        yield from self._frozen(draft)

    def _proposed(self, draft: Draft) -> Iterator[Alert]:
        """Return one alert for each proposal, in how many journals it may be."""
        proposal, about = draft.facts["proposal"], draft.facts.get("about_run")
        if proposal not in self.proposed:
            self.proposed.add(proposal)
            facts = {name: draft.facts[name] for name in ("proposal", "what", "approve_by")}
            dataset, run_id = Parent(draft.dataset_id, draft.dataset), None if about is None else UUID(about)
            yield Alert("proposal", (proposal,), {**facts, "by": draft.actor}, dataset, run_id, draft.seq)

    def _frozen(self, draft: Draft) -> Iterator[Alert]:
        state = draft.facts.get("state")
        if state is None:
            return
        known = self.before.datasets.get(draft.dataset_id)
        was = self.states.get(draft.dataset_id, "active" if known is None else known.state)
        self.states[draft.dataset_id] = state
        if state == "frozen" != was:
            why = {"reason": draft.facts["reason"]} if "reason" in draft.facts else {}
            yield _of_entry("frozen", draft, {"by": draft.actor, "because": draft.kind, **why})

    def _refusals(self, draft: Draft) -> Iterator[Alert]:
        most = self.before.alerting.refusals_in_a_row
        if draft.kind == "run-approved" or most is None:
            self.in_a_row[draft.dataset_id] = 0
            return
        count = self.in_a_row[draft.dataset_id] = self.in_a_row.get(draft.dataset_id, 0) + 1
        if count == most:
            yield _of_entry("refusals", draft, {"in_a_row": count, "by": draft.actor})

    def _thresholds(self, draft: Draft) -> Iterator[Alert]:
        passed: dict[tuple[str | None, int], list[_Stated]] = {}
        for key, facts, high in _accounts(draft):
            low = self.levels.get(key)
            if low is None:
                known = self.before.accounts.get(key)
                low = 0 if known is None else level(known.spent + known.held, known.limit)
            self.levels[key] = high
            if low < high:
                for percent in self.before.alerting.thresholds:
                    if low < percent <= high:
                        passed.setdefault((key.project, percent), []).append((key, facts, high))
        for (_, percent), accounts in passed.items():
            yield from _over(draft, percent, accounts)


_Stated = tuple[AccountKey, Mapping[str, Any], int]
"""An account, what an entry states of it, and how much of its limit that is, in percent."""


def _over(draft: Draft, percent: int, accounts: Sequence[_Stated]) -> Iterator[Alert]:
    """Return the alerts for accounts of one holder that passed a threshold: one each, or one for all of many."""
    for key, facts, _ in accounts if len(accounts) <= NAMED_MAX else accounts[:1]:
        limit = Amount.from_facts(facts["limit"])
        more: dict[str, Any] = {
            "percent": percent,
            "quantities": _passed(Amount.from_facts(facts["spent"]) + Amount.from_facts(facts["held"]), limit, percent),
            "balance": {part: facts[part] for part in ("limit", "spent", "held")},
        }
        account = key.facts()
        name = json.dumps([key.partition, key.project])
        if len(accounts) > NAMED_MAX:
            names = sorted(str(passed_key.partition) for passed_key, *_ in accounts)
            account |= {"partition": names[0]}
            more |= {"partitions": names[:NAMED_MAX], "partitions_count": len(names)}
            name = json.dumps([names, key.project])
        generation = (str(limit.mu_sq_pico), str(limit.delta_atto))
        if account:
            more["account"] = account
        yield _of_entry("threshold", draft, more, key=(str(draft.dataset_id), name, str(percent), *generation))


def _accounts(draft: Draft) -> Iterator[_Stated]:
    """Return the accounts whose balances an entry states, except those of principals: they limit what may be held at a
    time, and often fill up in normal use."""
    if "balance" in draft.facts:
        own = draft.facts["balance"]
        yield AccountKey(draft.dataset_id), own, _level_of(own)
    for group in draft.facts.get("accounts", ()):
        if "principal" not in group:
            stated = _level_of(group)
            for partition in group.get("partitions", (None,)):
                yield AccountKey(draft.dataset_id, partition, group.get("project")), group, stated


def _level_of(facts: Mapping[str, Any]) -> int:
    """Return `level` of what an entry states. It works on the digits directly, because every approval needs it."""
    spent, held, limit = facts["spent"], facts["held"], facts["limit"]
    highest = 0
    for quantity in ("mu_sq_pico", "delta_atto"):
        most = int(limit[quantity])
        if most > 0:
            highest = max(highest, 100 * (int(spent[quantity]) + int(held[quantity])) // most)
    return highest


def _of_entry(kind: Any, draft: Draft, facts: Mapping[str, Any], *, key: tuple[str, ...] | None = None) -> Alert:
    entry_key = (str(draft.dataset_id), str(draft.seq)) if key is None else key
    return Alert(kind, entry_key, facts, Parent(draft.dataset_id, draft.dataset), draft.run_id, draft.seq)


# --- alerts from looking ---------------------------------------------------------------------------------------------


def overdue(dataset: Parent, *, run_id: UUID, state: str, due_us: int, seq: int) -> Alert:
    """Return the alert that a run was not started or settled in time. It still counts in full. seq: its decision."""
    facts = {"state": state, "due": timestamp(due_us)}
    return Alert("overdue", (str(dataset.id), str(run_id), str(due_us)), facts, dataset, run_id, seq)


def lapsing(dataset: Parent, proposal: Proposal) -> Alert:
    """Return the alert that a proposal is still open shortly before its time is over."""
    facts = {
        "proposal": str(proposal.id),
        "what": proposal.kind,
        "approve_by": timestamp(proposal.expires_us),
        "by": proposal.body["by"],
    }
    return Alert("lapsing", (str(proposal.id),), facts, dataset, proposal.run_id)


def mismatch(dataset: Parent | None, *, seq: int, reason: str) -> Alert:
    """Return the alert that a journal is not consistent at this number: it was changed. None: the tenant's journal."""
    journal = "" if dataset is None else str(dataset.id)
    return Alert("mismatch", (journal, str(seq), reason), {"reason": reason}, dataset, None, seq)


def head(dataset: Parent | None, *, seq: int, facts: Mapping[str, Any]) -> Alert:
    """Return the alert with the head of a journal, for others to keep. facts: `hash`, and further members of a head.
    None: the tenant's own journal."""
    return Alert("head", ("" if dataset is None else str(dataset.id), str(seq)), facts, dataset, None, seq)


def trial(nonce: UUID, *, by: Mapping[str, Any]) -> Alert:
    """Return a test alert."""
    return Alert("test", (str(nonce),), {"by": by})


# --- the forecast ----------------------------------------------------------------------------------------------------


def short(
    alerting: Alerting, dataset: Parent, key: AccountKey, limit: Amount, outlook: Forecast, *, now_us: int
) -> Alert | None:
    """Return the alert that a budget will not last as long as the tenant set; once a week while that is so. An account
    that is used up gets the threshold of 100 % instead."""
    days = outlook.days_left(now_us)
    if (
        alerting.forecast_days is None
        or days is None
        or days >= alerting.forecast_days
        or outlook.lasts_until_us == now_us
    ):
        return None
    name = json.dumps([key.partition, key.project])
    generation = (str(limit.mu_sq_pico), str(limit.delta_atto), str(now_us // REMIND_US))
    account = {"account": key.facts()} if key.facts() else {}
    facts = {**account, "is_estimate": True, **forecast_facts(outlook, now_us=now_us)}
    return Alert("forecast", (str(dataset.id), name, *generation), facts, dataset)
