"""Which keywords the public functions take: all are in their signatures, and a misspelt one names the nearest.

Functions that pass options on declare them by ``**options: Unpack[AccessorOptions]``, which type checkers know. What
asks a function at run time, such as `help` and the completion of notebooks, sees each of them as a keyword of its own.
"""

import functools
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypedDict, TypeVar

from precomputed_fs.errors import did_you_mean

_P = ParamSpec("_P")
_T = TypeVar("_T")

_OF_FILESYSTEMS = frozenset(
    {"account_key", "account_name", "client_kwargs", "endpoint_url", "headers", "key", "password", "profile"}
    | {"project", "requester_pays", "sas_token", "secret", "token", "username"}
)
"""Options of fsspec's filesystems that are often given beside the URL."""


class PlaceOptions(TypedDict, total=False):
    """The keywords of `FsspecAccessor` but those of `AccessorOptions`."""

    storage_options: Mapping[str, Any] | None
    fs: Any
    anon: bool | None
    flat: bool
    compresslevel: int
    attempts: int
    timeout: float
    max_gap: int
    max_range: int
    max_info_bytes: int
    max_file_bytes: int
    cache: int | str


class AccessorOptions(PlaceOptions, total=False):
    """The keywords of `FsspecAccessor`, for functions that pass them on to it."""

    gzip: bool | None
    denied_is_missing: bool


class EncodingParameters(TypedDict, total=False):
    """The parameters of all encodings, by the names that they have in `info`; see `precomputed_fs.codecs`."""

    jpeg_quality: int
    png_level: int
    jxl_quality: int
    jxl_effort: int
    jxl_decodingspeed: int
    compressed_segmentation_block_size: list[int]
    fpzip_precision: int
    zfpc_rate: float
    zfpc_precision: int
    zfpc_tolerance: float
    zfpc_correlated_dims: list[bool]


class WritingOptions(AccessorOptions, EncodingParameters, total=False):
    """The keywords of `create_volume` that it passes on."""


class CopyOptions(PlaceOptions, EncodingParameters, total=False):
    """The keywords of `copy_pyramid` that it passes on."""


def spelled_out(defaults: Mapping[str, Any] = {}) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """Decorate a function: its signature lists the keywords that it passes on, and it explains unknown ones.

    Parameters
    ----------
    defaults : mapping
        The defaults of the keywords that are passed on.
    """

    def decorate(function: Callable[_P, _T]) -> Callable[_P, _T]:
        signature = _signature_of(function, defaults)
        names = [name for name in signature.parameters if name != "self"]

        @functools.wraps(function)
        def checked(*args: _P.args, **keywords: _P.kwargs) -> _T:
            if unknown := keywords.keys() - names:
                raise TypeError(_unknown(function.__qualname__.removesuffix(".__init__"), sorted(unknown), names))
            return function(*args, **keywords)

        vars(checked)["__signature__"] = signature
        return checked

    return decorate


def _signature_of(function: Callable[..., Any], defaults: Mapping[str, Any]) -> inspect.Signature:
    """Return a function's signature, with a parameter for each keyword that it passes on."""
    signature = inspect.signature(function)
    *own, last = signature.parameters.values()
    if last.kind is not last.VAR_KEYWORD:
        return signature
    (options,) = typing.get_args(last.annotation)
    passed_on = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults.get(name), annotation=annotation)
        for name, annotation in options.__annotations__.items()
    ]
    return signature.replace(parameters=[*own, *passed_on])


def _unknown(function: str, given: list[str], names: list[str]) -> str:
    others = [name for name in given if name not in _OF_FILESYSTEMS or "storage_options" not in names]
    if not others:
        told = ", ".join(f"{name!r}: ..." for name in given)
        return f"{function}() has no keyword {given[0]!r}: options of the filesystem go into storage_options={{{told}}}"
    listed = ", ".join(names)
    instead = did_you_mean(others[0], names) or f"; its keywords are {listed}"
    return f"{function}() has no keyword {others[0]!r}{instead}"
