"""Scales as dask arrays: `Scale.to_dask`.

A task carries the scale and a block, and computes itself which chunks the block has. So graphs stay small, however
many chunks there are.
"""

import functools
import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from precomputed_fs.interop.blocks import DIMENSIONS, block_lengths
from precomputed_fs.interop.source import Source
from precomputed_fs.store.location import Location
from precomputed_fs.volume import Scale


def to_dask(scale: Scale, chunks: Any = None) -> Any:  # noqa: ANN401 - dask ships no types
    """Make a dask array of a scale: see `Scale.to_dask`."""
    array = dask_array_module()
    from dask.base import tokenize  # noqa: PLC0415

    lengths = block_lengths(scale, chunks)
    name = _name_of(scale.volume.pyramid.location, scale.key) + tokenize(_content_token(scale), lengths)
    meta = np.empty((0,) * len(DIMENSIONS), scale.dtype)
    # fancy=False would spare `Source` lists of indices, but keep dask from fusing slices, and so read whole blocks
    return array.from_array(Source(scale), lengths, name=name, asarray=True, meta=meta, inline_array=True)


def check_not_read_from(array: Any, location: Location, keys: Iterable[str]) -> None:  # noqa: ANN401
    """Check that a dask array does not read the scales that it will be written to.

    Raises
    ------
    ValueError
        If its graph reads one of them.
    """
    for key in keys:
        name = _name_of(location, key)
        if any(layer.startswith(name) for layer in array.dask.layers):
            raise ValueError(
                f"{location.display()}: the array is read from scale {key}, to which it would be written, and a "
                "repeated task would read what it has written: write to another scale, or persist() the array first"
            )


def check_dask(array: object) -> None:
    """Check that something is a dask array.

    Raises
    ------
    ImportError
        If dask is not installed.
    TypeError
        If it is not.
    """
    if not isinstance(array, dask_array_module().Array):
        raise TypeError(
            f"expected a dask array, got {type(array).__name__}: `scale[box] = array` writes what can be sliced"
        )


def dask_array_module() -> Any:  # noqa: ANN401 - dask ships no types
    """Import ``dask.array``, or raise an ImportError that says how to install dask."""
    try:
        import dask.array  # noqa: PLC0415 - optional
    except ImportError as exc:
        raise ImportError("dask arrays need dask: pip install 'precomputed-fs[dask]'", name="dask") from exc
    return dask.array


def _place_token(location: Location, key: str) -> str:
    """Return a token of a scale's URL and options, so that arrays that differ in any of them have different names."""
    from dask.base import tokenize  # noqa: PLC0415 - optional

    given = [(link.protocol, link.url, link.options) for link in location.links]
    made = None if location.fs is None else (type(location.fs).__qualname__, location.fs.storage_args)
    return _one_way(tokenize(given, location.anon, made, key))


@functools.lru_cache(maxsize=1024)
def _one_way(digest: str) -> str:
    """Hash slowly, so that even short secrets in the URL or options cannot be found by trying."""
    return hashlib.scrypt(digest.encode(), salt=b"precomputed_fs", n=1 << 14, r=8, p=1, dklen=12).hex()


def _content_token(scale: Scale) -> str:
    """Return a token of how a scale's data is read."""
    from dask.base import tokenize  # noqa: PLC0415 - optional

    volume = scale.volume
    token: str = tokenize(scale.info.to_dict(), volume.info.data_type, volume.info.num_channels, volume.missing)
    return token


def _name_of(location: Location, key: str) -> str:
    """Return the prefix of the names of all arrays that read a scale."""
    return f"precomputed-{_place_token(location, key)}"
