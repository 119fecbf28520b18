"""Which filesystem, and which root in it, a pyramid's URL stands for.

`resolve` reads a URL without touching the network; `Location.open` makes the filesystem. Every
filesystem is our own instance with listing caches off, so that no answer is stale.
"""

import contextlib
import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from precomputed_fs.format.grid import layout_of
from precomputed_fs.store import url as urls
from precomputed_fs.store.protocols import PROTOCOLS, protocol_of
from precomputed_fs.store.protocols.base import Filesystem, Options, Protocol, protocol_name
from precomputed_fs.store.redaction import longest_first, without_secrets
from precomputed_fs.store.storage_options import check_options
from precomputed_fs.store.url import AnyURL, Link, merged

_SCALE_KEY = r"[\d.e+-]+(?:_[\d.e+-]+){2}|[\d.]+(?:nm|um|mm)"  # cloud-volume's and tensorstore's; neuroglancer-scripts'
_TELLING_APART = ("endpoint_url", "account_name", "connection_string", "host", "port", "path")  # options


@dataclass(frozen=True, slots=True)
class Location:
    """Where a pyramid is, and how to reach it. Only `open` touches the network."""

    links: tuple[Link, ...]
    """The parts of the URL, the outermost first; they contain secrets: use `display` to show them."""

    anon: bool | None = None
    fs: Filesystem = field(default=None)
    """The user's own filesystem, or None to make one."""

    made_by: int = field(default_factory=os.getpid)
    """The process that ``fs`` works in."""

    given: Mapping[str, Any] = field(default_factory=dict)
    """The user's storage options: those of other protocols may be for the place that `info` redirects to."""

    def __repr__(self) -> str:
        return f"Location({self.display()!r})"

    @property
    def protocol(self) -> Protocol:
        """The outermost protocol."""
        return protocol_of(self.links[0].protocol)

    @property
    def writable(self) -> bool:
        """Whether this protocol, with these options, can be written to."""
        return self.protocol.can_write(self.links[0].options)

    @property
    def readable(self) -> bool:
        """Whether this protocol, with these options, can be read from."""
        return self.protocol.can_read(self.links[0].options)

    @property
    def may_go_without_credentials(self) -> bool:
        """Whether ``anon=True`` would make a difference."""
        return not self.anon and self.fs is None and any(protocol_of(link.protocol).anonymous for link in self.links)

    @property
    def secrets(self) -> tuple[str, ...]:
        """Texts that messages must not show: query strings, passwords, keys, tokens."""
        return longest_first({secret for link in self.links for secret in link.secrets})

    @property
    def has_credentials(self) -> bool:
        """Whether the user has given any, or has said with ``anon=False`` to use the machine's."""
        return self.anon is False or any(map(_has_credentials, self.links))

    @property
    def _place(self) -> int:
        """The index of the link that the paths of objects are appended to."""
        return next((i for i, link in enumerate(self.links) if link.has_path), len(self.links) - 1)

    def display(self, name: str = "") -> str:
        """Show the URL of the pyramid, or of an object in it, without secrets."""
        shown = [link.display for link in self.links]
        if name:
            scheme, mark, path = shown[self._place].rpartition("://")
            path = f"{path.rstrip('/')}/{name}" if path else name
            shown[self._place] = scheme + mark + path
        return urls.CHAIN.join(shown)

    @property
    def mistaken(self) -> str:
        """A question to ask, if this looks like the URL of a pyramid's `info`, scale or chunk; otherwise empty."""
        *_, scale, last = ["", *self.links[self._place].display.rstrip("/").split("/")]
        key, levels = (scale, 2) if layout_of(last) else (last, 1)
        if not (last == "info" or re.fullmatch(_SCALE_KEY, key)):
            return ""
        with contextlib.suppress(ValueError):
            there = self.above(levels).display()
            if last == "info":
                return f"did you mean the pyramid, {there}?"
            return f"did you mean scale {key} of a pyramid, open_volume({there!r})[{key!r}]?"
        return ""

    @property
    def server(self) -> tuple[Any, ...]:
        """What credentials are valid for: the protocol, store, and host or bucket of the outermost part."""
        protocol, _, rest = self.links[0].url.partition("://")
        return protocol, rest.split("/")[0], *store_of(self.links[0])

    def above(self, levels: int) -> "Location":
        """Return the place some folders further up, in the same bucket, host or archive.

        Raises
        ------
        ValueError
            If there are fewer folders.
        """
        link = self.links[self._place]
        scheme, mark, rest = link.url.rpartition("://")
        path, query_mark, query = rest.partition("?") if link.protocol in ("http", "https") else (rest, "", "")
        folders = path.rstrip("/").split("/")
        if len(folders) - levels < (1 if protocol_of(link.protocol).has_host else 0):
            raise ValueError(f"{self.display()}: there are no {levels} folders above it")
        url = f"{scheme}{mark}{'/'.join(folders[:-levels])}{query_mark}{query}"
        shown = without_secrets(url.removeprefix("file://") if link.protocol == "file" else url)
        moved = link._replace(url=url, display=shown)
        return dataclasses.replace(self, links=tuple(moved if one is link else one for one in self.links))

    def below(self, path: str) -> "Location":
        """Return the place of a folder in this one, given its checked path."""
        link = self.links[self._place]
        is_quoted = link.protocol in ("http", "https")
        url = urls.join(link.url, path) if is_quoted else f"{link.url.rstrip('/')}/{path}"
        moved = link._replace(url=url, display=f"{link.display.rstrip('/')}/{path}")
        return dataclasses.replace(self, links=tuple(moved if one is link else one for one in self.links))

    @property
    def behind(self) -> "Location | None":
        """The target of an archive or a cache, if we make the HTTP requests to it."""
        if len(self.links) > 1 and protocol_of(self.links[1].protocol).is_asynchronous:
            return Location(self.links[1:], anon=self.anon)
        return None

    def open(self, timeout: float) -> tuple[Any, str]:
        """Make the filesystem; returns it with the pyramid's root in it."""
        import fsspec  # noqa: PLC0415

        if self.fs is not None:
            fs = self.fs
            if self.made_by != os.getpid():  # not safe to use after a fork: make a copy
                fs = type(fs)(*fs.storage_args, **{**fs.storage_options, "skip_instance_cache": True})
            return fs, self.protocol.path_in(fs, self.links[0].url)
        options = {link.protocol: self._options(link, timeout) for link in self.links}
        for link in self.links:
            check_options(link)
        if len(self.links) == 1:  # `url_to_fs` would take a `::` in it for a chain
            fs, root = self.protocol.make(self.links[0].protocol, self.links[0].url, options[self.links[0].protocol])
        else:
            fs, root = fsspec.core.url_to_fs(urls.CHAIN.join(link.url for link in self.links), **options)
        inner = fs
        for link in self.links:
            if inner is not None:
                protocol_of(link.protocol).prepare(inner, timeout)
            inner = getattr(inner, "fs", None)
        return fs, root

    def _options(self, link: Link, timeout: float) -> Options:
        protocol = protocol_of(link.protocol)
        options = merged(protocol.defaults(timeout), link.options)
        return merged(options, protocol.anonymous) if self._is_anonymous(link) else options

    def _is_anonymous(self, link: Link) -> bool:
        if self.anon is not None:
            return self.anon
        protocol = protocol_of(link.protocol)
        return not protocol.credential_options & link.options.keys() and not protocol.has_credentials(link.options)

    @property
    def goes_without_credentials(self) -> bool:
        """Whether the outermost part is asked anonymously although it knows credentials."""
        return self.fs is None and bool(self.protocol.anonymous) and self._is_anonymous(self.links[0])


def resolve(
    url: AnyURL | Location,
    *,
    storage_options: Mapping[str, Any] | None = None,
    fs: Filesystem = None,
    anon: bool | None = None,
) -> Location:
    """Read a pyramid's URL.

    Parameters
    ----------
    url : str, path, UPath or Location
        A path, any fsspec URL or chain of URLs, or ``s3+http(s)://endpoint/bucket/path``; with or
        without ``precomputed://`` in front or ``|neuroglancer-precomputed:`` at the end. A path
        object is a local path, whatever characters it contains, except that a ``UPath`` has its
        own protocol and options. A location is returned as it is.
    storage_options : mapping, optional
        fsspec's options: flat for one protocol; for a chain, nested by protocol or in ``target_options``.
    fs : fsspec.AbstractFileSystem, optional
        A filesystem to use instead of making one; `url` is then a path in it.
    anon : bool, optional
        Whether to access the store without credentials; the default is True if the machine has none.

    Raises
    ------
    URLError
        If the scheme is unknown or lacks its slashes, if its driver is not installed, or if
        something is chained to a URL that takes no target.
    """
    if isinstance(url, Location):
        return url
    given = storage_options or {}
    if not isinstance(given, Mapping):  # it may be a secret
        raise TypeError(f"storage_options: expected a mapping such as {{'anon': True}}, got {type(given).__name__}")
    if isinstance(url, urls.URLPath) and url.protocol not in ("", *urls.LOCAL_NAMES):
        given = merged(url.storage_options, given)
        url = str(url)
    if fs is None:
        return Location(tuple(urls.read_links(url, given)), anon=anon, given=given)
    if given or anon is not None:
        raise ValueError("fs is a finished filesystem: storage_options and anon do not apply to it")
    if getattr(fs, "asynchronous", False):
        raise ValueError("fs: an instance made with asynchronous=True is bound to its own event loop")
    text = urls.unwrapped(url) if isinstance(url, str) else urls.path_of(url)
    return Location(
        (Link(protocol_name(fs), text, without_secrets(text), dict(fs.storage_options), has_path=True),), fs=fs
    )


def store_of(link: Link) -> tuple[Any, ...]:
    """Return what identifies a store apart from the URL: its protocol, and the options that say where it is."""
    options = {**(link.options.get("client_kwargs") or {}), **link.options}
    return (PROTOCOLS.get(link.protocol, link.protocol), *(options.get(name) for name in _TELLING_APART))


def _has_credentials(link: Link) -> bool:
    protocol = protocol_of(link.protocol)
    settled = ((name, link.options.get(name)) for name in protocol.credential_options)
    return any(value not in (None, "", protocol.anonymous.get(name)) for name, value in settled) or any(link.secrets)
