"""How one chunk of a copy is made: from stored bytes as they are, or from voxels."""

import hashlib
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.codecs import INCOMPRESSIBLE_MIME_TYPES, Codec
from precomputed_fs.copying.plan import Work
from precomputed_fs.errors import CorruptDataError, DataAccessError
from precomputed_fs.format.grid import ChunkCoords, chunk_name, size_of
from precomputed_fs.pyramid.stored import Stored
from precomputed_fs.store.requests import Body

_DIGEST_BYTES = 16


class MadeChunk(NamedTuple):
    """A chunk of the copy."""

    chunk: Stored
    gzip: bool
    fingerprint: bytes
    """What has to come out where it is read back; nothing, if it only has to be decoded, or is not verified."""


def make_chunk(work: Work, coords: ChunkCoords, stored: Stored | None) -> MadeChunk | None:
    """Make a chunk of the copy of the same chunk at the source."""
    if stored is None:
        return None
    if work.recoding is not None:
        data = stored.decoded()
        try:
            voxels = work.recoding.decoder.decode(data, size_of(coords))
        except CorruptDataError as exc:
            raise CorruptDataError(f"{stored.shown}: {exc}") from exc
        return encode_chunk(work, work.recoding.encoder, coords, voxels)
    if work.gzip is None:  # never less readable than at the source
        gzip = stored.is_compressed and (bool(stored.suffix) or work.destination.keeps_encoding)
    else:
        gzip = work.gzip and _is_compressible(work)
    if stored.is_gzip and not work.verify:  # to look into it would take longer than to move it
        return MadeChunk(stored, gzip, b"")
    data = stored.decoded()
    _check_length(work, coords, stored.shown, len(data))
    return MadeChunk(stored, gzip, digest(data) if work.verify else b"")


def _check_length(work: Work, coords: ChunkCoords, name: str, length: int) -> None:
    """Check that a chunk that is moved is not cut short, as far as its length tells."""
    expected = math.prod(size_of(coords)) * work.voxel_bytes
    if not length or (work.is_raw and length != expected):
        what = f"a raw chunk of {expected} bytes" if work.is_raw else "a chunk"
        raise CorruptDataError(f"{name}: {what} is {length} bytes long")


def encode_chunk(work: Work, encoder: Codec, coords: ChunkCoords, voxels: NDArray[Any]) -> MadeChunk:
    """Encode voxels as a chunk of the copy."""
    try:
        data = encoder.encode(voxels)
    except ValueError as exc:
        raise DataAccessError(f"{work.display(coords)} cannot be encoded: {exc}") from exc
    chunk = Stored(work.destination.location, chunk_name(coords), Body([data]), sniff=False)
    fingerprint = voxel_digest(voxels) if work.verify and encoder.lossless else b""
    gzip = work.destination.keeps_encoding if work.gzip is None else work.gzip
    return MadeChunk(chunk, gzip and _is_compressible(work), fingerprint)


def _is_compressible(work: Work) -> bool:
    return work.mime_type not in INCOMPRESSIBLE_MIME_TYPES


def mismatch(work: Work, coords: ChunkCoords, what: str) -> CorruptDataError:
    """Return the error for a chunk of the copy that differs from what was copied."""
    return CorruptDataError(f"{work.display(coords)}: {what}")


def digest(data: bytes) -> bytes:
    """Return a fingerprint of a chunk's bytes."""
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def voxel_digest(voxels: NDArray[Any]) -> bytes:
    """Return a fingerprint of voxels, whatever their order in memory."""
    return hashlib.blake2b(np.ascontiguousarray(voxels.T).data, digest_size=_DIGEST_BYTES).digest()
