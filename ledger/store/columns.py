"""What the tables of `ledger.store.tables` are put together from: types of columns, amounts, tables of tenants."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Dialect,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine


class Uid(TypeDecorator[UUID]):
    """A UUID: native on PostgreSQL, its canonical text on SQLite, whose STRICT tables know no such type."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "postgresql":
            return dialect.type_descriptor(postgresql.UUID(as_uuid=True))
        return dialect.type_descriptor(Text())

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> Any:
        return value if value is None or dialect.name == "postgresql" else str(value)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> UUID | None:  # noqa: ARG002 (an override)
        return value if value is None or isinstance(value, UUID) else UUID(value)


Big: Final = BigInteger().with_variant(Integer(), "sqlite")
NOBODY: Final = UUID(int=0)
"""Takes the place of a principal in the key of an account that is not a principal's."""
LIMIT_MU_SQ_PICO_MAX: Final = 10**18
"""A budget's mu is at most 1000. With this bound no expression in a constraint can exceed 2^63."""

metadata = MetaData()


def amount(name: str, *, nullable: bool = False) -> list[Column[Any]]:
    """Return the two columns of an amount."""
    return [Column(f"{name}_{quantity}", Big, nullable=nullable) for quantity in ("mu_sq_pico", "delta_atto")]


def limit_range(table: str, name: str) -> CheckConstraint:
    """Return the condition that a limit is in range, or NULL."""
    mu, delta = f"{name}_mu_sq_pico", f"{name}_delta_atto"
    return CheckConstraint(
        f"({mu} IS NULL) = ({delta} IS NULL) AND ({mu} IS NULL OR ({mu} >= 0 AND {mu} <= {LIMIT_MU_SQ_PICO_MAX}"
        f" AND {delta} >= 0 AND {delta} <= {LIMIT_MU_SQ_PICO_MAX}))",
        name=f"{table}_{name}_range",
    )


def within(quantity: str) -> list[CheckConstraint]:
    """Return the invariant of one quantity, written as a difference, so that it cannot overflow (see
    LIMIT_MU_SQ_PICO_MAX)."""
    limit, spent, held, overdrawn = (f"{part}_{quantity}" for part in ("limit", "spent", "held", "overdrawn"))
    return [
        CheckConstraint(
            f"{limit} >= 0 AND {spent} >= 0 AND {held} >= 0 AND {overdrawn} >= 0 AND {overdrawn} <= {spent}"
            f" AND {limit} <= {LIMIT_MU_SQ_PICO_MAX}",
            name=f"accounts_{quantity}_range",
        ),
        CheckConstraint(f"{held} <= {limit} - {spent} + {overdrawn}", name=f"accounts_{quantity}_within_limit"),
    ]


def of_tenant(name: str, *parts: Any, key: tuple[str, ...], sqlite_with_rowid: bool = True) -> Table:
    """Return a table that belongs to tenants: `tenant_id` first, in the primary key too."""
    return Table(
        name,
        metadata,
        Column("tenant_id", Uid, nullable=False),
        *parts,
        PrimaryKeyConstraint("tenant_id", *key, name=f"{name}_pkey"),
        sqlite_strict=True,
        sqlite_with_rowid=sqlite_with_rowid,
    )


def references(name: str, columns: tuple[str, ...], table: str, remote: tuple[str, ...]) -> ForeignKeyConstraint:
    """Return the condition that these columns name a row of the same tenant in another table."""
    return ForeignKeyConstraint(
        ["tenant_id", *columns], [f"{table}.tenant_id", *(f"{table}.{column}" for column in remote)], name=name
    )
