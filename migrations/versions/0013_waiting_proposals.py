"""Alerts about proposals that wait; runs that wait for a steward."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

UID = sa.Text().with_variant(postgresql.UUID(), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
ALERT_KINDS = (
    "kind IN ('threshold', 'refusals', 'overrun', 'frozen', 'overdue', 'mismatch', 'forecast', 'head', 'test',"
    " 'proposal', 'lapsing')"
)
PROPOSAL_CHECKS = {
    "proposals_kind": "kind IN ('budget', 'thaw', 'void', 'partitions', 'project', 'fair-use', 'correction', 'run')",
    "proposals_run": "(kind IN ('void', 'correction', 'run')) = (run_id IS NOT NULL)",
}
OPEN, PENDING = sa.text("state = 'open'"), sa.text("state = 'pending'")
FUNCTION = """CREATE FUNCTION watched_proposals(after_us bigint, after_id uuid, until_us bigint, rows_max bigint)
RETURNS TABLE (tenant_id uuid, proposal_id uuid, expires_us bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    nobody CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
    no_hash CONSTANT bytea := decode(repeat('00', 32), 'hex');
BEGIN
    PERFORM set_config('app.watching', 'on', true);
    RETURN QUERY
SELECT p.tenant_id, p.id AS proposal_id, p.expires_us
FROM public.proposals p
WHERE p.state = 'open' AND p.expires_us < until_us AND (p.expires_us, p.id) > (after_us, after_id)
ORDER BY p.expires_us, p.id LIMIT rows_max;
    PERFORM set_config('app.watching', '', true);
END $$"""


def column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def on_postgresql() -> None:
    op.drop_constraint("alerts_kind", "alerts")
    op.create_check_constraint("alerts_kind", "alerts", ALERT_KINDS)
    for name, check in PROPOSAL_CHECKS.items():
        op.drop_constraint(name, "proposals")
        op.create_check_constraint(name, "proposals", check)
    op.execute(
        "CREATE POLICY proposals_watched ON proposals FOR SELECT TO CURRENT_USER"
        " USING (current_setting('app.watching', true) = 'on')"
    )
    op.execute(FUNCTION)
    op.execute("REVOKE ALL ON FUNCTION watched_proposals(bigint, uuid, bigint, bigint) FROM PUBLIC")


def set_aside(table: str) -> None:
    """Rename a table: SQLite cannot change constraints. No other table refers to these two."""
    op.execute(f"CREATE TABLE old_{table} AS SELECT * FROM {table}")
    op.drop_table(table)


def take_back(table: str, columns: str) -> None:
    op.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM old_{table}")
    op.drop_table(f"old_{table}")


def proposals_on_sqlite() -> None:
    set_aside("proposals")
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
        sa.CheckConstraint("state IN ('open', 'approved', 'refused')", name="proposals_state"),
        *(sa.CheckConstraint(check, name=name) for name, check in PROPOSAL_CHECKS.items()),
        sqlite_strict=True,
    )
    op.create_index("proposals_newest", "proposals", ["tenant_id", "created_us", "id"])
    op.create_index("proposals_of_dataset", "proposals", ["tenant_id", "dataset_id", "state"])
    take_back("proposals", "tenant_id, id, kind, dataset_id, run_id, principal_id, body, state, created_us, expires_us")


def alerts_on_sqlite() -> None:
    set_aside("alerts")
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
        sa.CheckConstraint(ALERT_KINDS, name="alerts_kind"),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed', 'none')", name="alerts_state"),
        sa.CheckConstraint("attempts >= 0", name="alerts_attempts"),
        sa.CheckConstraint("(state = 'pending') = (next_us IS NOT NULL)", name="alerts_next"),
        sa.CheckConstraint("(state = 'delivered') = (delivered_us IS NOT NULL)", name="alerts_delivered"),
        sqlite_strict=True,
    )
    op.create_index("alerts_newest", "alerts", ["tenant_id", "at_us", "id"])
    op.create_index("alerts_due_first", "alerts", ["tenant_id", "state", "next_us"])
    op.create_index("alerts_waiting", "alerts", ["tenant_id", "next_us"], sqlite_where=PENDING)
    take_back(
        "alerts",
        "tenant_id, id, kind, dataset_id, run_id, seq, at_us, body, state, attempts, next_us, delivered_us, failure",
    )


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        proposals_on_sqlite()
        alerts_on_sqlite()
    else:
        on_postgresql()
    op.create_index("proposals_lapsing", "proposals", ["expires_us", "id"], postgresql_where=OPEN, sqlite_where=OPEN)
