"""A process that screens a study of many images and draws a page of each: what it takes at most.

`python -m tests.huge IMAGES HELD` prints the largest resident set in MiB. The decoder and its
pictures are real; the networks, which take as much for four images as for forty, are not asked.
"""

from __future__ import annotations

import datetime
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from prescreen import screening
from prescreen.dicom.image import Decoder
from prescreen.study import Instance, Radiograph, Screening
from tests import chests, results
from tests.pictures import data_set, saved

SIDE = 1_700  # 11 MiB decoded


def blind(radiographs: Sequence[Radiograph]) -> list[Screening]:
    """Networks that say the same of every radiograph."""
    anatomy, model = chests.anatomy(), results.model()
    return [Screening(anatomy, results.BUSY, 0.5, model) for _ in radiographs]


def instance(number: int, path: Path) -> Instance:
    """A file as the node knows it."""
    return Instance(
        instance_id=number,
        study_instance_uid="2.25.1",
        series_instance_uid="2.25.2",
        sop_instance_uid=f"2.25.3{number}",
        sop_class_uid="",
        transfer_syntax_uid="",
        sha256="",
        size=0,
        path=path,
        calling_ae_title="",
        received_at=datetime.datetime.now(datetime.UTC),
    )


def main(images: int, held: int) -> None:
    """Screen so many images, look at each once more as a capture does, and tell what it took."""
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE)).astype(np.uint16)
    with tempfile.TemporaryDirectory() as folder, Decoder() as decoder:
        path = saved(Path(folder), data_set(ramp, BitsStored=12, Modality="CR"))
        study = [instance(number, path) for number in range(images)]
        answered = screening.screen(study, decoder, blind, scope=None, portion=2, held=held)
        for image in answered:
            picture = image.picture()
            assert picture is not None and picture.pixels.max() > 0, image.refused
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:3]))
