"""Views in Neuroglancer: `precomputed_fs.view` and `Volume.view`, whose servers are shared."""

import os
import threading
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from precomputed_fs.view.server import Server, View
from precomputed_fs.view.sources import Shown, source_of
from precomputed_fs.view.state import check_layout
from precomputed_fs.view.web_client import client_folder
from precomputed_fs.volume import Volume

_lock = threading.Lock()
_servers: "weakref.WeakValueDictionary[tuple[int, tuple[int, str]], Server]" = weakref.WeakValueDictionary()


def view(
    first: Any,  # noqa: ANN401 - see `precomputed_fs.view`
    *others: Any,  # noqa: ANN401
    names: Sequence[str] | None = None,
    segments: Iterable[int] | None = None,
    layout: str | None = None,
    height: int = 600,
) -> View:
    """Show layers in one Neuroglancer: see `Volume.view`. The first one has one server for all its views."""
    client_folder()
    check_layout(layout)
    sources = [source_of(source) for source in (first, *others)]
    key = os.getpid(), _identity(sources[0])
    with _lock:
        server = _servers.get(key)
        if server is None or not server.is_open:
            server = _servers[key] = Server(sources[0])
    return server.view(*sources[1:], names=names, segments=segments, layout=layout, height=height)


def _identity(source: Shown) -> tuple[int, str]:
    """Return what tells a source from others, as long as it lives; its server keeps it alive."""
    return (id(source), "") if isinstance(source, Volume) else (id(source.folder.pyramid), source.folder.path)
