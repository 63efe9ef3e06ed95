"""A third adjacency: one unit's data is replaced by nothing."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

UID = sa.Text().with_variant(postgresql.UUID(), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NAME, CHECK = "datasets_adjacency", "adjacency IN ('add_or_remove_one', 'replace_one', 'zero_out')"
TEXTS = ("name", "title", "description", "privacy_unit", "adjacency", "bound")
COLUMNS = (
    "tenant_id, id, name, title, description, privacy_unit, adjacency, bound, size, is_partitioned,"
    " ceiling_mu_sq_pico, ceiling_delta_atto, budget, limit_mu_sq_pico, limit_delta_atto, fair_use, state, seq, head,"
    " created_us, costing, least_seq, least_mu_sq_pico, least_delta_atto"
)


def column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def amount(name: str) -> list[sa.Column[Any]]:
    return [column(f"{name}_{quantity}", BIG, null=True) for quantity in ("mu_sq_pico", "delta_atto")]


def limit_range(name: str) -> sa.CheckConstraint:
    mu, delta = f"{name}_mu_sq_pico", f"{name}_delta_atto"
    return sa.CheckConstraint(
        f"({mu} IS NULL) = ({delta} IS NULL) AND ({mu} IS NULL OR ({mu} >= 0 AND {mu} <= 1000000000000000000"
        f" AND {delta} >= 0 AND {delta} <= 1000000000000000000))",
        name=f"datasets_{name}_range",
    )


def on_postgresql() -> None:
    op.drop_constraint(NAME, "datasets")
    op.create_check_constraint(NAME, "datasets", CHECK)


def on_sqlite() -> None:
    """Rebuild the table, as version 3 does: the rows are back before the transaction ends."""
    op.execute("PRAGMA defer_foreign_keys = ON")
    op.execute("CREATE TABLE old_datasets AS SELECT * FROM datasets")
    op.drop_table("datasets")
    op.create_table(
        "datasets",
        column("tenant_id", UID),
        column("id", UID),
        *(column(name, sa.Text()) for name in TEXTS),
        column("size", BIG, null=True),
        column("is_partitioned", BIG),
        *amount("ceiling"),
        column("budget", sa.Text(), null=True),
        *amount("limit"),
        column("fair_use", sa.Text(), null=True),
        column("state", sa.Text()),
        column("seq", BIG),
        column("head", sa.LargeBinary()),
        column("created_us", BIG),
        sa.Column("costing", sa.Text(), nullable=False, server_default="standalone"),
        column("least_seq", BIG, null=True),
        *amount("least"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="datasets_pkey"),
        sa.UniqueConstraint("tenant_id", "name", name="datasets_name_key"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="datasets_tenant_fkey"),
        sa.CheckConstraint(CHECK, name=NAME),
        sa.CheckConstraint("bound IN ('certified', 'clt')", name="datasets_bound"),
        sa.CheckConstraint("state IN ('active', 'frozen', 'retired')", name="datasets_state"),
        sa.CheckConstraint("seq >= 0 AND length(head) = 32", name="datasets_head"),
        sa.CheckConstraint("is_partitioned IN (0, 1)", name="datasets_is_partitioned"),
        sa.CheckConstraint("(budget IS NULL) = (limit_mu_sq_pico IS NULL)", name="datasets_budget"),
        sa.CheckConstraint(
            "ceiling_mu_sq_pico IS NULL OR (limit_mu_sq_pico IS NOT NULL AND limit_mu_sq_pico <= ceiling_mu_sq_pico"
            " AND limit_delta_atto <= ceiling_delta_atto)",
            name="datasets_within_ceiling",
        ),
        limit_range("limit"),
        limit_range("ceiling"),
        sqlite_strict=True,
    )
    op.execute(f"INSERT INTO datasets ({COLUMNS}) SELECT {COLUMNS} FROM old_datasets")
    op.drop_table("old_datasets")


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        on_sqlite()
    else:
        on_postgresql()
