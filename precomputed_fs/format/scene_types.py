"""What an `info` is of, by its ``@type``, where that is not a volume."""

from collections.abc import Mapping
from typing import NamedTuple


class SceneType(NamedTuple):
    """What a folder with an `info` of one type has."""

    holds: str
    """In words, such as "skeletons"."""

    opened_by: str
    """The function of this package that opens such a folder on its own."""

    member: str | None
    """The member by which the `info` of a volume names such a folder; None if none does."""


_MESHES = SceneType("meshes", "open_meshes", "mesh")

SCENE_TYPES: Mapping[str, SceneType] = {
    "neuroglancer_legacy_mesh": _MESHES,
    "neuroglancer_multilod_draco": _MESHES,
    "neuroglancer_skeletons": SceneType("skeletons", "open_skeletons", "skeletons"),
    "neuroglancer_segment_properties": SceneType("segment properties", "open_segment_properties", "segment_properties"),
    "neuroglancer_annotations_v1": SceneType("annotations", "open_annotations", None),
}
"""By ``@type``, as the specification spells it."""


VOLUME = "a volume"
"""What `kind_of` says of an `info` with scales."""


def kind_of(info: Mapping[str, object]) -> str:
    """Say in words what an `info` is of: "a volume", "meshes" and so on; empty if that is unknown.

    Examples
    --------
    >>> kind_of({"@type": "neuroglancer_skeletons"}), kind_of({"scales": []}), kind_of({})
    ('skeletons', 'a volume', '')
    """
    kind = scene_type_of(info)
    return kind.holds if kind is not None else VOLUME if "scales" in info else ""


def scene_type_of(info: Mapping[str, object]) -> SceneType | None:
    """Return what an `info` is of, in whatever case it is written; None for volumes and for what is unknown."""
    kind = info.get("@type")
    return SCENE_TYPES.get(kind.lower()) if isinstance(kind, str) else None
