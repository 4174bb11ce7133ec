"""`make demo DICOM=path`: the path arrives as it was typed, whatever make and shell see in it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment whose `prescreen` prints what it is given, each argument on its own."""
    program = tmp_path / "venv" / "bin" / "prescreen"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nprintf '<%s>' \"$@\"\n")
    program.chmod(0o755)
    (tmp_path / "venv" / ".installed").touch()
    return tmp_path / "venv"


def make(venv: Path, *variables: str, **environment: str) -> str:
    return subprocess.run(
        ["make", "-s", "demo", f"VENV={venv}", *variables],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


@pytest.mark.parametrize(
    "path",
    [
        "/my/files",
        "/my films/one",
        "it's",
        'a "quoted" one',
        "$HOME and $(x and $(shell echo y)",
        "`id` * ; # \\ é",
        "-n",
        "two\nlines",
    ],
)
def test_one_path_arrives(venv: Path, path: str) -> None:
    arrived = f"<demo><--out><demo-out><--><{path}>"
    assert make(venv, f"DICOM={path}") == arrived
    assert make(venv, DICOM=path) == arrived


def test_without_a_path_none_arrives(venv: Path) -> None:
    assert make(venv) == "<demo><--out><demo-out>"
