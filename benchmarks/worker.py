"""One system in one setting, in a process of its own that does jobs as they come through a pipe.

`benchmarks.processes` starts it, as ``python -m benchmarks.worker FD SYSTEM SETTING``. Imports and comparing with what
is expected are not timed, nor is opening what is read, where the workload is not about that. Each job opens again what
it reads, so that nothing is known from the job before.
"""

import gc
import gzip
import mmap
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks import segments
from benchmarks.jobs import Box, Coords, Job, Outcome
from benchmarks.systems import (
    SYSTEMS,
    Array,
    ChunkTool,
    DownsamplingTool,
    Opened,
    PrecomputedFs,
    SamplingTool,
    SceneTool,
    Tool,
)


def main() -> None:
    descriptor, system, setting = sys.argv[1:]
    pipe = Connection(int(descriptor))
    tool = SYSTEMS[system].tool(**SYSTEMS[system].settings[setting])
    with suppress(EOFError, ConnectionError):
        while True:
            job = pipe.recv()
            try:
                outcome = ACTIONS[job.action](tool, job)
            except Exception:  # noqa: BLE001 - whatever a tool raises is what came of it
                outcome = Outcome(error=traceback.format_exc())
            pipe.send(outcome)
    os._exit(0)  # threads of some tools never end


def read(tool: Tool, job: Job) -> Outcome:
    """Read the boxes, one after another."""
    opened = tool.open(job.location, job.data, job.at_once)
    return read_opened(tool, opened, job)


def read_warm(tool: Tool, job: Job) -> Outcome:
    """Read the boxes that were read just before."""
    opened = tool.open(job.location, job.data)
    for box in job.boxes:
        tool.read(opened, box)
    return read_opened(tool, opened, job)


def read_opened(tool: Tool, opened: Opened, job: Job) -> Outcome:
    results, outcome = timed(lambda: [tool.read(opened, box) for box in job.boxes])
    return checked(job, results, outcome)


def sample(tool: Tool, job: Job) -> Outcome:
    """Read the voxels of all boxes, which have one each, at once."""
    opened = tool.open(job.location, job.data, job.at_once)
    points = np.array([[part.start for part in box] for box in job.boxes])
    (found,), outcome = timed(lambda: [cast("SamplingTool", tool).sample(opened, points)])
    expected = np.load(job.expected, mmap_mode="r")[tuple(points.T)]
    return outcome if alike(found.reshape(-1), expected, job.tolerance) else Outcome(error="voxels are not as expected")


def skeletons(tool: Tool, job: Job) -> Outcome:
    """Read the skeletons of all segments at once, from a volume whose `info` alone is known."""
    opened = tool.open(job.location, job.data)
    found, outcome = timed(lambda: cast("SceneTool", tool).skeletons(opened, segments.SEGMENTS))
    return outcome if are_equal(found, segments.skeletons()) else Outcome(error="skeletons are not as expected")


def meshes(tool: Tool, job: Job) -> Outcome:
    """Read the meshes of all segments at once, from a volume whose `info` alone is known."""
    opened = tool.open(job.location, job.data)
    found, outcome = timed(lambda: cast("SceneTool", tool).meshes(opened, segments.SEGMENTS))
    return outcome if are_equal(found, segments.meshes()) else Outcome(error="meshes are not as expected")


def are_equal(found: Sequence[tuple[Array, ...]], items: Iterable[tuple[int, tuple[Array, ...]]]) -> bool:
    """Compare the arrays of all segments."""
    expected = [made for _, made in items]
    return len(found) == len(expected) and all(
        np.array_equal(*pair) for both in zip(found, expected, strict=True) for pair in zip(*both, strict=True)
    )


def read_cold(tool: Tool, job: Job) -> Outcome:
    """Read each box from a volume that is opened for it."""
    results, outcome = timed(lambda: [tool.read(tool.open(job.location, job.data), box) for box in job.boxes])
    return checked(job, results, outcome)


def open_often(tool: Tool, job: Job) -> Outcome:
    """Open the volume as often as there are boxes."""
    _, outcome = timed(lambda: [tool.open(job.location, job.data) for _ in job.boxes])
    return outcome


def fetch(tool: Tool, job: Job) -> Outcome:
    """Fetch the bytes of chunks, one after another, from where one was fetched before."""
    chunks = cast("ChunkTool", tool)
    opened = chunks.open_bytes(job.location)
    wanted = chunks_in(job)
    chunks.fetch(opened, job.data.key, wanted[0])
    results, outcome = timed(lambda: [chunks.fetch(opened, job.data.key, coords) for coords in wanted])
    return checked_bytes(job, wanted, results, outcome)


def fetch_many(tool: Tool, job: Job) -> Outcome:
    """Fetch the bytes of chunks, all at once, from where one was fetched before."""
    chunks = cast("PrecomputedFs", tool)
    opened = chunks.open_bytes(job.location)
    wanted = chunks_in(job)
    chunks.fetch(opened, job.data.key, wanted[0])
    results, outcome = timed(lambda: chunks.fetch_many(opened, job.data.key, wanted))
    return checked_bytes(job, wanted, results, outcome)


def write(tool: Tool, job: Job) -> Outcome:
    """Write a volume from an array in memory; the harness has it read afterwards."""
    voxels = in_memory(job.expected)

    def run() -> list[Array]:
        tool.write(job.location, job.data, voxels)
        return [voxels]

    _, outcome = timed(run)
    return outcome


def mode(tool: Tool, job: Job) -> Outcome:
    """Halve boxes of labels that are in memory along all axes."""
    voxels = in_memory(job.expected)
    boxes = [voxels[box] for box in job.boxes]
    results, outcome = timed(lambda: [cast("DownsamplingTool", tool).mode(box) for box in boxes])
    right = all(np.array_equal(found, most_frequent(box)) for found, box in zip(results, boxes, strict=True))
    return outcome if right else Outcome(error="a label is not the most frequent one of its block")


def most_frequent(labels: Array) -> Array:
    """Return the label of most voxels in each block of 2 x 2 x 2, the smallest one of several."""
    x, y, z = labels.shape
    blocks = (
        labels.reshape(x // 2, 2, y // 2, 2, z // 2, 2).transpose(1, 3, 5, 0, 2, 4).reshape(8, x // 2, y // 2, z // 2)
    )
    counts = np.array([(blocks == each).sum(axis=0, dtype=np.uint8) for each in blocks])
    found: Array = np.where(counts == counts.max(axis=0), blocks, np.iinfo(labels.dtype).max).min(axis=0)
    return found


def in_memory(path: Path) -> Array:
    """Return an array whose pages are this machine's one copy of a file, and in memory."""
    voxels = np.asarray(np.load(path, mmap_mode="c"))  # writable, as some tools ask for
    voxels.ravel(order="K").view(np.uint8)[:: mmap.PAGESIZE].sum()
    return voxels


ACTIONS: dict[str, Callable[[Tool, Job], Outcome]] = {
    "read": read,
    "read once": read,
    "read for cpu": read,
    "read warm": read_warm,
    "read cold": read_cold,
    "sample": sample,
    "open": open_often,
    "fetch": fetch,
    "fetch many": fetch_many,
    "skeletons": skeletons,
    "meshes": meshes,
    "write": write,
    "mode": mode,
}


def chunks_in(job: Job) -> list[Coords]:
    return [coords for box in job.boxes for coords in job.data.chunks(box)]


# ------------------------------------------------------------------------------------------------------------ measuring


def timed(run: Callable[[], list[Any]]) -> tuple[list[Any], Outcome]:
    """Run; the peak of memory is that of the run, less the arrays that it returns."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    cpu, began = time.process_time(), time.perf_counter()
    results = run()
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    kept = sum(result.nbytes for result in results if isinstance(result, np.ndarray))
    return results, Outcome(seconds, cpu, peak_memory() - kept)


def peak_memory() -> int:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * 1024


# ------------------------------------------------------------------------------------------------------------- checking


def checked(job: Job, results: Sequence[Array], outcome: Outcome) -> Outcome:
    """Compare each box voxel by voxel with what is expected."""
    expected = np.load(job.expected, mmap_mode="r")
    wrong = [box for box, found in zip(job.boxes, results, strict=True) if not is_right(found, expected[box], job)]
    return Outcome(error=f"voxels are not what is expected: {wrong}") if wrong else outcome


def is_right(found: Array, wanted: Array, job: Job) -> bool:
    found = found.reshape(found.shape[:3])
    return (
        found.shape == wanted.shape
        and found.dtype == wanted.dtype
        and all(alike(found[block], wanted[block], job.tolerance) for block in blocks(found))
    )


def blocks(array: Array) -> list[Box]:
    """Cut an array into pieces that fit the processor's cache: slices if it is in Fortran order as what is expected."""
    size = (*array.shape[:2], 1) if array.flags.f_contiguous else (64, 64, 64)
    cells = np.ndindex(*(-(-length // step) for length, step in zip(array.shape, size, strict=True)))
    return [
        cast("Box", tuple(slice(step * index, step * (index + 1)) for step, index in zip(size, cell, strict=True)))
        for cell in cells
    ]


def alike(found: Array, wanted: Array, tolerance: int) -> bool:
    if not tolerance:
        return np.array_equal(found, wanted)
    return bool((np.abs(found.astype(np.int16) - wanted) <= tolerance).all())


def checked_bytes(job: Job, wanted: Sequence[Coords], results: Sequence[bytes], outcome: Outcome) -> Outcome:
    """Compare each chunk's bytes with those that are stored."""
    assert job.stored
    wrong = [coords for coords, body in zip(wanted, results, strict=True) if body != stored_bytes(job, coords)]
    return Outcome(error=f"bytes are not what is stored: {wrong}") if wrong else outcome


def stored_bytes(job: Job, coords: Coords) -> bytes:
    assert job.stored
    xmin, xmax, ymin, ymax, zmin, zmax = coords
    path = job.stored / job.data.key / f"{xmin}-{xmax}_{ymin}-{ymax}_{zmin}-{zmax}"
    return gzip.decompress(path.with_name(f"{path.name}.gz").read_bytes()) if job.data.gzip else path.read_bytes()


if __name__ == "__main__":
    main()
