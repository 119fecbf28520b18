"""Members of a stored `info` change alone, whoever else writes to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from precomputed_fs import DataAccessError, InvalidInfoError, create_volume, open_volume
from precomputed_fs.volume.info_update import update_info

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.places import Place


def made(url: Any, **options: Any) -> None:
    create_volume(url, np.ones((8, 8, 8), np.uint8), resolution=(1, 1, 1), **options)


def test_two_volumes_may_each_change_a_member(pyramid: Place) -> None:
    made(pyramid.url, storage_options=pyramid.storage_options)
    first, second = (open_volume(pyramid.url, storage_options=pyramid.storage_options) for _ in range(2))
    update_info(first, {"mesh": "mesh"})
    update_info(second, {"skeletons": "skeletons"})
    assert json.loads(pyramid.objects.get("info")[0])["mesh"] == second.info["mesh"] == "mesh"
    assert second.info["skeletons"] == "skeletons"
    assert first[0][:].all()


def test_a_member_that_someone_else_has_changed_is_kept(tmp_path: Path) -> None:
    made(tmp_path)
    first, second = open_volume(tmp_path), open_volume(tmp_path)
    update_info(first, {"mesh": "one"})
    with pytest.raises(DataAccessError, match="info has been changed since the volume was opened, in its mesh"):
        update_info(second, {"mesh": "two"})
    update_info(second, {"mesh": "one"})
    assert open_volume(tmp_path).info["mesh"] == "one"


def test_an_info_with_other_scales_is_not_used(tmp_path: Path) -> None:
    made(tmp_path)
    volume = open_volume(tmp_path)
    open_volume(tmp_path)[0].resize((9, 8, 8))
    with pytest.raises(DataAccessError, match="in its scales: open it again"):
        update_info(volume, {"mesh": "mesh"})


def test_an_invalid_member_is_not_stored(tmp_path: Path) -> None:
    made(tmp_path)
    before = (tmp_path / "info").read_bytes()
    with pytest.raises(InvalidInfoError, match="the new info: type"):
        update_info(open_volume(tmp_path), {"type": 3})
    assert (tmp_path / "info").read_bytes() == before
