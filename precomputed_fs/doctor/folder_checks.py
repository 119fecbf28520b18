"""The checks of the rules for folders beside the scales: each returns what it found, or None."""

from collections.abc import Callable
from typing import Any

from precomputed_fs.doctor.checks import CV, NG, OURS, ignores_range, when
from precomputed_fs.doctor.seen import SeenFolder, SeenPyramid
from precomputed_fs.errors import shown
from precomputed_fs.format.legacy_mesh import LEGACY_TYPE
from precomputed_fs.format.multilod_mesh import MULTILOD_TYPE
from precomputed_fs.format.scene_folders import KINDS
from precomputed_fs.format.segment_properties import SEGMENT_PROPERTIES_TYPE
from precomputed_fs.format.skeleton import FLOAT, MOST_COMPONENTS, SKELETONS_TYPE, is_identifier
from precomputed_fs.store.redaction import without_secrets

READ = {
    OURS: ("mesh", "skeletons", "segment_properties", "annotations"),
    NG: ("mesh", "skeletons", "segment_properties", "annotations"),
    CV: ("mesh", "skeletons"),
}
"""What each reader reads beside voxels."""

_MESH, _SKELETONS, _PROPERTIES = "mesh", "skeletons", "segment_properties"
_TYPES = {_MESH: (LEGACY_TYPE, MULTILOD_TYPE), _SKELETONS: (SKELETONS_TYPE,), _PROPERTIES: (SEGMENT_PROPERTIES_TYPE,)}
_BITS = (10, 16)
_TRANSFORM = 12
_NEEDED = ("vertex_quantization_bits", "lod_scale_multiplier")
_CLIENT_TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")

Check = Callable[[SeenFolder], str | None]


def of(*members: str) -> Callable[[Check], Check]:
    """Restrict a check to some kinds of folders."""

    def restricted(check: Check) -> Check:
        return lambda folder: check(folder) if folder.member in members else None

    return restricted


def in_state(*states: str, members: tuple[str, ...] = (_MESH, _SKELETONS, _PROPERTIES)) -> Check:
    return of(*members)(lambda folder: when(folder.state in states, folder.said))


def is_multilod(folder: SeenFolder) -> bool:
    return folder.member == _MESH and folder.type.lower() == MULTILOD_TYPE


def wrong_type(*members: str, case_counts: bool) -> Check:
    """Find a type that is none of those that a folder may have."""

    def check(folder: SeenFolder) -> str | None:
        kind = folder.type if case_counts else folder.type.lower()
        return when(folder.state == "found" and kind not in _TYPES[folder.member], shown(folder.given.get("@type")))

    return of(*members)(check)


def wrong_bits(folder: SeenFolder) -> str | None:
    bits = folder.given.get("vertex_quantization_bits")
    return when(is_multilod(folder) and bits is not None and bits not in _BITS, shown(bits))


def lacks_members(folder: SeenFolder) -> str | None:
    missing = [name for name in _NEEDED if folder.given.get(name) is None]
    return when(is_multilod(folder) and missing, ", ".join(missing))


def lacks_transform(folder: SeenFolder) -> str | None:
    is_needed = is_multilod(folder) or (folder.member == _SKELETONS and folder.state == "found")
    return when(is_needed and "transform" not in folder.given)


def wrong_transform(folder: SeenFolder) -> str | None:
    transform = folder.given.get("transform", [0] * _TRANSFORM)
    is_right = isinstance(transform, list) and len(transform) == _TRANSFORM and all(map(_is_number, transform))
    return when((is_multilod(folder) or folder.member == _SKELETONS) and not is_right, shown(transform))


def _is_number(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, int | float) and not isinstance(value, bool)


def ignored_transform(folder: SeenFolder) -> str | None:
    is_legacy = folder.member == _MESH and folder.type.lower() == LEGACY_TYPE
    return when(is_legacy and "transform" in folder.given)


def null_sharding(folder: SeenFolder) -> str | None:
    is_read = is_multilod(folder) or folder.member == _SKELETONS
    return when(is_read and folder.given.get("sharding", 0) is None)


def sharded_legacy(folder: SeenFolder) -> str | None:
    return when(folder.member == _MESH and folder.type.lower() == LEGACY_TYPE and folder.given.get("sharding"))


def lacks_attributes(folder: SeenFolder) -> str | None:
    is_here = folder.member == _SKELETONS and folder.state == "found"
    return when(is_here and "vertex_attributes" not in folder.given)


def _attributes(folder: SeenFolder) -> list[dict[str, Any]]:
    attributes = folder.given.get("vertex_attributes") if folder.member == _SKELETONS else None
    return [each for each in attributes if isinstance(each, dict)] if isinstance(attributes, list) else []


def _attribute_types(folder: SeenFolder) -> list[str]:
    types = (each.get("data_type") for each in _attributes(folder))
    return [each for each in types if isinstance(each, str)]


def unknown_attribute_type(folder: SeenFolder) -> str | None:
    unknown = [each for each in _attribute_types(folder) if each.lower() not in _CLIENT_TYPES]
    return when(unknown, ", ".join(unknown))


def attribute_not_drawn(folder: SeenFolder) -> str | None:
    """Find attributes that are decoded, and then have no place in a shader."""
    types = [each for each in _attribute_types(folder) if each.lower() in _CLIENT_TYPES and each.lower() != FLOAT]
    return when(types, ", ".join(dict.fromkeys(types)))


def attribute_not_named(folder: SeenFolder) -> str | None:
    names = [each.get("id") for each in _attributes(folder)]
    wrong = [name for name in names if isinstance(name, str) and not is_identifier(name)]
    return when(wrong, ", ".join(map(repr, wrong)))


def attribute_too_wide(folder: SeenFolder) -> str | None:
    wide = [each.get("num_components") for each in _attributes(folder)]
    return when([each for each in wide if isinstance(each, int) and each > MOST_COMPONENTS], shown(wide))


def ids_that_are_not_texts(folder: SeenFolder) -> str | None:
    inline = folder.given.get("inline") if folder.member == _PROPERTIES else None
    ids = inline.get("ids") if isinstance(inline, dict) else None
    wrong = [each for each in ids if not isinstance(each, str)] if isinstance(ids, list) else []
    return when(wrong, shown(wrong[0] if wrong else None))


def invalid(folder: SeenFolder) -> str | None:
    return when(folder.wrong, folder.wrong)


def violates(folder: SeenFolder) -> str | None:
    more = f" (and {len(folder.violations) - 1} more)" if len(folder.violations) > 1 else ""
    return when(folder.violations, f"{folder.violations[0]}{more}" if folder.violations else "")


def is_outside(folder: SeenFolder) -> str | None:
    named = folder.folder
    return when(named and not named.is_url and not named.is_inside, named and named.given)


def is_url(folder: SeenFolder) -> str | None:
    return when(folder.folder and folder.folder.is_url, folder.folder and without_secrets(folder.folder.given))


def is_empty(folder: SeenFolder) -> str | None:
    return when(folder.is_empty)


def has_suffix(folder: SeenFolder) -> str | None:
    return when(folder.suffixed, folder.suffixed)


def needs_ranges(folder: SeenFolder) -> str | None:
    return when(ignores_range(folder.pyramid) and (is_multilod(folder) or folder.given.get("sharding")))


# ---------------------------------------------------------------------------------------------------- of the pyramid


def is_alone(pyramid: SeenPyramid) -> str | None:
    return when(pyramid.alone, pyramid.alone and pyramid.alone.holds)


def names_nothing(value: object) -> Callable[[SeenPyramid], str | None]:
    """Find members that name no folder, though they are there."""

    def finds(pyramid: SeenPyramid) -> str | None:
        empty = [member for member in KINDS if member in pyramid.given and pyramid.given[member] == value]
        return when(empty and pyramid.alone is None, ", ".join(empty))

    return finds


def unread(*members: str) -> Callable[[SeenPyramid], str | None]:
    """Find folders that some readers do not read."""

    def finds(pyramid: SeenPyramid) -> str | None:
        kinds = [folder.folder.kind for folder in pyramid.folders if folder.folder and folder.member in members]
        return when(kinds, ", ".join(kinds))

    return finds


def beside_an_image(pyramid: SeenPyramid) -> str | None:
    kinds = [folder.folder.kind for folder in pyramid.folders if folder.folder]
    return when(pyramid.kind == "image" and kinds, ", ".join(kinds))
