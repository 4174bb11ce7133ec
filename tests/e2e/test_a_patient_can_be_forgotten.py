"""`erase` and `go-silent`: what is forgotten is gone, what is closed gets nothing any more."""

from __future__ import annotations

from pathlib import Path

from prescreen.store import audit, reader
from tests.e2e import blind
from tests.e2e.house import chest, house


def test_an_erased_study_leaves_no_file_and_no_name_and_a_whole_chain(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        study = blind.answered(home, chest(tmp_path, PatientName="Canary^Bird"))
        data_dir = home.settings.data_dir
        assert list((data_dir / "spool" / "received").rglob("*.dcm"))
        assert list((data_dir / "spool" / "results").rglob("*.dcm"))
        said = home.command("erase", study, "--why", "asked to")
        assert (said.returncode, "is erased" in said.stdout) == (0, True), said.stderr
        assert list((data_dir / "spool" / "received").rglob("*.dcm")) == []
        assert list((data_dir / "spool" / "results").rglob("*.dcm")) == []
        engine = home.store().engine
        assert reader.show(engine, study).study["patient_name"] in (None, "")
        assert audit.verify(engine).whole
        assert "study.erased" in [event.kind for event in audit.events(engine)]


def test_a_study_that_is_not_known_is_not_erased(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        said = home.command("erase", "1.2.3", "--why", "asked to")
        assert said.returncode == 2
        assert "1.2.3: no study, accession number or job" in said.stderr


def test_a_destination_that_went_silent_gets_nothing_of_what_comes_then(tmp_path: Path) -> None:
    with house(tmp_path) as home:
        said = home.command("go-silent", "pacs", "--why", "over")
        assert "pacs is silent" in said.stdout
        study = blind.answered(home, chest(tmp_path))
        deliveries = reader.show(home.store().engine, study).deliveries
        assert {delivery["state"] for delivery in deliveries} == {"held"}
