"""The chain: whoever alters, removes, moves or cuts off events is found, and patients stay out."""

from __future__ import annotations

import csv
import hashlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from prescreen.errors import StoreError
from prescreen.store import audit
from prescreen.store.audit import GENESIS, Checkpoint, verify
from prescreen.store.database import writing
from tests.store_bench import CANARY, PACS, StoreBench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[StoreBench]:
    bench = StoreBench(tmp_path)
    bench.destinations.go_live("pacs", "me", "test")
    bench.screened("1.2.1", PACS)
    yield bench
    bench.engine.dispose()


def tamper(bench: StoreBench, *statements: str) -> None:
    """Change the file as someone would who can write it and knows of the triggers."""
    with sqlite3.connect(str(bench.engine.url.database)) as connection:
        connection.execute("DROP TRIGGER IF EXISTS event_no_update")
        connection.execute("DROP TRIGGER IF EXISTS event_no_delete")
        for statement in statements:
            assert connection.execute(statement).rowcount != 0
    connection.close()


def test_untouched_chain_is_whole(bench: StoreBench) -> None:
    verdict = verify(bench.engine, [audit.checkpoint(bench.engine)])
    assert verdict.whole
    assert verdict.events == audit.checkpoint(bench.engine).event_id > 5


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("detail", "'{}'"),
        ("kind", "'job.done'"),
        ("at", "'2026-01-01T00:00:00.000000Z'"),
        ("at", "'yesterday'"),
        ("study_instance_uid", "'1.2.9'"),
        ("sop_instance_uid", "'1.2.9'"),
        ("job_id", "9"),
        ("phi_digest", "NULL"),
        ("hash", f"'{GENESIS}'"),
    ],
)
def test_altered_event_is_named(column: str, value: str, bench: StoreBench) -> None:
    tamper(bench, f"UPDATE event SET {column} = {value} WHERE event_id = 3")
    verdict = verify(bench.engine)
    assert (verdict.first_altered, verdict.whole) == (3, False)
    assert "event 3" in str(verdict.problem)


def test_removed_event_is_named(bench: StoreBench) -> None:
    tamper(bench, "DELETE FROM event WHERE event_id = 4")
    assert verify(bench.engine).first_altered == 4


def test_first_event_removed_is_named(bench: StoreBench) -> None:
    tamper(bench, "DELETE FROM event WHERE event_id = 1")
    assert verify(bench.engine).first_altered == 1


def test_moved_events_are_named(bench: StoreBench) -> None:
    tamper(
        bench,
        "UPDATE event SET event_id = 999 WHERE event_id = 4",
        "UPDATE event SET event_id = 4 WHERE event_id = 5",
        "UPDATE event SET event_id = 5 WHERE event_id = 999",
    )
    assert verify(bench.engine).first_altered == 4


def test_tail_cut_off_is_named(bench: StoreBench) -> None:
    last = audit.checkpoint(bench.engine).event_id
    tamper(bench, f"DELETE FROM event WHERE event_id > {last - 2}")
    assert verify(bench.engine).first_altered == last - 1


def test_tail_cut_off_with_its_head_needs_a_checkpoint(bench: StoreBench) -> None:
    remembered = audit.checkpoint(bench.engine)
    shorter = remembered.event_id - 1
    connection = sqlite3.connect(str(bench.engine.url.database))
    (digest,) = connection.execute(f"SELECT hash FROM event WHERE event_id={shorter}").fetchone()
    connection.close()
    tamper(
        bench,
        f"DELETE FROM event WHERE event_id > {shorter}",
        f"UPDATE meta SET value = '{shorter} {digest}' WHERE key = 'audit.head'",
    )
    assert verify(bench.engine).whole
    assert verify(bench.engine, [remembered]).first_altered == remembered.event_id


def test_chain_written_anew_needs_a_checkpoint(bench: StoreBench) -> None:
    remembered = Checkpoint(3, "f" * 64)
    assert verify(bench.engine, [remembered]).first_altered == 3


def test_head_moved_is_named(bench: StoreBench) -> None:
    last = audit.checkpoint(bench.engine).event_id
    tamper(bench, f"UPDATE meta SET value = '{last} {GENESIS}' WHERE key = 'audit.head'")
    assert verify(bench.engine).first_altered == last


@pytest.mark.parametrize("change", ["UPDATE event_phi SET content = '{}'", "DELETE FROM event_phi"])
def test_altered_patient_data_are_named(change: str, bench: StoreBench) -> None:
    tamper(bench, change)
    assert "patient data" in str(verify(bench.engine).problem)


def test_erasing_a_patient_leaves_the_chain_whole(bench: StoreBench) -> None:
    bench.retention.erase("1.2.1", "me", "asked")
    assert verify(bench.engine).whole


def test_audit_is_append_only(bench: StoreBench) -> None:
    for statement in ("UPDATE event SET kind = 'a.b'", "DELETE FROM event"):
        with pytest.raises(StoreError, match="append-only"), writing(bench.engine) as connection:
            connection.exec_driver_sql(statement)


def test_patient_data_stay_out_of_the_chain(bench: StoreBench) -> None:
    with writing(bench.engine) as connection, pytest.raises(ValueError, match="patient data"):
        audit.append(connection, "a.b", bench.now, detail={"deep": {"patient_id": "CANARYID"}})
    exported = "\n".join(audit.export(bench.engine, "json"))
    for value in CANARY.values():
        assert value not in exported


def test_malformed_kind_is_refused(bench: StoreBench) -> None:
    with writing(bench.engine) as connection, pytest.raises(ValueError, match="noun"):
        audit.append(connection, "JobDone", bench.now)


def test_export_can_be_verified_by_itself(bench: StoreBench) -> None:
    digest = GENESIS
    for line in audit.export(bench.engine, "json"):
        row = json.loads(line)
        found = row.pop("hash")
        row["detail"] = json.dumps(
            row["detail"], sort_keys=True, separators=(",", ":"), ensure_ascii=False
        )
        content = json.dumps(row, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(f"{digest}\n{content}".encode()).hexdigest()
        assert digest == found
    names, *rows = csv.reader(audit.export(bench.engine, "csv"))
    assert rows[-1][names.index("hash")] == digest
    with pytest.raises(StoreError, match="json or csv"):
        list(audit.export(bench.engine, "xml"))  # type: ignore[arg-type]


def test_events_tell_the_story_of_a_study(bench: StoreBench) -> None:
    kinds = [event.kind for event in audit.events(bench.engine, study_instance_uid="1.2.1")]
    assert kinds == [
        "job.opened",
        "instance.kept",
        "job.claimed",
        "job.screened",
        "report.written",
        "outbox.pending",
    ]
    (claimed,) = audit.events(bench.engine, kind="job.claimed")
    assert claimed.detail["weights"] == {"findings": "ab" * 32}
    assert [e.kind for e in audit.events(bench.engine, after=claimed.event_id, limit=1)] == [
        "job.screened"
    ]
    audit.record(bench.engine, "node.started", {"role": "receiver"})
    assert audit.events(bench.engine, kind="node.started")[0].detail == {"role": "receiver"}
