"""`make demo` on a machine that lacks something says what, and how to get it, before it begins."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import APT

ROOT = Path(__file__).parents[2]


def make(folder: Path, python: str | Path, target: str = "demo", **variables: str) -> str:
    """What `make` says as it fails, with an environment that is not there yet."""
    named = [f"PYTHON={python}", f"VENV={folder / 'venv'}"]
    named += [f"{key}={value}" for key, value in variables.items()]
    told = subprocess.run(
        ["make", target, *named], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert told.returncode == 2, told.stdout
    assert not (folder / "venv").exists()
    return told.stderr


def python_that_fails_on(folder: Path, words: str) -> Path:
    path = folder / "python"
    path.write_text(f'#!/bin/sh\ncase "$*" in *{words}*) exit 1;; esac\necho Python 3.9.2\n')
    path.chmod(0o755)
    return path


def test_no_python(tmp_path: Path) -> None:
    said = make(tmp_path, tmp_path / "none")
    assert "missing" in said and "apt-get install -y python3 python3-venv" in said


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        ("version_info", "Python 3.9.2 is too old: 3.11 or newer"),
        ("ensurepip", "missing: Python's venv module; apt-get install -y python3-venv"),
    ],
)
def test_a_python_that_will_not_do(tmp_path: Path, fails: str, says: str) -> None:
    assert says in make(tmp_path, python_that_fails_on(tmp_path, fails))


def test_no_container_engine(tmp_path: Path) -> None:
    assert "apt-get install -y podman" in make(tmp_path, "python3", "image", ENGINE="")


def test_no_peers_are_named_with_the_one_line_that_brings_all(tmp_path: Path) -> None:
    """The PATH has nothing but what make itself needs."""
    for name in ("sh", "ls", "python3"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    said = make(tmp_path, "python3", "peers", PATH=str(tmp_path), SHELL=str(tmp_path / "sh"))
    assert "missing peers: storescu storescp echoscu" in said
    assert APT in said
    assert f"APT := {APT}\n" in (ROOT / "Makefile").read_text()
