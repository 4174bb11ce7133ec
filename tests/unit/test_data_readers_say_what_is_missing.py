"""Readers of training data: splits no patient crosses, and errors that name file and remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train import data, masks
from train.data import DataError, LabelledPicture

HEADER = "image,labels,patient,view,official_split\n"


def picture(patient: int, split: str = "train_val") -> LabelledPicture:
    return LabelledPicture(Path(f"{patient}.jpg"), str(patient), (0,) * 14, "PA", split)


def test_no_patient_is_on_both_sides_and_the_test_list_on_neither() -> None:
    pictures = [picture(i // 3, "test" if i % 10 == 0 else "train_val") for i in range(900)]
    train, held = data.split_by_patient(pictures, 0.2, seed=1)
    assert not {p.patient for p in train} & {p.patient for p in held}
    assert {p.official_split for p in train + held} == {"train_val"}
    assert 0.14 < len(held) / 810 < 0.26


def test_the_split_does_not_move_when_pictures_are_added() -> None:
    few, many = [picture(i) for i in range(50)], [picture(i) for i in range(500)]
    assert set(data.split_by_patient(few, 0.2, 1)[1]) <= set(data.split_by_patient(many, 0.2, 1)[1])
    assert data.split_by_patient(many, 0.2, 1)[1] != data.split_by_patient(many, 0.2, 2)[1]


def test_a_missing_list_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labels\.csv is missing: set PRESCREEN_DATA"):
        data.read_chestxray14(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image,labels\n", "the header lacks patient, view, official_split"),
        (HEADER, "a header but no rows"),
        (HEADER + "a.jpg,Mass|Gout,1,PA,test\n", "unknown label 'Gout'"),
    ],
)
def test_a_malformed_list_says_what_is_wrong(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=words):
        data.read_chestxray14(tmp_path)


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jpg is missing"):
        data.read_picture(tmp_path / "gone.jpg")
    (tmp_path / "text.jpg").write_text("no picture", encoding="utf-8")
    with pytest.raises(DataError, match=r"text\.jpg cannot be read as a picture"):
        data.read_picture(tmp_path / "text.jpg")


def test_pictures_are_averaged_down_not_sampled(tmp_path: Path) -> None:
    board = (np.indices((64, 64)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    assert np.ptp(data.read_picture(tmp_path / "board.png", 32)) <= 1


@pytest.mark.data
def test_the_lungs_end_at_the_heart_in_every_drawing(data_dir: Path) -> None:
    pictures = data.read_lungs_heart(data_dir / "lungs_heart", 64)
    assert len(pictures) == 199
    assert not any((p.masks[:2] & p.masks[2]).any() for p in pictures)


@pytest.mark.data
def test_a_heart_drawn_under_the_name_of_the_left_lung_gets_its_own_name_back(
    data_dir: Path,
) -> None:
    listed = masks.list_lungs_heart(data_dir / "lungs_heart")
    raw = {f.name: np.stack([data.read_picture(p, 64) for p in f.masks]) >= 128 for f in listed}
    assert [name for name, drawn in raw.items() if masks.swapped(drawn)] == ["wingspan053"]
    assert not any(masks.swapped(one.drawn(64)) for one in listed)


def test_masks_that_are_empty_are_not_taken_as_swapped() -> None:
    assert not masks.swapped(np.zeros((3, 8, 8), dtype=bool))


@pytest.mark.data
def test_the_flat_layout_is_read_whole(data_dir: Path) -> None:
    pictures = data.read_chestxray14(data_dir / "chestxray14")
    assert len(pictures) == 2017
    assert sum(p.official_split == "test" for p in pictures) == 88
    assert all(p.path.is_file() for p in pictures[::100])
