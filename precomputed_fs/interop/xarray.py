"""Scales as xarray's arrays: `Scale.to_xarray`, with coordinates and attributes."""

from typing import TYPE_CHECKING, Any

import numpy as np

from precomputed_fs.codecs import ENCODINGS
from precomputed_fs.interop.blocks import AXES, DIMENSIONS
from precomputed_fs.interop.dask import to_dask
from precomputed_fs.volume import Scale

if TYPE_CHECKING:
    import xarray


VARIABLE = "voxels"
"""The name of the array in xarray."""

_MOST_LABELS = 1 << 24  # coordinates of an axis that are kept in memory (128 MiB)


def to_xarray(scale: Scale, chunks: Any = None) -> "xarray.DataArray":  # noqa: ANN401
    """Make a DataArray of a scale: see `Scale.to_xarray`."""
    try:
        import xarray  # noqa: PLC0415 - optional
    except ImportError as exc:
        raise ImportError("DataArrays need xarray: pip install 'precomputed-fs[xarray]'", name="xarray") from exc
    lazy = to_dask(scale, chunks)
    return xarray.DataArray(lazy, coordinates(scale), DIMENSIONS, name=VARIABLE, attrs=attributes(scale))


def coordinates(scale: Scale) -> "xarray.Coordinates":
    """Return the centres of a scale's voxels in nanometres: see `Scale.to_xarray`.

    Along an axis of very many voxels, they are computed on access.
    """
    import xarray  # noqa: PLC0415 - optional

    made = xarray.Coordinates()
    axes = zip(AXES, scale.bounds.start, scale.bounds.stop, scale.resolution, strict=True)
    for name, start, stop, step in axes:
        if stop - start > _MOST_LABELS:
            first, last = (start + 0.5) * step, (stop - 0.5) * step
            index = xarray.indexes.RangeIndex.linspace(first, last, stop - start, dim=name)
            made = made.merge(xarray.Coordinates.from_xindex(index)).coords
        else:
            made[name] = (name, (np.arange(start, stop) + 0.5) * step)
        made[name].attrs["units"] = "nm"
    return made


def attributes(scale: Scale) -> dict[str, Any]:
    """Return the arguments with which `create_volume` makes such a scale: numbers, strings, and lists of these."""
    row = ENCODINGS.get(scale.encoding)
    parameters = {parameter.key for parameter in row.parameters} if row else set()
    given = {
        "resolution": list(scale.resolution),
        "voxel_offset": list(scale.voxel_offset),
        "chunk_size": list(scale.chunk_size),
        "encoding": scale.encoding,
        "type": scale.volume.info.type,
    }
    return given | {
        key: value for key, value in scale.info.parameters.items() if key in parameters and _is_plain(value)
    }


def _is_plain(value: object) -> bool:
    """Whether netCDF and the like can store a value as an attribute; None and booleans they cannot."""
    return all(type(item) in (int, float, str) for item in (value if isinstance(value, list) else [value]))
