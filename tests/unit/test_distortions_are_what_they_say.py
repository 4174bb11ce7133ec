"""Random views of radiographs: what each may change, and what it leaves alone."""

from __future__ import annotations

import torch
from torch import Tensor

from train import augment, lungs_heart


def chest() -> tuple[Tensor, Tensor]:
    """Eight dark pictures with two lungs and a heart between them."""
    masks = torch.zeros(8, 3, 128, 128)
    masks[:, 0, 30:100, 75:110] = 1
    masks[:, 1, 30:100, 20:50] = 1
    masks[:, 2, 70:100, 52:74] = 1
    return torch.full((8, 1, 128, 128), 0.2), masks


def drawn_by(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_part_of_one_lung_turns_white_and_the_rest_stays() -> None:
    pictures, masks = chest()
    for seed in range(6):
        white = augment.hidden(pictures, masks, drawn_by(seed), share=1.0) - pictures
        assert (white >= 0).all()
        assert white.amax() <= 0.8 + 1e-6
        covered = white[:, 0, None] > 0.2
        left, right = ((covered & (masks[:, k : k + 1] > 0)).sum(dim=(1, 2, 3)) for k in (0, 1))
        one = torch.maximum(left, right)
        whole = torch.where(left > right, masks[:, 0].sum(dim=(1, 2)), masks[:, 1].sum(dim=(1, 2)))
        assert (torch.minimum(left, right) <= 0.2 * one).all()  # the other lung is left alone
        assert (one / whole).median() > 0.2
        assert (one / whole).median() < 0.8


def test_no_part_of_a_lung_turns_white_where_none_is_asked_for() -> None:
    pictures, masks = chest()
    assert torch.equal(augment.hidden(pictures, masks, drawn_by(1), share=0.0), pictures)


def test_few_grey_levels_are_left_in_some_pictures_and_all_in_the_others() -> None:
    ramp = torch.linspace(0, 1, 128).expand(64, 1, 128, 128)
    coarse = augment.grainy(ramp, drawn_by(1))
    levels = [len(torch.unique(one)) for one in coarse]
    changed = [n for one, n in zip(coarse, levels, strict=True) if not torch.equal(one, ramp[0])]
    assert 5 <= len(changed) <= 27
    assert max(changed) <= 91
    assert coarse.amin() >= 0
    assert coarse.amax() <= 1


def test_the_teacher_s_mean_of_views_lies_where_its_views_lie() -> None:
    """A network that draws what is bright: turned there and back, it draws the same again."""

    class Bright(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 40 * (x - 0.5).expand(-1, 3, -1, -1)

    x = torch.zeros(1, 1, 128, 128)
    x[..., 40:80, 60:100] = 1.0
    found = lungs_heart.averaged(Bright(), x)  # type: ignore[arg-type]
    assert found.shape == (1, 3, 128, 128)
    assert ((found > 0.5) == (x > 0.5)).float().mean() > 0.98
