"""How one chunk of a copy is made: of stored bytes as they are, or of voxels."""

import hashlib
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.codecs import INCOMPRESSIBLE_MIME_TYPES, Codec
from precomputed_fs.copying.plan import ScaleCopy
from precomputed_fs.errors import CorruptDataError, DataAccessError
from precomputed_fs.format.grid import ChunkCoords, chunk_name, size_of
from precomputed_fs.pyramid.stored import Stored
from precomputed_fs.store.requests import Body

_DIGEST_BYTES = 16


class NewChunk(NamedTuple):
    """A chunk of the copy."""

    chunk: Stored
    gzip: bool
    fingerprint: bytes
    """The digest of what must be read back; empty if the chunk only has to be decodable, or is not verified."""


def make_chunk(copy: ScaleCopy, coords: ChunkCoords, stored: Stored | None) -> NewChunk | None:
    """Make a chunk of the copy from the same chunk of the source."""
    if stored is None:
        return None
    if copy.transcoding is not None and not copy.moves(coords):
        data = stored.decoded()
        try:
            voxels = copy.transcoding.decoder.decode(data, size_of(coords))
        except CorruptDataError as exc:
            raise CorruptDataError(f"{stored.shown}: {exc}") from exc
        return encode_chunk(copy, copy.transcoding.encoder, coords, voxels)
    if copy.gzip is None:  # stay as readable as at the source
        gzip = stored.is_compressed and (bool(stored.suffix) or copy.destination.keeps_encoding)
    else:
        gzip = copy.gzip and _is_compressible(copy)
    if stored.is_gzip and not copy.verify:  # decompressing to check would take longer than copying
        return NewChunk(stored, gzip, b"")
    data = stored.decoded()
    _check_length(copy, coords, stored.shown, len(data))
    return NewChunk(stored, gzip, digest(data) if copy.verify else b"")


def _check_length(copy: ScaleCopy, coords: ChunkCoords, name: str, length: int) -> None:
    """Check that a chunk is not truncated, as far as its length tells."""
    expected = math.prod(size_of(coords)) * copy.voxel_bytes
    if not length or (copy.is_raw and length != expected):
        what = f"a raw chunk of {expected} bytes" if copy.is_raw else "a chunk"
        raise CorruptDataError(f"{name}: {what} is {length} bytes long")


def encode_chunk(copy: ScaleCopy, encoder: Codec, coords: ChunkCoords, voxels: NDArray[Any]) -> NewChunk:
    """Encode voxels as a chunk of the copy."""
    try:
        data = encoder.encode(voxels)
    except ValueError as exc:
        raise DataAccessError(f"{copy.display(coords)} cannot be encoded: {exc}") from exc
    chunk = Stored(copy.destination.location, chunk_name(coords), Body([data]), sniff=False)
    fingerprint = voxel_digest(voxels) if copy.verify and encoder.lossless else b""
    gzip = copy.destination.keeps_encoding if copy.gzip is None else copy.gzip
    return NewChunk(chunk, gzip and _is_compressible(copy), fingerprint)


def _is_compressible(copy: ScaleCopy) -> bool:
    return copy.mime_type not in INCOMPRESSIBLE_MIME_TYPES


def mismatch(copy: ScaleCopy, coords: ChunkCoords, what: str) -> CorruptDataError:
    """Return the error for a chunk of the copy that differs from what was copied."""
    return CorruptDataError(f"{copy.display(coords)}: {what}")


def digest(data: bytes) -> bytes:
    """Return a fingerprint of a chunk's bytes."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def voxel_digest(voxels: NDArray[Any]) -> bytes:
    """Return a fingerprint of voxels, whatever their order in memory."""
    return hashlib.blake2b(np.ascontiguousarray(voxels.T).data, digest_size=_DIGEST_BYTES).digest()
