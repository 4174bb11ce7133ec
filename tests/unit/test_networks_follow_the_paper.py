"""The networks' parts against the paper's own numbers (acceptance tests of its specification)."""

from __future__ import annotations

import pytest
import torch

from prescreen.nets import densenet, unet
from prescreen.nets.backbones import BACKBONES
from prescreen.nets.densenet import FindingsNet, MultiScaleAttention, Switches
from prescreen.study import LABELS


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


#: What the presets that are ours look through, where no other backbone is named.
LITE = "efficientnet_lite0+2"
STAGES = "efficientnet_lite0+drawing"


@pytest.fixture(scope="module")
def net() -> FindingsNet:
    torch.manual_seed(0)
    return FindingsNet(densenet.PRESETS["paper"]).eval()


def test_attention_has_1008_parameters_and_gates_within_0_and_1() -> None:
    attention = MultiScaleAttention()
    gate = attention.gate(torch.randn(2, 3, 224, 224))
    assert parameters(attention) == 1008
    assert gate.shape == (2, 1, 224, 224)
    assert gate.min() > 0 and gate.max() < 1


def test_attention_without_merge_weights_halves_the_picture() -> None:
    attention = MultiScaleAttention()
    torch.nn.init.zeros_(attention.merge.weight)
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(attention.gate(x), torch.full((1, 1, 32, 32), 0.5))
    assert torch.equal(attention(x), x / 2)


def test_open_gate_starts_near_one_with_as_many_parameters() -> None:
    attention = MultiScaleAttention(open_gate=True)
    assert parameters(attention) == 1008
    assert attention.gate(torch.randn(1, 3, 64, 64)).mean().item() > 0.95


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_attention_and_masks_embed_in_every_backbone(backbone: str) -> None:
    network = FindingsNet(Switches(backbone=backbone)).eval()
    pictures, masks = torch.rand(2, 1, 64, 64), torch.ones(2, 3, 64, 64)
    assert network.attention is not None
    with torch.inference_mode():
        before = network(pictures, masks)
        network.attention.merge.weight.zero_()  # every pixel counts half from here on
        after = network(pictures, masks)
    assert before.features.shape == (2, BACKBONES[backbone].channels, 2, 2)
    assert before.masked.shape == before.unmasked.shape == (2, len(LABELS))
    assert not torch.allclose(before.features, after.features, rtol=1e-4, atol=0.0)


def test_regions_pool_each_organ_for_itself() -> None:
    network = FindingsNet(densenet.PRESETS["regions"]).eval()
    features, masks = torch.zeros(1, network.channels, 8, 8), torch.zeros(1, 3, 8, 8)
    for k in range(3):
        masks[0, k, :, 2 * k : 2 * k + 2] = 1.0
        features[0, k, :, 2 * k : 2 * k + 2] = 1.0
    inside, whole, found = network.pooled(features, masks)
    assert found.tolist() == [True]
    assert inside.view(3, -1)[:, :3].tolist() == torch.eye(3).tolist()
    assert whole[0, :3].tolist() == [0.25] * 3


def test_an_organ_that_was_not_found_is_stood_in_for_by_the_others() -> None:
    masks = torch.zeros(1, 3, 8, 8)
    masks[0, 0, :, :4] = 1.0
    weights = densenet.organ_weights(masks, (8, 8), "soft")
    assert torch.equal(weights[:, 1], weights[:, 0]) and torch.equal(weights[:, 2], weights[:, 0])


def test_features_are_1024_by_7_by_7(net: FindingsNet) -> None:
    with torch.inference_mode():
        features = net.features(torch.rand(1, 1, 224, 224))
    assert features.shape == (1, 1024, 7, 7)
    assert features.min() >= 0


def test_full_mask_equals_no_mask_bit_for_bit(net: FindingsNet) -> None:
    features, full = torch.rand(2, 1024, 7, 7), torch.ones(2, 1, 224, 224)
    weights = {mode: densenet.cell_weights(full, (7, 7), mode) for mode in ("none", "hard", "soft")}
    plain = net.head(densenet.pooled(features, weights["none"], "gap49"))
    for mode in ("hard", "soft"):
        assert torch.equal(net.head(densenet.pooled(features, weights[mode], "gap49")), plain)


@pytest.mark.parametrize("pool", ["gap49", "masked_mean"])
def test_empty_mask_leaves_the_bias(net: FindingsNet, pool: densenet.Pool) -> None:
    features = torch.rand(1, 1024, 7, 7)
    pooled = densenet.pooled(features, torch.zeros(1, 1, 7, 7), pool)
    assert torch.equal(net.head(pooled)[0], net.head.bias)


def test_a_half_covered_cell_is_kept_and_a_little_less_is_not() -> None:
    mask = torch.zeros(1, 1, 224, 224)
    mask[..., :32, :16] = 1.0  # exactly half of the first cell
    mask[..., :32, 32:48] = 1.0
    mask[..., 0, 32] = 0.0  # one pixel less than half of the second
    weights = densenet.cell_weights(mask, (7, 7), "hard")
    assert weights[0, 0, 0, 0] == 1 and weights[0, 0, 0, 1] == 0
    assert float(densenet.cell_weights(mask, (7, 7), "soft")[0, 0, 0, 0]) == 0.5


def test_gap49_counts_the_zeros_and_masked_mean_does_not() -> None:
    features, weights = torch.full((1, 1024, 7, 7), 3.0), torch.zeros(1, 1, 7, 7)
    weights[..., :2, :5] = 1.0  # ten cells kept
    assert torch.allclose(densenet.pooled(features, weights, "gap49"), torch.tensor(30 / 49))
    assert torch.allclose(densenet.pooled(features, weights, "masked_mean"), torch.tensor(3.0))


def test_too_little_anatomy_falls_back_to_the_whole_picture(net: FindingsNet) -> None:
    features, masks = torch.rand(2, 1024, 7, 7), torch.zeros(2, 1, 7, 7)
    masks[0, 0].view(-1)[:7] = 1.0
    masks[1, 0].view(-1)[:8] = 1.0
    seen = net.judge(features, masks)
    assert seen.anatomy_found.tolist() == [False, True]
    whole = net.head(features[:1].mean(dim=(2, 3)))
    assert torch.allclose(seen.masked[0], whole[0], atol=1e-5)


def test_attention_maps_show_where_the_unmasked_head_looked(net: FindingsNet) -> None:
    features = torch.zeros(1, 1024, 7, 7)
    features[0, 5, 1, 6] = 1.0  # row 1, column 6: no swap of rows and columns
    with torch.no_grad():
        maps = net.attention_maps(features)
    label = int(net.head_unmasked.weight[:, 5].argmax())
    assert maps.shape == (1, len(LABELS), 7, 7)
    assert divmod(int(maps[0, label].argmax()), 7) == (1, 6)


@pytest.mark.parametrize("preset", sorted(densenet.PRESETS))
def test_presets_differ_in_what_the_paper_and_its_code_differ_in(preset: str) -> None:
    expected = {
        "paper": Switches(True, False, "hard", "relu", "gap49"),
        "code": Switches(True, False, "hard", "sigmoid", "gap49"),
        "without-masking": Switches(True, False, "none", "relu", "gap49"),
        "without-attention": Switches(False, False, "hard", "relu", "gap49"),
        "chexnet": Switches(False, False, "none", "relu", "gap49"),
        "dcnn": Switches(False, False, "none", "relu", "gap49", False, "resnet50"),
        "regions": Switches(True, True, "soft", "relu", "masked_mean", True, LITE),
        "stages": Switches(True, True, "soft", "none", "masked_mean", True, STAGES),
    }
    assert densenet.PRESETS[preset] == expected[preset]


def test_dice_is_one_for_the_same_and_nothing_for_the_disjoint() -> None:
    a, b = torch.zeros(1, 1, 64, 64), torch.zeros(1, 1, 64, 64)
    a[..., :32, :] = 1.0
    b[..., 32:, :] = 1.0
    assert unet.dice(a, a).item() == 1.0
    assert unet.dice(a, b).item() < 1e-3
    assert unet.dice(torch.zeros_like(a), torch.zeros_like(a)).item() == 1.0


@pytest.mark.parametrize("name", unet.SEGMENTERS)
def test_segmentation_is_small_and_answers_in_its_own_size(name: str) -> None:
    network = unet.SEGMENTERS[name]().eval()
    with torch.inference_mode():
        levels = network.encode(torch.rand(1, 1, 256, 256))
        sides = [128, 64, 32, 16, 8]
        assert [level.shape[1:] for level in levels] == [
            (width, side, side) for width, side in zip(network.widths, sides, strict=True)
        ]
        assert network(torch.rand(1, 1, 256, 256)).shape == (1, 3, 256, 256)
    assert parameters(network) < 3_000_000
