"""Jobs are answered by hand: `tests.support.jobs`."""

from __future__ import annotations

from typing import Any

import pytest

from precomputed_fs import AlreadyExistsError, CorruptDataError, DataAccessError, NotFoundError
from precomputed_fs.errors import ReplacedError
from precomputed_fs.format.compression import TooLargeError
from precomputed_fs.store.requests import Compute, Delete, Exists, FollowUps, Get, Job, List, Put
from tests.support.jobs import Objects, feed


def reading_twins() -> Job[bytes]:
    try:
        body = yield Get("a")
    except NotFoundError:
        first, second = yield [Get("a.gz"), Exists("a.br")]
        return b"absent" if isinstance(first, NotFoundError) else first.data + str(second).encode()
    return bytes(body.data)


def test_a_job_is_fed_by_hand() -> None:
    absent = NotFoundError("not there")
    assert feed(reading_twins(), [(Get("a"), b"there")]) == b"there"
    both = [Get("a.gz"), Exists("a.br")]
    assert feed(reading_twins(), [(Get("a"), absent), (both, [b"twin", True])]) == b"twinTrue"
    assert feed(reading_twins(), [(Get("a"), absent), (lambda asked: len(asked) == 2, [absent, False])]) == b"absent"
    with pytest.raises(DataAccessError, match="broken"):
        feed(reading_twins(), [(Get("a"), DataAccessError("broken"))])


@pytest.mark.parametrize(
    "exchanges",
    [[], [(Get("b"), b"")], [(Get("a"), b""), (Get("b"), b"")], [(Get("a"), NotFoundError())]],
    ids=["too much", "something else", "too little", "too much after an error"],
)
def test_feeding_notices_what_is_not_expected(exchanges: list[tuple[Any, Any]]) -> None:
    with pytest.raises(AssertionError, match="request"):
        feed(reading_twins(), exchanges)


def test_feeding_makes_bodies_of_bytes_only_where_they_are_read() -> None:
    def asking() -> Job[Any]:
        return [(yield Exists("a")), *(yield [Get("b"), Exists("c")])]

    exists, body, exists_too = feed(asking(), [(Exists("a"), b"x"), ([Get("b"), Exists("c")], [b"x", b"x"])])
    assert (exists, body.data, exists_too) == (b"x", b"x", b"x")


def test_objects_answer_as_a_store_does() -> None:
    objects = Objects({"a": b"old", "f/b": b"x"})
    assert objects.run(reading_twins()) == b"old"
    assert objects.answer(Get("a", 1, 3)).data == b"ld"
    assert isinstance(objects.answer(Get("a", 1, 4)), CorruptDataError)
    assert isinstance(objects.answer(Get("a", limit=2)), TooLargeError)
    assert isinstance(objects.answer(Put("a", b"new", "", create=True)), AlreadyExistsError)
    version = objects.answer(Get("a", versioned=True)).version
    assert objects.answer(Put("a", b"new", "", replacing=version)) is None
    assert isinstance(objects.answer(Delete("a", version)), ReplacedError)
    assert objects.answer(List("f/", 9)) == ["b"]
    assert objects.answer(List("f", 9)) == ["f"]
    objects.answer(Delete("a"))
    assert objects.contents == {"f/b": b"x"}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_others_come_in_between_two_answers_of_objects(number: int) -> None:
    objects = Objects({"a.gz": b"twin"})

    def come_in() -> None:
        objects.put("a", b"new")
        objects.put("a.br", b"")
        objects.delete("a.gz")

    objects.before[number] = come_in
    found = {1: b"new", 2: b"absent", 3: b"twinTrue"}[number]
    assert objects.run(reading_twins()) == found


def test_objects_run_batches_and_jobs_within_jobs() -> None:
    def within() -> Job[list[Any]]:
        first, second = yield [reading_twins(), Get("b")]
        return [first, type(second)]

    def following() -> Job[FollowUps]:
        yield Compute(list)
        return FollowUps([within()])

    assert Objects({"a": b"x"}).run_all([following(), within()]) == [b"x", NotFoundError] * 2


@pytest.mark.parametrize(("order", "asked"), [([0, 0], "aab"), ([1, 0], "baa"), ([], "aba")])
def test_objects_run_jobs_together_in_an_order(order: list[int], asked: str) -> None:
    def reading(name: str, times: int) -> Job[int]:
        for _ in range(times):
            yield Get(name)
        return times

    objects = Objects({"a": b""})
    first, second = objects.run_together([reading("a", 2), reading("b", 1)], order)
    assert (first, type(second)) == (2, NotFoundError)
    assert "".join(objects.names_asked()) == asked
