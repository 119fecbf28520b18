"""Jobs answered by hand: no store, no server, no thread.

::

    result = feed(read_chunk(...), [(Get("1_1_1/0-1"), NotFoundError("…")), (Get("1_1_1/0-1.gz"), Body([packed]))])

`feed` checks each request, and sends the answer that stands beside it; an exception is thrown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from precomputed_fs.store.requests import Body, Job

Expected: TypeAlias = Any
"""A request; several, in a list, for requests that are made at once; or a function that checks one."""

Answer: TypeAlias = Any
"""What to send: an exception is thrown, bytes stand for a `Body` of them; a list answers a list of requests."""


def feed(job: Job[Any], exchanges: Sequence[tuple[Expected, Answer]]) -> Any:
    """Answer a job's requests, and return its result or raise what it raises.

    Raises
    ------
    AssertionError
        If it asks for something else, for less or for more.
    """
    answer: Answer = None
    for number, (expected, next_answer) in enumerate(exchanges):
        try:
            asked = _advance(job, answer)
        except StopIteration as stop:
            message = f"expected {expected!r} as request {number}, but the job returned {stop.value!r}"
            raise AssertionError(message) from None
        _check(asked, expected, number)
        answer = next_answer
    try:
        asked = _advance(job, answer)
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


def _advance(job: Job[Any], answer: Answer) -> Any:
    if isinstance(answer, BaseException):
        return job.throw(answer)
    if isinstance(answer, list):
        return job.send([_body(each) for each in answer])
    return job.send(_body(answer))


def _body(answer: Answer) -> Any:
    return Body([answer]) if isinstance(answer, bytes) else answer


def _check(asked: Any, expected: Expected, number: int) -> None:
    if isinstance(expected, Callable):  # type: ignore[arg-type]
        assert expected(asked), f"request {number} is {asked!r}"
        return
    if isinstance(expected, list):
        asked = list(asked)
    assert asked == expected, f"request {number}"
