"""The layout of shards: which shard has a chunk, what the indexes say, and which ranges are read."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import struct
import tracemalloc
import zlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from precomputed_fs.errors import CorruptDataError, InvalidInfoError
from precomputed_fs.format.shard_index import (
    PAGE_ENTRIES,
    ByteRange,
    MinishardIndex,
    Wanted,
    minishard_index_range,
    page_of,
    plan_reads,
)
from precomputed_fs.format.sharding import MAX_INDEX_BYTES, Sharding, murmurhash3_x86_128_low64, propose_sharding
from tests.support.shards import ChunkPlace, index_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

UINT64 = 2**64
LARGEST_FILE = 2**62  # an offset beyond it is no place in a file

INFO: Mapping[str, Any] = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 3,
    "hash": "identity",
    "minishard_bits": 4,
    "shard_bits": 5,
}

# ---------------------------------------------------------------------------------------------------------------- hash


@pytest.mark.parametrize(
    ("value", "expected"),
    [  # tensorstore's murmurhash3_test.cc has 0, 1 and 42; the others are by PyPI's mmh3
        (0, 0x4772B084E028AE41),
        (1, 0xE8BD67D616D4CE9A),
        (42, 0xC20B94F95119F47A),
        (2, 0xD62F9CD21B013F5A),
        (1000, 0xFC1B462DEFF0CD6F),
        (0xDEADBEEF, 0x2583AF9F1FD1E05F),
        (0x0123456789ABCDEF, 0x708036264C109D93),
        (1 << 32, 0xBBB12D133B78FD64),
    ],
)
def test_the_hash_has_its_published_values(value: int, expected: int) -> None:
    assert murmurhash3_x86_128_low64(value) == expected


@given(st.integers(0, UINT64 - 1))
def test_the_hash_is_the_one_of_another_implementation(value: int) -> None:
    mmh3 = pytest.importorskip("mmh3", reason="cloud-volume brings it")
    low, _ = mmh3.hash64(value.to_bytes(8, "little"), seed=0, x64arch=False, signed=False)
    assert murmurhash3_x86_128_low64(value) == low


# ---------------------------------------------------------------------------------------------------------------- info


def test_members_are_read_as_they_are_named() -> None:
    given_members = {**INFO, "hash": "murmurhash3_x86_128", "minishard_index_encoding": "gzip", "data_encoding": "gzip"}
    assert Sharding.from_info(given_members) == Sharding(3, "murmurhash3_x86_128", 4, 5, "gzip", "gzip")


def test_encodings_are_raw_by_default() -> None:
    assert Sharding.from_info(INFO) == Sharding(3, "identity", 4, 5, "raw", "raw")


def test_enumerations_are_read_without_case_and_unknown_members_are_passed_over() -> None:
    given_members = {**INFO, "hash": "Identity", "data_encoding": "GZIP", "by": "someone"}
    assert Sharding.from_info(given_members) == Sharding(3, "identity", 4, 5, "raw", "gzip")


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"@type": "neuroglancer_uint64_sharded_v2"}, ".@type"),
        ({"@type": None}, ".@type"),
        ({"preshift_bits": -1}, ".preshift_bits"),
        ({"preshift_bits": 65}, ".preshift_bits"),
        ({"preshift_bits": True}, ".preshift_bits"),
        ({"preshift_bits": "3"}, ".preshift_bits"),
        ({"preshift_bits": None}, ".preshift_bits"),
        ({"minishard_bits": 33}, ".minishard_bits"),
        ({"minishard_bits": 1.5}, ".minishard_bits"),
        ({"shard_bits": 65}, ".shard_bits"),
        ({"shard_bits": []}, ".shard_bits"),
        ({"minishard_bits": 5, "shard_bits": 60}, ""),
        ({"hash": "md5"}, ".hash"),
        ({"hash": None}, ".hash"),
        ({"data_encoding": "br"}, ".data_encoding"),
        ({"minishard_index_encoding": 7}, ".minishard_index_encoding"),
    ],
    ids=str,
)
def test_what_cannot_be_is_an_error_that_begins_with_its_place(changed: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidInfoError) as caught:
        Sharding.from_info({**INFO, **changed}, "scales[2].sharding")
    assert str(caught.value).startswith(f"scales[2].sharding{place}: expected ")
    assert repr(next(iter(changed.values()))) in str(caught.value)


@pytest.mark.parametrize("name", ["@type", "preshift_bits", "hash", "minishard_bits", "shard_bits"])
def test_a_missing_member_is_an_error_that_begins_with_its_place(name: str) -> None:
    members = {other: value for other, value in INFO.items() if other != name}
    with pytest.raises(InvalidInfoError, match=rf"^sharding\.{name}: expected "):
        Sharding.from_info(members)


@pytest.mark.parametrize("members", [[], "identity", 3, True])
def test_sharding_that_is_no_object_is_an_error(members: Any) -> None:
    with pytest.raises(InvalidInfoError, match=r"^scales\[0\]\.sharding: expected an object"):
        Sharding.from_info(members, "scales[0].sharding")


# --------------------------------------------------------------------------------------------------------------- shards


@pytest.mark.parametrize(
    ("sharding", "chunk_id", "expected"),
    [
        (Sharding(0, "identity", 0, 0), 12345, (0, 0)),
        (Sharding(0, "identity", 2, 3), 0b101_10, (0b101, 0b10)),
        (Sharding(0, "identity", 2, 3), 0b11_101_10, (0b101, 0b10)),
        (Sharding(3, "identity", 2, 3), 0b101_10_111, (0b101, 0b10)),
        (Sharding(64, "identity", 2, 3), UINT64 - 1, (0, 0)),
        (Sharding(0, "identity", 0, 64), UINT64 - 1, (UINT64 - 1, 0)),
        (Sharding(0, "identity", 32, 32), 0x89ABCDEF_01234567, (0x89ABCDEF, 0x01234567)),
        (Sharding(0, "murmurhash3_x86_128", 8, 8), 42, (0xF4, 0x7A)),
        (Sharding(0, "murmurhash3_x86_128", 32, 32), 42, (0xC20B94F9, 0x5119F47A)),
        (Sharding(1, "murmurhash3_x86_128", 8, 8), 42 << 1 | 1, (0xF4, 0x7A)),
        (Sharding(64, "murmurhash3_x86_128", 8, 8), 42, (0xAE, 0x41)),
    ],
)
def test_a_chunk_is_located_by_the_bits_of_its_hashed_id(
    sharding: Sharding, chunk_id: int, expected: tuple[int, int]
) -> None:
    assert sharding.locate(chunk_id) == expected


@pytest.mark.parametrize(
    ("shard_bits", "shard", "name"),
    [
        (0, 0, "0"),
        (1, 1, "1"),
        (4, 15, "f"),
        (5, 15, "0f"),
        (8, 0xAB, "ab"),
        (9, 0xAB, "0ab"),
        (64, 0, "0" * 16),
        (64, UINT64 - 1, "f" * 16),
    ],
)
def test_a_shard_is_named_by_lowercase_digits_enough_for_its_bits(shard_bits: int, shard: int, name: str) -> None:
    assert Sharding(0, "identity", 0, shard_bits).shard_name("key", shard) == f"key/{name}"


# ----------------------------------------------------------------------------------------------------- the shard index


@pytest.mark.parametrize("minishard_bits", [0, 1, 6, 12])
def test_a_small_shard_index_is_read_whole(minishard_bits: int) -> None:
    sharding = Sharding(0, "identity", minishard_bits, 0)
    for minishard in (0, 2**minishard_bits - 1):
        assert page_of(minishard, sharding) == (0, sharding.index_size) == (0, 16 * 2**minishard_bits)


@pytest.mark.parametrize("minishard_bits", [13, 20, 32])
@given(data=st.data())
def test_of_a_large_shard_index_a_bounded_page_around_the_entry_is_read(minishard_bits: int, data: Any) -> None:
    sharding = Sharding(0, "identity", minishard_bits, 0)
    minishard = data.draw(st.integers(0, 2**minishard_bits - 1))
    start, end = page_of(minishard, sharding)
    assert 0 <= start <= 16 * minishard
    assert 16 * (minishard + 1) <= end <= sharding.index_size
    assert end - start == 16 * PAGE_ENTRIES
    entry = struct.pack("<QQ", 48, 72)
    page = bytearray(end - start)
    page[16 * minishard - start : 16 * (minishard + 1) - start] = entry
    assert minishard_index_range(bytes(page), minishard, sharding) == ByteRange(48, 72)


@pytest.mark.parametrize("offset", [0, 1, 2**62, UINT64 - 1])
def test_an_entry_that_ends_where_it_starts_is_an_empty_minishard(offset: int) -> None:
    page = struct.pack("<QQQQ", 0, 24, offset, offset)
    assert minishard_index_range(page, 1, Sharding(0, "identity", 1, 0)) is None


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
@pytest.mark.parametrize(("start", "end"), [(24, 0), (1, 0), (UINT64 - 24, 0), (0, UINT64 - 8), (2**62, 2**62 + 24)])
def test_an_entry_that_is_no_place_in_a_file_is_corrupt(start: int, end: int, encoding: str) -> None:
    page = struct.pack("<QQQQ", 0, 24, start, end)
    with pytest.raises(CorruptDataError, match=f"minishard 1.*{start}.*{end}"):
        minishard_index_range(page, 1, Sharding(0, "identity", 1, 0, encoding))


def test_a_raw_index_of_broken_rows_is_corrupt_before_it_is_read() -> None:
    page = struct.pack("<QQ", 10, 35)
    with pytest.raises(CorruptDataError, match=r"minishard 0.*25 bytes"):
        minishard_index_range(page, 0, Sharding(0, "identity", 0, 0, "raw"))
    assert minishard_index_range(page, 0, Sharding(0, "identity", 0, 0, "gzip")) == ByteRange(10, 35)


# ------------------------------------------------------------------------------------------------- the minishard index

ENCODINGS: Mapping[str, tuple[str, Callable[[bytes], bytes]]] = {
    "raw": ("raw", bytes),
    "gzip": ("gzip", gzip.compress),
    "zlib of neuroglancer-scripts": ("gzip", zlib.compress),
}

a_place = st.tuples(st.integers(0, UINT64 - 1), st.integers(0, LARGEST_FILE // 2), st.integers(0, LARGEST_FILE // 2))
places_in_any_order = st.lists(a_place, unique_by=lambda place: place[0], max_size=20)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(places_in_any_order)
def test_an_index_gives_back_what_was_written(encoding: str, places: list[ChunkPlace]) -> None:
    name, pack = ENCODINGS[encoding]
    index = MinishardIndex.from_bytes(pack(index_rows(places)), name)
    assert len(index) == len(places)
    for chunk_id, start, size in places:
        assert index.find(chunk_id) == (ByteRange(start, start + size) if size else None)


@given(places_in_any_order, st.integers(0, UINT64 - 1))
def test_an_index_has_no_chunk_that_was_not_written(places: list[ChunkPlace], chunk_id: int) -> None:
    kept = [place for place in places if place[0] != chunk_id]
    assert MinishardIndex.from_bytes(index_rows(kept), "raw").find(chunk_id) is None


def test_offsets_and_ids_may_descend_modulo_two_to_the_64() -> None:
    rows = struct.pack("<6Q", 9, UINT64 - 5, 100, UINT64 - 110, 10, 20)
    index = MinishardIndex.from_bytes(rows, "raw")
    assert (index.find(9), index.find(4)) == ((100, 110), (0, 20))


def test_an_entry_of_size_zero_is_absent_wherever_it_points() -> None:
    rows = index_rows([(1, 0, 10), (2, LARGEST_FILE, 0), (3, 10, 5)])
    index = MinishardIndex.from_bytes(rows, "raw")
    assert [index.find(chunk_id) for chunk_id in (1, 2, 3)] == [(0, 10), None, (10, 15)]


def test_an_empty_index_has_no_chunks() -> None:
    for stored, encoding in ((b"", "raw"), (gzip.compress(b""), "gzip")):
        index = MinishardIndex.from_bytes(stored, encoding)
        assert (len(index), index.find(0)) == (0, None)


@pytest.mark.parametrize("places", [[(5, 0, 1), (5, 1, 1)], [(5, 0, 1), (6, 1, 1), (5, 2, 1)], [(0, 0, 1), (0, 0, 1)]])
def test_an_index_with_a_chunk_twice_is_corrupt(places: list[ChunkPlace]) -> None:
    with pytest.raises(CorruptDataError, match="twice"):
        MinishardIndex.from_bytes(index_rows(places), "raw")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("length", [1, 8, 16, 23, 25, 40])
def test_an_index_of_broken_rows_is_corrupt(length: int, encoding: str) -> None:
    name, pack = ENCODINGS[encoding]
    with pytest.raises(CorruptDataError, match=f"{length} bytes"):
        MinishardIndex.from_bytes(pack(bytes(length)), name)


ROW = index_rows([(1, 0, 10)])
UNDECODABLE = {
    "nothing": b"",
    "not gzip": b"not gzip",
    "raw": ROW,
    "cut by a byte": gzip.compress(ROW)[:-1],
    "without its end": gzip.compress(ROW)[:-9],
    "with a tail": gzip.compress(ROW) + b"tail",
    "cut zlib": zlib.compress(ROW)[:-1],
    "zlib with a tail": zlib.compress(ROW) + b"tail",
}


@pytest.mark.parametrize("stored", UNDECODABLE.values(), ids=UNDECODABLE)
def test_an_index_that_does_not_decode_is_corrupt(stored: bytes) -> None:
    with pytest.raises(CorruptDataError, match="gzip"):
        MinishardIndex.from_bytes(stored, "gzip")


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (0, UINT64 - 1),
        (UINT64 - 1, 1),
        (UINT64 - 1, 2),  # the end wraps around to 1
        (UINT64 - 8, 16),
        (2**62, 1),
        (2**63, 2**63),
    ],
)
def test_a_chunk_where_no_file_can_be_is_corrupt(offset: int, size: int) -> None:
    with pytest.raises(CorruptDataError, match="no file"):
        MinishardIndex.from_bytes(struct.pack("<3Q", 7, offset, size), "raw")


def test_a_long_index_in_any_order_takes_bounded_memory() -> None:
    count = 40_000
    places = [(3 * i, 100 * i, 90) for i in np.random.default_rng(0).permutation(count).tolist()]
    stored = index_rows(places)
    tracemalloc.start()
    try:
        index = MinishardIndex.from_bytes(stored, "raw")
        assert tracemalloc.get_traced_memory()[1] < 4 * len(stored)
    finally:
        tracemalloc.stop()
    assert [*index] == [Wanted(3 * i, 100 * i, 100 * i + 90) for i in range(count)]


@pytest.mark.parametrize("hashed_by", ["identity", "murmurhash3_x86_128"])
@pytest.mark.parametrize("preshift_bits", [0, 3, 9, 64])
@pytest.mark.parametrize("bits", [0, 1, 4, 8, 12, 20])
def test_no_minishard_has_more_chunks_than_its_index_may_have(hashed_by: str, preshift_bits: int, bits: int) -> None:
    counts: Counter[tuple[int, int]] = Counter()
    sharding = Sharding(preshift_bits, hashed_by, bits // 2, bits - bits // 2, scale_chunks=1 << 12)
    for chunk_id in range(sharding.scale_chunks):
        counts[sharding.locate(chunk_id)] += 1
    assert 24 * max(counts.values()) <= sharding.largest_index <= 24 * sharding.scale_chunks


def test_an_index_may_be_a_few_times_as_long_as_is_usual() -> None:
    proposed = dataclasses.replace(propose_sharding((313, 313, 110), 1 << 17), scale_chunks=1 << 25)
    assert proposed.largest_index == 24 * 136 * 512
    assert Sharding(0, "identity", 0, 0, scale_chunks=1 << 40).largest_index == MAX_INDEX_BYTES


def test_an_index_takes_24_bytes_of_memory_for_each_chunk() -> None:
    small, large = (
        MinishardIndex.from_bytes(index_rows((i, 8 * i, 8) for i in range(count)), "raw") for count in (10, 1010)
    )
    assert large.nbytes - small.nbytes == 24 * 1000


# ------------------------------------------------------------------------------------------------------------ planning


@st.composite
def wanted_chunks(draw: st.DrawFn) -> list[Wanted]:
    """Draw chunks of a file: near and far, overlapping, empty, in any order."""
    places = draw(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 60)), max_size=30))
    return [Wanted(i, start, start + length) for i, (start, length) in enumerate(places)]


planned = given(wanted=wanted_chunks(), gap=st.integers(0, 40), size=st.integers(1, 150))


@planned
def test_a_plan_has_each_chunk_once_within_its_range(wanted: list[Wanted], gap: int, size: int) -> None:
    reads = plan_reads(wanted, gap=gap, size=size)
    assert sorted(chunk for read in reads for chunk in read.chunks) == sorted(wanted)
    for read in reads:
        assert read.start == min(chunk.start for chunk in read.chunks)
        assert read.end == max(chunk.end for chunk in read.chunks)


@planned
def test_no_range_grows_beyond_the_size_by_joining(wanted: list[Wanted], gap: int, size: int) -> None:
    for read in plan_reads(wanted, gap=gap, size=size):
        assert len(read.chunks) == 1 or read.end - read.start <= size


@planned
def test_no_range_reads_more_than_the_gap_in_vain(wanted: list[Wanted], gap: int, size: int) -> None:
    for read in plan_reads(wanted, gap=gap, size=size):
        covered = read.start
        for chunk in sorted(read.chunks, key=lambda chunk: chunk.start):
            assert chunk.start - covered <= gap
            covered = max(covered, chunk.end)


@planned
def test_ranges_ascend_and_two_in_a_row_could_not_be_one(wanted: list[Wanted], gap: int, size: int) -> None:
    reads = plan_reads(wanted, gap=gap, size=size)
    for read, following in itertools.pairwise(reads):
        assert read.start <= following.start
        first = min(following.chunks, key=lambda chunk: (chunk.start, chunk.end))
        assert first.start - read.end > gap or max(read.end, first.end) - read.start > size


@planned
def test_a_plan_does_not_depend_on_the_order(wanted: list[Wanted], gap: int, size: int) -> None:
    plans = [plan_reads(order, gap=gap, size=size) for order in (wanted, wanted[::-1])]
    ranges = [[(read.start, read.end) for read in reads] for reads in plans]
    assert ranges[0] == ranges[1]


def test_contiguous_chunks_are_one_range_up_to_the_size() -> None:
    wanted = [Wanted(i, 10 * i, 10 * i + 10) for i in range(10)]
    assert [read[:2] for read in plan_reads(wanted, gap=0, size=100)] == [(0, 100)]
    assert [read[:2] for read in plan_reads(wanted, gap=0, size=99)] == [(0, 90), (90, 100)]


def test_a_chunk_longer_than_the_size_is_read_alone() -> None:
    wanted = [Wanted(0, 0, 5), Wanted(1, 5, 500), Wanted(2, 500, 505)]
    assert [read[:2] for read in plan_reads(wanted, gap=9, size=100)] == [(0, 5), (5, 500), (500, 505)]


def test_an_iterator_of_nothing_is_no_plan() -> None:
    assert plan_reads(iter([]), gap=10, size=10) == []
