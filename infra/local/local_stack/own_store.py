"""The object store that `bucky up` brings along (docs/adr/0027).

Versity's gateway where it was built, for it takes a quarter of the processor time; SeaweedFS where it was not. A
home stays with the one it began with: that one holds its objects.
"""

import errno
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from local_stack.layout import CannotStart, Home, Ports
from local_stack.process import Program
from local_stack.servers import built, seaweedfs, versitygw

GATEWAY = "versitygw"


@dataclass(frozen=True)
class OwnStore:
    """The program, and the `BUCKY_*` settings that are known of it."""

    program: Program
    environment: dict[str, str]


def own_store(home: Home, ports: Ports) -> OwnStore:
    """Choose the object store of a home; raise `CannotStart` when that one cannot serve it."""
    keys = home.secret("store_access_key"), home.secret("store_secret_key")
    executable = _gateway(home)
    if executable is None:
        if "," in str(home.volumes):
            raise CannotStart(f"{home.path} has a comma in it, at which SeaweedFS would cut it: choose another --home")
        program = seaweedfs(home.volumes, ports.s3, ports.s3_console, ports.seaweedfs, *keys)
        return OwnStore(program, _synced(home.volumes))
    # The console is a page whose scripts ask the API; a browser reaches both through Traefik.
    browsers = (
        f"--webui-gateways=https://localhost:{ports.s3_https}",
        f"--cors-allow-origin=https://localhost:{ports.console_https}",
    )
    program = versitygw(executable, home.buckets, ports.s3, ports.s3_console, *keys, *browsers)
    return OwnStore(program, {**_synced(home.buckets), "BUCKY_STORE_FILES_DIR": str(home.buckets)})


def _synced(folder: Path) -> dict[str, str]:
    # It is on this machine and does not sync by itself; a real sync is the barrier.
    return {"BUCKY_STORE_BARRIER": "syncfs", "BUCKY_STORE_BARRIER_PATH": str(folder)}


def _gateway(home: Home) -> str | None:
    executable = built(GATEWAY)
    if home.buckets.exists():
        if executable is None:
            raise CannotStart(
                f"{GATEWAY}, which keeps the objects in {home.buckets}, is not installed here. They are untouched: "
                f"run `tools/build {GATEWAY}` (it needs Go) and start again"
            )
        return executable
    if executable is None or home.volumes.exists() or not _has_attributes(home.path):
        return None
    return executable


def _has_attributes(folder: Path) -> bool:
    """Say whether files in the folder can have extended attributes, in which the gateway keeps what it knows."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        try:
            os.setxattr(file.fileno(), "user.bucky", b"1")
        except OSError as error:
            if error.errno in (errno.ENOTSUP, errno.EPERM):
                return False
            raise
    return True
