"""DCMTK's programs as peers: run one, or keep a storescp listening; and small files to send."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from prescreen.study import generate_uid
from tests import canaries

#: Below those that the kernel gives to whoever connects, so that none of these is taken in between.
_PORTS = range(10_000, 32_000)
#: Parts of them: processes that test side by side (pytest-xdist: gw0, gw1, …) have one each.
_PARTS = 16
_CHANCE = random.SystemRandom()  # hypothesis sets the seed of the other


def free_port() -> int:
    """A port nobody listens on, and that no other test is given."""
    mine = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PARTS
    while True:
        port = _CHANCE.choice(_PORTS[mine::_PARTS])
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def run(
    tool: str, *arguments: str | Path, seconds: float = 180
) -> subprocess.CompletedProcess[str]:
    """One of DCMTK's programs; what it says stands in `stdout`, errors included."""
    environment = {key: value for key, value in os.environ.items() if key != "DCMDICTPATH"}
    return subprocess.run(
        [tool, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        env=environment,
        check=False,
    )


@dataclass
class StoreSCP:
    """A listening storescp."""

    port: int
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def files(self) -> list[Path]:
        """What it has stored, in no order."""
        return [path for path in self.folder.iterdir() if not path.name.startswith(".")]

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        self.process.kill()
        self.process.wait(60)


@contextmanager
def storescp(folder: Path, *options: str, port: int | None = None) -> Iterator[StoreSCP]:
    """A storescp that writes what it gets to `folder` bit by bit as received (+B)."""
    port = port or free_port()
    folder.mkdir(exist_ok=True)
    command = ["storescp", "+B", *options, "-od", str(folder), str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until_listening(port)
            yield StoreSCP(port, folder, process)
        finally:
            if process.poll() is None:
                process.kill()


def wait_until_listening(port: int, seconds: float = 60) -> None:
    """Return when something listens on the port of this machine."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port} after {seconds:g} s")


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return when the condition holds; an answer may be on the wire before we have noted it."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"did not happen within {seconds:g} s")
        time.sleep(0.02)


def data_set_of(part10: bytes | mmap.mmap) -> bytes:
    """The data set without preamble and file meta information, as it goes over the wire."""
    assert part10[128:132] == b"DICM"
    # (0002,0000) UL 4: the length of the rest of the group
    length = int.from_bytes(part10[140:144], "little")
    return part10[144 + length :]


def write_radiograph(
    path: Path,
    *,
    sop_class_uid: str = ComputedRadiographyImageStorage,
    bits: int = 12,
    size: int = 64,
    sop_instance_uid: str | None = None,
) -> Path:
    """A small square picture of noise, Explicit VR Little Endian, with random UIDs."""
    ds = Dataset()
    ds.SOPClassUID = sop_class_uid
    ds.SOPInstanceUID = sop_instance_uid or generate_uid()
    ds.StudyDate = "20260102"
    ds.Modality = "CR"
    canaries.plant(ds)
    ds.StudyInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows = ds.Columns = size
    ds.BitsAllocated = 8 if bits == 8 else 16
    ds.BitsStored = bits
    ds.HighBit = bits - 1
    ds.PixelRepresentation = 0
    noise = np.random.default_rng(0).integers(0, 2**bits, (size, size))
    ds.PixelData = noise.astype(np.uint8 if bits == 8 else np.uint16).tobytes()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    return path
