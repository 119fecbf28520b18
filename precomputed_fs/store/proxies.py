"""Through which proxy a server is asked: as Python's own and boto3's clients read it, in libcurl's words."""

import urllib.parse
import urllib.request
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Proxy:
    """What to tell libcurl."""

    url: str = field(default="", repr=False)
    """Of the proxy, with its password if it has one; empty: none, whatever libcurl finds in the environment."""

    no_proxy: str = ""
    """Hosts that are asked directly, separated by commas."""


def proxy_for(url: str) -> Proxy:
    """Return the proxy for a server.

    ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy`` count in lower or upper case (lower first), and on
    macOS and Windows the system's settings if there are none. A host is asked directly if Python or libcurl finds it in
    ``no_proxy``: only Python knows entries with a port (``localhost:9000``) and ``[::1]``, only libcurl networks
    (``10.0.0.0/8``), a dot at the end and ``::1``. To both, ``example.com`` and ``.example.com`` are the host and those
    below it, ``*`` by itself is every host, and ``*.example.com`` is nothing.

    Parameters
    ----------
    url : str
        Of the server: its scheme, host and port count.
    """
    parts = urllib.parse.urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return Proxy()
    return Proxy(proxy, proxies.get("no", ""))
