"""Whatever the networks run on, they say the same; what does not is not used."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from prescreen.errors import SettingsError
from prescreen.nets import architecture, compiled, engine, plain, runtimes, weights
from prescreen.nets.engine import TOLERANCE, Pass, fastest, folded
from prescreen.nets.screener import Drawing, Screener, Seeing

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def loaded() -> dict[str, weights.Weights]:
    return weights.load(WEIGHTS)


def pictures(size: int) -> Tensor:
    g = torch.Generator().manual_seed(7)
    coarse = torch.rand((3, 1, 12, 12), generator=g)
    return nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


def batch_norms(module: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())


#: Compiling the shipped networks takes minutes; below a small one is.
READY = [name for name in runtimes.installed() if name != "compiled"]


@pytest.mark.parametrize("name", READY)
def test_every_installed_engine_gives_the_shipped_networks_answers(
    loaded: dict[str, weights.Weights], name: str
) -> None:
    drawing = Drawing(architecture.segmenter_of(loaded["lungs_heart"]))
    network = architecture.classifier_of(loaded["findings"])
    size = loaded["findings"].manifest.input_size
    seen, drawn = pictures(size), pictures(256)
    see, draw = Pass(Seeing(network), size, name), Pass(drawing, 256, name)
    for batch in (slice(0, 1), slice(0, 3)):
        features = see(seen[batch])[0]
        everywhere = torch.ones(len(features), 3, *features.shape[2:])
        found = network.judge(features, everywhere)
        asked = network(seen[batch], everywhere)
        for one, other in ((found.masked, asked.masked), (found.unmasked, asked.unmasked)):
            assert (torch.sigmoid(one) - torch.sigmoid(other)).abs().max() < TOLERANCE
        described, sigmoids = draw(drawn[batch])
        wanted = drawing(drawn[batch])
        assert (sigmoids - wanted[1]).abs().max() < TOLERANCE
        assert torch.allclose(described, wanted[0], atol=1e-3)


def test_folding_takes_out_the_normalisations_that_follow_a_convolution(
    loaded: dict[str, weights.Weights],
) -> None:
    drawing = Drawing(architecture.segmenter_of(loaded["lungs_heart"]))
    assert batch_norms(drawing) == 53 and batch_norms(folded(drawing)) == 0
    seeing = Seeing(architecture.classifier_of(loaded["findings"]))
    assert batch_norms(seeing) == 93 and batch_norms(folded(seeing)) == 0
    paper = Seeing(architecture.classifier_of(weights.load(WEIGHTS / "densenet121")["findings"]))
    assert batch_norms(paper) == 121 and batch_norms(folded(paper)) == 62
    other = Seeing(plain.PlainNet(1).eval())
    assert batch_norms(folded(other)) == 62
    assert torch.allclose(folded(other)(pictures(64))[0], other(pictures(64))[0], atol=1e-3)


def test_what_cannot_be_traced_is_run_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor]:
            return (x if bool(x.sum() > 0) else -x,)

    module = Branching()
    assert folded(module) is module
    assert "not folded" in caplog.text


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (x.mean(dim=(1, 2, 3)) * 0.5,)


def test_an_engine_that_says_otherwise_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Engines of our own making stand for one that is wrong and one that breaks."""
    monkeypatch.setitem(runtimes.NEEDS, "openvino", ())
    monkeypatch.setitem(runtimes.NEEDS, "onnxruntime", ())

    def wrong(module: nn.Module, size: int) -> engine.Run:
        return lambda x: (module(x)[0] + 2 * TOLERANCE,)

    def broken(module: nn.Module, size: int) -> engine.Run:
        raise RuntimeError("no such operator")

    monkeypatch.setitem(engine._MAKERS, "openvino", wrong)
    monkeypatch.setitem(engine._MAKERS, "onnxruntime", broken)
    with caplog.at_level(logging.WARNING):
        chosen = fastest(Doubling(), 32, lambda found: found[0], device=CPU)
    assert chosen.name == "torch"
    assert "openvino differs from torch by 0.002" in caplog.text
    assert "onnxruntime cannot run this network (RuntimeError)" in caplog.text
    assert chosen.passed_over == (
        "openvino: differs from torch by 0.002",
        "onnxruntime: cannot run this network (RuntimeError)",
        "compiled: not compiled for these weights",
    )


def test_the_fastest_engine_that_agrees_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runtimes.NEEDS, "openvino", ())
    monkeypatch.setitem(engine._MAKERS, "openvino", engine._on_torch)
    assert fastest(Doubling(), 32, lambda found: found[0], device=CPU).name == "openvino"
    on_torch = fastest(Doubling(), 32, lambda found: found[0], device=CPU, wanted="torch")
    assert on_torch.name == "torch" and on_torch.passed_over == ()


class Edges(nn.Module):
    """Small, with all that the networks have: convolution, normalisation, and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (torch.sigmoid(self.norm(self.conv(x)).mean(dim=(2, 3))),)


@pytest.mark.parametrize("name", [n for n in runtimes.installed() if n == "compiled"])
def test_a_network_compiled_once_answers_as_torch_does(tmp_path: Path, name: str) -> None:
    file = tmp_path / "findings.pt2"
    module = Edges().eval()
    compiled.compile_to(file, folded(module), 32)
    found = fastest(module, 32, lambda found: found[0], device=CPU, wanted=name, compiled_file=file)
    assert found.name == "compiled"
    for count in (1, 3, compiled.MOST):
        seen = torch.rand(count, 1, 32, 32)
        for one in (seen, compiled.laid_out(seen), seen.expand(count, 3, 32, 32)[:, 1:2]):
            assert torch.allclose(found(one)[0], module(seen)[0], atol=1e-4)
    seconds = compiled.measured(module, compiled.opened(file), 32)
    assert min(seconds) > 0


def test_a_compiled_network_that_does_not_open_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("openvino", "onnxruntime"):
        monkeypatch.setitem(runtimes.NEEDS, name, ("no_such_module",))
    file = tmp_path / "findings.pt2"
    file.write_bytes(b"PK")
    found = fastest(Doubling(), 32, lambda found: found[0], device=CPU, compiled_file=file)
    assert found.name == "torch"
    assert found.passed_over[:2] == (
        "openvino: not installed: pip install 'prescreen[openvino]'",
        "onnxruntime: not installed: pip install 'prescreen[onnx]'",
    )
    assert found.passed_over[2].startswith("compiled: cannot run this network (")


def test_an_engine_that_is_not_installed_is_named_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(runtimes.NEEDS, "onnxruntime", ("no_such_module",))
    with pytest.raises(
        SettingsError, match=r"not installed: pip install 'prescreen\[onnx\]'\); or"
    ):
        Screener(WEIGHTS, device="cpu", engine_name="onnxruntime")
