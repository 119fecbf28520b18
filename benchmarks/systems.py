"""How each tool reads and writes: one class per tool, one row per tool and its settings.

A tool is imported when its class is made, which only its own worker does. Every class has the same verbs; what a
tool cannot do stands in `LIMITS`, with the reason that goes into the results.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.jobs import S3_KEY, S3_REGION, S3_SECRET, Box, Coords, DataSet, Location

Array = NDArray[Any]


class Tool(Protocol):
    """What a worker asks of a tool. `opened` is whatever `open` returned."""

    def open(self, location: Location, data: DataSet) -> Any:
        """Open a volume that is there, with nothing in any cache."""

    def read(self, opened: Any, box: Box) -> Array:
        """Return the voxels of a box, [x, y, z] or [x, y, z, channel]."""

    def open_bytes(self, location: Location) -> Any:
        """Open what `fetch` reads from."""

    def fetch(self, opened: Any, key: str, coords: Coords) -> bytes:
        """Return the bytes of a chunk as it is encoded, without compression."""

    def write(self, location: Location, data: DataSet, voxels: Array) -> None:
        """Make a volume where there is none."""


# ------------------------------------------------------------------------------------------------------------------ ours


class PrecomputedFs:
    """precomputed_fs."""

    def __init__(self) -> None:
        import precomputed_fs

        self._library = precomputed_fs

    def open(self, location: Location, data: DataSet) -> Any:
        del data
        return self._library.open_volume(location.url, progress=False, **self._options(location))

    def read(self, opened: Any, box: Box) -> Array:
        voxels: Array = opened[0][box]
        return voxels

    def open_bytes(self, location: Location) -> Any:
        return self._library.FsspecAccessor(location.url, **self._options(location))

    def fetch(self, opened: Any, key: str, coords: Coords) -> bytes:
        body: bytes = opened.fetch_chunk(key, coords)
        return body

    def write(self, location: Location, data: DataSet, voxels: Array) -> None:
        volume = self._library.create_volume(
            location.url, data.info, progress=False, gzip=data.gzip, **self._options(location)
        )
        with volume:
            volume[0][...] = voxels

    @staticmethod
    def _options(location: Location) -> dict[str, Any]:
        if location.kind != "s3":
            return {}
        storage: dict[str, Any] = {"endpoint_url": location.base, "client_kwargs": {"region_name": S3_REGION}}
        if location.signed:
            storage |= {"key": S3_KEY, "secret": S3_SECRET}
        return {"storage_options": storage, "anon": not location.signed}


# ----------------------------------------------------------------------------------------------------------------- peers


class TensorStore:
    """tensorstore: each volume in a context of its own, without a cache."""

    def __init__(self, *, order: str = "C", at_once: int | None = None, index_cache: int = 0) -> None:
        import tensorstore

        self._library = tensorstore
        self._order = order
        self._at_once = at_once
        self._index_cache = index_cache

    def open(self, location: Location, data: DataSet) -> Any:
        del data
        return self._open(location, open=True, read=True)

    def read(self, opened: Any, box: Box) -> Array:
        voxels: Array = opened[box].read(order=self._order).result()
        return voxels

    def open_bytes(self, location: Location) -> Any:
        raise NotImplementedError

    def fetch(self, opened: Any, key: str, coords: Coords) -> bytes:
        raise NotImplementedError

    def write(self, location: Location, data: DataSet, voxels: Array) -> None:
        info = data.info
        (scale,) = info["scales"]
        described = {key: value for key, value in scale.items() if key != "chunk_sizes"}
        opened = self._open(
            location,
            {
                "multiscale_metadata": {key: info[key] for key in ("type", "data_type", "num_channels")},
                "scale_metadata": {**described, "chunk_size": scale["chunk_sizes"][0]},
                "store_data_equal_to_fill_value": True,
            },
            create=True,
        )
        with self._library.Transaction() as transaction:  # a shard is written once
            store = opened.with_transaction(transaction) if data.sharding else opened
            store[..., 0].write(voxels).result()

    def _open(self, location: Location, more: Mapping[str, Any] | None = None, **how: bool) -> Any:
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": self._kvstore(location),
            "context": self._context(location),
            **(more or {}),
        }
        return self._library.open(spec, **how).result()

    def _kvstore(self, location: Location) -> Any:
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

    def _context(self, location: Location) -> dict[str, Any]:
        context: dict[str, Any] = {"cache_pool": {"total_bytes_limit": self._index_cache}}
        if self._at_once:
            limit = {"limit": self._at_once}
            name = {"http": "http_request_concurrency", "s3": "s3_request_concurrency", "file": "file_io_concurrency"}
            context |= {name[location.kind]: limit, "data_copy_concurrency": limit}
        return context


class CloudVolume:
    """cloud-volume, without its caches, which are off by default."""

    def __init__(self, *, green: bool = False, processes: int = 1) -> None:
        if green:
            import gevent.monkey

            gevent.monkey.patch_all(thread=False)
        import cloudvolume

        self._library = cloudvolume
        self._options: dict[str, Any] = {"green_threads": green, "parallel": processes, "progress": False}

    def open(self, location: Location, data: DataSet) -> Any:
        del data
        return self._library.CloudVolume(self._url(location), **self._options, **self._secrets(location))

    def read(self, opened: Any, box: Box) -> Array:
        voxels: Array = opened[box]
        return voxels

    def open_bytes(self, location: Location) -> Any:
        raise NotImplementedError

    def fetch(self, opened: Any, key: str, coords: Coords) -> bytes:
        raise NotImplementedError

    def write(self, location: Location, data: DataSet, voxels: Array) -> None:
        volume = self._library.CloudVolume(
            self._url(location),
            info=data.info,
            compress="gzip" if data.gzip else False,
            **self._options,
            **self._secrets(location),
        )
        volume.commit_info()
        volume[:, :, :] = voxels

    @staticmethod
    def _url(location: Location) -> str:
        if location.kind == "s3":
            return f"precomputed://s3://{location.base}/{location.bucket}/{location.path}"
        return f"precomputed://{'file://' if location.kind == 'file' else ''}{location.url}"

    @staticmethod
    def _secrets(location: Location) -> dict[str, Any]:
        if location.kind != "s3":
            return {}
        return {"secrets": {"AWS_ACCESS_KEY_ID": S3_KEY, "AWS_SECRET_ACCESS_KEY": S3_SECRET}}


class NeuroglancerScripts:
    """neuroglancer-scripts, chunk by chunk as its own tools do."""

    def __init__(self) -> None:
        from neuroglancer_scripts import accessor, precomputed_io

        self._accessor = accessor
        self._io = precomputed_io

    def open(self, location: Location, data: DataSet) -> Any:
        return self._io.get_IO_for_existing_dataset(self.open_bytes(location)), data

    def read(self, opened: Any, box: Box) -> Array:
        reader, data = opened
        result = np.empty([part.stop - part.start for part in box], data.dtype, order="F")
        for chunk in chunks_of(box, data):
            inside = tuple(
                slice(max(low, part.start) - low, min(high, part.stop) - low)
                for low, high, part in zip(chunk[::2], chunk[1::2], box, strict=True)
            )
            target = tuple(
                slice(max(low, part.start) - part.start, min(high, part.stop) - part.start)
                for low, high, part in zip(chunk[::2], chunk[1::2], box, strict=True)
            )
            result[target] = reader.read_chunk(data.key, chunk)[0].T[inside]
        return result

    def open_bytes(self, location: Location) -> Any:
        return self._accessor.get_accessor_for_url(location.url, {"flat": True})

    def fetch(self, opened: Any, key: str, coords: Coords) -> bytes:
        body: bytes = opened.fetch_chunk(key, coords)
        return body

    def write(self, location: Location, data: DataSet, voxels: Array) -> None:
        accessor = self._accessor.get_accessor_for_url(location.url, {"flat": True, "gzip": data.gzip})
        writer = self._io.get_IO_for_new_dataset(data.info, accessor)
        for chunk in chunks_of((slice(0, data.side),) * 3, data):
            part = voxels[tuple(itertools.starmap(slice, zip(chunk[::2], chunk[1::2], strict=True)))]
            writer.write_chunk(part.T[None], data.key, chunk)


def chunks_of(box: Box, data: DataSet) -> Iterator[Coords]:
    """Go through the chunks that a box touches, x fastest."""
    starts = [range(part.start // data.chunk * data.chunk, part.stop, data.chunk) for part in reversed(box)]
    for z, y, x in itertools.product(*starts):
        xmax, ymax, zmax = (min(start + data.chunk, data.side) for start in (x, y, z))
        yield x, xmax, y, ymax, z, zmax


# -------------------------------------------------------------------------------------------------------- the one table


@dataclass(frozen=True)
class System:
    """A tool with the settings in which it is measured."""

    name: str
    tool: Callable[..., Tool]
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"default": {}})


OURS = System("ours", PrecomputedFs)
TENSORSTORE = System(
    "tensorstore",
    TensorStore,
    {
        "default": {},
        "order F": {"order": "F"},
        "order F, 64 at once": {"order": "F", "at_once": 64},
        "order F, 128 at once": {"order": "F", "at_once": 128},
    },
)
CLOUD_VOLUME = System(
    "cloud-volume",
    CloudVolume,
    {"default": {}, "green threads": {"green": True}, "2 processes": {"processes": 2}},
)
NEUROGLANCER_SCRIPTS = System("neuroglancer-scripts", NeuroglancerScripts)
PEERS = (TENSORSTORE, CLOUD_VOLUME, NEUROGLANCER_SCRIPTS)
SYSTEMS = {system.name: system for system in (OURS, *PEERS)}
