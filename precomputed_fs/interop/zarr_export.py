"""Volumes written as OME-Zarr, by zarr itself: `Volume.export_zarr`."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from precomputed_fs.errors import AccessDeniedError, AlreadyExistsError, ReadOnlyError
from precomputed_fs.interop.zarr_view import ZarrArray, ZarrView
from precomputed_fs.store.location import Location, resolve
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.overlap import place_of
from precomputed_fs.store.requests import Page
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume import Volume
from precomputed_fs.volume.ome_zarr import store_at, zarr_module
from precomputed_fs.volume.progress import Progress

_DOCUMENTS = ("zarr.json", ".zgroup", ".zarray")  # that the root of a Zarr hierarchy has
_INFOS = ("info", "info.gz")
_ATTEMPTS, _TIMEOUT = 5, 30.0  # of requests
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
    _check_free(volume, location, overwrite=overwrite)
    store = store_at(location, read_only=False)
    try:
        root = zarr.create_group(store, overwrite=overwrite)
        _write(view, root, progress)
    except (zarr.errors.ContainsGroupError, zarr.errors.ContainsArrayError) as exc:  # maybe another writer's
        raise AlreadyExistsError(f"{location.display()} exists; pass overwrite=True to replace it") from exc


def _write(view: ZarrView, root: Any, progress: bool | None) -> None:  # noqa: ANN401 - a group of zarr
    for key, image in view.images.items():
        array = root.create_array(
            key, shape=image.shape, dtype=image.scale.dtype, chunks=image.chunk_shape, dimension_names=image.dimensions
        )
        cuts = _cuts(image)
        with Progress(f"exporting {image.scale.key}", math.prod(map(len, cuts)), progress, unit="block") as bar:
            for block in _blocks(cuts):
                array[block] = image.read(block)
                bar.relative_update(1)
    root.attrs.update(dict(view.attributes("")))  # last: half of an image is none


def _check_free(volume: Volume, location: Location, *, overwrite: bool) -> None:
    """Check that nothing but a Zarr hierarchy is in the way: zarr deletes all that is there to replace one.

    Raises
    ------
    ReadOnlyError
        If the protocol cannot be written, or not read meanwhile.
    ValueError
        If the volume itself is there.
    AlreadyExistsError
        If something else is.
    """
    where, there = location.display(), place_of(location)
    if not (location.writable and location.readable):
        raise ReadOnlyError(f"{where}: zarr cannot write there; export to a folder or a bucket")
    sources = [(volume.pyramid, ""), *(volume.pyramid_for(scale.key) for scale in volume)]
    if any(there.has(place_of(pyramid.location, key)) for pyramid, key in sources):
        raise ValueError(f"{where}: {volume.url} is there itself: export to somewhere else")
    store = ObjectStore(location, attempts=_ATTEMPTS, timeout=_TIMEOUT)
    try:
        is_zarr = any(map(store.exists, _DOCUMENTS))
        page = None if is_zarr and not overwrite else _listed(store, overwrite=overwrite)
        if page is not None and page.objects and (not is_zarr or any(map(store.exists, _INFOS))):
            raise AlreadyExistsError(
                f"{where}: other files are there, such as {page.objects[0].name}, and not just a Zarr hierarchy: "
                "export to somewhere else"
            )
    finally:
        store.close()


def _listed(store: ObjectStore, *, overwrite: bool) -> Page | None:
    try:
        return store.list_page("")
    except AccessDeniedError:  # who may not list may still write, but not what replaces all that is there
        if overwrite:
            raise
        return None


def _cuts(image: ZarrArray) -> list[list[slice]]:
    """Cut the axes of an array, so that blocks have whole chunks, as many as memory may hold at once."""
    sizes = list(image.chunk_shape)
    for axis in reversed(range(len(sizes))):
        chunk_bytes = math.prod(sizes) * image.scale.dtype.itemsize
        sizes[axis] *= max(1, min(-(-image.shape[axis] // sizes[axis]), _BLOCK_BYTES // chunk_bytes))
    return [
        [slice(low, min(low + size, end)) for low in range(0, end, size)]
        for end, size in zip(image.shape, sizes, strict=True)
    ]


def _blocks(cuts: Sequence[Sequence[slice]]) -> Iterator[tuple[slice, ...]]:
    """Yield the blocks, in C order."""
    for cell in np.ndindex(*map(len, cuts)):
        yield tuple(axis[at] for axis, at in zip(cuts, cell, strict=True))
