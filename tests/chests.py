"""A chest to try the gate on, made of what frontal radiographs have in common."""

from __future__ import annotations

import dataclasses

import numpy as np

from prescreen import frontal
from prescreen.study import (
    Anatomy,
    Finding,
    FindingState,
    FloatArray,
    Header,
    Model,
    Network,
    Radiograph,
    Screening,
)

SIDE = 480  # of the cut-out; the picture goes on a little beyond it
LIMIT = 1.0  # of the feature distance

HEADER = Header(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
    sop_instance_uid="2.25.1",
    series_instance_uid="2.25.2",
    study_instance_uid="2.25.3",
    modality="DX",
    body_part_examined="CHEST",
    view_position="PA",
)

_NETWORK = Network("a network", "0", "0" * 64, "2.25.4")
_MODEL = Model(_NETWORK, _NETWORK, (), "", False, LIMIT)
_FINDING = Finding("Effusion", 0.9, 0.9, 0.5, FindingState.FLAGGED)


def radiograph(pixels: FloatArray, header: Header = HEADER) -> Radiograph:
    rows, columns = pixels.shape
    return Radiograph(header, pixels, (rows, columns), None, "")


def whole() -> Radiograph:
    """The mean of all radiographs as a whole: what `before` is shown."""
    return radiograph(_enlarged(frontal.shipped().whole.mean.reshape(16, 16)))


def cut() -> Radiograph:
    """The mean of all radiographs around their lungs: what `after` is shown."""
    return radiograph(_enlarged(frontal.shipped().picture.mean.reshape(12, 12)))


def anatomy() -> Anatomy:
    """Lungs and heart where most radiographs have them."""
    drawn = frontal.shipped().masks.mean.reshape(3, 12, 12)
    masks = np.stack([_blown_up(mask) > 0.5 for mask in drawn])
    return Anatomy(masks, (0.93, 0.93, 0.93))


def screening(anatomy: Anatomy, feature_distance: float = 0.8) -> Screening:
    return Screening(anatomy, (_FINDING,), feature_distance, _MODEL)


def without_limit(screened: Screening) -> Screening:
    model = dataclasses.replace(_MODEL, feature_distance_limit=None)
    return dataclasses.replace(screened, model=model)


def mirrored(drawn: Anatomy) -> Anatomy:
    """The anatomy as a network draws it on the mirrored picture: it tells sides by place."""
    return Anatomy(drawn.masks[[1, 0, 2], :, ::-1], drawn.certainty)


def _enlarged(ranks: FloatArray) -> FloatArray:
    grey = _blown_up(ranks)
    return np.asarray((grey - grey.min()) / (grey.max() - grey.min()), dtype=np.float32)


def _blown_up(cells: FloatArray) -> FloatArray:
    """(n, n) to (SIDE, SIDE), linearly between the cells' centres."""
    n = len(cells)
    places = (np.arange(SIDE) + 0.5) / SIDE * n - 0.5
    rows = np.stack([np.interp(places, np.arange(n), cells[:, i]) for i in range(n)], axis=1)
    return np.stack([np.interp(places, np.arange(n), row) for row in rows])
