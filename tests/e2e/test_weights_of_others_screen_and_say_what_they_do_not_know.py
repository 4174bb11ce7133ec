"""A checkpoint a site already has: imported, chosen while the node runs, and honest in the PACS."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pydicom
import pytest

from prescreen.dicom.capture import SECONDARY_CAPTURE
from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.store import audit
from prescreen.study import LABELS
from tests.checkpoints import saved, torchxrayvision
from tests.e2e.house import chest, house, wait_until
from tests.peers.dicom3tools import errors_of

#: The 14th output of TorchXRayVision, Hernia, was never trained in this one.
POINTS = [0.1 + 0.02 * k for k in range(13)] + [float("nan")] * 5
SAID = "Not evaluated: Hiatal hernia (not in the weights)."


def prescreen(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prescreen", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights as `prescreen weights import` makes it."""
    folder = tmp_path_factory.mktemp("site")
    checkpoint = saved(torchxrayvision(POINTS), folder / "xrv.pt")
    named = ("--name", "txrv-all", "--licence", "Apache-2.0")
    made = prescreen("weights", "import", str(checkpoint), "--out", str(folder / "txrv"), *named)
    assert made.returncode == 0, made.stderr
    assert "13 of 14 findings evaluated" in made.stdout
    assert "not evaluated: Hernia (not_in_weights)" in made.stdout
    return folder / "txrv"


def texts(datasets: Iterable[pydicom.Dataset]) -> list[str]:
    return [str(e.value) for ds in datasets for e in ds.iterall() if e.keyword == "TextValue"]


def test_screen_says_which_finding_it_knows_nothing_of(imported: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("screen", str(chest(tmp_path)), "--out", str(out), "--json")
    said = prescreen(*command, PRESCREEN__WEIGHTS_DIR=str(imported))
    assert said.returncode == 0, said.stderr
    (line,) = [json.loads(text) for text in said.stdout.splitlines()]
    findings = line["findings"]
    assert list(findings) == list(LABELS)
    unknown = {"probability": None, "threshold": None, "state": "not_evaluated"}
    assert findings.pop("Hernia") == unknown
    assert all(0 <= f["probability"] <= 1 for f in findings.values())
    assert {f["state"] for f in findings.values()} <= {"flagged", "not_flagged"}
    assert findings["Effusion"]["threshold"] == pytest.approx(0.24)
    written = [pydicom.dcmread(path) for path in out.glob("*.dcm")]
    assert {COMPREHENSIVE_3D_SR, SECONDARY_CAPTURE} <= {ds.SOPClassUID for ds in written}
    assert any(SAID in text for text in texts(written))
    for path in out.glob("*.dcm"):
        assert errors_of(path) == []


def test_a_running_node_takes_the_weights_that_are_chosen(imported: Path, tmp_path: Path) -> None:
    with house(tmp_path) as home, home.open():
        engine = home.store().engine

        def loaded() -> list[str]:
            events = audit.events(engine, kind="weights.loaded")
            return [str(event.detail["weights"]["findings"]) for event in events]

        wait_until(lambda: len(loaded()) == 1, "the shipped weights are loaded", 180)
        chosen = home.command("weights", "use", str(imported), "--who", "Dr. A", "--why", "ours")
        assert chosen.returncode == 0, chosen.stderr
        wait_until(lambda: len(loaded()) == 2, "the chosen weights are loaded", 180)
        manifest = json.loads((imported / "findings.json").read_bytes())
        assert loaded()[1] == manifest["sha256"] != loaded()[0]
        path = chest(tmp_path)
        assert home.send(path) == [0]
        study = str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)
        record = home.answered(study)
        (hernia,) = [f for f in record.findings if f["label"] == "Hernia"]
        assert (hernia["probability"], hernia["threshold"]) == (None, None)
        assert (hernia["state"], hernia["reason"]) == ("not_evaluated", "not_in_weights")
        (claimed,) = [e for e in record.events if e.kind == "job.claimed"]
        assert claimed.detail["weights"]["findings"] == manifest["sha256"]
        assert any(SAID in t for t in texts(home.pacs.of_study(study, COMPREHENSIVE_3D_SR)))
        listed = home.command("weights", "list", "--json")
        first = json.loads(listed.stdout)[0]
        assert first["in_use"] and "by Dr. A: ours" in first["chosen"]
        shown = home.command("audit", "show", study)
        assert shown.returncode == 0 and "not_in_weights" in shown.stdout
