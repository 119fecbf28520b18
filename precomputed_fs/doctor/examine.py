"""Which readers can open a pyramid; and if one cannot, why not, and what to do.

`doctor` looks at a pyramid as it is stored: at `info`, at some chunks of every scale, at the server. What it has seen
is held against the rules of `precomputed_fs.doctor.rules`. Nothing is written, and a pyramid that is in pieces, or not
there, is a finding and no exception.
"""

import contextlib
import dataclasses
import functools
import html as markup
import http
import itertools
import math
import random
import struct
import threading
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from precomputed_fs import claims
from precomputed_fs.accessor import Found, FsspecAccessor, accessor_with
from precomputed_fs.codecs import Codec, jpeg_segments
from precomputed_fs.doctor.rules import (
    LARGEST_CHUNK,
    PAGE_ORIGIN,
    READERS,
    RULES,
    Rule,
    Sample,
    SeenPyramid,
    SeenScale,
    Server,
)
from precomputed_fs.errors import (
    AccessDeniedError,
    CorruptDataError,
    DataAccessError,
    InvalidInfoError,
    NotFoundError,
    URLError,
)
from precomputed_fs.format.grid import ChunkCoords, ChunkGrid, Triple, chunk_name, compressed_morton_code, size_of
from precomputed_fs.format.info import Info
from precomputed_fs.format.info_text import parse_info
from precomputed_fs.format.shard_index import minishard_index_range, page_of
from precomputed_fs.format.sharding import ENTRY_BYTES, Sharding
from precomputed_fs.store.answers import Answer
from precomputed_fs.store.location import Location
from precomputed_fs.store.protocols.base import Asynchronous
from precomputed_fs.store.requests import Compute, Exchange, HttpRequest, Job
from precomputed_fs.store.url import AnyURL, join
from precomputed_fs.volume import Scale, Volume, check_not_redirected, one_line, open_volume

MOST_REQUESTS = 12
"""Requests for one chunk, at most. It is one where a chunk stands under its plain name, and as many as there are names
where it is absent. A chunk in a shard takes three, and each sharded scale two more for its indexes."""

_TIMEOUT, _ATTEMPTS = 10.0, 2  # of one request: what is slower is to be found, not to be waited for
_IN_FLIGHT = 16
_BYTES_IN_FLIGHT = 256 << 20  # decoded
_SHOWN_KEYS = 6  # of scales, in a line of the report
_GZIP_MAGIC, _ZLIB_MAGICS = b"\x1f\x8b", (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_PROGRESSIVE_FRAMES = (0xC2, 0xC6, 0xCA, 0xCE)  # SOF markers (ITU-T T.81, table B.1)


def examine(
    url: AnyURL | Volume | FsspecAccessor,
    samples: int,
    seed: int,
    time_limit: float,
    accessor_options: Mapping[str, Any],
) -> "Report":
    """Look at a pyramid, and report: see `precomputed_fs.doctor`."""
    if samples < 1 or not time_limit > 0:
        raise ValueError(f"expected samples >= 1 and time_limit > 0, got {samples!r} and {time_limit!r}")
    options = {"timeout": _TIMEOUT, "attempts": _ATTEMPTS, **accessor_options}
    if isinstance(url, (Volume, FsspecAccessor)):
        if accessor_options:
            raise TypeError(f"{', '.join(accessor_options)}: for URLs; what is open already has its options")
        opened = url.accessor if isinstance(url, Volume) else url
        denied_is_missing = opened.denied_is_missing
        accessor, followed = opened.at(opened.location, denied_is_missing=False), None
    else:
        denied_is_missing = options.pop("denied_is_missing", False)  # what a store denies, others may not take so
        accessor, followed = accessor_with(url, options), url
    seen = SeenPyramid(accessor.location, time_limit, denied_is_missing)
    examination = _Examination(seen, followed, accessor, options, samples, seed)
    # A server may send a byte now and then for ever: so it is not waited for in this thread.
    thread = threading.Thread(target=examination.run, name="precomputed_fs-doctor", daemon=True)
    thread.start()
    thread.join(time_limit)
    seen.is_late = thread.is_alive()
    examination.is_over = True
    if examination.refusal is not None:
        raise examination.refusal
    return Report.of(seen)


# ------------------------------------------------------------------------------------------------------------- looking


@dataclass(slots=True)
class _Examination:
    """Looks at a pyramid, and writes down what it sees as it goes."""

    seen: SeenPyramid
    url: AnyURL | None
    """None, if an accessor was given."""

    accessor: FsspecAccessor
    options: Mapping[str, Any]
    samples: int
    seed: int
    is_over: bool = False
    refusal: URLError | None = None
    """What is wrong with how `doctor` was called, and not with the pyramid."""

    def run(self) -> None:
        try:
            if self._reads_info():
                self._asks_as_page()
                with self.accessor.expecting_info(self.seen.given):  # it was read already
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
            seen.state = _state_of(exc)
            seen.said = (seen.state == "absent" and claims.unfinished(self.accessor)) or str(exc)
        except (InvalidInfoError, URLError) as exc:
            seen.state, seen.said = "wrong", str(exc)
            if self.url is None and isinstance(exc, URLError):
                self.refusal = exc
        else:
            self._parses()
        return bool(seen.scales) or seen.state == "found"

    def _stores_info(self) -> None:
        seen, accessor = self.seen, self.accessor
        found = accessor.find_file("info")
        seen.info_suffix = found.suffix
        seen.text = accessor.decoded(found)
        seen.is_hidden_gzip = _is_hidden_gzip(found.suffix, found.body.content_encoding, found.body.data, seen.text)
        seen.given = parse_info(seen.text, accessor.location.display("info"), accessor.max_info_bytes)

    def _follows(self) -> None:
        if self.url is None:
            check_not_redirected(self.seen.given, self.accessor.location.display("info"))
            return
        volume = open_volume(self.url, **self.options)
        self.accessor.close()
        self.accessor = volume.accessor
        self.seen.location = volume.accessor.location
        self.seen.redirected_to = volume.url
        self._stores_info()

    def _parses(self) -> None:
        seen = self.seen
        given = seen.given.get("scales")
        scales = [
            SeenScale(seen, i, scale)
            for i, scale in enumerate(given if isinstance(given, list) else ())
            if isinstance(scale, Mapping)
        ]
        try:
            info = Info.parse(seen.text, seen.location.display("info"), self.accessor.max_info_bytes)
        except InvalidInfoError as exc:
            seen.state, seen.said = "wrong", str(exc)
        else:
            seen.state = "found"
            for scale, described in zip(scales, info.scales, strict=True):
                scale.info = described
        seen.scales = scales

    def _asks_as_page(self) -> None:
        with contextlib.suppress(Exception):  # then nothing is known of the server
            self.seen.server = _asked_as_page(self.accessor, float(self.options["timeout"]))

    def _looks_at_scales(self) -> None:
        if self.seen.state != "found":
            return
        volume = Volume(self.accessor, Info.parse(self.seen.text, most=self.accessor.max_info_bytes))
        try:
            for scale in self.seen.scales:
                if not self.is_over:
                    self._looks_at(scale, Scale(volume, scale.index))
        finally:
            volume.close()

    def _looks_at(self, seen: SeenScale, scale: Scale) -> None:
        sizes = map(min, scale.chunk_size, scale.shape[:3])
        seen.bytes_of_chunk = math.prod(sizes) * scale.shape[3] * scale.dtype.itemsize
        try:
            codec = scale.codec  # which may not be known
            accessor, key = scale.volume.accessor_for(scale.key)
        except ValueError as exc:
            seen.wrong = str(exc)
            return
        if seen.bytes_of_chunk > LARGEST_CHUNK:
            return
        coords = _chosen(scale.grid, self.samples, f"{self.seed}:{seen.index}")

        at_once = max(1, min(_IN_FLIGHT, _BYTES_IN_FLIGHT // seen.bytes_of_chunk))
        looks = (_look(accessor, key, one, codec) for one in coords)
        found = itertools.chain.from_iterable(accessor.objects.run_many(looks, at_once))
        seen.samples = sorted(found, key=lambda sample: coords.index(sample.coords))
        if scale.info.sharding is not None:
            _look_at_indexes(seen, accessor, key, scale.info.sharding)


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


def _look(accessor: FsspecAccessor, key: str, coords: ChunkCoords, codec: Codec) -> Job[list[Sample]]:
    """Find a chunk, and look at it in a thread of the pool."""
    found: Found | Exception
    try:
        found = yield from accessor.finding(key, coords)
    except (DataAccessError, ValueError) as exc:
        found = exc
    return [(yield Compute(functools.partial(_looked, accessor, coords, found, codec)))]


def _looked(accessor: FsspecAccessor, coords: ChunkCoords, found: Found | Exception, codec: Codec) -> Sample:
    """Tell how a chunk stands, and whether it can be decoded."""
    name = chunk_name(coords)
    try:
        if isinstance(found, Exception):
            raise found
        name = accessor.location.display(found.name)
        data = accessor.decoded(found)
        codec.decode(data, size_of(coords))
    except (DataAccessError, ValueError) as exc:
        is_unlisted = isinstance(exc, AccessDeniedError) and exc.may_mean_absent
        return Sample(coords, "unlisted" if is_unlisted else _state_of(exc), one_line(str(exc)), name)
    except ImportError as exc:
        return Sample(coords, "undecodable", str(exc), name)
    stored, said = found.data, found.body.content_encoding
    return Sample(
        coords,
        "found",
        name=found.name,
        suffix=found.suffix,
        is_flat=found.in_shard is not None or found.name.endswith(f"/{chunk_name(coords)}{found.suffix}"),
        content_encoding=said,
        is_hidden_gzip=found.in_shard is None and _is_hidden_gzip(found.suffix, said, stored, data),
        is_zlib=found.shard_gzip and stored.startswith(_ZLIB_MAGICS),
        is_gzip=found.shard_gzip and stored.startswith(_GZIP_MAGIC),
        is_progressive=codec.encoding == "jpeg"
        and any(kind in _PROGRESSIVE_FRAMES for kind, _, _ in jpeg_segments(data)),
    )


def _is_hidden_gzip(suffix: str, content_encoding: str, stored: bytes, data: bytes) -> bool:
    return not suffix and not content_encoding and stored.startswith(_GZIP_MAGIC) and stored != data


def _state_of(exc: Exception) -> str:
    kinds = ((NotFoundError, "absent"), (AccessDeniedError, "denied"), (CorruptDataError, "damaged"))
    return next((state for kind, state in kinds if isinstance(exc, kind)), "failed")


def _look_at_indexes(seen: SeenScale, accessor: FsspecAccessor, key: str, sharding: Sharding) -> None:
    """Look at the indexes of a shard, as they are stored: at the shard's own, and at one minishard's."""
    coords = next((sample.coords for sample in seen.samples if sample.state == "found"), None)
    if coords is None:
        return
    shard, minishard = sharding.locate(compressed_morton_code(seen.grid.cell(coords), seen.grid.shape))
    page, name = page_of(minishard, sharding), f"{key}/{sharding.shard_name(shard)}.shard"
    try:
        index = accessor.fetch_range(name, page.start, page.end)
        place = minishard_index_range(index, minishard, sharding)
        if place is None:
            return
        start = sharding.index_size + place.start
        stored = accessor.fetch_range(name, start, sharding.index_size + place.end)
    except DataAccessError:  # an older pair of files, which its chunks' names tell; or what these say
        return
    entries = struct.iter_unpack("<QQ", index[: len(index) // ENTRY_BYTES * ENTRY_BYTES])
    seen.has_empty_minishards = any(first == last for first, last in entries)
    if sharding.minishard_index_encoding == "gzip":
        seen.has_zlib_index = stored.startswith(_ZLIB_MAGICS)
        seen.has_gzip_index = stored.startswith(_GZIP_MAGIC)


# --------------------------------------------------------------------------------------------------------- the server


def _asked_as_page(accessor: FsspecAccessor, timeout: float) -> Server | None:
    """Ask for the first byte of `info` as a web page does: from elsewhere, without credentials; None where none can."""
    location = accessor.location
    if len(location.links) > 1 or location.fs is not None or not location.protocol.is_asynchronous:
        return None
    url = _public_url(dataclasses.replace(location, anon=True), timeout)
    if url is None:
        return None
    exchange = Exchange(HttpRequest(_without_user(url), {"Origin": PAGE_ORIGIN}), 0, 1, limit=1)
    answer = accessor.objects.run(_exchanged(exchange))
    denied = answer.status in (http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN)
    return Server(
        answer.status,
        answer.headers.get("access-control-allow-origin", ""),
        is_anonymous=not denied,
        said=http.HTTPStatus(answer.status).phrase if denied else "",
    )


def _exchanged(exchange: Exchange) -> Job[Answer]:
    """Send a request as it is, without credentials, and return whatever is answered."""
    answer: Answer = yield exchange
    return answer


def _public_url(location: Location, timeout: float) -> str | None:
    """Return the URL by which anybody would ask for `info`."""
    fs, root = location.open(timeout)
    path = join(root, "info")
    make = location.protocol.http_requests(fs) if isinstance(location.protocol, Asynchronous) else None
    if make is None:
        return path if "://" in path else None
    made = make("GET", path)
    if made is not None and not isinstance(made, HttpRequest):
        import fsspec.asyn  # noqa: PLC0415

        coroutine = made
        made = fsspec.asyn.sync(fs.loop, lambda: coroutine, timeout=timeout)
    return None if made is None else made.url


def _without_user(url: str) -> str:
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


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
    """Whether it opens and rightly reads all scales, as far as was looked; None where that cannot be told, as of a
    scale of which no chunk was looked at."""

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
    def of(cls, seen: SeenPyramid) -> "Report":
        """Hold what was seen against the rules."""
        scales = tuple(seen.scales)
        closed: dict[str, set[str]] = {reader: set() for reader in READERS}
        unknown: set[str] = set()
        findings = list(_findings(seen, scales))
        keys = [one_line(scale.key) for scale in scales]
        for finding in findings:
            rule, everywhere = finding.rule, {*keys, ""}
            here = everywhere if finding.scale is None else {finding.scale}
            if rule.hides:
                unknown |= here
            if rule.severity == "error":
                for reader in rule.readers:
                    closed[reader] |= everywhere if rule.closes_all else here
        order = ("error", "warning", "note")
        findings.sort(key=lambda finding: order.index(finding.rule.severity))
        return cls(
            one_line(seen.location.display()),
            tuple(keys),
            sum(len(scale.samples) for scale in scales),
            {reader: _verdict(reader, keys, closed[reader], unknown, findings) for reader in READERS},
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


def _findings(seen: SeenPyramid, scales: Iterable[SeenScale]) -> Iterator[Finding]:
    for rule in RULES:
        for place in (seen,) if rule.looks_at == "pyramid" else scales:
            found = None
            with contextlib.suppress(Exception):  # where `info` is wrong, it may be in any way
                found = rule.finds(place)
            if found is not None:
                yield Finding(rule, one_line(found), one_line(place.key) if isinstance(place, SeenScale) else None)


def _verdict(
    reader: str, keys: Iterable[str], closed: set[str], unknown: set[str], findings: Iterable[Finding]
) -> Verdict:
    scales = {key: False if key in closed else None if key in unknown else True for key in keys}
    is_open = None if unknown else True
    concerned = tuple(finding for finding in findings if reader in finding.rule.readers)
    return Verdict(reader, False if closed else is_open, scales, concerned)


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
