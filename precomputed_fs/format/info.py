"""The contents of `info`: a volume and its scales, checked, with unknown members kept.

Readers are lenient where the meaning is clear: enumerations are read in any case, 64.0 is 64, and
``"sharding": null`` means unsharded. Anything else is an `InvalidInfoError` that names the place.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from precomputed_fs.errors import InvalidInfoError, shown
from precomputed_fs.format.grid import ChunkGrid, Triple, check_id_bits, id_bits
from precomputed_fs.format.info_members import (
    MAX_COORDINATE,
    problems_of,
    read_channels,
    read_chunk_sizes,
    read_data_type,
    read_folder,
    read_hidden,
    read_key,
    read_list,
    read_lowercase,
    read_offset,
    read_resolution,
    read_sharding,
    read_size,
    read_type,
)
from precomputed_fs.format.info_objects import InfoObject, check_type, declared_members, member, parse_typed
from precomputed_fs.format.info_text import JSON, MAX_INFO_BYTES
from precomputed_fs.format.scene_types import scene_type_of
from precomputed_fs.format.sharding import Sharding

MAX_SCALES = 1024
"""Scales of a volume: halving the largest sizes along one axis at a time makes 187."""

_VOLUME_TYPE = "neuroglancer_multiscale_volume"
_IMAGE = "image"


@dataclass(frozen=True, slots=True, repr=False)
class _ChunkedScale(InfoObject):
    """How a scale is cut into chunks, and how these are stored."""

    sharding: Sharding | None = field(init=False, metadata=member(read_sharding, None))
    """How the scale is sharded; None if it is not."""

    size: Triple = field(init=False, metadata=member(read_size))
    """Voxels along x, y and z."""

    voxel_offset: Triple = field(init=False, metadata=member(read_offset, (0, 0, 0)))
    """Coordinates of the first voxel."""

    chunk_sizes: tuple[Triple, ...] = field(init=False, metadata=member(read_chunk_sizes))
    """Voxels of a chunk along x, y and z; each is that of a full copy of the data."""

    @property
    def grid(self) -> ChunkGrid:
        """The grid of chunks of the first size."""
        return ChunkGrid(self.size, self.chunk_sizes[0], self.voxel_offset)

    def _check(self) -> None:
        if self.sharding is not None and len(self.chunk_sizes) != 1:
            got = shown([list(size) for size in self.chunk_sizes])
            raise InvalidInfoError(f".chunk_sizes: expected one chunk size, as the scale is sharded, got {got}")
        if max(self.grid.bounds.stop) > MAX_COORDINATE:
            what = f"at most {MAX_COORDINATE} with the size added"
            raise InvalidInfoError(f".voxel_offset: expected {what}, got {list(self.voxel_offset)}")


@dataclass(frozen=True, slots=True, repr=False)
class ScaleInfo(_ChunkedScale):
    """What `info` says of a scale."""

    key: str = field(init=False, metadata=member(read_key))
    """Path of the scale from the directory of `info`; ``..`` may lead out of that."""

    resolution: tuple[float, float, float] = field(init=False, metadata=member(read_resolution))
    """Nanometres of a voxel along x, y and z; integers where `info` has integers."""

    encoding: str = field(init=False, metadata=member(read_lowercase))
    """How chunks are encoded, in lower case; not necessarily an encoding that this package knows."""

    hidden: bool = field(init=False, metadata=member(read_hidden, default=False))
    """Whether viewers leave the scale out."""

    @property
    def parameters(self) -> Mapping[str, JSON]:
        """The other members: those of the encoding, such as ``jpeg_quality``, and unknown ones."""
        known = declared_members(ScaleInfo)
        return {name: self[name] for name in self._members if name not in known}

    def _check(self) -> None:
        super(ScaleInfo, self)._check()  # in classes with slots, `super()` does not know its class
        if self.sharding is not None:
            try:
                check_id_bits(self.grid.shape)
            except ValueError as exc:
                raise InvalidInfoError(f".size: {exc}") from exc


def _read_scales(given: JSON) -> tuple[ScaleInfo, ...]:
    return read_list(given, ScaleInfo, MAX_SCALES)


@dataclass(frozen=True, slots=True, repr=False)
class Info(InfoObject):
    """What `info` says of a volume. Use `Info.parse` to make one."""

    type: str = field(init=False, metadata=member(read_type, _IMAGE))
    """Usually "image" or "segmentation", in lower case."""

    data_type: str = field(init=False, metadata=member(read_data_type))
    """Data type of the voxels as NumPy names it."""

    num_channels: int = field(init=False, metadata=member(read_channels))
    """Values of a voxel."""

    scales: tuple[ScaleInfo, ...] = field(init=False, metadata=member(_read_scales))
    """The scales, in the order of `info`; see `finest_first`."""

    segment_properties: str | None = field(init=False, metadata=member(read_folder, None))
    """Path of the folder of segment properties, as `info` has it: see `precomputed_fs.format.scene_folders`."""

    mesh: str | None = field(init=False, metadata=member(read_folder, None))
    """Path of the folder of meshes."""

    skeletons: str | None = field(init=False, metadata=member(read_folder, None))
    """Path of the folder of skeletons."""

    @property
    def finest_first(self) -> list[int]:
        """Indices into `scales`, sorted by the volume of a voxel.

        The specification wants scales listed so, and some files do not comply. Neuroglancer's pull request 1086 sorts
        them by this measure; its releases, tensorstore and cloud-volume keep the order of `info`.
        """
        # as floats: integers may be too large to be multiplied by floats
        return sorted(range(len(self.scales)), key=lambda i: math.prod(map(float, self.scales[i].resolution)))

    @classmethod
    def parse(cls, given: bytes | str | Mapping[str, Any], where: str = "info", most: int = MAX_INFO_BYTES) -> Self:
        """Read an `info`.

        Parameters
        ----------
        given : bytes, str or mapping
            JSON, or its members; NumPy's numbers and arrays are accepted as numbers and lists.
        where : str
            The name of `info` in messages.
        most : int
            The most bytes that it may have.

        Raises
        ------
        InvalidInfoError
            If it is not JSON, is unreasonably large or does not describe a volume, or if a member is missing
            or invalid; the message names the place of the first problem.

        Examples
        --------
        >>> Info.parse({"data_type": "uint8", "num_channels": 1, "scales": []})
        Traceback (most recent call last):
            ...
        precomputed_fs.errors.InvalidInfoError: info: scales: expected at least 1, got []
        """
        parsed = parse_typed(given, where, most)
        if parsed.get("@type") is not None:
            other = scene_type_of(parsed)
            otherwise = "this is not a volume" if other is None else f"{other.opened_by} opens these {other.holds}"
            check_type(parsed, _VOLUME_TYPE, where, otherwise)
        with problems_of(where):
            return cls(parsed)

    def _check(self) -> None:
        """Check that scales with one key are stored alike: an accessor identifies scales by their keys."""
        first: dict[str, int] = {}
        for i, scale in enumerate(self.scales):
            same = first.setdefault(without_dots(scale.key), i)
            if _storage(self.scales[same]) != _storage(scale):
                what, got = f"another key than that of scales[{same}], which is stored otherwise", shown(scale.key)
                raise InvalidInfoError(f".scales[{i}].key: expected {what}, got {got}")


def _storage(scale: ScaleInfo) -> tuple[str, Sharding | None, ChunkGrid | None]:
    """Return how chunks are stored under their names; the names of unsharded ones tell the grid."""
    return scale.encoding, scale.sharding, None if scale.sharding is None else scale.grid


def redirect_of(info: Mapping[str, Any], where: str = "info") -> str | None:
    """Return where an `info` says that the volume has moved to; it needs no other members then.

    Raises
    ------
    InvalidInfoError
        If that is not a string, or empty.

    Examples
    --------
    >>> redirect_of({"redirect": "gs://bucket/moved"})
    'gs://bucket/moved'
    """
    if "redirect" not in info:
        return None
    redirect = info["redirect"]
    if not isinstance(redirect, str) or not redirect:
        raise InvalidInfoError(f"{where}: redirect: expected a non-empty string, got {shown(redirect)}")
    return redirect


def sharded_grid(scale: Mapping[str, Any], place: str, where: str = "info") -> tuple[Sharding | None, ChunkGrid]:
    """Read how a scale is sharded and cut into chunks; its other members may be invalid.

    Parameters
    ----------
    scale : mapping
        The scale as `info` lists it.
    place : str
        Its place in `info`.
    where : str
        The name of `info` in messages.

    Raises
    ------
    InvalidInfoError
        If a member that this needs is missing or invalid.
    """
    with problems_of(where, place):
        chunked = _ChunkedScale({name: scale[name] for name in declared_members(_ChunkedScale) if name in scale})
    # more ids than chunks, unless the grid is of powers of two: neuroglancer-scripts lists those between as absent
    ids = 1 << id_bits(chunked.grid.shape)
    return chunked.sharding and dataclasses.replace(chunked.sharding, scale_chunks=ids), chunked.grid


def without_dots(key: str) -> str:
    """Remove the segments of a scale's key that mean nothing."""
    return "/".join(part for part in key.removesuffix("/").split("/") if part != ".")
