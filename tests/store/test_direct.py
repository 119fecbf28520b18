"""Jobs of synchronous filesystems: how many of them a thread is given at once."""

import pytest

from precomputed_fs.store import pool
from precomputed_fs.store.direct import Hop


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "CORES", 2)


def sizes(hop: Hop, *seconds: float) -> list[int]:
    """Return the size after hops that took so long."""
    found = []
    for one in seconds:
        hop.adapt(hop.size, one)
        found.append(hop.size)
    return found


def test_quick_jobs_are_handed_over_many_at_once() -> None:
    assert sizes(Hop(1, 256), *[0.0001] * 6) == [2, 4, 8, 16, 16, 16]
    assert sizes(Hop(4, 256), *[0.0001] * 5) == [8, 16, 32, 64, 64]


def test_slow_jobs_are_handed_over_as_few_at_once_as_asked() -> None:
    assert sizes(Hop(3, 256), 0.1, 0.005, 0.1) == [3, 3, 3]
    assert sizes(Hop(1, 256), 0.0001, 0.0001, 0.0001, 0.005, 0.1, 0.1, 0.1, 0.1) == [2, 4, 8, 8, 4, 2, 1, 1]


def test_the_last_few_jobs_do_not_tell_how_quick_others_are() -> None:
    hop = Hop(4, 256)
    hop.adapt(3, 0.0001)
    assert hop.size == 4


@pytest.mark.parametrize("limit", [1, 3, 8, 100])
def test_no_more_than_the_limit_are_under_way(limit: int) -> None:
    hop = Hop(1, limit)
    sizes(hop, *[0.0001] * 9)
    under_way = hops = 0
    while hop.may_begin(hops, under_way):
        hops, under_way = hops + 1, under_way + hop.size
    assert 1 <= under_way <= limit


def test_quick_jobs_occupy_no_more_threads_than_cores() -> None:
    hop = Hop(1, 256)
    assert hop.may_begin(100, 100)
    sizes(hop, 0.0001)
    assert hop.may_begin(1, 2)
    assert not hop.may_begin(2, 4)
