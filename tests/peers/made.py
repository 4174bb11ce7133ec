"""Every kind of object prescreen makes, as files, of a source that may lack what it likes."""

from __future__ import annotations

from typing import Any

import pydicom

from prescreen.dicom.capture import capture
from prescreen.dicom.report import Predecessor, as_comprehensive_sr, measurement_report
from prescreen.settings import Report
from prescreen.study import Radiograph
from tests import results

KINDS = ("sr", "fallback sr", "replacing sr", "notice sr", "capture", "notice capture")


def every_kind(source: pydicom.Dataset, radiograph: Radiograph | None = None) -> dict[str, bytes]:
    """One file of each of KINDS; series and instance UIDs differ."""
    screened, not_screened = results.screened(source), results.not_screened(source)
    common: dict[str, Any] = {"settings": Report(), "made": results.MADE}

    def uids(number: int) -> dict[str, Any]:
        return {
            "series_instance_uid": f"2.25.5{number}0",
            "sop_instance_uid": f"2.25.5{number}1",
        }

    def sr(number: int, result: Any, **more: Any) -> bytes:
        keywords = common | uids(number) | more
        return measurement_report([source], [result], results.model(), **keywords)

    def page(number: int, result: Any) -> bytes:
        keywords = common | uids(number)
        anatomy, model = results.anatomy(), results.model()
        return capture(source, radiograph, anatomy, result, model, **keywords).part10

    report = sr(1, screened)
    study = str(screened.header.study_instance_uid)
    predecessor = Predecessor(pydicom.uid.Comprehensive3DSRStorage, "2.25.7", "2.25.8", study)
    return {
        "sr": report,
        "fallback sr": as_comprehensive_sr(report, "2.25.520"),
        "replacing sr": sr(3, screened, predecessors=[predecessor]),
        "notice sr": sr(4, not_screened),
        "capture": page(5, screened),
        "notice capture": page(6, not_screened),
    }
