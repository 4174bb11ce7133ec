"""What the claim freezes into a job, and what settling a job writes. Functions on a connection."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, bindparam, exists, or_, select, update

from prescreen.settings import Destination
from prescreen.store import audit, disputes, overtaken
from prescreen.store import schema as t
from prescreen.store.answers import Answer, write_result
from prescreen.store.arrival import change_identity
from prescreen.store.prepared import Prepared, add
from prescreen.store.withdrawal import FINDING_HELD
from prescreen.study import (
    Audience,
    Disposition,
    Job,
    OutboxState,
    Outcome,
    ResultObject,
)


@dataclass(frozen=True)
class Frozen:
    """What the first claim froze into a job; later attempts find the same."""

    predecessor_job_id: int | None
    live_destinations: frozenset[str]
    held_findings: frozenset[str]


def freeze(connection: Connection, row: Row[Any], now: datetime.datetime) -> Frozen:
    """Freeze predecessor, live destinations and findings on hold at the first claim of a job."""
    if row.claimed_at is not None:
        live, held = json.loads(row.live_destinations), json.loads(row.held_findings)
        return Frozen(row.predecessor_job_id, frozenset(live), frozenset(held))
    frozen = Frozen(
        _predecessor(connection, row.study_id, row.job_id),
        frozenset(_LIVE.scalars(connection)),
        frozenset(_HELD.scalars(connection)),
    )
    values = {
        "claimed_at": now,
        "predecessor_job_id": frozen.predecessor_job_id,
        "live_destinations": json.dumps(sorted(frozen.live_destinations)),
        "held_findings": json.dumps(sorted(frozen.held_findings)),
    }
    _OF_JOB.run(connection, {"the_job": row.job_id, **values})
    return frozen


def _predecessor(connection: Connection, study_id: int, job_id: int) -> int | None:
    """The newest earlier job of the study with a report that somebody may have.

    One that was held in silence, or cancelled before it was tried, replaced nothing anywhere.
    """
    terms = {"the_study": study_id, "the_job": job_id}
    found: int | None = _PREDECESSOR.scalar(connection, terms)
    return found


def _predecessors() -> Select[Any]:
    of_job = t.outbox.c.job_id == t.job.c.job_id
    item = t.result_object.c
    has_object = exists().where(item.job_id == t.job.c.job_id, item.kind != "rejection")
    has_row = exists().where(of_job)
    unseen = t.outbox.c.state.in_([OutboxState.CANCELLED, OutboxState.HELD])
    stands = exists().where(of_job, or_(~unseen, t.outbox.c.attempts > 0))
    earlier = (t.job.c.study_id == bindparam("the_study"), t.job.c.job_id < bindparam("the_job"))
    statement = select(t.job.c.job_id).where(*earlier, has_object, or_(~has_row, stands))
    return statement.order_by(t.job.c.job_id.desc()).limit(1)


_PREDECESSOR = Prepared(_predecessors())
_LIVE = Prepared(select(t.destination.c.name).where(t.destination.c.live))
_HELD = Prepared(select(t.finding_hold.c.label))
_EARLIER = t.job.alias("earlier")
_MADE_AGAIN = Prepared(
    select(t.job.c.job_id)
    .join(_EARLIER, _EARLIER.c.study_id == t.job.c.study_id)
    .where(_EARLIER.c.job_id == bindparam("the_job"), t.job.c.job_id > bindparam("the_job"))
    .where(t.job.c.cause == FINDING_HELD)
    .limit(1)
)
_OF_JOB = Prepared(update(t.job).where(t.job.c.job_id == bindparam("the_job")))
_OF_INSTANCE = Prepared(
    update(t.instance)
    .where(t.instance.c.instance_id == bindparam("the_instance"))
    .returning(t.instance.c.identity_id)
)
_REJECTED = Prepared(
    select(t.instance.c.instance_id)
    .join(t.job_instance, t.job_instance.c.instance_id == t.instance.c.instance_id)
    .where(t.job_instance.c.job_id == bindparam("the_job"), t.instance.c.rejected_at.is_not(None))
)


def audience_of(destination: Destination, job: Job) -> Audience:
    """Whose objects a destination gets of a job: silent and test ones those for evaluation."""
    if destination.test or destination.name not in job.live_destinations:
        return Audience.EVALUATION
    return destination.audience


def write_answers(
    connection: Connection,
    job: Job,
    answers: Sequence[Answer],
    settled: tuple[Outcome, str | None],
    now: datetime.datetime,
) -> None:
    """Results of the instances, what those that came again turned out to be, their pixels."""
    given = {answer.instance.instance_id: answer for answer in answers}
    for instance in job.instances:
        answer = given.get(instance.instance_id, Answer(instance))
        otherwise = _otherwise(answer, settled)
        write_result(connection, job.job_id, instance.instance_id, answer.result, otherwise)
        _tell_apart(connection, job, answer, now)


def _otherwise(answer: Answer, settled: tuple[Outcome, str | None]) -> tuple[Outcome, str | None]:
    """The answer for an instance that was given none: silence never means normal."""
    outcome, reason = settled
    if answer.disposition is not None:
        return Outcome.NOT_SCREENED, str(answer.disposition)
    if outcome is Outcome.SCREENED:
        return Outcome.NOT_SCREENED, "no_answer"
    return outcome, reason


def _tell_apart(connection: Connection, job: Job, answer: Answer, now: datetime.datetime) -> None:
    values: dict[str, Any] = {}
    if answer.pixel_sha256 is not None:
        values["pixel_sha256"] = answer.pixel_sha256
    if answer.disposition is not None:
        values["disposition"] = answer.disposition
    if not values:
        return
    here = {"the_instance": answer.instance.instance_id}
    identity_id = _OF_INSTANCE.scalar(connection, {**here, **values})
    if answer.disposition is None or answer.disposition == answer.instance.disposition:
        return
    audit.append(
        connection,
        f"instance.{_TURNED_OUT[answer.disposition]}",
        now,
        study_instance_uid=job.study_instance_uid,
        sop_instance_uid=answer.instance.sop_instance_uid,
        job_id=job.job_id,
        detail={"instance_id": answer.instance.instance_id},
    )
    if answer.disposition is Disposition.REVISION and identity_id is not None:
        change_identity(connection, _study_id(connection, job.job_id), identity_id, now)


_TURNED_OUT: Mapping[Disposition, str] = {
    Disposition.NEW: "told_apart",
    Disposition.AGAIN: "again",
    Disposition.DUPLICATE: "duplicate",
    Disposition.REVISION: "revision",
    Disposition.CONFLICT: "conflict",
    Disposition.IGNORED: "ignored",
}


def _study_id(connection: Connection, job_id: int) -> int:
    return int(connection.scalars(select(t.job.c.study_id).where(t.job.c.job_id == job_id)).one())


def fail_instances(connection: Connection, job_id: int, reason: str) -> None:
    """A failed answer for every instance of a job."""
    of_job = select(t.job_instance.c.instance_id).where(t.job_instance.c.job_id == job_id)
    for instance_id in connection.scalars(of_job).all():
        write_result(connection, job_id, instance_id, None, (Outcome.FAILED, reason))


def write_objects(
    connection: Connection,
    job: Job,
    objects: Sequence[ResultObject],
    destinations: Sequence[Destination],
    now: datetime.datetime,
) -> None:
    """The objects of a report, and for each the outbox rows of the destinations that get it."""
    if objects:
        _append(connection, "report.written", job, now, {"objects": len(objects)})
    fate = _fate(connection, job, now) if objects else OutboxState.PENDING
    for item in objects:
        row = {"job_id": job.job_id, **vars(item)}
        object_id = add(connection, t.result_object, row)
        for destination in destinations:
            if is_for(item, destination, job):
                state = _state(item, destination, job, fate)
                _post(connection, job, item, object_id, destination, now, state)


def _fate(connection: Connection, job: Job, now: datetime.datetime) -> OutboxState:
    """What becomes of a report: sent, void (rejected or overtaken), or for a person to release."""
    if speaks_of_rejected(connection, job):
        return OutboxState.CANCELLED
    if disputes.set_aside(connection, job, now):
        return OutboxState.PARKED
    if overtaken.left_to_the_next(connection, job, now) or _is_made_again(connection, job):
        return OutboxState.CANCELLED
    return OutboxState.PENDING


def _is_made_again(connection: Connection, job: Job) -> bool:
    """Whether a finding went on hold while the report was made, and a later job is to make it."""
    held = set(_HELD.scalars(connection))
    if held <= job.held_findings:
        return False
    return _MADE_AGAIN.scalar(connection, {"the_job": job.job_id}) is not None


def is_for(item: ResultObject, destination: Destination, job: Job) -> bool:
    """Whether a destination gets an object: one made for it alone, or its kinds and audience."""
    if item.destination is not None:
        return item.destination == destination.name
    return item.kind in destination.objects and item.audience == audience_of(destination, job)


def _state(
    item: ResultObject, destination: Destination, job: Job, fate: OutboxState
) -> OutboxState:
    """What takes back is sent in any case; what is void never is."""
    if item.destination is not None:
        return OutboxState.PENDING
    sends = destination.test or destination.name in job.live_destinations
    return fate if sends or fate is OutboxState.CANCELLED else OutboxState.HELD


def speaks_of_rejected(connection: Connection, job: Job) -> bool:
    """Whether an instance of a job has been rejected since it was claimed."""
    rejected = _REJECTED.scalars(connection, {"the_job": job.job_id})
    return any(instance.instance_id in rejected for instance in job.instances)


def _post(
    connection: Connection,
    job: Job,
    item: ResultObject,
    object_id: int,
    destination: Destination,
    now: datetime.datetime,
    state: OutboxState,
) -> None:
    row = {
        "object_id": object_id,
        "job_id": job.job_id,
        "destination": destination.name,
        "state": state,
        "priority": job.priority,
        "created_at": now,
        "due_at": now,
        "settled_at": None if state is OutboxState.PENDING else now,
        "error": disputes.WORDS if state is OutboxState.PARKED else None,
    }
    outbox_id = add(connection, t.outbox, row)
    detail = {"outbox_id": outbox_id, "destination": destination.name, "kind": item.kind}
    _append(connection, f"outbox.{state}", job, now, detail, item.sop_instance_uid)


def _append(
    connection: Connection,
    kind: str,
    job: Job,
    now: datetime.datetime,
    detail: Mapping[str, Any],
    sop_instance_uid: str | None = None,
) -> None:
    audit.append(
        connection,
        kind,
        now,
        study_instance_uid=job.study_instance_uid,
        sop_instance_uid=sop_instance_uid,
        job_id=job.job_id,
        detail=detail,
    )


def object_of(row: Row[Any]) -> ResultObject:
    """An object from its row, as it was given to `settle`."""
    return ResultObject(
        kind=row.kind,
        audience=Audience(row.audience),
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        series_instance_uid=row.series_instance_uid,
        file_name=row.file_name,
        fallback_sop_instance_uid=row.fallback_sop_instance_uid,
        source_sop_instance_uid=row.source_sop_instance_uid,
        destination=row.destination,
    )
