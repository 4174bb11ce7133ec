"""Rows W1 to W7 of the fault matrix: what hostile peers do at the door, two hundred at a time.

While they hang on, DCMTK's echoscu is answered and its storescu can store; when they are gone, or
were sent away, the receiver has as many threads and descriptors as before, and hardly more memory.
It runs in a process of its own, for only so are these its own.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.peers import hostile, wire
from tests.peers.certificates import Files
from tests.peers.dcmtk import eventually, write_radiograph
from tests.peers.door import Node
from tests.peers.hostile import Act, Crowd, Target

MANY = 200
#: Nobody of a peer waits for longer than this to have done what it came for.
LONG = 60


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("certificates"))
    yield node
    node.close()


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_radiograph(tmp_path_factory.mktemp("sent") / "a.dcm")


def withstood(node: Node, act: Act, sent: Path, *, tls: bool = False) -> None:
    """Let two hundred at it; then ask, store, and wait until all is as it was."""
    target = Target(node.tls_port if tls else node.port, tls=tls)
    with Crowd(act, target, MANY) as crowd:
        assert crowd.wait(LONG)
        assert node.echo()
        assert node.echo_by_tls()
        assert node.store(sent)
        assert node.threads() <= node.at_rest[0] + 2 * 25 + 4  # two for each association
        # they hang on until they are sent away
        eventually(node.is_at_rest, LONG)
    assert node.grown() < 32


def test_w1_silent_connections(node: Node, sent: Path) -> None:
    withstood(node, hostile.silent, sent)
    assert "no_request" in node.rules()


def test_w2_stalled_in_the_middle_of_a_pdu(node: Node, sent: Path) -> None:
    withstood(node, hostile.stalled_in_request, sent)


def test_w2_stalled_in_the_middle_of_an_object(node: Node, sent: Path) -> None:
    withstood(node, hostile.stalled_in_object, sent)
    assert {"pdu_deadline", "max_associations_per_peer"} <= node.rules()


def test_w2_a_byte_at_a_time(node: Node, sent: Path) -> None:
    withstood(node, hostile.byte_by_byte, sent)


LENGTHS = [0xFFFFFFFF, 0, 1, 5, 1 << 20]


@pytest.mark.parametrize("length", LENGTHS)
def test_w3_impossible_lengths_before_an_association(node: Node, sent: Path, length: int) -> None:
    withstood(node, hostile.announced(length), sent)


@pytest.mark.parametrize("length", LENGTHS)
def test_w3_impossible_lengths_within_an_association(node: Node, sent: Path, length: int) -> None:
    withstood(node, hostile.announced_inside(length), sent)


def test_w3_who_breaks_the_protocol_again_and_again_is_let_in_once_in_a_while(
    node: Node, sent: Path
) -> None:
    breaking = hostile.announced_inside(0xFFFFFFFF, 1_000)
    with Crowd(breaking, Target(node.port), MANY, again=0.2) as crowd:
        eventually(lambda: "too_many_violations" in node.rules(), LONG)
        assert node.echo()
        assert node.store(sent)
        assert crowd.sent_away > 0
    eventually(node.is_at_rest, LONG)


def test_w4_noise(node: Node, sent: Path) -> None:
    withstood(node, hostile.noise, sent)
    withstood(node, hostile.noise, sent, tls=True)
    assert {"not_dicom", "tls"} <= node.rules()


@pytest.mark.soak
def test_w4_noise_ten_thousand_times(node: Node, sent: Path) -> None:
    for turn in range(50):
        with Crowd(hostile.noise, Target(node.port), MANY, first=turn * MANY) as crowd:
            assert crowd.wait(LONG)
        assert node.echo()
    withstood(node, hostile.noise, sent)


def test_w5_silent_connections(node: Node, sent: Path) -> None:
    withstood(node, hostile.silent, sent, tls=True)


def test_w5_half_shaken_hands(node: Node, sent: Path) -> None:
    withstood(node, hostile.half_a_handshake, sent, tls=True)


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


def test_w6_associated_and_idle(node: Node, sent: Path) -> None:
    withstood(node, hostile.idle, sent)
    assert "max_associations_per_peer" in node.rules()


def test_w6_two_peers_that_take_all_places_keep_nobody_else_out(node: Node, sent: Path) -> None:
    accomplice = Target(node.port, calling=b"ACCOMPLICE")
    with Crowd(hostile.idle, accomplice, MANY) as crowd:
        assert crowd.wait(LONG)
        withstood(node, hostile.idle, sent)
    assert "max_associations" in node.rules()


def test_w6_every_context_there_can_be(node: Node, sent: Path) -> None:
    withstood(node, hostile.every_context, sent)


def test_w6_much_user_information(node: Node, sent: Path) -> None:
    withstood(node, hostile.much_user_information, sent)


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
    with wire.associated(node.port, b"ACCOMPLICE") as connection:
        connection.sendall(wire.pdu(wire.P_DATA, SEQUENCES[name]))
        assert wire.answer(connection) in (wire.ABORT, 0)
    assert node.echo()


def test_w7_an_object_without_end_is_cut_off(node: Node) -> None:
    endless = wire.pdu(wire.P_DATA, wire.pdv(bytes(100_000), 0))
    with wire.associated(node.port, b"ACCOMPLICE") as connection:
        connection.sendall(wire.pdu(wire.P_DATA, COMMAND))
        with pytest.raises(OSError):
            for _ in range(10_000):
                connection.sendall(endless)
    assert node.echo()
    eventually(node.is_at_rest, 60)
    assert node.grown() < 32


def test_w7_a_byte_in_each_value(node: Node) -> None:
    ones = wire.pdu(wire.P_DATA, wire.pdv(b"x", 0) * 15_000)
    with wire.associated(node.port, b"ACCOMPLICE") as connection:
        connection.sendall(wire.pdu(wire.P_DATA, COMMAND))
        connection.sendall(ones * 4)
        assert node.echo()
        connection.shutdown(socket.SHUT_RDWR)
    eventually(node.is_at_rest, 60)


def test_refusals_are_told_once_a_kind(node: Node) -> None:
    told = [tuple(detail.values())[:4] for kind, detail in filter(None, node.audited)]
    assert len(told) < 100
