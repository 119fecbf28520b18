"""Which `info` a new pyramid gets: its scales planned for an array, and written so that every reader accepts it."""

import dataclasses
import math
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import numpy as np

from precomputed_fs.codecs import ENCODINGS, codec_for
from precomputed_fs.errors import InvalidInfoError, expected_one_of, shown
from precomputed_fs.format.grid import Box, ChunkGrid, Triple
from precomputed_fs.format.info import Info
from precomputed_fs.format.lengths import VoxelSize, doubt_about, is_same, voxel_size
from precomputed_fs.format.sharding import propose_sharding
from precomputed_fs.store.location import Location
from precomputed_fs.store.url import URLPath
from precomputed_fs.volume.downsampling import factors_for, halved
from precomputed_fs.volume.indexing import AXES, DIMENSIONS, checked_numbers, checked_size, triple
from precomputed_fs.volume.labels import TYPES, type_for
from precomputed_fs.volume.ome_zarr import Level
from precomputed_fs.volume.progress import warn
from precomputed_fs.volume.sources import expression_for

_OTHER_TYPES = dict.fromkeys(("label", "labels", "mask"), "segmentation")
_MULTISCALE = "neuroglancer_multiscale_volume"
_CHUNK_SIZE = 64  # voxels, along each axis
_MOST_CHUNK_BYTES = 8 << 20  # of the default chunk size
_STORED_TYPES = f"voxels are stored as {', '.join(ENCODINGS['raw'].data_types)}"
_CONVERSIONS = {  # by the kind of a type that cannot be stored
    "i": '{array}.astype("uint64"), or "int32" if some are negative',
    "f": '{array}.astype("float32")',
    "c": 'np.abs({array}).astype("float32")',
}


def check_voxels(array: Any, source: object) -> None:  # noqa: ANN401 - an array, or what can be sliced like one
    """Check that an array can be stored as a pyramid.

    Parameters
    ----------
    array
        An array, or a lazy one.
    source
        The value that it was made from, for which messages say how to convert it.

    Raises
    ------
    ValueError, TypeError
        If its shape or type cannot be stored.
    """
    shape, dtype = tuple(array.shape), np.dtype(array.dtype)
    if len(shape) not in (len(AXES), DIMENSIONS):
        message = f"expected an array (x, y, z) or (x, y, z, channel), got shape {shape}"
        if shape:
            wanted = (*shape, 1, 1)[:3] if len(shape) < len(AXES) else (*shape[:3], math.prod(shape[3:]))
            advice, code = _what_to_pass(source, "reshape")
            message += f": {advice} {code}.reshape{wanted}"
        raise ValueError(message)
    if any(map(math.isnan, shape)):
        raise ValueError(f"expected an array of known shape, got {shape}: call array.compute_chunk_sizes() first")
    if 0 in shape:
        raise ValueError(f"expected an array that has voxels, got shape {shape}")
    if dtype != np.bool_ and dtype.name not in ENCODINGS["raw"].data_types:
        message = f"{_STORED_TYPES}, got {dtype}"
        if dtype.kind in _CONVERSIONS:
            advice, code = _what_to_pass(source, "astype")
            message += f": {advice} {_CONVERSIONS[dtype.kind].format(array=code)}"
        raise TypeError(message)


def _what_to_pass(source: object, method: str) -> tuple[str, str]:
    """Return advice, and code that makes an array with a method of what a source is, or has."""
    if isinstance(source, (str, os.PathLike, URLPath, Location)):
        return "read the file, and pass", "array"
    return "pass", expression_for(source, method)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArrayOptions:
    """The options of `create_volume` that only apply to arrays; None leaves a choice to `plan`."""

    resolution: VoxelSize | None = None
    voxel_offset: Sequence[int] | None = None
    chunk_size: int | Sequence[int] | None = None
    axes: str | None = None
    encoding: str | None = None
    type: str | None = None
    sharding: bool | Mapping[str, Any] | None = None
    scales: int | None = None
    downsampling: str | None = None

    def given(self) -> list[str]:
        """Return the names of those that are not None."""
        return [field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None]


def plan(
    array: Any,  # noqa: ANN401 - an array, or what can be sliced like one
    options: ArrayOptions,
    parameters: Mapping[str, Any],
    further: Mapping[str, Any],
    levels: Sequence[Level] = (),
) -> Info:
    """Plan the scales of a pyramid for an array.

    Parameters
    ----------
    array
        An array or a lazy one, as `check_voxels` accepts it.
    options : ArrayOptions
        See `create_volume`.
    parameters : mapping
        The encoding's parameters.
    further : mapping
        Further members of `info`.
    levels : sequence of Level, optional
        Lower scales that there are already, after the array itself: a scale is planned for each one that has the voxels
        that are made of whole numbers of those of the scale before.

    Raises
    ------
    TypeError, ValueError, InvalidInfoError
        If options are missing or invalid.
    """
    if options.scales is not None and not isinstance(options.scales, (int, np.integer)):
        raise TypeError(f"scales: expected a number of scales, got {shown(options.scales)}")
    if not isinstance(options.sharding, (bool, Mapping, NoneType)):
        raise TypeError(f"sharding: expected True, False or a mapping, got {shown(options.sharding)}")
    if options.scales is not None and options.scales < 1:
        raise ValueError(f"scales: expected at least 1, got {options.scales}")
    resolution = checked_resolution(options.resolution)
    offset = checked_numbers("voxel_offset", (0, 0, 0) if options.voxel_offset is None else options.voxel_offset)
    encoding = options.encoding or "raw"
    shape = tuple(array.shape)
    dtype = np.dtype(np.uint8 if array.dtype == np.bool_ else array.dtype)
    voxel_bytes = math.prod(shape[3:]) * dtype.itemsize
    usual = _usual_chunk_size(voxel_bytes)
    chunk_size = checked_size("chunk_size", usual if options.chunk_size is None else options.chunk_size)
    bounds = Box(offset, triple(map(operator.add, offset, shape[:3])))
    scales: list[dict[str, Any]] = []
    remaining = iter(levels[1:])
    while True:
        scale = {
            "key": "_".join(f"{step:.10g}" for step in resolution),
            "size": list(bounds.shape),
            "resolution": list(resolution),
            "voxel_offset": list(bounds.start),
            "chunk_sizes": [list(chunk_size)],
            "encoding": encoding,
            **parameters,
        }
        if options.sharding is True:
            scale["sharding"] = _sharding(ChunkGrid(bounds.shape, chunk_size, bounds.start), encoding, voxel_bytes)
        elif options.sharding:
            scale["sharding"] = dict(options.sharding)
        scales.append(scale)
        factors = _factors_of(next(remaining, None), bounds, resolution, levels[:1], offset)
        if factors is not None and len(scales) != options.scales:
            resolution = tuple(map(operator.mul, resolution, factors))
            bounds = halved(bounds, factors)
            continue
        remaining = iter(())  # those after it would not follow from what is computed
        sizes = _halvable(bounds)
        factors = factors_for(sizes, resolution)
        is_last = options.scales is None and all(
            size <= chunk or count == 1 for size, chunk, count in zip(bounds.shape, chunk_size, sizes, strict=True)
        )
        if is_last or len(scales) == options.scales or max(factors) == 1:
            break
        resolution = tuple(map(operator.mul, resolution, factors))
        bounds = halved(bounds, factors)
    kind = type_for(array, encoding) if options.type is None else options.type
    if kind == "segmentation" and dtype.kind == "f":
        raise TypeError(f'a segmentation has integers, got {dtype}: pass array.astype("uint32")')
    return Info.parse(
        {
            "@type": _MULTISCALE,
            "type": kind,
            "data_type": dtype.name,
            "num_channels": math.prod(shape[3:]),
            **further,
            "scales": scales,
        }
    )


def _factors_of(
    level: Level | None, bounds: Box, resolution: Sequence[float], finest: Sequence[Level], first: Triple
) -> Triple | None:
    """Return how many voxels of a scale make one of the next level; None if that is not a whole number of its own."""
    if level is None:
        return None
    ratio = list(map(operator.truediv, level.resolution, resolution))
    factors = triple(max(1, round(each)) for each in ratio)
    lower = halved(bounds, factors)
    fits = is_same(ratio, factors) and max(factors) > 1 and lower.shape == level.array.shape[:3]
    return factors if fits and level.fits(lower.start, finest[0], first) else None


def checked_resolution(given: VoxelSize | None) -> tuple[float, float, float]:
    """Return a voxel size in nanometres.

    Raises
    ------
    TypeError, ValueError
        If it is missing, or invalid.
    """
    if given is None:
        raise TypeError("resolution: expected the size of a voxel, such as (8, 8, 40) nanometres, or '1 mm'")
    try:
        return voxel_size(given)
    except ValueError as exc:
        raise ValueError(f"resolution: {exc}") from None


def _usual_chunk_size(voxel_bytes: int) -> int:
    """Return the default chunk size, which is smaller for voxels of many channels."""
    size = _CHUNK_SIZE
    while size > 1 and size**3 * voxel_bytes > _MOST_CHUNK_BYTES:
        size //= 2
    return size


def _sharding(grid: ChunkGrid, encoding: str, voxel_bytes: int) -> dict[str, Any]:
    row = ENCODINGS.get(encoding.lower())
    data_encoding = "raw" if row and row.is_compressed else "gzip"
    chunk_bytes = math.prod(grid.chunk_size) * voxel_bytes
    return propose_sharding(grid.shape, chunk_bytes=chunk_bytes, data_encoding=data_encoding).to_info()


def _halvable(bounds: Box) -> Triple:
    """Count voxels along each axis; those at -1 and 0 count as one, since in all lower scales they remain two."""
    return triple(high - low - (low < 0 < high) for low, high in zip(bounds.start, bounds.stop, strict=True))


def normalized(info: Info) -> Info:
    """Return an `info` that every reader accepts: offsets are explicit, and parameters are the encoding's own.

    Raises
    ------
    InvalidInfoError
        If it has a type that not every reader knows.
    ValueError
        If an encoding cannot store such voxels.

    Warns
    -----
    UserWarning
        If the finest voxels are smaller than 1 nm, or larger than 1 m.
    """
    if info.type not in TYPES:
        raise InvalidInfoError(expected_one_of("info: type", TYPES, info.type, _OTHER_TYPES))
    if info.data_type not in ENCODINGS["raw"].data_types:  # others are read by cloud-volume at most
        raise InvalidInfoError(f"info: data_type: {_STORED_TYPES}, got {info.data_type}")
    if doubt := doubt_about(info.scales[info.finest_first[0]].resolution):
        warn(f"resolution: {doubt}")
    given = info.to_dict()
    of_encodings = {parameter.key for row in ENCODINGS.values() for parameter in row.parameters}
    scales = []
    for i, scale in enumerate(info.scales):
        row = ENCODINGS.get(scale.encoding)
        parameters = {**(row.defaults if row else {}), **scale.parameters}
        codec = codec_for(scale.encoding, info.data_type, info.num_channels, parameters, f"scales[{i}]")
        codec.check()
        kept = {key: value for key, value in given["scales"][i].items() if key not in of_encodings}
        if kept.get("sharding", ...) is None:
            del kept["sharding"]
        scales.append({**kept, "voxel_offset": list(scale.voxel_offset), **codec.info_parameters()})
    return Info.parse({"@type": _MULTISCALE, **given, "type": info.type, "scales": scales})
