"""Train the U-Net that draws lungs and heart. Read from top to bottom.

    python -m train.lungs_heart                                  first round, on the drawn masks
    python -m train.lungs_heart --network "unet(16, 32, 64, 128, 128)" --epochs 45
                                 --learning-rate 3e-3            from scratch, without ImageNet
    python -m train.lungs_heart --teacher RUN/last.pt            second round: the first network's
                                                                 masks on undrawn radiographs too

The second round is what makes it hold on films from other hospitals: the student sees the
teacher's masks under distortions, shadows and exposures that the teacher never had to bear.

Several GPUs: torchrun --standalone --nproc-per-node N -m -- train.lungs_heart ...
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from prescreen.nets import inputs, unet
from train import augment, checkpoint, curves, data, machine, teacher
from train.pictures import told

# ---------------------------------------------------------------- config


@dataclass(frozen=True)
class Config:
    run: str = "lungs_heart"
    seed: int = 1
    network: str = "unet_efficientnet_lite0"  # one of unet.SEGMENTERS
    weights_from: str = "imagenet"  # of the encoder, where it has any; or `none`
    size: int = unet.INPUT_SIZE
    folds: int = 5
    fold: int = 0  # which fifth is held out; -1 trains on all, for weights that ship
    stopping: float = 0.0  # share of the remaining radiographs that early stopping looks at
    patience: int = 5  # epochs without a better mean Dice there
    epochs: int = 24
    batch: int = 8  # on each GPU
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-4
    bce_weight: float = 1.0  # beside the paper's Dice loss, which alone finds the heart late
    gentle: float = 0.7  # share of the batches that are distorted little
    ema: float = 0.99
    teacher: str = ""  # checkpoint of the first round; empty in the first round
    undrawn: int = 800  # radiographs without masks that the second round adds
    amp: bool = True  # bfloat16 where there is a GPU
    threads: int = 0  # 0: as torch decides


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class Part:
    """Radiographs with masks, all in memory: some hundreds, at 256 KiB each."""

    pixels: Tensor  # (n, 1, s, s) uint8
    masks: Tensor  # (n, 3, s, s) uint8, 0 or 255, or what a teacher is sure of

    @classmethod
    def of(cls, pictures: list[data.MaskedPicture]) -> Part:
        if not pictures:
            return cls(torch.zeros(0, 1, 0, 0), torch.zeros(0, 3, 0, 0))
        pixels = np.stack([p.pixels for p in pictures])[:, None]
        masks = np.stack([p.masks for p in pictures]).astype(np.uint8) * 255
        return cls(torch.from_numpy(pixels), torch.from_numpy(masks))

    def with_more(self, pixels: Tensor, masks: Tensor) -> Part:
        return Part(torch.cat([self.pixels, pixels]), torch.cat([self.masks, masks]))


def taught_tensors(config: Config) -> tuple[Tensor, Tensor]:
    """Undrawn radiographs with the teacher's masks, where these look like lungs and a heart."""
    listed = data.read_chestxray14(data.data_dir() / "chestxray14")
    usable = [p for p in listed if p.official_split == "train_val"]
    usable.sort(key=lambda p: data.share_of(p.path.name, config.seed))
    master = trained(Path(config.teacher)).to(machine.device())
    chosen = usable[: config.undrawn]
    pixels, masks = [], []
    for picture in told(chosen, len(chosen), "the teacher's masks"):
        x = torch.from_numpy(data.read_picture(picture.path, config.size).copy())[None, None]
        with torch.inference_mode():
            drawn = averaged(master, inputs.stretch(x / 255.0).to(machine.device())).cpu()
        if plausible(drawn[0]):
            pixels.append(x)
            masks.append((drawn * 255).round().to(torch.uint8))
    machine.say(f"teacher's masks kept for {len(pixels)} of {len(chosen)} radiographs")
    if not pixels:
        raise data.DataError(
            f"teacher: {config.teacher} drew no lungs and heart worth learning from on these "
            f"{len(chosen)} radiographs; name a run that has learnt more"
        )
    return torch.cat(pixels), torch.cat(masks)


def averaged(network: unet.Segmenter, x: Tensor) -> Tensor:
    """Sigmoids (1, 3, s, s), the mean of three views: as it is, turned a little left, and right."""
    views = []
    for angle in (0.0, -_TURN, _TURN):
        there, back = (_turned(a, x.shape[-1]).to(x.device) for a in (angle, -angle))
        seen = torch.sigmoid(network(augment.warped(x, there, border=True)))
        views.append(augment.warped(seen, back))
    return torch.stack(views).mean(dim=0)


_TURN = 0.07  # radians


def _turned(angle: float, size: int) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    theta = torch.tensor([[[cos, -sin, 0.0], [sin, cos, 0.0]]])
    return functional.affine_grid(theta, [1, 1, size, size], align_corners=False)


def plausible(drawn: Tensor) -> bool:
    """Whether the sigmoids (3, s, s) are sure of themselves and cover what lungs and heart may."""
    area = (drawn > 0.5).float().mean(dim=(1, 2))
    sure = ((drawn - 0.5).abs() > 0.4).float().mean()
    return bool(area[:2].min() > 0.03 and 0.02 < area[2] < 0.25 and sure > 0.93)


def training_view(
    pixels: Tensor, masks: Tensor, g: torch.Generator, gentle: float
) -> tuple[Tensor, Tensor]:
    """A distorted batch as the network sees it, float32 0…1, with its masks likewise."""
    n, size = pixels.shape[0], pixels.shape[-1]
    mild = bool(torch.rand(1, generator=g) < gentle)
    grid = augment.random_grid(n, size, g, strength=0.4 if mild else 1.0)
    border = bool(torch.rand(1, generator=g) < 0.5)
    x = augment.warped(pixels / 255.0, grid, border)  # (n, 1, s, s)
    y = augment.warped(masks / 255.0, grid)  # (n, 3, s, s)
    if mild:
        return inputs.stretch(augment.exposed(x, g, strength=0.4)), y
    x = augment.clouded(augment.hidden(x, y, g), g)
    x = augment.framed(augment.grainy(augment.exposed(x, g), g), g)
    return inputs.stretch(x), y


# ---------------------------------------------------------------- network


def started(config: Config) -> unet.Segmenter:
    """An untrained network, its encoder as `weights_from` says, or the teacher's knowledge."""
    if config.network not in unet.SEGMENTERS:
        raise data.DataError(f"network: {config.network!r} is none of {', '.join(unet.SEGMENTERS)}")
    network = unet.SEGMENTERS[config.network]()
    if config.teacher:  # the student goes on from what the teacher knows
        network.load_state_dict(trained(Path(config.teacher)).state_dict())
    elif isinstance(network, unet.LiteUNet) and config.weights_from == "imagenet":
        seen = teacher.imagenet("efficientnet_lite0")
        known = network.state_dict()
        network.load_state_dict(known | {k: v for k, v in seen.items() if k in known})
    return network


def trained(path: Path) -> unet.Segmenter:
    """The averaged network of a checkpoint, ready to draw. Raises DataError as `read` does."""
    return drawing(checkpoint.read(path))


def drawing(saved: Mapping[str, Any]) -> unet.Segmenter:
    """The averaged network in a checkpoint that has been read, ready to draw."""
    network = unet.SEGMENTERS[network_of(saved["config"])]().eval()
    network.load_state_dict(saved["ema"])
    return network


def network_of(config: Mapping[str, Any]) -> str:
    """The name of the network in a checkpoint's config; older runs knew one and do not name it."""
    return str(config.get("network", f"unet{unet.WIDTHS}"))


# ---------------------------------------------------------------- validation


@torch.inference_mode()
def validate(network: unet.Segmenter, part: Part) -> list[float]:
    """Mean Dice per organ on undistorted pictures; lungs scored outside the drawn heart."""
    if not len(part.pixels):
        return []
    scores = []
    for x, y in zip(torch.split(part.pixels, 16), torch.split(part.masks, 16), strict=True):
        truth = (y > 127).float().to(machine.device())
        seen = inputs.stretch(x / 255.0).to(machine.device())
        drawn = (torch.sigmoid(network(seen)) > 0.5).float()
        drawn[:, :2] *= 1 - truth[:, 2:]
        scores.append(unet.dice(drawn, truth))
    return [round(float(v), 4) for v in torch.cat(scores).mean(dim=0)]


def mean_dice(log: checkpoint.Log) -> list[float]:
    """Of each epoch; 0 where nothing was looked at."""
    return [sum(entry["dice"]) / max(1, len(entry["dice"])) for entry in log]


# ---------------------------------------------------------------- loop


@dataclass(frozen=True)
class Run:
    """What an epoch changes and reads."""

    network: unet.Segmenter
    average: unet.Segmenter
    optimiser: torch.optim.Optimizer
    train: Part
    weight: Tensor  # (n,): how often each radiograph is drawn, beside the others


def main(config: Config) -> Path:
    """Train and return the folder of the run; picks up where a killed run stopped."""
    machine.start(config.seed, config.threads)
    folder = data.runs_dir() / config.run
    folder.mkdir(parents=True, exist_ok=True)
    train, weight, stopping, held = parts_of(config)

    network, average = (started(config).to(machine.device()) for _ in range(2))
    network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=config.weight_decay)
    log = checkpoint.resume(folder, network, average.eval(), optimiser)
    run = Run(machine.shared(network), average, optimiser, train, weight)
    watched = stopping if config.stopping else held

    while len(log) < config.epochs and not tired(config, log):
        began = time.monotonic()
        loss = one_epoch(config, run, len(log))
        scores = machine.as_the_first_found(lambda: validate(average, watched))
        log.append({"epoch": len(log) + 1, "loss": loss, "dice": scores})
        machine.say(f"{json.dumps(log[-1])} {time.monotonic() - began:.0f} s")
        if machine.rank() == 0:
            best = bool(config.stopping) and checkpoint.is_best(mean_dice(log))
            checkpoint.save(folder, config, network, average, optimiser, log, best)
            curves.keep(folder, log)
        machine.wait()
    return folder


def one_epoch(config: Config, run: Run, epoch: int) -> float:
    """Train for one epoch; the mean loss, of several processes this one's."""
    run.network.train()
    # in step in all processes, so that no radiograph is in a step twice; the distortions are not
    g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
    own = torch.Generator().manual_seed(config.seed * 1000 + epoch + 100_000 * machine.rank())
    own = own if machine.world() > 1 else g
    together = config.batch * machine.world()
    steps, total = max(1, int(run.weight.sum()) // together), 0.0
    for step in machine.progress(range(steps), f"epoch {epoch + 1}"):
        for group in run.optimiser.param_groups:
            group["lr"] = rate_at(config, (epoch + step / steps) / config.epochs)
        drawn = torch.multinomial(run.weight, together, generator=g)
        index = drawn[machine.rank() :: machine.world()]
        x, y = training_view(run.train.pixels[index], run.train.masks[index], own, config.gentle)
        x, y = x.to(machine.device()), y.to(machine.device())
        with machine.mixed_precision(config.amp):
            logits = run.network(x).float()  # (batch, 3, s, s)
        sure = functional.binary_cross_entropy_with_logits(logits, y)
        loss = unet.dice_loss(logits, y) + config.bce_weight * sure
        run.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
        run.optimiser.step()
        checkpoint.follow(run.average, run.network, config.ema, epoch * steps + step)
        total += float(loss.detach())
    return round(total / steps, 4)


def tired(config: Config, log: checkpoint.Log) -> bool:
    """Whether early stopping ends the run here."""
    return bool(config.stopping) and checkpoint.tired(mean_dice(log), config.patience)


def fold_of(config: Config, name: str) -> int:
    """The fold of a radiograph, by its name and the seed alone."""
    return int(data.share_of(name, config.seed) * config.folds)


def parts_of(config: Config) -> tuple[Part, Tensor, Part, Part]:
    """What is trained on and how often each is drawn, what early stopping looks at, what is held
    out."""
    pictures = data.read_lungs_heart(data.data_dir() / "lungs_heart", config.size)
    held = [p for p in pictures if fold_of(config, p.name) == config.fold]
    rest = [p for p in pictures if fold_of(config, p.name) != config.fold]
    stopping = [p for p in rest if data.share_of(p.name, config.seed + 1) < config.stopping]
    chosen = [p for p in rest if data.share_of(p.name, config.seed + 1) >= config.stopping]
    machine.say(f"{len(chosen)} drawn radiographs to train on, {len(held)} held out")
    if config.stopping and not stopping:
        raise data.DataError(
            f"stopping: {config.stopping} of {len(rest)} radiographs is none of them; choose a "
            "greater share, or 0"
        )
    train, weight = Part.of(chosen), torch.ones(len(chosen))
    if config.teacher:
        more = taught_tensors(config)
        train = train.with_more(*more)
        weight = torch.cat([weight, torch.full((len(more[0]),), 0.35)])
    if (together := config.batch * machine.world()) > len(weight):
        raise data.DataError(
            f"batch: a step takes {together} radiographs, and there are {len(weight)} to train on"
        )
    return train, weight, Part.of(stopping), Part.of(held)


def rate_at(config: Config, done: float) -> float:
    """The learning rate at a share `done` of the training: a short rise, then half a cosine."""
    rise = min(1.0, done * 20 + 0.05)
    return config.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * done))


if __name__ == "__main__":
    print(main(checkpoint.arguments(Config, __doc__)))
