"""A study whose patient or order changes again and again: no report waits for that for ever.

Each correction takes back what was not sent yet, and the report is made anew. Two senders that
correct each other, or one that alternates, would postpone it without end; after `MOST` times within
`WITHIN` it is set aside for a person, who sees why. Functions on a connection.
"""

from __future__ import annotations

import datetime

from sqlalchemy import Connection, bindparam, func, select, update

from prescreen.store import audit
from prescreen.store import schema as t
from prescreen.store.prepared import Prepared
from prescreen.study import Job, OutboxState

MOST = 5
WITHIN = datetime.timedelta(days=1)
#: What a person reads beside the parked object.
WORDS = (
    "identity disputed: patient or order of its study were changed again and again before it could "
    "be sent; let whoever is right send the images once more, then `prescreen rescreen` the study"
)


def set_aside(connection: Connection, job: Job, now: datetime.datetime) -> bool:
    """Whether the report of a job is for a person; that of an earlier job no longer is.

    What a person asked for (a rescreen, a retry) and what takes back is not held up.
    """
    uid = job.study_instance_uid
    _SUPERSEDE.run(connection, {"the_study": uid})
    terms = {"the_study": uid, "since": now - WITHIN}
    times = _OVERTAKEN.scalar(connection, terms) if job.cause == "arrival" else 0
    if not times or times < MOST:
        return False
    audit.append(
        connection,
        "study.identity_disputed",
        now,
        study_instance_uid=uid,
        job_id=job.job_id,
        detail={"reports_overtaken": times},
    )
    return True


_OVERTAKEN = Prepared(
    select(func.count()).where(
        t.event.c.study_instance_uid == bindparam("the_study"),
        t.event.c.kind == "report.overtaken",
        t.event.c.at > bindparam("since", type_=t.Instant),
    )
)
_JOBS = select(t.job.c.job_id).where(
    t.job.c.study_id == t.study.c.study_id,
    t.study.c.study_instance_uid == bindparam("the_study"),
)
_SUPERSEDE = Prepared(
    update(t.outbox)
    .where(
        t.outbox.c.job_id.in_(_JOBS),
        t.outbox.c.state == OutboxState.PARKED,
        t.outbox.c.error == WORDS,
    )
    .values(state=OutboxState.CANCELLED)
)
