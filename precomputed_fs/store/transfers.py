"""The driver of filesystems of coroutines: it runs jobs in the thread that calls, and libcurl moves their bytes.

A batch holds one multi handle, with its connections. It begins as many jobs as there is room for, has libcurl work,
sends each job the answers to what it asked, and waits for the next ones. There is no other thread and no event loop
on the way of a read; Ctrl-C is an exception in the caller's own thread, and to cancel is to close a generator.
"""

import collections
import concurrent.futures
import contextlib
import os
import queue
import time
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

import pycurl

from precomputed_fs.errors import DataAccessError
from precomputed_fs.store import curl, loop, pool
from precomputed_fs.store.answers import Answer
from precomputed_fs.store.certificates import Trust
from precomputed_fs.store.failures import Failures, TruncatedError
from precomputed_fs.store.jobs import Batch
from precomputed_fs.store.remote import Cached, Remote
from precomputed_fs.store.requests import Exchange, Job
from precomputed_fs.store.tasks import Task, Tasks
from precomputed_fs.store.window import window_of

_T = TypeVar("_T")

_LEAST_RATE = 1024  # bytes per second, on average after the first `timeout` seconds
_LONGEST_WAIT = 0.1  # seconds, after which it checks that all is well
_SHORT_WAIT = 0.005  # seconds, where something else than libcurl is waited for, too
_IDLE = 1e-3  # seconds of waiting, from which on it is the server that is waited for


_BUSY = frozenset({429, 503})

_all: "weakref.WeakValueDictionary[int, Transfers]" = weakref.WeakValueDictionary()
"""Of this process: connections are closed with the last of those that use them."""


class Transfers:
    """Runs jobs on a filesystem of coroutines.

    Parameters
    ----------
    remote : Remote or Cached
        What its requests are, over HTTP or as coroutines.
    failures : Failures
    timeout : float
        Seconds to connect in, and without a byte of an answer.
    trust : Trust
        How to check certificates.
    """

    def __init__(
        self,
        remote: Remote | Cached,
        *,
        failures: Failures,
        timeout: float,
        trust: Trust,
    ) -> None:
        self.remote = remote
        self.failures = failures
        self.timeout = timeout
        self.settings = curl.settings_of(timeout, trust)
        self.trust = trust
        variables = curl.proxy_variables()
        self.uses_proxy = curl.SYSTEM_HAS_PROXIES or bool(variables)
        server = failures.location.server
        self.window = window_of(server)
        self.connection_key = server, self.settings, variables
        self.is_open = True
        _all[id(self)] = self

    def run(
        self, jobs: Iterable[Job[Any]], limit: int, finish: Callable[[Any], Any] | None, per_hop: int
    ) -> Iterator[list[Any]]:
        """Run jobs, up to `limit` at once; yields their results as they come, some at a time: see `Driver`."""
        postprocessor = None if finish is None else pool.Postprocessor(finish, min(per_hop, limit))
        yield from filter(None, _Batch(self, jobs, limit, postprocessor))

    def run_one(self, job: Job[_T]) -> _T:
        """Run one job, and return its result."""
        batch = _Batch(self, [_listed(job)], 1)
        try:
            (result,) = batch.advance()
        finally:
            batch.end()
        return result  # type: ignore[no-any-return]

    def confined(self) -> "Transfers":
        """Return itself: what is asked over HTTP has no links."""
        return self

    def close(self) -> None:
        """Close connections that are not in use, unless others use them, too."""
        self.is_open = False
        others = (reference() for reference in _all.valuerefs())  # a list, whatever other threads do meanwhile
        if not any(
            other is not None and other.is_open and other.connection_key == self.connection_key for other in others
        ):
            curl.close_connections(self.connection_key)


def _look_interval(timeout: float) -> float:
    return min(1.0, timeout / 8)


def _listed(job: Job[_T]) -> Job[list[_T]]:
    return [(yield from job)]


class _Batch(Tasks):
    """Jobs under way for one caller."""

    def __init__(
        self,
        driver: Transfers,
        jobs: Iterable[Job[Any]],
        limit: int,
        postprocessor: "pool.Postprocessor[Any, Any] | None" = None,
    ) -> None:
        super().__init__(driver.remote, driver.failures, jobs, limit)
        self._driver = driver
        self._postprocessor = postprocessor
        self._window = driver.window
        self._waiting: collections.deque[tuple[Task, Exchange]] = collections.deque()  # for room
        self._active: dict[Any, tuple[Task, Exchange]] = {}  # by the easy handle
        self._connections: curl.Connections | None = None
        self._batch = Batch()
        self._pid = os.getpid()
        self._is_crowded = False
        self._is_stopped = loop.stopped()
        self._waited = 0.0  # seconds, of late: each answer halves it
        self._driven = time.monotonic()  # when this last looked at what has come
        self._next_look = self._driven + _look_interval(driver.timeout)

    def __iter__(self) -> Iterator[list[Any]]:
        try:
            yield from iter(self.advance, []) if self._postprocessor is None else self._finished(self._postprocessor)
            self._jobs.end()
        finally:
            self.end()

    def _finished(self, postprocessor: "pool.Postprocessor[Any, Any]") -> Iterator[list[Any]]:
        try:
            while True:
                postprocessor.add(self.advance())
                if postprocessor.is_ready or (postprocessor.waiting and not self._open):
                    yield postprocessor.take()
                elif not self._open:
                    return
        finally:
            postprocessor.end()

    def advance(self) -> list[Any]:
        """Do what can be done, and wait until there are results, or some are finished; else it is over."""
        if os.getpid() != self._pid:
            raise DataAccessError(
                f"{self._driver.failures.location.display()}: a batch goes on in the process that began it"
            )
        postprocessor = self._postprocessor
        with self._batch:
            self._fill()
            while self._open and not self._results and not (postprocessor is not None and postprocessor.is_ready):
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
        self._window.active.difference_update(active)
        self._cancel()
        connections, self._connections = self._connections, None
        if connections is not None:
            for handle in active:
                with contextlib.suppress(pycurl.error):  # Ctrl-C came just before it was added, or since it was removed
                    connections.multi.remove_handle(handle)
            curl.keep_connections(self._driver.connection_key, connections)
            if not self._driver.is_open:  # since this began
                self._driver.close()

    def _fill(self) -> None:
        """Send what waits for room, and begin as many jobs as there is room for."""
        while self._waiting and self._has_room():
            self._send(*self._waiting.popleft())
        waiting = 0 if self._postprocessor is None else self._postprocessor.waiting
        while len(self._open) + len(self._results) + waiting < self._limit and not self._waiting:
            job = self._jobs.take()
            if job is None:
                return
            task = Task(job)
            self._open.add(task)
            self._step(task)

    def _has_room(self) -> bool:
        return not self._active or len(self._window.active) < self._window.size  # each batch may send one

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
        if self._postprocessor is not None and self._postprocessor.waiting:
            seconds = min(seconds, _SHORT_WAIT)
        if self._active and self._connections is not None:
            if self._futures:
                seconds = min(seconds, _SHORT_WAIT)
            self._select(self._connections.multi, seconds)
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
        if self._active and self._connections is not None:
            self._work(self._connections)
        if self._later or not self._done.empty():
            self._wake()
        now = self._driven = time.monotonic()
        if now > self._next_look:
            self._look(now)

    def _excuse(self, seconds: float, now: float) -> None:
        """Do not count the time for which the caller was busy with what has come, or with what is to be stored."""
        super()._excuse(seconds, now)
        for handle in self._active:
            handle.began, handle.moved = (min(now, then + seconds) for then in (handle.began, handle.moved))
            if self._connections is not None and not handle.getinfo(pycurl.PRETRANSFER_TIME):  # libcurl counts, too
                self._connections.multi.remove_handle(handle)
                self._connections.multi.add_handle(handle)

    # ------------------------------------------------------------------------------ transfers

    def _submit(self, coroutine: Coroutine[Any, Any, Any]) -> "concurrent.futures.Future[Any]":
        return loop.submit(self._remote.fs, coroutine)

    def _sent(self) -> Iterable[Task]:
        return [task for task, _ in self._active.values()]

    def _send(self, task: Task, exchange: Exchange) -> None:
        """Have libcurl send a request, once there is room for it."""
        if not self._has_room():
            self._waiting.append((task, exchange))
            return
        connections = self._connections
        if connections is None:
            try:
                self._is_crowded = curl.is_crowded()
                connections = self._connections = curl.take_connections(self._driver.connection_key)
            except (OSError, pycurl.error) as exc:  # no descriptor is left
                self._fail(task, exc)
                return
        handle = connections.handle(self._driver.settings)
        try:
            curl.prepare(handle, exchange)
        except ValueError as exc:  # it cannot be sent
            self._fail(task, exc)
            return
        if self._driver.uses_proxy:
            curl.set_proxy(handle, exchange.http.url)
        handle.began = handle.moved = time.monotonic()
        handle.seen = 0
        self._active[handle] = task, exchange
        self._window.active.add(handle)
        connections.multi.add_handle(handle)

    def _work(self, connections: curl.Connections) -> None:
        connections.multi.perform()
        while True:
            left, done, failed = connections.multi.info_read()
            for handle in done:
                task, exchange, answer = self._taken(connections, handle)
                if answer.is_whole:
                    self._window.note(is_kept=answer.keeps_connection)
                    self._answered(task, exchange, answer)
                else:
                    self._fail(task, TruncatedError("the connection was closed within the head of the answer"))
            for handle, code, message in failed:
                task, exchange, answer = self._taken(connections, handle)
                if code == pycurl.E_ABORTED_BY_CALLBACK:  # see `curl.Connections`: on another connection, then
                    self._send(task, exchange)
                    continue
                outcome = curl.failed_transfer(code, message, answer, handle, self._driver.trust)
                if isinstance(outcome, Answer):
                    self._answered(task, exchange, outcome)
                else:
                    try:
                        self._fail(task, outcome)
                    finally:
                        del outcome  # its traceback has this frame
            if done and self._waited > _IDLE:
                self._window.grow(len(done))
            if done:
                self._waited /= 2
            if not left:
                return

    def _taken(self, connections: curl.Connections, handle: Any) -> tuple[Task, Exchange, Answer]:  # noqa: ANN401 - a pycurl.Curl
        """Take a transfer off libcurl, and what has come of it."""
        answer = Answer(handle.getinfo(pycurl.RESPONSE_CODE), handle.lines.copy(), handle.parts.copy())
        connections.multi.remove_handle(handle)
        self._window.active.discard(handle)
        task, exchange = self._active.pop(handle)  # the last, so that nothing is forgotten where Ctrl-C comes before
        connections.idle.append(handle)
        if answer.status in _BUSY:
            self._window.shrink(handle.began)
        return task, exchange, answer

    def _look(self, now: float) -> None:
        """Give up transfers that have fallen silent, or are slower than any line."""
        timeout = self._driver.timeout
        self._next_look = now + _look_interval(timeout)
        connections = self._connections
        if connections is None:
            return
        connections.share()
        for handle, (task, exchange) in list(self._active.items()):
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
            _, _, answer = self._taken(connections, handle)
            if answer.is_failure:
                self._answered(task, exchange, answer)
            else:
                self._fail(task, TimeoutError(message))
