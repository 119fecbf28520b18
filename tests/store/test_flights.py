"""Flights: jobs in threads, by their promises: how many at once, in what order, how they fail, and how they end."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs import flights
from precomputed_fs.flights import Crew, Flight, ended_by, in_thread, only_waiting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DEADLINE = 20  # seconds, in which what is expected happens on the slowest machine


def fly(flight: Flight, jobs: Iterable[Callable[[], Any]]) -> list[Any]:
    """Have all jobs done, and return their results as they came."""
    results = flight.advance(list(jobs))
    while len(flight):
        results += flight.advance([])
    return results


def remote() -> Flight:
    return Flight(Crew(remote=True))


@pytest.mark.parametrize("is_remote", [False, True])
@pytest.mark.parametrize("count", [1, 2, 300])
def test_every_job_is_done_once(count: int, *, is_remote: bool) -> None:
    done: list[int] = []

    def job(number: int) -> int:
        done.append(number)
        return number

    results = fly(Flight(Crew(remote=is_remote)), [partial(job, number) for number in range(count)])
    assert sorted(done) == sorted(results) == list(range(count))


def test_a_single_job_is_done_by_who_asks() -> None:
    assert fly(remote(), [threading.get_ident]) == [threading.get_ident()]


def test_jobs_that_wait_for_each_other_are_under_way_at_once() -> None:
    barrier = threading.Barrier(40, timeout=DEADLINE)
    assert len(fly(remote(), [barrier.wait] * 40)) == 40


def test_quick_jobs_that_wait_for_no_server_need_no_threads() -> None:
    assert set(fly(Flight(Crew(remote=False)), [threading.get_ident] * 50)) == {threading.get_ident()}


def test_slow_jobs_share_the_cores() -> None:
    def slow() -> int:
        time.sleep(0.02)
        return threading.get_ident()

    assert len(set(fly(Flight(Crew(remote=False)), [slow] * 12))) > 1


def test_results_do_not_wait_for_the_slowest() -> None:
    held = threading.Event()
    flight = remote()
    results = flight.advance([held.wait, *[int] * 7])
    assert results
    assert True not in results
    held.set()
    while len(flight):
        results += flight.advance([])
    assert results.count(True) == 1


def test_more_jobs_may_come_while_others_are_under_way() -> None:
    held = threading.Event()
    flight = remote()
    flight.advance([held.wait, *[int] * 3])
    assert 7 in flight.advance([lambda: 7, lambda: 7])
    held.set()
    fly(flight, [])


# ------------------------------------------------------------------------------------------------------------- failures


def fail() -> None:
    message = "on purpose"
    raise KeyError(message)


@pytest.mark.parametrize("count", [1, 30])
def test_the_failure_of_a_job_is_raised_where_results_are_taken(count: int) -> None:
    flight = remote()
    with pytest.raises(KeyError, match="on purpose"):
        fly(flight, [*[int] * (count - 1), fail])
    flight.cancel()
    flight.join()


@pytest.fixture
def _no_collections() -> Iterator[None]:
    """Let things go only by their counts of references."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collections")
def test_a_failure_keeps_nothing_alive() -> None:
    class Thing:
        pass

    thing = Thing()
    watched = weakref.ref(thing)
    flight = remote()
    job = _failing_with(thing)
    del thing
    with pytest.raises(KeyError):
        fly(flight, [job, job])
    flight.cancel()
    flight.join()
    del flight, job
    deadline = time.monotonic() + DEADLINE
    while watched() is not None and time.monotonic() < deadline:  # a thread may still be about to leave its job
        time.sleep(0.01)
    assert watched() is None, "no cycle of a traceback and its frames holds it"


def _failing_with(thing: object) -> Callable[[], None]:
    def job() -> None:
        raise KeyError(id(thing))

    return job


def test_after_it_is_cancelled_nothing_begins() -> None:
    began: list[int] = []
    held = threading.Event()

    def hold() -> None:
        began.append(1)
        held.wait(DEADLINE)

    flight = remote()
    flight.advance([int, int, int, *[hold] * 200])
    flight.cancel()
    begun = len(began)
    held.set()
    flight.join()
    assert len(began) <= begun + 1  # one may just have been taken
    with pytest.raises(asyncio.CancelledError):
        flight.advance([int])


def test_what_is_under_way_is_ended_by_what_it_named() -> None:
    stopped = threading.Event()

    def job() -> None:
        with ended_by(stopped.set):
            assert stopped.wait(DEADLINE)

    flight = remote()
    flight.advance([int, int, job, job])
    flight.cancel()
    flight.join()
    assert stopped.is_set()


def test_who_only_waits_for_others_is_not_waited_for() -> None:
    held = threading.Event()
    after: list[int] = []

    def job() -> None:
        with only_waiting():
            held.wait(DEADLINE)
        after.append(1)

    flight = remote()
    flight.advance([int, int, job, job])
    flight.cancel()
    began = time.monotonic()
    flight.join()
    assert time.monotonic() - began < DEADLINE / 2
    held.set()
    time.sleep(0.05)
    assert not after, "what was left behind goes no further"


def test_a_flight_within_a_job_of_another_ends_with_it() -> None:
    held = threading.Event()
    inner: list[Flight] = []

    def job() -> None:
        inner.append(remote())
        inner[0].advance([held.wait, held.wait])

    outer = remote()
    outer.advance([int, int, job, held.wait])
    while not inner:
        time.sleep(0.001)
    outer.cancel()
    held.set()
    outer.join()
    inner[0].join()
    with pytest.raises(asyncio.CancelledError):
        inner[0].advance([int])


# --------------------------------------------------------------------------------------------------------------- crews


def test_a_crew_grows_with_what_jobs_wait() -> None:
    crew = Crew(remote=True)
    before = crew.size
    for _ in range(200):
        crew.note(0.03, 0.0002)
    crew.adapt(at_work=before)
    assert crew.size > 50


def test_a_crew_shrinks_to_where_jobs_only_compute() -> None:
    crew = Crew(remote=True)
    for _ in range(5):
        crew.grow()
    grown = crew.size
    for _ in range(400):
        crew.note(0.0, 0.005)
    crew.adapt(at_work=grown)
    assert crew.size < grown


def test_a_crew_that_waits_for_no_server_does_not_grow() -> None:
    crew = Crew(remote=False)
    before = crew.size
    crew.grow()
    assert crew.size == before


def test_many_short_flights_adapt_their_crew() -> None:
    crew = Crew(remote=True)
    before = crew.size
    for _ in range(12):
        fly(Flight(crew), [lambda: time.sleep(0.03)] * 8)
    assert crew.size > before


# --------------------------------------------------------------------------------------------------------------- doors


def test_what_is_awaited_is_done_in_a_thread_and_returned() -> None:
    assert asyncio.run(in_thread(threading.get_ident)) != threading.get_ident()


def test_what_is_awaited_raises_what_it_raised() -> None:
    with pytest.raises(KeyError, match="on purpose"):
        asyncio.run(in_thread(fail))


def test_the_loop_goes_on_while_something_is_awaited() -> None:
    async def main() -> None:
        held = threading.Event()
        waiting = asyncio.ensure_future(in_thread(lambda: held.wait(DEADLINE)))
        await asyncio.sleep(0)
        held.set()
        assert await waiting

    asyncio.run(main())


def test_who_gives_up_waiting_is_let_go_at_once() -> None:
    held = threading.Event()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(in_thread(lambda: held.wait(DEADLINE)), 0.05)

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < DEADLINE / 2
    held.set()


# ----------------------------------------------------------------------------------------------------------- processes


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_threads_of_its_own() -> None:
    fly(remote(), [lambda: time.sleep(0.001)] * 20)  # threads that the child does not inherit
    script = """
import os, sys, time
from precomputed_fs.flights import Crew, Flight
def fly():
    flight = Flight(Crew(remote=True))
    results = flight.advance([lambda: time.sleep(0.001) or 1] * 20)
    while len(flight):
        results += flight.advance([])
    return sum(results)
assert fly() == 20
child = os.fork()
if child == 0:
    os._exit(0 if fly() == 20 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=DEADLINE, check=False).returncode == 0


def test_the_interpreter_does_not_wait_for_threads_that_hang() -> None:
    script = """
import threading
from precomputed_fs.flights import Crew, Flight
Flight(Crew(remote=True)).advance([int, int, int, threading.Event().wait, threading.Event().wait])
print("done")
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=DEADLINE, check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("done\n", "")


# ----------------------------------------------------------------------------------------- signals, and being cancelled


def test_a_signal_that_raises_nothing_delays_nothing() -> None:
    before = signal.signal(signal.SIGALRM, lambda *_: time.sleep(0.002))  # longer than a flight waits at first
    signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.003)
    ended = threading.Event()
    flight = Flight(Crew(remote=True))
    began = time.monotonic()
    try:
        assert flight.advance([lambda: 1, *[lambda: ended.wait(DEADLINE)] * 7])[0] == 1
        assert time.monotonic() - began < DEADLINE / 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        ended.set()
        flight.cancel()
        flight.join()


def test_what_is_known_of_jobs_does_not_grow() -> None:
    crew = Crew(remote=True)
    for _ in range(2000):
        Flight(crew).advance([int])
    assert len(crew._notes) <= flights._MOST


def test_flights_that_are_cancelled_leave_nobody_waiting() -> None:
    chance, crew = random.Random(1), Crew(remote=True)

    async def begin_and_cancel() -> None:
        flight = Flight(crew)
        advancing = asyncio.create_task(in_thread(lambda: flight.advance([lambda: time.sleep(0.001)] * 6)))
        await asyncio.sleep(chance.uniform(0, 0.004))
        advancing.cancel()
        flight.cancel()
        await in_thread(flight.join)

    async def main() -> None:
        for _ in range(100):
            await asyncio.gather(*[begin_and_cancel() for _ in range(16)])

    asyncio.run(main())
    deadline = time.monotonic() + DEADLINE
    while flights._doors.threads != flights._doors.idle:
        assert time.monotonic() < deadline
        time.sleep(0.01)
