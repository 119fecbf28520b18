"""The checks of the compatibility rules: each returns what it found, or None."""

import http
import itertools
import struct
import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

from precomputed_fs.codecs import ENCODINGS
from precomputed_fs.codecs.encoding import CLOUD_VOLUME, NEUROGLANCER, NEUROGLANCER_SCRIPTS, TENSORSTORE
from precomputed_fs.doctor.seen import PAGE_ORIGIN, SeenPyramid, SeenScale
from precomputed_fs.errors import shown

READERS = ("precomputed_fs", NEUROGLANCER, CLOUD_VOLUME, TENSORSTORE, NEUROGLANCER_SCRIPTS)
"""The readers that are judged, by their names in the report."""

CHUNK_TEXTURE, _PLANE_TEXTURE = 2048, 16384  # texels a side of 3-D and 2-D textures, on most GPUs
_EXACT = 1 << 24  # float32 holds all integers up to this
_INT32 = 1 << 31
VOLUME_TYPE = "neuroglancer_multiscale_volume"
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_MOVED = (301, 302, 303, 307, 308)  # RFC 9110, section 15.4
BOM = b"\xef\xbb\xbf"
OURS, NG, CV, TS, NGS = READERS
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
CSEG, CSEG_BLOCK = "compressed_segmentation", "compressed_segmentation_block_size"
_FOREIGN_TO_TS = {"jpeg_quality": ("jpeg", 100), "png_level": ("png", 9)}
_SHARDING_KEYS = {
    "@type",
    "preshift_bits",
    "hash",
    "minishard_bits",
    "shard_bits",
    "minishard_index_encoding",
    "data_encoding",
}
_OPENED = {
    NG: ("http", "s3", "gs"),
    CV: ("file", "http", "s3", "gs"),
    TS: ("file", "http", "s3", "gs"),
    NGS: ("file", "http"),
}
_OPENED_IN = {TS: ("zip",)}
"""The archives that a reader opens wherever it opens files."""


def unopened(reader: str) -> Callable[[SeenPyramid], str | None]:
    def finds(pyramid: SeenPyramid) -> str | None:
        first, *others = pyramid.protocols
        if len(others) == 1 and first in _OPENED_IN.get(reader, ()):
            (first,) = others
        is_served = reader == NG and first == "file"
        return None if is_served or first in _OPENED[reader] else f"{pyramid.protocol}://"

    return finds


def unknown_encoding(reader: str) -> Callable[[SeenScale], str | None]:
    def finds(scale: SeenScale) -> str | None:
        encoding = ENCODINGS.get(scale.encoding)
        is_known = encoding is not None and (reader == OURS or encoding.is_known_to(reader))
        return None if is_known else shown(scale.given.get("encoding"))

    return finds


def undecodable(reader: str) -> Callable[[SeenScale], str | None]:
    def finds(scale: SeenScale) -> str | None:
        data_type, channels = scale.pyramid.data_type, scale.pyramid.channels
        encoding = ENCODINGS.get(scale.encoding)
        if encoding is None or not encoding.is_known_to(reader) or encoding.is_read_by(reader, data_type, channels):
            return None
        return f"{scale.encoding} of {channels} x {shown(data_type)}"

    return finds


def when(is_so: object, what: object = "") -> str | None:
    return str(what) if is_so else None


def in_state(*states: str) -> Callable[[SeenPyramid], str | None]:
    return lambda pyramid: when(pyramid.state in states, pyramid.said)


def with_suffix(reader: str) -> Callable[[SeenScale], str | None]:
    """Find chunks under names that a reader does not look for."""
    looked_for = {CV: (".gz", ".br", ".zstd", ".xz", ".bz2"), NGS: (".gz",)}.get(reader, ())

    def finds(scale: SeenScale) -> str | None:
        known = looked_for if scale.pyramid.protocol == "file" else ()
        return scale.having(lambda sample: sample.suffix and sample.suffix not in known)

    return finds


def encoded_as(*encodings: str) -> Callable[[SeenScale], str | None]:
    def finds(scale: SeenScale) -> str | None:
        said = {sample.content_encoding for sample in scale.samples} & set(encodings)
        return when(said, ", ".join(sorted(said)))

    return finds


def chunks(*states: str) -> Callable[[SeenScale], str | None]:
    def finds(scale: SeenScale) -> str | None:
        found = scale.having(lambda sample: sample.state in states)
        said = next((sample.said for sample in scale.samples if sample.state in states), "")
        return found and f"{found}: {said}"

    return finds


def unlisted(is_so: Callable[[SeenPyramid], bool] = lambda _: True) -> Callable[[SeenScale], str | None]:
    def finds(scale: SeenScale) -> str | None:
        return scale.having(lambda sample: sample.state == "unlisted" and is_so(scale.pyramid))

    return finds


def all_absent(scale: SeenScale) -> str | None:
    return when(scale.samples and all(sample.state == "absent" for sample in scale.samples), len(scale.samples))


def other_case(value: object) -> str | None:
    return when(isinstance(value, str) and value != value.lower(), shown(value))


def sharding_case(scale: SeenScale) -> str | None:
    given = scale.given.get("sharding") or {}
    values = (given.get(name) for name in ("hash", "minishard_index_encoding", "data_encoding"))
    return next(filter(None, map(other_case, values)), None)


def sharding_extra(scale: SeenScale) -> str | None:
    extra = sorted((scale.given.get("sharding") or {}).keys() - _SHARDING_KEYS)
    return when(extra, ", ".join(map(shown, extra)))


def foreign_keys(scale: SeenScale) -> str | None:
    """Find what tensorstore refuses: members of another encoding, and values out of range."""
    given = scale.given
    wrong = [
        name
        for name, (encoding, most) in _FOREIGN_TO_TS.items()
        if name in given and (scale.encoding != encoding or not _is_whole(given[name], 0, most))
    ]
    if CSEG_BLOCK in given and scale.encoding != CSEG:
        wrong.append(CSEG_BLOCK)
    return when(wrong, ", ".join(wrong))


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int | float) and least <= value <= most and float(value).is_integer()


def floats(scale: SeenScale) -> str | None:
    values = [*scale.given["size"], *itertools.chain(*scale.given["chunk_sizes"])]
    floats = [value for value in values if isinstance(value, float)]
    return when(floats, floats[0] if floats else "")


def block_size(scale: SeenScale) -> Sequence[Any] | None:
    size = scale.given.get(CSEG_BLOCK)
    is_one = isinstance(size, list) and len(size) == 3 and all(_is_whole(side, 1, _INT32) for side in size)  # noqa: PLR2004
    return size if is_one else None


def lacks_block_size(scale: SeenScale) -> str | None:
    return when(scale.encoding == CSEG and block_size(scale) is None)


def unopenable(scale: SeenScale) -> str | None:
    """Find what is wrong with a scale, unless another rule reports it."""
    is_known = scale.encoding not in ENCODINGS or lacks_block_size(scale) is not None
    return when(scale.wrong and not is_known, scale.wrong)


def resolution_falls(pyramid: SeenPyramid) -> str | None:
    for finer, coarser in itertools.pairwise(pyramid.scales):
        if any(map(float.__gt__, map(float, finer.given["resolution"]), map(float, coarser.given["resolution"]))):
            return f"{coarser.key} after {finer.key}"
    return None


def beyond(scale: SeenScale, limit: int) -> str | None:
    bounds = scale.grid.bounds
    extremes = [*bounds.start, *bounds.stop, *scale.grid.size]
    far = [value for value in extremes if not -limit <= value <= limit]
    return when(far, max(far, key=abs, default=0))


def beyond_int32(scale: SeenScale) -> str | None:
    return beyond(scale, _INT32 - 1)


def imprecise(scale: SeenScale) -> str | None:
    return beyond(scale, _EXACT) if scale.sharding is not None or rounded_chunk(scale) is None else None


def rounded_chunk(scale: SeenScale) -> str | None:
    """Find a chunk whose coordinates float32 cannot hold, so that the client computes a wrong name."""
    if scale.sharding is not None:
        return None
    grid = scale.grid
    for axis, size in enumerate(grid.size):
        offset, step, count = grid.voxel_offset[axis], grid.chunk_size[axis], grid.shape[axis]
        ends = (0, 1, count // 2, count - 2, count - 1)  # numbers of one parity fail together, or the largest do
        begins = {index * step for index in ends if 0 <= index < count}
        held = (offset, size, *begins, *(offset + begin for begin in begins))
        wrong = next((value for value in held if _float32(value) != value), None)
        if wrong is not None:
            return f"{wrong} along {'xyz'[axis]}"
    return None


def _float32(value: int) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def too_large_texture(scale: SeenScale) -> str | None:
    """Lay out a chunk as the client does: as many axes as fit along each side of a texture."""
    is_labels = scale.pyramid.kind == "segmentation" and scale.pyramid.data_type in ("uint32", "uint64")
    if scale.encoding == CSEG or is_labels:
        return None  # these are compressed, and laid out differently
    shape = [*map(min, scale.grid.chunk_size, scale.grid.size), scale.pyramid.channels]
    shape = [size for size in shape if size > 1]
    dimensions = 3 if len(shape) > 2 else 2  # noqa: PLR2004
    most = CHUNK_TEXTURE if dimensions > 2 else _PLANE_TEXTURE  # noqa: PLR2004
    sides = [1]
    for size in shape:
        if size * sides[-1] > most or (sides[-1] != 1 and len(sides) - 1 + len(shape) < dimensions):
            sides.append(size)
        else:
            sides[-1] *= size
    too_large = len(sides) > dimensions or max(sides) > most
    return when(too_large, " x ".join(map(str, shape)))


def mixed_shards(scale: SeenScale) -> str | None:
    others = (other.given.get("sharding") for other in scale.pyramid.scales)
    return when(scale.sharding is not None and not all(others))


def is_sharded(pyramid: SeenPyramid) -> bool:
    return any(scale.sharding is not None for scale in pyramid.scales)


def lacks_cors(pyramid: SeenPyramid) -> str | None:
    server = pyramid.server
    if server is None or server.status not in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
        return None
    return when(server.allowed_origin not in ("*", PAGE_ORIGIN), shown(server.allowed_origin))


def ignores_range(pyramid: SeenPyramid) -> bool:
    return pyramid.server is not None and pyramid.server.status == http.HTTPStatus.OK


def is_moved(pyramid: SeenPyramid) -> str | None:
    server = pyramid.server
    return when(pyramid.protocol == "http" and server and server.status in _MOVED, server and server.status)


def is_private(pyramid: SeenPyramid) -> str | None:
    is_private = pyramid.server is not None and not pyramid.server.is_anonymous and pyramid.state == "found"
    return when(is_private, pyramid.server and f"{pyramid.server.status} {pyramid.server.said}")


def is_mixed_content(pyramid: SeenPyramid) -> str | None:
    parts = urllib.parse.urlsplit(pyramid.location.links[0].url)
    return when(parts.scheme == "http" and (parts.hostname or "") not in _LOOPBACK)


def empty_segments(scale: SeenScale) -> str | None:
    parts = scale.key.split("/")
    return when(scale.pyramid.protocol != "http" and {"", "."} & set(parts), shown(scale.key))
