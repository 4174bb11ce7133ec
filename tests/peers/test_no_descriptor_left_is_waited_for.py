"""A receiver that may open no more files rests until it may, says so once, and lets in again."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.peers import wire
from tests.peers.dcmtk import free_port

#: Starts a receiver, leaves it no descriptor, and tells how often it tried to accept.
STARVED = """
import logging, os, resource, sys
logging.basicConfig()
from prescreen.dicom.door import Door
from prescreen.dicom.receive import Receiver
from prescreen.settings import Peer, Receive
tried = []
accepting = Door.get_request
Door.get_request = lambda door: (tried.append(1), accepting(door))[1]
receive = Receive(ae_title="NODE", port=int(sys.argv[1]), peers=(Peer(ae_title="CR"),))
with Receiver(receive, lambda incoming: None, lambda kind, detail: None) as receiver:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, most[1]))
    print("starved", flush=True)
    sys.stdin.readline()
    resource.setrlimit(resource.RLIMIT_NOFILE, most)
    print(len(tried), flush=True)
    sys.stdin.readline()
"""


def test_a_receiver_without_descriptors_rests_and_lets_in_again() -> None:
    port = free_port()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    argv = [sys.executable, "-c", STARVED, str(port)]
    with subprocess.Popen(argv, text=True, bufsize=1, **pipes) as node:  # type: ignore[call-overload]
        try:
            assert node.stdout.readline() == "starved\n"
            with wire.connected(port) as waiting:
                assert "no connection can be accepted" in node.stderr.readline()
                time.sleep(1)
                node.stdin.write("go on\n")
                assert 1 <= int(node.stdout.readline()) < 50, "thousands, where it does not rest"
                waiting.sendall(wire.request(b"CR"))
                assert wire.answer(waiting) == wire.ASSOCIATE_AC
            said = node.communicate("end\n", timeout=30)[1]
            assert "no connection can be accepted" not in said
        finally:
            node.kill()
