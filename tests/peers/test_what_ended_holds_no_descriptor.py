"""When an association has ended nothing of it is held, however it ended.

A receiver at rest gives the garbage collector no cause to run: what is left to that one is held for
as long as nobody comes.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from pynetdicom.association import Association
from pynetdicom.dul import DULServiceProvider
from pynetdicom.transport import AssociationSocket

from prescreen import settings
from prescreen.dicom.receive import Receiver
from tests.peers import wire
from tests.peers.dcmtk import eventually, free_port

#: Milliseconds that a peer may take to reset its connection.
SOON = 10_000


def receiver(**changes: float) -> Receiver:
    peers = (settings.Peer(ae_title="ATTACKER"),)
    receive = settings.Receive(ae_title="NODE", port=free_port(), peers=peers, **changes)  # type: ignore[arg-type]
    return Receiver(receive, lambda incoming: None, lambda kind, detail: None)


@pytest.fixture
def node() -> Iterator[Receiver]:
    with receiver(acse_timeout=60) as node:
        yield node


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> list[socket.socket]:
    """The connections that the node closed, each only after the peer had reset it."""
    close, closed = AssociationSocket.close, []

    def close_late(connection: AssociationSocket) -> None:
        if connection.socket is not None:
            closed.append(connection.socket)
            was_reset = select.poll()
            was_reset.register(connection.socket, 0)
            assert was_reset.poll(SOON)
        close(connection)

    monkeypatch.setattr(AssociationSocket, "close", close_late)
    return closed


#: What a peer says last, and what it is answered.
ENDS = {
    "it aborts": (wire.pdu(wire.ABORT, bytes(4)), None),
    "it releases": (wire.pdu(wire.RELEASE_RQ, bytes(4)), wire.RELEASE_RP),
    "it breaks the protocol": (struct.pack(">BxI", wire.P_DATA, 0xFFFFFFFF), wire.ABORT),
    "it asks once more": (wire.request(b"ATTACKER"), wire.ABORT),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_connection_that_the_peer_resets_is_closed(
    node: Receiver, closed: list[socket.socket], end: str
) -> None:
    last, answer = ENDS[end]
    connection = wire.associated(node.port, b"ATTACKER")
    connection.sendall(last)
    if answer is not None:
        assert wire.answer(connection) == answer
    reset(connection)
    eventually(lambda: [one.fileno() for one in closed] == [-1])


def reset(connection: socket.socket) -> None:
    """End a connection by RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def asking(context: bytes, version: int = 1) -> bytes:
    """An A-ASSOCIATE-RQ with one presentation context of these items."""
    user = wire.item(0x51, struct.pack(">I", 16_384)) + wire.item(0x52, b"1.2.3.4")
    items = (
        wire.item(0x10, wire.APPLICATION_CONTEXT)
        + wire.item(0x20, bytes([1, 0, 0, 0]) + context)
        + wire.item(0x50, user)
    )
    titles = b"NODE".ljust(16) + b"ATTACKER".ljust(16)
    return wire.pdu(1, struct.pack(">Hxx", version) + titles + bytes(32) + items)


CLASS, SYNTAX = wire.item(0x30, wire.CR), wire.item(0x40, wire.IMPLICIT)
#: Requests that end in no association, and how they are answered.
REQUESTS = {
    "a context without a transfer syntax": (asking(CLASS), wire.ABORT),
    "a context without a class": (asking(SYNTAX), wire.ABORT),
    "a version that is none": (asking(CLASS + SYNTAX, version=2), wire.ASSOCIATE_RJ),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_a_request_that_comes_to_nothing_keeps_no_thread_while_its_peer_stays(
    node: Receiver, what: str
) -> None:
    request, answer = REQUESTS[what]
    with wire.connected(node.port) as connection:
        connection.sendall(request)
        assert wire.answer(connection) == answer
        # well before the time is up in which a peer must have asked
        eventually(lambda: not associations(), 20)


def associations() -> list[threading.Thread]:
    """The threads of associations that have not ended."""
    kinds = (Association, DULServiceProvider)
    return [thread for thread in threading.enumerate() if isinstance(thread, kinds)]


@pytest.mark.parametrize("kind", [Association, DULServiceProvider])
def test_an_association_that_gets_no_thread_is_closed(
    monkeypatch: pytest.MonkeyPatch, kind: type[threading.Thread]
) -> None:
    def start(thread: threading.Thread) -> NoReturn:
        raise RuntimeError("can't start new thread")

    with receiver(acse_timeout=1) as node:
        before = descriptors()
        with monkeypatch.context() as patched:
            patched.setattr(kind, "start", start)
            with wire.connected(node.port) as connection:
                connection.sendall(wire.request(b"ATTACKER"))
                assert wire.answer(connection) in (0, wire.ABORT)
        eventually(lambda: descriptors() <= before)
        wire.associated(node.port, b"ATTACKER").close()


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
