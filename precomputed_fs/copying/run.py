"""How a pyramid gets from one place to another: stored bytes as they are, voxels only where they are encoded anew.

Until all chunks are there, the destination has no `info`, but `info.partial`: what is being copied there, and how. A
run that finds the same one goes on where the last has ended; one that finds another stops.
"""

import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import itertools
import json
import math
import operator
import os
import posixpath
import queue
import threading
import time
import warnings
from array import array
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from precomputed_fs import claims
from precomputed_fs.accessor import IN_FLIGHT, FsspecAccessor, StoredChunk, accessor_with
from precomputed_fs.claims import Claimed
from precomputed_fs.codecs import ENCODINGS, Codec, Encoding, codec_for
from precomputed_fs.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    DataAccessError,
    InvalidInfoError,
    ReadOnlyError,
)
from precomputed_fs.format.compression import INCOMPRESSIBLE_MIME_TYPES
from precomputed_fs.format.grid import (
    Box,
    ChunkCoords,
    ChunkGrid,
    Triple,
    chunk_name,
    compressed_morton_code,
    morton_block,
    size_of,
)
from precomputed_fs.format.info import Info, ScaleInfo
from precomputed_fs.format.info_text import JSON
from precomputed_fs.format.sharding import Sharding, propose_sharding
from precomputed_fs.store import pool
from precomputed_fs.store.location import Location, store_of
from precomputed_fs.store.loop import stoppable
from precomputed_fs.store.protocols import protocol_of
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume import Progress, Scale, Volume, open_volume, volume_of, what_is_there

_AXES = 3
_GROUP = 512  # chunks that are looked for at once in an unsharded destination, and copied by one task
_GROUP_BITS = 9  # the same for sharded sources: 8 x 8 x 8 chunks, which lie together there
_BYTES_IN_FLIGHT = 64 << 20  # of chunks that are under way
_LEAST_IN_FLIGHT = 2
_SHARD_READS = 16  # at once, of up to 4 MiB, where chunks go from shard to shard
_BLOCK_BYTES = 64 << 20  # of voxels that are read at once, where they are cut into other chunks
_LOCAL_THREADS = max(4, 2 * pool.CORES)  # that write to disk: some may wait for it
_LOOKS_AHEAD = 16  # parts that are looked at before their turn, to find out what is there already
_SCATTERED = 1 << 20  # chunks whose shards are worked out at once, where a hash scatters them
_TASKS_PER_THREAD = 2  # that wait on a cluster
_DIGEST_BYTES = 16
_JSON_TYPE = "application/json"
_LEFT_OUT = ("mesh", "skeletons", "segment_properties")


def copy_pyramid(
    source: AnyURL | FsspecAccessor | Volume,
    destination: AnyURL | FsspecAccessor,
    *,
    scales: Sequence[int | str] | None = None,
    encoding: str | None = None,
    chunk_size: Sequence[int] | None = None,
    sharding: bool | Mapping[str, Any] | None = None,
    gzip: bool | None = None,
    overwrite: bool = False,
    verify: bool = False,
    progress: bool | None = None,
    denied_is_missing: bool | None = None,
    client: Any = None,  # noqa: ANN401 - a distributed.Client; dask ships no types
    **options: Any,  # noqa: ANN401 - an encoding's parameters, and as FsspecAccessor has them
) -> Volume:
    """Copy a pyramid, as it is or stored in another way.

    Where encoding and chunk size stay, stored chunks are moved without being decoded; gzip around them is undone or
    put around them only where that changes. Absent chunks stay absent. `info` is stored last: until then, nobody takes
    the destination for a pyramid. A run that fails, or is killed, leaves what it has copied, and the same call goes on
    from there.

    Parameters
    ----------
    source : str, path, UPath, Volume or FsspecAccessor
        A pyramid; a Volume of `open_volume` where it takes options to open it.
    destination : str, path, UPath or FsspecAccessor
        Where there is none yet.
    scales : sequence of int or str, optional
        Indices or keys of the scales to copy; by default all.
    encoding : str, optional
        See `precomputed_fs.codecs`; by default as each scale has it. With it, parameters are further keywords, such as
        ``jpeg_quality=90``.
    chunk_size : sequence of 3 int, optional
        Voxels, xyz; by default as each scale has it.
    sharding : bool or mapping, optional
        True to shard as `propose_sharding` says, False not to shard, or what each scale's ``sharding`` is to be; by
        default as each scale has it, and as proposed for a sharded one with another `chunk_size`.
    gzip : bool, optional
        Whether chunks that are no JPEG or PNG are compressed; by default as each one is at the source, with gzip in the
        place of all compressions. But where the destination can say that by a suffix only (files, SFTP, memory), which
        few readers look for, chunks are compressed by default only if they have a suffix at the source, too. In
        shards, what `sharding` says counts, if it does.
    overwrite : bool
        Whether what is at the destination may be deleted first: a pyramid, part of another one, chunks of no known
        origin. Only chunks and shards of the scales to be written are, and `info`. What a process of this machine is
        still at stays.
    verify : bool
        Whether everything is read back before `info` is stored, and compared: bytes where they were moved, voxels where
        they were encoded anew without loss; where with loss, that they can be decoded. This includes what an earlier
        run has copied.
    progress : bool, optional
        Whether to show a progress bar; by default if it lasts, in a notebook or on a terminal.
    denied_is_missing : bool, optional
        As `FsspecAccessor` has it, for a source that is a URL; by default False. A Volume or an accessor has its own.
    client : distributed.Client, optional
        A dask cluster to copy on: one task for each shard, or for some hundred chunks. Its workers have to reach both
        places. By default, threads of this process do it.
    **options
        Parameters of `encoding`, and options of `FsspecAccessor` for the destination, such as ``flat=False``.

    Returns
    -------
    Volume
        What is at the destination.

    Raises
    ------
    AlreadyExistsError
        If the destination has a pyramid, or part of another copy, or chunks, and ``overwrite=False``.
    ValueError
        If one place is the other, or inside of it; or if something is asked for that cannot be, such as an encoding
        that does not store such voxels. Nothing is written then.
    NotFoundError, AccessDeniedError, DataAccessError
        If the source cannot be read, or the destination not written.
    CorruptDataError
        If a chunk cannot be decoded, or what is read back is not what was copied.

    Warns
    -----
    UserWarning
        If `info` names meshes, skeletons or properties: these are not copied.

    Notes
    -----
    Memory holds only what is under way: some 64 MiB of chunks that are read, and as many that are written; where the
    chunk size changes, a few blocks of 64 MiB of voxels. A shard that is being written waits in a temporary file. A
    scale whose key leads out of the source by ``..`` is at the same key without that in the copy.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import create_volume
    >>> vol = create_volume("memory://docs/original", np.ones((100, 80, 60), np.uint8), resolution=(8, 8, 8))
    >>> copy_pyramid(vol, "memory://docs/copy", chunk_size=(32, 32, 32), encoding="png")[0]
    <Scale 8_8_8: 100 x 80 x 60 x 1 uint8, 8 x 8 x 8 nm, png>
    """
    if client is not None and not hasattr(client, "submit"):
        message = f"client: expected a distributed.Client, got {type(client).__name__}"
        raise TypeError(message)
    volume = _opened(source, denied_is_missing)
    names = {parameter.key for parameter in _row(encoding).parameters} if encoding is not None else set()
    parameters = {name: options.pop(name) for name in names & options.keys()}
    if isinstance(destination, FsspecAccessor):
        if options:
            message = f"{', '.join(options)}: the destination is an accessor, which has its options"
            raise TypeError(message)
        accessor = destination
    else:
        accessor = accessor_with(destination, {"gzip": gzip, **options})
    wish = _Wish(encoding, parameters, None if chunk_size is None else _size(chunk_size), sharding, gzip, verify=verify)
    _check_writable(accessor, wish)
    if client is not None and not accessor.can_read:
        message = f"{accessor.url}: an archive is written by one process: client=None"
        raise ValueError(message)
    info, works = _plan(volume, _chosen(volume, scales), accessor, wish)
    for work in works:
        _check_apart(volume, work)
    left_out = [name for name in _LEFT_OUT if name in info]
    if left_out:
        message = f"{volume.url}: what `info` names as {', '.join(left_out)} is not copied"
        warnings.warn(message, UserWarning, stacklevel=2)
    with contextlib.ExitStack() as stack:
        if not accessor.can_read:
            stack.callback(accessor.close)  # completes the archive
        place = _Destination(accessor, info, volume.url, gzip)
        stack.push(place.stop_if_failed)
        state = place.begin(volume, overwrite=overwrite)
        if state == "whole" and not verify:
            place.forget()
        else:
            works = [replace(work, resumes=state != "new") for work in works]
            total = sum(math.prod(work.grid.shape) for work in works)
            shows = volume.progress if progress is None else progress
            bar = stack.enter_context(_CopyProgress(f"copying to {accessor.url}", total, shows))
            with accessor.expecting_info(info.to_dict()):
                if client is None:
                    _copy_here(works, bar.add)
                else:
                    _copy_on(client, works, bar.add)
            place.complete()
    return Volume(accessor, info, missing=volume.missing, progress=volume.progress)


def _opened(source: AnyURL | FsspecAccessor | Volume, denied_is_missing: bool | None) -> Volume:
    if not isinstance(source, (Volume, FsspecAccessor)):
        return open_volume(source, denied_is_missing=bool(denied_is_missing))
    if denied_is_missing is not None:
        message = "denied_is_missing: for a URL as the source; what is open already has its options"
        raise TypeError(message)
    return source if isinstance(source, Volume) else volume_of(source)


def _row(encoding: str) -> Encoding:
    row = ENCODINGS.get(encoding.lower())
    if row is None:
        message = f"encoding: expected one of {', '.join(ENCODINGS)}, got {encoding!r}"
        raise ValueError(message)
    return row


def _size(given: Sequence[int]) -> Triple:
    try:
        x, y, z = map(operator.index, given)
    except (TypeError, ValueError):
        x, y, z = 0, 0, 0
    if min(x, y, z) < 1:
        message = f"chunk_size: expected 3 positive integers, xyz, got {given!r}"
        raise ValueError(message)
    return x, y, z


def _chosen(volume: Volume, scales: Sequence[int | str] | None) -> list[Scale]:
    """Return the scales to copy, in the order of the volume."""
    if scales is None:
        return list(volume)
    if isinstance(scales, str) or not scales:
        message = f"scales: expected some indices or keys, got {scales!r}"
        raise ValueError(message)
    try:
        chosen = [volume[which] for which in scales]
    except (KeyError, IndexError) as exc:
        message = f"{volume.url}: scales: {exc.args[0]}"
        raise ValueError(message) from exc
    return [scale for scale in volume if scale in chosen]


# ------------------------------------------------------------------------------------ the plan


@dataclass(frozen=True, slots=True)
class _Wish:
    """How the copy is to be stored, where that is not as the source."""

    encoding: str | None
    parameters: Mapping[str, Any]
    chunk_size: Triple | None
    sharding: bool | Mapping[str, Any] | None
    gzip: bool | None
    verify: bool


@dataclass(frozen=True, slots=True)
class _Recoding:
    """How chunks are encoded anew."""

    decoder: Codec
    encoder: Codec


@dataclass(frozen=True, slots=True)
class _Work:
    """How the chunks of one scale, of one size, get to another scale; to be sent to any process."""

    source: FsspecAccessor
    source_key: str
    source_grid: ChunkGrid
    source_is_sharded: bool
    destination: FsspecAccessor
    key: str
    grid: ChunkGrid
    sharding: Sharding | None

    recoding: _Recoding | None
    """None, if stored bytes are moved."""

    mime_type: str
    voxel_bytes: int

    is_raw: bool
    """Whether chunks at the source are raw, so that their length is known."""

    gzip: bool | None
    verify: bool

    resumes: bool = False
    """Whether an earlier run has copied some of it."""

    home: int = field(default_factory=os.getpid)
    """The process that it was planned in."""

    @property
    def cutting(self) -> _Recoding | None:
        """How chunks are encoded anew that are cut otherwise than at the source; None, if they are cut as there."""
        return None if self.source_grid == self.grid else self.recoding

    @property
    def threads(self) -> int:
        """How many chunks are written at once."""
        return self.in_flight if self.destination.is_remote else min(self.in_flight, _LOCAL_THREADS)

    @property
    def in_flight(self) -> int:
        """How many chunks may be under way, such that their bytes are bounded, too."""
        largest = max(_chunk_voxels(self.grid), _chunk_voxels(self.source_grid)) * self.voxel_bytes
        most = _SHARD_READS if self.source_is_sharded and self.sharding is not None else IN_FLIGHT
        return max(_LEAST_IN_FLIGHT, min(most, _BYTES_IN_FLIGHT // largest))

    def display(self, coords: ChunkCoords) -> str:
        """Show where a chunk is copied to."""
        return self.destination.location.display(f"{self.key}/{chunk_name(coords)}")


def _chunk_voxels(grid: ChunkGrid) -> int:
    return math.prod(map(min, grid.chunk_size, grid.size))


def _plan(volume: Volume, scales: list[Scale], accessor: FsspecAccessor, wish: _Wish) -> tuple["Info", list[_Work]]:
    """Plan the `info` of the copy, and how its chunks are made."""
    members = {**volume.info.to_dict(), "scales": [_planned(scale, wish) for scale in scales]}
    try:
        info = Info.parse(members, f"the copy of {volume.url}")
        info.to_json()  # raises now what it would in the end
    except InvalidInfoError as exc:
        raise ValueError(str(exc)) from exc  # not what is there is wrong, but what is wished
    works = []
    for scale, made in zip(scales, info.scales, strict=True):
        source, source_key = volume.accessor_for(scale.key)
        row = ENCODINGS.get(made.encoding)
        works += [
            _Work(
                source=source,
                source_key=source_key,
                source_grid=source_grid,
                source_is_sharded=scale.info.sharding is not None,
                destination=accessor,
                key=made.key.removesuffix("/"),
                grid=grid,
                sharding=made.sharding,
                recoding=_recoding(scale, wish, is_cut_anew=source_grid != grid),
                mime_type=row.mime_type if row else "application/octet-stream",
                voxel_bytes=volume.dtype.itemsize * volume.info.num_channels,
                is_raw=scale.encoding == "raw",
                gzip=wish.gzip,
                verify=wish.verify,
            )
            for source_grid, grid in _grids(scale.info, made)
        ]
    return info, works


def _planned(scale: Scale, wish: _Wish) -> dict[str, Any]:
    """Plan what `info` says of a scale: all that it said, but for what is wished otherwise."""
    planned = {**scale.info.to_dict(), "key": _inside(scale.key)}
    if _is_recoded(scale, wish):
        own = {parameter.key for row in ENCODINGS.values() for parameter in row.parameters}
        planned = {name: value for name, value in planned.items() if name not in own}
        planned |= {"encoding": str(wish.encoding).lower(), **_encoder(scale, wish).info_parameters()}
    if wish.chunk_size is not None:
        planned["chunk_sizes"] = [list(wish.chunk_size)]
    sharding = _sharding(scale, planned, wish)
    if sharding is None:
        planned.pop("sharding", None)
    else:
        planned |= {"sharding": sharding, "chunk_sizes": planned["chunk_sizes"][:1]}
    return planned


def _inside(key: str) -> str:
    """Return the key of a scale in the copy, which has all scales inside of it."""
    inside = posixpath.normpath(key)
    while inside.startswith("../"):
        inside = inside.removeprefix("../")
    return inside if ".." in key.split("/") else key


def _is_recoded(scale: Scale, wish: _Wish) -> bool:
    """Whether chunks are encoded otherwise than they are."""
    if wish.encoding is None:
        return False
    given = scale.info.parameters
    return wish.encoding.lower() != scale.encoding or any(
        given.get(name) != value for name, value in wish.parameters.items()
    )


def _encoder(scale: Scale, wish: _Wish) -> Codec:
    """Return what encodes chunks anew: as wished, or as the scale has it."""
    if _is_recoded(scale, wish):
        encoding, parameters = str(wish.encoding), wish.parameters
    else:
        encoding, parameters = scale.encoding, scale.info.parameters
    info = scale.volume.info
    given = {**_row(encoding).defaults, **parameters}
    codec = codec_for(encoding, info.data_type, info.num_channels, given, f"the copy of scale {scale.key}")
    codec.check()
    return codec


def _recoding(scale: Scale, wish: _Wish, *, is_cut_anew: bool) -> _Recoding | None:
    return _Recoding(scale.codec, _encoder(scale, wish)) if is_cut_anew or _is_recoded(scale, wish) else None


def _sharding(scale: Scale, planned: Mapping[str, Any], wish: _Wish) -> JSON:
    """Return the member ``sharding`` of a scale in the copy; None, if it is not sharded."""
    given = planned.get("sharding") if wish.sharding is None else wish.sharding
    row = ENCODINGS.get(planned["encoding"])
    is_compressed = row is not None and row.mime_type in INCOMPRESSIBLE_MIME_TYPES
    data_encoding = "raw" if is_compressed or wish.gzip is False else "gzip"
    is_cut_anew = planned["chunk_sizes"][0] != scale.info["chunk_sizes"][0]
    if given is None or given is False:
        return None
    if given is True or (wish.sharding is None and is_cut_anew):
        x, y, z = planned["chunk_sizes"][0]
        grid = ChunkGrid(scale.info.size, (x, y, z), scale.voxel_offset)
        chunk_bytes = math.prod(grid.chunk_size) * scale.shape[3] * scale.dtype.itemsize
        return propose_sharding(grid.shape, chunk_bytes=chunk_bytes, data_encoding=data_encoding).to_info()
    if not isinstance(given, Mapping):
        message = f"sharding: expected True, False or a mapping, got {given!r}"
        raise TypeError(message)
    sharding = dict(given)
    if wish.sharding is None and (_is_recoded(scale, wish) or wish.gzip is not None):
        sharding["data_encoding"] = data_encoding
    return sharding


def _grids(scale: "ScaleInfo", made: "ScaleInfo") -> Iterator[tuple[ChunkGrid, ChunkGrid]]:
    """Pair what the copy's chunks are cut by with what they are made of: with the same, where there is that."""
    sizes = scale.chunk_sizes
    for size in made.chunk_sizes:
        source = size if size in sizes else sizes[0]
        yield (
            ChunkGrid(scale.size, source, scale.voxel_offset),
            ChunkGrid(made.size, size, made.voxel_offset),
        )


# ---------------------------------------------------------------------------------- the places


def _check_writable(accessor: FsspecAccessor, wish: _Wish) -> None:
    if not accessor.can_write:
        message = f"{accessor.url}: this cannot be written to; copy to where the data is to be stored"
        raise ReadOnlyError(message)
    if wish.verify and not accessor.can_read:
        message = f"{accessor.url}: an archive that is being written cannot be read: verify=False"
        raise ValueError(message)


def _check_apart(volume: Volume, work: _Work) -> None:
    """Check that no part of what is copied is at the destination, which may be cleared, or around it."""
    there = _place(work.destination.location)
    for place in (_place(volume.accessor.location), _place(work.source.location, work.source_key)):
        if place.container != there.container:
            continue
        shorter = min(len(place.path), len(there.path))
        if place.path[:shorter] == there.path[:shorter]:
            relation = "are the same place" if place.path == there.path else "are one inside the other"
            message = f"{volume.url} and {work.destination.url} {relation}: copy to somewhere else"
            raise ValueError(message)


class _Place(NamedTuple):
    """Where objects are, as far as a URL tells."""

    container: tuple[Any, ...]
    """The kind of store, the server, and the archives."""

    path: tuple[str, ...]


def _place(location: Location, key: str = "") -> _Place:
    links = [link for link in location.links if not protocol_of(link.protocol).keeps_copies or not link.has_path]
    links = [link for link in links if link.has_path] or list(location.links)
    first, *behind = links
    path = first.url.partition("://")[2] or first.url
    if first.protocol in ("http", "https"):
        path = path.partition("?")[0]
    if first.protocol == "file":
        path = os.path.realpath(path)
    parts = [part for part in f"{path}/{key}".split("/") if part]
    return _Place((*store_of(first), *(link.url for link in behind)), tuple(parts))


class _Destination:
    """The place that is copied to, and what it says of itself meanwhile."""

    def __init__(self, accessor: FsspecAccessor, info: "Info", source: str, gzip: bool | None) -> None:
        self.accessor = accessor
        self.info = info
        record = {"source": source, "gzip": gzip, "flat": accessor.flat, "info": info.to_dict()}
        self._claim = claims.Claim(accessor, record)
        self._keys = list(dict.fromkeys(scale.key.removesuffix("/") for scale in info.scales))

    def begin(self, volume: Volume, *, overwrite: bool) -> str:
        """Find out what is there, and say what will be.

        Returns
        -------
        {"new", "begun", "whole"}
            Whether nothing of the copy is there, or some of it may be, or all of it is.
        """
        accessor = self.accessor
        if not accessor.can_read:  # an archive, which cannot be looked into, nor anything in it be replaced
            return "new"
        infos, there = claims.look(accessor)
        if there is not None and self._claim.is_same(there):
            return "whole" if infos else "begun"
        advice = "overwrite=True deletes that first"
        if there is not None and (overwrite or not infos):
            claims.check_free(accessor, there, overwrite=overwrite, advice=advice)
        in_the_way = (there is not None and not infos) or self._in_the_way(has_info=bool(infos))
        if in_the_way and not overwrite:
            message = f"{accessor.url}: {in_the_way}; {advice}"
            raise AlreadyExistsError(message)
        if in_the_way:
            self._clear(volume, there)
            return "new"
        try:
            self._claim.take(None)
        except AlreadyExistsError:  # another run has begun at the same moment
            there = claims.find(accessor)
            if there is None or not self._claim.is_same(there):
                raise
            return "begun"
        return "new"

    def complete(self) -> None:
        """Store `info`, and with it say that all chunks are there.

        Raises
        ------
        AlreadyExistsError
            If another copy to the same place has begun, or ended, meanwhile; not if it is of the same to the same.
        """
        accessor = self.accessor
        self._claim.check_held(shared=True)
        try:
            accessor.store_file("info", self.info.to_json(), mime_type=_JSON_TYPE)
        except AlreadyExistsError:
            if not accessor.can_read or json.loads(accessor.fetch_file("info")) != self.info.to_dict():
                raise
        self.forget()

    def forget(self) -> None:
        """Delete what was said of a copy that is complete."""
        self._claim.release()

    def stop_if_failed(self, error: type[BaseException] | None, *_: object) -> None:
        """Say of a copy that has failed that nobody is at it."""
        if error is not None:
            self._claim.stop()

    def _in_the_way(self, *, has_info: bool) -> str:
        if has_info:
            return what_is_there(self.accessor)
        with contextlib.suppress(AccessDeniedError):
            for key in self._keys:
                if self.accessor.has_data(key):
                    return f"there are chunks in {key}, and nothing says what of"
        return ""

    def _clear(self, volume: Volume, there: Claimed | None) -> None:
        """Delete what is in the way; a run that ends meanwhile leaves a word that this was not done."""
        accessor = self.accessor
        self._claim.take(there, clearing=True)
        with contextlib.suppress(DataAccessError):
            seen = claims.find(volume.accessor)
            if seen is not None and self._claim.is_mine(seen):
                self._claim.release()
                message = f"{volume.url} and {accessor.url} are the same place: copy to somewhere else"
                raise ValueError(message)
        accessor.delete_file("info")
        for key in self._keys:
            accessor.delete_data(key)
        self._claim.take(Claimed({}))


# ---------------------------------------------------------------------------------- the chunks


class _Count(NamedTuple):
    """What is done."""

    chunks: int
    size: int
    """Bytes that were stored for these."""


class _Made(NamedTuple):
    """A chunk of the copy."""

    chunk: StoredChunk
    gzip: bool
    fingerprint: bytes
    """What has to come out where it is read back; nothing, if it only has to be decoded, or is not verified."""


_Sink = Callable[[ChunkCoords, _Made], int]
"""Takes a chunk of the copy to where it belongs; returns how many bytes it takes there."""

_Tell = Callable[[_Count], object]
"""Is told what is done, as it is done, in the thread that copies."""

_Task: TypeAlias = Callable[[], _Count]
"""Makes a chunk of the copy and takes it to where it belongs, in a thread."""

_Submit: TypeAlias = Callable[[Callable[[], Any]], "concurrent.futures.Future[Any]"]
"""Has a thread call a function."""


@dataclass(frozen=True, slots=True)
class _Part:
    """Chunks that one task copies: a box of cells of the copy's grid, or some of these."""

    box: Box
    scattered: "array[int] | None" = None
    """Which cells, counted along x, then y, then z; None for all."""

    shard: int = 0

    def cells(self) -> Iterator[Triple]:
        """Go through the cells, those along z first."""
        (x0, y0, z0), (nx, ny, _) = self.box.start, self.box.shape
        if self.scattered is None:
            xs, ys, zs = map(range, self.box.start, self.box.stop)
            yield from ((x, y, z) for x in xs for y in ys for z in zs)
            return
        for i in self.scattered:
            yield x0 + i % nx, y0 + i // nx % ny, z0 + i // nx // ny

    def blocks(self, shape: Triple) -> Iterator["_Part"]:
        """Cut it into smaller boxes."""
        if self.scattered is not None:
            for x, y, z in self.cells():
                yield _Part(Box((x, y, z), (x + 1, y + 1, z + 1)))
            return
        xs, ys, zs = map(range, self.box.start, self.box.stop, shape)
        for x, y, z in ((x, y, z) for x in xs for y in ys for z in zs):
            block = Box((x, y, z), (x + shape[0], y + shape[1], z + shape[2]))
            yield _Part(block & self.box)


class _ToDo(NamedTuple):
    """What is to be done of a part."""

    wanted: Sequence[ChunkCoords]
    there: Collection[ChunkCoords]
    """Those of them that are only verified."""

    sink: _Sink
    done: _Count


def _copy_here(works: Iterable[_Work], tell: _Tell) -> None:
    """Copy in this process."""
    for work in works:
        _copy_parts(work, _parts(work), tell)


def _copy_on(client: Any, works: Iterable[_Work], tell: _Tell) -> None:  # noqa: ANN401 - a distributed.Client
    """Copy on a cluster; only some tasks are there at once, however many there will be."""
    from distributed import as_completed  # noqa: PLC0415 - who has a client has it

    todo = ((work, part) for work in works for part in _parts(work))
    window = max(_LEAST_IN_FLIGHT, _TASKS_PER_THREAD * sum(client.nthreads().values()))
    waiting = {client.submit(_copy_part, *task, pure=False) for task in itertools.islice(todo, window)}
    completed = as_completed(waiting, loop=client.loop)
    try:
        for future in completed:
            waiting.discard(future)
            count = future.result()
            for task in itertools.islice(todo, 1):
                added = client.submit(_copy_part, *task, pure=False)
                waiting.add(added)
                completed.add(added)
            tell(count)
    finally:
        client.cancel(list(waiting))


def _copy_part(work: _Work, part: _Part) -> _Count:
    """Copy what one task is to: to be called anywhere, and any number of times."""
    if work.home != os.getpid():
        for location in (work.source.location, work.destination.location):
            if any(link.protocol == "memory" for link in location.links):
                message = f"{location.display()}: memory is of one process alone, and this is another one"
                raise ValueError(message)
    counts = [_Count(0, 0)]
    _copy_parts(work, [part], counts.append)
    return _Count(sum(count.chunks for count in counts), sum(count.size for count in counts))


def _copy_parts(work: _Work, parts: Iterable[_Part], tell: _Tell) -> None:
    if work.sharding is None:
        _copy_chunks(work, parts, None, tell)
        return
    for part in parts:
        _copy_shard(work, part, tell)


def _copy_shard(work: _Work, part: _Part, tell: _Tell) -> None:
    """Copy the chunks of one shard, which is written when all are there; its memory is a temporary file."""
    is_there = work.resumes and work.destination.has_shard(work.key, part.shard)
    expected: dict[ChunkCoords, bytes] = {}

    def remember(coords: ChunkCoords, made: _Made) -> int:
        expected[coords] = made.fingerprint
        return 0

    if is_there and not work.verify:
        tell(_Count(sum(1 for _ in part.cells()), 0))
        return
    if is_there:
        _copy_chunks(work, [part], remember, tell)
    else:
        with work.destination.whole_shard(work.key) as add:

            def sink(coords: ChunkCoords, made: _Made) -> int:
                if work.verify:
                    remember(coords, made)
                return add(coords, made.chunk)

            _copy_chunks(work, [part], sink, tell)
    if work.verify:
        _check(work, map(work.grid.chunk, part.cells()), expected)


def _copy_chunks(work: _Work, parts: Iterable[_Part], sink: _Sink | None, tell: _Tell) -> None:
    """Get the chunks of some parts to a sink; without one, each to an object of its own, if it is not there."""
    cutting = work.cutting
    if cutting is not None:
        block = _block_shape(work)
        parts = itertools.chain.from_iterable(part.blocks(block) for part in parts)
    with _threads(work.threads) as submit:
        todos = _looked_at(submit, functools.partial(_to_do, work, sink=sink), parts)
        tasks = _moves(work, todos, tell) if cutting is None else _cuts(work, cutting, todos, tell)
        with contextlib.closing(tasks):
            _do(submit, tasks, work.threads, tell)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[_Submit]:
    """Have threads of their own for what waits for stores, as those of the pool must not; end what they do."""
    executor = concurrent.futures.ThreadPoolExecutor(count, "precomputed_fs copy")
    is_ended = threading.Event()
    try:
        yield lambda function: executor.submit(stoppable, is_ended, function)
    finally:
        is_ended.set()
        executor.shutdown(cancel_futures=True)


def _looked_at(submit: _Submit, look: Callable[[_Part], _ToDo], parts: Iterable[_Part]) -> Iterator[_ToDo]:
    """Have threads look at parts, some ahead of those that are copied."""
    looks: collections.deque[concurrent.futures.Future[_ToDo]] = collections.deque()
    for part in parts:
        looks.append(submit(functools.partial(look, part)))
        if len(looks) > _LOOKS_AHEAD:
            yield looks.popleft().result()
    while looks:
        yield looks.popleft().result()


def _do(submit: _Submit, tasks: Iterable[_Task], most: int, tell: _Tell) -> None:
    """Have threads do tasks, so many at once; the first one that fails ends it."""
    done: queue.SimpleQueue[concurrent.futures.Future[_Count]] = queue.SimpleQueue()
    under_way = 0
    for task in tasks:
        submit(task).add_done_callback(done.put)
        under_way += 1
        while under_way == most or not done.empty():
            tell(done.get().result())
            under_way -= 1
    for _ in range(under_way):
        tell(done.get().result())


def _to_do(work: _Work, part: _Part, sink: _Sink | None) -> _ToDo:
    """Find out which chunks of a part are to be made, and where they go."""
    wanted = [work.grid.chunk(cell) for cell in part.cells()]
    if sink is not None:
        return _ToDo(wanted, (), sink, _Count(0, 0))
    there = frozenset[ChunkCoords]()
    if work.resumes:
        there = frozenset(wanted).difference(work.destination.missing_chunks(work.key, wanted))
    sink = functools.partial(_put, work, there)
    if work.verify:
        return _ToDo(wanted, there, sink, _Count(0, 0))
    return _ToDo([coords for coords in wanted if coords not in there], (), sink, _Count(len(there), 0))


def _put(work: _Work, there: Collection[ChunkCoords], coords: ChunkCoords, made: _Made) -> int:
    """Store a chunk as an object of its own, if it is not there, and verify it."""
    size = 0
    if coords not in there:
        size = work.destination.put_chunk(work.key, coords, made.chunk, work.mime_type, gzip=made.gzip)
    if work.verify:
        _check(work, [coords], {coords: made.fingerprint})
    return size


def _copy_chunk(work: _Work, todo: _ToDo, coords: ChunkCoords, make: Callable[[], _Made | None]) -> _Count:
    """Take a chunk to where it belongs; one that is absent at the source is absent in the copy."""
    made = make()
    if made is not None:
        return _Count(1, todo.sink(coords, made))
    if coords in todo.there:
        raise _wrong(work, coords, "it is there, and not at the source")
    return _Count(1, 0)


# -------------------------------------------------------------------------- the same grid


def _moves(work: _Work, todos: Iterable[_ToDo], tell: _Tell) -> Generator[_Task, None, None]:
    """Go through chunks that are cut as at the source, as they come from there."""
    todo_of: dict[ChunkCoords, _ToDo] = {}

    def wanted() -> Iterator[ChunkCoords]:
        for todo in todos:
            tell(todo.done)
            todo_of.update(dict.fromkeys(todo.wanted, todo))
            yield from todo.wanted

    stored_chunks = work.source.stored_chunks(
        work.source_key, wanted(), range_size=max(1, _BYTES_IN_FLIGHT // work.in_flight), in_flight=work.in_flight
    )
    for coords, stored in stored_chunks:
        make = functools.partial(_made, work, coords, stored)
        yield functools.partial(_copy_chunk, work, todo_of.pop(coords), coords, make)


def _made(work: _Work, coords: ChunkCoords, stored: StoredChunk | None) -> _Made | None:
    """Make a chunk of the copy of the same chunk at the source."""
    if stored is None:
        return None
    if work.recoding is not None:
        data = stored.decoded()
        try:
            voxels = work.recoding.decoder.decode(data, size_of(coords))
        except CorruptDataError as exc:
            message = f"{stored.name}: {exc}"
            raise CorruptDataError(message) from exc
        return _encoded(work, work.recoding.encoder, coords, voxels)
    if work.gzip is None:  # never less readable than at the source
        gzip = stored.was_compressed and (bool(stored.suffix) or work.destination.says_encoding)
    else:
        gzip = work.gzip and _is_compressible(work)
    if stored.is_gzip and not work.verify:  # to look into it would take longer than to move it
        return _Made(stored, gzip, b"")
    data = stored.decoded()
    _check_length(work, coords, stored.name, len(data))
    return _Made(stored, gzip, _digest(data) if work.verify else b"")


def _check_length(work: _Work, coords: ChunkCoords, name: str, length: int) -> None:
    """Check that a chunk that is moved is not cut short, as far as its length tells."""
    expected = math.prod(size_of(coords)) * work.voxel_bytes
    if not length or (work.is_raw and length != expected):
        what = f"a raw chunk of {expected} bytes" if work.is_raw else "a chunk"
        message = f"{name}: {what} is {length} bytes long"
        raise CorruptDataError(message)


def _encoded(work: _Work, encoder: Codec, coords: ChunkCoords, voxels: NDArray[Any]) -> _Made:
    try:
        data = encoder.encode(voxels)
    except ValueError as exc:
        message = f"{work.display(coords)} cannot be encoded: {exc}"
        raise DataAccessError(message) from exc
    chunk = StoredChunk(data, is_gzip=False, was_compressed=False, decoded=lambda: data, name=work.display(coords))
    fingerprint = _voxel_digest(voxels) if work.verify and encoder.lossless else b""
    gzip = work.destination.says_encoding if work.gzip is None else work.gzip
    return _Made(chunk, gzip and _is_compressible(work), fingerprint)


def _is_compressible(work: _Work) -> bool:
    return work.mime_type not in INCOMPRESSIBLE_MIME_TYPES


# -------------------------------------------------------------------------- another grid


class _Block(NamedTuple):
    """Voxels that were read at the source, to be cut."""

    box: Box
    voxels: NDArray[Any]
    cells: Box
    """Of the source's grid."""

    present: NDArray[np.bool_]
    """In which of these a chunk was found."""


def _cuts(work: _Work, recoding: _Recoding, todos: Iterable[_ToDo], tell: _Tell) -> Generator[_Task, None, None]:
    """Go through chunks that are cut otherwise than at the source; while some are written, the next block is read."""
    for todo in todos:
        tell(todo.done)
        if not todo.wanted:
            continue
        block = _read(work, recoding, todo.wanted)
        for coords in todo.wanted:
            make = functools.partial(_cut, work, recoding, coords, block)
            yield functools.partial(_copy_chunk, work, todo, coords, make)


def _cut(work: _Work, recoding: _Recoding, coords: ChunkCoords, block: _Block) -> _Made | None:
    """Make a chunk of the copy of the voxels that were read."""
    box = Box.of(coords)
    if not block.present[_relative(_cells(work.source_grid, box), block.cells.start)].any():
        return None
    return _encoded(work, recoding.encoder, coords, block.voxels[_relative(box, block.box.start)])


def _read(work: _Work, recoding: _Recoding, coords: Iterable[ChunkCoords]) -> _Block:
    """Read the voxels of some chunks of the copy, which lie together."""
    boxes = [Box.of(each) for each in coords]
    box = Box(_extreme(min, [each.start for each in boxes]), _extreme(max, [each.stop for each in boxes]))
    grid, decoder = work.source_grid, recoding.decoder
    cells = _cells(grid, box)
    voxels = np.zeros((*box.shape, decoder.num_channels), decoder.dtype, order="F")
    present = np.zeros(cells.shape, bool)

    def paste(coords: ChunkCoords, data: bytes | None) -> None:
        if data is None:
            return
        whole = Box.of(coords)
        overlap = whole & box
        voxels[_relative(overlap, box.start)] = decoder.decode(data, whole.shape)[_relative(overlap, whole.start)]
        present[_relative(_cells(grid, whole), cells.start)] = True

    wanted = (grid.chunk(cell) for cell in _Part(cells).cells())
    for _ in work.source.fetch_chunks(work.source_key, wanted, decode=paste, in_flight=work.in_flight):
        pass
    return _Block(box, voxels, cells, present)


def _cells(grid: ChunkGrid, box: Box) -> Box:
    """Return the cells of a grid that a box of voxels touches."""
    axes = list(zip(box.start, box.stop, grid.voxel_offset, grid.chunk_size, strict=True))
    x0, y0, z0 = ((low - offset) // chunk for low, _, offset, chunk in axes)
    x1, y1, z1 = (-((offset - high) // chunk) for _, high, offset, chunk in axes)
    return Box((x0, y0, z0), (x1, y1, z1))


def _relative(box: Box, origin: Triple) -> tuple[slice, slice, slice]:
    x, y, z = (slice(low - zero, high - zero) for low, high, zero in zip(box.start, box.stop, origin, strict=True))
    return x, y, z


def _extreme(choose: Callable[[Iterable[int]], int], corners: Iterable[Triple]) -> Triple:
    x, y, z = map(choose, zip(*corners, strict=True))
    return x, y, z


def _block_shape(work: _Work) -> Triple:
    """Choose how many chunks are made at once: of few source chunks, and these whole, if memory allows it."""
    block = [1] * _AXES
    chunk, whole, made_of = work.grid.chunk_size, work.grid.shape, work.source_grid.chunk_size
    size = _chunk_voxels(work.grid) * work.voxel_bytes
    while 2 * size <= _BLOCK_BYTES:
        axes = [axis for axis in range(_AXES) if block[axis] < whole[axis]]
        if not axes:
            break
        axis = max(axes, key=lambda axis: made_of[axis] / (block[axis] * chunk[axis]))
        block[axis] *= 2
        size *= 2
    x, y, z = block
    return x, y, z


# -------------------------------------------------------------------------------- the parts


def _parts(work: _Work) -> Iterator[_Part]:
    """Cut a scale into what one task copies."""
    whole = _Part(Box((0, 0, 0), work.grid.shape))
    sharding = work.sharding
    if sharding is None:
        yield from whole.blocks(_group_shape(work))
        return
    bits = sharding.preshift_bits + sharding.minishard_bits
    id_bits = sum((count - 1).bit_length() for count in work.grid.shape)
    if sharding.hash != "identity" or id_bits > bits + sharding.shard_bits:
        yield from _scattered_parts(work.grid, sharding)
        return
    for part in whole.blocks(morton_block(work.grid.shape, bits)):
        yield replace(part, shard=_shard(work.grid, sharding, part.box.start))


def _group_shape(work: _Work) -> Triple:
    if work.source_grid != work.grid:
        return _block_shape(work)
    if work.source_is_sharded:
        return morton_block(work.grid.shape, _GROUP_BITS)
    z = min(work.grid.shape[2], _GROUP)
    y = min(work.grid.shape[1], _GROUP // z)
    x = min(work.grid.shape[0], _GROUP // z // y)
    return x, y, z


def _scattered_parts(grid: ChunkGrid, sharding: Sharding) -> Iterator[_Part]:
    """Go through the shards of a scale where each has chunks from everywhere.

    All chunks are gone through for some shards at once, again and again, rather than to keep all in memory.
    """
    box = Box((0, 0, 0), grid.shape)
    shards, passes = 1 << sharding.shard_bits, -(-math.prod(grid.shape) // _SCATTERED)
    step = -(-shards // passes)
    xs, ys, zs = map(range, grid.shape)
    for first in range(0, shards, step):
        found: dict[int, array[int]] = {}
        for i, cell in enumerate((x, y, z) for z in zs for y in ys for x in xs):
            shard = _shard(grid, sharding, cell)
            if first <= shard < first + step:
                found.setdefault(shard, array("Q")).append(i)
        for shard in sorted(found):
            yield _Part(box, found[shard], shard)


def _shard(grid: ChunkGrid, sharding: Sharding, cell: Triple) -> int:
    return sharding.locate(compressed_morton_code(cell, grid.shape))[0]


# ----------------------------------------------------------------------------- what was copied


def _check(work: _Work, wanted: Iterable[ChunkCoords], expected: Mapping[ChunkCoords, bytes]) -> None:
    """Read chunks of the copy back, and see that these are the expected ones, and no others."""

    def fingerprint(coords: ChunkCoords, data: bytes | None) -> bytes | None:
        if data is None or work.recoding is None:
            return None if data is None else _digest(data)
        encoder = work.recoding.encoder
        voxels = encoder.decode(data, size_of(coords))
        return _voxel_digest(voxels) if encoder.lossless else b""

    there = work.destination.fetch_chunks(work.key, wanted, decode=fingerprint, in_flight=work.in_flight)
    for coords, found in there:
        if found != expected.get(coords):
            what = "what is read back is not what was copied"
            if found is None or coords not in expected:
                what = "it is not there" if found is None else "it is there, and not at the source"
            raise _wrong(work, coords, what)


def _wrong(work: _Work, coords: ChunkCoords, what: str) -> CorruptDataError:
    return CorruptDataError(f"{work.display(coords)}: {what}")


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _voxel_digest(voxels: NDArray[Any]) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(voxels.T).data, digest_size=_DIGEST_BYTES).digest()


class _CopyProgress(Progress):
    """A progress bar of chunks, which tells bytes per second, too."""

    def __init__(self, title: str, total: int, shows: bool | None) -> None:
        super().__init__(title, total, shows)
        self._began = time.monotonic()
        self._size = 0

    def add(self, count: _Count) -> None:
        """Count what is done."""
        self._size += count.size
        rate = self._size / max(time.monotonic() - self._began, 1e-3)
        self.relative_update(count.chunks, f"{_readable(rate)}/s")


def _readable(size: float) -> str:
    """Show a number of bytes.

    Examples
    --------
    >>> _readable(3.2e6)
    '3.2 MB'
    """
    for unit in ("B", "kB", "MB"):
        if size < 1000:  # noqa: PLR2004 - as units are
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
