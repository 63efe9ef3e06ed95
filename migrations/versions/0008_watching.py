"""Find changes among all tenants with a few statements, in one process: functions, indexes, leases."""

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

UID = sa.Text().with_variant(postgresql.UUID(), "postgresql")
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
FUNCTIONS = (
    """CREATE FUNCTION watched_late(after_us bigint, after_id uuid, until_us bigint, rows_max bigint)
RETURNS TABLE (tenant_id uuid, run_id uuid, due_us bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    nobody CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
    no_hash CONSTANT bytea := decode(repeat('00', 32), 'hex');
BEGIN
    PERFORM set_config('app.watching', 'on', true);
    RETURN QUERY
SELECT r.tenant_id, r.id AS run_id, r.due_us
FROM public.runs r
WHERE r.due_us < until_us AND (r.due_us, r.id) > (after_us, after_id)
ORDER BY r.due_us, r.id LIMIT rows_max;
    PERFORM set_config('app.watching', '', true);
END $$""",
    "REVOKE ALL ON FUNCTION watched_late(bigint, uuid, bigint, bigint) FROM PUBLIC",
    """CREATE FUNCTION watched_journals(after_tenant uuid, after_id uuid, rows_max bigint)
RETURNS TABLE (tenant_id uuid, id uuid, seq bigint, head bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    nobody CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
    no_hash CONSTANT bytea := decode(repeat('00', 32), 'hex');
BEGIN
    PERFORM set_config('app.watching', 'on', true);
    RETURN QUERY
SELECT j.tenant_id, j.id, j.seq, j.head
FROM (SELECT * FROM (SELECT t.tenant_id, nobody AS id, t.seq, t.head FROM public.tenants t
                     WHERE t.tenant_id > after_tenant
                     ORDER BY t.tenant_id LIMIT rows_max) own
      UNION ALL
      SELECT * FROM (SELECT d.tenant_id, d.id, d.seq, d.head FROM public.datasets d
                     WHERE d.seq > 0 AND (d.tenant_id, d.id) > (after_tenant, after_id)
                     ORDER BY d.tenant_id, d.id LIMIT rows_max) ours) j
ORDER BY j.tenant_id, j.id LIMIT rows_max;
    PERFORM set_config('app.watching', '', true);
END $$""",
    "REVOKE ALL ON FUNCTION watched_journals(uuid, uuid, bigint) FROM PUBLIC",
    """CREATE FUNCTION watched_ends(after_tenant uuid, after_id uuid, rows_max bigint)
RETURNS TABLE (tenant_id uuid, id uuid, is_broken boolean, looked bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    nobody CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
    no_hash CONSTANT bytea := decode(repeat('00', 32), 'hex');
BEGIN
    PERFORM set_config('app.watching', 'on', true);
    RETURN QUERY
SELECT c.tenant_id, c.id, c.is_broken, c.looked
FROM (SELECT j.tenant_id, j.id, count(*) OVER () AS looked,
             lead(j.id) OVER (ORDER BY j.tenant_id, j.id) IS NULL AS is_last,
             CASE WHEN j.id = nobody THEN
CASE WHEN j.seq = 0 THEN j.head <> no_hash ELSE
    coalesce((SELECT e.hash <> j.head OR sha256(convert_to(e.body, 'UTF8')) <> e.hash
              FROM public.tenant_entries e WHERE e.tenant_id = j.tenant_id AND e.seq = j.seq),
             true) END
OR EXISTS (SELECT 1 FROM public.tenant_entries e WHERE e.tenant_id = j.tenant_id AND e.seq > j.seq)
             ELSE
CASE WHEN j.seq = 0 THEN j.head <> no_hash ELSE
    coalesce((SELECT e.hash <> j.head OR sha256(convert_to(e.body, 'UTF8')) <> e.hash
              FROM public.entries e WHERE e.tenant_id = j.tenant_id AND e.dataset_id = j.id AND e.seq = j.seq),
             true) END
OR EXISTS (SELECT 1 FROM public.entries e WHERE e.tenant_id = j.tenant_id AND e.dataset_id = j.id AND e.seq > j.seq)
             END AS is_broken
      FROM (SELECT j.tenant_id, j.id, j.seq, j.head
FROM (SELECT * FROM (SELECT t.tenant_id, nobody AS id, t.seq, t.head FROM public.tenants t
                     WHERE t.tenant_id > after_tenant
                     ORDER BY t.tenant_id LIMIT rows_max) own
      UNION ALL
      SELECT * FROM (SELECT d.tenant_id, d.id, d.seq, d.head FROM public.datasets d
                     WHERE d.seq > 0 AND (d.tenant_id, d.id) > (after_tenant, after_id)
                     ORDER BY d.tenant_id, d.id LIMIT rows_max) ours) j
ORDER BY j.tenant_id, j.id LIMIT rows_max) j) c
WHERE c.is_broken OR c.is_last
ORDER BY c.tenant_id, c.id;
    PERFORM set_config('app.watching', '', true);
END $$""",
    "REVOKE ALL ON FUNCTION watched_ends(uuid, uuid, bigint) FROM PUBLIC",
    """CREATE FUNCTION watched_alerts()
RETURNS TABLE (tenant_id uuid, waiting bigint, next_us bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    nobody CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
    no_hash CONSTANT bytea := decode(repeat('00', 32), 'hex');
BEGIN
    PERFORM set_config('app.watching', 'on', true);
    RETURN QUERY
SELECT a.tenant_id, count(*) AS waiting, min(a.next_us) AS next_us
FROM public.alerts a WHERE a.state = 'pending' GROUP BY a.tenant_id ORDER BY a.tenant_id;
    PERFORM set_config('app.watching', '', true);
END $$""",
    "REVOKE ALL ON FUNCTION watched_alerts() FROM PUBLIC",
    """CREATE FUNCTION watched_positions()
RETURNS TABLE (tenant_id uuid, "position" bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    nobody CONSTANT uuid := '00000000-0000-0000-0000-000000000000';
    no_hash CONSTANT bytea := decode(repeat('00', 32), 'hex');
BEGIN
    PERFORM set_config('app.watching', 'on', true);
    RETURN QUERY
SELECT t.tenant_id,
       CAST(t.seq + coalesce((SELECT sum(d.seq) FROM public.datasets d WHERE d.tenant_id = t.tenant_id), 0) AS bigint)
       AS position
FROM public.tenants t ORDER BY t.tenant_id;
    PERFORM set_config('app.watching', '', true);
END $$""",
    "REVOKE ALL ON FUNCTION watched_positions() FROM PUBLIC",
)


def column(name: str, kind: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def where(condition: str) -> dict[str, Any]:
    return {f"{dialect}_where": sa.text(condition) for dialect in ("postgresql", "sqlite")}


def upgrade() -> None:
    op.create_table(
        "leases",
        column("name", sa.Text()),
        column("holder", UID),
        column("until_us", BIG),
        sa.PrimaryKeyConstraint("name", name="leases_pkey"),
        sqlite_strict=True,
    )
    op.create_index("runs_late", "runs", ["due_us", "id"], **where("due_us IS NOT NULL"))
    op.create_index("alerts_waiting", "alerts", ["tenant_id", "next_us"], **where("state = 'pending'"))
    if op.get_bind().dialect.name == "postgresql":
        for table in ("datasets", "runs", "entries", "tenant_entries", "alerts"):
            op.execute(
                f"CREATE POLICY {table}_watched ON {table} FOR SELECT TO CURRENT_USER"
                " USING (current_setting('app.watching', true) = 'on')"
            )
        for statement in FUNCTIONS:
            op.execute(statement)
        op.execute("DROP FUNCTION webhook_tenants()")
