"""Threads of the numerical libraries: those that wait for each other sleep."""

from __future__ import annotations

from collections.abc import MutableMapping


def let_waiting_threads_sleep(environment: MutableMapping[str, str]) -> None:
    """Tell OpenMP (torch) and OpenBLAS (numpy), which read it once, when they are loaded.

    By default their threads spin while they wait. Where processes outnumber processors, a spinning
    thread keeps the one it waits for from running: the networks then take many times the CPU, and
    of the time. OpenBLAS spins for some 20 ms after each product, and cannot be told to sleep; ours
    are too small to be shared out, so that it gets no threads. What is set already stays.
    """
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
