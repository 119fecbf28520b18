"""When chunks that were never flushed are written: when their pyramid is garbage-collected, or at exit."""

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

_LATE_SECONDS = 60.0  # how long to wait for the shards of a garbage-collected pyramid

_log = logging.getLogger("precomputed_fs")

_watched: "dict[int, _Watched]" = {}
"""What to write at exit, if not before; by `id`."""

_ends_in: int | None = None
"""The process at whose exit `_write_all` is registered."""


def watch(owner: object, writer: ShardWriter, store: ObjectStore) -> None:
    """Write everything when its owner is garbage-collected, at exit at the latest."""
    watched = _Watched(writer, store, store.location.display())
    _watched[id(watched)] = watched
    weakref.finalize(owner, _let_go, watched).atexit = False  # `_write_all` is for that


class _Watched:
    """The unwritten chunks of one pyramid."""

    def __init__(self, writer: ShardWriter, store: ObjectStore, owner: str) -> None:
        self.lock = threading.Lock()
        self._writer = writer
        self._store = store
        self._owner = owner

    def unwritten(self) -> str:
        """Describe what is not written yet; empty if everything is."""
        parts = [f"{count} chunks of {key}" for key, count in self._writer.waiting.items()]
        if self._store.is_incomplete:
            parts.append("the end of the archive")
        return ", ".join(parts)

    def write(self) -> str:
        """Write what is not written yet; failures are logged, and their chunks discarded.

        Returns
        -------
        str
            A description of what had not been written.
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
        except Exception as exc:  # noqa: BLE001 - no caller is left to catch it
            _log.error("%s: the archive is not complete: %s", self._store.location.display(), exc)

    def warn(self, late: str) -> None:
        """Warn about what was written late."""
        message = f"{self._owner} was left without flush() or close(); written late: {late}"
        warnings.warn(message, ResourceWarning, 3)


def _let_go(watched: _Watched) -> None:
    """Write what is not written yet of a garbage-collected pyramid.

    Garbage may be collected in any line of any thread: in one that holds a lock, or that serves the connections, such
    as fsspec's event loop. So another thread writes, and this one waits for a limited time, unless it is a daemon, as
    the threads of connections are.
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
    """Register this process to write its waiting chunks at exit, before drivers close their connections.

    Functions registered last are called first, and when a chunk waits, the driver has been imported already.
    """
    global _ends_in  # noqa: PLW0603 - once in each process
    if _ends_in == os.getpid():
        return
    _ends_in = os.getpid()
    atexit.register(_write_all)
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.parent_process() is not None:  # such a child exits without `atexit`
        from multiprocessing.util import Finalize  # noqa: PLC0415 - it is imported already

        Finalize(None, _write_all, exitpriority=0)


def _write_all() -> None:
    """Write everything that is not written yet, as this process exits."""
    expect_no_threads()
    for watched in list(_watched.values()):
        if late := watched.write():
            try:
                watched.warn(late)
            except ResourceWarning:  # warnings are errors here; go on with the others
                sys.excepthook(*sys.exc_info())


atexit.register(_write_all)  # called later, for chunks that are stored at exit


def _renew_locks() -> None:
    for watched in _watched.values():
        watched.lock = threading.Lock()  # a lock held by another thread at the fork is never released


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
