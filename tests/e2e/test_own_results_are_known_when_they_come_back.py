"""An archive sends results of the node back: they are known, whatever became of either of them.

The database may have been lost and made again from the spool, with the results' files or without;
it may have been restored from a backup that is older than the results; the archive may have put
its own equipment in place of ours. Nothing is said about an own result, so that no loop begins.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import UID

from prescreen import backup, mending
from prescreen.store import audit, reader
from prescreen.store.destinations import Destinations
from tests.e2e.blind import answer, answered, deliver, kept
from tests.e2e.house import UNCLOSED, House, chest, house

pytestmark = pytest.mark.filterwarnings(UNCLOSED)


@dataclass
class Sent:
    """A node whose PACS has a study with results; its backup is older than those."""

    home: House
    study: str
    backup: Path

    @property
    def data(self) -> Path:
        return self.home.settings.data_dir

    def come_back(self, folder: Path, changed: Callable[[pydicom.Dataset], None]) -> int:
        """Let the PACS send every result back, changed; how many."""
        found = self.home.pacs.of_study(self.study)
        for number, ds in enumerate(found):
            changed(ds)
            ds.save_as(folder / f"{number}.dcm")
            kept(self.home, folder / f"{number}.dcm")
        return len(found)


@pytest.fixture
def sent(tmp_path: Path) -> Iterator[Sent]:
    with house(tmp_path) as home:
        backup.make(home.settings, tmp_path / "backup")
        study = answered(home, chest(tmp_path))
        deliver(home)
        home.close()
        yield Sent(home, study, tmp_path / "backup")


def _nothing(sent: Sent) -> None:
    """The node knows what it wrote."""


def _database(sent: Sent) -> None:
    for path in sent.data.glob("prescreen.db*"):
        path.unlink()
    mending.repair(sent.home.settings, None)


def _database_and_results(sent: Sent) -> None:
    shutil.rmtree(sent.data / "spool" / "results")
    _database(sent)


def _everything(sent: Sent) -> None:
    shutil.rmtree(sent.data)
    backup.restore(sent.home.settings, sent.backup)


def _as_it_was(ds: pydicom.Dataset) -> None:
    """Nothing is changed on the way."""


def _equipment(ds: pydicom.Dataset) -> None:
    ds.Manufacturer, ds.ManufacturerModelName = "PACS vendor", "Archive 9"


def _looks_like_a_radiograph(ds: pydicom.Dataset) -> None:
    _equipment(ds)
    ds.Modality = "CR" if ds.Modality == "OT" else ds.Modality
    ds.SOPInstanceUID = UID(f"{ds.SOPInstanceUID[:60]}.1")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID


@pytest.mark.parametrize("lost", [_nothing, _database, _database_and_results, _everything])
def test_what_comes_back_is_known(sent: Sent, tmp_path: Path, lost: Callable[[Sent], None]) -> None:
    lost(sent)
    engine = sent.home.store().engine
    before = len(audit.events(engine, kind="job.opened"))
    changes = (_as_it_was, _equipment, _looks_like_a_radiograph)
    number = sum(sent.come_back(tmp_path, changed) for changed in changes)
    ignored = audit.events(engine, kind="instance.ignored")
    assert number == 6
    assert [event.detail["reason"] for event in ignored] == ["own_result"] * number
    assert len(audit.events(engine, kind="job.opened")) == before
    answer(sent.home)
    rows = [row for row in reader.show(engine, sent.study).instances if row["ignored_reason"]]
    assert {row["outcome"] for row in rows} == {None}, "nothing is said about them"


def test_a_restored_node_answers_the_radiograph_and_not_its_own_results(
    sent: Sent, tmp_path: Path
) -> None:
    """The whole study comes back to a node that knows nothing of it."""
    _everything(sent)
    sent.come_back(tmp_path, _as_it_was)
    image = next(path for path in tmp_path.glob("2.25.*.dcm"))
    kept(sent.home, image)
    engine = sent.home.store().engine
    Destinations(engine).release(None, "test", "looked at")
    answer(sent.home)
    record = reader.show(engine, sent.study)
    assert record.study["jobs"] == 1
    (told,) = [row for row in record.instances if row["outcome"] is not None]
    assert told["sop_instance_uid"] == image.stem
