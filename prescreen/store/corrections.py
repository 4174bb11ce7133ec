"""What an archive says of a study's patient and order, taken over: whose the study is from now on.

The archive is where patients are merged and orders corrected. What was not sent yet under the old
identity is withdrawn in the same transaction that opens the job which makes the report again.
"""

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, Engine, Row, bindparam, func, insert, select, update

from prescreen.store import arrival, audit
from prescreen.store import schema as t
from prescreen.store.database import writing
from prescreen.store.images import screenable
from prescreen.store.prepared import add
from prescreen.store.queue import utc_now
from prescreen.store.rebuild import rebuild
from prescreen.store.withdrawal import let_go
from prescreen.study import Delivery, Identity

#: Why there is a job: its study's patient or order was corrected in an archive.
CORRECTED = "corrected"

#: So many corrections of one study within a day; an archive that says more contradicts itself.
MOST, WITHIN = 5, datetime.timedelta(days=1)

_OF_PATIENT = ("patient_id", "issuer_of_patient_id", "patient_name", "patient_birth_date")
_OF_ORDER = ("accession_number", "issuer_of_accession_number", "study_date")


class Unheeded(enum.StrEnum):
    """Why what an archive says is not taken over."""

    NO_IMAGES = "its images are no longer kept here, so that the report cannot be made again"
    CONTRADICTED = "another destination has it under yet another one"
    TOO_OFTEN = "it was corrected five times within a day"


_STUDY = (
    select(t.study.c.study_id, t.study.c.study_instance_uid, *t.identity.c)
    .select_from(t.study.join(t.identity, t.study.c.identity_id == t.identity.c.identity_id))
    .where(t.study.c.study_instance_uid == bindparam("uid"))
)
_PRIORITY = select(func.max(t.job.c.priority)).where(t.job.c.study_id == bindparam("the_study"))


class Corrections:
    """The corrections of one database; see `Queue` for `clock` and errors."""

    def __init__(self, engine: Engine, clock: Callable[[], datetime.datetime] = utc_now) -> None:
        self._engine = engine
        self._clock = clock

    def correct(
        self,
        delivery: Delivery,
        known: Mapping[str, str],
        told: Mapping[str, str],
        patient_sex: str | None = None,
    ) -> Unheeded | None:
        """Take over what the destination of a claimed row tells; None once that is done.

        `told` holds the attributes of the identity that change, `known` the ones that they were
        compared with: where those are no longer current the row is overtaken already, and nothing
        else is done. On return the row is cancelled; so are those of its study that were claimed
        together with it, and those that nobody has in hand.
        """
        with writing(self._engine) as connection:
            now = self._clock()
            study = connection.execute(_STUDY, {"uid": delivery.study_instance_uid}).one()
            if any(getattr(study, name) != value for name, value in known.items()):
                let_go(connection, delivery, now, alone=True)
                return None
            refused = _refused(connection, study, delivery.destination, now)
            if refused is not None:
                return refused
            _take_over(connection, study, delivery, dict(told), patient_sex, now)
        return None


def _refused(
    connection: Connection, study: Row[Any], destination: str, now: datetime.datetime
) -> Unheeded | None:
    if not screenable(connection, study.study_id):
        return Unheeded.NO_IMAGES
    row = t.correction.c
    newest = connection.execute(
        select(row.identity_id, row.destination)
        .where(row.study_id == study.study_id)
        .order_by(row.correction_id.desc())
        .limit(1)
    ).one_or_none()
    if newest is None:
        return None
    if newest.identity_id == study.identity_id and newest.destination != destination:
        return Unheeded.CONTRADICTED
    lately = (row.study_id == study.study_id, row.at > now - WITHIN)
    often = connection.scalars(select(func.count()).select_from(t.correction).where(*lately)).one()
    return Unheeded.TOO_OFTEN if often >= MOST else None


def _take_over(
    connection: Connection,
    study: Row[Any],
    delivery: Delivery,
    told: dict[str, Any],
    patient_sex: str | None,
    now: datetime.datetime,
) -> None:
    uid, before, changed = delivery.study_instance_uid, _identity(study), sorted(told)
    if "accession_number" in told:  # whose the number is nobody has said
        told["issuer_of_accession_number"] = ""
    identity = replace(before, **told)
    identity_id, is_new = arrival.identity_row(connection, identity)
    images = _of_the_same_patient(connection, study)
    detail = {"destination": delivery.destination, "changed": changed}
    phi = arrival.patient_data(identity) if is_new else None
    audit.append(connection, "study.corrected", now, study_instance_uid=uid, detail=detail, phi=phi)
    let_go(connection, delivery, now)
    arrival.change_identity(connection, study.study_id, identity_id, now)
    priority = connection.scalar(_PRIORITY, {"the_study": study.study_id})
    job_id = rebuild(connection, uid, CORRECTED, now, detail, priority)
    row = {
        "study_id": study.study_id,
        "identity_id": identity_id,
        "job_id": job_id,
        "destination": delivery.destination,
        "patient_sex": patient_sex,
        "at": now,
    }
    correction_id = add(connection, t.correction, row)
    for image in images:
        former = {"instance_id": image.instance_id, "former_identity_id": image.identity_id}
        connection.execute(insert(t.correction_item), {"correction_id": correction_id, **former})
    theirs = t.instance.c.instance_id.in_([image.instance_id for image in images])
    connection.execute(update(t.instance).where(theirs).values(identity_id=identity_id))


def _identity(study: Row[Any]) -> Identity:
    """The study's current identity, without what is of an instance."""
    told = {name: getattr(study, name) for name in (*_OF_PATIENT, *_OF_ORDER)}
    return Identity("", "", "", study.study_instance_uid, "", **told)


def _of_the_same_patient(connection: Connection, study: Row[Any]) -> list[Row[Any]]:
    """The instances of the study that carry the Patient ID which it has so far.

    Of those of another one the archive has said nothing.
    """
    who = t.identity.c
    statement = (
        select(t.instance.c.instance_id, t.instance.c.identity_id)
        .select_from(t.instance.join(t.identity, t.instance.c.identity_id == who.identity_id))
        .where(t.instance.c.study_id == study.study_id)
        .where(who.patient_id.in_(("", study.patient_id)))
    )
    return list(connection.execute(statement.order_by(t.instance.c.instance_id)))
