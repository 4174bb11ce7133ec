"""Requests no honest peer sends, made by hand on pynetdicom: each gets its status, or an abort."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import (
    ComputedRadiographyImageStorage,
    CTImageStorage,
    ExplicitVRLittleEndian,
)
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.dimse_primitives import C_STORE

from prescreen import settings
from prescreen.dicom.receive import Receiver
from prescreen.errors import CannotUnderstand
from prescreen.study import Incoming
from tests.peers.dcmtk import data_set_of, eventually, free_port, run, write_radiograph

pytestmark = [
    # the attacker's own library, and ours, say that the UID is malformed
    pytest.mark.filterwarnings("ignore:Invalid value for VR UI:UserWarning"),
    pytest.mark.filterwarnings("ignore:The value length:UserWarning"),
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
]

CONTEXT = build_context(ComputedRadiographyImageStorage, ExplicitVRLittleEndian)


class Node:
    """A receiver that lets ATTACKER in, and what it kept."""

    def __init__(self, **changes: Any) -> None:
        values: dict[str, Any] = {
            "ae_title": "NODE",
            "port": free_port(),
            "peers": (settings.Peer(ae_title="ATTACKER"),),
            **changes,
        }
        self.kept: list[Incoming] = []
        self.audited: list[dict[str, Any]] = []
        self.receiver = Receiver(
            settings.Receive(**values), self._keep, lambda kind, detail: self.audited.append(detail)
        )

    def _keep(self, incoming: Incoming) -> None:
        if data_set_of(incoming.part10) == b"not a data set":
            raise CannotUnderstand("it does not parse")
        self.kept.append(incoming)

    @property
    def port(self) -> int:
        return self.receiver.port

    def echo(self) -> bool:
        said = run("echoscu", "-aet", "ATTACKER", "-aec", "NODE", "127.0.0.1", str(self.port))
        return said.returncode == 0


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    with node.receiver:
        yield node


@contextmanager
def associated(node: Node) -> Iterator[Association]:
    entity = AE("ATTACKER")
    entity.dimse_timeout = 5
    association = entity.associate("127.0.0.1", node.port, contexts=[CONTEXT], ae_title="NODE")
    assert association.is_established
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def store(
    association: Association,
    sop_instance_uid: str | None,
    data_set: bytes,
    sop_class_uid: str = ComputedRadiographyImageStorage,
) -> Any:
    """The answer to a request made of exactly this; None where the association ended instead."""
    request = C_STORE()
    request.MessageID = 7
    request.AffectedSOPClassUID = sop_class_uid
    request.AffectedSOPInstanceUID = sop_instance_uid
    request.Priority = 2
    request.DataSet = BytesIO(data_set)
    association._reactor_checkpoint.clear()
    while not association._is_paused:
        pass
    association.dimse.send_msg(request, 1)
    _, answer = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    return answer


@pytest.fixture
def data_set(tmp_path: Path) -> bytes:
    return data_set_of(write_radiograph(tmp_path / "a.dcm").read_bytes())


@pytest.mark.parametrize(
    "uid", ["../../etc/passwd", "/etc/passwd", "1.2.3/../../x", "1..2", "1.2.a", "1." + "2" * 70]
)
def test_a_malformed_uid_is_answered_before_anything_is_kept(
    node: Node, data_set: bytes, uid: str
) -> None:
    with associated(node) as association:
        answer = store(association, uid, data_set)
        assert answer is not None
        assert answer.Status == 0x0117
        assert answer.AffectedSOPInstanceUID is None
        assert node.kept == []
        answer = store(association, "1.2.3", data_set)  # the association goes on
        assert answer is not None
        assert answer.Status == 0x0000
    assert [incoming.sop_instance_uid for incoming in node.kept] == ["1.2.3"]


def test_components_with_leading_zeros_are_tolerated(node: Node, data_set: bytes) -> None:
    with associated(node) as association:
        answer = store(association, "1.2.03.4", data_set)
    assert answer is not None
    assert answer.Status == 0x0000


def test_a_request_without_an_instance_ends_the_association(node: Node, data_set: bytes) -> None:
    with associated(node) as association:
        answer = store(association, None, data_set)
        eventually(lambda: not association.is_established)
    assert answer is None
    assert node.kept == []
    assert node.echo()


def test_a_class_other_than_the_contexts_does_not_match(node: Node, data_set: bytes) -> None:
    with associated(node) as association:
        answer = store(association, "1.2.3", data_set, sop_class_uid=CTImageStorage)
    assert answer is not None
    assert answer.Status == 0xA900
    assert answer.ErrorComment == "Data set does not match the command"
    assert node.kept == []


def test_what_does_not_parse_is_not_understood(node: Node) -> None:
    with associated(node) as association:
        answer = store(association, "1.2.3", b"not a data set")
    assert answer is not None
    assert answer.Status == 0xC000


def test_bytes_are_kept_to_the_last_one(node: Node) -> None:
    odd = bytes(range(256)) * 4099 + b"odd"
    with associated(node) as association:
        store(association, "1.2.3", odd)
    assert data_set_of(node.kept[0].part10) == odd


def test_one_association_too_many_is_told_to_come_again(tmp_path: Path) -> None:
    node = Node(max_associations=1, peers=(settings.Peer(ae_title="ATTACKER"),))
    with node.receiver:
        with associated(node):
            said = run("echoscu", "-v", "-aet", "ATTACKER", "-aec", "NODE", "127.0.0.1",
                       str(node.port))  # fmt: skip
            assert "Rejected Transient" in said.stdout
            assert "Local Limit Exceeded" in said.stdout
            eventually(lambda: bool(node.audited))
            assert node.audited[0]["rule"] == "max_associations"
        eventually(node.echo)


def test_peers_that_stop_in_the_middle_of_a_pdu_are_let_go() -> None:
    node = Node(max_associations=2, network_timeout=1, acse_timeout=1)
    with node.receiver:
        stalled = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(4)]
        for connection in stalled:
            connection.sendall(b"\x01\x00\x00\x00\x10\x00")  # type and length, and no more
        eventually(node.echo, seconds=20)
        for connection in stalled:
            connection.close()


def test_a_peer_that_stops_in_the_middle_does_not_hold_the_end() -> None:
    node = Node(network_timeout=300, acse_timeout=1)
    node.receiver.start()
    with socket.create_connection(("127.0.0.1", node.port)) as stalled, associated(node):
        stalled.sendall(b"\x01\x00\x00\x00\x10\x00")
        stopping = threading.Thread(target=node.receiver.stop, kwargs={"grace": 1.0})
        stopping.start()
        stopping.join(20)
        assert not stopping.is_alive()
        eventually(lambda: not any("AcceptorThread" in t.name for t in threading.enumerate()))


def test_a_title_of_control_characters_reaches_neither_log_nor_audit(
    node: Node, caplog: pytest.LogCaptureFixture
) -> None:
    title = b"A\x1b[2J\nB".ljust(16)
    user_information = b"\x50\x00\x00\x08\x51\x00\x00\x04\x00\x01\x00\x00"
    items = b"\x10\x00\x00\x151.2.840.10008.3.1.1.1" + user_information
    body = b"\x00\x01\x00\x00" + b"NODE".ljust(16) + title + bytes(32) + items
    with socket.create_connection(("127.0.0.1", node.port), timeout=60) as connection:
        connection.sendall(b"\x01\x00" + len(body).to_bytes(4, "big") + body)
        assert connection.recv(1) in (b"\x03", b"\x07", b"")  # rejected, aborted or closed
    assert "\x1b" not in caplog.text
    assert "\x1b" not in str(node.audited)
    assert node.echo()
