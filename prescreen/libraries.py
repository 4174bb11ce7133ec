"""What numerical libraries are told by the environment, which they read once: when they load."""

from __future__ import annotations

from collections.abc import MutableMapping


def tell_libraries(environment: MutableMapping[str, str]) -> None:
    """Let threads that wait sleep, and torch take memory in large pages. What is set stays.

    By default threads of OpenMP (torch) spin while they wait for each other. Where processes
    outnumber processors, a spinning thread keeps the one it waits for from running: the networks
    then take many times the CPU, and of the time. Threads of OpenBLAS (numpy) spin for some 20 ms
    after each product, and cannot be told to sleep; ours are too small to be shared out, so that it
    gets none. Tensors of a batch are larger than what the C library keeps for the next one: in
    pages of 4 KB the kernel would hand out and clear twenty thousand of them for each.
    """
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    environment.setdefault("THP_MEM_ALLOC_ENABLE", "1")
