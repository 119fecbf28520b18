"""What the bodies of errors say: those of S3, GCS and Azure as they come, and what is none of these."""

from __future__ import annotations

import json
from typing import Any

import pytest

from precomputed_fs.store.explanations import Explanation, explanation_in

S3 = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>SignatureDoesNotMatch</Code><Message>The request signature we calculated does not match the signature.\
</Message><AWSAccessKeyId>AKIAIOSFODNN7EXAMPLE</AWSAccessKeyId>\
<StringToSign>AWS4-HMAC-SHA256 20260101T000000Z</StringToSign><RequestId>4442587FB7D0A2F9</RequestId></Error>"""
GCS_XML = """<?xml version='1.0' encoding='UTF-8'?><Error><Code>AccessDenied</Code><Message>Access denied.</Message>\
<Details>Anonymous caller does not have storage.objects.get access.</Details></Error>"""
AZURE = """\ufeff<?xml version="1.0" encoding="utf-8"?><Error><Code>AuthenticationFailed</Code>\
<Message>Server failed to authenticate the request.
RequestId:8ad4eb30-0001-0045-5c3d-1b2c3d000000
Time:2026-01-01T00:00:00.0000000Z</Message><AuthenticationErrorDetail>The MAC signature found in the HTTP request \
'c2lnbmF0dXJl' is not the same as any computed signature.</AuthenticationErrorDetail></Error>"""


def gcs_json(status: int, reason: str, message: str) -> str:
    detail = {"message": message, "domain": "global", "reason": reason}
    return json.dumps({"error": {"code": status, "message": message, "errors": [detail]}})


TOLD = {
    "s3": (S3, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature."),
    "s3, escaped": ("<Error><Code>A</Code><Message>a &lt; &quot;b&quot;</Message></Error>", "A", 'a < "b"'),
    "s3, no message": ("<Error><Code>SlowDown</Code></Error>", "SlowDown", ""),
    "s3, no bucket": (
        "<Error><Code>NoSuchBucket</Code><Message>The specified bucket does not exist</Message></Error>",
        "NoSuchBucket",
        "The specified bucket does not exist",
    ),
    "gcs, xml": (GCS_XML, "AccessDenied", "Access denied."),
    "gcs": (gcs_json(403, "forbidden", "a@b.iam does not have access."), "forbidden", "a@b.iam does not have access."),
    "gcs, no bucket": (
        gcs_json(404, "notFound", "The specified bucket does not exist."),
        "NoSuchBucket",
        "The specified bucket does not exist.",
    ),
    "gcs, media": ("Invalid Credentials", "authError", "Invalid Credentials"),
    "azure": (AZURE, "AuthenticationFailed", "Server failed to authenticate the request."),
    "azure, json": ('{"error": {"code": "AuthorizationFailure", "message": "no."}}', "AuthorizationFailure", "no."),
    "oauth": ('{"error": "invalid_grant"}', "", "invalid_grant"),
    "a status for a code": ('{"error": {"code": 500, "message": "no."}}', "", "no."),
    "html": ("<html><head><title>403 Forbidden</title></head></html>", "", ""),
    "other json": ('{"detail": [1, 2]}', "", '{"detail": [1, 2]}'),
    "an error of another kind": ('{"error": {"errors": [], "message": ["a"]}}', "", "['a']"),
    "no json": ("{nothing", "", "{nothing"),
    "deep json": ("{" + '"error":{' * 9000, "", ("{" + '"error":{' * 9000)[:500]),
    "control characters": ("a\x1b[31mb\x00\nc", "", "a[31mb"),
    "nothing": ("", "", ""),
}


@pytest.mark.parametrize("kind", TOLD)
def test_what_is_told(kind: str) -> None:
    body, code, message = TOLD[kind]
    found = explanation_in({"content-type": "text/html; charset=UTF-8"}, body.encode())
    assert found == Explanation(code, message)


def test_what_is_no_text_is_not_told() -> None:
    assert explanation_in({"content-type": "application/octet-stream"}, b"anything") == Explanation("", "")
    assert explanation_in({}, bytes(range(256))) == Explanation("", "")


def test_a_long_line_is_cut() -> None:
    assert explanation_in({"content-type": "text/plain"}, b"x" * 60_000).message == "x" * 500


def test_azure_says_its_code_in_a_header_where_there_is_no_body() -> None:
    assert explanation_in({"x-ms-error-code": "ContainerNotFound"}, b"") == Explanation("ContainerNotFound", "")


MAY_MEAN_ABSENT: dict[str, tuple[Any, bool]] = {
    "s3": (("AccessDenied", "Access Denied"), True),
    "s3, to a user who may not list": (
        ("AccessDenied", 'User: u is not authorized to perform: s3:ListBucket on resource: "arn:aws:s3:::b"'),
        True,
    ),
    "gcs": (("forbidden", "denied on resource (or it may not exist)."), True),
    "a plain server": (("", ""), True),
    "s3, to a user who may not read it": (
        ("AccessDenied", 'User: u is not authorized to perform: s3:GetObject on resource: "arn:aws:s3:::b/k"'),
        False,
    ),
    "s3, encrypted": (("AccessDenied", "User: u is not authorized to perform: kms:Decrypt"), False),
    "s3, a signed URL that has expired": (("AccessDenied", "Request has expired"), False),
    "s3, in the archive": (("InvalidObjectState", "The operation is not valid for the storage class"), False),
    "s3, wrong key": (("InvalidAccessKeyId", ""), False),
    "s3, wrong secret": (("SignatureDoesNotMatch", ""), False),
    "s3, wrong clock": (("RequestTimeTooSkewed", ""), False),
    "azure": (("AuthorizationPermissionMismatch", ""), False),
    "gcs, too much": (("rateLimitExceeded", ""), False),
}


@pytest.mark.parametrize("kind", MAY_MEAN_ABSENT)
def test_what_may_mean_absent(kind: str) -> None:
    said, expected = MAY_MEAN_ABSENT[kind]
    assert Explanation(*said).may_mean_absent is expected
