"""What a process holds is asked of the kernel while its threads come and go."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

from bench.processes import children


def test_a_thread_that_ends_while_it_is_listed_has_no_children() -> None:
    over = threading.Event()

    def come_and_go() -> None:
        while not over.is_set():
            thread = threading.Thread(target=lambda: None)
            thread.start()
            thread.join()

    busy = [threading.Thread(target=come_and_go) for _ in range(2)]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        for thread in busy:
            thread.start()
        try:
            found = [children(os.getpid()) for _ in range(2000)]
        finally:
            over.set()
            for thread in busy:
                thread.join(30)
        assert child.stdin is not None
        child.stdin.close()
    assert all(child.pid in one for one in found)
