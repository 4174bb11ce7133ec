"""What a run keeps: one file, whole after every epoch, with the config that made it."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from prescreen.errors import WeightsError
from prescreen.nets import checkpoint as foreign
from train.data import DataError

C = TypeVar("C")
Log = list[dict[str, Any]]


def arguments(config: type[C], doc: str | None) -> C:
    """A config from the command line: one option a field, with the field's default."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for field in dataclasses.fields(config):  # type: ignore[arg-type]
        name = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, bool):
            parser.add_argument(name, default=field.default, action=argparse.BooleanOptionalAction)
        else:
            kind: Any = type(field.default)
            parser.add_argument(name, type=kind, default=field.default, help=f"{field.default!r}")
    return config(**vars(parser.parse_args()))


def read(path: Path) -> dict[str, Any]:
    """A checkpoint of a run. Only tensors and plain values are unpickled.

    Raises DataError where there is none, or none of ours.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: name the last.pt of a finished run")
    try:
        saved = foreign.contents(path)
    except WeightsError as error:
        raise DataError(str(error)) from error
    if not isinstance(saved, dict) or "config" not in saved:
        raise DataError(f"{path} is no checkpoint of a run: name the last.pt of a finished one")
    return saved


def is_best(scores: Sequence[float]) -> bool:
    """Whether the last epoch has the best score so far."""
    return scores[-1] >= max(scores)


def tired(scores: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` epochs were none better than the best before them."""
    return len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])


def counting(folder: Path) -> Path:
    """The file of a run that counts: with early stopping `best.pt`, else `last.pt`.

    DataError where the run has none. A `best.pt` that another config left is not looked at.
    """
    stopping = read(folder / "last.pt")["config"].get("stopping", 0.0)
    best = folder / "best.pt"
    return best if stopping and best.is_file() else folder / "last.pt"


def part(path: Path, which: str, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of `network` or `ema` whose names start with `prefix`, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in read(path)[which].items()
        if name.startswith(prefix)
    }


def save(
    folder: Path,
    config: object,
    network: nn.Module,
    average: nn.Module,
    optimiser: torch.optim.Optimizer,
    log: Log,
    best: bool = False,
) -> None:
    """Write `last.pt`, replacing the one before in one step, and `log.json` beside it.

    `best` writes `best.pt` as well, in the same way and before: a run that is killed between the
    two does the epoch again.
    """
    state = {"network": network.state_dict(), "ema": average.state_dict()}
    rest = {"optimiser": optimiser.state_dict(), "log": log, "epoch": len(log)}
    saved = {**state, **rest, "config": dataclasses.asdict(config)}  # type: ignore[call-overload]
    for name in ("best.pt", "last.pt") if best else ("last.pt",):
        torch.save(saved, folder / "next.pt")
        (folder / "next.pt").replace(folder / name)
    (folder / "log.json").write_text(json.dumps(log, indent=1), encoding="utf-8")


def resume(
    folder: Path, network: nn.Module, average: nn.Module, optimiser: torch.optim.Optimizer
) -> Log:
    """Load `last.pt` into all three where there is one; the log says how many epochs are done."""
    if not (folder / "last.pt").is_file():
        average.load_state_dict(network.state_dict())
        return []
    saved = read(folder / "last.pt")
    network.load_state_dict(saved["network"])
    average.load_state_dict(saved["ema"])
    optimiser.load_state_dict(saved["optimiser"])
    log: Log = saved["log"]
    return log


@torch.no_grad()
def follow(average: nn.Module, network: nn.Module, decay: float, step: int) -> None:
    """Move the averaged weights and statistics towards the network's, faster at the start."""
    decay = min(decay, (1 + step) / (10 + step))
    pairs = zip(average.state_dict().values(), network.state_dict().values(), strict=True)
    for ours, theirs in pairs:
        if ours.dtype.is_floating_point:
            ours.lerp_(theirs, 1.0 - decay)
        else:
            ours.copy_(theirs)
