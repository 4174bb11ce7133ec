"""Rows W1 to W7 of the fault matrix: what hostile peers do at the door, two hundred at a time.

While they hang on, DCMTK's echoscu is answered; when they are gone, or were sent away, the receiver
has as many threads and descriptors as before, and hardly more memory. It runs in a process of its
own, for only so are these its own.
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.peers import wire
from tests.peers.certificates import Authority, Files
from tests.peers.dcmtk import eventually, free_port, run

MANY = 200
#: Seconds to ask for an association, and that a PDU may take: long enough to hang meanwhile.
PATIENCE = 4

NODE = """
import json, sys
from prescreen import settings
from prescreen.dicom.receive import Receiver

def audit(kind, detail):
    print(json.dumps([kind, detail]), flush=True)

receive = settings.Receive(**json.loads(sys.argv[1]))
with Receiver(receive, lambda incoming: None, audit):
    print("[]", flush=True)
    sys.stdin.read()
"""


class Node:
    """A receiver in a process of its own, in clear and by TLS, and what it audits."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder)
        self.stranger = Authority(folder, "Another CA").issue("stranger")
        self.own, self.peer = self.authority.issue("node"), self.authority.issue("modality")
        self.port, self.tls_port = free_port(), free_port()
        self.audited: list[Any] = []
        self._process = subprocess.Popen(
            [sys.executable, "-c", NODE, json.dumps(self._settings())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        eventually(lambda: bool(self.audited), 30)
        # loads what is loaded when needed, and starts who tells of refusals
        assert self.echo() and self.echo_by_tls() and not self.echo_by_tls(calling="NOBODY")
        eventually(lambda: self.threads() <= 8, 30)
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
        self._process.communicate(timeout=30)
        assert self._process.returncode == 0

    def echo(self) -> bool:
        said = run(
            "echoscu", "-to", "20", "-aet", "GOOD", "-aec", "NODE", "127.0.0.1", str(self.port)
        )
        return said.returncode == 0

    def echo_by_tls(self, files: Files | None = None, calling: str = "SECURE") -> bool:
        files = files or self.peer
        keys = ("+tls", files.key, files.certificate, "+cf", self.authority.certificate)
        there = ("127.0.0.1", str(self.tls_port))
        said = run("echoscu", *keys, "-to", "20", "-aet", calling, "-aec", "NODE", *there)
        return said.returncode == 0

    def rules(self) -> set[str]:
        return {detail["rule"] for _, detail in filter(None, self.audited)}

    def is_at_rest(self) -> bool:
        threads, descriptors = self._counts()
        return threads <= self.at_rest[0] and descriptors <= self.at_rest[1]

    def grown(self) -> float:
        """MiB more than at rest."""
        return self._memory() - self.memory

    def _counts(self) -> tuple[int, int]:
        process = Path(f"/proc/{self._process.pid}")
        threads, descriptors = process / "task", process / "fd"
        return sum(1 for _ in threads.iterdir()), sum(1 for _ in descriptors.iterdir())

    def threads(self) -> int:
        return self._counts()[0]

    def _memory(self) -> float:
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) / 1024
        raise KeyError("VmRSS")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("certificates"))
    yield node
    node.close()


Attack = Callable[[ExitStack, int], None]


def withstood(node: Node, attack: Attack) -> None:
    """Attack two hundred times over; then ask, and wait until all is as it was."""
    with ExitStack() as stack:
        for number in range(MANY):
            attack(stack, number)
        assert node.echo()
        assert node.echo_by_tls()
        assert node.threads() < node.at_rest[0] + 2 * 33 + 4
        # they hang on until they are sent away
        eventually(node.is_at_rest, 60)
    assert node.grown() < 32


def says(port: int, content: bytes) -> Attack:
    def attack(stack: ExitStack, number: int) -> None:
        connection = stack.enter_context(wire.connected(port))
        connection.sendall(content)

    return attack


def test_w1_silent_connections(node: Node) -> None:
    withstood(node, says(node.port, b""))
    assert "no_request" in node.rules()


def test_w2_stalled_in_the_middle_of_a_pdu(node: Node) -> None:
    withstood(node, says(node.port, wire.request(b"GOOD")[:50]))


def test_w2_stalled_in_the_middle_of_an_object(node: Node) -> None:
    def attack(stack: ExitStack, number: int) -> None:
        connection = stack.enter_context(wire.connected(node.port))
        with contextlib.suppress(ConnectionError):  # one too many of this peer
            connection.sendall(wire.request(b"ATTACKER"))
            if wire.answer(connection) != wire.ASSOCIATE_AC:
                return
            connection.sendall(wire.pdu(wire.P_DATA, wire.pdv(wire.store_request(), 3)))
            connection.sendall(wire.pdu(wire.P_DATA, wire.pdv(bytes(9_000), 0))[:5_000])

    withstood(node, attack)
    assert "pdu_deadline" in node.rules()


def test_w2_a_byte_at_a_time(node: Node) -> None:
    content = wire.request(b"GOOD")
    with ExitStack() as stack:
        slow = [stack.enter_context(wire.connected(node.port)) for _ in range(MANY)]
        for byte in content[:3]:
            for connection in slow:
                connection.sendall(bytes([byte]))
            assert node.echo()
        eventually(node.is_at_rest, 60)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0, 1, 5, 1 << 20])
def test_w3_impossible_lengths_before_an_association(node: Node, length: int) -> None:
    withstood(node, says(node.port, struct.pack(">BxI", 1, length) + bytes(10_000)))


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0, 1, 5, 1 << 20])
def test_w3_impossible_lengths_within_an_association(node: Node, length: int) -> None:
    for _ in range(8):
        with wire.associated(node.port, b"ATTACKER") as connection:
            connection.sendall(struct.pack(">BxI", wire.P_DATA, length) + bytes(10_000))
            eventually(lambda: wire.answer(connection) in (wire.ABORT, 0), 20)
    assert node.echo()
    eventually(node.is_at_rest, 60)
    assert node.grown() < 32


def noise(node: Node) -> list[tuple[int, bytes]]:
    """Port and content: random bytes, HTTP, TLS where DICOM is spoken, and the reverse."""
    random.seed(4)
    hello = bytes.fromhex("1603010200010001fc0303") + random.randbytes(500)
    http = b"GET / HTTP/1.1\r\nHost: node\r\n\r\n"
    return [
        (node.port, random.randbytes(65_536)),
        (node.port, b"\x01\x00" + struct.pack(">I", 5_000) + random.randbytes(5_000)),
        (node.port, http),
        (node.port, hello),
        (node.tls_port, wire.request(b"SECURE")),
        (node.tls_port, http),
        (node.tls_port, random.randbytes(65_536)),
    ]


def test_w4_noise(node: Node) -> None:
    kinds = noise(node)

    def attack(stack: ExitStack, number: int) -> None:
        port, content = kinds[number % len(kinds)]
        connection = stack.enter_context(wire.connected(port))
        with contextlib.suppress(ConnectionError):  # it has read enough
            connection.sendall(content)

    withstood(node, attack)
    assert {"not_dicom", "tls"} <= node.rules()


def test_w5_silent_and_half_shaken_hands(node: Node) -> None:
    def attack(stack: ExitStack, number: int) -> None:
        connection = stack.enter_context(wire.connected(node.tls_port))
        if number % 2:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            outgoing = ssl.MemoryBIO()
            half = context.wrap_bio(ssl.MemoryBIO(), outgoing)
            with pytest.raises(ssl.SSLWantReadError):
                half.do_handshake()
            connection.sendall(outgoing.read())

    withstood(node, attack)


def _old(files: Files) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(files.certificate, files.key)
    return context


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
def test_w5_old_versions(node: Node, version: ssl.TLSVersion) -> None:
    context = _old(node.peer)
    context.minimum_version = context.maximum_version = version
    with wire.connected(node.tls_port) as connection, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(connection)
    assert node.echo_by_tls()
    assert "tls" in node.rules()


def test_w5_no_certificate_or_one_nobody_vouches_for(node: Node) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with ExitStack() as stack, pytest.raises((ssl.SSLError, OSError)):
        plain = stack.enter_context(wire.connected(node.tls_port))
        connection = stack.enter_context(context.wrap_socket(plain))
        connection.sendall(wire.request(b"SECURE"))
        connection.recv(6)  # in TLS 1.3 the refusal comes afterwards
        raise ConnectionResetError
    assert not node.echo_by_tls(node.stranger)
    assert node.echo_by_tls()
    assert "tls" in node.rules()


def test_w6_associated_and_idle(node: Node) -> None:
    withstood(node, says(node.port, wire.request(b"ATTACKER")))
    assert "max_associations_per_peer" in node.rules()


def test_w6_every_context_there_can_be(node: Node) -> None:
    withstood(node, says(node.port, wire.request(b"ATTACKER", classes=[wire.CR] * 128)))


def test_w6_much_user_information(node: Node) -> None:
    user = wire.item(0x55, b"X" * 16) + wire.item(0x58, bytes(65_400))
    withstood(node, says(node.port, wire.request(b"ATTACKER", user=user)))


TITLES = [b"", b" " * 16, bytes(range(16)), b"../../etc/passwd", b"\xff" * 16]


@pytest.mark.parametrize("calling", TITLES)
def test_w6_odd_titles(node: Node, calling: bytes) -> None:
    with wire.connected(node.port) as connection:
        connection.sendall(wire.request(calling))
        assert wire.answer(connection) in (wire.ASSOCIATE_RJ, wire.ABORT, 0)
    assert node.echo()


COMMAND = wire.pdv(wire.store_request(), 3)
SEQUENCES = {
    "context not accepted": wire.pdv(wire.store_request(), 3, context_id=3),
    "even context": wire.pdv(wire.store_request(), 3, context_id=2),
    "length too short": struct.pack(">IBB", 1, 1, 3),
    "length too long": struct.pack(">IBB", 5_000, 1, 3) + bytes(10),
    "data set before command": wire.pdv(bytes(100), 2),
    "command amid data set": COMMAND + wire.pdv(bytes(100), 0) + COMMAND,
    "command set that is none": wire.pdv(b"\xff" * 50, 3),
    "command without end": wire.pdv(bytes(60_000), 1) * 2,
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_w7_impossible_data_ends_the_association(node: Node, name: str) -> None:
    with wire.associated(node.port, b"ATTACKER") as connection:
        connection.sendall(wire.pdu(wire.P_DATA, SEQUENCES[name]))
        assert wire.answer(connection) in (wire.ABORT, 0)
    assert node.echo()


def test_w7_an_object_without_end_is_cut_off(node: Node) -> None:
    endless = wire.pdu(wire.P_DATA, wire.pdv(bytes(100_000), 0))
    with wire.associated(node.port, b"ATTACKER") as connection:
        connection.sendall(wire.pdu(wire.P_DATA, COMMAND))
        with pytest.raises(OSError):
            for _ in range(10_000):
                connection.sendall(endless)
    assert node.echo()
    eventually(node.is_at_rest, 60)
    assert node.grown() < 32


def test_w7_a_byte_in_each_value(node: Node) -> None:
    ones = wire.pdu(wire.P_DATA, wire.pdv(b"x", 0) * 15_000)
    with wire.associated(node.port, b"ATTACKER") as connection:
        connection.sendall(wire.pdu(wire.P_DATA, COMMAND))
        connection.sendall(ones * 4)
        assert node.echo()
        connection.shutdown(socket.SHUT_RDWR)
    eventually(node.is_at_rest, 60)


def test_refusals_are_told_once_a_kind(node: Node) -> None:
    told = [tuple(detail.values())[:4] for kind, detail in filter(None, node.audited)]
    assert len(told) < 100
