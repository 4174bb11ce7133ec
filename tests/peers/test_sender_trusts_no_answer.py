"""A peer may answer anything: the sender says that it is unavailable, in time, and goes on."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from prescreen.dicom.requestor import Requestor
from prescreen.dicom.send import Sender
from prescreen.errors import PeerUnavailable
from tests.peers.dcmtk import storescp, write_radiograph
from tests.peers.test_sender_delivers_to_dcmtk import association_accept, destination

_CONTEXT = (str(ComputedRadiographyImageStorage), str(ExplicitVRLittleEndian))
_ACCEPT = association_accept(ExplicitVRLittleEndian)


def _p_data(content: bytes, control: int = 3) -> bytes:
    size = len(content)
    return struct.pack(">BxIIBB", 4, size + 6, size + 2, 1, control) + content


def _response(**words: int) -> bytes:
    told = {"field": 0x8001, "answers": 1, "data_set": 0x0101, "status": 0, **words}
    numbers = {"field": 0x0100, "answers": 0x0120, "data_set": 0x0800, "status": 0x0900}
    elements = [struct.pack("<HHIH", 0, numbers[name], 2, word) for name, word in told.items()]
    content = b"".join(elements)
    return _p_data(struct.pack("<HHII", 0, 0, 4, len(content)) + content)


@contextmanager
def _answering(*answers: bytes) -> Iterator[int]:
    """A peer that answers the association request and each request with these bytes."""

    def speak() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(5)
            for answer in answers:
                connection.recv(1 << 20)
                connection.sendall(answer)
            done.wait(120)

    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=speak, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            done.set()
            thread.join(120)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\2\0\xff\xff\xff\xff",  # four gigabytes of acceptance
        _ACCEPT[:74] + b"\x21\0\xff\xff" + _ACCEPT[78:],  # an item longer than the PDU
        b"\4\0\0\0\0\0",
        b"\7\0\0\0\0\4\0\0\2\0",
    ],
)
def test_an_impossible_answer_to_the_request_is_unavailable(answer: bytes) -> None:
    with _answering(answer) as port, pytest.raises(PeerUnavailable, match="aborted, or the conn"):
        Requestor(destination(port), "NODE").open([_CONTEXT])


def test_pdus_too_short_to_send_anything_in_are_named() -> None:
    short = _ACCEPT.replace((16384).to_bytes(4, "big"), (100).to_bytes(4, "big"))
    with _answering(short) as port, pytest.raises(PeerUnavailable, match="of 100 bytes at most"):
        Requestor(destination(port), "NODE").open([_CONTEXT])


def test_a_rejection_without_a_known_reason_is_still_one() -> None:
    rejection = b"\3\0\0\0\0\4\0\x63\x63\x63"
    with _answering(rejection) as port, pytest.raises(PeerUnavailable, match="was rejected"):
        Requestor(destination(port), "NODE").open([_CONTEXT])


@pytest.mark.parametrize(
    "answer",
    [
        _response(answers=2),  # to another request
        _response(field=0x8030),  # of another service
        _response(data_set=0x0001),
        _p_data(b"\0" * 7),  # no command set
        _p_data(b"", control=0),  # a data set nobody asked for
        b"\4\0\0\0\0\6\0\0\0\x20\1\3",  # a value longer than its PDU
        b"\4\0\x7f\xff\xff\xff",
        b"\5\0\0\0\0\4\0\0\0\0",  # a release in place of an answer
    ],
)
def test_an_impossible_answer_to_an_object_is_unavailable(answer: bytes) -> None:
    with _answering(_ACCEPT, answer) as port:
        link = Requestor(destination(port), "NODE")
        link.open([("1.2.3", "1.2.840.10008.1.2"), _CONTEXT])
        assert list(link.accepted) == [_CONTEXT], "the other one was taken in another syntax"
        with pytest.raises(PeerUnavailable, match="lost during C-STORE"):
            link.store(_CONTEXT, "1.2.3.4", bytes(100))
        assert not link.is_open


def test_the_status_is_that_of_the_answer() -> None:
    with _answering(_ACCEPT, _response(status=0xB007)) as port:
        link = Requestor(destination(port), "NODE")
        link.open([("1.2.3", "1.2.840.10008.1.2"), _CONTEXT])
        assert link.store(_CONTEXT, "1.2.3.4", bytes(100)) == 0xB007
        link._drop()


def test_a_peer_that_releases_while_nothing_is_sent_is_called_again(tmp_path: Path) -> None:
    sent = write_radiograph(tmp_path / "a.dcm")
    with (
        storescp(tmp_path / "pacs", "+xa") as pacs,
        Sender(destination(pacs.port), "NODE") as sender,
    ):
        assert sender.send(sent) == 0x0000
        connection = sender._link._connection
        assert connection is not None
        connection.shutdown(socket.SHUT_RDWR)  # as a peer does that has waited long enough
        assert sender.send(sent) == 0x0000
