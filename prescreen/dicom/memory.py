"""Memory that a child process fills with pixels and its parent then looks at, without a copy."""

from __future__ import annotations

import mmap
import os
import weakref
from dataclasses import dataclass

import numpy as np

from prescreen.study import FloatArray


@dataclass(frozen=True)
class Memory:
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


#: Bytes of the largest memory that is kept: more than any chest takes, less than a strip may.
_LARGEST_KEPT = 32 << 20


class Memories:
    """Memories, each used again once no array refers to what was read into it.

    The pages of a new one cost more processor time than all of rendering (7 ms of 4 megapixels).
    What an odd picture swelled is given back to the system.
    """

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._free: list[Memory] = []  # append and pop are atomic: the collector may call `give`

    def take(self) -> Memory:
        try:
            return self._free.pop()
        except IndexError:
            return Memory(os.getpid(), os.memfd_create("prescreen-pixels"))

    def pixels(self, memory: Memory, shape: tuple[int, int]) -> FloatArray:
        """What a child has written. The memory is free again when the array is gone."""
        mapping = _mapped(memory.descriptor, shape)
        weakref.finalize(mapping, self._give, memory).atexit = False
        return _pixels(mapping, shape)

    def discard(self, memory: Memory) -> None:
        """Never use it again: a child on its way out may still be writing."""
        os.close(memory.descriptor)

    def close(self) -> None:
        """Keep none from now on; arrays that are still about stay as they are."""
        self._keep = 0
        while self._free:
            self.discard(self._free.pop())

    def _give(self, memory: Memory) -> None:
        swollen = os.fstat(memory.descriptor).st_size > _LARGEST_KEPT
        if len(self._free) < self._keep and not swollen:
            self._free.append(memory)
        else:
            self.discard(memory)
