"""How fsspec's caches are used, which keep copies of another filesystem's objects on disk."""

import os
import time
from collections.abc import Mapping

from precomputed_fs.store.protocols.base import Filesystem, Synchronous, protocol_name, read_opened, temporary_name
from precomputed_fs.store.protocols.local import Local
from precomputed_fs.store.protocols.sftp import Sftp

_LOCAL, _SFTP = Local(), Sftp()
_WITH_LINKS: Mapping[str, Synchronous] = {"file": _LOCAL, "local": _LOCAL, "sftp": _SFTP, "ssh": _SFTP}
"""Protocols with symbolic links, by the names of their filesystems."""


class SimpleCache(Synchronous):
    """A cache that keeps whole objects, without expiry."""

    is_read_only = True
    is_remote = True
    cheap_misses = False
    one_at_a_time = True
    keeps_copies = True
    follows_links = True

    def read(self, fs: Filesystem, path: str, limit: int) -> bytes:
        return read_opened(fs, path, limit)

    def real_path(self, fs: Filesystem, path: str) -> str:
        """Return the path without symbolic links in the cached filesystem."""
        target = _WITH_LINKS.get(protocol_name(fs.fs))
        return path if target is None else target.real_path(fs.fs, path)

    def find_copy(self, fs: Filesystem, path: str) -> str | None:
        """Find the file with a complete and valid copy; reading through the cache would download without checks."""
        return str(found) if (found := fs._check_file(path)) else None

    def keep_copy(self, fs: Filesystem, path: str, data: bytes) -> None:
        """Keep a copy, by an atomic rename."""
        fs._mkcache()
        name = os.path.join(fs.storage[-1], fs._mapper(path))
        temporary = temporary_name(fs.storage[-1])
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, name)


class RecordingCache(SimpleCache):
    """A cache that keeps objects or blocks of objects, with a record of each."""

    def find_copy(self, fs: Filesystem, path: str) -> str | None:
        found = fs._check_file(path)
        return str(found[1]) if found and found[0]["blocks"] is True else None

    def keep_copy(self, fs: Filesystem, path: str, data: bytes) -> None:
        super().keep_copy(fs, path, data)
        detail = {"original": path, "fn": fs._mapper(path), "blocks": True, "time": time.time(), "uid": None}
        if fs.check_files:
            detail["uid"] = fs.fs.ukey(path)
        fs._metadata.update_file(path, detail)
        fs.save_cache()
