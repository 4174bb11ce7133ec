"""Radiographs to screenings: resize, segment, mask, judge, compare with the thresholds; batched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from prescreen.errors import UnusableImage, WeightsError
from prescreen.nets import densenet, inputs, typical, unet, weights
from prescreen.nets.anatomy import anatomy_of
from prescreen.study import (
    LABELS,
    Anatomy,
    Finding,
    FindingState,
    FloatArray,
    Model,
    Radiograph,
    Screening,
)

N = TypeVar("N", bound=nn.Module)

#: Radiographs that pass the networks together; more of them are taken in turns.
BATCH = 8
MASK_DISAGREEMENT = "mask_disagreement"
ANATOMY_NOT_FOUND = "anatomy_not_found"


class Screener:
    """Both networks, ready. Called with radiographs it answers with one `Screening` for each.

    `device` is `cuda` where there is one, else `cpu`. The same radiograph gives the same answer
    whatever it is batched with, to 1e-4. Raises WeightsError as `weights.load` does.
    """

    def __init__(self, weights_folder: Path, device: str | None = None) -> None:
        loaded = weights.load(weights_folder)
        manifests = {name: w.manifest for name, w in loaded.items()}
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._unet = _ready(unet.UNet(), loaded["lungs_heart"], self._device)
        findings = loaded["findings"]
        self._net = _ready(
            densenet.FindingsNet(_switches(findings.manifest)), findings, self._device
        )
        self._typical = typical.Typical.of(
            loaded["lungs_heart"], sum(self._unet.widths[typical.FIRST_LEVEL :])
        )
        self._calibration = _calibration(findings.manifest)
        self._sizes = {name: m.input_size for name, m in manifests.items()}
        self.model: Model = weights.model_of(manifests)

    def __call__(self, radiographs: Sequence[Radiograph]) -> list[Screening]:
        """One screening for each radiograph, in order; nothing of it has passed the gate yet.

        Raises UnusableImage (`not_finite`) where pixels or answers are not finite numbers: a
        number that is none never becomes a finding.
        """
        screenings: list[Screening] = []
        for start in range(0, len(radiographs), BATCH):
            screenings += self._batch(radiographs[start : start + BATCH])
        return screenings

    @torch.inference_mode()
    def _batch(self, radiographs: Sequence[Radiograph]) -> list[Screening]:
        squares = torch.cat([inputs.common_square(r.pixels) for r in radiographs])
        _refuse_not_finite(squares, "the radiograph's pixels")
        squares = squares.to(self._device)
        levels = self._unet.encode(self._input(squares, "lungs_heart"))
        sigmoids = torch.sigmoid(self._unet.decode(levels))  # (N, 3, 256, 256)
        drawn = sigmoids.cpu().numpy()
        anatomies = [anatomy_of(one) for one in drawn]
        union = torch.from_numpy(np.stack([a.masks.any(axis=0) for a in anatomies]))
        masks = union[:, None].float().to(self._device)
        seen = self._net(self._input(squares, "findings"), masks)
        distances = self._typical.distances(typical.describe(levels).cpu().numpy())
        return self._screenings(anatomies, seen, distances)

    def _input(self, squares: Tensor, network: str) -> Tensor:
        pictures = inputs.stretch(inputs.resized(squares, self._sizes[network]))
        return pictures.contiguous(memory_format=torch.channels_last)

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
                findings=_findings(masked[i], unmasked[i], self.model, found[i]),
                feature_distance=float(distances[i]),
                model=self.model,
                attention=dict(zip(LABELS, shown[i], strict=True)),
                inside={label: float(v) for label, v in zip(LABELS, share[i], strict=True)},
            )
            for i, anatomy in enumerate(anatomies)
        ]

    def _probabilities(self, logits: Tensor) -> FloatArray:
        slope, intercept = self._calibration
        probabilities = torch.sigmoid(logits.cpu() * slope + intercept)
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


def _findings(
    masked: FloatArray, unmasked: FloatArray, model: Model, anatomy_found: bool
) -> tuple[Finding, ...]:
    return tuple(
        _finding(label, float(p), float(q), model.figures_of(label).threshold, anatomy_found)
        for label, p, q in zip(LABELS, masked, unmasked, strict=True)
    )


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


# ---------------------------------------------------------------- from weights to networks


def _ready(network: N, loaded: weights.Weights, device: torch.device) -> N:
    """The network with these weights, for inference, or WeightsError."""
    state = {k: v for k, v in network.state_dict().items() if v.dtype.is_floating_point}
    found = weights.fitting(loaded, {k: tuple(v.shape) for k, v in state.items()})
    tensors = {k: torch.from_numpy(v) for k, v in found.items()}
    network.load_state_dict(tensors, strict=False)  # batch counters are not shipped
    network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    network.to(device)
    return network


def _switches(manifest: weights.Manifest) -> densenet.Switches:
    try:
        return densenet.Switches(**manifest.switches)
    except TypeError as error:
        raise WeightsError(
            f"findings.json: unknown switch ({error}). {weights.REINSTALL}"
        ) from error


def _calibration(manifest: weights.Manifest) -> tuple[Tensor, Tensor]:
    """Slope and intercept on the logits, (14,) each; 1 and 0 where there is none."""
    pairs: Mapping[str, tuple[float, float]] = manifest.calibration
    values = torch.tensor([pairs.get(label, (1.0, 0.0)) for label in LABELS])
    return values[:, 0], values[:, 1]
