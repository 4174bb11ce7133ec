"""Audit messages of PS3.15 A.5 for an audit record repository, made from the rows of the audit.

A reader of events by their last number: the node does not know it. RFC 5424 frames go out over UDP
(RFC 5426) or TLS (RFC 5425, octet counting). How far it has come stands in the database and moves
after the repository's connection took the page, so that over TLS every event is sent at least once;
UDP promises nothing. No message carries a patient's name or id: the events have none.
"""

from __future__ import annotations

import datetime
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from xml.etree import ElementTree

from sqlalchemy import Engine, insert, select, update

from prescreen.errors import PeerUnavailable
from prescreen.settings import Syslog
from prescreen.store import audit
from prescreen.store import schema as t
from prescreen.store.database import reading, writing
from prescreen.study import Event

_POSITION = "syslog.last"
#: Facility 10 (security), severity 5 (notice), as A.6 wants it.
_PRIORITY = 10 * 8 + 5
_PAGE = 500


@dataclass(frozen=True)
class _Code:
    value: str
    meaning: str
    scheme: str = "DCM"


_START = _Code("110120", "Application Start")
_STOP = _Code("110121", "Application Stop")
_ACTIVITY = _Code("110100", "Application Activity")
_TRANSFERRED = _Code("110104", "DICOM Instances Transferred")
_DELETED = _Code("110105", "DICOM Study Deleted")
_ALERT = _Code("110113", "Security Alert")
_NODE_AUTHENTICATION = _Code("110126", "Node Authentication")
_CONFIGURATION = _Code("110131", "Software Configuration")
_OBJECT_ALTERED = _Code("110135", "Object Security Attributes Changed")
_APPLICATION = _Code("110150", "Application")
_DESTINATION = _Code("110152", "Destination Role ID")
_SOURCE = _Code("110153", "Source Role ID")
_STUDY = _Code("110180", "Study Instance UID")

#: Event kind -> event, action (A.5.2), outcome (0 success, 4 minor failure, 8 serious), type.
_EVENTS: dict[str, tuple[_Code, str, str, _Code | None]] = {
    "node.started": (_ACTIVITY, "E", "0", _START),
    "node.stopped": (_ACTIVITY, "E", "0", _STOP),
    "instance.kept": (_TRANSFERRED, "C", "0", None),
    "instance.again": (_TRANSFERRED, "C", "0", None),
    "instance.ignored": (_TRANSFERRED, "C", "0", None),
    "instance.duplicate": (_TRANSFERRED, "R", "0", None),
    "instance.refused": (_TRANSFERRED, "C", "4", None),
    "object.delivered": (_TRANSFERRED, "C", "0", None),
    "object.parked": (_TRANSFERRED, "C", "8", None),
    "study.erased": (_DELETED, "D", "0", None),
    "association.refused": (_ALERT, "E", "4", _NODE_AUTHENTICATION),
    "destination.opened": (_ALERT, "E", "0", _CONFIGURATION),
    "destination.silenced": (_ALERT, "E", "0", _CONFIGURATION),
    "destination.held": (_ALERT, "E", "0", _CONFIGURATION),
    "destination.released": (_ALERT, "E", "0", _CONFIGURATION),
    "finding.held": (_ALERT, "E", "0", _CONFIGURATION),
    "finding.released": (_ALERT, "E", "0", _CONFIGURATION),
    "instance.lost": (_ALERT, "E", "8", _OBJECT_ALTERED),
    "database.reconciled": (_ALERT, "E", "4", _OBJECT_ALTERED),
}


def kinds() -> tuple[str, ...]:
    """The kinds of events that become messages; the others stay in the audit."""
    return tuple(_EVENTS)


def message(event: Event, node: str) -> str | None:
    """The AuditMessage of an event (PS3.15 A.5.1) as XML; None where it has none.

    `node` is the AE title of this node. `destination` or `calling_ae_title`, and `peer_address` or
    `address`, of the event's detail name the other side.
    """
    if event.kind not in _EVENTS:
        return None
    code, action, outcome, of_type = _EVENTS[event.kind]
    root = ElementTree.Element("AuditMessage")
    identification = ElementTree.SubElement(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=event.at.isoformat(),
        EventOutcomeIndicator=outcome,
    )
    _coded(identification, "EventID", code)
    if of_type is not None:
        _coded(identification, "EventTypeCode", of_type)
    _participants(root, event, node)
    ElementTree.SubElement(root, "AuditSourceIdentification", AuditSourceID=node)
    _objects(root, event)
    return ElementTree.tostring(root, encoding="unicode")


def _coded(parent: ElementTree.Element, name: str, code: _Code) -> None:
    element = ElementTree.SubElement(parent, name, {"csd-code": code.value})
    element.set("codeSystemName", code.scheme)
    element.set("originalText", code.meaning)


def _participants(root: ElementTree.Element, event: Event, node: str) -> None:
    """Who: the application (A.5.3.1), the two sides of a transfer (A.5.3.7), or the node and whom
    it tells of (A.5.3.11: who reports, then who did it, which is no requestor).
    """
    code = _EVENTS[event.kind][0]
    sent = event.kind.startswith("object.")
    other = event.detail.get("destination" if sent else "calling_ae_title")
    address = str(event.detail.get("peer_address") or event.detail.get("address") or "")
    if code is _TRANSFERRED:
        us, them = (_SOURCE, _DESTINATION) if sent else (_DESTINATION, _SOURCE)
        _participant(root, str(other or "unknown"), them, requests=not sent, address=address)
        _participant(root, node, us, requests=sent)
    elif code is _ALERT and event.kind == "association.refused":
        _participant(root, node, _APPLICATION, requests=True)
        _participant(root, str(other or "unknown"), None, requests=False, address=address)
    else:
        _participant(root, str(event.detail.get("who", node)), _APPLICATION, requests=True)


def _participant(
    root: ElementTree.Element, user: str, role: _Code | None, *, requests: bool, address: str = ""
) -> None:
    element = ElementTree.SubElement(root, "ActiveParticipant", UserID=user)
    element.set("UserIsRequestor", "true" if requests else "false")
    if address:
        element.set("NetworkAccessPointID", address)
        element.set("NetworkAccessPointTypeCode", "2")  # an IP address
    if role is not None:
        _coded(element, "RoleIDCode", role)


def _objects(root: ElementTree.Element, event: Event) -> None:
    """The study; a name is wanted by the schema (A.5.1.1), and says what the identifier is of."""
    if event.study_instance_uid is None:
        return
    element = ElementTree.SubElement(
        root,
        "ParticipantObjectIdentification",
        ParticipantObjectID=event.study_instance_uid,
        ParticipantObjectTypeCode="2",
        ParticipantObjectTypeCodeRole="3",
    )
    _coded(element, "ParticipantObjectIDTypeCode", _STUDY)
    ElementTree.SubElement(element, "ParticipantObjectName").text = "study"
    if event.sop_instance_uid is not None:
        described = ElementTree.SubElement(element, "ParticipantObjectDescription")
        sop = ElementTree.SubElement(described, "SOPClass", NumberOfInstances="1")
        if sop_class_uid := event.detail.get("sop_class_uid"):
            sop.set("UID", str(sop_class_uid))
        ElementTree.SubElement(sop, "Instance", UID=event.sop_instance_uid)


def frame(text: str, at: datetime.datetime, host: str) -> bytes:
    """A message of RFC 5424: header without structured data, byte order mark, XML in UTF-8."""
    when = at.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    head = f"<{_PRIORITY}>1 {when} {host} prescreen - DICOM+RFC3881 - "
    return head.encode("ascii") + b"\xef\xbb\xbf" + text.encode()


class Forwarder:
    """Sends what is new in the audit of one database to the repository of the settings.

    `stopping` is asked after each page: the whole log of years may be new to a repository.
    """

    def __init__(
        self,
        engine: Engine,
        settings: Syslog,
        node: str,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._node = node
        self._stopping = stopping
        self._host = socket.gethostname()[:255] or "-"

    def turn(self) -> int:
        """Send everything new; how many messages. PeerUnavailable where it cannot be sent."""
        sent = 0
        while page := audit.events(self._engine, after=self._position(), limit=_PAGE):
            made = [(event, message(event, self._node)) for event in page]
            frames = [frame(text, event.at, self._host) for event, text in made if text]
            self._send(frames)
            self._move(page[-1].event_id)
            sent += len(frames)
            if self._stopping():
                break
        return sent

    def _position(self) -> int:
        with reading(self._engine) as connection:
            value = connection.scalar(select(t.meta.c.value).where(t.meta.c.key == _POSITION))
        return int(value or 0)

    def _move(self, event_id: int) -> None:
        values = {"value": str(event_id)}
        with writing(self._engine) as connection:
            here = update(t.meta).where(t.meta.c.key == _POSITION).values(**values)
            if connection.execute(here).rowcount == 0:
                connection.execute(insert(t.meta), {"key": _POSITION, **values})

    def _send(self, frames: Sequence[bytes]) -> None:
        if not frames:
            return
        where = f"{self._settings.host}:{self._settings.port}"
        ways: dict[str, Callable[[Sequence[bytes]], None]] = {"udp": self._udp, "tls": self._tls}
        try:
            ways[self._settings.transport](frames)
        except OSError as error:
            why = ": ".join(filter(None, (error.filename, error.strerror or type(error).__name__)))
            text = f"audit repository {where}: {why}; it is tried again in a moment"
            raise PeerUnavailable(text) from error

    def _udp(self, frames: Sequence[bytes]) -> None:
        address = (self._settings.host, self._settings.port)
        family = socket.getaddrinfo(*address, type=socket.SOCK_DGRAM)[0][0]
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as out:
            for content in frames:
                out.sendto(content, address)

    def _tls(self, frames: Sequence[bytes]) -> None:
        for path in (self._settings.ca, self._settings.certificate, self._settings.key):
            if path is not None:
                path.read_bytes()  # ssl does not name the file that it cannot read
        context = ssl.create_default_context(cafile=self._settings.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self._settings.certificate is not None:
            context.load_cert_chain(self._settings.certificate, self._settings.key)
        address = (self._settings.host, self._settings.port)
        with (
            socket.create_connection(address, timeout=self._settings.timeout) as plain,
            context.wrap_socket(plain, server_hostname=self._settings.host) as out,
        ):
            for content in frames:
                out.sendall(b"%d " % len(content) + content)
            out.unwrap()  # its close_notify says that it read what came before
