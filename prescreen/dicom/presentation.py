"""Screening → a presentation state of one image: outlines and diameters on a layer of their own.

Grayscale Softcopy Presentation State (PS3.3 A.33.1). It takes over how its image is to be shown,
so that applying it changes nothing but the layer; the layer can be switched off. A viewer applies
the newest presentation state by itself, so that no destination gets one unless its settings say so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pydicom

from prescreen.dicom import wording
from prescreen.dicom.attributes import Attributes
from prescreen.dicom.content import reference_item
from prescreen.dicom.document import Document
from prescreen.dicom.elements import Elements, part10
from prescreen.dicom.modules import (
    IMPLEMENTATION,
    local_time,
    patient_and_study,
    put_equipment,
    put_times,
)
from prescreen.dicom.outlines import outlines
from prescreen.dicom.render import pixel_shape
from prescreen.dicom.transcoding import beside
from prescreen.study import Anatomy, FloatArray, ImageResult

GRAYSCALE_PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"

_LAYER = "AI"
#: A light blue that stands out on grey: L*, a*, b* as PCS values (PS3.3 C.10.7.1.1).
_COLOUR = (47_500, 28_000, 24_000)


def can_be_presented(source: pydicom.Dataset) -> bool:
    """Whether the image's way to the screen can be taken over: by slope and window, no tables."""
    attributes = Attributes(source)
    tables = "ModalityLUTSequence" in source or "PresentationLUTSequence" in source
    return not tables and (_window(attributes) is not None or "VOILUTSequence" not in source)


def presentation_state(
    document: Document, anatomy: Anatomy, *, patient: pydicom.Dataset | None = None
) -> bytes:
    """The presentation state of the document's one image; the same arguments give the same bytes.

    `patient` is the data set that patient, study and time zone are taken from, where another one of
    the study was corrected since. `can_be_presented` of the source is true.
    """
    source, result = document.sources[0], document.results[0]
    words = wording.fitting(document.settings.language, patient or source).catalogue
    titles = words.titles
    local = local_time(patient or source, document.made)
    elements = patient_and_study(patient or source, result.header.study_instance_uid)
    elements.put("SOPClassUID", GRAYSCALE_PRESENTATION_STATE)
    elements.put("SOPInstanceUID", document.sop_instance_uid)
    put_times(elements, local, ("InstanceCreation", "Series"))
    put_equipment(elements, document.settings.manufacturer, document.model, local)
    document.put_series(elements, "PR", 4, titles.presentation)
    elements.put("BodyPartExamined", "CHEST")
    elements.put("ContentLabel", "AI_OUTLINES")
    elements.put("ContentDescription", titles.presentation.encode())
    elements.put("ContentCreatorName", "")
    elements.put("PresentationCreationDate", f"{local:%Y%m%d}")
    elements.put("PresentationCreationTime", f"{local:%H%M%S}")
    _put_grey_scale(elements, beside(source, patient or source))
    _put_area_and_layer(elements, result, titles.presentation, pixel_shape(source))
    _put_graphics(elements, result, anatomy, words.says.banner)
    encoded = [elements.encoded()]
    uid = document.sop_instance_uid
    return part10(GRAYSCALE_PRESENTATION_STATE, uid, IMPLEMENTATION, encoded)


def _put_grey_scale(elements: Elements, source: pydicom.Dataset) -> None:
    """Modality LUT, Softcopy VOI LUT, Softcopy Presentation LUT (C.11.1, C.11.8, C.11.6).

    They stand in place of those of the image, and of its photometric interpretation. Of several
    windows it is the first, which the image is shown by: a state has one.
    """
    attributes = Attributes(source)
    if attributes.number("RescaleSlope") and attributes.number("RescaleIntercept") is not None:
        elements.put("RescaleType", "US")
        elements.copy(source, ["RescaleIntercept", "RescaleSlope", "RescaleType"])
    window = _window(attributes)
    if window is not None:
        elements.put("SoftcopyVOILUTSequence", [window.item()])
    shape = attributes.code("PresentationLUTShape")
    if shape not in ("IDENTITY", "INVERSE"):
        is_inverse = attributes.code("PhotometricInterpretation") == "MONOCHROME1"
        shape = "INVERSE" if is_inverse else "IDENTITY"
    elements.put("PresentationLUTShape", shape)


def _window(attributes: Attributes) -> Elements | None:
    """The first window with its function, None where there is none that can be followed."""
    center, width = attributes.number("WindowCenter"), attributes.number("WindowWidth")
    function = attributes.code("VOILUTFunction")
    if function not in ("SIGMOID", "LINEAR_EXACT"):
        function = "LINEAR"
    if center is None or width is None or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    texts = {k: attributes.texts(k)[0] for k in ("WindowCenter", "WindowWidth")}
    return Elements(**texts, VOILUTFunction=function)


def _put_area_and_layer(
    elements: Elements, result: ImageResult, title: str, pixel: tuple[int, int]
) -> None:
    """Relationship, Displayed Area and Graphic Layer (C.11.11, C.10.4, C.10.7).

    `pixel` is height and width of a pixel: viewers take them from here, not from the image.
    """
    header = result.header
    series = Elements(
        SeriesInstanceUID=header.series_instance_uid,
        ReferencedImageSequence=[reference_item(header.sop_class_uid, header.sop_instance_uid)],
    )
    elements.put("ReferencedSeriesSequence", [series.item()])
    area = Elements(
        DisplayedAreaTopLeftHandCorner=struct.pack("<2i", 1, 1),
        DisplayedAreaBottomRightHandCorner=struct.pack(
            "<2i", header.columns or 1, header.rows or 1
        ),
        PresentationSizeMode="SCALE TO FIT",
        PresentationPixelAspectRatio="\\".join(map(str, pixel)),
    )
    elements.put("DisplayedAreaSelectionSequence", [area.item()])
    layer = Elements(
        GraphicLayer=_LAYER,
        GraphicLayerOrder="1",
        GraphicLayerRecommendedDisplayCIELabValue=struct.pack("<3H", *_COLOUR),
        GraphicLayerDescription=title.encode(),
    )
    elements.put("GraphicLayerSequence", [layer.item()])


def _put_graphics(elements: Elements, result: ImageResult, anatomy: Anatomy, banner: str) -> None:
    """Graphic Annotation (C.10.5): the lines, and above them what they are not."""
    header = result.header
    rows, columns = header.rows or 1, header.columns or 1
    annotation = Elements(
        ReferencedImageSequence=[reference_item(header.sop_class_uid, header.sop_instance_uid)],
        GraphicLayer=_LAYER,
        TextObjectSequence=[_text_object(banner, rows, columns)],
        GraphicObjectSequence=[_graphic(points) for points in _lines(result, anatomy)],
    )
    elements.put("GraphicAnnotationSequence", [annotation.item()])


def _lines(result: ImageResult, anatomy: Anatomy) -> Iterator[FloatArray]:
    rows, columns = result.header.rows or 1, result.header.columns or 1
    yield from (line for line in outlines(anatomy, rows, columns) if line is not None)
    if result.cardiothoracic_ratio is not None:
        for ends in (result.cardiac_diameter, result.thoracic_diameter):
            if ends is not None:
                row, first, last = ends
                yield np.array([[first, row], [last, row]], np.float32)


def _graphic(points: FloatArray) -> bytes:
    return Elements(
        GraphicAnnotationUnits="PIXEL",
        GraphicDimensions=2,
        NumberOfGraphicPoints=len(points),
        # pixels of a presentation state count from 1, at the middle of the first (C.10.5.1.2)
        GraphicData=(points + np.float32(0.5)).astype("<f4").tobytes(),
        GraphicType="POLYLINE",
        GraphicFilled="N",
    ).item()


def _text_object(said: str, rows: int, columns: int) -> bytes:
    """A line of text along the upper edge."""
    return Elements(
        BoundingBoxAnnotationUnits="PIXEL",
        UnformattedTextValue=said.encode(),
        BoundingBoxTopLeftHandCorner=struct.pack("<2f", 1, 1),
        BoundingBoxBottomRightHandCorner=struct.pack("<2f", columns, max(rows // 20, 1)),
        BoundingBoxTextHorizontalJustification="CENTER",
    ).item()
