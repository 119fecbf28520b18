"""Jobs that read and merge shards, while others replace these between any two answers."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs import AlreadyExistsError, CorruptDataError, DataAccessError, NotFoundError
from precomputed_fs.errors import NoRangesError, ReplacedError
from precomputed_fs.format.shard_index import Entry
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid import shard_indexes
from precomputed_fs.pyramid.chunk_cache import ChunkCache
from precomputed_fs.pyramid.shard_indexes import ShardReplacedError
from precomputed_fs.pyramid.shard_writer import ShardWriter
from precomputed_fs.pyramid.shards import ShardReader
from precomputed_fs.pyramid.updates import Update
from precomputed_fs.store import jobs
from precomputed_fs.store.location import resolve
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Get, Put, Wait
from tests.support.jobs import Objects, feed
from tests.support.shards import pack_shard

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from precomputed_fs.format.grid import ChunkCoords
    from precomputed_fs.pyramid.stored import Stored
    from precomputed_fs.store.requests import Job

KEY = "1mm"
SHARD = f"{KEY}/0.shard"
SHARDING = Sharding(0, "identity", minishard_bits=1, shard_bits=0)
IDS = range(8)
Chunks = dict[int, bytes]


def body_of(writer: str, chunk_id: int) -> bytes:
    return f"<{writer}{chunk_id}>".encode()


def chunks_of(writer: str, ids: Iterable[int] = IDS) -> Chunks:
    return {chunk_id: body_of(writer, chunk_id) for chunk_id in ids}


def packed(chunks: Mapping[int, bytes], *, gap: int = 0, descending: bool = False) -> bytes:
    minishards: dict[int, list[tuple[int, bytes]]] = {}
    for chunk_id in sorted(chunks, reverse=descending):
        minishards.setdefault(SHARDING.locate(chunk_id)[1], []).append((chunk_id, chunks[chunk_id]))
    return pack_shard(minishards, SHARDING.minishard_bits, gap=gap)


OLD, NEW = chunks_of("old"), chunks_of("new")
OLD_SHARD, NEW_SHARD = packed(OLD), packed(NEW, descending=True, gap=3)
MOVED = chunks_of("new", range(6)) | {7: b"7" * 36}
STATES = {
    "larger": (NEW, NEW_SHARD),
    "alike": (NEW, packed(NEW, descending=True)),  # of the same size, with chunks elsewhere
    "moved": (MOVED, packed(MOVED)),  # of the same size, with indexes elsewhere
}
assert len(STATES["alike"][1]) == len(STATES["moved"][1]) == len(OLD_SHARD)


def reader_of(**options: Any) -> ShardReader:
    """Return a reader before a store that is never opened."""
    store = ObjectStore(resolve("http://127.0.0.1:9/lab"), attempts=1, timeout=1, **options)
    return ShardReader(store, ChunkCache(0))


def fetch_singly(reader: ShardReader, objects: Objects, ids: Iterable[int]) -> dict[int, bytes | None]:
    found = {one: objects.run(reader.fetch(KEY, SHARDING, one)) for one in ids}
    return {one: stored and stored.data for one, stored in found.items()}


def fetch_at_once(reader: ShardReader, objects: Objects, ids: Iterable[int]) -> dict[int, bytes | None]:
    def finish(tag: int, stored: Stored | None) -> Job[tuple[int, bytes | None]]:
        yield from ()
        return tag, stored and stored.data

    batch = reader.fetch_many(KEY, SHARDING, ((one, one) for one in ids), finish, window=64, gap=0, size=20)
    return dict(objects.run_all(batch))


FETCHES = {"singly": fetch_singly, "at once": fetch_at_once}
each_fetch = pytest.mark.parametrize("fetch", FETCHES.values(), ids=FETCHES)
Fetch = Any


# ------------------------------------------------------------------------------------------------------------- reading


def test_a_cold_chunk_takes_three_ranges_and_the_next_of_its_minishard_one() -> None:
    objects, reader = Objects({SHARD: OLD_SHARD}), reader_of()
    for chunk_id, ranges in ((0, 3), (2, 1), (1, 2), (3, 1)):
        objects.asked.clear()
        assert fetch_singly(reader, objects, [chunk_id]) == {chunk_id: OLD[chunk_id]}
        assert len(objects.asked) == ranges
        assert all(get.start is not None for get in objects.asked)


@each_fetch
def test_all_chunks_are_read_of_one_file_and_of_the_older_pair(fetch: Fetch) -> None:
    index, data = OLD_SHARD[: SHARDING.index_size], OLD_SHARD[SHARDING.index_size :]
    for files in ({SHARD: OLD_SHARD}, {f"{KEY}/0.index": index, f"{KEY}/0.data": data}):
        assert fetch(reader_of(), Objects(files), IDS) == OLD


@each_fetch
@pytest.mark.parametrize("is_young", [False, True])
def test_absent_chunks_minishards_and_shards_are_absent(fetch: Fetch, *, is_young: bool) -> None:
    for there in ((), (0,), (1, 3), (0, 2, 4), (0, 1, 7)):
        files = {SHARD: packed(chunks_of("old", there))} if there else {}
        objects, reader = Objects(files, is_young=is_young), reader_of()
        for _ in range(2):  # with indexes that are known, too
            assert fetch(reader, objects, IDS) == dict.fromkeys(IDS) | chunks_of("old", there)


@each_fetch
def test_that_a_chunk_is_absent_from_a_known_index_is_looked_at_again(fetch: Fetch) -> None:
    objects, reader = Objects({SHARD: packed(chunks_of("old", [0, 1]))}), reader_of()
    assert fetch(reader, objects, [2]) == {2: None}
    objects.asked.clear()
    assert fetch(reader, objects, [2, 4]) == {2: None, 4: None}
    assert {(get.start, get.end) for get in objects.asked} == {(0, 16)}
    objects.put(SHARD, OLD_SHARD)
    assert fetch(reader, objects, [2, 4]) == {2: OLD[2], 4: OLD[4]}


@each_fetch
def test_a_failure_is_not_absence_and_is_not_remembered(fetch: Fetch) -> None:
    for point in range(1, 4):
        objects, reader = Objects({SHARD: OLD_SHARD}), reader_of()

        def fail(objects: Objects = objects) -> None:
            objects.failures[SHARD] = DataAccessError("unreachable")

        objects.before[point] = fail
        with pytest.raises(DataAccessError, match="unreachable"):
            fetch(reader, objects, [0, 1])
        objects.failures.clear()
        assert fetch(reader, objects, IDS) == OLD


@each_fetch
@pytest.mark.parametrize("kept", range(0, len(OLD_SHARD), 7))
def test_a_shard_that_was_cut_off_is_corrupt_where_it_ends(fetch: Fetch, kept: int) -> None:
    objects, reader = Objects({SHARD: OLD_SHARD[:kept]}), reader_of()
    ends = 0
    for chunk_id in IDS:
        try:
            assert fetch(reader, objects, [chunk_id]) == {chunk_id: OLD[chunk_id]}
        except CorruptDataError as exc:
            ends += 1
            assert SHARD in str(exc) or SHARD in str(exc.__cause__)  # noqa: PT017 - most are read all the same
    assert ends


@pytest.mark.parametrize("missing", range(1, 25))
def test_of_chunks_that_are_read_together_the_one_that_cannot_be_read_is_named(missing: int) -> None:
    """The data of chunk 6 ends too early: a shard whose indexes come first, as some writers have it."""
    objects, reader = Objects({SHARD: OLD_SHARD}), reader_of()
    assert fetch_at_once(reader, objects, IDS) == OLD
    located = objects.run(reader.locate(KEY, SHARDING, 7))
    kept = objects.kept[SHARD]
    objects.kept[SHARD] = kept._replace(data=kept.data[: located.end - min(missing, 6)])
    with pytest.raises(CorruptDataError, match="chunk 7"):
        fetch_at_once(reader, objects, IDS)
    assert fetch_at_once(reader, objects, [0, 2, 4, 6]) == {one: OLD[one] for one in (0, 2, 4, 6)}


# ------------------------------------------------------------------------------------------------------------- replaced

POINTS = range(1, 25)


@each_fetch
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("is_young", [False, True], ids=["settled", "young"])
def test_a_shard_that_is_replaced_between_two_answers_never_yields_other_bytes(
    fetch: Fetch, point: int, state: str, *, is_young: bool
) -> None:
    """Whether its version tells or is too young to."""
    chunks, new = STATES[state]
    expected = dict.fromkeys(IDS) | chunks
    objects, reader = Objects({SHARD: OLD_SHARD}, is_young=is_young), reader_of()
    objects.before[point] = lambda: objects.put(SHARD, new)
    found = fetch(reader, objects, IDS)
    assert all(found[one] in (OLD[one], expected[one]) for one in IDS)
    if point <= 3:
        assert found == expected
    objects.put(SHARD, new)
    assert fetch(reader, objects, IDS) == expected


@each_fetch
@pytest.mark.parametrize("point", range(1, 40))
def test_a_shard_that_is_replaced_while_no_index_is_remembered_never_yields_other_bytes(
    fetch: Fetch, point: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard_indexes, "INDEX_CACHE_BYTES", 1)  # every index is asked for again
    objects = Objects({SHARD: OLD_SHARD})
    objects.before[point] = lambda: objects.put(SHARD, NEW_SHARD)
    found = fetch(reader_of(), objects, IDS)
    assert all(found[one] in (OLD[one], NEW[one]) for one in IDS)


@each_fetch
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("is_young", [False, True], ids=["settled", "young"])
def test_a_chunk_that_goes_and_one_that_comes_are_there_or_not(fetch: Fetch, point: int, *, is_young: bool) -> None:
    before, after = chunks_of("old", [0, 1, 2, 3]), chunks_of("old", [0, 1, 4, 5])
    objects, reader = Objects({SHARD: packed(before)}, is_young=is_young), reader_of()
    objects.before[point] = lambda: objects.put(SHARD, packed(after))
    for one, chunk in fetch(reader, objects, IDS).items():
        assert chunk in (before.get(one), after.get(one))
    objects.put(SHARD, packed(after))
    assert fetch(reader, objects, IDS) == dict.fromkeys(IDS) | after


@each_fetch
@pytest.mark.parametrize("point", POINTS)
def test_a_shard_that_is_deleted_between_two_answers_is_there_or_not(fetch: Fetch, point: int) -> None:
    objects, reader = Objects({SHARD: OLD_SHARD}), reader_of()
    objects.before[point] = lambda: objects.delete(SHARD)
    try:
        found = fetch(reader, objects, IDS)
    except NotFoundError:  # as one that was deleted on purpose
        found = {}
    assert all(chunk in (OLD[one], None) for one, chunk in found.items())


@each_fetch
@pytest.mark.parametrize("is_young", [False, True])
def test_a_shard_that_never_stays_the_same_is_an_error(fetch: Fetch, *, is_young: bool) -> None:
    objects, reader = Objects({SHARD: OLD_SHARD}, is_young=is_young), reader_of()
    states = itertools.cycle([NEW_SHARD, OLD_SHARD])
    objects.before_each = lambda _: objects.put(SHARD, next(states))
    try:
        found = fetch(reader, objects, [0])
    except DataAccessError as exc:
        assert "replaced" in str(exc) or isinstance(exc, CorruptDataError)  # noqa: PT017 - or it was lucky
    else:
        assert found[0] in (OLD[0], NEW[0])
    assert len(objects.asked) < 30


def test_a_young_version_is_read_again_until_it_is_settled() -> None:
    objects, reader = Objects({SHARD: OLD_SHARD}, is_young=True), reader_of()
    counts = []
    for chunk_id in (0, 2, 4):
        if chunk_id == 4:
            objects.is_young = False
        objects.asked.clear()
        assert fetch_singly(reader, objects, [chunk_id]) == {chunk_id: OLD[chunk_id]}
        counts.append(len(objects.asked))
    objects.asked.clear()
    assert fetch_singly(reader, objects, [6]) == {6: OLD[6]}
    assert [*counts, len(objects.asked)] == [5, 3, 3, 1]


# ------------------------------------------------------------------------------------------------ several at once


@pytest.mark.parametrize("number", range(2))
@pytest.mark.parametrize("error", [DataAccessError("unreachable"), NotFoundError("gone")])
def test_of_several_indexes_at_once_any_may_fail(number: int, error: DataAccessError) -> None:
    reader = reader_of()
    finish: Any = None
    (group,) = reader.fetch_many(KEY, SHARDING, ((one, one) for one in IDS), finish, window=64, gap=0, size=1)
    index = OLD_SHARD[: SHARDING.index_size]
    outcomes: list[Any] = [None, None]
    outcomes[number] = error
    with pytest.raises(type(error), match=str(error)):
        feed(group, [(Get(SHARD, 0, 32), index), (lambda asked: len(asked) == 2, outcomes)])


def test_indexes_that_lie_together_are_one_range() -> None:
    objects, reader = Objects({SHARD: OLD_SHARD}), reader_of()

    def finish(tag: int, stored: Stored | None) -> Job[int]:
        yield from ()
        return tag

    objects.run_all(reader.fetch_many(KEY, SHARDING, ((one, one) for one in IDS), finish, window=64, gap=9, size=9999))
    assert len(objects.asked) == 3


# ---------------------------------------------------------------------------------------------------- without ranges


@each_fetch
def test_a_server_without_ranges_is_asked_for_one_and_then_for_whole_shards_once(fetch: Fetch) -> None:
    objects, reader = Objects({SHARD: OLD_SHARD}), reader_of()
    objects.knows_ranges = False
    for _ in range(2):
        assert fetch(reader, objects, IDS) == OLD
    assert [get.start for get in objects.asked] == [0, None]


def test_a_whole_shard_is_read_again_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    objects, reader = Objects({SHARD: OLD_SHARD}), reader_of()
    objects.knows_ranges = False
    assert fetch_singly(reader, objects, IDS) == OLD
    objects.put(SHARD, NEW_SHARD)
    monkeypatch.setattr(shard_indexes, "_WHOLE_SECONDS", -math.inf)
    assert fetch_singly(reader, objects, IDS) == NEW


def test_of_a_server_without_ranges_a_large_shard_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_indexes, "LARGEST_WHOLE", len(OLD_SHARD) - 1)
    objects = Objects({SHARD: OLD_SHARD})
    objects.knows_ranges = False
    with pytest.raises(NoRangesError, match=f"{SHARD}: the server ignores Range"):
        fetch_singly(reader_of(), objects, [0])


@pytest.mark.parametrize("shard", [b"", OLD_SHARD[:20], OLD_SHARD[:-1]])
def test_a_whole_shard_that_is_too_short_is_corrupt(shard: bytes) -> None:
    objects = Objects({SHARD: shard})
    objects.knows_ranges = False
    with pytest.raises(CorruptDataError, match=SHARD):
        fetch_singly(reader_of(), objects, IDS)


# ------------------------------------------------------------------------------------------------------------- merging


def writer_of(reader: ShardReader | None = None) -> ShardWriter:
    reader = reader or reader_of()
    return ShardWriter(reader._store, reader, 9)


def flushing(added: Mapping[int, bytes], objects: Objects, *, overwrite: bool = True) -> Job[None]:
    """Return a job that writes chunks into their shard, of a client that takes no turns with others."""
    store = ObjectStore(resolve(f"http://127.0.0.1:9/{next(_numbers)}"), attempts=1, timeout=1)
    writer = writer_of(ShardReader(store, ChunkCache(0)))
    quiet = Objects()
    quiet.kept = objects.kept
    for chunk_id, data in added.items():
        quiet.run(writer.add(KEY, SHARDING, chunk_id, data, overwrite=overwrite))
    try:
        yield from writer._flush_in_turn(KEY, 0)
    finally:
        writer.drop()


_numbers = itertools.count()


def read_all(objects: Objects) -> Chunks:
    quiet = Objects()
    quiet.kept = objects.kept
    return {one: data for one, data in fetch_singly(reader_of(), quiet, IDS).items() if data is not None}


def test_a_new_shard_is_created_and_an_old_one_is_merged() -> None:
    objects = Objects()
    objects.run(flushing(chunks_of("1", [0, 3]), objects))
    objects.run(flushing(chunks_of("2", [3, 4]), objects))
    assert read_all(objects) == chunks_of("1", [0]) | chunks_of("2", [3, 4])
    assert [(put.create, put.replacing) for put in objects.asked if isinstance(put, Put)] == [(True, ""), (False, "v1")]


@pytest.mark.parametrize("there", [(), (0, 1), (1, 3, 5)], ids=str)
@pytest.mark.parametrize("point", range(1, 16))
def test_two_that_merge_a_shard_are_both_in_it_whenever_the_other_comes(there: Sequence[int], point: int) -> None:
    objects = Objects({SHARD: packed(chunks_of("old", there))} if there else {})
    objects.before[point] = lambda: objects.run(flushing(chunks_of("2", [4, 5]), objects))
    objects.run(flushing(chunks_of("1", [2, 7]), objects))
    came = len(objects.asked) >= point
    expected = chunks_of("old", there) | chunks_of("1", [2, 7]) | (chunks_of("2", [4, 5]) if came else {})
    assert read_all(objects) == expected


@pytest.mark.parametrize("point", range(1, 16))
def test_a_shard_that_is_deleted_while_it_is_merged_does_not_come_back(point: int) -> None:
    objects = Objects({SHARD: OLD_SHARD})
    objects.before[point] = lambda: objects.delete(SHARD)
    objects.run(flushing({0: b"new"}, objects))
    assert read_all(objects) in ([OLD | {0: b"new"}] if len(objects.asked) < point else [{0: b"new"}, {}])


@pytest.mark.parametrize("lost", range(1, 12))
@pytest.mark.parametrize("there", [(), (0, 1)], ids=str)
def test_a_merge_whose_answer_was_lost_is_done(there: Sequence[int], lost: int) -> None:
    for overwrite in (True, False):
        objects = Objects({SHARD: packed(chunks_of("old", there))} if there else {})
        objects.lost = {lost}
        objects.run(flushing(chunks_of("1", [2, 7]), objects, overwrite=overwrite))
        assert read_all(objects) == chunks_of("old", there) | chunks_of("1", [2, 7])


@pytest.mark.parametrize("point", range(1, 12))
def test_a_chunk_that_another_creates_while_ours_waits_is_not_replaced(point: int) -> None:
    objects = Objects({SHARD: packed(chunks_of("old", [0]))})
    objects.before[point] = lambda: objects.run(flushing(chunks_of("2", [4]), objects))
    try:
        objects.run(flushing(chunks_of("1", [3, 4]), objects, overwrite=False))
    except AlreadyExistsError as exc:
        assert "chunk 4 exists" in str(exc)  # noqa: PT017 - unless ours was first
        assert read_all(objects) == chunks_of("old", [0]) | chunks_of("1", [3]) | chunks_of("2", [4])
    else:
        assert read_all(objects)[3] == body_of("1", 3)


def test_a_shard_that_others_always_replace_first_is_an_error_and_what_waits_goes_on_waiting() -> None:
    objects = Objects({SHARD: OLD_SHARD})
    reader = reader_of()
    writer = writer_of(reader)
    objects.run(writer.add(KEY, SHARDING, 0, b"new", overwrite=True))

    def replace(request: Any) -> None:
        if isinstance(request, Put):
            objects.put(SHARD, OLD_SHARD)

    objects.before_each = replace
    with pytest.raises(DataAccessError, match="again and again; flush again") as caught:
        objects.run(writer._flush_in_turn(KEY, 0))
    assert isinstance(caught.value.__cause__, ReplacedError)
    assert len(objects.names_asked(Put)) == jobs._MOST_CONFLICTS
    assert writer.waiting == {KEY: 1}
    objects.before_each = lambda _: None
    objects.run(writer._flush_in_turn(KEY, 0))
    assert (writer.waiting, read_all(objects)) == ({}, OLD | {0: b"new"})


@pytest.mark.parametrize("point", range(1, 16))
def test_changes_of_a_chunk_are_made_of_what_is_there_when_they_are_written(point: int) -> None:
    def append(_: ChunkCoords, data: bytes | None, patches: Sequence[bytes]) -> bytes:
        return b"".join([data or b"", *patches])

    objects = Objects({SHARD: OLD_SHARD})
    writer = writer_of()
    for patch in (b"+1", b"+2"):
        objects.run(writer.update(KEY, SHARDING, 0, (0, 1, 0, 1, 0, 1), Update(patch, append)))
    objects.before[point] = lambda: objects.run(flushing({0: b"other"}, objects))
    objects.run(writer._flush_in_turn(KEY, 0))
    came = len(objects.asked) >= point
    assert read_all(objects)[0] == (b"other+1+2" if came else OLD[0] + b"+1+2")


def test_a_minishard_of_another_state_is_no_part_of_a_merge() -> None:
    objects, reader = Objects({SHARD: OLD_SHARD}), reader_of()
    state = objects.run(reader.inspect(KEY, SHARDING, 0))
    for minishard in (0, 1):
        ids = [one for one in IDS if one % 2 == minishard]
        kept = objects.run(reader.fetch_minishard(KEY, SHARDING, 0, minishard, state, without=ids[:1]))
        assert kept == {one: Entry(OLD[one]) for one in ids[1:]}
    objects.put(SHARD, NEW_SHARD)
    with pytest.raises(ShardReplacedError):
        objects.run(reader.fetch_minishard(KEY, SHARDING, 0, 0, state, without=()))


# ---------------------------------------------------------------------------------------------------- once, and turns


class Loads:
    """Something that is loaded by one request and kept."""

    def __init__(self) -> None:
        self.loads: dict[Any, Any] = {}
        self.kept: str | None = None
        self.begun = 0

    def job(self) -> Job[str | None]:
        return jobs.once(self.loads, "key", lambda: self.kept, self._load)

    def _load(self) -> Job[str | None]:
        self.begun += 1
        answer: str | None = yield Get("x")
        self.kept = answer
        return answer


def sent(job: Job[Any], answer: Any) -> Any:
    """Answer a job, and return its next request, or its result in a list."""
    try:
        return job.throw(answer) if isinstance(answer, Exception) else job.send(answer)
    except StopIteration as stop:
        return [stop.value]


def test_jobs_that_want_the_same_share_one_load() -> None:
    loads = Loads()
    first, second, third = loads.job(), loads.job(), loads.job()
    assert sent(first, None) == Get("x")
    waits = sent(second, None), sent(third, None)
    assert all(isinstance(wait, Wait) and not wait.future.done() for wait in waits)
    assert sent(first, "loaded") == ["loaded"]
    assert all(wait.future.done() for wait in waits)
    assert sent(second, True) == sent(third, True) == ["loaded"]
    assert (loads.begun, loads.loads) == (1, {})


def test_what_is_kept_is_not_loaded() -> None:
    loads = Loads()
    loads.kept = "kept"
    assert sent(loads.job(), None) == ["kept"]
    assert loads.begun == 0


def test_that_there_is_nothing_is_shared_but_not_kept() -> None:
    loads = Loads()
    first, second = loads.job(), loads.job()
    sent(first, None)
    sent(second, None)
    assert sent(first, None) == [None]
    assert sent(second, True) == [None]
    assert sent(loads.job(), None) == Get("x")


def test_after_a_load_that_failed_each_tries_for_itself_one_after_the_other() -> None:
    loads = Loads()
    first, second, third = loads.job(), loads.job(), loads.job()
    for job in (first, second, third):
        sent(job, None)
    with pytest.raises(DataAccessError, match="down"):
        sent(first, DataAccessError("down"))
    assert sent(second, True) == Get("x")
    assert isinstance(sent(third, True), Wait)
    with pytest.raises(DataAccessError, match="still down"):
        sent(second, DataAccessError("still down"))
    assert sent(third, True) == Get("x")
    assert sent(third, "loaded") == ["loaded"]
    assert loads.begun == 3


def test_a_load_whose_batch_stands_still_is_waited_for_for_a_limited_time() -> None:
    loads = Loads()
    first, second = loads.job(), loads.job()
    sent(first, None)
    wait = sent(second, None)
    assert 0 < wait.seconds <= 5
    assert sent(second, False) == Get("x")  # the time is over: it loads for itself
    assert sent(second, "loaded") == ["loaded"]
    assert sent(first, "loaded later") == ["loaded later"]
    assert (loads.begun, loads.loads) == (2, {})


def test_a_load_that_is_let_go_of_leaves_it_to_the_next() -> None:
    loads = Loads()
    first, second = loads.job(), loads.job()
    sent(first, None)
    wait = sent(second, None)
    first.close()
    assert wait.future.done()
    assert sent(second, True) == Get("x")
    assert sent(second, "loaded") == ["loaded"]
    assert loads.loads == {}


def test_a_job_that_is_let_go_of_while_it_waits_disturbs_nobody() -> None:
    loads = Loads()
    first, second = loads.job(), loads.job()
    sent(first, None)
    sent(second, None)
    second.close()
    assert sent(first, "loaded") == ["loaded"]
    assert loads.loads == {}


@pytest.mark.parametrize(
    "order", list(itertools.product(range(2), repeat=4)), ids=lambda order: "".join(map(str, order))
)
def test_two_readers_share_the_indexes_in_whatever_order_they_are_answered(order: Sequence[int]) -> None:
    objects, reader = Objects({SHARD: OLD_SHARD}), reader_of()
    first, second = objects.run_together([reader.fetch(KEY, SHARDING, one) for one in (0, 2)], order)
    assert (first.data, second.data) == (OLD[0], OLD[2])
    assert len(objects.asked) == 4  # of the shard index, of the minishard, and of each chunk


def turning(name: str, log: list[str], label: str) -> Job[None]:
    turn = jobs.NameLock(name)
    with (yield from turn.begin()):
        log.append(f"{label} begins")
        yield Get(label)
        log.append(f"{label} ends")


def test_jobs_take_turns_at_a_name() -> None:
    log: list[str] = []
    one, two, elsewhere = turning("a", log, "1"), turning("a", log, "2"), turning("b", log, "3")
    assert sent(one, None) == Get("1")
    wait = sent(two, None)
    assert isinstance(wait, Wait)
    assert sent(elsewhere, None) == Get("3")  # of another name
    assert isinstance(sent(two, False), Wait)  # its time is over, and it is still not its turn
    assert sent(one, None) == [None]
    assert wait.future.done()
    assert sent(two, True) == Get("2")
    assert (sent(two, None), sent(elsewhere, None)) == ([None], [None])
    assert log == ["1 begins", "3 begins", "1 ends", "2 begins", "2 ends", "3 ends"]


@pytest.mark.parametrize("end", ["fails", "is let go of"])
def test_a_turn_ends_however_its_job_does(end: str) -> None:
    one, two = turning("a", [], "1"), turning("a", [], "2")
    sent(one, None)
    wait = sent(two, None)
    if end == "fails":
        with pytest.raises(DataAccessError):
            sent(one, DataAccessError())
    else:
        one.close()
    assert wait.future.done()
    assert sent(two, True) == Get("2")
    two.close()
    assert jobs._locks == {}
