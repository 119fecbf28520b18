"""Order, failures, resumed copies, verifying, memory, and dask clusters."""

from __future__ import annotations

import functools
import gzip
import itertools
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    DataAccessError,
    NotFoundError,
    Volume,
    copy_pyramid,
    create_volume,
    open_volume,
)
from precomputed_fs.codecs import Codec
from precomputed_fs.copying import run as copying_run
from precomputed_fs.pyramid import claims, copies
from precomputed_fs.pyramid.claims import PARTIAL, Claim
from precomputed_fs.store import jobs
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Pause
from precomputed_fs.volume.indexing import Touched
from tests.copying.samples import (
    DEADLINE,
    IDENTITY,
    KEY,
    MURMUR,
    STORED,
    WISHES,
    WRAPPED,
    WRITE,
    failing_after,
    info_of,
    make,
    present,
    read,
    scale_of,
    voxels_of,
)
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from precomputed_fs.store.requests import Job, Put
    from tests.support.places import Place


@pytest.mark.parametrize("wish", [{}, {"chunk_size": (32, 32, 20)}], ids=["moved", "cut"])
@pytest.mark.parametrize("error", [DataAccessError, KeyboardInterrupt])
def test_the_first_failure_ends_what_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any], error: type[BaseException]
) -> None:
    volume, begun = make(tmp_path / "a", scales=1), itertools.count()

    def writing(put: Put) -> Job[None]:
        if not put.name.startswith(KEY):
            yield from WRITE(put)
        elif next(begun) != 1:
            yield Pause(DEADLINE)
        elif error is DataAccessError:
            raise error
        else:
            signal.raise_signal(signal.SIGINT)  # of Ctrl-C, in the main thread

    monkeypatch.setattr(jobs, "write", writing)
    began = time.monotonic()
    with pytest.raises(error):
        copy_pyramid(volume, tmp_path / "b", **wish)
    for thread in threading.enumerate():
        if thread.name.startswith("precomputed_fs copy"):  # one that Ctrl-C has met while it was being started
            thread.join(DEADLINE)
    assert time.monotonic() - began < DEADLINE / 2
    assert next(begun) < 60, "not all of them were begun"


def settled(there: Place) -> set[str]:
    """Return the names of what is there, once what was sent before has arrived."""
    names, before = set(there.names()), None
    while names != before:
        time.sleep(0.1)
        names, before = set(there.names()), names
    return names


def test_info_comes_last(make_pyramid: Callable[[str], Place], tmp_path: Path) -> None:
    there = make_pyramid("s3")
    volume = make(tmp_path)
    there.server.log.clear()
    copy_pyramid(volume, there.url, storage_options=there.storage_options)
    changes = [
        (entry.method, entry.path.rpartition("lab/brain/")[2])
        for entry in there.server.log.entries()
        if entry.method in {"PUT", "DELETE", "POST"}
    ]
    assert changes[0] == ("PUT", PARTIAL)
    assert changes[-2:] == [("PUT", "info"), ("DELETE", PARTIAL)]
    assert len(set(changes)) == 3 + sum(len(list((tmp_path / scale.key).iterdir())) for scale in volume)
    assert len(changes) <= len(set(changes)) + 1, "the server is put to the test once, whether it refuses a second one"


@pytest.mark.parametrize(
    ("protocol", "flat"), [("local", True), ("local", False), ("s3", True), ("s3", False), ("sftp", False)]
)
def test_a_second_run_does_what_is_missing(
    make_pyramid: Callable[[str], Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str, flat: bool
) -> None:
    volume = make(tmp_path / "original", scales=1)
    chunks = len(present(volume.url))
    there = make_pyramid(protocol)
    options: dict[str, Any] = {"storage_options": there.storage_options, "flat": flat}
    failing_after(20, monkeypatch)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(volume, there.url, **options)
    monkeypatch.undo()
    with pytest.raises(NotFoundError):
        open_volume(there.url, storage_options=there.storage_options)
    before = settled(there)
    missing = chunks - len(before - {PARTIAL})
    assert 0 < missing <= chunks - 20
    written: list[str] = []

    def writing(put: Put) -> Job[None]:
        written.append(put.name)
        return WRITE(put)

    monkeypatch.setattr(jobs, "write", writing)
    if protocol == "s3":
        there.server.log.clear()
    copied = copy_pyramid(volume, there.url, **options)
    methods = there.server.log.methods() if protocol == "s3" else []
    assert len(written) == missing + 1
    assert not before.intersection(written)
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())
    assert set(there.names()) == {"info", *before - {PARTIAL}, *written}
    if protocol == "s3":
        assert methods.count("PUT") <= missing + 2
        assert methods.count("HEAD") <= 8, "of `info`, under the names that it may have; listings tell of chunks"
        assert methods.count("GET") <= 5 * 4 + 10, "a listing for each column of chunks, and some for `info`"


def test_a_second_run_does_the_missing_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make(tmp_path / "a", scales=1)
    failing_after(2, monkeypatch)
    with pytest.raises(DataAccessError, match=r"2\.shard: the disk is full"):
        copy_pyramid(volume, tmp_path / "b", sharding=MURMUR)
    monkeypatch.undo()
    before = {path.name: path.stat().st_ino for path in (tmp_path / "b" / KEY).iterdir()}
    assert len(before) >= 2
    copy_pyramid(volume, tmp_path / "b", sharding=MURMUR, verify=True)
    after = {path.name: path.stat().st_ino for path in (tmp_path / "b" / KEY).iterdir()}
    assert {name: after[name] for name in before} == before
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], voxels_of())


def test_a_second_run_cuts_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make(tmp_path / "a", scales=1)
    failing_after(3, monkeypatch)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(volume, tmp_path / "b", chunk_size=(32, 32, 20), gzip=False)
    monkeypatch.undo()
    before = {path.name: path.stat().st_ino for path in (tmp_path / "b" / KEY).iterdir()}
    copy_pyramid(volume, tmp_path / "b", chunk_size=(32, 32, 20), gzip=False)
    after = {path.name: path.stat().st_ino for path in (tmp_path / "b" / KEY).iterdir()}
    assert len(before) >= 3
    assert {name: after[name] for name in before} == before
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], voxels_of())


def test_what_was_only_to_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends between storing `info` and deleting what it said before it leaves nothing to be copied."""
    volume = make(tmp_path / "a")
    delete = ObjectStore.delete
    monkeypatch.setattr(ObjectStore, "delete", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception, match="killed"):
        copy_pyramid(volume, tmp_path / "b")
    monkeypatch.setattr(ObjectStore, "delete", delete)
    assert (tmp_path / "b" / PARTIAL).exists()
    monkeypatch.setattr(copies, "put_chunk", None)
    copied = copy_pyramid(volume, tmp_path / "b")
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())
    assert not (tmp_path / "b" / PARTIAL).exists()


@pytest.mark.parametrize("other", ["source", "encoding", "chunk_size", "gzip", "flat", "sharding"])
def test_a_part_of_another_copy_is_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    volume = make(tmp_path / "a", scales=1)
    others: dict[str, dict[str, Any]] = {
        "encoding": {"encoding": "png"},
        "chunk_size": {"chunk_size": (32, 32, 32)},
        "gzip": {"gzip": False},
        "flat": {"flat": False},
        "sharding": {"sharding": True},
    }
    source = make(tmp_path / "other", voxels_of() + 1, scales=1) if other == "source" else volume
    failing_after(0 if other == "sharding" else 5, monkeypatch)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(source, tmp_path / "b", **others.get(other, {}))
    monkeypatch.undo()
    before = {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    with pytest.raises(AlreadyExistsError, match=f"a copy of {source.url} to here was begun"):
        copy_pyramid(volume, tmp_path / "b")
    assert {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()} == before
    copied = copy_pyramid(volume, tmp_path / "b", overwrite=True, verify=True)
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())
    assert present(str(tmp_path / "b")) == present(str(tmp_path / "a"))
    assert len(list((tmp_path / "b" / KEY).glob("*_*_*"))) == len(present(str(tmp_path / "a")))


def test_what_is_there_already_is_verified_if_asked(tmp_path: Path) -> None:
    """Also where nothing but a word is left to be deleted."""
    volume = make(tmp_path / "a", scales=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ObjectStore, "delete", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception, match="killed"):
            copy_pyramid(volume, tmp_path / "b")
    path = next((tmp_path / "b" / KEY).iterdir())
    body = path.read_bytes()
    path.write_bytes(gzip.compress(bytes(4096)))
    with pytest.raises(CorruptDataError, match=f"{tmp_path}/b/{KEY}/"):
        copy_pyramid(volume, tmp_path / "b", verify=True)
    path.write_bytes(body)
    copy_pyramid(volume, tmp_path / "b", verify=True)
    assert not (tmp_path / "b" / PARTIAL).exists()


def meanwhile(monkeypatch: pytest.MonkeyPatch, place: Any, name: str, other: Callable[[], Any]) -> list[Any]:
    """Have another run done at the first call of a function; returns what comes of it."""
    call, results = getattr(place, name), list[Any]()

    def calling(*args: Any, **given: Any) -> Any:
        if not results:
            results.append(None)  # the other run calls it, too
            try:
                results[0] = other()
            except DataAccessError as exc:
                results[0] = exc
        return call(*args, **given)

    monkeypatch.setattr(place, name, calling)
    return results


@pytest.mark.parametrize("wish", [{}, {"sharding": MURMUR}], ids=["chunks", "shards"])
def test_two_runs_of_one_copy_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any]) -> None:
    """Each would store `info` in the end."""
    volume = make(tmp_path / "a", scales=1)
    others = meanwhile(monkeypatch, copying_run, "copy_here", lambda: copy_pyramid(volume, tmp_path / "b", **wish))
    copied = copy_pyramid(volume, tmp_path / "b", **wish)
    for each in (copied, *others):
        np.testing.assert_array_equal(each[0][..., 0], voxels_of())
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [KEY, "info"]


def broken_copy(tmp_path: Path) -> Path:
    """Make a pyramid of which no copy gets to its end."""
    make(tmp_path / "broken", scales=1, gzip=False)
    (tmp_path / "broken" / KEY / "59-75_39-55_132-140").write_bytes(b"short")
    return tmp_path / "broken"


@pytest.mark.parametrize("is_through", [True, False])
def test_two_copies_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_through: bool) -> None:
    """What another one has taken the place of, from another machine, is not called whole."""
    volume = make(tmp_path / "a", scales=1)
    source = str(make(tmp_path / "other", scales=2).url if is_through else broken_copy(tmp_path))

    def elsewhere() -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(claims, "_machine", lambda: "another one")
            return copy_pyramid(source, tmp_path / "b", overwrite=True)

    others = meanwhile(monkeypatch, copying_run, "copy_here", elsewhere)
    with pytest.raises(AlreadyExistsError, match=f"{tmp_path}/b"):
        copy_pyramid(volume, tmp_path / "b")
    assert isinstance(others[0], Volume if is_through else CorruptDataError)
    assert (tmp_path / "b" / "info").exists() == is_through
    if is_through:
        assert len(open_volume(tmp_path / "b")) == 2
    else:
        assert json.loads((tmp_path / "b" / PARTIAL).read_text())["source"] == source


def test_a_copy_that_is_under_way_on_this_machine_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its chunks would go among those of the other one."""
    volume, source = make(tmp_path / "a", scales=1), make(tmp_path / "other", voxels_of() + 1, scales=1)
    again = functools.partial(copy_pyramid, source, tmp_path / "b", overwrite=True)
    others = meanwhile(monkeypatch, copying_run, "copy_here", again)
    np.testing.assert_array_equal(copy_pyramid(volume, tmp_path / "b")[0][..., 0], voxels_of())
    assert isinstance(others[0], AlreadyExistsError)
    assert re.search(rf"/b: a copy of {volume.url} .* by process {os.getpid()} .* still running", str(others[0]))
    np.testing.assert_array_equal(copy_pyramid(source, tmp_path / "b", overwrite=True)[0][..., 0], voxels_of() + 1)


def test_two_copies_that_begin_at_the_same_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both find nothing there; one is the first to say what will be."""
    volume, source = make(tmp_path / "a", scales=1), broken_copy(tmp_path)
    for place, mine in (("b", volume), ("c", open_volume(source))):
        with monkeypatch.context() as patch:
            other = functools.partial(copy_pyramid, source, tmp_path / place)
            others = meanwhile(patch, Claim, "take", other)
            with pytest.raises(AlreadyExistsError if place == "b" else CorruptDataError):
                copy_pyramid(mine, tmp_path / place)
            assert isinstance(others[0], CorruptDataError)
        assert json.loads((tmp_path / place / PARTIAL).read_text())["source"] == str(source)


@pytest.mark.parametrize("said", [b"{", b"[]", b"{}", b"\xff"])
def test_whatever_else_is_said_is_not_this_copy(tmp_path: Path, said: bytes) -> None:
    volume = make(tmp_path / "a", scales=1)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / PARTIAL).write_bytes(said)
    with pytest.raises(AlreadyExistsError, match="a copy of something to here was begun"):
        copy_pyramid(volume, tmp_path / "b")
    copied = copy_pyramid(volume, tmp_path / "b", overwrite=True)
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())


def test_to_where_nothing_may_be_listed(
    make_pyramid: Callable[[str], Place], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 says 403, not 404, of what is absent to who may not list."""
    there = make_pyramid("s3")
    volume = make(tmp_path, scales=1)
    listing, reading = ObjectStore.list_names, ObjectStore.read

    def denied(self: ObjectStore, name: str, *args: Any) -> Any:
        if self.location.links[0].protocol == "file":
            return listing(self, name, *args)
        raise AccessDeniedError(name)

    def denying(self: ObjectStore, name: str, *args: Any, **options: Any) -> Any:
        try:
            return reading(self, name, *args, **options)
        except NotFoundError as exc:
            if self.location.links[0].protocol == "file":
                raise
            raise AccessDeniedError(name) from exc

    failing_after(10, monkeypatch)
    monkeypatch.setattr(ObjectStore, "list_names", denied)
    monkeypatch.setattr(ObjectStore, "read", denying)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(volume, there.url, storage_options=there.storage_options, gzip=True)
    monkeypatch.setattr(jobs, "write", WRITE)
    before = settled(there)
    there.server.log.clear()
    copy_pyramid(volume, there.url, storage_options=there.storage_options, gzip=True)
    puts = [entry.path for entry in there.server.log.entries() if entry.method == "PUT"]
    assert not any(path.endswith(tuple(name for name in before if name.startswith(KEY))) for path in puts)
    monkeypatch.undo()
    assert present(there.url, storage_options=there.storage_options) == present(str(tmp_path))


def test_clearing_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run that was ended while it deleted has left is of the old pyramid."""
    volume = make(tmp_path / "a", scales=1)
    make(tmp_path / "b", voxels_of() + 1, scales=1)
    deleted: list[str] = []
    delete = copies._deleting

    def failing(name: str) -> Job[list[None]]:
        deleted.append(name)
        if len(deleted) > 10:
            raise AccessDeniedError(name)
        return (yield from delete(name))

    monkeypatch.setattr(copies, "_deleting", failing)
    with pytest.raises(AccessDeniedError):
        copy_pyramid(volume, tmp_path / "b", overwrite=True)
    monkeypatch.undo()
    assert not (tmp_path / "b" / "info").exists()
    with pytest.raises(AlreadyExistsError, match="was begun"):
        copy_pyramid(volume, tmp_path / "b")
    copied = copy_pyramid(volume, tmp_path / "b", overwrite=True)
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())
    assert present(str(tmp_path / "b")) == present(str(tmp_path / "a"))


def test_overwriting_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same call again keeps what the first has copied, and nothing that was there before."""
    volume = make(tmp_path / "a", scales=1)
    make(tmp_path / "b", voxels_of() + 1, scales=1)
    failing_after(10, monkeypatch)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(volume, tmp_path / "b", overwrite=True)
    monkeypatch.undo()
    before = {path.name: path.stat().st_ino for path in (tmp_path / "b" / KEY).iterdir()}
    assert len(before) >= 10
    copied = copy_pyramid(volume, tmp_path / "b", overwrite=True)
    after = {path.name: path.stat().st_ino for path in (tmp_path / "b" / KEY).iterdir()}
    assert {name: after[name] for name in before} == before
    np.testing.assert_array_equal(copied[0][..., 0], voxels_of())


def test_a_source_that_fails_is_named(tmp_path: Path) -> None:
    make(tmp_path / "a", scales=1, gzip=False)
    served = servers.files(tmp_path)
    broken = "27-43_39-55_116-132"

    async def handler(request: Any) -> Any:
        return await (servers.respond(403) if request.path.endswith(broken) else served)(request)

    with servers.fault_server(handler) as server:
        with pytest.raises(AccessDeniedError, match=rf"{server.url}/a/{KEY}/{broken}"):
            copy_pyramid(f"{server.url}/a", tmp_path / "b")
        assert not (tmp_path / "b" / "info").exists()
    with servers.http_server(tmp_path) as server, pytest.raises(AlreadyExistsError):
        copy_pyramid(f"{server.url}/a", tmp_path / "b")  # of another port


def test_a_damaged_chunk_is_named(tmp_path: Path) -> None:
    make(tmp_path / "a", scales=1, gzip=False)
    (tmp_path / "a" / KEY / "27-43_39-55_116-132").write_bytes(b"short")
    for wish in ({"encoding": "png"}, {"chunk_size": (32, 32, 32)}):
        with pytest.raises(CorruptDataError, match=rf"{tmp_path}/a/{KEY}/27-43_39-55_116-132"):
            copy_pyramid(tmp_path / "a", tmp_path / f"b{len(wish)}", overwrite=True, **wish)


@pytest.mark.parametrize(("stored", "length"), [("plain", 0), ("plain", 4095), ("identity", 4095), ("folders", 4097)])
@pytest.mark.parametrize("wish", [{}, {"gzip": True}, {"sharding": MURMUR}], ids=str)
def test_a_chunk_of_another_length_is_not_moved(tmp_path: Path, stored: str, length: int, wish: dict[str, Any]) -> None:
    """Of what is compressed, the length is known where it is verified."""
    volume = make(tmp_path / "a", scales=1, **STORED.get(stored, {"flat": False}))
    volume.accessor.store_chunk(b"." * length, KEY, (27, 43, 39, 55, 116, 132), overwrite=True)
    volume.accessor.flush()
    with pytest.raises(CorruptDataError, match=rf"{tmp_path}/a/{KEY}/.* of 4096 bytes is {length} bytes long"):
        copy_pyramid(tmp_path / "a", tmp_path / "b", verify=stored == "folders", **wish)
    assert not (tmp_path / "b" / "info").exists()


def test_a_chunk_without_bytes_is_not_moved(tmp_path: Path) -> None:
    """Whatever its encoding is; in a shard, it would be absent."""
    make(tmp_path / "a", scales=1, encoding="png")
    (tmp_path / "a" / KEY / "27-43_39-55_116-132").write_bytes(b"")
    for sharding in (None, True):
        with pytest.raises(CorruptDataError, match=rf"{tmp_path}/a/{KEY}/27-43_39-55_116-132: .* 0 bytes"):
            copy_pyramid(tmp_path / "a", tmp_path / f"b{sharding}", sharding=sharding)


def test_a_chunk_that_cannot_be_encoded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make(tmp_path / "a", scales=1)

    def refuse(*_: Any) -> bytes:
        raise ValueError("too many colours")

    monkeypatch.setattr(Codec, "encode", refuse)
    with pytest.raises(DataAccessError, match=rf"{tmp_path}/b/{KEY}/.* cannot be encoded: too many colours"):
        copy_pyramid(volume, tmp_path / "b", encoding="png")


CHILD = """
import sys
from precomputed_fs import copy_pyramid
copy_pyramid(sys.argv[1], sys.argv[2], **eval(sys.argv[3]))
"""


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize(
    ("wish", "rounds"),
    [({}, 2), ({"sharding": WRAPPED}, 1), ({"chunk_size": (24, 24, 24)}, 1)],
    ids=["moved twice", "shards", "cut"],
)
def test_a_killed_run_loses_nothing(tmp_path: Path, wish: dict[str, Any], rounds: int) -> None:
    array = voxels_of(size=(100, 90, 80))
    make(tmp_path / "a", array, scales=1, gzip=False)
    with servers.fault_server(servers.latency(0.03, servers.files(tmp_path))) as server:
        arguments = [f"{server.url}/a", str(tmp_path / "b"), repr({**wish, "gzip": False})]
        kills, before = 0, {}
        for round_ in range(1, rounds + 1):
            with servers.child([sys.executable, "-c", CHILD, *arguments]) as child:
                wait_for_chunks(tmp_path / "b", round_, child)
                child.send_signal(signal.SIGKILL)
            if child.returncode == 0:  # it was faster
                break
            kills += 1
            assert not (tmp_path / "b" / "info").exists()
            before = {path: path.stat().st_ino for path in (tmp_path / "b").glob(f"{KEY}/[!.]*")}
        assert kills
        if not (tmp_path / "b" / "info").exists():
            copy_pyramid(f"{server.url}/a", tmp_path / "b", gzip=False, **wish)
    assert {path: path.stat().st_ino for path in before} == before
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], array)


def wait_for_chunks(folder: Path, count: int, child: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE
    while len(list(folder.glob(f"{KEY}/[!.]*"))) < count and child.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one object be written otherwise than it is given: a byte of the data is another one."""
    write = jobs.write
    damaged: list[str] = []

    def writing(put: Put) -> Job[None]:
        body = bytearray(put.data[:])
        if put.name.startswith(KEY) and not damaged:
            damaged.append(put.name)
            body[-40 if put.name.endswith(".shard") else len(body) // 2] ^= 1
        return write(replace(put, data=bytes(body)))

    monkeypatch.setattr(jobs, "write", writing)


@pytest.mark.parametrize(
    "wish",
    [
        {"gzip": False},
        {"chunk_size": (40, 25, 20), "gzip": False},
        {"encoding": "compressed_segmentation", "gzip": False},
        {"sharding": {**IDENTITY, "minishard_index_encoding": "raw", "shard_bits": 4, "minishard_bits": 0}},
    ],
    ids=["moved", "cut", "encoded", "shards"],
)
def test_verifying_finds_a_wrong_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any]) -> None:
    volume = make(tmp_path / "a", voxels_of("uint32"), scales=1)
    damage(monkeypatch)
    copy_pyramid(volume, tmp_path / "unnoticed", **wish)
    damage(monkeypatch)
    with pytest.raises(CorruptDataError, match=f"{tmp_path}/b/{KEY}"):
        copy_pyramid(volume, tmp_path / "b", verify=True, **wish)
    assert not (tmp_path / "b" / "info").exists()


@pytest.mark.parametrize(
    "wish", [{}, {"sharding": MURMUR}, {"chunk_size": (32, 32, 32)}], ids=["moved", "shards", "cut"]
)
def test_verifying_includes_what_an_earlier_run_has_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any]
) -> None:
    volume = make(tmp_path / "a", scales=1)
    failing_after(2, monkeypatch)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(volume, tmp_path / "b", **wish)
    monkeypatch.undo()
    other = make(tmp_path / "other", voxels_of()[::-1], scales=1)
    copy_pyramid(other, tmp_path / "c", **wish)
    path = next((tmp_path / "b" / KEY).iterdir())
    same = tmp_path / "c" / KEY / path.name
    path.write_bytes(same.read_bytes() if same.exists() else gzip.compress(bytes(4096)))
    with pytest.raises(
        CorruptDataError, match=f"{tmp_path}/b/{KEY}/.*(differs from what was copied|it is missing|it exists, but not)"
    ):
        copy_pyramid(volume, tmp_path / "b", verify=True, **wish)


@pytest.mark.parametrize("wish", [{}, {"chunk_size": (16, 16, 20)}], ids=["moved", "cut"])
def test_verifying_finds_what_is_not_at_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wish: dict[str, Any]
) -> None:
    volume = make(tmp_path / "a", scales=1)
    failing_after(2, monkeypatch)
    with pytest.raises(DataAccessError, match="the disk is full"):
        copy_pyramid(volume, tmp_path / "b", **wish)
    monkeypatch.undo()
    name = f"-5-11_7-23_100-{120 if wish else 116}"
    (tmp_path / "b" / KEY / name).write_bytes(bytes(16 * 16 * (20 if wish else 16)))
    with pytest.raises(CorruptDataError, match=f"{tmp_path}/b/{KEY}/.*it exists, but not at the source"):
        copy_pyramid(volume, tmp_path / "b", verify=True, **wish)


def test_verifying_what_is_encoded_with_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = make(tmp_path / "a", scales=1)
    copy_pyramid(volume, tmp_path / "b", encoding="jpeg", verify=True)
    encode = Codec.encode
    monkeypatch.setattr(Codec, "encode", lambda self, voxels: encode(self, voxels)[:-50])
    with pytest.raises(CorruptDataError, match=f"{tmp_path}/c/{KEY}"):
        copy_pyramid(volume, tmp_path / "c", encoding="jpeg", verify=True)


MEASURE = """
import resource, sys
import numpy
from precomputed_fs import copy_pyramid, open_volume
volume = open_volume(sys.argv[1])
wishes = [{"sharding": True}, {"chunk_size": (128, 64, 32)}]
for i, wish in enumerate(wishes):
    copy_pyramid(volume, f"{sys.argv[2]}/small{i}", scales=[-1], **wish)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for i, wish in enumerate(wishes):
    copy_pyramid(volume, f"{sys.argv[2]}/{i}", scales=[0], **wish)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.processes
@pytest.mark.slow
def test_memory_is_bounded(tmp_path: Path) -> None:
    """Voxels of half a gigabyte, which take next to nothing stored, are copied into shards, and cut."""
    size, small = (512, 1024, 1024), (64, 64, 64)
    scales = [
        scale_of(key=key, size=each, chunk_sizes=[small], voxel_offset=(0, 0, 0))
        for key, each in ((KEY, size), ("16_16_16", small))
    ]
    volume = create_volume(tmp_path / "a", info_of(scales), gzip=True)
    volume[1][...] = 1
    chunk = next((tmp_path / "a" / "16_16_16").iterdir()).read_bytes()
    (tmp_path / "a" / KEY).mkdir()
    for x0, x1, y0, y1, z0, z1 in Touched(volume[0].grid, (range(512), range(1024), range(1024))):
        (tmp_path / "a" / KEY / f"{x0}-{x1}_{y0}-{y1}_{z0}-{z1}.gz").write_bytes(chunk)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "a"), str(tmp_path / "b")],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    grown = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 320 << 20
    for name in ("0", "1"):
        assert open_volume(tmp_path / "b" / name)[0][400:500, 1000, 3].all()


def test_nothing_is_made_for_all_chunks_at_once(tmp_path: Path) -> None:
    """Of 10**12 chunks, the first ones fail."""
    scale = scale_of(size=[10**6, 10**6, 10**6], chunk_sizes=[[100, 100, 100]], voxel_offset=[0, 0, 0])
    volume = create_volume(tmp_path / "a", info_of([scale]))
    (tmp_path / "a" / KEY).mkdir()
    (tmp_path / "a" / KEY / "0-100_0-100_300-400.gz").write_bytes(b"not gzip")
    for wish in ({"gzip": False}, {"encoding": "png"}, {"sharding": True}):
        began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(CorruptDataError, match="0-100_0-100_300-400"):
            copy_pyramid(volume, tmp_path / f"b{len(str(wish))}", verify=True, **wish)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began < 200_000


@pytest.mark.slow
@pytest.mark.parametrize("wish", ["murmur", "larger in shards"])
def test_on_a_cluster(make_pyramid: Callable[[str], Place], tmp_path: Path, dask_client: Any, wish: str) -> None:
    there = make_pyramid("s3")
    volume = make(tmp_path / "a", voxels_of()[:48], scales=2)
    copied = copy_pyramid(
        volume, there.url, client=dask_client, verify=True, storage_options=there.storage_options, **WISHES[wish]
    )
    back = copy_pyramid(copied, tmp_path / "b", client=dask_client, gzip=False)
    for i, scale in enumerate(volume):
        np.testing.assert_array_equal(read(tmp_path / "b", i), scale[...])
    assert len(back) == len(volume)


def test_what_is_no_cluster(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"client: expected a distributed\.Client, got str"):
        copy_pyramid(make(tmp_path / "a"), tmp_path / "b", client="tcp://127.0.0.1:8786")
    assert not (tmp_path / "b").exists()


def test_what_other_processes_cannot_reach(
    make_pyramid: Callable[[str], Place], tmp_path: Path, dask_client: Any
) -> None:
    volume, there = make(tmp_path / "a", scales=1), make_pyramid("memory")
    with pytest.raises(ValueError, match="memory:// belongs to one process"):
        copy_pyramid(volume, there.url, client=dask_client)
    assert there.names() == [PARTIAL]
    with pytest.raises(ValueError, match="one process"):
        copy_pyramid(volume, f"zip://b::{tmp_path}/b.zip", client=dask_client, storage_options={"zip": {"mode": "w"}})


def test_a_failure_on_a_cluster(tmp_path: Path, dask_client: Any) -> None:
    volume = make(tmp_path / "a", scales=1, gzip=False, sharding=False)
    broken = tmp_path / "a" / KEY / "27-43_39-55_116-132"
    body = broken.read_bytes()
    broken.write_bytes(b"short")
    with pytest.raises(CorruptDataError, match=f"{broken}"):
        copy_pyramid(volume, tmp_path / "b", client=dask_client, encoding="png", sharding=WRAPPED)
    assert not (tmp_path / "b" / "info").exists()
    broken.write_bytes(body)
    copy_pyramid(volume, tmp_path / "b", client=dask_client, encoding="png", sharding=WRAPPED)
    np.testing.assert_array_equal(read(tmp_path / "b")[..., 0], voxels_of())
