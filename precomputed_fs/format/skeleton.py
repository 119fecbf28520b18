"""Skeletons as `neuroglancer_skeletons` has them: the `info` of their folder, and the bytes of one.

Facts are from the specification of skeletons, and from Neuroglancer's client where that is silent.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import CorruptDataError, InvalidInfoError, shown
from precomputed_fs.format.info_members import (
    IDENTITY,
    expected,
    problems_of,
    read_all,
    read_data_type,
    read_key,
    read_sharding,
    read_transform,
    whole,
)
from precomputed_fs.format.info_objects import InfoObject, check_type, member, parse_typed
from precomputed_fs.format.info_text import JSON, MAX_INFO_BYTES
from precomputed_fs.format.sharding import Sharding

SKELETONS_TYPE = "neuroglancer_skeletons"

FLOAT = "float32"
ATTRIBUTE_TYPES = (FLOAT, "int8", "uint8", "int16", "uint16", "int32", "uint32")
"""The data types of vertex attributes. Those of volumes beside these are read, too: some writers use them."""

RADIUS = "radius"
"""The attribute that is a length in stored units: one float32 a vertex."""

MAX_ATTRIBUTES = 1024
"""Attributes of a vertex; datasets usually have none or two."""

MAX_COMPONENTS = 1 << 16
"""Values of one attribute of a vertex; the specification has no limit."""

MOST_COMPONENTS = 4
"""Components of an attribute that Neuroglancer's client can pass to a shader."""

_COUNTS = struct.Struct("<II")
_MOST = (1 << 32) - 1  # vertices, or edges
_AXES = 3
_ENDS = 2  # of an edge
_POSITION = np.dtype("<f4")
_INDEX = np.dtype("<u4")


def is_identifier(name: str) -> bool:
    """Whether Neuroglancer's client can use the name of an attribute in its shaders."""
    return name.isascii() and name.isidentifier()


# ---------------------------------------------------------------------------------------------------------------- info


def _read_id(given: JSON) -> str:
    if not isinstance(given, str) or not given:
        raise expected("a non-empty string", given)
    return given


def _read_components(given: JSON) -> int:
    components = whole(given)
    if type(components) is not int or not 1 <= components <= MAX_COMPONENTS:
        raise expected(f"an integer from 1 to {MAX_COMPONENTS}", given)
    return components


@dataclass(frozen=True, slots=True, repr=False)
class VertexAttribute(InfoObject):
    """What `info` says of an attribute of the vertices."""

    id: str = field(init=False, metadata=member(_read_id))
    """Its name."""

    data_type: str = field(init=False, metadata=member(read_data_type))
    """Its data type as NumPy names it."""

    num_components: int = field(init=False, metadata=member(_read_components))
    """Values of a vertex."""

    @classmethod
    def of(cls, name: str, data_type: str, num_components: int) -> Self:
        """Make an attribute that is not in an `info` yet."""
        return cls({"id": name, "data_type": data_type, "num_components": num_components})

    def __str__(self) -> str:
        return f"{self.id} ({self.data_type}{f' x {self.num_components}' if self.num_components > 1 else ''})"


def _read_attributes(given: JSON) -> tuple[VertexAttribute, ...]:
    """Read the attributes; without the member there are none, as in the client, and null is read likewise."""
    if given is None:
        return ()
    if not isinstance(given, list | tuple):
        raise expected("a list", given)
    if len(given) > MAX_ATTRIBUTES:
        raise InvalidInfoError(f": expected at most {MAX_ATTRIBUTES}, got {len(given)}")
    attributes = tuple(read_all((f"[{i}]", VertexAttribute, item) for i, item in enumerate(given)))
    first: dict[str, int] = {}
    for i, attribute in enumerate(attributes):
        if first.setdefault(attribute.id, i) != i:
            what = f"another id than that of vertex_attributes[{first[attribute.id]}]"
            raise InvalidInfoError(f"[{i}].id: expected {what}, got {shown(attribute.id)}")
    return attributes


def _read_folder(given: JSON) -> str | None:
    return None if given is None else read_key(given)


@dataclass(frozen=True, slots=True, repr=False)
class SkeletonsInfo(InfoObject):
    """What `info` says of a folder of skeletons. Use `SkeletonsInfo.parse` to make one."""

    transform: tuple[float, ...] = field(init=False, metadata=member(read_transform, IDENTITY))
    """The 3 x 4 matrix from stored coordinates to nanometres, row by row; the client takes the identity by default."""

    vertex_attributes: tuple[VertexAttribute, ...] = field(init=False, metadata=member(_read_attributes, ()))
    """In the order in which they are stored."""

    sharding: Sharding | None = field(init=False, metadata=member(read_sharding, None))
    """How the skeletons are sharded; None if each is a file."""

    segment_properties: str | None = field(init=False, metadata=member(_read_folder, None))
    """The folder of their segment properties, from this one."""

    @classmethod
    def parse(cls, given: bytes | str | Mapping[str, Any], where: str = "info", most: int = MAX_INFO_BYTES) -> Self:
        """Read the `info` of a folder of skeletons.

        Parameters
        ----------
        given : bytes, str or mapping
            JSON, or its members.
        where : str
            The name of `info` in messages.
        most : int
            The most bytes that it may have.

        Raises
        ------
        InvalidInfoError
            If it does not describe skeletons, or a member is invalid; the message names the first place.

        Examples
        --------
        >>> SkeletonsInfo.parse({"@type": "neuroglancer_skeletons", "transform": [1, 2]})
        Traceback (most recent call last):
            ...
        precomputed_fs.errors.InvalidInfoError: info: transform: expected 12 finite numbers, got [1, 2]
        """
        parsed = parse_typed(given, where, most)
        check_type(parsed, SKELETONS_TYPE, where, "these are no skeletons")
        with problems_of(where):
            return cls(parsed)

    @classmethod
    def of(cls, attributes: Sequence[VertexAttribute], sharding: Sharding | None) -> Self:
        """Make the `info` of a new folder, whose coordinates are nanometres."""
        given: dict[str, JSON] = {
            "@type": SKELETONS_TYPE,
            "transform": list(IDENTITY),
            "vertex_attributes": [attribute.to_dict() for attribute in attributes],
        }
        if sharding is not None:  # the client refuses null
            given["sharding"] = sharding.to_info()
        return cls.parse(given)


# --------------------------------------------------------------------------------------------------------- one skeleton


class StoredSkeleton(NamedTuple):
    """A skeleton in the coordinates in which it is stored."""

    vertices: NDArray[np.float32]
    """(n, 3), xyz."""

    edges: NDArray[np.uint32]
    """(m, 2), indices of vertices."""

    attributes: Mapping[str, NDArray[Any]]
    """(n,) each, or (n, components)."""


def decode_skeleton(data: bytes, attributes: Sequence[VertexAttribute]) -> StoredSkeleton:
    """Read the bytes of a skeleton; the arrays are copies.

    Raises
    ------
    CorruptDataError
        If the length is not that of the vertices, edges and attributes that there are, or an edge has no such vertex.
    """
    if len(data) < _COUNTS.size:
        raise CorruptDataError(f"a skeleton has at least {_COUNTS.size} bytes, not {len(data)}")
    vertices, edges = _COUNTS.unpack_from(data)
    parts = [(_POSITION, _AXES, vertices), (_INDEX, _ENDS, edges)]
    parts += [(np.dtype(each.data_type).newbyteorder("<"), each.num_components, vertices) for each in attributes]
    size = _COUNTS.size + sum(dtype.itemsize * components * count for dtype, components, count in parts)
    if len(data) != size:
        what = f"{vertices} vertices and {edges} edges take {size} bytes"
        names = ", ".join(map(str, attributes)) or "none"
        raise CorruptDataError(f"{what}, and there are {len(data)}; the vertex_attributes of info are {names}")
    arrays: list[NDArray[Any]] = []
    offset = _COUNTS.size
    for dtype, components, count in parts:
        flat = np.frombuffer(data, dtype, components * count, offset).astype(dtype.newbyteorder("="))
        arrays.append(flat.reshape(count, components) if components > 1 else flat)
        offset += flat.nbytes
    if edges and arrays[1].max() >= vertices:
        raise CorruptDataError(f"an edge leads to vertex {arrays[1].max()} of {vertices}")
    return StoredSkeleton(
        arrays[0], arrays[1], {each.id: array for each, array in zip(attributes, arrays[2:], strict=True)}
    )


def encode_skeleton(skeleton: StoredSkeleton, attributes: Sequence[VertexAttribute]) -> bytes:
    """Write a skeleton whose arrays have the shapes and types that `info` says.

    Raises
    ------
    ValueError
        If it has more vertices or edges than the format can number.
    """
    vertices, edges = len(skeleton.vertices), len(skeleton.edges)
    if max(vertices, edges) > _MOST:
        raise ValueError(f"expected at most {_MOST} vertices and edges, got {vertices} and {edges}")
    parts = [_COUNTS.pack(vertices, edges), _bytes_of(skeleton.vertices, _POSITION), _bytes_of(skeleton.edges, _INDEX)]
    parts += [_bytes_of(skeleton.attributes[each.id], np.dtype(each.data_type)) for each in attributes]
    return b"".join(parts)


def _bytes_of(array: NDArray[Any], dtype: np.dtype[Any]) -> bytes:
    return array.astype(dtype.newbyteorder("<"), copy=False).tobytes()
