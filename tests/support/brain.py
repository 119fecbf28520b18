"""A real brain: the MNI152 maps that nilearn ships, whole and in pieces that suit tests."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def scan(name: str = "t1") -> Path:
    """Return the NIfTI file of a map, without importing nilearn."""
    (folder,) = importlib.util.find_spec("nilearn").submodule_search_locations  # type: ignore[union-attr,misc]
    return Path(folder) / f"datasets/data/mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"


@cache
def template(name: str = "t1") -> Array:
    """Return the map of T1, of grey matter ("gm") or of white matter ("wm").

    Returns
    -------
    ndarray
        ``[x, y, z]`` of uint8, read-only, 197 x 233 x 189 voxels of 1 mm.
    """
    import nibabel

    image: Any = nibabel.load(scan(name))
    voxels = np.asarray(image.dataobj, np.uint8)
    voxels.flags.writeable = False
    return voxels


@cache
def channels() -> Array:
    """Cut a piece with some background out of the maps: T1, grey matter, white matter.

    Returns
    -------
    ndarray
        ``[x, y, z, channel]`` of uint8, 35 x 24 x 29 voxels of 2 mm; the fourth channel is another view of the first.
    """
    maps = [template(name)[8:78:2, 52:100:2, 24:82:2] for name in ("t1", "gm", "wm")]
    return np.stack([*maps, maps[0] * 3], axis=-1)


@cache
def image(data_type: str) -> Array:
    """Return `channels` such that no byte of a voxel is always 0; what is 0 remains 0."""
    dtype = np.dtype(data_type)
    if dtype.kind == "f":
        return np.asarray(channels() / np.array([7, -11, 13, 1e-3]), dtype)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    factor = unsigned.type(np.iinfo(unsigned).max // 255)
    return np.asarray(channels().astype(unsigned) * factor).view(dtype)


@cache
def labels(data_type: str) -> Array:
    """Return six segments of similar intensity; their labels are the largest that there are, and some in between."""
    largest = int(np.iinfo(data_type).max)
    chosen = np.array([0, 1, largest, largest // 2 + 1, largest // 3, largest - 7], data_type)
    return np.asarray(chosen[channels() // 43])
