"""The keywords of the public functions: all of them can be seen, and a misspelt one names the nearest."""

from __future__ import annotations

import inspect
import typing
from typing import TYPE_CHECKING, Any, cast

import pytest
from IPython.core.completer import IPCompleter, provisionalcompleter

import precomputed_fs
from precomputed_fs import FsspecAccessor, copy_pyramid, create_volume, doctor, open_volume, serve
from precomputed_fs.accessor import OPTION_DEFAULTS
from precomputed_fs.codecs import ENCODINGS
from precomputed_fs.keywords import AccessorOptions, EncodingParameters

if TYPE_CHECKING:
    from collections.abc import Callable

PASSING_ON: tuple[Callable[..., Any], ...] = (open_volume, create_volume, copy_pyramid, serve, doctor)
each_function = pytest.mark.parametrize("function", PASSING_ON, ids=lambda function: function.__name__)


def test_the_options_are_those_of_the_accessor() -> None:
    of_class = inspect.signature(FsspecAccessor).parameters
    told = typing.get_type_hints(AccessorOptions)
    assert {name: of_class[name].annotation for name in of_class if name != "url"} == told


def test_the_parameters_are_those_of_the_encodings() -> None:
    known = [parameter.key for row in ENCODINGS.values() for parameter in row.parameters]
    assert [*EncodingParameters.__annotations__] == known


@each_function
def test_all_keywords_are_in_the_signature(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters
    assert {*OPTION_DEFAULTS} <= {*parameters}
    assert not any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    assert {parameters[name].kind for name in OPTION_DEFAULTS} == {inspect.Parameter.KEYWORD_ONLY}
    own = {"gzip", "denied_is_missing"}
    if function is doctor:
        own |= {"timeout", "attempts"}
    for name in OPTION_DEFAULTS.keys() - own:
        assert parameters[name].default == OPTION_DEFAULTS[name]
    assert ("jpeg_quality" in parameters) == (function in (create_volume, copy_pyramid))


@each_function
@pytest.mark.parametrize("by_jedi", [True, False])
def test_a_notebook_completes_each_keyword(function: Callable[..., Any], by_jedi: bool) -> None:
    completer: Any = cast("Any", IPCompleter)(namespace={"precomputed_fs": precomputed_fs}, use_jedi=by_jedi)
    line = f"precomputed_fs.{function.__name__}('x', max_f"
    with provisionalcompleter():
        found = {each.text for each in completer.completions(line, len(line))}
    assert "max_file_bytes=" in found


@each_function
def test_a_misspelt_keyword_names_the_nearest(function: Any) -> None:
    with pytest.raises(TypeError, match=rf"{function.__name__}\(\) has no keyword 'storage_option'; .*storage_options"):
        function("memory://a", "memory://b", storage_option={})


def test_an_option_of_the_filesystem_is_told_its_place() -> None:
    message = r"open_volume\(\) has no keyword 'key': options of the filesystem go into storage_options=\{'key': ...\}"
    with pytest.raises(TypeError, match=message):
        open_volume("s3://bucket/brain", key="x")  # type: ignore[call-arg]


def test_where_none_is_near_all_are_listed() -> None:
    with pytest.raises(TypeError, match=r"has no keyword 'xyz'; its keywords are url, missing, .*, storage_options, "):
        open_volume("brain", xyz=1)  # type: ignore[call-arg]
