"""The report as a JSON document, part by part, so that a report of a million runs needs little memory.

The parts are in the order of an auditor's questions: Is every budget kept? What is spent, held and left? Which runs
were there? What was refused, overran, is overdue, was voided or changed? What is assumed? Where do the journals end?
How is it recomputed?
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Final
from uuid import UUID

from ledger.accounting import disclosure
from ledger.accounting.budgets import epsilon_judged, report_deltas
from ledger.accounting.display import AmountShown, show_amount
from ledger.core.amounts import ZERO, Amount
from ledger.core.datasets import Account, AccountKey, Balance
from ledger.encoding import encode
from ledger.report import words
from ledger.report.rates import attacks_at
from ledger.report.runs import Beside, runs_of
from ledger.report.source import Question, Source, TenantSource
from ledger.report.standing import Standing, TenantStanding, is_watched, stand, stand_tenant

FORMAT: Final = "privacy-ledger-report"
SOFTWARE: Final = f"privacy-ledger {metadata.version('privacy-ledger')}"
VERSION: Final = 1
CHUNK_CHARS: Final = 64 * 1024
_ACCOUNTS_AT_ONCE: Final = 256
_NO_RATES: Final[dict[str, Any]] = {"epsilon": [], "attack": None}

Part = tuple[str, Any]
"""A member of the document: its name, and a value or an iterator over the items of a list."""


@dataclass(frozen=True, slots=True)
class Report:
    """A question and the journals that answer it: of datasets by name, and the tenant's own if it is asked for."""

    question: Question
    sources: Sequence[Source]
    tenant: TenantSource | None = None

    @property
    def as_of(self) -> str | None:
        """Return the time that decides what is overdue: the end of the period, or the newest entry of the journals."""
        if self.question.until is not None:
            return self.question.until
        moments = [source.newest_at for source in self.sources]
        moments += [self.tenant.newest_at] if self.tenant is not None else []
        return max(filter(None, moments), default=None)


def parts(report: Report) -> Iterator[Part]:
    """Yield the members of the document, in order. Read an iterator among them to its end before the next member."""
    question = report.question
    as_of = report.as_of
    yield "format", FORMAT
    yield "version", VERSION
    yield "about", _about(report, as_of)
    standings = [stand(source, question, tenant_id=question.tenant_id) for source in report.sources]
    tenant = None if report.tenant is None else stand_tenant(report.tenant, question)
    yield "verdict", _verdict(standings, tenant)
    yield "tenant_journal", None if tenant is None else _tenant_journal(tenant)
    yield "datasets", (_dataset(standing, question) for standing in standings)
    yield "accounts", (item for standing in standings for item in _accounts(standing, question))
    beside = Beside()
    try:
        yield "runs", (run for standing in standings for run in runs_of(standing, question, beside))
        yield "refusals", beside.refusals.items()
        yield "overruns", beside.overruns.items()
        yield "corrections", beside.corrections.items()
        yield "overdue", (item for standing in standings for item in _overdue(standing, question, as_of))
        yield "voids", beside.voids.items()
        yield "changes", beside.changes.items()
    finally:
        beside.close()
    yield "assumptions", [item for standing in standings for item in words.assumptions(standing)]
    yield "heads", _heads(standings, tenant)
    yield "recompute", words.recomputation(question, [standing.name for standing in standings])


def lines(report: Report) -> Iterator[str]:
    """Yield the document as JSON text, in pieces: one member per line, and one item of a list per line."""
    pieces: list[str] = []
    size = 0
    for piece in _pieces(parts(report)):
        pieces.append(piece)
        size += len(piece)
        if size >= CHUNK_CHARS:
            yield "".join(pieces)
            pieces, size = [], 0
    yield "".join(pieces)


def _pieces(members: Iterable[Part]) -> Iterator[str]:
    yield "{\n"
    is_first = True
    for name, value in members:
        yield ("" if is_first else ",\n") + encode(name) + ":"
        is_first = False
        if isinstance(value, Iterator):
            yield "["
            for index, item in enumerate(value):
                yield ("\n" if index == 0 else ",\n") + encode(item)
            yield "]"
        else:
            yield encode(value)
    yield "\n}\n"


# --- subject and verdict ---------------------------------------------------------------------------------------------


def _about(report: Report, as_of: str | None) -> dict[str, Any]:
    question = report.question
    return {
        "scope": question.scope,
        "tenant": {"id": str(question.tenant_id), "name": question.tenant},
        "dataset": question.dataset,
        "project": question.project,
        "from": question.since,
        "to": question.until,
        "as_of": as_of,
        "restricted_to": None if question.restricted_to is None else list(question.restricted_to),
        "datasets": [source.name for source in report.sources],
        "made": {"on": question.made_on, "contact": question.contact, "software": SOFTWARE, "time_zone": "UTC"},
    }


def _verdict(standings: Sequence[Standing], tenant: TenantStanding | None) -> dict[str, Any]:
    items = [_verdict_on(standing) for standing in standings]
    holds = all(item["holds"] for item in items) and (tenant is None or tenant.broken is None)
    return {
        "kept": holds and all(item["kept"] for item in items),
        "journals_hold": holds,
        "is_estimate": any(standing.is_estimate for standing in standings),
        "sentence": words.verdict(standings, tenant),
        "datasets": items,
    }


def _verdict_on(standing: Standing) -> dict[str, Any]:
    exceeded = [
        {
            "account": key.facts(),
            "first_seq": overdraft.seq,
            "first_at": overdraft.at,
            "most": show_amount(overdraft.most),
            "now": show_amount(standing.accounts[key].overdrawn),
        }
        for key, overdraft in sorted(standing.exceeded.items(), key=lambda item: (item[1].seq, _order(item[0])))
    ]
    holds = standing.broken is None
    highest = standing.limit_highest
    return {
        "dataset": standing.name,
        "kept": holds and not exceeded,
        "holds": holds,
        "broken": None if standing.broken is None else {"seq": standing.broken.seq, "detail": standing.broken.detail},
        "exceeded": exceeded,
        "is_estimate": standing.is_estimate,
        "limit_highest": None if highest is None else show_amount(highest),
        "limit_raised": standing.limit_raised,
        "weak_protection": _weak_protection(standing),
    }


def _weak_protection(standing: Standing) -> dict[str, Any] | None:
    """Return what a budget lets an attacker learn, and who accepted that, if it protects weakly; else None."""
    if standing.limit is None or standing.budget is None:
        return None
    shown, rate = epsilon_judged(dict(standing.budget), standing.limit), disclosure.FALSE_POSITIVE_RATES[0]
    if not shown.is_weak:
        return None
    accepted = standing.weak_accepted
    return {
        "epsilon": shown.value,
        "at_delta": shown.at_delta,
        "false_positive_rate": rate,
        "true_positive_rate": disclosure.true_positive_rates([standing.limit], false_positive_rate=rate)[0],
        "accepted": accepted and {"seq": accepted["seq"], "at": accepted["at"], "by": accepted["actor"]},
    }


def _order(key: AccountKey) -> tuple[str, str, str]:
    return (key.project or "", str(key.principal_id or ""), key.partition or "")


def _tenant_journal(tenant: TenantStanding) -> dict[str, Any]:
    return {
        "holds": tenant.broken is None,
        "broken": None if tenant.broken is None else {"seq": tenant.broken.seq, "detail": tenant.broken.detail},
        "second_steward": tenant.second_steward,
        "keys_made": tenant.counts["key-made"],
        "keys_rotated": tenant.counts["key-rotated"],
        "keys_revoked": tenant.counts["key-revoked"],
        "policies": [
            {
                "seq": entry["seq"],
                "at": entry["at"],
                "by": entry["actor"],
                "second_steward": entry["second_steward"],
                "reason": entry["reason"],
            }
            for entry in tenant.policies
        ],
    }


# --- datasets --------------------------------------------------------------------------------------------------------


def _dataset(standing: Standing, question: Question) -> dict[str, Any]:
    registered = standing.registered
    balance = standing.balance(question.project)
    counts = standing.counts
    return {
        "name": standing.name,
        "id": str(standing.source.dataset_id),
        "title": standing.title,
        "description": standing.description,
        "privacy_unit": registered.get("privacy_unit"),
        "adjacency": registered.get("adjacency"),
        "bound": registered.get("bound"),
        "costing": _costing(standing),
        "is_estimate": standing.is_estimate,
        "size": registered.get("size"),
        "is_partitioned": registered.get("is_partitioned", False),
        "derived_from": [parent["name"] for parent in registered.get("derived_from", ())],
        "state": standing.state or None,
        "budget": standing.budget,
        "ceiling": _amount(registered.get("ceiling_limit")),
        "fair_use": _fair_use(standing),
        "registered_at": registered.get("at"),
        "balance": None if balance is None else _balance(balance),
        **_NO_RATES,
        **({} if balance is None else _of_balance(standing, question, balance)),
        "least_limit": None if balance is None else _least_limit(standing, question),
        "totals": {
            "runs": counts["listed"],
            **{kind: counts[f"run-{kind}"] for kind in ("approved", "refused", "started", "settled", "voided")},
            "overruns": counts["overrun"],
            "corrections": counts["run-corrected"],
            "entered": counts["run-entered"],
            "open": len(standing.open),
            "charged": show_amount(standing.charged),
            "returned": show_amount(standing.returned),
        },
        "projects": _projects(standing, question),
        "figures": _figures(standing, balance),
    }


def _costing(standing: Standing) -> str | None:
    return None if not standing.registered else "residual" if standing.charges.is_residual else "standalone"


def _least_limit(standing: Standing, question: Question) -> dict[str, Any] | None:
    """Return the least limit of the dataset itself; None for a project, and if costs are not residual."""
    if question.project is not None or not standing.charges.is_residual:
        return None
    least = standing.charges.least_limit()
    if least is None:
        return None
    epsilons = [
        {"delta": delta, "epsilon": disclosure.epsilons([least], at_delta=delta)[0]} for delta in _deltas(standing)
    ]
    return {"amount": show_amount(least), "epsilon": epsilons}


def _amount(facts: Mapping[str, str] | None) -> AmountShown | None:
    return None if facts is None else show_amount(Amount.from_facts(facts))


def _of_balance(standing: Standing, question: Question, balance: Balance) -> dict[str, Any]:
    key = AccountKey(standing.source.dataset_id, None, question.project)
    which = {"spent": balance.spent, "committed": standing.committed(question.project), "limit": balance.limit}
    return _disclosed(standing, [key], {name: [amount] for name, amount in which.items()})[0]


def _fair_use(standing: Standing) -> dict[str, Any] | None:
    if (fair_use := standing.fair_use) is None:
        return None
    return {"held": fair_use["held"], "limit": _amount(fair_use["limit"]), "runs_per_hour": fair_use["runs_per_hour"]}


def _balance(balance: Balance) -> dict[str, Any]:
    named = {"limit": balance.limit, "spent": balance.spent, "held": balance.held, "left": balance.remaining}
    return {name: show_amount(amount) for name, amount in named.items()}


def _projects(standing: Standing, question: Question) -> list[dict[str, Any]]:
    """Return the projects that have a share or runs within the period, by name; first the runs without a project."""
    names = {*standing.shares, *standing.projects}
    if question.project is not None:
        names &= {question.project}
    projects = []
    for name in sorted(names, key=lambda name: (name is not None, name)):
        share, declared = standing.shares.get(name), standing.projects.get(name or "")
        projects.append(
            {
                "project": name,
                "budget": None if declared is None else declared["budget"],
                "limit": None if declared is None else _amount(declared["limit"]),
                "runs": 0 if share is None else share.runs,
                "spent": show_amount(ZERO if share is None else share.spent),
                "held": show_amount(ZERO if share is None else share.held),
            }
        )
    return projects


def _figures(standing: Standing, balance: Balance | None) -> dict[str, Any]:
    """Return the numbers of the figures."""
    if balance is None:
        return {"burn_down": [], "trade_off": None, "epsilon": None}
    return {
        "burn_down": [
            {
                "at": point.at,
                "seq": point.seq,
                "limit_mu_sq_pico": str(point.limit),
                "spent_mu_sq_pico": str(point.spent),
                "held_mu_sq_pico": str(point.held),
            }
            for point in standing.series.points()
        ],
        "trade_off": {
            "type_i_error": list(disclosure.TYPE_I_ERRORS),
            "spent": disclosure.trade_off_curve(balance.spent),
            "limit": disclosure.trade_off_curve(balance.limit),
        },
        "epsilon": {
            "delta": list(disclosure.DELTAS),
            "spent": disclosure.epsilon_curve(balance.spent),
            "limit": disclosure.epsilon_curve(balance.limit),
        },
    }


# --- accounts --------------------------------------------------------------------------------------------------------


def _accounts(standing: Standing, question: Question) -> Iterator[dict[str, Any]]:
    """Return the accounts: of the dataset, its partitions, then projects and principals; for a project only its own."""
    is_wanted = question.project is None
    keys = sorted((key for key in standing.accounts if is_wanted or is_watched(key, question.project)), key=_order)
    for start in range(0, len(keys), _ACCOUNTS_AT_ONCE):
        batch = [standing.accounts[key] for key in keys[start : start + _ACCOUNTS_AT_ONCE]]
        yield from _accounts_shown(standing, batch)


def _accounts_shown(standing: Standing, accounts: Sequence[Account]) -> Iterator[dict[str, Any]]:
    of_data = [account for account in accounts if account.key.principal_id is None]
    keys = [account.key for account in of_data]
    which = {
        "spent": [account.spent for account in of_data],
        "committed": [account.spent + account.held for account in of_data],
        "limit": [account.limit for account in of_data],
    }
    disclosed = dict(zip(keys, _disclosed(standing, keys, which), strict=True))
    for account in accounts:
        opening = None if standing.opening is None else standing.opening.get(account.key)
        yield {
            "dataset": standing.name,
            "kind": _kind(account.key),
            "account": account.key.facts(),
            "is_estimate": standing.is_estimate,
            "is_kept": account.overdrawn == ZERO,
            **_counted(account),
            "overdrawn": show_amount(account.overdrawn),
            "opening": None if opening is None else _counted(opening),
            **disclosed.get(account.key, _NO_RATES),
        }


def _kind(key: AccountKey) -> str:
    if key.principal_id is not None:
        return "principal"
    if key.project is not None:
        return "project"
    return "dataset" if key.partition is None else "partition"


def _counted(account: Account) -> dict[str, Any]:
    return _balance(Balance(account.limit, account.spent, account.held, account.remaining))


def _disclosed(
    standing: Standing, keys: Sequence[AccountKey], which: Mapping[str, Sequence[Amount]]
) -> list[dict[str, Any]]:
    """Return the guarantees of each account: at what is spent, at what is spent and held, and at its limit."""
    epsilons = [_epsilon_at(delta, which, standing, keys) for delta in _deltas(standing)]
    attacks = {name: attacks_at(some) for name, some in which.items()}
    return [
        {
            "epsilon": [at_delta[index] for at_delta in epsilons],
            "attack": {name: attacks[name][index] for name in which},
        }
        for index in range(len(keys))
    ]


def _deltas(standing: Standing) -> list[float]:
    return report_deltas(dict(standing.budget or {}))


def _epsilon_at(
    delta: float, which: Mapping[str, Sequence[Amount]], standing: Standing, keys: Sequence[AccountKey]
) -> list[dict[str, Any]]:
    columns = {name: disclosure.epsilons(some, at_delta=delta) for name, some in which.items()}
    rows = []
    for index, key in enumerate(keys):
        row: dict[str, Any] = {"delta": delta, **{name: column[index] for name, column in columns.items()}}
        declared = (_declared(standing, key) or {}).get("epsilon")
        if declared is not None and row["limit"] is not None and delta == _declared_delta(standing, key):
            # The limit was rounded down from this epsilon, so it is not more, although display rounds up.
            row["limit"] = min(row["limit"], float(declared))
        rows.append(row)
    return rows


def _declared(standing: Standing, key: AccountKey) -> Mapping[str, Any] | None:
    """Return the budget that set an account's limit."""
    if key.project is None:
        return standing.budget
    share = standing.projects.get(key.project)
    return None if share is None else share["budget"]


def _declared_delta(standing: Standing, key: AccountKey) -> float | None:
    at_delta = (_declared(standing, key) or {}).get("at_delta")
    return None if at_delta is None else float(at_delta)


# --- the rest --------------------------------------------------------------------------------------------------------


def _overdue(standing: Standing, question: Question, as_of: str | None) -> Iterator[dict[str, Any]]:
    """Return runs that were not started or settled in time, the most overdue first. Their cost stays held in full."""
    late = [
        (opened.due, str(run))
        for run, opened in standing.open.items()
        if as_of is not None and opened.due < as_of and question.project in (None, opened.project)
    ]
    for due, run in sorted(late):
        opened = standing.open[UUID(run)]
        yield {
            "dataset": standing.name,
            "run": run,
            "seq": opened.seq,
            "at": opened.at,
            "by": opened.by,
            "project": opened.project,
            "state": opened.state,
            "due": due,
            "cost": show_amount(opened.cost),
            "is_estimate": standing.is_estimate,
        }


def _heads(standings: Sequence[Standing], tenant: TenantStanding | None) -> list[dict[str, Any]]:
    """Return the head of each journal, with its signature if it has one, and the newest entry in the report."""
    heads: list[dict[str, Any]] = [] if tenant is None else [_head(None, tenant)]
    return heads + [_head(standing.name, standing) for standing in standings]


def _head(dataset: str | None, standing: Standing | TenantStanding) -> dict[str, Any]:
    head = standing.source.head
    return {
        "dataset": dataset,
        "seq": head["seq"],
        "hash": head["hash"],
        "root": head.get("root"),
        "signature": head.get("signature"),
        "counted_seq": standing.last_seq,
        "counted_hash": standing.last_hash or None,
    }
