"""DCMTK's TLS tools on both sides: who comes in, what goes out, and what is said where it fails."""

from __future__ import annotations

import datetime
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from prescreen import checks, settings, tables
from prescreen.dicom.receive import Receiver
from prescreen.dicom.send import Sender
from prescreen.dicom.tls import Renewed, for_calling, for_listening
from prescreen.errors import PeerUnavailable, SettingsError
from prescreen.housekeeping import expiring
from prescreen.study import Incoming
from tests.peers.certificates import Authority, Files
from tests.peers.dcmtk import data_set_of, eventually, free_port, run, storescp, write_radiograph


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


class Node:
    """A receiver with a peer that comes in clear and one that comes by TLS."""

    def __init__(self, authority: Authority, own: Files) -> None:
        self.authority = authority
        self.kept: list[bytes] = []
        self.rules: list[str] = []
        self.tls_port = free_port()
        receive = settings.Receive(
            ae_title="NODE",
            port=free_port(),
            tls=settings.ReceiveTLS(
                port=self.tls_port,
                certificate=own.certificate,
                key=own.key,
                authorities=authority.certificate,
            ),
            peers=(
                settings.Peer(ae_title="CLEAR"),
                settings.Peer(ae_title="SECURE", certificate="Modality"),
            ),
        )
        self.receiver = Receiver(receive, self._keep, self._audit)

    def _keep(self, incoming: Incoming) -> None:
        self.kept.append(data_set_of(incoming.part10))

    def _audit(self, kind: str, detail: dict[str, Any]) -> None:
        self.rules.append(detail["rule"])

    def send(self, path: Path, calling: str, files: Files | None) -> bool:
        """Whether storescu could store a file, by TLS with a certificate or in clear."""
        there = ("-aet", calling, "-aec", "NODE", "127.0.0.1")
        if files is None:
            return run("storescu", *there, str(self.receiver.port), path).returncode == 0
        tls = by_tls(files, self.authority)
        return run("storescu", *tls, *there, str(self.tls_port), path).returncode == 0


def by_tls(files: Files, authority: Authority) -> tuple[str, ...]:
    return ("+tls", str(files.key), str(files.certificate), "+cf", str(authority.certificate))


@pytest.fixture
def node(authority: Authority) -> Iterator[Node]:
    node = Node(authority, authority.issue("node"))
    with node.receiver:
        yield node


def test_an_object_comes_in_by_tls(node: Node, authority: Authority, tmp_path: Path) -> None:
    sent = write_radiograph(tmp_path / "a.dcm", size=512)
    assert node.send(sent, "SECURE", authority.issue("modality"))
    assert node.kept == [data_set_of(sent.read_bytes())]


@pytest.mark.parametrize(
    ("calling", "name"),
    [("SECURE", None), ("SECURE", "another"), ("CLEAR", "modality")],
    ids=["in clear", "another certificate", "a peer without one"],
)
def test_title_and_certificate_must_agree(
    node: Node, authority: Authority, tmp_path: Path, calling: str, name: str | None
) -> None:
    sent = write_radiograph(tmp_path / "a.dcm")
    assert not node.send(sent, calling, None if name is None else authority.issue(name))
    eventually(lambda: node.rules == ["certificate"])
    assert node.kept == []


def test_a_peer_without_certificate_comes_in_clear(node: Node, tmp_path: Path) -> None:
    assert node.send(write_radiograph(tmp_path / "a.dcm"), "CLEAR", None)


def test_a_certificate_nobody_vouches_for_is_refused(node: Node, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "Another CA").issue("modality")
    assert not node.send(write_radiograph(tmp_path / "a.dcm"), "SECURE", stranger)
    eventually(lambda: node.rules == ["tls"])


def test_a_new_certificate_counts_without_a_restart(authority: Authority, tmp_path: Path) -> None:
    first = authority.issue("node", file="renewed")
    node = Node(authority, first)
    with node.receiver:
        before = _serial(node.tls_port)
        first.key.write_text("half written")
        assert _serial(node.tls_port) == before  # the old one stays in use
        authority.issue("node", file="renewed")
        assert _serial(node.tls_port) != before
        sent = write_radiograph(tmp_path / "a.dcm")
        assert node.send(sent, "SECURE", authority.issue("modality"))


def _serial(port: int) -> str:
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=60)


def destination(
    port: int, authority: Path, files: Files, name: str | None = None
) -> settings.Destination:
    tls = settings.DestinationTLS(
        certificate=files.certificate, key=files.key, authorities=authority, name=name
    )
    return settings.Destination(
        name="pacs", ae_title="PACS", host="127.0.0.1", port=port, acse_timeout=5, tls=tls
    )


@pytest.mark.parametrize("name", [None, "pacs"], ids=["its address", "its name"])
def test_an_object_goes_out_by_tls(authority: Authority, tmp_path: Path, name: str | None) -> None:
    sent = write_radiograph(tmp_path / "a.dcm", size=512)
    ours, theirs = authority.issue("node"), authority.issue("pacs")
    with storescp(tmp_path / "pacs", *by_tls(theirs, authority)) as peer:
        with Sender(destination(peer.port, authority.certificate, ours, name), "NODE") as sender:
            assert sender.send(sent) == 0x0000
        (stored,) = peer.files
    assert data_set_of(stored.read_bytes()) == data_set_of(sent.read_bytes())


def test_a_peer_with_another_name_gets_nothing(authority: Authority, tmp_path: Path) -> None:
    ours, theirs = authority.issue("node"), authority.issue("pacs")
    with storescp(tmp_path / "pacs", *by_tls(theirs, authority)) as peer:
        there = destination(peer.port, authority.certificate, ours, "archive")
        with Sender(there, "NODE") as sender, pytest.raises(PeerUnavailable) as caught:
            sender.send(write_radiograph(tmp_path / "a.dcm"))
        assert peer.files == []
    assert "its certificate is not accepted: it does not carry 'archive'" in str(caught.value)


def test_a_peer_nobody_vouches_for_gets_nothing(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path, "Another CA")
    with storescp(tmp_path / "pacs", *by_tls(other.issue("pacs"), other)) as peer:
        there = destination(peer.port, authority.certificate, authority.issue("node"))
        with Sender(there, "NODE") as sender, pytest.raises(PeerUnavailable) as caught:
            sender.send(write_radiograph(tmp_path / "a.dcm"))
    assert "its certificate is not accepted: " in str(caught.value)


def test_a_peer_that_does_not_take_our_certificate_is_named(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "Another CA")
    theirs = authority.issue("pacs")
    with storescp(tmp_path / "pacs", *by_tls(theirs, authority)) as peer:
        there = destination(peer.port, authority.certificate, other.issue("node"))
        with Sender(there, "NODE") as sender, pytest.raises(PeerUnavailable) as caught:
            sender.send(write_radiograph(tmp_path / "a.dcm"))
    said = str(caught.value)
    assert "does it accept our certificate?" in said or "TLS failed" in said


def test_a_peer_that_speaks_no_tls_is_named(authority: Authority, tmp_path: Path) -> None:
    with storescp(tmp_path / "pacs") as peer:
        there = destination(peer.port, authority.certificate, authority.issue("node"))
        with Sender(there, "NODE") as sender, pytest.raises(PeerUnavailable) as caught:
            sender.send(write_radiograph(tmp_path / "a.dcm"))
    assert "TLS failed" in str(caught.value)
    assert "does the peer speak TLS 1.2 or newer" in str(caught.value)


def certified(files: Files, authorities: Path) -> settings.Certified:
    return settings.Certified(certificate=files.certificate, key=files.key, authorities=authorities)


def test_files_that_cannot_be_used_are_named(authority: Authority, tmp_path: Path) -> None:
    files = authority.issue("broken")
    there = authority.certificate
    with pytest.raises(SettingsError, match=r"tls.authorities = .*gone.crt: cannot be read"):
        for_listening(certified(files, tmp_path / "gone.crt"))
    with pytest.raises(SettingsError, match=r"tls.authorities = .*: holds no certificate"):
        for_listening(certified(files, files.key))
    other = Files(files.certificate, authority.issue("other").key)
    with pytest.raises(SettingsError, match=r"tls.key = .*: does not belong to .*broken.crt"):
        for_calling(certified(other, there), "pacs")


def test_an_encrypted_key_is_named_and_asks_nobody(authority: Authority) -> None:
    files = authority.issue("locked")
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    assert hasattr(key, "private_bytes")
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(SettingsError, match="is encrypted"):
        for_listening(certified(files, authority.certificate))


def test_nothing_older_than_1_2_is_offered(authority: Authority) -> None:
    files = certified(authority.issue("node"), authority.certificate)
    for context in (for_listening(files), for_calling(files, "pacs")):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.verify_mode is ssl.CERT_REQUIRED
        names = [cipher["name"] for cipher in context.get_ciphers()]
        assert all("GCM" in name or name.startswith("TLS_") for name in names)


def test_a_file_that_is_gone_changes_nothing_for_a_running_node(
    authority: Authority, tmp_path: Path
) -> None:
    issued = authority.issue("node")
    files = Files(tmp_path / "node.crt", tmp_path / "node.key")
    shutil.copy(issued.certificate, files.certificate)
    shutil.copy(issued.key, files.key)
    renewed = Renewed(certified(files, authority.certificate), for_listening)
    before = renewed()
    files.key.unlink()
    assert renewed() is before


def configured(authority: Authority, own: Files, **changes: Any) -> settings.Settings:
    there = destination(104, authority.certificate, own)
    tls = settings.ReceiveTLS(
        certificate=own.certificate, key=own.key, authorities=authority.certificate
    )
    peers = (settings.Peer(ae_title="CLEAR"), settings.Peer(ae_title="SECURE", certificate="cr"))
    receive = settings.Receive(tls=tls, peers=peers, **changes)
    return settings.Settings.model_construct(receive=receive, destinations=(there,))


def test_certificates_in_use_are_watched_for_their_end(authority: Authority) -> None:
    configured_ = configured(authority, authority.issue("node", days=5))
    assert len(configured_.certificates) == 2
    now = datetime.datetime.now(datetime.UTC).timestamp()
    watched = settings.Housekeeping(certificates=configured_.certificates)
    assert [w for w in expiring(watched, now) if "expires in 5 days" in w or "in 4 days" in w]
    assert any("expired" in warning for warning in expiring(watched, now + 10 * 86_400))


def test_check_says_what_is_open_and_to_whom(authority: Authority) -> None:
    own = authority.issue("node")
    said = [check.said for check in checks.door(configured(authority, own))]
    assert f"certificate {own.certificate}" in said
    assert "PRESCREEN at 127.0.0.1:11112: CLEAR from 127.0.0.0/8, ::1/128" in said
    assert "PRESCREEN at 127.0.0.1:2762 by TLS: SECURE from 127.0.0.0/8, ::1/128" in said
    shut = [check for check in checks.door(configured(authority, own, clear=False)) if not check.ok]
    assert [check.said for check in shut] == ["CLEAR: has no certificate and may not come in clear"]


def test_the_table_of_check_shows_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_checks([*checks.door(settings.Settings.model_construct())], as_json=False)
    assert "[[receive.peers]]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"clear": False}, r"clear = false needs \[receive.tls\]"),
        ({"peers": [{"ae_title": "A", "certificate": "a"}]}, r"add \[receive.tls\]"),
        ({"port": 2762, "tls": {n: "x" for n in ("certificate", "key", "authorities")}}, "differ"),
        ({"tls": {"certificate": "x", "key": "x", "authority": "x"}}, "did you mean 'authorities'"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, Any], rule: str) -> None:
    with pytest.raises(SettingsError, match=rule):
        settings.load(receive=changes)
