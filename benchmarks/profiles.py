"""Where our time goes: py-spy looks from outside, at all threads, while a worker repeats a workload.

The files are for https://www.speedscope.app. What is below `timed` was measured; the rest is opening and checking.
"""

import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

FOLDER = Path("bench-profiles")
SECONDS = 3
RATE = 500  # samples a second


def record(name: str, pid: int, repeat: Callable[[], object]) -> Path | None:
    """Call `repeat` for some seconds, and save what the process does meanwhile; None: that is not possible here."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{re.sub('[^a-z0-9]+', '-', name.lower())}.speedscope.json"
    command = [str(Path(sysconfig.get_path("scripts")) / "py-spy"), "record", "--pid", str(pid), "--output", str(path)]
    options = ["--format", "speedscope", "--threads", "--rate", str(RATE), "--duration", str(SECONDS)]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as spy:
        while spy.poll() is None:
            repeat()
        said = spy.stdout.read() if spy.stdout else ""
    if spy.returncode:
        print(f"no profile of {name}: {said}", file=sys.stderr)
        return None
    return path
