"""Rows W8 to W10: command sets that are wrong, connections that break off, callers nobody knows."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prescreen.dicom.receive import Receiver
from prescreen.settings import Peer, Receive
from prescreen.store.schema import instance
from prescreen.study import generate_uid
from tests.e2e.house import House, house, receiving
from tests.peers import wire
from tests.peers.dcmtk import data_set_of, eventually, free_port, write_radiograph
from tests.peers.wire import CR, P_DATA, VERIFICATION, command, pdu, pdv, ui, us

# the library says that the UID is malformed
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning")

CT = b"1.2.840.10008.5.1.4.1.1.2"
STORAGE_COMMITMENT = b"1.2.840.10008.1.20.1"
DATA_SET = struct.pack("<HHI", 0x0008, 0x0016, 4) + b"1.2\0"
Leave = Callable[[socket.socket], None]
GOOD = wire.store_request()
NAMED = (0x1000, ui(b"1.2.3"))


class Node:
    """A receiver that lets ATTACKER in from one address, what it kept and what it audited."""

    def __init__(self) -> None:
        here = Peer(ae_title="ATTACKER", networks=("127.0.0.1/32",))
        self.kept: list[str] = []
        self.audited: list[dict[str, Any]] = []
        receive = Receive(ae_title="NODE", port=free_port(), peers=(here,))
        self.receiver = Receiver(
            receive,
            lambda incoming: self.kept.append(incoming.sop_instance_uid),
            lambda kind, detail: self.audited.append(detail),
        )

    def rules(self) -> list[str]:
        return [detail["rule"] for detail in self.audited if "rule" in detail]


@pytest.fixture
def door() -> Iterator[Node]:
    door = Node()
    with door.receiver:
        yield door


def associated(door: Node) -> socket.socket:
    return wire.associated(door.receiver.port, b"ATTACKER")


def sent(connection: socket.socket, command_set: bytes, data_set: bytes | None = DATA_SET) -> None:
    connection.sendall(pdu(P_DATA, pdv(command_set, 3)))
    if data_set is not None:
        connection.sendall(pdu(P_DATA, pdv(data_set, 2)))


# --- W8 -----------------------------------------------------------------------------------------


def _without(element: int) -> bytes:
    """The command set of a C-STORE-RQ that lacks an element."""
    elements = [
        (0x0002, ui(CR)),
        (0x0100, us(0x0001)),
        (0x0110, us(1)),
        (0x0700, us(0)),
        (0x0800, us(0)),
        NAMED,
    ]
    return command(*(one for one in elements if one[0] != element))


def _other(field: int, *more: tuple[int, bytes], data_set: bool = True, key: int = 0x0002) -> bytes:
    """The command set of another request; `key` holds its SOP class."""
    kind = us(0 if data_set else 0x0101)
    return command((key, ui(CR)), (0x0100, us(field)), (0x0110, us(9)), (0x0800, kind), *more)


#: Each ends the association, and the audit says by which rule.
ENDED = {
    "no Message ID": (_without(0x0110), "malformed_command_set"),
    "no SOP class": (_without(0x0002), "malformed_command_set"),
    "no command field": (_without(0x0100), "malformed_command_set"),
    "no SOP instance": (_without(0x1000), "no_instance_named"),
    "no data set type": (_without(0x0800), "malformed_command_set"),
    "a length beyond the end": (GOOD[:-10] + b"\xff" * 4 + GOOD[-6:], "malformed_command_set"),
    "Verification to be stored": (wire.store_request(sop_class=VERIFICATION), "unexpected_request"),
    "a class nobody knows": (wire.store_request(sop_class=b"1.2.3"), "unexpected_request"),
    "C-ECHO where is stored": (wire.echo_request(), "unexpected_request"),
    "C-FIND": (_other(0x0020, (0x0700, us(0))), "unexpected_request"),
    "C-GET": (_other(0x0010, (0x0700, us(0))), "unexpected_request"),
    "C-MOVE": (_other(0x0021, (0x0600, b"X "), (0x0700, us(0))), "unexpected_request"),
    "N-EVENT-REPORT": (_other(0x0100, NAMED, (0x1002, us(1))), "unexpected_request"),
    "N-GET": (_other(0x0110, data_set=False), "unexpected_request"),
    "N-SET": (_other(0x0120, (0x0002, ui(CR))), "unexpected_request"),
    "N-ACTION": (_other(0x0130, (0x1008, us(1))), "unexpected_request"),
    "N-CREATE": (_other(0x0140, NAMED), "unexpected_request"),
    "N-DELETE": (_other(0x0150, data_set=False), "unexpected_request"),
    "a promise nobody may give": (
        command(
            (0x0002, ui(STORAGE_COMMITMENT)),
            (0x0100, us(0x0100)),
            (0x0110, us(9)),
            (0x0800, us(0)),
            (0x1000, ui(b"1.2.840.10008.1.20.1.1")),
            (0x1002, us(1)),
        ),
        "unexpected_request",
    ),
    "a field nobody knows": (_other(0x7777), "unexpected_request"),
}


@pytest.mark.parametrize("name", ENDED)
def test_w8_a_request_that_is_none_ends_the_association(door: Node, name: str) -> None:
    command_set, rule = ENDED[name]
    with associated(door) as connection:
        sent(connection, command_set)
        assert wire.answer(connection) in (wire.ABORT, 0)
    eventually(lambda: door.rules() == [rule])
    assert door.kept == []


ANSWERED = {
    "a group length that lies": (struct.pack("<HHII", 0, 0, 4, 4) + GOOD[12:], DATA_SET, 0x0000),
    "no group length": (GOOD[12:], DATA_SET, 0x0000),
    "another storage class": (wire.store_request(sop_class=CT), DATA_SET, 0xA900),
    "a malformed UID": (wire.store_request(uid=b"../1"), DATA_SET, 0x0117),
    "no data set": (wire.store_request(data_set_type=0x0101), None, 0xC000),
}


@pytest.mark.parametrize("name", ANSWERED)
def test_w8_what_can_be_answered_is_and_the_association_goes_on(door: Node, name: str) -> None:
    command_set, data_set, status = ANSWERED[name]
    with associated(door) as connection:
        sent(connection, command_set, data_set)
        assert wire.status(connection) == status
        sent(connection, GOOD)
        assert wire.status(connection) == 0x0000
    assert set(door.kept) == {"1.2.3"}


def test_w8_a_message_id_twice_and_what_wants_no_answer(door: Node) -> None:
    cancel = command((0x0100, us(0x0FFF)), (0x0120, us(1)), (0x0800, us(0x0101)))
    response = command((0x0100, us(0x8001)), (0x0120, us(1)), (0x0800, us(0x0101)), (0x0900, us(0)))
    with associated(door) as connection:
        sent(connection, GOOD)
        sent(connection, cancel, None)
        sent(connection, response, None)
        sent(connection, GOOD)
        assert [wire.status(connection), wire.status(connection)] == [0, 0]
    assert door.kept == ["1.2.3", "1.2.3"]


# --- W9 -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A node of which only the receiver works."""
    folder = tmp_path_factory.mktemp("house")
    with house(folder, live=False, listens=False) as home, receiving(home):
        yield home


def _of(home: House) -> tuple[socket.socket, bytes, bytes]:
    """An association, and command set and data set of an object for it."""
    uid = generate_uid()
    path = write_radiograph(home.config.parent / "a.dcm", size=224, sop_instance_uid=uid)
    connection = wire.connected(home.settings.receive.port)
    connection.sendall(wire.request(b"MODALITY", b"PRESCREEN", syntax=wire.EXPLICIT))
    assert wire.answer(connection) == wire.ASSOCIATE_AC
    return connection, wire.store_request(uid.encode()), data_set_of(path.read_bytes())


def files(home: House) -> set[Path]:
    """What lies in the spool, whole or not."""
    spool = home.settings.data_dir / "spool"
    return {path for path in spool.rglob("*") if path.is_file()}


def rows(home: House) -> int:
    with home.store().engine.connect() as connection:
        return len(connection.execute(instance.select()).all())


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _released(connection: socket.socket) -> None:
    connection.sendall(pdu(wire.RELEASE_RQ, bytes(4)))
    wire.answer(connection)
    connection.close()


def _aborted(connection: socket.socket) -> None:
    connection.sendall(pdu(wire.ABORT, bytes(4)))
    connection.close()


@pytest.mark.parametrize("leave", [_reset, _released, _aborted])
def test_w9_half_an_object_leaves_nothing_behind(home: House, leave: Leave) -> None:
    before, known = files(home), rows(home)
    connection, command_set, data_set = _of(home)
    sent(connection, command_set, None)
    half = data_set[: len(data_set) // 2]
    connection.sendall(pdu(P_DATA, pdv(half, 0)))
    eventually(lambda: len(files(home) - before) == 1)
    leave(connection)
    eventually(lambda: files(home) == before)
    assert rows(home) == known


@pytest.mark.parametrize("leave", [_reset, _aborted])
def test_w9_what_was_answered_stays_however_the_peer_leaves(home: House, leave: Leave) -> None:
    before, known = files(home), rows(home)
    connection, command_set, data_set = _of(home)
    sent(connection, command_set, data_set)
    assert wire.status(connection) == 0x0000
    leave(connection)
    (path,) = files(home) - before
    assert data_set_of(path.read_bytes()) == data_set
    assert rows(home) == known + 1


def test_w9_a_peer_that_does_not_wait_for_its_answer(tmp_path: Path) -> None:
    """Kept or not: no half of it, and nothing without its row."""
    with house(tmp_path, live=False, listens=False) as home:
        whole = []
        with receiving(home):
            for leave in (_reset, _aborted):
                connection, command_set, data_set = _of(home)
                sent(connection, command_set, data_set)
                leave(connection)
                whole.append(data_set)
        # what was under way has ended, one way or the other
        assert len(files(home)) == rows(home)
        assert all(data_set_of(path.read_bytes()) in whole for path in files(home))


# --- W10 ----------------------------------------------------------------------------------------

STRANGERS = {
    "another address": (b"ATTACKER", b"NODE", "127.0.0.2", "network", 3),
    "an unknown title": (b"NOBODY", b"NODE", "127.0.0.1", "calling_ae_title", 3),
    "another node's title": (b"ATTACKER", b"OTHER", "127.0.0.1", "called_ae_title", 7),
}


@pytest.mark.parametrize("name", STRANGERS)
def test_w10_a_stranger_is_rejected_for_good_and_told_of_once(
    door: Node, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    calling, called, address, rule, reason = STRANGERS[name]
    there = ("127.0.0.1", door.receiver.port)
    with caplog.at_level(logging.WARNING):
        for _ in range(50):
            with socket.create_connection(there, 30, source_address=(address, 0)) as connection:
                connection.sendall(wire.request(calling, called))
                kind, content = wire.received(connection)
            assert kind == wire.ASSOCIATE_RJ
            # permanent, by the service user, calling or called title not recognised (PS3.8 9.3.4)
            assert content[1:] == bytes([1, 1, reason])
    eventually(lambda: door.rules() == [rule])
    assert door.audited[0]["address"] == address
    assert len([r for r in caplog.records if "association refused" in r.message]) == 1


def test_w10_who_makes_up_titles_does_not_fill_log_and_audit(door: Node) -> None:
    for number in range(200):
        with wire.connected(door.receiver.port) as connection:
            connection.sendall(wire.request(f"MADE-UP-{number}".encode()))
            assert wire.answer(connection) == wire.ASSOCIATE_RJ
    door.receiver.stop()  # all is told by then
    assert 0 < len(door.audited) <= 8
