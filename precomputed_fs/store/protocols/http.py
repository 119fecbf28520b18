"""How HTTP and HTTPS servers are read."""

from types import MappingProxyType

from precomputed_fs.store.protocols.base import Ask, Asynchronous, Filesystem, Options
from precomputed_fs.store.requests import HttpRequest

_PLAIN_CLIENT = frozenset({"auto_decompress", "headers", "timeout", "trust_env", "verify"})
"""Settings of the filesystem's client that ours supports too."""

_PLAIN_OPTIONS = frozenset({"client_kwargs", "headers", "skip_instance_cache", "verify"})


class Http(Asynchronous):
    """Objects on a web server."""

    comes_with_us = True
    is_read_only = True
    misnamed = MappingProxyType({"header": "'headers'"})

    def defaults(self, timeout: float) -> Options:
        """Leave bodies encoded and URLs as they are: we decode in threads, and quote so that signatures stay valid."""
        import aiohttp

        limits = aiohttp.ClientTimeout(sock_connect=timeout, sock_read=timeout)
        client = {"auto_decompress": False, "timeout": limits}
        return super().defaults(timeout) | {"encoded": True, "client_kwargs": client}

    def plain_requests(self, options: Options) -> Ask | None:
        """Make requests with the user's headers; None if other settings need the filesystem's own session."""
        client = options.get("client_kwargs") or {}
        settings = {name for name, value in options.items() if (name, value) != ("ssl", False)}
        if settings - _PLAIN_OPTIONS or client.keys() - _PLAIN_CLIENT:
            return None
        headers = {**(client.get("headers") or {}), **(options.get("headers") or {})}
        for name, value in headers.items():
            if not isinstance(name, str) or not isinstance(value, str):
                raise TypeError(f"headers: {name!r} and its value must be strings")
        return lambda method, path: HttpRequest(path, headers, method)

    def http_requests(self, fs: Filesystem) -> Ask | None:
        from fsspec.implementations.http import get_client

        if fs.get_client is not get_client:
            return None
        return self.plain_requests({**fs.kwargs, "client_kwargs": fs.client_kwargs})
