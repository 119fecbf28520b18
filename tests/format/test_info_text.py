"""Which text is taken for an `info`."""

from __future__ import annotations

import pytest

from precomputed_fs.errors import InvalidInfoError
from precomputed_fs.format.info import Info
from precomputed_fs.format.info_text import MAX_INFO_BYTES, parse_info


def test_an_object_is_parsed() -> None:
    assert parse_info(b'{"scales": [], "mine": 1}') == {"scales": [], "mine": 1}


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"nul", b"[" * 100_000])
def test_what_is_not_json_is_an_error(text: bytes) -> None:
    with pytest.raises(InvalidInfoError, match=r"^info: expected JSON"):
        parse_info(text)


@pytest.mark.parametrize("text", [b"[]", b"null", b"3", b'"info"'])
def test_what_is_not_an_object_is_an_error(text: bytes) -> None:
    with pytest.raises(InvalidInfoError, match=r"^info: expected a JSON object, got "):
        parse_info(text)


HTML = {
    "a page": b"<!DOCTYPE html>\n<html><body>Sign in</body></html>",
    "of capitals": b"<HTML><HEAD><TITLE>Login</TITLE></HEAD></HTML>",
    "behind a mark and blank lines": b'\xef\xbb\xbf\r\n\n<html lang="en">',
    "XHTML": b'<?xml version="1.0"?>\n<!-- console -->\n<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN">',
    "behind a comment": b"<!-- a > b --><html>",
    "without its outer element": b"<head><title>Blocked</title></head>",
    "a script": b"<script>location = 'https://login'</script>",
    "larger than any info": b"<!doctype html>" + b" " * MAX_INFO_BYTES,
    "not UTF-8": "<!doctype html><title>Anmeldung für".encode("latin-1"),
}


@pytest.mark.parametrize("text", HTML.values(), ids=HTML)
def test_html_is_told_from_other_things_that_are_not_json(text: bytes) -> None:
    for parse in (parse_info, Info.parse):
        with pytest.raises(InvalidInfoError, match=r"^info: expected JSON, got HTML.*login page"):
            parse(text)


@pytest.mark.parametrize("text", [b"<Error><Code>NoSuchKey</Code></Error>", b"<html5>", b'{"<html>": ', b"see <html>"])
def test_what_is_not_html_is_not_called_so(text: bytes) -> None:
    with pytest.raises(InvalidInfoError, match=r"^info: expected JSON: "):
        parse_info(text)


def test_what_is_no_member_of_a_scale_is_not_looked_at_while_parsing() -> None:
    assert parse_info(b'\xef\xbb\xbf{"scales": 7, "scales": "seven"}') == {"scales": "seven"}


def test_an_info_of_another_place_is_called_so() -> None:
    with pytest.raises(InvalidInfoError, match=r"^s3://b/info: expected JSON"):
        parse_info(b"", "s3://b/info")


def test_an_info_is_parsed_up_to_a_length() -> None:
    text = b'{"x": "' + b"x" * (MAX_INFO_BYTES - 9) + b'"}'
    assert len(parse_info(text)["x"]) == MAX_INFO_BYTES - 9
    with pytest.raises(InvalidInfoError, match=rf"^info: expected at most {MAX_INFO_BYTES} bytes, got {len(text) + 1}"):
        parse_info(text + b" ")
