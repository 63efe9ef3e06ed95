"""Keep how full each dataset is, and its balance at the end of each day. A running server fills both from the
journals."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

UID = sa.Text().with_variant(postgresql.UUID(), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MINE = "tenant_id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"
QUANTITIES = ("mu_sq_pico", "delta_atto")
NO_BUDGET_PPM = 1_000_001
WHOLE_PPM = 1_000_000


def column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def dataset_key(table: str) -> sa.ForeignKeyConstraint:
    columns, remote = ["tenant_id", "dataset_id"], ["datasets.tenant_id", "datasets.id"]
    return sa.ForeignKeyConstraint(columns, remote, name=f"{table}_dataset_fkey")


def upgrade() -> None:
    op.create_table(
        "tallies",
        column("tenant_id", UID),
        column("dataset_id", UID),
        column("name", sa.Text()),
        *(column(name, BIG) for name in ("seq", "left_ppm", "forecast_seq", "forecast_us")),
        column("ends_us", BIG, null=True),
        sa.PrimaryKeyConstraint("tenant_id", "dataset_id", name="tallies_pkey"),
        dataset_key("tallies"),
        sa.CheckConstraint("seq >= 0 AND forecast_seq >= 0", name="tallies_seq"),
        sqlite_strict=True,
    )
    op.create_index("tallies_fullest", "tallies", ["tenant_id", "left_ppm", "name"])
    amounts = [f"{part}_{quantity}" for part in ("limit", "spent", "held", "remaining") for quantity in QUANTITIES]
    op.create_table(
        "days",
        column("tenant_id", UID),
        column("dataset_id", UID),
        column("project", sa.Text()),
        column("partition", sa.Text()),
        *(column(name, BIG) for name in ("day", "seq", *amounts, "approvals", "refusals")),
        column("least_seq", BIG, null=True),
        *(column(f"least_{quantity}", BIG, null=True) for quantity in QUANTITIES),
        sa.PrimaryKeyConstraint("tenant_id", "dataset_id", "project", "partition", "day", name="days_pkey"),
        dataset_key("days"),
        sa.CheckConstraint("day >= 0 AND seq >= 1 AND approvals >= 0 AND refusals >= 0", name="days_counts"),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    is_open = sa.text("state = 'open'")
    op.create_index(
        "proposals_open",
        *("proposals", ["tenant_id", "expires_us"]),
        postgresql_where=is_open,
        sqlite_where=is_open,
    )
    _fill()
    if op.get_bind().dialect.name == "postgresql":
        for table in ("tallies", "days"):
            op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
            op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
            op.execute(f"CREATE POLICY {table}_tenant ON {table} USING ({MINE}) WITH CHECK ({MINE})")


def _fill() -> None:
    """Insert a row for each dataset that there is, with nothing counted yet."""
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    if is_postgresql:  # row security holds for the owner too
        op.execute("ALTER TABLE datasets NO FORCE ROW LEVEL SECURITY")
    op.execute(
        "INSERT INTO tallies (tenant_id, dataset_id, name, seq, left_ppm, forecast_seq, forecast_us)"
        f" SELECT tenant_id, id, name, 0, CASE WHEN limit_mu_sq_pico IS NULL THEN {NO_BUDGET_PPM} ELSE {WHOLE_PPM} END,"
        " 0, 0 FROM datasets"
    )
    if is_postgresql:
        op.execute("ALTER TABLE datasets FORCE ROW LEVEL SECURITY")
