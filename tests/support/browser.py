"""A browser for the tests: Debian's Chromium without a window, driven by Playwright, and Neuroglancer's client in it.

::

    chromium            the browser, a context manager
    Chromium.page       a page in it: what it shows, what its console says
    neuroglancer        the web client that PyPI's `neuroglancer` brings, a context manager
    Neuroglancer.show   a volume in the client: pixels, voxels as the client decoded them, what went wrong
    opened              the same of a client that somebody else serves
    cors                what a server has to say for a page from elsewhere to read from it

It works in threads that have an event loop and in those that have none: the browser has a loop of its own.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import io
import mimetypes
import shutil
import threading
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from aiohttp import web
from PIL import Image
from playwright.async_api import Error, async_playwright

from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping, Sequence

    import playwright.async_api
    from numpy.typing import NDArray

_T = TypeVar("_T")

DEADLINE = 60.0  # seconds that the browser may take for anything that it is asked
BACKGROUND = (32, 64, 96)  # the colour of what is outside of a volume
_FLAGS = (
    "--use-angle=swiftshader",  # WebGL without a GPU
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--disable-gpu-sandbox",
    "--disable-background-networking",  # it talks to the tests' servers alone
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--no-first-run",
)


# ------------------------------------------------------------------------------------------------------------ Chromium


def chromium_installed() -> bool:
    """Return whether `chromium` can work here."""
    return shutil.which("chromium") is not None


class Chromium:
    """A running browser."""

    def __init__(self, browser: playwright.async_api.Browser, loop: asyncio.AbstractEventLoop) -> None:
        self._browser = browser
        self._loop = loop

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine of Playwright's to its end; what is none, such as `on`, must be called in one."""
        return _run(coroutine, self._loop)

    @contextmanager
    def page(self, url: str, *, size: tuple[int, int]) -> Iterator[Page]:
        """Open a page, `size` pixels wide and high, which shares neither cookies nor caches with others."""
        context = self.run(self._browser.new_context(viewport={"width": size[0], "height": size[1]}))
        try:
            page = Page(self, self.run(context.new_page()))
            self.run(page.listen())
            self.run(page.handle.goto(url))
            yield page
        finally:
            self.run(context.close())


class Page:
    """A page in the browser. `handle` is Playwright's own; `Chromium.run` runs what that has to offer."""

    def __init__(self, browser: Chromium, handle: playwright.async_api.Page) -> None:
        self.browser = browser
        self.handle = handle
        self.console: list[str] = []

    def inner(self, element: str) -> Page:
        """Return the page in an iframe, once it is loaded."""
        handle: Any = self.browser.run(self.handle.wait_for_selector(element))
        frame = self.browser.run(handle.content_frame())
        self.browser.run(frame.wait_for_load_state())
        return Page(self.browser, frame)

    async def listen(self) -> None:
        """Begin to keep what the console says."""
        self.handle.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        self.handle.on("pageerror", lambda error: self.console.append(f"error: {error}"))

    def evaluate(self, expression: str, *arguments: Any) -> Any:
        """Call a JavaScript function; returns its result, awaited, or raises `PageError` for what it throws."""
        return self.browser.run(self.handle.evaluate(f"given => ({expression})(...given)", arguments))

    def picture(self) -> NDArray[np.uint8]:
        """Return what is on the screen: ``[row, column, rgb]``."""
        return _pixels(self.browser.run(self.handle.screenshot()))


PageError = Error
"""What a page threw."""


@contextmanager
def chromium() -> Iterator[Chromium]:
    """Run Chromium with a new, empty profile."""
    with ExitStack() as stack:
        loop = stack.enter_context(_loop())
        driver = _run(async_playwright().start(), loop)
        stack.callback(lambda: _run(driver.stop(), loop))
        browser = _run(driver.chromium.launch(executable_path=shutil.which("chromium"), args=_FLAGS), loop)
        stack.callback(lambda: _run(browser.close(), loop))
        yield Chromium(browser, loop)


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Run a loop in a thread: Playwright's synchronous interface would leave one running in the thread of the tests."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="test-browser", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE)
        loop.close()


def _run(coroutine: Coroutine[Any, Any, _T], loop: asyncio.AbstractEventLoop) -> _T:
    return asyncio.run_coroutine_threadsafe(asyncio.wait_for(coroutine, DEADLINE), loop).result()


def _pixels(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


# -------------------------------------------------------------------------------------------------------- Neuroglancer

# `viewer`, the names of its members, the numbers of its states and data types: all that is the client's own. A chunk
# that fails never gets from its worker to the page: the view stays "not ready", only the statistics tell.
_SCRIPT = """() => window.tests = (() => {
  const FAILED = 6, CHUNK_STATES = 8, PRIORITIES = 3, COUNTERS = 3, SEVERE = 2;
  const DATA_TYPES = [
    ["uint8", Uint8Array], ["int8", Int8Array], ["uint16", Uint16Array], ["int16", Int16Array],
    ["uint32", Uint32Array], ["int32", Int32Array], ["uint64", BigUint64Array], ["float32", Float32Array],
  ];

  const pause = () => new Promise(resolve => setTimeout(resolve, 20));
  const visible = member => [...viewer.display.panels].find(panel => panel.visible && panel[member] !== undefined);
  const panel = () => visible("sliceView") ?? visible("sliceViews");  // the latter: of three dimensions
  const statusTexts = () =>
    [...document.querySelectorAll("#neuroglancer-status-container li, #neuroglancer-status-container-modal li")]
      .filter(item => item.style.display !== "none").map(item => item.textContent.trim());
  const sourceErrors = () =>
    viewer.layerManager.managedLayers.flatMap(({layer}) => layer?.dataSources ?? [])
      .flatMap(({messages}) => [...messages]).filter(({severity}) => severity === SEVERE).map(({message}) => message);

  async function chunksNow() {
    const now = {failed: 0, underWay: 0};
    for (const counts of (await viewer.chunkQueueManager.getStatistics()).values())
      for (let state = 1; state < CHUNK_STATES; ++state)
        now[state < FAILED ? "underWay" : "failed"] += counts[state * PRIORITIES * COUNTERS];  // of visible chunks
    return now;
  }

  const isConnected = () => !statusTexts().some(text => text.includes("Python server"));

  async function isStuck() {
    if (sourceErrors().length) return true;
    const {failed, underWay} = await chunksNow();
    return failed > 0 && underWay === 0;
  }

  // The client draws what has come when asked, too, and throws there what it does in its own turn.
  function isReady() {
    try {
      return viewer.isReady();
    } catch (error) {
      reportError(error);
      return false;
    }
  }

  // Twice, with all that was to be done in between, as the client does before its own screenshots.
  async function settled(seconds) {
    const end = Date.now() + seconds * 1000;
    for (let calm = 0; calm < 2; await pause()) {
      const done = panel() !== undefined && isReady() || await isStuck();
      calm = done && isConnected() ? calm + 1 : 0;
      if (Date.now() > end) return false;
    }
    return true;
  }

  async function errors() {
    const {failed} = await chunksNow();
    return [...statusTexts(), ...sourceErrors(), ...(failed ? [`${failed} chunk(s) failed`] : [])];
  }

  function slice() {
    viewer.display.draw();
    const {canvasRelativeClippedLeft: left, canvasRelativeClippedTop: top, renderViewport: {width, height}} = panel();
    const copy = Object.assign(document.createElement("canvas"), {width, height});
    copy.getContext("2d").drawImage(viewer.display.canvas, -left, -top);
    return copy.toDataURL("image/png").split(",")[1];
  }

  function source(key) {
    const found = [...panel().sliceView.visibleLayers.values()].flatMap(({allSources}) => allSources.flat())
      .map(({source}) => source).find(({parameters}) => parameters.url.endsWith(`/${key}/`));
    if (found === undefined) throw new Error(`no scale ${key} is shown`);
    return found;
  }

  function grid(key) {
    const {upperVoxelBound, chunkDataSize} = source(key).spec;
    return Array.from(upperVoxelBound, (size, axis) => Math.ceil(size / chunkDataSize[axis]));
  }

  function chunk(key, cell) {
    return source(key).fetchChunk(Float32Array.from(cell), chunk => {
      if (chunk.data === null) throw new Error(`chunk ${cell} of scale ${key} is absent`);
      const {chunkDataSize: shape, source: {spec: {dataType}}} = chunk;
      const [name, TypedArray] = DATA_TYPES[dataType];
      const voxels = new TypedArray(shape.reduce((product, size) => product * size));
      const position = new Uint32Array(shape.length);
      for (let index = 0; index < voxels.length; ++index) {
        voxels[index] = chunk.getValueAt(position);
        for (let axis = 0; axis < shape.length && ++position[axis] === shape[axis]; ++axis) position[axis] = 0;
      }
      return {shape: Array.from(shape), dataType: name, voxels: new Uint8Array(voxels.buffer).toBase64()};
    }, {});
  }

  const base64 = array => new Uint8Array(array.buffer, array.byteOffset, array.byteLength).toBase64();

  function meshFragments() {
    const layers = viewer.layerManager.managedLayers.flatMap(({layer}) => layer?.renderLayers ?? []);
    const chunks = layers.flatMap(({source}) => [...source?.fragmentSource?.chunks ?? []]);
    return chunks.filter(([, {meshData}]) => meshData).map(([key, {meshData}]) => ({
      key, offsets: [...meshData.subChunkOffsets ?? []],
      vertices: [meshData.vertexPositions.constructor.name, base64(meshData.vertexPositions)],
      indices: [meshData.indices.constructor.name, base64(meshData.indices)],
    }));
  }

  function skeletons() {
    const layers = viewer.layerManager.managedLayers.flatMap(({layer}) => layer?.renderLayers ?? []);
    const chunks = layers.flatMap(({base}) => [...base?.source?.chunks ?? []]);
    return chunks.filter(([, {vertexAttributes}]) => vertexAttributes).map(([key, chunk]) => ({
      key, positions: base64(chunk.vertexAttributes.subarray(0, 12 * chunk.numVertices)), edges: base64(chunk.indices),
      attributes: [...chunk.vertexAttributeOffsets.slice(1)].map((start, index, starts) =>
        base64(chunk.vertexAttributes.subarray(start, starts[index + 1]))),
    }));
  }

  function segmentProperties() {
    const {ids, properties} = viewer.layerManager.managedLayers[0].layer.displayState.segmentPropertyMap.value
      .segmentPropertyMap.inlineProperties;
    const values = ({type, tags, values}) => type !== "tags" ? [...values] :
      values.map(value => [...value].map(tag => tags[tag.charCodeAt(0)]));
    return {
      ids: [...ids].map(String),
      properties: properties.map(each => ({...each, values: values(each), typed: each.values.constructor.name})),
    };
  }

  return {settled, errors, slice, grid, chunk, meshFragments, skeletons, segmentProperties};
})()
"""


@dataclass(frozen=True, slots=True)
class View:
    """A volume in the client, of which all that is visible has been loaded or has failed."""

    page: Page

    @property
    def errors(self) -> list[str]:
        """What the client shows as an error, how many chunks failed, and the errors in the console."""
        said = (line for line in self.page.console if line.startswith(("error: ", "log: Error ")))
        return [*self.page.evaluate("() => tests.errors()"), *said]

    def slice(self) -> NDArray[np.uint8]:
        """Return the slice as it is drawn, without what lies over it: ``[row, column, rgb]``, y grows downwards."""
        return _pixels(base64.b64decode(self.page.evaluate("() => tests.slice()")))

    def chunk(self, key: str, cell: Sequence[int]) -> NDArray[Any]:
        """Return a chunk as the client decoded it, ``[x, y, z]`` or ``[x, y, z, channel]``, visible or not.

        Raises
        ------
        PageError
            If the client could not get it or decode it, with the reason that it gives, or got a definite "not there".
        """
        found = self.page.evaluate("(key, cell) => tests.chunk(key, cell)", key, cell)
        voxels = np.frombuffer(base64.b64decode(found["voxels"]), found["dataType"])
        return voxels.reshape(found["shape"], order="F")

    def volume(self, key: str) -> NDArray[Any]:
        """Return all voxels of a scale, put together chunk by chunk; raises as `chunk` does."""
        grid = self.page.evaluate("key => tests.grid(key)", key)
        cells = np.empty(grid, object)
        for cell in np.ndindex(*grid):
            cells[cell] = self.chunk(key, cell)
        return np.block(cells.tolist())

    def mesh_fragments(self) -> dict[str, MeshFragment]:
        """Return the fragments of meshes that are loaded, by the client's own keys, such as ``id/level:row``."""
        return {
            found["key"]: MeshFragment(_typed(*found["vertices"]), _typed(*found["indices"]), found["offsets"])
            for found in self.page.evaluate("() => tests.meshFragments()")
        }

    def skeletons(self) -> dict[int, DecodedSkeleton]:
        """Return the skeletons that are loaded, by segment id."""
        return {
            int(found["key"]): DecodedSkeleton(
                _typed("Float32Array", found["positions"]).reshape(-1, 3),
                _typed("Uint32Array", found["edges"]).reshape(-1, 2),
                [base64.b64decode(each) for each in found["attributes"]],
            )
            for found in self.page.evaluate("() => tests.skeletons()")
        }

    def segment_properties(self) -> Any:
        """Return the segment properties of the first layer: ``ids``, and ``properties`` with tags as texts."""
        return self.page.evaluate("() => tests.segmentProperties()")


class DecodedSkeleton(NamedTuple):
    """A skeleton as the client decoded it."""

    vertices: NDArray[Any]
    edges: NDArray[Any]
    attributes: list[bytes]


class MeshFragment(NamedTuple):
    """A fragment of a mesh as the client decoded it."""

    vertices: NDArray[Any]
    """Float32 of legacy meshes; uint16, or uint32 that have 10 bits for each axis."""

    indices: NDArray[Any]
    offsets: list[int]
    """Where the indices of each eighth of the cell begin, and where the last ends; empty for a legacy mesh."""


def _typed(name: str, data: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(data), name.removesuffix("Array").lower())


class Neuroglancer:
    """The web client, at `url`. As opening it takes a second, its page shows one volume after another.

    The client keeps what it has read of a source as long as its page is open, and may have more to say of what went
    wrong: a new page is opened for a source that was shown before, and after a failure.
    """

    def __init__(self, browser: Chromium, url: str) -> None:
        self._browser = browser
        self.url = url
        self._opened = ExitStack()
        self._page: Page | None = None
        self._seen: set[str] = set()

    def close(self) -> None:
        """Close the page."""
        self._page = None
        self._seen.clear()
        self._opened.close()

    def _page_for(self, source: str, size: tuple[int, int]) -> Page:
        """Return a page, `size` pixels wide and high, that shows nothing yet and knows nothing of a source."""
        if source in self._seen:
            self.close()
        if self._page is None:
            self._page = self._opened.enter_context(self._browser.page(self.url, size=size))
        self._seen.add(source)
        width, height = size
        self._browser.run(self._page.handle.set_viewport_size({"width": width, "height": height}))
        return self._page

    @contextmanager
    def show(
        self,
        source: str,
        layer_type: str = "image",
        *,
        position: Sequence[float],
        resolution: Sequence[float] = (1e6, 1e6, 1e6),
        scale: float = 1.0,
        size: tuple[int, int] = (400, 400),
        viewer: Mapping[str, Any] = {},
        **layer: Any,
    ) -> Iterator[View]:
        """Show the xy slice of a volume, and wait until all that is visible has been loaded or has failed.

        Parameters
        ----------
        source
            What would be typed into the client: ``precomputed://http://...``.
        layer_type
            "image" or "segmentation".
        position
            What is in the middle: x, y, z in voxels, whose centres are at 0.5, 1.5, ...
        resolution
            The size of a voxel: x, y, z in nanometres, as `info` says it of the finest scale.
        scale
            Voxels for each pixel.
        size
            Width and height of the page in pixels; the slice gets what the client's controls leave.
        viewer
            More of the viewer's state, such as ``{"layout": "3d"}``.
        **layer
            More of the layer's state, such as ``shader``.

        Raises
        ------
        TimeoutError
            If that takes longer than `DEADLINE`.
        """
        state = {
            "dimensions": {axis: [length / 1e9, "m"] for axis, length in zip("xyz", resolution, strict=True)},
            "position": list(position),
            "crossSectionScale": scale,
            "crossSectionBackgroundColor": f"#{bytes(BACKGROUND).hex()}",
            "layout": "xy",
            "layers": [{"name": "volume", "type": layer_type, "source": source, **layer}],
            "showAxisLines": False,
            "showDefaultAnnotations": False,
            "showScaleBar": False,
            **viewer,
        }
        page = self._page_for(source, size)
        keeps_page = False
        try:
            page.evaluate(_SHOW, state)
            view = loaded(page)
            yield view
            keeps_page = not view.errors
            page.evaluate(_SHOW, {})
        finally:
            if not keeps_page:
                self.close()


_SHOW = """state => {
  viewer.state.reset();
  viewer.state.restoreState(state);
}"""


@contextmanager
def opened(browser: Chromium, url: str, *, size: tuple[int, int]) -> Iterator[View]:
    """Open the client at any URL, and wait until all that is visible has been loaded or has failed.

    Raises
    ------
    TimeoutError
        If that takes longer than `DEADLINE`.
    """
    with browser.page(url, size=size) as page:
        yield loaded(page)


def loaded(page: Page) -> View:
    """Wait until all that is visible in a page with the client has been loaded or has failed; raises as `opened`."""
    view = View(page)
    page.evaluate(_SCRIPT)
    if not page.evaluate("seconds => tests.settled(seconds)", DEADLINE / 2):
        message = f"{page.handle.url}: not loaded within {DEADLINE / 2} s: {view.errors}"
        raise TimeoutError(message)
    return view


@contextmanager
def neuroglancer(browser: Chromium) -> Iterator[Neuroglancer]:
    """Serve the web client from the installed package."""
    spec = importlib.util.find_spec("neuroglancer")  # not imported: its files are what is needed
    assert spec is not None
    assert spec.submodule_search_locations is not None
    (folder,) = spec.submodule_search_locations
    with (
        servers.fault_server(_client(Path(folder) / "static" / "client")) as server,
        closing(Neuroglancer(browser, f"{server.url}/v/tests/index.html")) as client,
    ):
        yield client


def _client(folder: Path) -> servers.Handler:
    """Answer as the package's own server does, which has news for the client at ``/events/TOKEN``; here are none."""
    static = servers.files(folder)

    async def handler(request: web.Request) -> web.StreamResponse:
        if request.path == "/events/tests":
            stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await stream.prepare(request)
            await asyncio.Event().wait()  # until the page hangs up
        if request.method == "POST" and request.path.startswith("/state/"):  # the client tells of each change
            return web.json_response({})
        if request.path == "/favicon.ico":
            return web.Response(status=204)
        response = await static(request.clone(rel_url=request.path.removeprefix("/v/tests")))
        response.headers["Content-Type"] = mimetypes.guess_type(request.path)[0] or "application/octet-stream"
        return response

    return handler


def cors(handler: servers.Handler) -> servers.Handler:
    """Answer with `handler`, and let pages from any origin read the answer."""

    async def open_to_all(request: web.Request) -> web.StreamResponse:
        response = await handler(request)
        response.headers["Access-Control-Allow-Origin"] = "*"
        return response

    return open_to_all
