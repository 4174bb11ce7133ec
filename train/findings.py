"""Train DenseNet-121 with attention and masked weighting on the 14 findings. Top to bottom.

    python -m train.findings --lungs-heart RUN/last.pt

There is no ImageNet DenseNet-121 to start from, so the network first learns to give the features
that EfficientNet-Lite0 (ImageNet) gives on the same radiographs, at low resolution and without
labels; then the labels join in, at growing resolution. Patients held out are in neither part.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from prescreen.nets import densenet, inputs, unet
from train import augment, checkpoint, data, figures, teacher

# ---------------------------------------------------------------- config


@dataclass(frozen=True)
class Config:
    run: str = "findings"
    seed: int = 1
    preset: str = "paper"
    open_gate: bool = True  # the attention starts near 1
    held_out: float = 0.2  # share of the train_val patients that figures are taken from
    lungs_heart: str = ""  # checkpoint of the segmentation network
    schedule: str = "distil:128x6,label:160x6,label:224x2"  # what:size x epochs
    batch: int = 16
    learning_rate: float = 1e-3  # while distilling
    label_rate: float = 3e-4  # of the backbone once labels join in
    head_rate: float = 1e-3
    weight_decay: float = 0.02
    distil_weight: float = 0.5  # of the teacher once labels join in
    ema: float = 0.998
    views: int = 4  # geometric variants of each radiograph that the teacher has seen
    teacher_size: int = 256
    components: int = 256  # principal components of the teacher's 1,280 channels
    workers: int = 0
    threads: int = 0


def phases(schedule: str) -> list[tuple[str, int, int]]:
    """`distil:128x12,label:224x4` to [("distil", 128, 12), ("label", 224, 4)]."""
    parts = []
    for part in schedule.split(","):
        what, _, rest = part.partition(":")
        size, _, epochs = rest.partition("x")
        if what not in ("distil", "label") or not (size.isdigit() and epochs.isdigit()):
            raise data.DataError(f"schedule: {part!r} is not distil:SIZExEPOCHS or label:...")
        parts.append((what, int(size), int(epochs)))
    return parts


# ---------------------------------------------------------------- data


class Pictures(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """(1, s, s) uint8 pictures, decoded when asked for, with their index."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.from_numpy(data.read_picture(self.paths[index], self.size).copy())[None], index


def grid_of(index: Tensor, view: Tensor, size: int) -> Tensor:
    """The sampling grids (n, size, size, 2) of these radiographs' views: the same ever again."""
    grids = []
    for i, v in zip(index.tolist(), view.tolist(), strict=True):
        g = torch.Generator().manual_seed(i * 64 + v)
        grids.append(augment.random_grid(1, size, g, strength=0.5 if v else 0.0))
    return torch.cat(grids)


@torch.inference_mode()
def teach(config: Config, loader: Loader, folder: Path) -> np.memmap | None:
    """What the teacher sees in every view of every radiograph: float16 (n, views, c, g, g).

    None where no part of the plan asks for it. Written once per run; its channels are principal
    components, half whitened.
    """
    if config.distil_weight == 0 and "distil" not in config.schedule:
        return None
    path, count = folder / "teacher.npy", len(loader.dataset.paths)
    grid = config.teacher_size // 32
    shape = (count, config.views, config.components, grid, grid)
    if path.is_file():
        return np.lib.format.open_memmap(path, mode="r")
    master = teacher.load()
    master.to(memory_format=torch.channels_last)
    mean = basis = None
    part = path.with_suffix(".part")
    taught = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
    for done, (x, index) in enumerate(loader):
        maps = []
        for v in range(config.views):
            view = torch.full_like(index, v)
            warped = augment.warped(x / 255.0, grid_of(index, view, config.teacher_size))
            maps.append(master(inputs.stretch(warped)))
        seen = torch.stack(maps, dim=1)  # (n, views, 1280, g, g)
        if basis is None or mean is None:
            mean, basis = principal(seen, config.components)
        flat = torch.einsum("nvchw,ck->nvkhw", seen - mean.view(1, 1, -1, 1, 1), basis)
        taught[index.numpy()] = flat.half().numpy()
        if done % 20 == 0:
            print(f"teacher: {done * len(index)} of {count}", flush=True)
    taught.flush()
    part.replace(path)
    return np.lib.format.open_memmap(path, mode="r")


def principal(seen: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Mean (1280,) and half-whitening basis (1280, k) of feature maps (n, v, 1280, g, g)."""
    cells = seen.permute(0, 1, 3, 4, 2).reshape(-1, seen.shape[2])
    mean = cells.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.cov((cells - mean).T))
    values, vectors = values[-components:], vectors[:, -components:]
    scale = values.clamp_min(1e-4) ** -0.25
    return mean, vectors * scale / (values * scale**2).mean().sqrt()


@torch.inference_mode()
def draw(config: Config, loader: Loader) -> Tensor:
    """Lungs and heart of every radiograph together, uint8 (n, 1, 64, 64)."""
    network = unet.UNet().eval()
    network.load_state_dict(checkpoint.read(Path(config.lungs_heart))["ema"])
    drawn = torch.zeros(len(loader.dataset.paths), 1, 64, 64, dtype=torch.uint8)
    for x, index in loader:
        logits = network(inputs.stretch(inputs.resized(x / 255.0, unet.INPUT_SIZE)))
        union = (logits > 0).any(dim=1, keepdim=True).float()
        drawn[index] = (functional.adaptive_avg_pool2d(union, 64) * 255).round().to(torch.uint8)
    return drawn


class Loader(torch.utils.data.DataLoader[tuple[Tensor, int]]):
    """Batches of `Pictures`."""

    dataset: Pictures


def loader_of(config: Config, paths: list[Path], size: int, epoch: int | None) -> Loader:
    """In order where `epoch` is None, else shuffled by seed and epoch with whole batches only."""
    g = torch.Generator().manual_seed(config.seed * 1000 + (epoch or 0))
    return Loader(
        Pictures(paths, size),
        batch_size=config.batch,
        shuffle=epoch is not None,
        drop_last=epoch is not None,
        num_workers=config.workers,
        generator=g,
    )


# ---------------------------------------------------------------- network


class Student(nn.Module):
    """The network to be shipped, with a projection to the teacher's features for training."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        switches = densenet.PRESETS[config.preset]
        self.net = densenet.FindingsNet(dataclasses.replace(switches, open_gate=config.open_gate))
        self.to_teacher = nn.Conv2d(densenet.CHANNELS, config.components, 1)

    def teacher_loss(self, features: Tensor, taught: Tensor) -> Tensor:
        """Squared error cell by cell and of the whole picture's mean, which counts double."""
        ours: Tensor = self.to_teacher(features)
        theirs = functional.adaptive_avg_pool2d(taught, (ours.shape[2], ours.shape[3]))
        whole = (ours.mean(dim=(2, 3)) - theirs.mean(dim=(2, 3))).square().mean()
        return (ours - theirs).square().mean() + 2.0 * whole


def optimiser_of(config: Config, student: Student) -> torch.optim.Optimizer:
    heads = [*student.net.head.parameters(), *student.net.head_unmasked.parameters()]
    named = {id(p) for p in heads}
    rest = [p for p in student.parameters() if id(p) not in named]
    groups = [{"params": rest, "role": "backbone"}, {"params": heads, "role": "head"}]
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay)


# ---------------------------------------------------------------- validation


@torch.inference_mode()
def predict(net: densenet.FindingsNet, loader: Loader, masks: Tensor, size: int) -> Tensor:
    """Probabilities (n, 2, 14), masked and unmasked, of the pictures in order. No labels here."""
    net.eval()
    seen = []
    for x, index in loader:
        x = inputs.stretch(inputs.resized(x / 255.0, size))
        out = net(x.contiguous(memory_format=torch.channels_last), masks[index] / 255.0)
        seen.append(torch.sigmoid(torch.stack([out.masked, out.unmasked], dim=1)))
    return torch.cat(seen)


def mean_auroc(probabilities: Tensor, labels: Tensor) -> float:
    """Over the labels that have both positives and negatives."""
    scores, truth = probabilities.numpy(), labels.numpy()
    areas = [figures.auroc(truth[:, k], scores[:, k]) for k in range(truth.shape[1])]
    return float(np.mean([area for area in areas if area is not None]))


# ---------------------------------------------------------------- loop


@dataclass(frozen=True)
class Part:
    """The radiographs of one part of the split; `masks` (n, 1, 64, 64) from the first label on."""

    paths: list[Path]
    labels: Tensor  # (n, 14) float32
    masks: Tensor | None = None

    @classmethod
    def of(cls, pictures: list[data.LabelledPicture]) -> Part:
        labels = torch.tensor([p.labels for p in pictures], dtype=torch.float32)
        return cls([p.path for p in pictures], labels)

    def drawn(self, config: Config) -> Part:
        loader = loader_of(config, self.paths, inputs.COMMON_SIZE, None)
        return dataclasses.replace(self, masks=draw(config, loader))


def main(config: Config) -> Path:
    """Train and return the folder of the run; picks up where a killed run stopped."""
    torch.manual_seed(config.seed)
    if config.threads:
        torch.set_num_threads(config.threads)
    folder = data.runs_dir() / config.run
    folder.mkdir(parents=True, exist_ok=True)

    listed = data.read_chestxray14(data.data_dir() / "chestxray14")
    parts = data.split_by_patient(listed, config.held_out, config.seed)
    train, held = Part.of(parts[0]), Part.of(parts[1])
    print(f"{len(train.paths)} radiographs to train on, {len(held.paths)} held out", flush=True)
    taught = teach(config, loader_of(config, train.paths, config.teacher_size, None), folder)

    student, average = Student(config), Student(config).eval()
    student.to(memory_format=torch.channels_last)
    optimiser = optimiser_of(config, student)
    log = checkpoint.resume(folder, student, average, optimiser)
    plan = [phase for phase in phases(config.schedule) for _ in range(phase[2])]

    for epoch in range(len(log), len(plan)):
        what, size, _ = plan[epoch]
        if what == "label" and train.masks is None:
            train, held = train.drawn(config), held.drawn(config)
        g = torch.Generator().manual_seed(config.seed * 1000 + epoch)
        began, total = time.monotonic(), torch.zeros(2)
        loader = loader_of(config, train.paths, min(inputs.COMMON_SIZE, size * 9 // 8), epoch)
        student.train()
        for step, (pixels, index) in enumerate(loader):
            for group in optimiser.param_groups:
                group["lr"] = rate_at(config, epoch + step / len(loader), group["role"])
            view = torch.randint(config.views, (len(index),), generator=g)
            grid = grid_of(index, view, size)
            x = augment.exposed(augment.warped(pixels / 255.0, grid), g, strength=0.5)
            x = inputs.stretch(x).contiguous(memory_format=torch.channels_last)
            features = student.net.features(x)  # (n, 1024, size/32, size/32)
            from_teacher = from_labels = torch.zeros(())
            if taught is not None:
                theirs = torch.from_numpy(taught[index.numpy(), view.numpy()]).float()
                from_teacher = student.teacher_loss(features, theirs)
            loss = from_teacher
            if what == "label" and train.masks is not None:
                masks = augment.warped(train.masks[index] / 255.0, grid)
                from_labels = label_loss(student.net.judge(features, masks), train.labels[index])
                loss = from_labels + config.distil_weight * from_teacher
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(student.parameters(), 2.0)
            optimiser.step()
            checkpoint.follow(average, student, config.ema, epoch * len(loader) + step)
            total += torch.stack([from_teacher.detach(), from_labels.detach()])
        losses = [round(float(v), 4) for v in total / len(loader)]
        entry = {"epoch": epoch + 1, "what": what, "size": size, "losses": losses}
        log.append(entry | validated(config, average, held, size))
        print(json.dumps(log[-1]), f"{time.monotonic() - began:.0f} s", flush=True)
        checkpoint.save(folder, config, student, average, optimiser, log)
    return folder


def rate_at(config: Config, epoch: float, role: str) -> float:
    """The learning rate of one parameter group: in each phase it rises, then falls to 0."""
    what, done = "label", 1.0
    for phase, _, epochs in phases(config.schedule):
        if epoch < epochs:
            what, done = phase, epoch / epochs
            break
        epoch -= epochs
    highest = config.label_rate if what == "label" else config.learning_rate
    if role == "head":
        highest = config.head_rate
    return highest * min(1.0, done * 25 + 0.02) * 0.5 * (1 + math.cos(math.pi * done))


def label_loss(seen: densenet.Seen, labels: Tensor) -> Tensor:
    """Binary cross-entropy of both heads, mean over the batch and the 14 labels."""
    masked = functional.binary_cross_entropy_with_logits(seen.masked, labels)
    return masked + functional.binary_cross_entropy_with_logits(seen.unmasked, labels)


def validated(config: Config, average: Student, held: Part, size: int) -> dict[str, float]:
    """Mean AUROC of both heads on the held-out part, once there are masks."""
    if held.masks is None:
        return {}
    loader = loader_of(config, held.paths, inputs.COMMON_SIZE, None)
    p = predict(average.net, loader, held.masks, size)
    areas = [round(mean_auroc(p[:, head], held.labels), 4) for head in range(2)]
    return {"auroc_masked": areas[0], "auroc_unmasked": areas[1]}


if __name__ == "__main__":
    print(main(checkpoint.arguments(Config, __doc__)))
