"""Fixtures all tests share, and the two rules about what may be left out.

The peers (DCMTK, Orthanc, dciodvfy, systemd-analyze) are never optional: without them the run stops
at once. The radiographs under PRESCREEN_DATA are: without them the tests marked `data` are
deselected and listed, unless CI=true.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import settings

# The same examples in every run of `make test`, so that a failure is the change's own; `make soak`
# (HYPOTHESIS=random) looks for new ones. No deadline: timings are the bench's.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("random", deadline=None, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS", "same"))

# Every test is looked after for patients that somebody could read of.
pytest_plugins = ["tests.watch"]

PEERS = ("storescu", "storescp", "echoscu", "dsrdump", "dcmcjpeg", "Orthanc", "systemd-analyze")
APT = "apt-get install -y dcmtk orthanc systemd"


def _data_dir() -> Path:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("PRESCREEN_DATA", default))


def pytest_configure(config: pytest.Config) -> None:
    # Debian's Orthanc lies in /usr/sbin, which is not on everybody's path
    where = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    missing = [name for name in PEERS if shutil.which(name, path=where) is None]
    if missing:
        pytest.exit(f"missing peers: {', '.join(missing)}; install them with: {APT}", returncode=3)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _data_dir().is_dir():
        return
    data = [item for item in items if item.get_closest_marker("data")]
    if not data:
        return
    if os.environ.get("CI") == "true":
        pytest.exit(f"no radiographs at {_data_dir()}: set PRESCREEN_DATA", returncode=4)
    config.hook.pytest_deselected(items=data)
    items[:] = [item for item in items if item not in data]
    names = "\n  ".join(item.nodeid for item in data)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter.write_line(f"no radiographs at {_data_dir()}; deselected:\n  {names}")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of radiographs (PRESCREEN_DATA)."""
    return _data_dir()
