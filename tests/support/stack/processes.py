"""Processes by what they are to one another."""

from pathlib import Path

_MOST_NAME_BYTES = 15


def children_of(parent: int) -> list[int]:
    """Return the process ids of a process's children."""
    pids = [int(folder.name) for folder in Path("/proc").glob("[0-9]*")]
    return [pid for pid in pids if looked_up(pid, "stat").rpartition(b")")[2].split()[1:2] == [str(parent).encode()]]


def serving(function: str, provider: int) -> list[int]:
    """Return the processes below a provider that serve a function: `bucky.serve` names them so."""
    pids = [pid for child in children_of(provider) for pid in (child, *children_of(child))]
    return [pid for pid in pids if looked_up(pid, "comm").strip() == function.encode()[:_MOST_NAME_BYTES]]


def alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and was not asked about yet does not."""
    return looked_up(pid, "stat").rpartition(b")")[2].split()[:1] not in ([], [b"Z"])


def looked_up(pid: int, name: str) -> bytes:
    """Return a file of a process, or nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""
