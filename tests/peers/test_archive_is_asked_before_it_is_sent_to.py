"""C-FIND before the first send, asked of Orthanc: is the study there, under the same patient?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from prescreen.dicom import query
from prescreen.errors import ContextRejected
from prescreen.settings import Destination
from prescreen.study import Reference
from tests.line_bench import LineBench, capture, destination, part10
from tests.peers.dcmtk import storescp
from tests.peers.orthanc import Orthanc, running

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("orthanc")
    node = {"node": ("PRESCREEN", "127.0.0.1", 11112)}
    with running(folder, "PACS", modalities=node, DicomAlwaysAllowFind=True) as server:
        yield server


@pytest.fixture
def pacs(orthanc: Orthanc) -> Destination:
    return destination(orthanc.dicom_port, commitment="none")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[LineBench]:
    found = LineBench(tmp_path)
    yield found
    found.close()


def test_a_study_is_listed_with_patient_and_order(orthanc: Orthanc, pacs: Destination) -> None:
    item = capture()
    orthanc.post("/instances", part10(item, "1.2.7"))
    listed = query.study(pacs, "PRESCREEN", "1.2.7")
    assert listed == query.Listed("CANARYID", "", "CANARY^NAME", "CANARYACC")
    assert query.study(pacs, "PRESCREEN", "1.2.8") is None
    here, gone = (
        Reference(item.sop_class_uid, uid, item.series_instance_uid, "1.2.7")
        for uid in (item.sop_instance_uid, "1.2.99")
    )
    assert query.present(pacs, "PRESCREEN", [here, gone]) == {item.sop_instance_uid}


def test_a_deleted_study_is_not_brought_back(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    bench.line(pacs)
    bench.reported("1.2.11", pacs)
    bench.turn()
    (row,) = bench.rows("1.2.11")
    assert row["state"] == "pending"
    assert "not there yet, or deleted" in row["error"]
    assert orthanc.post("/tools/find", _study("1.2.11")) == []
    bench.wait(25 * 3600)
    bench.turn()
    assert bench.states("1.2.11") == ["parked"]


def test_a_study_that_comes_late_is_waited_for(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    bench.line(pacs)
    bench.reported("1.2.12", pacs)
    bench.turn()
    orthanc.post("/instances", part10(capture(), "1.2.12"))
    bench.wait(3600)
    bench.turn()
    assert bench.states("1.2.12") == ["delivered"]


def test_another_patient_or_order_gets_nothing(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    bench.line(pacs)
    orthanc.post("/instances", part10(capture(), "1.2.13", patient_id="MERGED"))
    bench.reported("1.2.13", pacs)
    bench.turn()
    (row,) = bench.rows("1.2.13")
    assert row["state"] == "pending"
    assert "another Patient ID" in row["error"]
    assert "MERGED" not in row["error"], "errors name no patient"


def test_the_study_that_waits_holds_up_no_other(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    bench.line(pacs)
    bench.reported("1.2.14", pacs)
    orthanc.post("/instances", part10(capture(), "1.2.15"))
    bench.reported("1.2.15", pacs)
    bench.turn()
    assert bench.states("1.2.14") == ["pending"]
    assert bench.states("1.2.15") == ["delivered"]


def test_a_peer_that_cannot_be_asked_is_sent_to(bench: LineBench, tmp_path: Path) -> None:
    with storescp(tmp_path / "pacs") as server:
        to = destination(server.port, "other")
        with pytest.raises(ContextRejected, match="takes no C-FIND"):
            query.study(to, "PRESCREEN", "1.2.16")
        bench.line(to)
        bench.reported("1.2.16", to)
        bench.turn()
        assert bench.states("1.2.16") == ["delivered"]


def test_who_is_not_to_be_asked_is_not(
    bench: LineBench, orthanc: Orthanc, pacs: Destination
) -> None:
    unasked = pacs.model_copy(update={"query": "none"})
    bench.line(unasked)
    bench.reported("1.2.17", unasked)
    bench.turn()
    assert bench.states("1.2.17") == ["delivered"]


def _study(uid: str) -> dict[str, object]:
    return {"Level": "Study", "Query": {"StudyInstanceUID": uid}}
