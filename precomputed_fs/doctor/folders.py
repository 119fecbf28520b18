"""How the folders that `info` names are examined: by their own `info`, and by whether anything is in them."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from precomputed_fs.doctor.chunks import state_of
from precomputed_fs.doctor.seen import SeenFolder, SeenPyramid
from precomputed_fs.errors import DataAccessError, InvalidInfoError, URLError
from precomputed_fs.format.annotation_info import AnnotationInfo
from precomputed_fs.format.compression import split_suffix
from precomputed_fs.format.info import Info
from precomputed_fs.format.info_text import parse_info
from precomputed_fs.format.multilod_mesh import MULTILOD_TYPE, MultilodInfo
from precomputed_fs.format.scene_folders import scene_folders
from precomputed_fs.format.scene_types import SceneType, scene_type_of
from precomputed_fs.format.segment_properties import SegmentPropertiesInfo, violations
from precomputed_fs.format.skeleton import SkeletonsInfo
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.scene.folder import Folder

MOST_REQUESTS = 7
"""The most requests for one folder: one per possible name of its `info`, and a page of a listing."""

_FOR_CLOUD_VOLUME = (".spatial", ".labels", ".frags")
"""Ends of the names of files that igneous and cloud-volume have for themselves."""

_READ: Mapping[str, Callable[[Mapping[str, Any]], object]] = {
    "skeletons": SkeletonsInfo.parse,
    "segment_properties": SegmentPropertiesInfo.parse,
    "annotations": AnnotationInfo.parse,
}
"""What reads the `info` of a folder, by `SeenFolder.member`; legacy meshes need none."""


def find_folders(seen: SeenPyramid, info: Info) -> list[SeenFolder]:
    """Return the folders that the `info` of a volume names, not examined yet."""
    return [SeenFolder(seen, folder.member, folder) for folder in scene_folders(info)]


def examine_folder(seen: SeenFolder, pyramid: Pyramid) -> None:
    """Examine a folder that the `info` of a volume names."""
    if seen.folder is None:
        return
    try:
        folder = Folder.beside(pyramid, seen.folder.given, seen.member)
    except (InvalidInfoError, URLError) as exc:
        seen.state, seen.said = "wrong", str(exc)
        return
    _fetch_info(seen, folder)
    with contextlib.suppress(DataAccessError):
        page = pyramid.store.list_page(folder.path) if folder.pyramid is pyramid else None
        names = [listed.name for listed in page.objects] if page else []
        seen.is_empty = page is not None and not names
        seen.suffixed = next(filter(_is_suffixed, names), "")


def _is_suffixed(name: str) -> bool:
    stem, suffix = split_suffix(name)
    return bool(suffix) and not stem.endswith(_FOR_CLOUD_VOLUME)


def _fetch_info(seen: SeenFolder, folder: Folder) -> None:
    try:
        seen.given = parse_info(folder.info_text(), folder.shown("info"), folder.pyramid.options.max_file_bytes)
    except DataAccessError as exc:
        seen.state, seen.said = state_of(exc), str(exc)
    except InvalidInfoError as exc:
        seen.state, seen.said = "wrong", str(exc)
    else:
        seen.state = "found"
        _read(seen)


def examine_alone(seen: SeenPyramid, kind: SceneType) -> SeenFolder:
    """Return a folder that stands alone, by its `info`, which is that of `seen`."""
    folder = SeenFolder(seen, kind.member or kind.holds, state="found", given=seen.given)
    seen.given, seen.alone, seen.state = {}, kind, "found"
    _read(folder)
    return folder


def _read(seen: SeenFolder) -> None:
    """Read `info` as this package does."""
    kind = scene_type_of(seen.given)
    if kind is None or (kind.member or kind.holds) != seen.member:
        return  # which has a rule of its own
    read = MultilodInfo.parse if seen.type.lower() == MULTILOD_TYPE else _READ.get(seen.member)
    try:
        info = None if read is None else read(seen.given)
        if isinstance(info, SegmentPropertiesInfo):
            seen.violations = list(violations(info))
    except InvalidInfoError as exc:
        seen.wrong = str(exc)
