"""NIH, JSRT with SCR and DICOM folders as they are distributed, and the words when they are not."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prescreen.study import LABELS, ORGANS
from tests import pictures
from train import boxes, chestxray14, data, dicom_folder, jsrt, paper
from train.data import DataError

ENTRY = ["Image Index", "Finding Labels", "Follow-up #", "Patient ID", "View Position"]


def saved(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def listed(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


# ---------------------------------------------------------------- ChestX-ray14


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    """As NIH ships it, with four radiographs of three patients."""
    rows = [
        ["00000001_000.png", "Cardiomegaly|Emphysema", "0", "1", "PA"],
        ["00000001_001.png", "No Finding", "1", "1", "AP"],
        ["00000002_000.png", "Hernia", "0", "2", "PA"],
        ["00000003_000.png", "No Finding", "0", "3", "PA"],
    ]
    listed(tmp_path / "Data_Entry_2017_v2020.csv", [ENTRY, *rows])
    (tmp_path / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png\n")
    (tmp_path / "test_list.txt").write_text("00000002_000.png\n00000003_000.png")
    for i, row in enumerate(rows):
        saved(tmp_path / f"images_00{1 + i % 2}" / "images" / row[0], np.zeros((8, 8)))
    return tmp_path


def test_the_layout_of_the_nih_is_read_as_it_is(nih: Path) -> None:
    found = data.read_chestxray14(nih)
    assert [p.official_split for p in found] == ["train_val", "train_val", "test", "test"]
    assert found[0].labels[LABELS.index("Emphysema")] == 1 and sum(found[1].labels) == 0
    assert (found[1].view, found[1].patient) == ("AP", "1")
    assert all(p.path.is_file() for p in found)


def test_a_picture_that_was_not_unpacked_is_named(nih: Path) -> None:
    (nih / "images_002" / "images" / "00000003_000.png").unlink()
    with pytest.raises(DataError, match=r"1 of 4 radiographs .* 00000003_000\.png the first"):
        data.read_chestxray14(nih)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("test_list.txt", None, r"test_list\.txt is missing: it comes with the data set"),
        ("test_list.txt", "00000002_000.png", "1 radiographs are in neither official list"),
        (
            "test_list.txt",
            "00000001_000.png\n00000002_000.png",
            r"00000001_000\.png is in both official lists",
        ),
    ],
)
def test_official_lists_that_do_not_fit_are_refused(
    nih: Path, name: str, text: str | None, words: str
) -> None:
    (nih / name).unlink()
    if text is not None:
        (nih / name).write_text(text)
    with pytest.raises(DataError, match=words):
        data.read_chestxray14(nih)


def test_a_patient_in_both_lists_is_refused(nih: Path) -> None:
    (nih / "train_val_list.txt").write_text("00000001_000.png\n00000002_000.png\n")
    (nih / "test_list.txt").write_text("00000001_001.png\n00000003_000.png")
    with pytest.raises(DataError, match=r"v2020\.csv: 1 patients are in both official lists"):
        data.read_chestxray14(nih)


def test_a_patient_in_both_parts_of_a_flat_list_is_refused(tmp_path: Path) -> None:
    """By the patients it names, or by the names of the radiographs where it names none."""
    header = ["image", "labels", "patient", "view", "official_split"]
    for patient in ("7", ""):
        rows = [
            [f"7_{i}.png", "Mass", patient, "PA", s] for i, s in enumerate(("train_val", "test"))
        ]
        listed(tmp_path / "labels.csv", [header, *rows])
        with pytest.raises(DataError, match=r"labels\.csv: 1 patients are in both official lists"):
            data.read_chestxray14(tmp_path)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["image"], ["a.png"]], r"the header lacks labels \(or 'Finding Labels'\)"),
        ([["image", "labels"], ["a.png", "Gout"]], r"unknown label 'Gout' of a\.png"),
        ([["image", "labels"], ["a.png", ""], ["a.jpg", ""]], r"a\.jpg is listed twice"),
    ],
)
def test_a_list_of_labels_says_what_is_wrong(
    tmp_path: Path, rows: list[list[str]], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        data.read_labels(listed(tmp_path / "labels.csv", rows))


def test_a_list_in_another_encoding_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes("image,labels\nJosé,Mass\n".encode("utf-16"))
    with pytest.raises(DataError, match="is not a CSV file in UTF-8"):
        data.read_labels(tmp_path / "labels.csv")


def test_synonyms_are_understood(tmp_path: Path) -> None:
    path = listed(
        tmp_path / "labels.csv",
        [["image", "labels"], ["a_1.png", "Infiltrate|Pleural Thickening"], ["b.png", ""]],
    )
    first, second = data.read_labels(path)
    found = {label for label, v in zip(LABELS, first.labels, strict=True) if v}
    assert found == {"Infiltration", "Pleural_Thickening"}
    assert sum(second.labels) == 0
    assert [chestxray14.whose(p).patient for p in (first, second)] == ["a", "b"]


@pytest.mark.data
def test_table_1_of_the_paper_comes_out_exactly(data_dir: Path) -> None:
    folder = data_dir / "chestxray14"
    path = folder / "Data_Entry_2017_v2020.csv"
    found = chestxray14.read_labels(path, lists_needed=True)  # asserts that no patient is in both
    columns = [
        chestxray14.counts([p for p in found if p.official_split == split])
        for split in ("train_val", "test")
    ]
    assert {k: (columns[0][k], columns[1][k]) for k in paper.TABLE_1} == {
        k: v[:2] for k, v in paper.TABLE_1.items()
    }
    patients = [
        len({p.patient for p in found if p.official_split == s}) for s in ("train_val", "test")
    ]
    assert patients == [28_008, 2_797]


@pytest.mark.data
def test_the_boxes_of_table_1_come_out_exactly(data_dir: Path) -> None:
    drawn = boxes.read_boxes(data_dir / "chestxray14" / "BBox_List_2017.csv")
    found = Counter(one.label for one in drawn)
    stated = {label: paper.TABLE_1[label][2] for label in LABELS}
    assert {label: found[label] for label in LABELS} == stated
    assert len(drawn) == sum(stated.values()) == paper.TABLE_1["Totals"][2]
    test = set((data_dir / "chestxray14" / "test_list.txt").read_text().split())
    assert all(f"{one.stem}.png" in test for one in drawn), "all of them are of the test list"


# ---------------------------------------------------------------- JSRT and SCR


@pytest.fixture
def jsrt_folder(tmp_path: Path) -> Path:
    density = np.zeros((jsrt.SIDE, jsrt.SIDE), dtype=">u2")
    density[:, : jsrt.SIDE // 2] = 4095  # air on the left
    (tmp_path / "JSRT").mkdir()
    (tmp_path / "JSRT" / "JPCLN001.IMG").write_bytes(density.tobytes())
    for fold, organ in enumerate(("left lung", "right lung", "heart")):
        mask = np.zeros((64, 64))
        mask[10:20, 5 : 30 + fold] = 255
        saved(tmp_path / "SCR" / "fold1" / "masks" / organ / "JPCLN001.gif", mask)
    return tmp_path


def test_jsrt_is_read_with_its_masks_air_dark(jsrt_folder: Path) -> None:
    (one,) = jsrt.read_jsrt(jsrt_folder / "JSRT", jsrt_folder / "SCR", 32)
    assert (one.source, one.name) == ("jsrt", "JPCLN001")
    assert one.pixels[:, 0].max() == 0 and one.pixels[:, -1].min() == 255
    assert one.masks.shape == (3, 32, 32) and one.masks[2].any()
    assert not (one.masks[:2] & one.masks[2]).any()


def test_jsrt_as_png_is_the_same(jsrt_folder: Path) -> None:
    raw = jsrt_folder / "JSRT" / "JPCLN001.IMG"
    (from_img,) = jsrt.read_jsrt(jsrt_folder / "JSRT", jsrt_folder / "SCR", 32)
    saved(jsrt_folder / "JSRT" / "JPCLN001.png", jsrt.read_img(raw))
    raw.unlink()
    (from_png,) = jsrt.read_jsrt(jsrt_folder / "JSRT", jsrt_folder / "SCR", 32)
    assert np.array_equal(from_img.pixels, from_png.pixels)


def test_jsrt_is_written_in_the_layout_that_training_reads(jsrt_folder: Path) -> None:
    where = ("--images", jsrt_folder / "JSRT", "--scr", jsrt_folder / "SCR", "--size", "32")
    jsrt.main([str(a) for a in (*where, "--to", jsrt_folder / "lungs_heart" / "jsrt")])
    (one,) = data.read_lungs_heart(jsrt_folder / "lungs_heart", 32)
    (same,) = jsrt.read_jsrt(jsrt_folder / "JSRT", jsrt_folder / "SCR", 32)
    assert (one.source, one.name) == ("jsrt", "JPCLN001")
    assert np.array_equal(one.pixels, same.pixels) and np.array_equal(one.masks, same.masks)
    with pytest.raises(SystemExit, match=r"error: .* is not a folder"):
        jsrt.main(["--images", str(jsrt_folder / "gone"), "--scr", "x", "--to", "y"])


def test_an_img_of_another_size_or_order_is_refused(jsrt_folder: Path) -> None:
    path = jsrt_folder / "JSRT" / "JPCLN001.IMG"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=r"has 8388606 bytes, a headless .* has 8388608"):
        jsrt.read_img(path)
    swapped = np.full((jsrt.SIDE, jsrt.SIDE), 0x0102, dtype="<u2") << 4
    path.write_bytes(swapped.astype("<u2").tobytes())
    with pytest.raises(DataError, match="these are not 12-bit big-endian words"):
        jsrt.read_img(path)
    with pytest.raises(DataError, match="is missing or cannot be read"):
        jsrt.read_img(path.with_name("gone.IMG"))


def test_masks_that_are_missing_are_named(jsrt_folder: Path) -> None:
    heart = jsrt_folder / "SCR" / "fold1" / "masks" / "heart" / "JPCLN001.gif"
    heart.rename(heart.with_name("JPCLN002.gif"))
    with pytest.raises(DataError, match="JPCLN001 has no mask of the heart"):
        jsrt.list_jsrt(jsrt_folder / "JSRT", jsrt_folder / "SCR")
    with pytest.raises(DataError, match="no folder 'left lung': unpack fold1 and fold2"):
        jsrt.list_jsrt(jsrt_folder / "JSRT", jsrt_folder / "JSRT")
    (jsrt_folder / "JSRT" / "JPCLN001.IMG").rename(jsrt_folder / "JSRT" / "other.IMG")
    with pytest.raises(DataError, match="has a mask of the same name"):
        jsrt.list_jsrt(jsrt_folder / "JSRT", jsrt_folder / "SCR")


# ---------------------------------------------------------------- lungs and heart, DICOM


def test_a_radiograph_without_one_of_its_masks_is_named(tmp_path: Path) -> None:
    saved(tmp_path / "made" / "images" / "m0.png", np.zeros((8, 8)))
    for organ in ORGANS[:2]:
        saved(tmp_path / "made" / "masks" / organ / "m0.png", np.zeros((8, 8)))
    saved(tmp_path / "made" / "masks" / "heart" / "m1.png", np.zeros((8, 8)))
    with pytest.raises(DataError, match="m0 has no mask of the heart"):
        data.list_lungs_heart(tmp_path)
    with pytest.raises(DataError, match=r"has neither index\.csv nor a folder with images/"):
        data.list_lungs_heart(tmp_path / "made")


@pytest.mark.parametrize("ratio", ["half", "1.2", "nan", "0"])
def test_a_cardiothoracic_ratio_that_is_none_is_named(tmp_path: Path, ratio: str) -> None:
    for folder in ("images", *(f"masks/{organ}" for organ in ORGANS)):
        for i in range(2):
            saved(tmp_path / "made" / folder / f"m{i}.png", np.zeros((8, 8)))
    header = ["source", "image", "cardiothoracic_ratio"]
    listed(tmp_path / "index.csv", [header, ["made", "m0", " "], ["made", "m1", ratio]])
    with pytest.raises(DataError, match=rf"index\.csv, line 3: the \w+ of m1 is '{ratio}', and it"):
        data.list_lungs_heart(tmp_path)
    listed(tmp_path / "index.csv", [header, ["made", "m0", " "], ["made", "m1", "0.5"]])
    assert [one.cardiothoracic_ratio for one in data.list_lungs_heart(tmp_path)] == [None, 0.5]


@pytest.fixture
def dicom(tmp_path: Path) -> Path:
    """Two radiographs: one named in the list by its file, one by its SOP Instance UID."""
    (tmp_path / "files").mkdir()
    rows = [["image", "labels", "view"]]
    for i, view in enumerate(("PA", "AP")):
        cells = np.arange(40 * 32, dtype=np.uint16).reshape(40, 32) * 3
        ds = pictures.data_set(cells, PatientID="CANARY1", ViewPosition=view)
        pictures.saved(tmp_path / "files", ds, f"IM{i}")
        rows.append([f"IM{i}" if i == 0 else ds.SOPInstanceUID, "Mass", ""])
    listed(tmp_path / "labels.csv", rows)
    return tmp_path


def test_a_folder_of_dicom_is_matched_by_name_or_uid(dicom: Path) -> None:
    found = dicom_folder.read_dicom_folder(dicom / "files", dicom / "labels.csv")
    assert [(p.path.name, p.patient, p.view) for p in found] == [
        ("IM0", "CANARY1", "PA"),
        ("IM1", "CANARY1", "AP"),
    ]
    pixels = data.read_picture(found[0].path)
    assert pixels.shape == (40, 32) and (pixels.min(), pixels.max()) == (0, 255)
    assert data.read_picture(found[0].path, 4).shape == (4, 4)


def test_a_radiograph_that_is_not_there_or_is_none_is_named(dicom: Path) -> None:
    listed(dicom / "more.csv", [["image", "labels"], ["IM0", "Mass"], ["IM9", "Mass"]])
    with pytest.raises(DataError, match=r"1 of 2 radiographs are not in .*, IM9 the first"):
        dicom_folder.read_dicom_folder(dicom / "files", dicom / "more.csv")
    (dicom / "files" / "IM0").write_bytes(b"no DICOM")
    with pytest.raises(DataError, match="IM0 cannot be used"):
        data.read_picture(dicom / "files" / "IM0")
    with pytest.raises(DataError, match="is not a folder: name the one"):
        dicom_folder.read_dicom_folder(dicom / "gone", dicom / "labels.csv")
