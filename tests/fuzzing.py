"""Where bytes of strangers come in, each as a function that may raise errors of ours alone.

The walk over a data set with all that reads behind it, the reader of PDUs and messages, the
settings, and the manifests of weights. `python -m tests.hunting TARGET` looks for bytes that break
one; what it finds belongs into tests/corpus/TARGET, whose files are tried in every run.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from pynetdicom import AE, build_context
from pynetdicom.association import Association
from pynetdicom.pdu import A_ASSOCIATE_RQ
from pynetdicom.sop_class import ComputedRadiographyImageStorage  # type: ignore[attr-defined]

from prescreen import settings
from prescreen.dicom.decode import read_image
from prescreen.dicom.image import header_of, identify, read_header
from prescreen.dicom.messages import InMemory, Limits, Messages
from prescreen.dicom.upper_layer import Provider
from prescreen.errors import PrescreenError, SettingsError, WeightsError
from prescreen.nets.weights import read_manifest
from prescreen.study import FloatArray
from tests.parcels import element, nested, with_element
from tests.pictures import data_set, part10, ramp

CORPUS = Path(__file__).parent / "corpus"
CANARY = "Canary"
WEIGHTS = Path(__file__).parents[1] / "weights"


def structure(content: bytes) -> None:
    """Part 10 bytes: received, asked for tags, decoded."""
    _tried(lambda: identify(content))
    with _file(content) as path:
        _tried(lambda: header_of(read_header(path)))
        _tried(lambda: read_image(path, 1, _small))


def _small(shape: tuple[int, int]) -> FloatArray:
    return np.empty(shape, np.float32)


def pdus(content: bytes) -> None:
    """What a peer sends once its association was accepted."""
    association, ours, theirs = _association()
    with ours, theirs:
        theirs.sendall(content[:65_536])
        theirs.shutdown(socket.SHUT_WR)
        provider = association.dul
        provider.socket = SimpleNamespace(socket=ours)
        for _ in range(10_000):  # a PDU has six bytes at least
            provider._read_pdu_data()
            if not provider.event_queue.empty():  # fragments make none
                break


def _association() -> tuple[Any, socket.socket, socket.socket]:
    """An association in the state of data transfer, and both ends of its connection."""
    association: Any = Association(AE("NODE"), "acceptor")
    context = build_context(ComputedRadiographyImageStorage)
    context.context_id = 1
    association._accepted_cx = {1: context}
    limits = Limits(pdu_seconds=1, longest_pdu=16_384, longest_data_set=32_768)
    messages = Messages(association, limits, InMemory, lambda rule: None)
    provider = Provider(association, messages, limits, A_ASSOCIATE_RQ(), lambda rule: None)
    provider._request = None
    provider.state_machine.current_state = "Sta6"
    association.dimse, association.dul = messages, provider
    ours, theirs = socket.socketpair()
    return association, ours, theirs


def toml(content: bytes) -> None:
    """A settings file."""
    with _file(content) as path:
        _tried(lambda: settings.load(path), SettingsError)


def manifest(content: bytes) -> None:
    """A manifest of weights."""
    with _file(content) as path:
        _tried(lambda: read_manifest(path), WeightsError)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "structure": structure,
    "pdus": pdus,
    "toml": toml,
    "manifest": manifest,
}


def _tried(look: Callable[[], object], allowed: type[PrescreenError] = PrescreenError) -> None:
    try:
        look()
    except allowed as error:
        assert CANARY not in str(error), "the text quotes the data"


@contextmanager
def _file(content: bytes) -> Iterator[Path]:
    folder = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(content)
        file.flush()
        yield Path(file.name)


def seeds(target: str) -> list[bytes]:
    """Something whole for each target to begin with."""
    if target == "structure":
        small = part10(data_set(ramp(32, 32)))
        return [
            small,
            part10(data_set(ramp(32, 32)), implicit=True),
            with_element(small, 0x00091010, nested(3)),
            with_element(small, 0x00091010, nested(3, defined=True)),
            with_element(small, 0x00091010, element(0x00091010, b"UN", b"abcd")),
        ]
    if target == "pdus":
        return [b"\x04\0\0\0\0\x08\0\0\0\x04\x01\x03\0\0", b"\x05\0\0\0\0\x04\0\0\0\0"]
    if target == "toml":
        return [(Path(__file__).parents[1] / "deploy" / "prescreen.toml").read_bytes()]
    return [path.read_bytes() for path in sorted(WEIGHTS.glob("*.json"))]


def corpus(target: str) -> list[Path]:
    """What once broke a target."""
    return sorted((CORPUS / target).glob("*"))
