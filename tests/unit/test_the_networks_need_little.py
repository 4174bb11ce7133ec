"""Training, and the bench of the networks, run where torch and a few others are all there is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import engines
from prescreen.nets import runtimes

ROOT = Path(__file__).parents[2]

#: What the node needs and a machine with a GPU may not have.
ABSENT = (
    *("pydicom", "pynetdicom", "highdicom", "sqlalchemy", "alembic", "pydantic", "typer", "rich"),
    *("structlog", "apscheduler", "pebble", "cryptography", "gdcm", "openjpeg", "onnx"),
    *("onnxruntime", "openvino", "pydantic_settings", "jpeg_ls", "pylibjpeg"),
)
BARE = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}))
"""


def bare(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BARE + code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_bench_of_the_networks_runs_with_torch_alone() -> None:
    code = "runpy.run_module('bench.engines', run_name='__main__', alter_sys=True)"
    said = bare(code, "--way", "folded", "--batches", "1", "--seconds", "0.01")
    assert said.returncode == 0, said.stderr
    told = json.loads(said.stdout.splitlines()[-1])
    assert set(told["images_s"]) == {"findings", "lungs_heart"}
    assert told["images_s"]["findings"]["1"] > 0 and told["difference"] < 1e-3


@pytest.mark.parametrize("module", ["train.findings", "train.lungs_heart"])
def test_training_is_imported_with_torch_alone(module: str) -> None:
    said = bare(f"import {module}")
    assert said.returncode == 0, said.stderr


def test_what_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(runtimes.NEEDS, "onnxruntime", ("no_such_module",))
    monkeypatch.setenv("PATH", str(tmp_path))
    ways = ("onnxruntime", "compiled", "cuda")
    told = engines.measured(tmp_path, [w for w in ways if engines.missing(w)])
    advice = "not installed: pip install 'prescreen[onnx]'"
    assert told["onnxruntime"] == {"skipped": advice}
    assert told["compiled"] == {"skipped": "no C++ compiler on this machine"}
    assert f"onnxruntime      {advice}" in engines.lines(told)


def test_a_way_that_fails_or_takes_too_long_is_said(tmp_path: Path) -> None:
    told = engines.measured(tmp_path, ["folded"], (1,), 0.01)
    assert "lungs_heart.json is missing" in told["folded"]["skipped"]
    told = engines.measured(tmp_path, ["folded"], (1,), 0.01, limit=0.05)
    assert told["folded"] == {"skipped": "not done within 0.05 s"}
