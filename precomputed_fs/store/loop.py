"""Where coroutines and threads meet: fsspec's event loop, which runs a filesystem's coroutines, and calls to await.

A filesystem's coroutines run on fsspec's loop, in a thread of its own. What is awaited in any other loop runs in a
thread meanwhile, and stops when who awaits it is cancelled.
"""

import asyncio
import concurrent.futures
import functools
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from typing import Any, TypeVar

from precomputed_fs.store import pool
from precomputed_fs.store.failures import WrongThreadError
from precomputed_fs.store.protocols.base import Filesystem

_T = TypeVar("_T")

_CALLS = 128  # that are awaited at once
_here = threading.local()


def submit(fs: Filesystem, coroutine: Coroutine[Any, Any, _T]) -> "concurrent.futures.Future[_T]":
    """Have a coroutine of a filesystem run on its event loop."""
    loop = fs.loop  # asked for at each call: it is another one after a fork
    if asyncio._get_running_loop() is loop is not None:  # noqa: SLF001 - the public one raises where there is none
        coroutine.close()
        raise WrongThreadError("called from the filesystem's own event loop: await the _async method instead")
    if _is_ending.is_set():
        loop.set_default_executor(_Threadless())
    return asyncio.run_coroutine_threadsafe(coroutine, loop)


def stopped() -> Callable[[], bool]:
    """Return what tells whether the call that runs in this thread was cancelled by who awaits it."""
    event: threading.Event | None = getattr(_here, "is_cancelled", None)
    return bool if event is None else event.is_set


def stoppable(is_cancelled: threading.Event, function: Callable[[], _T]) -> _T:
    """Call a function in this thread, where a driver cancels what is under way when the event is set."""
    _here.is_cancelled = is_cancelled
    try:
        return function()
    finally:
        _here.is_cancelled = None


async def in_thread(function: Callable[[], _T], is_cancelled: threading.Event | None = None) -> _T:
    """Call a function in some thread, and await it in any event loop.

    If the caller is cancelled, a driver that runs in that thread cancels what is under way.
    """
    is_cancelled = is_cancelled or threading.Event()
    future = _threads().submit(stoppable, is_cancelled, function)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        is_cancelled.set()
        raise


async def iterate(batch: Generator[_T, None, None]) -> AsyncGenerator[_T, None]:
    """Iterate over what a driver yields in some thread, with ``async for`` in any event loop."""
    is_cancelled, turn = threading.Event(), threading.Lock()

    def advance() -> _T | None:
        with turn:
            return next(batch, None)

    def end() -> None:
        with turn:  # who has given up awaiting it may find it under way
            batch.close()

    try:
        while (results := await in_thread(advance, is_cancelled)) is not None:
            yield results
    finally:
        is_cancelled.set()
        await in_thread(end)


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(_CALLS, "precomputed_fs awaited")


class _Threadless(concurrent.futures.ThreadPoolExecutor):
    """Does at once, in the thread that asks, what an event loop has threads do: above all, look up hosts' names."""

    def submit(self, fn: Callable[..., _T], /, *args: Any, **kwargs: Any) -> "concurrent.futures.Future[_T]":  # noqa: ANN401
        return pool.future(functools.partial(fn, *args, **kwargs), pool.called)


_is_ending = threading.Event()
"""Whether this is the end of the process, before which pools of threads are gone."""


def expect_no_threads() -> None:
    """Go on without pools of threads, as the process ends."""
    _is_ending.set()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)
