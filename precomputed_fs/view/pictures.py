"""What a person sees of a pyramid: slices as pictures and plots, and what a notebook shows of a volume.

`show` and `plot` are the methods of these names of `Volume` and `Scale`, `html` is their ``_repr_html_``; `to_png` and
`to_jpeg` make a picture's file without Pillow. How slices lie, and what colours segments have, is as in Neuroglancer,
so that what is seen here is found there.

A notebook shows what an `info` says, which may be anybody's: so all of it is escaped. Of a notebook that it does not
trust, JupyterLab strips scripts, style sheets and inline SVG: so there are none. And a page may be dark: so no colours
are named.
"""

import base64
import contextlib
import functools
import html as markup
import math
import operator
import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from precomputed_fs.volume import Scale, Selection, Volume, one_line, readable_resolution, unit_of

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[Any]
_T = TypeVar("_T")

Point = tuple[int | None, int | None, int | None]
"""Where to slice along x, y and z, or not."""

_AXES = "xyz"
_RGB = 3  # as many channels are red, green and blue
_DARKEST, _BRIGHTEST = 0.5, 99.5  # percentiles
_MOST_PIXELS = 1 << 27
_JPEG_LARGEST, _JPEG_QUALITY = 65535, 90
_GAP = 8  # pixels between slices
_WHOLE_BYTES = 32 << 20  # of a scale that may be read whole, if that takes fewer requests than its slices
_ROUNDING = 1 + 1e-6

_TIME_LIMIT = 2.0  # seconds that a notebook waits for a thumbnail
_THUMBNAIL_PIXELS = 160
_THUMBNAIL_VOXELS = 64  # along the longest side; of a scale that has fewer, little is to be seen
_THUMBNAIL_CHUNKS = 16
_THUMBNAIL_BYTES = 32 << 20  # decoded
_MOST_ROWS = 24  # of a table
_LONGEST_CELL = 60  # characters
_NUMBERS = ("Size", "Voxel size", "Chunk size", "Bytes")  # of a table's columns


@dataclass(frozen=True, slots=True)
class View:
    """How a slice lies on the screen: which axis runs across it, and which one down."""

    across: int
    down: int
    leftwards: bool = False

    @property
    def through(self) -> int:
        """The axis that one looks along."""
        return sum(range(len(_AXES))) - self.across - self.down

    @property
    def edges(self) -> tuple[int, int]:
        """The axes of the slice's rows and columns, in this order."""
        return self.down, self.across


VIEWS = (View(0, 1), View(0, 2), View(2, 1, leftwards=True))
"""Neuroglancer's panels: xy, xz and yz."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A plane of voxels, as it lies on the screen."""

    scale: Scale
    """What it is read from."""

    frame: Scale
    """Whose voxels coordinates count."""

    view: View

    position: int
    """Where it is along the axis that one looks along: an absolute coordinate in voxels of `frame`."""

    voxels: Array
    """(row, column, channel): every n-th voxel, and the channels that are to be shown."""

    @property
    def name(self) -> str:
        """Where it is: ``z = 50``."""
        return f"{_AXES[self.view.through]} = {self.position}"


# --------------------------------------------------------------------------------------------------------- pictures


def show(
    source: Volume | Scale,
    point: Point,
    *,
    size: int | None,
    channel: int | None,
    limits: Iterable[float] | None,
    progress: bool | None,
) -> "Image":
    """Make a picture with Pillow: see `Volume.show`."""
    try:
        from PIL import Image  # noqa: PLC0415 - optional
    except ImportError as exc:
        raise _missing("pictures need Pillow", "PIL") from exc
    return Image.fromarray(picture(source, point, size=size, channel=channel, limits=limits, progress=progress))


def picture(
    source: Volume | Scale,
    point: Point,
    *,
    size: int | None,
    channel: int | None = None,
    limits: Iterable[float] | None = None,
    progress: bool | None = None,
) -> NDArray[np.uint8]:
    """Make a picture: see `Volume.show`.

    Returns
    -------
    ndarray of uint8
        (row, column) of grey levels; or (row, column, channel) with 2 (grey, alpha), 3 (RGB) or 4 (RGBA) channels.
    """
    limits = _checked_limits(limits, source)
    slices, shapes = _read(source, point, size=size, channel=channel, progress=progress, in_one=True)
    panels = _panels(slices, shapes, limits)
    return panels[0] if len(panels) == 1 else _side_by_side(panels)


def to_png(pixels: NDArray[np.uint8]) -> bytes:
    """Make the PNG file of a picture."""
    return bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))


def to_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Make the JPEG file of a picture; what is transparent becomes white."""
    if max(pixels.shape[:2]) > _JPEG_LARGEST:
        raise ValueError(f"size: a JPEG has no more than {_JPEG_LARGEST} pixels a side: choose PNG, or fewer")
    if pixels.ndim > 2 and pixels.shape[2] != _RGB:  # noqa: PLR2004 - with alpha
        colours, alpha = pixels[..., :-1], pixels[..., -1:] / 255
        pixels = np.rint(colours * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), level=_JPEG_QUALITY, subsampling="444"))


def _panels(
    slices: Sequence[Slice], shapes: Iterable[tuple[int, int]], limits: tuple[float, float] | None
) -> list[NDArray[np.uint8]]:
    """Make a picture of each slice, of so many rows and columns."""
    blends = not is_segmentation(slices[0].scale)
    panels = [
        _resized(pixels, shape, blends=blends) for pixels, shape in zip(_painted(slices, limits), shapes, strict=True)
    ]
    return [panel[..., 0] if panel.shape[2] == 1 else panel for panel in panels]


def _side_by_side(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Put pictures into one, with what is between them transparent."""
    opaque = [_with_alpha(panel) for panel in panels]
    whole = np.zeros((*_extent(panel.shape[:2] for panel in panels), opaque[0].shape[2]), np.uint8)
    left = 0
    for panel in opaque:
        rows, columns, _ = panel.shape
        whole[:rows, left : left + columns] = panel
        left += columns + _GAP
    return whole


def _with_alpha(panel: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if panel.shape[2:] == (_RGB + 1,):
        return panel
    opaque: NDArray[np.uint8] = np.dstack([panel, np.full(panel.shape[:2], 255, np.uint8)])
    return opaque


def _resized(pixels: NDArray[np.uint8], shape: tuple[int, int], *, blends: bool) -> NDArray[np.uint8]:
    """Bring a picture to another number of rows and columns; each pixel blends what it covers, or takes its middle."""
    for axis, count in enumerate(shape):
        pixels = _blended(pixels, axis, count) if blends else _picked(pixels, axis, count)
    return pixels


def _picked(pixels: NDArray[np.uint8], axis: int, count: int) -> NDArray[np.uint8]:
    middles = (2 * np.arange(count) + 1) * pixels.shape[axis] // (2 * count)
    picked: NDArray[np.uint8] = np.take(pixels, middles, axis)
    return picked


def _blended(pixels: NDArray[np.uint8], axis: int, count: int) -> NDArray[np.uint8]:
    """Average what each new pixel covers of the old ones: the sum up to where it ends, less that up to its begin."""
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


def _missing(what: str, package: str) -> ImportError:
    return ImportError(f"{what}: pip install 'precomputed-fs[plot]'", name=package)


# ------------------------------------------------------------------------------------------------------------ plots


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
        raise _missing("plots need matplotlib", "matplotlib") from exc
    limits = _checked_limits(limits, source)
    slices, _ = _read(source, point, size=size, channel=channel, progress=progress, in_one=False)
    if ax is None:
        _, ax = plt.subplots(1, len(slices), squeeze=False, layout="constrained", figsize=(5 * len(slices), 5))
    axes = np.ravel(np.asarray(ax, object))
    if len(axes) != len(slices):
        raise ValueError(f"ax: expected {len(slices)}, one for each slice, got {len(axes)}")
    for one, piece, image in zip(axes, slices, _images(slices, limits), strict=True):
        _draw(one, piece, image)
    return axes[0] if len(axes) == 1 else axes


def _images(slices: Sequence[Slice], limits: tuple[float, float] | None) -> list[dict[str, Any]]:
    """Return what ``imshow`` takes: colours, or values with what is black and white."""
    if is_segmentation(slices[0].scale) or slices[0].voxels.shape[2] == _RGB:
        return [{"X": pixels} for pixels in _painted(slices, limits)]
    low, high = limits or _limits_of(slices)
    return [{"X": piece.voxels[..., 0], "cmap": "gray", "vmin": low, "vmax": high} for piece in slices]


def _draw(ax: Any, piece: Slice, image: Mapping[str, Any]) -> None:  # noqa: ANN401 - matplotlib ships no types for it
    left, right, top, bottom = _edges_of(piece)
    down, across = (piece.frame.resolution[axis] for axis in piece.view.edges)
    ax.imshow(**image, extent=(left, right, bottom, top), aspect=down / across, interpolation="nearest")
    ax.set_title(f"{_cell(piece.scale.key)}, {piece.name}", parse_math=False)
    x, y = _AXES[piece.view.across], _AXES[piece.view.down]
    ax.set(xlabel=f"{x} (voxels)", ylabel=f"{y} (voxels)")
    nm, unit = unit_of(abs(right - left) * across)
    ax.secondary_xaxis("top", functions=_factor(across / nm)).set_xlabel(f"{x} ({unit})")
    nm, unit = unit_of(abs(top - bottom) * down)
    ax.secondary_yaxis("right", functions=_factor(down / nm)).set_ylabel(f"{y} ({unit})")


def _factor(factor: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return how voxels become another unit, and how that becomes voxels."""
    return (lambda voxels: np.asarray(voxels) * factor), (lambda lengths: np.asarray(lengths) / factor)


def _edges_of(piece: Slice) -> tuple[float, float, float, float]:
    """Return where a slice ends on the left, on the right, above and below, in voxels of its frame."""
    down, across = piece.view.edges
    bounds, step, frame = piece.scale.bounds, piece.scale.resolution, piece.frame.resolution
    left, right = (end[across] * step[across] / frame[across] for end in (bounds.start, bounds.stop))
    top, bottom = (end[down] * step[down] / frame[down] for end in (bounds.start, bounds.stop))
    return (right, left, top, bottom) if piece.view.leftwards else (left, right, top, bottom)


# ---------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class _Plan:
    """What to read for a picture."""

    scale: Scale
    frame: Scale
    positions: Mapping[int, int]
    """Where to slice, by axis: absolute coordinates in voxels of `frame`."""

    shapes: Mapping[View, tuple[int, int]]
    """How many rows and columns of pixels each slice is to have."""

    channels: slice


def _read(
    source: Volume | Scale, point: Point, *, size: int | None, channel: int | None, progress: bool | None, in_one: bool
) -> tuple[list[Slice], list[tuple[int, int]]]:
    """Read slices for a picture of each, or one of all; with how many rows and columns of pixels each is to have."""
    frame = source if isinstance(source, Scale) else source[0]
    positions = _positions(frame, point)
    views = [view for view in VIEWS if view.through in positions]
    scale = source if isinstance(source, Scale) else good_scale(source, views, size)
    plan = _Plan(scale, frame, positions, _shapes(scale, views, size), _channels(scale, channel))
    shapes = list(plan.shapes.values())
    _check_pixels([_extent(shapes)] if in_one else shapes)
    return _read_slices(plan, progress=progress), shapes


def good_scale(volume: Volume, views: Iterable[View], size: int | None) -> Scale:
    """Choose the coarsest scale that has all the detail that a picture of some size can show.

    Along each axis, its voxels are no longer than a pixel, or as short as there are any.
    """
    if size is None:
        return volume[0]
    axes = {axis for view in views for axis in view.edges}
    pixel = _pixel(volume[0], axes, size)
    finest = [min(scale.resolution[axis] for scale in volume) for axis in range(len(_AXES))]
    good = [
        scale
        for scale in volume
        if not scale.info.hidden
        and all(scale.resolution[axis] <= max(pixel, finest[axis]) * _ROUNDING for axis in axes)
    ]
    return max(good, key=lambda scale: math.prod(scale.resolution), default=volume[0])


def _positions(frame: Scale, point: Point) -> dict[int, int]:
    """Return where to slice, by axis: where it is said, or in the middle."""
    given = {axis: operator.index(at) for axis, at in enumerate(point) if at is not None}
    for axis, at in given.items():
        low, high = frame.bounds.start[axis], frame.bounds.stop[axis]
        if not low <= at < high:
            raise IndexError(f"{_AXES[axis]}: {at} is not inside of {low}:{high}, absolute voxels of scale {frame.key}")
    if given:
        return given
    middle = _middle(frame)
    return {view.through: middle[view.through] for view in _telling_views(frame)}


def _middle(frame: Scale) -> dict[int, int]:
    return {axis: low + frame.shape[axis] // 2 for axis, low in enumerate(frame.voxel_offset)}


def _telling_views(scale: Scale) -> Sequence[View]:
    """Return the slices that show something: of a single image this one, as the others are lines."""
    if 1 not in scale.shape[:3]:
        return VIEWS
    return [max(VIEWS, key=lambda view: math.prod(scale.shape[axis] for axis in view.edges))]


def _channels(scale: Scale, channel: int | None) -> slice:
    count = scale.shape[3]
    if channel is None:
        return slice(0, _RGB if count == _RGB and not is_segmentation(scale) else 1, 1)
    if not 0 <= operator.index(channel) < count:
        raise IndexError(f"channel: {channel} is not inside of 0:{count}")
    return slice(channel, channel + 1, 1)


def _pixel(scale: Scale, axes: Iterable[int], size: int | None) -> float:
    """Return the length of a pixel in nanometres, of which the longest axis has so many."""
    if size is None:
        return min(scale.resolution[axis] for axis in axes)
    if operator.index(size) < 1:
        raise ValueError(f"size: expected at least 1 pixel, got {size}")
    return max(scale.shape[axis] * scale.resolution[axis] for axis in axes) / size


def _shapes(scale: Scale, views: Sequence[View], size: int | None) -> dict[View, tuple[int, int]]:
    """Return how many rows and columns of pixels the slices have, all at one number of nanometres for each."""
    pixel = _pixel(scale, {axis for view in views for axis in view.edges}, size)
    shapes = {}
    for view in views:
        rows, columns = (max(1, round(scale.shape[axis] * scale.resolution[axis] / pixel)) for axis in view.edges)
        shapes[view] = rows, columns
    return shapes


def _check_pixels(shapes: Collection[tuple[int, int]]) -> None:
    """Check that pictures of so many rows and columns of pixels are not too large."""
    if sum(map(math.prod, shapes)) > _MOST_PIXELS:
        shown = " and ".join(f"{columns} x {rows}" for rows, columns in shapes)
        raise ValueError(f"size: a picture of {shown} pixels is too large, the most is {_MOST_PIXELS}")


def _extent(shapes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return how many rows and columns of pixels slices take side by side."""
    rows, columns = zip(*shapes, strict=True)
    return max(rows), sum(columns) + _GAP * (len(columns) - 1)


def _read_slices(plan: _Plan, **options: Any) -> list[Slice]:  # noqa: ANN401 - of Scale.read_selection
    """Read slices, of no more than twice as many rows and columns as there are pixels."""
    scale, frame, positions = plan.scale, plan.frame, plan.positions
    wanted = {
        view: _ranges(scale, view, _position_in(scale, frame, view.through, positions[view.through]), shape)
        for view, shape in plan.shapes.items()
    }
    if _is_cheaper_whole(scale, wanted):
        x, y, z = map(range, scale.bounds.start, scale.bounds.stop)
        whole = scale.read_selection(_selection((x, y, z), plan.channels), **options)
        planes = [whole[_relative(scale, ranges)] for ranges in wanted.values()]
    else:
        planes = [scale.read_selection(_selection(ranges, plan.channels), **options) for ranges in wanted.values()]
    return [
        Slice(scale, frame, view, positions[view.through], _laid_out(view, plane))
        for view, plane in zip(wanted, planes, strict=True)
    ]


def _position_in(scale: Scale, frame: Scale, axis: int, position: int) -> int:
    """Return which voxel of a scale the middle of another scale's voxel is in."""
    at = math.floor((position + 0.5) * frame.resolution[axis] / scale.resolution[axis])
    return max(scale.bounds.start[axis], min(at, scale.bounds.stop[axis] - 1))  # scales may end differently


def _ranges(scale: Scale, view: View, position: int, shape: tuple[int, int]) -> tuple[range, range, range]:
    """Return the voxels of a slice: of each n along an axis the middle one, where pixels are fewer."""
    ranges = [range(position, position + 1)] * len(_AXES)
    for axis, pixels in zip(view.edges, shape, strict=True):
        step = max(1, scale.shape[axis] // pixels)
        ranges[axis] = range(scale.bounds.start[axis] + step // 2, scale.bounds.stop[axis], step)
    x, y, z = ranges
    return x, y, z


def _is_cheaper_whole(scale: Scale, views: Iterable[View]) -> bool:
    """Whether the whole scale is as few requests as the slices are, in which chunks come again."""
    is_small = scale.array.nbytes <= _WHOLE_BYTES
    return is_small and math.prod(scale.grid.shape) <= sum(_chunks_in(scale, view) for view in views)


def _chunks_in(scale: Scale, view: View) -> int:
    return math.prod(scale.grid.shape[axis] for axis in view.edges)


def _selection(ranges: tuple[range, range, range], channels: slice) -> Selection:
    return Selection(ranges, channels, (slice(None),) * 4)


def _relative(scale: Scale, ranges: tuple[range, range, range]) -> tuple[slice, ...]:
    starts = zip(ranges, scale.bounds.start, strict=True)
    return tuple(slice(voxels.start - low, voxels.stop - low, voxels.step) for voxels, low in starts)


def _laid_out(view: View, plane: Array) -> Array:
    """Turn a plane (x, y, z, channel) as it lies on the screen."""
    rows: Array = plane.transpose(view.through, *view.edges, 3)[0]
    return rows[:, ::-1] if view.leftwards else rows


# ---------------------------------------------------------------------------------------------------------- colours


def is_segmentation(scale: Scale) -> bool:
    """Whether voxels are ids, to be told apart, and not levels."""
    return scale.volume.info.type == "segmentation" and scale.dtype.kind in "iu"


def _painted(slices: Sequence[Slice], limits: tuple[float, float] | None) -> list[NDArray[np.uint8]]:
    """Make pixels of voxels, of all slices alike: (row, column, channel) with 1, 3 or 4 channels."""
    if is_segmentation(slices[0].scale):
        return [segment_colours(piece.voxels[..., 0]) for piece in slices]
    if limits is None and slices[0].voxels.dtype == np.uint8:
        return [piece.voxels for piece in slices]
    low, high = limits or _limits_of(slices)
    return [_levels(piece.voxels, low, high) for piece in slices]


def _limits_of(slices: Sequence[Slice]) -> tuple[float, float]:
    """Return the values that are black and white: those of uint8, or such that outliers do not matter."""
    if slices[0].voxels.dtype == np.uint8:
        return 0.0, 255.0
    values = np.concatenate([piece.voxels.ravel() for piece in slices]).astype(np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, (_DARKEST, _BRIGHTEST))
    if low == high:
        low, high = values.min(), values.max()
    if low == high:  # all are one value, and 0 is black
        low, high = min(low, 0.0), max(high, 0.0)
    return float(low), float(high)


def _checked_limits(limits: Iterable[float] | None, source: Volume | Scale) -> tuple[float, float] | None:
    """Check what is to be black and white; it may come as an array, as percentiles do."""
    if limits is None:
        return None
    scale = source if isinstance(source, Scale) else source[0]
    if is_segmentation(scale):
        raise ValueError(f"limits: {scale.volume.url} is a segmentation, of which each id has its own colour")
    try:
        low, high = map(float, limits)
    except (TypeError, ValueError):
        low = high = math.nan
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError(f"limits: expected two numbers, got {limits!r}")
    return low, high


def _levels(voxels: Array, low: float, high: float) -> NDArray[np.uint8]:
    """Make grey levels of values; what is no number is black."""
    with np.errstate(over="ignore", invalid="ignore"):
        levels = (voxels.astype(np.float64) - low) * (255 / (high - low) if high != low else 1.0)
    rounded: NDArray[np.uint8] = np.rint(np.nan_to_num(levels, nan=0).clip(0, 255)).astype(np.uint8)
    return rounded


def segment_colours(ids: Array) -> NDArray[np.uint8]:
    """Return the colours of segments: those that Neuroglancer gives them, until told otherwise.

    Parameters
    ----------
    ids : ndarray of integers
        Of any shape.

    Returns
    -------
    ndarray of uint8
        Of that shape, and four channels: RGBA. 0 is transparent.
    """
    numbers = np.atleast_1d(ids).astype(np.uint64)
    mixed = np.zeros(numbers.shape, np.uint32)
    for word in (numbers & np.uint64(0xFFFFFFFF), numbers >> np.uint64(32)):
        mixed = _mixed(mixed, word.astype(np.uint32))
    colours: NDArray[np.uint8] = _palette()[mixed & np.uint32(0xFFFF)]
    colours[numbers == 0] = 0
    return colours.reshape((*np.shape(ids), _RGB + 1))


def _mixed(state: NDArray[np.uint32], word: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Mix a word into a hash: a step of MurmurHash3, as Neuroglancer has it."""
    word = _rotated(word * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
    mixed: NDArray[np.uint32] = _rotated(state ^ word, 13) * np.uint32(5) + np.uint32(0xE6546B64)
    return mixed


def _rotated(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint32]:
    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))


@functools.cache
def _palette() -> NDArray[np.uint8]:
    """Return a colour for each 16 bits: the lower 8 choose the hue, the others between pale and full."""
    saturation, hue = np.divmod(np.arange(1 << 16), 256)
    distance = (np.array([[5], [3], [1]]) + hue / 255 * 6) % 6  # of red, green and blue on the wheel of hues
    missing = np.minimum(distance, 4 - distance).clip(0, 1)
    levels = 1 - (0.5 + 0.5 * saturation / 255) * missing
    return np.vstack([np.rint(levels * 255), np.full((1, hue.size), 255)]).T.astype(np.uint8)


# -------------------------------------------------------------------------------------------------------- notebooks


def html(source: Volume | Scale) -> str:
    """Describe a volume or a scale to a notebook: never with an error, and within two seconds or so."""
    try:
        thumbnail = _in_time(lambda: _thumbnail(source), _TIME_LIMIT) or ""  # from which layouts are learned, too
        scales = [source] if isinstance(source, Scale) else list(source)
        return f"<div><code>{_escaped(repr(source))}</code>{_table(scales)}{thumbnail}</div>"
    except Exception:  # noqa: BLE001 - a notebook's cell is not to fail for want of a table
        return f"<pre>{_escaped(repr(source))}</pre>"


def described(scale: Scale) -> dict[str, str]:
    """Describe a scale in a few words each: a row of a table, by its headings."""
    return {
        "Key": _cell(scale.key),
        "Size": " x ".join(map(str, scale.shape[:3])),
        "Voxel size": readable_resolution(scale.resolution),
        "Chunk size": " x ".join(map(str, scale.chunk_size)),
        "Encoding": _cell(scale.encoding),
        "Sharded": "yes" if scale.info.sharding else "no",
        "Layout": scale.layout,
        "Bytes": readable_bytes(scale.array.nbytes),
    }


def readable_bytes(count: int) -> str:
    """Show a number of bytes in four digits.

    Examples
    --------
    >>> readable_bytes(1000), readable_bytes(8_675_289)
    ('1000 B', '8.273 MiB')
    """
    units = ("B", *(f"{letter}iB" for letter in "KMGTPEZY"))
    power = min(max(0, count.bit_length() - 1) // 10, len(units) - 1)
    return f"{count / (1 << 10 * power):.4g} {units[power]}"


def _table(scales: Sequence[Scale]) -> str:
    shown = [described(scale) for scale in _some(scales)]
    heading = "".join(f"<th>{name}</th>" for name in shown[0])
    rows = [
        f"<tr>{''.join(f'<td>{_escaped(_unbroken(name, cell))}</td>' for name, cell in cells.items())}</tr>"
        for cells in shown
    ]
    if len(rows) < len(scales):
        left_out = f"<tr><td colspan='{len(shown[0])}'>... and {len(scales) - len(rows)} more ...</td></tr>"
        rows.insert(len(rows) // 2, left_out)
    return f"<table><thead><tr>{heading}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _unbroken(name: str, cell: str) -> str:
    """Keep numbers on one line, in a narrow table."""
    if name not in _NUMBERS:
        return cell
    return cell.replace(" x ", "\N{MULTIPLICATION SIGN}").replace(" ", "\N{NO-BREAK SPACE}")


def _some(scales: Sequence[Scale]) -> Sequence[Scale]:
    """Leave out those in the middle, if there are many."""
    if len(scales) <= _MOST_ROWS:
        return scales
    half = _MOST_ROWS // 2
    return [*scales[:half], *scales[-half:]]


def _cell(text: str) -> str:
    shown = one_line(text)
    return shown if len(shown) <= _LONGEST_CELL else f"{shown[: _LONGEST_CELL - 3]}..."


def _escaped(text: str) -> str:
    return markup.escape(text)


# ------------------------------------------------------------------------------------------------------- thumbnails


def _in_time(function: Callable[[], _T], seconds: float) -> _T | None:
    """Call a function in a thread; None if it fails, or takes longer."""
    results: list[_T] = []

    def work() -> None:
        with contextlib.suppress(Exception):
            results.append(function())

    thread = threading.Thread(target=work, name="precomputed_fs-thumbnail", daemon=True)
    with contextlib.suppress(RuntimeError):  # there may be too many threads
        thread.start()
        thread.join(seconds)
    return results[0] if results else None


def _thumbnail(source: Volume | Scale) -> str:
    """Make small pictures of the middle slices, of as many as a few requests can read."""
    affordable = _affordable(source)
    if affordable is None:
        return ""
    scale, views = affordable
    frame = source if isinstance(source, Scale) else source[0]
    shapes = _shapes(scale, views, _THUMBNAIL_PIXELS)
    plan = _Plan(scale, frame, _middle(frame), shapes, _channels(scale, None))
    slices = _read_slices(plan, progress=False, missing="zeros", warns=False)
    if not any(piece.voxels.any() for piece in slices):
        return ""
    images = " ".join(
        f'<img alt="{piece.name}" title="{piece.name}" src="data:image/png;base64,{_base64(panel)}">'
        for piece, panel in zip(slices, _panels(slices, shapes.values(), None), strict=True)
    )
    names = ", ".join(piece.name for piece in slices)
    return f"<div>{images}<br>{names}, from {_escaped(_cell(scale.key))}</div>"


def _base64(panel: NDArray[np.uint8]) -> str:
    return base64.b64encode(to_png(panel)).decode()


def _affordable(source: Volume | Scale) -> tuple[Scale, list[View]] | None:
    """Choose what to read a thumbnail from: the coarsest scale; if it shows little, a finer one that is small, too."""
    if isinstance(source, Scale) and (views := _affordable_views(source)):
        return source, views
    volume = source.volume if isinstance(source, Scale) else source
    scales = [scale for scale in volume if not scale.info.hidden] or list(volume)
    chosen: tuple[Scale, list[View]] | None = None
    for scale in sorted(scales, key=lambda scale: -math.prod(scale.resolution)):
        views = _affordable_views(scale)
        if len(views) < (len(chosen[1]) if chosen else 1):
            break
        chosen = scale, views
        if max(scale.shape[:3]) >= _THUMBNAIL_VOXELS:
            break
    return chosen


def _affordable_views(scale: Scale) -> list[View]:
    """Return as many slices as may be read, in this order."""
    chunk_bytes = math.prod(map(min, scale.chunk_size, scale.shape[:3])) * scale.shape[3] * scale.dtype.itemsize
    left = min(_THUMBNAIL_CHUNKS, _THUMBNAIL_BYTES // chunk_bytes)
    views = []
    for view in _telling_views(scale):
        left -= _chunks_in(scale, view)
        if left < 0:
            break
        views.append(view)
    return views
