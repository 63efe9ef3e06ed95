"""Triggers, row-level security and grants: the second check behind the code's own."""

from __future__ import annotations

from typing import Final

from sqlalchemy import DDL, Table, event

from ledger.store import watching


def sqlite_triggers(table: str, same_journal: str) -> tuple[str, ...]:
    """Return the triggers that keep a journal append-only on SQLite."""
    return (
        f"""CREATE TRIGGER {table}_next BEFORE INSERT ON {table}
WHEN new.seq <> 1 + (SELECT coalesce(max(seq), 0) FROM {table}
                     WHERE {same_journal})
BEGIN SELECT RAISE(ABORT, 'an entry is added at the end of its journal'); END""",  # noqa: S608 (names of ours)
        f"""CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}
BEGIN SELECT RAISE(ABORT, 'an entry is never changed'); END""",
        f"""CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table}
BEGIN SELECT RAISE(ABORT, 'an entry is never removed'); END""",
    )


def postgresql_triggers(table: str, same_journal: str) -> tuple[str, ...]:
    """Return the triggers that keep a journal append-only on PostgreSQL."""
    return (
        f"""CREATE FUNCTION {table}_next() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM public.{table} WHERE {same_journal} AND seq = NEW.seq)
       OR NEW.seq <> 1 AND NOT EXISTS (SELECT FROM public.{table} WHERE {same_journal} AND seq = NEW.seq - 1) THEN
        RAISE EXCEPTION 'an entry is added at the end of its journal' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$""",  # noqa: S608 (names of ours)
        f"CREATE TRIGGER {table}_next BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_next()",
        f"CREATE TRIGGER {table}_keep BEFORE UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION entries_keep()",
        f"CREATE TRIGGER {table}_keep_all BEFORE TRUNCATE ON {table}"
        " FOR EACH STATEMENT EXECUTE FUNCTION entries_keep()",
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_next",
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_keep",
        f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {table}_keep_all",
    )


KEEP: Final = """CREATE FUNCTION entries_keep() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'an entry is never changed or removed' USING ERRCODE = 'restrict_violation';
END $$"""
OF_DATASET: Final = "tenant_id = NEW.tenant_id AND dataset_id = NEW.dataset_id"
OF_TENANT: Final = "tenant_id = NEW.tenant_id"


def after_create(table: Table, dialect: str, *statements: str) -> None:
    """Run statements after the table is created on this dialect."""
    for statement in statements:
        event.listen(table, "after_create", DDL(statement.replace("%", "%%")).execute_if(dialect=dialect))


TENANT_SETTING: Final = "app.tenant_id"


def row_security(table: str) -> tuple[str, ...]:
    """Return the statements that let each tenant see only its own rows."""
    mine = f"tenant_id = NULLIF(current_setting('{TENANT_SETTING}', true), '')::uuid"
    return (
        f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        f"CREATE POLICY {table}_tenant ON {table} USING ({mine}) WITH CHECK ({mine})",
    )


# What the server's own role may do on PostgreSQL, and nothing else. It owns nothing, so it cannot alter the triggers
# and policies above; nor can it change a dataset's definition, a key's role or an entry's bytes.
GRANTS: Final[dict[str, str]] = {
    "tenants": "SELECT, INSERT, UPDATE (second_steward, seq, head, alerting)",
    "operator_keys": "SELECT",
    "keys": "SELECT, INSERT, UPDATE (expires_us, revoked_us, last_used_us)",
    "sessions": "SELECT, INSERT, UPDATE (used_us), DELETE",
    "tenant_entries": "SELECT, INSERT",
    "proposals": "SELECT, INSERT, UPDATE (state)",
    "datasets": "SELECT, INSERT, UPDATE (title, description, budget, limit_mu_sq_pico, limit_delta_atto, fair_use,"
    " state, seq, head, created_us, costing, least_seq, least_mu_sq_pico, least_delta_atto)",
    "lineage": "SELECT, INSERT",
    "projects": "SELECT, INSERT, UPDATE (budget, limit_mu_sq_pico, limit_delta_atto)",
    "accounts": "SELECT, INSERT, UPDATE (limit_mu_sq_pico, limit_delta_atto, spent_mu_sq_pico, spent_delta_atto,"
    " held_mu_sq_pico, held_delta_atto, overdrawn_mu_sq_pico, overdrawn_delta_atto, trail)",
    "runs": "SELECT, INSERT, UPDATE (state, started_us, ended_us, due_us, reported_us)",
    "progress": "SELECT, INSERT, UPDATE (steps, at_us, reporter)",
    "places": "SELECT, INSERT",
    "entries": "SELECT, INSERT",
    "tallies": "SELECT, INSERT, UPDATE (seq, left_ppm, forecast_seq, forecast_us, ends_us)",
    "days": "SELECT, INSERT, UPDATE (seq, limit_mu_sq_pico, limit_delta_atto, spent_mu_sq_pico, spent_delta_atto,"
    " held_mu_sq_pico, held_delta_atto, remaining_mu_sq_pico, remaining_delta_atto, approvals, refusals, least_seq,"
    " least_mu_sq_pico, least_delta_atto)",
    "claims": "SELECT, INSERT, DELETE",
    "certificates": "SELECT, INSERT, DELETE",
    "alerts": "SELECT, INSERT, UPDATE (state, attempts, next_us, delivered_us, failure), DELETE",
    "leases": "SELECT, INSERT, UPDATE (holder, until_us)",
    "alembic_version": "SELECT",
}
FUNCTION_GRANTS: Final = (*watching.GRANTS, "familiar_keys(bigint)")
"""The functions that the server's role may call, in addition to those that everyone may."""

FAMILIAR_BYTES: Final = 8
"""How much of a key's digest is returned before its tenant is known: enough to tell keys apart, and of no other use."""
FAMILIAR: Final = (
    "CREATE POLICY keys_owner ON keys FOR SELECT TO CURRENT_USER"
    " USING (current_setting('app.telling_familiar', true) = 'on')",
    # Which keys were valid before, for callers whose tenant is not known yet. It returns no tenant, name or role, and
    # only the beginning of each digest. The policy above lets the owner see keys in this function only, which sets what
    # it asks for.
    f"""CREATE FUNCTION familiar_keys(rows_max bigint) RETURNS SETOF bytea LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$ BEGIN
PERFORM set_config('app.telling_familiar', 'on', true);
RETURN QUERY SELECT substring(digest FROM 1 FOR {FAMILIAR_BYTES}) FROM public.keys
WHERE last_used_us IS NOT NULL AND revoked_us IS NULL
  AND (expires_us IS NULL OR expires_us > (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
ORDER BY last_used_us DESC LIMIT rows_max;
PERFORM set_config('app.telling_familiar', 'off', true);
END $$""",  # noqa: S608 (a number of ours)
    "REVOKE ALL ON FUNCTION familiar_keys(bigint) FROM PUBLIC",
)
"""What lets a server learn which keys were valid before."""
