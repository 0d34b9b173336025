"""The models of the catalogue, and a tenant's own complexity from which on questions go to the large tier."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both."""
    op.create_table(
        "models",
        sa.Column("name", sa.String(128), nullable=False),
        sa.Column("spec", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("changed_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_models"),
    )
    op.add_column("tenants", sa.Column("threshold", sa.Float(), nullable=True))


def downgrade() -> None:
    """Remove both."""
    op.drop_column("tenants", "threshold")
    op.drop_table("models")
