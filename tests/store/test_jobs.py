"""Jobs are answered by hand: `tests.store.jobs`."""

from __future__ import annotations

from typing import Any

import pytest

from precomputed_fs import DataAccessError, NotFoundError
from precomputed_fs.store.requests import Exists, Get, Job
from tests.store.jobs import feed


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
