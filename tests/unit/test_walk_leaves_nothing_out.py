"""What lies under a path is yielded: what can be opened, and with its reason what cannot."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from prescreen.walk import Found, walked


def under(folder: Path) -> dict[str, str | None]:
    """What `walked` yields of a folder, in its order: path below it, and why it is not taken."""
    return {str(found.path.relative_to(folder)): found.why_not for found in walked(folder)}


def test_files_come_in_order_of_name_with_folders_among_them(tmp_path: Path) -> None:
    for name in ("b/2.dcm", "b/10.dcm", "a.dcm", "c.dcm", "b/x/1.dcm", ".hidden", "b c.dcm"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [each.path for each in walked(tmp_path)]
    assert found == sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert len(found) == 7


def test_a_file_that_is_given_is_itself(tmp_path: Path) -> None:
    (tmp_path / "a.dcm").touch()
    assert list(walked(tmp_path / "a.dcm")) == [Found(tmp_path / "a.dcm")]


def test_an_empty_folder_holds_nothing(tmp_path: Path) -> None:
    assert list(walked(tmp_path)) == []


@pytest.mark.parametrize("name", ["none", "a.dcm/none"])
def test_what_is_not_there_is_said(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.dcm").touch()
    assert list(walked(tmp_path / name)) == [Found(tmp_path / name, "was not found")]


def test_a_name_that_no_file_can_have_is_said(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    assert list(walked(path)) == [Found(path, "cannot be read: File name too long")]


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.dcm").touch()
    given = tmp_path / "given"
    given.mkdir()
    (given / "folder").symlink_to("../elsewhere")
    (given / "file").symlink_to("../elsewhere/1.dcm")
    assert under(given) == {"file": None, "folder/1.dcm": None}
    assert [each.path for each in walked(given / "folder")] == [given / "folder" / "1.dcm"]


def test_a_folder_is_walked_once_and_loops_end(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "1.dcm").touch()
    (tmp_path / "sub" / "up").symlink_to("..")
    (tmp_path / "twice").symlink_to("sub")
    already = "is a folder that was looked through already"
    assert under(tmp_path) == {"sub/1.dcm": None, "sub/up": already, "twice": already}


def test_links_that_lead_nowhere_are_said(tmp_path: Path) -> None:
    (tmp_path / "broken").symlink_to("none")
    (tmp_path / "itself").symlink_to("itself")
    assert under(tmp_path) == {"broken": "leads nowhere", "itself": "leads nowhere"}


def test_pipes_sockets_and_devices_are_never_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        said = "is no regular file"
        assert under(tmp_path) == {"device": said, "pipe": said, "socket": said}
        assert list(walked(tmp_path / "pipe")) == [Found(tmp_path / "pipe", said)]


@pytest.fixture
def limited() -> Iterator[int]:
    """How deep functions may call each other: whatever ran before in this process."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1_000)
    yield 1_000
    sys.setrecursionlimit(before)


def test_folders_deeper_than_functions_may_call_each_other(tmp_path: Path, limited: int) -> None:
    deep, depth = os.open(tmp_path, os.O_RDONLY), limited + 100
    for _ in range(depth):
        os.mkdir("d", dir_fd=deep)
        below = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(os.open("1.dcm", os.O_CREAT | os.O_WRONLY, dir_fd=deep))
    os.close(deep)
    (found,) = walked(tmp_path)
    assert found.path.name == "1.dcm" and found.why_not is None
    assert len(found.path.relative_to(tmp_path).parts) == depth + 1
    found.path.unlink()
    for folder in list(found.path.parents)[:depth]:
        folder.rmdir()  # pytest would call itself as often


#: As nobody where the tests run as root, who may read everything.
_AS_NOBODY = """
import os, sys
from pathlib import Path
from prescreen.walk import walked
os.chdir(sys.argv[1])
if os.getuid() == 0:
    os.setuid(65534)
for found in walked(Path(".")):
    print(found.path, found.why_not)
"""


def test_what_may_not_be_read_is_said_and_its_neighbours_are_taken(tmp_path: Path) -> None:
    for name in ("1.dcm", "2.dcm", "closed/3.dcm", "listed/4.dcm", "open/5.dcm"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    modes = {".": 0o755, "2.dcm": 0, "closed": 0, "listed": 0o444}
    for name, mode in modes.items():
        (tmp_path / name).chmod(mode)
    try:
        command = [sys.executable, "-c", _AS_NOBODY, str(tmp_path)]
        told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    finally:
        for name in ("closed", "listed"):
            (tmp_path / name).chmod(0o755)
    assert told.stdout.splitlines() == [
        "1.dcm None",
        "2.dcm cannot be read: Permission denied",
        "closed cannot be read: Permission denied",
        "listed/4.dcm cannot be read: Permission denied",
        "open/5.dcm None",
    ]
