"""All SQL, for PostgreSQL and SQLite.

A `Reading` sees one tenant in one consistent snapshot; a `Writing` changes it. Both reach rows by noun:
`reading.runs.page(…)`, `writing.outbox.add(…)`. Only six modules open a writing transaction: `ledger.service.writer`
and `ledger.operate.deploy`, and four that write no record and lock nothing else: `ledger.service.certificates` for its
cache, `ledger.service.runs` for the progress of a job, `ledger.access.sessions` for who is signed in, and
`ledger.alerting.lookout` for its lease. Rows are locked in
one order everywhere: idempotency keys (sorted), dataset names (sorted), datasets (by id); the rows of a dataset
(accounts, projects, runs, entries) are protected by its lock; the tenant's own journal comes last.

On PostgreSQL each transaction first sets its tenant, for row-level security (see `ledger.store.tables`). The predicates
on `tenant_id` in every statement do not rely on that: SQLite has none.

    engines       how each database is opened, and the transactions that begin there
    transactions  Reading and Writing: the nouns that each of them has
    repository    what the readers and writers of all nouns have
    rows          rows of tables as the nouns of `ledger.core`, and back
    overview      all tenants at once, by the statements of `watching`; and leases, for tasks of one process only

The other modules but `columns`, `tables`, `guards` and `watching`, which declare the schema, are one noun each.
"""

from ledger.core.people import Key
from ledger.store.claims import Claimed, OwnKey
from ledger.store.engines import DAMAGED, Store, engine_for, failure_kind
from ledger.store.guards import FAMILIAR_BYTES
from ledger.store.overview import Overview
from ledger.store.transactions import Reading, Snapshot, Writing

__all__ = [
    "DAMAGED",
    "FAMILIAR_BYTES",
    "Claimed",
    "Key",
    "Overview",
    "OwnKey",
    "Reading",
    "Snapshot",
    "Store",
    "Writing",
    "engine_for",
    "failure_kind",
]
