"""`python -m tests.hunting TARGET --seconds 120`: let atheris look for bytes that break a target.

It ends the process with the input in a file where it finds something: an error that is not ours,
more than 5 s, or more than 2 GiB.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["prescreen", "pydicom", "pynetdicom", "tests.fuzzing"]):
    from tests import fuzzing

_SECONDS = 5  # for one input, far more than any may take


def main() -> None:
    """Look for as long as asked."""
    parser = argparse.ArgumentParser(prog="python -m tests.hunting")
    parser.add_argument("target", choices=fuzzing.TARGETS)
    parser.add_argument("--seconds", type=int, default=120)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(fuzzing.seeds(asked.target)):
            Path(folder, f"seed-{number}").write_bytes(seed)
        options = [
            f"-max_total_time={asked.seconds}",
            f"-timeout={_SECONDS}",
            "-rss_limit_mb=2048",
            "-max_len=65536",
            f"-artifact_prefix={tempfile.gettempdir()}/{asked.target}-",
            "-print_final_stats=1",
        ]
        atheris.Setup([sys.argv[0], *options, folder], fuzzing.TARGETS[asked.target])
        atheris.Fuzz()


if __name__ == "__main__":
    main()
