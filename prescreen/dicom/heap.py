"""What a burst of images took from the system goes back to it.

glibc gives each thread a heap of its own and keeps what is freed there: after 16 associations of
10 MB a process stays at three times its size for ever. Where the C library is another, these
functions do nothing.
"""

from __future__ import annotations

import ctypes
import gc

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
#: Above the largest buffer of an image, and the most that glibc takes for a threshold.
_LARGEST = 32 << 20


def share_one_heap() -> None:
    """Let threads started from now on share the first heap, the only one trimmed to its end.

    What is larger than a megabyte is mapped beside it: the buffer of an image that grows as it
    comes in is then moved by its page table, not copied 37 times.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)


def keep_freed() -> None:
    """Keep what is freed for the next image; of use before threads are started.

    By default a buffer of megabytes is mapped for each picture and given back: the kernel clears
    each of its pages anew, which costs as much as filling them.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, 4 * _LARGEST)


def keep_what_is_loaded() -> None:
    """Let the garbage collector look past what is there now: it lives long.

    What it was told of before and nobody has any more, networks that others took the place of, is
    collected first.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def give_back_freed() -> None:
    """Return freed pages to the system; well under a millisecond."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
