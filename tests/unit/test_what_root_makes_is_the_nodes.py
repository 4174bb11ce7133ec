"""Commands given by root leave a data directory that its owner, as whom the node runs, can use."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from prescreen import backup, checkpoints, mending, node, shelf
from prescreen.settings import Settings
from prescreen.store import audit
from prescreen.store.queue import utc_now

#: As whom the node runs: where root runs the tests, somebody else.
NODE = os.geteuid() or 65534


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The data directory is a link, as the systemd unit's is."""
    (tmp_path / "private").mkdir()
    os.chown(tmp_path / "private", NODE, -1)
    (tmp_path / "data").symlink_to(tmp_path / "private")
    return Settings(data_dir=tmp_path / "data")


def of_root(settings: Settings) -> list[Path]:
    made = settings.data_dir.resolve().rglob("*")
    return [path for path in made if path.lstat().st_uid != NODE]


def test_what_is_opened_first_by_root(settings: Settings) -> None:
    engine = node.open_store(settings).engine
    point = audit.checkpoint(engine)
    checkpoints.append(settings.data_dir, settings.data_dir.parent / "signed", point, utc_now())
    engine.dispose()
    assert of_root(settings) == []


def test_what_is_repaired_and_restored_by_root(settings: Settings, tmp_path: Path) -> None:
    node.open_store(settings).engine.dispose()
    backup.make(settings, tmp_path / "copy")
    assert of_root(settings) == []
    (settings.data_dir / node.DATABASE).write_bytes(b"no database")
    mending.repair(settings)
    assert of_root(settings) == []
    shutil.rmtree(tmp_path / "private")
    (tmp_path / "private").mkdir()
    os.chown(tmp_path / "private", NODE, -1)
    backup.restore(settings, tmp_path / "copy")
    assert of_root(settings) == []


def test_weights_that_root_chose(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf, "verify", lambda folder: None)
    shelf.use(settings, str(node.shipped_weights() / "densenet121"), "root", "compared")
    assert node.weights_dir(settings).is_dir()
    assert of_root(settings) == []


def test_what_a_link_leads_to_stays_as_it_is(settings: Settings, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    before = outside.stat().st_uid
    (settings.data_dir / "link").symlink_to(outside)
    node.open_store(settings).engine.dispose()
    assert outside.stat().st_uid == (outside / "file").stat().st_uid == before
