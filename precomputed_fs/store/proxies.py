"""Which proxy is used for a server, from the settings that Python's own and boto3's clients read."""

import urllib.parse
import urllib.request
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy settings of libcurl."""

    url: str = field(default="", repr=False)
    """The URL of the proxy, with any password; empty: no proxy, whatever libcurl finds in the environment."""

    no_proxy: str = ""
    """Hosts to contact directly, separated by commas."""


def proxy_for(url: str) -> Proxy:
    """Return the proxy for a server.

    ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy`` are read in lower or upper case (lower first); if
    none is set, macOS and Windows use the system's settings. A host is contacted directly if Python or libcurl finds it
    in ``no_proxy``: only Python knows entries with a port (``localhost:9000``) and ``[::1]``, only libcurl knows
    networks (``10.0.0.0/8``), a trailing dot and ``::1``. For both, ``example.com`` and ``.example.com`` match the host
    and its subdomains, ``*`` alone matches every host, and ``*.example.com`` matches nothing.

    Parameters
    ----------
    url : str
        A URL of the server, of which scheme, host and port matter.
    """
    parts = urllib.parse.urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return Proxy()
    return Proxy(proxy, proxies.get("no", ""))
