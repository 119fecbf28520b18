"""What is measured: the rows of the tables, and what has to hold for each."""

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from benchmarks import data as data_sets
from benchmarks.data import (
    GZIP,
    JPEG,
    RAW,
    RAW_SHARDS,
    SEGMENTATION,
    SEGMENTATION_GZIP,
    TINY,
    sharding,
)
from benchmarks.jobs import Box, DataSet, box_of
from benchmarks.places import (
    DISK,
    HTTP,
    HTTP2,
    HTTP2_30,
    HTTP_30,
    HTTPS,
    HTTPS_30,
    S3,
    S3_30,
    S3_MOTO,
    S3_SIGNED,
    S3_SIGNED_30,
    S3_TLS,
    S3_TLS_30,
    S3_TLS_SIGNED,
    S3_TLS_SIGNED_30,
    Place,
)
from benchmarks.systems import CLOUD_VOLUME, NEUROGLANCER_SCRIPTS, OURS, TENSORSTORE, System

Boxes = Callable[[DataSet, Place], Sequence[Box]]


@dataclass(frozen=True)
class What:
    """What is done with a volume."""

    name: str
    action: str
    boxes: Boxes
    unit: str = "s"
    """"s" for all of it, "ms" or "us" for each box (chunk), "cpu s" of the processor, "MB" for the peak of memory."""

    section: str = "reading"
    afresh: bool = False
    """Whether each run is the first one of a process, which has imported the system and nothing else."""

    at_once: int | None = None
    least_rounds: int = 5


@dataclass(frozen=True)
class Workload:
    """A row."""

    place: Place
    data: DataSet
    what: What
    in_quick: bool = False
    in_full: bool = True

    @property
    def name(self) -> str:
        return f"{self.place.name}, {self.data.name}, {self.what.name}"

    @property
    def section(self) -> str:
        """What is above it in the table."""
        return f"{self.what.section}, {self.place.transport}"

    @property
    def boxes(self) -> tuple[Box, ...]:
        return tuple(self.what.boxes(self.data, self.place))

    @property
    def required(self) -> "Required | None":
        return next((each for each in REQUIRED if each.is_of(self)), None)

    def counts(self, system: System, setting: str) -> bool:
        """Tell whether a system in a setting counts for what is required; where nothing is, tensorstore does."""
        peer = self.required.against if self.required else TENSORSTORE
        return system is OURS or ((peer is None or peer is system) and setting not in system.never_best)

    def fits(self) -> bool:
        """Tell whether the boxes are within the volume, which may be smaller than it is meant to be."""
        return all(part.stop <= self.data.side for box in self.boxes for part in box)


# ------------------------------------------------------------------------------------------------------------ the verbs


def whole(data: DataSet, _: Place) -> list[Box]:
    return [data.whole]


def plane(axis: int) -> Boxes:
    """Return 3 voxels in the middle of an axis, which are within one layer of chunks."""

    def middle(data: DataSet, _: Place) -> list[Box]:
        start = data.side // 2 + data.chunk // 2
        box = [*data.whole]
        box[axis] = slice(start, start + 3)
        x, y, z = box
        return [(x, y, z)]

    return middle


def random_boxes(data: DataSet, place: Place) -> list[Box]:
    """Return boxes of 64^3 anywhere, so that nearly all of them cross into other chunks."""
    chance = random.Random(0)
    starts = [[chance.randint(0, data.side - 64) for _ in range(3)] for _ in range(20 if place.latency else 200)]
    return [(slice(x, x + 64), slice(y, y + 64), slice(z, z + 64)) for x, y, z in starts]


def points(number: int) -> Boxes:
    """Return so many boxes of one voxel anywhere."""

    def some(data: DataSet, _: Place) -> list[Box]:
        chance = random.Random(0)
        starts = [[chance.randrange(data.side) for _ in range(3)] for _ in range(number)]
        return [(slice(x, x + 1), slice(y, y + 1), slice(z, z + 1)) for x, y, z in starts]

    return some


def chunks(number: int) -> Boxes:
    """Return so many boxes that are one chunk each, scattered; fewer where each takes long."""

    def some(data: DataSet, place: Place) -> list[Box]:
        every = [box_of(coords) for coords in data.chunks(data.whole)]
        return random.Random(0).choices(every, k=5 if place.latency else number)

    return some


def corner(number: int) -> Boxes:
    """Return one box of so many chunks, a power of 2."""

    def box(data: DataSet, _: Place) -> list[Box]:
        exponent = number.bit_length() - 1
        x, y, z = (slice(0, data.chunk << (exponent + 2 - axis) // 3) for axis in range(3))
        return [(x, y, z)]

    return box


WHOLE = What("whole", "read", whole)
PLANES = tuple(What(f"plane {axis}", "read", plane(index)) for index, axis in enumerate("xyz"))
BOXES = What("random boxes", "read", random_boxes)
POINTS = What("1,000 points", "sample", points(1000))
CHUNK_COLD = What("chunk, cold", "read cold", chunks(20), "ms")
CHUNK_WARM = What("chunk, warm", "read warm", chunks(50), "ms")
FETCH_CHUNK = What("fetch_chunk", "fetch", chunks(50), "ms")
OPEN = What("open", "open", chunks(10), "ms")
FIRST = What("first open and read after import", "read cold", whole, afresh=True)
CPU = What("processor time", "read for cpu", whole, "cpu s")
WRITE = What("write", "write", whole, section="writing")
SKELETONS = What("skeletons.get", "skeletons", whole, section="segments")
MESHES = What("meshes.get", "meshes", whole, section="segments")
MODE = What("mode of labels", "mode", whole, section="downsampling")
MEMORY = What("memory of 1 GiB", "read once", whole, "MB", section="memory", afresh=True)

LABELS = replace(SEGMENTATION, name="256^3 labels", side=256)
SMALL_CHUNKS = DataSet("raw 16^3", "image", chunk=16)
SMALL_CHUNKS_SHARDS = DataSet("raw shards 16^3", "image", chunk=16, sharding=sharding(9))


# ------------------------------------------------------------------------------------------------------------- the rows


def workloads() -> Iterator[Workload]:
    """Go through all rows, those of one place and data set together."""
    yield from reading()
    yield from writing()
    yield row(DISK, LABELS, MODE, in_full=True)
    for place in (HTTPS, HTTPS_30, DISK):
        yield row(place, data_sets.SKELETONS, SKELETONS, in_full=True)
        yield row(place, data_sets.MESHES, MESHES, in_full=place is HTTPS_30)  # cloud-volume takes ten seconds
    yield from memory()
    yield from growth()


WHOLE_IN_FULL = {
    **dict.fromkeys((HTTPS, HTTPS_30, HTTP2, HTTP2_30), (RAW, GZIP, JPEG, SEGMENTATION, RAW_SHARDS, TINY)),
    **dict.fromkeys((S3_TLS, S3_TLS_30, S3_TLS_SIGNED, S3_TLS_SIGNED_30), (RAW, GZIP, RAW_SHARDS)),
    **dict.fromkeys((HTTP, HTTP_30), data_sets.ALL),
    S3: (RAW, GZIP, SEGMENTATION, RAW_SHARDS),
    S3_30: (RAW, GZIP, JPEG, RAW_SHARDS),
    S3_SIGNED: (RAW, GZIP, RAW_SHARDS),
    S3_SIGNED_30: (RAW, GZIP, SEGMENTATION_GZIP),
    DISK: (RAW, GZIP, JPEG, SEGMENTATION, RAW_SHARDS),
}
"""The places that are read from, and the volumes that a full run reads whole there; ``--all`` reads all of them."""

PARTS_IN_FULL = {
    HTTPS: (RAW, SEGMENTATION, RAW_SHARDS),
    HTTPS_30: (RAW, SEGMENTATION, RAW_SHARDS),
    HTTP2_30: (RAW,),
    S3_TLS_SIGNED_30: (RAW,),
    HTTP: (RAW, SEGMENTATION_GZIP, RAW_SHARDS),
    HTTP_30: (RAW, RAW_SHARDS),
    S3: (RAW,),
    S3_30: (RAW,),
    S3_SIGNED: (GZIP,),
    DISK: (RAW,),
}
"""Those of which it reads planes, boxes and single chunks."""

POINTS_IN_FULL = {
    HTTPS: (RAW, SEGMENTATION),
    HTTPS_30: (RAW, SEGMENTATION, RAW_SHARDS),
    DISK: (RAW, SEGMENTATION),
}
"""Those from which it reads scattered points."""

QUICK = {
    (HTTPS, RAW, WHOLE),
    (HTTPS, TINY, WHOLE),
    (HTTPS_30, RAW, WHOLE),
    (HTTPS_30, RAW, CPU),
    (HTTPS_30, RAW, PLANES[2]),
    (HTTPS_30, RAW, POINTS),
    (HTTPS_30, RAW, FIRST),
    (HTTPS_30, GZIP, WHOLE),
    (S3_TLS_SIGNED_30, RAW, WHOLE),
    (HTTP, RAW, WHOLE),
    (HTTP, TINY, WHOLE),
    (DISK, RAW, WHOLE),
    (DISK, RAW, FETCH_CHUNK),
    (DISK, LABELS, MODE),
    (HTTPS_30, data_sets.SKELETONS, SKELETONS),
}


def reading() -> Iterator[Workload]:
    for place, data in product(WHOLE_IN_FULL, data_sets.ALL):
        yield row(place, data, WHOLE, in_full=data in WHOLE_IN_FULL[place])
        yield row(place, data, POINTS, in_full=data in POINTS_IN_FULL.get(place, ()))
        for what in (*PLANES, BOXES, CHUNK_COLD, CHUNK_WARM):
            yield row(place, data, what, in_full=data in PARTS_IN_FULL.get(place, ()))
        if place.kind != "s3" and not data.sharding:
            yield row(place, data, FETCH_CHUNK, in_full=data in PARTS_IN_FULL.get(place, ()))
        yield row(place, data, OPEN, in_full=data is RAW)
        yield row(place, data, FIRST, in_full=data is RAW and place.tls)
        yield row(place, data, CPU, in_full=data is RAW and place is HTTPS_30)


def writing() -> Iterator[Workload]:
    for place, data in product((DISK, S3_MOTO), (GZIP, SEGMENTATION, SEGMENTATION_GZIP, RAW, RAW_SHARDS)):
        yield row(place, data, WRITE, in_full=data in {GZIP, SEGMENTATION})


def memory() -> Iterator[Workload]:
    full = {(HTTPS, RAW), (HTTP, RAW), (HTTP, SEGMENTATION), (HTTP, RAW_SHARDS), (DISK, GZIP)}
    for place, data in product((HTTPS, HTTP, S3_SIGNED, DISK), (RAW, GZIP, SEGMENTATION, RAW_SHARDS)):
        side = data.side if data is SEGMENTATION else 2 * data.side
        large = replace(data, side=side)
        yield Workload(place, large, MEMORY, in_full=(place, data) in full)


def growth() -> Iterator[Workload]:
    for place, data in product((HTTP, DISK), (SMALL_CHUNKS, SMALL_CHUNKS_SHARDS)):
        for number in (64, 512, 4096, 32768):
            what = What(f"{number:,} chunks", "read", corner(number), "us", "growth", least_rounds=3)
            yield Workload(place, data, what, in_full=data is SMALL_CHUNKS or place is HTTP)
    for side in (32, 64, 128, 256):  # 16: the same as 32,768 chunks above
        what = What("512^3 voxels", "read", whole, section="growth", least_rounds=3)
        yield Workload(HTTP, DataSet(f"raw {side}^3", "image", chunk=side), what)
    for at_once in (1, 4, 16, 64, 256):
        number = min(4096, 16 * at_once)
        what = What(f"{at_once} at once", "read", corner(number), "us", "growth", at_once=at_once, least_rounds=3)
        yield Workload(HTTP_30, SMALL_CHUNKS, what)
    for place in (HTTP, HTTP_30, DISK):
        number = 64 if place.latency else 1024
        for name, action in (("fetch_chunk, one by one", "fetch"), ("fetch_chunks, all at once", "fetch many")):
            yield Workload(place, SMALL_CHUNKS, What(name, action, corner(number), "us", "growth", least_rounds=3))


def row(place: Place, data: DataSet, what: What, *, in_full: bool) -> Workload:
    return Workload(place, data, what, in_quick=(place, data, what) in QUICK, in_full=in_full)


# ------------------------------------------------------------------------------------------------------- what must hold


@dataclass(frozen=True)
class Required:
    """What a row has to fulfil."""

    ratio: float | None
    """Of ours to the best peer, at most."""

    whats: Collection[What]
    places: Collection[Place]
    data: Collection[DataSet] = ()
    """Empty: all."""

    against: System | None = None
    """The peer that counts; None: the best one."""

    most: float | None = None
    """What our value itself may be, in the row's unit."""

    def is_of(self, workload: Workload) -> bool:
        return (
            workload.what in self.whats
            and workload.place in self.places
            and (not self.data or workload.data.name in {data.name for data in self.data})
        )


REQUIRED = (
    # of tensorstore's best setting
    Required(0.95, [WHOLE], [HTTPS], [RAW], TENSORSTORE),
    Required(0.7, [WHOLE], [HTTPS], [TINY], TENSORSTORE),
    Required(0.9, [BOXES], [HTTPS], [RAW], TENSORSTORE),
    Required(1.0, [WHOLE, *PLANES], [HTTPS], [SEGMENTATION], TENSORSTORE),
    Required(1.0, [WHOLE], [HTTPS_30], [RAW, GZIP, JPEG, RAW_SHARDS], TENSORSTORE),
    Required(1.0, PLANES, [HTTPS_30], [RAW], TENSORSTORE),
    Required(1.0, [POINTS], [HTTPS, HTTPS_30, DISK], against=TENSORSTORE),
    Required(1.2, [FIRST], [HTTPS_30], [RAW], TENSORSTORE),
    Required(0.9, [CPU], [HTTPS_30], [RAW], TENSORSTORE),
    Required(1.0, [WHOLE], [HTTP2_30], [RAW], TENSORSTORE),
    Required(1.0, [WHOLE], [S3_TLS_30, S3_TLS_SIGNED_30], against=TENSORSTORE),
    Required(0.8, [WHOLE], [HTTP], [RAW], TENSORSTORE),
    Required(0.9, [WHOLE], [HTTP], [TINY], TENSORSTORE),
    Required(0.8, [WHOLE], [DISK], [RAW], TENSORSTORE),
    Required(2.0, [MODE], [DISK], against=TENSORSTORE),
    # of cloud-volume
    Required(0.5, [SKELETONS, MESHES], [HTTPS_30], against=CLOUD_VOLUME),
    # of neuroglancer-scripts
    Required(0.7, [FETCH_CHUNK], [HTTP], against=NEUROGLANCER_SCRIPTS),  # with latency, that is all there is
    Required(1.0, [FETCH_CHUNK], [DISK], against=NEUROGLANCER_SCRIPTS),
    # of the best peer
    Required(0.8, [WHOLE], [DISK], [GZIP]),
    Required(None, [MEMORY], [HTTPS, HTTP, S3_SIGNED, DISK], [SEGMENTATION], most=250),  # with Numba and LLVM
    Required(None, [MEMORY], [HTTPS, HTTP, S3_SIGNED, DISK], most=100),
)
"""The first one that a row is of counts."""

IMPORT = Required(0.30, [], [], against=CLOUD_VOLUME)
"""Of ``import precomputed_fs``."""


@dataclass(frozen=True)
class Comparison:
    """Two rows whose values are compared, of each system by itself."""

    name: str
    row: str
    against: str
    most: float | None = None
    """What the ratio of ours may be."""


COMPARISONS = (
    *(
        Comparison(
            f"{place.name}, {data.name}, 32,768 chunks against 512",
            f"{place.name}, {data.name}, 32,768 chunks",
            f"{place.name}, {data.name}, 512 chunks",
            1.2,
        )
        for place, data in product((HTTP, DISK), (SMALL_CHUNKS, SMALL_CHUNKS_SHARDS))
    ),
    *(
        Comparison(
            f"{place.name}, {SMALL_CHUNKS.name}, fetch_chunks against a loop over fetch_chunk",
            f"{place.name}, {SMALL_CHUNKS.name}, fetch_chunks, all at once",
            f"{place.name}, {SMALL_CHUNKS.name}, fetch_chunk, one by one",
        )
        for place in (HTTP, HTTP_30, DISK)
    ),
)
