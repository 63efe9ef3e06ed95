"""Row-level security; a tenant's own journal; proposals; keys limited to projects."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UID = sa.Text().with_variant(postgresql.UUID(), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
OF_TENANTS = (
    "tenants",
    "keys",
    "datasets",
    "lineage",
    "projects",
    "accounts",
    "runs",
    "places",
    "entries",
    "tenant_entries",
    "proposals",
    "claims",
    "certificates",
)


def column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


TENANT_CHECKS = {
    "tenants_second_steward": "second_steward IN (0, 1)",
    "tenants_head": "seq >= 0 AND length(head) = 32",
}


def tenants_on_postgresql() -> None:
    for added in (
        sa.Column("second_steward", BIG, nullable=False, server_default="0"),
        sa.Column("seq", BIG, nullable=False, server_default="0"),
        sa.Column("head", sa.LargeBinary(), nullable=False, server_default=sa.text(r"'\x" + "00" * 32 + "'")),
    ):
        op.add_column("tenants", added)
        op.alter_column("tenants", added.name, server_default=None)
    for name, check in TENANT_CHECKS.items():
        op.create_check_constraint(name, "tenants", check)


def tenants_on_sqlite() -> None:
    """Rebuild the table, as version 3 does for datasets: the rows are back before the transaction ends."""
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute("CREATE TABLE old_tenants AS SELECT * FROM tenants")
    op.drop_table("tenants")
    op.create_table(
        "tenants",
        column("tenant_id", UID),
        column("name", sa.Text()),
        column("second_steward", BIG),
        column("seq", BIG),
        column("head", sa.LargeBinary()),
        column("created_us", BIG),
        sa.PrimaryKeyConstraint("tenant_id", name="tenants_pkey"),
        sa.UniqueConstraint("name", name="tenants_name_key"),
        *(sa.CheckConstraint(check, name=name) for name, check in TENANT_CHECKS.items()),
        sqlite_strict=True,
    )
    op.execute(
        "INSERT INTO tenants (tenant_id, name, second_steward, seq, head, created_us)"
        " SELECT tenant_id, name, 0, 0, zeroblob(32), created_us FROM old_tenants"
    )
    op.drop_table("old_tenants")


def tables() -> None:
    op.add_column("keys", column("projects", sa.Text(), null=True))
    op.add_column("keys", column("last_used_us", BIG, null=True))
    op.create_table(
        "tenant_entries",
        column("tenant_id", UID),
        column("seq", BIG),
        column("kind", sa.Text()),
        column("at_us", BIG),
        column("body", sa.Text()),
        column("hash", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("tenant_id", "seq", name="tenant_entries_pkey"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="tenant_entries_tenant_fkey"),
        sa.CheckConstraint("seq >= 1 AND length(hash) = 32", name="tenant_entries_shape"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_table(
        "proposals",
        column("tenant_id", UID),
        column("id", UID),
        column("kind", sa.Text()),
        column("dataset_id", UID),
        column("run_id", UID, null=True),
        column("principal_id", UID),
        column("body", sa.Text()),
        column("state", sa.Text()),
        column("created_us", BIG),
        column("expires_us", BIG),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="proposals_pkey"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "dataset_id"], ["datasets.tenant_id", "datasets.id"], name="proposals_dataset_fkey"
        ),
        sa.CheckConstraint("kind IN ('budget', 'thaw', 'void')", name="proposals_kind"),
        sa.CheckConstraint("state IN ('open', 'approved', 'refused')", name="proposals_state"),
        sa.CheckConstraint("(kind = 'void') = (run_id IS NOT NULL)", name="proposals_run"),
        sqlite_strict=True,
    )
    op.create_index("proposals_newest", "proposals", ["tenant_id", "created_us", "id"])
    op.create_index("proposals_of_dataset", "proposals", ["tenant_id", "dataset_id", "state"])


SQLITE = (
    """CREATE TRIGGER tenant_entries_next BEFORE INSERT ON tenant_entries
WHEN new.seq <> 1 + (SELECT coalesce(max(seq), 0) FROM tenant_entries
                     WHERE tenant_id = new.tenant_id)
BEGIN SELECT RAISE(ABORT, 'an entry is added at the end of its journal'); END""",
    """CREATE TRIGGER tenant_entries_no_update BEFORE UPDATE ON tenant_entries
BEGIN SELECT RAISE(ABORT, 'an entry is never changed'); END""",
    """CREATE TRIGGER tenant_entries_no_delete BEFORE DELETE ON tenant_entries
BEGIN SELECT RAISE(ABORT, 'an entry is never removed'); END""",
)


def next_number(table: str, same_journal: str) -> str:
    return f"""CREATE OR REPLACE FUNCTION {table}_next() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.{table} WHERE {same_journal} AND seq = NEW.seq)
       OR NEW.seq <> 1 AND NOT EXISTS (SELECT FROM public.{table} WHERE {same_journal} AND seq = NEW.seq - 1) THEN
        RAISE EXCEPTION 'an entry is added at the end of its journal' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$"""


POSTGRESQL = (
    next_number("entries", "tenant_id = NEW.tenant_id AND dataset_id = NEW.dataset_id"),
    next_number("tenant_entries", "tenant_id = NEW.tenant_id"),
    "CREATE TRIGGER tenant_entries_next BEFORE INSERT ON tenant_entries"
    " FOR EACH ROW EXECUTE FUNCTION tenant_entries_next()",
    "CREATE TRIGGER tenant_entries_keep BEFORE UPDATE OR DELETE ON tenant_entries"
    " FOR EACH ROW EXECUTE FUNCTION entries_keep()",
    "CREATE TRIGGER tenant_entries_keep_all BEFORE TRUNCATE ON tenant_entries"
    " FOR EACH STATEMENT EXECUTE FUNCTION entries_keep()",
    *(
        f"ALTER TABLE tenant_entries ENABLE ALWAYS TRIGGER tenant_entries_{name}"
        for name in ("next", "keep", "keep_all")
    ),
)
MINE = "tenant_id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    if is_sqlite:
        tenants_on_sqlite()
    else:
        tenants_on_postgresql()
    tables()
    for statement in SQLITE if is_sqlite else POSTGRESQL:
        op.execute(statement)
    if is_sqlite:
        return
    for table in OF_TENANTS:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY {table}_tenant ON {table} USING ({MINE}) WITH CHECK ({MINE})")
    op.execute("CREATE POLICY tenants_owner ON tenants FOR SELECT TO CURRENT_USER USING (true)")
