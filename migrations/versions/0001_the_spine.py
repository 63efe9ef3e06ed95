"""Tenants, keys, datasets, accounts, runs, entries and claims."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Independent of ledger/store/tables.py: that is the schema now, this is the schema when this migration ran.
UID = sa.Text().with_variant(postgresql.UUID(), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def tenant_fkey(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name=f"{table}_tenant_fkey")


def tenants_and_keys() -> None:
    op.create_table(
        "tenants",
        column("tenant_id", UID),
        column("name", sa.Text()),
        column("created_us", BIG),
        sa.PrimaryKeyConstraint("tenant_id", name="tenants_pkey"),
        sa.UniqueConstraint("name", name="tenants_name_key"),
        sqlite_strict=True,
    )
    op.create_table(
        "operator_keys",
        column("id", UID),
        column("digest", sa.LargeBinary()),
        column("created_us", BIG),
        column("revoked_us", BIG, null=True),
        sa.PrimaryKeyConstraint("id", name="operator_keys_pkey"),
        sa.UniqueConstraint("digest", name="operator_keys_digest_key"),
        sa.CheckConstraint("length(digest) = 32", name="operator_keys_digest_length"),
        sqlite_strict=True,
    )
    op.create_table(
        "keys",
        column("tenant_id", UID),
        column("id", UID),
        column("principal_id", UID),
        column("name", sa.Text()),
        column("role", sa.Text()),
        column("digest", sa.LargeBinary()),
        column("datasets", sa.Text(), null=True),
        column("created_us", BIG),
        column("expires_us", BIG, null=True),
        column("revoked_us", BIG, null=True),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="keys_pkey"),
        sa.UniqueConstraint("tenant_id", "digest", name="keys_digest_key"),
        tenant_fkey("keys"),
        sa.CheckConstraint("role IN ('admin', 'steward', 'requester', 'auditor')", name="keys_role"),
        sa.CheckConstraint("length(digest) = 32", name="keys_digest_length"),
        sqlite_strict=True,
    )


def datasets_and_accounts() -> None:
    op.create_table(
        "datasets",
        column("tenant_id", UID),
        column("id", UID),
        column("name", sa.Text()),
        column("title", sa.Text()),
        column("description", sa.Text()),
        column("privacy_unit", sa.Text()),
        column("adjacency", sa.Text()),
        column("bound", sa.Text()),
        column("size", BIG, null=True),
        column("budget", sa.Text()),
        column("state", sa.Text()),
        column("seq", BIG),
        column("head", sa.LargeBinary()),
        column("created_us", BIG),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="datasets_pkey"),
        sa.UniqueConstraint("tenant_id", "name", name="datasets_name_key"),
        tenant_fkey("datasets"),
        sa.CheckConstraint("adjacency IN ('add_or_remove_one', 'replace_one')", name="datasets_adjacency"),
        sa.CheckConstraint("bound IN ('certified', 'clt')", name="datasets_bound"),
        sa.CheckConstraint("state IN ('active', 'frozen', 'retired')", name="datasets_state"),
        sa.CheckConstraint("seq >= 0 AND length(head) = 32", name="datasets_head"),
        sqlite_strict=True,
    )
    amounts = [
        column(f"{part}_{quantity}", BIG)
        for part in ("limit", "spent", "held", "overdrawn")
        for quantity in ("mu_sq_pico", "delta_atto")
    ]
    ranges = [
        sa.CheckConstraint(
            f"limit_{q} >= 0 AND spent_{q} >= 0 AND held_{q} >= 0 AND overdrawn_{q} >= 0 AND overdrawn_{q} <= spent_{q}"
            f" AND limit_{q} <= 1000000000000000000",
            name=f"accounts_{q}_range",
        )
        for q in ("mu_sq_pico", "delta_atto")
    ]
    within = [
        sa.CheckConstraint(f"held_{q} <= limit_{q} - spent_{q} + overdrawn_{q}", name=f"accounts_{q}_within_limit")
        for q in ("mu_sq_pico", "delta_atto")
    ]
    op.create_table(
        "accounts",
        column("tenant_id", UID),
        column("id", UID),
        column("dataset_id", UID),
        *amounts,
        sa.PrimaryKeyConstraint("tenant_id", "id", name="accounts_pkey"),
        sa.UniqueConstraint("tenant_id", "dataset_id", name="accounts_dataset_key"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "dataset_id"], ["datasets.tenant_id", "datasets.id"], name="accounts_dataset_fkey"
        ),
        *(check for pair in zip(ranges, within, strict=True) for check in pair),
        sqlite_strict=True,
    )


def entries_and_runs() -> None:
    op.create_table(
        "entries",
        column("tenant_id", UID),
        column("dataset_id", UID),
        column("seq", BIG),
        column("kind", sa.Text()),
        column("at_us", BIG),
        column("run_id", UID, null=True),
        column("body", sa.Text()),
        column("hash", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("tenant_id", "dataset_id", "seq", name="entries_pkey"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "dataset_id"], ["datasets.tenant_id", "datasets.id"], name="entries_dataset_fkey"
        ),
        sa.CheckConstraint("seq >= 1 AND length(hash) = 32", name="entries_shape"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("entries_of_run", "entries", ["tenant_id", "run_id", "kind"])
    op.create_table(
        "runs",
        column("tenant_id", UID),
        column("id", UID),
        column("dataset_id", UID),
        column("principal_id", UID),
        column("state", sa.Text()),
        column("seq", BIG),
        column("mu_sq_pico", BIG, null=True),
        column("delta_atto", BIG, null=True),
        column("created_us", BIG),
        column("started_us", BIG, null=True),
        column("ended_us", BIG, null=True),
        column("due_us", BIG, null=True),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="runs_pkey"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "dataset_id", "seq"],
            ["entries.tenant_id", "entries.dataset_id", "entries.seq"],
            name="runs_entry_fkey",
        ),
        sa.CheckConstraint("state IN ('held', 'started', 'settled', 'voided', 'refused')", name="runs_state"),
        sa.CheckConstraint(
            "(state = 'refused' AND mu_sq_pico IS NULL AND delta_atto IS NULL)"
            " OR (state <> 'refused' AND mu_sq_pico IS NOT NULL AND mu_sq_pico >= 0"
            " AND delta_atto IS NOT NULL AND delta_atto >= 0)",
            name="runs_cost",
        ),
        sa.CheckConstraint("(state IN ('held', 'started')) = (due_us IS NOT NULL)", name="runs_due"),
        sqlite_strict=True,
    )
    op.create_index("runs_newest", "runs", ["tenant_id", "created_us", "id"])
    op.create_index("runs_of_dataset", "runs", ["tenant_id", "dataset_id", "created_us", "id"])
    op.create_index("runs_due_first", "runs", ["tenant_id", "due_us"])
    op.create_table(
        "claims",
        column("tenant_id", UID),
        column("key", sa.Text()),
        column("principal_id", UID),
        column("digest", sa.LargeBinary()),
        column("run_id", UID),
        sa.PrimaryKeyConstraint("tenant_id", "key", name="claims_pkey"),
        sa.CheckConstraint("length(digest) = 32", name="claims_digest_length"),
        tenant_fkey("claims"),
        sqlite_strict=True,
    )


SQLITE = (
    """CREATE TRIGGER entries_next BEFORE INSERT ON entries
WHEN new.seq <> 1 + (SELECT coalesce(max(seq), 0) FROM entries
                     WHERE tenant_id = new.tenant_id AND dataset_id = new.dataset_id)
BEGIN SELECT RAISE(ABORT, 'an entry is added at the end of its journal'); END""",
    """CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'an entry is never changed'); END""",
    """CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'an entry is never removed'); END""",
)

POSTGRESQL = (
    """CREATE FUNCTION entries_next() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.entries WHERE tenant_id = NEW.tenant_id
               AND dataset_id = NEW.dataset_id AND seq = NEW.seq)
       OR NEW.seq <> 1 AND NOT EXISTS (SELECT FROM public.entries WHERE tenant_id = NEW.tenant_id
                                       AND dataset_id = NEW.dataset_id AND seq = NEW.seq - 1) THEN
        RAISE EXCEPTION 'an entry is added at the end of its journal' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$""",
    """CREATE FUNCTION entries_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an entry is never changed or removed' USING ERRCODE = 'restrict_violation';
END $$""",
    "CREATE TRIGGER entries_next BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION entries_next()",
    "CREATE TRIGGER entries_keep BEFORE UPDATE OR DELETE ON entries FOR EACH ROW EXECUTE FUNCTION entries_keep()",
    "CREATE TRIGGER entries_keep_all BEFORE TRUNCATE ON entries FOR EACH STATEMENT EXECUTE FUNCTION entries_keep()",
    "ALTER TABLE entries ENABLE ALWAYS TRIGGER entries_next",
    "ALTER TABLE entries ENABLE ALWAYS TRIGGER entries_keep",
    "ALTER TABLE entries ENABLE ALWAYS TRIGGER entries_keep_all",
)


def upgrade() -> None:
    tenants_and_keys()
    datasets_and_accounts()
    entries_and_runs()
    for statement in SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL:
        op.execute(statement)
