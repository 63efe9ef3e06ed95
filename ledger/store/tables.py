"""The schema, for PostgreSQL and SQLite alike.

Every table of a tenant has `tenant_id` first in its primary key and in every unique key, so that one tenant cannot
learn of another through a collision, and the schema can be distributed by tenant. On PostgreSQL every such table also
has row-level security, forced on its owner too: a statement that forgets its tenant sees and writes nothing. Times are
integer microseconds (`_us`), amounts are two 64-bit integers. What the code checks before it writes, a constraint or a
trigger checks here again, so that a faulty program cannot break it: amounts are never negative, `spent + held <=
limit + overdrawn`, and an entry is added at the end of its journal or not at all.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    DDL,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    event,
    text,
)

from ledger.store import columns
from ledger.store.columns import NOBODY, Big, Uid
from ledger.store.columns import amount as _amount
from ledger.store.columns import limit_range as _limit_range
from ledger.store.columns import of_tenant as _of_tenant
from ledger.store.columns import references as _references
from ledger.store.columns import within as _within
from ledger.store.guards import (
    FAMILIAR,
    KEEP,
    OF_DATASET,
    OF_TENANT,
    after_create,
    postgresql_triggers,
    row_security,
    sqlite_triggers,
)
from ledger.store.watching import WATCHED, functions, policy

metadata = columns.metadata
_IS_OPEN: Final = text("due_us IS NOT NULL")
_IS_PENDING: Final = text("state = 'pending'")
_WAITS: Final = text("state = 'open'")


# `seq` and `head` are the newest number and hash of the tenant's own journal of keys, roles and policies. `alerting` is
# the tenant's alert settings, as JSON; NULL means the defaults.
tenants = Table(
    "tenants",
    metadata,
    Column("tenant_id", Uid, nullable=False),
    Column("name", Text, nullable=False),
    Column("second_steward", Big, nullable=False),
    Column("seq", Big, nullable=False),
    Column("head", LargeBinary, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("alerting", Text),
    PrimaryKeyConstraint("tenant_id", name="tenants_pkey"),
    UniqueConstraint("name", name="tenants_name_key"),
    CheckConstraint("second_steward IN (0, 1)", name="tenants_second_steward"),
    CheckConstraint("seq >= 0 AND length(head) = 32", name="tenants_head"),
    sqlite_strict=True,
)

# The operator belongs to no tenant: its keys are separate, and open nothing that belongs to a tenant.
operator_keys = Table(
    "operator_keys",
    metadata,
    Column("id", Uid, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("revoked_us", Big),
    PrimaryKeyConstraint("id", name="operator_keys_pkey"),
    UniqueConstraint("digest", name="operator_keys_digest_key"),
    CheckConstraint("length(digest) = 32", name="operator_keys_digest_length"),
    sqlite_strict=True,
)

# For tasks of one server process only: which one does it, and until when. It belongs to no tenant.
leases = Table(
    "leases",
    metadata,
    Column("name", Text, nullable=False),
    Column("holder", Uid, nullable=False),
    Column("until_us", Big, nullable=False),
    PrimaryKeyConstraint("name", name="leases_pkey"),
    sqlite_strict=True,
)

keys = _of_tenant(
    "keys",
    Column("id", Uid, nullable=False),
    Column("principal_id", Uid, nullable=False),
    Column("name", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("datasets", Text),
    Column("projects", Text),
    Column("created_us", Big, nullable=False),
    Column("expires_us", Big),
    Column("revoked_us", Big),
    Column("last_used_us", Big),
    UniqueConstraint("tenant_id", "digest", name="keys_digest_key"),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="keys_tenant_fkey"),
    CheckConstraint("role IN ('admin', 'steward', 'requester', 'auditor')", name="keys_role"),
    CheckConstraint("length(digest) = 32", name="keys_digest_length"),
    key=("id",),
)

# Who is signed in to the pages. A link signs in once: redeeming it removes it. `subject` is what an issuer of tokens
# vouched for, as JSON, if the holder has no key.
sessions = _of_tenant(
    "sessions",
    Column("id", Uid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("principal_id", Uid, nullable=False),
    Column("key_id", Uid),
    Column("subject", Text),
    Column("csrf", LargeBinary, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("used_us", Big, nullable=False),
    Column("expires_us", Big, nullable=False),
    UniqueConstraint("tenant_id", "digest", name="sessions_digest_key"),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="sessions_tenant_fkey"),
    _references("sessions_key_fkey", ("key_id",), "keys", ("id",)),
    CheckConstraint("kind IN ('session', 'link')", name="sessions_kind"),
    CheckConstraint("length(digest) = 32 AND length(csrf) = 32", name="sessions_lengths"),
    CheckConstraint("(key_id IS NULL) <> (subject IS NULL)", name="sessions_holder"),
    Index("sessions_of_principal", "tenant_id", "principal_id", "created_us"),
    Index("sessions_ending", "tenant_id", "expires_us"),
    key=("id",),
)

datasets = _of_tenant(
    "datasets",
    Column("id", Uid, nullable=False),
    Column("name", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("description", Text, nullable=False),
    Column("privacy_unit", Text, nullable=False),
    Column("adjacency", Text, nullable=False),
    Column("bound", Text, nullable=False),
    Column("size", Big),
    Column("is_partitioned", Big, nullable=False),
    *_amount("ceiling", nullable=True),
    Column("budget", Text),
    *_amount("limit", nullable=True),
    Column("fair_use", Text),
    Column("state", Text, nullable=False),
    Column("seq", Big, nullable=False),
    Column("head", LargeBinary, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("costing", Text, nullable=False, server_default="standalone"),
    Column("least_seq", Big),
    *_amount("least", nullable=True),
    UniqueConstraint("tenant_id", "name", name="datasets_name_key"),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="datasets_tenant_fkey"),
    CheckConstraint("adjacency IN ('add_or_remove_one', 'replace_one', 'zero_out')", name="datasets_adjacency"),
    CheckConstraint("bound IN ('certified', 'clt')", name="datasets_bound"),
    CheckConstraint("state IN ('active', 'frozen', 'retired')", name="datasets_state"),
    CheckConstraint("seq >= 0 AND length(head) = 32", name="datasets_head"),
    CheckConstraint("is_partitioned IN (0, 1)", name="datasets_is_partitioned"),
    CheckConstraint("(budget IS NULL) = (limit_mu_sq_pico IS NULL)", name="datasets_budget"),
    CheckConstraint(
        "ceiling_mu_sq_pico IS NULL OR (limit_mu_sq_pico IS NOT NULL AND limit_mu_sq_pico <= ceiling_mu_sq_pico"
        " AND limit_delta_atto <= ceiling_delta_atto)",
        name="datasets_within_ceiling",
    ),
    _limit_range("datasets", "limit"),
    _limit_range("datasets", "ceiling"),
    key=("id",),
)

# For every dataset each dataset that it is derived from, directly or through others. It never changes.
lineage = _of_tenant(
    "lineage",
    Column("dataset_id", Uid, nullable=False),
    Column("ancestor_id", Uid, nullable=False),
    Column("position", Big),
    _references("lineage_dataset_fkey", ("dataset_id",), "datasets", ("id",)),
    _references("lineage_ancestor_fkey", ("ancestor_id",), "datasets", ("id",)),
    CheckConstraint("dataset_id <> ancestor_id", name="lineage_no_cycle"),
    Index("lineage_of_ancestor", "tenant_id", "ancestor_id"),
    key=("dataset_id", "ancestor_id"),
)

projects = _of_tenant(
    "projects",
    Column("dataset_id", Uid, nullable=False),
    Column("name", Text, nullable=False),
    Column("budget", Text, nullable=False),
    *_amount("limit"),
    _references("projects_dataset_fkey", ("dataset_id",), "datasets", ("id",)),
    CheckConstraint("name <> ''", name="projects_name"),
    _limit_range("projects", "limit"),
    key=("dataset_id", "name"),
)

# The parts of a key are never NULL, so that the key identifies accounts: '' and NOBODY mean none.
accounts = _of_tenant(
    "accounts",
    Column("dataset_id", Uid, nullable=False),
    Column("partition", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("principal_id", Uid, nullable=False),
    *(column for part in ("limit", "spent", "held", "overdrawn") for column in _amount(part)),
    Column("trail", Text, nullable=False, server_default=""),
    _references("accounts_dataset_fkey", ("dataset_id",), "datasets", ("id",)),
    CheckConstraint(f"project = '' OR principal_id = '{NOBODY}'", name="accounts_holder"),
    *_within("mu_sq_pico"),
    *_within("delta_atto"),
    # By what a dataset's readers select: the base accounts, those of some partitions, a project's.
    key=("dataset_id", "project", "principal_id", "partition"),
)

_REFUSED: Final = text("state = 'refused'")

runs = _of_tenant(
    "runs",
    Column("id", Uid, nullable=False),
    Column("principal_id", Uid, nullable=False),
    Column("project", Text),
    Column("state", Text, nullable=False),
    Column("mu_sq_pico", Big),
    Column("delta_atto", Big),
    Column("created_us", Big, nullable=False),
    Column("started_us", Big),
    Column("ended_us", Big),
    Column("due_us", Big),
    Column("reported_us", Big),
    Column("r_pico", Big, nullable=False, server_default="0"),
    Column("corrections", Big, nullable=False, server_default="0"),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="runs_tenant_fkey"),
    CheckConstraint("state IN ('held', 'started', 'settled', 'voided', 'refused')", name="runs_state"),
    CheckConstraint(
        "(state = 'refused' AND mu_sq_pico IS NULL AND delta_atto IS NULL)"
        " OR (state <> 'refused' AND mu_sq_pico IS NOT NULL AND mu_sq_pico >= 0"
        " AND delta_atto IS NOT NULL AND delta_atto >= 0)",
        name="runs_cost",
    ),
    CheckConstraint("(state IN ('held', 'started')) = (due_us IS NOT NULL)", name="runs_due"),
    Index("runs_newest", "tenant_id", "created_us", "id"),
    Index("runs_of_project", "tenant_id", "project", "created_us", "id"),
    Index("runs_due_first", "tenant_id", "due_us"),
    Index(
        "runs_refused",
        *("tenant_id", "principal_id", "created_us"),
        sqlite_where=_REFUSED,
        postgresql_where=_REFUSED,
    ),
    Index("runs_late", "due_us", "id", postgresql_where=_IS_OPEN, sqlite_where=_IS_OPEN),
    key=("id",),
)

# What a running job reported last. A row stays with its run; nothing is charged by it.
progress = _of_tenant(
    "progress",
    Column("run_id", Uid, nullable=False),
    Column("steps", Big, nullable=False),
    Column("at_us", Big, nullable=False),
    Column("reporter", Text),
    _references("progress_run_fkey", ("run_id",), "runs", ("id",)),
    CheckConstraint("steps >= 0", name="progress_steps"),
    key=("run_id",),
)
# Where a run was decided: one row for each dataset that it touches, roots included. `position` is in the order in which
# answers name them; the entry of the first, 0, has the request.
places = _of_tenant(
    "places",
    Column("run_id", Uid, nullable=False),
    Column("dataset_id", Uid, nullable=False),
    Column("seq", Big, nullable=False),
    Column("principal_id", Uid, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("position", Big),
    _references("places_run_fkey", ("run_id",), "runs", ("id",)),
    _references("places_entry_fkey", ("dataset_id", "seq"), "entries", ("dataset_id", "seq")),
    Index("places_newest", "tenant_id", "dataset_id", "created_us", "run_id"),
    Index("places_of_principal", "tenant_id", "dataset_id", "principal_id", "created_us"),
    key=("run_id", "dataset_id"),
)

entries = _of_tenant(
    "entries",
    Column("dataset_id", Uid, nullable=False),
    Column("seq", Big, nullable=False),
    Column("kind", Text, nullable=False),
    Column("at_us", Big, nullable=False),
    Column("run_id", Uid),
    Column("body", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    _references("entries_dataset_fkey", ("dataset_id",), "datasets", ("id",)),
    CheckConstraint("seq >= 1 AND length(hash) = 32", name="entries_shape"),
    Index("entries_of_run", "tenant_id", "run_id", "kind"),
    key=("dataset_id", "seq"),
    sqlite_with_rowid=False,
)

# The tenant's own journal, of the same kind as a dataset's.
tenant_entries = _of_tenant(
    "tenant_entries",
    Column("seq", Big, nullable=False),
    Column("kind", Text, nullable=False),
    Column("at_us", Big, nullable=False),
    Column("body", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="tenant_entries_tenant_fkey"),
    CheckConstraint("seq >= 1 AND length(hash) = 32", name="tenant_entries_shape"),
    key=("seq",),
    sqlite_with_rowid=False,
)

# How full each dataset is, and how much of its journal is counted in `days`: prepared in the background (`store.days`).
tallies = _of_tenant(
    "tallies",
    Column("dataset_id", Uid, nullable=False),
    Column("name", Text, nullable=False),
    Column("seq", Big, nullable=False),
    Column("left_ppm", Big, nullable=False),
    Column("forecast_seq", Big, nullable=False),
    Column("forecast_us", Big, nullable=False),
    Column("ends_us", Big),
    _references("tallies_dataset_fkey", ("dataset_id",), "datasets", ("id",)),
    CheckConstraint("seq >= 0 AND forecast_seq >= 0", name="tallies_seq"),
    Index("tallies_fullest", "tenant_id", "left_ppm", "name"),
    key=("dataset_id",),
)

# The balance of an account at the end of each day on which an entry stated it. Counts of runs are the whole dataset's.
days = _of_tenant(
    "days",
    Column("dataset_id", Uid, nullable=False),
    Column("project", Text, nullable=False),
    Column("partition", Text, nullable=False),
    Column("day", Big, nullable=False),
    Column("seq", Big, nullable=False),
    *(column for part in ("limit", "spent", "held", "remaining") for column in _amount(part)),
    Column("approvals", Big, nullable=False),
    Column("refusals", Big, nullable=False),
    Column("least_seq", Big),
    *_amount("least", nullable=True),
    _references("days_dataset_fkey", ("dataset_id",), "datasets", ("id",)),
    CheckConstraint("day >= 0 AND seq >= 1 AND approvals >= 0 AND refusals >= 0", name="days_counts"),
    key=("dataset_id", "project", "partition", "day"),
    sqlite_with_rowid=False,
)

# What one steward proposed and a second one must approve. `body` is everything needed to do it.
proposals = _of_tenant(
    "proposals",
    Column("id", Uid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("dataset_id", Uid, nullable=False),
    Column("run_id", Uid),
    Column("principal_id", Uid, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_us", Big, nullable=False),
    Column("expires_us", Big, nullable=False),
    _references("proposals_dataset_fkey", ("dataset_id",), "datasets", ("id",)),
    CheckConstraint(
        "kind IN ('budget', 'thaw', 'void', 'partitions', 'project', 'fair-use', 'correction', 'run')",
        name="proposals_kind",
    ),
    CheckConstraint("state IN ('open', 'approved', 'refused')", name="proposals_state"),
    CheckConstraint("(kind IN ('void', 'correction', 'run')) = (run_id IS NOT NULL)", name="proposals_run"),
    Index("proposals_newest", "tenant_id", "created_us", "id"),
    Index("proposals_of_dataset", "tenant_id", "dataset_id", "state"),
    Index("proposals_open", "tenant_id", "expires_us", postgresql_where=_WAITS, sqlite_where=_WAITS),
    Index("proposals_lapsing", "expires_us", "id", postgresql_where=_WAITS, sqlite_where=_WAITS),
    key=("id",),
)

# Idempotency keys belong to a principal: nobody can use another's, or learn which exist.
claims = _of_tenant(
    "claims",
    Column("principal_id", Uid, nullable=False),
    Column("key", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("run_id", Uid, nullable=False),
    CheckConstraint("length(digest) = 32", name="claims_digest_length"),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="claims_tenant_fkey"),
    key=("principal_id", "key"),
)

# Alerts, and the state of their delivery: an outbox, filled in the transaction that raised them. `body` is the event as
# it is signed. Bounded by `ledger.alerting.watch`, which removes the oldest first.
alerts = _of_tenant(
    "alerts",
    Column("id", Uid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("dataset_id", Uid),
    Column("run_id", Uid),
    Column("seq", Big),
    Column("at_us", Big, nullable=False),
    Column("body", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Big, nullable=False),
    Column("next_us", Big),
    Column("delivered_us", Big),
    Column("failure", Text),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="alerts_tenant_fkey"),
    _references("alerts_dataset_fkey", ("dataset_id",), "datasets", ("id",)),
    CheckConstraint(
        "kind IN ('threshold', 'refusals', 'overrun', 'frozen', 'overdue', 'mismatch', 'forecast', 'head', 'test',"
        " 'proposal', 'lapsing')",
        name="alerts_kind",
    ),
    CheckConstraint("state IN ('pending', 'delivered', 'failed', 'none')", name="alerts_state"),
    CheckConstraint("attempts >= 0", name="alerts_attempts"),
    CheckConstraint("(state = 'pending') = (next_us IS NOT NULL)", name="alerts_next"),
    CheckConstraint("(state = 'delivered') = (delivered_us IS NOT NULL)", name="alerts_delivered"),
    Index("alerts_newest", "tenant_id", "at_us", "id"),
    Index("alerts_due_first", "tenant_id", "state", "next_us"),
    Index("alerts_waiting", "tenant_id", "next_us", postgresql_where=_IS_PENDING, sqlite_where=_IS_PENDING),
    key=("id",),
)

# A cache, not a record: rows come and go, and nothing refers to one.
certificates = _of_tenant(
    "certificates",
    Column("digest", LargeBinary, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_us", Big, nullable=False),
    CheckConstraint("length(digest) = 32", name="certificates_digest_length"),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="certificates_tenant_fkey"),
    Index("certificates_oldest", "tenant_id", "created_us", "digest"),
    key=("digest",),
)


# --- entries are only ever added -------------------------------------------------------------------------------------
#
# The back doors that are closed here. SQLite's INSERT OR REPLACE does not fire a DELETE trigger (recursive_triggers is
# off by default), but the INSERT trigger comes first, and a number that is not the next one never gets as far as
# replacing anything; the next number with an older entry's rowid would, so the table has no rowids. PostgreSQL's
# TRUNCATE passes row triggers, so it has a statement trigger of its own; ENABLE ALWAYS keeps them on under
# session_replication_role. The table that the function reads is named with its schema, because any role may make a
# temporary one called entries; it asks for the number itself and the one before, and not for the greatest, for which
# PostgreSQL 15 chose a plan that got slower with every entry.


event.listen(metadata, "before_create", DDL(KEEP).execute_if(dialect="postgresql"))
for _journal, _same in ((entries, OF_DATASET), (tenant_entries, OF_TENANT)):
    after_create(_journal, "sqlite", *sqlite_triggers(_journal.name, _same.replace("NEW.", "new.")))
    after_create(_journal, "postgresql", *postgresql_triggers(_journal.name, _same))


# --- one tenant's rows, whatever a statement forgets -----------------------------------------------------------------
#
# A transaction sets its tenant (`ledger.store`), with SET LOCAL, so that nothing of it is left to the next one on the
# connection. Afterwards the setting reads '', not NULL: NULLIF makes both a tenant that does not exist. Only the role
# that migrates may list the tenants' names: to check every journal, and to let an admin back in.


for _table in metadata.tables.values():
    if "tenant_id" in _table.columns:
        after_create(_table, "postgresql", *row_security(_table.name))
after_create(tenants, "postgresql", "CREATE POLICY tenants_owner ON tenants FOR SELECT TO CURRENT_USER USING (true)")
for _name in WATCHED:
    after_create(metadata.tables[_name], "postgresql", policy(_name))
for _statement in functions():
    event.listen(metadata, "after_create", DDL(_statement.replace("%", "%%")).execute_if(dialect="postgresql"))
after_create(keys, "postgresql", *FAMILIAR)
