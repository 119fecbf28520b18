"""How long ``import`` takes: each system in turns, each time in a fresh interpreter, whose own start is not counted."""

import json
import statistics
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from benchmarks.processes import environment
from benchmarks.systems import SYSTEMS, System
from benchmarks.table import FACTORS, Cell, Row
from benchmarks.workloads import IMPORT

# jsonschema, which cloud-volume imports, takes this if it is there: a second more, on machines that have Jupyter.
SCRIPT = """
import sys, time
sys.modules["rfc3987_syntax"] = None
began = time.perf_counter()
import {module}
seconds = time.perf_counter() - began
import json
from pathlib import Path
peak = next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
print(json.dumps([seconds, peak * 1024]))
"""


def measure(systems: Collection[System], rounds: int) -> Row:
    runs: dict[str, list[tuple[float, int]]] = {system.name: [] for system in systems}
    for number in range(rounds + 1):
        for system in systems:
            run = imported(system.module)
            if number:  # the first time, files are read from disk
                runs[system.name].append(run)
    cells = {name: cell(runs[name]) if name in runs else Cell() for name in SYSTEMS}
    return Row("import", "import", "ms", cells, IMPORT)


def imported(module: str) -> tuple[float, int]:
    """Return the seconds, and the bytes of memory at the peak of the process."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(module=module)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env=environment(),
    )
    seconds, peak = json.loads(done.stdout)
    return seconds, peak


def cell(runs: list[tuple[float, int]]) -> Cell:
    seconds, peaks = zip(*runs, strict=True)
    details = {"seconds": [round(each, 6) for each in seconds], "peak_bytes": round(statistics.median(peaks))}
    return Cell(statistics.median(seconds) * FACTORS["ms"], details=details)
