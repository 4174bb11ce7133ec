"""The supervisor's own work over a store that grows: its memory ends with SQLite's page caches."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.figures import told
from tests.store_bench import PACS, StoreBench

#: Housekeeping and figures as the supervisor has them, twenty turns for every line it is sent;
#: answers with what it has resident, in MiB.
SUPERVISING = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from prescreen.housekeeping import Housekeeper
from prescreen.settings import Housekeeping
from prescreen.store import reader
from prescreen.store.database import open_database
from prescreen.store.queue import utc_now
from prescreen.store.spool import Spool

folder = Path(sys.argv[1])
engine = open_database(folder / "prescreen.db")
settings = Housekeeping(retention_days=36500, minimum_free_mb=1)
keeper = Housekeeper(engine, Spool(folder), folder, settings, utc_now)

def figures():
    reader.status(engine, utc_now())
    reader.kinds(engine)

with ThreadPoolExecutor(10) as pool:
    for _ in sys.stdin:
        for _ in range(20):
            work = (keeper.retain, keeper.watch_room, keeper.checkpoint, figures)
            for turn in [pool.submit(one) for one in work]:
                turn.result()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        print(pages * 4 / 1024, flush=True)
"""
#: Page caches of a few connections fill to 2 MiB each; what follows the studies goes on growing.
STEPS, STUDIES = 10, 700


@pytest.mark.soak
def test_what_housekeeping_holds_does_not_follow_the_number_of_studies(tmp_path: Path) -> None:
    bench = StoreBench(tmp_path)
    command = [sys.executable, "-c", SUPERVISING, str(tmp_path)]
    pipe = subprocess.PIPE
    resident, database = [], []
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for step in range(STEPS):
            for number in range(STUDIES):
                bench.screened(f"1.2.3.{step}.{number}", PACS)
            process.stdin.write("go on\n")
            process.stdin.flush()
            resident.append(float(process.stdout.readline()))
            database.append((tmp_path / "prescreen.db").stat().st_size / (1 << 20))
        process.stdin.close()
        assert process.wait(60) == 0
    told("housekeeping", {"resident_mib": resident, "database_mib": database})
    assert resident[-1] - resident[STEPS // 2] < 4.0
