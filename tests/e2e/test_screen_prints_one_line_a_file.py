"""`prescreen screen`: one JSON object a file, the report and its captures in a folder."""

from __future__ import annotations

import json
import shutil
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


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Said]:
    folder, out = tmp_path_factory.mktemp("in"), tmp_path_factory.mktemp("out")
    (folder / "below").mkdir()
    for name, taken in [*COPIES.items(), ("below/slice.dcm", "CT_small.dcm")]:
        shutil.copy(sample(taken), folder / name)
    (folder / "text.txt").write_text("not a radiograph")
    (out / "mine.txt").write_text("was here before")
    _damaged(folder)
    command = [sys.executable, "-m", "prescreen", "screen", str(folder), str(folder / "missing")]
    result = subprocess.run(
        [*command, "--out", str(out), "--json"],
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
    assert set(said.lines) == {str(path) for path in [*files, said.folder / "missing"]}


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


def test_dciodvfy_finds_no_error_in_them(said: Said) -> None:
    written = sorted(said.out.glob("*.dcm"))
    assert written
    assert {path.name: found for path in written if (found := errors_of(path))} == {}
