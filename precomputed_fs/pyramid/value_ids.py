"""Which uint64 ids the values of a folder have: listed as files, or read from the indexes of its shards."""

import re
from collections.abc import Iterator
from typing import Any

from precomputed_fs.errors import CorruptDataError, ReadOnlyError
from precomputed_fs.format.compression import split_suffix
from precomputed_fs.format.names import joined
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid.batches import IN_FLIGHT
from precomputed_fs.pyramid.values import Values
from precomputed_fs.store.requests import Job

_ID = re.compile(r"0|[1-9]\d{0,19}")
_SHARD = re.compile(r"([0-9a-f]{1,16})\.(?:shard|index)")
_IDS = 1 << 64


class NoListingError(ReadOnlyError):
    """The protocol cannot list, so it cannot tell what there is."""


def stored_ids(values: Values[int]) -> Iterator[int]:
    """Yield the ids of all values that are stored, in no order.

    Of files, this takes a request for each thousand names; of shards, two requests or more for each shard.

    Raises
    ------
    NoListingError
        If the protocol has no listings, as HTTP.
    CorruptDataError
        If an index is damaged.
    """
    if values.sharding is None:
        found = dict.fromkeys(stored_names(values))
        numbered = ((name, int(match[0])) for name in found if (match := _ID.match(name)))
        yield from (number for name, number in numbered if number < _IDS and values.name_of(number) == name)
        return
    shards = sorted(_shards(values, values.sharding))
    minishards = range(1 << values.sharding.minishard_bits)
    jobs = (_ids_in(values, values.sharding, shard, minishard) for shard in shards for minishard in minishards)
    for ids in values.pyramid.store.run_many(jobs, IN_FLIGHT):
        yield from ids


def stored_names(values: Values[Any]) -> Iterator[str]:
    """Yield the names of the files in the folder of values, without what tells their compression; maybe repeated.

    Raises
    ------
    NoListingError
        If the protocol has no listings, as HTTP.
    """
    return (split_suffix(name)[0] for name, _ in _files(values))


def _shards(values: Values[Any], sharding: Sharding) -> set[int]:
    """Return the numbers of all shards; each is as large as its index, so what is read is bounded by what is stored.

    Raises
    ------
    CorruptDataError
        If one is smaller.
    """
    numbers = set()
    for name, size in _files(values):
        match = _SHARD.fullmatch(name)
        if match and size is not None and size < sharding.index_size:
            where = values.pyramid.location.display(joined(values.folder, name))
            raise CorruptDataError(f"{where}: {size} bytes are fewer than the {sharding.index_size} of a shard index")
        if match:
            numbers.add(int(match[1], 16))
    return numbers


def _ids_in(values: Values[int], sharding: Sharding, shard: int, minishard: int) -> Job[list[int]]:
    found = yield from values.pyramid.shards.indexes.minishard(values.folder, sharding, shard, minishard)
    return [] if found is None else [wanted.chunk_id for wanted in found.index]


def _files(values: Values[Any]) -> Iterator[tuple[str, int | None]]:
    """Yield the files in the folder, and those in folders below it: the name from there, and the size if known."""
    start = f"{values.folder}/" if values.folder else ""
    more = None
    while True:
        page = values.pyramid.store.list_page(values.folder, more)
        if page is None:
            where = values.pyramid.location.display(values.folder)
            raise NoListingError(f"{where}: what there is cannot be listed over this protocol")
        yield from ((listed.name.removeprefix(start), listed.size) for listed in page.objects)
        more = page.more
        if more is None:
            return
