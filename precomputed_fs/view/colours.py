"""Which colour a voxel gets: grey levels between two limits, or the colours that Neuroglancer gives segments."""

import functools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.view.orientation import Array
from precomputed_fs.view.slices import RGB, Slice, is_segmentation
from precomputed_fs.volume import Scale, Volume

GREY = 2
"""Axes of a picture of grey levels."""

_PERCENTILES = 0.5, 99.5  # shown as black and white
_DIM = 128  # uint8 is stretched if all is darker
_ALL_LEVELS = 0.0, 255.0


def painted(slices: Sequence[Slice], limits: tuple[float, float] | None) -> list[NDArray[np.uint8]]:
    """Turn voxels into pixels, with the same limits for all slices: (row, column, channel), 1, 3 or 4 channels."""
    if is_segmentation(slices[0].scale):
        return [segment_colours(piece.voxels[..., 0]) for piece in slices]
    low, high = limits or limits_of(slices)
    if slices[0].voxels.dtype == np.uint8 and (low, high) == _ALL_LEVELS:
        return [piece.voxels for piece in slices]
    return [_levels(piece.voxels, low, high) for piece in slices]


def limits_of(slices: Sequence[Slice]) -> tuple[float, float]:
    """Return the values shown as black and white, chosen from the voxels of all slices."""
    low, high = limits_for(np.concatenate([piece.voxels.ravel() for piece in slices]))
    return (low, high) if low < high else (0.0, 1.0)


def limits_for(values: Array) -> tuple[float, float]:
    """Choose the values shown as black and white: percentiles, to ignore outliers; 0 and 255 for uint8 that is not dim.

    Returns
    -------
    float, float
        If all values are equal, 0 is one of the two; both are 0 if there is no other value.
    """
    if values.dtype == np.uint8 and values.size and values.max() >= _DIM:
        return _ALL_LEVELS
    finite = values[np.isfinite(values)].astype(np.float64)
    if not finite.size:
        return 0.0, 0.0
    low, high = np.percentile(finite, _PERCENTILES)
    if low == high:
        low, high = finite.min(), finite.max()
    if low == high:
        low, high = min(low, 0.0), max(high, 0.0)
    return float(low), float(high)


def checked_limits(limits: Iterable[float] | None, source: Volume | Scale) -> tuple[float, float] | None:
    """Check the values for black and white, which may be an array, such as of percentiles."""
    if limits is None:
        return None
    scale = source if isinstance(source, Scale) else source[0]
    if is_segmentation(scale):
        raise ValueError(f"limits: {scale.volume.url} is a segmentation, where each id has its own colour")
    try:
        low, high = map(float, limits)
    except (TypeError, ValueError):
        low = high = math.nan
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"limits: expected two numbers, got {limits!r}")
    if low > high:
        raise ValueError(f"limits: expected low < high, the values of black and of white, got {limits!r}")
    return low, high


def _levels(voxels: Array, low: float, high: float) -> NDArray[np.uint8]:
    """Turn values into grey levels; NaN is black."""
    with np.errstate(over="ignore", invalid="ignore"):
        levels = (voxels.astype(np.float64) - low) * (255 / (high - low) if high != low else 1.0)
    rounded: NDArray[np.uint8] = np.rint(np.nan_to_num(levels, nan=0).clip(0, 255)).astype(np.uint8)
    return rounded


def with_alpha(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return pixels as RGBA; grey levels and RGB become opaque."""
    if pixels.shape[2:] == (RGB + 1,):
        return pixels
    colours = pixels if pixels.shape[2:] == (RGB,) else np.repeat(pixels.reshape((*pixels.shape[:2], 1)), RGB, axis=2)
    opaque: NDArray[np.uint8] = np.dstack([colours, np.full(pixels.shape[:2], 255, np.uint8)])
    return opaque


def on_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a picture without transparency."""
    if pixels.ndim == GREY or pixels.shape[2] == RGB:
        return pixels
    colours, alpha = pixels[..., :-1], pixels[..., -1:] / 255
    opaque: NDArray[np.uint8] = np.rint(colours * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return opaque[..., 0] if opaque.shape[2] == 1 else opaque


def segment_colours(ids: Array) -> NDArray[np.uint8]:
    """Return the colours of segments: Neuroglancer's defaults.

    Parameters
    ----------
    ids : ndarray of integers
        Segment ids, in any shape.

    Returns
    -------
    ndarray of uint8
        The same shape and four channels, RGBA. The id 0 is transparent.
    """
    numbers = np.atleast_1d(ids).astype(np.uint64)
    mixed = np.zeros(numbers.shape, np.uint32)
    for word in (numbers & np.uint64(0xFFFFFFFF), numbers >> np.uint64(32)):
        mixed = _mixed(mixed, word.astype(np.uint32))
    colours: NDArray[np.uint8] = _palette()[mixed & np.uint32(0xFFFF)]
    colours[numbers == 0] = 0
    return colours.reshape((*np.shape(ids), RGB + 1))


def _mixed(state: NDArray[np.uint32], word: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Mix a word into a hash: a step of MurmurHash3, as in Neuroglancer."""
    word = _rotated(word * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
    mixed: NDArray[np.uint32] = _rotated(state ^ word, 13) * np.uint32(5) + np.uint32(0xE6546B64)
    return mixed


def _rotated(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))


@functools.cache
def _palette() -> NDArray[np.uint8]:
    """Return the colour of each 16-bit hash: the lower 8 bits are the hue, the upper ones the saturation."""
    saturation, hue = np.divmod(np.arange(1 << 16), 256)
    distance = (np.array([[5], [3], [1]]) + hue / 255 * 6) % 6  # from red, green and blue on the colour wheel
    missing = np.minimum(distance, 4 - distance).clip(0, 1)
    levels = 1 - (0.5 + 0.5 * saturation / 255) * missing
    return np.vstack([np.rint(levels * 255), np.full((1, hue.size), 255)]).T.astype(np.uint8)
