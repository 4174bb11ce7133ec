"""`python -m bench.networks FILE IMAGES`: the two networks and nothing else, on one image again.

Prints one JSON object: CPU and wall-clock milliseconds an image of the networks' own passes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from bench.stages import NETWORKS, Stopwatch
from prescreen import node
from prescreen.dicom.image import LEAST_SIDE, read_image
from prescreen.settings import Settings


def main(file: str, images: str) -> None:
    """One batch to warm up, then as many as hold `images`."""
    from prescreen.nets.screener import BATCH, Screener

    radiograph = read_image(
        Path(file), 64, lambda shape: np.empty(shape, np.float32), least_side=LEAST_SIDE
    )
    screener = Screener(node.weights_dir(Settings()))
    batch = [radiograph] * min(BATCH, int(images))
    screener(batch)
    stopwatch = Stopwatch()
    stopwatch.watch_networks()
    batches = max(1, int(images) // len(batch))
    for _ in range(batches):
        screener(batch)
    seen = batches * len(batch)
    cpu, wall = (1000 * s[NETWORKS] / seen for s in (stopwatch.cpu, stopwatch.wall))
    print(json.dumps({"cpu_ms": cpu, "wall_ms": wall, "images": seen, "batch": len(batch)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
