"""How files are copied as they are: resumed, verified, and in bounded memory."""

from __future__ import annotations

import gzip
import os
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import CorruptDataError, DataAccessError
from precomputed_fs.copying import files
from precomputed_fs.copying.files import FolderCopy, copy_folder, pages_of
from precomputed_fs.copying.workers import Count, threads
from precomputed_fs.store import jobs
from precomputed_fs.store.requests import Get, Listed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.places import Place

BODIES = {f"mesh/{i}:0": b"%d" % i for i in range(40)}


@pytest.fixture
def places(make_pyramid: Callable[[str], Place]) -> tuple[Place, Place]:
    source = make_pyramid("memory")
    for name, body in BODIES.items():
        source.put(name, body)
    return source, make_pyramid("memory")


def folder_copy(source: Place, there: Place, **members: Any) -> FolderCopy:
    given = {"names": None, "gzip": None, "verify": False, **members}
    return FolderCopy(source.accessor().pyramid, there.accessor().pyramid, "mesh", **given)


def run(copy: FolderCopy) -> Count:
    counts: list[Count] = []
    copy_folder(copy, counts.append)
    return Count(*map(sum, zip(*counts, strict=True)))


def test_files_are_counted(places: tuple[Place, Place]) -> None:
    assert run(folder_copy(*places)) == (40, sum(map(len, BODIES.values())), 40)
    assert places[1].contents() == BODIES


def test_a_second_run_copies_what_is_missing_or_has_another_size(places: tuple[Place, Place]) -> None:
    source, there = places
    run(folder_copy(source, there))
    there.delete("mesh/7:0")
    there.put("mesh/8:0", b"truncated")
    there.put("mesh/9:0", b"x")
    assert run(folder_copy(source, there, resumes=True)) == (2, 2, 2)
    assert there.contents() == {**BODIES, "mesh/9:0": b"x"}


def test_a_run_that_failed_is_resumed(places: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch) -> None:
    source, there = places
    write = jobs.write

    def failing(put: Any) -> Any:
        if put.name == "mesh/33:0":
            message = "the disk is full"
            raise DataAccessError(message)
        yield from write(put)

    with monkeypatch.context() as patch:
        patch.setattr(jobs, "write", failing)
        with pytest.raises(DataAccessError, match="the disk is full"):
            run(folder_copy(source, there))
    before = len(there.names())
    assert run(folder_copy(source, there, resumes=True)).done == 40 - before
    assert there.contents() == BODIES


def test_what_cannot_be_compared_by_size_is_compared_by_name(make_pyramid: Callable[[str], Place]) -> None:
    """A listing does not tell which files are decompressed on their way from a bucket to a folder."""
    source, there = make_pyramid("memory"), make_pyramid("s3")
    source.put("mesh/a.gz", bytes.fromhex("1f8b08000000000000034b040043beb7e801000000"))
    source.put("mesh/b", b"b")
    run(folder_copy(source, there))
    assert there.names() == ["mesh/a", "mesh/b"]
    assert run(folder_copy(source, there, resumes=True)).done == 0
    there.delete("mesh/a")
    assert run(folder_copy(source, there, resumes=True)).done == 1


def test_a_second_run_from_a_web_server_copies_what_is_missing(places: tuple[Place, Place]) -> None:
    copy = folder_copy(*places, names=("mesh/1:0", "mesh/2:0", "mesh/none"), resumes=True)
    assert [run(copy).done, run(copy).done] == [2, 0]
    places[1].delete("mesh/2:0")
    assert run(copy).done == 1
    assert places[1].contents() == {name: BODIES[name] for name in ("mesh/1:0", "mesh/2:0")}


def test_what_is_copied_is_verified(places: tuple[Place, Place], monkeypatch: pytest.MonkeyPatch) -> None:
    source, there = places
    run(folder_copy(source, there))
    copy = folder_copy(source, there, resumes=True, verify=True)
    assert run(copy) == (40, 0, 40)
    there.delete("mesh/7:0")
    assert run(copy) == (40, 1, 40)
    there.put("mesh/8:0", b"9")
    with pytest.raises(CorruptDataError, match="mesh/8:0: what is read back differs from what was copied"):
        run(copy)


def test_a_file_that_vanishes_is_not_copied(places: tuple[Place, Place]) -> None:
    copy = folder_copy(*places)
    (page,) = pages_of(copy)
    places[0].delete("mesh/3:0")
    with threads(2) as submit:
        files.copy_files(copy, page, submit, lambda _: None)
    assert places[1].contents() == {name: body for name, body in BODIES.items() if name != "mesh/3:0"}


def test_a_large_file_is_copied_by_ranges(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, there = make_pyramid("local"), make_pyramid("memory")
    body = random.Random(0).randbytes(100_000)
    source.put("mesh/0.shard", body)
    monkeypatch.setattr(files, "_SIZES", (1000,))
    monkeypatch.setattr(files, "_RANGE", 4096)
    copy = folder_copy(source, there, verify=True)
    read: list[Get] = []

    def get(*args: Any, **given: Any) -> Get:
        read.append(Get(*args, **given))
        return read[-1]

    monkeypatch.setattr(files, "Get", get)
    assert run(copy) == (1, 100_000, 1)
    assert there.get("mesh/0.shard") == body
    assert {(get.start, get.end is None) for get in read} == {(start, False) for start in range(0, 100_000, 4096)}


@pytest.mark.parametrize("protocol", ["s3", "local"])
def test_a_large_file_that_is_compressed_is_copied_whole(
    protocol: str, make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server would send ranges of what is compressed."""
    source, there = make_pyramid(protocol), make_pyramid("s3")
    packed = gzip.compress(os.urandom(5000), mtime=0)
    if protocol == "s3":
        source.put("mesh/a", packed, "gzip")
    else:
        source.put("mesh/a.gz", packed)
    monkeypatch.setattr(files, "_SIZES", (1000,))
    run(folder_copy(source, there, verify=True))
    assert there.contents() == {"mesh/a": packed}
    assert there.fields("mesh/a")["ContentEncoding"] == "gzip"


def test_a_large_file_that_changes_is_not_mixed(
    make_pyramid: Callable[[str], Place], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, there = make_pyramid("local"), make_pyramid("memory")
    source.put("mesh/a", b"a" * 5000)
    monkeypatch.setattr(files, "_SIZES", (1000,))
    monkeypatch.setattr(files, "_RANGE", 1000)
    monkeypatch.setattr(files, "BYTES_IN_FLIGHT", 1000)
    ranges = files._range

    def changing(name: str, start: int, end: int) -> Any:
        if start == 3000:
            source.put("mesh/a", b"b" * 5000)
        return (yield from ranges(name, start, end))

    monkeypatch.setattr(files, "_range", changing)
    run(folder_copy(source, there))
    assert there.get("mesh/a") == b"b" * 5000


def test_marks_tell_files_apart(places: tuple[Place, Place]) -> None:
    copy = folder_copy(*places)
    listed = [Listed(f"mesh/{i}", i % 7) for i in range(3000)]
    marks = np.sort(np.frombuffer(b"".join(map(copy.mark, listed[::2])), files._MARK))
    assert [files._contains(marks, copy.mark(one)) for one in listed] == [i % 2 == 0 for i in range(3000)]
    assert not files._contains(marks, copy.mark(Listed("mesh/0", 1)))
    assert not files._contains(marks[:0], copy.mark(listed[0]))
