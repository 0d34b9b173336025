"""Which approvals of calls of tools have been used."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "approvals",
        sa.Column("tenant_id", sa.String(64), sa.ForeignKey("tenants.id", name="fk_approvals_tenant_id"), primary_key=True),
        sa.Column("id", sa.String(80), primary_key=True),
        sa.Column("forget_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_approvals"),
    )
    op.create_index("ix_approvals_forget_at", "approvals", ["forget_at"])


def downgrade() -> None:
    """Remove it."""
    op.drop_table("approvals")
