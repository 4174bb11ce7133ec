"""`python -m bench.engines --json FILE`: the two networks alone, images a second, every way to run.

Needs torch, torchvision, numpy and safetensors, nothing else of the node's; what is not installed,
or not on this machine, is said and left out. Each way runs in a process of its own with a limit on
its time, so that a compiler that hangs costs that way alone. `difference` is the largest difference
in a probability from torch as it comes, on the same pictures. `cpu_ms` is the processors' time for
an image: where other work is on the machine, that is what can be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prescreen.nets import architecture, compiled, engine, runtimes, weights
from prescreen.nets.screener import Drawing, Seeing
from prescreen.study import ORGANS

ROOT = Path(__file__).parents[1]
CPU_WAYS = ("eager", "channels-last", "folded", "compiled", "onnxruntime", "openvino")
GPU_WAYS = ("cuda", "cuda channels-last bf16", "cuda graph bf16")
BATCHES = (1, 8, 32)
#: Dense bfloat16 peak of GPUs, in 10^12 operations a second, by a part of the device's name.
PEAKS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}

Run = Callable[[Tensor], tuple[Tensor, ...]]
Probabilities = Callable[[tuple[Tensor, ...]], Tensor]


# ---------------------------------------------------------------- the networks and their ways


def networks(folder: Path) -> dict[str, tuple[nn.Module, int, Probabilities]]:
    """Both passes as the node makes them: module, side of its pictures, how to compare answers."""
    loaded = weights.load(folder)
    classifier = architecture.classifier_of(loaded["findings"])

    def judged(found: tuple[Tensor, ...]) -> Tensor:
        features = found[0].float().cpu()
        everywhere = features.new_ones((len(features), len(ORGANS), *features.shape[2:]))
        seen = classifier.judge(features, everywhere)
        return torch.sigmoid(torch.cat([seen.masked, seen.unmasked]))

    drawing = Drawing(architecture.segmenter_of(loaded["lungs_heart"]))
    sizes = {name: one.manifest.input_size for name, one in loaded.items()}
    return {
        "findings": (Seeing(classifier), sizes["findings"], judged),
        "lungs_heart": (drawing, sizes["lungs_heart"], lambda found: found[1].float().cpu()),
    }


def missing(way: str) -> str | None:
    """Why a way cannot be gone here, None where it can."""
    if way in GPU_WAYS:
        return None if torch.cuda.is_available() else "no CUDA device"
    return runtimes.absent(way) if way in runtimes.NEEDS else None


def made(way: str, module: nn.Module, size: int, batch: int) -> Run:
    """The module made ready to be run in one way, with batches of one size."""
    if way in GPU_WAYS:
        return _on_gpu(way, module, size, batch)
    if way == "compiled":
        return _compiled(module, size)
    if way in runtimes.NEEDS:
        return engine.Pass(module, size, way)
    if way == "folded":
        return engine.Pass(module, size, "torch")
    layout = torch.contiguous_format if way == "eager" else torch.channels_last
    return module.to(memory_format=layout)


def _compiled(module: nn.Module, size: int) -> Run:
    """As the node does it, once; what is measured is the pass alone."""
    with tempfile.TemporaryDirectory(prefix="prescreen-compiled-") as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        file = Path(folder) / "network.pt2"
        compiled.compile_to(file, engine.folded(module), size)
        return compiled.opened(file)


def _on_gpu(way: str, module: nn.Module, size: int, batch: int) -> Run:
    half = torch.bfloat16 if "bf16" in way else torch.float32
    ready = engine.folded(module.to("cuda")).to(half)

    def run(pictures: Tensor) -> tuple[Tensor, ...]:
        return tuple(ready(pictures.to("cuda", half)))

    if "graph" not in way:
        return run
    held = torch.zeros(batch, 1, size, size, device="cuda", dtype=half)
    held = held.contiguous(memory_format=torch.channels_last)
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(aside):
        for _ in range(3):
            ready(held)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = tuple(ready(held))

    def replay(pictures: Tensor) -> tuple[Tensor, ...]:
        held.copy_(pictures)
        graph.replay()
        return found

    return replay


# ---------------------------------------------------------------- one way, in its own process


@torch.inference_mode()
def one_way(way: str, folder: Path, batches: Sequence[int], seconds: float) -> dict[str, Any]:
    """Images a second by network and batch, and the largest difference in a probability."""
    told: dict[str, Any] = {"images_s": {}, "cpu_ms": {}, "difference": 0.0}
    for name, (module, size, probabilities) in networks(folder).items():
        wanted = [probabilities(tuple(module(pictures(size, n)))) for n in batches]
        rates = told["images_s"].setdefault(name, {})
        run = None
        for n, answers in zip(batches, wanted, strict=True):
            if run is None or way in GPU_WAYS:  # a graph of CUDA's is for one size of batch
                run = made(way, module, size, n)
            seen = pictures(size, n)
            apart = float((probabilities(run(seen)) - answers).abs().max())
            told["difference"] = max(told["difference"], apart)
            wall, cpu = seconds_of(run, way, seen, seconds)
            rates[str(n)] = n / wall
            told["cpu_ms"].setdefault(name, {})[str(n)] = 1000 * cpu / n
        if way in GPU_WAYS:
            told.setdefault("share_of_bf16_peak", {})[name] = share(name, folder, rates)
    return told


def pictures(size: int, count: int) -> Tensor:
    """Smooth pictures of all brightnesses, the same ever again."""
    g = torch.Generator().manual_seed(3)
    coarse = torch.rand((count, 1, 12, 12), generator=g)
    fine = nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return fine.contiguous(memory_format=torch.channels_last)


def seconds_of(run: Run, way: str, seen: Tensor, at_least: float) -> tuple[float, float]:
    """The median time of a pass, once it is warm: on the clock, and of the processors."""
    gpu = way in GPU_WAYS
    seen = seen.to("cuda") if gpu else seen
    run(seen)
    taken: list[float] = []
    busy: list[float] = []
    while sum(taken) < at_least or len(taken) < 3:
        begun, used = time.perf_counter(), time.process_time()
        run(seen)
        if gpu:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - begun)
        busy.append(time.process_time() - used)
    return statistics.median(taken), statistics.median(busy)


def share(name: str, folder: Path, rates: Mapping[str, float]) -> float | None:
    """The share of the GPU's bfloat16 peak at the best rate; None for a GPU not in PEAKS."""
    from torch.utils.flop_counter import FlopCounterMode

    device = torch.cuda.get_device_name()
    peak = next((v for part, v in PEAKS.items() if part in device), None)
    module, size, _ = networks(folder)[name]
    with FlopCounterMode(display=False) as counter:
        module(pictures(size, 1))
    done = counter.get_total_flops() * max(rates.values())
    return None if peak is None else done / (peak * 1e12)


# ---------------------------------------------------------------- all of them


def measured(
    folder: Path,
    ways: Sequence[str] = (*CPU_WAYS, *GPU_WAYS),
    batches: Sequence[int] = BATCHES,
    seconds: float = 2.0,
    limit: float = 300.0,
) -> dict[str, Any]:
    """Every way in turn: its figures, or why there are none."""
    told: dict[str, Any] = {}
    for way in ways:
        reason = missing(way)
        told[way] = {"skipped": reason} if reason else _apart(way, folder, batches, seconds, limit)
    return told


def _apart(
    way: str, folder: Path, batches: Sequence[int], seconds: float, limit: float
) -> dict[str, Any]:
    sizes = ",".join(map(str, batches))
    command = [sys.executable, "-m", "bench.engines", "--way", way, "--weights", str(folder)]
    try:
        ended = subprocess.run(
            [*command, "--batches", sizes, "--seconds", str(seconds)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"skipped": f"not done within {limit:g} s"}
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["no word"])[-1]
        return {"skipped": f"failed: {last[:200]}"}
    figures: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return figures


def machine() -> dict[str, Any]:
    """What the figures are of."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def lines(told: Mapping[str, Any]) -> list[str]:
    """The table for people, without any library."""
    said = []
    for way, one in told.items():
        if "skipped" in one:
            said.append(f"{way:16} {one['skipped']}")
            continue
        for name, rates in one["images_s"].items():
            cpu = one["cpu_ms"][name]
            figures = "  ".join(
                f"batch {n}: {rate:7.1f} ({cpu[n]:5.1f} ms)" for n, rate in rates.items()
            )
            said.append(
                f"{way:16} {name:12} images/s (CPU) {figures}  differs {one['difference']:.1e}"
            )
        for name, part in one.get("share_of_bf16_peak", {}).items():
            known = "peak not known" if part is None else f"{100 * part:.1f} %"
            said.append(f"{way:16} {name:12} share of the bf16 peak: {known}")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.engines", description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--weights", type=Path, default=ROOT / "weights")
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each is measured")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds each way may take")
    parser.add_argument("--way", help="this one alone, in this process: one line of JSON")
    options = parser.parse_args()
    batches = [int(n) for n in options.batches.split(",")]
    if options.way:
        print(json.dumps(one_way(options.way, options.weights, batches, options.seconds)))
        return
    told = measured(options.weights, batches=batches, seconds=options.seconds, limit=options.limit)
    if options.json:
        found = {"machine": machine(), "networks": told}
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="ascii")
    print("\n".join(lines(told)))


if __name__ == "__main__":
    main()
