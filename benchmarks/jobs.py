"""What a worker is told to do, and what it answers: plain data that goes through a pipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Box = tuple[slice, slice, slice]
Coords = tuple[int, int, int, int, int, int]


@dataclass(frozen=True)
class DataSet:
    """A volume of one scale, as it is stored."""

    name: str
    voxels: str
    """Name of the array that it is made of: see `benchmarks.data.SOURCES`."""

    side: int = 512
    chunk: int = 64
    encoding: str = "raw"
    gzip: bool = False
    sharding: Mapping[str, Any] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    key: str = "1mm"

    @property
    def dtype(self) -> str:
        return "uint64" if self.voxels.startswith("labels") else "uint8"

    @property
    def is_lossy(self) -> bool:
        return self.encoding == "jpeg"

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
            "type": "segmentation" if self.dtype == "uint64" else "image",
            "data_type": self.dtype,
            "num_channels": 1,
            "scales": [scale],
        }


@dataclass(frozen=True)
class Location:
    """Where a pyramid is."""

    kind: str
    """"file", "http" or "s3"."""

    base: str
    """A folder, the URL of a server, or the endpoint of S3."""

    path: str
    """Below `base`; of S3 without the bucket."""

    signed: bool = False
    bucket: str = "bench"

    @property
    def url(self) -> str:
        """As most tools have it; S3's endpoint is not in it."""
        return f"s3://{self.bucket}/{self.path}" if self.kind == "s3" else f"{self.base}/{self.path}"


S3_KEY = S3_SECRET = "benchmark"  # noqa: S105 - of servers on this machine, which look at none
S3_REGION = "us-east-1"


@dataclass(frozen=True)
class Job:
    """One run of something: see `benchmarks.worker.ACTIONS` for the verbs."""

    action: str
    location: Location
    data: DataSet
    boxes: tuple[Box, ...] = ()
    expected: Path | None = None
    """An .npy of the whole volume: what is read has to equal it, what is written is taken from it."""

    tolerance: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    """For the system's verb: e.g. how many requests at once."""


@dataclass(frozen=True)
class Outcome:
    """What came of a job."""

    seconds: float = 0.0
    peak: int = 0
    """Bytes of resident memory at the peak of the run, less its result."""

    error: str = ""
    """Empty if the job was done, and its result was right."""
