"""Where volumes stand: local disk, and servers on this machine that are started when they are first needed."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from benchmarks.jobs import Location
from tests.servers import NginxServer, nginx_server

LATENCY = 0.03  # seconds


@dataclass(frozen=True)
class Place:
    """A kind of storage, as a row of the table names it."""

    name: str
    kind: str
    is_slow: bool = False
    signed: bool = False


HTTP = Place("HTTP", "http")
SLOW_HTTP = Place("HTTP 30 ms", "http", is_slow=True)
S3 = Place("S3", "s3")
SLOW_S3 = Place("S3 30 ms", "s3", is_slow=True)
SIGNED_S3 = Place("S3 signed", "s3", signed=True)
SLOW_SIGNED_S3 = Place("S3 signed 30 ms", "s3", is_slow=True, signed=True)
DISK = Place("disk", "file")
PLACES = {
    place.name: place for place in (HTTP, SLOW_HTTP, S3, SLOW_S3, SIGNED_S3, SLOW_SIGNED_S3, DISK)
}


class Servers:
    """nginx, once for each kind of place, all of the same folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._running: dict[tuple[str, bool], NginxServer] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def at(self, place: Place) -> NginxServer | None:
        """Return the server of a place; None: it has none."""
        if place.kind == "file":
            return None
        which = place.kind, place.is_slow
        if which not in self._running:
            is_s3 = place.kind == "s3"
            server = nginx_server(
                self._root.parent if is_s3 else self._root, latency=LATENCY if place.is_slow else 0.0, as_s3=is_s3
            )
            self._running[which] = self._stack.enter_context(server)
        return self._running[which]

    def locate(self, local: Location, place: Place) -> Location:
        """Return where a volume of the folder is found at a place."""
        server = self.at(place)
        if server is None:
            return local
        return replace(local, kind=place.kind, base=server.url, signed=place.signed, bucket=self._root.name)
