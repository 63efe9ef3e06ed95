"""The least limit of a dataset, and the number of the entry up to which it was computed."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    for name in ("least_seq", "least_mu_sq_pico", "least_delta_atto"):
        op.add_column("datasets", sa.Column(name, BIG))
