"""How a run differs from the image as it ships, and which controls such a difference would make meaningless."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Difference", "Kind", "Touched", "falsifying"]


class Kind(StrEnum):
    """By what means a run differs."""

    COMMAND_LINE = "command-line"
    CREDENTIAL = "credential"
    SEED = "seed"
    IGNITION = "ignition"
    KEY = "key"
    DEVICE = "device"
    CPU = "cpu"
    NETWORK = "network"
    ACCELERATOR = "accelerator"
    FIRMWARE = "firmware"
    RESTORED = "restored"


class Touched(StrEnum):
    """What of the guest is no longer the image's own.

    ``run-user`` is the account, key and sudo rule by which the run gets in: checks know them, and leave out just
    these. ``accounts`` are others.
    """

    RUN_USER = "run-user"
    ACCOUNTS = "accounts"
    FILES = "files"
    HOST_NAME = "host-name"
    MACHINE_ID = "machine-id"
    HOST_KEYS = "host-keys"
    RANDOM_SEED = "random-seed"
    FIRST_BOOT = "first-boot"
    BOOT_TIMES = "boot-times"
    CLOCK = "clock"
    TPM = "tpm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One way in which the run differs from how the image ships, in words, and what it touches in the guest."""

    kind: Kind
    text: str
    touches: tuple[Touched, ...] = ()


def falsifying(falsified_by: Iterable[str], differences: Iterable[Difference]) -> Difference | None:
    """Return the first of ``differences`` whose kind, or anything that it touches, is named in ``falsified_by``."""
    named = set(falsified_by)
    return next((d for d in differences if named & {d.kind.value, *(touched.value for touched in d.touches)}), None)
