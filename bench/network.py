"""A network of the benchmark's own: several peers listen on all addresses and cannot be told otherwise."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_INSIDE = "BENCH_NETWORK"
_RECEIVER, _SENDER = "10.77.9.1", "10.77.9.2"


@dataclass(frozen=True)
class Link:
    """How senders reach receivers: an address, and what a sender's command line is started with."""

    name: str
    address: str
    prefix: tuple[str, ...] = ()


LOOPBACK = Link("loopback", "127.0.0.1")


def enter(module: str, arguments: Sequence[str]) -> bool:
    """Start this module again in a network namespace; return whether we are in one, or cannot be."""
    if os.environ.get(_INSIDE):
        subprocess.run(("ip", "link", "set", "lo", "up"), check=True)
        return True
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return False
    command = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    if subprocess.run((*command, "ip", "link", "set", "lo", "up"), capture_output=True, check=False).returncode:
        return False
    os.environ[_INSIDE] = "1"
    os.execvp(command[0], [*command, sys.executable, "-m", module, *arguments])  # noqa: S606 - no shell is wanted


@contextmanager
def veth() -> Iterator[Link | None]:
    """Make a second namespace for senders, joined to this one by a veth pair; None where that cannot be."""
    holder = subprocess.Popen(("unshare", "--net", "sleep", "infinity"))
    try:
        yield _joined(holder)
    finally:
        holder.kill()
        holder.wait()


def _joined(holder: "subprocess.Popen[bytes]") -> Link | None:
    prefix = ("nsenter", f"--net=/proc/{holder.pid}/ns/net")
    ours = Path("/proc/self/ns/net").readlink()
    try:
        while Path(f"/proc/{holder.pid}/ns/net").readlink() == ours:
            if holder.poll() is not None:
                return None
        for command in (
            f"ip link add name receive0 type veth peer name send0 netns {holder.pid}",
            f"ip address add {_RECEIVER}/30 dev receive0",
            "ip link set receive0 up",
        ):
            subprocess.run(command.split(), check=True, capture_output=True)
        for command in (f"ip address add {_SENDER}/30 dev send0", "ip link set send0 up"):
            subprocess.run((*prefix, *command.split()), check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return Link("veth", _RECEIVER, prefix)


def listening(port: int) -> bool:
    """Tell whether something in this namespace listens on a TCP port; nobody is called to find out."""
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[1].endswith(wanted):
                return True
    return False
