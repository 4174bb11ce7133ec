"""A destination that answers without end, or with nothing that fits, costs little and is let go."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prescreen.dicom import answers, query
from prescreen.dicom.send import Sender
from prescreen.errors import PeerUnavailable
from prescreen.settings import Destination
from tests.peers import wire
from tests.peers.dcmtk import write_radiograph

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

_PENDING = 0xFF00
Talk = Callable[[socket.socket], None]


@contextmanager
def talking(talk: Talk) -> Iterator[Destination]:
    """A destination that says what `talk` says, to each that connects."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(20)
        thread = threading.Thread(target=_answer, args=(listener, talk), daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        yield Destination(
            name="it",
            ae_title="PACS",
            host="127.0.0.1",
            port=port,
            acse_timeout=2,
            dimse_timeout=20,
            network_timeout=2,
        )


def _answer(listener: socket.socket, talk: Talk) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.settimeout(20)
            with connection, contextlib.suppress(OSError):
                talk(connection)


def _pdu(connection: socket.socket) -> bytes:
    head = connection.recv(6, socket.MSG_WAITALL)
    return connection.recv(struct.unpack(">I", head[2:])[0], socket.MSG_WAITALL)


def accepted(connection: socket.socket, longest: int = 16_384) -> None:
    """Take all that is proposed, in the transfer syntax it is proposed in."""
    request = _pdu(connection)
    contexts, at = [], 68
    while at < len(request):
        length = struct.unpack(">H", request[at + 2 : at + 4])[0]
        if request[at] == 0x20:
            syntax = request[request.index(b"\x40\0", at) : at + 4 + length]
            contexts.append(wire.item(0x21, bytes([request[at + 4], 0, 0, 0]) + syntax))
        at += 4 + length
    own = wire.item(0x51, struct.pack(">I", longest)) + wire.item(0x52, b"1.2.3")
    items = wire.item(0x10, wire.APPLICATION_CONTEXT) + b"".join(contexts) + wire.item(0x50, own)
    connection.sendall(wire.pdu(2, request[:68] + items))


def without_end(connection: socket.socket, content: bytes) -> None:
    while True:
        connection.sendall(content)


def to_its_end(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def a_pdu_of_4_gib(connection: socket.socket) -> None:
    _pdu(connection)
    connection.sendall(struct.pack(">BxI", 2, 0xFFFFFFFF))
    without_end(connection, bytes(65_536))


def a_byte_at_a_time(connection: socket.socket) -> None:
    _pdu(connection)
    connection.sendall(struct.pack(">BxI", 2, 60_000))
    while True:
        connection.sendall(b"\0")
        time.sleep(0.1)


def _response(field: int, status: int) -> bytes:
    elements = [
        (0x0002, query.FIND.encode() + bytes(len(query.FIND) % 2)),
        (0x0100, struct.pack("<H", field)),
        (0x0120, struct.pack("<H", 1)),
        (0x0800, b"\0\0"),
        (0x0900, struct.pack("<H", status)),
    ]
    content = b"".join(struct.pack("<HHI", 0, tag, len(v)) + v for tag, v in elements)
    return struct.pack("<HHII", 0, 0, 4, len(content)) + content


def a_match_without_end(connection: socket.socket) -> None:
    accepted(connection)
    _pdu(connection)
    connection.sendall(wire.pdu(4, wire.pdv(_response(0x8020, _PENDING), 3)))
    without_end(connection, wire.pdu(4, wire.pdv(bytes(60_000), 0)))


def matches_without_end(connection: socket.socket) -> None:
    accepted(connection)
    _pdu(connection)
    uid = struct.pack("<HHI", 0x0010, 0x0010, 60_000) + bytes(60_000)
    command, content = wire.pdv(_response(0x8020, _PENDING), 3), wire.pdv(uid, 2)
    without_end(connection, wire.pdu(4, command) + wire.pdu(4, content))


@pytest.mark.parametrize("talk", [a_pdu_of_4_gib, a_byte_at_a_time])
def test_an_acceptance_that_does_not_end_is_not_waited_for(talk: Talk, tmp_path: Path) -> None:
    radiograph = write_radiograph(tmp_path / "one.dcm")
    with talking(talk) as destination, pytest.raises(PeerUnavailable):
        Sender(destination, "NODE").send(radiograph)


@pytest.mark.parametrize("talk", [a_match_without_end, matches_without_end])
def test_an_answer_that_does_not_end_is_not_heard_to_its_end(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "LONGEST_ANSWER", 1 << 20)
    # not the timeout, which a fast peer could fill with gigabytes
    with talking(talk) as destination, pytest.raises(PeerUnavailable, match="lost during C-FIND"):
        query.study(destination, "NODE", "1.2.3")


@pytest.mark.parametrize("longest", [1, 6, 8, 1023])
def test_a_peer_that_takes_no_pdu_of_any_use_is_told_so(longest: int) -> None:
    def talk(connection: socket.socket) -> None:
        accepted(connection, longest)
        _pdu(connection)

    said = f"takes PDUs of {longest} bytes at most"
    with talking(talk) as destination, pytest.raises(PeerUnavailable, match=said):
        query.study(destination, "NODE", "1.2.3")


@pytest.mark.parametrize("longest", [1, 6, 8])
def test_an_object_is_not_taken_apart_into_single_bytes(longest: int, tmp_path: Path) -> None:
    def talk(connection: socket.socket) -> None:
        accepted(connection, longest)
        to_its_end(connection)

    radiograph = write_radiograph(tmp_path / "one.dcm")
    with talking(talk) as destination, pytest.raises(PeerUnavailable):
        Sender(destination, "NODE").send(radiograph)


def cancels(connection: socket.socket) -> None:
    accepted(connection)
    for number in range(20):
        elements = [(0x0100, 0x0FFF), (0x0120, number), (0x0800, 0x0101)]
        content = b"".join(struct.pack("<HHIH", 0, tag, 2, v) for tag, v in elements)
        command = struct.pack("<HHII", 0, 0, 4, len(content)) + content
        connection.sendall(wire.pdu(4, wire.pdv(command, 3)))
    _pdu(connection)


def test_cancels_in_place_of_an_answer_are_a_loss_like_any(tmp_path: Path) -> None:
    radiograph = write_radiograph(tmp_path / "one.dcm")
    with talking(cancels) as destination:
        with pytest.raises(PeerUnavailable, match="during C-STORE"):
            Sender(destination, "NODE").send(radiograph)
        with pytest.raises(PeerUnavailable, match="during C-FIND"):
            query.study(destination, "NODE", "1.2.3")
