"""`prescreen screen`: one JSON object a file, the report and its captures in a folder."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.uid import UID

from prescreen.dicom.capture import SECONDARY_CAPTURE
from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.study import LABELS, FindingState
from tests.canaries import sample
from tests.peers.dicom3tools import errors_of

KEYS = {"path", "sop_instance_uid", "outcome", "reason", "findings", "cardiothoracic_ratio"}
COPIES = {"chest.dcm": "RG1_UNCR.dcm", "j2k.dcm": "RG1_J2KR.dcm", "leg.dcm": "RG3_UNCR.dcm"}


@dataclass(frozen=True)
class Said:
    """What one run said and wrote."""

    status: int
    lines: dict[str, dict[str, Any]]
    error: str
    out: Path
    folder: Path

    def of(self, name: str) -> dict[str, Any]:
        return self.lines[str(self.folder / name)]


def _damaged(folder: Path) -> None:
    """The chest with what can be wrong with a file, each under UIDs of its own."""
    whole = (folder / "chest.dcm").read_bytes()
    (folder / "half.dcm").write_bytes(whole[: len(whole) // 2])
    (folder / "stub.dcm").write_bytes(whole[:700])
    (folder / "empty.dcm").write_bytes(b"")
    wrong: dict[str, dict[str, Any]] = {
        "no_pixels.dcm": {"PixelData": None},
        "rows.dcm": {"Rows": 4_000},
        "many_rows.dcm": {"Rows": 65_535},
        "no_rows.dcm": {"Rows": 0},
        "columns.dcm": {"Columns": None},
        "syntax.dcm": {},
    }
    for name, attributes in wrong.items():
        ds = pydicom.dcmread(folder / "chest.dcm")
        ds.StudyInstanceUID = UID(f"2.25.{int(name.encode().hex(), 16) % 10**9}")
        ds.SOPInstanceUID = UID(f"{ds.StudyInstanceUID}.1")
        for keyword, value in attributes.items():
            if value is None:
                del ds[keyword]
            else:
                setattr(ds, keyword, value)
        ds.save_as(folder / name)
    ds = pydicom.dcmread(folder / "syntax.dcm")
    ds.file_meta.TransferSyntaxUID = UID("1.2.3.4")
    ds.save_as(folder / "syntax.dcm", implicit_vr=False, little_endian=True)


def _odd(folder: Path) -> None:
    """What lies in folders beside files; two patients under one study, as anonymising leaves."""
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "loop").symlink_to(folder)
    for number in (1, 2):
        ds = pydicom.dcmread(folder / "chest.dcm")
        ds.StudyInstanceUID, ds.PatientID = UID("2.25.4711"), f"ANON{number}"
        ds.SOPInstanceUID = UID(f"2.25.4711.{number}")
        ds.save_as(folder / "elsewhere" / f"anonymous{number}.dcm")
    del ds.SeriesInstanceUID
    ds.save_as(folder / "elsewhere" / "nameless.dcm")
    ds.SeriesInstanceUID = UID("2.25.4711.9")
    del ds.SOPClassUID
    ds.save_as(folder / "elsewhere" / "classless.dcm", enforce_file_format=False)
    (folder / "link").symlink_to(folder.parent / "linked")
    (folder.parent / "linked").mkdir()
    shutil.copy(folder / "text.txt", folder.parent / "linked" / "behind.txt")
    (folder / "broken").symlink_to(folder / "nowhere")
    (folder / "itself").symlink_to(folder / "itself")
    os.mkfifo(folder / "pipe")


#: Beside the files: what is none, and what lies behind a link.
ODD = ("link/behind.txt", "broken", "itself", "pipe")


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Said]:
    folder, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    (folder / "below").mkdir()
    for name, taken in [*COPIES.items(), ("below/slice.dcm", "CT_small.dcm")]:
        shutil.copy(sample(taken), folder / name)
    (folder / "text.txt").write_text("not a radiograph")
    (out / "mine.txt").write_text("was here before")
    _damaged(folder)
    _odd(folder)
    node = tmp_path_factory.mktemp("node")
    (node / "prescreen.db").write_text("what it reads without being asked is not its business")
    command = [sys.executable, "-m", "prescreen", "screen", str(folder), str(folder / "missing")]
    result = subprocess.run(
        [*command, "--out", str(out), "--json"],
        env={**os.environ, "PRESCREEN__DATA_DIR": str(node)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    by_path = {line["path"]: line for line in lines}
    assert len(by_path) == len(lines), "one line a file"
    yield Said(result.returncode, by_path, result.stderr, out, folder)


def test_it_ends_well_when_every_file_got_its_line(said: Said) -> None:
    assert said.status == 0
    assert "Traceback" not in said.error
    files = [path for path in said.folder.rglob("*") if path.is_file()]
    odd = [said.folder / name for name in ODD]
    assert set(said.lines) == {str(path) for path in [*files, *odd, said.folder / "missing"]}


def test_each_of_two_patients_under_one_study_is_judged_by_itself(said: Said) -> None:
    one, other = (said.of(f"elsewhere/anonymous{number}.dcm") for number in (1, 2))
    assert one["outcome"] == other["outcome"] == "screened"
    assert one["findings"] == other["findings"] == said.of("chest.dcm")["findings"]
    reports = [pydicom.dcmread(path) for path in said.out.glob("*.dcm")]
    named = [ds.PatientID for ds in reports if ds.StudyInstanceUID == "2.25.4711"]
    assert set(named) == {"ANON1", "ANON2"}


def test_what_no_report_could_refer_to_gets_its_line_and_no_objects(said: Said) -> None:
    for name in ("nameless.dcm", "classless.dcm"):
        assert said.of(f"elsewhere/{name}")["outcome"] == "screened"
        words = "no objects: study, series, instance and its SOP class need UIDs to refer to"
        assert f"{name}: {words}" in said.error
    written = [pydicom.dcmread(path) for path in said.out.glob("*.dcm")]
    assert all(ds.StudyInstanceUID.is_valid for ds in written)


def test_each_line_has_the_documented_keys(said: Said) -> None:
    assert all(set(line) == KEYS for line in said.lines.values())
    assert {line["outcome"] for line in said.lines.values()} == {"screened", "not_screened"}
    assert all(
        (line["outcome"] == "screened") == (line["reason"] is None) == bool(line["findings"])
        for line in said.lines.values()
    )


@pytest.mark.parametrize("name", ["chest.dcm", "j2k.dcm"])
def test_a_chest_gets_14_findings_and_a_ratio(said: Said, name: str) -> None:
    line = said.of(name)
    assert line["outcome"] == "screened"
    assert list(line["findings"]) == list(LABELS)
    for finding in line["findings"].values():
        assert set(finding) == {"probability", "threshold", "state"}
        assert 0 <= finding["probability"] <= 1
        assert 0 < finding["threshold"] < 1
        assert finding["state"] in set(FindingState)
    assert 0.2 < line["cardiothoracic_ratio"] < 0.9


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("leg.dcm", "body_part"),
        ("below/slice.dcm", "modality"),
        ("text.txt", "unparsable"),
        ("empty.dcm", "unparsable"),
        ("missing", "unreadable"),
        ("broken", "unreadable"),
        ("itself", "unreadable"),
        ("pipe", "unreadable"),
        ("link/behind.txt", "unparsable"),
        ("half.dcm", "truncated"),
        ("stub.dcm", "truncated"),
        ("no_pixels.dcm", "no_pixel_data"),
        ("rows.dcm", "truncated"),
        ("many_rows.dcm", "too_large"),
        ("no_rows.dcm", "implausible_pixels"),
        ("columns.dcm", "implausible_pixels"),
        ("syntax.dcm", "unsupported_transfer_syntax"),
    ],
)
def test_what_is_not_screened_says_why(said: Said, name: str, reason: str) -> None:
    line = said.of(name)
    assert (line["outcome"], line["reason"]) == ("not_screened", reason)
    assert (line["findings"], line["cardiothoracic_ratio"]) == ({}, None)


def test_objects_lie_in_the_folder_under_their_uid(said: Said) -> None:
    assert (said.out / "mine.txt").read_text() == "was here before"
    written = {path.stem: pydicom.dcmread(path) for path in said.out.glob("*.dcm")}
    assert all(uid == ds.SOPInstanceUID for uid, ds in written.items())
    captures = {uid for uid, ds in written.items() if ds.SOPClassUID == SECONDARY_CAPTURE}
    assert {path.stem for path in said.out.glob("*.png")} == captures
    chest = pydicom.dcmread(said.folder / "chest.dcm", stop_before_pixels=True)
    of_chest = [ds for ds in written.values() if ds.StudyInstanceUID == chest.StudyInstanceUID]
    assert sum(ds.SOPClassUID == COMPREHENSIVE_3D_SR for ds in of_chest) >= 2, "one a coding"
    assert {str(ds.PatientName) for ds in of_chest} == {str(chest.PatientName)}


def _screen(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prescreen", "screen", *arguments]
    stdout = more.pop("stdout", subprocess.PIPE)
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=300, check=False, **more
    )


def test_a_path_that_is_empty_is_not_the_folder_one_is_in(said: Said) -> None:
    result = _screen("", "--out", str(said.out))
    assert result.returncode == 2
    assert "a path is empty" in result.stderr


def test_without_standard_output_there_is_nowhere_for_the_lines(said: Said) -> None:
    command = f"{sys.executable} -m prescreen screen {said.folder}/text.txt --out {said.out} >&-"
    result = subprocess.run(
        ["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=300, check=False
    )
    assert result.returncode == 2
    assert "standard output is closed: a line for each file is written there" in result.stderr


def test_objects_that_find_no_room_are_missed_and_every_file_has_its_line(
    said: Said, tmp_path: Path
) -> None:
    """Files of at most a megabyte: the report fits, the capture does not."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    paths = [str(said.folder / name) for name in ("chest.dcm", "text.txt")]
    result = _screen(*paths, "--out", str(tmp_path), "--json", preexec_fn=limited)
    assert [json.loads(line)["path"] for line in result.stdout.splitlines()] == paths
    assert result.returncode == 3
    assert "chest.dcm: objects are missing" in result.stderr
    assert f"{tmp_path}: cannot be written: File too large; free room there" in result.stderr
    assert all(path.stat().st_size < 1 << 20 for path in tmp_path.iterdir())


def test_dciodvfy_finds_no_error_in_them(said: Said) -> None:
    written = sorted(said.out.glob("*.dcm"))
    assert written
    assert {path.name: found for path in written if (found := errors_of(path))} == {}
