"""The image at work: `python -m tests.e2e.container ENGINE IMAGE` (`make image-check`).

A container as deploy/Dockerfile says to run it: without rights, on a file system that is only
read, with a volume for its data. DCMTK is the modality and the PACS; what is looked at is what an
administrator would look at. Needs a container engine and an image, so it is no part of `make test`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from prescreen.dicom.capture import SECONDARY_CAPTURE
from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.supervisor import ROLES
from tests.e2e.house import chest, wait_until
from tests.peers import dcmtk

#: The container shares this machine's network: the least that every engine can do.
SETTINGS = """\
[receive]
host = "127.0.0.1"
port = {port}
[[receive.peers]]
ae_title = "MODALITY"
[screen]
quiet_period = 1
[scope]
acquired_within_hours = 10000000
[[destinations]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {pacs_port}
audience = "evaluation"
test = true
query = "none"
commitment = "none"
objects = ["sr", "capture"]
"""
#: As in the head of deploy/Dockerfile.
SHUT_IN = (
    "--read-only",
    *("--tmpfs", "/tmp"),
    *("--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
)
#: Where nobody may write but root; of the rest of the system nobody at all.
CLOSED = ("/opt/prescreen/.venv", "/etc/prescreen", "/var/lib", "/", "/usr", "/home")
NAME = f"prescreen-check-{os.getpid()}"


@dataclass(frozen=True)
class Container:
    """A container that runs, and the engine it runs under."""

    engine: str
    port: int

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in the container, as its user."""
        return _told(self.engine, "exec", NAME, *command)

    def echoes(self) -> bool:
        """Whether DCMTK's echoscu is answered."""
        options = ("-to", "2", "-ta", "5", "-aet", "MODALITY", "-aec", "PRESCREEN")
        return dcmtk.run("echoscu", *options, "127.0.0.1", str(self.port)).returncode == 0

    def study(self, uid: str) -> dict[str, Any]:
        """What the audit trail has of a study."""
        told = self.run("prescreen", "audit", "show", uid, "--json")
        assert told.returncode == 0, told.stderr
        found: dict[str, Any] = json.loads(told.stdout)
        return found


def _told(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@contextmanager
def running(engine: str, image: str, folder: Path, pacs_port: int) -> Iterator[Container]:
    """The image as a container with a volume of its own; both are gone afterwards."""
    port, config = dcmtk.free_port(), folder / "prescreen.toml"
    config.write_text(SETTINGS.format(port=port, pacs_port=pacs_port))
    mounts = (
        "-v",
        f"{NAME}:/var/lib/prescreen",
        "-v",
        f"{config}:/etc/prescreen/prescreen.toml:ro",
    )
    options = ("--detach", "--name", NAME, "--network", "host", *SHUT_IN, *mounts)
    started = _told(engine, "run", *options, image)
    try:
        assert started.returncode == 0, started.stderr
        yield Container(engine, port)
    except BaseException:
        print(_told(engine, "logs", NAME).stderr, file=sys.stderr)
        raise
    finally:
        _told(engine, "rm", "--force", NAME)
        _told(engine, "volume", "rm", "--force", NAME)


def require_shut_in(container: Container) -> None:
    """No root, no capability, no way to more, and one folder beside /tmp that can be written."""
    status = dict(
        line.split(":\t", 1)
        for line in container.run("cat", "/proc/1/status").stdout.splitlines()
        if ":\t" in line
    )
    assert status["Uid"].split() == ["10001"] * 4, status["Uid"]
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    for folder in CLOSED:
        assert container.run("touch", f"{folder}/probe").returncode != 0, folder
    for folder in ("/tmp", "/var/lib/prescreen"):
        assert container.run("touch", f"{folder}/probe").returncode == 0, folder
    container.run("rm", "/tmp/probe", "/var/lib/prescreen/probe")


def require_health(container: Container) -> None:
    """The health check of the image passes, and fails when a role is stopped from working."""
    wait_until(lambda: _health(container) == 0, "the health check of the image holds")
    told = container.run("prescreen", "check")
    assert told.returncode == 0, told.stdout + told.stderr
    print(told.stdout)


def _health(container: Container) -> int:
    """The exit status of the image's own health check."""
    form = "{{json .Config.Healthcheck.Test}}"
    told = _told(container.engine, "inspect", "--format", form, NAME)
    words = json.loads(told.stdout)
    assert words and words[0] == "CMD", f"the image has no health check: {told.stdout}"
    return container.run(*words[1:]).returncode


def require_answer(container: Container, folder: Path, pacs: dcmtk.StoreSCP) -> None:
    """A real radiograph is screened; report and capture come; the audit trail has all of it."""
    sent = chest(folder)
    uid = str(pydicom.dcmread(sent, stop_before_pixels=True).StudyInstanceUID)
    options = ("-aet", "MODALITY", "-aec", "PRESCREEN", "127.0.0.1", str(container.port))
    told = dcmtk.run("storescu", *options, sent)
    assert told.returncode == 0, told.stdout
    wait_until(lambda: len(pacs.files) == 2, "report and capture arrive", 180)
    wait_until(lambda: _is_delivered(container.study(uid)), "both are settled")
    classes = {str(pydicom.dcmread(path).SOPClassUID) for path in pacs.files}
    assert classes == {COMPREHENSIVE_3D_SR, SECONDARY_CAPTURE}
    print(container.run("prescreen", "audit", "show", uid).stdout)
    verified = container.run("prescreen", "audit", "verify")
    assert verified.returncode == 0, verified.stdout + verified.stderr


def _is_delivered(study: dict[str, Any]) -> bool:
    return study["study"]["outcome"] == "screened" and all(
        row["state"] == "delivered" for row in study["deliveries"]
    )


def require_unhealthy_without_a_role(container: Container) -> None:
    """Where the screener is stopped again and again, the health check says so."""
    kill = "import os,signal,sys; os.kill(int(sys.argv[1]), signal.SIGKILL)"
    for pid in _processes(container, ROLES[1]):
        container.run("python3", "-c", kill, pid)
    assert _health(container) == 1
    wait_until(lambda: _health(container) == 0, "the screener is started again")


def _processes(container: Container, role: str) -> list[str]:
    """Process ids, in the container, of a role; the image has no ps."""
    look = (
        "import pathlib,sys\n"
        "for p in pathlib.Path('/proc').glob('[0-9]*/cmdline'):\n"
        "    words = p.read_bytes().split(b'\\0')\n"
        "    if b'--only' in words and sys.argv[1].encode() in words: print(p.parent.name)\n"
    )
    return container.run("python3", "-c", look, role).stdout.split()


def require_quiet_end(container: Container) -> None:
    """SIGTERM ends it with status 0; what it kept is there for the next container."""
    assert _told(container.engine, "stop", "--time", "60", NAME).returncode == 0
    form = "{{.State.ExitCode}}"
    assert _told(container.engine, "inspect", "--format", form, NAME).stdout.strip() == "0"


def main(engine: str, image: str) -> None:
    """All of it, once."""
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        folder = Path(place)
        folder.chmod(0o755)
        pacs = stack.enter_context(dcmtk.storescp(folder / "pacs"))
        container = stack.enter_context(running(engine, image, folder, pacs.port))
        wait_until(container.echoes, "echoscu is answered", 120)
        require_shut_in(container)
        require_health(container)
        require_answer(container, folder, pacs)
        require_unhealthy_without_a_role(container)
        require_quiet_end(container)
    print(f"{image}: screened and answered, shut in, and ended when it was told to")


if __name__ == "__main__":
    main(*sys.argv[1:3])
