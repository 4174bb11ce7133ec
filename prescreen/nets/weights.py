"""Weights and their manifests: checked before anything is loaded, written by one function.

A set of weights is three files beside each other: `<network>.safetensors` (never a pickle; float16
where that loses nothing), `<network>.json` (the manifest) and `<network>.md` (the model card, for
people). No torch here, so that a process that only reports can read what the manifests state.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load as read_safetensors
from safetensors.numpy import save as to_safetensors

from prescreen.errors import WeightsError
from prescreen.study import (
    LABELS,
    ORGANS,
    RELEASE_AUROC,
    RELEASE_POSITIVES,
    LabelFigures,
    Model,
    Network,
    ViewFigures,
)

Array = npt.NDArray[Any]
Storage = Literal["float16", "float32"]

#: The networks that a folder of weights must hold, with the outputs each must have.
NETWORKS: dict[str, tuple[str, ...]] = {"lungs_heart": ORGANS, "findings": LABELS}
FORMAT = 1
#: Where the statistics of typical radiographs lie among the tensors.
STATISTICS = "typical."
#: Why weights cannot answer for a label: their network never learned it, or nobody has said from
#: which number on it counts.
NOT_IN_WEIGHTS = "not_in_weights"
NO_THRESHOLD = "no_threshold"


@dataclass(frozen=True)
class Metric:
    """How good the weights are at one label, on patients they were not trained on.

    `low` and `high` bound the 95 % interval of the AUROC; sensitivity and specificity are at the
    threshold; `by_view` has the figures of PA and AP alone. For an organ, `dice` is its mean and
    the rest is None.
    """

    auroc: float | None = None
    low: float | None = None
    high: float | None = None
    positives: int = 0
    sensitivity: float | None = None
    specificity: float | None = None
    auroc_unmasked: float | None = None
    dice: float | None = None
    by_view: Mapping[str, ViewFigures] = field(default_factory=dict)

    @classmethod
    def parsed(cls, raw: Mapping[str, Any]) -> Metric:
        """From a manifest's JSON."""
        views = {view: ViewFigures(**told) for view, told in raw.get("by_view", {}).items()}
        return cls(**{**raw, "by_view": views})


@dataclass(frozen=True)
class Source:
    """Data or weights that went into a network."""

    name: str
    licence: str
    use: str
    count: int | None = None


@dataclass(frozen=True)
class FeatureStatistics:
    """What the feature distance is measured with: mean and root of the inverse covariance.

    The two are tensors of the same file (`typical.mean`, `typical.root`); `features` is how many
    numbers a radiograph is described by, `radiographs` how many they were fitted on, if known.
    """

    of: str
    features: int
    radiographs: int | None = None


@dataclass(frozen=True)
class Release:
    """Whether a finding reaches the release bar, pooled and in each view, at these terms.

    A view that does not reach it is not evaluated on its way to a live destination; the settings
    of the node may ask for more or less.
    """

    auroc: float
    positives: int
    views: Mapping[str, bool] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        return any(self.views.values())


@dataclass(frozen=True)
class Manifest:
    """What a set of weights is, what it may be relied on for, and how to tell that it is whole.

    `architecture` names the network that the tensors are for. `not_evaluated` maps labels that
    the weights cannot answer for to the reason; they need no threshold. `calibration` maps a
    label to (slope, intercept) on the logit; without it the probabilities are uncalibrated.
    `distance_limit` is the feature distance beyond which a radiograph is unlike those trained on.
    `release` and `sha256`, that of the safetensors file, are computed by `write_manifest`; the
    identity in `device_uid` follows from the latter.
    """

    network: str
    version: str
    architecture: str
    input_size: int
    normalisation: str
    labels: tuple[str, ...]
    preset: str = ""
    switches: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    threshold_rule: str = ""
    calibration: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    distance_limit: float | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    figures_from: str = ""
    sources: tuple[Source, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    source_commit: str = ""
    not_evaluated: Mapping[str, str] = field(default_factory=dict)
    feature_statistics: FeatureStatistics | None = None
    release: Mapping[str, Release] = field(default_factory=dict)
    sha256: str = ""

    @property
    def device_uid(self) -> str:
        """A UID that changes whenever the weights do (2.25 and a UUID made of their digest)."""
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, self.sha256).int}"

    @property
    def identification(self) -> Network:
        name = f"prescreen {self.network.replace('_', ' ')}"
        return Network(name, self.version, self.sha256, self.device_uid, self.preset)

    @property
    def evaluated(self) -> tuple[str, ...]:
        """The labels that the weights can answer for."""
        return tuple(label for label in self.labels if label not in self.not_evaluated)


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
    seen to leave alone. What the manifest says of release bar, feature statistics and digest is
    computed here. Each file appears whole or not at all; the manifest, which names the digest,
    comes last.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = to_safetensors(_as_stored(tensors, storage))
    written = replace(
        manifest,
        feature_statistics=_statistics(manifest, tensors),
        release=_release(manifest),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    raw = {"format": FORMAT, **asdict(written)}
    _replace(folder / f"{manifest.network}.safetensors", content)
    text = json.dumps(raw, indent=2, ensure_ascii=False, allow_nan=False)
    _replace(folder / f"{manifest.network}.json", text.encode() + b"\n")
    return written


def _as_stored(tensors: Mapping[str, Array], storage: Storage) -> dict[str, Array]:
    stored = {}
    for name, tensor in tensors.items():
        floating = tensor.dtype.kind == "f"
        with np.errstate(over="ignore"):  # looked for below, by name
            stored[name] = np.ascontiguousarray(tensor.astype(storage) if floating else tensor)
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
    return {network: _load_one(folder, network) for network in NETWORKS}


def _load_one(folder: Path, network: str) -> Weights:
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
    return LabelFigures(
        label=label,
        threshold=None if label in manifest.not_evaluated else manifest.thresholds[label],
        auroc=metric.auroc,
        auroc_low=metric.low,
        positives=metric.positives,
        sensitivity=metric.sensitivity,
        specificity=metric.specificity,
        by_view=metric.by_view,
    )


REINSTALL = "Reinstall the weights, or name another folder in the setting `weights_dir`."


def _checked(folder: Path, network: str) -> tuple[Manifest, bytes]:
    path = folder / f"{network}.json"
    manifest = read_manifest(path)
    if manifest.network != network:
        raise WeightsError(f"{path}: this is the manifest of {manifest.network!r}. {REINSTALL}")
    content = _bytes_of(folder / f"{network}.safetensors")
    digest = hashlib.sha256(content).hexdigest()
    if digest != manifest.sha256:
        raise WeightsError(
            f"{folder / network}.safetensors: its sha256 is {digest[:12]}…, the manifest says "
            f"{manifest.sha256[:12]}…; the file is damaged or not this manifest's. {REINSTALL}"
        )
    return manifest, content


def _bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise WeightsError(f"{path} {reason}. {REINSTALL}") from error


def read_manifest(path: Path) -> Manifest:
    """The manifest in `path`. Raises WeightsError where it is missing, malformed or of others."""
    try:
        raw = json.loads(_bytes_of(path))
    except ValueError as error:
        raise WeightsError(f"{path} is not JSON ({error}). {REINSTALL}") from error
    with _malformed(path):
        if raw["format"] != FORMAT:
            raise ValueError(f"its format is {raw['format']!r}, this version reads {FORMAT}")
        manifest = _parsed(raw)
        _check(manifest)
    return manifest


@contextlib.contextmanager
def _malformed(path: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise WeightsError(f"{path}: the key {error} is missing. {REINSTALL}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: malformed manifest: {error}. {REINSTALL}") from error


def _parsed(raw: dict[str, Any]) -> Manifest:
    unknown = set(raw) - set(Manifest.__dataclass_fields__) - {"format"}
    if unknown:
        raise ValueError(f"unknown key {sorted(unknown)[0]!r}")
    values = {k: v for k, v in raw.items() if k != "format"}
    values["labels"] = tuple(raw["labels"])
    values["thresholds"] = {k: float(v) for k, v in raw["thresholds"].items()}
    values["calibration"] = {k: (float(a), float(b)) for k, (a, b) in raw["calibration"].items()}
    values["metrics"] = {k: Metric.parsed(v) for k, v in raw["metrics"].items()}
    values["sources"] = tuple(Source(**v) for v in raw["sources"])
    limit = raw["distance_limit"]
    values["distance_limit"] = None if limit is None else float(limit)
    told = raw.get("feature_statistics")
    values["feature_statistics"] = None if told is None else FeatureStatistics(**told)
    values["release"] = {k: Release(**v) for k, v in raw.get("release", {}).items()}
    values["not_evaluated"] = dict(raw.get("not_evaluated", {}))
    values["input_size"] = int(raw["input_size"])
    values["sha256"] = str(raw["sha256"])
    return Manifest(**values)


def _check(manifest: Manifest) -> None:
    expected = NETWORKS.get(manifest.network)
    if expected is None:
        raise ValueError(f"unknown network {manifest.network!r}")
    if manifest.labels != expected:
        raise ValueError(f"its labels are not {', '.join(expected)} in this order")
    strangers = [k for k in manifest.not_evaluated if k not in expected]
    if strangers:
        raise ValueError(f"not_evaluated names {strangers[0]!r}, which is none of its labels")
    missing = [k for k in manifest.evaluated if k not in manifest.thresholds]
    if manifest.network == "findings" and missing:
        raise ValueError(f"no threshold for {missing[0]}")
    out_of_range = [k for k, v in manifest.thresholds.items() if not 0.0 < v < 1.0]
    if out_of_range:
        raise ValueError(f"the threshold of {out_of_range[0]} is not between 0 and 1")


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
