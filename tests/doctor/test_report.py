"""Reports: as text, HTML and JSON, and as a command prints them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from precomputed_fs import URLError, __main__, create_volume, doctor, open_volume
from precomputed_fs.doctor.checks import READERS
from precomputed_fs.doctor.folder_rules import FOLDER_RULES
from precomputed_fs.doctor.rules import RULES
from tests.doctor.flaws import IDENTITY, KEY, edited, first, ids, scale, server, write
from tests.support import servers
from tests.support.brain import image

if TYPE_CHECKING:
    from pathlib import Path


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    write(tmp_path / "pyramid")
    first(lambda path: path.write_bytes(b""))(tmp_path / "pyramid")
    with servers.fault_server(server(tmp_path)) as served:
        host = served.url.removeprefix("http://")
        reports = [
            doctor(
                f"http://somebody:pa55w0rd@{host}/{name}?sig=s1gnature",
                storage_options={"headers": {"X": "t0ken-of-mine"}},
            )
            for name in ("pyramid", "nothing")
        ]
    reports.append(doctor("http://somebody:pa55w0rd@127.0.0.1:9/x?sig=s1gnature", attempts=1))
    for report in reports:
        shown = f"{report} {report!r} {report.to_dict()} {report._repr_html_()}"
        assert not [secret for secret in ("pa55w0rd", "s1gnature", "t0ken-of-mine") if secret in shown]


def test_the_report_says_which_scale(tmp_path: Path) -> None:
    create_volume(tmp_path, image("uint8")[..., :1], resolution=(8, 8, 8), scales=3, gzip=False)
    edited(lambda given: given["scales"][1].update(voxel_offset=None))(tmp_path)
    report = doctor(tmp_path)
    assert report.scales == ("8_8_8", "16_16_16", "32_32_32")
    assert dict(report["cloud-volume"].scales) == {"8_8_8": True, "16_16_16": False, "32_32_32": True}
    assert str(report["cloud-volume"]) == "only 8_8_8, 32_32_32"
    assert str(report["tensorstore"]) == "no"
    assert "neuroglancer-scripts  only 8_8_8, 32_32_32" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["readers"]["cloud-volume"] == {
        "ok": False, "scales": {"8_8_8": True, "16_16_16": False, "32_32_32": True}, "folders": {},
    }  # fmt: skip


def test_a_notebook_is_shown_no_markup_of_others(tmp_path: Path) -> None:
    write(tmp_path)
    scale(key="<script>alert(1)</script>")(tmp_path)
    shown = doctor(tmp_path)._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


ALL_RULES = (*RULES, *FOLDER_RULES)


def test_each_rule_says_all_that_it_is_to_say() -> None:
    concerned = [(rule.id, reader, rule.severity) for rule in ALL_RULES for reader in rule.readers]
    assert len(concerned) == len(set(concerned)), "two rules say the same"
    for rule in ALL_RULES:
        assert rule.severity in {"error", "warning", "note"}
        assert rule.looks_at in {"pyramid", "scale", "folder"}
        assert set(rule.readers) <= set(READERS)
        assert all((rule.readers, rule.message, rule.advice, rule.source)), rule


def test_what_is_open_is_looked_at_and_stays_as_it_is(tmp_path: Path) -> None:
    write(tmp_path, sharding=IDENTITY)
    told = doctor(tmp_path).to_dict()
    with open_volume(tmp_path) as volume:
        volume[0][:1, :1, :1] = volume[0][:1, :1, :1] + 1  # waits for its shard
        before = (tmp_path / KEY / "0.shard").read_bytes()
        assert doctor(volume).to_dict() == doctor(volume.accessor).to_dict() == told
        assert (tmp_path / KEY / "0.shard").read_bytes() == before
    assert (tmp_path / KEY / "0.shard").read_bytes() != before
    for opened in (volume, volume.accessor):
        with pytest.raises(TypeError, match="attempts: for URLs"):
            doctor(opened, attempts=1)


def test_what_is_open_is_looked_at_with_its_options() -> None:
    fs = MemoryFileSystem()
    volume = create_volume("/test_doctor/own", np.ones((4, 4, 4), np.uint8), resolution=(1, 1, 1), fs=fs)
    assert doctor(volume)["precomputed_fs"].ok
    fs.pipe_file("/test_doctor/own/info", b'{"redirect": 3}')
    assert "info-wrong" in ids(doctor(volume.accessor))


def test_arguments_that_cannot_be(tmp_path: Path) -> None:
    wrong: list[Any] = [{"samples": 0}, {"time_limit": 0}, {"timeout": -1}]
    for options in wrong:
        with pytest.raises(ValueError, match="expected"):
            doctor(tmp_path, **options)
    with pytest.raises(TypeError, match="colour"):
        doctor(tmp_path, colour="red")  # type: ignore[call-arg]
    with pytest.raises(URLError):
        doctor("nowhere://x")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    code = __main__.main(["doctor", *map(str, arguments)])
    return code, capsys.readouterr().out


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "good")
    write(tmp_path / "packed", gzip=True)
    assert run(capsys, tmp_path / "good") == (0, f"{doctor(tmp_path / 'good')}\n")
    assert run(capsys, tmp_path / "packed")[0] == 6
    assert run(capsys, tmp_path / "packed", "--reader", "cloud-volume", "--reader", "precomputed_fs")[0] == 0
    assert run(capsys, tmp_path / "packed", "--reader", "cloud-volume", "--reader", "tensorstore")[0] == 6
    assert run(capsys, tmp_path / "nothing", "--reader", "precomputed_fs")[0] == 6
    code, printed = run(capsys, tmp_path / "packed", "--json", "--samples", 2)
    assert (code, json.loads(printed)) == (6, doctor(tmp_path / "packed", samples=2).to_dict())
    assert run(capsys, "nowhere://x")[0] == 2
