"""How a file or chunk is stored under exactly one of its names: jobs that write, compress, update and remove twins."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Collection

from precomputed_fs.codecs import INCOMPRESSIBLE_MIME_TYPES
from precomputed_fs.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    DataAccessError,
    NotFoundError,
    ReadOnlyError,
    ReplacedError,
)
from precomputed_fs.format.compression import (
    GZIP_ENCODING,
    GZIP_SUFFIX,
    gzip_compress,
    is_gzip,
    split_suffix,
)
from precomputed_fs.format.grid import ChunkCoords
from precomputed_fs.format.names import COMMON, VARIANTS, Variant, joined, suffixes_of
from precomputed_fs.format.scale_layout import ScaleLayout
from precomputed_fs.pyramid.finding import Finder
from precomputed_fs.pyramid.known import Known
from precomputed_fs.pyramid.late_writes import expect_end
from precomputed_fs.pyramid.options import Options
from precomputed_fs.pyramid.shard_writer import ShardWriter
from precomputed_fs.pyramid.stored import Stored
from precomputed_fs.pyramid.updates import Update
from precomputed_fs.store import jobs
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Body, Compute, Delete, Get, Job, List, Put
from precomputed_fs.store.url import check_relative_path

_TWIN_ROUNDS = 3  # times that an object is written if another process deletes it as a twin of its own
_MOST_LISTED = 1000  # names that one listing request returns at most


class Storer:
    """Stores the objects of one pyramid.

    Parameters
    ----------
    store : ObjectStore
    options : Options
    known : Known
    finder : Finder
    writer : ShardWriter
        Takes the chunks of sharded scales.
    """

    def __init__(self, store: ObjectStore, options: Options, known: Known, finder: Finder, writer: ShardWriter) -> None:
        self._store = store
        self._options = options
        self._known = known
        self._finder = finder
        self._writer = writer

    def checked(self, relative_path: str) -> str:
        """Check the path of an object to write.

        Raises
        ------
        ValueError
            If the path leaves the pyramid.
        ReadOnlyError
            If the protocol is read-only.
        """
        name, location = check_relative_path(relative_path), self._store.location
        if not location.writable:
            raise ReadOnlyError(
                f"{location.display(name)}: {location.links[0].protocol}:// is read-only here; write to where the data "
                "is stored"
            )
        self._store.open()
        return name

    # ---------------------------------------------------------------------------- compression

    def packed(self, stem: str, data: bytes, mime_type: str) -> Put:
        """Return the write of an object, compressed if the options say so; its name is `stem`, perhaps with a suffix.

        Bytes that are already gzip are always compressed again, because reading would otherwise undo
        their own gzip; except under a name with a suffix, which says that they are compressed.
        """
        is_named = bool(split_suffix(stem)[1])
        wanted = self._store.protocol.keeps_encoding if self._options.gzip is None else self._options.gzip
        wanted = wanted and mime_type.partition(";")[0].strip().lower() not in INCOMPRESSIBLE_MIME_TYPES
        if is_named or not (wanted or is_gzip(data)):
            return Put(stem, data, mime_type)
        return self.gzipped(stem, gzip_compress(data, self._options.compresslevel), mime_type)

    def gzipped(self, stem: str, data: bytes, mime_type: str) -> Put:
        """Return the write of gzipped bytes, marked by Content-Encoding, or else by a suffix."""
        if self._store.protocol.keeps_encoding:
            return Put(stem, data, mime_type, GZIP_ENCODING)
        return Put(stem + GZIP_SUFFIX, data, mime_type)

    def _packed_like(self, found: Stored, stem: str, data: bytes, mime_type: str) -> Put:
        """Compress a chunk like the one that it replaces, if our writer has that compression."""
        if found.suffix == GZIP_SUFFIX:
            return Put(stem + GZIP_SUFFIX, gzip_compress(data, self._options.compresslevel), mime_type)
        if not found.suffix and not self._store.protocol.keeps_encoding and not is_gzip(data):
            return Put(stem, data, mime_type)
        return self.packed(stem, data, mime_type)

    # ---------------------------------------------------------------------------------- files

    def file(self, put: Put, stem: str, listed: Collection[str] | None, *, overwrite: bool) -> Job[None]:
        """Store a file.

        Parameters
        ----------
        put : Put
            See `packed`.
        stem : str
            The name without suffix.
        listed : collection of str or None
            The existing names of the file; None: look them up.
        """
        others = (yield from self.other_names(stem, put.name)) if listed is None else sorted({*listed} - {put.name})
        yield from self._put(stem, put, others, overwrite=overwrite)

    def one_of_many(self, folder: str, name: str, put: Put, *, overwrite: bool) -> Job[None]:
        """Store a file of a folder with many alike: its twins are looked for under the suffixes that others have.

        Parameters
        ----------
        put : Put
            See `packed`.
        """
        stem = joined(folder, name)
        suffixes = (yield from self._finder.suffixes_to_clear(folder)) if suffixes_of(stem) != ("",) else ()
        others = [stem + suffix for suffix in suffixes if stem + suffix != put.name]
        yield from self._put(stem, put, others, overwrite=overwrite)
        self._known.names_in(folder).note(Variant(True, put.name.removeprefix(stem)))

    def file_update(self, stem: str, change: Callable[[bytes], bytes], mime_type: str) -> Job[None]:
        """Change a file: replace only the version that was read, and read again if another writer was faster.

        Parameters
        ----------
        change : callable
            Makes the new content from the old one.
        """

        def attempt() -> Job[None]:
            found = yield from self._finder.file(stem, versioned=True)
            data: bytes = yield Compute(lambda: change(found.decoded()))
            put: Put = yield Compute(functools.partial(self._packed_like, found, stem, data, mime_type))
            yield from self._replace(found, put)

        yield from self._until_replaced(stem, attempt)

    def other_names(self, stem: str, name: str = "") -> Job[list[str]]:
        """List the names that a file may have, except the one to write."""
        names = {stem + suffix for suffix in suffixes_of(stem)} - {name}
        if not self._store.protocol.cheap_misses:
            parent, slash, _ = stem.rpartition("/")
            listed: list[str] = []
            with contextlib.suppress(AccessDeniedError):  # credentials without list permission may still write
                listed = yield List(stem, _MOST_LISTED)
            names &= {f"{parent}{slash}{entry}" for entry in listed}
        return sorted(names)

    # --------------------------------------------------------------------------------- chunks

    def chunk(
        self, key: str, coords: ChunkCoords, make: Callable[[], bytes | Update], mime_type: str, *, overwrite: bool
    ) -> Job[None]:
        """Store a chunk, or change a part of one.

        Parameters
        ----------
        make : callable
            Makes the bytes or the change; called in a thread of the pool.
        """
        layout = yield from self._finder.layout(key)
        data: bytes | Update = yield Compute(make)
        if layout.sharding is not None and layout.grid is not None:
            chunk_id = layout.grid.chunk_id(coords)
            expect_end()
            if isinstance(data, Update):
                yield from self._writer.update(key, layout.sharding, chunk_id, coords, data)
            else:
                yield from self._writer.add(key, layout.sharding, chunk_id, data, overwrite=overwrite)
            return
        try:
            if isinstance(data, Update):
                yield from self._update(key, layout, coords, data, mime_type)
            else:
                yield from self._replace_whole(key, coords, data, mime_type, overwrite=overwrite)
        finally:
            self._finder.forget(key, coords)

    def _replace_whole(
        self, key: str, coords: ChunkCoords, data: bytes, mime_type: str, *, overwrite: bool
    ) -> Job[None]:
        stem = Variant(self._options.flat, "").name(key, coords)
        put: Put = yield Compute(functools.partial(self.packed, stem, data, mime_type))
        variants = yield from self._finder.variants_to_clear(key)
        others = [name for variant in variants if (name := variant.name(key, coords)) != put.name]
        yield from self._put(VARIANTS[0].name(key, coords), put, others, overwrite=overwrite)
        self._note(key, put)

    def chunk_like(
        self, found: Stored, key: str, at: ChunkCoords, coords: ChunkCoords, *, data: bytes, mime_type: str
    ) -> Job[None]:
        """Store a chunk in the layout and compression of another one, replacing any chunk there.

        Parameters
        ----------
        found : Stored
            The other chunk.
        at : tuple of int
            Its coordinates.
        """
        flat = found.name == Variant(True, found.suffix).name(key, at)
        stem = Variant(flat, "").name(key, coords)
        put: Put = yield Compute(functools.partial(self._packed_like, found, stem, data, mime_type))
        try:
            yield from jobs.write(put)
        finally:
            self._finder.forget(key, coords)
        self._note(key, put, flat=flat)

    def _note(self, key: str, put: Put, *, flat: bool | None = None) -> None:
        """Remember how a chunk of a scale is named."""
        variant = Variant(self._options.flat if flat is None else flat, split_suffix(put.name)[1])
        self._known.names_in(key).note(variant)

    def _update(self, key: str, layout: ScaleLayout, coords: ChunkCoords, update: Update, mime_type: str) -> Job[None]:
        """Change part of a chunk: replace only the version that was read, and keep its name."""
        self._finder.checked(key)

        def attempt() -> Job[None]:
            found: Stored | None = None
            with contextlib.suppress(NotFoundError):
                found = yield from self._finder.unsharded(key, layout, coords, versioned=True)
            data: bytes | None = yield Compute(functools.partial(_updated, coords, found, update))
            if data is None:
                return
            if found is None:
                yield from self._put_first(key, coords, data, mime_type)
                return
            flat = found.name == Variant(True, found.suffix).name(key, coords)
            stem = Variant(flat, "").name(key, coords)
            put: Put = yield Compute(functools.partial(self._packed_like, found, stem, data, mime_type))
            if put.name != found.name:
                self._note(key, put, flat=flat)  # even if another writer creates it first
            yield from self._replace(found, put)

        yield from self._until_replaced(VARIANTS[0].name(key, coords), attempt)

    def _until_replaced(self, stem: str, attempt: Callable[[], Job[None]]) -> Job[None]:
        """Change an object, and try again if another writer has changed it meanwhile."""
        failure: Exception | None = None
        with (yield from self._store.name_lock(stem).begin()):
            for pause in jobs.conflicts():
                yield pause
                try:
                    yield from attempt()
                except (AlreadyExistsError, ReplacedError) as exc:
                    failure = exc
                else:
                    return
        shown = self._store.location.display(stem)
        raise DataAccessError(f"{shown}: another writer changed it again and again; try again") from failure

    def _replace(self, found: Stored, put: Put) -> Job[None]:
        """Replace the version of an object from which the new one was made."""
        if not self._store.protocol.can_replace:
            raise self.in_the_way(found.name, overwrite=True)
        if put.name == found.name:
            yield from jobs.write(dataclasses.replace(put, replacing=found.body.version))
            return
        yield from jobs.write(dataclasses.replace(put, create=True))
        try:
            yield from jobs.delete(found.name, found.body.version)
        except ReplacedError:  # ours was made from the version before
            if (yield from _take_back(put)):
                raise

    def _put_first(self, key: str, coords: ChunkCoords, data: bytes, mime_type: str) -> Job[None]:
        """Store a chunk that must not exist yet, not even under another name that a writer may have used meanwhile."""
        stem = Variant(self._options.flat, "").name(key, coords)
        put: Put = yield Compute(functools.partial(self.packed, stem, data, mime_type))
        yield from jobs.write(dataclasses.replace(put, create=True))
        self._note(key, put)
        variants = set(VARIANTS[:COMMON]).intersection((yield from self._finder.variants_to_clear(key)))
        others = {variant.name(key, coords) for variant in variants} - {put.name}
        if (yield from jobs.any_exists(others)) and (yield from _take_back(put)):
            shown = self._store.location.display(put.name)
            raise ReplacedError(f"{shown}: another writer has stored it under another name")

    # ---------------------------------------------------------------------------------- twins

    def _put(self, stem: str, put: Put, others: list[str], *, overwrite: bool) -> Job[None]:
        """Write an object and make sure that it has no twin.

        Jobs take turns at the names of one object. Another process may delete ours as a twin of the
        object that it writes under another name, so we check at the end and write again.
        """
        replaceable = self._store.protocol.can_replace
        with (yield from self._store.name_lock(stem).begin()):
            if not overwrite or not replaceable:
                for other in others if replaceable else (put.name, *others):
                    if (yield from jobs.exists(other)):
                        raise self.in_the_way(other, overwrite=overwrite)
            for _ in range(_TWIN_ROUNDS):
                try:
                    yield from jobs.write(dataclasses.replace(put, create=not overwrite))
                except AlreadyExistsError as exc:
                    raise self.in_the_way(put.name, overwrite=overwrite) from exc
                if not overwrite or not replaceable:
                    return
                for other in others:  # the new data is in place before the old twins go
                    yield Delete(other)
                if not others or (yield from jobs.exists(put.name)):
                    return
            yield from jobs.write(put)  # stop here: two writers that kept on would delete each other's object

    def in_the_way(self, name: str, *, overwrite: bool) -> DataAccessError:
        """Make the error for an object that must not be replaced, or cannot be."""
        shown = self._store.location.display(name)
        if overwrite:
            return DataAccessError(f"{shown} exists, and this kind of archive cannot replace it")
        return AlreadyExistsError(f"{shown} exists; pass overwrite=True to replace it")


def _updated(coords: ChunkCoords, found: Stored | None, update: Update) -> bytes | None:
    if found is None:
        return update.apply(coords, None, [update.patch])
    data = found.decoded()
    with found.naming():
        return update.apply(coords, data, [update.patch])


def _take_back(put: Put) -> Job[bool]:
    """Delete the object that was just stored; False if another writer has built on it, so that our change stays."""
    try:
        ours: Body = yield Get(put.name, versioned=True)
    except NotFoundError:
        return True
    if ours.data != put.data:
        return False
    yield from jobs.delete(put.name, ours.version)
    return True
