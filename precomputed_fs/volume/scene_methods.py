"""Methods of volumes for what stands beside the voxels; package `scene` implements them: see `extensions`."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from precomputed_fs.format.lengths import Length, VoxelSize
from precomputed_fs.keywords import spelled_out
from precomputed_fs.volume.extensions import call_later

if TYPE_CHECKING:
    from precomputed_fs.scene.meshes import Meshes
    from precomputed_fs.scene.segment_properties import SegmentProperties
    from precomputed_fs.scene.skeletons import Skeletons


def segment_properties(self: Any) -> "SegmentProperties":  # noqa: ANN401 - a Volume
    """Read the properties of segments: labels, descriptions, tags, numbers.

    Each access reads them, in one request, so that they are never older than that: keep the object to use it again.
    ``vol.segment_properties.to_pandas()`` is a table of all, ``ids`` the segments, ``["name"]`` an array.

    Raises
    ------
    NotFoundError
        If `info` names no segment properties.
    InvalidInfoError, DataAccessError
        If they are invalid, or cannot be read.
    """
    found: SegmentProperties = call_later("segment_properties", self)
    return found


@spelled_out()
def store_segment_properties(
    self: Any,  # noqa: ANN401 - a Volume
    table: Any,  # noqa: ANN401 - a DataFrame, or a mapping of columns
    *,
    ids: str | Iterable[int] | None = None,
    label: str | None = None,
    description: str | None = None,
    tags: str | Sequence[str] | None = None,
    descriptions: Mapping[str, str] | None = None,
    tag_descriptions: Mapping[str, str] | None = None,
    folder: str | None = None,
    overwrite: bool = False,
) -> None:
    """Store the properties of segments, and have `info` name their folder.

    Numbers of 32 bits or fewer keep their type. Of wider integers, a column becomes int32 or uint32 if all values fit;
    of other floats, float32 if that has all values exactly. Nothing is rounded or left out silently: what the format
    cannot say, such as missing values, is refused with what to do.

    Parameters
    ----------
    table : pandas.DataFrame, or mapping of str to array_like
        A row for each segment, a column for each property: numbers, texts, or lists of tags.
    ids : str or sequence of int, optional
        The segment ids: the name of a column, or an array; by default the index of the table.
    label : str, optional
        The column of texts that Neuroglancer shows beside the ids; by default "label", if it is of texts.
    description : str, optional
        The column of texts that it shows below; by default "description", if it is of texts.
    tags : str or sequence of str, optional
        The column with lists of tags, by default the only one that has lists; or columns of booleans, of which each
        becomes a tag. A tag is a word without spaces. Which tags a segment has is stored, their order is not.
    descriptions : mapping, optional
        What the properties are, by the names of their columns.
    tag_descriptions : mapping, optional
        What the tags are. All of these are stored, in this order, used or not.
    folder : str, optional
        Where to store them, from the volume's folder; by default where `info` names some already, or else in
        "segment_properties".
    overwrite : bool
        Whether existing ones are replaced, all of them.

    Raises
    ------
    AlreadyExistsError
        If there are some and `overwrite` is false, or something else is there, such as meshes.
    TypeError, ValueError
        If the table cannot be stored exactly; the message lists all columns that cannot, and what to do.
    DataAccessError
        If they cannot be written.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import create_volume
    >>> vol = create_volume("memory://docs/labelled", np.ones((20, 15, 10), np.uint64), resolution=(8, 8, 40))
    >>> table = {"label": ["soma", "axon"], "size": [812, 97], "tags": [["big"], []]}
    >>> vol.store_segment_properties(table, ids=[1, 2], descriptions={"size": "in voxels"})
    >>> vol.segment_properties.to_pandas()  # doctest: +NORMALIZE_WHITESPACE
       label  size    tags
    id
    1   soma   812  (big,)
    2   axon    97      ()
    """
    call_later(
        "store_segment_properties", self, table, ids=ids, label=label, description=description, tags=tags,
        descriptions=descriptions, tag_descriptions=tag_descriptions, folder=folder, overwrite=overwrite,
    )  # fmt: skip


def meshes(self: Any) -> "Meshes":  # noqa: ANN401 - a Volume
    """Return the meshes of segments, by segment id.

    ``vol.meshes[id]`` reads one, ``vol.meshes.get([id, ...], lod=1)`` many at once, ``vol.meshes.stream(ids)`` any
    number, ``id in vol.meshes`` asks whether there is one, ``vol.meshes.levels(id)`` describes its levels of detail,
    and ``vol.meshes.ids`` lists all where the store can. The first access reads the `info` of their folder, which is
    then kept.

    Raises
    ------
    NotFoundError
        If `info` names no meshes.
    InvalidInfoError, DataAccessError
        If the `info` of their folder is invalid, or cannot be read.
    """
    found: Meshes = call_later("meshes", self)
    return found


@spelled_out()
def store_meshes(
    self: Any,  # noqa: ANN401 - a Volume
    meshes: Mapping[int, Any] | Iterable[tuple[int, Any]],
    *,
    multiresolution: bool | None = None,
    vertex_quantization_bits: int | None = None,
    fragment_size: VoxelSize | None = None,
    level_scales: Sequence[Length] | None = None,
    folder: str | None = None,
    sharding: bool | Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> None:
    """Store meshes of segments, many at once, and have `info` name their folder.

    Parameters
    ----------
    meshes : mapping, or iterable of pairs
        By segment id, or ``(id, mesh)``, one after the other: of a generator, memory holds only those in flight. A
        mesh is a `Mesh`, one of trimesh, cloud-volume or zmesh, or a list of these: its levels of detail, from the
        finest to the coarsest. Vertices are in nanometres.
    multiresolution : bool, optional
        Whether to store in the format with levels of detail, which needs DracoPy (the extra "mesh"); else as legacy
        meshes. By default as the folder is already; or else if the first mesh has several levels, or an option below
        is given.
    vertex_quantization_bits : {16, 10}, optional
        Bits of each coordinate within a fragment, 16 by default.
    fragment_size : length or three lengths, optional
        How large the fragments of the finest level are: numbers are nanometres, "20 um" works, too. Viewers load a
        mesh fragment by fragment. By default the coarsest level is one fragment, and a finer one up to 2 x 2 x 2 of
        each fragment of the next.
    level_scales : sequence of lengths, optional
        The resolution of each level, by which viewers choose one; by default the average length of its edges.
    folder : str, optional
        Where to store them, from the volume's folder; by default where `info` names meshes already, or else in "mesh".
    sharding : bool or mapping, optional
        True to shard as `propose_hashed_sharding` says; or the ``sharding`` of `info`. By default each mesh is two
        files, or as the folder is already.
    overwrite : bool
        Whether existing meshes of these segments are replaced. Others in the folder stay in any case.
    progress : bool, optional
        See `open_volume`.

    Raises
    ------
    AlreadyExistsError
        If one exists and `overwrite` is false, or the folder has meshes of another format.
    TypeError, ValueError
        If something is not a mesh, has no triangles, is not finite, or a segment is given twice.
    ImportError
        If DracoPy is needed and not installed.
    DataAccessError
        If something cannot be written.

    Notes
    -----
    Shards are written at the end of the call, or at the end of a ``with`` block of the volume, in which any number of
    calls then write each shard once.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import Mesh, create_volume
    >>> vol = create_volume("memory://docs/meshed", np.ones((20, 15, 10), np.uint64), resolution=(8, 8, 40))
    >>> vol.store_meshes({1: Mesh([[0, 0, 0], [80, 0, 0], [0, 80, 0]], [[0, 1, 2]])})
    >>> vol.meshes[1]
    Mesh(3 vertices, 1 triangle, 0 to 80 x 0 to 80 x 0 to 0 nm)
    """
    call_later(
        "store_meshes", self, meshes, multiresolution=multiresolution, level_scales=level_scales, folder=folder,
        vertex_quantization_bits=vertex_quantization_bits, fragment_size=fragment_size, sharding=sharding,
        overwrite=overwrite, progress=progress,
    )  # fmt: skip


def skeletons(self: Any) -> "Skeletons":  # noqa: ANN401 - a Volume
    """Return the skeletons of segments, by segment id.

    ``vol.skeletons[id]`` reads one, ``vol.skeletons.get([id, ...])`` many at once, ``vol.skeletons.stream(ids)`` any
    number, ``id in vol.skeletons`` asks whether there is one, and ``vol.skeletons.ids`` lists all where the store can.
    The first access reads the `info` of their folder, which is then kept.

    Raises
    ------
    NotFoundError
        If `info` names no skeletons.
    InvalidInfoError, DataAccessError
        If the `info` of their folder is invalid, or cannot be read.
    """
    found: Skeletons = call_later("skeletons", self)
    return found


@spelled_out()
def store_skeletons(
    self: Any,  # noqa: ANN401 - a Volume
    skeletons: Mapping[int, Any] | Iterable[tuple[int, Any]],
    *,
    attributes: Sequence[str] | Mapping[str, Any] | None = None,
    folder: str | None = None,
    sharding: bool | Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool | None = None,
) -> None:
    """Store skeletons of segments, many at once, and have `info` name their folder.

    Parameters
    ----------
    skeletons : mapping, or iterable of pairs
        Skeletons by segment id, or ``(id, skeleton)``, one after the other: of a generator, memory holds only those in
        flight. Beside `Skeleton`, those of cloud-volume, kimimaro and igneous will do.
    attributes : sequence of str, or mapping of str to dtype, optional
        The vertex attributes to store, by default all that the first skeleton has. All skeletons have to have them, in
        the same type. A mapping converts them: ``{"radius": "float32"}``. The format has float32 and integers of up to
        32 bits; Neuroglancer shows skeletons only if all attributes are float32, and there is a warning otherwise.
    folder : str, optional
        Where to store them, from the volume's folder; by default where `info` names skeletons already, or else in
        "skeletons".
    sharding : bool or mapping, optional
        True to shard as `propose_hashed_sharding` says; or the ``sharding`` of `info`. By default each is a file, or as
        the folder is already.
    overwrite : bool
        Whether existing skeletons of these segments are replaced. Others in the folder stay in any case.
    progress : bool, optional
        See `open_volume`.

    Raises
    ------
    AlreadyExistsError
        If one exists and `overwrite` is false, or the folder has skeletons with other attributes or another sharding.
    TypeError, ValueError
        If something is not a skeleton, an attribute cannot be stored exactly, or a segment is given twice.
    DataAccessError
        If something cannot be written.

    Notes
    -----
    Shards are written at the end of the call, or at the end of a ``with`` block of the volume, in which any number of
    calls then write each shard once.

    Examples
    --------
    >>> import numpy as np
    >>> from precomputed_fs import Skeleton, create_volume
    >>> vol = create_volume("memory://docs/skeletal", np.ones((20, 15, 10), np.uint64), resolution=(8, 8, 40))
    >>> vol.store_skeletons({1: Skeleton([[0, 0, 0], [80, 0, 40]], [[0, 1]], {"radius": [20, 10]})})
    >>> vol.skeletons[1]
    Skeleton(2 vertices, 1 edge, radius (float32))
    """
    call_later(
        "store_skeletons", self, skeletons, attributes=attributes, folder=folder, sharding=sharding,
        overwrite=overwrite, progress=progress,
    )  # fmt: skip
