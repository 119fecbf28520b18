"""How a copy stores chunks without decoding them, and finds out which are there already."""

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator

from precomputed_fs.errors import AccessDeniedError, DataAccessError
from precomputed_fs.format.compression import GZIP_SUFFIX, gzip_compress, is_gzip
from precomputed_fs.format.grid import ChunkCoords, chunk_coords
from precomputed_fs.format.names import Variant, is_data_folder
from precomputed_fs.pyramid.batches import IN_FLIGHT
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.pyramid.shard_writer import ShardWriter
from precomputed_fs.pyramid.stored import Stored
from precomputed_fs.store.requests import Delete, Job, Put

_MOST_LISTED = 1000  # names that one listing request returns at most


def put_chunk(pyramid: Pyramid, key: str, coords: ChunkCoords, chunk: Stored, mime_type: str, *, gzip: bool) -> int:
    """Store a chunk of an unsharded scale, with or without gzip, replacing any chunk there.

    Returns
    -------
    int
        The number of bytes stored.
    """
    key, coords = pyramid.storer.checked(key), chunk_coords(coords)
    flat = pyramid.options.flat
    stem = Variant(flat, "").name(key, coords)
    if gzip and chunk.is_gzip:
        put = pyramid.storer.gzipped(stem, chunk.data, mime_type)
    else:
        data = chunk.decoded()
        put = Put(stem, data, mime_type)
        if gzip or is_gzip(data):  # as in `Storer.packed`
            put = pyramid.storer.gzipped(stem, gzip_compress(data, pyramid.options.compresslevel), mime_type)
    if not pyramid.store.protocol.can_replace and pyramid.store.exists(put.name):
        raise pyramid.storer.in_the_way(put.name, overwrite=True)
    try:
        pyramid.store.write(
            put.name, put.data, content_type=mime_type, content_encoding=put.content_encoding, create=False
        )
    finally:
        pyramid.finder.forget(key, coords)
    suffix = GZIP_SUFFIX if put.name != stem else ""
    pyramid.known.names_in(key).note(Variant(flat, suffix))
    return len(put.data)


@contextlib.contextmanager
def whole_shard(pyramid: Pyramid, key: str) -> Iterator[Callable[[ChunkCoords, Stored], int]]:
    """Write one shard when the block ends, replacing any shard there; if the block fails, write nothing.

    Yields
    ------
    callable
        ``(coords, chunk)`` adds a chunk and returns how many bytes it takes; for any thread.
    """
    key = pyramid.storer.checked(key)
    layout = pyramid.layout(key)
    sharding, grid = layout.sharding, layout.grid
    if sharding is None or grid is None:
        raise ValueError(f"{pyramid.location.display(key)} is not sharded")
    writer = ShardWriter(pyramid.store, pyramid.shards, pyramid.options.compresslevel)
    writer.replace_shards([key])

    def add(coords: ChunkCoords, chunk: Stored) -> int:
        is_gzip = sharding.data_encoding == "gzip" and chunk.is_gzip
        data = chunk.data if is_gzip else chunk.decoded()
        chunk_id = grid.chunk_id(coords)
        return pyramid.store.run(writer.add(key, sharding, chunk_id, data, overwrite=True, is_gzip=is_gzip))

    try:
        yield add
        writer.flush()
    finally:
        writer.drop()


def has_shard(pyramid: Pyramid, key: str, shard: int) -> bool:
    """Tell whether a shard exists."""
    key = pyramid.finder.checked(key)
    sharding = pyramid.layout(key).sharding
    return sharding is not None and pyramid.store.exists(f"{sharding.shard_name(key, shard)}.shard")


def missing_chunks(pyramid: Pyramid, key: str, wanted: Iterable[ChunkCoords]) -> list[ChunkCoords]:
    """Find out which chunks of an unsharded scale `put_chunk` has not stored.

    In a bucket, one listing covers all chunks that differ only along z.
    """
    key = pyramid.finder.checked(key)
    variants = pyramid.finder.own_variants()
    missing = []
    for _, column in itertools.groupby(wanted, key=lambda coords: coords[:4]):
        some = list(column)
        listed = _listed_column(pyramid, key, some) if len(some) > 1 else None
        for coords in some:
            names = [variant.name(key, coords) for variant in variants]
            if listed is None:
                is_there = any(map(pyramid.store.exists, names))
            else:
                is_there = any(name.rpartition("/")[2] in listed for name in names)
            if not is_there:
                missing.append(coords)
    return missing


def _listed_column(pyramid: Pyramid, key: str, wanted: list[ChunkCoords]) -> set[str] | None:
    """List the names of chunks that differ only along z; None if the listing may be incomplete."""
    if not pyramid.keeps_encoding:
        return None
    name = Variant(pyramid.options.flat, "").name(key, wanted[0])
    prefix = name.removesuffix("{4}-{5}".format(*wanted[0]))
    try:
        listed = pyramid.store.list_names(prefix, _MOST_LISTED)
    except AccessDeniedError:  # credentials without list permission may still write
        return None
    return set(listed) if len(listed) < _MOST_LISTED else None


def has_data(pyramid: Pyramid, key: str) -> bool:
    """Tell whether a scale has chunks or shards, whatever `info` they were written for."""
    return any(_data_names(pyramid, f"{pyramid.finder.checked(key)}/", 0))


def delete_data(pyramid: Pyramid, key: str) -> None:
    """Delete the chunks and shards of a scale, whatever `info` they were written for.

    Raises
    ------
    DataAccessError
        If too many other objects are there.
    """
    try:
        _delete_data(pyramid, f"{pyramid.storer.checked(key)}/", 0)
    finally:
        pyramid.shards.kept.clear()
    pyramid.known.forget_names(key)


def _delete_data(pyramid: Pyramid, folder: str, depth: int) -> bool:
    """Delete the chunks and shards in a folder and its sub-folders; tells whether there were any."""
    deleted = False
    while names := _data_names(pyramid, folder, depth):
        files = [name for name, is_folder in names if not is_folder]
        for _ in pyramid.store.run_many((_deleting(folder + name) for name in files), IN_FLIGHT):
            pass
        below = [_delete_data(pyramid, f"{folder}{name}/", depth + 1) for name, is_folder in names if is_folder]
        if not files and not any(below):  # on disk, empty folders stay
            break
        deleted = True
    return deleted


def _deleting(name: str) -> Job[list[None]]:
    yield Delete(name)
    return [None]


def _data_names(pyramid: Pyramid, folder: str, depth: int) -> list[tuple[str, bool]]:
    """List some names of chunks, shards and folders of chunks, each with whether it is a folder."""
    listed = pyramid.store.list_names(folder, _MOST_LISTED)
    names = [(name, is_folder) for name in listed if (is_folder := is_data_folder(name, depth)) is not None]
    if not names and len(listed) == _MOST_LISTED:
        shown = pyramid.location.display(folder)
        raise DataAccessError(f"{shown} has {_MOST_LISTED} objects that are not chunks, and maybe more after them")
    return names
