"""Draco: triangular meshes, compressed; decoded and encoded by DracoPy.

A few damaged bytes can make the library take gigabytes, and seconds to fill them. So it decodes in a child process
with a limit of memory, which also keeps our interpreter's lock free: DracoPy makes Python lists of all numbers.
"""

import functools
import importlib.util
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from precomputed_fs.codecs.chunks import Array
from precomputed_fs.codecs.sandbox import CrashError, Sandbox
from precomputed_fs.errors import CorruptDataError

if TYPE_CHECKING:
    from types import ModuleType

MAGIC = b"DRACO"
"""How each Draco file begins."""

_SANDBOX = Sandbox("DracoPy", "decode", fields={"points": "<f4", "faces": "<u4"}, refuses=True)
_MEMORY = 256 << 20  # bytes that decoding may take, whatever the data
_MEMORY_PER_BYTE = 1 << 16  # of the data: a triangle takes 260, and in a flat grid compresses to a hundredth of a byte
_MOST_MEMORY = 4 << 30
_LENGTH_BYTES = 8
_ROW_BYTES = 12  # three numbers
_COMPRESSION = 7  # of 10: half the time of decoding without, and hardly larger than the best


@functools.cache
def require_draco() -> None:
    """Check that DracoPy is installed; once, if it is.

    Raises
    ------
    ImportError
        If not; the message says how to install it.
    """
    if importlib.util.find_spec("DracoPy") is None:
        _library()


def decode_draco(*data: bytes) -> list[tuple[Array, Array]]:
    """Return the vertices of meshes (``[n, 3]``, float32) and their triangles (``[m, 3]``, uint32).

    Several small ones are decoded sooner together.

    Raises
    ------
    CorruptDataError
        If one is not a mesh, or decoding takes more memory than meshes of their length can need.
    ImportError
        If DracoPy is not installed.
    """
    require_draco()
    if not all(each.startswith(MAGIC) for each in data):
        raise CorruptDataError("it does not begin like a Draco file")
    memory = min(_MOST_MEMORY, _MEMORY + _MEMORY_PER_BYTE * sum(map(len, data)))
    try:
        body = memoryview(_SANDBOX.call(*data, memory=memory))
    except CrashError as exc:
        raise CorruptDataError(f"it is not a Draco mesh that can be decoded: {exc}") from exc
    arrays = list(_rows_of_three(body))
    meshes = list(zip(arrays[::2], arrays[1::2], strict=True))
    for vertices, triangles in meshes:
        if triangles.size and int(triangles.max()) >= len(vertices):
            raise CorruptDataError(f"a triangle has the vertex {triangles.max()}, of {len(vertices)}")
    return meshes


def _rows_of_three(body: memoryview) -> Iterator[Array]:
    """Yield vertices and triangles in turn."""
    types = itertools.cycle(("<f4", "<u4"))
    while len(body):
        length = int.from_bytes(body[:_LENGTH_BYTES], "little")
        array, body = body[_LENGTH_BYTES:][:length], body[_LENGTH_BYTES + length :]
        if length % _ROW_BYTES:
            raise CorruptDataError("its vertices or triangles do not have three numbers each")
        yield np.frombuffer(array, next(types)).reshape(-1, 3)


def encode_draco(points: Array, faces: Array, bits: int) -> bytes:
    """Encode a mesh whose vertices are integers of so many bits.

    They are stored as int32: Neuroglancer's client decodes no other integers.
    """
    library = _library()
    encoded: bytes = library.encode(
        np.ascontiguousarray(points, np.int32),
        np.ascontiguousarray(faces, np.uint32),
        quantization_bits=bits,  # which is for floating-point numbers, and so of no effect
        compression_level=_COMPRESSION,
    )
    return encoded


def _library() -> "ModuleType":
    try:
        import DracoPy
    except ImportError as exc:
        raise ImportError(
            "meshes of several levels of detail need DracoPy: pip install 'precomputed-fs[mesh]'", name="DracoPy"
        ) from exc
    library: ModuleType = DracoPy
    return library
