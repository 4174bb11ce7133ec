"""Answers without networks: nothing is decoded, so that every study gets a notice, at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pydicom
from pydicom.uid import UID

from prescreen import pipeline
from prescreen.dicom.send import Sender
from prescreen.errors import UnusableImage
from prescreen.pipeline import Tools
from prescreen.store.queue import utc_now
from prescreen.study import Incoming, Job, Radiograph, Screening
from prescreen.worker import Worker
from tests import results
from tests.e2e.house import House


class BlindDecoder:
    """Decodes nothing, so that every study ends with a notice and no network is needed."""

    def read_all(self, paths: Sequence[Path], digested: bool = True) -> list[UnusableImage]:
        return [UnusableImage("not decoded", reason="decode_failed") for _ in paths]


def _no_screener(radiographs: Sequence[Radiograph]) -> list[Screening]:
    assert not radiographs
    return []


def answered(home: House, path: Path) -> str:
    """Keep a file and answer it with a notice; its Study Instance UID."""
    study = kept(home, path)
    answer(home)
    return study


def kept(home: House, path: Path) -> str:
    """Keep a file as the receiver does; its Study Instance UID."""
    store, ds = home.store(), pydicom.dcmread(path, stop_before_pixels=True)
    incoming = Incoming(
        sop_class_uid=str(ds.SOPClassUID),
        sop_instance_uid=str(ds.SOPInstanceUID),
        transfer_syntax_uid=str(UID(ds.file_meta.TransferSyntaxUID)),
        part10=path.read_bytes(),
        calling_ae_title="MODALITY",
        called_ae_title="PRESCREEN",
        peer_address="127.0.0.1",
    )
    limits = home.settings.screen
    pipeline.keep(incoming, spool=store.spool, queue=store.queue, screen=limits, minimum_free=0)
    return str(ds.StudyInstanceUID)


def tools(home: House) -> Tools:
    """What a screener works with that sees nothing."""
    return Tools(
        home.settings,
        home.store().queue,
        home.store().spool,
        BlindDecoder(),  # type: ignore[arg-type]
        _no_screener,
        results.model(),
        utc_now,
    )


def screener(
    home: House, before: Callable[[Sequence[Job]], None] = lambda jobs: None
) -> Worker[Job]:
    """The loop of a screener that sees nothing; `before` is told what it is about to answer."""
    limits, store = home.settings.screen, home.store()

    def handle(jobs: Sequence[Job]) -> None:
        before(jobs)
        pipeline.screen(jobs, tools(home))

    return Worker(
        partial(
            store.queue.claim,
            f"blind-{os.getpid()}",
            limits.lease,
            limits.batch,
            max_attempts=limits.max_attempts + 1,
        ),
        handle,
        partial(store.queue.renew, lease=limits.lease),
        renew_every=limits.lease / 3,
        longest=limits.stuck_seconds,
    )


def answer(home: House) -> None:
    """Answer what is due with notices."""
    weights = {"findings": results.model().findings.sha256}
    while jobs := home.store().queue.claim("test", 60, 16, weights=weights):
        pipeline.screen(jobs, tools(home))


def deliver(home: House) -> None:
    """Deliver what is due to the PACS, which listens."""
    store, destination = home.store(), home.settings.destination("pacs")
    with Sender(destination, home.settings.receive.ae_title) as sender:
        route = pipeline.Route(destination, store.outbox, sender, utc_now)
        while work := store.outbox.claim("pacs", 60, 16):
            pipeline.deliver(work, route)
