"""How the gate decides on pictures whose kind is known, when their tags all say chest PA.

    python -m train.gate_check --data ../shared/data --json gate.json
    python -m train.gate_check --folder limb=FOLDER --folder frontal=FOLDER

The decision is that of the node: gate.before, both networks, gate.after. A kind `frontal…` should
be screened, any other refused. A folder holds JPEG, PNG or DICOM files. Of ChestX-ray14 only those
are shown that nothing in frontal.npz was fitted to; its limits were set on the official train_val
part of them, and on nothing in the official test part.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from prescreen import gate
from prescreen.dicom.image import Decoder
from prescreen.errors import UnusableImage
from prescreen.nets.screener import Screener
from prescreen.study import FloatArray, Header, Radiograph
from train import data, frontal

BATCH = 8
SCREENED = "screened"
DICOM = ".dcm"

#: What lying tags say: a digital radiograph of the chest, PA, ready to be looked at.
LYING = Header(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
    sop_instance_uid="2.25.1",
    series_instance_uid="2.25.2",
    study_instance_uid="2.25.3",
    modality="DX",
    body_part_examined="CHEST",
    view_position="PA",
    image_type=("ORIGINAL", "PRIMARY"),
    presentation_intent_type="FOR PRESENTATION",
)


@dataclass(frozen=True)
class Decision:
    """What became of one picture; `distance` is the screener's, None where it was not asked."""

    kind: str
    path: str
    reason: str
    distance: float | None = None


def radiograph_of(pixels: FloatArray) -> Radiograph:
    """Pixels (rows, columns), 0…1, with tags that say chest PA."""
    rows, columns = pixels.shape
    header = replace(LYING, rows=rows, columns=columns)
    return Radiograph(header, pixels, (rows, columns), None, "")


def decide(pictures: list[tuple[str, Path, Radiograph]], screener: Screener) -> Iterator[Decision]:
    """The node's decision on each (kind, path, radiograph)."""
    asked = []
    for kind, path, radiograph in pictures:
        reason = gate.before(radiograph.header, radiograph)
        if reason is not None:
            yield Decision(kind, path.name, reason)
        else:
            asked.append((kind, path, radiograph))
    screenings = screener([radiograph for _, _, radiograph in asked])
    for (kind, path, radiograph), screening in zip(asked, screenings, strict=True):
        reason = gate.after(screening, radiograph)
        yield Decision(kind, path.name, reason or SCREENED, screening.feature_distance)


# ---------------------------------------------------------------- pictures


def known(folder: Path) -> Iterator[tuple[str, Path]]:
    """The kinds of the data sets under `folder` (those that are there)."""
    if (folder / "chestxray14").is_dir():
        for listed in data.read_chestxray14(folder / "chestxray14"):
            if listed.official_split == "test":
                yield "frontal, ChestX-ray14 official test", listed.path
            elif not frontal.is_fitted(listed.patient):
                yield "frontal, ChestX-ray14 not fitted", listed.path
    wingspan = sorted((folder / "lungs_heart" / "wingspan" / "images").glob("*.jpg"))
    yield from (("frontal, Wingspan not fitted", path) for path in wingspan[1::2])
    if (folder / "views").is_dir():
        for row in data.read_rows(folder / "views" / "index.csv", ("image", "kind")):
            yield f"{row['kind']}, views", folder / "views" / "images" / row["image"]


def read(path: Path, decoder: Decoder) -> Radiograph:
    """The picture with lying tags. Raises UnusableImage or DataError."""
    if path.suffix.lower() == DICOM:
        return replace(decoder.read(path), header=LYING)
    return radiograph_of(frontal.grey(path))


def decisions(
    listed: list[tuple[str, Path]], decoder: Decoder, screener: Screener
) -> Iterator[Decision]:
    for start in range(0, len(listed), BATCH):
        pictures = []
        for kind, path in listed[start : start + BATCH]:
            try:
                pictures.append((kind, path, read(path, decoder)))
            except UnusableImage as error:
                yield Decision(kind, path.name, error.reason)
        yield from decide(pictures, screener)


# ---------------------------------------------------------------- figures


def wilson(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a proportion (Wilson 1927)."""
    share, weight = count / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    return max(0.0, centre - half), min(1.0, centre + half)


class Figures(TypedDict):
    """Of one kind: how many, how many as they should be, with the interval, and the reasons."""

    total: int
    right: int
    share: float
    interval: tuple[float, float]
    reasons: dict[str, int]


def figures(found: list[Decision]) -> dict[str, Figures]:
    """Per kind of picture."""
    result: dict[str, Figures] = {}
    for kind in sorted({decision.kind for decision in found}):
        reasons = Counter(d.reason for d in found if d.kind == kind)
        total = reasons.total()
        kept = reasons[SCREENED]
        right = kept if kind.startswith("frontal") else total - kept
        result[kind] = {
            "total": total,
            "right": right,
            "share": right / total,
            "interval": wilson(right, total),
            "reasons": dict(reasons.most_common()),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=data.data_dir())
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--folder", action="append", default=[], metavar="KIND=FOLDER")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    listed = [] if arguments.folder else list(known(arguments.data))
    for kind, folder in (text.split("=", 1) for text in arguments.folder):
        listed += [(kind, path) for path in sorted(Path(folder).iterdir()) if path.is_file()]
    decoder = Decoder(workers=1, seconds=60, memory_mb=4096, max_megapixels=64)
    try:
        found = list(decisions(listed, decoder, Screener(arguments.weights)))
    finally:
        decoder.close()
    show(found)
    if arguments.json:
        record = {"kinds": figures(found), "decisions": [vars(d) for d in found]}
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


def show(found: list[Decision]) -> None:
    for kind, row in figures(found).items():
        low, high = row["interval"]
        share = f"{row['share']:.3f} ({low:.3f} to {high:.3f})"
        print(f"{kind:40} {row['right']:4} of {row['total']:4}  {share}")
        for reason, count in row["reasons"].items():
            print(f"{'':40} {count:4} {reason}")


if __name__ == "__main__":
    main()
