"""The spool: a file exists only when it is whole, and a full disk leaves nothing behind."""

from __future__ import annotations

import datetime
import errno
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import pytest

from prescreen.errors import OutOfResources, StoreError, UnusableImage
from prescreen.store import intake, lately
from prescreen.store import spool as spool_module
from prescreen.store.guard import Guard
from prescreen.store.spool import Spool


class Killed(BaseException):
    """The process ended at a crash point."""


def _killed_at(point: str) -> Any:
    def crash(reached: str) -> None:
        if reached == point:
            raise Killed

    return crash


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_kept_file_is_what_came(tmp_path: Path) -> None:
    kept = Spool(tmp_path).keep(b"DICM" * 1000)
    assert kept.path.read_bytes() == b"DICM" * 1000
    assert (kept.sha256, kept.size) == (hashlib.sha256(b"DICM" * 1000).hexdigest(), 4000)
    assert kept.path.parent.parent == tmp_path / "spool" / "received"
    assert kept.path.stat().st_mode & 0o007 == 0


@pytest.mark.parametrize("asked", [True, False], ids=["room made", "no such call"])
@pytest.mark.parametrize("size", [1 << 19, (1 << 20) + 1, 9_000_001])
def test_a_large_file_takes_no_more_of_the_disk_than_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, asked: bool
) -> None:
    """Room is made ahead while it comes in; what is left over goes back."""
    if not asked:
        monkeypatch.setattr(intake, "_fallocate", None)
    spool, content = Spool(tmp_path), os.urandom(size)
    unfinished = spool.begin()
    for start in range(0, size, 131_060):
        unfinished.write(memoryview(content)[start : start + 131_060])
    kept = spool.keep(unfinished)
    assert kept.path.read_bytes() == content
    assert (kept.size, kept.sha256) == (size, hashlib.sha256(content).hexdigest())
    assert kept.path.stat().st_size == size
    assert kept.path.stat().st_blocks * 512 <= size + (1 << 17)


def test_a_written_file_is_its_content_and_replaces_none(tmp_path: Path) -> None:
    content = os.urandom(2_000_001)
    intake.write_file(tmp_path / "a", content)
    assert (tmp_path / "a").read_bytes() == content
    with pytest.raises(FileExistsError):
        intake.write_file(tmp_path / "a", b"other")


def test_process_that_ends_before_the_rename_leaves_an_unfinished_file(tmp_path: Path) -> None:
    spool = Spool(tmp_path, _killed_at("keep.written"))
    with pytest.raises(Killed):
        spool.keep(b"x")
    (left,) = _files(tmp_path / "spool")
    assert left.name.endswith(".tmp")
    swept = Spool(tmp_path).sweep(lambda path: None, min_age=0)
    assert (swept.unfinished, swept.quarantined, _files(tmp_path / "spool")) == (1, 0, [])


def test_process_that_ends_after_the_rename_leaves_an_orphan_to_set_aside(tmp_path: Path) -> None:
    spool = Spool(tmp_path, _killed_at("keep.renamed"))
    with pytest.raises(Killed):
        spool.keep(b"x")
    (left,) = _files(tmp_path / "spool")
    assert left.suffix == ".dcm"
    assert Spool(tmp_path).sweep(lambda path: None, min_age=0).quarantined == 1
    aside, reason = _files(tmp_path / "spool" / "quarantine")
    assert (aside.read_bytes(), reason.read_text()) == (b"x", "no_row\n")


def test_sweep_leaves_young_and_known_files_and_removes_expired_ones(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    known, expired = spool.keep(b"1").path, spool.keep(b"2").path
    assert spool.sweep(lambda path: None, min_age=60) == spool_module.Swept(0, 0, 0)
    verdicts = {known: True, expired: False}
    assert spool.sweep(verdicts.__getitem__, min_age=0) == spool_module.Swept(0, 1, 0)
    assert (known.exists(), expired.exists()) == (True, False)


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_full_disk_is_a_refusal_and_leaves_nothing(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(OutOfResources, match="free room") as caught:
            spool.keep(b"x")
    assert (caught.value.status, caught.value.retryable) == (0xA700, True)
    assert _files(tmp_path / "spool") == []
    assert spool.keep(b"x").path.exists()


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, view: real(fd, view[:3]))
    assert spool.keep(b"0123456789").path.read_bytes() == b"0123456789"


def test_folder_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "data"
    blocked.write_text("a file")
    with pytest.raises(StoreError, match=str(blocked)):
        Spool(blocked)

    def denied(*arguments: object, **more: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "touch", denied)
    with pytest.raises(StoreError, match="make it a folder this user may write"):
        Spool(tmp_path / "other")


def test_results_appear_whole_and_never_change(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    first = spool.draft(7)
    (first / "sr.dcm").write_bytes(b"first")
    assert spool.results(7) is None
    results = spool.publish(7, first)
    assert (spool.results(7), first.exists()) == (results, False)
    second = spool.draft(7)
    (second / "sr.dcm").write_bytes(b"second")
    assert spool.publish(7, second) == results
    assert ((results / "sr.dcm").read_bytes(), second.exists()) == (b"first", False)


@pytest.mark.parametrize(
    ("point", "published"), [("report.before_rename", False), ("report.renamed", True)]
)
def test_process_that_ends_around_publishing(point: str, published: bool, tmp_path: Path) -> None:
    spool = Spool(tmp_path, _killed_at(point))
    draft = spool.draft(7)
    (draft / "sr.dcm").write_bytes(b"x")
    with pytest.raises(Killed):
        spool.publish(7, draft)
    after = Spool(tmp_path)
    assert (after.results(7) is not None, draft.exists()) == (published, not published)
    after.sweep(lambda path: True, min_age=0)
    assert not draft.exists()
    assert (after.results(7) is not None) == published


def test_damaged_and_missing_files_are_told_apart(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept = spool.keep(b"x")
    spool.verify(kept.path, kept.sha256)
    kept.path.chmod(0o640)
    kept.path.write_bytes(b"y")
    with pytest.raises(UnusableImage) as damaged:
        spool.verify(kept.path, kept.sha256)
    spool.remove(kept.path)
    spool.remove(kept.path)
    with pytest.raises(UnusableImage) as missing:
        spool.verify(kept.path, kept.sha256)
    assert (damaged.value.reason, missing.value.reason) == ("file_damaged", "file_missing")


@pytest.mark.parametrize("path", ["/etc/passwd", "spool/../x", "spool", "spool/received"])
def test_nothing_outside_the_spool_is_removed(path: str, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    (tmp_path / "x").touch()
    with pytest.raises(StoreError, match="is not a file of the spool"):
        spool.remove(tmp_path / path)


def test_a_role_is_held_by_one_process(tmp_path: Path) -> None:
    with Guard(tmp_path, "receiver"):
        Guard(tmp_path, "screener").close()
        with pytest.raises(StoreError, match="another receiver is running"):
            Guard(tmp_path, "receiver")
    Guard(tmp_path, "receiver").close()


def test_what_was_kept_moments_ago_is_read_again_only_if_it_was_touched(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    kept = spool.keep(b"whole" * 100)
    now = datetime.datetime.now(datetime.UTC)
    wrong = "0" * 64
    spool.verify(kept.path, wrong, now)  # nobody touched it: its digest is not asked for
    for doubtful in (None, now + datetime.timedelta(hours=1), now - datetime.timedelta(hours=1)):
        with pytest.raises(UnusableImage, match="not what was kept"):
            spool.verify(kept.path, wrong, doubtful)
    content = bytearray(kept.path.read_bytes())
    content[7] ^= 1
    time.sleep(0.02)  # the kernel's clock for files ticks every few milliseconds
    kept.path.write_bytes(content)
    with pytest.raises(UnusableImage, match="not what was kept"):
        spool.verify(kept.path, kept.sha256, now)


def test_what_another_process_wrote_before_this_one_began_is_digested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Spool(tmp_path).keep(b"whole" * 100)
    now = datetime.datetime.now(datetime.UTC)
    assert lately.is_untouched(kept.path, now)
    monkeypatch.setattr(lately, "_STARTED", time.time())
    assert not lately.is_untouched(kept.path, now)
    monkeypatch.undo()
    monkeypatch.setattr(lately, "FRESH", -1.0)
    assert not lately.is_untouched(kept.path, now)
