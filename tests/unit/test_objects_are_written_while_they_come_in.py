"""An object on its way in: in pieces, digested as it comes, nothing until it is finished."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from prescreen.dicom.identity import identify
from prescreen.errors import OutOfResources
from prescreen.store.spool import Spool
from prescreen.study import generate_uid
from tests.pictures import data_set, part10, ramp


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_pieces_become_one_file_with_its_digest(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    intake = spool.begin()
    pieces = [os.urandom(size) for size in (1, 700_000, 700_000, 3)]
    for piece in pieces:
        intake.write(memoryview(piece))
    assert intake.content()[:] == b"".join(pieces)
    kept = spool.keep(intake)
    intake.discard()  # it is kept: nothing is removed
    assert kept.path.read_bytes() == b"".join(pieces)
    assert kept.sha256 == hashlib.sha256(b"".join(pieces)).hexdigest()
    assert kept.size == 1_400_004


def test_what_is_discarded_leaves_nothing(tmp_path: Path) -> None:
    intake = Spool(tmp_path).begin()
    intake.write(b"x")
    intake.discard()
    intake.discard()
    assert files(tmp_path / "spool") == []


def test_what_a_killed_process_was_receiving_is_swept(tmp_path: Path) -> None:
    Spool(tmp_path).begin().write(b"half of it")
    (left,) = files(tmp_path / "spool")
    assert left.name.endswith(".tmp")
    assert Spool(tmp_path).sweep(lambda path: None, min_age=0).unfinished == 1
    assert files(tmp_path / "spool") == []


def test_a_disk_that_fills_up_meanwhile_is_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    intake = Spool(tmp_path).begin()

    def full(*arguments: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OutOfResources, match="free room"):
            intake.write(b"x")
    intake.discard()
    assert files(tmp_path / "spool") == []


@pytest.mark.parametrize("private", [0, 1_000_000], ids=["in the head", "after the head"])
def test_identity_is_found_wherever_it_stands(tmp_path: Path, private: int) -> None:
    ds = data_set(ramp())
    ds.SOPClassUID = ComputedRadiographyImageStorage
    ds.StudyInstanceUID = study = generate_uid()
    if private:
        ds.add_new(0x00190010, "LO", "PEER")
        ds.add_new(0x00191001, "OB", bytes(private))
    spool = Spool(tmp_path)
    intake = spool.begin()
    intake.write(part10(ds))
    found = identify(intake.content())
    assert found.study_instance_uid == study
    assert found.transfer_syntax_uid == ExplicitVRLittleEndian
