"""How one object is compressed: its suffix, its Content-Encoding, encoding and decoding.

A compressed object has a ``Content-Encoding`` (on buckets and web servers) or a suffix to its name
(in files). Every compression that cloud-volume writes can be read. Writing always uses gzip, with
a modification time of 0, so that equal bytes give equal objects.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from precomputed_fs.errors import CorruptDataError

GZIP_SUFFIX = ".gz"
GZIP_ENCODING = "gzip"

_LARGEST_CHECKED = 1 << 26  # bytes to decode in order to recognize gzip
_GZIP_MAGIC = b"\x1f\x8b\x08"
_XZ_MEMORY = 1 << 27  # memory in bytes that a stream may require; xz -9 requires 65 MiB
_DEFLATE_MAX_RATIO = 1032  # bytes out per byte in; the format cannot do better
_INPUT = 1 << 16  # bytes per call of a decoder
_OUTPUT = 1 << 20  # bytes per call of a decoder
MAX_DECODED_SIZE = 1 << 30
"""The most bytes that an object of unknown size may decode to (1 GiB)."""


class TooLargeError(CorruptDataError):
    """An object has more bytes than are possible."""


class _OverLimitError(ValueError):
    """The decoded bytes exceed the limit."""


def too_large(limit: int, size: int | None = None) -> TooLargeError:
    """Make the error for an object that exceeds a limit in bytes; `size` is its own, if known."""
    return TooLargeError(f"more than {limit} bytes" if size is None else f"{size} bytes, which is more than {limit}")


def stored_limit(limit: int) -> int:
    """Return the most bytes that an object may have stored if it may have `limit` bytes decoded.

    Compression enlarges incompressible bytes by a header and 1 % at most.
    """
    return limit + limit // 16 + (1 << 16)


def _decode_members(new: Callable[[], Any], data: bytes, limit: int, *, padded: bool = False) -> bytes:
    """Decode concatenated streams with the standard library; `padded` allows zeros after them.

    The parts are joined only once their total is known to be within the limit.
    """
    whole = rest = memoryview(data)
    parts: list[bytes] = []
    size = 0
    while rest or not parts:
        member = new()
        while not member.eof:
            given = getattr(member, "unconsumed_tail", b"")  # zlib hands it back, other decoders keep it
            if getattr(member, "needs_input", not given):
                given, rest = rest[:_INPUT], rest[_INPUT:]
            part = member.decompress(given, min(_OUTPUT, limit - size + 1))
            if not (given or part or member.eof):
                raise ValueError("the stream ends too early")
            size += len(part)
            if size > limit:
                raise _OverLimitError
            parts.append(part)
        rest = whole[len(whole) - len(rest) - len(member.unused_data) :]
        if padded and rest and not rest[0]:
            rest = rest[len(rest) - len(bytes(rest).lstrip(b"\0")) :]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _decode_gzip(data: bytes, limit: int) -> bytes:
    """Decode gzip: a single member with the fast library, anything else with zlib.

    The fast library checks the first member and ignores the rest. So its result counts only if the
    size at the end of the data is that of this member, and if no other member can begin after it.
    """
    import imagecodecs  # noqa: PLC0415 - imports NumPy, which reading bytes does not need

    size = int.from_bytes(data[-4:], "little")
    if size <= min(limit, len(data) * _DEFLATE_MAX_RATIO) and data.rfind(_GZIP_MAGIC, 1) < 0:  # twice as fast as find
        try:
            decoded = bytes(imagecodecs.gzip_decode(data, out=max(size, 1)))
        except (RuntimeError, ValueError, SystemError):
            pass
        else:
            if len(decoded) == size:
                return decoded
    return _decode_members(lambda: zlib.decompressobj(wbits=31), data, limit, padded=True)


def _decode_zlib(data: bytes, limit: int) -> bytes:
    return _decode_members(zlib.decompressobj, data, limit)


def _decode_deflate(data: bytes, limit: int) -> bytes:
    """Decode HTTP's "deflate": zlib according to the standard, raw deflate from old servers."""
    try:
        return _decode_zlib(data, limit)
    except zlib.error:
        return _decode_members(lambda: zlib.decompressobj(wbits=-15), data, limit)


def _decode_brotli(data: bytes, limit: int) -> bytes:
    import brotli  # noqa: PLC0415 - rarely needed

    try:
        return _decode_brotli_stream(brotli.Decompressor(), data, limit)
    except brotli.error as exc:
        raise ValueError(str(exc)) from exc


def _decode_brotli_stream(decoder: Any, data: bytes, limit: int) -> bytes:  # noqa: ANN401 - brotli ships no types
    most = min(limit + 1, _OUTPUT)
    parts = [decoder.process(data, output_buffer_limit=most)]
    size = len(parts[0])
    while size <= limit and not decoder.is_finished():
        if not parts[-1] and decoder.can_accept_more_data():
            raise ValueError("the stream ends too early")
        parts.append(decoder.process(b"", output_buffer_limit=most))
        size += len(parts[-1])
    if size > limit:
        raise _OverLimitError
    return b"".join(parts)


def _decode_zstd(data: bytes, limit: int) -> bytes:
    """Decode zstd, whose decoder needs the size: guess it, and enlarge the guess while it is too small."""
    import imagecodecs  # noqa: PLC0415 - imports NumPy

    if not data:
        raise ValueError("the stream ends too early")
    size = min(limit, max(1 << 16, 8 * len(data)))
    while True:
        try:
            decoded = bytes(imagecodecs.zstd_decode(data, out=max(size, 1)))
        except imagecodecs.ZstdError as exc:
            if "too small" not in str(exc):
                raise
            if size == limit:
                raise _OverLimitError from exc
            size = min(limit, 8 * size)
        else:
            if len(decoded) > limit:
                raise _OverLimitError
            return decoded


def _decode_xz(data: bytes, limit: int) -> bytes:
    return _decode_members(lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), data, limit)


def _decode_bz2(data: bytes, limit: int) -> bytes:
    return _decode_members(bz2.BZ2Decompressor, data, limit)


def _decode_lzma(data: bytes, limit: int) -> bytes:
    return _decode_members(lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_XZ_MEMORY), data, limit)


@dataclass(frozen=True, slots=True)
class Compression:
    """A compression: its names and its decoder."""

    suffix: str
    """Appended to an object's name; empty if only a header names the compression."""

    encodings: tuple[str, ...]
    """Its names in a ``Content-Encoding`` header, in lower case."""

    decode: Callable[[bytes, int], bytes]
    """``(data, limit) -> bytes``: decode to at most ``limit`` bytes, or raise."""


_TABLE = (
    Compression(GZIP_SUFFIX, (GZIP_ENCODING, "x-gzip"), _decode_gzip),
    Compression(".br", ("br",), _decode_brotli),
    Compression(".zstd", ("zstd",), _decode_zstd),
    Compression(".xz", ("xz",), _decode_xz),
    Compression(".bz2", ("bzip2", "bz2", "x-bzip2"), _decode_bz2),
    Compression("", ("deflate",), _decode_deflate),
)
_ZLIB = Compression("", (), _decode_zlib)
_BY_ENCODING = {name: row for row in _TABLE for name in row.encodings}
_ZIP_LZMA = 14
_BY_ZIP_METHOD = {12: _BY_ENCODING["bz2"], 93: _BY_ENCODING["zstd"], _ZIP_LZMA: Compression("", (), _decode_lzma)}
_BY_SUFFIX = {row.suffix: row for row in _TABLE if row.suffix}

ZIP_METHODS = frozenset(_BY_ZIP_METHOD)
"""The methods of ZIP archives that `decode_zip_member` decodes: bz2, LZMA and zstd."""

SUFFIXES = ("", *_BY_SUFFIX)
"""What may follow an object's name: nothing, then suffixes from the most to the least common."""

ACCEPT_ENCODING = "gzip, br, zstd"
"""The compressions that servers may use: those of browsers that `decode` knows."""


def gzip_compress(data: bytes, level: int) -> bytes:
    """Compress with gzip; equal bytes are compressed to equal bytes.

    Parameters
    ----------
    data : bytes
    level : int
        0 (stored) to 9 (smallest), as libdeflate counts, which cloud-volume uses too. Compared with zlib at
        the same level, it takes a fifth to a half of the time; images and compressed_segmentation come out
        smaller, raw labels 5 % larger at level 9.
    """
    import imagecodecs  # noqa: PLC0415 - imports NumPy

    return bytes(imagecodecs.gzip_encode(data, level))


def split_suffix(name: str) -> tuple[str, str]:
    """Split the suffix of a compression off a name.

    Examples
    --------
    >>> split_suffix("0-64_0-64_0-64.gz"), split_suffix("info")
    (('0-64_0-64_0-64', '.gz'), ('info', ''))
    """
    for suffix in _BY_SUFFIX:
        if name.endswith(suffix):
            return name[: -len(suffix)], suffix
    return name, ""


def may_be_gzip(data: bytes) -> bool:
    """Tell whether bytes begin like gzip."""
    return data[:3] == _GZIP_MAGIC


def is_gzip(data: bytes) -> bool:
    """Tell whether bytes are gzip from beginning to end, or too many to check."""
    try:
        return _try_gzip(data, _LARGEST_CHECKED) is not None
    except CorruptDataError:
        return True


def decode(
    data: bytes,
    *,
    suffix: str = "",
    content_encoding: str = "",
    raw_length: int | None = None,
    limit: int | None = None,
    sniff: bool = True,
) -> bytes:
    """Undo the compression of one stored object.

    Bytes must decode as a suffix or a header says. Without either, bytes that begin like gzip are
    decoded if they are gzip to the last byte: some filesystems return stored bytes without their
    headers, and some files are uploaded without headers.

    Parameters
    ----------
    data : bytes
        The body as stored or served.
    suffix : str
        The compression's suffix in the object's name, one of `SUFFIXES`.
    content_encoding : str
        The ``Content-Encoding`` of the response, still to be undone.
    raw_length : int, optional
        The length in bytes of the decoded object, if known (raw chunks). Without suffix and header,
        bytes of exactly this length are returned as they are.
    limit : int, optional
        The most bytes that the object may decode to; by default `raw_length`, or `MAX_DECODED_SIZE`.
    sniff : bool
        Whether gzip may be recognized by its content.

    Raises
    ------
    TooLargeError
        If the object has more bytes than the limit.
    CorruptDataError
        If the bytes are not what the suffix or the header says. The message does not name the
        object: the caller does.
    """
    if limit is None:
        limit = MAX_DECODED_SIZE if raw_length is None else raw_length
    told = [(row, f"Content-Encoding {row.encodings[0]}") for row in _header_rows(content_encoding)]
    if suffix:
        told.append((_BY_SUFFIX[suffix], f"suffix {suffix}"))
    if not told:
        return _sniffed(data, limit, raw_length) if sniff else _checked(data, limit)
    for row, told_by in told[:-1]:
        data = _decode_row(row, data, stored_limit(limit), told_by)
    row, told_by = told[-1]
    try:
        return _decode_row(row, data, limit, told_by)
    except TooLargeError:
        raise
    except CorruptDataError:
        # Web servers often serve x.gz, compressed once, with Content-Encoding: gzip.
        # The header and the suffix mean the same compression, which is undone already.
        told_twice = suffix and any(row is header_row for header_row, _ in told[:-1])
        if told_twice and len(data) <= limit:
            return data
        raise


def _sniffed(data: bytes, limit: int, raw_length: int | None) -> bytes:
    """Decode bytes that are not marked as compressed, if they are gzip to the last byte."""
    if len(data) == raw_length:
        return data
    decoded = _try_gzip(data, limit)
    return _checked(data, limit) if decoded is None else decoded


def _checked(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise too_large(limit, len(data))
    return data


def decode_gzip_or_zlib(data: bytes, limit: int = MAX_DECODED_SIZE) -> bytes:
    """Decode the "gzip" of shards: RFC 1952, or the zlib streams of neuroglancer-scripts.

    Raises
    ------
    CorruptDataError
        If it is neither, or decodes to more bytes than the limit.
    """
    row = _BY_ENCODING[GZIP_ENCODING] if may_be_gzip(data) else _ZLIB
    return _decode_row(row, data, limit, "shard's encoding gzip")


def decode_zip_member(data: bytes, method: int, size: int, *, has_end_mark: bool) -> bytes:
    """Decode a member of a ZIP archive.

    Parameters
    ----------
    method : int
        One of `ZIP_METHODS`.
    size : int
        The size in bytes of the member, according to the archive.
    has_end_mark : bool
        Whether an LZMA stream marks its end.

    Raises
    ------
    CorruptDataError
        If it does not decode, or decodes to more bytes.
    """
    if method == _ZIP_LZMA:  # rewrite its header as that of an .lzma file
        begin = 4 + int.from_bytes(data[2:4], "little")
        length = b"\xff" * 8 if has_end_mark else size.to_bytes(8, "little")
        data = b"".join((data[4:begin], length, data[begin:]))
    return _decode_row(_BY_ZIP_METHOD[method], data, size, "archive")


def _header_rows(content_encoding: str) -> Iterator[Compression]:
    """Yield the codings of a header in the order in which to undo them."""
    names = [name.strip().lower() for name in content_encoding.split(",")]
    for name in reversed(names):
        if name in ("", "identity", "aws-chunked"):
            continue  # aws-chunked is the framing of an S3 upload, not of the stored object
        if name not in _BY_ENCODING:
            raise CorruptDataError(f"unknown Content-Encoding {name!r}")
        yield _BY_ENCODING[name]


def _decode_row(row: Compression, data: bytes, limit: int, told_by: str) -> bytes:
    try:
        return row.decode(data, limit)
    except _OverLimitError:
        raise TooLargeError(f"{len(data)} bytes decode to more than {limit}, as the {told_by} says") from None
    except (RuntimeError, ValueError, EOFError, OSError, zlib.error, lzma.LZMAError) as exc:
        raise CorruptDataError(f"{len(data)} bytes do not decode as the {told_by} says: {exc}") from exc


def _try_gzip(data: bytes, limit: int) -> bytes | None:
    if not may_be_gzip(data):
        return None
    try:
        return _decode_gzip(data, limit)
    except _OverLimitError:
        raise TooLargeError(f"a gzip stream of {len(data)} bytes decodes to more than the {limit} expected") from None
    except (ValueError, zlib.error):
        return None
