"""What is done with leaves the kernel's memory, and is digested if it is read again."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.uid import CTImageStorage

from prescreen import pipeline
from prescreen.dicom.decode import Decoder
from prescreen.errors import UnusableImage
from prescreen.store import lately
from prescreen.store.spool import Spool
from tests.parcels import SUCCESS, Parcels, chest
from tests.routes import Peer, route
from tests.store_bench import PACS, live


class Watched(set[int]):
    """Inodes whose content the kernel was told to drop."""

    def has(self, path: Path) -> bool:
        return path.stat().st_ino in self


@pytest.fixture
def dropped(monkeypatch: pytest.MonkeyPatch) -> Watched:
    watched, real = Watched(), os.posix_fadvise

    def advise(descriptor: int, offset: int, length: int, advice: int) -> None:
        assert (offset, length, advice) == (0, 0, os.POSIX_FADV_DONTNEED)
        watched.add(os.fstat(descriptor).st_ino)
        real(descriptor, offset, length, advice)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    return watched


@pytest.fixture
def parcels(tmp_path: Path) -> Iterator[Parcels]:
    with Decoder() as decoder:
        parcels = Parcels(tmp_path / "data", decoder)
        yield parcels
        parcels.bench.engine.dispose()


def _received(parcels: Parcels) -> Path:
    (path,) = (path for path in parcels.files() if "received" in path.parts)
    return path


def test_what_is_not_screened_makes_room_at_once(parcels: Parcels, dropped: Watched) -> None:
    assert parcels.keep(chest(SOPClassUID=CTImageStorage, Modality="CT")) == SUCCESS
    assert dropped.has(_received(parcels))


def _done_with(*paths: Path) -> None:
    """As screening and sending say it; the kernel's clock for files ticks slowly."""
    for path in paths:
        before = path.stat().st_ctime_ns
        while path.stat().st_ctime_ns == before:
            lately.done_with(path, datetime.datetime.now(datetime.UTC))


def test_the_oldest_makes_way_for_what_comes_once_there_is_more_than_is_held(
    tmp_path: Path, dropped: Watched
) -> None:
    spool = Spool(tmp_path, held=2_500)
    first, second, third = (spool.keep(bytes(1_000)).path for _ in range(3))
    _done_with(first, second, third)
    assert not dropped, "the next one takes its place, and has not come yet"
    spool.begin()
    assert dropped.has(first)
    assert not dropped.has(second)
    assert not dropped.has(third)


def test_what_is_still_to_be_read_stays_however_much_there_is(
    tmp_path: Path, dropped: Watched
) -> None:
    spool = Spool(tmp_path, held=2_500)
    first, *others = (spool.keep(bytes(1_000)).path for _ in range(20))
    for _ in range(5):
        spool.begin()
    assert not dropped
    _done_with(others[10])
    for _ in range(5):
        spool.begin()
    assert [path for path in (first, *others) if dropped.has(path)] == [others[10]]


def test_results_make_way_for_results(tmp_path: Path, dropped: Watched) -> None:
    spool = Spool(tmp_path, held=1_500)
    published = []
    for job in (1, 2):
        draft = spool.draft(job)
        (draft / "report.dcm").write_bytes(bytes(1_000))
        published.append(spool.publish(job, draft) / "report.dcm")
    _done_with(*published)
    assert not dropped
    spool.draft(3)
    assert dropped.has(published[0])
    assert not dropped.has(published[1])


def test_what_was_let_go_or_removed_takes_no_place(tmp_path: Path, dropped: Watched) -> None:
    spool = Spool(tmp_path, held=2_500)
    ignored, removed, kept = (spool.keep(bytes(1_000)).path for _ in range(3))
    spool.let_go(ignored)
    assert dropped.has(ignored)
    spool.remove(removed)
    _done_with(kept, spool.keep(bytes(1_000)).path)
    spool.begin()
    assert not dropped.has(kept)


def test_one_path_that_is_written_twice_counts_once(tmp_path: Path, dropped: Watched) -> None:
    spool = Spool(tmp_path, held=1_500)
    for _ in range(2):
        draft = spool.draft(7)
        (draft / "report.dcm").write_bytes(bytes(1_000))
        published = spool.publish(7, draft)
        _done_with(published / "report.dcm")
        spool.draft(8)
        assert not dropped
        spool.quarantine(published, "not_of_this_job")


def test_what_was_screened_or_sent_is_done_with(tmp_path: Path, parcels: Parcels) -> None:
    assert parcels.keep(chest()) == SUCCESS
    received = _received(parcels)
    now = datetime.datetime.now(datetime.UTC)
    assert lately.is_untouched(received, now)
    parcels.answer()
    assert not lately.is_untouched(received, now)


def test_a_result_is_done_with_once_it_is_delivered(tmp_path: Path) -> None:
    bench = live(tmp_path)
    bench.screened("1.2.1", PACS)
    (delivery,) = bench.outbox.claim("pacs", 60)
    delivery.path.parent.mkdir(exist_ok=True)
    delivery.path.write_bytes(b"a report")
    before = delivery.path.stat().st_ctime_ns
    time.sleep(0.02)  # the kernel's clock for files ticks slowly
    pipeline.deliver([delivery], route(bench, Peer()))
    assert delivery.path.stat().st_ctime_ns > before


def test_what_was_read_from_the_disk_is_let_go_at_once(tmp_path: Path, dropped: Watched) -> None:
    kept = Spool(tmp_path).keep(b"whole" * 100)
    an_hour_ago = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
    lately.done_with(kept.path, an_hour_ago)
    assert dropped.has(kept.path)


def test_what_was_let_go_is_digested_before_it_is_read_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept = spool.keep(b"whole" * 100)
    came = kept.path.stat().st_mtime_ns
    now = datetime.datetime.now(datetime.UTC)
    spool.verify(kept.path, "0" * 64, now)  # untouched: not digested
    while kept.path.stat().st_ctime <= now.timestamp():  # the kernel's clock for files ticks slowly
        lately.let_go(kept.path)
    spool.verify(kept.path, kept.sha256, now)
    with pytest.raises(UnusableImage, match="not what was kept"):
        spool.verify(kept.path, "0" * 64, now)
    assert kept.path.read_bytes() == b"whole" * 100
    assert kept.path.stat().st_mtime_ns == came, "by which a sweep tells its age"


def test_what_is_gone_cannot_be_let_go_and_is_no_error(tmp_path: Path) -> None:
    lately.let_go(tmp_path / "nothing.dcm")


#: A ring refers to itself, as networks do: only the collector frees it.
REPLACED = """
import gc, weakref
from prescreen.dicom.heap import keep_what_is_loaded

class Ring:
    def __init__(self):
        self.itself = self

ring = Ring()
gone = weakref.ref(ring)
keep_what_is_loaded()
del ring
gc.collect()
looked_past = gone() is not None
keep_what_is_loaded()  # others were loaded in its place
print(looked_past, gone() is None)
"""


def test_what_is_loaded_is_looked_past_until_it_is_replaced() -> None:
    said = subprocess.run(
        [sys.executable, "-c", REPLACED], capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout.split() == ["True", "True"]
