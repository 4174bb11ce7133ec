"""Requests that the library below us has no answer for: they cost no thread, and stop no end."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from prescreen import settings
from prescreen.dicom.receive import Receiver
from prescreen.study import Promise
from tests.peers import wire
from tests.peers.dcmtk import eventually, free_port, run

PUSH_MODEL = b"1.2.840.10008.1.20.1"
STORE, EVENT_REPORT, CANCEL = 0x0001, 0x0100, 0x0FFF


class Node:
    """A receiver that lets ATTACKER in; a promise is taken down when `noting` lets it."""

    def __init__(self) -> None:
        peers = (settings.Peer(ae_title="ATTACKER"),)
        receive = settings.Receive(ae_title="NODE", port=free_port(), peers=peers)
        self.rules: list[str] = []
        self.noting = threading.Event()
        self.noted = self.most = 0
        self.receiver = Receiver(receive, lambda incoming: None, self._audit, promised=self._note)

    def _audit(self, kind: str, detail: dict[str, Any]) -> None:
        self.rules.append(str(detail.get("rule")))

    def _note(self, promise: Promise) -> bool:
        self.noted += 1
        self.most = max(self.most, self.noted)
        self.noting.wait(20)
        self.noted -= 1
        return True

    def echo(self) -> bool:
        port = str(self.receiver.port)
        return run("echoscu", "-aet", "ATTACKER", "-aec", "NODE", "127.0.0.1", port).returncode == 0


@pytest.fixture
def node() -> Iterator[Node]:
    node, before = Node(), threading.active_count()
    with node.receiver:
        yield node
        node.noting.set()
    # ending it waits for every thread of every association
    eventually(lambda: threading.active_count() <= before)


def command(field: int, sop_class: bytes = b"", **elements: bytes) -> bytes:
    """A command set; the elements by their number as four hexadecimal digits after an x."""
    content = {0x0002: sop_class + bytes(len(sop_class) % 2)} if sop_class else {}
    content[0x0100] = struct.pack("<H", field)
    content |= {int(name[1:], 16): value for name, value in elements.items()}
    encoded = b"".join(
        struct.pack("<HHI", 0, tag, len(value)) + value for tag, value in sorted(content.items())
    )
    return struct.pack("<HHII", 0, 0, 4, len(encoded)) + encoded


def cancel(number: int) -> bytes:
    return command(CANCEL, x0120=struct.pack("<H", number), x0800=b"\x01\x01")


def event_report(number: int) -> bytes:
    return command(
        EVENT_REPORT,
        PUSH_MODEL,
        x0110=struct.pack("<H", number),
        x0800=b"\x00\x00",
        x1000=b"1.2.840.10008.1.20.1.1",
        x1002=b"\x01\x00",
    )


def all_kept() -> bytes:
    """Event Information in Implicit VR Little Endian: a Transaction UID, and nothing."""
    uid = b"1.2.3.40"
    return struct.pack("<HHI", 0x0008, 0x1195, len(uid)) + uid


def message(control_set: bytes, data_set: bytes | None = None) -> bytes:
    values = [wire.pdv(control_set, 3)]
    if data_set is not None:
        values.append(wire.pdv(data_set, 2))
    return wire.pdu(4, b"".join(values))


def test_any_number_of_cancels_is_passed_over(node: Node) -> None:
    with wire.associated(node.receiver.port, b"ATTACKER") as connection:
        connection.sendall(b"".join(message(cancel(number)) for number in range(40)))
        connection.sendall(message(wire.store_request(), b"\x08\x00\x16\x00\0\0\0\0"))
        assert wire.answer(connection) == wire.P_DATA
    assert node.echo()
    assert node.rules == []


def test_reports_of_events_never_take_more_than_a_few_threads(node: Node) -> None:
    role = wire.item(0x54, struct.pack(">H", len(PUSH_MODEL)) + PUSH_MODEL + b"\0\1")
    with wire.connected(node.receiver.port) as connection:
        connection.sendall(wire.request(b"ATTACKER", classes=[PUSH_MODEL], user=role))
        assert wire.answer(connection) == wire.ASSOCIATE_AC
        reports = (message(event_report(number), all_kept()) for number in range(60))
        connection.sendall(b"".join(reports))
        assert wire.answer(connection) == wire.ABORT
    eventually(lambda: "too_many_requests" in node.rules)
    assert 1 <= node.most <= 4
    assert node.echo()


def test_a_request_without_a_number_ends_the_association(node: Node) -> None:
    with wire.associated(node.receiver.port, b"ATTACKER") as connection:
        request = command(
            STORE, wire.CR, x0700=b"\0\0", x0800=b"\0\0", x1000=b"1.2.3\0"
        )  # no Message ID
        connection.sendall(message(request, b"\x08\x00\x16\x00\0\0\0\0"))
        assert wire.answer(connection) == wire.ABORT
    assert node.echo()
