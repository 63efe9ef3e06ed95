"""The cache of certified costs."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "certificates",
        sa.Column("tenant_id", sa.Text().with_variant(postgresql.UUID(), "postgresql"), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_us", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "digest", name="certificates_pkey"),
        sa.CheckConstraint("length(digest) = 32", name="certificates_digest_length"),
        sa.ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], name="certificates_tenant_fkey"),
        sqlite_strict=True,
    )
    op.create_index("certificates_oldest", "certificates", ["tenant_id", "created_us", "digest"])
