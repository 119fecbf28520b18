"""The contract of ``neuroglancer_scripts.accessor``: the base class of accessors, and their command-line options."""

import argparse

from precomputed_fs.format.grid import ChunkCoords
from precomputed_fs.pyramid.buffers import OCTET_STREAM, Buffer


class Accessor:
    """Access to the objects of a pyramid as bytes; inherit from it to make another accessor.

    Attributes
    ----------
    can_read : bool
        Whether this accessor reads.
    can_write : bool
        Whether this accessor writes.
    """

    can_read = False
    can_write = False

    def file_exists(self, relative_path: str) -> bool:
        """Tell whether there is a file.

        Parameters
        ----------
        relative_path : str
            Path from the base directory of the pyramid.

        Raises
        ------
        DataAccessError
            If the store did not say whether there is one.
        NotImplementedError
            If `can_read` is False.
        """
        raise NotImplementedError

    def fetch_file(self, relative_path: str) -> bytes:
        """Fetch a file.

        Parameters
        ----------
        relative_path : str
            Path from the base directory of the pyramid.

        Raises
        ------
        DataAccessError
            If the file cannot be retrieved.
        NotImplementedError
            If `can_read` is False.
        """
        raise NotImplementedError

    def store_file(
        self,
        relative_path: str,
        buf: Buffer,
        mime_type: str = OCTET_STREAM,
        overwrite: bool = False,
    ) -> None:
        """Store a file.

        Parameters
        ----------
        relative_path : str
            Path from the base directory of the pyramid.
        buf : bytes
            The contents.
        mime_type : str
            The media type of the contents.
        overwrite : bool
            Whether an existing file may be replaced.

        Raises
        ------
        DataAccessError
            If the file cannot be stored.
        NotImplementedError
            If `can_write` is False.
        """
        raise NotImplementedError

    def fetch_chunk(self, key: str, chunk_coords: ChunkCoords) -> bytes:
        """Fetch a chunk, encoded as its scale says, without the compression it is stored with.

        Parameters
        ----------
        key : str
            The scale's key.
        chunk_coords : tuple of int
            ``(xmin, xmax, ymin, ymax, zmin, zmax)`` in voxels, half-open.

        Raises
        ------
        DataAccessError
            If the chunk cannot be retrieved.
        NotImplementedError
            If `can_read` is False.
        """
        raise NotImplementedError

    def store_chunk(
        self,
        buf: Buffer,
        key: str,
        chunk_coords: ChunkCoords,
        mime_type: str = OCTET_STREAM,
        overwrite: bool = False,
    ) -> None:
        """Store a chunk.

        Parameters
        ----------
        buf : bytes
            The chunk, encoded as its scale says.
        key : str
            The scale's key.
        chunk_coords : tuple of int
            ``(xmin, xmax, ymin, ymax, zmin, zmax)`` in voxels, half-open.
        mime_type : str
            The media type of the encoded chunk.
        overwrite : bool
            Whether an existing chunk may be replaced.

        Raises
        ------
        DataAccessError
            If the chunk cannot be stored.
        NotImplementedError
            If `can_write` is False.
        """
        raise NotImplementedError


def add_argparse_options(
    parser: argparse.ArgumentParser,
    write_chunks: bool = True,
    write_files: bool = True,
) -> None:
    """Add the command-line options for writing pyramids.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    write_chunks : bool
        Whether the command writes chunks.
    write_files : bool
        Whether the command writes other files.

    Examples
    --------
    >>> parser = argparse.ArgumentParser()
    >>> add_argparse_options(parser)
    >>> vars(parser.parse_args(["--no-gzip"]))
    {'gzip': False, 'compresslevel': 9, 'flat': True}
    """
    if not (write_chunks or write_files):
        return
    group = parser.add_argument_group("Options for file storage")
    group.add_argument(
        "--no-gzip",
        "--no-compression",
        action="store_false",
        dest="gzip",
        help="do not compress with gzip what is written",
    )
    group.add_argument(
        "--compresslevel",
        type=int,
        default=9,
        choices=range(10),
        help="level of the gzip compression (0 to 9, default 9)",
    )
    if write_chunks:
        group.add_argument(
            "--flat",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="name chunks as the format's specification says (the default); with --no-flat put "
            "them into sub-directories, which Neuroglancer cannot read without a special web server",
        )
