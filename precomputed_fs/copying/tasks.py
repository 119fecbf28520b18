"""How a plan is executed, or resumed: by threads of this process, or by tasks on a dask cluster."""

import collections
import contextlib
import functools
import itertools
import os
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from precomputed_fs.copying.chunks import NewChunk, digest, make_chunk, mismatch, voxel_digest
from precomputed_fs.copying.files import FolderCopy, copy_files, copy_folder, pages_of
from precomputed_fs.copying.parts import Part, block_shape, parts_of
from precomputed_fs.copying.plan import BYTES_IN_FLIGHT, LEAST_IN_FLIGHT, ScaleCopy, Transcoding
from precomputed_fs.copying.recut import cut_chunk, read_block
from precomputed_fs.copying.workers import Count, OnProgress, Submit, Task, run_tasks, threads
from precomputed_fs.format.grid import ChunkCoords, size_of
from precomputed_fs.pyramid import copies
from precomputed_fs.store.requests import Listed

if TYPE_CHECKING:
    import concurrent.futures

_LOOKS_AHEAD = 16  # parts whose existing chunks are looked up ahead
_TASKS_PER_THREAD = 2  # submitted to a cluster


_Sink = Callable[[ChunkCoords, NewChunk], int]
"""Stores a chunk of the copy; returns its stored size in bytes."""


class _ToDo(NamedTuple):
    """What remains to do for a part."""

    wanted: Sequence[ChunkCoords]
    there: Collection[ChunkCoords]
    """The chunks that exist, and are only verified."""

    sink: _Sink
    done: Count


def copy_here(scale_copies: Iterable[ScaleCopy], folder_copies: Iterable[FolderCopy], on_progress: OnProgress) -> None:
    """Copy in this process."""
    for copy in scale_copies:
        _copy_parts(copy, parts_of(copy), on_progress)
    for folder in folder_copies:
        copy_folder(folder, on_progress)


def copy_on_cluster(
    client: Any,  # noqa: ANN401 - a distributed.Client
    scale_copies: Iterable[ScaleCopy],
    folder_copies: Iterable[FolderCopy],
    on_progress: OnProgress,
) -> None:
    """Copy on a cluster, with a bounded number of tasks submitted at a time."""
    from distributed import as_completed  # noqa: PLC0415 - installed if there is a client

    todo = _cluster_tasks(scale_copies, folder_copies, on_progress)
    window = max(LEAST_IN_FLIGHT, _TASKS_PER_THREAD * sum(client.nthreads().values()))
    waiting = {client.submit(*task, pure=False) for task in itertools.islice(todo, window)}
    completed = as_completed(waiting, loop=client.loop)
    try:
        for future in completed:
            waiting.discard(future)
            count = future.result()
            for task in itertools.islice(todo, 1):
                added = client.submit(*task, pure=False)
                waiting.add(added)
                completed.add(added)
            on_progress(count)
    finally:
        client.cancel(list(waiting))


def _cluster_tasks(
    scale_copies: Iterable[ScaleCopy], folder_copies: Iterable[FolderCopy], on_progress: OnProgress
) -> Iterator[tuple[Any, ...]]:
    """Yield the functions that are to be called in other processes, each with its arguments."""
    for copy in scale_copies:
        for part in parts_of(copy):
            yield _copy_part, copy, part
    for folder in folder_copies:
        for page in pages_of(folder):
            on_progress(Count(0, 0, len(page)))
            yield _copy_page, folder, page


def _copy_part(copy: ScaleCopy, part: Part) -> Count:
    """Copy one part, in any process; may be repeated."""
    _check_reachable(copy)
    counts = [Count(0, 0)]
    _copy_parts(copy, [part], counts.append)
    return Count(sum(count.done for count in counts), sum(count.size for count in counts))


def _copy_page(copy: FolderCopy, files: Sequence[Listed]) -> Count:
    """Copy some files, in any process; may be repeated."""
    _check_reachable(copy)
    counts = [Count(0, 0)]
    with threads(copy.threads) as submit:
        copy_files(copy, files, submit, counts.append)
    return Count(sum(count.done for count in counts), sum(count.size for count in counts))


def _check_reachable(copy: ScaleCopy | FolderCopy) -> None:
    """Check that both places can be reached from this process."""
    if copy.home != os.getpid():
        for location in (copy.source.location, copy.destination.location):
            if any(link.protocol == "memory" for link in location.links):
                raise ValueError(f"{location.display()}: memory:// belongs to one process, and this is another one")


def _copy_parts(copy: ScaleCopy, parts: Iterable[Part], on_progress: OnProgress) -> None:
    if copy.sharding is None:
        _copy_chunks(copy, parts, None, on_progress)
        return
    for part in parts:
        _copy_shard(copy, part, on_progress)


def _copy_shard(copy: ScaleCopy, part: Part, on_progress: OnProgress) -> None:
    """Copy the chunks of one shard, collected in a temporary file and then stored at once."""
    is_there = copy.resumes and copies.has_shard(copy.destination, copy.key, part.shard)
    expected: dict[ChunkCoords, bytes] = {}

    def remember(coords: ChunkCoords, made: NewChunk) -> int:
        expected[coords] = made.fingerprint
        return 0

    if is_there and not copy.verify:
        on_progress(Count(sum(1 for _ in part.cells()), 0))
        return
    if is_there:
        _copy_chunks(copy, [part], remember, on_progress)
    else:
        with copies.whole_shard(copy.destination, copy.key) as add:

            def sink(coords: ChunkCoords, made: NewChunk) -> int:
                if copy.verify:
                    remember(coords, made)
                return add(coords, made.chunk)

            _copy_chunks(copy, [part], sink, on_progress)
    if copy.verify:
        _check(copy, map(copy.grid.chunk, part.cells()), expected)


def _copy_chunks(copy: ScaleCopy, parts: Iterable[Part], sink: _Sink | None, on_progress: OnProgress) -> None:
    """Copy the chunks of some parts to a sink; by default, to an object each, unless it exists."""
    recutting = copy.recutting
    if recutting is not None:
        block = block_shape(copy)
        parts = itertools.chain.from_iterable(part.blocks(block) for part in parts)
    with threads(copy.threads) as submit:
        todos = _with_existing(submit, functools.partial(_to_do, copy, sink=sink), parts)
        tasks = _moves(copy, todos, on_progress) if recutting is None else _cuts(copy, recutting, todos, on_progress)
        with contextlib.closing(tasks):
            run_tasks(submit, tasks, copy.threads, on_progress)


def _with_existing(submit: Submit, look: Callable[[Part], _ToDo], parts: Iterable[Part]) -> Iterator[_ToDo]:
    """Look up the existing chunks of parts in threads, some parts ahead."""
    looks: collections.deque[concurrent.futures.Future[_ToDo]] = collections.deque()
    for part in parts:
        looks.append(submit(functools.partial(look, part)))
        if len(looks) > _LOOKS_AHEAD:
            yield looks.popleft().result()
    while looks:
        yield looks.popleft().result()


def _to_do(copy: ScaleCopy, part: Part, sink: _Sink | None) -> _ToDo:
    """Find out which chunks of a part are missing, and where they are stored."""
    wanted = [copy.grid.chunk(cell) for cell in part.cells()]
    if sink is not None:
        return _ToDo(wanted, (), sink, Count(0, 0))
    there = frozenset[ChunkCoords]()
    if copy.resumes:
        there = frozenset(wanted).difference(copies.missing_chunks(copy.destination, copy.key, wanted))
    sink = functools.partial(_put, copy, there)
    if copy.verify:
        return _ToDo(wanted, there, sink, Count(0, 0))
    return _ToDo([coords for coords in wanted if coords not in there], (), sink, Count(len(there), 0))


def _put(copy: ScaleCopy, there: Collection[ChunkCoords], coords: ChunkCoords, made: NewChunk) -> int:
    """Store a chunk as an object, unless it exists, and verify it."""
    size = 0
    if coords not in there:
        size = copies.put_chunk(copy.destination, copy.key, coords, made.chunk, copy.mime_type, gzip=made.gzip)
    if copy.verify:
        _check(copy, [coords], {coords: made.fingerprint})
    return size


def _copy_chunk(copy: ScaleCopy, todo: _ToDo, coords: ChunkCoords, make: Callable[[], NewChunk | None]) -> Count:
    """Make and store a chunk; one that is absent at the source stays absent."""
    made = make()
    if made is not None:
        return Count(1, todo.sink(coords, made))
    if coords in todo.there:
        raise mismatch(copy, coords, "it exists, but not at the source")
    return Count(1, 0)


def _moves(copy: ScaleCopy, todos: Iterable[_ToDo], on_progress: OnProgress) -> Generator[Task, None, None]:
    """Yield a task for each chunk of an unchanged grid, in the order in which the source's chunks arrive."""
    todo_of: dict[ChunkCoords, _ToDo] = {}

    def wanted() -> Iterator[ChunkCoords]:
        for todo in todos:
            on_progress(todo.done)
            todo_of.update(dict.fromkeys(todo.wanted, todo))
            yield from todo.wanted

    stored_chunks = copy.source.find_chunks(
        copy.source_key, wanted(), range_size=max(1, BYTES_IN_FLIGHT // copy.in_flight), in_flight=copy.in_flight
    )
    for coords, stored in stored_chunks:
        make = functools.partial(make_chunk, copy, coords, stored)
        yield functools.partial(_copy_chunk, copy, todo_of.pop(coords), coords, make)


def _cuts(
    copy: ScaleCopy, transcoding: Transcoding, todos: Iterable[_ToDo], on_progress: OnProgress
) -> Generator[Task, None, None]:
    """Yield a task for each chunk of another grid; the next block is read while chunks are written.

    Chunks that both grids have are moved, if their encoding is kept.
    """
    for todo in todos:
        moved = [coords for coords in todo.wanted if copy.moves(coords)]
        cut = [coords for coords in todo.wanted if not copy.moves(coords)] if moved else todo.wanted
        yield from _moves(copy, [todo._replace(wanted=moved)], on_progress)
        if not cut:
            continue
        block = read_block(copy, transcoding, cut)
        for coords in cut:
            make = functools.partial(cut_chunk, copy, transcoding, coords, block)
            yield functools.partial(_copy_chunk, copy, todo, coords, make)


def _check(copy: ScaleCopy, wanted: Iterable[ChunkCoords], expected: Mapping[ChunkCoords, bytes]) -> None:
    """Read chunks of the copy back, and check that they are the expected ones, and no others."""

    def fingerprint(coords: ChunkCoords, data: bytes | None) -> bytes | None:
        if data is None or copy.transcoding is None or copy.moves(coords):
            return None if data is None else digest(data)
        encoder = copy.transcoding.encoder
        voxels = encoder.decode(data, size_of(coords))
        return voxel_digest(voxels) if encoder.lossless else b""

    there = copy.destination.fetch_chunks(copy.key, wanted, decode=fingerprint, in_flight=copy.in_flight)
    for coords, found in there:
        if found != expected.get(coords):
            what = "what is read back differs from what was copied"
            if found is None or coords not in expected:
                what = "it is missing" if found is None else "it exists, but not at the source"
            raise mismatch(copy, coords, what)
