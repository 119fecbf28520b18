"""Files as sources: brought to this machine and decompressed, so that they can be mapped into memory."""

import bz2
import contextlib
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.lib.format as npy
from numpy.typing import NDArray

from precomputed_fs.errors import CorruptDataError, NotFoundError
from precomputed_fs.format.compression import decode
from precomputed_fs.store.failures import Failures, Tries
from precomputed_fs.store.location import Location
from precomputed_fs.store.objects import ObjectStore
from precomputed_fs.store.requests import Body, Get

_GZIP = b"\x1f\x8b"
_DECOMPRESSORS: Mapping[bytes, Any] = {_GZIP: gzip.open, b"BZh": bz2.open}
_MAGIC_BYTES = 3
_MAX_FILE_BYTES = 1 << 36
_ATTEMPTS, _TIMEOUT = 5, 30.0  # of requests


def opened(location: Location) -> IO[bytes]:
    """Open a file for reading. What is remote or compressed is copied into a temporary file without a name.

    Raises
    ------
    NotFoundError, AccessDeniedError, DataAccessError
        If the file cannot be read.
    CorruptDataError
        If it cannot be decompressed.
    """
    where = location.display()
    if len(location.links) == 1 and location.links[0].protocol == "file" and location.fs is None:
        file: IO[bytes] = _local(location)
    else:
        store = ObjectStore(location, attempts=_ATTEMPTS, timeout=_TIMEOUT)
        try:
            body = store.read("", limit=_MAX_FILE_BYTES)
        finally:
            store.close()
        file = io.BytesIO(_decoded(body, where))
    with contextlib.ExitStack() as stack:
        stack.enter_context(file)
        start = file.read(_MAGIC_BYTES)
        file.seek(0)
        decompressor = next((opener for magic, opener in _DECOMPRESSORS.items() if start.startswith(magic)), None)
        if decompressor is None and not isinstance(file, io.BytesIO):
            stack.pop_all()
            return file
        spool = stack.enter_context(tempfile.TemporaryFile())
        try:
            shutil.copyfileobj(file if decompressor is None else decompressor(file), spool)
        except (OSError, EOFError, zlib.error) as exc:
            if getattr(exc, "errno", None) is not None:  # such as a full disk
                raise
            raise CorruptDataError(f"{where}: cannot be decompressed: {exc}") from exc
        file.close()
        stack.pop_all()
    spool.seek(0)
    return spool


def _local(location: Location) -> IO[bytes]:
    fs, path = location.open(_TIMEOUT)
    if fs.isdir(path):
        message = f"{path} is a folder: expected a file; copy_pyramid copies a pyramid"
        raise NotFoundError(message)
    try:
        return Path(path).open("rb")
    except OSError as exc:
        error, _ = Failures(location, 1).judged(Get(""), exc, Tries())
        raise error from exc


def _decoded(body: Body, where: str) -> bytes:
    """Undo the Content-Encoding, except gzip: many servers say it of .nii.gz files as they are."""
    if body.data.startswith(_GZIP):
        return body.data
    try:
        return decode(body.data, content_encoding=body.content_encoding, limit=_MAX_FILE_BYTES)
    except CorruptDataError as exc:
        raise CorruptDataError(f"{where}: {exc}") from exc


def map_array(file: IO[bytes], where: str) -> NDArray[Any] | None:
    """Map the array of a .npy file into memory; the map outlives the file. None if it is a file of another kind.

    Raises
    ------
    CorruptDataError
        If it is truncated, or has objects.
    """
    is_array = file.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
    file.seek(0)
    if not is_array:
        return None
    try:
        version = npy.read_magic(file)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, is_fortran, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError("it has objects")  # noqa: TRY301 - as NumPy's own errors
        order: Literal["F", "C"] = "F" if is_fortran else "C"
        return np.memmap(file, dtype, "r", file.tell(), shape, order)
    except ValueError as exc:
        raise CorruptDataError(f"{where} cannot be mapped into memory: {exc}") from exc
