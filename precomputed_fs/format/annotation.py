"""How annotations are encoded: one, with its related objects; or many, in a list.

Facts are from the specification of ``neuroglancer_annotations_v1``. Every part of an annotation takes whole words of
4 bytes: its coordinates are float32, and its properties are padded. So a file is an array of words, and the parts of
all annotations are gathered from it, or scattered into it, at once.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import CorruptDataError
from precomputed_fs.format.annotation_info import KINDS, AnnotationInfo, Property, encoding_order

Array = NDArray[Any]

_WORD = np.dtype("<u4")
_ID = np.dtype("<u8")
_WORD_BYTES = 4
_ID_WORDS = 2
_COUNT_BYTES = 8
_CLIENT_STRIDE = 255  # bytes of a vertex in WebGL, into which the client divides long records


class Ragged(NamedTuple):
    """Lists of different lengths, one after the other."""

    values: Array
    """All items."""

    starts: Array
    """(n + 1,) int64: where each list begins in `values`; the last is the end."""

    @classmethod
    def of(cls, values: Array, lengths: Array) -> Self:
        """Make lists of these lengths."""
        return cls(values, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    @property
    def lengths(self) -> Array:
        """(n,) int64: the items of each list."""
        return np.diff(self.starts)

    def item(self, i: int) -> Array:
        """Return one list."""
        return self.values[self.starts[i] : self.starts[i + 1]]

    def take(self, which: Array) -> "Ragged":
        """Return some of the lists; `which` are integers."""
        lengths = self.lengths[which]
        return Ragged.of(self.values[ranges(self.starts[:-1][which], lengths)], lengths)

    @classmethod
    def joined(cls, parts: Sequence["Ragged"]) -> "Ragged":
        """Return the lists of several."""
        return cls.of(np.concatenate([part.values for part in parts]), np.concatenate([part.lengths for part in parts]))


@dataclass(frozen=True, slots=True)
class Block:
    """Some annotations of a collection, as arrays."""

    ids: Array
    """(n,) uint64."""

    geometry: Array | Ragged
    """(n, vectors, rank) float32; of polylines, lists of points (rank,)."""

    properties: Array
    """(n,), structured: a field for each property, in the order of the encoding."""

    related: tuple[Ragged, ...] | None = None
    """For each relationship the object ids of each annotation, uint64; None where they are not known."""

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, which: Array) -> "Block":
        """Return some of the annotations; `which` are integers or booleans."""
        if which.dtype == bool:
            which = np.flatnonzero(which)
        geometry = self.geometry.take(which) if isinstance(self.geometry, Ragged) else self.geometry[which]
        related = None if self.related is None else tuple(lists.take(which) for lists in self.related)
        return Block(self.ids[which], geometry, self.properties[which], related)

    @classmethod
    def joined(cls, blocks: Sequence["Block"]) -> "Block":
        """Return the annotations of one block or several, of the same collection."""
        if len(blocks) == 1:
            return blocks[0]
        ids = np.concatenate([block.ids for block in blocks])
        properties = np.concatenate([block.properties for block in blocks])
        ragged = [block.geometry for block in blocks if isinstance(block.geometry, Ragged)]
        geometry = Ragged.joined(ragged) if ragged else np.concatenate([block.geometry for block in blocks])
        lists = [block.related for block in blocks if block.related is not None]
        related = tuple(map(Ragged.joined, zip(*lists, strict=True))) if len(lists) == len(blocks) else None
        return cls(ids, geometry, properties, related)


@dataclass(frozen=True, slots=True)
class Layout:
    """How the annotations of a collection are encoded."""

    kind: str
    rank: int
    dtype: np.dtype[Any]
    """Of the properties of an annotation, with padding to a multiple of 4 bytes."""

    relationships: int
    """How many there are."""

    @classmethod
    def of(cls, info: AnnotationInfo) -> "Layout":
        """Return that of a collection."""
        return cls(info.kind, info.rank, properties_dtype(info.properties), len(info.relationships))

    @property
    def vectors(self) -> int:
        """How many vectors an annotation has; 0 for polylines."""
        return KINDS[self.kind]

    @property
    def property_words(self) -> int:
        """Words of an annotation's properties."""
        return self.dtype.itemsize // _WORD_BYTES

    @property
    def words(self) -> int:
        """Words of an annotation in a list, without its id; the least of a polyline."""
        return max(1, self.vectors * self.rank) + self.property_words

    def empty(self, *, has_related: bool = False) -> Block:
        """Return no annotations."""
        none = np.zeros(0, np.int64)
        points = np.zeros((0, self.rank), np.float32)
        geometry = np.zeros((0, self.vectors, self.rank), np.float32) if self.vectors else Ragged.of(points, none)
        related = (Ragged.of(np.zeros(0, np.uint64), none),) * self.relationships if has_related else None
        return Block(np.zeros(0, np.uint64), geometry, np.zeros(0, self.dtype), related)


def properties_dtype(properties: Sequence[Property]) -> np.dtype[Any]:
    """Return the structured type of an annotation's properties, as they are encoded."""
    ordered = encoding_order(properties)
    shapes = [() if each.encoding.components == 1 else (each.encoding.components,) for each in ordered]
    fields = [(each.id, each.encoding.dtype, shape) for each, shape in zip(ordered, shapes, strict=True)]
    packed = np.dtype(fields)
    names = packed.names or ()
    return np.dtype(
        {
            "names": [*names],
            "formats": [packed[name] for name in names],
            "offsets": [packed.fields[name][1] for name in names] if packed.fields else [],
            "itemsize": -(-packed.itemsize // _WORD_BYTES) * _WORD_BYTES,
        }
    )


def client_differs(layout: Layout) -> bool:
    """Tell whether Neuroglancer's client expects the properties of an annotation elsewhere.

    It divides a record into groups of at most 255 bytes, which WebGL can take, and each group begins at a multiple of
    4 bytes (``getPropertyOffsets`` in its src/annotation/index.ts). The specification has no such padding. Both agree
    unless a colour crosses the end of a group.
    """
    begin = 4 * layout.rank * (layout.vectors or 2) + (0 if layout.vectors else _WORD_BYTES)
    used, end = begin, begin  # bytes of the group, and of the record
    for name in layout.dtype.names or ():
        size = layout.dtype[name].itemsize
        if -(-(used + size) // _WORD_BYTES) * _WORD_BYTES > _CLIENT_STRIDE:
            if end % _WORD_BYTES:
                return True
            used = 0
        used, end = used + size, end + size
    return False


# ---------------------------------------------------------------------------------------------------------- lists


def decode_many(data: bytes, layout: Layout) -> Block:
    """Read a list of annotations, as a cell of the spatial index or a related object has it.

    Raises
    ------
    CorruptDataError
        If its length does not fit the number of annotations that it begins with.
    """
    if len(data) < _COUNT_BYTES:
        raise CorruptDataError(f"a list of annotations has at least {_COUNT_BYTES} bytes, got {len(data)}")
    count = int.from_bytes(data[:_COUNT_BYTES], "little")
    most = (len(data) - _COUNT_BYTES) // (_WORD_BYTES * layout.words + _ID.itemsize)
    if count > most:
        raise CorruptDataError(f"{len(data)} bytes have room for {most} annotations, but begin with a count of {count}")
    end = len(data) - count * _ID.itemsize
    records = data[_COUNT_BYTES:end]
    if len(records) % _WORD_BYTES:
        raise _wrong_length(count, len(data))
    words = np.frombuffer(records, _WORD)
    starts = _starts(words, count, layout)
    if starts is None or starts[-1] != len(words):
        raise _wrong_length(count, len(data))
    ids = np.frombuffer(data, _ID, count, end)
    return Block(ids, *_records(words, starts[:-1], layout))


def encode_many(block: Block, layout: Layout) -> bytes:
    """Write a list of annotations."""
    return next(encode_lists(block, [0, len(block)], layout))


def encode_lists(block: Block, bounds: Sequence[int], layout: Layout) -> Iterator[bytes]:
    """Write several lists of annotations, each of those between two bounds."""
    words, starts = _encoded(block, layout, has_related=False)
    records, ids = memoryview(words.tobytes()), memoryview(block.ids.astype(_ID).tobytes())
    ends = (_WORD_BYTES * starts[[*bounds]]).tolist()
    for i, (first, last) in enumerate(itertools.pairwise(bounds)):
        count = (last - first).to_bytes(_COUNT_BYTES, "little")
        yield b"".join((count, records[ends[i] : ends[i + 1]], ids[_ID.itemsize * first : _ID.itemsize * last]))


def _wrong_length(count: int, length: int) -> CorruptDataError:
    return CorruptDataError(f"{length} bytes are not the length of {count} annotations")


# ------------------------------------------------------------------------------------------------------- single ones


def decode_single(data: bytes, annotation_id: int, layout: Layout) -> Block:
    """Read one annotation with its related objects.

    Raises
    ------
    CorruptDataError
        If it is truncated, or longer than it says.
    """
    words = np.frombuffer(data[: len(data) // _WORD_BYTES * _WORD_BYTES], _WORD)
    starts = _starts(words, 1, layout)
    if starts is None or len(data) % _WORD_BYTES:
        raise CorruptDataError(f"annotation {annotation_id}: {len(data)} bytes are not the length of one")
    related = []
    at = int(starts[-1])
    for _ in range(layout.relationships):
        count = int(words[at]) if at < len(words) else len(words)
        end = at + 1 + _ID_WORDS * count
        if end > len(words):
            raise CorruptDataError(f"annotation {annotation_id}: {len(data)} bytes do not hold its related objects")
        related.append(Ragged.of(np.frombuffer(words[at + 1 : end].tobytes(), _ID), np.array([count])))
        at = end
    if at != len(words):
        raise CorruptDataError(f"annotation {annotation_id}: expected {_WORD_BYTES * at} bytes, got {len(data)}")
    return Block(np.array([annotation_id], _ID), *_records(words, starts[:-1], layout), tuple(related))


def encode_singles(block: Block, layout: Layout) -> Iterator[memoryview]:
    """Write each of some annotations with its related objects."""
    words, starts = _encoded(block, layout, has_related=True)
    data = memoryview(words.tobytes())
    bounds = (_WORD_BYTES * starts).tolist()
    return (data[begin:end] for begin, end in itertools.pairwise(bounds))


def single_lengths(block: Block, layout: Layout) -> Array:
    """Return how many bytes each annotation takes with its related objects."""
    return _WORD_BYTES * _lengths(block, layout, has_related=True)


# ------------------------------------------------------------------------------------------------------------- words


def _starts(words: Array, count: int, layout: Layout) -> Array | None:
    """Return where each record begins, and where the last one ends; None if there are not as many."""
    if layout.vectors:
        starts = np.arange(count + 1, dtype=np.int64) * layout.words
        return starts if starts[-1] <= len(words) else None
    at = 0
    walked = [0]
    tail = 1 + layout.property_words
    for _ in range(count):  # each says how many points it has, and so where the next one begins
        if at >= len(words):
            return None
        at += int(words[at]) * layout.rank + tail
        walked.append(at)
    return np.array(walked, np.int64) if at <= len(words) else None


def _records(words: Array, starts: Array, layout: Layout) -> tuple[Array | Ragged, Array]:
    """Return the geometry and the properties of the records that begin there."""
    if layout.vectors:
        size = layout.vectors * layout.rank
        table = words[: len(starts) * layout.words].reshape(len(starts), layout.words)
        geometry = np.ascontiguousarray(table[:, :size]).view("<f4").reshape(len(starts), layout.vectors, layout.rank)
        return geometry, _structured(table[:, size:], layout)
    points = words[starts].astype(np.int64)
    lengths = points * layout.rank
    values = words[ranges(starts + 1, lengths)].view("<f4").reshape(-1, layout.rank)
    table = words[(starts + 1 + lengths)[:, None] + np.arange(layout.property_words)]
    return Ragged.of(values, points), _structured(table, layout)


def _structured(table: Array, layout: Layout) -> Array:
    if not layout.property_words:
        return np.zeros(len(table), layout.dtype)
    return np.ascontiguousarray(table).view(layout.dtype).reshape(len(table))


def _lengths(block: Block, layout: Layout, *, has_related: bool) -> Array:
    """Return how many words each annotation takes."""
    if isinstance(block.geometry, Ragged):
        lengths = 1 + layout.rank * block.geometry.lengths + layout.property_words
    else:
        lengths = np.full(len(block), layout.words, np.int64)
    for lists in block.related or () if has_related else ():
        lengths = lengths + 1 + _ID_WORDS * lists.lengths
    return lengths


def _encoded(block: Block, layout: Layout, *, has_related: bool) -> tuple[Array, Array]:
    """Return the words of some annotations, and where each begins."""
    starts = np.concatenate([[0], np.cumsum(_lengths(block, layout, has_related=has_related))])
    words = np.zeros(starts[-1], _WORD)
    at = starts[:-1].copy()
    put = functools.partial(_put, words, at)
    if isinstance(block.geometry, Ragged):
        put(block.geometry.lengths[:, None])
        _put_lists(words, at, block.geometry.values, layout.rank * block.geometry.lengths)
    else:
        put(block.geometry.astype("<f4", copy=False).reshape(len(block), layout.vectors * layout.rank))
    if layout.property_words:
        properties = np.zeros(len(block), layout.dtype)  # with zeros in the padding
        for name in layout.dtype.names or ():
            properties[name] = block.properties[name]
        put(properties.view(_WORD).reshape(len(block), layout.property_words))
    for lists in block.related or () if has_related else ():
        put(lists.lengths[:, None])
        _put_lists(words, at, lists.values.astype(_ID, copy=False), _ID_WORDS * lists.lengths)
    return words, starts


def _put(words: Array, at: Array, table: Array) -> None:
    """Write the same number of words for each annotation, and move on."""
    table = np.ascontiguousarray(table)
    if table.dtype.itemsize == _WORD_BYTES:
        table = table.view(_WORD)
    words[at[:, None] + np.arange(table.shape[1])] = table
    at += table.shape[1]


def _put_lists(words: Array, at: Array, values: Array, lengths: Array) -> None:
    """Write a list for each annotation, and move on."""
    words[ranges(at, lengths)] = np.ascontiguousarray(values).reshape(-1).view(_WORD)
    at += lengths


def ranges(starts: Array, lengths: Array) -> Array:
    """Return the integers of several ranges, one after the other.

    Examples
    --------
    >>> ranges(np.array([10, 20]), np.array([2, 3]))
    array([10, 11, 20, 21, 22])
    """
    ends = np.cumsum(lengths, dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(total)
