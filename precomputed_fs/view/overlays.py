"""What lies over a slice: the colours of another volume at the same place, aligned in nanometres."""

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.view.colours import painted, with_alpha
from precomputed_fs.view.orientation import AXES
from precomputed_fs.view.slices import (
    RGB,
    Plan,
    Ranges,
    Slice,
    bounds_of,
    scale_for_pixels,
    selection_of,
    shown_channels,
)
from precomputed_fs.volume import Scale, Volume

ALPHA = 0.4
"""How opaque an overlay is by default."""

_ROUNDING = 1e-6  # voxels; products of voxel sizes are not exact

Ends = tuple[float, float, float, float]
"""The left, right, top and bottom edge of something on the screen, in nanometres."""


@dataclass(frozen=True, slots=True)
class Patch:
    """The part of a slice that an overlay covers."""

    pixels: NDArray[np.uint8]
    """(row, column, RGBA), one for each voxel that was read."""

    ends: Ends


@dataclass(frozen=True, slots=True)
class Overlay:
    """Another volume, or a scale of one, and how opaque it is."""

    source: Volume | Scale
    alpha: float

    @classmethod
    def checked(cls, source: Any, alpha: float, base: Volume | Scale) -> Self:  # noqa: ANN401 - what the caller gave
        """Check the options ``overlay`` and ``alpha`` of a picture.

        Raises
        ------
        TypeError
            If `source` is neither a volume nor a scale.
        ValueError
            If `alpha` is not between 0 and 1, or nothing of `source` lies in the volume under it.
        """
        if not isinstance(source, (Volume, Scale)):
            how = "open_volume(url), or create_volume('memory://...', array, resolution=...)"
            raise TypeError(f"overlay: expected a volume or a scale, got {type(source).__name__}: make one with {how}")
        if not isinstance(alpha, numbers.Real) or not 0 <= alpha <= 1:
            raise ValueError(f"alpha: expected 0 (invisible) to 1 (opaque), got {alpha!r}")
        _check_overlap(*(one if isinstance(one, Scale) else one[0] for one in (source, base)))
        return cls(source, alpha)

    def read(self, plan: Plan, slices: Sequence[Slice], **options: Any) -> list[Patch | None]:  # noqa: ANN401
        """Read what lies over slices; None where nothing does. The options are those of `Scale.read_selection`."""
        axes = {axis for piece in slices for axis in piece.view.edges}
        scale = self.source if isinstance(self.source, Scale) else scale_for_pixels(self.source, axes, plan.pixel)
        ranges = [_ranges_over(piece, scale, plan.pixel) for piece in slices]
        read = {
            i: Slice(scale, scale, piece.view, piece.position, piece.view.laid_out(self._voxels(scale, given, options)))
            for i, (piece, given) in enumerate(zip(slices, ranges, strict=True))
            if given is not None
        }
        colours = dict(zip(read, painted([*read.values()], None), strict=True)) if read else {}
        return [
            None if given is None else Patch(self._translucent(colours[i]), _ends_of(read[i], given))
            for i, given in enumerate(ranges)
        ]

    @staticmethod
    def _voxels(scale: Scale, ranges: Ranges, options: dict[str, Any]) -> NDArray[Any]:
        voxels: NDArray[Any] = scale.read_selection(selection_of(ranges, shown_channels(scale, None)), **options)
        return voxels

    def _translucent(self, colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
        pixels = with_alpha(colours).copy()
        pixels[..., RGB] = np.rint(pixels[..., RGB] * self.alpha)
        return pixels


def _check_overlap(over: Scale, under: Scale) -> None:
    """Check that two scales have some space in common."""
    for axis, *ends in zip(AXES, *bounds_of(over), *bounds_of(under), strict=True):
        start, stop, low, high = ends
        if max(start, low) >= min(stop, high):
            where = f"{start:g} to {stop:g} nm along {axis}, and what is under it at {low:g} to {high:g} nm"
            message = f"overlay: {over.volume.url} lies at {where}: are resolution and voxel_offset right?"
            raise ValueError(message)


def _ranges_over(piece: Slice, scale: Scale, pixel: float) -> Ranges | None:
    """Return the voxels of another scale that lie in a slice: where pixels are longer, one of each n along an axis."""
    middle = (piece.position + 0.5) * piece.frame.resolution[piece.view.through]
    at = math.floor(middle / scale.resolution[piece.view.through])
    if not scale.bounds.start[piece.view.through] <= at < scale.bounds.stop[piece.view.through]:
        return None
    ranges = [range(at, at + 1)] * len(AXES)
    start, stop = bounds_of(piece.scale)
    for axis in piece.view.edges:
        length = scale.resolution[axis]
        low, high = math.floor(start[axis] / length + _ROUNDING), math.ceil(stop[axis] / length - _ROUNDING)
        first, last = max(scale.bounds.start[axis], low), min(scale.bounds.stop[axis], high)
        if first >= last:
            return None
        step = min(max(1, int(pixel / length + _ROUNDING)), last - first)
        ranges[axis] = range(first + (low + step // 2 - first) % step, last, step)  # the middle ones, counted from low
    x, y, z = ranges
    return x, y, z


def _ends_of(piece: Slice, ranges: Ranges) -> Ends:
    """Return the edges of what was read, each voxel standing for all of its step."""
    firsts = [voxels.start - voxels.step // 2 for voxels in ranges]
    lasts = [first + len(voxels) * voxels.step for first, voxels in zip(firsts, ranges, strict=True)]
    start, stop = (np.multiply(corner, piece.scale.resolution).tolist() for corner in (firsts, lasts))
    return piece.view.ends(start, stop)


def laid_over(panel: NDArray[np.uint8], piece: Slice, patch: Patch | None) -> NDArray[np.uint8]:
    """Lay what was read over the picture of a slice; each pixel gets the voxel that its middle is in."""
    if patch is None:
        return panel
    rows, columns = panel.shape[:2]
    left, right, top, bottom = piece.ends
    across, is_across = _found(left, right, columns, patch.ends[:2], patch.pixels.shape[1])
    down, is_down = _found(top, bottom, rows, patch.ends[2:], patch.pixels.shape[0])
    over = patch.pixels[np.ix_(down, across)]
    over[..., RGB] *= np.outer(is_down, is_across)
    return _blended(with_alpha(panel), over, is_opaque=panel.shape[2:] in ((), (RGB,)))


def _found(
    first: float, last: float, count: int, ends: tuple[float, float], voxels: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the voxel that the middle of each pixel is in, and whether there is one."""
    middles = first + (np.arange(count) + 0.5) * ((last - first) / count)
    low, high = sorted(ends)
    found = np.floor((middles - low) * (voxels / (high - low))).astype(np.intp)
    if ends[0] > ends[1]:
        found = voxels - 1 - found
    return found.clip(0, voxels - 1), (found >= 0) & (found < voxels)


def _blended(under: NDArray[np.uint8], over: NDArray[np.uint8], *, is_opaque: bool) -> NDArray[np.uint8]:
    """Blend two pictures of RGBA: RGBA, or RGB if the lower one is opaque."""
    alpha, below = over[..., RGB:] / 255, under[..., RGB:] / 255
    whole = alpha + below * (1 - alpha)
    colours = over[..., :RGB] * alpha + under[..., :RGB] * below * (1 - alpha)
    colours = np.divide(colours, whole, out=np.zeros_like(colours), where=whole > 0)
    blended: NDArray[np.uint8] = np.rint(colours if is_opaque else np.dstack([colours, whole * 255])).astype(np.uint8)
    return blended
