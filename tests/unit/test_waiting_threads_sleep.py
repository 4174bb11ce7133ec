"""Threads of the numerical libraries do not spin, unless whoever runs prescreen wants them to."""

from __future__ import annotations

import os
import subprocess
import sys

from prescreen.threads import let_waiting_threads_sleep

_MULTIPLIES = """\
import os
import prescreen
import numpy as np
square = np.ones((512, 512), np.float32)
assert (square @ square).max() == 512
print(len(os.listdir("/proc/self/task")))
"""


def test_threads_that_wait_are_told_to_sleep() -> None:
    environment: dict[str, str] = {}
    let_waiting_threads_sleep(environment)
    assert environment == {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}


def test_what_the_administrator_has_set_stays() -> None:
    environment = {"OMP_WAIT_POLICY": "ACTIVE", "OPENBLAS_NUM_THREADS": "4"}
    let_waiting_threads_sleep(environment)
    assert environment == {"OMP_WAIT_POLICY": "ACTIVE", "OPENBLAS_NUM_THREADS": "4"}


def test_numpy_multiplies_without_threads_of_its_own() -> None:
    mine = ("OMP_WAIT_POLICY", "OPENBLAS_NUM_THREADS")
    bare = {name: value for name, value in os.environ.items() if name not in mine}
    told = subprocess.run(
        [sys.executable, "-c", _MULTIPLIES],
        env=bare,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.strip() == "1"
