"""Chunks as images: ``[z y, x]``, with channels as the image's own."""

import math

import numpy as np

from precomputed_fs.codecs.chunks import Array, ChunkKind, DamagedError, UnstorableError, transposed
from precomputed_fs.format.grid import Triple


def to_image(array: Array, largest: int) -> Array:
    """Lay a chunk out as an image: ``[row, column, channel]``, or ``[row, column]`` for one channel.

    The rows, one after another, are the chunk in Fortran order, and readers accept any width and height
    with the right product. The width is x, or x y if the height y z would be too large, or else both
    sides are as nearly equal as possible.
    """
    x, y, z, channels = array.shape
    flat = np.ascontiguousarray(transposed(array, 2, 1, 0, 3)).reshape(-1)
    for width, height in ((x, y * z), (x * y, z), _nearly_square(x * y * z)):
        if max(width, height) <= largest:
            return flat.reshape((height, width, channels) if channels > 1 else (height, width))
    message = f"no image with sides of at most {largest} pixels has {x * y * z}; use smaller chunks, or raw"
    raise UnstorableError(message)


def _nearly_square(area: int) -> tuple[int, int]:
    """Return the integral sides of an area that differ least."""
    width = next(side for side in range(math.isqrt(area), 0, -1) if area % side == 0)
    return width, area // width


def from_image(image: Array, size: Triple, channels: int) -> Array:
    """Undo `to_image`; a view."""
    x, y, z = size
    return image.reshape(z, y, x, channels).transpose(2, 1, 0, 3)


def check_image(kind: ChunkKind, size: Triple, header: tuple[int, int, int, int]) -> None:
    """Check that an image's width, height, channels and bits per channel are those of a chunk."""
    width, height, channels, bits = header
    expected = (math.prod(size), kind.num_channels, 8 * kind.dtype.itemsize)
    if kind.dtype.kind != "u" or (width * height, channels, bits) != expected:
        raise DamagedError(f"its header says {width} x {height} pixels, {channels} channels of {bits} bits")
