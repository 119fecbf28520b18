"""Slices as pictures: `Volume.show` and `Scale.show`, and PNG and JPEG files, made without Pillow."""

import importlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from precomputed_fs.view.colours import GREY, checked_limits, on_white, painted, with_alpha
from precomputed_fs.view.overlays import ALPHA, Overlay, laid_over
from precomputed_fs.view.slices import GAP, RGB, Point, Slice, extent, is_segmentation, planned, read_slices
from precomputed_fs.volume import Scale, Volume

if TYPE_CHECKING:
    from PIL.Image import Image


_JPEG_LARGEST, _JPEG_QUALITY = 65535, 90


def show(source: Volume | Scale, point: Point, **options: Any) -> "Image":  # noqa: ANN401 - of `picture`
    """Make a picture with Pillow: see `Volume.show`."""
    try:
        importlib.import_module("PIL")
    except ImportError as exc:
        raise ImportError("pictures need Pillow: pip install 'precomputed-fs[plot]'", name="PIL") from exc
    from precomputed_fs.view.image import Picture  # noqa: PLC0415 - it imports Pillow, which is optional

    return Picture.of(picture(source, point, **options))


def picture(
    source: Volume | Scale,
    point: Point,
    *,
    size: int | None,
    channel: int | None = None,
    limits: Iterable[float] | None = None,
    orientation: str | None = None,
    overlay: Volume | Scale | None = None,
    alpha: float = ALPHA,
    progress: bool | None = None,
) -> NDArray[np.uint8]:
    """Make a picture: see `Volume.show`.

    Returns
    -------
    ndarray of uint8
        (row, column) of grey levels; or (row, column, channel) with 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels.
    """
    limits = checked_limits(limits, source)
    over = None if overlay is None else Overlay.checked(overlay, alpha, source)
    plan = planned(source, point, size=size, channel=channel, orientation=orientation, in_one=True)
    slices = read_slices(plan, progress=progress)
    panels = make_panels(slices, plan.shapes.values(), limits)
    if over is not None:
        patches = over.read(plan, slices, progress=progress)
        panels = [laid_over(*each) for each in zip(panels, slices, patches, strict=True)]
    return panels[0] if len(panels) == 1 else _side_by_side(panels)


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a picture as a PNG file."""
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))


def to_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Encode a picture as a JPEG file; transparent pixels become white."""
    if max(pixels.shape[:2]) > _JPEG_LARGEST:
        raise ValueError(f"size: a JPEG has at most {_JPEG_LARGEST} pixels a side: choose PNG, or a smaller size")
    pixels = on_white(pixels)
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=_JPEG_QUALITY, subsampling="444"))


def make_panels(
    slices: Sequence[Slice], shapes: Iterable[tuple[int, int]], limits: tuple[float, float] | None
) -> list[NDArray[np.uint8]]:
    """Make a picture of each slice, with these rows and columns."""
    blends = not is_segmentation(slices[0].scale)
    panels = [
        _resized(pixels, shape, blends=blends) for pixels, shape in zip(painted(slices, limits), shapes, strict=True)
    ]
    return [panel[..., 0] if panel.shape[2] == 1 else panel for panel in panels]


def _side_by_side(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Put pictures side by side into one; the gaps are transparent."""
    are_grey = all(panel.ndim == GREY for panel in panels)
    opaque = [with_alpha(panel)[..., RGB - 1 if are_grey else 0 :] for panel in panels]
    whole = np.zeros((*extent(panel.shape[:2] for panel in panels), opaque[0].shape[2]), np.uint8)
    left = 0
    for panel in opaque:
        rows, columns, _ = panel.shape
        whole[:rows, left : left + columns] = panel
        left += columns + GAP
    return whole


def _resized(pixels: NDArray[np.uint8], shape: tuple[int, int], *, blends: bool) -> NDArray[np.uint8]:
    """Resize a picture; each new pixel averages the pixels that it covers, or takes the middle one."""
    for axis, count in enumerate(shape):
        pixels = _blended(pixels, axis, count) if blends else _picked(pixels, axis, count)
    return pixels


def _picked(pixels: NDArray[np.uint8], axis: int, count: int) -> NDArray[np.uint8]:
    middles = (2 * np.arange(count) + 1) * pixels.shape[axis] // (2 * count)
    picked: NDArray[np.uint8] = np.take(pixels, middles, axis)
    return picked


def _blended(pixels: NDArray[np.uint8], axis: int, count: int) -> NDArray[np.uint8]:
    """Average the old pixels that each new one covers: differences of cumulative sums at its two edges."""
    before = pixels.shape[axis]
    if count % before == 0:
        return pixels if count == before else np.repeat(pixels, count // before, axis)
    edges = np.arange(count + 1) * (before / count)
    whole = np.minimum(edges.astype(int), before - 1)
    part = (edges - whole).reshape([-1 if i == axis else 1 for i in range(pixels.ndim)])
    sums = np.cumsum(pixels, axis, dtype=np.float64) - pixels
    means = np.diff(np.take(sums, whole, axis) + part * np.take(pixels, whole, axis), axis=axis) * (count / before)
    blended: NDArray[np.uint8] = np.rint(means).clip(0, 255).astype(np.uint8)
    return blended
