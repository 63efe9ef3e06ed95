"""Idempotency keys of principals; more changes that need two people; reported numbers that wait for confirmation.

An idempotency key stays with the principal that used it, which its row names already.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

UID = sa.Text().with_variant(postgresql.UUID(), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
PROPOSAL_CHECKS = {
    "proposals_kind": "kind IN ('budget', 'thaw', 'void', 'partitions', 'project', 'fair-use', 'correction')",
    "proposals_run": "(kind IN ('void', 'correction')) = (run_id IS NOT NULL)",
}


def column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def on_postgresql() -> None:
    op.drop_constraint("claims_pkey", "claims")
    op.create_primary_key("claims_pkey", "claims", ["tenant_id", "principal_id", "key"])
    for name, check in PROPOSAL_CHECKS.items():
        op.drop_constraint(name, "proposals")
        op.create_check_constraint(name, "proposals", check)


def set_aside(table: str) -> None:
    """Rename a table: SQLite cannot change constraints. No other table refers to these two."""
    op.execute(f"CREATE TABLE old_{table} AS SELECT * FROM {table}")
    op.drop_table(table)


def take_back(table: str, columns: str) -> None:
    op.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM old_{table}")
    op.drop_table(f"old_{table}")


def claims_on_sqlite() -> None:
    set_aside("claims")
    op.create_table(
        "claims",
        column("tenant_id", UID),
        column("principal_id", UID),
        column("key", sa.Text()),
        column("digest", sa.LargeBinary()),
        column("run_id", UID),
        sa.PrimaryKeyConstraint("tenant_id", "principal_id", "key", name="claims_pkey"),
        sa.CheckConstraint("length(digest) = 32", name="claims_digest_length"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="claims_tenant_fkey"),
        sqlite_strict=True,
    )
    take_back("claims", "tenant_id, principal_id, key, digest, run_id")


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


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        claims_on_sqlite()
        proposals_on_sqlite()
    else:
        on_postgresql()
    op.add_column("runs", column("reported_us", BIG, null=True))
