"""JSRT radiographs with the SCR masks, as they are distributed and as PNG, for those who have them.

JSRT (Shiraishi et al., AJR 2000): 247 PA films, `JPCLN001.IMG` … and `JPCNN001.IMG` …, 2048 x 2048
pixels of 0.175 mm, headless, 12 bits in big-endian words. The stored values rise with the optical
density of the film: air is high and is inverted here. SCR (van Ginneken et al., MIA 2006): `fold1`
and `fold2`, in each `masks/<organ>/*.gif`. SCR is for research and education only, may not be
passed on or used commercially: nothing that is shipped is trained on it.

    python -m train.jsrt --images JSRT --scr SCR --to $PRESCREEN_DATA/lungs_heart/jsrt

writes both in the layout of `masks`, where training and evaluation find them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from prescreen.study import ORGANS
from train.masks import MaskedFile, MaskedPicture
from train.pictures import DataError, Picture, files_by_stem, read_picture, told

SIDE = 2048
MAXIMUM = 4095
SOURCE = "jsrt"
_ORGAN_FOLDERS = {organ: organ.replace("_", " ") for organ in ORGANS}


def read_img(path: Path, size: int | None = None) -> Picture:
    """One `.IMG` file as uint8 (2048, 2048) or (size, size), air dark.

    Raises DataError where the file is not there or has another size or range.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} is missing or cannot be read: {error.strerror}") from error
    if len(raw) != SIDE * SIDE * 2:
        raise DataError(f"{path} has {len(raw)} bytes, a headless .IMG of JSRT has {SIDE**2 * 2}")
    density = np.frombuffer(raw, dtype=">u2").reshape(SIDE, SIDE)
    if int(density.max()) > MAXIMUM:
        raise DataError(f"{path} has values above {MAXIMUM}: these are not 12-bit big-endian words")
    grey = 255.0 - density.astype(np.float32) * (255.0 / MAXIMUM)
    picture = Image.fromarray(grey)
    if size is not None:
        picture = picture.resize((size, size), Image.Resampling.BOX)
    return np.asarray(picture).round().astype(np.uint8)


def read_jsrt(images: Path, scr: Path, size: int) -> list[MaskedPicture]:
    """The radiographs under `images` (`.IMG` or PNG) that have SCR masks under `scr`, (size, size).

    In order of name. Raises DataError where the two have nothing in common, or an organ is missing.
    """
    files = list_jsrt(images, scr)
    return [_read(one, size) for one in told(files, len(files), "read")]


def list_jsrt(images: Path, scr: Path) -> list[MaskedFile]:
    """Files of radiographs and masks, in order of name; nothing is opened."""
    pictures = files_by_stem(images)
    drawn = {organ: _drawn(scr, organ) for organ in ORGANS}
    names = sorted(set(pictures) & set(drawn[ORGANS[0]]))
    if not names:
        raise DataError(f"no radiograph in {images} has a mask of the same name in {scr}")
    for organ, masks in drawn.items():
        missing = [name for name in names if name not in masks]
        if missing:
            raise DataError(f"{scr}: {missing[0]} has no mask of the {_ORGAN_FOLDERS[organ]}")
    return [
        MaskedFile(SOURCE, name, pictures[name], tuple(drawn[organ][name] for organ in ORGANS))
        for name in names
    ]


def _drawn(scr: Path, organ: str) -> dict[str, Path]:
    """Masks of one organ by stem: `<organ>/*`, its words apart by a space or an underscore."""
    folders = [
        path
        for name in (organ, _ORGAN_FOLDERS[organ])
        for path in sorted(scr.rglob(name))
        if path.is_dir()
    ]
    if not folders:
        raise DataError(f"{scr} has no folder {_ORGAN_FOLDERS[organ]!r}: unpack fold1 and fold2")
    return {stem: path for folder in folders for stem, path in files_by_stem(folder).items()}


def _read(one: MaskedFile, size: int) -> MaskedPicture:
    if one.path.suffix.upper() == ".IMG":
        return one.masked(read_img(one.path, size), size)
    return one.masked(read_picture(one.path, size), size)


def write(pictures: Sequence[MaskedPicture], to: Path) -> None:
    """Pictures and masks as PNG in `<to>/{images,masks/<organ>}`."""
    for picture in pictures:
        drawn = zip(ORGANS, picture.masks, strict=True)
        planes = [(Path("images"), picture.pixels)]
        planes += [(Path("masks", o), mask.astype(np.uint8) * 255) for o, mask in drawn]
        for folder, plane in planes:
            (to / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(plane).save(to / folder / f"{picture.name}.png")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the data set in the layout that training reads."""
    parser = argparse.ArgumentParser(
        "python -m train.jsrt", None, __doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, required=True, help="folder of .IMG or PNG")
    parser.add_argument("--scr", type=Path, required=True, help="folder of the SCR masks")
    parser.add_argument("--to", type=Path, required=True, help="folder of the new source")
    parser.add_argument("--size", type=int, default=512, help="side in pixels")
    chosen = parser.parse_args(arguments)
    try:
        pictures = read_jsrt(chosen.images, chosen.scr, chosen.size)
        write(pictures, chosen.to)
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{len(pictures)} radiographs with masks in {chosen.to}")


if __name__ == "__main__":
    main()
