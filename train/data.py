"""The data sets that the networks are trained on, under one name: readers, splits, errors."""

from __future__ import annotations

from train.chestxray14 import LabelledPicture, read_chestxray14, read_labels
from train.masks import (
    MaskedFile,
    MaskedPicture,
    list_lungs_heart,
    picture_path,
    read_lungs_heart,
)
from train.pictures import (
    DataError,
    Picture,
    data_dir,
    made_ready,
    read_picture,
    read_rows,
    runs_dir,
)
from train.splits import folds, share_of, split_by_patient, stratified_split

__all__ = [
    "DataError",
    "LabelledPicture",
    "MaskedFile",
    "MaskedPicture",
    "Picture",
    "data_dir",
    "folds",
    "list_lungs_heart",
    "made_ready",
    "picture_path",
    "read_chestxray14",
    "read_labels",
    "read_lungs_heart",
    "read_picture",
    "read_rows",
    "runs_dir",
    "share_of",
    "split_by_patient",
    "stratified_split",
]
