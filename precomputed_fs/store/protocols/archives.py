"""How archives are read and written: ZIP, other archives, reference file systems, GitHub."""

import copy
import zlib

from precomputed_fs.format.compression import ZIP_METHODS, TooLargeError, decode_zip_member, stored_limit, too_large
from precomputed_fs.store.protocols.base import Filesystem, Options, Synchronous, read_file, read_opened

_LARGEST_SOLID = 1 << 26  # bytes of a member that is decoded whole to read a part of it
_LZMA_END_MARK = 2  # in the flags of a ZIP archive's member


class ReadOnly(Synchronous):
    """An archive or repository, local or inside another filesystem."""

    is_read_only = True
    has_host = False


class Reference(Synchronous):
    """Parts of files, named by a list of references."""

    is_read_only = True
    is_remote = True


class GitHub(Synchronous):
    """Files of a repository on GitHub."""

    package = "requests"
    is_read_only = True
    is_remote = True
    cheap_misses = False

    def read(self, fs: Filesystem, path: str, limit: int) -> bytes:
        return read_opened(fs, path, limit)


class Zip(Synchronous):
    """A ZIP archive, opened for reading or for writing; `fs.zip` is its `zipfile.ZipFile`."""

    has_host = False
    can_replace = False
    one_at_a_time = True

    def can_write(self, options: Options) -> bool:
        return options.get("mode", "r") in ("w", "a")

    def can_read(self, options: Options) -> bool:
        return not self.can_write(options)

    def close(self, fs: Filesystem) -> None:
        fs.close()

    def read(self, fs: Filesystem, path: str, limit: int) -> bytes:
        """Read a member; bz2, LZMA and zstd are decoded here, because zipfile does not limit their output."""
        import zipfile

        try:
            member = fs.zip.getinfo(fs._strip_protocol(path))
        except KeyError as exc:
            raise FileNotFoundError(path) from exc
        if member.compress_type not in ZIP_METHODS:
            with fs.zip.open(member) as file:
                return read_file(file, limit, member.file_size)
        if member.file_size > limit:
            raise too_large(limit, member.file_size)
        stored = copy.copy(member)
        stored.compress_type, stored.file_size, stored.CRC = zipfile.ZIP_STORED, member.compress_size, None
        with fs.zip.open(stored) as file:
            packed = read_file(file, stored_limit(limit), stored.file_size)
        has_end_mark = bool(member.flag_bits & _LZMA_END_MARK)
        data = decode_zip_member(packed, member.compress_type, member.file_size, has_end_mark=has_end_mark)
        if zlib.crc32(data) != member.CRC:
            raise zipfile.BadZipFile(f"the checksum of {path} does not match")
        return data

    def read_range(self, fs: Filesystem, path: str, start: int, end: int | None) -> bytes:
        """Read a part of a member; if zipfile would set no limit (see `read`), decode a small member whole."""
        member = fs.zip.getinfo(fs._strip_protocol(path))
        if member.compress_type not in ZIP_METHODS:
            return super().read_range(fs, path, start, end)
        if member.file_size > _LARGEST_SOLID:
            raise TooLargeError(
                f"{member.file_size} bytes that can only be decoded as a whole; store it uncompressed in the archive"
            )
        return self.read(fs, path, _LARGEST_SOLID)[start:end]
