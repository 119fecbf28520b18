"""What the web client sees of a folder of files: meshes, skeletons, segment properties, annotations.

The client gets each file under its own name and uncompressed, however it is stored. It asks for parts of some:
fragments of meshes, and shards.

An `info` may come from anybody. What it names outside of its own folder is shown if that folder's own `info` says that
it is what it is named as; of an index of annotations, which has no `info`, only files with the names of one are.
"""

import contextlib
import copy
import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from precomputed_fs.errors import CorruptDataError, DataAccessError, InvalidInfoError, NotFoundError, URLError
from precomputed_fs.format.scene_folders import KINDS, resolved
from precomputed_fs.format.scene_types import scene_type_of
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.scene.folder import Folder
from precomputed_fs.store.loop import in_thread
from precomputed_fs.store.url import check_relative_path

JSON_TYPE = "application/json"
OCTETS_TYPE = "application/octet-stream"

_OF_AN_INDEX = re.compile(r"\d+(?:_\d+)*|[0-9a-f]+\.shard", re.ASCII)
"""Names of files in an index of annotations: ids, cells and shards."""


class Content(NamedTuple):
    """What the server has at a path."""

    data: bytes
    mime_type: str


class ShownFolder:
    """The files of a folder.

    Parameters
    ----------
    pyramid : Pyramid
        The folder is its root.
    follow_links : bool
        Whether to follow symbolic links out of the folder.
    info : bytes, optional
        What the client gets for the folder's `info`.
    outside : mapping, optional
        Other folders, by the names that they have in this one.
    names : re.Pattern, optional
        Of the only files that are shown.
    """

    def __init__(
        self,
        pyramid: Pyramid,
        *,
        follow_links: bool,
        info: bytes | None = None,
        outside: "Mapping[str, ShownFolder] | None" = None,
        names: re.Pattern[str] | None = None,
    ) -> None:
        self._pyramid = pyramid if follow_links else pyramid.confined()
        if not follow_links and self._pyramid.checks_links:  # `info` may be a link that leads out, too
            with contextlib.suppress(NotFoundError):
                self._pyramid.find_file("info")
        self._info = info
        self._outside = outside or {}
        self._names = names

    async def fetch(self, path: str) -> Content:
        """Fetch what a decoded path names.

        Raises
        ------
        NotFoundError
            If there is nothing, or the path leaves the folder.
        DataAccessError
            If the store fails.
        """
        if path == "info" and self._info is not None:
            return Content(self._info, JSON_TYPE)
        folder, inside = self._find(path)
        if folder is not self:
            return await folder.fetch(inside)
        data = await in_thread(functools.partial(self._pyramid.fetch_file, inside))
        name = path.rpartition("/")[2]
        return Content(data, JSON_TYPE if name == "info" or name.endswith(".json") else OCTETS_TYPE)

    async def fetch_range(self, path: str, span: slice) -> bytes | None:
        """Fetch a part of a file; None if the whole file is needed to answer."""
        if path == "info" and self._info is not None:
            return None
        folder, inside = self._find(path)
        if folder is not self:
            return await folder.fetch_range(inside, span)
        with contextlib.suppress(NotFoundError, CorruptDataError):  # under another name, compressed, or beyond its end
            return await in_thread(functools.partial(self._pyramid.fetch_range, inside, span.start, span.stop))
        return None

    def _find(self, path: str) -> "tuple[ShownFolder, str]":
        """Return the folder that has a path, and the path in that."""
        first, _, rest = path.partition("/")
        if first in self._outside:
            return self._outside[first], rest
        try:
            inside = check_relative_path(path)
        except ValueError as exc:
            raise NotFoundError(str(exc)) from exc
        if self._names is not None and not self._names.fullmatch(inside):
            raise NotFoundError(f"{path} is not a file of this folder")
        return self, inside


# ------------------------------------------------------------------------------------------------- what `info` names


class _Named(NamedTuple):
    """A folder that an `info` names, and where."""

    holder: dict[str, Any]
    member: str

    @property
    def path(self) -> object:
        return self.holder.get(self.member)


def shown_folders(
    pyramid: Pyramid, given: Mapping[str, Any], *, follow_links: bool
) -> tuple[dict[str, Any], dict[str, ShownFolder]]:
    """Give a name in the pyramid's root to each folder outside of it that its `info` names.

    Returns
    -------
    dict
        The `info` with these names.
    dict
        The folders by their names.
    """
    info = copy.deepcopy(dict(given))
    outside: dict[str, ShownFolder] = {}
    for number, named in enumerate(_named(info)):
        path = named.path
        if not isinstance(path, str) or "://" in path or resolved("", path).partition("/")[0] != "..":
            continue
        with contextlib.suppress(DataAccessError, InvalidInfoError, URLError, ValueError):  # the client tells
            name = f"outside.{number}"
            outside[name] = _shown_outside(pyramid, path, named.member, follow_links=follow_links)
            named.holder[named.member] = name
    return info, outside


def _named(info: dict[str, Any]) -> Iterator[_Named]:
    """Find all folders that an `info` of any type names, but those of scales."""
    yield from (_Named(info, member) for member in KINDS if member in info)
    for member in ("by_id", "relationships", "spatial"):  # of annotations
        holders = info.get(member)
        for holder in holders if isinstance(holders, list) else [holders]:
            if isinstance(holder, dict) and "key" in holder:
                yield _Named(holder, "key")


def _shown_outside(pyramid: Pyramid, path: str, member: str, *, follow_links: bool) -> ShownFolder:
    folder = Folder.beside(pyramid, resolved("", path), member)
    own = folder.pyramid.rooted_at(folder.path) if folder.path else folder.pyramid
    if member not in KINDS:
        return ShownFolder(own, follow_links=follow_links, names=_OF_AN_INDEX)
    kind = scene_type_of(Folder(own if follow_links else own.confined()).info())
    if kind is None or kind.member != member:
        raise InvalidInfoError(f"{folder.shown('info')}: expected {KINDS[member]}")
    return ShownFolder(own, follow_links=follow_links)


def shown_alone(folder: Folder, info: Mapping[str, Any], *, follow_links: bool) -> ShownFolder:
    """Return what the client sees of a folder that stands alone."""
    pyramid = folder.pyramid.rooted_at(folder.path) if folder.path else folder.pyramid
    changed, outside = shown_folders(pyramid, info, follow_links=follow_links)
    rewritten = json.dumps(changed).encode() if outside else None
    return ShownFolder(pyramid, follow_links=follow_links, info=rewritten, outside=outside)
