"""The user's own files: the DICOM objects under a path, and a line for what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.uid import MediaStorageDirectoryStorage
from rich.console import Console

from prescreen.dicom.header import read_header
from prescreen.dicom.send import context_of
from prescreen.errors import SettingsError, StoreError, UnusableImage
from prescreen.tables import plain, say
from prescreen.walk import NOT_FOUND, walked


@dataclass(frozen=True)
class Own:
    """The user's files that are sent, and how many files and folders are not."""

    files: Sequence[Path]
    left_out: int = 0


def own_files(paths: Iterable[Path], console: Console) -> Own:
    """The DICOM objects under what the user named; a line for each thing that is left out.

    Of files that are not DICOM one line says how many there are. Raises SettingsError for a path
    that is not there.
    """
    files: list[Path] = []
    named, foreign = 0, 0
    for path in paths:
        for found in walked(path):
            if found.path == path and found.why_not == NOT_FOUND:
                raise SettingsError(f"{plain(str(path))}: there is no such file or folder")
            why_not = found.why_not or _why_no_object(found.path)
            if why_not is None:
                files.append(found.path)
            elif why_not == _FOREIGN:
                foreign += 1
            else:
                named += 1
                say(console, f"left out: {found.path} {why_not}")
    if foreign:
        say(console, f"left out: files that are not DICOM (Part 10): {foreign}")
    return Own(files, named + foreign)


_FOREIGN = "is not DICOM"


def _why_no_object(path: Path) -> str | None:
    """Why a file cannot be sent, in words that follow its name; None where it can."""
    try:
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                return _FOREIGN
        if _is_directory(path):
            return "is a DICOMDIR: a list of files, and no image"
        read_header(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except UnusableImage as error:
        return f"cannot be used: {error}"
    return None


def _is_directory(path: Path) -> bool:
    """Whether it is a Basic Directory (PS3.3 F), by what its meta information says."""
    try:
        return context_of(path)[0] == MediaStorageDirectoryStorage
    except StoreError:
        return False
