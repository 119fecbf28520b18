"""Links to Neuroglancer that show public data: `Volume.neuroglancer_url`."""

import re
import urllib.parse
from collections.abc import Mapping
from typing import Any

from precomputed_fs.store.protocols.base import Protocol
from precomputed_fs.view.shown import client_reads, client_type
from precomputed_fs.view.state import Layer, named, url_fragment, view_state
from precomputed_fs.volume import Volume

_WINDOW_HEIGHT = 900  # pixels, of a usual browser window
_OF_CREDENTIALS = re.compile(
    "auth|client$|cookie|credential|key|pass|pays|profile|secret|session$|token|user", re.IGNORECASE
)
"""Names of options that say as whom to ask, at any depth; and who pays, whom the store has to know."""

_INSTEAD = "use view() or precomputed_fs.serve, which show it on this machine"


def neuroglancer_url(volume: Volume, base: str, *, layout: str | None = None) -> str:
    """Make a link that shows public data: see `Volume.neuroglancer_url`."""
    for scale in volume:
        codec = scale.codec
        if not client_reads(codec, client_type(volume.info)):
            raise ValueError(
                f"{volume.url}: Neuroglancer does not read {codec.encoding} of {codec.num_channels} x "
                f"{codec.data_type}: {_INSTEAD}"
            )
    layer = Layer(volume, _public_source(volume), *named([volume.pyramid.location]))
    state, _ = view_state([layer], layout, _WINDOW_HEIGHT)
    return f"{base.rstrip('/')}/#!{url_fragment(state)}"


def _public_source(volume: Volume) -> str:
    """Return the URL by which the client reads a public pyramid."""
    location = volume.pyramid.location
    link = location.links[0]
    scheme, _, path = link.url.partition("://")
    scheme = {"s3a": "s3", "gcs": "gs"}.get(scheme, scheme)
    if len(location.links) == 1 and location.fs is None and scheme in ("http", "https", "s3", "gs"):
        endpoint = link.options.get("endpoint_url") or (link.options.get("client_kwargs") or {}).get("endpoint_url")
        if (
            location.has_credentials
            or _has_credentials(location.protocol, link.options)
            or "?" in path
            or "@" in f"{path.partition('/')[0]}{endpoint or ''}"
        ):
            raise ValueError(f"{volume.url} is read with credentials, which a link cannot carry: {_INSTEAD}")
        if scheme == "s3" and endpoint:
            scheme, _, host = endpoint.partition("://")
            return f"precomputed://s3+{scheme}://{host.rstrip('/')}/{urllib.parse.quote(path)}"
        return f"precomputed://{scheme}://{path if scheme.startswith('http') else urllib.parse.quote(path)}"
    raise ValueError(f"{volume.url}: only http://, https://, s3:// and gs:// can be linked: {_INSTEAD}")


def _has_credentials(protocol: Protocol, options: Mapping[str, Any]) -> bool:
    """Whether an option says as whom to ask, however short its value, and whatever that is."""
    for name, value in options.items():
        if isinstance(value, Mapping) and _has_credentials(protocol, value):
            return True
        is_given = not (value is None or value is False or value in ("", {}, protocol.anonymous.get(name)))
        if is_given and _OF_CREDENTIALS.search(str(name)):
            return True
    return False
