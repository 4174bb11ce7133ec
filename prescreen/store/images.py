"""Which images a job is over. Functions on a connection."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from prescreen.store import schema as t
from prescreen.study import Disposition


def screenable(connection: Connection, study_id: int) -> list[int]:
    """What is kept of a study and not rejected: of what was revised, its newest version."""
    wanted = (Disposition.NEW, Disposition.AGAIN, Disposition.REVISION)
    columns = t.instance.c
    statement = select(columns.instance_id, columns.sop_instance_uid, columns.disposition).where(
        columns.study_id == study_id,
        columns.removed_at.is_(None),
        columns.rejected_at.is_(None),
        columns.disposition.in_(wanted),
    )
    rows = connection.execute(statement.order_by(columns.instance_id)).all()
    told_apart = [row for row in rows if row.disposition != Disposition.AGAIN]
    newest = {row.sop_instance_uid: row.instance_id for row in told_apart}
    again = [row.instance_id for row in rows if row.disposition == Disposition.AGAIN]
    return sorted([*newest.values(), *again])


def fill(connection: Connection, job_id: int, instance_ids: list[int]) -> None:
    """Put instances into a job that are not in it yet."""
    there = select(t.job_instance.c.instance_id).where(t.job_instance.c.job_id == job_id)
    present = set(connection.scalars(there))
    missing = [number for number in instance_ids if number not in present]
    if missing:
        rows = [{"job_id": job_id, "instance_id": number} for number in missing]
        connection.execute(insert(t.job_instance), rows)
