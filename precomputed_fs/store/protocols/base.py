"""What a protocol can describe about itself: the defaults, which the other modules override for their protocols."""

import itertools
import re
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple

from precomputed_fs.format.compression import too_large
from precomputed_fs.format.scale_layout import Pieces
from precomputed_fs.store.requests import HttpRequest, Page

Options = dict[str, Any]
"""Storage options, as fsspec has them."""

Filesystem = Any
"""An `fsspec.AbstractFileSystem`; fsspec ships no types."""

Ask = Callable[[str, str], HttpRequest | Coroutine[Any, Any, HttpRequest | None] | None]
"""``("GET" or "HEAD", path)``: the request to send, or None to leave it to the filesystem. It is a coroutine for the
filesystem's event loop if the filesystem must be asked for the request."""

LOCK_SUFFIX = ".precomputed_fs.lock"
"""The suffix of a lock file, which lies beside its object."""

_TEMPORARY = re.compile(rf"\.[0-9a-f]{{32}}\.tmp|\..*{re.escape(LOCK_SUFFIX)}")
_PIECE = 1 << 20  # bytes that are read at once from a file of unknown size


class Protocol:
    """How one protocol differs from others; the defaults assume nothing."""

    package = ""
    """What to ``pip install`` when the driver is missing."""

    anonymous: Mapping[str, Any] = MappingProxyType({})
    """The storage options that mean "without credentials"."""

    credential_options: frozenset[str] = frozenset()
    """Storage options that decide whether to use credentials."""

    credentials_hint = ""
    """How to pass credentials, for messages."""

    misnamed: Mapping[str, str] = MappingProxyType({})
    """What storage options are meant by names that other tools have for them."""

    comes_with_us = False
    """Whether the driver is always installed, so that it need not be imported to find out."""

    is_asynchronous = False
    """Whether the filesystem consists of coroutines: see `Asynchronous`."""

    is_remote = False
    """Whether failures may be transient, so that retries make sense."""

    has_host = True
    """Whether the first part of a path is a bucket, a host or the root, not a folder."""

    has_bucket = False
    """Whether a URL must name a bucket."""

    cheap_misses = True
    """Whether looking for an absent name costs next to nothing."""

    one_at_a_time = False
    """Whether an instance must not be used by two threads at once."""

    is_read_only = False
    """Whether nothing can be written, whatever the options."""

    can_replace = True
    """Whether an object can be replaced or deleted."""

    keeps_encoding = False
    """Whether the store keeps an object's Content-Encoding; otherwise the suffix of the name tells the compression."""

    keeps_copies = False
    """Whether this is a cache of another filesystem, with `find_copy` and `keep_copy`."""

    follows_links = False
    """Whether there are symbolic links, so that `real_path` may differ from the path."""

    version_members: tuple[str, ...] = ("ino", "size", "mtime", "created", "etag")
    """The members of the filesystem's ``info`` that tell versions of an object apart, where they exist."""

    def can_write(self, options: Options) -> bool:
        """Tell whether a filesystem with these storage options can be written to."""
        return not self.is_read_only

    def can_read(self, options: Options) -> bool:
        """Tell whether a filesystem with these storage options can be read from."""
        return True

    def has_credentials(self, options: Options) -> bool:
        """Tell whether to use credentials: the machine has some, or the protocol has none; the last thing to ask."""
        return True

    def defaults(self, timeout: float) -> Options:
        """Return the default storage options."""
        return {}

    def before_import(self) -> None:
        """Set environment variables that the driver reads when it is first imported."""

    def make(self, name: str, url: str, options: Options) -> tuple[Filesystem, str]:
        """Make the filesystem of a URL; return it with the URL's path in it."""
        import fsspec

        kind = fsspec.get_filesystem_class(name)
        return kind(**{**kind._get_kwargs_from_urls(url), **options}), kind._strip_protocol(url)

    def path_in(self, fs: Filesystem, url: str) -> str:
        """Return the path that a URL has in a filesystem."""
        return str(fs._strip_protocol(url))

    def prepare(self, fs: Filesystem, timeout: float) -> None:
        """Apply settings that have no storage option, above all turn off the driver's retries: we retry ourselves."""

    def is_alive(self, fs: Filesystem) -> bool:
        """Tell whether the filesystem still has the connection that it was made with."""
        return True

    def close(self, fs: Filesystem) -> None:
        """Close the filesystem's connection, or complete the archive."""

    def changed_lately(self, fs: Filesystem, folder: str) -> bool:
        """Tell whether names in a folder are known to have possibly changed in the last second.

        If so, absent objects are looked for again.
        """
        return False


class State(NamedTuple):
    """What a synchronous filesystem knows about an object."""

    version: str
    """Differs between versions of the object."""

    size: int | None
    """In bytes."""

    modified: float | None
    """Modification time, in seconds since 1970."""


class Entry(NamedTuple):
    """A file or a folder, as the folder that it is in lists it."""

    name: str
    is_folder: bool
    size: int | None


class Synchronous(Protocol):
    """A protocol that is used through fsspec's synchronous API, in the calling thread."""

    def read(self, fs: Filesystem, path: str, limit: int) -> bytes:
        """Read a whole object of at most `limit` bytes, or raise a TooLargeError.

        The size is asked for first, because some filesystems read all of an object when opening it.
        """
        from fsspec import AbstractFileSystem

        info = fs.info(path)
        check_kind(info["type"], path)
        size = info.get("size")
        if type(fs).cat_file is AbstractFileSystem.cat_file:
            with fs.open(path, "rb") as file:
                return read_file(file, limit, size)
        if size is not None and size > limit:
            raise too_large(limit, size)
        data = bytes(fs.cat_file(path))
        if len(data) > limit:
            raise too_large(limit, len(data))
        return data

    def read_range(self, fs: Filesystem, path: str, start: int, end: int | None) -> bytes:
        """Read a part of an object."""
        return bytes(fs.cat_file(path, start=start, end=end))

    def read_pieces(self, fs: Filesystem, path: str, size: int, pieces: Pieces) -> list[bytes] | None:
        """Read pieces of an object, if it has exactly `size` bytes; None if not, or where to read all is as quick."""
        return None

    def state(self, fs: Filesystem, path: str) -> State:
        """Return the state of an object, or raise a FileNotFoundError."""
        info = fs.info(path)
        version = " ".join(str(info.get(name)) for name in self.version_members)
        modified = info.get("mtime")
        if isinstance(modified, datetime):
            modified = modified.timestamp()
        return State(version, info.get("size"), modified if isinstance(modified, (int, float)) else None)

    def list_names(self, fs: Filesystem, prefix: str, limit: int) -> list[str]:
        """List the last parts of some names that begin with a prefix, down to the next ``/``, in one request."""
        folder, _, start = prefix.rpartition("/")
        try:
            names = (name for name in self.names_in(fs, folder, limit) if name.startswith(start))
            return list(itertools.islice(itertools.filterfalse(is_temporary, names), limit))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def names_in(self, fs: Filesystem, folder: str, limit: int) -> Iterable[str]:
        """Yield the names in a folder; at most `limit` of them if more would take more requests."""
        return last_parts(fs.ls(folder, detail=False))

    def entries(self, fs: Filesystem, folder: str) -> Iterable["Entry"]:
        """List a folder, or raise a FileNotFoundError; lazily, if it may be large and other calls may come between."""
        found = (info for info in fs.ls(folder, detail=True) if info["name"].strip("/") != folder.strip("/"))
        return [Entry(last_parts([info["name"]])[0], info["type"] == "directory", info.get("size")) for info in found]

    def real_path(self, fs: Filesystem, path: str) -> str:
        """Return a path without symbolic links."""
        return path

    def lock(self, fs: Filesystem, path: str) -> AbstractContextManager[Any]:
        """Keep other processes from replacing or deleting an existing object; the lock ends with its holder."""
        return nullcontext()


class Asynchronous(Protocol):
    """A protocol whose coroutines run on the filesystem's event loop, and which may be read by our own HTTP client."""

    is_asynchronous = True
    is_remote = True
    cheap_misses = False

    referred_statuses: frozenset[int] = frozenset()
    """Statuses of our own requests after which the filesystem must be used instead."""

    version_header = "etag"
    """The response header with the version of an object."""

    checks_versions = False
    """Whether every server of this protocol refuses to replace a version that is no longer there."""

    def defaults(self, timeout: float) -> Options:
        return {"use_listings_cache": False}

    def plain_requests(self, options: Options) -> Ask | None:
        """Return a maker of HTTP requests that needs only the storage options, so that no filesystem is made."""
        return None

    def http_requests(self, fs: Filesystem) -> Ask | None:
        """Return the maker of the HTTP requests for reads; None: the filesystem's coroutines read."""
        return None

    async def info(self, fs: Filesystem, path: str) -> Mapping[str, Any]:
        """Return what the filesystem knows about an object."""
        return dict(await fs._info(path))

    async def version(self, fs: Filesystem, path: str) -> str:
        """Return the version of an object; empty if the store has none."""
        info = await self.info(fs, path)
        return " ".join(str(info[name]) for name in self.version_members if info.get(name))

    async def read(self, fs: Filesystem, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read an object, or a part of it."""
        return bytes(await fs._cat_file(path, start=start, end=end))

    async def list_names(self, fs: Filesystem, prefix: str, limit: int) -> list[str]:
        """List the last parts of some names that begin with a prefix, down to the next ``/``, in one request.

        Empty if the protocol has no such request.
        """
        return []

    async def walk(self, fs: Filesystem, prefix: str, more: Any) -> Page | None:  # noqa: ANN401 - each store has its own
        """List some objects whose names begin with a prefix, at any depth, in one request: see `Walk`.

        Their names are returned without the prefix. None if the protocol has no such request.
        """
        return None

    def write_keywords(self, content_type: str, content_encoding: str) -> Options:
        """Return the keywords that tell ``pipe_file`` the content type and encoding."""
        return {}

    def condition(self, fs: Filesystem, version: str) -> tuple[Filesystem, Options]:
        """Return how to replace one version only: a filesystem, and more keywords for its ``pipe_file``."""
        raise NotImplementedError

    async def write(
        self, fs: Filesystem, path: str, data: bytes, content_type: str, content_encoding: str, *, create: bool
    ) -> None:
        """Write an object; with `create`, as an exclusive write of the store itself."""
        keywords = self.write_keywords(content_type, content_encoding)
        await fs._pipe_file(path, data, mode="create" if create else "overwrite", **keywords)

    async def replace(
        self, fs: Filesystem, path: str, data: bytes, content_type: str, content_encoding: str, *, version: str
    ) -> None:
        """Replace one version of an object; the store itself refuses if another version is there."""
        replacing, condition = self.condition(fs, version)
        keywords = self.write_keywords(content_type, content_encoding)
        await type(fs)._pipe_file(replacing, path, data, **keywords, **condition)

    async def delete(self, fs: Filesystem, path: str) -> None:
        """Delete an object."""
        await fs._rm_file(path)


def protocol_name(fs: Filesystem) -> str:
    """Return the first name of a filesystem's protocol."""
    return str(fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0])


def check_kind(kind: str, path: str) -> None:
    """Refuse to read anything that ``info`` does not call a file."""
    if kind == "directory":
        raise IsADirectoryError(path)
    if kind == "other":
        raise OSError("it is a device, a pipe or a socket, and only regular files are read")


def temporary_name(folder: str) -> str:
    """Return a path for a temporary file in a folder, to be renamed once it is complete."""
    return f"{folder}/.{uuid.uuid4().hex}.tmp"


def is_temporary(name: str) -> bool:
    """Tell whether a name is that of a temporary file or of a lock."""
    return _TEMPORARY.fullmatch(name) is not None


def last_parts(names: Iterable[str]) -> list[str]:
    """Return the last part of each path."""
    return [name.rstrip("/").rpartition("/")[2] for name in names]


def read_opened(fs: Filesystem, path: str, limit: int) -> bytes:
    """Read a file whose filesystem opens it without reading it, and that knows its own size."""
    with fs.open(path, "rb") as file:
        return read_file(file, limit, getattr(file, "size", None))


def read_file(file: Any, limit: int, size: int | None = None) -> bytes:  # noqa: ANN401 - whatever has a `read`
    """Read a file of at most `limit` bytes to its end.

    Parameters
    ----------
    size : int, optional
        The size that the file claims, which need not be true.

    Raises
    ------
    TooLargeError
        If there are more bytes than the limit.
    """
    if size is not None and size > limit:
        raise too_large(limit, size)
    parts: list[bytes] = []
    left = limit + 1
    wanted = _PIECE if size is None else size + 1  # one more shows that there is no more
    while part := file.read(min(wanted, left)):
        parts.append(part)
        left -= len(part)
        if not left:
            raise too_large(limit)
        if len(part) == size:
            break
        wanted = _PIECE
    return parts[0] if len(parts) == 1 else b"".join(parts)
