"""How the parts of a copy are run: in threads of this process, or as tasks of a dask cluster."""

import collections
import concurrent.futures
import contextlib
import functools
import itertools
import os
import queue
import threading
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from precomputed_fs.copying.chunks import MadeChunk, digest, make_chunk, mismatch, voxel_digest
from precomputed_fs.copying.parts import Part, block_shape, parts_of
from precomputed_fs.copying.plan import BYTES_IN_FLIGHT, LEAST_IN_FLIGHT, Recoding, Work
from precomputed_fs.copying.recut import cut_chunk, read_block
from precomputed_fs.format.grid import ChunkCoords, size_of
from precomputed_fs.pyramid import copies
from precomputed_fs.store.loop import stoppable

_LOOKS_AHEAD = 16  # parts that are looked at before their turn, to find out what is there already
_TASKS_PER_THREAD = 2  # that wait on a cluster


class Count(NamedTuple):
    """What is done."""

    chunks: int
    size: int
    """Bytes that were stored for these."""


_Sink = Callable[[ChunkCoords, MadeChunk], int]
"""Takes a chunk of the copy to where it belongs; returns how many bytes it takes there."""

Report = Callable[[Count], object]
"""Is told what is done, as it is done, in the thread that copies."""

_Task: TypeAlias = Callable[[], Count]
"""Makes a chunk of the copy and takes it to where it belongs, in a thread."""

_Submit: TypeAlias = Callable[[Callable[[], Any]], "concurrent.futures.Future[Any]"]
"""Has a thread call a function."""


class _ToDo(NamedTuple):
    """What is to be done of a part."""

    wanted: Sequence[ChunkCoords]
    there: Collection[ChunkCoords]
    """Those of them that are only verified."""

    sink: _Sink
    done: Count


def copy_here(works: Iterable[Work], tell: Report) -> None:
    """Copy in this process."""
    for work in works:
        _copy_parts(work, parts_of(work), tell)


def copy_on_cluster(client: Any, works: Iterable[Work], tell: Report) -> None:  # noqa: ANN401 - a distributed.Client
    """Copy on a cluster; only some tasks are there at once, however many there will be."""
    from distributed import as_completed  # noqa: PLC0415 - who has a client has it

    todo = ((work, part) for work in works for part in parts_of(work))
    window = max(LEAST_IN_FLIGHT, _TASKS_PER_THREAD * sum(client.nthreads().values()))
    waiting = {client.submit(_copy_part, *task, pure=False) for task in itertools.islice(todo, window)}
    completed = as_completed(waiting, loop=client.loop)
    try:
        for future in completed:
            waiting.discard(future)
            count = future.result()
            for task in itertools.islice(todo, 1):
                added = client.submit(_copy_part, *task, pure=False)
                waiting.add(added)
                completed.add(added)
            tell(count)
    finally:
        client.cancel(list(waiting))


def _copy_part(work: Work, part: Part) -> Count:
    """Copy what one task is to: to be called anywhere, and any number of times."""
    if work.home != os.getpid():
        for location in (work.source.location, work.destination.location):
            if any(link.protocol == "memory" for link in location.links):
                raise ValueError(f"{location.display()}: memory is of one process alone, and this is another one")
    counts = [Count(0, 0)]
    _copy_parts(work, [part], counts.append)
    return Count(sum(count.chunks for count in counts), sum(count.size for count in counts))


def _copy_parts(work: Work, parts: Iterable[Part], tell: Report) -> None:
    if work.sharding is None:
        _copy_chunks(work, parts, None, tell)
        return
    for part in parts:
        _copy_shard(work, part, tell)


def _copy_shard(work: Work, part: Part, tell: Report) -> None:
    """Copy the chunks of one shard, which is written when all are there; its memory is a temporary file."""
    is_there = work.resumes and copies.has_shard(work.destination, work.key, part.shard)
    expected: dict[ChunkCoords, bytes] = {}

    def remember(coords: ChunkCoords, made: MadeChunk) -> int:
        expected[coords] = made.fingerprint
        return 0

    if is_there and not work.verify:
        tell(Count(sum(1 for _ in part.cells()), 0))
        return
    if is_there:
        _copy_chunks(work, [part], remember, tell)
    else:
        with copies.whole_shard(work.destination, work.key) as add:

            def sink(coords: ChunkCoords, made: MadeChunk) -> int:
                if work.verify:
                    remember(coords, made)
                return add(coords, made.chunk)

            _copy_chunks(work, [part], sink, tell)
    if work.verify:
        _check(work, map(work.grid.chunk, part.cells()), expected)


def _copy_chunks(work: Work, parts: Iterable[Part], sink: _Sink | None, tell: Report) -> None:
    """Get the chunks of some parts to a sink; without one, each to an object of its own, if it is not there."""
    cutting = work.cutting
    if cutting is not None:
        block = block_shape(work)
        parts = itertools.chain.from_iterable(part.blocks(block) for part in parts)
    with _threads(work.threads) as submit:
        todos = _looked_at(submit, functools.partial(_to_do, work, sink=sink), parts)
        tasks = _moves(work, todos, tell) if cutting is None else _cuts(work, cutting, todos, tell)
        with contextlib.closing(tasks):
            _do(submit, tasks, work.threads, tell)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[_Submit]:
    """Have threads of their own for what waits for stores, as those of the pool must not; end what they do."""
    executor = concurrent.futures.ThreadPoolExecutor(count, "precomputed_fs copy")
    is_ended = threading.Event()
    try:
        yield lambda function: executor.submit(stoppable, is_ended, function)
    finally:
        is_ended.set()
        executor.shutdown(cancel_futures=True)


def _looked_at(submit: _Submit, look: Callable[[Part], _ToDo], parts: Iterable[Part]) -> Iterator[_ToDo]:
    """Have threads look at parts, some ahead of those that are copied."""
    looks: collections.deque[concurrent.futures.Future[_ToDo]] = collections.deque()
    for part in parts:
        looks.append(submit(functools.partial(look, part)))
        if len(looks) > _LOOKS_AHEAD:
            yield looks.popleft().result()
    while looks:
        yield looks.popleft().result()


def _do(submit: _Submit, tasks: Iterable[_Task], most: int, tell: Report) -> None:
    """Have threads do tasks, so many at once; the first one that fails ends it."""
    done: queue.SimpleQueue[concurrent.futures.Future[Count]] = queue.SimpleQueue()
    under_way = 0
    for task in tasks:
        submit(task).add_done_callback(done.put)
        under_way += 1
        while under_way == most or not done.empty():
            tell(done.get().result())
            under_way -= 1
    for _ in range(under_way):
        tell(done.get().result())


def _to_do(work: Work, part: Part, sink: _Sink | None) -> _ToDo:
    """Find out which chunks of a part are to be made, and where they go."""
    wanted = [work.grid.chunk(cell) for cell in part.cells()]
    if sink is not None:
        return _ToDo(wanted, (), sink, Count(0, 0))
    there = frozenset[ChunkCoords]()
    if work.resumes:
        there = frozenset(wanted).difference(copies.missing_chunks(work.destination, work.key, wanted))
    sink = functools.partial(_put, work, there)
    if work.verify:
        return _ToDo(wanted, there, sink, Count(0, 0))
    return _ToDo([coords for coords in wanted if coords not in there], (), sink, Count(len(there), 0))


def _put(work: Work, there: Collection[ChunkCoords], coords: ChunkCoords, made: MadeChunk) -> int:
    """Store a chunk as an object of its own, if it is not there, and verify it."""
    size = 0
    if coords not in there:
        size = copies.put_chunk(work.destination, work.key, coords, made.chunk, work.mime_type, gzip=made.gzip)
    if work.verify:
        _check(work, [coords], {coords: made.fingerprint})
    return size


def _copy_chunk(work: Work, todo: _ToDo, coords: ChunkCoords, make: Callable[[], MadeChunk | None]) -> Count:
    """Take a chunk to where it belongs; one that is absent at the source is absent in the copy."""
    made = make()
    if made is not None:
        return Count(1, todo.sink(coords, made))
    if coords in todo.there:
        raise mismatch(work, coords, "it is there, and not at the source")
    return Count(1, 0)


def _moves(work: Work, todos: Iterable[_ToDo], tell: Report) -> Generator[_Task, None, None]:
    """Go through chunks that are cut as at the source, as they come from there."""
    todo_of: dict[ChunkCoords, _ToDo] = {}

    def wanted() -> Iterator[ChunkCoords]:
        for todo in todos:
            tell(todo.done)
            todo_of.update(dict.fromkeys(todo.wanted, todo))
            yield from todo.wanted

    stored_chunks = work.source.find_chunks(
        work.source_key, wanted(), range_size=max(1, BYTES_IN_FLIGHT // work.in_flight), in_flight=work.in_flight
    )
    for coords, stored in stored_chunks:
        make = functools.partial(make_chunk, work, coords, stored)
        yield functools.partial(_copy_chunk, work, todo_of.pop(coords), coords, make)


def _cuts(work: Work, recoding: Recoding, todos: Iterable[_ToDo], tell: Report) -> Generator[_Task, None, None]:
    """Go through chunks that are cut otherwise than at the source; while some are written, the next block is read."""
    for todo in todos:
        tell(todo.done)
        if not todo.wanted:
            continue
        block = read_block(work, recoding, todo.wanted)
        for coords in todo.wanted:
            make = functools.partial(cut_chunk, work, recoding, coords, block)
            yield functools.partial(_copy_chunk, work, todo, coords, make)


def _check(work: Work, wanted: Iterable[ChunkCoords], expected: Mapping[ChunkCoords, bytes]) -> None:
    """Read chunks of the copy back, and see that these are the expected ones, and no others."""

    def fingerprint(coords: ChunkCoords, data: bytes | None) -> bytes | None:
        if data is None or work.recoding is None:
            return None if data is None else digest(data)
        encoder = work.recoding.encoder
        voxels = encoder.decode(data, size_of(coords))
        return voxel_digest(voxels) if encoder.lossless else b""

    there = work.destination.fetch_chunks(work.key, wanted, decode=fingerprint, in_flight=work.in_flight)
    for coords, found in there:
        if found != expected.get(coords):
            what = "what is read back is not what was copied"
            if found is None or coords not in expected:
                what = "it is not there" if found is None else "it is there, and not at the source"
            raise mismatch(work, coords, what)
