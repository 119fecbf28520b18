r"""How much faster dask's workers are: a volume copied, and its mean computed, by one process and by 1 and 2 workers.

"threads" is the library as it is, in one process: its own threads, no dask. Workers are processes of a `LocalCluster`,
which have as many threads altogether as there are processors. All of them read from nginx on this machine, copies are
written to its disk; whatever runs on the same processors cannot be faster than these are, so it is to be seen what
dask costs, and what a second process brings where the first one waits. In its workers dask has malloc give back what is
free at once (MALLOC_TRIM_THRESHOLD_), which each chunk then pays for; "no trim" is without.

A run counts if each voxel of the copy is that of the source, or the mean is that of the source, to the last bit, and
if the server was asked for each chunk. Clusters are started and warmed up beforehand, and then all take turns.

A pyramid of 1 PB, on paper
---------------------------
Of uint8 voxels that are stored raw, in chunks of 64^3, all scales together. Where chunks are compressed to a tenth, a
petabyte has ten times as many of them, and all that is counted by requests is ten times as much. Shards are those of
`propose_sharding`, written whole, and read whole in ranges of 4 MiB.

>>> from precomputed_fs.accessor import MAX_RANGE
>>> from precomputed_fs.format.sharding import ENTRY_BYTES, propose_sharding
>>> petabyte, chunk = 10**15, 64**3
>>> chunks = petabyte / chunk
>>> sharding = propose_sharding((1563, 1563, 1563), chunk)
>>> minishards = 1 << sharding.minishard_bits
>>> in_shard = minishards << sharding.preshift_bits
>>> shards = chunks / in_shard
>>> parts = -(-in_shard * chunk // (50 << 20))  # of 50 MiB, in which s3fs sends what is larger than 100 MiB
>>> puts = {"unsharded": chunks, "shards": shards * (parts + 2)}  # a multipart upload is begun and completed, too
>>> gets = {"unsharded": chunks, "shards": shards * (1 + minishards + in_shard * chunk / MAX_RANGE)}
>>> print(f"{chunks:.2e} chunks; {shards:.2e} shards of {in_shard} chunks in {minishards} minishards")
3.81e+09 chunks; 1.86e+06 shards of 2048 chunks in 4 minishards
>>> print(*(f"{how}: {puts[how]:.2e} PUTs, {gets[how]:.2e} GETs" for how in puts), sep="\n")
unsharded: 3.81e+09 PUTs, 3.81e+09 GETs
shards: 2.42e+07 PUTs, 2.48e+08 GETs

A chunk by itself is one GET either way, and in shards two more for the first of its minishard. Indexes: 24 bytes for a
chunk, of which gzip leaves 3 (measured: 1,527 of 12,288 bytes where chunks differ in size), and 16 for a minishard.

>>> print(f"{chunks * 24 / 1e9:.0f} GB, with gzip {chunks * 3 / 1e9:.0f} GB")
92 GB, with gzip 11 GB
>>> print(f"{shards * minishards * ENTRY_BYTES / 1e6:.0f} MB")
119 MB

Money, by list prices of 2025 in dollars (S3 Standard in us-east-1, GCS Standard in us-central1): a million PUTs (GCS:
of class A) 5 and GETs (class B) 0.40 at both; a TB and month 23 up to 50 TB, 22 up to 500 TB, then 21 at S3, 20 at GCS;
a TB to the internet 90 up to 10 TB, 85 up to 50, 70 up to 150, then 50 at S3, and 120 up to 1 TB, 110 up to 10, then 80
at GCS. Within the region, none.

>>> print(*(f"{how}: write {puts[how] * 5e-6:,.0f}, read once {gets[how] * 0.4e-6:,.0f}" for how in puts), sep="\n")
unsharded: write 19,073, read once 1,526
shards: write 121, read once 99
>>> print(f"a month: S3 {50 * 23 + 450 * 22 + 500 * 21:,}, GCS {1000 * 20:,}")
a month: S3 21,550, GCS 20,000
>>> print(f"egress: S3 {10 * 90 + 40 * 85 + 100 * 70 + 850 * 50:,}, GCS {1 * 120 + 9 * 110 + 990 * 80:,}")
egress: S3 53,800, GCS 80,310

Time, by what one process did on the 2 processors that also ran the server: it read 1,728 chunks (453 MB) in 0.96 s, and
copied them in 2.25 s; into shards in 2.19 s. 3,500 PUTs and 5,500 GETs a second is what S3 says that a prefix bears at
first, which bounds many machines.

>>> day = 24 * 3600
>>> for what, seconds in {
...     "read, by one process": chunks / 1728 * 0.96,
...     "copy, by one process": chunks / 1728 * 2.25,
...     "copy into shards, by one process": petabyte / 453e6 * 2.19,
...     "write, by 100 processes": chunks / 1728 * 2.25 / 100,
...     "write unsharded, one prefix": chunks / 3500,
...     "write shards, one prefix": puts["shards"] / 3500,
... }.items():
...     print(f"{what}: {seconds / day:.1f} days")
read, by one process: 24.5 days
copy, by one process: 57.5 days
copy into shards, by one process: 56.0 days
write, by 100 processes: 0.6 days
write unsharded, one prefix: 12.6 days
write shards, one prefix: 0.1 days

So one writes shards: not because bytes would be moved faster, but as requests cost 19,000 dollars otherwise, nearly as
much as a month's storage, and keep 100 processes waiting for days. Who reads all of it from elsewhere pays most.
"""

import os
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import dask
import numpy as np
from distributed import Client, LocalCluster

import precomputed_fs
from benchmarks.data import GZIP, PNG, RAW, Folder
from benchmarks.jobs import DataSet, box_of
from benchmarks.places import DISK, HTTP, HTTP_30, Place, Servers

SIDE = 768  # voxels: 12^3 chunks, which are 4 tasks of a copy, and 8 blocks of a mean


@dataclass(frozen=True)
class Mode:
    """By what the work is done."""

    workers: int = 0
    """0: no dask."""

    trims: bool = True
    """Whether workers give memory back at once, as dask has it."""


MODES: Mapping[str, Mode] = {
    "threads": Mode(),
    "1 worker": Mode(1),
    "2 workers": Mode(2),
    "2, no trim": Mode(2, trims=False),
}
TRIMS = "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_"
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Workload:
    """A row."""

    place: Place
    data: DataSet
    verb: str
    """"copy" or "mean"."""

    options: Mapping[str, Any] = field(default_factory=dict)
    """Of `copy_pyramid`."""

    how: str = ""
    """What the options do."""

    @property
    def name(self) -> str:
        return f"{self.place.name}, {self.data.name}, {self.verb}{self.how}"


def workloads(side: int = SIDE) -> list[Workload]:
    raw, gzip, png = (replace(data, side=side) for data in (RAW, GZIP, PNG))
    return [
        Workload(HTTP, raw, "mean"),
        Workload(HTTP, png, "mean"),
        Workload(HTTP, raw, "copy"),
        Workload(HTTP, raw, "copy", {"sharding": True, "gzip": False}, " into shards"),
        Workload(HTTP_30, gzip, "mean"),
        Workload(HTTP_30, gzip, "copy"),
    ]


@dataclass(frozen=True)
class Run:
    """One run that was right."""

    seconds: float
    requests: int
    sent: int
    """Bytes that the server sent."""


class WrongResultError(Exception):
    """A run was not right."""


@dataclass(frozen=True)
class Row:
    """What came of a workload."""

    workload: Workload
    runs: Mapping[str, Sequence[Run]]
    """By mode, without the warm-up."""

    def seconds(self, mode: str) -> float:
        return statistics.median(run.seconds for run in self.runs[mode])

    def to_json(self) -> dict[str, Any]:
        return {
            "section": "scale-out",
            "workload": self.workload.name,
            "unit": "s",
            "chunks": number_of_chunks(self.workload.data),
            "voxel_bytes": self.workload.data.side**3,
            "modes": {
                mode: {
                    "value": self.seconds(mode),
                    "seconds": [round(run.seconds, 6) for run in runs],
                    "requests": runs[0].requests,
                    "bytes_sent": runs[0].sent,
                }
                for mode, runs in self.runs.items()
            },
        }


# ------------------------------------------------------------------------------------------------------------ measuring


def measure(chosen: Sequence[Workload], folder: Folder, servers: Servers, rounds: int) -> Iterator[Row]:
    """Measure one workload after another, each as often as there are rounds, after one to warm up."""
    with ExitStack() as stack:
        clients = {name: stack.enter_context(cluster(mode)) for name, mode in MODES.items() if mode.workers}
        for workload in chosen:
            bench = Bench(workload, folder, servers)
            rows = [{mode: bench.run(clients.get(mode)) for mode in MODES} for _ in range(1 + rounds)]
            yield Row(workload, {mode: [row[mode] for row in rows[1:]] for mode in MODES})


@contextmanager
def cluster(mode: Mode) -> Iterator[Client]:
    """Run processes, with as many threads altogether as there are processors."""
    threads = max(1, len(os.sched_getaffinity(0)) // mode.workers)
    with (
        dask.config.set({} if mode.trims else {TRIMS: None}),
        LocalCluster(
            n_workers=mode.workers,
            threads_per_worker=threads,
            processes=True,
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",
        ) as local,
        Client(local, set_as_default=False) as client,
    ):
        client.wait_for_workers(mode.workers)
        yield client


class Bench:
    """A workload that can be run."""

    def __init__(self, workload: Workload, folder: Folder, servers: Servers) -> None:
        self._workload = workload
        self._servers = servers
        self._expected = np.load(folder.source(workload.data), mmap_mode="r")
        self._location = servers.to_read(workload.data, workload.place)

    def run(self, client: Client | None) -> Run:
        """Run once, with the result compared."""
        server = self._servers.at(self._workload.place)
        assert server
        with precomputed_fs.open_volume(self._location.url, progress=False) as volume:
            server.clear()
            timed = self._copy if self._workload.verb == "copy" else self._mean
            seconds = timed(volume, client)
        requests, sent, _ = server.traffic()
        if requests < number_of_chunks(self._workload.data):
            raise WrongResultError(f"{self._workload.name}: {requests} requests were enough, so something was kept")
        return Run(seconds, requests, sent or 0)

    def _mean(self, volume: "precomputed_fs.Volume", client: Client | None) -> float:
        """Compute the mean in 8 blocks."""
        half = -(-volume[0].grid.shape[0] // 2) * volume[0].chunk_size[0]
        began = time.perf_counter()
        found = mean_of(volume, half) if client is None else mean_by_dask(volume, half, client)
        seconds = time.perf_counter() - began
        expected = self._expected.mean()  # exact: sums of bytes are whole numbers below 2^53
        if found != expected:
            raise WrongResultError(f"{self._workload.name}: the mean is {found!r}, and not {expected!r}")
        return seconds

    def _copy(self, volume: "precomputed_fs.Volume", client: Client | None) -> float:
        """Copy, compare what is there, and take it away."""
        data = self._workload.data
        there = self._servers.to_write(data, DISK)
        began = time.perf_counter()
        copied = precomputed_fs.copy_pyramid(volume, there.url, client=client, progress=False, **self._workload.options)
        seconds = time.perf_counter() - began
        try:
            for coords in data.chunks(data.whole):
                box = box_of(coords)
                if not np.array_equal(copied[0][box][..., 0], self._expected[box]):
                    raise WrongResultError(f"{self._workload.name}: the copy differs from the source in {box}")
        finally:
            copied.close()
            self._servers.take_away(there, DISK)
        return seconds


def mean_of(volume: "precomputed_fs.Volume", length: int) -> float:
    """Compute the mean as one writes it down without dask: block by block, as the volume may be larger than memory."""
    scale = volume[0]
    starts = [range(0, size, length) for size in scale.shape[:3]]
    blocks = (
        scale.array[x : x + length, y : y + length, z : z + length]
        for x in starts[0]
        for y in starts[1]
        for z in starts[2]
    )
    return float(sum(block.sum(dtype=np.float64) for block in blocks)) / scale.array.size


def mean_by_dask(volume: "precomputed_fs.Volume", length: int, client: Client) -> float:
    future = client.compute(volume[0].to_dask(chunks=length).mean())
    mean = float(future.result())
    future.release()  # so that the next run computes it again
    return mean


def number_of_chunks(data: DataSet) -> int:
    return sum(1 for _ in data.chunks(data.whole))


# ------------------------------------------------------------------------------------------------------------ the lines


def heading() -> str:
    """Return the two lines above the rows."""
    modes = "".join(f"{mode:>12}" for mode in MODES)
    line = f"{'scale-out':<40}{modes}{'speed-up':>12}{'chunks/s':>12}{'MB/s':>10}{'sent MB/s':>12}"
    return f"\n{line}\n{'-' * len(line)}"


def line(row: Row) -> str:
    """Return the line of a row: with how much faster two workers are than threads, and how fast the fastest is."""
    seconds = {mode: row.seconds(mode) for mode in MODES}
    best = min(seconds, key=lambda mode: seconds[mode])
    values = "".join(f"{f'{value:.2f} s':>12}" for value in seconds.values())
    data, rate = row.workload.data, 1 / seconds[best]
    rates = f"{number_of_chunks(data) * rate:>12,.0f}{data.side**3 * rate / 1e6:>10,.0f}"
    sent = f"{row.runs[best][0].sent * rate / 1e6:>12,.0f}"
    return f"{row.workload.name:<40}{values}{seconds['threads'] / seconds['2 workers']:>12.2f}{rates}{sent}"
