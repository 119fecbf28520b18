"""Which slices of a volume a picture shows, and how their voxels are read."""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from precomputed_fs.view.orientation import AXES, Array, Orientation, orientations, telling
from precomputed_fs.volume import Scale, Selection, Volume, checked_integer

Point = tuple[int | None, int | None, int | None]
"""Where to slice along x, y and z; None for no slice."""

Ranges = tuple[range, range, range]
"""Voxels along x, y and z."""

RGB = 3
"""A volume with this many channels is shown in colours."""

GAP = 8
"""Pixels between slices that are side by side."""

_WHOLE_BYTES = 32 << 20  # a smaller scale is read whole if that takes fewer requests than its slices
_MOST_PIXELS = 1 << 27
_ROUNDING = 1 + 1e-6


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

    @property
    def ends(self) -> tuple[float, float, float, float]:
        """The left, right, top and bottom edges in nanometres."""
        return self.view.ends(*bounds_of(self.scale))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to read for a picture."""

    scale: Scale
    frame: Scale
    positions: Mapping[int, int]
    """Absolute coordinates of the slices in voxels of `frame`, by axis."""

    pixel: float
    """The length of a pixel in nanometres."""

    shapes: Mapping[Orientation, tuple[int, int]]
    """Rows and columns of pixels of each slice."""

    channels: slice


def planned(
    source: Volume | Scale,
    point: Point,
    *,
    size: int | None,
    channel: int | None,
    orientation: str | None,
    in_one: bool,
) -> Plan:
    """Decide which slices are shown in one picture, or in one picture each, and what is read for them."""
    frame = source if isinstance(source, Scale) else source[0]
    turned = orientations(source, orientation)
    positions = _positions(frame, point, turned)
    views = [view for view in turned if view.through in positions]
    axes = {axis for view in views for axis in view.edges}
    scale = source if isinstance(source, Scale) else good_scale(source, axes, size)
    plan = plan_of(scale, frame, positions, views, size=size, channels=shown_channels(scale, channel))
    shapes = plan.shapes.values()
    _check_pixels([extent(shapes)] if in_one else shapes)
    return plan


def plan_of(
    scale: Scale,
    frame: Scale,
    positions: Mapping[int, int],
    views: Sequence[Orientation],
    *,
    size: int | None,
    channels: slice,
) -> Plan:
    """Plan slices of a scale, with pixels of one length for all."""
    pixel = _pixel(scale, {axis for view in views for axis in view.edges}, size)
    shapes = {}
    for view in views:
        rows, columns = (max(1, round(scale.shape[axis] * scale.resolution[axis] / pixel)) for axis in view.edges)
        shapes[view] = rows, columns
    return Plan(scale, frame, positions, pixel, shapes, channels)


def good_scale(volume: Volume, axes: Iterable[int], size: int | None) -> Scale:
    """Choose the coarsest scale that has all the detail that a picture of this size can show."""
    return volume[0] if size is None else scale_for_pixels(volume, axes, _pixel(volume[0], axes, size))


def scale_for_pixels(volume: Volume, axes: Iterable[int], pixel: float) -> Scale:
    """Choose the coarsest scale that has all the detail that pixels of a length in nanometres can show.

    Along each axis, its voxels are no longer than a pixel, or the shortest of all scales.
    """
    finest = [min(scale.resolution[axis] for scale in volume) for axis in range(len(AXES))]
    good = [
        scale
        for scale in volume
        if not scale.info.hidden
        and all(scale.resolution[axis] <= max(pixel, finest[axis]) * _ROUNDING for axis in axes)
    ]
    return max(good, key=lambda scale: math.prod(scale.resolution), default=volume[0])


def _positions(frame: Scale, point: Point, turned: Sequence[Orientation]) -> dict[int, int]:
    """Return where to slice, by axis: as given, or in the middle."""
    given = {axis: checked_integer(AXES[axis], at) for axis, at in enumerate(point) if at is not None}
    for axis, at in given.items():
        low, high = frame.bounds.start[axis], frame.bounds.stop[axis]
        if not low <= at < high:
            raise IndexError(f"{AXES[axis]}: {at} is not inside of {low}:{high}, absolute voxels of {frame.shown}")
    if given:
        return given
    centre = middle(frame)
    return {view.through: centre[view.through] for view in telling(turned, frame)}


def middle(frame: Scale) -> dict[int, int]:
    """Return the voxel in the middle of a scale, by axis."""
    return {axis: low + frame.shape[axis] // 2 for axis, low in enumerate(frame.voxel_offset)}


def shown_channels(scale: Scale, channel: int | None) -> slice:
    """Return which channels are shown: the first three as colours, or one."""
    count = scale.shape[3]
    if channel is None:
        return slice(0, RGB if count == RGB and not is_segmentation(scale) else 1, 1)
    if not 0 <= checked_integer("channel", channel) < count:
        raise IndexError(f"channel: {channel} is not inside of 0:{count}")
    return slice(channel, channel + 1, 1)


def _pixel(scale: Scale, axes: Iterable[int], size: int | None) -> float:
    """Return the length of a pixel in nanometres, if the longest axis has `size` pixels."""
    if size is None:
        return min(scale.resolution[axis] for axis in axes)
    if checked_integer("size", size) < 1:
        raise ValueError(f"size: expected at least 1 pixel, got {size}")
    return max(scale.shape[axis] * scale.resolution[axis] for axis in axes) / size


def _check_pixels(shapes: Collection[tuple[int, int]]) -> None:
    """Check that pictures of these rows and columns of pixels are not too large."""
    if sum(map(math.prod, shapes)) > _MOST_PIXELS:
        shown = " and ".join(f"{columns} x {rows}" for rows, columns in shapes)
        raise ValueError(f"size: a picture of {shown} pixels is too large, the most is {_MOST_PIXELS}")


def extent(shapes: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """Return the rows and columns of pixels that slices take side by side."""
    rows, columns = zip(*shapes, strict=True)
    return max(rows), sum(columns) + GAP * (len(columns) - 1)


def bounds_of(scale: Scale) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the first and last corner of a scale in nanometres."""
    start, stop = (
        tuple(at * step for at, step in zip(corner, scale.resolution, strict=True))
        for corner in (scale.bounds.start, scale.bounds.stop)
    )
    return start, stop


def read_slices(plan: Plan, **options: Any) -> list[Slice]:  # noqa: ANN401 - of Scale.read_selection
    """Read slices, with at most two voxels per pixel along each axis."""
    scale, frame, positions = plan.scale, plan.frame, plan.positions
    wanted = {
        view: _ranges(scale, view, _position_in(scale, frame, view.through, positions[view.through]), shape)
        for view, shape in plan.shapes.items()
    }
    if _is_cheaper_whole(scale, wanted):
        x, y, z = map(range, scale.bounds.start, scale.bounds.stop)
        whole = scale.read_selection(selection_of((x, y, z), plan.channels), **options)
        planes = [whole[_relative(scale, ranges)] for ranges in wanted.values()]
    else:
        planes = [scale.read_selection(selection_of(ranges, plan.channels), **options) for ranges in wanted.values()]
    return [
        Slice(scale, frame, view, positions[view.through], view.laid_out(plane))
        for view, plane in zip(wanted, planes, strict=True)
    ]


def _position_in(scale: Scale, frame: Scale, axis: int, position: int) -> int:
    """Return the voxel of a scale that contains the middle of a voxel of another scale."""
    at = math.floor((position + 0.5) * frame.resolution[axis] / scale.resolution[axis])
    return max(scale.bounds.start[axis], min(at, scale.bounds.stop[axis] - 1))  # scales may have different ends


def _ranges(scale: Scale, view: Orientation, position: int, shape: tuple[int, int]) -> Ranges:
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


def selection_of(ranges: Ranges, channels: slice) -> Selection:
    """Return the selection of some voxels along each axis."""
    return Selection(ranges, channels, (slice(None),) * 4)


def _relative(scale: Scale, ranges: Ranges) -> tuple[slice, ...]:
    starts = zip(ranges, scale.bounds.start, strict=True)
    return tuple(slice(voxels.start - low, voxels.stop - low, voxels.step) for voxels, low in starts)


def is_segmentation(scale: Scale) -> bool:
    """Whether voxels are segment ids, and not intensities."""
    return scale.volume.info.type == "segmentation" and scale.dtype.kind in "iu"
