"""F9: the power goes at any fsync; what was acknowledged, and what a PACS was given, is there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from prescreen import doctor, node
from prescreen.store import audit, recovery
from prescreen.store.database import integrity, open_database, reading
from tests.e2e import power
from tests.e2e.blind import answer, deliver, kept
from tests.e2e.house import UNCLOSED, House, house, small
from tests.e2e.power import Cut, Recorder

pytestmark = pytest.mark.filterwarnings(UNCLOSED)


def _lost(cut: Cut, way: str, folder: Path) -> list[str]:
    """What of the acknowledged and the delivered is not there after the power came back."""
    data = power.replay(cut.left[way], folder)
    engine = open_database(data / "prescreen.db")
    try:
        assert integrity(engine) is None
        assert audit.verify(engine).whole
        with reading(engine) as connection:
            rows = recovery.kept(connection)
            query = "SELECT sop_instance_uid, path FROM instance WHERE removed_at IS NULL"
            files = {str(uid): str(path) for uid, path in connection.exec_driver_sql(query)}
        lost = [
            uid
            for uid in cut.acknowledged
            if uid not in files or doctor.what_is_wrong(data / files[uid], rows[files[uid]])
        ]
        told, unreadable = doctor.manifests(data)
        assert unreadable == [], "a results folder is whole or not there"
        there = {
            item.sop_instance_uid: (data / f"spool/results/{number}" / item.file_name).read_bytes()
            for number, of_folder in told.items()
            for item in of_folder.objects
        }
        return lost + [uid for uid, part10 in cut.delivered.items() if there.get(uid) != part10]
    finally:
        engine.dispose()


def _recorded(home: House, folder: Path, studies: int) -> list[Cut]:
    """Keep, answer and deliver studies while a recorder watches."""
    acknowledged: set[str] = set()

    def said() -> tuple[set[str], dict[str, bytes]]:
        return acknowledged, {uid: part10 for _, uid, part10 in home.pacs.received}

    home.store()
    recorder = Recorder(home.settings.data_dir, said)
    home.close()
    home._store = node.open_store(home.settings, recorder.committed)
    with recorder.watching():
        for number in range(studies):
            path = small(folder)
            kept(home, path)
            acknowledged.add(path.stem)
            if number % 3 == 2:
                answer(home)
                deliver(home)
    return recorder.cuts


def test_f9_power_that_goes_at_any_fsync_loses_nothing(tmp_path: Path) -> None:
    _goes_everywhere(tmp_path, studies=3)


@pytest.mark.soak
def test_f9_power_that_goes_in_a_long_run(tmp_path: Path) -> None:
    _goes_everywhere(tmp_path, studies=15)


def _goes_everywhere(tmp_path: Path, studies: int) -> None:
    with house(tmp_path) as home:
        cuts = _recorded(home, tmp_path, studies)
        assert len(cuts[-1].acknowledged) == studies
        assert len(cuts[-1].delivered) == 2 * studies
        for number, cut in enumerate(cuts):
            for way in power.WAYS:
                folder = tmp_path / "after"
                assert _lost(cut, way, folder) == [], (number, way)
                shutil.rmtree(folder)
    print(f"F9: {len(cuts)} places, 3 ways each, {studies} instances acknowledged, 0 lost")


@pytest.mark.parametrize(("forgotten", "way"), [("file", "names"), ("folder", "synced")])
def test_f9_a_missing_fsync_would_be_found(tmp_path: Path, forgotten: str, way: str) -> None:
    """The model is no model unless it finds what it is for."""
    with house(tmp_path) as home, pytest.MonkeyPatch.context() as patch:
        acknowledged: set[str] = set()
        home.store()
        recorder = Recorder(home.settings.data_dir, lambda: (acknowledged, {}))
        home.close()
        home._store = node.open_store(home.settings, recorder.committed)
        with recorder.watching():
            watched = os.fsync

            def forgetful(descriptor: int) -> None:
                is_folder = Path(f"/proc/self/fd/{descriptor}").readlink().is_dir()
                if ("folder" if is_folder else "file") != forgotten:
                    watched(descriptor)

            patch.setattr(os, "fsync", forgetful)
            path = small(tmp_path)
            kept(home, path)
            acknowledged.add(path.stem)
            patch.setattr(os, "fsync", watched)
        assert _lost(recorder.cuts[-1], way, tmp_path / "after") == [path.stem]
