"""The accessor, on every protocol: what it stores, what it finds, and what it refuses."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import json
import lzma
import posixpath
import random
import re
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import fsspec
import imagecodecs
import numpy as np
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import example, given, settings
from hypothesis import strategies as st

from precomputed_fs import (
    AccessDeniedError,
    AlreadyExistsError,
    CorruptDataError,
    DataAccessError,
    FsspecAccessor,
    InvalidInfoError,
    NotFoundError,
    get_accessor_for_url,
)
from precomputed_fs.codecs import ROOM
from precomputed_fs.format.info_text import MAX_INFO_BYTES
from tests.support.places import READ_ONLY, WRITABLE, Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.servers import HttpServer

KEY = "8_8_40"
COORDS = (0, 64, -64, 0, 128, 189)
FLAT = f"{KEY}/0-64_-64-0_128-189"
SUBDIRECTORY = f"{KEY}/0-64/-64-0/128-189"
BODY = bytes(range(256)) * 8
OTHER_BODY = b"other" * 100
FAST = ("memory", "local")

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".br": lambda body: bytes(imagecodecs.brotli_encode(body)),
    ".zstd": lambda body: bytes(imagecodecs.zstd_encode(body)),
    ".xz": lzma.compress,
    ".bz2": bz2.compress,
}
VARIANTS = [(flat, suffix) for flat in (True, False) for suffix in COMPRESS]


def chunk_name(key: str, flat: bool, suffix: str = "") -> str:
    return f"{key}/0-64_-64-0_128-189{suffix}" if flat else f"{key}/0-64/-64-0/128-189{suffix}"


# -------------------------------------------------------------------------------------------------------------- doors


def through_sync(verb: str, accessor: FsspecAccessor, *args: Any, **kwargs: Any) -> Any:
    return getattr(accessor, verb)(*args, **kwargs)


def through_async(verb: str, accessor: FsspecAccessor, *args: Any, **kwargs: Any) -> Any:
    async def main() -> Any:
        return await getattr(accessor, f"{verb}_async")(*args, **kwargs)

    return asyncio.run(main())


def through_sync_in_a_loop(verb: str, accessor: FsspecAccessor, *args: Any, **kwargs: Any) -> Any:
    async def main() -> Any:  # as in a notebook's cell
        return getattr(accessor, verb)(*args, **kwargs)

    return asyncio.run(main())


DOORS = [through_sync, through_async, through_sync_in_a_loop]
each_door = pytest.mark.parametrize("call", DOORS)


def test_chunks_come_back_through_every_door(each_pyramid: Place) -> None:
    accessor = each_pyramid.accessor()
    for i, call in enumerate(DOORS):
        assert call("store_chunk", accessor, BODY, f"scale{i}", COORDS) is None
        assert call("fetch_chunk", accessor, f"scale{i}", COORDS) == BODY


def test_files_come_back_through_every_door(each_pyramid: Place) -> None:
    accessor = each_pyramid.accessor()
    for i, call in enumerate(DOORS):
        name = f"mesh/{i}:0"
        assert call("file_exists", accessor, name) is False
        assert call("store_file", accessor, name, BODY) is None
        assert call("file_exists", accessor, name) is True
        assert call("fetch_file", accessor, name) == BODY


@each_door
@pytest.mark.parametrize("protocol", ["memory", "s3", "gcs"])
def test_each_door_may_be_the_first(
    make_pyramid: Callable[[str], Place], protocol: str, call: Callable[..., Any]
) -> None:
    pyramid = make_pyramid(protocol)
    pyramid.put("info", b"{}")
    assert call("fetch_file", pyramid.accessor(), "info") == b"{}"


def test_what_others_stored_is_read_through_every_door(each_readable_pyramid: Place) -> None:
    each_readable_pyramid.put("info", b"{}")
    each_readable_pyramid.put(FLAT, BODY)
    accessor = each_readable_pyramid.accessor()
    for call in DOORS:
        assert call("file_exists", accessor, "info") is True
        assert call("fetch_file", accessor, "info") == b"{}"
        assert call("fetch_chunk", accessor, KEY, COORDS) == BODY


def test_one_accessor_is_awaited_from_two_loops_at_once(pyramid: Place) -> None:
    accessor = pyramid.accessor()

    async def both_ways(name: str) -> list[bytes]:
        await accessor.store_file_async(name, name.encode())
        return list(await asyncio.gather(*(accessor.fetch_file_async(name) for _ in range(3))))

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda name: asyncio.run(both_ways(name)), ["one", "two"]))
    assert found == [[b"one"] * 3, [b"two"] * 3]


# -------------------------------------------------------------------------------------------------------------- bytes

any_bytes = st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=50).map(lambda tail: b"\x1f\x8b\x08" + tail),
    st.binary(max_size=300).map(lambda body: gzip.compress(body, mtime=0)),
    st.binary(max_size=50).map(lambda body: gzip.compress(body, mtime=0) + b"\0"),
)


@pytest.mark.parametrize("compress", [True, False])
def test_any_bytes_come_back(each_pyramid: Place, compress: bool) -> None:
    writer, reader = each_pyramid.accessor(gzip=compress), each_pyramid.accessor()

    @settings(max_examples=50 if each_pyramid.protocol in FAST else 2)
    @given(body=any_bytes)
    @example(body=b"")
    @example(body=b"\x1f\x8b\x08")
    @example(body=gzip.compress(b"", mtime=0))
    @example(body=gzip.compress(gzip.compress(b"twice", mtime=0), mtime=0))
    def check(body: bytes) -> None:
        writer.store_chunk(body, KEY, COORDS, overwrite=True)
        writer.store_file("file", body, mime_type="image/jpeg", overwrite=True)
        assert reader.fetch_chunk(KEY, COORDS) == body
        assert reader.fetch_file("file") == body

    check()


BUFFERS = {
    "bytearray": bytearray(b"\0\1\2\3\4\5\6\7"),
    "memoryview": memoryview(b"\0\1\2\3\4\5\6\7"),
    "memoryview of 16 bits": memoryview(b"\0\1\2\3\4\5\6\7").cast("H"),
    "strided memoryview": memoryview(b"\0-\1-\2-\3-\4-\5-\6-\7-")[::2],
    "array": np.arange(8, dtype=np.uint8),
    "array's memory": np.arange(8, dtype=np.uint8).reshape((2, 2, 2)).data,
    "array in Fortran's order": np.arange(8, dtype=np.uint8).reshape((2, 2, 2), order="F"),
}


@pytest.mark.parametrize("buffer", BUFFERS.values(), ids=list(BUFFERS))
@pytest.mark.parametrize("compress", [True, False])
def test_any_buffer_is_stored_as_its_memory(make_pyramid: Callable[[str], Place], buffer: Any, compress: bool) -> None:
    accessor = make_pyramid("memory").accessor(gzip=compress)
    accessor.store_chunk(buffer, KEY, COORDS)
    accessor.store_file("file", buffer)
    assert accessor.fetch_chunk(KEY, COORDS) == accessor.fetch_file("file") == b"\0\1\2\3\4\5\6\7"


def test_buffers_reach_each_protocol(each_pyramid: Place) -> None:
    accessor = each_pyramid.accessor(gzip=False)
    buffers: dict[str, Any] = {"a": bytearray(BODY), "m": memoryview(BODY), "n": np.frombuffer(BODY, np.uint8)}
    for name, buffer in buffers.items():
        accessor.store_file(name, buffer)
    assert each_pyramid.contents() == dict.fromkeys("amn", BODY)


def test_a_changed_buffer_does_not_change_what_is_stored(pyramid: Place) -> None:
    accessor, buffer = pyramid.accessor(gzip=False), bytearray(BODY)
    accessor.store_file("file", buffer)
    buffer[:] = bytes(len(buffer))
    assert accessor.fetch_file("file") == BODY


def test_fetched_is_bytes(readable_pyramid: Place) -> None:
    for suffix, compress in COMPRESS.items():
        readable_pyramid.put(f"file{suffix[1:]}{suffix}", compress(BODY))
    accessor = readable_pyramid.accessor()
    assert {type(accessor.fetch_file(f"file{suffix[1:]}")) for suffix in COMPRESS} == {bytes}


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("options", "expected", "compressed"),
    [
        ({}, FLAT, True),
        ({"gzip": False}, FLAT, False),
        ({"gzip": None}, FLAT, None),
        ({"flat": False}, SUBDIRECTORY, True),
        ({"flat": False, "gzip": False}, SUBDIRECTORY, False),
    ],
    ids=str,
)
def test_a_chunk_is_stored_as_the_options_say(
    pyramid: Place, options: dict[str, Any], expected: str, compressed: bool | None
) -> None:
    compressed = pyramid.keeps_headers if compressed is None else compressed
    pyramid.accessor(**options).store_chunk(BODY, KEY, COORDS)
    name = expected + (".gz" if compressed and not pyramid.keeps_headers else "")
    assert pyramid.names() == [name]
    stored = pyramid.get(name)
    assert (gzip.decompress(stored) if compressed else stored) == BODY
    if pyramid.keeps_headers:
        assert pyramid.fields(name)["ContentEncoding"] == ("gzip" if compressed else None)


def test_json_jpeg_and_png_are_stored_as_they_are(pyramid: Place) -> None:
    accessor = pyramid.accessor()
    for kind in ("application/json", "image/jpeg", "image/png"):
        accessor.store_file(kind, BODY, mime_type=kind)
        accessor.store_chunk(BODY, f"scale/{kind}", COORDS, mime_type=kind)
    assert len(pyramid.names()) == 6
    assert pyramid.contents() == dict.fromkeys(pyramid.names(), BODY)
    assert not any(name.endswith(".gz") for name in pyramid.names())
    assert {pyramid.fields(name).get("ContentEncoding") for name in pyramid.names()} == {None}


@pytest.mark.parametrize("protocol", ["s3", "gcs", "azure"])
def test_the_content_type_is_stored(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    accessor = pyramid.accessor()
    for kind in ("application/octet-stream", "application/json", "image/jpeg"):
        for overwrite in (True, False):
            accessor.store_file(f"{kind}/{overwrite}", BODY, mime_type=kind, overwrite=overwrite)
            accessor.store_chunk(BODY, f"{kind}/{overwrite}/scale", COORDS, mime_type=kind, overwrite=overwrite)
    names = pyramid.names()
    assert len(names) == 12
    assert [pyramid.fields(name)["ContentType"] for name in names] == ["/".join(n.split("/")[:2]) for n in names]


def test_the_same_bytes_are_stored_as_the_same_bytes(pyramid: Place) -> None:
    for name in ("one", "two"):
        pyramid.accessor().store_file(name, BODY)
    one, two = pyramid.contents().values()
    assert one == two
    assert one[4:8] == bytes(4), "gzip's modification time"


def test_the_level_of_compression_is_used(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("memory")
    for level in (0, 9):
        pyramid.accessor(compresslevel=level).store_file(str(level), BODY)
    sizes = {name: len(body) for name, body in pyramid.contents().items()}
    assert sizes["9.gz"] < len(BODY) < sizes["0.gz"]


KEYS = ["1e+06_1e+06_1e+06", "a b", "grün/µm", "50%", "a%20b", "[a]*", "a;b=c,d", "~'(!)$&@:", "x#y", "x?y"]


def test_keys_are_stored_as_they_are_spelt(each_pyramid: Place) -> None:
    accessor = each_pyramid.accessor(gzip=False)
    for key in KEYS:
        accessor.store_chunk(BODY, key, COORDS)
        accessor.store_file(f"{key}/file", BODY)
    assert each_pyramid.names() == sorted(name for key in KEYS for name in (chunk_name(key, flat=True), f"{key}/file"))


def test_keys_are_asked_for_as_they_are_spelt(each_readable_pyramid: Place) -> None:
    for key in KEYS:
        each_readable_pyramid.put(chunk_name(key, flat=True), key.encode())
        each_readable_pyramid.put(f"{key}/file", key.encode())
    accessor = each_readable_pyramid.accessor()
    assert [accessor.fetch_chunk(key, COORDS).decode() for key in KEYS] == KEYS
    assert [accessor.fetch_file(f"{key}/file").decode() for key in KEYS] == KEYS
    assert all(accessor.file_exists(f"{key}/file") for key in KEYS)


def test_a_dot_in_a_path_means_nothing(pyramid: Place) -> None:
    accessor = pyramid.accessor(gzip=False)
    accessor.store_file("./mesh/./1:0", BODY)
    assert pyramid.names() == ["mesh/1:0"]
    assert accessor.fetch_file("mesh/./1:0") == BODY


def test_numpy_integers_are_coordinates(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("memory")
    pyramid.accessor(gzip=False).store_chunk(BODY, KEY, tuple(np.array(COORDS)))
    assert pyramid.names() == [FLAT]


# ------------------------------------------------------------------------------------------------------------ finding


@pytest.mark.parametrize("flat", [True, False])
def test_a_chunk_is_found_under_each_of_its_names(readable_pyramid: Place, flat: bool) -> None:
    for suffix, compress in COMPRESS.items():
        readable_pyramid.put(chunk_name(f"scale{suffix}", flat, suffix), compress(suffix.encode() + BODY))
    accessor = readable_pyramid.accessor()
    for suffix in COMPRESS:
        assert accessor.fetch_chunk(f"scale{suffix}", COORDS) == suffix.encode() + BODY, suffix


def test_a_file_is_found_under_each_of_its_names(readable_pyramid: Place) -> None:
    for suffix, compress in COMPRESS.items():
        readable_pyramid.put(f"dir/file-{suffix[1:]}{suffix}", compress(suffix.encode() + BODY))
    accessor = readable_pyramid.accessor()
    for suffix in COMPRESS:
        name = f"dir/file-{suffix[1:]}"
        assert accessor.file_exists(name), suffix
        assert accessor.fetch_file(name) == suffix.encode() + BODY, suffix


HEADERS = {"gzip": ".gz", "br": ".br", "zstd": ".zstd", "": ""}


@pytest.mark.parametrize("protocol", ["s3", "gcs", "azure"])
@pytest.mark.parametrize("encoding", HEADERS)
def test_a_content_encoding_is_undone(make_pyramid: Callable[[str], Place], protocol: str, encoding: str) -> None:
    pyramid = make_pyramid(protocol)
    pyramid.put(FLAT, COMPRESS[HEADERS[encoding]](BODY), content_encoding=encoding or None)
    pyramid.put("file", COMPRESS[HEADERS[encoding]](BODY), content_encoding=encoding or None)
    accessor = pyramid.accessor()
    assert accessor.fetch_chunk(KEY, COORDS) == BODY
    assert accessor.fetch_file("file") == BODY


def test_gzip_without_header_or_suffix_is_undone(each_readable_pyramid: Place) -> None:
    each_readable_pyramid.put(FLAT, gzip.compress(BODY))
    each_readable_pyramid.put("info", gzip.compress(b"{}"))
    accessor = each_readable_pyramid.accessor()
    assert accessor.fetch_chunk(KEY, COORDS) == BODY
    assert accessor.fetch_file("info") == b"{}"


def test_a_raw_chunk_that_is_gzip_by_chance_is_known_by_its_length(readable_pyramid: Place) -> None:
    voxels = gzip.compress(b"by chance", mtime=0)
    scale = {"key": KEY, "encoding": "raw", "size": [64, 1, 1], "chunk_sizes": [[64, 1, 1]], "resolution": [8, 8, 40]}
    info = {"type": "image", "data_type": "uint8", "num_channels": 1, "scales": [scale]}
    readable_pyramid.put("info", json.dumps(info).encode())
    readable_pyramid.put(f"{KEY}/0-{len(voxels)}_0-1_0-1", voxels)
    readable_pyramid.put(f"{KEY}/0-9_0-1_0-1", voxels)
    accessor = readable_pyramid.accessor()
    assert accessor.fetch_chunk(KEY, (0, len(voxels), 0, 1, 0, 1)) == voxels
    assert accessor.fetch_chunk(KEY, (0, 9, 0, 1, 0, 1)) == b"by chance"


def test_bytes_that_only_begin_like_gzip_are_not_gzip(readable_pyramid: Place) -> None:
    body = gzip.compress(BODY)[:-1] + b"\1"  # its length is not what gzip's end says
    readable_pyramid.put(FLAT, body)
    assert readable_pyramid.accessor().fetch_chunk(KEY, COORDS) == body


def test_what_is_absent_is_not_found(each_readable_pyramid: Place) -> None:
    each_readable_pyramid.put("mesh/1:0", BODY)
    accessor = each_readable_pyramid.accessor()
    assert accessor.file_exists("mesh/2:0") is False
    assert accessor.file_exists("mesh/1") is False
    with pytest.raises(NotFoundError):
        accessor.fetch_file("mesh/2:0")
    with pytest.raises(NotFoundError):
        accessor.fetch_chunk("mesh", COORDS)


def test_not_found_names_the_url_and_is_what_callers_catch(readable_pyramid: Place) -> None:
    readable_pyramid.put("info", b"{}")
    shown = re.sub("//[^/]*@", "//", readable_pyramid.url)  # without the user
    shown = shown.replace("brain::", "brain/{}::") if readable_pyramid.protocol == "zip" else shown + "/{}"
    accessor = readable_pyramid.accessor()
    with pytest.raises(NotFoundError, match=re.escape(shown.format("missing"))) as file:
        accessor.fetch_file("missing")
    with pytest.raises(NotFoundError, match=re.escape(shown.format(FLAT))) as chunk:
        accessor.fetch_chunk(KEY, COORDS)
    for caught in (file, chunk):
        assert isinstance(caught.value, DataAccessError)
        assert isinstance(caught.value, FileNotFoundError)


def test_a_directory_is_not_a_file(each_readable_pyramid: Place) -> None:
    each_readable_pyramid.put("mesh/1:0", BODY)
    accessor = each_readable_pyramid.accessor()
    if each_readable_pyramid.protocol == "nginx":  # forbids looking at directories, and so does not say what is there
        with pytest.raises(AccessDeniedError):
            accessor.fetch_file("mesh")
    else:
        assert accessor.file_exists("mesh") is False
        with pytest.raises(NotFoundError):
            accessor.fetch_file("mesh")


def test_a_name_with_a_suffix_names_the_compressed_bytes(readable_pyramid: Place) -> None:
    packed = {f"file{suffix}": compress(BODY) for suffix, compress in COMPRESS.items() if suffix}
    for name, body in packed.items():
        readable_pyramid.put(name, body)
    accessor = readable_pyramid.accessor()
    assert {name: accessor.fetch_file(name) for name in packed} == packed
    assert all(accessor.file_exists(name) for name in packed)
    assert not accessor.file_exists("file.gz.gz")


# ------------------------------------------------------------------------------------------------- what is too large

SMALL = (0, 8, 0, 8, 0, 8)
SMALL_NAME = f"{KEY}/0-8_0-8_0-8"
SMALL_LIMIT = 8**3 + ROOM
INFO = json.dumps({"data_type": "uint8", "num_channels": 1, "scales": [{"key": KEY, "encoding": "raw"}]}).encode()


def test_as_much_as_there_can_be_is_read(each_readable_pyramid: Place) -> None:
    info = INFO.ljust(MAX_INFO_BYTES)
    each_readable_pyramid.put("info", info)
    each_readable_pyramid.put("mesh/1", bytes(1000))
    each_readable_pyramid.put(SMALL_NAME, bytes(SMALL_LIMIT))
    accessor = each_readable_pyramid.accessor(max_file_bytes=1000)
    assert accessor.fetch_file("info") == info
    assert accessor.fetch_file("mesh/1") == bytes(1000)
    assert accessor.fetch_chunk(KEY, SMALL) == bytes(SMALL_LIMIT)


@pytest.mark.parametrize("more", [1, 1 << 20])
def test_more_than_there_can_be_is_corrupt(each_readable_pyramid: Place, more: int) -> None:
    each_readable_pyramid.put("info", INFO)
    each_readable_pyramid.put("mesh/1", bytes(1000 + more))
    each_readable_pyramid.put(SMALL_NAME, bytes(SMALL_LIMIT + more))
    accessor = each_readable_pyramid.accessor(max_file_bytes=1000)
    with pytest.raises(CorruptDataError, match=r"mesh/1:.* more than .*; the option max_file_bytes allows more"):
        accessor.fetch_file("mesh/1")
    assert each_readable_pyramid.accessor(max_file_bytes=1000 + more).fetch_file("mesh/1") == bytes(1000 + more)
    for fetch in (accessor.fetch_chunk, lambda key, coords: dict(accessor.fetch_chunks(key, [coords]))):
        with pytest.raises(CorruptDataError, match=r"0-8:.* more than .*; no raw chunk of 8 x 8 x 8 voxels has more"):
            fetch(KEY, SMALL)


@pytest.mark.parametrize("more", [1, 1 << 20])
def test_an_info_of_more_than_it_can_have_is_corrupt(readable_pyramid: Place, more: int) -> None:
    readable_pyramid.put("info", INFO.ljust(MAX_INFO_BYTES + more))
    readable_pyramid.put(SMALL_NAME, BODY)
    accessor = readable_pyramid.accessor()
    reads = (
        accessor.pyramid.fetch_info,
        lambda: accessor.fetch_file("info"),
        lambda: accessor.fetch_chunk(KEY, SMALL),
    )
    for read in reads:
        with pytest.raises(CorruptDataError, match=r"info:.* more than .*; the option max_info_bytes allows more"):
            read()
    raised = readable_pyramid.accessor(max_info_bytes=MAX_INFO_BYTES + more)
    assert raised.pyramid.fetch_info() == json.loads(INFO)
    assert raised.fetch_chunk(KEY, SMALL) == BODY


def test_without_info_a_chunk_may_be_as_large_as_a_file(readable_pyramid: Place) -> None:
    readable_pyramid.put(SMALL_NAME, bytes(SMALL_LIMIT + 1))
    limit = SMALL_LIMIT + 1
    assert readable_pyramid.accessor(max_file_bytes=limit).fetch_chunk(KEY, SMALL) == bytes(limit)
    with pytest.raises(CorruptDataError, match="max_file_bytes"):
        readable_pyramid.accessor(max_file_bytes=SMALL_LIMIT).fetch_chunk(KEY, SMALL)


@pytest.mark.parametrize("suffix", COMPRESS)
def test_what_decodes_to_more_than_there_can_be_is_corrupt(tmp_path: Path, suffix: str) -> None:
    (tmp_path / "mesh").mkdir()
    (tmp_path / KEY).mkdir()
    (tmp_path / "info").write_bytes(INFO)
    for name, size in (("mesh/1", 1000), ("mesh/2", 1001), (f"{KEY}/0-8_0-8_0-8", SMALL_LIMIT)):
        (tmp_path / f"{name}{suffix}").write_bytes(COMPRESS[suffix](bytes(size)))
    (tmp_path / f"{KEY}/8-16_0-8_0-8{suffix}").write_bytes(COMPRESS[suffix](bytes(SMALL_LIMIT + 1)))
    accessor = FsspecAccessor(tmp_path, max_file_bytes=1000)
    assert (accessor.fetch_file("mesh/1"), accessor.fetch_chunk(KEY, SMALL)) == (bytes(1000), bytes(SMALL_LIMIT))
    with pytest.raises(CorruptDataError, match="max_file_bytes"):
        accessor.fetch_file("mesh/2")
    with pytest.raises(CorruptDataError, match="no raw chunk"):
        accessor.fetch_chunk(KEY, (8, 16, 0, 8, 0, 8))


@pytest.mark.parametrize("codings", [["gzip"], ["br"], ["zstd"], ["gzip", "br"], ["br", "gzip"], ["gzip"] * 3])
def test_what_codings_make_more_of_than_there_can_be_is_corrupt(
    make_pyramid: Callable[[str], Place], codings: list[str]
) -> None:
    pyramid = make_pyramid("s3")
    pyramid.put("info", INFO)
    suffixes = {"gzip": ".gz", "br": ".br", "zstd": ".zstd"}
    for x, size in ((0, SMALL_LIMIT), (8, SMALL_LIMIT + 1)):
        body = random.Random(0).randbytes(size)
        for coding in codings:
            body = COMPRESS[suffixes[coding]](body)
        pyramid.put(f"{KEY}/{x}-{x + 8}_0-8_0-8", body, ", ".join(codings))
    accessor = pyramid.accessor()
    assert len(accessor.fetch_chunk(KEY, SMALL)) == SMALL_LIMIT
    with pytest.raises(CorruptDataError, match="no raw chunk"):
        accessor.fetch_chunk(KEY, (8, 16, 0, 8, 0, 8))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_of_an_archive_is_read_however_it_is_compressed(tmp_path: Path, method: int) -> None:
    body = random.Random(0).randbytes(1000) + bytes(1000)
    with zipfile.ZipFile(tmp_path / "brain.zip", "w", method) as archive:
        archive.writestr("mesh/1", body)
        archive.writestr("empty", b"")
    with FsspecAccessor(f"zip://::{tmp_path}/brain.zip", max_file_bytes=2000) as accessor:
        assert accessor.fetch_file("mesh/1") == body
        assert accessor.fetch_file("empty") == b""
        assert accessor.pyramid.fetch_range("mesh/1", 990, 1010) == body[990:1010]
    with FsspecAccessor(f"zip://::{tmp_path}/brain.zip", max_file_bytes=1999) as accessor:
        with pytest.raises(CorruptDataError, match="max_file_bytes"):
            accessor.fetch_file("mesh/1")
        with pytest.raises(NotFoundError):
            accessor.fetch_file("mesh/2")
    packed = (tmp_path / "brain.zip").read_bytes()
    start = packed.index(b"mesh/1") + 50
    (tmp_path / "brain.zip").write_bytes(packed[:start] + bytes(9) + packed[start + 9 :])
    with FsspecAccessor(f"zip://::{tmp_path}/brain.zip") as accessor, pytest.raises(CorruptDataError):
        accessor.fetch_file("mesh/1")


@pytest.mark.parametrize("options", [{"max_info_bytes": 0}, {"max_file_bytes": 0}])
def test_a_limit_of_nothing_is_an_error(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected max_info_bytes >= 1"):
        FsspecAccessor("memory://lab", **options)


# ------------------------------------------------------------------------------------------------------ storing, twins


def test_a_file_named_with_a_suffix_is_stored_as_it_is(pyramid: Place) -> None:
    accessor, packed = pyramid.accessor(), gzip.compress(BODY)
    accessor.store_file("notes.gz", packed)
    assert pyramid.contents() == {"notes.gz": packed}
    assert accessor.fetch_file("notes.gz") == packed
    assert accessor.fetch_file("notes") == BODY
    with pytest.raises(AlreadyExistsError):
        accessor.store_file("notes", BODY)


def test_without_overwrite_any_twin_of_a_chunk_is_in_the_way(each_pyramid: Place) -> None:
    keys = {f"scale{number}": variant for number, variant in enumerate(VARIANTS)}
    for key, variant in keys.items():
        each_pyramid.put(chunk_name(key, *variant), COMPRESS[variant[1]](OTHER_BODY))
    before = each_pyramid.contents()
    accessor = each_pyramid.accessor()
    for key in keys:
        with pytest.raises(AlreadyExistsError, match=f"{key}/0-64"):
            accessor.store_chunk(BODY, key, COORDS)
        with pytest.raises(AlreadyExistsError, match=f"{key}/0-64"):
            accessor.store_chunk(BODY, key, COORDS, mime_type="image/jpeg")  # under another name, without suffix
    assert each_pyramid.contents() == before
    assert {accessor.fetch_chunk(key, COORDS) for key in keys} == {OTHER_BODY}


@pytest.mark.parametrize(
    ("protocol", "flat", "compress"),
    [("local", True, True), ("local", True, False), ("local", False, True), ("s3", True, True), ("s3", False, False)],
)
def test_overwriting_leaves_one_of_a_chunks_twins(
    make_pyramid: Callable[[str], Place], protocol: str, flat: bool, compress: bool
) -> None:
    pyramid = make_pyramid(protocol)
    keys = {f"scale{number:02}": variant for number, variant in enumerate(VARIANTS)}
    for key, variant in keys.items():
        pyramid.put(chunk_name(key, *variant), COMPRESS[variant[1]](OTHER_BODY))
    accessor = pyramid.accessor(flat=flat, gzip=compress)
    for key in keys:
        accessor.store_chunk(BODY, key, COORDS, overwrite=True)
    suffix = ".gz" if compress and not pyramid.keeps_headers else ""
    assert pyramid.names() == [chunk_name(key, flat, suffix) for key in keys]
    for reader in (accessor, pyramid.accessor()):
        assert {reader.fetch_chunk(key, COORDS) for key in keys} == {BODY}


def test_overwriting_leaves_one_of_each_chunks_twins_in_a_mixed_scale(pyramid: Place) -> None:
    chunks = {(64 * i, 64 * i + 64, 0, 64, 0, 64): variant for i, variant in enumerate(VARIANTS)}
    for (low, high, *_), (flat, suffix) in chunks.items():
        separator = "_" if flat else "/"
        pyramid.put(f"{KEY}/{separator.join((f'{low}-{high}', '0-64', '0-64'))}{suffix}", COMPRESS[suffix](OTHER_BODY))
    accessor = pyramid.accessor()
    for coords in chunks:
        accessor.store_chunk(BODY, KEY, coords, overwrite=True)
    suffix = "" if pyramid.keeps_headers else ".gz"
    assert pyramid.names() == sorted(f"{KEY}/{low}-{high}_0-64_0-64{suffix}" for low, high, *_ in chunks)
    reader = pyramid.accessor()
    assert {reader.fetch_chunk(KEY, coords) for coords in chunks} == {BODY}


def test_without_overwrite_any_twin_of_a_file_is_in_the_way(pyramid: Place) -> None:
    names = {f"dir/file{number}": suffix for number, suffix in enumerate(COMPRESS)}
    for name, suffix in names.items():
        pyramid.put(name + suffix, COMPRESS[suffix](OTHER_BODY))
    before = pyramid.contents()
    accessor = pyramid.accessor()
    for name in names:
        with pytest.raises(AlreadyExistsError, match=name):
            accessor.store_file(name, BODY)
        with pytest.raises(AlreadyExistsError, match=name):
            accessor.store_file(name, BODY, mime_type="image/jpeg")  # under another name, without suffix
    assert pyramid.contents() == before


@pytest.mark.parametrize("compress", [True, False])
def test_overwriting_leaves_one_of_a_files_twins(each_pyramid: Place, compress: bool) -> None:
    names = {f"dir/file{number}": suffix for number, suffix in enumerate(COMPRESS)}
    for name, suffix in names.items():
        each_pyramid.put(name + suffix, COMPRESS[suffix](OTHER_BODY))
    accessor = each_pyramid.accessor(gzip=compress)
    for name in names:
        accessor.store_file(name, BODY, overwrite=True)
    suffix = ".gz" if compress and not each_pyramid.keeps_headers else ""
    assert each_pyramid.names() == [name + suffix for name in names]
    reader = each_pyramid.accessor()
    assert {reader.fetch_file(name) for name in names} == {BODY}


def test_all_of_a_files_twins_go_at_once(pyramid: Place) -> None:
    for suffix, compress in COMPRESS.items():
        pyramid.put(f"file{suffix}", compress(OTHER_BODY))
    pyramid.put("file.txt", OTHER_BODY)
    pyramid.put("file2", OTHER_BODY)
    pyramid.accessor(gzip=False).store_file("file", BODY, overwrite=True)
    assert pyramid.contents() == {"file": BODY, "file.txt": OTHER_BODY, "file2": OTHER_BODY}


def test_overwriting_json_by_what_is_compressed_and_back(pyramid: Place) -> None:
    accessor = pyramid.accessor()
    for body, mime_type in [
        (b"[1]", "application/json"),
        (BODY, "application/octet-stream"),
        (b"[2]", "application/json"),
    ]:
        accessor.store_file("file", body, mime_type=mime_type, overwrite=True)
        accessor.store_chunk(body, KEY, COORDS, mime_type=mime_type, overwrite=True)
        assert len(pyramid.names()) == 2
        assert accessor.fetch_file("file") == accessor.fetch_chunk(KEY, COORDS) == body


def test_storing_twice_is_refused_unless_told_through_every_door(each_pyramid: Place) -> None:
    accessor = each_pyramid.accessor()
    for i, call in enumerate(DOORS):
        key, name = f"scale{i}", f"file{i}"
        call("store_chunk", accessor, BODY, key, COORDS)
        call("store_file", accessor, name, BODY)
        with pytest.raises(AlreadyExistsError) as chunk:
            call("store_chunk", accessor, OTHER_BODY, key, COORDS)
        with pytest.raises(AlreadyExistsError) as file:
            call("store_file", accessor, name, OTHER_BODY)
        assert isinstance(chunk.value, FileExistsError)
        assert isinstance(file.value, FileExistsError)
        assert accessor.fetch_chunk(key, COORDS) == accessor.fetch_file(name) == BODY
        call("store_chunk", accessor, OTHER_BODY, key, COORDS, overwrite=True)
        call("store_file", accessor, name, OTHER_BODY, overwrite=True)
        assert accessor.fetch_chunk(key, COORDS) == accessor.fetch_file(name) == OTHER_BODY


def test_the_new_object_is_in_place_before_an_old_twin_goes(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("s3")
    pyramid.put(f"{FLAT}.gz", gzip.compress(OTHER_BODY))
    pyramid.put("file.br", COMPRESS[".br"](OTHER_BODY))
    accessor = pyramid.accessor()
    pyramid.server.log.clear()
    accessor.store_chunk(BODY, KEY, COORDS, overwrite=True)
    accessor.store_file("file", BODY, overwrite=True)
    changes = [f"{entry.method} {entry.path.partition('/brain/')[2]}" for entry in pyramid.server.log.entries()]
    assert changes.index(f"PUT {FLAT}") < changes.index(f"DELETE {FLAT}.gz")
    assert changes.index("PUT file") < changes.index("DELETE file.br")


@pytest.mark.parametrize("protocol", ["local", "sftp"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_is_not_stored_in_the_place_of_a_directory(
    make_pyramid: Callable[[str], Place], protocol: str, overwrite: bool
) -> None:
    pyramid = make_pyramid(protocol)
    pyramid.put("mesh/1:0", BODY)
    with pytest.raises(DataAccessError, match="mesh") as caught:
        pyramid.accessor(gzip=False).store_file("mesh", OTHER_BODY, overwrite=overwrite)
    assert not isinstance(caught.value, NotFoundError)
    assert pyramid.contents() == {"mesh/1:0": BODY}


@pytest.mark.parametrize("protocol", ["local", "sftp"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_is_not_stored_below_a_file(
    make_pyramid: Callable[[str], Place], protocol: str, overwrite: bool
) -> None:
    pyramid = make_pyramid(protocol)
    pyramid.put("mesh", BODY)
    with pytest.raises(DataAccessError, match="mesh/1:0") as caught:
        pyramid.accessor(gzip=False).store_file("mesh/1:0", OTHER_BODY, overwrite=overwrite)
    assert not isinstance(caught.value, (NotFoundError, AlreadyExistsError))
    assert pyramid.contents() == {"mesh": BODY}


# ------------------------------------------------------------------------------------------------------ other clients


def test_what_another_client_does_is_seen_by_the_next_answer(each_pyramid: Place) -> None:
    accessor = each_pyramid.accessor(gzip=False)
    assert accessor.file_exists("file") is False
    each_pyramid.put("file", BODY)
    assert accessor.file_exists("file") is True
    assert accessor.fetch_file("file") == BODY
    with pytest.raises(AlreadyExistsError):
        accessor.store_file("file", OTHER_BODY)
    each_pyramid.put("file", OTHER_BODY)
    assert accessor.fetch_file("file") == OTHER_BODY
    each_pyramid.delete("file")
    assert accessor.file_exists("file") is False
    with pytest.raises(NotFoundError):
        accessor.fetch_file("file")
    accessor.store_file("file", BODY)
    assert each_pyramid.contents() == {"file": BODY}


def test_what_another_client_does_to_a_chunk_is_seen_by_the_next_answer(pyramid: Place) -> None:
    accessor = pyramid.accessor(gzip=False)
    accessor.store_chunk(BODY, KEY, COORDS)
    pyramid.delete(FLAT)
    with pytest.raises(NotFoundError):
        accessor.fetch_chunk(KEY, COORDS)
    pyramid.put(FLAT, OTHER_BODY)
    assert accessor.fetch_chunk(KEY, COORDS) == OTHER_BODY
    with pytest.raises(AlreadyExistsError):
        accessor.store_chunk(BODY, KEY, COORDS)
    pyramid.delete(FLAT)
    accessor.store_chunk(BODY, KEY, COORDS)
    assert pyramid.contents() == {FLAT: BODY}


def test_a_twin_that_another_client_puts_beside_a_file_is_seen(pyramid: Place) -> None:
    accessor = pyramid.accessor(gzip=False)
    accessor.store_file("file", BODY)
    pyramid.delete("file")
    pyramid.put("file.zstd", COMPRESS[".zstd"](OTHER_BODY))
    assert accessor.file_exists("file")
    assert accessor.fetch_file("file") == OTHER_BODY
    with pytest.raises(AlreadyExistsError):
        accessor.store_file("file", BODY)
    accessor.store_file("file", BODY, overwrite=True)
    assert pyramid.contents() == {"file": BODY}


@pytest.mark.parametrize("protocol", ["http", "nginx"])
def test_what_changes_on_a_web_server_is_seen_by_the_next_answer(
    make_pyramid: Callable[[str], Place], protocol: str
) -> None:
    pyramid = make_pyramid(protocol)
    accessor = pyramid.accessor()
    assert accessor.file_exists("file") is False
    for body in (BODY, OTHER_BODY):
        pyramid.put("file", body)
        assert accessor.file_exists("file") is True
        assert accessor.fetch_file("file") == body
    pyramid.delete("file")
    assert accessor.file_exists("file") is False
    with pytest.raises(NotFoundError):
        accessor.fetch_file("file")


@pytest.mark.parametrize("protocol", ["simplecache", "filecache", "blockcache"])
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # blockcache, see conftest.py
def test_a_cache_does_not_keep_that_something_was_absent(make_pyramid: Callable[[str], Place], protocol: str) -> None:
    pyramid = make_pyramid(protocol)
    accessor = pyramid.accessor()
    assert accessor.file_exists("file") is False
    with pytest.raises(NotFoundError):
        accessor.fetch_file("file")
    pyramid.put("file", BODY)
    assert accessor.file_exists("file") is True
    assert accessor.fetch_file("file") == BODY


# ---------------------------------------------------------------------------------------------------------- read only


def test_can_read_and_can_write_tell_what_the_protocol_can(each_readable_pyramid: Place) -> None:
    accessor = each_readable_pyramid.accessor()
    assert (accessor.can_read, accessor.can_write) == (True, each_readable_pyramid.protocol in WRITABLE)


@each_door
@pytest.mark.parametrize("protocol", READ_ONLY)
def test_a_write_to_a_read_only_protocol_is_refused_before_anything_is_sent(
    make_pyramid: Callable[[str], Place], protocol: str, call: Callable[..., Any]
) -> None:
    pyramid = make_pyramid(protocol)
    pyramid.put("info", b"{}")
    before = pyramid.server.log.count() if pyramid.server else 0
    accessor = pyramid.accessor()
    for verb, args in [("store_file", ("file", BODY)), ("store_chunk", (BODY, KEY, COORDS))]:
        for overwrite in (True, False):
            with pytest.raises(DataAccessError, match="read-only") as caught:
                call(verb, accessor, *args, overwrite=overwrite)
            assert isinstance(caught.value, NotImplementedError)
    assert (pyramid.server.log.count() if pyramid.server else 0) == before
    assert pyramid.contents() == {"info": b"{}"}


# ----------------------------------------------------------------------------------------------------------- archives


@pytest.mark.parametrize("nested", [True, False])
def test_an_archive_is_complete_once_it_is_closed(tmp_path: Path, nested: bool) -> None:
    archive, options = tmp_path / "brain.zip", {"mode": "w"}
    with FsspecAccessor(f"zip://brain::{archive}", storage_options={"zip": options} if nested else options) as writer:
        assert (writer.can_read, writer.can_write) == (False, True)
        writer.store_file("info", b"{}", mime_type="application/json")
        writer.store_chunk(BODY, KEY, COORDS)
    with zipfile.ZipFile(archive) as file:
        assert sorted(file.namelist()) == [f"brain/{FLAT}.gz", "brain/info"]
        assert file.testzip() is None
    with FsspecAccessor(f"zip://brain::{archive}") as reader:
        assert reader.fetch_file("info") == b"{}"
        assert reader.fetch_chunk(KEY, COORDS) == BODY


def test_an_archive_at_its_root_is_a_pyramid(tmp_path: Path) -> None:
    archive = tmp_path / "brain.zip"
    with FsspecAccessor(f"zip://::{archive}", storage_options={"mode": "w"}) as writer:
        writer.store_file("info", b"{}", mime_type="application/json")
    with FsspecAccessor(f"zip://::{archive}") as reader:
        assert reader.fetch_file("info") == b"{}"


def test_an_archive_that_is_written_is_not_read(tmp_path: Path) -> None:
    with FsspecAccessor(f"zip://::{tmp_path / 'brain.zip'}", storage_options={"mode": "w"}) as writer:
        writer.store_file("info", b"{}")
        for read in (writer.fetch_file, writer.file_exists, lambda name: writer.fetch_chunk(name, COORDS)):
            with pytest.raises(DataAccessError, match="open for writing") as caught:
                read("info")
            assert isinstance(caught.value, NotImplementedError)


@pytest.mark.parametrize("mode", ["w", "a"])
def test_nothing_in_an_archive_is_replaced(tmp_path: Path, mode: str) -> None:
    archive = tmp_path / "brain.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("old.bz2", bz2.compress(BODY))
    with FsspecAccessor(f"zip://::{archive}", storage_options={"mode": mode}) as writer:
        writer.store_file("new", BODY)
        for name in ["new", "old"] if mode == "a" else ["new"]:
            with pytest.raises(AlreadyExistsError, match=name):
                writer.store_file(name, OTHER_BODY)
            with pytest.raises(DataAccessError, match="cannot replace"):
                writer.store_file(name, OTHER_BODY, overwrite=True)
    with zipfile.ZipFile(archive) as file:
        assert sorted(file.namelist()) == (["new.gz", "old.bz2"] if mode == "a" else ["new.gz"])
        assert gzip.decompress(file.read("new.gz")) == BODY


# ----------------------------------------------------------------------------------------------------------- refusals

LEAVING = [
    "..",
    "../info",
    "a/../info",
    "a/../../info",
    "a/..",
    "./..",
    "%2e%2e/info",
    "%2E./info",
    "a/%2e%2e%2f%2e%2e/info",
    "..%2finfo",
    "..\\info",
    "a\\..\\..\\info",
    "%5c..%5cinfo",
    "/info",
    "/",
    "//host/info",
    "a//info",
    "a/",
    "http://host/info",
    "",
    ".",
    "a\0b",
    "a%00b",
]
VERBS: dict[str, Callable[[str], tuple[Any, ...]]] = {
    "file_exists": lambda path: (path,),
    "fetch_file": lambda path: (path,),
    "store_file": lambda path: (path, BODY),
    "fetch_chunk": lambda path: (path, COORDS),
    "store_chunk": lambda path: (BODY, path, COORDS),
}


@each_door
@pytest.mark.parametrize("verb", VERBS)
def test_a_path_that_leaves_the_pyramid_is_refused_before_anything_is_sent(
    make_pyramid: Callable[[str], Place], verb: str, call: Callable[..., Any]
) -> None:
    pyramid = make_pyramid("s3")
    pyramid.server.log.clear()
    accessor = pyramid.accessor()
    for path in LEAVING:
        with pytest.raises(ValueError, match="pyramid") as caught:
            call(verb, accessor, *VERBS[verb](path))
        assert not isinstance(caught.value, DataAccessError), path
    assert pyramid.server.log.entries() == []


@pytest.mark.parametrize("path", LEAVING)
def test_nothing_beside_the_pyramid_is_read_or_written(
    make_pyramid: Callable[[str], Place], tmp_path: Path, path: str
) -> None:
    each_pyramid = make_pyramid("local")
    each_pyramid.put("a/b", BODY)
    before = sorted(tmp_path.rglob("*"))
    accessor = each_pyramid.accessor()
    with pytest.raises(ValueError, match="pyramid"):
        accessor.store_file(path, BODY, overwrite=True)
    with pytest.raises(ValueError, match="pyramid"):
        accessor.fetch_file(path)
    assert sorted(tmp_path.rglob("*")) == before


@each_door
@pytest.mark.parametrize(
    "coords",
    [
        (0, 64, 0, 64, 0),
        (0, 64, 0, 64, 0, 64, 0, 1),
        (0, 64, 0, 64, 64, 0),
        (0, 64, 0, 0, 0, 64),
        (0.0, 64, 0, 64, 0, 64),
    ],
    ids=str,
)
def test_coordinates_that_are_no_box_are_refused(
    make_pyramid: Callable[[str], Place], coords: Any, call: Callable[..., Any]
) -> None:
    pyramid = make_pyramid("memory")
    accessor = pyramid.accessor()
    with pytest.raises(ValueError, match="chunk_coords"):
        call("fetch_chunk", accessor, KEY, coords)
    with pytest.raises(ValueError, match="chunk_coords"):
        call("store_chunk", accessor, BODY, KEY, coords)
    assert pyramid.names() == []


@each_door
@pytest.mark.parametrize("mime_type", ["text/plain\r\nX-Evil: 1", "text/plain\n", "\0", "text/\x7f", "grün/µm"])
def test_a_mime_type_with_control_characters_is_refused_before_anything_is_sent(
    make_pyramid: Callable[[str], Place], mime_type: str, call: Callable[..., Any]
) -> None:
    pyramid = make_pyramid("s3")
    pyramid.server.log.clear()
    accessor = pyramid.accessor()
    with pytest.raises(ValueError, match="mime_type"):
        call("store_file", accessor, "file", BODY, mime_type=mime_type)
    with pytest.raises(ValueError, match="mime_type"):
        call("store_chunk", accessor, BODY, KEY, COORDS, mime_type=mime_type)
    assert pyramid.server.log.entries() == []


@pytest.mark.parametrize(
    "options", [{"compresslevel": 10}, {"compresslevel": -1}, {"attempts": 0}, {"timeout": 0}], ids=str
)
def test_options_out_of_range_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        FsspecAccessor(tmp_path, **options)


# -------------------------------------------------------------------------------------------- other ways to an accessor

QUERY = "X-Sig=a%2Fb%3D&exp=1+2&empty="


def test_a_signed_base_url_keeps_its_query_on_each_object(
    web_server: HttpServer, make_pyramid: Callable[[str], Place]
) -> None:
    pyramid = make_pyramid("http")
    pyramid.put("info", b"{}")
    pyramid.put("1e+06/0-64_-64-0_128-189", BODY)
    web_server.log.clear()
    with FsspecAccessor(f"{pyramid.url}?{QUERY}") as accessor:
        assert accessor.fetch_file("info") == b"{}"
        assert accessor.file_exists("info")
        assert accessor.fetch_chunk("1e+06", COORDS) == BODY
    asked = web_server.log.entries()
    assert {entry.query for entry in asked} == {QUERY}
    assert {(entry.method, entry.path.split("/", 2)[2]) for entry in asked} == {
        ("GET", "info"),
        ("HEAD", "info"),
        ("GET", "1e+06/0-64_-64-0_128-189"),
    }


def test_a_signature_is_not_shown(make_pyramid: Callable[[str], Place]) -> None:
    with FsspecAccessor(f"{make_pyramid('http').url}?{QUERY}") as accessor:
        with pytest.raises(NotFoundError) as caught:
            accessor.fetch_file("info")
        assert "Sig" not in str(caught.value)
        assert "Sig" not in repr(accessor)


def test_a_filesystem_of_ones_own_is_used(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("memory")
    root = pyramid.url.removeprefix("memory:/")
    with FsspecAccessor(root, fs=MemoryFileSystem(skip_instance_cache=True), gzip=False) as accessor:
        accessor.store_chunk(BODY, KEY, COORDS)
        assert accessor.fetch_chunk(KEY, COORDS) == BODY
    assert pyramid.contents() == {FLAT: BODY}


def test_a_bucket_filesystem_of_ones_own_is_used(make_pyramid: Callable[[str], Place]) -> None:
    pyramid = make_pyramid("s3")
    fs = fsspec.filesystem("s3", **pyramid.storage_options, skip_instance_cache=True, use_listings_cache=False)
    with FsspecAccessor(pyramid.url.removeprefix("s3://"), fs=fs) as accessor:
        accessor.store_chunk(BODY, KEY, COORDS)
        assert accessor.fetch_chunk(KEY, COORDS) == BODY
        assert accessor.can_write
    assert pyramid.fields(FLAT)["ContentEncoding"] == "gzip"
    assert fs.cat_file(f"{pyramid.url}/{FLAT}") == pyramid.get(FLAT), "the filesystem is still of use"


def test_a_filesystem_below_a_folder_is_used(tmp_path: Path) -> None:
    fs = DirFileSystem(str(tmp_path), LocalFileSystem(auto_mkdir=True))
    with FsspecAccessor("brain", fs=fs, gzip=False) as accessor:
        accessor.store_chunk(BODY, KEY, COORDS)
        assert accessor.fetch_chunk(KEY, COORDS) == BODY
    assert (tmp_path / "brain" / FLAT).read_bytes() == BODY


def test_options_of_a_filesystem_do_not_go_with_a_finished_one() -> None:
    for options in ({"storage_options": {"anon": True}}, {"anon": True}):
        with pytest.raises(ValueError, match="finished filesystem"):
            FsspecAccessor("brain", fs=MemoryFileSystem(), **options)


def test_a_closed_accessor_opens_again(each_readable_pyramid: Place) -> None:
    each_readable_pyramid.put("info", b"{}")
    accessor = each_readable_pyramid.accessor()
    for _ in range(2):
        assert accessor.fetch_file("info") == b"{}"
        accessor.close()
    accessor.close()
    assert accessor.file_exists("info")


def test_what_was_stored_before_close_is_there_after_it(pyramid: Place) -> None:
    with pyramid.accessor() as accessor:
        accessor.store_file("one", BODY)
    accessor.store_file("two", BODY)
    assert accessor.fetch_file("one") == accessor.fetch_file("two") == BODY


def test_the_options_of_a_command_line_are_taken_and_others_ignored(
    make_pyramid: Callable[[str], Place],
) -> None:
    pyramid = make_pyramid("memory")
    arguments = {"flat": False, "gzip": None, "compresslevel": 1, "volume": "t1.nii.gz", "verbose": True}
    get_accessor_for_url(pyramid.url, arguments).store_chunk(BODY, KEY, COORDS)
    assert pyramid.names() == [f"{SUBDIRECTORY}.gz"]
    with pytest.raises(TypeError, match="verbose"):
        FsspecAccessor(pyramid.url, verbose=True)  # type: ignore[call-arg]


# ------------------------------------------------------------------------------ what arrays are built on


def test_info_is_fetched_parsed_and_once(pyramid: Place) -> None:
    pyramid.put("info", b'{"type": "image", "mine": [1, 2.5]}')
    accessor = pyramid.accessor()
    assert accessor.pyramid.fetch_info() == {"type": "image", "mine": [1, 2.5]}
    pyramid.delete("info")
    assert accessor.pyramid.fetch_info()["type"] == "image"


def test_an_info_that_is_not_there_is_said_so(pyramid: Place) -> None:
    with pytest.raises(NotFoundError, match="info"):
        pyramid.accessor().pyramid.fetch_info()


@pytest.mark.parametrize("text", [b"{", b"[]", b"", b"\xff"])
def test_an_info_that_is_none_names_its_url(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "info").write_bytes(text)
    with pytest.raises(InvalidInfoError, match=re.escape(f"{tmp_path}/info")):
        FsspecAccessor(tmp_path).pyramid.fetch_info()


def test_decode_gets_the_bytes_or_none_and_gives_what_is_yielded(readable_pyramid: Place) -> None:
    readable_pyramid.put(FLAT, BODY)
    absent = (64, 128, -64, 0, 128, 189)
    accessor = readable_pyramid.accessor()
    lengths = dict(accessor.fetch_chunks(KEY, [COORDS, absent], decode=lambda _, data: data and len(data)))
    assert lengths == {COORDS: len(BODY), absent: None}


def test_what_decode_finds_corrupt_names_the_chunk(readable_pyramid: Place) -> None:
    readable_pyramid.put(FLAT, BODY)

    def decode(_: tuple[int, ...], data: bytes | None) -> None:
        message = f"{len(data or b'')} bytes are too many"
        raise CorruptDataError(message)

    accessor = readable_pyramid.accessor()
    with pytest.raises(CorruptDataError, match=rf"{re.escape(FLAT)}.*: {len(BODY)} bytes are too many"):
        list(accessor.fetch_chunks(KEY, [COORDS], decode=decode))


def test_encode_makes_the_bytes_that_are_stored(pyramid: Place) -> None:
    accessor = pyramid.accessor()
    if not accessor.can_write:
        return
    other = (64, 128, -64, 0, 128, 189)
    accessor.store_chunks(KEY, [(COORDS, 1), (other, 2)], encode=lambda coords, n: b"%d:%d" % (coords[0], n))
    assert (accessor.fetch_chunk(KEY, COORDS), accessor.fetch_chunk(KEY, other)) == (b"0:1", b"64:2")


def test_a_buffer_that_is_used_again_is_stored_as_it_was(tmp_path: Path) -> None:
    buffer = bytearray(4)
    coords = [(x, x + 1, 0, 1, 0, 1) for x in range(200)]

    def chunks() -> Iterator[tuple[tuple[int, int, int, int, int, int], bytearray]]:
        for at in coords:
            buffer[:] = at[0].to_bytes(4, "big")
            yield at, buffer

    accessor = FsspecAccessor(tmp_path)
    accessor.store_chunks(KEY, chunks())
    assert {data for _, data in accessor.fetch_chunks(KEY, coords)} == {at[0].to_bytes(4, "big") for at in coords}


def test_a_key_that_leads_out_of_the_pyramid_is_followed(each_readable_pyramid: Place) -> None:
    follow(each_readable_pyramid, "../../top/8nm")


@pytest.mark.parametrize("key", ["../other/8nm", "8nm/../../other/8nm", "sub/../8nm"])
def test_however_a_key_leads_out_it_is_followed(pyramid: Place, key: str) -> None:
    follow(pyramid, key)


def follow(pyramid: Place, key: str) -> None:
    pyramid.put("a/b/info", json.dumps({"scales": [{"key": key, "encoding": "raw"}]}).encode())
    pyramid.put(posixpath.normpath(f"a/b/{key}/0-64_-64-0_128-189"), BODY)
    head, mark, behind = pyramid.url.partition("::")
    in_archive = head.startswith("zip")
    url = f"{head}/a/b::{behind}" if in_archive else f"{head}{mark}{behind}/a/b"
    accessor = FsspecAccessor(url, storage_options=pyramid.storage_options)
    other, inside = accessor.pyramid.for_scale(key)
    assert other.fetch_chunk(inside, COORDS) == BODY
    with pytest.raises(ValueError, match="not a path inside"):
        accessor.fetch_chunk(key, COORDS)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("s3://bucket/a/b", "../../../other/8nm"),
        ("https://host/a", "../../8nm"),
        ("gs://bucket/a", "../../8nm"),
        ("memory://lab/a", "../../8nm"),
        ("file:///a", "../../8nm"),
        ("s3://bucket/a/b", "../%2e%2e/8nm"),
        ("s3://bucket/a/b", ".."),
        ("s3://bucket/a/b", "../../.."),
        ("s3://bucket/a/b", "..//8nm/\0"),
    ],
)
def test_a_key_stays_in_its_bucket_or_host(url: str, key: str) -> None:
    with pytest.raises(ValueError, match=r"folders above|not .* path inside|does not name"):
        FsspecAccessor(url, anon=True if url.startswith(("s3", "gs")) else None).pyramid.for_scale(key)


def test_a_signed_url_keeps_its_query_above_it() -> None:
    location = FsspecAccessor("https://host/a/b/c?sig=secret123").pyramid.location.above(2)
    assert (location.links[0].url, location.display()) == ("https://host/a?sig=secret123", "https://host/a")
