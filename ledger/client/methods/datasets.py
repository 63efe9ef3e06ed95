"""Calls about datasets, their partitions and their projects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any

from ledger.client.calls import get, listed, send
from ledger.client.dates import moment
from ledger.client.methods.kinds import Answer, Answers, Calls, Lists
from ledger.client.wire import encode


class Datasets(Calls[Answer], Lists[Answers]):
    """Register datasets, read and change them."""

    def register(
        self,
        *,
        name: str,
        privacy_unit: str | None = None,
        adjacency: str | None = None,
        budget: Mapping[str, Any] | None = None,
        bound: str | None = None,
        size: int | None = None,
        title: str | None = None,
        description: str | None = None,
        derived_from: Sequence[Mapping[str, Any]] | None = None,
        partitions: Sequence[str] | None = None,
        ceiling: Mapping[str, Any] | None = None,
        costing: str | None = None,
        accepts_weak_protection: bool | None = None,
    ) -> Answer:
        """Register a dataset with its budget. Its privacy unit, adjacency, bound and origin never change.

        adjacency: "add_or_remove_one", "replace_one" or "zero_out", where one unit's data is replaced by nothing and
        the number of units is public.
        budget: `{"epsilon", "at_delta"}`, or `{"mu", "delta"}`.
        derived_from: `[{"name": "clicks", "unit_preserving": True}]`, with which you affirm that one privacy unit of
        that dataset changes only its own rows here. The new dataset has the unit, adjacency and bound of the other and
        needs no budget: its runs charge the datasets that it is derived from.
        partitions: the names of parts, no two of which contain the same privacy unit; an empty list to add them later.
        A dataset that is registered without `partitions` can never have any.
        ceiling: a budget that no later budget may exceed.
        costing: "residual", the default of certified datasets, costs a run beside what is left, so that more runs fit;
        "standalone" costs each by itself, and costs add up in any order.
        accepts_weak_protection: True for a budget of more than epsilon 20, which protects weakly: your statement that
        this is acceptable. The journal keeps it.

        Raises NameTaken, and UnitMismatch if datasets that it is derived from differ in unit, adjacency or bound.

        >>> clicks = ledger.register(
        ...     name="clicks",
        ...     privacy_unit="user",
        ...     adjacency="add_or_remove_one",
        ...     budget={"epsilon": 3, "at_delta": 1e-6},
        ... )
        >>> clicks["state"]
        'active'
        >>> bots = ledger.register(name="no-bots", derived_from=[{"name": "clicks", "unit_preserving": True}])
        >>> bots["balance"], bots["roots"]
        (None, ['clicks'])
        >>> events = ledger.register(
        ...     name="events",
        ...     privacy_unit="user-month",
        ...     adjacency="add_or_remove_one",
        ...     budget={"mu": 1, "delta": 1e-6},
        ...     partitions=["2026-10"],
        ...     ceiling={"mu": 2, "delta": 1e-6},
        ... )
        >>> events["partition_count"], events["ceiling"]["mu"]
        (1, 2.0)
        """
        return self._send(
            send(
                "POST",
                "datasets",
                name=name,
                privacy_unit=privacy_unit,
                adjacency=adjacency,
                budget=budget,
                bound=bound,
                size=size,
                title=title,
                description=description,
                derived_from=derived_from,
                partitions=partitions,
                ceiling=ceiling,
                costing=costing,
                accepts_weak_protection=accepts_weak_protection,
            )
        )

    def dataset(self, name: str) -> Answer:
        """Return a dataset with its balance.

        >>> sorted(ledger.dataset("mnist")["balance"])
        ['held', 'limit', 'remaining', 'spent']
        """
        return self._send(get("datasets", name))

    def datasets(self) -> Answers:
        """Iterate over the datasets that the key may read, by name.

        >>> [dataset["name"] for dataset in ledger.datasets()]
        ['clicks', 'events', 'mnist', 'no-bots']
        """
        return self._list(listed("datasets"))

    def balance_at(self, name: str, *, at: str | datetime | None = None, seq: int | None = None) -> Answer:
        """Return the balance of a dataset as it was at a time, or after the entry `seq` of its journal.

        at: a time, or a text such as `"2026-10-01"` (at 00:00 UTC), `"yesterday"` or `"30d"` (ago).

        >>> ledger.balance_at("mnist", seq=1)["balance"]["spent"]["mu"]
        0.0
        """
        return self._send(get("datasets", name, "balance", at=moment(at, field="at"), seq=seq))

    def overview(self, *, limit: int | None = None, cursor: str | None = None) -> Answer:
        """Return the datasets that the key may read, the fullest first, with what waits: overdue runs, open proposals,
        and the alerts, approvals and refusals of the last seven days.

        limit: at most 100 datasets. cursor: the `next` of the page before.

        >>> overview = ledger.overview(limit=1)
        >>> [dataset["name"] for dataset in overview["items"]], overview["proposals"]["has_more"]
        (['clicks'], False)
        """
        return self._send(get("overview", limit=limit, cursor=cursor))

    def burndown(
        self,
        name: str,
        *,
        by: str = "day",
        partition: str | None = None,
        project: str | None = None,
        since: str | datetime | None = None,
        until: str | datetime | None = None,
    ) -> Answer:
        """Return the balance of a dataset at the end of each `"day"`, `"week"` or `"month"`, with the limit that was in
        force, and how many runs were approved and refused meanwhile.

        since, until: times as for `balance_at`; default: the last 90 points.

        >>> [(point["approvals"], point["refusals"]) for point in ledger.burndown("mnist", by="month")["points"]]
        [(7, 0)]
        """
        times = {"since": moment(since, field="since"), "until": moment(until, field="until")}
        return self._send(get("datasets", name, "burndown", by=by, partition=partition, project=project, **times))

    def spending(
        self,
        name: str,
        *,
        by: str,
        label: str | None = None,
        partition: str | None = None,
        since: str | datetime | None = None,
    ) -> Answer:
        """Return what each `"person"`, `"project"`, `"month"` or value of a `"label"` took of a dataset's budget.

        `percent` is of mu², which adds up: the rows are exactly the `total`. A partition has a budget of its own.
        since: a time as for `balance_at`; what runs took that were approved before is one row, `earlier`.

        >>> [(group["name"], group["runs"]) for group in ledger.spending("mnist", by="project")["groups"]]
        [(None, 4)]
        """
        since = moment(since, field="since")
        return self._send(get("datasets", name, "spending", by=by, label=label, partition=partition, since=since))

    def history(self, name: str) -> Answers:
        """Iterate over what changed a dataset, newest first: who froze it, when, why and by which run; budgets.

        >>> [change["what"] for change in ledger.history("clicks")][-1].partition(",")[0]
        'registered with epsilon 3'
        """
        return self._list(listed("datasets", name, "history"))

    def change(
        self,
        name: str,
        *,
        state: str | None = None,
        title: str | None = None,
        description: str | None = None,
        costing: str | None = None,
        reason: str | None = None,
    ) -> Answer:
        """Freeze, thaw or retire a dataset, with a reason, or change its title and description.

        costing: "residual" costs certified runs beside what is left from now on, with a reason; it cannot be undone.

        If the tenant's policy asks for a second steward, thawing an overdrawn dataset returns `{"proposal": …}`:
        nothing changes until another steward calls `approve`.

        >>> ledger.change("clicks", state="frozen", reason="under review")["state"]
        'frozen'
        """
        return self._send(
            send(
                *("PATCH", "datasets", name),
                state=state,
                title=title,
                description=description,
                costing=costing,
                reason=reason,
            )
        )

    def set_budget(
        self,
        name: str,
        *,
        budget: Mapping[str, Any],
        reason: str,
        accepts_weak_protection: bool | None = None,
        lost: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Set a new budget of the dataset and of each partition, not below what is spent and held or above the ceiling.

        If the tenant's policy asks for a second steward, a higher limit in mu or delta returns `{"proposal": …}`: the
        old limit stays until another steward calls `approve`. Raises BudgetBelowSpent.

        accepts_weak_protection: True if the limit is raised above epsilon 20, as for `register`.
        lost: after a restore that lost entries, `{"seq": …, "hash": …, "receipts": […]}`: the last lost entry, as the
        error JournalContradicted names it, and the receipts of the runs that were approved in them. The new limit must
        be lower by their cost, and the dataset is frozen until a steward thaws it.

        >>> ledger.set_budget("mnist", budget={"mu": 2}, reason="agreed in March")["balance"]["limit"]["mu"]
        2.0
        """
        return self._send(
            send(
                *("PUT", "datasets", name, "budget"),
                budget=budget,
                reason=reason,
                accepts_weak_protection=accepts_weak_protection,
                lost=lost,
            )
        )

    def add_partitions(self, name: str, names: Sequence[str], *, disjoint: bool, reason: str | None = None) -> Answer:
        """Add partitions, each with the dataset's limit.

        `disjoint` must be True: you affirm that no privacy unit is in two partitions, and the journal keeps that.
        Raises PartitionsClosed if the dataset was registered without partitions.

        >>> [made["name"] for made in ledger.add_partitions("events", ["2026-11"], disjoint=True)["items"]]
        ['2026-11']
        """
        return self._send(send("POST", "datasets", name, "partitions", names=names, disjoint=disjoint, reason=reason))

    def partitions(self, name: str) -> Answers:
        """Iterate over the partitions of a dataset with their balances, by name.

        >>> [(part["name"], part["balance"]["remaining"]["mu"]) for part in ledger.partitions("events")]
        [('2026-10', 1.0), ('2026-11', 1.0)]
        """
        return self._list(listed("datasets", name, "partitions"))

    def set_project(self, name: str, project: str, *, budget: Mapping[str, Any], reason: str | None = None) -> Answer:
        """Set a project's share of a dataset. Runs that name the project are charged to the share and to the dataset.

        >>> ledger.set_project("events", "ranking", budget={"mu": 0.5, "delta": 1e-7})["balance"]["limit"]["mu"]
        0.5
        """
        return self._send(send("PUT", "datasets", name, "projects", project, budget=budget, reason=reason))

    def past_runs(
        self,
        name: str,
        runs: Sequence[Mapping[str, Any]],
        *,
        reason: str,
        preview: bool = False,
        idempotency_key: str | None = None,
    ) -> Answer:
        """Enter what was spent before there was a ledger, as a steward: all of these past runs, or none.

        Each is a dict with `mechanism`, and perhaps `purpose`, `ran_at`, `library`, `version`, `partitions` and
        `evidence`; `ledger.client.past` reads them from files. They are declared, and were not observed. If they do not
        fit, the answer has the datasets that are `frozen`. preview: only show that. idempotency_key: the same runs
        again, with the same key, are charged once; default: a digest of the runs.

        >>> before = [{"mechanism": Gaussian(noise_multiplier=20), "purpose": "counts of 2025"}]
        >>> ledger.past_runs("events", before, reason="our notes", preview=True)["cost"]["mu"]
        0.05
        """
        key = idempotency_key or f"past-{sha256(encode([*runs]).encode()).hexdigest()}"
        return self._send(
            send(
                *("POST", "datasets", name, "past-runs"),
                is_repeatable=True,
                runs=[*runs],
                reason=reason,
                idempotency_key=key,
                preview=preview or None,
            )
        )

    def set_fair_use(
        self,
        name: str,
        *,
        held: Mapping[str, Any] | None = None,
        runs_per_hour: int | None = None,
        waits_above_percent: int | None = None,
        reason: str,
    ) -> Answer:
        """Limit what one principal may hold of a dataset at once, and how many runs it may ask for in an hour.

        waits_above_percent: a run that asks for more of a limit than this raises RunWaits, and waits for a steward, who
        calls `approve` with the run's id.

        An argument that is left out removes that limit. A principal that asks more often gets RateLimited; one that
        would hold more gets BudgetExceeded.

        >>> ledger.set_fair_use("events", runs_per_hour=100, reason="so that others get a turn")["fair_use"]
        {'held': None, 'runs_per_hour': 100, 'waits_above_percent': None}
        """
        return self._send(
            send(
                *("PUT", "datasets", name, "fair-use"),
                held=held,
                runs_per_hour=runs_per_hour,
                waits_above_percent=waits_above_percent,
                reason=reason,
            )
        )
