"""The tables, and the triggers that make the audit append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _tables()
    for verb in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER event_no_{verb.lower()} BEFORE {verb} ON event "
            "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
        )


def _tables() -> None:
    op.create_table(
        "destination",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("live", sa.Boolean(), server_default=sa.text("0"), nullable=False),
        sa.Column("held", sa.Boolean(), server_default=sa.text("0"), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_destination")),
    )
    op.create_table(
        "event",
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.String(27), nullable=False),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("job_id", sa.Integer(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("phi_digest", sa.String(length=64), nullable=True),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_event")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_event_at"), "event", ["at"], unique=False)
    op.create_index(op.f("ix_event_job_id"), "event", ["job_id"], unique=False)
    op.create_index(op.f("ix_event_kind"), "event", ["kind"], unique=False)
    op.create_index(op.f("ix_event_sop_instance_uid"), "event", ["sop_instance_uid"], unique=False)
    op.create_index(
        op.f("ix_event_study_instance_uid"), "event", ["study_instance_uid"], unique=False
    )
    op.create_table(
        "finding_hold",
        sa.Column("label", sa.String(length=32), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("label", name=op.f("pk_finding_hold")),
    )
    op.create_table(
        "identity",
        sa.Column("identity_id", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("issuer_of_patient_id", sa.Text(), nullable=False),
        sa.Column("patient_name", sa.Text(), nullable=False),
        sa.Column("patient_birth_date", sa.Text(), nullable=False),
        sa.Column("accession_number", sa.Text(), nullable=False),
        sa.Column("issuer_of_accession_number", sa.Text(), nullable=False),
        sa.Column("study_date", sa.Text(), nullable=False),
        sa.Column("erased_at", sa.String(27), nullable=True),
        sa.PrimaryKeyConstraint("identity_id", name=op.f("pk_identity")),
        sa.UniqueConstraint("digest", name=op.f("uq_identity_digest")),
    )
    op.create_index(
        op.f("ix_identity_accession_number"), "identity", ["accession_number"], unique=False
    )
    op.create_table(
        "meta",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_meta")),
    )
    op.create_table(
        "event_phi",
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("salt", sa.String(length=32), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["event_id"], ["event.event_id"], name=op.f("fk_event_phi_event_id")
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_event_phi")),
    )
    op.create_table(
        "study",
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("study_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("identity_id", sa.Integer(), nullable=False),
        sa.Column("first_received_at", sa.String(27), nullable=False),
        sa.ForeignKeyConstraint(
            ["identity_id"], ["identity.identity_id"], name=op.f("fk_study_identity_id")
        ),
        sa.PrimaryKeyConstraint("study_id", name=op.f("pk_study")),
        sa.UniqueConstraint("study_instance_uid", name=op.f("uq_study_study_instance_uid")),
    )
    op.create_index(
        op.f("ix_study_first_received_at"), "study", ["first_received_at"], unique=False
    )
    op.create_index(op.f("ix_study_identity_id"), "study", ["identity_id"], unique=False)
    op.create_table(
        "instance",
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("identity_id", sa.Integer(), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(length=64), nullable=False),
        sa.Column("modality", sa.String(length=16), nullable=True),
        sa.Column("sha256", sa.String(length=64), nullable=False),
        sa.Column("pixel_sha256", sa.String(length=64), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("path", sa.String(length=255), nullable=False),
        sa.Column("calling_ae_title", sa.String(length=16), nullable=False),
        sa.Column("peer_address", sa.String(length=64), nullable=False),
        sa.Column("received_at", sa.String(27), nullable=False),
        sa.Column("arrival", sa.String(length=8), nullable=False),
        sa.Column("disposition", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("removed_at", sa.String(27), nullable=True),
        sa.CheckConstraint("arrival IN ('first', 'again')", name=op.f("ck_instance_arrival")),
        sa.CheckConstraint(
            "disposition IN ('new', 'again', 'duplicate', 'revision', 'conflict', 'ignored')",
            name=op.f("ck_instance_disposition"),
        ),
        sa.ForeignKeyConstraint(
            ["identity_id"], ["identity.identity_id"], name=op.f("fk_instance_identity_id")
        ),
        sa.ForeignKeyConstraint(
            ["study_id"], ["study.study_id"], name=op.f("fk_instance_study_id")
        ),
        sa.PrimaryKeyConstraint("instance_id", name=op.f("pk_instance")),
        sa.UniqueConstraint("path", name=op.f("uq_instance_path")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_instance_identity_id"), "instance", ["identity_id"], unique=False)
    op.create_index(op.f("ix_instance_received_at"), "instance", ["received_at"], unique=False)
    op.create_index(op.f("ix_instance_study_id"), "instance", ["study_id"], unique=False)
    op.create_index(
        "uq_instance_bytes",
        "instance",
        ["sop_instance_uid", "sha256"],
        unique=True,
        sqlite_where=sa.text("removed_at IS NULL"),
        postgresql_where=sa.text("removed_at IS NULL"),
    )
    op.create_table(
        "job",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("study_id", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=8), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("cause", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.String(27), nullable=False),
        sa.Column("due_at", sa.String(27), nullable=False),
        sa.Column("cap_at", sa.String(27), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("lease_until", sa.String(27), nullable=True),
        sa.Column("worker", sa.String(length=64), nullable=True),
        sa.Column("claimed_at", sa.String(27), nullable=True),
        sa.Column("weights", sa.Text(), nullable=True),
        sa.Column("rules", sa.String(length=64), nullable=True),
        sa.Column("live_destinations", sa.Text(), nullable=True),
        sa.Column("held_findings", sa.Text(), nullable=True),
        sa.Column("predecessor_job_id", sa.Integer(), nullable=True),
        sa.Column("outcome", sa.String(length=16), nullable=True),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("settled_at", sa.String(27), nullable=True),
        sa.Column("done_at", sa.String(27), nullable=True),
        sa.Column("removed_at", sa.String(27), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('screened', 'not_screened', 'out_of_scope', 'failed')",
            name=op.f("ck_job_outcome"),
        ),
        sa.CheckConstraint("stage IN ('screen', 'deliver', 'done')", name=op.f("ck_job_stage")),
        sa.ForeignKeyConstraint(
            ["predecessor_job_id"], ["job.job_id"], name=op.f("fk_job_predecessor_job_id")
        ),
        sa.ForeignKeyConstraint(["study_id"], ["study.study_id"], name=op.f("fk_job_study_id")),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_job")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_job_stage_due", "job", ["stage", "due_at"], unique=False)
    op.create_index("ix_job_study_stage", "job", ["study_id", "stage"], unique=False)
    op.create_index(
        "uq_job_open",
        "job",
        ["study_id"],
        unique=True,
        sqlite_where=sa.text("open = 1"),
        postgresql_where=sa.text("open"),
    )
    op.create_table(
        "job_instance",
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.instance_id"], name=op.f("fk_job_instance_instance_id")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.job_id"], name=op.f("fk_job_instance_job_id")),
        sa.PrimaryKeyConstraint("job_id", "instance_id", name=op.f("pk_job_instance")),
    )
    op.create_index(
        op.f("ix_job_instance_instance_id"), "job_instance", ["instance_id"], unique=False
    )
    op.create_table(
        "result",
        sa.Column("result_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("instance_id", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.Column("cardiothoracic_ratio", sa.Float(), nullable=True),
        sa.Column("numbers", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "outcome IN ('screened', 'not_screened', 'out_of_scope', 'failed')",
            name=op.f("ck_result_outcome"),
        ),
        sa.ForeignKeyConstraint(
            ["instance_id"], ["instance.instance_id"], name=op.f("fk_result_instance_id")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.job_id"], name=op.f("fk_result_job_id")),
        sa.PrimaryKeyConstraint("result_id", name=op.f("pk_result")),
        sa.UniqueConstraint("job_id", "instance_id", name=op.f("uq_result_job_id_instance_id")),
    )
    op.create_index(op.f("ix_result_instance_id"), "result", ["instance_id"], unique=False)
    op.create_table(
        "result_object",
        sa.Column("object_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("audience", sa.String(length=16), nullable=False),
        sa.Column("sop_class_uid", sa.String(length=64), nullable=False),
        sa.Column("sop_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("series_instance_uid", sa.String(length=64), nullable=False),
        sa.Column("file_name", sa.String(length=128), nullable=False),
        sa.Column("fallback_sop_instance_uid", sa.String(length=64), nullable=True),
        sa.Column("source_sop_instance_uid", sa.String(length=64), nullable=True),
        sa.CheckConstraint(
            "audience IN ('evaluation', 'release')", name=op.f("ck_result_object_audience")
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.job_id"], name=op.f("fk_result_object_job_id")),
        sa.PrimaryKeyConstraint("object_id", name=op.f("pk_result_object")),
        sa.UniqueConstraint("sop_instance_uid", name=op.f("uq_result_object_sop_instance_uid")),
    )
    op.create_index(op.f("ix_result_object_job_id"), "result_object", ["job_id"], unique=False)
    op.create_table(
        "finding",
        sa.Column("result_id", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(length=32), nullable=False),
        sa.Column("probability", sa.Float(), nullable=False),
        sa.Column("probability_unmasked", sa.Float(), nullable=False),
        sa.Column("threshold", sa.Float(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=True),
        sa.CheckConstraint(
            "state IN ('flagged', 'not_flagged', 'undetermined', 'not_evaluated')",
            name=op.f("ck_finding_state"),
        ),
        sa.ForeignKeyConstraint(
            ["result_id"], ["result.result_id"], name=op.f("fk_finding_result_id")
        ),
        sa.PrimaryKeyConstraint("result_id", "label", name=op.f("pk_finding")),
    )
    op.create_table(
        "outbox",
        sa.Column("outbox_id", sa.Integer(), nullable=False),
        sa.Column("object_id", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.Integer(), nullable=False),
        sa.Column("destination", sa.String(length=32), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("due_at", sa.String(27), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_token", sa.String(length=32), nullable=True),
        sa.Column("lease_until", sa.String(27), nullable=True),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("refused_since", sa.String(27), nullable=True),
        sa.Column("uses_fallback", sa.Boolean(), server_default=sa.text("0"), nullable=False),
        sa.Column("delivered_at", sa.String(27), nullable=True),
        sa.Column("settled_at", sa.String(27), nullable=True),
        sa.CheckConstraint(
            "state IN ('pending', 'held', 'delivered', 'committed', 'parked', 'cancelled')",
            name=op.f("ck_outbox_state"),
        ),
        sa.ForeignKeyConstraint(["job_id"], ["job.job_id"], name=op.f("fk_outbox_job_id")),
        sa.ForeignKeyConstraint(
            ["object_id"], ["result_object.object_id"], name=op.f("fk_outbox_object_id")
        ),
        sa.PrimaryKeyConstraint("outbox_id", name=op.f("pk_outbox")),
        sa.UniqueConstraint(
            "object_id", "destination", name=op.f("uq_outbox_object_id_destination")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_outbox_job_state", "outbox", ["job_id", "state"], unique=False)
    op.create_index("ix_outbox_work", "outbox", ["destination", "state", "due_at"], unique=False)
