"""What `doctor` has seen of a pyramid: `info`, scales, some chunks, and the server's answer to a web page."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from precomputed_fs.format.grid import ChunkCoords, ChunkGrid, chunk_name
from precomputed_fs.format.info import ScaleInfo
from precomputed_fs.format.info_members import lowercase
from precomputed_fs.format.scene_folders import SceneFolder
from precomputed_fs.format.scene_types import SceneType
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.store.location import Location
from precomputed_fs.store.protocols import protocol_of

PAGE_ORIGIN = "https://neuroglancer-demo.appspot.com"
"""The origin of web pages that read pyramids."""

LARGEST_CHUNK = 1 << 30
"""Decoded bytes; larger chunks are not examined."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A chunk that was looked for."""

    coords: ChunkCoords
    state: str
    """"found", "absent", "unlisted" (a 403 that may mean absent), "denied", "damaged", "failed", or "undecodable" (a
    library is missing)."""

    said: str = ""
    """The error's message."""

    name: str = ""
    suffix: str = ""
    is_flat: bool = True
    content_encoding: str = ""
    is_hidden_gzip: bool = False
    """Whether it is gzip, although neither its name nor a header says so."""

    is_zlib: bool = False
    is_gzip: bool = False
    """Of a chunk in a shard: what its bytes are."""

    is_progressive: bool = False


@dataclass(slots=True)
class SeenScale:
    """A scale: its member of `info`, and its chunks."""

    pyramid: "SeenPyramid"
    index: int
    given: Mapping[str, Any]
    info: ScaleInfo | None = None
    samples: Sequence[Sample] = ()
    has_empty_minishards: bool = False
    has_zlib_index: bool = False
    has_gzip_index: bool = False
    wrong: str = ""
    """Why this package cannot open it."""

    bytes_of_chunk: int = 0

    @property
    def key(self) -> str:
        """Its key, or else its place in `info`."""
        key = self.given.get("key")
        return key if isinstance(key, str) else f"scales[{self.index}]"

    @property
    def encoding(self) -> str:
        """Its ``encoding``, in lower case."""
        return lowercase(self.given.get("encoding"))

    @property
    def sharding(self) -> Sharding | None:
        """Its sharding; None also if `info` is invalid."""
        return None if self.info is None else self.info.sharding

    @property
    def grid(self) -> ChunkGrid:
        """Its grid of chunks; a ValueError if `info` is invalid."""
        if self.info is None:
            raise ValueError(self.key)
        return self.info.grid

    def having(self, is_so: Callable[[Sample], object]) -> str | None:
        """Count the chunks that satisfy a condition, and name one; None if there are none."""
        found = [sample for sample in self.samples if is_so(sample)]
        if not found:
            return None
        return f"{len(found)} of {len(self.samples)} chunks, such as {found[0].name or chunk_name(found[0].coords)}"


@dataclass(slots=True)
class SeenFolder:
    """A folder of meshes, skeletons, segment properties or annotations, by its `info`."""

    pyramid: "SeenPyramid"
    member: str
    """The member of `info` that names it: see `precomputed_fs.format.scene_folders`. Of one that stands alone, what it
    holds."""

    folder: SceneFolder | None = None
    """None if it stands alone."""

    state: str = "unseen"
    """Of its `info`: as `SeenPyramid.state`."""

    said: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    is_empty: bool = False
    """Whether the store says that there is nothing in it."""

    suffixed: str = ""
    """A file in it whose name has the suffix of a compression."""

    wrong: str = ""
    """Why this package cannot read its `info`."""

    violations: Sequence[str] = ()
    """What its `info` has otherwise than the specification, though its meaning is clear."""

    @property
    def type(self) -> str:
        """Its ``@type``, as it is written; empty if there is none."""
        kind = self.given.get("@type")
        return kind if isinstance(kind, str) else ""


@dataclass(slots=True)
class ServerAnswer:
    """How the server answers a web page that asks for the first byte of `info`."""

    status: int = 0
    allowed_origin: str = ""
    is_anonymous: bool = True
    said: str = ""


@dataclass(slots=True)
class SeenPyramid:
    """A pyramid, as far as it has been examined."""

    location: Location
    time_limit: float
    denied_is_missing: bool = False
    """Whether this package was told to treat a 403 as absent."""

    text: bytes = b""
    info_suffix: str = ""
    is_hidden_gzip: bool = False
    redirected_to: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    scales: Sequence[SeenScale] = ()
    folders: Sequence[SeenFolder] = ()
    alone: SceneType | None = None
    """What it is, if it is not a volume but a folder of annotations or the like; `given` is empty then."""

    server: ServerAnswer | None = None
    is_late: bool = False
    state: str = "unseen"
    """"found", or why `info` could not be read: "absent", "denied", "damaged", "failed", or "wrong" (invalid)."""

    said: str = ""

    @property
    def protocols(self) -> tuple[str, ...]:
        """The protocols: "file", "http", "s3", "gs", or others; that of an archive before that of the place it is in.

        Caches are left out.
        """
        links = self.location.links
        kept = [link for link in links if not protocol_of(link.protocol).keeps_copies] or links
        return tuple(_PROTOCOLS.get(link.protocol, link.protocol) for link in kept)

    @property
    def protocol(self) -> str:
        """The first of the protocols."""
        return self.protocols[0]

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
        """The number of channels; 0 if `info` does not say."""
        channels = self.given.get("num_channels")
        return int(channels) if isinstance(channels, int | float) else 0


_PROTOCOLS = {"local": "file", "https": "http", "s3a": "s3", "gcs": "gs"}
