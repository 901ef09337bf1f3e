"""Files that changes of mutants use by their names: a key and a certificate authority that nobody holds."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Mapping

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from seatrial.clock import utc_now

__all__ = ["mutant_files"]


@functools.cache
def mutant_files() -> Mapping[str, str]:
    """Return the texts by file name: ``mutant.pub`` (an authorized_keys line) and ``mutant-ca.pem``."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return {"mutant.pub": f"{public.decode()} mutant", "mutant-ca.pem": _authority(key)}


def _authority(key: Ed25519PrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mutant")])
    now = utc_now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, None)
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
