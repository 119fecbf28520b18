"""How stores explain a failure: the code and message in the body of an error, and what the codes mean.

Sources: "Error responses" in the Amazon S3 API reference; "HTTP status and error codes" of Google Cloud Storage, for
JSON and for XML; "Status and error codes" of Azure Storage.
"""

import contextlib
import html
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

MOST_BYTES = 1 << 16
"""At most so many bytes of an error's body are read."""

WRONG_CREDENTIALS = (
    frozenset({"ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired"})
    | {"AuthenticationFailed", "InvalidAuthenticationInfo", "authError"}  # Azure, GCS
)
"""The store does not accept the credentials; anonymous requests may still succeed."""

DENIED = frozenset({"AccessDenied", "MissingSecurityHeader", "PublicAccessNotPermitted", "RequestTimeTooSkewed"})
"""The store refuses the request, under whatever status."""

BUSY = frozenset({"RequestTimeout", "ThrottlingException", "rateLimitExceeded", "userRateLimitExceeded"})
"""The failure is transient, although its status suggests otherwise."""

NO_BUCKET = frozenset({"ContainerNotFound", "NoSuchBucket"})

_MAY_BE_ABSENT = frozenset({"", "AccessDenied", "forbidden"})
_DENIED_OTHERWISE = re.compile(r"expired|kms:|s3:GetObject\b", re.IGNORECASE)
_TOLD_BY_MESSAGE = {"The specified bucket does not exist": "NoSuchBucket", "Invalid Credentials": "authError"}
_LONGEST_LINE = 500  # characters


class Explanation(NamedTuple):
    """A store's explanation of a failure; both parts are empty if it gives none."""

    code: str = ""
    """The store's name for the failure, such as ``NoSuchKey``."""

    message: str = ""

    def __str__(self) -> str:
        return ": ".join(filter(None, self))

    @classmethod
    def of(cls, code: object, message: object) -> "Explanation":
        """Keep the first lines; drop a code that merely repeats the status."""
        code, message = (_first_line(str(said or "")) for said in (code, message))
        told = (known for text, known in _TOLD_BY_MESSAGE.items() if message.startswith(text))
        code = next(told, "" if code.isdecimal() else code)
        return cls(code, message)

    @property
    def may_mean_absent(self) -> bool:
        """Whether a 403 with this explanation may mean that the object does not exist."""
        return self.code in _MAY_BE_ABSENT and not _DENIED_OTHERWISE.search(self.message)


NO_EXPLANATION = Explanation()


def explanation_in(headers: Mapping[str, str], body: bytes) -> Explanation:
    """Read the body of an error, as S3, GCS or Azure writes it.

    The rest of the body is not used, because it may be secret: who asked, what was signed.

    Parameters
    ----------
    headers : mapping
        Header values by their names in lower case.
    body : bytes
        The decoded body.
    """
    text = body.decode("utf-8-sig", errors="replace").strip()
    found = _in_json(text) if text.startswith("{") else _in_xml(text)
    if not any(found) and "<" not in text and headers.get("content-type", "").startswith("text/"):
        found = Explanation.of("", text)
    return found if found.code else found._replace(code=headers.get("x-ms-error-code", ""))


def _first_line(text: str) -> str:
    line = text.strip().partition("\n")[0][:_LONGEST_LINE]
    return "".join(filter(str.isprintable, line)).strip()


def _in_xml(text: str) -> Explanation:
    code, message = (re.search(rf"<{name}>([^<]*)</{name}>", text) for name in ("Code", "Message"))
    return Explanation.of(*(html.unescape(match[1]) if match else "" for match in (code, message)))


def _in_json(text: str) -> Explanation:
    error: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        error = json.loads(text).get("error")
    if not isinstance(error, Mapping):
        return Explanation.of("", error)
    code = error.get("code")
    with contextlib.suppress(LookupError, TypeError):
        code = error["errors"][0]["reason"]  # GCS, whose code is the status
    return Explanation.of(code, error.get("message"))
