"""`prescreen demo`: what a new user sees first."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest
from PIL import Image

from prescreen.study import LABELS
from tests.e2e.house import chest, small, wait_until
from tests.unit.test_demo_names_what_it_leaves_out import directory


def _demo(out: Path, *paths: Path, status: int = 0) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "prescreen", "demo", *map(str, paths), "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    log = "".join(path.read_text() for path in out.glob("*/node.log"))
    assert result.returncode == status, f"{result.stdout}\n{result.stderr}\n{log}"
    assert "Traceback" not in result.stderr + log
    return result.stdout


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> str:
    return _demo(tmp_path_factory.mktemp("demo"))


def test_every_study_has_its_outcome(shown: str) -> None:
    assert re.findall(r"outcome: (\w+)", shown) == ["screened"] * 3 + ["out_of_scope"]
    assert "out of scope (body_part)" in shown


def test_the_14_findings_are_shown_with_their_numbers(shown: str) -> None:
    for label in LABELS:
        rows = re.findall(rf"{label} +│ +0\.\d{{3}} +│ +0\.\d{{3}} +│ +(\w+)", shown)
        assert len(rows) == 3, label
        assert set(rows) <= {"flagged", "not_flagged", "undetermined", "not_evaluated"}


def test_the_captures_lie_where_it_says(shown: str) -> None:
    pictures = [Path(path) for path in re.findall(r"as a picture: (\S+\.png)", shown)]
    assert len(pictures) == 3
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.height >= 720
    reports = [Path(path) for path in re.findall(r"has the sr: (\S+\.dcm)", shown)]
    assert len(reports) == 3
    assert all(path.is_file() for path in reports)


def test_the_audit_trail_is_shown(shown: str) -> None:
    for kind in ("instance.kept", "job.claimed", "job.screened", "object.delivered", "job.done"):
        assert shown.count(kind) >= 3, kind
    assert "Not a diagnosis" in shown


def test_the_users_own_files_are_taken(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    chest(own)
    (own / "notes.txt").write_text("not a radiograph")
    directory(own)
    shown = _demo(tmp_path / "out", own)
    assert re.findall(r"outcome: (\w+)", shown) == ["screened"]
    assert "study 1 of 1" in shown
    assert f"left out: {own}/DICOMDIR is a DICOMDIR: a list of files, and no image\n" in shown
    assert "left out: files that are not DICOM (Part 10): 1\n" in shown
    assert "files and folders left out: 2\n" in shown
    assert "exit status" not in shown


def _without_its_name(path: Path) -> Path:
    """The object without (0002,0003), which a file must have and readers do without."""
    ds = pydicom.dcmread(path)
    del ds.file_meta.MediaStorageSOPInstanceUID
    pydicom.dcmwrite(path, ds, enforce_file_format=False)
    return path


def test_a_file_that_cannot_be_sent_keeps_none_from_being_sent(tmp_path: Path) -> None:
    own = tmp_path / "my [red]films [/bold]"
    own.mkdir(parents=True)
    for _ in range(2):
        small(own)
    nameless = _without_its_name(small(own))
    out = tmp_path / 'o"ut [red]x'
    shown = _demo(out, own, status=1)
    assert f"{nameless}: was not sent: has no file meta information\n" in shown
    assert "study 2 of 2" in shown
    assert f"everything lies in {out}/" in shown
    assert "exit status 1: 1 of 3 files not taken\n" in shown


def _running(session: int) -> set[int]:
    """The processes of a session, but those that have ended and are not yet waited for."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = stat.read_text().rsplit(") ", 1)[1].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.add(int(stat.parent.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_demo_that_is_ended_leaves_nothing_running(tmp_path: Path, number: int) -> None:
    command = [sys.executable, "-m", "prescreen", "demo", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as demo:
        # itself, `serve` and its three roles
        wait_until(lambda: len(_running(demo.pid)) >= 5, "the node of the demo runs")
        demo.send_signal(number)
        assert demo.wait(60) == -number
        wait_until(lambda: not _running(demo.pid), "all that the demo started has ended", 120)
