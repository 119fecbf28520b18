"""How a pyramid's URL is read, without touching the network, and shown without secrets.

A URL is read as links: the parts of a chain, such as a path in an archive and the URL of the archive.
"""

import functools
import inspect
import os
import re
import urllib.parse
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from precomputed_fs.errors import URLError, did_you_mean
from precomputed_fs.store import foreign
from precomputed_fs.store.protocols import PROTOCOLS, protocol_of
from precomputed_fs.store.protocols.base import Options
from precomputed_fs.store.redaction import secret_values, secrets_in_url, without_secrets

PRECOMPUTED_PREFIX = "precomputed://"
_PRECOMPUTED_ADAPTER = "|neuroglancer-precomputed:"
CHAIN = "::"
_IN_FRONT = ("zip", "tar", "libarchive", "reference", "dir", "simplecache", "filecache", "blockcache", "cached")
_PASTED_ALONG = " \t\r\n'\"<>"
LOCAL_NAMES = ("file", "local")


@runtime_checkable
class URLPath(Protocol):
    """A path with the options of its filesystem, such as a ``UPath`` of universal_pathlib; ``str`` makes its URL."""

    @property
    def protocol(self) -> str:
        """The outermost protocol; empty for a local path."""

    @property
    def path(self) -> str:
        """The path in the filesystem."""

    @property
    def storage_options(self) -> Mapping[str, Any]:
        """The filesystem's options, as fsspec has them."""


AnyURL = str | os.PathLike[str] | URLPath
"""Every type in which the URL of a pyramid can be given."""


class Link(NamedTuple):
    """One part of a chained URL."""

    protocol: str
    """Its name in the URL."""

    url: str
    """The URL with secrets."""

    display: str
    """The URL without secrets."""

    options: Options
    """The storage options of its filesystem."""

    has_path: bool
    """Whether the paths of objects are appended to this part."""

    @property
    def secrets(self) -> set[str]:
        """Texts that messages must not show: query strings, passwords, keys, tokens."""
        return {*secrets_in_url(self.url), *secret_values(self.options, secret=False)}


def read_links(url: AnyURL, given: Mapping[str, Any]) -> list[Link]:
    """Read a URL, or a chain of them, as links with their storage options, the outermost first."""
    options = dict(given)
    links = _chain(_strip_precomputed(url), options) if isinstance(url, str) else [_path_link(path_of(url), options)]
    # Options under a protocol that this URL does not use are for the accessor of another URL.
    own = {key: value for key, value in options.items() if not (key in PROTOCOLS and isinstance(value, Mapping))}
    for link in links[:-1]:
        behind = own.pop("target_options", None) or {}
        link.options.update((key, value) for key, value in own.items() if key not in ("fo", "target_protocol"))
        own = dict(behind)
    links[-1].options.update(own)
    _check_behind(links[-1])
    return links


_UNQUOTED = re.compile(r"[\w./-]*", re.ASCII)
_CACHED_PATHS = 1 << 10  # such as the keys of scales, which each read checks


def join(root: str, relative_path: str) -> str:
    """Join a pyramid's root in its filesystem and the checked path of an object.

    If the root is a URL, the path is quoted and placed before the query, so that every object of a
    signed base URL keeps the signature.

    Examples
    --------
    >>> join("bucket/pyramid/", "info"), join("", "info")
    ('bucket/pyramid/info', 'info')
    >>> join("http://host/a?sig=x%2F", "1e+06/0-1_0-1_0-1")
    'http://host/a/1e%2B06/0-1_0-1_0-1?sig=x%2F'
    """
    if not root or not relative_path:
        return root or relative_path
    if "://" not in root:
        return f"{root.rstrip('/')}/{relative_path}"
    base, mark, query = root.partition("?")
    if not _UNQUOTED.fullmatch(relative_path):
        relative_path = urllib.parse.quote(relative_path, safe="/!$&'()*,;=:@~")
    return f"{base.rstrip('/')}/{relative_path}{mark}{query}"


def listed_prefix(root: str, prefix: str) -> str:
    """Join a pyramid's root and the beginning of names in it; nothing stands for all names."""
    return join(root, prefix) if prefix else f"{root.rstrip('/')}/"


def check_relative_path(path: str) -> str:
    """Check that a path stays inside the pyramid.

    Raises
    ------
    ValueError
        If the path is empty or absolute, or has a NUL, an empty segment, or a segment that is or
        decodes to ``..``.

    Examples
    --------
    >>> check_relative_path("mesh/./1:0")
    'mesh/1:0'
    >>> check_relative_path("mesh/%2e%2e/%2e%2e/etc")
    Traceback (most recent call last):
        ...
    ValueError: 'mesh/%2e%2e/%2e%2e/etc' is not a path inside the pyramid
    """
    return _path_inside(os.fspath(path))


@functools.lru_cache(_CACHED_PATHS)
def _path_inside(path: str) -> str:
    decoded = re.split(r"[/\\]", urllib.parse.unquote(path))
    segments = path.split("/")
    if ".." in decoded or "" in segments or "\0" in "".join(decoded) or "\0" in path:
        raise ValueError(f"{path!r} is not a path inside the pyramid")
    inside = "/".join(segment for segment in segments if segment != ".")
    if not inside:
        raise ValueError(f"{path!r} does not name an object in the pyramid")
    return inside


def convert_file_url_to_pathname(url: str) -> str:
    """Convert a local ``file://`` URL or a plain pathname to a pathname.

    Parameters
    ----------
    url : str
        A plain pathname (returned unchanged, even if empty), or ``file:///path`` or ``file://localhost/path`` with
        percent-encoding; each may have ``precomputed://`` in front.

    Returns
    -------
    str
        A pathname suitable for `open`.

    Raises
    ------
    URLError
        If this is another kind of URL, or not local.

    Examples
    --------
    >>> convert_file_url_to_pathname("precomputed://file:///my%20pyramid")
    '/my pyramid'
    """
    text = _strip_precomputed(url)
    scheme = _scheme_of(text)
    if scheme is None:
        return text
    if scheme != "file":
        raise _refused(text, "a local path or a file:/// URL is required")
    parts = urllib.parse.urlsplit(text)
    if parts.netloc in (".", ".."):
        raise _refused(text, f"not a local file; write {parts.netloc}{parts.path}")
    if parts.netloc not in ("", "localhost"):
        raise _refused(text, "not a local file; is a slash missing in file:///?")
    try:
        return urllib.parse.unquote(parts.path, errors="strict")
    except UnicodeDecodeError as exc:
        raise _refused(text, "the percent-encoded bytes cannot be decoded as UTF-8") from exc


def _strip_precomputed(url: str) -> str:
    _check_pasted(url)
    if why := foreign.in_fragment(url) or foreign.as_page(url):
        raise _refused(url.partition("#")[0], why)
    text = unwrapped(url)
    adapter = re.search(r"\|([a-z][a-z0-9+.-]*):([^|]*)", text)
    if adapter:
        unknown = f"is not known; only a closing {_PRECOMPUTED_ADAPTER!r} is"
        if adapter[1] == "zip":
            unknown = f"is written zip://{adapter[2].partition('?')[0]}::{without_secrets(text[: adapter.start()])}"
        elif _scheme_of(text) is None:
            unknown += "; for a local file of this name pass a pathlib.Path"
        raise _refused(text, f"the adapter {adapter[1]!r} {foreign.SCHEMES.get(adapter[1], unknown)}")
    if url and not text.strip(":"):  # an empty path is the current directory, as in neuroglancer-scripts
        raise URLError(f"{url!r} names no pyramid")
    return text


def unwrapped(url: str) -> str:
    """Remove the prefix or suffix that marks a precomputed pyramid."""
    return re.sub(f"^{PRECOMPUTED_PREFIX}", "", url, flags=re.IGNORECASE).removesuffix(_PRECOMPUTED_ADAPTER)


def _check_pasted(text: str) -> None:
    """Refuse a URL with spaces or quotes around it, which would be taken for a path or for part of a name."""
    url = text.strip(_PASTED_ALONG)
    if url != text and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", url):
        raise _refused(url, "there are spaces or quotes around this URL: remove them")


def path_of(path: object) -> str:
    """Return the path that an `os.PathLike` stands for."""
    if not isinstance(path, bytes | os.PathLike):
        raise TypeError(f"url: expected a string, a path or a UPath, got {type(path).__name__}{_meant_by(path)}")
    text = os.fspath(path)
    if not isinstance(text, str):
        raise TypeError(f"the path {text!r} is bytes: pass os.fsdecode(path) instead")
    import fsspec  # noqa: PLC0415

    known = {*fsspec.available_protocols(), "precomputed", "s3+http", "s3+https"}
    if text.partition(":/")[0].lower() in known and ":/" in text:
        raise _refused(text, "pass a URL as a string; a pathlib.Path has lost one of its slashes")
    return text


def _meant_by(given: object) -> str:
    """Say what to do with a value that is not a URL, at the end of a message."""
    if hasattr(given, "scales"):
        return ": a volume is open already"
    if hasattr(given, "fetch_chunk"):
        return ": an accessor is open already; open_volume takes its URL"
    return ": create_volume(url, array) stores arrays; the URL comes first" if hasattr(given, "dtype") else ""


def _chain(text: str, options: Options) -> list[Link]:
    """Read a chain of URLs, or a single one."""
    parts = _split_chain(text)
    links: list[Link] = []
    for part in parts:
        if links and not _takes_target(links[-1].protocol):
            shown, instead = CHAIN.join(map(without_secrets, parts)), "pass the filesystem as fs="
            why = f"nothing can be chained to {links[-1].protocol}:// with '::'; if '::' is part of a name, {instead}"
            raise URLError(f"{shown}: {why} and the path in it as the URL")
        links.append(_link(part, options, chained=len(parts) > 1))
    if len(links) > 1 and any(CHAIN in link.url for link in links):
        shown = CHAIN.join(link.display for link in links)
        raise URLError(f"{shown}: write addresses in a chain in full, without '::'")
    return links


def _split_chain(text: str) -> list[str]:
    """Split a chain of URLs, but not at an address such as ``[::1]``, nor a local path, which has no target."""
    if "://" not in text and text.partition(CHAIN)[0] not in PROTOCOLS:
        return [text]
    first, *others = re.split(r"::(?![0-9A-Fa-f:.]*\])", text)
    if _scheme_of(first) not in (None, *LOCAL_NAMES) or (first in PROTOCOLS and first not in LOCAL_NAMES):
        return [first, *others]
    if any("://" in part for part in others):
        raise _refused(first, "nothing can be chained to a path with '::'; is the protocol misspelt?")
    return [text]


def _check_behind(last: Link) -> None:
    """Refuse an archive or a cache without a target: it would be the current directory."""
    name = last.protocol
    if name in _IN_FRONT and last.options.keys().isdisjoint(("fo", "fs", "target_protocol")):
        instead = f"write {name}://folder::URL, or {name}::URL"
        raise URLError(f"{last.display}: {name}:// needs another URL after it: {instead}")


def _takes_target(protocol: str) -> bool:
    """Tell whether a filesystem takes another one as its target, such as a cache or an archive."""
    import fsspec  # noqa: PLC0415
    from fsspec.implementations.chained import ChainedFileSystem  # noqa: PLC0415

    kind = fsspec.get_filesystem_class(protocol)
    return issubclass(kind, ChainedFileSystem) or not inspect.signature(kind.__init__).parameters.keys().isdisjoint(
        ("fo", "target_protocol")
    )


def _scheme_of(text: str) -> str | None:
    """Return the scheme in lower case, or None for a plain path."""
    if os.name == "nt" and re.match(r"[A-Za-z]:[\\/]", text):
        return None
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):(?!:)", text)
    return match[1].lower() if match else None


def _link(text: str, options: Options, *, chained: bool) -> Link:
    """Read one part of a chain; takes its options out of those that are nested by protocol."""
    if chained and not text:
        raise URLError("a part of the chain of URLs is empty, so it names no pyramid")
    if chained and text in PROTOCOLS and text not in LOCAL_NAMES:
        text += "://"
    scheme = _scheme_of(text)
    if scheme is None or scheme in LOCAL_NAMES:
        return _local_link(text, options)
    if scheme in foreign.SCHEMES:
        raise _refused(text, f"{scheme}:// {foreign.SCHEMES[scheme]}")
    if not re.match(r"[^:]+://", text):
        raise _refused(text, foreign.without_slashes(without_secrets(text)))
    text, extra = scheme + text[len(scheme) :], Options()
    if scheme in ("s3+http", "s3+https"):
        scheme, text, extra = "s3", *_s3_at_endpoint(text)
    _require_driver(scheme, text)
    if scheme in ("http", "https"):
        text = _quoted_base(text)
    if protocol_of(scheme).has_bucket and re.search("://(/|$)", text):
        raise _refused(text, "the URL names no bucket")
    own = merged(extra, _take_options(scheme, options))
    inherits = text == f"{scheme}://" and protocol_of(scheme).keeps_copies
    return Link(scheme, text, scheme if inherits else without_secrets(text), own, has_path=not inherits)


def _local_link(text: str, options: Options) -> Link:
    if why := foreign.without_colon(text):
        raise URLError(why)
    url = re.sub("^local:", "file:", text)
    at_home = re.match("(?i:file)://(?=~)", url)  # fsspec's way to write the home directory
    path = convert_file_url_to_pathname(f"file:///{url[at_home.end() :]}" if at_home else url)
    return _path_link(path[1:] if at_home else path, options)


def _path_link(path: str, options: Options) -> Link:
    path = os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111
    return Link("file", f"file://{path}", path, _take_options("file", options), has_path=True)


def _s3_at_endpoint(text: str) -> tuple[str, Options]:
    """Read Neuroglancer's ``s3+https://endpoint/bucket/path``."""
    parts = urllib.parse.urlsplit(text)
    bucket_path = parts.path.lstrip("/")
    if not parts.netloc or not bucket_path:
        raise _refused(text, "expected s3+https://endpoint/bucket/path")
    endpoint = f"{parts.scheme.removeprefix('s3+')}://{parts.netloc}"
    options = {"endpoint_url": endpoint, "config_kwargs": {"s3": {"addressing_style": "path"}}}
    return f"s3://{urllib.parse.unquote(bucket_path)}", options


def _quoted_base(text: str) -> str:
    """Quote the unquoted characters of an HTTP URL, and drop the fragment."""
    try:
        parts = urllib.parse.urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        if re.match("[^/]+://[^/@]*/.*@", text):  # part of a password would be taken for the port
            address = re.sub("(?<=://).*@", "", text)
            raise _refused(address, "in the user and password, write / as %2F, ? as %3F and # as %23") from None
        raise _refused(text, str(exc)) from exc
    if not host:
        raise _refused(text, "the URL names no host")
    path = urllib.parse.quote(parts.path, safe="/%!$&'()*+,;=:@~")
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def _require_driver(protocol: str, text: str) -> None:
    """Import the filesystem's class, or say which package is missing."""
    if protocol_of(protocol).comes_with_us:
        return
    import fsspec  # noqa: PLC0415

    protocol_of(protocol).before_import()
    try:
        fsspec.get_filesystem_class(protocol)
    except ImportError as exc:
        package = protocol_of(protocol).package
        hint = f"pip install {package}" if package else str(exc)
        raise _refused(text, f"the driver of {protocol}:// is not installed: {hint}") from exc
    except ValueError as exc:
        near = did_you_mean(protocol, [*PROTOCOLS, *fsspec.available_protocols()])
        hint = near or "; is it misspelt, or is a package missing that registers it?"
        raise _refused(text, f"the scheme {protocol!r} is not known to fsspec{hint}") from exc


def _take_options(protocol: str, options: Options) -> Options:
    """Take out the options that are nested under any name of a protocol."""
    taken: Options = {"skip_instance_cache": True}
    for name in (protocol, *(name for name, other in PROTOCOLS.items() if other is PROTOCOLS.get(protocol))):
        if isinstance(options.get(name), Mapping):
            taken.update(options.pop(name))
    return taken


def merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> Options:
    """Merge options, and the mappings among them; the second ones win."""
    both = dict(first)
    for key, value in second.items():
        are_mappings = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
        both[key] = {**both[key], **value} if are_mappings else value
    return both


def _refused(text: str, why: str) -> URLError:
    return URLError(f"{without_secrets(text)}: {why}")
