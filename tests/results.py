"""Hand-made results: what the networks might say of a real chest radiograph."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

from prescreen.dicom.attributes import Attributes
from prescreen.dicom.document import Document
from prescreen.dicom.header import header_of
from prescreen.dicom.render import pixel_spacing
from prescreen.settings import Report
from prescreen.study import (
    LABELS,
    Anatomy,
    Finding,
    FindingState,
    FloatArray,
    Header,
    ImageResult,
    LabelFigures,
    Model,
    Network,
    Outcome,
    Radiograph,
)
from tests import canaries

MADE = datetime.datetime(2026, 3, 4, 10, 52, 7, tzinfo=datetime.UTC)
SERIES_UID = "2.25.100000000000000000000000000000000000001"
SOP_UID = "2.25.100000000000000000000000000000000000002"

_SENSITIVITY = (0.74, 0.81, 0.83, 0.7, 0.72, 0.68, 0.71, 0.8, 0.76, 0.84, 0.79, 0.69, 0.66, 0.9)


def chest_path() -> Path:
    """RG1 of the WG 4 compression set: a real PA chest, CR, 1955 rows by 1841 columns."""
    return canaries.sample()


def chest() -> pydicom.Dataset:
    """Its data set without pixels, as screening hands it on."""
    return pydicom.dcmread(chest_path(), stop_before_pixels=True)


def model(calibrated: bool = False) -> Model:
    """Two made-up networks with plausible figures."""
    figures = tuple(
        LabelFigures(label, 0.3, 0.82, 0.80, 120, sensitivity, 0.7)
        for label, sensitivity in zip(LABELS, _SENSITIVITY, strict=True)
    )
    return Model(
        lungs_heart=Network("prescreen lungs_heart", "1.0.0", "9f" * 32, "2.25.71", ""),
        findings=Network("prescreen findings", "1.2.0", "3a" * 32, "2.25.72", "paper"),
        figures=figures,
        threshold_rule="youden",
        calibrated=calibrated,
        feature_distance_limit=None,
    )


def finding(label: str, probability: float, state: FindingState | None = None) -> Finding:
    """A finding with its state after the threshold 0.3, unless one is given."""
    above = FindingState.FLAGGED if probability >= 0.3 else FindingState.NOT_FLAGGED
    reason = "below_release_bar" if state is FindingState.NOT_EVALUATED else None
    return Finding(label, probability, probability, 0.3, state or above, reason)


def findings(
    probabilities: Mapping[str, float] | None = None,
    states: Mapping[str, FindingState] | None = None,
) -> tuple[Finding, ...]:
    """All 14: quiet ones, save those named."""
    numbers = {label: 0.02 + 0.017 * place for place, label in enumerate(LABELS)}
    numbers |= dict(probabilities or {})
    return tuple(finding(label, numbers[label], (states or {}).get(label)) for label in LABELS)


BUSY = findings(
    {"Pneumothorax": 0.871, "Effusion": 0.41, "Cardiomegaly": 0.28, "Nodule": 0.34},
    {"Nodule": FindingState.UNDETERMINED, "Hernia": FindingState.NOT_EVALUATED},
)


def screened(
    source: pydicom.Dataset, said: tuple[Finding, ...] = BUSY, ratio: float | None = 0.519
) -> ImageResult:
    """A screened image; diameters in stored pixels of RG1."""
    result = ImageResult(header_of(source), Outcome.SCREENED, None, said, ratio)
    if ratio is None:
        return result
    cardiac, thoracic = (1290.0, 640.0, 1330.0), (1450.0, 285.0, 1615.0)
    spacing = pixel_spacing(Attributes(source))
    return replace(
        result, cardiac_diameter=cardiac, thoracic_diameter=thoracic, pixel_spacing=spacing
    )


def not_screened(source: pydicom.Dataset, reason: str = "anatomy_not_assessable") -> ImageResult:
    """An image in scope that got no answer."""
    return ImageResult(header_of(source), Outcome.NOT_SCREENED, reason)


def anatomy(side: int = 256) -> Anatomy:
    """Two ellipses and a third, about where RG1 has its lungs and heart."""
    rows, columns = np.mgrid[0:side, 0:side] / side

    def ellipse(row: float, column: float, tall: float, wide: float) -> np.ndarray:
        return np.asarray(((rows - row) / tall) ** 2 + ((columns - column) / wide) ** 2 < 1)

    heart = ellipse(0.66, 0.545, 0.15, 0.185)
    left, right = ellipse(0.5, 0.72, 0.36, 0.155), ellipse(0.5, 0.30, 0.36, 0.145)
    masks = np.stack([left & ~heart, right & ~heart, heart])
    return Anatomy(masks, (0.97, 0.96, 0.94))


def radiograph(shape: tuple[int, int], pixels: FloatArray | None = None) -> Radiograph:
    """A radiograph of the real chest's header, by default a ramp."""
    header = replace(chest_header(), rows=shape[0], columns=shape[1])
    return Radiograph(header, ramp(shape) if pixels is None else pixels, shape, None, "0" * 64)


def attention() -> dict[str, FloatArray]:
    """Where the networks might have looked at two flagged findings: one cell each, and near it."""
    maps = {}
    for label, row, column in (("Pneumothorax", 1, 5), ("Effusion", 5, 1)):
        maps[label] = np.full((7, 7), 0.1, np.float32)
        maps[label][row - 1 : row + 2, column - 1 : column + 2] = 0.4
        maps[label][row, column] = 1.0
    return maps


def document(
    source: pydicom.Dataset, images: Sequence[ImageResult] | None = None, **more: Any
) -> Document:
    """A document on `images` of one source: by default on the one of `screened`."""
    fixed: dict[str, Any] = {
        "model": model(),
        "settings": Report(),
        "made": MADE,
        "series_instance_uid": SERIES_UID,
        "sop_instance_uid": SOP_UID,
    }
    said = [screened(source)] if images is None else images
    return Document([source], said, **(fixed | more))


def chest_header() -> Header:
    """The header of the real chest."""
    return header_of(chest())


def ramp(shape: tuple[int, int]) -> FloatArray:
    """Pixels that grow brighter from left to right, float32, 0…1."""
    return np.broadcast_to(np.linspace(0, 1, shape[1], dtype=np.float32), shape)
