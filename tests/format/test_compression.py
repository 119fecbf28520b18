"""Compression of one object: what other tools wrote is read byte for byte, and what is broken is never guessed away."""

from __future__ import annotations

import bz2
import gzip
import importlib
import io
import lzma
import random
import shutil
import subprocess
import tracemalloc
import zlib
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import imagecodecs
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from precomputed_fs import CorruptDataError
from precomputed_fs.format import compression
from precomputed_fs.format.compression import (
    SUFFIXES,
    decode,
    decode_gzip_or_zlib,
    gzip_compress,
    is_gzip,
    may_be_gzip,
    split_suffix,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_zstandard = importlib.import_module("zstandard")
_cloudfiles = importlib.import_module("cloudfiles.compression")

MIB = 1 << 20
GZIP_MAGIC = b"\x1f\x8b\x08"
SUFFIX_OF = {"gzip": ".gz", "br": ".br", "zstd": ".zstd", "xz": ".xz", "bz2": ".bz2"}
RANDOM = random.Random(1).randbytes(3000)


# ------------------------------------------------------------------------------------------------------ other writers


def zlib_deflate(data: bytes) -> bytes:
    return zlib.compress(data)


def bare_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(data) + compressor.flush()


def named_gzip(data: bytes) -> bytes:
    """Compress as the gzip command does: with the file's name and time in the header."""
    buffer = io.BytesIO()
    with gzip.GzipFile("0-64_0-64_0-64", "wb", fileobj=buffer, mtime=1_700_000_000) as file:
        file.write(data)
    return buffer.getvalue()


def gzip_with_all_fields(data: bytes) -> bytes:
    """Use each optional field of the header: extra, name, comment and the header's own checksum (RFC 1952)."""
    header = GZIP_MAGIC + b"\x1e\0\0\0\0\0\3" + b"\4\0abcd" + b"name\0" + b"comment\0"
    header += (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little")
    return header + bare_deflate(data) + zlib.crc32(data).to_bytes(4, "little") + len(data).to_bytes(4, "little")


def streamed_zstd(data: bytes) -> bytes:
    """Compress without the content's size in the frame's header, as a pipe does."""
    compressor = _zstandard.ZstdCompressor().compressobj()
    compressed: bytes = compressor.compress(data) + compressor.flush()
    return compressed


def checked_zstd(data: bytes) -> bytes:
    compressed: bytes = _zstandard.ZstdCompressor(write_checksum=True).compress(data)
    return compressed


def by_cloudfiles(method: str) -> Callable[[bytes], bytes]:
    """Return how cloud-volume compresses what it stores."""

    def compress(data: bytes) -> bytes:
        return bytes(_cloudfiles.compress(data, method))

    return compress


class Writer(NamedTuple):
    encoding: str
    compress: Callable[[bytes], bytes]


WRITERS = {
    "gzip": Writer("gzip", gzip.compress),
    "gzip stored": Writer("gzip", lambda data: gzip.compress(data, 0)),
    "gzip named": Writer("gzip", named_gzip),
    "gzip all fields": Writer("gzip", gzip_with_all_fields),
    "gzip ours": Writer("gzip", lambda data: gzip_compress(data, 9)),
    "gzip cloudfiles": Writer("gzip", by_cloudfiles("gzip")),
    "br": Writer("br", lambda data: bytes(imagecodecs.brotli_encode(data))),
    "br cloudfiles": Writer("br", by_cloudfiles("br")),
    "zstd": Writer("zstd", lambda data: bytes(imagecodecs.zstd_encode(data))),
    "zstd streamed": Writer("zstd", streamed_zstd),
    "zstd checked": Writer("zstd", checked_zstd),
    "zstd cloudfiles": Writer("zstd", by_cloudfiles("zstd")),
    "xz": Writer("xz", lzma.compress),
    "xz cloudfiles": Writer("xz", by_cloudfiles("xz")),
    "bz2": Writer("bz2", bz2.compress),
    "bz2 cloudfiles": Writer("bz2", by_cloudfiles("bz2")),
}
HEADER_WRITERS = {
    **WRITERS,
    "deflate zlib": Writer("deflate", zlib_deflate),
    "deflate bare": Writer("deflate", bare_deflate),
}
PLAIN_WRITERS = {name: WRITERS[name] for name in SUFFIX_OF}
CHECKED = ("gzip", "gzip named", "zstd checked", "xz", "bz2")
"""Writers whose streams carry a checksum of the content: the others cannot tell a changed byte."""

BODIES = {
    "empty": b"",
    "one byte": b"x",
    "text": b'{"@type": "neuroglancer_multiscale_volume"}',
    "random": RANDOM,
    "a label": b"\x07\0\0\0\0\0\0\0" * 40_000,
    "like gzip": GZIP_MAGIC + bytes(100),
    "itself gzip": gzip.compress(b"decoded once, not twice"),
}

each_writer = pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
each_header_writer = pytest.mark.parametrize("writer", HEADER_WRITERS.values(), ids=HEADER_WRITERS)
each_encoding = pytest.mark.parametrize("encoding", SUFFIX_OF)
each_body = pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)


@each_body
@each_writer
def test_a_suffix_is_undone(writer: Writer, body: bytes) -> None:
    decoded = decode(writer.compress(body), suffix=SUFFIX_OF[writer.encoding])
    assert decoded == body
    assert type(decoded) is bytes


@each_body
@each_header_writer
def test_a_content_encoding_is_undone(writer: Writer, body: bytes) -> None:
    decoded = decode(writer.compress(body), content_encoding=writer.encoding)
    assert decoded == body
    assert type(decoded) is bytes


@pytest.mark.parametrize(
    ("header", "writer"),
    [
        ("GZIP", "gzip"),
        (" gzip ", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip,", "gzip"),
        ("identity, gzip", "gzip"),
        ("aws-chunked,gzip", "gzip"),
        ("gzip,aws-chunked", "gzip"),
        ("bzip2", "bz2"),
        ("x-bzip2", "bz2"),
        ("Zstd", "zstd"),
    ],
)
def test_spellings_of_a_content_encoding(header: str, writer: str) -> None:
    assert decode(WRITERS[writer].compress(RANDOM), content_encoding=header) == RANDOM


@pytest.mark.parametrize("header", ["", "identity", "Identity", "aws-chunked", " , "])
@each_body
def test_a_header_that_says_nothing_leaves_the_bytes(header: str, body: bytes) -> None:
    assert decode(body, content_encoding=header, sniff=False) == body


@pytest.mark.parametrize("header", ["compress", "gzip2", "gzip, compress", "compress, gzip", "aws-chunked, x"])
def test_an_unknown_content_encoding_is_corrupt_and_named(header: str) -> None:
    unknown = next(name.strip() for name in header.split(",") if name.strip() not in {"gzip", "aws-chunked"})
    with pytest.raises(CorruptDataError, match=f"Content-Encoding '{unknown}'"):
        decode(gzip.compress(b"x"), content_encoding=header)


def test_codings_are_undone_in_reverse_order() -> None:
    stored = PLAIN_WRITERS["br"].compress(gzip.compress(RANDOM))
    assert decode(stored, content_encoding="gzip, br") == RANDOM
    with pytest.raises(CorruptDataError):
        decode(stored, content_encoding="br, gzip")


def test_the_limit_applies_to_the_last_coding_only() -> None:
    stored = PLAIN_WRITERS["br"].compress(gzip.compress(b"x"))  # the gzip inside is longer than what it holds
    assert decode(stored, content_encoding="gzip, br", raw_length=1) == b"x"


# ------------------------------------------------------------------------------------------------- suffix and header


@each_encoding
def test_a_file_served_with_its_suffix_as_header_is_undone_once(encoding: str) -> None:
    """Web servers serve ``x.gz`` with ``Content-Encoding: gzip``, and it was compressed just once."""
    stored = PLAIN_WRITERS[encoding].compress(RANDOM)
    assert decode(stored, suffix=SUFFIX_OF[encoding], content_encoding=encoding) == RANDOM


@each_encoding
def test_a_file_compressed_by_the_server_too_is_undone_twice(encoding: str) -> None:
    compress = PLAIN_WRITERS[encoding].compress
    assert decode(compress(compress(RANDOM)), suffix=SUFFIX_OF[encoding], content_encoding=encoding) == RANDOM


@pytest.mark.parametrize("header", ["gzip", "br"])
@each_encoding
def test_a_header_of_another_compression_comes_before_the_suffix(encoding: str, header: str) -> None:
    stored = PLAIN_WRITERS[header].compress(PLAIN_WRITERS[encoding].compress(RANDOM))
    assert decode(stored, suffix=SUFFIX_OF[encoding], content_encoding=header) == RANDOM


@pytest.mark.parametrize("encoding", ["br", "zstd", "xz", "bz2"])
def test_a_header_that_differs_from_the_suffix_must_leave_what_the_suffix_says(encoding: str) -> None:
    stored = gzip.compress(PLAIN_WRITERS[encoding].compress(RANDOM)[:-5])
    with pytest.raises(CorruptDataError, match=rf"suffix \{SUFFIX_OF[encoding]}"):
        decode(stored, suffix=SUFFIX_OF[encoding], content_encoding="gzip")


@each_encoding
def test_the_limit_holds_behind_a_suffix_and_a_header(encoding: str) -> None:
    compress = PLAIN_WRITERS[encoding].compress
    for stored in (compress(RANDOM), compress(compress(RANDOM))):
        with pytest.raises(CorruptDataError):
            decode(stored, suffix=SUFFIX_OF[encoding], content_encoding=encoding, raw_length=len(RANDOM) - 1)


# ------------------------------------------------------------------------------------------------------------- members


@pytest.mark.parametrize(
    "members",
    [
        (b"first", b"the second is longer"),
        (b"the first is longer", b"second"),
        (b"a" * 100, b"b" * 100),
        (b"same" * 100, b"same" * 100),
        (b"", b"x"),
        (b"x", b""),
        (b"", b""),
        (RANDOM, RANDOM[::-1], RANDOM),
    ],
    ids=["longer", "shorter", "equal lengths", "equal", "empty first", "empty last", "both empty", "three"],
)
@pytest.mark.parametrize("encoding", ["gzip", "zstd", "xz", "bz2"])
def test_every_member_of_a_file_is_read(encoding: str, members: tuple[bytes, ...]) -> None:
    stored = b"".join(map(PLAIN_WRITERS[encoding].compress, members))
    assert decode(stored, suffix=SUFFIX_OF[encoding]) == b"".join(members)
    assert decode(stored, content_encoding=encoding) == b"".join(members)


@pytest.mark.parametrize("sizes", [(100, 200), (100, 100)], ids=["other length", "equal lengths"])
def test_every_member_of_unlabelled_gzip_is_read(sizes: tuple[int, int]) -> None:
    first, second = b"a" * sizes[0], b"b" * sizes[1]
    assert decode(gzip.compress(first) + gzip.compress(second)) == first + second


def test_the_limit_holds_over_all_members() -> None:
    stored = gzip.compress(bytes(60)) + gzip.compress(bytes(60))
    assert decode(stored, suffix=".gz", raw_length=120) == bytes(120)
    with pytest.raises(CorruptDataError):
        decode(stored, suffix=".gz", raw_length=119)


# -------------------------------------------------------------------------------------------------------------- broken


JUNK = {
    "text": b"junk",
    "long": RANDOM,
    "half a stream": gzip.compress(RANDOM)[:-1],
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
@each_encoding
def test_trailing_bytes_are_corrupt(encoding: str, junk: bytes) -> None:
    stored = PLAIN_WRITERS[encoding].compress(RANDOM) + junk
    with pytest.raises(CorruptDataError):
        decode(stored, suffix=SUFFIX_OF[encoding])
    with pytest.raises(CorruptDataError):
        decode(stored, content_encoding=encoding)


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_unlabelled_gzip_with_trailing_bytes_is_raw(junk: bytes) -> None:
    stored = gzip.compress(RANDOM) + junk
    assert decode(stored) == stored


@each_encoding
def test_an_empty_object_is_corrupt(encoding: str) -> None:
    with pytest.raises(CorruptDataError):
        decode(b"", suffix=SUFFIX_OF[encoding])
    with pytest.raises(CorruptDataError):
        decode(b"", content_encoding=encoding)


@given(st.data())
@settings(max_examples=40)
@each_header_writer
def test_a_truncated_object_is_corrupt(writer: Writer, data: st.DataObject) -> None:
    """Wherever the cut is; to nothing is `test_an_empty_object_is_corrupt`."""
    stored = writer.compress(data.draw(st.sampled_from([*BODIES.values()])))
    assume(len(stored) > 1)
    cut = stored[: data.draw(st.integers(1, len(stored) - 1))]
    with pytest.raises(CorruptDataError):
        decode(cut, content_encoding=writer.encoding)
    if writer.encoding in SUFFIX_OF:
        with pytest.raises(CorruptDataError):
            decode(cut, suffix=SUFFIX_OF[writer.encoding])


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_each_truncation_of_a_small_object_is_corrupt(writer: Writer) -> None:
    stored = writer.compress(b"0-64_0-64_0-64")
    for length in range(1, len(stored)):
        with pytest.raises(CorruptDataError):
            decode(stored[:length], suffix=SUFFIX_OF[writer.encoding])


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "xz", "bz2"])
def test_a_truncated_last_member_is_corrupt(encoding: str) -> None:
    compress = PLAIN_WRITERS[encoding].compress
    second = compress(RANDOM[::-1])
    for length in (1, 5, len(second) // 2, len(second) - 1):
        with pytest.raises(CorruptDataError):
            decode(compress(RANDOM) + second[:length], suffix=SUFFIX_OF[encoding])


@pytest.mark.parametrize("body", [b"", b"x", RANDOM], ids=["empty", "one byte", "random"])
@pytest.mark.parametrize("field", ["CRC", "ISIZE"])
def test_a_wrong_gzip_trailer_is_corrupt(field: str, body: bytes) -> None:
    stored = gzip.compress(body)
    begin = len(stored) - (8 if field == "CRC" else 4)
    for bit in range(32):
        wrong = bytearray(stored)
        wrong[begin + bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptDataError):
            decode(bytes(wrong), suffix=".gz")
        assert decode(bytes(wrong)) == wrong  # nothing says that it is gzip, and it is not


def test_a_wrong_header_checksum_of_gzip_is_corrupt_or_harmless() -> None:
    stored = bytearray(gzip_with_all_fields(RANDOM))
    stored[stored.index(b"comment\0") + 8] ^= 1
    try:
        assert decode(bytes(stored), suffix=".gz") == RANDOM
    except CorruptDataError as exc:
        assert "suffix .gz" in str(exc)  # noqa: PT017 - either answer is right


@each_encoding
def test_the_error_says_what_told_the_compression_and_how_much_there_is(encoding: str) -> None:
    with pytest.raises(CorruptDataError, match=rf"^9 bytes .* suffix \{SUFFIX_OF[encoding]} says"):
        decode(b"not\nthat!", suffix=SUFFIX_OF[encoding])
    name = "bzip2" if encoding == "bz2" else encoding
    with pytest.raises(CorruptDataError, match=f"^9 bytes .* Content-Encoding {name} says"):
        decode(b"not\nthat!", content_encoding=name)


def test_legacy_lzma_is_not_xz() -> None:
    """It has no checksum, and a header of 13 bytes decides how many gigabytes its reader takes."""
    with pytest.raises(CorruptDataError):
        decode(lzma.compress(RANDOM, format=lzma.FORMAT_ALONE), suffix=".xz")
    with pytest.raises(CorruptDataError):
        decode(b"\x5d\xff\xff\xff\xff" + bytes(13), suffix=".xz")


# ---------------------------------------------------------------------------------------------------------------- fuzz


@st.composite
def damaged(draw: st.DrawFn, stored: bytes) -> bytes:
    """Change, cut out or insert some bytes."""
    begin = draw(st.integers(0, len(stored) - 1))
    end = draw(st.integers(begin, min(len(stored), begin + 8)))
    return stored[:begin] + draw(st.binary(max_size=8)) + stored[end:]


@given(st.data())
@settings(max_examples=150)
@pytest.mark.parametrize("name", CHECKED)
def test_damaged_bytes_are_right_or_corrupt(name: str, data: st.DataObject) -> None:
    writer, body = WRITERS[name], data.draw(st.sampled_from([b"x", BODIES["text"], RANDOM[:300]]))
    stored = data.draw(damaged(writer.compress(body)).filter(bool))
    try:
        decoded = decode(stored, suffix=SUFFIX_OF[writer.encoding])
    except CorruptDataError:
        return
    assert decoded == body


@given(st.data())
@settings(max_examples=60)
@pytest.mark.parametrize("name", [name for name in HEADER_WRITERS if name not in CHECKED])
def test_damaged_bytes_raise_nothing_but_corrupt(name: str, data: st.DataObject) -> None:
    writer, body = HEADER_WRITERS[name], data.draw(st.sampled_from([b"x", BODIES["text"], RANDOM[:300]]))
    stored = data.draw(damaged(writer.compress(body)))
    try:
        decoded = decode(stored, content_encoding=writer.encoding, raw_length=2 * len(body))
    except CorruptDataError:
        return
    assert len(decoded) <= 2 * len(body)


MAGIC = {
    "gzip": GZIP_MAGIC,
    "zstd": b"\x28\xb5\x2f\xfd",
    "xz": b"\xfd7zXZ\0",
    "bz2": b"BZh9",
    "br": b"",
    "deflate": b"",
}


@given(st.data())
@settings(max_examples=100)
@pytest.mark.parametrize("encoding", MAGIC)
def test_random_bytes_raise_nothing_but_corrupt(encoding: str, data: st.DataObject) -> None:
    stored = data.draw(st.sampled_from([b"", MAGIC[encoding]])) + data.draw(st.binary(min_size=1, max_size=200))
    try:
        decoded = decode(stored, content_encoding=encoding, raw_length=1000)
    except CorruptDataError:
        return
    assert len(decoded) <= 1000
    assert encoding in {"br", "deflate"}  # 200 random bytes do not get past a magic number and a checksum


# -------------------------------------------------------------------------------------------------------------- memory


ZEROS = 20_000_000


@cache
def zeros(encoding: str) -> bytes:
    """Compress 20 MB of zeros, to less than a tenth of a megabyte."""
    body = bytes(ZEROS)
    compress: dict[str, Callable[[], bytes]] = {
        "gzip": lambda: gzip.compress(body, 1),
        "br": lambda: bytes(imagecodecs.brotli_encode(body, 1)),
        "zstd": lambda: bytes(imagecodecs.zstd_encode(body, 1)),
        "xz": lambda: lzma.compress(body, preset=0),
        "bz2": lambda: bz2.compress(body, 1),
    }
    return compress[encoding]()


def peak_of_failing(stored: bytes, *, suffix: str = "", raw_length: int | None = None) -> int:
    """Return how many bytes Python allocated at most, until decoding raised CorruptDataError."""
    tracemalloc.start()
    try:
        with pytest.raises(CorruptDataError):
            decode(stored, suffix=suffix, raw_length=raw_length)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@each_encoding
def test_highly_compressible_data_is_decoded(encoding: str) -> None:
    assert len(zeros(encoding)) < ZEROS // 200
    assert decode(zeros(encoding), suffix=SUFFIX_OF[encoding]) == bytes(ZEROS)


@each_encoding
def test_a_bomb_is_corrupt_and_small_where_the_length_is_known(encoding: str) -> None:
    assert peak_of_failing(zeros(encoding), suffix=SUFFIX_OF[encoding], raw_length=64**3) < 4 * MIB


def test_an_unlabelled_gzip_bomb_is_corrupt_and_small_where_the_length_is_known() -> None:
    assert peak_of_failing(zeros("gzip"), raw_length=64**3) < 4 * MIB


@each_encoding
def test_a_bomb_is_corrupt_where_the_length_is_not_known(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MAX_DECODED_SIZE", MIB)  # the real one takes seconds and gigabytes
    assert peak_of_failing(zeros(encoding), suffix=SUFFIX_OF[encoding]) < 8 * MIB


def test_an_unlabelled_gzip_bomb_is_corrupt_where_the_length_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "MAX_DECODED_SIZE", MIB)
    assert peak_of_failing(zeros("gzip")) < 8 * MIB


def test_the_bound_without_a_known_length_admits_what_neuroglancer_can_show() -> None:
    assert 2**30 <= compression.MAX_DECODED_SIZE <= 2**33


@each_encoding
def test_the_limit_is_exact(encoding: str) -> None:
    for body in (b"", b"x", RANDOM, bytes(10_000)):
        stored = PLAIN_WRITERS[encoding].compress(body)
        assert decode(stored, suffix=SUFFIX_OF[encoding], raw_length=len(body)) == body
        assert decode(stored, content_encoding=encoding, raw_length=len(body)) == body
        if body:
            with pytest.raises(CorruptDataError):
                decode(stored, suffix=SUFFIX_OF[encoding], raw_length=len(body) - 1)


def test_a_gzip_trailer_that_lies_about_the_length_takes_no_memory() -> None:
    stored = gzip.compress(RANDOM)[:-4] + b"\xff\xff\xff\xff"
    assert peak_of_failing(stored, suffix=".gz") < 16 * MIB


@pytest.mark.parametrize("broken", ["truncated", "junk"])
@each_encoding
def test_a_small_broken_object_does_not_take_gigabytes(encoding: str, broken: str) -> None:
    stored = PLAIN_WRITERS[encoding].compress(RANDOM)[:-1] if broken == "truncated" else b"\x8bjunk, and no more" * 5
    assert peak_of_failing(stored, suffix=SUFFIX_OF[encoding]) < 64 * MIB


# --------------------------------------------------------------------------------------------------------- gzip or raw


@given(st.binary(max_size=300))
@example(b"")
@example(b"\0" * 7)
def test_raw_bytes_that_begin_like_gzip_come_back(rest: bytes) -> None:
    raw = GZIP_MAGIC + rest
    assert may_be_gzip(raw)
    assert not is_gzip(raw)
    assert decode(raw) == raw
    assert decode(raw, raw_length=len(raw)) == raw
    assert decode(raw, raw_length=len(raw) + 1) == raw


@given(st.binary(max_size=300))
def test_other_bytes_come_back(raw: bytes) -> None:
    assert decode(raw) == raw


@given(st.binary(max_size=300), st.integers(0, 9))
def test_unlabelled_gzip_is_decoded(body: bytes, level: int) -> None:
    stored = gzip.compress(body, level)
    assert is_gzip(stored)
    assert decode(stored) == body


def test_the_exact_raw_length_wins_over_gzip() -> None:
    stored = gzip.compress(b"voxels that happen to be gzip")
    assert decode(stored, raw_length=len(stored)) == stored


@pytest.mark.parametrize("raw_length", [len(RANDOM), len(RANDOM) + 1, 10 * len(RANDOM)])
def test_unlabelled_gzip_of_another_length_is_decoded(raw_length: int) -> None:
    assert decode(gzip.compress(RANDOM), raw_length=raw_length) == RANDOM


def test_unlabelled_gzip_of_more_than_the_raw_length_is_corrupt() -> None:
    with pytest.raises(CorruptDataError, match="decodes to more than the 2999"):
        decode(gzip.compress(RANDOM), raw_length=len(RANDOM) - 1)


@each_encoding
def test_a_suffix_or_a_header_wins_over_the_raw_length(encoding: str) -> None:
    stored = PLAIN_WRITERS[encoding].compress(b"short")
    assert len(stored) > len(b"short")
    assert decode(stored, suffix=SUFFIX_OF[encoding], raw_length=len(stored)) == b"short"
    assert decode(stored, content_encoding=encoding, raw_length=len(stored)) == b"short"


@given(st.integers(0, len(gzip.compress(RANDOM)) - 1))
def test_a_truncated_stream_that_nothing_calls_gzip_is_raw(length: int) -> None:
    cut = gzip.compress(RANDOM)[:length]
    assert not is_gzip(cut)
    assert decode(cut) == cut


def test_unlabelled_gzip_with_a_truncated_last_member_is_raw() -> None:
    stored = gzip.compress(RANDOM) + gzip.compress(RANDOM)[:-3]
    assert decode(stored) == stored


def test_nothing_is_recognized_where_it_may_not_be() -> None:
    stored = gzip.compress(RANDOM)
    assert decode(stored, sniff=False) == stored


@pytest.mark.parametrize("encoding", ["br", "zstd", "xz", "bz2"])
def test_only_gzip_is_recognized_by_its_content(encoding: str) -> None:
    stored = PLAIN_WRITERS[encoding].compress(RANDOM)
    assert decode(stored) == stored


@pytest.mark.parametrize("told_by", ["content", "suffix", "header"])
def test_gzip_in_gzip_is_decoded_once(told_by: str) -> None:
    inner = gzip.compress(RANDOM)
    suffix = ".gz" if told_by == "suffix" else ""
    content_encoding = "gzip" if told_by == "header" else ""
    assert decode(gzip.compress(inner), suffix=suffix, content_encoding=content_encoding) == inner


# -------------------------------------------------------------------------------------------------------------- shards


@each_body
@pytest.mark.parametrize("name", ["gzip", "gzip named", "gzip ours", "deflate zlib"])
def test_the_gzip_of_shards_is_gzip_or_zlib(name: str, body: bytes) -> None:
    assert decode_gzip_or_zlib(HEADER_WRITERS[name].compress(body)) == body


@pytest.mark.parametrize("name", ["gzip", "deflate zlib"])
def test_broken_gzip_of_shards_is_corrupt(name: str) -> None:
    stored = HEADER_WRITERS[name].compress(RANDOM)
    for broken in (stored[:-1], stored[: len(stored) // 2], stored + b"junk", b"", b"\xff" * 20):
        with pytest.raises(CorruptDataError):
            decode_gzip_or_zlib(broken)
    with pytest.raises(CorruptDataError):
        decode_gzip_or_zlib(stored, len(RANDOM) - 1)


# ------------------------------------------------------------------------------------------------------------- writing


@given(st.binary(max_size=2000), st.integers(0, 9))
@example(b"", 0)
@example(b"", 9)
@example(bytes(1_000_000), 9)
@example(RANDOM * 40, 0)
def test_what_is_compressed_decodes_to_the_same(body: bytes, level: int) -> None:
    stored = gzip_compress(body, level)
    assert decode(stored, suffix=".gz") == body
    assert decode(stored, content_encoding="gzip") == body
    assert decode(stored) == body
    assert decode(stored, suffix=".gz", raw_length=len(body)) == body
    assert gzip.decompress(stored) == body


@pytest.mark.parametrize("level", range(10))
def test_the_same_bytes_give_the_same_object(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gzip_compress(RANDOM, level)
    monkeypatch.setattr("time.time", lambda: 1_900_000_000.0)
    assert gzip_compress(bytes(RANDOM), level) == first
    assert first[4:8] == bytes(4), "the header has a modification time"
    assert first[3] == 0, "the header has a name, or other fields that may change"


def test_levels_matter() -> None:
    body = b"".join(str(number).encode() for number in range(10_000))
    sizes = [len(gzip_compress(body, level)) for level in (0, 1, 9)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > len(body) > sizes[1] > sizes[2]


@pytest.mark.processes
@pytest.mark.skipif(shutil.which("gzip") is None, reason="there is no gzip command")
@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("body", [b"", b"x", RANDOM], ids=["empty", "one byte", "random"])
def test_the_gzip_command_takes_what_is_compressed(body: bytes, level: int) -> None:
    stored = gzip_compress(body, level)
    subprocess.run(["gzip", "-t"], input=stored, check=True, timeout=10)
    unpacked = subprocess.run(["gzip", "-dc"], input=stored, check=True, timeout=10, stdout=subprocess.PIPE)
    assert unpacked.stdout == body


# ------------------------------------------------------------------------------------------------------------ suffixes


def test_the_suffixes_are_those_of_cloud_volume() -> None:
    assert SUFFIXES == ("", ".gz", ".br", ".zstd", ".xz", ".bz2")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["info", "8_8_40/0-64_0-64_0-64", "mesh/1:0", "a.b", ""])
def test_a_suffix_is_split_off(name: str, suffix: str) -> None:
    assert split_suffix(name + suffix) == (name, suffix)


def test_just_one_suffix_is_split_off() -> None:
    assert split_suffix("0-64.gz.br") == ("0-64.gz", ".br")


@pytest.mark.parametrize("name", ["0-64.GZ", "0-64gz", "0-64.gz/", "0-64.gzip", "0-64.zst"])
def test_what_is_no_suffix_stays(name: str) -> None:
    assert split_suffix(name) == (name, "")
