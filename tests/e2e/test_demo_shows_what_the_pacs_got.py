"""`prescreen demo`: what a new user sees first."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from prescreen.study import LABELS
from tests.e2e.house import chest


def _demo(out: Path, *paths: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "prescreen", "demo", *map(str, paths), "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    log = "".join(path.read_text() for path in out.glob("*/node.log"))
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}\n{log}"
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
    shown = _demo(tmp_path / "out", own)
    assert re.findall(r"outcome: (\w+)", shown) == ["screened"]
    assert "study 1 of 1" in shown
