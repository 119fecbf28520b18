"""How long ``import`` takes: each system in turns, each time in a fresh interpreter, whose own start is not counted."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.systems import SYSTEMS
from benchmarks.table import FACTORS, Cell, Row
from benchmarks.worker import environment
from benchmarks.workloads import IMPORT

ROUNDS = 7
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


def measure(rounds: int = ROUNDS) -> Row:
    runs: dict[str, list[tuple[float, int]]] = {name: [] for name in SYSTEMS}
    for number in range(rounds + 1):
        for name, system in SYSTEMS.items():
            run = imported(system.module)
            if number:  # the first time, files are read from disk
                runs[name].append(run)
    cells = {name: cell(measured) for name, measured in runs.items()}
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
