"""How each tool reads and writes: a class for each tool, a row for each tool with its settings.

A tool is imported when its class is made, which only its own worker does. What a tool cannot do stands in `LIMITS`,
with the reason that goes into the results. Caches are off everywhere; each volume is opened with nothing known of it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.jobs import S3_KEY, S3_REGION, S3_SECRET, Box, Coords, DataSet, Job, Location, box_of

Array = NDArray[Any]
Opened = Any  # whatever a tool's `open` returns
Options = dict[str, Any]


class Tool(Protocol):
    """What a worker asks of every tool."""

    def open(self, location: Location, data: DataSet, at_once: int | None = None) -> Opened:
        """Open a volume that is there, to be read with so many requests at once."""

    def read(self, opened: Opened, box: Box) -> Array:
        """Return the voxels of a box, [x, y, z] or [x, y, z, channel]."""

    def write(self, location: Location, data: DataSet, voxels: Array) -> None:
        """Make a volume where there is none."""


class ChunkTool(Tool, Protocol):
    """A tool that also hands out chunks as they are encoded."""

    def open_bytes(self, location: Location) -> Opened:
        """Open what chunks are fetched from."""

    def fetch(self, opened: Opened, key: str, coords: Coords) -> bytes:
        """Return the bytes of a chunk, with no compression around them."""


class SamplingTool(Tool, Protocol):
    """A tool that also reads single voxels, many at once."""

    def sample(self, opened: Opened, points: Array) -> Array:
        """Return the voxels at some points, of which each is a row."""


class SceneTool(Tool, Protocol):
    """A tool that also reads what stands beside the voxels."""

    def skeletons(self, opened: Opened, segments: Sequence[int]) -> list[tuple[Array, Array, Array]]:
        """Return the vertices, edges and radii of the skeletons of some segments."""

    def meshes(self, opened: Opened, segments: Sequence[int]) -> list[tuple[Array, Array]]:
        """Return the vertices and triangles of the meshes of some segments."""


class DownsamplingTool(Tool, Protocol):
    """A tool that also computes lower scales."""

    def mode(self, labels: Array) -> Array:
        """Return the most frequent label of each block of 2 x 2 x 2 voxels."""


# ----------------------------------------------------------------------------------------------------------------- ours


class PrecomputedFs:
    """Our own: volumes as `open_volume` has them, and `fetch_chunks` where requests are counted out."""

    def __init__(self) -> None:
        self._library = import_module("precomputed_fs")

    def open(self, location: Location, data: DataSet, at_once: int | None = None) -> Opened:
        volume = self._library.open_volume(location.url, progress=False, **self._options(location))
        return volume, data, at_once

    def read(self, opened: Opened, box: Box) -> Array:
        volume, data, at_once = opened
        if at_once is None:
            voxels: Array = volume[0][box]
            return voxels
        result = np.empty([part.stop - part.start for part in box], data.dtype, order="F")
        chunks = volume[0].accessor.fetch_chunks(data.key, list(data.chunks(box)), in_flight=at_once)
        for coords, body in chunks:
            part = result[overlap(box, box_of(coords))]
            part[...] = np.frombuffer(body, data.dtype).reshape(part.shape, order="F")
        return result

    def open_bytes(self, location: Location) -> Opened:
        return self._library.FsspecAccessor(location.url, **self._options(location))

    def fetch(self, opened: Opened, key: str, coords: Coords) -> bytes:
        body: bytes = opened.fetch_chunk(key, coords)
        return body

    def fetch_many(self, opened: Opened, key: str, coords: Iterable[Coords]) -> list[bytes]:
        """Return the chunks' bytes, fetched together."""
        wanted = list(coords)
        fetched = dict(opened.fetch_chunks(key, wanted))
        return [fetched[each] for each in wanted]

    def write(self, location: Location, data: DataSet, voxels: Array) -> None:
        options = self._options(location)
        with self._library.create_volume(location.url, data.info, gzip=data.gzip, progress=False, **options) as volume:
            volume[0][...] = voxels

    def sample(self, opened: Opened, points: Array) -> Array:
        volume, *_ = opened
        voxels: Array = volume[0].sample(points)
        return voxels

    def skeletons(self, opened: Opened, segments: Sequence[int]) -> list[tuple[Array, Array, Array]]:
        volume, *_ = opened
        found = volume.skeletons.get(segments)
        return [(each.vertices, each.edges, each.attributes["radius"]) for each in found.values()]

    def meshes(self, opened: Opened, segments: Sequence[int]) -> list[tuple[Array, Array]]:
        volume, *_ = opened
        return [(each.vertices, each.faces) for each in volume.meshes.get(segments).values()]

    def mode(self, labels: Array) -> Array:
        downsample = import_module("precomputed_fs.volume.downsampling").downsample
        halved: Array = downsample(labels[..., np.newaxis], (2, 2, 2), "mode")
        return halved[..., 0]

    @staticmethod
    def _options(location: Location) -> Options:
        if location.kind != "s3":
            return {}
        storage: Options = {"endpoint_url": location.base, "client_kwargs": {"region_name": S3_REGION}}
        if location.signed:
            storage |= {"key": S3_KEY, "secret": S3_SECRET}
        return {"storage_options": storage, "anon": not location.signed}


# ---------------------------------------------------------------------------------------------------------------- peers


class TensorStore:
    """tensorstore, each volume in a context of its own.

    Parameters
    ----------
    order
        Of the arrays that are read: "C" is its default.
    at_once
        Limit of requests and of threads.
    cache
        Bytes. It keeps the indexes of shards in the same cache as chunks; a small one has room for the indexes.
    """

    def __init__(self, *, order: str = "C", at_once: int | None = None, cache: int = 0) -> None:
        self._library = import_module("tensorstore")
        self._order = order
        self._at_once = at_once
        self._cache = cache

    def mode(self, labels: Array) -> Array:
        library = self._library
        halved: Array = library.downsample(library.array(labels), [2, 2, 2], "mode").read(order=self._order).result()
        return halved

    def open(self, location: Location, data: DataSet, at_once: int | None = None) -> Opened:
        del data
        return self._open(location, {}, at_once or self._at_once, open=True, read=True)

    def read(self, opened: Opened, box: Box) -> Array:
        voxels: Array = opened[box].read(order=self._order).result()
        return voxels

    def sample(self, opened: Opened, points: Array) -> Array:
        voxels: Array = opened.vindex[tuple(points.T)].read().result()
        return voxels

    def write(self, location: Location, data: DataSet, voxels: Array) -> None:
        info = data.info
        (scale,) = info["scales"]
        metadata = {
            "multiscale_metadata": {key: info[key] for key in ("type", "data_type", "num_channels")},
            "scale_metadata": {
                **{key: value for key, value in scale.items() if key != "chunk_sizes"},
                "chunk_size": scale["chunk_sizes"][0],
            },
            "store_data_equal_to_fill_value": True,
        }
        store = self._open(location, metadata, self._at_once, create=True)[..., 0]
        if not data.sharding:
            store.write(voxels).result()
            return
        with self._library.Transaction() as transaction:  # each shard is written once
            store.with_transaction(transaction).write(voxels).result()

    def _open(self, location: Location, metadata: Options, at_once: int | None, **how: bool) -> Opened:
        context: Options = {"cache_pool": {"total_bytes_limit": self._cache}}
        if at_once:
            requests = {"http": "http_request", "s3": "s3_request", "file": "file_io"}[location.kind]
            context |= {f"{name}_concurrency": {"limit": at_once} for name in (requests, "data_copy")}
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": self._kvstore(location),
            "context": context,
            **metadata,
        }
        return self._library.open(spec, **how).result()

    @staticmethod
    def _kvstore(location: Location) -> Options:
        if location.kind == "s3":
            return {
                "driver": "s3",
                "bucket": location.bucket,
                "path": f"{location.path}/",
                "endpoint": location.base,
                "aws_region": S3_REGION,
                "aws_credentials": {"type": "environment" if location.signed else "anonymous"},
            }
        if location.kind == "http":
            return {"driver": "http", "base_url": f"{location.url}/"}
        return {"driver": "file", "path": f"{location.url}/"}


class CloudVolume:
    """cloud-volume, whose caches are off by default.

    Parameters
    ----------
    green
        gevent's threads in the place of the system's.
    processes
        How many share the work.
    """

    def __init__(self, *, green: bool = False, processes: int = 1) -> None:
        if green:
            import_module("gevent.monkey").patch_all(thread=False)
        self._library = import_module("cloudvolume")
        self._aliases = import_module("cloudfiles.paths")
        self._options: Options = {"green_threads": green, "parallel": processes, "progress": False}

    def open(self, location: Location, data: DataSet, at_once: int | None = None) -> Opened:
        del data, at_once
        return self._volume(location)

    def read(self, opened: Opened, box: Box) -> Array:
        voxels: Array = opened[box]
        return voxels

    def skeletons(self, opened: Opened, segments: Sequence[int]) -> list[tuple[Array, Array, Array]]:
        found = sorted(opened.skeleton.get(list(segments)), key=lambda each: int(each.id))
        return [(each.vertices, each.edges, each.radius) for each in found]

    def meshes(self, opened: Opened, segments: Sequence[int]) -> list[tuple[Array, Array]]:
        found = opened.mesh.get(list(segments), fuse=False)
        return [(found[segment].vertices, found[segment].faces) for segment in segments]

    def write(self, location: Location, data: DataSet, voxels: Array) -> None:
        volume = self._volume(location, info=data.info, compress="gzip" if data.gzip else False)
        volume.commit_info()
        volume[:, :, :] = voxels

    def _volume(self, location: Location, **options: Any) -> Opened:  # noqa: ANN401 - as CloudVolume has them
        if location.kind == "s3":
            options["secrets"] = {"AWS_ACCESS_KEY_ID": S3_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET}
        return self._library.CloudVolume(self._url(location), **self._options, **options)

    def _url(self, location: Location) -> str:
        if location.kind != "s3":
            return f"{'file://' if location.kind == 'file' else ''}{location.url}"
        alias = "bench" + location.base.rpartition(":")[2]  # an endpoint cannot stand in a URL
        self._aliases.add_alias(alias, f"s3://{location.base}/")
        return f"{alias}://{location.bucket}/{location.path}"


class NeuroglancerScripts:
    """neuroglancer-scripts, chunk by chunk, as its own programs do."""

    def __init__(self) -> None:
        self._accessor = import_module("neuroglancer_scripts.accessor")
        self._io = import_module("neuroglancer_scripts.precomputed_io")
        for name in ("http_accessor", "file_accessor"):
            import_module(f"neuroglancer_scripts.{name}")  # it would do so at the first use

    def open(self, location: Location, data: DataSet, at_once: int | None = None) -> Opened:
        del at_once
        return self._io.get_IO_for_existing_dataset(self.open_bytes(location)), data

    def read(self, opened: Opened, box: Box) -> Array:
        reader, data = opened
        result = np.empty([part.stop - part.start for part in box], data.dtype, order="F")
        for coords in data.chunks(box):
            chunk = box_of(coords)
            result[overlap(box, chunk)] = reader.read_chunk(data.key, coords)[0].T[overlap(chunk, box)]
        return result

    def open_bytes(self, location: Location) -> Opened:
        return self._accessor.get_accessor_for_url(location.url, {"flat": True})

    def fetch(self, opened: Opened, key: str, coords: Coords) -> bytes:
        body: bytes = opened.fetch_chunk(key, coords)
        return body

    def write(self, location: Location, data: DataSet, voxels: Array) -> None:
        accessor = self._accessor.get_accessor_for_url(location.url, {"flat": True, "gzip": data.gzip})
        writer = self._io.get_IO_for_new_dataset(data.info, accessor)
        for coords in data.chunks(data.whole):
            writer.write_chunk(voxels[box_of(coords)].T[np.newaxis], data.key, coords)


def overlap(array: Box, part: Box) -> Box:
    """Return the piece of an array, which is the box `array`, that the box `part` has in common with it."""
    x, y, z = (
        slice(max(whole.start, some.start) - whole.start, min(whole.stop, some.stop) - whole.start)
        for whole, some in zip(array, part, strict=True)
    )
    return x, y, z


# ----------------------------------------------------------------------------------------------------------- the tables


@dataclass(frozen=True)
class System:
    """A tool, and the settings in which it is measured."""

    name: str
    module: str
    """What a user imports."""

    tool: Callable[..., Tool]
    settings: Mapping[str, Options] = field(default_factory=lambda: {"default": {}})
    never_best: Collection[str] = ()
    """Settings that are measured to show what they cost, and left out of quick runs."""


OURS = System("ours", "precomputed_fs", PrecomputedFs)
TENSORSTORE = System(
    "tensorstore",
    "tensorstore",
    TensorStore,
    {
        "default": {},
        "F order": {"order": "F"},
        "F order, 64 at once": {"order": "F", "at_once": 64},
        "F order, 128 at once": {"order": "F", "at_once": 128},
        "F order, cache for indexes": {"order": "F", "cache": 1 << 20},
        "F order, 64 at once, cache for indexes": {"order": "F", "at_once": 64, "cache": 1 << 20},
    },
    never_best=["default"],
)
CLOUD_VOLUME = System(
    "cloud-volume",
    "cloudvolume",
    CloudVolume,
    {"default": {}, "green threads": {"green": True}, "2 processes": {"processes": 2}},
)
NEUROGLANCER_SCRIPTS = System("neuroglancer-scripts", "neuroglancer_scripts.accessor", NeuroglancerScripts)
PEERS = (TENSORSTORE, CLOUD_VOLUME, NEUROGLANCER_SCRIPTS)
SYSTEMS = {system.name: system for system in (OURS, *PEERS)}


@dataclass(frozen=True)
class Limit:
    """Something that a system does not do, or in one setting is not worth to be asked for."""

    system: System
    excludes: Callable[[Job], object]
    reason: str
    setting: str = ""
    """Empty: in none."""


def _only_bytes(job: Job) -> bool:
    return job.action in {"fetch", "fetch many"}


def _is_of_segments(job: Job) -> bool:
    return job.action in {"skeletons", "meshes"}


def _packs_labels(job: Job) -> bool:
    return job.action == "write" and job.data.encoding == "compressed_segmentation"


def _needs_few_chunks(job: Job) -> bool:
    return not job.boxes or sum(1 for _ in job.data.chunks(job.boxes[0])) < 512


def _takes_ages_singly(job: Job) -> bool:
    return job.location.latency * sum(1 for box in job.boxes for _ in job.data.chunks(box)) > 3


LIMITS = (
    Limit(TENSORSTORE, _only_bytes, "hands out no encoded chunks"),
    Limit(TENSORSTORE, lambda job: job.data.gzip and job.action == "write", "compresses nothing but shards"),
    Limit(TENSORSTORE, lambda job: job.data.gzip and job.location.kind == "file", "takes name.gz on disk for absent"),
    Limit(TENSORSTORE, lambda job: job.action == "write", "of reading", "F order"),
    Limit(TENSORSTORE, lambda job: job.action == "mode", "of requests", "F order, 64 at once"),
    Limit(TENSORSTORE, lambda job: job.action == "mode", "of requests", "F order, 128 at once"),
    *(
        Limit(TENSORSTORE, lambda job: not job.data.sharding, "for shards", setting)
        for setting in TENSORSTORE.settings
        if "cache" in setting
    ),
    *(
        Limit(
            TENSORSTORE,
            lambda job: job.at_once or job.action == "read once",
            "fewer are asked for, or as little memory as possible",
            setting,
        )
        for setting in TENSORSTORE.settings
        if "at once" in setting
    ),
    *(Limit(system, _is_of_segments, "reads voxels only") for system in (TENSORSTORE, NEUROGLANCER_SCRIPTS)),
    Limit(CLOUD_VOLUME, _is_of_segments, "has processes for voxels only", "2 processes"),
    Limit(CLOUD_VOLUME, _only_bytes, "hands out no encoded chunks"),
    Limit(CLOUD_VOLUME, lambda job: job.location.kind == "s3" and not job.location.signed, "signs every request"),
    Limit(CLOUD_VOLUME, lambda job: job.data.sharding and job.action == "write", "writes no volume in shards"),
    Limit(CLOUD_VOLUME, lambda job: job.data.sharding, "waits for ever at shards", "green threads"),
    Limit(CLOUD_VOLUME, lambda job: job.location.kind == "s3", "its processes do not know the endpoint", "2 processes"),
    Limit(CLOUD_VOLUME, _needs_few_chunks, "starts its processes anew for each box", "2 processes"),
    Limit(
        CLOUD_VOLUME,
        lambda job: job.action in {"read once", "read for cpu"},
        "memory and processor time of several are not measured",
        "2 processes",
    ),
    Limit(CLOUD_VOLUME, lambda job: job.action == "sample", "reads points one by one"),
    Limit(NEUROGLANCER_SCRIPTS, lambda job: job.action == "sample", "reads whole chunks"),
    Limit(CLOUD_VOLUME, lambda job: job.action == "mode", "leaves lower scales to other packages"),
    Limit(CLOUD_VOLUME, lambda job: job.at_once is not None, "its number of threads cannot be given"),
    Limit(NEUROGLANCER_SCRIPTS, lambda job: job.location.kind == "s3", "knows no S3"),
    Limit(NEUROGLANCER_SCRIPTS, lambda job: job.data.encoding == "png", "knows no PNG"),
    Limit(NEUROGLANCER_SCRIPTS, _packs_labels, "packs compressed_segmentation in Python, which takes half a minute"),
    Limit(NEUROGLANCER_SCRIPTS, lambda job: job.data.sharding, "reads no shard over HTTP, none with gzip but its own"),
    Limit(NEUROGLANCER_SCRIPTS, lambda job: job.at_once is not None, "reads one chunk at a time"),
    Limit(NEUROGLANCER_SCRIPTS, _takes_ages_singly, "reads one chunk at a time, each in 30 ms and more"),
    Limit(NEUROGLANCER_SCRIPTS, lambda job: job.action == "mode", "counts labels in Python, which takes minutes"),
    Limit(NEUROGLANCER_SCRIPTS, lambda job: job.action == "fetch many", "reads one chunk at a time"),
)


def why_not(system: System, setting: str, job: Job) -> str:
    """Return why a system is not asked to do a job; empty: it is."""
    reasons = (
        limit.reason
        for limit in LIMITS
        if limit.system is system and limit.setting in {"", setting} and limit.excludes(job)
    )
    return next(reasons, "")
