"""What can be stored: bytes in memory, with their media type."""

Buffer = bytes | bytearray | memoryview
"""What can be stored; a NumPy array passes its memory as ``array.data``."""

OCTET_STREAM = "application/octet-stream"
"""The media type of bytes of unknown content."""


def bytes_of(buf: Buffer) -> bytes:
    """Return the bytes of a buffer, in the order in which they are in memory."""
    return buf if isinstance(buf, bytes) else memoryview(buf).tobytes(order="A")


def checked_mime_type(mime_type: str) -> str:
    """Check a media type, which becomes a header."""
    if not mime_type.isprintable() or not mime_type.isascii():
        raise ValueError(f"mime_type: expected a media type, got {mime_type!r}")
    return mime_type
