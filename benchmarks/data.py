"""What is read and written: brains as volumes, stored in each way that is measured.

The image is a mosaic of the MNI152 T1 template (packaged with nilearn), 8 bits. The labels are its grey levels, eight
of them in each region of 50^3 voxels, every one with a 64-bit label of its own. A data set is made when it is first
asked for; by precomputed_fs, which the tests hold against the other tools.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.jobs import DataSet, Location, box_of
from benchmarks.segments import meshes, skeletons
from precomputed_fs import FsspecAccessor, Mesh, Skeleton, create_volume
from tests.demo import mni152

Array = NDArray[Any]


def sharding(preshift_bits: int) -> dict[str, Any]:
    """Return 8 shards of 8 minishards."""
    return {
        "@type": "neuroglancer_uint64_sharded_v1",
        "preshift_bits": preshift_bits,
        "minishard_bits": 3,
        "shard_bits": 3,
        "hash": "identity",
        "minishard_index_encoding": "gzip",
        "data_encoding": "gzip",
    }


RAW = DataSet("raw", "image")
GZIP = DataSet("gzip", "image", gzip=True)
JPEG = DataSet("jpeg", "image", encoding="jpeg")
PNG = DataSet("png", "image", encoding="png")
SEGMENTATION = DataSet(
    "compressed_segmentation",
    "labels",
    encoding="compressed_segmentation",
    parameters={"compressed_segmentation_block_size": (8, 8, 8)},
)
SEGMENTATION_GZIP = replace(SEGMENTATION, name="compressed_segmentation gzip", gzip=True)
RAW_SHARDS = DataSet("raw shards", "image", sharding=sharding(3))
SEGMENTATION_SHARDS = replace(SEGMENTATION, name="compressed_segmentation shards", sharding=sharding(3))
TINY = DataSet("4 KiB chunks", "image", side=256, chunk=16)
MESHES = DataSet("1,000 legacy meshes", "labels", side=64, gzip=True, beside="meshes")
SKELETONS = DataSet("1,000 skeletons", "labels", side=256, beside="skeletons")
ALL = (RAW, GZIP, JPEG, PNG, SEGMENTATION, SEGMENTATION_GZIP, RAW_SHARDS, SEGMENTATION_SHARDS, TINY)


def image(side: int) -> Array:
    """Lay templates side by side, in Fortran order."""
    brain = np.asarray(mni152().dataobj)
    mosaic = np.tile(brain, [-(-side // length) for length in brain.shape])
    return np.asfortranarray(mosaic[:side, :side, :side])


def labels(side: int) -> Array:
    """Give each grey level in each region a label; what is black stays 0."""
    levels = (image(side) // 32).astype(np.uint64)
    x, y, z = np.ogrid[:side, :side, :side]
    regions = (x // 50 + 100 * (y // 50) + 10_000 * (z // 50)).astype(np.uint64)
    spread = np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two products are alike
    return np.asfortranarray(np.where(levels, (regions * np.uint64(8) + levels) * spread, np.uint64(0)))


SOURCES: Mapping[str, Callable[[int], Array]] = {"image": image, "labels": labels}


class Folder:
    """The data sets, in one folder, which is also what servers show: a bucket of its name, for S3."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def source(self, data: DataSet) -> Path:
        """Return the .npy of the voxels that a volume is made of."""
        path = self.root / f"{data.voxels}-{data.side}.npy"
        return path if path.exists() else saved(path, SOURCES[data.voxels](data.side))

    def expected(self, data: DataSet) -> Path:
        """Return the .npy of the voxels that are to be read: of a lossy volume, as Pillow decodes it."""
        if not data.is_lossy:
            return self.source(data)
        path = self.root / f"{data.folder}.npy"
        return path if path.exists() else saved(path, decoded_by_pillow(self.volume(data).url, data))

    def volume(self, data: DataSet) -> Location:
        """Return where a volume is on disk."""
        if not (self.root / data.folder).exists():
            making = self.root / f"{data.folder}.part"
            with create_volume(making, data.info, gzip=data.gzip, compresslevel=6, progress=False) as volume:
                volume[0][...] = np.load(self.source(data), mmap_mode="r")
                if data.beside == "skeletons":
                    made = ((segment, Skeleton(*parts[:2], {"radius": parts[2]})) for segment, parts in skeletons())
                    volume.store_skeletons(made)
                if data.beside == "meshes":
                    volume.store_meshes((segment, Mesh(*parts)) for segment, parts in meshes())
            making.rename(self.root / data.folder)
        return Location("file", str(self.root), data.folder)


def saved(path: Path, voxels: Array) -> Path:
    """Store an array such that half of it never has its name."""
    making = path.with_suffix(".part")
    with making.open("wb") as file:
        np.save(file, voxels)
    return making.rename(path)


def decoded_by_pillow(url: str, data: DataSet) -> Array:
    """Decode JPEG chunks by what none of the tools decodes with."""
    voxels = np.empty((data.side,) * 3, data.dtype, order="F")
    accessor = FsspecAccessor(url)
    for coords in data.chunks(data.whole):
        box = box_of(coords)
        with Image.open(BytesIO(accessor.fetch_chunk(data.key, coords))) as picture:
            voxels[box] = np.asarray(picture).reshape(voxels[box].shape[::-1]).T
    return voxels
