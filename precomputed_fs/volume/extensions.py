"""Which functions of packages above stand behind methods of volumes and scales: pictures, dask, meshes and others.

This package sits below these and imports none of them: a function is imported when its method is first called. So
opening a volume stays quick, and imports run one way. `picture_methods`, `interop_methods` and `scene_methods` have the
methods, with their signatures and documentation.
"""

import importlib
from collections.abc import Sequence
from typing import Any

from precomputed_fs.store.location import Location

_IMPLEMENTED_BY = {
    "show": "precomputed_fs.view.pictures:show",
    "plot": "precomputed_fs.view.plots:plot",
    "html": "precomputed_fs.view.notebook:html",
    "view": "precomputed_fs.view.views:view",
    "neuroglancer_url": "precomputed_fs.view.links:neuroglancer_url",
    "to_dask": "precomputed_fs.interop.dask:to_dask",
    "to_xarray": "precomputed_fs.interop.xarray:to_xarray",
    "to_zarr": "precomputed_fs.interop.zarr:to_zarr",
    "export_zarr": "precomputed_fs.interop.zarr_export:export_zarr",
    "store": "precomputed_fs.interop.dask_store:store",
    "to_nifti": "precomputed_fs.interop.nifti:to_nifti",
    "resize": "precomputed_fs.volume.resizing:resize",
    "check_not_read_from": "precomputed_fs.interop.dask:check_not_read_from",
    "meshes": "precomputed_fs.scene.meshes:meshes_of",
    "store_meshes": "precomputed_fs.scene.mesh_writing:store_meshes",
    "segment_properties": "precomputed_fs.scene.segment_properties:properties_of",
    "store_segment_properties": "precomputed_fs.scene.segment_property_writing:store_segment_properties",
    "skeletons": "precomputed_fs.scene.skeletons:skeletons_of",
    "store_skeletons": "precomputed_fs.scene.skeleton_writing:store_skeletons",
}
"""``module:function`` behind each name."""


def call_later(name: str, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - whatever the function takes and returns
    """Import the function behind a name, and call it."""
    module, _, function = _IMPLEMENTED_BY[name].partition(":")
    return getattr(importlib.import_module(module), function)(*args, **options)


def resize(self: Any, size: int | Sequence[int], *, progress: bool | None = None) -> None:  # noqa: ANN401 - a Scale
    """Change the number of voxels, of this scale and of all coarser ones. The offset stays.

    What is new is zeros until it is written; what is cut off is deleted. Only the last chunks of an axis are stored
    again, because they end where the volume ends. Coarser scales keep their voxels: ``vol.downsample(box=...)``
    computes what the new voxels change, or the edge of what was cut off.

    Parameters
    ----------
    size : int, or sequence of 3 int
        Voxels, xyz.
    progress : bool, optional
        See `open_volume`.

    Raises
    ------
    ValueError
        If this is not the finest scale, a scale is sharded or has several chunk sizes, or the scales are not halves of
        each other.
    DataAccessError
        If `info` was changed since the volume was opened, or something cannot be written.

    Notes
    -----
    However this ends, even if the process is killed, the pyramid has its old bounds or its new ones, with the voxels
    that belong there. Nobody may write to it meanwhile. Who has it open with the old `info` misses the old last chunks
    from then on, and should open it again. This takes a request or two for each chunk that is added, cut off or stored
    again. In a lossy encoding, those stored again are encoded once more.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import create_volume
    >>> vol = create_volume("memory://docs/resize", np.ones((100, 80, 50), np.uint8), resolution=(8, 8, 8))
    >>> vol[0].resize((100, 80, 60))
    >>> vol[0][:, :, 50:] = 7
    >>> vol.downsample(box=np.s_[:, :, 50:])
    >>> vol[1][0, 0, 23:27, 0]
    array([1, 1, 7, 7], dtype=uint8)
    """
    call_later("resize", self, size, progress=progress)


def check_not_read_from(array: Any, location: Location, keys: Sequence[str]) -> None:  # noqa: ANN401
    """Check that a dask array is not read from scales that it is about to be written to.

    Raises
    ------
    ValueError
        If it is.
    """
    call_later("check_not_read_from", array, location, keys)
