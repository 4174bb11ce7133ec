"""`python -m bench.stages CONFIG LOG`: the screening role with a stopwatch on its stages.

Measured from outside, so that the product carries no clocks: public functions are wrapped before
the role starts. CPU is that of the whole process, all threads of torch's pools included
(CLOCK_PROCESS_CPUTIME_ID), charged to the innermost stage that is at work; stages follow each
other in one thread, so nothing else of weight runs meanwhile. After each batch a line of totals
is appended to LOG.
"""

from __future__ import annotations

import functools
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prescreen import gate, logs, node, pipeline, reporting, screening
from prescreen.dicom import capture, egress, narrative, regions, report
from prescreen.dicom.decode import Decoder
from prescreen.settings import load
from prescreen.store.queue import Queue
from prescreen.store.spool import Spool
from prescreen.worker import stop_on_signals

OPEN, LOOK, PREPARE = "open and decode", "look (gate)", "input preparation"
NETWORKS, ANSWER = "networks", "anatomy and findings"
REPORT, REGIONS, CAPTURE, EGRESS = "report", "regions", "capture", "last look"
SETTLE = "write and settle"
LOOP = "claim and loop"

#: The stages of the screening process, in order.
STAGES = (LOOP, OPEN, LOOK, PREPARE, NETWORKS, ANSWER, REPORT, REGIONS, CAPTURE, EGRESS, SETTLE)


class Stopwatch:
    """CPU and wall-clock seconds by stage: `cpu` and `wall`, without those of stages inside."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.wall: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self._inside: list[list[float]] = []

    def on(self, owner: Any, name: str, stage: str) -> None:
        """Charge every call of `owner.name` to a stage from now on."""
        setattr(owner, name, self.around(getattr(owner, name), stage))

    def around(self, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        """The function, with its calls charged to a stage."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            cpu, wall = time.process_time(), time.perf_counter()
            self._inside.append([0.0, 0.0])
            try:
                return function(*args, **kwargs)
            finally:
                self._charge(stage, time.process_time() - cpu, time.perf_counter() - wall)

        return timed

    def _charge(self, stage: str, cpu: float, wall: float) -> None:
        inside_cpu, inside_wall = self._inside.pop()
        self.cpu[stage] += cpu - inside_cpu
        self.wall[stage] += wall - inside_wall
        if self._inside:
            self._inside[-1][0] += cpu
            self._inside[-1][1] += wall

    def watch_networks(self) -> None:
        """The two networks' own passes, what prepares their inputs, and what reads their answers.

        Imports torch.
        """
        from prescreen.nets import engine, inputs, screener
        from prescreen.nets.densenet import FindingsNet

        self.on(engine.Pass, "__call__", NETWORKS)
        self.on(FindingsNet, "judge", NETWORKS)
        for name in ("common_square", "resized", "stretch"):
            self.on(inputs, name, PREPARE)
        self.on(screener.Screener, "__call__", ANSWER)

    def watch_the_rest(self) -> None:
        """All other stages of the screening process."""
        self.on(Spool, "verify", OPEN)
        self.on(screening, "read_header", OPEN)
        self.on(screening, "header_of", OPEN)
        self.on(Decoder, "read_all", OPEN)
        for name in ("before", "after", "scope", "companions"):
            self.on(gate, name, LOOK)
        self.on(report, "measurement_report", REPORT)
        self.on(narrative, "narrative_report", REPORT)
        self.on(regions, "regions_report", REGIONS)
        self.on(capture, "capture", CAPTURE)
        self.on(egress, "check", EGRESS)
        self.on(reporting, "write", SETTLE)
        self.on(Queue, "settle", SETTLE)
        self.on(pipeline, "screen", LOOP)

    def totals(self) -> dict[str, Any]:
        """Milliseconds so far; what no stage accounts for is the loop's."""
        cpu = {stage: 1000 * seconds for stage, seconds in self.cpu.items()}
        cpu[LOOP] += 1000 * time.process_time() - sum(cpu.values())
        return {"cpu": cpu, "wall": {stage: 1000 * s for stage, s in self.wall.items()}}


def main(config: str, log: str) -> None:
    """Run the screening role until SIGTERM."""
    settings, stop, stopwatch = load(Path(config)), threading.Event(), Stopwatch()
    logs.configure(settings.log)
    stop_on_signals(stop.set)
    stopwatch.watch_networks()
    stopwatch.watch_the_rest()
    screen = pipeline.screen

    def screen_and_note(*args: Any, **kwargs: Any) -> None:
        screen(*args, **kwargs)
        with Path(log).open("a", encoding="ascii") as file:
            file.write(json.dumps(stopwatch.totals()) + "\n")

    setattr(pipeline, "screen", screen_and_note)  # noqa: B010
    node.screen(settings, stop)


if __name__ == "__main__":
    main(*sys.argv[1:])
