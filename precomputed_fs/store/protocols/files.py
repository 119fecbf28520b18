"""What local files and those of SFTP have in common: each is written beside its place, and put there as a whole."""

import itertools
import stat
import time
from abc import abstractmethod
from contextlib import suppress
from typing import Any

from precomputed_fs.store.protocols.base import Filesystem, Synchronous, check_kind, is_temporary

LOCK_SECONDS = 30.0
"""After which a lock that nobody has touched is left over."""

LOCK_PAUSE = 0.02
"""In seconds, at most, between two looks at a lock of others."""

_LEFT_OVER = 86400.0  # seconds, after which a temporary file is of a writer that was killed
_MOST_REMEMBERED = 4096

_swept: set[str] = set()
"""Folders in which this process has looked for such files."""


class Files(Synchronous):
    """A protocol whose objects are files, which are put in place by renaming them."""

    follows_links = True

    most_swept = 100_000
    """Entries of a folder that are looked at for what is left over."""

    @abstractmethod
    def publish(self, fs: Filesystem, temporary: str, path: str, create: bool) -> None:
        """Put a finished temporary sibling in place, atomically; if it is to create, where there is no file yet."""

    def sweep(self, fs: Filesystem, folder: str) -> None:
        """Remove what writers that were killed long ago have left in a folder, before the first write into it."""
        now = time.time()
        if _is_first_write(f"{getattr(fs, 'host', '')}:{folder}"):
            with suppress(OSError):
                names = itertools.islice(self.names_in(fs, folder, self.most_swept), self.most_swept)
                for path in [f"{folder}/{name}" for name in filter(is_temporary, names)]:
                    with suppress(OSError):  # of another user
                        if fs.isfile(path) and (self.state(fs, path).modified or now) < now - _LEFT_OVER:
                            fs.rm_file(path)


def check_file(state: Any, path: str) -> None:  # noqa: ANN401 - an os.stat_result, or paramiko's
    """Refuse to read what is no regular file; before it is opened, as a pipe would wait."""
    if not stat.S_ISREG(state.st_mode):
        check_kind("directory" if stat.S_ISDIR(state.st_mode) else "other", path)


def _is_first_write(folder: str) -> bool:
    if folder in _swept:
        return False
    if len(_swept) >= _MOST_REMEMBERED:
        _swept.clear()
    _swept.add(folder)
    return True
