"""Accounts of partitions, projects and principals; runs on several datasets; lineage.

A database of version 2 has one account for each dataset and one dataset for each run. Its rows move into the new tables
unchanged; its journals stay unchanged, and remain readable.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UID = sa.Text().with_variant(postgresql.UUID(), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
NOBODY = "00000000-0000-0000-0000-000000000000"
QUANTITIES = ("mu_sq_pico", "delta_atto")
PARTS = ("limit", "spent", "held", "overdrawn")


def column(name: str, kind: Any, *, null: bool = False) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null)


def limit_range(table: str, name: str) -> sa.CheckConstraint:
    mu, delta = f"{name}_mu_sq_pico", f"{name}_delta_atto"
    return sa.CheckConstraint(
        f"({mu} IS NULL) = ({delta} IS NULL) AND ({mu} IS NULL OR ({mu} >= 0 AND {mu} <= 1000000000000000000"
        f" AND {delta} >= 0 AND {delta} <= 1000000000000000000))",
        name=f"{table}_{name}_range",
    )


def of_dataset(table: str, *names: str) -> list[sa.ForeignKeyConstraint]:
    return [
        sa.ForeignKeyConstraint(
            ["tenant_id", f"{name}_id"], ["datasets.tenant_id", "datasets.id"], name=f"{table}_{name}_fkey"
        )
        for name in names
    ]


def set_aside(table: str) -> None:
    """Rename a table. Constraints and indexes can keep their names only if the old table is gone before the new one is
    made."""
    op.execute(f"CREATE TABLE old_{table} AS SELECT * FROM {table}")
    op.drop_table(table)


DATASET_CHECKS = {
    "datasets_is_partitioned": "is_partitioned IN (0, 1)",
    "datasets_budget": "(budget IS NULL) = (limit_mu_sq_pico IS NULL)",
    "datasets_within_ceiling": (
        "ceiling_mu_sq_pico IS NULL OR (limit_mu_sq_pico IS NOT NULL AND limit_mu_sq_pico <= ceiling_mu_sq_pico"
        " AND limit_delta_atto <= ceiling_delta_atto)"
    ),
}
DATASET_COLUMNS = (
    "tenant_id, id, name, title, description, privacy_unit, adjacency, bound, size, budget, state, seq, head,"
    " created_us"
)


def datasets_on_postgresql() -> None:
    op.add_column("datasets", sa.Column("is_partitioned", BIG, nullable=False, server_default="0"))
    op.alter_column("datasets", "is_partitioned", server_default=None)
    op.alter_column("datasets", "budget", nullable=True)
    for name in ("ceiling", "limit"):
        for quantity in QUANTITIES:
            op.add_column("datasets", column(f"{name}_{quantity}", BIG, null=True))
    op.add_column("datasets", column("fair_use", sa.Text(), null=True))
    op.execute(
        "UPDATE datasets d SET limit_mu_sq_pico = a.limit_mu_sq_pico, limit_delta_atto = a.limit_delta_atto"
        " FROM accounts a WHERE a.tenant_id = d.tenant_id AND a.dataset_id = d.id"
    )
    for name, check in DATASET_CHECKS.items():
        op.create_check_constraint(name, "datasets", check)
    for within in (limit_range("datasets", name) for name in ("limit", "ceiling")):
        op.create_check_constraint(str(within.name), "datasets", within.sqltext)


def datasets_on_sqlite() -> None:
    """Rebuild the table: SQLite cannot change constraints. The rows are back before the transaction ends."""
    op.execute("PRAGMA defer_foreign_keys = ON")
    set_aside("datasets")
    op.create_table(
        "datasets",
        column("tenant_id", UID),
        column("id", UID),
        *(column(name, sa.Text()) for name in ("name", "title", "description", "privacy_unit", "adjacency", "bound")),
        column("size", BIG, null=True),
        column("is_partitioned", BIG),
        *(column(f"ceiling_{quantity}", BIG, null=True) for quantity in QUANTITIES),
        column("budget", sa.Text(), null=True),
        *(column(f"limit_{quantity}", BIG, null=True) for quantity in QUANTITIES),
        column("fair_use", sa.Text(), null=True),
        column("state", sa.Text()),
        column("seq", BIG),
        column("head", sa.LargeBinary()),
        column("created_us", BIG),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="datasets_pkey"),
        sa.UniqueConstraint("tenant_id", "name", name="datasets_name_key"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="datasets_tenant_fkey"),
        sa.CheckConstraint("adjacency IN ('add_or_remove_one', 'replace_one')", name="datasets_adjacency"),
        sa.CheckConstraint("bound IN ('certified', 'clt')", name="datasets_bound"),
        sa.CheckConstraint("state IN ('active', 'frozen', 'retired')", name="datasets_state"),
        sa.CheckConstraint("seq >= 0 AND length(head) = 32", name="datasets_head"),
        *(sa.CheckConstraint(check, name=name) for name, check in DATASET_CHECKS.items()),
        limit_range("datasets", "limit"),
        limit_range("datasets", "ceiling"),
        sqlite_strict=True,
    )
    limits = ", ".join(
        f"(SELECT a.limit_{quantity} FROM accounts a WHERE a.tenant_id = d.tenant_id AND a.dataset_id = d.id)"
        for quantity in QUANTITIES
    )
    op.execute(
        f"INSERT INTO datasets ({DATASET_COLUMNS}, is_partitioned, limit_mu_sq_pico, limit_delta_atto)"
        f" SELECT {DATASET_COLUMNS}, 0, {limits} FROM old_datasets d"
    )
    op.drop_table("old_datasets")


def lineage_and_projects() -> None:
    op.create_table(
        "lineage",
        column("tenant_id", UID),
        column("dataset_id", UID),
        column("ancestor_id", UID),
        column("position", BIG, null=True),
        sa.PrimaryKeyConstraint("tenant_id", "dataset_id", "ancestor_id", name="lineage_pkey"),
        *of_dataset("lineage", "dataset", "ancestor"),
        sa.CheckConstraint("dataset_id <> ancestor_id", name="lineage_no_cycle"),
        sqlite_strict=True,
    )
    op.create_table(
        "projects",
        column("tenant_id", UID),
        column("dataset_id", UID),
        column("name", sa.Text()),
        column("budget", sa.Text()),
        *(column(f"limit_{quantity}", BIG) for quantity in QUANTITIES),
        sa.PrimaryKeyConstraint("tenant_id", "dataset_id", "name", name="projects_pkey"),
        *of_dataset("projects", "dataset"),
        sa.CheckConstraint("name <> ''", name="projects_name"),
        limit_range("projects", "limit"),
        sqlite_strict=True,
    )


def accounts() -> None:
    set_aside("accounts")
    amounts = [f"{part}_{quantity}" for part in PARTS for quantity in QUANTITIES]
    checks: list[sa.CheckConstraint] = []
    for q in QUANTITIES:
        checks += [
            sa.CheckConstraint(
                f"limit_{q} >= 0 AND spent_{q} >= 0 AND held_{q} >= 0 AND overdrawn_{q} >= 0"
                f" AND overdrawn_{q} <= spent_{q} AND limit_{q} <= 1000000000000000000",
                name=f"accounts_{q}_range",
            ),
            sa.CheckConstraint(f"held_{q} <= limit_{q} - spent_{q} + overdrawn_{q}", name=f"accounts_{q}_within_limit"),
        ]
    op.create_table(
        "accounts",
        column("tenant_id", UID),
        column("dataset_id", UID),
        column("partition", sa.Text()),
        column("project", sa.Text()),
        column("principal_id", UID),
        *(column(name, BIG) for name in amounts),
        sa.PrimaryKeyConstraint(
            "tenant_id", "dataset_id", "project", "principal_id", "partition", name="accounts_pkey"
        ),
        *of_dataset("accounts", "dataset"),
        sa.CheckConstraint(f"project = '' OR principal_id = '{NOBODY}'", name="accounts_holder"),
        *checks,
        sqlite_strict=True,
    )
    nobody = f"'{NOBODY}'" if op.get_bind().dialect.name == "sqlite" else f"'{NOBODY}'::uuid"
    op.execute(
        f"INSERT INTO accounts (tenant_id, dataset_id, partition, project, principal_id, {', '.join(amounts)})"
        f" SELECT tenant_id, dataset_id, '', '', {nobody}, {', '.join(amounts)} FROM old_accounts"
    )
    op.drop_table("old_accounts")


def runs() -> None:
    set_aside("runs")
    op.create_table(
        "runs",
        column("tenant_id", UID),
        column("id", UID),
        column("principal_id", UID),
        column("project", sa.Text(), null=True),
        column("state", sa.Text()),
        column("mu_sq_pico", BIG, null=True),
        column("delta_atto", BIG, null=True),
        column("created_us", BIG),
        column("started_us", BIG, null=True),
        column("ended_us", BIG, null=True),
        column("due_us", BIG, null=True),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="runs_pkey"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="runs_tenant_fkey"),
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
    kept = "tenant_id, id, principal_id, state, mu_sq_pico, delta_atto, created_us, started_us, ended_us, due_us"
    op.execute(f"INSERT INTO runs ({kept}) SELECT {kept} FROM old_runs")
    op.create_index("runs_newest", "runs", ["tenant_id", "created_us", "id"])
    op.create_index("runs_of_project", "runs", ["tenant_id", "project", "created_us", "id"])
    op.create_index("runs_due_first", "runs", ["tenant_id", "due_us"])
    op.create_table(
        "places",
        column("tenant_id", UID),
        column("run_id", UID),
        column("dataset_id", UID),
        column("seq", BIG),
        column("principal_id", UID),
        column("created_us", BIG),
        sa.PrimaryKeyConstraint("tenant_id", "run_id", "dataset_id", name="places_pkey"),
        sa.ForeignKeyConstraint(["tenant_id", "run_id"], ["runs.tenant_id", "runs.id"], name="places_run_fkey"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "dataset_id", "seq"],
            ["entries.tenant_id", "entries.dataset_id", "entries.seq"],
            name="places_entry_fkey",
        ),
        sqlite_strict=True,
    )
    op.create_index("places_newest", "places", ["tenant_id", "dataset_id", "created_us", "run_id"])
    op.create_index("places_of_principal", "places", ["tenant_id", "dataset_id", "principal_id", "created_us"])
    op.execute(
        "INSERT INTO places (tenant_id, run_id, dataset_id, seq, principal_id, created_us)"
        " SELECT tenant_id, id, dataset_id, seq, principal_id, created_us FROM old_runs"
    )
    op.drop_table("old_runs")


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        datasets_on_sqlite()
    else:
        datasets_on_postgresql()
    lineage_and_projects()
    accounts()
    runs()
