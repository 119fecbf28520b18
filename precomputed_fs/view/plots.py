"""Slices as matplotlib plots, with axes in voxels and in lengths: `Volume.plot` and `Scale.plot`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from precomputed_fs.format.lengths import readable, unit_of
from precomputed_fs.view.colours import checked_limits, limits_of, painted
from precomputed_fs.view.orientation import AXES
from precomputed_fs.view.overlays import Ends, Overlay, Patch
from precomputed_fs.view.slices import RGB, Point, Slice, is_segmentation, planned, read_slices
from precomputed_fs.volume import Scale, Volume

_WIDTH, _HEIGHT = 10.0, 4.5  # inches of a figure, and of a slice, at most: a notebook shows it in its own size
_BESIDE = 1.0  # inches that ticks and labels take to both sides of a slice, at least: so its width decides its scale
_ABOVE = 1.4  # inches that they take above and below it, at most
_SLIMMEST = 0.05  # of the longest side of all slices: a slice that is slimmer has more room than it needs


def plot(
    source: Volume | Scale,
    point: Point,
    *,
    size: int | None,
    channel: int | None,
    limits: Iterable[float] | None,
    cmap: Any,  # noqa: ANN401 - a name, or matplotlib's Colormap
    orientation: str | None,
    overlay: Volume | Scale | None,
    alpha: float,
    ax: Any,  # noqa: ANN401 - matplotlib's Axes, or several
    progress: bool | None,
) -> Any:  # noqa: ANN401 - matplotlib's Axes, or several
    """Plot slices with matplotlib: see `Volume.plot`."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - optional
    except ImportError as exc:
        raise ImportError("plots need matplotlib: pip install 'precomputed-fs[plot]'", name="matplotlib") from exc
    limits = checked_limits(limits, source)
    over = None if overlay is None else Overlay.checked(overlay, alpha, source)
    plan = planned(source, point, size=size, channel=channel, orientation=orientation, in_one=False)
    if cmap is not None:
        _check_takes_colours(plan.scale, plan.channels)
        cmap = mpl.colormaps.get_cmap(cmap)
    axes = None if ax is None else _given(ax, len(plan.shapes))
    slices = read_slices(plan, progress=progress)
    patches = [None] * len(slices) if over is None else over.read(plan, slices, progress=progress)
    axes = _new(slices) if axes is None else axes
    for one, piece, image, patch in zip(axes, slices, _images(slices, limits, cmap), patches, strict=True):
        _draw(one, piece, image, patch)
    return axes[0] if len(axes) == 1 else axes


def _check_takes_colours(scale: Scale, channels: slice) -> None:
    """Check that a colour map applies: to one channel of an image."""
    what = "a segmentation, where each id has its own colour" if is_segmentation(scale) else ""
    if channels.stop - channels.start == RGB:
        what = "shown in red, green and blue: choose a channel"
    if what:
        raise ValueError(f"cmap: {scale.volume.url} is {what}")


def _given(ax: Any, count: int) -> Any:  # noqa: ANN401 - arrays of matplotlib's Axes
    axes = np.ravel(np.asarray(ax, object))
    if len(axes) != count:
        raise ValueError(f"ax: expected {count}, one for each slice, got {len(axes)}")
    return axes


def _new(slices: Sequence[Slice]) -> Any:  # noqa: ANN401
    """Make a figure whose slices are all at one physical scale."""
    from matplotlib import pyplot as plt  # noqa: PLC0415

    ends = [piece.ends for piece in slices]
    least = max(abs(end) for left, right, top, bottom in ends for end in (right - left, bottom - top)) * _SLIMMEST
    widths = [max(least, abs(right - left)) for left, right, _, _ in ends]
    height = max(least, *(abs(bottom - top) for _, _, top, bottom in ends))
    inches = min((_WIDTH - _BESIDE * len(slices)) / sum(widths), _HEIGHT / height)  # for a nanometre
    size = sum(widths) * inches + _BESIDE * len(slices), height * inches + _ABOVE
    return plt.subplots(1, len(slices), squeeze=False, layout="constrained", width_ratios=widths, figsize=size)[1][0]


def _images(
    slices: Sequence[Slice],
    limits: tuple[float, float] | None,
    cmap: Any,  # noqa: ANN401
) -> list[dict[str, Any]]:
    """Return the arguments of ``imshow``: colours, or values with their limits."""
    if is_segmentation(slices[0].scale) or slices[0].voxels.shape[2] == RGB:
        return [{"X": pixels} for pixels in painted(slices, limits)]
    low, high = limits or limits_of(slices)
    return [{"X": piece.voxels[..., 0], "cmap": cmap or "gray", "vmin": low, "vmax": high} for piece in slices]


def _draw(ax: Any, piece: Slice, image: Mapping[str, Any], patch: Patch | None) -> None:  # noqa: ANN401
    left, right, top, bottom = _in_voxels(piece, piece.ends)
    down, across = (piece.frame.resolution[axis] for axis in piece.view.edges)
    ax.imshow(**image, extent=(left, right, bottom, top), aspect=down / across, interpolation="nearest")
    if patch is not None:
        over_left, over_right, over_top, over_bottom = _in_voxels(piece, patch.ends)
        over = (over_left, over_right, over_bottom, over_top)
        ax.imshow(patch.pixels, extent=over, aspect=down / across, interpolation="nearest")
        ax.set(xlim=(left, right), ylim=(bottom, top))
    ax.set_title(f"{readable(piece.scale.resolution)}, {piece.name}")
    x, y = AXES[piece.view.across], AXES[piece.view.down]
    ax.set(xlabel=f"{x} (voxels)", ylabel=f"{y} (voxels)")
    nm, unit = unit_of(abs(right - left) * across)
    ax.secondary_xaxis("top", functions=_factor(across / nm)).set_xlabel(f"{x} ({unit})")
    nm, unit = unit_of(abs(top - bottom) * down)
    ax.secondary_yaxis("right", functions=_factor(down / nm)).set_ylabel(f"{y} ({unit})")


def _factor(factor: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return the conversions from voxels to another unit, and back."""
    return (lambda voxels: np.asarray(voxels) * factor), (lambda lengths: np.asarray(lengths) / factor)


def _in_voxels(piece: Slice, ends: Ends) -> Ends:
    """Convert the left, right, top and bottom edge from nanometres to voxels of the slice's frame."""
    left, right, top, bottom = ends
    down, across = (piece.frame.resolution[axis] for axis in piece.view.edges)
    return left / across, right / across, top / down, bottom / down
