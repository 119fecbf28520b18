"""Scales as dask and xarray have them: arrays of blocks that are read, and written, by many tasks at once.

A block is a box of whole chunks, so that no chunk is read or written by two tasks; a task carries the scale and
finds out by itself which chunks its block has. So a graph knows of blocks only, and is small however many
chunks there are.
"""

import functools
import hashlib
import itertools
import math
import operator
import os
import pickle
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.codecs import ENCODINGS
from precomputed_fs.format.grid import ChunkCoords, Triple, morton_block
from precomputed_fs.pyramid.shard_writer import Update
from precomputed_fs.store.location import Location
from precomputed_fs.volume import Scale, ScaleArray, Selection
from precomputed_fs.volume.indexing import Index
from precomputed_fs.volume.sources import check_cast, fields_to_channels, without_labels

if TYPE_CHECKING:
    import xarray

Array = NDArray[Any]

DIMENSIONS = ("x", "y", "z", "channel")
"""What xarray calls the axes."""

VARIABLE = "voxels"
"""What xarray calls the array."""

_AXES = "xyz"
_MOST_CELLS = 1 << 21  # along an axis, that blocks are grouped in: 63 bits number them
_MOST_BLOCKS = 1 << 20  # along an axis, each of which dask keeps the length of (some 150 bytes)
_MOST_LABELS = 1 << 24  # of an axis, that coordinates are kept for in memory (128 MiB)
_SCALES_IN_PROCESS = 64


# ----------------------------------------------------------------------------------------------------- what tasks carry


class Source(ScaleArray):
    """A scale as tasks carry it: an array whose indices count from 0.

    However many tasks of a scale come to a process, they share one accessor with its connections.
    """

    def __init__(self, scale: Scale, pickled: bytes = b"", home: int | None = None, *, quiet: bool = True) -> None:
        super().__init__(scale, quiet=quiet)
        self._pickled = pickled
        self._home = home

    def __reduce__(self) -> tuple[Any, ...]:
        if not self._pickled:
            self._pickled = pickle.dumps(self._scale)
        return _restored, (self._pickled, os.getpid() if self._home is None else self._home, self._quiet)

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401 - as ScaleArray has it
        self._check_process()
        items = index if isinstance(index, tuple) else (index,)
        return self._listed(items) if any(map(_is_list, items)) else super().__getitem__(index)

    def _listed(self, items: tuple[Any, ...]) -> Array:
        """Read where there is a list of indices along an axis: what is between its first and its last one."""
        gap = next((i for i, item in enumerate(items) if item is Ellipsis), len(items))
        rest = items[gap + 1 :]
        items = (*items[:gap], *[slice(None)] * (self.ndim - gap - len(rest)), *rest)
        at, *others = [i for i, item in enumerate(items) if _is_list(item)]
        if others:
            message = "expected a list of indices along one axis, got several: NumPy would pair them"
            raise IndexError(message)
        wanted = _counted_from_0(np.asarray(items[at]), self.shape[at])
        span = slice(min(wanted, default=0), max(wanted, default=-1) + 1)
        found = super().__getitem__((*items[:at], span, *items[at + 1 :]))
        axis = at - sum(not isinstance(item, slice) for item in items[:at])
        return np.asarray(np.take(found, wanted - span.start, axis))

    @property
    def scale(self) -> Scale:
        """The scale itself.

        Raises
        ------
        ValueError
            If it is in the memory of another process.
        """
        self._check_process()
        return self._scale

    def _check_process(self) -> None:
        if self._home in (None, os.getpid()):
            return
        location = self._scale.volume.accessor.location
        if any(link.protocol == "memory" for link in location.links):
            message = (
                f"{location.display()}: memory is of one process alone, and this is another one: compute with threads, "
                'dask.config.set(scheduler="threads")'
            )
            raise ValueError(message)


def _is_list(item: object) -> bool:
    return isinstance(item, (list, np.ndarray)) and np.ndim(item) == 1


def _counted_from_0(indices: Array, size: int) -> Array:
    """Resolve a list of indices, or which of all elements are wanted."""
    if indices.dtype == bool:
        if len(indices) != size:
            message = f"expected {size} booleans, got {len(indices)}"
            raise IndexError(message)
        return np.flatnonzero(indices)
    indices = indices.astype(int)
    outside = indices[(indices < -size) | (indices >= size)]
    if outside.size:
        message = f"{outside[0]} is outside of {size} elements"
        raise IndexError(message)
    return np.where(indices < 0, indices + size, indices)


@functools.lru_cache(maxsize=_SCALES_IN_PROCESS)
def _restored(pickled: bytes, home: int, quiet: bool) -> Source:
    return Source(pickle.loads(pickled), pickled, home, quiet=quiet)  # noqa: S301 - made by `Source.__reduce__`


# ---------------------------------------------------------------------------------------------------------------- names


def _place_token(location: Location, key: str) -> str:
    """Name where a scale is, the options included, so that what differs in any of them is never taken for another."""
    from dask.base import tokenize  # noqa: PLC0415 - optional

    given = [(link.protocol, link.url, link.options) for link in location.links]
    made = None if location.fs is None else (type(location.fs).__qualname__, location.fs.storage_args)
    return _one_way(tokenize(given, location.anon, made, key))


@functools.lru_cache(maxsize=1024)
def _one_way(digest: str) -> str:
    """Make a name of a digest of URL and options such that secrets, even short ones, cannot be found by trying."""
    return hashlib.scrypt(digest.encode(), salt=b"precomputed_fs", n=1 << 14, r=8, p=1, dklen=12).hex()


def _content_token(scale: Scale) -> str:
    """Name what there is to be read of a scale."""
    from dask.base import tokenize  # noqa: PLC0415 - optional

    volume = scale.volume
    token: str = tokenize(scale.info.to_dict(), volume.info.data_type, volume.info.num_channels, volume.missing)
    return token


# ----------------------------------------------------------------------------------------------------------------- dask


def to_dask(scale: Scale, chunks: Any = None) -> Any:  # noqa: ANN401 - dask ships no types
    """Make a dask array of a scale: see `Scale.to_dask`."""
    array = _dask_array()
    from dask.base import tokenize  # noqa: PLC0415

    lengths = _lengths(scale, chunks)
    name = _name_of(scale.volume.accessor.location, scale.key) + tokenize(_content_token(scale), lengths)
    meta = np.empty((0,) * len(DIMENSIONS), scale.dtype)
    # fancy=False, which would spare `Source` lists, keeps dask from fusing slices: whole blocks would be read for them
    return array.from_array(Source(scale), lengths, name=name, asarray=True, meta=meta, inline_array=True)


def _name_of(location: Location, key: str) -> str:
    """Return what the names of all arrays begin with that read a scale."""
    return f"precomputed-{_place_token(location, key)}"


def _dask_array() -> Any:  # noqa: ANN401 - dask ships no types
    try:
        import dask.array  # noqa: PLC0415 - optional
    except ImportError as exc:
        message = "dask arrays need dask: pip install 'precomputed-fs[dask]'"
        raise ImportError(message, name="dask") from exc
    return dask.array


def check_not_read_from(array: Any, location: Location, keys: Iterable[str]) -> None:  # noqa: ANN401
    """Check that a dask array is not made of scales that it would be written to, as far as its graph tells.

    Raises
    ------
    ValueError
        If it is.
    """
    for key in keys:
        name = _name_of(location, key)
        if any(layer.startswith(name) for layer in array.dask.layers):
            message = (
                f"{location.display()}: the array is read from the scale {key} that it would be written to, and a task "
                "that is repeated would take what it has written: write to another scale, or persist() the array first"
            )
            raise ValueError(message)


def check_dask(array: object) -> None:
    """Check that something is a dask array.

    Raises
    ------
    ImportError
        If dask is not installed.
    TypeError
        If it is none.
    """
    if not isinstance(array, _dask_array().Array):
        message = f"expected a dask array, got {type(array).__name__}: `scale[box] = array` writes what can be sliced"
        raise TypeError(message)


# --------------------------------------------------------------------------------------------------------------- blocks


def _lengths(scale: Scale, chunks: Any) -> tuple[tuple[int, ...], ...]:  # noqa: ANN401
    """Work out how long the blocks are along each axis, in voxels: see `Scale.to_dask`."""
    if isinstance(chunks, np.ndarray):
        chunks = chunks.tolist()
    limit = None if chunks == "auto" else chunks
    block = _default_block(scale, limit if isinstance(limit, str) else None)
    wanted = [None if isinstance(limit, str) else item for item in _by_axis(limit)]
    lengths = [_axis_lengths(scale, axis, item, block[axis]) for axis, item in enumerate(wanted[:3])]
    channels = scale.shape[3]
    if wanted[3] not in (None, "auto", -1, channels, (channels,)):
        message = f"chunks: expected all {channels} channels in a block, as in each chunk, got {wanted[3]!r}"
        raise ValueError(message)
    return (*lengths, (channels,))


def _by_axis(chunks: Any) -> list[Any]:  # noqa: ANN401
    """Spell out what is asked for of each of the four axes."""
    if isinstance(chunks, Mapping):
        if unknown := set(chunks) - set(DIMENSIONS):
            message = f"chunks: expected axes of {', '.join(DIMENSIONS)}, got {', '.join(map(repr, unknown))}"
            raise ValueError(message)
        return [chunks.get(name) for name in DIMENSIONS]
    if not isinstance(chunks, Sequence) or isinstance(chunks, str):
        return [chunks] * 3 + [None]
    if len(chunks) not in (3, 4):
        message = f"chunks: expected lengths along x, y and z, got {chunks!r}"
        raise ValueError(message)
    return [*chunks, None][:4]


def _axis_lengths(scale: Scale, axis: int, wanted: Any, default: int) -> tuple[int, ...]:  # noqa: ANN401
    size, chunk = scale.shape[axis], scale.chunk_size[axis]
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        lengths = tuple(_voxels(item, axis) for item in wanted)
        if sum(lengths) != size or min(lengths, default=0) < 1:
            message = f"chunks: {_AXES[axis]}: expected lengths of {size} voxels altogether, got {wanted!r}"
            raise ValueError(message)
    else:
        length = default if wanted in (None, "auto") else size if wanted == -1 else _voxels(wanted, axis)
        if length < 1:
            message = f"chunks: {_AXES[axis]}: expected a positive number of voxels, or -1 for all, got {wanted!r}"
            raise ValueError(message)
        count = -(-size // length)
        if count > _MOST_BLOCKS:
            name, least = _AXES[axis], listable_length(size, chunk)
            message = (
                f"{scale.volume.url}: scale {scale.key} would have {count:,} blocks of {length} voxels along {name}, "
                f"and dask lists them all: pass longer ones, such as chunks={{{name!r}: {least}}}, or read a part by "
                "scale[...]"
            )
            raise ValueError(message)
        lengths = tuple(_pieces(0, size, length))
    cut = next((at for at in itertools.accumulate(lengths[:-1]) if at % chunk), None)
    if cut is not None:
        near = max(chunk, cut // chunk * chunk)
        message = (
            f"chunks: {_AXES[axis]}: a block that ends at {cut} would cut through a chunk: expected multiples of "
            f"{chunk}, such as {near} or {near + chunk}"
        )
        raise ValueError(message)
    return lengths


def listable_length(size: int, chunk: int) -> int:
    """Return the length of the shortest blocks of whole chunks that are not too many to be listed."""
    return chunk * max(1, -(-size // (chunk * _MOST_BLOCKS)))


def _voxels(wanted: Any, axis: int) -> int:  # noqa: ANN401
    """Take a number of voxels; rounded, it would be another number than was asked for."""
    try:
        return operator.index(wanted)
    except TypeError:
        message = f"chunks: {_AXES[axis]}: expected a number of voxels, -1 or 'auto', got {wanted!r}"
        raise TypeError(message) from None


def _default_block(scale: Scale, limit: str | None) -> Triple:
    """Choose a block by its bytes: chunks whose Morton codes agree but for some low bits.

    So it is a cube of chunks, as nearly as that goes; and in shards what lies together, be it a part of one
    or several whole ones.
    """
    import dask.config  # noqa: PLC0415 - optional
    import dask.utils  # noqa: PLC0415

    most = dask.utils.parse_bytes(limit or dask.config.get("array.chunk-size"))
    cells = scale.grid.shape
    if scale.info.sharding is None:
        cells = _triple(min(count, _MOST_CELLS) for count in cells)
    voxel_bytes = scale.shape[3] * scale.dtype.itemsize
    block = morton_block(cells, 0)
    for bits in range(1, 1 + sum((count - 1).bit_length() for count in cells)):
        larger = morton_block(cells, bits)
        if math.prod(_block_voxels(scale, larger)) * voxel_bytes > most:
            break
        block = larger
    return _block_voxels(scale, block)


def _block_voxels(scale: Scale, block: Triple) -> Triple:
    """Return the lengths of a block of so many chunks, in voxels."""
    return _triple(
        min(count * chunk, size) for count, chunk, size in zip(block, scale.chunk_size, scale.info.size, strict=True)
    )


def _pieces(start: int, count: int, length: int) -> Iterator[int]:
    """Yield the lengths of the pieces of an axis that is cut at each multiple of a length."""
    edges = range(start - start % length + length, start + count, length)
    for low, high in itertools.pairwise((start, *edges, start + count)):
        yield high - low


def _triple(values: Iterable[int]) -> Triple:
    x, y, z = values
    return x, y, z


# -------------------------------------------------------------------------------------------------------------- storing


@dataclass(frozen=True, slots=True)
class _Cuts:
    """Where an array that is to be written is cut into blocks, in voxels from the scale's first one."""

    edges: tuple[tuple[int, ...], ...]
    """Along x, y and z: where each block begins, and where the last one ends."""

    origin: Triple
    """Absolute coordinates of the scale's first voxel."""

    channels: slice

    def box(self, block: Sequence[int]) -> tuple[slice, ...]:
        """Return the box of a block in absolute coordinates."""
        spans = zip(self.edges, block, self.origin, strict=False)
        return (*(slice(low + edges[i], low + edges[i + 1]) for edges, i, low in spans), self.channels)


class _Encoded:
    """The encoded chunks of a block, on their way into a shard."""

    def __init__(self, chunks: Iterable[tuple[ChunkCoords, bytes | Update]]) -> None:
        self.chunks = list(chunks)

    def __sizeof__(self) -> int:
        """Count what dask is to take into account."""
        return sum(len(data.patch if isinstance(data, Update) else data) for _, data in self.chunks)


def store(scale: Scale, array: Any, box: Index, *, skip_empty: bool, compute: bool) -> Any:  # noqa: ANN401
    """Write a dask array: see `Scale.store`."""
    array = without_labels(array)
    check_dask(array)
    array = fields_to_channels(array)
    selection = scale.select_to_write(box)
    check_cast(np.dtype(array.dtype), scale.dtype, array)
    array = _fitted(scale, array, selection)
    scale.volume.flush()  # what waits there would be older, and written later
    edges = tuple(
        tuple(itertools.accumulate(lengths, initial=voxels.start - low))
        for lengths, voxels, low in zip(array.chunks, selection.ranges, scale.voxel_offset, strict=False)
    )
    cuts = _Cuts(edges, scale.voxel_offset, selection.channels)
    lines = _shard_lengths(scale)
    if not array.size:
        written = _dask_array().zeros(0, dtype=np.int64)
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
    """Bring an array into blocks that can be written, each by one task."""
    from dask.array.utils import meta_from_array  # noqa: PLC0415 - optional

    _check_has_no_mask(meta_from_array(array))
    shape = selection.shape
    if array.ndim == len(_AXES) and shape[3] == 1:
        array = array[..., np.newaxis]
    if array.shape != shape or any(item == 0 for item in selection.final):
        message = f"{scale.volume.url}: expected an array of shape {shape} for this box, got {array.shape}"
        if any(map(math.isnan, array.shape)):
            message += ": call compute_chunk_sizes() first"
        raise ValueError(message)
    check_not_read_from(array, scale.volume.accessor.location, [scale.key])
    starts = [voxels.start - low for voxels, low in zip(selection.ranges, scale.voxel_offset, strict=True)]
    if len(array.chunks[3]) > 1 or not all(
        _fits(start, lengths, chunk, line)
        for start, lengths, chunk, line in zip(
            starts, array.chunks[:3], scale.chunk_size, _shard_lengths(scale) or scale.chunk_size, strict=True
        )
    ):
        block = _default_block(scale, None)
        lengths = (tuple(_pieces(*axis)) for axis in zip(starts, shape[:3], block, strict=True))
        array = array.rechunk((*lengths, shape[3]))
    return array


def _fits(start: int, lengths: Sequence[int], chunk: int, line: int) -> bool:
    """Whether the blocks of an axis are made of whole chunks, and of parts of a shard or of whole ones."""
    edges = [*itertools.accumulate(lengths, initial=start)]
    if any(edge % chunk for edge in edges[1:-1]) or 0 in lengths:
        return False
    count = sum(edge % line == 0 for edge in edges[1:-1])
    return count == len(edges) - 2 or count == (edges[-1] - 1) // line - start // line


def _map(function: Any, array: Any, scale: Scale, **options: Any) -> Any:  # noqa: ANN401
    """Have a function called with each block of an array; the graph has one entry for all of them.

    What is written is written anew each time: so the name is a new one.
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
    """Check that a block has the shape that dask takes it for: one that is too small would be spread over the box."""
    shape = tuple(item.stop - item.start for item in box)
    if np.shape(block) != shape:
        message = (
            f"expected a block of shape {shape}, as the dask array says, got {np.shape(block)}: "
            "does map_blocks know that its function changes shapes?"
        )
        raise ValueError(message)
    _check_has_no_mask(block)
    return np.asarray(block)


def _check_has_no_mask(array: object) -> None:
    if isinstance(array, np.ma.MaskedArray):
        message = "an array with a mask: fill what is masked first, with dask.array.ma.filled(array, 0)"
        raise TypeError(message)


def _count(chunks: int) -> NDArray[np.int64]:
    return np.full((1,) * len(DIMENSIONS), chunks, np.int64)


# ---------------------------------------------------------------------------------------------------- storing in shards


def _shard_lengths(scale: Scale) -> Triple | None:
    """Return the lengths in voxels of the boxes that shards are made of; None without shards.

    If chunks are scattered over the shards, that is all of the scale.
    """
    sharding, cells = scale.info.sharding, scale.grid.shape
    if sharding is None:
        return None
    in_shard = sharding.preshift_bits + sharding.minishard_bits
    numbered = sum((count - 1).bit_length() for count in cells)
    if sharding.hash == "identity" and numbered <= in_shard + sharding.shard_bits:
        cells = morton_block(cells, in_shard)
    return _triple(count * chunk for count, chunk in zip(cells, scale.chunk_size, strict=True))


def _stored_in_shards(scale: Scale, array: Any, cuts: _Cuts, lines: Triple, *, skip_empty: bool) -> Any:  # noqa: ANN401
    """Encode each block, and write those of a shard, or of some whole shards, by one task."""
    array_module = _dask_array()
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
    """Yield which blocks of an axis are in the same shards."""
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
    """Write the chunks of one shard, or of some whole ones.

    Whole shards take the place of what there is, so a task that is repeated need not look at what it did before.
    """
    scale = source.scale
    accessor, key = scale.volume.accessor_for(scale.key)
    chunks = [chunk for block in blocks for chunk in block.chunks]
    replaces = is_whole and not any(isinstance(data, Update) for _, data in chunks)
    with accessor.apart() as own, own.replacing_shards([key] if replaces else ()):
        own.store_chunks(key, chunks, mime_type=scale.codec.mime_type, overwrite=True)
        own.flush()
    return _count(len(chunks))


# --------------------------------------------------------------------------------------------------------------- xarray


def to_xarray(scale: Scale, chunks: Any = None) -> "xarray.DataArray":  # noqa: ANN401
    """Make a DataArray of a scale: see `Scale.to_xarray`."""
    try:
        import xarray  # noqa: PLC0415 - optional
    except ImportError as exc:
        message = "DataArrays need xarray: pip install 'precomputed-fs[xarray]'"
        raise ImportError(message, name="xarray") from exc
    lazy = to_dask(scale, chunks)
    return xarray.DataArray(lazy, coordinates(scale), DIMENSIONS, name=VARIABLE, attrs=attributes(scale))


def coordinates(scale: Scale) -> "xarray.Coordinates":
    """Return where the centres of a scale's voxels are, in nanometres: see `Scale.to_xarray`.

    Along an axis of very many voxels, they are computed as they are asked for.
    """
    import xarray  # noqa: PLC0415 - optional

    made = xarray.Coordinates()
    axes = zip(_AXES, scale.bounds.start, scale.bounds.stop, scale.resolution, strict=True)
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
    """Return what `create_volume` makes such a scale of: numbers, texts, and lists of these."""
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
    """Whether files of arrays can keep a value as an attribute, which is not so of None and booleans."""
    return all(type(item) in (int, float, str) for item in (value if isinstance(value, list) else [value]))
