"""What is written: one tenant's rows, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Connection,
    Table,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from ledger.core.alerting import (
    Alert,
    Alerting,
    AlertKind,
    DeliveryState,
    KeptAlert,
)
from ledger.core.alerts import event as event_of
from ledger.core.alerts import id_of
from ledger.core.books import Books, ReadSet
from ledger.core.commands import Claim, Register
from ledger.core.datasets import (
    NO_FAIR_USE,
    Dataset,
    Definition,
    Project,
)
from ledger.core.entries import NO_HASH, Entry, TenantEntry
from ledger.core.journal import chain
from ledger.core.people import Actor, Key
from ledger.errors import NameTaken, NotFound
from ledger.store.claims import Claimed
from ledger.store.reading import Reading
from ledger.store.rows import (
    alert_of,
    amount_row,
    amounts_row,
    key_row,
    run_row,
)
from ledger.store.tables import (
    accounts,
    alerts,
    certificates,
    claims,
    datasets,
    entries,
    keys,
    lineage,
    operator_keys,
    places,
    projects,
    proposals,
    runs,
    tenant_entries,
    tenants,
)


class Writing(Reading):
    """Changes one tenant's rows, in one transaction that its opener commits. told: the kinds of alerts it raised."""

    def __init__(self, connection: Connection, tenant_id: UUID) -> None:
        super().__init__(connection, tenant_id)
        self.told: list[AlertKind] = []

    # --- what a group does first: claims and locks

    def claim(self, asked: Mapping[UUID, tuple[Actor, Claim]]) -> dict[str, Claimed]:
        """Claims the keys of new runs (by run id), in sorted order, and returns what the taken ones stand for.

        The insert waits for another process that is claiming the same key, so the look-up after it, a statement of its
        own with a newer snapshot, sees that process's commit.
        """
        rows = [
            {
                "tenant_id": self.tenant_id,
                "key": claim.key,
                "principal_id": actor.principal_id,
                "digest": claim.digest,
                "run_id": run_id,
            }
            for run_id, (actor, claim) in asked.items()
        ]
        rows.sort(key=lambda row: str(row["key"]))
        if not rows:
            return {}
        won = set(self.connection.execute(self._insert_new(claims).returning(claims.c.key), rows).scalars())
        lost = [row["key"] for row in rows if row["key"] not in won]
        if not lost:
            return {}
        taken = select(claims).where(claims.c.tenant_id == self.tenant_id, claims.c.key.in_(lost))
        return {row.key: Claimed(row.principal_id, row.digest, row.run_id) for row in self.connection.execute(taken)}

    def unclaim(self, unbound: Sequence[str]) -> None:
        """Lets go of keys claimed in this transaction whose requests bind nothing."""
        if unbound:
            self.connection.execute(
                delete(claims).where(claims.c.tenant_id == self.tenant_id, claims.c.key.in_(unbound))
            )

    def claim_names(self, registered: Sequence[Register]) -> set[UUID]:
        """Puts in the rows of new datasets and returns the ids of those whose name was free."""
        won: set[UUID] = set()
        for command in sorted(registered, key=lambda command: command.definition.name):
            definition = command.definition
            row = {
                "tenant_id": self.tenant_id,
                "id": definition.id,
                "name": definition.name,
                "title": command.title,
                "description": command.description,
                "privacy_unit": definition.privacy_unit,
                "adjacency": definition.adjacency,
                "bound": definition.bound,
                "size": definition.size,
                "is_partitioned": int(definition.is_partitioned),
                **amount_row("ceiling", definition.ceiling),
                "budget": None if command.budget is None else chain.canonical(command.budget),
                **amount_row("limit", command.limit),
                "state": "active",
                "seq": 0,
                "head": NO_HASH,
                "created_us": 0,
            }
            new = self.connection.execute(self._insert_new(datasets).returning(datasets.c.id), [row]).scalars().all()
            if new:
                self._add_lineage(definition)
            won.update(new)
        return won

    def _add_lineage(self, definition: Definition) -> None:
        positions = {parent.id: position for position, parent in enumerate(definition.derived_from)}
        rows = [
            {
                "tenant_id": self.tenant_id,
                "dataset_id": definition.id,
                "ancestor_id": ancestor_id,
                "position": positions.get(ancestor_id),
            }
            for ancestor_id in definition.ancestors
        ]
        if rows:
            self.connection.execute(insert(lineage), rows)

    def lock(self, wanted: Mapping[UUID, ReadSet], run_ids: Sequence[UUID]) -> Books:
        """Locks these datasets, in the order of their ids, and reads what hangs under them.

        Accounts and runs are read by statements that begin after the locks are had: a join in the locking statement
        itself would show them as they were before the wait. The lock leaves the rows' keys alone, so that a dataset
        that is being derived from one of them need not wait.
        """
        if not wanted:
            return Books()
        locking = self._decided_on(wanted).with_for_update(key_share=True)
        return self._books(self.connection.execute(locking).all(), wanted, run_ids)

    # --- and last: what was decided

    def append(self, sealed: Sequence[Entry]) -> None:
        rows = [
            {
                "tenant_id": self.tenant_id,
                "dataset_id": entry.dataset_id,
                "seq": entry.seq,
                "kind": entry.kind,
                "at_us": entry.at_us,
                "run_id": entry.run_id,
                "body": entry.body,
                "hash": entry.hash,
            }
            for entry in sealed
        ]
        if rows:
            self.connection.execute(insert(entries), rows)

    def save(self, before: Books, after: Books, heads: Mapping[UUID, bytes]) -> None:
        """Writes the rows that changed; `heads` are the journals' new hashes. Entries are appended before."""
        self._save_datasets([row for id_, row in after.datasets.items() if row != before.datasets.get(id_)], heads)
        self._save_projects([row for key, row in after.projects.items() if row != before.projects.get(key)])
        self._save_accounts(before, after)
        self._save_runs(before, after)
        self._save_proposals(before, after)

    def _save_datasets(self, changed: Sequence[Dataset], heads: Mapping[UUID, bytes]) -> None:
        rows = [
            {
                "dataset": dataset.id,
                "title": dataset.title,
                "description": dataset.description,
                "budget": None if dataset.budget is None else chain.canonical(dataset.budget),
                **amount_row("limit", dataset.limit),
                "fair_use": None if dataset.fair_use == NO_FAIR_USE else chain.canonical(dataset.fair_use.facts()),
                "state": dataset.state,
                "seq": dataset.seq,
                "head": heads[dataset.id],
                "created_us": dataset.created_us,
            }
            for dataset in changed
        ]
        if rows:
            mine = (datasets.c.tenant_id == self.tenant_id, datasets.c.id == bindparam("dataset"))
            self.connection.execute(update(datasets).where(*mine), rows)

    def _save_projects(self, changed: Sequence[Project]) -> None:
        for project in changed:
            row = {"budget": chain.canonical(project.budget), **amount_row("limit", project.limit)}
            key = {"tenant_id": self.tenant_id, "dataset_id": project.dataset_id, "name": project.name}
            statement = self._insert(projects).on_conflict_do_update(
                index_elements=["tenant_id", "dataset_id", "name"], set_=row
            )
            self.connection.execute(statement, [{**key, **row}])

    def _save_proposals(self, before: Books, after: Books) -> None:
        old = before.proposals
        new = [
            {
                "tenant_id": self.tenant_id,
                "id": proposal.id,
                "kind": proposal.kind,
                "dataset_id": proposal.dataset_id,
                "run_id": proposal.run_id,
                "principal_id": proposal.principal_id,
                "body": chain.canonical(proposal.body),
                "state": proposal.state,
                "created_us": proposal.created_us,
                "expires_us": proposal.expires_us,
            }
            for id_, proposal in after.proposals.items()
            if id_ not in old
        ]
        if new:
            self.connection.execute(insert(proposals), new)
        for id_, proposal in after.proposals.items():
            if id_ in old and proposal != old[id_]:
                mine = (proposals.c.tenant_id == self.tenant_id, proposals.c.id == id_)
                self.connection.execute(update(proposals).where(*mine), {"state": proposal.state})

    def _save_accounts(self, before: Books, after: Books) -> None:
        old = before.accounts
        new = [account for key, account in after.accounts.items() if key not in old]
        if new:
            rows = [{"tenant_id": self.tenant_id, **key_row(each.key), **amounts_row(each)} for each in new]
            self.connection.execute(insert(accounts), rows)
        changed = [account for key, account in after.accounts.items() if key in old and account != old[key]]
        if changed:
            parts = key_row(changed[0].key)
            mine = [
                accounts.c.tenant_id == self.tenant_id,
                *(accounts.c[name] == bindparam(f"of_{name}") for name in parts),
            ]
            rows = [
                {**{f"of_{name}": value for name, value in key_row(each.key).items()}, **amounts_row(each)}
                for each in changed
            ]
            self.connection.execute(update(accounts).where(*mine), rows)

    def _save_runs(self, before: Books, after: Books) -> None:
        new = [run_row(self.tenant_id, run) for key, run in after.runs.items() if key not in before.runs]
        if new:
            self.connection.execute(insert(runs), new)
            self.connection.execute(
                insert(places),
                [
                    {
                        "tenant_id": self.tenant_id,
                        "run_id": run.id,
                        "dataset_id": place.dataset_id,
                        "seq": place.seq,
                        "principal_id": run.principal_id,
                        "created_us": run.created_us,
                    }
                    for key, run in after.runs.items()
                    if key not in before.runs
                    for place in run.places
                ],
            )
        moved = [run for key, run in after.runs.items() if key in before.runs and run != before.runs[key]]
        if moved:
            statement = update(runs).where(runs.c.tenant_id == self.tenant_id, runs.c.id == bindparam("run"))
            rows = [
                {
                    "run": run.id,
                    "state": run.state,
                    "started_us": run.started_us,
                    "ended_us": run.ended_us,
                    "due_us": run.due_us,
                }
                for run in moved
            ]
            self.connection.execute(statement, rows)

    # --- the cache of certificates

    def keep_certificate(self, digest: bytes, body: str, *, now_us: int, rows_max: int) -> None:
        """Puts a row in the cache, in place of one of that digest, and the tenant's oldest out beyond `rows_max`."""
        mine = certificates.c.tenant_id == self.tenant_id
        self.connection.execute(delete(certificates).where(mine, certificates.c.digest == digest))
        row = {"tenant_id": self.tenant_id, "digest": digest, "body": body, "created_us": now_us}
        self.connection.execute(self._insert_new(certificates), [row])
        # A walk along the index: a millisecond at 10,000 rows, beside a computation of ten to a thousand.
        newest_first = (certificates.c.created_us.desc(), certificates.c.digest.desc())
        too_old = select(certificates.c.digest).where(mine).order_by(*newest_first).offset(rows_max)
        self.connection.execute(delete(certificates).where(mine, certificates.c.digest.in_(too_old)))

    # --- the outbox

    def tell(self, found: Sequence[Alert], *, now_us: int) -> list[UUID]:
        """Tells the tenant of these, except where it was told before: to be sent, if it has a webhook, or to be listed
        alone. The ids, in order."""
        tenant = self.tenant()
        if tenant is None:
            raise NotFound("There is no such tenant.")
        events = {id_of(tenant.id, alert): event_of(alert, tenant, at_us=now_us) for alert in found}
        new = self._add_alerts(list(events.values()), now_us=now_us, is_sent=tenant.alerting.webhook is not None)
        self.told += [events[id_]["kind"] for id_ in new]
        return list(events)

    def _add_alerts(self, events: Sequence[Mapping[str, Any]], *, now_us: int, is_sent: bool) -> list[UUID]:
        """The ids of those that were not there yet."""
        rows = [
            {
                "tenant_id": self.tenant_id,
                "id": UUID(event["id"]),
                "kind": event["kind"],
                "dataset_id": UUID(event["dataset"]["id"]) if "dataset" in event else None,
                "run_id": UUID(event["run"]) if "run" in event else None,
                "seq": event.get("seq"),
                "at_us": now_us,
                "body": chain.canonical(event),
                "state": "pending" if is_sent else "none",
                "attempts": 0,
                "next_us": now_us if is_sent else None,
            }
            for event in events
        ]
        rows.sort(key=lambda row: row["id"])
        if not rows:
            return []
        return list(self.connection.execute(self._insert_new(alerts).returning(alerts.c.id), rows).scalars())

    def lease_alerts(self, *, now_us: int, until_us: int, limit: int) -> list[KeptAlert]:
        """Takes alerts that are due, the first due first, for whoever tries to deliver them now. Until that time nobody
        else is given them; if they are not `told` of by then, they are due again. Each counts as tried."""
        mine = alerts.c.tenant_id == self.tenant_id
        due = (
            select(alerts)
            .where(mine, alerts.c.state == "pending", alerts.c.next_us <= now_us)
            .order_by(alerts.c.next_us, alerts.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        found = [alert_of(row) for row in self.connection.execute(due)]
        if found:
            taken = {"next_us": until_us, "attempts": alerts.c.attempts + 1}
            self.connection.execute(
                update(alerts).where(mine, alerts.c.id.in_([each.id for each in found])).values(taken)
            )
        return [replace(each, attempts=each.attempts + 1, next_us=until_us) for each in found]

    def tell_alert(
        self,
        leased: KeptAlert,
        *,
        state: DeliveryState,
        attempts: int,
        next_us: int | None = None,
        delivered_us: int | None = None,
        failure: str | None = None,
    ) -> bool:
        """What came of a leased alert; nothing where somebody else has leased it since, which is False."""
        mine = (alerts.c.tenant_id == self.tenant_id, alerts.c.id == leased.id, alerts.c.state == "pending")
        row = {
            "state": state,
            "attempts": attempts,
            "next_us": next_us,
            "delivered_us": delivered_us,
            "failure": failure,
        }
        told = update(alerts).where(*mine, alerts.c.attempts == leased.attempts).values(row)
        return self.connection.execute(told).rowcount == 1

    def set_alerting(self, alerting: Alerting) -> None:
        """What the tenant wants to be told of. Without a webhook, what waits to be sent is not sent any more."""
        row = {"alerting": chain.canonical(alerting.facts())}
        self.connection.execute(update(tenants).where(tenants.c.tenant_id == self.tenant_id), row)
        if alerting.webhook is None:
            waiting = (alerts.c.tenant_id == self.tenant_id, alerts.c.state == "pending")
            self.connection.execute(update(alerts).where(*waiting), {"state": "none", "next_us": None})

    def prune_alerts(self, *, rows_max: int) -> int:
        """Removes the tenant's oldest alerts beyond so many, and says how many those were."""
        mine = alerts.c.tenant_id == self.tenant_id
        newest_first = (alerts.c.at_us.desc(), alerts.c.id.desc())
        too_old = select(alerts.c.id).where(mine).order_by(*newest_first).offset(rows_max).limit(rows_max)
        return self.connection.execute(delete(alerts).where(mine, alerts.c.id.in_(too_old))).rowcount

    # --- tenants and keys

    def add_tenant(self, name: str, *, now_us: int) -> None:
        row = {
            "tenant_id": self.tenant_id,
            "name": name,
            "second_steward": 0,
            "seq": 0,
            "head": NO_HASH,
            "created_us": now_us,
        }
        if not self.connection.execute(self._insert_new(tenants).returning(tenants.c.tenant_id), [row]).all():
            raise NameTaken(name=name)

    def is_live(self, actor: Actor, *, now_us: int) -> bool:
        """Whether the key that an actor came with is still good: it may have been revoked while a request waited."""
        if actor.expires_us is not None:
            return actor.expires_us > now_us
        key = self.keys_by_id([actor.key_id]).get(actor.key_id)
        return key is not None and key.is_live(now_us)

    # --- the tenant's own journal

    def note(self, kind: str, actor: Mapping[str, Any], facts: Mapping[str, Any], *, now_us: int) -> TenantEntry:
        """Adds an entry to the tenant's own journal, whose lock is the last that a transaction takes."""
        tenant = self._tenant(select(tenants).with_for_update(key_share=True))
        if tenant is None:
            raise NotFound("There is no such tenant.")
        entry = chain.seal_of_tenant(
            kind, actor, facts, tenant_id=self.tenant_id, seq=tenant.seq + 1, prev=tenant.head, at_us=now_us
        )
        row = {"seq": entry.seq, "kind": kind, "at_us": now_us, "body": entry.body, "hash": entry.hash}
        self.connection.execute(insert(tenant_entries), {"tenant_id": self.tenant_id, **row})
        self.connection.execute(
            update(tenants).where(tenants.c.tenant_id == self.tenant_id), {"seq": entry.seq, "head": entry.hash}
        )
        return entry

    def set_policy(self, *, second_steward: bool) -> None:
        row = {"second_steward": int(second_steward)}
        self.connection.execute(update(tenants).where(tenants.c.tenant_id == self.tenant_id), row)

    def add_key(self, key: Key, digest: bytes) -> None:
        names = None if key.datasets is None else json.dumps(key.datasets)
        self.connection.execute(
            insert(keys),
            {
                "tenant_id": self.tenant_id,
                "id": key.id,
                "principal_id": key.principal_id,
                "name": key.name,
                "role": key.role,
                "digest": digest,
                "datasets": names,
                "projects": None if key.projects is None else json.dumps(key.projects),
                "created_us": key.created_us,
                "expires_us": key.expires_us,
            },
        )

    def end_key(self, key_id: UUID, *, at_us: int) -> None:
        """Lets a key expire at this time, unless it does so earlier."""
        earlier = or_(keys.c.expires_us.is_(None), keys.c.expires_us > at_us)
        mine = (keys.c.tenant_id == self.tenant_id, keys.c.id == key_id)
        self.connection.execute(update(keys).where(*mine, earlier), {"expires_us": at_us})

    def note_use(self, used: Mapping[UUID, int]) -> None:
        """When keys were used last, by id; a time before the one that is known changes nothing."""
        statement = update(keys).where(
            keys.c.tenant_id == self.tenant_id,
            keys.c.id == bindparam("key"),
            or_(keys.c.last_used_us.is_(None), keys.c.last_used_us < bindparam("at")),
        )
        rows = [{"key": id_, "at": at_us, "last_used_us": at_us} for id_, at_us in sorted(used.items())]
        if rows:
            self.connection.execute(statement, rows)

    def revoke_key(self, key_id: UUID, *, now_us: int) -> bool:
        """Revokes a key, once; says whether there is such a key."""
        mine = (keys.c.tenant_id == self.tenant_id, keys.c.id == key_id)
        self.connection.execute(update(keys).where(*mine, keys.c.revoked_us.is_(None)), {"revoked_us": now_us})
        return self.connection.execute(select(keys.c.id).where(*mine)).scalar() is not None

    def add_operator_key(self, key_id: UUID, digest: bytes, *, now_us: int) -> None:
        self.connection.execute(insert(operator_keys), {"id": key_id, "digest": digest, "created_us": now_us})

    def _insert_new(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """INSERT … ON CONFLICT DO NOTHING."""
        return self._insert(table).on_conflict_do_nothing()

    def _insert(self, table: Table) -> postgresql.Insert | sqlite.Insert:
        """INSERT … ON CONFLICT, which both databases have and SQLAlchemy keeps apart."""
        return postgresql.insert(table) if self._postgresql else sqlite.insert(table)
