"""What can be asked of a store, and what it answers: the vocabulary of jobs.

A job is a generator: it yields requests, is sent their answers, and returns its result. It does no I/O, so a test
feeds it answers by hand; a driver (`transfers`, `direct`) does the I/O and runs many jobs at once. What a store
cannot do is thrown into the job, as one of our exceptions.

========================  ==========================================================================
a job yields              and is sent
========================  ==========================================================================
`Get`                     a `Body`
`Exists`                  bool: False is the store's own word for it
`Put`, `Delete`           None, when it is done
`List`                    the last parts of the names, a list of str
`Walk`                    a `Page` of objects; None if the store cannot list
`ChangedLately`           bool
`Compute`                 what the function returns
`Pause`                   None, when the time is over
`Wait`                    whether the future is done: False when the time is over
`Exchange`                an `Answer`, where the filesystem is reached over HTTP
a list of these, or jobs  a list of answers or results, or of exceptions in their places, when all are there
========================  ==========================================================================
"""

import mmap
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeVar, Union

from precomputed_fs.format.compression import MAX_DECODED_SIZE
from precomputed_fs.format.scale_layout import Pieces

if TYPE_CHECKING:
    import concurrent.futures

_T = TypeVar("_T")


@dataclass(slots=True)
class Get:
    """Read an object, or the bytes from ``start`` up to ``end`` of what is stored."""

    name: str
    start: int | None = None
    end: int | None = None
    limit: int = MAX_DECODED_SIZE
    """Bytes that the whole object may have."""

    versioned: bool = False
    """Whether the version of a whole object is needed; a range always has it."""

    pieces: Pieces = ()
    """Of a range: which pieces suffice if the object has `size` bytes, and no encoding; else all of it is sent.

    Which of both it is, `Body.is_pieces` tells. Pieces have no version."""

    size: int = 0

    @property
    def whole(self) -> "Get":
        """The same without a range."""
        return Get(self.name, limit=self.limit, versioned=self.versioned)

    @property
    def most(self) -> int:
        """How many bytes the answer may have."""
        return self.limit if self.start is None or self.end is None else self.end - self.start


@dataclass(slots=True)
class Exists:
    """Tell whether there is an object of this name."""

    name: str


@dataclass(slots=True)
class Put:
    """Write an object, whole or not at all."""

    name: str
    data: bytes | mmap.mmap
    content_type: str
    content_encoding: str = ""
    create: bool = False
    """Whether an existing object is an AlreadyExistsError."""

    replacing: str = ""
    """The version to replace; any other one, or none, is a ReplacedError."""


@dataclass(slots=True)
class Delete:
    """Delete an object, or one version of it; that there is none is no error."""

    name: str
    replacing: str = ""


@dataclass(slots=True)
class List:
    """List the last parts of up to ``limit`` names that begin with a prefix, in one request; without one, of all."""

    prefix: str
    limit: int


@dataclass(slots=True)
class Walk:
    """List some of the objects in a folder and the folders below it, each with its size: one `Page`."""

    folder: str
    more: Any = None
    """`Page.more` of the page before; None for the first page."""


class Listed(NamedTuple):
    """An object as a listing has it."""

    name: str
    """From the root of the pyramid."""

    size: int | None
    """Bytes as stored, where the listing tells."""


class Page(NamedTuple):
    """Some of the objects in a folder, in the order of the store."""

    objects: Sequence[Listed]
    more: Any
    """What `Walk.more` of the next page is to be; None at the end."""


@dataclass(slots=True)
class ChangedLately:
    """Tell whether names in a folder may have changed in the last second."""

    folder: str


@dataclass(slots=True)
class Compute:
    """Call a function in a thread of the pool."""

    function: Callable[[], Any]


@dataclass(slots=True)
class Pause:
    """Let some time pass."""

    seconds: float


@dataclass(slots=True)
class Wait:
    """Wait until another job is done with something, in this batch or another; for a time, as that may stand still."""

    future: "concurrent.futures.Future[Any]"
    seconds: float


Request: TypeAlias = Union[
    Get,
    Exists,
    Put,
    Delete,
    List,
    Walk,
    ChangedLately,
    Compute,
    Pause,
    Wait,
    "Exchange",
    Sequence["Request | Job[Any]"],
]

Job: TypeAlias = Generator[Request, Any, _T]
"""Logic without I/O; see the module. Of a batch, each job returns a list of results, or `FollowUps`."""


@dataclass(frozen=True, slots=True)
class FollowUps:
    """What a job may return in the place of results: jobs that follow from it."""

    jobs: Sequence[Job[Any]]


class Body:
    """The bytes of an object as the store has sent them, and what it said of them.

    Parameters
    ----------
    parts : list of bytes
        As they came; they are joined where the bytes are first used, which may be another thread.
    """

    __slots__ = ("_parts", "content_encoding", "is_pieces", "is_settled", "version")

    def __init__(
        self,
        parts: list[bytes],
        content_encoding: str = "",
        version: str = "",
        *,
        is_settled: bool = True,
        is_pieces: bool = False,
    ) -> None:
        self._parts = parts
        self.content_encoding = content_encoding
        """How the bytes are encoded, where the answer says it."""

        self.version = version
        """Tells one state of the object from another, where it was asked for or is a range."""

        self.is_settled = is_settled
        """Of a range: whether no other state can get this version any more; False also where there is no version."""

        self.is_pieces = is_pieces
        """Whether these are the pieces that were asked for, joined, and not the whole object."""

    def __repr__(self) -> str:
        return f"Body({len(self)} bytes, {self.content_encoding!r}, {self.version!r})"

    def __len__(self) -> int:
        return sum(map(len, self._parts))

    @property
    def data(self) -> bytes:
        """The bytes: not decoded, unless the filesystem does so and does not tell."""
        if len(self._parts) != 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0]


class HttpRequest(NamedTuple):
    """How a filesystem would ask for an object over HTTP."""

    url: str
    """Quoted as it is to be sent."""

    headers: Mapping[str, str] = {}
    """Of the user, or with credentials: they go to no other host."""

    method: str = "GET"
    """GET or HEAD."""

    signer: "Signer | None" = None

    def __repr__(self) -> str:
        address = self.url.partition("?")[0].rpartition("@")[2]
        return f"HttpRequest({self.method} {address!r})"  # without what is secret


class Exchange(NamedTuple):
    """One HTTP request that a driver sends; it is answered by an `Answer` of whatever status."""

    http: HttpRequest
    start: int | None
    end: int | None
    limit: int
    """Bytes of a body with the status that is wanted; of one that explains a failure, what comes at once."""


class Signer(NamedTuple):
    """Whose requests to S3 these are: libcurl signs them. A session token is a header."""

    region: str
    access_key: str
    secret_key: str

    def __repr__(self) -> str:
        return f"Signer({self.region!r}, {self.access_key!r}, '***')"
