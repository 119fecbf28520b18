"""Bytes <-> ndarray: the table of encodings, one module each, and the codec of a scale.

A chunk is an array of shape (x, y, z, channel); its bytes are in one of the encodings that ``info`` may
name. Libraries do the encoding and decoding, and are imported when a chunk first needs them. The modules
of this package add what libraries do not know: how a volume becomes an image, and that stored bytes may
be damaged. Several libraries trust their input, and write or read beyond their buffers if it is wrong.
So the structure of the data is checked, or the data are rewritten such that nothing in them can lead
outside, before a library sees them. Where neither is possible, the library runs in a process of its own.
"""

import copy
import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from precomputed_fs.codecs.chunks import (
    AXES,
    Array,
    ChunkIndex,
    ChunkKind,
    ChunkPart,
    DamagedError,
    UnstorableError,
)
from precomputed_fs.codecs.compressed_segmentation import COMPRESSED_SEGMENTATION
from precomputed_fs.codecs.compresso import COMPRESSO
from precomputed_fs.codecs.crackle import CRACKLE
from precomputed_fs.codecs.encoding import VOXEL_TYPES, Encoding, Parameter, is_integer
from precomputed_fs.codecs.fpzip import FPZIP, KEMPRESSED
from precomputed_fs.codecs.jpeg import JPEG, jpeg_segments
from precomputed_fs.codecs.jxl import JXL
from precomputed_fs.codecs.png import PNG
from precomputed_fs.codecs.raw import RAW
from precomputed_fs.codecs.zfpc import ZFPC
from precomputed_fs.errors import CorruptDataError, InvalidInfoError, expected_one_of
from precomputed_fs.format.grid import Triple
from precomputed_fs.format.scale_layout import Chunk, Pieces

__all__ = [
    "ENCODINGS",
    "INCOMPRESSIBLE_MIME_TYPES",
    "ROOM",
    "ChunkPart",
    "Codec",
    "Encoding",
    "Parameter",
    "codec_for",
    "encoding_named",
    "jpeg_segments",
    "largest_chunk",
    "take_parameters",
]

ENCODINGS: Mapping[str, Encoding] = {
    encoding.name: encoding
    for encoding in (
        RAW,
        JPEG,
        PNG,
        JXL,
        COMPRESSED_SEGMENTATION,
        COMPRESSO,
        CRACKLE,
        FPZIP,
        KEMPRESSED,
        ZFPC,
    )
}
"""Each encoding of a scale that Neuroglancer, tensorstore or cloud-volume knows, by its name in `info`."""

INCOMPRESSIBLE_MIME_TYPES = frozenset(
    ("application/json", *(encoding.mime_type for encoding in ENCODINGS.values() if encoding.is_compressed))
)
"""The types that neuroglancer-scripts never compresses: Neuroglancer and browsers read them directly."""

ROOM = 1 << 20
"""Bytes that a chunk may have for headers and metadata (1 MiB)."""

_WORTH_A_PART = 1 << 14  # bytes that need not be read (16 KiB)
_DATA_TYPES = (*VOXEL_TYPES, "int64", "float64")  # the last two are not in the format, but cloud-volume writes them


@dataclass(frozen=True, slots=True)
class Codec(ChunkKind):
    """How the chunks of one scale are decoded and encoded. Made by `codec_for`; it can be pickled."""

    encoding: str
    """A name in `ENCODINGS`."""

    place: str = "scale"
    """What messages call the scale."""

    @property
    def row(self) -> Encoding:
        """The encoding's row in the table."""
        return ENCODINGS[self.encoding]

    @property
    def mime_type(self) -> str:
        """The content type of an encoded chunk."""
        return self.row.mime_type

    @property
    def lossless(self) -> bool:
        """Whether decoding returns the voxels that were encoded."""
        return self.row.lossless(self.parameters)

    def decode(self, data: bytes, size: Triple) -> Array:
        """Decode a chunk.

        Parameters
        ----------
        data : bytes
        size : tuple of int
            The chunk's size in voxels, xyz, clipped to the volume.

        Returns
        -------
        ndarray
            ``[x, y, z, channel]``, of `dtype`. It may be read-only, a view of the data, or have any
            strides: callers copy it to where it belongs.

        Raises
        ------
        CorruptDataError
            If the data are not a chunk of this size. The message leaves it to the caller to name the
            chunk. JPEG, compresso and fpzip have no checksums, so a changed byte goes unnoticed as long
            as the structure is right.
        ImportError
            If the encoding's library is not installed; the message says how to install it.
        """
        try:
            return self.row.decode(self, data, size)
        except (DamagedError, ImportError) as exc:
            raise self._explained(exc, data, size) from exc

    def pieces(self, size: Triple, index: ChunkIndex) -> Pieces | None:
        """Tell which bytes of a chunk hold some voxels, where these are much fewer than all: raw chunks only.

        Parameters
        ----------
        size, index
            See `decode_part`.

        Returns
        -------
        sequence of tuple of int, or None
            Where pieces of the uncompressed chunk begin and end; `decode_part` takes a `ChunkPart` of these, too.
        """
        row = self.row
        length = math.prod(size) * self.num_channels * self.dtype.itemsize
        if row.pieces is None or length < _WORTH_A_PART:
            return None
        pieces = row.pieces(self, size, index)
        needed = sum([end - begin for begin, end in pieces])
        return pieces if needed <= min(length // 2, length - _WORTH_A_PART) else None

    def decode_part(self, data: bytes | ChunkPart, size: Triple, index: ChunkIndex, out: Array | None = None) -> Array:
        """Decode some voxels of a chunk. In compressed_segmentation, only the blocks that hold them are decoded.

        Parameters
        ----------
        data : bytes or ChunkPart
            The chunk, or the part of it that has the voxels: see `pieces`.
        size : tuple of int
            The size of the whole chunk in voxels, xyz, clipped to the volume.
        index : tuple
            Which voxels: ``(x, y, z, channels)``. A box is four slices with positive steps. Points are three
            arrays of integers, each of shape (n,), and a slice.
        out : ndarray, optional
            Where the voxels go, with any strides: ``[x, y, z, channel]`` of a box, ``[point, channel]`` of points.

        Returns
        -------
        ndarray
            `out`, or, without it, an array like those of `decode`.

        Raises
        ------
        CorruptDataError
            If the data are not a chunk of this size. Damage to blocks that hold none of the voxels may go unnoticed.
        ImportError
            See `decode`.
        """
        row = self.row
        try:
            if isinstance(data, ChunkPart):
                if row.decode_pieces is None:
                    raise TypeError(f"{row.name}: part of a chunk")
                part = row.decode_pieces(self, data, size, index)
            elif row.decode_part is None:
                part = row.decode(self, data, size)[index]
            else:
                part = row.decode_part(self, data, size, index, out)
        except (DamagedError, ImportError) as exc:
            raise self._explained(exc, data if isinstance(data, bytes) else data.data, size) from exc
        if out is None or part is out:
            return part
        out[...] = part
        return out

    def encode(self, array: Array) -> bytes:
        """Encode a chunk; the same array gives the same bytes.

        Parameters
        ----------
        array : ndarray
            ``[x, y, z, channel]``, of the scale's data type, in any memory order.

        Raises
        ------
        ValueError
            If the array is not of the scale's data type and number of channels, or `check` fails, or
            the encoding cannot store an array of this shape or content.
        ImportError
            If the encoding's library is not installed; the message says how to install it.
        """
        self.check()
        if array.ndim != AXES or array.shape[3] != self.num_channels or array.size == 0:
            expected = f"an array of shape (x, y, z, {self.num_channels})"
            message = f"{self.place}: expected {expected} that is not empty, got {array.shape}"
            raise ValueError(message)
        if array.dtype.newbyteorder("=") != self.dtype.newbyteorder("="):
            message = f"{self.place}: expected an array of {self.data_type}, got {array.dtype}"
            raise ValueError(message)
        try:
            return self.row.encode(self, array.astype(self.dtype, copy=False))
        except UnstorableError as exc:
            raise ValueError(f"{self.place}: {exc}") from exc
        except ImportError as exc:
            raise self._without_library() from exc

    def _explained(self, exc: DamagedError | ImportError, data: bytes, size: Triple) -> Exception:
        """Return the error of `decode`."""
        if isinstance(exc, ImportError):
            return self._without_library()
        x, y, z = size
        expected = f"a {self.encoding} chunk of {x} x {y} x {z} voxels, {_kind(self.data_type, self.num_channels)}"
        return CorruptDataError(f"expected {expected}, got {len(data)} bytes: {exc}")

    def _without_library(self) -> ImportError:
        """Return an error that says how to install the encoding's library."""
        row = self.row
        package = f"precomputed-fs[{row.extra}]" if row.extra else "precomputed-fs"
        message = f"{self.place}.encoding: {row.name} needs {row.library}: pip install '{package}'"
        return ImportError(message, name=row.library)

    def check(self) -> None:
        """Check that the scale can be written.

        Raises
        ------
        ValueError
            If the encoding does not store this data type or number of channels, or a parameter is not
            acceptable; the message names the place in `info` and what is accepted there.
        """
        row = self.row
        if not row.fits(self.data_type, self.num_channels):
            stored = " or ".join(row.data_types) + " only"
            if row.channels is not None:
                stored += f", in {' or '.join(map(str, row.channels))} channel{'s' * (row.channels != (1,))}"
            base = [other for other in ENCODINGS.values() if other.extra is None]
            others = [other.name for other in base if other.fits(self.data_type, self.num_channels)]
            use = f"use {' or '.join(others)}" if others else "no encoding stores that"
            got = _kind(self.data_type, self.num_channels)
            message = f"{self.place}.encoding: {row.name} stores {stored}, got {got}; {use}"
            raise ValueError(message)
        for parameter in row.parameters:
            value = self.parameters[parameter.key]
            if value is not None and not parameter.accepts(value):
                message = f"{self.place}.{parameter.key}: expected {parameter.expected}, got {value!r}"
                raise ValueError(message)
        if conflict := row.conflict(self.parameters):
            message = f"{self.place}.{conflict}"
            raise ValueError(message)

    def info_parameters(self) -> dict[str, Any]:
        """Return the scale's keys in `info` that belong to this encoding, with the values used.

        tensorstore refuses a scale with keys of other encodings.
        """
        return {key: copy.copy(value) for key, value in self.parameters.items() if value is not None}


def codec_for(
    encoding: str, data_type: str, num_channels: int, parameters: Mapping[str, Any], place: str = "scale"
) -> Codec:
    """Find out how the chunks of a scale are decoded and encoded.

    Reading is lenient: `Codec.check` checks what only matters for writing.

    Parameters
    ----------
    encoding : str
        As in `info`; read without case.
    data_type : str
        As in `info`; read without case.
    num_channels : int
    parameters : mapping
        The scale's JSON object. Keys that do not belong to the encoding are ignored. For a new scale, it
        needs `Encoding.defaults` for the keys that were not chosen.
    place : str
        What messages call the scale, such as ``scales[0]``.

    Raises
    ------
    InvalidInfoError
        If the encoding or the data type is unknown, or a parameter that decoding needs is missing or wrong.

    Examples
    --------
    >>> import numpy as np
    >>> codec = codec_for("png", "uint16", 2, {"key": "1mm", "png_level": 9})
    >>> codec.decode(codec.encode(np.full((4, 3, 2, 2), 1000, np.uint16)), (4, 3, 2))[0, 0, 0]
    array([1000, 1000], dtype=uint16)
    >>> codec.info_parameters()
    {'png_level': 9}
    >>> codec_for("jpeg", "uint16", 1, {}).check()
    Traceback (most recent call last):
        ...
    ValueError: scale.encoding: jpeg stores uint8 only, in 1 or 3 channels, got 1 channel of uint16; use raw or png
    """
    try:
        row = encoding_named(encoding)
    except ValueError as exc:
        raise InvalidInfoError(f"{place}.{exc}") from None
    if str(data_type).lower() not in _DATA_TYPES:
        message = f"data_type: expected one of {', '.join(_DATA_TYPES)}, got {data_type!r}"
        raise InvalidInfoError(message)
    if not is_integer(1, math.inf, num_channels):
        message = f"num_channels: expected a positive integer, got {num_channels!r}"
        raise InvalidInfoError(message)
    values = {}
    for parameter in row.parameters:
        value = parameters.get(parameter.key)
        if parameter.required and not parameter.accepts(value):
            message = f"{place}.{parameter.key}: expected {parameter.expected}, got {value!r}"
            raise InvalidInfoError(message)
        values[parameter.key] = copy.copy(parameter.default if value is None else value)
    return Codec(data_type.lower(), num_channels, values, row.name, place)


def encoding_named(name: object) -> Encoding:
    """Look up an encoding, without case.

    Raises
    ------
    ValueError
        If it is unknown.
    """
    row = ENCODINGS.get(str(name).lower())
    if row is None:
        raise ValueError(expected_one_of("encoding", ENCODINGS, name))
    return row


def take_parameters(encoding: object, options: MutableMapping[str, Any]) -> dict[str, Any]:
    """Take an encoding's parameters out of options.

    Parameters
    ----------
    encoding : str or None
        None: the encoding is not to change, so that nothing is known of its parameters.
    options : mapping

    Raises
    ------
    TypeError
        If there are parameters of other encodings.
    """
    own = set() if encoding is None else {parameter.key for parameter in encoding_named(encoding).parameters}
    for row in ENCODINGS.values():
        foreign = [parameter.key for parameter in row.parameters if parameter.key in options.keys() - own]
        if foreign:
            instead = "" if encoding is None else f", not of {encoding!r}"
            raise TypeError(
                f"{foreign[0]}: a parameter of the encoding {row.name!r}{instead}: pass encoding={row.name!r}"
            )
    return {name: options.pop(name) for name in own & options.keys()}


def largest_chunk(encoding: str, chunk: Chunk) -> int | None:
    """Return the most bytes that an encoded chunk can have; None for an unknown encoding.

    Reading enforces this, so that a malicious object takes no more memory than a chunk.

    Parameters
    ----------
    encoding : str
        As in `info`, in lower case.

    Examples
    --------
    >>> largest_chunk("raw", Chunk((64, 64, 64), 1, 4)) - ROOM
    1048576
    """
    row = ENCODINGS.get(encoding)
    return None if row is None else row.largest(chunk) + ROOM


def _kind(data_type: str, num_channels: int) -> str:
    return f"{num_channels} channel{'s' * (num_channels > 1)} of {data_type}"
