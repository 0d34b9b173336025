"""What tenants and keys may do, and the audit record."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns and the two tables of the audit, which begins empty."""
    op.add_column("tenants", sa.Column("suspended_at", sa.BigInteger(), nullable=True))
    op.add_column("tenants", sa.Column("limits", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("tenants", sa.Column("models", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("tenants", sa.Column("weight", sa.Float(), server_default="1", nullable=False))
    op.add_column("tenants", sa.Column("region", sa.String(length=64), nullable=True))
    op.add_column("tenants", sa.Column("retention_days", sa.Integer(), nullable=True))
    op.add_column("tenants", sa.Column("cache", sa.String(length=16), server_default="off", nullable=False))
    op.add_column("api_keys", sa.Column("limits", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("api_keys", sa.Column("models", sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("act", sa.String(length=64), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=True),
        sa.Column("subject", sa.String(length=200), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("previous", sa.LargeBinary(length=32), nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit")),
    )
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("mac", sa.LargeBinary(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.bulk_insert(head, [{"id": 1, "number": 0, "hash": bytes(32), "mac": b""}])
