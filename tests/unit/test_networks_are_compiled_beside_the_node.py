"""Compiling takes minutes: it is done once, beside the node; what comes of it is written down."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prescreen import checks, node
from prescreen.errors import SettingsError
from prescreen.nets import compiled, runtimes
from prescreen.nets.compiled import Compiling, Verdict, files_for, folder_for, verdict_in
from prescreen.settings import load
from prescreen.store import audit

SHIPPED = node.shipped_weights()


def judged(kept: Path, pays: bool, weights: Path = SHIPPED) -> Path:
    folder = folder_for(kept, weights)
    folder.mkdir(parents=True)
    (folder / compiled.VERDICT).write_text(json.dumps({"pays": pays, "why": "measured"}))
    return folder


def test_compiled_networks_belong_to_weights_torch_and_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = folder_for(tmp_path, SHIPPED)
    assert first == folder_for(tmp_path, SHIPPED) != folder_for(tmp_path, SHIPPED / "densenet121")
    monkeypatch.setattr(compiled, "_processor", lambda: "another")
    assert folder_for(tmp_path, SHIPPED) != first
    monkeypatch.undo()
    monkeypatch.setattr(runtimes, "version", lambda name: f"{name} 99")
    assert folder_for(tmp_path, SHIPPED) != first


def test_they_are_used_where_they_pay(tmp_path: Path) -> None:
    assert files_for(None, SHIPPED) == {} == files_for(tmp_path, SHIPPED)
    folder = judged(tmp_path, pays=True)
    assert files_for(tmp_path, SHIPPED)["findings"] == folder / "findings.pt2"
    shutil.rmtree(folder)
    judged(tmp_path, pays=False)
    assert files_for(tmp_path, SHIPPED) == {}


def test_a_verdict_that_cannot_be_read_is_none_to_trust(tmp_path: Path) -> None:
    assert verdict_in(tmp_path) is None
    (tmp_path / compiled.VERDICT).write_text("{}")
    found = verdict_in(tmp_path)
    assert found is not None and not found.pays and "remove its folder" in found.why


def test_what_failed_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = shutil.copytree(SHIPPED, tmp_path / "weights")
    (broken / "findings.safetensors").write_bytes(b"not tensors")
    found = compiled.compile_weights(broken, tmp_path / "kept")
    assert found == Verdict(False, "compiling failed (WeightsError)")
    folder = folder_for(tmp_path / "kept", broken)
    assert verdict_in(folder) == found
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [folder.name]
    monkeypatch.setattr(runtimes, "compiler", lambda: "/usr/bin/g++")
    monkeypatch.setattr(Compiling, "_started", lambda self: pytest.fail("tried again"))
    assert not Compiling(broken, tmp_path / "kept", 0.0).is_ready()


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for age in range(5):
        (tmp_path / str(age)).mkdir()
        file = tmp_path / str(age) / compiled.VERDICT
        file.write_text("{}")
        os.utime(file, (1_000_000 - age, 1_000_000 - age))
    compiled._forget_old(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]


class Stub:
    """A process in place of the compiler's, which ends when it is told to."""

    def __init__(self) -> None:
        self.pid, self.ended = 2**22 + 1, False

    def poll(self) -> int | None:
        return 0 if self.ended else None

    def wait(self) -> int:
        self.ended = True
        return 0


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub()
    monkeypatch.setattr(runtimes, "compiler", lambda: "/usr/bin/g++")
    monkeypatch.setattr(Compiling, "_started", lambda self: made)
    return made


def test_the_node_hears_once_that_they_are_ready(tmp_path: Path, stub: Stub) -> None:
    compiling = Compiling(SHIPPED, tmp_path, 0.0)
    assert not compiling.is_ready()  # begun
    judged(tmp_path, pays=True)
    assert not compiling.is_ready()  # not over
    stub.ended = True
    assert compiling.is_ready() and not compiling.is_ready()


def test_nothing_is_begun_before_its_time(tmp_path: Path, stub: Stub) -> None:
    compiling = Compiling(SHIPPED, tmp_path, 3600.0)
    assert not compiling.is_ready() and compiling._process is None
    compiling.close()


@pytest.mark.parametrize("limit", [0.0, compiled.LIMIT])
def test_what_takes_too_long_or_is_not_needed_any_more_leaves_nothing(
    tmp_path: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch, limit: float
) -> None:
    monkeypatch.setattr(compiled, "LIMIT", limit)
    compiling = Compiling(SHIPPED, tmp_path, 0.0)
    compiling.is_ready()
    (tmp_path / ".draft-1").mkdir()
    compiling.is_ready()
    compiling.close()
    assert stub.ended and list(tmp_path.iterdir()) == []


def test_a_process_of_its_own_compiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights that it refuses at once: the real command, run and waited for."""
    broken = shutil.copytree(SHIPPED, tmp_path / "weights")
    (broken / "lungs_heart.safetensors").write_bytes(b"")
    monkeypatch.setattr(runtimes, "compiler", lambda: "/usr/bin/g++")
    compiling = Compiling(broken, tmp_path / "kept", 0.0)
    _wait(lambda: not compiling.is_ready() and not compiling._asked)
    found = verdict_in(folder_for(tmp_path / "kept", broken))
    assert found == Verdict(False, "compiling failed (WeightsError)")


def test_check_says_what_the_networks_run_on_and_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = load(data_dir=tmp_path)
    assert checks._engine(settings).startswith("not run yet; the first of these that answers")
    store = node.open_store(settings)
    over = ["openvino: not installed: pip install 'prescreen[openvino]'"]
    audit.record(store.engine, "weights.loaded", {"engine": "torch 2.6", "passed_over": over})
    said = checks._engine(settings)
    assert said.startswith("torch 2.6 since 2") and said.endswith(f"UTC ({over[0]})")
    store.engine.dispose()
    monkeypatch.setattr(runtimes, "compiler", lambda: None)
    wanted = load(data_dir=tmp_path, screen={"engine": "compiled"})
    with pytest.raises(SettingsError, match="'compiled' cannot be had \\(no C\\+\\+ compiler"):
        checks._engine(wanted)


def _wait(over: Callable[[], bool]) -> None:
    until = time.monotonic() + 120
    while not over():
        assert time.monotonic() < until
        time.sleep(0.1)
