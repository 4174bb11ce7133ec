"""A receiver in a process of its own, to be attacked: its threads and memory are its own."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from bench.processes import held, resident_mib
from tests.peers.certificates import Authority, Files
from tests.peers.dcmtk import eventually, free_port, run

#: Seconds to ask for an association, and that a PDU may take: long enough to hang meanwhile.
PATIENCE = 4

NODE = """
import json, sys
from prescreen import settings
from prescreen.dicom.receive import Receiver

# told as one write each, from whatever thread
def audit(kind, detail):
    sys.stdout.write(json.dumps([kind, detail]) + "\\n")
    sys.stdout.flush()

receive = settings.Receive(**json.loads(sys.argv[1]))
def keep(incoming):
    audit("kept", {"sop_instance_uid": incoming.sop_instance_uid, "rule": ""})

with Receiver(receive, keep, audit):
    print("[]", flush=True)
    sys.stdin.read()
"""


class Node:
    """A receiver in a process of its own, in clear and by TLS, and what it audits."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.authority = Authority(folder)
        self.stranger = Authority(folder, "Another CA").issue("stranger")
        self.own, self.peer = self.authority.issue("node"), self.authority.issue("modality")
        self.port, self.tls_port = free_port(), free_port()
        self.audited: list[Any] = []
        self._process = subprocess.Popen(
            [sys.executable, "-c", NODE, json.dumps(self._settings() | changes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        eventually(lambda: bool(self.audited), 120)
        # loads what is loaded when needed, and starts who tells of refusals
        assert self.echo() and self.echo_by_tls() and not self.echo_by_tls(calling="NOBODY")
        eventually(lambda: self.threads() <= 8, 120)
        self.at_rest = self._counts()
        self.memory = self._memory()

    def _settings(self) -> dict[str, Any]:
        tls = {
            "port": self.tls_port,
            "certificate": str(self.own.certificate),
            "key": str(self.own.key),
            "authorities": str(self.authority.certificate),
        }
        peers = [
            {"ae_title": "GOOD"},
            {"ae_title": "ATTACKER"},
            {"ae_title": "ACCOMPLICE"},
            {"ae_title": "SECURE", "certificate": "modality"},
        ]
        return {
            "ae_title": "NODE",
            "port": self.port,
            "tls": tls,
            "peers": peers,
            "max_object_mb": 1,
            "acse_timeout": PATIENCE,
            "pdu_timeout": PATIENCE,
            "network_timeout": PATIENCE,
        }

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.audited.append(json.loads(line))

    def close(self) -> None:
        self._process.communicate(timeout=120)
        assert self._process.returncode == 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def echo(self) -> bool:
        said = run(
            "echoscu", "-to", "60", "-aet", "GOOD", "-aec", "NODE", "127.0.0.1", str(self.port)
        )
        return said.returncode == 0

    def echo_by_tls(self, files: Files | None = None, calling: str = "SECURE") -> bool:
        files = files or self.peer
        keys = ("+tls", files.key, files.certificate, "+cf", self.authority.certificate)
        there = ("127.0.0.1", str(self.tls_port))
        said = run("echoscu", *keys, "-to", "60", "-aet", calling, "-aec", "NODE", *there)
        return said.returncode == 0

    def store(self, path: Path) -> bool:
        """Whether an honest peer can store an object."""
        there = ("-aet", "GOOD", "-aec", "NODE", "127.0.0.1", str(self.port), path)
        return run("storescu", "-to", "60", *there).returncode == 0

    def rules(self) -> set[str]:
        return {detail["rule"] for _, detail in filter(None, self.audited)}

    def is_at_rest(self) -> bool:
        threads, descriptors = self._counts()
        return threads <= self.at_rest[0] and descriptors <= self.at_rest[1]

    def grown(self) -> float:
        """MiB more than at rest."""
        return self._memory() - self.memory

    def _counts(self) -> tuple[int, int]:
        now = held(self.pid)
        return now.threads, now.descriptors

    def threads(self) -> int:
        return self._counts()[0]

    def _memory(self) -> float:
        return resident_mib(self.pid)
