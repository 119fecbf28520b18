"""One system in one setting, in a process of its own that does jobs as they come through a pipe.

Started by `Worker`, as ``python -m benchmarks.worker FD SYSTEM SETTING``. Imports and checks are not timed. Each job
opens what it reads anew, so that nothing is left from the job before.
"""

import gc
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.jobs import Job, Outcome
from benchmarks.systems import SYSTEMS, Array, Tool

DEADLINE = 300.0  # seconds that a job may take


class WorkerError(Exception):
    """A worker ended, or does not answer."""


class Worker:
    """The harness's end of a worker."""

    def __init__(self, system: str, setting: str) -> None:
        self.name = f"{system} ({setting})"
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", str(theirs.fileno()), system, setting],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def run(self, job: Job) -> Outcome:
        try:
            self._pipe.send(job)
            if self._pipe.poll(DEADLINE):
                outcome: Outcome = self._pipe.recv()
                return outcome
        except (EOFError, OSError) as exc:
            raise WorkerError(f"{self.name} ended with code {self._process.wait()} at {job}") from exc
        raise WorkerError(f"{self.name} has not answered in {DEADLINE} s: {job}")

    def close(self) -> None:
        self._pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        self._process.kill()
        self._process.wait()


# ------------------------------------------------------------------------------------------------------ in the worker


def main() -> None:
    descriptor, system, setting = sys.argv[1:]
    pipe = Connection(int(descriptor))
    tool = SYSTEMS[system].tool(**SYSTEMS[system].settings[setting])
    with suppress(EOFError):
        while True:
            job = pipe.recv()
            try:
                outcome = ACTIONS[job.action](tool, job)
            except Exception:  # noqa: BLE001 - whatever a tool raises is its result
                outcome = Outcome(error=traceback.format_exc())
            pipe.send(outcome)
    os._exit(0)  # some tools' threads never end


def timed(job: Job, run: Callable[[], list[Any]]) -> tuple[list[Any], Outcome]:
    """Run; the peak of memory begins anew before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    began = time.perf_counter()
    results = run()
    seconds = time.perf_counter() - began
    kept = sum(result.nbytes for result in results if isinstance(result, np.ndarray))
    return results, Outcome(seconds, peak_memory() - kept)


def peak_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


def read(tool: Tool, job: Job) -> Outcome:
    """Read all boxes, one after another, from a volume that is open already."""
    opened = tool.open(job.location, job.data)
    results, outcome = timed(job, lambda: [tool.read(opened, box) for box in job.boxes])
    return checked(job, results, outcome)


def checked(job: Job, results: list[Array], outcome: Outcome) -> Outcome:
    """Compare each box voxel by voxel with what was expected, in blocks that fit the processor's cache."""
    expected = np.load(job.expected, mmap_mode="r")
    for box, result in zip(job.boxes, results, strict=True):
        found, wanted = result.reshape(result.shape[:3]), expected[box]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            return Outcome(error=f"{box}: {found.dtype} {found.shape} is not {wanted.dtype} {wanted.shape}")
        if not all(alike(found[block], wanted[block], job.tolerance) for block in blocks(found.shape)):
            return Outcome(error=f"{box}: voxels are not what was expected")
    return outcome


def blocks(shape: tuple[int, ...], side: int = 64) -> list[tuple[slice, ...]]:
    return [
        tuple(slice(index * side, (index + 1) * side) for index in cell)
        for cell in np.ndindex(*(-(-length // side) for length in shape))
    ]


def alike(found: Array, wanted: Array, tolerance: int) -> bool:
    if not tolerance:
        return np.array_equal(found, wanted)
    return bool((np.abs(found.astype(int) - wanted.astype(int)) <= tolerance).all())


ACTIONS: dict[str, Callable[[Tool, Job], Outcome]] = {"read": read}

if __name__ == "__main__":
    main()
