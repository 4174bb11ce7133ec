"""A data set with pixels → `study.Radiograph`."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pydicom
from PIL import Image

from prescreen.dicom.attributes import Attributes
from prescreen.dicom.cells import Cells, stored_pixels
from prescreen.dicom.greyscale import greyscale
from prescreen.dicom.header import header_of
from prescreen.dicom.layout import layout_of
from prescreen.dicom.reasons import ImageReason
from prescreen.errors import UnusableImage
from prescreen.study import FloatArray, Radiograph

#: Pixels less than this far from square are taken as square: rounding, not geometry.
_SQUARE = 0.01
#: Beyond this the spacing is a mistake, and is not followed.
_STRETCH = 8.0
#: Millimetres between pixels of a radiograph; what lies beyond is in another unit, or a mistake.
_SPACINGS = (0.005, 10.0)
_BLOCK = 1 << 16  # pixels looked up at once, so that numpy's index copy stays in the cache
#: Rows and columns of which nothing that looks at a radiograph wants more: the networks see 512,
#: the page of a capture of the usual size shows 900.
LEAST_SIDE = 900

Allocate = Callable[[tuple[int, int]], FloatArray]


def _new(shape: tuple[int, int]) -> FloatArray:
    return np.empty(shape, np.float32)


def render(
    ds: pydicom.Dataset,
    *,
    max_megapixels: float = 64,
    allocate: Allocate = _new,
    least_side: int | None = None,
    digested: bool = True,
) -> Radiograph:
    """The radiograph in `ds` as it is meant to be seen; `ds` stays as it is.

    `allocate` gives the float32 array (rows, columns) that becomes `pixels`. With `least_side`
    whole numbers of rows and columns are averaged, as many as leave at least that many of either;
    None leaves every pixel. Without `digested` there is no `pixel_sha256`. Raises UnusableImage
    with an ImageReason. Decoders of compressed pixels are native code that a damaged file can
    crash or keep busy for ever: `Decoder` calls this in a process of its own.
    """
    layout = layout_of(ds, max_megapixels)
    stored = stored_pixels(ds, layout)
    attributes = Attributes(ds)
    table = greyscale(attributes, stored)
    shape = (layout.rows, layout.columns)
    spacing = pixel_spacing(attributes)
    square = square_shape(shape, _row_to_column(attributes))
    _require_at_most(max_megapixels, square)
    step = 1 if least_side is None else max(1, min(square) // least_side)
    pixels = allocate(_coarser(square, step))
    if square == shape:
        _look_up(table, stored.cells, step, pixels)
    else:
        whole = _new(shape)
        _look_up(table, stored.cells, 1, whole)
        pixels[:] = means(_resized(whole, square), step)
    digest = stored.sha256 if digested else None
    return Radiograph(header_of(ds), pixels, shape, spacing, digest)


def pixel_shape(ds: pydicom.Dataset) -> tuple[int, int]:
    """Height and width of a pixel as it is shown, as whole numbers: 1 and 1 where it is square."""
    row_to_column = _row_to_column(Attributes(ds))
    if not _is_stretched(row_to_column):
        return 1, 1
    return Fraction(row_to_column).limit_denominator(1_000).as_integer_ratio()


def _require_at_most(megapixels: float, square: tuple[int, int]) -> None:
    """`layout_of` asked the same of the stored pixels; the pixels' shape may stretch them."""
    rows, columns = square
    if rows * columns > megapixels * 1e6:
        raise UnusableImage(
            f"with square pixels it has {rows} × {columns}: more than max_megapixels = "
            f"{megapixels:g} allows",
            ImageReason.TOO_LARGE,
        )


def _coarser(shape: tuple[int, int], step: int) -> tuple[int, int]:
    return -(-shape[0] // step), -(-shape[1] // step)


def _look_up(table: FloatArray, cells: Cells, step: int, pixels: FloatArray) -> None:
    """`pixels[:] = means(table[cells], step)`, a band of rows at a time."""
    rows, columns = cells.shape
    band = step * max(1, _BLOCK // (step * columns))
    grey = _new((band, columns))
    for start in range(0, rows, band):
        here = cells[start : start + band]
        first = start // step
        target = pixels[first : first + -(-len(here) // step)]
        if step == 1:
            np.take(table, here, out=target, mode="clip")
        else:
            target[:] = means(np.take(table, here, out=grey[: len(here)], mode="clip"), step)


def means(pixels: FloatArray, step: int) -> FloatArray:
    """Means of `step` x `step` pixels, of what there is of them at the far edges."""
    return _means_of_rows(_means_of_rows(pixels, step).T, step).T


def _means_of_rows(pixels: FloatArray, step: int) -> FloatArray:
    if step == 1:
        return pixels
    whole = len(pixels) // step * step
    sums = pixels[0:whole:step] + pixels[1:whole:step]
    for offset in range(2, step):
        sums += pixels[offset:whole:step]
    sums /= np.float32(step)
    if whole == len(pixels):
        return sums
    return np.concatenate([sums, pixels[whole:].mean(axis=0, keepdims=True)])


def pixel_spacing(attributes: Attributes) -> tuple[float, float] | None:
    """Millimetres between rows and between columns, in the patient or else at the detector."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        numbers = attributes.numbers(keyword)
        if len(numbers) == 2 and _SPACINGS[0] <= min(numbers) and max(numbers) <= _SPACINGS[1]:
            return numbers[0], numbers[1]
    return None


def _row_to_column(attributes: Attributes) -> float:
    """Height of a pixel over its width, from the spacing or else PixelAspectRatio (C.7.6.3.1.7)."""
    spacing = pixel_spacing(attributes) or attributes.numbers("PixelAspectRatio")
    if len(spacing) != 2 or min(spacing) <= 0:
        return 1.0
    return spacing[0] / spacing[1]


def square_shape(shape: tuple[int, int], row_to_column: float) -> tuple[int, int]:
    """The shape with square pixels: the coarser axis gets more pixels, the other keeps its own."""
    if not _is_stretched(row_to_column):
        return shape
    rows, columns = shape
    if row_to_column > 1:
        return round(rows * row_to_column), columns
    return rows, round(columns / row_to_column)


def _is_stretched(row_to_column: float) -> bool:
    """Whether pixels are not square, beyond rounding and short of a mistake."""
    return abs(row_to_column - 1) >= _SQUARE and 1 / _STRETCH <= row_to_column <= _STRETCH


def _resized(pixels: FloatArray, shape: tuple[int, int]) -> FloatArray:
    image = Image.fromarray(pixels)
    resized = image.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.float32)
