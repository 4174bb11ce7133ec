"""Every kind of object prescreen makes, as files, of a source that may lack what it likes."""

from __future__ import annotations

from typing import Any

import pydicom

from prescreen.dicom.capture import Sheet, attention_capture, capture
from prescreen.dicom.document import Document, Predecessor
from prescreen.dicom.narrative import narrative_report
from prescreen.dicom.presentation import presentation_state
from prescreen.dicom.regions import regions_report
from prescreen.dicom.report import as_comprehensive_sr, measurement_report
from prescreen.dicom.segmentation import segmentation
from prescreen.settings import Report
from prescreen.study import Radiograph
from tests import results

KINDS = (
    *("sr", "fallback sr", "replacing sr", "notice sr", "regions sr", "fallback regions sr"),
    *("text sr", "notice text sr", "capture", "notice capture", "presentation", "segmentation"),
    *("attention regions sr", "attention capture"),
)


def every_kind(
    source: pydicom.Dataset, radiograph: Radiograph | None = None, language: str = "en"
) -> dict[str, bytes]:
    """One file of each of KINDS; series and instance UIDs differ."""
    screened, not_screened = results.screened(source), results.not_screened(source)
    settings = Report.model_validate({"language": language})
    common: dict[str, Any] = {"settings": settings, "made": results.MADE}

    def uids(number: int) -> dict[str, Any]:
        return {
            "series_instance_uid": f"2.25.5{number}0",
            "sop_instance_uid": f"2.25.5{number}1",
        }

    def document(number: int, result: Any, **more: Any) -> Document:
        return results.document(source, [result], settings=settings, **uids(number), **more)

    def sheet(number: int, result: Any) -> Sheet:
        return Sheet(source, result, results.model(), **common, **uids(number))

    def page(number: int, result: Any) -> bytes:
        return capture(sheet(number, result), radiograph, results.anatomy()).part10

    def looked(number: int) -> bytes:
        picture = radiograph or results.radiograph((300, 280))
        return attention_capture(sheet(number, screened), picture, results.attention()).part10

    report = measurement_report(document(1, screened))
    anatomies = {screened.header.sop_instance_uid: results.anatomy()}
    attention = {screened.header.sop_instance_uid: results.attention()}
    regions = regions_report(document(7, screened), anatomies)
    study = str(screened.header.study_instance_uid)
    predecessor = Predecessor(pydicom.uid.Comprehensive3DSRStorage, "2.25.7", "2.25.8", study)
    return {
        "sr": report,
        "fallback sr": as_comprehensive_sr(report, "2.25.520"),
        "replacing sr": measurement_report(document(3, screened, predecessors=[predecessor])),
        "notice sr": measurement_report(document(4, not_screened)),
        "regions sr": regions,
        "fallback regions sr": as_comprehensive_sr(regions, "2.25.580"),
        "text sr": narrative_report(document(8, screened)),
        "notice text sr": narrative_report(document(9, not_screened)),
        "capture": page(5, screened),
        "notice capture": page(6, not_screened),
        "presentation": presentation_state(document(10, screened), results.anatomy()),
        "segmentation": segmentation(document(11, screened), results.anatomy()),
        "attention regions sr": regions_report(
            document(12, screened), anatomies, attention, lambda result: frozenset({"Effusion"})
        ),
        "attention capture": looked(13),
    }
