"""Fixtures all tests share, and the two rules about what may be left out.

The peers (DCMTK, Orthanc, dciodvfy, systemd-analyze) are never optional: without them the run stops
at once. The radiographs under PRESCREEN_DATA are: without them the tests marked `data` are
deselected and listed at the end, unless CI=true. Where workers run the tests they tell the process
that started them what they left out, and that one speaks.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests import run_folder

# The same examples in every run of `make test`, so that a failure is the change's own; `make soak`
# (HYPOTHESIS=random) looks for new ones. No deadline: timings are the bench's.
settings.register_profile("same", derandomize=True, deadline=None, database=None)
settings.register_profile("random", deadline=None, max_examples=1_000)
settings.load_profile(os.environ.get("HYPOTHESIS", "same"))

# Every test is looked after for patients that somebody could read of.
pytest_plugins = ["tests.watch"]

PEERS = ("storescu", "storescp", "echoscu", "dsrdump", "dcmcjpeg", "Orthanc", "systemd-analyze")
#: All that `make test` asks for, as in the Makefile.
APT = "apt-get install -y dcmtk orthanc orthanc-dicomweb chromium systemd fonts-noto-cjk npm"


def _data_dir() -> Path:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(os.environ.get("PRESCREEN_DATA", default))


LEFT_OUT = pytest.StashKey[set[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = set()
    # Debian's Orthanc lies in /usr/sbin, which is not on everybody's path
    where = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin"])
    missing = [name for name in PEERS if shutil.which(name, path=where) is None]
    if missing:
        pytest.exit(f"missing peers: {', '.join(missing)}; install them with: {APT}", returncode=3)
    if config.getoption("numprocesses", None) and not _data_dir().is_dir():
        _refuse_on_ci()  # a worker that ends takes the whole run along, without a word


def _refuse_on_ci() -> None:
    if os.environ.get("CI") == "true":
        pytest.exit(f"no radiographs at {_data_dir()}: set PRESCREEN_DATA", returncode=4)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if _data_dir().is_dir():
        return
    data = [item for item in items if item.get_closest_marker("data")]
    if not data:
        return
    _refuse_on_ci()
    config.hook.pytest_deselected(items=data)
    items[:] = [item for item in items if item not in data]
    config.stash[LEFT_OUT].update(item.nodeid for item in data)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        left_out = session.config.stash[LEFT_OUT]
        session.config.workeroutput["left_out"] = sorted(left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """What a worker left out; xdist calls this where the run was started."""
    told = getattr(node, "workeroutput", {})
    node.config.stash[LEFT_OUT].update(told.get("left_out", ()))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    left_out = config.stash[LEFT_OUT]
    if left_out:
        terminalreporter.section(f"no radiographs at {_data_dir()}: {len(left_out)} deselected")
        for name in sorted(left_out):
            terminalreporter.write_line(name)


@pytest.fixture(scope="session", autouse=True)
def _what_tests_share_goes_with_the_run(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ[run_folder.BELOW] = str(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of radiographs (PRESCREEN_DATA)."""
    return _data_dir()
