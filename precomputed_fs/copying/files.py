"""How the files of a folder are copied as they are stored: those that are not there yet, a page of a listing at a time.

Where both stores say alike how a file is compressed, it has the same name and bytes. Where one says it by
Content-Encoding and the other by a suffix, gzip moves from one to the other as that of chunks does.
"""

import contextlib
import functools
import hashlib
import itertools
import mmap
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.copying.plan import BYTES_IN_FLIGHT, LEAST_IN_FLIGHT, LOCAL_THREADS
from precomputed_fs.copying.workers import Count, OnProgress, Submit, run_tasks, threads
from precomputed_fs.errors import AccessDeniedError, CorruptDataError, NoRangesError, NotFoundError
from precomputed_fs.format.compression import GZIP_SUFFIX, gzip_compress, split_suffix
from precomputed_fs.pyramid import folders
from precomputed_fs.pyramid.batches import IN_FLIGHT
from precomputed_fs.pyramid.buffers import OCTET_STREAM
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.pyramid.stored import Stored, file_limit
from precomputed_fs.store import jobs
from precomputed_fs.store.requests import Body, Get, Job, Listed, Put

_JSON_TYPE = "application/json"
_IS_JSON = re.compile(r"(?:.*/)?(?:info|[^/]*\.json|\d+:\d+)", re.DOTALL)  # the last: manifests of legacy meshes
_PAGE = 1000  # names that are looked up at once
_SIZES = (1 << 19, 1 << 23, 1 << 25)  # bytes, up to which files are copied with each other
_RANGE = 1 << 23  # bytes of a larger file that are read at once
_MARK = "S16"


@dataclass(frozen=True, slots=True)
class FolderCopy:
    """How the files of a folder are copied. It can be pickled to any process."""

    source: Pyramid
    destination: Pyramid
    path: str
    """Of the folder, in both pyramids."""

    names: tuple[str, ...] | None
    """The files that may be there, where the source cannot list them."""

    gzip: bool | None
    verify: bool

    resumes: bool = False
    """Whether an earlier run may have copied some of it."""

    home: int = field(default_factory=os.getpid)
    """The process that made the plan."""

    @property
    def threads(self) -> int:
        """The number of concurrent writes."""
        return IN_FLIGHT if self.destination.is_remote else LOCAL_THREADS

    @property
    def keeps_bytes(self) -> bool:
        """Whether each file has the same name and bytes in both places."""
        return self.gzip is not False and self.source.keeps_encoding == self.destination.keeps_encoding

    def mark(self, listed: Listed) -> bytes:
        """Return what tells a file from others, whether the source or the destination lists it."""
        has_size = self.keeps_bytes and self.names is None
        told = f"{listed.size} {listed.name}" if has_size else split_suffix(listed.name)[0]
        return hashlib.blake2b(told.encode(errors="surrogateescape"), digest_size=15).digest() + b"\1"


# ------------------------------------------------------------------------------------------------------------ the files


def pages_of(copy: FolderCopy) -> Iterator[Sequence[Listed]]:
    """Yield the files that are to be copied, or verified, some at a time."""
    if copy.names is None:
        pages: Iterator[Sequence[Listed]] = folders.pages(copy.source, copy.path)
    else:
        pages = _present(copy.source, copy.names)
    if not copy.resumes or copy.verify:
        yield from pages
        return
    there = _marks(copy)
    for page in pages:
        yield [listed for listed in page if not _contains(there, copy.mark(listed))]


def _present(source: Pyramid, names: Sequence[str]) -> Iterator[Sequence[Listed]]:
    """Yield those of some files that exist."""
    for first in range(0, len(names), _PAGE):
        found = source.store.run_many(map(_existing, names[first : first + _PAGE]), IN_FLIGHT)
        yield [*itertools.chain.from_iterable(found)]


def _existing(name: str) -> Job[list[Listed]]:
    return [Listed(name, None)] if (yield from jobs.exists(name)) else []


def _marks(copy: FolderCopy) -> NDArray[np.bytes_]:
    """Return the sorted marks of what the destination has: 16 bytes for a file, of which there may be millions."""
    marks = bytearray()
    with contextlib.suppress(AccessDeniedError):  # credentials without list permission may still write
        for page in folders.pages(copy.destination, copy.path):
            marks += b"".join(map(copy.mark, page))
    return np.sort(np.frombuffer(marks, _MARK))


def _contains(marks: NDArray[np.bytes_], mark: bytes) -> bool:
    at = int(np.searchsorted(marks, np.bytes_(mark)))
    return at < len(marks) and bytes(marks[at]) == mark


# ------------------------------------------------------------------------------------------------------------- copying


def copy_folder(copy: FolderCopy, on_progress: OnProgress) -> None:
    """Copy the files of a folder in this process."""
    with threads(copy.threads) as submit:
        for page in pages_of(copy):
            on_progress(Count(0, 0, len(page)))
            copy_files(copy, page, submit, on_progress)


def copy_files(copy: FolderCopy, files: Iterable[Listed], submit: Submit, on_progress: OnProgress) -> None:
    """Copy some files."""
    groups: dict[int | None, list[Listed]] = {}
    for listed in files:
        groups.setdefault(_group(copy, listed), []).append(listed)
    for listed in groups.pop(None, ()):
        on_progress(_copy_large(copy, listed))
    for limit, group in groups.items():
        in_flight = min(IN_FLIGHT, BYTES_IN_FLIGHT // limit) if limit else LEAST_IN_FLIGHT
        found = copy.source.store.run_many((_reading(copy.source, listed.name) for listed in group), in_flight)
        tasks = (functools.partial(_copy_file, copy, stored) for results in found for stored in results)
        with contextlib.closing(found):
            run_tasks(submit, tasks, min(copy.threads, in_flight), on_progress)


def _group(copy: FolderCopy, listed: Listed) -> int | None:
    """Return the most bytes of the files that one is copied along with: 0 if none is known, None for large files."""
    if listed.size is None:
        return 0
    limit = next((limit for limit in _SIZES if listed.size <= limit), None)
    is_as_it_is = copy.keeps_bytes or not split_suffix(listed.name)[1]
    return limit if is_as_it_is else limit or 0


def _reading(pyramid: Pyramid, name: str) -> Job[list[Stored | None]]:
    """Read a file under its exact name; None if it has been deleted since it was listed."""
    try:
        body: Body = yield Get(name, limit=file_limit(name, pyramid.options).size)
    except NotFoundError:
        return [None]
    return [_stored(pyramid, name, body)]


def _stored(pyramid: Pyramid, name: str, body: Body) -> Stored:
    return Stored(pyramid.location, name, body, split_suffix(name)[1], file_limit(name, pyramid.options), sniff=False)


def _copy_file(copy: FolderCopy, stored: Stored | None) -> Count:
    """Store a file, unless it is only to be verified; and verify it."""
    if stored is None:
        return Count(1, 0)
    put = _put(copy, stored)
    size = _write(copy, put)
    if copy.verify:
        _check(copy, put, stored)
    return Count(1, size)


def _write(copy: FolderCopy, put: Put) -> int:
    """Store a file, unless an earlier run has and it is only to be verified; returns how many bytes were stored."""
    store = copy.destination.store
    if copy.verify and copy.resumes and store.exists(put.name):
        return 0
    store.write(put.name, put.data, content_type=put.content_type, content_encoding=put.content_encoding, create=False)
    return len(put.data)


def _put(copy: FolderCopy, stored: Stored) -> Put:
    """Return the write of a file, compressed as at the source where the destination can say so, or else not."""
    said, stem = stored.body.content_encoding, stored.name.removesuffix(stored.suffix)
    mime_type = _JSON_TYPE if _IS_JSON.fullmatch(stem) else OCTET_STREAM
    if copy.gzip is False:
        return Put(stem if stored.suffix else stored.name, stored.decoded(), mime_type)
    storer = copy.destination.storer
    if said and not copy.destination.keeps_encoding:
        if copy.gzip is None:  # stay as readable as at the source
            return Put(stored.name, stored.decoded(), mime_type)
        return storer.gzipped(stored.name, _gzipped(copy, stored), mime_type)
    if stored.suffix and copy.destination.keeps_encoding and not copy.source.keeps_encoding:
        return storer.gzipped(stem, _gzipped(copy, stored), mime_type)
    return Put(stored.name, stored.data, mime_type, said)


def _gzipped(copy: FolderCopy, stored: Stored) -> bytes:
    """Return the bytes of a compressed file with gzip, whatever their own compression is."""
    if stored.is_gzip and (stored.suffix in ("", GZIP_SUFFIX)):
        return stored.data
    return gzip_compress(stored.decoded(), copy.destination.options.compresslevel)


def _check(copy: FolderCopy, put: Put, stored: Stored) -> None:
    """Read a file back, and check that it is the one that was copied."""
    (there,) = copy.destination.store.run(_reading(copy.destination, put.name))
    _check_same(copy, put.name, there is not None and there.decoded() == stored.decoded())


def _check_same(copy: FolderCopy, name: str, is_same: bool) -> None:
    if not is_same:
        shown = copy.destination.location.display(name)
        raise CorruptDataError(f"{shown}: what is read back differs from what was copied")


# --------------------------------------------------------------------------------------------------------- large files


def _copy_large(copy: FolderCopy, listed: Listed) -> Count:
    """Copy a file by way of a temporary one, so that memory holds only a few parts of it."""
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as read_back:
        try:
            data = _fetched(copy.source, listed, file)
        except (CorruptDataError, NoRangesError):  # it is compressed on its way, or the server has no ranges
            (stored,) = copy.source.store.run(_reading(copy.source, listed.name))
            return _copy_file(copy, stored)
        put = Put(listed.name, data, OCTET_STREAM)
        size = _write(copy, put)
        if copy.verify:
            _check_same(copy, put.name, _digest(data) == _digest(_fetched(copy.destination, listed, read_back)))
    return Count(1, size)


def _fetched(pyramid: Pyramid, listed: Listed, file: IO[bytes]) -> mmap.mmap:
    """Fetch a file by ranges into another one, and map that into memory."""
    size = listed.size or 0
    ranges = (_range(listed.name, start, min(start + _RANGE, size)) for start in range(0, size, _RANGE))
    versions = set()
    for found in pyramid.store.run_many(ranges, BYTES_IN_FLIGHT // _RANGE):
        for start, body in found:
            file.seek(start)
            file.write(body.data)
            versions.add(body.version)
    if len(versions) > 1:
        raise CorruptDataError(f"{pyramid.location.display(listed.name)}: it was replaced while it was read")
    file.flush()
    return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _range(name: str, start: int, end: int) -> Job[list[tuple[int, Body]]]:
    return [(start, (yield Get(name, start, end)))]


def _digest(data: mmap.mmap) -> bytes:
    return hashlib.blake2b(data).digest()
