"""What cloud object stores have in common."""

import functools
import os
from collections.abc import Iterable
from typing import Any

from precomputed_fs.store.protocols.base import Asynchronous
from precomputed_fs.store.requests import Listed, Page

METADATA_TIMEOUT = 0.25
"""In seconds; a cloud's own metadata service answers in a few milliseconds."""


class Cloud(Asynchronous):
    """An object store that keeps an object's Content-Encoding and has exclusive writes."""

    has_bucket = True
    keeps_encoding = True


def page_below(prefix: str, objects: Iterable[tuple[str, int]], more: Any) -> Page:  # noqa: ANN401
    """Return a page of objects by their names after the prefix, without those that stand for a folder."""
    listed = (Listed(name.removeprefix(prefix), size) for name, size in objects if not name.endswith("/"))
    return Page([*listed], more or None)


@functools.cache
def metadata_service_answers(path: str, header: str, value: str) -> bool:
    """Ask the cloud's metadata service, once per process."""
    import http.client

    host = os.environ.get("GCE_METADATA_HOST", "169.254.169.254")
    connection = http.client.HTTPConnection(host, timeout=METADATA_TIMEOUT)
    try:
        connection.request("GET", path, headers={header: value})
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
