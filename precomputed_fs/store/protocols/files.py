"""How files are written atomically, on disk and over SFTP: to a temporary file that is then renamed."""

import itertools
import stat
import time
from abc import abstractmethod
from contextlib import suppress
from typing import Any

from precomputed_fs.store.protocols.base import Filesystem, Synchronous, check_kind, is_temporary

LOCK_SECONDS = 30.0
"""A lock that nobody has touched for so long is stale."""

LOCK_PAUSE = 0.02
"""The longest pause, in seconds, before a lock is tried again."""

_LEFT_OVER = 86400.0  # seconds after which the writer of a temporary file is taken for dead
_MOST_REMEMBERED = 4096

_swept: set[str] = set()
"""Folders in which this process has looked for stale files."""


class Files(Synchronous):
    """A protocol whose objects are files, put in place by renaming."""

    follows_links = True

    most_swept = 100_000
    """How many entries of a folder are searched for stale files."""

    @abstractmethod
    def publish(self, fs: Filesystem, temporary: str, path: str, create: bool) -> None:
        """Put a finished temporary sibling in place atomically; with `create`, only if there is no file yet."""

    def sweep(self, fs: Filesystem, folder: str) -> None:
        """Remove files that killed writers left in a folder long ago, before the first write into it."""
        now = time.time()
        if _is_first_write(f"{getattr(fs, 'host', '')}:{folder}"):
            with suppress(OSError):
                names = itertools.islice(self.names_in(fs, folder, self.most_swept), self.most_swept)
                for path in [f"{folder}/{name}" for name in filter(is_temporary, names)]:
                    with suppress(OSError):  # it may be another user's
                        if fs.isfile(path) and (self.state(fs, path).modified or now) < now - _LEFT_OVER:
                            fs.rm_file(path)


def check_file(state: Any, path: str) -> None:  # noqa: ANN401 - an os.stat_result, or paramiko's
    """Refuse to read anything but a regular file, before it is opened: a pipe would block."""
    if not stat.S_ISREG(state.st_mode):
        check_kind("directory" if stat.S_ISDIR(state.st_mode) else "other", path)


def _is_first_write(folder: str) -> bool:
    if folder in _swept:
        return False
    if len(_swept) >= _MOST_REMEMBERED:
        _swept.clear()
    _swept.add(folder)
    return True
