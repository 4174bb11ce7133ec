"""`python -m tests.costs [FILE …]`: what it costs a process to say no to hostile files.

Prints, for each file and each way in, {"file", "way", "said", "mib", "seconds"} as a line of JSON:
`mib` is how far the process grew at most while it looked, `seconds` its processor time, and `said`
the reason of the refusal. The bytes of the file itself, which a receiver has in any case, are
counted in neither. Without files: the hostile ones of tests/bombs.py, and the worst of each figure.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from prescreen.dicom.decode import read_image
from prescreen.dicom.image import header_of, identify, read_header
from prescreen.errors import Refusal, UnusableImage
from tests.bombs import BOMBS, NESTED
from tests.pictures import data_set, part10, ramp

_MIB = 1 << 20
FIGURES = ("mib", "seconds")


def _peak() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def _forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # proc(5)


def _said(look: Callable[[], object]) -> str:
    try:
        look()
    except UnusableImage as refusal:
        return str(refusal.reason)
    except Refusal as refusal:
        return f"0x{refusal.status:04X}"
    return "accepted"


def _measured(path: Path, way: str, look: Callable[[], object]) -> dict[str, Any]:
    _forget_peak()
    before, began = _peak(), time.process_time()
    said = _said(look)
    seconds, grown = time.process_time() - began, (_peak() - before) / _MIB
    return {"file": path.stem, "way": way, "said": said, "mib": grown, "seconds": seconds}


def measure(path: Path) -> list[dict[str, Any]]:
    """Received, asked for its tags, decoded: each on its own."""
    part10 = path.read_bytes()
    return [
        _measured(path, "received", lambda: identify(part10)),
        _measured(path, "tags read", lambda: header_of(read_header(path))),
        _measured(
            path,
            "decoded",
            lambda: read_image(path, 64, lambda shape: np.empty(shape, np.float32)),
        ),
    ]


def measured(paths: list[Path]) -> list[dict[str, Any]]:
    """The lines of a process that does nothing else."""
    said = subprocess.run(
        [sys.executable, "-m", "tests.costs", *map(str, paths)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return [json.loads(line) for line in said.stdout.splitlines()]


def hostile(folder: Path) -> list[dict[str, Any]]:
    """The lines of all files of tests/bombs.py, written to a folder."""
    healthy = folder / "healthy.dcm"  # first: what is loaded once is nobody's fault
    healthy.write_bytes(part10(data_set(ramp())))
    paths = [healthy]
    for name, (made, _) in {**BOMBS, **NESTED}.items():
        paths.append(folder / f"{name}.dcm")
        paths[-1].write_bytes(made())
    return [line for line in measured(paths) if line["file"] != "healthy"]


def main(paths: list[str]) -> None:
    """Print what was measured."""
    if not paths:
        with tempfile.TemporaryDirectory() as folder:
            lines = hostile(Path(folder))
        for figure in FIGURES:
            print(f"worst {figure}:", json.dumps(max(lines, key=lambda line: line[figure])))
    for path in map(Path, paths):
        for line in measure(path):
            print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
