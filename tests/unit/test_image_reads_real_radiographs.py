"""The real images of pydicom-data: same pixels in every lossless coding, air dark."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from prescreen.dicom.image import Decoder, ImageReason, render
from prescreen.errors import UnusableImage
from prescreen.study import Radiograph
from tests.canaries import sample


def radiograph(name: str) -> Radiograph:
    return render(pydicom.dcmread(sample(name)))


@pytest.fixture(scope="module")
def chest() -> Radiograph:
    return radiograph("RG1_UNCR.dcm")


def test_the_chest_has_dark_lungs_and_a_bright_heart(chest: Radiograph) -> None:
    assert chest.pixels.shape == (1955, 1841)
    lung, heart = chest.pixels[600:700, 380:460].mean(), chest.pixels[1200:1400, 1050:1250].mean()
    assert lung < heart - 0.2
    assert 0 <= chest.pixels.min() < chest.pixels.max() <= 1
    assert chest.pixels[60:, 1780:].min() < 0.15
    assert (chest.header.view, chest.header.modality, chest.header.body_part_examined) == (
        "PA",
        "CR",
        "CHEST",
    )
    assert chest.pixel_spacing is None  # Imager Pixel Spacing is 0\0


def test_lossless_jpeg_2000_is_equal_pixel_for_pixel(chest: Radiograph) -> None:
    lossless = radiograph("RG1_J2KR.dcm")
    assert lossless.pixel_sha256 == chest.pixel_sha256
    assert np.array_equal(lossless.pixels, chest.pixels)


def test_lossy_jpeg_2000_is_close(chest: Radiograph) -> None:
    lossy = radiograph("RG1_J2KI.dcm")
    assert lossy.pixel_sha256 != chest.pixel_sha256
    assert np.abs(lossy.pixels - chest.pixels).mean() < 0.002


def test_the_leg_has_a_bright_bone_in_dark_air() -> None:
    leg, lossless = radiograph("RG3_UNCR.dcm"), radiograph("RG3_J2KR.dcm")
    assert np.array_equal(leg.pixels, lossless.pixels)
    assert leg.pixels[200:300, 500:600].mean() < 0.1  # air beside the leg
    assert leg.pixels[1550:1600, 740:800].mean() > 0.8  # the heel
    assert radiograph("RG3_J2KI.dcm").pixels.shape == leg.pixels.shape


@pytest.mark.parametrize(
    ("name", "modality", "shape"),
    [("CT_small.dcm", "CT", (128, 128)), ("MR_small.dcm", "MR", (64, 64))],
)
def test_slices_are_rendered_too_for_the_gate_to_judge(
    name: str, modality: str, shape: tuple[int, int]
) -> None:
    rendered = radiograph(name)
    assert rendered.pixels.shape == shape
    assert rendered.pixels.max() == 1
    assert 0 <= rendered.pixels.min() < 0.21
    assert rendered.header.modality == modality


def test_colour_ultrasound_is_refused() -> None:
    for name in ("US1_UNCR.dcm", "US1_J2KR.dcm"):
        with pytest.raises(UnusableImage, match=r"the image is colour") as refusal:
            radiograph(name)
        assert refusal.value.reason == ImageReason.COLOUR


def test_the_child_reads_what_this_process_reads(chest: Radiograph) -> None:
    with Decoder() as decoder:
        read = decoder.read(sample())
    assert np.array_equal(read.pixels, chest.pixels)
    assert (read.header, read.pixel_sha256) == (chest.header, chest.pixel_sha256)
