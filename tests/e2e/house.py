"""A node under a temporary folder, its PACS, and the ways tests run its roles."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import pydicom
from pydicom.uid import UID
from pynetdicom import AE, evt

from prescreen import node
from prescreen.dicom.receive import Receiver
from prescreen.dicom.send import Sender
from prescreen.settings import Destination, Peer, Receive, Settings, load
from prescreen.store import reader
from prescreen.store.database import reading
from prescreen.store.destinations import Destinations
from prescreen.store.reader import StudyRecord
from prescreen.study import Incoming, generate_uid
from tests.canaries import sample
from tests.peers.dcmtk import free_port

CONFIG = """\
data_dir = "{data_dir}"
[receive]
port = {port}
[[receive.peers]]
ae_title = "MODALITY"
[[receive.peers]]
ae_title = "PACS"
[screen]
quiet_period = {quiet_period}
quiet_cap = 10
lease = {lease}
[scope]
acquired_within_hours = 10000000
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs_port}
audience = "evaluation"
objects = ["sr", "capture"]
acse_timeout = 5
dimse_timeout = 5
retry_first = 0.2
retry_cap = 0.5
probe_every = 0.5
[housekeeping]
minimum_free_mb = 1
{more}
"""

#: pynetdicom drops a socket unclosed where a connection fails; the interpreter closes it.
UNCLOSED = "ignore:unclosed <socket:ResourceWarning"


def chest(folder: Path, name: str = "RG1_UNCR.dcm", **attributes: Any) -> Path:
    """A real chest radiograph as a study of its own, with attributes changed (None: left out)."""
    ds = pydicom.dcmread(sample(name))
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.SOPInstanceUID = UID(generate_uid())
    for keyword, value in attributes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    ds.save_as(path)
    return path


def small(folder: Path, **attributes: Any) -> Path:
    """The same with a picture cut down to 64 by 64: many of them cost little."""
    return chest(folder, Rows=64, Columns=64, PixelData=bytes(64 * 64 * 2), **attributes)


@dataclass
class Pacs:
    """What arrived, in order: (SOP Class UID, SOP Instance UID, Part 10 bytes)."""

    received: list[tuple[str, str, bytes]] = field(default_factory=list, repr=False)

    def keep(self, incoming: Incoming) -> None:
        self.received.append(
            (incoming.sop_class_uid, incoming.sop_instance_uid, incoming.part10[:])
        )

    @property
    def copies(self) -> dict[str, set[bytes]]:
        """The different contents that came under each SOP Instance UID."""
        found: dict[str, set[bytes]] = {}
        for _, uid, part10 in self.received:
            found.setdefault(uid, set()).add(part10)
        return found

    def of_study(self, study_instance_uid: str, sop_class_uid: str = "") -> list[pydicom.Dataset]:
        """The objects of a study, of one class or of all, in the order in which they came."""
        objects = [pydicom.dcmread(BytesIO(part10)) for _, _, part10 in list(self.received)]
        return [
            ds
            for ds in objects
            if ds.StudyInstanceUID == study_instance_uid and sop_class_uid in ("", ds.SOPClassUID)
        ]

    def of_class(self, sop_class_uid: str) -> set[str]:
        """SOP Instance UIDs of one class."""
        return {uid for known, uid, _ in self.received if known == sop_class_uid}


class Ledger(Pacs):
    """A PACS that keeps the digest of what arrived in place of the bytes: for thousands of them."""

    def keep(self, incoming: Incoming) -> None:
        digest = hashlib.sha256(incoming.part10[:]).digest()
        self.received.append((incoming.sop_class_uid, incoming.sop_instance_uid, digest))


@dataclass
class House:
    """One node: its settings file, its settings, its PACS."""

    config: Path
    settings: Settings
    pacs: Pacs
    _store: node.Store | None = None

    def store(self) -> node.Store:
        """The node's state, opened once."""
        self._store = self._store or node.open_store(self.settings)
        return self._store

    def close(self) -> None:
        """Let go of what `store` opened."""
        if self._store is not None:
            self._store.engine.dispose()
            self._store = None

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `prescreen …` with this node's settings file."""
        return subprocess.run(
            [sys.executable, "-m", "prescreen", *arguments],
            env={**os.environ, "PRESCREEN_CONFIG": str(self.config), **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def dying(self, role: str, point: str) -> subprocess.Popen[bytes]:
        """A role whose process exits at a named point."""
        command = [sys.executable, "-m", "tests.e2e.dying", role, point, str(self.config)]
        return subprocess.Popen(command, cwd=Path(__file__).parents[2])

    @contextmanager
    def role(self, role: str, log: IO[bytes] | None = None) -> Iterator[subprocess.Popen[bytes]]:
        """A role as `serve --only` runs it; what it says goes to `log`."""
        command = [sys.executable, "-m", "prescreen", "serve", "--only", role]
        process = subprocess.Popen([*command, "--config", str(self.config)], stderr=log)
        try:
            if role == "receive":
                self.wait_for_door()
            yield process
        finally:
            process.terminate()
            process.wait(120)

    @contextmanager
    def open(self, log: IO[bytes] | None = None) -> Iterator[House]:
        """All three roles at work."""
        with self.role("receive", log), self.role("screen", log), self.role("deliver", log):
            yield self

    def wait_for_door(self) -> None:
        """Wait until the receiver listens."""
        wait_until(lambda: _answers(self.settings.receive.port), "the receiver listens")

    def door(self) -> Destination:
        """The node as its senders see it."""
        return Destination(
            name="node",
            ae_title=self.settings.receive.ae_title,
            host="127.0.0.1",
            port=self.settings.receive.port,
            acse_timeout=60,
            dimse_timeout=60,
        )

    def sender(self) -> Sender:
        """A modality."""
        return Sender(self.door(), "MODALITY")

    def send(self, *paths: Path) -> list[int]:
        """C-STORE files to the node over one association; the statuses."""
        with self.sender() as sender:
            return [sender.send(path) for path in paths]

    def row(self, study_instance_uid: str) -> Mapping[str, Any]:
        """What `v_study` says of one study."""
        return reader.show(self.store().engine, study_instance_uid).study

    def stage(self, study_instance_uid: str) -> str:
        """The work that is next for a study."""
        return str(self.row(study_instance_uid)["stage"])

    def pending(self, study_instance_uid: str) -> set[str]:
        """The destinations that something of a study is on its way to."""
        record = reader.show(self.store().engine, study_instance_uid)
        return {row["destination"] for row in record.deliveries if row["state"] == "pending"}

    def settled(self, study_instance_uid: str, jobs: int = 1) -> bool:
        """Whether a study had so many jobs, the last of them done, and nothing is on its way."""
        rows = reader.studies(self.store().engine, 1_000)
        return any(
            row["jobs"] == jobs and row["stage"] == "done" and row["pending"] == 0
            for row in rows
            if row["study_instance_uid"] == study_instance_uid
        )

    def answered(self, study_instance_uid: str, jobs: int = 1) -> StudyRecord:
        """All that is known of a study, once it is settled."""
        what = f"job {jobs} of the study is answered and delivered"
        wait_until(lambda: self.settled(study_instance_uid, jobs), what)
        return reader.show(self.store().engine, study_instance_uid)

    def done(self) -> bool:
        """Whether every study has been answered and everything was delivered."""
        rows = reader.studies(self.store().engine)
        return bool(rows) and all(row["stage"] == "done" for row in rows)

    def quiet(self) -> bool:
        """Whether nothing is to be screened and nothing is on its way, of however many studies."""
        with reading(self.store().engine) as connection:
            query = "SELECT count(*) FROM job WHERE stage <> 'done'"
            return connection.exec_driver_sql(query).scalar() == 0


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 240) -> None:
    """Wait until a condition holds; fail with `what` if it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


@contextmanager
def house(
    folder: Path,
    lease: float = 2,
    *,
    live: bool = True,
    quiet_period: float = 0,
    more: str = "",
    listens: bool = True,
    pacs: Pacs | None = None,
) -> Iterator[House]:
    """A node with one destination and that destination listening; no role runs yet.

    `more` is added to its settings. `listens` False: the destination is away.
    """
    pacs, pacs_port = pacs or Pacs(), free_port()
    config = folder / "prescreen.toml"
    text = CONFIG.format(
        data_dir=folder / "data",
        port=free_port(),
        pacs_port=pacs_port,
        lease=lease,
        quiet_period=quiet_period,
        more=more,
    )
    config.write_text(text)
    settings = load(config)
    if live:
        engine = node.open_store(settings).engine
        Destinations(engine).go_live("pacs", "test", "test")
        engine.dispose()
    home = House(config, settings, pacs)
    with listening(pacs, pacs_port) if listens else nullcontext(), closing(home):
        yield home


@contextmanager
def receiving(home: House) -> Iterator[None]:
    """The receiver alone at work, in a thread of this process."""
    stop = threading.Event()
    thread = threading.Thread(target=node.receive, args=(home.settings, stop))
    thread.start()
    try:
        home.wait_for_door()
        yield
    finally:
        stop.set()
        thread.join(120)
        assert not thread.is_alive()


@contextmanager
def listening(pacs: Pacs, port: int) -> Iterator[None]:
    """A PACS that accepts everything, on a port."""
    door = Receive(ae_title="PACS", port=port, peers=(Peer(ae_title="PRESCREEN"),))
    with Receiver(door, pacs.keep, lambda kind, detail: None):
        yield


@contextmanager
def choosy(pacs: Pacs, port: int, sop_classes: Sequence[str], status: int = 0) -> Iterator[None]:
    """A PACS that accepts some SOP classes only, and answers each object with `status`."""
    entity = AE("PACS")
    for sop_class in sop_classes:
        entity.add_supported_context(sop_class)

    def store(event: evt.Event) -> int:
        if status == 0:
            part10 = event.encoded_dataset()
            meta = pydicom.dcmread(BytesIO(part10), stop_before_pixels=True).file_meta
            uids = str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID)
            pacs.received.append((*uids, part10))
        return status

    entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        yield
    finally:
        entity.shutdown()
