"""A folder for the life of this process, for what many tests share.

Under pytest it lies below pytest's own (tests/conftest.py), which goes with the run; where this
process was killed, with a later one. xdist gives its workers ten seconds to end, and SIGTERM none.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

#: The variable that names pytest's folder; processes that tests start have it too.
BELOW = "PRESCREEN_TESTS_FOLDER"


def run_folder() -> Path:
    """A new one."""
    folder = Path(tempfile.mkdtemp(prefix="prescreen-tests-", dir=os.environ.get(BELOW)))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
