"""The choice of weights; findings that the weights do not know have no numbers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

#: As in 0001, but that the three numbers may be missing. SQLite cannot change a column.
FINDING = """
CREATE TABLE finding_new (
    result_id INTEGER NOT NULL,
    label VARCHAR(32) NOT NULL,
    probability FLOAT,
    probability_unmasked FLOAT,
    threshold FLOAT,
    state VARCHAR(16) NOT NULL,
    reason VARCHAR(64),
    CONSTRAINT pk_finding PRIMARY KEY (result_id, label),
    CONSTRAINT ck_finding_state
        CHECK (state IN ('flagged', 'not_flagged', 'undetermined', 'not_evaluated')),
    CONSTRAINT fk_finding_result_id FOREIGN KEY(result_id) REFERENCES result (result_id)
)
"""
COLUMNS = "result_id, label, probability, probability_unmasked, threshold, state, reason"


def upgrade() -> None:
    op.create_table(
        "weights_choice",
        sa.Column("choice_id", sa.Integer(), nullable=False),
        sa.Column("folder", sa.Text(), nullable=True),
        sa.Column("findings", sa.String(length=64), nullable=False),
        sa.Column("lungs_heart", sa.String(length=64), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("choice_id", name=op.f("pk_weights_choice")),
        sqlite_autoincrement=True,
    )
    _allow_missing_numbers()


def _allow_missing_numbers() -> None:
    """The views go first and come back as they were: a table that they name cannot be renamed."""
    connection = op.get_bind()
    asked = "SELECT name, sql FROM sqlite_master WHERE type = 'view' ORDER BY rowid"
    views = connection.exec_driver_sql(asked).all()
    for name, _ in views:
        op.execute(f'DROP VIEW "{name}"')
    op.execute(FINDING)
    op.execute(f"INSERT INTO finding_new ({COLUMNS}) SELECT {COLUMNS} FROM finding")
    op.execute("DROP TABLE finding")
    op.execute("ALTER TABLE finding_new RENAME TO finding")
    for _, statement in views:
        connection.exec_driver_sql(statement)
