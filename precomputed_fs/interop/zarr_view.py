"""A volume as the objects of a Zarr v3 group with OME-Zarr's metadata, made when they are asked for.

The group has a group for each scale, with one array. So every scale is a dataset of its own to xarray, where arrays of
one group share their dimensions. A segmentation is found below ``labels``, too, where viewers look for labels.

Axes are (c, z, y, x) in C order, as OME-Zarr orders them; without c if there is one channel. Raw chunks of `info` have
x, y, z, channel in Fortran order, which is the same order of bytes. Zarr's grid begins at the first voxel, like that of
`info`, so each chunk of the array is one of the scale; those at the end are padded with zeros.

Facts are from the specifications of Zarr v3 and of OME-Zarr 0.5.
"""

import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import NotFoundError
from precomputed_fs.format.grid import Triple, size_of
from precomputed_fs.format.names import joined
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.volume import Scale, Volume

METADATA = "zarr.json"
"""The name of the document that each group and array has."""

_OME_VERSION = "0.5"
_CHUNKS = "c"  # the folder of an array's chunks
_LABELS = "labels"
_MOST_DIGITS = 20  # of an index in the grid
_HALF = 0.5  # voxels: OME-Zarr places the centres of voxels, `info` their corners


class ZarrView:
    """The objects of the group, by their keys.

    Parameters
    ----------
    volume : Volume
    follow_links : bool
        Whether to follow symbolic links out of the pyramid.
    """

    def __init__(self, volume: Volume, *, follow_links: bool = True) -> None:
        self.volume = volume
        self._info = volume.info
        self._follow_links = follow_links
        self._arrays: dict[str, ZarrArray] = {}
        """By their keys."""

        self._documents: dict[str, Mapping[str, Any]] = {}
        """The metadata of groups and arrays, by their keys."""

        arrays = [self._array(scale) for scale in volume]
        if volume.info.type == "segmentation":
            self._add("", {f"scale{i}/{_LABELS}": array for i, array in enumerate(arrays)}, {"image-label": {}})
            self._documents[_LABELS] = _group({"labels": ["segmentation"]})
            source = {"image-label": {"source": {"image": "../../"}}}
            self._add(f"{_LABELS}/segmentation", {f"scale{i}": array for i, array in enumerate(arrays)}, source)
        else:
            self._add("", {f"scale{i}/image": array for i, array in enumerate(arrays)}, {})

    def _array(self, scale: Scale) -> "ZarrArray":
        pyramid, key = self.volume.pyramid_for(scale.key)
        return ZarrArray(scale, pyramid if self._follow_links else pyramid.confined(), key, scale.shape)

    def _add(self, group: str, arrays: "Mapping[str, ZarrArray]", attributes: Mapping[str, Any]) -> None:
        """Add a multi-scale image, with arrays by their paths in the group, the finest first."""
        datasets = []
        for path, array in arrays.items():
            datasets.append({"path": path, "coordinateTransformations": array.transformations})
            self._arrays[joined(group, path)] = array
            folder, slash, _ = path.rpartition("/")
            if slash:
                self._documents[joined(group, folder)] = _group()
            self._documents[joined(group, path)] = array.metadata
        multiscale = {"name": "image", "axes": _axes(self.volume), "datasets": datasets}
        self._documents[group] = _group({"multiscales": [multiscale], **attributes})

    @property
    def is_current(self) -> bool:
        """Whether the volume has the same `info` as when this was made."""
        return self.volume.info is self._info

    @property
    def images(self) -> "Mapping[str, ZarrArray]":
        """The arrays by their keys, each once: without those below ``labels``."""
        return {key: array for key, array in self._arrays.items() if not key.startswith(f"{_LABELS}/")}

    def attributes(self, node: str) -> Mapping[str, Any]:
        """Return the attributes of a group or an array."""
        attributes: Mapping[str, Any] = self._documents[node]["attributes"]
        return attributes

    def read(self, key: str) -> bytes | memoryview | None:
        """Return the object with a key; None if there is none.

        Raises
        ------
        NotFoundError
            If the chunk is absent, and the volume says ``missing="raise"``.
        DataAccessError
            If the chunk cannot be read.
        """
        node, _, name = key.rpartition("/")
        if name == METADATA:
            return json.dumps(self._documents[node]).encode() if node in self._documents else None
        array, cell = self._chunk(key)
        return None if array is None else array.chunk(cell)

    def has(self, key: str) -> bool:
        """Tell whether there is an object; chunks of the array's grid count, as absent ones are read as zeros."""
        node, _, name = key.rpartition("/")
        return node in self._documents if name == METADATA else self._chunk(key)[0] is not None

    def metadata_keys(self) -> Iterator[str]:
        """Yield the keys of all objects but chunks, which may be very many."""
        return (joined(node, METADATA) for node in self._documents)

    def entries(self, folder: str) -> Iterator[str]:
        """Yield the names in a folder, except those of chunks."""
        prefix = joined(folder, "")
        found = dict.fromkeys(
            key.removeprefix(prefix).split("/")[0] for key in self.metadata_keys() if key.startswith(prefix)
        )
        yield from found
        if folder in self._arrays:
            yield _CHUNKS

    def _chunk(self, key: str) -> "tuple[ZarrArray | None, Triple]":
        """Parse the key of a chunk."""
        node, _, rest = key.partition(f"/{_CHUNKS}/")
        array = self._arrays.get(node)
        if array is not None:
            array.check_shape()
        cell = None if array is None else array.cell(rest)
        return (None, (0, 0, 0)) if cell is None else (array, cell)


@dataclass(frozen=True, slots=True)
class ZarrArray:
    """A scale as an array."""

    scale: Scale
    pyramid: Pyramid
    """What has the scale's bytes."""

    key: str
    """The scale's key in it."""

    made_for: tuple[int, ...]
    """The scale's shape when this was made."""

    @property
    def _has_channels(self) -> bool:
        return self.scale.shape[3] > 1

    @property
    def shape(self) -> list[int]:
        """Lengths of the axes."""
        return self._axes(self.scale.shape[:3], self.scale.shape[3])

    @property
    def chunk_shape(self) -> list[int]:
        """The shape of a chunk."""
        return self._axes(self._chunk_size, self.scale.shape[3])

    @property
    def dimensions(self) -> list[str]:
        """Names of the axes."""
        return self._axes(("x", "y", "z"), "c")

    @property
    def _chunk_size(self) -> Triple:
        """The size of a chunk, xyz: not longer than the volume, which spares padding."""
        x, y, z = map(min, self.scale.chunk_size, self.scale.info.size)
        return x, y, z

    def _axes(self, spatial: tuple[Any, ...], channel: Any) -> list[Any]:  # noqa: ANN401 - a value per axis
        """Order values of the axes x, y, z and channel as the array does."""
        return [*([channel] if self._has_channels else []), *reversed(spatial)]

    def read(self, block: Sequence[slice]) -> NDArray[Any]:
        """Read a block, in the array's own coordinates."""
        *_, z, y, x = block
        cuts = tuple(
            slice(cut.start + first, cut.stop + first)
            for cut, first in zip((x, y, z), self.scale.voxel_offset, strict=True)
        )
        voxels: NDArray[Any] = self.scale.read(cuts, progress=False).T
        return voxels if self._has_channels else voxels[0]

    @property
    def metadata(self) -> dict[str, Any]:
        """The content of its ``zarr.json``."""
        return {
            "zarr_format": 3,
            "node_type": "array",
            "shape": self.shape,
            "data_type": self.scale.dtype.name,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": self.chunk_shape}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
            "attributes": {},
            "dimension_names": self.dimensions,
        }

    @property
    def transformations(self) -> list[dict[str, Any]]:
        """Where the centres of voxels are, in nanometres."""
        scale = self.scale
        at = tuple((offset + _HALF) * size for offset, size in zip(scale.voxel_offset, scale.resolution, strict=True))
        return [
            {"type": "scale", "scale": self._axes(tuple(map(float, scale.resolution)), 1.0)},
            {"type": "translation", "translation": self._axes(at, 0.0)},
        ]

    def check_shape(self) -> None:
        """Refuse to read for an array that was made before the scale became smaller: that would be zeros."""
        scale = self.scale
        if any(now < before for now, before in zip(scale.shape, self.made_for, strict=True)):
            raise ValueError(
                f"{scale.volume.url}: {scale.shown} had {self.made_for} voxels when the group was made, and has "
                f"{scale.shape} since it was resized: call to_zarr() again"
            )

    def cell(self, name: str) -> Triple | None:
        """Return the place in the grid, xyz, that a chunk's name stands for; None if there is no such chunk."""
        digits = name.split("/")
        if self._has_channels and digits.pop(0) != "0":
            return None
        if len(digits) != len(self.scale.grid.shape) or not all(
            part.isascii() and part.isdecimal() and (part == "0" or part[0] != "0") for part in digits
        ):
            return None
        if len(max(digits, key=len)) > _MOST_DIGITS:
            return None
        z, y, x = map(int, digits)
        return (x, y, z) if all(map(operator.lt, (x, y, z), self.scale.grid.shape)) else None

    def chunk(self, cell: Triple) -> memoryview | None:
        """Fetch a chunk; None if it is absent."""
        scale = self.scale
        coords = scale.grid.chunk(cell)
        try:
            stored = self.pyramid.find_chunk(self.key, coords)
        except NotFoundError:
            scale.check_may_miss(coords, scale.volume.missing)
            return None
        data, size = stored.decoded(), size_of(coords)
        with stored.naming():
            voxels = scale.codec.decode(data, size)
        return _bytes_of(_padded(voxels, self._chunk_size))


def _padded(voxels: NDArray[Any], size: Triple) -> NDArray[Any]:
    """Add zeros, up to the size of a whole chunk."""
    if voxels.shape[:3] == size:
        return voxels
    whole = np.zeros((*size, voxels.shape[3]), voxels.dtype, order="F")
    whole[tuple(map(slice, voxels.shape))] = voxels
    return whole


def _bytes_of(voxels: NDArray[Any]) -> memoryview:
    """Return voxels, little-endian, in Fortran order."""
    little = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    return little.ravel(order="F").view(np.uint8).data


def _group(ome: Mapping[str, Any] | None = None) -> dict[str, Any]:
    attributes = {} if ome is None else {"ome": {"version": _OME_VERSION, **ome}}
    return {"zarr_format": 3, "node_type": "group", "attributes": attributes}


def _axes(volume: Volume) -> list[dict[str, str]]:
    channel = [{"name": "c", "type": "channel"}] if volume.info.num_channels > 1 else []
    return [*channel, *({"name": name, "type": "space", "unit": "nanometer"} for name in "zyx")]
