"""A server on this machine that shows pyramids, and what is beside them, to Neuroglancer's web client: `serve`.

When the client cannot reach a server, or gets a 403, it takes the chunk for absent and shows nothing in its place. So
failures are answered otherwise: 404 only if the store said so, 502 for what the store denies or what is damaged, and
503, after which the client tries again, for what may pass.

Anyone who knows a server's URL can read the pyramid. Other users of the machine, and web pages, cannot: the URL
contains a random token, and requests that name another host are refused, since a page may give its own host name this
machine's address.
"""

import asyncio
import atexit
import concurrent.futures
import functools
import http
import logging
import os
import secrets
import socket
import threading
import urllib.parse
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, Unpack

from precomputed_fs.accessor import OPTION_DEFAULTS, FsspecAccessor
from precomputed_fs.errors import CorruptDataError, NotFoundError
from precomputed_fs.interop.zarr_view import METADATA, ZarrView
from precomputed_fs.keywords import AccessorOptions, spelled_out
from precomputed_fs.store.loop import in_thread
from precomputed_fs.view.answers import (
    CROSS_ORIGIN,
    METHODS,
    PREFLIGHT,
    STATUSES,
    answer_part,
    answer_with,
    range_without_size,
    respond,
)
from precomputed_fs.view.frame import frame_html
from precomputed_fs.view.jupyter import proxied_path
from precomputed_fs.view.shown import ShownPyramid
from precomputed_fs.view.shown_folder import JSON_TYPE, OCTETS_TYPE, Content, ShownFolder, shown_alone
from precomputed_fs.view.sources import Shown, location_of, source_of
from precomputed_fs.view.state import Layer, check_layout, named, url_fragment, view_state
from precomputed_fs.view.web_client import NEW, PAGE, client_file, client_folder, page_script
from precomputed_fs.volume import Volume

if TYPE_CHECKING:
    from aiohttp import web


_HOST = "127.0.0.1"
_HOST_NAMES = (_HOST, "localhost")
_THREADS = 32  # for decoding, and for entity tags; accessors fetch in threads of their own
_MOST_PORTS = 1 << 16
_LAST_MOMENT = 0.1  # seconds for requests in flight to end when the server is closed
_PATIENCE = 10.0  # seconds that closing may take
_log = logging.getLogger("precomputed_fs")
_silent = logging.Logger("precomputed_fs.serve")  # noqa: LOG001 - outside of the logger tree, since aiohttp's logger would show URLs
_silent.disabled = True


@spelled_out({**OPTION_DEFAULTS, "gzip": None})
def serve(
    source: Any,  # noqa: ANN401 - see `precomputed_fs.view`
    *,
    port: int = 0,
    follow_links: bool = False,
    **accessor_options: Unpack[AccessorOptions],
) -> "Server":
    """Show a pyramid to the Neuroglancer web client, on this machine.

    Parameters
    ----------
    source : str, path, UPath, Volume or FsspecAccessor
        The pyramid, with the meshes, skeletons and segment properties that its `info` names. Or a folder of
        annotations, meshes, skeletons or segment properties on its own: its URL, or what `open_annotations`,
        `open_meshes` or `open_skeletons` returns.
    port : int
        The port on 127.0.0.1; by default any free one.
    follow_links : bool
        Whether to follow symbolic links out of the pyramid, on disk or over SFTP.
    **accessor_options
        Options of `FsspecAccessor`, for a URL.

    Returns
    -------
    Server
        It runs in its own thread until it is closed, or the interpreter exits.

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
    Chunks that the client cannot read are decoded on the way: crackle, fpzip, zfpc, kempressed, JPEG XL of several
    channels, 16-bit PNG of several channels. So is JPEG, because the client decodes progressive JPEGs wrongly.
    Voxels of float64 are shown as float32; int64 as float32 in images, and as uint64 in segmentations.

    Examples
    --------
    >>> import numpy as np
    >>> import precomputed_fs
    >>> vol = precomputed_fs.create_volume("memory://docs/served", np.ones((8, 8, 8), np.uint8), resolution=(1, 1, 1))
    >>> with precomputed_fs.serve(vol) as server:
    ...     precomputed_fs.open_volume(server.url)[0][3, 3, 3, 0]
    np.uint8(1)
    """
    shown = source_of(source, **accessor_options)
    is_ours = not isinstance(source, Volume | FsspecAccessor) and not hasattr(source, "folder")
    if is_ours and isinstance(shown, Volume) and not follow_links:
        shown.pyramid = shown.pyramid.confined()
    try:
        return Server(shown, port=port, follow_links=follow_links, closes_source=is_ours)
    except BaseException:
        if is_ours:
            shown.close()
        raise


_listening: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()


def _stop_listening() -> None:
    """Close the sockets that a forked process has inherited: otherwise the ports stay taken, and nobody answers."""
    for listener in _listening:
        listener.close()
    _listening.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stop_listening)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A view as the browser gets it: the state in its URL, and what its page does first."""

    fragment: str
    script: str


def _area(number: int, kind: str = "data") -> str:
    """Return the folder of a volume below the token."""
    return f"{kind}{number or ''}"


def _as_shown(source: Shown, *, follow_links: bool) -> ShownPyramid | ShownFolder:
    """Return what the client sees of a source."""
    if isinstance(source, Volume):
        return ShownPyramid(source, follow_links=follow_links)
    return shown_alone(source.folder, source.info, follow_links=follow_links)


class Server:
    """A running server of a pyramid, made by `serve`; a context manager that closes it.

    Attributes
    ----------
    first : Volume, or a folder on its own
        What is served. Views of several layers add others.
    port : int
        The port on 127.0.0.1.
    """

    def __init__(self, first: Shown, *, port: int = 0, follow_links: bool = False, closes_source: bool = False) -> None:
        if not 0 <= port < _MOST_PORTS:
            raise ValueError(f"port: expected 0 to {_MOST_PORTS - 1}, got {port}")
        self.first = first
        self.port = 0
        self._closes_source = closes_source
        self._follow_links = follow_links
        self._shown = [(first, _as_shown(first, follow_links=follow_links))]
        self._zarr_views: dict[Volume, ZarrView] = {}
        self._token = secrets.token_urlsafe(16)
        self._views: dict[str, _Opened] = {}  # by their numbers
        self._proxied = ""
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
            self._closes_source = False  # the caller still has it
            self.close()
            raise

    @property
    def volume(self) -> Volume:
        """The volume that is served.

        Raises
        ------
        AttributeError
            If what is served is not a volume, but a folder of annotations or the like.
        """
        if isinstance(self.first, Volume):
            return self.first
        raise AttributeError(f"{self.first.url} is not a volume: {self.first.type.holds} are served")

    @property
    def url(self) -> str:
        """The pyramid's URL, for any reader of pyramids over HTTP. Anyone who knows it can read the pyramid."""
        return f"{self._root}/data"

    @property
    def zarr_url(self) -> str:
        """The URL of the same as a Zarr v3 group, with OME-Zarr's metadata: see `Volume.to_zarr`."""
        return f"{self._root}/zarr"

    @property
    def source(self) -> str:
        """The source of a Neuroglancer layer: ``precomputed://`` and `url`."""
        return f"precomputed://{self.url}"

    @property
    def is_open(self) -> bool:
        """Whether it runs, in this process: a forked process does not inherit it."""
        return self._is_open and self._made_by == os.getpid()

    @property
    def _origin(self) -> str:
        return f"http://{_HOST}:{self.port}"

    @property
    def _root(self) -> str:
        return f"{self._origin}/{self._token}"

    def __repr__(self) -> str:
        state = f"port {self.port}" if self.is_open else "closed"
        return f"<Server of {self.first.url}: {state}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def view(
        self,
        *others: Any,  # noqa: ANN401 - see `precomputed_fs.view`
        names: Sequence[str] | None = None,
        segments: Iterable[int] | None = None,
        layout: str | None = None,
        height: int = 600,
    ) -> "View":
        """Show the pyramid, and others over it, in the web client of ``neuroglancer``: see `Volume.view`."""
        client_folder()
        check_layout(layout)
        sources = [self.first, *map(source_of, others)]
        layer_names = named(list(map(location_of, sources)), names)
        if not self.is_open:
            raise ValueError(f"the server of {self.first.url} is closed")
        layers = [Layer(source, self._url_of(source), name) for source, name in zip(sources, layer_names, strict=True)]
        state, fit = view_state(layers, layout, height, segments)
        with self._lock:
            self._proxied = self._proxied or proxied_path(self.port) or ""
            number = str(len(self._views))
            has_annotations = any(layer["type"] == "annotation" for layer in state["layers"])
            script = page_script(self._origin, fit, has_annotations=has_annotations)
            self._views[number] = _Opened(url_fragment(state), script)
        path = f"{self._token}/view/{number}"
        embedded = f"{self._proxied}/{path}" if self._proxied else f"{self._origin}/{path}"
        return View(f"{self._origin}/{path}", height, self, tuple(sources), embedded)

    def _url_of(self, source: Shown) -> str:
        """Return the URL of a layer's source for the client; one that is new is served from now on."""
        with self._lock:
            known = next((i for i, (shown, _) in enumerate(self._shown) if shown == source), None)
            if known is None:
                known = len(self._shown)
                self._shown.append((source, _as_shown(source, follow_links=self._follow_links)))
        return f"precomputed://{self._root}/{_area(known)}"

    def close(self) -> None:
        """Close the server; requests in flight have a moment to end."""
        with self._lock:
            if not self.is_open:
                return
            self._is_open = False
        atexit.unregister(self.close)
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_PATIENCE)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()
        if self._closes_source:
            self.first.close()

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
            for _ in range(5):  # turns of the loop, for the runner to hear of the last accepted connections
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
            return respond(http.HTTPStatus.FORBIDDEN, b"this is not the host that you asked for")
        path = self._path(request)
        if path is None:
            is_icon = request.raw_path == "/favicon.ico"  # every browser asks; the client has none
            return respond(http.HTTPStatus.NO_CONTENT if is_icon else http.HTTPStatus.NOT_FOUND)
        if request.method in ("GET", "HEAD"):
            try:
                return await self._respond(request, path)
            except Exception as exc:  # noqa: BLE001 - each becomes a status
                return self._failure(exc)
        if request.method == "OPTIONS":
            return respond(http.HTTPStatus.NO_CONTENT, headers={**CROSS_ORIGIN, **PREFLIGHT})
        return respond(http.HTTPStatus.METHOD_NOT_ALLOWED, headers={**CROSS_ORIGIN, "Allow": METHODS})

    def _is_addressed(self, request: "web.BaseRequest") -> bool:
        """Whether a request names this server, and not a host of a page's own that resolves to this machine."""
        if self._proxied and request.headers.get("X-ProxyContextPath") == self._proxied:
            return True  # Jupyter has its own host name, and lets only its user pass
        names = [name.lower() for name in request.headers.getall("Host", [])]
        return len(names) == 1 and names[0] in {f"{name}:{self.port}" for name in _HOST_NAMES}

    def _path(self, request: "web.BaseRequest") -> str | None:
        """Return the decoded path below the token; None if the token is wrong."""
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
        pyramid = next((shown for i, (_, shown) in enumerate(self._shown) if area == _area(i)), None)
        if pyramid is not None:
            span = range_without_size(request)
            part = None if span is None else await pyramid.fetch_range(rest, span)
            if span is not None and part is not None:
                return answer_part(part, f"bytes {span.start}-{span.stop - 1}/*")
            return await answer_with(request, await pyramid.fetch(rest))
        for i, (volume, _) in enumerate(self._shown):
            if area == _area(i, "zarr") and isinstance(volume, Volume):
                return await answer_with(request, await self._zarr(volume, rest))
        number, _, name = rest.partition("/")
        opened = self._views.get(number)
        if opened is not None and area == "v":
            return await answer_with(request, await asyncio.to_thread(client_file, name, opened.script))
        if opened is not None and area == "view" and number == rest:
            location = f"../v/{number}/{PAGE}?{NEW}#!{opened.fragment}"  # relative: there may be a proxy before this
            return respond(http.HTTPStatus.FOUND, headers={"Location": location})
        if opened is not None and area == "events" and number == rest:
            return respond(http.HTTPStatus.NO_CONTENT)
        raise NotFoundError(path)

    async def _zarr(self, volume: Volume, key: str) -> Content:
        """Fetch an object of a volume as a Zarr group."""
        view = self._zarr_views.get(volume)
        if view is None or not view.is_current:
            view = self._zarr_views[volume] = ZarrView(volume, follow_links=self._follow_links)
        try:
            data = await in_thread(functools.partial(view.read, key))
        except NotFoundError as exc:  # the volume says ``missing="raise"``: a 404 would be read as zeros
            raise CorruptDataError(str(exc)) from exc
        if data is None:
            raise NotFoundError(key)
        return Content(bytes(data), JSON_TYPE if key.endswith(METADATA) else OCTETS_TYPE)

    def _failure(self, exc: Exception) -> "web.Response":
        """Answer with a failure; log the first of each kind as well, since the client hides those of chunks."""
        unknown = http.HTTPStatus.INTERNAL_SERVER_ERROR
        status = next((status for kind, status in STATUSES if isinstance(exc, kind)), unknown)
        said = type(exc).__name__ if status == unknown else str(exc)
        if status != http.HTTPStatus.NOT_FOUND and type(exc) not in self._warned:
            self._warned.add(type(exc))
            _log.warning("serving %s: %s", self.first.url, said, exc_info=exc if status == unknown else None)
        return respond(status, said.encode(errors="replace"), CROSS_ORIGIN)


@dataclass(frozen=True, slots=True)
class View:
    """Layers in the web client; a notebook shows it as the last value of a cell.

    Attributes
    ----------
    url : str
        To open in a browser on this machine. Anyone who knows it can read the volumes.
    height : int
        Height in a notebook, in pixels.
    server : Server
        The server of the view; closing it ends the view.
    sources : tuple
        What is shown, the lowest layer first: volumes, and folders on their own.
    address : str
        Where a notebook finds the view: `url`, or if jupyter-server-proxy is there, a path on the notebook's own
        server, which is reached from wherever the notebook is.
    """

    url: str
    height: int
    server: Server
    sources: tuple[Shown, ...]
    address: str

    def __repr__(self) -> str:
        return f"<View of {self._shown}: {self.url}>"

    def _repr_html_(self) -> str:
        return frame_html(self.address, self.height, self._shown)

    @property
    def volumes(self) -> tuple[Volume, ...]:
        """The volumes that are shown, without what stands alone."""
        return tuple(source for source in self.sources if isinstance(source, Volume))

    @property
    def _shown(self) -> str:
        return " and ".join(source.url for source in self.sources)
