"""What tests share lies where pytest removes it, also where a worker or a child was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import canaries, run_folder, store_bench


def test_it_lies_below_pytests_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    base = tmp_path_factory.getbasetemp()
    assert base in canaries.sample().parents
    assert base in store_bench._empty().parents


def test_so_does_that_of_a_process_that_is_killed(tmp_path: Path) -> None:
    code = "import os; from tests.canaries import sample; print(sample()); os.kill(os.getpid(), 9)"
    environment = {**os.environ, run_folder.BELOW: str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert [folder.name[:16] for folder in tmp_path.iterdir()] == ["prescreen-tests-"]


def test_without_pytest_it_goes_with_its_process(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    del environment[run_folder.BELOW]
    code = "from tests.canaries import sample; assert sample().is_file()"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
