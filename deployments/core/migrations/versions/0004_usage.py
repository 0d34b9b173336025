"""What each tenant has used."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table of use."""
    op.create_table(
        "usage",
        sa.Column("tenant_id", sa.String(64), sa.ForeignKey("tenants.id", name="fk_usage_tenant_id"), primary_key=True),
        sa.Column("key_id", sa.String(64), primary_key=True),
        sa.Column("model", sa.String(256), primary_key=True),
        sa.Column("day", sa.Integer(), primary_key=True),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), nullable=False),
        sa.Column("completion_tokens", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "key_id", "model", "day", name="pk_usage"),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("usage")
