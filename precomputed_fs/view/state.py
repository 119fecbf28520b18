"""What a view in Neuroglancer shows: its state, as the client keeps it in its URL."""

import contextlib
import json
import math
import urllib.parse
from collections.abc import Mapping
from typing import Any

import numpy as np

from precomputed_fs.errors import DataAccessError
from precomputed_fs.format.grid import Box
from precomputed_fs.view.colours import limits_for
from precomputed_fs.view.shown import client_type
from precomputed_fs.view.slices import Ranges, selection_of
from precomputed_fs.volume import Scale, Volume

LAYOUTS = ("4panel", "4panel-alt", "xy", "xz", "yz", "xy-3d", "xz-3d", "yz-3d", "3d")
"""The client's layouts of panels."""

_PANELS = {"4panel": 0.4, "4panel-alt": 0.4}  # the part of the height that one of several panels has
_WHOLE = 0.85  # the part that a single panel has
_SHOWN_CHANNELS = ("red", "green", "blue")
_SAMPLED_CHUNKS = 8  # of the coarsest scale, which are read to choose black and white
_SAMPLED_BYTES = 32 << 20
_SAMPLED_VOXELS = 1_000_000  # about
_AXES = "xyz"


def url_fragment(state: Mapping[str, Any]) -> str:
    """Encode a state for the fragment of the client's URL."""
    return urllib.parse.quote(json.dumps(state, separators=(",", ":"), allow_nan=False))


def view_state(volume: Volume, source: str, layout: str | None, height: int) -> dict[str, Any]:
    """Return the state of a view of the whole volume, centred on its middle."""
    check_layout(layout)
    scale = volume[0]
    layout = layout or ("xy" if scale.info.size[2] == 1 else "4panel")
    voxel = min(scale.resolution)  # the client's unit of zoom
    extents = [size * step / voxel for size, step in zip(scale.info.size, scale.resolution, strict=True)]
    middle = [low + size // 2 + 0.5 for low, size in zip(scale.voxel_offset, scale.info.size, strict=True)]
    data_type = client_type(volume.info)
    layer: dict[str, Any] = {"name": _layer_name(volume), "source": source}
    if volume.info.type == "segmentation" and np.dtype(data_type).kind in "iu":
        layer["type"] = "segmentation"
    else:
        layer |= {"type": "image", "shader": _shader(volume, data_type)}
    return {
        "dimensions": {axis: [step / 1e9, "m"] for axis, step in zip(_AXES, scale.resolution, strict=True)},
        "position": middle,
        "crossSectionScale": max(extents) / (height * _PANELS.get(layout, _WHOLE)),
        "projectionScale": math.hypot(*extents),
        "layers": [layer],
        "selectedLayer": {"layer": layer["name"]},
        "layout": layout,
    }


def check_layout(layout: str | None) -> None:
    """Check that a layout is one of `LAYOUTS`."""
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}")


def _layer_name(volume: Volume) -> str:
    return volume.pyramid.location.links[0].display.rstrip("/").rpartition("/")[2] or "volume"


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
