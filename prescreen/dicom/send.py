"""The Storage SCU: one association, many objects, the bytes as they lie on the disk.

What is sent again is byte for byte what was sent before: where the peer takes an object in the
transfer syntax it is stored in, its data set is copied to the wire, never decoded.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_context, evt
from pynetdicom.association import Association
from pynetdicom.dsutils import encode
from pynetdicom.presentation import PresentationContext
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from prescreen.dicom.answers import Bounds, is_too_short, pass_over_cancels
from prescreen.dicom.entity import application_entity, cut, limit_blocking, look_less_often
from prescreen.dicom.requestor import (
    Context,
    Requestor,
    named,
    why_no_connection,
    why_no_handshake,
)
from prescreen.dicom.tls import calling
from prescreen.dicom.verdict import Verdict, is_stored, judge, meaning
from prescreen.errors import ContextRejected, PeerRefused, PeerUnavailable, StoreError
from prescreen.settings import Destination

__all__ = ["Sender", "Verdict", "context_of", "echo", "judge"]

#: VRs whose length has four bytes, of those that file meta information has (PS3.5 7.1.2).
_LONG = frozenset({b"OB", b"UN"})
_LONGEST_META = 1 << 16

UNCOMPRESSED = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))


def context_of(path: Path) -> Context:
    """SOP class and transfer syntax of a Part 10 file. StoreError where it is none."""
    with _said(path), path.open("rb") as file:
        return _object(file.read(_LONGEST_META)).context


@dataclass(frozen=True)
class _Object:
    """A Part 10 file as it is sent: what its meta information says, and where its data set is."""

    context: Context
    sop_instance_uid: str
    start: int


def _object(part10: bytes) -> _Object:
    """PS3.10 7.1: the preamble, DICM, and group 2 in Explicit VR Little Endian. ValueError."""
    if part10[128:132] != b"DICM":
        raise ValueError("is not a DICOM file")
    uids, at = {}, 132
    while part10[at : at + 2] == b"\x02\x00":
        number, vr, size = struct.unpack_from("<H2sH", part10, at + 2)
        head = 8
        if vr in _LONG:
            (size,), head = struct.unpack_from("<I", part10, at + 8), 12
        uids[number] = part10[at + head : at + head + size].decode("latin-1").strip(" \0")
        at += head + size
    sop_class, sop_instance_uid, syntax = (uids.get(n, "") for n in (0x0002, 0x0003, 0x0010))
    if not (sop_class and sop_instance_uid and syntax):
        raise ValueError("has no file meta information")
    return _Object((sop_class, syntax), sop_instance_uid, at)


@contextmanager
def _said(path: Path | None) -> Iterator[None]:
    """StoreError, with the file's path, of what cannot be read, or is no Part 10 file."""
    try:
        yield
    except OSError as error:
        ours = StoreError(f"{path}: cannot be read: {error.strerror}")
        ours.retryable = not isinstance(error, FileNotFoundError)  # it may pass
        raise ours from None
    except (ValueError, struct.error) as error:
        why = str(error) if type(error) is ValueError else "is not a DICOM file"
        raise StoreError(f"{path or 'the object'}: {why}") from None


def _read(part10: Path | bytes) -> tuple[bytes, _Object]:
    with _said(part10 if isinstance(part10, Path) else None):
        content = part10.read_bytes() if isinstance(part10, Path) else part10
        return content, _object(content)


def echo(destination: Destination, calling_ae_title: str) -> float:
    """Seconds that one association with a C-ECHO took (PS3.4 Annex A).

    PeerUnavailable where it cannot be had, ContextRejected where the peer takes associations but
    no C-ECHO, PeerRefused where it answers with a failure.
    """
    started = time.monotonic()
    link = Link(destination, calling_ae_title)
    link.open([build_context(Verification, list(UNCOMPRESSED))])
    try:
        if not link.accepted:
            raise ContextRejected(f"{link.who}: does not answer C-ECHO")
        status = link.exchange("C-ECHO", lambda association: association.send_c_echo())
        if status != 0x0000:
            raise PeerRefused(f"{link.who}: C-ECHO failed with 0x{status:04X}", status)
    finally:
        link.close()
    return time.monotonic() - started


class Sender:
    """Sends objects to one destination, over one association for as long as it lasts.

    Used by one thread. A destination's own `calling_ae_title` goes before the one given here.
    """

    def __init__(self, destination: Destination, calling_ae_title: str) -> None:
        self._link = Requestor(destination, calling_ae_title)
        self._proposed: set[Context] = set()
        self._usual: set[Context] = set()

    def open(self, contexts: Iterable[Context]) -> None:
        """Negotiate for objects of these classes in these transfer syntaxes.

        Each pair in a presentation context of its own, so that what the peer takes is known before
        anything is sent; beside an uncompressed syntax the other one. PeerUnavailable where there
        is no association. That a pair is rejected shows when an object of it is sent.
        """
        contexts = set(contexts)
        self.close()
        self._proposed = contexts
        offers = sorted({offer for pair in self._proposed for offer in _offers(pair)})
        self._link.open(offers)

    def ready(self, part10: Path | bytes) -> None:
        """Open the association for an object unless one stands: that may take a minute.

        What is asked between this and `send` is asked last. Raises as `send` does.
        """
        if not (self._proposed and self._link.is_open):
            self._ensure(_read(part10)[1].context)

    def send(self, part10: Path | bytes) -> int:
        """Send one object; returns the status with which the peer stored it (PS3.4 B.2.3).

        0x0000 or a warning, 0xBxxx. Opens the association where there is none, or where it was not
        negotiated for this object. A stored transfer syntax that the peer does not take is changed
        only between Explicit and Implicit VR Little Endian.

        ContextRejected where the peer takes no such object, PeerRefused (`judge` says what a status
        means) where it answers with a failure, PeerUnavailable where it does not answer: then
        whether it has the object is not known, and sending it again is safe. StoreError where the
        object cannot be read.
        """
        content, described = _read(part10)
        self._ensure(described.context)
        return self._judged(self._store(content, described), described.context)

    def close(self) -> None:
        """Release the association, if there is one; what the peer takes is asked anew."""
        self._proposed = set()
        self._link.close()

    def __enter__(self) -> Sender:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _ensure(self, context: Context) -> None:
        rejected_for_all = self._link.answered and not self._link.accepted
        if context in self._proposed and (self._link.is_open or rejected_for_all):
            return
        # what was sent to this peer before is likely to follow: one association for all of it
        self._usual.add(context)
        self.open(self._usual)

    def _store(self, part10: bytes, described: _Object) -> int:
        context, uid = described.context, described.sop_instance_uid
        if context in self._link.accepted:
            return self._link.store(context, uid, memoryview(part10)[described.start :])
        for offer in _offers(context):
            if offer in self._link.accepted:
                return self._link.store(offer, uid, _converted(part10, offer[1]))
        raise ContextRejected(
            f"{self._link.who}: accepts no objects of SOP class {context[0]} in transfer syntax "
            f"{context[1]}; let the peer accept it, or leave this kind of object out"
        )

    def _judged(self, status: int, context: Context) -> int:
        if is_stored(status):
            return status
        words = (
            f"{self._link.who}: refused an object of SOP class {context[0]} with status "
            f"0x{status:04X} ({meaning(status)}); the peer's log says why"
        )
        if status == 0x0122:
            raise ContextRejected(words, status)
        raise PeerRefused(words, status)


def _offers(context: Context) -> list[Context]:
    sop_class, syntax = context
    if syntax not in UNCOMPRESSED:
        return [context]
    return [(sop_class, other) for other in UNCOMPRESSED]


def _converted(part10: bytes, syntax: str) -> bytes:
    """The data set in the other of the two uncompressed transfer syntaxes."""
    encoded = encode(dcmread(BytesIO(part10)), syntax == ImplicitVRLittleEndian, True)
    if encoded is None:
        raise StoreError("the object cannot be encoded in the transfer syntax that the peer takes")
    return encoded


class Link:
    """One association as requestor, and words for every way in which it fails.

    `handlers` are bound beside its own: for what the peer may send on it. SettingsError where the
    certificate for it cannot be used.
    """

    def __init__(
        self,
        destination: Destination,
        calling_ae_title: str,
        handlers: Sequence[tuple[Any, ...]] = (),
    ) -> None:
        self._destination = destination
        self._calling = destination.calling_ae_title or calling_ae_title
        self._handlers = handlers
        self._tls = None if destination.tls is None else calling(destination.tls, destination.host)
        self._association: Association | None = None
        self._connected = False
        self._bounds = Bounds(destination.network_timeout)
        #: The peer took the last association, with whatever contexts.
        self.answered = False
        #: SOP class and transfer syntax of what it accepted.
        self.accepted: frozenset[Context] = frozenset()

    @property
    def who(self) -> str:
        """The peer, as error texts name it."""
        return named(self._destination, self._calling)

    @property
    def is_open(self) -> bool:
        return self._association is not None and self._association.is_established

    def open(self, contexts: list[PresentationContext]) -> None:
        """Connect and negotiate; PeerUnavailable says in which of the two it failed."""
        self.close()
        self._connected, self.answered, self.accepted = False, False, frozenset()
        started = time.monotonic()
        self._association = association = self._associate(contexts)
        if not association.is_established and not self.answered:
            why = self._why_none(association, time.monotonic() - started)
            self._dispose()
            raise PeerUnavailable(f"{self.who}: {why}")
        if is_too_short(association):
            self._dispose()
            raise PeerUnavailable(
                f"{self.who}: takes PDUs of {association.acceptor.maximum_length} bytes at most; "
                "let it take 16384"
            )
        self.accepted = frozenset(
            (str(context.abstract_syntax), str(context.transfer_syntax[0]))
            for context in association.accepted_contexts
        )

    def exchange(self, request: str, send: Callable[[Association], Dataset]) -> int:
        """Send one request, return the status of its answer; PeerUnavailable where none comes."""
        association, started = self._association, time.monotonic()
        limit = self._destination.dimse_timeout
        # The abort at the library's timeout waits behind what is still to be written; a peer that
        # reads a byte at a time is cut off by us.
        guard = threading.Timer(limit + 1, self._cut)
        guard.daemon = True
        guard.start()
        self._bounds.begin()
        answer = Dataset()
        try:
            if association is not None and association.is_established:
                answer = send(association)
        except (RuntimeError, AttributeError):
            pass  # lost between the question and the send, or no answer at all: as any loss
        finally:
            guard.cancel()
        if "Status" in answer:
            return int(answer.Status)
        self._dispose()
        if time.monotonic() - started >= limit:
            raise PeerUnavailable(f"{self.who}: no answer to {request} within {limit:g} s")
        raise PeerUnavailable(
            f"{self.who}: the association was lost during {request}: the peer aborted it or closed "
            "the connection"
        )

    def close(self) -> None:
        """Release the association and close the connection."""
        if self._association is not None and self._association.is_established:
            self._association.release()
        self._dispose()

    def _associate(self, contexts: list[PresentationContext]) -> Association:
        to = self._destination
        entity = application_entity(
            self._calling,
            acse_timeout=to.acse_timeout,
            dimse_timeout=to.dimse_timeout,
            network_timeout=to.network_timeout,
        )
        try:
            self._bounds.begin()
            return entity.associate(
                to.host,
                to.port,
                contexts=contexts,
                ae_title=to.ae_title,
                tls_args=None if self._tls is None else (self._tls(), to.host),
                evt_handlers=[
                    (evt.EVT_CONN_OPEN, limit_blocking, [to.network_timeout]),
                    (evt.EVT_CONN_OPEN, self._bounds.apply),
                    (evt.EVT_DIMSE_RECV, pass_over_cancels),
                    (evt.EVT_CONN_OPEN, look_less_often),
                    (evt.EVT_CONN_OPEN, self._was_connected),
                    (evt.EVT_ACCEPTED, self._was_answered),
                    *self._handlers,
                ],
            )
        except OSError as error:
            reason = error.strerror or str(error)
            raise PeerUnavailable(f"{self.who}: cannot connect: {reason}") from None

    def _was_connected(self, event: evt.Event) -> None:
        self._connected = True

    def _was_answered(self, event: evt.Event) -> None:
        self.answered = True

    def _why_none(self, association: Association, seconds: float) -> str:
        limit = self._destination.acse_timeout
        if not self._connected:
            context = None if self._tls is None else self._tls()
            return f"cannot connect: {_unreachable(self._destination, limit, context)}"
        answer = association.acceptor.primitive
        if association.is_rejected and answer is not None:
            return (
                f"the association was rejected ({answer.result_str.lower()}: "
                f"{answer.reason_str.lower()}); the peer must know our AE title {self._calling} "
                f"and call itself {self._destination.ae_title}"
            )
        if seconds >= limit:
            return f"no answer to the association request within {limit:g} s"
        words = "the association request was aborted, or the connection closed, by the peer"
        return words if self._tls is None else f"{words}; does it accept our certificate?"

    def _cut(self) -> None:
        if self._association is not None:
            cut(self._association)

    def _dispose(self) -> None:
        association, self._association = self._association, None
        if association is None:
            return
        if association.dul.is_alive():
            association.abort()
        connection = association.dul.socket
        if connection is not None and connection.socket is not None:
            connection.socket.close()


def _unreachable(destination: Destination, seconds: float, tls: ssl.SSLContext | None) -> str:
    """Ask once more, for the words: the library keeps the system's answer to itself."""
    address = (destination.host, destination.port)
    try:
        with socket.create_connection(address, timeout=min(seconds, 3.0)) as connection:
            if tls is not None:
                return _unshaken(connection, tls, destination.host)
    except OSError as error:
        return why_no_connection(error, seconds)
    return "the connection was not taken, though the port answers now"


def _unshaken(connection: socket.socket, tls: ssl.SSLContext, host: str) -> str:
    try:
        tls.wrap_socket(connection, server_hostname=host).close()
    except OSError as error:
        return why_no_handshake(error)
    return "the connection was not taken, though the port answers now"
