"""Alerts: the tenant's settings for them, and the outbox that delivers them."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

UID = sa.Text().with_variant(postgresql.UUID(), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

CHECKS = {
    "alerts_kind": "kind IN ('threshold', 'refusals', 'overrun', 'frozen', 'overdue', 'mismatch', 'forecast', 'head',"
    " 'test')",
    "alerts_state": "state IN ('pending', 'delivered', 'failed', 'none')",
    "alerts_attempts": "attempts >= 0",
    "alerts_next": "(state = 'pending') = (next_us IS NOT NULL)",
    "alerts_delivered": "(state = 'delivered') = (delivered_us IS NOT NULL)",
}
MINE = "tenant_id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
POSTGRESQL = (
    "ALTER TABLE alerts ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE alerts FORCE ROW LEVEL SECURITY",
    f"CREATE POLICY alerts_tenant ON alerts USING ({MINE}) WITH CHECK ({MINE})",
    """CREATE FUNCTION webhook_tenants() RETURNS SETOF uuid LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$ SELECT tenant_id FROM public.tenants WHERE alerting::json ->> 'webhook' IS NOT NULL ORDER BY tenant_id $$""",
    "REVOKE ALL ON FUNCTION webhook_tenants() FROM PUBLIC",
)


def column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def upgrade() -> None:
    op.add_column("tenants", column("alerting", sa.Text(), null=True))
    op.create_table(
        "alerts",
        column("tenant_id", UID),
        column("id", UID),
        column("kind", sa.Text()),
        column("dataset_id", UID, null=True),
        column("run_id", UID, null=True),
        column("seq", BIG, null=True),
        column("at_us", BIG),
        column("body", sa.Text()),
        column("state", sa.Text()),
        column("attempts", BIG),
        column("next_us", BIG, null=True),
        column("delivered_us", BIG, null=True),
        column("failure", sa.Text(), null=True),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="alerts_pkey"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="alerts_tenant_fkey"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "dataset_id"], ["datasets.tenant_id", "datasets.id"], name="alerts_dataset_fkey"
        ),
        *(sa.CheckConstraint(check, name=name) for name, check in CHECKS.items()),
        sqlite_strict=True,
    )
    op.create_index("alerts_newest", "alerts", ["tenant_id", "at_us", "id"])
    op.create_index("alerts_due_first", "alerts", ["tenant_id", "state", "next_us"])
    if op.get_bind().dialect.name == "postgresql":
        for statement in POSTGRESQL:
            op.execute(statement)
