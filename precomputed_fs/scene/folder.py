"""A folder with an `info` of its own: beside the scales of a volume, which names it, or standing alone."""

import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar, Unpack

from precomputed_fs.accessor import FsspecAccessor
from precomputed_fs.errors import AlreadyExistsError, DataAccessError, InvalidInfoError, NotFoundError, URLError
from precomputed_fs.format.info_text import parse_info
from precomputed_fs.format.names import joined
from precomputed_fs.format.scene_types import kind_of
from precomputed_fs.format.sharding import Sharding
from precomputed_fs.keywords import AccessorOptions
from precomputed_fs.pyramid import claims
from precomputed_fs.pyramid.options import MAX_FILE_BYTES
from precomputed_fs.pyramid.pyramid import Pyramid
from precomputed_fs.pyramid.values import Values
from precomputed_fs.store.redaction import without_secrets
from precomputed_fs.store.url import AnyURL

_Key = TypeVar("_Key")

_JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of meshes, skeletons, segment properties or annotations.

    Parameters
    ----------
    pyramid : Pyramid
        What reaches it.
    path : str
        Where it is in the pyramid; empty for the root.
    """

    pyramid: Pyramid
    path: str = ""

    @classmethod
    def open(cls, url: AnyURL, **accessor_options: Unpack[AccessorOptions]) -> Self:
        """Return a folder that stands alone; nothing is requested. Its `info` may be long: it may list all segments.

        Raises
        ------
        URLError
            If the URL has an unknown scheme.
        """
        options: AccessorOptions = {"gzip": None, "max_info_bytes": MAX_FILE_BYTES, **accessor_options}
        return cls(FsspecAccessor(url, **options).pyramid)

    @classmethod
    def beside(cls, pyramid: Pyramid, path: object, member: str) -> Self:
        """Return the folder that a member of an `info` names, relative to it.

        Parameters
        ----------
        member : str
            For messages.

        Raises
        ------
        URLError
            If it is an absolute URL: no credentials are taken there.
        InvalidInfoError
            If it is no path, or leaves the bucket, host or archive.
        """
        where = f"{pyramid.location.display('info')}: {member}"
        if not isinstance(path, str) or not path:
            raise InvalidInfoError(f"{where}: expected the path of a folder, got {path!r:.80}")
        if "://" in path:
            raise URLError(f"{where} is an absolute URL, {without_secrets(path)!r}: open that")
        try:
            return cls(*pyramid.reaching(path.removesuffix("/")))
        except ValueError as exc:
            raise InvalidInfoError(f"{where}: {exc}") from exc

    def shown(self, name: str = "") -> str:
        """Return the URL of the folder, or of a file in it, for messages."""
        return self.pyramid.location.display(joined(self.path, name) if name else self.path)

    def info(self) -> dict[str, Any]:
        """Fetch the folder's `info`, and check only that it is a JSON object.

        Raises
        ------
        NotFoundError, AccessDeniedError, DataAccessError
            If it cannot be read; for a folder that stands alone, the message says what is there instead.
        InvalidInfoError
            If it is not a JSON object.
        """
        return self._parsed(self.info_text())

    def info_text(self) -> bytes:
        """Fetch the folder's `info` without parsing it; it raises as `info`."""
        try:
            return self._fetch_info()
        except NotFoundError as exc:
            if self.path or not (said := claims.absence(self.pyramid, exc)):
                raise
            raise NotFoundError(said) from exc

    def _fetch_info(self) -> bytes:
        return self.pyramid.fetch_file(joined(self.path, "info"))

    def _parsed(self, text: bytes) -> dict[str, Any]:
        return parse_info(text, self.shown("info"), self.pyramid.options.max_file_bytes)

    def info_if_any(self) -> dict[str, Any] | None:
        """Fetch the folder's `info`; None if there is none."""
        try:
            return self._parsed(self._fetch_info())
        except NotFoundError:
            return None

    def store_info(self, info: Mapping[str, Any] | bytes, *, overwrite: bool = False) -> None:
        """Store the folder's `info`: its members, or JSON.

        Raises
        ------
        AlreadyExistsError
            If ``overwrite=False`` and there is one.
        """
        text = info if isinstance(info, bytes) else json.dumps(info, allow_nan=False).encode()
        self.pyramid.store_file(joined(self.path, "info"), text, _JSON_TYPE, overwrite=overwrite)

    def check_replaceable(self, new: str) -> None:
        """Check that an `info` that is to be replaced is of the same kind: with it, what it describes would be lost.

        Parameters
        ----------
        new : str
            What the new one is of, as `kind_of` says it.

        Raises
        ------
        AlreadyExistsError
            If it is of another kind, such as of a volume.
        """
        there = ""
        if not self.pyramid.can_read:
            return
        with contextlib.suppress(DataAccessError, InvalidInfoError):  # what cannot be read may be replaced
            there = kind_of(self.info_if_any() or {})
        if there and there != new:
            what = f"there is the info of {there}, and overwrite=True does not replace that by one of {new}"
            raise AlreadyExistsError(f"{self.shown()}: {what}: choose another folder, or delete it first")

    def values(
        self,
        sharding: Sharding | None = None,
        *,
        name_of: Callable[[_Key], str] = str,
        id_of: Callable[[_Key], int] = int,  # type: ignore[assignment] # of keys that are numbers
        subfolder: str = "",
        is_uniform: bool = False,
    ) -> Values[_Key]:
        """Return what the folder, or one in it, holds by key: see `Values`."""
        path = joined(self.path, subfolder) if subfolder else self.path
        return Values(self.pyramid, path, sharding, name_of=name_of, id_of=id_of, is_uniform=is_uniform)
