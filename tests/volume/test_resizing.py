"""New bounds: the same pyramid as one that was made at once, and never half of a change."""

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
from numpy.typing import NDArray

from precomputed_fs import DataAccessError, Volume, create_volume, open_volume
from precomputed_fs.errors import ReadOnlyError
from precomputed_fs.format.grid import ChunkGrid
from precomputed_fs.pyramid import renaming
from tests.support import servers
from tests.volume.samples import CHUNK, OFFSET, make, voxels

BEFORE, AFTER = (45, 33, 20), (50, 29, 41)


def made(url: Any, array: NDArray[Any], **options: Any) -> Volume:
    return make(url, array, **{"scales": 3, "gzip": False, **options})


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_by_tensorstore(folder: Path, key: str) -> NDArray[Any]:
    kvstore = {"driver": "file", "path": f"{folder}/"}
    spec = {"driver": "neuroglancer_precomputed", "kvstore": kvstore, "scale_metadata": {"key": key}}
    found: NDArray[Any] = tensorstore.open(spec, read=True).result().read().result()
    return found


@pytest.mark.parametrize("options", [{}, {"gzip": True}, {"flat": False}, {"encoding": "png"}, {"skip_empty": True}])
def test_an_appended_slab_gives_the_pyramid_that_is_made_at_once(tmp_path: Path, options: dict[str, Any]) -> None:
    array = voxels((45, 33, 41, 2))
    array[:, :16, :] = 0
    volume = made(tmp_path / "grown", array[:, :, :20], **options)

    volume[0].resize((45, 33, 41))
    volume[0].write(np.s_[:, :, 120:], array[:, :, 20:], skip_empty="skip_empty" in options)
    volume.downsample(box=np.s_[:, :, 120:], skip_empty="skip_empty" in options)

    assert np.array_equal(volume[0][...], array)
    made(tmp_path / "at once", array, **options)
    assert files(tmp_path / "grown") == files(tmp_path / "at once")
    if not options:
        for scale in volume:
            assert np.array_equal(read_by_tensorstore(tmp_path / "grown", scale.key), scale[...])


@pytest.mark.parametrize(
    ("before", "after"),
    [(BEFORE, AFTER), (AFTER, BEFORE), ((16, 8, 9), (17, 9, 1)), ((1, 1, 1), (64, 1, 1))],
)
def test_all_axes_grow_and_shrink(tmp_path: Path, before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    array = voxels((*before, 2))
    volume = made(tmp_path / "resized", array)
    volume[0].resize(after)
    expected = np.zeros((*after, 2), array.dtype)
    kept = tuple(map(slice, map(min, before, after)))
    expected[kept] = array[kept]
    assert volume[0].shape == expected.shape
    assert np.array_equal(volume[0][...], expected)
    assert np.array_equal(read_by_tensorstore(tmp_path / "resized", "8_8_40"), expected)
    volume.downsample()
    for scale, at_once in zip(volume, made(tmp_path / "at once", expected, scales=len(volume)), strict=True):
        assert (scale.bounds, scale.info) == (at_once.bounds, at_once.info)
        assert np.array_equal(scale[...], at_once[...])
    assert np.array_equal(open_volume(tmp_path / "resized")[0][...], expected)
    names = {name for name in files(tmp_path / "resized") if name.startswith("8_8_40")}
    assert names <= set(files(tmp_path / "at once"))


def test_growing_shows_nothing_of_what_was_there_before(tmp_path: Path) -> None:
    volume = made(tmp_path, voxels())
    before = files(tmp_path)
    volume[0].resize((16, 8, 9))
    for name, content in before.items():  # as a run that was killed before it deleted anything
        if name != "info" and not (tmp_path / name).exists():
            (tmp_path / name).write_bytes(content)
    volume[0].resize((45, 33, 20))
    expected = np.zeros_like(voxels())
    expected[:16, :8, :9] = voxels()[:16, :8, :9]
    assert np.array_equal(volume[0][...], expected)


def test_only_edges_are_stored_again(tmp_path: Path) -> None:
    volume = made(tmp_path, voxels((64, 33, 20, 2)), scales=1)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "8_8_40").iterdir()}
    volume[0].resize((64, 33, 30))
    kept = {path for path in times if path.exists()}
    assert {path.name.rpartition("_")[2] for path in times.keys() - kept} == {"118-120"}
    assert all(path.stat().st_mtime_ns == times[path] for path in kept)
    written = set((tmp_path / "8_8_40").iterdir()) - kept
    assert {path.name.rpartition("_")[2] for path in written} == {"118-127"}  # and 127-130 is absent


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [(20, 7, 30), (17, 10, 12)])
def test_a_run_that_is_killed_anywhere_leaves_one_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: tuple[int, int, int]
) -> None:
    before = (18, 10, 20)
    array = voxels((*before, 2))
    expected = np.zeros((*after, 2), array.dtype)
    kept = tuple(map(slice, map(min, before, after)))
    expected[kept] = array[kept]
    calls = 0

    def killing(verb: Callable[..., Iterator[None]], at: int) -> Callable[..., Iterator[None]]:
        def run(*args: Any, **options: Any) -> Iterator[None]:
            nonlocal calls
            for done in verb(*args, **options):
                calls += 1
                if calls == at:
                    raise _Killed
                yield done

        return run

    delete, copy = renaming.delete_chunks, renaming.copy_chunks
    states = set()
    for at in [*range(1, 100, 9), 10_000]:
        folder = tmp_path / str(at)
        volume = made(folder, array, scales=2)
        calls = 0
        monkeypatch.setattr(renaming, "delete_chunks", killing(delete, at))
        monkeypatch.setattr(renaming, "copy_chunks", killing(copy, at))
        with contextlib.suppress(_Killed):
            volume[0].resize(after)
        monkeypatch.setattr(renaming, "delete_chunks", delete)
        monkeypatch.setattr(renaming, "copy_chunks", copy)
        there = open_volume(folder)
        states.add(there[0].shape[:3])
        assert np.array_equal(there[0][...], array if there[0].shape == array.shape else expected)
        assert np.array_equal(volume[0][...], there[0][...])
        there[0].resize(after)
        assert np.array_equal(there[0][...], expected)
        if at == 10_000:
            break
    assert states == {before, after}


def test_the_lower_scales_follow(tmp_path: Path) -> None:
    volume = made(tmp_path, voxels())
    scale, grid = volume[1], volume[1].grid
    volume[0].resize(AFTER)
    assert scale is volume[1]
    assert scale.grid != grid
    assert [each.shape[:3] for each in volume] == [AFTER, (26, 15, 41), (14, 8, 41)]
    assert volume.info.to_dict() == json.loads((tmp_path / "info").read_text())
    with pytest.raises(
        ValueError,
        match=r"resize the finest scale, vol\[0\]: the others, such as scale 16_16_40 \(16 x 16 x 40 nm\), follow",
    ):
        volume[1].resize(AFTER)


def test_unknown_members_of_info_are_kept(tmp_path: Path) -> None:
    volume = made(tmp_path, voxels())
    given = json.loads((tmp_path / "info").read_text()) | {"mesh": "mesh"}
    given["scales"][1]["mine"] = {"a": [1]}
    (tmp_path / "info").write_text(json.dumps(given))
    with pytest.raises(DataAccessError, match="has been changed since the volume was opened: open it again"):
        volume[0].resize(AFTER)
    volume = open_volume(tmp_path)
    volume[0].resize(AFTER)
    now = json.loads((tmp_path / "info").read_text())
    assert (now["mesh"], now["scales"][1]["mine"]) == ("mesh", {"a": [1]})


def test_nothing_changes_where_the_size_is_the_same(tmp_path: Path) -> None:
    volume = made(tmp_path, voxels())
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    volume[0].resize(BEFORE)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == times


def test_what_cannot_be_resized_is_left_as_it_is(tmp_path: Path) -> None:
    sharded = made("memory://tests/volume/sharded", voxels(), sharding=True)
    with pytest.raises(ValueError, match=r"8_8_40 .* is sharded, and the numbers of chunks .* copy_pyramid"):
        sharded[0].resize(AFTER)
    info = made("memory://tests/volume/apart", voxels()).info.to_dict()
    del info["scales"][1]
    apart = create_volume("memory://tests/volume/apart2", info)
    with pytest.raises(ValueError, match=r"is not scale 8_8_40 \(8 x 8 x 40 nm\), .* halved"):
        apart[0].resize(AFTER)
    for wrong in ((1, 2), (0, 1, 1), (1.5, 1, 1)):
        with pytest.raises(ValueError, match="size: expected"):
            apart[0].resize(wrong)  # type: ignore[arg-type]
    made(tmp_path, voxels())
    with servers.http_server(tmp_path) as server, pytest.raises(ReadOnlyError, match="cannot be resized"):
        open_volume(server.url)[0].resize(AFTER)


def test_a_cache_does_not_show_old_edges() -> None:
    volume = made("memory://tests/volume/cached", voxels(), cache="1 MB")
    volume[0][...]
    volume[0].resize((45, 33, 18))
    volume[0].resize((45, 33, 20))
    expected = voxels()
    expected[:, :, 18:] = 0
    assert np.array_equal(volume[0][...], expected)


def test_where_chunks_can_be_listed_only_those_that_are_there_are_deleted() -> None:
    with servers.s3_server() as server:
        server.create_bucket("bucket")
        options = server.storage_options
        volume = made("s3://bucket/listed", voxels(), storage_options=options, gzip=None, scales=1)
        left_over = ChunkGrid(AFTER, CHUNK, OFFSET).chunk((3, 3, 4))
        volume.pyramid.store_chunk(b"what another has left here", "8_8_40", left_over)
        server.log.clear()
        volume[0].resize(AFTER)
        entries = server.log.entries()
        expected = np.zeros((*AFTER, 2), np.uint16)
        expected[:45, :29, :20] = voxels()[:, :29]
        assert np.array_equal(open_volume("s3://bucket/listed", storage_options=options)[0][...], expected)
        listings = [entry for entry in entries if entry.method == "GET" and "list-type" in entry.query]
        clipped = 3 * 5 * 3 - 2 * 3 * 2  # chunks that end elsewhere now, or are gone
        assert entry_count(entries, "DELETE") == clipped + 1
        assert len(listings) <= 2


def entry_count(entries: list[servers.Request], method: str) -> int:
    return sum(entry.method == method for entry in entries)


@pytest.mark.parametrize("flat", [True, False])
def test_listed_chunks_have_all_of_their_names(tmp_path: Path, flat: bool) -> None:
    volume = made(tmp_path, voxels(), scales=1, flat=flat)
    first = (-5, 11, 7, 15, 100, 109)
    there = next(
        path for path in (tmp_path / "8_8_40").rglob("*100-109*") if "-5-11" in str(path) and "7-15" in str(path)
    )
    there.with_name(f"{there.name}.gz").write_bytes(b"")
    for other in ("notes.txt", "5-4_0-1_0-1"):
        (tmp_path / "8_8_40" / other).write_bytes(b"")
    listed = renaming.list_chunks(volume.pyramid, "8_8_40", 1000)
    assert listed is not None
    assert len(listed) == 3 * 5 * 3
    name = str(there.relative_to(tmp_path))
    assert sorted(listed[first]) == [name, f"{name}.gz"]
    assert renaming.list_chunks(volume.pyramid, "8_8_40", 10) is None, "these are too many"
    with servers.http_server(tmp_path) as server:
        assert renaming.list_chunks(open_volume(server.url).pyramid, "8_8_40", 1000) is None


def test_one_number_stands_for_all_axes(tmp_path: Path) -> None:
    volume = create_volume(tmp_path / "cube", np.ones((8, 8, 8), np.uint8), resolution=8, scales=1)
    volume[0].resize(12)
    assert open_volume(tmp_path / "cube")[0].shape == (12, 12, 12, 1)
