"""NIH ChestX-ray14 (Wang et al., CVPR 2017): its lists and layouts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prescreen.study import LABELS
from train.pictures import DataError, read_rows


@dataclass(frozen=True)
class LabelledPicture:
    """One row of a ChestX-ray14 list: which file, whose, and the 14 labels as 0 or 1."""

    path: Path
    patient: str
    labels: tuple[int, ...]
    view: str
    official_split: str


def read_chestxray14(folder: Path) -> list[LabelledPicture]:
    """The flat layout: `labels.csv` beside `images/`. Pictures are not opened here."""
    columns = ("image", "labels", "patient", "view", "official_split")
    rows = read_rows(folder / "labels.csv", columns)
    return [_labelled(folder, row) for row in rows]


def _labelled(folder: Path, row: dict[str, str]) -> LabelledPicture:
    named = set(row["labels"].split("|"))
    unknown = named - set(LABELS) - {"No Finding"}
    if unknown:
        raise DataError(f"{folder / 'labels.csv'}: unknown label {sorted(unknown)[0]!r}")
    labels = tuple(int(label in named) for label in LABELS)
    path = folder / "images" / row["image"]
    return LabelledPicture(path, row["patient"], labels, row["view"], row["official_split"])
