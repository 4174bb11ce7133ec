"""The networks compiled for the very processor they run on (torch's AOTInductor), kept on disk.

Compiling takes a C++ compiler and minutes. It is done once for each set of weights, by

    python -m prescreen.nets.compiled --weights FOLDER --kept FOLDER

which a node starts by itself, at the lowest priority, some time after its own start. What that
finds out stands in `verdict.json`: how fast, how far from torch's answers, whether it pays; or why
it failed, and then it is not tried again until the folder is removed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prescreen.nets import runtimes
from prescreen.nets.manifest import NETWORKS, read_manifest

if TYPE_CHECKING:
    from torch import Tensor, nn

    Run = Callable[[Tensor], tuple[Tensor, ...]]

#: Compiled networks are used where they take at most this share of what they took before.
PAYS = 0.9
#: Sets of compiled networks that are kept, the newest.
KEPT = 3
#: Seconds that compiling may take.
LIMIT = 3600.0
#: The most pictures at a time that a compiled network takes.
MOST = 64
VERDICT = "verdict.json"
_LAYOUT = 1


# ---------------------------------------------------------------- what is kept


@dataclass(frozen=True)
class Verdict:
    """What became of compiling one set of weights; `why` is for people."""

    pays: bool
    why: str


def folder_for(kept: Path, weights: Path) -> Path:
    """Where the compiled networks of these weights are, for this torch and this processor.

    Machine code for another processor would end the process that runs it. Raises WeightsError as
    `read_manifest` does.
    """
    digests = [read_manifest(weights / f"{network}.json").sha256 for network in NETWORKS]
    said = [str(_LAYOUT), runtimes.version("torch"), _processor(), *digests]
    return kept / hashlib.sha256("\n".join(said).encode()).hexdigest()[:24]


@functools.cache
def _processor() -> str:
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        named = [line for line in lines if line.startswith(("model name", "flags", "Features"))]
        return "\n".join(dict.fromkeys(named))
    return platform.processor()


def verdict_in(folder: Path) -> Verdict | None:
    """What is known of a folder, None where nothing was tried yet."""
    try:
        raw = json.loads((folder / VERDICT).read_text(encoding="utf-8"))
        return Verdict(bool(raw["pays"]), str(raw["why"]))
    except OSError:
        return None
    except (ValueError, KeyError, TypeError):
        return Verdict(False, f"{folder / VERDICT} is not readable: remove its folder")


def file_of(folder: Path, network: str) -> Path:
    return folder / f"{network}.pt2"


def files_for(kept: Path | None, weights: Path) -> dict[str, Path]:
    """The compiled networks of these weights, by network; none where none were, or do not pay."""
    if kept is None:
        return {}
    folder = folder_for(kept, weights)
    found = verdict_in(folder)
    if found is None or not found.pays:
        return {}
    return {network: file_of(folder, network) for network in NETWORKS}


def opened(path: Path) -> Run:
    """The network in a file that `compile_to` wrote. Whatever torch raises comes through."""
    from torch._inductor import aoti_load_package

    package: Any = aoti_load_package(str(path))
    return lambda pictures: tuple(package(laid_out(pictures)))


def laid_out(pictures: Tensor) -> Tensor:
    """Pictures (n, 1, h, w) with the strides of channels-last.

    Of one channel torch takes both layouts for the same, whatever the strides say; a compiled
    network does not, and would read its own features in the wrong order.
    """
    n, _, h, w = pictures.shape
    return pictures.contiguous().as_strided((n, 1, h, w), (h * w, 1, w, 1))


# ---------------------------------------------------------------- compiling


def compile_to(path: Path, module: nn.Module, size: int) -> None:
    """Compile a module, up to MOST pictures (n, 1, size, size) in, to a file of its own."""
    import torch
    from torch._inductor import aoti_compile_and_package

    example = laid_out(torch.rand(2, 1, size, size))
    count = torch.export.Dim("n", min=1, max=MOST)
    with torch.no_grad():
        program = torch.export.export(module, (example,), dynamic_shapes=({0: count},))
        # not frozen: torch 2.6 and 2.15 then change what a convolution of one channel answers
        aoti_compile_and_package(program, package_path=str(path))


def measured(one: Run, other: Run, size: int, batch: int = 4) -> tuple[float, float]:
    """Median CPU seconds of a pass of each, taken in turns: other work on the machine cancels."""
    import torch

    pictures = torch.rand(batch, 1, size, size)
    taken: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(6):
            for run, seconds in zip((one, other), taken, strict=True):
                begun = time.process_time()
                run(pictures)
                seconds.append(time.process_time() - begun)
    return statistics.median(taken[0][1:]), statistics.median(taken[1][1:])


def compile_weights(weights: Path, kept: Path) -> Verdict:
    """Compile both networks of a folder, judge them, and keep them beside the verdict.

    The folder appears whole or not at all.
    """
    kept.mkdir(parents=True, exist_ok=True)
    target = folder_for(kept, weights)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=kept))
    try:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(draft / "cache")
        try:
            found = _compiled(weights, draft)
        except Exception as error:
            found = Verdict(False, f"compiling failed ({type(error).__name__})")
        shutil.rmtree(draft / "cache", ignore_errors=True)
        text = json.dumps(asdict(found), indent=1)
        (draft / VERDICT).write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    _forget_old(kept)
    return found


def _compiled(weights: Path, draft: Path) -> Verdict:
    from prescreen.nets import engine, screener
    from prescreen.nets.weights import load

    loaded = load(weights)
    shares = {}
    for network, module in screener.modules(loaded).items():
        file, size = file_of(draft, network), loaded[network].manifest.input_size
        plain = engine.folded(module)
        compile_to(file, plain, size)
        before, after = measured(plain, opened(file), size)
        shares[network] = after / before
    said = ", ".join(f"{network} {100 * share:.0f} %" for network, share in shares.items())
    return Verdict(shares["findings"] <= PAYS, f"share of the time taken before compiling: {said}")


def _forget_old(kept: Path) -> None:
    folders = [path.parent for path in kept.glob(f"*/{VERDICT}")]
    folders.sort(key=lambda folder: (folder / VERDICT).stat().st_mtime, reverse=True)
    for folder in folders[KEPT:]:
        shutil.rmtree(folder, ignore_errors=True)


class Compiling:
    """Compiles beside a node that works, in a process of its own.

    It begins `after` seconds: a start is no time for it. Ended by `close`, or after LIMIT.
    """

    def __init__(self, weights: Path, kept: Path, after: float) -> None:
        self._weights, self._kept = weights, kept
        self._folder = folder_for(kept, weights)
        self._process: subprocess.Popen[bytes] | None = None
        self._begin = time.monotonic() + after
        self._asked = verdict_in(self._folder) is None and runtimes.compiler() is not None

    def is_ready(self) -> bool:
        """Whether there are compiled networks now that were not there before, and that pay.

        To be asked now and then: the process is started and ended in here.
        """
        if not self._asked or time.monotonic() < self._begin:
            return False
        if self._process is None:
            self._process = self._started()
        if self._process.poll() is None and time.monotonic() < self._begin + LIMIT:
            return False
        self.close()
        self._asked = False
        found = verdict_in(self._folder)
        return found is not None and found.pays

    def _started(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "prescreen.nets.compiled"]
        folders = ["--weights", str(self._weights), "--kept", str(self._kept)]
        return subprocess.Popen(
            [*command, *folders],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # the compilers that it calls end with it
        )

    def close(self) -> None:
        """End what runs; nothing half-done stays."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for draft in self._kept.glob(".draft-*"):
            shutil.rmtree(draft, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, help="a folder of weights")
    parser.add_argument("--kept", type=Path, required=True, help="where compiled networks are kept")
    chosen = parser.parse_args()
    with contextlib.suppress(OSError):  # a sandbox may forbid it
        os.nice(19)
    print(compile_weights(chosen.weights, chosen.kept).why)


if __name__ == "__main__":
    main()
