"""What can be shown in Neuroglancer: volumes, and folders of annotations, meshes, skeletons or segment properties."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, Unpack

from precomputed_fs.accessor import FsspecAccessor
from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.scene_types import SCENE_TYPES, SceneType, scene_type_of
from precomputed_fs.keywords import AccessorOptions
from precomputed_fs.pyramid import claims
from precomputed_fs.scene.folder import Folder
from precomputed_fs.store.location import Location
from precomputed_fs.store.url import URLPath
from precomputed_fs.volume import Scale, Volume, check_not_redirected
from precomputed_fs.volume.open import open_info, volume_from


@dataclass(frozen=True, slots=True)
class Alone:
    """A folder that is shown on its own, without a volume."""

    folder: Folder
    info: Mapping[str, Any] = field(compare=False)
    """The members of its `info`."""

    type: SceneType

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        return self.folder.shown()

    @property
    def location(self) -> Location:
        """Where it is, and how it is reached."""
        location = self.folder.pyramid.location
        return location.below(self.folder.path) if self.folder.path else location

    def close(self) -> None:
        """Close connections."""
        self.folder.pyramid.close()


Shown: TypeAlias = Volume | Alone
"""What a layer shows."""


def location_of(source: Shown) -> Location:
    """Return where a source is, and how it is reached."""
    return source.pyramid.location if isinstance(source, Volume) else source.location


def source_of(source: Any, **accessor_options: Unpack[AccessorOptions]) -> Shown:  # noqa: ANN401 - see `view`
    """Return what is to be shown: as it is, or opened.

    Raises
    ------
    TypeError
        If it is a scale: Neuroglancer chooses among all scales of a volume. Or if options are given for what is open.
    NotFoundError, AccessDeniedError, DataAccessError, InvalidInfoError, URLError
        If it cannot be opened.
    """
    if isinstance(source, Scale):
        raise TypeError(f"expected a volume, got {source!r}: pass scale.volume, Neuroglancer chooses the scale")
    folder = getattr(source, "folder", None)
    is_open = isinstance(source, Volume | Alone | FsspecAccessor) or isinstance(folder, Folder)
    if is_open and accessor_options:
        raise TypeError(f"{', '.join(accessor_options)}: for URLs; what is open already has its options")
    if isinstance(source, Volume | Alone):
        return source
    if isinstance(folder, Folder):
        return _alone(folder, folder.info())
    if isinstance(source, FsspecAccessor):
        accessor, given = source, claims.fetch_info(source.pyramid)
        check_not_redirected(given, source.pyramid.location.display("info"))
    elif isinstance(source, str | os.PathLike | URLPath):
        accessor, given = open_info(source, **accessor_options)
    else:
        what = "a volume, a URL or a path, or what open_annotations, open_meshes or open_skeletons returns"
        raise TypeError(f"expected {what}, got {type(source).__name__}")
    if scene_type_of(given) is None:
        return volume_from(accessor, given)
    return _alone(Folder(accessor.pyramid), given)


def _alone(folder: Folder, info: Mapping[str, Any]) -> Alone:
    kind = scene_type_of(info)
    if kind is None:
        raise InvalidInfoError(f"{folder.shown('info')}: @type: expected one of {', '.join(SCENE_TYPES)}")
    return Alone(folder, info, kind)
