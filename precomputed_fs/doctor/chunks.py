"""How some chunks and a shard index of a scale are examined."""

import functools
import struct

from precomputed_fs.codecs import Codec, jpeg_segments
from precomputed_fs.doctor.seen import Sample, SeenScale
from precomputed_fs.errors import AccessDeniedError, CorruptDataError, DataAccessError, NotFoundError
from precomputed_fs.format.grid import ChunkCoords, chunk_name, size_of
from precomputed_fs.format.shard_index import minishard_index_range, page_of
from precomputed_fs.format.sharding import ENTRY_BYTES, Sharding
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.pyramid.stored import Stored
from precomputed_fs.store.requests import Compute, Job
from precomputed_fs.volume import one_line

_GZIP_MAGIC, _ZLIB_MAGICS = b"\x1f\x8b", (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_PROGRESSIVE_FRAMES = (0xC2, 0xC6, 0xCA, 0xCE)  # SOF markers (ITU-T T.81, table B.1)


def examine_chunk(pyramid: Pyramid, key: str, coords: ChunkCoords, codec: Codec) -> Job[list[Sample]]:
    """Find a chunk, and examine it in a thread of the pool."""
    found: Stored | Exception
    try:
        found = yield from pyramid.finder.chunk(pyramid.finder.checked(key), coords)
    except (DataAccessError, ValueError) as exc:
        found = exc
    return [(yield Compute(functools.partial(_examined, coords, found, codec)))]


def _examined(coords: ChunkCoords, found: Stored | Exception, codec: Codec) -> Sample:
    """Return how a chunk is stored, and whether it can be decoded."""
    name = chunk_name(coords)
    try:
        if isinstance(found, Exception):
            raise found
        name = found.shown
        data = found.decoded()
        codec.decode(data, size_of(coords))
    except (DataAccessError, ValueError) as exc:
        is_unlisted = isinstance(exc, AccessDeniedError) and exc.may_mean_absent
        return Sample(coords, "unlisted" if is_unlisted else state_of(exc), one_line(str(exc)), name)
    except ImportError as exc:
        return Sample(coords, "undecodable", str(exc), name)
    stored, said = found.data, found.body.content_encoding
    return Sample(
        coords,
        "found",
        name=found.name,
        suffix=found.suffix,
        is_flat=bool(found.part) or found.name.endswith(f"/{chunk_name(coords)}{found.suffix}"),
        content_encoding=said,
        is_hidden_gzip=not found.part and is_hidden_gzip(found.suffix, said, stored, data),
        is_zlib=found.shard_encoding == "gzip" and stored.startswith(_ZLIB_MAGICS),
        is_gzip=found.shard_encoding == "gzip" and stored.startswith(_GZIP_MAGIC),
        is_progressive=codec.encoding == "jpeg"
        and any(kind in _PROGRESSIVE_FRAMES for kind, _, _ in jpeg_segments(data)),
    )


def is_hidden_gzip(suffix: str, content_encoding: str, stored: bytes, data: bytes) -> bool:
    """Whether bytes are gzip although neither suffix nor header says so."""
    return not suffix and not content_encoding and stored.startswith(_GZIP_MAGIC) and stored != data


def state_of(exc: Exception) -> str:
    """Return the state of an object that raised an error: see `Sample.state`."""
    kinds = ((NotFoundError, "absent"), (AccessDeniedError, "denied"), (CorruptDataError, "damaged"))
    return next((state for kind, state in kinds if isinstance(exc, kind)), "failed")


def examine_indexes(seen: SeenScale, pyramid: Pyramid, key: str, sharding: Sharding) -> None:
    """Examine the stored bytes of a shard's index, and of one minishard's."""
    coords = next((sample.coords for sample in seen.samples if sample.state == "found"), None)
    if coords is None:
        return
    shard, minishard = sharding.locate(seen.grid.chunk_id(coords))
    page, name = page_of(minishard, sharding), f"{sharding.shard_name(key, shard)}.shard"
    try:
        index = pyramid.fetch_range(name, page.start, page.end)
        place = minishard_index_range(index, minishard, sharding)
        if place is None:
            return
        start = sharding.index_size + place.start
        stored = pyramid.fetch_range(name, start, sharding.index_size + place.end)
    except DataAccessError:  # the older pair of files, which chunks' names tell; or damage, which chunks show
        return
    entries = struct.iter_unpack("<QQ", index[: len(index) // ENTRY_BYTES * ENTRY_BYTES])
    seen.has_empty_minishards = any(first == last for first, last in entries)
    if sharding.minishard_index_encoding == "gzip":
        seen.has_zlib_index = stored.startswith(_ZLIB_MAGICS)
        seen.has_gzip_index = stored.startswith(_GZIP_MAGIC)
