"""What is wrong is said in a sentence that names the thing and the way out; never a traceback.

The exit statuses are those of docs/admin.md: 1 not as it should be, 2 command line, settings or
weights, 3 data directory or database, 4 a peer.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from prescreen import node
from prescreen.settings import load
from prescreen.store import audit
from prescreen.store.guard import Guard
from prescreen.supervisor import ROLES
from tests.e2e.house import UNCLOSED, House, house
from tests.peers.dcmtk import free_port

pytestmark = pytest.mark.filterwarnings(UNCLOSED)

WEIGHTS = Path(__file__).parents[2] / "weights"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A node whose PACS is away."""
    with house(tmp_path_factory.mktemp("house"), listens=False) as home:
        yield home


class Said(NamedTuple):
    """What a command said."""

    args: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str


def prescreen(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does, with settings from the environment."""
    return subprocess.run(
        [sys.executable, "-m", "prescreen", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def says(result: subprocess.CompletedProcess[str] | Said, status: int, *words: str) -> None:
    """It ended with that status and those words, and shows no traceback."""
    said = result.stdout + result.stderr
    assert result.returncode == status, (result.args, said)
    assert "Traceback" not in said
    plain = " ".join(said.replace("│", " ").split())
    assert [word for word in words if word not in plain] == [], (result.args, said)


def test_broken_toml(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("[receive\nport = 1")
    result = prescreen("serve", "--config", str(path))
    says(result, 2, str(path), "is not valid TOML", "line 1")


def test_an_unknown_key(tmp_path: Path) -> None:
    path = tmp_path / "unknown.toml"
    path.write_text("[receive]\nprt = 11112")
    says(prescreen("check", "--config", str(path)), 2, "receive.prt: unknown key", "'port'")


def test_a_settings_file_that_is_not_there(tmp_path: Path) -> None:
    says(prescreen("status", "--config", str(tmp_path / "no.toml")), 2, "no.toml", "No such file")


def test_weights_that_are_missing(tmp_path: Path) -> None:
    result = prescreen(
        "screen", str(tmp_path), "--out", str(tmp_path), PRESCREEN__WEIGHTS_DIR=str(tmp_path)
    )
    says(result, 2, f"{tmp_path}/lungs_heart.json is missing", "weights_dir")
    assert result.stdout == ""


def test_weights_of_another_hash(home: House, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    shutil.copytree(WEIGHTS, weights)
    with (weights / "findings.safetensors").open("ab") as file:
        file.write(b"x")
    result = home.command("check", PRESCREEN__WEIGHTS_DIR=str(weights))
    says(result, 1, "WRONG", "weights", "findings.safetensors: its sha256 is", "weights_dir")
    result = home.command("serve", "--only", "screen", PRESCREEN__WEIGHTS_DIR=str(weights))
    says(result, 2, "findings.safetensors: its sha256 is", "Reinstall")


def test_a_port_that_is_taken(home: House) -> None:
    with socket.create_server(("127.0.0.1", home.settings.receive.port)):
        result = home.command("serve", "--only", "receive")
    says(result, 2, f"receive.port = {home.settings.receive.port}", "choose another port")


@pytest.mark.parametrize("role", ["serve", "receive", "deliver"])
def test_f12_a_second_node_on_one_data_directory_refuses(home: House, role: str) -> None:
    command = ["serve"] if role == "serve" else ["serve", "--only", role]
    with Guard(home.settings.data_dir, role):
        result = home.command(*command)
    says(result, 3, f"{home.settings.data_dir}: another {role} is running", "stop that one first")


def test_a_peer_that_is_away(home: House) -> None:
    result = home.command("echo", "pacs")
    says(result, 4, "pacs (PRESCREEN to PACS at 127.0.0.1:", "is the peer running there?")
    result = home.command("check")
    says(result, 1, "WRONG", "destination pacs", "is the peer running there?")


def test_a_peer_that_knows_us_not(tmp_path: Path) -> None:
    stranger = "[[destinations]]\nname = 'stranger'\nae_title = 'PACS'\nhost = '127.0.0.1'\n"
    port = free_port()
    more = f"{stranger}port = {port}\ncalling_ae_title = 'NOBODY'\n"
    with house(tmp_path, more=more) as home:
        pacs_port = home.settings.destination("pacs").port
        home.config.write_text(home.config.read_text().replace(f"{port}", f"{pacs_port}"))
        result = home.command("echo", "stranger")
    says(result, 4, "was rejected", "must know our AE title NOBODY")


def several(asked: list[tuple[dict[str, str], tuple[str, ...]]]) -> list[Said]:
    """Several commands in one process; what each said."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.e2e.several"],
        input=json.dumps(asked),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return [Said(asked[n][1], *said) for n, said in enumerate(json.loads(result.stdout))]


def test_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    in_its_place = tmp_path / "data"
    in_its_place.write_text("in the way")
    # the last one refuses root as well
    places = [in_its_place, in_its_place / "below", Path("/proc/prescreen")]
    commands = [("serve",), *(("serve", "--only", r) for r in ROLES), ("status",), ("check",)]
    asked = [
        ({"PRESCREEN__DATA_DIR": str(place)}, command) for place in places for command in commands
    ]
    for (environment, command), said in zip(asked, several(asked), strict=True):
        place = environment["PRESCREEN__DATA_DIR"]
        status = 1 if command == ("check",) else 3
        says(said, status, place, "a folder this user may write")


def test_a_data_directory_that_no_node_has_used(tmp_path: Path) -> None:
    """A forgotten --config must not look as if the node had been stopped."""
    commands: list[tuple[str, ...]] = [
        ("hold",),
        ("release",),
        ("retry",),
        ("cancel", "1", "--why", "x"),
        ("rescreen", "1.2.3", "--why", "x"),
        ("erase", "1.2.3", "--why", "x"),
        ("audit", "list"),
        ("audit", "show", "1.2.3"),
        ("audit", "verify"),
        ("audit", "export"),
    ]
    environment = {"PRESCREEN__DATA_DIR": str(tmp_path)}
    for said in several([(environment, command) for command in commands]):
        says(said, 3, str(tmp_path), "no node has run here", "--config")
    assert list(tmp_path.iterdir()) == []


def test_a_reason_from_a_latin_1_terminal_stops_sending_all_the_same(tmp_path: Path) -> None:
    engine = node.open_store(load(data_dir=tmp_path)).engine
    command = [
        os.fsencode(sys.executable),
        b"-m",
        b"prescreen",
        b"hold",
        b"--why",
        b"verd\xe4chtig",
    ]
    environment = {**os.environb, b"PRESCREEN__DATA_DIR": bytes(tmp_path), b"LOGNAME": b"M\xfcller"}
    subprocess.run(command, env=environment, check=True, timeout=120)
    (held,) = audit.events(engine, kind="destination.held")
    assert (held.detail["who"], held.detail["why"]) == ("M\\xfcller", "verd\\xe4chtig")
    shown = [*command[:3], b"audit", b"show", b"verd\xe4chtig"]
    assert subprocess.run(shown, env=environment, check=False, timeout=120).returncode == 2
    engine.dispose()


def test_output_that_finds_no_room(home: House) -> None:
    with Path("/dev/full").open("w", encoding="ascii") as full:
        result = subprocess.run(
            [sys.executable, "-m", "prescreen", "audit", "export", "--config", str(home.config)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert result.returncode == 3
    assert "Traceback" not in result.stderr
    assert "could not be written: No space left on device" in result.stderr


def test_a_database_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "prescreen.db").write_bytes(b"something else " * 100)
    result = prescreen("status", PRESCREEN__DATA_DIR=str(tmp_path))
    says(result, 3, "prescreen.db", "not a database")


UNKNOWN = {
    ("echo", "nowhere"): ["'nowhere' is not configured", "known: pacs"],
    ("go-live", "nowhere", "--why", "x"): ["'nowhere' is not configured", "known: pacs"],
    ("hold", "--destination", "nowhere"): ["'nowhere' is not configured", "known: pacs"],
    ("retry", "--destination", "nowhere"): ["'nowhere' is not configured", "known: pacs"],
    ("hold", "--finding", "Fracture"): ["'Fracture' is no finding", "Atelectasis"],
    ("release", "--finding", "Fracture"): ["'Fracture' is no finding", "Atelectasis"],
    ("hold", "--finding", "Hernia", "--destination", "pacs"): ["--finding", "not both"],
    ("audit", "show", "1.2.3"): ["1.2.3: no study", "`prescreen audit list`"],
    ("rescreen", "1.2.3", "--why", "x"): ["1.2.3: no study", "`prescreen audit list`"],
    ("retry",): ["nothing is parked", "`prescreen status`"],
    ("retry", "7"): ["job 7", "no failed job"],
    ("retry", "7", "--destination", "pacs"): ["give a job or --destination", "not both"],
    ("retry", "9" * 20): ["Invalid value", "less than or equal to"],
    ("audit", "list", "--limit", "9" * 20): ["Invalid value for '--limit'"],
    ("audit", "list", "--limit", "-1"): ["Invalid value for '--limit'"],
    ("audit", "list", "--json", "--csv"): ["--json and --csv", "not both"],
    ("audit", "export", "--after", "9" * 20): ["Invalid value for '--after'"],
    ("audit", "export", "--json", "--format", "csv"): ["--json and --format csv", "not both"],
    ("audit", "show", ""): ["no study is named", "UID, accession number or job"],
    ("rescreen", " ", "--why", "x"): ["no study is named", "UID, accession number or job"],
    ("erase", "", "--why", "x"): ["no study is named", "UID, accession number or job"],
    ("erase", "1.2.3", "--why", " "): ["--why", "it stands in the audit log"],
    ("go-live", "pacs", "--why", ""): ["--why", "it stands in the audit log"],
    ("cancel", "--why", "x"): ["the row of a parked object or --destination, one of the two"],
    ("cancel", "99", "--why", "x"): ["nothing of that is parked"],
    ("cancel", "--destination", "gone", "--why", "x"): ["nothing of that is parked"],
    ("serve", "--only", "dance"): ["'dance'", "receive, screen, deliver"],
    ("go-live", "pacs"): ["--why"],
    ("screens",): ["No such command 'screens'"],
    ("demo", "/no/such/file"): ["/no/such/file", "no such file or folder"],
    ("screen", "x", "--out", "/dev/null/x"): ["--out /dev/null/x", "cannot be written"],
    ("audit", "verify", "--checkpoints", "/no/such/file"): ["/no/such/file", "cannot be read"],
}


def test_names_of_what_is_not_there(
    home: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = [({"PRESCREEN_CONFIG": str(home.config)}, command) for command in UNKNOWN]
    for said, words in zip(several(asked), UNKNOWN.values(), strict=True):
        says(said, 2, *words)
