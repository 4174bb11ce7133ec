"""The sender against storescp, and against peers that refuse, stall, or break off."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    ComputedRadiographyImageStorage,
    ExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, evt

from prescreen.dicom.send import Sender, context_of, echo
from prescreen.errors import ContextRejected, PeerRefused, PeerUnavailable, StoreError
from prescreen.settings import Destination
from tests.peers.dcmtk import data_set_of, free_port, run, storescp, write_radiograph

# Where a connection fails the library drops its socket unclosed; the interpreter closes it.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


def destination(port: int, **changes: Any) -> Destination:
    values: dict[str, Any] = {
        "name": "pacs",
        "ae_title": "PACS",
        "host": "127.0.0.1",
        "port": port,
        "acse_timeout": 5,
        "dimse_timeout": 5,
        "network_timeout": 5,
        **changes,
    }
    return Destination(**values)


@contextmanager
def scp(
    status: int | Callable[[Any], int] = 0x0000,
    sop_class: str = ComputedRadiographyImageStorage,
    syntaxes: tuple[str, ...] = (ExplicitVRLittleEndian,),
    **settings: Any,
) -> Iterator[int]:
    """A pynetdicom SCP that answers what DCMTK's cannot be made to; yields its port."""
    entity = AE("PACS")
    entity.add_supported_context(sop_class, list(syntaxes))
    for name, value in settings.items():
        setattr(entity, name, value)
    answer = status if callable(status) else lambda event: status
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)]
    )
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        entity.shutdown()


def test_what_arrives_is_byte_for_byte_what_lies_on_the_disk(tmp_path: Path) -> None:
    sent = tmp_path / "sent.dcm"  # with group lengths, which a decoder would lose
    run("dcmconv", "+g", write_radiograph(tmp_path / "a.dcm"), sent)
    with storescp(tmp_path / "pacs") as pacs, Sender(destination(pacs.port), "NODE") as sender:
        assert sender.send(sent) == 0x0000
        [stored] = pacs.files
        first = data_set_of(stored.read_bytes())
        stored.unlink()
        assert sender.send(sent) == 0x0000
        [stored] = pacs.files
    assert first == data_set_of(stored.read_bytes()) == data_set_of(sent.read_bytes())


def test_bytes_in_memory_arrive_the_same(tmp_path: Path) -> None:
    part10 = write_radiograph(tmp_path / "a.dcm").read_bytes()
    with storescp(tmp_path / "pacs") as pacs, Sender(destination(pacs.port), "NODE") as sender:
        assert sender.send(part10) == 0x0000
        [stored] = pacs.files
    assert data_set_of(stored.read_bytes()) == data_set_of(part10)


def test_many_objects_of_several_classes_go_over_one_association(tmp_path: Path) -> None:
    sent = [write_radiograph(tmp_path / f"{number}.dcm") for number in range(5)]
    sent.append(write_radiograph(tmp_path / "c.dcm", sop_class_uid=SecondaryCaptureImageStorage))
    associations: list[int] = []
    with storescp(tmp_path / "pacs") as pacs, Sender(destination(pacs.port), "NODE") as sender:
        sender.open({context_of(path) for path in sent})
        for path in sent:
            assert sender.send(path) == 0x0000
            associations.append(id(sender._link._connection))
        assert len(pacs.files) == 6
    assert len(set(associations)) == 1


def test_what_is_made_ready_goes_over_the_association_that_was_opened_for_it(
    tmp_path: Path,
) -> None:
    with storescp(tmp_path / "pacs") as pacs, Sender(destination(pacs.port), "NODE") as sender:
        for number in range(2):
            file = write_radiograph(tmp_path / f"{number}.dcm")
            sender.ready(file)
            assert sender._link.is_open
            standing = sender._link._connection
            assert sender.send(file) == 0x0000
            assert sender._link._connection is standing
        assert len(pacs.files) == 2


def test_making_ready_for_a_peer_that_is_away_says_so(tmp_path: Path) -> None:
    file = write_radiograph(tmp_path / "a.dcm")
    with Sender(destination(free_port()), "NODE") as sender, pytest.raises(PeerUnavailable):
        sender.ready(file)


def test_rle_arrives_as_rle(tmp_path: Path) -> None:
    plain = write_radiograph(tmp_path / "plain.dcm", bits=8)
    assert run("dcmcrle", plain, tmp_path / "rle.dcm").returncode == 0
    with storescp(tmp_path / "pacs", "+xa") as pacs:
        with Sender(destination(pacs.port), "NODE") as sender:
            assert sender.send(tmp_path / "rle.dcm") == 0x0000
        [stored] = pacs.files
    assert data_set_of(stored.read_bytes()) == data_set_of((tmp_path / "rle.dcm").read_bytes())


def test_a_peer_that_takes_implicit_only_gets_implicit(tmp_path: Path) -> None:
    sent = write_radiograph(tmp_path / "a.dcm")
    with storescp(tmp_path / "pacs", "+xi") as pacs:
        with Sender(destination(pacs.port), "NODE") as sender:
            assert sender.send(sent) == 0x0000
        [stored] = pacs.files
    received, original = dcmread(stored), dcmread(sent)
    assert received.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert received == original


def test_a_class_the_peer_does_not_take_is_a_rejected_context(tmp_path: Path) -> None:
    report = write_radiograph(tmp_path / "sr.dcm", sop_class_uid=Comprehensive3DSRStorage)
    image = write_radiograph(tmp_path / "cr.dcm")
    with scp() as port, Sender(destination(port), "NODE") as sender:
        sender.open({context_of(report), context_of(image)})
        with pytest.raises(ContextRejected, match=Comprehensive3DSRStorage) as rejected:
            sender.send(report)
        assert rejected.value.status == 0x0122
        assert sender.send(image) == 0x0000  # the association goes on


def test_a_peer_that_takes_nothing_of_it_is_a_rejected_context(tmp_path: Path) -> None:
    report = write_radiograph(tmp_path / "sr.dcm", sop_class_uid=Comprehensive3DSRStorage)
    image = write_radiograph(tmp_path / "cr.dcm")
    with scp() as port, Sender(destination(port), "NODE") as sender:
        with pytest.raises(ContextRejected, match="let the peer accept it"):
            sender.send(report)
        assert sender.send(image) == 0x0000  # negotiated anew for a class it takes


def test_a_compressed_object_is_not_transcoded_behind_our_back(tmp_path: Path) -> None:
    plain = write_radiograph(tmp_path / "plain.dcm", bits=8)
    assert run("dcmcrle", plain, tmp_path / "rle.dcm").returncode == 0
    with (
        scp() as port,
        Sender(destination(port), "NODE") as sender,
        pytest.raises(ContextRejected, match=RLELossless),
    ):
        sender.send(tmp_path / "rle.dcm")


@pytest.mark.parametrize("status", [0xB000, 0xB006, 0xB007])
def test_a_warning_is_stored(tmp_path: Path, status: int) -> None:
    sent = write_radiograph(tmp_path / "a.dcm")
    with scp(status) as port, Sender(destination(port), "NODE") as sender:
        assert sender.send(sent) == status


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0xA700, r"0xA700 \(out of resources\)"),
        (0xA900, r"0xA900 \(data set does not match SOP class\)"),
        (0xC000, r"0xC000 \(cannot understand\)"),
        (0x0110, r"0x0110 \(processing failure\)"),
        (0x0124, r"0x0124 \(not authorised\)"),
    ],
)
def test_a_failure_is_said_with_its_status(tmp_path: Path, status: int, words: str) -> None:
    sent = write_radiograph(tmp_path / "a.dcm")
    with (
        scp(status) as port,
        Sender(destination(port), "NODE") as sender,
        pytest.raises(PeerRefused, match=words) as refused,
    ):
        sender.send(sent)
    assert refused.value.status == status
    assert not isinstance(refused.value, ContextRejected)


def test_class_not_supported_counts_as_a_rejected_context(tmp_path: Path) -> None:
    sent = write_radiograph(tmp_path / "a.dcm")
    with (
        scp(0x0122) as port,
        Sender(destination(port), "NODE") as sender,
        pytest.raises(ContextRejected),
    ):
        sender.send(sent)


def test_nobody_there_is_unavailable() -> None:
    port = free_port()
    with pytest.raises(
        PeerUnavailable,
        match=rf"pacs \(NODE to PACS at 127\.0\.0\.1:{port}\): cannot connect: connection refused",
    ):
        Sender(destination(port), "NODE").open([(ComputedRadiographyImageStorage, RLELossless)])


def test_a_name_nobody_knows_is_unavailable() -> None:
    with pytest.raises(PeerUnavailable, match="cannot connect: "):
        echo(destination(104, host="pacs.invalid"), "NODE")


def test_a_rejected_association_says_what_to_configure() -> None:
    with (
        scp(require_calling_aet=["OTHER"]) as port,
        pytest.raises(
            PeerUnavailable,
            match=r"rejected .*calling ae title not recognised.*must know our AE title NODE",
        ),
    ):
        echo(destination(port), "NODE")


def test_the_destinations_own_calling_title_goes_first(tmp_path: Path) -> None:
    sent = write_radiograph(tmp_path / "a.dcm")
    with (
        scp(require_calling_aet=["SPECIAL"]) as port,
        Sender(destination(port, calling_ae_title="SPECIAL"), "NODE") as sender,
    ):
        assert sender.send(sent) == 0x0000


def test_a_peer_killed_between_two_objects_is_unavailable_and_back_when_it_is_back(
    tmp_path: Path,
) -> None:
    sent = write_radiograph(tmp_path / "a.dcm")
    with storescp(tmp_path / "pacs") as pacs, Sender(destination(pacs.port), "NODE") as sender:
        assert sender.send(sent) == 0x0000
        pacs.kill()
        with pytest.raises(PeerUnavailable):
            sender.send(sent)
        with storescp(tmp_path / "pacs", port=pacs.port):
            assert sender.send(sent) == 0x0000


def test_a_peer_that_dies_in_the_middle_is_unavailable(tmp_path: Path) -> None:
    def die(event: Any) -> int:
        event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        return 0x0000

    sent = write_radiograph(tmp_path / "a.dcm")
    with (
        scp(die) as port,
        Sender(destination(port), "NODE") as sender,
        pytest.raises(PeerUnavailable, match="lost during C-STORE"),
    ):
        sender.send(sent)


def test_a_peer_that_aborts_is_unavailable(tmp_path: Path) -> None:
    def abort(event: Any) -> int:
        event.assoc.abort()
        return 0x0000

    sent = write_radiograph(tmp_path / "a.dcm")
    with (
        scp(abort) as port,
        Sender(destination(port), "NODE") as sender,
        pytest.raises(PeerUnavailable, match="the peer aborted it"),
    ):
        sender.send(sent)


def test_a_peer_that_never_answers_is_unavailable_after_the_timeout(tmp_path: Path) -> None:
    release = threading.Event()

    def wait(event: Any) -> int:
        release.wait(20)
        return 0x0000

    sent = write_radiograph(tmp_path / "a.dcm")
    with scp(wait) as port, Sender(destination(port, dimse_timeout=1), "NODE") as sender:
        with pytest.raises(PeerUnavailable, match="no answer to C-STORE within 1 s"):
            sender.send(sent)
        release.set()


@contextmanager
def silent_listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_that_says_nothing_is_unavailable_after_the_timeout() -> None:
    with (
        silent_listener() as port,
        pytest.raises(PeerUnavailable, match="no answer to the association request within 1"),
    ):
        echo(destination(port, acse_timeout=1), "NODE")


def test_a_peer_that_stops_reading_does_not_hold_the_sender(tmp_path: Path) -> None:
    """It takes the association, then reads nothing more: our writes block in the kernel."""
    sent = write_radiograph(tmp_path / "a.dcm", size=3000)  # more than the socket buffers hold
    done = threading.Event()

    def accept_then_stop(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(association_accept(ExplicitVRLittleEndian))
            done.wait(120)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = threading.Thread(target=accept_then_stop, args=[listener], daemon=True)
        peer.start()
        to = destination(listener.getsockname()[1], dimse_timeout=1, network_timeout=300)
        with Sender(to, "NODE") as sender, pytest.raises(PeerUnavailable, match="within 1 s"):
            sender.send(sent)
        assert peer.is_alive()
        done.set()
        peer.join()


def association_accept(syntax: str) -> bytes:
    """An A-ASSOCIATE-AC that takes contexts 1 and 3, whatever was asked (PS3.8 9.3.3)."""

    def item(kind: int, value: bytes) -> bytes:
        return bytes([kind, 0]) + len(value).to_bytes(2, "big") + value

    contexts = b"".join(
        item(0x21, bytes([number, 0, 0, 0]) + item(0x40, syntax.encode())) for number in (1, 3)
    )
    user = item(0x50, item(0x51, (16384).to_bytes(4, "big")) + item(0x52, b"1.2.3"))
    body = b"\0\1\0\0" + b"PACS".ljust(16) + b"NODE".ljust(16) + bytes(32)
    body += item(0x10, b"1.2.840.10008.3.1.1.1") + contexts + user
    return b"\2\0" + len(body).to_bytes(4, "big") + body


def test_a_file_that_is_none_is_said_by_its_path(tmp_path: Path) -> None:
    sender = Sender(destination(free_port()), "NODE")
    with pytest.raises(StoreError, match=r"gone\.dcm: cannot be read"):
        sender.send(tmp_path / "gone.dcm")
    (tmp_path / "text.dcm").write_text("no DICOM " * 100)
    with pytest.raises(StoreError, match=r"text\.dcm"):
        sender.send(tmp_path / "text.dcm")


def test_echo_takes_seconds_to_storescp(tmp_path: Path) -> None:
    with storescp(tmp_path / "pacs") as pacs:
        assert 0 < echo(destination(pacs.port), "NODE") < 5


def test_a_peer_without_c_echo_says_so() -> None:
    with scp() as port, pytest.raises(ContextRejected, match="does not answer C-ECHO"):
        echo(destination(port), "NODE")
