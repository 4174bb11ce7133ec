"""`prescreen audit`: as a table, as JSON and as CSV; and no study is named by nothing."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from prescreen import tables
from prescreen.audit_commands import app
from prescreen.errors import NotThere
from prescreen.settings import Settings
from prescreen.store import reader
from prescreen.store.audit import checkpoint
from prescreen.store.database import data_dir
from tests.store_bench import LAB, PACS, StoreBench

STUDY = "1.2.840.77"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[StoreBench]:
    bench = StoreBench(tmp_path)
    bench.keep(STUDY, 1, accession_number="")
    yield bench
    bench.engine.dispose()


def audit(bench: StoreBench, *arguments: str) -> Result:
    environment = {"PRESCREEN__DATA_DIR": str(data_dir(bench.engine))}
    return CliRunner().invoke(app, [*arguments], env=environment)


def test_studies_as_table_json_and_csv(bench: StoreBench) -> None:
    assert STUDY in audit(bench, "list").stdout
    (as_json,) = json.loads(audit(bench, "list", "--json").stdout)
    (as_csv,) = csv.DictReader(io.StringIO(audit(bench, "list", "--csv").stdout))
    assert as_json["study_instance_uid"] == as_csv["study_instance_uid"] == STUDY
    assert list(as_csv) == list(as_json)
    assert not {"patient_name", "accession_number"} & set(as_csv)


def test_no_study_as_csv_is_nothing(tmp_path: Path) -> None:
    bench = StoreBench(tmp_path)
    assert audit(bench, "list", "--csv").stdout == ""
    bench.engine.dispose()


def test_events_as_json_csv_and_table(bench: StoreBench) -> None:
    lines = [json.loads(line) for line in audit(bench, "export").stdout.splitlines()]
    kinds = [line["kind"] for line in lines]
    assert "instance.kept" in kinds
    assert audit(bench, "export", "--json").stdout == audit(bench, "export").stdout
    rows = list(csv.DictReader(io.StringIO(audit(bench, "export", "--format", "csv").stdout)))
    assert [row["kind"] for row in rows] == kinds
    table = audit(bench, "export", "--format", "table").stdout
    assert all(kind in table for kind in kinds)


def test_the_chain_as_a_line_and_as_json(bench: StoreBench) -> None:
    events = checkpoint(bench.engine).event_id
    assert audit(bench, "verify").stdout == f"the chain is whole: {events} events\n"
    whole = {"whole": True, "events": events, "first_altered": None, "problem": None}
    assert json.loads(audit(bench, "verify", "--json").stdout) == whole
    with bench.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER event_no_update")
        connection.exec_driver_sql("UPDATE event SET kind = 'nothing' WHERE event_id = 1")
    said = audit(bench, "verify", "--json")
    assert said.exit_code == 1
    assert json.loads(said.stdout)["first_altered"] == 1


def test_what_is_to_become_of_a_study_is_said(bench: StoreBench) -> None:
    assert "outcome: none yet\n" in audit(bench, "show", STUDY).stdout
    bench.keep("1.2.840.78", 1, screenable=False)
    said = audit(bench, "show", "1.2.840.78").stdout
    assert "outcome: none: nothing of it is to be screened\n" in said
    (job,) = bench.claim()
    bench.settle(job, PACS)
    assert "outcome: screened\n" in audit(bench, "show", STUDY).stdout


@pytest.mark.parametrize("nothing", ["", " ", "\t"])
def test_a_study_without_accession_number_is_not_named_by_nothing(
    bench: StoreBench, nothing: str
) -> None:
    with pytest.raises(NotThere, match="no study is named: give its UID, accession number or job"):
        reader.show(bench.engine, nothing)


def test_a_test_destination_is_not_called_silent(
    bench: StoreBench, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_dir=data_dir(bench.engine), destinations=(PACS, LAB))
    tables.show_status(reader.status(bench.engine, bench.now), [], 1, {}, settings, as_json=False)
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if "│" in line}
    assert "silent" in rows["pacs"]
    assert "test, sent to without go-live" in rows["lab"]


def test_a_hold_on_everything_is_told_where_no_destination_is_configured(
    bench: StoreBench, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_dir=data_dir(bench.engine))
    for held in (False, True):
        if held:
            bench.destinations.hold(None, "Dr. A", "two captures looked wrong")
        status = reader.status(bench.engine, bench.now)
        tables.show_status(status, [], 10**9, {}, settings, as_json=False)
        said = "every destination is on hold: `prescreen release` resumes sending"
        assert (said in capsys.readouterr().out) is held
