"""Let a backbone learn from radiographs without labels or teacher: Barlow Twins. Top to bottom.

    python -m train.twins --run twins --backbone densenet121 --size 96 --epochs 5

Two distorted views of a radiograph shall give the same numbers, and each number shall say something
that no other says (Zbontar et al., arXiv 2103.03230). What it learnt is a start for others:

    python -m train.findings --backbone densenet121 --weights-from RUN/last.pt \\
                             --schedule probe:224x1
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from prescreen.nets import inputs
from train import augment, checkpoint, data, findings, machine, views

# ---------------------------------------------------------------- config


@dataclass(frozen=True)
class Config:
    run: str = "twins"
    seed: int = 1
    preset: str = "chexnet"  # the backbone alone learns: no attention, no masks
    backbone: str = "densenet121"
    weights_from: str = "none"  # or `imagenet`, or the last.pt of a run of the same backbone
    size: int = 96
    epochs: int = 5
    batch: int = 32
    numbers: int = 128  # that a view is described by
    strength: float = 0.5  # of the distortions, as `augment` counts it
    redundancy: float = 0.01  # weight of what two numbers say alike
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    ema: float = 0.98
    workers: int = 0
    threads: int = 0


# ---------------------------------------------------------------- network and loss


class Pair(nn.Module):
    """A network of findings, of which the backbone learns, with a projection to `numbers`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.net = findings.started(_start(config)).net
        self.project = nn.Sequential(
            nn.Linear(self.net.channels, config.numbers, bias=False),
            nn.BatchNorm1d(config.numbers),
            nn.ReLU(inplace=True),
            nn.Linear(config.numbers, config.numbers, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        described: Tensor = self.project(self.net.features(x).mean(dim=(2, 3)))
        return described


def _start(config: Config) -> findings.Config:
    return findings.Config(
        preset=config.preset,
        backbone=config.backbone,
        weights_from=config.weights_from,
        schedule=f"label:{config.size}x0",
    )


def twins_loss(one: Tensor, other: Tensor, redundancy: float) -> Tensor:
    """How far the cross-correlation of two views' numbers, (n, k) each, is from the identity."""
    a, b = (nn.functional.batch_norm(v, None, None, training=True) for v in (one, other))
    correlation = a.T @ b / len(a)  # (k, k)
    same = correlation.diagonal()
    rest = correlation.square().sum() - same.square().sum()
    return (1.0 - same).square().sum() + redundancy * rest


# ---------------------------------------------------------------- loop


def view_of(config: Config, pixels: Tensor, g: torch.Generator) -> Tensor:
    """One distorted view (n, 1, size, size) of uint8 pictures, as the network sees it."""
    grid = augment.random_grid(len(pixels), config.size, g, config.strength)
    x = augment.exposed(augment.warped(pixels / 255.0, grid), g, config.strength)
    return inputs.stretch(x).to(machine.device()).contiguous(memory_format=torch.channels_last)


def one_epoch(
    config: Config, pair: Pair, average: Pair, optimiser: torch.optim.Optimizer, epoch: int
) -> float:
    """Train for one epoch; the mean loss."""
    listed = data.read_chestxray14(data.data_dir() / "chestxray14")
    paths = [p.path for p in listed if p.official_split != "test"]
    side = min(inputs.COMMON_SIZE, config.size * 9 // 8)
    loader = views.shuffled(paths, side, config.batch, config.workers, config.seed, epoch)
    g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
    total = 0.0
    pair.train()
    for step, (pixels, _) in enumerate(machine.progress(loader, f"epoch {epoch + 1}")):
        done = (epoch + step / len(loader)) / config.epochs
        for group in optimiser.param_groups:
            rise = min(1.0, done * 20 + 0.05)
            group["lr"] = config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * done))
        one, other = (pair(view_of(config, pixels, g)) for _ in range(2))
        loss = twins_loss(one, other, config.redundancy)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        checkpoint.follow(average, pair, config.ema, epoch * len(loader) + step)
        total += float(loss.detach())
    return total / max(1, len(loader))


def main(config: Config) -> Path:
    """Train and return the folder of the run; picks up where a killed run stopped."""
    machine.start(config.seed, config.threads)
    folder = data.runs_dir() / config.run
    folder.mkdir(parents=True, exist_ok=True)
    pair, average = Pair(config), Pair(config).eval()
    optimiser = torch.optim.AdamW(pair.parameters(), weight_decay=config.weight_decay)
    log = checkpoint.resume(folder, pair, average, optimiser)
    for epoch in range(len(log), config.epochs):
        began = time.monotonic()
        loss = one_epoch(config, pair, average, optimiser, epoch)
        seconds = round(time.monotonic() - began)
        log.append({"epoch": epoch + 1, "loss": round(loss, 4), "seconds": seconds})
        print(json.dumps(log[-1]), flush=True)
        checkpoint.save(folder, config, pair, average, optimiser, log)
    return folder


if __name__ == "__main__":
    print(main(checkpoint.arguments(Config, __doc__)))
