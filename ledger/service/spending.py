"""Who and what a budget was spent on, by the balances that entries state.

Each entry states the balances of the accounts that it changed, so the difference between two of them is what the run
between them spent or held. These differences add up to the balance exactly, in integers, whatever a settlement, an
overrun or a void did: mu² adds up, epsilon does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, Literal
from uuid import UUID

from ledger.accounting.display import show_amount
from ledger.core.amounts import ZERO, Amount, timestamp
from ledger.core.daily import WHOLE, Place, stated
from ledger.core.datasets import AccountKey, Balance, Dataset
from ledger.core.entries import Record
from ledger.core.journal import chain
from ledger.errors import InvalidRequest
from ledger.service.past import texts_newest_first
from ledger.service.shapes.datasets import SpendingGroup, SpendingPart, SpendingShown
from ledger.store import Reading

_DECISIONS: Final = ("run-approved", "run-entered")
ENTRIES_MAX: Final = 5_000
"""How many of the newest entries are read; what was spent before is one row."""
GROUPS_MAX: Final = 100
By = Literal["person", "project", "month", "label"]
_Key = tuple[str | None, str | None]
"""What a group is called, and the principal if it is a person's."""


@dataclass(frozen=True, slots=True)
class _Part:
    """What a group spent and holds, and its number of runs."""

    spent: Amount = ZERO
    held: Amount = ZERO
    runs: int = 0

    def __add__(self, other: _Part) -> _Part:
        return _Part(self.spent + other.spent, self.held + other.held, self.runs + other.runs)

    def __sub__(self, other: _Part) -> _Part:
        return _Part(self.spent - other.spent, self.held - other.held, self.runs - other.runs)

    @property
    def taken(self) -> Amount:
        return self.spent + self.held


def spending(
    reading: Reading,
    dataset: Dataset,
    *,
    by: By,
    label: str | None,
    partition: str | None,
    since_us: int | None = None,
) -> SpendingShown:
    """Return what each group spent of a dataset's own budget, or of a partition's. since_us: runs that were approved
    before count as earlier. Raises InvalidRequest."""
    (shown,) = spendings(reading, dataset, bys=[by], label=label, partition=partition, since_us=since_us)
    return shown


def spendings(
    reading: Reading,
    dataset: Dataset,
    *,
    bys: Sequence[By],
    label: str | None,
    partition: str | None,
    since_us: int | None = None,
) -> list[SpendingShown]:
    """Return the same, divided in several ways; the entries are read once."""
    keys = [_account_key(dataset, by=by, label=label, partition=partition) for by in bys]
    # Amounts are texts of digits. No other number is used here, so none need be exact: that takes a tenth of the time.
    texts = islice(texts_newest_first(reading, dataset, dataset.seq), ENTRIES_MAX)
    entries = [json.loads(text) for text in texts][::-1]
    earlier, changes, last, since_seq = _changes(entries, keys[0])
    if last is None:
        raise InvalidRequest(
            f"partition: no entry among the newest {ENTRIES_MAX:,} charges it, so nothing is known of it here",
            field="partition",
        )
    decisions = {entry["run"]: entry for entry in entries if entry["kind"] in _DECISIONS and entry["seq"] >= since_seq}
    since = "" if since_us is None else timestamp(since_us)  # times are written so that text order is time order
    shown = []
    for by in bys:
        requests = _requests(reading, [run for run in changes if run in decisions], decisions) if by == "label" else {}
        before, groups = _groups(changes, decisions, requests, by=by, label=label, since=since)
        shown.append(_shown(dataset, by, label, partition, last, groups, earlier + before, since_seq))
    return shown


def _groups(
    changes: Mapping[str, _Part],
    decisions: Mapping[str, Record],
    requests: Mapping[str, Mapping[str, Any]],
    *,
    by: By,
    label: str | None,
    since: str,
) -> tuple[_Part, dict[_Key, _Part]]:
    """Return what runs changed that were approved before, and each group's part of the rest."""
    before = _Part()
    groups: dict[_Key, _Part] = {}
    for run, part in changes.items():
        if run not in decisions or decisions[run]["at"] < since:
            before += replace(part, runs=0)
        elif part.taken != ZERO:
            name = _group(by, label, decisions[run], requests.get(run, {}))
            groups[name] = groups.get(name, _Part()) + replace(part, runs=1)
    return before, groups


def _account_key(dataset: Dataset, *, by: By, label: str | None, partition: str | None) -> AccountKey:
    if (by == "label") != (label is not None):
        raise InvalidRequest("label: goes with by=label: name the label whose values are the groups", field="label")
    if dataset.limit is None:
        roots = "the datasets that it is derived from"
        raise InvalidRequest(f"dataset: has no budget of its own; ask for the spending of {roots}", field="dataset")
    if dataset.definition.is_partitioned and partition is None:
        raise InvalidRequest(
            "partition: each partition has a budget of its own; name one of GET /v1/datasets/NAME/partitions",
            field="partition",
        )
    if partition is not None and not dataset.definition.is_partitioned:
        raise InvalidRequest("partition: this dataset has no partitions; leave it out", field="partition")
    return AccountKey(dataset.id, partition)


def _changes(entries: Sequence[Record], key: AccountKey) -> tuple[_Part, dict[str, _Part], Balance | None, int]:
    """Return what was spent until the first of these entries that states the account, what each run changed since, the
    account as it is now, and the number of the first entry whose change is known."""
    place = Place(key.project or "", key.partition or "")
    before, last = None, None
    earlier, since_seq = _Part(), 1
    changes: dict[str, _Part] = {}
    for entry in entries:
        account = _taken_of(entry, place)
        if account is None:
            continue
        if before is None and entry["seq"] > 1 and entry["kind"] != "partitions-added":
            earlier, since_seq = account, entry["seq"] + 1
        elif before is None or account != before:
            change = account - (before or _Part())
            if "run" in entry:
                changes[entry["run"]] = changes.get(entry["run"], _Part()) + change
            else:
                earlier += change
        before, last = account, entry
    return earlier, changes, None if last is None else dict(stated(last))[place], since_seq


def _taken_of(entry: Record, place: Place) -> _Part | None:
    """Return what an entry states as spent and held of an account, if it states that."""
    facts = entry.get("balance") if place == WHOLE else None
    for group in entry.get("accounts", ()):
        if "principal" in group or (group.get("project") or "") != place.project:
            continue
        if place.partition in group.get("partitions", ("",)):
            facts = group
    return None if facts is None else _Part(_amount(facts["spent"]), _amount(facts["held"]))


def _amount(facts: Mapping[str, Any]) -> Amount:
    return Amount(int(facts["mu_sq_pico"]), int(facts["delta_atto"]))


def _requests(
    reading: Reading, run_ids: Sequence[str], decisions: Mapping[str, Record]
) -> dict[str, Mapping[str, Any]]:
    """Return the requests of these runs. That of a run that names another dataset first is in that one's journal."""
    requests = {run: decisions[run]["request"] for run in run_ids if "request" in decisions[run]}
    missing = [UUID(run) for run in run_ids if run not in requests]
    while missing:
        found = reading.journals.first_entries(missing)
        for run, sealed in found.items():
            records = (chain.parse(entry.body) for entry in sealed if entry.kind in _DECISIONS)
            requests[str(run)] = next((record.get("request", {}) for record in records), {})
        missing = missing[len(found) :]
    return requests


def _group(by: By, label: str | None, decision: Record, request: Mapping[str, Any]) -> _Key:
    match by:
        case "person":
            return decision["actor"]["name"], decision["actor"]["principal"]
        case "project":
            return decision.get("project"), None
        case "month":
            return decision["at"][:7], None
        case _:
            return (request.get("labels") or {}).get(label), None


# --- how it is shown -------------------------------------------------------------------------------------------------


def _shown(
    dataset: Dataset,
    by: By,
    label: str | None,
    partition: str | None,
    account: Balance,
    groups: Mapping[_Key, _Part],
    earlier: _Part,
    since_seq: int,
) -> SpendingShown:
    limit = account.limit
    ranked = sorted(groups.items(), key=lambda item: (-item[1].taken.mu_sq_pico, str(item[0])))
    rest = [part for _, part in ranked[GROUPS_MAX:]]
    return SpendingShown(
        dataset=dataset.definition.name,
        partition=partition,
        by=by,
        label=label,
        seq=dataset.seq,
        limit=show_amount(limit),
        groups=[
            SpendingGroup(name=name, principal=principal, **_part(part, limit))
            for (name, principal), part in ranked[:GROUPS_MAX]
        ],
        rest=_part(_sum(rest), limit) if rest else None,
        rest_count=len(rest),
        earlier=_part(earlier, limit) if earlier.taken != ZERO else None,
        since_seq=since_seq,
        total=_part(_Part(account.spent, account.held, _sum(groups.values()).runs), limit),
    )


def _sum(parts: Iterable[_Part]) -> _Part:
    return sum(parts, start=_Part())


def _part(part: _Part, limit: Amount) -> SpendingPart:
    taken = part.taken
    return SpendingPart(
        runs=part.runs,
        spent=show_amount(part.spent),
        held=show_amount(part.held),
        percent=100 * taken.mu_sq_pico / limit.mu_sq_pico if limit.mu_sq_pico else None,
        percent_of_delta=100 * taken.delta_atto / limit.delta_atto if limit.delta_atto else None,
    )
