"""Who makes a pyramid: half of one never opens, whatever ends its maker, and of two makers one is told."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import signal
import sys
import threading
import time
import warnings
import zipfile
from typing import TYPE_CHECKING, Any

import dask
import dask.array
import numpy as np
import pytest

from precomputed_fs import (
    AccessDeniedError,
    AlreadyExistsError,
    DataAccessError,
    FsspecAccessor,
    NotFoundError,
    Volume,
    copy_pyramid,
    create_volume,
    doctor,
    open_volume,
    serve,
)
from precomputed_fs.pyramid import claims, copies
from precomputed_fs.pyramid.claims import PARTIAL, Claimed
from precomputed_fs.store import jobs
from precomputed_fs.store.objects import ObjectStore
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from precomputed_fs.store.requests import Job, Put
    from tests.support.places import Place

DEADLINE = 60.0
SHAPE = (16, 8, 8)
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def voxels(seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(1, 200, SHAPE, np.uint8)


def make(url: Any, array: Any = None, **options: Any) -> Volume:
    given = {"resolution": (8, 8, 8), "chunk_size": (8, 8, 8), "scales": 2, "progress": False}
    return create_volume(url, voxels() if array is None else array, **{**given, **options})


class Source:
    """An array that does something when it is read for the n-th time."""

    shape, dtype = SHAPE, np.dtype(np.uint8)

    def __init__(self, act: Callable[[], Any], at: int = 2, seed: int = 0) -> None:
        self._voxels, self._act, self._at, self._reads = voxels(seed), act, at, itertools.count(1)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        if next(self._reads) == self._at:
            self._act()
        part: NDArray[Any] = self._voxels[index]
        return part


def fail() -> None:
    message = "the source broke"
    raise OSError(message)


def in_child(act: Callable[[], Any]) -> int:
    """Do something in a fork; returns how that ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking where there are threads
        pid = os.fork()
    if pid == 0:  # pragma: no cover - in the child
        signal.alarm(int(DEADLINE))
        try:
            act()
        except BaseException:  # noqa: BLE001 - the exit code says it
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(count: int, act: Callable[[], Any]) -> int:
    """Do something in a fork that is killed before it changes the store for that many-th time."""

    def counting() -> None:  # pragma: no cover - in the child
        changes, one_at_a_time = itertools.count(), threading.RLock()
        write, delete, delete_chunk = jobs.write, ObjectStore.delete, copies._deleting

        def count_one() -> None:
            if next(changes) == count:
                os.kill(os.getpid(), signal.SIGKILL)

        def writing(put: Put) -> Job[None]:
            with one_at_a_time:
                count_one()
                yield from write(put)

        def deleting(self: ObjectStore, name: str) -> None:
            if self.exists(name):  # most are not there
                count_one()
            delete(self, name)

        def deleting_chunk(name: str) -> Job[list[None]]:
            count_one()
            return delete_chunk(name)

        jobs.write, copies._deleting = writing, deleting_chunk
        ObjectStore.delete = deleting  # type: ignore[method-assign,assignment]
        act()

    return in_child(counting)


def whole(volume: Volume) -> int:
    """Return the seed of the array that all of a volume is made of."""
    (seed,) = (seed for seed in (0, 1) if np.array_equal(volume[0][..., 0], voxels(seed)))
    blocks = voxels(seed).astype(int).reshape(8, 2, 4, 2, 4, 2).sum((1, 3, 5))
    np.testing.assert_array_equal(volume[1][..., 0], (blocks + 4) // 8)
    return seed


# ----------------------------------------------------------------------------------------------------- whatever ends it


@pytest.mark.processes
@forking
@pytest.mark.parametrize(("overwrite", "sharding"), [(False, False), (True, False), (True, True)])
def test_a_maker_that_is_killed_leaves_no_half_of_a_pyramid(
    make_pyramid: Callable[[str], Place], overwrite: bool, sharding: bool
) -> None:
    """Killed at any moment: between any two changes of the store, whose order `test_info_comes_last` sees in S3."""
    seen: list[str] = []
    for count in itertools.count():
        there = make_pyramid("local")
        options: dict[str, Any] = {"sharding": sharding}
        if overwrite:
            make(there.url, voxels(1), **options)
        ended = killed_at(count, functools.partial(make, there.url, overwrite=overwrite, **options))
        assert ended in (0, -signal.SIGKILL)
        try:
            seen.append(("new", "old")[whole(open_volume(there.url))])
        except NotFoundError as exc:
            is_told = re.search(
                r"info does not exist yet: a pyramid was begun here at .* is not complete: wait", str(exc)
            )
            seen.append("begun" if is_told else "nothing")
        if ended == 0:
            break
        again = make(there.url, **options, overwrite=seen[-1] == "old") if seen[-1] != "new" else None
        assert again is None or whole(again) == 0, "the same call begins anew"
    states = [state for state, _ in itertools.groupby(seen)]
    assert states == ["old" if overwrite else "nothing", "begun", "new"]


CHILD = """
import sys, time
import numpy as np
from precomputed_fs import create_volume

class Slow:
    shape, dtype = (64, 8, 8), np.dtype(np.uint8)
    def __getitem__(self, index):
        time.sleep(60)
        return np.ones(self.shape, self.dtype)[index]

create_volume(sys.argv[1], Slow(), resolution=(8, 8, 8), chunk_size=(8, 8, 8), gzip=False, overwrite=True)
"""


@pytest.mark.processes
def test_a_batch_job_that_is_terminated_is_done_anew(tmp_path: Path) -> None:
    with servers.child([sys.executable, "-c", CHILD, str(tmp_path)]) as child:
        deadline = time.monotonic() + DEADLINE
        while not (tmp_path / PARTIAL).exists():
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        with pytest.raises(
            NotFoundError, match=rf"begun here at .* by process {child.pid} on .*: wait for that process"
        ):
            open_volume(tmp_path)
        with pytest.raises(AlreadyExistsError, match="that process is still running: wait for it, or end it"):
            make(tmp_path, np.ones((64, 8, 8), np.uint8), scales=None, gzip=False, overwrite=True)
        child.send_signal(signal.SIGTERM)
        child.wait(DEADLINE)
    assert child.returncode == -signal.SIGTERM
    with pytest.raises(
        NotFoundError, match=rf"begun here at .* by process {child.pid} on .*, and is not complete: wait if"
    ):
        open_volume(tmp_path)
    with pytest.raises(
        AlreadyExistsError, match=rf"by process {child.pid} .* is not complete; overwrite=True replaces"
    ):
        make(tmp_path)
    made = make(tmp_path, np.ones((64, 8, 8), np.uint8), scales=None, gzip=False)
    assert made[0][...].all()
    assert sorted(path.name for path in tmp_path.iterdir()) == [*sorted(scale.key for scale in made), "info"]


@pytest.mark.processes
@forking
@pytest.mark.parametrize("sharding", [False, True], ids=["chunks", "shards"])
def test_what_a_killed_maker_has_stored_does_not_show_in_what_is_left_out(tmp_path: Path, sharding: bool) -> None:
    assert killed_at(2, lambda: make(tmp_path, sharding=sharding)) == -signal.SIGKILL
    assert len(list(tmp_path.glob("8_8_8/*"))) == 1
    array = np.zeros(SHAPE, np.uint8)
    array[0, 0, 0] = 1
    made = make(tmp_path, array, sharding=sharding, skip_empty=True, type="image")
    np.testing.assert_array_equal(made[0][..., 0], array)


def test_a_word_that_was_left_beside_an_info_says_nothing(tmp_path: Path) -> None:
    """Of a process that was killed as it went to delete it."""
    made = make(tmp_path, voxels(1))
    (tmp_path / PARTIAL).write_text('{"array": []}')
    assert whole(open_volume(tmp_path)) == 1
    creates_info = functools.partial(create_volume, source=made.info)
    for creating in (make, creates_info, functools.partial(copy_pyramid, made_elsewhere())):
        with pytest.raises(AlreadyExistsError, match="there is a pyramid already; overwrite=True"):
            creating(tmp_path)
    copy_pyramid(made_elsewhere(), tmp_path, overwrite=True)
    assert not (tmp_path / PARTIAL).exists()


def made_elsewhere() -> Volume:
    return make("memory://test_claims/elsewhere", overwrite=True)


def test_what_cannot_be_written_to_is_not_asked(tmp_path: Path) -> None:
    with servers.http_server(tmp_path) as server:
        for source in (voxels(), made_elsewhere().info):
            options: dict[str, Any] = {"resolution": (8, 8, 8)} if isinstance(source, np.ndarray) else {}
            with pytest.raises(NotImplementedError, match=f"{server.url}/brain: this cannot be written to"):
                create_volume(f"{server.url}/brain", source, **options)
        assert server.log.count() == 0


@pytest.mark.processes
@forking
def test_a_dask_array_whose_process_is_killed(tmp_path: Path) -> None:
    def kill(block: NDArray[Any], block_info: Any) -> NDArray[Any]:
        if block_info[0]["chunk-location"] == (2, 0, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    array = dask.array.from_array(np.ones((32, 8, 8), np.uint8), chunks=8)
    with dask.config.set(scheduler="synchronous"):
        ended = in_child(lambda: make(tmp_path, array.map_blocks(kill, dtype=np.uint8)))
        assert ended == -signal.SIGKILL
        assert not list(tmp_path.glob("8_8_8/16-24_*"))
        with pytest.raises(NotFoundError, match="a pyramid was begun here"):
            open_volume(tmp_path)
        assert make(tmp_path, array)[0][...].all()


def fails_and_says_so(there: Place, error: type[BaseException], **given: Any) -> None:
    def stop() -> None:
        raise error

    options: dict[str, Any] = {"storage_options": there.storage_options, **given}
    make(there.url, voxels(1), **options)
    with pytest.raises(error):
        make(there.url, Source(stop), overwrite=True, **options)
    told = r"a pyramid was begun here at .*, and has failed: wait if it is being made, or make it again"
    with pytest.raises(NotFoundError, match=told):
        open_volume(there.url, storage_options=there.storage_options)
    for creating in (make, functools.partial(create_volume, source=made_elsewhere().info)):
        with pytest.raises(AlreadyExistsError, match="has failed; overwrite=True replaces it"):
            creating(there.url, storage_options=there.storage_options, **({"scales": 1} if creating is make else {}))
    assert whole(make(there.url, **options)) == 0, "the same call begins anew"
    assert PARTIAL not in there.names()


def test_a_maker_that_fails_says_so(pyramid: Place) -> None:
    fails_and_says_so(pyramid, OSError)


def test_a_maker_that_is_interrupted_says_so(make_pyramid: Callable[[str], Place]) -> None:
    fails_and_says_so(make_pyramid("local"), KeyboardInterrupt, sharding=True)


def test_what_has_failed_can_be_replaced_by_anything(tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        with pytest.raises(OSError, match="the source broke"):
            make(tmp_path / name, Source(fail))
        return tmp_path / name

    original = make(tmp_path / "original", voxels(1))
    assert len(make(broken("a"), voxels(1), scales=1, overwrite=True)) == 1
    assert whole(copy_pyramid(original, broken("b"), overwrite=True)) == 1
    assert len(create_volume(broken("c"), original.info, overwrite=True)) == 2
    with pytest.raises(AlreadyExistsError, match="a pyramid was begun here"):
        copy_pyramid(original, broken("d"))
    for name in "abc":
        assert sorted(path.name for path in (tmp_path / name).glob("info*")) == ["info"]


def test_shards_that_were_left_are_not_taken_for_new_ones(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the source broke"):
        make(tmp_path, Source(fail), sharding=True)
    sharding = {"@type": "neuroglancer_uint64_sharded_v1", "preshift_bits": 0, "hash": "identity"}
    with pytest.raises(AlreadyExistsError, match="8_8_8 is stored differently there"):
        make(tmp_path, sharding={**sharding, "minishard_bits": 0, "shard_bits": 3}, overwrite=True)


# ------------------------------------------------------------------------------------------------------- of two makers


@pytest.mark.processes
@forking
@pytest.mark.parametrize(
    ("protocol", "overwrite"), [("local", False), ("local", True), ("memory", True), ("s3", False)]
)
def test_a_second_maker_is_refused(make_pyramid: Callable[[str], Place], protocol: str, overwrite: bool) -> None:
    """Be it of the same call, in this process or in another one of this machine."""
    there = make_pyramid(protocol)
    options: dict[str, Any] = {"storage_options": there.storage_options, "overwrite": overwrite}
    refused = rf"begun here at .* by process {os.getpid()} on .* still running"

    def second() -> None:
        for array in (voxels(1), voxels(1)[:8]):
            with pytest.raises(AlreadyExistsError, match=refused):
                make(there.url, array, **options)
        with pytest.raises(AlreadyExistsError, match=refused):
            create_volume(there.url, make("memory://test_claims/info", overwrite=True).info, **options)

    def seconds() -> None:
        second()
        if protocol != "memory":
            assert in_child(second) == 0

    assert whole(make(there.url, Source(seconds, 2), **options)) == 0


def elsewhere(act: Callable[[], Any]) -> Any:
    """Do something as on another machine, where processes of this one cannot be looked at."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claims, "_machine", lambda: "another one")
        return act()


@pytest.mark.parametrize("protocol", ["local", "s3"])
def test_the_same_call_on_another_machine_is_refused(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    """Whether the first is alive, nobody knows there."""
    there = make_pyramid(protocol)

    def second() -> None:
        with pytest.raises(
            AlreadyExistsError, match="is not complete; if that process is gone, overwrite=True replaces it"
        ):
            make(there.url, storage_options=there.storage_options)

    made = make(there.url, Source(lambda: elsewhere(second), 2), storage_options=there.storage_options)
    assert whole(made) == 0


@pytest.mark.parametrize("is_through", [True, False])
@pytest.mark.parametrize("at", [2, 1])
def test_a_maker_whose_place_was_taken_is_told(tmp_path: Path, is_through: bool, at: int) -> None:
    """By overwrite=True, from another machine: what both have stored may be mixed, and the first calls it not whole."""

    def second() -> None:
        source = voxels(1) if is_through else Source(fail, 1, seed=1)
        with contextlib.nullcontext() if is_through else pytest.raises(OSError, match="broke"):
            make(tmp_path, source, overwrite=True)

    with pytest.raises(AlreadyExistsError, match=r"meanwhile .* files of both may be there: make it again"):
        make(tmp_path, Source(lambda: elsewhere(second), at))
    assert (tmp_path / "info").exists() == is_through
    assert (tmp_path / PARTIAL).exists() != is_through
    assert whole(make(tmp_path, voxels(1), overwrite=True)) == 1


@pytest.mark.parametrize("at", ["take", "_say"])
def test_two_makers_that_begin_at_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Each has seen that there is nothing yet; one is through before the other says what it makes."""
    done: list[Volume] = []
    original = getattr(claims.Claim, at)

    def late(*args: Any, **options: Any) -> None:
        monkeypatch.undo()
        done.append(make(tmp_path))
        original(*args, **options)

    monkeypatch.setattr(claims.Claim, at, late)
    with pytest.raises(AlreadyExistsError, match="meanwhile there is a pyramid already; overwrite=True replaces it"):
        make(tmp_path, voxels(1))
    assert whole(done[0]) == 0
    assert sorted(path.name for path in tmp_path.glob("info*")) == ["info"]


@pytest.mark.parametrize("is_exclusive", [True, False])
def test_of_two_makers_at_the_same_moment_the_store_chooses_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_exclusive: bool
) -> None:
    """Or, where it takes what both say, the second one, which the first finds out before it stores a chunk."""
    say = claims.Claim._say

    def saying(*args: Any, **options: Any) -> None:
        if not is_exclusive:
            say(*args, **options)
        (tmp_path / PARTIAL).write_text('{"array": [], "maker": {"id": "of another"}}')
        if is_exclusive:
            say(*args, **options)

    monkeypatch.setattr(claims.Claim, "_say", saying)
    with pytest.raises(
        AlreadyExistsError, match="faster .*was begun here" if is_exclusive else "meanwhile .*was begun"
    ):
        make(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [PARTIAL]
    assert "of another" in (tmp_path / PARTIAL).read_text()


# ------------------------------------------------------------------------------------------------------ what it says


@pytest.mark.parametrize(
    "said", [b"{", b"[]", b"{}", b"\xff", b'{"maker": 3}', b'{"array": 1, "maker": {"process": "x"}}']
)
def test_whatever_else_is_said_is_respected(tmp_path: Path, said: bytes) -> None:
    (tmp_path / PARTIAL).write_bytes(said)
    with pytest.raises(NotFoundError, match=r"was begun.* is not complete: wait if it is being made, or make it again"):
        open_volume(tmp_path)
    info = make("memory://test_claims/info", overwrite=True).info
    for creating in (make, functools.partial(create_volume, source=info)):
        with pytest.raises(AlreadyExistsError, match=r"was begun.* is not complete; .*overwrite=True replaces it"):
            creating(tmp_path)
    assert (tmp_path / PARTIAL).read_bytes() == said
    assert whole(make(tmp_path, overwrite=True)) == 0


def test_what_is_said_while_a_pyramid_is_made(tmp_path: Path) -> None:
    said: list[Any] = []
    make(tmp_path, Source(lambda: said.append(json.loads((tmp_path / PARTIAL).read_text()))))
    assert said[0]["info"] == json.loads((tmp_path / "info").read_text())
    assert said[0]["maker"]["process"] == os.getpid()
    assert said[0]["maker"].keys() == {"id", "since", "host", "machine", "process", "started"}


def test_others_than_open_volume_say_it_too(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="the source broke"):
        make(tmp_path, Source(fail))
    told = "does not exist yet: a pyramid was begun here"
    for use in (copy_pyramid, lambda url, _: serve(url)):
        with pytest.raises(NotFoundError, match=told):
            use(tmp_path, tmp_path / "copy")
    with pytest.raises(NotFoundError, match=told):
        claims.fetch_info(FsspecAccessor(tmp_path).pyramid)
    assert told in str(doctor(tmp_path))


def maker(**members: Any) -> Claimed:
    usual = {"machine": claims._machine(), "process": os.getpid(), "started": claims._started(os.getpid())}
    return Claimed({}, {**usual, **members})


def test_who_is_at_work() -> None:
    parent = {"process": os.getppid(), "started": claims._started(os.getppid())}
    assert maker(**parent).is_running()
    assert maker(**{**parent, "started": "another time"}).is_running() is False, "another process has its number by now"
    assert maker(**parent, stopped=True).is_running() is False
    assert maker(**parent, machine="another one").is_running() is None
    assert maker(process="1").is_running() is None
    assert maker(process=-1).is_running() is None
    assert maker(id="of a run that has ended").is_running() is False
    assert Claimed({}).is_running() is None


@pytest.mark.processes
@pytest.mark.skipif(not hasattr(os, "WNOWAIT"), reason="needs waitid")
def test_a_process_that_has_ended_is_not_at_work(tmp_path: Path) -> None:
    """Be it that nobody has taken notice of that yet."""
    with servers.child([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        made = maker(process=child.pid, started=claims._started(child.pid))
        assert made.is_running()
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert made.is_running() is False
        child.wait(DEADLINE)
    assert made.is_running() is False


def test_who_is_at_work_where_there_is_no_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.setattr(claims, "_PROCESSES", tmp_path)
    claims._machine.cache_clear()
    try:
        assert maker().maker["started"] is None
        assert maker(process=os.getppid()).is_running()
        assert maker(process=1).is_running(), "another user's"
        for ended in (2**22 + 1, 2**70):
            assert maker(process=ended).is_running() is False
        monkeypatch.setattr(os, "name", "nt")
        assert maker(process=os.getppid()).is_running() is None
    finally:
        monkeypatch.undo()
        claims._machine.cache_clear()


# ----------------------------------------------------------------------------------------------------------- requests


def changes(there: Place) -> list[tuple[str, str]]:
    return [
        (entry.method, entry.path.rpartition("lab/brain/")[2])
        for entry in there.server.log.entries()
        if entry.method in {"PUT", "DELETE", "POST"}
    ]


@pytest.mark.parametrize("overwrite", [False, True])
def test_info_comes_last(make_pyramid: Callable[[str], Place], overwrite: bool) -> None:
    there = make_pyramid("s3")
    options: dict[str, Any] = {"storage_options": there.storage_options}
    if overwrite:
        make(there.url, voxels(1), **options)
    there.server.log.clear()
    make(there.url, overwrite=overwrite, **options)
    done = changes(there)
    assert done[0] == ("PUT", PARTIAL)
    assert done[-2:] == [("PUT", "info"), ("DELETE", PARTIAL)]
    assert (("DELETE", "info") in done) == overwrite
    chunks = {name for _, name in done if "/" in name}
    assert len(chunks) == 3
    if overwrite:
        assert done.index(("DELETE", "info")) < min(done.index(("PUT", name)) for name in chunks)
    methods = there.server.log.methods()
    assert methods.count("HEAD") <= 1, "of `info.partial`, before the server is put to the test"
    assert methods.count("GET") <= 2 * 3 + 3 * 6, (
        "of `info` and `info.partial`, lists, and the chunks of the first scale"
    )


def test_to_say_why_there_is_nothing_takes_one_request(make_pyramid: Callable[[str], Place]) -> None:
    there = make_pyramid("s3")
    there.server.log.clear()
    with pytest.raises(NotFoundError, match="is the pyramid's URL right"):
        open_volume(there.url, storage_options=there.storage_options)
    asked = [entry.path.rpartition("/")[2] for entry in there.server.log.entries()]
    assert asked.count(PARTIAL) == 1
    there.server.log.clear()
    make(there.url, storage_options=there.storage_options)
    there.server.log.clear()
    open_volume(there.url, storage_options=there.storage_options)
    assert [entry.path.rpartition("/")[2] for entry in there.server.log.entries()] == ["info"]


# ----------------------------------------------------------------------------------------- who may not do everything


def denying(monkeypatch: pytest.MonkeyPatch, *verbs: str) -> None:
    """Have S3 refuse what is asked of it; of reading, only of what is not there."""

    def wrapped(call: Callable[..., Any], *, always: bool) -> Callable[..., Any]:
        def calling(self: ObjectStore, name: str, *args: Any, **options: Any) -> Any:
            found: Any = None
            if not always:
                with contextlib.suppress(NotFoundError):
                    found = call(self, name, *args, **options)
            if not found:
                raise AccessDeniedError(name)
            return found

        return calling

    for verb in verbs:
        name, _, always = verb.partition(" ")
        monkeypatch.setattr(ObjectStore, name, wrapped(getattr(ObjectStore, name), always=bool(always)))


@pytest.mark.parametrize("overwrite", [False, True])
def test_who_may_not_list_or_delete_may_make_one(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    there = make_pyramid("s3")
    options: dict[str, Any] = {"storage_options": there.storage_options}
    if overwrite:
        make(there.url, voxels(1), **options)
    denying(monkeypatch, "list_names always", "read", "exists", *(() if overwrite else ("delete always",)))
    if overwrite:
        with pytest.raises(AlreadyExistsError, match="there is a pyramid already"):
            make(there.url, **options)
    made = make(there.url, overwrite=overwrite, **options)
    monkeypatch.undo()
    assert whole(made) == 0
    assert (PARTIAL in there.names()) is not overwrite, "which says nothing, as there is an `info`"
    assert whole(open_volume(there.url, **options)) == 0


def test_who_may_not_see_what_is_there_does_not_replace_it(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    there = make_pyramid("s3")
    options: dict[str, Any] = {"storage_options": there.storage_options, "scales": 1}
    make(there.url, voxels(1), **options)
    before = there.contents()
    denying(monkeypatch, "list_names always", "read always", "exists always")
    with pytest.raises(AccessDeniedError):
        make(there.url, **options)
    after = there.contents()
    assert json.loads(after.pop(PARTIAL))["array"]
    assert after == before


# ------------------------------------------------------------------------------------------------------------ archives


def test_in_an_archive_info_comes_last(tmp_path: Path) -> None:
    url, options = f"zip://brain::{tmp_path}/brain.zip", {"scales": 1, "storage_options": {"mode": "w"}}
    with make(url, **options):
        pass
    with zipfile.ZipFile(tmp_path / "brain.zip") as archive:
        assert [name for name in archive.namelist() if name.startswith("brain/info")] == ["brain/info"]
        assert archive.namelist()[-1] == "brain/info"
    before = (tmp_path / "brain.zip").read_bytes()
    for overwrite in (False, True):
        with pytest.raises(AlreadyExistsError, match="`info` already; this kind of archive cannot replace it"):
            make(url, overwrite=overwrite, scales=1, storage_options={"mode": "a"})
    assert (tmp_path / "brain.zip").read_bytes() == before
    with pytest.raises(OSError, match="the source broke"):
        make(f"zip://brain::{tmp_path}/broken.zip", Source(fail), **options)
    with pytest.raises(DataAccessError):
        open_volume(f"zip://brain::{tmp_path}/broken.zip")
