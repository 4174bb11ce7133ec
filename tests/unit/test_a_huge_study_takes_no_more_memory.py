"""However many images a study has, few of them lie decoded at a time, and nothing else changes."""

from __future__ import annotations

import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prescreen import lightbox, node, screening
from prescreen.dicom.image import Decoder
from prescreen.errors import PictureLost, UnusableImage
from prescreen.lightbox import HELD, Image
from prescreen.study import Disposition, ImageResult, Instance, Radiograph, Screening
from tests.e2e.house import chest
from tests.huge import blind, instance
from tests.pictures import data_set, saved


class Counted:
    """A decoder that knows how many of the radiographs it gave are still about."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._alive = 0
        self.most = 0

    def read_all(self, paths: Sequence[Path], digested: bool = True) -> list[Any]:
        readings = self._decoder.read_all(paths, digested)
        for radiograph in readings:
            assert isinstance(radiograph, Radiograph)
            self._alive += 1
            weakref.finalize(radiograph.pixels.base, self._gone)
        self.most = max(self.most, self._alive)
        return readings

    def _gone(self) -> None:
        self._alive -= 1


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    noise = np.random.default_rng(1).integers(0, 4096, (256, 256)).astype(np.uint16)
    return saved(tmp_path_factory.mktemp("huge"), data_set(noise, BitsStored=12))


def study(path: Path, images: int, **changed: Any) -> list[Instance]:
    return [replace(instance(number, path), **changed) for number in range(1, images + 1)]


def drawn(images: Sequence[Image]) -> int:
    """Ask for every picture, one after the other, as captures do; how many there are."""
    return sum(image.picture() is not None for image in images)


def test_forty_images_take_little_more_than_four() -> None:
    def peak(images: int) -> int:
        command = [sys.executable, "-m", "tests.huge", str(images), "4"]
        return int(subprocess.run(command, capture_output=True, check=True, timeout=300).stdout)

    # 36 more of 11 MiB each would be 396 MiB
    assert peak(40) < 1.3 * peak(4)


@pytest.mark.parametrize("disposition", [Disposition.NEW, Disposition.AGAIN])
def test_no_more_radiographs_are_held_than_was_said(
    decoder: Decoder, path: Path, disposition: Disposition
) -> None:
    counted = Counted(decoder)
    images = screening.screen(
        study(path, 60, disposition=disposition),
        counted,
        blind,
        scope=None,
        versions=lambda uid: [],
    )
    assert counted.most <= HELD
    assert drawn(images) == 60
    assert counted.most <= HELD


def test_what_the_networks_refuse_is_let_go_of_too(decoder: Decoder, path: Path) -> None:
    def refusing(radiographs: Sequence[Radiograph]) -> list[Screening]:
        if radiographs:
            raise UnusableImage("not finite", "not_finite")
        return []

    counted = Counted(decoder)
    images = screening.screen(study(path, 40), counted, refusing, scope=None)
    assert counted.most <= HELD
    assert all(image.refused is not None for image in images)


def test_a_study_of_a_few_images_is_decoded_once(decoder: Decoder, path: Path) -> None:
    images = screening.screen(study(path, 16), decoder, blind, scope=None)
    assert all(image.radiograph and image.radiograph.has_pixels for image in images)


def test_pictures_beyond_any_chests_size_are_taken_few_at_a_time(path: Path) -> None:
    ds = data_set(np.zeros((8, 8), np.uint16), Rows=8_000, Columns=8_000)
    images = [Image(one, source=ds) for one in study(path, 5)]
    assert [len(some) for some in lightbox.portions(images, 8)] == [2, 2, 1]
    assert [len(some) for some in lightbox.portions(images, 1)] == [1] * 5


def test_a_picture_that_decodes_no_more_is_for_another_try(
    decoder: Decoder, tmp_path: Path
) -> None:
    path = saved(tmp_path, data_set(np.zeros((64, 64), np.uint16), BitsStored=12))
    (image,) = screening.screen(study(path, 1), decoder, blind, scope=None, portion=1, held=1)
    path.unlink()
    with pytest.raises(
        PictureLost, match=r"again \(unreadable\); the study is tried again"
    ) as lost:
        image.picture()
    assert lost.value.retryable


def test_the_answers_are_the_same_in_whatever_portions(decoder: Decoder, tmp_path: Path) -> None:
    from prescreen.nets.screener import Screener

    screener = Screener(node.shipped_weights(), "cpu", "torch")
    paths = [chest(tmp_path), _upside_down(tmp_path), chest(tmp_path, WindowWidth="3000")]
    files = [instance(number, path) for number, path in enumerate([*paths, paths[0]], start=1)]
    one, all_at_once = (
        screening.screen(files, decoder, screener, scope=None, portion=portion, held=portion)
        for portion in (1, 8)
    )
    assert {image.result.outcome for image in one} == {"screened", "not_screened"}
    for alone, together in zip(one, all_at_once, strict=True):
        _are_the_same(alone.result, together.result)
        a, b = alone.picture(), together.picture()
        assert a is not None and b is not None
        np.testing.assert_array_equal(a.pixels, b.pixels)


def _upside_down(folder: Path) -> Path:
    import pydicom

    path = chest(folder)
    ds = pydicom.dcmread(path)
    ds.PixelData = np.flipud(ds.pixel_array).tobytes()
    ds.save_as(path)
    return path


def _are_the_same(a: ImageResult, b: ImageResult) -> None:
    assert (a.outcome, a.reason) == (b.outcome, b.reason)
    assert [(f.label, f.state, f.reason) for f in a.findings] == [
        (f.label, f.state, f.reason) for f in b.findings
    ]
    seen, again = (np.array([f.probability for f in r.findings], float) for r in (a, b))
    np.testing.assert_allclose(seen, again, atol=1e-4)
