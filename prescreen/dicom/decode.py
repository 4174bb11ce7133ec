"""Pixels are decoded in processes of their own, with limits on memory and time.

A codec is native code that meets whatever a sender wrote: it may crash, never end or ask for all
memory. The child pays for that, its image is refused, and a new child takes the next one.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pebble

from prescreen.dicom.attributes import without_warnings
from prescreen.dicom.header import parsed
from prescreen.dicom.heap import keep_freed
from prescreen.dicom.memory import Memories, Memory
from prescreen.dicom.reasons import ImageReason
from prescreen.dicom.render import Allocate, render
from prescreen.errors import UnusableImage
from prescreen.study import Radiograph

_MIB = 1 << 20
_BROKEN_POOLS = 2  # pools that may break under one image before it is no accident
_KEPT = 8  # memories kept for the next images: one batch
#: The wall clock's limit in times that of processor time: where a dozen processes want the
#: processor, a sound picture takes a dozen times as long, and no codec waits for anything else.
_PATIENCE = 12


@dataclass(frozen=True)
class _Answer:
    """What comes back through the pipe: all but the pixels, which lie in the memory."""

    radiograph: Radiograph
    shape: tuple[int, int]


@dataclass(frozen=True)
class _Scheduled:
    """One image on its way through one pool."""

    path: Path
    digested: bool
    memory: Memory
    pool: pebble.ProcessPool
    future: Future[_Answer]


#: Path, megapixels at most, where the pixels go, whether the stored ones are digested.
Read = Callable[[Path, float, Allocate, bool], Radiograph]


def read_image(
    path: Path,
    max_megapixels: float,
    allocate: Allocate,
    digested: bool = True,
    least_side: int | None = None,
) -> Radiograph:
    """Part 10 file → its radiograph, in this very process.

    `digested` and `least_side` are those of `render`. Raises UnusableImage. Not for files from
    outside unless this process may be lost: see Decoder.
    """
    ds = parsed(path, stop_before_pixels=False)
    with without_warnings():
        return render(
            ds,
            max_megapixels=max_megapixels,
            allocate=allocate,
            least_side=least_side,
            digested=digested,
        )


def _start(memory_mb: int) -> None:
    """Begin a child: no core dumps (they would hold patients), memory limited."""
    keep_freed()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with Path("/proc/self/statm").open(encoding="ascii") as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    limit = now + memory_mb * _MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _limit_processor_time(seconds: float) -> None:
    """From now on, for this image; it also ends a child whose parent is no more."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(usage.ru_utime + usage.ru_stime + seconds) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _answer(
    read: Read, path: Path, memory: Memory, seconds: float, max_megapixels: float, digested: bool
) -> _Answer:
    """In the child: one image."""
    _limit_processor_time(seconds)
    try:
        radiograph = read(path, max_megapixels, memory.allocate, digested)
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
    return _Answer(radiograph.without_pixels(), shape)


def _where(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {Path(trace.tb_frame.f_code.co_filename).name}"
    return f"{type(error).__name__}{place}:{trace.tb_lineno if trace else 0}"


class Decoder:
    """Long-lived child processes that turn files into radiographs.

    `workers` children, at most `seconds` of processor time (twelve times as much by the clock, for
    what waits and does not work) and `memory_mb` MiB beyond a child's own start for one image, at
    most `max_megapixels`. Safe to use from several threads. Close it, or use it in `with`.
    `read_image` is what a child does; tests give others.
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
        self._memories = Memories(_KEPT)
        self._closed = False
        self._lock = threading.Lock()
        self._pool = self._new_pool()

    def read(self, path: Path) -> Radiograph:
        """The radiograph in a Part 10 file.

        Raises UnusableImage with an ImageReason: what `render` refuses, and a child that died,
        took too long or wanted too much memory. The next image is read all the same. What is no
        image's fault goes out as it is: OSError without memory or descriptors, RuntimeError where
        children cannot be started.
        """
        answer = self.read_all([path])[0]
        if isinstance(answer, UnusableImage):
            raise answer
        return answer

    def read_all(
        self, paths: Sequence[Path], digested: bool = True
    ) -> list[Radiograph | UnusableImage]:
        """`read` for each path, as many at once as there are workers; answers in order.

        Unless `digested` the radiographs have no `pixel_sha256`.
        """
        scheduled = [self._scheduled(path, digested) for path in paths]
        return [self._settled(image) for image in scheduled]

    def close(self) -> None:
        """End the children, whatever they are at."""
        with self._lock:
            self._closed = True
            self._end(self._pool)
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

    @staticmethod
    def _end(pool: pebble.ProcessPool) -> None:
        pool.stop()  # type: ignore[no-untyped-call]
        pool.join()

    def _replace(self, broken: pebble.ProcessPool) -> None:
        """A new pool for one that broke: an idle child was killed, by the kernel or by hand."""
        with self._lock:
            if self._pool is broken and not self._closed:
                self._end(broken)
                self._pool = self._new_pool()

    def _scheduled(self, path: Path, digested: bool) -> _Scheduled:
        memory, pool = self._memories.take(), self._pool
        args = (self._read, path, memory, self._seconds, self._max_megapixels, digested)
        future: Future[_Answer]
        try:
            future = pool.schedule(_answer, args=args, timeout=_PATIENCE * self._seconds)
        except RuntimeError as error:  # settled like a pool that breaks a moment later
            future = Future()
            future.set_exception(error)
        return _Scheduled(path, digested, memory, pool, future)

    def _settled(self, image: _Scheduled) -> Radiograph | UnusableImage:
        for _ in range(_BROKEN_POOLS):
            try:
                return self._result(image.future, image.memory)
            except RuntimeError:
                self._memories.discard(image.memory)
                self._replace(image.pool)
                image = self._scheduled(image.path, image.digested)
        return self._result(image.future, image.memory)

    def _result(self, future: Future[_Answer], memory: Memory) -> Radiograph | UnusableImage:
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
            return replace(answer.radiograph, pixels=pixels)
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
