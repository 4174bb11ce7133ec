"""Whose a study is by what an archive said of it, and whose its images were before."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "correction",
        sa.Column("correction_id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("identity_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(32), nullable=False),
        sa.Column("patient_sex", sa.String(16)),
        sa.Column("at", sa.String(27), nullable=False),
        _refers_to("correction", "study"),
        _refers_to("correction", "identity"),
        _refers_to("correction", "job"),
        sa.PrimaryKeyConstraint("correction_id", name=op.f("pk_correction")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_correction_study_id"), "correction", ["study_id"], unique=False)
    op.create_table(
        "correction_item",
        sa.Column("correction_id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("former_identity_id", sa.Integer(), nullable=False),
        _refers_to("correction_item", "correction"),
        _refers_to("correction_item", "instance"),
        _refers_to("correction_item", "identity", "former_identity_id"),
        sa.PrimaryKeyConstraint("correction_id", "instance_id", name=op.f("pk_correction_item")),
    )
    op.create_index(
        op.f("ix_correction_item_instance_id"), "correction_item", ["instance_id"], unique=False
    )


def _refers_to(table: str, other: str, column: str | None = None) -> sa.ForeignKeyConstraint:
    column = column or f"{other}_id"
    name = op.f(f"fk_{table}_{column}")
    return sa.ForeignKeyConstraint([column], [f"{other}.{other}_id"], name=name)
