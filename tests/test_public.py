"""The public face: names, signatures, errors, the command line's options, and what an import costs."""

from __future__ import annotations

import argparse
import inspect
import json
import pickle
import re
import subprocess
import sys
import types
from typing import TYPE_CHECKING, Any

import neuroglancer_scripts.accessor
import numpy as np
import pytest
import xarray
from upath import UPath

import precomputed_fs
import precomputed_fs.accessor
import precomputed_fs.errors
from precomputed_fs import (
    AccessDeniedError,
    Accessor,
    AlreadyExistsError,
    CorruptDataError,
    DataAccessError,
    FsspecAccessor,
    NotFoundError,
    URLError,
    add_argparse_options,
    copy_pyramid,
    create_volume,
    doctor,
    get_accessor_for_url,
    open_volume,
    serve,
)
from precomputed_fs.errors import OptionError, ReadOnlyError, _Replaceable
from precomputed_fs.interop.xarray_backend import PrecomputedBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support import servers

PUBLIC = {
    "AccessDeniedError",
    "Accessor",
    "AlreadyExistsError",
    "CorruptDataError",
    "DataAccessError",
    "FsspecAccessor",
    "InvalidInfoError",
    "Mesh",
    "NotFoundError",
    "Scale",
    "Skeleton",
    "URLError",
    "Volume",
    "add_argparse_options",
    "convert_file_url_to_pathname",
    "copy_pyramid",
    "create_annotations",
    "create_meshes",
    "create_segment_properties",
    "create_skeletons",
    "create_volume",
    "doctor",
    "get_accessor_for_url",
    "install",
    "open_annotations",
    "open_meshes",
    "open_segment_properties",
    "open_skeletons",
    "open_volume",
    "serve",
    "uninstall",
    "view",
}
COORDS = (0, 64, 0, 64, 0, 64)
VERBS = ("file_exists", "fetch_file", "store_file", "fetch_chunk", "store_chunk")


# --------------------------------------------------------------------------------------------------------------- names


def test_all_lists_the_public_names_in_order() -> None:
    public = [
        name
        for name in dir(precomputed_fs)
        if not name.startswith("_") and not isinstance(getattr(precomputed_fs, name), types.ModuleType)
    ]
    assert precomputed_fs.__all__ == public


IMPORTED_LATER = """
import sys
import precomputed_fs
later = {"precomputed_fs.copying.run", "precomputed_fs.doctor.rules", "precomputed_fs.view.server"}
scene = "mesh", "meshes", "mesh_writing", "skeleton", "skeletons", "skeleton_writing"
later |= {f"precomputed_fs.scene.{name}" for name in scene}
assert not later & sys.modules.keys()
assert set(precomputed_fs.__all__) <= set(dir(precomputed_fs))
assert not hasattr(precomputed_fs, "copy_pyramids")
from precomputed_fs import *
import precomputed_fs.doctor.examine, precomputed_fs.view.views
assert doctor is precomputed_fs.doctor is sys.modules["precomputed_fs.doctor"].doctor
assert view is precomputed_fs.view is sys.modules["precomputed_fs.view"].view
assert copy_pyramid is precomputed_fs.copy_pyramid is sys.modules["precomputed_fs.copying.run"].copy_pyramid
"""


@pytest.mark.processes
def test_what_few_programs_call_is_imported_later() -> None:
    subprocess.run([sys.executable, "-c", IMPORTED_LATER], check=True)


def test_the_public_names_are_those_of_the_design() -> None:
    assert set(precomputed_fs.__all__) == PUBLIC


@pytest.mark.parametrize("name", neuroglancer_scripts.accessor.__all__)
def test_the_contract_is_importable_from_the_accessor_module(name: str) -> None:
    assert name in precomputed_fs.accessor.__all__
    assert getattr(precomputed_fs.accessor, name) is getattr(precomputed_fs, name)


@pytest.mark.parametrize("module", [precomputed_fs.accessor, precomputed_fs.errors], ids=lambda module: module.__name__)
def test_the_lists_of_the_modules_are_sorted_and_hold(module: types.ModuleType) -> None:
    names: list[str] = module.__all__
    assert names == sorted(names)
    assert [name for name in names if not hasattr(module, name)] == []


def test_the_version_is_one() -> None:
    assert [part.isdecimal() for part in precomputed_fs.__version__.split(".")][:2] == [True, True]


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_each_public_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(precomputed_fs, name))


# ---------------------------------------------------------------------------------------------------------- signatures


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    """Return what a caller sees of a signature."""
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", ["get_accessor_for_url", "add_argparse_options", "convert_file_url_to_pathname"])
def test_a_function_has_the_contracts_signature(name: str) -> None:
    assert parameters(getattr(precomputed_fs, name)) == parameters(getattr(neuroglancer_scripts.accessor, name))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("cls", [Accessor, FsspecAccessor])
def test_a_verb_has_the_contracts_signature(cls: type[Accessor], verb: str) -> None:
    assert parameters(getattr(cls, verb)) == parameters(getattr(neuroglancer_scripts.accessor.Accessor, verb))


@pytest.mark.parametrize("verb", VERBS)
def test_an_awaited_verb_has_the_same_signature(verb: str) -> None:
    twin = getattr(FsspecAccessor, f"{verb}_async")
    assert inspect.iscoroutinefunction(twin)
    assert parameters(twin) == parameters(getattr(FsspecAccessor, verb))


def test_the_options_of_the_accessor_are_keywords_with_the_designs_defaults() -> None:
    found = inspect.signature(FsspecAccessor).parameters
    assert next(iter(found)) == "url"
    kinds = {each.kind for name, each in found.items() if name != "url"}
    assert kinds == {inspect.Parameter.KEYWORD_ONLY}
    designed = {"storage_options": None, "fs": None, "anon": None, "flat": True, "gzip": True, "compresslevel": 9}
    assert {name: found[name].default for name in designed} == designed


# -------------------------------------------------------------------------------------------------------------- errors

TREE: dict[type[Exception], tuple[type[Exception], ...]] = {
    DataAccessError: (_Replaceable,),
    NotFoundError: (DataAccessError, FileNotFoundError),
    AlreadyExistsError: (DataAccessError, FileExistsError),
    AccessDeniedError: (DataAccessError, PermissionError),
    CorruptDataError: (DataAccessError, ValueError),
    ReadOnlyError: (DataAccessError, NotImplementedError),
    OptionError: (DataAccessError, TypeError),
    URLError: (_Replaceable,),
}
each_error = pytest.mark.parametrize("error", TREE)


@each_error
def test_an_error_has_its_place_in_the_tree(error: type[Exception]) -> None:
    assert error.__bases__ == TREE[error]
    assert _Replaceable.__bases__ == (Exception,)
    assert error.__module__ == "precomputed_fs.errors"


def test_only_data_access_errors_are_data_access_errors() -> None:
    assert not issubclass(URLError, DataAccessError)
    leaves = [NotFoundError, AlreadyExistsError, AccessDeniedError, CorruptDataError, ReadOnlyError, OptionError]
    for error in leaves:
        assert not any(issubclass(error, other) for other in leaves if other is not error)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@each_error
def test_an_error_comes_back_from_a_pickle(error: type[Exception], protocol: int) -> None:
    original = error("s3://bucket/brain/info: it did not work")
    copy = pickle.loads(pickle.dumps(original, protocol))
    assert type(copy) is error
    assert str(copy) == str(original) == "s3://bucket/brain/info: it did not work"
    assert copy.args == original.args


def test_the_tree_in_the_docstring_is_complete() -> None:
    assert precomputed_fs.errors.__doc__ is not None
    missing = [error.__name__ for error in TREE if error.__name__ not in precomputed_fs.errors.__doc__]
    assert missing == []


# ------------------------------------------------------------------------------------------------------- the base class


def test_the_base_can_neither_read_nor_write() -> None:
    assert (Accessor.can_read, Accessor.can_write) == (False, False)
    assert (Accessor().can_read, Accessor().can_write) == (False, False)


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("file_exists", ("info",)),
        ("fetch_file", ("info",)),
        ("store_file", ("info", b"{}")),
        ("store_file", ("info", b"{}", "application/json", True)),
        ("fetch_chunk", ("key", COORDS)),
        ("store_chunk", (b"", "key", COORDS)),
        ("store_chunk", (b"", "key", COORDS, "image/jpeg", True)),
    ],
)
def test_each_verb_of_the_base_is_not_implemented(verb: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(NotImplementedError):
        getattr(Accessor(), verb)(*arguments)


class Constant(Accessor):
    """An accessor of one's own, that only reads."""

    can_read = True

    def fetch_file(self, relative_path: str) -> bytes:
        return relative_path.encode()


def test_another_accessor_can_be_made_by_inheriting() -> None:
    accessor = Constant()
    assert accessor.fetch_file("info") == b"info"
    assert (accessor.can_read, accessor.can_write) == (True, False)
    with pytest.raises(NotImplementedError):
        accessor.store_file("info", b"{}")


def test_the_accessor_is_an_accessor() -> None:
    assert isinstance(FsspecAccessor("memory://brain"), Accessor)
    assert isinstance(get_accessor_for_url("memory://brain"), FsspecAccessor)


# -------------------------------------------------------------------------------------------------------------- import

DRIVERS = ("s3fs", "gcsfs", "adlfs", "paramiko", "aiohttp", "botocore", "google.auth", "azure.storage.blob", "requests")
CODECS = (
    "imagecodecs",
    "brotli",
    "compressed_segmentation",
    "numba",
    "compresso",
    "crackle",
    "fpzip",
    "zfpc",
    "google_crc32c",
)
HEAVY = (*DRIVERS, *CODECS, "fsspec", "tqdm", "dask", "xarray")


def modules_after(*statements: str) -> set[str]:
    """Return which modules a fresh interpreter has loaded after these statements."""
    program = "\n".join(["import sys", *statements, "print(*sys.modules, sep='\\n')"])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def imported() -> set[str]:
    return modules_after("import precomputed_fs")


@pytest.mark.processes
@pytest.mark.parametrize("module", HEAVY)
def test_an_import_loads_nothing_heavy(module: str, imported: set[str]) -> None:
    assert {"precomputed_fs.accessor", "precomputed_fs.volume"} <= imported
    assert module not in imported


@pytest.mark.processes
def test_a_local_pyramid_loads_no_driver() -> None:
    loaded = modules_after("import precomputed_fs", "precomputed_fs.FsspecAccessor('brain').file_exists('info')")
    assert "fsspec" in loaded
    assert loaded.isdisjoint({*HEAVY} - {"fsspec"})


@pytest.mark.processes
@pytest.mark.parametrize(
    ("encoding", "gzip", "needed"),
    [
        ("raw", False, set()),
        ("raw", True, {"imagecodecs"}),
        ("png", False, {"imagecodecs"}),
        ("compressed_segmentation", False, {"compressed_segmentation"}),
    ],
)
def test_a_local_volume_loads_what_its_chunks_need(encoding: str, gzip: bool, needed: set[str], tmp_path: Path) -> None:
    array = np.arange(8 * 8 * 8, dtype=np.uint32 if encoding == "compressed_segmentation" else np.uint8)
    made = array.reshape(8, 8, 8)
    precomputed_fs.create_volume(tmp_path, made, resolution=(1, 1, 1), encoding=encoding, gzip=gzip).accessor.close()
    loaded = modules_after(
        "import precomputed_fs",
        f"read = precomputed_fs.open_volume({str(tmp_path)!r})[0][:, 1]",
        f"assert read.ravel('F').tolist() == {made[:, 1].ravel('F').tolist()}",
    )
    assert loaded.isdisjoint(DRIVERS)
    assert loaded & {*CODECS} == needed


# --------------------------------------------------------------------------------------------------------- command line


def options(*arguments: str, **which: bool) -> dict[str, Any]:
    """Parse a command line."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_argparse_options(parser, **which)
    return vars(parser.parse_args(arguments))


DEFAULTS = {"gzip": True, "compresslevel": 9, "flat": True}


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        ([], {}),
        (["--no-gzip"], {"gzip": False}),
        (["--no-compression"], {"gzip": False}),
        (["--flat"], {"flat": True}),
        (["--no-flat"], {"flat": False}),
        (["--no-flat", "--flat"], {"flat": True}),
        (["--no-gzip", "--no-flat", "--compresslevel", "3"], {"gzip": False, "flat": False, "compresslevel": 3}),
        *((["--compresslevel", str(level)], {"compresslevel": level}) for level in range(10)),
    ],
    ids=str,
)
def test_options_of_the_command_line(arguments: list[str], changed: dict[str, Any]) -> None:
    assert options(*arguments) == DEFAULTS | changed


@pytest.mark.parametrize("level", ["-1", "10", "nine", "9.5", ""])
def test_another_compresslevel_is_refused(level: str) -> None:
    with pytest.raises(argparse.ArgumentError):
        options("--compresslevel", level)


@pytest.mark.parametrize(
    ("write_chunks", "write_files", "expected"),
    [
        (True, True, {"gzip", "compresslevel", "flat"}),
        (True, False, {"gzip", "compresslevel", "flat"}),
        (False, True, {"gzip", "compresslevel"}),
        (False, False, set()),
    ],
)
def test_a_command_has_the_options_of_what_it_writes(write_chunks: bool, write_files: bool, expected: set[str]) -> None:
    assert set(options(write_chunks=write_chunks, write_files=write_files)) == expected


@pytest.mark.parametrize("write_chunks", [True, False])
@pytest.mark.parametrize("write_files", [True, False])
def test_each_option_of_neuroglancer_scripts_is_there(write_chunks: bool, write_files: bool) -> None:
    ours, theirs = argparse.ArgumentParser(), argparse.ArgumentParser()
    add_argparse_options(ours, write_chunks, write_files)
    neuroglancer_scripts.accessor.add_argparse_options(theirs, write_chunks, write_files)
    assert theirs._option_string_actions.keys() <= ours._option_string_actions.keys()
    assert vars(theirs.parse_args([])).keys() == vars(ours.parse_args([])).keys()


def test_the_help_explains_each_option() -> None:
    parser = argparse.ArgumentParser()
    add_argparse_options(parser)
    text = parser.format_help()
    for name in ("--no-gzip", "--no-compression", "--compresslevel", "--flat", "--no-flat"):
        assert name in text
    for action in parser._actions:
        assert action.help


# ------------------------------------------------------------------------------------------------------------- options


def stored_names(url: str, given: dict[str, Any]) -> list[str]:
    """Store one chunk of zeros in memory; returns the names that came of it."""
    with get_accessor_for_url(url, given) as accessor:
        accessor.store_chunk(bytes(64**3), "key", COORDS)
        fs, root = accessor.pyramid.location.open(5.0)
        names = [path.removeprefix(f"{root}/") for path in fs.find(root)]
        fs.rm(root, recursive=True)
    return names


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ([], "key/0-64_0-64_0-64.gz"),
        (["--no-gzip"], "key/0-64_0-64_0-64"),
        (["--no-flat"], "key/0-64/0-64/0-64.gz"),
        (["--no-flat", "--no-gzip"], "key/0-64/0-64/0-64"),
    ],
    ids=str,
)
def test_options_of_the_command_line_take_effect(arguments: list[str], name: str) -> None:
    assert stored_names("memory://precomputed_fs-public", options(*arguments)) == [name]


def test_unknown_options_are_ignored_by_the_function() -> None:
    parsed = options("--no-gzip") | {"volume_filename": "brain.nii", "sharding": None, "verbose": True, "url": "x"}
    assert stored_names("memory://precomputed_fs-public", parsed) == ["key/0-64_0-64_0-64"]
    assert parsed["volume_filename"] == "brain.nii"


def test_options_that_are_none_are_those_by_default() -> None:
    given = dict.fromkeys(inspect.signature(FsspecAccessor).parameters.keys() - {"url"})
    assert stored_names("memory://precomputed_fs-public", given) == ["key/0-64_0-64_0-64.gz"]


def test_an_unknown_option_of_the_class_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="compresion"):
        FsspecAccessor("memory://brain", compresion=True)  # type: ignore[call-arg]


def test_options_of_the_class_are_not_positional() -> None:
    with pytest.raises(TypeError):
        FsspecAccessor("memory://brain", {})  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("compresslevel", -1),
        ("compresslevel", 10),
        ("compresslevel", 9.5),
        ("compresslevel", "9"),
        ("attempts", 0),
        ("attempts", -3),
        ("timeout", 0),
        ("timeout", -1.0),
        ("timeout", float("nan")),
    ],
)
def test_an_option_out_of_its_range_is_a_value_error(option: str, value: Any) -> None:
    given = {option: value}
    with pytest.raises(ValueError, match=option) as caught:
        FsspecAccessor("memory://brain", **given)
    assert repr(value) in str(caught.value)
    with pytest.raises(ValueError, match=option):
        get_accessor_for_url("memory://brain", given)


@pytest.mark.parametrize(
    ("option", "value"),
    [("compresslevel", 0), ("compresslevel", 9), ("compresslevel", np.int64(5)), ("attempts", 1), ("timeout", 0.01)],
)
def test_the_ends_of_the_ranges_are_inside(option: str, value: Any) -> None:
    assert stored_names("memory://precomputed_fs-public", {option: value}) == ["key/0-64_0-64_0-64.gz"]


@pytest.mark.parametrize(
    ("url", "said"), [(None, "NoneType"), (5, "int"), ([], "list"), (b"/lab/brain", r"os\.fsdecode")]
)
def test_an_url_of_another_type_is_a_type_error(url: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        FsspecAccessor(url)


@pytest.mark.parametrize(
    "take",
    [serve, doctor, lambda accessor: copy_pyramid(accessor, "memory://precomputed_fs-public/copy")],
    ids=["serve", "doctor", "copy_pyramid"],
)
def test_an_accessor_whose_info_redirects_is_not_followed(
    take: Callable[[FsspecAccessor], Any], tmp_path: Path
) -> None:
    create_volume(tmp_path / "there", np.zeros((4, 4, 4), np.uint8), resolution=(1, 1, 1))
    (tmp_path / "info").write_text(json.dumps({"redirect": str(tmp_path / "there")}))
    message = re.escape(f"{tmp_path}/info redirects: pass the URL instead of an accessor, to have it followed")
    with FsspecAccessor(tmp_path) as accessor, pytest.raises(URLError, match=message):
        take(accessor)


def test_a_upath_is_taken_everywhere_with_its_options(s3_server: servers.S3Server) -> None:
    s3_server.create_bucket("upath")
    there = UPath("s3://upath", **s3_server.storage_options)
    made = create_volume(there / "brain", np.full((8, 8, 8), 7, np.uint8), resolution=(1, 1, 1))
    assert made.url == "s3://upath/brain"
    assert open_volume(there / "brain")[0][0, 0, 0, 0] == 7
    assert get_accessor_for_url(there / "brain").file_exists("info")
    assert FsspecAccessor(there / "brain", storage_options={"anon": False}).file_exists("info")
    assert copy_pyramid(there / "brain", there / "copy")[0][0, 0, 0, 0] == 7
    assert doctor(there / "copy")["precomputed_fs"].ok
    with serve(there / "copy") as server:
        assert open_volume(server.url)[0][0, 0, 0, 0] == 7
    assert xarray.open_dataset(there / "copy", engine=PrecomputedBackend).voxels[0, 0, 0].values == [7]
    assert set(xarray.open_datatree(there / "copy", engine=PrecomputedBackend).children) == {"1_1_1"}
