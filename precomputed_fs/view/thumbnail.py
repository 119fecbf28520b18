"""The small pictures in a notebook's description of a volume, made with few requests and in limited time."""

import base64
import contextlib
import math
import threading
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.format.lengths import readable
from precomputed_fs.view.orientation import Orientation, orientations, telling
from precomputed_fs.view.pictures import make_panels, to_png
from precomputed_fs.view.slices import chunks_in, middle, plan_of, read_slices, shown_channels
from precomputed_fs.volume import Scale, Volume

_T = TypeVar("_T")
_THUMBNAIL_PIXELS = 160
_THUMBNAIL_VOXELS = 64  # along the longest side: a smaller scale shows little
_THUMBNAIL_CHUNKS = 16
_THUMBNAIL_BYTES = 32 << 20  # decoded


def in_time(function: Callable[[], _T], seconds: float) -> _T | None:
    """Call a function in a thread; return None if it fails, or takes longer."""
    results: list[_T] = []

    def work() -> None:
        with contextlib.suppress(Exception):
            results.append(function())

    thread = threading.Thread(target=work, name="precomputed_fs-thumbnail", daemon=True)
    with contextlib.suppress(RuntimeError):  # no more threads can be started
        thread.start()
        thread.join(seconds)
    return results[0] if results else None


def thumbnail_html(source: Volume | Scale) -> str:
    """Make small pictures of the middle slices, as many as a few requests can read."""
    affordable = _affordable(source)
    if affordable is None:
        return ""
    scale, views = affordable
    frame = source if isinstance(source, Scale) else source[0]
    plan = plan_of(scale, frame, middle(frame), views, size=_THUMBNAIL_PIXELS, channels=shown_channels(scale, None))
    slices = read_slices(plan, progress=False, missing="zeros", warns=False)
    if not any(piece.voxels.any() for piece in slices):
        return ""
    images = " ".join(
        f'<img alt="{piece.name}" title="{piece.name}" src="data:image/png;base64,{_base64(panel)}">'
        for piece, panel in zip(slices, make_panels(slices, plan.shapes.values(), None), strict=True)
    )
    names = ", ".join(piece.name for piece in slices)
    return f"<div>{images}<br>{names}, from {readable(scale.resolution)}</div>"


def _base64(panel: NDArray[np.uint8]) -> str:
    return base64.b64encode(to_png(panel)).decode()


def _affordable(source: Volume | Scale) -> tuple[Scale, list[Orientation]] | None:
    """Choose the scale of a thumbnail: the coarsest, or a finer one that is still small, if that shows more."""
    if isinstance(source, Scale) and (views := _affordable_views(source)):
        return source, views
    volume = source.volume if isinstance(source, Scale) else source
    scales = [scale for scale in volume if not scale.info.hidden] or list(volume)
    chosen: tuple[Scale, list[Orientation]] | None = None
    for scale in sorted(scales, key=lambda scale: -math.prod(scale.resolution)):
        views = _affordable_views(scale)
        if len(views) < (len(chosen[1]) if chosen else 1):
            break
        chosen = scale, views
        if max(scale.shape[:3]) >= _THUMBNAIL_VOXELS:
            break
    return chosen


def _affordable_views(scale: Scale) -> list[Orientation]:
    """Return the first slices that a few requests can read."""
    chunk_bytes = math.prod(map(min, scale.chunk_size, scale.shape[:3])) * scale.shape[3] * scale.dtype.itemsize
    left = min(_THUMBNAIL_CHUNKS, _THUMBNAIL_BYTES // chunk_bytes)
    views = []
    for view in telling(orientations(scale, None), scale):
        left -= chunks_in(scale, view)
        if left < 0:
            break
        views.append(view)
    return views
