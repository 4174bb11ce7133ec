"""`audit checkpoint` and `verify --against`: who cuts the log off, or writes it anew, is found."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from prescreen import checkpoints, housekeeping
from prescreen.errors import StoreError
from prescreen.housekeeping import Housekeeper
from prescreen.settings import Housekeeping
from prescreen.store import audit
from prescreen.store.audit import GENESIS, Checkpoint, verify
from prescreen.store.spool import Spool
from tests.e2e.house import House, house
from tests.store_bench import PACS, StoreBench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[StoreBench]:
    bench = StoreBench(tmp_path)
    bench.screened("1.2.1", PACS)
    yield bench
    bench.engine.dispose()


def _signed(bench: StoreBench, folder: Path) -> tuple[Path, str]:
    file = folder / "elsewhere.jsonl"
    point = audit.checkpoint(bench.engine)
    return file, checkpoints.append(folder, file, point, bench.now)


def test_the_key_is_made_once_and_is_readable_by_its_owner_alone(
    bench: StoreBench, tmp_path: Path
) -> None:
    file, first = _signed(bench, tmp_path)
    _, second = _signed(bench, tmp_path)
    assert first == second == checkpoints.public_key(tmp_path)
    assert (tmp_path / checkpoints.KEY).stat().st_mode & 0o777 == 0o600
    assert len(checkpoints.read(file, first)) == 2
    assert verify(bench.engine, checkpoints.read(file, first)).whole


def _rewrite(bench: StoreBench, last: int) -> None:
    """The whole chain up to an event, computed anew with an altered first event."""
    with closing(sqlite3.connect(str(bench.engine.url.database))) as connection:
        connection.execute("DROP TRIGGER event_no_update")
        connection.execute("DROP TRIGGER event_no_delete")
        connection.execute("DELETE FROM event WHERE event_id > ?", (last,))
        connection.execute("DELETE FROM event_phi WHERE event_id > ?", (last,))
        connection.execute("UPDATE event SET detail = '{}' WHERE event_id = 2")
        connection.row_factory = sqlite3.Row
        digest = GENESIS
        for row in connection.execute("SELECT * FROM event ORDER BY event_id").fetchall():
            digest = audit._hash(digest, dict(row))
            update = "UPDATE event SET hash = ? WHERE event_id = ?"
            connection.execute(update, (digest, row["event_id"]))
        head = "UPDATE meta SET value = ? WHERE key = 'audit.head'"
        connection.execute(head, (f"{last} {digest}",))
        connection.commit()


def test_a_rewritten_log_is_whole_by_itself_and_found_by_a_checkpoint(
    bench: StoreBench, tmp_path: Path
) -> None:
    file, key = _signed(bench, tmp_path)
    last = audit.checkpoint(bench.engine).event_id
    _rewrite(bench, last)
    assert verify(bench.engine).whole, "without the checkpoint nobody can tell"
    verdict = verify(bench.engine, checkpoints.read(file, key))
    assert verdict.first_altered == last
    assert "differs from its checkpoint" in str(verdict.problem)


def test_a_log_that_was_cut_off_is_found(bench: StoreBench, tmp_path: Path) -> None:
    file, key = _signed(bench, tmp_path)
    last = audit.checkpoint(bench.engine).event_id
    _rewrite(bench, last - 3)
    verdict = verify(bench.engine, checkpoints.read(file, key))
    assert verdict.first_altered == last - 2
    assert f"events {last - 2} to {last} were cut off" in str(verdict.problem)


def test_a_checkpoint_that_was_altered_or_signed_by_another_is_refused(
    bench: StoreBench, tmp_path: Path
) -> None:
    file, key = _signed(bench, tmp_path)
    line = json.loads(file.read_text())
    file.write_text(json.dumps({**line, "event_id": 1}) + "\n")
    with pytest.raises(StoreError, match="line 1: is not what was signed"):
        checkpoints.read(file, key)
    other = tmp_path / "other"
    other.mkdir()
    forged = checkpoints.append(other, file, Checkpoint(1, GENESIS), bench.now)
    file.write_text(file.read_text().splitlines()[1] + "\n")
    with pytest.raises(StoreError, match="signed by another key"):
        checkpoints.read(file, key)
    assert checkpoints.read(file, forged) == [Checkpoint(1, GENESIS)]


@pytest.mark.parametrize("text", ["", "nonsense\n", "{}\n", "[1]\n"])
def test_a_file_that_holds_none_is_named(text: str, bench: StoreBench, tmp_path: Path) -> None:
    _, key = _signed(bench, tmp_path)
    file = tmp_path / "none.jsonl"
    file.write_text(text)
    with pytest.raises(StoreError, match=r"none\.jsonl"):
        checkpoints.read(file, key)
    with pytest.raises(StoreError, match="cannot be read"):
        checkpoints.read(tmp_path / "missing.jsonl", key)


def test_what_a_full_disk_cut_off_spoils_no_line_after_it(
    bench: StoreBench, tmp_path: Path
) -> None:
    signed, key = _signed(bench, tmp_path)
    beside, noted = tmp_path / housekeeping.CHECKPOINTS, tmp_path / housekeeping.BACKUPS
    spool = Spool(tmp_path)
    keeper = Housekeeper(bench.engine, spool, tmp_path, Housekeeping(), lambda: bench.now)
    first = keeper.checkpoint()
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "backup.json").touch()
        housekeeping.note_backup(tmp_path, tmp_path / name, bench.now)
        if name == "two":
            for file in (signed, beside, noted):
                file.write_bytes(file.read_bytes()[:-9])
            assert housekeeping.read_checkpoints(beside) == []
            assert housekeeping.last_backup(tmp_path) == tmp_path / "one"
    assert keeper.checkpoint() == first
    assert housekeeping.read_checkpoints(beside) == [first]
    assert checkpoints.read(_signed(bench, tmp_path)[0], key) == [first]
    assert housekeeping.last_backup(tmp_path) == tmp_path / "three"


def test_keys_and_files_that_cannot_be_used_are_named(bench: StoreBench, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="name the key with --key"):
        checkpoints.public_key(tmp_path)
    (tmp_path / checkpoints.KEY).write_text("no key")
    with pytest.raises(StoreError, match="move it away and a new one is made"):
        _signed(bench, tmp_path)
    (tmp_path / checkpoints.KEY).unlink()
    with pytest.raises(StoreError, match="choose a file this user may write"):
        checkpoints.append(tmp_path, tmp_path, Checkpoint(1, GENESIS), bench.now)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[House]:
    with house(tmp_path, listens=False) as home:
        yield home


def test_the_commands(home: House, tmp_path: Path) -> None:
    file = tmp_path / "elsewhere.jsonl"
    result = home.command("audit", "checkpoint", str(file))
    assert result.returncode == 0, result.stderr
    assert "is signed by" in result.stdout
    assert home.command("audit", "verify", "--against", str(file)).returncode == 0
    data = home.settings.data_dir
    home.close()
    shutil.rmtree(data)
    home.command("status")  # a new node in the old one's place
    key = json.loads(file.read_text())["public_key"]
    result = home.command("audit", "verify", "--against", str(file), "--key", key)
    assert result.returncode == 1
    assert "were cut off" in result.stderr
