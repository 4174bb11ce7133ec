"""What frontal chest radiographs have in common, and how unlike them a picture is. numpy only.

Networks draw lungs on anything. So a picture is compared with some two thousand frontal chest
radiographs: once as a whole (is it turned, is it inverted?), and once cut out around the lungs that
the network drew, as picture and as masks. Grey values are replaced by their ranks, so that exposure
and windowing do not count. Each comparison is a normal distribution in a few principal axes and
what they leave over (probabilistic PCA). The one thing known beforehand is which way is up: no
lateral, limb, slice or animal was used to fit anything or to set a limit.

`train/gate.py` fits the arrays in frontal.npz and says on what.
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from prescreen.errors import WeightsError
from prescreen.study import Anatomy, BoolArray, FloatArray, Radiograph

#: Digest of frontal.npz; what is shipped is what was measured.
SHA256 = "5e1257450af3304ac740f6db2a997c67d8bbe09af05939ad3c68a33e969ae511"

COARSE = 128  # side of the picture all comparisons start from
WHOLE = 16  # side of the whole picture that is compared
CUT = 12  # side of the cut-out, of the picture and of each mask
#: What the cut-out shows beyond the lungs, as shares of their height and width.
ABOVE, BELOW, BESIDE = 0.08, 0.15, 0.08
_TAIL = 0.01  # share of the lungs' area that their box may leave out on each side
_BORDER = 0.12  # a row or column darker than this nearly everywhere is no part of the picture
_WHITE = 0.99  # brighter is white
_LEVELS = 1000  # grey levels told apart
_CLEARLY = 1.5  # how much better a turned picture must fit than the picture itself
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Pattern:
    """A normal distribution of vectors of one length n, with k principal axes.

    `mean` (n,), `axes` (k, n) orthonormal, `variances` (k,) along them, `usual` (2,) the mean
    squared distances within and beyond the axes, of radiographs that were not fitted to.
    """

    mean: FloatArray
    axes: FloatArray
    variances: FloatArray
    usual: FloatArray

    @classmethod
    def fitted(cls, vectors: FloatArray, others: FloatArray, axes: int) -> Pattern:
        """From (N, n) vectors; `others` (M, n) tell what is usual for what was not fitted to."""
        mean = vectors.mean(axis=0)
        _, lengths, directions = np.linalg.svd(vectors - mean, full_matrices=False)
        variances = (lengths[:axes] ** 2 / (len(vectors) - 1)).astype(np.float32)
        pattern = cls(mean, directions[:axes], variances, np.ones(2, dtype=np.float32))
        usual = pattern._energies(others).mean(axis=1)
        return replace(pattern, usual=usual)

    def unlikeness(self, vectors: FloatArray) -> FloatArray:
        """How unlike the pattern each of (N, n) vectors is: (N,), about 2 for those it is of."""
        shares = self._energies(vectors) / self.usual[:, None]
        return np.asarray(shares.sum(axis=0), dtype=np.float32)

    def _energies(self, vectors: FloatArray) -> FloatArray:
        """(2, N): squared distance within the axes in variances, and squared length beyond."""
        away = vectors - self.mean
        along = away @ self.axes.T
        beyond = (away**2).sum(axis=1) - (along**2).sum(axis=1)
        within = (along**2 / self.variances).sum(axis=1)
        return np.asarray(np.stack([within, beyond]), dtype=np.float32)


@dataclass(frozen=True)
class Cut:
    """A picture cut out around its lungs.

    `picture` (CUT, CUT) are ranks of mean 0 and deviation 1; `masks` (3, CUT, CUT) the share of
    each cell that each organ covers, 0…1.
    """

    picture: FloatArray
    masks: FloatArray

    @property
    def asymmetry(self) -> FloatArray:
        """(CUT * CUT / 2,): half of what the picture changes when it is mirrored."""
        halves = (self.picture - self.picture[:, ::-1])[:, : CUT // 2] / 2
        return np.asarray(halves.ravel(), dtype=np.float32)


@dataclass(frozen=True)
class Frontal:
    """Everything that frontal.npz holds. Distances are in units of their limit: above 1, refuse."""

    whole: Pattern
    picture: Pattern
    masks: Pattern
    leaning: FloatArray  # (CUT * CUT / 2,): asymmetry → about 1 with the heart on the left
    whole_limit: float
    cut_limit: float
    least_leaning: float

    def turned(self, coarse: FloatArray) -> str | None:
        """`inverted` or `rotated` where a (COARSE, COARSE) picture fits only after undoing that."""
        upright = whole(coarse).reshape(WHOLE, WHOLE)
        ways = [upright, -upright, *(np.rot90(upright, quarter) for quarter in (1, 2, 3))]
        as_it_is, *others = self.whole.unlikeness(np.stack([way.ravel() for way in ways]))
        best = int(np.argmin(others))
        fits = others[best] < self.whole_limit < as_it_is
        if not fits or others[best] * _CLEARLY > as_it_is:
            return None
        return "inverted" if best == 0 else "rotated"

    def distance(self, cut: Cut) -> float:
        """How unlike a frontal chest the cut-out and its masks are; above 1 it is refused."""
        seen = self.picture.unlikeness(cut.picture.reshape(1, -1))
        drawn = self.masks.unlikeness(cut.masks.reshape(1, -1))
        return float(seen[0] + drawn[0]) / self.cut_limit

    def leans_left(self, cut: Cut) -> bool:
        """Whether heart and mediastinum lean to the patient's left, as they nearly always do."""
        return float(cut.asymmetry @ self.leaning) >= self.least_leaning


#: Of radiographs that are looked at before the networks and after.
_KNOWN: WeakKeyDictionary[Radiograph, FloatArray] = WeakKeyDictionary()


def coarse_of(radiograph: Radiograph) -> FloatArray:
    """Its pixels as `coarse` averages them, once."""
    if radiograph not in _KNOWN:
        _KNOWN[radiograph] = coarse(radiograph.pixels)
    return _KNOWN[radiograph]


def coarse(pixels: FloatArray) -> FloatArray:
    """(rows, columns) averaged to (COARSE, COARSE) float32; too few pixels are repeated."""
    rows, columns = (_starts(n) for n in pixels.shape)
    if min(pixels.shape) < COARSE:
        return pixels[rows][:, columns].astype(np.float32)
    # band by band: reduceat along the rows takes ten times as long
    bands = np.stack([band.sum(axis=0) for band in np.split(pixels, rows[1:])])
    sums = np.add.reduceat(bands, columns, axis=1)
    heights, widths = (
        np.diff(starts, append=n) for starts, n in zip((rows, columns), pixels.shape, strict=True)
    )
    return np.asarray(sums / np.outer(heights, widths), dtype=np.float32)


def _starts(count: int) -> npt.NDArray[np.intp]:
    return (np.arange(COARSE) * count / COARSE).astype(np.intp)


def contrast(picture: FloatArray) -> float:
    """Span of the grey values between the darkest and the brightest hundredth of a picture."""
    dark, bright = np.percentile(picture, (1, 99))
    return float(bright - dark)


def white(picture: FloatArray) -> float:
    """Share of a picture that is as bright as its brightest hundredth."""
    return float(np.mean(_stretched(picture) >= _WHITE))


def whole(picture: FloatArray) -> FloatArray:
    """The (COARSE, COARSE) picture without its black border as ranks, (WHOLE * WHOLE,)."""
    scaled = _stretched(picture)
    top, bottom = _within(np.percentile(scaled, 90, axis=1))
    left, right = _within(np.percentile(scaled, 90, axis=0))
    edges = (top / COARSE, bottom / COARSE, left / COARSE, right / COARSE)
    return _ranks(_sampled(scaled, edges, WHOLE)).ravel()


def _within(profile: FloatArray) -> tuple[int, int]:
    """First and last + 1 place that is not border; everything where hardly anything is."""
    inside = np.flatnonzero(profile > _BORDER)
    if inside.size == 0 or inside[-1] + 1 - inside[0] < COARSE // 4:
        return 0, COARSE
    return int(inside[0]), int(inside[-1]) + 1


def cut(picture: FloatArray, anatomy: Anatomy) -> Cut | None:
    """The (COARSE, COARSE) picture and the masks around both lungs, or None where there is none."""
    lungs = anatomy.masks[0] | anatomy.masks[1]
    if not lungs.any():
        return None
    top, bottom = _extent(lungs.sum(axis=1))
    left, right = _extent(lungs.sum(axis=0))
    height, width = bottom - top, right - left
    edges = (
        top - ABOVE * height,
        bottom + BELOW * height,
        left - BESIDE * width,
        right + BESIDE * width,
    )
    masks = [_sampled(mask.astype(np.float32), edges, CUT) for mask in anatomy.masks]
    return Cut(_ranks(_sampled(_stretched(picture), edges, CUT)), np.stack(masks))


def _extent(profile: npt.NDArray[Any]) -> tuple[float, float]:
    """Where a profile begins and ends, 0…1, but for a little at both ends."""
    share = np.cumsum(profile) / profile.sum()
    first, last = np.searchsorted(share, (_TAIL, 1 - _TAIL))
    return float(first) / len(profile), float(last + 1) / len(profile)


def _sampled(
    picture: FloatArray, edges: tuple[float, float, float, float], side: int
) -> FloatArray:
    """(side, side) means of the part between edges (top, bottom, left, right; shares of the whole).

    Beyond the picture its outermost pixels go on.
    """
    top, bottom, left, right = edges
    fine = (np.arange(side * _SUPERSAMPLING) + 0.5) / (side * _SUPERSAMPLING)
    rows = _places(top + fine * (bottom - top), picture.shape[0])
    columns = _places(left + fine * (right - left), picture.shape[1])
    cells = picture[np.ix_(rows, columns)]
    cells = cells.reshape(side, _SUPERSAMPLING, side, _SUPERSAMPLING)
    return np.asarray(cells.mean(axis=(1, 3)))


def _places(shares: npt.NDArray[Any], count: int) -> npt.NDArray[np.intp]:
    return np.clip((shares * count).astype(np.intp), 0, count - 1)


def _stretched(picture: FloatArray) -> FloatArray:
    dark, bright = np.percentile(picture, (1, 99))
    return np.asarray((picture - dark) / max(float(bright - dark), 1e-3), dtype=np.float32)


def _ranks(picture: FloatArray) -> FloatArray:
    """Mean ranks of the grey values, brought to mean 0 and deviation 1."""
    levels = np.round(picture * _LEVELS)
    _, place, count = np.unique(levels, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - count / 2)[place].reshape(picture.shape)
    centred = ranks - ranks.mean()
    return np.asarray(centred / max(float(centred.std()), 1e-6), dtype=np.float32)


# ---------------------------------------------------------------- what organs measure

#: What lungs and heart measure. The limits lie beyond nearly all of 2,128 frontal radiographs; a
#: chest without a lung, with the heart on the right or white all over is meant to fall outside.
PLAUSIBLE: dict[str, tuple[float, float]] = {
    "left_lung": (0.015, 0.35),  # shares of the picture
    "right_lung": (0.015, 0.35),
    "heart": (0.01, 0.3),
    "lungs_log_ratio": (-1.5, 1.3),  # log2 of left over right area
    "heart_per_lungs": (0.15, 1.3),
    "fill": (0.3, 0.7),  # share of the lungs' common box that they cover
    "apart": (0.45, 0.7),  # left lung's centre right of the right lung's, in widths of the box
    "level": (-0.25, 0.25),  # left lung's centre below the right lung's, in heights of the box
    "heart_across": (-0.06, 0.2),  # heart's centre left of the lungs' middle, in widths
    "heart_down": (0.1, 0.6),  # heart's centre below the lungs' middle, in heights
    "certainty": (0.75, 1.0),  # least of the three
}


def is_plausible(anatomy: Anatomy) -> bool:
    """Whether lungs and heart are all there, and each measure lies within PLAUSIBLE."""
    measured = measures(anatomy)
    if measured is None:
        return False
    return all(low <= measured[name] <= high for name, (low, high) in PLAUSIBLE.items())


def measures(anatomy: Anatomy) -> dict[str, float] | None:
    """What PLAUSIBLE has limits for, or None where an organ is missing."""
    left, right, heart = anatomy.area
    if min(left, right, heart) == 0:
        return None
    lungs = anatomy.masks[0] | anatomy.masks[1]
    height, width = (_span(lungs.any(axis=axis)) for axis in (1, 0))
    (left_y, left_x), (right_y, right_x), (heart_y, heart_x) = map(_centre, anatomy.masks)
    return {
        "left_lung": left,
        "right_lung": right,
        "heart": heart,
        "lungs_log_ratio": float(np.log2(left / right)),
        "heart_per_lungs": heart / (left + right),
        "fill": float(lungs.mean()) / (height * width),
        "apart": (left_x - right_x) / width,
        "level": (left_y - right_y) / height,
        "heart_across": (heart_x - (left_x + right_x) / 2) / width,
        "heart_down": (heart_y - (left_y + right_y) / 2) / height,
        "certainty": min(anatomy.certainty),
    }


def _span(profile: BoolArray) -> float:
    places = np.flatnonzero(profile)
    return float(places[-1] + 1 - places[0]) / len(profile)


def _centre(mask: BoolArray) -> tuple[float, float]:
    """Row and column of a mask's centre of gravity, 0…1."""
    row, column = (_middle(np.count_nonzero(mask, axis=axis)) for axis in (1, 0))
    return row, column


def _middle(profile: npt.NDArray[np.intp]) -> float:
    return float((np.arange(len(profile)) + 0.5) @ profile / profile.sum()) / len(profile)


# ---------------------------------------------------------------- the file


@functools.cache
def shipped() -> Frontal:
    """What frontal.npz holds. Raises WeightsError where it is missing or damaged."""
    try:
        content = resources.files("prescreen").joinpath("frontal.npz").read_bytes()
    except OSError as error:
        raise WeightsError("frontal.npz is missing; reinstall prescreen") from error
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise WeightsError("frontal.npz is damaged (its sha256 differs); reinstall prescreen")
    return from_bytes(content)


def from_bytes(content: bytes) -> Frontal:
    """The inverse of `to_bytes`."""
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: stored[name].astype(np.float32) for name in stored.files}
    limits = arrays["limits"]
    return Frontal(
        _pattern(arrays, "whole"),
        _pattern(arrays, "picture"),
        _pattern(arrays, "masks"),
        arrays["leaning"],
        *(float(limit) for limit in limits),
    )


def _pattern(arrays: Mapping[str, FloatArray], name: str) -> Pattern:
    return Pattern(*(arrays[f"{name}.{part}"] for part in Pattern.__dataclass_fields__))


def to_bytes(fitted: Frontal) -> bytes:
    """The content of a frontal.npz; axes are kept in float16."""
    arrays: dict[str, Any] = {"leaning": fitted.leaning}
    arrays["limits"] = np.array(
        [fitted.whole_limit, fitted.cut_limit, fitted.least_leaning], dtype=np.float32
    )
    for name in ("whole", "picture", "masks"):
        pattern: Pattern = getattr(fitted, name)
        for part in Pattern.__dataclass_fields__:
            kind = np.float16 if part == "axes" else np.float32
            arrays[f"{name}.{part}"] = getattr(pattern, part).astype(kind)
    stream = io.BytesIO()
    np.savez_compressed(stream, **arrays)
    return stream.getvalue()
