"""Meshes of several levels of detail, ``neuroglancer_multilod_draco``: `info`, manifests and vertices.

The surface of a segment is cut into the cells of an octree: a cell of one level covers 2 x 2 x 2 cells of the next
finer one. The part of the surface in a cell is a fragment, encoded by Draco, with vertices as integers relative to the
cell. A segment's manifest says which cells have fragments and how long these are; the fragments of all levels stand one
after the other, the finest level first. Facts are from Neuroglancer's specification of meshes and from its client.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from precomputed_fs.errors import CorruptDataError
from precomputed_fs.format.info_members import IDENTITY, expected, problems_of, read_sharding, read_transform, whole
from precomputed_fs.format.info_objects import InfoObject, check_type, member, parse_typed
from precomputed_fs.format.info_text import JSON, MAX_INFO_BYTES
from precomputed_fs.format.mesh_geometry import Vertices
from precomputed_fs.format.sharding import Sharding

MULTILOD_TYPE = "neuroglancer_multilod_draco"

QUANTIZATIONS = (10, 16)
"""Bits that a coordinate of a vertex may have."""

MOST_LEVELS = 32
"""The root of an octree whose finest cells have uint32 coordinates is no coarser."""

_AXES = 3
_HEAD = 28  # bytes: the shape and the origin of the grid, the number of levels
_LEVEL_BYTES = 20  # in the head, for each level: its scale, the offset of its vertices, the number of its fragments
_LOW_BITS = 21  # of a coordinate: three times as many fit into 64
_FRAGMENT_BYTES = 16  # the position of a cell, and the size of its fragment

Positions = npt.NDArray[np.uint32]
Sizes = npt.NDArray[np.uint32]
Coordinates = npt.NDArray[np.float64]


def _read_bits(given: JSON) -> int:
    bits = whole(given)
    if type(bits) is not int or bits not in QUANTIZATIONS:
        raise expected("10 or 16", given)
    return bits


def _read_multiplier(given: JSON) -> float:
    if type(given) not in (int, float) or not 0 < given <= sys.float_info.max:
        raise expected("a positive number", given)
    return float(given)


@dataclass(frozen=True, slots=True, repr=False)
class MultilodInfo(InfoObject):
    """The `info` of a folder of such meshes."""

    vertex_quantization_bits: int = field(init=False, metadata=member(_read_bits))
    """Bits of each coordinate of a vertex."""

    transform: tuple[float, ...] = field(init=False, metadata=member(read_transform, IDENTITY))
    """From what is stored to nanometres: an affine map as the 3 x 4 numbers of its rows.

    As in Neuroglancer's client, an absent one is the identity."""

    lod_scale_multiplier: float = field(init=False, metadata=member(_read_multiplier, 1.0))
    """What the scales of levels in manifests are multiplied by."""

    sharding: Sharding | None = field(init=False, metadata=member(read_sharding, None))
    """How manifests and fragments are sharded; None if they are files of their own."""

    @classmethod
    def parse(cls, given: bytes | str | Mapping[str, Any], where: str = "info", most: int = MAX_INFO_BYTES) -> Self:
        """Read an `info`.

        Raises
        ------
        InvalidInfoError
            If a member is missing or invalid; the message names its place.
        """
        parsed = parse_typed(given, where, most)
        check_type(parsed, MULTILOD_TYPE, where, "these are no meshes of several levels of detail")
        with problems_of(where):
            return cls(parsed)

    @property
    def unit(self) -> float:
        """How many nanometres a stored unit is, on average over all directions."""
        matrix = np.reshape(self.transform, (_AXES, _AXES + 1))[:, :_AXES]
        return math.pow(abs(float(np.linalg.det(matrix))), 1 / _AXES)

    @property
    def led_sharding(self) -> Sharding | None:
        """The sharding, which knows that the fragments of a mesh stand right before its manifest."""
        return self.sharding and replace(self.sharding, lead=_fragment_bytes)


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """One level of detail of a segment."""

    scale: float
    """The resolution of the level, which viewers choose by; 0 for a level that does not exist."""

    offset: tuple[float, float, float]
    """What is added to its vertices."""

    positions: Positions
    """``[n, 3]``: its cells (xyz), in units of their size."""

    sizes: Sizes
    """``[n]``: the bytes of each cell's fragment; 0 for an empty one."""

    @property
    def nbytes(self) -> int:
        """The bytes of all its fragments."""
        return int(self.sizes.sum(dtype=np.uint64))


@dataclass(frozen=True, slots=True)
class Manifest:
    """What fragments a segment has."""

    cell: tuple[float, float, float]
    """The size of a cell of the finest level (xyz)."""

    origin: tuple[float, float, float]
    """Where cell (0, 0, 0) begins."""

    levels: tuple[Level, ...]
    """The finest first."""

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read a manifest.

        Raises
        ------
        CorruptDataError
            If its length does not fit what it lists, or a number is not finite.
        """
        if len(data) < _HEAD:
            raise CorruptDataError(f"a manifest of {len(data)} bytes is shorter than the {_HEAD} that each has")
        numbers = np.frombuffer(data, "<f4", 6)
        count = int.from_bytes(data[_HEAD - 4 : _HEAD], "little")
        if count > MOST_LEVELS or len(data) < _HEAD + _LEVEL_BYTES * count:
            raise CorruptDataError(f"a manifest of {len(data)} bytes cannot have {count} levels of detail")
        scales = np.frombuffer(data, "<f4", count, _HEAD)
        offsets = np.frombuffer(data, "<f4", 3 * count, _HEAD + 4 * count).reshape(count, 3)
        counts = np.frombuffer(data, "<u4", count, _HEAD + 16 * count).tolist()
        begin = _HEAD + _LEVEL_BYTES * count
        if len(data) != begin + _FRAGMENT_BYTES * sum(counts):
            raise CorruptDataError(f"a manifest of {len(data)} bytes cannot list {sum(counts)} fragments")
        if not (np.isfinite(numbers).all() and np.isfinite(scales).all() and np.isfinite(offsets).all()):
            raise CorruptDataError("the manifest has a number that is not finite")
        levels = []
        for fragments, scale, offset in zip(counts, scales.tolist(), offsets.tolist(), strict=True):
            table = np.frombuffer(data, "<u4", 4 * fragments, begin).reshape(4, fragments)
            levels.append(Level(scale, tuple(offset), table[:3].T, table[3]))
            begin += _FRAGMENT_BYTES * fragments
        cell, origin = numbers[:3].tolist(), numbers[3:].tolist()
        return cls(tuple(cell), tuple(origin), tuple(levels))

    def to_bytes(self) -> bytes:
        """Write a manifest.

        Raises
        ------
        ValueError
            If it has a number that float32 has not.
        """
        levels = self.levels
        head = _floats(*self.cell, *self.origin) + len(levels).to_bytes(4, "little")
        scales = _floats(*(level.scale for level in levels))
        offsets = _floats(*(number for level in levels for number in level.offset))
        counts = np.array([len(level.sizes) for level in levels], "<u4").tobytes()
        tables = [np.vstack([level.positions.T, level.sizes]).astype("<u4").tobytes() for level in levels]
        return b"".join([head, scales, offsets, counts, *tables])

    @property
    def nbytes(self) -> int:
        """The bytes of the fragments of all levels."""
        return sum(level.nbytes for level in self.levels)

    def span(self, lod: int) -> tuple[int, int]:
        """Return where the fragments of a level begin and end among those of all levels."""
        start = sum(level.nbytes for level in self.levels[:lod])
        return start, start + self.levels[lod].nbytes

    def placed(self, lod: int, fragment: int, points: Vertices, info: MultilodInfo) -> Vertices:
        """Return the vertices of a fragment in nanometres.

        Parameters
        ----------
        lod, fragment : int
            The level, and which of its fragments.
        points : array
            ``[n, 3]``: the vertices as stored, relative to the fragment's cell.
        info : MultilodInfo

        Raises
        ------
        CorruptDataError
            If a vertex is outside of its cell, or farther away than float32 can tell.
        """
        level = self.levels[lod]
        largest = (1 << info.vertex_quantization_bits) - 1
        if not ((points >= 0) & (points <= largest)).all():  # also where it is not a number
            raise CorruptDataError(f"a vertex has a coordinate that is not from 0 to {largest}")
        cell = np.array(self.cell) * 2.0**lod
        stored = np.add(self.origin, level.offset) + cell * (level.positions[fragment] + points / float(largest))
        matrix = np.reshape(info.transform, (_AXES, _AXES + 1))
        with np.errstate(over="ignore", invalid="ignore"):
            vertices: Vertices = (stored @ matrix[:, :_AXES].T + matrix[:, _AXES]).astype(np.float32)
        if not np.isfinite(vertices).all():
            raise CorruptDataError("a vertex is farther away than float32 can tell")
        return vertices


def _floats(*numbers: float) -> bytes:
    with np.errstate(over="ignore"):
        rounded = np.array(numbers, "<f4")
    if not np.isfinite(rounded).all():
        wrong = numbers[int(np.argmin(np.isfinite(rounded)))]
        raise ValueError(f"a manifest has lengths of float32, and cannot have {wrong:g}")
    return rounded.tobytes()


def _fragment_bytes(manifest: bytes) -> int:
    return Manifest.from_bytes(manifest).nbytes


def z_order(positions: Positions) -> npt.NDArray[np.intp]:
    """Return the order of cells along the Z-curve: x is the lowest bit, then y, then z.

    Examples
    --------
    >>> z_order(np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0], [1, 1, 0]], np.uint32)).tolist()
    [1, 2, 3, 0]
    """
    low, high = positions & np.uint32((1 << _LOW_BITS) - 1), positions >> np.uint32(_LOW_BITS)
    return np.lexsort((_interleaved(low), _interleaved(high)))


def _interleaved(positions: Positions) -> npt.NDArray[np.uint64]:
    """Return the bits of x, y and z in turn; each may have 21."""
    keys = np.zeros(len(positions), np.uint64)
    for bit in range(int(positions.max(initial=0)).bit_length()):
        for axis in range(_AXES):
            is_set = (positions[:, axis] >> np.uint32(bit)) & np.uint32(1)
            keys |= is_set.astype(np.uint64) << np.uint64(_AXES * bit + axis)
    return keys
