"""How much is done at once: jobs under way in threads, and their results handed over as they come.

A job reads, decodes and pastes in one thread: nothing is handed from thread to thread in between. Threads that
wait for a server cost next to nothing, those that compute want a core each, and too many are in each other's way;
so their number follows from how long jobs wait and how long they compute.
"""

import asyncio
import collections
import concurrent.futures
import contextlib
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

_T = TypeVar("_T")

Job = Callable[[], Any]
"""Does one thing, in some thread, and returns what came of it."""


@dataclass(frozen=True, slots=True)
class More:
    """What a job may return to have further ones done, for `ObjectStore.run_many` to see to."""

    jobs: Sequence[Job]


_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
_QUICK = 2e-4  # seconds, of a job that is better run than handed to a thread
_TURN = 1e-3  # seconds of such jobs, after which their results are handed over
_PATIENCE = 2e-3  # seconds that are spent on jobs before it is known that they are not quick
_SHARE = 0.25  # of what is under way, that is handed over at once when it has ended, for others to follow
_MANY = 32  # that are handed over at once where none follow
_MOMENT = 1e-3  # seconds, in which something should have come
_IDLE = 0.75  # of a core, less than which is busy while a server is waited for
_WHILE = 8e-3  # seconds, that those who have ended wait for others
_LONGEST_MOMENT = 0.05  # seconds, when nothing has come for long
_MOST_CORES = 16  # that threads share: a few of them have Python busy
_FEWEST = 2  # threads, one of which may wait while another computes
_LEAST_COMPUTED = 1e-5  # seconds, below which clocks are not to be believed
_MOST = 256  # threads of one filesystem
_SAMPLE = 16  # jobs, after which it is known how long they wait and compute
_BELIEVED = 1.1  # times the wait before, of one that is longer
_LINGER = 5.0  # seconds that a thread waits for something to do
_DOORS = 128  # calls of coroutines that are in threads at once


class _Bell:
    """What one thread waits for and others ring, all in C: Ctrl-C cannot come in between.

    Before Python 3.13, a `queue.SimpleQueue` may wait for ever although it has a time limit.
    """

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """Have the one that waits, or the next one that does, wait no longer."""
        with contextlib.suppress(RuntimeError):  # it has been rung already
            self._silence.release()

    def heard(self, seconds: float) -> bool:
        """Wait for so long, and tell whether it was rung."""
        return self._silence.acquire(timeout=seconds)


class _Pool:
    """Threads that are made when all others are busy, and end when there is nothing to do for a while.

    They are daemons: the interpreter does not wait for them. There is no lock: Ctrl-C, or a collection of
    garbage that calls another function, may come between any two lines.
    """

    def __init__(self, most: float = math.inf) -> None:
        self.threads: set[threading.Thread] = set()
        self.idle: set[threading.Thread] = set()
        self._most = most
        self._todo: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def call(self, function: Callable[[], None]) -> None:
        """Have some thread call a function, which must not raise."""
        self._todo.put(function)
        try:
            self._see_to_it()
        except RuntimeError:  # there are too many threads, or the interpreter is about to end
            with contextlib.suppress(queue.Empty):  # one that was busy has taken it
                self._todo.get_nowait()()

    def _see_to_it(self) -> None:
        """Start another thread if there is more to do than others wait for."""
        if self._todo.qsize() <= len(self.idle) or len(self.threads) >= self._most:
            return
        thread = threading.Thread(target=self._work, daemon=True, name="precomputed_fs")
        try:
            self.threads.add(thread)
            thread.start()
        finally:
            if not thread.is_alive():
                self.threads.discard(thread)

    def _work(self) -> None:
        me = threading.current_thread()
        self.threads.add(me)  # once more, in case that its start was interrupted
        while (function := self._next(me)) is not None:
            function()
            del function  # and all that it knows, while the next one is waited for

    def _next(self, me: threading.Thread) -> Callable[[], None] | None:
        with contextlib.suppress(queue.Empty):
            return self._todo.get_nowait()
        self.idle.add(me)
        try:
            function = self._todo.get(timeout=_LINGER)
        except queue.Empty:
            self.idle.discard(me)
            self.threads.discard(me)
            with contextlib.suppress(queue.Empty):  # somebody may have counted on this thread meanwhile
                function = self._todo.get_nowait()
                self.threads.add(me)
                return function
            return None
        self.idle.discard(me)
        with contextlib.suppress(RuntimeError):
            self._see_to_it()  # somebody may have counted on this thread, which is busy now
        return function


_workers = _Pool()
_doors = _Pool(_DOORS)  # apart from the workers, which the calls behind these may wait for
_current = threading.local()


async def in_thread(function: Callable[[], _T]) -> _T:
    """Call a function in some thread, and await it in any event loop.

    If the caller is cancelled before a thread has begun, it is not called; what has begun goes on.
    """
    future: concurrent.futures.Future[_T] = concurrent.futures.Future()

    def call() -> None:
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function())
            except BaseException as exc:  # noqa: BLE001 - it is raised where the result is awaited
                future.set_exception(exc)

    _doors.call(call)
    return await asyncio.wrap_future(future)


def hand_over(function: Callable[[], None], seconds: float) -> None:
    """Have some thread call a function, which must not raise, and wait for it for so long at most.

    Where no thread can be started any more, the calling one does it.
    """
    bell = _Bell()

    def call() -> None:
        try:
            function()
        finally:
            bell.ring()

    _doors.call(call)
    bell.heard(seconds)


class only_waiting:  # noqa: N801 - used as a function is
    """Mark what only waits for others and does nothing itself: a flight that is cancelled leaves it behind."""

    __slots__ = ("_flight",)

    def __enter__(self) -> None:
        self._flight: Flight | None = getattr(_current, "flight", None)
        if self._flight is not None:
            self._flight.check()
            self._flight.leave()

    def __exit__(self, *_: object) -> None:
        if self._flight is not None:
            self._flight.come_back()


class ended_by:  # noqa: N801 - used as a function is
    """Say how to end what the block does, if the flight that it belongs to is cancelled."""

    __slots__ = ("_flight", "_stop")

    def __init__(self, stop: Callable[[], Any]) -> None:
        self._stop = stop

    def __enter__(self) -> None:
        self._flight: Flight | None = getattr(_current, "flight", None)
        if self._flight is not None:
            self._flight.check()
            self._flight.stops.add(self._stop)
            self._flight.check()  # again, since those that are cancelled are stopped once

    def __exit__(self, *_: object) -> None:
        if self._flight is not None:
            self._flight.stops.discard(self._stop)
            self._flight.check()  # what may just be stopped, such as a connection, is of no more use


class Crew:
    """How many threads work for one filesystem.

    Parameters
    ----------
    remote : bool
        Whether they may wait for a server, so that there may be more of them than cores.
    """

    def __init__(self, *, remote: bool) -> None:
        self.remote = remote
        self.size = max(_FEWEST, _CORES) * (1 if remote else 2)  # where they do not multiply, some may wait
        self._wait = math.inf
        self._notes: collections.deque[tuple[float, float]] = collections.deque(maxlen=_MOST)

    def grow(self) -> None:
        """Let there be more threads, as nothing has come for a moment."""
        if self.remote:
            self.size = min(4 * self.size, _MOST)

    def note(self, waited: float, computed: float) -> None:
        """Tell for how many seconds a job has waited and computed."""
        if self.remote:
            self._notes.append((waited, computed))

    def adapt(self, at_work: int) -> None:
        """Let there be as many threads as keep the cores busy while jobs wait and compute as they do.

        Jobs wait for each other, too, the longer the more there are: of as many as are at work, one
        waited for the server alone; and a longer wait is believed by and by.
        """
        if len(self._notes) < max(_SAMPLE, at_work):
            return
        notes, self._notes = list(self._notes), collections.deque(maxlen=_MOST)
        if notes:  # no other thread has taken them
            self._wait = min(*(waited for waited, _ in notes), _BELIEVED * self._wait)
            computed = sum(computed for _, computed in notes) / len(notes)
            wanted = min(_CORES, _MOST_CORES) * (1 + self._wait / max(computed, _LEAST_COMPUTED))
            self.size = max(_FEWEST, min(math.ceil(wanted), _MOST))


class Flight:
    """Jobs under way at once, for one caller.

    A single one is done by the caller, and so are quick ones, where no server is waited for: to hand
    one over takes longer than to read a small file. Results are handed over some at a time: after a
    moment, or when a quarter of all that is under way has ended, so that others can follow; the last
    ones when all or many have ended.
    """

    def __init__(self, crew: Crew) -> None:
        self.stops: set[Callable[[], Any]] = set()
        self._pid = os.getpid()
        self._crew = crew
        self._todo: collections.deque[Job] = collections.deque()
        self._ended: list[tuple[Any, BaseException | None]] = []
        self._lock = threading.RLock()  # as collecting garbage may cancel a flight in any line
        self._news, self._left = _Bell(), _Bell()  # for the caller; for those who wait for the end
        self._is_enough = self._is_urgent = self._are_last = False
        self._is_closed = False
        self._under_way = 0
        self._at_work = 0  # threads
        self._busy: set[int] = set()  # the threads that do something for it and do not just wait
        self._needs_threads = crew.remote
        self._run_here, self._seconds_here = 0, 0.0

    def __len__(self) -> int:
        return self._under_way

    def advance(self, new: list[Job], *, are_last: bool = False) -> list[Any]:
        """Start some more, wait until any have ended, and return their results.

        Parameters
        ----------
        new : list of Job
        are_last : bool
            Whether none will follow but those that a result has in tow: what has ended may wait for the rest.

        Raises
        ------
        Exception
            What the first job that failed has raised.
        """
        with self._lock:
            self.check()
            self._todo.extend(new)
            self._under_way += len(new)
            self._news.heard(0)  # what was rung before is known by now
            self._is_enough, self._are_last = False, are_last
            self._look()
        with ended_by(self.cancel):  # if this is within a job of another flight
            if self._needs_threads and (self._under_way > 1 or not self._todo):
                self._wait()
            else:
                self._run_some()
        with self._lock:
            ended, self._ended, self._is_urgent = self._ended, [], False
            self._under_way -= len(ended)
        for _, error in ended:
            if error is not None:
                try:
                    raise error
                finally:
                    del error, ended  # its traceback has this frame, which would keep all that it knows
        return [result for result, _ in ended]

    def cancel(self) -> None:
        """Begin nothing more, and end what can be ended."""
        if self._is_left_behind():
            return
        with self._lock:
            self._is_closed = self._is_enough = True
            self._todo.clear()
            self._news.ring()
        for stop in list(self.stops):
            stop()

    def join(self) -> None:
        """Wait until nothing is under way, but for what waits for others and will do nothing any more."""
        if self._is_left_behind() or getattr(_current, "flight", None) is self:
            return
        while self._busy - {threading.get_ident()}:
            self._left.heard(_LONGEST_MOMENT)

    def check(self) -> None:
        """Raise CancelledError if nothing more is to be done."""
        if self._is_closed:
            raise asyncio.CancelledError

    def leave(self) -> None:
        """Count the calling thread as one that waits."""
        self._busy.discard(threading.get_ident())
        if self._is_closed:
            self._left.ring()

    def come_back(self) -> None:
        """Count the calling thread as one that does something; raise CancelledError if it must not."""
        self._busy.add(threading.get_ident())
        self.check()

    def _is_left_behind(self) -> bool:
        """Whether the threads are gone: this is a forked child, or the interpreter ends."""
        return os.getpid() != self._pid or sys.is_finalizing()

    # ------------------------------------------------------------------------- in the caller

    def _wait(self) -> None:
        """Wait for enough results, and see to it that there are enough threads."""
        self._call_threads()
        moment = _MOMENT
        began, computed = time.perf_counter(), time.process_time()
        while not self._news.heard(moment) and not self._ended and not self._is_closed:
            before, busy_before = began, computed
            began, computed = time.perf_counter(), time.process_time()
            if computed - busy_before < _IDLE * (began - before):  # it is a server that is waited for
                self._crew.grow()
                self._call_threads()
            moment = min(1.1 * moment, _LONGEST_MOMENT)  # many flights that wait would wake up all the time
        if not self._is_enough:
            self._news.heard(_WHILE)  # each hand-over takes the interpreter from those who work

    def _call_threads(self) -> None:
        with self._lock:
            self._crew.adapt(self._at_work)
            missing = min(self._crew.size - self._at_work, len(self._todo))
            self._at_work += max(0, missing)
        for _ in range(missing):
            _workers.call(self._work)

    def _run_some(self) -> None:
        """Do some jobs in the calling thread, until it is time to hand over the results."""
        began = time.perf_counter()
        seconds = 0.0
        outer = getattr(_current, "flight", None)  # of which this may be a job
        try:
            _current.flight = self
            self._busy.add(threading.get_ident())
            while seconds < _TURN and (job := self._take()) is not None:
                self._do(job)
                self._run_here += 1
                seconds = time.perf_counter() - began
        finally:
            _current.flight = outer
            self.leave()
        self._seconds_here += seconds
        is_slow = self._seconds_here > max(_PATIENCE, _QUICK * self._run_here)
        self._needs_threads = self._crew.remote or is_slow

    # ---------------------------------------------------------------------------- in a thread

    def _work(self) -> None:
        outer = getattr(_current, "flight", None)  # where no thread can be started, of which this may be a job
        try:
            _current.flight = self
            self._busy.add(threading.get_ident())
            while (job := self._take(of_pool=True)) is not None:
                self._do(job)
        finally:
            _current.flight = outer
            self.leave()

    def _take(self, *, of_pool: bool = False) -> Job | None:
        """Take a job; a thread of the pool that finds none, or is one too many, is not at work any more."""
        with self._lock:
            if self._todo and not (of_pool and self._at_work > self._crew.size):
                return self._todo.popleft()
            self._at_work -= of_pool
            return None

    def _do(self, job: Job) -> None:
        began, began_computing = time.perf_counter(), time.thread_time()
        error: BaseException | None = None
        result = None
        try:
            result = job()
        except BaseException as exc:  # noqa: BLE001 - it is raised where the results are taken
            error = exc
        computed = time.thread_time() - began_computing
        waited = time.perf_counter() - began - computed
        self._crew.note(waited, computed)
        with self._lock:
            self._ended.append((result, error))
            self._is_urgent |= error is not None or isinstance(result, More)
            self._look()
        del error  # its traceback has this frame

    def _look(self) -> None:
        """Have the results handed over if these are enough, or if something follows from one of them."""
        if self._is_enough or not self._ended:
            return
        enough = min(self._under_way, _MANY) if self._are_last else _SHARE * self._under_way
        if self._is_urgent or len(self._ended) >= enough:
            self._is_enough = True
            self._news.ring()


def _renew() -> None:
    """Begin anew in a forked child, where there are no threads."""
    global _workers, _doors
    _workers, _doors = _Pool(), _Pool(_DOORS)
    _current.flight = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
