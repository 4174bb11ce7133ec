"""Multi-scale attention, a backbone and masked feature weighting (paper, sections 1 and 2).

One pass gives the 14 findings twice: from the features of lungs and heart alone, and from all of
them. What the paper and its released code do differently is a switch, as is the backbone
(DenseNet-121 is the paper's); `PRESETS` names the combinations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from prescreen.nets.backbones import BACKBONES
from prescreen.study import LABELS, ORGANS

#: Side of the square input in pixels; the features are a 7 x 7 grid over it.
INPUT_SIZE = 224
#: With fewer cells of lung and heart than this (of 49) the mask is not believed.
LEAST_CELLS = 8

MaskMode = Literal["none", "hard", "soft"]
PostAct = Literal["relu", "sigmoid", "none"]
Pool = Literal["gap49", "masked_mean"]


@dataclass(frozen=True)
class Switches:
    """How the network is put together.

    `mask_mode`: `hard` keeps a cell of which lungs and heart cover at least half, `soft` weighs
    each cell by the share covered. `pool`: `gap49` divides by all cells, kept or not, `masked_mean`
    by the weight kept. `open_gate` starts the attention near 1 instead of 0.5, so that the
    backbone first sees the radiograph at full contrast. `regions` pools left lung, right lung
    and heart each for itself, side by side, instead of all three as one.
    """

    attention: bool = True
    open_gate: bool = False
    mask_mode: MaskMode = "hard"
    post_act: PostAct = "relu"
    pool: Pool = "gap49"
    regions: bool = False
    backbone: str = "densenet121"


#: The rows of the paper's comparison that are networks one can train (its Tables 2 and 3).
PRESETS: dict[str, Switches] = {
    "paper": Switches(),
    "code": Switches(post_act="sigmoid"),
    "without-masking": Switches(mask_mode="none"),
    "without-attention": Switches(attention=False),
    "chexnet": Switches(attention=False, mask_mode="none"),
    "dcnn": Switches(attention=False, mask_mode="none", backbone="resnet50"),
    # ours: what paid on the data at hand (train/README.md has the table)
    "regions": Switches(
        open_gate=True,
        mask_mode="soft",
        pool="masked_mean",
        regions=True,
        backbone="efficientnet_lite0+2",
    ),
    # the same for a backbone whose features have a sign
    "stages": Switches(
        open_gate=True,
        mask_mode="soft",
        post_act="none",
        pool="masked_mean",
        regions=True,
        backbone="efficientnet_lite0+drawing",
    ),
}


class MultiScaleAttention(nn.Module):
    """A gate over the input picture from three scales of it (paper, section 1.1).

    (N, 3, h, w) to the same, each pixel multiplied by its gate in 0…1. 1,008 parameters.
    """

    def __init__(self, open_gate: bool = False) -> None:
        super().__init__()
        self.near = nn.Conv2d(3, 3, 5, padding=2, bias=False)
        self.wide = nn.Conv2d(3, 3, 9, padding=4, bias=False)
        self.merge = nn.Conv2d(6, 1, 3, padding=1, bias=False)
        self.offset = 0.0
        if open_gate:  # the same for every pixel until it has learnt better
            self.offset = 4.0
            nn.init.zeros_(self.merge.weight)

    def gate(self, x: Tensor) -> Tensor:
        """(N, 1, h, w), 0…1."""
        scales = (x, self.near(x), self.wide(x))
        pooled = [m for s in scales for m in (s.amax(1, keepdim=True), s.mean(1, keepdim=True))]
        return torch.sigmoid(self.merge(torch.cat(pooled, dim=1)) + self.offset)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


def cell_weights(coverage: Tensor, grid: tuple[int, int], mode: MaskMode) -> Tensor:
    """What each cell counts, (N, 1, *grid), from masks (N, 1, h, w) of 0…1 (paper, section 2.3)."""
    share = functional.adaptive_avg_pool2d(coverage, grid)
    if mode == "none":
        return torch.ones_like(share)
    return share if mode == "soft" else (share >= 0.5).to(share.dtype)


def pooled(features: Tensor, weights: Tensor, pool: Pool) -> Tensor:
    """(N, K) from features (N, K, h, w) and cell weights (N, 1, h, w).

    `gap49` counts the zeros: its divisor is the number of cells whatever is kept.
    """
    total = (features * weights).sum(dim=(2, 3))
    if pool == "gap49":
        return total / (features.shape[2] * features.shape[3])
    return total / weights.sum(dim=(2, 3)).clamp_min(1e-6)


def organ_weights(masks: Tensor, grid: tuple[int, int], mode: MaskMode) -> Tensor:
    """What each cell counts for each organ, (N, 3, *grid), from masks (N, 3, h, w) of 0…1.

    An organ that covers less than half a cell was not found; all organs together stand in for it.
    """
    union = cell_weights(united(masks), grid, mode)
    each = [cell_weights(masks[:, k : k + 1], grid, mode) for k in range(masks.shape[1])]
    found = [w.sum(dim=(1, 2, 3), keepdim=True) >= 0.5 for w in each]
    return torch.cat([torch.where(f, w, union) for f, w in zip(found, each, strict=True)], dim=1)


def united(masks: Tensor) -> Tensor:
    """Lungs and heart together, (N, 1, h, w), from one mask an organ or from one of all."""
    return masks.sum(dim=1, keepdim=True).clamp(max=1.0)


class Seen(NamedTuple):
    """What one pass gives. Logits are (N, 14) in the order of LABELS."""

    masked: Tensor
    unmasked: Tensor
    features: Tensor  # (N, channels, h, w) after the activation, before any mask
    coverage: Tensor  # (N, 1, h, w): share of each cell that lungs and heart cover
    anatomy_found: Tensor  # (N,) bool: False where too few cells are kept to believe the mask


class FindingsNet(nn.Module):
    """A backbone behind multi-scale attention, with a masked and an unmasked head."""

    def __init__(self, switches: Switches) -> None:
        super().__init__()
        self.switches = switches
        self.attention = MultiScaleAttention(switches.open_gate) if switches.attention else None
        made = BACKBONES[switches.backbone]
        self.three_channels, self.channels = made.three_channels, made.channels
        self.backbone = made.build()
        pools = len(ORGANS) if switches.regions else 1
        self.head = nn.Linear(pools * self.channels, len(LABELS))
        self.head_unmasked = nn.Linear(self.channels, len(LABELS))

    def features(self, pictures: Tensor) -> Tensor:
        """(N, channels, s/32, s/32) from (N, 1, s, s), after the activation."""
        x = self.three_channels(pictures)
        if self.attention is not None:
            x = self.attention(x)
        x = cast(Tensor, self.backbone(x))
        if self.switches.post_act == "none":
            return x
        return torch.relu(x) if self.switches.post_act == "relu" else torch.sigmoid(x)

    def judge(self, features: Tensor, masks: Tensor) -> Seen:
        """Both heads on given features.

        `masks` is (N, 3, h, w), an organ each in the order of ORGANS, or (N, 1, h, w), all
        together, of 0…1; with `regions` it has to be the former.
        """
        inside, whole, found = self.pooled(features, masks)
        coverage = cell_weights(united(masks), (features.shape[2], features.shape[3]), "soft")
        return Seen(self.head(inside), self.head_unmasked(whole), features, coverage, found)

    def pooled(self, features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the two heads see, (N, pools x channels) and (N, channels), and `anatomy_found`."""
        grid = (features.shape[2], features.shape[3])
        weights = cell_weights(united(masks), grid, self.switches.mask_mode)
        found = weights.sum(dim=(1, 2, 3)) >= LEAST_CELLS * grid[0] * grid[1] / 49.0
        if self.switches.regions:
            weights = organ_weights(masks, grid, self.switches.mask_mode)
        weights = torch.where(found.view(-1, 1, 1, 1), weights, torch.ones_like(weights))
        each = [weights[:, k : k + 1] for k in range(weights.shape[1])]
        pools = [pooled(features, w, self.switches.pool) for w in each]
        return torch.cat(pools, dim=1), features.mean(dim=(2, 3)), found

    def forward(self, pictures: Tensor, masks: Tensor) -> Seen:
        return self.judge(self.features(pictures), masks)

    def activation_maps(self, features: Tensor) -> Tensor:
        """What each cell adds to the unmasked logits: (N, 14, h, w), of either sign."""
        return functional.conv2d(features, self.head_unmasked.weight[:, :, None, None])

    def attention_maps(self, features: Tensor) -> Tensor:
        """Where the unmasked head found what speaks for each label: (N, 14, h, w), at least 0.

        Features that have a sign have no zero of their own: there it is what speaks for the label
        more than the radiograph as a whole does.
        """
        maps = self.activation_maps(features)
        if self.switches.post_act == "none":
            maps = maps - maps.mean(dim=(2, 3), keepdim=True)
        return maps.clamp_min(0.0)
