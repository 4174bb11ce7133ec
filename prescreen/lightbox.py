"""One image of a study on its way through `screen`, and where its pixels lie meanwhile.

However many images a study has, few of them lie decoded at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from prescreen.dicom.attributes import Attributes
from prescreen.errors import PictureLost, UnusableImage
from prescreen.store.answers import Answer
from prescreen.study import (
    Disposition,
    Header,
    ImageResult,
    Instance,
    Outcome,
    Radiograph,
    Screening,
)

#: Images decoded and looked at together: as many as pass the networks at a time, and of pictures
#: beyond any chest's size so many that they have this many pixels, by their tags.
PORTION = 8
PORTION_PIXELS = 128e6
#: Radiographs that lie decoded at a time, of all studies in hand. Of what is beyond, and of what
#: has more pixels than any chest, the pixels are put down, and decoded once more for the capture.
HELD = 24
_LARGEST_KEPT = 8_000_000


class Decoder(Protocol):
    """Part 10 → data set without pixels and radiograph, or the UnusableImage that says why not."""

    def read_all(
        self, paths: Sequence[Path], digested: bool = True
    ) -> list[Radiograph | UnusableImage]: ...


@dataclass(frozen=True, eq=False)
class Image:
    """One image of a study on its way through `screen`.

    `source` is the data set without pixels, None where it does not parse; `refused` is the code
    of the reason it gets no findings, with the outcome that follows from it. `disposition` is
    what an instance that arrived again turned out to be. The pixels of `radiograph` may have been
    put down; then `decoder` decodes them again.
    """

    instance: Instance
    source: Any = None
    header: Header | None = None
    radiograph: Radiograph | None = None
    screening: Screening | None = None
    refused: tuple[Outcome, str] | None = None
    disposition: Disposition | None = None
    decoder: Decoder | None = None

    def picture(self) -> Radiograph | None:
        """The radiograph with its pixels, also where they were put down.

        Raises PictureLost where what was decoded before cannot be decoded again.
        """
        if self.radiograph is None or self.radiograph.has_pixels or self.decoder is None:
            return self.radiograph
        reading = self.decoder.read_all([self.instance.path], digested=False)[0]
        if isinstance(reading, UnusableImage):
            raise PictureLost(
                f"the picture could not be decoded again ({reading.reason}); the study is tried "
                "again"
            )
        return replace(self.radiograph, pixels=reading.pixels)

    @property
    def result(self) -> ImageResult:
        """What is said of this image."""
        header = self.header or _bare_header(self.instance)
        distance = self.screening.feature_distance if self.screening else None
        if self.refused is not None or self.screening is None or self.radiograph is None:
            outcome, reason = self.refused or (Outcome.FAILED, "not_reached")
            return ImageResult(header, outcome, reason, feature_distance=distance)
        return _screened(header, self.radiograph, self.screening)

    @property
    def answer(self) -> Answer:
        """The same for the database."""
        told_apart = self.disposition in (Disposition.DUPLICATE, Disposition.CONFLICT)
        pixels = self.radiograph.pixel_sha256 if self.radiograph else None
        result = None if told_apart else self.result
        return Answer(self.instance, result, self.disposition, pixels)


def _bare_header(instance: Instance) -> Header:
    return Header(
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        series_instance_uid=instance.series_instance_uid,
        study_instance_uid=instance.study_instance_uid,
        modality=instance.modality,
    )


def _screened(header: Header, radiograph: Radiograph, screening: Screening) -> ImageResult:
    """The cardiothoracic ratio is a measure of PA films; on others the heart is magnified."""
    anatomy, is_pa = screening.anatomy, header.view == "PA"
    rows, columns = radiograph.stored_shape

    def in_pixels(
        diameter: tuple[float, float, float] | None,
    ) -> tuple[float, float, float] | None:
        if diameter is None or not is_pa:
            return None
        return diameter[0] * rows, diameter[1] * columns, diameter[2] * columns

    return ImageResult(
        header=header,
        outcome=Outcome.SCREENED,
        reason=None,
        findings=screening.findings,
        cardiothoracic_ratio=anatomy.cardiothoracic_ratio if is_pa else None,
        cardiac_diameter=in_pixels(anatomy.cardiac_diameter),
        thoracic_diameter=in_pixels(anatomy.thoracic_diameter),
        pixel_spacing=radiograph.pixel_spacing,
        feature_distance=screening.feature_distance,
        network=screening.model.findings,
        worth=screening.model.worth(header.view),
        calibrated=screening.model.calibrated,
    )


@dataclass(frozen=True)
class Lightbox:
    """Where pixels lie while they are looked at; a few stay, the others are put down again.

    `kept` are the identities of the instances that have a place. Pixels are digested where there
    may be another version to compare with.
    """

    decoder: Decoder
    kept: frozenset[int]
    digested: bool

    @classmethod
    def of(cls, images: Sequence[Image], decoder: Decoder, places: int) -> Lightbox:
        first = [id(image.instance) for image in images if _lacks_pixels(image)][: max(places, 0)]
        return cls(decoder, frozenset(first), any(came_again(image) for image in images))

    def laid(self, images: Sequence[Image]) -> list[Image]:
        """With the pixels of all that are still to be looked at."""
        wanted = [image for image in images if _lacks_pixels(image)]
        paths = [image.instance.path for image in wanted]
        readings = iter(self.decoder.read_all(paths, digested=self.digested))
        return [_with_pixels(i, next(readings)) if i in wanted else i for i in images]

    def cleared(self, images: Sequence[Image]) -> list[Image]:
        """Without the pixels that find no place."""
        return [self._cleared(image) for image in images]

    def _cleared(self, image: Image) -> Image:
        if image.radiograph is None:
            return image
        if id(image.instance) in self.kept and image.radiograph.pixels.size <= _LARGEST_KEPT:
            return image
        bare = image.radiograph.without_pixels()
        return replace(image, radiograph=bare, decoder=self.decoder)


def _lacks_pixels(image: Image) -> bool:
    """It is to be looked at, or to be told apart, and its pixels are not at hand."""
    if image.radiograph is not None and image.radiograph.has_pixels:
        return False
    return image.refused is None or (came_again(image) and image.disposition is None)


def came_again(image: Image) -> bool:
    """Something else was kept under its SOP Instance UID before."""
    return image.instance.disposition is Disposition.AGAIN and image.header is not None


def portions(images: Sequence[Image], portion: int) -> Iterator[list[Image]]:
    """Images in order, so many together that `portion` of them at most are to be looked at."""
    some: list[Image] = []
    number, pixels = 0, 0.0
    for image in images:
        costs = _pixels(image) if image.refused is None or came_again(image) else 0.0
        if some and costs and (number == portion or pixels + costs > PORTION_PIXELS):
            yield some
            some, number, pixels = [], 0, 0.0
        some.append(image)
        number, pixels = number + bool(costs), pixels + costs
    if some:
        yield some


def _pixels(image: Image) -> float:
    """Rows x Columns of an image, by its tags; at least one."""
    attributes = Attributes(image.source)
    rows, columns = attributes.number("Rows"), attributes.number("Columns")
    return max(1.0, (rows or 0.0) * (columns or 0.0))


def _with_pixels(image: Image, reading: Radiograph | UnusableImage) -> Image:
    if isinstance(reading, UnusableImage):
        refused = image.refused or (Outcome.NOT_SCREENED, reading.reason)
        return replace(image, refused=refused)
    return replace(image, radiograph=reading)
