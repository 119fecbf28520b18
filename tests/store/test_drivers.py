"""What a store does with the requests of jobs, by each of its drivers: libcurl, direct calls, coroutines."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs import AlreadyExistsError, DataAccessError, NotFoundError
from precomputed_fs.store.requests import Body, Compute, Delete, Exists, FollowUps, Get, Job, List, Pause, Put, Wait
from tests.support import servers
from tests.support.faults import SOON, answering, sized

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from precomputed_fs.store.objects import ObjectStore
    from tests.store.conftest import Lane

NAMES = [f"a/{i}" for i in range(40)]


def body_of(name: str) -> bytes:
    return name.encode() * 100


# -------------------------------------------------------------------------------------------------------------- stores


@pytest.fixture(scope="module")
def s3() -> Iterator[servers.S3Server]:
    with servers.s3_server() as server:
        server.create_bucket("bucket")
        for name in NAMES:
            server.put("bucket", f"p/{name}", body_of(name))
        yield server


@pytest.fixture(params=["local", "memory", "http", "s3", "the filesystem's coroutines"])
def store(request: pytest.FixtureRequest, plain: Lane, tmp_path: Path) -> ObjectStore:
    """Make a store of `NAMES`, for each way to ask."""
    if request.param == "local":
        (tmp_path / "a").mkdir()
        for name in NAMES:
            (tmp_path / name).write_bytes(body_of(name))
        return plain.store(str(tmp_path))
    if request.param == "memory":
        made = plain.store(f"memory://jobs/{tmp_path.name}")
        for name in NAMES:
            made.write(name, body_of(name), content_type="a/b", create=False)
        return made
    if request.param == "http":
        known = {f"/{name}": sized(body_of(name)) for name in NAMES}
        absent = sized(b"", "404 Not Found")

        def answer(asked: Any) -> bytes:
            whole = known.get(asked.target, absent)
            return whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if asked.method == "HEAD" else whole

        return plain.asked(answering(answer))[0]
    server: servers.S3Server = request.getfixturevalue("s3")
    options = dict(server.storage_options)
    if request.param != "s3":
        options["requester_pays"] = True
    return plain.store("s3://bucket/p", options=options)


def read(name: str) -> Job[list[bytes]]:
    """Return a list of results, as jobs of batches do."""
    body = yield Get(name)
    assert isinstance(body, Body)
    return [body.data]


def results_of(store: ObjectStore, jobs: Iterable[Job[Any]], limit: int) -> Iterator[Any]:
    for results in store.run_many(jobs, limit):
        yield from results


def test_a_job_is_sent_what_it_asks_for(store: ObjectStore) -> None:
    assert store.run(read(NAMES[0])) == [body_of(NAMES[0])]


def test_a_job_that_asks_for_nothing_is_done(store: ObjectStore) -> None:
    def job() -> Job[list[int]]:
        return [5, 6]
        yield

    assert store.run(job()) == [5, 6]
    assert sorted(results_of(store, (job() for _ in range(100)), 8)) == [5] * 100 + [6] * 100


def test_what_a_job_cannot_have_is_thrown_into_it(store: ObjectStore) -> None:
    def job() -> Job[tuple[bytes, bool]]:
        try:
            yield Get("none")
        except NotFoundError as exc:
            assert "none" in str(exc)  # noqa: PT017
        there = yield Exists("none")
        body = yield Get(NAMES[1])
        return body.data, there

    assert store.run(job()) == (body_of(NAMES[1]), False)
    with pytest.raises(NotFoundError, match="none"):
        store.run(read("none"))


def test_what_is_asked_for_at_once_is_answered_in_its_order(store: ObjectStore) -> None:
    def job() -> Job[Any]:
        return (yield [Get(NAMES[2]), Exists(NAMES[3]), Get("none"), Exists("none"), Get(NAMES[4])])

    first, there, error, absent, last = store.run(job())
    assert (first.data, there, absent, last.data) == (body_of(NAMES[2]), True, False, body_of(NAMES[4]))
    assert type(error) is NotFoundError


def test_a_job_may_ask_for_nothing_at_once(store: ObjectStore) -> None:
    def job() -> Job[Any]:
        return (yield [])

    assert store.run(job()) == []


def test_jobs_of_a_batch_all_get_their_answers(store: ObjectStore) -> None:
    assert sorted(results_of(store, map(read, NAMES), 8)) == sorted(map(body_of, NAMES))


def test_more_jobs_follow_from_others_and_are_no_results(store: ObjectStore) -> None:
    def job(number: int) -> Job[Any]:
        body = yield Get(NAMES[number])
        return FollowUps([job(2 * number + i) for i in (1, 2)]) if number < 15 else [body.data]

    assert sorted(results_of(store, [job(0)], 4)) == sorted(body_of(NAMES[i]) for i in range(15, 31))


def test_no_more_are_taken_than_are_under_way_or_wait(store: ObjectStore) -> None:
    taken: list[str] = []

    def jobs() -> Iterator[Job[list[bytes]]]:
        for name in NAMES:
            taken.append(name)
            yield read(name)

    consumed = 0
    for _ in results_of(store, jobs(), 4):
        consumed += 1
        assert len(taken) <= consumed + 2 * 4, "under way, and waiting"
    assert (consumed, taken) == (len(NAMES), NAMES)


def test_nothing_is_taken_before_the_first_result_is_asked_for(store: ObjectStore) -> None:
    def jobs() -> Iterator[Job[list[bytes]]]:
        pytest.fail("it was asked for a job")
        yield

    store.run_many(jobs(), 4)


def test_the_first_failure_ends_a_batch_and_all_its_jobs(store: ObjectStore) -> None:
    begun: list[str] = []
    ended: list[str] = []

    def job(name: str) -> Job[list[str]]:
        begun.append(name)
        try:
            yield Get(name)
            yield Pause(1)
            return [name]
        finally:
            ended.append(name)

    began = time.monotonic()
    with pytest.raises(NotFoundError, match="none"):
        list(store.run_many(map(job, ["none", *NAMES[:6]]), 16))
    assert sorted(ended) == sorted(begun)
    assert time.monotonic() - began < 3


def test_a_batch_that_is_let_go_of_ends_its_jobs(store: ObjectStore) -> None:
    begun: list[str] = []
    ended: list[str] = []

    def job(name: str) -> Job[list[str]]:
        begun.append(name)
        try:
            yield Get(name)
            if name != NAMES[0]:
                yield Pause(1)
            return [name]
        finally:
            ended.append(name)

    results = store.run_many(map(job, NAMES[:6]), 16)
    assert next(results) == [NAMES[0]]
    results.close()
    assert sorted(ended) == sorted(begun)


def test_what_the_iterable_raises_comes_after_what_was_taken_before(store: ObjectStore) -> None:
    def jobs() -> Iterator[Job[list[bytes]]]:
        yield read(NAMES[0])
        yield read(NAMES[1])
        raise KeyError(5)

    got: list[bytes] = []
    with pytest.raises(KeyError):
        got.extend(results_of(store, jobs(), 8))  # also what came before the failure
    assert sorted(got) == sorted(map(body_of, NAMES[:2]))


def test_what_a_job_raises_is_raised_as_it_is(store: ObjectStore) -> None:
    def job() -> Job[None]:
        yield Get(NAMES[0])
        raise KeyError(5)

    with pytest.raises(KeyError, match="5"):
        store.run(job())
    with pytest.raises(KeyError, match="5"):
        list(store.run_many([read(NAMES[1]), job()], 8))


class Thing:
    pass


@contextlib.contextmanager
def going_by_reference_count() -> Iterator[Thing]:
    """Check that nothing holds what the block was given, such as a cycle of a traceback and its frames."""
    things = [Thing()]
    watched = weakref.ref(things[0])
    gc.collect()
    gc.disable()
    try:
        yield things.pop()
        assert watched() is None
    finally:
        gc.enable()


def test_a_failure_of_a_job_keeps_nothing_alive(store: ObjectStore) -> None:
    def job(thing: Thing) -> Job[None]:
        yield Get(NAMES[0])
        raise KeyError(id(thing))

    with going_by_reference_count() as thing:
        with pytest.raises(KeyError):
            list(store.run_many([job(thing), read(NAMES[1])], 8))
        del thing


def failing(thing: Thing) -> Job[list[int]]:
    yield Get("none")
    return [id(thing)]


@pytest.mark.parametrize("store", ["local", "memory", "http", "s3"], indirect=True)
def test_what_a_store_does_not_have_keeps_nothing_alive(store: ObjectStore) -> None:
    with going_by_reference_count() as thing:
        with pytest.raises(NotFoundError):
            store.run(failing(thing))
        del thing


@pytest.mark.parametrize("attempts", [1, 2])
def test_a_store_that_cannot_be_reached_keeps_nothing_alive(plain: Lane, attempts: int) -> None:
    with going_by_reference_count() as thing:
        with pytest.raises(DataAccessError):
            plain.store("http://127.0.0.1:9", attempts=attempts).run(failing(thing))
        del thing


@pytest.mark.parametrize("store", ["http", "s3", "the filesystem's coroutines"], indirect=True)
def test_a_pause_holds_up_nobody_else(store: ObjectStore) -> None:
    def job() -> Job[list[bytes]]:
        yield Pause(1)
        return [b"paused"]

    store.run(read(NAMES[0]))  # so that no client is to be made
    began = time.monotonic()
    results = list(results_of(store, [job(), job(), *map(read, NAMES[:8])], 50))
    assert 1 <= time.monotonic() - began < 2
    assert results[-2:] == [b"paused"] * 2


def test_jobs_wait_for_each_other(store: ObjectStore) -> None:
    """Also for one in another batch, or thread."""
    loaded: concurrent.futures.Future[bytes] = concurrent.futures.Future()

    def load() -> Job[list[bytes]]:
        yield Pause(0.1)
        body = yield Get(NAMES[0])
        loaded.set_result(body.data)
        return [b"loaded"]

    def wait() -> Job[list[bytes]]:
        assert (yield Wait(loaded, SOON)) is True
        return [loaded.result()]

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        elsewhere = pool.submit(store.run, wait())
        results = sorted(results_of(store, [wait(), wait(), load()], 3))
        assert results == sorted([b"loaded", *[body_of(NAMES[0])] * 2])
        assert elsewhere.result(SOON) == [body_of(NAMES[0])]


def test_nothing_is_waited_for_longer_than_allowed(store: ObjectStore) -> None:
    never: concurrent.futures.Future[bytes] = concurrent.futures.Future()

    def wait() -> Job[list[Any]]:
        return [(yield Wait(never, 0.2))]

    began = time.monotonic()
    assert list(results_of(store, [wait(), wait()], 3)) == [False, False]
    assert 0.2 <= time.monotonic() - began < SOON / 2


def test_a_future_is_not_waited_for_under_its_lock(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C might leave it locked, and who sets its result, such as fsspec's loop, would stand still for ever."""

    def locks(*_: Any) -> Any:
        pytest.fail("locks what is waited for")

    monkeypatch.setattr(concurrent.futures, "wait", locks)
    loaded: concurrent.futures.Future[None] = concurrent.futures.Future()
    threading.Timer(0.2, loaded.set_result, [None]).start()

    def wait() -> Job[list[Any]]:
        return [(yield Wait(loaded, SOON))]

    assert store.run(wait()) == [True]
    assert store.exists(NAMES[0])


def test_what_computes_holds_up_nobody(store: ObjectStore) -> None:
    gate = threading.Event()

    def compute() -> Job[list[Any]]:
        return [(yield Compute(lambda: gate.wait(SOON)))]

    def release() -> Job[list[Any]]:
        yield Get(NAMES[0])
        gate.set()
        return []

    def fail() -> Job[list[str]]:
        try:
            yield Compute(dict[str, str]().popitem)
        except KeyError:
            return ["thrown"]
        return []

    assert sorted(map(str, results_of(store, [compute(), release(), fail()], 3))) == ["True", "thrown"]


def test_jobs_within_a_job(store: ObjectStore) -> None:
    def job() -> Job[Any]:
        return (yield [read(NAMES[0]), Get(NAMES[1]), read("none")])

    first, second, error = store.run(job())
    assert (first, second.data) == ([body_of(NAMES[0])], body_of(NAMES[1]))
    assert type(error) is NotFoundError


def test_a_batch_in_a_running_loop(store: ObjectStore) -> None:
    async def main() -> list[bytes]:
        return [result async for results in store.run_many_async(map(read, NAMES), 8) for result in results]

    assert sorted(asyncio.run(main())) == sorted(map(body_of, NAMES))


def test_a_batch_that_is_cancelled_ends_its_jobs(store: ObjectStore) -> None:
    ended: list[int] = []
    paused = threading.Event()

    def job() -> Job[None]:
        try:
            paused.set()
            yield Pause(60)
        finally:
            ended.append(1)

    async def read_all() -> None:
        async for _ in store.run_many_async([job(), job()], 8):
            pass

    async def main() -> None:
        task = asyncio.create_task(read_all())
        await asyncio.to_thread(paused.wait, SOON)
        task.cancel()
        await task

    began = time.monotonic()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert time.monotonic() - began < SOON
    assert ended == [1, 1]


@pytest.mark.parametrize("store", ["local", "memory", "s3", "the filesystem's coroutines"], indirect=True)
def test_jobs_write_and_delete_and_list(store: ObjectStore) -> None:
    def job(number: int) -> Job[list[list[str]]]:
        name = f"new/{number}"
        yield Put(name, b"one", "a/b", create=True)
        try:
            yield Put(name, b"two", "a/b", create=True)
        except AlreadyExistsError:
            yield Put(name, b"three", "a/b")
        body = yield Get(name)
        assert body.data == b"three"
        listed: list[str] = yield List(name, 10)
        yield Delete(name)
        yield Delete(name)
        assert (yield Exists(name)) is False
        return [listed]

    listed = list(results_of(store, map(job, range(10, 16)), 4))
    if any(listed):  # what has no listing in one request lists nothing
        assert sorted(listed) == [[str(number)] for number in range(10, 16)]
