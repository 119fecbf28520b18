"""What a view in Neuroglancer shows: its state, as the client keeps it in its URL."""

import contextlib
import itertools
import json
import math
import numbers
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from precomputed_fs.errors import DataAccessError, expected_one_of
from precomputed_fs.format.grid import Box
from precomputed_fs.store.location import Location
from precomputed_fs.view.colours import limits_for
from precomputed_fs.view.extent import frame_of
from precomputed_fs.view.orientation import AXES, IN_NEUROGLANCER
from precomputed_fs.view.shown import client_type
from precomputed_fs.view.slices import Ranges, selection_of
from precomputed_fs.view.sources import Alone, Shown
from precomputed_fs.volume import Scale, Volume, checked_integer

_HALF = {"xy": (0.5, 0.5), "xz": (0.5, 0.5), "yz": (0.5, 0.5)}
_PANELS: dict[str, dict[str, tuple[float, float]]] = {
    "4panel": _HALF,
    "4panel-alt": _HALF,
    **{name: {name: (1.0, 1.0)} for name in _HALF},
    **{f"{name}-3d": {name: (1.0, 0.5)} for name in _HALF},
    "3d": dict.fromkeys(_HALF, (1.0, 1.0)),
}
"""The parts of the height and of the width that each panel has, by layout."""

LAYOUTS = tuple(_PANELS)
"""The client's layouts of panels."""

_SLICES = {"".join(AXES[axis] for axis in sorted(view.edges)): view for view in IN_NEUROGLANCER}
_MARGIN = 1.1  # of the data in a panel
_HEADER = 50  # pixels above the panels
_ASPECT = 1.5  # of a window's width to its height, where nothing is known of it
_MOST_SEGMENTS = 1 << 64
_SHOWN_CHANNELS = ("red", "green", "blue")
_SAMPLED_CHUNKS = 8  # of the coarsest scale, which are read to choose black and white
_SAMPLED_BYTES = 32 << 20
_SAMPLED_VOXELS = 1_000_000  # about


def url_fragment(state: Mapping[str, Any]) -> str:
    """Encode a state for the fragment of the client's URL."""
    return urllib.parse.quote(json.dumps(state, separators=(",", ":"), allow_nan=False))


@dataclass(frozen=True, slots=True)
class Layer:
    """What is shown in a layer: the URL by which the client reads it, and a name."""

    shown: Shown
    source: str
    name: str


@dataclass(frozen=True, slots=True)
class Fit:
    """How far slices are zoomed out so that all is seen: voxels along the height and along the width of a window."""

    rows: float
    columns: float
    header: int = _HEADER
    """Pixels of the height that are not the panels'."""

    def scale_in(self, width: float, height: float) -> float:
        """Return the voxels for a pixel, in a window of this size; the client's page computes the same."""
        return max(self.rows / max(1, height - self.header), self.columns / width)


def view_state(
    layers: Sequence[Layer], layout: str | None, height: int, segments: Iterable[int] | None = None
) -> tuple[dict[str, Any], Fit]:
    """Return the state of a view of all layers, centred on their middle, for a window of a height; and how it fits.

    Parameters
    ----------
    segments : iterable of int, optional
        Ids that are selected in segmentations.
    """
    check_layout(layout)
    if not isinstance(height, numbers.Integral) or height < 1:
        raise ValueError(f"height: expected a number of pixels, at least 1, got {height!r}")
    selected = None if segments is None else checked_segments(segments)
    seen = frame_of([layer.shown for layer in layers], list(map(int, selected or ())))
    has_slices = any(isinstance(layer.shown, Volume) or layer.shown.type.holds == "annotations" for layer in layers)
    layout = layout or (("xy" if seen.is_flat else "4panel") if has_slices else "3d")
    fit = _fitting(layout, seen.extents)
    state = {
        "dimensions": seen.dimensions,
        "layers": [_described(layer, selected) for layer in layers],
        "selectedLayer": {"layer": layers[0].name},
        "layout": layout,
    }
    if seen.is_known:
        state |= {
            "position": seen.position,
            "crossSectionScale": fit.scale_in(height * _ASPECT, height),
            "projectionScale": math.hypot(*seen.extents),
        }
    return state, fit


def _fitting(layout: str, extents: Sequence[float]) -> Fit:
    """Return how volumes of an extent fit the panels of a layout."""
    panels = [(_SLICES[name], parts) for name, parts in _PANELS[layout].items()]
    rows, columns = zip(
        *((extents[view.down] / high, extents[view.across] / wide) for view, (high, wide) in panels), strict=True
    )
    return Fit(max(rows) * _MARGIN, max(columns) * _MARGIN)


def named(locations: Sequence[Location], names: Sequence[str] | None = None) -> list[str]:
    """Return the names of layers: as given, or the last parts of URLs, with a number where several are the same.

    Raises
    ------
    ValueError
        If there are more or fewer names than layers, or two are the same.
    """
    if names is None:
        taken: list[str] = []
        for location in locations:
            name = location.links[0].display.rstrip("/").rpartition("/")[2] or "volume"
            numbered = itertools.chain([name], (f"{name} {i}" for i in itertools.count(2)))
            taken.append(next(each for each in numbered if each not in taken))
        return taken
    given = [names] if isinstance(names, str) else list(names)
    if len(given) != len(locations) or len(set(given)) < len(given) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"names: expected {len(locations)} different texts, one for each layer, got {names!r}")
    return given


def _described(layer: Layer, segments: Sequence[str] | None) -> dict[str, Any]:
    """Return a layer as the client's state has it."""
    described = {"name": layer.name, "source": layer.source}
    segmentation = {**described, "type": "segmentation", **({} if segments is None else {"segments": segments})}
    if isinstance(layer.shown, Alone):
        return {**described, "type": "annotation"} if layer.shown.type.holds == "annotations" else segmentation
    data_type = client_type(layer.shown.info)
    if layer.shown.info.type == "segmentation" and np.dtype(data_type).kind in "iu":
        return segmentation
    return {**described, "type": "image", "shader": _shader(layer.shown, data_type)}


def checked_segments(segments: Iterable[int]) -> list[str]:
    """Return segment ids as the client's state has them.

    Raises
    ------
    TypeError, ValueError
        If they are not ids.
    """
    ids = [checked_integer("segments", segment) for segment in segments]
    if wrong := [segment for segment in ids if not 0 <= segment < _MOST_SEGMENTS]:
        raise ValueError(f"segments: expected ids from 0 to {_MOST_SEGMENTS - 1}, got {wrong[0]}")
    return list(map(str, ids))


def check_layout(layout: str | None) -> None:
    """Check that a layout is one of `LAYOUTS`."""
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(expected_one_of("layout", LAYOUTS, layout))


def _shader(volume: Volume, data_type: str) -> str:
    """Write the client's shader: three or four channels are red, green and blue; otherwise one is grey."""
    low, high = _value_range(volume, np.dtype(data_type))
    limits = f'["{low}", "{high}"]'  # as strings: JavaScript's numbers are less exact
    channels = volume.info.num_channels
    if channels in (3, 4):
        controls = [f"#uicontrol invlerp {name}(range={limits}, channel={i})" for i, name in enumerate(_SHOWN_CHANNELS)]
        return "\n".join([*controls, "void main() {", "  emitRGB(vec3(red(), green(), blue()));", "}"]) + "\n"
    return f"#uicontrol invlerp normalized(range={limits})\nvoid main() {{\n  emitGrayscale(normalized());\n}}\n"


def _value_range(volume: Volume, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Choose the values for black and white by voxels of the coarsest scale."""
    low, high = (0.0, 1.0) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    scale = [volume[0], *(scale for scale in volume if not scale.info.hidden)][-1]
    with contextlib.suppress(DataAccessError, ImportError):  # the client will show the error
        box = selection_of(_sampled(scale), slice(0, scale.shape[3], 1))
        voxels = scale.read_selection(box, missing="zeros", progress=False, warns=False)
        black, white = limits_for(voxels.ravel(order="K")[:: 1 + voxels.size // _SAMPLED_VOXELS])
        if dtype.kind != "f":
            black, white = max(low, math.floor(black)), min(high, math.ceil(white))
        if black < white:
            return black, white
    return low, high


def _sampled(scale: Scale) -> Ranges:
    """Return voxels that stand for a scale: all if these are few chunks, or else a chunk in the middle."""
    box = scale.bounds
    if math.prod(scale.grid.shape) > _SAMPLED_CHUNKS or scale.array.nbytes > _SAMPLED_BYTES:
        x, y, z = (count // 2 for count in scale.grid.shape)
        box = Box.of(scale.grid.chunk((x, y, z)))
    x_range, y_range, z_range = map(range, box.start, box.stop)
    return x_range, y_range, z_range
