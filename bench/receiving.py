"""Receiving: the node, durable, against DCMTK's storescp, which is not; in turns, same sender."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.pictures import digital, on_the_wire
from bench.processes import cpu_ms
from bench.sender import Association, Object
from bench.standing import MAX_PDU, role, standing
from tests.peers.dcmtk import StoreSCP, storescp

#: Of storescp's rate.
BAR = 0.9


@dataclass(frozen=True)
class Sent:
    """One association: megabytes a second, and the shares of its time that CPUs were at work."""

    rate: float
    sender: float
    receiver: float


def measured(folder: Path, *, instances: int, pairs: int) -> dict[str, Any]:
    """`instances` DX of 10 MB over one association into either, `pairs` times; ratio of medians."""
    sent = on_the_wire(digital())
    with _both(folder) as (ours, port, theirs):
        _send(sent, port, "PRESCREEN", 2, ours)
        _send(sent, theirs.port, "STORESCP", 2, theirs.process.pid)
        node_runs, peer_runs = [], []
        for _ in range(pairs):
            node_runs.append(_send(sent, port, "PRESCREEN", instances, ours))
            peer_runs.append(_peer(sent, theirs, instances))
    rate, peer_rate = (
        statistics.median(run.rate for run in runs) for runs in (node_runs, peer_runs)
    )
    return {
        "instances": instances,
        "megabytes_each": len(sent.data_set) / 1e6,
        "max_pdu": int(MAX_PDU),
        "node_mb_s": rate,
        "storescp_mb_s": peer_rate,
        "pairs": [
            {"node_mb_s": a.rate, "storescp_mb_s": b.rate, "ratio": a.rate / b.rate}
            for a, b in zip(node_runs, peer_runs, strict=True)
        ],
        "sender_busy": {"node": _median_of(node_runs), "storescp": _median_of(peer_runs)},
        "cpu_ms_each": {
            "node": statistics.median(run.receiver for run in node_runs),
            "storescp": statistics.median(run.receiver for run in peer_runs),
        },
        "ratio": rate / peer_rate,
    }


def _median_of(runs: list[Sent]) -> float:
    return statistics.median(run.sender for run in runs)


@contextmanager
def _both(folder: Path) -> Iterator[tuple[int, int, StoreSCP]]:
    """The node's receiver (process, port), and a storescp that writes down what it receives."""
    with (
        standing(folder / "node", {"receive": role("receive")}) as stands,
        storescp(folder / "storescp", "+xa", "-pdu", MAX_PDU) as theirs,
    ):
        yield stands.running["receive"].pid, stands.port, theirs


def _peer(sent: Object, theirs: StoreSCP, instances: int) -> Sent:
    run = _send(sent, theirs.port, "STORESCP", instances, theirs.process.pid)
    for file in theirs.files:  # or what it left unwritten would burden the next run's disk
        file.unlink()
    return run


def _send(sent: Object, port: int, called: str, instances: int, receiver: int) -> Sent:
    os.sync()
    with Association(port, called, sent) as association:
        burnt, begun, busy = cpu_ms(receiver), time.perf_counter(), time.process_time()
        for _ in range(instances):
            association.store()
        took, worked = time.perf_counter() - begun, time.process_time() - busy
    rate = instances * len(sent.data_set) / 1e6 / took
    return Sent(rate, worked / took, (cpu_ms(receiver) - burnt) / instances)
