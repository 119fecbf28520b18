"""The destination of a copy: whether it is free, and what it says of itself until the copy is complete.

Until all chunks are there, the destination has no `info` but `info.partial`, which records what is copied there, and
how. A run that finds the record of the same copy resumes it; one that finds another record stops.
"""

import contextlib
import json
from collections.abc import Sequence

from precomputed_fs.copying.plan import ScaleCopy, Target
from precomputed_fs.errors import (
    AccessDeniedError,
    AlreadyExistsError,
    DataAccessError,
    InvalidInfoError,
    ReadOnlyError,
)
from precomputed_fs.format.info import Info
from precomputed_fs.format.scene_types import VOLUME
from precomputed_fs.pyramid import claims, copies, folders
from precomputed_fs.pyramid.claims import Claimed
from precomputed_fs.pyramid.making import check_kind, what_is_there
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.store.overlap import place_of
from precomputed_fs.volume import Volume
from precomputed_fs.volume.placement import FILE, transform_of

_JSON_TYPE = "application/json"


def check_writable(pyramid: Pyramid, target: Target) -> None:
    """Check that the destination can be written, and read back if the copy is to be verified."""
    if not pyramid.can_write:
        raise ReadOnlyError(f"{pyramid.url}: this cannot be written to; copy to the place itself")
    if target.verify and not pyramid.can_read:
        raise ValueError(f"{pyramid.url}: an archive that is being written cannot be read: verify=False")


def check_apart(volume: Volume, copy: ScaleCopy) -> None:
    """Check that source and destination do not overlap, since the destination may be cleared."""
    there = place_of(copy.destination.location)
    for place in (place_of(volume.pyramid.location), place_of(copy.source.location, copy.source_key)):
        if place.has(there) or there.has(place):
            relation = "are the same place" if place.path == there.path else "are one inside the other"
            raise ValueError(f"{volume.url} and {copy.destination.url} {relation}: copy to somewhere else")


class Destination:
    """The destination, with its record of the copy until that is complete."""

    def __init__(self, pyramid: Pyramid, info: Info, source: str, gzip: bool | None, scene: Sequence[str] = ()) -> None:
        self.pyramid = pyramid
        self.info = info
        record = {"source": source, "gzip": gzip, "flat": pyramid.options.flat, "info": info.to_dict()}
        self._claim = claims.Claim(pyramid, record)
        self._keys = list(dict.fromkeys(scale.key.removesuffix("/") for scale in info.scales))
        self._folders = scene

    def begin(self, volume: Volume, *, overwrite: bool) -> str:
        """Look up what is there, and record the copy.

        Returns
        -------
        {"new", "begun", "whole"}
            Whether nothing of the copy is there, or some of it may be, or all of it is.
        """
        pyramid = self.pyramid
        if not pyramid.can_read:  # an archive being written: nothing in it can be read or replaced
            return "new"
        infos, there = claims.look(pyramid)
        if there is not None and self._claim.is_same(there):
            return "whole" if infos else "begun"
        advice = "overwrite=True deletes that first"
        if there is not None and (overwrite or not infos):
            claims.check_free(pyramid, there, overwrite=overwrite, advice=advice)
        in_the_way = (there is not None and not infos) or self._in_the_way(has_info=bool(infos))
        if in_the_way and not overwrite:
            raise AlreadyExistsError(f"{pyramid.url}: {in_the_way}; {advice}")
        if in_the_way:
            check_kind(pyramid, VOLUME, is_there=bool(infos))
            self._clear(volume, there)
            return "new"
        try:
            self._claim.take(None)
        except AlreadyExistsError:  # another run began at the same moment
            there = claims.find(pyramid)
            if there is None or not self._claim.is_same(there):
                raise
            return "begun"
        return "new"

    def complete(self) -> None:
        """Store `info`, which completes the copy.

        Raises
        ------
        AlreadyExistsError
            If another copy to the same place has begun, or ended, meanwhile; not if it is of the same to the same.
        """
        pyramid = self.pyramid
        self._claim.check_held(shared=True)
        with contextlib.suppress(InvalidInfoError):  # `info` is copied as it is, whatever others mean by that member
            if (transform := transform_of(self.info)) is not None:
                pyramid.store_file(FILE, transform, mime_type=_JSON_TYPE, overwrite=pyramid.can_read)
        try:
            pyramid.store_file("info", self.info.to_json(), mime_type=_JSON_TYPE)
        except AlreadyExistsError:
            if not pyramid.can_read or json.loads(pyramid.fetch_file("info")) != self.info.to_dict():
                raise
        self.forget()

    def forget(self) -> None:
        """Delete the record of a complete copy."""
        self._claim.release()

    def stop_if_failed(self, error: type[BaseException] | None, *_: object) -> None:
        """Record that a failed copy is no longer running."""
        if error is not None:
            self._claim.stop()

    def _in_the_way(self, *, has_info: bool) -> str:
        if has_info:
            return what_is_there(self.pyramid)
        with contextlib.suppress(AccessDeniedError):
            for key in self._keys:
                if copies.has_data(self.pyramid, key):
                    return f"there are chunks of unknown origin in {key}"
            for folder in self._folders:
                if folders.has_files(self.pyramid, folder):
                    return f"there are files of unknown origin in {folder}"
        return ""

    def _clear(self, volume: Volume, there: Claimed | None) -> None:
        """Delete what is in the way; the record says so, in case this run ends meanwhile."""
        pyramid = self.pyramid
        self._claim.take(there, clearing=True)
        with contextlib.suppress(DataAccessError):
            seen = claims.find(volume.pyramid)
            if seen is not None and self._claim.is_mine(seen):
                self._claim.release()
                raise ValueError(f"{volume.url} and {pyramid.url} are the same place: copy to somewhere else")
        for name in ("info", FILE):
            pyramid.delete_file(name)
        for key in self._keys:
            copies.delete_data(pyramid, key)
        for folder in self._folders:
            folders.delete_files(pyramid, folder)
        self._claim.take(Claimed({}))
