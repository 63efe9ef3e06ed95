"""Keep who is signed in to the pages, and the links that sign in once; find what is derived from a dataset."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

UID = sa.Text().with_variant(postgresql.UUID(), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MINE = "tenant_id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"


def column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def upgrade() -> None:
    op.create_table(
        "sessions",
        column("tenant_id", UID),
        column("id", UID),
        column("kind", sa.Text()),
        column("digest", sa.LargeBinary()),
        column("principal_id", UID),
        column("key_id", UID, null=True),
        column("subject", sa.Text(), null=True),
        column("csrf", sa.LargeBinary()),
        column("created_us", BIG),
        column("used_us", BIG),
        column("expires_us", BIG),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="sessions_pkey"),
        sa.UniqueConstraint("tenant_id", "digest", name="sessions_digest_key"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="sessions_tenant_fkey"),
        sa.ForeignKeyConstraint(["tenant_id", "key_id"], ["keys.tenant_id", "keys.id"], name="sessions_key_fkey"),
        sa.CheckConstraint("kind IN ('session', 'link')", name="sessions_kind"),
        sa.CheckConstraint("length(digest) = 32 AND length(csrf) = 32", name="sessions_lengths"),
        sa.CheckConstraint("(key_id IS NULL) <> (subject IS NULL)", name="sessions_holder"),
        sqlite_strict=True,
    )
    op.create_index("sessions_of_principal", "sessions", ["tenant_id", "principal_id", "created_us"])
    op.create_index("sessions_ending", "sessions", ["tenant_id", "expires_us"])
    op.create_index("lineage_of_ancestor", "lineage", ["tenant_id", "ancestor_id"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE sessions ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE sessions FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY sessions_tenant ON sessions USING ({MINE}) WITH CHECK ({MINE})")
