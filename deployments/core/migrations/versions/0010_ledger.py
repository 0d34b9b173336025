"""What every attempt at a model call came to."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

KEYS = (("key_id", 64), ("user_id", 256), ("model", 256), ("route", 64), ("prompt", 256), ("backend", 64), ("outcome", 64))
AMOUNTS = ("attempts", "prompt_tokens", "completion_tokens", "nano_cost")


def upgrade() -> None:
    """Make the ledger."""
    op.create_table(
        "ledger",
        sa.Column("tenant_id", sa.String(64), sa.ForeignKey("tenants.id", name="fk_ledger_tenant_id"), primary_key=True),
        sa.Column("day", sa.Integer(), primary_key=True),
        *(sa.Column(name, sa.String(length), primary_key=True) for name, length in KEYS),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in AMOUNTS),
        sa.PrimaryKeyConstraint("tenant_id", "day", *(name for name, _ in KEYS), name="pk_ledger"),
    )


def downgrade() -> None:
    """Remove it."""
    op.drop_table("ledger")
