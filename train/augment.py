"""What another hospital, machine or patient would have changed: random views of radiographs.

All on batches of float32 (N, 1, h, w), 0…1, before `inputs.stretch`. Never mirrored: the side of
the heart is a finding. Every function draws from the `torch.Generator` it is given.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def uniform(n: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    """n numbers in low…high, shaped (n, 1, 1, 1)."""
    return torch.rand(n, 1, 1, 1, generator=generator) * (high - low) + low


def random_grid(n: int, size: int, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Sampling grids (n, size, size, 2): rotation, scale, aspect, shift and shear.

    At strength 1: up to 15 degrees, 0.75…1.3 in scale, 12 % in aspect, 10 % in shift.
    """
    angle = uniform(n, -0.26, 0.26, generator).view(n) * strength
    scale = torch.exp(uniform(n, -0.27, 0.27, generator).view(n) * strength)
    aspect = torch.exp(uniform(n, -0.12, 0.12, generator).view(n) * strength)
    shear = uniform(n, -0.08, 0.08, generator).view(n) * strength
    dx, dy = (uniform(n, -0.2, 0.2, generator).view(n) * strength for _ in range(2))
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [
        torch.stack([cos * aspect, -sin + shear, dx], dim=1),
        torch.stack([sin, cos / aspect, dy], dim=1),
    ]
    theta = torch.stack(rows, dim=1)  # (n, 2, 3)
    return functional.affine_grid(theta, [n, 1, size, size], align_corners=False)


def warped(pictures: Tensor, grid: Tensor, border: bool = False) -> Tensor:
    """Pictures or masks seen through the grid; outside is black, or the border's grey."""
    mode = "border" if border else "zeros"
    return functional.grid_sample(pictures, grid, padding_mode=mode, align_corners=False)


def exposed(pictures: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Another exposure: gamma, contrast, an uneven field, saturation, blur and noise."""
    n = pictures.shape[0]
    x = pictures ** torch.exp(uniform(n, -0.7, 0.7, generator) * strength)
    field = torch.randn(n, 1, 3, 3, generator=generator) * 0.15 * strength
    x = x + functional.interpolate(field, size=x.shape[-2:], mode="bicubic")
    low = uniform(n, -0.15, 0.15, generator) * strength
    x = ((x - low) * torch.exp(uniform(n, -0.4, 0.4, generator) * strength)).clamp(0, 1)
    soft = functional.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    amount = uniform(n, -0.8, 1.0, generator) * strength
    x = x + amount * (soft - x)
    noise = torch.randn(x.shape, generator=generator)
    return (x + noise * uniform(n, 0.0, 0.04, generator) * strength).clamp(0, 1)


def clouded(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Soft bright shadows anywhere, as effusion, consolidation and devices make them."""
    n, _, height, width = pictures.shape
    ys = torch.linspace(-1, 1, height).view(1, 1, height, 1)
    xs = torch.linspace(-1, 1, width).view(1, 1, 1, width)
    x = pictures
    for _ in range(3):
        cy, cx = (uniform(n, -0.9, 0.9, generator) for _ in range(2))
        ry, rx = (uniform(n, 0.08, 0.7, generator) for _ in range(2))
        distance = ((ys - cy) / ry) ** 2 + ((xs - cx) / rx) ** 2
        weight = torch.sigmoid((1 - distance) * uniform(n, 1.0, 8.0, generator))
        present = (torch.rand(n, 1, 1, 1, generator=generator) < 0.4).float()
        opacity = uniform(n, 0.1, 0.9, generator) * present
        level = uniform(n, 0.5, 1.0, generator)
        x = x + weight * opacity * (level - x).clamp_min(0)
    return x


def hidden(
    pictures: Tensor, masks: Tensor, generator: torch.Generator, share: float = 0.33
) -> Tensor:
    """In a share of the pictures a part of one lung is white, as effusion and opacity make it.

    `masks` (N, 3, h, w) say where the lungs are. What is hidden reaches past the lung's outline by
    a chance distance, or the white itself would tell where the outline is.
    """
    n, _, height, width = pictures.shape
    side = torch.randint(0, 2, (n,), generator=generator)
    lung = masks[torch.arange(n), side][:, None]
    beyond = 2 * int(torch.randint(0, 12, (), generator=generator)) + 1
    near = functional.max_pool2d(lung, beyond, stride=1, padding=beyond // 2)
    near = functional.avg_pool2d(near, 15, stride=1, padding=7)
    below = (torch.rand(n, 1, 1, 1, generator=generator) < 0.6).float()
    turn = uniform(n, -1, 1, generator) * (0.4 * below + math.pi * (1 - below))
    ys = torch.linspace(0, 1, height).view(1, 1, height, 1)
    xs = torch.linspace(0, 1, width).view(1, 1, 1, width)
    size = lung.sum(dim=(2, 3), keepdim=True).clamp_min(1.0)
    row, column = ((lung * at).sum(dim=(2, 3), keepdim=True) / size for at in (ys, xs))
    depth = (ys - row) * torch.cos(turn) + (xs - column) * torch.sin(turn)
    depth = depth - uniform(n, -0.15, 0.15, generator)
    weight = near * torch.sigmoid(depth * uniform(n, 12, 80, generator))
    present = (torch.rand(n, 1, 1, 1, generator=generator) < share).float()
    opacity = uniform(n, 0.5, 1.0, generator) * present
    level = uniform(n, 0.6, 1.0, generator)
    return pictures + weight * opacity * (level - pictures).clamp_min(0)


def grainy(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """For a quarter of the pictures few grey levels and much noise, as low contrast has."""
    n = pictures.shape[0]
    noise = torch.randn(pictures.shape, generator=generator) * uniform(n, 0.0, 0.1, generator)
    levels = torch.round(torch.exp(uniform(n, 2.3, 4.5, generator)))  # 10…90
    coarse = torch.round((pictures + noise).clamp(0, 1) * levels) / levels
    chosen = torch.rand(n, 1, 1, 1, generator=generator) < 0.25
    return torch.where(chosen, coarse, pictures)


def framed(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Collimation: for a third of the pictures, black or white outside a random frame."""
    n, _, height, width = pictures.shape
    ys = torch.linspace(0, 1, height).view(1, 1, height, 1)
    xs = torch.linspace(0, 1, width).view(1, 1, 1, width)
    edges = [uniform(n, 0.0, 0.12, generator) for _ in range(4)]
    inside = (ys >= edges[0]) & (ys <= 1 - edges[1]) & (xs >= edges[2]) & (xs <= 1 - edges[3])
    chosen = torch.rand(n, 1, 1, 1, generator=generator) < 0.33
    shade = (torch.rand(n, 1, 1, 1, generator=generator) < 0.2).float()
    return torch.where(inside | ~chosen, pictures, shade)
