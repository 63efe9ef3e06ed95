"""What one process asks of all tenants at once, to find the few that it must look at.

The same statements on both databases. On PostgreSQL they are in functions of the owner's, because row-level security
shows the server's role one tenant at a time: they return ids, numbers, hashes and times, and nothing that a tenant
wrote. The owner sees all tenants' rows only inside these functions: a policy asks for the setting that they make for
themselves, and another role gains nothing by making it.
"""

from __future__ import annotations

from typing import Final

SETTING: Final = "app.watching"
WATCHED: Final = ("datasets", "runs", "entries", "tenant_entries", "alerts", "proposals")
"""The tables that the functions read, except `tenants`, of which the owner sees every row anyway."""

# Runs that are due, the first due first, after one of them.
LATE: Final = """SELECT r.tenant_id, r.id AS run_id, r.due_us
FROM {schema}runs r
WHERE r.due_us < {until_us} AND (r.due_us, r.id) > ({after_us}, {after_id})
ORDER BY r.due_us, r.id LIMIT {rows_max}"""

# Proposals that nobody answered, the first to lapse first, after one of them.
LAPSING: Final = """SELECT p.tenant_id, p.id AS proposal_id, p.expires_us
FROM {schema}proposals p
WHERE p.state = 'open' AND p.expires_us < {until_us} AND (p.expires_us, p.id) > ({after_us}, {after_id})
ORDER BY p.expires_us, p.id LIMIT {rows_max}"""

# Where journals end according to their rows, after one of them: for each tenant first its own, whose id is zero.
JOURNALS: Final = """SELECT j.tenant_id, j.id, j.seq, j.head
FROM (SELECT * FROM (SELECT t.tenant_id, {nobody} AS id, t.seq, t.head FROM {schema}tenants t
                     WHERE t.tenant_id > {after_tenant}
                     ORDER BY t.tenant_id LIMIT {rows_max}) own
      UNION ALL
      SELECT * FROM (SELECT d.tenant_id, d.id, d.seq, d.head FROM {schema}datasets d
                     WHERE d.seq > 0 AND (d.tenant_id, d.id) > ({after_tenant}, {after_id})
                     ORDER BY d.tenant_id, d.id LIMIT {rows_max}) ours) j
ORDER BY j.tenant_id, j.id LIMIT {rows_max}"""

# Of this many journals those whose newest entry is not where the row has it, or not what was hashed; and the last of
# them, with how many were looked at. Each entry is read by its number, never as the greatest one.
_ENDS: Final = """SELECT c.tenant_id, c.id, c.is_broken, c.looked
FROM (SELECT j.tenant_id, j.id, count(*) OVER () AS looked,
             lead(j.id) OVER (ORDER BY j.tenant_id, j.id) IS NULL AS is_last,
             CASE WHEN j.id = {nobody} THEN
{own}
             ELSE
{ours}
             END AS is_broken
      FROM (%(journals)s) j) c
WHERE c.is_broken OR c.is_last
ORDER BY c.tenant_id, c.id"""
_IS_BROKEN: Final = """CASE WHEN j.seq = 0 THEN j.head <> {no_hash} ELSE
    coalesce((SELECT e.hash <> j.head OR {digest} <> e.hash
              FROM {schema}%(table)s e WHERE %(mine)s AND e.seq = j.seq),
             true) END
OR EXISTS (SELECT 1 FROM {schema}%(table)s e WHERE %(mine)s AND e.seq > j.seq)"""
_OWN: Final = _IS_BROKEN % {"table": "tenant_entries", "mine": "e.tenant_id = j.tenant_id"}
_OURS: Final = _IS_BROKEN % {"table": "entries", "mine": "e.tenant_id = j.tenant_id AND e.dataset_id = j.id"}
ENDS: Final = (_ENDS % {"journals": JOURNALS}).replace("{own}", _OWN).replace("{ours}", _OURS)

# Who has alerts that wait for delivery, how many, and when the first of them is due.
WAITING: Final = """SELECT a.tenant_id, count(*) AS waiting, min(a.next_us) AS next_us
FROM {schema}alerts a WHERE a.state = 'pending' GROUP BY a.tenant_id ORDER BY a.tenant_id"""

# How far each tenant's journals have come, together: any entry in any of them increases it.
POSITIONS: Final = """SELECT t.tenant_id,
       CAST(t.seq + coalesce((SELECT sum(d.seq) FROM {schema}datasets d WHERE d.tenant_id = t.tenant_id), 0) AS bigint)
       AS position
FROM {schema}tenants t ORDER BY t.tenant_id"""


_NOBODY: Final = "00000000-0000-0000-0000-000000000000"
_PARAMETERS: Final = ("until_us", "after_us", "after_id", "after_tenant", "rows_max")


def on_sqlite(template: str) -> str:
    """Return a statement with named parameters."""
    return template.format(
        schema="",
        nobody=f"'{_NOBODY}'",
        no_hash="zeroblob(32)",
        digest="sha256(CAST(e.body AS BLOB))",
        **{name: f":{name}" for name in _PARAMETERS},
    )


FUNCTIONS: Final = {
    "watched_late": (
        LATE,
        "after_us bigint, after_id uuid, until_us bigint, rows_max bigint",
        "tenant_id uuid, run_id uuid, due_us bigint",
    ),
    "watched_proposals": (
        LAPSING,
        "after_us bigint, after_id uuid, until_us bigint, rows_max bigint",
        "tenant_id uuid, proposal_id uuid, expires_us bigint",
    ),
    "watched_journals": (
        JOURNALS,
        "after_tenant uuid, after_id uuid, rows_max bigint",
        "tenant_id uuid, id uuid, seq bigint, head bytea",
    ),
    "watched_ends": (
        ENDS,
        "after_tenant uuid, after_id uuid, rows_max bigint",
        "tenant_id uuid, id uuid, is_broken boolean, looked bigint",
    ),
    "watched_alerts": (WAITING, "", "tenant_id uuid, waiting bigint, next_us bigint"),
    "watched_positions": (POSITIONS, "", 'tenant_id uuid, "position" bigint'),
}
"""The functions of the owner's on PostgreSQL: what each runs, takes and returns."""


def policy(table: str) -> str:
    """Return the statement that shows the owner every tenant's rows of a table, inside these functions only."""
    seen = f"current_setting('{SETTING}', true) = 'on'"
    return f"CREATE POLICY {table}_watched ON {table} FOR SELECT TO CURRENT_USER USING ({seen})"


def functions() -> list[str]:
    """Return the statements that make the functions, which nobody may call yet."""
    return [statement for name in FUNCTIONS for statement in _function(name)]


def _function(name: str) -> tuple[str, str]:
    template, takes, returns = FUNCTIONS[name]
    body = template.format(
        schema="public.",
        nobody="nobody",
        no_hash="no_hash",
        digest="sha256(convert_to(e.body, 'UTF8'))",
        **{parameter: parameter for parameter in _PARAMETERS},
    )
    made = f"""CREATE FUNCTION {name}({takes})
RETURNS TABLE ({returns})
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    nobody CONSTANT uuid := '{_NOBODY}';
    no_hash CONSTANT bytea := decode(repeat('00', 32), 'hex');
BEGIN
    PERFORM set_config('{SETTING}', 'on', true);
    RETURN QUERY
{body};
    PERFORM set_config('{SETTING}', '', true);
END $$"""
    return made, f"REVOKE ALL ON FUNCTION {_signature(name)} FROM PUBLIC"


def _signature(name: str) -> str:
    types = [parameter.split()[1] for parameter in FUNCTIONS[name][1].split(", ") if parameter]
    return f"{name}({', '.join(types)})"


GRANTS: Final = tuple(map(_signature, FUNCTIONS))
"""Return the functions in the form of a grant."""
