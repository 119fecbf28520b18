"""Jobs answered by hand: no store, no server, no thread.

::

    result = feed(read_chunk(...), [(Get("1_1_1/0-1"), NotFoundError("…")), (Get("1_1_1/0-1.gz"), Body([packed]))])

`feed` checks each request, and sends the answer that stands beside it; an exception is thrown.

::

    objects = Objects({"1_1_1/0-1": b"old"})
    objects.before[2] = lambda: objects.put("1_1_1/0-1", b"of another writer")
    result = objects.run(read_chunk(...))

`Objects` answers as a store would, and lets another client come in between any two answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import GeneratorType
from typing import Any, NamedTuple, TypeAlias

from precomputed_fs.errors import AlreadyExistsError, CorruptDataError, NoRangesError, NotFoundError, ReplacedError
from precomputed_fs.format.compression import TooLargeError
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
    Pause,
    Put,
    Wait,
)

Expected: TypeAlias = Any
"""A request; several, in a list, for requests that are made at once; or a function that checks one."""

Answer: TypeAlias = Any
"""What to send: an exception is thrown, bytes answer a `Get`; a list answers a list of requests."""


def feed(job: Job[Any], exchanges: Sequence[tuple[Expected, Answer]]) -> Any:
    """Answer a job's requests, and return its result or raise what it raises.

    Raises
    ------
    AssertionError
        If it asks for something else, for less or for more.
    """
    asked, answer = None, None
    for number, (expected, next_answer) in enumerate(exchanges):
        try:
            asked = _advance(job, asked, answer)
        except StopIteration as stop:
            message = f"expected {expected!r} as request {number}, but the job returned {stop.value!r}"
            raise AssertionError(message) from None
        _check(asked, expected, number)
        answer = next_answer
    try:
        asked = _advance(job, asked, answer)
    except StopIteration as stop:
        return stop.value
    job.close()
    message = f"expected no more than {len(exchanges)} requests, but the job asks for {asked!r}"
    raise AssertionError(message)


def asked_first(job: Job[Any]) -> Any:
    """Return what a job asks for first, and end it."""
    asked = next(job)
    job.close()
    return asked


def _advance(job: Job[Any], asked: Any, answer: Answer) -> Any:
    if isinstance(answer, BaseException):
        return job.throw(answer)
    if isinstance(answer, list) and isinstance(asked, list):
        return job.send([_body(*pair) for pair in zip(asked, answer, strict=True)])
    return job.send(_body(asked, answer))


def _body(asked: Any, answer: Answer) -> Any:
    return Body([answer]) if isinstance(asked, Get) and isinstance(answer, bytes) else answer


def _check(asked: Any, expected: Expected, number: int) -> None:
    if isinstance(expected, Callable):  # type: ignore[arg-type]
        assert expected(asked), f"request {number} is {asked!r}"
        return
    if isinstance(expected, list):
        asked = list(asked)
    assert asked == expected, f"request {number}"


class Kept(NamedTuple):
    """An object in `Objects`."""

    data: bytes
    encoding: str
    version: str


class Objects:
    """Objects in a dictionary, which answer the requests of jobs one after the other.

    Parameters
    ----------
    contents
        Data by name.
    is_young
        Whether versions do not tell states apart that follow each other, as those of a clock that counts seconds.
    """

    def __init__(self, contents: Mapping[str, bytes] = {}, *, is_young: bool = False) -> None:
        self.kept: dict[str, Kept] = {}
        self.is_young = is_young
        self.knows_ranges = True
        self.is_changing = False
        """What `ChangedLately` is answered."""

        self.failures: dict[str, Exception] = {}
        """What is thrown whenever an object of this name is asked for."""

        self.before: dict[int, Callable[[], object]] = {}
        """What happens before a request is answered, by its number; the first one is 1."""

        self.before_each: Callable[[Any], object] = lambda _: None
        """What happens before each request is answered."""

        self.lost: set[int] = set()
        """Numbers of those whose answer is lost, so that the driver sends them again."""

        self.asked: list[Any] = []
        """All requests but those that ask nothing of the store."""

        self._puts = 0
        for name, data in contents.items():
            self.put(name, data)

    def put(self, name: str, data: bytes, encoding: str = "") -> None:
        """Put an object as another client does."""
        self._puts += 1
        self.kept[name] = Kept(bytes(data), encoding, f"now {len(data)}" if self.is_young else f"v{self._puts}")

    def delete(self, name: str) -> None:
        """Delete an object as another client does."""
        self.kept.pop(name, None)

    @property
    def contents(self) -> dict[str, bytes]:
        """The data by name."""
        return {name: kept.data for name, kept in self.kept.items()}

    def names_asked(self, kind: type = object) -> list[str]:
        """Return what was asked for by requests of a kind, in order."""
        return [_name(request) for request in self.asked if isinstance(request, kind)]

    # ------------------------------------------------------------------------------- running

    def run(self, job: Job[Any]) -> Any:
        """Run a job to its end."""
        answer: Any = None
        while True:
            try:
                asked = _sent(job, answer)
            except StopIteration as stop:
                return stop.value
            answer = self.answer(asked)

    def run_together(self, jobs: Sequence[Job[Any]], order: Iterable[int]) -> list[Any]:
        """Run jobs at once: `order` says which one goes on, to be answered once; then each is run to its end.

        One that waits for another goes on when that is done, or when all wait: then its time is over.

        Returns their results, or the exceptions that they have raised.
        """
        asked: list[Any] = [None] * len(jobs)
        answers: list[Any] = [None] * len(jobs)
        results: list[Any] = [None] * len(jobs)
        running = set(range(len(jobs)))
        going_on = itertools.chain((each % len(jobs) for each in order), itertools.cycle(range(len(jobs))))
        while running:
            one = next(going_on)
            if one not in running or (
                self._waits(asked[one]) and not all(self._waits(asked[each]) for each in running)
            ):
                continue
            try:
                asked[one] = _sent(jobs[one], self.answer(asked[one]) if isinstance(asked[one], Wait) else answers[one])
            except StopIteration as stop:
                results[one] = stop.value
                running.discard(one)
            except Exception as exc:  # noqa: BLE001 - the caller judges it
                results[one] = exc
                running.discard(one)
            else:
                answers[one] = None if isinstance(asked[one], Wait) else self.answer(asked[one])
        return results

    @staticmethod
    def _waits(request: Any) -> bool:
        return isinstance(request, Wait) and not request.future.done()

    def run_all(self, jobs: Iterable[Job[Any]]) -> list[Any]:
        """Run the jobs of a batch and what follows from them, one after the other; returns all results."""
        results: list[Any] = []
        for job in jobs:
            outcome = self.run(job)
            results += self.run_all(outcome.jobs) if isinstance(outcome, FollowUps) else outcome
        return results

    def answer(self, request: Any) -> Any:
        """Return what a request is answered: an exception, if it is to be thrown."""
        if isinstance(request, GeneratorType):
            return self._outcome(lambda: self.run(request))
        if isinstance(request, (list, tuple)):
            return [self.answer(each) for each in request]
        if isinstance(request, Compute):
            return self._outcome(request.function)
        if isinstance(request, Pause):
            return None
        if isinstance(request, Wait):
            return request.future.done()
        self.asked.append(request)
        number = len(self.asked)
        self.before.get(number, lambda: None)()
        self.before_each(request)
        if number in self.lost:
            self._outcome(lambda: self._answer(request))
        answer = self._outcome(lambda: self._answer(request))
        if isinstance(answer, (AlreadyExistsError, ReplacedError)):
            answer.was_retried = number in self.lost
        return answer

    def _outcome(self, function: Callable[[], Any]) -> Any:
        try:
            return function()
        except Exception as exc:  # noqa: BLE001 - it is thrown into the job
            return exc

    def _answer(self, request: Any) -> Any:
        if _name(request) in self.failures:
            raise self.failures[_name(request)]
        match request:
            case Get():
                return self._get(request)
            case Exists(name):
                return name in self.kept
            case Put():
                return self._put(request)
            case Delete(name, replacing):
                if replacing:
                    self._check_version(name, replacing)
                return self.delete(name)
            case List(prefix, limit):
                inside = sorted(name.removeprefix(prefix) for name in self.kept if name.startswith(prefix))
                start = prefix.rpartition("/")[2]
                return [f"{start}{name.partition('/')[0]}" for name in inside][:limit]
            case ChangedLately():
                return self.is_changing
        raise TypeError(request)

    def _get(self, get: Get) -> Body:
        if get.name not in self.kept:
            raise NotFoundError(get.name)
        data, encoding, version = self.kept[get.name]
        if get.start is None or get.end is None:
            if len(data) > get.limit:
                raise TooLargeError(get.name)
            return Body([data], encoding, version if get.versioned else "")
        if not self.knows_ranges:
            raise NoRangesError(get.name)
        if get.end > len(data):
            message = f"{get.name}: no bytes {get.start}-{get.end - 1}"
            raise CorruptDataError(message)
        return Body([data[get.start : get.end]], "", version, is_settled=not self.is_young)

    def _put(self, put: Put) -> None:
        if put.create and put.name in self.kept:
            raise AlreadyExistsError(put.name)
        if put.replacing:
            self._check_version(put.name, put.replacing)
        self.put(put.name, put.data[:], put.content_encoding)

    def _check_version(self, name: str, version: str) -> None:
        if name not in self.kept or self.kept[name].version != version:
            raise ReplacedError(name)


def _sent(job: Job[Any], answer: Any) -> Any:
    return job.throw(answer) if isinstance(answer, Exception) else job.send(answer)


def _name(request: Any) -> str:
    return str(
        next(value for word in ("name", "prefix", "folder") if (value := getattr(request, word, None)) is not None)
    )
