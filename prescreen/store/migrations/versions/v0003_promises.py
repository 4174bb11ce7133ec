"""What a destination has promised to keep, and what was rejected or withdrawn."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

V_DELIVERY = """
CREATE VIEW v_delivery AS
SELECT o.outbox_id, s.study_instance_uid, o.job_id, o.destination, b.kind, b.audience,
       CASE WHEN o.uses_fallback THEN b.fallback_sop_instance_uid ELSE b.sop_instance_uid END
           AS sop_instance_uid,
       b.sop_class_uid, b.file_name, o.uses_fallback, o.state, o.attempts,
       CASE WHEN o.status IS NULL THEN NULL ELSE printf('0x%04X', o.status) END AS last_status,
       o.error, o.created_at, o.due_at, o.refused_since, o.delivered_at,
       o.commit_due_at, o.commit_asks, o.losses, o.found_at, o.committed_at
  FROM outbox o
  JOIN result_object b ON b.object_id = o.object_id
  JOIN job j ON j.job_id = o.job_id
  JOIN study s ON s.study_id = j.study_id
"""

V_INSTANCE = """
CREATE VIEW v_instance AS
SELECT i.instance_id, s.study_instance_uid, i.series_instance_uid, i.sop_instance_uid,
       i.sop_class_uid, i.transfer_syntax_uid, i.modality, i.received_at,
       i.calling_ae_title, i.peer_address, i.size, i.sha256, i.path, i.removed_at,
       i.arrival, i.disposition, i.reason AS ignored_reason, i.rejected_at, i.rejected_code,
       r.job_id, r.outcome, r.reason, r.cardiothoracic_ratio
  FROM instance i
  JOIN study s ON s.study_id = i.study_id
  LEFT JOIN result r ON r.result_id =
       (SELECT max(n.result_id) FROM result n WHERE n.instance_id = i.instance_id)
"""


def upgrade() -> None:
    op.execute("DROP VIEW v_delivery")
    op.execute("DROP VIEW v_instance")
    _widen()
    _create()
    op.execute(V_DELIVERY)
    op.execute(V_INSTANCE)


def _widen() -> None:
    op.add_column("outbox", sa.Column("commit_due_at", sa.String(27)))
    op.add_column(
        "outbox", sa.Column("commit_asks", sa.Integer(), server_default="0", nullable=False)
    )
    op.add_column("outbox", sa.Column("losses", sa.Integer(), server_default="0", nullable=False))
    op.add_column("outbox", sa.Column("found_at", sa.String(27)))
    op.add_column("outbox", sa.Column("committed_at", sa.String(27)))
    waits = sa.text("commit_due_at IS NOT NULL")
    op.create_index(
        "ix_outbox_commit",
        "outbox",
        ["destination", "commit_due_at"],
        sqlite_where=waits,
        postgresql_where=waits,
    )
    op.add_column("instance", sa.Column("rejected_at", sa.String(27)))
    op.add_column("instance", sa.Column("rejected_code", sa.String(16)))
    op.add_column("result_object", sa.Column("destination", sa.String(32)))


def _create() -> None:
    op.create_table(
        "commitment",
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("destination", sa.String(32), nullable=False),
        sa.Column("asked_at", sa.String(27), nullable=False),
        sa.Column("answered_at", sa.String(27)),
        sa.PrimaryKeyConstraint("transaction_uid", name=op.f("pk_commitment")),
    )
    op.create_table(
        "commitment_item",
        sa.Column("transaction_uid", sa.String(64), nullable=False),
        sa.Column("outbox_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["transaction_uid"],
            ["commitment.transaction_uid"],
            name=op.f("fk_commitment_item_transaction_uid"),
        ),
        sa.ForeignKeyConstraint(
            ["outbox_id"], ["outbox.outbox_id"], name=op.f("fk_commitment_item_outbox_id")
        ),
        sa.PrimaryKeyConstraint("transaction_uid", "outbox_id", name=op.f("pk_commitment_item")),
    )
    op.create_table(
        "withdrawal",
        sa.Column("withdrawn_job_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("code", sa.String(16), nullable=False),
        sa.ForeignKeyConstraint(
            ["withdrawn_job_id"], ["job.job_id"], name=op.f("fk_withdrawal_withdrawn_job_id")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.job_id"], name=op.f("fk_withdrawal_job_id")),
        sa.PrimaryKeyConstraint("withdrawn_job_id", name=op.f("pk_withdrawal")),
    )
    op.create_index(op.f("ix_withdrawal_job_id"), "withdrawal", ["job_id"], unique=False)
