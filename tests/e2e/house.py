"""A node under a temporary folder, its PACS, and the ways tests run its roles."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import UID

from prescreen import node
from prescreen.dicom.receive import Receiver
from prescreen.dicom.send import Sender
from prescreen.settings import Destination, Peer, Receive, Settings, load
from prescreen.store import reader
from prescreen.store.destinations import Destinations
from prescreen.study import Incoming, generate_uid
from tests.peers.dcmtk import free_port

CONFIG = """\
data_dir = "{data_dir}"
[receive]
port = {port}
[[receive.peers]]
ae_title = "MODALITY"
[[receive.peers]]
ae_title = "ORTHANC"
[screen]
quiet_period = 0
quiet_cap = 1
lease = {lease}
[scope]
acquired_within_hours = 10000000
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs_port}
audience = "evaluation"
acse_timeout = 5
dimse_timeout = 5
retry_first = 0.2
retry_cap = 0.5
[housekeeping]
minimum_free_mb = 1
"""


def chest(folder: Path, name: str = "RG1_UNCR.dcm", **attributes: str) -> Path:
    """A real chest radiograph as a study of its own, with attributes changed."""
    found = get_testdata_file(name, download=False)
    assert found is not None, "pydicom-data is not installed"
    ds = pydicom.dcmread(str(found))
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.SOPInstanceUID = UID(generate_uid())
    for keyword, value in attributes.items():
        setattr(ds, keyword, value)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    path = folder / f"{ds.SOPInstanceUID}.dcm"
    ds.save_as(path)
    return path


@dataclass
class Pacs:
    """What arrived, in order: (SOP Class UID, SOP Instance UID, Part 10 bytes)."""

    received: list[tuple[str, str, bytes]] = field(default_factory=list)

    def keep(self, incoming: Incoming) -> None:
        self.received.append((incoming.sop_class_uid, incoming.sop_instance_uid, incoming.part10))

    @property
    def copies(self) -> dict[str, set[bytes]]:
        """The different contents that came under each SOP Instance UID."""
        found: dict[str, set[bytes]] = {}
        for _, uid, part10 in self.received:
            found.setdefault(uid, set()).add(part10)
        return found

    def of_class(self, sop_class_uid: str) -> set[str]:
        """SOP Instance UIDs of one class."""
        return {uid for known, uid, _ in self.received if known == sop_class_uid}


@dataclass
class House:
    """One node: its settings file, its settings, its PACS."""

    config: Path
    settings: Settings
    pacs: Pacs

    def store(self) -> node.Store:
        return node.open_store(self.settings)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `prescreen …` with this node's settings file."""
        return subprocess.run(
            [sys.executable, "-m", "prescreen", *arguments, "--config", str(self.config)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def dying(self, role: str, point: str) -> subprocess.Popen[bytes]:
        """A role whose process exits at a named point."""
        command = [sys.executable, "-m", "tests.e2e.dying", role, point, str(self.config)]
        return subprocess.Popen(command, cwd=Path(__file__).parents[2])

    @contextmanager
    def role(self, role: str) -> Iterator[subprocess.Popen[bytes]]:
        """A role as `serve --only` runs it."""
        command = [sys.executable, "-m", "prescreen", "serve", "--only", role]
        process = subprocess.Popen([*command, "--config", str(self.config)])
        try:
            if role == "receive":
                self.wait_for_door()
            yield process
        finally:
            process.terminate()
            process.wait(60)

    def wait_for_door(self) -> None:
        """Wait until the receiver listens."""
        wait_until(lambda: _answers(self.settings.receive.port), "the receiver listens")

    def sender(self) -> Sender:
        door = Destination(
            name="node",
            ae_title=self.settings.receive.ae_title,
            host="127.0.0.1",
            port=self.settings.receive.port,
            acse_timeout=5,
            dimse_timeout=10,
        )
        return Sender(door, "MODALITY")

    def done(self) -> bool:
        """Whether every study has been answered and everything was delivered."""
        rows = reader.studies(self.store().engine)
        return bool(rows) and all(row["stage"] == "done" for row in rows)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 90) -> None:
    """Wait until a condition holds; fail with `what` if it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.1)


@contextmanager
def house(folder: Path, lease: float = 2, *, live: bool = True) -> Iterator[House]:
    """A node with one destination and that destination listening; no role runs yet."""
    pacs, pacs_port = Pacs(), free_port()
    config = folder / "prescreen.toml"
    text = CONFIG.format(
        data_dir=folder / "data", port=free_port(), pacs_port=pacs_port, lease=lease
    )
    config.write_text(text)
    settings = load(config)
    if live:
        engine = node.open_store(settings).engine
        Destinations(engine).go_live("pacs", "test", "test")
    door = Receive(ae_title="PACS", port=pacs_port, peers=(Peer(ae_title="PRESCREEN"),))
    with Receiver(door, pacs.keep, lambda kind, detail: None):
        yield House(config, settings, pacs)
