"""Weights that are missing, damaged or of others are refused in words before they are loaded."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prescreen.audience import reaches_bar
from prescreen.errors import WeightsError
from prescreen.nets import weights
from prescreen.nets.weights import Manifest, Metric, write_manifest
from prescreen.settings import Report
from prescreen.study import LABELS, ORGANS, Pointing, ViewFigures


def manifests() -> list[Manifest]:
    size: dict[str, Any] = {"version": "1", "input_size": 32, "normalisation": "none"}
    findings = Manifest(
        network="findings",
        architecture="densenet121",
        labels=LABELS,
        thresholds=dict.fromkeys(LABELS, 0.25),
        threshold_rule="youden",
        metrics={"Hernia": Metric(0.9, 0.8, 0.95, 7, by_view={"PA": ViewFigures(0.9, 0.85, 5)})},
        **size,
    )
    organs = Manifest(
        network="lungs_heart", architecture="unet", labels=ORGANS, distance_limit=1.5, **size
    )
    return [findings, organs]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for manifest in manifests():
        write_manifest(tmp_path, manifest, {"w": np.ones((2, 3), dtype=np.float32)})
    return tmp_path


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    raw = json.loads(path.read_bytes())
    edit(raw)
    path.write_text(json.dumps(raw), encoding="utf-8")


def test_a_calibration_is_read_back_or_refused_in_words(folder: Path) -> None:
    def calibrated(a: float) -> Callable[[dict[str, Any]], object]:
        return lambda m: m.update(calibration={"Mass": {"kind": "platt", "a": a, "b": 0.5}})

    change(folder / "findings.json", calibrated(1.5))
    found = weights.load(folder)["findings"].manifest.calibration
    assert found == {"Mass": weights.Calibration("platt", 1.5, 0.5)}
    change(folder / "findings.json", calibrated(-1.0))
    with pytest.raises(WeightsError, match="a calibration needs finite a and b, and a above 0"):
        weights.load(folder)


GAME: dict[str, Any] = {
    "hit_rate": 0.6,
    "low": 0.5,
    "fixed_point": 0.25,
    "fixed_point_of_all": 0.2,
    "boxes": 90,
    "patients": 80,
    "held_out": True,
}


def _states(**changed: Any) -> Callable[[dict[str, Any]], object]:
    """A pointing game of the very weights, with changes to what it says of one finding."""

    def edit(raw: dict[str, Any]) -> None:
        told = {key: value for key, value in (GAME | changed).items() if value is not None}
        game = {"weights_sha256": raw["sha256"], "radiographs": "some", "findings": {"Mass": told}}
        raw["pointing"] = game

    return edit


def test_a_pointing_game_is_read_back_and_weights_without_one_are_as_they_were(
    folder: Path,
) -> None:
    assert weights.describe(folder).pointing_proven == ()
    change(folder / "findings.json", lambda raw: raw.pop("pointing"))
    assert weights.describe(folder).figures_of("Mass").pointing is None
    change(folder / "findings.json", _states())
    model = weights.describe(folder)
    assert model.figures_of("Mass").pointing == Pointing(**GAME)
    assert model.pointing_proven == ("Mass",)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_states(low=None), "missing 1 required positional argument: 'low'"),
        (_states(hit_rate=1.5), "pointing game of Mass: its rates are not shares between 0 and 1"),
        (_states(fixed_point=float("nan")), "its rates are not shares between 0 and 1"),
        (_states(low="0.5"), "its rates are not shares between 0 and 1"),
        (_states(low=0.7), "the lower bound is above the hit rate"),
        (_states(boxes=0, patients=0), "it needs boxes of at least one patient each"),
        (_states(patients=91), "it needs boxes of at least one patient each"),
        (_states(held_out="yes"), "held_out is neither true nor false"),
        (_states(surprise=1), "unexpected keyword argument 'surprise'"),
        (lambda raw: raw.update(pointing={}), "the key 'findings' is missing"),
        (lambda raw: raw.update(pointing=[]), "malformed manifest"),
        (
            lambda raw: (_states()(raw), raw["pointing"].update(weights_sha256="ab" * 32)),
            r"was played with other weights \(abababababab…\) than these",
        ),
        (
            lambda raw: (_states()(raw), raw.update(not_evaluated={"Mass": "not_in_weights"})),
            "the pointing game names Mass, of which no attention map is made",
        ),
    ],
)
def test_a_pointing_game_that_cannot_be_meant_is_refused_in_words(
    folder: Path, edit: Callable[[dict[str, Any]], object], words: str
) -> None:
    change(folder / "findings.json", edit)
    with pytest.raises(WeightsError, match=words):
        weights.describe(folder)


def test_what_was_shown_of_other_weights_is_not_written(tmp_path: Path) -> None:
    game = weights.PointingGame("ab" * 32, "some", {"Mass": Pointing(**GAME)})
    stated = replace(manifests()[0], pointing=game)
    with pytest.raises(WeightsError, match=r"findings\.json is not written: .* other weights"):
        write_manifest(tmp_path, stated, {"w": np.ones(3)})
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_read_back(folder: Path) -> None:
    loaded = weights.load(folder)
    assert loaded["findings"].manifest.metrics["Hernia"].low == 0.8
    assert loaded["findings"].tensors["w"].dtype == np.float16
    model = weights.describe(folder)
    assert model.feature_distance_limit == 1.5
    assert model.threshold_rule == "youden" and not model.calibrated
    assert model.figures_of("Hernia").auroc_low == 0.8
    assert model.figures_of("Hernia").by_view == {"PA": ViewFigures(0.9, 0.85, 5)}
    assert model.figures_of("Mass").auroc is None


def test_figures_of_a_view_let_a_finding_reach_the_bar(folder: Path) -> None:
    model, bar = weights.describe(folder), Report(release_auroc=0.7, release_positives=5)
    assert reaches_bar(model, "Hernia", "PA", bar)
    assert not reaches_bar(model, "Hernia", "AP", bar)
    assert not reaches_bar(model, "Mass", "PA", bar)


def test_the_identity_changes_with_the_weights(tmp_path: Path) -> None:
    manifest = manifests()[0]
    uids = {
        write_manifest(tmp_path, manifest, {"w": np.full(2, value)}).device_uid
        for value in (1.0, 2.0, 1.0)
    }
    assert len(uids) == 2
    assert all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)


@pytest.mark.parametrize("name", ["findings.json", "lungs_heart.safetensors"])
def test_a_missing_file_is_named_with_the_way_out(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=rf"{name} is missing\. Reinstall the weights"):
        weights.load(folder)


def test_a_single_changed_bit_is_noticed(folder: Path) -> None:
    path = folder / "findings.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"findings\.safetensors: its sha256 is .* damaged"):
        weights.describe(folder)


def test_the_digest_is_compared_before_the_tensors_are_read(folder: Path) -> None:
    (folder / "findings.safetensors").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(WeightsError, match="sha256"):
        weights.load(folder)


def test_a_file_that_is_no_safetensors_is_refused_even_with_its_digest(folder: Path) -> None:
    import hashlib

    content = b"\x80\x04pickled"
    (folder / "findings.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    change(folder / "findings.json", lambda raw: raw.update(sha256=digest))
    with pytest.raises(WeightsError, match="not a safetensors file"):
        weights.load(folder)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda raw: raw.pop("thresholds"), "the key 'thresholds' is missing"),
        (lambda raw: raw["thresholds"].pop("Mass"), "no threshold for Mass"),
        (
            lambda raw: raw["thresholds"].update(Mass=1.5),
            "threshold of Mass is not between 0 and 1",
        ),
        (lambda raw: raw.update(labels=["Mass"]), "its labels are not Atelectasis"),
        (lambda raw: raw.update(labels=raw["labels"][::-1]), "in this order"),
        (lambda raw: raw.update(format=2), "its format is 2, this version reads 1"),
        (lambda raw: raw.update(surprise=1), "unknown key 'surprise'"),
        (lambda raw: raw.update(thresholds=3), "malformed manifest"),
        (lambda raw: raw.update(network="lungs_heart", labels=list(ORGANS)), "is the manifest of"),
    ],
)
def test_a_malformed_manifest_says_what_is_wrong(
    folder: Path, edit: Callable[[dict[str, Any]], object], words: str
) -> None:
    change(folder / "findings.json", edit)
    with pytest.raises(WeightsError, match=words) as caught:
        weights.load(folder)
    assert "findings.json" in str(caught.value)
    assert "Reinstall the weights" in str(caught.value)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_a_manifest_that_is_no_json_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / "findings.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"findings\.json"):
        weights.load(folder)


def test_a_tensor_of_another_shape_is_named(folder: Path) -> None:
    loaded = weights.load(folder)["findings"]
    assert weights.fitting(loaded, {"w": (2, 3)})["w"].dtype == np.float32
    with pytest.raises(WeightsError, match=r"findings\.safetensors: w has shape \(2, 3\)"):
        weights.fitting(loaded, {"w": (3, 2)})
    with pytest.raises(WeightsError, match="the tensor v is missing"):
        weights.fitting(loaded, {"v": (1,)})


def test_what_float16_cannot_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="not finite in float16"):
        write_manifest(tmp_path, manifests()[0], {"w": np.array([1e9], dtype=np.float32)})
    assert not list(tmp_path.iterdir())


def test_describing_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from prescreen.nets import weights;"
        f"weights.describe(Path({str(folder)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_files_appear_whole_or_not_at_all(folder: Path) -> None:
    shutil.copy(folder / "findings.json", folder / "before.json")
    write_manifest(folder, manifests()[0], {"w": np.zeros((2, 3), dtype=np.float32)})
    assert sorted(p.suffix for p in folder.iterdir() if p.name.startswith(".")) == []
