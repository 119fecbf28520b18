"""What is read and written: real brains as volumes, stored in each way that is measured.

The image is a mosaic of the MNI152 T1 template (packaged with nilearn), uint8. The labels are its grey levels, eight
of them in each region of 50^3 voxels, with a 64-bit label for each. Whatever is asked for is made once, in one folder;
by precomputed_fs, which the tests hold against the other tools.
"""

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.jobs import DataSet, Location
from precomputed_fs import FsspecAccessor, create_volume
from tests.demo import mni152

Array = NDArray[Any]

SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 3,
    "minishard_bits": 3,
    "shard_bits": 3,
    "hash": "identity",
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}
LABELS = {"encoding": "compressed_segmentation", "parameters": {"compressed_segmentation_block_size": (8, 8, 8)}}
RAW = DataSet("raw", "image")
GZIP = DataSet("gzip", "image", gzip=True)
JPEG = DataSet("jpeg", "image", encoding="jpeg")
PNG = DataSet("png", "image", encoding="png")
SEGMENTATION = DataSet("compressed_segmentation", "labels", **LABELS)  # type: ignore[arg-type]
DATA = {data.name: data for data in (RAW, GZIP, JPEG, PNG)}


def image(side: int) -> Array:
    """Lay templates side by side; F order."""
    brain = np.asarray(mni152().dataobj)
    mosaic = np.tile(brain, [-(-side // length) for length in brain.shape])
    return np.asfortranarray(mosaic[:side, :side, :side])


def labels(side: int) -> Array:
    """Name each grey level in each region by a label of its own; what is black stays 0. F order."""
    levels = (image(side) // 32).astype(np.uint64)
    x, y, z = np.ogrid[:side, :side, :side]
    regions = (x // 50 + 100 * (y // 50) + 10_000 * (z // 50)).astype(np.uint64) * np.uint64(8)
    ids = np.asfortranarray((regions + levels) * np.uint64(0x9E3779B97F4A7C15))  # spread over all 64 bits
    ids[levels == 0] = 0
    return ids


SOURCES: Mapping[str, Callable[[int], Array]] = {"image": image, "labels": labels}


class Folder:
    """The data sets in one folder, each made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        """Also what servers serve; as S3, its parent is, so that its name is the bucket's."""

    def source(self, data: DataSet) -> Path:
        """Return the .npy of the voxels that a volume is made of."""
        path = self.root / f"{data.voxels}-{data.side}.npy"
        if not path.exists():
            save(path, SOURCES[data.voxels](data.side))
        return path

    def expected(self, data: DataSet) -> Path:
        """Return the .npy of the voxels that are to be read: of a lossy volume, what Pillow decodes."""
        if not data.is_lossy:
            return self.source(data)
        path = self.root / f"{data.name}.npy"
        if not path.exists():
            save(path, decoded_by_pillow(self.volume(data), data))
        return path

    def volume(self, data: DataSet) -> Location:
        """Return where the volume is on disk."""
        location = Location("file", str(self.root), data.name)
        if not (self.root / data.name).exists():
            making = self.root / f"{data.name}.part"
            with create_volume(making, data.info, gzip=data.gzip, compresslevel=6, progress=False) as volume:
                volume[0][...] = np.load(self.source(data), mmap_mode="r")
            making.rename(self.root / data.name)
        return location


def save(path: Path, voxels: Array) -> None:
    making = path.with_suffix(".part")
    with making.open("wb") as file:
        np.save(file, voxels)
    making.rename(path)


def decoded_by_pillow(location: Location, data: DataSet) -> Array:
    """Decode a volume of JPEG chunks by other means than any of the tools: Pillow has its own libjpeg."""
    voxels = np.empty((data.side,) * 3, data.dtype, order="F")
    accessor = FsspecAccessor(location.url)
    for z, y, x in np.ndindex(*(data.side // data.chunk,) * 3):
        low = [cell * data.chunk for cell in (x, y, z)]
        coords = tuple(edge for start in low for edge in (start, start + data.chunk))
        with Image.open(BytesIO(accessor.fetch_chunk(data.key, coords))) as picture:
            part = np.asarray(picture).reshape((data.chunk,) * 3)  # [z, y, x]
        voxels[tuple(slice(start, start + data.chunk) for start in low)] = part.T
    return voxels
