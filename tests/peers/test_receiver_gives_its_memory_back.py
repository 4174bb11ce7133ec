"""Row L3, sixteen associations of large objects: bounded while they last, gone when they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers.dcmtk import free_port, wait_until_listening, write_radiograph

ASSOCIATIONS, MEGABYTES = 16, 10

# In a process of its own: only so is its memory its own.
NODE = """
import sys
from prescreen import settings
from prescreen.dicom.receive import Receiver
peer = settings.Peer(ae_title="STORESCU")
receive = settings.Receive(ae_title="NODE", port=int(sys.argv[1]), peers=(peer,))
with Receiver(receive, lambda incoming: None, lambda kind, detail: None):
    sys.stdin.read()
"""


def kilobytes(pid: int, field: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise KeyError(field)


@pytest.mark.parametrize("each", [2, pytest.param(60, marks=pytest.mark.soak)])
def test_l3_memory_is_bounded_by_what_is_in_flight_and_given_back(
    tmp_path: Path, each: int
) -> None:
    sent = write_radiograph(tmp_path / "a.dcm", size=2237)  # 2237² × 2 bytes: 10 MB
    port = free_port()
    with subprocess.Popen([sys.executable, "-c", NODE, str(port)], stdin=subprocess.PIPE) as node:
        wait_until_listening(port, seconds=120)
        at_rest = kilobytes(node.pid, "VmRSS")
        command = ["storescu", "-aec", "NODE", "-R", "127.0.0.1", str(port), *[str(sent)] * each]
        senders = [subprocess.Popen(command) for _ in range(ASSOCIATIONS)]
        assert [sender.wait(60 * each) for sender in senders] == [0] * ASSOCIATIONS
        peak, after = kilobytes(node.pid, "VmHWM"), kilobytes(node.pid, "VmRSS")
        node.communicate(timeout=120)
    in_flight = ASSOCIATIONS * MEGABYTES * 1024
    assert at_rest < 120 * 1024
    assert peak - at_rest < 2.5 * in_flight
    assert after - at_rest < in_flight / 4
