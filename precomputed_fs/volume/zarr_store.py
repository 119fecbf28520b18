"""Zarr's own stores, at a place of ours: failures are errors of ours, which name the URL and show no secrets."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import zarr.storage
from fsspec import AbstractFileSystem
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from precomputed_fs.pyramid.buffers import OCTET_STREAM
from precomputed_fs.store.failures import Failures, Tries
from precomputed_fs.store.location import Location
from precomputed_fs.store.loop import in_thread
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.protocols import protocol_of
from precomputed_fs.store.protocols.base import Filesystem
from precomputed_fs.store.requests import Delete, Get, List

_ATTEMPTS, _TIMEOUT = 5, 30.0  # of requests

_T = TypeVar("_T")


class _WithQuery(AbstractFileSystem):  # type: ignore[misc] # no types come with it
    """Files over HTTP of which each is asked for with the same query, as one with a token or a signature."""

    cachable = False

    def __init__(self, fs: Filesystem, query: str) -> None:
        super().__init__()
        self._fs, self._query = fs, query

    def cat_file(self, path: str, start: int | None = None, end: int | None = None) -> Any:  # noqa: ANN401
        return self._fs.cat_file(f"{path}?{self._query}", start=start, end=end)

    def ls(self, path: str, **_: Any) -> Any:  # noqa: ANN401
        raise FileNotFoundError(path)  # as of servers that list nothing


class RemoteStore(zarr.storage.FsspecStore):
    """A hierarchy wherever fsspec reaches.

    Parameters
    ----------
    location : Location
    fs : fsspec.AbstractFileSystem
        What `location.open` returns, and the hierarchy's root in it.
    root : str
    read_only : bool
    """

    def __init__(self, location: Location, fs: Filesystem, root: str, *, read_only: bool) -> None:
        from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper  # noqa: PLC0415 - where it is needed

        is_alone = any(protocol_of(link.protocol).one_at_a_time for link in location.links)  # SFTP's client would hang
        turns = asyncio.Semaphore(1) if is_alone else None
        in_threads = AsyncFileSystemWrapper(fs, True, semaphore=turns)  # on zarr's loop, connections are never closed
        super().__init__(in_threads, path=root, read_only=read_only)
        self._location = location
        self._failures = Failures(location, _ATTEMPTS)
        self._objects = ObjectStore(location, attempts=_ATTEMPTS, timeout=_TIMEOUT)

    def __repr__(self) -> str:
        return self._location.display()

    def with_read_only(self, read_only: bool = False) -> "RemoteStore":
        """Return a store of the same that may, or may not, be written."""
        return RemoteStore(self._location, self.fs.sync_fs, self.path, read_only=read_only)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return an object, or a part of it; None if the store says that there is none."""
        return await self._tried(Get(key), lambda: super(RemoteStore, self).get(key, prototype, byte_range))

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        """Store an object, whole or not at all, in a folder that is made if need be."""
        if byte_range is not None:
            raise NotImplementedError(f"{self}: a part of {key} cannot be written")
        self._check_writable()
        data = value.to_bytes()
        await in_thread(lambda: self._objects.write(key, data, content_type=OCTET_STREAM, create=False))

    async def delete(self, key: str) -> None:
        """Delete an object."""
        await self._tried(Delete(key), lambda: super(RemoteStore, self).delete(key))

    async def delete_dir(self, prefix: str) -> None:
        """Delete all objects in a folder."""
        await self._tried(Delete(prefix), lambda: super(RemoteStore, self).delete_dir(prefix))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names in a folder."""

        async def listed() -> list[str]:
            return [name async for name in super(RemoteStore, self).list_dir(prefix)]

        for name in await self._tried(List(prefix, 0), listed):
            yield name

    async def _tried(self, request: Any, call: Callable[[], Awaitable[_T]]) -> _T:  # noqa: ANN401 - see `Failures`
        """Do something, and again where its failure may pass."""
        tries = Tries()
        while True:
            try:
                return await call()
            except Exception as exc:  # noqa: BLE001 - each becomes one of ours
                error, due = self._failures.judged(request, exc, tries)
            if due is None:
                try:
                    raise error  # outside of the handler: a cause with secrets would follow as context
                finally:
                    del error  # its traceback has this frame
            await asyncio.sleep(max(0.0, due - time.monotonic()))


def store_at(location: Location, *, read_only: bool) -> Any:  # noqa: ANN401 - one of zarr's stores
    """Return a store of zarr's own.

    Raises
    ------
    NotFoundError, AccessDeniedError, DataAccessError
        If the filesystem cannot be opened, as an archive that is not there.
    """
    try:
        fs, root = location.open(_TIMEOUT)
    except Exception as exc:  # noqa: BLE001 - each becomes one of ours
        failure, _ = Failures(location, 1).judged(None, exc, Tries())
    else:
        if len(location.links) == 1 and location.links[0].protocol == "file" and location.fs is None:
            return zarr.storage.LocalStore(root, read_only=read_only)
        if location.links[0].protocol in ("http", "https") and "?" in root:
            root, _, query = root.partition("?")
            fs = _WithQuery(fs, query)
        return RemoteStore(location, fs, root, read_only=read_only)
    raise failure
