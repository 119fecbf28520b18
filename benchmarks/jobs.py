"""What a worker is told to do, and what it answers: plain data that goes through a pipe."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Box = tuple[slice, slice, slice]
Coords = tuple[int, int, int, int, int, int]

S3_KEY = S3_SECRET = "benchmark"  # noqa: S105 - of servers on this machine, which do not look at it
S3_REGION = "us-east-1"


@dataclass(frozen=True)
class DataSet:
    """A volume of one scale, and how it is stored."""

    name: str
    voxels: str
    """What it is made of: a name in `benchmarks.data.SOURCES`."""

    side: int = 512
    chunk: int = 64
    encoding: str = "raw"
    gzip: bool = False
    sharding: Mapping[str, Any] | None = field(default=None, hash=False)
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Keys that the encoding adds to the scale's `info`."""

    key: str = "1mm"
    beside: str = ""
    """What stands beside the voxels: "skeletons" or "meshes", those of `benchmarks.segments`; empty: nothing."""

    @property
    def folder(self) -> str:
        return f"{self.name.replace(' ', '-').replace('^', '')}-{self.side}"

    @property
    def dtype(self) -> str:
        return "uint64" if self.voxels == "labels" else "uint8"

    @property
    def is_lossy(self) -> bool:
        return self.encoding == "jpeg"

    @property
    def whole(self) -> Box:
        return (slice(0, self.side),) * 3

    @property
    def info(self) -> dict[str, Any]:
        scale = {
            "key": self.key,
            "size": [self.side] * 3,
            "voxel_offset": [0, 0, 0],
            "resolution": [1_000_000] * 3,
            "chunk_sizes": [[self.chunk] * 3],
            "encoding": self.encoding,
            **self.parameters,
            **({"sharding": dict(self.sharding)} if self.sharding else {}),
        }
        return {
            "@type": "neuroglancer_multiscale_volume",
            "type": "segmentation" if self.voxels == "labels" else "image",
            "data_type": self.dtype,
            "num_channels": 1,
            "scales": [scale],
        }

    def chunks(self, box: Box) -> Iterator[Coords]:
        """Go through the chunks that a box touches, x fastest."""
        starts = [range(part.start // self.chunk * self.chunk, part.stop, self.chunk) for part in reversed(box)]
        for z, y, x in itertools.product(*starts):
            xmax, ymax, zmax = (min(start + self.chunk, self.side) for start in (x, y, z))
            yield x, xmax, y, ymax, z, zmax


def box_of(coords: Coords) -> Box:
    xmin, xmax, ymin, ymax, zmin, zmax = coords
    return slice(xmin, xmax), slice(ymin, ymax), slice(zmin, zmax)


@dataclass(frozen=True)
class Location:
    """Where a pyramid is."""

    kind: str
    """"file", "http" or "s3"."""

    base: str
    """A folder, the URL of a server, or the endpoint of S3."""

    path: str
    """Below `base`; in S3, below the bucket."""

    bucket: str = ""
    signed: bool = False
    latency: float = 0.0
    """Seconds that each request takes at least."""

    @property
    def url(self) -> str:
        """As most tools have it; S3's endpoint is not in it."""
        return f"s3://{self.bucket}/{self.path}" if self.kind == "s3" else f"{self.base}/{self.path}"


@dataclass(frozen=True)
class Job:
    """One run of a workload."""

    action: str
    """A verb of `benchmarks.worker.ACTIONS`."""

    location: Location
    data: DataSet
    expected: Path
    """An .npy of the whole volume: what is read has to equal it, what is written is taken from it."""

    boxes: tuple[Box, ...] = ()
    tolerance: int = 0
    """By how much a voxel of a lossy volume may differ from what is expected."""

    stored: Path | None = None
    """The volume's folder on this machine, which fetched bytes have to equal."""

    at_once: int | None = None
    """How many requests are under way at once; None: as the system decides."""


@dataclass(frozen=True)
class Outcome:
    """What came of a job."""

    seconds: float = 0.0
    cpu: float = 0.0
    """Seconds of processor time, of all threads."""

    peak: int = 0
    """Bytes of resident memory at the peak of the run, less those of what is read or written."""

    error: str = ""
    """Empty if the job was done and its result was right."""
