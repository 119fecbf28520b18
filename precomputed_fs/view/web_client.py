"""Where the files of Neuroglancer's web client are: in the installed package ``neuroglancer``."""

import importlib.util
import json
import re
from pathlib import Path

from precomputed_fs.errors import NotFoundError
from precomputed_fs.view.shown_folder import JSON_TYPE, Content
from precomputed_fs.view.state import Fit

_CLIENT_FILE = re.compile(r"[a-z0-9][\w-]*(?:\.[\w-]+)*\.(html|css|js|wasm|map)", re.ASCII)
_CLIENT_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "wasm": "application/wasm",
    "map": JSON_TYPE,
}
PAGE = "index.html"

_POLLING = b"""<script>
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
"""Makes the client poll whether the server still runs. It would keep a connection open for events from Python, which
never come; but a browser opens only 6 to 10 connections to a server, so as many views would block each other."""


NEW = "new"
"""The query of a page whose state is ours, and not yet changed by the client."""

_OPENING = """<script>
if (location.search === "?%(new)s") {
  const here = new URL("../..", location.href).href.slice(0, -1);
  const there = %(origin)s + here.slice(here.lastIndexOf("/"));
  const state = JSON.parse(decodeURIComponent(location.hash.slice(2)).replaceAll(there, here));
  state.crossSectionScale = Math.max(%(rows)r / Math.max(1, innerHeight - %(header)r), %(columns)r / innerWidth);
  history.replaceState(null, "", location.pathname + "#!" + encodeURIComponent(JSON.stringify(state)));
}
</script>"""
"""Makes the data fill the window, whatever its size, and has them read from where the page came from: that may be a
proxy."""


_STANDSTILL = """<script>
{
  const now = Date.now;
  let began;
  Date.now = () => {
    if (began === undefined) {
      began = now();
      setTimeout(() => { began = undefined; });
    }
    return began;
  };
}
</script>"""
"""Makes time stand still while a task of the page runs. As soon as 400 ms have passed, the client writes its state into
the address, even while it is still restoring it; and of an annotation layer that is not restored yet it cannot, so that
another layer is lost."""


def page_script(origin: str, fit: Fit, *, has_annotations: bool = False) -> str:
    """Return what a page does before the client starts; `origin` is that of the sources in its state."""
    given = {"new": NEW, "origin": json.dumps(origin), "rows": fit.rows, "columns": fit.columns, "header": fit.header}
    return _STANDSTILL * has_annotations + _OPENING % given


def client_folder() -> Path:
    """Find the web client in the installed package, without importing the package."""
    spec = importlib.util.find_spec("neuroglancer")
    for parent in (spec and spec.submodule_search_locations) or ():
        folder = Path(parent) / "static" / "client"
        if (folder / PAGE).is_file():
            return folder
    raise ImportError("the Neuroglancer web client is not installed: pip install 'precomputed-fs[neuroglancer]'")


def client_file(name: str, script: str) -> Content:
    """Read a file of the client; its page begins with a script, and is changed to poll the server, see `_POLLING`."""
    match = _CLIENT_FILE.fullmatch(name)
    if match is None:
        raise NotFoundError(name)
    path = client_folder() / name
    if not path.is_file():
        raise NotFoundError(name)
    data = path.read_bytes()
    if name == PAGE:
        data = data.replace(b"<head>", b"<head>" + script.encode() + _POLLING, 1)
    return Content(data, _CLIENT_TYPES[match[1]])
