"""What waits for shards and nobody flushes is written late: when its accessor is gone, or when the process ends."""

from __future__ import annotations

import gc
import importlib
import json
import logging
import re
import subprocess
import sys
import time
import warnings
import weakref
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest

from precomputed_fs import DataAccessError, FsspecAccessor
from precomputed_fs.pyramid import late_writes
from tests.pyramid.sharded_volume import (
    CHUNKS,
    COORDS,
    FIRST,
    KEY,
    ONE_SHARD,
    SECOND,
    HeldFiles,
    chunk_id,
    info_of,
    parse_all,
    sharding,
)
from tests.support import servers
from tests.support.faults import answering, fault_server, sized

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.support.places import Place

REPO = Path(__file__).parents[2]


def ids_of(pyramid: Place, spec: dict[str, Any] = ONE_SHARD) -> set[int]:
    return set(parse_all(pyramid.contents(), spec))


def eventually(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + servers.DEADLINE
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextmanager
def warned() -> Iterator[list[str]]:
    """Note warnings of resources."""
    said: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    said += [str(warning.message) for warning in caught if warning.category is ResourceWarning]


# ----------------------------------------------------------------------------------------- when the last reference goes


def abandon(pyramid: Place, counts: dict[str, int], *, cyclic: bool = False) -> list[str]:
    """Leave chunks of some scales without a flush; returns the warnings."""
    accessor = FsspecAccessor(pyramid.url, storage_options=pyramid.storage_options)
    for key, count in counts.items():
        for coords in COORDS[:count]:
            accessor.store_chunk(CHUNKS[coords], key, coords)
    with warned() as said:
        if cyclic:
            cycle: list[Any] = [accessor]
            cycle.append(cycle)
            del cycle
        del accessor
        if cyclic or pyramid.protocol == "sftp":  # paramiko leaves the frames that have opened a connection in a cycle
            gc.collect()
    return said


@pytest.mark.parametrize("cyclic", [False, True])
def test_what_waits_is_written_when_its_accessor_goes(pyramid: Place, cyclic: bool) -> None:
    pyramid.put("info", info_of(sharding()))
    (message,) = abandon(pyramid, {KEY: 40}, cyclic=cyclic)
    assert parse_all(pyramid.contents(), sharding()) == {chunk_id(coords): CHUNKS[coords] for coords in COORDS[:40]}
    assert re.search(rf"{Path(pyramid.url).name}.*without flush.*written late: 40 chunks of {KEY}", message)


def test_what_is_there_is_kept_by_a_late_write(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(ONE_SHARD))
    with pyramid.accessor() as accessor:
        accessor.store_chunk(CHUNKS[COORDS[-1]], KEY, COORDS[-1])
    abandon(pyramid, {KEY: 1})
    assert ids_of(pyramid) == {chunk_id(COORDS[-1]), chunk_id(FIRST)}


def test_a_late_write_is_warned_of_for_each_scale_and_not_logged(
    make_pyramid: Callable[[str], Place], caplog: pytest.LogCaptureFixture
) -> None:
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(sharding(), keys=("fine", "coarse")))
    (message,) = abandon(pyramid, {"fine": 5, "coarse": 3})
    assert re.search(r"5 chunks of fine\b", message)
    assert re.search(r"3 chunks of coarse\b", message)
    assert caplog.record_tuples == []


def test_leaving_with_nothing_waiting_is_silent(
    make_pyramid: Callable[[str], Place], caplog: pytest.LogCaptureFixture
) -> None:
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(sharding()))
    assert abandon(pyramid, {}) == []
    assert caplog.record_tuples == []
    assert pyramid.names() == ["info"]


def test_a_shard_that_cannot_be_written_late_is_logged_and_others_are_written(
    make_pyramid: Callable[[str], Place], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("precomputed_fs.store.jobs._MOST_CONFLICTS", 3)
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(sharding()))
    pyramid.put(f"{KEY}/0.shard/in-the-way", b"")
    assert len(abandon(pyramid, {KEY: len(COORDS)})) == 1
    ((name, level, message),) = caplog.record_tuples
    assert (name, level) == ("precomputed_fs", logging.ERROR)
    assert message.startswith(f"{pyramid.url}/{KEY}/0.shard: chunks that were not flushed are lost: ")
    pyramid.delete(f"{KEY}/0.shard/in-the-way")
    assert ids_of(pyramid, sharding())


def test_garbage_that_is_collected_in_the_thread_of_the_connection(make_pyramid: Callable[[str], Place]) -> None:
    """The event loop of fsspec must not wait for what it does itself."""
    pyramid = make_pyramid("s3")
    pyramid.put("info", info_of(ONE_SHARD))
    accessor = FsspecAccessor(pyramid.url, storage_options=pyramid.storage_options)
    accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST)
    cycle: list[Any] = [accessor]
    cycle.append(cycle)
    with warned() as said:
        del accessor, cycle
        fsspec.asyn.get_loop().call_soon_threadsafe(gc.collect)
        eventually(lambda: pyramid.names() != ["info"])
    assert ids_of(pyramid) == {chunk_id(FIRST)}
    assert len(said) == 1


def test_who_lets_go_does_not_wait_for_ever(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Garbage may be collected while something is held that the write waits for."""
    monkeypatch.setattr(late_writes, "_LATE_SECONDS", 0.05)
    pyramid, files = make_pyramid("local"), HeldFiles()
    pyramid.put("info", info_of(ONE_SHARD))
    accessor = FsspecAccessor(pyramid.url, fs=files)
    accessor.store_chunk(CHUNKS[FIRST], KEY, FIRST)
    files.holding = True
    with warned() as said:
        del accessor
    assert len(said) == 1
    assert files.arrived.wait(servers.DEADLINE)
    assert pyramid.names() == ["info"]
    files.go.set()
    eventually(lambda: f"{KEY}/0.shard" in pyramid.names())
    assert ids_of(pyramid) == {chunk_id(FIRST)}


def test_a_chunk_that_another_has_stored_meanwhile_is_not_replaced_late(
    make_pyramid: Callable[[str], Place], caplog: pytest.LogCaptureFixture
) -> None:
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(ONE_SHARD))
    accessor = FsspecAccessor(pyramid.url)
    for coords in (FIRST, SECOND):
        accessor.store_chunk(CHUNKS[coords], KEY, coords)
    with pyramid.accessor() as other:
        other.store_chunk(b"theirs", KEY, FIRST)
    with warned() as said:
        del accessor
    assert len(said) == 1
    ((_, level, message),) = caplog.record_tuples
    assert level == logging.ERROR
    assert message.startswith(f"{pyramid.url}/{KEY}/0.shard: chunks that were not flushed are lost: ")
    assert f"chunk {chunk_id(FIRST)} exists" in message
    assert parse_all(pyramid.contents(), ONE_SHARD) == {chunk_id(FIRST): b"theirs", chunk_id(SECOND): CHUNKS[SECOND]}


# --------------------------------------------------------------------------------------------- when the process ends

PROGRAM = """
import atexit, builtins, gc, json, multiprocessing, os, sys, threading, time
from precomputed_fs import DataAccessError, FsspecAccessor

def store(coords=FIRST):
    accessor.store_chunk(b"chunk", KEY, coords)

url, options = sys.argv[1:]
accessor = FsspecAccessor(url, storage_options=json.loads(options))
"""


def run(
    pyramid: Place, code: str, *, returns: int = 0, options: Iterable[str] = (), by_name: bool = False
) -> tuple[str, str]:
    """Run a program in a process of its own; returns what it said on its standard output and error."""
    storage_options = json.dumps(pyramid.storage_options)
    if by_name:
        storage_options = storage_options.replace("127.0.0.1", "localhost")
    names = f"KEY, FIRST, SECOND = {KEY!r}, {FIRST!r}, {SECOND!r}\n"
    command = [sys.executable, *options, "-c", names + PROGRAM + code, pyramid.url, storage_options]
    result = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == returns, result.stderr
    return result.stdout, result.stderr


ENDS = {
    "exit": ("store(); sys.exit(3)", 3),
    "an exception": ("store(); raise SystemError", 1),
    "in a cycle": ("store(); keep = [accessor]; keep.append(keep); del accessor", 0),
    "at the end": ("atexit.register(store)", 0),
    "in a thread": ("threading.Thread(target=lambda: (threading.main_thread().join(), store())).start()", 0),
    "in a daemon": ("thread = threading.Thread(target=store, daemon=True); thread.start(); thread.join()", 0),
}


@pytest.mark.processes
@pytest.mark.parametrize("end", ENDS)
def test_what_waits_is_written_when_the_process_ends(make_pyramid: Callable[[str], Place], end: str) -> None:
    pyramid, (code, returns) = make_pyramid("local"), ENDS[end]
    pyramid.put("info", info_of(ONE_SHARD))
    _, said = run(pyramid, code, returns=returns, options=["-W", "always::ResourceWarning"])
    assert ids_of(pyramid) == {chunk_id(FIRST)}
    assert len(re.findall(rf"ResourceWarning: .*without flush.*written late: 1 chunks of {KEY}", said)) == 1


@pytest.mark.processes
def test_an_archive_is_complete_when_the_process_has_ended(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("zip")
    code = """
keep = [accessor]
keep.append(keep)
accessor.store_file("info", b"{}")
sys.exit(3)
"""
    pyramid.storage_options["mode"] = "w"
    _, said = run(pyramid, code, returns=3, options=["-W", "always::ResourceWarning"])
    assert len(re.findall("ResourceWarning: .*without.*close", said)) == 1
    assert pyramid.get("info.gz")[:2] == b"\x1f\x8b"


@pytest.mark.processes
def test_it_is_written_silently_unless_warnings_are_shown(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(ONE_SHARD))
    assert run(pyramid, "store()") == ("", "")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("protocol", "code"),
    [("s3", ENDS["in a thread"][0]), ("gcs", "store()"), ("azure", "store()"), ("sftp", "store()")],
)
def test_it_is_written_to_where_connections_are_made_at_the_end(
    make_pyramid: Callable[[str], Place], protocol: str, code: str
) -> None:
    """Pools of threads, which look up a host's name, are gone then."""
    pyramid = make_pyramid(protocol)
    pyramid.put("info", info_of(ONE_SHARD))
    _, said = run(pyramid, f"accessor.file_exists('info'); {code}", by_name=True)
    assert said == ""
    assert ids_of(pyramid) == {chunk_id(FIRST)}


@pytest.mark.processes
def test_a_fork_does_not_write_what_waits_in_its_parent(make_pyramid: Callable[[str], Place]) -> None:
    """Whether it ends, lets go of the accessor, or is killed."""
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(ONE_SHARD))
    code = """
store()
if os.fork() == 0:
    sys.exit()
os.wait()
print(os.listdir(url))
if os.fork() == 0:
    del accessor; gc.collect(); sys.exit()
os.wait()
print(os.listdir(url))
if os.fork() == 0:
    os._exit(0)
os.wait()
print(os.listdir(url))
"""
    said, warnings = run(pyramid, code, options=["-W", "always::ResourceWarning"])
    assert said == "['info']\n" * 3
    assert warnings.count("without flush") == 1
    assert ids_of(pyramid) == {chunk_id(FIRST)}


@pytest.mark.processes
def test_a_fork_writes_what_it_has_stored_itself(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(ONE_SHARD))
    code = """
store()
if os.fork() == 0:
    store(SECOND)
    sys.exit()
os.wait()
print([FsspecAccessor(url).pyramid.find_chunk(KEY, SECOND) is not None, os.listdir(f"{url}/{KEY}")])
"""
    assert run(pyramid, code) == ("[True, ['0.shard']]\n", "")
    assert ids_of(pyramid) == {chunk_id(FIRST), chunk_id(SECOND)}


@pytest.mark.processes
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_of_multiprocessing_writes_what_it_has_stored(
    make_pyramid: Callable[[str], Place], method: str
) -> None:
    """It ends without the usual functions of the end."""
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(ONE_SHARD))
    code = f"""
child = '''
import builtins
from precomputed_fs import DataAccessError, FsspecAccessor
builtins.kept = FsspecAccessor({pyramid.url!r})
builtins.kept.store_chunk(b"chunk", {KEY!r}, {FIRST!r})
'''
process = multiprocessing.get_context("{method}").Process(target=exec, args=(child,))
process.start()
process.join()
print(process.exitcode)
"""
    assert run(pyramid, code) == ("0\n", "")
    assert ids_of(pyramid) == {chunk_id(FIRST)}


@pytest.mark.processes
def test_at_the_end_a_shard_that_cannot_be_written_is_logged_and_others_are_written(
    make_pyramid: Callable[[str], Place],
) -> None:
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(sharding()))
    pyramid.put(f"{KEY}/0.shard/in-the-way", b"")
    code = f"""
from precomputed_fs.store import jobs
jobs._MOST_CONFLICTS = 3
for coords in {COORDS!r}:
    store(coords)
"""
    _, said = run(pyramid, code)
    assert said.count("\n") == 1
    assert said.startswith(f"{pyramid.url}/{KEY}/0.shard: chunks that were not flushed are lost: ")
    pyramid.delete(f"{KEY}/0.shard/in-the-way")
    assert ids_of(pyramid, sharding())


@pytest.mark.processes
def test_at_the_end_each_accessor_is_written_where_warnings_are_errors(make_pyramid: Callable[[str], Place]) -> None:
    pyramid, other = make_pyramid("local"), make_pyramid("local")
    for each in (pyramid, other):
        each.put("info", info_of(ONE_SHARD))
    code = f"first = accessor; store(); accessor = FsspecAccessor({other.url!r}); store()"
    _, said = run(pyramid, code, options=["-W", "error::ResourceWarning"])
    assert len(re.findall("^ResourceWarning: .*without flush", said, re.MULTILINE)) == 2
    assert ids_of(pyramid) == ids_of(other) == {chunk_id(FIRST)}


@pytest.mark.processes
def test_at_the_end_an_interrupt_says_what_was_not_written(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("local")
    pyramid.put("info", info_of(ONE_SHARD))
    code = """
from precomputed_fs.store import jobs
def interrupted(*_, **__):
    raise KeyboardInterrupt
jobs.write = interrupted
store()
"""
    _, said = run(pyramid, code)
    assert f"{pyramid.url}/{KEY}/0.shard: what was not flushed is lost: KeyboardInterrupt" in said
    assert pyramid.names() == ["info"]


USES: dict[str, Callable[[FsspecAccessor], object]] = {
    "a file": lambda accessor: accessor.fetch_file("mesh/1"),
    "`info`": lambda accessor: accessor.pyramid.fetch_info(),
    "a chunk": lambda accessor: accessor.fetch_chunk(KEY, FIRST),
    "chunks": lambda accessor: list(accessor.fetch_chunks(KEY, [FIRST, SECOND])),
}


@pytest.mark.parametrize("has_info", [True, False])
@pytest.mark.parametrize("status", ["400 Bad Request", "403 Forbidden", "404 Not Found"])
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_an_accessor_goes_by_reference_count_after_a_failure(
    use: Callable[[FsspecAccessor], object], status: str, has_info: bool
) -> None:
    importlib.import_module(
        "tblib.pickling_support"
    ).install()  # as dask does: copies of exceptions have their tracebacks then
    info = sized(b"{}") if has_info else sized(b"", status)
    with fault_server(answering(lambda asked: info if asked.target == "/info" else sized(b"", status))) as server:
        accessor = FsspecAccessor(server.url, attempts=1)
        watched = weakref.ref(accessor.pyramid)
        gc.collect()
        gc.disable()
        try:
            with suppress(DataAccessError):
                use(accessor)
            del accessor
            assert watched() is None, "no cycle of a traceback and its frames holds it"
        finally:
            gc.enable()
