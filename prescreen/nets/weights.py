"""Weights and their manifests: checked before anything is loaded, written by one function.

A set of weights is three files beside each other: `<network>.safetensors` (never a pickle; float16
where that loses nothing), `<network>.json` (the manifest) and `<network>.md` (the model card, for
people). No torch here, so that a process that only reports can read what the manifests state.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as read_safetensors
from safetensors.numpy import save as to_safetensors

from prescreen.errors import WeightsError
from prescreen.nets.manifest import FORMAT as FORMAT
from prescreen.nets.manifest import NETWORKS as NETWORKS
from prescreen.nets.manifest import NO_THRESHOLD as NO_THRESHOLD
from prescreen.nets.manifest import NOT_IN_WEIGHTS as NOT_IN_WEIGHTS
from prescreen.nets.manifest import REINSTALL as REINSTALL
from prescreen.nets.manifest import STATISTICS as STATISTICS
from prescreen.nets.manifest import Calibration as Calibration
from prescreen.nets.manifest import FeatureStatistics as FeatureStatistics
from prescreen.nets.manifest import Manifest as Manifest
from prescreen.nets.manifest import Metric as Metric
from prescreen.nets.manifest import PointingGame as PointingGame
from prescreen.nets.manifest import Release as Release
from prescreen.nets.manifest import Source as Source
from prescreen.nets.manifest import bytes_of, check_pointing
from prescreen.nets.manifest import read_manifest as read_manifest
from prescreen.study import (
    LABELS,
    RELEASE_AUROC,
    RELEASE_POSITIVES,
    LabelFigures,
    Model,
)

Array = npt.NDArray[Any]
Storage = Literal["float16", "float32"]


@dataclass(frozen=True)
class Weights:
    """One network's checked manifest and tensors (name to numpy array, as stored)."""

    manifest: Manifest
    tensors: Mapping[str, Array]


# ---------------------------------------------------------------- writing


def write_manifest(
    folder: Path,
    manifest: Manifest,
    tensors: Mapping[str, Array],
    storage: Storage = "float16",
) -> Manifest:
    """Write `<network>.safetensors` and `<network>.json`; the manifest as written comes back.

    Floating-point tensors are stored as `storage`; float16 is for weights whose AUROCs it was
    seen to leave alone, and for any tensor that it holds as it is. What the manifest says of
    release bar, feature statistics and digest is computed here. Each file appears whole or not at
    all; the manifest, which names the digest, comes last. Raises WeightsError for a pointing game
    that was played with other weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = to_safetensors(_as_stored(tensors, storage))
    written = replace(
        manifest,
        feature_statistics=_statistics(manifest, tensors),
        release=_release(manifest),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    _require_own_pointing(written)
    raw = {"format": FORMAT, **asdict(written)}
    _replace(folder / f"{manifest.network}.safetensors", content)
    text = json.dumps(raw, indent=2, ensure_ascii=False, allow_nan=False)
    _replace(folder / f"{manifest.network}.json", text.encode() + b"\n")
    return written


def _require_own_pointing(manifest: Manifest) -> None:
    """What was shown of the maps of other weights is not shown of these."""
    if manifest.pointing is not None:
        try:
            check_pointing(manifest.pointing, manifest, manifest.sha256)
        except ValueError as error:
            raise WeightsError(f"{manifest.network}.json is not written: {error}") from error


def _as_stored(tensors: Mapping[str, Array], storage: Storage) -> dict[str, Array]:
    stored = {}
    for name, tensor in tensors.items():
        floating = tensor.dtype.kind == "f"
        with np.errstate(over="ignore"):  # looked for below, by name
            short = tensor.astype(np.float16) if floating else tensor
            fits = storage == "float16" or np.array_equal(short, tensor)
            stored[name] = np.ascontiguousarray(short if fits else tensor.astype(storage))
        if floating and not np.isfinite(stored[name]).all():
            raise WeightsError(f"tensor {name} is not finite in {storage}; it is not written")
    return stored


def _statistics(manifest: Manifest, tensors: Mapping[str, Array]) -> FeatureStatistics | None:
    mean = tensors.get(f"{STATISTICS}mean")
    if mean is None:
        return None
    given = manifest.feature_statistics
    of = given.of if given else f"means of the deeper features of {manifest.architecture}"
    return FeatureStatistics(of, len(mean), given.radiographs if given else None)


def _release(manifest: Manifest) -> dict[str, Release]:
    """The release bar at its default terms, for every label that the weights answer for."""
    if manifest.network != "findings":
        return {}
    told = {label: _figures(manifest, label) for label in manifest.evaluated}
    return {
        label: Release(
            RELEASE_AUROC, RELEASE_POSITIVES, {v: figures.reaches(v) for v in figures.by_view}
        )
        for label, figures in told.items()
    }


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


# ---------------------------------------------------------------- reading


def load(folder: Path) -> dict[str, Weights]:
    """Both networks' weights, by the names of NETWORKS.

    Raises WeightsError, naming the file and the way out, where a file is missing, a manifest is
    malformed, the digest differs or the labels are not those of this version. The digest is
    compared before the tensors are read. Shapes are checked by `fitting` against a network.
    """
    return {network: load_one(folder, network) for network in NETWORKS}


def load_one(folder: Path, network: str) -> Weights:
    """The weights of one of NETWORKS. Raises WeightsError as `load` does."""
    manifest, content = _checked(folder, network)
    path = folder / f"{network}.safetensors"
    try:
        return Weights(manifest, read_safetensors(content))
    except (SafetensorError, ValueError, KeyError) as error:
        raise WeightsError(f"{path} is not a safetensors file ({error}). {REINSTALL}") from error


def describe(folder: Path) -> Model:
    """What the manifests in `folder` state, with the digests checked; no tensor is read.

    Raises WeightsError as `load` does.
    """
    return model_of({network: _checked(folder, network)[0] for network in NETWORKS})


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each manifest: what changes with weights, thresholds or calibration."""
    return {
        network: hashlib.sha256(bytes_of(folder / f"{network}.json")).hexdigest()
        for network in NETWORKS
    }


def model_of(manifests: Mapping[str, Manifest]) -> Model:
    """The two networks together, as results carry them."""
    findings = manifests["findings"]
    return Model(
        lungs_heart=manifests["lungs_heart"].identification,
        findings=findings.identification,
        figures=tuple(_figures(findings, label) for label in LABELS),
        threshold_rule=findings.threshold_rule,
        calibrated=all(label in findings.calibration for label in findings.evaluated),
        feature_distance_limit=manifests["lungs_heart"].distance_limit,
    )


def _figures(manifest: Manifest, label: str) -> LabelFigures:
    metric = manifest.metrics.get(label, Metric())
    game = manifest.pointing
    return LabelFigures(
        label=label,
        threshold=None if label in manifest.not_evaluated else manifest.thresholds[label],
        auroc=metric.auroc,
        auroc_low=metric.low,
        positives=metric.positives,
        sensitivity=metric.sensitivity,
        specificity=metric.specificity,
        by_view=metric.by_view,
        pointing=None if game is None else game.findings.get(label),
    )


def _checked(folder: Path, network: str) -> tuple[Manifest, bytes]:
    path = folder / f"{network}.json"
    manifest = read_manifest(path)
    if manifest.network != network:
        raise WeightsError(f"{path}: this is the manifest of {manifest.network!r}. {REINSTALL}")
    content = bytes_of(folder / f"{network}.safetensors")
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.sha256:
        raise WeightsError(
            f"{folder / network}.safetensors: its sha256 is {digest[:12]}…, the manifest says "
            f"{manifest.sha256[:12]}…; the file is damaged or not this manifest's. {REINSTALL}"
        )
    return manifest, content


def fitting(
    weights: Weights, shapes: Mapping[str, tuple[int, ...]], prefix: str = ""
) -> dict[str, Array]:
    """The tensors named in `shapes` (after `prefix`), as float32 where floating.

    Raises WeightsError where one is missing, has another shape or is not finite.
    """
    found: dict[str, Array] = {}
    file = f"{weights.manifest.network}.safetensors"
    for name, shape in shapes.items():
        tensor = weights.tensors.get(prefix + name)
        if tensor is None:
            raise WeightsError(f"{file}: the tensor {prefix + name} is missing. {REINSTALL}")
        if tensor.shape != shape:
            raise WeightsError(
                f"{file}: {prefix + name} has shape {tensor.shape}, expected {shape}. {REINSTALL}"
            )
        floating = tensor.dtype.kind == "f"
        found[name] = tensor.astype(np.float32) if floating else tensor
        if floating and not np.isfinite(tensor).all():
            raise WeightsError(f"{file}: {prefix + name} is not finite. {REINSTALL}")
    return found
