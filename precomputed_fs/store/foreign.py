"""URLs that are not those of a pyramid, but of something else or written otherwise: what to open instead.

Each function returns the end of a message, or nothing if the URL is not of its kind.
"""

import os
import re
import urllib.parse
from collections.abc import Callable, Mapping

from precomputed_fs.store.protocols import PROTOCOLS
from precomputed_fs.store.redaction import without_secrets

_SHOWN_SOURCES = 3  # of a link to Neuroglancer
_CAVE = "needs CAVE: open it with cloud-volume or CAVEclient, or here its flat copy, precomputed://..., if it has one"
_OTHER_FORMAT = "is another format: xarray and zarr open Zarr; tensorstore opens Zarr and N5"
_OTHER_SOURCE = "is another of Neuroglancer's data sources: this package opens precomputed pyramids only"
_AZURE = "is written az://container/path"
_OWN_S3 = "is written s3+https://endpoint/bucket/path"

SCHEMES: Mapping[str, str] = {
    **dict.fromkeys(("graphene", "middleauth", "middleauth+http", "middleauth+https"), _CAVE),
    **dict.fromkeys(("n5", "ome-zarr", "zarr", "zarr2", "zarr3"), _OTHER_FORMAT),
    **dict.fromkeys(("boss", "brainmaps", "deepzoom", "dvid", "nggraph", "nifti", "render"), _OTHER_SOURCE),
    **dict.fromkeys(("azure", "blob", "wasb", "wasbs"), _AZURE),
    **dict.fromkeys(("ceph", "minio"), _OWN_S3),
    "arn": "is written s3://bucket/path",
    "aws": "is written s3://bucket/path",
    "http+s3": "is written s3+http://endpoint/bucket/path",
    "https+s3": "is written s3+https://endpoint/bucket/path",
    "mem": "is written memory://path",
    "precomputed": "is left out, or stands once, in front of the whole URL",
    "s3n": "is written s3://bucket/path",
}
"""What to do about schemes, and adapters after a ``|``, that other tools open or that are written differently here."""


def in_fragment(text: str) -> str:
    """Explain URLs that only Neuroglancer understands: links to it, and parts of a pyramid without voxels."""
    url, mark, fragment = text.partition("#")
    if not mark or "://" not in url:
        return ""
    state = urllib.parse.unquote(fragment[1:])
    if fragment.startswith("!") and (state.startswith("{") or "://" in state):
        found = re.findall(r"precomputed://[^\s\"'<>]+|[^\s\"'<>]+\|neuroglancer-precomputed:", state)
        sources = list(dict.fromkeys(map(without_secrets, found)))
        told = f": {' or '.join(sources[:_SHOWN_SOURCES])}" if sources else ", shown in the layer's tab Source"
        return f"a link to Neuroglancer, not to a pyramid; open a layer's source{told}"
    if part := re.fullmatch(r"type=(\w+)", fragment):
        why = "is not supported: only volumes are, so leave it out"
        return f"{part[0]} {why}; an accessor's fetch_file fetches the files of other parts"
    return ""


def as_page(text: str) -> str:
    """Explain the address of a page that shows a bucket or a repository in a browser.

    Examples
    --------
    >>> as_page("https://console.cloud.google.com/storage/browser/lab/brain;tab=objects")
    'a web page about the data; the data are at gs://lab/brain'
    """
    for pattern, instead in _PAGES.items():
        if match := re.match(pattern, text, re.IGNORECASE):
            prefix = urllib.parse.parse_qs(urllib.parse.urlsplit(text).query).get("prefix", [""])[0]
            return f"a web page about the data; the data are at {instead(match, prefix.strip('/')).rstrip('/')}"
    return ""


_PAGES: Mapping[str, Callable[[re.Match[str], str], str]] = {
    r"https://(?:[\w.-]+\.)?console\.aws\.amazon\.com/s3/(?:buckets|object)/([^/?#]+)": (
        lambda match, prefix: f"s3://{match[1]}/{prefix}"
    ),
    r"https://console\.cloud\.google\.com/storage/browser/(?:_details/)?([^?#;]+)": (
        lambda match, _: f"gs://{urllib.parse.unquote(match[1])}"
    ),
    r"https://portal\.azure\.com/": lambda *_: "az://container/path",
    r"https://github\.com/([\w.-]+)/([\w.-]+)/(?:tree|blob)/([^/?#]+)/?([^?#]*)": (
        lambda match, _: f"https://raw.githubusercontent.com/{'/'.join(match.groups())}"
    ),
}
"""Addresses of pages, and where the data are that they show: of the match and of ``prefix`` in the query."""


def without_slashes(text: str) -> str:
    """Explain a text that begins with a scheme, but is not a URL; it shows no secrets."""
    scheme, _, rest = text.partition(":")
    if os.name != "nt" and re.match(r"[A-Za-z]:[\\/]", text):
        below = f"/mnt/{scheme.lower()}{rest}".replace("\\", "/")
        return f"a path of Windows, which is not one here; in Windows' subsystem for Linux it is {below}"
    local = f"for a local file of this name write ./{text}"
    meant = f"{scheme}://{rest.lstrip('/')}"
    if scheme.lower() not in PROTOCOLS and scheme.lower() != "precomputed":
        meant = f"{scheme}://..."
    return f"a URL has two slashes after its scheme: {meant}; {local}"


def without_colon(text: str) -> str:
    """Explain a URL without its colon, which would be taken for a local path; it shows no secrets.

    Examples
    --------
    >>> without_colon("s3//bucket/brain")
    'a colon is missing: s3://bucket/brain; for a local folder of this name write ./s3//bucket/brain'
    """
    scheme, mark, rest = text.partition("//")
    if not mark or scheme.lower() not in PROTOCOLS or not PROTOCOLS[scheme.lower()].is_remote:
        return ""
    meant = without_secrets(f"{scheme}://{rest}")
    return f"a colon is missing: {meant}; for a local folder of this name write ./{meant.replace(':', '', 1)}"
