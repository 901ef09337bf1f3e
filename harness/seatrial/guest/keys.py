"""The key that a run logs in with: made fresh and held in memory, or one that the image already lets in."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from seatrial.errors import ConfigError

__all__ = ["LoginKey", "RunKey", "load_key"]

_MOST_BYTES: Final = 65_536
_Private = Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey


class LoginKey:
    """A private key (``pem``: OpenSSH's form, without a password) and its line for ``authorized_keys``."""

    def __init__(self, private: _Private, comment: str) -> None:
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        self.pem = private.private_bytes(*form).decode()
        public = private.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        self.public_line = f"{public.decode()} {comment}"


class RunKey(LoginKey):
    """The run's own ed25519 key: made fresh, held in memory, never written to a file.

    With ``secret`` (32 bytes) it is derived from that: a guest that must boot the same twice must get the same key.
    """

    def __init__(self, comment: str, *, secret: bytes | None = None) -> None:
        private = Ed25519PrivateKey.from_private_bytes(secret) if secret else Ed25519PrivateKey.generate()
        super().__init__(private, comment)


def load_key(path: Path) -> LoginKey:
    """Return the private key in ``path``: Ed25519, ECDSA or RSA, in OpenSSH's, PKCS#8 or the older PEM form.

    :raises ConfigError: there is none that can be used without asking for a password.
    """
    text = _content(path)
    if text.split(b" ", 1)[0] in (b"ssh-ed25519", b"ssh-rsa") or text.startswith((b"ecdsa-sha2-", b"sk-")):
        raise ConfigError(
            f"--ssh-key {str(path)!r} is a public key; the private one is needed to log in",
            hint=f"mostly it is the file beside it: {path.with_suffix('')}",
        )
    load = (
        serialization.load_ssh_private_key
        if b"BEGIN OPENSSH PRIVATE KEY" in text
        else serialization.load_pem_private_key
    )
    try:
        private = load(text, password=None)
    except TypeError as exc:  # what the library raises for a key with a password, when none is given
        raise ConfigError(
            f"--ssh-key {str(path)!r} is protected by a password, and nobody is asked during a run",
            hint=f"use a copy without one: cp {path} run.key; ssh-keygen -p -N '' -f run.key",
        ) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError(
            f"--ssh-key {str(path)!r} is no private key that can be read: {str(exc)[:200] or type(exc).__name__}",
            hint="give an OpenSSH or PEM private key file; for PuTTY's .ppk: puttygen KEY -O private-openssh",
        ) from exc
    if not isinstance(private, Ed25519PrivateKey | EllipticCurvePrivateKey | RSAPrivateKey):
        raise ConfigError(
            f"--ssh-key {str(path)!r} holds a key of type {type(private).__name__.lstrip('_')}",
            hint="Ed25519, ECDSA and RSA keys can log in: ssh-keygen -t ed25519 makes one",
        )
    return LoginKey(private, path.name)


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"--ssh-key {str(path)!r} cannot be read: {exc.strerror}", hint="name a file") from exc
    if len(text) > _MOST_BYTES:
        raise ConfigError(f"--ssh-key {str(path)!r} is larger than {_MOST_BYTES} bytes: that is no key")
    return text.lstrip()
