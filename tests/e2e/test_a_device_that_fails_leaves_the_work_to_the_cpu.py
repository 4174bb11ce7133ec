"""Row F13, as far as it goes without a GPU: one that is not there, and one that fails at work.

torch's device `meta` is one on which everything can be put and from which nothing comes back.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pydicom
import pytest

from prescreen import node
from prescreen.settings import Settings
from prescreen.store import audit
from tests.e2e.house import UNCLOSED, chest, house, receiving, wait_until

pytestmark = pytest.mark.filterwarnings(UNCLOSED)


def test_f13_a_device_that_fails_at_work_is_given_up_and_the_study_answered(tmp_path: Path) -> None:
    with house(tmp_path, live=False, listens=False) as home, receiving(home):
        failing = _on(home.settings, "meta")
        stop = threading.Event()
        screening = threading.Thread(target=node.screen, args=(failing, stop))
        screening.start()
        try:
            path = chest(tmp_path)
            home.send(path)
            study = str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)
            wait_until(lambda: home.row(study)["outcome"] is not None, "it is answered", 240)
        finally:
            stop.set()
            screening.join(60)
        assert home.row(study)["outcome"] == "screened"
        kinds = [event.kind for event in audit.events(home.store().engine)]
        assert kinds.count("weights.loaded") == 2
        assert "job.retried" in kinds


def _on(settings: Settings, device: str) -> Settings:
    """The settings with a device that nobody may choose."""
    return settings.model_copy(
        update={"screen": settings.screen.model_copy(update={"device": device})}
    )


ABSENT = """
import logging
from prescreen.nets.screener import usable
logging.basicConfig()
print(usable("cuda"), usable(None))
"""


def test_f13_a_gpu_that_is_not_there_is_said() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABSENT],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "no GPU can be used; the networks run on the CPU" in done.stderr
    assert done.stdout.split() == ["cpu", "cpu"]
