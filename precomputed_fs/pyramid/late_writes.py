"""Chunks that nobody flushes are written late, as the buffer of a file would be.

That is when the pyramid that they were stored by is garbage, or at the end of the process.
"""

import atexit
import logging
import os
import sys
import threading
import warnings
import weakref

from precomputed_fs.pyramid.shard_writer import ShardWriter
from precomputed_fs.store.loop import expect_no_threads
from precomputed_fs.store.objects import ObjectStore

_LATE_SECONDS = 60.0  # that the shards of a pyramid that is garbage are waited for

_log = logging.getLogger("precomputed_fs")

_watched: "dict[int, _Watched]" = {}
"""By their id; what they know is written at the end of the process, if not before."""

_ends_in: int | None = None
"""The process at whose end `_write_all` is called."""


def watch(owner: object, writer: ShardWriter, store: ObjectStore) -> None:
    """Have everything written when its owner is garbage, at the end of the process at the latest."""
    watched = _Watched(writer, store, repr(owner))
    _watched[id(watched)] = watched
    weakref.finalize(owner, _let_go, watched).atexit = False  # `_write_all` is for that


class _Watched:
    """What is to be written of one pyramid."""

    def __init__(self, writer: ShardWriter, store: ObjectStore, owner: str) -> None:
        self.lock = threading.Lock()
        self._writer = writer
        self._store = store
        self._owner = owner

    def unwritten(self) -> str:
        """Tell what is not written yet; empty if everything is."""
        parts = [f"{count} chunks of {key}" for key, count in self._writer.waiting.items()]
        if self._store.is_incomplete:
            parts.append("the end of the archive")
        return ", ".join(parts)

    def write(self) -> str:
        """Write what is not written yet. What fails is logged, and discarded.

        Returns
        -------
        str
            What was not written.
        """
        with self.lock:
            late = self.unwritten()
            try:
                for shard, name, exc in self._writer.flush_each():
                    _log.error("%s: chunks that were not flushed are lost: %s", name, exc)
                    self._writer.give_up(shard)
                if self._store.is_incomplete:
                    self._complete_archive()
            except BaseException as exc:
                names = ", ".join(self._writer.unwritten_shards)
                _log.error("%s: what was not flushed is lost: %s", names or self._owner, type(exc).__name__)
                raise
        return late

    def _complete_archive(self) -> None:
        try:
            self._store.close()
        except Exception as exc:  # noqa: BLE001 - nobody is there any more to catch it
            _log.error("%s: the archive is not complete: %s", self._store.location.display(), exc)

    def warn(self, late: str) -> None:
        """Warn of what was written late."""
        message = f"{self._owner} was left without flush() or close(): {late}: written late"
        warnings.warn(message, ResourceWarning, 3)


def _let_go(watched: _Watched) -> None:
    """Write what is not written yet of a pyramid that is garbage.

    Garbage may be collected in any line of any thread: in one that holds a lock, or that is itself a connection to
    the store, as fsspec's event loop is. So another thread does it, and this one waits for a limited time, unless it
    is a daemon, as the threads of connections are.
    """

    def write() -> None:
        try:
            watched.write()
        finally:
            _watched.pop(id(watched), None)

    late = watched.unwritten()
    if not late:
        _watched.pop(id(watched), None)
        return
    thread = threading.Thread(target=write, daemon=True, name="precomputed_fs late")
    try:
        thread.start()
    except RuntimeError:  # the interpreter is about to end
        write()
    else:
        thread.join(0 if threading.current_thread().daemon else _LATE_SECONDS)
    watched.warn(late)


def expect_end() -> None:
    """Have what waits in this process written at its end, before drivers let go of their connections.

    What is registered last is called first, and when a chunk waits, the driver is there already.
    """
    global _ends_in  # noqa: PLW0603 - once in each process
    if _ends_in == os.getpid():
        return
    _ends_in = os.getpid()
    atexit.register(_write_all)
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:  # such a child ends without `atexit`
        from multiprocessing.util import Finalize  # noqa: PLC0415 - it is imported already

        Finalize(None, _write_all, exitpriority=0)


def _write_all() -> None:
    """Write what is still to be written in this process, which ends."""
    expect_no_threads()
    for watched in list(_watched.values()):
        if late := watched.write():
            try:
                watched.warn(late)
            except ResourceWarning:  # warnings are errors, and others are still to be written
                sys.excepthook(*sys.exc_info())


atexit.register(_write_all)  # after that, for what is stored at the end


def _renew_locks() -> None:
    for watched in _watched.values():
        watched.lock = threading.Lock()  # one held by another thread at the fork is held for ever


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
