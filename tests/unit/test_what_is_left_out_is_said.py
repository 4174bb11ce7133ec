"""Without radiographs the tests that need them are listed; on CI the run ends and says why.

Asked of pytest itself, alone and spread over workers as `make test` spreads it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = "tests/unit/test_splits_cross_no_patient.py"
NEEDS_DATA = f"{FILE}::test_the_radiographs_at_hand_fall_into_even_folds"
WAYS: list[tuple[str, ...]] = [("-n0",), ("-n", "2", "--dist", "loadfile")]


def run(way: tuple[str, ...], **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pytest", *way, "-p", "no:cacheprovider", FILE],
        cwd=ROOT,
        env={**os.environ, "CI": "", "PRESCREEN_DATA": "/no/such/folder", **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("way", WAYS)
def test_what_needs_radiographs_is_listed(way: tuple[str, ...]) -> None:
    said = run(way)
    assert said.returncode == 0, said.stdout
    assert "no radiographs at /no/such/folder: " in said.stdout
    assert NEEDS_DATA in said.stdout.splitlines()


@pytest.mark.parametrize("way", WAYS)
def test_on_ci_it_is_a_failure(way: tuple[str, ...]) -> None:
    said = run(way, CI="true")
    assert said.returncode == 4, said.stdout
    assert "no radiographs at /no/such/folder: set PRESCREEN_DATA" in said.stdout + said.stderr
    assert "INTERNALERROR" not in said.stdout
