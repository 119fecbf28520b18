"""The driver of synchronous filesystems: it calls them; of a batch, some jobs at a time in each of a few threads."""

import concurrent.futures
import contextlib
import copy
import functools
import itertools
import mmap
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import PurePath
from typing import Any, TypeVar

from precomputed_fs.errors import DataAccessError
from precomputed_fs.store import loop, pool
from precomputed_fs.store.answers import checked_range, is_young
from precomputed_fs.store.failures import (
    BrokenAnswerError,
    Failures,
    Tries,
    VersionError,
)
from precomputed_fs.store.jobs import Batch
from precomputed_fs.store.protocols.base import Filesystem, Synchronous, temporary_name
from precomputed_fs.store.protocols.files import Files
from precomputed_fs.store.requests import (
    Body,
    ChangedLately,
    Compute,
    Delete,
    Exists,
    FollowUps,
    Get,
    Job,
    List,
    Page,
    Pause,
    Put,
    Wait,
    Walk,
)
from precomputed_fs.store.tasks import Jobs
from precomputed_fs.store.url import join, listed_prefix
from precomputed_fs.store.walking import Walker

_T = TypeVar("_T")

_FOLDER_TRIES = 3
_NAP = 0.05  # seconds, after which it is looked whether to go on
_REMOTE_THREADS = 32
_SHORT_HOP, _LONG_HOP = 0.002, 0.01  # seconds
_LARGEST_HOP = 16  # times the least
_LOCAL_THREADS = max(4, 2 * pool.CORES)  # some may wait for the disk


class Direct:
    """Runs jobs on a synchronous filesystem.

    Parameters
    ----------
    fs : filesystem
    protocol : Synchronous
    root : str
        The pyramid's path in the filesystem.
    failures : Failures
    reopen : callable
        Makes the filesystem once more, when it has lost its connection.
    """

    def __init__(
        self,
        fs: Filesystem,
        protocol: Synchronous,
        root: str,
        *,
        failures: Failures,
        reopen: Callable[[], Filesystem],
    ) -> None:
        self.fs = fs
        self._reopen = reopen
        self._is_confined = False
        self._protocol = protocol
        self._root = root
        self._failures = failures
        self._turn = threading.RLock() if protocol.one_at_a_time else contextlib.nullcontext()
        self._threads = _REMOTE_THREADS if protocol.is_remote else _LOCAL_THREADS

    def confined(self) -> "Direct":
        """Return a driver of the same filesystem that, to read, follows no link out of the root."""
        twin = copy.copy(self)
        twin._is_confined = True  # noqa: SLF001 - our own
        return twin

    def close(self) -> None:
        """Let go of the filesystem."""
        with self._turn:
            self._protocol.close(self.fs)

    # ---------------------------------------------------------------------------------- jobs

    def run_one(self, job: Job[_T]) -> _T:
        """Run one job, and return its result."""
        return self._run(job, loop.stopped())

    def run(
        self, jobs: Iterable[Job[Any]], limit: int, finish: Callable[[Any], Any] | None, per_hop: int
    ) -> Iterator[list[Any]]:
        """Run jobs; yields their results as they come, some at a time: see `Driver`."""
        upcoming = Jobs(jobs)
        is_ended = False
        is_cancelled = loop.stopped()
        pid = os.getpid()
        hop = Hop(min(per_hop, max(1, limit // pool.CORES)), limit)
        calls: list[pool.Call[tuple[list[Any], list[FollowUps], int, float]]] = []
        under_way = 0
        ended: pool.Ended = queue.SimpleQueue()

        def is_stopped() -> bool:
            return is_ended or is_cancelled()

        try:
            while True:
                while hop.may_begin(len(calls), under_way) and (some := _some(upcoming, hop.size)):
                    run = functools.partial(self._run_some, some, finish, hop.least, is_stopped)
                    is_alone = len(some) < hop.size and not calls
                    under_way += len(some)
                    calls.append(pool.called(run, ended) if is_alone else pool.call(run, self._threads, ended))
                if not calls:
                    break
                if os.getpid() != pid:
                    raise DataAccessError(
                        f"{self._failures.location.display()}: a batch goes on in the process that began it"
                    )
                results, follow, count, seconds = calls.pop(pool.first_done(calls, ended)).result()
                under_way -= count
                hop.adapt(count, seconds)
                for more in follow:
                    upcoming.add(more)
                if results:
                    yield results
            upcoming.end()
        finally:
            is_ended = True
            if os.getpid() == pid:  # a forked child has none of the threads
                pool.wait(calls)

    def _run_some(
        self, jobs: list[Job[Any]], finish: Callable[[Any], Any] | None, per_hop: int, is_stopped: Callable[[], bool]
    ) -> tuple[list[Any], list[FollowUps], int, float]:
        results: list[Any] = []
        follow: list[FollowUps] = []
        began = time.perf_counter()
        for job in jobs:
            result = self._run(job, is_stopped)
            if isinstance(result, FollowUps):
                follow.append(result)
            elif finish is None:
                results += result
            else:
                results += map(finish, result[:per_hop])  # what is made of very many would be in memory at once
                if len(result) > per_hop:
                    rest = range(per_hop, len(result), per_hop)
                    follow.append(FollowUps([_known(result[first : first + per_hop]) for first in rest]))
        return results, follow, len(jobs), time.perf_counter() - began

    def _run(self, job: Job[_T], is_stopped: Callable[[], bool]) -> _T:
        answer: Any = None
        error: Exception | None = None
        batch = Batch()
        try:
            while True:
                with batch:
                    request = job.send(answer) if error is None else job.throw(error)
                answer, error = None, None
                try:
                    answer = self._answer(request, is_stopped)
                except Exception as exc:  # noqa: BLE001 - it goes on to the job
                    error = exc
        except StopIteration as end:
            result: _T = end.value
            return result
        finally:
            del error  # its traceback has this frame, which would keep all that it knows
            job.close()

    def _answer(self, request: Any, is_stopped: Callable[[], bool]) -> Any:  # noqa: ANN401
        match request:
            case list():
                return [self._outcome(one, is_stopped) for one in request]
            case Pause(seconds=seconds):
                return _pause(seconds, is_stopped)
            case Wait():
                return _is_done(request, is_stopped)
            case Compute(function=function):
                return function()
            case _:
                return self._tried(request, is_stopped)

    def _tried(self, request: Any, is_stopped: Callable[[], bool]) -> Any:  # noqa: ANN401
        tries = Tries()
        while True:
            if is_stopped():
                raise concurrent.futures.CancelledError
            try:
                return self._do(request)
            except Exception as exc:  # noqa: BLE001 - each becomes one of ours
                error, due = self._failures.judged(request, exc if self._is_alive() else _lost(exc), tries)
            if due is None:
                try:
                    raise error  # outside of the handler: a cause with secrets would follow as context
                finally:
                    del error
            _pause(due - time.monotonic(), is_stopped)

    def _outcome(self, request: Any, is_stopped: Callable[[], bool]) -> Any:  # noqa: ANN401
        try:
            if isinstance(request, Generator):
                return self._run(request, is_stopped)
            return self._answer(request, is_stopped)
        except Exception as exc:  # noqa: BLE001 - it is looked at by the job
            return exc

    def _is_alive(self) -> bool:
        return self._protocol.is_alive(self.fs)

    def _do(self, request: Any) -> Any:  # noqa: ANN401
        if not self._is_alive():
            with self._turn:
                if not self._is_alive():
                    self.fs = self._reopen()
        verb: Callable[[Any], Any] = getattr(self, _VERBS[type(request)])
        return verb(request)

    # --------------------------------------------------------------------------------- verbs

    def _path(self, name: str) -> str:
        path = join(self._root, name)
        return self._inside(path) if self._is_confined else path

    def _inside(self, path: str) -> str:
        """Return a path without symbolic links, which must not lead out of the root."""
        if not self._protocol.follows_links:
            return path
        real = self._real(path)
        if real is None:
            raise PermissionError("a symbolic link leads out of the pyramid; serve(..., follow_links=True) follows it")
        return real

    def _real(self, path: str) -> str | None:
        """Return a path without symbolic links; None if they lead out of the root."""
        with self._turn:
            real, root = (self._protocol.real_path(self.fs, one) for one in (path, self._root))
        return real if PurePath(real).is_relative_to(root) else None

    def _get(self, request: Get) -> Body:
        path, start, end = self._path(request.name), request.start, request.end
        if start is not None and start == end:
            return Body([])
        with self._turn:
            if request.pieces:
                pieces = self._protocol.read_pieces(self.fs, path, request.size, request.pieces)
                if pieces is not None:
                    return Body(pieces, is_pieces=True)
                start = None
            if start is None or end is None:
                version = self._protocol.state(self.fs, path).version if request.versioned else ""
                return Body([self._protocol.read(self.fs, path, request.limit)], version=version)
            before = self._protocol.state(self.fs, path)
            if before.size is not None and end > before.size:
                raise BrokenAnswerError(f"asked for bytes {start}-{end - 1} of {before.size}")
            data = self._protocol.read_range(self.fs, path, start, end)
            # Replaced meanwhile: of no version that an index could be of
            is_same = before.version == self._protocol.state(self.fs, path).version
            version = before.version if is_same else f"{before.version} and later"
            is_settled = before.modified is None or not is_young(before.modified, time.time())
            return checked_range(Body([data], version=version, is_settled=is_settled), start, end)

    def _exists(self, request: Exists) -> bool:
        try:
            with self._turn:
                return bool(self.fs.info(self._path(request.name))["type"] != "directory")
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _list(self, request: List) -> list[str]:
        with self._turn:
            return self._protocol.list_names(self.fs, listed_prefix(self._root, request.prefix), request.limit)

    def _walk(self, request: Walk) -> Page:
        walker = request.more or Walker(self._protocol, request.folder)
        with self._turn:
            return walker.page(self.fs, join(self._root, request.folder))

    def _changed_lately(self, request: ChangedLately) -> bool:
        with self._turn:
            return self._protocol.changed_lately(self.fs, join(self._root, request.folder))

    def _delete(self, request: Delete) -> None:
        path = join(self._root, request.name)
        is_checked = self._is_confined and self._protocol.follows_links
        if is_checked and self._real(path.rpartition("/")[0]) is None:
            raise PermissionError("a symbolic link leads out of the pyramid: what is there is not deleted")
        with self._turn, self._protocol.lock(self.fs, path):
            self._check_version(path, request.replacing)
            with contextlib.suppress(FileNotFoundError):
                self.fs.rm_file(path)

    def _put(self, request: Put) -> None:
        path = join(self._root, request.name)
        if isinstance(self._protocol, Files):
            self._put_sibling(self._protocol, path, request)
            return
        with self._turn, _creating if request.create or request.replacing else contextlib.nullcontext():
            if request.create and self._exists(Exists(request.name)):
                raise FileExistsError(path)
            self._check_version(path, request.replacing)
            self.fs.pipe_file(path, request.data if isinstance(request.data, bytes) else request.data[:])

    def _check_version(self, path: str, replacing: str) -> None:
        try:
            if not replacing or self._protocol.state(self.fs, path).version == replacing:
                return
        except FileNotFoundError:
            pass
        raise VersionError

    def _put_sibling(self, protocol: Files, path: str, request: Put) -> None:
        """Write a temporary file beside the object and put it in place in one step."""
        parent = path.rpartition("/")[0]
        temporary = temporary_name(parent)
        with self._turn:
            protocol.sweep(self.fs, parent)
            try:
                self._fill(temporary, request.data)
            except FileNotFoundError:
                self._fill_in_new_folder(parent, temporary, request.data)
            try:
                with _creating if request.create else protocol.lock(self.fs, path):
                    self._check_version(path, request.replacing)
                    protocol.publish(self.fs, temporary, path, request.create)
            except BaseException:
                with contextlib.suppress(OSError):
                    self.fs.rm_file(temporary)
                raise

    def _fill_in_new_folder(self, folder: str, path: str, data: bytes | mmap.mmap) -> None:
        try:
            self._make_folder(folder)
            self._fill(path, data)
        except (FileNotFoundError, FileExistsError) as exc:  # a file stands in the way
            raise NotADirectoryError(folder) from exc

    def _make_folder(self, folder: str) -> None:
        """Make a folder and those above it, while others may be making the same ones."""
        failure: OSError | None = None
        for _ in range(_FOLDER_TRIES):
            try:
                self.fs.makedirs(folder, exist_ok=True)
            except OSError as exc:  # SFTP tells no reason; it may be that another was faster
                failure = exc
            if self.fs.isdir(folder):
                return
        if failure is not None:
            raise failure

    def _fill(self, path: str, data: bytes | mmap.mmap) -> None:
        try:
            with self.fs.open(path, "wb") as file:
                file.write(data)
        except FileNotFoundError:
            raise
        except BaseException:  # a full disk, an interrupt: leave nothing behind
            with contextlib.suppress(OSError):
                self.fs.rm_file(path)
            raise


class Hop:
    """How many jobs a thread is given at once, and how many threads are at work.

    Handing over costs about as much as reading a small file from memory. So where jobs are quick, threads get more of
    them at once, and no more threads are at work than there are cores: they would wait for the interpreter's lock.
    """

    def __init__(self, least: int, limit: int) -> None:
        self.least = self.size = least
        self._most = max(least, min(_LARGEST_HOP * least, limit // (2 * pool.CORES)))
        self._limit = limit

    def may_begin(self, hops: int, jobs: int) -> bool:
        """Whether another hop may begin while so many, with so many jobs, are under way."""
        return jobs + self.size <= self._limit and (self.size == self.least or hops < pool.CORES)

    def adapt(self, count: int, seconds: float) -> None:
        """Choose the size of the next hops by how long one took."""
        if seconds > _LONG_HOP:
            self.size = max(self.least, self.size // 2)
        elif seconds < _SHORT_HOP and count == self.size:
            self.size = min(2 * self.size, self._most)


_VERBS = {
    Get: "_get",
    Exists: "_exists",
    Put: "_put",
    Delete: "_delete",
    List: "_list",
    Walk: "_walk",
    ChangedLately: "_changed_lately",
}


def _known(results: list[_T]) -> Job[list[_T]]:
    yield from ()
    return results


def _lost(exc: Exception) -> ConnectionResetError:
    lost = ConnectionResetError(f"the connection was lost: {exc}")
    lost.__cause__ = exc
    return lost


def _some(upcoming: Jobs, count: int) -> list[Job[Any]]:
    return list(itertools.islice(iter(upcoming.take, None), count))


_creating = threading.Lock()
"""Held from checking a name to writing it, where a store has no exclusive write of its own."""


def _renew_lock() -> None:
    global _creating  # noqa: PLW0603 - one held by another thread at the fork is held for ever
    _creating = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _pause(seconds: float, is_stopped: Callable[[], bool]) -> None:
    """Sleep, a little at a time."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if is_stopped():
            raise concurrent.futures.CancelledError
        time.sleep(min(left, _NAP))


def _is_done(wait: Wait, is_stopped: Callable[[], bool]) -> bool:
    end = time.monotonic() + wait.seconds
    done: queue.SimpleQueue[Any] = queue.SimpleQueue()  # see `pool`
    wait.future.add_done_callback(done.put)
    while done.empty():
        left = end - time.monotonic()
        if is_stopped():
            raise concurrent.futures.CancelledError
        if left <= 0:
            return False
        with contextlib.suppress(queue.Empty):
            done.put(done.get(timeout=min(left, _NAP)))
    return True
