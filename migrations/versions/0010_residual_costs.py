"""Costs beside what is left: how a dataset costs runs, the trail of an account, and what a run's approval left."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.add_column("datasets", sa.Column("costing", sa.Text(), nullable=False, server_default="standalone"))
    op.add_column("accounts", sa.Column("trail", sa.Text(), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("r_pico", BIG, nullable=False, server_default="0"))
