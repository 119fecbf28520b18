"""Which readers can open a pyramid; and if one cannot, why not, and what to do.

`doctor` looks at a pyramid as it is stored: at `info`, at some chunks of every scale, at the server. What it has seen
is held against `RULES`, one table, of which each row says what one thing means to some readers, and whence that is
known. Nothing is written, and a pyramid that is in pieces, or not there, is a finding and no exception.
"""

import contextlib
import dataclasses
import functools
import html as markup
import http
import itertools
import math
import os
import random
import struct
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from precomputed_fs.accessor import FsspecAccessor
from precomputed_fs.codecs import ENCODINGS, _jpeg_segments
from precomputed_fs.errors import (
    AccessDeniedError,
    CorruptDataError,
    DataAccessError,
    InvalidInfoError,
    NotFoundError,
    URLError,
)
from precomputed_fs.grid import ChunkCoords, ChunkGrid, Triple, chunk_name, compressed_morton_code
from precomputed_fs.info import lowercase, parse_info, shown
from precomputed_fs.sharding import ENTRY_BYTES, Sharding, minishard_index_range, page_of
from precomputed_fs.urls import SCHEMES, Location, Request, Scheme, join
from precomputed_fs.volume import Scale, Volume, one_line, open_volume

if TYPE_CHECKING:
    from precomputed_fs.models import ScaleInfo
    from precomputed_fs.objects import ObjectStore

READERS = ("precomputed_fs", "neuroglancer", "cloud-volume", "tensorstore", "neuroglancer-scripts")
"""Who is judged, by the names that the report knows them by."""

SAMPLES = 8
"""Chunks of a scale that are looked at, unless told otherwise: the first, the last, the one in the middle and others
at random, always the same. A scale that has no more is looked at whole."""

MOST_REQUESTS = 12
"""Requests for one chunk, at most. It is one where a chunk stands under its plain name, and as many as there are names
where it is absent. A chunk in a shard takes three, and each sharded scale two more for its indexes."""

_TIME_LIMIT = 60.0  # seconds
_TIMEOUT, _ATTEMPTS = 10.0, 2  # of one request: what is slower is to be found, not to be waited for
_IN_FLIGHT = 16
_BYTES_IN_FLIGHT = 256 << 20  # decoded
_LARGEST_CHUNK = 1 << 30  # bytes decoded; a larger one is not fetched
_CHUNK_TEXTURE, _PLANE_TEXTURE = 2048, 16384  # texels of a side, in three and two dimensions, that usual GPUs take
_EXACT = 1 << 24  # integers up to which float32 has them all
_INT32 = 1 << 31
_VOLUME_TYPE = "neuroglancer_multiscale_volume"
_PAGE_ORIGIN = "https://neuroglancer-demo.appspot.com"
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_SHOWN_KEYS = 6  # of scales, in a line of the report
_GZIP_MAGIC, _ZLIB_MAGICS = b"\x1f\x8b", (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_BOM = b"\xef\xbb\xbf"
_PROGRESSIVE_FRAMES = (0xC2, 0xC6, 0xCA, 0xCE)  # SOF markers (ITU-T T.81, table B.1)


def doctor(
    url: str | os.PathLike[str],
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    time_limit: float = _TIME_LIMIT,
    **accessor_options: Any,  # noqa: ANN401 - as FsspecAccessor has them
) -> "Report":
    """Find out which readers can open a pyramid; and if one cannot, why not, and what to do.

    Parameters
    ----------
    url : str or path
        See `FsspecAccessor`.
    samples : int
        Chunks of each scale that are looked at; see `SAMPLES`. For requests, see `MOST_REQUESTS`; besides, `info` is
        read, and over HTTP a byte of it once more, as a web page would.
    seed : int
        Chooses those that are looked at at random.
    time_limit : float
        Seconds after which the report says what is known by then.
    **accessor_options
        Options of `FsspecAccessor`. Unless given, ``timeout`` is 10 seconds and ``attempts`` is 2.

    Returns
    -------
    Report
        Printed, it is a table; ``report["tensorstore"].ok`` is what a program asks.

    Raises
    ------
    URLError
        If this is no URL: of no known scheme, or without its driver.
    ValueError, TypeError
        If an argument cannot be. A pyramid that is broken, forbidden or not there is no exception.

    Examples
    --------
    >>> import numpy as np
    >>> import precomputed_fs
    >>> vol = precomputed_fs.create_volume("memory://docs/doctor", np.ones((8, 8, 8), np.uint8), resolution=(1, 1, 1))
    >>> report = precomputed_fs.doctor("memory://docs/doctor")
    >>> report["precomputed_fs"].ok, report["tensorstore"].ok
    (True, False)
    >>> [finding.rule.id for finding in report["tensorstore"].findings]
    ['protocol', 'suffix']
    """
    if samples < 1 or not time_limit > 0:
        raise ValueError(f"expected samples >= 1 and time_limit > 0, got {samples!r} and {time_limit!r}")
    options = {"timeout": _TIMEOUT, "attempts": _ATTEMPTS, **accessor_options}
    accessor = FsspecAccessor(url, **options)
    seen = _Pyramid(accessor.location, time_limit)
    examination = _Examination(seen, url, accessor, options, samples, seed)
    # A server may send a byte now and then for ever: so it is not waited for in this thread.
    thread = threading.Thread(target=examination.run, name="precomputed_fs-doctor", daemon=True)
    thread.start()
    thread.join(time_limit)
    seen.is_late = thread.is_alive()
    examination.is_over = True
    return Report.of(seen)


# ------------------------------------------------------------------------------------------------------- what was seen


@dataclass(frozen=True, slots=True)
class _Sample:
    """A chunk, as it was found or not."""

    coords: ChunkCoords
    state: str
    """"found", "absent", "denied", "damaged", "failed", or "undecodable" for want of a library."""

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
class _Scale:
    """One scale, as `info` has it and as its chunks are."""

    pyramid: "_Pyramid"
    index: int
    given: Mapping[str, Any]
    info: "ScaleInfo | None" = None
    samples: Sequence[_Sample] = ()
    has_empty_minishards: bool = False
    has_zlib_index: bool = False
    has_gzip_index: bool = False
    wrong: str = ""
    """What is wrong with it, to this package."""

    bytes_of_chunk: int = 0

    @property
    def key(self) -> str:
        key = self.given.get("key")
        return key if isinstance(key, str) else f"scales[{self.index}]"

    @property
    def encoding(self) -> str:
        return lowercase(self.given.get("encoding"))

    @property
    def sharding(self) -> Sharding | None:
        return None if self.info is None else self.info.sharding

    @property
    def grid(self) -> ChunkGrid:
        if self.info is None:
            raise ValueError(self.key)
        return self.info.grid

    def having(self, is_so: Callable[[_Sample], object]) -> str | None:
        """Name a chunk of which something is so, and count them."""
        found = [sample for sample in self.samples if is_so(sample)]
        if not found:
            return None
        return f"{len(found)} of {len(self.samples)} chunks, such as {found[0].name or chunk_name(found[0].coords)}"


@dataclass(slots=True)
class _Server:
    """What a server answers to a web page that asks for the first byte of `info`."""

    status: int = 0
    allowed_origin: str = ""
    is_anonymous: bool = True
    said: str = ""


@dataclass(slots=True)
class _Pyramid:
    """A pyramid, as far as it was seen."""

    location: Location
    time_limit: float
    text: bytes = b""
    info_suffix: str = ""
    is_hidden_gzip: bool = False
    redirected_to: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    scales: Sequence[_Scale] = ()
    server: _Server | None = None
    is_late: bool = False
    state: str = "unseen"
    """"found", or why `info` was not: "absent", "denied", "damaged", "failed"; "wrong", if it says what cannot be."""

    said: str = ""

    @property
    def protocol(self) -> str:
        """How it is reached: "file", "http", "s3", "gs", or another protocol; a cache in front does not count."""
        link = self.location.links[0]
        if len(self.location.links) > 1 and SCHEMES.get(link.protocol, Scheme()).copies is not None:
            link = self.location.links[1]
        return _PROTOCOLS.get(link.protocol, link.protocol)

    @property
    def kind(self) -> str:
        return lowercase(self.given.get("type"))

    @property
    def data_type(self) -> str:
        return lowercase(self.given.get("data_type"))

    @property
    def channels(self) -> int:
        channels = self.given.get("num_channels")
        return int(channels) if isinstance(channels, int | float) else 0


_PROTOCOLS = {"local": "file", "https": "http", "s3a": "s3", "gcs": "gs"}


# ------------------------------------------------------------------------------------------------------------- looking


@dataclass(slots=True)
class _Examination:
    """Looks at a pyramid, and writes down what it sees as it goes."""

    seen: _Pyramid
    url: str | os.PathLike[str]
    accessor: FsspecAccessor
    options: Mapping[str, Any]
    samples: int
    seed: int
    is_over: bool = False

    def run(self) -> None:
        try:
            if self._reads_info():
                self._asks_as_page()
                self._looks_at_scales()
        except Exception as exc:  # noqa: BLE001 - it is a finding, not an exception
            if self.seen.state in ("unseen", "found"):
                self.seen.state, self.seen.said = "failed", type(exc).__name__  # what it says may be secret
        finally:
            with contextlib.suppress(Exception):  # a connection that was lost may say so once more
                self.accessor.close()

    def _reads_info(self) -> bool:
        """Read `info` as it is stored, and follow where it redirects to."""
        seen = self.seen
        try:
            self._stores_info()
            if "redirect" in seen.given:
                self._follows()
        except DataAccessError as exc:
            seen.state, seen.said = _state_of(exc), str(exc)
        except (InvalidInfoError, URLError) as exc:
            seen.state, seen.said = "wrong", str(exc)
        else:
            self._parses()
        return bool(seen.scales) or seen.state == "found"

    def _stores_info(self) -> None:
        seen, accessor = self.seen, self.accessor
        found = accessor._find_file("info")  # noqa: SLF001 - only what finds an object knows how it stands
        seen.info_suffix = found.suffix
        seen.text = accessor._decoded(found)  # noqa: SLF001
        seen.is_hidden_gzip = _is_hidden_gzip(found.suffix, found.body.content_encoding, found.body.data, seen.text)
        seen.given = parse_info(seen.text, accessor.location.display("info"))
        accessor._info = seen.given  # noqa: SLF001 - else it would be read once more for the scales' layouts

    def _follows(self) -> None:
        volume = open_volume(self.url, **self.options)
        self.accessor.close()
        self.accessor = volume.accessor
        self.seen.location = volume.accessor.location
        self.seen.redirected_to = volume.url
        self._stores_info()

    def _parses(self) -> None:
        from precomputed_fs.models import Info  # noqa: PLC0415 - brings pydantic

        seen = self.seen
        given = seen.given.get("scales")
        scales = [
            _Scale(seen, i, scale)
            for i, scale in enumerate(given if isinstance(given, list) else ())
            if isinstance(scale, Mapping)
        ]
        try:
            info = Info.parse(seen.text, seen.location.display("info"))
        except InvalidInfoError as exc:
            seen.state, seen.said = "wrong", str(exc)
        else:
            seen.state = "found"
            for scale, described in zip(scales, info.scales, strict=True):
                scale.info = described
        seen.scales = scales

    def _asks_as_page(self) -> None:
        with contextlib.suppress(Exception):  # then nothing is known of the server
            self.seen.server = _asked_as_page(self.seen.location, float(self.options["timeout"]))

    def _looks_at_scales(self) -> None:
        if self.seen.state != "found":
            return
        from precomputed_fs.models import Info  # noqa: PLC0415

        volume = Volume(self.accessor, Info.parse(self.seen.text))
        try:
            for scale, opened in zip(self.seen.scales, volume, strict=True):
                if not self.is_over:
                    self._looks_at(scale, opened)
        finally:
            volume.close()

    def _looks_at(self, seen: _Scale, scale: Scale) -> None:
        sizes = map(min, scale.chunk_size, scale.shape[:3])
        seen.bytes_of_chunk = math.prod(sizes) * scale.shape[3] * scale.dtype.itemsize
        try:
            codec = scale.codec  # which may not be known
            accessor, key = scale.volume.accessor_for(scale.key)
        except ValueError as exc:
            seen.wrong = str(exc)
            return
        if seen.bytes_of_chunk > _LARGEST_CHUNK:
            return
        coords = _chosen(scale.grid, self.samples, f"{self.seed}:{seen.index}")

        def look(one: ChunkCoords) -> _Sample:
            return _looked(accessor, key, one, functools.partial(codec.decode, size=_size_of(one)), codec.encoding)

        store = accessor._store  # noqa: SLF001 - whose threads end with their flight
        at_once = max(1, min(_IN_FLIGHT, _BYTES_IN_FLIGHT // seen.bytes_of_chunk))
        found = list(store.run_many((functools.partial(look, one) for one in coords), at_once))
        seen.samples = sorted(found, key=lambda sample: coords.index(sample.coords))
        if scale.info.sharding is not None:
            _look_at_indexes(seen, store, key, scale.info.sharding)


def _chosen(grid: ChunkGrid, count: int, seed: str) -> list[ChunkCoords]:
    """Choose chunks: the first, the last, the one in the middle, and others at random."""
    x, y, z = grid.shape
    if x * y * z <= count:
        return [grid.chunk(cell) for cell in itertools.product(range(x), range(y), range(z))]
    cells: dict[Triple, None] = dict.fromkeys([(0, 0, 0), (x - 1, y - 1, z - 1), (x // 2, y // 2, z // 2)][:count])
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    while len(cells) < count:
        cells[chance.randrange(x), chance.randrange(y), chance.randrange(z)] = None
    return [grid.chunk(cell) for cell in cells]


def _size_of(coords: ChunkCoords) -> Triple:
    x0, x1, y0, y1, z0, z1 = coords
    return x1 - x0, y1 - y0, z1 - z0


def _looked(
    accessor: FsspecAccessor, key: str, coords: ChunkCoords, decode: Callable[[bytes], object], encoding: str
) -> _Sample:
    """Look at a chunk: how it stands, and whether it can be decoded."""
    name = chunk_name(coords)
    try:
        found = accessor._find_chunk(key, coords)  # noqa: SLF001 - only what finds an object knows how it stands
        name = accessor.location.display(found.name)
        data = accessor._decoded(found)  # noqa: SLF001
        decode(data)
    except (DataAccessError, ValueError) as exc:
        return _Sample(coords, _state_of(exc), one_line(str(exc)), name)
    except ImportError as exc:
        return _Sample(coords, "undecodable", str(exc), name)
    stored, said = found.body.data, found.body.content_encoding
    return _Sample(
        coords,
        "found",
        name=found.name,
        suffix=found.suffix,
        is_flat=found.in_shard or found.name == f"{key}/{chunk_name(coords)}{found.suffix}",
        content_encoding=said,
        is_hidden_gzip=not found.in_shard and _is_hidden_gzip(found.suffix, said, stored, data),
        is_zlib=found.shard_gzip and stored.startswith(_ZLIB_MAGICS),
        is_gzip=found.shard_gzip and stored.startswith(_GZIP_MAGIC),
        is_progressive=encoding == "jpeg" and any(kind in _PROGRESSIVE_FRAMES for kind, _, _ in _jpeg_segments(data)),
    )


def _is_hidden_gzip(suffix: str, content_encoding: str, stored: bytes, data: bytes) -> bool:
    return not suffix and not content_encoding and stored.startswith(_GZIP_MAGIC) and stored != data


def _state_of(exc: Exception) -> str:
    kinds = ((NotFoundError, "absent"), (AccessDeniedError, "denied"), (CorruptDataError, "damaged"))
    return next((state for kind, state in kinds if isinstance(exc, kind)), "failed")


def _look_at_indexes(seen: _Scale, store: "ObjectStore", key: str, sharding: Sharding) -> None:
    """Look at the indexes of a shard, as they are stored: at the shard's own, and at one minishard's."""
    coords = next((sample.coords for sample in seen.samples if sample.state == "found"), None)
    if coords is None:
        return
    shard, minishard = sharding.locate(compressed_morton_code(seen.grid.cell(coords), seen.grid.shape))
    page, name = page_of(minishard, sharding), f"{key}/{sharding.shard_name(shard)}.shard"
    try:
        index = store.read(name, page.start, page.end).data
        place = minishard_index_range(index, minishard, sharding)
        if place is None:
            return
        start = sharding.index_size + place.start
        stored = store.read(name, start, sharding.index_size + place.end).data
    except DataAccessError:  # an older pair of files, which its chunks' names tell; or what these say
        return
    entries = struct.iter_unpack("<QQ", index[: len(index) // ENTRY_BYTES * ENTRY_BYTES])
    seen.has_empty_minishards = any(first == last for first, last in entries)
    if sharding.minishard_index_encoding == "gzip":
        seen.has_zlib_index = stored.startswith(_ZLIB_MAGICS)
        seen.has_gzip_index = stored.startswith(_GZIP_MAGIC)


# --------------------------------------------------------------------------------------------------------- the server


def _asked_as_page(location: Location, timeout: float) -> _Server | None:
    """Ask for the first byte of `info` as a web page does: from elsewhere, without credentials; None where none can."""
    if len(location.links) > 1 or location.fs is not None or location.scheme.requests is None:
        return None
    request = _public_request(dataclasses.replace(location, anon=True), timeout)
    if request is None:
        return None
    from precomputed_fs.http_client import HttpClient  # noqa: PLC0415 - only where requests are sent

    client = HttpClient(timeout)
    headers = {"Origin": _PAGE_ORIGIN, "Range": "bytes=0-0", "Accept-Encoding": "identity"}
    try:
        answer = client.ask("GET", _without_user(request.url), headers, http.HTTPStatus.PARTIAL_CONTENT)
    finally:
        client.close()
    denied = answer.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
    return _Server(
        answer.status,
        answer.headers.get("access-control-allow-origin", ""),
        is_anonymous=not denied,
        said=answer.reason,
    )


def _public_request(location: Location, timeout: float) -> Request | None:
    """Return what anybody would ask for `info`."""
    fs, root = location.open(timeout)
    make = location.scheme.requests
    made = None if make is None else make(fs)("GET", join(root, "info"))
    if made is None or isinstance(made, Request):
        return made
    import fsspec.asyn  # noqa: PLC0415

    request: Request | None = fsspec.asyn.sync(fs.loop, lambda: made, timeout=timeout)
    return request


def _without_user(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


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


def _unopened(reader: str) -> Callable[[_Pyramid], str | None]:
    def finds(pyramid: _Pyramid) -> str | None:
        is_served = reader == NG and pyramid.protocol == "file"
        return None if is_served or pyramid.protocol in _OPENED[reader] else f"{pyramid.protocol}://"

    return finds


def _unknown_encoding(reader: str) -> Callable[[_Scale], str | None]:
    def finds(scale: _Scale) -> str | None:
        known = ENCODINGS if reader in (OURS, CV) else _ENCODINGS_OF[reader]
        return None if scale.encoding in known else shown(scale.given.get("encoding"))

    return finds


def _undecodable(reader: str) -> Callable[[_Scale], str | None]:
    def finds(scale: _Scale) -> str | None:
        data_type, channels = scale.pyramid.data_type, scale.pyramid.channels
        kinds = _ENCODINGS_OF[reader].get(scale.encoding)
        if kinds is None or any(data_type in types and channels in counts for types, counts in kinds):
            return None
        return f"{scale.encoding} of {channels} x {shown(data_type)}"

    return finds


def _found(is_so: object, what: object = "") -> str | None:
    return str(what) if is_so else None


def _in_state(*states: str) -> Callable[[_Pyramid], str | None]:
    return lambda pyramid: _found(pyramid.state in states, pyramid.said)


def _with_suffix(reader: str) -> Callable[[_Scale], str | None]:
    """Find chunks under names that a reader does not look for."""
    looked_for = {CV: (".gz", ".br", ".zstd", ".xz", ".bz2"), NGS: (".gz",)}.get(reader, ())

    def finds(scale: _Scale) -> str | None:
        known = looked_for if scale.pyramid.protocol == "file" else ()
        return scale.having(lambda sample: sample.suffix and sample.suffix not in known)

    return finds


def _encoded_as(*encodings: str) -> Callable[[_Scale], str | None]:
    def finds(scale: _Scale) -> str | None:
        said = {sample.content_encoding for sample in scale.samples} & set(encodings)
        return _found(said, ", ".join(sorted(said)))

    return finds


def _chunks(*states: str) -> Callable[[_Scale], str | None]:
    def finds(scale: _Scale) -> str | None:
        found = scale.having(lambda sample: sample.state in states)
        said = next((sample.said for sample in scale.samples if sample.state in states), "")
        return found and f"{found}: {said}"

    return finds


def _all_absent(scale: _Scale) -> str | None:
    return _found(scale.samples and all(sample.state == "absent" for sample in scale.samples), len(scale.samples))


def _other_case(value: object) -> str | None:
    return _found(isinstance(value, str) and value != value.lower(), shown(value))


def _sharding_case(scale: _Scale) -> str | None:
    given = scale.given.get("sharding") or {}
    values = (given.get(name) for name in ("hash", "minishard_index_encoding", "data_encoding"))
    return next(filter(None, map(_other_case, values)), None)


def _sharding_extra(scale: _Scale) -> str | None:
    extra = sorted((scale.given.get("sharding") or {}).keys() - _SHARDING_KEYS)
    return _found(extra, ", ".join(map(shown, extra)))


def _foreign_keys(scale: _Scale) -> str | None:
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


def _floats(scale: _Scale) -> str | None:
    values = [*scale.given["size"], *itertools.chain(*scale.given["chunk_sizes"])]
    floats = [value for value in values if isinstance(value, float)]
    return _found(floats, floats[0] if floats else "")


def _block_size(scale: _Scale) -> Sequence[Any] | None:
    size = scale.given.get(_CSEG_BLOCK)
    is_one = isinstance(size, list) and len(size) == 3 and all(_is_whole(side, 1, _INT32) for side in size)  # noqa: PLR2004
    return size if is_one else None


def _lacks_block_size(scale: _Scale) -> str | None:
    return _found(scale.encoding == _CSEG and _block_size(scale) is None)


def _unopenable(scale: _Scale) -> str | None:
    """Find what is wrong with a scale, unless another rule says it."""
    is_known = scale.encoding not in ENCODINGS or _lacks_block_size(scale) is not None
    return _found(scale.wrong and not is_known, scale.wrong)


def _resolution_falls(pyramid: _Pyramid) -> str | None:
    for finer, coarser in itertools.pairwise(pyramid.scales):
        if any(map(float.__gt__, map(float, finer.given["resolution"]), map(float, coarser.given["resolution"]))):
            return f"{coarser.key} after {finer.key}"
    return None


def _beyond(scale: _Scale, limit: int) -> str | None:
    bounds = scale.grid.bounds
    extremes = [*bounds.start, *bounds.stop, *scale.grid.size]
    far = [value for value in extremes if not -limit <= value <= limit]
    return _found(far, max(far, key=abs, default=0))


def _beyond_int32(scale: _Scale) -> str | None:
    return _beyond(scale, _INT32 - 1)


def _imprecise(scale: _Scale) -> str | None:
    return _beyond(scale, _EXACT) if scale.sharding is not None or _rounded_chunk(scale) is None else None


def _rounded_chunk(scale: _Scale) -> str | None:
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


def _too_large_texture(scale: _Scale) -> str | None:
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


def _mixed_shards(scale: _Scale) -> str | None:
    others = (other.given.get("sharding") for other in scale.pyramid.scales)
    return _found(scale.sharding is not None and not all(others))


def _is_sharded(pyramid: _Pyramid) -> bool:
    return any(scale.sharding is not None for scale in pyramid.scales)


def _lacks_cors(pyramid: _Pyramid) -> str | None:
    server = pyramid.server
    if server is None or server.status not in (http.HTTPStatus.OK, http.HTTPStatus.PARTIAL_CONTENT):
        return None
    return _found(server.allowed_origin not in ("*", _PAGE_ORIGIN), shown(server.allowed_origin))


def _ignores_range(pyramid: _Pyramid) -> bool:
    return pyramid.server is not None and pyramid.server.status == http.HTTPStatus.OK


def _is_private(pyramid: _Pyramid) -> str | None:
    is_private = pyramid.server is not None and not pyramid.server.is_anonymous and pyramid.state == "found"
    return _found(is_private, pyramid.server and f"{pyramid.server.status} {pyramid.server.said}")


def _is_mixed_content(pyramid: _Pyramid) -> str | None:
    parts = urllib.parse.urlsplit(pyramid.location.links[0].url)
    return _found(parts.scheme == "http" and (parts.hostname or "") not in _LOOPBACK)


def _empty_segments(scale: _Scale) -> str | None:
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
        f"{_SPECIFICATION}, info JSON file format",
    ),
    _rule(
        "took-too-long", "warning", READERS, "pyramid", lambda p: _found(p.is_late, f"{p.time_limit:g}"),
        "not all was looked at within {} seconds", "give a larger time_limit, or fewer samples",
        "the limit of doctor()",
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
        "no-range", "error", READERS, "pyramid", lambda p: _found(_ignores_range(p) and _is_sharded(p)),
        "the server ignores Range, so that shards cannot be read",
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
        "resolution-order", "warning", READERS, "pyramid", _resolution_falls,
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
        lambda s: _found(s.bytes_of_chunk > _LARGEST_CHUNK, s.bytes_of_chunk),
        "a chunk decodes to {} bytes: none was looked at", "store smaller chunks", "the limit of doctor()",
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
        "chunks-denied", "error", READERS, "scale", _chunks("denied"),
        "may not be read, or (on S3) are absent and may not be listed: {}", "let readers read, and list, all objects",
        "Amazon S3 API, GetObject, permissions",
    ),
    _rule(
        "chunks-failed", "error", READERS, "scale", _chunks("failed"),
        "cannot be read: {}", "try again; look at what the server says", "RFC 9110, section 15",
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
        "it cannot be opened: {}", "put `info` right", f"{_SPECIFICATION}, info JSON file format",
    ),
)  # fmt: skip
"""All that `doctor` knows."""


# ---------------------------------------------------------------------------------------------------------- the report


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that was found, where a rule looked."""

    rule: Rule

    found: str

    scale: str | None = None
    """The key of the scale of which it is so; None for the pyramid."""

    @property
    def message(self) -> str:
        """What it is, in words."""
        return self.rule.message.replace("{}", self.found)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can say of it."""
        rule = self.rule
        return {
            "id": rule.id,
            "severity": rule.severity,
            "readers": list(rule.readers),
            "scale": self.scale,
            "message": self.message,
            "advice": rule.advice,
            "source": rule.source,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether one reader can open a pyramid."""

    reader: str

    ok: bool | None
    """Whether it opens and rightly reads all scales, as far as was looked; None where that cannot be told."""

    scales: Mapping[str, bool | None]
    """The same of each scale, by its key."""

    findings: tuple[Finding, ...]
    """What concerns it, errors first."""

    def __str__(self) -> str:
        if self.ok is not False:
            return "ok" if self.ok else "unknown"
        good = [key for key, ok in self.scales.items() if ok]
        return f"only {_some(good)}" if good else "no"


@dataclass(frozen=True, repr=False)
class Report:
    """What `doctor` found.

    ``report["tensorstore"]`` is the verdict on one of `READERS`.
    """

    url: str
    """Without secrets."""

    scales: tuple[str, ...]
    """Keys of the scales that were found."""

    chunks: int
    """How many chunks were looked at."""

    verdicts: Mapping[str, Verdict]
    """By reader."""

    findings: tuple[Finding, ...]
    """All that was found, errors first."""

    @classmethod
    def of(cls, seen: _Pyramid) -> "Report":
        """Hold what was seen against the rules."""
        scales = tuple(seen.scales)
        closed: dict[str, set[str]] = {reader: set() for reader in READERS}
        findings = list(_findings(seen, scales))
        keys = [one_line(scale.key) for scale in scales]
        for finding in findings:
            if finding.rule.severity == "error":
                is_of_all = finding.scale is None or finding.rule.closes_all
                for reader in finding.rule.readers:
                    closed[reader].update((*keys, "") if is_of_all else {finding.scale or ""})
        order = ("error", "warning", "note")
        findings.sort(key=lambda finding: order.index(finding.rule.severity))
        is_known = seen.state != "wrong" and not seen.is_late
        return cls(
            one_line(seen.location.display()),
            tuple(keys),
            sum(len(scale.samples) for scale in scales),
            {reader: _verdict(reader, keys, closed[reader], findings, is_known=is_known) for reader in READERS},
            tuple(findings),
        )

    def __getitem__(self, reader: str) -> Verdict:
        return self.verdicts[reader]

    @property
    def ok(self) -> bool:
        """Whether every reader can open all of it."""
        return all(verdict.ok for verdict in self.verdicts.values())

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can say of it."""
        return {
            "url": self.url,
            "scales": list(self.scales),
            "chunks": self.chunks,
            "readers": {
                reader: {"ok": verdict.ok, "scales": dict(verdict.scales)} for reader, verdict in self.verdicts.items()
            },
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        width = max(map(len, READERS))
        lines = [f"{self.url}: {_counted(len(self.scales), 'scale')}, {_counted(self.chunks, 'chunk')} looked at"]
        lines += [f"  {reader:{width}}  {verdict}" for reader, verdict in self.verdicts.items()]
        for group in self._grouped():
            rule = group[0].rule
            lines += [f"{rule.severity}: {_concerned(group)}: {_described(group)}", f"    {rule.advice} [{rule.id}]"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        def row(*cells: str) -> str:
            return (
                "<tr>" + "".join(f"<td style='text-align: left'>{markup.escape(cell)}</td>" for cell in cells) + "</tr>"
            )

        verdicts = "".join(row(reader, str(verdict)) for reader, verdict in self.verdicts.items())
        rules = "".join(
            row(group[0].rule.severity, _concerned(group), _described(group), group[0].rule.advice)
            for group in self._grouped()
        )
        return f"<div><code>{markup.escape(self.url)}</code><table>{verdicts}</table><table>{rules}</table></div>"

    def _grouped(self) -> Iterable[list[Finding]]:
        """Put together what is the same of several scales, or means the same to several readers."""
        groups: dict[tuple[str, ...], list[Finding]] = {}
        for finding in self.findings:
            rule = finding.rule
            groups.setdefault((rule.severity, rule.id, rule.message, rule.advice), []).append(finding)
        return groups.values()


def _findings(seen: _Pyramid, scales: Iterable[_Scale]) -> Iterator[Finding]:
    for rule in RULES:
        for place in (seen,) if rule.looks_at == "pyramid" else scales:
            found = None
            with contextlib.suppress(Exception):  # where `info` is wrong, it may be in any way
                found = rule.finds(place)
            if found is not None:
                yield Finding(rule, one_line(found), one_line(place.key) if isinstance(place, _Scale) else None)


def _verdict(
    reader: str, keys: Sequence[str], closed: set[str], findings: Iterable[Finding], *, is_known: bool
) -> Verdict:
    good = True if is_known else None
    concerned = tuple(finding for finding in findings if reader in finding.rule.readers)
    return Verdict(
        reader, False if closed else good, {key: False if key in closed else good for key in keys}, concerned
    )


def _concerned(group: Iterable[Finding]) -> str:
    readers = {reader for finding in group for reader in finding.rule.readers}
    return "all" if len(readers) == len(READERS) else ", ".join(reader for reader in READERS if reader in readers)


def _described(group: Sequence[Finding]) -> str:
    """Say what was found first, and in which scales there is the like."""
    scales = list(dict.fromkeys(finding.scale for finding in group if finding.scale is not None))
    return group[0].message + (f" (in {_some(scales)})" if scales else "")


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _some(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN_KEYS} more" if len(keys) > _SHOWN_KEYS else ""
    return ", ".join(keys[:_SHOWN_KEYS]) + more
