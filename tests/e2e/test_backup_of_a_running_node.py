"""`prescreen backup` while studies come in; `prescreen restore` gives back all that was in it."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from prescreen import backup, doctor, mending
from prescreen.errors import PeerUnavailable, StoreError
from prescreen.settings import load
from prescreen.store import audit, reader
from prescreen.store.destinations import Destinations
from prescreen.store.guard import Guard
from tests.e2e.blind import answer, answered, deliver, kept
from tests.e2e.house import UNCLOSED, House, chest, house, small

pytestmark = pytest.mark.filterwarnings(UNCLOSED)


class Sending:
    """One study after the other goes to the node, in a thread, until it is told to stop."""

    def __init__(self, home: House, folder: Path) -> None:
        self._home, self._folder = home, folder
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.acknowledged: list[str] = []

    def _run(self) -> None:
        with self._home.sender() as sender:
            while not self._stop.is_set():
                path = small(self._folder)
                try:
                    if sender.send(path) == 0x0000:
                        self.acknowledged.append(path.stem)
                except PeerUnavailable:
                    return

    def __enter__(self) -> Sending:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join(120)


def test_a_backup_of_a_running_node_holds_all_that_was_acknowledged_before(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        with home.role("receive"), Sending(home, tmp_path) as sending:
            while len(sending.acknowledged) < 5:
                sending._stop.wait(0.05)
            before = set(sending.acknowledged)
            result = home.command("backup", str(tmp_path / "copy"))
            assert result.returncode == 0, result.stderr
            assert "audit up to event" in result.stdout
            made = backup.make(home.settings, tmp_path / "copy")  # into the same folder
            refused = home.command("restore", str(tmp_path / "copy"))
            assert refused.returncode == 3
            assert "receive is running on it; stop the node first" in refused.stderr
        assert made.files >= len(before)
        refused = home.command("restore", str(tmp_path / "copy"))
        assert refused.returncode == 3
        assert "nothing is written over a node" in refused.stderr
        home.close()
        shutil.move(home.settings.data_dir, tmp_path / "lost")
        result = home.command("restore", str(tmp_path / "copy"))
        assert result.returncode == 0, result.stderr
        assert "everything is on hold" in result.stdout
        assert doctor.look(home.settings) == []
        engine = home.store().engine
        assert audit.verify(engine).whole
        uids = {row["study_instance_uid"] for row in reader.studies(engine, 10_000)}
        assert len(uids) >= len(before)
        sops = {sop for uid in uids for sop in _sops(home, uid)}
        assert before <= sops


def _sops(home: House, uid: str) -> list[str]:
    return [row["sop_instance_uid"] for row in reader.show(home.store().engine, uid).instances]


def test_what_was_to_be_sent_is_sent_from_the_restored_node_once_released(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        answered(home, chest(tmp_path))
        waiting = kept(home, small(tmp_path))
        chosen = home.settings.data_dir / "weights" / "mine" / "findings.json"
        chosen.parent.mkdir(parents=True)
        chosen.write_text("{}")
        backup.make(home.settings, tmp_path / "copy")
        late = kept(home, small(tmp_path))
        deliver(home)
        sent = home.pacs.copies
        assert len(sent) == 2
        home.close()
        shutil.rmtree(home.settings.data_dir)
        backup.restore(home.settings, tmp_path / "copy")
        assert chosen.read_text() == "{}"
        assert home.store().outbox.claim("pacs", 5) == []
        Destinations(home.store().engine).release(None, "test", "restored")
        answer(home)
        deliver(home)
        assert all(len(contents) == 1 for contents in home.pacs.copies.values())
        assert set(sent) < set(home.pacs.copies)
        assert home.pacs.of_study(waiting)
        assert not home.pacs.of_study(late), "came after the backup: with the sender alone"


def test_a_backup_forgets_what_the_node_forgot(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        study = kept(home, chest(tmp_path))
        name = str(reader.show(home.store().engine, study).study["patient_name"])
        backup.make(home.settings, tmp_path / "copy")
        assert name.encode() in (tmp_path / "copy" / "prescreen.db").read_bytes()
        assert list(doctor.received_files(tmp_path / "copy"))
        assert home.command("erase", study, "--why", "asked to").returncode == 0
        made = backup.make(home.settings, tmp_path / "copy")
        assert (made.files, list(doctor.received_files(tmp_path / "copy"))) == (0, [])
        assert not list((tmp_path / "copy").glob("*-wal"))
        assert name.encode() not in (tmp_path / "copy" / "prescreen.db").read_bytes()


def test_a_backup_keeps_what_the_disk_lost(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        answered(home, chest(tmp_path))
        kept(home, small(tmp_path))
        copy, data = tmp_path / "copy", home.settings.data_dir
        backup.make(home.settings, copy)
        whole = {path: path.read_bytes() for path in (copy / "spool").rglob("*") if path.is_file()}
        gone, *others = sorted(doctor.received_files(data))
        gone.unlink()
        report = next(doctor.results_folders(data)) / "evaluation-report.dcm"
        for damaged in (*others, report):
            damaged.write_bytes(damaged.read_bytes()[:100])
        result = home.command("backup", str(copy))
        assert result.returncode == 1, result.stdout
        assert "1 files are in the backup alone" in result.stdout
        assert {path: path.read_bytes() for path in whole} == whole
        home.close()
        mending.repair(home.settings)
        assert doctor.look(home.settings) == []
        assert backup.make(home.settings, copy).only_here == 0


def test_a_node_that_began_anew_leaves_the_backup_of_the_old_one_alone(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        kept(home, small(tmp_path))
        backup.make(home.settings, tmp_path / "copy")
        before = (tmp_path / "copy" / "prescreen.db").read_bytes()
        home.close()
        shutil.move(home.settings.data_dir, tmp_path / "lost")
        home.settings.data_dir.mkdir()
        home.store()  # the disk came back empty, and the node was started on it
        result = home.command("backup", str(tmp_path / "copy"))
        assert result.returncode == 3
        assert "which this node does not have: keep it, and choose another" in result.stderr
        assert (tmp_path / "copy" / "prescreen.db").read_bytes() == before
        assert list(doctor.received_files(tmp_path / "copy"))


def test_two_backups_at_once_do_not_spoil_each_other(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        home.store()
        copy = tmp_path / "copy"
        copy.mkdir()
        with Guard(copy, "backup"):
            result = home.command("backup", str(copy))
        assert result.returncode == 3
        assert "another backup is running on it; stop that one first" in result.stderr
        assert [path.name for path in copy.iterdir()] == ["backup.lock"]
        assert home.command("backup", str(copy)).returncode == 0


def test_a_folder_that_is_no_backup_or_lies_inside_is_refused(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        kept(home, small(tmp_path))
        with pytest.raises(StoreError, match="outside the data directory"):
            backup.make(home.settings, home.settings.data_dir / "copy")
        with pytest.raises(StoreError, match="is no whole backup"):
            backup.restore(home.settings, tmp_path)
        other = load(home.config, data_dir=tmp_path / "nowhere")
        with pytest.raises(StoreError, match=r"is not there; correct data_dir"):
            backup.make(other, tmp_path / "copy")
        in_the_way = tmp_path / "file"
        in_the_way.touch()
        with pytest.raises(StoreError, match="choose a folder this user may write"):
            backup.make(home.settings, in_the_way)
