"""The threads that write a copy: how tasks are run in them, and what they say of their progress."""

import concurrent.futures
import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from precomputed_fs.store.loop import stoppable


class Count(NamedTuple):
    """Progress: chunks and files that are done."""

    done: int
    size: int
    """Bytes that were stored for them."""

    found: int = 0
    """Files that are to do and were not known before."""


OnProgress = Callable[[Count], object]
"""Is called with the progress, in the thread that copies."""

Task: TypeAlias = Callable[[], Count]
"""Makes and stores a chunk of the copy, in a thread."""

Submit: TypeAlias = Callable[[Callable[[], Any]], "concurrent.futures.Future[Any]"]
"""Submits a function to a thread."""


@contextlib.contextmanager
def threads(count: int) -> Iterator[Submit]:
    """Run threads that may block on stores, which threads of the pool must not; stop them at the end."""
    executor = concurrent.futures.ThreadPoolExecutor(count, "precomputed_fs copy")
    is_ended = threading.Event()
    try:
        yield lambda function: executor.submit(stoppable, is_ended, function)
    finally:
        is_ended.set()
        executor.shutdown(cancel_futures=True)


def run_tasks(submit: Submit, tasks: Iterable[Task], most: int, on_progress: OnProgress) -> None:
    """Run tasks in threads, with a bounded number at once; the first failure ends it."""
    done: queue.SimpleQueue[concurrent.futures.Future[Count]] = queue.SimpleQueue()
    under_way = 0
    for task in tasks:
        submit(task).add_done_callback(done.put)
        under_way += 1
        while under_way == most or not done.empty():
            on_progress(done.get().result())
            under_way -= 1
    for _ in range(under_way):
        on_progress(done.get().result())
