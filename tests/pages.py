"""Captures in every language, to be looked at: `python -m tests.pages` draws them.

The pages of one real chest, at full size and as thumbnails, go to build/pages: what the shipped
networks say, and where they looked, for which a proof is made up. The German one of what they say
goes to the docs as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import get_args

from PIL import Image

from prescreen import node
from prescreen.nets import weights
from prescreen.nets.weights import PointingGame
from prescreen.settings import Report
from prescreen.study import LABELS, Pointing
from tests.e2e import viewers
from train.calibrate import write

FOLDER = Path("build/pages")
THUMBNAIL = (256, 160)


def with_a_proof(folder: Path, *labels: str) -> Path:
    """The shipped weights with a pointing game that was never played, so that maps are shown."""
    shipped = node.shipped_weights()
    manifest = weights.load(shipped)["findings"].manifest
    made_up = Pointing(0.62, 0.53, 0.25, 0.24, 90, 80, held_out=True)
    game = PointingGame(manifest.sha256, "made up", dict.fromkeys(labels or LABELS, made_up))
    write(shipped, folder, replace(manifest, pointing=game))
    return folder


def pages(language: str, work: Path) -> Iterator[tuple[str, Image.Image]]:
    """The page of a result, and the first of where the network looked."""
    proven = with_a_proof(work / "weights", "Effusion", "Pneumothorax", "Cardiomegaly")
    made = viewers.everything(work, proven, language=language, attention="where_proven")
    captures = [item.page for item in made if item.described.kind == "capture"]
    for name, page in zip(("", "-looked"), captures, strict=False):
        yield language + name, Image.fromarray(page)


def main() -> None:
    """Draw, and say where."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for language in get_args(Report.model_fields["language"].annotation):
        with tempfile.TemporaryDirectory() as work:
            for name, page in pages(language, Path(work)):
                page.save(FOLDER / f"{name}.png")
                page.resize(THUMBNAIL, Image.Resampling.LANCZOS).save(FOLDER / f"{name}-small.png")
                if name == "de":
                    small = page.resize((1120, 700), Image.Resampling.LANCZOS)
                    small.save(viewers.DOCS / "capture-de.png", optimize=True)
                print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
