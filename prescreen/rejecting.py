"""The rejection notes that a job writes: for each destination one, of what it was sent.

They are objects of the job's results like any other: frozen, sent in order, tried for as long as
it takes. A destination that knows no such notes (`rejection = "none"`) gets the notice alone.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Iterator
from pathlib import Path

from prescreen.dicom.rejection import KEY_OBJECT_SELECTION, rejection_note
from prescreen.errors import PrescreenError
from prescreen.settings import Settings
from prescreen.study import Audience, Job, Rejection, ResultObject, Withdrawn, generate_uid

logger = logging.getLogger(__name__)

#: Added to the series number of the report.
SERIES_OFFSET = 9


def notes(
    job: Job, settings: Settings, made: datetime.datetime
) -> Iterator[tuple[ResultObject, bytes, bytes]]:
    """Each note, its Part 10 bytes, and the object of the study that its patient is taken from.

    `made` is the instant they carry, aware.

    Where no object of a study is left to take patient and study from, there is no note: the list
    that `recall` prints has it.
    """
    configured = {destination.name: destination for destination in settings.destinations}
    for withdrawn in job.withdrawn:
        destination = configured.get(withdrawn.destination)
        if destination is None or destination.rejection == "none":
            continue
        try:
            yield _note(job, withdrawn, withdrawn.code or destination.rejection, settings, made)
        except PrescreenError as error:
            logger.error("job %d: no note for %s: %s", job.job_id, withdrawn.destination, error)


def _note(
    job: Job, withdrawn: Withdrawn, code: str, settings: Settings, made: datetime.datetime
) -> tuple[ResultObject, bytes, bytes]:
    item = ResultObject(
        kind="rejection",
        audience=Audience.RELEASE,
        sop_class_uid=KEY_OBJECT_SELECTION,
        sop_instance_uid=generate_uid(),
        series_instance_uid=generate_uid(),
        file_name=f"rejection-{withdrawn.destination}.dcm",
        destination=withdrawn.destination,
    )
    rejected = _rejected(job, withdrawn)
    part10 = rejection_note(
        rejected,
        Rejection(code, withdrawn.objects),
        manufacturer=settings.report.manufacturer,
        made=made,
        series_instance_uid=item.series_instance_uid,
        sop_instance_uid=item.sop_instance_uid,
        series_number=settings.report.series_number + SERIES_OFFSET,
        language=settings.report.language,
    )
    return item, part10, rejected


def _rejected(job: Job, withdrawn: Withdrawn) -> bytes:
    """An object of the study to take the patient from: a result, else an image that is kept."""
    paths = [withdrawn.path, *(instance.path for instance in job.instances)]
    found: Path | None = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise PrescreenError("nothing of the study is kept any more; reject it in the PACS")
    return found.read_bytes()
