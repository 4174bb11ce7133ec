"""The stage of a settled job: what is next while something of it is to be delivered, else done."""

from __future__ import annotations

import datetime

from sqlalchemy import Connection, bindparam, select, update

from prescreen.store import audit
from prescreen.store import schema as t
from prescreen.store.prepared import Prepared
from prescreen.study import OutboxState, Stage

_PENDING = Prepared(
    select(t.outbox.c.outbox_id)
    .where(t.outbox.c.job_id == bindparam("the_job"), t.outbox.c.state == OutboxState.PENDING)
    .limit(1)
)


_ADVANCE = Prepared(
    update(t.job).where(
        t.job.c.job_id == bindparam("the_job"), t.job.c.stage != bindparam("other_than")
    )
)


def next_stage(connection: Connection, job_id: int) -> Stage:
    """DELIVER while an outbox row of the job is pending, else DONE."""
    pending = _PENDING.scalar(connection, {"the_job": job_id})
    return Stage.DONE if pending is None else Stage.DELIVER


def advance(
    connection: Connection,
    job_id: int,
    study_instance_uid: str,
    stage: Stage,
    now: datetime.datetime,
) -> None:
    """Move a settled job to a stage; with DONE goes its event."""
    values = {"stage": stage, "done_at": now if stage is Stage.DONE else None}
    here = {"the_job": job_id, "other_than": stage}
    changed = _ADVANCE.run(connection, {**here, **values})
    if changed and stage is Stage.DONE:
        audit.append(
            connection, "job.done", now, study_instance_uid=study_instance_uid, job_id=job_id
        )
