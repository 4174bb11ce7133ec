"""Train the network of the 14 findings: attention, a backbone, masked weighting. Top to bottom.

    python -m train.findings --lungs-heart RUN/last.pt --fold 0       one of five folds
    python -m train.findings --lungs-heart RUN/last.pt --fold -1      all, for weights that ship
    python -m train.findings --lungs-heart RUN/last.pt --preset dcnn  another row of the paper

A preset is a network with a start and a schedule of its own; --backbone, --weights-from and
--schedule name others. A site's own radiographs, from the weights that ship:

    python -m train.findings --dicom FOLDER --labels CSV --lungs-heart weights \\
                             --weights-from weights --schedule label:320x5 --fold 0

Where ImageNet weights of the backbone can be had (--weights-from imagenet), the heads are first
fitted to its features in closed form (`probe`), then trained on. DenseNet-121 has none here: it
first learns to give the features that EfficientNet-Lite0 gives on the same radiographs, at low
resolution and without labels (`distil`). No patient of the fold held out is in any part that sees
labels.

Several GPUs: torchrun --standalone --nproc-per-node N -m -- train.findings ...
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from prescreen.nets import densenet, inputs
from prescreen.nets.backbones import BACKBONES
from prescreen.nets.efficientnet_lite import EfficientNetLite, Encoder
from train import (
    augment,
    checkpoint,
    curves,
    data,
    figures,
    machine,
    presets,
    probe,
    starts,
    teacher,
    views,
)
from train.pictures import stem_of

# ---------------------------------------------------------------- config


@dataclass(frozen=True)
class Config:
    run: str = "findings"
    seed: int = 1
    preset: str = "stages"
    backbone: str = ""  # empty: the preset's own, as of the next and of `schedule`
    weights_from: str = ""  # imagenet, none, a run's last.pt, weights that ship, a state dict
    folds: int = 5
    fold: int = 0  # which is held out; -1 trains on all of the train_val list
    stopping: float = 0.0  # share of the remaining patients that early stopping looks at
    patience: int = 3  # epochs without a better mean AUROC there
    lungs_heart: str = ""  # checkpoint of the segmentation network, or weights that ship
    drawing: str = ""  # the one whose encoder a backbone has that ends in +drawing; empty: the same
    dicom: str = ""  # folder of a site's own radiographs, in place of ChestX-ray14
    labels: str = ""  # their list: `train.dicom_folder` says what it has to have
    schedule: str = ""  # what:size x epochs; distil, probe or label
    batch: int = 16  # on each GPU
    learning_rate: float = 1e-3  # while distilling
    label_rate: float = 1e-4  # of the backbone once labels join in
    head_rate: float = 3e-4
    weight_decay: float = 0.02
    frozen: int = 0  # leading parts of the backbone that stay as they started
    dropout: float = 0.2  # of pooled features, while labels are learnt
    augment: float = 0.5  # of the distortions; what a teacher has seen keeps its views
    unmasked_weight: float = 1.0  # of the unmasked head's loss in what is before it; 0 detaches
    ridge: float = 3e-3  # of `probe`, as a share of the radiographs and features
    distil_weight: float = 0.0  # of the teacher once labels join in
    ema: float = 0.998
    views: int = 4  # geometric variants of each radiograph that the teacher has seen
    teacher_size: int = 256
    components: int = 256  # principal components of the teacher's 1,280 channels
    amp: bool = True  # bfloat16 where there is a GPU
    workers: int = 0
    threads: int = 0


#: What an epoch may be for.
KINDS = ("distil", "probe", "label")


def phases(schedule: str) -> list[tuple[str, int, int]]:
    """`distil:128x12,label:224x4` to [("distil", 128, 12), ("label", 224, 4)]."""
    parts = []
    for part in schedule.split(","):
        what, _, rest = part.partition(":")
        size, _, epochs = rest.partition("x")
        if what not in KINDS or not (size.isdigit() and epochs.isdigit()):
            raise data.DataError(
                f"schedule: {part!r} is not distil:SIZExEPOCHS, probe:SIZEx1 or label:SIZExEPOCHS"
            )
        parts.append((what, int(size), int(epochs)))
    return parts


def switches_of(config: Config) -> densenet.Switches:
    """The preset's, with the backbone that the config names."""
    return presets.switches(config.preset, config.backbone)


def settled(config: Config) -> Config:
    """With the preset's own backbone, start and schedule where the config leaves them empty."""
    backbone = switches_of(config).backbone
    start = config.weights_from or presets.start(backbone)
    plan = config.schedule or presets.schedule(config.preset, start)
    return dataclasses.replace(config, backbone=backbone, weights_from=start, schedule=plan)


# ---------------------------------------------------------------- data


@dataclass(frozen=True)
class Part:
    """The radiographs of one part of the split, with lungs and heart as the network draws them."""

    paths: list[Path]
    labels: Tensor  # (n, 14) float32
    masks: Tensor  # (n, 3, 64, 64) uint8

    @classmethod
    def of(cls, config: Config, pictures: list[data.LabelledPicture]) -> Part:
        labels = torch.tensor([p.labels for p in pictures], dtype=torch.float32).view(-1, 14)
        paths = [p.path for p in pictures]
        network = starts.drawing(config.lungs_heart).network
        folder = data.runs_dir() / "organs"
        masks = views.drawn(network, paths, folder, config.batch, config.workers)
        return cls(paths, labels, masks)


def listed(config: Config) -> list[data.LabelledPicture]:
    """The radiographs that may be trained on: those of the train_val list, or a site's own."""
    if bool(config.dicom) != bool(config.labels):
        raise data.DataError(
            "--dicom names the folder of a site's own radiographs and --labels their list: "
            "give both or neither"
        )
    if config.dicom:
        from train.dicom_folder import read_dicom_folder  # pydicom only where it is needed

        return read_dicom_folder(Path(config.dicom), Path(config.labels))
    every = data.read_chestxray14(data.data_dir() / "chestxray14")
    return [p for p in every if p.official_split != "test"]


def parts_of(config: Config) -> tuple[Part, Part, Part]:
    """What is trained on, what early stopping looks at, and the fold that is held out."""
    usable = listed(config)
    dealt = data.folds(usable, config.folds, config.seed)
    held = [p for p, fold in zip(usable, dealt, strict=True) if fold == config.fold]
    rest = [p for p, fold in zip(usable, dealt, strict=True) if fold != config.fold]
    if not config.stopping:
        return Part.of(config, rest), Part.of(config, []), Part.of(config, held)
    train, stopping = data.stratified_split(rest, config.stopping, config.seed + 1)
    return Part.of(config, train), Part.of(config, stopping), Part.of(config, held)


def dealt(config: Config) -> tuple[Part, list[data.LabelledPicture], list[int]]:
    """All that may be trained on: as a part, row by row, and the fold of each radiograph."""
    usable = listed(config)
    return Part.of(config, usable), usable, data.folds(usable, config.folds, config.seed)


def in_order(config: Config, paths: list[Path], size: int) -> views.Loader:
    return views.in_order(paths, size, config.batch, config.workers)


def taught_of(config: Config, train: Part, folder: Path) -> np.memmap | None:
    """The teacher's features of what is trained on; None where the schedule has no use for them."""
    if "distil" not in config.schedule:
        return None
    loader = in_order(config, train.paths, config.teacher_size)
    kept = (folder / "teacher.npy", config.views, config.teacher_size, config.components)
    return machine.first(lambda: views.taught_by(teacher.load(), loader, *kept))


# ---------------------------------------------------------------- network


class Student(nn.Module):
    """The network to be shipped, with a projection to the teacher's features for training."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.net = densenet.FindingsNet(switches_of(config))
        self.drop = nn.Dropout(config.dropout)
        self.unmasked_weight = config.unmasked_weight
        self.to_teacher: nn.Module | None = None
        if "distil" in config.schedule:
            self.to_teacher = nn.Conv2d(self.net.channels, config.components, 1)

    def forward(
        self, x: Tensor, taught: Tensor | None, masks: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The teacher's loss (0 without `taught`), masked and unmasked logits (0 without masks)."""
        features = self.net.features(x)  # (n, channels, size/32, size/32)
        nothing = x.new_zeros(())
        from_teacher = nothing if taught is None else self.teacher_loss(features, taught)
        if masks is None:
            return from_teacher, nothing, nothing
        inside, whole, _ = self.net.pooled(features, masks)
        masked = self.net.head(self.drop(inside))
        whole = torch.lerp(whole.detach(), whole, self.unmasked_weight)  # the same, less gradient
        return from_teacher, masked, self.net.head_unmasked(self.drop(whole))

    def teacher_loss(self, features: Tensor, taught: Tensor) -> Tensor:
        """Squared error cell by cell and of the whole picture's mean, which counts double."""
        if self.to_teacher is None:
            raise data.DataError("schedule: the teacher's loss needs a part that distils")
        ours: Tensor = self.to_teacher(features)
        theirs = functional.adaptive_avg_pool2d(taught, (ours.shape[2], ours.shape[3]))
        whole = (ours.mean(dim=(2, 3)) - theirs.mean(dim=(2, 3))).square().mean()
        return (ours - theirs).square().mean() + 2.0 * whole


def started(config: Config) -> Student:
    """A student as `--weights-from` says (`starts.begin`), the backbone's leading parts frozen."""
    config = settled(config)
    student = Student(config)
    starts.begin(student.net, config.weights_from, config.drawing or config.lungs_heart)
    for part in leading(student.net.backbone)[: config.frozen]:
        part.requires_grad_(False)
    return student.to(machine.device(), memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def leading(backbone: nn.Module) -> list[nn.Module]:
    """The parts of a backbone in the order a picture passes them, several networks in step."""
    rows = [list(_parts(side)) for side in _sides(backbone)]
    return [nn.ModuleList(row) for row in zip(*rows, strict=False)]


def _sides(backbone: nn.Module) -> Sequence[nn.Module]:
    inner = [m for m in backbone.children() if isinstance(m, EfficientNetLite | Encoder)]
    return inner or [backbone]


def _parts(backbone: nn.Module) -> Iterator[nn.Module]:
    for name, child in backbone.named_children():
        yield from child.children() if name == "blocks" else (child,)


def awake(student: Student, still: bool) -> None:
    """Into training mode; `still` keeps every batch statistic, else those of frozen parts."""
    student.train()
    for module in student.net.modules():
        if isinstance(module, nn.BatchNorm2d) and (still or not module.weight.requires_grad):
            module.eval()


def optimiser_of(config: Config, student: Student) -> torch.optim.Optimizer:
    heads = [*student.net.head.parameters(), *student.net.head_unmasked.parameters()]
    named = {id(p) for p in heads}
    rest = [p for p in student.parameters() if id(p) not in named and p.requires_grad]
    groups = [{"params": rest, "role": "backbone"}, {"params": heads, "role": "head"}]
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay)


# ---------------------------------------------------------------- answers


@torch.inference_mode()
def predict(net: densenet.FindingsNet, loader: views.Loader, masks: Tensor, size: int) -> Tensor:
    """Probabilities (n, 2, 14), masked and unmasked, of the pictures in order. No labels here."""
    net.eval()
    seen = []
    for x, index in machine.progress(loader, "answers"):
        x = inputs.stretch(inputs.resized(x.to(machine.device()) / 255.0, size))
        organs = (masks[index] / 255.0).to(machine.device())
        out = net(x.contiguous(memory_format=torch.channels_last), organs)
        seen.append(torch.sigmoid(torch.stack([out.masked, out.unmasked], dim=1)).cpu())
    return torch.cat(seen) if seen else torch.zeros(0, 2, 14)


def fit_heads(config: Config, student: Student, train: Part, size: int) -> None:
    """Both heads in closed form on the features as they are (ridge regression)."""
    inside, whole = pooled(student.net, train, config, size)
    backbone = student.net.switches.backbone
    groups = BACKBONES[backbone].groups or (student.net.channels,)
    for head, seen in ((student.net.head, inside), (student.net.head_unmasked, whole)):
        weight, bias = probe.ridge_of_groups(seen, train.labels.numpy(), config.ridge, groups)
        head.weight.data.copy_(torch.from_numpy(weight))
        head.bias.data.copy_(torch.from_numpy(bias))


@torch.inference_mode()
def pooled(
    net: densenet.FindingsNet, part: Part, config: Config, size: int
) -> tuple[probe.Features, probe.Features]:
    """What the heads see of undistorted pictures; kept beside the runs, picture by picture."""
    net.eval()
    kept = probe.Kept(data.runs_dir() / "pooled", f"{digest_of(net)}-{size}")
    loader = in_order(config, part.paths, inputs.COMMON_SIZE)
    seen: tuple[probe.Features, ...] = ()
    for x, index in machine.progress(loader, "pooled features"):
        paths = [part.paths[i] for i in index.tolist()]
        found = kept.read(paths, part.masks[index])
        if found is None:
            x = inputs.stretch(inputs.resized(x.to(machine.device()) / 255.0, size))
            features = net.features(x.contiguous(memory_format=torch.channels_last))
            organs = (part.masks[index] / 255.0).to(machine.device())
            one, other, _ = net.pooled(features, organs)
            found = (one.cpu().numpy(), other.cpu().numpy())
            kept.write(paths, part.masks[index], found)
        seen = seen or tuple(np.empty((len(part.paths), f.shape[1]), np.float32) for f in found)
        for rows, own in zip(seen, found, strict=True):
            rows[index.numpy()] = own
    return seen[0], seen[1]


def digest_of(net: densenet.FindingsNet) -> str:
    """Of the tensors that pooled features depend on.

    That is all but the heads, and the scales of an attention that does not merge them yet.
    """
    idle = net.attention is not None and not net.attention.merge.weight.any()
    unused = ("head", "attention.near", "attention.wide") if idle else ("head",)
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        if not name.startswith(unused):
            digest.update(name.encode() + tensor.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------- loop


def main(config: Config) -> Path:
    """Train and return the folder of the run; picks up where a killed run stopped."""
    config = settled(config)
    machine.start(config.seed, config.threads)
    folder = data.runs_dir() / config.run
    folder.mkdir(parents=True, exist_ok=True)
    train, stopping, held = parts_of(config)
    print(f"{len(train.paths)} radiographs to train on, {len(held.paths)} held out", flush=True)
    taught = taught_of(config, train, folder)

    torch.manual_seed(config.seed)  # whatever was drawn before, or was found drawn
    student, average = started(config), started(config).eval()
    optimiser = optimiser_of(config, student)
    log = checkpoint.resume(folder, student, average, optimiser)
    run = Run(student, average, optimiser, train, taught)
    plan = [phase for phase in phases(config.schedule) for _ in range(phase[2])]

    while len(log) < len(plan) and not tired(config, log):
        epoch = len(log)
        what, size, _ = plan[epoch]
        began = time.monotonic()
        if what == "probe":
            fit_heads(config, student, train, size)
            average.load_state_dict(student.state_dict())
            losses = [0.0, 0.0]
        else:
            losses = one_epoch(config, run, epoch, (what, size))
        rate = round(len(train.paths) / max(1e-3, time.monotonic() - began), 1)
        entry = {"epoch": epoch + 1, "what": what, "size": size, "losses": losses}
        looked = partial(validated, config, average, stopping if config.stopping else held, size)
        entry |= machine.as_the_first_found(looked)
        log.append(entry | {"images_s": rate, "seconds": round(time.monotonic() - began)})
        machine.say(json.dumps(log[-1]))
        if machine.rank() == 0:
            best = bool(config.stopping) and checkpoint.is_best(mean_auroc(log))
            checkpoint.save(folder, config, student, average, optimiser, log, best)
            curves.keep(folder, log)
        machine.wait()
    if machine.rank() == 0 and held.paths:
        keep_answers(folder, held)
    return folder


@dataclass(frozen=True)
class Run:
    """What an epoch changes and reads."""

    student: Student
    average: Student
    optimiser: torch.optim.Optimizer
    train: Part
    taught: np.memmap | None


def one_epoch(config: Config, run: Run, epoch: int, phase: tuple[str, int]) -> list[float]:
    """Train for one epoch; the mean loss from the teacher and from the labels."""
    (what, size), train, taught = phase, run.train, run.taught
    # dropout too is of seed and epoch alone, so that a resumed run goes on as if nothing had been
    torch.manual_seed(config.seed * 1000 + epoch + 100_000 * machine.rank())
    g = torch.Generator().manual_seed(config.seed * 1000 + epoch + 100_000 * machine.rank())
    side = min(inputs.COMMON_SIZE, size * 9 // 8)
    loader = views.shuffled(train.paths, side, config.batch, config.workers, config.seed, epoch)
    network = machine.shared(run.student)
    awake(run.student, still=config.weights_from == "imagenet" or starts.ships(config.weights_from))
    total = torch.zeros(2)
    for step, (pixels, index) in enumerate(machine.progress(loader, f"epoch {epoch + 1}")):
        for group in run.optimiser.param_groups:
            group["lr"] = rate_at(config, epoch + step / len(loader), group["role"])
        view = torch.randint(config.views, (len(index),), generator=g)
        grid = views.grid_of(index, view, size)
        if taught is None:  # nothing ties the views down
            grid = augment.random_grid(len(index), size, g, config.augment)
        x = augment.exposed(augment.warped(pixels / 255.0, grid), g, config.augment)
        x = inputs.stretch(x).to(machine.device()).contiguous(memory_format=torch.channels_last)
        theirs = masks = None
        if taught is not None:
            theirs = torch.from_numpy(taught[index.numpy(), view.numpy()]).float()
            theirs = theirs.to(machine.device())
        if what == "label":
            masks = augment.warped(train.masks[index] / 255.0, grid).to(machine.device())
        with machine.mixed_precision(config.amp):
            from_teacher, masked, unmasked = network(x, theirs, masks)
            from_labels = x.new_zeros(())
            if masks is not None:
                from_labels = label_loss(masked, unmasked, train.labels[index].to(x.device))
            weight = config.distil_weight if what == "label" else 1.0
            loss = from_labels + weight * from_teacher
        run.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(run.student.parameters(), 2.0)
        run.optimiser.step()
        checkpoint.follow(run.average, run.student, config.ema, epoch * len(loader) + step)
        total += torch.stack([from_teacher.detach(), from_labels.detach()]).cpu()
    return [round(float(v), 4) for v in total / max(1, len(loader))]


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


def label_loss(masked: Tensor, unmasked: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of both heads, mean over the batch and the 14 labels."""
    one = functional.binary_cross_entropy_with_logits(masked.float(), labels)
    return one + functional.binary_cross_entropy_with_logits(unmasked.float(), labels)


def validated(config: Config, average: Student, part: Part, size: int) -> dict[str, float]:
    """Mean AUROC of both heads on a part that is not trained on."""
    if not part.paths:
        return {}
    loader = in_order(config, part.paths, inputs.COMMON_SIZE)
    p = predict(average.net, loader, part.masks, size)
    areas = [round(figures.mean_auroc(part.labels, p[:, head]), 4) for head in range(2)]
    return {"auroc_masked": areas[0], "auroc_unmasked": areas[1]}


def mean_auroc(log: checkpoint.Log) -> list[float]:
    """Of each epoch, what early stopping goes by; 0 where nothing was looked at."""
    return [float(entry.get("auroc_masked", 0.0)) for entry in log]


def tired(config: Config, log: checkpoint.Log) -> bool:
    """Whether early stopping ends the run here."""
    return bool(config.stopping) and checkpoint.tired(mean_auroc(log), config.patience)


def counted(folder: Path) -> tuple[Config, Student, int]:
    """What counts of a run: config, averaged network, and the size of the pictures it looks at.

    Of its best epoch where it stopped early, else of its last. Raises DataError as `read` does.
    """
    saved = checkpoint.read(checkpoint.counting(folder))
    config = settled(Config(**saved["config"]))
    student = Student(config).eval()
    student.load_state_dict(saved["ema"])
    student.to(machine.device(), memory_format=torch.channels_last)  # type: ignore[call-overload]
    return config, student, saved["log"][-1]["size"]


def keep_answers(folder: Path, held: Part) -> None:
    """`held.npz`: what the run says of the fold it never saw, for figures over all folds."""
    config, student, size = counted(folder)
    loader = in_order(config, held.paths, inputs.COMMON_SIZE)
    answers = predict(student.net, loader, held.masks, size).numpy()
    names = np.array([stem_of(path.name) for path in held.paths])
    np.savez(folder / "held.npz", names=names, answers=answers, fold=config.fold)


if __name__ == "__main__":
    print(main(checkpoint.arguments(Config, __doc__)))
