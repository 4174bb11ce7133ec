"""Boxes and maps on pictures one can check by hand: no axis swapped, the oracle called one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prescreen.study import FloatArray
from train import boxes
from train.data import DataError

HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n"


def drawn(left: float, top: float, width: float, height: float) -> boxes.DrawnBox:
    shares = (left / 1024, top / 1024, (left + width) / 1024, (top + height) / 1024)
    return boxes.DrawnBox("1_0", "Mass", shares, (left, top, width, height))


def hot(row: int, column: int, cells: int = 7) -> FloatArray:
    attention = np.zeros((cells, cells), dtype=np.float32)
    attention[row, column] = 1.0
    return attention


def test_a_list_of_boxes_is_read_in_shares_of_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(HEADER + "00000003_001.png,Infiltrate,256,512,128,64,,\n")
    (one,) = boxes.read_boxes(path)
    assert (one.stem, one.label, one.patient) == ("00000003_001", "Infiltration", "00000003")
    assert one.box == (0.25, 0.5, 0.375, 0.5625)
    assert one.centre == (0.3125, 0.53125)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the header does not begin with Image Index"),
        (HEADER, "a header but no rows"),
        (HEADER + "a.png,Mass,1,2,x,4\n", "line 2: not a box of four numbers"),
        (HEADER + "a.png,Mass,1,2,3\n", "line 2: not a box of four numbers"),
        (HEADER + "a.png,Gout,1,2,3,4\n", "line 2: unknown finding 'Gout'"),
        (HEADER + "a.png,Mass,1,2,0,4\n", "line 2: a box without extent"),
    ],
)
def test_a_list_that_is_none_says_which_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        boxes.read_boxes(path)
    with pytest.raises(DataError, match=r"is BBox_List_2017\.csv of the data set"):
        boxes.read_boxes(tmp_path / "gone.csv")


def test_overlap_is_what_both_have_of_what_either_has() -> None:
    assert boxes.iou((0, 0, 2, 2), (1, 1, 3, 3)) == pytest.approx(1 / 7)
    assert boxes.iou((0, 0, 1, 1), (0, 0, 1, 1)) == 1
    assert boxes.iou((0, 0, 1, 1), (1, 0, 2, 1)) == 0


def test_the_way_into_the_papers_crop_is_a_scale_and_a_margin() -> None:
    assert boxes.in_crop(drawn(512.7, 256.2, 64.9, 32)) == (112, 48, 16, 8)


@pytest.mark.parametrize(("row", "column"), [(1, 4), (5, 2), (3, 3)])
def test_a_hot_cell_is_found_where_it_lies(row: int, column: int) -> None:
    attention = hot(row, column)
    x, y = (column + 0.5) / 7, (row + 0.5) / 7
    assert boxes.hottest(attention) == pytest.approx((x, y))
    ((u, v),) = boxes.peaks(attention)
    assert u == pytest.approx(x * 256 - 16, abs=2) and v == pytest.approx(y * 256 - 16, abs=2)
    box = boxes.box_of(attention)
    assert box is not None and boxes.holds(box, (x, y))
    assert box[2] - box[0] < 0.3 and box[3] - box[1] < 0.3


def test_the_hotter_of_two_pieces_makes_the_box() -> None:
    attention = hot(1, 1) * 0.6 + hot(5, 4)
    box = boxes.box_of(attention)
    assert box is not None and boxes.holds(box, (4.5 / 7, 5.5 / 7))
    assert not boxes.holds(box, (1.5 / 7, 1.5 / 7))
    assert len(boxes.peaks(attention)) == 2


def test_an_empty_map_says_nothing() -> None:
    empty = np.zeros((7, 7), dtype=np.float32)
    assert boxes.hottest(empty) is None and boxes.box_of(empty) is None
    assert boxes.peaks(empty) == []
    assert not boxes.holds((0, 0, 1, 1), None)


def test_the_oracle_takes_the_true_size_and_the_best_candidate() -> None:
    one = drawn(512, 256, 128, 64)  # in the crop: 112, 48, 32 x 16, centre 128, 56
    assert boxes.oracle(one, [(5.0, 5.0), (128.0, 56.0)]) == 1
    assert boxes.oracle(one, [(56.0, 128.0)]) == 0
    assert boxes.oracle(one, []) == 0


def test_the_fixed_point_comes_from_other_radiographs() -> None:
    a, b = drawn(0, 0, 1024, 512), boxes.DrawnBox("2_0", "Mass", (0, 0, 1, 1), (0, 0, 1024, 1024))
    assert boxes.fixed_points([a], [a, b]) == [(0.5, 0.5)]
    assert boxes.fixed_points([a], [a]) == [None]


@pytest.mark.data
def test_grids_without_a_network_get_what_they_are_known_to_get(data_dir: Path) -> None:
    listed = boxes.read_boxes(data_dir / "chestxray14" / "BBox_List_2017.csv")
    assert len(listed) == 984 and len({one.stem for one in listed}) == 880
    means = {
        n: float(np.mean([boxes.oracle(one, boxes.grid(n)) for one in listed])) for n in (3, 4, 8)
    }
    assert means[3] == pytest.approx(0.292, abs=5e-4)
    points = [(float(x), float(y)) for y in (37, 112, 187) for x in (37, 112, 187)]
    whole = float(np.mean([boxes.oracle(one, points) for one in listed]))
    assert whole == pytest.approx(0.290, abs=5e-4), "the same grid on whole pixels"
    assert means[4] == pytest.approx(0.3645, abs=5e-4)  # above the 0.3014 of the paper's network
    assert means[8] == pytest.approx(0.57, abs=5e-3)
