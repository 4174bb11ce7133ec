"""`prescreen status --running` is what a container's health check asks."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from prescreen.store.guard import Guard
from prescreen.supervisor import ROLES


def status(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    config = folder / "prescreen.toml"
    config.write_text(f'data_dir = "{folder}"\n')
    return subprocess.run(
        [sys.executable, "-m", "prescreen", "status", "--config", str(config), *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_node_whose_roles_all_run_is_well(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for role in ROLES:
            stack.enter_context(Guard(tmp_path, role))
        assert status(tmp_path, "--running", "--json").returncode == 0


def test_a_role_that_does_not_run_is_named(tmp_path: Path) -> None:
    with Guard(tmp_path, "receive"), Guard(tmp_path, "deliver"):
        told = status(tmp_path, "--running")
        assert told.returncode == 1
        assert told.stderr == f"{tmp_path}: does not run: screen\n"
        assert status(tmp_path).returncode == 0, "who only asks how it stands is told that"
