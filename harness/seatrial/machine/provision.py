"""How the run gets its key into a guest without touching the image: a systemd credential, or a cloud-init seed."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass

from seatrial.policy.differences import Difference, Kind, Touched
from seatrial.policy.flavours import Access

__all__ = ["KEY_COMMENT", "Provision", "provision"]

# Suites know the run's own key by this comment.
KEY_COMMENT = "seatrial-run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """What a machine gets to let the run in: SMBIOS type 11 strings, a seed disk, and how both differ."""

    user: str
    smbios: tuple[str, ...] = ()
    seed: bytes = b""
    differences: tuple[Difference, ...]


def provision(access: Access, public_key: str, *, run_id: str) -> Provision:
    """Return what gives ``public_key`` (an authorized_keys line) a shell by the flavour's route."""
    if access.route == "credentials":
        return _credentials(access, public_key)
    return _cloud_init(access, public_key, run_id)


def _credentials(access: Access, public_key: str) -> Provision:
    # systemd.system-credentials(7): from SMBIOS since systemd 252; tmpfiles writes it when the file is absent.
    name = "ssh.authorized_keys.root"
    value = base64.b64encode(f"{public_key}\n".encode()).decode()
    return Provision(
        user=access.user,
        smbios=(f"io.systemd.credential.binary:{name}={value}",),
        differences=(
            Difference(
                kind=Kind.CREDENTIAL,
                text=f"systemd credential {name!r} by SMBIOS type 11: one public key in /root/.ssh/authorized_keys",
                touches=(Touched.RUN_USER,),
            ),
        ),
    )


def _cloud_init(access: Access, public_key: str, run_id: str) -> Provision:
    user_data = {
        "users": [
            {
                "name": access.user,
                "lock_passwd": True,
                "shell": "/bin/bash",
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": [public_key],
            }
        ],
        # The host name stays the image's own: a control asks for it.
        "preserve_hostname": True,
        "ssh_pwauth": False,
    }
    files = {
        # JSON is YAML; cloud-init wants the first line to name the format.
        "user-data": "#cloud-config\n" + json.dumps(user_data, indent=1) + "\n",
        "meta-data": json.dumps({"instance-id": run_id}) + "\n",
    }
    return Provision(
        user=access.user,
        seed=_seed_disk(files),
        differences=(
            Difference(
                kind=Kind.SEED,
                text=f"cloud-init NoCloud seed (disk CIDATA): user {access.user!r} with one public key and sudo",
                touches=(Touched.RUN_USER,),
            ),
        ),
    )


def _seed_disk(files: dict[str, str]) -> bytes:
    import pycdlib  # noqa: PLC0415 -- heavy, and only this route needs it

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="CIDATA")
    for number, (name, text) in enumerate(files.items()):
        content = text.encode()
        iso.add_fp(io.BytesIO(content), len(content), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}")
    written = io.BytesIO()
    iso.write_fp(written)
    iso.close()
    return written.getvalue()
