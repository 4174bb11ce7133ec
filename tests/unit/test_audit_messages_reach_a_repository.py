"""PS3.15 A.5 messages from the rows of the audit, over UDP and TLS: each once, no patient."""

from __future__ import annotations

import datetime
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pydicom.sr._concepts_dict import concepts

from prescreen import syslog
from prescreen.errors import PeerUnavailable
from prescreen.housekeeping import safely
from prescreen.settings import Settings, Syslog
from prescreen.store import audit
from prescreen.study import Event
from prescreen.syslog import Forwarder
from tests.store_bench import CANARY, PACS, StoreBench

HEADER = re.compile(
    rb"<85>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) (\S+) prescreen "
    rb"- DICOM\+RFC3881 - \xef\xbb\xbf(.*)"
)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[StoreBench]:
    bench = StoreBench(tmp_path)
    bench.destinations.go_live("pacs", "Dr. A", "agreed")
    bench.screened("1.2.1", PACS)
    for delivery in bench.outbox.claim("pacs", 60, 16):
        bench.outbox.delivered(delivery, 0)
    refused = {"calling_ae_title": "STRANGER", "address": "10.0.0.9", "rule": "calling"}
    audit.record(bench.engine, "association.refused", refused)
    audit.record(bench.engine, "node.started", {"version": "1"})
    yield bench
    bench.engine.dispose()


def _xml(datagram: bytes) -> ElementTree.Element:
    found = HEADER.fullmatch(datagram)
    assert found is not None, datagram
    return ElementTree.fromstring(found[3].decode())


def _code(root: ElementTree.Element, path: str) -> str:
    element = root.find(path)
    assert element is not None
    assert element.get("codeSystemName") == "DCM"
    return str(element.get("csd-code"))


def _udp(bench: StoreBench) -> list[ElementTree.Element]:
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as here:
        here.bind(("127.0.0.1", 0))
        here.settimeout(5)
        settings = Syslog(host="127.0.0.1", port=here.getsockname()[1], transport="udp")
        forwarder = Forwarder(bench.engine, settings, "PRESCREEN")
        sent = forwarder.turn()
        messages = [here.recv(65_536) for _ in range(sent)]
        assert forwarder.turn() == 0, "each event once"
    assert not any(name.encode() in b"".join(messages) for name in CANARY.values())
    return [_xml(message) for message in messages]


def test_every_kind_that_has_a_message_gets_one_over_udp(bench: StoreBench) -> None:
    messages = _udp(bench)
    events = [e for e in audit.events(bench.engine) if e.kind in syslog.kinds()]
    assert [m.find("EventIdentification").get("EventDateTime") for m in messages] == [  # type: ignore[union-attr]
        event.at.isoformat() for event in events
    ]
    codes = {
        event.kind: _code(m, "EventIdentification/EventID")
        for event, m in zip(events, messages, strict=True)
    }
    assert codes == {
        "destination.opened": "110113",
        "instance.kept": "110104",
        "object.delivered": "110104",
        "association.refused": "110113",
        "node.started": "110100",
    }


def test_a_transfer_names_both_sides_the_study_and_the_instance(bench: StoreBench) -> None:
    (kept, *_) = [e for e in audit.events(bench.engine) if e.kind == "instance.kept"]
    root = ElementTree.fromstring(str(syslog.message(kept, "PRESCREEN")))
    roles = {p.get("UserID"): _code(p, "RoleIDCode") for p in root.findall("ActiveParticipant")}
    assert roles == {"CR": "110153", "PRESCREEN": "110152"}
    requestors = [p.get("UserIsRequestor") for p in root.findall("ActiveParticipant")]
    assert requestors == ["true", "false"]
    study = root.find("ParticipantObjectIdentification")
    assert study is not None
    assert study.get("ParticipantObjectID") == "1.2.1"
    assert _code(study, "ParticipantObjectIDTypeCode") == "110180"
    instance = study.find("ParticipantObjectDescription/SOPClass/Instance")
    assert instance is not None
    assert instance.get("UID") == "1.2.1.1"
    (sent, *_) = [e for e in audit.events(bench.engine) if e.kind == "object.delivered"]
    root = ElementTree.fromstring(str(syslog.message(sent, "PRESCREEN")))
    roles = {p.get("UserID"): _code(p, "RoleIDCode") for p in root.findall("ActiveParticipant")}
    assert roles == {"pacs": "110152", "PRESCREEN": "110153"}


def test_a_refused_association_is_a_security_alert(bench: StoreBench) -> None:
    (refused,) = [e for e in audit.events(bench.engine) if e.kind == "association.refused"]
    root = ElementTree.fromstring(str(syslog.message(refused, "PRESCREEN")))
    identification = root.find("EventIdentification")
    assert identification is not None
    assert identification.get("EventOutcomeIndicator") == "4"
    assert _code(root, "EventIdentification/EventTypeCode") == "110126"
    reports, stranger = root.findall("ActiveParticipant")
    assert (reports.get("UserID"), reports.get("UserIsRequestor")) == ("PRESCREEN", "true")
    assert (stranger.get("UserID"), stranger.get("UserIsRequestor")) == ("STRANGER", "false")
    assert stranger.get("NetworkAccessPointID") == "10.0.0.9"


# --- the schema of PS3.15 A.5.1.1, as far as it is used --------------------------------------

_TOKEN, _UID = r"\S(.*\S)?", r"[0-9.]{1,64}"
_CODED = {"csd-code": _TOKEN, "codeSystemName": _TOKEN, "displayName?": _TOKEN}
#: Of each element: its attributes (? where it may be left out) with their patterns, and the
#: children it may have, in order.
SCHEMA: dict[str, tuple[dict[str, str], str]] = {
    "AuditMessage": (
        {},
        "EventIdentification (ActiveParticipant )+AuditSourceIdentification "
        "(ParticipantObjectIdentification )*",
    ),
    "EventIdentification": (
        {
            "EventActionCode?": "[CRUDE]",
            "EventDateTime": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)?",
            "EventOutcomeIndicator": "0|4|8|12",
        },
        "EventID (EventTypeCode )*(EventOutcomeDescription )?",
    ),
    "ActiveParticipant": (
        {
            "UserID": ".*",
            "AlternativeUserID?": ".*",
            "UserName?": ".*",
            "UserIsRequestor": "true|false|1|0",
            "NetworkAccessPointID?": _TOKEN,
            "NetworkAccessPointTypeCode?": "[1-5]",
        },
        "(RoleIDCode )*(MediaIdentifier )?",
    ),
    "AuditSourceIdentification": (
        {"AuditEnterpriseSiteID?": _TOKEN, "AuditSourceID": _TOKEN},
        "(AuditSourceTypeCode )*",
    ),
    "ParticipantObjectIdentification": (
        {
            "ParticipantObjectID": _TOKEN,
            "ParticipantObjectTypeCode?": "[1-4]",
            "ParticipantObjectTypeCodeRole?": "[1-9]|1[0-9]|2[0-6]",
            "ParticipantObjectDataLifeCycle?": "[1-9]|1[0-5]",
            "ParticipantObjectSensitivity?": _TOKEN,
        },
        "ParticipantObjectIDTypeCode (ParticipantObjectName |ParticipantObjectQuery )"
        "(ParticipantObjectDetail )*(ParticipantObjectDescription )*",
    ),
    "ParticipantObjectName": ({}, ""),
    "ParticipantObjectDescription": (
        {},
        "(MPPS )*(Accession )*(SOPClass )*(ParticipantObjectContainsStudy )?(Encrypted )?"
        "(Anonymized )?",
    ),
    "SOPClass": ({"UID?": _UID, "NumberOfInstances": "[0-9]+"}, "(Instance )*"),
    "Instance": ({"UID": _UID}, ""),
    **{
        name: ({**_CODED, "originalText": _TOKEN}, "")
        for name in ("EventID", "EventTypeCode", "RoleIDCode", "ParticipantObjectIDTypeCode")
    },
}


def faults(element: ElementTree.Element) -> list[str]:
    """What the schema has against an element and all below it."""
    attributes, children = SCHEMA[element.tag]
    patterns = {name.rstrip("?"): pattern for name, pattern in attributes.items()}
    wanted = {name for name in attributes if not name.endswith("?")}
    found = [f"{element.tag} lacks {name}" for name in wanted - set(element.keys())]
    for name, value in element.items():
        if name not in patterns or not re.fullmatch(patterns[name], value):
            found.append(f"{element.tag} has {name} = {value!r}")
    order = "".join(f"{child.tag} " for child in element)
    if not re.fullmatch(children, order):
        found.append(f"{element.tag} holds {order!r}")
    if element.get("csd-code") is not None:
        found += _faults_of_code(element)
    return found + [fault for child in element for fault in faults(child)]


def _faults_of_code(element: ElementTree.Element) -> list[str]:
    """DCM codes must have the meaning that PS3.16 gives them."""
    terms: Any = concepts["DCM"]  # keyword -> code value -> (code meaning, context groups)
    known = {value: code[0] for codes in terms.values() for value, code in codes.items()}
    value, meaning = element.get("csd-code", ""), element.get("originalText")
    is_right = element.get("codeSystemName") == "DCM" and known.get(value) == meaning
    return [] if is_right else [f"{element.tag}: ({value}, DCM) does not mean {meaning!r}"]


#: What the node writes down with each kind of event, as far as messages are made of it.
_DETAILS: dict[str, dict[str, object]] = {
    "instance": {
        "calling_ae_title": "CR",
        "peer_address": "10.0.0.9",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1",
    },
    "object": {"destination": "pacs", "sop_class_uid": "1.2.840.10008.5.1.4.1.1.88.34"},
    "association": {
        "calling_ae_title": "",
        "called_ae_title": "X",
        "address": "::1",
        "rule": "tls",
    },
    "destination": {"destination": "pacs", "who": "Dr. A", "why": "agreed"},
    "finding": {"finding": "Hernia", "who": "Dr. A", "why": "agreed"},
    "node": {"version": "1"},
    "study": {"who": "Dr. A", "why": "asked for"},
    "database": {},
}


@pytest.mark.parametrize("kind", syslog.kinds())
def test_every_message_is_one_of_the_schema(kind: str) -> None:
    at = datetime.datetime(2026, 1, 31, 8, 0, 0, 5, tzinfo=datetime.UTC)
    of_study = kind.partition(".")[0] in ("instance", "object", "study")
    study, sop = ("1.2.3", "1.2.3.4") if of_study else (None, None)
    for uids in ((study, sop), (study, None), (None, None)):
        event = Event(7, at, kind, _DETAILS[kind.partition(".")[0]], *uids)
        root = ElementTree.fromstring(str(syslog.message(event, "PRESCREEN")))
        assert faults(root) == []
        requestors = [p.get("UserIsRequestor") for p in root.findall("ActiveParticipant")]
        assert requestors.count("true") == 1, "one alone is the requestor (A.5.2.3)"


def test_what_was_really_audited_keeps_to_the_schema(bench: StoreBench) -> None:
    made = [syslog.message(event, "PRESCREEN") for event in audit.events(bench.engine)]
    messages = [ElementTree.fromstring(text) for text in made if text]
    assert len(messages) > 4
    assert [fault for root in messages for fault in faults(root)] == []


def test_the_schema_finds_what_is_wrong() -> None:
    event = Event(7, datetime.datetime.now(datetime.UTC), "instance.kept", {}, "1.2.3", "1.2.3.4")
    text = str(syslog.message(event, "PRESCREEN"))
    for right, wrong in (
        ('EventOutcomeIndicator="0"', 'EventOutcomeIndicator="1"'),
        ('UserIsRequestor="true"', ""),
        ("<ParticipantObjectName>study</ParticipantObjectName>", ""),
        ('csd-code="110104"', 'csd-code="110105"'),
        ('AuditSourceID="PRESCREEN"', ""),
        ('NumberOfInstances="1"', 'NumberOfInstances="one"'),
    ):
        assert right in text
        assert len(faults(ElementTree.fromstring(text.replace(right, wrong)))) == 1


class Repository:
    """An audit record repository: one TLS connection a turn, octet-counted frames."""

    def __init__(self, folder: Path) -> None:
        self.ca = _certificate(folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.ca, folder / "key.pem")
        self._listens = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listens.getsockname()[1])
        self.messages: list[bytes] = []
        self._context = context
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listens.accept()
            except OSError:
                return
            try:
                with self._context.wrap_socket(plain, server_side=True) as here:
                    self._read(here)
            except (OSError, ssl.SSLError):
                plain.close()

    def _read(self, here: ssl.SSLSocket) -> None:
        with here.makefile("rb") as stream:
            while length := b"".join(iter(lambda: _digit(stream.read(1)), b"")):
                self.messages.append(stream.read(int(length)))
        here.unwrap()

    def close(self) -> None:
        self._listens.shutdown(socket.SHUT_RDWR)
        self._listens.close()
        self._thread.join(10)


def _digit(byte: bytes) -> bytes:
    return byte if byte.isdigit() else b""


def _certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "repository")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    (folder / "key.pem").write_bytes(private)
    (folder / "ca.pem").write_bytes(built.public_bytes(pem))
    return folder / "ca.pem"


def test_over_tls_each_event_goes_once_and_waits_while_the_repository_is_away(
    bench: StoreBench, tmp_path: Path
) -> None:
    repository = Repository(tmp_path)
    try:
        settings = Syslog(host="127.0.0.1", port=repository.port, ca=repository.ca)
        forwarder = Forwarder(bench.engine, settings, "PRESCREEN")
        sent = forwarder.turn()
        assert len(repository.messages) == sent > 4
        stranger = Syslog(host="127.0.0.1", port=repository.port)
        audit.record(bench.engine, "node.stopped")
        with pytest.raises(PeerUnavailable, match=r"audit repository 127.0.0.1:\d+"):
            Forwarder(bench.engine, stranger, "PRESCREEN").turn()
        assert forwarder.turn() == 1
        assert _code(_xml(repository.messages[-1]), "EventIdentification/EventTypeCode") == "110121"
    finally:
        repository.close()
    audit.record(bench.engine, "node.started")
    with pytest.raises(PeerUnavailable, match="tried again"):
        forwarder.turn()


def test_it_is_off_by_default() -> None:
    assert Syslog().host == ""


def test_a_repository_that_is_away_is_told_once_and_its_files_by_name(
    bench: StoreBench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gone = tmp_path / "gone.pem"
    turn = safely(Forwarder(bench.engine, Syslog(host="127.0.0.1", ca=gone), "PRESCREEN").turn)
    for _ in range(3):
        turn()
    (record,) = caplog.records
    assert f"127.0.0.1:6514: {gone}: No such file" in record.getMessage()
    assert record.exc_info is None, "a sentence, not a traceback every ten seconds"


def test_the_certificates_for_a_repository_are_watched(tmp_path: Path) -> None:
    ours = Syslog(host="audit", ca=tmp_path / "ca.pem", certificate=tmp_path / "own.pem")
    assert Settings(syslog=ours).certificates == (tmp_path / "own.pem", tmp_path / "ca.pem")
    over_udp = ours.model_copy(update={"transport": "udp"})
    assert Settings(syslog=over_udp).certificates == ()


def test_a_node_that_ends_does_not_wait_until_all_is_sent(bench: StoreBench) -> None:
    for _ in range(1_200):
        audit.record(bench.engine, "node.stopped")
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as repository:
        repository.bind(("127.0.0.1", 0))
        there = Syslog(host="127.0.0.1", port=repository.getsockname()[1], transport="udp")
        page = Forwarder(bench.engine, there, "PRESCREEN", lambda: True).turn()
        rest = Forwarder(bench.engine, there, "PRESCREEN").turn()
    assert 400 < page <= 500 < rest
