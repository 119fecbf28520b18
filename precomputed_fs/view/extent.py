"""Where layers are, and in which coordinates they are shown together."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precomputed_fs.errors import DataAccessError, InvalidInfoError
from precomputed_fs.scene.folder import Folder
from precomputed_fs.scene.meshes import meshes_in
from precomputed_fs.scene.skeletons import skeletons_in
from precomputed_fs.view.orientation import AXES
from precomputed_fs.view.slices import bounds_of
from precomputed_fs.view.sources import Alone, Shown
from precomputed_fs.volume import Volume

_NM = 1e-9  # metres


@dataclass(frozen=True, slots=True)
class Frame:
    """The coordinates of a view, and the part of them that its layers take."""

    dimensions: dict[str, list[Any]]
    """As the client's state has them: the length of one step along each axis, and its unit."""

    low: tuple[float, ...]
    """In steps, along each axis; empty if no layer tells."""

    high: tuple[float, ...]

    @property
    def is_known(self) -> bool:
        """Whether any layer tells where it is."""
        return bool(self.low)

    @property
    def is_flat(self) -> bool:
        """Whether all is in one plane of voxels along z."""
        return self.is_known and len(self.low) >= len(AXES) and round(self.high[2] - self.low[2]) <= 1

    @property
    def position(self) -> list[float]:
        """The middle of a voxel in the middle."""
        middles = ((low + high) / 2 for low, high in zip(self.low, self.high, strict=True))
        return [math.floor(middle) + 0.5 for middle in middles]

    @property
    def extents(self) -> list[float]:
        """How far the first three axes go, in the client's unit of zoom: the shortest step."""
        steps = [step for step, _ in self.dimensions.values()][: len(AXES)]
        ends = zip(steps, self.low, self.high, strict=False)
        found = [(high - low) * step / min(steps) for step, low, high in ends]
        return [*found, *[1.0] * (len(AXES) - len(found))]


def frame_of(sources: Sequence[Shown], segments: Sequence[int] = ()) -> Frame:
    """Return the coordinates of the first source that has some, with the part that all aligned ones take.

    Parameters
    ----------
    segments : sequence of int
        Ids that are selected: meshes and skeletons on their own tell only by one of these where they are.
    """
    for source in sources:
        if isinstance(source, Volume):
            return _in_voxels(source, sources)
    for source in sources:
        if isinstance(source, Alone) and (frame := _of_annotations(source.info)) is not None:
            return frame
    low, high = next(filter(None, (_of_segment(source, segments) for source in sources)), ((), ()))
    return Frame({axis: [_NM, "m"] for axis in AXES}, low, high)


def _in_voxels(volume: Volume, sources: Sequence[Shown]) -> Frame:
    scale = volume[0]
    found = [ends for source in sources if (ends := _bounds(source)) is not None]
    starts, stops = zip(*found, strict=True)
    low, high = (np.divide(ends, scale.resolution).tolist() for ends in (np.min(starts, 0), np.max(stops, 0)))
    dimensions = {axis: [step * _NM, "m"] for axis, step in zip(AXES, scale.resolution, strict=True)}
    return Frame(dimensions, tuple(low), tuple(high))


def _bounds(source: Shown) -> tuple[Sequence[float], Sequence[float]] | None:
    """Return the first and last corner in nanometres: x, y, z; None if that is not known."""
    if isinstance(source, Volume):
        return bounds_of(source[0])
    frame = _of_annotations(source.info)
    if frame is None or any(frame.dimensions.get(axis, ["", ""])[1] != "m" for axis in AXES):
        return None
    places = [(frame.dimensions[axis][0] / _NM, [*frame.dimensions].index(axis)) for axis in AXES]
    low, high = ([ends[i] * step for step, i in places] for ends in (frame.low, frame.high))
    return low, high


def _of_annotations(info: Mapping[str, Any]) -> Frame | None:
    """Return the coordinates of annotations; None if this is something else, or not valid: the client will tell."""
    try:
        steps = {name: float(step) for name, (step, _) in info["dimensions"].items()}
        units = {name: str(unit) for name, (_, unit) in info["dimensions"].items()}
        low, high = (tuple(map(float, info[name])) for name in ("lower_bound", "upper_bound"))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        return None
    is_valid = len(low) == len(high) == len(steps) > 0 and all(map(math.isfinite, (*low, *high)))
    is_valid = is_valid and all(0 < step < math.inf for step in steps.values())
    return Frame({name: [steps[name], units[name]] for name in steps}, low, high) if is_valid else None


def _of_segment(source: Shown, segments: Sequence[int]) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the first and last corner of the first selected segment, in nanometres; None if it cannot be read."""
    if not isinstance(source, Alone) or not segments:
        return None
    opened = _OPENED.get(source.type.holds)
    if opened is None:
        return None
    with contextlib.suppress(DataAccessError, InvalidInfoError, ImportError):
        vertices = opened(source.folder)[segments[0]].vertices
        if len(vertices):
            return tuple(vertices.min(axis=0).tolist()), tuple(vertices.max(axis=0).tolist())
    return None


_OPENED: Mapping[str, Callable[[Folder], Any]] = {
    "meshes": lambda folder: meshes_in(folder, progress=False),
    "skeletons": lambda folder: skeletons_in(folder, progress=False),
}
"""What reads segments, by `SceneType.holds`."""
