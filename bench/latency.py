"""One study on an idle node, from its last byte to the last result acknowledged by the PACS."""

from __future__ import annotations

import datetime
import statistics
import time
from typing import Any

from bench.pictures import computed, on_the_wire
from bench.sender import Association, Object
from bench.standing import Standing, wait_until
from prescreen.settings import MODERN
from prescreen.study import Event

OBJECTS = len(MODERN)  # findings, regions and a capture

#: Between which two instants each stage lies.
STAGES = (
    "receive and keep",
    "wait for the screener's next look",
    "screen and report",
    "wait for the deliverer, open an association, send the findings",
    "send the regions and the capture",
)


def measured(stands: Standing, *, studies: int) -> dict[str, Any]:
    """Milliseconds, medians over `studies` sent one after another, each once the node is idle."""
    sent = on_the_wire(computed())
    quiet_period = stands.settings.screen.quiet_period
    taken = [_once(stands, sent, quiet_period) for _ in range(studies)]
    stages = {name: statistics.median(one[name] for one in taken) for name in STAGES}
    totals = [one["total"] for one in taken]
    return {
        "studies": studies,
        "quiet_period_s": quiet_period,
        "acknowledged_ms": statistics.median(one["acknowledged"] for one in taken),
        "stages_ms": stages,
        "total_ms": statistics.median(totals),
        "fastest_ms": min(totals),
        "slowest_ms": max(totals),
    }


def _once(stands: Standing, sent: Object, quiet_period: float) -> dict[str, float]:
    before = len(stands.events("object.delivered"))
    time.sleep(1.5)  # until the workers are asleep again
    with Association(stands.port, "PRESCREEN", sent) as association:
        left = association.store()
        acknowledged = time.time()
    wait_until(lambda: len(stands.events("object.delivered")) == before + OBJECTS, "delivered")
    return _split(stands, left, acknowledged, quiet_period)


def _split(
    stands: Standing, left: float, acknowledged: float, quiet_period: float
) -> dict[str, float]:
    kept, claimed, settled = (
        _at(stands.events(kind)[-1]) for kind in ("instance.kept", "job.claimed", "report.written")
    )
    first, *_, last = map(_at, stands.events("object.delivered")[-OBJECTS:])
    due = kept + quiet_period
    spans = (kept - left, claimed - due, settled - claimed, first - settled, last - first)
    stages = dict(zip(STAGES, spans, strict=True))
    whole = {"acknowledged": acknowledged - left, "total": last - left - quiet_period}
    return {name: 1000 * span for name, span in {**stages, **whole}.items()}


def _at(event: Event) -> float:
    return event.at.astimezone(datetime.UTC).timestamp()
