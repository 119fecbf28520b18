"""Draco: triangular meshes, compressed; decoded and encoded by DracoPy.

A few damaged bytes can make the library take gigabytes, and seconds to fill them. So it decodes in a child process
with a limit of memory, which also keeps our interpreter's lock free: DracoPy makes Python lists of all numbers.
"""

import importlib.util
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
_COMPRESSION = 7  # of 10: half the time of decoding without, and hardly larger than the best


def require_draco() -> None:
    """Check that DracoPy is installed.

    Raises
    ------
    ImportError
        If not; the message says how to install it.
    """
    if importlib.util.find_spec("DracoPy") is None:
        _library()


def decode_draco(data: bytes) -> tuple[Array, Array]:
    """Return the vertices of a mesh (``[n, 3]``, float32) and its triangles (``[m, 3]``, uint32).

    Raises
    ------
    CorruptDataError
        If the bytes are not a mesh, or decoding takes more memory than a mesh of their length can need.
    ImportError
        If DracoPy is not installed.
    """
    require_draco()
    if not data.startswith(MAGIC):
        raise CorruptDataError("it does not begin like a Draco file")
    try:
        body = memoryview(_SANDBOX.call(data, memory=min(_MOST_MEMORY, _MEMORY + _MEMORY_PER_BYTE * len(data))))
    except CrashError as exc:
        raise CorruptDataError(f"it is not a Draco mesh that can be decoded: {exc}") from exc
    length = int.from_bytes(body[:_LENGTH_BYTES], "little")
    points, faces = body[_LENGTH_BYTES:][:length], body[_LENGTH_BYTES + length + _LENGTH_BYTES :]
    if len(points) % 12 or len(faces) % 12:  # bytes of three numbers
        raise CorruptDataError("its vertices or triangles do not have three numbers each")
    vertices, triangles = np.frombuffer(points, "<f4").reshape(-1, 3), np.frombuffer(faces, "<u4").reshape(-1, 3)
    if triangles.size and int(triangles.max()) >= len(vertices):
        raise CorruptDataError(f"a triangle has the vertex {triangles.max()}, of {len(vertices)}")
    return vertices, triangles


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
