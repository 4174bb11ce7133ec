"""A whole node at work for as long as is asked: studies, duplicates, junk, and a PACS that goes.

`soaked` runs it and says what came of it; nothing is asserted here. What the senders do and how
often is in `Senders`; times are measured and never judged.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import UID

from prescreen.errors import PeerRefused, PeerUnavailable
from prescreen.store import reader
from prescreen.store.database import reading
from prescreen.study import generate_uid
from tests.canaries import sample
from tests.e2e.house import House, Ledger, house, listening, wait_until
from tests.e2e.watching import Watch, figures
from tests.peers import wire
from tests.peers.dcmtk import free_port, wait_until_listening

#: The radiograph at hand in three codings: 7.2 MB, 4.3 MB and 0.7 MB.
CODINGS = ("RG1_UNCR.dcm", "RG1_J2KR.dcm", "RG1_J2KI.dcm")

#: What is no chest to screen, and what becomes of it: a hand, a side view, a blank, no radiograph.
UNSCREENABLE: tuple[dict[str, Any], ...] = (
    {"BodyPartExamined": "HAND"},
    {"ViewPosition": "LL"},
    {"Rows": 64, "Columns": 64, "PixelData": bytes(64 * 64 * 2)},
    {"Modality": "CT"},
)


@dataclass
class Senders:
    """A modality that sends one thing after the other, `pace` seconds apart, until it is told.

    Every turn a chest study of its own; every third one that was sent before, every fourth what
    cannot be screened, every second bad connections, every fifth an association that is aborted in
    the middle of an object. What gets no answer is sent again.
    """

    home: House
    pace: float
    acknowledged: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    did: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._examples = [_example(name) for name in CODINGS]
        self._sent: list[bytes] = []
        self._turns = itertools.count(1)

    def warm_up(self, turns: int = 6) -> None:
        """So many turns at once, and whatever comes of them."""
        for _ in range(turns):
            self._turn(next(self._turns))
        wait_until(self.home.quiet, "the first studies are answered and delivered", 600)

    def run(self, until: float, most_waiting: int) -> None:
        """Turn after turn until an instant of the monotonic clock; none while so many wait."""
        while (began := time.monotonic()) < until:
            if reader.waiting(self.home.store().engine) < most_waiting:
                self._turn(next(self._turns))
            time.sleep(max(0.0, began + self.pace - time.monotonic()))

    def _turn(self, turn: int) -> None:
        study = self._study(turn)
        self._send(*study, "studies")
        self._sent = [*self._sent, study[1]][-5:]
        if turn % 3 == 0:
            self._again(turn)
        if turn % 4 == 0:
            attributes = UNSCREENABLE[turn // 4 % len(UNSCREENABLE)]
            self._send(*_written(self._examples[0], **attributes), "unscreenable")
        if turn % 2 == 0:
            for bad in (_stranger, _noise, _half_a_request, _silence):
                self._badly(bad, "bad connections")
        if turn % 5 == 0:
            self._badly(_aborted, "aborted in an object")

    def _study(self, turn: int) -> tuple[str, bytes]:
        return _written(self._examples[turn % len(self._examples)])

    def _again(self, turn: int) -> None:
        part10 = self._sent[turn % len(self._sent)]
        uid = str(pydicom.dcmread(BytesIO(part10), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
        self._send(uid, part10, "duplicates")

    def _send(self, uid: str, part10: bytes, what: str) -> None:
        for _ in range(20):
            try:
                status = self._stored(part10)
            except PeerUnavailable:
                self.did["sent again for want of an answer"] += 1
                time.sleep(1)
                continue
            self.did[what if status == 0x0000 else f"refused with 0x{status:04X}"] += 1
            if status == 0x0000:
                self.acknowledged.append(uid)
            return

    def _stored(self, part10: bytes) -> int:
        """The status of a C-STORE; the time it took, without that of its association, is noted."""
        ds = pydicom.dcmread(BytesIO(part10), specific_tags=["SOPClassUID"])
        with self.home.sender() as sender:
            sender.open([(str(ds.SOPClassUID), str(ds.file_meta.TransferSyntaxUID))])
            begun = time.monotonic()
            try:
                return sender.send(part10)
            except PeerRefused as error:
                return error.status
            finally:
                self.seconds.append(time.monotonic() - begun)

    def _badly(self, how: Callable[[int], None], what: str) -> None:
        with contextlib.suppress(OSError):
            how(self.home.settings.receive.port)
        self.did[what] += 1


def _example(name: str) -> pydicom.FileDataset:
    return pydicom.dcmread(sample(name))


def _written(example: pydicom.FileDataset, **attributes: Any) -> tuple[str, bytes]:
    """The example as a study of its own: its SOP Instance UID and the bytes of its file."""
    # elements of its own: those of the example would be changed with it
    ds, uid = (
        pydicom.Dataset({tag: copy.copy(example[tag]) for tag in list(example.keys())}),
        generate_uid(),
    )
    ds.file_meta = example.file_meta
    ds.file_meta.MediaStorageSOPInstanceUID = UID(uid)
    own = {"StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    for keyword, value in {**own, "SOPInstanceUID": uid, **attributes}.items():
        ds[keyword].value = value
    part10 = BytesIO()
    ds.save_as(part10, enforce_file_format=True)
    return uid, part10.getvalue()


# ---------------------------------------------------------------- connections that mean no good


def _stranger(port: int) -> None:
    with wire.connected(port) as connection:
        connection.sendall(wire.request(b"STRANGER", b"PRESCREEN"))
        wire.answer(connection)


def _noise(port: int) -> None:
    with wire.connected(port) as connection:
        connection.sendall(os.urandom(1024))


def _half_a_request(port: int) -> None:
    with wire.connected(port) as connection:
        connection.sendall(wire.request(b"MODALITY", b"PRESCREEN")[:40])


def _silence(port: int) -> None:
    wire.connected(port).close()


def _aborted(port: int) -> None:
    """A third of a megabyte of an object, then A-ABORT (PS3.8 9.3.8)."""
    with wire.connected(port) as connection:
        connection.sendall(wire.request(b"MODALITY", b"PRESCREEN"))
        if wire.answer(connection) != wire.ASSOCIATE_AC:
            return
        command = wire.store_request(generate_uid().encode())
        connection.sendall(wire.pdu(wire.P_DATA, wire.pdv(command, 0x03)))
        for _ in range(20):
            connection.sendall(wire.pdu(wire.P_DATA, wire.pdv(bytes(16_000), 0x00)))
        connection.sendall(wire.pdu(wire.ABORT, bytes(4)))
        connection.shutdown(socket.SHUT_WR)


# ---------------------------------------------------------------- the PACS, the node, the run


class Coming:
    """A PACS that is there for `up` seconds and away for `away`, until it is told to stay."""

    def __init__(self, ledger: Ledger, port: int, up: float, away: float = 8.0) -> None:
        self.restarts = 0
        self._ledger, self._port = ledger, port
        self._up, self._away = up, away
        self._stay, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def stay(self) -> None:
        """Be there from now on."""
        self._stay.set()

    def _run(self) -> None:
        while not self._stay.is_set():
            with listening(self._ledger, self._port):
                if self._stay.wait(self._up):
                    break
            self.restarts += 1
            self._stay.wait(self._away)
        with listening(self._ledger, self._port):
            self._over.wait()

    def __enter__(self) -> Coming:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stay.set()
        self._over.set()
        self._thread.join(60)


@contextmanager
def _serving(home: House, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "prescreen", "serve", "--config", str(home.config)]
    with log.open("wb") as said, subprocess.Popen(command, stderr=said, stdout=said) as process:
        try:
            wait_until_listening(home.settings.receive.port, 600)
            yield process
        finally:
            process.terminate()
            process.wait(90)


@contextmanager
def _scraped(port: int) -> Iterator[None]:
    """Somebody who asks for the figures every five seconds, as Prometheus would."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(5):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5).read()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


@dataclass
class Soaked:
    """What a run left: the node with its database, its PACS's ledger, what the senders know."""

    home: House
    ledger: Ledger
    acknowledged: list[str]
    pids: dict[str, set[int]]
    figures: dict[str, Any]


_MORE = """\
every_minutes = 1
[metrics]
port = {metrics}
[log]
level = "warning"
"""


@contextmanager
def soaked(folder: Path, minutes: float, pace: float) -> Iterator[Soaked]:
    """Run a node for so long, its start and the time it takes to finish its work included.

    The senders end 15 s before (3 minutes, where it is an hour and more), and work for a minute at
    least, however long the node took to start.
    """
    seconds, metrics = 60 * minutes, free_port()
    ending = time.monotonic() + seconds - (180 if minutes >= 60 else 15)
    with house(folder, 60, listens=False, more=_MORE.format(metrics=metrics)) as home:
        senders, ledger = Senders(home, pace), Ledger()
        up = min(240.0, max(30.0, seconds / 6))
        pacs = Coming(ledger, home.settings.destination("pacs").port, up)
        with (
            _serving(home, folder / "node.log") as node,
            _scraped(metrics),
            pacs,
            Watch(node.pid) as watch,
        ):
            senders.warm_up()
            warm = watch.seconds
            senders.run(max(ending, time.monotonic() + 60), 3 if minutes < 60 else 10)
            worked = watch.seconds
            pacs.stay()
            wait_until(home.quiet, "everything is answered and delivered", 600)
        # what a process takes at first it keeps: weights, pools, the allocator's arenas
        warm = max(warm, min(900.0, worked / 4))
        found = _summary(senders, ledger, watch, (warm, worked))
        found |= {"minutes": minutes, "pace_s": pace, "pacs_restarts": pacs.restarts}
        found |= {"outcomes": _outcomes(home), "log_lines": _lines(folder / "node.log")}
        yield Soaked(home, ledger, senders.acknowledged, watch.pids, found)


def _summary(
    senders: Senders, ledger: Ledger, watch: Watch, between: tuple[float, float]
) -> dict[str, Any]:
    taken = 1000 * np.asarray(senders.seconds)
    copies = Counter(uid for _, uid, _ in ledger.received)
    return {
        "warm_up_s": between[0],
        "watched_s": between[1],
        "sent": dict(senders.did),
        "acknowledged": len(senders.acknowledged),
        "acknowledgement_ms": {
            name: float(np.percentile(taken, share))
            for name, share in (("median", 50), ("p95", 95), ("p99", 99), ("longest", 100))
        },
        "objects_at_pacs": len(copies),
        "objects_sent_again": sum(copies.values()) - len(copies),
        "processes": figures(watch.samples, *between),
        "load_average": os.getloadavg()[0],
        "series": _thinned(watch),
    }


def _thinned(watch: Watch, points: int = 120) -> dict[str, list[list[float]]]:
    """Of each role at most so many samples: seconds, MiB, descriptors, threads."""
    found: dict[str, list[list[float]]] = {}
    for one in watch.samples:
        row = [round(one.at, 1), round(one.rss_mib, 1), one.descriptors, one.threads]
        found.setdefault(one.role, []).append(row)
    return {role: rows[:: 1 + len(rows) // points] for role, rows in found.items()}


def _outcomes(home: House) -> dict[str, int]:
    query = "SELECT outcome, reason, count(*) FROM v_study GROUP BY outcome, reason"
    with reading(home.store().engine) as connection:
        rows = connection.exec_driver_sql(query).all()
    return {" ".join(str(word) for word in row[:2] if word): int(row[2]) for row in rows}


def _lines(log: Path) -> int:
    return len(log.read_text(errors="replace").splitlines())
