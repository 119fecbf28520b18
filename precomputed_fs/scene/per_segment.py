"""What a folder has for each segment: the objects behind `vol.meshes` and `vol.skeletons`, and how these are stored."""

import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from precomputed_fs.errors import NotFoundError, expected_one_of, shown
from precomputed_fs.format.names import joined
from precomputed_fs.format.sharding import Sharding, propose_hashed_sharding
from precomputed_fs.keywords import spelled_out
from precomputed_fs.pyramid.batches import Callback
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.pyramid.value_ids import stored_ids
from precomputed_fs.pyramid.values import Values
from precomputed_fs.scene.folder import Folder
from precomputed_fs.volume.progress import Progress
from precomputed_fs.volume.text import one_line

_T = TypeVar("_T")

_MISSING = ("error", "skip")
_NAMES_ELSEWHERE = {"raise": "error", "ignore": "skip", "allow": "skip"}
_LARGEST_ID = (1 << 64) - 1
_NAMED = 10  # ids that a message lists
_SAMPLED = 64  # values whose sizes are measured to propose a sharding


class PerSegment(Generic[_T]):
    """The objects of one kind that segments have, by segment id; read when they are asked for.

    Parameters
    ----------
    folder : Folder
    values : Values
        What the folder has by segment id.
    progress : bool, optional
        Whether reading many shows a progress bar; see `open_volume`.
    """

    kind: ClassVar[str]
    """Of one object, such as "mesh"."""

    kinds: ClassVar[str]
    """Of several, such as "meshes"."""

    def __init__(self, folder: Folder, values: Values[int], *, progress: bool | None = None) -> None:
        self.folder = folder
        self.values = values
        self.progress = progress

    @property
    def url(self) -> str:
        """Where the folder is, without secrets."""
        return self.folder.shown()

    @property
    def pyramid(self) -> Pyramid:
        """What reaches the folder."""
        return self.folder.pyramid

    def __getitem__(self, segment: int) -> _T:
        wanted = checked_id(segment)
        for _, found in self._found([wanted], None):
            if found is not None:
                return found
        raise self._absent([wanted])

    @spelled_out()
    def get(self, segments: Iterable[int], *, missing: str = "error", progress: bool | None = None) -> dict[int, _T]:
        """Read the objects of some segments, many at once.

        Parameters
        ----------
        segments : iterable of int
            Segment ids.
        missing : {"error", "skip"}
            How to treat a segment without one: as a NotFoundError, or by leaving it out.
        progress : bool, optional
            See `open_volume`.

        Returns
        -------
        dict
            By segment id, in the order that was asked for.

        Raises
        ------
        NotFoundError
            If a segment has none; the message lists them.
        CorruptDataError, DataAccessError
            If one cannot be read.
        """
        wanted = list(dict.fromkeys(checked_ids(segments)))
        found = dict(PerSegment.stream(self, wanted, missing="skip", progress=progress))
        if _checked_missing(missing) == "error" and len(found) < len(wanted):
            raise self._absent([segment for segment in wanted if segment not in found])
        return {segment: found[segment] for segment in wanted if segment in found}

    @spelled_out()
    def stream(
        self, segments: Iterable[int], *, missing: str = "error", progress: bool | None = None
    ) -> Iterator[tuple[int, _T]]:
        """Read the objects of any number of segments; memory holds only those in flight.

        Parameters
        ----------
        segments, missing, progress
            See `get`.

        Yields
        ------
        segment, object
            In the order in which they arrive.
        """
        skips = _checked_missing(missing) == "skip"
        wanted = checked_ids(segments)
        shows = self.progress if progress is None else progress
        with Progress(f"reading {self.kinds}", len(wanted), shows, self.kind) as bar:
            for segment, found in self._found(wanted, bar):
                if found is not None:
                    yield segment, found
                elif not skips:
                    raise self._absent([segment])

    def _found(self, segments: Iterable[int], callback: Callback) -> Iterator[tuple[int, _T | None]]:
        """Read objects, many at once, in any order; None stands for an absent one."""
        raise NotImplementedError

    def __contains__(self, segment: object) -> bool:
        wanted = checked_id(segment)
        if self.values.sharding is None:
            return self.pyramid.file_exists(joined(self.values.folder, self.values.name_of(wanted)))
        return self.pyramid.store.run(self.values.find(wanted)) is not None

    @property
    def ids(self) -> NDArray[np.uint64]:
        """The ids of all segments that have one, sorted.

        Each access lists the folder, and reads the indexes of its shards if it has any.

        Raises
        ------
        DataAccessError
            If the protocol has no listings, as HTTP.
        """
        found = np.fromiter(stored_ids(self.values), np.uint64)
        found.sort()
        return found

    def __len__(self) -> int:
        return len(self.ids)

    def __bool__(self) -> bool:
        return True  # without listing

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids.tolist())

    def __repr__(self) -> str:
        details = ", ".join(self._details())
        return f"<{type(self).__name__} {one_line(self.url)}{f': {details}' if details else ''}>"

    def _details(self) -> list[str]:
        """Return what else a repr says."""
        return [] if self.values.sharding is None else ["sharded"]

    def _absent(self, segments: list[int]) -> NotFoundError:
        first = segments[0]
        where = self.url if self.values.sharding else self.folder.shown(self.values.name_of(first))
        if len(segments) == 1:
            return NotFoundError(f"{where}: segment {first} has no {self.kind}")
        listed = ", ".join(map(str, segments[:_NAMED])) + (", ..." if len(segments) > _NAMED else "")
        instead = "missing='skip' leaves them out"
        return NotFoundError(f"{self.url}: {len(segments)} segments have no {self.kind}: {listed}; {instead}")


def checked_id(given: object) -> int:
    """Check a segment id.

    Raises
    ------
    TypeError, ValueError
        If it is not an integer, or not one of uint64.
    """
    try:
        segment = operator.index(given)  # type: ignore[arg-type] # its own error is for anything else
    except TypeError:
        segment = -1
    if isinstance(given, (bool, np.bool_)) or segment < 0:
        raise TypeError(f"expected a segment id, an integer from 0 to 2**64 - 1, got {shown(given)}")
    if segment > _LARGEST_ID:
        raise ValueError(f"expected a segment id of at most 2**64 - 1, got {segment}")
    return segment


def checked_ids(given: Iterable[object]) -> list[int]:
    """Check segment ids, which may be an array of integers.

    Raises
    ------
    TypeError, ValueError
        See `checked_id`.
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError(f"expected several segment ids, such as [1, 2], got {shown(given)}")
    return [checked_id(segment) for segment in given]


def _checked_missing(missing: str) -> str:
    if missing not in _MISSING:
        raise ValueError(expected_one_of("missing", _MISSING, missing, _NAMES_ELSEWHERE))
    return missing


# -------------------------------------------------------------------------------------------------------------- storing


def items_of(given: Any, kinds: str) -> Iterator[tuple[int, Any]]:  # noqa: ANN401 - checked here
    """Return pairs of segment id and object, one after the other: from a mapping, or an iterable of such pairs.

    Raises
    ------
    TypeError, ValueError
        If it is something else, or a segment is given twice.
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError(f"expected a mapping of segment ids to {kinds}, or an iterable of pairs, got {shown(given)}")
    seen: set[int] = set()
    for item in given.items() if isinstance(given, Mapping) else given:
        if not isinstance(item, (tuple, list)) or len(item) != 2:  # noqa: PLR2004 - a pair
            raise TypeError(f"expected {kinds} in pairs, each with its segment id first, got {shown(item)}")
        segment = checked_id(item[0])
        if segment in seen:
            raise ValueError(f"segment {segment} is given twice: expected one of the {kinds} for each segment")
        seen.add(segment)
        yield segment, item[1]


def count_of(given: Any) -> int | None:  # noqa: ANN401 - see `items_of`
    """Return how many items there are, if that is known before."""
    return len(given) if isinstance(given, Sized) else None


def checked_sharding(given: bool | Mapping[str, Any] | Sharding | None) -> bool | Sharding | None:
    """Check how values are to be sharded: True to have it proposed, None for no wish.

    Raises
    ------
    TypeError
        If it is something else.
    InvalidInfoError
        If a mapping is not a ``sharding``.
    """
    if given is None or isinstance(given, bool | Sharding):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(f"sharding: expected True, False or a mapping, got {shown(given)}")
    return Sharding.from_info(given)


def sharding_mismatch(given: bool | Mapping[str, Any] | Sharding | None, there: Sharding | None) -> str:
    """Say how the values of a folder are sharded if that is not as it is wanted; empty if it is."""
    wanted = checked_sharding(given)
    if (bool(there) is wanted) if isinstance(wanted, bool) else (wanted in (None, there)):
        return ""
    return "not sharded" if there is None else "sharded" if wanted is False else "sharded in another way"


def sharding_for(
    given: bool | Mapping[str, Any] | Sharding | None,
    items: Any,  # noqa: ANN401 - see `items_of`
    encoded_sizes: Callable[[], Iterator[int]],
) -> Sharding | None:
    """Return how new values are to be sharded.

    Parameters
    ----------
    given : bool, mapping or Sharding, optional
        See `checked_sharding`.
    items : mapping or iterable
        The values, see `items_of`.
    encoded_sizes : callable
        Returns their sizes in bytes, of which the first ones are asked for.

    Raises
    ------
    TypeError
        If it is to be proposed for an unknown number of values, or is something else.
    InvalidInfoError
        If a mapping is not valid.
    """
    wanted = checked_sharding(given)
    if wanted is not True:
        return wanted or None
    count = count_of(items)
    if count is None or not isinstance(items, Mapping | list | tuple):
        raise TypeError("sharding=True has to know how many there are: pass a mapping, or the sharding itself")
    sizes = list(itertools.islice(encoded_sizes(), _SAMPLED))
    return propose_hashed_sharding(count, sum(sizes) // max(1, len(sizes)))
