"""The order of a run's datasets, of which the first has the request; an index of refused runs."""

import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
REFUSED = sa.text("state = 'refused'")
OF_SEVERAL = sa.text(
    "SELECT p.run_id, p.dataset_id, p.seq, d.name FROM places p"
    " JOIN datasets d ON d.tenant_id = p.tenant_id AND d.id = p.dataset_id"
    " WHERE p.tenant_id = :tenant AND p.run_id IN (SELECT run_id FROM places WHERE tenant_id = :tenant"
    " GROUP BY run_id HAVING count(*) > 1) ORDER BY p.run_id, p.dataset_id"
)
BODY = sa.text("SELECT body FROM entries WHERE tenant_id = :tenant AND dataset_id = :dataset AND seq = :seq")
ALL_FIRST = sa.text("UPDATE places SET position = 0 WHERE tenant_id = :tenant")
ONE = sa.text(
    "UPDATE places SET position = :position WHERE tenant_id = :tenant AND run_id = :run AND dataset_id = :dataset"
)


def named(request: Mapping[str, Any]) -> dict[str, int]:
    """Return the datasets that a request names, in order."""
    uses = request.get("datasets", ())
    return {use if isinstance(use, str) else use["name"]: number for number, use in enumerate(uses)}


def order(bind: sa.Connection, tenant: Any) -> None:
    """Return the datasets that a run's request names, in that order, then those that they come from, by name."""
    bind.execute(ALL_FIRST, {"tenant": tenant})
    by_run: dict[Any, list[Any]] = {}
    for row in bind.execute(OF_SEVERAL, {"tenant": tenant}):
        by_run.setdefault(row.run_id, []).append(row)
    for run, places in by_run.items():
        where = {"tenant": tenant, "dataset": places[0].dataset_id, "seq": places[0].seq}
        rank = named(json.loads(bind.execute(BODY, where).scalar_one())["request"])
        places.sort(key=lambda place: (rank.get(place.name, len(rank)), place.name))
        rows = [
            {"tenant": tenant, "run": run, "dataset": place.dataset_id, "position": position}
            for position, place in enumerate(places)
        ]
        bind.execute(ONE, rows)


def upgrade() -> None:
    op.add_column("places", sa.Column("position", BIG, nullable=True))
    bind = op.get_bind()
    on_postgresql = bind.dialect.name == "postgresql"
    for tenant in bind.execute(sa.text("SELECT tenant_id FROM tenants")).scalars().all():
        if on_postgresql:  # row-level security applies to the owner too
            bind.execute(sa.text("SELECT set_config('app.tenant_id', :tenant, true)"), {"tenant": str(tenant)})
        order(bind, tenant)
    if on_postgresql:
        bind.execute(sa.text("SELECT set_config('app.tenant_id', '', true)"))
    columns = ["tenant_id", "principal_id", "created_us"]
    op.create_index("runs_refused", "runs", columns, sqlite_where=REFUSED, postgresql_where=REFUSED)
