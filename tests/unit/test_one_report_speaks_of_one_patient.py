"""Two Patient IDs under one study: the newest image's counts, and of the others nothing is said."""

from __future__ import annotations

import datetime
from io import BytesIO
from pathlib import Path

import pydicom

from prescreen import screening
from prescreen.dicom.decode import Decoder
from prescreen.lightbox import Image
from prescreen.study import Disposition, Instance, Outcome
from tests.parcels import Parcels, chest
from tests.store_bench import LAB


def image(
    number: int, patient_id: str | None, study: str = "1.2", disposition: Disposition | None = None
) -> Image:
    """An image that was told apart and not looked at yet, as the `number`th that came."""
    source = pydicom.Dataset()
    if patient_id is not None:
        source.PatientID = patient_id
    came = datetime.datetime(2026, 1, 31, tzinfo=datetime.UTC)
    uid, empty = f"{study}.{number}", ("", "", "", 0, Path())
    instance = Instance(number, study, "1.2.9", uid, *empty, "CR", came)
    return Image(instance, source, disposition=disposition)


def refused(*images: Image) -> list[str | None]:
    """Of each image why it gets no findings."""
    patients = screening._patients(images)
    told = [screening._of_one_patient(image, patients) for image in images]
    assert all(i.refused is None or i.refused[0] is Outcome.NOT_SCREENED for i in told)
    return [None if i.refused is None else i.refused[1] for i in told]


def test_the_newest_image_says_who_it_is() -> None:
    told = refused(image(1, "A"), image(2, "B"), image(3, "A"), image(4, "B"))
    assert told == ["another_patient", None, "another_patient", None]


def test_other_studies_have_other_patients() -> None:
    assert refused(image(1, "A", "1.2"), image(2, "B", "1.3")) == [None, None]


def test_spaces_and_nothing_are_no_other_patient() -> None:
    assert refused(image(1, "A "), image(2, None), image(3, ""), image(4, "A")) == [None] * 4


def test_a_conflict_names_nobody() -> None:
    conflict = image(2, "B", disposition=Disposition.CONFLICT)
    assert refused(image(1, "A"), conflict) == [None, "another_patient"]


def test_a_revision_does() -> None:
    revision = image(2, "B", disposition=Disposition.REVISION)
    assert refused(image(1, "A"), revision) == ["another_patient", None]


def test_what_came_last_names_the_patient_also_where_it_is_an_image_sent_again(
    tmp_path: Path,
) -> None:
    """The first of two images comes again, corrected, while their reports wait to be sent."""
    first = chest(PatientName="CANARY^MAIDEN")
    ds = pydicom.dcmread(BytesIO(first))
    second = chest(PatientName="CANARY^MAIDEN", StudyInstanceUID=ds.StudyInstanceUID)
    ds.PatientName, corrected = "CANARY^MARRIED", BytesIO()
    ds.save_as(corrected)
    with Decoder() as decoder:
        node = Parcels(tmp_path, decoder)
        node.settings = node.settings.model_copy(update={"destinations": (LAB,)})
        for part10 in (first, second, corrected.getvalue()):
            node.keep(part10)
            node.answer()
    newest = [path for path in node.files() if path.match("results/3/*.dcm")]
    assert len(newest) >= 3, "the findings, and a page of either image"
    assert {str(pydicom.dcmread(path).PatientName) for path in newest} == {"CANARY^MARRIED"}
    node.bench.engine.dispose()


def test_an_image_that_names_no_patient_takes_the_name_from_no_report(tmp_path: Path) -> None:
    first = chest()
    study = pydicom.dcmread(BytesIO(first)).StudyInstanceUID
    nameless = chest(StudyInstanceUID=study, PatientID=None, PatientName=None)
    with Decoder() as decoder:
        node = Parcels(tmp_path, decoder)
        for part10 in (first, nameless):
            node.keep(part10)
        node.answer()
    made = [pydicom.dcmread(path) for path in node.files() if path.match("results/1/*.dcm")]
    assert len(made) >= 3
    assert {(ds.PatientID, str(ds.PatientName)) for ds in made} == {("CANARYID", "CANARY^NAME")}
    node.bench.engine.dispose()
