"""What all batches have in common: how much is in flight, what is made of chunks, and how progress is reported."""

from collections.abc import Callable, Iterable, Sized
from typing import Any, TypeVar

from precomputed_fs.codecs import ChunkPart
from precomputed_fs.errors import CorruptDataError
from precomputed_fs.format.grid import ChunkCoords
from precomputed_fs.format.scale_layout import ScaleLayout
from precomputed_fs.pyramid.stored import Stored
from precomputed_fs.store.pool import HOP

_T = TypeVar("_T")

Callback = Any
"""An `fsspec.callbacks.Callback`, such as its ``TqdmCallback``, or None; fsspec ships no types."""

Decode = Callable[[ChunkCoords, Any], _T]
"""Makes the result of a batch from a chunk's bytes, from a `ChunkPart`, or from None if the chunk is absent."""

IN_FLIGHT = 128
"""The default number of chunks, or of other values, of a batch in flight."""


def checked_in_flight(in_flight: int) -> int:
    """Check the number of values in flight."""
    if in_flight < 1:
        raise ValueError(f"in_flight: expected at least 1, got {in_flight!r}")
    return in_flight


def counted(items: Iterable[_T], callback: Callback) -> Iterable[_T]:
    """Tell a callback how many items there are, if they have a length."""
    if callback is not None and isinstance(items, Sized):
        callback.set_size(len(items))
    return items


def report(callback: Callback, count: int = 1) -> None:
    """Tell a callback of more items that are done."""
    if callback is not None:
        callback.relative_update(count)


def finished(decode: Decode[Any] | None, result: tuple[ChunkCoords, Stored | None]) -> tuple[ChunkCoords, Any]:
    """Decompress a chunk, and make the result that the caller of a batch wants."""
    coords, found = result
    data = None if found is None else found.decoded()
    if decode is None:
        return coords, data
    if found is None:
        return coords, decode(coords, None)
    try:
        return coords, decode(coords, data if found.pieces is None else ChunkPart(found.data, found.pieces))
    except CorruptDataError as exc:
        raise found.named(exc) from exc


def per_hop(layout: ScaleLayout) -> int:
    """Return how many chunks of a scale a thread decodes in one hop."""
    return max(1, HOP // layout.chunk_bytes)
