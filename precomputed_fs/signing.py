"""How a request to S3 says who sends it: AWS's signature version 4, in headers.

The SDK takes 300 microseconds to say the same, most of them to find out anew where a bucket is. Source: "Signature
Version 4 signing process" in the AWS General Reference; for requests without a query and without a body.
"""

import functools
import hashlib
import hmac
import time
from dataclasses import dataclass, field

_ALGORITHM = "AWS4-HMAC-SHA256"
_NO_BODY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs requests with one set of credentials."""

    access_key: str
    region: str
    service: str
    secret_key: str = field(repr=False)
    token: str = field(default="", repr=False)
    """Of temporary credentials."""

    def headers(self, method: str, host: str, path: str, *, now: float | None = None) -> dict[str, str]:
        """Return the headers to send with a request, besides Host.

        Parameters
        ----------
        method : str
        host : str
            As the Host header has it.
        path : str
            Quoted, as it is sent.
        now : float, optional
            Seconds since the epoch; by default the time it is.
        """
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        signed = {"host": host, "x-amz-content-sha256": _NO_BODY, "x-amz-date": moment}
        if self.token:
            signed["x-amz-security-token"] = self.token
        names = ";".join(signed)  # in alphabetical order, as they are to be
        lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
        request = f"{method}\n{path}\n\n{lines}\n{names}\n{_NO_BODY}"
        day = moment[:8]
        scope = f"{day}/{self.region}/{self.service}/aws4_request"
        text = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        key = _signing_key(self.secret_key, day, self.region, self.service)
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        del signed["host"]
        credential = f"Credential={self.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        return signed | {"authorization": f"{_ALGORITHM} {credential}"}


@functools.lru_cache(maxsize=8)
def _signing_key(secret_key: str, *scope: str) -> bytes:
    key = f"AWS4{secret_key}".encode()
    for part in (*scope, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
