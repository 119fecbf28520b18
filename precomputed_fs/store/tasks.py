"""The tasks of a batch: the jobs under way, what each waits for, and how it goes on.

Nothing here knows of libcurl: a subclass sends exchanges, and says what has come of them.
"""

import collections
import concurrent.futures
import heapq
import itertools
import queue
import time
import types
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Generator, Iterable
from typing import Any

from precomputed_fs.store import pool
from precomputed_fs.store.answers import Answer
from precomputed_fs.store.failures import Failures, Tries
from precomputed_fs.store.remote import Cached, Remote
from precomputed_fs.store.requests import Body, Compute, Exchange, FollowUps, Job, Pause, Wait

_Future = concurrent.futures.Future[Any]

_Next = tuple["Task", Any, Exception | None]
"""Which task goes on, with a value to send to it, or an exception to throw into it."""


class Jobs:
    """The jobs of a batch that have not begun: those that follow from others come first.

    An exception of the iterable is kept until the jobs before it are done.
    """

    def __init__(self, jobs: Iterable[Job[Any]]) -> None:
        self._given = iter(jobs)
        self._more: collections.deque[Job[Any]] = collections.deque()
        self._failure: Exception | None = None

    def add(self, more: FollowUps) -> None:
        """Add jobs that follow from another one."""
        self._more.extend(more.jobs)

    def take(self) -> Job[Any] | None:
        """Take the next job; None if there is none, unless one follows from those under way."""
        if self._more:
            return self._more.popleft()
        if self._failure is None:
            try:
                return next(self._given, None)
            except Exception as exc:  # noqa: BLE001 - `end` raises it
                self._failure = exc
        return None

    def end(self) -> None:
        """Raise what the iterable has raised."""
        if self._failure is not None:
            raise self._failure


class Task(Tries):
    """A job under way, or one of the requests that a job makes at once."""

    __slots__ = ("job", "parent", "place", "request", "steps")

    def __init__(self, job: Job[Any], parent: "_Several | None" = None, place: int = 0) -> None:
        self.job = job
        self.parent = parent
        self.place = place
        self.request: Any = None
        """What the store is asked for at present."""

        self.steps: Generator[Any, Any, Any] | None = None
        """What answers the request, where that takes more than one exchange."""


class _Several:
    """Requests that a task makes at once."""

    __slots__ = ("left", "outcomes", "task")

    def __init__(self, task: Task, count: int) -> None:
        self.task = task
        self.left = count
        self.outcomes: list[Any] = [None] * count


def _only(request: Any) -> Job[Any]:  # noqa: ANN401
    return (yield request)


class Tasks(ABC):
    """The jobs of a batch, up to `limit` at once.

    Parameters
    ----------
    remote : Remote or Cached
        How requests are answered.
    failures : Failures
    jobs : iterable of Job
    limit : int
    """

    def __init__(self, remote: Remote | Cached, failures: Failures, jobs: Iterable[Job[Any]], limit: int) -> None:
        self._remote = remote
        self._failures = failures
        self._jobs = Jobs(jobs)
        self._limit = limit
        self._open: set[Task] = set()  # those of jobs
        self._results: list[Any] = []
        self._futures: dict[_Future, list[Task]] = {}
        self._submitted: set[_Future] = set()  # futures whose result is the answer
        self._done: queue.SimpleQueue[_Future] = queue.SimpleQueue()
        self._later: list[tuple[float, int, Task, _Future | None]] = []
        self._order = itertools.count()

    @abstractmethod
    def _send(self, task: Task, exchange: Exchange) -> None:
        """Send an exchange now or later; then call `_answered` or `_fail`."""

    @abstractmethod
    def _submit(self, coroutine: Coroutine[Any, Any, Any]) -> _Future:
        """Run a coroutine on the filesystem's event loop."""

    # -------------------------------------------------------------------------------- stepping

    def _step(self, task: Task, value: Any = None, error: Exception | None = None) -> None:  # noqa: ANN401
        """Send a task what it waits for, and begin what it asks for next, until that has to be waited for."""
        following: _Next | None = task, value, error
        while following is not None:
            task, value, error = following
            generator = task.job if task.steps is None else task.steps
            try:
                asked = generator.send(value) if error is None else generator.throw(error)
            except StopIteration as end:
                following = self._ended(task, end.value, None)
            except Exception as exc:  # noqa: BLE001 - it goes on to what waits for it
                following = error = None
                following = self._ended(task, None, exc)
            else:
                following = self._begin(task, asked)

    def _ended(self, task: Task, value: Any, error: Exception | None) -> _Next | None:  # noqa: ANN401
        """Hand on what has come of a job, or of the steps of a request."""
        if task.steps is not None:
            task.steps = None
            if error is None:
                task.request = None
            elif (error := self._judged(task, error)) is None:
                return None
            return task, value, error
        several = task.parent
        if several is None:
            try:
                self._end(task, value, error)
            finally:
                del error  # its traceback has this frame, which would keep all that it knows
            return None
        several.outcomes[task.place] = value if error is None else error
        several.left -= 1
        return None if several.left else (several.task, several.outcomes, None)

    def _end(self, task: Task, value: Any, error: Exception | None) -> None:  # noqa: ANN401
        self._open.discard(task)
        if error is not None:
            try:
                raise error
            finally:
                del error
        if type(value) is FollowUps:
            self._jobs.add(value)
        else:
            self._results.extend(value)

    def _begin(self, task: Task, asked: Any) -> _Next | None:  # noqa: ANN401
        """Begin what a task asks for; None if that has to be waited for."""
        kind = type(asked)
        if kind is Exchange:
            self._send(task, asked)
        elif kind is types.CoroutineType:
            self._await(task, self._submit(asked))
        elif kind is Compute:
            self._await(task, pool.future(asked.function))
        elif kind is Pause:
            self._postpone(task, time.monotonic() + asked.seconds)
        elif kind is Wait:
            self._watch(asked.future, task)
            self._postpone(task, time.monotonic() + asked.seconds, asked.future)
        elif kind is list:
            several = _Several(task, len(asked))
            for place, one in enumerate(asked):
                self._step(Task(one if isinstance(one, Generator) else _only(one), several, place))
            return None if asked else (task, asked, None)
        else:
            task.request, task.began, task.count = asked, time.monotonic(), 1
            return self._ask(task)
        return None

    def _ask(self, task: Task) -> _Next | None:
        """Ask the store for what a task requests, for the first time or again."""
        try:
            begun = self._remote.begin(task.request)
        except Exception as exc:  # noqa: BLE001
            error = self._judged(task, exc)
            return None if error is None else (task, None, error)
        if isinstance(begun, Exchange):
            self._send(task, begun)
            return None
        task.steps = begun
        return task, None, None

    def _answered(self, task: Task, exchange: Exchange, answer: Answer) -> None:
        """Go on with an answer."""
        value: Any = answer
        if task.steps is None and task.request is not None:
            try:
                value = self._remote.end(task.request, exchange, answer)
            except Exception as exc:  # noqa: BLE001
                self._fail(task, exc)
                return
            if type(value) is Body:
                task.request = None
            else:
                task.steps, value = value, None
        self._step(task, value)

    def _fail(self, task: Task, error: Exception) -> None:
        """Go on with a failure: ask again later, or tell the task."""
        judged: Exception | None = error
        if task.steps is None and task.request is not None:
            judged = self._judged(task, error)
        try:
            if judged is not None:
                self._step(task, None, judged)
        finally:
            del error, judged  # their traceback has this frame

    def _judged(self, task: Task, error: Exception) -> Exception | None:
        """Map what a request has failed with; None: it is tried again later."""
        error, due = self._failures.judged(task.request, error, task)
        if due is None:
            task.request = None
            return error
        self._postpone(task, due)
        return None

    # --------------------------------------------------------------------------------- waiting

    def _postpone(self, task: Task, due: float, waits_for: _Future | None = None) -> None:
        heapq.heappush(self._later, (due, next(self._order), task, waits_for))

    def _await(self, task: Task, future: _Future) -> None:
        self._submitted.add(future)
        self._watch(future, task)

    def _watch(self, future: _Future, task: Task) -> None:
        """Have a future say when it is done. To ask it takes locks in Python code: see `pool`."""
        tasks = self._futures.setdefault(future, [])
        tasks.append(task)
        if len(tasks) == 1:
            future.add_done_callback(self._done.put)

    def _wake(self) -> None:
        """Go on with the tasks whose futures are done, or whose time has come."""
        for _ in range(self._done.qsize()):
            self._take_result(self._done.get())
        while self._later and self._later[0][0] <= time.monotonic():
            _, _, task, waits_for = heapq.heappop(self._later)
            if waits_for is not None:
                if task in self._futures.get(waits_for, ()):
                    self._futures[waits_for].remove(task)
                    self._step(task, False)
            elif task.request is None:
                self._step(task)
            elif (following := self._ask(task)) is not None:
                try:
                    self._step(*following)
                finally:
                    del following

    def _take_result(self, future: _Future) -> None:
        tasks = self._futures.pop(future, [])
        if future not in self._submitted:
            for task in tasks:
                self._step(task, True)
            return
        self._submitted.discard(future)
        value, error = None, None
        try:
            value = future.result()
        except Exception as exc:  # noqa: BLE001 - it goes on to the task
            error = exc
        try:
            self._step(tasks[0], value, error)
        finally:
            del error, future  # whose traceback has this frame

    def _excuse(self, seconds: float, now: float) -> None:
        """Do not count a time in which nothing was looked at against the tries of requests."""
        waiting = itertools.chain(*self._futures.values(), (task for _, _, task, _ in self._later), self._sent())
        for task in set(waiting):
            if task.request is not None:
                task.began = min(now, task.began + seconds)

    @abstractmethod
    def _sent(self) -> Iterable[Task]:
        """Return the tasks whose exchanges are under way."""

    def _cancel(self) -> None:
        """Cancel what is under way."""
        for future in self._submitted:
            future.cancel()
        for task in self._open:
            for generator in (task.steps, task.job):
                if generator is not None:
                    generator.close()
