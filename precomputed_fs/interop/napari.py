"""Volumes as layers of napari, which opens ``precomputed://`` URLs and folders with an `info`: its reader plugin.

``napari.yaml`` beside this module announces it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from precomputed_fs.interop.dask import to_dask
from precomputed_fs.volume import Volume, open_volume

_SCHEME = "precomputed://"
_HALF = 0.5  # voxels: napari places the centres of voxels, `info` their corners
_COLOURS = 3

LayerData = tuple[Any, dict[str, Any], str]
"""The data of a layer, its attributes, and its kind, as napari takes them."""


def get_reader(path: str | list[str]) -> Callable[[str], list[LayerData]] | None:
    """Return what reads a path as layers; None if it is neither a ``precomputed://`` URL nor a folder with an `info`.

    Parameters
    ----------
    path : str, or list of str
        Several are a stack of images to napari, which a volume is not.
    """
    if not isinstance(path, str):
        return None
    return read if path.startswith(_SCHEME) or _has_info(Path(path)) else None


def _has_info(folder: Path) -> bool:
    try:
        return (folder / "info").is_file() or (folder / "info.gz").is_file()
    except OSError:  # such as a name that is too long; another reader may know what it is
        return False


def read(path: str) -> list[LayerData]:
    """Open a volume as one layer, with all its scales; voxels are read when they are shown.

    Returns
    -------
    list of tuple
        A layer of labels for a segmentation, else an image; its axes are (z, y, x), in nanometres. Three channels of
        uint8 are shown as colours, other channels one by one, as the first axis.
    """
    return [layer_of(open_volume(path))]


def layer_of(volume: Volume) -> LayerData:
    """Return a volume as a layer: see `read`."""
    finest = volume[0]
    channels = finest.shape[3]
    is_labels = volume.info.type == "segmentation" and volume.dtype.kind in "iu"
    is_rgb = channels == _COLOURS and volume.info.data_type == "uint8" and not is_labels
    order = (2, 1, 0, 3) if is_rgb else (3, 2, 1, 0)
    scales = [to_dask(scale).transpose(order) for scale in volume]
    nm = [float(size) for size in reversed(finest.resolution)]
    at = [(first + _HALF) * size for first, size in zip(reversed(finest.voxel_offset), nm, strict=True)]
    units = ["nm"] * len(nm)
    if channels == 1:
        scales = [scale[0] for scale in scales]
    elif not is_rgb:
        nm, at, units = [1.0, *nm], [0.0, *at], ["pixel", *units]
    attributes: dict[str, Any] = {
        "name": volume.url.rstrip("/").rpartition("/")[2],
        "scale": nm,
        "translate": at,
        "units": units,
        "multiscale": True,
    }
    if is_labels:
        return scales, attributes, "labels"
    return scales, {**attributes, "rgb": is_rgb}, "image"
