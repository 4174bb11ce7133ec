"""Pictures in batches, as the training of findings goes through them, and what others say of them:
the teacher's features and the segmentation network's organs.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prescreen.nets import inputs, unet
from prescreen.nets.anatomy import CELLS, RULE, anatomy_of, shares
from train import augment, data, machine, teacher


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
def taught_by(
    master: teacher.Teacher, loader: Loader, path: Path, views: int, size: int, components: int
) -> np.memmap:
    """What the teacher sees in every view of every radiograph: float16 (n, views, c, g, g).

    Written once to `path`, whole or not at all; its channels are principal components, half
    whitened.
    """
    count, grid = len(loader.dataset.paths), size // 32
    shape = (count, views, components, grid, grid)
    if path.is_file():
        return np.lib.format.open_memmap(path, mode="r")
    master.to(machine.device())
    mean = basis = None
    part = path.with_suffix(".part")
    taught = np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape)
    for x, index in machine.progress(loader, "the teacher's features"):
        maps = []
        for v in range(views):
            view = torch.full_like(index, v)
            warped = augment.warped(x / 255.0, grid_of(index, view, size))
            maps.append(master(inputs.stretch(warped).to(machine.device())).cpu())
        seen = torch.stack(maps, dim=1)  # (n, views, 1280, g, g)
        if basis is None or mean is None:
            mean, basis = principal(seen, components)
        flat = torch.einsum("nvchw,ck->nvkhw", seen - mean.view(1, 1, -1, 1, 1), basis)
        taught[index.numpy()] = flat.half().numpy()
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
def draw(network: unet.Segmenter, loader: Loader) -> Tensor:
    """Left lung, right lung and heart of every radiograph, uint8 (n, 3, 64, 64).

    As the node draws them, each cell with the share of it that is covered.
    """
    network.eval().to(machine.device())
    drawn = torch.zeros(len(loader.dataset.paths), 3, CELLS, CELLS, dtype=torch.uint8)
    for x, index in machine.progress(loader, "lungs and heart"):
        x = inputs.resized(x.to(machine.device()) / 255.0, unet.INPUT_SIZE)
        sigmoids = torch.sigmoid(network(inputs.stretch(x))).cpu().numpy()
        covered = np.stack([shares(anatomy_of(one).masks) for one in sigmoids])
        drawn[index] = torch.from_numpy((covered * 255).round()).to(torch.uint8)
    return drawn


def drawn(
    network: unet.Segmenter, paths: list[Path], folder: Path, batch: int, workers: int
) -> Tensor:
    """What `draw` gives of these pictures; kept in `folder`, a file a radiograph.

    No label touches it, so folds, seeds and presets share what one network has drawn.
    """
    tensors = network.state_dict().values()
    digest = hashlib.sha256(b"".join(tensor.cpu().numpy().tobytes() for tensor in tensors))
    drawn_by = f"{digest.hexdigest()[:16]}-{RULE}"
    files = [folder / drawn_by / _name(path) for path in paths]
    missing = [i for i, file in enumerate(files) if not file.is_file()]
    if missing:
        files[0].parent.mkdir(parents=True, exist_ok=True)
        loader = in_order([paths[i] for i in missing], inputs.COMMON_SIZE, batch, workers)
        for i, organs in zip(missing, draw(network, loader), strict=True):
            part = files[i].with_suffix(f".{os.getpid()}.npy")  # several GPUs draw at once
            np.save(part, organs.numpy())
            part.replace(files[i])
    found = [torch.from_numpy(np.load(file)) for file in files]
    return torch.stack(found) if found else torch.zeros(0, 3, 64, 64, dtype=torch.uint8)


def _name(path: Path) -> str:
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32] + ".npy"


class Loader(torch.utils.data.DataLoader[tuple[Tensor, int]]):
    """Batches of `Pictures`."""

    dataset: Pictures


def in_order(paths: list[Path], size: int, batch: int, workers: int = 0) -> Loader:
    """Every picture once, in the order of `paths`."""
    return Loader(Pictures(paths, size), batch_size=batch, num_workers=workers)


def shuffled(
    paths: list[Path], size: int, batch: int, workers: int, seed: int, epoch: int
) -> Loader:
    """Whole batches in an order of seed and epoch; with several GPUs each gets its own share."""
    pictures = Pictures(paths, size)
    sampler: torch.utils.data.DistributedSampler[tuple[Tensor, int]]
    sampler = torch.utils.data.DistributedSampler(
        pictures, machine.world(), machine.rank(), seed=seed, drop_last=True
    )
    sampler.set_epoch(epoch)
    return Loader(pictures, batch_size=batch, sampler=sampler, drop_last=True, num_workers=workers)
