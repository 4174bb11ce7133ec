"""What one kept instance does to the database: its row, its study, the study's open job.

Functions on a connection; `Queue.keep` is the transaction around them.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import BindParameter, Connection, Row, bindparam, select, update

from prescreen.store import audit
from prescreen.store import schema as t
from prescreen.store.images import fill, screenable
from prescreen.store.intake import Kept
from prescreen.store.prepared import Prepared, add, inserting
from prescreen.store.withdrawal import overtake
from prescreen.study import Disposition, Identity, Incoming, Instance, Priority, Stage

#: Why a result that comes back is not screened.
OWN_RESULT = "own_result"

_SALT = "identity.salt"
_PATIENT = (
    "patient_id",
    "issuer_of_patient_id",
    "patient_name",
    "patient_birth_date",
    "accession_number",
    "issuer_of_accession_number",
    "study_date",
)


_UID: BindParameter[str] = bindparam("uid")
_OURS = Prepared(
    select(t.result_object.c.object_id).where(t.result_object.c.sop_instance_uid == _UID)
)
_REJECTION = Prepared(select(t.rejection.c.code).where(t.rejection.c.sop_instance_uid == _UID))
_VERSIONS = Prepared(
    select(
        t.instance.c.instance_id, t.instance.c.sha256, t.instance.c.size, t.instance.c.path
    ).where(t.instance.c.sop_instance_uid == _UID, t.instance.c.removed_at.is_(None))
)
_READ_SALT = Prepared(select(t.meta.c.value).where(t.meta.c.key == _SALT))
_IDENTITY = Prepared(
    select(t.identity.c.identity_id).where(t.identity.c.digest == bindparam("the_digest"))
)
_STUDY = Prepared(
    select(t.study.c.study_id, t.study.c.identity_id).where(t.study.c.study_instance_uid == _UID)
)
_OPEN_JOB = Prepared(
    select(t.job.c.job_id, t.job.c.cap_at, t.job.c.priority).where(
        t.job.c.study_id == bindparam("the_study"), t.job.c.open
    )
)
_MOVE_JOB = Prepared(update(t.job).where(t.job.c.job_id == bindparam("the_job")))


@dataclass(frozen=True)
class Arrival:
    """One kept instance as it comes to the database; periods in seconds."""

    identity: Identity
    kept: Kept
    path: str  # relative to the data directory
    incoming: Incoming
    quiet_period: float
    quiet_cap: float
    screenable: bool
    reason: str | None
    priority: int


def arrive(
    connection: Connection,
    arrival: Arrival,
    now: datetime.datetime,
    recovered: datetime.datetime | None = None,
) -> Disposition:
    """Write down one arrival; DUPLICATE means that its file is not needed.

    A file that was `recovered` came at that instant and joins no job: whether it was answered is
    found out afterwards.
    """
    if arrival.screenable and _is_ours(connection, arrival.identity.sop_instance_uid):
        arrival = replace(arrival, screenable=False, reason=OWN_RESULT)
    versions = _versions(connection, arrival.identity.sop_instance_uid)
    same = next((row for row in versions if row.sha256 == arrival.kept.sha256), None)
    if same is not None and _lies_there(same, arrival):
        _append(connection, "instance.duplicate", arrival, now, {})
        return Disposition.DUPLICATE
    if same is not None:  # what is acknowledged must be stored: the new file takes its place
        lose(connection, same.instance_id, now)
        versions.remove(same)
    identity_id, digest_is_new = identity_row(connection, arrival.identity)
    study_id, withdrawn = _study(connection, arrival, identity_id, now, again=bool(versions))
    row = _row(arrival, again=bool(versions), received_at=recovered or now)
    row |= {"study_id": study_id, "identity_id": identity_id}
    row |= _rejected_before(connection, arrival.identity.sop_instance_uid, now)
    instance_id = add(connection, t.instance, row)
    disposition = Disposition(row["disposition"])
    detail: dict[str, Any] = {"instance_id": instance_id}
    if recovered is not None:
        detail["recovered"] = True
    elif arrival.screenable:
        detail |= join_open_job(connection, arrival, study_id, instance_id, now)
        if withdrawn:  # the report that was taken back is made again, whatever this image is
            fill(connection, detail["job_id"], screenable(connection, study_id))
    phi = patient_data(arrival.identity) if digest_is_new else None
    _append(connection, _kind(disposition), arrival, now, detail, phi)
    return disposition


def _is_ours(connection: Connection, sop_instance_uid: str) -> bool:
    """Whether an object of that UID was written here; an archive may have changed the rest."""
    return _OURS.scalar(connection, {"uid": sop_instance_uid}) is not None


def _rejected_before(
    connection: Connection, sop_instance_uid: str, now: datetime.datetime
) -> dict[str, Any]:
    """What a rejection note that came before the instance says of it."""
    code = _REJECTION.scalar(connection, {"uid": sop_instance_uid})
    return {} if code is None else {"rejected_at": now, "rejected_code": code}


def _versions(connection: Connection, sop_instance_uid: str) -> list[Row[Any]]:
    return _VERSIONS.all(connection, {"uid": sop_instance_uid})


def _lies_there(row: Row[Any], arrival: Arrival) -> bool:
    """Whether the file of a row is there in its full size."""
    data_dir = Path(str(arrival.kept.path).removesuffix(arrival.path))
    try:
        return bool((data_dir / row.path).stat().st_size == row.size)
    except OSError:
        return False


def lose(connection: Connection, instance_id: int, now: datetime.datetime) -> None:
    """Say of a kept file that it is gone, so that it is kept when it comes again."""
    here = t.instance.c.instance_id == instance_id
    columns = (t.instance.c.sop_instance_uid, t.instance.c.study_id)
    gone = update(t.instance).where(here).values(removed_at=now).returning(*columns)
    row = connection.execute(gone).one()
    uid = select(t.study.c.study_instance_uid).where(t.study.c.study_id == row.study_id)
    audit.append(
        connection,
        "instance.lost",
        now,
        study_instance_uid=connection.scalar(uid),
        sop_instance_uid=row.sop_instance_uid,
        detail={"instance_id": instance_id},
    )


def _disposition(arrival: Arrival, again: bool) -> Disposition:
    if not arrival.screenable:
        return Disposition.IGNORED
    return Disposition.AGAIN if again else Disposition.NEW


def _kind(disposition: Disposition) -> str:
    kinds = {
        Disposition.IGNORED: "instance.ignored",
        Disposition.AGAIN: "instance.again",
        Disposition.NEW: "instance.kept",
    }
    return kinds[disposition]


def _append(
    connection: Connection,
    kind: str,
    arrival: Arrival,
    now: datetime.datetime,
    detail: dict[str, Any],
    phi: dict[str, str] | None = None,
) -> None:
    facts = {
        "calling_ae_title": arrival.incoming.calling_ae_title,
        "peer_address": arrival.incoming.peer_address,
        "sop_class_uid": arrival.identity.sop_class_uid,
        "transfer_syntax_uid": arrival.identity.transfer_syntax_uid,
        "sha256": arrival.kept.sha256,
        "size": arrival.kept.size,
    }
    if arrival.reason is not None:
        facts["reason"] = arrival.reason
    audit.append(
        connection,
        kind,
        now,
        study_instance_uid=arrival.identity.study_instance_uid,
        sop_instance_uid=arrival.identity.sop_instance_uid,
        job_id=detail.get("job_id"),
        detail={**facts, **detail},
        phi=phi,
    )


def patient_data(identity: Identity) -> dict[str, str]:
    """The attributes of an identity that belong to the patient and the order."""
    return {name: getattr(identity, name) for name in _PATIENT}


def identity_digest(connection: Connection, identity: Identity) -> str:
    """Digest of patient, order and study (hex), salted per database: equal where they are."""
    salt = _READ_SALT.scalar(connection)
    if salt is None:
        salt = secrets.token_hex(16)
        inserting(t.meta).run(connection, {"key": _SALT, "value": salt})
    told = patient_data(identity) | {"study_instance_uid": identity.study_instance_uid}
    content = json.dumps(told, sort_keys=True)
    return hashlib.sha256(f"{salt}\n{content}".encode()).hexdigest()


def identity_row(connection: Connection, identity: Identity) -> tuple[int, bool]:
    """Id of the identity's row, and whether the row is new."""
    digest = identity_digest(connection, identity)
    known = _IDENTITY.scalar(connection, {"the_digest": digest})
    if known is not None:
        return int(known), False
    row = {"digest": digest, **patient_data(identity)}
    return add(connection, t.identity, row), True


def _study(
    connection: Connection,
    arrival: Arrival,
    identity_id: int,
    now: datetime.datetime,
    again: bool,
) -> tuple[int, int]:
    """Id of the study's row, and how many rows of its outbox were withdrawn.

    An image makes another identity the current one; where its instance was here before, that is
    found out when it is told apart, and nothing is sent meanwhile. What is not for screening makes
    no report, and takes none back.
    """
    uid = arrival.identity.study_instance_uid
    known = _STUDY.first(connection, {"uid": uid})
    if known is None:
        row = {"study_instance_uid": uid, "identity_id": identity_id, "first_received_at": now}
        return add(connection, t.study, row), 0
    study_id = int(known.study_id)
    if known.identity_id == identity_id or not arrival.screenable:
        return study_id, 0
    if again:
        return study_id, overtake(connection, study_id, uid, now)
    return study_id, change_identity(connection, study_id, identity_id, now)


def change_identity(
    connection: Connection, study_id: int, identity_id: int, now: datetime.datetime
) -> int:
    """Make another identity the study's current one, with its event; no change, no event.

    Reports under the old identity that were not sent yet shall never be: they are withdrawn. How
    many rows of the outbox that were.
    """
    columns = t.study.c
    changed = connection.execute(
        update(t.study)
        .where(columns.study_id == study_id, columns.identity_id != identity_id)
        .values(identity_id=identity_id)
        .returning(columns.study_instance_uid)
    ).one_or_none()
    if changed is None:
        return 0
    uid = changed.study_instance_uid
    audit.append(connection, "study.identity_changed", now, study_instance_uid=uid)
    return overtake(connection, study_id, uid, now)


def _row(arrival: Arrival, again: bool, received_at: datetime.datetime) -> dict[str, Any]:
    identity, incoming = arrival.identity, arrival.incoming
    return {
        "sop_class_uid": identity.sop_class_uid,
        "sop_instance_uid": identity.sop_instance_uid,
        "series_instance_uid": identity.series_instance_uid,
        "transfer_syntax_uid": identity.transfer_syntax_uid,
        "modality": identity.modality,
        "sha256": arrival.kept.sha256,
        "size": arrival.kept.size,
        "path": arrival.path,
        "calling_ae_title": incoming.calling_ae_title,
        "peer_address": incoming.peer_address,
        "received_at": received_at,
        "arrival": "again" if again else "first",
        "disposition": _disposition(arrival, again),
        "reason": arrival.reason,
    }


def join_open_job(
    connection: Connection,
    arrival: Arrival,
    study_id: int,
    instance_id: int,
    now: datetime.datetime,
) -> dict[str, Any]:
    """Put an instance into the study's open job; returns what the audit says of that job."""
    job = _open_job(connection, study_id)
    cap_at = job.cap_at if job else now + datetime.timedelta(seconds=arrival.quiet_cap)
    priority = max(arrival.priority, job.priority) if job else arrival.priority
    due_at = due(now, arrival.quiet_period, cap_at, priority)
    if job is None:
        uid = arrival.identity.study_instance_uid
        job_id = open_job(connection, study_id, uid, now, due_at, cap_at, priority)
    else:
        job_id = int(job.job_id)
        values = {"the_job": job_id, "due_at": due_at, "priority": priority}
        _MOVE_JOB.run(connection, values)
    inserting(t.job_instance).run(connection, {"job_id": job_id, "instance_id": instance_id})
    return {"job_id": job_id, "due_at": t.instant_text(due_at)}


def _open_job(connection: Connection, study_id: int) -> Any:
    """The job of a study that images may still join, if any; once claimed it is closed for ever."""
    return _OPEN_JOB.first(connection, {"the_study": study_id})


def due(
    now: datetime.datetime, quiet_period: float, cap_at: datetime.datetime, priority: int
) -> datetime.datetime:
    """When a job with an image that came now is due: STAT at once, else quiet or at the cap."""
    if priority >= Priority.STAT:
        return now
    return min(now + datetime.timedelta(seconds=quiet_period), cap_at)


def open_job(
    connection: Connection,
    study_id: int,
    study_instance_uid: str,
    now: datetime.datetime,
    due_at: datetime.datetime,
    cap_at: datetime.datetime,
    priority: int,
    cause: str = "arrival",
    detail: dict[str, Any] | None = None,
) -> int:
    """A new open job of a study, without images yet; returns its id."""
    row = {
        "study_id": study_id,
        "stage": Stage.SCREEN,
        "open": True,
        "cause": cause,
        "priority": priority,
        "opened_at": now,
        "due_at": due_at,
        "cap_at": cap_at,
    }
    job_id = add(connection, t.job, row)
    audit.append(
        connection,
        "job.opened",
        now,
        study_instance_uid=study_instance_uid,
        job_id=job_id,
        detail={"cause": cause, "priority": priority, **(detail or {})},
    )
    return job_id


def instance_of(row: Row[Any], data_dir: Path) -> Instance:
    """An instance from a row of instance, study_instance_uid and digest."""
    return Instance(
        instance_id=row.instance_id,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        sha256=row.sha256,
        size=row.size,
        path=data_dir / row.path,
        calling_ae_title=row.calling_ae_title,
        received_at=row.received_at,
        modality=row.modality,
        arrival=row.arrival,
        disposition=Disposition(row.disposition),
        pixel_sha256=row.pixel_sha256,
        identity_digest=row.digest,
    )
