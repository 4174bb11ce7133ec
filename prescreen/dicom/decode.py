"""Pixels are decoded in processes of their own, with limits on memory and time.

A codec is native code that meets whatever a sender wrote: it may crash, never end or ask for all
memory. The child pays for that, its image is refused, and a new child takes the next one.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import resource
import signal
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pebble
import pydicom

from prescreen.dicom.attributes import without_warnings
from prescreen.dicom.header import unparsable
from prescreen.dicom.reasons import ImageReason
from prescreen.dicom.render import Allocate, render
from prescreen.errors import UnusableImage
from prescreen.study import FloatArray, Radiograph

_MIB = 1 << 20
_KEPT = 8  # memories kept for the next images: one batch


@dataclass(frozen=True)
class _Memory:
    """Memory of the parent that a child opens by name, and fills with pixels.

    Anonymous (memfd): no file is left when either process dies, and unlike /dev/shm it is not
    64 MiB small in a container. Sixteen megabytes through a pipe would cost as much as rendering.
    """

    process: int
    descriptor: int

    def allocate(self, shape: tuple[int, int]) -> FloatArray:
        """In the child: make room for `shape`, and map it."""
        path = f"/proc/{self.process}/fd/{self.descriptor}"
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            size = 4 * shape[0] * shape[1]
            if os.fstat(descriptor).st_size < size:
                os.ftruncate(descriptor, size)
            return _pixels(_mapped(descriptor, shape), shape)
        finally:
            os.close(descriptor)


def _mapped(descriptor: int, shape: tuple[int, int]) -> mmap.mmap:
    flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
    return mmap.mmap(descriptor, 4 * shape[0] * shape[1], flags=flags)


def _pixels(mapping: mmap.mmap, shape: tuple[int, int]) -> FloatArray:
    return np.frombuffer(mapping, np.float32, shape[0] * shape[1]).reshape(shape)


class _Memories:
    """Memories, each used again once no array refers to what was read into it.

    The pages of a new one cost more processor time than all of rendering (7 ms of 4 megapixels).
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._free: list[_Memory] = []  # append and pop are atomic: the collector may call `give`

    def take(self) -> _Memory:
        try:
            return self._free.pop()
        except IndexError:
            return _Memory(os.getpid(), os.memfd_create("prescreen-pixels"))

    def pixels(self, memory: _Memory, shape: tuple[int, int]) -> FloatArray:
        """What a child has written. The memory is free again when the array is gone."""
        mapping = _mapped(memory.descriptor, shape)
        weakref.finalize(mapping, self._give, memory).atexit = False
        return _pixels(mapping, shape)

    def discard(self, memory: _Memory) -> None:
        """Never use it again: a child on its way out may still be writing."""
        os.close(memory.descriptor)

    def close(self) -> None:
        """Keep none from now on; arrays that are still about stay as they are."""
        self._keep = 0
        while self._free:
            self.discard(self._free.pop())

    def _give(self, memory: _Memory) -> None:
        if len(self._free) < self._keep:
            self._free.append(memory)
        else:
            self.discard(memory)


@dataclass(frozen=True)
class _Answer:
    """What comes back through the pipe: all but the pixels, which lie in the memory."""

    ds: pydicom.Dataset
    radiograph: Radiograph
    shape: tuple[int, int]


Read = Callable[[Path, float, Allocate], tuple[pydicom.Dataset, Radiograph]]


def read_image(
    path: Path, max_megapixels: float, allocate: Allocate
) -> tuple[pydicom.Dataset, Radiograph]:
    """Part 10 file → (its data set without pixels, its radiograph), in this very process.

    Raises UnusableImage. Not for files from outside unless this process may be lost: see Decoder.
    """
    with without_warnings():
        ds = _parsed(path)
        radiograph = render(ds, max_megapixels=max_megapixels, allocate=allocate)
    del ds.PixelData
    return ds, radiograph


def _parsed(path: Path) -> pydicom.Dataset:
    try:
        ds = pydicom.dcmread(path)
        len(ds.file_meta)
    except MemoryError:
        raise
    except Exception as error:  # pydicom raises what it likes, with values in the text
        raise unparsable(error) from None
    return ds


def _start(memory_mb: int) -> None:
    """Begin a child: no core dumps (they would hold patients), memory limited."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Path("/proc/self/statm").open(encoding="ascii") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    limit = now + memory_mb * _MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_processor_time(seconds: float) -> None:
    """Twice the wall clock's limit from now on: ends a child whose parent is no more."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(usage.ru_utime + usage.ru_stime + 2 * seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _answer(
    read: Read, path: Path, memory: _Memory, seconds: float, max_megapixels: float
) -> _Answer:
    """In the child: one image."""
    _limit_processor_time(seconds)
    try:
        ds, radiograph = read(path, max_megapixels, memory.allocate)
    except UnusableImage:
        raise
    except MemoryError:
        raise UnusableImage(
            "decoding needs more memory than decode_memory_mb allows", ImageReason.DECODE_MEMORY
        ) from None
    except Exception as error:  # a text may hold values of the data set; type and line do not
        raise UnusableImage(
            f"reading the image failed ({_where(error)})", ImageReason.DECODE_FAILED
        ) from None
    shape = (radiograph.pixels.shape[0], radiograph.pixels.shape[1])
    nothing = np.empty((0, 0), np.float32)
    return _Answer(ds, replace(radiograph, pixels=nothing), shape)


def _where(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {Path(trace.tb_frame.f_code.co_filename).name}"
    return f"{type(error).__name__}{place}:{trace.tb_lineno if trace else 0}"


class Decoder:
    """Long-lived child processes that turn files into radiographs.

    `workers` children, at most `seconds` of wall clock and `memory_mb` MiB beyond a child's own
    start for one image, at most `max_megapixels`. Safe to use from several threads. Close it, or
    use it in `with`. `read_image` is what a child does; tests give others.
    """

    def __init__(
        self,
        workers: int = 1,
        seconds: float = 20,
        memory_mb: int = 2_048,
        max_megapixels: float = 64,
        read: Read = read_image,
    ) -> None:
        self._workers = workers
        self._seconds = seconds
        self._memory_mb = memory_mb
        self._max_megapixels = max_megapixels
        self._read = read
        self._memories = _Memories(_KEPT)
        self._pool = self._new_pool()

    def read(self, path: Path) -> tuple[pydicom.Dataset, Radiograph]:
        """The data set of a Part 10 file without its pixel data, and its radiograph.

        Raises UnusableImage with an ImageReason: what `render` refuses, and a child that died,
        took too long or wanted too much memory. The next image is read all the same.
        """
        answer = self.read_all([path])[0]
        if isinstance(answer, UnusableImage):
            raise answer
        return answer

    def read_all(
        self, paths: Sequence[Path]
    ) -> list[tuple[pydicom.Dataset, Radiograph] | UnusableImage]:
        """`read` for each path, as many at once as there are workers; answers in order."""
        scheduled = [self._scheduled(path) for path in paths]
        return [self._settled(future, memory) for future, memory in scheduled]

    def close(self) -> None:
        """End the children, whatever they are at."""
        self._pool.stop()  # type: ignore[no-untyped-call]
        self._pool.join()
        self._memories.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _new_pool(self) -> pebble.ProcessPool:
        # spawn: a fork of the screening process would carry its networks, and its threads' locks
        return pebble.ProcessPool(
            max_workers=self._workers,
            initializer=_start,
            initargs=(self._memory_mb,),
            context=multiprocessing.get_context("spawn"),
        )

    def _scheduled(self, path: Path) -> tuple[Future[_Answer], _Memory]:
        memory = self._memories.take()
        future: Future[_Answer] = self._pool.schedule(
            _answer,
            args=(self._read, path, memory, self._seconds, self._max_megapixels),
            timeout=self._seconds,
        )
        return future, memory

    def _settled(
        self, future: Future[_Answer], memory: _Memory
    ) -> tuple[pydicom.Dataset, Radiograph] | UnusableImage:
        try:
            answer = future.result()
        except UnusableImage as error:
            refused = error
        except TimeoutError:
            refused = self._timed_out()
        except pebble.ProcessExpired as error:
            out_of_time = -error.exitcode == signal.SIGXCPU
            refused = self._timed_out() if out_of_time else _crashed(error)
        else:
            pixels = self._memories.pixels(memory, answer.shape)
            return answer.ds, replace(answer.radiograph, pixels=pixels)
        self._memories.discard(memory)
        return refused

    def _timed_out(self) -> UnusableImage:
        return UnusableImage(
            f"decoding took longer than decode_seconds = {self._seconds:g}",
            ImageReason.DECODE_TIMEOUT,
        )


def _crashed(error: pebble.ProcessExpired) -> UnusableImage:
    code = error.exitcode
    how = f"by signal {-code}" if code < 0 else f"with exit status {code}"
    return UnusableImage(f"the decoding process ended {how}", ImageReason.DECODE_CRASHED)
