"""The driver of filesystems of coroutines: it runs jobs in the thread that calls, and libcurl moves their bytes.

A batch holds one multi handle, with its connections. It begins as many jobs as there is room for, has libcurl work,
sends each job the answers to what it asked, and waits for the next ones. There is no other thread and no event loop
on the way of a read; Ctrl-C is an exception in the caller's own thread, and to cancel is to close a generator.
"""

import collections
import concurrent.futures
import contextlib
import heapq
import itertools
import os
import queue
import time
import types
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator
from typing import Any, TypeVar

import pycurl

from precomputed_fs.errors import DataAccessError
from precomputed_fs.store import loop, pool
from precomputed_fs.store.answers import Answer
from precomputed_fs.store.certificates import Trust
from precomputed_fs.store.curl import (
    SYSTEM_HAS_PROXIES,
    Wire,
    close_kept,
    failed_transfer,
    is_crowded,
    prepare,
    proxy_variables,
    put_back,
    set_proxy,
    settings_of,
    take_wire,
)
from precomputed_fs.store.failures import Failures, Tries, TruncatedError
from precomputed_fs.store.jobs import Batch
from precomputed_fs.store.pace import Pace, pace_of
from precomputed_fs.store.remote import Answering
from precomputed_fs.store.requests import Compute, Exchange, Job, More, Pause, Upcoming, Wait

_T = TypeVar("_T")

_LEAST_RATE = 1024  # bytes per second, on average after the first `timeout` seconds
_LONGEST_WAIT = 0.1  # seconds, after which it is looked whether all is well
_SHORT_WAIT = 0.005  # seconds, where something else than libcurl is waited for, too
_IDLE = 1e-3  # seconds of waiting, from which on it is the server that is waited for


_BUSY = frozenset({429, 503})

_all: "weakref.WeakValueDictionary[int, Transfers]" = weakref.WeakValueDictionary()
"""Of this process: connections are closed with the last of those that use them."""


class Transfers:
    """Runs jobs on a filesystem of coroutines.

    Parameters
    ----------
    remote : Answering
        What its requests are, over HTTP or as coroutines.
    failures : Failures
    timeout : float
        Seconds to connect in, and without a byte of an answer.
    trust : Trust
        How to check certificates.
    """

    def __init__(
        self,
        remote: Answering,
        *,
        failures: Failures,
        timeout: float,
        trust: Trust,
    ) -> None:
        self.remote = remote
        self.failures = failures
        self.timeout = timeout
        self.settings = settings_of(timeout, trust)
        self.trust = trust
        variables = proxy_variables()
        self.uses_proxy = SYSTEM_HAS_PROXIES or bool(variables)
        self.wires = failures.location.server, self.settings, variables
        self.is_open = True
        _all[id(self)] = self

    @property
    def pace(self) -> Pace:
        """How many requests are sent at once."""
        return pace_of(self.failures.location.server)

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> "concurrent.futures.Future[Any]":
        """Have a coroutine of the filesystem run on its event loop."""
        return loop.submit(self.remote.fs, coroutine)

    def run(
        self, jobs: Iterable[Job[Any]], limit: int, finish: Callable[[Any], Any] | None, per_hop: int
    ) -> Iterator[list[Any]]:
        """Run jobs, up to `limit` at once; yields their results as they come, some at a time: see `Driver`."""
        finishing = None if finish is None else pool.Finishing(finish, min(per_hop, limit))
        yield from filter(None, _Batch(self, jobs, limit, finishing))

    def run_one(self, job: Job[_T]) -> _T:
        """Run one job, and return its result."""
        ((result,),) = filter(None, _Batch(self, [_listed(job)], 1))
        return result  # type: ignore[no-any-return]

    def confined(self) -> "Transfers":
        """Return itself: what is asked over HTTP has no links."""
        return self

    def close(self) -> None:
        """Close connections that are not in use, unless others use them, too."""
        self.is_open = False
        others = (reference() for reference in _all.valuerefs())  # a list, whatever other threads do meanwhile
        if not any(other is not None and other.is_open and other.wires == self.wires for other in others):
            close_kept(self.wires)


class _Task:
    """A generator under way: a job; or what answers a request, for the task that has made it."""

    __slots__ = ("generator", "parent", "place", "request", "tries")

    def __init__(self, generator: Generator[Any, Any, Any], parent: "_Task | _Several | None" = None) -> None:
        self.generator = generator
        self.parent = parent
        self.place = 0
        self.request: Any = None
        self.tries: Tries


class _Several:
    """Requests that a task has made at once."""

    __slots__ = ("left", "outcomes", "task")

    def __init__(self, task: _Task, count: int) -> None:
        self.task = task
        self.left = count
        self.outcomes: list[Any] = [None] * count


def _listed(job: Job[_T]) -> Job[list[_T]]:
    return [(yield from job)]


def _only(request: Any) -> Generator[Any, Any, Any]:  # noqa: ANN401
    return (yield request)


class _Batch:
    """Jobs under way for one caller."""

    def __init__(
        self,
        driver: Transfers,
        jobs: Iterable[Job[Any]],
        limit: int,
        finishing: "pool.Finishing[Any, Any] | None" = None,
    ) -> None:
        self._driver = driver
        self._finishing = finishing
        self._pace = driver.pace
        self._upcoming = Upcoming(jobs)
        self._limit = limit
        self._open: set[_Task] = set()
        self._waiting: collections.deque[tuple[_Task, Exchange]] = collections.deque()  # for room
        self._active: dict[Any, _Task] = {}  # by the easy handle
        self._futures: dict[concurrent.futures.Future[Any], list[_Task]] = {}
        self._later: list[tuple[float, int, _Task, concurrent.futures.Future[Any] | None]] = []
        self._done: queue.SimpleQueue[concurrent.futures.Future[Any]] = queue.SimpleQueue()
        self._submitted: set[concurrent.futures.Future[Any]] = set()  # those whose result is the answer
        self._order = itertools.count()
        self._results: list[Any] = []
        self._wire: Wire | None = None
        self._batch = Batch()
        self._pid = os.getpid()
        self._next_look = 0.0
        self._is_crowded = False
        self._is_stopped = loop.stopped()
        self._waited = 0.0  # seconds, of late: each answer halves it
        self._driven = time.monotonic()  # when this last looked at what has come

    def __iter__(self) -> Iterator[list[Any]]:
        try:
            yield from iter(self.advance, []) if self._finishing is None else self._finished(self._finishing)
            self._upcoming.end()
        finally:
            self.end()

    def _finished(self, finishing: "pool.Finishing[Any, Any]") -> Iterator[list[Any]]:
        try:
            while True:
                finishing.add(self.advance())
                if finishing.is_ready or (finishing.waiting and not self._open):
                    yield finishing.take()
                elif not self._open:
                    return
        finally:
            finishing.end()

    def advance(self) -> list[Any]:
        """Do what can be done, and wait until there are results, or some are finished; else it is over."""
        if os.getpid() != self._pid:
            raise DataAccessError(
                f"{self._driver.failures.location.display()}: a batch goes on in the process that began it"
            )
        finishing = self._finishing
        with self._batch:
            self._fill()
            while self._open and not self._results and not (finishing is not None and finishing.is_ready):
                self._wait()
                self._collect()
                self._fill()
        results, self._results = self._results, []
        return results

    def end(self) -> None:
        """Cancel what is under way, and keep the connections that are not in use."""
        if os.getpid() != self._pid:
            return
        active, self._active = self._active, {}
        self._pace.active.difference_update(active)
        for future in self._submitted:
            future.cancel()
        for task in self._open:
            task.generator.close()
        wire, self._wire = self._wire, None
        if wire is not None:
            for handle in active:
                with contextlib.suppress(pycurl.error):  # Ctrl-C came just before it was added, or since it was removed
                    wire.multi.remove_handle(handle)
            put_back(self._driver.wires, wire)
            if not self._driver.is_open:  # since this began
                self._driver.close()

    # ---------------------------------------------------------------------------------- jobs

    def _fill(self) -> None:
        while self._waiting and self._has_room():
            self._send(*self._waiting.popleft())
        finishing = 0 if self._finishing is None else self._finishing.waiting
        while len(self._open) + len(self._results) + finishing < self._limit and not self._waiting:
            if not self._has_room():
                return
            job = self._upcoming.take()
            if job is None:
                return
            task = _Task(job)
            self._open.add(task)
            self._step(task, None)

    def _has_room(self) -> bool:
        return not self._active or self._pace.has_room  # each batch may send one

    def _step(self, task: _Task, value: Any, error: Exception | None = None) -> None:  # noqa: ANN401
        """Send a task what it waits for, and begin what it asks for next, until that has to be waited for."""
        following: _Task | None = task
        while following is not None:
            try:
                generator = following.generator
                request = generator.send(value) if error is None else generator.throw(error)
            except StopIteration as end:
                following, value, error = self._ended(following, end.value, None)
            except Exception as exc:  # noqa: BLE001 - it goes on to who waits for it
                following, value, error = self._ended(following, None, exc)
            else:
                following, value, error = self._begin(following, request), None if request else [], None

    def _ended(
        self,
        task: _Task,
        value: Any,  # noqa: ANN401
        error: Exception | None,
    ) -> tuple[_Task | None, Any, Exception | None]:
        """Hand on what has come of a task; returns who waits for it, and for nothing else."""
        if error is not None and task.request is not None:
            error = self._judged(task, error)
            if error is None:
                return None, None, None
        parent = task.parent
        if isinstance(parent, _Several):
            parent.outcomes[task.place] = value if error is None else error
            parent.left -= 1
            return None if parent.left else parent.task, parent.outcomes, None
        if parent is not None:
            return parent, value, error
        self._open.discard(task)
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame, which would keep all that it knows
        if type(value) is More:
            self._upcoming.add(value)
        else:
            self._results.extend(value)
        return None, None, None

    def _begin(self, task: _Task, request: Any) -> _Task | None:  # noqa: ANN401
        """Begin what a task asks for; returns what is to be stepped at once, if anything is."""
        kind = type(request)
        if kind is Exchange:
            if self._has_room():
                self._send(task, request)
            else:
                self._waiting.append((task, request))
        elif kind is types.CoroutineType:
            self._await(task, self._driver.submit(request))
        elif kind is Compute:
            self._await(task, pool.future(request.function))
        elif kind is Pause:
            self._postpone(task, time.monotonic() + request.seconds)
        elif kind is Wait:
            self._watch(request.future, task)
            self._postpone(task, time.monotonic() + request.seconds, request.future)
        elif kind is list:
            several = _Several(task, len(request))
            for place, one in enumerate(request):
                child = _Task(one if isinstance(one, Generator) else _only(one), several)
                child.place = place
                self._step(child, None)
            return None if request else task  # which is sent an empty list
        else:
            child = _Task(self._driver.remote.answer(request), task)
            child.request = request
            child.tries = Tries()
            return child
        return None

    def _judged(self, task: _Task, error: Exception) -> Exception | None:
        """Map what a request has failed with; None: it is tried again later."""
        driver = self._driver
        error, due = driver.failures.judged(task.request, error, task.tries)
        if due is None:
            return error
        task.generator = driver.remote.answer(task.request)
        self._postpone(task, due)
        return None

    def _postpone(self, task: _Task, due: float, waits_for: "concurrent.futures.Future[Any] | None" = None) -> None:
        heapq.heappush(self._later, (due, next(self._order), task, waits_for))

    # ------------------------------------------------------------------------------- waiting

    def _wait(self) -> None:
        """Wait until something may have come."""
        if self._is_stopped():
            raise concurrent.futures.CancelledError
        now = time.monotonic()
        if now - self._driven > self._driver.timeout / 4:
            self._excuse(now - self._driven, now)
        seconds = _LONGEST_WAIT
        if self._later:
            seconds = min(seconds, max(0.0, self._later[0][0] - now))
        if self._waiting:
            seconds = min(seconds, _SHORT_WAIT)  # other batches may leave room
        if self._finishing is not None and self._finishing.waiting:
            seconds = min(seconds, _SHORT_WAIT)
        if self._active and self._wire is not None:
            if self._futures:
                seconds = min(seconds, _SHORT_WAIT)
            self._select(self._wire.multi, seconds)
        elif self._futures:
            with contextlib.suppress(queue.Empty):
                self._done.put(self._done.get(timeout=seconds))
        elif seconds:
            time.sleep(seconds)

    def _select(self, multi: Any, seconds: float) -> None:  # noqa: ANN401 - a pycurl.CurlMulti
        due = multi.timeout()
        if due >= 0:
            seconds = min(seconds, due / 1000)
        began = time.monotonic()
        ready = 0 if self._is_crowded else multi.select(seconds)
        if not ready and time.monotonic() - began < seconds / 2:  # nothing to watch, as while a host is looked up
            time.sleep(min(seconds, 1e-3))
        self._waited += time.monotonic() - began

    def _collect(self) -> None:
        """Have libcurl work, and hand on what has come."""
        if self._active and self._wire is not None:
            self._work(self._wire.multi)
        for _ in range(self._done.qsize()):
            self._take_result(self._done.get())
        while self._later and self._later[0][0] <= time.monotonic():
            _, _, task, waits_for = heapq.heappop(self._later)
            if waits_for is None:
                self._step(task, None)
            elif task in self._futures.get(waits_for, ()):
                self._futures[waits_for].remove(task)
                self._step(task, False)
        now = self._driven = time.monotonic()
        if now > self._next_look:
            self._look(now)

    def _excuse(self, seconds: float, now: float) -> None:
        """Do not count the time for which the caller was busy with what has come, or with what is to be stored."""
        for handle in self._active:
            handle.began, handle.moved = (min(now, then + seconds) for then in (handle.began, handle.moved))
            if self._wire is not None and not handle.getinfo(pycurl.PRETRANSFER_TIME):  # libcurl counts, too
                self._wire.multi.remove_handle(handle)
                self._wire.multi.add_handle(handle)
        later = (task for _, _, task, _ in self._later)
        for task in {*self._active.values(), *itertools.chain(*self._futures.values()), *later}:
            if task.request is not None:
                task.tries.began = min(now, task.tries.began + seconds)

    def _await(self, task: _Task, future: "concurrent.futures.Future[Any]") -> None:
        self._submitted.add(future)
        self._watch(future, task)

    def _watch(self, future: "concurrent.futures.Future[Any]", task: _Task) -> None:
        """Have a future say when it is done. To ask it takes locks in Python code: see `pool`."""
        tasks = self._futures.setdefault(future, [])
        tasks.append(task)
        if len(tasks) == 1:
            future.add_done_callback(self._done.put)

    def _take_result(self, future: "concurrent.futures.Future[Any]") -> None:
        """Hand on what has come of a coroutine, or that who was waited for is done."""
        tasks = self._futures.pop(future, [])
        if future in self._submitted:
            self._submitted.discard(future)
            value, error = None, None
            try:
                value = future.result()
            except Exception as exc:  # noqa: BLE001 - it goes on to the task
                error = exc
            self._step(tasks[0], value, error)
        else:
            for task in tasks:
                self._step(task, True)

    # ------------------------------------------------------------------------------ transfers

    def _send(self, task: _Task, exchange: Exchange) -> None:
        """Have libcurl send a request."""
        wire = self._wire
        if wire is None:
            try:
                self._is_crowded = is_crowded()
                wire = self._wire = take_wire(self._driver.wires)
            except (OSError, pycurl.error) as exc:  # no descriptor is left
                self._step(task, None, exc)
                return
        handle = wire.handle(self._driver.settings)
        handle.exchange = exchange
        try:
            prepare(handle, exchange)
        except ValueError as exc:  # it cannot be sent
            self._step(task, None, exc)
            return
        if self._driver.uses_proxy:
            set_proxy(handle, exchange.http.url)
        handle.began = handle.moved = time.monotonic()
        handle.seen = 0
        self._active[handle] = task
        self._pace.active.add(handle)
        wire.multi.add_handle(handle)

    def _work(self, multi: Any) -> None:  # noqa: ANN401 - a pycurl.CurlMulti
        multi.perform()
        while True:
            left, done, failed = multi.info_read()
            for handle in done:
                task, answer = self._taken(handle)
                if answer.is_whole:
                    self._step(task, answer)
                else:
                    self._step(task, None, TruncatedError("the connection was closed within the head of the answer"))
            for handle, code, message in failed:
                task, answer = self._taken(handle)
                if code == pycurl.E_ABORTED_BY_CALLBACK:  # see _check_silent: on another connection, then
                    self._send(task, handle.exchange)
                    continue
                outcome = failed_transfer(code, message, answer, handle, self._driver.trust)
                if isinstance(outcome, Answer):
                    self._step(task, outcome)
                else:
                    self._step(task, None, outcome)
            if done and self._waited > _IDLE:
                self._pace.grow(len(done))
            if done:
                self._waited /= 2
            if not left:
                return

    def _taken(self, handle: Any) -> tuple[_Task, Answer]:  # noqa: ANN401 - a pycurl.Curl
        """Take a transfer off libcurl, and what has come of it."""
        wire = self._wire
        answer = Answer(handle.getinfo(pycurl.RESPONSE_CODE), handle.lines, handle.parts)
        if wire is not None:
            wire.note_connection(handle)
            wire.multi.remove_handle(handle)
        self._pace.active.discard(handle)
        task = self._active.pop(handle)  # the last, so that nothing is forgotten where Ctrl-C comes before
        if wire is not None:
            wire.idle.append(handle)
        if answer.status in _BUSY:
            self._pace.shrink(handle.began)
        elif answer.is_whole:
            self._pace.note(is_kept=answer.keeps_connection)
        return task, answer

    def _look(self, now: float) -> None:
        """Give up transfers that have fallen silent, or are slower than any line."""
        timeout = self._driver.timeout
        self._next_look = now + min(1.0, timeout / 8)
        if self._wire is not None:
            self._wire.share()
        for handle, task in list(self._active.items()):
            seen = len(handle.parts)
            if seen != handle.seen:
                handle.seen, handle.moved = seen, now
            size = sum(map(len, handle.parts)) if now - handle.began > timeout else 0
            if now - handle.moved > timeout:
                message = f"no byte came for {timeout:g} s"
            elif now - handle.began > timeout + size / _LEAST_RATE:
                message = f"only {size} bytes came in {now - handle.began:.1f} s"
            else:
                continue
            _, answer = self._taken(handle)
            if answer.is_failure:
                self._step(task, answer)
            else:
                self._step(task, None, TimeoutError(message))
