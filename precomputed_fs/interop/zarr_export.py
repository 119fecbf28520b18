"""Volumes written as OME-Zarr, by zarr itself: `Volume.export_zarr`."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

from precomputed_fs.errors import AlreadyExistsError
from precomputed_fs.interop.zarr_view import ZarrArray, ZarrView
from precomputed_fs.store.location import resolve
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume import Volume
from precomputed_fs.volume.ome_zarr import store_at, zarr_module
from precomputed_fs.volume.progress import Progress

_BLOCK_BYTES = 64 << 20  # of voxels in memory


def export_zarr(
    volume: Volume,
    url: AnyURL,
    *,
    storage_options: Mapping[str, Any] | None,
    overwrite: bool,
    progress: bool | None,
) -> None:
    """Write a volume as an OME-Zarr image: see `Volume.export_zarr`."""
    zarr = zarr_module()
    view = ZarrView(volume)
    location = resolve(url, storage_options=storage_options)
    store = store_at(location, read_only=False)
    try:
        root = zarr.create_group(store, overwrite=overwrite)
    except (zarr.errors.ContainsGroupError, zarr.errors.ContainsArrayError) as exc:
        raise AlreadyExistsError(f"{location.display()} exists; pass overwrite=True to replace it") from exc
    for key, image in view.images.items():
        array = root.create_array(
            key, shape=image.shape, dtype=image.scale.dtype, chunks=image.chunk_shape, dimension_names=image.dimensions
        )
        blocks = _blocks(image)
        with Progress(f"exporting {image.scale.key}", len(blocks), progress, unit="block") as bar:
            for block in blocks:
                array[block] = image.read(block)
                bar.relative_update(1)
    root.attrs.update(dict(view.attributes("")))  # last: half of an image is none


def _blocks(image: ZarrArray) -> list[tuple[slice, ...]]:
    """Cut an array into blocks of whole chunks, as many as memory may hold at once."""
    sizes = list(image.chunk_shape)
    for axis in reversed(range(len(sizes))):
        chunk_bytes = math.prod(sizes) * image.scale.dtype.itemsize
        sizes[axis] *= max(1, min(-(-image.shape[axis] // sizes[axis]), _BLOCK_BYTES // chunk_bytes))
    cuts = (
        [slice(low, min(low + size, end)) for low in range(0, end, size)]
        for end, size in zip(image.shape, sizes, strict=True)
    )
    return list(itertools.product(*cuts))
