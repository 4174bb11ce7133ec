"""NIH ChestX-ray14 (Wang et al., CVPR 2017): labels, official lists, and its two layouts on disk.

As NIH ships it: `images_001 … images_012/images/*.png`, `Data_Entry_2017*.csv`,
`train_val_list.txt`, `test_list.txt`, `BBox_List_2017.csv` (read by `boxes`). Flat: `labels.csv`
beside `images/`. No picture is opened here, and none need fit in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prescreen.study import LABELS
from train.pictures import DataError, files_by_stem, read_names, read_rows, stem_of, told

TRAIN_VAL, TEST = "train_val", "test"
#: Radiographs of the official lists (paper, Table 1).
OFFICIAL_COUNTS = {TRAIN_VAL: 86_524, TEST: 25_596}
NO_FINDING = "No Finding"

_OFFICIAL_NAMES = {
    "image": "Image Index",
    "labels": "Finding Labels",
    "patient": "Patient ID",
    "view": "View Position",
}
_SYNONYMS = {"Infiltrate": "Infiltration", "": NO_FINDING}
_FLAT_COLUMNS = ("image", "labels", "patient", "view", "official_split")


@dataclass(frozen=True)
class LabelledPicture:
    """One row of a ChestX-ray14 list: which file, whose, and the 14 labels as 0 or 1.

    `official_split` is `train_val`, `test` or empty where nothing says.
    """

    path: Path
    patient: str
    labels: tuple[int, ...]
    view: str
    official_split: str


def read_chestxray14(folder: Path) -> list[LabelledPicture]:
    """The radiographs of either layout, in the order of the list.

    Raises DataError where lists are missing or malformed, where pictures that the official list
    names are not there, or where a patient is in both official lists.
    """
    entries = sorted(folder.glob("Data_Entry_2017*.csv"))
    if (folder / "labels.csv").is_file() or not entries:
        rows = read_labels(folder / "labels.csv", _FLAT_COLUMNS)
        assert_disjoint(folder / "labels.csv", rows)
        return [replace(row, path=folder / "images" / row.path) for row in rows]
    return _placed(read_labels(entries[-1], lists_needed=True), folder)


def _placed(rows: list[LabelledPicture], folder: Path) -> list[LabelledPicture]:
    found = files_by_stem(folder)
    missing = [row.path.name for row in rows if row.path.stem not in found]
    if missing:
        raise DataError(
            f"{folder}: {len(missing)} of {len(rows)} radiographs of the list are not there, "
            f"{missing[0]} the first: unpack all of images_001 … images_012"
        )
    return [replace(row, path=found[row.path.stem]) for row in told(rows, len(rows), "matched")]


# ---------------------------------------------------------------- labels


def label_of(name: str) -> str | None:
    """One of LABELS, NO_FINDING, or None for what is neither; spaces and synonyms understood."""
    name = name.strip()
    known = _SYNONYMS.get(name, name.replace(" ", "_"))
    if known == NO_FINDING.replace(" ", "_"):
        return NO_FINDING
    return known if known in LABELS or known == NO_FINDING else None


def listed_stems(path: Path) -> list[str]:
    """The names in a list of labels, without the labels: all an evaluation needs to begin with."""
    rows = read_rows(path, ())
    column = _column(path, rows, "image")
    return [stem_of(row[column]) for row in rows]


def stems_of_split(path: Path, split: str) -> set[str]:
    """The names that are of one official list, by the column `official_split` or by the two lists
    beside the file; no label is looked at.

    Raises DataError where neither is there, or no name is of that list.
    """
    rows = read_rows(path, ())
    column = _column(path, rows, "image")
    names = [row[column].strip() for row in rows]
    if "official_split" in rows[0]:
        splits = {n: row["official_split"].strip() for n, row in zip(names, rows, strict=True)}
    elif (lists := official_lists(path.parent)) is not None:
        splits = lists
    else:
        raise DataError(
            f"{path} does not say what is of {split}: it has no column official_split, and "
            "train_val_list.txt and test_list.txt are not beside it"
        )
    found = {stem_of(name) for name in names if splits.get(name) == split}
    if not found:
        raise DataError(f"{path}: none of the {len(names)} radiographs is of {split}")
    return found


def read_labels(
    path: Path, columns: tuple[str, ...] = (), lists_needed: bool = False
) -> list[LabelledPicture]:
    """A list of labels in the flat or the official form; `path` of each row is its name alone.

    Patient and view are empty where the list does not say: see `whose`. Where it has no split, the
    official lists beside it do, if they are there.
    """
    rows = read_rows(path, columns)
    for key in ("image", "labels"):
        _column(path, rows, key)
    official = official_lists(path.parent) if "official_split" not in rows[0] else None
    if lists_needed and official is None:
        read_names(path.parent / "train_val_list.txt")
        read_names(path.parent / "test_list.txt")
    pictures = [_labelled(path, row, official or {}) for row in rows]
    _refuse_doubles(path, pictures)
    if lists_needed:
        _refuse_unlisted(path, pictures)
        assert_disjoint(path, pictures)
    return pictures


def _column(path: Path, rows: list[dict[str, str]], key: str) -> str:
    for name in (key, _OFFICIAL_NAMES[key]):
        if name in rows[0]:
            return name
    raise DataError(f"{path}: the header lacks {key} (or {_OFFICIAL_NAMES[key]!r})")


def _labelled(path: Path, row: dict[str, str], official: dict[str, str]) -> LabelledPicture:
    def cell(key: str) -> str:
        return row.get(key, row.get(_OFFICIAL_NAMES.get(key, ""), "")).strip()

    name = cell("image")
    found = {text: label_of(text) for text in cell("labels").split("|")}
    unknown = [text for text, label in found.items() if label is None]
    if unknown:
        raise DataError(f"{path}: unknown label {unknown[0]!r} of {name}")
    labels = tuple(int(label in found.values()) for label in LABELS)
    split = row.get("official_split", official.get(name, "")).strip()
    return LabelledPicture(Path(name), cell("patient"), labels, cell("view"), split)


def whose(picture: LabelledPicture) -> LabelledPicture:
    """The row with a patient: the part of its name before `_`, as in the data set, if not said."""
    name = stem_of(picture.path.name).split("_")[0]
    return replace(picture, patient=picture.patient or name)


def _refuse_doubles(path: Path, pictures: Sequence[LabelledPicture]) -> None:
    seen: set[str] = set()
    for picture in pictures:
        stem = stem_of(picture.path.name)
        if stem in seen:
            raise DataError(f"{path}: {picture.path.name} is listed twice")
        seen.add(stem)


# ---------------------------------------------------------------- official lists


def official_lists(folder: Path) -> dict[str, str] | None:
    """Name to `train_val` or `test` from the two lists in `folder`; None where they are not there.

    Raises DataError where a radiograph is in both.
    """
    paths = {TRAIN_VAL: folder / "train_val_list.txt", TEST: folder / "test_list.txt"}
    if not all(path.is_file() for path in paths.values()):
        return None
    lists = {split: set(read_names(path)) for split, path in paths.items()}
    both = lists[TRAIN_VAL] & lists[TEST]
    if both:
        raise DataError(f"{folder}: {sorted(both)[0]} is in both official lists")
    return {name: split for split, names in lists.items() for name in names}


def _refuse_unlisted(path: Path, pictures: Sequence[LabelledPicture]) -> None:
    unlisted = [p.path.name for p in pictures if not p.official_split]
    if unlisted:
        raise DataError(
            f"{path}: {len(unlisted)} radiographs are in neither official list, {unlisted[0]} the "
            "first: the lists are not this file's"
        )


def assert_disjoint(path: Path, pictures: Sequence[LabelledPicture]) -> None:
    """Raises DataError where a patient has radiographs in both official lists."""
    patients = {
        split: {whose(p).patient for p in pictures if p.official_split == split}
        for split in (TRAIN_VAL, TEST)
    }
    shared = len(patients[TRAIN_VAL] & patients[TEST])
    if shared:
        raise DataError(
            f"{path}: {shared} patients are in both official lists, which must share none"
        )


def counts(pictures: Sequence[LabelledPicture]) -> dict[str, int]:
    """One column of the paper's Table 1: positives of each label, and its four totals."""
    positives = {k: sum(p.labels[i] for p in pictures) for i, k in enumerate(LABELS)}
    with_any = sum(any(p.labels) for p in pictures)
    return positives | {
        "Multi-label Totals": sum(positives.values()),
        "Finding": with_any,
        NO_FINDING: len(pictures) - with_any,
        "Totals": len(pictures),
    }
