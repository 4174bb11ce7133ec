"""`python -m bench.bytes_alone FOLDER IN OUT TIMES`: what keeping a study's bytes costs by itself.

IN bytes are written to a new file, digested and synced, then read and digested again; OUT bytes
are written, digested, synced and read. The kernel lets go of both then, as it does in the node. No
network, no DICOM, no database, no pictures: a node that keeps what it is sent and what it answers
cannot spend less. Prints one JSON object.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import sys
import time
from pathlib import Path

from prescreen.store.lately import let_go


def main(folder: str, came: str, go: str, times: str) -> None:
    """CPU milliseconds a study, the median of `times`; each has files of its own."""
    spent = []
    for number in range(int(times)):
        received, result = os.urandom(int(came)), os.urandom(int(go))
        before = time.process_time()
        _kept(Path(folder) / f"in-{number}", received)
        hashlib.sha256((Path(folder) / f"in-{number}").read_bytes()).hexdigest()
        _kept(Path(folder) / f"out-{number}", result)
        (Path(folder) / f"out-{number}").read_bytes()
        for name in ("in", "out"):
            let_go(Path(folder) / f"{name}-{number}")
        spent.append(1000 * (time.process_time() - before))
    sizes = {"bytes_in": int(came), "bytes_out": int(go)}
    print(json.dumps({"cpu_ms": statistics.median(spent), **sizes}))


def _kept(path: Path, content: bytes) -> None:
    hashlib.sha256(content).hexdigest()
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    main(*sys.argv[1:])
