"""What is said of one image does not depend on the others of its study, whatever the object."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pydicom

from prescreen import edition
from prescreen.dicom.header import header_of
from prescreen.lightbox import Image
from prescreen.settings import Report
from prescreen.study import Audience, Model, ViewFigures, generate_uid
from tests import results
from tests.unit.test_destinations_get_what_they_ask_for import made_image

DOCUMENTS = frozenset({"sr", "text"})
ABOVE, BELOW = ViewFigures(0.9, 0.85, 90), ViewFigures(0.7, 0.6, 90)


def _image(**attributes: Any) -> Image:
    """A screened image; None leaves an attribute out."""
    image = made_image()
    source = results.chest()
    source.SOPInstanceUID = pydicom.uid.UID(generate_uid())
    for keyword, value in attributes.items():
        source.pop(keyword, None)
        if value is not None:
            setattr(source, keyword, value)
    stream = io.BytesIO()
    source.save_as(stream)
    source = pydicom.dcmread(io.BytesIO(stream.getvalue()))
    return replace(image, source=source, header=header_of(source))


def _model() -> Model:
    """Cardiomegaly is above the release bar on PA films, all else below it."""
    model = results.model()
    views = {"PA": ABOVE, "AP": BELOW}
    figures = (
        replace(f, by_view=views if f.label == "Cardiomegaly" else {"PA": BELOW, "AP": BELOW})
        for f in model.figures
    )
    return replace(model, figures=tuple(figures))


def _objects(
    images: Sequence[Image], kinds: frozenset[str], audience: Audience = Audience.EVALUATION
) -> list[tuple[str, pydicom.Dataset]]:
    """Kind and data set of each object."""
    shared = edition.Edition(_model(), Report(), audience, results.MADE, kinds=kinds)
    made = edition.objects(images, shared)
    return [(item.described.kind, pydicom.dcmread(io.BytesIO(item.part10))) for item in made]


def _sentences(ds: pydicom.Dataset) -> Iterator[str]:
    return (str(element.value) for element in ds.iterall() if element.keyword == "TextValue")


def test_a_finding_is_below_the_bar_on_the_image_whose_view_it_is() -> None:
    images = [_image(ViewPosition="PA"), _image(ViewPosition="AP")]
    for kind, ds in _objects(images, DOCUMENTS):
        said = [words for words in _sentences(ds) if "evaluation only" in words]
        assert sum("Cardiomegaly" in words for words in said) == 1, kind
        assert sum("Pneumothorax" in words for words in said) == 2, kind


def test_what_is_released_is_not_said_to_be_below_the_bar() -> None:
    images = [_image(ViewPosition="PA"), _image(ViewPosition="AP")]
    for kind, ds in _objects(images, DOCUMENTS, Audience.RELEASE):
        assert not any("evaluation only" in words for words in _sentences(ds)), kind
