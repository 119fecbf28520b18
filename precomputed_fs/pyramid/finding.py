"""How a file or chunk is found: the jobs that look under its possible names, or in its shard."""

import contextlib
import functools
import posixpath
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, TypeVar

from precomputed_fs.errors import AccessDeniedError, CorruptDataError, DataAccessError, NotFoundError, ReadOnlyError
from precomputed_fs.format.compression import GZIP_SUFFIX, SUFFIXES, TooLargeError, split_suffix, stored_limit
from precomputed_fs.format.grid import (
    ChunkCoords,
    chunk_coords,
    chunk_name,
    layout_of,
    size_of,
)
from precomputed_fs.format.info_text import parse_info
from precomputed_fs.format.names import COMMON, VARIANTS, Variant, joined, suffixes_of
from precomputed_fs.format.scale_layout import Pieces, ScaleLayout, scale_layout
from precomputed_fs.pyramid.chunk_cache import Kept, Place
from precomputed_fs.pyramid.known import InfoState, Known, ScaleNames
from precomputed_fs.pyramid.options import Options
from precomputed_fs.pyramid.shard_finding import ShardFinder
from precomputed_fs.pyramid.shard_writer import ShardWriter
from precomputed_fs.pyramid.shards import ShardReader
from precomputed_fs.pyramid.stored import Limit, Stored, chunk_limit, file_limit, raw_length
from precomputed_fs.store import jobs
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Body, ChangedLately, Get, Job, List
from precomputed_fs.store.url import check_relative_path

_T = TypeVar("_T")

PiecesOf = Callable[[ChunkCoords], Pieces | None]
"""Says which bytes of a raw chunk suffice; None: all are needed."""

_SAMPLED_NAMES = 100  # entries of a scale that are listed to learn its names, in one request
_NO_PLACE = Place("")
_LOOKS = 5  # further times that an object is looked for while names are changing


class Finder:
    """Finds the objects of one pyramid.

    Parameters
    ----------
    store : ObjectStore
    options : Options
    known : Known
    shards : ShardReader
    writer : ShardWriter
        Chunks in its buffer are found, too.
    """

    def __init__(
        self, store: ObjectStore, options: Options, known: Known, shards: ShardReader, writer: ShardWriter
    ) -> None:
        self._store = store
        self._options = options
        self._known = known
        self.in_shards = ShardFinder(store, options, shards, writer)
        self._kept = shards.kept
        self._location = store.location
        self._can_write = self._location.writable

    def checked(self, relative_path: str) -> str:
        """Check the path of an object to read.

        Raises
        ------
        ValueError
            If the path leaves the pyramid.
        ReadOnlyError
            If this is an archive that is being written.
        """
        name = check_relative_path(relative_path)
        if not self._location.readable:
            raise ReadOnlyError(f"{self._location.display(name)}: this archive is open for writing")
        self._store.open()
        return name

    # ---------------------------------------------------------------------------------- files

    def file(self, name: str, *, versioned: bool = False) -> Job[Stored]:
        """Find a file."""
        suffixes = suffixes_of(name)
        limit = file_limit(name, self._options)
        found = yield from self._first(suffixes, _by_suffix(name, limit, versioned=versioned), limit)
        if found is None:
            raise self._not_found(name, len(suffixes))
        suffix, body = found
        return Stored(self._location, name + suffix, body, suffix, limit, sniff=not split_suffix(name)[1])

    def one_of_many(self, folder: str, name: str, *, is_uniform: bool = False) -> Job[Stored]:
        """Find a file of a folder with many alike: first under the suffixes that others had.

        Parameters
        ----------
        is_uniform : bool
            Whether all of them have one suffix, so that an absent one costs a request once another was found.
        """
        path, names = joined(folder, name), self._known.names_in(folder)
        suffixes: Iterable[str] = self._suffixes_to_read(path, names, is_uniform=is_uniform)
        if self._store.protocol.cheap_misses:
            suffixes = list(suffixes)
        limit = file_limit("", self._options)
        denials: list[AccessDeniedError] = []
        found = yield from self._first(suffixes, _by_suffix(path, limit), limit, denials)
        if found is None:
            failure = (
                denials[0]
                if denials
                else self._not_found(path, 1 if is_uniform and names.seen else len(suffixes_of(path)))
            )
            denials.clear()
            try:
                raise failure
            finally:
                del failure  # its traceback holds this frame, which would keep everything in it alive
        suffix, body = found
        names.note(Variant(True, suffix))
        return Stored(self._location, path + suffix, body, suffix, limit)

    def info(self) -> Job[InfoState]:
        """Read `info`, once; the state says if it does not exist or may not be read."""
        state = self._known.current

        def load() -> Job[InfoState | None]:
            try:
                text = (yield from self.file("info")).decoded()
                state.info = parse_info(text, self._location.display("info"), self._options.max_info_bytes)
            except (NotFoundError, AccessDeniedError) as exc:  # S3's answer without list permission
                state.info, state.error = {}, exc.alone()
            return state

        if state.info is None:
            yield from self._store.once(state, lambda: None if state.info is None else state, load)
        return state

    def layout(self, key: str) -> Job[ScaleLayout]:
        """Find out how a scale is stored: from `info`, which is read once; defaults if there is none."""
        state = self._known.current
        layout = state.layouts.get(key)
        if layout is not None:
            return layout
        if not self._location.readable:
            layout = scale_layout(state.info or {}, key)
            if layout.sharding is not None:
                shown = self._location.display(key)
                raise ReadOnlyError(f"{shown} is sharded: shards cannot be written to an archive")
            return layout
        state = yield from self.info()
        layout = scale_layout(state.info or {}, key.removesuffix("/"), self._location.display("info"))
        if layout.sharding is not None and layout.grid is not None:
            most = chunk_limit(layout, layout.grid.chunk_size, self._options).size
            layout = layout.with_largest_chunk(stored_limit(most))
        state.layouts[key] = layout
        return layout

    # --------------------------------------------------------------------------------- chunks

    def chunk(self, key: str, coords: ChunkCoords) -> Job[Stored]:
        """Find a chunk."""
        layout = yield from self.layout(key)
        if layout.sharding is None:
            return (yield from self._kept_or_unsharded(key, layout, coords))
        found: Stored | None = None
        if layout.grid is not None:
            described = functools.partial(self._as_chunk, layout, coords)
            found = yield from self.in_shards.one(key, layout.sharding, layout.grid.chunk_id(coords), described)
        if found is None:
            raise NotFoundError(f"{self._location.display(key)} is sharded, and no shard has chunk {coords}")
        return found

    def chunk_exists(self, key: str, coords: ChunkCoords) -> Job[bool]:
        """Tell whether there is a chunk."""
        layout = yield from self.layout(key)
        if layout.sharding is None:
            variants = self._variants_to_read(self._known.names_in(key))
            return (yield from jobs.any_exists(variant.name(key, coords) for variant in variants))
        if layout.grid is None:
            return False
        return (yield from self.in_shards.exists(key, layout.sharding, layout.grid.chunk_id(coords)))

    def chunks(
        self,
        key: str,
        layout: ScaleLayout,
        wanted: Iterable[Iterable[int]],
        *,
        window: int,
        range_size: int,
        pieces_of: PiecesOf | None = None,
    ) -> Iterator[Job[Any]]:
        """Plan how to find chunks: jobs that return lists of ``(coords, Stored or None)``, or follow-up jobs.

        Parameters
        ----------
        window : int
            How many chunks of a sharded scale are planned at once at first.
        range_size : int
            Most bytes of a shard that are read at once.
        pieces_of : callable, optional
            See `Pyramid.fetch_chunks`.
        """
        checked = map(chunk_coords, wanted)
        sharding, grid = layout.sharding, layout.grid
        if sharding is None or grid is None:
            return (self._unsharded_or_none(key, layout, coords, pieces_of) for coords in checked)

        numbered = ((grid.chunk_id(coords), coords) for coords in checked)
        described = functools.partial(self._as_chunk, layout)
        return self.in_shards.many(key, sharding, numbered, described, window=window, range_size=range_size)

    def _as_chunk(self, layout: ScaleLayout, coords: ChunkCoords, stored: Stored) -> Stored:
        return stored.as_chunk(layout, coords, chunk_limit(layout, size_of(coords), self._options))

    def forget(self, key: str, coords: ChunkCoords) -> None:
        """Drop a chunk that is an object of its own from the cache, since it was written, or may have been."""
        self._kept.forget(self._place(key), coords)

    def _place(self, key: str) -> Place:
        """Return where the cache has the chunks of a scale that are objects of their own."""
        return Place(self._location.display(key)) if self._kept.limit else _NO_PLACE

    def _unsharded_or_none(
        self, key: str, layout: ScaleLayout, coords: ChunkCoords, pieces_of: PiecesOf | None
    ) -> Job[list[tuple[ChunkCoords, Stored | None]]]:
        try:
            if pieces_of is not None and not self._kept.limit:
                found = yield from self._some_pieces(key, layout, coords, pieces_of)
            else:
                found = yield from self._kept_or_unsharded(key, layout, coords)
        except NotFoundError:
            return [(coords, None)]
        return [(coords, found)]

    def _kept_or_unsharded(self, key: str, layout: ScaleLayout, coords: ChunkCoords) -> Job[Stored]:
        place = self._place(key)
        kept = self._kept.get(place, coords)
        if kept is None:
            since = self._kept.changes
            try:
                kept = Kept((yield from self.unsharded(key, layout, coords)))
            except NotFoundError:
                self._kept.put(place, coords, None, since)
                raise
            self._kept.put(place, coords, kept.stored, since)
        if kept.stored is None:
            raise self._not_found(f"{key}/{chunk_name(coords)}", len(self._variants_to_read(self._known.names_in(key))))
        return kept.stored

    def _some_pieces(self, key: str, layout: ScaleLayout, coords: ChunkCoords, pieces_of: PiecesOf) -> Job[Stored]:
        """Find pieces of a raw chunk, if chunks are stored plainly, or all of it.

        Where it would cost a request to ask for pieces in vain, one chunk tells how all are stored, and others wait.
        """
        names, pieces = self._known.names_in(key), pieces_of(coords)
        if pieces is None or layout.raw_voxel_bytes is None or names.is_plain is False:
            return (yield from self.unsharded(key, layout, coords))
        if names.is_plain or self._store.protocol.cheap_misses:
            return (yield from self.unsharded(key, layout, coords, pieces=pieces))
        found: list[Stored] = []

        def load() -> Job[bool]:
            try:
                found.append((yield from self.unsharded(key, layout, coords)))
            finally:
                names.has_told = True
            return True

        if not names.has_told:
            yield from self._store.once(("how chunks are stored", key), lambda: names.has_told or None, load)
        if found:
            return found[0]
        has_pieces = self._known.names_in(key).is_plain  # by now
        return (yield from self.unsharded(key, layout, coords, pieces=pieces if has_pieces else None))

    def unsharded(
        self,
        key: str,
        layout: ScaleLayout,
        coords: ChunkCoords,
        *,
        versioned: bool = False,
        pieces: Pieces | None = None,
    ) -> Job[Stored]:
        """Find a chunk that is an object of its own, or pieces of it where it is not compressed."""
        names = self._known.names_in(key)
        to_read = names.to_read
        if to_read is None or to_read[0] is not names.seen:
            to_read = names.to_read = names.seen, self._variants_to_read(names)
        variants = to_read[1]
        limit = chunk_limit(layout, size_of(coords), self._options)
        denials: list[AccessDeniedError] = []
        length = raw_length(layout, coords)
        request_of = _asking_for(key, coords, stored_limit(limit.size), pieces, length, versioned=versioned)
        found = yield from self._first(variants, request_of, limit, denials)
        if found is not None:
            variant, body = found
            if variant not in names.seen:
                names.note(variant)
            if pieces:
                names.is_plain = body.is_pieces
            elif length is not None and names.is_plain is None:
                names.is_plain = len(body) == length and not (variant.suffix or body.content_encoding)
            name = variant.name(key, coords)
            return Stored(
                self._location, name, body, variant.suffix, limit, length, pieces=pieces if body.is_pieces else None
            )
        failure: DataAccessError = self._not_found(f"{key}/{chunk_name(coords)}", len(variants))
        if denials:
            failure = denials[0]
            denials.clear()
        elif isinstance(error := self._known.current.error, AccessDeniedError):
            failure = error.alone()  # the chunk may be in a shard that only `info` tells of
        try:
            raise failure
        finally:
            del failure  # its traceback holds this frame, which would keep everything in it alive

    # ---------------------------------------------------------------------------- name by name

    def _first(
        self,
        variants: Iterable[_T],
        request_of: Callable[[_T], Get],
        limit: Limit,
        denials: list[AccessDeniedError] | None = None,
    ) -> Job[tuple[_T, Body] | None]:
        """Read an object under the first of its names that exists.

        A writer may just be replacing one common name by another. If misses are cheap, the common names are looked for
        again while names change; elsewhere, an object keeps its name.

        Parameters
        ----------
        denials : list, optional
            For a chunk: collects denials, which S3 answers for absent objects to credentials without list permission.
        """
        for look in range(_LOOKS + 1):
            for variant in variants:
                try:
                    body: Body = yield request_of(variant)
                except DataAccessError as exc:
                    self._check_absent(exc, limit, denials)
                else:
                    return variant, body
            if not self._store.protocol.cheap_misses or look == _LOOKS:
                break
            variants = list(variants)[:COMMON]
            if not any(
                (yield [ChangedLately(folder) for folder in _folders_of(request_of(one).name for one in variants)])
            ):
                break
        return None

    def _check_absent(self, exc: DataAccessError, limit: Limit, denials: list[AccessDeniedError] | None) -> None:
        """Raise a failure, unless it means that there is no object of this name."""
        failure: DataAccessError = exc
        if isinstance(exc, TooLargeError):
            failure = CorruptDataError(f"{exc}; {limit.reason}")
            failure.__cause__ = exc
        elif denials is not None:
            knows_info = self._known.current.error is None
            denied_is_missing = self._store.denied_is_missing
            failure = jobs.chunk_failure(exc, denied_is_missing=denied_is_missing, knows_info=knows_info)
            if isinstance(failure, AccessDeniedError):
                denials.append(failure)
                return
        if isinstance(failure, NotFoundError) and not failure.is_of_bucket:
            return
        try:
            raise failure
        finally:
            del exc, failure  # their tracebacks hold this frame, which would keep everything in it alive

    # ---------------------------------------------------------------------------------- names

    def _variants_to_read(self, names: ScaleNames) -> Collection[Variant]:
        """Choose the names to ask for, so that the usual chunk of a scale takes one request.

        Once one chunk of a scale was found, others are looked for under the same kind of name; and
        under those that our own writer uses, which may have replaced some of them.
        """
        known = names.known()
        if self._store.protocol.cheap_misses or not known:
            return VARIANTS
        return dict.fromkeys((*known, *self.own_variants())) if self._can_write else known

    def _suffixes_to_read(self, path: str, names: ScaleNames, *, is_uniform: bool) -> Iterator[str]:
        """Choose the suffixes to ask for; of uniform files, what is found meanwhile counts."""
        for suffix in dict.fromkeys((*(variant.suffix for variant in names.seen), *suffixes_of(path))):
            used = {variant.suffix for variant in (*names.seen, *self.own_variants())}
            if not (is_uniform and names.seen) or self._store.protocol.cheap_misses or suffix in used:
                yield suffix

    def own_variants(self) -> list[Variant]:
        """Return the kinds of names that our own writer uses."""
        if not self._can_write:
            return []
        suffixes = ("",) if self._store.protocol.keeps_encoding else ("", GZIP_SUFFIX)
        return [Variant(self._options.flat, suffix) for suffix in suffixes]

    def variants_to_clear(self, key: str) -> Job[Collection[Variant]]:
        """Choose the names under which a chunk to be written may have a twin.

        If a miss costs a request, these are the kinds of names that the scale is known to use: from
        earlier reads, and from a listing of some entries before the first write.
        """
        if self._store.protocol.cheap_misses:
            return VARIANTS
        names = self._known.names_in(key)
        with contextlib.suppress(AccessDeniedError, NotFoundError):  # credentials without list permission may write
            yield from self._sample(key, names)
        return dict.fromkeys((*names.known(), *self.own_variants()))

    def suffixes_to_clear(self, folder: str) -> Job[Collection[str]]:
        """Choose the suffixes with which a file to be written, one of many in a folder, may have a twin."""
        if self._store.protocol.cheap_misses:
            return SUFFIXES
        names = self._known.names_in(folder)
        if not names.sampled:
            names.sampled = True
            with contextlib.suppress(AccessDeniedError, NotFoundError):
                for entry in (yield List(joined(folder, ""), _SAMPLED_NAMES)):
                    names.note(Variant(True, split_suffix(entry)[1]))
        return dict.fromkeys(variant.suffix for variant in (*names.seen, *self.own_variants()))

    def _sample(self, key: str, names: ScaleNames) -> Job[None]:
        """List some entries of a scale, once, to find out how its chunks are named."""
        if names.sampled:
            return
        names.sampled = True
        for entry in (yield List(f"{key}/", _SAMPLED_NAMES)):
            name, suffix = split_suffix(entry)
            flat = layout_of(name)
            if flat:
                names.note(Variant(flat, suffix))
            elif flat is not None and not suffix:
                names.folders = True
                names.seen = [*names.seen]

    def _not_found(self, name: str, names: int) -> NotFoundError:
        question = (
            name == "info" and self._location.mistaken
        ) or "is the pyramid's URL right, and was all of it uploaded?"
        return NotFoundError(f"{self._location.display(name)} does not exist; {question} (looked under {names} names)")


def _by_suffix(name: str, limit: Limit, *, versioned: bool = False) -> Callable[[str], Get]:
    """Return the request for a file under each suffix."""
    most = stored_limit(limit.size)
    return lambda suffix: Get(name + suffix, limit=most, versioned=versioned)


def _asking_for(
    key: str, coords: ChunkCoords, limit: int, pieces: Pieces | None, length: int | None, *, versioned: bool
) -> Callable[[Variant], Get]:
    """Return the request for a chunk under each of its names; for pieces only where it cannot be compressed."""

    def request_of(variant: Variant) -> Get:
        name = variant.name(key, coords)
        if pieces and length and not variant.suffix:
            return Get(name, min(pieces)[0], max(pieces)[1], limit, pieces=pieces, size=length)
        return Get(name, limit=limit, versioned=versioned)

    return request_of


def _folders_of(names: Iterable[str]) -> set[str]:
    """Return the folders of objects, and their parents."""
    folders = set(map(posixpath.dirname, names))
    return folders | set(map(posixpath.dirname, folders))
