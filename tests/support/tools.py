"""Other tools that write pyramids and read them, in the ways of their users: tensorstore, cloud-volume, and more.

Each is imported when it is first used, which takes seconds.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from precomputed_fs import create_volume, open_volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pytest

    from tests.support.places import Place

Array = np.ndarray[Any, np.dtype[Any]]
Info = dict[str, Any]


def info_of(kind: str, data_type: str, channels: int, scales: Sequence[Mapping[str, Any]]) -> Info:
    info = {"type": kind, "data_type": data_type, "num_channels": channels, "scales": scales}
    plain: Info = json.loads(json.dumps({"@type": "neuroglancer_multiscale_volume", **info}))
    return plain


LABELS = {"compressed_segmentation", "compresso", "crackle"}
PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "jxl": {"jxl_quality": 100},
    "compressed_segmentation": {"compressed_segmentation_block_size": (8, 8, 8)},
    "zfpc": {"zfpc_correlated_dims": (True, True, True, False)},
}


@dataclass(frozen=True, eq=False)
class Tool:
    """Something that writes pyramids into folders, and reads them."""

    name: str

    write: Callable[..., None]
    """``(folder, info, arrays, **options)``: write an array for each scale."""

    read: Callable[[Path, int], tuple[Sequence[int], Array]]
    """``(folder, scale) -> (coordinates of the first voxel, array)``"""

    stored: Mapping[str, Mapping[str, Any]]
    """Options for writing, by what comes of them."""


def url_of(place: Path | str) -> str:
    return str(place) if "://" in str(place) else f"file://{place}"


def write_with_ours(folder: Path, info: Info, arrays: Sequence[Array], **options: Any) -> None:
    (scale,), (array,) = info["scales"], arrays
    given = {key: value for key, value in scale.items() if key not in {"key", "size", "chunk_sizes"}}
    create_volume(folder, array, chunk_size=scale["chunk_sizes"][0], scales=1, **given, **options)


def read_with_ours(folder: Path, scale: int) -> tuple[Sequence[int], Array]:
    opened = open_volume(folder)[scale]
    return opened.voxel_offset, opened[...]


def write_with_tensorstore(folder: Path, info: Info, arrays: Sequence[Array]) -> None:
    import tensorstore

    for scale, array in zip(info["scales"], arrays, strict=True):
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": f"file://{folder}/",
            "multiscale_metadata": {key: info[key] for key in ("type", "data_type", "num_channels")},
            "scale_metadata": {
                **{key: value for key, value in scale.items() if key != "chunk_sizes"},
                "chunk_size": scale["chunk_sizes"][0],
            },
        }
        with tensorstore.Transaction() as transaction:  # each shard is written once
            tensorstore.open(spec, create=True).result().with_transaction(transaction)[...] = array


def open_tensorstore(place: Path | str | Info, scale: int = 0) -> Any:
    """Open a folder, a URL or a key-value store of tensorstore, to read from it."""
    import tensorstore

    kvstore = place if isinstance(place, dict) else f"{url_of(place)}/"
    spec = {"driver": "neuroglancer_precomputed", "kvstore": kvstore, "scale_index": scale}
    return tensorstore.open(spec, open=True, read=True).result()


def bucket_of_tensorstore(pyramid: Place, monkeypatch: pytest.MonkeyPatch) -> Info:
    """Return the key-value store of a pyramid in the tests' S3, and set the credentials."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    bucket, _, path = pyramid.url.removeprefix("s3://").partition("/")
    return {
        "driver": "s3",
        "bucket": bucket,
        "path": f"{path}/",
        "endpoint": pyramid.server.endpoint,
        "aws_region": "us-east-1",
        "aws_credentials": {"type": "environment"},
    }


def read_with_tensorstore(place: Path | str | Info, scale: int = 0) -> tuple[Sequence[int], Array]:
    store = open_tensorstore(place, scale)
    return store.domain.origin[:3], np.asarray(store.read().result())


def write_with_cloud_volume(place: Path | str, info: Info, arrays: Sequence[Array], **options: Any) -> None:
    """Write; shards into a folder only."""
    import cloudvolume
    from cloudvolume.datasource.precomputed.sharding import ShardingSpecification

    for mip, array in enumerate(arrays):
        volume = cloudvolume.CloudVolume(url_of(place), mip=mip, info=info, progress=False, **options)
        volume.commit_info()
        if "sharding" not in volume.scale:
            volume[:, :, :] = array
            continue
        chunks: dict[int, bytes] = {}
        for start, stop in boxes(array.shape, volume.chunk_size):
            box = cloudvolume.Bbox(start, stop)
            chunks |= volume.image.make_shard_chunks(array[box.to_slices()], box + volume.voxel_offset, mip=mip)
        shards = ShardingSpecification.from_dict(volume.scale["sharding"]).synthesize_shards(chunks)
        folder = Path(place) / volume.key
        folder.mkdir()
        for name, body in shards.items():
            (folder / name).write_bytes(body)


def open_cloud_volume(place: Path | str, scale: int = 0, **options: Any) -> Any:
    import cloudvolume

    return cloudvolume.CloudVolume(url_of(place), mip=scale, progress=False, cache=False, **options)


def read_with_cloud_volume(place: Path | str, scale: int = 0, **options: Any) -> tuple[Sequence[int], Array]:
    volume = open_cloud_volume(place, scale, **options)
    voxels = np.array(volume[:, :, :])
    is_scrambled = volume.num_channels in SCRAMBLED.get(volume.encoding, ())
    return volume.voxel_offset.tolist(), unscrambled(voxels, volume.chunk_size) if is_scrambled else voxels


SCRAMBLED = {"jpeg": (3,), "png": (2, 3, 4), "jxl": (3,)}
"""The numbers of channels for which cloud-volume decodes an image to the right voxels in the wrong places."""


def unscrambled(volume: Array, chunk_size: Sequence[int]) -> Array:
    """Undo that a chunk's pixels, [z, y, x, channel], were taken for [x, y, z, channel] in Fortran order."""
    result = np.empty_like(volume)
    for start, stop in boxes(volume.shape, chunk_size):
        box = tuple(map(slice, start, stop))
        x, y, z, channels = volume[box].shape
        result[box] = volume[box].ravel(order="F").reshape(z, y, x, channels).transpose(2, 1, 0, 3)
    return result


def boxes(size: Sequence[int], chunk_size: Sequence[int]) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Go through the chunks: where each begins and ends, counted from 0."""
    for start in itertools.product(*map(range, (0, 0, 0), size, chunk_size)):
        yield start, np.minimum(np.add(start, chunk_size), size[:3]).tolist()


def write_with_neuroglancer_scripts(folder: Path, info: Info, arrays: Sequence[Array], **options: Any) -> None:
    from neuroglancer_scripts.file_accessor import FileAccessor
    from neuroglancer_scripts.precomputed_io import get_IO_for_new_dataset
    from neuroglancer_scripts.sharded_file_accessor import ShardedFileAccessor

    is_sharded = "sharding" in info["scales"][0]
    accessor = ShardedFileAccessor(folder, strategy="in memory") if is_sharded else FileAccessor(str(folder), **options)
    quality = {"jpeg_quality": info["scales"][0].get("jpeg_quality")}
    writer = get_IO_for_new_dataset(info, accessor, encoder_options=quality)
    for scale, array in zip(info["scales"], arrays, strict=True):
        for start, stop in boxes(scale["size"], scale["chunk_sizes"][0]):
            part = array[tuple(map(slice, start, stop))]
            writer.write_chunk(part.T, scale["key"], [*itertools.chain(*zip(start, stop, strict=True))])
    if is_sharded:
        accessor.close()


def read_with_neuroglancer_scripts(place: Path | str, scale: int = 0) -> tuple[Sequence[int], Array]:
    from neuroglancer_scripts.accessor import get_accessor_for_url
    from neuroglancer_scripts.precomputed_io import get_IO_for_existing_dataset

    reader = get_IO_for_existing_dataset(get_accessor_for_url(str(place)))
    described = reader.info["scales"][scale]
    voxels = np.empty((*described["size"], reader.info["num_channels"]), reader.info["data_type"])
    for start, stop in boxes(described["size"], described["chunk_sizes"][0]):
        coords = [*itertools.chain(*zip(start, stop, strict=True))]
        voxels[tuple(map(slice, start, stop))] = reader.read_chunk(described["key"], coords).T
    return (0, 0, 0), voxels


FOLDERS_AND_GZIP = {
    "plain": {"gzip": False, "flat": True},
    "gzip": {"gzip": True, "flat": True},
    "plain folders": {"gzip": False, "flat": False},
    "gzip folders": {"gzip": True, "flat": False},
}
OURS = Tool("ours", write_with_ours, read_with_ours, FOLDERS_AND_GZIP)
TENSORSTORE = Tool("tensorstore", write_with_tensorstore, read_with_tensorstore, {"plain": {}})
CLOUD_VOLUME = Tool(
    "cloud-volume",
    write_with_cloud_volume,
    read_with_cloud_volume,
    {"plain": {"compress": False}, **{each: {"compress": each} for each in ("gzip", "br", "zstd", "xz", "bz2")}},
)
NEUROGLANCER_SCRIPTS = Tool(
    "neuroglancer-scripts", write_with_neuroglancer_scripts, read_with_neuroglancer_scripts, FOLDERS_AND_GZIP
)
PEERS = (TENSORSTORE, CLOUD_VOLUME, NEUROGLANCER_SCRIPTS)
