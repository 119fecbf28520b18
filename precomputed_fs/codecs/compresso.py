"""compresso: labels of one channel, as boundaries and the labels of the components between them."""

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np

from precomputed_fs.codecs.chunks import (
    Array,
    ChunkKind,
    DamagedError,
    UnstorableError,
    byte_width,
    cut,
    join,
    library_reads,
)
from precomputed_fs.codecs.encoding import NEUROGLANCER, UNSIGNED, Encoding
from precomputed_fs.format.grid import Triple
from precomputed_fs.format.scale_layout import Chunk

_HEADER = struct.Struct("<4sBB3H3BQIQB")
_LARGEST = 65534  # voxels of a side: one less than in the format, since decoding adds a slice
_WINDOW = 64  # voxels
_DEEP = 8  # slices of a window; one is usual, and all are decoded even if the chunk has fewer
_CONNECTIVITY = 4  # components lie in one slice, and are connected through the sides of voxels
_LABEL = 7  # is added to labels in locations


@dataclass(frozen=True, slots=True)
class _Stream:
    """The sections of a compresso stream.

    Windows, small blocks of voxels, are indices into values, whose bits say which voxels lie on a
    boundary between labels. The voxels between boundaries form components, each of which has an id, its
    label. A voxel on a boundary takes the label of a neighbour or, failing that, of the next location.
    """

    steps: Triple
    """The size of a window."""

    ids: Array
    values: Array
    locations: Array
    windows: Array
    """Run-length encoded."""


def _decode(kind: ChunkKind, data: bytes, size: Triple) -> Array:
    """Decode a stream that is extended by everything the library takes for granted.

    A stream may have fewer ids than components, or fewer locations than voxels that need one, or a
    location may point below the last slice. So ids and locations for all voxels are added, with a label
    that the stream does not use, and one more slice. Where that label turns up, something was missing.
    """
    import compresso

    x, y, z = size
    stream = _read(kind, data, size)
    across = -(-x // stream.steps[0]) * -(-y // stream.steps[1])
    depth = -(-z // stream.steps[2]) * stream.steps[2] + 1
    dtype = np.dtype(f"<u{max(4, kind.dtype.itemsize)}")  # wide enough for an unused label
    ids, locations = stream.ids.astype(dtype), stream.locations.astype(dtype)
    unused = _unused_label(ids, locations)
    ids = np.append(ids, np.full(depth * (x * y // 2 + 1), unused))
    locations = np.append(locations, np.full(x * y * depth + 1, unused))
    values = np.append(stream.values, np.zeros(1, stream.values.dtype))
    empty = int(np.argmin(values))  # a window without a boundary
    if depth - 1 > _LARGEST or empty << 1 > np.iinfo(values.dtype).max:
        raise DamagedError("its size or the number of its windows is at the very limit of the format")
    windows = np.append(stream.windows, np.full(across, empty << 1, values.dtype))
    counts = ids.size, values.size, locations.size
    header = (b"cpso", 0, dtype.itemsize, x, y, depth, *stream.steps, *counts, _CONNECTIVITY)
    with library_reads():
        found: Array = compresso.decompress(join(_HEADER.pack(*header), ids, values, locations, windows))
    labels = found[:, :, :z, np.newaxis]
    if ((labels == unused) | (labels == unused - _LABEL)).any():
        raise DamagedError("it does not tell the labels of all voxels")
    return labels.astype(kind.dtype, copy=False)


def _unused_label(ids: Array, locations: Array) -> Any:  # noqa: ANN401  a scalar of either type
    """Find a number that stands for an unused label both as an id and as a location.

    A location of up to 5 points to a neighbour, one that follows a 6 is a label, and any other is a
    label plus 7.
    """
    direct = locations[locations >= _LABEL] - ids.dtype.type(_LABEL)
    limits = np.array([0, np.iinfo(ids.dtype).max], ids.dtype)
    used = np.unique(np.concatenate((limits, ids, locations, direct)))
    return used[np.argmax(np.diff(used))] + ids.dtype.type(_LABEL + 1)


def _read(kind: ChunkKind, data: bytes, size: Triple) -> _Stream:
    """Cut a stream into its sections and check them."""
    if len(data) < _HEADER.size or data[:4] != b"cpso":
        raise DamagedError("it does not begin like compresso")
    _, version, width, x, y, z, *steps, ids, values, locations, connectivity = _HEADER.unpack_from(data)
    window = math.prod(steps)
    if (x, y, z) != size or f"uint{8 * width}" != kind.data_type:
        raise DamagedError(f"its header says {x} x {y} x {z} voxels of {width} bytes")
    if steps[2] > max(_DEEP, z):
        raise DamagedError(f"its windows are {steps[2]} slices deep, and it has {z}")
    if version > 1 or connectivity != _CONNECTIVITY or not 0 < window <= _WINDOW:
        raise DamagedError(
            f"its header says version {version}, connectivity {connectivity}, windows of {window} voxels"
        )
    value_width = byte_width((1 << window) - 1)
    sections = [(width, ids), (value_width, values), (width, locations)]
    index = 2 * z * byte_width(2 * x * y) * version  # where each slice begins, which decoding all of them does not need
    rest = len(data) - _HEADER.size - index - sum(each * count for each, count in sections)
    if rest < 0 or rest % value_width:
        raise DamagedError("its sections do not add up to its length")
    sections.append((value_width, rest // value_width))
    stream = _Stream((steps[0], steps[1], steps[2]), *cut(data, _HEADER.size, *sections))
    _check_windows(stream, math.prod(-(-side // step) for side, step in zip(size, steps, strict=True)))
    return stream


def _check_windows(stream: _Stream, count: int) -> None:
    """Check the number of windows, and that there is a value for each."""
    windows, runs = stream.windows >> 1, (stream.windows & 1).astype(bool)  # runs of windows of the first value
    lengths = windows[runs]
    if stream.values.size == 0 or (windows[~runs] >= stream.values.size).any():
        raise DamagedError("a window has a value that there is not")
    if (lengths > count).any() or int(lengths.sum(dtype=np.uint64)) + windows.size - lengths.size != count:
        raise DamagedError(f"it does not have {count} windows")


def _encode(_: ChunkKind, array: Array) -> bytes:
    import compresso

    if max(array.shape) > _LARGEST:
        message = f"compresso stores at most {_LARGEST} voxels a side, got {array.shape[:3]}"
        raise UnstorableError(message)
    encoded: bytes = compresso.compress(np.array(array[..., 0], order="F"))  # it takes no read-only array
    return encoded


def _largest(chunk: Chunk) -> int:
    """Allow an id, two locations, a window and a value per voxel, and two entries of an index per slice."""
    return chunk.voxels * (3 * chunk.value_bytes + 8 + 8 + 2 * 8)


COMPRESSO = Encoding(
    "compresso",
    UNSIGNED,
    (1,),
    _decode,
    _encode,
    _largest,
    library="compresso",
    extra="codecs",
    layer_type="segmentation",
    readers={NEUROGLANCER: ((UNSIGNED, (1,)),)},
)
