"""A server that shows any pyramid to the Neuroglancer web client, and links that open the client.

What the client gets is a pyramid as the specification has it: every chunk under its own flat name, not
compressed, in an encoding that the client reads. How it is stored does not matter: the accessor finds
and unpacks it. So scales are shown unsharded, too: one request of the client is one chunk, in shards of
any kind, and their indexes are read and remembered here, once for all that ask.

To the client, a server that it cannot reach or that answers 403 has no such chunk, and shows nothing in
its place. So a failure is never told like that: 404 is the store's own word, 502 is what the store
refuses or holds in pieces, and 503, after which the client tries again, is what may pass.

Whoever knows a server's URL can read the pyramid; others on the machine, and web pages, do not: there is
a random token in it. A page that gives its own host name this machine's address is found out by that name.
"""

import asyncio
import atexit
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import html
import http
import importlib.util
import itertools
import json
import logging
import math
import os
import re
import secrets
import socket
import threading
import urllib.parse
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from precomputed_fs.accessor import FsspecAccessor
from precomputed_fs.codecs import ENCODINGS, Codec, codec_for
from precomputed_fs.errors import (
    AccessDeniedError,
    CorruptDataError,
    DataAccessError,
    InvalidInfoError,
    NotFoundError,
    ReadOnlyError,
)
from precomputed_fs.format.grid import Box, ChunkCoords, ChunkGrid, chunk_coords, chunk_name
from precomputed_fs.format.info import Info
from precomputed_fs.store.loop import in_thread
from precomputed_fs.store.url import AnyURL, check_relative_path
from precomputed_fs.volume import Scale, Volume, open_volume, volume_of

if TYPE_CHECKING:
    from aiohttp import web

_HOST = "127.0.0.1"
_HOST_NAMES = (_HOST, "localhost")
_THREADS = 32  # that decode, and look up what the client has; to fetch, accessors have their own
_MOST_PORTS = 1 << 16
_LAST_MOMENT = 0.1  # seconds that requests under way have to end when a server is closed
_PATIENCE = 10.0  # seconds that closing may take
_METHODS = "GET, HEAD, OPTIONS"
_JSON = "application/json"
_OCTETS = "application/octet-stream"
_TEXT = "text/plain; charset=utf-8"

_COMMON = {
    "Cache-Control": "private, no-cache",  # the voxels may change, and an ETag asks for little
    "Referrer-Policy": "no-referrer",  # the token is part of the address
    "Server": "precomputed_fs",
    "X-Content-Type-Options": "nosniff",  # what a pyramid has in it is data, whatever it looks like
}
_CROSS_ORIGIN = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Accept-Ranges, Content-Encoding, Content-Length, Content-Range, ETag",
    "Cross-Origin-Resource-Policy": "cross-origin",
}
_PREFLIGHT = {
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Allow-Methods": _METHODS,
    "Access-Control-Allow-Private-Network": "true",
    "Access-Control-Max-Age": "7200",
}

_STATUSES: tuple[tuple[type[Exception], http.HTTPStatus], ...] = (
    (NotFoundError, http.HTTPStatus.NOT_FOUND),
    (AccessDeniedError, http.HTTPStatus.BAD_GATEWAY),
    (CorruptDataError, http.HTTPStatus.BAD_GATEWAY),
    (InvalidInfoError, http.HTTPStatus.BAD_GATEWAY),
    (DataAccessError, http.HTTPStatus.SERVICE_UNAVAILABLE),
    (ImportError, http.HTTPStatus.NOT_IMPLEMENTED),
)
"""What an exception is told as, the first that fits; all others are errors of this server."""

_log = logging.getLogger("precomputed_fs")
_silent = logging.Logger("precomputed_fs.serve")  # noqa: LOG001 - of no tree: aiohttp's would show requests
_silent.disabled = True


def serve(
    source: AnyURL | Volume | FsspecAccessor,
    *,
    port: int = 0,
    follow_links: bool = False,
    **accessor_options: Any,  # noqa: ANN401 - as FsspecAccessor has them
) -> "Server":
    """Show a pyramid to the Neuroglancer web client, on this machine.

    Parameters
    ----------
    source : str, path, UPath, Volume or FsspecAccessor
        The pyramid.
    port : int
        Where to listen on 127.0.0.1; by default at any free port.
    follow_links : bool
        Whether to serve what symbolic links lead to that leave the pyramid, on disk or over SFTP.
    **accessor_options
        Options of `FsspecAccessor`, for a URL.

    Returns
    -------
    Server
        It runs in a thread of its own until it is closed, or the interpreter ends.

    Raises
    ------
    NotFoundError, AccessDeniedError, DataAccessError, InvalidInfoError, URLError
        If the pyramid cannot be opened; see `open_volume`.
    OSError
        If the port is taken.
    ValueError
        If there is no such port.

    Notes
    -----
    Chunks of an encoding that the client does not read are decoded on the way: crackle, fpzip, zfpc,
    kempressed, JPEG XL of several channels, 16-bit PNG of several channels; JPEG, too, of which it
    gets progressive ones wrong. Voxels of float64 are shown as float32, and int64 as float32 in
    images and as uint64 in segmentations.

    Examples
    --------
    >>> import precomputed_fs
    >>> vol = precomputed_fs.create_volume("memory://docs/served", np.ones((8, 8, 8), np.uint8), resolution=(1, 1, 1))
    >>> with precomputed_fs.serve(vol) as server:
    ...     precomputed_fs.open_volume(server.url)[0][3, 3, 3, 0]
    np.uint8(1)
    """
    if isinstance(source, (Volume, FsspecAccessor)):
        if accessor_options:
            message = f"{', '.join(accessor_options)}: for URLs; what is open already has its options"
            raise TypeError(message)
        volume = source if isinstance(source, Volume) else volume_of(source)
        return Server(volume, port=port, follow_links=follow_links)
    volume = open_volume(source, **accessor_options)
    if not follow_links:
        volume.accessor = volume.accessor.confined()
    try:
        return Server(volume, port=port, follow_links=follow_links, closes_volume=True)
    except BaseException:
        volume.close()
        raise


# --------------------------------------------------------------------------------------- the pyramid, as it is shown


class _Content(NamedTuple):
    """What a path names."""

    data: bytes
    mime_type: str


_CHUNK_NAME = re.compile(r"(-?\d{1,19})-(-?\d{1,19})_(-?\d{1,19})-(-?\d{1,19})_(-?\d{1,19})-(-?\d{1,19})", re.ASCII)
_PLAIN_SEGMENT = re.compile(r"(?!\.\.?\Z)[\w.~+,=-]+", re.ASCII)
_CLIENT_CHANNELS: Mapping[str, Sequence[int] | None] = {
    "raw": None,
    "jpeg": (1, 3),
    "png": (1, 2, 3, 4),
    "jxl": (1,),
    "compressed_segmentation": None,
    "compresso": (1,),
}
"""The encodings that the client reads, and how many channels of them; None: any."""


def _client_type(info: "Info") -> str:
    """Return the data type that voxels are shown as: the client has no floats or signed integers of 64 bits."""
    if info.data_type == "int64" and info.type == "segmentation":
        return "uint64"
    return "float32" if info.data_type in ("int64", "float64") else info.data_type


def _client_reads(codec: Codec, data_type: str) -> bool:
    """Whether the client decodes what is stored with a codec, into the type that it is shown as."""
    channels = _CLIENT_CHANNELS.get(codec.encoding, ())
    if codec.encoding == "png" and codec.data_type == "uint16":
        channels = (1,)  # of several, it mixes the bytes
    return data_type == codec.data_type and (channels is None or codec.num_channels in channels)


def _shown_codec(codec: Codec, data_type: str) -> Codec:
    """Return what the client is to decode chunks by: the codec that they are stored with, if it can.

    JPEG is decoded for it, too: it gets progressive ones wrong by tens of grey levels, which
    neuroglancer-scripts writes, and `info` does not tell one from the other.
    """
    if codec.encoding != "jpeg" and _client_reads(codec, data_type):
        return codec
    return codec_for("raw", data_type, codec.num_channels, {}, codec.place)


@dataclass(frozen=True, slots=True)
class _ShownScale:
    """One scale as the client sees it."""

    accessor: FsspecAccessor
    key: str
    grids: tuple[ChunkGrid, ...]
    stored: Codec
    shown: Codec

    @classmethod
    def of(cls, scale: Scale) -> Self:
        """Look up how a scale is stored."""
        info = scale.volume.info
        accessor, key = scale.volume.accessor_for(scale.key)
        grids = tuple(ChunkGrid(scale.info.size, size, scale.voxel_offset) for size in scale.info.chunk_sizes)
        return cls(accessor, key, grids, scale.codec, _shown_codec(scale.codec, _client_type(info)))

    async def fetch(self, coords: ChunkCoords) -> _Content:
        """Fetch a chunk for the client; one that is none of the grid is absent."""
        if not any(_has_chunk(grid, coords) for grid in self.grids):
            message = f"{chunk_name(coords)} is no chunk of scale {self.key}"
            raise NotFoundError(message)
        data = await self.accessor.fetch_chunk_async(self.key, coords)
        if self.shown != self.stored:
            data = await asyncio.to_thread(self._transcode, data, coords)
        elif self.stored.encoding == "raw":
            self.stored.decode(data, Box.of(coords).shape)  # which looks at the length, and at nothing else
        return _Content(data, self.shown.mime_type)

    def _transcode(self, data: bytes, coords: ChunkCoords) -> bytes:
        voxels = self.stored.decode(data, Box.of(coords).shape)
        with np.errstate(over="ignore"):  # a float64 may be beyond float32: infinite
            return self.shown.encode(voxels.astype(self.shown.dtype, copy=False))


def _has_chunk(grid: ChunkGrid, coords: ChunkCoords) -> bool:
    try:
        grid.cell(coords)
    except ValueError:
        return False
    return True


def _coords_of(name: str) -> ChunkCoords | None:
    """Read the name of a chunk, as the specification spells it."""
    match = _CHUNK_NAME.fullmatch(name)
    if match is not None:
        with contextlib.suppress(ValueError):
            coords = chunk_coords(map(int, match.groups()))
            return coords if chunk_name(coords) == name else None
    return None


class _Pyramid:
    """A pyramid as the client sees it: what its `info` says, and the objects that are there then."""

    def __init__(self, volume: Volume, *, follow_links: bool) -> None:
        self._accessor = volume.accessor
        self._scales: dict[str, _ShownScale] = {}
        shown = [_ShownScale.of(scale) for scale in volume]
        if not follow_links:
            self._accessor = self._accessor.confined()
            self._accessor.check_info()
            shown = [dataclasses.replace(scale, accessor=scale.accessor.confined()) for scale in shown]
        keys = self._name(volume, shown)
        self.info = _shown_info(volume, keys, shown).to_json()

    def _name(self, volume: Volume, shown: Sequence[_ShownScale]) -> list[str]:
        """Give each scale a key: its own, unless that leads elsewhere or means something in a URL."""
        keys = []
        taken = {scale.key for scale in volume}
        for i, (given, scale) in enumerate(zip(volume, shown, strict=True)):
            key = given.key.removesuffix("/")
            if not all(map(_PLAIN_SEGMENT.fullmatch, key.split("/"))):
                key = next(name for n in itertools.count() if (name := f"scale{i}.{n}") not in taken)
            same = self._scales.get(key)
            grids = (*same.grids, *scale.grids) if same else scale.grids
            self._scales[key] = dataclasses.replace(scale, grids=grids)
            keys.append(key)
        return keys

    async def fetch(self, path: str) -> _Content:
        """Fetch what a path, percent-decoded, names.

        Raises
        ------
        NotFoundError
            If there is nothing, or the path leads out of the pyramid.
        DataAccessError
            If the store fails.
        """
        if path == "info":
            return _Content(self.info, _JSON)
        key, _, name = path.rpartition("/")
        scale, coords = self._scales.get(key), _coords_of(name)
        if scale is not None and coords is not None:
            return await scale.fetch(coords)
        data = await self._accessor.fetch_file_async(_inside(path))
        return _Content(data, _JSON if name == "info" or name.endswith(".json") else _OCTETS)

    async def fetch_range(self, path: str, span: slice) -> bytes | None:
        """Fetch a part of a shard, such as meshes are in, without the rest; None: the rest is needed to tell."""
        with contextlib.suppress(NotFoundError, CorruptDataError):  # under another name; beyond its end
            return await in_thread(functools.partial(self._accessor.fetch_range, _inside(path), span.start, span.stop))
        return None


def _inside(path: str) -> str:
    try:
        return check_relative_path(path)
    except ValueError as exc:
        raise NotFoundError(str(exc)) from exc


def _shown_info(volume: Volume, keys: Sequence[str], shown: Sequence[_ShownScale]) -> "Info":
    """Rewrite an `info` to what is shown, the finest scale first; what is unknown stays."""
    info = volume.info
    own = {parameter.key for row in ENCODINGS.values() for parameter in row.parameters}
    scales = []
    for before, key, scale in zip(volume, keys, shown, strict=True):
        dropped = {"sharding"} | (own if scale.shown != scale.stored else set())
        kept = {name: value for name, value in before.info.to_dict().items() if name not in dropped}
        scales.append({**kept, "key": key, "encoding": scale.shown.encoding})
    return Info.parse(
        {
            **info.to_dict(),
            "@type": "neuroglancer_multiscale_volume",
            "type": info.type if info.type in ("image", "segmentation") else "image",
            "data_type": _client_type(info),
            "scales": scales,
        }
    )


# --------------------------------------------------------------------------------------------------------- the server

_listening: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()


def _stop_listening() -> None:
    """Let go of what a forked process has inherited: the port would stay taken, and nobody would answer there."""
    for listener in _listening:
        listener.close()
    _listening.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stop_listening)


class Server:
    """A running server of one pyramid; `serve` makes one, and it can be a context manager.

    Attributes
    ----------
    volume : Volume
        What it shows.
    port : int
        Where it listens, on 127.0.0.1.
    """

    def __init__(
        self, volume: Volume, *, port: int = 0, follow_links: bool = False, closes_volume: bool = False
    ) -> None:
        if not volume.accessor.can_read:
            message = f"{volume.url}: this archive is open for writing"
            raise ReadOnlyError(message)
        if not 0 <= port < _MOST_PORTS:
            message = f"port: expected 0 to {_MOST_PORTS - 1}, got {port}"
            raise ValueError(message)
        self.volume = volume
        self.port = 0
        self._closes_volume = closes_volume
        self._pyramid = _Pyramid(volume, follow_links=follow_links)
        self._token = secrets.token_urlsafe(16)
        self._fragments: dict[str, str] = {}  # states of views, by their numbers
        self._warned: set[type[Exception]] = set()
        self._made_by = os.getpid()
        self._is_open = True
        self._runner: web.ServerRunner | None = None
        self._listener: socket.socket | None = None
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._executor = concurrent.futures.ThreadPoolExecutor(_THREADS, "precomputed_fs-serve")
        self._loop.set_default_executor(self._executor)
        self._thread = threading.Thread(target=self._loop.run_forever, name="precomputed_fs-serve", daemon=True)
        self._thread.start()
        atexit.register(self.close)
        try:
            self.port = asyncio.run_coroutine_threadsafe(self._listen(port), self._loop).result()
        except BaseException:
            self._closes_volume = False  # the caller has it yet
            self.close()
            raise

    @property
    def url(self) -> str:
        """Where the pyramid is, for whatever reads pyramids over HTTP. Whoever knows it can read them."""
        return f"{self._root}/data"

    @property
    def source(self) -> str:
        """What to give Neuroglancer as a layer's source: ``precomputed://`` and `url`."""
        return f"precomputed://{self.url}"

    @property
    def is_open(self) -> bool:
        """Whether it answers, here: a process that was forked has it only by name."""
        return self._is_open and self._made_by == os.getpid()

    @property
    def _root(self) -> str:
        return f"http://{_HOST}:{self.port}/{self._token}"

    def __repr__(self) -> str:
        state = f"port {self.port}" if self.is_open else "closed"
        return f"<Server of {self.volume.url}: {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def view(self, *, layout: str | None = None, height: int = 600) -> "View":
        """Show the pyramid in the web client that the package ``neuroglancer`` brings; see `Volume.view`."""
        _client_folder()
        if not self.is_open:
            message = f"the server of {self.volume.url} is closed"
            raise ValueError(message)
        fragment = _fragment(_state(self.volume, self.source, layout, height))
        with self._lock:
            number = str(len(self._fragments))
            self._fragments[number] = fragment
        return View(f"{self._root}/view/{number}", height, self)

    def close(self) -> None:
        """End it: what is under way has a moment to end by itself."""
        with self._lock:
            if not self.is_open:
                return
            self._is_open = False
        atexit.unregister(self.close)
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()
        if self._closes_volume:
            self.volume.close()

    async def _listen(self, port: int) -> int:
        from aiohttp import web  # noqa: PLC0415 - only where something is served

        server = web.Server(self._handle, handler_cancellation=True, access_log=None, logger=_silent)
        self._runner = web.ServerRunner(server, shutdown_timeout=_LAST_MOMENT)
        await self._runner.setup()
        self._listener = socket.create_server((_HOST, port))
        _listening.add(self._listener)
        await web.SockSite(self._runner, self._listener).start()
        return int(self._listener.getsockname()[1])

    async def _end(self) -> None:
        if self._listener is not None:  # asyncio loses a connection that is accepted while it closes
            self._loop.remove_reader(self._listener)
            for _ in range(5):  # turns of the loop, in which the runner is told of the last that were accepted
                await asyncio.sleep(0)
        if self._runner is not None:
            await self._runner.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self._executor.shutdown(wait=False, cancel_futures=True)

    # -------------------------------------------------------------------------- requests

    async def _handle(self, request: "web.BaseRequest") -> "web.StreamResponse":
        if not self._is_addressed(request):
            return _response(http.HTTPStatus.FORBIDDEN, b"this is not the host that you asked for")
        path = self._path(request)
        if path is None:
            is_icon = request.raw_path == "/favicon.ico"  # every browser asks; the client has none
            return _response(http.HTTPStatus.NO_CONTENT if is_icon else http.HTTPStatus.NOT_FOUND)
        if request.method in ("GET", "HEAD"):
            try:
                return await self._respond(request, path)
            except Exception as exc:  # noqa: BLE001 - each is told by its status
                return self._failure(exc)
        if request.method == "OPTIONS":
            return _response(http.HTTPStatus.NO_CONTENT, headers={**_CROSS_ORIGIN, **_PREFLIGHT})
        return _response(http.HTTPStatus.METHOD_NOT_ALLOWED, headers={**_CROSS_ORIGIN, "Allow": _METHODS})

    def _is_addressed(self, request: "web.BaseRequest") -> bool:
        """Whether it is us that a page means: not a host of its own that has got this machine's address."""
        names = [name.lower() for name in request.headers.getall("Host", [])]
        return len(names) == 1 and names[0] in {f"{name}:{self.port}" for name in _HOST_NAMES}

    def _path(self, request: "web.BaseRequest") -> str | None:
        """Return what is asked for, percent-decoded, below the token; None if that is not the right one."""
        _, _, rest = request.raw_path.partition("?")[0].partition("/")
        token, _, path = rest.partition("/")
        if not secrets.compare_digest(token.encode(errors="surrogateescape"), self._token.encode()):
            return None
        try:
            return urllib.parse.unquote(path, errors="strict")
        except UnicodeDecodeError:
            return None

    async def _respond(self, request: "web.BaseRequest", path: str) -> "web.StreamResponse":
        area, _, rest = path.partition("/")
        if area == "data":
            span = _simple_span(request) if rest.endswith(".shard") else None
            part = None if span is None else await self._pyramid.fetch_range(rest, span)
            if span is not None and part is not None:
                return _part(part, f"bytes {span.start}-{span.stop - 1}/*")
            return await _answer(request, await self._pyramid.fetch(rest))
        number, _, name = rest.partition("/")
        fragment = self._fragments.get(number)
        if fragment is not None and area == "v":
            return await _answer(request, await asyncio.to_thread(_client_file, name))
        if fragment is not None and area == "view" and number == rest:
            location = f"/{self._token}/v/{number}/{_PAGE}#!{fragment}"
            return _response(http.HTTPStatus.FOUND, headers={"Location": location})
        if fragment is not None and area == "events" and number == rest:
            return _response(http.HTTPStatus.NO_CONTENT)
        raise NotFoundError(path)

    def _failure(self, exc: Exception) -> "web.Response":
        """Tell of a failure, and the first of each kind in the log, too: the client hides those of chunks."""
        unknown = http.HTTPStatus.INTERNAL_SERVER_ERROR
        status = next((status for kind, status in _STATUSES if isinstance(exc, kind)), unknown)
        said = type(exc).__name__ if status == unknown else str(exc)
        if status != http.HTTPStatus.NOT_FOUND and type(exc) not in self._warned:
            self._warned.add(type(exc))
            _log.warning("serving %s: %s", self.volume.url, said, exc_info=exc if status == unknown else None)
        return _response(status, said.encode(errors="replace"), _CROSS_ORIGIN)


def _response(
    status: http.HTTPStatus, body: bytes = b"", headers: Mapping[str, str] = {}, mime_type: str = _TEXT
) -> "web.Response":
    from aiohttp import web  # noqa: PLC0415

    return web.Response(status=status, body=body, headers={**_COMMON, "Content-Type": mime_type, **headers})


async def _answer(request: "web.BaseRequest", content: _Content) -> "web.Response":
    """Answer with what was found, or a part of it (RFC 9110, sections 13 and 14)."""
    data, mime_type = content
    etag = await asyncio.to_thread(_etag, data)
    headers = {**_CROSS_ORIGIN, "Accept-Ranges": "bytes", "ETag": etag}
    if _has_etag(request, etag):
        return _response(http.HTTPStatus.NOT_MODIFIED, headers=headers, mime_type=mime_type)
    span = None
    if request.method == "GET" and request.headers.get("If-Range", etag) == etag:
        span = _span(request, len(data))
    if span is None:
        return _response(http.HTTPStatus.OK, data, headers, mime_type)
    if span.start >= span.stop:
        headers["Content-Range"] = f"bytes */{len(data)}"
        return _response(http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers=headers)
    return _part(data[span], f"bytes {span.start}-{span.stop - 1}/{len(data)}", {"ETag": etag}, mime_type)


def _part(data: bytes, content_range: str, headers: Mapping[str, str] = {}, mime_type: str = _OCTETS) -> "web.Response":
    headers = {**_CROSS_ORIGIN, "Accept-Ranges": "bytes", "Content-Range": content_range, **headers}
    return _response(http.HTTPStatus.PARTIAL_CONTENT, data, headers, mime_type)


def _etag(data: bytes) -> str:
    return f'"{hashlib.blake2b(data, digest_size=16).hexdigest()}"'


def _has_etag(request: "web.BaseRequest", etag: str) -> bool:
    """Whether the client has these bytes already."""
    given = ",".join(request.headers.getall("If-None-Match", [])).strip()
    return given == "*" or etag in re.findall(r'"[^"]*"', given)


_RANGE = re.compile(r"bytes=\s*(\d{0,19})-(\d{0,19})\s*", re.ASCII | re.IGNORECASE)


def _span(request: "web.BaseRequest", size: int) -> slice | None:
    """Read which bytes a request asks for: None for all of them, an empty slice for what cannot be.

    What is malformed, and several ranges at once, may be ignored (RFC 9110, section 14.2).
    """
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        return slice(max(0, size - int(last)), size)
    if last and int(last) < int(first):
        return None
    return slice(int(first), min(size, int(last) + 1) if last else size)


def _simple_span(request: "web.BaseRequest") -> slice | None:
    """Read which bytes a request asks for, if that can be told without the size of the whole."""
    match = _RANGE.fullmatch(request.headers.get("Range", ""))
    if match is None or request.method != "GET" or {"If-Range", "If-None-Match"} & request.headers.keys():
        return None
    first, last = match.groups()
    return slice(int(first), int(last) + 1) if first and last and int(first) <= int(last) else None


# --------------------------------------------------------------------------------------------------------- the client

_CLIENT_FILE = re.compile(r"[a-z0-9][\w-]*(?:\.[\w-]+)*\.(html|css|js|wasm|map)", re.ASCII)
_CLIENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "wasm": "application/wasm",
    "map": _JSON,
}


_PAGE = "index.html"
_NEWS = b"""<script>
window.EventSource = class {
  constructor(url) { this.url = url; this.ask(); }
  async ask() {
    const answer = await fetch(this.url, {method: "HEAD"}).catch(() => null);
    if (this.closed) return;
    if (!answer?.ok) return this.onerror?.();
    if (!this.open) { this.open = true; this.onopen?.(); }
    setTimeout(() => this.closed || this.ask(), 3000);
  }
  close() { this.closed = true; }
};
</script>"""
"""By which the client finds out whether the server still runs. It listens for news from Python, of which there are
none, and says when that ends. But a browser has 6 to 10 connections to a server: as many views would take them all."""


def _client_folder() -> Path:
    """Find the web client in the installed package, which need not be imported for its files."""
    spec = importlib.util.find_spec("neuroglancer")
    for parent in (spec and spec.submodule_search_locations) or ():
        folder = Path(parent) / "static" / "client"
        if (folder / _PAGE).is_file():
            return folder
    message = "the Neuroglancer web client is not installed: pip install 'precomputed-fs[neuroglancer]'"
    raise ImportError(message)


def _client_file(name: str) -> _Content:
    match = _CLIENT_FILE.fullmatch(name)
    if match is None:
        raise NotFoundError(name)
    path = _client_folder() / name
    if not path.is_file():
        raise NotFoundError(name)
    data = path.read_bytes()
    if name == _PAGE:
        data = data.replace(b"<head>", b"<head>" + _NEWS, 1)
    return _Content(data, _CLIENT_TYPES[match[1]])


# ---------------------------------------------------------------------------------------------------------- the views

LAYOUTS = ("4panel", "4panel-alt", "xy", "xz", "yz", "xy-3d", "xz-3d", "yz-3d", "3d")
"""How the client may lay its panels out."""

_PANELS = {"4panel": 0.4, "4panel-alt": 0.4}  # of the height, that a panel of a layout has
_WHOLE = 0.85  # that the only one has
_WINDOW = 900  # pixels that a browser's window is high, about
_SHOWN_CHANNELS = ("red", "green", "blue")
_PERCENTILES = (0.5, 99.5)  # of the voxels that are looked at, that are black and white
_LOOKED_AT = 1_000_000  # voxels, about
_INSTEAD = "use view() or precomputed_fs.serve, which show it on this machine"
_AXES = "xyz"
_views_lock = threading.Lock()
_views: "weakref.WeakValueDictionary[tuple[int, int], Server]" = weakref.WeakValueDictionary()


@dataclass(frozen=True, slots=True)
class View:
    """A pyramid in the web client; the last value of a notebook's cell shows it.

    Attributes
    ----------
    url : str
        To be opened in a browser on this machine. Whoever knows it can read the pyramid.
    height : int
        In a notebook, in pixels.
    server : Server
        What shows it; closing that ends the view.
    """

    url: str
    height: int
    server: Server

    def __repr__(self) -> str:
        return f"<View of {self.server.volume.url}: {self.url}>"

    def _repr_html_(self) -> str:
        allowed = "clipboard-read; clipboard-write; fullscreen"
        address = html.escape(self.url)
        return (
            f'<iframe src="{address}" width="100%" height="{self.height}" style="border: 0" allow="{allowed}"></iframe>'
        )


def view(volume: Volume, *, layout: str | None = None, height: int = 600) -> View:
    """Show a volume in the web client: `Volume.view`. A volume has one server for all its views."""
    _client_folder()
    _check_layout(layout)
    with _views_lock:
        server = _views.get((os.getpid(), id(volume)))
        if server is None or not server.is_open:
            server = _views[os.getpid(), id(volume)] = Server(volume)
    return server.view(layout=layout, height=height)


def neuroglancer_url(volume: Volume, base: str, *, layout: str | None = None) -> str:
    """Make a link for public data: `Volume.neuroglancer_url`."""
    for scale in volume:
        codec = scale.codec
        if not _client_reads(codec, _client_type(volume.info)):
            message = (
                f"{volume.url}: Neuroglancer does not read {codec.encoding} of {codec.num_channels} x "
                f"{codec.data_type}: {_INSTEAD}"
            )
            raise ValueError(message)
    state = _state(volume, _public_source(volume), layout, _WINDOW)
    return f"{base.rstrip('/')}/#!{_fragment(state)}"


def _public_source(volume: Volume) -> str:
    """Return what the client calls the place of a pyramid that is open to all."""
    location = volume.accessor.location
    link = location.links[0]
    scheme, _, path = link.url.partition("://")
    scheme = {"s3a": "s3", "gcs": "gs"}.get(scheme, scheme)
    if len(location.links) == 1 and location.fs is None and scheme in ("http", "https", "s3", "gs"):
        endpoint = link.options.get("endpoint_url") or (link.options.get("client_kwargs") or {}).get("endpoint_url")
        if location.has_credentials or "?" in path or "@" in f"{path.partition('/')[0]}{endpoint or ''}":
            message = f"{volume.url} is read with credentials, which no link can carry: {_INSTEAD}"
            raise ValueError(message)
        if scheme == "s3" and endpoint:
            scheme, _, host = endpoint.partition("://")
            return f"precomputed://s3+{scheme}://{host.rstrip('/')}/{urllib.parse.quote(path)}"
        return f"precomputed://{scheme}://{path if scheme.startswith('http') else urllib.parse.quote(path)}"
    message = f"{volume.url}: a link can lead to http://, https://, s3:// and gs:// only: {_INSTEAD}"
    raise ValueError(message)


def _fragment(state: Mapping[str, Any]) -> str:
    return urllib.parse.quote(json.dumps(state, separators=(",", ":"), allow_nan=False))


def _state(volume: Volume, source: str, layout: str | None, height: int) -> dict[str, Any]:
    """Describe a view, as the client's URL does, in which all of a volume is seen from its middle."""
    _check_layout(layout)
    scale = volume[0]
    layout = layout or ("xy" if scale.info.size[2] == 1 else "4panel")
    voxel = min(scale.resolution)  # the client's unit of zoom
    extents = [size * step / voxel for size, step in zip(scale.info.size, scale.resolution, strict=True)]
    middle = [low + size // 2 + 0.5 for low, size in zip(scale.voxel_offset, scale.info.size, strict=True)]
    data_type = _client_type(volume.info)
    layer: dict[str, Any] = {"name": _layer_name(volume), "source": source}
    if volume.info.type == "segmentation" and np.dtype(data_type).kind in "iu":
        layer["type"] = "segmentation"
    else:
        layer |= {"type": "image", "shader": _shader(volume, data_type)}
    return {
        "dimensions": {axis: [step / 1e9, "m"] for axis, step in zip(_AXES, scale.resolution, strict=True)},
        "position": middle,
        "crossSectionScale": max(extents) / (height * _PANELS.get(layout, _WHOLE)),
        "projectionScale": math.hypot(*extents),
        "layers": [layer],
        "selectedLayer": {"layer": layer["name"]},
        "layout": layout,
    }


def _check_layout(layout: str | None) -> None:
    if layout is not None and layout not in LAYOUTS:
        message = f"layout: expected one of {', '.join(LAYOUTS)}, got {layout!r}"
        raise ValueError(message)


def _layer_name(volume: Volume) -> str:
    return volume.accessor.location.links[0].display.rstrip("/").rpartition("/")[2] or "volume"


def _shader(volume: Volume, data_type: str) -> str:
    """Write the client's program for colours: three or four channels are red, green and blue; else one is grey."""
    low, high = _value_range(volume, np.dtype(data_type))
    limits = f'["{low}", "{high}"]'  # strings hold what numbers of JavaScript do not
    channels = volume.info.num_channels
    if channels in (3, 4):
        controls = [f"#uicontrol invlerp {name}(range={limits}, channel={i})" for i, name in enumerate(_SHOWN_CHANNELS)]
        return "\n".join([*controls, "void main() {", "  emitRGB(vec3(red(), green(), blue()));", "}"]) + "\n"
    return f"#uicontrol invlerp normalized(range={limits})\nvoid main() {{\n  emitGrayscale(normalized());\n}}\n"


def _value_range(volume: Volume, dtype: np.dtype[Any]) -> tuple[Any, Any]:
    """Choose what is black and what is white: by a chunk from the middle of the coarsest scale."""
    if dtype == np.uint8:
        return 0, 255
    low, high = (0.0, 1.0) if dtype.kind == "f" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    scale = [volume[0], *(scale for scale in volume if not scale.info.hidden)][-1]
    x, y, z = (count // 2 for count in scale.grid.shape)
    with contextlib.suppress(DataAccessError, ImportError):  # it will be told where it is shown
        voxels = scale.read(Box.of(scale.grid.chunk((x, y, z))), missing="raise", progress=False)
        voxels = voxels.ravel(order="K")[:: 1 + voxels.size // _LOOKED_AT]
        voxels = voxels[np.isfinite(voxels)]
        black, white = np.percentile(voxels, _PERCENTILES).tolist() if voxels.size else (0, 0)
        if dtype.kind != "f":
            black, white = max(low, math.floor(black)), min(high, math.ceil(white))
        if black < white:
            return black, white
    return low, high
