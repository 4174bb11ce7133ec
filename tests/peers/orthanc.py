"""Orthanc as a PACS for a test: a real server on free ports, with an empty storage of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.peers.dcmtk import free_port


@dataclass(frozen=True)
class Orthanc:
    """One running server: C-STORE to `dicom_port`, its REST interface at `http_port`."""

    ae_title: str
    dicom_port: int
    http_port: int
    pid: int = 0

    def get(self, path: str) -> bytes:
        """The answer of its REST interface, as bytes."""
        with urllib.request.urlopen(self._url(path), timeout=60) as answer:
            return bytes(answer.read())

    def json(self, path: str) -> Any:
        """The answer of its REST interface, read as JSON."""
        return json.loads(self.get(path))

    def post(self, path: str, content: bytes | Mapping[str, Any]) -> Any:
        """Post bytes (a DICOM file to /instances) or an object as JSON; the answer as JSON."""
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        request = urllib.request.Request(self._url(path), data=data, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def delete(self, path: str) -> None:
        """Delete one of its resources."""
        request = urllib.request.Request(self._url(path), method="DELETE")
        with urllib.request.urlopen(request, timeout=60):
            pass

    def _url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.http_port}{path}"


@contextlib.contextmanager
def running(
    folder: Path,
    ae_title: str = "ORTHANC",
    dicom_port: int | None = None,
    modalities: Mapping[str, tuple[str, str, int]] | None = None,
    **settings: Any,
) -> Iterator[Orthanc]:
    """Orthanc in `folder` (which it fills) until the block ends.

    `modalities` are those it may send to: name → (AE title, host, port). `settings` are its own,
    added to or in place of those here. RuntimeError with its log where it does not come up.
    """
    binary = shutil.which("Orthanc") or "/usr/sbin/Orthanc"
    server = Orthanc(ae_title, dicom_port or free_port(), free_port())
    configuration = folder / "orthanc.json"
    folder.mkdir(parents=True, exist_ok=True)
    configuration.write_text(json.dumps(_configuration(server, folder, modalities) | settings))
    log = folder / "orthanc.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [binary, str(configuration)], stdout=stream, stderr=subprocess.STDOUT
        )
    try:
        _await(server, process, log)
        yield dataclasses.replace(server, pid=process.pid)
    finally:
        process.terminate()
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=60)


def _configuration(
    server: Orthanc, folder: Path, modalities: Mapping[str, tuple[str, str, int]] | None
) -> dict[str, Any]:
    return {
        "Name": "a PACS for tests",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [],
        "DicomAet": server.ae_title,
        "DicomPort": server.dicom_port,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowEcho": True,
        "DicomModalities": {name: list(m) for name, m in (modalities or {}).items()},
        "HttpPort": server.http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "HttpTimeout": 20,
        "DicomScuTimeout": 20,
    }


def _await(server: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            server.get("/system")
            return
        time.sleep(0.1)
    raise RuntimeError(f"Orthanc did not come up:\n{log.read_text(errors='replace')[-2000:]}")
