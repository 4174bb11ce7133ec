"""Radiographs to screenings: resize, segment, mask, judge, compare with the thresholds; batched."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from prescreen.errors import UnusableImage
from prescreen.nets import (
    architecture,
    compiled,
    densenet,
    engine,
    inputs,
    runtimes,
    typical,
    unet,
    weights,
)
from prescreen.nets.anatomy import anatomy_of, shares
from prescreen.study import (
    LABELS,
    ORGANS,
    Anatomy,
    Finding,
    FindingState,
    FloatArray,
    Model,
    Radiograph,
    Screening,
)

logger = logging.getLogger(__name__)

#: Radiographs that pass the networks together; more of them are taken in turns.
BATCH = 8
MASK_DISAGREEMENT = "mask_disagreement"
ANATOMY_NOT_FOUND = "anatomy_not_found"


class Drawing(nn.Module):
    """Pictures to what the feature distance is measured on, (N, K), and sigmoids (N, 3, s, s)."""

    def __init__(self, network: unet.Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        levels = self.network.encode(pictures)
        return typical.describe(levels), torch.sigmoid(self.network.decode(levels))


class Seeing(nn.Module):
    """Pictures to the features (N, K, h, w) that both heads judge by."""

    def __init__(self, network: architecture.Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> tuple[Tensor]:
        return (self.network.features(pictures),)


def modules(loaded: Mapping[str, weights.Weights]) -> dict[str, nn.Module]:
    """Both passes as the node makes them, by network."""
    return {
        "lungs_heart": Drawing(architecture.segmenter_of(loaded["lungs_heart"])),
        "findings": Seeing(architecture.classifier_of(loaded["findings"])),
    }


def has_gpu() -> bool:
    """Whether torch can use a GPU here."""
    return torch.cuda.is_available()


def usable(device: str | None) -> str:
    """The device, or the CPU where no GPU can be used: slower, and the answers are the same."""
    if device not in (None, "cuda"):
        return device
    if has_gpu():
        return "cuda"
    if device == "cuda":
        logger.error("screen.device = cuda: no GPU can be used; the networks run on the CPU")
    return "cpu"


class Screener:
    """Both networks, ready. Called with radiographs it answers with one `Screening` for each.

    `device` is `cuda` where there is one, else `cpu`, even if another was asked for; `engine_name`
    as in `engine.fastest`, which raises SettingsError; `kept` is where networks may have been
    compiled to. The same radiograph gives the same answer whatever it is batched with, to 1e-4.
    Raises WeightsError as `weights.load` does.
    """

    def __init__(
        self,
        weights_folder: Path,
        device: str | None = None,
        engine_name: str = "auto",
        kept: Path | None = None,
    ) -> None:
        loaded = weights.load(weights_folder)
        manifests = {name: w.manifest for name, w in loaded.items()}
        self._device = torch.device(usable(device))
        #: Whether the device failed: who would screen on needs another screener, on the CPU.
        self.device_failed = False
        drawing = Drawing(architecture.segmenter_of(loaded["lungs_heart"])).to(self._device)
        self._net = architecture.classifier_of(loaded["findings"]).to(self._device)
        self._typical = typical.Typical.of(
            loaded["lungs_heart"], sum(drawing.network.widths[typical.FIRST_LEVEL :])
        )
        self._calibration = _calibration(manifests["findings"])
        self._not_evaluated = manifests["findings"].not_evaluated
        self._sizes = {name: m.input_size for name, m in manifests.items()}
        fastest = partial(engine.fastest, device=self._device, wanted=engine_name)
        files = compiled.files_for(kept, weights_folder)
        self._draw = fastest(
            drawing,
            self._sizes["lungs_heart"],
            lambda found: found[1],
            compiled_file=files.get("lungs_heart"),
        )
        self._see = fastest(
            Seeing(self._net),
            self._sizes["findings"],
            self._unmasked,
            compiled_file=files.get("findings"),
        )
        self.model: Model = self._identified(weights.model_of(manifests))

    @property
    def engine(self) -> str:
        """The engine that the findings' network runs on."""
        return self._see.name

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Why no faster engine is used for the findings' network, a line each."""
        return self._see.passed_over

    def _identified(self, model: Model) -> Model:
        """The model, each network with the engine that it runs on: it is part of what answered."""
        drawn, seen = (runtimes.version(one.name) for one in (self._draw, self._see))
        return replace(
            model,
            lungs_heart=replace(model.lungs_heart, engine=drawn),
            findings=replace(model.findings, engine=seen),
        )

    def _unmasked(self, found: tuple[Tensor, ...]) -> Tensor:
        """Probabilities from features alone, to compare engines by."""
        everywhere = found[0].new_ones((len(found[0]), len(ORGANS), *found[0].shape[2:]))
        seen = self._net.judge(found[0], everywhere)
        return torch.sigmoid(torch.cat([seen.masked, seen.unmasked]))

    def __call__(self, radiographs: Sequence[Radiograph]) -> list[Screening]:
        """One screening for each radiograph, in order; nothing of it has passed the gate yet.

        Raises UnusableImage (`not_finite`) where pixels or answers are not finite numbers: a
        number that is none never becomes a finding.
        """
        screenings: list[Screening] = []
        try:
            for start in range(0, len(radiographs), BATCH):
                screenings += self._fitting(radiographs[start : start + BATCH])
        except RuntimeError:
            self.device_failed = self._device.type != "cpu"
            raise
        return screenings

    def _fitting(self, radiographs: Sequence[Radiograph]) -> list[Screening]:
        """A batch, or its halves where the device has no memory for all of it."""
        try:
            return self._batch(radiographs)
        except torch.OutOfMemoryError:
            if len(radiographs) == 1:
                raise
        half = len(radiographs) // 2
        return self._fitting(radiographs[:half]) + self._fitting(radiographs[half:])

    @torch.inference_mode()
    def _batch(self, radiographs: Sequence[Radiograph]) -> list[Screening]:
        squares = torch.cat([inputs.common_square(r.pixels) for r in radiographs])
        _refuse_not_finite(squares, "the radiograph's pixels")
        squares = squares.to(self._device)
        size = self._sizes["lungs_heart"]
        described, sigmoids = self._draw(architecture.pictures(squares, size))
        anatomies = [anatomy_of(one) for one in sigmoids.cpu().numpy()]
        masks = torch.from_numpy(np.stack([shares(a.masks) for a in anatomies])).to(self._device)
        size = self._sizes["findings"]
        (features,) = self._see(architecture.pictures(squares, size, self._net))
        seen = self._net.judge(features, masks)
        distances = self._typical.distances(described.cpu().numpy())
        return self._screenings(anatomies, seen, distances)

    def _screenings(
        self, anatomies: Sequence[Anatomy], seen: densenet.Seen, distances: FloatArray
    ) -> list[Screening]:
        masked, unmasked = (self._probabilities(x) for x in (seen.masked, seen.unmasked))
        maps = self._net.attention_maps(seen.features)
        share = inside(maps, seen.coverage).cpu().numpy()
        shown = normalised(maps).cpu().numpy()
        found = seen.anatomy_found.tolist()
        return [
            Screening(
                anatomy=anatomy,
                findings=self._findings(masked[i], unmasked[i], found[i]),
                feature_distance=float(distances[i]),
                model=self.model,
                attention=self._evaluated(shown[i]),
                inside={label: float(v) for label, v in self._evaluated(share[i]).items()},
            )
            for i, anatomy in enumerate(anatomies)
        ]

    def _evaluated(self, values: FloatArray) -> dict[str, FloatArray]:
        """What there is for each label, without those that the weights cannot answer for."""
        told = dict(zip(LABELS, values, strict=True))
        return {label: v for label, v in told.items() if label not in self._not_evaluated}

    def _findings(
        self, masked: FloatArray, unmasked: FloatArray, anatomy_found: bool
    ) -> tuple[Finding, ...]:
        found = []
        for label, p, q in zip(LABELS, masked, unmasked, strict=True):
            threshold = self.model.figures_of(label).threshold
            if threshold is None:
                found.append(_unanswered(label, float(p), float(q), self._not_evaluated[label]))
            else:
                found.append(_finding(label, float(p), float(q), threshold, anatomy_found))
        return tuple(found)

    def _probabilities(self, logits: Tensor) -> FloatArray:
        a, b = self._calibration
        probabilities = torch.sigmoid(logits.cpu() * a + b)
        _refuse_not_finite(probabilities, "the networks' answer")
        return probabilities.numpy()


def normalised(maps: Tensor) -> Tensor:
    """Attention maps (N, C, h, w), at least 0, scaled to 0…1 each; an empty one stays zero."""
    highest = maps.amax(dim=(2, 3), keepdim=True)
    return maps / highest.clamp_min(1e-12)


def inside(maps: Tensor, coverage: Tensor) -> Tensor:
    """Share of each map (N, C, h, w) within lungs and heart, (N, C) of 0…1; coverage (N, 1, h, w).

    Computed before masking: after it, all attention is inside by construction.
    """
    total = maps.sum(dim=(2, 3))
    return (maps * coverage).sum(dim=(2, 3)) / total.clamp_min(1e-12)


def _unanswered(label: str, masked: float, unmasked: float, reason: str) -> Finding:
    """What the weights do not know has no number: one would be taken for an answer."""
    state = FindingState.NOT_EVALUATED
    if reason == weights.NOT_IN_WEIGHTS:
        return Finding(label, None, None, None, state, reason)
    return Finding(label, masked, unmasked, None, state, reason)


def _finding(label: str, masked: float, unmasked: float, threshold: float, found: bool) -> Finding:
    """The state after the two heads; without anatomy only the unmasked one speaks, and softly."""
    above, above_unmasked = masked >= threshold, unmasked >= threshold
    reason = None
    if not found:
        state = FindingState.UNDETERMINED if above_unmasked else FindingState.NOT_EVALUATED
        reason = ANATOMY_NOT_FOUND
    elif above != above_unmasked:
        state, reason = FindingState.UNDETERMINED, MASK_DISAGREEMENT
    else:
        state = FindingState.FLAGGED if above else FindingState.NOT_FLAGGED
    return Finding(label, masked, unmasked, threshold, state, reason)


def _refuse_not_finite(values: Tensor, what: str) -> None:
    if not bool(torch.isfinite(values).all()):
        raise UnusableImage(f"{what} are not finite numbers; nothing is said of it", "not_finite")


def _calibration(manifest: weights.Manifest) -> tuple[Tensor, Tensor]:
    """a and b on the logits, (14,) each; 1 and 0 for labels that are not calibrated."""
    none = weights.Calibration("none", 1.0, 0.0)
    found = [manifest.calibration.get(label, none) for label in LABELS]
    return torch.tensor([c.a for c in found]), torch.tensor([c.b for c in found])
