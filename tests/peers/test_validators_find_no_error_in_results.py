"""dciodvfy (dicom3tools) checks the IODs, DCMTK's dsrdump the trees. Warnings are told apart."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from prescreen.dicom.transcoding import in_unicode
from tests import results
from tests.peers import dicom_validator
from tests.peers.made import KINDS, every_kind

#: Warnings about the source's own values, and about what dciodvfy cannot know.
EXPECTED = (
    "Retired Person Name form",  # a referring physician called "ward"
    "Unrecognized defined term = <99PRESCREEN>",  # ours, by the standard's rule for local schemes
    "DeviceUID(0018,1002)> - Attribute is not present in standard DICOM IOD",  # newer than it
    "Unrecognized defined term = <99SITE>",
    "(0040,a370)",  # a capture carries the request, which is no part of its IOD
    "needed to build DICOMDIR",
)
IODS = (
    *("Comprehensive3DSR", "ComprehensiveSR", "BasicTextSR", "SCImage"),
    *("GrayscaleSoftcopyPresentationState", "Segmentation"),
)
#: What a source may lack, or have without a value.
NOT_IN_THE_SOURCE = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName", "StudyID", "StudyDescription", "Manufacturer"),
    *("PatientOrientation", "ViewPosition", "BodyPartExamined", "PixelSpacing", "Modality"),
    *("SpecificCharacterSet", "TimezoneOffsetFromUTC", "SeriesNumber", "InstanceNumber"),
)


def _as_it_is(ds: pydicom.Dataset) -> None:
    pass


def _with_a_request(ds: pydicom.Dataset) -> None:
    request = pydicom.Dataset()
    request.StudyInstanceUID = ds.StudyInstanceUID
    request.ReferencedStudySequence = []
    for keyword in ("AccessionNumber", "PlacerOrderNumberImagingServiceRequest"):
        setattr(request, keyword, "A1")
    request.FillerOrderNumberImagingServiceRequest = ""
    request.RequestedProcedureID = "P1"
    request.RequestedProcedureDescription = "Thorax"
    request.RequestedProcedureCodeSequence = []
    ds.ReferencedRequestSequence = [request]
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "TH1", "99SITE", "Thorax groß"
    ds.ProcedureCodeSequence = [code]


def _with_next_to_nothing(ds: pydicom.Dataset) -> None:
    for keyword in NOT_IN_THE_SOURCE:
        if keyword in ds:
            delattr(ds, keyword)


def _with_empty_values(ds: pydicom.Dataset) -> None:
    for keyword in NOT_IN_THE_SOURCE:
        setattr(ds, keyword, None)


def _burned_in_and_lossy(ds: pydicom.Dataset) -> None:
    ds.BurnedInAnnotation = "YES"
    ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", "12"
    ds.LossyImageCompressionMethod = "ISO_15444_1"
    ds.PatientAge = "086Y"


def _with_a_plane(ds: pydicom.Dataset) -> None:
    ds.ImagerPixelSpacing, ds.PatientOrientation = [0.2, 0.2], ["L", "F"]


SOURCES: dict[str, Callable[[pydicom.Dataset], None]] = {
    "as it is": _as_it_is,
    "with a request": _with_a_request,
    "with next to nothing": _with_next_to_nothing,
    "with empty values": _with_empty_values,
    "burned in and lossy": _burned_in_and_lossy,
    "with a plane": _with_a_plane,
}


@cache
def _made(source: str) -> dict[str, bytes]:
    ds = results.chest()
    SOURCES[source](ds)
    return every_kind(ds)


def _dciodvfy(path: Path) -> list[str]:
    scripts = sysconfig.get_path("scripts")
    found = shutil.which("dciodvfy", path=scripts) or shutil.which("dciodvfy")
    assert found is not None, "dicom3tools is not installed"
    return _run(found, "-new", str(path))


def _run(*command: str) -> list[str]:
    """What it says, in lines; in the character set of the object, so other bytes are replaced."""
    said = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, check=False
    )
    return said.stdout.decode("utf-8", "replace").splitlines()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", SOURCES)
def test_dciodvfy_finds_no_error(source: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "object.dcm"
    path.write_bytes(_made(source)[kind])
    said = _dciodvfy(path)
    assert any(line in IODS for line in said), said
    assert not [line for line in said if line.startswith(("Error", "Abort"))]
    unexpected = [line for line in said if line.startswith("Warning")]
    assert not [line for line in unexpected if not any(words in line for words in EXPECTED)]


def test_dciodvfy_would_find_an_error(tmp_path: Path) -> None:
    path = tmp_path / "object.dcm"
    path.write_bytes(_made("as it is")["sr"])
    broken = pydicom.dcmread(path)
    del broken.VerificationFlag
    broken.save_as(path)
    assert [line for line in _dciodvfy(path) if line.startswith("Error")]


PASSED_OVER = (
    "(0018,A001) / (0018,1002): TagUnexpected",  # newer than the tables, which are of 2020
    "General: (0040,A370): TagUnexpected",  # a capture carries the request, as for dciodvfy
)


def _unexpected(part10: bytes, path: Path) -> list[str]:
    path.write_bytes(part10)
    found = dicom_validator.errors_of(path)
    return [fault for fault in found if not any(known in fault for known in PASSED_OVER)]


@pytest.mark.parametrize("source", SOURCES)
def test_dicom_validator_finds_no_error(source: str, tmp_path: Path) -> None:
    path = tmp_path / "object.dcm"
    found = {kind: _unexpected(part10, path) for kind, part10 in _made(source).items()}
    assert found == {kind: [] for kind in KINDS}


@pytest.mark.parametrize("language", ["de", "zh"])
def test_validators_find_no_error_in_other_languages(language: str, tmp_path: Path) -> None:
    path = tmp_path / "object.dcm"
    for kind, part10 in every_kind(in_unicode(results.chest()), language=language).items():
        assert not _unexpected(part10, path), kind
        said = _dciodvfy(path)
        assert not [line for line in said if line.startswith(("Error", "Abort"))], kind
        unexpected = [line for line in said if line.startswith("Warning")]
        assert not [line for line in unexpected if not any(w in line for w in EXPECTED)], kind


def _without_a_flag(ds: pydicom.Dataset) -> None:
    del ds.VerificationFlag


def _of_a_type_nobody_knows(ds: pydicom.Dataset) -> None:
    ds.CompletionFlag = "NEARLY"


def _with_a_number_in_a_text(ds: pydicom.Dataset) -> None:
    ds.ContentSequence[0].TextValue = "x"


def _empty(ds: pydicom.Dataset) -> None:
    ds.ContentSequence[-1].ContentSequence[0].ContentSequence[0].TextValue = ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without_a_flag, "(0040,A493): TagMissing"),
        (_of_a_type_nobody_knows, "(0040,A491): EnumValueNotAllowed"),
        (_with_a_number_in_a_text, "(0040,A160): TagNotAllowed"),
        (_empty, "(0040,A160): TagEmpty"),
    ],
)
def test_dicom_validator_would_find_an_error(
    change: Callable[[pydicom.Dataset], None], words: str, tmp_path: Path
) -> None:
    path = tmp_path / "object.dcm"
    path.write_bytes(_made("as it is")["sr"])
    broken = pydicom.dcmread(path)
    change(broken)
    broken.save_as(path)
    assert [fault for fault in dicom_validator.errors_of(path) if words in fault]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "sr" in kind])
@pytest.mark.parametrize("source", SOURCES)
def test_dsrdump_reads_the_tree(source: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "report.dcm"
    path.write_bytes(_made(source)[kind])
    dumped = _run("dsrdump", str(path))
    assert not [line for line in dumped if line.startswith(("E:", "F:", "W:"))]
    title = "Imaging Measurement Report" if "regions" in kind else "AI pre-screening, not a report"
    assert f'<CONTAINER:(,,"{title}")=SEPARATE>' in dumped


@pytest.mark.parametrize("kind", ["sr", "regions sr", "text sr"])
def test_dsrdump_reads_a_reference_to_a_private_class_if_it_may_warn(
    kind: str, tmp_path: Path
) -> None:
    """The node refers to none; `screen` does, of files that somebody has (docs/limits.md)."""
    ds, path = results.chest(), tmp_path / "report.dcm"
    ds.SOPClassUID = pydicom.uid.UID("1.3.12.2.1107.5.9.1")
    path.write_bytes(every_kind(ds)[kind])
    refused = "W: Invalid or unknown image SOP class referenced from IMAGE content item"
    assert refused in _run("dsrdump", str(path))
    dumped = _run("dsrdump", "-Ee", str(path))
    assert not [line for line in dumped if line.startswith(("E:", "F:"))]
    assert any('<contains IMAGE:(,,"Source")=("1.3.12.2.1107.5.9.1",)>' in line for line in dumped)


@pytest.mark.shows_patients("the page of a report has its patient in it")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if "sr" in kind])
@pytest.mark.parametrize("source", SOURCES)
def test_dsr2html_makes_a_page_of_it_in_silence(source: str, kind: str, tmp_path: Path) -> None:
    path, page = tmp_path / "report.dcm", tmp_path / "report.html"
    path.write_bytes(_made(source)[kind])
    assert not [line for line in _run("dsr2html", str(path), str(page)) if line[1:2] == ":"]
    assert "</html>" in page.read_text(errors="replace")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "capture" in kind])
@pytest.mark.parametrize("source", SOURCES)
def test_dcmj2pnm_draws_the_capture_as_it_is(source: str, kind: str, tmp_path: Path) -> None:
    path, picture = tmp_path / "capture.dcm", tmp_path / "capture.png"
    path.write_bytes(_made(source)[kind])
    assert not [line for line in _run("dcmj2pnm", "--write-png", str(path), str(picture)) if line]
    with Image.open(picture) as drawn:
        assert np.array_equal(np.asarray(drawn), pydicom.dcmread(path).pixel_array)


def test_a_presentation_state_is_opened_over_its_image(tmp_path: Path) -> None:
    """dcmp2pgm renders the image through it: as the image's own window does."""
    state, plain, through = (tmp_path / name for name in ("ps.dcm", "plain.pgm", "through.pgm"))
    state.write_bytes(_made("as it is")["presentation"])
    image = str(results.chest_path())
    assert "W: Test passed." in _run("dcmpschk", str(state))
    assert not _run("dcmp2pgm", "--pstate", str(state), image, str(through))
    assert not _run("dcmp2pgm", image, str(plain))
    with Image.open(plain) as before, Image.open(through) as after:
        assert before.size == after.size
        assert np.abs(np.asarray(before, np.int16) - np.asarray(after, np.int16)).mean() < 8
