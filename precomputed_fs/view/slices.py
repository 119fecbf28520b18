"""Which slices of a volume a picture shows, and how their voxels are read.

Slices are oriented as in Neuroglancer's panels, so that a place is easily found there.
"""

import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from precomputed_fs.volume import Scale, Selection, Volume

Array = NDArray[Any]

Point = tuple[int | None, int | None, int | None]
"""Where to slice along x, y and z; None for no slice."""

AXES = "xyz"
RGB = 3
"""A volume with this many channels is shown in colours."""

GAP = 8
"""Pixels between slices that are side by side."""

_WHOLE_BYTES = 32 << 20  # a smaller scale is read whole if that takes fewer requests than its slices
_MOST_PIXELS = 1 << 27
_ROUNDING = 1 + 1e-6


@dataclass(frozen=True, slots=True)
class Orientation:
    """How a slice lies on the screen: which axis runs across, and which runs down."""

    across: int
    down: int
    leftwards: bool = False

    @property
    def through(self) -> int:
        """The axis that is perpendicular to the slice."""
        return sum(range(len(AXES))) - self.across - self.down

    @property
    def edges(self) -> tuple[int, int]:
        """The axes of the slice's rows and columns, in this order."""
        return self.down, self.across


ORIENTATIONS = (Orientation(0, 1), Orientation(0, 2), Orientation(2, 1, leftwards=True))
"""Neuroglancer's panels: xy, xz and yz."""


@dataclass(frozen=True, slots=True)
class Slice:
    """A plane of voxels, as it lies on the screen."""

    scale: Scale
    """The scale that is read."""

    frame: Scale
    """The scale whose voxels are the unit of coordinates."""

    view: Orientation

    position: int
    """The absolute coordinate along the perpendicular axis, in voxels of `frame`."""

    voxels: Array
    """(row, column, channel): every n-th voxel, of the channels to show."""

    @property
    def name(self) -> str:
        """The position as text: ``z = 50``."""
        return f"{AXES[self.view.through]} = {self.position}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read for a picture."""

    scale: Scale
    frame: Scale
    positions: Mapping[int, int]
    """Absolute coordinates of the slices in voxels of `frame`, by axis."""

    shapes: Mapping[Orientation, tuple[int, int]]
    """Rows and columns of pixels of each slice."""

    channels: slice


def read(
    source: Volume | Scale, point: Point, *, size: int | None, channel: int | None, progress: bool | None, in_one: bool
) -> tuple[list[Slice], list[tuple[int, int]]]:
    """Read the slices of one picture, or of one picture each; return them with their rows and columns of pixels."""
    frame = source if isinstance(source, Scale) else source[0]
    positions = _positions(frame, point)
    views = [view for view in ORIENTATIONS if view.through in positions]
    scale = source if isinstance(source, Scale) else good_scale(source, views, size)
    plan = Plan(scale, frame, positions, picture_shapes(scale, views, size), shown_channels(scale, channel))
    shapes = list(plan.shapes.values())
    _check_pixels([extent(shapes)] if in_one else shapes)
    return read_slices(plan, progress=progress), shapes


def good_scale(volume: Volume, views: Iterable[Orientation], size: int | None) -> Scale:
    """Choose the coarsest scale that has all the detail that a picture of this size can show.

    Along each axis, its voxels are no longer than a pixel, or the shortest of all scales.
    """
    if size is None:
        return volume[0]
    axes = {axis for view in views for axis in view.edges}
    pixel = _pixel(volume[0], axes, size)
    finest = [min(scale.resolution[axis] for scale in volume) for axis in range(len(AXES))]
    good = [
        scale
        for scale in volume
        if not scale.info.hidden
        and all(scale.resolution[axis] <= max(pixel, finest[axis]) * _ROUNDING for axis in axes)
    ]
    return max(good, key=lambda scale: math.prod(scale.resolution), default=volume[0])


def _positions(frame: Scale, point: Point) -> dict[int, int]:
    """Return where to slice, by axis: as given, or in the middle."""
    given = {axis: operator.index(at) for axis, at in enumerate(point) if at is not None}
    for axis, at in given.items():
        low, high = frame.bounds.start[axis], frame.bounds.stop[axis]
        if not low <= at < high:
            raise IndexError(f"{AXES[axis]}: {at} is not inside of {low}:{high}, absolute voxels of scale {frame.key}")
    if given:
        return given
    centre = middle(frame)
    return {view.through: centre[view.through] for view in telling_orientations(frame)}


def middle(frame: Scale) -> dict[int, int]:
    """Return the voxel in the middle of a scale, by axis."""
    return {axis: low + frame.shape[axis] // 2 for axis, low in enumerate(frame.voxel_offset)}


def telling_orientations(scale: Scale) -> Sequence[Orientation]:
    """Return the slices worth showing: all, or the widest one if the others are lines."""
    if 1 not in scale.shape[:3]:
        return ORIENTATIONS
    return [max(ORIENTATIONS, key=lambda view: math.prod(scale.shape[axis] for axis in view.edges))]


def shown_channels(scale: Scale, channel: int | None) -> slice:
    """Return which channels are shown: the first three as colours, or one."""
    count = scale.shape[3]
    if channel is None:
        return slice(0, RGB if count == RGB and not is_segmentation(scale) else 1, 1)
    if not 0 <= operator.index(channel) < count:
        raise IndexError(f"channel: {channel} is not inside of 0:{count}")
    return slice(channel, channel + 1, 1)


def _pixel(scale: Scale, axes: Iterable[int], size: int | None) -> float:
    """Return the length of a pixel in nanometres, if the longest axis has `size` pixels."""
    if size is None:
        return min(scale.resolution[axis] for axis in axes)
    if operator.index(size) < 1:
        raise ValueError(f"size: expected at least 1 pixel, got {size}")
    return max(scale.shape[axis] * scale.resolution[axis] for axis in axes) / size


def picture_shapes(scale: Scale, views: Sequence[Orientation], size: int | None) -> dict[Orientation, tuple[int, int]]:
    """Return the rows and columns of pixels of each slice, with pixels of one length for all."""
    pixel = _pixel(scale, {axis for view in views for axis in view.edges}, size)
    shapes = {}
    for view in views:
        rows, columns = (max(1, round(scale.shape[axis] * scale.resolution[axis] / pixel)) for axis in view.edges)
        shapes[view] = rows, columns
    return shapes


def _check_pixels(shapes: Collection[tuple[int, int]]) -> None:
    """Check that pictures of these rows and columns of pixels are not too large."""
    if sum(map(math.prod, shapes)) > _MOST_PIXELS:
        shown = " and ".join(f"{columns} x {rows}" for rows, columns in shapes)
        raise ValueError(f"size: a picture of {shown} pixels is too large, the most is {_MOST_PIXELS}")


def extent(shapes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the rows and columns of pixels that slices take side by side."""
    rows, columns = zip(*shapes, strict=True)
    return max(rows), sum(columns) + GAP * (len(columns) - 1)


def read_slices(plan: Plan, **options: Any) -> list[Slice]:  # noqa: ANN401 - of Scale.read_selection
    """Read slices, with at most two voxels per pixel along each axis."""
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
    """Return the voxel of a scale that contains the middle of a voxel of another scale."""
    at = math.floor((position + 0.5) * frame.resolution[axis] / scale.resolution[axis])
    return max(scale.bounds.start[axis], min(at, scale.bounds.stop[axis] - 1))  # scales may have different ends


def _ranges(scale: Scale, view: Orientation, position: int, shape: tuple[int, int]) -> tuple[range, range, range]:
    """Return the voxels of a slice: where pixels are fewer, the middle one of each n along an axis."""
    ranges = [range(position, position + 1)] * len(AXES)
    for axis, pixels in zip(view.edges, shape, strict=True):
        step = max(1, scale.shape[axis] // pixels)
        ranges[axis] = range(scale.bounds.start[axis] + step // 2, scale.bounds.stop[axis], step)
    x, y, z = ranges
    return x, y, z


def _is_cheaper_whole(scale: Scale, views: Iterable[Orientation]) -> bool:
    """Whether the whole scale takes no more requests than the slices, which share chunks."""
    is_small = scale.array.nbytes <= _WHOLE_BYTES
    return is_small and math.prod(scale.grid.shape) <= sum(chunks_in(scale, view) for view in views)


def chunks_in(scale: Scale, view: Orientation) -> int:
    """Return how many chunks a slice touches."""
    return math.prod(scale.grid.shape[axis] for axis in view.edges)


def _selection(ranges: tuple[range, range, range], channels: slice) -> Selection:
    return Selection(ranges, channels, (slice(None),) * 4)


def _relative(scale: Scale, ranges: tuple[range, range, range]) -> tuple[slice, ...]:
    starts = zip(ranges, scale.bounds.start, strict=True)
    return tuple(slice(voxels.start - low, voxels.stop - low, voxels.step) for voxels, low in starts)


def _laid_out(view: Orientation, plane: Array) -> Array:
    """Orient a plane (x, y, z, channel) as it lies on the screen."""
    rows: Array = plane.transpose(view.through, *view.edges, 3)[0]
    return rows[:, ::-1] if view.leftwards else rows


def is_segmentation(scale: Scale) -> bool:
    """Whether voxels are segment ids, and not intensities."""
    return scale.volume.info.type == "segmentation" and scale.dtype.kind in "iu"
