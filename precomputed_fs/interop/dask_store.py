"""How a dask array is written to a scale, by one task per block or per shard: `Scale.store`."""

import functools
import itertools
import math
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.format.grid import ChunkCoords, Triple, id_bits, morton_block
from precomputed_fs.interop.blocks import AXES, DIMENSIONS, default_block, pieces, triple
from precomputed_fs.interop.dask import check_dask, check_not_read_from, dask_array_module
from precomputed_fs.interop.source import Array, Source
from precomputed_fs.pyramid.updates import Update
from precomputed_fs.volume import Scale, Selection
from precomputed_fs.volume.indexing import Index
from precomputed_fs.volume.sources import check_cast, fields_to_channels, from_xarray


@dataclass(frozen=True, slots=True)
class _Cuts:
    """Where the array to write is cut into blocks, in voxels from the scale's first one."""

    edges: tuple[tuple[int, ...], ...]
    """Along x, y and z: the start of each block, and the end of the last."""

    origin: Triple
    """Absolute coordinates of the scale's first voxel."""

    channels: slice

    def box(self, block: Sequence[int]) -> tuple[slice, ...]:
        """Return the box of a block in absolute coordinates."""
        spans = zip(self.edges, block, self.origin, strict=False)
        return (*(slice(low + edges[i], low + edges[i + 1]) for edges, i, low in spans), self.channels)


class _Encoded:
    """The encoded chunks of a block, to be written to a shard."""

    def __init__(self, chunks: Iterable[tuple[ChunkCoords, bytes | Update]]) -> None:
        self.chunks = list(chunks)

    def __sizeof__(self) -> int:
        """Return the number of bytes, for dask's memory limits."""
        return sum(len(data.patch if isinstance(data, Update) else data) for _, data in self.chunks)


def store(scale: Scale, array: Any, box: Index, *, skip_empty: bool, compute: bool) -> Any:  # noqa: ANN401
    """Write a dask array: see `Scale.store`."""
    array = from_xarray(array)
    check_dask(array)
    array = fields_to_channels(array)
    selection = scale.select_to_write(box)
    check_cast(np.dtype(array.dtype), scale.dtype, array)
    array = _fitted(scale, array, selection)
    scale.volume.flush()  # buffered chunks are older, and must not be written later
    edges = tuple(
        tuple(itertools.accumulate(lengths, initial=voxels.start - low))
        for lengths, voxels, low in zip(array.chunks, selection.ranges, scale.voxel_offset, strict=False)
    )
    cuts = _Cuts(edges, scale.voxel_offset, selection.channels)
    lines = _shard_lengths(scale)
    if not array.size:
        written = dask_array_module().zeros(0, dtype=np.int64)
    elif lines is None:
        written = _map(_write_block, array, scale, cuts=cuts, skip_empty=skip_empty)
    else:
        written = _stored_in_shards(scale, array, cuts, lines, skip_empty=skip_empty)
    total = written.sum()
    if not compute:
        return total
    total.compute()
    return None


def _fitted(scale: Scale, array: Any, selection: Selection) -> Any:  # noqa: ANN401
    """Rechunk an array, if necessary, into blocks that one task each can write."""
    from dask.array.utils import meta_from_array  # noqa: PLC0415 - optional

    _check_has_no_mask(meta_from_array(array))
    shape = selection.shape
    if array.ndim == len(AXES) and shape[3] == 1:
        array = array[..., np.newaxis]
    if array.shape != shape or any(item == 0 for item in selection.final) or selection.reversed_axes:
        message = f"{scale.volume.url}: expected an array of shape {shape} for this box, got {array.shape}"
        if any(map(math.isnan, array.shape)):
            message += ": call compute_chunk_sizes() first"
        raise ValueError(message)
    check_not_read_from(array, scale.volume.pyramid.location, [scale.key])
    starts = [voxels.start - low for voxels, low in zip(selection.ranges, scale.voxel_offset, strict=True)]
    if len(array.chunks[3]) > 1 or not all(
        _fits(start, lengths, chunk, line)
        for start, lengths, chunk, line in zip(
            starts, array.chunks[:3], scale.chunk_size, _shard_lengths(scale) or scale.chunk_size, strict=True
        )
    ):
        block = default_block(scale, None)
        lengths = (tuple(pieces(*axis)) for axis in zip(starts, shape[:3], block, strict=True))
        array = array.rechunk((*lengths, shape[3]))
    return array


def _fits(start: int, lengths: Sequence[int], chunk: int, line: int) -> bool:
    """Whether the blocks of an axis are whole chunks, and either parts of a shard or whole shards."""
    edges = [*itertools.accumulate(lengths, initial=start)]
    if any(edge % chunk for edge in edges[1:-1]) or 0 in lengths:
        return False
    count = sum(edge % line == 0 for edge in edges[1:-1])
    return count == len(edges) - 2 or count == (edges[-1] - 1) // line - start // line


def _map(function: Any, array: Any, scale: Scale, **options: Any) -> Any:  # noqa: ANN401
    """Apply a function to each block of an array, as one entry of the graph.

    The name is always new, since a cached result would skip the write.
    """
    return array.map_blocks(
        functools.partial(function, source=Source(scale), **options),
        name=f"{function.__name__.strip('_').replace('_', '-')}-{uuid.uuid4().hex}",
        chunks=tuple((1,) * count for count in array.numblocks),
        dtype=np.int64,
        meta=np.empty((0,) * array.ndim, np.int64),
    )


def _write_block(
    block: Array, *, source: Source, cuts: _Cuts, skip_empty: bool, block_id: tuple[int, ...]
) -> NDArray[np.int64]:
    """Write a block of whole chunks."""
    box = cuts.box(block_id)
    source.scale.write(box, _checked(block, box), skip_empty=skip_empty, progress=False)
    return _count(
        math.prod(
            -(-(item.stop - low) // chunk) - (item.start - low) // chunk
            for item, low, chunk in zip(box[:3], cuts.origin, source.scale.chunk_size, strict=True)
        )
    )


def _checked(block: Any, box: tuple[slice, ...]) -> Any:  # noqa: ANN401 - what dask has computed
    """Check that a block has the shape that dask expects: a smaller one would be broadcast over the box."""
    shape = tuple(item.stop - item.start for item in box)
    if np.shape(block) != shape:
        raise ValueError(
            f"expected a block of shape {shape}, as the dask array says, got {np.shape(block)}: "
            "does map_blocks know that its function changes shapes?"
        )
    _check_has_no_mask(block)
    return np.asarray(block)


def _check_has_no_mask(array: object) -> None:
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("a masked array: fill it first, with dask.array.ma.filled(array, 0)")


def _count(chunks: int) -> NDArray[np.int64]:
    return np.full((1,) * len(DIMENSIONS), chunks, np.int64)


def _shard_lengths(scale: Scale) -> Triple | None:
    """Return the lengths in voxels of the box of a shard; None without shards.

    If a hash scatters chunks over the shards, the box is the whole scale.
    """
    sharding, cells = scale.info.sharding, scale.grid.shape
    if sharding is None:
        return None
    in_shard = sharding.preshift_bits + sharding.minishard_bits
    if sharding.hash == "identity" and id_bits(cells) <= in_shard + sharding.shard_bits:
        cells = morton_block(cells, in_shard)
    return triple(count * chunk for count, chunk in zip(cells, scale.chunk_size, strict=True))


def _stored_in_shards(scale: Scale, array: Any, cuts: _Cuts, lines: Triple, *, skip_empty: bool) -> Any:  # noqa: ANN401
    """Encode each block, and write the blocks of a shard, or of some whole shards, in one task."""
    array_module = dask_array_module()
    from dask.highlevelgraph import HighLevelGraph  # noqa: PLC0415

    encoded = _map(_encode_block, array, scale, cuts=cuts, skip_empty=skip_empty)
    groups = [list(_groups(edges, line)) for edges, line in zip(cuts.edges, lines, strict=True)]
    name = f"write-shards-{uuid.uuid4().hex}"
    write = functools.partial(_write_shards, source=Source(scale))
    graph: dict[Any, Any] = {}
    for at in itertools.product(*(range(len(along)) for along in groups)):
        spans = [along[i] for along, i in zip(groups, at, strict=True)]
        is_whole = all(
            _is_whole(edges[span.start], edges[span.stop], line, size)
            for edges, span, line, size in zip(cuts.edges, spans, lines, scale.info.size, strict=True)
        )
        blocks = [(encoded.name, *block, 0) for block in itertools.product(*spans)]
        graph[name, *at, 0] = (write, blocks, is_whole)
    layers = HighLevelGraph.from_collections(name, graph, dependencies=[encoded])
    counts = (*((1,) * len(along) for along in groups), (1,))
    return array_module.Array(layers, name, counts, meta=np.empty((0,) * len(DIMENSIONS), np.int64))


def _groups(edges: Sequence[int], line: int) -> Iterator[range]:
    """Yield the ranges of blocks of an axis that are in the same shards."""
    first = 0
    for last in range(1, len(edges)):
        if edges[last] % line == 0 or last == len(edges) - 1:
            yield range(first, last)
            first = last


def _is_whole(start: int, stop: int, line: int, size: int) -> bool:
    """Whether an interval of an axis is made of whole shards."""
    return start % line == 0 and (stop % line == 0 or stop == size)


def _encode_block(
    block: Array, *, source: Source, cuts: _Cuts, skip_empty: bool, block_id: tuple[int, ...]
) -> _Encoded:
    """Encode a block of whole chunks."""
    box = cuts.box(block_id)
    return _Encoded(source.scale.encoded(box, _checked(block, box), skip_empty=skip_empty))


def _write_shards(blocks: Sequence[_Encoded], is_whole: bool, *, source: Source) -> NDArray[np.int64]:
    """Write the chunks of one shard, or of some whole shards.

    Whole shards replace existing ones, so a repeated task need not read what it wrote before.
    """
    scale = source.scale
    pyramid, key = scale.volume.pyramid_for(scale.key)
    chunks = [chunk for block in blocks for chunk in block.chunks]
    replaces = is_whole and not any(isinstance(data, Update) for _, data in chunks)
    with pyramid.with_own_buffer() as own, own.replacing_shards([key] if replaces else ()):
        own.store_chunks(key, chunks, mime_type=scale.codec.mime_type, overwrite=True)
        own.flush()
    return _count(len(chunks))
