"""What `doctor` has seen of a pyramid: its `info`, its scales, some chunks, the server's answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from precomputed_fs.format.grid import ChunkCoords, ChunkGrid, chunk_name
from precomputed_fs.format.info import ScaleInfo, lowercase
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.store.location import Location
from precomputed_fs.store.protocols import protocol_of

PAGE_ORIGIN = "https://neuroglancer-demo.appspot.com"
"""Where web pages are from that read a pyramid."""


LARGEST_CHUNK = 1 << 30
"""Bytes of a chunk, decoded, beyond which it is not looked at."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A chunk, as it was found or not."""

    coords: ChunkCoords
    state: str
    """"found", "absent", "unlisted" (403, which may be for what is absent), "denied", "damaged", "failed", or
    "undecodable" for want of a library."""

    said: str = ""
    """The error's message."""

    name: str = ""
    suffix: str = ""
    is_flat: bool = True
    content_encoding: str = ""
    is_hidden_gzip: bool = False
    """Whether it is gzip without anything that says so."""

    is_zlib: bool = False
    is_gzip: bool = False
    """What the bytes are, of a chunk in a shard."""

    is_progressive: bool = False


@dataclass(slots=True)
class SeenScale:
    """One scale, as `info` has it and as its chunks are."""

    pyramid: "SeenPyramid"
    index: int
    given: Mapping[str, Any]
    info: ScaleInfo | None = None
    samples: Sequence[Sample] = ()
    has_empty_minishards: bool = False
    has_zlib_index: bool = False
    has_gzip_index: bool = False
    wrong: str = ""
    """What is wrong with it, to this package."""

    bytes_of_chunk: int = 0

    @property
    def key(self) -> str:
        """Its key; where it has none, its place in `info`."""
        key = self.given.get("key")
        return key if isinstance(key, str) else f"scales[{self.index}]"

    @property
    def encoding(self) -> str:
        """How its chunks are encoded, in lower case."""
        return lowercase(self.given.get("encoding"))

    @property
    def sharding(self) -> Sharding | None:
        """How it is sharded; None also where `info` cannot be."""
        return None if self.info is None else self.info.sharding

    @property
    def grid(self) -> ChunkGrid:
        """Where its chunks are; a ValueError where `info` cannot be."""
        if self.info is None:
            raise ValueError(self.key)
        return self.info.grid

    def having(self, is_so: Callable[[Sample], object]) -> str | None:
        """Name a chunk of which something is so, and count them."""
        found = [sample for sample in self.samples if is_so(sample)]
        if not found:
            return None
        return f"{len(found)} of {len(self.samples)} chunks, such as {found[0].name or chunk_name(found[0].coords)}"


@dataclass(slots=True)
class Server:
    """What a server answers to a web page that asks for the first byte of `info`."""

    status: int = 0
    allowed_origin: str = ""
    is_anonymous: bool = True
    said: str = ""


@dataclass(slots=True)
class SeenPyramid:
    """A pyramid, as far as it was seen."""

    location: Location
    time_limit: float
    denied_is_missing: bool = False
    """Whether this package was told to take a 403 for absence."""

    text: bytes = b""
    info_suffix: str = ""
    is_hidden_gzip: bool = False
    redirected_to: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    scales: Sequence[SeenScale] = ()
    server: Server | None = None
    is_late: bool = False
    state: str = "unseen"
    """"found", or why `info` was not: "absent", "denied", "damaged", "failed"; "wrong", if it says what cannot be."""

    said: str = ""

    @property
    def protocol(self) -> str:
        """How it is reached: "file", "http", "s3", "gs", or another protocol; a cache in front does not count."""
        link = self.location.links[0]
        if len(self.location.links) > 1 and protocol_of(link.protocol).keeps_copies:
            link = self.location.links[1]
        return _PROTOCOLS.get(link.protocol, link.protocol)

    @property
    def kind(self) -> str:
        """Its ``type``, in lower case."""
        return lowercase(self.given.get("type"))

    @property
    def data_type(self) -> str:
        """Its ``data_type``, in lower case."""
        return lowercase(self.given.get("data_type"))

    @property
    def channels(self) -> int:
        """How many channels there are; 0 where `info` does not say."""
        channels = self.given.get("num_channels")
        return int(channels) if isinstance(channels, int | float) else 0


_PROTOCOLS = {"local": "file", "https": "http", "s3a": "s3", "gcs": "gs"}
