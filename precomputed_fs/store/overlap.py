"""Whether two URLs stand for one place, or for places one inside the other."""

import os
from typing import Any, NamedTuple

from precomputed_fs.store.location import Location, store_of
from precomputed_fs.store.protocols import protocol_of


class Place(NamedTuple):
    """Where a URL's objects are, to compare places."""

    container: tuple[Any, ...]
    """The kind of store, the server or bucket, and the archives."""

    path: tuple[str, ...]

    def has(self, other: "Place") -> bool:
        """Whether the other place is this one, or inside of it."""
        return self.container == other.container and self.path == other.path[: len(self.path)]


def place_of(location: Location, key: str = "") -> Place:
    """Return the place of a pyramid, or of a folder in it."""
    links = [link for link in location.links if not protocol_of(link.protocol).keeps_copies or not link.has_path]
    links = [link for link in links if link.has_path] or list(location.links)
    first, *behind = links
    path = first.url.partition("://")[2] or first.url
    if first.protocol in ("http", "https"):
        path = path.partition("?")[0]
    if first.protocol == "file":
        path = os.path.realpath(path)
    parts = [part for part in f"{path}/{key}".split("/") if part]
    return Place((*store_of(first), *(link.url for link in behind)), tuple(parts))
