"""Checkpoints of others: opened without running code, recognised, and put into our names.

Understood are DenseNet-121s as TorchXRayVision saves them (one channel, 18 outputs), as CheXNet's
re-implementations do (`module.densenet121…`, old `norm.1` names, `classifier.0`), and as
torchvision does. What their outputs mean is never guessed from a number of outputs alone.
"""

from __future__ import annotations

import math
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from torch import Tensor

from prescreen.errors import WeightsError
from prescreen.nets import plain
from prescreen.nets.weights import NO_THRESHOLD, NOT_IN_WEIGHTS, Array
from prescreen.study import LABELS

#: The outputs of TorchXRayVision's DenseNets, in their order; the last four are none of ours.
XRV_LABELS = (
    *("Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema"),
    *("Fibrosis", "Effusion", "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass"),
    *("Hernia", "Lung Lesion", "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum"),
)
#: The largest file that is opened, in bytes: a DenseNet-121 with its optimiser has a tenth of it.
LARGEST = 1 << 30

_ALIASES = {
    "pleuraleffusion": "Effusion",
    "infiltrate": "Infiltration",
    "hiatalhernia": "Hernia",
    **{re.sub(r"[^a-z]", "", label.lower()): label for label in LABELS},
}
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "model.", "net.", "densenet121.")
_OLD_NAME = re.compile(r"\.(norm|relu|conv)\.([12])\.")
_HEAD = re.compile(r"classifier(?:\.\d+)?\.(weight|bias)")
_WHAT_FITS = (
    "A DenseNet-121 of TorchXRayVision, of CheXNet or of torchvision is what can be imported"
)
_HOW_LABELS = (
    "Name all outputs in order: --labels Atelectasis,Cardiomegaly,…; leave a name empty for one "
    "that was never trained"
)
_SAVE_AGAIN = (
    "Where you trust it, save its tensors alone, on another machine: "
    "torch.save(torch.load(FILE, weights_only=False).state_dict(), 'tensors.pt')"
)


@dataclass(frozen=True)
class Meaning:
    """What a site says of a checkpoint's outputs, in their order.

    `labels` names them, an empty name for one that was never trained; None: as is usual for the
    kind of checkpoint. `thresholds` maps names to operating points; None: those it brings along.
    """

    labels: Sequence[str] | None = None
    thresholds: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in our names: tensors for `plain.PlainNet`, and what may be said with them.

    `outputs` are its own names in order, `left_out` those that are no finding of ours.
    """

    kind: str
    architecture: str
    tensors: Mapping[str, Array]
    outputs: tuple[str, ...]
    left_out: tuple[str, ...]
    thresholds: Mapping[str, float]
    not_evaluated: Mapping[str, str]


def read(path: Path, meaning: Meaning | None = None) -> Checkpoint:
    """The checkpoint in `path`, complete and checked.

    Raises WeightsError, naming what is wrong and the way out, where the file is missing, damaged
    or wants to run code, where a tensor is missing, unknown, of another shape or not finite, and
    where it is not clear what the outputs mean.
    """
    meaning = meaning or Meaning()
    state = _counted_out(_tensors(path, contents(path)))
    carried = state.pop("op_threshs", None)
    named = _in_plain_names(state)
    head, tensors = _split(path, named)
    channels = _channels(path, tensors)
    kind = _kind(channels, state)
    outputs = _outputs(path, kind, len(head["weight"]), meaning.labels)
    points = _points(path, outputs, carried)
    rows = {v: k for v, k in _rows(path, outputs).items() if not math.isnan(points[k])}
    if not rows:
        raise WeightsError(f"{path}: none of its outputs is one of our findings. {_HOW_LABELS}")
    if meaning.thresholds is not None:
        points = _given(path, outputs, meaning.thresholds)
    thresholds = {v: points[k] for v, k in rows.items() if math.isfinite(points[k])}
    return Checkpoint(
        kind,
        next(name for name, count in plain.CHANNELS.items() if count == channels),
        _checked(path, tensors, head, channels, rows),
        outputs,
        tuple(v for v in outputs if v and _label_of(v) is None),
        thresholds,
        {v: NO_THRESHOLD if v in rows else NOT_IN_WEIGHTS for v in LABELS if v not in thresholds},
    )


# ---------------------------------------------------------------- opening


def contents(path: Path) -> Any:
    """What a safetensors file or a pickle of tensors holds; nothing of it has been run.

    Raises WeightsError where the file is missing, damaged, too large or asks to run code.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}; name the checkpoint's file") from error
    if size > LARGEST:
        raise WeightsError(f"{path}: {size >> 20} MiB are more than a DenseNet-121 can have")
    return _safetensors(path) if path.suffix == ".safetensors" else _unpickled(path)


def named(path: Path, found: Any) -> dict[str, Tensor]:
    """The tensors in what `contents` found in `path`, by the names that torchvision gives them.

    Of whatever network; without the counters of batch normalisation. Raises WeightsError where
    there are none.
    """
    return _in_plain_names(_counted_out(_tensors(path, found)))


def _tensors(path: Path, found: Any) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping):
        raise WeightsError(f"{path}: holds a {type(found).__name__}, no tensors by name")
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)}
    if not tensors:
        raise WeightsError(f"{path}: holds no tensors by name; save the network's state_dict()")
    return tensors


def _counted_out(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def _safetensors(path: Path) -> Mapping[str, Tensor]:
    try:
        return read_safetensors(path.read_bytes())
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        raise WeightsError(
            f"{path}: is damaged or no safetensors file ({error}); copy it here again"
        ) from error


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({names[0]})" if names else ""
        raise WeightsError(
            f"{path}: asks for more than tensors{what}; opening it could run code, so it is not "
            f"opened. {_SAVE_AGAIN}"
        ) from error
    except Exception as error:  # torch raises nearly anything over a file that is damaged
        raise WeightsError(
            f"{path}: is no checkpoint, or a damaged one ({type(error).__name__}); "
            "copy it here again, and compare its checksum with that of its source"
        ) from error


# ---------------------------------------------------------------- names and shapes


def _in_plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By the names that torchvision gives the same layers."""
    names = {name: name for name in state}
    for _ in range(len(_PREFIXES)):
        for prefix in _PREFIXES:
            if names and all(v.startswith(prefix) for v in names.values()):
                names = {k: v.removeprefix(prefix) for k, v in names.items()}
    return {_OLD_NAME.sub(r".\1\2.", v): state[k] for k, v in names.items()}


def _split(path: Path, named: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The last layer (`weight`, `bias`), and the rest of the network."""
    head, rest = {}, {}
    for name, tensor in named.items():
        match = _HEAD.fullmatch(name)
        if match:
            head[match[1]] = tensor
        else:
            rest[name] = tensor
    for part in ("weight", "bias"):
        if part not in head:
            raise WeightsError(f"{path}: classifier.{part} is missing. {_WHAT_FITS}")
    count = head["bias"].numel()
    if head["bias"].shape != (count,) or head["weight"].shape != (count, plain.FEATURES):
        shape = tuple(head["weight"].shape)
        wanted = f"({count}, {plain.FEATURES})"
        raise WeightsError(
            f"{path}: classifier.weight has shape {shape}, not {wanted}. {_WHAT_FITS}"
        )
    return head, rest


def _channels(path: Path, tensors: Mapping[str, Tensor]) -> int:
    first = tensors.get("features.conv0.weight")
    if first is None:
        raise WeightsError(f"{path}: features.conv0.weight is missing. {_WHAT_FITS}")
    channels = int(first.shape[1]) if first.dim() == 4 else 0
    if channels not in plain.CHANNELS.values():
        shape = tuple(first.shape)
        raise WeightsError(f"{path}: features.conv0.weight has shape {shape}. {_WHAT_FITS}")
    return channels


def _kind(channels: int, state: Mapping[str, Tensor]) -> str:
    if channels == 1:
        return "torchxrayvision"
    wrapped = any("densenet121." in name for name in state)
    return "chexnet" if wrapped else "torchvision"


def _checked(
    path: Path,
    tensors: Mapping[str, Tensor],
    head: Mapping[str, Tensor],
    channels: int,
    rows: Mapping[str, int],
) -> dict[str, Array]:
    """All tensors of a `PlainNet`, float32, or a WeightsError that names one."""
    network = plain.PlainNet(channels).state_dict()
    wanted = {
        name: tuple(tensor.shape)
        for name, tensor in network.items()
        if name.startswith("backbone.") and tensor.dtype.is_floating_point
    }
    given = {name.replace("features.", "backbone.", 1): v for name, v in tensors.items()}
    unknown = sorted(set(given) - set(wanted))
    if unknown:
        name = unknown[0].replace("backbone.", "features.", 1)
        raise WeightsError(f"{path}: the tensor {name} is not known. {_WHAT_FITS}")
    for name, shape in wanted.items():
        _require(path, name.replace("backbone.", "features.", 1), given.get(name), shape)
    for part in ("weight", "bias"):
        _require(path, f"classifier.{part}", head[part], tuple(head[part].shape))
    return {**{name: _plain(given[name]) for name in wanted}, **_own_head(head, rows)}


def _require(path: Path, name: str, tensor: Tensor | None, shape: tuple[int, ...]) -> None:
    if tensor is None:
        raise WeightsError(f"{path}: the tensor {name} is missing. {_WHAT_FITS}")
    if tuple(tensor.shape) != shape:
        found = tuple(tensor.shape)
        raise WeightsError(f"{path}: {name} has shape {found}, not {shape}. {_WHAT_FITS}")
    if not bool(torch.isfinite(tensor.float()).all()):
        raise WeightsError(
            f"{path}: {name} holds numbers that are not finite; "
            "its training diverged or the file is damaged: take another checkpoint"
        )


def _own_head(head: Mapping[str, Tensor], rows: Mapping[str, int]) -> dict[str, Array]:
    """The last layer in the order of LABELS; zero where there is no output for one."""
    weight = np.zeros((len(LABELS), plain.FEATURES), dtype=np.float32)
    bias = np.zeros(len(LABELS), dtype=np.float32)
    for label, row in rows.items():
        weight[LABELS.index(label)] = _plain(head["weight"])[row]
        bias[LABELS.index(label)] = _plain(head["bias"])[row]
    return {"head.weight": weight, "head.bias": bias}


def _plain(tensor: Tensor) -> Array:
    array: Array = tensor.detach().to(torch.float32).contiguous().numpy()
    return array


# ---------------------------------------------------------------- what the outputs mean


def _outputs(path: Path, kind: str, count: int, labels: Sequence[str] | None) -> tuple[str, ...]:
    usual = {"torchxrayvision": XRV_LABELS, "chexnet": LABELS}.get(kind, ())
    named = tuple(labels) if labels is not None else usual
    if labels is None and len(named) != count:
        what = "the 1,000 classes of ImageNet, no findings" if count == 1000 else "not named"
        raise WeightsError(f"{path}: its {count} outputs are {what}. {_HOW_LABELS}")
    if len(named) != count:
        raise WeightsError(f"{path}: it has {count} outputs, {len(named)} are named. {_HOW_LABELS}")
    return named


def _rows(path: Path, outputs: Sequence[str]) -> dict[str, int]:
    """Our label to the number of the output."""
    rows: dict[str, int] = {}
    for k, name in enumerate(outputs):
        label = _label_of(name)
        if label is not None and label in rows:
            raise WeightsError(f"{path}: two outputs are named {label}. {_HOW_LABELS}")
        if label is not None:
            rows[label] = k
    return rows


def _label_of(name: str) -> str | None:
    return _ALIASES.get(re.sub(r"[^a-z]", "", name.lower()))


def _points(path: Path, outputs: Sequence[str], carried: Tensor | None) -> list[float]:
    """Operating points by output: NaN for one never trained, infinity where none is known."""
    if carried is None:
        return [math.inf if name else math.nan for name in outputs]
    values = carried.flatten().tolist()
    if len(values) != len(outputs):
        raise WeightsError(f"{path}: {len(values)} op_threshs for {len(outputs)} outputs")
    wrong = [v for v in values if not math.isnan(v) and not 0 < v < 1]
    if wrong:
        raise WeightsError(f"{path}: op_threshs holds {wrong[0]}, which is not between 0 and 1")
    return [v if name else math.nan for v, name in zip(values, outputs, strict=True)]


def _given(path: Path, outputs: Sequence[str], thresholds: Mapping[str, float]) -> list[float]:
    """The site's operating points by output, infinity where it gave none."""
    given = {_label_of(name) or name: float(v) for name, v in thresholds.items()}
    for name, value in given.items():
        if not 0 < value < 1:
            raise WeightsError(f"the threshold of {name}, {value}, is not between 0 and 1")
    labels = [_label_of(name) or name for name in outputs]
    strangers = sorted(set(given) - set(labels))
    if strangers:
        raise WeightsError(f"{path}: no output is named {strangers[0]}, but a threshold is")
    return [given.get(label, math.inf) for label in labels]
