"""HTTP and HTTPS: read only."""

from precomputed_fs.store.protocols.base import Ask, Asynchronous, Filesystem, Options
from precomputed_fs.store.requests import HttpRequest

_PLAIN_CLIENT = frozenset({"auto_decompress", "headers", "timeout", "trust_env", "verify"})
"""Settings of the filesystem's client that ours has, too."""

_PLAIN_REQUEST = frozenset({"headers", "verify"})


class Http(Asynchronous):
    """Objects of a web server."""

    is_read_only = True

    def defaults(self, timeout: float) -> Options:
        """Have bodies decoded here, in threads, and URLs quoted here, so that signatures survive."""
        import aiohttp

        limits = aiohttp.ClientTimeout(sock_connect=timeout, sock_read=timeout)
        client = {"auto_decompress": False, "timeout": limits}
        return super().defaults(timeout) | {"encoded": True, "client_kwargs": client}

    def http_requests(self, fs: Filesystem) -> Ask | None:
        """Ask with the user's headers; with other settings of the user's, the filesystem's own session asks."""
        from fsspec.implementations.http import get_client

        settings = {name for name, value in fs.kwargs.items() if (name, value) != ("ssl", False)}
        if settings - _PLAIN_REQUEST or fs.client_kwargs.keys() - _PLAIN_CLIENT or fs.get_client is not get_client:
            return None
        headers = {**(fs.client_kwargs.get("headers") or {}), **(fs.kwargs.get("headers") or {})}
        return lambda method, path: HttpRequest(path, headers, method)
