"""What Neuroglancer's client is shown, and what is to be seen of it: voxel for voxel, pixel for pixel."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.support import browser
from tests.support.brain import template

if TYPE_CHECKING:
    from collections.abc import Iterator

    from precomputed_fs import FsspecAccessor
    from tests.support.browser import View

Array = np.ndarray[Any, np.dtype[Any]]
Triple = tuple[int, int, int]

OFFSET = (-98, -134, -72)  # voxels, which are millimetres: where the template itself says that it begins
POSITION = (-5.75, -20.75, 10.5)  # voxels: so that no pixel's centre lies between two voxels
CHUNK_SIZE = (64, 64, 64)  # voxels

GREY = "void main() { emitGrayscale(toNormalized(getDataValue())); }"  # a uint8 is shown as the level it is


BRAIN = template()
"""``[x, y, z]``"""

PYRAMID = {"1mm": BRAIN, "2mm": BRAIN[::2, ::2, ::2]}
"""The finest scale first, each half of the one before."""

IDS = np.array([0, 7, 2**53 + 1, 2**64 - 1], np.uint64)  # two of them are no JavaScript numbers
COLOURS = np.array([browser.BACKGROUND, (255, 0, 0), (0, 255, 0), (128, 64, 255)], np.uint8)
"""In which each of `IDS` is shown; of 0, nothing is."""

TISSUES = np.digitize(BRAIN, (60, 150, 200))
"""``[x, y, z]``, an index into `IDS`."""

PART = BRAIN[60:140, 60:140, 70:90]
PART_OFFSET = (-40, -40, 0)
PART_CHUNK_SIZE = (40, 40, 20)  # voxels: four chunks, which meet in the middle
PART_POSITION = (0.25, 0.25, 19.5)


def write(
    accessor: FsspecAccessor,
    pyramid: dict[str, Array],
    offset: Triple = OFFSET,
    chunk_size: Triple = CHUNK_SIZE,
    **scale: Any,
) -> None:
    """Write scales, each half of the one before; `scale` is more that `info` says of each."""
    scales = [
        {
            "key": key,
            "size": list(voxels.shape),
            "voxel_offset": [start >> level for start in offset],
            "resolution": [1_000_000 << level] * 3,
            "chunk_sizes": [list(chunk_size)],
            "encoding": "raw",
            **scale,
        }
        for level, (key, voxels) in enumerate(pyramid.items())
    ]
    dtype = next(iter(pyramid.values())).dtype.name
    kind = {"type": "image" if dtype == "uint8" else "segmentation", "data_type": dtype, "num_channels": 1}
    info = {"@type": "neuroglancer_multiscale_volume", **kind, "scales": scales}
    accessor.store_file("info", json.dumps(info).encode(), mime_type="application/json")
    for described, voxels in zip(scales, pyramid.values(), strict=True):
        accessor.store_chunks(described["key"], chunks_of(voxels, described["voxel_offset"], chunk_size))
    accessor.flush()


def chunks_of(voxels: Array, offset: list[int], chunk_size: Triple) -> Iterator[tuple[Any, bytes]]:
    """Cut a volume into raw chunks: Fortran order, clipped at the volume's end."""
    for low in itertools.product(*map(range, (0, 0, 0), voxels.shape, chunk_size)):
        part = voxels[tuple(slice(start, start + step) for start, step in zip(low, chunk_size, strict=True))]
        starts = np.add(low, offset)
        yield tuple(np.stack([starts, starts + part.shape], axis=1).ravel().tolist()), part.tobytes(order="F")


def assert_voxels(view: View, pyramid: dict[str, Array]) -> None:
    """Compare all that the client decodes."""
    for key, voxels in pyramid.items():
        decoded = view.volume(key)
        assert decoded.dtype == voxels.dtype
        np.testing.assert_array_equal(decoded, voxels)


def assert_pixels(view: View, colours: Array, offset: Triple = OFFSET, position: tuple[float, ...] = POSITION) -> None:
    """Compare the slice that the client draws; `colours` are those of the finest scale: ``[x, y, z, rgb]``."""
    pixels = view.slice()
    expected = np.full_like(pixels, browser.BACKGROUND)
    rows, columns = (
        np.floor(middle + np.arange(count) + 0.5 - count / 2).astype(int) - start
        for middle, count, start in zip(position[1::-1], pixels.shape, offset[1::-1], strict=False)
    )
    x, y = np.arange(colours.shape[0]), np.arange(colours.shape[1])
    plane = colours[:, :, int(np.floor(position[2])) - offset[2]].swapaxes(0, 1)
    assert np.isin(x, columns).all(), "the page is too small for the slice"
    assert np.isin(y, rows).all(), "the page is too small for the slice"
    expected[np.ix_(np.isin(rows, y), np.isin(columns, x))] = plane
    np.testing.assert_array_equal(pixels, expected)


def grey(voxels: Array) -> Array:
    return np.stack([voxels] * 3, axis=-1)
