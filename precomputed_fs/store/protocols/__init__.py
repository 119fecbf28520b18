"""Which object describes which protocol: the table of all protocols."""

from collections.abc import Mapping

from precomputed_fs.store.protocols.archives import GitHub, ReadOnly, Reference, Zip
from precomputed_fs.store.protocols.azure import Azure
from precomputed_fs.store.protocols.base import Protocol, Synchronous
from precomputed_fs.store.protocols.caches import RecordingCache, SimpleCache
from precomputed_fs.store.protocols.gcs import Gcs
from precomputed_fs.store.protocols.http import Http
from precomputed_fs.store.protocols.local import Local
from precomputed_fs.store.protocols.memory import Memory
from precomputed_fs.store.protocols.s3 import S3
from precomputed_fs.store.protocols.sftp import Sftp

_NAMES: Mapping[Protocol, tuple[str, ...]] = {
    Local(): ("file", "local"),
    Memory(): ("memory",),
    Http(): ("http", "https"),
    S3(): ("s3", "s3a"),
    Gcs(): ("gs", "gcs"),
    Azure(): ("az", "abfs", "abfss"),
    Sftp(): ("sftp", "ssh"),
    Zip(): ("zip",),
    ReadOnly(): ("tar", "libarchive", "git", "data"),
    GitHub(): ("github",),
    Reference(): ("reference",),
    SimpleCache(): ("simplecache",),
    RecordingCache(): ("filecache", "blockcache", "cached"),
}

PROTOCOLS: Mapping[str, Protocol] = {name: protocol for protocol, names in _NAMES.items() for name in names}
"""Protocols by their names in URLs; all names of one protocol have the same object."""

_OTHER = Synchronous()


def protocol_of(name: str) -> Protocol:
    """Return the description of a protocol; the default for one that is not in the table."""
    return PROTOCOLS.get(name, _OTHER)
