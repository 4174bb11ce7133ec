"""The gate's answer depends on what is seen: not on exposure, size or noise in unknown tags."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from prescreen import frontal, gate
from prescreen.study import Anatomy
from tests import chests

few = settings(max_examples=25, deadline=None)
noise = st.text(alphabet="XQZ0123456789-_ ^", max_size=16)


@few
@given(gamma=st.floats(0.6, 1.8), dark=st.floats(0, 0.4), span=st.floats(0.1, 0.6))
def test_exposure_does_not_count(gamma: float, dark: float, span: float) -> None:
    def exposed(pixels: np.ndarray) -> np.ndarray:
        return (dark + span * pixels**gamma).astype(np.float32)

    whole, cut = exposed(chests.whole().pixels), exposed(chests.cut().pixels)
    assert gate.before(chests.HEADER, chests.radiograph(whole)) is None
    assert gate.after(chests.screening(chests.anatomy()), chests.radiograph(cut)) is None


@few
@given(rows=st.integers(200, 900), columns=st.integers(200, 900))
def test_size_does_not_count(rows: int, columns: int) -> None:
    pixels = chests.cut().pixels
    across = np.linspace(0, chests.SIDE - 1, columns).astype(int)
    down = np.linspace(0, chests.SIDE - 1, rows).astype(int)
    resized = chests.radiograph(pixels[down][:, across])
    assert gate.after(chests.screening(chests.anatomy()), resized) is None


@few
@given(quarters=st.integers(1, 3), inverted=st.booleans())
def test_turned_chests_are_refused(quarters: int, inverted: bool) -> None:
    pixels = np.rot90(chests.whole().pixels, quarters)
    turned = chests.radiograph(np.ascontiguousarray(1 - pixels if inverted else pixels))
    reason = gate.before(chests.HEADER, turned)
    assert inverted or reason is gate.Reason.ROTATED
    drawn = chests.anatomy()
    masks = np.ascontiguousarray(np.rot90(drawn.masks, quarters, axes=(1, 2)))
    assert gate.after(chests.screening(Anatomy(masks, drawn.certainty)), turned) is not None


@few
@given(order=st.permutations([0, 1, 2]))
def test_organs_in_each_others_place_are_refused(order: list[int]) -> None:
    drawn = chests.anatomy()
    swapped = replace(drawn, masks=drawn.masks[order])
    reason = gate.after(chests.screening(swapped), chests.cut())
    assert (reason is None) == (order == [0, 1, 2])


@few
@given(factor=st.floats(0.02, 0.2))
def test_a_chest_too_small_to_read_is_refused(factor: float) -> None:
    drawn = chests.anatomy()
    side = max(2, int(chests.SIDE * factor))
    places = np.linspace(0, chests.SIDE - 1, side).astype(int)
    masks = np.zeros_like(drawn.masks)
    masks[:, :side, :side] = drawn.masks[:, places][:, :, places]
    pixels = np.zeros_like(chests.cut().pixels)
    pixels[:side, :side] = chests.cut().pixels[places][:, places]
    screening = chests.screening(Anatomy(masks, drawn.certainty))
    assert gate.after(screening, chests.radiograph(pixels)) is not None


@few
@given(
    masks=st.lists(
        st.tuples(*[st.integers(0, 60)] * 4), min_size=3, max_size=3
    )  # of three rectangles: top, left, height, width
)
def test_any_masks_get_an_answer(masks: list[tuple[int, int, int, int]]) -> None:
    drawn = np.zeros((3, 64, 64), dtype=bool)
    for mask, (top, left, height, width) in zip(drawn, masks, strict=True):
        mask[top : top + height, left : left + width] = True
    anatomy = Anatomy(drawn, (0.9, 0.9, 0.9))
    assert gate.after(chests.screening(anatomy), chests.cut()) in {None, *gate.Reason}


@given(part=noise, view=noise, species=noise, kinds=st.lists(noise, max_size=5), text=noise)
@settings(deadline=None)
def test_unknown_words_never_refuse(
    part: str, view: str, species: str, kinds: list[str], text: str
) -> None:
    header = replace(
        chests.HEADER,
        body_part_examined=part,
        view_position=view,
        view_code=(view, text, species),
        anatomic_region=(text, species, part),
        image_type=tuple(kinds),
        series_description=text,
        patient_orientation=(text, view),
        presentation_intent_type=text,
        quality_control_image=text,
    )
    assert gate.by_tags(header) is None


@few
@given(shape=st.tuples(st.integers(1, 300), st.integers(1, 300)))
def test_coarse_means_are_means(shape: tuple[int, int]) -> None:
    pixels = np.full(shape, 0.25, dtype=np.float32)
    coarse = frontal.coarse(pixels)
    assert coarse.shape == (frontal.COARSE, frontal.COARSE)
    assert np.allclose(coarse, 0.25)
