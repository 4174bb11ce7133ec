"""What the networks' passes run on: torch, or something faster that gives the same answers.

All take and give float32 tensors and agree to 1e-3 in probability: an engine that does not, on
the pictures it is tried with when it is made, is not used. On a GPU it is always torch.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from prescreen.errors import SettingsError
from prescreen.nets import compiled, runtimes

logger = logging.getLogger(__name__)

#: How far an engine's probabilities may be from those of torch.
TOLERANCE = 1e-3

Outputs = tuple[Tensor, ...]
Run = Callable[[Tensor], Outputs]


class Pass:
    """One network's pass on an engine: pictures (N, 1, s, s) to a tuple of tensors.

    `module` takes one tensor and gives a tuple. `name` is the engine it ended up on, `passed_over`
    says why faster ones are not used, a line each. `compiled_file` is what the engine of that
    name opens.
    """

    def __init__(
        self,
        module: nn.Module,
        size: int,
        name: str = "torch",
        compiled_file: Path | None = None,
    ) -> None:
        self.name = name
        self.passed_over: tuple[str, ...] = ()
        if name == "compiled":
            assert compiled_file is not None
            self._run = compiled.opened(compiled_file)
        else:
            self._run = _MAKERS[name](module, size)

    def __call__(self, pictures: Tensor) -> Outputs:
        return self._run(pictures)


def fastest(
    module: nn.Module,
    size: int,
    probabilities: Callable[[Outputs], Tensor],
    *,
    device: torch.device,
    wanted: str = "auto",
    compiled_file: Path | None = None,
) -> Pass:
    """The module's pass on the fastest engine that is installed and gives torch's answers.

    `wanted` names one engine instead; SettingsError where that is not installed. `probabilities`
    takes what the module gives to the numbers (0…1) that are compared. What fails or differs is
    logged and the next engine is taken. `compiled_file` is this very module compiled, where it was.
    """
    plain = Pass(module, size)
    passed_over: list[str] = []
    for name in _candidates(device, wanted):
        candidate, reason = _tried(plain, module, size, probabilities, name, compiled_file)
        if candidate is not None:
            candidate.passed_over = tuple(passed_over)
            return candidate
        passed_over.append(f"{name}: {reason}")
        logger.info("not on %s: %s", name, reason)
    plain.passed_over = tuple(passed_over)
    return plain


def _candidates(device: torch.device, wanted: str) -> tuple[str, ...]:
    """The engines to try, the fastest first; none where torch is what it shall be."""
    if wanted != "auto" and (reason := runtimes.absent(wanted)) is not None:
        raise SettingsError(
            f'screen.engine = {wanted!r} cannot be had ({reason}); or set engine = "auto"'
        )
    if device.type != "cpu":
        return ()
    chosen = tuple(runtimes.NEEDS) if wanted == "auto" else (wanted,)
    return tuple(name for name in chosen if name != "torch")


def _tried(
    plain: Pass,
    module: nn.Module,
    size: int,
    probabilities: Callable[[Outputs], Tensor],
    name: str,
    compiled_file: Path | None,
) -> tuple[Pass | None, str]:
    """The pass on one engine, or None and why it is not to be had."""
    reason = runtimes.absent(name)
    if name == "compiled":
        reason = None if compiled_file is not None else "not compiled for these weights"
    if reason is not None:
        return None, reason
    try:
        with torch.inference_mode():
            candidate = Pass(module, size, name, compiled_file)
            difference = _difference(plain, candidate, size, probabilities)
    except Exception as error:
        logger.warning("%s cannot run this network (%s)", name, type(error).__name__)
        return None, f"cannot run this network ({type(error).__name__})"
    if difference <= TOLERANCE:
        return candidate, ""
    logger.warning("%s differs from torch by %.2g; it is not used", name, difference)
    return None, f"differs from torch by {difference:.2g}"


def _difference(
    one: Pass, other: Pass, size: int, probabilities: Callable[[Outputs], Tensor]
) -> float:
    """The largest difference in probability on pictures of a chest's brightness, alone and two."""
    g = torch.Generator().manual_seed(1)
    coarse = torch.rand((3, 1, 8, 8), generator=g)
    pictures = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    pictures = pictures.contiguous(memory_format=torch.channels_last)
    apart = [
        (probabilities(one(batch)) - probabilities(other(batch))).abs().max()
        for batch in (pictures[:1], pictures[1:])
    ]
    return float(torch.stack(apart).max())


# ---------------------------------------------------------------- torch


def folded(module: nn.Module) -> nn.Module:
    """The module with each batch normalisation that follows a convolution folded into it.

    Half of DenseNet's can be, all of the U-Net's and of EfficientNet's. Weights that are not folded
    are shared with the module. A module that cannot be traced comes back as it is.
    """
    try:
        traced = fx.GraphModule(module, _Tracer().trace(module.eval()))
    except Exception as error:
        logger.warning("batch normalisation is not folded (%s)", type(error).__name__)
        return module
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        conv = _folds_into(node, modules)
        if conv is not None:
            _fold(traced, conv, node, modules)
    traced.delete_all_unused_submodules()
    traced.graph.lint()
    traced.recompile()
    return traced.to(memory_format=torch.channels_last)


class _Tracer(fx.Tracer):
    """Takes every kind of convolution as one step, whatever its padding depends on."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, nn.Conv2d) or super().is_leaf_module(m, module_qualified_name)


def _folds_into(node: fx.Node, modules: dict[str, nn.Module]) -> fx.Node | None:
    """The convolution whose only use is this batch normalisation, if the node is one."""
    if node.op != "call_module" or not isinstance(modules[str(node.target)], nn.BatchNorm2d):
        return None
    before = node.args[0]
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
        return None
    return before if isinstance(modules[str(before.target)], nn.Conv2d) else None


def _fold(
    traced: fx.GraphModule, conv: fx.Node, norm: fx.Node, modules: dict[str, nn.Module]
) -> None:
    merged = fuse_conv_bn_eval(
        cast(nn.Conv2d, modules[str(conv.target)]), cast(nn.BatchNorm2d, modules[str(norm.target)])
    )
    traced.set_submodule(str(conv.target), merged)
    norm.replace_all_uses_with(conv)
    traced.graph.erase_node(norm)


def _on_torch(module: nn.Module, size: int) -> Run:
    fast = folded(module)
    return lambda pictures: tuple(fast(pictures))


# ---------------------------------------------------------------- OpenVINO and ONNX Runtime


def _on_openvino(module: nn.Module, size: int) -> Run:
    import openvino

    core = openvino.Core()
    # not openvino.convert_model: it sends word of its use to its makers, in processes of its own
    model = core.read_model(exported(module, size))
    # bfloat16, where the processor has it, is not within the tolerance
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(pictures: Tensor) -> Outputs:
        found = compiled(_array(pictures))
        return _tensors([found[i] for i in range(len(compiled.outputs))])

    return run


def _on_onnxruntime(module: nn.Module, size: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # as OpenMP's are told to sleep: threads that spin keep others from the processor
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        exported(module, size), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name
    return lambda pictures: _tensors(session.run(None, {name: _array(pictures)}))


def exported(module: nn.Module, size: int) -> bytes:
    """The module as ONNX, any number of pictures (N, 1, size, size) in."""
    with tempfile.TemporaryDirectory() as folder, _quietly():
        path = Path(folder) / "network.onnx"
        example = torch.rand(2, 1, size, size)
        torch.onnx.export(
            copy.deepcopy(module).eval(),  # the exporter spoils the weights it is given
            (example,),
            str(path),
            input_names=["pictures"],
            dynamic_axes={"pictures": {0: "n"}},
            dynamo=False,  # by far the quicker exporter, and this is done at every start
        )
        return path.read_bytes()


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what exporters have to say of themselves."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _array(pictures: Tensor) -> Any:
    return np.ascontiguousarray(pictures.cpu().numpy())


def _tensors(arrays: Sequence[Any]) -> Outputs:
    return tuple(torch.from_numpy(np.array(array)) for array in arrays)


_MAKERS: dict[str, Callable[[nn.Module, int], Run]] = {
    "openvino": _on_openvino,
    "onnxruntime": _on_onnxruntime,
    "torch": _on_torch,
}
