"""How a URL becomes a volume: its `info` is read, and redirects are followed without giving credentials away."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Unpack

from precomputed_fs.accessor import OPTION_DEFAULTS, FsspecAccessor
from precomputed_fs.errors import AccessDeniedError, URLError
from precomputed_fs.format.info import Info, redirect_of
from precomputed_fs.keywords import AccessorOptions, spelled_out
from precomputed_fs.pyramid import claims
from precomputed_fs.store.location import Location, resolve
from precomputed_fs.store.protocols import PROTOCOLS
from precomputed_fs.store.url import AnyURL
from precomputed_fs.volume.volume import Volume

_MAX_REDIRECTS = 10


@spelled_out({**OPTION_DEFAULTS, "gzip": None})
def open_volume(
    url: AnyURL,
    *,
    missing: str = "zeros",
    progress: bool | None = None,
    orientation: str | None = None,
    **accessor_options: Unpack[AccessorOptions],
) -> Volume:
    """Open a pyramid: one request, for its `info`.

    Parameters
    ----------
    url : str, path or UPath
        See `FsspecAccessor`.
    missing : {"zeros", "raise"}
        How to treat an absent chunk: as zeros, since writers may leave such chunks out; or as a NotFoundError.
    progress : bool, optional
        Whether reading and writing show a progress bar; by default if they take long, in a notebook or on a terminal.
    orientation : {"neuroglancer", "anatomical"}, optional
        How pictures lie, in `Volume.show`, `Volume.plot` and a notebook's description: as in Neuroglancer's panels, or
        upright; see `Volume.show`. It may be changed later, as an attribute.
    **accessor_options
        Options of `FsspecAccessor`, such as ``cache="1 GiB"`` to keep fetched chunks in memory. `gzip` is None by
        default, as for `create_volume`.

    Raises
    ------
    NotFoundError, AccessDeniedError, DataAccessError
        If `info` cannot be read.
    InvalidInfoError
        If `info` is not valid; the message names the place.
    URLError
        If the URL has an unknown scheme, or `info` redirects to a place that this URL may not lead to.

    Notes
    -----
    If `info` redirects to another host, bucket or protocol, no credentials are sent there. Storage options are passed
    on only if they are nested under its protocol, and not to a server that the redirect itself names.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import create_volume
    >>> vol = create_volume("memory://docs/open", np.ones((100, 80, 60), np.uint8), resolution=(8, 8, 8))
    >>> open_volume("memory://docs/open")[0][10:20, :, 5].shape
    (10, 80, 1)
    """
    accessor, given = open_info(url, **accessor_options)
    return volume_from(accessor, given, missing=missing, progress=progress, orientation=orientation)


def open_info(url: AnyURL, **accessor_options: Unpack[AccessorOptions]) -> tuple[FsspecAccessor, Mapping[str, Any]]:
    """Fetch the `info` at a URL, of whatever it is, and follow its redirects; nothing of it is checked.

    Returns
    -------
    FsspecAccessor
        Of the place that `info` redirects to, if it does.
    mapping
        The members of `info`.
    """
    options: AccessorOptions = {"gzip": None, **accessor_options}
    accessor = FsspecAccessor(url, **options)
    anon = options.pop("anon", None)
    options.pop("storage_options", None)
    options.pop("fs", None)
    for _ in range(_MAX_REDIRECTS):
        try:
            given = claims.fetch_info(accessor.pyramid)
        except AccessDeniedError as exc:
            if not accessor.pyramid.location.anon or anon:
                raise
            message = f"{exc}; a redirect led there, which passes no credentials on: open {accessor.url} itself"
            raise AccessDeniedError(message) from exc
        target = redirect_of(given, accessor.pyramid.location.display("info"))
        if target is None:
            return accessor, given
        accessor = FsspecAccessor(_redirected(accessor.pyramid.location, target, anon), **options)
    raise URLError(f"{accessor.url}: redirected {_MAX_REDIRECTS} times")


def volume_of(accessor: FsspecAccessor) -> Volume:
    """Open a pyramid through an accessor.

    Raises
    ------
    URLError
        If `info` redirects: only `open_volume` follows.
    NotFoundError, AccessDeniedError, DataAccessError, InvalidInfoError
        See `open_volume`.
    """
    given = claims.fetch_info(accessor.pyramid)
    check_not_redirected(given, accessor.pyramid.location.display("info"))
    return volume_from(accessor, given)


def check_not_redirected(given: Mapping[str, Any], where: str) -> None:
    """Check that an `info` describes a pyramid itself, since an accessor cannot follow a redirect.

    Raises
    ------
    URLError
        If it redirects.
    """
    if redirect_of(given, where) is not None:
        raise URLError(f"{where} redirects: pass the URL instead of an accessor, to have it followed")


def volume_from(accessor: FsspecAccessor, given: Mapping[str, Any], **options: Any) -> Volume:  # noqa: ANN401 - of Volume
    """Make the volume that an `info` describes, which was fetched through an accessor."""
    info = Info.parse(given, accessor.pyramid.location.display("info"), accessor.pyramid.options.max_info_bytes)
    return Volume(accessor, info, **options)


def _redirected(origin: Location, target: str, anon: bool | None) -> Location:
    """Resolve the target of a redirect, with those credentials only that are meant for it.

    Another host, bucket or protocol gets none. Options nested under its protocol are meant for all of that
    protocol and are passed on, but not to a server that the redirect itself names.

    Parameters
    ----------
    origin : Location
        Where the `info` is that redirects.
    target : str
        An absolute URL.
    anon : bool, optional
        As the caller of `open_volume` gave it.
    """
    if "://" not in target and not target.startswith("/"):
        raise URLError(f"{origin.display()} redirects to {target.partition('?')[0]!r}, which is not an absolute URL")
    there = resolve(target, storage_options=origin.given, anon=origin.anon)
    redirects = f"{origin.display()} redirects to {there.display()}"
    if len(origin.links) > 1 or len(there.links) > 1 or origin.fs is not None:
        raise URLError(f"{redirects}: open that")
    if origin.protocol.is_remote and not there.protocol.is_remote:
        raise URLError(f"{redirects}, which is not a remote place: open that, if you mean it")
    if origin.server == there.server:
        return there
    if not there.protocol.is_asynchronous and there.links[0].protocol not in ("file", "memory"):
        raise URLError(f"{redirects}, where your keys might be sent: open that, if you mean it")
    nested = {name: value for name, value in origin.given.items() if name in PROTOCOLS and isinstance(value, Mapping)}
    anonymous = dataclasses.replace(resolve(target, anon=True), given=nested)
    _, bucket, *_ = anonymous.server
    names_server = not there.protocol.anonymous or "@" in bucket or "endpoint_url" in anonymous.links[0].options
    if names_server or not any(PROTOCOLS[name] is there.protocol for name in nested):
        return anonymous
    return resolve(target, storage_options=nested, anon=anon)
