"""Prompts by version, canaries, and what each response was answered with."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make two tables and two columns."""
    op.add_column("responses", sa.Column("prompt", sa.String(80), nullable=True))
    op.add_column("responses", sa.Column("variants", sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "prompts",
        sa.Column("tenant_id", sa.String(64), sa.ForeignKey("tenants.id", name="fk_prompts_tenant_id"), nullable=False),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("current", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("data_key", sa.LargeBinary(), nullable=False),
        sa.Column("template", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", "version", name="pk_prompts"),
    )
    op.create_table(
        "canaries",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("tenant_id", sa.String(64), sa.ForeignKey("tenants.id", name="fk_canaries_tenant_id"), nullable=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("value", sa.String(64), nullable=False),
        sa.Column("weight", sa.Float(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.Column("place", sa.String(160), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_canaries"),
        sa.UniqueConstraint("place", name="uq_canaries_place"),
    )


def downgrade() -> None:
    """Remove them."""
    op.drop_table("canaries")
    op.drop_table("prompts")
    op.drop_column("responses", "variants")
    op.drop_column("responses", "prompt")
