"""Compatibility rules for what is beside the scales: why a reader cannot open meshes, skeletons, segment properties.

Neuroglancer loads them along with the volume, and cloud-volume reads their `info` when it opens one: what these cannot
read there keeps them from the voxels, too.
"""

from precomputed_fs.doctor import folder_checks as checks
from precomputed_fs.doctor.checks import CV, NG, NGS, OURS, TS
from precomputed_fs.doctor.rules import CV_MEASURED, NG_FRONTEND, SERVE, TS_MEASURED, WRITE_INFO, Rule, make_rule

_MESHES = "specification, meshes.md"
_SKELETONS = "specification, skeletons.md"
_PROPERTIES = "specification, segment_properties.md"
_VOLUME = "specification, volume.md"
_SHADER = "measured with Neuroglancer 2.41.2; its src/skeleton/frontend.ts, getWebglDataType"
_UPLOAD = "upload it, or leave it out of the volume's `info`"
_NOT_VOXELS = ("skeletons", "segment_properties")

FOLDER_RULES: tuple[Rule, ...] = (
    # ------------------------------------------------------------------------------------------- what is it, and where
    make_rule(
        "not-a-volume", "error", (TS, NGS), "pyramid", checks.is_alone,
        "these are {}, not a volume", "open it with this package, Neuroglancer or cloud-volume",
        f"{_VOLUME}; {TS_MEASURED}",
    ),
    make_rule(
        "beside-unread", "note", (TS, NGS), "pyramid", checks.unread("mesh", "skeletons", "segment_properties"),
        "only voxels are read: not the {}", "read them with this package or cloud-volume",
        f"{TS_MEASURED}; neuroglancer-scripts 1.2.0, its documentation",
    ),
    make_rule(
        "beside-unread", "note", CV, "pyramid", checks.unread("segment_properties"),
        "the {} are not read", "read them with this package", CV_MEASURED,
    ),
    make_rule(
        "beside-image", "note", NG, "pyramid", checks.beside_an_image,
        "{} are shown with segmentations only", f'{WRITE_INFO}: "type": "segmentation"', f"{_VOLUME}, mesh",
    ),
    make_rule(
        "folder-null", "error", NG, "pyramid", checks.names_nothing(None),
        "null instead of a folder: {}", "leave it out of `info`", f"{NG_FRONTEND}, parseMultiscaleVolumeInfo",
    ),
    make_rule(
        "folder-null", "note", CV, "pyramid", checks.names_nothing(None),
        "null instead of a folder, which is none: {}", "leave it out of `info`", CV_MEASURED,
    ),
    make_rule(
        "folder-unnamed", "error", NG, "pyramid", checks.names_nothing(""),
        "the path of a folder is empty, which is the volume's own: {}", "leave it out of `info`",
        f"{NG_FRONTEND}, getVolumeDataSource",
    ),
    make_rule(
        "folder-url", "error", (OURS, NG, CV), "folder", checks.is_url,
        "{} is taken for a path: nothing is there", "write a path relative to `info`",
        f"{_VOLUME}, mesh; {CV_MEASURED}",
    ),
    make_rule(
        "folder-outside", "note", (OURS, NG, CV), "folder", checks.is_outside,
        "{} is outside of the volume's folder: copies of that leave it out", "copy it, too", f"{_VOLUME}, key",
    ),
    # ----------------------------------------------------------------------------------------------------- is it there
    make_rule(
        "folder-absent", "error", OURS, "folder", checks.in_state("absent", members=_NOT_VOXELS),
        "there is no `info`: {}", _UPLOAD, f"{_SKELETONS}; {_PROPERTIES}",
    ),
    make_rule(
        "folder-absent", "error", NG, "folder", checks.in_state("absent", members=_NOT_VOXELS),
        "there is no `info`, and the volume is not shown, either: {}", _UPLOAD, f"{NG_FRONTEND}, getJsonMetadata",
        closes_all=True,
    ),
    make_rule(
        "folder-absent", "warning", CV, "folder", checks.in_state("absent", members=("skeletons",)),
        "there is no `info`: the attributes radius and vertex_types are assumed", _UPLOAD, CV_MEASURED,
    ),
    make_rule(
        "mesh-info-absent", "note", (OURS, NG, CV), "folder", checks.in_state("absent", members=("mesh",)),
        "there is no `info`: they are taken for legacy meshes",
        'store one: {"@type": "neuroglancer_legacy_mesh"}', f"{_MESHES}, legacy format; {CV_MEASURED}",
    ),
    make_rule(
        "folder-empty", "warning", (OURS, NG, CV), "folder", checks.is_empty,
        "nothing is there", _UPLOAD, _VOLUME,
    ),
    make_rule(
        "folder-unreadable", "error", (OURS, NG, CV), "folder", checks.in_state("denied", "failed", "damaged"),
        "its `info` cannot be read: {}", "see the server's message, and try again", "RFC 9110, section 15",
    ),
    make_rule(
        "folder-wrong", "error", OURS, "folder", checks.in_state("wrong"),
        "its `info` cannot be read: {}", "write it again", "RFC 8259",
    ),
    make_rule(
        "folder-wrong", "error", NG, "folder",
        lambda f: checks.in_state("wrong")(f) if checks.is_url(f) is None else None,
        "its `info` is not JSON, and the volume is not shown, either: {}", "write it again",
        f"{NG_FRONTEND}, getJsonMetadata", closes_all=True,
    ),
    make_rule(
        "folder-wrong", "error", CV, "folder",
        lambda f: checks.in_state("wrong", members=("mesh", "skeletons"))(f) if checks.is_url(f) is None else None,
        "its `info` is not JSON, and the volume is not opened, either: {}", "write it again", CV_MEASURED,
        closes_all=True,
    ),
    make_rule(
        "folder-suffix", "error", NG, "folder", checks.has_suffix,
        "names have a suffix, which is not looked for, such as {}",
        f"store them uncompressed, or in a bucket with Content-Encoding: copy_pyramid does; or {SERVE}",
        f"{_MESHES}, unsharded storage",
    ),
    make_rule(
        "folder-suffix", "error", CV, "folder",
        lambda f: checks.has_suffix(f) if f.pyramid.protocol != "file" else None,
        "names have a suffix, which is not looked for here, such as {}",
        "store them uncompressed, or in a bucket with Content-Encoding: copy_pyramid does",
        "cloud-files, interfaces.py",
    ),
    make_rule(
        "no-range-meshes", "error", (NG, CV), "folder", checks.needs_ranges,
        "the server ignores Range, which these files need", "enable range requests (206)", f"{_MESHES}, Range",
    ),
    # ------------------------------------------------------------------------------------------------- what `info` says
    make_rule(
        "folder-type", "error", OURS, "folder",
        checks.wrong_type("mesh", "skeletons", "segment_properties", case_counts=False),
        "@type is {}", f"{WRITE_INFO} of the folder", f"{_MESHES}; {_SKELETONS}; {_PROPERTIES}",
    ),
    make_rule(
        "folder-type", "error", NG, "folder",
        checks.wrong_type("mesh", "skeletons", "segment_properties", case_counts=True),
        "@type is {}, and the volume is not shown, either", f"{WRITE_INFO} of the folder",
        f"{NG_FRONTEND}, parseMeshMetadata, parseSkeletonMetadata, getSegmentPropertyMap", closes_all=True,
    ),
    make_rule(
        "folder-type", "error", CV, "folder",
        lambda f: checks.wrong_type("mesh", case_counts=True)(f) if f.type else None,
        "@type is {}: they are taken for legacy meshes", f"{WRITE_INFO} of the folder", CV_MEASURED,
    ),
    make_rule(
        "folder-type-missing", "warning", CV, "folder",
        lambda f: None if f.type else checks.wrong_type("mesh", case_counts=True)(f),
        "there is no @type: they are taken for legacy meshes", f"{WRITE_INFO} of the folder", CV_MEASURED,
    ),
    make_rule(
        "folder-invalid", "error", OURS, "folder", checks.invalid,
        "its `info` is invalid: {}", f"{WRITE_INFO} of the folder", f"{_MESHES}; {_SKELETONS}; {_PROPERTIES}",
    ),
    make_rule(
        "folder-invalid", "warning", NG, "folder", checks.invalid,
        "its `info` is invalid, and may keep the volume from being shown: {}", f"{WRITE_INFO} of the folder",
        f"{_MESHES}; {_SKELETONS}; {_PROPERTIES}",
    ),
    make_rule(
        "quantization-bits", "error", NG, "folder", checks.wrong_bits,
        "vertex_quantization_bits is {}, not 10 or 16, and the volume is not shown, either", "write the meshes again",
        f"{NG_FRONTEND}, getMeshSource", closes_all=True,
    ),
    make_rule(
        "mesh-members", "error", (NG, CV), "folder", checks.lacks_members,
        "its `info` has no {}, and the volume is not opened, either", f"{WRITE_INFO} of the folder",
        f"{NG_FRONTEND}, parseMeshMetadata; {CV_MEASURED}", closes_all=True,
    ),
    make_rule(
        "transform-missing", "error", CV, "folder",
        lambda f: checks.lacks_transform(f) if checks.is_multilod(f) else None,
        "its `info` has no transform, and the volume is not opened, either", f"{WRITE_INFO} of the folder",
        CV_MEASURED, closes_all=True,
    ),
    make_rule(
        "skeleton-transform", "error", CV, "folder",
        lambda f: None if checks.is_multilod(f) else checks.lacks_transform(f),
        "its `info` has no transform", f"{WRITE_INFO} of the folder", CV_MEASURED,
    ),
    make_rule(
        "transform-missing", "note", (OURS, NG), "folder", checks.lacks_transform,
        "its `info` has no transform: coordinates are taken for nanometres", f"{WRITE_INFO} of the folder",
        f"{_MESHES}, transform; {NG_FRONTEND}, parseTransform",
    ),
    make_rule(
        "transform-wrong", "error", NG, "folder", checks.wrong_transform,
        "transform is {}, not 12 numbers, and the volume is not shown, either", f"{WRITE_INFO} of the folder",
        f"{NG_FRONTEND}, parseTransform", closes_all=True,
    ),
    make_rule(
        "transform-wrong", "error", CV, "folder",
        lambda f: checks.wrong_transform(f) if checks.is_multilod(f) else None,
        "transform is {}, not 12 numbers, and the volume is not opened, either", f"{WRITE_INFO} of the folder",
        CV_MEASURED, closes_all=True,
    ),
    make_rule(
        "transform-ignored", "warning", NG, "folder", checks.ignored_transform,
        "the transform of legacy meshes is ignored", "write vertices in nanometres", f"{NG_FRONTEND}, getMeshSource",
    ),
    make_rule(
        "folder-sharding-null", "error", NG, "folder", checks.null_sharding,
        "sharding is null, and the volume is not shown, either", "leave it out",
        f"{NG_FRONTEND}, parseShardingParameters", closes_all=True,
    ),
    make_rule(
        "legacy-sharded", "error", (NG, CV), "folder", checks.sharded_legacy,
        "legacy meshes in shards are not read", f"write meshes of several levels of detail; or {SERVE}",
        f"{_MESHES}, legacy format; {CV_MEASURED}",
    ),
    make_rule(
        "attributes-missing", "note", (OURS, NG, CV), "folder", checks.lacks_attributes,
        "its `info` has no vertex_attributes: there are none", f'{WRITE_INFO} of the folder: "vertex_attributes": []',
        f"{_SKELETONS}; {CV_MEASURED}",
    ),
    make_rule(
        "attribute-type", "error", NG, "folder", checks.unknown_attribute_type,
        "attributes of {} are not supported, and the volume is not shown, either", "write them as float32",
        f"{NG_FRONTEND}, parseSkeletonMetadata", closes_all=True,
    ),
    make_rule(
        "attribute-not-drawn", "error", NG, "folder", checks.attribute_not_drawn,
        "skeletons with attributes of {} are not shown, and segment properties are not, either",
        "store them as float32", _SHADER,
    ),
    make_rule(
        "attribute-components", "error", NG, "folder", checks.attribute_too_wide,
        "skeletons are not shown whose attributes have more than 4 components: {}", "store them apart", _SHADER,
    ),
    make_rule(
        "attribute-name", "warning", NG, "folder", checks.attribute_not_named,
        "skeletons may not be shown, as names of attributes are not identifiers: {}", "choose other names",
        _SHADER,
    ),
    make_rule(
        "ids-not-texts", "error", NG, "folder", checks.ids_that_are_not_texts,
        "ids of segments are texts, not {}, and the volume is not shown, either", "write them in quotation marks",
        f"{NG_FRONTEND}, parseInlinePropertyMap", closes_all=True,
    ),
    make_rule(
        "properties-otherwise", "warning", NG, "folder", checks.violates,
        "the specification has this otherwise: {}", "store them again with store_segment_properties", _PROPERTIES,
    ),
)  # fmt: skip
"""The rules, in the order of the report."""
