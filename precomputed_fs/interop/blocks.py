"""How a scale is divided into the blocks of a dask array: boxes of whole chunks, so that tasks share no chunk."""

import itertools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from precomputed_fs.format.grid import Triple, id_bits, morton_block
from precomputed_fs.volume import Scale

DIMENSIONS = ("x", "y", "z", "channel")
"""The names of the axes in xarray."""

AXES = "xyz"
_MOST_CELLS = 1 << 21  # chunks along an axis, for Morton codes of 63 bits
_MOST_BLOCKS = 1 << 20  # along an axis: dask keeps the length of each, at about 150 bytes


def block_lengths(scale: Scale, chunks: Any) -> tuple[tuple[int, ...], ...]:  # noqa: ANN401
    """Return the lengths of the blocks along each axis, in voxels: see `Scale.to_dask`."""
    if isinstance(chunks, np.ndarray):
        chunks = chunks.tolist()
    limit = None if chunks == "auto" else chunks
    block = default_block(scale, limit if isinstance(limit, str) else None)
    wanted = [None if isinstance(limit, str) else item for item in _by_axis(limit)]
    lengths = [_axis_lengths(scale, axis, item, block[axis]) for axis, item in enumerate(wanted[:3])]
    channels = scale.shape[3]
    if wanted[3] not in (None, "auto", -1, channels, (channels,)):
        raise ValueError(f"chunks: expected all {channels} channels in a block, as in each chunk, got {wanted[3]!r}")
    return (*lengths, (channels,))


def _by_axis(chunks: Any) -> list[Any]:  # noqa: ANN401
    """Return what was asked for along each of the four axes."""
    if isinstance(chunks, Mapping):
        if unknown := set(chunks) - set(DIMENSIONS):
            raise ValueError(f"chunks: expected axes of {', '.join(DIMENSIONS)}, got {', '.join(map(repr, unknown))}")
        return [chunks.get(name) for name in DIMENSIONS]
    if not isinstance(chunks, Sequence) or isinstance(chunks, str):
        return [chunks] * 3 + [None]
    if len(chunks) not in (3, 4):
        raise ValueError(f"chunks: expected lengths along x, y and z, got {chunks!r}")
    return [*chunks, None][:4]


def _axis_lengths(scale: Scale, axis: int, wanted: Any, default: int) -> tuple[int, ...]:  # noqa: ANN401
    size, chunk = scale.shape[axis], scale.chunk_size[axis]
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        lengths = tuple(_voxels(item, axis) for item in wanted)
        if sum(lengths) != size or min(lengths, default=0) < 1:
            raise ValueError(f"chunks: {AXES[axis]}: expected lengths of {size} voxels altogether, got {wanted!r}")
    else:
        length = default if wanted in (None, "auto") else size if wanted == -1 else _voxels(wanted, axis)
        if length < 1:
            raise ValueError(
                f"chunks: {AXES[axis]}: expected a positive number of voxels, or -1 for all, got {wanted!r}"
            )
        count = -(-size // length)
        if count > _MOST_BLOCKS:
            name, least = AXES[axis], listable_length(size, chunk)
            raise ValueError(
                f"{scale.volume.url}: {scale.shown} would have {count:,} blocks of {length} voxels along {name}, "
                f"and dask lists them all: pass longer ones, such as chunks={{{name!r}: {least}}}, or read a part by "
                "scale[...]"
            )
        lengths = tuple(pieces(0, size, length))
    cut = next((at for at in itertools.accumulate(lengths[:-1]) if at % chunk), None)
    if cut is not None:
        near = max(chunk, cut // chunk * chunk)
        raise ValueError(
            f"chunks: {AXES[axis]}: a block that ends at {cut} would cut through a chunk: expected multiples of "
            f"{chunk}, such as {near} or {near + chunk}"
        )
    return lengths


def listable_length(size: int, chunk: int) -> int:
    """Return the length of the shortest blocks of whole chunks that dask can list."""
    return chunk * max(1, -(-size // (chunk * _MOST_BLOCKS)))


def _voxels(wanted: Any, axis: int) -> int:  # noqa: ANN401
    """Return a number of voxels; floats are refused rather than rounded."""
    try:
        return operator.index(wanted)
    except TypeError:
        raise TypeError(f"chunks: {AXES[axis]}: expected a number of voxels, -1 or 'auto', got {wanted!r}") from None


def default_block(scale: Scale, limit: str | None) -> Triple:
    """Choose a block by its bytes: the chunks whose Morton codes differ only in some low bits.

    So the block is about a cube of chunks; and with shards it is contiguous: part of a shard, or several whole shards.
    """
    import dask.config  # noqa: PLC0415 - optional
    import dask.utils  # noqa: PLC0415

    most = dask.utils.parse_bytes(limit or dask.config.get("array.chunk-size"))
    cells = scale.grid.shape
    if scale.info.sharding is None:
        cells = triple(min(count, _MOST_CELLS) for count in cells)
    voxel_bytes = scale.shape[3] * scale.dtype.itemsize
    block = morton_block(cells, 0)
    for bits in range(1, 1 + id_bits(cells)):
        larger = morton_block(cells, bits)
        if math.prod(_block_voxels(scale, larger)) * voxel_bytes > most:
            break
        block = larger
    return _block_voxels(scale, block)


def _block_voxels(scale: Scale, block: Triple) -> Triple:
    """Return the lengths in voxels of a block of this many chunks."""
    return triple(
        min(count * chunk, size) for count, chunk, size in zip(block, scale.chunk_size, scale.info.size, strict=True)
    )


def pieces(start: int, count: int, length: int) -> Iterator[int]:
    """Yield the lengths of the pieces of an axis that is cut at the multiples of a length."""
    edges = range(start - start % length + length, start + count, length)
    for low, high in itertools.pairwise((start, *edges, start + count)):
        yield high - low


def triple(values: Iterable[int]) -> Triple:
    """Return three integers, xyz, as a tuple."""
    x, y, z = values
    return x, y, z
