"""How the indexes of annotations are stored: each value in a file, or whole shards, packed at once.

Many values are small and known before the first is stored. So shards are not collected value by value, as those of
chunks are, but packed from arrays, which takes a twentieth of the time.
"""

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import AccessDeniedError, DataAccessError
from precomputed_fs.format.annotation import Block, Layout, encode_lists, encode_singles
from precomputed_fs.format.compression import gzip_compress
from precomputed_fs.format.shard_index import ByteRange, pack_shard_index
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid.batches import IN_FLIGHT
from precomputed_fs.pyramid.buffers import OCTET_STREAM, Buffer
from precomputed_fs.pyramid.folders import has_files
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.pyramid.values import Values
from precomputed_fs.scene.annotation_plan import Indexed, Plan
from precomputed_fs.store import jobs
from precomputed_fs.store.requests import Compute, Delete, Job, Put
from precomputed_fs.volume.progress import Progress

Array = NDArray[Any]

Encode = Callable[[Array], list[Buffer]]
"""Encodes some values of an index, given their numbers."""

_AT_ONCE = 1 << 16  # annotations whose files are encoded at once
_SHARDS_AT_ONCE = 4
_MOST_MINISHARD_BITS = 20  # as in `ShardWriter`


def store_indexes(pyramid: Pyramid, plan: Plan, shows: bool | None) -> None:
    """Store all indexes of a collection, in folders that are empty.

    Parameters
    ----------
    pyramid : Pyramid
    plan : Plan
    shows : bool, optional
        Whether to show a progress bar.
    """
    layout = Layout.of(plan.info)
    with Progress("writing annotations", sum(map(len, plan.indexes)), shows, "annotation") as bar:
        for each in plan.indexes:
            stored = _in_files if each.index.sharding is None else _in_shards
            for count in stored(pyramid, each, functools.partial(_encoded, plan.block, layout, each)):
                bar.relative_update(count)


def _encoded(block: Block, layout: Layout, each: Indexed, which: Array) -> list[Buffer]:
    """Encode some values of an index, given their numbers."""
    if each.members is None:
        return [*encode_singles(block.take(which), layout)]
    members = each.members.take(which)
    return [*encode_lists(block.take(members.values), members.starts.tolist(), layout)]


def _in_files(pyramid: Pyramid, each: Indexed, encode: Encode) -> Iterator[int]:
    """Store each value in a file of its own; yields how many annotations are done."""
    values: Values[str] = Values(pyramid, each.index.key)
    done = np.concatenate([[0], np.cumsum(each.sizes)])
    first = 0
    while first < len(each.codes):
        last = max(first + 1, int(np.searchsorted(done, done[first] + _AT_ONCE, side="right")) - 1)
        which = np.arange(first, last)
        names = map(each.name_of, each.keys[which].tolist())
        is_list = each.members is not None
        values.store_many(zip(names, encode(which), strict=True), compress=is_list, overwrite=pyramid.can_read)
        yield int(done[last] - done[first])
        first = last


# --------------------------------------------------------------------------------------------------------------- shards


def _in_shards(pyramid: Pyramid, each: Indexed, encode: Encode) -> Iterator[int]:
    """Store whole shards; yields how many annotations are done."""
    sharding = each.index.sharding
    if sharding is None:
        raise TypeError(each.index)
    if sharding.minishard_bits > _MOST_MINISHARD_BITS:
        raise ValueError(f"sharding: expected at most {_MOST_MINISHARD_BITS} minishard_bits, got {sharding}")
    locate: Any = sharding.locate  # computes with arrays as it does with numbers
    shards, minishards = locate(each.codes)
    order = np.lexsort((each.codes, minishards, shards))
    borders = np.flatnonzero(np.diff(shards[order])) + 1

    def stored(which: Array) -> Job[list[int]]:
        def pack() -> bytes:
            return pack_shard(
                sharding, each.codes[which], minishards[which], encode(which), pyramid.options.compresslevel
            )

        shard = int(shards[which[0]])
        data = yield Compute(pack)
        name = f"{sharding.shard_name(each.index.key, shard)}.shard"
        yield from jobs.write(Put(name, data, OCTET_STREAM, create=not pyramid.can_read))
        pyramid.shards.forget(each.index.key, shard)
        return [int(each.sizes[which].sum())]

    made = (stored(which) for which in np.split(order, borders) if len(which))
    for counts in pyramid.store.run_many(made, _SHARDS_AT_ONCE):
        yield from counts


def pack_shard(sharding: Sharding, ids: Array, minishards: Array, values: list[Buffer], compresslevel: int) -> bytes:
    """Write a shard: its index, the values, and the indexes of its minishards.

    Parameters
    ----------
    sharding : Sharding
    ids : array
        (n,) uint64, ascending in each minishard.
    minishards : array
        (n,) uint64, ascending: the minishard of each id.
    values : list of bytes
    compresslevel : int
        The level of gzip, where the sharding uses it.
    """
    if sharding.data_encoding == "gzip":
        values = [gzip_compress(bytes(value), compresslevel) for value in values]
    ends = np.cumsum(np.fromiter(map(len, values), np.int64, len(values)))
    starts = np.concatenate([[0], ends[:-1]])
    position = int(ends[-1])
    places: dict[int, ByteRange] = {}
    indexes = []
    borders = [0, *(np.flatnonzero(np.diff(minishards)) + 1).tolist(), len(ids)]
    for first, last in itertools.pairwise(borders):
        some = slice(first, last)
        gaps = np.zeros(last - first, np.uint64)
        gaps[0] = starts[first]
        columns = [np.diff(ids[some], prepend=np.uint64(0)), gaps, ends[some] - starts[some]]
        index = np.concatenate([column.astype("<u8") for column in columns]).tobytes()
        if sharding.minishard_index_encoding == "gzip":
            index = gzip_compress(index, compresslevel)
        places[int(minishards[first])] = ByteRange(position, position + len(index))
        indexes.append(index)
        position += len(index)
    return b"".join((pack_shard_index(places, sharding), *values, *indexes))


# ----------------------------------------------------------------------------------------------------------- leftovers


def key_with_files(pyramid: Pyramid, keys: Iterable[str]) -> str:
    """Return a folder of an index that has files; empty if none has, or if that cannot be listed."""
    with contextlib.suppress(AccessDeniedError):  # credentials without list permission may still write
        return next((key for key in keys if has_files(pyramid, key)), "")
    return ""


def delete_folders(pyramid: Pyramid, keys: Iterable[str]) -> None:
    """Delete what is in the folders of indexes, since it would be taken for a part of the new collection.

    Raises
    ------
    DataAccessError
        If the store does not tell what is there.
    AccessDeniedError
        If there is a symbolic link to a folder outside of the collection.
    """
    store = pyramid.store.confined()
    for key in keys:
        before: list[str] = []
        while (page := pyramid.store.list_page(key)) is None or page.objects:
            names = [] if page is None else [listed.name for listed in page.objects]
            if names == before:  # nothing was listed, or nothing is deleted
                message = "files of other annotations may be there, which cannot be listed: delete the folder first"
                raise DataAccessError(f"{pyramid.location.display(key)}: {message}")
            for _ in store.run_many(map(_deleting, names), IN_FLIGHT):
                pass
            before = names


def _deleting(name: str) -> Job[list[None]]:
    yield Delete(name)
    return []
