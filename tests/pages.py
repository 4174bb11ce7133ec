"""Captures in every language, to be looked at: `python -m tests.pages` draws them.

The pages of one real chest, at full size and as thumbnails, go to build/pages; the German one of
what the shipped networks say goes to the docs as well.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import get_args

from PIL import Image

from prescreen.settings import Report
from tests.e2e import viewers

FOLDER = Path("build/pages")
THUMBNAIL = (256, 160)


def main() -> None:
    """Draw, and say where."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for language in get_args(Report.model_fields["language"].annotation):
        with tempfile.TemporaryDirectory() as work:
            page = Image.fromarray(viewers.screened(Path(work), language)["capture"].page)
        page.save(FOLDER / f"{language}.png")
        page.resize(THUMBNAIL, Image.Resampling.LANCZOS).save(FOLDER / f"{language}-small.png")
        if language == "de":
            small = page.resize((1120, 700), Image.Resampling.LANCZOS)
            small.save(viewers.DOCS / "capture-de.png", optimize=True)
        print(FOLDER / f"{language}.png")


if __name__ == "__main__":
    main()
