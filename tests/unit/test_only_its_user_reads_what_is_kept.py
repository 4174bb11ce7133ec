"""Whatever the shell allows to others: who is no user of the node reads nothing that it writes."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from prescreen import checks
from prescreen.errors import PrescreenError
from prescreen.settings import Settings


def prescreen(config: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prescreen", *arguments, "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
        umask=0o000,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "prescreen.toml"
    path.write_text(f'data_dir = "{tmp_path / "data"}"\n')
    (tmp_path / "data").mkdir(mode=0o755)
    return path


def test_nothing_that_a_command_writes_is_for_others(config: Path, tmp_path: Path) -> None:
    prescreen(config, "status")
    prescreen(config, "backup", str(tmp_path / "copy"))
    prescreen(config, "audit", "checkpoint", str(tmp_path / "signed.jsonl"))
    written = [p for p in tmp_path.rglob("*") if p not in (config, tmp_path / "data")]
    assert tmp_path / "data" / "prescreen.db" in written
    open_to_others = [p for p in written if stat.S_IMODE(p.stat().st_mode) & stat.S_IRWXO]
    assert open_to_others == []


def test_check_says_who_else_may_read_it(config: Path, tmp_path: Path) -> None:
    prescreen(config, "status")
    settings = Settings(data_dir=tmp_path / "data")
    assert checks.others_may_not_read(settings)
    (tmp_path / "data" / "prescreen.db").chmod(0o644)
    with pytest.raises(PrescreenError, match="every user of this machine may read"):
        checks.others_may_not_read(settings)
    (tmp_path / "data").chmod(0o750)
    assert checks.others_may_not_read(settings)
