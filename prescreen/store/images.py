"""Which images a job is over, and whose they are. Functions on a connection."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select

from prescreen.store import schema as t
from prescreen.store.prepared import Prepared
from prescreen.study import Correction, Disposition


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


def corrections(connection: Connection, job_id: int) -> dict[int, Correction]:
    """Whose the images of a job are by what an archive said: those whose files say otherwise.

    What arrived under another identity since, and made that the study's, is not among them: an
    instance is corrected for as long as its row has the identity that the correction gave it.
    """
    rows = _CORRECTIONS.all(connection, {"the_job": job_id})
    return {
        row.instance_id: Correction(
            patient_id=row.patient_id,
            issuer_of_patient_id=row.issuer_of_patient_id,
            patient_name=row.patient_name,
            patient_birth_date=row.patient_birth_date,
            accession_number=row.accession_number,
            patient_sex=row.patient_sex,
        )
        for row in rows
    }


_CORRECTIONS = Prepared(
    select(t.correction_item.c.instance_id, t.correction.c.patient_sex, *t.identity.c)
    .select_from(
        t.correction_item.join(t.correction)
        .join(t.instance, t.instance.c.instance_id == t.correction_item.c.instance_id)
        .join(t.job_instance, t.job_instance.c.instance_id == t.instance.c.instance_id)
        .join(t.identity, t.identity.c.identity_id == t.correction.c.identity_id)
    )
    .where(t.job_instance.c.job_id == bindparam("the_job"))
    .where(t.instance.c.identity_id == t.correction.c.identity_id)
    .order_by(t.correction.c.correction_id)
)
