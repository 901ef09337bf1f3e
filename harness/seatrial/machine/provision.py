"""How the run gets its key into a guest without touching the image: by credentials, a cloud-init seed, or Ignition."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

from seatrial.policy.differences import Difference, Kind, Touched
from seatrial.policy.flavours import Access, Route

__all__ = ["KEY_COMMENT", "RUN_SUDOERS", "EveryWay", "Provision", "every_way", "provision"]

# Suites know the run's own key by this comment, and its own sudo rule by its file.
KEY_COMMENT = "seatrial-run"
RUN_SUDOERS: Final = "/etc/sudoers.d/90-seatrial-run"
# A UID of people, far from those that an image gives out.
_UID: Final = 59_901
_IGNITION_KEYS: Final = ("opt/org.flatcar-linux/config", "opt/com.coreos/config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """What a machine gets to let the run in: SMBIOS type 11 strings, a seed disk, fw_cfg entries; and how that differs.

    ``fw_cfg`` holds names (at most 55 characters, QEMU's docs/specs/fw_cfg) with their contents.
    """

    user: str
    smbios: tuple[str, ...] = ()
    seed: bytes = b""
    fw_cfg: tuple[tuple[str, bytes], ...] = ()
    differences: tuple[Difference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EveryWay:
    """What a machine gets to let the run in by several routes at once, and the route of each user that may appear."""

    together: Provision
    routes: Mapping[str, Route]


def provision(access: Access, public_key: str, *, run_id: str, arch: str = "x86_64", ignition: str = "") -> Provision:
    """Return what gives ``public_key`` (an authorized_keys line) a shell by the flavour's route.

    :param ignition: the text of an Ignition config that the run's user is added to.
    """
    routes: Mapping[str, Callable[[], Provision]] = {
        # Firmware of other architectures need not pass SMBIOS type 11 on.
        "credentials": lambda: _credentials(access, public_key, by_smbios=arch == "x86_64"),
        "credentials-fw-cfg": lambda: _credentials(access, public_key, by_smbios=False),
        "cloud-init": lambda: _cloud_init(access, public_key, run_id),
        "ignition": lambda: _ignition(access, public_key, ignition),
        "existing": lambda: _existing(access),
    }
    return routes[access.route]()


def every_way(public_key: str, *, run_id: str, arch: str) -> EveryWay:
    """Return what gives ``public_key`` a shell in a guest that nobody knows, whichever route it understands."""
    routes: Mapping[str, Route] = {"root": "credentials", "seatrial": "cloud-init", "core": "ignition"}
    ways = [
        provision(Access(route=route, user=user), public_key, run_id=run_id, arch=arch)
        for user, route in routes.items()
    ]
    together = replace(
        ways[0],
        seed=b"".join(way.seed for way in ways),
        fw_cfg=tuple(entry for way in ways for entry in way.fw_cfg),
        differences=tuple(difference for way in ways for difference in way.differences),
    )
    return EveryWay(together=together, routes=routes)


def _existing(access: Access) -> Provision:
    text = f"nothing was brought in: user {access.user!r} and its key are the image's own"
    return Provision(user=access.user, differences=(Difference(kind=Kind.KEY, text=text),))


def _credentials(access: Access, public_key: str, *, by_smbios: bool) -> Provision:
    # systemd.system-credentials(7): from fw_cfg since systemd 251, from SMBIOS type 11 since 252.
    values = _root_credentials(public_key) if access.user == "root" else _user_credentials(access.user, public_key)
    way = "SMBIOS type 11" if by_smbios else "fw_cfg"
    lands = "one public key in /root/.ssh/authorized_keys"
    if access.user != "root":
        lands = f"user {access.user!r} with one public key and a sudo rule, if the image has no such user yet"
    encoded = {name: base64.b64encode(value).decode() for name, value in values.items()}
    return Provision(
        user=access.user,
        smbios=tuple(f"io.systemd.credential.binary:{n}={v}" for n, v in encoded.items()) if by_smbios else (),
        fw_cfg=() if by_smbios else tuple((f"opt/io.systemd.credentials/{n}", v) for n, v in values.items()),
        differences=(
            Difference(
                kind=Kind.CREDENTIAL,
                text=f"systemd credentials {', '.join(values)} by {way}: {lands}",
                touches=(Touched.RUN_USER,),
            ),
        ),
    )


def _root_credentials(public_key: str) -> dict[str, bytes]:
    # systemd's provision.conf for tmpfiles writes it when the file is absent.
    return {"ssh.authorized_keys.root": f"{public_key}\n".encode()}


def _user_credentials(user: str, public_key: str) -> dict[str, bytes]:
    home = f"/home/{user}"
    # sysusers.d(5) leaves a user alone who is there already, and tmpfiles.d(5) 'f' a file that is.
    users = f'u {user} {_UID} "Seatrial run" {home} /bin/sh\n'
    lines = (
        f"d {home} 0700 {user} {user}",
        f"d {home}/.ssh 0700 {user} {user}",
        f"f~ {home}/.ssh/authorized_keys 0600 {user} {user} - {_base64(public_key)}",
        f"f~ {RUN_SUDOERS} 0440 root root - {_base64(_sudo_rule(user))}",
    )
    return {"sysusers.extra": users.encode(), "tmpfiles.extra": ("\n".join(lines) + "\n").encode()}


def _base64(text: str) -> str:
    return base64.b64encode(f"{text}\n".encode()).decode()


def _sudo_rule(user: str) -> str:
    return f"{user} ALL=(ALL) NOPASSWD:ALL"


def _ignition(access: Access, public_key: str, given: str) -> Provision:
    config: dict[str, Any] = json.loads(given) if given else {"ignition": {"version": "3.3.0"}}
    own = _add_user(config, access.user, public_key)
    differences = [
        Difference(
            kind=Kind.IGNITION,
            text=f"Ignition config by fw_cfg: user {access.user!r} with one public key{own}",
            touches=(Touched.RUN_USER,),
        )
    ]
    if given:
        text = "Ignition config by fw_cfg: what the user gave by --ignition, which may change anything"
        everything = (Touched.ACCOUNTS, Touched.FILES, Touched.HOST_NAME)
        differences.append(Difference(kind=Kind.IGNITION, text=text, touches=everything))
    content = json.dumps(config).encode()
    return Provision(
        user=access.user,
        fw_cfg=tuple((name, content) for name in _IGNITION_KEYS),
        differences=tuple(differences),
    )


def _add_user(config: dict[str, Any], name: str, public_key: str) -> str:
    """Add our key to user ``name`` of ``config``; return in words what else was needed."""
    users = config.setdefault("passwd", {}).setdefault("users", [])
    user = next((one for one in users if isinstance(one, dict) and one.get("name") == name), None)
    if user is None:
        users.append(user := {"name": name})
    user["sshAuthorizedKeys"] = [*user.get("sshAuthorizedKeys", []), public_key]
    # 'core' has its sudo rule from the image on Flatcar and Fedora CoreOS alike.
    if name in ("root", "core"):
        return ""
    rule = {"path": RUN_SUDOERS, "mode": 0o440, "contents": {"source": f"data:,{quote(_sudo_rule(name))}%0A"}}
    config.setdefault("storage", {}).setdefault("files", []).append(rule)
    return " and a sudo rule"


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
