"""A pyramid as a read-only fsspec filesystem, for whatever takes fsspec's URLs.

``precomputed://s3://bucket/brain`` is a folder with `info` and a folder for each scale, in which there are the chunks
under the names of the specification, however they are stored: without compression, and out of their shards. Any other
file of the pyramid can be read, too, but is not listed.
"""

import io
import math
import posixpath
from collections.abc import Iterator
from typing import Any, NoReturn

from fsspec import AbstractFileSystem

from precomputed_fs.errors import AccessDeniedError, InvalidInfoError, NotFoundError, ReadOnlyError
from precomputed_fs.format.grid import ChunkCoords, chunk_name, parse_chunk_name
from precomputed_fs.store.redaction import without_secrets
from precomputed_fs.volume import Scale, Volume, open_volume

_SCHEME = "precomputed://"
_MOST_LISTED = 1_000_000  # chunks of a scale
_MOST_LEVELS = 4  # a pyramid, a scale with a slash in its key, and a chunk


class PrecomputedFileSystem(AbstractFileSystem):  # type: ignore[misc] # fsspec ships no types
    """The files of pyramids, by their URLs with ``precomputed://`` in front.

    Parameters
    ----------
    anon : bool, optional
        See `FsspecAccessor`.
    **storage_options
        fsspec's options of the filesystem that has the pyramid.
    """

    protocol = "precomputed"

    def __init__(self, *args: Any, anon: bool | None = None, **storage_options: Any) -> None:  # noqa: ANN401
        super().__init__(*args, anon=anon, **storage_options)
        named = ("skip_instance_cache", "use_listings_cache", "asynchronous", "loop")  # of every filesystem
        self._options = {name: value for name, value in storage_options.items() if name not in named}
        self._anon = anon
        self._volumes: dict[str, Volume] = {}

    @classmethod
    def _strip_protocol(cls, path: str | list[str]) -> Any:  # noqa: ANN401 - as the base class
        if isinstance(path, list):
            return [cls._strip_protocol(each) for each in path]
        return path.removeprefix(_SCHEME).rstrip("/")

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: ANN401
        """List a pyramid, or a scale: the chunks that `info` implies, whether they are stored or not.

        Raises
        ------
        ValueError
            If a scale has more than a million chunks.
        """
        path = self._strip_protocol(path)
        volume, rest = self._found(path)
        if not rest:
            entries = [_file(f"{path}/info"), *(_folder(f"{path}/{scale.key}") for scale in volume)]
        elif (scale := _scale(volume, rest)) is not None:
            entries = [_file(f"{path}/{chunk}") for chunk in _chunk_names(scale)]
        else:
            entries = [self.info(path)]
        return entries if detail else [entry["name"] for entry in entries]

    def exists(self, path: str, **_: Any) -> bool:  # noqa: ANN401
        """Tell whether there is a folder or a file; what cannot be reached is an error, and not absent."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def invalidate_cache(self, path: str | None = None) -> None:
        """Open pyramids again, as they may have been replaced."""
        super().invalidate_cache(path)
        self._volumes.clear()

    def info(self, path: str, **_: Any) -> dict[str, Any]:  # noqa: ANN401
        """Describe a folder or a file; the size of a file is known when it is fetched, which this does.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        path = self._strip_protocol(path)
        volume, rest = self._found(path)
        if not rest or _scale(volume, rest) is not None:
            return _folder(path)
        return {**_file(path), "size": len(self.cat_file(path))}

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:  # noqa: ANN401
        """Fetch a file, or a part of one."""
        path = self._strip_protocol(path)
        volume, rest = self._found(path)
        key, last = posixpath.split(rest)
        coords = _coords_of(last) if key else None
        if coords is not None and _scale(volume, key) is not None:
            pyramid, inside = volume.pyramid_for(key)
            data = pyramid.fetch_chunk(inside, coords)
        elif not rest or _scale(volume, rest) is not None:
            raise IsADirectoryError(without_secrets(path))
        else:
            data = volume.pyramid.fetch_file(rest)
        return data[slice(start, end)]

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:  # noqa: ANN401
        if mode != "rb":
            self._refuse(path)
        return io.BytesIO(self.cat_file(path))

    def _refuse(self, path: str, *_: Any, **__: Any) -> NoReturn:  # noqa: ANN401 - as the base class
        path = without_secrets(self._strip_protocol(path))
        raise ReadOnlyError(f"{path}: {_SCHEME} is read-only; create_volume makes a pyramid, vol[0][...] writes it")

    mkdir = makedirs = rmdir = rm_file = cp_file = _refuse  # of which the base class would ignore some

    def _found(self, path: str) -> tuple[Volume, str]:
        """Return the pyramid that has a path, and the path in it: the nearest folder above it with an `info`."""
        parts = path.split("/")
        for length in range(len(parts), 0, -1):
            root = "/".join(parts[:length])
            if root in self._volumes:
                return self._volumes[root], "/".join(parts[length:])
        failure: Exception | None = None
        for length in range(len(parts) - _level_of(parts[-1]), max(0, len(parts) - _MOST_LEVELS), -1):
            root = "/".join(parts[:length])
            if root.endswith(("/", ":")):
                break
            try:
                self._volumes[root] = open_volume(root, storage_options=self._options, anon=self._anon)
            except (NotFoundError, AccessDeniedError, InvalidInfoError) as exc:  # the `info` may be that of its meshes
                if failure is None or isinstance(failure, NotFoundError):
                    failure = exc if failure is None or not isinstance(exc, NotFoundError) else failure
            else:
                return self._volumes[root], "/".join(parts[length:])
        raise failure or NotFoundError(f"{without_secrets(path)}: there is no pyramid")


def _level_of(name: str) -> int:
    """Return how many folders below the pyramid's a file of this name is, at least."""
    return 2 if _coords_of(name) is not None else int(name == "info")


def _scale(volume: Volume, key: str) -> Scale | None:
    return next((scale for scale in volume if scale.key.removesuffix("/") == key), None)


def _coords_of(name: str) -> ChunkCoords | None:
    try:
        return parse_chunk_name(name)
    except ValueError:
        return None


def _chunk_names(scale: Scale) -> Iterator[str]:
    count = math.prod(scale.grid.shape)
    if count > _MOST_LISTED:
        where = f"{scale.volume.url}: scale {scale.key}"
        raise ValueError(f"{where} has {count} chunks, and {_MOST_LISTED} are listed at most")
    xs, ys, zs = map(range, scale.grid.shape)
    return (chunk_name(scale.grid.chunk((x, y, z))) for z in zs for y in ys for x in xs)


def _folder(path: str) -> dict[str, Any]:
    return {"name": path, "size": 0, "type": "directory"}


def _file(path: str) -> dict[str, Any]:
    return {"name": path, "size": None, "type": "file"}
