"""Files through the very `Screener` that the node uses: what the weights say, labels unread."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from prescreen.nets.densenet import Seen
from prescreen.nets.screener import BATCH, Screener
from prescreen.study import LABELS, Anatomy, FloatArray, Header, Radiograph, Screening
from train.chestxray14 import LabelledPicture, whose
from train.figures import Numbers
from train.pictures import SUFFIXES, DataError, read_picture, read_rows, stem_of, told

Screen = Callable[[Sequence[Radiograph]], list[Screening]]
#: Marks the columns of the unmasked head in a file of probabilities.
UNMASKED = "_unmasked"


def radiograph_of(path: Path) -> Radiograph:
    """A file as the node would see it: a picture file as 0…1, air dark, with no header worth the
    name; any other through the node's own reading of DICOM.

    Raises DataError where it cannot be read.
    """
    if path.suffix.lower() not in SUFFIXES:
        from train.dicom_folder import read_radiograph  # pydicom only where it is needed

        return read_radiograph(path)
    pixels = read_picture(path).astype(np.float32) / 255.0
    header = Header("", path.stem, "", "")
    return Radiograph(header, pixels, (pixels.shape[0], pixels.shape[1]), None, "")


def completed(picture: LabelledPicture) -> LabelledPicture:
    """The row with patient and view where its list has not said: from the header or the name."""
    if picture.path.suffix.lower() not in SUFFIXES:
        from train.dicom_folder import with_header

        picture = with_header(picture)
    return whose(picture)


def located(stems: Sequence[str], files: Mapping[str, Path]) -> dict[str, Path]:
    """File of each of these names that there is one for: by stem, else by SOP Instance UID."""
    found = {stem: files[stem] for stem in stems if stem in files}
    others = [path for path in files.values() if path.suffix.lower() not in SUFFIXES]
    if len(found) < len(stems) and others:
        from train.dicom_folder import by_uid

        uids = by_uid(others)
        found |= {stem: uids[stem] for stem in stems if stem not in found and stem in uids}
    return found


def screened(paths: Sequence[Path], screener: Screen) -> Iterator[tuple[int, Screening]]:
    """Index and screening of each of these files, in order; the next batch is read meanwhile.

    A file that cannot be read is named on standard error and left out. Two batches are in memory
    at a time.
    """
    yield from told(_screened(paths, screener), len(paths), "screened")


def _screened(paths: Sequence[Path], screener: Screen) -> Iterator[tuple[int, Screening]]:
    with ThreadPoolExecutor(min(BATCH, os.cpu_count() or 1)) as pool:
        waiting: list[tuple[int, list[Future[Radiograph]]]] = []
        for start in range(0, len(paths) + BATCH, BATCH):
            batch = paths[start : start + BATCH]
            waiting.append((start, [pool.submit(radiograph_of, path) for path in batch]))
            if start == 0:
                continue
            read = list(_read(*waiting.pop(0)))
            if read:
                answers = screener([radiograph for _, radiograph in read])
                yield from zip((index for index, _ in read), answers, strict=True)


def _read(start: int, batch: Sequence[Future[Radiograph]]) -> Iterator[tuple[int, Radiograph]]:
    for index, future in enumerate(batch, start=start):
        try:
            yield index, future.result()
        except DataError as error:
            print(f"left out: {error}", file=sys.stderr)


@dataclass(frozen=True)
class Traced(Screening):
    """A screening with the whole class activation maps, of which `attention` has the upper part.

    float32 (h, w) a label, from 0 at the map's lowest cell to 1 at its highest, as the paper's
    protocol for boxes has it (section 2.6).
    """

    activation: Mapping[str, FloatArray] = field(default_factory=dict)


class Tracer(Screener):
    """The node's screener; its answers, which are `Traced`, are the node's to the last bit."""

    def _screenings(
        self, anatomies: Sequence[Anatomy], seen: Seen, distances: FloatArray
    ) -> list[Screening]:
        maps = spread(self._net.activation_maps(seen.features)).cpu().numpy()
        said = super()._screenings(anatomies, seen, distances)
        return [
            Traced(
                **{part.name: getattr(one, part.name) for part in fields(one)},
                activation=self._evaluated(maps[i]),
            )
            for i, one in enumerate(said)
        ]


def spread(maps: Tensor) -> Tensor:
    """Maps (N, C, h, w) of any sign, each from 0 at its lowest cell to 1; an even one is 0."""
    lowest, highest = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    return (maps - lowest) / (highest - lowest).clamp_min(1e-12)


class Once:
    """A screener that need not look at a radiograph again: what it said of it is remembered.

    Known by SOP Instance UID, which of a picture file is its stem.
    """

    def __init__(self, screener: Screen) -> None:
        self._screener = screener
        self._said: dict[str, Screening] = {}

    def first(self, radiographs: Sequence[Radiograph]) -> list[Screening]:
        """Look, and remember the findings; the maps are for the caller alone."""
        answers = self._screener(radiographs)
        for radiograph, said in zip(radiographs, answers, strict=True):
            uid = radiograph.header.sop_instance_uid
            self._said[uid] = replace(said, attention={}, inside={})
        return answers

    def again(self, radiographs: Sequence[Radiograph]) -> list[Screening]:
        """Look at those alone that are not remembered."""
        uids = [radiograph.header.sop_instance_uid for radiograph in radiographs]
        new = [r for r, uid in zip(radiographs, uids, strict=True) if uid not in self._said]
        looked = iter(self._screener(new) if new else [])
        return [self._said[uid] if uid in self._said else next(looked) for uid in uids]


# ---------------------------------------------------------------- probabilities


@dataclass(frozen=True)
class Probabilities:
    """What both heads say of each radiograph, (n, 14) each; `stems` names the rows."""

    stems: tuple[str, ...]
    masked: Numbers
    unmasked: Numbers


def probabilities_of(files: Mapping[str, Path], screener: Screen) -> Probabilities:
    """The probabilities of these files, by name; those that cannot be read have no row."""
    names, stems, rows = list(files), [], []
    for index, screening in screened(list(files.values()), screener):
        stems.append(names[index])
        found = screening.findings
        rows.append([[f.probability for f in found], [f.probability_unmasked for f in found]])
    both = np.array(rows, dtype=np.float64).reshape(len(rows), 2, len(LABELS))
    return Probabilities(tuple(stems), both[:, 0], both[:, 1])


def write_probabilities(path: Path, said: Probabilities) -> None:
    """A CSV: `image`, the 14 labels of the masked head, and again of the unmasked one."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["image", *LABELS, *(label + UNMASKED for label in LABELS)])
        for stem, masked, unmasked in zip(said.stems, said.masked, said.unmasked, strict=True):
            writer.writerow([stem, *(f"{p:.8f}" for p in (*masked, *unmasked))])


def read_probabilities(path: Path) -> Probabilities:
    """What `write_probabilities` wrote, or a CSV of another network with the 14 labels alone."""
    rows = read_rows(path, ("image", *LABELS))
    has_both = all(label + UNMASKED in rows[0] for label in LABELS)
    try:
        masked = [[float(row[label]) for label in LABELS] for row in rows]
        tail = UNMASKED if has_both else ""
        unmasked = [[float(row[label + tail]) for label in LABELS] for row in rows]
    except ValueError as error:
        raise DataError(f"{path}: a probability is not a number: {error}") from error
    stems = tuple(stem_of(row["image"]) for row in rows)
    return Probabilities(stems, np.array(masked), np.array(unmasked))
