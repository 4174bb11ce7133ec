"""The graphic layer of a presentation state in DICOMscope: `python -m tests.e2e.layer` pictures it.

DICOMscope is OFFIS's viewer of presentation states. It is a window that wants clicks, so it is no
part of the tests: this starts it on a screen of its own (Xvfb), opens the state of the chest of the
other pictures, and keeps what is seen in docs/viewer-layer.png, for people to look at. It needs
`apt-get install dicomscope xvfb xdotool imagemagick`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from tests import results
from tests.e2e.viewers import DOCS, screened

JAR = Path("/usr/share/java/DICOMscope.jar")
CONFIGURATION = Path("/etc/dcmtk/DICOMscope.cfg")
DISPLAY = ":77"
#: Places on its window of 1400 by 1000: the root of the tree of studies, the series of the state
#: once study and first series are open, and the state below it.
ROOT, SERIES, STATE = (90, 71), (220, 144), (240, 161)


@contextmanager
def running(*command: str, folder: Path) -> Iterator[None]:
    """A program until the block ends."""
    environment = {**os.environ, "DISPLAY": DISPLAY}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(20)


def on_the_screen(*command: str) -> bool:
    """Run a tool of the screen; whether it did what it was to do."""
    environment = {**os.environ, "DISPLAY": DISPLAY}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    time.sleep(1)
    return done.returncode == 0


def archive(folder: Path) -> None:
    """The radiograph and its state where DICOMscope looks for studies."""
    studies = folder / "studies"
    studies.mkdir()
    shutil.copy(results.chest_path(), studies / "radiograph.dcm")
    (studies / "state.dcm").write_bytes(screened(folder)["presentation"].part10)
    files = [str(studies / name) for name in ("radiograph.dcm", "state.dcm")]
    subprocess.run(["dcmqridx", str(studies), *files], check=True, timeout=60)
    text = CONFIGURATION.read_text(errors="replace")
    text = text.replace("/var/lib/dcmtk/db/READWRITE", str(studies))
    (folder / "DICOMscope.cfg").write_text(text)
    (folder / "log").mkdir()


def open_state() -> None:
    """Study, first series, second series and its state, as a person opens them."""
    while not on_the_screen("xdotool", "search", "--name", "DICOMscope"):
        pass
    time.sleep(10)
    on_the_screen("xdotool", "mousemove", *map(str, ROOT), "click", "1")
    for key in ("Right", "Down", "Right", "Down", "Right"):
        on_the_screen("xdotool", "key", key)
    on_the_screen("xdotool", "mousemove", *map(str, SERIES), "click", "1")
    on_the_screen("xdotool", "key", "Right")
    on_the_screen("xdotool", "mousemove", *map(str, STATE))
    on_the_screen("xdotool", "click", "--repeat", "2", "--delay", "120", "1")
    time.sleep(8)


def main() -> None:
    """Picture the layer."""
    screen = ("Xvfb", DISPLAY, "-noreset", "-screen", "0", "1400x1000x24")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archive(folder)
        viewer = ("java", "-Xmx1g", "-jar", str(JAR))
        with running(*screen, folder=folder):
            time.sleep(3)
            with running(*viewer, folder=folder):
                open_state()
                on_the_screen("import", "-window", "root", str(folder / "window.png"))
        picture = Image.open(folder / "window.png").convert("RGB")
        picture = picture.resize((1120, 800), Image.Resampling.LANCZOS)
        picture.quantize(160).save(DOCS / "viewer-layer.png", optimize=True)


if __name__ == "__main__":
    main()
