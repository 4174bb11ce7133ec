"""storescu, dcmsend and echoscu against the receiver: what comes in, and what is kept out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prescreen import settings
from prescreen.dicom.receive import Receiver
from prescreen.errors import DoesNotMatch, OutOfResources, SettingsError
from prescreen.study import Incoming
from tests.canaries import sample
from tests.peers.dcmtk import data_set_of, eventually, free_port, run, write_radiograph

LOOPBACK = ("127.0.0.0/8",)


class Node:
    """A receiver, what it was given, what it audited, and what `keep` is to raise."""

    def __init__(self, **changes: Any) -> None:
        values: dict[str, Any] = {
            "ae_title": "NODE",
            "port": free_port(),
            "peers": (settings.Peer(ae_title="STORESCU", networks=LOOPBACK),),
            **changes,
        }
        self.kept: list[Incoming] = []
        self.audited: list[tuple[str, dict[str, Any]]] = []
        self.failures: list[Exception] = []
        self.receiver = Receiver(settings.Receive(**values), self._keep, self._audit)

    @property
    def port(self) -> int:
        return self.receiver.port

    @property
    def rules(self) -> list[str]:
        """The rules of the refusals audited; at least one is waited for."""
        eventually(lambda: bool(self.audited))
        return [detail["rule"] for _, detail in self.audited]

    def _keep(self, incoming: Incoming) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.kept.append(incoming)

    def _audit(self, kind: str, detail: dict[str, Any]) -> None:
        self.audited.append((kind, detail))


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    with node.receiver:
        yield node


def storescu(node: Node, *arguments: str | Path, called: str = "NODE") -> str:
    done = run("storescu", "-v", "-aec", called, *arguments_before(arguments), "127.0.0.1",
               str(node.port), *files(arguments))  # fmt: skip
    return f"{done.stdout}\nexit status {done.returncode}"


def arguments_before(arguments: tuple[str | Path, ...]) -> list[str]:
    return [argument for argument in arguments if isinstance(argument, str)]


def files(arguments: tuple[str | Path, ...]) -> list[Path]:
    return [argument for argument in arguments if isinstance(argument, Path)]


def test_c_echo_is_answered(node: Node) -> None:
    done = run("echoscu", "-v", "-aet", "STORESCU", "-aec", "NODE", "127.0.0.1", str(node.port))
    assert done.returncode == 0, done.stdout
    assert "Received Echo Response (Success)" in done.stdout


def encoded(folder: Path, tool: tuple[str, ...], bits: int) -> Path:
    plain = write_radiograph(folder / "plain.dcm", bits=bits)
    done = run(*tool, plain, folder / "sent.dcm")
    assert done.returncode == 0, done.stdout
    return folder / "sent.dcm"


SYNTAXES = [
    ("1.2.840.10008.1.2", ("dcmconv", "+ti"), 12, "storescu", "-xi"),
    ("1.2.840.10008.1.2.1", ("dcmconv", "+te"), 12, "storescu", "-xe"),
    ("1.2.840.10008.1.2.4.50", ("dcmcjpeg", "+eb"), 8, "storescu", "-xy"),
    ("1.2.840.10008.1.2.4.51", ("dcmcjpeg", "+ee"), 12, "storescu", "-xx"),
    ("1.2.840.10008.1.2.4.57", ("dcmcjpeg", "+el"), 12, "dcmsend", "-dn"),
    ("1.2.840.10008.1.2.4.70", ("dcmcjpeg", "+e1"), 12, "storescu", "-xs"),
    ("1.2.840.10008.1.2.4.80", ("dcmcjpls", "+el"), 12, "storescu", "-xt"),
    ("1.2.840.10008.1.2.4.81", ("dcmcjpls", "+en"), 12, "storescu", "-xu"),
    ("1.2.840.10008.1.2.5", ("dcmcrle",), 12, "storescu", "-xr"),
]


@pytest.mark.parametrize(
    ("syntax", "tool", "bits", "sender", "option"), SYNTAXES, ids=[s[0] for s in SYNTAXES]
)
def test_a_transfer_syntax_comes_in_as_the_bytes_it_was_sent_in(
    node: Node,
    tmp_path: Path,
    syntax: str,
    tool: tuple[str, ...],
    bits: int,
    sender: str,
    option: str,
) -> None:
    sent = encoded(tmp_path, tool, bits)
    said = run(sender, "-v", option, "-aet", "STORESCU", "-aec", "NODE",
               "127.0.0.1", str(node.port), sent)  # fmt: skip
    assert said.returncode == 0, said.stdout
    assert [incoming.transfer_syntax_uid for incoming in node.kept] == [syntax]
    assert data_set_of(node.kept[0].part10) == data_set_of(sent.read_bytes())


@pytest.mark.parametrize(
    ("name", "syntax", "option"),
    [
        ("RG1_J2KR.dcm", "1.2.840.10008.1.2.4.90", "-xv"),
        ("RG1_J2KI.dcm", "1.2.840.10008.1.2.4.91", "-xw"),
    ],
)
def test_jpeg_2000_comes_in_as_the_bytes_it_was_sent_in(
    node: Node, tmp_path: Path, name: str, syntax: str, option: str
) -> None:
    sent = tmp_path / "sent.dcm"
    assert run("dcmconv", sample(name), sent).returncode == 0  # DCMTK's own way of writing
    assert "exit status 0" in storescu(node, option, sent)
    assert node.kept[0].transfer_syntax_uid == syntax
    assert data_set_of(node.kept[0].part10) == data_set_of(sent.read_bytes())


def test_what_is_kept_is_a_part_10_file_that_dcmtk_reads(node: Node, tmp_path: Path) -> None:
    storescu(node, write_radiograph(tmp_path / "a.dcm"))
    kept = tmp_path / "kept.dcm"
    kept.write_bytes(node.kept[0].part10)
    done = run("dcmftest", kept)
    assert done.stdout.startswith("yes"), done.stdout
    incoming = node.kept[0]
    assert incoming.calling_ae_title == "STORESCU"
    assert incoming.called_ae_title == "NODE"
    assert incoming.peer_address == "127.0.0.1"
    assert incoming.sop_instance_uid in run("dcmdump", kept).stdout


def test_the_same_object_sent_twice_gives_the_same_bytes(node: Node, tmp_path: Path) -> None:
    sent = write_radiograph(tmp_path / "a.dcm")
    storescu(node, sent)
    storescu(node, sent)
    first, second = node.kept
    assert first.part10 == second.part10


def test_deflated_is_not_accepted(node: Node, tmp_path: Path) -> None:
    write_radiograph(tmp_path / "plain.dcm")
    run("dcmconv", "+td", tmp_path / "plain.dcm", tmp_path / "sent.dcm")
    profile = tmp_path / "deflated.cfg"
    profile.write_text(
        "[[TransferSyntaxes]]\n[D]\nTransferSyntax1 = DeflatedLittleEndianExplicit\n"
        "[[PresentationContexts]]\n[C]\n"
        "PresentationContext1 = ComputedRadiographyImageStorage\\D\n"
        "[[Profiles]]\n[P]\nPresentationContexts = C\n"
    )
    said = run("storescu", "-v", "-aec", "NODE", "-xf", profile, "P",
               "127.0.0.1", str(node.port), tmp_path / "sent.dcm")  # fmt: skip
    assert "No Acceptable Presentation Contexts" in said.stdout
    assert node.kept == []


def test_big_endian_is_not_accepted(node: Node, tmp_path: Path) -> None:
    write_radiograph(tmp_path / "plain.dcm")
    run("dcmconv", "+tb", tmp_path / "plain.dcm", tmp_path / "sent.dcm")
    storescu(node, "-xb", tmp_path / "sent.dcm")  # proposes all uncompressed, big endian first
    assert [i.transfer_syntax_uid for i in node.kept] == ["1.2.840.10008.1.2.1"]


def test_a_call_for_another_node_is_rejected(node: Node, tmp_path: Path) -> None:
    said = storescu(node, write_radiograph(tmp_path / "a.dcm"), called="OTHER")
    assert "Called AE Title Not Recognized" in said
    assert "Rejected Permanent" in said
    eventually(lambda: bool(node.audited))
    assert node.audited == [
        (
            "association.refused",
            {
                "calling_ae_title": "STORESCU",
                "called_ae_title": "OTHER",
                "address": "127.0.0.1",
                "rule": "called_ae_title",
                "left_out": 0,
            },
        )
    ]


def test_a_caller_nobody_configured_is_rejected(node: Node, tmp_path: Path) -> None:
    said = storescu(node, "-aet", "STRANGER", write_radiograph(tmp_path / "a.dcm"))
    assert "Calling AE Title Not Recognized" in said
    assert node.rules == ["calling_ae_title"]
    assert node.kept == []


def test_a_known_title_from_an_unknown_network_is_rejected(tmp_path: Path) -> None:
    node = Node(peers=(settings.Peer(ae_title="STORESCU", networks=("10.0.0.0/8",)),))
    with node.receiver:
        said = storescu(node, write_radiograph(tmp_path / "a.dcm"))
    assert "Calling AE Title Not Recognized" in said
    assert node.rules == ["network"]


def test_fresh_settings_let_nobody_in(tmp_path: Path) -> None:
    node = Node(peers=())
    with node.receiver:
        said = storescu(node, write_radiograph(tmp_path / "a.dcm"))
    assert "Calling AE Title Not Recognized" in said


def test_no_room_is_said_and_the_association_goes_on(node: Node, tmp_path: Path) -> None:
    for number in range(3):
        write_radiograph(tmp_path / f"{number}.dcm")
    node.failures = [OutOfResources("the disk is full"), OSError(28, "No space left on device")]
    said = storescu(node, "-nh", *sorted(tmp_path.glob("*.dcm")))
    assert said.count("Refused: OutOfResources") == 2
    assert said.count("Received Store Response (Success)") == 1
    assert len(node.kept) == 1


def test_out_of_memory_is_answered_as_no_room(node: Node, tmp_path: Path) -> None:
    node.failures = [MemoryError()]
    assert "Refused: OutOfResources" in storescu(node, write_radiograph(tmp_path / "a.dcm"))


def test_a_data_set_with_another_uid_is_said_not_to_match(node: Node, tmp_path: Path) -> None:
    node.failures = [DoesNotMatch("the data set's SOP Instance UID differs from the command's")]
    said = storescu(node, write_radiograph(tmp_path / "a.dcm"))
    assert "Error: DataSetDoesNotMatchSOPClass" in said


def test_a_fault_of_ours_is_answered_and_logged_without_values(
    node: Node, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node.failures = [RuntimeError("Doe^Jane 1234567")]
    said = storescu(node, write_radiograph(tmp_path / "a.dcm"))
    assert "Error: CannotUnderstand" in said
    assert "Doe" not in caplog.text
    assert "RuntimeError at" in caplog.text
    assert "0xC000" in caplog.text


def test_a_taken_port_is_named_with_the_way_out(node: Node) -> None:
    second = Node(port=node.port)
    with pytest.raises(SettingsError, match=rf"receive\.port = {node.port}.*ss -ltnp"):
        second.receiver.start()


def test_a_host_of_another_machine_is_named_with_the_way_out() -> None:
    with pytest.raises(SettingsError, match=r"receive\.host = '192\.0\.2\.1'.*0\.0\.0\.0"):
        Node(host="192.0.2.1").receiver.start()


def test_a_stopped_receiver_listens_no_more_and_its_port_is_free(tmp_path: Path) -> None:
    first = Node()
    with first.receiver:
        storescu(first, write_radiograph(tmp_path / "a.dcm"))
    said = storescu(first, tmp_path / "a.dcm")
    assert "Connection refused" in said
    second = Node(port=first.port)
    with second.receiver:
        storescu(second, tmp_path / "a.dcm")
    assert len(second.kept) == 1


def test_every_storage_class_of_a_forwarded_study_comes_in(node: Node, tmp_path: Path) -> None:
    classes = (
        "1.2.840.10008.5.1.4.1.1.88.34",  # Comprehensive 3D SR
        "1.2.840.10008.5.1.4.1.1.11.1",  # GSPS
        "1.2.840.10008.5.1.4.1.1.66.4",  # Segmentation
        "1.2.840.10008.5.1.4.1.1.104.1",  # Encapsulated PDF
    )
    for number, sop_class in enumerate(classes):
        write_radiograph(tmp_path / f"{number}.dcm", sop_class_uid=sop_class)
    said = run("dcmsend", "-v", "-aet", "STORESCU", "-aec", "NODE", "127.0.0.1", str(node.port),
               *sorted(tmp_path.glob("*.dcm")))  # fmt: skip
    assert said.returncode == 0, said.stdout
    assert sorted(incoming.sop_class_uid for incoming in node.kept) == sorted(classes)


def test_dcmtk_is_there_with_all_its_tools() -> None:
    tools = ("storescu", "storescp", "echoscu", "dcmsend", "dcmcjpeg", "dcmcjpls", "dcmcrle")
    assert [tool for tool in tools if shutil.which(tool) is None] == []
