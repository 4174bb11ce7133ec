"""A store to play with: data directory, fake clock, and short ways to keep, claim and settle."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import shutil
from pathlib import Path
from typing import Any

from prescreen.settings import Destination
from prescreen.store.destinations import Destinations
from prescreen.store.outbox import Outbox
from prescreen.store.queue import Queue
from prescreen.store.retention import Retention
from prescreen.store.schema import open_database
from prescreen.store.spool import Spool
from prescreen.study import (
    LABELS,
    Audience,
    Disposition,
    Finding,
    FindingState,
    Header,
    Identity,
    ImageResult,
    Incoming,
    Job,
    Network,
    Outcome,
    ResultObject,
    generate_uid,
)
from tests import canaries
from tests.run_folder import run_folder

PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=11113)
LAB = Destination(
    name="lab", ae_title="LAB", host="h", port=104, test=True, audience=Audience.EVALUATION
)
#: A patient no event, log or error may name.
CANARY = {
    "patient_id": canaries.PATIENT_ID,
    "patient_name": canaries.NAME,
    "patient_birth_date": canaries.BIRTH_DATE,
    "accession_number": canaries.ACCESSION,
}


@functools.cache
def _empty() -> Path:
    """A migrated database to copy, made once a run."""
    folder = run_folder()
    open_database(folder / "prescreen.db").dispose()
    return folder / "prescreen.db"


class StoreBench:
    """Everything of the store on one data directory, at a time of the test's choosing."""

    def __init__(self, folder: Path) -> None:
        self.now = datetime.datetime(2026, 1, 31, 8, tzinfo=datetime.UTC)
        self.spool = Spool(folder)
        shutil.copy(_empty(), folder / "prescreen.db")
        self.engine = open_database(folder / "prescreen.db")
        self.queue = Queue(self.engine, lambda: self.now)
        self.outbox = Outbox(self.engine, lambda: self.now)
        self.destinations = Destinations(self.engine, lambda: self.now)
        self.retention = Retention(self.engine, lambda: self.now)

    def wait(self, seconds: float) -> None:
        self.now += datetime.timedelta(seconds=seconds)

    def keep(
        self,
        study: str,
        image: int,
        content: bytes | None = None,
        screenable: bool = True,
        **identity: str,
    ) -> Disposition:
        """Keep an image `study`.`image`; each has content of its own unless some is given."""
        sop = f"{study}.{image}"
        part10 = sop.encode() if content is None else content
        who: dict[str, Any] = {**CANARY, **identity}
        known = Identity("1.2.840.1", sop, f"{study}.9", study, "1.2.840.2", **who)
        incoming = Incoming("1.2.840.1", sop, "1.2.840.2", part10, "CR", "NODE", "127.0.0.1")
        kept = self.spool.keep(part10)
        return self.queue.keep(
            known, kept, incoming, quiet_period=30, quiet_cap=600, screenable=screenable
        )

    def claim(self, limit: int = 1) -> list[Job]:
        """Jobs that are due once the quiet period is over."""
        self.wait(31)
        return self.queue.claim("worker", 300, limit, weights={"findings": "ab" * 32}, rules="1")

    def settle(self, job: Job, *destinations: Destination, state: str = "flagged") -> None:
        """Settle a job as screened, with an object for each audience."""
        answers = [
            (i, result(i.sop_instance_uid, job.study_instance_uid, state)) for i in job.instances
        ]
        objects = [report(audience) for audience in (Audience.RELEASE, Audience.EVALUATION)]
        self.queue.settle(job, Outcome.SCREENED, None, answers, objects, destinations)

    def screened(self, study: str, *destinations: Destination) -> Job:
        """A study of one image, screened."""
        self.keep(study, 1)
        (job,) = self.claim()
        self.settle(job, *destinations)
        return job


def live(folder: Path) -> StoreBench:
    """A store whose destination `pacs` is live."""
    bench = StoreBench(folder)
    bench.destinations.go_live("pacs", "me", "test")
    return bench


def result(sop: str, study: str, state: str = "flagged") -> ImageResult:
    """An answer with the first finding in a state, the others not flagged."""
    states = [FindingState(state)] + [FindingState.NOT_FLAGGED] * 13
    findings = tuple(
        Finding(label, 0.7, 0.6, 0.5, word) for label, word in zip(LABELS, states, strict=True)
    )
    when = datetime.datetime(2026, 1, 31, 7)
    header = Header(
        "1.2.840.1", sop, "1.2.9", study, image_type=("ORIGINAL", "PRIMARY"), acquired=when
    )
    diameter, network = (10.5, 1.0, 9.0), Network("prescreen findings", "1", "ab" * 32, "2.25.7")
    found = ImageResult(header, Outcome.SCREENED, None, findings, 0.47, diameter, diameter, 1.5)
    worth = ((LABELS[0], 0.81, 120, 0.74), (LABELS[1], 0.0, 0, 0.5))
    return dataclasses.replace(
        found, network=network, worth=worth, calibrated=True, pixel_spacing=(0.2, 0.1)
    )


def report(audience: Audience) -> ResultObject:
    """An SR with a fallback."""
    uids = [generate_uid() for _ in range(3)]
    return ResultObject("sr", audience, "1.2.3", uids[0], uids[1], f"{audience}.dcm", uids[2])
