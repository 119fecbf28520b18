"""How a pyramid is examined: `info`, some chunks of every scale, and the server."""

import contextlib
import dataclasses
import itertools
import math
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from precomputed_fs.accessor import FsspecAccessor
from precomputed_fs.doctor.chunks import examine_chunk, examine_indexes, is_hidden_gzip, state_of
from precomputed_fs.doctor.cors import ask_as_page
from precomputed_fs.doctor.folders import examine_alone, examine_folder, find_folders
from precomputed_fs.doctor.report import Report
from precomputed_fs.doctor.seen import LARGEST_CHUNK, SeenPyramid, SeenScale
from precomputed_fs.errors import DataAccessError, InvalidInfoError, NotFoundError, URLError
from precomputed_fs.format.grid import ChunkCoords, ChunkGrid, Triple
from precomputed_fs.format.info import Info
from precomputed_fs.format.info_text import parse_info
from precomputed_fs.format.scene_types import scene_type_of
from precomputed_fs.keywords import AccessorOptions
from precomputed_fs.pyramid import claims
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume import Scale, Volume, check_not_redirected, open_volume

MOST_REQUESTS = 12
"""The most requests for one chunk: one if it has its plain name, and one per possible name if it is absent. A chunk in
a shard takes three, and each sharded scale two more for its indexes."""

_IN_FLIGHT = 16
_BYTES_IN_FLIGHT = 256 << 20  # decoded


def examine(
    url: AnyURL | Volume | FsspecAccessor,
    *,
    samples: int,
    seed: int,
    time_limit: float,
    accessor_options: AccessorOptions,
    defaults: AccessorOptions,
) -> "Report":
    """Examine a pyramid, and report: see `precomputed_fs.doctor`."""
    if samples < 1 or not time_limit > 0:
        raise ValueError(f"expected samples >= 1 and time_limit > 0, got {samples!r} and {time_limit!r}")
    options: AccessorOptions = {**defaults, **accessor_options}
    if isinstance(url, (Volume, FsspecAccessor)):
        if accessor_options:
            raise TypeError(f"{', '.join(accessor_options)}: for URLs; what is open already has its options")
        opened = url.accessor if isinstance(url, Volume) else url
        store = opened.pyramid.store
        denied_is_missing, followed = store.denied_is_missing, None
        kept = dataclasses.asdict(opened.pyramid.options)
        accessor = FsspecAccessor(store.location, attempts=store.attempts, timeout=store.timeout, **kept)
    else:
        denied_is_missing = options.pop("denied_is_missing", False)  # other readers may treat a 403 differently
        accessor, followed = FsspecAccessor(url, **options), url
    seen = SeenPyramid(accessor.pyramid.location, time_limit, denied_is_missing)
    examination = _Examination(seen, followed, accessor, options, samples, seed)
    # In another thread, since a server may send single bytes forever, and never time out.
    thread = threading.Thread(target=examination.run, name="precomputed_fs-doctor", daemon=True)
    thread.start()
    thread.join(time_limit)
    seen.is_late = thread.is_alive()
    examination.is_over = True
    if examination.refusal is not None:
        raise examination.refusal
    return Report.of(seen)


@dataclass(slots=True)
class _Examination:
    """Examines a pyramid, and records what it sees as it goes."""

    seen: SeenPyramid
    url: AnyURL | None
    """None if an accessor was given."""

    accessor: FsspecAccessor
    options: AccessorOptions
    samples: int
    seed: int
    is_over: bool = False
    refusal: URLError | None = None
    """What is wrong with the call, and not with the pyramid."""

    def run(self) -> None:
        try:
            if self._read_info():
                self._ask_as_page()
                with self.accessor.pyramid.expecting_info(self.seen.given):  # already read
                    self._examine_scales()
                    self._examine_folders()
        except Exception as exc:  # noqa: BLE001 - a finding, and not an exception
            if self.seen.state in ("unseen", "found"):
                self.seen.state, self.seen.said = "failed", type(exc).__name__  # its message may contain secrets
        finally:
            with contextlib.suppress(Exception):  # a lost connection may raise again
                self.accessor.close()

    def _read_info(self) -> bool:
        """Read `info` as it is stored, and follow its redirect; return whether there are scales to examine."""
        seen = self.seen
        try:
            self._record_info()
            if "redirect" in seen.given:
                self._follow_redirect()
        except DataAccessError as exc:
            seen.state = state_of(exc)
            said = claims.absence(self.accessor.pyramid, exc) if isinstance(exc, NotFoundError) else ""
            seen.said = said or str(exc)
        except (InvalidInfoError, URLError) as exc:
            seen.state, seen.said = "wrong", str(exc)
            if self.url is None and isinstance(exc, URLError):
                self.refusal = exc
        else:
            self._parse()
        return bool(seen.scales) or seen.state == "found"

    def _record_info(self) -> None:
        seen, accessor = self.seen, self.accessor
        found = accessor.pyramid.find_file("info")
        seen.info_suffix = found.suffix
        seen.text = found.decoded()
        seen.is_hidden_gzip = is_hidden_gzip(found.suffix, found.body.content_encoding, found.body.data, seen.text)
        pyramid = accessor.pyramid
        seen.given = parse_info(seen.text, pyramid.location.display("info"), pyramid.options.max_info_bytes)

    def _follow_redirect(self) -> None:
        if self.url is None:
            check_not_redirected(self.seen.given, self.accessor.pyramid.location.display("info"))
            return
        volume = open_volume(self.url, **self.options)
        self.accessor.close()
        self.accessor = volume.accessor
        self.seen.location = volume.accessor.pyramid.location
        self.seen.redirected_to = volume.url
        self._record_info()

    def _parse(self) -> None:
        seen = self.seen
        kind = scene_type_of(seen.given)
        if kind is not None:
            seen.folders = [examine_alone(seen, kind)]
            return
        given = seen.given.get("scales")
        scales = [
            SeenScale(seen, i, scale)
            for i, scale in enumerate(given if isinstance(given, list) else ())
            if isinstance(scale, Mapping)
        ]
        try:
            info = Info.parse(seen.text, seen.location.display("info"), self.accessor.pyramid.options.max_info_bytes)
        except InvalidInfoError as exc:
            seen.state, seen.said = "wrong", str(exc)
        else:
            seen.state = "found"
            seen.folders = find_folders(seen, info)
            for scale, described in zip(scales, info.scales, strict=True):
                scale.info = described
        seen.scales = scales

    def _ask_as_page(self) -> None:
        with contextlib.suppress(Exception):  # nothing is known of the server then
            self.seen.server = ask_as_page(self.accessor.pyramid, float(self.options["timeout"]))

    def _examine_scales(self) -> None:
        if self.seen.state != "found" or self.seen.alone is not None:
            return
        volume = Volume(self.accessor, Info.parse(self.seen.text, most=self.accessor.pyramid.options.max_info_bytes))
        try:
            for scale in self.seen.scales:
                if not self.is_over:
                    self._examine_scale(scale, Scale(volume, scale.index))
        finally:
            volume.close()

    def _examine_folders(self) -> None:
        for folder in self.seen.folders:
            if not self.is_over:
                examine_folder(folder, self.accessor.pyramid)

    def _examine_scale(self, seen: SeenScale, scale: Scale) -> None:
        sizes = map(min, scale.chunk_size, scale.shape[:3])
        seen.bytes_of_chunk = math.prod(sizes) * scale.shape[3] * scale.dtype.itemsize
        try:
            codec = scale.codec  # of an encoding that may be unknown
            pyramid, key = scale.volume.pyramid_for(scale.key)
        except ValueError as exc:
            seen.wrong = str(exc)
            return
        if seen.bytes_of_chunk > LARGEST_CHUNK:
            return
        coords = _chosen(scale.grid, self.samples, f"{self.seed}:{seen.index}")

        at_once = max(1, min(_IN_FLIGHT, _BYTES_IN_FLIGHT // seen.bytes_of_chunk))
        looks = (examine_chunk(pyramid, key, one, codec) for one in coords)
        found = itertools.chain.from_iterable(pyramid.store.run_many(looks, at_once))
        seen.samples = sorted(found, key=lambda sample: coords.index(sample.coords))
        if scale.info.sharding is not None:
            examine_indexes(seen, pyramid, key, scale.info.sharding)


def _chosen(grid: ChunkGrid, count: int, seed: str) -> list[ChunkCoords]:
    """Choose chunks: the first, the last, the middle one, and others at random."""
    x, y, z = grid.shape
    if x * y * z <= count:
        return [grid.chunk(cell) for cell in itertools.product(range(x), range(y), range(z))]
    cells: dict[Triple, None] = dict.fromkeys([(0, 0, 0), (x - 1, y - 1, z - 1), (x // 2, y // 2, z // 2)][:count])
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    while len(cells) < count:
        cells[chance.randrange(x), chance.randrange(y), chance.randrange(z)] = None
    return [grid.chunk(cell) for cell in cells]
