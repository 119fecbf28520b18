"""The threads that compute and that call synchronous filesystems: a few for the process, never more than that."""

import collections
import concurrent.futures
import functools
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from precomputed_fs.errors import DataAccessError

_T = TypeVar("_T")
_R = TypeVar("_R")

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
HOP = 1 << 18
"""Bytes that one thread is given at once: to hand over less takes longer than it is worth (256 KiB)."""

_here = threading.local()


def call(function: Callable[[], _T], size: int = CORES) -> "concurrent.futures.Future[_T]":
    """Have some thread of so many call a function; in one of these, it is called at once."""
    if not getattr(_here, "is_of_pool", False):
        try:
            return _executor(size).submit(function)
        except RuntimeError:  # the interpreter is about to end
            pass
    return called(function)


def called(function: Callable[[], _T]) -> "concurrent.futures.Future[_T]":
    """Call a function now, in this thread."""
    future: concurrent.futures.Future[_T] = concurrent.futures.Future()
    try:
        future.set_result(function())
    except Exception as exc:  # noqa: BLE001 - it is raised where the result is taken
        future.set_exception(exc)
    return future


@functools.cache
def _executor(size: int) -> concurrent.futures.ThreadPoolExecutor:
    def mark() -> None:
        _here.is_of_pool = True

    return concurrent.futures.ThreadPoolExecutor(size, f"precomputed_fs {size}", mark)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_executor.cache_clear)


def finished(
    batches: Iterable[Sequence[_T]], finish: Callable[[_T], _R], *, per_hop: int, most: int
) -> Iterator[list[_R]]:
    """Have the pool finish what comes, some at a time, while more comes.

    Parameters
    ----------
    batches : iterable of sequences
        It is gone on with while the pool is busy, unless `most` wait; empty ones, so that what is finished is not
        held back.
    per_hop : int
        How many one thread is given at once.
    most : int
        How many may wait to be finished.
    """
    pid = os.getpid()
    hops: collections.deque[tuple[int, concurrent.futures.Future[list[_R]]]] = collections.deque()
    waiting = 0
    try:
        for batch in batches:
            rest = iter(batch)
            while hop := list(itertools.islice(rest, per_hop)):
                hops.append((len(hop), call(functools.partial(list, map(finish, hop)))))
                waiting += len(hop)
                if waiting > most:
                    waiting -= hops[0][0]
                    yield _taken(hops.popleft()[1], pid)
            while hops and hops[0][1].done():
                waiting -= hops[0][0]
                yield _taken(hops.popleft()[1], pid)
        while hops:
            yield _taken(hops.popleft()[1], pid)
    finally:
        if os.getpid() == pid:  # a forked child has none of the threads
            for _, future in hops:
                future.cancel()
            concurrent.futures.wait([future for _, future in hops])


def _taken(future: "concurrent.futures.Future[_T]", pid: int) -> _T:
    if os.getpid() != pid:
        raise DataAccessError("a batch goes on in the process that began it")
    return future.result()
