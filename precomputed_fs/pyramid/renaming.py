"""How chunks of an unsharded scale get other coordinates: stored under the new name first, and deleted later."""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from precomputed_fs.errors import AccessDeniedError, NotFoundError
from precomputed_fs.format.compression import split_suffix
from precomputed_fs.format.grid import ChunkCoords, parse_chunk_name
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


def list_chunks(pyramid: Pyramid, key: str, most: int) -> Mapping[ChunkCoords, Sequence[str]] | None:
    """List the chunks of a scale, each with all of its names; None if that is not possible, or there are too many.

    Parameters
    ----------
    most : int
        The most files to list.
    """
    listed: dict[ChunkCoords, list[str]] = {}
    left = most
    more = None
    while True:
        try:
            page = pyramid.store.list_page(key, more)
        except AccessDeniedError:  # who may not list may still delete
            return None
        if page is None or len(page.objects) > left:
            return None
        for name, _ in page.objects:
            coords = _coords_in(name.removeprefix(f"{key}/"))
            if coords is not None:
                listed.setdefault(coords, []).append(name)
        left, more = left - len(page.objects), page.more
        if more is None:
            return listed


def _coords_in(name: str) -> ChunkCoords | None:
    """Return the coordinates in the name of a chunk of either layout; None for any other name."""
    try:
        return parse_chunk_name(split_suffix(name)[0].replace("/", "_"))
    except ValueError:
        return None


def delete_chunks(
    pyramid: Pyramid,
    key: str,
    chunks: Iterable[ChunkCoords],
    listed: Mapping[ChunkCoords, Sequence[str]] | None = None,
) -> Iterator[None]:
    """Delete chunks, under every name that they have or may have; they need not exist. Yields None for each.

    Parameters
    ----------
    listed : mapping, optional
        What `list_chunks` has returned: others are not there.
    """
    key = pyramid.storer.checked(key)
    for done in pyramid.store.run_many((_deleting(pyramid, key, coords, listed) for coords in chunks), IN_FLIGHT):
        yield from done


def _deleting(
    pyramid: Pyramid, key: str, coords: ChunkCoords, listed: Mapping[ChunkCoords, Sequence[str]] | None
) -> Job[list[None]]:
    try:
        if listed is None:
            names = [variant.name(key, coords) for variant in (yield from pyramid.finder.variants_to_clear(key))]
        else:
            names = list(listed.get(coords, ()))
        for name in names:
            yield Delete(name)
    finally:
        pyramid.finder.forget(key, coords)
    return [None]
