"""A certificate for servers on this machine, signed by itself, and the variables by which clients trust it."""

import atexit
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509  # moto needs it, too
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

BUNDLE_VARIABLES = (
    "SSL_CERT_FILE",  # OpenSSL, so Python and aiohttp, too
    "REQUESTS_CA_BUNDLE",  # requests: cloud-volume and neuroglancer-scripts
    "AWS_CA_BUNDLE",  # botocore: s3fs and cloud-volume
    "TENSORSTORE_CA_BUNDLE",
)


@dataclass(frozen=True)
class Certificate:
    """Two PEM files."""

    chain: Path
    key: Path

    @property
    def variables(self) -> dict[str, str]:
        """Environment variables for clients: each takes a bundle of trusted certificates."""
        return dict.fromkeys(BUNDLE_VARIABLES, str(self.chain))


@cache
def certificate() -> Certificate:
    """Return this process's certificate, of 127.0.0.1 and localhost; it is made the first time, and gone at exit."""
    folder = Path(tempfile.mkdtemp(prefix="precomputed_fs-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    key = ec.generate_private_key(ec.SECP256R1())
    made.chain.write_bytes(_signed(key).public_bytes(Encoding.PEM))
    made.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return made


def _signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Sign what also strict clients take for a root: Python since 3.13 asks for all of these extensions."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    uses = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    now, key_id = datetime.now(UTC), x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=True, encipher_only=False, decipher_only=False, **uses),
            critical=True,
        )
        .add_extension(key_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
        .sign(key, hashes.SHA256())
    )
