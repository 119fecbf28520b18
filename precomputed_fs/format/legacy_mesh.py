"""Legacy meshes, ``neuroglancer_legacy_mesh``: manifests that name fragments, and fragments, bytes <-> arrays.

A segment's manifest is the file ``{id}:0``, a JSON object whose member ``fragments`` lists files of the same folder.
A fragment holds, in little-endian 4-byte numbers, how many vertices there are, the vertices (xyz, float32, in
nanometres), and the triangles as three indices of vertices each.

Facts are from Neuroglancer's specification of meshes. It knows no shards of this format: cloud-volume can write
``sharding`` into the folder's `info` and then reads plain files all the same, so we ignore it, too.
"""

import json
import re
import urllib.parse
from collections.abc import Sequence

import numpy as np

from precomputed_fs.errors import CorruptDataError, InvalidInfoError, shown
from precomputed_fs.format.info_text import parse_info
from precomputed_fs.format.mesh_geometry import Geometry, checked

LEGACY_TYPE = "neuroglancer_legacy_mesh"

_COUNT_BYTES = 4
_ROW_BYTES = 12  # of a vertex, and of a triangle
_LONGEST_NAME = 1024  # characters
_MOST_FRAGMENTS = 1 << 20
_OUTSIDE = re.compile(r"[\0-\x1f\x7f\\\ud800-\udfff]|(^|/)\.{0,2}(/|$)")
"""Control characters, backslashes, halves of a pair of UTF-16, and segments that are empty, ``.`` or ``..``."""


def manifest_name(segment: int) -> str:
    """Return the name of a segment's manifest.

    Examples
    --------
    >>> manifest_name(7)
    '7:0'
    """
    return f"{segment}:0"


def manifest_segment(name: str) -> int | None:
    """Return the segment whose manifest has this name; None if it is the name of another file.

    Examples
    --------
    >>> manifest_segment("7:0"), manifest_segment("7:0:0-64_0-64_0-64")
    (7, None)
    """
    segment = name.removesuffix(":0")
    is_manifest = segment != name and segment.isascii() and segment.isdecimal() and segment == str(int(segment))
    return int(segment) if is_manifest else None


def parse_manifest(data: bytes) -> list[str]:
    """Return the names of a segment's fragments, each once.

    Raises
    ------
    CorruptDataError
        If it is not such a manifest, or names a file outside of the folder.
    """
    try:
        names = parse_info(data, "the manifest", len(data)).get("fragments")
    except InvalidInfoError as exc:
        raise CorruptDataError(str(exc)) from exc
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CorruptDataError(f"the manifest: fragments: expected a list of file names, got {shown(names)}")
    unique = list(dict.fromkeys(names))
    if len(unique) > _MOST_FRAGMENTS:
        raise CorruptDataError(f"the manifest lists {len(unique)} fragments; at most {_MOST_FRAGMENTS} are read")
    for name in unique:
        if len(name) > _LONGEST_NAME or _OUTSIDE.search(urllib.parse.unquote(name)):
            raise CorruptDataError(f"the manifest: fragments: expected files of this folder, got {shown(name)}")
    return unique


def pack_manifest(fragments: Sequence[str]) -> bytes:
    """Write a manifest."""
    return json.dumps({"fragments": list(fragments)}).encode()


def parse_fragment(data: bytes) -> Geometry:
    """Read a fragment.

    Raises
    ------
    CorruptDataError
        If its length does not fit its number of vertices, a triangle has a vertex that is not there, or a coordinate
        is not a finite number.
    """
    count = int.from_bytes(data[:_COUNT_BYTES], "little")
    begin = _COUNT_BYTES + count * _ROW_BYTES
    if len(data) < begin or (len(data) - begin) % _ROW_BYTES:
        raise CorruptDataError(f"a fragment of {count} vertices cannot have {len(data)} bytes")
    vertices = np.frombuffer(data, "<f4", 3 * count, _COUNT_BYTES).reshape(-1, 3)
    faces = np.frombuffer(data, "<u4", offset=begin).reshape(-1, 3)
    return checked(Geometry(vertices.astype(np.float32, copy=False), faces.astype(np.uint32, copy=False)))


def pack_fragment(geometry: Geometry) -> bytes:
    """Write a fragment."""
    count = len(geometry.vertices).to_bytes(_COUNT_BYTES, "little")
    return count + geometry.vertices.astype("<f4").tobytes() + geometry.faces.astype("<u4").tobytes()
