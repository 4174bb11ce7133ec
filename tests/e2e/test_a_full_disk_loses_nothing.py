"""F5: the disk is full wherever a byte is written, one place after the other.

The room that is left grows step by step, so that the file as received, the database, its log of
writes, the audit, the report, its manifest and the outbox each find the disk full in their turn.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from prescreen.dicom.report import COMPREHENSIVE_3D_SR
from prescreen.errors import OutOfResources, StoreError
from prescreen.store import audit, recovery
from prescreen.store.database import integrity, writing
from prescreen.store.queue import utc_now
from tests.e2e import disks
from tests.e2e.blind import answer, deliver, kept
from tests.e2e.house import UNCLOSED, House, house, small

pytestmark = pytest.mark.filterwarnings(UNCLOSED)

ROOM = [
    *range(0, 49_152, 4_096),
    *range(49_152, 1_048_576, 98_304),
    *range(1_048_576, 8_388_608, 1_048_576),
]


def _keep_and_answer(home: House, path: Path, answered: bool) -> str | None:
    """The study, if it was acknowledged; whatever fails says so in words of ours."""
    study = None
    try:
        study = kept(home, path)
        if answered:
            answer(home)
            deliver(home)
    except OutOfResources as error:
        assert error.status == 0xA700
    except StoreError as error:
        assert error.retryable
    return study


@pytest.mark.parametrize("kind", disks.kinds())
def test_f5_a_disk_that_is_full_at_any_byte(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    paths = [small(tmp_path) for _ in ROOM]
    with disks.small_disk(kind, folder) as disk, house(folder) as home:
        acknowledged = set()
        home.store()
        for number, (room, path) in enumerate(zip(ROOM, paths, strict=True)):
            disk.leave(room)
            try:
                acknowledged.add(_keep_and_answer(home, path, answered=number % 3 == 0))
            finally:
                disk.free()
        acknowledged.discard(None)
        assert 0 < len(acknowledged) < len(ROOM)
        last = kept(home, small(tmp_path))  # it takes in again by itself
        _make_due(home)
        answer(home)
        deliver(home)
        assert home.done()
        for study in [*acknowledged, last]:
            assert study is not None
            assert home.row(study)["outcome"] == "not_screened"
            assert len(home.pacs.of_study(study, COMPREHENSIVE_3D_SR)) == 1
        assert all(len(contents) == 1 for contents in home.pacs.copies.values())
        assert integrity(home.store().engine) is None
        assert audit.verify(home.store().engine).whole


def _make_due(home: House) -> None:
    """Let the half minute pass after which what found no room is tried again."""
    with writing(home.store().engine) as connection:
        now = utc_now()
        recovery.make_due(connection, now, now)
