"""`python -m bench --quick` runs, prints its table, writes every figure; none is judged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.processes import children
from tests.e2e.house import wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, object]]:
    target = tmp_path_factory.mktemp("bench") / "bench.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "--json", str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(target.read_text())


def test_every_bar_has_a_figure(run: tuple[str, dict[str, object]]) -> None:
    table, found = run
    bars = found["bars"]
    assert isinstance(bars, list)
    assert [bar["bar"] for bar in bars] == [0.9, 60.0, 25.0, 120.0, 3.0]
    for bar in bars:
        holds = bar["value"] >= bar["bar"] if bar["at_least"] else bar["value"] <= bar["bar"]
        assert bar["met"] <= holds  # "met" is never said of what is not
        assert bar["value"] > 0
    assert "met" in table


def test_the_cost_is_split_by_stage(run: tuple[str, dict[str, object]]) -> None:
    end = run[1]["end_to_end"]
    assert isinstance(end, dict)
    assert list(end["stages_ms"]) == [
        "receive and keep",
        "claim and loop",
        "open and decode",
        "look (gate)",
        "input preparation",
        "anatomy and findings",
        "report",
        "regions",
        "capture",
        "last look",
        "write and settle",
        "deliver",
    ]
    # a stage whose function was renamed or left out would stay at nothing
    for stage in ("look (gate)", "input preparation", "report", "capture", "write and settle"):
        assert end["stages_ms"][stage] > 0, stage
    assert end["networks_ms"] > 0
    assert end["bytes_alone"]["bytes_out"] > 1_000_000 and end["bytes_alone"]["cpu_ms"] > 0
    assert set(end["outcomes"]) == {"screened"}
    assert list(end["compressed"]) == ["RLE"]


def test_rates_memory_and_latency_stand_beside(run: tuple[str, dict[str, object]]) -> None:
    table, found = run
    assert {"machine", "receive", "end_to_end", "objects", "memory", "latency", "bars"} <= set(
        found
    )
    for words in ("storescp, not durable", "bare networks", "Latency of one study", "folded"):
        assert words in table
    networks = found["networks"]
    assert isinstance(networks, dict)
    assert networks["folded"]["images_s"]["findings"]["1"] > 0
    latency = found["latency"]
    assert isinstance(latency, dict)
    assert latency["total_ms"] == pytest.approx(sum(latency["stages_ms"].values()))


def test_every_object_has_its_cost_and_results_their_share(
    run: tuple[str, dict[str, object]],
) -> None:
    table, found = run
    objects, end = found["objects"], found["end_to_end"]
    assert isinstance(objects, dict)
    assert isinstance(end, dict)
    assert list(objects["each"]) == [
        *("sr", "regions", "capture", "text", "presentation", "segmentation"),
        *("regions with attention", "capture with attention"),
        *("notice sr", "notice text", "notice capture", "rejection"),
    ]
    for cost in objects["each"].values():
        assert cost["build_ms"] > 0 < cost["look_ms"]
    for name in ("modern", "classic"):
        total = objects["presets"][name]
        assert 0 < total["documents_ms"] < total["build_ms"]
        assert f"{name}, documents alone" in table
    assert 0 < end["results_share_of_own_cpu"] < 1
    assert 0 < end["results_share_of_wall_time"] < 1


def test_an_attack_is_measured_before_during_and_after(tmp_path: Path) -> None:
    target = tmp_path / "attacks.json"
    one = ("--server", "prescreen", "--row", "W1", "--size", "5", "--seconds", "1")
    done = subprocess.run(
        [sys.executable, "-m", "bench.attacks", *one, "--json", str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "W1 silent" in done.stdout
    (found,) = json.loads(target.read_text())["results"]
    assert 0 < found["answered"] == found["echoes"]
    assert found["stored"] and found["echo_after"]
    assert found["after"]["descriptors"] <= found["before"]["descriptors"]
    assert found["during"]["descriptors"] >= found["before"]["descriptors"] + 5


def test_a_bench_that_is_stopped_leaves_nothing(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    options = ("--quick", "--only", "end_to_end", "--json", str(tmp_path / "bench.json"))
    command = [sys.executable, "-m", "bench", *options]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
        spool = "prescreen-bench-*/end_to_end/data/spool"
        wait_until(lambda: any(tmp_path.glob(spool)), "its node stands")
        running = children(process.pid)
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    left = {path.name for path in tmp_path.iterdir()}
    assert not {name for name in left if not name.startswith("torchinductor_")}, "torch's cache"
    assert running and not any(Path(f"/proc/{pid}").exists() for pid in running)
