"""Slices as matplotlib plots, with axes in voxels and in lengths: `Volume.plot` and `Scale.plot`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from precomputed_fs.format.lengths import unit_of
from precomputed_fs.view.colours import checked_limits, limits_of, painted
from precomputed_fs.view.slices import AXES, RGB, Point, Slice, is_segmentation, read
from precomputed_fs.view.text import shortened
from precomputed_fs.volume import Scale, Volume


def plot(
    source: Volume | Scale,
    point: Point,
    *,
    size: int | None,
    channel: int | None,
    limits: Iterable[float] | None,
    ax: Any,  # noqa: ANN401 - matplotlib's Axes, or several
    progress: bool | None,
) -> Any:  # noqa: ANN401 - matplotlib's Axes, or several
    """Plot slices with matplotlib: see `Volume.plot`."""
    try:
        from matplotlib import pyplot as plt  # noqa: PLC0415 - optional
    except ImportError as exc:
        raise ImportError("plots need matplotlib: pip install 'precomputed-fs[plot]'", name="matplotlib") from exc
    limits = checked_limits(limits, source)
    slices, _ = read(source, point, size=size, channel=channel, progress=progress, in_one=False)
    if ax is None:
        _, ax = plt.subplots(1, len(slices), squeeze=False, layout="constrained", figsize=(5 * len(slices), 5))
    axes = np.ravel(np.asarray(ax, object))
    if len(axes) != len(slices):
        raise ValueError(f"ax: expected {len(slices)}, one for each slice, got {len(axes)}")
    for one, piece, image in zip(axes, slices, _images(slices, limits), strict=True):
        _draw(one, piece, image)
    return axes[0] if len(axes) == 1 else axes


def _images(slices: Sequence[Slice], limits: tuple[float, float] | None) -> list[dict[str, Any]]:
    """Return the arguments of ``imshow``: colours, or values with their limits."""
    if is_segmentation(slices[0].scale) or slices[0].voxels.shape[2] == RGB:
        return [{"X": pixels} for pixels in painted(slices, limits)]
    low, high = limits or limits_of(slices)
    return [{"X": piece.voxels[..., 0], "cmap": "gray", "vmin": low, "vmax": high} for piece in slices]


def _draw(ax: Any, piece: Slice, image: Mapping[str, Any]) -> None:  # noqa: ANN401 - matplotlib ships no types for it
    left, right, top, bottom = _edges_of(piece)
    down, across = (piece.frame.resolution[axis] for axis in piece.view.edges)
    ax.imshow(**image, extent=(left, right, bottom, top), aspect=down / across, interpolation="nearest")
    ax.set_title(f"{shortened(piece.scale.key)}, {piece.name}", parse_math=False)
    x, y = AXES[piece.view.across], AXES[piece.view.down]
    ax.set(xlabel=f"{x} (voxels)", ylabel=f"{y} (voxels)")
    nm, unit = unit_of(abs(right - left) * across)
    ax.secondary_xaxis("top", functions=_factor(across / nm)).set_xlabel(f"{x} ({unit})")
    nm, unit = unit_of(abs(top - bottom) * down)
    ax.secondary_yaxis("right", functions=_factor(down / nm)).set_ylabel(f"{y} ({unit})")


def _factor(factor: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return the conversions from voxels to another unit, and back."""
    return (lambda voxels: np.asarray(voxels) * factor), (lambda lengths: np.asarray(lengths) / factor)


def _edges_of(piece: Slice) -> tuple[float, float, float, float]:
    """Return the left, right, top and bottom edges of a slice, in voxels of its frame."""
    down, across = piece.view.edges
    bounds, step, frame = piece.scale.bounds, piece.scale.resolution, piece.frame.resolution
    left, right = (end[across] * step[across] / frame[across] for end in (bounds.start, bounds.stop))
    top, bottom = (end[down] * step[down] / frame[down] for end in (bounds.start, bounds.stop))
    return (right, left, top, bottom) if piece.view.leftwards else (left, right, top, bottom)
