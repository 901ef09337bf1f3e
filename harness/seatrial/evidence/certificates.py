"""The certificate authorities that a guest trusts, from a bundle in PEM form."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509

from seatrial.errors import ObservationError

__all__ = ["Authority", "parse_bundle"]

_PEM: Final = re.compile(r"-----BEGIN (?:TRUSTED )?CERTIFICATE-----[^-]+-----END (?:TRUSTED )?CERTIFICATE-----")
_BEGIN: Final = re.compile(r"-----BEGIN [A-Z ]*CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class Authority:
    """One certificate: whose, and until when it is valid."""

    name: str
    ends: datetime


def parse_bundle(text: str) -> tuple[Authority, ...]:
    """Return the certificates in ``text``; what lies between them is for people.

    :raises ObservationError: one cannot be read, or there is none.
    """
    blocks = _PEM.findall(text)
    if not blocks or len(blocks) != len(_BEGIN.findall(text)):
        raise ObservationError(f"{len(blocks)} of {len(_BEGIN.findall(text))} certificates of a bundle can be read")
    return tuple(_authority(block) for block in blocks)


def _authority(block: str) -> Authority:
    try:
        with warnings.catch_warnings():
            # Old roots break newer rules; that is no reason not to look at them.
            warnings.simplefilter("ignore")
            found = x509.load_pem_x509_certificate(block.encode())
            return Authority(found.subject.rfc4514_string(), found.not_valid_after_utc)
    except (ValueError, TypeError, OverflowError) as exc:
        raise ObservationError(f"a certificate of a bundle cannot be read: {exc}") from exc
