"""The way from a notebook's page to a port of this machine: through Jupyter, where jupyter-server-proxy is there.

The browser may be on another machine, as with JupyterHub, or see only the port of Jupyter. jupyter-server-proxy then
forwards what is below ``proxy/PORT/`` to that port. Its presence is asked of the running server, without credentials:
if its answer differs from the one to a path that cannot exist, there is something.
"""

import contextlib
import http.client
import importlib.util
import json
import os
import secrets
import ssl
import urllib.parse
from pathlib import Path
from typing import Any

_PATIENCE = 2.0  # seconds for an answer from this machine


def proxied_path(port: int) -> str | None:
    """Return the path on the notebook's web server that leads to a port; None if there is none, or no notebook."""
    server = _running_server()
    hub = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    base = server.get("base_url") if server else hub
    if not isinstance(base, str):
        return None
    answers = [_status(server, f"{base}{path}") for path in (f"proxy/{port}/favicon.ico", secrets.token_hex())]
    if None in answers or answers[0] == answers[1]:  # it cannot be asked, or answers all in one way until one logs in
        is_there = hub is not None and importlib.util.find_spec("jupyter_server_proxy") is not None
    else:
        is_there = True
    return f"{base}proxy/{port}" if is_there else None


def _running_server() -> dict[str, Any]:
    """Return what the server that has started this kernel says of itself; empty if there is none on this machine."""
    parent = os.environ.get("JPY_PARENT_PID", "")
    with contextlib.suppress(ImportError, OSError, ValueError):
        from jupyter_core.paths import jupyter_runtime_dir  # noqa: PLC0415 - every kernel has it

        told = json.loads((Path(jupyter_runtime_dir()) / f"jpserver-{int(parent)}.json").read_text(encoding="utf-8"))
        if isinstance(told, dict):
            return told
    return {}


def _status(server: dict[str, Any], path: str) -> int | None:
    """Ask a server for a path; return the status, or None if it does not answer."""
    address = urllib.parse.urlsplit(str(server.get("url", "")))
    if not address.hostname:
        return None
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=_PATIENCE)
    if address.scheme == "https":
        trusting = ssl._create_unverified_context()  # noqa: S323, SLF001 - its certificate is of its public name
        connection = http.client.HTTPSConnection(address.hostname, address.port, timeout=_PATIENCE, context=trusting)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        return connection.getresponse().status
    return None
