"""What numerical libraries do by default costs, unless whoever runs prescreen wants it so."""

from __future__ import annotations

import os
import subprocess
import sys

from prescreen.libraries import tell_libraries

_MULTIPLIES = """\
import os
import prescreen
import numpy as np
square = np.ones((512, 512), np.float32)
assert (square @ square).max() == 512
print(len(os.listdir("/proc/self/task")))
"""


_TOLD = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "OPENBLAS_NUM_THREADS": "1",
    "THP_MEM_ALLOC_ENABLE": "1",
}


def test_threads_that_wait_are_told_to_sleep_and_memory_comes_in_large_pages() -> None:
    environment: dict[str, str] = {}
    tell_libraries(environment)
    assert environment == _TOLD


def test_what_the_administrator_has_set_stays() -> None:
    environment = {name: f"not {value}" for name, value in _TOLD.items()}
    chosen = dict(environment)
    tell_libraries(environment)
    assert environment == chosen


def test_numpy_multiplies_without_threads_of_its_own() -> None:
    others = {name: value for name, value in os.environ.items() if name not in _TOLD}
    bare = {name: value for name, value in others.items() if name != "OMP_NUM_THREADS"}
    told = subprocess.run(
        [sys.executable, "-c", _MULTIPLIES],
        env=bare,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert told.stdout.strip() == "1"
