"""`prescreen demo` takes the DICOM objects under a path; all else is named, or counted."""

from __future__ import annotations

import errno
import os
import tomllib
from io import StringIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MediaStorageDirectoryStorage
from rich.console import Console

from prescreen import demonstration
from prescreen.errors import SettingsError
from prescreen.own_files import Own, own_files
from prescreen.study import generate_uid
from tests.e2e.house import small


def directory(folder: Path, records: int = 1) -> Path:
    """The DICOMDIR of a patient's CD."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    meta.MediaStorageSOPInstanceUID = UID(generate_uid())
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = Dataset()
    ds.file_meta = meta
    ds.FileSetID = "CD"
    record = Dataset()
    record.DirectoryRecordType = "PATIENT"
    ds.DirectoryRecordSequence = pydicom.Sequence([record] * records)
    path = folder / "DICOMDIR"
    ds.save_as(path, enforce_file_format=True)
    return path


def taken(*paths: Path) -> tuple[Own, list[str]]:
    """What is sent of these paths, and the lines that are printed."""
    written = StringIO()
    console = Console(file=written, width=40, force_terminal=True, color_system="truecolor")
    own = own_files(paths, console)
    return own, written.getvalue().splitlines()


def test_all_that_is_no_object_is_named_or_counted(tmp_path: Path) -> None:
    chest = small(tmp_path)
    directory(tmp_path)
    (tmp_path / "broken").symlink_to("none")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "notes.txt").write_text("not a radiograph")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    own, said = taken(tmp_path)
    assert own.files == [chest]
    assert own.left_out == len(said) + 1 == 6
    assert said == [
        f"left out: {tmp_path}/DICOMDIR is a DICOMDIR: a list of files, and no image",
        f"left out: {tmp_path}/broken leads nowhere",
        f"left out: {tmp_path}/loop is a folder that was looked through already",
        f"left out: {tmp_path}/pipe is no regular file",
        "left out: files that are not DICOM (Part 10): 2",
    ]


def test_a_long_directory_is_a_directory(tmp_path: Path) -> None:
    path = directory(tmp_path, records=5_000)
    _, said = taken(path)
    assert said == [f"left out: {path} is a DICOMDIR: a list of files, and no image"]


def test_a_damaged_object_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    path = small(tmp_path)
    path.write_bytes(path.read_bytes()[:1000])
    own, (said,) = taken(tmp_path)
    assert own.files == [] and own.left_out == 1
    assert said.startswith(f"left out: {path} cannot be used: the file ")


def test_what_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chest, closed = small(tmp_path), tmp_path / "closed.dcm"
    closed.touch()
    os_open = os.open

    def denying(path: Path, *flags: int) -> int:
        if path == closed:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return os_open(path, *flags)

    monkeypatch.setattr(os, "open", denying)
    own, said = taken(tmp_path)
    assert own.files == [chest] and own.left_out == 1
    assert said == [f"left out: {closed} cannot be read: Permission denied"]


def test_names_are_shown_as_they_are_and_no_terminal_obeys_them(tmp_path: Path) -> None:
    folder = tmp_path / "a [/bold] [red]b :smile: \x1b[31m\udcff\n"
    folder.mkdir(parents=True)
    (folder / "pipe").symlink_to("none")
    _, said = taken(folder)
    shown = "a [/bold] [red]b :smile: ?[31m??"
    assert said == [f"left out: {tmp_path}/{shown}/pipe leads nowhere"]


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no\?ne: there is no such file or folder"):
        taken(tmp_path / "no\nne")


@pytest.mark.parametrize("name", ['q"uote', "back\\slash", "line\nbreak", "del\x7f", "é😀", "{x}"])
def test_a_folder_of_any_name_is_valid_in_the_settings(tmp_path: Path, name: str) -> None:
    text = demonstration.settings_text(tmp_path / name, 11112, 11113)
    assert tomllib.loads(text)["data_dir"] == str(tmp_path / name)


def test_a_folder_whose_name_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--out .*br\?ken: its name is not UTF-8; choose"):
        demonstration.run([], tmp_path / "br\udcffken", Console(file=StringIO()))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"--out /dev/null/\?: cannot be written: Not a dir"):
        demonstration.run([], Path("/dev/null/\x1b"), Console(file=StringIO()))


def test_nothing_that_can_be_sent_is_refused(tmp_path: Path) -> None:
    given = tmp_path / "given"
    given.mkdir()
    with pytest.raises(SettingsError, match=rf"no DICOM file under {given}$"):
        demonstration.run([given], tmp_path / "out", Console(file=StringIO()))
