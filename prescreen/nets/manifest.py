"""The manifest of a set of weights: what it states, and how it is read from its JSON.

No torch here, so that a process that only reports can read what the manifests state.
"""

from __future__ import annotations

import contextlib
import json
import math
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prescreen.errors import WeightsError
from prescreen.study import LABELS, ORGANS, Network, Pointing, ViewFigures

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
    threshold; `by_view` has the figures of PA and AP alone. For an organ, `dice` is its mean, `low`
    and `high` are of that, and the rest is None.
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
class Calibration:
    """How a label's logit becomes a probability that comes true: sigmoid(a * logit + b).

    `kind` is `platt` or `temperature` (then b is 0 unless moved to another prevalence); a is above
    0, so that a calibration never changes an order.
    """

    kind: str
    a: float
    b: float

    @classmethod
    def parsed(cls, raw: Mapping[str, Any]) -> Calibration:
        """From a manifest's JSON. Raises ValueError where it could not be meant."""
        found = cls(str(raw["kind"]), float(raw["a"]), float(raw["b"]))
        if not (math.isfinite(found.a) and math.isfinite(found.b) and found.a > 0):
            raise ValueError("a calibration needs finite a and b, and a above 0")
        return found


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
class PointingGame:
    """Whether attention maps point where radiologists drew boxes, label by label.

    Played with the tensors of digest `weights_sha256`; `radiographs` says in words on which ones.
    """

    weights_sha256: str
    radiographs: str
    findings: Mapping[str, Pointing] = field(default_factory=dict)

    @classmethod
    def parsed(cls, raw: Mapping[str, Any]) -> PointingGame:
        """From a manifest's JSON. Raises ValueError where it could not be meant."""
        found = {label: _pointing(label, told) for label, told in raw["findings"].items()}
        return cls(str(raw["weights_sha256"]), str(raw["radiographs"]), found)


def _pointing(label: str, raw: Mapping[str, Any]) -> Pointing:
    found, of = Pointing(**raw), f"the pointing game of {label}"
    shares = (found.hit_rate, found.low, found.fixed_point, found.fixed_point_of_all)
    if not all(_is_number(share) and 0 <= share <= 1 for share in shares):
        raise ValueError(f"{of}: its rates are not shares between 0 and 1")
    if found.low > found.hit_rate:
        raise ValueError(f"{of}: the lower bound is above the hit rate")
    counts = (found.patients, found.boxes)
    if not all(type(count) is int for count in counts) or not 1 <= counts[0] <= counts[1]:
        raise ValueError(f"{of}: it needs boxes of at least one patient each")
    if not isinstance(found.held_out, bool):
        raise ValueError(f"{of}: held_out is neither true nor false")
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class Manifest:
    """What a set of weights is, what it may be relied on for, and how to tell that it is whole.

    `architecture` names the network that the tensors are for. `not_evaluated` maps labels that
    the weights cannot answer for to the reason; they need no threshold. `calibration` maps a
    label to how its logit becomes a probability, which is what its threshold is compared with;
    without it the label is uncalibrated.
    `distance_limit` is the feature distance beyond which a radiograph is unlike those trained on.
    `pointing` is None where nobody has looked whether the attention maps point at anything.
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
    calibration: Mapping[str, Calibration] = field(default_factory=dict)
    distance_limit: float | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    figures_from: str = ""
    sources: tuple[Source, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    source_commit: str = ""
    not_evaluated: Mapping[str, str] = field(default_factory=dict)
    feature_statistics: FeatureStatistics | None = None
    release: Mapping[str, Release] = field(default_factory=dict)
    pointing: PointingGame | None = None
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


# ---------------------------------------------------------------- reading

REINSTALL = "Reinstall the weights, or name another folder in the setting `weights_dir`."


def read_manifest(path: Path) -> Manifest:
    """The manifest in `path`. Raises WeightsError where it is missing, malformed or of others."""
    try:
        raw = json.loads(bytes_of(path))
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
    values["calibration"] = {k: Calibration.parsed(v) for k, v in raw["calibration"].items()}
    values["metrics"] = {k: Metric.parsed(v) for k, v in raw["metrics"].items()}
    values["sources"] = tuple(Source(**v) for v in raw["sources"])
    limit = raw["distance_limit"]
    values["distance_limit"] = None if limit is None else float(limit)
    told = raw.get("feature_statistics")
    values["feature_statistics"] = None if told is None else FeatureStatistics(**told)
    values["release"] = {k: Release(**v) for k, v in raw.get("release", {}).items()}
    game = raw.get("pointing")
    values["pointing"] = None if game is None else PointingGame.parsed(game)
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
    if manifest.pointing is not None:
        check_pointing(manifest.pointing, manifest, manifest.sha256)


def check_pointing(game: PointingGame, manifest: Manifest, sha256: str) -> None:
    """Raise ValueError unless the game is one of these labels and was played with these weights."""
    strangers = [label for label in game.findings if label not in manifest.evaluated]
    if manifest.network != "findings" or strangers:
        what = strangers[0] if strangers else manifest.network
        raise ValueError(f"the pointing game names {what}, of which no attention map is made")
    if game.weights_sha256 != sha256:
        raise ValueError(
            f"the pointing game was played with other weights ({game.weights_sha256[:12]}…) than "
            f"these ({sha256[:12]}…)"
        )


def bytes_of(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise WeightsError(f"{path} {reason}. {REINSTALL}") from error
