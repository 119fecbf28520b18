"""How files on an SSH server are read and written, through paramiko.

`fs.ftp` is paramiko's client, which fsspec does not document.
"""

import itertools
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import MappingProxyType
from typing import Any

from precomputed_fs.store.protocols import files
from precomputed_fs.store.protocols.base import LOCK_SUFFIX, Entry, Filesystem, read_file
from precomputed_fs.store.protocols.files import Files, check_file

_Client = Any  # a paramiko.SFTPClient


class Sftp(Files):
    """Files reached by SFTP."""

    package = "paramiko"
    misnamed = MappingProxyType({"key_file": "'key_filename'", "passwd": "'password'", "user": "'username'"})
    is_remote = True
    cheap_misses = False
    one_at_a_time = True
    most_swept = 10_000

    def is_alive(self, fs: Filesystem) -> bool:
        transport = fs.client.get_transport()
        return transport is not None and transport.is_active()

    def close(self, fs: Filesystem) -> None:
        fs.client.close()

    def read(self, fs: Filesystem, path: str, limit: int) -> bytes:
        state = fs.ftp.stat(path)
        check_file(state, path)
        with fs.ftp.open(path) as file:
            if state.st_size <= limit:
                file.prefetch(state.st_size)  # requests all blocks at once; otherwise `read` waits for each
            return read_file(file, limit, state.st_size)

    def names_in(self, fs: Filesystem, folder: str, limit: int) -> Iterable[str]:
        return (entry.filename for entry in itertools.islice(fs.ftp.listdir_iter(folder), limit))

    def entries(self, fs: Filesystem, folder: str) -> Iterable[Entry]:
        """List a folder at once: paramiko's iterator breaks if anything else is asked meanwhile."""
        return [entry for found in fs.ftp.listdir_attr(folder) if (entry := _entry(fs.ftp, folder, found)) is not None]

    def real_path(self, fs: Filesystem, path: str) -> str:
        return str(fs.ftp.normalize(path))

    def publish(self, fs: Filesystem, temporary: str, path: str, create: bool) -> None:
        if not create:
            _date_after(fs.ftp, temporary, path)
            fs.ftp.posix_rename(temporary, path)
            return
        try:
            fs.ftp.rename(temporary, path)  # SFTP's rename never replaces; its error gives no reason
        except OSError as exc:
            if fs.exists(path):
                raise FileExistsError(path) from exc
            raise

    @contextmanager
    def lock(self, fs: Filesystem, path: str) -> Iterator[None]:
        """Hold a lock file beside an existing object; if its holder dies, it expires after 30 seconds."""
        if _mtime(fs.ftp, path) is None:
            yield
            return
        parent, _, name = path.rpartition("/")
        lock = f"{parent}/.{name}{LOCK_SUFFIX}"
        mine = _take(fs.ftp, lock)
        try:
            yield
        finally:
            if _mtime(fs.ftp, lock) == mine:
                with suppress(OSError):
                    fs.ftp.remove(lock)


def _entry(ftp: _Client, folder: str, found: Any) -> Entry | None:  # noqa: ANN401 - paramiko's SFTPAttributes
    """Return a file or folder, or where a link leads to one; None for anything else."""
    state = found
    if stat.S_ISLNK(found.st_mode):
        with suppress(FileNotFoundError):
            state = ftp.stat(f"{folder}/{found.filename}")
    is_folder = stat.S_ISDIR(state.st_mode)
    return Entry(found.filename, is_folder, state.st_size) if is_folder or stat.S_ISREG(state.st_mode) else None


def _mtime(ftp: _Client, path: str) -> int | None:
    try:
        return int(ftp.stat(path).st_mtime)
    except FileNotFoundError:
        return None


def _date_after(ftp: _Client, temporary: str, path: str) -> None:
    """Date a file later than the one it will replace: SFTP's times, which tell versions apart, are whole seconds."""
    before, now = _mtime(ftp, path), _mtime(ftp, temporary)
    if before is not None and now is not None and now <= before:
        ftp.utime(temporary, (before + 1, before + 1))


def _take(ftp: _Client, lock: str) -> int:
    """Create a lock file as soon as there is none, or a stale one; returns its modification time."""
    began = since = time.monotonic()
    seen: int | None = None
    while True:
        try:
            with ftp.open(lock, "wx") as file:
                return int(file.stat().st_mtime)
        except (FileNotFoundError, PermissionError):
            raise
        except OSError as exc:  # SFTP gives no reason
            failure = exc
        there, now = _mtime(ftp, lock), time.monotonic()
        if there is None or seen not in {None, there}:  # others were faster, or the failure has another cause
            if now > began + 2 * files.LOCK_SECONDS:
                raise failure
        elif seen is not None and now > since + files.LOCK_SECONDS:
            with suppress(FileNotFoundError):  # its holder has died
                ftp.remove(lock)
        if there != seen:
            seen, since = there, now
        time.sleep(files.LOCK_PAUSE)
