"""From a pyramid's URL to (filesystem, root), with the one table of what differs between protocols.

`resolve` reads a URL without touching the network; `Location.open` makes the filesystem. Every
filesystem is our own instance with listing caches off, so that no answer is stale.
"""

import base64
import contextlib
import copy
import dataclasses
import errno
import functools
import inspect
import io
import itertools
import os
import re
import stat
import time
import urllib.parse
import uuid
import warnings
import zlib
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, runtime_checkable

from precomputed_fs.errors import URLError
from precomputed_fs.format.compression import ZIP_METHODS, TooLargeError, decode_zip_member, stored_limit, too_large
from precomputed_fs.format.grid import layout_of
from precomputed_fs.signing import Signer

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PRECOMPUTED_PREFIX = "precomputed://"
_PRECOMPUTED_ADAPTER = "|neuroglancer-precomputed:"
_SCALE_KEY = r"[\d.e+-]+(?:_[\d.e+-]+){2}|[\d.]+(?:nm|um|mm)"  # of cloud-volume and tensorstore, neuroglancer-scripts
_SHOWN_SOURCES = 3  # of a link to Neuroglancer
_CHAIN = "::"
_IN_FRONT = ("zip", "tar", "libarchive", "reference", "dir", "simplecache", "filecache", "blockcache", "cached")
_PASTED_ALONG = " \t\r\n'\"<>"
_PIECE = 1 << 20  # bytes that are read at once of what does not say how long it is
_LARGEST_PUT = 5 << 30  # bytes that S3 takes in one request
_LOCAL_NAMES = ("file", "local")
_TELLING_APART = ("endpoint_url", "account_name", "connection_string", "host", "port", "path")  # options
_ANY_KEY = "any-key"
_LARGEST_SOLID = 1 << 26  # bytes of what is decoded as a whole for a part of it
_LZMA_END_MARK = 2  # in the flags of a ZIP archive's member
_CREDENTIALS_SECONDS = 60.0  # that credentials are used for before they are asked for again, as they may change
_PLAIN_CLIENT = frozenset({"auto_decompress", "headers", "timeout"})  # settings of a client that ours has, too
_LATELY = 1.0  # seconds, in which file systems may give two changes of a folder one time
_LOCK_SECONDS = 30.0  # after which a lock file that nobody has touched is left over
_SHORTEST_LOCK_PAUSE, _LOCK_PAUSE = 0.0002, 0.02  # seconds
_METADATA_TIMEOUT = 0.25  # seconds; a cloud's own metadata service answers in a few milliseconds

Options = dict[str, Any]
_Session = Any  # an aiohttp.ClientSession
Filesystem = Any
"""An `fsspec.AbstractFileSystem`; fsspec ships no types."""


@runtime_checkable
class URLPath(Protocol):
    """A path with the options of its filesystem, such as a ``UPath`` of universal_pathlib; ``str`` makes its URL."""

    @property
    def protocol(self) -> str:
        """The outermost protocol; none of a local path."""

    @property
    def path(self) -> str:
        """The path in the filesystem."""

    @property
    def storage_options(self) -> Mapping[str, Any]:
        """The filesystem's options, as fsspec has them."""


AnyURL = str | os.PathLike[str] | URLPath
"""What says where a pyramid is."""


Publish = Callable[[Filesystem, str, str, bool], None]
"""``(fs, temporary, path, create)``"""

Replace = Callable[[Filesystem, str, bytes, Options, str], Coroutine[Any, Any, Any]]
"""``(fs, path, data, keywords, version)``, with the keywords of ``pipe_file``"""


class Request(NamedTuple):
    """One HTTP request that a filesystem would send."""

    method: str
    url: str
    headers: Mapping[str, str]
    options: Mapping[str, Any] = MappingProxyType({})
    """What an aiohttp session is to be told besides."""

    needs_session: bool = False
    """Whether only the filesystem's own aiohttp session will do."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What a server sees and a message must not show: the query, passwords, signatures, keys and tokens."""
        told = {value for name, value in self.headers.items() if _SECRET_OPTION.search(name)}
        parts = {part for value in told for part in re.split(r"[\s,=/]", value) if len(part) > _LONGEST_PUBLIC_PART}
        user = urllib.parse.urlsplit(self.url).netloc.rpartition("@")[0]
        told.add(base64.b64encode(urllib.parse.unquote_to_bytes(user)).decode())  # of an Authorization header
        return _longest_first(told | parts | {*_secrets_in_url(self.url)})


Ask = Callable[[str, str], Request | Coroutine[Any, Any, Request | None] | None]
"""``("GET" or "HEAD", path)``: the request to send, or None to leave it to the filesystem; as a coroutine for its
event loop, if that has to be asked for it."""


class Copies(NamedTuple):
    """How a caching filesystem keeps whole objects on disk."""

    find: Callable[[Filesystem, str], str | None]
    """``(fs, path)``: the file that holds a whole and valid copy."""

    keep: Callable[[Filesystem, str, bytes], None]
    """``(fs, path, data)``: keep a copy, complete from its first moment on."""


_LOCK_SUFFIX = ".precomputed_fs.lock"
_TEMPORARY = re.compile(rf"\.[0-9a-f]{{32}}\.tmp|\..*{re.escape(_LOCK_SUFFIX)}")  # see temporary_name and _lock_sftp
_LEFT_OVER = 86400.0  # seconds, after which such a file is of a writer that was killed
_MOST_SWEPT = 100_000  # entries of a folder that are looked at for such files
_MOST_REMEMBERED = 4096

_swept: set[str] = set()
"""Folders in which this process has looked for such files."""


def temporary_name(folder: str) -> str:
    """Return the path of a new file that is written before it takes its place in a folder."""
    return f"{folder}/.{uuid.uuid4().hex}.tmp"


def read_file(file: Any, limit: int, size: int | None = None) -> bytes:  # noqa: ANN401 - whatever has a `read`
    """Read a file to its end, of at most so many bytes.

    Parameters
    ----------
    size : int, optional
        How many bytes it says that it has, which need not be true.

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


def _read_any(fs: Filesystem, path: str, limit: int) -> bytes:
    """Read as any filesystem can: some open an object by reading all of it, so its size is asked for first."""
    from fsspec import AbstractFileSystem  # noqa: PLC0415

    info = fs.info(path)
    _check_kind(info["type"], path)
    size = info.get("size")
    if type(fs).cat_file is AbstractFileSystem.cat_file:
        with fs.open(path, "rb") as file:
            return read_file(file, limit, size)
    if size is not None and size > limit:
        raise too_large(limit, size)
    data: bytes = fs.cat_file(path)
    if len(data) > limit:
        raise too_large(limit, len(data))
    return data


def _read_range_any(fs: Filesystem, path: str, start: int, end: int | None) -> bytes:
    data: bytes = fs.cat_file(path, start=start, end=end)
    return data


def _check_kind(kind: str, path: str) -> None:
    if kind == "directory":
        raise IsADirectoryError(path)
    if kind == "other":
        message = "it is a device, a pipe or a socket, and only regular files are read"
        raise OSError(message)


def _read_opened(fs: Filesystem, path: str, limit: int) -> bytes:
    """Read a file that is opened without reading it, and tells its size by itself."""
    with fs.open(path, "rb") as file:
        return read_file(file, limit, getattr(file, "size", None))


def _list_any(fs: Filesystem, prefix: str, limit: int) -> list[str]:
    """List as any filesystem can: a whole folder at once."""
    try:
        listed = fs.ls(prefix.rpartition("/")[0], detail=False)
    except FileNotFoundError:
        return []
    start = prefix.rpartition("/")[2]
    return [name for name in _last_parts(listed) if _is_listed(name, start)][:limit]


def _is_listed(name: str, start: str) -> bool:
    return name.startswith(start) and not _TEMPORARY.fullmatch(name)


def _is_old(mtime: float) -> bool:
    return mtime < time.time() - _LEFT_OVER


def _is_first_write(folder: str) -> bool:
    if folder in _swept:
        return False
    if len(_swept) >= _MOST_REMEMBERED:
        _swept.clear()
    _swept.add(folder)
    return True


@dataclass(frozen=True, slots=True)
class Scheme:
    """One row of the table: what is particular to a protocol.

    A protocol that is not in the table takes the defaults, which assume nothing: fsspec's
    synchronous API in threads, one request per name, compression told by suffixes.
    """

    package: str = ""
    """What to ``pip install`` when the driver is missing."""

    writable: Callable[[Options], bool] = lambda _options: True
    """Whether a filesystem with these storage options can be written to."""

    readable: Callable[[Options], bool] = lambda _options: True
    """Whether a filesystem with these storage options can be read from."""

    defaults: Callable[[float], Options] = lambda _timeout: {}
    """``(timeout)``: storage options that hold unless the user gives others."""

    anonymous: Mapping[str, Any] = field(default_factory=dict)
    """The storage options that mean "without credentials"."""

    credential_options: frozenset[str] = frozenset()
    """Storage options that settle whether to use credentials."""

    find_credentials: Callable[[Options], bool] = lambda _options: True
    """Whether the machine has any, or the protocol knows none; asked only if nothing else says it."""

    prepare: Callable[[Filesystem, float], None] = lambda _fs, _timeout: None
    """``(fs, timeout)``: what has no option; above all, have it send each request once, since this
    package retries and two layers would multiply."""

    requests: Callable[[Filesystem], "Ask"] | None = None
    """``(fs)``: what makes the requests that we send ourselves. A row without it is used through
    fsspec's synchronous API."""

    refer_statuses: frozenset[int] = frozenset()
    """Answers to such a request that only the filesystem knows how to follow."""

    read_keywords: Mapping[str, Any] = field(default_factory=dict)
    """For ``cat_file``, where the filesystem does the reading."""

    real_path: Callable[[Filesystem, str], str] | None = None
    """``(fs, path)``: the path without symbolic links; None where there are none."""

    write_keywords: Callable[[str, str], Options] | None = None
    """``(content_type, content_encoding)`` to the keywords of ``pipe_file``; None where a write
    cannot say them, and compression is told by the name's suffix."""

    replace: Replace | None = None
    """Replace one version of an object; the store itself refuses if another one is there."""

    always_replaces_versions: bool = False
    """Whether no server of this protocol is known to ignore which version is to be replaced."""

    version_header: str = "etag"
    """The header of an answer that holds the version of an object."""

    version: Callable[[Filesystem, str], str] | None = None
    """``(fs, path)``: tells the states of an object apart, better than the filesystem's ``info`` does."""

    version_members: tuple[str, ...] = ("ino", "size", "mtime", "created", "etag")
    """The members of the filesystem's ``info`` that tell the states of an object apart, where they exist."""

    lock: Callable[[Filesystem, str], contextlib.AbstractContextManager[Any]] | None = None
    """Keep other processes from replacing or deleting an object that exists. It ends with its holder."""

    sweep: Callable[[Filesystem, str], None] = lambda _fs, _folder: None
    """Remove what writers that were killed long ago have left in a folder, before the first write into it."""

    changed_lately: Callable[[Filesystem, str], bool] = lambda _fs, _path: False
    """Whether names in a folder may have changed in the last second, as far as that is known: each time that they may,
    what is absent is asked for again."""

    create: bool = False
    """Whether ``pipe_file(mode="create")`` asks the store itself for an exclusive write."""

    publish: Publish | None = None
    """Put a finished temporary sibling in place, atomically."""

    read: Callable[[Filesystem, str, int], bytes] = _read_any
    """``(fs, path, limit)``: read a whole object of at most so many bytes, or raise a TooLargeError."""

    read_range: Callable[[Filesystem, str, int, int | None], bytes] = _read_range_any
    """``(fs, path, start, end)``: read a part of an object."""

    list_names: Callable[[Filesystem, str, int], Any] | None = _list_any
    """``(fs, prefix, limit)``: the last parts of some names that begin with the prefix, down to the
    next ``/``, in one request; None where no request of the protocol does that."""

    has_host: bool = True
    """Whether the first part of a path names a bucket or host, or is the root, and no folder."""

    cheap_misses: bool = True
    """Whether asking for a name that is not there costs next to nothing."""

    can_replace: bool = True
    """Whether an object can be replaced or deleted."""

    one_at_a_time: bool = False
    """Whether an instance must not be used by two threads at once."""

    is_alive: Callable[[Filesystem], bool] = lambda _fs: True
    """Whether the filesystem still has the connection that it was made with."""

    close: Callable[[Filesystem], None] = lambda _fs: None
    """Let go of the filesystem's connection, or complete the archive."""

    remote: bool = False
    """Whether failures may be transient, so that trying again makes sense."""

    copies: Copies | None = None
    """Of a cache in front of another filesystem: where it keeps copies of whole objects."""


# ---------------------------------------------------------------------- local files and SFTP


def _read_local(_fs: Filesystem, path: str, limit: int) -> bytes:
    _check_kind(_kind_of(os.stat(path)), path)  # noqa: PTH116 - before it is opened: a pipe would wait
    with io.FileIO(path) as file:  # the fastest way: no buffer to be made
        return read_file(file, limit, os.fstat(file.fileno()).st_size)


def _read_range_local(fs: Filesystem, path: str, start: int, end: int | None) -> bytes:
    _check_kind(_kind_of(os.stat(path)), path)  # noqa: PTH116
    return _read_range_any(fs, path, start, end)


def _kind_of(state: Any) -> str:  # noqa: ANN401 - an os.stat_result, or paramiko's
    """Return what `info` calls the type of a file."""
    if stat.S_ISREG(state.st_mode):
        return "file"
    return "directory" if stat.S_ISDIR(state.st_mode) else "other"


def _list_local(_fs: Filesystem, prefix: str, limit: int) -> list[str]:
    parent, _, start = prefix.rpartition("/")
    try:
        with os.scandir(parent or "/") as entries:
            return list(itertools.islice((entry.name for entry in entries if _is_listed(entry.name, start)), limit))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sweep_local(_fs: Filesystem, folder: str) -> None:
    if _is_first_write(folder):
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in itertools.islice(entries, _MOST_SWEPT):
                if _TEMPORARY.fullmatch(entry.name) and _is_old(entry.stat(follow_symlinks=False).st_mtime):
                    with contextlib.suppress(OSError):  # of another user
                        os.unlink(entry.path)  # noqa: PTH108


_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def _publish_local(_fs: Filesystem, temporary: str, path: str, create: bool) -> None:
    now = time.time_ns()
    os.utime(temporary, ns=(now, now))  # file systems count in milliseconds, and use inodes again: see _version_local
    if not create:
        os.replace(temporary, path)  # noqa: PTH105
        return
    try:
        os.link(temporary, path)
    except OSError as exc:
        if isinstance(exc, FileExistsError) or exc.errno not in _NO_HARD_LINKS:
            raise
        if os.path.lexists(path):  # no hard links here (exFAT, some network mounts): check, then write
            raise FileExistsError(path) from exc
        os.replace(temporary, path)  # noqa: PTH105
    else:
        os.unlink(temporary)  # noqa: PTH108


def _version_local(_fs: Filesystem, path: str) -> str:
    state = os.stat(path)  # noqa: PTH116
    return f"{state.st_ino} {state.st_size} {state.st_mtime_ns}"


@contextlib.contextmanager
def _lock_local(_fs: Filesystem, path: str) -> Iterator[None]:
    """Hold flock's lock of the file that stands at a path, if there is one.

    It needs no file beside it. Who waited for it looks again, as another file may stand there by then. On file
    systems without such locks, and on Windows, there is none.
    """
    while (file := _locked_file(path)) is not None:
        try:
            if _stands_at(file, path):
                yield
                return
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)  # closing does not unlock what a forked child has inherited
            os.close(file)
    yield


def _locked_file(path: str) -> int | None:
    """Open a file and wait for its lock; None if there is no file, or no such lock."""
    if fcntl is None:
        return None
    for mode in (os.O_RDONLY, os.O_RDWR):  # NFS locks only what is open for writing
        try:
            file = os.open(path, mode | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            _wait_for_lock(file)
        except BaseException as exc:
            os.close(file)
            if isinstance(exc, TimeoutError) or not isinstance(exc, OSError):
                raise
        else:
            return file
    return None


def _wait_for_lock(file: int) -> None:
    """Take flock's lock, for which others need a moment only."""
    deadline, pause = time.monotonic() + _LOCK_SECONDS, _SHORTEST_LOCK_PAUSE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            if time.monotonic() > deadline:
                message = f"another process has held its lock (flock) for {_LOCK_SECONDS:g} seconds"
                raise TimeoutError(message) from exc
        else:
            return
        time.sleep(pause)
        pause = min(2 * pause, _LOCK_PAUSE)


def _stands_at(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))  # noqa: PTH116
    except FileNotFoundError:
        return False


def _changed_lately_local(_fs: Filesystem, path: str) -> bool:
    try:
        return os.stat(path).st_mtime > time.time() - _LATELY  # noqa: PTH116
    except OSError:  # its absence is a state of the folder above
        return False


def _read_sftp(fs: Filesystem, path: str, limit: int) -> bytes:
    state = fs.ftp.stat(path)
    _check_kind(_kind_of(state), path)
    with fs.ftp.open(path) as file:
        if state.st_size <= limit:
            file.prefetch(state.st_size)  # asks for all blocks at once; else `read` waits for each
        return read_file(file, limit, state.st_size)


def _publish_sftp(fs: Filesystem, temporary: str, path: str, create: bool) -> None:
    if not create:
        _date_after(fs.ftp, temporary, path)
        fs.ftp.posix_rename(temporary, path)
        return
    try:
        fs.ftp.rename(temporary, path)  # SFTP's rename never replaces; its error tells no reason
    except OSError as exc:
        if fs.exists(path):
            raise FileExistsError(path) from exc
        raise


def _mtime_sftp(ftp: Any, path: str) -> int | None:  # noqa: ANN401 - a paramiko.SFTPClient
    try:
        mtime: int | None = ftp.stat(path).st_mtime
    except FileNotFoundError:
        return None
    return mtime


def _date_after(ftp: Any, temporary: str, path: str) -> None:  # noqa: ANN401 - a paramiko.SFTPClient
    """Date a file later than the one it will replace: SFTP tells versions apart by seconds."""
    before, now = _mtime_sftp(ftp, path), _mtime_sftp(ftp, temporary)
    if before is not None and now is not None and now <= before:
        ftp.utime(temporary, (before + 1, before + 1))


@contextlib.contextmanager
def _lock_sftp(fs: Filesystem, path: str) -> Iterator[None]:
    """Hold a lock file beside the object at a path, if there is one; who died with it holds it for 30 seconds more."""
    if _mtime_sftp(fs.ftp, path) is None:
        yield
        return
    parent, _, name = path.rpartition("/")
    lock = f"{parent}/.{name}{_LOCK_SUFFIX}"
    mine = _take_sftp(fs.ftp, lock)
    try:
        yield
    finally:
        if _mtime_sftp(fs.ftp, lock) == mine:
            with contextlib.suppress(OSError):
                fs.ftp.remove(lock)


def _take_sftp(ftp: Any, lock: str) -> int:  # noqa: ANN401 - a paramiko.SFTPClient
    """Make a lock file, once there is none, or one that nobody has touched for long; returns its time."""
    began = since = time.monotonic()
    seen: int | None = None
    while True:
        try:
            with ftp.open(lock, "wx") as file:
                return int(file.stat().st_mtime)
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as exc:  # SFTP tells no reason
            failure = exc
        there, now = _mtime_sftp(ftp, lock), time.monotonic()
        if there is None or seen not in {None, there}:  # others are faster, or what fails is not the lock
            if now > began + 2 * _LOCK_SECONDS:
                raise failure
        elif seen is not None and now > since + _LOCK_SECONDS:
            with contextlib.suppress(FileNotFoundError):  # its holder has died
                ftp.remove(lock)
        if there != seen:
            seen, since = there, now
        time.sleep(_LOCK_PAUSE)


def _is_alive_sftp(fs: Filesystem) -> bool:
    transport = fs.client.get_transport()
    return transport is not None and transport.is_active()


def _list_sftp(fs: Filesystem, prefix: str, limit: int) -> list[str]:
    parent, _, start = prefix.rpartition("/")
    try:
        entries = itertools.islice(fs.ftp.listdir_iter(parent), limit)
        return [entry.filename for entry in entries if _is_listed(entry.filename, start)]
    except FileNotFoundError:
        return []


def _sweep_sftp(fs: Filesystem, folder: str) -> None:
    if _is_first_write(f"{fs.host}:{folder}"):
        with contextlib.suppress(OSError):
            entries = list(itertools.islice(fs.ftp.listdir_iter(folder), _MOST_SWEPT // 10))
            for entry in entries:  # only now: a request within the listing would never be answered
                if _TEMPORARY.fullmatch(entry.filename) and _is_old(entry.st_mtime):
                    with contextlib.suppress(OSError):  # of another user
                        fs.ftp.remove(f"{folder}/{entry.filename}")


# ---------------------------------------------------------------------------------- archives


def _read_zip(fs: Filesystem, path: str, limit: int) -> bytes:
    """Read a member. Of bz2, LZMA and zstd, zipfile decodes more than it is asked for, however much that is."""
    import zipfile  # noqa: PLC0415 - only where it is used

    try:
        member = fs.zip.getinfo(fs._strip_protocol(path))  # noqa: SLF001
    except KeyError as exc:
        raise FileNotFoundError(path) from exc
    if member.compress_type not in ZIP_METHODS:
        with fs.zip.open(member) as file:
            return read_file(file, limit, member.file_size)
    if member.file_size > limit:
        raise too_large(limit, member.file_size)
    stored = copy.copy(member)
    stored.compress_type, stored.file_size, stored.CRC = zipfile.ZIP_STORED, member.compress_size, None
    with fs.zip.open(stored) as file:
        packed = read_file(file, stored_limit(limit), stored.file_size)
    has_end_mark = bool(member.flag_bits & _LZMA_END_MARK)
    data = decode_zip_member(packed, member.compress_type, member.file_size, has_end_mark=has_end_mark)
    if zlib.crc32(data) != member.CRC:
        message = f"the checksum of {path} does not match"
        raise zipfile.BadZipFile(message)
    return data


def _read_range_zip(fs: Filesystem, path: str, start: int, end: int | None) -> bytes:
    """Read a part of a member, of a small one by way of all of it where zipfile would set no limit: see `_read_zip`."""
    member = fs.zip.getinfo(fs._strip_protocol(path))  # noqa: SLF001
    if member.compress_type not in ZIP_METHODS:
        return _read_range_any(fs, path, start, end)
    if member.file_size > _LARGEST_SOLID:
        message = f"{member.file_size} bytes that can only be decoded as a whole; store it in the archive as it is"
        raise TooLargeError(message)
    return _read_zip(fs, path, _LARGEST_SOLID)[start:end]


# ------------------------------------------------------------------------------------ caches


def _real_path_cached(fs: Filesystem, path: str) -> str:
    """Return what a path is without symbolic links where the objects themselves are."""
    protocol = fs.fs.protocol if isinstance(fs.fs.protocol, str) else fs.fs.protocol[0]
    real_path = SCHEMES.get(protocol, Scheme()).real_path
    return path if real_path is None else real_path(fs.fs, path)


def _find_simple_copy(fs: Filesystem, path: str) -> str | None:
    found: str | None = fs._check_file(path)  # noqa: SLF001 - reading through it downloads unchecked
    return found


def _find_recorded_copy(fs: Filesystem, path: str) -> str | None:
    found = fs._check_file(path)  # noqa: SLF001
    if not found or found[0]["blocks"] is not True:
        return None
    return str(found[1])


def _keep_simple_copy(fs: Filesystem, path: str, data: bytes) -> None:
    fs._mkcache()  # noqa: SLF001
    name = os.path.join(fs.storage[-1], fs._mapper(path))  # noqa: PTH118, SLF001
    temporary = f"{name}.{uuid.uuid4().hex}.tmp"
    with open(temporary, "wb") as file:  # noqa: PTH123
        file.write(data)
    os.replace(temporary, name)  # noqa: PTH105


def _keep_recorded_copy(fs: Filesystem, path: str, data: bytes) -> None:
    _keep_simple_copy(fs, path, data)
    detail = {"original": path, "fn": fs._mapper(path), "blocks": True, "time": time.time(), "uid": None}  # noqa: SLF001
    if fs.check_files:
        detail["uid"] = fs.fs.ukey(path)
    fs._metadata.update_file(path, detail)  # noqa: SLF001
    fs.save_cache()


# -------------------------------------------------------------------------------------- HTTP


def _defaults_http(timeout: float) -> Options:
    """Have bodies decoded here, in threads, and URLs quoted here, so that signatures survive."""
    import aiohttp  # noqa: PLC0415 - only where requests are sent

    limits = aiohttp.ClientTimeout(sock_connect=timeout, sock_read=timeout)
    client = {"auto_decompress": False, "timeout": limits}
    return {"encoded": True, "client_kwargs": client, "use_listings_cache": False}


def _requests_http(fs: Filesystem) -> Ask:
    options = {key: value for key, value in fs.kwargs.items() if key != "headers"}
    headers = {**(fs.client_kwargs.get("headers") or {}), **(fs.kwargs.get("headers") or {})}
    is_plain = not options and fs.client_kwargs.keys() <= _PLAIN_CLIENT and fs.get_client is _get_client()
    return lambda method, path: Request(method, path, headers, options, needs_session=not is_plain)


@functools.cache
def _get_client() -> Callable[..., Any]:
    import fsspec.implementations.http  # noqa: PLC0415 - only where it is used

    get_client: Callable[..., Any] = fsspec.implementations.http.get_client
    return get_client


# ---------------------------------------------------------------------------------------- S3


def _defaults_s3(timeout: float) -> Options:
    from aiobotocore.httpsession import AIOHTTPSession  # noqa: PLC0415 - only where S3 is used

    class SendingOnce(AIOHTTPSession):  # type: ignore[misc]
        """Leave it to us to repeat a request: a lost answer to a create is no refusal."""

        async def _get_session(self, proxy_url: str | None) -> _Session:
            session = await super()._get_session(proxy_url)
            session._retry_connection = False  # noqa: SLF001 - aiohttp has no public switch
            return session

    config = {
        "http_session_cls": SendingOnce,
        "retries": {"max_attempts": 0},
        "connect_timeout": timeout,
        "read_timeout": timeout,
        "max_pool_connections": 128,
    }
    return {"config_kwargs": config, "use_listings_cache": False}


def _prepare_s3(fs: Filesystem, _timeout: float) -> None:
    fs.retries = 1
    if not fs.anon:  # for signed URLs, which botocore still signs with version 2 by default
        fs.config_kwargs.setdefault("signature_version", "s3v4")


def _requests_s3(fs: Filesystem) -> Ask:
    """Sign requests ourselves (none where anonymous), to where the SDK says that the bucket is."""
    customized = (
        fs.req_kw
        or fs.s3_additional_kwargs
        or fs.version_aware
        or (fs.session is not None and not fs._session_is_owned)  # noqa: SLF001 - no public way
        or "verify" in fs.client_kwargs
        or "proxies" in fs.config_kwargs
    )
    if customized:
        return lambda _method, _path: None
    buckets: dict[str, _Bucket] = {}

    def request(method: str, path: str) -> Request | Coroutine[Any, Any, Request | None]:
        name, key, _ = fs.split_path(path)
        bucket = buckets.get(name)
        if bucket is None or time.monotonic() > bucket.until:
            return found(method, name, key)
        return bucket.request(method, key)

    async def found(method: str, name: str, key: str) -> Request | None:
        bucket = await _find_bucket(fs, name)
        if bucket is None:  # signed in another way
            operation = "head_object" if method == "HEAD" else "get_object"
            return Request(method, await fs._url(f"{name}/{key}", client_method=operation), {})  # noqa: SLF001
        buckets[name] = bucket
        return bucket.request(method, key)

    return request


class _Bucket(NamedTuple):
    """Where a bucket is, and who asks."""

    base: str
    """The URL that keys are appended to."""

    signer: Signer | None
    """None: anonymous."""

    until: float
    """When the credentials are to be asked for anew, by the monotonic clock."""

    def request(self, method: str, key: str) -> Request:
        url = self.base + urllib.parse.quote(key, safe="/~")
        if self.signer is None:
            return Request(method, url, {})
        host, slash, path = url.partition("://")[2].partition("/")
        return Request(method, url, self.signer.headers(method, host, slash + path))


async def _find_bucket(fs: Filesystem, name: str) -> _Bucket | None:
    """Learn from a URL that the SDK has signed where a bucket is and how requests to it are signed."""
    url = await fs._url(f"{name}/{_ANY_KEY}")  # noqa: SLF001 - the coroutine of fs.sign
    base, _, query = url.partition("?")
    if not base.endswith(f"/{_ANY_KEY}"):
        return None
    bucket = _Bucket(base.removesuffix(_ANY_KEY), None, time.monotonic() + _CREDENTIALS_SECONDS)
    if fs.anon:
        return bucket
    signed = dict(urllib.parse.parse_qsl(query))
    access_key, *scope = signed.get("X-Amz-Credential", "").rsplit("/", 4)
    client = await fs.get_s3(name)
    credentials = await client._request_signer._credentials.get_frozen_credentials()  # noqa: SLF001 - no public way
    if signed.get("X-Amz-Algorithm") != "AWS4-HMAC-SHA256" or credentials.access_key != access_key:
        return None
    _, region, service, _ = scope
    return bucket._replace(signer=Signer(access_key, region, service, credentials.secret_key, credentials.token or ""))


def _write_keywords_s3(content_type: str, content_encoding: str) -> Options:
    keywords = {"ContentType": content_type}
    if content_encoding:
        keywords["ContentEncoding"] = content_encoding
    return keywords


async def _replace_s3(fs: Filesystem, path: str, data: bytes, keywords: Options, version: str) -> None:
    one_request = _LARGEST_PUT // 2 + 1  # a condition holds for one PUT only
    await fs._pipe_file(path, data, IfMatch=version, chunksize=one_request, **keywords)  # noqa: SLF001


async def _list_s3(fs: Filesystem, prefix: str, limit: int) -> list[str]:
    bucket, key, _ = fs.split_path(prefix)
    page = await fs._call_s3(  # noqa: SLF001 - public listings fetch every page
        "list_objects_v2", Bucket=bucket, Prefix=key, Delimiter="/", MaxKeys=limit, **fs.req_kw
    )
    names = [entry["Key"] for entry in page.get("Contents", ())]
    names += [entry["Prefix"] for entry in page.get("CommonPrefixes", ())]
    return _last_parts(names)


def _has_s3_credentials(options: Options) -> bool:
    """Go through botocore's own order: environment, files, container, then the instance's role."""
    import botocore.session  # noqa: PLC0415 - only where S3 is used
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    session = botocore.session.Session(profile=options.get("profile"))
    resolver = session.get_component("credential_provider")
    resolver.remove("iam-role")
    try:
        return resolver.load_credentials() is not None or _has_instance_role()
    except BotoCoreError:
        return True  # there is something and it is broken: let the filesystem say what


@functools.cache
def _has_instance_role() -> bool:
    """Ask EC2's metadata service, once per process, and give it a fraction of a second."""
    import botocore.session  # noqa: PLC0415 - only where S3 is used
    from botocore.credentials import resolve_imds_endpoint_mode  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415
    from botocore.utils import InstanceMetadataFetcher  # noqa: PLC0415

    session = botocore.session.Session()
    config = {
        name: session.get_config_variable(name)
        for name in ("ec2_metadata_service_endpoint", "ec2_metadata_v1_disabled")
    }
    config["ec2_metadata_service_endpoint_mode"] = resolve_imds_endpoint_mode(session)
    try:
        fetcher = InstanceMetadataFetcher(timeout=_METADATA_TIMEOUT, num_attempts=1, config=config)
        return bool(fetcher.retrieve_iam_role_credentials())
    except BotoCoreError:
        return False


# --------------------------------------------------------------------------------------- GCS


def _defaults_gcs(timeout: float) -> Options:
    return {"requests_timeout": timeout, "use_listings_cache": False}


def _prepare_gcs(fs: Filesystem, _timeout: float) -> None:
    # gcsfs hands its bodies to aiohttp as bytes, and aiohttp would rather have files of large ones.
    warnings.filterwarnings("ignore", message="Sending a large body directly", category=ResourceWarning)
    request = getattr(type(fs)._request, "__wrapped__", None)  # noqa: SLF001 - without its 6 tries
    if request is not None:
        fs._request = request.__get__(fs)  # noqa: SLF001


def _requests_gcs(fs: Filesystem) -> Ask:
    def request(method: str, path: str) -> Request | None:
        if fs.requester_pays or getattr(fs, "_use_client_cert", False):
            return None
        headers = fs._get_headers(None)  # noqa: SLF001 - where the token is
        if method == "GET":
            return Request("GET", fs.url(path), headers)
        bucket, key, _ = fs.split_path(path)
        key = urllib.parse.quote(key, safe="")
        return Request("GET", f"{fs.base}b/{bucket}/o/{key}?fields=name", headers)

    return request


def _write_keywords_gcs(content_type: str, content_encoding: str) -> Options:
    keywords: Options = {"content_type": content_type}
    if content_encoding:
        keywords["fixed_key_metadata"] = {"content_encoding": content_encoding}
    return keywords


class _MatchingGeneration:
    """A `gcsfs.GCSFileSystem` whose uploads replace one generation of an object only: gcsfs has no keyword for it."""

    def __init__(self, fs: Filesystem, generation: str) -> None:
        self._fs = fs
        self._generation = generation

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._fs, name)

    async def _call(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        begins = {"ifGenerationMatch": self._generation} if "uploadType" in options else {}
        return await self._fs._call(*args, **options, **begins)  # noqa: SLF001


async def _replace_gcs(fs: Filesystem, path: str, data: bytes, keywords: Options, version: str) -> None:
    await type(fs)._pipe_file(_MatchingGeneration(fs, version), path, data, **keywords)  # noqa: SLF001


async def _list_gcs(fs: Filesystem, prefix: str, limit: int) -> list[str]:
    bucket, key, _ = fs.split_path(prefix)
    page = await fs._call(  # noqa: SLF001 - public listings fetch every page
        "GET", "b/{}/o", bucket, prefix=key, delimiter="/", maxResults=limit, json_out=True
    )
    return _last_parts([*(item["name"] for item in page.get("items", ())), *page.get("prefixes", ())])


def _has_gcs_credentials(_options: Options) -> bool:
    config = os.environ.get("CLOUDSDK_CONFIG") or os.path.expanduser("~/.config/gcloud")  # noqa: PTH111
    return (
        "GOOGLE_APPLICATION_CREDENTIALS" in os.environ
        or os.path.exists(os.path.join(config, "application_default_credentials.json"))  # noqa: PTH110, PTH118
        or os.path.exists(os.path.expanduser("~/.gcs_tokens"))  # noqa: PTH110, PTH111
        or _metadata_service_answers("/", "Metadata-Flavor", "Google")
    )


# ------------------------------------------------------------------------------------- Azure


def _defaults_azure(_timeout: float) -> Options:
    return {"use_listings_cache": False}


def _prepare_azure(fs: Filesystem, timeout: float) -> None:
    client = fs.service_client
    client._config.retry_policy.total_retries = 0  # noqa: SLF001 - adlfs hands on no such options
    connection = client._pipeline._transport.connection_config  # noqa: SLF001
    connection.timeout = connection.read_timeout = timeout


def _requests_azure(fs: Filesystem) -> Ask:
    async def request(method: str, path: str) -> Request | None:
        if fs.version_aware:
            return None
        if fs.account_key or "accountkey" in (fs.connection_string or "").lower():
            return Request(method, await fs._url(path), {})  # noqa: SLF001 - the coroutine of fs.sign
        if fs.credential is None and (fs.sas_token or fs.anon):
            container, blob, _ = fs.split_path(path)
            async with fs.service_client.get_blob_client(container, blob) as client:
                return Request(method, client.url, {})
        return None

    return request


def _write_keywords_azure(content_type: str, content_encoding: str) -> Options:
    settings = {"content_type": content_type}
    if content_encoding:
        settings["content_encoding"] = content_encoding
    return {"content_settings": settings}


async def _replace_azure(fs: Filesystem, path: str, data: bytes, keywords: Options, version: str) -> None:
    from azure.core import MatchConditions  # noqa: PLC0415 - only where Azure is used

    await fs._pipe_file(  # noqa: SLF001
        path, data, etag=version, match_condition=MatchConditions.IfNotModified, **keywords
    )


async def _list_azure(fs: Filesystem, prefix: str, limit: int) -> list[str]:
    container, key, _ = fs.split_path(prefix)
    async with fs.service_client.get_container_client(container) as client:
        pages = client.walk_blobs(name_starts_with=key, delimiter="/", results_per_page=limit).by_page()
        async for page in pages:
            return _last_parts([item.name async for item in page])
    return []


_AZURE_CREDENTIAL_VARIABLES = (
    "AZURE_CLIENT_ID",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ANON",  # none, but the user's own word on it, which adlfs takes
    "AZURE_STORAGE_CLIENT_ID",
    "AZURE_STORAGE_CONNECTION_STRING",
    "AZURE_STORAGE_SAS_TOKEN",
)


def _has_azure_credentials(_options: Options) -> bool:
    return (
        any(name in os.environ for name in _AZURE_CREDENTIAL_VARIABLES)
        or os.path.isdir(os.path.expanduser("~/.azure"))  # noqa: PTH111, PTH112
        or _metadata_service_answers("/metadata/instance?api-version=2021-02-01", "Metadata", "true")
    )


@functools.cache
def _metadata_service_answers(path: str, header: str, value: str) -> bool:
    """Ask the cloud's metadata service, once per process."""
    import http.client  # noqa: PLC0415 - only where no key is found

    host = os.environ.get("GCE_METADATA_HOST", "169.254.169.254")
    connection = http.client.HTTPConnection(host, timeout=_METADATA_TIMEOUT)
    try:
        connection.request("GET", path, headers={header: value})
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _last_parts(names: Iterable[str]) -> list[str]:
    return [name.rstrip("/").rpartition("/")[2] for name in names]


# --------------------------------------------------------------------------------- the table


def _never(_options: Options) -> bool:
    return False


def _archive_is_written(options: Options) -> bool:
    return options.get("mode", "r") in ("w", "a")


def _archive_is_read(options: Options) -> bool:
    return not _archive_is_written(options)


_READ_ONLY = Scheme(writable=_never, has_host=False)
_SIMPLE_CACHE = Scheme(
    read=_read_opened,
    real_path=_real_path_cached,
    writable=_never,
    cheap_misses=False,
    one_at_a_time=True,
    remote=True,
    copies=Copies(_find_simple_copy, _keep_simple_copy),
)
_RECORDING_CACHE = dataclasses.replace(_SIMPLE_CACHE, copies=Copies(_find_recorded_copy, _keep_recorded_copy))
_HTTP = Scheme(
    writable=_never,
    defaults=_defaults_http,
    requests=_requests_http,
    list_names=None,
    cheap_misses=False,
    remote=True,
)
_S3 = Scheme(
    package="s3fs",
    defaults=_defaults_s3,
    anonymous={"anon": True},
    credential_options=frozenset({"anon", "key", "secret", "token", "profile", "session"}),
    find_credentials=_has_s3_credentials,
    prepare=_prepare_s3,
    requests=_requests_s3,
    refer_statuses=frozenset({301, 307, 400}),  # another region's bucket
    read_keywords={"max_concurrency": 1},  # otherwise a HEAD goes before every GET
    write_keywords=_write_keywords_s3,
    replace=_replace_s3,
    version_members=("ETag",),
    create=True,
    list_names=_list_s3,
    cheap_misses=False,
    remote=True,
)
_GCS = Scheme(
    package="gcsfs",
    defaults=_defaults_gcs,
    anonymous={"token": "anon"},
    credential_options=frozenset({"token"}),
    find_credentials=_has_gcs_credentials,
    prepare=_prepare_gcs,
    requests=_requests_gcs,
    write_keywords=_write_keywords_gcs,
    replace=_replace_gcs,
    always_replaces_versions=True,
    version_header="x-goog-generation",
    version_members=("generation",),
    create=True,
    list_names=_list_gcs,
    cheap_misses=False,
    remote=True,
)
_AZURE = Scheme(
    package="adlfs",
    defaults=_defaults_azure,
    prepare=_prepare_azure,
    anonymous={"anon": True},
    credential_options=frozenset({"anon", "account_key", "connection_string", "credential", "sas_token", "client_id"}),
    find_credentials=_has_azure_credentials,
    requests=_requests_azure,
    write_keywords=_write_keywords_azure,
    replace=_replace_azure,
    always_replaces_versions=True,
    version_members=("etag",),
    create=True,
    list_names=_list_azure,
    cheap_misses=False,
    remote=True,
)
_LOCAL = Scheme(
    read=_read_local,
    read_range=_read_range_local,
    real_path=lambda _fs, path: os.path.realpath(path),
    publish=_publish_local,
    version=_version_local,
    lock=_lock_local,
    sweep=_sweep_local,
    changed_lately=_changed_lately_local,
    list_names=_list_local,
)
_SFTP = Scheme(
    package="paramiko",
    read=_read_sftp,
    real_path=lambda fs, path: fs.ftp.normalize(path),
    publish=_publish_sftp,
    lock=_lock_sftp,
    sweep=_sweep_sftp,
    list_names=_list_sftp,
    is_alive=_is_alive_sftp,
    close=lambda fs: fs.client.close(),
    cheap_misses=False,
    one_at_a_time=True,
    remote=True,
)
_ZIP = Scheme(
    read=_read_zip,
    read_range=_read_range_zip,
    has_host=False,
    writable=_archive_is_written,
    readable=_archive_is_read,
    can_replace=False,
    one_at_a_time=True,
    close=lambda fs: fs.close(),
)

SCHEMES: Mapping[str, Scheme] = {
    "file": _LOCAL,
    "local": _LOCAL,
    "memory": Scheme(changed_lately=lambda _fs, _path: True),
    "http": _HTTP,
    "https": _HTTP,
    "s3": _S3,
    "s3a": _S3,
    "gs": _GCS,
    "gcs": _GCS,
    "az": _AZURE,
    "abfs": _AZURE,
    "abfss": _AZURE,
    "sftp": _SFTP,
    "ssh": _SFTP,
    "zip": _ZIP,
    "tar": _READ_ONLY,
    "libarchive": _READ_ONLY,
    "github": Scheme(package="requests", read=_read_opened, writable=_never, cheap_misses=False, remote=True),
    "git": _READ_ONLY,
    "reference": Scheme(writable=_never, remote=True),
    "data": _READ_ONLY,
    "simplecache": _SIMPLE_CACHE,
    "filecache": _RECORDING_CACHE,
    "blockcache": _RECORDING_CACHE,
    "cached": _RECORDING_CACHE,
}
"""What differs between protocols; a protocol that is not here takes `Scheme`'s defaults."""


# -------------------------------------------------------------------- what is for others

_FOR_CAVE = (
    "needs CAVE: open it with cloud-volume or CAVEclient, or here its flat copy, precomputed://..., if it has one"
)
_OTHER_FORMAT = "is another format: xarray and zarr open Zarr, tensorstore opens N5, too"
_OTHER_SOURCE = "is another of Neuroglancer's data sources: this package opens precomputed pyramids only"

FOREIGN: Mapping[str, str] = {
    "graphene": _FOR_CAVE,
    "middleauth": _FOR_CAVE,
    "middleauth+http": _FOR_CAVE,
    "middleauth+https": _FOR_CAVE,
    "n5": _OTHER_FORMAT,
    "ome-zarr": _OTHER_FORMAT,
    "zarr": _OTHER_FORMAT,
    "zarr2": _OTHER_FORMAT,
    "zarr3": _OTHER_FORMAT,
    "boss": _OTHER_SOURCE,
    "brainmaps": _OTHER_SOURCE,
    "deepzoom": _OTHER_SOURCE,
    "dvid": _OTHER_SOURCE,
    "nggraph": _OTHER_SOURCE,
    "nifti": _OTHER_SOURCE,
    "render": _OTHER_SOURCE,
    "http+s3": "is written s3+http://endpoint/bucket/path",
    "https+s3": "is written s3+https://endpoint/bucket/path",
    "mem": "is written memory://path",
    "s3n": "is written s3://bucket/path",
    "wasb": "is written az://container/path",
    "wasbs": "is written az://container/path",
}
"""Schemes, and kinds behind a ``|``, that others open or that are written otherwise here: what to do."""


def _check_fragment(text: str) -> None:
    """Refuse what means something to Neuroglancer only: a link to it, and a part of a pyramid without voxels."""
    url, mark, fragment = text.partition("#")
    if not mark or "://" not in url:
        return
    state = urllib.parse.unquote(fragment[1:])
    if fragment.startswith("!") and (state.startswith("{") or "://" in state):
        found = re.findall(r"precomputed://[^\s\"'<>]+|[^\s\"'<>]+\|neuroglancer-precomputed:", state)
        sources = list(dict.fromkeys(map(_without_secrets, found)))
        told = f": {' or '.join(sources[:_SHOWN_SOURCES])}" if sources else ", which it shows in the layer's tab Source"
        message = f"{_without_secrets(url)}: a link to Neuroglancer, not to a pyramid; open a layer's source{told}"
        raise URLError(message)
    if part := re.fullmatch(r"type=(\w+)", fragment):
        message = (
            f"{_without_secrets(text)}: {part[0]} is not read, only volumes are: write the URL without it for these; "
            "fetch_file of an accessor gets the files of other parts"
        )
        raise URLError(message)


# ---------------------------------------------------------------------------------- resolving


class Link(NamedTuple):
    """One part of a chained URL."""

    protocol: str
    url: str
    display: str
    options: Options
    has_path: bool


@dataclass(frozen=True, slots=True)
class Location:
    """Where a pyramid is, and how to reach it. Nothing here touches the network but `open`."""

    links: tuple[Link, ...]
    """The parts of the URL, the outermost first; they carry secrets: use `display` to show."""

    anon: bool | None = None
    fs: Filesystem = field(default=None)
    """The user's own filesystem, or None to make one."""

    made_by: int = field(default_factory=os.getpid)
    """The process that ``fs`` works in."""

    given: Mapping[str, Any] = field(default_factory=dict)
    """The storage options as they were given: those of other protocols may be for where `info` redirects to."""

    def __repr__(self) -> str:
        return f"Location({self.display()!r})"

    @property
    def scheme(self) -> Scheme:
        """The table's row for the outermost protocol."""
        return SCHEMES.get(self.links[0].protocol, Scheme())

    @property
    def writable(self) -> bool:
        """Whether this protocol, with these options, can be written to."""
        return self.scheme.writable(self.links[0].options)

    @property
    def readable(self) -> bool:
        """Whether this protocol, with these options, can be read from."""
        return self.scheme.readable(self.links[0].options)

    @property
    def may_go_without_credentials(self) -> bool:
        """Whether ``anon=True`` would make a difference."""
        knows_anonymity = any(SCHEMES.get(link.protocol, Scheme()).anonymous for link in self.links)
        return knows_anonymity and not self.anon and self.fs is None

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must not show in a message: query strings, passwords, keys, tokens."""
        found = set()
        for link in self.links:
            found |= {*_secrets_in_url(link.url), *_secret_values(link.options, secret=False)}
        return _longest_first(found)

    @property
    def has_credentials(self) -> bool:
        """Whether the user has given any, however short, or has said that those of the machine are to be used."""
        return self.anon is False or any(map(_has_credentials, self.links))

    def display(self, name: str = "") -> str:
        """Show the URL of the pyramid, or of an object in it, without secrets."""
        shown = [link.display for link in self.links]
        place = next((i for i, link in enumerate(self.links) if link.has_path), len(shown) - 1)
        if name:
            scheme, mark, path = shown[place].rpartition("://")
            path = f"{path.rstrip('/')}/{name}" if path else name
            shown[place] = scheme + mark + path
        return _CHAIN.join(shown)

    @property
    def mistaken(self) -> str:
        """A question, if this looks like the URL of a pyramid's `info`, or of one of its scales or chunks."""
        shown = next((link for link in self.links if link.has_path), self.links[-1]).display.rstrip("/")
        *_, scale, last = ["", *shown.split("/")]
        key, levels = (scale, 2) if layout_of(last) else (last, 1)
        if not (last == "info" or re.fullmatch(_SCALE_KEY, key)):
            return ""
        with contextlib.suppress(ValueError):
            there = self.above(levels).display()
            if last == "info":
                return f"is the pyramid meant, which is {there}?"
            return f"is scale {key} of a pyramid meant, which is open_volume({there!r})[{key!r}]?"
        return ""

    @property
    def server(self) -> tuple[Any, ...]:
        """What credentials are meant for: the protocol, and the store and its host or bucket, of the outermost part."""
        protocol, _, rest = self.links[0].url.partition("://")
        return protocol, rest.split("/")[0], *store_of(self.links[0])

    def above(self, levels: int) -> "Location":
        """Return the place so many folders further up, in the same bucket, host or archive.

        Raises
        ------
        ValueError
            If there are not as many.
        """
        place = next((i for i, link in enumerate(self.links) if link.has_path), len(self.links) - 1)
        link = self.links[place]
        scheme, mark, rest = link.url.rpartition("://")
        path, query_mark, query = rest.partition("?") if link.protocol in ("http", "https") else (rest, "", "")
        folders = path.rstrip("/").split("/")
        if len(folders) - levels < (1 if SCHEMES.get(link.protocol, Scheme()).has_host else 0):
            message = f"{self.display()}: there are no {levels} folders above it"
            raise ValueError(message)
        url = f"{scheme}{mark}{'/'.join(folders[:-levels])}{query_mark}{query}"
        shown = _without_secrets(url.removeprefix("file://") if link.protocol == "file" else url)
        links = [*self.links]
        links[place] = link._replace(url=url, display=shown)
        return dataclasses.replace(self, links=tuple(links))

    @property
    def behind(self) -> "Location | None":
        """What an archive or a cache is in front of, if that is asked over HTTP by ourselves."""
        if len(self.links) > 1 and SCHEMES.get(self.links[1].protocol, Scheme()).requests:
            return Location(self.links[1:], anon=self.anon)
        return None

    def open(self, timeout: float) -> tuple[Any, str]:
        """Make the filesystem; returns it with the root below which the pyramid's objects are."""
        import fsspec  # noqa: PLC0415

        if self.fs is not None:
            fs = self.fs
            if self.made_by != os.getpid():  # not safe to use after a fork: make its like
                fs = type(fs)(*fs.storage_args, **{**fs.storage_options, "skip_instance_cache": True})
            return fs, fs._strip_protocol(self.links[0].url)  # noqa: SLF001 - as url_to_fs does
        options = {link.protocol: self._options(link, timeout) for link in self.links}
        if len(self.links) == 1:  # `url_to_fs` would take a `::` in it for a chain
            (link,) = self.links
            kind = fsspec.get_filesystem_class(link.protocol)
            fs = kind(**{**kind._get_kwargs_from_urls(link.url), **options[link.protocol]})  # noqa: SLF001 - as there
            root = kind._strip_protocol(link.url)  # noqa: SLF001
        else:
            fs, root = fsspec.core.url_to_fs(_CHAIN.join(link.url for link in self.links), **options)
        inner = fs
        for link in self.links:
            if inner is not None:
                SCHEMES.get(link.protocol, Scheme()).prepare(inner, timeout)
            inner = getattr(inner, "fs", None)
        return fs, root

    def _options(self, link: Link, timeout: float) -> Options:
        scheme = SCHEMES.get(link.protocol, Scheme())
        options = _merged(scheme.defaults(timeout), link.options)
        anonymous = self.anon
        if anonymous is None and not scheme.credential_options & options.keys():
            anonymous = not scheme.find_credentials(options)
        return _merged(options, scheme.anonymous) if anonymous else options


def resolve(
    url: AnyURL | Location,
    *,
    storage_options: Mapping[str, Any] | None = None,
    fs: Filesystem = None,
    anon: bool | None = None,
) -> Location:
    """Read a pyramid's URL.

    Parameters
    ----------
    url : str, path, UPath or Location
        A path, any fsspec URL or chain of them, ``s3+http(s)://endpoint/bucket/path``; with
        ``precomputed://`` in front or ``|neuroglancer-precomputed:`` behind, or with neither. What
        is not a string is a local path, whatever characters are in it; but a ``UPath`` is what its
        protocol and its options say. A location is returned as it is.
    storage_options : mapping, optional
        As fsspec has them: for one protocol flat, for a chain nested by protocol, or in ``target_options``.
    fs : fsspec.AbstractFileSystem, optional
        A filesystem to use instead of making one; `url` is then a path in it.
    anon : bool, optional
        Whether to go without credentials; by default without, where the machine has none.

    Raises
    ------
    URLError
        If the scheme is not known or written with one colon, or its driver is not installed; or if
        something is chained to a URL that takes nothing behind it.
    """
    if isinstance(url, Location):
        return url
    given = storage_options or {}
    if isinstance(url, URLPath) and url.protocol not in ("", *_LOCAL_NAMES):
        given = _merged(url.storage_options, given)
        url = str(url)
    options = dict(given)
    if fs is not None:
        text = _unwrapped(url) if isinstance(url, str) else _path_of(url)
        if options or anon is not None:
            message = "fs is a finished filesystem: storage_options and anon do not apply to it"
            raise ValueError(message)
        protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
        if getattr(fs, "asynchronous", False):
            message = "fs: an instance made with asynchronous=True is bound to its own event loop"
            raise ValueError(message)
        link = Link(protocol, text, _without_secrets(text), dict(fs.storage_options), has_path=True)
        return Location((link,), fs=fs)
    links = _chain(_strip_precomputed(url), options) if isinstance(url, str) else [_path_link(_path_of(url), options)]
    # What is nested under a protocol that this URL does not use is for another URL's accessor.
    own = {key: value for key, value in options.items() if not (key in SCHEMES and isinstance(value, Mapping))}
    for link in links[:-1]:
        behind = own.pop("target_options", None) or {}
        link.options.update((key, value) for key, value in own.items() if key not in ("fo", "target_protocol"))
        own = dict(behind)
    links[-1].options.update(own)
    _check_behind(links[-1])
    return Location(tuple(links), anon=anon, given=given)


def store_of(link: Link) -> tuple[Any, ...]:
    """Return what tells one store from another, apart from the URL: its kind, and what options say of where it is."""
    options = {**(link.options.get("client_kwargs") or {}), **link.options}
    return (SCHEMES.get(link.protocol, link.protocol), *(options.get(name) for name in _TELLING_APART))


def join(root: str, relative_path: str) -> str:
    """Join a pyramid's root in its filesystem and the checked path of an object.

    Where the root is a URL, the path is quoted and goes before the query, so that every object of a
    signed base URL keeps the signature.

    Examples
    --------
    >>> join("bucket/pyramid/", "info"), join("", "info")
    ('bucket/pyramid/info', 'info')
    >>> join("http://host/a?sig=x%2F", "1e+06/0-1_0-1_0-1")
    'http://host/a/1e%2B06/0-1_0-1_0-1?sig=x%2F'
    """
    if not root:
        return relative_path
    if "://" not in root:
        return f"{root.rstrip('/')}/{relative_path}"
    base, mark, query = root.partition("?")
    quoted = urllib.parse.quote(relative_path, safe="/!$&'()*,;=:@~")
    return f"{base.rstrip('/')}/{quoted}{mark}{query}"


def check_relative_path(path: str) -> str:
    """Check that a path stays inside the pyramid.

    Raises
    ------
    ValueError
        If the path is empty, absolute, has a NUL, an empty segment, or a segment that is or decodes
        to ``..``.

    Examples
    --------
    >>> check_relative_path("mesh/./1:0")
    'mesh/1:0'
    >>> check_relative_path("mesh/%2e%2e/%2e%2e/etc")
    Traceback (most recent call last):
        ...
    ValueError: 'mesh/%2e%2e/%2e%2e/etc' is not a path inside the pyramid
    """
    if not isinstance(path, str):
        path = os.fspath(path)
    decoded = re.split(r"[/\\]", urllib.parse.unquote(path))
    segments = path.split("/")
    if ".." in decoded or "" in segments or "\0" in "".join(decoded) or "\0" in path:
        message = f"{path!r} is not a path inside the pyramid"
        raise ValueError(message)
    inside = "/".join(segment for segment in segments if segment != ".")
    if not inside:
        message = f"{path!r} does not name an object in the pyramid"
        raise ValueError(message)
    return inside


def convert_file_url_to_pathname(url: str) -> str:
    """Convert a local ``file://`` URL or a plain pathname to a pathname.

    Parameters
    ----------
    url : str
        A plain pathname (returned as it is, also an empty one), ``file:///path`` or ``file://localhost/path`` with
        percent-encoding, each also with ``precomputed://`` in front.

    Returns
    -------
    str
        A pathname suitable for `open`.

    Raises
    ------
    URLError
        If this is another kind of URL, or not a local one.

    Examples
    --------
    >>> convert_file_url_to_pathname("precomputed://file:///my%20pyramid")
    '/my pyramid'
    """
    text = _strip_precomputed(url)
    scheme = _scheme_of(text)
    if scheme is None:
        return text
    if scheme != "file":
        message = f"{_without_secrets(text)}: a local path or a file:/// URL is required"
        raise URLError(message)
    parts = urllib.parse.urlsplit(text)
    if parts.netloc not in ("", "localhost"):
        meant = (
            f"write {parts.netloc}{parts.path}" if parts.netloc in (".", "..") else "is a slash missing in file:///?"
        )
        message = f"{_without_secrets(text)}: not a local file; {meant}"
        raise URLError(message)
    try:
        return urllib.parse.unquote(parts.path, errors="strict")
    except UnicodeDecodeError as exc:
        message = f"{text}: the percent-encoded bytes cannot be decoded, as they are not UTF-8"
        raise URLError(message) from exc


def _strip_precomputed(url: str) -> str:
    _check_pasted(url)
    _check_fragment(url)
    text = _unwrapped(url)
    adapter = re.search(r"\|([a-z][a-z0-9+.-]*):([^|]*)", text)
    if adapter:
        unknown = f"is not known; only a closing {_PRECOMPUTED_ADAPTER!r} is"
        if adapter[1] == "zip":
            unknown = f"is written zip://{adapter[2]}::{_without_secrets(text[: adapter.start()])}"
        elif _scheme_of(text) is None:
            unknown += "; for a local file of this name pass a pathlib.Path"
        message = f"{_without_secrets(text)}: the adapter {adapter[1]!r} {FOREIGN.get(adapter[1], unknown)}"
        raise URLError(message)
    if url and not text.strip(":"):  # an empty path is the current directory, as in neuroglancer-scripts
        message = f"{url!r} names no pyramid"
        raise URLError(message)
    return text


def _unwrapped(url: str) -> str:
    """Take off what says that this is a precomputed pyramid."""
    return re.sub(f"^{PRECOMPUTED_PREFIX}", "", url, flags=re.IGNORECASE).removesuffix(_PRECOMPUTED_ADAPTER)


def _check_pasted(text: str) -> None:
    """Refuse a URL with something around it, which would be taken for a path, or for a part of a name."""
    url = text.strip(_PASTED_ALONG)
    if url != text and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", url):
        message = f"{_without_secrets(url)}: there are spaces or quotes around this URL: write it without"
        raise URLError(message)


def _path_of(path: object) -> str:
    """Return what a path that is not a string stands for."""
    if not isinstance(path, bytes | os.PathLike):
        message = f"url: expected a string, a path or a UPath, got {type(path).__name__}"
        raise TypeError(message)
    text = os.fspath(path)
    if not isinstance(text, str):
        message = f"the path {text!r} is bytes: pass os.fsdecode(path), which is a string"
        raise TypeError(message)
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", text)
    if match and _is_protocol(match[1].lower()):
        message = f"{_without_secrets(text)}: a URL has to be a string; a pathlib.Path has lost one of its slashes"
        raise URLError(message)
    return text


def _is_protocol(scheme: str) -> bool:
    import fsspec  # noqa: PLC0415

    return scheme in {*fsspec.available_protocols(), "precomputed", "s3+http", "s3+https"}


def _chain(text: str, options: Options) -> list[Link]:
    """Read a chain of URLs, or a single one."""
    parts = _split_chain(text)
    links: list[Link] = []
    for part in parts:
        if links and not _takes_target(links[-1].protocol):
            shown = _CHAIN.join(map(_without_secrets, parts))
            message = (
                f"{shown}: nothing can be chained to {links[-1].protocol}:// by '::'; where that is part of a name, "
                "pass the filesystem as fs=, and the path in it as the URL"
            )
            raise URLError(message)
        links.append(_link(part, options, chained=len(parts) > 1))
    if len(links) > 1 and any(_CHAIN in link.url for link in links):
        message = f"{_CHAIN.join(link.display for link in links)}: write addresses in a chain in full, without '::'"
        raise URLError(message)
    return links


def _split_chain(text: str) -> list[str]:
    """Split a chain of URLs; not at an address such as ``[::1]``, nor a local path, as nothing is chained to that."""
    if "://" not in text and text.partition(_CHAIN)[0] not in SCHEMES:
        return [text]
    first, *others = re.split(r"::(?![0-9A-Fa-f:.]*\])", text)
    is_path = _scheme_of(first) in (None, *_LOCAL_NAMES) and (first in _LOCAL_NAMES or first not in SCHEMES)
    if not is_path:
        return [first, *others]
    if any("://" in part for part in others):
        message = f"{_without_secrets(first)}: nothing can be chained to a path by '::'; is this a misspelt protocol?"
        raise URLError(message)
    return [text]


def _check_behind(last: Link) -> None:
    """Refuse an archive or a cache that is in front of nothing: it would be the current directory."""
    if last.protocol in _IN_FRONT and last.options.keys().isdisjoint(("fo", "fs", "target_protocol")):
        message = (
            f"{last.display}: {last.protocol}:// is in front of another place: write {last.protocol}://folder::URL, "
            f"or {last.protocol}::URL"
        )
        raise URLError(message)


def _takes_target(protocol: str) -> bool:
    """Whether a filesystem is in front of another one, such as a cache or an archive."""
    import fsspec  # noqa: PLC0415
    from fsspec.implementations.chained import ChainedFileSystem  # noqa: PLC0415

    kind = fsspec.get_filesystem_class(protocol)
    return issubclass(kind, ChainedFileSystem) or not inspect.signature(kind.__init__).parameters.keys().isdisjoint(
        ("fo", "target_protocol")
    )


def _scheme_of(text: str) -> str | None:
    """Return the scheme in lower case, or None for a plain path."""
    if os.name == "nt" and re.match(r"[A-Za-z]:[\\/]", text):
        return None
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(?!:)", text)
    return match[1].lower() if match else None


def _link(text: str, options: Options, *, chained: bool) -> Link:
    """Read one part of a chain, taking the options that are nested under its protocol."""
    if chained and not text:
        message = "a part of the chain of URLs is empty, and names no pyramid"
        raise URLError(message)
    if chained and text in SCHEMES and text not in _LOCAL_NAMES:
        text += "://"
    scheme = _scheme_of(text)
    if scheme is None or scheme in _LOCAL_NAMES:
        return _local_link(text, options)
    if scheme in FOREIGN:
        message = f"{_without_secrets(text)}: {scheme}:// {FOREIGN[scheme]}"
        raise URLError(message)
    if not re.match(r"[^:]+://", text):
        shown = _without_secrets(text)
        message = (
            f"{shown}: a URL has two slashes after its scheme ({scheme}://...); "
            f"for a local file of this name write ./{shown}"
        )
        raise URLError(message)
    extra: Options = {}
    if scheme in ("s3+http", "s3+https"):
        text, extra = _s3_at_endpoint(text)
        scheme = "s3"
    else:
        text = scheme + text[len(scheme) :]
    _require_driver(scheme, text)
    if scheme in ("http", "https"):
        text = _quoted_base(text)
    if scheme in ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss") and re.search("://(/|$)", text):
        message = f"{_without_secrets(text)}: the URL names no bucket"
        raise URLError(message)
    own = _merged(extra, _take_options(scheme, options))
    bare = text == f"{scheme}://"
    inherits = bare and SCHEMES.get(scheme, Scheme()).copies is not None
    display = scheme if inherits else _without_secrets(text)
    return Link(scheme, text, display, own, has_path=not inherits)


def _local_link(text: str, options: Options) -> Link:
    url = re.sub("^local:", "file:", text)
    if at_home := re.match("(?i:file)://(?=~)", url):  # as fsspec has it
        return _path_link(convert_file_url_to_pathname(f"file:///{url[at_home.end() :]}")[1:], options)
    return _path_link(convert_file_url_to_pathname(url), options)


def _path_link(path: str, options: Options) -> Link:
    path = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111
    return Link("file", f"file://{path}", path, _take_options("file", options), has_path=True)


def _s3_at_endpoint(text: str) -> tuple[str, Options]:
    """Read Neuroglancer's ``s3+https://endpoint/bucket/path``."""
    parts = urllib.parse.urlsplit(text)
    bucket_path = parts.path.lstrip("/")
    if not parts.netloc or not bucket_path:
        message = f"{_without_secrets(text)}: expected s3+https://endpoint/bucket/path"
        raise URLError(message)
    endpoint = f"{parts.scheme.removeprefix('s3+')}://{parts.netloc}"
    options = {"endpoint_url": endpoint, "config_kwargs": {"s3": {"addressing_style": "path"}}}
    return f"s3://{urllib.parse.unquote(bucket_path)}", options


def _quoted_base(text: str) -> str:
    """Quote what a person types into an HTTP URL and leave what is quoted alone; no fragment."""
    try:
        parts = urllib.parse.urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        message = f"{_without_secrets(text)}: {exc}"
        raise URLError(message) from exc
    if not host:
        message = f"{_without_secrets(text)}: the URL names no host"
        raise URLError(message)
    path = urllib.parse.quote(parts.path, safe="/%!$&'()*+,;=:@~")
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def _require_driver(protocol: str, text: str) -> None:
    """Import the filesystem's class, or tell what is missing."""
    import fsspec  # noqa: PLC0415

    if protocol in ("gs", "gcs"):
        # Else gcsfs asks for the bucket's layout before each operation: a minute of stalls on
        # servers that do not know the question. It is read when gcsfs is first imported.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as exc:
        package = SCHEMES.get(protocol, Scheme()).package
        hint = f"pip install {package}" if package else str(exc)
        message = f"{_without_secrets(text)}: the driver of {protocol}:// is not installed: {hint}"
        raise URLError(message) from exc
    except ValueError as exc:
        message = (
            f"{_without_secrets(text)}: the scheme {protocol!r} is not known to fsspec; "
            "is it misspelt, or is a package to be installed that registers it?"
        )
        raise URLError(message) from exc


def _take_options(protocol: str, options: Options) -> Options:
    """Take out what is nested under a protocol, by any of the names of its row."""
    row = SCHEMES.get(protocol)
    names = [name for name, scheme in SCHEMES.items() if scheme is row] if row else [protocol]
    taken: Options = {"skip_instance_cache": True}
    for name in names:
        if isinstance(options.get(name), Mapping):
            taken.update(options.pop(name))
    return taken


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> Options:
    """Merge options, the second one's winning, one level into options that are mappings."""
    merged = dict(first)
    for key, value in second.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = {**merged[key], **value}
        else:
            merged[key] = value
    return merged


_LONGEST_PUBLIC_PART = 16  # characters of an Authorization header's parts that are no secrets: AWS4-HMAC-SHA256
_AT_IN_NAMES = ("abfs", "abfss", "az", "github", "git")


def _without_secrets(text: str) -> str:
    """Strip the query from a URL, and the user and the password unless the @ is part of a name."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(/*)", text)
    if not match:
        return text
    rest = text[match.end() :].partition("?")[0]
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", rest):  # a URL in a URL
        return match[0] + _without_secrets(rest)
    if match[1].lower() not in _AT_IN_NAMES:
        authority, slash, path = rest.partition("/")
        rest = authority.rpartition("@")[2] + slash + path
    return match[0] + rest


_SECRET_OPTION = re.compile(
    r"key$|secret|token|pass|credential|connection_string|auth|headers|cookies|signature", re.IGNORECASE
)


def _secret_values(options: object, *, secret: bool) -> Iterable[str]:
    """Find the texts in storage options that stand under a telling name."""
    if isinstance(options, Mapping):
        for key, value in options.items():
            yield from _secret_values(value, secret=secret or bool(_SECRET_OPTION.search(str(key))))
    elif isinstance(options, (list, tuple)):
        for value in options:
            yield from _secret_values(value, secret=secret)
    elif isinstance(options, str):
        yield from _secrets_in_url(options)
        if secret and options != "anon":
            yield options


def _has_credentials(link: Link) -> bool:
    scheme = SCHEMES.get(link.protocol, Scheme())
    settled = ((name, link.options.get(name)) for name in scheme.credential_options)
    return (
        any(value not in (None, "", scheme.anonymous.get(name)) for name, value in settled)
        or any(_secret_values(link.options, secret=False))
        or any(_secrets_in_url(link.url))
    )


def _longest_first(secrets: Iterable[str]) -> tuple[str, ...]:
    """Sort what is to be replaced in texts, so that no part of a secret is left; without what is too short for one."""
    return tuple(sorted((text for text in secrets if len(text) > 5), key=len, reverse=True))  # noqa: PLR2004


def _secrets_in_url(text: str) -> Iterable[str]:
    if "://" in text:
        parts = urllib.parse.urlsplit(text)
        password = parts.netloc.rpartition("@")[0].partition(":")[2]
        yield from (parts.query, password, urllib.parse.unquote(password))
        for _, value in urllib.parse.parse_qsl(parts.query):
            yield from (value, urllib.parse.quote(value, safe=""))
