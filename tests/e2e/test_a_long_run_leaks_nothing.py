"""Row L6 of the fault matrix: a whole node at work for hours; see docs/reliability.md.

Three minutes in `make test`, two hours in `make soak` (SOAK_MINUTES). A study comes every
SOAK_PACE seconds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from prescreen.store.database import reading
from tests.e2e.figures import told
from tests.e2e.house import UNCLOSED
from tests.e2e.soaking import Soaked, soaked
from tests.e2e.test_faults_of_the_house import nothing_is_lost
from tests.e2e.watching import Watch, figures, leaks

pytestmark = pytest.mark.filterwarnings(UNCLOSED)


def test_l6_three_minutes_lose_and_leak_nothing(tmp_path: Path) -> None:
    _soak(tmp_path, minutes=3.0, pace=6.0)


@pytest.mark.soak
def test_l6_hours_lose_and_leak_nothing(tmp_path: Path) -> None:
    """SOAK_MINUTES=10 asks for less."""
    _soak(
        tmp_path,
        float(os.environ.get("SOAK_MINUTES", "120")),
        float(os.environ.get("SOAK_PACE", "8")),
    )


def _soak(folder: Path, minutes: float, pace: float) -> None:
    with soaked(folder, minutes, pace) as ran:
        found = {**ran.figures, "leaks": leaks(ran.figures["processes"])}
        told("l6", found)
        nothing_is_lost(ran.home, ran.acknowledged)
        _every_acknowledged_instance_has_its_outcome(ran)
        _every_result_is_at_the_pacs_once(ran)
        assert {role: len(pids) for role, pids in ran.pids.items() if role != "decode"} == {
            "serve": 1,
            "receive": 1,
            "screen": 1,
            "deliver": 1,
        }, "a role died and was started again"
        assert found["leaks"] == []


def _every_acknowledged_instance_has_its_outcome(ran: Soaked) -> None:
    query = (
        "SELECT sop_instance_uid FROM v_instance WHERE arrival = 'first' AND "
        "(outcome IS NOT NULL OR disposition = 'ignored')"
    )
    with reading(ran.home.store().engine) as connection:
        answered = [str(row[0]) for row in connection.exec_driver_sql(query)]
    assert len(answered) == len(set(answered)), "an instance was kept twice"
    assert set(answered) >= set(ran.acknowledged)
    assert ran.figures["outcomes"]["screened"] >= ran.figures["sent"]["studies"]


def _every_result_is_at_the_pacs_once(ran: Soaked) -> None:
    """Each object under one UID, of one content; one report and one capture of each study."""
    query = "SELECT sop_instance_uid, study_instance_uid, kind, state FROM v_delivery"
    with reading(ran.home.store().engine) as connection:
        rows = connection.exec_driver_sql(query).all()
    assert {row.state for row in rows} <= {"delivered", "committed"}
    assert len({(row.study_instance_uid, row.kind) for row in rows}) == len(rows)
    assert all(len(contents) == 1 for contents in ran.ledger.copies.values())
    assert sorted(ran.ledger.copies) == sorted(row.sop_instance_uid for row in rows)


LEAKY = """
import os, sys, threading, time
kept, begun = [], time.monotonic()
while True:
    if sys.argv[1] == "memory":
        kept.append(b"x" * 2_000_000)
    if sys.argv[1] == "descriptors":
        kept.append(open("/dev/null"))
    if sys.argv[1] == "memfd:prescreen-pixels":
        kept.append(os.memfd_create("prescreen-pixels"))
    if sys.argv[1] == "reserve" and len(kept) < (8 if time.monotonic() > begun + 2 else 5):
        kept.append(os.memfd_create("prescreen-pixels"))
    if sys.argv[1] == "threads":
        thread = threading.Thread(target=time.sleep, args=(60,), daemon=True)
        thread.start()
    time.sleep(0.1)
"""


def test_l6_planted_leaks_are_found() -> None:
    """That the watch finds what it is for, and nothing where there is nothing.

    Nor where a reserve is filled up to its bound, as late as it may be.
    """
    planted = ("memory", "descriptors", "threads", "memfd:prescreen-pixels", "reserve", "nothing")
    with ExitStack() as stack:
        watches = {what: stack.enter_context(_leaking(what)) for what in planted}
        time.sleep(4)
    for what, watch in watches.items():
        said = leaks(figures(watch.samples, 1.0, 4.0))
        sound = what in ("reserve", "nothing")
        assert [line.split()[1] for line in said] == ([] if sound else [what])


@contextmanager
def _leaking(what: str) -> Iterator[Watch]:
    with subprocess.Popen([sys.executable, "-c", LEAKY, what]) as process:
        try:
            with Watch(process.pid, every=0.1) as watch:
                yield watch
        finally:
            process.kill()


ROOT = Path(__file__).parents[2]

#: What Python runs first where it is found: the receiver keeps what it received.
PLANTED = """
import sys, threading, time

def plant():
    while not hasattr(pipeline := sys.modules.get("prescreen.pipeline"), "deliver"):
        time.sleep(0.1)
    keep, kept = pipeline.keep, []

    def leaking(incoming, **parts):
        kept.append(incoming.part10[:])
        return keep(incoming, **parts)

    pipeline.keep = leaking

threading.Thread(target=plant, daemon=True).start()
"""


@pytest.mark.soak
def test_l6_a_leak_planted_in_a_node_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(PLANTED)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    with soaked(tmp_path, minutes=2.0, pace=6.0) as ran:
        said = leaks(ran.figures["processes"])
        told("l6_planted", {"leaks": said})
        assert [line.split()[:2] for line in said] == [["receive:", "memory"]]
