"""CPU milliseconds a study of the node's own processes, by stage, beyond the two networks."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom

from bench import latency, stages
from bench.pictures import CODINGS, coded, computed, on_the_wire
from bench.processes import children_cpu_ms, cpu_ms, told
from bench.sender import Association, Object
from bench.standing import Standing, instrumented, role, standing, wait_until
from prescreen.settings import MODERN

#: CPU milliseconds a study, the networks' own passes left out.
BAR = 60.0
OBJECTS = len(MODERN)  # findings, regions and a capture

RECEIVE, DELIVER = "receive and keep", "deliver"
#: In the order of a study's way; without the networks.
OWN = (RECEIVE, *(stage for stage in stages.STAGES if stage != stages.NETWORKS), DELIVER)
#: What building results and looking at them takes.
RESULTS = (stages.REPORT, stages.REGIONS, stages.CAPTURE, stages.EGRESS)


@dataclass(frozen=True)
class Round:
    """What studies cost that were sent together: CPU ms a study by stage, wall-clock seconds."""

    studies: int
    cpu: Mapping[str, float]
    seconds: float
    #: wall-clock ms a study in which its results were built and looked at
    results_wall_ms: float

    @property
    def results_share(self) -> float:
        """Of the time from the first study to the last result at the PACS."""
        return self.results_wall_ms * self.studies / (1000 * self.seconds)

    @property
    def own(self) -> float:
        """CPU milliseconds a study, the networks left out."""
        return sum(self.cpu[stage] for stage in OWN)


@dataclass(frozen=True)
class _Reading:
    """CPU milliseconds of the node so far, by stage, and wall-clock ms spent on results."""

    cpu: Mapping[str, float]
    results_wall_ms: float

    @classmethod
    def taken(cls, stands: Standing, log: Path) -> _Reading:
        receiver, screener, deliverer = (
            stands.running[name].pid for name in ("receive", "screen", "deliver")
        )
        spent = json.loads(log.read_text().splitlines()[-1])
        cpu, results = dict(spent["cpu"]), sum(spent["wall"][stage] for stage in RESULTS)
        whole = cpu_ms(screener)
        cpu[stages.LOOP] += whole - sum(cpu.values())  # since the last batch: looks at the queue
        cpu[stages.OPEN] += children_cpu_ms(screener)
        return cls({**cpu, RECEIVE: cpu_ms(receiver), DELIVER: cpu_ms(deliverer)}, results)


def measured(
    folder: Path,
    *,
    studies: int,
    rounds: int,
    compressed: int,
    alone: int,
    codings: Mapping[str, Any] = CODINGS,
) -> dict[str, Any]:
    """`rounds` times `studies` uncompressed CR of 4 megapixels, then `compressed` of each coding.

    Each study comes over an association of its own. Figures are medians over the rounds. At the
    end `alone` studies come one by one: their latency stands under `latency`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    picture = computed()
    log = folder / "stages.jsonl"
    sent = on_the_wire(picture)
    with _node(folder, log) as stands:
        _through(stands, sent, min(8, studies), log, warm=False)  # loads what is loaded when needed
        taken = [_through(stands, sent, studies, log) for _ in range(rounds)]
        others = {
            name: _compressed(stands, picture, syntax, compressed, log, folder)
            for name, syntax in codings.items()
        }
        waited = latency.measured(stands, studies=alone)
        outcomes = _outcomes(stands)
        result = _bytes_of_a_result(stands)
    bare = _bare(picture, folder, studies)
    kept = _bytes_alone(folder / "bytes", len(sent.data_set), result, studies)
    apart = {"compressed": others, "outcomes": outcomes, "latency": waited, "bytes_alone": kept}
    return _summary(taken, bare) | apart


def _node(folder: Path, log: Path) -> Any:
    roles = {
        "receive": role("receive"),
        "screen": instrumented(log),
        "deliver": role("deliver"),
    }
    return standing(folder, roles)


def _through(stands: Standing, sent: Object, studies: int, log: Path, warm: bool = True) -> Round:
    """Send studies, wait until all results are with the PACS, and see what that took."""
    before = _Reading.taken(stands, log) if warm else None
    delivered = len(stands.events("object.delivered"))
    begun = time.time()
    for _ in range(studies):
        with Association(stands.port, "PRESCREEN", sent) as association:
            association.store()
    awaited = delivered + studies * OBJECTS
    wait_until(lambda: len(stands.events("object.delivered")) >= awaited, "delivered")
    ended = stands.events("object.delivered")[-1].at.timestamp()
    time.sleep(1)
    after = _Reading.taken(stands, log)
    cpu = {
        stage: (after.cpu[stage] - (before.cpu[stage] if before else 0)) / studies
        for stage in after.cpu
    }
    results = (after.results_wall_ms - (before.results_wall_ms if before else 0)) / studies
    return Round(studies, cpu, ended - begun, results)


def _compressed(
    stands: Standing,
    picture: pydicom.FileDataset,
    syntax: pydicom.uid.UID,
    studies: int,
    log: Path,
    folder: Path,
) -> dict[str, float]:
    sent = on_the_wire(coded(picture, syntax, folder))
    taken = _through(stands, sent, studies, log)
    return {
        "own_ms": taken.own,
        "open_and_decode_ms": taken.cpu[stages.OPEN],
        "megabytes": len(sent.data_set) / 1e6,
    }


def _outcomes(stands: Standing) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kind in ("screened", "not_screened", "out_of_scope", "failed"):
        if found := len(stands.events(f"job.{kind}")):
            counts[kind] = found
    return counts


def _bare(picture: pydicom.FileDataset, folder: Path, images: int) -> dict[str, float]:
    """The networks alone, in a process of their own, on the same picture."""
    file = folder / "bare.dcm"
    picture.save_as(file)
    return told("bench.networks", str(file), str(images))


def _bytes_of_a_result(stands: Standing) -> int:
    """The objects of the last study answered, together."""
    folders = stands.settings.data_dir / "spool" / "results"
    last = max((p.parent for p in folders.rglob("*.dcm")), key=lambda path: path.stat().st_mtime)
    return sum(path.stat().st_size for path in last.glob("*.dcm"))


def _bytes_alone(folder: Path, came: int, go: int, times: int) -> dict[str, float]:
    """What keeping as many bytes costs with nothing done to them, in a process of its own."""
    folder.mkdir()
    return told("bench.bytes_alone", str(folder), str(came), str(go), str(times))


def _summary(taken: list[Round], bare: dict[str, float]) -> dict[str, Any]:
    rate = statistics.median(one.studies / one.seconds for one in taken)
    own = statistics.median(one.own for one in taken)
    results = statistics.median(sum(one.cpu[stage] for stage in RESULTS) for one in taken)
    return {
        "studies": taken[0].studies,
        "rounds_own_ms": [one.own for one in taken],
        "own_ms": own,
        "stages_ms": {stage: statistics.median(one.cpu[stage] for one in taken) for stage in OWN},
        "results_ms": results,
        "results_share_of_own_cpu": results / own,
        "results_share_of_wall_time": statistics.median(one.results_share for one in taken),
        "networks_ms": statistics.median(one.cpu[stages.NETWORKS] for one in taken),
        "bare_networks_ms": bare["cpu_ms"],
        "studies_a_minute": 60 * rate,
        "bare_networks_a_minute": 60_000 / bare["wall_ms"],
        "rate_ratio": rate * bare["wall_ms"] / 1000,
    }
