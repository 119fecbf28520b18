"""How local files are read and written."""

import errno
import io
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from precomputed_fs.format.scale_layout import Pieces
from precomputed_fs.store.protocols import files
from precomputed_fs.store.protocols.base import Entry, Filesystem, State, read_file
from precomputed_fs.store.protocols.files import Files, check_file

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_TO_READ = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_LATELY = 1.0  # seconds within which a file system may give two changes of a folder the same time
_SHORTEST_LOCK_PAUSE = 0.0002  # seconds
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class Local(Files):
    """Files on this machine."""

    def read(self, fs: Filesystem, path: str, limit: int) -> bytes:
        check_file(os.stat(path), path)
        with io.FileIO(path) as file:  # the fastest way: it has no buffer
            return read_file(file, limit, os.fstat(file.fileno()).st_size)

    def read_range(self, fs: Filesystem, path: str, start: int, end: int | None) -> bytes:
        check_file(os.stat(path), path)
        return super().read_range(fs, path, start, end)

    def read_pieces(self, fs: Filesystem, path: str, size: int, pieces: Pieces) -> list[bytes] | None:
        if not hasattr(os, "pread"):  # Windows
            return None
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe does not block
        try:
            state = os.fstat(descriptor)
            check_file(state, path)
            if state.st_size != size:
                return None
            data = [os.pread(descriptor, end - begin, begin) for begin, end in pieces]
        finally:
            os.close(descriptor)
        return data if sum(map(len, data)) == sum([end - begin for begin, end in pieces]) else None

    def state(self, fs: Filesystem, path: str) -> State:
        state = os.stat(path)
        return State(f"{state.st_ino} {state.st_size} {state.st_mtime_ns}", state.st_size, state.st_mtime)

    def names_in(self, fs: Filesystem, folder: str, limit: int) -> Iterable[str]:
        with os.scandir(folder or "/") as entries:
            yield from (entry.name for entry in entries)

    def entries(self, fs: Filesystem, folder: str) -> Iterable[Entry]:
        return _entries(os.scandir(folder or "/"))

    def real_path(self, fs: Filesystem, path: str) -> str:
        return os.path.realpath(path)

    def changed_lately(self, fs: Filesystem, folder: str) -> bool:
        try:
            return os.stat(folder).st_mtime > time.time() - _LATELY
        except OSError:  # if it is absent, the time of the folder above tells
            return False

    def publish(self, fs: Filesystem, temporary: str, path: str, create: bool) -> None:
        now = time.time_ns()
        os.utime(temporary, ns=(now, now))  # file systems count milliseconds and reuse inodes: see `state`
        if not create:
            os.replace(temporary, path)
            return
        try:
            os.link(temporary, path)
        except OSError as exc:
            if isinstance(exc, FileExistsError) or exc.errno not in _NO_HARD_LINKS:
                raise
            if os.path.lexists(path):  # no hard links here (exFAT, some network mounts): check, then write
                raise FileExistsError(path) from exc
            os.replace(temporary, path)
        else:
            os.unlink(temporary)

    @contextmanager
    def lock(self, fs: Filesystem, path: str) -> Iterator[None]:
        """Hold ``flock`` on the file at a path, if there is one.

        There is no separate lock file, so after waiting it is checked again that the locked file is still at the path.
        Windows and file systems without ``flock`` have no lock.
        """
        modes = [os.O_RDONLY, os.O_RDWR]  # NFS locks only what is open for writing
        if fcntl is None:
            modes.clear()
        while modes:
            try:
                file = os.open(path, modes[0] | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                break
            try:
                if not _wait_for_lock(file):
                    del modes[0]
                elif _stands_at(file, path):
                    yield
                    return
            finally:
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)  # closing does not unlock if a forked child inherited the file
                os.close(file)
        yield


def _entries(found: "os._ScandirIterator[str]") -> Iterator[Entry]:
    """Yield files and folders, and links to them."""
    with found as entries:
        for entry in entries:
            if entry.is_dir() or entry.is_file():
                yield Entry(entry.name, entry.is_dir(), entry.stat().st_size)


def _wait_for_lock(file: int) -> bool:
    """Take the ``flock``, which others hold only briefly; False if the file system has none."""
    deadline, pause = time.monotonic() + files.LOCK_SECONDS, _SHORTEST_LOCK_PAUSE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"another process has held its lock (flock) for {files.LOCK_SECONDS:g} seconds"
                ) from exc
        except OSError:
            return False
        else:
            return True
        time.sleep(pause)
        pause = min(2 * pause, files.LOCK_PAUSE)


def _stands_at(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False
