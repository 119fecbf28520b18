"""What `create_volume` is given as a source: an array (x, y, z, channel) of it, and what the source says of itself."""

import dataclasses
import operator
import os
from typing import Any, NamedTuple

import numpy as np

from precomputed_fs.errors import shown
from precomputed_fs.format.lengths import is_same
from precomputed_fs.store.location import Location, resolve
from precomputed_fs.store.url import URLPath
from precomputed_fs.volume.files import map_array, opened
from precomputed_fs.volume.indexing import AXES, DIMENSIONS, checked_numbers
from precomputed_fs.volume.labels import is_for_labels, storable_labels
from precomputed_fs.volume.lazy import Arranged, arranged, as_float32
from precomputed_fs.volume.nifti import Image, is_image, read_image, read_nifti
from precomputed_fs.volume.ome_zarr import Level, OmeImage, is_group, is_named_so, open_group
from precomputed_fs.volume.ome_zarr import read_image as read_ome_zarr
from precomputed_fs.volume.placement import Placement
from precomputed_fs.volume.planning import ArrayOptions, check_voxels, checked_resolution
from precomputed_fs.volume.scale import Scale
from precomputed_fs.volume.scale_array import ScaleArray
from precomputed_fs.volume.sources import as_source, fields_to_channels, is_dask

_MOST_CHANNELS = 16  # of an array whose axes nobody has named
_CHANNEL = "c"


class Given(NamedTuple):
    """A source, read."""

    array: Any
    """An array, or a lazy one: (x, y, z) or (x, y, z, channel)."""

    options: ArrayOptions
    """With what the source says of itself, where the caller has not said it."""

    placement: Placement | None = None
    """Where the array's voxels are in space, if the source says it."""

    names_axes: str = ""
    """What says which axes the array has; empty if nothing does."""

    levels: tuple[Level, ...] = ()
    """Lower scales that the source has itself, and the array first; empty if it has none."""


def read_source(source: Any, options: ArrayOptions) -> Given:  # noqa: ANN401 - see `create_volume`
    """Read a source other than an `info`, and check that it can be stored.

    Raises
    ------
    TypeError, ValueError
        If it cannot be stored.
    DataAccessError
        If it is a file that cannot be read.
    """
    if isinstance(source, (str, os.PathLike, URLPath, Location)):
        given = _of_file(resolve(source), options)
    elif is_group(source):
        given = _of_ome_zarr(read_ome_zarr(source), options)
    elif is_image(source):
        given = _of_image(read_image(source), options)
    elif isinstance(source, (Scale, ScaleArray)):
        given = Given(source.array if isinstance(source, Scale) else source, options, names_axes="a scale")
    elif hasattr(source, "dims"):
        given = Given(as_source(source), options, names_axes="an array of xarray")
    else:
        given = Given(_of_array(source, options.axes), options)
    if options.axes is not None and given.names_axes:
        raise TypeError(f"axes: for arrays; {given.names_axes} has axes of its own")
    check_voxels(given.array, source)
    return given


def _of_array(source: Any, axes: str | None) -> Any:  # noqa: ANN401
    array = as_source(source)
    if axes is not None:
        has_fields = bool(getattr(getattr(source, "dtype", None), "names", None))
        return _in_order(array, axes, has_fields=has_fields)
    shape = tuple(array.shape)
    if len(shape) == DIMENSIONS and shape[3] > _MOST_CHANNELS:
        message = (
            f"expected an array (x, y, z, channel), got shape {shape}, and {shape[3]} channels look like an axis of "
            'space: pass the order of its axes, such as axes="czyx", or axes="xyzc" if these are channels'
        )
        raise ValueError(message)
    return array


def _in_order(array: Any, axes: str, *, has_fields: bool) -> Any:  # noqa: ANN401
    """Bring an array whose axes are named to (x, y, z) or (x, y, z, channel)."""
    if not isinstance(axes, str):
        raise TypeError(f"axes: expected a text, such as 'zyx', got {axes!r}")
    names = axes.lower() + _CHANNEL * (has_fields and _CHANNEL not in axes.lower())
    if len(set(names)) < len(names) or not set(names) <= {*AXES, _CHANNEL} or not set(names) & set(AXES):
        raise ValueError(f"axes: expected some of x, y, z and c (channel), each once, such as 'zyx', got {axes!r}")
    if len(names) != len(array.shape):
        raise ValueError(f"axes: expected a letter for each axis of the array, got {axes!r} for {tuple(array.shape)}")
    order = tuple(names.index(name) if name in names else None for name in AXES + _CHANNEL * (_CHANNEL in names))
    if order == tuple(range(len(names))):
        return array
    is_movable = isinstance(array, np.ndarray) or is_dask(array)
    return arranged(array, order) if is_movable else Arranged(array, order)


def _of_file(location: Location, options: ArrayOptions) -> Given:
    where = location.display()
    if is_named_so(location):
        return _of_ome_zarr(read_ome_zarr(open_group(location)), options)
    with opened(location) as file:
        array = map_array(file, where)
        if array is not None:
            return Given(_of_array(array, options.axes), options)
        return _of_image(read_nifti(file, where), options)


def _of_ome_zarr(image: OmeImage, options: ArrayOptions) -> Given:
    if options.type is None and image.is_of_labels:
        options = dataclasses.replace(options, type="segmentation")
    encoding, levels = options.encoding or "raw", image.levels
    if is_for_labels(options.type, encoding) or levels[0].array.dtype == np.int64:
        levels = tuple(level._replace(array=storable_labels(level.array, encoding)) for level in levels)
    elif as_float32(levels[0].array) is not levels[0].array:
        levels = tuple(level._replace(array=as_float32(level.array)) for level in levels)
    finest = levels[0]
    if options.resolution is None:
        if not image.has_units:
            units = ", ".join(sorted({shown(unit) for unit in image.units if unit is not None}))
            has = f"units that are not of length, or not known, {units}" if units else "no unit"
            raise TypeError(f"resolution: the image's axes have {has}: pass the size of a voxel, such as '1 um'")
        options = dataclasses.replace(options, resolution=finest.resolution)
    elif not is_same(checked_resolution(options.resolution), finest.resolution):
        ratio = list(map(operator.truediv, checked_resolution(options.resolution), finest.resolution))
        levels = tuple(level._replace(resolution=tuple(map(operator.mul, level.resolution, ratio))) for level in levels)
    if options.voxel_offset is None:
        options = dataclasses.replace(options, voxel_offset=image.voxel_offset)
    return Given(finest.array, options, None, "an image", levels)


def _of_image(image: Image, options: ArrayOptions) -> Given:
    array, placement = fields_to_channels(image.voxels), image.placement
    if options.type is None and image.is_of_labels:
        options = dataclasses.replace(options, type="segmentation")
    encoding = options.encoding or "raw"
    if is_for_labels(options.type, encoding) or array.dtype == np.int64:
        array = storable_labels(array, encoding)
    if options.resolution is None:
        if placement is None:
            why = "the image's header has no affine, or one that is not finite or cannot be inverted"
            raise TypeError(f"resolution: {why}: pass the size of a voxel, such as '1 mm'")
        options = dataclasses.replace(options, resolution=placement.resolution)
    elif placement is not None and not is_same(checked_resolution(options.resolution), placement.resolution):
        placement = None  # as the header's voxels are of another size
    if placement is not None and options.voxel_offset is not None:
        placement = placement.shifted(checked_numbers("voxel_offset", options.voxel_offset))
    return Given(array, options, placement, "an image")
