"""How many connections there are, and that none is left: batches, threads, interrupts, loops, forks, descriptors."""

from __future__ import annotations

import asyncio
import gc
import http.server
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from precomputed_fs import DataAccessError, FsspecAccessor
from precomputed_fs.store import curl
from tests.store.conftest import Lane
from tests.support import servers
from tests.support.faults import SOON, Asked, FaultServer, Peer, answering, gated, part, saying, sized

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = b"What is read must be what is stored. " * 3
NAME = "blob.bin"
KEY = "1_1_1"
FEW = 8  # connections, at first; Python's own server lets 5 wait
MOST = 128  # connections of a process to one server
WHILE = 0.3  # seconds in which what can come has come

forking = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def boxes(count: int) -> list[tuple[int, int, int, int, int, int]]:
    return [(i, i + 1, 0, 1, 0, 1) for i in range(count)]


def body_of(coords: Any) -> bytes:
    return b"/%s/%d-%d_0-1_0-1" % (KEY.encode(), coords[0], coords[1])


def echo(asked: Asked) -> bytes:
    """Answer with what is asked for; there is no `info`."""
    return sized(b"", "404 Not Found") if "/info" in asked.target else part(asked.target.encode(), asked)


def waiting(seconds: float) -> Any:
    """Answer with what is asked for, after a while."""

    def answer(asked: Asked) -> bytes:
        time.sleep(seconds)
        return echo(asked)

    return answering(answer)


def fetch(accessor: FsspecAccessor, count: int) -> dict[Any, bytes | None]:
    return dict(accessor.fetch_chunks(KEY, boxes(count)))


def expected(count: int) -> dict[Any, bytes]:
    return {coords: body_of(coords) for coords in boxes(count)}


def chunks_in(server: FaultServer) -> list[str]:
    return [target for target in server.targets if target.startswith(f"/{KEY}/")]


def threads() -> int:
    """Count threads, but for those that wait for a next call to be awaited, however many these are."""
    return sum("awaited" not in thread.name for thread in threading.enumerate())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# ------------------------------------------------------------------------------------------------------------ how many


def test_reads_one_after_the_other_share_a_connection(lane: Lane) -> None:
    server = lane.serve(answering(echo))
    accessor = lane.accessor(server.url)
    for i in range(20):
        assert accessor.fetch_file(f"{i}.bin") == b"/%d.bin" % i
        assert accessor.file_exists(f"{i}.bin")
    assert server.connections == 1


def test_accessors_of_one_server_share_its_connections(plain: Lane) -> None:
    server = plain.serve(answering(echo))
    for i in range(5):
        plain.accessor(server.url).fetch_file(f"{i}.bin")
    assert server.connections <= 5


def test_a_batch_begins_with_few_connections(lane: Lane) -> None:
    gate = threading.Event()
    server = lane.serve(answering(echo))
    accessor = lane.accessor(server.url)
    fetch(accessor, 1)  # under which name chunks are is known
    accessor.close()
    server.wait_for_silence()
    server.talk, requests = gated(gate, echo), server.count
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(fetch, accessor, 64)
        server.wait_for(requests + 1)
        gate.wait(WHILE)
        first = server.open
        gate.set()
        assert fetching.result(SOON) == expected(64)
    assert 1 < first <= FEW


def test_connections_grow_while_answers_come(plain: Lane) -> None:
    server = plain.serve(waiting(0.03))
    assert fetch(plain.accessor(server.url), 400) == expected(400)
    assert 4 * FEW <= server.most_at_once <= MOST
    assert len(chunks_in(server)) == 400


def test_a_small_server_loses_nothing(tmp_path: Path) -> None:
    """Python's own server lets no more than 5 connections wait, and a lost one is asked for again after a second."""
    for coords in boxes(64):
        path = tmp_path / body_of(coords).decode()[1:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(BODY)
    at_once = Counter[str]()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def setup(self) -> None:
            with lock:
                at_once["now"] += 1
                at_once["most"] = max(at_once.values())
            super().setup()

        def finish(self) -> None:
            super().finish()
            with lock:
                at_once["now"] -= 1

        def log_message(self, *_: object) -> None:
            pass

    lock = threading.Lock()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        assert server.request_queue_size == 5
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        try:
            with FsspecAccessor(f"http://127.0.0.1:{server.server_port}") as accessor:
                began = time.monotonic()
                chunks = fetch(accessor, 64)
                took = time.monotonic() - began
        finally:
            server.shutdown()
            serving.join()
    assert chunks == dict.fromkeys(boxes(64), BODY)
    assert took < 0.95, f"no connection was lost, of up to {at_once['most']} at once"


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_busy_is_asked_less_at_once(plain: Lane, status: int) -> None:
    lock, now, refused = threading.Lock(), Counter[str](), Counter[str]()

    def answer(asked: Asked) -> bytes:
        with lock:
            now["now"] += 1
            is_refused = now["now"] > 12 and "info" not in asked.target
            refused.update([asked.target] * is_refused)
        time.sleep(0.02)
        with lock:
            now["now"] -= 1
        return sized(b"", f"{status} Busy", "Retry-After: 0\r\n") if is_refused else echo(asked)

    server = plain.serve(answering(answer))
    assert fetch(plain.accessor(server.url, attempts=10), 500) == expected(500)  # on a busy machine some wait longer
    assert refused
    assert refused.total() < 250


def test_all_batches_of_a_process_share_one_limit(plain: Lane) -> None:
    now, most, lock = Counter[str](), Counter[str](), threading.Lock()

    def answer(asked: Asked) -> bytes:
        with lock:
            now["asked"] += 1
            most["asked"] = max(most["asked"], now["asked"])
        time.sleep(0.03)
        with lock:
            now["asked"] -= 1
        return echo(asked)

    server = plain.serve(answering(answer))
    before, running = threads(), threading.Event()
    seen: list[int] = []

    def watch() -> None:
        while not running.wait(0.005):
            seen.append(threads() - len(server._threads))

    accessors = [plain.accessor(server.url) for _ in range(12)]
    fetch(accessors[0], 300)  # as fast as it gets
    watching = threading.Thread(target=watch)
    watching.start()
    with ThreadPoolExecutor(12) as pool:
        for chunks in pool.map(fetch, accessors, [100] * 12):
            assert chunks == expected(100)
    running.set()
    watching.join()
    assert most["asked"] <= MOST
    assert max(seen) - before <= 12 + 1 + 2 * len(os.sched_getaffinity(0)) + 4


def test_readers_that_share_a_limit_all_get_on(plain: Lane) -> None:
    """A batch that waits for its consumer keeps the others from nothing."""
    server = plain.serve(waiting(0.01))
    held = [iter(plain.accessor(server.url).fetch_chunks(KEY, boxes(400))) for _ in range(6)]
    for chunks in held:
        next(chunks)
    began = time.monotonic()
    assert fetch(plain.accessor(server.url), 50) == expected(50)
    assert plain.accessor(server.url).fetch_file(NAME) == f"/{NAME}".encode()
    assert time.monotonic() - began < SOON / 2
    for chunks in held:
        chunks.close()  # type: ignore[attr-defined]


def test_threads_get_each_their_own_answers(lane: Lane) -> None:
    def talk(peer: Peer) -> None:
        for i in range(3):
            asked = peer.request()
            if asked is None:
                return
            peer.send(sized(asked.target.encode(), headers="Connection: close\r\n" * (i == 2)))
        peer.hang_up()

    server = lane.serve(talk)
    store = lane.store(server.url)

    def ask(thread: int) -> None:
        for i in range(20):
            name = f"{thread}/{i}/" + "x" * (i * 37)
            assert store.read(name).data == f"/{name}".encode()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(16)))
    assert server.connections < 16 * 20


def test_more_than_1100_open_descriptors(lane: Lane) -> None:
    """`select` knows no descriptors beyond 1,024."""
    server = lane.serve(answering(echo))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    taken: list[int] = []
    try:
        while not taken or taken[-1] < 1100:
            taken.append(os.dup(0))
        accessor = lane.accessor(server.url)
        used = time.process_time()
        assert accessor.fetch_file(NAME) == f"/{NAME}".encode()
        assert fetch(accessor, 100) == expected(100)
        assert time.process_time() - used < SOON / 2
        server.talk = saying(b"", "wait")
        quiet = lane.accessor(server.url, attempts=1, timeout=WHILE)
        used = time.process_time()
        with pytest.raises(DataAccessError):
            quiet.fetch_file(NAME)
        assert time.process_time() - used < WHILE / 2, "it waits, and does not ask again and again"
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not servers.nginx_installed(), reason="needs nginx")
@pytest.mark.parametrize("is_http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
def test_nginx_is_read_over_tls(tmp_path: Path, trusting: None, *, is_http2: bool) -> None:
    for coords in boxes(300):
        path = tmp_path / body_of(coords).decode()[1:]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(body_of(coords) * 500)
    (tmp_path / "large").write_bytes(os.urandom(3 << 20))
    with (
        servers.nginx_server(tmp_path, tls=True, http2=is_http2) as server,
        FsspecAccessor(server.url) as accessor,
        Lane() as lane,
    ):
        assert fetch(accessor, 300) == {coords: body * 500 for coords, body in expected(300).items()}
        store = lane.store(server.url)
        assert store.read("large", 1 << 20, 2 << 20).data == (tmp_path / "large").read_bytes()[1 << 20 : 2 << 20]
        assert store.read("large").data == (tmp_path / "large").read_bytes()
        assert accessor.file_exists("large")
        assert not accessor.file_exists("none.gz")
        assert dict(accessor.fetch_chunks(KEY, [(999, 1000, 0, 1, 0, 1)])) == {(999, 1000, 0, 1, 0, 1): None}


# -------------------------------------------------------------------------------------------------- interrupts, the end


@contextmanager
def leaving_nothing(lane: Lane, server: FaultServer) -> Iterator[FsspecAccessor]:
    """Have something given up, and see that nothing of it is left."""
    accessor = lane.accessor(server.url, timeout=3 * SOON)
    talk, server.talk = server.talk, answering(echo)
    read_well(accessor)  # what is made once is there
    before = closed(accessor, server)
    server.talk = talk
    yield accessor
    closed(accessor, server)
    server.talk = answering(echo)
    read_well(accessor)
    left = closed(accessor, server)
    # Fewer are left where something of an earlier test has ended meanwhile.
    assert all(now <= then for now, then in zip(left, before, strict=True)), (before, left, threading.enumerate())


def read_well(accessor: FsspecAccessor) -> None:
    """Read, with as many threads of pools as any test here needs."""

    async def read() -> None:
        read = await asyncio.gather(*[accessor.fetch_file_async(NAME) for _ in range(8)])
        assert read == [f"/{NAME}".encode()] * 8

    asyncio.run(read())
    assert fetch(accessor, 20) == expected(20)


def closed(accessor: FsspecAccessor, server: FaultServer) -> tuple[int, int]:
    """Close an accessor, and with it all its connections; return how many threads and descriptors there are then."""
    accessor.close()
    gc.collect()
    server.wait_for_silence()
    return threads(), descriptors()


def interrupting(server: FaultServer, requests: int) -> threading.Thread:
    """Press Ctrl-C once so many requests have come."""
    main, asked = threading.get_ident(), server.count + requests

    def press() -> None:
        server.wait_for(asked)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


@pytest.mark.parametrize("said", [b"", sized(BODY)[:-1]], ids=["silent", "in the body"])
@pytest.mark.parametrize("many", [False, True], ids=["one", "batch"])
def test_an_interrupt_leaves_nothing_behind(lane: Lane, said: bytes, *, many: bool) -> None:
    server = lane.serve(saying(said, "wait"))
    with leaving_nothing(lane, server) as accessor:
        thread = interrupting(server, 4 if many else 1)
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            fetch(accessor, 50) if many else accessor.fetch_file(NAME)
        assert time.monotonic() - began < SOON / 2
        thread.join()


def test_an_interrupt_while_a_retry_waits_leaves_nothing_behind(plain: Lane) -> None:
    server = plain.serve(answering(sized(b"", "503 Busy", "Retry-After: 20\r\n")))
    with leaving_nothing(plain, server) as accessor:
        thread = interrupting(server, 1)
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            accessor.fetch_file(NAME)
        assert time.monotonic() - began < SOON / 2
        thread.join()
        accessor.close()


def test_a_batch_that_fails_leaves_nothing_behind(lane: Lane) -> None:
    def talk(peer: Peer) -> None:
        while asked := peer.request():
            if "/info" not in asked.target and not asked.target.endswith("/2-3_0-1_0-1"):
                peer.wait()
                return
            peer.send(sized(b"", "403 Forbidden"))

    server = lane.serve(talk)
    with leaving_nothing(lane, server) as accessor, pytest.raises(DataAccessError, match="2-3_0-1_0-1"):
        fetch(accessor, 50)


@pytest.mark.parametrize("how", ["cancel", "timeout"])
@pytest.mark.parametrize("many", [False, True], ids=["one", "batch"])
def test_what_is_cancelled_leaves_nothing_behind(lane: Lane, how: str, *, many: bool) -> None:
    server = lane.serve(saying(b"", "wait"))

    async def read(accessor: FsspecAccessor) -> None:
        if many:
            async for _ in accessor.fetch_chunks_async(KEY, boxes(50)):
                pass
        else:
            await accessor.fetch_file_async(NAME)

    async def give_up(accessor: FsspecAccessor) -> None:
        if how == "timeout":
            await asyncio.wait_for(read(accessor), WHILE)
        asked = server.count
        task = asyncio.create_task(read(accessor))
        await asyncio.to_thread(server.wait_for, asked + 1)
        task.cancel()
        await task

    with leaving_nothing(lane, server) as accessor:
        began = time.monotonic()
        with pytest.raises((asyncio.CancelledError, TimeoutError)):
            asyncio.run(give_up(accessor))
        assert time.monotonic() - began < SOON / 2


def test_a_loop_goes_on_while_something_is_awaited(plain: Lane) -> None:
    gate = threading.Event()
    server = plain.serve(gated(gate, echo))
    accessor = plain.accessor(server.url)

    async def main() -> None:
        reading = [asyncio.create_task(accessor.fetch_file_async(f"{i}.bin")) for i in range(20)]
        await asyncio.sleep(WHILE / 3)
        gate.set()
        assert await asyncio.gather(*reading) == [b"/%d.bin" % i for i in range(20)]

    asyncio.run(main())


def test_a_batch_within_a_running_loop(lane: Lane) -> None:
    """As in a cell of a notebook."""
    server = lane.serve(answering(echo))
    accessor = lane.accessor(server.url)

    async def cell() -> None:
        assert fetch(accessor, 50) == expected(50)
        assert {coords: body async for coords, body in accessor.fetch_chunks_async(KEY, boxes(50))} == expected(50)
        assert await accessor.fetch_file_async(NAME) == accessor.fetch_file(NAME)

    asyncio.run(cell())


def test_batches_within_batches(lane: Lane) -> None:
    """What is done with a chunk may be another read with the same accessor, in the same thread."""
    server = lane.serve(waiting(0.01))
    accessor = lane.accessor(server.url)
    for coords, body in accessor.fetch_chunks(KEY, boxes(5)):
        assert body == body_of(coords)
        assert fetch(accessor, 10) == expected(10)
        assert accessor.fetch_file(NAME) == f"/{NAME}".encode()


@pytest.mark.parametrize("busy", ["with a chunk", "with coordinates"])
def test_a_caller_that_is_busy_for_longer_than_the_timeout_loses_nothing(
    plain: Lane, busy: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What is under way meanwhile, connecting or answered, is not given up."""
    timeout = 0.5
    server = plain.serve(waiting(0.02))
    accessor = plain.accessor(server.url, timeout=timeout, attempts=1)

    def coordinates() -> Iterator[tuple[int, int, int, int, int, int]]:
        for place, coords in enumerate(boxes(60)):
            if busy == "with coordinates" and place == 10:
                time.sleep(2 * timeout)
            yield coords

    found = {}
    for coords, chunk in accessor.fetch_chunks(KEY, coordinates()):
        found[coords] = chunk
        if busy == "with a chunk" and len(found) in (5, 30):
            time.sleep(2 * timeout)
    assert found == expected(60)
    assert caplog.records == []


def test_a_closed_accessor_lets_go_of_its_connections_in_the_end(plain: Lane) -> None:
    server = plain.serve(waiting(0.01))
    accessor = plain.accessor(server.url)
    fetch(accessor, 100)
    assert server.open
    accessor.close()
    server.wait_for_silence()


def test_a_batch_lets_go_of_its_connections_if_its_accessor_is_closed_meanwhile(plain: Lane) -> None:
    server = plain.serve(waiting(0.01))
    accessor = plain.accessor(server.url)
    chunks = iter(accessor.fetch_chunks(KEY, boxes(100)))
    first = next(chunks)
    accessor.close()
    assert dict([first, *chunks]) == expected(100)
    server.wait_for_silence()


def test_accessors_are_closed_while_others_are_made(plain: Lane) -> None:
    server = plain.serve(answering(echo))
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(12) as pool:
            for chunks in pool.map(lambda _: _fetch_one(server.url), range(250)):
                assert chunks == expected(1)
    finally:
        sys.setswitchinterval(0.005)


def _fetch_one(url: str) -> dict[Any, bytes | None]:
    with FsspecAccessor(url) as accessor:
        return fetch(accessor, 1)


def test_no_descriptor_left_is_an_error_of_ours(plain: Lane) -> None:
    server = plain.serve(answering(echo))
    accessor = plain.accessor(server.url, attempts=1)
    accessor.file_exists(NAME)
    accessor.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 20, hard))
        for free in range(3):
            with suppress(OSError):
                while True:  # the server of this process may have closed something meanwhile
                    held.append(os.open(os.devnull, os.O_RDONLY))
            for _ in range(free):
                os.close(held.pop())
            with pytest.raises(DataAccessError, match=NAME):
                accessor.fetch_file(NAME)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)
    assert accessor.fetch_file(NAME)


# --------------------------------------------------------------------------------------------------------------- forks


def _in_child(accessor: FsspecAccessor, chunks: Any, pipe: Any) -> None:
    try:
        pipe.send(list(chunks))  # what had come before the fork is there
    except DataAccessError as exc:
        pipe.send(str(exc))
    pipe.send(accessor.fetch_file(NAME))
    pipe.send(fetch(accessor, 30))
    accessor.close()


def forked(accessor: FsspecAccessor, chunks: Any) -> list[Any]:
    """Have a forked child go on with a batch, and then read a file and a batch of its own."""
    receiver, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(accessor, chunks, sender))
    child.start()
    sender.close()
    try:
        got = []
        for _ in range(3):
            assert receiver.poll(SOON)
            got.append(receiver.recv())
        child.join(SOON)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
        receiver.close()
    return got


@pytest.mark.processes
@forking
def test_a_forked_child_has_connections_of_its_own_and_leaves_its_parents(lane: Lane) -> None:
    def talk(peer: Peer) -> None:
        while asked := peer.request():
            peer.send(sized(b"%s over %d" % (asked.target.encode(), peer.number)))

    server = lane.serve(talk)
    accessor = lane.accessor(server.url)
    assert accessor.fetch_file(NAME) == b"/blob.bin over 0"
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                own = accessor.fetch_file(NAME)
                code = 0 if own.startswith(b"/blob.bin over ") and not own.endswith(b" 0") else 2
                accessor.close()
                gc.collect()
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert accessor.fetch_file(NAME) == b"/blob.bin over 0"


@pytest.mark.processes
@forking
def test_a_fork_while_other_threads_read_hangs_nobody(plain: Lane) -> None:
    server = plain.serve(waiting(0.002))
    accessor = plain.accessor(server.url)
    stop = threading.Event()

    def read() -> bool:
        while not stop.is_set():
            assert fetch(accessor, 20) == expected(20)
        return True

    with ThreadPoolExecutor(3) as pool:
        reading = [pool.submit(read) for _ in range(3)]
        try:
            for _ in range(3):
                assert forked(accessor, []) == [[], f"/{NAME}".encode(), expected(30)]
        finally:
            stop.set()
        assert all(future.result(SOON) for future in reading)


def test_a_batch_that_is_let_go_of_leaves_nothing_behind(lane: Lane) -> None:
    def talk(peer: Peer) -> None:
        while asked := peer.request():
            if len(chunks_in(server)) - before > 3:
                peer.wait()
                return
            peer.send(echo(asked))

    server = lane.serve(talk)
    with leaving_nothing(lane, server) as accessor:
        before = len(chunks_in(server))
        chunks = iter(accessor.fetch_chunks(KEY, boxes(200)))
        next(chunks)
        chunks.close()  # type: ignore[attr-defined]


@pytest.mark.processes
@forking
def test_a_fork_in_the_middle_of_a_batch(lane: Lane) -> None:
    """The child uses none of its parent's connections, and both get what is theirs."""
    server = lane.serve(waiting(0.005))
    accessor = lane.accessor(server.url)
    chunks = iter(accessor.fetch_chunks(KEY, boxes(300)))
    first = dict([next(chunks)])
    connections = server.connections
    begun, read, batch = forked(accessor, chunks)
    assert "the process that began it" in begun
    assert (read, batch) == (f"/{NAME}".encode(), expected(30))
    assert server.connections > connections
    assert first | dict(chunks) == expected(300)
    assert accessor.fetch_file(NAME) == f"/{NAME}".encode()


def test_readers_at_once_share_how_many_connections_are_kept(plain: Lane) -> None:
    server = plain.serve(waiting(0.005))
    accessor = plain.accessor(server.url)
    batches = [iter(accessor.fetch_chunks(KEY, boxes(200))) for _ in range(12)]
    for batch in batches:
        next(batch)
    with ThreadPoolExecutor(12) as threads:
        list(threads.map(list, batches))
    assert server.open <= 2 * 128


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs sockets of Unix")
def test_a_descriptor_that_another_kind_of_socket_has_by_now_is_no_connection() -> None:
    """As of an attempt to connect that libcurl has given up, and of another thread's event loop."""
    ports: dict[int, int] = {}
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other, socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as unbound:
        new = {one.fileno(), server.fileno(), unbound.fileno()}
        curl._note_ports(ports, new)
        assert ports == {server.getsockname()[1]: server.fileno()}
        assert new == {unbound.fileno()}
