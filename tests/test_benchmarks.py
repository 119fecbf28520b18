"""`make bench`, with volumes so small that its working is tested and not the speed."""

import doctest
import gzip
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import requests

from benchmarks import processes, scale_out
from benchmarks.__main__ import main
from benchmarks.data import MESHES, RAW, SKELETONS, Folder
from benchmarks.jobs import DataSet, Job, Outcome
from benchmarks.places import HTTP, HTTP2, HTTPS, S3_TLS_SIGNED, Servers
from benchmarks.processes import Worker, Workers
from benchmarks.systems import NEUROGLANCER_SCRIPTS, OURS, PEERS, TENSORSTORE
from precomputed_fs import open_volume
from tests.support.servers import nginx_installed, nginx_server, nginx_waits

needs_nginx = pytest.mark.skipif(not nginx_installed(), reason="nginx is not installed (apt-get install nginx-light)")
needs_lua = pytest.mark.skipif(
    not nginx_waits(), reason="nginx's lua module is not installed (apt-get install libnginx-mod-http-lua)"
)


@needs_nginx
def test_ours_and_a_peer_read_over_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "bench.json"
    small = ["--side", "128", "--rounds", "2", "--output", str(output)]
    assert main([*small, "--only", "http 0, raw, whole", "--no", "shards", "--quick"]) == 0
    (row,) = json.loads(output.read_bytes())["rows"]
    ours, theirs = row["systems"]["ours"], row["systems"]["tensorstore"]
    for system in (ours, theirs):
        assert system["requests"] == 9, "info and 8 chunks"
        assert system["bytes_sent"] > 128**3
        assert system["value"] > 0
    assert len(ours["seconds"]) >= 2
    assert row["systems"]["cloud-volume"]["reason"] == "does not count for the limit"
    assert row["best_peer"] == "tensorstore"
    assert row["ratio"] == pytest.approx(ours["value"] / theirs["value"])
    assert row["ratio_at_most"] == 0.8
    assert row["holds"] == (row["ratio"] <= 0.8)
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("HTTP 0 ms, raw, whole"))
    assert (" yes " in line) == row["holds"]
    assert (" NO " in line) != row["holds"]


def test_ours_and_tensorstore_find_the_mode_of_labels(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    small = ["--side", "64", "--rounds", "2", "--output", str(output), "--system", "tensorstore"]
    assert main([*small, "--only", "mode of labels"]) == 0
    (row,) = json.loads(output.read_bytes())["rows"]
    assert row["best_peer"] == "tensorstore"
    assert row["ratio"] == pytest.approx(row["systems"]["ours"]["value"] / row["systems"]["tensorstore"]["value"])
    assert row["ratio_at_most"] == 2.0


@needs_nginx
@pytest.mark.slow
def test_all_read_over_tls(tmp_path: Path) -> None:
    data = DataSet("raw", "image", side=64)
    folder = Folder(tmp_path / "bench")
    folder.root.mkdir()
    expected = folder.expected(data)
    with Servers(folder) as servers, Workers() as workers:
        for system, place in product((OURS, *PEERS), (HTTPS, HTTP2, S3_TLS_SIGNED)):
            if (system, place) == (NEUROGLANCER_SCRIPTS, S3_TLS_SIGNED):
                continue  # knows no S3
            server, location = servers.at(place), servers.to_read(data, place)
            assert server
            server.clear()
            outcome = workers.of(system, "default").run(Job("read", location, data, expected, (data.whole,)))
            assert outcome.error == "", f"{system.name}, {place.name}"
            if system is TENSORSTORE:
                assert server.traffic().protocols == ("HTTP/2.0" if place.http2 else "HTTP/1.1",)


@needs_nginx
@pytest.mark.slow
def test_each_first_read_is_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids = []

    class Noted(Worker):
        def run(self, job: Job) -> Outcome:
            pids.append(self.pid)
            return super().run(job)

    monkeypatch.setattr(processes, "Worker", Noted)
    output = tmp_path / "bench.json"
    small = ["--side", "64", "--rounds", "1", "--output", str(output), "--system", "ours"]
    assert main([*small, "--only", "https 0, raw, first open and read after import"]) == 0
    (row,) = json.loads(output.read_bytes())["rows"]
    assert row["systems"]["tensorstore"]["reason"] == "was not asked for"
    assert row["systems"]["ours"]["requests"] == 2, "opening is counted, and timed"
    assert len(row["systems"]["ours"]["seconds"]) >= 1
    assert len(pids) == len(set(pids)) >= 2


@needs_lua
@pytest.mark.parametrize("as_s3", [False, True])
def test_nginx_waits_for_many_at_once(tmp_path: Path, as_s3: bool) -> None:
    bucket = tmp_path / "bucket"
    bucket.mkdir()
    (bucket / "chunk.gz").write_bytes(gzip.compress(b"voxels"))
    with nginx_server(tmp_path, latency=0.2, as_s3=as_s3) as server, ThreadPoolExecutor(10) as pool:
        began = time.monotonic()
        answers = [*pool.map(requests.get, [f"{server.url}/bucket/chunk"] * 10)]
        assert 0.2 < time.monotonic() - began < 1.9, "less than one after another"
        assert [answer.content for answer in answers] == [b"voxels"] * 10
        assert server.traffic()[:2] == (10, 10 * (bucket / "chunk.gz").stat().st_size)
        absent = requests.get(f"{server.url}/bucket/absent", timeout=5)
        assert absent.status_code == 404
        assert ("<Code>NoSuchKey</Code>" in absent.text) == as_s3


def test_a_result_counts_if_every_voxel_is_right(tmp_path: Path) -> None:
    data = DataSet("raw", "image", side=96, chunk=32)
    folder = Folder(tmp_path)
    location = folder.volume(data)
    voxels = np.load(folder.source(data))
    assert len(np.unique(voxels)) > 100
    changed = tmp_path / "changed.npy"
    worker = Worker("ours", "default")
    try:
        right = worker.run(Job("read", location, data, folder.source(data), (data.whole,)))
        voxels[95, 40, 7] ^= 1
        np.save(changed, voxels)
        wrong = worker.run(Job("read", location, data, changed, (data.whole,)))
    finally:
        worker.close()
    assert right.error == ""
    assert right.seconds > 0
    assert wrong.error.startswith("voxels are not what is expected")


@pytest.mark.parametrize("system", ["ours", "cloud-volume"])
def test_a_worker_knows_right_skeletons_and_meshes_from_wrong_ones(tmp_path: Path, system: str) -> None:
    folder = Folder(tmp_path)
    worker = Worker(system, "default")
    outcomes: list[Outcome] = []
    try:
        for data in (replace(SKELETONS, side=32), replace(MESHES, side=32)):
            location = folder.volume(data)
            job = Job(data.beside, location, data, folder.source(data))
            outcomes.append(worker.run(job))
            with open_volume(location.url) as volume:
                if data.beside == "meshes":
                    volume.store_meshes({7: volume.meshes[8]}, overwrite=True)
                else:
                    volume.store_skeletons({7: volume.skeletons[8]}, overwrite=True)
            outcomes.append(worker.run(job))
    finally:
        worker.close()
    assert [each.error for each in outcomes] == ["", "skeletons are not as expected", "", "meshes are not as expected"]
    assert outcomes[0].seconds > 0


def test_workloads_are_found_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list", "--only", "s3 signed, plane"]) == 0
    names = capsys.readouterr().out.splitlines()
    assert names
    assert all("S3 signed" in name and "plane" in name for name in names)
    assert main(["--list", "--only", f"{RAW.name}, no such thing"]) == 2


@needs_nginx
@pytest.mark.slow
def test_workers_copy_and_compute_a_mean(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = {"threads": scale_out.Mode(), "2 workers": scale_out.Mode(2), "1, no trim": scale_out.Mode(1, trims=False)}
    monkeypatch.setattr(scale_out, "MODES", modes)
    output = tmp_path / "bench.json"
    small = ["--scale-out", "--side", "86", "--rounds", "2", "--output", str(output), "--keep", str(tmp_path)]
    assert main([*small, "--only", "http 0, raw, copy into", "--only", "http 0, raw, mean"]) == 0
    rows = json.loads(output.read_bytes())["rows"]
    assert [row["workload"].rpartition(", ")[2] for row in rows] == ["mean", "copy into shards"]
    for row in rows:
        assert row["chunks"] == 3**3, "of 129^3 voxels"
        assert [*row["modes"]] == [*modes]
        for mode in row["modes"].values():
            assert len(mode["seconds"]) == 2
            assert min(mode["seconds"]) <= mode["value"] <= max(mode["seconds"])
            assert mode["requests"] >= 3**3
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("HTTP 0 ms, raw, ") for line in lines) == 2
    assert [path.name for path in (tmp_path / "bench" / "written").iterdir()] == []


@needs_nginx
@pytest.mark.parametrize("verb", ["copy", "mean"])
def test_a_scaled_out_result_counts_if_it_is_exact(verb: str, tmp_path: Path) -> None:
    data = DataSet("raw", "image", side=96, chunk=32)
    folder = Folder(tmp_path)
    with Servers(folder) as servers:
        workload = scale_out.Workload(HTTP, data, verb)
        assert scale_out.Bench(workload, folder, servers).run(None).seconds > 0
        voxels = np.load(folder.source(data))
        voxels[95, 40, 7] ^= 1
        np.save(folder.source(data), voxels)
        with pytest.raises(scale_out.WrongResultError, match=f"HTTP 0 ms, raw, {verb}: "):
            scale_out.Bench(workload, folder, servers).run(None)
        assert not [*tmp_path.glob("written/*")]


def test_scaled_out_workloads_are_found_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--scale-out", "--list", "--only", "30 ms, copy"]) == 0
    assert capsys.readouterr().out == "HTTP 30 ms, gzip, copy\n"
    assert main(["--scale-out", "--list", "--only", "no such thing"]) == 2


def test_what_a_petabyte_costs_is_calculated() -> None:
    assert doctest.testmod(scale_out)[0] == 0
    assert len(doctest.DocTestFinder().find(scale_out)[0].examples) > 10
