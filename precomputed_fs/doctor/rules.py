"""Compatibility rules: why a reader cannot open a pyramid, with severity, advice and source.

A rule checks what `precomputed_fs.doctor.examine` has seen of a pyramid or of one of its scales; those for other
folders are in `precomputed_fs.doctor.folder_rules`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from precomputed_fs.doctor import checks
from precomputed_fs.doctor.checks import (
    BOM,
    CHUNK_TEXTURE,
    CSEG,
    CSEG_BLOCK,
    CV,
    NG,
    NGS,
    OURS,
    READERS,
    TS,
    UNSIGNED,
    VOLUME_TYPE,
)
from precomputed_fs.doctor.seen import LARGEST_CHUNK
from precomputed_fs.errors import shown
from precomputed_fs.format.info_members import lowercase


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition that keeps readers from a pyramid, or from one of its scales."""

    id: str

    severity: str
    """"error": these readers fail, or get wrong voxels. "warning": they may. "note": good to know."""

    readers: tuple[str, ...]
    """The readers that it concerns, of `READERS`."""

    looks_at: str
    """"pyramid", "scale" or "folder"."""

    finds: Callable[[Any], str | None]
    """Returns what it found, for the message; None if the rule does not apply."""

    message: str
    """The message, with ``{}`` for what was found."""

    advice: str

    source: str
    """How it is known: the specification, a reader's source, or the version it was measured with."""

    closes_all: bool = False
    """Whether one such scale or folder keeps these readers from the whole pyramid."""

    hides: bool = False
    """Whether chunks are not examined then, so that verdicts are unknown."""


_OTHERS = (NG, CV, TS, NGS)
_SPECIFICATION = "specification, volume.rst"
_SHARDED_SPECIFICATION = "specification, sharded.rst"
_NG_SOURCE = "Neuroglancer 2.41.2, src/"
NG_FRONTEND = f"{_NG_SOURCE}datasource/precomputed/frontend.ts"
_NG_BACKEND = f"{_NG_SOURCE}datasource/precomputed/backend.ts"
CV_MEASURED = "measured with cloud-volume 12.15.2"
TS_MEASURED = "measured with tensorstore 0.1.86"
_NGS_MEASURED = "measured with neuroglancer-scripts 1.2.0"
_ALL_MEASURED = "measured with tensorstore 0.1.86, cloud-volume 12.15.2 and neuroglancer-scripts 1.2.0"
SERVE = "show it with precomputed_fs.serve"
_REWRITE = "rewrite it with this package: create_volume(url, scale, ...) with flat=True, gzip=False"
WRITE_INFO = "correct it in `info`"
_UNLISTED = "denied, which is how a bucket that cannot be listed answers for absent chunks"
_KINDS = ("image", "segmentation", "unknown")
_SCRAMBLED = {"jpeg": (3,), "png": (2, 3, 4), "jxl": (3,)}


def make_rule(id_: str, severity: str, readers: Iterable[str] | str, looks_at: str, *rest: Any, **more: Any) -> Rule:  # noqa: ANN401
    """Make a rule; its other arguments are those of `Rule`, in order."""
    readers = (readers,) if isinstance(readers, str) else tuple(readers)
    return Rule(id_, severity, readers, looks_at, *rest, **more)


RULES: tuple[Rule, ...] = (
    # ------------------------------------------------------------------------------------------------ is it there
    make_rule(
        "info-absent", "error", READERS, "pyramid", checks.in_state("absent"),
        "there is no `info`: {}", "check the URL; `info` is written last, so a copy may be incomplete",
        f"{_SPECIFICATION}, info JSON file format",
    ),
    make_rule(
        "info-denied", "error", READERS, "pyramid", checks.in_state("denied"),
        "access to `info` is denied: {}", "give credentials (storage_options), or make it public",
        "RFC 9110, sections 15.5.2 and 15.5.4",
    ),
    make_rule(
        "info-unreachable", "error", READERS, "pyramid", checks.in_state("failed"),
        "`info` cannot be read: {}", "check the host, the network and the URL", "RFC 9110, section 15",
    ),
    make_rule(
        "info-damaged", "error", READERS, "pyramid", checks.in_state("damaged"),
        "`info` is damaged: {}", "write it again", f"{_SPECIFICATION}, info JSON file format",
    ),
    make_rule(
        "info-wrong", "error", OURS, "pyramid", checks.in_state("wrong"),
        "`info` is invalid: {}", "correct it; how other readers treat it is not known",
        f"{_SPECIFICATION}, info JSON file format", hides=True,
    ),
    make_rule(
        "took-too-long", "warning", READERS, "pyramid", lambda p: checks.when(p.is_late, f"{p.time_limit:g}"),
        "the examination was not complete within {} seconds", "give a larger time_limit, or fewer samples",
        "the limit of doctor()", hides=True,
    ),
    # ------------------------------------------------------------------------------------------- where it is, and how
    *(
        make_rule(
            "protocol", "note", reader, "pyramid", checks.unopened(reader),
            f"{reader} cannot open {{}}: the verdict is for the same files where it can",
            SERVE if reader == NG else "copy it to a folder, bucket or web server, or serve() it",
            f"{_NG_SOURCE}kvstore/" if reader == NG else _ALL_MEASURED,
        )
        for reader in _OTHERS
    ),
    make_rule(
        "not-served", "note", NG, "pyramid", lambda p: checks.when(p.protocol == "file"),
        "a browser opens no files: the verdict is for the same files on a plain web server", SERVE,
        f"{_NG_SOURCE}kvstore/",
    ),
    make_rule(
        "no-cors", "error", NG, "pyramid", checks.lacks_cors,
        "the server denies web pages of other origins: Access-Control-Allow-Origin is {}",
        f"configure CORS: any origin, GET and HEAD, header Range; or {SERVE}", "Fetch standard, CORS protocol",
    ),
    make_rule(
        "no-range", "error", _OTHERS, "pyramid",
        lambda p: checks.when(checks.ignores_range(p) and checks.is_sharded(p)),
        "the server ignores Range: only this package reads shards, small ones, as a whole",
        "enable range requests (206); do not compress on the fly",
        f"{_SHARDED_SPECIFICATION}; {_ALL_MEASURED}",
    ),
    make_rule(
        "no-range-unneeded", "note", READERS, "pyramid",
        lambda p: checks.when(checks.ignores_range(p) and not checks.is_sharded(p)),
        "the server ignores Range: no scale is sharded, but meshes may need it", "enable range requests (206)",
        _SHARDED_SPECIFICATION,
    ),
    make_rule(
        "private", "error", NG, "pyramid", checks.is_private,
        "it needs credentials ({}), which a web page does not have",
        f"make it public, or {SERVE}", f"{_NG_SOURCE}kvstore/s3/common.ts",
    ),
    make_rule(
        "private-credentials", "note", (CV, TS, NGS), "pyramid", checks.is_private,
        "it needs credentials ({})", "configure them for each reader", _ALL_MEASURED,
    ),
    make_rule(
        "mixed-content", "warning", NG, "pyramid", checks.is_mixed_content,
        "a page loaded over https:// may not read from http://", "serve it over https://",
        "W3C Mixed Content, section 4",
    ),
    # ------------------------------------------------------------------------------------------------------ info
    make_rule(
        "redirect", "error", (TS, NGS), "pyramid", lambda p: checks.when(p.redirected_to, p.redirected_to),
        "`info` redirects to {}", "open the target", _ALL_MEASURED,
    ),
    make_rule(
        "server-redirects", "error", TS, "pyramid", checks.is_moved,
        "the server redirects ({}), which is not followed", "open the target", TS_MEASURED,
    ),
    make_rule(
        "info-suffix", "error", (NG, TS), "pyramid", lambda p: checks.when(p.info_suffix, p.info_suffix),
        "`info` is stored as info{}, which is not looked for", "store it as info, uncompressed", TS_MEASURED,
    ),
    make_rule(
        "info-suffix", "error", CV, "pyramid",
        lambda p: checks.when(p.info_suffix and p.protocol != "file", p.info_suffix),
        "`info` is stored as info{}, which is not looked for here", "store it as info, uncompressed", CV_MEASURED,
    ),
    make_rule(
        "info-suffix", "error", NGS, "pyramid",
        lambda p: checks.when(p.info_suffix and (p.protocol, p.info_suffix) != ("file", ".gz"), p.info_suffix),
        "`info` is stored as info{}, which is not looked for here", "store it as info, uncompressed", _NGS_MEASURED,
    ),
    make_rule(
        "info-hidden-gzip", "error", _OTHERS, "pyramid", lambda p: checks.when(p.is_hidden_gzip),
        "`info` is gzip, but neither name nor header says so",
        "store it uncompressed, or with Content-Encoding: gzip", _ALL_MEASURED,
    ),
    make_rule(
        "info-bom", "error", (CV, NGS), "pyramid", lambda p: checks.when(p.text.startswith(BOM)),
        "`info` begins with a byte order mark", "remove it", f"RFC 8259, section 8.1; {_ALL_MEASURED}",
    ),
    make_rule(
        "type-missing", "error", (NG, CV, TS), "pyramid", lambda p: checks.when(p.given and "type" not in p.given),
        "type is missing", f'{WRITE_INFO}: "type": "image" or "segmentation"',
        f"{NG_FRONTEND}, parseMultiscaleVolumeInfo; {_ALL_MEASURED}",
    ),
    make_rule(
        "type-unknown", "error", NG, "pyramid",
        lambda p: checks.when("type" in p.given and p.kind not in _KINDS, shown(p.given["type"])),
        "type is {}, not image or segmentation", WRITE_INFO, f"{NG_FRONTEND}, parseMultiscaleVolumeInfo",
    ),
    make_rule(
        "kind-case", "error", (NG, TS), "pyramid",
        lambda p: checks.when(
            lowercase(p.given.get("@type")) == VOLUME_TYPE != p.given["@type"], shown(p.given["@type"])
        ),
        "@type is {}, and case counts", f"{WRITE_INFO}: {VOLUME_TYPE}", f"{NG_FRONTEND}; {TS_MEASURED}",
    ),
    make_rule(
        "kind-null", "error", (NG, TS), "pyramid", lambda p: checks.when(p.given.get("@type", "") is None),
        "@type is null", f"leave it out, or {WRITE_INFO}: {VOLUME_TYPE}",
        f"measured with Neuroglancer 2.41.2; {TS_MEASURED}",
    ),
    make_rule(
        "data-type", "error", (NG, TS), "pyramid",
        lambda p: checks.when(p.given and p.data_type in ("int64", "float64"), p.data_type),
        "{} is not supported", f"convert it to another type; {SERVE}, converted",
        f"{_NG_SOURCE}util/data_type.ts; {TS_MEASURED}",
    ),
    make_rule(
        "data-type", "error", NGS, "pyramid",
        lambda p: checks.when(p.given and p.data_type not in (*UNSIGNED, "float32"), shown(p.data_type)),
        "{} is not supported", "convert it to an unsigned type or float32", _NGS_MEASURED,
    ),
    make_rule(
        "data-type-case", "error", (CV, TS, NGS), "pyramid", lambda p: checks.other_case(p.given.get("data_type")),
        "data_type is {}, and case counts", "write it in lower case", f"{_SPECIFICATION}; {_ALL_MEASURED}",
    ),
    make_rule(
        "channels-float", "error", NGS, "pyramid",
        lambda p: checks.when(isinstance(p.given.get("num_channels"), float), p.given.get("num_channels")),
        "num_channels is {}, not an integer", WRITE_INFO, _NGS_MEASURED,
    ),
    make_rule(
        "segmentation-channels", "warning", NG, "pyramid",
        lambda p: checks.when(p.kind == "segmentation" and p.channels != 1, p.channels),
        "a segmentation has 1 channel, not {}", 'store each channel by itself, or use "type": "image"',
        f"{_SPECIFICATION}, num_channels",
    ),
    make_rule(
        "segmentation-float", "warning", NG, "pyramid",
        lambda p: checks.when(p.kind == "segmentation" and p.data_type == "float32"),
        "segment ids cannot be float32", 'use "type": "image"', f"{_SPECIFICATION}, data_type",
    ),
    make_rule(
        "resolution-order", "warning", _OTHERS, "pyramid", checks.resolution_falls,
        "scales are not ordered from fine to coarse: {}", "sort them by resolution", f"{_SPECIFICATION}, resolution",
    ),
    # ------------------------------------------------------------------------------------------- a scale, by its info
    *(
        make_rule(
            "encoding-unknown", "error", reader, "scale", checks.unknown_encoding(reader),
            f"{reader} does not know the encoding {{}}", SERVE if reader == NG else "transcode it, for example to raw",
            f"{_NG_SOURCE}datasource/precomputed/base.ts" if reader == NG else _ALL_MEASURED,
            closes_all=reader in (NG, TS, NGS),
        )
        for reader in READERS
    ),
    *(
        make_rule(
            "encoding-unread", "error", reader, "scale", checks.undecodable(reader),
            f"{reader} cannot decode {{}}",
            f"transcode it, for example to raw; {SERVE}" if reader == NG else "transcode it",
            f"{_NG_SOURCE}sliceview/backend_chunk_decoders/" if reader == NG else _ALL_MEASURED,
            closes_all=reader in (TS, NGS),
        )
        for reader in _OTHERS
    ),
    make_rule(
        "channels-scrambled", "error", CV, "scale",
        lambda s: checks.when(
            s.pyramid.channels in _SCRAMBLED.get(s.encoding, ()), f"{s.encoding} of {s.pyramid.channels}"
        ),
        "the voxels of {} channels are scrambled", "transcode it to raw, or read it with this package",
        CV_MEASURED,
    ),
    make_rule(
        "encoding-case", "error", CV, "scale", lambda s: checks.other_case(s.given.get("encoding")),
        "encoding is {}, and case counts", "write it in lower case", CV_MEASURED,
    ),
    make_rule(
        "encoding-case", "error", (TS, NGS), "scale", lambda s: checks.other_case(s.given.get("encoding")),
        "encoding is {}, and case counts", "write it in lower case", _ALL_MEASURED, closes_all=True,
    ),
    make_rule(
        "block-size", "error", (OURS, NG), "scale", checks.lacks_block_size,
        f"{CSEG_BLOCK} is missing, or not 3 integers", WRITE_INFO, f"{_SPECIFICATION}; {NG_FRONTEND}",
    ),
    make_rule(
        "block-size", "error", (TS, NGS), "scale", checks.lacks_block_size,
        f"{CSEG_BLOCK} is missing, or not 3 integers", WRITE_INFO, f"{_SPECIFICATION}; {_ALL_MEASURED}",
        closes_all=True,
    ),
    make_rule(
        "block-shape", "error", NGS, "scale",
        lambda s: checks.when(s.encoding == CSEG and len(set(checks.block_size(s) or ())) > 1, checks.block_size(s)),
        "blocks of {} are not cubes: x and z are confused where one is clipped", "encode it with cubes", _NGS_MEASURED,
    ),
    make_rule(
        "foreign-keys", "error", TS, "scale", checks.foreign_keys,
        "these do not belong to the encoding, or are out of range: {}", "leave them out of `info`", TS_MEASURED,
        closes_all=True,
    ),
    make_rule(
        "floats", "error", (CV, NGS), "scale", checks.floats,
        "size or chunk_sizes has {}, which is not an integer", "write integers", _ALL_MEASURED,
    ),
    make_rule(
        "offset-null", "error", (CV, NGS), "scale", lambda s: checks.when(s.given.get("voxel_offset", 0) is None),
        "voxel_offset is null", "write [0, 0, 0]", _ALL_MEASURED,
    ),
    make_rule(
        "offset-null", "error", (NG, TS), "scale", lambda s: checks.when(s.given.get("voxel_offset", 0) is None),
        "voxel_offset is null", "write [0, 0, 0]", f"{NG_FRONTEND}, ScaleInfo; {TS_MEASURED}", closes_all=True,
    ),
    make_rule(
        "offset-missing", "error", NGS, "scale", lambda s: checks.when("voxel_offset" not in s.given),
        "voxel_offset is missing", "write [0, 0, 0]", _NGS_MEASURED,
    ),
    make_rule(
        "offset", "error", NGS, "scale", lambda s: checks.when(any(s.given["voxel_offset"]), s.given["voxel_offset"]),
        "voxel_offset is {}, and only zeros are supported", "read it with this package", _NGS_MEASURED,
    ),
    make_rule(
        "sharding-null", "error", NG, "scale", lambda s: checks.when(s.given.get("sharding", 0) is None),
        "sharding is null", "leave it out", f"{NG_FRONTEND}, parseShardingParameters", closes_all=True,
    ),
    make_rule(
        "hidden-null", "error", NG, "scale", lambda s: checks.when(s.given.get("hidden", 0) is None),
        "hidden is null", "leave it out", f"{_NG_SOURCE}util/json.ts, verifyOptionalBoolean", closes_all=True,
    ),
    make_rule(
        "key-segments", "error", TS, "scale", checks.empty_segments,
        "the key {} has an empty segment, or a dot", "write it without", TS_MEASURED,
    ),
    make_rule(
        "key-percent", "error", (CV, NGS), "scale",
        lambda s: checks.when(s.pyramid.protocol == "http" and "%" in s.key, shown(s.key)),
        "the key {} contains a %, which is not quoted in URLs", "rename it", _ALL_MEASURED,
    ),
    make_rule(
        "beyond-int32", "error", CV, "scale", checks.beyond_int32,
        "the coordinate {} does not fit in 32 bits", "read it with this package or tensorstore", CV_MEASURED,
    ),
    make_rule(
        "float32-names", "error", NG, "scale", checks.rounded_chunk,
        "coordinates are computed in float32, which cannot hold {}: wrong chunk names are requested",
        "choose a voxel_offset and chunk sizes that are multiples of a power of two, or use shards",
        f"{_NG_SOURCE}sliceview/volume/backend.ts, computeChunkBounds",
    ),
    make_rule(
        "float32", "warning", NG, "scale", checks.imprecise,
        "positions are rounded: float32 cannot hold every integer beyond 2^24, and coordinates reach {}",
        "choose a smaller voxel_offset",
        f"{NG_FRONTEND}, ScaleInfo",
    ),
    make_rule(
        "texture", "error", NG, "scale", checks.too_large_texture,
        f"chunks of {{}} are larger than the textures of most GPUs, {CHUNK_TEXTURE} a side",
        f"store smaller chunks; {SERVE}",
        f"{_NG_SOURCE}sliceview/uncompressed_chunk_format.ts; WebGL 2, MAX_3D_TEXTURE_SIZE",
    ),
    make_rule(
        "huge-chunks", "warning", READERS, "scale",
        lambda s: checks.when(s.bytes_of_chunk > LARGEST_CHUNK, s.bytes_of_chunk),
        "a chunk decodes to {} bytes: none was examined", "store smaller chunks", "the limit of doctor()", hides=True,
    ),
    make_rule(
        "several-chunk-sizes", "note", READERS, "scale",
        lambda s: checks.when(len(s.given["chunk_sizes"]) > 1, s.given["chunk_sizes"]),
        "of chunk_sizes {}, only the first was examined", "store one, unless views need more",
        f"{_SPECIFICATION}, chunk_sizes",
    ),
    # ----------------------------------------------------------------------------------------------------- shards
    make_rule(
        "sharding-case", "error", (CV, NGS), "scale", checks.sharding_case,
        "sharding has {}, and case counts", "write it in lower case", _ALL_MEASURED,
    ),
    make_rule(
        "sharding-case", "error", TS, "scale", checks.sharding_case,
        "sharding has {}, and case counts", "write it in lower case", TS_MEASURED, closes_all=True,
    ),
    make_rule(
        "sharding-keys", "error", (CV, NGS), "scale", checks.sharding_extra,
        "sharding has unknown members: {}", "leave them out", _ALL_MEASURED,
    ),
    make_rule(
        "sharding-keys", "error", TS, "scale", checks.sharding_extra,
        "sharding has unknown members: {}", "leave them out", TS_MEASURED, closes_all=True,
    ),
    make_rule(
        "shards-over-http", "error", NGS, "scale",
        lambda s: checks.when(s.sharding is not None and s.pyramid.protocol == "http"),
        "shards are read from files only", "read it with this package", _NGS_MEASURED,
    ),
    make_rule(
        "shards-mixed", "error", NGS, "scale", checks.mixed_shards,
        "shards are read only if all scales are sharded", "shard all scales, or none", _NGS_MEASURED,
    ),
    make_rule(
        "shards-hash", "error", NGS, "scale",
        lambda s: checks.when(s.sharding is not None and s.sharding.hash != "identity", s.sharding and s.sharding.hash),
        "the hash {} is not supported", "read it with this package", _NGS_MEASURED,
    ),
    make_rule(
        "shards-cubes", "error", NGS, "scale",
        lambda s: checks.when(s.sharding is not None and len(set(s.grid.chunk_size)) > 1, s.grid.chunk_size),
        "chunks of {} are not cubes, as chunks in shards must be", "read it with this package", _NGS_MEASURED,
    ),
    make_rule(
        "shards-gzip", "error", NGS, "scale",
        lambda s: s.having(lambda sample: sample.is_gzip) or checks.when(s.has_gzip_index, "the index"),
        "gzip in shards is read as zlib: {}", "read it with this package", _NGS_MEASURED,
    ),
    make_rule(
        "shards-zlib", "error", (NG, CV, TS), "scale",
        lambda s: s.having(lambda sample: sample.is_zlib) or checks.when(s.has_zlib_index, "the index"),
        "zlib where sharding says gzip: {}", "write the shards again, for example with this package",
        f"{_SHARDED_SPECIFICATION}, data_encoding; {_ALL_MEASURED}; {_NG_SOURCE}datasource/precomputed/sharded.ts",
    ),
    make_rule(
        "shards-empty-minishard", "error", NGS, "scale", lambda s: checks.when(s.has_empty_minishards),
        "a shard has an empty minishard, and cannot be opened", "read it with this package", _NGS_MEASURED,
    ),
    make_rule(
        "shards-legacy", "error", (NG, CV, TS), "scale",
        lambda s: s.having(lambda sample: sample.name.endswith(".data") and s.sharding is not None),
        "the older pair of .index and .data instead of a shard: {}", "join each pair to one .shard",
        f"{_SHARDED_SPECIFICATION}; {_ALL_MEASURED}",
    ),
    # ----------------------------------------------------------------------------------------------------- chunks
    *(
        make_rule(
            "suffix", "error", reader, "scale", checks.with_suffix(reader),
            "compressed under a name that is not looked for: {}",
            f"store it under the plain name with Content-Encoding, use nginx with gzip_static, or {SERVE}"
            if reader == NG
            else "store it uncompressed (gzip=False), or in a bucket with Content-Encoding",
            f"{_NG_BACKEND}, PrecomputedVolumeChunkSource" if reader == NG else _ALL_MEASURED,
        )
        for reader in _OTHERS
    ),
    make_rule(
        "sub-directories", "error", (NG, CV, TS), "scale", lambda s: s.having(lambda sample: not sample.is_flat),
        "in sub-directories, as neuroglancer-scripts writes them: {}", f"{_REWRITE}; {SERVE}",
        f"{_SPECIFICATION}, unsharded chunk storage; {_ALL_MEASURED}; {_NG_BACKEND}",
    ),
    make_rule(
        "sub-directories", "error", NGS, "scale",
        lambda s: s.having(lambda sample: not sample.is_flat and s.pyramid.protocol != "file"),
        "in sub-directories, which are read on disk only: {}", _REWRITE, _NGS_MEASURED,
    ),
    make_rule(
        "hidden-gzip", "error", _OTHERS, "scale", lambda s: s.having(lambda sample: sample.is_hidden_gzip),
        "gzip, but neither name nor header says so: {}",
        "set Content-Encoding: gzip on them, or store them uncompressed",
        f"{_ALL_MEASURED}; {_NG_BACKEND}",
    ),
    make_rule(
        "content-encoding", "error", (NG, TS), "scale", checks.encoded_as("xz", "bz2", "bzip2", "lzma"),
        "Content-Encoding {} is not defined for HTTP", "compress with gzip",
        f"{TS_MEASURED}; IANA HTTP Content Coding Registry",
    ),
    make_rule(
        "content-encoding", "error", NGS, "scale", checks.encoded_as("xz", "bz2", "bzip2", "lzma", "zstd"),
        "Content-Encoding {} is not decoded", "compress with gzip", _NGS_MEASURED,
    ),
    make_rule(
        "content-encoding-new", "warning", NG, "scale", checks.encoded_as("br", "zstd"),
        "Content-Encoding {} works over https:// only, in browsers that know it", "compress with gzip",
        "RFC 7932, RFC 8878; support differs between browsers",
    ),
    make_rule(
        "content-encoding-new", "warning", NGS, "scale", checks.encoded_as("br"),
        "Content-Encoding {} needs the package brotli", "pip install brotli", _NGS_MEASURED,
    ),
    make_rule(
        "progressive-jpeg", "error", NG, "scale", lambda s: s.having(lambda sample: sample.is_progressive),
        "progressive JPEG, decoded wrongly by tens of grey levels: {}", f"encode it as baseline; {SERVE}",
        "measured with Neuroglancer 2.41.2, src/third_party/jpgjs",
    ),
    make_rule(
        "chunks-absent", "error", CV, "scale", checks.chunks("absent"),
        "absent chunks raise: {}", "open it with fill_missing=True, if absent means zeros", CV_MEASURED,
    ),
    make_rule(
        "chunks-absent", "error", NGS, "scale", checks.chunks("absent"),
        "absent chunks raise: {}", "store them, or read it with this package", _NGS_MEASURED,
    ),
    make_rule(
        "chunks-absent", "note", (OURS, NG, TS), "scale", checks.chunks("absent"),
        "absent chunks are zeros, or nothing: {}", "check that everything was written", TS_MEASURED,
    ),
    make_rule(
        "scale-empty", "warning", READERS, "scale", checks.all_absent,
        "none of {} chunks is there", "check that this scale was uploaded, and that the key is right",
        f"{_SPECIFICATION}, unsharded chunk storage",
    ),
    make_rule(
        "chunks-denied", "error", (TS, NGS), "scale", checks.unlisted(),
        f"{_UNLISTED}, which is an error here: {{}}", "let readers list the bucket, or store all chunks", _ALL_MEASURED,
    ),
    make_rule(
        "chunks-denied", "error", CV, "scale", checks.unlisted(),
        f"{_UNLISTED}, and raises: {{}}", "open it over https:// with fill_missing=True, if absent means zeros",
        f"{CV_MEASURED}; cloud-files, interfaces.py",
    ),
    make_rule(
        "chunks-denied", "error", OURS, "scale", checks.unlisted(lambda pyramid: not pyramid.denied_is_missing),
        f"{_UNLISTED}: {{}}", "open it with denied_is_missing=True, if absent means zeros",
        "Amazon S3 API, GetObject, permissions",
    ),
    make_rule(
        "chunks-denied", "note", OURS, "scale", checks.unlisted(lambda pyramid: pyramid.denied_is_missing),
        f"{_UNLISTED}, and treated as absent: {{}}", "check that everything was written",
        "Amazon S3 API, GetObject, permissions",
    ),
    make_rule(
        "chunks-denied", "note", NG, "scale", checks.unlisted(),
        f"{_UNLISTED}, and treated as absent: {{}}", "check that everything was written",
        f"{_NG_SOURCE}util/http_request.ts, isNotFoundError",
    ),
    make_rule(
        "chunks-failed", "error", READERS, "scale", checks.chunks("failed", "denied"),
        "cannot be read: {}", "see the server's message, and try again", "RFC 9110, section 15",
    ),
    make_rule(
        "chunks-damaged", "error", READERS, "scale", checks.chunks("damaged"),
        "damaged: {}", "write them again", f"{_SPECIFICATION}, chunk encoding; {_ALL_MEASURED}",
    ),
    make_rule(
        "library", "error", OURS, "scale", checks.chunks("undecodable"),
        "a library is missing: {}", "pip install 'precomputed-fs[codecs]'", "the table of precomputed_fs.codecs",
    ),
    make_rule(
        "scale-wrong", "error", OURS, "scale", checks.unopenable,
        "it cannot be opened: {}", "correct `info`", f"{_SPECIFICATION}, info JSON file format", hides=True,
    ),
)  # fmt: skip
"""The rules, in the order of the report."""
