"""Senders that stream studies to a node and remember what was acknowledged."""

from __future__ import annotations

import copy
import threading
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.uid import UID

from bench.pictures import on_the_wire
from bench.sender import PLACEHOLDERS, Association, fresh_uids
from prescreen.dicom.send import Sender
from prescreen.errors import PeerRefused, PeerUnavailable
from prescreen.study import generate_uid
from tests.e2e.house import House, small


class Streams:
    """`senders` threads, each with an association of its own, sending one study after the other.

    What gets no answer is sent again, as modalities do, for as long as it takes. `acknowledged`
    are the SOP Instance UIDs that were answered with 0x0000; `refused` the other statuses.
    """

    def __init__(self, home: House, folder: Path, senders: int = 1) -> None:
        self.acknowledged: list[str] = []
        self.refused: list[int] = []
        self._home = home
        self._example = pydicom.dcmread(small(folder))
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(senders)]

    def _next(self) -> tuple[str, bytes]:
        ds, uid = copy.deepcopy(self._example), generate_uid()
        ds.StudyInstanceUID = generate_uid()
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)
        part10 = BytesIO()
        ds.save_as(part10)
        return uid, part10.getvalue()

    def _run(self) -> None:
        waiting = self._next()
        while not self._stop.is_set():
            try:
                with self._home.sender() as sender:
                    while not self._stop.is_set():
                        self._send(sender, *waiting)
                        waiting = self._next()
            except PeerUnavailable:
                self._stop.wait(0.05)

    def _send(self, sender: Sender, uid: str, part10: bytes) -> None:
        try:
            if sender.send(part10) == 0x0000:
                self.acknowledged.append(uid)
        except PeerRefused as error:
            self.refused.append(error.status)

    def __enter__(self) -> Streams:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)


class Wired(Streams):
    """The same with senders that cost next to nothing: what they send is laid out beforehand.

    Every status but 0x0000 ends the association, and the object is sent again.
    """

    def __init__(self, home: House, folder: Path, senders: int = 1) -> None:
        super().__init__(home, folder, senders)
        ds = self._example
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = map(UID, PLACEHOLDERS)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
        self._wire = on_the_wire(ds)

    def _run(self) -> None:
        waiting, port = fresh_uids(), self._home.settings.receive.port
        while not self._stop.is_set():
            try:
                with Association(port, "PRESCREEN", self._wire) as association:
                    while not self._stop.is_set():
                        association.store(waiting)
                        self.acknowledged.append(waiting[2].decode())
                        waiting = fresh_uids()
            except OSError:
                self._stop.wait(0.02)
