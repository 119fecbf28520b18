"""Where volumes stand: local disk, and servers on this machine, each started when it is first needed."""

import shutil
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Protocol, Self

from benchmarks.data import Folder
from benchmarks.jobs import DataSet, Location
from tests.support.servers import S3Server, Traffic, nginx_installed, nginx_server, nginx_waits, s3_server

LATENCY = 0.03  # seconds
WRITTEN = "written"  # the bucket, or the folder beside the data sets, that is written to


@dataclass(frozen=True)
class Place:
    """A kind of storage, by the name that the table has for it."""

    name: str
    kind: str
    latency: float = 0.0
    signed: bool = False
    tls: bool = False
    http2: bool = False
    by_moto: bool = False

    @property
    def transport(self) -> str:
        """What headings say of it."""
        if self.kind == "file":
            return "disk"
        return "TLS" if self.tls else "HTTP without TLS, loopback"

    @property
    def missing(self) -> str:
        """What this machine would need for it; empty: nothing."""
        if self.kind == "file" or self.by_moto or nginx_waits():
            return ""
        if not nginx_installed():
            return "nginx (apt-get install nginx-light libnginx-mod-http-lua)"
        return "nginx's lua module (apt-get install libnginx-mod-http-lua)" if self.latency else ""


HTTPS = Place("HTTPS 0 ms", "http", tls=True)
HTTP2 = Place("HTTP/2 0 ms", "http", tls=True, http2=True)
S3_TLS = Place("S3 TLS 0 ms", "s3", tls=True)
S3_TLS_SIGNED = Place("S3 TLS signed 0 ms", "s3", signed=True, tls=True)
HTTP = Place("HTTP 0 ms", "http")
S3 = Place("S3 0 ms", "s3")
S3_SIGNED = Place("S3 signed 0 ms", "s3", signed=True)
HTTPS_30, HTTP2_30, S3_TLS_30, S3_TLS_SIGNED_30, HTTP_30, S3_30, S3_SIGNED_30 = (
    replace(place, name=place.name.replace("0 ms", "30 ms"), latency=LATENCY)
    for place in (HTTPS, HTTP2, S3_TLS, S3_TLS_SIGNED, HTTP, S3, S3_SIGNED)
)
S3_MOTO = Place("S3 moto", "s3", signed=True, by_moto=True)
DISK = Place("disk", "file")


class Server(Protocol):
    """What is asked of a server."""

    url: str

    def clear(self) -> None:
        """Forget what came until now."""

    def traffic(self) -> Traffic:
        """Return what was answered since `clear`."""


class Moto:
    """moto's S3 as a `Server`."""

    def __init__(self, server: S3Server) -> None:
        self._server = server
        self.url = server.endpoint
        server.create_bucket(WRITTEN)

    def clear(self) -> None:
        self._server.log.clear()

    def traffic(self) -> Traffic:
        return Traffic(self._server.log.count())

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
        self._running: dict[Place, Server] = {}
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
        which = replace(place, name="", signed=False)  # the same server, whoever asks
        if which not in self._running:
            self._running[which] = self._start(place)
        return self._running[which]

    def _start(self, place: Place) -> Server:
        if place.by_moto:
            return Moto(self._stack.enter_context(s3_server()))
        root, is_s3 = self._folder.root, place.kind == "s3"
        nginx = nginx_server(
            root.parent if is_s3 else root, latency=place.latency, as_s3=is_s3, tls=place.tls, http2=place.http2
        )
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
