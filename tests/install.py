"""Install the package and one of its extras into the environment of the Python that runs this.

``python -m tests.install EXTRA`` runs in the repository's folder and needs nothing but pip: it comes before everything
else. uv installs in seconds what takes pip minutes; where uv cannot be had or fails, pip installs.
"""

import ast
import os
import subprocess
import sys
from importlib import metadata

PIP = (sys.executable, "-m", "pip")
SECTIONS = ("global", "install", ":env:")  # of pip's settings: a later one wins

# uv does not read pip's settings: pip's name, uv's variable, what separates several values there.
FOR_UV = (
    ("index-url", "UV_DEFAULT_INDEX", " "),
    ("extra-index-url", "UV_INDEX", " "),
    ("find-links", "UV_FIND_LINKS", ","),
    ("constraint", "UV_CONSTRAINT", " "),
    ("trusted-host", "UV_INSECURE_HOST", " "),
    ("proxy", "ALL_PROXY", " "),
    ("cert", "SSL_CERT_FILE", " "),
    ("client-cert", "SSL_CLIENT_CERT", " "),
)


def main(extra: str) -> int:
    """Install the package with `extra`; return the exit code."""
    if _with_uv(extra):
        return 0
    print("uv cannot install here; pip does, which takes minutes ...", file=sys.stderr)
    return 0 if _with_pip(extra) else 1


def _with_uv(extra: str) -> bool:
    return _run(*PIP, "install", "-qq", "--only-binary", "uv", "uv") and _run(
        *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", sys.executable),
        *("--editable", f".[{extra}]"),
        environment=_settings_for_uv() | os.environ,
    )


def _settings_for_uv() -> dict[str, str]:
    """Return environment variables that have uv use the index, the proxy and the certificates that pip uses."""
    listed = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, check=False)
    sections: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        section, _, option = name.rpartition(".")
        if section in sections:
            sections[section][option] = ast.literal_eval(value)
    of_pip = {option: value for section in SECTIONS for option, value in sections[section].items() if value}
    given = {name: separator.join(of_pip[option].split()) for option, name, separator in FOR_UV if option in of_pip}
    # As pip does: the newest version in all indexes; by default uv looks no further than the first that has any.
    return {"UV_SYSTEM_CERTS": "1", "UV_INDEX_STRATEGY": "unsafe-best-match", **given}


def _with_pip(extra: str) -> bool:
    # In one step pip tries one version of boto3 after the other until it finds one for the botocore that s3fs allows.
    # boto3 and botocore are released together, under the same number.
    install = (*PIP, "install", "-qq", "--no-compile", "--editable")
    if not _run(*install, "."):
        return False
    return _run(*install, f".[{extra}]", f"boto3<={metadata.version('botocore')}")


def _run(*command: str, environment: dict[str, str] | None = None) -> bool:
    return subprocess.run(command, env=environment, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
