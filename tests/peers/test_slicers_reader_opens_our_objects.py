"""dcmqi, with which 3D Slicer reads segmentations and measurements, opens what we write."""

from __future__ import annotations

import gzip
import json
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pydicom

from tests import results
from tests.peers.made import every_kind


def _dcmqi(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    program = Path(sysconfig.get_path("scripts")) / tool
    return subprocess.run(
        [str(program), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def _facing() -> pydicom.Dataset:
    """A chest that states the size of its pixels and which way it faces."""
    source = results.chest()
    source.ImagerPixelSpacing, source.PatientOrientation = [0.2, 0.2], ["L", "F"]
    return source


def _volume(path: Path) -> tuple[str, npt.NDArray[np.int16]]:
    """Header and voxels of an NRRD file."""
    head, _, content = path.read_bytes().partition(b"\n\n")
    return head.decode("ascii"), np.frombuffer(gzip.decompress(content), "<i2")


def test_a_segmentation_becomes_a_volume_for_each_organ(tmp_path: Path) -> None:
    path = tmp_path / "segmentation.dcm"
    path.write_bytes(every_kind(_facing())["segmentation"])
    done = _dcmqi(
        *("segimage2itkimage", "--inputDICOM", str(path)),
        *("--outputDirectory", str(tmp_path), "--outputType", "nrrd"),
    )
    assert done.returncode == 0, done.stderr
    for place, mask in enumerate(results.anatomy().masks, start=1):
        head, voxels = _volume(tmp_path / f"{place}.nrrd")
        assert "(0.2" in head and ",0,0) (0,0,-0.2" in head, "rows run left, columns to the feet"
        assert abs((voxels > 0).mean() - mask.mean()) < 0.002


def test_a_segmentation_without_a_plane_is_refused_by_it(tmp_path: Path) -> None:
    """Why the plane is there; the chest as it is states no size of its pixels."""
    path = tmp_path / "segmentation.dcm"
    path.write_bytes(every_kind(results.chest())["segmentation"])
    done = _dcmqi(
        *("segimage2itkimage", "--inputDICOM", str(path)),
        *("--outputDirectory", str(tmp_path), "--outputType", "nrrd"),
    )
    assert "Plane Orientation (Patient) is missing" in done.stdout + done.stderr


def test_regions_are_read_as_tracked_measurements(tmp_path: Path) -> None:
    path, told = tmp_path / "regions.dcm", tmp_path / "regions.json"
    path.write_bytes(every_kind(results.chest())["regions sr"])
    done = _dcmqi("tid1500reader", "--inputDICOM", str(path), "--outputMetadata", str(told))
    assert done.returncode == 0, done.stderr
    groups = json.loads(told.read_text())["Measurements"]
    subjects = {group["TrackingIdentifier"].rpartition(" ")[0] for group in groups}
    assert {"Left lung", "Right lung", "Heart"} <= subjects
