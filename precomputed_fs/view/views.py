"""Views of volumes in Neuroglancer: `precomputed_fs.view` and `Volume.view`, whose servers are shared."""

import os
import threading
import weakref
from collections.abc import Sequence

from precomputed_fs.accessor import FsspecAccessor
from precomputed_fs.store.url import AnyURL
from precomputed_fs.view.server import Server, View, as_volume
from precomputed_fs.view.state import check_layout
from precomputed_fs.view.web_client import client_folder
from precomputed_fs.volume import Volume

_lock = threading.Lock()
_servers: "weakref.WeakValueDictionary[tuple[int, int], Server]" = weakref.WeakValueDictionary()


def view(
    first: AnyURL | Volume | FsspecAccessor,
    *others: AnyURL | Volume | FsspecAccessor,
    names: Sequence[str] | None = None,
    layout: str | None = None,
    height: int = 600,
) -> View:
    """Show volumes in one Neuroglancer: see `Volume.view`. A volume has one server for all its views."""
    client_folder()
    check_layout(layout)
    volumes = [as_volume(source) for source in (first, *others)]
    key = os.getpid(), id(volumes[0])
    with _lock:
        server = _servers.get(key)
        if server is None or not server.is_open:
            server = _servers[key] = Server(volumes[0])
    return server.view(*volumes[1:], names=names, layout=layout, height=height)
