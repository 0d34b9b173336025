"""Attributes of passages, and by which recipe the passages of a file were made."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add both."""
    op.add_column("passages", sa.Column("attributes", sa.LargeBinary(), nullable=True))
    op.add_column("vector_store_files", sa.Column("recipe", sa.String(64), nullable=True))
    op.create_index("members_recipe", "vector_store_files", ["tenant_id", "recipe"])


def downgrade() -> None:
    """Remove both."""
    op.drop_index("members_recipe", "vector_store_files")
    op.drop_column("vector_store_files", "recipe")
    op.drop_column("passages", "attributes")
