"""How chunks of an unsharded scale get other coordinates: stored under the new name first, and deleted later."""

import functools
from collections.abc import Callable, Iterable, Iterator

from precomputed_fs.errors import NotFoundError
from precomputed_fs.format.grid import ChunkCoords
from precomputed_fs.pyramid.batches import IN_FLIGHT
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.pyramid.stored import Stored
from precomputed_fs.store.requests import Compute, Delete, Job

Remake = Callable[[bytes, ChunkCoords, ChunkCoords], bytes]
"""``(chunk, old, new)``: makes the bytes of the chunk at its new coordinates."""


def copy_chunks(
    pyramid: Pyramid,
    key: str,
    pairs: Iterable[tuple[ChunkCoords, ChunkCoords]],
    remake: Remake,
    mime_type: str,
    *,
    in_flight: int,
) -> Iterator[None]:
    """Store chunks once more at other coordinates, each with the layout and compression that it has.

    Absent chunks stay absent; there must be none at the new coordinates.

    Parameters
    ----------
    pairs : iterable
        Old and new coordinates.

    Yields
    ------
    None
        For each pair.
    """
    key = pyramid.storer.checked(key)
    batch = (_copying(pyramid, key, old, new, remake=remake, mime_type=mime_type) for old, new in pairs)
    for done in pyramid.store.run_many(batch, in_flight):
        yield from done


def _copying(
    pyramid: Pyramid, key: str, old: ChunkCoords, new: ChunkCoords, *, remake: Remake, mime_type: str
) -> Job[list[None]]:
    layout = yield from pyramid.finder.layout(key)
    try:
        found = yield from pyramid.finder.unsharded(key, layout, old)
    except NotFoundError:
        return [None]
    data: bytes = yield Compute(functools.partial(_remade, found, remake, old, new))
    yield from pyramid.storer.chunk_like(found, key, old, new, data=data, mime_type=mime_type)
    return [None]


def _remade(found: Stored, remake: Remake, old: ChunkCoords, new: ChunkCoords) -> bytes:
    with found.naming():
        return remake(found.decoded(), old, new)


def delete_chunks(pyramid: Pyramid, key: str, chunks: Iterable[ChunkCoords]) -> Iterator[None]:
    """Delete chunks, under every name that they may have; they need not exist. Yields None for each."""
    key = pyramid.storer.checked(key)
    for done in pyramid.store.run_many((_deleting(pyramid, key, coords) for coords in chunks), IN_FLIGHT):
        yield from done


def _deleting(pyramid: Pyramid, key: str, coords: ChunkCoords) -> Job[list[None]]:
    try:
        for variant in (yield from pyramid.finder.variants_to_clear(key)):
            yield Delete(variant.name(key, coords))
    finally:
        pyramid.finder.forget(key, coords)
    return [None]
