"""The tables, and the way to a database that has them.

Instants are text, ISO 8601 in UTC with microseconds ("2026-01-31T08:15:00.000000Z"): they sort as
they run and read without a tool. Patient data stands in `identity`, `result.numbers` and
`event_phi` alone, so that it can be erased. The views for people (`v_study`, `v_instance`,
`v_finding`, `v_delivery`, `v_event`) are made by the migrations.
"""

from __future__ import annotations

import datetime
import enum
from typing import Any

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    Join,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

from prescreen.store.database import open_database
from prescreen.study import Audience, Disposition, FindingState, OutboxState, Outcome, Stage

__all__ = ["Instant", "metadata", "open_database", "outbox_of_studies"]

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class Instant(TypeDecorator[datetime.datetime]):
    """An aware datetime, stored as ISO 8601 text in UTC with microseconds."""

    impl = String(27)
    cache_ok = True

    def process_bind_param(self, value: datetime.datetime | None, dialect: Dialect) -> str | None:
        return None if value is None else instant_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime.datetime | None:
        return None if value is None else datetime.datetime.fromisoformat(value)


def instant_text(value: datetime.datetime) -> str:
    """The stored form of an aware datetime; a naive one is a ValueError."""
    if value.tzinfo is None:
        raise ValueError("an instant carries its time zone")
    return value.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _one_of(column: str, words: type[enum.StrEnum] | tuple[str, ...]) -> CheckConstraint:
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _uid(name: str, *, nullable: bool = False) -> Column[str]:
    return Column(name, String(64), nullable=nullable)


meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

#: Who the patient is and which order it was, as received: erasable, referred to by id.
identity = Table(
    "identity",
    metadata,
    Column("identity_id", Integer, primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("patient_id", Text, nullable=False),
    Column("issuer_of_patient_id", Text, nullable=False),
    Column("patient_name", Text, nullable=False),
    Column("patient_birth_date", Text, nullable=False),
    Column("accession_number", Text, nullable=False, index=True),
    Column("issuer_of_accession_number", Text, nullable=False),
    Column("study_date", Text, nullable=False),
    Column("erased_at", Instant),
)

study = Table(
    "study",
    metadata,
    Column("study_id", Integer, primary_key=True),
    Column("study_instance_uid", String(64), nullable=False, unique=True),
    Column("identity_id", ForeignKey("identity.identity_id"), nullable=False, index=True),
    Column("first_received_at", Instant, nullable=False, index=True),
)

#: One row per kept file; bytes under a UID already kept have a row and a file of their own.
instance = Table(
    "instance",
    metadata,
    Column("instance_id", Integer, primary_key=True),
    Column("study_id", ForeignKey("study.study_id"), nullable=False, index=True),
    Column("identity_id", ForeignKey("identity.identity_id"), nullable=False, index=True),
    _uid("sop_class_uid"),
    _uid("sop_instance_uid"),
    _uid("series_instance_uid"),
    _uid("transfer_syntax_uid"),
    Column("modality", String(16)),
    Column("sha256", String(64), nullable=False),
    Column("pixel_sha256", String(64)),
    Column("size", Integer, nullable=False),
    Column("path", String(255), nullable=False, unique=True),  # relative to the data directory
    Column("calling_ae_title", String(16), nullable=False),
    Column("peer_address", String(64), nullable=False),
    Column("received_at", Instant, nullable=False, index=True),
    Column("arrival", String(8), nullable=False),
    Column("disposition", String(16), nullable=False),
    Column("reason", String(64)),
    Column("removed_at", Instant),
    Column("rejected_at", Instant),  # by a rejection note of the PACS
    Column("rejected_code", String(16)),
    _one_of("arrival", ("first", "again")),
    _one_of("disposition", Disposition),
    Index(
        "uq_instance_bytes",
        "sop_instance_uid",
        "sha256",
        unique=True,
        sqlite_where=text("removed_at IS NULL"),
        postgresql_where=text("removed_at IS NULL"),
    ),
    sqlite_autoincrement=True,
)

#: The work on one study. `open`: images may still join. There is no "running": see the lease.
job = Table(
    "job",
    metadata,
    Column("job_id", Integer, primary_key=True),
    Column("study_id", ForeignKey("study.study_id"), nullable=False),
    Column("stage", String(8), nullable=False),
    Column("open", Boolean, nullable=False),
    Column("cause", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("cap_at", Instant, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("lease_token", String(32)),
    Column("lease_until", Instant),
    Column("worker", String(64)),
    Column("claimed_at", Instant),  # first claim
    Column("weights", Text),  # JSON: network -> sha256, frozen at the claim
    Column("rules", String(64)),  # version of the rules, frozen at the claim
    Column("live_destinations", Text),  # JSON list, frozen at the first claim
    Column("held_findings", Text),  # JSON list, frozen at the first claim
    Column("predecessor_job_id", ForeignKey("job.job_id")),
    Column("outcome", String(16)),
    Column("reason", String(64)),
    Column("error", Text),
    Column("settled_at", Instant),
    Column("done_at", Instant),
    Column("removed_at", Instant),
    _one_of("stage", Stage),
    _one_of("outcome", Outcome),
    Index(
        "uq_job_open",
        "study_id",
        unique=True,
        sqlite_where=text("open = 1"),
        postgresql_where=text("open"),
    ),
    Index("ix_job_study_stage", "study_id", "stage"),
    Index("ix_job_stage_due", "stage", "due_at"),
    sqlite_autoincrement=True,
)

job_instance = Table(
    "job_instance",
    metadata,
    Column("job_id", ForeignKey("job.job_id"), primary_key=True),
    Column("instance_id", ForeignKey("instance.instance_id"), primary_key=True, index=True),
)

#: The answer for one instance in one job; `numbers` is the whole answer as JSON.
result = Table(
    "result",
    metadata,
    Column("result_id", Integer, primary_key=True),
    Column("job_id", ForeignKey("job.job_id"), nullable=False),
    Column("instance_id", ForeignKey("instance.instance_id"), nullable=False, index=True),
    Column("outcome", String(16), nullable=False),
    Column("reason", String(64)),
    Column("cardiothoracic_ratio", Float),
    Column("numbers", Text),
    _one_of("outcome", Outcome),
    UniqueConstraint("job_id", "instance_id"),
)

finding = Table(
    "finding",
    metadata,
    Column("result_id", ForeignKey("result.result_id"), primary_key=True),
    Column("label", String(32), primary_key=True),
    # NULL where the weights cannot answer for the label, which then is not evaluated
    Column("probability", Float),
    Column("probability_unmasked", Float),
    Column("threshold", Float),
    Column("state", String(16), nullable=False),
    Column("reason", String(64)),
    _one_of("state", FindingState),
)

#: A destination that has ever been opened or held; the name "*" stands for all of them.
destination = Table(
    "destination",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("live", Boolean, nullable=False, server_default=text("0")),
    Column("held", Boolean, nullable=False, server_default=text("0")),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("at", Instant, nullable=False),
)

#: Findings on hold; a row is removed when the finding is released (the audit keeps both).
finding_hold = Table(
    "finding_hold",
    metadata,
    Column("label", String(32), primary_key=True),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("at", Instant, nullable=False),
)

#: Which weights were chosen, by whom and why: the newest row counts. The digests are those of the
#: manifests, so that a folder that was changed since is noticed. `folder` lies in the data
#: directory; NULL chooses what comes with prescreen.
weights_choice = Table(
    "weights_choice",
    metadata,
    Column("choice_id", Integer, primary_key=True),
    Column("folder", Text),
    Column("findings", String(64), nullable=False),
    Column("lungs_heart", String(64), nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("at", Instant, nullable=False),
    sqlite_autoincrement=True,
)

result_object = Table(
    "result_object",
    metadata,
    Column("object_id", Integer, primary_key=True),
    Column("job_id", ForeignKey("job.job_id"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("audience", String(16), nullable=False),
    _uid("sop_class_uid"),
    Column("sop_instance_uid", String(64), nullable=False, unique=True),
    _uid("series_instance_uid"),
    Column("file_name", String(128), nullable=False),
    _uid("fallback_sop_instance_uid", nullable=True),
    _uid("source_sop_instance_uid", nullable=True),
    Column("destination", String(32)),  # the only one that gets it; empty: by kind and audience
    _one_of("audience", Audience),
)

#: One object on its way to one destination.
outbox = Table(
    "outbox",
    metadata,
    Column("outbox_id", Integer, primary_key=True),
    Column("object_id", ForeignKey("result_object.object_id"), nullable=False),
    Column("job_id", ForeignKey("job.job_id"), nullable=False),
    Column("destination", String(32), nullable=False),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("lease_token", String(32)),
    Column("lease_until", Instant),
    Column("status", Integer),  # last DIMSE status of the peer
    Column("error", Text),
    Column("refused_since", Instant),
    Column("uses_fallback", Boolean, nullable=False, server_default=text("0")),
    Column("delivered_at", Instant),
    Column("settled_at", Instant),
    # when the peer is to be asked next whether it keeps the object; empty: it is not asked
    Column("commit_due_at", Instant),
    Column("commit_asks", Integer, nullable=False, server_default="0"),
    Column("losses", Integer, nullable=False, server_default="0"),  # taken, then not there
    Column("found_at", Instant),
    Column("committed_at", Instant),
    _one_of("state", OutboxState),
    UniqueConstraint("object_id", "destination"),
    Index("ix_outbox_work", "destination", "state", "due_at"),
    Index("ix_outbox_job_state", "job_id", "state"),
    Index(
        "ix_outbox_commit",
        "destination",
        "commit_due_at",
        sqlite_where=text("commit_due_at IS NOT NULL"),
        postgresql_where=text("commit_due_at IS NOT NULL"),
    ),
    sqlite_autoincrement=True,
)

#: One request for storage commitment (PS3.4 Annex J): its Transaction UID and what it asked for.
commitment = Table(
    "commitment",
    metadata,
    Column("transaction_uid", String(64), primary_key=True),
    Column("destination", String(32), nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("answered_at", Instant),
)

commitment_item = Table(
    "commitment_item",
    metadata,
    Column("transaction_uid", ForeignKey("commitment.transaction_uid"), primary_key=True),
    Column("outbox_id", ForeignKey("outbox.outbox_id"), primary_key=True),
)

#: Instances that a rejection note has named, kept for those that come after it.
rejection = Table(
    "rejection",
    metadata,
    Column("sop_instance_uid", String(64), primary_key=True),
    Column("code", String(16), nullable=False),
    Column("at", Instant, nullable=False),
)

#: The results of a job that are taken back, and the job that sends the rejection notes.
withdrawal = Table(
    "withdrawal",
    metadata,
    Column("withdrawn_job_id", ForeignKey("job.job_id"), primary_key=True),
    Column("job_id", ForeignKey("job.job_id"), nullable=False, index=True),
    Column("code", String(16), nullable=False),
)

#: What an archive said of the patient or order of a study in answer to C-FIND: the identity that is
#: the study's since, and the job that makes its report again. `patient_sex` is as in `Correction`.
correction = Table(
    "correction",
    metadata,
    Column("correction_id", Integer, primary_key=True),
    Column("study_id", ForeignKey("study.study_id"), nullable=False, index=True),
    Column("identity_id", ForeignKey("identity.identity_id"), nullable=False),
    Column("job_id", ForeignKey("job.job_id"), nullable=False),
    Column("destination", String(32), nullable=False),
    Column("patient_sex", String(16)),
    Column("at", Instant, nullable=False),
    sqlite_autoincrement=True,
)

#: The instances that a correction is about, and whose they were before.
correction_item = Table(
    "correction_item",
    metadata,
    Column("correction_id", ForeignKey("correction.correction_id"), primary_key=True),
    Column("instance_id", ForeignKey("instance.instance_id"), primary_key=True, index=True),
    Column("former_identity_id", ForeignKey("identity.identity_id"), nullable=False),
)

#: The hash chain. Triggers refuse UPDATE and DELETE.
event = Table(
    "event",
    metadata,
    Column("event_id", Integer, primary_key=True),
    Column("at", Instant, nullable=False, index=True),
    Column("kind", String(64), nullable=False, index=True),
    Column("study_instance_uid", String(64), index=True),
    Column("sop_instance_uid", String(64), index=True),
    Column("job_id", Integer, index=True),
    Column("detail", Text, nullable=False),
    Column("phi_digest", String(64)),
    Column("hash", String(64), nullable=False),
    sqlite_autoincrement=True,
)

#: Patient data of an event, outside the chain: the chain holds the salted digest alone.
event_phi = Table(
    "event_phi",
    metadata,
    Column("event_id", ForeignKey("event.event_id"), primary_key=True),
    Column("salt", String(32), nullable=False),
    Column("content", Text, nullable=False),
)


def outbox_of_studies() -> Join:
    """Outbox rows with their objects, jobs and studies."""
    return (
        outbox.join(result_object, outbox.c.object_id == result_object.c.object_id)
        .join(job, outbox.c.job_id == job.c.job_id)
        .join(study, job.c.study_id == study.c.study_id)
    )
