"""Which folders that `info` names are copied: of meshes, skeletons and segment properties; and why others are not."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from precomputed_fs.copying.files import FolderCopy
from precomputed_fs.copying.plan import Target
from precomputed_fs.errors import AccessDeniedError, DataAccessError, InvalidInfoError, NotFoundError
from precomputed_fs.format.info_text import parse_info
from precomputed_fs.format.scene_folders import SceneFolder, resolved, scene_folders
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.store.redaction import without_secrets
from precomputed_fs.store.url import check_relative_path
from precomputed_fs.volume import Volume

_MOST_SHARD_BITS = 16  # of folders whose shards are looked for by their names
_PROPERTIES = "segment_properties"

_Found: TypeAlias = tuple[str, Mapping[str, Any]]
"""The name under which the `info` of a folder is stored, and what it says."""

_InfoOf: TypeAlias = Callable[[SceneFolder], _Found | None]


@dataclass(frozen=True, slots=True)
class ScenePlan:
    """What is copied beside the scales."""

    folders: tuple[FolderCopy, ...] = ()

    members: frozenset[str] = frozenset()
    """The members of `info` that the copy keeps, since what they name is copied."""

    left_out: tuple[str, ...] = ()
    """What is not copied, each with the reason."""


class _LeftOutError(Exception):
    """A folder cannot be copied."""


def plan_scene(volume: Volume, destination: Pyramid, target: Target) -> ScenePlan:
    """Find out which of the folders that `info` names can be copied: a page of each is listed, and its `info` read."""
    info_of: _InfoOf = functools.cache(functools.partial(_find_info, volume.pyramid))
    folders: list[FolderCopy] = []
    members, left_out = set[str](), list[str]()
    for folder in scene_folders(volume.info):
        for named in (folder, *_properties_of(folder, info_of)):
            try:
                names = _names(volume, named, info_of)
            except _LeftOutError as exc:
                left_out.append(f"{named.kind} in {without_secrets(named.given)!r}, {exc}")
                break
            if named is folder:
                members.add(folder.member)
            if not any(_covers(other, named.path) for other in folders):
                folders.append(FolderCopy(volume.pyramid, destination, named.path, names, target.gzip, target.verify))
    return ScenePlan(tuple(folders), frozenset(members), tuple(left_out))


def _covers(copy: FolderCopy, path: str) -> bool:
    """Whether a folder is copied along with another one."""
    return path == copy.path or (copy.names is None and path.startswith(f"{copy.path}/"))


def _names(volume: Volume, folder: SceneFolder, info_of: _InfoOf) -> tuple[str, ...] | None:
    """Return the names that files of a folder may have; None if they can be listed."""
    _check_place(volume, folder)
    store, why = volume.pyramid.store, "which is on a server that cannot list files"
    try:
        page = store.list_page(folder.path)
    except AccessDeniedError:
        page, why = None, "which may not be listed"
    if page is None:
        return tuple(_known_names(folder, info_of(folder), why))
    if not page.objects:
        raise _LeftOutError("where there is nothing")
    return None


def _check_place(volume: Volume, folder: SceneFolder) -> None:
    """Check that a folder has a place in the copy, which may be anywhere."""
    if folder.is_url:
        raise _LeftOutError("which is a URL and not a folder of the pyramid")
    if not folder.is_inside:
        raise _LeftOutError("which is not a folder in the pyramid's own")
    try:
        check_relative_path(folder.path)
    except ValueError as exc:
        raise _LeftOutError("which is not a path inside the pyramid") from exc
    scale = next((scale.key for scale in volume if folder.contains(resolved("", scale.key))), None)
    if scale is not None:
        raise _LeftOutError(f"where scale {scale} is as well")


def _known_names(folder: SceneFolder, found: _Found | None, why: str) -> Iterator[str]:
    """Yield the names that files have for sure: `info`, and shards."""
    if found is None:
        raise _LeftOutError(why)
    name, info = found
    yield name
    if folder.member == _PROPERTIES:
        return
    try:
        sharding = Sharding.from_info(info["sharding"], "")
    except (InvalidInfoError, KeyError, TypeError) as exc:
        raise _LeftOutError(why) from exc
    if sharding.shard_bits > _MOST_SHARD_BITS:
        raise _LeftOutError(f"{why}, and has too many shards to look for each")
    yield from (f"{sharding.shard_name(folder.path, shard)}.shard" for shard in range(1 << sharding.shard_bits))


def _properties_of(folder: SceneFolder, info_of: _InfoOf) -> Iterator[SceneFolder]:
    """Yield the segment properties that meshes or skeletons name in their own `info`."""
    if folder.member == _PROPERTIES or not folder.is_inside:
        return
    with contextlib.suppress(DataAccessError, ValueError):
        found = info_of(folder)
        given = None if found is None else found[1].get(_PROPERTIES)
        if isinstance(given, str) and given:
            yield SceneFolder(_PROPERTIES, given, resolved(folder.path, given))


def _find_info(pyramid: Pyramid, folder: SceneFolder) -> _Found | None:
    """Return the name under which the `info` of a folder is stored, and what it says; None if there is none."""
    try:
        stored = pyramid.find_file(f"{folder.path}/info")
    except (NotFoundError, AccessDeniedError):
        return None
    with contextlib.suppress(InvalidInfoError):
        return stored.name, parse_info(stored.decoded(), stored.shown, pyramid.options.max_file_bytes)
    return stored.name, {}
