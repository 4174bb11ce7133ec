"""The shipped networks on a real radiograph: same answer again, alone or in company, or none."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest

from prescreen.dicom.render import means
from prescreen.errors import UnusableImage, WeightsError
from prescreen.nets import weights
from prescreen.nets.screener import Screener, _finding
from prescreen.study import (
    LABELS,
    Finding,
    FindingState,
    FloatArray,
    Header,
    Radiograph,
    Screening,
)
from tests.canaries import sample

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"


def radiograph(pixels: FloatArray) -> Radiograph:
    shape = (pixels.shape[0], pixels.shape[1])
    return Radiograph(Header("1", "1.2", "1.3", "1.4"), pixels, shape, None, "")


@pytest.fixture(scope="module")
def chest() -> Radiograph:
    """RG1, a real CR chest: MONOCHROME1, 15 bits."""
    stored = pydicom.dcmread(sample()).pixel_array.astype(np.float32)
    low, high = np.quantile(stored, [0.01, 0.99])
    return radiograph(1.0 - np.clip((stored - low) / (high - low), 0.0, 1.0))


@pytest.fixture(scope="module")
def screener() -> Screener:
    return Screener(WEIGHTS, device="cpu")


@pytest.fixture(scope="module")
def screening(screener: Screener, chest: Radiograph) -> Screening:
    return screener([chest])[0]


def numbers(screening: Screening) -> FloatArray:
    both = [p for f in screening.findings for p in (f.probability, f.probability_unmasked)]
    assert None not in both
    return np.array([*both, screening.feature_distance], dtype=np.float32)


def is_clear(finding: Finding) -> bool:
    """Whether both heads are further from the threshold than the two may differ."""
    heads, threshold = (finding.probability, finding.probability_unmasked), finding.threshold
    return all(p is not None and abs(p - (threshold or 0)) > 0.02 for p in heads)


def test_a_real_chest_has_both_lungs_and_a_heart_where_they_belong(screening: Screening) -> None:
    left, right, heart = screening.anatomy.area
    assert 0.05 < left < 0.3 and 0.05 < right < 0.3 and 0.02 < heart < 0.2
    columns = [float(np.nonzero(m)[1].mean()) for m in screening.anatomy.masks]
    assert columns[1] < columns[2] < columns[0]  # the patient's left lies on the right
    assert min(screening.anatomy.certainty) > 0.8
    ratio = screening.anatomy.cardiothoracic_ratio
    assert ratio is not None and 0.3 < ratio < 0.7


def test_a_real_chest_is_like_those_trained_on(screening: Screening) -> None:
    limit = screening.model.feature_distance_limit
    assert limit is not None and screening.feature_distance < limit


def test_means_of_pixels_say_what_all_of_them_say(
    screener: Screener, chest: Radiograph, screening: Screening
) -> None:
    (of_means,) = screener([radiograph(means(chest.pixels, 2))])
    assert np.abs(numbers(of_means) - numbers(screening))[:-1].max() < 0.02
    clear = [place for place, f in enumerate(screening.findings) if is_clear(f)]
    assert len(clear) > 7
    for place in clear:
        assert of_means.findings[place].state == screening.findings[place].state


def test_every_label_is_answered_in_order_and_in_range(screening: Screening) -> None:
    assert tuple(f.label for f in screening.findings) == LABELS
    assert np.isfinite(numbers(screening)).all()
    assert (numbers(screening)[:-1] >= 0).all() and (numbers(screening)[:-1] <= 1).all()
    for finding in screening.findings:
        assert finding.threshold == screening.model.figures_of(finding.label).threshold


def test_attention_spans_the_radiograph_and_is_measured_before_masking(
    screening: Screening,
) -> None:
    assert set(screening.attention) == set(screening.inside) == set(LABELS)
    for label in LABELS:
        shown = screening.attention[label]
        assert shown.shape == (10, 10) and shown.dtype == np.float32
        assert shown.min() >= 0 and shown.max() <= 1
    assert any(share < 1 for share in screening.inside.values())


def test_the_same_radiograph_gives_the_same_numbers(
    screener: Screener, screening: Screening, chest: Radiograph
) -> None:
    assert np.array_equal(numbers(screener([chest])[0]), numbers(screening))


def test_company_changes_nothing(
    screener: Screener, screening: Screening, chest: Radiograph
) -> None:
    others = [radiograph(np.roll(chest.pixels, 40 * i, axis=1)[:: 1 + i % 2]) for i in range(8)]
    together = screener([*others, chest])  # in the second turn
    assert len(together) == 9
    assert np.allclose(numbers(together[-1]), numbers(screening), atol=1e-4)
    assert np.allclose(numbers(together[0]), numbers(screening), atol=1e-4)


def test_no_radiographs_give_no_screenings(screener: Screener) -> None:
    assert screener([]) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_never_become_a_screening(
    screener: Screener, chest: Radiograph, bad: float
) -> None:
    pixels = chest.pixels.copy()
    pixels[900:1000, 900:1000] = bad
    with pytest.raises(UnusableImage, match="not finite") as caught:
        screener([radiograph(pixels)])
    assert caught.value.reason == "not_finite"


def test_where_no_anatomy_is_found_nothing_is_flagged(chest: Radiograph, tmp_path: Path) -> None:
    blind = shutil.copytree(WEIGHTS, tmp_path / "weights")
    drawn = weights.load(blind)["lungs_heart"]
    last = {"out.weight": np.zeros_like(drawn.tensors["out.weight"])}
    last["out.bias"] = np.full_like(drawn.tensors["out.bias"], -9.0)
    weights.write_manifest(blind, drawn.manifest, {**drawn.tensors, **last})
    blank = Screener(blind, device="cpu")([chest])[0]
    states = {f.state for f in blank.findings}
    assert states <= {FindingState.UNDETERMINED, FindingState.NOT_EVALUATED}
    assert {f.reason for f in blank.findings} == {"anatomy_not_found"}
    assert blank.anatomy.cardiothoracic_ratio is None


@pytest.mark.parametrize(
    ("masked", "unmasked", "found", "state", "reason"),
    [
        (0.5, 0.6, True, FindingState.FLAGGED, None),
        (0.4, 0.6, True, FindingState.UNDETERMINED, "mask_disagreement"),
        (0.6, 0.4, True, FindingState.UNDETERMINED, "mask_disagreement"),
        (0.4, 0.4, True, FindingState.NOT_FLAGGED, None),
        (0.6, 0.6, False, FindingState.UNDETERMINED, "anatomy_not_found"),
        (0.4, 0.4, False, FindingState.NOT_EVALUATED, "anatomy_not_found"),
    ],
)
def test_the_two_heads_decide_the_state(
    masked: float, unmasked: float, found: bool, state: FindingState, reason: str | None
) -> None:
    finding = _finding("Mass", masked, unmasked, 0.5, found)
    assert (finding.state, finding.reason) == (state, reason)


def test_the_model_is_what_the_manifests_state(screener: Screener) -> None:
    ran = screener.model
    lungs_heart, findings = (
        dataclasses.replace(one, engine="") for one in (ran.lungs_heart, ran.findings)
    )
    assert ran.findings.engine and ran.lungs_heart.engine
    told = dataclasses.replace(ran, lungs_heart=lungs_heart, findings=findings)
    assert told == weights.describe(WEIGHTS)


def test_weights_of_another_shape_are_refused_by_name(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS, tmp_path / "weights")
    loaded = weights.load(folder)["findings"]
    tensors = dict(loaded.tensors) | {"head.weight": np.zeros((14, 3), dtype=np.float32)}
    weights.write_manifest(folder, loaded.manifest, tensors)
    with pytest.raises(WeightsError, match=r"findings\.safetensors: head\.weight has shape"):
        Screener(folder, device="cpu")


def test_unknown_switches_are_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS, tmp_path / "weights")
    loaded = weights.load(folder)["findings"]
    manifest = dataclasses.replace(loaded.manifest, switches={"turbo": True})
    weights.write_manifest(folder, manifest, loaded.tensors)
    with pytest.raises(WeightsError, match="unknown switch"):
        Screener(folder, device="cpu")


def test_a_segmentation_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS, tmp_path / "weights")
    loaded = weights.load(folder)["lungs_heart"]
    manifest = dataclasses.replace(loaded.manifest, architecture="vnet")
    weights.write_manifest(folder, manifest, loaded.tensors)
    with pytest.raises(WeightsError, match=r"'vnet' is not known to this version \(known: unet"):
        Screener(folder, device="cpu")
