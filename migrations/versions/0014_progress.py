"""Keep what a running job reported last: one row for each run."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

UID = sa.Text().with_variant(postgresql.UUID(), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
MINE = "tenant_id = NULLIF(current_setting('app.tenant_id', true), '')::uuid"


def column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def upgrade() -> None:
    op.create_table(
        "progress",
        column("tenant_id", UID),
        column("run_id", UID),
        column("steps", BIG),
        column("at_us", BIG),
        column("reporter", sa.Text(), null=True),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", name="progress_pkey"),
        sa.ForeignKeyConstraint(["tenant_id", "run_id"], ["runs.tenant_id", "runs.id"], name="progress_run_fkey"),
        sa.CheckConstraint("steps >= 0", name="progress_steps"),
        sqlite_strict=True,
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE progress ENABLE ROW LEVEL SECURITY")
        op.execute("ALTER TABLE progress FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY progress_tenant ON progress USING ({MINE}) WITH CHECK ({MINE})")
