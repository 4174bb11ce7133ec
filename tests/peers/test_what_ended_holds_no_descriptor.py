"""When an association has ended nothing of it is held, however it ended.

A receiver at rest gives the garbage collector no cause to run: what is left to that one is held for
as long as nobody comes.
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Iterator

import pytest
from pynetdicom.transport import AssociationSocket

from prescreen import settings
from prescreen.dicom.receive import Receiver
from tests.peers import wire
from tests.peers.dcmtk import eventually, free_port

#: So many milliseconds a peer may take to reset its connection.
SOON = 10_000


@pytest.fixture
def node() -> Iterator[Receiver]:
    peers = (settings.Peer(ae_title="ATTACKER"),)
    receive = settings.Receive(ae_title="NODE", port=free_port(), peers=peers)
    with Receiver(receive, lambda incoming: None, lambda kind, detail: None) as node:
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
