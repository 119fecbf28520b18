"""fsspec's caches, which keep copies of another filesystem's objects on disk."""

import os
import time

from precomputed_fs.store.protocols.base import Filesystem, Synchronous, protocol_name, read_opened, temporary_name


class SimpleCache(Synchronous):
    """A cache that keeps whole objects, for good."""

    is_read_only = True
    is_remote = True
    cheap_misses = False
    one_at_a_time = True
    keeps_copies = True
    follows_links = True

    def read(self, fs: Filesystem, path: str, limit: int) -> bytes:
        return read_opened(fs, path, limit)

    def real_path(self, fs: Filesystem, path: str) -> str:
        """Return what a path is without symbolic links where the objects themselves are."""
        from precomputed_fs.store.protocols import protocol_of

        behind = protocol_of(protocol_name(fs.fs))
        return behind.real_path(fs.fs, path) if isinstance(behind, Synchronous) else path

    def find_copy(self, fs: Filesystem, path: str) -> str | None:
        """Find the file that holds a whole and valid copy; reading through the cache would download unchecked."""
        return str(found) if (found := fs._check_file(path)) else None

    def keep_copy(self, fs: Filesystem, path: str, data: bytes) -> None:
        """Keep a copy, complete from its first moment on."""
        fs._mkcache()
        name = os.path.join(fs.storage[-1], fs._mapper(path))
        temporary = temporary_name(fs.storage[-1])
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, name)


class RecordingCache(SimpleCache):
    """A cache that keeps objects or blocks of them, and a record of each."""

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
