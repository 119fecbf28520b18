"""The threads that compute and that call synchronous filesystems: a few for the process, never more than that.

Ctrl-C may come in any line of the thread that waits for these. A lock that is taken in Python code, such as those of
`concurrent.futures` and `threading.Condition`, would then stay locked, and all would stand still: so here are only
queues and locks that are C code.
"""

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from precomputed_fs.errors import DataAccessError

_T = TypeVar("_T")
_R = TypeVar("_R")

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
HOP = 1 << 18
"""Bytes that one thread is given at once: to hand over less takes longer than it is worth (256 KiB)."""

_NAP = 0.05  # seconds, after which it is looked whether to go on
_here = threading.local()


Ended: TypeAlias = queue.SimpleQueue["Call[Any]"]
"""The calls of one batch that have ended, for `first_done`."""


class Call(Generic[_T]):
    """A function that is called once, by whichever thread, and what came of it."""

    def __init__(self, function: Callable[[], _T], ended: Ended | None = None) -> None:
        self.is_done = False
        self._ended = ended
        self._function = function
        self._is_cancelled = False
        self._value: list[_T] = []
        self._error: BaseException | None = None
        self._bell = threading.Lock()
        self._bell.acquire()

    def run(self) -> None:
        """Call the function, unless that is cancelled."""
        try:
            if not self._is_cancelled:
                self._value.append(self._function())
        except BaseException as exc:  # noqa: BLE001 - it is raised where the result is taken
            self._error = exc
        finally:
            self.is_done = True
            self._bell.release()
            if self._ended is not None:
                self._ended.put(self)

    def cancel(self) -> None:
        """Do not begin any more."""
        self._is_cancelled = True

    def wait(self) -> None:
        """Wait until it is done; or until the interpreter ends, whose threads stand still."""
        while not (self.is_done or sys.is_finalizing()):
            self._bell.acquire(timeout=_NAP)

    def result(self) -> _T:
        """Wait, and return or raise what the function did."""
        self.wait()
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame
        return self._value.pop()


class _Pool:
    """Threads that are begun when there is something to do for them, and then stay."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._calls: queue.SimpleQueue[Call[Any]] = queue.SimpleQueue()
        self._open: set[Call[Any]] = set()
        self._count = itertools.count(1)
        self._threads: set[threading.Thread] = set()

    def submit(self, call: Call[Any]) -> None:
        """Have a thread run a call; a RuntimeError if there can be none."""
        if len(self._threads) < min(self._size, len(self._open) + 1):
            name = f"precomputed_fs {self._size}_{next(self._count)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            thread.start()
            self._threads.add(thread)
        self._open.add(call)
        self._calls.put(call)

    def _work(self) -> None:
        _here.is_of_pool = True
        while True:
            call = self._calls.get()
            call.run()
            self._open.discard(call)
            del call  # what it knows is not kept while there is nothing to do


@functools.cache
def _pool(size: int) -> _Pool:
    return _Pool(size)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def call(function: Callable[[], _T], size: int = CORES, ended: Ended | None = None) -> Call[_T]:
    """Have some thread of so many call a function; in one of these, it is called at once.

    Parameters
    ----------
    ended : SimpleQueue, optional
        For `first_done`.
    """
    if not getattr(_here, "is_of_pool", False):
        one = Call(function, ended)
        with contextlib.suppress(RuntimeError):  # the interpreter is about to end
            _pool(size).submit(one)
            return one
    return called(function, ended)


def called(function: Callable[[], _T], ended: Ended | None = None) -> Call[_T]:
    """Call a function now, in this thread."""
    one = Call(function, ended)
    one.run()
    return one


def future(
    function: Callable[[], _T], run: Callable[[Callable[[], None]], Call[None]] = call
) -> "concurrent.futures.Future[_T]":
    """Have a function called, by some thread or by what else is given, and its result given to a future."""
    outcome: concurrent.futures.Future[_T] = concurrent.futures.Future()

    def settle() -> None:
        try:
            outcome.set_result(function())
        except Exception as exc:  # noqa: BLE001 - it is raised where the result is taken
            outcome.set_exception(exc)

    run(settle)
    return outcome


def first_done(calls: Sequence[Call[Any]], ended: Ended) -> int:
    """Wait until one of these calls has ended, and return its place."""
    while not sys.is_finalizing():
        with contextlib.suppress(queue.Empty):
            return calls.index(ended.get(timeout=_NAP))
    return 0


def wait(calls: Iterable[Call[Any]]) -> None:
    """Cancel calls, and wait for those that have begun."""
    calls = list(calls)
    for one in calls:
        one.cancel()
    for one in calls:
        one.wait()


class Postprocessor(Generic[_T, _R]):
    """Results that the pool finishes, some at a time, while more come.

    Parameters
    ----------
    finish : callable
    per_hop : int
        How many one thread is given at once.
    """

    def __init__(self, finish: Callable[[_T], _R], per_hop: int) -> None:
        self.waiting = 0
        """How many are being finished, or are and were not taken."""

        self._finish = finish
        self._per_hop = per_hop
        self._hops: collections.deque[tuple[int, Call[list[_R]]]] = collections.deque()
        self._pid = os.getpid()

    @property
    def is_ready(self) -> bool:
        """Whether some can be taken at once."""
        return bool(self._hops) and self._hops[0][1].is_done

    def add(self, results: Sequence[_T]) -> None:
        """Have these finished, too."""
        for first in range(0, len(results), self._per_hop):
            hop = results[first : first + self._per_hop]
            self._hops.append((len(hop), call(functools.partial(list, map(self._finish, hop)))))
            self.waiting += len(hop)

    def take(self) -> list[_R]:
        """Take the first ones, when they are finished."""
        if os.getpid() != self._pid:
            raise DataAccessError("a batch goes on in the process that began it")
        count, first = self._hops.popleft()
        self.waiting -= count
        return first.result()

    def end(self) -> None:
        """Begin no more, and wait for what has begun."""
        if os.getpid() == self._pid:  # a forked child has none of the threads
            wait(one for _, one in self._hops)
