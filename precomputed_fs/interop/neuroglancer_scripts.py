"""The package neuroglancer-scripts, made to read and write through this one: `install`, and back: `uninstall`.

Its classes stay what they are, so that they may have been imported, inherited from and instantiated before: only their
methods are replaced. Its errors become base classes of ours, so that who catches theirs catches ours. Its functions are
replaced wherever a module has imported them.
"""

import contextlib
import functools
import os
import sys
import types
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ParamSpec, TypeVar, Unpack

from precomputed_fs.accessor import OPTION_DEFAULTS, FsspecAccessor, known_options
from precomputed_fs.contract import add_argparse_options
from precomputed_fs.errors import DataAccessError, URLError
from precomputed_fs.format.grid import ChunkCoords
from precomputed_fs.keywords import AccessorOptions, spelled_out
from precomputed_fs.pyramid.buffers import OCTET_STREAM, Buffer
from precomputed_fs.store.url import AnyURL, convert_file_url_to_pathname

try:
    import neuroglancer_scripts.accessor as theirs
    from neuroglancer_scripts import file_accessor, http_accessor, sharded_file_accessor, sharded_http_accessor
except ImportError as exc:
    raise ImportError(
        "neuroglancer-scripts is not installed: pip install neuroglancer-scripts", name="neuroglancer_scripts"
    ) from exc


_P = ParamSpec("_P")
_T = TypeVar("_T")
_Accessor = TypeVar("_Accessor", bound=FsspecAccessor)


class Accessor(FsspecAccessor, theirs.Accessor):  # type: ignore[misc] # no types come with it
    """An accessor of ours that is one of theirs, too."""


_to_close: contextlib.ExitStack | None = None
"""Closes the accessors that were made within `installed`; None outside of it."""


def get_accessor_for_url(url: AnyURL, accessor_options: Mapping[str, Any] = {}) -> Accessor:
    """Make an accessor for a URL: see `precomputed_fs.get_accessor_for_url`."""
    accessor = Accessor(url, **{**_options, **known_options(accessor_options)})
    return _noted(accessor)


def _twin(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return a function that does the same, and stands nowhere else, so that `uninstall` can tell the two apart."""

    @functools.wraps(function)
    def call(*args: _P.args, **options: _P.kwargs) -> _T:
        return function(*args, **options)

    return call


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "get_accessor_for_url": get_accessor_for_url,
    "add_argparse_options": _twin(add_argparse_options),
    "convert_file_url_to_pathname": _twin(convert_file_url_to_pathname),
}
_ORIGINALS: Mapping[str, Callable[..., Any]] = {name: getattr(theirs, name) for name in _FUNCTIONS}
_CLASSES = (
    file_accessor.FileAccessor,
    http_accessor.HttpAccessor,
    sharded_file_accessor.ShardedFileAccessor,
    sharded_http_accessor.ShardedHttpAccessor,
)
_ERRORS = ((DataAccessError, theirs.DataAccessError), (URLError, theirs.URLError))

_kept: dict[type, dict[str, Any]] = {}
"""The methods that were replaced, by their class; empty if nothing is installed."""


_bases: dict[type, tuple[type, ...]] = {}
"""The bases of our errors, where others stand now."""


_options: dict[str, Any] = {}
"""What `install` was given."""


@spelled_out(OPTION_DEFAULTS)
def install(**accessor_options: Unpack[AccessorOptions]) -> None:
    """Have the package neuroglancer-scripts read and write through this one, in this process.

    Its `get_accessor_for_url` then takes any URL that `FsspecAccessor` takes, and its four classes of accessors do what
    ours does, also where they were imported, inherited from or instantiated before.

    Parameters
    ----------
    **accessor_options
        Options of `FsspecAccessor` for all of these accessors, where they have no other; such as
        ``storage_options={"s3": {...}, "gs": {...}}``. A second call replaces them.

    Raises
    ------
    ImportError
        If neuroglancer-scripts is not installed.

    Examples
    --------
    >>> import precomputed_fs
    >>> precomputed_fs.install()
    >>> from neuroglancer_scripts.accessor import get_accessor_for_url
    >>> get_accessor_for_url("memory://docs/installed").url
    'memory://docs/installed'
    >>> precomputed_fs.uninstall()
    """
    _options.clear()
    _options.update(accessor_options)
    if _kept:
        return
    for ours, base in _ERRORS:
        _bases[ours], ours.__bases__ = ours.__bases__, (base,)
    for kind in _CLASSES:
        methods = _METHODS | (_HTTP_METHODS if kind is http_accessor.HttpAccessor else {})
        _kept[kind] = {name: vars(kind).get(name) for name in methods}
        for name, method in methods.items():
            setattr(kind, name, method)
    for name, function in _FUNCTIONS.items():
        _replace_everywhere(_ORIGINALS[name], function)


def uninstall() -> None:
    """Take `install` back."""
    for kind, methods in _kept.items():
        for name, method in methods.items():
            if method is None:
                delattr(kind, name)
            else:
                setattr(kind, name, method)
    _kept.clear()
    for ours, bases in _bases.items():
        ours.__bases__ = bases
    _bases.clear()
    for name, function in _FUNCTIONS.items():
        _replace_everywhere(function, _ORIGINALS[name])


@contextlib.contextmanager
def installed(**accessor_options: Unpack[AccessorOptions]) -> Iterator[None]:
    """Install for a block, then restore what was installed before.

    At the end of the block all accessors that were made in it are closed, which writes what waits, also if it fails.
    """
    global _to_close  # noqa: PLW0603 - what is installed is so for the whole process
    outer = _to_close
    options_before = dict(_options) if _kept else None
    install(**accessor_options)
    try:
        with contextlib.ExitStack() as _to_close:
            yield
    finally:
        _to_close = outer
        if options_before is None:
            uninstall()
        else:
            install(**options_before)


def _noted(accessor: _Accessor) -> _Accessor:
    if _to_close is not None:
        _to_close.callback(accessor.close)
    return accessor


def _replace_everywhere(old: object, new: object) -> None:
    """Replace a function in every module that has imported it, except in this package."""
    for path, module in list(sys.modules.items()):
        if path.partition(".")[0] == "precomputed_fs" or not isinstance(module, types.ModuleType):
            continue
        for name, value in list(vars(module).items()):
            if value is old:
                setattr(module, name, new)


# --------------------------------------------------------------------------------------------- methods of their classes


def _accessor(self: Any) -> FsspecAccessor:  # noqa: ANN401 - an instance of one of their classes
    """Return the accessor of ours behind one of theirs; it is made for the place that theirs is at now."""
    place, options = _place(self)
    made: dict[Any, FsspecAccessor] = vars(self).setdefault("_precomputed_fs", {})
    key = place, *options.items()
    found = made.get(key)
    if found is None:  # setdefault: of two threads, one wins, and has all chunks that wait
        found = _noted(made.setdefault(key, FsspecAccessor(place, **{**_options, **options})))
    return found


def _place(self: Any) -> tuple[str, dict[str, Any]]:  # noqa: ANN401
    """Return the URL of one of their accessors, and its options."""
    attributes = vars(self)
    if "base_url" in attributes:
        return str(self.base_url), {}
    if "base_dir" in attributes:  # of shards
        return os.fspath(self.base_dir), {}
    return os.fspath(self.base_path), {
        "flat": self.chunk_pattern == theirs._CHUNK_PATTERN_FLAT,  # noqa: SLF001 - what their options become
        "gzip": self.gzip,
        "compresslevel": self.compresslevel,
    }


def _file_exists(self: Any, relative_path: str | os.PathLike[str]) -> bool:  # noqa: ANN401
    return _accessor(self).file_exists(os.fspath(relative_path))


def _fetch_file(self: Any, relative_path: str | os.PathLike[str]) -> bytes:  # noqa: ANN401
    return _accessor(self).fetch_file(os.fspath(relative_path))


def _store_file(
    self: Any,  # noqa: ANN401
    relative_path: str | os.PathLike[str],
    buf: Buffer,
    mime_type: str = OCTET_STREAM,
    overwrite: bool = False,
) -> None:
    _accessor(self).store_file(os.fspath(relative_path), buf, mime_type, overwrite)


def _fetch_chunk(self: Any, key: str, chunk_coords: ChunkCoords) -> bytes:  # noqa: ANN401
    return _accessor(self).fetch_chunk(key, chunk_coords)


def _store_chunk(  # noqa: PLR0917 - as theirs
    self: Any,  # noqa: ANN401
    buf: Buffer,
    key: str,
    chunk_coords: ChunkCoords,
    mime_type: str = OCTET_STREAM,
    overwrite: bool = False,
) -> None:
    _accessor(self).store_chunk(buf, key, chunk_coords, mime_type, overwrite)


def _chunk_exists(self: Any, key: str, chunk_coords: ChunkCoords) -> bool:  # noqa: ANN401
    """Tell whether there is a chunk."""
    return _accessor(self).pyramid.chunk_exists(key, chunk_coords)


def _close(self: Any) -> None:  # noqa: ANN401
    """Close what was made for each place that it was at."""
    for accessor in list(vars(self).get("_precomputed_fs", {}).values()):
        accessor.close()


def _init_http(self: Any, base_url: str) -> None:  # noqa: ANN401
    """Initialize their accessor of HTTP, which takes no URL without a path, such as that of a bucket."""
    has_path = bool(urllib.parse.urlsplit(base_url).path)
    _kept[http_accessor.HttpAccessor]["__init__"](self, base_url if has_path else f"{base_url}/")


_HTTP_METHODS = {"__init__": _init_http}
_METHODS: dict[str, Any] = {
    "file_exists": _file_exists,
    "fetch_file": _fetch_file,
    "store_file": _store_file,
    "fetch_chunk": _fetch_chunk,
    "store_chunk": _store_chunk,
    "chunk_exists": _chunk_exists,
    "close": _close,
    "can_write": property(lambda self: _accessor(self).can_write),
}
