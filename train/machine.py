"""What a training runs on: the CPU, one GPU, or several under `torchrun`; and how far it is."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import time
from collections.abc import Callable, Iterator, Sized
from typing import Protocol, TypeVar, cast

import torch
from torch import distributed, nn

T = TypeVar("T")
N = TypeVar("N", bound=nn.Module)
Item = TypeVar("Item", covariant=True)

#: Seconds between two lines of progress where nobody watches a terminal.
LINE_EVERY = 60.0


class Batches(Sized, Protocol[Item]):
    """Anything with a length that can be gone through."""

    def __iter__(self) -> Iterator[Item]: ...


def start(seed: int, threads: int) -> None:
    """Seed everything; under `torchrun`, meet the others."""
    torch.manual_seed(seed)
    if threads:
        torch.set_num_threads(threads)
    if "LOCAL_RANK" in os.environ and not distributed.is_initialized():
        kind = "nccl" if torch.cuda.is_available() else "gloo"
        if kind == "nccl":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # one of them validates while the others wait
        distributed.init_process_group(kind, timeout=datetime.timedelta(hours=12))


def device() -> torch.device:
    """This process's GPU, or the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def rank() -> int:
    return distributed.get_rank() if distributed.is_initialized() else 0


def world() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def wait() -> None:
    """Until all processes are here."""
    if distributed.is_initialized():
        distributed.barrier()


def first(work: Callable[[], T]) -> T:
    """The first process does it, then the others, who find it done."""
    if rank() == 0:
        done = work()
        wait()
        return done
    wait()
    return work()


def as_the_first_found(work: Callable[[], T]) -> T:
    """The first process does it, and all have what it found: what they decide by is one.

    Plain values, not tensors; the others wait.
    """
    if world() == 1:
        return work()
    found = [work() if rank() == 0 else None]
    distributed.broadcast_object_list(found, src=0, device=device())
    return cast(T, found[0])


def say(words: str) -> None:
    """A line on standard output, from the first process alone."""
    if rank() == 0:
        print(words, flush=True)


def shared(network: N) -> N:
    """The network as several processes train it together."""
    if world() == 1:
        return network
    ids = [device().index] if device().type == "cuda" else None
    parallel = nn.parallel.DistributedDataParallel(
        network, device_ids=ids, find_unused_parameters=True
    )
    return cast(N, parallel)


def mixed_precision(wanted: bool) -> contextlib.AbstractContextManager[object]:
    """bfloat16 where there is a GPU; it has float32's range, so gradients need no scaling."""
    if wanted and device().type == "cuda":
        return torch.autocast("cuda", dtype=torch.bfloat16)
    return contextlib.nullcontext()


def progress(batches: Batches[Item], what: str) -> Iterator[Item]:
    """The batches, with a bar on a terminal and a line a minute elsewhere (first process only)."""
    began = said = time.monotonic()
    terminal = sys.stderr.isatty()
    for done, batch in enumerate(batches, start=1):
        yield batch
        now = time.monotonic()
        if rank() or (not terminal and now - said < LINE_EVERY):
            continue
        said = now
        left = (now - began) / done * (len(batches) - done)
        end = "\r" if terminal and done < len(batches) else "\n"
        text = f"{what}: {done} of {len(batches)} batches, {left:.0f} s left "
        print(text, end=end, file=sys.stderr, flush=True)
