"""What keeps a reader from a pyramid: one table of rules, each with what it means to whom, and whence that is known.

A rule looks at a pyramid, or at one of its scales, as `SeenPyramid` and `SeenScale` have it: what was seen, and nothing
of how. `precomputed_fs.doctor.examine` is what looks, and says which rules have found something.
"""

import http
import itertools
import struct
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from precomputed_fs.codecs import ENCODINGS
from precomputed_fs.errors import shown
from precomputed_fs.format.grid import ChunkCoords, ChunkGrid, chunk_name
from precomputed_fs.format.info import ScaleInfo, lowercase
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.store.location import Location
from precomputed_fs.store.protocols import protocol_of

READERS = ("precomputed_fs", "neuroglancer", "cloud-volume", "tensorstore", "neuroglancer-scripts")
"""Who is judged, by the names that the report knows them by."""

PAGE_ORIGIN = "https://neuroglancer-demo.appspot.com"
"""Where web pages are from that read a pyramid."""

LARGEST_CHUNK = 1 << 30
"""Bytes of a chunk, decoded, beyond which it is not looked at."""

_CHUNK_TEXTURE, _PLANE_TEXTURE = 2048, 16384  # texels of a side, in three and two dimensions, that usual GPUs take
_EXACT = 1 << 24  # integers up to which float32 has them all
_INT32 = 1 << 31
_VOLUME_TYPE = "neuroglancer_multiscale_volume"
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_MOVED = (301, 302, 303, 307, 308)  # RFC 9110, section 15.4
_BOM = b"\xef\xbb\xbf"


# ------------------------------------------------------------------------------------------------------- what was seen


@dataclass(frozen=True, slots=True)
class Sample:
    """A chunk, as it was found or not."""

    coords: ChunkCoords
    state: str
    """"found", "absent", "unlisted" (403, which may be for what is absent), "denied", "damaged", "failed", or
    "undecodable" for want of a library."""

    said: str = ""
    """The error's message."""

    name: str = ""
    suffix: str = ""
    is_flat: bool = True
    content_encoding: str = ""
    is_hidden_gzip: bool = False
    """Whether it is gzip without anything that says so."""

    is_zlib: bool = False
    is_gzip: bool = False
    """What the bytes are, of a chunk in a shard."""

    is_progressive: bool = False


@dataclass(slots=True)
class SeenScale:
    """One scale, as `info` has it and as its chunks are."""

    pyramid: "SeenPyramid"
    index: int
    given: Mapping[str, Any]
    info: "ScaleInfo | None" = None
    samples: Sequence[Sample] = ()
    has_empty_minishards: bool = False
    has_zlib_index: bool = False
    has_gzip_index: bool = False
    wrong: str = ""
    """What is wrong with it, to this package."""

    bytes_of_chunk: int = 0

    @property
    def key(self) -> str:
        """Its key; where it has none, its place in `info`."""
        key = self.given.get("key")
        return key if isinstance(key, str) else f"scales[{self.index}]"

    @property
    def encoding(self) -> str:
        """How its chunks are encoded, in lower case."""
        return lowercase(self.given.get("encoding"))

    @property
    def sharding(self) -> Sharding | None:
        """How it is sharded; None also where `info` cannot be."""
        return None if self.info is None else self.info.sharding

    @property
    def grid(self) -> ChunkGrid:
        """Where its chunks are; a ValueError where `info` cannot be."""
        if self.info is None:
            raise ValueError(self.key)
        return self.info.grid

    def having(self, is_so: Callable[[Sample], object]) -> str | None:
        """Name a chunk of which something is so, and count them."""
        found = [sample for sample in self.samples if is_so(sample)]
        if not found:
            return None
        return f"{len(found)} of {len(self.samples)} chunks, such as {found[0].name or chunk_name(found[0].coords)}"


@dataclass(slots=True)
class Server:
    """What a server answers to a web page that asks for the first byte of `info`."""

    status: int = 0
    allowed_origin: str = ""
    is_anonymous: bool = True
    said: str = ""


@dataclass(slots=True)
class SeenPyramid:
    """A pyramid, as far as it was seen."""

    location: Location
    time_limit: float
    denied_is_missing: bool = False
    """Whether this package was told to take a 403 for absence."""

    text: bytes = b""
    info_suffix: str = ""
    is_hidden_gzip: bool = False
    redirected_to: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    scales: Sequence[SeenScale] = ()
    server: Server | None = None
    is_late: bool = False
    state: str = "unseen"
    """"found", or why `info` was not: "absent", "denied", "damaged", "failed"; "wrong", if it says what cannot be."""

    said: str = ""

    @property
    def protocol(self) -> str:
        """How it is reached: "file", "http", "s3", "gs", or another protocol; a cache in front does not count."""
        link = self.location.links[0]
        if len(self.location.links) > 1 and protocol_of(link.protocol).keeps_copies:
            link = self.location.links[1]
        return _PROTOCOLS.get(link.protocol, link.protocol)

    @property
    def kind(self) -> str:
        """Its ``type``, in lower case."""
        return lowercase(self.given.get("type"))

    @property
    def data_type(self) -> str:
        """Its ``data_type``, in lower case."""
        return lowercase(self.given.get("data_type"))

    @property
    def channels(self) -> int:
        """How many channels there are; 0 where `info` does not say."""
        channels = self.given.get("num_channels")
        return int(channels) if isinstance(channels, int | float) else 0


_PROTOCOLS = {"local": "file", "https": "http", "s3a": "s3", "gcs": "gs"}


# ----------------------------------------------------------------------------------------------------------- the rules


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that may be so, and what it means to whom."""

    id: str

    severity: str
    """"error": these readers fail, or get other voxels than are stored. "warning": they may. "note": good to know."""

    readers: tuple[str, ...]
    """Whom it concerns, of `READERS`."""

    looks_at: str
    """"pyramid" or "scale"."""

    finds: Callable[[Any], str | None]
    """What was found, for the message; None for nothing."""

    message: str
    """With ``{}`` for what was found."""

    advice: str

    source: str
    """Whence it is known: the specification, a reader's source, or the version that it was measured with."""

    closes_all: bool = False
    """Whether one scale of which it is so keeps these readers from all of the pyramid."""

    hides: bool = False
    """Whether chunks are not looked at where it is so, and what keeps readers from them is not known."""


OURS, NG, CV, TS, NGS = READERS
_OTHERS = (NG, CV, TS, NGS)
_SPECIFICATION = "specification, volume.rst"
_SHARDED_SPECIFICATION = "specification, sharded.rst"
_NG_SOURCE = "Neuroglancer 2.41.2, src/"
_NG_FRONTEND = f"{_NG_SOURCE}datasource/precomputed/frontend.ts"
_NG_BACKEND = f"{_NG_SOURCE}datasource/precomputed/backend.ts"
_CV_MEASURED = "measured with cloud-volume 12.15.2"
_TS_MEASURED = "measured with tensorstore 0.1.86"
_NGS_MEASURED = "measured with neuroglancer-scripts 1.2.0"
_ALL_MEASURED = "measured with tensorstore 0.1.86, cloud-volume 12.15.2 and neuroglancer-scripts 1.2.0"
_SERVE = "show it with precomputed_fs.serve"
_REWRITE = "store it anew: create_volume(url, scale, ...) of this package with flat=True, gzip=False"
_WRITE_INFO = "write it so into `info`"

_UNLISTED = "denied, as a bucket that may be read but not listed answers for absent chunks"

_KINDS = ("image", "segmentation", "unknown")
_UNSIGNED = ("uint8", "uint16", "uint32", "uint64")
_NG_TYPES = (*_UNSIGNED, "int8", "int16", "int32", "float32")
_CSEG, _CSEG_BLOCK = "compressed_segmentation", "compressed_segmentation_block_size"
_ONE, _ANY = (1,), range(1, 1 << 31)

_ENCODINGS_OF: Mapping[str, Mapping[str, Sequence[tuple[Sequence[str], Sequence[int]]]]] = {
    NG: {
        "raw": [(_NG_TYPES, _ANY)],
        "jpeg": [(("uint8",), (1, 3))],
        "png": [(("uint8",), (1, 2, 3, 4)), (("uint16",), _ONE)],
        "jxl": [(("uint8",), _ONE)],
        _CSEG: [(("uint32", "uint64"), _ANY)],
        "compresso": [(_UNSIGNED, _ONE)],
    },
    CV: {
        "png": [(("uint8",), (1, 2, 3, 4)), (("uint16",), (2, 4))],
    },
    TS: {
        "raw": [(_NG_TYPES, _ANY)],
        "jpeg": [(("uint8",), (1, 3))],
        "png": [(("uint8", "uint16"), (1, 2, 3, 4))],
        _CSEG: [(("uint32", "uint64"), _ANY)],
    },
    NGS: {
        "raw": [((*_UNSIGNED, "float32"), _ANY)],
        "jpeg": [(("uint8",), (1, 3))],
        _CSEG: [(("uint32", "uint64"), _ANY)],
    },
}
"""The data types, with numbers of channels, that each reader decodes in each encoding. Of cloud-volume, which knows all
encodings, those that it knows only in part."""

_SCRAMBLED = {"jpeg": (3,), "png": (2, 3, 4), "jxl": (3,)}
_FOREIGN_TO_TS = {"jpeg_quality": ("jpeg", 100), "png_level": ("png", 9)}
_SHARDING_KEYS = {
    "@type",
    "preshift_bits",
    "hash",
    "minishard_bits",
    "shard_bits",
    "minishard_index_encoding",
    "data_encoding",
}
_OPENED = {
    NG: ("http", "s3", "gs"),
    CV: ("file", "http", "s3", "gs"),
    TS: ("file", "http", "s3", "gs"),
    NGS: ("file", "http"),
}


def _unopened(reader: str) -> Callable[[SeenPyramid], str | None]:
    def finds(pyramid: SeenPyramid) -> str | None:
        is_served = reader == NG and pyramid.protocol == "file"
        return None if is_served or pyramid.protocol in _OPENED[reader] else f"{pyramid.protocol}://"

    return finds


def _unknown_encoding(reader: str) -> Callable[[SeenScale], str | None]:
    def finds(scale: SeenScale) -> str | None:
        known = ENCODINGS if reader in (OURS, CV) else _ENCODINGS_OF[reader]
        return None if scale.encoding in known else shown(scale.given.get("encoding"))

    return finds


def _undecodable(reader: str) -> Callable[[SeenScale], str | None]:
    def finds(scale: SeenScale) -> str | None:
        data_type, channels = scale.pyramid.data_type, scale.pyramid.channels
        kinds = _ENCODINGS_OF[reader].get(scale.encoding)
        if kinds is None or any(data_type in types and channels in counts for types, counts in kinds):
            return None
        return f"{scale.encoding} of {channels} x {shown(data_type)}"

    return finds


def _found(is_so: object, what: object = "") -> str | None:
    return str(what) if is_so else None


def _in_state(*states: str) -> Callable[[SeenPyramid], str | None]:
    return lambda pyramid: _found(pyramid.state in states, pyramid.said)


def _with_suffix(reader: str) -> Callable[[SeenScale], str | None]:
    """Find chunks under names that a reader does not look for."""
    looked_for = {CV: (".gz", ".br", ".zstd", ".xz", ".bz2"), NGS: (".gz",)}.get(reader, ())

    def finds(scale: SeenScale) -> str | None:
        known = looked_for if scale.pyramid.protocol == "file" else ()
        return scale.having(lambda sample: sample.suffix and sample.suffix not in known)

    return finds


def _encoded_as(*encodings: str) -> Callable[[SeenScale], str | None]:
    def finds(scale: SeenScale) -> str | None:
        said = {sample.content_encoding for sample in scale.samples} & set(encodings)
        return _found(said, ", ".join(sorted(said)))

    return finds


def _chunks(*states: str) -> Callable[[SeenScale], str | None]:
    def finds(scale: SeenScale) -> str | None:
        found = scale.having(lambda sample: sample.state in states)
        said = next((sample.said for sample in scale.samples if sample.state in states), "")
        return found and f"{found}: {said}"

    return finds


def _unlisted(is_so: Callable[[SeenPyramid], bool] = lambda _: True) -> Callable[[SeenScale], str | None]:
    def finds(scale: SeenScale) -> str | None:
        return scale.having(lambda sample: sample.state == "unlisted" and is_so(scale.pyramid))

    return finds


def _all_absent(scale: SeenScale) -> str | None:
    return _found(scale.samples and all(sample.state == "absent" for sample in scale.samples), len(scale.samples))


def _other_case(value: object) -> str | None:
    return _found(isinstance(value, str) and value != value.lower(), shown(value))


def _sharding_case(scale: SeenScale) -> str | None:
    given = scale.given.get("sharding") or {}
    values = (given.get(name) for name in ("hash", "minishard_index_encoding", "data_encoding"))
    return next(filter(None, map(_other_case, values)), None)


def _sharding_extra(scale: SeenScale) -> str | None:
    extra = sorted((scale.given.get("sharding") or {}).keys() - _SHARDING_KEYS)
    return _found(extra, ", ".join(map(shown, extra)))


def _foreign_keys(scale: SeenScale) -> str | None:
    """Find what tensorstore takes for a mistake: keys of another encoding, and values out of their range."""
    given = scale.given
    wrong = [
        name
        for name, (encoding, most) in _FOREIGN_TO_TS.items()
        if name in given and (scale.encoding != encoding or not _is_whole(given[name], 0, most))
    ]
    if _CSEG_BLOCK in given and scale.encoding != _CSEG:
        wrong.append(_CSEG_BLOCK)
    return _found(wrong, ", ".join(wrong))


def _is_whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int | float) and least <= value <= most and float(value).is_integer()


def _floats(scale: SeenScale) -> str | None:
    values = [*scale.given["size"], *itertools.chain(*scale.given["chunk_sizes"])]
    floats = [value for value in values if isinstance(value, float)]
    return _found(floats, floats[0] if floats else "")


def _block_size(scale: SeenScale) -> Sequence[Any] | None:
    size = scale.given.get(_CSEG_BLOCK)
    is_one = isinstance(size, list) and len(size) == 3 and all(_is_whole(side, 1, _INT32) for side in size)  # noqa: PLR2004
    return size if is_one else None


def _lacks_block_size(scale: SeenScale) -> str | None:
    return _found(scale.encoding == _CSEG and _block_size(scale) is None)


def _unopenable(scale: SeenScale) -> str | None:
    """Find what is wrong with a scale, unless another rule says it."""
    is_known = scale.encoding not in ENCODINGS or _lacks_block_size(scale) is not None
    return _found(scale.wrong and not is_known, scale.wrong)


def _resolution_falls(pyramid: SeenPyramid) -> str | None:
    for finer, coarser in itertools.pairwise(pyramid.scales):
        if any(map(float.__gt__, map(float, finer.given["resolution"]), map(float, coarser.given["resolution"]))):
            return f"{coarser.key} after {finer.key}"
    return None


def _beyond(scale: SeenScale, limit: int) -> str | None:
    bounds = scale.grid.bounds
    extremes = [*bounds.start, *bounds.stop, *scale.grid.size]
    far = [value for value in extremes if not -limit <= value <= limit]
    return _found(far, max(far, key=abs, default=0))


def _beyond_int32(scale: SeenScale) -> str | None:
    return _beyond(scale, _INT32 - 1)


def _imprecise(scale: SeenScale) -> str | None:
    return _beyond(scale, _EXACT) if scale.sharding is not None or _rounded_chunk(scale) is None else None


def _rounded_chunk(scale: SeenScale) -> str | None:
    """Find a chunk of which float32 does not hold the coordinates, so that its name is another one."""
    if scale.sharding is not None:
        return None
    grid = scale.grid
    for axis, size in enumerate(grid.size):
        offset, step, count = grid.voxel_offset[axis], grid.chunk_size[axis], grid.shape[axis]
        ends = (0, 1, count // 2, count - 2, count - 1)  # numbers of one parity fail together, or the largest do
        begins = {index * step for index in ends if 0 <= index < count}
        held = (offset, size, *begins, *(offset + begin for begin in begins))
        wrong = next((value for value in held if _float32(value) != value), None)
        if wrong is not None:
            return f"{wrong} along {'xyz'[axis]}"
    return None


def _float32(value: int) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def _too_large_texture(scale: SeenScale) -> str | None:
    """Lay a chunk out as the client does: along each side of a texture, as many axes as fit."""
    is_labels = scale.pyramid.kind == "segmentation" and scale.pyramid.data_type in ("uint32", "uint64")
    if scale.encoding == _CSEG or is_labels:
        return None  # such are compressed, and laid out otherwise
    shape = [*map(min, scale.grid.chunk_size, scale.grid.size), scale.pyramid.channels]
    shape = [size for size in shape if size > 1]
    dimensions = 3 if len(shape) > 2 else 2  # noqa: PLR2004
    most = _CHUNK_TEXTURE if dimensions > 2 else _PLANE_TEXTURE  # noqa: PLR2004
    sides = [1]
    for size in shape:
        if size * sides[-1] > most or (sides[-1] != 1 and len(sides) - 1 + len(shape) < dimensions):
            sides.append(size)
        else:
            sides[-1] *= size
    too_large = len(sides) > dimensions or max(sides) > most
    return _found(too_large, " x ".join(map(str, shape)))


def _mixed_shards(scale: SeenScale) -> str | None:
    others = (other.given.get("sharding") for other in scale.pyramid.scales)
    return _found(scale.sharding is not None and not all(others))


def _is_sharded(pyramid: SeenPyramid) -> bool:
    return any(scale.sharding is not None for scale in pyramid.scales)


def _lacks_cors(pyramid: SeenPyramid) -> str | None:
    server = pyramid.server
    if server is None or server.status not in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
        return None
    return _found(server.allowed_origin not in ("*", PAGE_ORIGIN), shown(server.allowed_origin))


def _ignores_range(pyramid: SeenPyramid) -> bool:
    return pyramid.server is not None and pyramid.server.status == http.HTTPStatus.OK


def _is_moved(pyramid: SeenPyramid) -> str | None:
    server = pyramid.server
    return _found(pyramid.protocol == "http" and server and server.status in _MOVED, server and server.status)


def _is_private(pyramid: SeenPyramid) -> str | None:
    is_private = pyramid.server is not None and not pyramid.server.is_anonymous and pyramid.state == "found"
    return _found(is_private, pyramid.server and f"{pyramid.server.status} {pyramid.server.said}")


def _is_mixed_content(pyramid: SeenPyramid) -> str | None:
    parts = urllib.parse.urlsplit(pyramid.location.links[0].url)
    return _found(parts.scheme == "http" and (parts.hostname or "") not in _LOOPBACK)


def _empty_segments(scale: SeenScale) -> str | None:
    parts = scale.key.split("/")
    return _found(scale.pyramid.protocol != "http" and {"", "."} & set(parts), shown(scale.key))


def _rule(id_: str, severity: str, readers: Iterable[str] | str, looks_at: str, *rest: Any, **more: Any) -> Rule:  # noqa: ANN401
    readers = (readers,) if isinstance(readers, str) else tuple(readers)
    return Rule(id_, severity, readers, looks_at, *rest, **more)


RULES: tuple[Rule, ...] = (
    # ------------------------------------------------------------------------------------------------ is it there
    _rule(
        "info-absent", "error", READERS, "pyramid", _in_state("absent"),
        "there is no `info`: {}", "check the URL; an `info` is written last, so a copy may not be complete",
        f"{_SPECIFICATION}, info JSON file format",
    ),
    _rule(
        "info-denied", "error", READERS, "pyramid", _in_state("denied"),
        "`info` may not be read: {}", "give credentials (storage_options), or let everybody read it",
        "RFC 9110, sections 15.5.2 and 15.5.4",
    ),
    _rule(
        "info-unreachable", "error", READERS, "pyramid", _in_state("failed"),
        "`info` cannot be read: {}", "check the host, the network and the URL", "RFC 9110, section 15",
    ),
    _rule(
        "info-damaged", "error", READERS, "pyramid", _in_state("damaged"),
        "`info` is damaged: {}", "store it anew", f"{_SPECIFICATION}, info JSON file format",
    ),
    _rule(
        "info-wrong", "error", OURS, "pyramid", _in_state("wrong"),
        "`info` says what cannot be: {}", "put it right; what others make of it is not known",
        f"{_SPECIFICATION}, info JSON file format", hides=True,
    ),
    _rule(
        "took-too-long", "warning", READERS, "pyramid", lambda p: _found(p.is_late, f"{p.time_limit:g}"),
        "not all was looked at within {} seconds", "give a larger time_limit, or fewer samples",
        "the limit of doctor()", hides=True,
    ),
    # ------------------------------------------------------------------------------------------- where it is, and how
    *(
        _rule(
            "protocol", "error", reader, "pyramid", _unopened(reader),
            f"{reader} opens no {{}}",
            _SERVE if reader == NG else "copy it to a folder, bucket or web server, or serve() it",
            f"{_NG_SOURCE}kvstore/" if reader == NG else _ALL_MEASURED,
        )
        for reader in _OTHERS
    ),
    _rule(
        "not-served", "note", NG, "pyramid", lambda p: _found(p.protocol == "file"),
        "a browser opens no files: this is said for what a plain web server would show", _SERVE,
        f"{_NG_SOURCE}kvstore/",
    ),
    _rule(
        "no-cors", "error", NG, "pyramid", _lacks_cors,
        "the server does not let pages from elsewhere read: Access-Control-Allow-Origin is {}",
        f"configure CORS: any origin, GET and HEAD, header Range; or {_SERVE}", "Fetch standard, CORS protocol",
    ),
    _rule(
        "no-range", "error", _OTHERS, "pyramid", lambda p: _found(_ignores_range(p) and _is_sharded(p)),
        "the server ignores Range: shards cannot be read, but by this package, which reads small ones as a whole",
        "enable range requests (206); do not compress on the fly",
        f"{_SHARDED_SPECIFICATION}; {_ALL_MEASURED}",
    ),
    _rule(
        "no-range-unneeded", "note", READERS, "pyramid", lambda p: _found(_ignores_range(p) and not _is_sharded(p)),
        "the server ignores Range: nothing here is sharded, but meshes may need it", "enable range requests (206)",
        _SHARDED_SPECIFICATION,
    ),
    _rule(
        "private", "error", NG, "pyramid", _is_private,
        "it does not open without credentials ({}), which a web page does not have",
        f"let everybody read it, or {_SERVE}", f"{_NG_SOURCE}kvstore/s3/common.ts",
    ),
    _rule(
        "private-credentials", "note", (CV, TS, NGS), "pyramid", _is_private,
        "it does not open without credentials ({})", "configure them for each reader in its own way", _ALL_MEASURED,
    ),
    _rule(
        "mixed-content", "warning", NG, "pyramid", _is_mixed_content,
        "a page that came by https:// may not read from http://", "serve it by https://",
        "W3C Mixed Content, section 4",
    ),
    # ------------------------------------------------------------------------------------------------------ info
    _rule(
        "redirect", "error", (TS, NGS), "pyramid", lambda p: _found(p.redirected_to, p.redirected_to),
        "`info` redirects to {}", "open that", _ALL_MEASURED,
    ),
    _rule(
        "server-redirects", "error", TS, "pyramid", _is_moved,
        "the server answers {}, that it is elsewhere, which is not followed", "open where it leads to", _TS_MEASURED,
    ),
    _rule(
        "info-suffix", "error", (NG, TS), "pyramid", lambda p: _found(p.info_suffix, p.info_suffix),
        "`info` is stored as info{}, which is not looked for", "store it as info, not compressed", _TS_MEASURED,
    ),
    _rule(
        "info-suffix", "error", CV, "pyramid",
        lambda p: _found(p.info_suffix and p.protocol != "file", p.info_suffix),
        "`info` is stored as info{}, which is not looked for here", "store it as info, not compressed", _CV_MEASURED,
    ),
    _rule(
        "info-suffix", "error", NGS, "pyramid",
        lambda p: _found(p.info_suffix and (p.protocol, p.info_suffix) != ("file", ".gz"), p.info_suffix),
        "`info` is stored as info{}, which is not looked for here", "store it as info, not compressed", _NGS_MEASURED,
    ),
    _rule(
        "info-hidden-gzip", "error", _OTHERS, "pyramid", lambda p: _found(p.is_hidden_gzip),
        "`info` is gzip, and nothing says so", "store it uncompressed, or with Content-Encoding: gzip", _ALL_MEASURED,
    ),
    _rule(
        "info-bom", "error", (CV, NGS), "pyramid", lambda p: _found(p.text.startswith(_BOM)),
        "`info` begins with a byte order mark", "store it without", f"RFC 8259, section 8.1; {_ALL_MEASURED}",
    ),
    _rule(
        "type-missing", "error", (NG, CV, TS), "pyramid", lambda p: _found(p.given and "type" not in p.given),
        "type is missing", f'{_WRITE_INFO}: "type": "image" or "segmentation"',
        f"{_NG_FRONTEND}, parseMultiscaleVolumeInfo; {_ALL_MEASURED}",
    ),
    _rule(
        "type-unknown", "error", NG, "pyramid",
        lambda p: _found("type" in p.given and p.kind not in _KINDS, shown(p.given["type"])),
        "type is {}, not image or segmentation", _WRITE_INFO, f"{_NG_FRONTEND}, parseMultiscaleVolumeInfo",
    ),
    _rule(
        "kind-case", "error", (NG, TS), "pyramid",
        lambda p: _found(lowercase(p.given.get("@type")) == _VOLUME_TYPE != p.given["@type"], shown(p.given["@type"])),
        "@type is {}, and case counts", f"{_WRITE_INFO}: {_VOLUME_TYPE}", f"{_NG_FRONTEND}; {_TS_MEASURED}",
    ),
    _rule(
        "kind-null", "error", (NG, TS), "pyramid", lambda p: _found(p.given.get("@type", "") is None),
        "@type is null", f"leave it out, or {_WRITE_INFO}: {_VOLUME_TYPE}",
        f"measured with Neuroglancer 2.41.2; {_TS_MEASURED}",
    ),
    _rule(
        "data-type", "error", (NG, TS), "pyramid",
        lambda p: _found(p.given and p.data_type in ("int64", "float64"), p.data_type),
        "there is no {} here", f"convert it to another type; {_SERVE}, converted",
        f"{_NG_SOURCE}util/data_type.ts; {_TS_MEASURED}",
    ),
    _rule(
        "data-type", "error", NGS, "pyramid",
        lambda p: _found(p.given and p.data_type not in (*_UNSIGNED, "float32"), shown(p.data_type)),
        "there is no {} here", "convert it to an unsigned type or float32", _NGS_MEASURED,
    ),
    _rule(
        "data-type-case", "error", (CV, TS, NGS), "pyramid", lambda p: _other_case(p.given.get("data_type")),
        "data_type is {}, and case counts", "write it in lower case", f"{_SPECIFICATION}; {_ALL_MEASURED}",
    ),
    _rule(
        "channels-float", "error", NGS, "pyramid",
        lambda p: _found(isinstance(p.given.get("num_channels"), float), p.given.get("num_channels")),
        "num_channels is {}, not an integer", _WRITE_INFO, _NGS_MEASURED,
    ),
    _rule(
        "segmentation-channels", "warning", NG, "pyramid",
        lambda p: _found(p.kind == "segmentation" and p.channels != 1, p.channels),
        "a segmentation has 1 channel, not {}", 'store each by itself, or call it "type": "image"',
        f"{_SPECIFICATION}, num_channels",
    ),
    _rule(
        "segmentation-float", "warning", NG, "pyramid",
        lambda p: _found(p.kind == "segmentation" and p.data_type == "float32"),
        "segments are no float32", 'call it "type": "image"', f"{_SPECIFICATION}, data_type",
    ),
    _rule(
        "resolution-order", "warning", _OTHERS, "pyramid", _resolution_falls,
        "scales are not ordered from fine to coarse: {}", "sort them by resolution", f"{_SPECIFICATION}, resolution",
    ),
    # ------------------------------------------------------------------------------------------- a scale, by its info
    *(
        _rule(
            "encoding-unknown", "error", reader, "scale", _unknown_encoding(reader),
            f"{reader} knows no encoding {{}}", _SERVE if reader == NG else "transcode it, to raw for instance",
            f"{_NG_SOURCE}datasource/precomputed/base.ts" if reader == NG else _ALL_MEASURED,
            closes_all=reader in (NG, TS, NGS),
        )
        for reader in READERS
    ),
    *(
        _rule(
            "encoding-unread", "error", reader, "scale", _undecodable(reader),
            f"{reader} decodes no {{}}",
            f"transcode it, to raw for instance; {_SERVE}" if reader == NG else "transcode it",
            f"{_NG_SOURCE}sliceview/backend_chunk_decoders/" if reader == NG else _ALL_MEASURED,
            closes_all=reader in (TS, NGS),
        )
        for reader in _OTHERS
    ),
    _rule(
        "channels-scrambled", "error", CV, "scale",
        lambda s: _found(s.pyramid.channels in _SCRAMBLED.get(s.encoding, ()), f"{s.encoding} of {s.pyramid.channels}"),
        "the voxels of {} channels come out in other places", "transcode it to raw, or read it with this package",
        _CV_MEASURED,
    ),
    _rule(
        "encoding-case", "error", CV, "scale", lambda s: _other_case(s.given.get("encoding")),
        "encoding is {}, and case counts", "write it in lower case", _CV_MEASURED,
    ),
    _rule(
        "encoding-case", "error", (TS, NGS), "scale", lambda s: _other_case(s.given.get("encoding")),
        "encoding is {}, and case counts", "write it in lower case", _ALL_MEASURED, closes_all=True,
    ),
    _rule(
        "block-size", "error", (OURS, NG), "scale", _lacks_block_size,
        f"{_CSEG_BLOCK} is missing, or no 3 integers", _WRITE_INFO, f"{_SPECIFICATION}; {_NG_FRONTEND}",
    ),
    _rule(
        "block-size", "error", (TS, NGS), "scale", _lacks_block_size,
        f"{_CSEG_BLOCK} is missing, or no 3 integers", _WRITE_INFO, f"{_SPECIFICATION}; {_ALL_MEASURED}",
        closes_all=True,
    ),
    _rule(
        "block-shape", "error", NGS, "scale",
        lambda s: _found(s.encoding == _CSEG and len(set(_block_size(s) or ())) > 1, _block_size(s)),
        "blocks of {} are no cubes: x is taken for z where one is clipped", "encode it anew with cubes", _NGS_MEASURED,
    ),
    _rule(
        "foreign-keys", "error", TS, "scale", _foreign_keys,
        "these do not belong to the encoding, or are out of range: {}", "leave them out of `info`", _TS_MEASURED,
        closes_all=True,
    ),
    _rule(
        "floats", "error", (CV, NGS), "scale", _floats,
        "size or chunk_sizes has {}, which is no integer there", "write integers", _ALL_MEASURED,
    ),
    _rule(
        "offset-null", "error", (CV, NGS), "scale", lambda s: _found(s.given.get("voxel_offset", 0) is None),
        "voxel_offset is null", "write [0, 0, 0]", _ALL_MEASURED,
    ),
    _rule(
        "offset-null", "error", (NG, TS), "scale", lambda s: _found(s.given.get("voxel_offset", 0) is None),
        "voxel_offset is null", "write [0, 0, 0]", f"{_NG_FRONTEND}, ScaleInfo; {_TS_MEASURED}", closes_all=True,
    ),
    _rule(
        "offset-missing", "error", NGS, "scale", lambda s: _found("voxel_offset" not in s.given),
        "voxel_offset is missing", "write [0, 0, 0]", _NGS_MEASURED,
    ),
    _rule(
        "offset", "error", NGS, "scale", lambda s: _found(any(s.given["voxel_offset"]), s.given["voxel_offset"]),
        "voxel_offset is {}, and only zeros are supported", "read it with this package", _NGS_MEASURED,
    ),
    _rule(
        "sharding-null", "error", NG, "scale", lambda s: _found(s.given.get("sharding", 0) is None),
        "sharding is null", "leave it out", f"{_NG_FRONTEND}, parseShardingParameters", closes_all=True,
    ),
    _rule(
        "hidden-null", "error", NG, "scale", lambda s: _found(s.given.get("hidden", 0) is None),
        "hidden is null", "leave it out", f"{_NG_SOURCE}util/json.ts, verifyOptionalBoolean", closes_all=True,
    ),
    _rule(
        "key-segments", "error", TS, "scale", _empty_segments,
        "the key {} has a segment that is empty or a dot", "write it without", _TS_MEASURED,
    ),
    _rule(
        "key-percent", "error", (CV, NGS), "scale",
        lambda s: _found(s.pyramid.protocol == "http" and "%" in s.key, shown(s.key)),
        "the key {} has a % in it, which is not quoted in URLs", "rename it", _ALL_MEASURED,
    ),
    _rule(
        "beyond-int32", "error", CV, "scale", _beyond_int32,
        "a coordinate of {} does not fit 32 bits", "read it with this package or tensorstore", _CV_MEASURED,
    ),
    _rule(
        "float32-names", "error", NG, "scale", _rounded_chunk,
        "float32, in which coordinates are computed, does not have {}: chunks are asked for under other names",
        "choose a voxel_offset and chunk sizes that are multiples of a power of two, or use shards",
        f"{_NG_SOURCE}sliceview/volume/backend.ts, computeChunkBounds",
    ),
    _rule(
        "float32", "warning", NG, "scale", _imprecise,
        "beyond 2^24, here up to {}, float32 has not every integer: positions are rounded",
        "choose a smaller voxel_offset",
        f"{_NG_FRONTEND}, ScaleInfo",
    ),
    _rule(
        "texture", "error", NG, "scale", _too_large_texture,
        f"chunks of {{}} are larger than textures of usual GPUs, {_CHUNK_TEXTURE} a side",
        f"store smaller chunks; {_SERVE}",
        f"{_NG_SOURCE}sliceview/uncompressed_chunk_format.ts; WebGL 2, MAX_3D_TEXTURE_SIZE",
    ),
    _rule(
        "huge-chunks", "warning", READERS, "scale",
        lambda s: _found(s.bytes_of_chunk > LARGEST_CHUNK, s.bytes_of_chunk),
        "a chunk decodes to {} bytes: none was looked at", "store smaller chunks", "the limit of doctor()", hides=True,
    ),
    _rule(
        "several-chunk-sizes", "note", READERS, "scale",
        lambda s: _found(len(s.given["chunk_sizes"]) > 1, s.given["chunk_sizes"]),
        "of chunk_sizes {}, only the first was looked at", "store one, unless views need more",
        f"{_SPECIFICATION}, chunk_sizes",
    ),
    # ----------------------------------------------------------------------------------------------------- shards
    _rule(
        "sharding-case", "error", (CV, NGS), "scale", _sharding_case,
        "sharding has {}, and case counts", "write it in lower case", _ALL_MEASURED,
    ),
    _rule(
        "sharding-case", "error", TS, "scale", _sharding_case,
        "sharding has {}, and case counts", "write it in lower case", _TS_MEASURED, closes_all=True,
    ),
    _rule(
        "sharding-keys", "error", (CV, NGS), "scale", _sharding_extra,
        "sharding has unknown members: {}", "leave them out", _ALL_MEASURED,
    ),
    _rule(
        "sharding-keys", "error", TS, "scale", _sharding_extra,
        "sharding has unknown members: {}", "leave them out", _TS_MEASURED, closes_all=True,
    ),
    _rule(
        "shards-over-http", "error", NGS, "scale",
        lambda s: _found(s.sharding is not None and s.pyramid.protocol == "http"),
        "shards are read from files only", "read it with this package", _NGS_MEASURED,
    ),
    _rule(
        "shards-mixed", "error", NGS, "scale", _mixed_shards,
        "shards are read only where all scales have them", "shard all scales, or none", _NGS_MEASURED,
    ),
    _rule(
        "shards-hash", "error", NGS, "scale",
        lambda s: _found(s.sharding is not None and s.sharding.hash != "identity", s.sharding and s.sharding.hash),
        "there is no hash {} here", "read it with this package", _NGS_MEASURED,
    ),
    _rule(
        "shards-cubes", "error", NGS, "scale",
        lambda s: _found(s.sharding is not None and len(set(s.grid.chunk_size)) > 1, s.grid.chunk_size),
        "chunks of {} are no cubes, which those in shards have to be", "read it with this package", _NGS_MEASURED,
    ),
    _rule(
        "shards-gzip", "error", NGS, "scale",
        lambda s: s.having(lambda sample: sample.is_gzip) or _found(s.has_gzip_index, "the index"),
        "shards in gzip are taken for zlib: {}", "read it with this package", _NGS_MEASURED,
    ),
    _rule(
        "shards-zlib", "error", (NG, CV, TS), "scale",
        lambda s: s.having(lambda sample: sample.is_zlib) or _found(s.has_zlib_index, "the index"),
        "zlib where sharding says gzip: {}", "write the shards anew, with this package for instance",
        f"{_SHARDED_SPECIFICATION}, data_encoding; {_ALL_MEASURED}; {_NG_SOURCE}datasource/precomputed/sharded.ts",
    ),
    _rule(
        "shards-empty-minishard", "error", NGS, "scale", lambda s: _found(s.has_empty_minishards),
        "a shard has an empty minishard, which keeps it from being opened", "read it with this package", _NGS_MEASURED,
    ),
    _rule(
        "shards-legacy", "error", (NG, CV, TS), "scale",
        lambda s: s.having(lambda sample: ".data," in sample.name and s.sharding is not None),
        "an older pair of .index and .data stands for a shard: {}", "join each pair to one .shard",
        f"{_SHARDED_SPECIFICATION}; {_ALL_MEASURED}",
    ),
    # ----------------------------------------------------------------------------------------------------- chunks
    *(
        _rule(
            "suffix", "error", reader, "scale", _with_suffix(reader),
            "compressed under a name that is not looked for: {}",
            f"store it under the plain name with Content-Encoding, have nginx do it (gzip_static), or {_SERVE}"
            if reader == NG
            else "store it uncompressed (gzip=False), or in a bucket with Content-Encoding",
            f"{_NG_BACKEND}, PrecomputedVolumeChunkSource" if reader == NG else _ALL_MEASURED,
        )
        for reader in _OTHERS
    ),
    _rule(
        "sub-directories", "error", (NG, CV, TS), "scale", lambda s: s.having(lambda sample: not sample.is_flat),
        "in sub-directories, as neuroglancer-scripts writes them: {}", f"{_REWRITE}; {_SERVE}",
        f"{_SPECIFICATION}, unsharded chunk storage; {_ALL_MEASURED}; {_NG_BACKEND}",
    ),
    _rule(
        "sub-directories", "error", NGS, "scale",
        lambda s: s.having(lambda sample: not sample.is_flat and s.pyramid.protocol != "file"),
        "in sub-directories, which are looked into on disk only: {}", _REWRITE, _NGS_MEASURED,
    ),
    _rule(
        "hidden-gzip", "error", _OTHERS, "scale", lambda s: s.having(lambda sample: sample.is_hidden_gzip),
        "gzip, and neither name nor header says so: {}",
        "set Content-Encoding: gzip on them, or store them uncompressed",
        f"{_ALL_MEASURED}; {_NG_BACKEND}",
    ),
    _rule(
        "content-encoding", "error", (NG, TS), "scale", _encoded_as("xz", "bz2", "bzip2", "lzma"),
        "Content-Encoding {} is none of HTTP", "compress with gzip",
        f"{_TS_MEASURED}; IANA HTTP Content Coding Registry",
    ),
    _rule(
        "content-encoding", "error", NGS, "scale", _encoded_as("xz", "bz2", "bzip2", "lzma", "zstd"),
        "Content-Encoding {} is not decoded", "compress with gzip", _NGS_MEASURED,
    ),
    _rule(
        "content-encoding-new", "warning", NG, "scale", _encoded_as("br", "zstd"),
        "Content-Encoding {} is for https:// only, and for browsers that know it", "compress with gzip",
        "RFC 7932, RFC 8878; support differs between browsers",
    ),
    _rule(
        "content-encoding-new", "warning", NGS, "scale", _encoded_as("br"),
        "Content-Encoding {} needs the package brotli", "pip install brotli", _NGS_MEASURED,
    ),
    _rule(
        "progressive-jpeg", "error", NG, "scale", lambda s: s.having(lambda sample: sample.is_progressive),
        "progressive JPEG, which is decoded wrongly by tens of levels: {}", f"encode it as baseline; {_SERVE}",
        "measured with Neuroglancer 2.41.2, src/third_party/jpgjs",
    ),
    _rule(
        "chunks-absent", "error", CV, "scale", _chunks("absent"),
        "absent chunks raise: {}", "open it with fill_missing=True, if absent means zeros", _CV_MEASURED,
    ),
    _rule(
        "chunks-absent", "error", NGS, "scale", _chunks("absent"),
        "absent chunks raise: {}", "store them, or read it with this package", _NGS_MEASURED,
    ),
    _rule(
        "chunks-absent", "note", (OURS, NG, TS), "scale", _chunks("absent"),
        "absent chunks are zeros, or nothing: {}", "check that all was written that is to be there", _TS_MEASURED,
    ),
    _rule(
        "scale-empty", "warning", READERS, "scale", _all_absent,
        "none of {} chunks is there", "check that this scale was uploaded, and that the key is right",
        f"{_SPECIFICATION}, unsharded chunk storage",
    ),
    _rule(
        "chunks-denied", "error", (TS, NGS), "scale", _unlisted(),
        f"{_UNLISTED}, which is an error here: {{}}", "let readers list the bucket, or store all chunks", _ALL_MEASURED,
    ),
    _rule(
        "chunks-denied", "error", CV, "scale", _unlisted(),
        f"{_UNLISTED}, and these raise: {{}}", "open it over https:// with fill_missing=True, if absent means zeros",
        f"{_CV_MEASURED}; cloud-files, interfaces.py",
    ),
    _rule(
        "chunks-denied", "error", OURS, "scale", _unlisted(lambda pyramid: not pyramid.denied_is_missing),
        f"{_UNLISTED}: {{}}", "open it with denied_is_missing=True, if absent means zeros",
        "Amazon S3 API, GetObject, permissions",
    ),
    _rule(
        "chunks-denied", "note", OURS, "scale", _unlisted(lambda pyramid: pyramid.denied_is_missing),
        f"{_UNLISTED}, and taken for absent: {{}}", "check that all was written that is to be there",
        "Amazon S3 API, GetObject, permissions",
    ),
    _rule(
        "chunks-denied", "note", NG, "scale", _unlisted(),
        f"{_UNLISTED}, and taken for absent: {{}}", "check that all was written that is to be there",
        f"{_NG_SOURCE}util/http_request.ts, isNotFoundError",
    ),
    _rule(
        "chunks-failed", "error", READERS, "scale", _chunks("failed", "denied"),
        "cannot be read: {}", "look at what the server says, and try again", "RFC 9110, section 15",
    ),
    _rule(
        "chunks-damaged", "error", READERS, "scale", _chunks("damaged"),
        "damaged: {}", "store them anew", f"{_SPECIFICATION}, chunk encoding; {_ALL_MEASURED}",
    ),
    _rule(
        "library", "error", OURS, "scale", _chunks("undecodable"),
        "a library is missing: {}", "pip install 'precomputed-fs[codecs]'", "the table of precomputed_fs.codecs",
    ),
    _rule(
        "scale-wrong", "error", OURS, "scale", _unopenable,
        "it cannot be opened: {}", "put `info` right", f"{_SPECIFICATION}, info JSON file format", hides=True,
    ),
)  # fmt: skip
"""All that `doctor` knows."""
