"""The receiver's memory: at rest, and with sixteen associations that all send 10 MB at once."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from bench.pictures import digital, on_the_wire
from bench.processes import forget_highest, highest_resident_mib, resident_mib
from bench.sender import Association, Object
from bench.standing import role, standing

#: MiB at rest, and growth in times the bytes in flight.
REST_BAR, GROWTH_BAR = 120.0, 3.0


def measured(folder: Path, *, associations: int, instances: int) -> dict[str, Any]:
    """Each association sends `instances` objects, all beginning together."""
    sent = on_the_wire(digital())
    in_flight = associations * len(sent.data_set) / (1 << 20)
    with standing(folder, {"receive": role("receive")}) as stands:
        pid = stands.running["receive"].pid
        time.sleep(1)
        rest = resident_mib(pid)
        forget_highest(pid)
        _send_at_once(sent, stands.port, associations, instances)
        highest = highest_resident_mib(pid)
        time.sleep(1)
        after = resident_mib(pid)
    return {
        "at_rest_mib": rest,
        "associations": associations,
        "in_flight_mib": in_flight,
        "highest_mib": highest,
        "growth_mib": highest - rest,
        "growth_ratio": (highest - rest) / in_flight,
        "at_rest_again_mib": after,
    }


def _send_at_once(sent: Object, port: int, associations: int, instances: int) -> None:
    ready = threading.Barrier(associations)
    failures: list[Exception] = []

    def send() -> None:
        try:
            with Association(port, "PRESCREEN", sent) as association:
                ready.wait(60)
                for _ in range(instances):
                    association.store()
        except (OSError, threading.BrokenBarrierError) as error:
            failures.append(error)
            ready.abort()

    threads = [threading.Thread(target=send) for _ in range(associations)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
