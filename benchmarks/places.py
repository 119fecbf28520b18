"""Where volumes stand: local disk, and servers on this machine, each started when it is first needed."""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Protocol, Self

from benchmarks.data import Folder
from benchmarks.jobs import DataSet, Location
from tests.servers import S3Server, nginx_installed, nginx_server, nginx_waits, s3_server

LATENCY = 0.03  # seconds
WRITTEN = "written"  # the bucket, or the folder beside the data sets, that is written to


@dataclass(frozen=True)
class Place:
    """A kind of storage, by the name that the table has for it."""

    name: str
    kind: str
    latency: float = 0.0
    signed: bool = False
    by_moto: bool = False

    @property
    def missing(self) -> str:
        """What this machine would need for it; empty: nothing."""
        if self.kind == "file" or self.by_moto or nginx_waits():
            return ""
        if not nginx_installed():
            return "nginx (apt-get install nginx-light libnginx-mod-http-lua)"
        return "nginx's lua module (apt-get install libnginx-mod-http-lua)" if self.latency else ""


HTTP = Place("HTTP 0 ms", "http")
HTTP_30 = Place("HTTP 30 ms", "http", LATENCY)
S3 = Place("S3 0 ms", "s3")
S3_30 = Place("S3 30 ms", "s3", LATENCY)
S3_SIGNED = Place("S3 signed 0 ms", "s3", signed=True)
S3_SIGNED_30 = Place("S3 signed 30 ms", "s3", LATENCY, signed=True)
S3_MOTO = Place("S3 moto", "s3", signed=True, by_moto=True)
DISK = Place("disk", "file")
READ_PLACES = (HTTP, HTTP_30, S3, S3_30, S3_SIGNED, S3_SIGNED_30, DISK)


class Server(Protocol):
    """What is asked of a server."""

    url: str

    def clear(self) -> None:
        """Forget what came until now."""

    def traffic(self) -> tuple[int, int | None]:
        """Return how many requests were answered since `clear`, and with how many bytes, if it knows."""


class Moto:
    """moto's S3 as a `Server`."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self.url = server.endpoint
        server.create_bucket(WRITTEN)

    def clear(self) -> None:
        self._server.log.clear()

    def traffic(self) -> tuple[int, int | None]:
        return self._server.log.count(), None

    def take_away(self) -> int:
        """Empty the bucket; return how many bytes of chunks were in it."""
        size = sum(size for name, size in self._server.sizes(WRITTEN).items() if not name.endswith("info"))
        self._server.reset()
        self._server.create_bucket(WRITTEN)
        return size


class Servers:
    """All places that show one folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._running: dict[tuple[str, float], Server] = {}
        self._stack = ExitStack()
        self._numbers = count()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def at(self, place: Place) -> Server | None:
        """Return the server of a place; None: there is none."""
        if place.kind == "file":
            return None
        which = ("moto" if place.by_moto else place.kind), place.latency
        if which not in self._running:
            self._running[which] = self._start(place)
        return self._running[which]

    def _start(self, place: Place) -> Server:
        if place.by_moto:
            return Moto(self._stack.enter_context(s3_server()))
        root, is_s3 = self._folder.root, place.kind == "s3"
        nginx = nginx_server(root.parent if is_s3 else root, latency=place.latency, as_s3=is_s3)
        return self._stack.enter_context(nginx)

    def to_read(self, data: DataSet, place: Place) -> Location:
        """Return where a volume is found."""
        local, server = self._folder.volume(data), self.at(place)
        if server is None:
            return local
        return replace(
            local,
            kind=place.kind,
            base=server.url,
            bucket=self._folder.root.name,
            signed=place.signed,
            latency=place.latency,
        )

    def to_write(self, data: DataSet, place: Place) -> Location:
        """Return where there is nothing yet."""
        path, server = f"{data.folder}-{next(self._numbers)}", self.at(place)
        if server is None:
            return Location(place.kind, str(self._folder.root / WRITTEN), path)
        return Location(place.kind, server.url, path, bucket=WRITTEN, signed=place.signed)

    def take_away(self, location: Location, place: Place) -> int:
        """Remove what was written; return how many bytes the chunks were: `info` may be longer or shorter."""
        server = self.at(place)
        if isinstance(server, Moto):
            return server.take_away()
        folder = Path(location.url)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != "info")
        shutil.rmtree(folder)
        return size
